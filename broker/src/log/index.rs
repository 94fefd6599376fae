//! The sparse offset index of a segment: offset -> file position of the frame that begins with it.
//!
//! Owns which frames get an entry and how one is looked up. Must not know files. In memory for the active segment,
//! written at its seal, mapped afterwards; a hint only, so each use is checked against the frame (rule C4).

use super::format::INDEX_MAGIC;
use super::frame::FrameContext;
use super::index_file::{Coverage, IndexFault, Pair, Pairs, check_file, encode_file};
use super::storage::MappedFile;
use crate::model::{FilePosition, Offset};

/// An entry: here begins the frame whose first record has this offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IndexEntry {
    /// Offset of the frame's first record.
    pub offset: Offset,
    /// Where the frame begins.
    pub position: FilePosition,
}

impl IndexEntry {
    fn from_pair(pair: Pair) -> Self {
        Self { offset: Offset::new(pair.key).unwrap_or(Offset::MAX), position: FilePosition(pair.value) }
    }
}

/// The offset index of one segment.
#[derive(Debug)]
pub struct OffsetIndex {
    pairs: Pairs,
}

impl OffsetIndex {
    /// An index without entries.
    pub(crate) fn empty() -> Self {
        Self { pairs: Pairs::Owned(Vec::new()) }
    }

    /// An index over a mapped file that [`OffsetIndex::check`] has passed in this run.
    pub(crate) fn mapped(file: Box<dyn MappedFile>) -> Self {
        Self { pairs: Pairs::Mapped(file) }
    }

    /// Checks the bytes of an index file.
    ///
    /// # Errors
    /// What is wrong with it; it must be rebuilt.
    pub fn check(bytes: &[u8], context: &FrameContext, base: Offset) -> Result<Coverage, IndexFault> {
        check_file(bytes, INDEX_MAGIC, context, base).map(|header| header.coverage)
    }

    /// An index in memory with the entries of a checked file that lie below `until`.
    pub(crate) fn loaded(bytes: &[u8], until: Offset) -> Self {
        let mut pairs = Vec::new();
        for entry in entries(bytes) {
            if entry.offset < until {
                pairs.push(Pair { key: entry.offset.get(), value: entry.position.0 });
            }
        }
        Self { pairs: Pairs::Owned(pairs) }
    }

    /// Notes where a frame begins, if it is at least `interval_bytes` behind the last entry. Returns whether it did.
    pub(crate) fn note(&mut self, entry: IndexEntry, interval_bytes: u64) -> bool {
        let Pairs::Owned(pairs) = &mut self.pairs else { panic!("only an index in memory takes entries") };
        if let Some(last) = pairs.last() {
            let behind = entry.position.0.saturating_sub(last.value);
            if behind < interval_bytes || entry.offset.get() <= last.key {
                return false;
            }
        }
        pairs.push(Pair { key: entry.offset.get(), value: entry.position.0 });
        true
    }

    /// The last entry at or before `offset`.
    pub fn lookup(&self, offset: Offset) -> Option<IndexEntry> {
        self.pairs.last_up_to(offset.get()).map(IndexEntry::from_pair)
    }

    /// Drops the entries of frames at or above `end`.
    pub(crate) fn truncate(&mut self, end: Offset) {
        if let Pairs::Owned(pairs) = &mut self.pairs {
            pairs.retain(|pair| pair.key < end.get());
        }
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.pairs.len()
    }

    /// Whether it has no entries.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The file of the entries below `coverage.end`.
    pub(crate) fn encode(&self, context: &FrameContext, coverage: &Coverage) -> Vec<u8> {
        let pairs: Vec<Pair> =
            (0..self.len()).map(|n| self.pairs.get(n)).filter(|pair| pair.key < coverage.end.get()).collect();
        encode_file(INDEX_MAGIC, context, coverage, &pairs)
    }
}

/// The entries of the bytes of an index file, for those who dump it.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = IndexEntry> + '_ {
    pairs_of(bytes).map(IndexEntry::from_pair)
}

/// The pairs of the bytes of an index file.
pub(crate) fn pairs_of(bytes: &[u8]) -> impl Iterator<Item = Pair> + '_ {
    use super::format::{INDEX_ENTRY_BYTES, INDEX_HEADER_BYTES, u64_at};
    bytes
        .get(INDEX_HEADER_BYTES..)
        .unwrap_or_default()
        .chunks_exact(INDEX_ENTRY_BYTES)
        .map(|chunk| Pair { key: u64_at(chunk, 0), value: u64_at(chunk, 8) })
}
