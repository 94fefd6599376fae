//! The suite on SQLite, and what only SQLite can do.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sawlog_client::projection::sqlite::{SqliteStore, Transaction, rusqlite::Connection};
use sawlog_client::{ConsumedRecord, HandlerError};
use sawlog_testing::TestBroker;

use super::model::{Deeds, Model, PATIENCE, Totals};

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
                // What a killed program leaves: nothing.
                return Err(HandlerError::release_after(PATIENCE));
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
            super::suite::$name(&broker, model.clone(), model.deeds.clone()).await;
            broker.shutdown().await;
        }
    )+};
}

on_sqlite! {
    rm_1_a_read_model_is_that_of_the_log_and_of_every_rebuild
    rm_3_a_program_that_ends_in_order_goes_on_where_it_was
    rm_4_many_records_are_one_transaction_and_a_failure_splits_it
    rm_6_killed_between_each_two_steps_nothing_is_lost_or_done_twice
    rm_6_a_poison_record_parks_its_key_and_redriven_it_is_applied_once
    rm_6_a_program_may_stop_at_a_poison_record_instead
    rm_2_an_old_owner_that_wakes_up_late_cannot_write
    rm_1_a_cursor_of_another_log_stops_the_program_and_nothing_is_written
    rm_6_a_database_whose_tables_do_not_fit_ends_the_program
    rm_6_a_lock_on_the_model_stalls_and_is_no_failure_of_a_record
    rm_8_a_record_that_takes_its_readers_down_is_taken_out
}
