//! What a partition remembers of single records until they are settled: tries, and lanes with a hole (rules AK-6, DL-8).

use super::PartitionState;
use crate::model::{LaneKey, Offset};

/// Lanes of a partition whose next delivery is to be marked; beyond that those of the oldest records are let go of.
pub(super) const HOLES_KEPT: usize = 10_000;

impl PartitionState {
    pub(super) fn add_hole(&mut self, lane: LaneKey, at: Offset) {
        self.holes.insert(lane, at);
        if self.holes.len() > HOLES_KEPT {
            // An eighth at once, so that a flood of them costs little.
            let mut offsets: Vec<Offset> = self.holes.values().copied().collect();
            let (_, oldest, _) = offsets.select_nth_unstable(HOLES_KEPT / 8);
            let oldest = *oldest;
            self.holes.retain(|_, dropped| *dropped > oldest);
        }
    }

    pub(in super::super) fn forget_tries(&mut self, from: Offset, to: Offset) {
        if self.tried.is_empty() {
            return;
        }
        let gone: Vec<Offset> = self.tried.range(from..to).map(|(offset, _)| *offset).collect();
        gone.iter().for_each(|offset| drop(self.tried.remove(offset)));
    }
}
