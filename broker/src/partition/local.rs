//! The local engine of one partition: group append over [`crate::log::LocalLog`], syncs, readers.

use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::clock::Monotonic;
use crate::log::{OpenError, RecoveryReport, SyncError};
use crate::model::{Offset, OffsetRange, PartitionEpoch};

use super::environment::{LedgerError, PartitionEnvironment, PartitionSettings, PartitionSpec};
use super::{
    AckLevel, AppendAck, AppendFailure, BoxFuture, CheckedBatch, FrameRun, PartitionLog, PartitionReadError,
    PartitionStatus, Permit,
};

/// Why a partition could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PartitionOpenError {
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The metadata log does not take what must be durable first.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The log was opened, but could not be read to find the producers' state.
    #[error("reading the log for producer state: {what}")]
    Producers {
        /// Why.
        what: String,
    },
}

/// The answer to a call that a partition's leader carries out: a future, or [`Ticket::wait`] where blocking is
/// allowed. Dropping it changes nothing.
#[derive(Debug)]
#[must_use = "the call is under way, but its outcome is lost"]
pub struct Ticket<T>(PhantomData<T>);

impl<T> Ticket<T> {
    /// Blocks this thread until the answer is there. Not in async code.
    pub fn wait(self) -> T {
        todo!()
    }
}

impl<T> Future for Ticket<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, _context: &mut Context<'_>) -> Poll<T> {
        todo!()
    }
}

/// What the next checkpoint may say of a partition: everything below `proven_end` is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpointed {
    /// Everything below is synced; 0 bytes above it are unchecked at best.
    pub proven_end: Offset,
    /// First offset kept.
    pub log_start: Offset,
    /// Current epoch.
    pub epoch: PartitionEpoch,
    /// Bytes appended since the last checkpoint, which recovery would have to check.
    pub unchecked_bytes: u64,
    /// Fenced: must be in no clean marker.
    pub fenced: bool,
}

/// One partition on this machine.
#[derive(Debug)]
pub struct Partition {}

impl Partition {
    /// Makes or opens a partition. Blocks; only on threads that may.
    ///
    /// # Errors
    /// See [`PartitionOpenError`]. A last sync of recovery that failed is no error: the partition comes up fenced.
    pub fn open(
        _spec: PartitionSpec,
        _environment: PartitionEnvironment,
    ) -> Result<(Arc<Self>, RecoveryReport), PartitionOpenError> {
        todo!()
    }

    /// Takes changed settings. A floor raised to `durable` shows readers nothing more until it is synced (rule D3).
    pub fn apply_settings(&self, _settings: PartitionSettings) -> Ticket<Result<(), AppendFailure>> {
        todo!()
    }

    /// Syncs all that was appended before the call.
    pub fn sync_now(&self) -> Ticket<Result<(), AppendFailure>> {
        todo!()
    }

    /// Removes sealed segments below `start` and hides everything below it from readers. The ledger has it already
    /// (rule D9).
    pub fn raise_start(&self, _start: Offset) -> Ticket<Result<(), AppendFailure>> {
        todo!()
    }

    /// Leaves the fence under this epoch, which the ledger has already (rule F1): producers are rolled back to the
    /// surviving end before any append (rule PR-12).
    pub fn reopen(&self, _epoch: PartitionEpoch) -> Ticket<Result<(), AppendFailure>> {
        todo!()
    }

    /// Whether it is fenced because the disk or a quota was full (rule F1): to be reopened once there is space.
    pub fn fenced_for_space(&self) -> bool {
        todo!()
    }

    /// What has to be done by time: flush, mark frame, roll by age, forgotten producers. Cheap if nothing is due;
    /// to be called about four times a second.
    pub fn tick(&self, _now: Monotonic, _wall_ms: i64) {
        todo!()
    }

    /// The first offset that retention by age and bytes would keep now, if it is above the log start. `hold`: kept
    /// for others all the same.
    pub fn retention_start(&self, _wall_ms: i64, _hold: Option<Offset>) -> Option<Offset> {
        todo!()
    }

    /// Retention: finds the first offset to keep, makes it durable in the ledger, removes what lies below. Blocks.
    /// Returns the new log start if it rose.
    ///
    /// # Errors
    /// The ledger or the files failed; what was not removed is removed by a later run.
    pub fn run_retention(&self, _wall_ms: i64, _hold: Option<Offset>) -> Result<Option<Offset>, AppendFailure> {
        todo!()
    }

    /// What the next checkpoint may say. Also writes the producers' snapshot if it is old; blocks for that.
    pub fn checkpoint(&self) -> Checkpointed {
        todo!()
    }

    /// Verifies up to `max_bytes` of sealed segments from where the last call stopped. Blocks. Returns the bytes
    /// read; fewer than asked for once the pass is complete. Damage found goes to the ledger (rules C3, C5).
    pub fn scrub(&self, _max_bytes: u64) -> u64 {
        todo!()
    }

    /// Refuses appends from now on; those queued are finished.
    pub fn begin_shutdown(&self) {
        todo!()
    }

    /// Finishes what is queued, marks, syncs, writes the producers' snapshot; returns the end for the clean marker
    /// (rule S5). Later calls find it closed.
    pub fn close(&self) -> Ticket<Result<Offset, AppendFailure>> {
        todo!()
    }

    /// Keeps a damaged range found by others.
    pub fn report_damage(&self, _range: OffsetRange, _what: &str) {
        todo!()
    }
}

impl PartitionLog for Partition {
    fn append(
        &self,
        _batch: CheckedBatch,
        _level: AckLevel,
        _permit: Permit,
    ) -> BoxFuture<'static, Result<AppendAck, AppendFailure>> {
        let _: Option<SyncError> = None;
        todo!()
    }
    fn read(&self, _from: Offset, _max_bytes: usize) -> BoxFuture<'_, Result<FrameRun, PartitionReadError>> {
        todo!()
    }
    fn high_watermark(&self) -> Offset {
        todo!()
    }
    fn log_start(&self) -> Offset {
        todo!()
    }
    fn wait_beyond(&self, _offset: Offset) -> BoxFuture<'static, Offset> {
        todo!()
    }
    fn offset_at_time(&self, _time_ms: i64) -> BoxFuture<'_, Result<Offset, PartitionReadError>> {
        todo!()
    }
    fn check_position(&self, _epoch: PartitionEpoch, _offset: Offset) -> BoxFuture<'_, Result<(), PartitionReadError>> {
        todo!()
    }
    fn epoch(&self) -> PartitionEpoch {
        todo!()
    }
    fn status(&self) -> PartitionStatus {
        todo!()
    }
    fn damaged_at(&self, _offset: Offset) -> Option<OffsetRange> {
        todo!()
    }
}
