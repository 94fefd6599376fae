//! Finds single frames by offset or time, reading headers alone: each has its own checksum.

use super::collect::Doubt;
use super::{Part, Published, ReadMode};
use crate::log::error::ReadError;
use crate::log::frame::{FrameFault, FrameHeader};
use crate::log::index::IndexEntry;
use crate::log::scan::{FrameWalker, LOOKUP_CHUNK_BYTES};
use crate::model::{FilePosition, Offset};

/// Number of the first segment whose last frame was appended at or after `time_ms`; the active one if no other.
/// Looks into as many segments as the logarithm of their number.
pub(super) fn first_segment_until(view: &Published, time_ms: i64) -> Result<usize, ReadError> {
    let (mut low, mut high) = (0, view.segments.len() - 1);
    while low < high {
        let middle = low + (high - low) / 2;
        if last_time_up_to(view, middle)?.is_none_or(|last| last < time_ms) {
            low = middle + 1;
        } else {
            high = middle;
        }
    }
    Ok(low)
}

/// Append time of the last frame in the sealed segments up to this one: the nearest that has a good frame.
fn last_time_up_to(view: &Published, number: usize) -> Result<Option<i64>, ReadError> {
    for segment in view.segments[..=number].iter().rev() {
        match segment.last_append_time_ms() {
            Ok(Some(time_ms)) => return Ok(Some(time_ms)),
            // A segment that is damaged as a whole has no time; its neighbour tells enough.
            Ok(None) | Err(ReadError::Corrupt(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(None)
}

impl Part {
    /// Offset of the first frame appended at or after `time_ms`, `None` if the segment has none. Damaged frames are
    /// passed over: what follows them was appended no earlier.
    pub(super) fn first_at(&self, time_ms: i64) -> Result<Option<Offset>, ReadError> {
        let open = match self.open(ReadMode::Blocking) {
            Ok(open) => open,
            Err(ReadError::Corrupt(_)) => return Ok(None),
            Err(error) => return Err(error),
        };
        let before = self.segment.with_indexes(&open, |indexes| indexes.times.last_before(time_ms))?;
        let at = self.entry_before(&open, before.map_or(self.segment.base(), |entry| entry.offset))?;
        let mut walker = FrameWalker::new(&*open.file, open.context, self.limit(&open), LOOKUP_CHUNK_BYTES);
        let (mut position, mut expected) = (at.position.0, at.offset);
        loop {
            let header = walker.header_at(position).map_err(|error| self.io_error(error))?;
            match header {
                Ok(header) if header.base_offset >= expected && header.end_offset() <= self.end => {
                    if !header.mark && header.append_time_ms >= time_ms {
                        return Ok(Some(header.base_offset));
                    }
                    position += header.frame_bytes();
                    expected = header.end_offset();
                }
                _ => {
                    let fits = |header: &FrameHeader| header.base_offset >= expected && header.end_offset() <= self.end;
                    match walker.next_header(position + 8, fits).map_err(|error| self.io_error(error))? {
                        Some((found, _)) => position = found,
                        None => return Ok(None),
                    }
                }
            }
        }
    }

    /// Header of the frame that holds `offset`, which is in the segment.
    pub(super) fn header_of(&self, offset: Offset) -> Result<FrameHeader, ReadError> {
        let open = self.open(ReadMode::Blocking)?;
        let limit = self.limit(&open);
        let mut at = self.entry_before(&open, offset)?;
        let mut doubt = Doubt::None;
        loop {
            // A new walker for each attempt, so that nothing is answered from a buffer that was in doubt.
            let mut walker = FrameWalker::new(&*open.file, open.context, limit, LOOKUP_CHUNK_BYTES);
            let (bad, fault) = loop {
                match walker.header_at(at.position.0).map_err(|error| self.io_error(error))? {
                    Ok(header) if header.base_offset == at.offset => {
                        if header.end_offset() > offset {
                            return Ok(header);
                        }
                        let position = FilePosition(at.position.0 + header.frame_bytes());
                        at = IndexEntry { offset: header.end_offset(), position };
                    }
                    Ok(header) => {
                        let (expected, found) = (at.offset.get(), header.base_offset.get());
                        break (at, FrameFault::OutOfOrder { field: "base offset", expected, found });
                    }
                    Err(fault) => break (at, fault),
                }
            };
            at = self.behind(&open, bad, fault, offset, &mut doubt)?;
        }
    }
}
