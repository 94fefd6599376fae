//! Offsets that will never come: gaps and cuts (rules RE-4, RE-5, AK-12, G7).
//!
//! Owns: which gaps wait to be accepted, what a cut takes with it. Must not know: how a gap was found.
//!
//! Invariant: nothing that a group will not get is passed over in silence: members are told, and so are operators.

use std::collections::BTreeMap;
use std::collections::BTreeSet;

use super::Now;
use super::config::OnGap;
use super::effect::{After, Effects, Frame, Notice};
use super::entry::EntryRecord;
use super::machine::Machine;
use super::record::{GapReason, GroupRecord, PauseReason, SettledAs};
use crate::model::{MemberId, Offset, OffsetRange, PartitionEpoch, Source};

/// Gaps that wait to be accepted.
#[derive(Debug, Default)]
pub(super) struct Gaps {
    waiting: BTreeMap<Source, (OffsetRange, GapReason)>,
    /// Partitions whose next gap is accepted already: it was not known any more when someone accepted it.
    accepted: BTreeSet<Source>,
    /// What is gone from the logs above the floors: records of it that are leased are not delivered again (rule RE-5).
    gone: BTreeMap<Source, Vec<OffsetRange>>,
    /// Gaps that were found while no owner had a stream, as after the start of the broker: told to the first that has.
    untold: BTreeMap<Source, Vec<Frame>>,
}

/// Gaps of a partition that wait for somebody to be told of them; of more the oldest are told to operators alone.
const UNTOLD: usize = 16;

impl Gaps {
    /// The gap that a partition waits at.
    pub(super) fn of(&self, source: Source) -> Option<(OffsetRange, GapReason)> {
        self.waiting.get(&source).copied()
    }
}

impl Machine {
    /// See [`super::event::Event::Gap`].
    pub(super) fn gap(&mut self, source: Source, range: OffsetRange, reason: GapReason, now: Now, fx: &mut Effects) {
        let Some(partition) = self.partition(source) else { return };
        if range.is_empty() {
            return;
        }
        let unsettled = partition.settled.count_unsettled_in(range);
        if let Some(work) = self.works.get_mut(&source)
            && work.reading.asked.is_some_and(|from| range.contains(from))
        {
            // That was the answer to what was asked for.
            work.reading.asked = None;
        }
        let asks = matches!(reason, GapReason::Retention | GapReason::Trim | GapReason::Corrupt);
        let stops = asks && unsettled > 0 && self.state.config.on_gap == OnGap::Stop;
        if stops && !self.gaps.accepted.remove(&source) {
            let known = self.gaps.waiting.insert(source, (range, reason));
            self.begin_pause(Some(source), PauseReason::Gap, now, fx);
            if known != Some((range, reason)) {
                self.tell_gap(source, range, reason, Some(unsettled), true, fx);
            }
            return;
        }
        if unsettled > 0 {
            self.tell_gap(source, range, reason, Some(unsettled), false, fx);
        }
        self.pass_gap(source, range, reason, now, fx);
    }

    /// What is unsettled in the gap is expired, but for what is leased (rule RE-5); reading goes on behind it.
    fn pass_gap(&mut self, source: Source, range: OffsetRange, reason: GapReason, now: Now, fx: &mut Effects) {
        let Some(partition) = self.partition(source) else { return };
        let floor = partition.settled.floor();
        let leased = self.works.get(&source).map(|work| work.leased_in(range)).unwrap_or_default();
        if leased.is_empty() {
            if partition.settled.count_unsettled_in(range) > 0 {
                self.commit(GroupRecord::GapPassed { source, range, reason }, fx);
            }
        } else {
            let mut runs = Vec::new();
            let mut from = range.from;
            for at in leased.into_iter().chain([range.to]) {
                runs.extend(partition.settled.unsettled_in(OffsetRange { from, to: at }));
                from = at.saturating_add(1);
            }
            self.commit(GroupRecord::Settled { source, how: SettledAs::Expired, runs }, fx);
            let gone = self.gaps.gone.entry(source).or_default();
            gone.retain(|range| range.to > floor);
            gone.push(range);
        }
        self.drop_range(source, range, now, fx);
        self.pass_ranges(source, range, now, fx);
        self.touch(source);
        if self.has_dead(source) {
            // Entries whose places are passed now may go (rule DL-15).
            self.refresh_source(source, range.from, now);
        }
    }

    /// A record whose lease has ended is gone from the log, or was settled meanwhile: it is not delivered again
    /// (rule RE-5).
    pub(super) fn gone_meanwhile(&mut self, source: Source, offset: Offset, now: Now, fx: &mut Effects) -> bool {
        let settled = self.partition(source).is_some_and(|partition| partition.settled.contains(offset));
        let gone = self.gaps.gone.get(&source).is_some_and(|gone| gone.iter().any(|range| range.contains(offset)));
        if !settled && !gone {
            return false;
        }
        if let Some(work) = self.work(source) {
            work.forget(|at, leased| !leased && at == offset, now.monotonic_ms);
        }
        if !settled {
            self.settle_offset(source, offset, SettledAs::Expired, fx);
        }
        true
    }

    /// Someone accepts the gap that a partition waits at, or all do.
    pub(super) fn accept_gaps(&mut self, source: Option<Source>, now: Now, fx: &mut Effects) {
        let paused: Vec<Source> = self.paused_for(PauseReason::Gap).collect();
        for one in paused.into_iter().filter(|one| source.is_none_or(|source| source == *one)) {
            match self.gaps.waiting.remove(&one) {
                Some((range, reason)) => self.pass_gap(one, range, reason, now, fx),
                // It was told before the broker started anew, and will be told again.
                None => drop(self.gaps.accepted.insert(one)),
            }
            self.end_pause(Some(one), PauseReason::Gap, now, fx);
        }
    }

    /// A gap does not concern the group any more: its positions were set anew, or the partition was cut.
    pub(super) fn forget_gap(&mut self, source: Source, now: Now, fx: &mut Effects) {
        self.gaps.waiting.remove(&source);
        self.gaps.accepted.remove(&source);
        self.gaps.gone.remove(&source);
        self.end_pause(Some(source), PauseReason::Gap, now, fx);
    }

    /// See [`super::event::Event::Cut`].
    pub(super) fn cut(
        &mut self,
        source: Source,
        at: Option<Offset>,
        epoch: PartitionEpoch,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(partition) = self.partition(source) else { return };
        if epoch <= partition.epoch {
            // It was compared with this epoch before (rule AK-12).
            return;
        }
        let Some(at) = at else {
            self.commit(GroupRecord::Epoch { source, epoch }, fx);
            return;
        };
        let seen = self.works.get(&source).map_or(at, |work| work.reading.next);
        let end = partition.settled.end().max(seen).max(at.saturating_add(1));
        let range = OffsetRange { from: at, to: end };
        // What the group has not read is not known to have been there.
        let read = OffsetRange { from: at, to: partition.settled.end().max(seen).max(at) };
        let unsettled = partition.settled.count_unsettled_in(read);
        // The mark of the entries first: if the broker dies before it is durable, the start makes it again.
        self.mark_source_lost(source, at, epoch, fx);
        self.forget_deaths(source, at, fx);
        let group_epoch = self.state.epoch + 1;
        self.commit(GroupRecord::Cut { source, at, epoch, group_epoch }, fx);
        self.forget_gap(source, now, fx);
        self.drop_from(source, at);
        self.ranges.cut(source, at);
        self.tell_gap(source, range, GapReason::Truncated, Some(unsettled), false, fx);
        self.reassign(&[source], now, fx);
        self.refresh_source(source, at, now);
    }

    /// Marks the entries whose records were cut, unless all are (rule AK-12).
    pub(super) fn mark_source_lost(&mut self, source: Source, from: Offset, epoch: PartitionEpoch, fx: &mut Effects) {
        let unmarked = |key: &super::entry::EntryKey| {
            key.epoch < epoch && self.entries.get(key).is_some_and(|entry| !entry.source_lost)
        };
        if self.entries.from(source, from).any(|(key, _)| unmarked(&key)) {
            self.commit_entry(EntryRecord::SourceLost { source, from, epoch }, fx);
        }
    }

    /// Puts the open entries of a partition from `from` on where they belong.
    pub(super) fn refresh_source(&mut self, source: Source, from: Offset, now: Now) {
        let open: Vec<_> =
            self.entries.from(source, from).filter(|(_, state)| !state.is_closed()).map(|(key, _)| key).collect();
        for key in open {
            if let Some(entry) = self.entries.get(&key) {
                self.refresh_of(key, &entry, now);
            }
        }
    }

    /// Tells a member that has just got a unit what nobody could be told of before.
    pub(super) fn tell_untold(&mut self, member: MemberId, source: Source, fx: &mut Effects) {
        if self.members.get(member).is_some_and(|one| one.attached)
            && let Some(untold) = self.gaps.untold.remove(&source)
        {
            untold.into_iter().for_each(|frame| self.send(member, frame, After::Group, fx));
        }
    }

    /// Tells the owners of a partition, and operators, what will not come; `records`: how many of it were not settled.
    pub(super) fn tell_gap(
        &mut self,
        source: Source,
        range: OffsetRange,
        reason: GapReason,
        records: Option<u64>,
        stops: bool,
        fx: &mut Effects,
    ) {
        fx.notices.push(Notice::Gap { source, range, reason });
        let owners = self.state.owners.get(&source).into_iter().flatten();
        let members: BTreeSet<MemberId> = owners.map(|run| run.member).collect();
        if !members.iter().any(|member| self.members.get(*member).is_some_and(|one| one.attached)) {
            let untold = self.gaps.untold.entry(source).or_default();
            if untold.len() >= UNTOLD {
                untold.remove(0);
            }
            untold.push(Frame::Gap { source, range, reason, records, stops });
            return;
        }
        for member in members {
            self.send(member, Frame::Gap { source, range, reason, records, stops }, After::Group, fx);
        }
    }
}

#[cfg(test)]
mod tests;
