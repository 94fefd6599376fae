//! Versions of a model on PostgreSQL: swaps interrupted at each step, and rebuilds with dead letters. Needs a server, as
//! `postgres` does.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use sawlog_client::projection::SwapPlan;
use sawlog_client::projection::postgres::tokio_postgres::{Client, NoTls, SimpleQueryMessage, connect};
use sawlog_client::projection::postgres::{PostgresHandler, PostgresStore, Transaction};
use sawlog_client::{ConsumedRecord, HandlerError};
use sawlog_testing::TestBroker;

use super::model::Totals;
use super::versions::{Versioned, add, amount_of, table};
use super::{rebuild_chaos, swaps};

/// A schema of its own for each.
static SCHEMAS: AtomicU32 = AtomicU32::new(0);

#[derive(Clone)]
struct Versions {
    config: Arc<str>,
    schema: Arc<str>,
}

#[derive(Debug)]
struct Handler {
    statement: String,
    swaps: bool,
    mended: AtomicBool,
}

impl PostgresHandler for Handler {
    async fn handle(&self, tx: &Transaction<'_>, record: &ConsumedRecord) -> Result<(), HandlerError> {
        let (key, amount) = amount_of(record, &self.mended)?;
        tx.execute(&self.statement, &[&key, &amount]).await?;
        Ok(())
    }

    async fn on_swap(&self, tx: &Transaction<'_>, swap: &SwapPlan) -> Result<(), HandlerError> {
        if self.swaps {
            let own = table(Some(&swap.version));
            tx.batch_execute(&format!("DROP VIEW active; CREATE VIEW active AS SELECT * FROM {own}")).await?;
        }
        Ok(())
    }
}

impl Versions {
    async fn connect(&self) -> Client {
        let (client, connection) = connect(&self.config, NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    fn store(&self, version: Option<&str>, swaps: bool) -> PostgresStore<Handler> {
        let own = table(version);
        let setup = format!(
            "CREATE TABLE IF NOT EXISTS {own} (key TEXT PRIMARY KEY, total BIGINT NOT NULL, count BIGINT NOT NULL);
             DO $$ BEGIN IF to_regclass('active') IS NULL THEN
                 CREATE VIEW active AS SELECT * FROM {own};
             END IF; END $$;"
        );
        let statement = add(&own, ["$1", "$2"]);
        let handler = Handler { statement, swaps, mended: AtomicBool::new(false) };
        PostgresStore::new(&self.config, handler).unwrap().setup(setup)
    }
}

impl Versioned for Versions {
    type Store = PostgresStore<Handler>;

    async fn fresh(_: &TestBroker, name: &str) -> Self {
        let server =
            std::env::var("SAWLOG_TEST_POSTGRES").expect("SAWLOG_TEST_POSTGRES says how the server is reached");
        let number = SCHEMAS.fetch_add(1, Ordering::SeqCst);
        let schema: Arc<str> = format!("versions_{name}_{number}_{}", std::process::id()).into();
        let model = Self { config: format!("{server} options='-c search_path={schema}'").into(), schema };
        model.connect().await.batch_execute(&format!("CREATE SCHEMA {}", model.schema)).await.unwrap();
        model
    }

    fn of(&self, version: Option<&str>) -> Self::Store {
        self.store(version, false)
    }

    fn with_hook(&self, version: &str) -> Self::Store {
        self.store(Some(version), true)
    }

    async fn rows(&self, name: &str) -> Totals {
        let there = format!("SELECT CAST(to_regclass('{name}') IS NOT NULL AS TEXT)");
        if self.first(&there).await.as_deref() != Some("true") {
            return Totals::new();
        }
        let query = format!("SELECT key, total, count FROM {name}");
        let rows = self.connect().await.query(&query, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect::<BTreeMap<_, _>>()
    }

    async fn first(&self, query: &str) -> Option<String> {
        let told = self.connect().await.simple_query(query).await.unwrap();
        told.into_iter().find_map(|told| match told {
            SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        })
    }

    async fn gone(&self) {
        self.connect().await.batch_execute(&format!("DROP SCHEMA {} CASCADE", self.schema)).await.unwrap();
    }
}

/// A test of the suite on PostgreSQL.
macro_rules! on_postgres {
    ($($name:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        #[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
        async fn $name() {
            swaps::generic::$name::<Versions>().await;
        }
    )+};
}

swaps::all!(on_postgres);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
async fn rp_7_the_rebuilt_model_is_the_live_one_in_random_histories() {
    rebuild_chaos::seeds::<Versions>(2).await;
}
