//! Dead letters on their way, by lane: which lanes they make dead before their entries are there (rule DL-6).
//!
//! Owns: an index of the open intents of the durable state, rebuilt from it at the start. Must not know: entries, who
//! asked. Intents whose entry a reset clears are not in it: their records are new again (rule OF-3).

use std::collections::{BTreeMap, HashMap};
use std::hash::BuildHasherDefault;

use super::entry::{EntryKey, LaneState};
use super::lanes::KeyHasher;
use super::record::Intent;
use crate::model::{LaneKey, Offset, PartitionEpoch, Source};

/// Open intents.
#[derive(Debug, Default)]
pub(super) struct Intents {
    by_lane: BTreeMap<(Source, LaneKey, Offset, PartitionEpoch), Known>,
    /// Never iterated: its order is not that of a replay.
    counts: HashMap<(Source, LaneKey), Counts, BuildHasherDefault<KeyHasher>>,
    of_source: BTreeMap<Source, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Known {
    number: u64,
    holds: bool,
    spilled: bool,
}

/// Intents that hold a lane.
#[derive(Debug, Clone, Copy, Default)]
struct Counts {
    dead: u32,
    spilled: u32,
}

impl Intents {
    /// A new one.
    pub(super) fn insert(&mut self, number: u64, intent: &Intent) {
        let (source, lane) = (intent.key.source, intent.lane);
        let known = Known { number, holds: intent.holds, spilled: intent.spilled };
        if self.by_lane.insert(place(intent), known).is_none() {
            *self.of_source.entry(source).or_default() += 1;
            if known.holds {
                *self.counts.entry((source, lane)).or_default().of(known) += 1;
            }
        }
    }

    /// It has arrived, or is lost.
    pub(super) fn remove(&mut self, number: u64, intent: &Intent) {
        let (source, lane) = (intent.key.source, intent.lane);
        if self.by_lane.get(&place(intent)).is_none_or(|known| known.number != number) {
            return;
        }
        let Some(known) = self.by_lane.remove(&place(intent)) else { return };
        if let Some(count) = self.of_source.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                self.of_source.remove(&source);
            }
        }
        if known.holds
            && let Some(counts) = self.counts.get_mut(&(source, lane))
        {
            *counts.of(known) -= 1;
            if counts.dead == 0 && counts.spilled == 0 {
                self.counts.remove(&(source, lane));
            }
        }
    }

    /// Forgets those of a partition.
    pub(super) fn forget(&mut self, source: Source) {
        if self.of_source.remove(&source).is_none() {
            return;
        }
        self.by_lane.retain(|(one, ..), _| *one != source);
        self.counts.retain(|(one, _), _| *one != source);
    }

    /// Partitions that have any.
    pub(super) fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        self.of_source.keys().copied()
    }

    /// Whether a partition has any.
    pub(super) fn any(&self, source: Source) -> bool {
        self.of_source.contains_key(&source)
    }

    /// How many a partition has.
    pub(super) fn count(&self, source: Source) -> u64 {
        self.of_source.get(&source).copied().unwrap_or(0)
    }

    /// Whether the record has one.
    pub(super) fn has(&self, key: &EntryKey, lane: LaneKey) -> bool {
        self.by_lane.contains_key(&(key.source, lane, key.offset, key.epoch))
    }

    /// What they make of a lane.
    pub(super) fn lane_state(&self, source: Source, lane: LaneKey) -> LaneState {
        match self.counts.get(&(source, lane)) {
            None => LaneState::Live,
            Some(Counts { dead: 0, .. }) => LaneState::Spilled,
            Some(_) => LaneState::Dead,
        }
    }

    /// The first that holds a lane.
    pub(super) fn first_of(&self, source: Source, lane: LaneKey) -> Option<EntryKey> {
        self.counts.get(&(source, lane))?;
        let last = PartitionEpoch::new(i32::MAX as u32).expect("the greatest epoch");
        let range = (source, lane, Offset::ZERO, PartitionEpoch::ZERO)..=(source, lane, Offset::MAX, last);
        let first = self.by_lane.range(range).find(|(_, known)| known.holds)?;
        let (source, _, offset, epoch) = *first.0;
        Some(EntryKey { source, offset, epoch })
    }
}

impl Counts {
    fn of(&mut self, known: Known) -> &mut u32 {
        if known.spilled { &mut self.spilled } else { &mut self.dead }
    }
}

fn place(intent: &Intent) -> (Source, LaneKey, Offset, PartitionEpoch) {
    (intent.key.source, intent.lane, intent.key.offset, intent.key.epoch)
}
