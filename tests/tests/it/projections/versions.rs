//! Versions of a read model in one database, each in its table, and a view of the active one.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sawlog_client::groups::{Rebuild, RebuildState};
use sawlog_client::projection::sqlite::{SqliteStore, Transaction, rusqlite};
use sawlog_client::projection::{ProjectionBuilder, Store, SwapPlan};
use sawlog_client::{Client, ConsumedRecord, GroupConfig, HandlerError, RecordPosition};
use sawlog_testing::TestBroker;

use super::model::{GROUP, PATIENCE, Running, TOPIC, Totals, decided, in_time, numbers, produce, topic};

pub(super) const LOOK: Duration = Duration::from_millis(10);

/// A database that holds versions of a model: `totals` is the one before it had any, `totals_v2` version v2, `active` the
/// view.
pub(super) trait Versioned: Clone + Send + Sync + 'static {
    type Store: Store + std::fmt::Debug;

    /// A database of its own.
    fn fresh(broker: &TestBroker, name: &str) -> impl Future<Output = Self> + Send;
    /// A store of a version; its handler is [`amount_of`].
    fn of(&self, version: Option<&str>) -> Self::Store;
    /// A store whose hook points the view elsewhere.
    fn with_hook(&self, version: &str) -> Self::Store;
    /// What a table or view has; nothing if it is not there yet.
    fn rows(&self, name: &str) -> impl Future<Output = Totals> + Send;
    /// The first column of the first row as text, if there is one.
    fn first(&self, query: &str) -> impl Future<Output = Option<String>> + Send;
    /// Deletes all of it.
    fn gone(&self) -> impl Future<Output = ()> + Send;
}

/// The name of a version's table.
pub(super) fn table(version: Option<&str>) -> String {
    version.map_or_else(|| "totals".to_owned(), |version| format!("totals_{version}"))
}

/// What a handler makes of a record: its key, and what is added. Values `mend` are well once `mended` is set, `late` when
/// they come through their entries, `bad` never.
pub(super) fn amount_of(record: &ConsumedRecord, mended: &AtomicBool) -> Result<(String, i64), HandlerError> {
    let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let (key, value) = (text(record.key.as_deref()), text(record.value.as_deref()));
    let amount = match value.as_str() {
        "mend" if mended.load(Ordering::SeqCst) => 1,
        "late" if record.entry().is_some() => 1,
        "skip" => return Err(HandlerError::skip("asked to be skipped")),
        "mend" | "late" | "bad" => return Err(HandlerError::dead("not yet").class("ASKED")),
        value => value.parse()?,
    };
    Ok((key, amount))
}

/// The statement of the handler: what a key has hangs on the order of its records.
pub(super) fn add(own: &str, places: [&str; 2]) -> String {
    let [key, amount] = places;
    format!(
        "INSERT INTO {own} VALUES ({key}, {amount}, 1)
         ON CONFLICT (key) DO UPDATE SET total = ({own}.total * 3 + {amount}) % 1000003, count = {own}.count + 1"
    )
}

type Handler = Box<dyn Fn(&Transaction<'_>, &ConsumedRecord) -> Result<(), HandlerError> + Send + Sync>;

/// On SQLite.
#[derive(Clone)]
pub(super) struct Versions {
    path: Arc<std::path::PathBuf>,
    mended: Arc<AtomicBool>,
}

impl Versions {
    pub(super) fn new(broker: &TestBroker) -> Self {
        Self::named(broker, "versions")
    }

    fn named(broker: &TestBroker, name: &str) -> Self {
        Self { path: Arc::new(broker.scratch(name).with_extension("db")), mended: Arc::default() }
    }

    /// Values `mend` are well from now on.
    pub(super) fn mend(&self) {
        self.mended.store(true, Ordering::SeqCst);
    }

    fn connection(&self) -> rusqlite::Connection {
        let connection = rusqlite::Connection::open(&*self.path).unwrap();
        connection.busy_timeout(PATIENCE).unwrap();
        connection
    }

    pub(super) fn store(&self, version: Option<&str>) -> SqliteStore<Handler> {
        let (own, mended) = (table(version), Arc::clone(&self.mended));
        let setup = format!(
            "CREATE TABLE IF NOT EXISTS {own} (key TEXT PRIMARY KEY, total INTEGER NOT NULL, count INTEGER NOT NULL);
             CREATE VIEW IF NOT EXISTS active AS SELECT * FROM {own};"
        );
        let statement = add(&own, ["?1", "?2"]);
        let handler = move |tx: &Transaction<'_>, record: &ConsumedRecord| {
            tx.prepare_cached(&statement)?.execute(amount_of(record, &mended)?)?;
            Ok(())
        };
        SqliteStore::new(&*self.path, Box::new(handler) as Handler).setup(setup)
    }

    pub(super) fn swapping(&self, version: &str) -> SqliteStore<Handler> {
        self.store(Some(version)).on_swap(|tx: &Transaction<'_>, swap: &SwapPlan| {
            let own = table(Some(&swap.version));
            tx.execute_batch(&format!("DROP VIEW active; CREATE VIEW active AS SELECT * FROM {own}"))?;
            Ok(())
        })
    }

    pub(super) fn totals(&self, name: &str) -> Totals {
        let connection = self.connection();
        let mut statement = connection.prepare(&format!("SELECT key, total, count FROM {name}")).unwrap();
        let rows = statement.query_map([], |row| Ok((row.get(0)?, (row.get(1)?, row.get(2)?)))).unwrap();
        rows.collect::<Result<BTreeMap<_, _>, _>>().unwrap()
    }

    pub(super) fn text(&self, query: &str) -> Option<String> {
        let row = self.connection().query_row(query, [], |row| row.get::<_, rusqlite::types::Value>(0));
        match row.ok()? {
            rusqlite::types::Value::Text(text) => Some(text),
            rusqlite::types::Value::Integer(number) => Some(number.to_string()),
            _ => None,
        }
    }
}

impl Versioned for Versions {
    type Store = SqliteStore<Handler>;

    async fn fresh(broker: &TestBroker, name: &str) -> Self {
        Self::named(broker, name)
    }

    fn of(&self, version: Option<&str>) -> Self::Store {
        self.store(version)
    }

    fn with_hook(&self, version: &str) -> Self::Store {
        self.swapping(version)
    }

    async fn rows(&self, name: &str) -> Totals {
        let there = format!("SELECT COUNT(*) FROM sqlite_master WHERE name = '{name}'");
        if self.text(&there).as_deref() == Some("0") { Totals::new() } else { self.totals(name) }
    }

    async fn first(&self, query: &str) -> Option<String> {
        self.text(query)
    }

    async fn gone(&self) {}
}

/// A projection of a version; none: the model before it had any.
pub(super) fn member<S: Store>(client: &Client, store: S, version: Option<&str>) -> ProjectionBuilder<S> {
    let config =
        GroupConfig { drain_timeout_ms: Some(1_000), session_timeout_ms: Some(2_000), ..GroupConfig::default() };
    let builder = client.projection(GROUP, store).topics([TOPIC]).create_with(config);
    match version {
        Some(version) => builder.version(version),
        None => builder,
    }
}

/// The rebuild, once it stands so or has ended.
pub(super) async fn until(client: &Client, state: RebuildState) -> Rebuild {
    let groups = client.groups();
    let so = |rebuild: &Rebuild| rebuild.state == Some(state);
    let found = in_time(groups.watch_rebuild(GROUP, LOOK, |_| {}, so)).await.unwrap();
    assert_eq!(found.state, Some(state), "{found:?}");
    found
}

/// What numbers under keys come to in the model, in order per key.
pub(super) fn model_of(records: &[(String, String)]) -> Totals {
    let mut totals = Totals::new();
    for (key, value) in records {
        let Ok(amount) = value.parse::<i64>() else { continue };
        let entry = totals.entry(key.clone());
        entry.and_modify(|one| *one = ((one.0 * 3 + amount) % 1_000_003, one.1 + 1)).or_insert((amount, 1));
    }
    totals
}

/// A live model of `count` records, its worker, and the records.
pub(super) async fn live<M: Versioned>(
    client: &Client,
    model: &M,
    count: u64,
) -> (Running, Vec<(String, String)>, Vec<RecordPosition>) {
    topic(client, 3).await;
    let records = numbers(20, count).0;
    let positions = produce(client, records.clone()).await;
    let running = Running::of(member(client, model.of(None), None)).await;
    decided(client, GROUP, &positions).await;
    (running, records, positions)
}
