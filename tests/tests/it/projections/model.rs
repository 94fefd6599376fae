//! A read model whose right content can be computed beside it, and what its handler does with the values of records.

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sawlog_client::projection::{Projection, ProjectionBuilder, ProjectionHandle, Store};
use sawlog_client::{Client, ConsumedRecord, Error, HandlerError, NewTopic, Record, RecordPosition};
use tokio::sync::watch;
use tokio::task::JoinHandle;

pub(super) const PATIENCE: Duration = Duration::from_secs(60);
pub(super) const GROUP: &str = "totals";
pub(super) const TOPIC: &str = "sales";
/// One member, which takes its partitions over at once after a kill.
pub(super) const MEMBER: &str = "6ba7b810-9dad-41d1-80b4-00c04fd430c8";

/// A database that holds the model: `total` and `count` by key, each record added once.
pub(super) trait Model: Clone + Send + Sync + 'static {
    type Store: Store + std::fmt::Debug;
    type Lock: Send;

    /// A store on it; each is a connection of its own.
    fn store(&self) -> Self::Store;
    /// The model: sums and counts by key.
    fn totals(&self) -> impl Future<Output = Totals> + Send;
    /// Deletes the model with its cursors.
    fn wipe(&self) -> impl Future<Output = ()> + Send;
    /// Runs statements.
    fn execute(&self, statements: &str) -> impl Future<Output = ()> + Send;
    /// Keeps everybody else from writing.
    fn lock(&self) -> impl Future<Output = Self::Lock> + Send;
    /// Lets them again.
    fn unlock(&self, lock: Self::Lock) -> impl Future<Output = ()> + Send;
    /// A store whose handler says so and never returns at this offset, as if its program died.
    fn dying(&self, offset: u64, died: Arc<AtomicBool>) -> Self::Store;
    /// A number that a query gives.
    fn number(&self, query: &str) -> impl Future<Output = i64> + Send;
}

pub(super) type Totals = BTreeMap<String, (i64, i64)>;

/// What the handler makes of a record; kept over its tries.
#[derive(Debug, Clone, Default)]
pub(super) struct Deeds {
    tries: watch::Sender<HashMap<(u32, u64), u32>>,
    /// Values that are well from now on.
    mended: Arc<AtomicBool>,
}

impl Deeds {
    /// The key and the amount to add; an error if the value asks for one: `fail`, `panic`, `dead`, `skip`, `flaky` (fails
    /// twice, then is 1), `mend` (fails until [`Deeds::mend`], then is 1).
    pub(super) fn of(&self, record: &ConsumedRecord) -> Result<(String, i64), HandlerError> {
        let text = |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
        let (key, value) = (text(record.key.as_deref()), text(record.value.as_deref()));
        let place = (record.partition(), record.offset);
        let mut count = 0;
        self.tries.send_modify(|tries| {
            let tries = tries.entry(place).or_default();
            *tries += 1;
            count = *tries;
        });
        match value.as_str() {
            "fail" => Err(HandlerError::retry("asked to fail").class("ASKED")),
            "dead" => Err(HandlerError::dead("asked to be dead").class("ASKED")),
            "skip" => Err(HandlerError::skip("asked to be skipped")),
            "panic" => panic!("asked to panic"),
            "flaky" if count < 3 => Err(HandlerError::retry("not yet")),
            "mend" if !self.mended.load(Ordering::SeqCst) => Err(HandlerError::retry("not yet")),
            "flaky" | "mend" => Ok((key, 1)),
            value => Ok((key, value.parse()?)),
        }
    }

    /// All of it begins anew.
    pub(super) fn forget(&self) {
        self.tries.send_replace(HashMap::new());
        self.mended.store(false, Ordering::SeqCst);
    }

    pub(super) fn mend(&self) {
        self.mended.store(true, Ordering::SeqCst);
    }

    /// How often the handler saw a record.
    pub(super) fn tries(&self, partition: u32, offset: u64) -> u32 {
        self.tries.borrow().get(&(partition, offset)).copied().unwrap_or_default()
    }
}

pub(super) async fn topic(client: &Client, partitions: u32) {
    client.admin().create_topic(NewTopic::new(TOPIC).partitions(partitions)).await.unwrap();
}

/// Appends records, key and value; returns their positions.
pub(super) async fn produce<V: AsRef<str>>(
    client: &Client,
    records: impl IntoIterator<Item = (String, V)>,
) -> Vec<RecordPosition> {
    let producer = client.producer(TOPIC).build().await.unwrap();
    let mut receipts = Vec::new();
    for (key, value) in records {
        receipts.push(producer.send(Record::keyed(key, value.as_ref().to_owned())).await.unwrap());
    }
    let mut positions = Vec::new();
    for receipt in receipts {
        positions.push(receipt.await.unwrap());
    }
    producer.close().await.unwrap();
    positions
}

/// Numbers `1..=count` under `keys` keys in turn, and the model of them.
pub(super) fn numbers(keys: u64, count: u64) -> (Vec<(String, String)>, Totals) {
    let mut totals = Totals::new();
    let records = (1..=count).map(|number| {
        let key = format!("k{}", number % keys);
        let total = totals.entry(key.clone()).or_default();
        (total.0, total.1) = (total.0 + i64::try_from(number).unwrap(), total.1 + 1);
        (key, number.to_string())
    });
    (records.collect(), totals)
}

/// Waits until the group has decided about the last records.
pub(super) async fn decided(client: &Client, group: &str, positions: &[RecordPosition]) {
    for chunk in positions.chunks(1_000) {
        let answers = client.groups().await_processed(group, chunk, PATIENCE).await.unwrap();
        let pending = sawlog_client::groups::ProcessedState::Pending;
        assert!(answers.iter().all(|answer| answer.state != Some(pending)), "{answers:?}");
    }
}

/// A projection that runs.
pub(super) struct Running {
    pub(super) handle: ProjectionHandle,
    pub(super) task: JoinHandle<Result<(), Error>>,
}

impl Running {
    pub(super) async fn of<S: Store + std::fmt::Debug>(builder: ProjectionBuilder<S>) -> Self {
        Self::start(builder.open().await.unwrap())
    }

    fn start<S: Store + std::fmt::Debug>(projection: Projection<S>) -> Self {
        let handle = projection.handle();
        Self { handle, task: tokio::spawn(projection.run()) }
    }

    /// Ends in order.
    pub(super) async fn stop(self) {
        self.handle.shutdown(PATIENCE).await;
        in_time(self.task).await.unwrap().unwrap();
    }

    /// Ends as a kill does.
    pub(super) async fn kill(self) {
        self.task.abort();
        let _ = self.task.await;
    }

    /// The error that it ends with by itself.
    pub(super) async fn error(self) -> Error {
        in_time(self.task).await.unwrap().expect_err("it ends with an error")
    }
}

pub(super) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

/// How projections of these tests are made.
pub(super) fn builder<M: Model>(client: &Client, model: &M) -> ProjectionBuilder<M::Store> {
    client.projection(GROUP, model.store()).topics([TOPIC]).create_if_missing().member_id(MEMBER)
}
