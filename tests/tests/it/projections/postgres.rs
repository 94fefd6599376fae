//! The suite on PostgreSQL. Needs a server: `SAWLOG_TEST_POSTGRES` says how it is reached, such as
//! `host=127.0.0.1 port=5432 user=postgres dbname=postgres`. Each test works in a schema of its own.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sawlog_client::projection::postgres::tokio_postgres::{Client, NoTls};
use sawlog_client::projection::postgres::{PostgresHandler, PostgresStore, Transaction, ledger};
use sawlog_client::projection::{TIMEOUT, sql};
use sawlog_client::{ConsumedRecord, HandlerError};
use sawlog_testing::TestBroker;

use super::model::{Deeds, GROUP, Model, Running, TOPIC, Totals, builder, decided, numbers, produce, topic};
use super::suite;

const SETUP: &str =
    "CREATE TABLE IF NOT EXISTS totals (key TEXT PRIMARY KEY, total BIGINT NOT NULL, count BIGINT NOT NULL)";

#[derive(Clone)]
struct Postgres {
    config: Arc<str>,
    schema: Arc<str>,
    deeds: Deeds,
}

/// What happens at one offset in place of the handling.
#[derive(Debug, Clone)]
enum At {
    Never,
    /// It says so, and its program is killed.
    Dies(u64, Arc<AtomicBool>),
    /// It waits for ever.
    Waits(u64),
    /// It has the server wait.
    Sleeps(u64),
}

#[derive(Debug)]
struct Handler {
    deeds: Deeds,
    at: At,
}

impl PostgresHandler for Handler {
    async fn handle(&self, tx: &Transaction<'_>, record: &ConsumedRecord) -> Result<(), HandlerError> {
        match &self.at {
            At::Dies(offset, died) if record.offset == *offset => {
                died.store(true, Ordering::SeqCst);
                std::future::pending::<()>().await;
            }
            At::Waits(offset) if record.offset == *offset => std::future::pending::<()>().await,
            At::Sleeps(offset) if record.offset == *offset => {
                tx.execute("SELECT pg_sleep(600)", &[]).await?;
            }
            _ => {}
        }
        let (key, amount) = self.deeds.of(record)?;
        let statement = "INSERT INTO totals VALUES ($1, $2, 1) \
                         ON CONFLICT (key) DO UPDATE SET total = totals.total + $2, count = totals.count + 1";
        tx.execute(statement, &[&key, &amount]).await?;
        Ok(())
    }
}

impl Postgres {
    async fn new(test: &str) -> Self {
        let server =
            std::env::var("SAWLOG_TEST_POSTGRES").expect("SAWLOG_TEST_POSTGRES says how the server is reached");
        let schema: Arc<str> = format!("{}_{}", &test[..test.len().min(40)], std::process::id()).into();
        let config = format!("{server} options='-c search_path={schema}'").into();
        let model = Self { config, schema, deeds: Deeds::default() };
        model.execute(&format!("CREATE SCHEMA {}", model.schema)).await;
        model
    }

    async fn connect(&self) -> Client {
        let (client, connection) =
            sawlog_client::projection::postgres::tokio_postgres::connect(&self.config, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn with(&self, at: At) -> PostgresStore<Handler> {
        let handler = Handler { deeds: self.deeds.clone(), at };
        PostgresStore::new(&self.config, handler).unwrap().setup(SETUP)
    }

    async fn drop_schema(&self) {
        self.execute(&format!("DROP SCHEMA {} CASCADE", self.schema)).await;
    }
}

impl Model for Postgres {
    type Store = PostgresStore<Handler>;
    type Lock = Client;

    fn store(&self) -> Self::Store {
        self.with(At::Never)
    }

    async fn totals(&self) -> Totals {
        let rows = self.connect().await.query("SELECT key, total, count FROM totals", &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect::<BTreeMap<_, _>>()
    }

    async fn wipe(&self) {
        let tables = "DROP TABLE IF EXISTS totals, projection_cursor, projection_entry, processed_events";
        self.execute(tables).await;
    }

    async fn execute(&self, statements: &str) {
        self.connect().await.batch_execute(statements).await.unwrap();
    }

    async fn lock(&self) -> Client {
        let client = self.connect().await;
        client.batch_execute(sql::TABLES).await.unwrap();
        client.batch_execute("BEGIN; LOCK TABLE projection_cursor IN EXCLUSIVE MODE").await.unwrap();
        client
    }

    async fn unlock(&self, lock: Client) {
        lock.batch_execute("COMMIT").await.unwrap();
    }

    fn dying(&self, offset: u64, died: Arc<AtomicBool>) -> Self::Store {
        self.with(At::Dies(offset, died))
    }

    async fn number(&self, query: &str) -> i64 {
        let query = format!("SELECT CAST(({query}) AS BIGINT)");
        self.connect().await.query_one(&query, &[]).await.unwrap().get(0)
    }
}

/// A test of the suite on a fresh broker and schema.
macro_rules! on_postgres {
    ($($name:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
        async fn $name() {
            let broker = TestBroker::start().await;
            let model = Postgres::new(stringify!($name)).await;
            suite::$name(&broker, model.clone(), model.deeds.clone()).await;
            model.drop_schema().await;
            broker.shutdown().await;
        }
    )+};
}

suite::all!(on_postgres);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
async fn rm_6_a_handler_that_never_returns_is_stopped_and_its_record_parked() {
    for at in [At::Waits(3), At::Sleeps(3)] {
        let broker = TestBroker::start().await;
        let model = Postgres::new(&format!("never_returns_{}", matches!(at, At::Waits(_)))).await;
        let client = broker.client();
        topic(&client, 1).await;
        let positions = produce(&client, numbers(5, 20).0).await;
        let projection = client.projection(GROUP, model.with(at)).topics([TOPIC]).create_if_missing();
        let running = Running::of(projection.max_processing(Duration::from_millis(200))).await;
        decided(&client, GROUP, &positions).await;
        running.stop().await;
        let dead = suite::open_entries(&client).await;
        assert_eq!(dead[0].error.as_ref().unwrap().class, TIMEOUT);
        assert_eq!(model.totals().await.len(), 4, "the other keys are complete");
        model.drop_schema().await;
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
async fn rm_6_a_server_that_goes_away_under_it_is_waited_for() {
    let broker = TestBroker::start().await;
    let model = Postgres::new("goes_away").await;
    let client = broker.client();
    topic(&client, 1).await;
    let (records, totals) = numbers(5, 400);
    let running = Running::of(builder(&client, &model).batch(10, 1 << 20)).await;
    let mut positions = Vec::new();
    for part in records.chunks(50) {
        positions.extend(produce(&client, part.to_vec()).await);
        let others = format!(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() \
             AND datname = current_database() AND query LIKE '%projection_cursor%' \
             AND backend_type = 'client backend' AND '{}' = ANY (current_schemas(false))",
            model.schema
        );
        model.execute(&others).await;
    }
    decided(&client, GROUP, &positions).await;
    running.stop().await;
    assert_eq!(model.totals().await, totals);
    assert_eq!(suite::open_entries(&client).await.len(), 0);
    model.drop_schema().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
async fn rm_5_the_ledger_knows_what_was_processed_until_its_time_is_over() {
    let model = Postgres::new("ledger").await;
    let client = model.connect().await;
    ledger::create(&client).await.unwrap();
    assert!(ledger::note(&client, "mails", "a").await.unwrap());
    assert!(!ledger::note(&client, "mails", "a").await.unwrap());
    assert!(ledger::note(&client, "invoices", "a").await.unwrap(), "each consumer has its own");
    assert_eq!(ledger::forget(&client, "mails", Duration::from_secs(60)).await.unwrap(), 0);
    client.execute("UPDATE processed_events SET processed_ms = processed_ms - 61000", &[]).await.unwrap();
    assert_eq!(ledger::forget(&client, "mails", Duration::from_secs(60)).await.unwrap(), 1);
    assert!(ledger::note(&client, "mails", "a").await.unwrap());
    model.drop_schema().await;
}
