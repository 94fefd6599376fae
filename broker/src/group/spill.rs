//! Bounds of what is held, and lanes that are spilled to the dead letters to stay within (rules AK-7, KO-7).
//!
//! Owns: when spilling begins and ends, which lanes go. Must not know: how a dead letter is moved. Without dead letters
//! the partition pauses instead: nothing more is read of it until less is held.
//!
//! Invariant: state is never dropped to fit; a lane with anything leased is not spilled.

use std::collections::BTreeSet;

use super::Now;
use super::dead::Dying;
use super::effect::{Effects, Notice};
use super::entry::{DeadReason, EntryKey, EntryKind};
use super::lanes::LaneView;
use super::machine::Machine;
use super::record::PauseReason;
use super::retry::OnExhausted;
use crate::model::{LaneKey, Source};

/// Dead letters of a partition on their way at which no further lane is spilled before some have arrived: what is not held
/// any more must not be held as intents instead.
const UNDER_WAY: u64 = 2_048;

/// The bounds of a partition (rule AK-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Bound {
    /// Records held.
    Held,
    /// Lanes that wait.
    Blocked,
    /// Bytes of log between the floor and the end of what was read.
    ScanAhead,
}

impl Bound {
    const ALL: [Self; 3] = [Self::Held, Self::Blocked, Self::ScanAhead];

    fn name(self) -> &'static str {
        match self {
            Self::Held => "max_held",
            Self::Blocked => "max_lanes_blocked",
            Self::ScanAhead => "max_scan_ahead",
        }
    }
}

/// Which partitions are near a bound, and which are spilling.
#[derive(Debug, Default)]
pub(super) struct Spills {
    near: BTreeSet<(Source, Bound)>,
    full: BTreeSet<(Source, Bound)>,
    due: BTreeSet<Source>,
}

impl Spills {
    /// The bounds of this partition are looked at once everything that can be delivered is.
    pub(super) fn look_at(&mut self, source: Source) {
        self.due.insert(source);
    }
}

impl Machine {
    /// Looks at the bounds of the partitions that ask for it; answers whether that touched any.
    pub(super) fn look_at_bounds(&mut self, now: Now, fx: &mut Effects) -> bool {
        for source in std::mem::take(&mut self.dead.spills.due) {
            self.after_bounds(source, now, fx);
        }
        !self.touched.is_empty()
    }

    /// Counts of held records, blocked lanes or bytes scanned ahead crossed 80 % or 100 % of their bounds, or fell below
    /// 80 %: at the end of an event that touched the source, as long as any is at 80 % or more, and once after.
    fn after_bounds(&mut self, source: Source, now: Now, fx: &mut Effects) {
        for bound in Bound::ALL {
            let Some((now_at, most)) = self.bound(source, bound) else { continue };
            let spills = &mut self.dead.spills;
            if now_at >= most {
                spills.full.insert((source, bound));
            }
            if now_at * 5 < most * 4 {
                spills.near.remove(&(source, bound));
                spills.full.remove(&(source, bound));
            } else if spills.near.insert((source, bound)) {
                fx.notices.push(Notice::BoundNear { source, bound: bound.name() });
            }
        }
        let full: Vec<Bound> =
            Bound::ALL.into_iter().filter(|bound| self.dead.spills.full.contains(&(source, *bound))).collect();
        if full.is_empty() {
            return self.end_pause(Some(source), PauseReason::HeldLimit, now, fx);
        }
        if self.is_dlq(source) || self.policy_for(source).on_exhausted != OnExhausted::DeadLetter {
            return self.begin_pause(Some(source), PauseReason::HeldLimit, now, fx);
        }
        full.into_iter().for_each(|bound| self.spill(source, bound, now, fx));
    }

    /// How much there is of a bound, and how much there may be.
    fn bound(&mut self, source: Source, bound: Bound) -> Option<(u64, u64)> {
        let floor = self.state.partitions.get(&source)?.settled.floor();
        let config = &self.state.config;
        let work = self.works.get_mut(&source)?;
        Some(match bound {
            Bound::Held => (work.held().into(), config.max_held.into()),
            Bound::Blocked => (work.blocked().into(), config.max_lanes_blocked.into()),
            Bound::ScanAhead => (work.reading.scanned_bytes(floor), config.max_scan_ahead_bytes),
        })
    }

    /// Spills lane after lane until the bound is below 80 %. What is scanned ahead falls only as the dead letters arrive:
    /// one lane at a time then.
    fn spill(&mut self, source: Source, bound: Bound, now: Now, fx: &mut Effects) {
        if bound == Bound::ScanAhead && self.dead.intents.any(source) {
            return;
        }
        // Lanes are put in order for many at once, not for each one that arrives.
        if self.dead.intents.count(source) >= UNDER_WAY / 2 {
            return;
        }
        let Some(work) = self.works.get(&source) else { return };
        let mut lanes: Vec<LaneView> = match bound {
            Bound::ScanAhead => work.idle_lanes().collect(),
            // What is not blocked goes by itself.
            Bound::Held | Bound::Blocked => work.blocked_lanes().collect(),
        };
        match bound {
            Bound::ScanAhead => lanes.sort_unstable_by_key(|lane| lane.first),
            Bound::Held | Bound::Blocked => {
                lanes.sort_unstable_by_key(|lane| (std::cmp::Reverse(lane.records), lane.first));
            }
        }
        let floor = self.partition(source).map(|partition| partition.settled.floor());
        for lane in lanes {
            if bound == Bound::ScanAhead && Some(lane.first) != floor {
                // What holds the floor is leased: no other lane helps.
                return;
            }
            let Some((now_at, most)) = self.bound(source, bound) else { return };
            if now_at * 5 < most * 4 {
                self.dead.spills.full.remove(&(source, bound));
                return;
            }
            if self.dead.intents.count(source) >= UNDER_WAY || self.dead_limit_reached(source, now, fx) {
                return;
            }
            self.spill_lane(source, lane.key, now, fx);
            if bound == Bound::ScanAhead {
                return;
            }
        }
    }

    fn spill_lane(&mut self, source: Source, lane: LaneKey, now: Now, fx: &mut Effects) {
        let taken = self.work(source).map(|work| work.take_lane(lane)).unwrap_or_default();
        let mut head = None;
        for taken in taken {
            let key = EntryKey { source, offset: taken.offset, epoch: taken.epoch };
            let dying = Dying {
                taken,
                kind: EntryKind::Parked,
                reason: DeadReason::Spill,
                spilled: true,
                holds: true,
                error: None,
                member: None,
                blocked_by: head,
                records: 1,
            };
            self.intend(source, dying, now, fx);
            head = head.or(Some(key));
        }
    }
}

#[cfg(test)]
mod tests;
