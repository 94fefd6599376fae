//! Outbox relay for PostgreSQL (rule PR-9): rows that a program has inserted in the transactions of its own changes
//! become records, each once, in order.
//!
//! ```text
//!            claim (lease on the head of an aggregate)      publish, one by one       mark
//!  waiting ------------------------------------------> leased -----------------> log ------> published
//!     ^                                                   |
//!     +--- lease over (the relay died) ---+--- refused: tried again after a while, parked after so many times
//! ```
//!
//! The table's SQL is [`SCHEMA`]. A row's id is the record's event id, its aggregate the key. A relay that dies between
//! publishing and marking publishes again; the broker finds the repeat out (rule PR-8), which the topic must be set
//! to. So any number of relays may work on a table at once.
//!
//! Invariants: of an aggregate a row is published only once all before it are; a row that the broker refuses blocks its
//! own aggregate and no other; an outage of broker or database counts as nobody's failure.
//!
//! ```no_run
//! # async fn run() -> Result<(), Box<dyn std::error::Error>> {
//! use sawlog_client::Client;
//! use sawlog_client::outbox::OutboxRelay;
//!
//! let client = Client::builder("http://127.0.0.1:7171").connect_lazy()?;
//! let relay = OutboxRelay::builder(client, "orders", "host=localhost user=shop dbname=shop".parse()?).build().await?;
//! let handle = relay.handle();
//! tokio::spawn(relay.run());
//! println!("{:.1} s behind", handle.status().lag_seconds);
//! # Ok(())
//! # }
//! ```

mod sql;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBuilder};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::NoTls;
use tokio_util::sync::CancellationToken;

use self::sql::{Failed, Row, Table, is_table_name};
use crate::connection::Client;
use crate::error::{Error, ErrorKind};
use crate::producer::Producer;
use crate::retry::Retry;
use crate::types::Record;

/// The SQL of the table.
pub const SCHEMA: &str = include_str!("schema.sql");

/// Bytes of an error that are kept in a row.
const ERROR_BYTES: usize = 1_000;
/// Shortest and longest wait before a refused row is tried again; jitter at most doubles it.
const WAITS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));

/// Why a relay could not be built, or a round of it failed.
#[derive(Debug, thiserror::Error)]
pub enum OutboxError {
    /// The database failed, or cannot be reached.
    #[error("outbox database: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// The broker failed, or cannot be reached.
    #[error(transparent)]
    Broker(#[from] Error),
    /// The name of the table is not of lower-case letters, digits and `_`, with a schema before it or not.
    #[error("{0:?} is no name of a table for the outbox")]
    Table(String),
    /// The topic does not find out repeats of event ids: a relay that dies would publish twice.
    #[error("topic {0} finds out no repeats of event ids; set its dedup_window_ms")]
    NoDedup(String),
}

/// How far a relay is behind.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct OutboxStatus {
    /// Age in seconds of the oldest row that waits, parked ones aside; 0 if none waits.
    pub lag_seconds: f64,
    /// Rows that wait.
    pub waiting: u64,
    /// Rows that are parked; each holds up the later rows of its aggregate.
    pub parked: u64,
    /// Rows that this relay has published.
    pub published: u64,
    /// Rounds in a row that failed for an outage of database or broker.
    pub outages: u32,
}

/// Chooses how a relay works.
#[derive(Debug, Clone)]
pub struct OutboxBuilder {
    client: Client,
    topic: String,
    database: tokio_postgres::Config,
    settings: Settings,
}

#[derive(Debug, Clone)]
struct Settings {
    table: String,
    lease: Duration,
    aggregates: i64,
    rows: i64,
    max_attempts: i32,
    poll: Duration,
    keep_published: bool,
    event_id_prefix: String,
    crash_before_mark: bool,
}

impl OutboxBuilder {
    /// The table. Default `outbox`.
    pub fn table(mut self, name: impl Into<String>) -> Self {
        self.settings.table = name.into();
        self
    }

    /// How long claimed rows belong to this relay; another takes them after that. Default 60 s, at least 1 s.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.settings.lease = lease.max(Duration::from_secs(1));
        self
    }

    /// Aggregates of a round, and rows of each. Default 200 and 20; both at least 1.
    pub fn batch(mut self, aggregates: u32, rows: u32) -> Self {
        (self.settings.aggregates, self.settings.rows) = (i64::from(aggregates.max(1)), i64::from(rows.max(1)));
        self
    }

    /// Times that the broker may refuse a row before it is parked. Default 10, at least 1.
    pub fn max_attempts(mut self, attempts: u32) -> Self {
        self.settings.max_attempts = i32::try_from(attempts.max(1)).unwrap_or(i32::MAX);
        self
    }

    /// How often an empty outbox is looked at. Default 200 ms.
    pub fn poll(mut self, poll: Duration) -> Self {
        self.settings.poll = poll;
        self
    }

    /// Keeps published rows with the time in `published_at`; by default they are deleted.
    pub fn keep_published(mut self) -> Self {
        self.settings.keep_published = true;
        self
    }

    /// Put before a row's id to make the event id; for topics with several outboxes. Default none.
    pub fn event_id_prefix(mut self, prefix: impl Into<String>) -> Self {
        self.settings.event_id_prefix = prefix.into();
        self
    }

    /// Ends the round after publishing: for tests of what a crash leaves.
    #[doc(hidden)]
    pub fn crash_before_mark(mut self) -> Self {
        self.settings.crash_before_mark = true;
        self
    }

    /// Looks up the topic and registers a producer; the database is asked by the first round.
    ///
    /// # Errors
    /// [`OutboxError::Table`], [`OutboxError::NoDedup`], [`OutboxError::Broker`].
    pub async fn build(self) -> Result<OutboxRelay, OutboxError> {
        let Self { client, topic, database, settings } = self;
        if !is_table_name(&settings.table) {
            return Err(OutboxError::Table(settings.table));
        }
        // What is not acknowledged within the lease may be another's to publish.
        let producer = client.producer(topic.as_str()).delivery_timeout(settings.lease / 2).build().await?;
        if producer.topic().config.dedup_window_ms.unwrap_or(0) == 0 {
            return Err(OutboxError::NoDedup(topic));
        }
        let table = Table::new(&settings.table, settings.keep_published);
        let name = format!("relay-{}", uuid::Uuid::new_v4());
        let shared = Arc::new(Shared { status: watch::Sender::default(), stop: CancellationToken::new() });
        Ok(OutboxRelay { database, connection: None, table, producer, settings, name, shared })
    }
}

#[derive(Debug)]
struct Shared {
    status: watch::Sender<OutboxStatus>,
    stop: CancellationToken,
}

/// Watches a relay, and ends it.
#[derive(Debug, Clone)]
pub struct OutboxHandle {
    shared: Arc<Shared>,
}

impl OutboxHandle {
    /// How far it was behind after its last round.
    pub fn status(&self) -> OutboxStatus {
        *self.shared.status.borrow()
    }

    /// Waits until the status is as asked for, or the relay is gone.
    pub async fn wait_for(&self, done: impl FnMut(&OutboxStatus) -> bool) -> OutboxStatus {
        let mut status = self.shared.status.subscribe();
        match status.wait_for(done).await {
            Ok(found) => *found,
            Err(_) => self.status(),
        }
    }

    /// Ends the relay after its round.
    pub fn stop(&self) {
        self.shared.stop.cancel();
    }
}

/// Publishes the rows of a table.
#[derive(Debug)]
pub struct OutboxRelay {
    database: tokio_postgres::Config,
    connection: Option<tokio_postgres::Client>,
    table: Table,
    producer: Producer,
    settings: Settings,
    name: String,
    shared: Arc<Shared>,
}

/// What came of the rows of one aggregate.
#[derive(Debug, Default)]
struct Published {
    done: Vec<i64>,
    refused: Option<(i64, i32, Error)>,
    /// An outage: nothing was wrong with the row.
    outage: Option<Error>,
    left: Vec<i64>,
}

impl OutboxRelay {
    /// Publishes the rows of a table in `database` to a topic. The connection has no TLS: for the loopback, a socket
    /// or a tunnel.
    pub fn builder(client: Client, topic: impl Into<String>, database: tokio_postgres::Config) -> OutboxBuilder {
        let settings = Settings {
            table: "outbox".to_owned(),
            lease: Duration::from_secs(60),
            aggregates: 200,
            rows: 20,
            max_attempts: 10,
            poll: Duration::from_millis(200),
            keep_published: false,
            event_id_prefix: String::new(),
            crash_before_mark: false,
        };
        OutboxBuilder { client, topic: topic.into(), database, settings }
    }

    /// Watches this relay.
    pub fn handle(&self) -> OutboxHandle {
        OutboxHandle { shared: Arc::clone(&self.shared) }
    }

    /// Works until [`OutboxHandle::stop`]. An outage of database or broker is waited out, with growing waits and
    /// jitter.
    pub async fn run(mut self) {
        let mut retry = Retry::new();
        let stop = self.shared.stop.clone();
        while !stop.is_cancelled() {
            let wait = match self.round().await {
                Ok(0) => {
                    retry.reset();
                    self.settings.poll
                }
                Ok(_) => {
                    retry.reset();
                    continue;
                }
                Err(error) => {
                    tracing::warn!(%error, topic = %self.producer.topic().name, "the outbox waits");
                    self.shared.status.send_modify(|status| status.outages += 1);
                    retry.next_wait(None)
                }
            };
            tokio::select! {
                () = stop.cancelled() => {}
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// One round: claims, publishes, marks; returns how many rows were published.
    ///
    /// # Errors
    /// An outage of database or broker. What was claimed is free again once the lease is over.
    pub async fn round(&mut self) -> Result<u64, OutboxError> {
        let worked = self.work().await;
        if worked.is_err() {
            // Whatever state the connection is in: the next round has a new one.
            self.connection = None;
        }
        worked
    }

    async fn work(&mut self) -> Result<u64, OutboxError> {
        let mut database = self.connect().await?;
        let batch = (self.settings.aggregates, self.settings.rows);
        let rows = self.table.claim(&database, batch, self.settings.lease, &self.name).await?;
        let (mut done, mut failed, mut left, mut outage) = (Vec::new(), Vec::new(), Vec::new(), None);
        for published in self.publish(rows).await {
            done.extend(published.done);
            left.extend(published.left);
            failed.extend(published.refused.map(|(id, attempts, error)| self.failure(id, attempts, &error)));
            outage = outage.or(published.outage);
        }
        if self.settings.crash_before_mark {
            return Err(Error::closed("the relay").into());
        }
        if !(done.is_empty() && failed.is_empty() && left.is_empty()) {
            self.table.mark(&mut database, &self.name, &done, &failed, &left).await?;
        }
        let held = self.table.held(&database).await?;
        let count = done.len() as u64;
        self.shared.status.send_modify(|status| {
            status.lag_seconds = held.lag_seconds;
            (status.waiting, status.parked) = (held.waiting.unsigned_abs(), held.parked.unsigned_abs());
            status.published += count;
            if outage.is_none() {
                status.outages = 0;
            }
        });
        self.connection = Some(database);
        outage.map_or(Ok(count), |error| Err(error.into()))
    }

    async fn connect(&mut self) -> Result<tokio_postgres::Client, OutboxError> {
        if let Some(connection) = self.connection.take().filter(|connection| !connection.is_closed()) {
            return Ok(connection);
        }
        let (client, connection) = self.database.connect(NoTls).await?;
        // Ends with the client; what goes wrong in it is told by the client's calls.
        tokio::spawn(async move {
            let _ = connection.await;
        });
        Ok(client)
    }

    /// Aggregates side by side, the rows of each one after the other.
    async fn publish(&self, rows: Vec<Row>) -> Vec<Published> {
        let mut aggregates: BTreeMap<String, Vec<Row>> = BTreeMap::new();
        for row in rows {
            aggregates.entry(row.aggregate.clone()).or_default().push(row);
        }
        let mut under_way = JoinSet::new();
        for rows in aggregates.into_values() {
            let (producer, prefix) = (self.producer.clone(), self.settings.event_id_prefix.clone());
            under_way.spawn(publish_in_order(producer, prefix, rows));
        }
        under_way.join_all().await
    }

    fn failure(&self, id: i64, attempts: i32, error: &Error) -> Failed {
        let park = attempts + 1 >= self.settings.max_attempts;
        let error: String = error.to_string().chars().take(ERROR_BYTES).filter(|char| *char != '\0').collect();
        tracing::warn!(id, attempts = attempts + 1, park, error, "the broker refused a row of the outbox");
        Failed { id, error, wait: wait_after(attempts), park }
    }
}

/// The wait after so many refusals before this one.
fn wait_after(attempts: i32) -> Duration {
    let waits = ExponentialBuilder::default().with_min_delay(WAITS.0).with_max_delay(WAITS.1).with_jitter();
    let attempts = usize::try_from(attempts).unwrap_or(0);
    waits.without_max_times().build().nth(attempts.min(32)).unwrap_or(WAITS.1)
}

async fn publish_in_order(producer: Producer, prefix: String, rows: Vec<Row>) -> Published {
    let mut published = Published::default();
    let mut rows = rows.into_iter();
    for row in rows.by_ref() {
        let (id, attempts) = (row.id, row.attempts);
        let sent = match record_of(row, &prefix) {
            Ok(record) => producer.send_and_wait(record).await.map(|_| ()),
            Err(error) => Err(error),
        };
        match sent {
            Ok(()) => published.done.push(id),
            Err(error) if is_outage(&error) => {
                published.outage = Some(error);
                published.left.push(id);
                break;
            }
            Err(error) => {
                published.refused = Some((id, attempts, error));
                break;
            }
        }
    }
    published.left.extend(rows.map(|row| row.id));
    published
}

/// Whether the same row may go through later as it is.
fn is_outage(error: &Error) -> bool {
    let kinds = [ErrorKind::Unavailable, ErrorKind::Timeout, ErrorKind::Exhausted, ErrorKind::Closed];
    error.is_retryable() || kinds.contains(&error.kind())
}

fn record_of(row: Row, prefix: &str) -> Result<Record, Error> {
    let invalid = |what: String| Error::new(ErrorKind::Invalid, what);
    let headers: BTreeMap<String, serde_json::Value> =
        serde_json::from_str(&row.headers).map_err(|_| invalid("column headers is no object".to_owned()))?;
    let mut record =
        Record { key: Some(row.aggregate.into()), value: row.payload.map(Into::into), ..Record::default() };
    for (name, value) in headers {
        record = match value {
            serde_json::Value::String(text) => record.header(name, text),
            _ => return Err(invalid(format!("header {name} is no text"))),
        };
    }
    let record = record.event_id(format!("{prefix}{}", row.id)).event_type(row.event_type);
    let occurred = record.envelope().occurred_at_ms.unwrap_or(row.created_ms);
    Ok(record.occurred_at_ms(occurred).timestamp_ms(occurred))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(headers: &str) -> Row {
        let (aggregate, event_type) = ("order-7".to_owned(), "order.placed".to_owned());
        Row {
            id: 41,
            aggregate,
            event_type,
            payload: None,
            headers: headers.to_owned(),
            created_ms: 5_000,
            attempts: 0,
        }
    }

    #[test]
    fn pr_9_a_row_becomes_a_record_whose_event_id_is_the_row_id() {
        let record = record_of(row(r#"{"tenant_id":"acme"}"#), "shop-").expect("a good row");
        let envelope = record.envelope();
        assert_eq!(envelope.event_id.as_deref(), Some("shop-41"));
        assert_eq!(envelope.tenant_id.as_deref(), Some("acme"));
        assert_eq!((envelope.occurred_at_ms, record.timestamp_ms), (Some(5_000), Some(5_000)));
        assert_eq!((record.key.as_deref(), record.value), (Some(&b"order-7"[..]), None));
        assert!(record_of(row("[]"), "").is_err() && record_of(row(r#"{"a":1}"#), "").is_err());
    }

    #[test]
    fn pr_9_waits_grow_with_jitter_to_a_bound() {
        for (attempts, least) in [(0, 1), (3, 8), (40, 300)] {
            let wait = wait_after(attempts);
            assert!(wait >= Duration::from_secs(least) && wait <= WAITS.1 * 2, "{attempts}: {wait:?}");
        }
        assert!((0..8).map(|_| wait_after(2)).collect::<std::collections::HashSet<_>>().len() > 1);
    }

    #[test]
    fn an_outage_is_nobodys_failure() {
        assert!(is_outage(&Error::new(ErrorKind::Unavailable, "down")));
        assert!(is_outage(&Error::closed("the producer")));
        assert!(!is_outage(&Error::new(ErrorKind::Invalid, "too large")));
    }
}
