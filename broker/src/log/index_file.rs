//! The file that both indexes of a segment are kept in: a checked header and a table of pairs of numbers.
//!
//! Owns the codec, and the table that is either in memory or mapped. Must not know what the pairs mean: that is
//! [`super::index`] and [`super::time_index`].
//!
//! Invariants: the first number of the pairs rises strictly, the second never falls. A file that breaks one, or one of
//! its checksums, or that is of another segment, is as good as missing: an index is always rebuilt from the log
//! (rule C4).

use super::format::{
    FORMAT_MAJOR, FORMAT_MINOR, INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, array_at, i64_at, index_field as field, u16_at,
    u32_at, u64_at,
};
use super::frame::FrameContext;
use super::storage::MappedFile;
use crate::model::{FilePosition, Offset, PartitionEpoch};

/// What an index file says of its segment, beside the entries.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Coverage {
    /// Offset of the segment's first record.
    pub base: Offset,
    /// The frames below this offset are covered.
    pub end: Offset,
    /// The bytes of the log file below this position are covered.
    pub log_end: FilePosition,
    /// Append time of the last frame covered, in milliseconds since 1970; what the segment's header says if none.
    pub last_append_time_ms: i64,
    /// Epoch of the last frame covered; what the segment's header says if none.
    pub last_epoch: PartitionEpoch,
}

/// Why an index file is not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IndexFault {
    /// The file is shorter or longer than its header says.
    #[error("the file has {found} bytes, expected {expected}")]
    Length {
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// Not an index file, or one of another version.
    #[error("magic or version is not that of this index")]
    Kind,
    /// The header was damaged.
    #[error("header checksum is {found:08x}, expected {expected:08x}")]
    HeaderChecksum {
        /// The checksum of the bytes found.
        expected: u32,
        /// The checksum that the header has.
        found: u32,
    },
    /// An index of another segment, partition or data directory.
    #[error("an index of another segment: {0} differs")]
    Foreign(&'static str),
    /// The entries were damaged.
    #[error("checksum of the entries is {found:08x}, expected {expected:08x}")]
    EntriesChecksum {
        /// The checksum of the bytes found.
        expected: u32,
        /// The checksum that the header has.
        found: u32,
    },
    /// A field or an entry has a value that none of our writers writes.
    #[error("{0} cannot be")]
    Field(&'static str),
}

/// The header of an index file, checked by itself and against its segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexHeader {
    /// What it covers.
    pub coverage: Coverage,
    /// Salt of the segment.
    pub salt: u64,
    entry_count: u32,
    entries_checksum: u32,
}

impl IndexHeader {
    /// Decodes a header and checks it by itself, and that it belongs to the log that `context` tells, whatever the
    /// salt.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn decode(bytes: &[u8], magic: [u8; 8], context: &FrameContext) -> Result<Self, IndexFault> {
        if bytes.len() < INDEX_HEADER_BYTES {
            return Err(IndexFault::Length { expected: INDEX_HEADER_BYTES as u64, found: bytes.len() as u64 });
        }
        if array_at(bytes, field::MAGIC) != magic || u16_at(bytes, field::MAJOR) != FORMAT_MAJOR {
            return Err(IndexFault::Kind);
        }
        let expected = crc32fast::hash(&bytes[..field::HEADER_CHECKSUM]);
        let found = u32_at(bytes, field::HEADER_CHECKSUM);
        if expected != found {
            return Err(IndexFault::HeaderChecksum { expected, found });
        }
        if u32_at(bytes, field::PARTITION) != context.partition.0 {
            return Err(IndexFault::Foreign("partition"));
        }
        if u32_at(bytes, field::IDENTITY) != context.identity {
            return Err(IndexFault::Foreign("identity"));
        }
        let offset = |at, name| Offset::new(u64_at(bytes, at)).ok_or(IndexFault::Field(name));
        let coverage = Coverage {
            base: offset(field::BASE_OFFSET, "base offset")?,
            end: offset(field::END_OFFSET, "end offset")?,
            log_end: FilePosition(u64_at(bytes, field::LOG_BYTES)),
            last_append_time_ms: i64_at(bytes, field::LAST_APPEND_TIME),
            last_epoch: PartitionEpoch::new(u32_at(bytes, field::LAST_EPOCH)).ok_or(IndexFault::Field("epoch"))?,
        };
        if coverage.end < coverage.base {
            return Err(IndexFault::Field("end offset"));
        }
        Ok(Self {
            coverage,
            salt: u64_at(bytes, field::SALT),
            entry_count: u32_at(bytes, field::ENTRY_COUNT),
            entries_checksum: u32_at(bytes, field::ENTRIES_CHECKSUM),
        })
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        INDEX_HEADER_BYTES as u64 + u64::from(self.entry_count) * INDEX_ENTRY_BYTES as u64
    }
}

/// Checks all bytes of an index file.
///
/// # Errors
/// What is wrong with it.
pub fn check_file(
    bytes: &[u8],
    magic: [u8; 8],
    context: &FrameContext,
    base: Offset,
) -> Result<IndexHeader, IndexFault> {
    let header = IndexHeader::decode(bytes, magic, context)?;
    if header.salt != context.salt {
        return Err(IndexFault::Foreign("salt"));
    }
    if header.coverage.base != base {
        return Err(IndexFault::Foreign("base offset"));
    }
    if header.file_bytes() != bytes.len() as u64 {
        return Err(IndexFault::Length { expected: header.file_bytes(), found: bytes.len() as u64 });
    }
    let expected = crc32fast::hash(&bytes[INDEX_HEADER_BYTES..]);
    if expected != header.entries_checksum {
        return Err(IndexFault::EntriesChecksum { expected, found: header.entries_checksum });
    }
    let entries = bytes[INDEX_HEADER_BYTES..].chunks_exact(INDEX_ENTRY_BYTES).map(decode_pair);
    if !rising(entries) {
        return Err(IndexFault::Field("order of the entries"));
    }
    Ok(header)
}

/// Whether the first numbers rise strictly and the second never fall.
fn rising(pairs: impl Iterator<Item = Pair>) -> bool {
    let mut last: Option<Pair> = None;
    for pair in pairs {
        if last.is_some_and(|last| pair.key <= last.key || pair.value < last.value) {
            return false;
        }
        last = Some(pair);
    }
    true
}

/// An entry: two numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pair {
    /// What is looked up: an offset, or an append time.
    pub key: u64,
    /// What is found: a file position, or an offset.
    pub value: u64,
}

fn decode_pair(bytes: &[u8]) -> Pair {
    Pair { key: u64_at(bytes, 0), value: u64_at(bytes, 8) }
}

/// Encodes an index file.
pub(crate) fn encode_file(magic: [u8; 8], context: &FrameContext, coverage: &Coverage, pairs: &[Pair]) -> Vec<u8> {
    assert!(rising(pairs.iter().copied()), "the entries of an index rise");
    let mut entries = Vec::with_capacity(INDEX_HEADER_BYTES + pairs.len() * INDEX_ENTRY_BYTES);
    entries.resize(INDEX_HEADER_BYTES, 0);
    for pair in pairs {
        entries.extend_from_slice(&pair.key.to_le_bytes());
        entries.extend_from_slice(&pair.value.to_le_bytes());
    }
    let mut file = entries;
    let entries_checksum = crc32fast::hash(&file[INDEX_HEADER_BYTES..]);
    let mut put = |at: usize, bytes: &[u8]| file[at..at + bytes.len()].copy_from_slice(bytes);
    put(field::MAGIC, &magic);
    put(field::MAJOR, &FORMAT_MAJOR.to_le_bytes());
    put(field::MINOR, &FORMAT_MINOR.to_le_bytes());
    put(field::ENTRY_COUNT, &(pairs.len() as u32).to_le_bytes());
    put(field::SALT, &context.salt.to_le_bytes());
    put(field::BASE_OFFSET, &coverage.base.get().to_le_bytes());
    put(field::END_OFFSET, &coverage.end.get().to_le_bytes());
    put(field::LOG_BYTES, &coverage.log_end.0.to_le_bytes());
    put(field::LAST_APPEND_TIME, &coverage.last_append_time_ms.to_le_bytes());
    put(field::LAST_EPOCH, &coverage.last_epoch.get().to_le_bytes());
    put(field::PARTITION, &context.partition.0.to_le_bytes());
    put(field::IDENTITY, &context.identity.to_le_bytes());
    put(field::ENTRIES_CHECKSUM, &entries_checksum.to_le_bytes());
    let checksum = crc32fast::hash(&file[..field::HEADER_CHECKSUM]);
    file[field::HEADER_CHECKSUM..field::END].copy_from_slice(&checksum.to_le_bytes());
    file
}

/// The entries, in memory or mapped.
#[derive(Debug)]
pub(crate) enum Pairs {
    /// In memory.
    Owned(Vec<Pair>),
    /// The bytes of a whole index file that a plain read has verified in this run (rule C6).
    Mapped(Box<dyn MappedFile>),
}

impl Pairs {
    /// Number of entries.
    pub(crate) fn len(&self) -> usize {
        match self {
            Self::Owned(pairs) => pairs.len(),
            Self::Mapped(file) => file.bytes().len().saturating_sub(INDEX_HEADER_BYTES) / INDEX_ENTRY_BYTES,
        }
    }

    /// The entry of this number, which is below [`Pairs::len`].
    pub(crate) fn get(&self, number: usize) -> Pair {
        match self {
            Self::Owned(pairs) => pairs[number],
            Self::Mapped(file) => decode_pair(&file.bytes()[INDEX_HEADER_BYTES + number * INDEX_ENTRY_BYTES..]),
        }
    }

    /// The last entry whose key is not above `key`.
    pub(crate) fn last_up_to(&self, key: u64) -> Option<Pair> {
        let (mut low, mut high) = (0, self.len());
        while low < high {
            let middle = low + (high - low) / 2;
            if self.get(middle).key <= key { low = middle + 1 } else { high = middle }
        }
        low.checked_sub(1).map(|number| self.get(number))
    }
}

#[cfg(test)]
mod tests;
