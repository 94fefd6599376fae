//! What a database must do to hold a read model, and what it may answer.
//!
//! Two layers: a [`Transaction`] is a handful of statements, a [`Store`] begins transactions and gives them to
//! [`super::open_cursor`] and [`super::apply`], which hold the fence and the order of things. It must not know streams.

use std::error::Error as StdError;
use std::fmt;
use std::future::Future;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::time::Instant;

use super::swap::{SwapError, SwapPlan};
use crate::consumer::{ConsumedRecord, HandlerError, now};

/// Which cursor: a projection reads each partition under a row of its own (rule RM-1).
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CursorKey {
    /// Name of the projection.
    pub projection: String,
    /// Name of the topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
}

/// How far a read model has come in a partition, and of which log that is (rule RM-1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    /// Offset of the next record to apply.
    pub next_offset: u64,
    /// Epoch of the partition at the record before it.
    pub partition_epoch: u32,
    /// Epoch of the assignment under which it was last written: a lower one cannot write any more (rule RM-2).
    pub assignment_epoch: u64,
    /// Id of the topic.
    pub topic_id: String,
    /// Id of the group.
    pub group_id: String,
}

/// A move of a cursor, done only if it stands at `from` and no later assignment has raised it (rule RM-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Advance {
    /// Where it must stand.
    pub from: u64,
    /// Where it goes; equal to `from` if only a dead letter is applied.
    pub to: u64,
    /// Epoch of the partition at the record before `to`.
    pub partition_epoch: u32,
    /// Epoch of the assignment of who moves it.
    pub assignment_epoch: u64,
}

/// A dead-letter entry whose record was applied (rule RM-7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedEntry {
    /// Id of the entry.
    pub dlq_id: String,
    /// Version that was applied: 0 the original, then one up with each edit.
    pub version: u32,
    /// Cycle in which it was.
    pub cycle: u32,
}

/// A record to apply.
#[derive(Debug, Clone)]
pub struct WorkItem {
    /// The record.
    pub record: ConsumedRecord,
    /// Applied through its dead-letter entry: once, whatever happens.
    pub entry: Option<AppliedEntry>,
}

/// What is applied in one transaction: records in order, then a move of the cursor.
#[derive(Debug)]
pub struct Work {
    /// The cursor.
    pub key: CursorKey,
    /// Its move.
    pub advance: Advance,
    /// The records; none if the cursor only moves.
    pub items: Vec<WorkItem>,
    /// Index of the record that is being handled, and since when.
    handling: Mutex<Option<(usize, Instant)>>,
    pub(super) probe: Option<Probe>,
}

impl Work {
    pub(super) fn new(key: CursorKey, advance: Advance, items: Vec<WorkItem>, probe: Option<Probe>) -> Self {
        Self { key, advance, items, handling: Mutex::default(), probe }
    }

    /// A record's turn has come.
    pub(super) fn handles(&self, index: usize) {
        *self.handling.lock() = Some((index, now()));
    }

    /// The record that is being handled, and since when; `None`: none yet.
    pub(super) fn handling(&self) -> Option<(usize, Instant)> {
        *self.handling.lock()
    }

    /// It is tried once more.
    pub(super) fn begins(&self) {
        *self.handling.lock() = None;
    }

    pub(super) fn stops_at(&self, step: Step) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.0(step))
    }
}

/// Claims a cursor for an assignment (rule RM-3).
#[derive(Debug, Clone)]
pub struct Claim {
    /// The cursor.
    pub key: CursorKey,
    /// What the row is to be if there is none; its epoch and ids are those of the claim.
    pub first: Cursor,
    /// Ids of dead-letter entries of the partition that are not closed: what of them was applied is to be told.
    pub entries: Vec<String>,
}

/// A claimed cursor.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claimed {
    /// Where it stands, now under the claim's assignment epoch.
    pub cursor: Cursor,
    /// It is new: there was none.
    pub is_new: bool,
    /// Entries among those of the claim that were applied (rule RM-7).
    pub applied: Vec<AppliedEntry>,
}

/// What a transaction did beyond what was asked.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Applied {
    /// Records that had been applied before through their entry, by index, with the version that was (rule RM-7).
    pub known: Vec<(usize, u32)>,
}

/// Why a database could not do what it was asked to.
#[derive(Debug)]
pub struct StoreError {
    kind: StoreErrorKind,
    message: String,
    source: Option<Box<dyn StdError + Send + Sync>>,
}

/// What sort of trouble a database has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum StoreErrorKind {
    /// It cannot be reached, is locked, read-only or full: waited for, and never a failure of a record (rule RM-6).
    Unavailable,
    /// Tables or columns are missing, or are others than expected: nothing will mend that by itself.
    Schema,
}

impl StoreError {
    /// It cannot be used for now.
    pub fn unavailable(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::of(StoreErrorKind::Unavailable, error)
    }

    /// Its tables are not as they should be.
    pub fn schema(error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::of(StoreErrorKind::Schema, error)
    }

    fn of(kind: StoreErrorKind, error: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        let source = error.into();
        Self { kind, message: source.to_string(), source: Some(source) }
    }

    /// What sort of trouble it is.
    pub fn kind(&self) -> StoreErrorKind {
        self.kind
    }
}

impl fmt::Display for StoreError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for StoreError {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_ref()?.source()
    }
}

/// Why a record was not handled.
#[derive(Debug)]
pub enum HandleError {
    /// The handler failed.
    Handler(HandlerError),
    /// The database failed under it.
    Store(StoreError),
}

/// Why a cursor could not be claimed.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// A later assignment has it.
    #[error("a later assignment has raised the cursor to epoch {0}")]
    Fenced(u64),
    /// It is of another topic or group (rule RM-1).
    #[error("the cursor is of {field} {found}, this one is {expected}")]
    OtherLog {
        /// `topic_id` or `group_id`.
        field: &'static str,
        /// What the row says.
        found: String,
        /// What is read here.
        expected: String,
    },
    /// The database failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why work was not applied; nothing of it is in the database.
#[derive(Debug, thiserror::Error)]
pub enum ApplyError {
    /// The cursor was moved or raised by another (rule RM-2).
    #[error("another owner has moved the cursor")]
    Fenced,
    /// The handler failed.
    #[error("the handler failed at record {index}: {error}")]
    Handler {
        /// At this record.
        index: usize,
        /// So.
        error: Box<HandlerError>,
    },
    /// The database failed. Of a failed commit the outcome is unknown: the cursor tells.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A handler has run for longer than it may and cannot be stopped.
    #[error("a handler does not return and cannot be stopped")]
    Stuck,
    /// Stopped by a test.
    #[doc(hidden)]
    #[error("stopped by a test")]
    Stopped,
}

/// A transaction of the user's database. Dropped without a commit it is rolled back.
///
/// Tables as in RM-1 and RM-7: `projection_cursor(projection, topic, partition, next_offset, assignment_epoch, topic_id,
/// partition_epoch, group_id)` with the first three as its key, and `projection_entry(projection, dlq_id, version,
/// cycle)` with the first two.
#[expect(async_fn_in_trait, reason = "whether a future can be sent follows from the database's own types")]
pub trait Transaction {
    /// The row of a cursor, locked until the end of the transaction where the database locks rows.
    ///
    /// # Errors
    /// What the database says.
    async fn cursor(&mut self, key: &CursorKey) -> Result<Option<Cursor>, StoreError>;

    /// Adds a row.
    ///
    /// # Errors
    /// What the database says.
    async fn insert_cursor(&mut self, key: &CursorKey, cursor: &Cursor) -> Result<(), StoreError>;

    /// Sets the assignment epoch of a row whose own is not greater; false if there is none such.
    ///
    /// # Errors
    /// What the database says.
    async fn raise_cursor(&mut self, key: &CursorKey, assignment_epoch: u64) -> Result<bool, StoreError>;

    /// Writes the row if it stands at `advance.from` and its assignment epoch is not greater; false if not.
    ///
    /// # Errors
    /// What the database says.
    async fn advance_cursor(&mut self, key: &CursorKey, advance: &Advance) -> Result<bool, StoreError>;

    /// What was applied of an entry.
    ///
    /// # Errors
    /// What the database says.
    async fn applied_entry(&mut self, projection: &str, dlq_id: &str) -> Result<Option<AppliedEntry>, StoreError>;

    /// Notes what is applied of an entry.
    ///
    /// # Errors
    /// What the database says.
    async fn insert_entry(&mut self, projection: &str, entry: &AppliedEntry) -> Result<(), StoreError>;

    /// What the mark of a swap says: whether it was done; `None`: there is none.
    ///
    /// # Errors
    /// What the database says; by default that this store cannot swap.
    async fn swap_mark(&mut self, projection: &str, swap_id: &str) -> Result<Option<bool>, StoreError> {
        let _ = (projection, swap_id);
        Err(cannot_swap())
    }

    /// Marks a swap as done, its version as the active one; or as never to be done. A second mark of one swap fails.
    ///
    /// # Errors
    /// As [`Transaction::swap_mark`].
    async fn mark_swap(&mut self, plan: &SwapPlan, done: bool) -> Result<(), StoreError> {
        let _ = (plan, done);
        Err(cannot_swap())
    }

    /// Raises the assignment epoch of all cursors of a projection above any that can come: nobody moves them any more.
    ///
    /// # Errors
    /// As [`Transaction::swap_mark`].
    async fn fence_cursors(&mut self, projection: &str) -> Result<(), StoreError> {
        let _ = projection;
        Err(cannot_swap())
    }

    /// Calls the user's hook of a swap, which may change names; by default there is none.
    ///
    /// # Errors
    /// What hook or database say.
    async fn on_swap(&mut self, plan: &SwapPlan) -> Result<(), HandleError> {
        let _ = plan;
        Ok(())
    }

    /// Calls the user's handler. Trouble of the database that shows in it is [`HandleError::Store`].
    ///
    /// # Errors
    /// What handler or database say.
    async fn handle(&mut self, record: &ConsumedRecord) -> Result<(), HandleError>;

    /// Commits.
    ///
    /// # Errors
    /// What the database says; the outcome is then unknown.
    async fn commit(self) -> Result<(), StoreError>;
}

/// A database that holds read models. Used by several partitions at once.
pub trait Store: Send + Sync + 'static {
    /// Claims a cursor in one transaction: [`super::open_cursor`] with a new transaction.
    fn open(&self, claim: &Claim) -> impl Future<Output = Result<Claimed, ClaimError>> + Send;

    /// Applies work in one transaction: [`super::apply`] with a new transaction. Dropped before its end, nothing of it may
    /// be committed any more, or all of it; what it began is to be stopped as far as the database lets.
    fn apply(&self, work: Arc<Work>) -> impl Future<Output = Result<Applied, ApplyError>> + Send;

    /// Swaps versions in one transaction: [`super::swap`] with a new transaction. By default no store can; one that can
    /// has all of the methods of [`Transaction`] that speak of swaps.
    fn swap(&self, plan: &SwapPlan) -> impl Future<Output = Result<bool, SwapError>> + Send {
        let _ = plan;
        super::swap::unsupported()
    }
}

fn cannot_swap() -> StoreError {
    StoreError::schema("this store keeps no marks of swaps")
}

/// Where a test can stop a projection, as a kill would.
#[doc(hidden)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// The cursor is claimed, and not reported.
    Claimed,
    /// It is reported, and nothing is sent yet.
    Reported,
    /// Handlers ran, and the cursor has not moved.
    Handled,
    /// The cursor has moved, and nothing is committed.
    Advanced,
    /// Committed, and not reported.
    Committed,
    /// A dead letter is made, and the cursor stands before it.
    Lettered,
    /// A dead letter was applied, and not acked.
    EntryApplied,
    /// A swap was asked for, and nothing is done.
    SwapAsked,
    /// The hook of a swap ran, and nothing is marked.
    SwapHandled,
    /// A swap is marked, and nothing is committed.
    SwapMarked,
    /// A swap is committed, and not answered.
    SwapCommitted,
}

/// Says at each step whether to stop there.
#[doc(hidden)]
#[derive(Clone)]
pub struct Probe(pub Arc<dyn Fn(Step) -> bool + Send + Sync>);

impl fmt::Debug for Probe {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Probe")
    }
}
