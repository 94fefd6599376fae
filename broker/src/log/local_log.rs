//! One partition's log as its one writer sees it.
//!
//! The owner serialises `append`, `roll`, `write_mark`, `cut`, `raise_start`; it may run [`PendingSync::run`] beside
//! them, one at a time.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;

use super::error::{AppendError, OpenError, SyncError};
use super::reader::LogReader;
use super::storage::Storage;
use crate::model::{Offset, OffsetRange, PartitionEpoch, PartitionId, TopicId, TopicUuid};

/// Whose log it is: stands in every segment header.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// Id of the data directory, from its `FORMAT` file.
    pub data_dir: [u8; 16],
    /// Id of the topic that clients see.
    pub topic_uuid: TopicUuid,
    /// Number of the topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

/// Settings of a log that may change while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Bytes at which the active segment is sealed, 1 MiB to 1 GiB (smaller in tests).
    pub segment_bytes: u64,
    /// Bytes of log per entry of the offset index, 4,096 by default.
    pub index_interval_bytes: u64,
    /// Bytes by which space is allocated ahead; 0: never.
    pub allocation_step_bytes: u64,
}

/// Where a log lives.
#[derive(Debug, Clone)]
pub struct LogEnvironment {
    /// The files.
    pub storage: Arc<dyn Storage>,
    /// Directory of the log, relative to the data directory.
    pub dir: PathBuf,
    /// Whose log it is.
    pub identity: LogIdentity,
    /// Its settings.
    pub settings: LogSettings,
    /// Random bits for the salts of its segments.
    pub salt_seed: u64,
}

/// A frame to append.
#[derive(Debug, Clone)]
pub struct FrameDraft {
    /// Offset of the first record: the end of the log, or of the draft before.
    pub base_offset: Offset,
    /// Records in it, at least 1.
    pub record_count: u32,
    /// Time of the append in milliseconds since 1970; never falls along a log.
    pub append_time_ms: i64,
    /// Epoch of the partition; never falls along a log.
    pub epoch: PartitionEpoch,
    /// The encoded extension block; empty if there is none.
    pub extensions: Bytes,
    /// The first bytes of the batch, which the broker has set.
    pub batch_head: Bytes,
    /// The rest of the batch.
    pub batch_rest: Bytes,
}

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// End of the log after it.
    pub end: Offset,
    /// Bytes written, headers and padding included.
    pub bytes: u64,
}

/// What is known of a log before it is opened; none of it is evidence that bytes are good.
#[derive(Debug, Clone, Default)]
pub struct RecoveryHint {
    /// First offset kept, from the metadata log (rule D9).
    pub log_start: Offset,
    /// Everything below had been synced, from the checkpoint or the clean marker.
    pub proven_end: Offset,
    /// The clean-shutdown marker says that the log ends here and is whole.
    pub clean_end: Option<Offset>,
    /// Ranges known to be damaged, from the metadata log.
    pub quarantined: Vec<OffsetRange>,
    /// Epoch for frames that recovery itself may have to append behind a damaged end.
    pub next_epoch: PartitionEpoch,
}

/// What opening a log found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// End of the log.
    pub end: Offset,
    /// Epoch of its last frame, if it has one.
    pub last_epoch: Option<PartitionEpoch>,
    /// Append time of its last frame, 0 if it has none.
    pub last_append_time_ms: i64,
    /// Bytes read and verified.
    pub scanned_bytes: u64,
    /// Bytes of a torn tail that were cut off.
    pub dropped_bytes: u64,
    /// Ranges found damaged now, to be kept in the metadata log.
    pub quarantined: Vec<OffsetRange>,
    /// The last sync of recovery failed: the log is fenced at its proven end (rule D6).
    pub fenced: Option<String>,
}

/// The writer of one log.
#[derive(Debug)]
pub struct LocalLog {}

/// A sync that covers everything appended before it was taken; run on any thread, one at a time per log.
#[derive(Debug)]
pub struct PendingSync {}

impl PendingSync {
    /// Syncs the file (`fdatasync`).
    ///
    /// # Errors
    /// The sync failed: the log must be told with [`LocalLog::fence`].
    pub fn run(&self) -> Result<(), SyncError> {
        todo!()
    }

    /// Everything below is durable once [`PendingSync::run`] has returned `Ok`.
    pub fn end(&self) -> Offset {
        todo!()
    }
}

impl LocalLog {
    /// Makes a new, empty log with its first segment, durably (rule D7).
    pub fn create(_environment: LogEnvironment, _epoch: PartitionEpoch) -> Result<Self, OpenError> {
        todo!()
    }

    /// Opens a log as rules D6, D7 and C3 say.
    pub fn open(_environment: LogEnvironment, _hint: &RecoveryHint) -> Result<(Self, RecoveryReport), OpenError> {
        todo!()
    }

    /// A reader of this log; stays valid while the log lives.
    pub fn reader(&self) -> LogReader {
        todo!()
    }

    /// End of the log: the offset that the next record gets.
    pub fn end(&self) -> Offset {
        todo!()
    }

    /// Everything below is known to be synced.
    pub fn durable_end(&self) -> Offset {
        todo!()
    }

    /// Bytes appended and not yet synced.
    pub fn unsynced_bytes(&self) -> u64 {
        todo!()
    }

    /// Why the log is fenced, if it is.
    pub fn fenced(&self) -> Option<&str> {
        todo!()
    }

    /// Takes changed settings; those of the active segment's size apply from the next roll check.
    pub fn set_settings(&mut self, _settings: LogSettings) {
        todo!()
    }

    /// Writes all frames with as few calls as the system allows, to the page cache, and shows them to readers.
    /// Bounded work: never rolls, never syncs.
    ///
    /// # Errors
    /// [`AppendError::Write`]: nothing of it is in the log (rule F2). [`AppendError::Fenced`]: no more writes.
    ///
    /// # Panics
    /// If offsets, epochs or times do not continue the log: the caller's defect.
    pub fn append(&mut self, _frames: &[FrameDraft]) -> Result<Appended, AppendError> {
        todo!()
    }

    /// Whether the active segment must be sealed before so many more bytes are appended.
    pub fn must_roll(&self, _incoming_bytes: u64) -> bool {
        todo!()
    }

    /// Append time of the first frame of the active segment, if it has one: for rolling by age.
    pub fn active_since_ms(&self) -> Option<i64> {
        todo!()
    }

    /// Seals the active segment (sync, indexes, exact length) and starts the next. Blocks; no sync may be pending.
    ///
    /// # Errors
    /// As `append`; a failed sync fences.
    pub fn roll(&mut self) -> Result<(), AppendError> {
        todo!()
    }

    /// A sync of everything appended so far, or `None` if all is durable.
    pub fn pending_sync(&self) -> Option<PendingSync> {
        todo!()
    }

    /// Takes note that a sync has succeeded.
    pub fn note_synced(&mut self, _sync: &PendingSync) {
        todo!()
    }

    /// Takes no more writes and hides everything above the durable end from readers (rule F1).
    pub fn fence(&mut self, _cause: &str) {
        todo!()
    }

    /// Leaves the fence: a new segment from the durable end; what lies above is gone (rule F1).
    ///
    /// # Errors
    /// The new files could not be synced; the log stays fenced.
    pub fn reopen(&mut self, _epoch: PartitionEpoch) -> Result<(), AppendError> {
        todo!()
    }

    /// Writes a mark frame, so that the durable end is proven (rule C3), and gives back space allocated ahead; the
    /// caller syncs it like any append. Does nothing if the last frame proves it already.
    pub fn write_mark(&mut self, _append_time_ms: i64, _epoch: PartitionEpoch) -> Result<(), AppendError> {
        todo!()
    }

    /// Removes sealed segments that lie wholly below `start`, and hides everything below it from readers. The
    /// caller has made `start` durable first (rule D9).
    pub fn raise_start(&mut self, _start: Offset) -> Result<(), AppendError> {
        todo!()
    }

    /// Bytes of all log files.
    pub fn size_bytes(&self) -> u64 {
        todo!()
    }

    /// Each segment: base offset, end offset, bytes, append time of its last frame; oldest first, the active last.
    pub fn segments(&self) -> Vec<SegmentInfo> {
        todo!()
    }

    /// Marks, syncs and gives back allocated space, for a clean stop; returns the end for the clean marker.
    pub fn close(&mut self, _append_time_ms: i64, _epoch: PartitionEpoch) -> Result<Offset, AppendError> {
        todo!()
    }
}

/// A segment as retention and listings see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentInfo {
    /// Offset of its first record.
    pub base: Offset,
    /// Offset after its last record.
    pub end: Offset,
    /// Bytes of its log file.
    pub bytes: u64,
    /// Append time of its last frame in milliseconds since 1970; 0 if it has none.
    pub last_append_time_ms: i64,
    /// Whether it takes appends.
    pub active: bool,
}
