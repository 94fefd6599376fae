//! What is asked of entries on every read: which lanes are not live, and what is open in each.
//!
//! Invariant: it is what a look at all entries of the partition says.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt::Debug;
use std::hash::{BuildHasherDefault, Hasher};

use super::packed::{At, Packed, StateTag};
use super::{DeadReason, EntryKind, LaneState};
use crate::model::{LaneKey, Offset, PartitionEpoch};

/// Is told of every entry of a partition that comes and goes.
pub(super) trait Index: Debug + Clone + Default {
    /// It came, or is what it is from now on.
    fn added(&mut self, at: At, packed: &Packed);
    /// It goes, or is about to change.
    fn removed(&mut self, at: At, packed: &Packed);
}

/// No index, where nothing is asked of entries.
impl Index for () {
    fn added(&mut self, _: At, _: &Packed) {}
    fn removed(&mut self, _: At, _: &Packed) {}
}

/// The index of a partition.
#[derive(Debug, Clone, Default)]
pub(super) struct Lanes {
    /// Entries that are not closed, by lane, in order.
    pub(super) open: BTreeSet<(LaneKey, At)>,
    /// How many open entries hold each lane. Never iterated: its order is not that of a replay.
    pub(super) lanes: HashMap<LaneKey, Holds, BuildHasherDefault<LaneHasher>>,
    /// How many of these are dead, not only spilled.
    pub(super) dead_lanes: u64,
    /// Entries that jobs redrive.
    pub(super) redriving: BTreeSet<(u64, At)>,
    /// Entries by kind, state and reason (rule DL-14).
    pub(super) depths: BTreeMap<(EntryKind, StateTag, bool, DeadReason), u64>,
}

/// Open entries that hold a lane, by state.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Holds {
    open: u32,
    spilled: u32,
}

/// A lane's name is a hash already.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct LaneHasher(u64);

impl Hasher for LaneHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value >> 64) as u64 ^ (value as u64);
    }
}

impl Lanes {
    pub(super) fn lane_state(&self, lane: LaneKey) -> LaneState {
        match self.lanes.get(&lane) {
            None => LaneState::Live,
            Some(Holds { open: 0, .. }) => LaneState::Spilled,
            Some(_) => LaneState::Dead,
        }
    }

    pub(super) fn open_of(&self, lane: LaneKey) -> impl Iterator<Item = At> + '_ {
        let last = At { offset: Offset::MAX, epoch: PartitionEpoch::new(i32::MAX as u32).expect("the greatest epoch") };
        let first = At { offset: Offset::ZERO, epoch: PartitionEpoch::ZERO };
        self.open.range((lane, first)..=(lane, last)).map(|(_, at)| *at)
    }
}

impl Index for Lanes {
    fn added(&mut self, at: At, packed: &Packed) {
        *self.depths.entry(packed.depth()).or_default() += 1;
        if let Some(job) = packed.job() {
            self.redriving.insert((job, at));
        }
        let lane = packed.lane();
        if !packed.state().is_closed() {
            self.open.insert((lane, at));
            if packed.holds {
                let holds = self.lanes.entry(lane).or_default();
                *holds.count(packed.state) += 1;
                self.dead_lanes += u64::from(packed.state != StateTag::Spilled && holds.open == 1);
            }
        }
    }

    fn removed(&mut self, at: At, packed: &Packed) {
        let depth = packed.depth();
        let count = self.depths.get_mut(&depth).expect("every entry is counted");
        *count -= 1;
        if *count == 0 {
            self.depths.remove(&depth);
        }
        if let Some(job) = packed.job() {
            self.redriving.remove(&(job, at));
        }
        let lane = packed.lane();
        if !packed.state().is_closed() {
            self.open.remove(&(lane, at));
            if packed.holds {
                let holds = self.lanes.get_mut(&lane).expect("the lane of an open entry is not live");
                *holds.count(packed.state) -= 1;
                self.dead_lanes -= u64::from(packed.state != StateTag::Spilled && holds.open == 0);
                if holds.open == 0 && holds.spilled == 0 {
                    self.lanes.remove(&lane);
                }
            }
        }
    }
}

impl Holds {
    fn count(&mut self, state: StateTag) -> &mut u32 {
        if state == StateTag::Spilled { &mut self.spilled } else { &mut self.open }
    }
}
