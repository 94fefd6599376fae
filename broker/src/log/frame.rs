//! One frame: a header with its own checksum, then extension block, batch and padding under a second one.
//!
//! Owns the encoding and all checks of a frame's bytes. Must not know files, segments or batches: extension block and
//! batch are opaque.
//!
//! Invariants of a good frame (rule C1), asserted when it is written and checked when it is read:
//! - its length is a multiple of 8 and at most [`limits::FRAME_BYTES`];
//! - it has records, unless it is a mark, which has neither records nor a body;
//! - the durable end it carries is not above its base offset: it tells what was known before it was written;
//! - salt, partition and identity are those of its segment.

use bytes::Bytes;
use crc32fast::Hasher;

use super::environment::LogIdentity;
use super::format::{
    FRAME_BODY_BYTES, FRAME_FLAG_MARK, FRAME_HEADER_BYTES, FRAME_MAGIC, FRAME_VERSION, aligned, array_at,
    frame_field as field, i64_at, u16_at, u32_at, u64_at,
};
use crate::limits;
use crate::model::{Offset, PartitionEpoch, PartitionId};

/// Zeros to pad a frame with.
const PADDING: [u8; 8] = [0; 8];

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

impl FrameDraft {
    /// Bytes of extension block and batch, without padding.
    fn body_bytes(&self) -> usize {
        self.extensions.len() + self.batch_head.len() + self.batch_rest.len()
    }

    /// Bytes of the whole frame on disk.
    pub fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + aligned(self.body_bytes() as u64)
    }

    /// Zeros between the batch and the next frame.
    pub(crate) fn padding(&self) -> &'static [u8] {
        let body = self.body_bytes();
        &PADDING[..aligned(body as u64) as usize - body]
    }

    /// Offset after the last record.
    pub fn end_offset(&self) -> Offset {
        self.base_offset.saturating_add(u64::from(self.record_count))
    }
}

/// What every frame of one segment has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameContext {
    /// Random number of the segment.
    pub salt: u64,
    /// The partition.
    pub partition: PartitionId,
    /// Digest of whose log it is.
    pub identity: u32,
    /// Sums up the batch alone (see [`super::sabotage`]); never outside tests.
    pub(crate) payload_only: bool,
}

impl FrameContext {
    /// The context of a segment with this salt.
    pub fn new(identity: &LogIdentity, salt: u64) -> Self {
        Self { salt, partition: identity.partition, identity: identity.digest(), payload_only: false }
    }

    /// Whether headers are checked; only a switch of the tests turns it off.
    fn checks_headers(&self) -> bool {
        !self.payload_only
    }
}

/// Why bytes are no good frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FrameFault {
    /// The file ends before the frame does.
    #[error("the frame needs {needed} bytes, the file has {have}")]
    Short {
        /// Bytes that the frame needs.
        needed: u64,
        /// Bytes that are there.
        have: u64,
    },
    /// No frame begins here.
    #[error("no frame begins here: found {found:02x?}")]
    Magic {
        /// The four bytes found.
        found: [u8; 4],
    },
    /// The header was damaged.
    #[error("header checksum is {found:08x}, expected {expected:08x}")]
    HeaderChecksum {
        /// The checksum of the bytes found.
        expected: u32,
        /// The checksum that the header has.
        found: u32,
    },
    /// Written by a newer program.
    #[error("frame version or flags are not known: {version}, {flags:#04x}")]
    Unknown {
        /// Version found.
        version: u8,
        /// Flags found.
        flags: u8,
    },
    /// A field has a value that none of our writers writes.
    #[error("{field} of the header is {found}, which cannot be")]
    Field {
        /// Which one.
        field: &'static str,
        /// Its value.
        found: u64,
    },
    /// A frame of another segment, partition or data directory.
    #[error("{field} of the header is {found:x}, expected {expected:x}: a frame of another segment")]
    Foreign {
        /// Which field differs.
        field: &'static str,
        /// What this segment has.
        expected: u64,
        /// What the frame has.
        found: u64,
    },
    /// It does not continue the frames before it.
    #[error("{field} of the header is {found}, expected {expected}: not the next frame")]
    OutOfOrder {
        /// Which field differs.
        field: &'static str,
        /// What was expected.
        expected: u64,
        /// What the frame has.
        found: u64,
    },
    /// Extension block, batch or padding were damaged.
    #[error("body checksum is {found:08x}, expected {expected:08x}")]
    BodyChecksum {
        /// The checksum of the bytes found.
        expected: u32,
        /// The checksum that the header has.
        found: u32,
    },
}

/// A frame's header, decoded and checked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FrameHeader {
    /// Whether it is a mark.
    pub mark: bool,
    /// Bytes of the extension block.
    pub extension_bytes: u32,
    /// Bytes of the batch.
    pub batch_bytes: u32,
    /// Offset of the first record; of a mark, the offset that the next record gets.
    pub base_offset: Offset,
    /// Records in it; 0 in a mark.
    pub record_count: u32,
    /// Time of the append in milliseconds since 1970.
    pub append_time_ms: i64,
    /// Epoch of the partition.
    pub epoch: PartitionEpoch,
    /// Everything below had been durable when the frame was written.
    pub durable_end: Offset,
    /// Salt of its segment.
    pub salt: u64,
    /// The partition.
    pub partition: PartitionId,
    /// Digest of whose log it is.
    pub identity: u32,
    /// CRC-32 of extension block, batch and padding.
    pub body_checksum: u32,
}

impl FrameHeader {
    /// Decodes a header and checks it by itself, but not whose it is.
    ///
    /// # Errors
    /// What is wrong with the bytes; never `Foreign`, `OutOfOrder` or `BodyChecksum`.
    pub fn decode(bytes: &[u8]) -> Result<Self, FrameFault> {
        Self::decode_with(bytes, true)
    }

    /// Decodes a header and checks that it belongs to the segment.
    ///
    /// # Errors
    /// What is wrong with the bytes; never `OutOfOrder` or `BodyChecksum`.
    pub fn decode_in(bytes: &[u8], context: &FrameContext) -> Result<Self, FrameFault> {
        let checks = context.checks_headers();
        let header = Self::decode_with(bytes, checks)?;
        if checks {
            header.check_context(context)?;
        }
        Ok(header)
    }

    fn decode_with(bytes: &[u8], checked: bool) -> Result<Self, FrameFault> {
        if bytes.len() < FRAME_HEADER_BYTES {
            return Err(FrameFault::Short { needed: FRAME_HEADER_BYTES as u64, have: bytes.len() as u64 });
        }
        let bytes = &bytes[..FRAME_HEADER_BYTES];
        let magic: [u8; 4] = array_at(bytes, field::MAGIC);
        if magic != FRAME_MAGIC && checked {
            return Err(FrameFault::Magic { found: magic });
        }
        let expected = crc32fast::hash(&bytes[..field::HEADER_CHECKSUM]);
        let found = u32_at(bytes, field::HEADER_CHECKSUM);
        if found != expected && checked {
            return Err(FrameFault::HeaderChecksum { expected, found });
        }
        let (version, flags) = (bytes[field::VERSION], bytes[field::FLAGS]);
        if checked && (version != FRAME_VERSION || flags & !FRAME_FLAG_MARK != 0) {
            return Err(FrameFault::Unknown { version, flags });
        }
        Self::decode_fields(bytes, flags & FRAME_FLAG_MARK != 0)
    }

    /// Reads the fields and checks each against its bounds.
    fn decode_fields(bytes: &[u8], mark: bool) -> Result<Self, FrameFault> {
        let bad = |field, found| FrameFault::Field { field, found };
        let reserved = u16_at(bytes, field::RESERVED);
        if reserved != 0 {
            return Err(bad("reserved", u64::from(reserved)));
        }
        let extension_bytes = u32_at(bytes, field::EXTENSION_BYTES);
        if extension_bytes as usize > limits::FRAME_EXTENSION_BYTES {
            return Err(bad("extension_bytes", u64::from(extension_bytes)));
        }
        let batch_bytes = u32_at(bytes, field::BATCH_BYTES);
        if aligned(u64::from(extension_bytes) + u64::from(batch_bytes)) > FRAME_BODY_BYTES as u64 {
            return Err(bad("batch_bytes", u64::from(batch_bytes)));
        }
        let record_count = u32_at(bytes, field::RECORD_COUNT);
        if (record_count == 0) != mark || (mark && extension_bytes + batch_bytes != 0) {
            return Err(bad("record_count", u64::from(record_count)));
        }
        let base = u64_at(bytes, field::BASE_OFFSET);
        let base_offset = Offset::new(base)
            .filter(|offset| offset.checked_add(u64::from(record_count)).is_some())
            .ok_or(bad("base_offset", base))?;
        let durable = u64_at(bytes, field::DURABLE_END);
        let durable_end = Offset::new(durable).filter(|end| *end <= base_offset).ok_or(bad("durable_end", durable))?;
        let epoch = u32_at(bytes, field::EPOCH);
        Ok(Self {
            mark,
            extension_bytes,
            batch_bytes,
            base_offset,
            record_count,
            append_time_ms: i64_at(bytes, field::APPEND_TIME),
            epoch: PartitionEpoch::new(epoch).ok_or(bad("epoch", u64::from(epoch)))?,
            durable_end,
            salt: u64_at(bytes, field::SALT),
            partition: PartitionId(u32_at(bytes, field::PARTITION)),
            identity: u32_at(bytes, field::IDENTITY),
            body_checksum: u32_at(bytes, field::BODY_CHECKSUM),
        })
    }

    /// Checks that the frame belongs to the segment.
    fn check_context(&self, context: &FrameContext) -> Result<(), FrameFault> {
        for (field, expected, found) in [
            ("salt", context.salt, self.salt),
            ("partition", u64::from(context.partition.0), u64::from(self.partition.0)),
            ("identity", u64::from(context.identity), u64::from(self.identity)),
        ] {
            if expected != found {
                return Err(FrameFault::Foreign { field, expected, found });
            }
        }
        Ok(())
    }

    /// Checks extension block, batch and padding against their checksum.
    ///
    /// # Errors
    /// [`FrameFault::Short`] or [`FrameFault::BodyChecksum`].
    pub fn check_body(&self, body: &[u8], context: &FrameContext) -> Result<(), FrameFault> {
        let needed = self.frame_bytes() - FRAME_HEADER_BYTES as u64;
        if (body.len() as u64) < needed {
            return Err(FrameFault::Short { needed, have: body.len() as u64 });
        }
        let summed = if context.checks_headers() {
            &body[..needed as usize]
        } else {
            &body[self.extension_bytes as usize..][..self.batch_bytes as usize]
        };
        let expected = crc32fast::hash(summed);
        if expected != self.body_checksum {
            return Err(FrameFault::BodyChecksum { expected, found: self.body_checksum });
        }
        Ok(())
    }

    /// Bytes of the whole frame, header and padding included.
    pub fn frame_bytes(&self) -> u64 {
        FRAME_HEADER_BYTES as u64 + aligned(u64::from(self.extension_bytes) + u64::from(self.batch_bytes))
    }

    /// Offset after the last record.
    pub fn end_offset(&self) -> Offset {
        self.base_offset.saturating_add(u64::from(self.record_count))
    }

    /// Appends the 72 bytes of the header.
    fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.extend_from_slice(&FRAME_MAGIC);
        out.push(FRAME_VERSION);
        out.push(if self.mark { FRAME_FLAG_MARK } else { 0 });
        out.extend_from_slice(&[0; 2]);
        out.extend_from_slice(&self.extension_bytes.to_le_bytes());
        out.extend_from_slice(&self.batch_bytes.to_le_bytes());
        out.extend_from_slice(&self.base_offset.get().to_le_bytes());
        out.extend_from_slice(&self.append_time_ms.to_le_bytes());
        out.extend_from_slice(&self.durable_end.get().to_le_bytes());
        out.extend_from_slice(&self.salt.to_le_bytes());
        out.extend_from_slice(&self.record_count.to_le_bytes());
        out.extend_from_slice(&self.epoch.get().to_le_bytes());
        out.extend_from_slice(&self.partition.0.to_le_bytes());
        out.extend_from_slice(&self.identity.to_le_bytes());
        out.extend_from_slice(&self.body_checksum.to_le_bytes());
        let checksum = crc32fast::hash(&out[start..]);
        out.extend_from_slice(&checksum.to_le_bytes());
        debug_assert_eq!(out.len() - start, FRAME_HEADER_BYTES, "a frame header has the bytes of its fields");
    }
}

/// Appends the header of a draft to `out`; extension block, batch and padding are written from where they are.
///
/// # Panics
/// If the draft breaks an invariant of frames: nothing of it has reached the disk then.
pub(crate) fn encode_header(draft: &FrameDraft, context: &FrameContext, durable_end: Offset, out: &mut Vec<u8>) {
    assert!(draft.record_count > 0, "a frame has records");
    assert!(durable_end <= draft.base_offset, "a frame's durable end is not above its base offset");
    assert!(draft.extensions.len() <= limits::FRAME_EXTENSION_BYTES, "an extension block is within its limit");
    assert!(draft.frame_bytes() <= limits::FRAME_BYTES as u64, "a frame is within its limit");
    let mut hasher = Hasher::new();
    if context.checks_headers() {
        hasher.update(&draft.extensions);
    }
    hasher.update(&draft.batch_head);
    hasher.update(&draft.batch_rest);
    if context.checks_headers() {
        hasher.update(draft.padding());
    }
    FrameHeader {
        mark: false,
        extension_bytes: draft.extensions.len() as u32,
        batch_bytes: (draft.batch_head.len() + draft.batch_rest.len()) as u32,
        base_offset: draft.base_offset,
        record_count: draft.record_count,
        append_time_ms: draft.append_time_ms,
        epoch: draft.epoch,
        durable_end,
        salt: context.salt,
        partition: context.partition,
        identity: context.identity,
        body_checksum: hasher.finalize(),
    }
    .encode(out);
}

/// Appends a mark frame to `out` (rule C3): the end of the log, and that everything below `durable_end` was synced.
pub(crate) fn encode_mark(mark: &MarkDraft, context: &FrameContext, out: &mut Vec<u8>) {
    assert!(mark.durable_end <= mark.end, "a mark's durable end is not above the end");
    FrameHeader {
        mark: true,
        extension_bytes: 0,
        batch_bytes: 0,
        base_offset: mark.end,
        record_count: 0,
        append_time_ms: mark.append_time_ms,
        epoch: mark.epoch,
        durable_end: mark.durable_end,
        salt: context.salt,
        partition: context.partition,
        identity: context.identity,
        body_checksum: 0,
    }
    .encode(out);
}

/// A mark frame to write.
#[derive(Debug, Clone, Copy)]
pub(crate) struct MarkDraft {
    /// End of the log.
    pub(crate) end: Offset,
    /// Everything below is known to be synced.
    pub(crate) durable_end: Offset,
    /// Time of the append in milliseconds since 1970.
    pub(crate) append_time_ms: i64,
    /// Epoch of the partition.
    pub(crate) epoch: PartitionEpoch,
}

#[cfg(test)]
mod tests;
