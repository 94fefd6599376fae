//! Reading a log: verified frames from any offset, beside the writer and without waiting for it.

use bytes::Bytes;

use super::error::ReadError;
use crate::model::{Offset, PartitionEpoch};

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

/// A handle to read one log; cheap to clone.
#[derive(Debug, Clone)]
pub struct LogReader {}

impl LogReader {
    /// The bounds at this moment.
    pub fn bounds(&self) -> LogBounds {
        todo!()
    }

    /// Reads and verifies frames (rule C5). Empty if `from` is `until` or the end.
    pub fn read(&self, _range: ReadRange, _mode: ReadMode) -> Result<FrameRun, ReadError> {
        todo!()
    }

    /// First offset whose append time is at or after `time_ms`; `None` if there is none below the log end.
    pub fn offset_at_time(&self, _time_ms: i64) -> Result<Option<Offset>, ReadError> {
        todo!()
    }

    /// Epoch of the frame that holds the record before `offset`; `None` at the log start.
    pub fn epoch_before(&self, _offset: Offset) -> Result<Option<PartitionEpoch>, ReadError> {
        todo!()
    }
}
