//! Walks over the frames of a log file: one buffer, large reads, headers and bodies checked as they pass.
//!
//! Owns the search for the next good header behind damage. Must not know what damage means: that is
//! [`super::recovery`]'s, the reader's and the offline check's to say. Only ever reads.

use std::io;

use super::format::{ALIGNMENT_BYTES, FRAME_HEADER_BYTES, FRAME_MAGIC, aligned};
use super::frame::{FrameContext, FrameFault, FrameHeader};
use super::storage::StorageFile;
use crate::limits;

/// Bytes read at once when all bytes are wanted.
pub const SCAN_CHUNK_BYTES: usize = limits::READ_CHUNK_BYTES;
/// Bytes read at once when a few headers are wanted.
pub const LOOKUP_CHUNK_BYTES: usize = 16 << 10;

/// What stands at a place of a log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrameAt {
    /// A good frame.
    Good(FrameHeader),
    /// A good header, behind which the body is damaged: exactly its offsets are lost.
    BadBody(FrameHeader, FrameFault),
    /// No good header.
    BadHeader(FrameFault),
    /// The end of what was to be walked.
    End,
}

/// Reads frames of one file.
#[derive(Debug)]
pub struct FrameWalker<'a> {
    file: &'a dyn StorageFile,
    context: FrameContext,
    limit: u64,
    chunk: usize,
    buffer: Vec<u8>,
    start: u64,
    read_bytes: u64,
}

impl<'a> FrameWalker<'a> {
    /// A walker over the bytes below `limit`, which reads `chunk` bytes at once.
    pub fn new(file: &'a dyn StorageFile, context: FrameContext, limit: u64, chunk: usize) -> Self {
        Self { file, context, limit, chunk, buffer: Vec::new(), start: 0, read_bytes: 0 }
    }

    /// Bytes read so far.
    pub fn read_bytes(&self) -> u64 {
        self.read_bytes
    }

    /// Up to `len` bytes at `position`; less only at the limit or the end of the file.
    fn bytes(&mut self, position: u64, len: usize) -> io::Result<&[u8]> {
        let len = len.min(usize::try_from(self.limit.saturating_sub(position)).unwrap_or(usize::MAX));
        let have = self.start..self.start + self.buffer.len() as u64;
        if position < have.start || position + len as u64 > have.end {
            let wanted = len.max(self.chunk) as u64;
            let wanted = wanted.min(self.limit.saturating_sub(position)) as usize;
            self.buffer.resize(wanted, 0);
            let read = self.file.read_at(&mut self.buffer, position)?;
            self.buffer.truncate(read);
            self.start = position;
            self.read_bytes += read as u64;
        }
        let from = ((position - self.start) as usize).min(self.buffer.len());
        Ok(&self.buffer[from..(from + len).min(self.buffer.len())])
    }

    /// The header at `position`, which belongs to the segment.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn header_at(&mut self, position: u64) -> io::Result<Result<FrameHeader, FrameFault>> {
        let context = self.context;
        Ok(FrameHeader::decode_in(self.bytes(position, FRAME_HEADER_BYTES)?, &context))
    }

    /// The frame at `position`, header and body checked.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn frame_at(&mut self, position: u64) -> io::Result<FrameAt> {
        if position >= self.limit {
            return Ok(FrameAt::End);
        }
        let header = match self.header_at(position)? {
            Ok(header) => header,
            Err(fault) => return Ok(FrameAt::BadHeader(fault)),
        };
        let context = self.context;
        let bytes = self.bytes(position, header.frame_bytes() as usize)?;
        let body = bytes.get(FRAME_HEADER_BYTES..).unwrap_or_default();
        Ok(match header.check_body(body, &context) {
            Ok(()) => FrameAt::Good(header),
            Err(fault) => FrameAt::BadBody(header, fault),
        })
    }

    /// The next good header at or behind `from` that `accept` takes, and where it is: looked for every 8 bytes.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn next_header(
        &mut self,
        from: u64,
        accept: impl Fn(&FrameHeader) -> bool,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        let context = self.context;
        self.next_header_with(from, |bytes| FrameHeader::decode_in(bytes, &context).ok().filter(&accept))
    }

    /// The next good header of any segment at or behind `from` that `accept` takes.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn next_header_of_any(
        &mut self,
        from: u64,
        accept: impl Fn(&FrameHeader) -> bool,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        self.next_header_with(from, |bytes| FrameHeader::decode(bytes).ok().filter(&accept))
    }

    fn next_header_with(
        &mut self,
        from: u64,
        decode: impl Fn(&[u8]) -> Option<FrameHeader>,
    ) -> io::Result<Option<(u64, FrameHeader)>> {
        let mut position = aligned(from);
        while position + FRAME_HEADER_BYTES as u64 <= self.limit {
            let chunk = self.chunk.max(2 * FRAME_HEADER_BYTES);
            let bytes = self.bytes(position, chunk)?;
            if bytes.len() < FRAME_HEADER_BYTES {
                return Ok(None);
            }
            let starts = bytes.len() - FRAME_HEADER_BYTES;
            let found = (0..=starts)
                .step_by(ALIGNMENT_BYTES)
                .filter(|at| bytes[*at..].starts_with(&FRAME_MAGIC))
                .find_map(|at| decode(&bytes[at..]).map(|header| (at, header)));
            if let Some((at, header)) = found {
                return Ok(Some((position + at as u64, header)));
            }
            position += (starts / ALIGNMENT_BYTES * ALIGNMENT_BYTES + ALIGNMENT_BYTES) as u64;
        }
        Ok(None)
    }

    /// The position behind the last byte at or behind `from` that is not zero; `from` if all are.
    ///
    /// # Errors
    /// The file could not be read.
    pub fn end_of_data(&mut self, from: u64) -> io::Result<u64> {
        let (mut position, mut end) = (from, from);
        while position < self.limit {
            let chunk = self.chunk;
            let bytes = self.bytes(position, chunk)?;
            if bytes.is_empty() {
                break;
            }
            if let Some(last) = bytes.iter().rposition(|byte| *byte != 0) {
                end = position + last as u64 + 1;
            }
            position += bytes.len() as u64;
        }
        Ok(end)
    }
}
