//! What stands for a record's key: its slot in the partition, and the lane that its order hangs on.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Virtual slots of a partition by which members share it (rule KO-10).
pub const KEY_SLOTS: u32 = crate::limits::KEY_SLOTS;

/// A key's slot in its partition, below [`KEY_SLOTS`]. A record without key has the slot of its offset (rule KO-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct KeySlot(u16);

impl KeySlot {
    /// The slot of this number; `None` from [`KEY_SLOTS`] on.
    pub const fn new(slot: u32) -> Option<Self> {
        if slot < KEY_SLOTS { Some(Self(slot as u16)) } else { None }
    }

    /// The number.
    pub const fn get(self) -> u32 {
        self.0 as u32
    }
}

/// A half-open run of key slots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SlotRange {
    /// First slot.
    pub from: u32,
    /// First slot after it, at most [`KEY_SLOTS`].
    pub to: u32,
}

impl SlotRange {
    /// Every slot: the whole partition.
    pub const ALL: Self = Self { from: 0, to: KEY_SLOTS };

    /// Whether `slot` is in it.
    pub const fn contains(self, slot: KeySlot) -> bool {
        self.from <= slot.get() && slot.get() < self.to
    }

    /// Number of slots.
    pub const fn len(self) -> u32 {
        self.to.saturating_sub(self.from)
    }

    /// Whether it holds no slot.
    pub const fn is_empty(self) -> bool {
        self.from >= self.to
    }

    /// The slots that are in both.
    pub fn intersection(self, other: Self) -> Self {
        Self { from: self.from.max(other.from), to: self.to.min(other.to).max(self.from.max(other.from)) }
    }
}

impl fmt::Display for SlotRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}..{}", self.from, self.to)
    }
}

/// The name of a lane inside a partition: a stable hash of 128 bits of the key, or of the offset of a record without
/// one. Two keys share it with a probability that no log reaches, so it stands for the key wherever state is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey(pub u128);

// As hexadecimal text: not every reader of JSON takes integers of 128 bits.
impl Serialize for LaneKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&format!("{:032x}", self.0))
    }
}

impl<'de> Deserialize<'de> for LaneKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        u128::from_str_radix(&text, 16).map(Self).map_err(serde::de::Error::custom)
    }
}
