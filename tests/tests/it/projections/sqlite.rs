//! The suite on SQLite, and what only SQLite can do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sawlog_broker::log::storage::sim_disk::SimDisk;
use sawlog_client::groups::{PositionStore, Reset};
use sawlog_client::projection::TIMEOUT;
use sawlog_client::projection::sqlite::{SqliteStore, Transaction, ledger, rusqlite::Connection};
use sawlog_client::replays::{NewReplay, ReplayInto, ReplayState};
use sawlog_client::{
    AckLevel, ConsumedRecord, ErrorReason, GroupConfig, GroupMode, GroupPosition, HandlerError, NewGroup, NewTopic,
    TopicConfig,
};
use sawlog_testing::TestBroker;

use super::model::{Deeds, GROUP, MEMBER, Model, Running, TOPIC, Totals, decided, in_time, numbers, produce, topic};
use super::suite;

type Handler = Box<dyn Fn(&Transaction<'_>, &ConsumedRecord) -> Result<(), HandlerError> + Send + Sync>;

pub(super) const SETUP: &str =
    "CREATE TABLE IF NOT EXISTS totals (key TEXT PRIMARY KEY, total INTEGER NOT NULL, count INTEGER NOT NULL)";

#[derive(Clone)]
pub(super) struct Sqlite {
    pub(super) path: Arc<PathBuf>,
    pub(super) deeds: Deeds,
}

impl Sqlite {
    pub(super) fn new(broker: &TestBroker, name: &str) -> Self {
        Self { path: Arc::new(broker.scratch(name).with_extension("db")), deeds: Deeds::default() }
    }

    pub(super) fn connection(&self) -> Connection {
        let connection = Connection::open(&*self.path).unwrap();
        connection.busy_timeout(super::model::PATIENCE).unwrap();
        connection
    }

    /// A store with a handler of the test's own.
    pub(super) fn with(
        &self,
        handler: impl Fn(&Transaction<'_>, &ConsumedRecord) -> Result<(), HandlerError> + Send + Sync + 'static,
    ) -> SqliteStore<Handler> {
        SqliteStore::new(&*self.path, Box::new(handler) as Handler).setup(SETUP)
    }
}

pub(super) fn add(tx: &Transaction<'_>, key: &str, amount: i64) -> Result<(), HandlerError> {
    let statement = "INSERT INTO totals VALUES (?1, ?2, 1) \
                     ON CONFLICT (key) DO UPDATE SET total = total + ?2, count = count + 1";
    tx.prepare_cached(statement)?.execute((key, amount))?;
    Ok(())
}

impl Model for Sqlite {
    type Store = SqliteStore<Handler>;
    type Lock = Connection;

    fn store(&self) -> Self::Store {
        let deeds = self.deeds.clone();
        self.with(move |tx, record| {
            let (key, amount) = deeds.of(record)?;
            add(tx, &key, amount)
        })
    }

    async fn totals(&self) -> Totals {
        let connection = self.connection();
        let mut statement = connection.prepare("SELECT key, total, count FROM totals").unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).unwrap();
        rows.collect::<Result<BTreeMap<_, _>, _>>().unwrap()
    }

    async fn wipe(&self) {
        for end in ["db", "db-wal", "db-shm"] {
            let _ = std::fs::remove_file(self.path.with_extension(end));
        }
    }

    async fn lock(&self) -> Connection {
        let connection = self.connection();
        connection.execute_batch("PRAGMA journal_mode = WAL; BEGIN IMMEDIATE").unwrap();
        connection
    }

    async fn unlock(&self, lock: Connection) {
        lock.execute_batch("COMMIT").unwrap();
    }

    fn dying(&self, offset: u64, died: Arc<AtomicBool>) -> Self::Store {
        let deeds = self.deeds.clone();
        self.with(move |tx, record| {
            if record.offset == offset {
                died.store(true, Ordering::SeqCst);
                // Until the test has killed it and forgets it: what a killed program leaves is nothing.
                while Arc::strong_count(&died) > 1 {
                    std::thread::yield_now();
                }
                return Err(HandlerError::retry("killed"));
            }
            let (key, amount) = deeds.of(record)?;
            add(tx, &key, amount)
        })
    }

    async fn execute(&self, statements: &str) {
        self.connection().execute_batch(statements).unwrap();
    }

    async fn number(&self, query: &str) -> i64 {
        self.connection().query_row(query, [], |row| row.get(0)).unwrap()
    }
}

/// A test of the suite on a fresh broker and database.
macro_rules! on_sqlite {
    ($($name:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            let broker = TestBroker::start().await;
            let model = Sqlite::new(&broker, "model");
            suite::$name(&broker, model.clone(), model.deeds.clone()).await;
            broker.shutdown().await;
        }
    )+};
}

suite::all!(on_sqlite);

/// Entries of the group, by offset.
async fn dead(client: &sawlog_client::Client) -> BTreeMap<u64, String> {
    let entries = suite::open_entries(client).await.into_iter();
    entries.map(|entry| (entry.offset, entry.error.unwrap().class)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rm_6_a_statement_that_never_ends_is_stopped_and_its_record_parked() {
    let broker = TestBroker::start().await;
    let model = Sqlite::new(&broker, "model");
    let client = broker.client();
    topic(&client, 1).await;
    let positions = produce(&client, numbers(5, 20).0).await;
    let deeds = model.deeds.clone();
    let store = model.with(move |tx, record| {
        if record.offset == 3 {
            let endless = "WITH RECURSIVE n (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT COUNT(*) FROM n";
            tx.query_row(endless, [], |row| row.get::<_, i64>(0))?;
        }
        let (key, amount) = deeds.of(record)?;
        add(tx, &key, amount)
    });
    let projection = client.projection(GROUP, store).topics([TOPIC]).create_if_missing();
    let running = Running::of(projection.max_processing(Duration::from_millis(200))).await;
    decided(&client, GROUP, &positions).await;
    running.stop().await;
    let dead = dead(&client).await;
    assert_eq!((dead.len(), dead[&3].as_str()), (4, TIMEOUT), "{dead:?}");
    assert_eq!(model.totals().await.len(), 4, "the other keys are complete");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rm_6_a_handler_that_cannot_be_stopped_ends_the_program() {
    let broker = TestBroker::start().await;
    let model = Sqlite::new(&broker, "model");
    let client = broker.client();
    topic(&client, 1).await;
    produce(&client, numbers(5, 20).0).await;
    let (release, held) = std::sync::mpsc::channel::<()>();
    let held = tokio::sync::Mutex::new(held);
    let store = model.with(move |_, record| {
        if record.offset == 3 {
            // Until the test is over.
            let _ = held.blocking_lock().recv();
        }
        Ok(())
    });
    let projection = client.projection(GROUP, store).topics([TOPIC]).create_if_missing();
    let running = Running::of(projection.max_processing(Duration::from_millis(100))).await;
    let error = running.error().await;
    assert!(error.message().contains("does not return"), "{error}");
    drop(release);
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rm_6_a_database_that_is_read_only_or_not_there_stalls_until_it_is_well() {
    let broker = TestBroker::start().await;
    let model = Sqlite::new(&broker, "model");
    let client = broker.client();
    topic(&client, 1).await;
    let (records, totals) = numbers(5, 20);
    let positions = produce(&client, records).await;
    let read_only = model.store().setup(format!("{SETUP}; PRAGMA query_only = ON"));
    let make = |store| client.projection(GROUP, store).topics([TOPIC]).create_if_missing().member_id(MEMBER);
    let mut running = Running::of(make(read_only)).await;
    assert!(suite::stalled(&mut running).await.contains("readonly"));
    running.stop().await;
    model.wipe().await;

    let missing = Sqlite { path: Arc::new(broker.scratch("later").join("model.db")), ..model };
    let mut running = Running::of(make(missing.store())).await;
    assert!(suite::stalled(&mut running).await.contains("unable to open"));
    std::fs::create_dir(broker.scratch("later")).unwrap();
    decided(&client, GROUP, &positions).await;
    running.stop().await;
    assert_eq!(missing.totals().await, totals);
    assert!((0..20).all(|offset| missing.deeds.tries(0, offset) == 1), "no try was spent");
    broker.shutdown().await;
}

#[tokio::test]
async fn rm_5_the_ledger_knows_what_was_processed_until_its_time_is_over() {
    let broker = TestBroker::start().await;
    let connection = Sqlite::new(&broker, "ledger").connection();
    ledger::create(&connection).unwrap();
    assert!(ledger::note(&connection, "mails", "a").unwrap());
    assert!(!ledger::note(&connection, "mails", "a").unwrap());
    assert!(ledger::note(&connection, "invoices", "a").unwrap(), "each consumer has its own");
    assert_eq!(ledger::forget(&connection, "mails", Duration::from_secs(60)).unwrap(), 0);
    connection.execute("UPDATE processed_events SET processed_ms = processed_ms - 61000", []).unwrap();
    assert_eq!(ledger::forget(&connection, "mails", Duration::from_secs(60)).unwrap(), 1);
    assert!(ledger::note(&connection, "mails", "a").unwrap());
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rm_3_groups_of_cursors_and_groups_of_the_broker_are_told_apart() {
    let broker = TestBroker::start().await;
    let model = Sqlite::new(&broker, "model");
    let client = broker.client();
    topic(&client, 1).await;
    let plain = GroupConfig::topics([TOPIC]).mode(GroupMode::Offset);
    client.groups().create(NewGroup::new("plain", plain)).await.unwrap();
    let refused = client.projection("plain", model.store()).open().await.unwrap_err();
    assert_eq!((refused.reason(), refused.fact("field")), (Some(ErrorReason::GroupMismatch), Some("positions")));
    client.projection(GROUP, model.store()).topics([TOPIC]).create_if_missing().open().await.unwrap();
    let refused = client.consumer(GROUP).open().await.unwrap_err();
    assert_eq!((refused.reason(), refused.fact("field")), (Some(ErrorReason::GroupMismatch), Some("positions")));
    let reset = client.groups().reset(GROUP, &Reset::to(GroupPosition::Earliest)).await.unwrap_err();
    assert_eq!(reset.reason(), Some(ErrorReason::WrongMode));
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_7_a_cursor_of_a_part_that_was_cut_stops_and_goes_on_at_the_cut_if_that_is_accepted() {
    let mut cuts = 0;
    for seed in 0..4 {
        let disk = SimDisk::new();
        let mut broker = TestBroker::builder().storage(disk.storage()).start().await;
        let model = Sqlite::new(&broker, "model");
        let client = broker.client();
        let config = TopicConfig {
            ack_floor: Some(AckLevel::Written),
            flush_interval_ms: Some(60_000),
            ..TopicConfig::default()
        };
        client.admin().create_topic(NewTopic::new(TOPIC).config(config)).await.unwrap();
        let ones = |count: u64| (0..count).map(|_| ("k".to_owned(), "1"));
        let mut positions = Vec::new();
        for one in ones(10) {
            // Each in a write of its own, so that power may take any number of them.
            positions.extend(produce(&client, [one]).await);
        }
        let make = || client.projection(GROUP, model.store()).topics([TOPIC]).create_if_missing().member_id(MEMBER);
        let running = Running::of(make()).await;
        decided(&client, GROUP, &positions).await;
        running.stop().await;
        let left = disk.crash(seed);
        broker.kill().await;
        broker.replace_storage(left.storage());
        broker.restart().await;
        // The log grows over the place where the cursor stands: only the epochs tell.
        let kept = produce(&client, ones(20)).await[0].offset;
        if kept < 10 {
            cuts += 1;
            let error = Running::of(make()).await.error().await;
            assert_eq!(error.reason(), Some(ErrorReason::CursorOfAnotherLog), "seed {seed}: {error}");
            assert_eq!(model.totals().await["k"], (10, 10), "seed {seed}");
        }
        let mut running = Running::of(make().accept_truncation()).await;
        let end = kept + 20;
        assert!(in_time(running.handle.wait_for(|all| all.units().any(|unit| unit.next_offset == end))).await);
        running.stop().await;
        assert_eq!(model.totals().await["k"], (30, 30), "seed {seed}: all that came since the cut, once");
        broker.shutdown().await;
    }
    assert!(cuts > 0, "some power cut took records");
}

#[tokio::test]
async fn rp_2_a_handler_sees_the_mark_of_the_replay_that_a_record_is_part_of() {
    let broker = TestBroker::start().await;
    let (model, client) = (Sqlite::new(&broker, "replayed"), broker.client());
    topic(&client, 2).await;
    let positions = produce(&client, (0..30).map(|number| (format!("k{}", number % 7), "1"))).await;
    // A projection of its own counts what is marked; the one that was there counts what is not.
    let counting = || {
        model.with(|tx, record| {
            let key = if record.is_replay() { "replayed" } else { "live" };
            add(tx, record.replay_id().unwrap_or("of none"), 1)?;
            add(tx, key, 1)
        })
    };
    let running = Running::of(client.projection(GROUP, counting()).topics([TOPIC]).create_if_missing()).await;
    decided(&client, GROUP, &positions).await;
    running.stop().await;
    let config = GroupConfig { mode: Some(GroupMode::Offset), ..GroupConfig::default() };
    let into = ReplayInto::New("rebuilt".into(), Box::new(config.positions(PositionStore::Cursor)));
    let replay = client.replays().start(NewReplay::new(TOPIC, into)).await.unwrap();
    let running = Running::of(client.projection("rebuilt", counting())).await;
    decided(&client, "rebuilt", &positions).await;
    running.stop().await;
    let totals = model.totals().await;
    assert_eq!((totals["live"].0, totals["of none"].0), (30, 30));
    assert_eq!((totals["replayed"].0, totals[&replay.replay_id].0), (30, 30));
    let ended = client.replays().get(&replay.replay_id).await.unwrap();
    assert_eq!((ended.state, ended.done), (Some(ReplayState::Done), 30), "its reports end it");
    broker.shutdown().await;
}
