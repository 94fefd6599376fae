//! Reads whole frames: one read into a fresh buffer, of which the frames are slices.

use std::sync::Arc;

use bytes::Bytes;

use super::{Frame, FrameRun, Part, ReadMode, ReadRange};
use crate::limits;
use crate::log::error::ReadError;
use crate::log::format::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use crate::log::frame::{FrameContext, FrameFault, FrameHeader};
use crate::log::index::IndexEntry;
use crate::log::scan::{FrameWalker, SCAN_CHUNK_BYTES};
use crate::log::segment::OpenSegment;
use crate::model::{FilePosition, Offset};

/// Bytes that a read takes beyond those asked for, so that the frames between an index entry and the first one wanted
/// do not cost a second read: one index interval.
const LOOKUP_SLACK_BYTES: usize = 4 << 10;

/// What a buffer of frames came to.
enum Collected {
    /// Frames; or none, because there is none that fits.
    Run(FrameRun),
    /// The first frame wanted is not wholly in the buffer: go on there, with so many bytes.
    More(IndexEntry, usize),
    /// No good frame where one should begin.
    Bad(IndexEntry, FrameFault),
}

impl Part {
    /// Opens the segment; only memory is asked when the caller does not want to wait.
    pub(super) fn open(&self, mode: ReadMode) -> Result<Arc<OpenSegment>, ReadError> {
        match mode {
            ReadMode::Blocking => self.segment.open(),
            ReadMode::CachedOnly => match self.segment.opened() {
                Some(open) if self.segment.has_indexes(&open) => Ok(open),
                _ => Err(ReadError::WouldBlock),
            },
        }
    }

    /// Position below which frames may be looked at.
    pub(super) fn limit(&self, open: &OpenSegment) -> u64 {
        if self.segment.facts().is_some() { open.file_bytes } else { self.active_bytes }
    }

    /// Where the walk to `offset` begins: the index entry before it, or the first frame.
    pub(super) fn entry_before(&self, open: &OpenSegment, offset: Offset) -> Result<IndexEntry, ReadError> {
        let first = IndexEntry { offset: self.segment.base(), position: FilePosition(SEGMENT_HEADER_BYTES as u64) };
        self.segment.with_indexes(open, |indexes| indexes.offsets.lookup(offset).unwrap_or(first))
    }

    /// Frames from the one that holds `range.from` on.
    pub(super) fn collect(&self, range: ReadRange, mode: ReadMode) -> Result<FrameRun, ReadError> {
        let open = self.open(mode)?;
        let limit = self.limit(&open);
        let mut at = self.entry_before(&open, range.from)?;
        let max_bytes = range.max_bytes.min(limits::FRAME_BYTES);
        let mut size = max_bytes.max(FRAME_HEADER_BYTES) + LOOKUP_SLACK_BYTES;
        let mut doubt = Doubt::None;
        loop {
            let chunk = self.chunk(&open, at.position, size, limit, mode)?;
            let whole = chunk.len() as u64 == (size as u64).min(limit.saturating_sub(at.position.0));
            match collect_frames(&chunk, at, &range, &open.context, self.segment.trusts_index()) {
                Collected::Run(run) => return Ok(run),
                Collected::More(next, bytes) if whole && (next != at || bytes > size) => {
                    (at, size) = (next, bytes);
                }
                _ if mode == ReadMode::CachedOnly => return Err(ReadError::WouldBlock),
                Collected::More(next, _) => {
                    let fault = FrameFault::Short { needed: size as u64, have: chunk.len() as u64 };
                    at = self.behind(&open, next, fault, range.from, &mut doubt)?;
                }
                Collected::Bad(next, fault) => at = self.behind(&open, next, fault, range.from, &mut doubt)?,
            }
        }
    }

    fn chunk(
        &self,
        open: &OpenSegment,
        position: FilePosition,
        size: usize,
        limit: u64,
        mode: ReadMode,
    ) -> Result<Bytes, ReadError> {
        let len = (size as u64).min(limit.saturating_sub(position.0)) as usize;
        let mut buffer = vec![0; len];
        let read = match mode {
            ReadMode::Blocking => open.file.read_at(&mut buffer, position.0),
            ReadMode::CachedOnly => open.file.read_cached_at(&mut buffer, position.0),
        };
        buffer.truncate(read.map_err(|error| self.io_error(error))?);
        Ok(Bytes::from(buffer))
    }

    /// After a frame that failed: where to look next, on the way to the frame that holds `from`. First the same
    /// bytes once more, from the device; then, in case the index led here, with the index made anew; then behind the
    /// damage, if the frame wanted is not in it.
    pub(super) fn behind(
        &self,
        open: &OpenSegment,
        at: IndexEntry,
        fault: FrameFault,
        from: Offset,
        doubt: &mut Doubt,
    ) -> Result<IndexEntry, ReadError> {
        match *doubt {
            Doubt::None => {
                *doubt = Doubt::ReadAgain;
                open.file.drop_cache().map_err(|error| self.io_error(error))?;
                return Ok(at);
            }
            Doubt::ReadAgain if self.segment.facts().is_some() && self.is_entry(open, at)? => {
                *doubt = Doubt::IndexRebuilt;
                self.segment.rebuild_indexes(open)?;
                return self.entry_before(open, from);
            }
            Doubt::ReadAgain | Doubt::IndexRebuilt => {}
        }
        let limit = self.limit(open);
        let mut walker = FrameWalker::new(&*open.file, open.context, limit, SCAN_CHUNK_BYTES);
        let end = self.end;
        let next = walker
            .next_header(at.position.0 + 8, |header| header.base_offset >= at.offset && header.base_offset < end)
            .map_err(|error| self.io_error(error))?;
        match next {
            Some((position, header)) if header.base_offset <= from => {
                *doubt = Doubt::IndexRebuilt;
                Ok(IndexEntry { offset: header.base_offset, position: FilePosition(position) })
            }
            found => {
                let sealed_end = self.segment.facts().map(|facts| facts.end);
                let next_good = found.map(|(_, header)| header.base_offset).or(sealed_end);
                Err(self.corruption(at.position.0, at.offset, next_good, &fault))
            }
        }
    }

    /// Whether the place comes from the index, not from the frame before it.
    fn is_entry(&self, open: &OpenSegment, at: IndexEntry) -> Result<bool, ReadError> {
        self.segment.with_indexes(open, |indexes| indexes.offsets.lookup(at.offset) == Some(at))
    }
}

/// How far the search for an innocent reason of a bad frame has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Doubt {
    /// Nothing was bad yet.
    None,
    /// The bytes are read once more, from the device.
    ReadAgain,
    /// The index was made anew, or was not to blame.
    IndexRebuilt,
}

/// Slices the frames wanted out of a buffer that begins with a frame. `trust`: see [`crate::log::sabotage`].
fn collect_frames(chunk: &Bytes, at: IndexEntry, range: &ReadRange, context: &FrameContext, trust: bool) -> Collected {
    let mut run = FrameRun { frames: Vec::new(), next: range.from };
    let mut expected = at.offset;
    let mut offset_in_chunk = 0;
    let mut sum = 0_u64;
    let place = |offset_in_chunk: usize, expected| IndexEntry {
        offset: expected,
        position: FilePosition(at.position.0 + offset_in_chunk as u64),
    };
    loop {
        let rest = &chunk[offset_in_chunk..];
        let here = place(offset_in_chunk, expected);
        let header = match FrameHeader::decode_in(rest, context) {
            Ok(header) if header.base_offset == expected || (trust && offset_in_chunk == 0) => header,
            _ if !run.frames.is_empty() => return Collected::Run(run),
            Ok(header) => return Collected::Bad(here, out_of_order(expected, &header)),
            // A buffer that is empty at its own beginning is at the end of what may be read: nothing is there.
            Err(FrameFault::Short { .. }) if offset_in_chunk > 0 => {
                return Collected::More(here, range.max_bytes.clamp(LOOKUP_SLACK_BYTES, limits::FRAME_BYTES));
            }
            Err(fault) => return Collected::Bad(here, fault),
        };
        let frame_bytes = header.frame_bytes();
        let wanted = !header.mark && header.end_offset() > range.from;
        if wanted && header.end_offset() > range.until {
            return Collected::Run(run);
        }
        if wanted && !run.frames.is_empty() && sum + frame_bytes > range.max_bytes as u64 {
            return Collected::Run(run);
        }
        if frame_bytes > rest.len() as u64 {
            if !run.frames.is_empty() {
                return Collected::Run(run);
            }
            return Collected::More(here, (frame_bytes as usize).max(range.max_bytes.min(limits::FRAME_BYTES)));
        }
        if wanted {
            let body = &rest[FRAME_HEADER_BYTES..frame_bytes as usize];
            if let Err(fault) = header.check_body(body, context) {
                return if run.frames.is_empty() { Collected::Bad(here, fault) } else { Collected::Run(run) };
            }
            run.frames.push(frame_of(chunk, offset_in_chunk, &header));
            run.next = header.end_offset();
            sum += frame_bytes;
        }
        expected = header.end_offset();
        offset_in_chunk += frame_bytes as usize;
        if wanted && expected >= range.until {
            return Collected::Run(run);
        }
    }
}

fn out_of_order(expected: Offset, header: &FrameHeader) -> FrameFault {
    FrameFault::OutOfOrder { field: "base offset", expected: expected.get(), found: header.base_offset.get() }
}

fn frame_of(chunk: &Bytes, at: usize, header: &FrameHeader) -> Frame {
    let extensions = at + FRAME_HEADER_BYTES;
    let batch = extensions + header.extension_bytes as usize;
    Frame {
        base_offset: header.base_offset,
        record_count: header.record_count,
        append_time_ms: header.append_time_ms,
        epoch: header.epoch,
        extensions: chunk.slice(extensions..batch),
        batch: chunk.slice(batch..batch + header.batch_bytes as usize),
    }
}
