//! Floor and what is settled above it (rule AK-6).

use serde::{Deserialize, Serialize};

use crate::model::{Offset, OffsetRange};

/// The floor of a partition and the runs of settled offsets above it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SettledSet {
    floor: Offset,
    runs: Vec<OffsetRange>,
}

impl SettledSet {
    /// Nothing is settled from `floor` on.
    pub fn new(floor: Offset) -> Self {
        Self { floor, runs: Vec::new() }
    }

    /// The lowest unsettled offset.
    pub fn floor(&self) -> Offset {
        self.floor
    }

    /// Settles a range; the floor rises over what is settled without a hole. Returns how many were not settled before.
    pub fn settle(&mut self, range: OffsetRange) -> u64 {
        let _ = range;
        todo!()
    }

    /// Whether `offset` is settled.
    pub fn contains(&self, offset: Offset) -> bool {
        let _ = offset;
        todo!()
    }

    /// Sets the floor and forgets what was settled above it.
    pub fn set_floor(&mut self, floor: Offset) {
        self.floor = floor;
        self.runs.clear();
    }

    /// Forgets everything at or above `at`; the floor is at most `at` then (rule AK-12).
    pub fn cut(&mut self, at: Offset) {
        let _ = at;
        todo!()
    }
}
