//! The active segment as its writer holds it: where it ends, what of it is synced, and the space ahead of it.
//!
//! Must not know offsets of records beyond its own, nor readers: [`super`] publishes.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::sync::SyncGate;
use crate::limits;
use crate::log::environment::LogEnvironment;
use crate::log::error::SyncError;
use crate::log::flush::write_back_range;
use crate::log::frame::FrameContext;
use crate::log::segment::Segment;
use crate::log::segment_header::SegmentHeader;
use crate::log::storage::OpenMode;
use crate::model::Offset;

/// Bytes of a segment below which nothing is allocated ahead (rule S4).
const ALLOCATE_FROM_BYTES: u64 = 1 << 20;
/// Bytes that are filled with zeros at once.
const ZERO_FILL_BYTES: u64 = 512 << 10;
/// Bytes per second above which zeros would cost more than they save.
const ZERO_FILL_RATE: u64 = 50_000_000;
/// What zeros are written from.
static ZEROS: [u8; 64 << 10] = [0; 64 << 10];

/// The active segment.
#[derive(Debug)]
pub(super) struct Active {
    pub(super) segment: Arc<Segment>,
    pub(super) context: FrameContext,
    /// The descriptor that writes; `None` while the log is idle.
    gate: Option<Arc<SyncGate>>,
    /// Where the next frame goes.
    pub(super) end_position: u64,
    /// Everything below is synced.
    pub(super) durable_position: u64,
    /// Write-back has been started below.
    written_back: u64,
    /// Length of the file: zeros from the end to there.
    file_bytes: u64,
    space: Space,
    /// Append time of the first frame.
    pub(super) first_append_time_ms: Option<i64>,
    /// The durable end that the last frame carries.
    pub(super) proven_end: Offset,
    /// The last frame is a mark.
    pub(super) marked: bool,
    /// Bytes that the index on disk covers.
    pub(super) indexed_bytes: u64,
}

/// Space allocated ahead of the end.
#[derive(Debug, Default)]
struct Space {
    /// Allocated up to here.
    end: u64,
    /// Bytes taken out of the budget of all logs.
    held: u64,
    /// End and append time at the last step, to tell the rate.
    step_at: u64,
    step_time_ms: i64,
    /// The system refused: not again in this segment.
    refused: bool,
}

/// What a segment has when it becomes the active one.
#[derive(Debug)]
pub(super) struct ActiveStart {
    pub(super) segment: Arc<Segment>,
    pub(super) header: SegmentHeader,
    pub(super) end_position: u64,
    pub(super) durable_position: u64,
    pub(super) first_append_time_ms: Option<i64>,
    pub(super) proven_end: Offset,
    pub(super) marked: bool,
    pub(super) indexed_bytes: u64,
}

impl Active {
    pub(super) fn new(environment: &LogEnvironment, start: ActiveStart, gate: Option<Arc<SyncGate>>) -> Self {
        let context = environment.context(start.header.salt);
        if let Some(gate) = &gate {
            start.segment.pin(gate.file().clone(), context);
        }
        Self {
            segment: start.segment,
            context,
            gate,
            end_position: start.end_position,
            durable_position: start.durable_position,
            written_back: start.durable_position,
            file_bytes: start.end_position,
            space: Space::default(),
            first_append_time_ms: start.first_append_time_ms,
            proven_end: start.proven_end,
            marked: start.marked,
            indexed_bytes: start.indexed_bytes,
        }
    }

    /// The descriptor that writes, opened if the log was idle.
    pub(super) fn gate(&mut self, environment: &LogEnvironment) -> io::Result<Arc<SyncGate>> {
        if let Some(gate) = &self.gate {
            return Ok(gate.clone());
        }
        let path = self.segment.path(crate::log::format::FileKind::Log);
        let file = environment.storage.open(&path, OpenMode::ReadWrite)?;
        let gate = SyncGate::new(file);
        self.segment.pin(gate.file().clone(), self.context);
        self.gate = Some(gate.clone());
        Ok(gate)
    }

    /// The descriptor that writes, if it is open.
    pub(super) fn open_gate(&self) -> Option<&Arc<SyncGate>> {
        self.gate.as_ref()
    }

    /// Closes the descriptor of an idle segment; never one with unsynced bytes (rule F1).
    pub(super) fn release(&mut self) {
        if self.durable_position == self.end_position && self.gate.take().is_some() {
            self.segment.unpin();
        }
    }

    /// Writes all slices at the end, with as few calls as the system allows. A short write is continued once.
    pub(super) fn write(&mut self, gate: &SyncGate, slices: &mut [IoSlice<'_>]) -> io::Result<u64> {
        let mut position = self.end_position;
        let mut continued = false;
        for chunk in slices.chunks_mut(limits::WRITE_SLICES) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let len: usize = rest.iter().map(|slice| slice.len()).sum();
                let written = gate.file().write_at(rest, position)?;
                position += written as u64;
                if written < len {
                    if continued {
                        return Err(io::Error::new(io::ErrorKind::WriteZero, "the write came up short twice"));
                    }
                    continued = true;
                }
                IoSlice::advance_slices(&mut rest, written);
            }
        }
        let bytes = position - self.end_position;
        self.end_position = position;
        self.file_bytes = self.file_bytes.max(position);
        Ok(bytes)
    }

    /// Makes sure that the file ends where the frames end, and gives back the space ahead (rules F2, C3).
    pub(super) fn trim(&mut self, environment: &LogEnvironment, gate: &SyncGate) -> io::Result<()> {
        gate.file().set_len(self.end_position)?;
        self.file_bytes = self.end_position;
        self.give_back(environment);
        Ok(())
    }

    /// Whether there may be bytes behind the end.
    pub(super) fn has_space_ahead(&self) -> bool {
        self.file_bytes > self.end_position || self.space.end > self.end_position
    }

    /// Gives the bytes of the budget back.
    pub(super) fn give_back(&mut self, environment: &LogEnvironment) {
        environment.ahead.give(std::mem::take(&mut self.space.held));
        self.space.end = 0;
    }

    /// Starts write-back of what was written since the last time, every 8 MiB (rule F8).
    pub(super) fn start_write_back(&mut self, gate: &SyncGate) -> Result<(), SyncError> {
        let from = self.written_back.max(self.durable_position);
        let Some(range) = write_back_range(from, self.end_position) else { return Ok(()) };
        self.written_back = range.end;
        gate.start_write_back(range.start, range.end - range.start)
    }

    /// Before a write of `incoming` bytes: allocates the next step if the last is used up. Space ahead only saves
    /// time, so that a refusal is no failure.
    pub(super) fn allocate_ahead(&mut self, environment: &LogEnvironment, gate: &SyncGate, incoming: u64, now_ms: i64) {
        let step = environment.settings.allocation_step_bytes;
        let end = self.end_position + incoming;
        if step == 0 || end < ALLOCATE_FROM_BYTES || self.space.refused {
            return;
        }
        if end > self.space.end {
            let from = self.space.end.max(self.end_position);
            let to = (end + step).min(environment.settings.segment_bytes.max(end));
            self.give_back(environment);
            if to <= end || !environment.ahead.take(to - end) {
                return;
            }
            self.space.held = to - end;
            self.space.end = to;
            if gate.file().allocate(from, to - from).is_err() {
                self.space.refused = true;
                self.give_back(environment);
                return;
            }
            self.note_step(end, now_ms);
        }
        if end > self.file_bytes && self.is_slow(end, now_ms) {
            self.fill_ahead(gate, end);
        }
    }

    fn note_step(&mut self, end: u64, now_ms: i64) {
        self.space.step_at = end;
        self.space.step_time_ms = now_ms;
    }

    /// Whether bytes come so slowly that zeros written ahead save more than they cost.
    fn is_slow(&self, end: u64, now_ms: i64) -> bool {
        let elapsed_ms = u64::try_from(now_ms.saturating_sub(self.space.step_time_ms)).unwrap_or(0);
        let since_step = end - self.space.step_at;
        since_step.saturating_mul(1_000) < ZERO_FILL_RATE.saturating_mul(elapsed_ms)
    }

    /// Writes zeros behind the place where the next frames go, so that syncs need not record a new length.
    fn fill_ahead(&mut self, gate: &SyncGate, end: u64) {
        let to = (end + ZERO_FILL_BYTES).min(self.space.end);
        let mut position = end;
        while position < to {
            let len = (to - position).min(ZEROS.len() as u64) as usize;
            match gate.file().write_at(&[IoSlice::new(&ZEROS[..len])], position) {
                Ok(written) if written > 0 => position += written as u64,
                _ => {
                    self.space.refused = true;
                    break;
                }
            }
        }
        self.file_bytes = self.file_bytes.max(position);
    }
}
