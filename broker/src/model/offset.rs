//! Places in a partition: offsets, epochs, positions; and places in a file, which are never the same thing.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::topic::{PartitionId, TopicUuid};

/// A record's number in its partition, or the number that a bound names; 0 to `i64::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Offset(u64);

impl Offset {
    /// The first offset of every partition.
    pub const ZERO: Self = Self(0);
    /// The greatest offset.
    pub const MAX: Self = Self(i64::MAX as u64);

    /// The offset of this number; `None` above `i64::MAX`.
    pub const fn new(value: u64) -> Option<Self> {
        if value <= Self::MAX.0 { Some(Self(value)) } else { None }
    }

    /// The offset that a signed number of the wire means; `None` if negative.
    pub fn from_wire(value: i64) -> Option<Self> {
        u64::try_from(value).ok().map(Self)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }

    /// The number as it stands on the wire.
    pub const fn to_wire(self) -> i64 {
        self.0 as i64
    }

    /// The offset `count` records later; `None` beyond the greatest offset.
    pub const fn checked_add(self, count: u64) -> Option<Self> {
        match self.0.checked_add(count) {
            Some(sum) => Self::new(sum),
            None => None,
        }
    }

    /// The offset `count` records later, at most the greatest offset.
    pub fn saturating_add(self, count: u64) -> Self {
        self.checked_add(count).unwrap_or(Self::MAX)
    }

    /// The offset `count` records earlier, at least 0.
    pub const fn saturating_sub(self, count: u64) -> Self {
        Self(self.0.saturating_sub(count))
    }

    /// Records from `earlier` to here; 0 if `earlier` is later.
    pub const fn distance_from(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Offset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A half-open range of offsets: `from` is in it, `to` is not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct OffsetRange {
    /// First offset of the range.
    pub from: Offset,
    /// First offset after the range.
    pub to: Offset,
}

impl OffsetRange {
    /// Whether `offset` is in the range.
    pub fn contains(&self, offset: Offset) -> bool {
        self.from <= offset && offset < self.to
    }

    /// Whether no offset is in the range.
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }
}

/// A byte place in a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct FilePosition(pub u64);

impl fmt::Display for FilePosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Rises whenever the end of a partition was cut or may have been (rule D3); 0 to `i32::MAX`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct PartitionEpoch(u32);

impl PartitionEpoch {
    /// The epoch of a new broker's first partition.
    pub const ZERO: Self = Self(0);

    /// The epoch of this number; `None` above `i32::MAX`.
    pub const fn new(value: u32) -> Option<Self> {
        if value <= i32::MAX as u32 { Some(Self(value)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0
    }

    /// The epoch after this one; `None` after the last.
    pub const fn next(self) -> Option<Self> {
        Self::new(self.0 + 1)
    }
}

impl fmt::Display for PartitionEpoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A place in a partition that stays meaningful across restarts and cuts (rule OF-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Position {
    /// The topic.
    pub topic: TopicUuid,
    /// The partition.
    pub partition: PartitionId,
    /// Epoch of the record's frame.
    pub epoch: PartitionEpoch,
    /// Offset of the record.
    pub offset: Offset,
}
