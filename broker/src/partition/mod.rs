//! Partitions: the seam [`PartitionLog`] that everything above talks to, and the local engine behind it.
//!
//! `local.rs` joins one [`crate::log::LocalLog`] with group append (`append.rs`, `leader.rs`), the sync job (`commit.rs`), the
//! watermark (`watermark.rs`), producer state (`producers.rs`) and readers (`reader.rs`). `admit.rs` checks what
//! comes in before it gets here, `budget.rs` bounds how much of it is in flight.
//!
//! It must not know of topics, requests, messages or gRPC.

use std::fmt::Debug;
use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
// Some of these are for the modules below: those that the schedule tests include take every name of ours from `super`.
use sawlog_proto::batch::{BatchHeader, ProducerStamp, head_with};

use crate::clock::{Clock, Monotonic};
use crate::limits;
use crate::log::{AppendError, Appended, FrameDraft, SyncError};
pub use crate::log::{Corruption, Frame, FrameRun, ReadError};
use crate::model::{AckLevel, Offset, OffsetRange, PartitionEpoch};
use events::without_found;

pub mod admit;
mod admit_events;
mod append;
pub mod budget;
mod commit;
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub mod decoders;
mod environment;
mod event_load;
pub mod events;
mod extension;
mod facts;
pub mod journal;
pub mod journal_thread;
mod leader;
mod local;
mod meter;
mod open;
pub mod pool;
mod producer_snapshot;
mod producers;
mod pulse;
mod reader;
mod retention;
pub mod scrub;
mod store;
mod sync;
mod watermark;

// Their tests stand here and not below them, since the schedule tests include their sources over other locks.
#[cfg(test)]
mod append_tests;
#[cfg(test)]
mod budget_tests;
#[cfg(test)]
mod fake_log;
#[cfg(test)]
mod producers_tests;

pub use budget::{InFlight, Permit};
pub use commit::Ticket;
pub use environment::{
    Birth, DiskGate, LedgerError, PartitionEnvironment, PartitionLedger, PartitionRef, PartitionSettings,
    PartitionSpec, ProducerDirectory,
};
pub use events::{EventBatch, EventDirectory, Reservation, Reserved};
pub use local::{Checkpointed, Partition, PartitionOpenError};
pub use pool::Pools;
pub use retention::Hold;

/// A boxed future of the seam.
pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// A batch that `admit` has checked.
#[derive(Debug, Clone)]
pub struct CheckedBatch {
    /// Its decoded header.
    pub header: BatchHeader,
    /// Its bytes as they came; base offset and leader epoch are set when it is appended.
    pub bytes: Bytes,
    /// Identity of an idempotent request of plain records (rule PR-7).
    pub request: Option<RequestStamp>,
    /// The event ids in it, if its topic finds out repeats (rule PR-8); shared with whoever waits for the answer.
    pub events: Option<std::sync::Arc<EventBatch>>,
}

/// Identity of an idempotent request of plain records.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RequestStamp {
    /// From InitProducer.
    pub producer_id: i64,
    /// From InitProducer.
    pub producer_epoch: i16,
    /// Rises by one with each request of the producer.
    pub request_number: u64,
}

/// Answer to an append.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendAck {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Number of records.
    pub record_count: u32,
    /// Epoch of the partition.
    pub epoch: PartitionEpoch,
    /// Time of the append in milliseconds since 1970.
    pub append_time_ms: i64,
    /// Level reached.
    pub level: AckLevel,
    /// It had been appended before.
    pub duplicate: bool,
}

/// Why an append was refused or its outcome is unknown.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AppendFailure {
    /// Batches before this one are missing (rule PR-7).
    #[error("sequence {found} of producer {producer_id} leaves a gap: {expected} is next")]
    SequenceGap {
        /// The producer.
        producer_id: i64,
        /// Sequence that is next.
        expected: i32,
        /// Sequence found.
        found: i32,
    },
    /// Older than the batches remembered.
    #[error("sequence or request {found} of producer {producer_id} is older than what is remembered, {oldest}")]
    SequenceTooOld {
        /// The producer.
        producer_id: i64,
        /// Sequence or request number found.
        found: u64,
        /// The oldest remembered.
        oldest: u64,
    },
    /// Not known (any more) here.
    #[error("producer {producer_id} is not known; call InitProducer")]
    UnknownProducer {
        /// The producer.
        producer_id: i64,
    },
    /// A newer epoch of the producer exists.
    #[error("producer {producer_id} has epoch {current}, found {found}")]
    ProducerFenced {
        /// The producer.
        producer_id: i64,
        /// Epoch found.
        found: i16,
        /// Current epoch.
        current: i16,
    },
    /// Read-only until reopened. `outcome_unknown`: it was written before the fence and may or may not be kept.
    #[error("the partition is fenced at {durable_end}: {cause}")]
    Fenced {
        /// The last durable offset, exclusive.
        durable_end: Offset,
        /// Why.
        cause: String,
        /// Whether the records may be in the log.
        outcome_unknown: bool,
    },
    /// The write failed and nothing of it is in the log (rule F2).
    #[error("write failed: {what}")]
    WriteFailed {
        /// Error number of the system, if there was one.
        errno: Option<i32>,
        /// The error in words.
        what: String,
    },
    /// The disk is nearly full (rule F3).
    #[error("disk low: {free_bytes} bytes free, {min_free_bytes} needed")]
    DiskLow {
        /// Bytes free.
        free_bytes: u64,
        /// Bytes that must stay free.
        min_free_bytes: u64,
    },
    /// The metadata log takes no writes, so neither does anything else (rule F1); reads go on.
    #[error("the broker is read-only: {cause}")]
    BrokerReadOnly {
        /// Why.
        cause: String,
    },
    /// The broker is shutting down.
    #[error("shutting down")]
    ShuttingDown,
    /// Not open yet.
    #[error("recovering")]
    Recovering,
    /// Nothing was written: event ids in the batch are known already, or in conflict with others; what was found is
    /// set in its [`EventBatch`] (rule PR-8).
    #[error("event ids in the batch are known already")]
    EventIds,
}

/// Why a read through the seam failed.
#[derive(Debug, thiserror::Error)]
pub enum PartitionReadError {
    /// The log could not serve it.
    #[error(transparent)]
    Log(#[from] ReadError),
    /// The position is of a part that was cut (rule D3).
    #[error("position ({epoch}, {offset}) is of a part that was cut at {truncated_at}")]
    Stale {
        /// Epoch of the position.
        epoch: PartitionEpoch,
        /// Offset of the position.
        offset: Offset,
        /// Where the log was cut.
        truncated_at: Offset,
    },
    /// Not open yet.
    #[error("recovering")]
    Recovering,
}

/// What a partition can do at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionState {
    /// Reads and writes.
    Online,
    /// Reads and writes, with damage.
    Degraded(String),
    /// Read-only up to the durable end.
    Fenced(String),
    /// Not open yet.
    Recovering,
}

/// A description of a partition for people and for `DescribePartitions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionStatus {
    /// First offset kept.
    pub log_start: Offset,
    /// First offset that readers do not see.
    pub high_watermark: Offset,
    /// Offset that the next record gets.
    pub log_end: Offset,
    /// Everything below is synced.
    pub durable_end: Offset,
    /// Bytes of the log files.
    pub size_bytes: u64,
    /// Number of segments.
    pub segments: u32,
    /// Current epoch.
    pub epoch: PartitionEpoch,
    /// State.
    pub state: PartitionState,
    /// Ranges lost to damage.
    pub damaged: Vec<OffsetRange>,
    /// The last cut of the end.
    pub last_truncation: Option<Truncation>,
    /// Offset from which records acknowledged at `written` may be missing (rule D2).
    pub maybe_missing_from: Option<Offset>,
}

/// A cut of a partition's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncation {
    /// First offset cut.
    pub offset: Offset,
    /// Epoch that began with it.
    pub epoch: PartitionEpoch,
    /// Bytes dropped.
    pub bytes: u64,
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
}

/// The seam: a partition's log as everything above sees it.
///
/// Dropping any of its futures changes nothing (rule D8): what was queued is written, synced and counted.
pub trait PartitionLog: Debug + Send + Sync + 'static {
    /// Appends a checked batch, in the task of the caller when no one else leads. The returned future is resolved
    /// when the level is reached; `permit` is dropped then, whether or not anyone still waits.
    fn append(
        &self,
        batch: CheckedBatch,
        level: AckLevel,
        permit: Permit,
    ) -> BoxFuture<'static, Result<AppendAck, AppendFailure>>;
    /// Appends dead letters, durably: takes nothing from the budget of bytes in flight and, while the disk is low, a
    /// part of the reserve, before it is refused like any other append (rules DL-5, F3).
    fn append_dead_letters(&self, batch: CheckedBatch) -> BoxFuture<'static, Result<AppendAck, AppendFailure>> {
        self.append(batch, AckLevel::Durable, Permit::default())
    }
    /// Frames from `from` on, below the high watermark, about `max_bytes` of them; empty at the high watermark.
    /// Answers from the page cache at once, else through the pool for cold reads.
    fn read(&self, from: Offset, max_bytes: usize) -> BoxFuture<'_, Result<FrameRun, PartitionReadError>>;
    /// The same for whoever can wait: at most one such read at a time keeps a thread for cold reads busy, so that those
    /// of live traffic find the others free (rule FC-8).
    fn read_behind(&self, from: Offset, max_bytes: usize) -> BoxFuture<'_, Result<FrameRun, PartitionReadError>> {
        self.read(from, max_bytes)
    }
    /// The high watermark now.
    fn high_watermark(&self) -> Offset;
    /// First offset kept.
    fn log_start(&self) -> Offset;
    /// Resolves when the high watermark is above `offset` or the partition is closed; returns the high watermark.
    fn wait_beyond(&self, offset: Offset) -> BoxFuture<'static, Offset>;
    /// First offset appended at or after `time_ms`, at most the high watermark.
    fn offset_at_time(&self, time_ms: i64) -> BoxFuture<'_, Result<Offset, PartitionReadError>>;
    /// Checks that a position is not of a part that was cut (rules D3, OF-7).
    fn check_position(&self, epoch: PartitionEpoch, offset: Offset) -> BoxFuture<'_, Result<(), PartitionReadError>>;
    /// Current epoch.
    fn epoch(&self) -> PartitionEpoch;
    /// Everything to tell.
    fn status(&self) -> PartitionStatus;
    /// Damaged range that begins at or holds `offset`, if any: where a read that skips damage goes on.
    fn damaged_at(&self, offset: Offset) -> Option<OffsetRange>;
}
