//! The outbox relay on PostgreSQL (rule PR-9). Needs a server: `SAWLOG_TEST_POSTGRES` says how it is reached. Each test
//! works in a schema of its own.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use sawlog_client::outbox::{OutboxBuilder, OutboxError, OutboxRelay, SCHEMA};
use sawlog_client::projection::postgres::tokio_postgres::{self, NoTls};
use sawlog_client::{Client, EnvelopePolicy, NewTopic, ReadEvent, StreamExt, TopicConfig};
use sawlog_testing::TestBroker;

const TOPIC: &str = "orders";

struct World {
    broker: TestBroker,
    client: Client,
    database: tokio_postgres::Client,
    config: tokio_postgres::Config,
    schema: String,
}

impl World {
    async fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let server =
            std::env::var("SAWLOG_TEST_POSTGRES").expect("SAWLOG_TEST_POSTGRES says how PostgreSQL is reached");
        let schema = format!("outbox_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let mut config: tokio_postgres::Config = server.parse().expect("a connection string");
        let (database, connection) = config.connect(NoTls).await.expect("PostgreSQL is there");
        tokio::spawn(connection);
        config.options(format!("-c search_path={schema}"));
        let setup =
            format!("CREATE SCHEMA {schema}; SET search_path = {schema}; SET client_min_messages = warning; {SCHEMA}");
        database.batch_execute(&setup).await.unwrap();
        let broker = TestBroker::start().await;
        let client = Client::builder(broker.url()).connect_lazy().unwrap();
        let envelope = Some(EnvelopePolicy::Required);
        let config_of_topic = TopicConfig { partitions: Some(3), envelope, ..TopicConfig::default() };
        client.admin().create_topic(NewTopic { config: config_of_topic, ..NewTopic::new(TOPIC) }).await.unwrap();
        Self { broker, client, database, config, schema }
    }

    fn relay(&self) -> OutboxBuilder {
        let relay = OutboxRelay::builder(self.client.clone(), TOPIC, self.config.clone());
        relay.poll(Duration::from_millis(5)).lease(Duration::from_secs(30))
    }

    /// Rows of these aggregates, in this order, each with its number in its aggregate.
    async fn insert(&self, rows: impl IntoIterator<Item = (String, Vec<u8>)>) {
        for (aggregate, payload) in rows {
            let insert = "INSERT INTO outbox (aggregate, event_type, payload) VALUES ($1, 'order.changed', $2)";
            self.database.execute(insert, &[&aggregate, &payload]).await.unwrap();
        }
    }

    async fn fill(&self, aggregates: u32, rows: u32) {
        let all = (0..rows).flat_map(|row| (0..aggregates).map(move |aggregate| (aggregate, row)));
        self.insert(all.map(|(aggregate, row)| (format!("a{aggregate}"), row.to_string().into_bytes()))).await;
    }

    async fn sql(&self, statement: &str) {
        self.database.batch_execute(statement).await.unwrap();
    }

    async fn count(&self, condition: &str) -> i64 {
        let query = format!("SELECT count(*) FROM outbox WHERE {condition}");
        self.database.query_one(&query, &[]).await.unwrap().get(0)
    }

    /// The payloads in the log by key, in order, and the event ids.
    async fn log(&self) -> (BTreeMap<String, Vec<String>>, Vec<String>) {
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let (mut payloads, mut ids) = (BTreeMap::<String, Vec<String>>::new(), Vec::new());
        let mut reader = self.client.reader(TOPIC).open().await.unwrap();
        while let Some(event) = reader.next().await {
            if let ReadEvent::Record(record) = event.unwrap() {
                ids.extend(record.envelope().event_id);
                let key = text(record.key.as_deref().unwrap());
                payloads.entry(key).or_default().push(text(record.value.as_deref().unwrap()));
            }
        }
        (payloads, ids)
    }

    async fn end(self) {
        self.sql(&format!("DROP SCHEMA {} CASCADE", self.schema)).await;
        self.broker.shutdown().await;
    }
}

fn numbers(count: u32) -> Vec<String> {
    (0..count).map(|number| number.to_string()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
async fn pr_9_a_crash_between_publish_and_mark_gives_one_record_in_the_log() {
    let world = World::new().await;
    world.fill(4, 5).await;
    let mut dies = world.relay().crash_before_mark().build().await.unwrap();
    assert!(dies.round().await.is_err());
    drop(dies);
    assert_eq!(world.log().await.1.len(), 20, "all was published");
    assert_eq!(world.count("claimed_until > clock_timestamp()").await, 20, "and nothing marked");
    let mut next = world.relay().build().await.unwrap();
    assert_eq!(next.round().await.unwrap(), 0, "the lease of the dead relay holds");
    world.sql("UPDATE outbox SET claimed_until = clock_timestamp()").await;
    assert_eq!(next.round().await.unwrap(), 20);
    let (payloads, mut ids) = world.log().await;
    assert!(payloads.len() == 4 && payloads.values().all(|rows| *rows == numbers(5)));
    ids.sort();
    ids.dedup();
    assert_eq!((ids.len(), world.count("true").await), (20, 0), "each is there once, and no row is left");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
async fn pr_9_relays_that_are_killed_at_random_publish_each_row_once_and_in_order() {
    let world = World::new().await;
    for round in 0..12_u64 {
        let relays =
            [world.relay().batch(3, 4).build().await.unwrap(), world.relay().batch(5, 2).build().await.unwrap()];
        let handles = relays.each_ref().map(OutboxRelay::handle);
        let tasks = relays.map(|relay| tokio::spawn(relay.run()));
        let all = (0..6).map(|aggregate| (format!("a{aggregate}"), round.to_string().into_bytes()));
        world.insert(all).await;
        // Both are killed wherever they are once one has published some of the rows.
        let some = |status: &sawlog_client::outbox::OutboxStatus| status.published > round % 3;
        tokio::select! {
            _ = handles[0].wait_for(some) => {}
            _ = handles[1].wait_for(some) => {}
        }
        tasks.iter().for_each(tokio::task::JoinHandle::abort);
        for task in tasks {
            assert!(task.await.is_err_and(|error| error.is_cancelled()));
        }
        world.sql("UPDATE outbox SET claimed_until = '-infinity'").await;
    }
    // What the server had under way when its client was killed may have been claimed since.
    world.sql("UPDATE outbox SET claimed_until = '-infinity'").await;
    let last = world.relay().build().await.unwrap();
    let handle = last.handle();
    let running = tokio::spawn(last.run());
    while world.count("true").await > 0 {
        handle.wait_for(|status| status.waiting == 0).await;
    }
    handle.stop();
    running.await.unwrap();
    let (payloads, _) = world.log().await;
    assert!(payloads.len() == 6 && payloads.values().all(|rows| *rows == numbers(12)), "{payloads:?}");
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
async fn pr_9_a_row_that_is_refused_is_parked_and_blocks_its_own_aggregate_alone() {
    let world = World::new().await;
    world.insert([("bad".to_owned(), b"0".to_vec()), ("bad".to_owned(), vec![b'x'; 2 << 20])]).await;
    world.fill(2, 3).await;
    world.insert([("bad".to_owned(), b"2".to_vec())]).await;
    let mut relay = world.relay().max_attempts(2).keep_published().build().await.unwrap();
    let handle = relay.handle();
    assert_eq!(relay.round().await.unwrap(), 7);
    let status = handle.status();
    assert_eq!((status.waiting, status.parked, status.published), (2, 0, 7));
    assert!(status.lag_seconds > 0.0);
    assert_eq!(relay.round().await.unwrap(), 0, "it waits for its next try");
    assert_eq!(world.count("attempts = 1 AND next_try_at > clock_timestamp()").await, 1);
    world.sql("UPDATE outbox SET next_try_at = clock_timestamp()").await;
    assert_eq!(relay.round().await.unwrap(), 0);
    assert_eq!(world.count("parked_at IS NOT NULL AND last_error LIKE '%record%' AND attempts = 2").await, 1);
    world.fill(3, 1).await;
    assert_eq!(relay.round().await.unwrap(), 3, "the others go on");
    assert_eq!((handle.status().waiting, handle.status().parked), (1, 1));
    // Someone mends it.
    world.sql("UPDATE outbox SET payload = '1', parked_at = NULL, attempts = 0 WHERE parked_at IS NOT NULL").await;
    world.sql("UPDATE outbox SET next_try_at = '-infinity'").await;
    assert_eq!(relay.round().await.unwrap(), 2);
    assert_eq!(world.log().await.0["bad"], numbers(3));
    assert_eq!((world.count("published_at IS NULL").await, world.count("true").await), (0, 12));
    assert_eq!(handle.status().lag_seconds, 0.0);
    world.end().await;
}

#[tokio::test]
#[ignore = "needs a PostgreSQL server: SAWLOG_TEST_POSTGRES"]
async fn pr_9_an_outage_counts_as_nobodys_failure_and_a_topic_without_dedup_is_refused() {
    let world = World::new().await;
    world.client.admin().create_topic(NewTopic::new("plain")).await.unwrap();
    let refused = OutboxRelay::builder(world.client.clone(), "plain", world.config.clone()).build().await;
    assert!(matches!(refused, Err(OutboxError::NoDedup(topic)) if topic == "plain"));
    let refused = world.relay().table("outbox; drop").build().await;
    assert!(matches!(refused, Err(OutboxError::Table(_))));
    world.fill(2, 2).await;
    let mut relay = world.relay().lease(Duration::from_secs(1)).build().await.unwrap();
    let World { broker, database, schema, .. } = world;
    broker.shutdown().await;
    assert!(matches!(relay.round().await, Err(OutboxError::Broker(_))));
    let untouched = database.query_one("SELECT count(*) FROM outbox WHERE attempts = 0", &[]).await.unwrap();
    assert_eq!(untouched.get::<_, i64>(0), 4);
    database.batch_execute(&format!("DROP SCHEMA {schema} CASCADE")).await.unwrap();
    assert!(matches!(relay.round().await, Err(OutboxError::Database(_))));
}
