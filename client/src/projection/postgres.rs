//! Read models in PostgreSQL, by tokio-postgres: a connection for each transaction that is under way, kept for the next.
//!
//! Transactions are of the server's default isolation; the cursor's row is locked where it is read and where it is moved,
//! so that of two owners one waits for the other and then meets the fence. A server that cannot be reached, that is
//! read-only, full, or where locks are held too long is trouble that passes ([`StoreError::unavailable`]); missing
//! tables and columns are not ([`StoreError::schema`]).
//!
//! Invariant: a connection whose transaction did not end is not used again, and what runs on it is cancelled.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
pub use tokio_postgres;
pub use tokio_postgres::Transaction;
use tokio_postgres::{Client, Config, GenericClient, NoTls, Row};

use super::store::{
    Advance, Applied, AppliedEntry, ApplyError, Claim, ClaimError, Claimed, Cursor, CursorKey, HandleError, Store,
    StoreError, Work,
};
use super::swap::{self, SwapError, SwapPlan};
use super::{cursor, sql};
use crate::clock;
use crate::consumer::{ConsumedRecord, HandlerError};

/// How long connecting may take.
const CONNECT: Duration = Duration::from_secs(5);
/// Set on each connection: a lock that is held longer is trouble of the database. The setup may set another.
const LOCK_TIMEOUT: &str = "SET lock_timeout = '2s'";

/// What writes the model: `async fn handle(&self, tx, record)`.
///
/// The future may be dropped at any await when it takes longer than `max_processing`; its transaction is then undone.
pub trait PostgresHandler: Send + Sync + 'static {
    /// Applies a record in this transaction.
    ///
    /// # Errors
    /// By `?` any error: the record is tried again, then `on_poison` decides.
    fn handle(
        &self,
        tx: &Transaction<'_>,
        record: &ConsumedRecord,
    ) -> impl Future<Output = Result<(), HandlerError>> + Send;

    /// What is done in the transaction that makes a rebuilt version the active one (rule RP-6), such as changes of the
    /// names of tables or of views. By default nothing: the version is marked and the cursors of the one before are fenced.
    ///
    /// # Errors
    /// By `?` any error: the swap is undone.
    fn on_swap(&self, tx: &Transaction<'_>, swap: &SwapPlan) -> impl Future<Output = Result<(), HandlerError>> + Send {
        let _ = (tx, swap);
        std::future::ready(Ok(()))
    }
}

/// Makes a connection.
type Connect = dyn Fn() -> Pin<Box<dyn Future<Output = Result<Client, tokio_postgres::Error>> + Send>> + Send + Sync;

/// A PostgreSQL database that holds a read model, and the handler that writes it.
pub struct PostgresStore<H> {
    connect: Arc<Connect>,
    setup: String,
    handler: H,
    idle: Mutex<Vec<Client>>,
}

impl<H> fmt::Debug for PostgresStore<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PostgresStore").field("idle", &self.idle.lock().len()).finish_non_exhaustive()
    }
}

impl<H: PostgresHandler> PostgresStore<H> {
    /// The database that `config` names, such as `host=/run/postgresql dbname=shop`, without TLS. It is connected to when
    /// it is needed.
    ///
    /// # Errors
    /// `config` cannot be read.
    pub fn new(config: &str, handler: H) -> Result<Self, tokio_postgres::Error> {
        let config: Config = config.parse()?;
        Ok(Self::connecting(
            move || {
                let config = config.clone();
                async move {
                    let (client, connection) = config.connect(NoTls).await?;
                    tokio::spawn(async move {
                        if let Err(error) = connection.await {
                            tracing::debug!(%error, "a connection to the read model has ended");
                        }
                    });
                    Ok(client)
                }
            },
            handler,
        ))
    }

    /// The database to which `connect` connects, by TLS for one. `connect` also has the connection driven.
    pub fn connecting<F>(connect: impl Fn() -> F + Send + Sync + 'static, handler: H) -> Self
    where
        F: Future<Output = Result<Client, tokio_postgres::Error>> + Send + 'static,
    {
        let connect = Arc::new(move || -> Pin<Box<dyn Future<Output = _> + Send>> { Box::pin(connect()) });
        Self { connect, setup: String::new(), handler, idle: Mutex::default() }
    }

    /// Statements that are run on each new connection: the model's tables, `IF NOT EXISTS`; settings.
    pub fn setup(mut self, statements: impl Into<String>) -> Self {
        self.setup = statements.into();
        self
    }

    async fn connection(&self) -> Result<InUse<'_>, StoreError> {
        let idle = self.idle.lock().pop();
        let client = match idle.filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => {
                let connecting = tokio::time::timeout(CONNECT, (self.connect)()).await;
                let client = connecting.map_err(|_| StoreError::unavailable("the database does not answer"))?;
                let client = client.map_err(store_error)?;
                let setup = format!("{LOCK_TIMEOUT}; {} {}", sql::TABLES, self.setup);
                client.batch_execute(&setup).await.map_err(store_error)?;
                client
            }
        };
        Ok(InUse { client: Some(client), idle: &self.idle })
    }
}

/// A connection that is given back only when its transaction has ended.
struct InUse<'a> {
    client: Option<Client>,
    idle: &'a Mutex<Vec<Client>>,
}

impl InUse<'_> {
    async fn begin(&mut self) -> Result<Transaction<'_>, StoreError> {
        let client = self.client.as_mut().expect("it is there until it is given back");
        client.transaction().await.map_err(store_error)
    }

    /// Its transaction has ended.
    fn give_back(mut self) {
        self.idle.lock().extend(self.client.take());
    }
}

impl Drop for InUse<'_> {
    fn drop(&mut self) {
        // Dropped in the middle: what runs must not hold its locks on.
        if let Some(client) = self.client.take().filter(|client| !client.is_closed()) {
            let cancel = client.cancel_token();
            tokio::spawn(async move {
                let _ = cancel.cancel_query(NoTls).await;
                drop(client);
            });
        }
    }
}

impl<H: PostgresHandler> Store for PostgresStore<H> {
    async fn open(&self, claim: &Claim) -> Result<Claimed, ClaimError> {
        let mut connection = self.connection().await?;
        let transaction = PostgresTransaction { tx: connection.begin().await?, handler: &self.handler };
        let claimed = cursor::open_cursor(transaction, claim).await?;
        connection.give_back();
        Ok(claimed)
    }

    async fn apply(&self, work: Arc<Work>) -> Result<Applied, ApplyError> {
        let mut connection = self.connection().await?;
        let transaction = PostgresTransaction { tx: connection.begin().await?, handler: &self.handler };
        let applied = cursor::apply(transaction, &work).await?;
        connection.give_back();
        Ok(applied)
    }

    async fn swap(&self, plan: &SwapPlan) -> Result<bool, SwapError> {
        let mut connection = self.connection().await?;
        let transaction = PostgresTransaction { tx: connection.begin().await?, handler: &self.handler };
        let done = swap::swap(transaction, plan).await?;
        connection.give_back();
        Ok(done)
    }
}

/// What an error of PostgreSQL means for the store: trouble that passes, or tables that do not fit.
fn store_error(error: tokio_postgres::Error) -> StoreError {
    if does_not_fit(&error) {
        StoreError::schema(Told(told(&error)))
    } else {
        StoreError::unavailable(Told(told(&error)))
    }
}

/// An error with what the server said, which its own text leaves out.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
struct Told(String);

fn told(error: &tokio_postgres::Error) -> String {
    match (error.as_db_error(), std::error::Error::source(error)) {
        (Some(said), _) => format!("{} ({})", said.message(), said.code().code()),
        (None, Some(cause)) => format!("{error}: {cause}"),
        (None, None) => error.to_string(),
    }
}

fn does_not_fit(error: &tokio_postgres::Error) -> bool {
    let Some(code) = error.code().map(tokio_postgres::error::SqlState::code) else { return false };
    // Undefined or other tables and columns; a handler that went on after a failed statement. Not: made twice at once.
    let is_twice = matches!(code, "42P07" | "42710" | "42P06");
    (code.starts_with("42") && !is_twice) || code.starts_with("3F") || code == "25P02"
}

/// Trouble of the store that an error of a handler stems from; `None`: the handler's own, as a broken constraint.
fn trouble_in(error: &(dyn std::error::Error + 'static)) -> Option<StoreError> {
    let error = error.downcast_ref::<tokio_postgres::Error>()?;
    if does_not_fit(error) {
        return Some(StoreError::schema(Told(told(error))));
    }
    let passes = match error.code() {
        // Connection, transaction state (read-only), rollback, resources, intervention, system, locks.
        Some(state) => {
            ["08", "25", "40", "53", "57", "58", "55P03", "XX"].iter().any(|class| state.code().starts_with(class))
        }
        None => error.is_closed() || std::error::Error::source(error).is_some_and(|cause| cause.is::<std::io::Error>()),
    };
    passes.then(|| StoreError::unavailable(Told(told(error))))
}

fn handle_error(error: HandlerError) -> HandleError {
    match cursor::store_error_in(&error, trouble_in) {
        Some(trouble) => HandleError::Store(trouble),
        None => HandleError::Handler(error),
    }
}

struct PostgresTransaction<'a, H> {
    tx: Transaction<'a>,
    handler: &'a H,
}

type Value<'a> = &'a (dyn tokio_postgres::types::ToSql + Sync);

/// A statement of [`sql`] with the places of this database.
fn places(statement: &str) -> String {
    statement.replace('?', "$")
}

impl<H> PostgresTransaction<'_, H> {
    async fn execute(&self, statement: &str, values: &[Value<'_>]) -> Result<bool, StoreError> {
        Ok(self.tx.execute(&places(statement), values).await.map_err(store_error)? > 0)
    }

    async fn row(&self, statement: &str, values: &[Value<'_>]) -> Result<Option<Row>, StoreError> {
        self.tx.query_opt(statement, values).await.map_err(store_error)
    }
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn get<'r, T: tokio_postgres::types::FromSql<'r>>(row: &'r Row, index: usize) -> Result<T, StoreError> {
    row.try_get(index).map_err(StoreError::schema)
}

fn uint(row: &Row, index: usize) -> Result<u64, StoreError> {
    Ok(u64::try_from(get::<i64>(row, index)?).unwrap_or(0))
}

fn small(row: &Row, index: usize) -> Result<u32, StoreError> {
    Ok(u32::try_from(get::<i64>(row, index)?).unwrap_or(0))
}

impl<H: PostgresHandler> super::store::Transaction for PostgresTransaction<'_, H> {
    async fn cursor(&mut self, key: &CursorKey) -> Result<Option<Cursor>, StoreError> {
        let statement = format!("{} FOR UPDATE", places(sql::CURSOR));
        let partition = i64::from(key.partition);
        let Some(row) = self.row(&statement, &[&key.projection, &key.topic, &partition]).await? else {
            return Ok(None);
        };
        Ok(Some(Cursor {
            next_offset: uint(&row, 0)?,
            partition_epoch: small(&row, 1)?,
            assignment_epoch: uint(&row, 2)?,
            topic_id: get(&row, 3)?,
            group_id: get(&row, 4)?,
        }))
    }

    async fn insert_cursor(&mut self, key: &CursorKey, cursor: &Cursor) -> Result<(), StoreError> {
        let (partition, next) = (i64::from(key.partition), int(cursor.next_offset));
        let (epoch, partition_epoch) = (int(cursor.assignment_epoch), i64::from(cursor.partition_epoch));
        let values: [Value<'_>; 8] = [
            &key.projection,
            &key.topic,
            &partition,
            &next,
            &epoch,
            &cursor.topic_id,
            &partition_epoch,
            &cursor.group_id,
        ];
        self.execute(sql::INSERT_CURSOR, &values).await.map(drop)
    }

    async fn raise_cursor(&mut self, key: &CursorKey, assignment_epoch: u64) -> Result<bool, StoreError> {
        let (partition, epoch) = (i64::from(key.partition), int(assignment_epoch));
        self.execute(sql::RAISE_CURSOR, &[&key.projection, &key.topic, &partition, &epoch]).await
    }

    async fn advance_cursor(&mut self, key: &CursorKey, advance: &Advance) -> Result<bool, StoreError> {
        let Advance { from, to, partition_epoch, assignment_epoch } = *advance;
        let (partition, to, partition_epoch) = (i64::from(key.partition), int(to), i64::from(partition_epoch));
        let (epoch, from) = (int(assignment_epoch), int(from));
        let values: [Value<'_>; 7] = [&key.projection, &key.topic, &partition, &to, &partition_epoch, &epoch, &from];
        self.execute(sql::ADVANCE_CURSOR, &values).await
    }

    async fn applied_entry(&mut self, projection: &str, dlq_id: &str) -> Result<Option<AppliedEntry>, StoreError> {
        let Some(row) = self.row(&places(sql::ENTRY), &[&projection, &dlq_id]).await? else { return Ok(None) };
        Ok(Some(AppliedEntry { dlq_id: dlq_id.to_owned(), version: small(&row, 0)?, cycle: small(&row, 1)? }))
    }

    async fn insert_entry(&mut self, projection: &str, entry: &AppliedEntry) -> Result<(), StoreError> {
        let (version, cycle) = (i64::from(entry.version), i64::from(entry.cycle));
        self.execute(sql::INSERT_ENTRY, &[&projection, &entry.dlq_id, &version, &cycle]).await.map(drop)
    }

    async fn swap_mark(&mut self, projection: &str, swap_id: &str) -> Result<Option<bool>, StoreError> {
        let row = self.row(&places(sql::SWAP), &[&projection, &swap_id]).await?;
        row.map(|row| Ok(get::<i64>(&row, 0)? != 0)).transpose()
    }

    async fn mark_swap(&mut self, plan: &SwapPlan, done: bool) -> Result<(), StoreError> {
        let mark = i64::from(done);
        self.execute(sql::INSERT_SWAP, &[&plan.projection, &plan.swap_id, &plan.version, &mark]).await?;
        if done {
            self.execute(sql::SET_VERSION, &[&plan.projection, &plan.version]).await?;
        }
        Ok(())
    }

    async fn fence_cursors(&mut self, projection: &str) -> Result<(), StoreError> {
        self.execute(sql::FENCE_CURSORS, &[&projection]).await.map(drop)
    }

    async fn on_swap(&mut self, plan: &SwapPlan) -> Result<(), HandleError> {
        self.handler.on_swap(&self.tx, plan).await.map_err(handle_error)
    }

    async fn handle(&mut self, record: &ConsumedRecord) -> Result<(), HandleError> {
        self.handler.handle(&self.tx, record).await.map_err(handle_error)
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.tx.commit().await.map_err(store_error)
    }
}

/// Events that a consumer has processed, for handlers that may see one twice, as those of modes keyed and unordered
/// (rule RM-5).
pub mod ledger {
    use super::{Duration, GenericClient, clock, places, sql};

    /// Makes the ledger's table if it is not there; a [`super::PostgresStore`] has it.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn create(client: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
        client.batch_execute(sql::TABLES).await
    }

    /// Notes an event in the transaction in which it is processed. True: it is new; false: it was processed before, and
    /// nothing is to be done.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn note(
        client: &impl GenericClient,
        consumer: &str,
        event_id: &str,
    ) -> Result<bool, tokio_postgres::Error> {
        let now = clock::wall_ms();
        Ok(client.execute(&places(sql::NOTE_EVENT), &[&consumer, &event_id, &now]).await? > 0)
    }

    /// Forgets events that were processed longer ago than `ttl`; returns their number.
    ///
    /// # Errors
    /// What PostgreSQL says.
    pub async fn forget(
        client: &impl GenericClient,
        consumer: &str,
        ttl: Duration,
    ) -> Result<u64, tokio_postgres::Error> {
        let before = clock::wall_ms().saturating_sub_unsigned(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        client.execute(&places(sql::FORGET_EVENTS), &[&consumer, &before]).await
    }
}
