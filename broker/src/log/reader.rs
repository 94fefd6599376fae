//! Reading a log: verified frames from any offset, beside the writer and without waiting for it.
//!
//! Owns what readers see: [`Published`], replaced by the writer under a short lock. Must not know how the log is
//! written. The walk over frames is in `lookup.rs` (headers) and `collect.rs` (whole frames).
//!
//! Invariants:
//! - a reader takes a copy of the published state and never waits for a write or a sync;
//! - no byte at or above the published end is looked at, and no frame is handed out unchecked (rule C5);
//! - a frame that fails is read once more, from the device, before it counts as bad;
//! - what an index says is checked against the frame that it points to (rule C4).

mod collect;
mod lookup;

use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;

use super::error::{Corruption, ReadError};
use super::format::FileKind;
use super::segment::Segment;
use crate::model::{FilePosition, Offset, OffsetRange, PartitionEpoch};

/// Whether a read may wait for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadMode {
    /// It may; only on threads that may block.
    Blocking,
    /// Only what the page cache has, else [`ReadError::WouldBlock`].
    CachedOnly,
}

/// What to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReadRange {
    /// First offset wanted; the first frame is the one that holds it.
    pub from: Offset,
    /// No frame that begins here or later, and none that ends later.
    pub until: Offset,
    /// Stop before a frame that would bring the sum of bytes above this; the first frame always comes.
    pub max_bytes: usize,
}

/// A verified frame; its buffers are slices of one read.
#[derive(Debug, Clone)]
pub struct Frame {
    /// Offset of the first record.
    pub base_offset: Offset,
    /// Records in it.
    pub record_count: u32,
    /// Time of the append.
    pub append_time_ms: i64,
    /// Epoch of the partition when it was appended.
    pub epoch: PartitionEpoch,
    /// The extension block.
    pub extensions: Bytes,
    /// The batch.
    pub batch: Bytes,
}

impl Frame {
    /// Offset after the last record.
    pub fn end_offset(&self) -> Offset {
        self.base_offset.saturating_add(u64::from(self.record_count))
    }
}

/// Frames that follow each other without a gap; mark frames are left out.
#[derive(Debug, Clone, Default)]
pub struct FrameRun {
    /// In order of offset.
    pub frames: Vec<Frame>,
    /// Offset at which to go on.
    pub next: Offset,
}

/// The published bounds of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogBounds {
    /// First offset kept.
    pub start: Offset,
    /// Everything below is known to be synced.
    pub durable_end: Offset,
    /// Offset that the next record gets.
    pub end: Offset,
}

/// What readers see of a log.
#[derive(Debug, Clone)]
pub(crate) struct Published {
    pub(crate) bounds: LogBounds,
    /// Bytes of the active segment that readers may look at.
    pub(crate) active_bytes: u64,
    /// All segments, in order; the last is the active one.
    pub(crate) segments: Arc<[Arc<Segment>]>,
    /// Ranges known to be lost, in order.
    pub(crate) damaged: Arc<[OffsetRange]>,
}

impl Published {
    /// Number of the segment that holds `offset`.
    fn segment_number(&self, offset: Offset) -> usize {
        self.segments.partition_point(|segment| segment.base() <= offset).saturating_sub(1)
    }

    /// The segment of this number, and where it ends for readers.
    fn part(&self, number: usize) -> Part {
        let segment = self.segments[number].clone();
        let end = segment.facts().map_or(self.bounds.end, |facts| facts.end.min(self.bounds.end));
        Part { active_bytes: self.active_bytes, segment, end }
    }

    /// The damaged range that holds `offset` or, if there is none, the next one after it.
    fn damage_from(&self, offset: Offset) -> Option<OffsetRange> {
        self.damaged.iter().find(|range| range.to > offset).copied()
    }
}

/// A segment as one reader sees it.
#[derive(Debug, Clone)]
struct Part {
    segment: Arc<Segment>,
    /// No frame of the segment at or above this offset is looked at.
    end: Offset,
    active_bytes: u64,
}

impl Part {
    /// The damage at `position`, where the frame of `first_bad` should be.
    fn corruption(
        &self,
        position: u64,
        first_bad: Offset,
        next_good: Option<Offset>,
        what: &impl ToString,
    ) -> ReadError {
        ReadError::Corrupt(Corruption {
            file: self.segment.path(FileKind::Log),
            position: FilePosition(position),
            what: what.to_string(),
            first_bad,
            next_good,
        })
    }

    fn io_error(&self, source: std::io::Error) -> ReadError {
        if source.kind() == std::io::ErrorKind::WouldBlock {
            return ReadError::WouldBlock;
        }
        ReadError::Io { path: self.segment.path(FileKind::Log), source }
    }
}

/// A handle to read one log; cheap to clone.
#[derive(Debug, Clone)]
pub struct LogReader {
    shared: Arc<Mutex<Published>>,
}

impl LogReader {
    pub(crate) fn new(shared: Arc<Mutex<Published>>) -> Self {
        Self { shared }
    }

    /// The bounds at this moment.
    pub fn bounds(&self) -> LogBounds {
        self.shared.lock().bounds
    }

    /// The damaged range that holds `offset`, if it is known to be damaged.
    pub fn damaged_at(&self, offset: Offset) -> Option<OffsetRange> {
        self.shared.lock().damage_from(offset).filter(|range| range.contains(offset))
    }

    /// All ranges known to be damaged, in order.
    pub fn damaged(&self) -> Arc<[OffsetRange]> {
        self.shared.lock().damaged.clone()
    }

    fn view(&self) -> Published {
        self.shared.lock().clone()
    }

    /// Reads and verifies frames (rule C5). Empty if `from` is `until` or the end. A run ends at the latest with its
    /// segment.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`]: `from` is below the log start or above the log end. [`ReadError::Corrupt`]: the
    /// frame that holds `from` is damaged, or known to be. [`ReadError::Io`]: the device could not be read.
    /// [`ReadError::WouldBlock`]: with [`ReadMode::CachedOnly`] alone, whenever anything but memory is needed.
    pub fn read(&self, range: ReadRange, mode: ReadMode) -> Result<FrameRun, ReadError> {
        let view = self.view();
        let bounds = view.bounds;
        if range.from < bounds.start || range.from > bounds.end {
            return Err(ReadError::OutOfRange { offset: range.from, start: bounds.start, end: bounds.end });
        }
        let mut until = range.until.min(bounds.end);
        if range.from >= until {
            return Ok(FrameRun { frames: Vec::new(), next: range.from });
        }
        let part = view.part(view.segment_number(range.from));
        if let Some(damage) = view.damage_from(range.from) {
            if damage.contains(range.from) {
                return Err(part.corruption(0, damage.from, Some(damage.to), &"known to be damaged"));
            }
            until = until.min(damage.from);
        }
        let wanted = ReadRange { until: until.min(part.end), ..range };
        part.collect(wanted, mode).map_err(|error| self.out_of_range_now(range.from, error))
    }

    /// The segment may have been removed since the look at the published state.
    fn out_of_range_now(&self, offset: Offset, error: ReadError) -> ReadError {
        let bounds = self.bounds();
        if offset < bounds.start {
            return ReadError::OutOfRange { offset, start: bounds.start, end: bounds.end };
        }
        error
    }

    /// First offset whose append time is at or after `time_ms`; `None` if there is none below the log end (rule
    /// OF-4: exact, since append times never fall along a log). Blocks.
    ///
    /// # Errors
    /// [`ReadError::Io`] or [`ReadError::Corrupt`], as [`LogReader::read`].
    pub fn offset_at_time(&self, time_ms: i64) -> Result<Option<Offset>, ReadError> {
        let view = self.view();
        let bounds = view.bounds;
        let mut number = lookup::first_segment_until(&view, time_ms)?;
        while number < view.segments.len() {
            if let Some(found) = view.part(number).first_at(time_ms)? {
                let offset = found.max(bounds.start);
                return Ok((offset < bounds.end).then_some(offset));
            }
            number += 1;
        }
        Ok(None)
    }

    /// Epoch of the frame that holds the record before `offset`; `None` at the log start. Blocks.
    ///
    /// # Errors
    /// [`ReadError::OutOfRange`]: `offset` is not in the log. Else as [`LogReader::read`].
    pub fn epoch_before(&self, offset: Offset) -> Result<Option<PartitionEpoch>, ReadError> {
        let view = self.view();
        let bounds = view.bounds;
        if offset < bounds.start || offset > bounds.end {
            return Err(ReadError::OutOfRange { offset, start: bounds.start, end: bounds.end });
        }
        if offset == bounds.start {
            return Ok(None);
        }
        let before = offset.saturating_sub(1);
        let part = view.part(view.segment_number(before));
        part.header_of(before).map(|header| Some(header.epoch)).map_err(|error| self.out_of_range_now(before, error))
    }
}

#[cfg(test)]
mod tests;
