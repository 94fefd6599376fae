//! Read models in SQLite, by rusqlite: one connection per store, its work on blocking threads.
//!
//! The database is opened in WAL mode with `synchronous = FULL`: what the broker was told is on disk. Transactions are
//! `IMMEDIATE`; a database that is locked, read-only, full or gone is trouble that passes ([`StoreError::unavailable`]),
//! a missing table or column is not ([`StoreError::schema`]).
//!
//! Invariant: the connection is in one place, so that a store has one transaction at a time; whoever runs too long is
//! interrupted and has nothing committed.

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

pub use rusqlite;
pub use rusqlite::Transaction;
use rusqlite::{Connection, ErrorCode, InterruptHandle, OptionalExtension as _, TransactionBehavior};

use super::store::{
    Advance, Applied, AppliedEntry, ApplyError, Claim, ClaimError, Claimed, Cursor, CursorKey, HandleError, Store,
    StoreError, Work,
};
use super::swap::{self, Hook, SwapError, SwapPlan};
use super::{cursor, sql};
use crate::clock;
use crate::consumer::{ConsumedRecord, HandlerError};

/// How long a locked database is waited for within a statement.
const BUSY: Duration = Duration::from_secs(1);
/// How long a handler that was interrupted may take to return.
const GRACE: Duration = Duration::from_secs(5);

/// A SQLite database that holds a read model, and the handler that writes it.
pub struct SqliteStore<H> {
    inner: Arc<Inner<H>>,
}

/// What a user does when versions are swapped.
type OnSwap = dyn Fn(&Transaction<'_>, &SwapPlan) -> Result<(), HandlerError> + Send + Sync;

struct Inner<H> {
    path: PathBuf,
    setup: String,
    handler: H,
    on_swap: Hook<OnSwap>,
    /// Nothing: not opened, or closed after trouble.
    connection: Arc<tokio::sync::Mutex<Option<Connection>>>,
    /// A handler was interrupted and has not returned.
    overdue: Arc<AtomicBool>,
}

impl<H> fmt::Debug for SqliteStore<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteStore").field("path", &self.inner.path).finish_non_exhaustive()
    }
}

impl<H> SqliteStore<H>
where
    H: Fn(&Transaction<'_>, &ConsumedRecord) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    /// The database in this file, which is made if it is not there, and the handler. It is opened when it is needed.
    pub fn new(path: impl AsRef<Path>, handler: H) -> Self {
        let inner = Inner {
            path: path.as_ref().to_owned(),
            setup: String::new(),
            handler,
            on_swap: Hook(None),
            connection: Arc::default(),
            overdue: Arc::default(),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Statements that are run each time the database is opened: the model's tables, `IF NOT EXISTS`.
    pub fn setup(mut self, statements: impl Into<String>) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.setup = statements.into();
        }
        self
    }

    /// What is done in the transaction that makes a rebuilt version the active one (rule RP-6), such as changes of the
    /// names of tables or of views. Without it the version is marked and the cursors of the one before are fenced, no more.
    pub fn on_swap(
        mut self,
        on_swap: impl Fn(&Transaction<'_>, &SwapPlan) -> Result<(), HandlerError> + Send + Sync + 'static,
    ) -> Self {
        if let Some(inner) = Arc::get_mut(&mut self.inner) {
            inner.on_swap = Hook(Some(Arc::new(on_swap)));
        }
        self
    }

    /// Does something with the connection on a blocking thread. After trouble the connection is closed.
    async fn run<T, E>(
        &self,
        work: impl FnOnce(&Inner<H>, &mut Connection) -> Result<T, E> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<StoreError> + From<Overdue> + Trouble + Send + 'static,
    {
        let inner = Arc::clone(&self.inner);
        let mut connection = loop {
            let locking = Arc::clone(&inner.connection).lock_owned();
            match tokio::time::timeout(GRACE, locking).await {
                Ok(connection) => break connection,
                Err(_) if inner.overdue.load(Ordering::Acquire) => return Err(E::from(Overdue)),
                // Others have long transactions.
                Err(_) => {}
            }
        };
        let (interrupt, handle) = Interrupt::new(&inner.overdue);
        let done = tokio::task::spawn_blocking(move || {
            let opened = match connection.as_mut() {
                Some(open) => open,
                None => connection.insert(open(&inner.path, &inner.setup)?),
            };
            handle.set(opened.get_interrupt_handle());
            let result = work(&inner, opened);
            handle.done();
            if result.as_ref().is_err_and(Trouble::is_trouble) {
                *connection = None;
            }
            result
        });
        let result = done.await;
        interrupt.disarm();
        match result {
            Ok(result) => result,
            Err(error) => Err(StoreError::unavailable(format!("the thread of the database: {error}")).into()),
        }
    }
}

impl<H> Store for SqliteStore<H>
where
    H: Fn(&Transaction<'_>, &ConsumedRecord) -> Result<(), HandlerError> + Send + Sync + 'static,
{
    async fn open(&self, claim: &Claim) -> Result<Claimed, ClaimError> {
        let claim = claim.clone();
        self.run(move |inner, connection| {
            let transaction = SqliteTransaction::begin(inner, connection)?;
            ready(cursor::open_cursor(transaction, &claim))
        })
        .await
    }

    async fn apply(&self, work: Arc<Work>) -> Result<Applied, ApplyError> {
        self.run(move |inner, connection| {
            let transaction = SqliteTransaction::begin(inner, connection)?;
            ready(cursor::apply(transaction, &work))
        })
        .await
    }

    async fn swap(&self, plan: &SwapPlan) -> Result<bool, SwapError> {
        let plan = plan.clone();
        self.run(move |inner, connection| {
            let transaction = SqliteTransaction::begin(inner, connection)?;
            ready(swap::swap(transaction, &plan))
        })
        .await
    }
}

/// A handler was interrupted and has not returned.
#[derive(Debug)]
struct Overdue;

impl From<Overdue> for ApplyError {
    fn from(_: Overdue) -> Self {
        Self::Stuck
    }
}

impl From<Overdue> for ClaimError {
    fn from(_: Overdue) -> Self {
        Self::Store(StoreError::unavailable("a handler holds the database and does not return"))
    }
}

impl From<Overdue> for SwapError {
    fn from(_: Overdue) -> Self {
        Self::Store(StoreError::unavailable("a handler holds the database and does not return"))
    }
}

impl Trouble for SwapError {
    fn is_trouble(&self) -> bool {
        matches!(self, Self::Store(_))
    }
}

/// Whether the connection should not be used again.
trait Trouble {
    fn is_trouble(&self) -> bool;
}

impl Trouble for ApplyError {
    fn is_trouble(&self) -> bool {
        matches!(self, Self::Store(_))
    }
}

impl Trouble for ClaimError {
    fn is_trouble(&self) -> bool {
        matches!(self, Self::Store(_))
    }
}

/// Interrupts what runs on the blocking thread if whoever waits for it is dropped.
struct Interrupt {
    shared: Arc<Shared>,
    armed: bool,
}

/// The side of the thread.
struct OnThread {
    shared: Arc<Shared>,
}

struct Shared {
    state: parking_lot::Mutex<Progress>,
    overdue: Arc<AtomicBool>,
}

#[derive(Default)]
struct Progress {
    handle: Option<InterruptHandle>,
    dropped: bool,
    done: bool,
}

impl Interrupt {
    fn new(overdue: &Arc<AtomicBool>) -> (Self, OnThread) {
        let shared = Arc::new(Shared { state: parking_lot::Mutex::default(), overdue: Arc::clone(overdue) });
        (Self { shared: Arc::clone(&shared), armed: true }, OnThread { shared })
    }

    fn disarm(mut self) {
        self.armed = false;
    }
}

impl Drop for Interrupt {
    fn drop(&mut self) {
        let mut state = self.shared.state.lock();
        if self.armed && !state.done {
            state.dropped = true;
            self.shared.overdue.store(true, Ordering::Release);
            if let Some(handle) = &state.handle {
                handle.interrupt();
            }
        }
    }
}

impl OnThread {
    fn set(&self, handle: InterruptHandle) {
        self.shared.state.lock().handle = Some(handle);
    }

    fn done(&self) {
        self.shared.state.lock().done = true;
    }
}

impl Drop for OnThread {
    fn drop(&mut self) {
        self.shared.state.lock().done = true;
        self.shared.overdue.store(false, Ordering::Release);
    }
}

fn open(path: &Path, setup: &str) -> Result<Connection, StoreError> {
    let connection = Connection::open(path).map_err(store_error)?;
    connection.busy_timeout(BUSY).map_err(store_error)?;
    let pragmas = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL;";
    connection.execute_batch(pragmas).map_err(store_error)?;
    connection.execute_batch(sql::TABLES).map_err(store_error)?;
    connection.execute_batch(setup).map_err(store_error)?;
    Ok(connection)
}

/// What an error of SQLite means for the store: trouble that passes, or tables that do not fit.
fn store_error(error: rusqlite::Error) -> StoreError {
    if does_not_fit(&error) { StoreError::schema(error) } else { StoreError::unavailable(error) }
}

fn does_not_fit(error: &rusqlite::Error) -> bool {
    // A statement that cannot be prepared, whatever its values.
    let text = error.to_string();
    let words = ["no such table", "no such column", "has no column named", "values were supplied", "values for"];
    matches!(error, rusqlite::Error::SqlInputError { .. }) || words.iter().any(|words| text.contains(words))
}

/// Trouble of the store that an error of a handler stems from; `None`: the handler's own, as a broken constraint.
fn trouble_in(error: &(dyn std::error::Error + 'static)) -> Option<StoreError> {
    let error = error.downcast_ref::<rusqlite::Error>()?;
    if does_not_fit(error) {
        return Some(StoreError::schema(error.to_string()));
    }
    let passes = matches!(
        error.sqlite_error_code()?,
        ErrorCode::DatabaseBusy
            | ErrorCode::DatabaseLocked
            | ErrorCode::ReadOnly
            | ErrorCode::OperationInterrupted
            | ErrorCode::SystemIoFailure
            | ErrorCode::DatabaseCorrupt
            | ErrorCode::DiskFull
            | ErrorCode::CannotOpen
            | ErrorCode::FileLockingProtocolFailed
            | ErrorCode::OutOfMemory
            | ErrorCode::PermissionDenied
            | ErrorCode::NotADatabase
    );
    passes.then(|| StoreError::unavailable(error.to_string()))
}

fn handle_error(error: HandlerError) -> HandleError {
    match cursor::store_error_in(&error, trouble_in) {
        Some(trouble) => HandleError::Store(trouble),
        None => HandleError::Handler(error),
    }
}

/// The output of a future that never waits.
fn ready<F: Future>(future: F) -> F::Output {
    let mut future = std::pin::pin!(future);
    match future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(output) => output,
        Poll::Pending => unreachable!("statements of SQLite return when they are done"),
    }
}

struct SqliteTransaction<'a, H> {
    transaction: Transaction<'a>,
    handler: &'a H,
    on_swap: Option<&'a OnSwap>,
}

impl<'a, H> SqliteTransaction<'a, H> {
    fn begin(inner: &'a Inner<H>, connection: &'a mut Connection) -> Result<Self, StoreError> {
        let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(store_error)?;
        Ok(Self { transaction, handler: &inner.handler, on_swap: inner.on_swap.0.as_deref() })
    }

    fn execute(&self, statement: &str, values: impl rusqlite::Params) -> Result<bool, StoreError> {
        let mut statement = self.transaction.prepare_cached(statement).map_err(store_error)?;
        Ok(statement.execute(values).map_err(store_error)? > 0)
    }
}

fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

fn uint(value: i64) -> u64 {
    u64::try_from(value).unwrap_or(0)
}

fn small(value: i64) -> u32 {
    u32::try_from(value).unwrap_or(0)
}

impl<H> super::store::Transaction for SqliteTransaction<'_, H>
where
    H: Fn(&Transaction<'_>, &ConsumedRecord) -> Result<(), HandlerError>,
{
    async fn cursor(&mut self, key: &CursorKey) -> Result<Option<Cursor>, StoreError> {
        let mut statement = self.transaction.prepare_cached(sql::CURSOR).map_err(store_error)?;
        let row = statement.query_row((&key.projection, &key.topic, key.partition), |row| {
            Ok(Cursor {
                next_offset: uint(row.get(0)?),
                partition_epoch: small(row.get(1)?),
                assignment_epoch: uint(row.get(2)?),
                topic_id: row.get(3)?,
                group_id: row.get(4)?,
            })
        });
        row.optional().map_err(store_error)
    }

    async fn insert_cursor(&mut self, key: &CursorKey, cursor: &Cursor) -> Result<(), StoreError> {
        let values = (
            &key.projection,
            &key.topic,
            key.partition,
            int(cursor.next_offset),
            int(cursor.assignment_epoch),
            &cursor.topic_id,
            cursor.partition_epoch,
            &cursor.group_id,
        );
        self.execute(sql::INSERT_CURSOR, values).map(drop)
    }

    async fn raise_cursor(&mut self, key: &CursorKey, assignment_epoch: u64) -> Result<bool, StoreError> {
        self.execute(sql::RAISE_CURSOR, (&key.projection, &key.topic, key.partition, int(assignment_epoch)))
    }

    async fn advance_cursor(&mut self, key: &CursorKey, advance: &Advance) -> Result<bool, StoreError> {
        let Advance { from, to, partition_epoch, assignment_epoch } = *advance;
        let (to, epoch, from) = (int(to), int(assignment_epoch), int(from));
        let values = (&key.projection, &key.topic, key.partition, to, partition_epoch, epoch, from);
        self.execute(sql::ADVANCE_CURSOR, values)
    }

    async fn applied_entry(&mut self, projection: &str, dlq_id: &str) -> Result<Option<AppliedEntry>, StoreError> {
        let mut statement = self.transaction.prepare_cached(sql::ENTRY).map_err(store_error)?;
        let row = statement.query_row((projection, dlq_id), |row| {
            Ok(AppliedEntry { dlq_id: dlq_id.to_owned(), version: small(row.get(0)?), cycle: small(row.get(1)?) })
        });
        row.optional().map_err(store_error)
    }

    async fn insert_entry(&mut self, projection: &str, entry: &AppliedEntry) -> Result<(), StoreError> {
        let values = (projection, &entry.dlq_id, entry.version, entry.cycle);
        self.execute(sql::INSERT_ENTRY, values).map(drop)
    }

    async fn swap_mark(&mut self, projection: &str, swap_id: &str) -> Result<Option<bool>, StoreError> {
        let mut statement = self.transaction.prepare_cached(sql::SWAP).map_err(store_error)?;
        let row = statement.query_row((projection, swap_id), |row| row.get::<_, i64>(0));
        Ok(row.optional().map_err(store_error)?.map(|done| done != 0))
    }

    async fn mark_swap(&mut self, plan: &SwapPlan, done: bool) -> Result<(), StoreError> {
        let values = (&plan.projection, &plan.swap_id, &plan.version, i64::from(done));
        self.execute(sql::INSERT_SWAP, values)?;
        if done {
            self.execute(sql::SET_VERSION, (&plan.projection, &plan.version))?;
        }
        Ok(())
    }

    async fn fence_cursors(&mut self, projection: &str) -> Result<(), StoreError> {
        self.execute(sql::FENCE_CURSORS, [projection]).map(drop)
    }

    async fn on_swap(&mut self, plan: &SwapPlan) -> Result<(), HandleError> {
        self.on_swap.map_or(Ok(()), |on_swap| on_swap(&self.transaction, plan).map_err(handle_error))
    }

    async fn handle(&mut self, record: &ConsumedRecord) -> Result<(), HandleError> {
        (self.handler)(&self.transaction, record).map_err(handle_error)
    }

    async fn commit(self) -> Result<(), StoreError> {
        self.transaction.commit().map_err(store_error)
    }
}

/// Events that a consumer has processed, for handlers that may see one twice, as those of modes keyed and unordered
/// (rule RM-5).
pub mod ledger {
    use super::{Duration, clock, sql};
    use rusqlite::Connection;

    /// Makes the ledger's table if it is not there; a [`super::SqliteStore`] has it.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn create(connection: &Connection) -> rusqlite::Result<()> {
        connection.execute_batch(sql::TABLES)
    }

    /// Notes an event in the transaction in which it is processed. True: it is new; false: it was processed before, and
    /// nothing is to be done.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn note(connection: &Connection, consumer: &str, event_id: &str) -> rusqlite::Result<bool> {
        let mut statement = connection.prepare_cached(sql::NOTE_EVENT)?;
        Ok(statement.execute((consumer, event_id, clock::wall_ms()))? > 0)
    }

    /// Forgets events that were processed longer ago than `ttl`; returns their number.
    ///
    /// # Errors
    /// What SQLite says.
    pub fn forget(connection: &Connection, consumer: &str, ttl: Duration) -> rusqlite::Result<usize> {
        let before = clock::wall_ms().saturating_sub_unsigned(u64::try_from(ttl.as_millis()).unwrap_or(u64::MAX));
        connection.execute(sql::FORGET_EVENTS, (consumer, before))
    }
}
