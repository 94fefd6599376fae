//! The sparse time index of a segment: append time -> offset of a frame appended then.
//!
//! Owns which frames get an entry and how one is looked up. Must not know files. Append times never fall along a log,
//! so the first frame at or after a time lies behind the last entry before that time (rule OF-4). As the offset index
//! it is a hint that is always rebuilt from the log (rule C4).

use super::format::TIME_INDEX_MAGIC;
use super::frame::FrameContext;
use super::index::pairs_of;
use super::index_file::{Coverage, IndexFault, Pair, Pairs, check_file, encode_file};
use super::storage::MappedFile;
use crate::model::Offset;

/// An entry: the frame that begins with this offset was appended at this time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeEntry {
    /// Append time in milliseconds since 1970.
    pub time_ms: i64,
    /// Offset of the frame's first record.
    pub offset: Offset,
}

/// Times as numbers that keep their order when compared without sign.
fn key_of(time_ms: i64) -> u64 {
    (time_ms as u64) ^ (1 << 63)
}

impl TimeEntry {
    fn from_pair(pair: Pair) -> Self {
        Self { time_ms: (pair.key ^ (1 << 63)) as i64, offset: Offset::new(pair.value).unwrap_or(Offset::MAX) }
    }

    fn to_pair(self) -> Pair {
        Pair { key: key_of(self.time_ms), value: self.offset.get() }
    }
}

/// The time index of one segment.
#[derive(Debug)]
pub struct TimeIndex {
    pairs: Pairs,
}

impl TimeIndex {
    /// An index without entries.
    pub(crate) fn empty() -> Self {
        Self { pairs: Pairs::Owned(Vec::new()) }
    }

    /// An index over a mapped file that [`TimeIndex::check`] has passed in this run.
    pub(crate) fn mapped(file: Box<dyn MappedFile>) -> Self {
        Self { pairs: Pairs::Mapped(file) }
    }

    /// Checks the bytes of a time index file.
    ///
    /// # Errors
    /// What is wrong with it; it must be rebuilt.
    pub fn check(bytes: &[u8], context: &FrameContext, base: Offset) -> Result<Coverage, IndexFault> {
        check_file(bytes, TIME_INDEX_MAGIC, context, base).map(|header| header.coverage)
    }

    /// An index in memory with the entries of a checked file that lie below `until`.
    pub(crate) fn loaded(bytes: &[u8], until: Offset) -> Self {
        let pairs = pairs_of(bytes).filter(|pair| pair.value < until.get()).collect();
        Self { pairs: Pairs::Owned(pairs) }
    }

    /// Notes when a frame was appended, unless the last entry has that time.
    pub(crate) fn note(&mut self, entry: TimeEntry) {
        let Pairs::Owned(pairs) = &mut self.pairs else { panic!("only an index in memory takes entries") };
        let pair = entry.to_pair();
        if pairs.last().is_none_or(|last| last.key < pair.key) {
            pairs.push(pair);
        }
    }

    /// The last entry before `time_ms`: the frame looked for lies behind it.
    pub fn last_before(&self, time_ms: i64) -> Option<TimeEntry> {
        let key = key_of(time_ms).checked_sub(1)?;
        self.pairs.last_up_to(key).map(TimeEntry::from_pair)
    }

    /// Drops the entries of frames at or above `end`.
    pub(crate) fn truncate(&mut self, end: Offset) {
        if let Pairs::Owned(pairs) = &mut self.pairs {
            pairs.retain(|pair| pair.value < end.get());
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
            (0..self.len()).map(|n| self.pairs.get(n)).filter(|pair| pair.value < coverage.end.get()).collect();
        encode_file(TIME_INDEX_MAGIC, context, coverage, &pairs)
    }
}

/// The entries of the bytes of a time index file, for those who dump it.
pub fn entries(bytes: &[u8]) -> impl Iterator<Item = TimeEntry> + '_ {
    pairs_of(bytes).map(TimeEntry::from_pair)
}
