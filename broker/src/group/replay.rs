//! Replays of a group: a range of each partition delivered again, bounded and marked (rules RP-1 to RP-5).
//!
//! Owns: what a replay is in the durable state, how far it is, who is told of its end. Must not know: how bounds were
//! found, at which rate ranges are read.
//!
//! ```text
//!   a group of its own        |.... from ########## to |              nothing at or above `to` is ever sent
//!   a group that was there    settled ..| from ########## to |.. settled ..| floor of before: it goes on from there
//! ```
//!
//! Invariants: a group has one replay at a time; its ranges are in order of partitions and fixed when it starts (a cut
//! of the log alone shortens them); in a group that was there, all that a range holds had been settled before.

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::Now;
use super::effect::{After, Delivery, Effects, Frame, Notice, Refusal};
use super::entry::Act;
use super::machine::Machine;
use super::record::{GapReason, GroupRecord, Pause, PauseReason, Start};
use super::state::{Commit, GroupState, PartitionState, ResetMade};
use crate::limits;
use crate::model::{AssignmentEpoch, Filter, MemberId, Offset, OffsetRange, PartitionEpoch, Source};

/// What a replay reads of a partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayRange {
    /// The partition.
    pub source: Source,
    /// First offset.
    pub from: Offset,
    /// First offset after it.
    pub to: Offset,
    /// Epoch of the partition when it was fixed.
    pub epoch: PartitionEpoch,
    /// First offset that was asked for; what lies between it and `from` is gone from the log (rule OF-5).
    pub asked: Offset,
    /// Records that were not handled when the replay ended.
    pub left: u64,
}

impl ReplayRange {
    /// Its offsets.
    pub fn offsets(&self) -> OffsetRange {
        OffsetRange { from: self.from, to: self.to }
    }

    /// Number of its offsets.
    pub fn len(&self) -> u64 {
        self.to.distance_from(self.from)
    }

    /// Whether there is nothing to read.
    pub fn is_empty(&self) -> bool {
        self.from >= self.to
    }
}

/// What a replay delivers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayInto {
    /// A group that was made for it and stays.
    New,
    /// A group that was made for it and goes with its end.
    Ephemeral,
    /// A group that was there, set back.
    Existing,
}

/// How fast a replay is read (rule RP-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayRate {
    /// As fast as members take it.
    Unlimited,
    /// Records a second.
    Records(u64),
    /// Bytes of keys, values and headers a second.
    Bytes(u64),
    /// Thousandths of the speed at which the records were appended.
    SpeedPermille(u64),
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReplayPlan {
    /// What it delivers to.
    pub into: ReplayInto,
    /// Which records of its ranges; the others are settled as skipped (rule FC-7).
    pub filter: Filter,
    /// How fast.
    pub rate: ReplayRate,
    /// Who started it, when and why.
    pub act: Act,
}

/// How a replay ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum ReplayEnd {
    /// All of it was handled.
    Done,
    /// Somebody ended it, or its topics are gone.
    Cancelled,
}

/// A replay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Replay {
    /// Its number in the group, from 1.
    pub number: u64,
    /// What was asked for.
    pub plan: ReplayPlan,
    /// What it reads, in order of partitions.
    pub ranges: Vec<ReplayRange>,
    /// How it ended, and when, milliseconds since 1970.
    pub end: Option<(ReplayEnd, i64)>,
}

impl Replay {
    /// What it reads of a partition.
    pub fn range_of(&self, source: Source) -> Option<&ReplayRange> {
        let at = self.ranges.binary_search_by_key(&source, |range| range.source).ok()?;
        self.ranges.get(at)
    }
}

/// A replay as deliveries know it (rule RP-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReplayMark {
    /// Its number in the group.
    pub number: u64,
    /// First offset of its range.
    pub from: Offset,
    /// First offset after it.
    pub to: Offset,
}

impl ReplayMark {
    /// Whether a record is part of it; what a job redrives is not.
    pub fn covers(&self, delivery: &Delivery) -> bool {
        let entry = delivery.more.as_ref().and_then(|more| more.entry.as_ref());
        let whole = self.to == Offset::MAX;
        (self.from..self.to).contains(&delivery.offset) && (whole || entry.is_none_or(|entry| entry.job.is_none()))
    }
}

/// The replays of a group, the newest last; the last one may be open.
pub type Replays = VecDeque<Replay>;

impl GroupState {
    /// The replay that has not ended.
    pub fn open_replay(&self) -> Option<&Replay> {
        self.replays.back().filter(|replay| replay.end.is_none())
    }

    /// The number of the next replay.
    pub fn next_replay(&self) -> u64 {
        self.replays.back().map_or(1, |replay| replay.number + 1)
    }

    /// Where reading of a partition ends, if it does: in a group that was made for a replay (rule RP-5).
    pub fn bound_of(&self, source: Source) -> Option<Offset> {
        if !self.config.replay_only {
            return None;
        }
        let last = self.replays.back();
        let last = last.filter(|replay| !matches!(replay.end, Some((ReplayEnd::Cancelled, _))));
        Some(last.and_then(|replay| replay.range_of(source)).map_or(Offset::ZERO, |range| range.to))
    }

    /// What deliveries of a partition are part of (rule RP-2).
    pub(super) fn replay_mark(&self, source: Source) -> Option<ReplayMark> {
        let last = self.replays.back()?;
        if self.config.replay_only {
            return Some(ReplayMark { number: last.number, from: Offset::ZERO, to: Offset::MAX });
        }
        let range = last.range_of(source).filter(|_| last.end.is_none())?;
        Some(ReplayMark { number: last.number, from: range.from, to: range.to })
    }

    /// Records of a range that were not handled.
    pub fn left_of(&self, range: &ReplayRange) -> u64 {
        let partition = self.partitions.get(&range.source);
        partition.map_or(0, |partition| partition.settled.count_unsettled_in(range.offsets()))
    }

    /// See [`GroupRecord::ReplayStarted`].
    pub(super) fn replay_started(&mut self, replay: &Replay, epoch: u64) -> Result<(), String> {
        if self.open_replay().is_some() || replay.number != self.next_replay() {
            return Err(format!("replay {} does not follow what the group has", replay.number));
        }
        let own = self.config.replay_only;
        let (mut before, mut after) = (Vec::new(), Vec::new());
        for range in replay.ranges.iter().filter(|range| own || !range.is_empty()) {
            let Some(partition) = self.partitions.get_mut(&range.source) else { continue };
            let floor = partition.settled.floor();
            before.push(Start { source: range.source, offset: floor, epoch: partition.epoch });
            after.push(Start { source: range.source, offset: range.from, epoch: range.epoch });
            partition.set_back(range, own);
            partition.leases_from = AssignmentEpoch(epoch);
        }
        if !own && !before.is_empty() {
            self.resets.push_back(ResetMade { before, after, act: replay.plan.act.clone() });
            while self.resets.len() > limits::RESETS_KEPT {
                self.resets.pop_front();
            }
        }
        self.replays.push_back(replay.clone());
        while self.replays.len() > limits::REPLAYS_KEPT {
            self.replays.pop_front();
        }
        self.epoch = self.epoch.max(epoch);
        Ok(())
    }

    /// See [`GroupRecord::ReplayEnded`].
    pub(super) fn replay_ended(&mut self, number: u64, end: ReplayEnd, time_ms: i64) -> Result<(), String> {
        let own = self.config.replay_only;
        let open = self.replays.back_mut().filter(|replay| replay.number == number && replay.end.is_none());
        let replay = open.ok_or_else(|| format!("replay {number} is not open"))?;
        replay.end = Some((end, time_ms));
        for range in &mut replay.ranges {
            let Some(partition) = self.partitions.get_mut(&range.source) else { continue };
            range.left = partition.settled.count_unsettled_in(range.offsets());
            if end == ReplayEnd::Cancelled && !own && !range.is_empty() {
                // The group goes on from where it was.
                partition.settled.settle(range.offsets());
                partition.forget_tries(range.from, range.to);
            }
        }
        Ok(())
    }

    /// See [`GroupRecord::ReplayPaced`].
    pub(super) fn replay_paced(&mut self, number: u64, rate: ReplayRate) -> Result<(), String> {
        let open = self.replays.back_mut().filter(|replay| replay.number == number && replay.end.is_none());
        open.ok_or_else(|| format!("replay {number} is not open"))?.plan.rate = rate;
        Ok(())
    }

    /// A partition was cut: no bound lies above the cut (rules AK-12, OF-7).
    pub(super) fn cut_replays(&mut self, source: Source, at: Offset) {
        let ranges = self.replays.iter_mut().flat_map(|replay| &mut replay.ranges);
        for range in ranges.filter(|range| range.source == source) {
            range.to = range.to.min(at);
            range.from = range.from.min(at);
        }
    }
}

impl PartitionState {
    /// Positions of a replay: in a group of its own all begins anew, else the range alone is unsettled again.
    fn set_back(&mut self, range: &ReplayRange, own: bool) {
        self.back_to = self.back_to.max(self.seen_end());
        self.skips.forget(if own {
            OffsetRange { from: Offset::ZERO, to: Offset::MAX }
        } else {
            OffsetRange { from: range.from, to: range.to }
        });
        if own {
            self.settled.set_floor(range.from);
            self.tried.clear();
        } else {
            self.settled.unsettle(range.offsets());
        }
        self.epoch = range.epoch;
        self.crashes = 0;
        self.commit = Commit::default();
    }
}

/// Replays in memory: partitions whose range is not done.
#[derive(Debug, Default)]
pub(super) struct Replaying {
    pending: BTreeSet<Source>,
}

impl Machine {
    /// What of the open replay is not done; at the start of the broker, and when one starts.
    pub(super) fn find_pending(&mut self) {
        let state = &self.state;
        let ranges = state.open_replay().into_iter().flat_map(|replay| &replay.ranges);
        self.replaying.pending = ranges.filter(|range| state.left_of(range) > 0).map(|range| range.source).collect();
    }

    /// An operator starts a replay (rule RP-1); bounds were made concrete by the caller.
    pub(super) fn start_replay(&mut self, mut replay: Replay, now: Now, fx: &mut Effects) -> Result<(), Refusal> {
        if let Some(open) = self.state.open_replay() {
            return Err(Refusal::ReplayConflict { number: open.number });
        }
        if !self.state.config.replay_only {
            self.keeps_positions("StartReplay")?;
        }
        replay.number = self.state.next_replay();
        replay.ranges.sort_unstable_by_key(|range| range.source);
        let own = self.state.config.replay_only;
        for range in &mut replay.ranges {
            let Some(partition) = self.state.partitions.get(&range.source) else {
                let (found, bounds) = (format!("{:?}", range.source), "a partition of the group".into());
                return Err(Refusal::Invalid { field: "partition", found, bounds });
            };
            if !own {
                // What lies at or above the floor was not handled: it comes anyway.
                range.to = range.to.min(partition.settled.floor());
            }
            range.from = range.from.min(range.to);
        }
        let set_back = replay.ranges.iter().filter(|range| own || !range.is_empty());
        let sources: Vec<Source> = set_back.map(|range| range.source).collect();
        let epoch = self.state.epoch + 1;
        let record = GroupRecord::ReplayStarted { replay: Box::new(replay), epoch };
        self.set_positions(&sources, record, now, fx);
        self.find_pending();
        self.end_if_done(now, fx);
        Ok(())
    }

    /// The open replay of this number.
    fn open(&self, number: u64) -> Result<&Replay, Refusal> {
        let open = self.state.open_replay().filter(|open| open.number == number);
        open.ok_or_else(|| {
            let known = self.state.replays.iter().find(|replay| replay.number == number);
            let state = match known.and_then(|replay| replay.end) {
                Some((ReplayEnd::Done, _)) => "DONE",
                _ => "CANCELLED",
            };
            Refusal::ReplayOver { number, state }
        })
    }

    /// Its rate changes, for the reading that follows.
    pub(super) fn pace_replay(&mut self, number: u64, rate: ReplayRate, fx: &mut Effects) -> Result<(), Refusal> {
        self.open(number)?;
        self.commit(GroupRecord::ReplayPaced { number, rate }, fx);
        Ok(())
    }

    /// It stops for a while, or goes on (rule RP-3): those partitions deliver nothing whose range is not done, and all
    /// others go on. What a group that was there has in these behind the range waits with it.
    pub(super) fn pause_replay(
        &mut self,
        number: u64,
        paused: bool,
        act: Act,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        self.open(number)?;
        let reason = PauseReason::Replay;
        if !paused {
            self.unpause(|pause| pause.reason == reason, now, fx);
            return Ok(());
        }
        for source in self.replaying.pending.clone() {
            if !self.is_paused_for(Some(source), reason) {
                let (topic, partition) = (Some(source.topic), Some(source.partition));
                self.pause(Pause { topic, partition, reason, until_ms: None, act: act.clone() }, now, fx);
            }
        }
        Ok(())
    }

    /// Somebody ends it: a group that was there goes on from where it was, another one gets nothing more.
    pub(super) fn cancel_replay(&mut self, number: u64, now: Now, fx: &mut Effects) -> Result<(), Refusal> {
        self.open(number)?;
        self.end_replay(ReplayEnd::Cancelled, now, fx);
        Ok(())
    }

    /// Ends the open replay, if there is one.
    pub(super) fn end_replay(&mut self, end: ReplayEnd, now: Now, fx: &mut Effects) {
        let Some(open) = self.state.open_replay() else { return };
        let (number, ranges) = (open.number, open.ranges.clone());
        self.replaying.pending.clear();
        self.commit(GroupRecord::ReplayEnded { number, end, time_ms: now.wall_ms }, fx);
        self.unpause(|pause| pause.reason == PauseReason::Replay, now, fx);
        if end == ReplayEnd::Cancelled {
            let own = self.state.config.replay_only;
            for range in ranges {
                let to = if own { Offset::MAX } else { range.to };
                let gone = OffsetRange { from: range.from, to };
                if own {
                    self.ranges.stop(range.source);
                    self.drop_range(range.source, gone, now, fx);
                } else {
                    self.pass_ranges(range.source, gone, now, fx);
                    self.drop_leased_too(range.source, gone, now, fx);
                }
                self.touch(range.source);
            }
        }
        fx.notices.push(Notice::ReplayEnded);
        let members: Vec<MemberId> = self.state.members.keys().copied().collect();
        for member in members {
            self.send(member, Frame::ReplayDone { number, end, source: None }, After::Group, fx);
        }
    }

    /// Partitions whose range is done now are told, and the end of all (rule RP-5).
    pub(super) fn look_at_replay(&mut self, now: Now, fx: &mut Effects) {
        if self.replaying.pending.is_empty() {
            return;
        }
        let done = |source: &&Source| {
            let range = self.state.open_replay().and_then(|replay| replay.range_of(**source));
            self.replaying.pending.contains(source) && range.is_none_or(|range| self.state.left_of(range) == 0)
        };
        let done: Vec<Source> = self.looked_at.iter().filter(done).copied().collect();
        if done.is_empty() {
            return;
        }
        let number = self.state.open_replay().map_or(0, |replay| replay.number);
        for source in done {
            self.replaying.pending.remove(&source);
            self.end_pause(Some(source), PauseReason::Replay, now, fx);
            let owners = self.state.owners.get(&source).into_iter().flatten();
            let members: BTreeSet<MemberId> = owners.map(|run| run.member).collect();
            for member in members {
                let frame = Frame::ReplayDone { number, end: ReplayEnd::Done, source: Some(source) };
                self.send(member, frame, After::Group, fx);
            }
        }
        self.end_if_done(now, fx);
    }

    /// Ends the open replay if all of it is done.
    pub(super) fn end_if_done(&mut self, now: Now, fx: &mut Effects) {
        if self.replaying.pending.is_empty() && self.state.open_replay().is_some() {
            self.end_replay(ReplayEnd::Done, now, fx);
        }
    }

    /// Topics went: a replay that has nothing left to read is over.
    pub(super) fn topics_left_replay(&mut self, now: Now, fx: &mut Effects) {
        let Some(open) = self.state.open_replay() else { return };
        if open.ranges.is_empty() {
            self.end_replay(ReplayEnd::Cancelled, now, fx);
            return;
        }
        let state = &self.state;
        self.replaying.pending.retain(|source| state.partitions.contains_key(source));
        self.end_if_done(now, fx);
    }

    /// Tells a member that has just got a unit what is gone of its range, and that it is done.
    pub(super) fn tell_replayed(&self, member: MemberId, source: Source, fx: &mut Effects) {
        let Some(last) = self.state.replays.back() else { return };
        if last.end.is_some() && !self.state.config.replay_only {
            return;
        }
        let Some(range) = last.range_of(source) else { return };
        let floor = self.partition(source).map(|partition| partition.settled.floor());
        if range.asked < range.from && floor == Some(range.from) {
            let range = OffsetRange { from: range.asked, to: range.from };
            let records = Some(range.to.distance_from(range.from));
            let frame = Frame::Gap { source, range, reason: GapReason::Retention, records, stops: false };
            self.send(member, frame, After::Group, fx);
        }
        let end = last.end.map_or(ReplayEnd::Done, |(end, _)| end);
        if end == ReplayEnd::Done && self.state.left_of(range) == 0 {
            let frame = Frame::ReplayDone { number: last.number, end, source: Some(source) };
            self.send(member, frame, After::Group, fx);
        }
    }

    /// Tells a member of a group that was made for a replay that it has ended.
    pub(super) fn tell_replay_end(&self, member: MemberId, fx: &mut Effects) {
        let Some(last) = self.state.replays.back().filter(|_| self.state.config.replay_only) else { return };
        if let Some((end, _)) = last.end {
            let frame = Frame::ReplayDone { number: last.number, end, source: None };
            self.send(member, frame, After::Group, fx);
        }
    }

    /// Where a range that begins at `from` ends at the latest: no range reaches over the end of a replay (rule RP-5).
    pub(super) fn reading_ends(&self, source: Source, from: Offset) -> Option<Offset> {
        if let Some(bound) = self.state.bound_of(source) {
            return Some(bound);
        }
        let range = self.state.open_replay()?.range_of(source)?;
        range.offsets().contains(from).then_some(range.to)
    }

    /// The next offset to read at or after `next`: behind a replay what was settled before is not read again.
    pub(super) fn pass_settled(&self, source: Source, next: Offset) -> Offset {
        if self.state.replays.is_empty() || self.state.config.replay_only {
            return next;
        }
        self.partition(source).map_or(next, |partition| partition.settled.first_unsettled_at_or_after(next))
    }
}

#[cfg(test)]
mod tests;
