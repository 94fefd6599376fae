//! Which lanes are not live, how many, and what follows from that (rules AK-7, DL-7, DL-8, DL-12).
//!
//! Owns: the state of a lane by its entries and intents together, the count of dead lanes, lanes with holes.
//!
//! Invariant: the count of lanes that intents alone hold is right after every change of an intent or an entry
//! ([`Machine::with_lane`]).

use std::collections::BTreeSet;

use super::Now;
use super::config::Mode;
use super::dead::Death;
use super::effect::{Effects, Notice};
use super::entry::{EntryKey, LaneState};
use super::machine::Machine;
use super::record::{GroupRecord, PauseReason};
use super::retry::{AfterDead, RetryPolicy};
use crate::model::{LaneKey, Offset, Source};

impl Machine {
    /// What a lane is, intents counted (rule DL-12).
    pub(super) fn lane_now(&self, source: Source, lane: LaneKey) -> LaneState {
        match (self.entries.lane_state(source, lane), self.dead.intents.lane_state(source, lane)) {
            (LaneState::Dead, _) | (_, LaneState::Dead) => LaneState::Dead,
            (LaneState::Spilled, _) | (_, LaneState::Spilled) => LaneState::Spilled,
            _ => LaneState::Live,
        }
    }

    /// The first entry or intent that holds a lane.
    pub(super) fn head_now(&self, source: Source, lane: LaneKey) -> Option<EntryKey> {
        let (entry, intent) = (self.entries.head_of(source, lane), self.dead.intents.first_of(source, lane));
        entry.into_iter().chain(intent).min()
    }

    /// Lanes that are dead or spilled.
    pub(super) fn dead_lanes(&self) -> u64 {
        self.entries.lane_count() as u64 + self.dead.by_intent_alone
    }

    /// Whether a dead record parks its lane.
    pub(super) fn parks(&self, source: Source) -> bool {
        let policy = self.policy_for(source);
        self.state.config.mode != Mode::Unordered && policy.after_dead == AfterDead::Park && !self.is_dlq(source)
    }

    /// Tries and delays of a partition's records.
    pub(super) fn policy_for(&self, source: Source) -> &RetryPolicy {
        self.state.config.retry_of(source.topic)
    }

    /// Whether the source is a dead-letter topic itself (rule DL-11).
    pub(super) fn is_dlq(&self, source: Source) -> bool {
        self.state.topics.get(&source.topic).is_some_and(|topic| topic.is_dlq)
    }

    /// The partition pauses if one dead lane more is too many (rule AK-7).
    pub(super) fn dead_limit_reached(&mut self, source: Source, now: Now, fx: &mut Effects) -> bool {
        if self.dead_lanes() < self.state.config.max_dead_lanes {
            return false;
        }
        self.begin_pause(Some(source), PauseReason::DeadLimit, now, fx);
        true
    }

    /// Something of a lane was closed, has arrived or is lost.
    pub(super) fn lane_changed(&mut self, source: Source, lane: LaneKey, was: LaneState, now: Now, fx: &mut Effects) {
        if was != LaneState::Live && self.lane_now(source, lane) == LaneState::Live {
            fx.notices.push(Notice::LaneLive);
        }
        self.refresh_lane(source, lane, now);
        self.end_dead_limit(now, fx);
    }

    /// Below 80 % of the dead lanes, what waited for that goes on (rule AK-7).
    pub(super) fn end_dead_limit(&mut self, now: Now, fx: &mut Effects) {
        if self.dead_lanes() * 5 >= self.state.config.max_dead_lanes * 4 {
            return;
        }
        let paused: BTreeSet<Source> = self.paused_for(PauseReason::DeadLimit).collect();
        if paused.is_empty() && self.dead.waiting.is_empty() {
            return;
        }
        for source in paused {
            self.end_pause(Some(source), PauseReason::DeadLimit, now, fx);
        }
        for Death { source, offset, reason, error, member, answer } in std::mem::take(&mut self.dead.waiting) {
            self.kill(source, offset, reason, error, member, answer, now, fx);
        }
    }

    /// Changes something about a lane and keeps the count of lanes that intents alone hold.
    pub(super) fn with_lane<R>(&mut self, source: Source, lane: LaneKey, change: impl FnOnce(&mut Self) -> R) -> R {
        let alone = |machine: &Self| {
            machine.dead.intents.lane_state(source, lane) != LaneState::Live
                && machine.entries.lane_state(source, lane) == LaneState::Live
        };
        let was = alone(self);
        let result = change(self);
        match (was, alone(self)) {
            (false, true) => self.dead.by_intent_alone += 1,
            (true, false) => self.dead.by_intent_alone -= 1,
            _ => {}
        }
        result
    }

    /// Builds the index of a partition's intents anew.
    pub(super) fn index_intents(&mut self, source: Source) {
        self.dead.intents.forget(source);
        self.dead.cleared.retain(|key, _| key.source != source);
        let Some(partition) = self.state.partitions.get(&source) else { return };
        for (number, intent) in &partition.intents {
            if intent.cleared {
                self.dead.cleared.insert(intent.key, intent.cycle);
            } else {
                self.dead.intents.insert(*number, intent);
            }
        }
    }

    /// Counts the lanes that intents alone hold.
    pub(super) fn count_lanes(&mut self) {
        let intents = self.state.partitions.iter().flat_map(|(source, one)| {
            one.intents.values().filter(|intent| intent.holds && !intent.cleared).map(|one| (*source, one.lane))
        });
        let lanes: BTreeSet<(Source, LaneKey)> = intents.collect();
        let alone = lanes.iter().filter(|(source, lane)| self.entries.lane_state(*source, *lane) == LaneState::Live);
        self.dead.by_intent_alone = alone.count() as u64;
    }

    /// A record of the lane was dropped, or is left dead: the next delivery of the lane is marked (rule DL-8).
    pub(super) fn note_hole(&mut self, source: Source, lane: LaneKey, at: Offset, fx: &mut Effects) {
        if self.state.config.mode == Mode::Keyed {
            self.commit(GroupRecord::Hole { source, lane, at }, fx);
        }
    }

    /// Whether a delivery of the lane is to be marked: a record before it is missing.
    pub(super) fn has_hole(&self, source: Source, lane: LaneKey, before: Offset) -> bool {
        self.partition(source).and_then(|partition| partition.holes.get(&lane)).is_some_and(|at| *at < before)
    }

    /// Records of these lanes are settled: what they were marked with was told. Before they are, in the journal: a mark
    /// is never told without a hole.
    pub(super) fn holes_told(&mut self, source: Source, lanes: &[LaneKey], fx: &mut Effects) {
        let Some(partition) = self.partition(source).filter(|partition| !partition.holes.is_empty()) else { return };
        let lanes: Vec<LaneKey> = lanes.iter().copied().filter(|lane| partition.holes.contains_key(lane)).collect();
        if !lanes.is_empty() {
            self.commit(GroupRecord::HolesTold { source, lanes }, fx);
        }
    }
}
