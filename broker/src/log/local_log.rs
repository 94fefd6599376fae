//! One partition's log as its one writer sees it.
//!
//! The owner serialises all calls that take `&mut self`; it may run [`PendingSync::run`] and [`IndexSave::run`]
//! beside them, each one at a time. Owns the order of writes, syncs and publication; must not know producers,
//! acknowledgements or tasks.
//!
//! Invariants:
//! - offsets continue without a gap; epochs and append times never fall;
//! - `log start <= durable end <= end`, and readers never see above the end, nor above the durable end once fenced;
//! - after a failed sync nothing is written to that file again (rule F1);
//! - a failed write leaves nothing in the log, or the log is fenced (rule F2);
//! - a new segment begins only where everything before it is synced (rule D7).
//!
//! Files: `active.rs` the active segment and its space, `sync.rs` syncs, `roll.rs` seal, roll, reopen and close,
//! `index_save.rs` indexes of the active segment on disk, `views.rs` what the owner may ask.

mod active;
mod index_save;
mod roll;
mod sync;
mod views;

use std::io::{self, IoSlice};
use std::sync::Arc;

use parking_lot::Mutex;

use super::environment::{LogEnvironment, LogSettings};
use super::error::{AppendError, OpenError, SyncError};
use super::format::FRAME_HEADER_BYTES;
use super::frame::{FrameDraft, MarkDraft, encode_header, encode_mark};
use super::reader::{LogBounds, LogReader, Published};
use super::recovery::{self, RecoveryHint, RecoveryReport};
use crate::model::{Offset, OffsetRange, PartitionEpoch};

use active::{Active, ActiveStart};
pub use index_save::IndexSave;
pub(crate) use roll::{CreateError, Salts, SegmentStart, create_segment, remove_segment};
pub use sync::PendingSync;
use sync::SyncGate;
pub use views::SegmentInfo;

/// What an append did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// End of the log after it.
    pub end: Offset,
    /// Bytes written, headers and padding included.
    pub bytes: u64,
}

/// The writer of one log.
#[derive(Debug)]
pub struct LocalLog {
    environment: Arc<LogEnvironment>,
    shared: Arc<Mutex<Published>>,
    active: Active,
    /// Whether the active segment has been sealed; held while its index files are written.
    index_files: Arc<Mutex<bool>>,
    end: Offset,
    durable_end: Offset,
    last_epoch: PartitionEpoch,
    last_append_time_ms: i64,
    fenced: Option<String>,
    /// Error number of the call whose failure fenced it.
    fence_errno: Option<i32>,
    salts: Salts,
    /// Headers of the frames being written.
    headers: Vec<u8>,
}

impl LocalLog {
    /// Makes a new, empty log with its first segment, durably (rule D7).
    ///
    /// # Errors
    /// [`OpenError::Foreign`]: there are segments already. [`OpenError::Io`]: a call to the storage failed.
    pub fn create(environment: LogEnvironment, epoch: PartitionEpoch) -> Result<Self, OpenError> {
        let mut salts = Salts::new(environment.salt_seed, &environment.identity);
        let environment = Arc::new(environment);
        let opened = recovery::create(&environment, &mut salts, epoch)?;
        Ok(Self::from_opened(environment, salts, opened).0)
    }

    /// Opens a log as rules D6, D7 and C3 say. A directory without segments is one whose creation was cut short.
    ///
    /// # Errors
    /// [`OpenError::Foreign`]: files of another log or version are in its place; nothing of them was touched.
    /// [`OpenError::Io`]: a call to the storage failed; opening may be tried again.
    pub fn open(environment: LogEnvironment, hint: &RecoveryHint) -> Result<(Self, RecoveryReport), OpenError> {
        let mut salts = Salts::new(environment.salt_seed, &environment.identity);
        let environment = Arc::new(environment);
        let opened = recovery::open(&environment, &mut salts, hint)?;
        Ok(Self::from_opened(environment, salts, opened))
    }

    fn from_opened(environment: Arc<LogEnvironment>, salts: Salts, opened: recovery::Opened) -> (Self, RecoveryReport) {
        let bounds = LogBounds { start: opened.start, durable_end: opened.durable_end, end: opened.durable_end };
        let start = ActiveStart {
            segment: opened.active,
            header: opened.header,
            end_position: opened.end_position,
            durable_position: opened.end_position,
            first_append_time_ms: opened.first_append_time_ms,
            proven_end: opened.proven_end,
            marked: opened.marked,
            indexed_bytes: opened.indexed_bytes,
        };
        let published = Published {
            bounds,
            active_bytes: opened.end_position,
            segments: opened.segments.into(),
            damaged: opened.damaged.into(),
        };
        let log = Self {
            active: Active::new(&environment, start, None),
            shared: Arc::new(Mutex::new(published)),
            index_files: Arc::default(),
            end: opened.durable_end,
            durable_end: opened.durable_end,
            last_epoch: opened.last_epoch,
            last_append_time_ms: opened.last_append_time_ms,
            fenced: opened.report.fenced.clone(),
            fence_errno: None,
            salts,
            headers: Vec::new(),
            environment,
        };
        (log, opened.report)
    }

    /// A reader of this log; stays valid while the log lives.
    pub fn reader(&self) -> LogReader {
        LogReader::new(self.shared.clone())
    }

    /// Writes all frames with as few calls as the system allows, to the page cache, and shows them to readers.
    /// Bounded work: never rolls, never syncs unless a write failed.
    ///
    /// # Errors
    /// [`AppendError::Write`]: nothing of it is in the log (rule F2). [`AppendError::Fenced`]: no more writes.
    ///
    /// # Panics
    /// If offsets, epochs or times do not continue the log: the caller's defect.
    pub fn append(&mut self, frames: &[FrameDraft]) -> Result<Appended, AppendError> {
        let gate = self.gate_to_write()?;
        let Some(last) = frames.last() else { return Ok(Appended { end: self.end, bytes: 0 }) };
        self.assert_continues(frames);
        let mut headers = std::mem::take(&mut self.headers);
        headers.clear();
        for frame in frames {
            encode_header(frame, &self.active.context, self.durable_end, &mut headers);
        }
        let incoming = frames.iter().map(FrameDraft::frame_bytes).sum();
        self.active.allocate_ahead(&self.environment, &gate, incoming, last.append_time_ms);
        let begin = self.active.end_position;
        let mut slices: Vec<IoSlice<'_>> = Vec::with_capacity(frames.len() * 5);
        for (frame, header) in frames.iter().zip(headers.chunks_exact(FRAME_HEADER_BYTES)) {
            let parts = [header, &frame.extensions, &frame.batch_head, &frame.batch_rest, frame.padding()];
            slices.extend(parts.into_iter().filter(|part| !part.is_empty()).map(IoSlice::new));
        }
        let written = self.active.write(&gate, &mut slices);
        drop(slices);
        self.headers = headers;
        match written {
            Ok(bytes) => assert_eq!(bytes, incoming, "an append writes all bytes of its frames"),
            Err(error) => return Err(self.take_back(&gate, error)),
        }
        self.note_appended(frames, begin);
        if let Err(error) = self.active.start_write_back(&gate) {
            return Err(self.fence_after(&error));
        }
        Ok(Appended { end: self.end, bytes: incoming })
    }

    fn assert_continues(&self, frames: &[FrameDraft]) {
        let (mut end, mut epoch, mut time_ms) = (self.end, self.last_epoch, self.last_append_time_ms);
        for frame in frames {
            assert_eq!(frame.base_offset, end, "offsets continue without a gap");
            assert!(frame.epoch >= epoch, "epochs never fall along a log");
            assert!(frame.append_time_ms >= time_ms, "append times never fall along a log");
            assert!(
                end.checked_add(u64::from(frame.record_count)).is_some(),
                "a log never reaches the greatest offset"
            );
            (end, epoch, time_ms) = (frame.end_offset(), frame.epoch, frame.append_time_ms);
        }
    }

    /// The descriptor to write to, unless the log is fenced.
    fn gate_to_write(&mut self) -> Result<Arc<SyncGate>, AppendError> {
        if let Some(cause) = &self.fenced {
            return Err(AppendError::Fenced { cause: cause.clone() });
        }
        let gate = self.active.gate(&self.environment).map_err(|source| AppendError::Write { source })?;
        if let Some(error) = gate.failure().cloned() {
            return Err(self.fence_after(&error));
        }
        Ok(gate)
    }

    /// Indexes frames that were written from `position` on, and shows them to readers.
    fn note_appended(&mut self, frames: &[FrameDraft], mut position: u64) {
        {
            let interval = self.environment.settings.index_interval_bytes;
            let mut live = self.active.segment.live().lock();
            for frame in frames {
                live.note(frame.base_offset, frame.append_time_ms, position, interval);
                position += frame.frame_bytes();
            }
        }
        for frame in frames {
            self.active.first_append_time_ms.get_or_insert(frame.append_time_ms);
            (self.end, self.last_epoch) = (frame.end_offset(), frame.epoch);
            self.last_append_time_ms = frame.append_time_ms;
        }
        self.active.proven_end = self.active.proven_end.max(self.durable_end);
        self.active.marked = false;
        let (end, active_bytes) = (self.end, self.active.end_position);
        let mut shared = self.shared.lock();
        shared.bounds.end = end;
        shared.active_bytes = active_bytes;
    }

    /// After a failed write: cuts the file back to where it ended and syncs it, so that the refusal is definite
    /// (rule F2); if that fails, fences.
    fn take_back(&mut self, gate: &Arc<SyncGate>, source: io::Error) -> AppendError {
        if let Err(error) = self.active.trim(&self.environment, gate) {
            let cause = format!("a failed write ({source}) could not be taken back: {error}");
            self.fence_for(&cause, error.raw_os_error());
            return AppendError::Fenced { cause };
        }
        match self.sync_inline(gate) {
            Ok(()) => AppendError::Write { source },
            Err(error) => error,
        }
    }

    /// Syncs the active segment here and now.
    fn sync_inline(&mut self, gate: &Arc<SyncGate>) -> Result<(), AppendError> {
        if let Err(error) = gate.sync() {
            return Err(self.fence_after(&error));
        }
        self.note_durable(self.end, self.active.end_position);
        Ok(())
    }

    fn fence_after(&mut self, error: &SyncError) -> AppendError {
        let cause = error.to_string();
        self.fence_for(&cause, error.errno);
        AppendError::Fenced { cause }
    }

    /// A sync of everything appended so far, or `None` if all is durable or the log is fenced.
    pub fn pending_sync(&self) -> Option<PendingSync> {
        if self.fenced.is_some() || self.active.durable_position == self.active.end_position {
            return None;
        }
        let gate = self.active.open_gate().expect("a descriptor with unsynced bytes is never closed").clone();
        Some(PendingSync { gate, base: self.active.segment.base(), end: self.end, position: self.active.end_position })
    }

    /// Takes note that a sync has succeeded. Does nothing if the log was fenced meanwhile: a sync that overlaps
    /// a failed one proves nothing.
    pub fn note_synced(&mut self, sync: &PendingSync) {
        if self.fenced.is_some() || sync.base != self.active.segment.base() || sync.gate.failure().is_some() {
            return;
        }
        self.note_durable(sync.end, sync.position);
        if self.active.marked {
            self.active.release();
        }
    }

    fn note_durable(&mut self, end: Offset, position: u64) {
        if position <= self.active.durable_position {
            return;
        }
        self.active.durable_position = position;
        self.durable_end = self.durable_end.max(end);
        self.shared.lock().bounds.durable_end = self.durable_end;
    }

    /// Takes no more writes and hides everything above the durable end from readers (rule F1).
    pub fn fence(&mut self, cause: &str) {
        self.fence_for(cause, None);
    }

    fn fence_for(&mut self, cause: &str, errno: Option<i32>) {
        if self.fenced.is_some() {
            return;
        }
        (self.fenced, self.fence_errno) = (Some(cause.to_owned()), errno);
        self.active.give_back(&self.environment);
        self.end = self.durable_end;
        self.active.end_position = self.active.durable_position;
        let mut shared = self.shared.lock();
        shared.bounds.end = self.durable_end;
        shared.active_bytes = self.active.durable_position;
    }

    /// Writes a mark frame, so that the durable end is proven (rule C3), and gives back space allocated ahead; the
    /// caller syncs it like any append. Does nothing if the last frame proves it already. Once a mark is synced, the
    /// log closes its descriptor until the next append.
    ///
    /// # Errors
    /// As [`LocalLog::append`].
    pub fn write_mark(&mut self, append_time_ms: i64, epoch: PartitionEpoch) -> Result<(), AppendError> {
        if self.fenced.is_none() && self.active.proven_end >= self.durable_end && !self.active.has_space_ahead() {
            return Ok(());
        }
        let gate = self.gate_to_write()?;
        if let Err(error) = self.active.trim(&self.environment, &gate) {
            return Err(self.take_back(&gate, error));
        }
        if self.active.proven_end >= self.durable_end {
            return Ok(());
        }
        let mark = MarkDraft {
            end: self.end,
            durable_end: self.durable_end,
            append_time_ms: append_time_ms.max(self.last_append_time_ms),
            epoch: epoch.max(self.last_epoch),
        };
        let mut bytes = Vec::with_capacity(FRAME_HEADER_BYTES);
        encode_mark(&mark, &self.active.context, &mut bytes);
        let begin = self.active.end_position;
        if let Err(error) = self.active.write(&gate, &mut [IoSlice::new(&bytes)]) {
            debug_assert_eq!(begin, self.active.end_position, "a failed write does not move the end");
            return Err(self.take_back(&gate, error));
        }
        self.active.proven_end = mark.durable_end;
        self.active.marked = true;
        (self.last_epoch, self.last_append_time_ms) = (mark.epoch, mark.append_time_ms);
        self.shared.lock().active_bytes = self.active.end_position;
        Ok(())
    }

    /// Takes changed settings; those of the active segment's size apply from the next roll check.
    pub fn set_settings(&mut self, settings: LogSettings) {
        self.environment = Arc::new(LogEnvironment { settings, ..(*self.environment).clone() });
    }

    /// Takes note of damage found while reading, so that reads stop before it and say where it ends (rule C3).
    pub fn quarantine(&mut self, range: OffsetRange) {
        let mut shared = self.shared.lock();
        shared.damaged = recovery::with_range(&shared.damaged, range).into();
    }
}

impl Drop for LocalLog {
    fn drop(&mut self) {
        self.active.give_back(&self.environment);
    }
}

#[cfg(test)]
mod tests;
