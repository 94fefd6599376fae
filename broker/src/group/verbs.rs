//! What members say of records: Ack, Nack, Extend, Started (rules AK-1 to AK-5, KO-3, KO-4, RT-1 to RT-7, PI-1, PI-2).

use std::time::Duration;

use super::Now;
use super::breaker::FirstAttempt;
use super::effect::{AckStatus, After, Effects, Frame, Notice, Refusal};
use super::event::{NackKind, Targets, Verb};
use super::failing::Failing;
use super::machine::Machine;
use super::record::{GroupRecord, SettledAs};
use super::redriven::NackHow;
use super::retry::FailureKind;
use super::slab::NONE;
use super::took::Took;
use crate::limits;
use crate::model::{LaneKey, MemberEpoch, MemberId, Offset, OffsetRange, Source};

/// Offsets of one verb that are looked at; nobody holds so many.
const TARGETS_MAX: u64 = 4 * limits::HELD_RECORDS as u64;

/// Characters of the reason for a skip that are kept.
const SKIP_REASON_CHARS: usize = 1_024;

pub(super) use super::answers::{AnswerId, Answers, PendingAnswer};

/// What a verb settles.
#[derive(Debug, Default)]
struct Done {
    runs: Vec<OffsetRange>,
    records: u64,
    leased: u64,
    bytes: u64,
    suspects: u32,
    probe: bool,
    /// The breaker opened with this: others' successes left its window.
    opened: bool,
    /// Of the first of them.
    first: Option<Took>,
    lanes: Vec<LaneKey>,
}

impl Done {
    fn add(&mut self, offset: Offset) {
        super::read_ahead::add(&mut self.runs, offset);
        self.records += 1;
    }
}

impl Machine {
    /// See [`super::event::Event::Member`].
    pub(super) fn verb(&mut self, member: MemberId, epoch: MemberEpoch, verb: Verb, now: Now, fx: &mut Effects) {
        let current = self.members.get(member).is_some_and(|one| one.epoch == epoch && one.attached);
        if !current {
            if self.members.get(member).is_some_and(|one| one.attached) {
                // A newer session has the stream: what an older one still says is nothing to it.
                return;
            }
            let frame = Frame::Ended(Refusal::SessionOver);
            fx.frames.push(super::effect::Outgoing { member, frame, after: After::Now });
            return;
        }
        self.seen(member, now);
        if let Some(verb) = self.wait_for_claims(member, epoch, verb) {
            self.say(member, verb, now, fx);
        }
    }

    /// Does what a member's session says.
    pub(super) fn say(&mut self, member: MemberId, verb: Verb, now: Now, fx: &mut Effects) {
        match verb {
            Verb::Ping => self.send(member, Frame::Pong, After::Now, fx),
            Verb::Credit(credit) => self.add_credit(member, credit),
            Verb::Ack { request, targets, versions } => self.ack(member, request, &targets, &versions, now, fx),
            Verb::Nack { request, targets, kind, retry_after_ms, whole_group, error, reason } => {
                let how = NackHow { kind, retry_after_ms, error, reason };
                self.nack(member, request, &targets, &how, whole_group, now, fx);
            }
            Verb::Extend { request, targets } => self.extend(member, request, &targets, now, fx),
            Verb::Started { targets } => self.started(member, &targets),
            verb @ (Verb::Commit { .. } | Verb::Report { .. } | Verb::DeadLetter { .. }) => {
                self.offset_verb(member, verb, now, fx)
            }
            Verb::Stalled(source, epoch, reason) => self.range_stalled(member, source, epoch, reason, now),
            Verb::ReportCut(report) => self.report_cut(member, *report, fx),
            Verb::Revoked { source, slots } => self.revoked(member, source, slots, now, fx),
            Verb::Leave => self.leave(member, now, fx),
        }
    }

    /// Records are done (rules AK-1 to AK-4, KO-3).
    fn ack(&mut self, member: MemberId, request: u64, targets: &Targets, versions: &[u32], now: Now, fx: &mut Effects) {
        let answer = self.begin_answer(member, request, targets.source);
        self.settle_runs(member, targets, SettledAs::Acked, answer, now, fx);
        if !targets.entries.is_empty() {
            self.ack_entries(member, targets, versions, answer, now, fx);
        }
        self.end_answer(answer, fx);
    }

    /// Settles the records that a member has, in order, and tells what became of each. Answers which it skipped.
    pub(super) fn settle_runs(
        &mut self,
        member: MemberId,
        targets: &Targets,
        how: SettledAs,
        answer: AnswerId,
        now: Now,
        fx: &mut Effects,
    ) -> Vec<OffsetRange> {
        let source = targets.source;
        let has_dead = self.has_dead(source);
        let mut done = Done::default();
        let mut budget = TARGETS_MAX;
        for run in &targets.runs {
            let run = self.clip(source, *run, &mut budget, answer);
            let (mut at, mut ok_from) = (run.from, run.from);
            while at < run.to {
                let next = at.saturating_add(1);
                if !self.settle_one(member, targets, at, now, &mut done) {
                    self.tell_ok(answer, OffsetRange { from: ok_from, to: at });
                    let status = self.status_of(member, targets, at);
                    let after = if status == AckStatus::AlreadySettled { After::Group } else { After::Now };
                    self.tell(answer, Self::one(at), status, after);
                    ok_from = next;
                }
                at = next;
            }
            self.tell_ok(answer, OffsetRange { from: ok_from, to: at });
        }
        if done.runs.is_empty() {
            return Vec::new();
        }
        done.runs.sort_unstable_by_key(|run| run.from);
        fx.notices.push(Notice::Settled { records: done.records, took: done.first });
        self.holes_told(source, &done.lanes, fx);
        let settled = if how == SettledAs::Skipped { done.runs.clone() } else { Vec::new() };
        self.commit(GroupRecord::Settled { source, how, runs: done.runs }, fx);
        self.credit_back(member, done.leased, done.bytes);
        if done.suspects > 0
            && let Some(handle) = self.members.get(member).map(|one| one.handle)
        {
            (0..done.suspects).for_each(|_| self.suspect_done(handle, true));
        }
        if done.probe {
            self.probe_done(now, fx);
        }
        if done.opened {
            self.tell_breaker(true, now, fx);
            self.arm_breaker(now);
        }
        if has_dead {
            for lane in done.lanes {
                if self.works.get(&source).is_some_and(|work| work.lane(lane).is_none()) {
                    self.lane_done(source, lane, now, fx);
                }
            }
        }
        settled
    }

    /// Says that these are settled, if there are any.
    fn tell_ok(&mut self, answer: AnswerId, range: OffsetRange) {
        if range.from < range.to {
            self.tell(answer, range, AckStatus::Ok, After::Group);
        }
    }

    /// Takes a record that its member has out of its lane; whether it was that.
    fn settle_one(&mut self, member: MemberId, targets: &Targets, offset: Offset, now: Now, done: &mut Done) -> bool {
        let Self { works, members, breaker, touched, .. } = self;
        let Some(handle) = members.get(member).map(|one| one.handle) else { return false };
        let Some(work) = works.get_mut(&targets.source) else { return false };
        if !work.touched {
            work.touched = true;
            touched.push(targets.source);
        }
        let Some(index) = work.find(offset) else { return false };
        let record = *work.record(index);
        if record.holder != handle || record.lease_epoch != targets.epoch || !work.is_head(index) {
            return false;
        }
        let taken = work.settle(index, now.monotonic_ms);
        if record.attempts == 1 && !record.probe {
            done.opened |= breaker.note_first_attempt(taken.lane, FirstAttempt::Ok, now.monotonic_ms);
        }
        if done.records == 0 {
            done.first = Some(Took::until(now, taken.append_ms, record.since_ms));
        }
        done.add(offset);
        done.leased += 1;
        done.bytes += u64::from(taken.size_bytes);
        done.suspects += u32::from(record.suspects != 0);
        done.probe |= record.probe;
        done.lanes.push(taken.lane);
        true
    }

    /// What to say of a record that is not the member's to settle.
    fn status_of(&self, member: MemberId, targets: &Targets, offset: Offset) -> AckStatus {
        let source = targets.source;
        let Some(partition) = self.partition(source) else { return AckStatus::Fenced };
        if partition.settled.contains(offset) {
            return AckStatus::AlreadySettled;
        }
        let handle = self.members.get(member).map_or(NONE, |one| one.handle);
        let found = self.works.get(&source).and_then(|work| Some((work, work.find(offset)?)));
        let Some((work, index)) = found else {
            let owned = self
                .state
                .owners
                .get(&source)
                .is_some_and(|runs| runs.iter().any(|run| run.member == member && run.epoch == targets.epoch));
            return if owned { AckStatus::NotLeased } else { AckStatus::Fenced };
        };
        let record = work.record(index);
        if record.recalled_from == handle && record.holder != handle {
            return AckStatus::Recalled;
        }
        if record.holder == handle {
            let same = record.lease_epoch == targets.epoch;
            return if same { AckStatus::NotLeased } else { AckStatus::Fenced };
        }
        let (_, slot) = work.place(index);
        let owner = self.owner(source, slot);
        let owns = owner.is_some_and(|run| run.member == member && run.epoch == targets.epoch);
        if owns { AckStatus::NotLeased } else { AckStatus::Fenced }
    }

    /// The part of a run that can name records; the rest is told at once, so that no frame costs more than it may.
    fn clip(&mut self, source: Source, run: OffsetRange, budget: &mut u64, answer: AnswerId) -> OffsetRange {
        let floor = self.partition(source).map_or(Offset::ZERO, |partition| partition.settled.floor());
        let work = self.works.get(&source);
        let settled_to = self.partition(source).map_or(floor, |partition| partition.settled.end());
        let end = work.map_or(floor, |work| work.reading.next).max(settled_to);
        let from = run.from.max(floor).min(run.to);
        let mut to = run.to.min(end.max(floor)).max(from);
        if run.from < from {
            self.tell(answer, OffsetRange { from: run.from, to: from }, AckStatus::AlreadySettled, After::Group);
        }
        to = to.min(from.saturating_add(*budget));
        *budget -= to.distance_from(from);
        if to < run.to {
            self.tell(answer, OffsetRange { from: to, to: run.to }, AckStatus::NotLeased, After::Now);
        }
        OffsetRange { from, to }
    }

    /// Records are not done (rule AK-1).
    #[expect(clippy::too_many_arguments, reason = "a verb with who, what, how and when")]
    fn nack(
        &mut self,
        member: MemberId,
        request: u64,
        targets: &Targets,
        how: &NackHow,
        whole_group: bool,
        now: Now,
        fx: &mut Effects,
    ) {
        let answer = self.begin_answer(member, request, targets.source);
        if how.kind == NackKind::Skip {
            let runs = self.settle_runs(member, targets, SettledAs::Skipped, answer, now, fx);
            if !runs.is_empty() {
                // Who and why is durable with it (rule AK-1).
                let note = how.reason.chars().take(SKIP_REASON_CHARS).collect();
                let act = self.member_act(member, note, now);
                self.commit(GroupRecord::SkippedBy { source: targets.source, runs, act }, fx);
            }
        } else {
            let mut budget = TARGETS_MAX;
            for run in &targets.runs {
                let run = self.clip(targets.source, *run, &mut budget, answer);
                let mut at = run.from;
                while at < run.to {
                    self.nack_one(member, targets, at, how, answer, now, fx);
                    at = at.saturating_add(1);
                }
            }
        }
        if !targets.entries.is_empty() {
            self.nack_entries(member, targets, how, answer, now, fx);
        }
        if whole_group && how.kind == NackKind::Release {
            self.ask_to_wait(how.retry_after_ms.unwrap_or(super::breaker::PROBE_FIRST_MS), now, fx);
        }
        self.end_answer(answer, fx);
    }

    #[expect(clippy::too_many_arguments, reason = "one of a verb's many")]
    fn nack_one(
        &mut self,
        member: MemberId,
        targets: &Targets,
        offset: Offset,
        how: &NackHow,
        answer: AnswerId,
        now: Now,
        fx: &mut Effects,
    ) {
        let (source, range) = (targets.source, Self::one(offset));
        let handle = self.members.get(member).map_or(NONE, |one| one.handle);
        let index = self.works.get(&source).and_then(|work| {
            let index = work.find(offset)?;
            let record = work.record(index);
            let own = record.holder == handle && record.lease_epoch == targets.epoch;
            (own && (how.kind != NackKind::Dead || work.is_head(index))).then_some(index)
        });
        let Some(index) = index else {
            let status = self.status_of(member, targets, offset);
            let after = if status == AckStatus::AlreadySettled { After::Group } else { After::Now };
            self.tell(answer, range, status, after);
            return;
        };
        let longest = u64::try_from(limits::RETRY_AFTER_MAX.as_millis()).unwrap_or(u64::MAX);
        let retry_after = how.retry_after_ms.map(|ms| ms.min(longest));
        let kind = match how.kind {
            NackKind::Release => {
                let after = self.release(source, index, retry_after.unwrap_or(0), now, fx);
                self.tell(answer, range, AckStatus::Ok, after);
                return;
            }
            NackKind::Dead => FailureKind::DeadNack,
            NackKind::Retry | NackKind::Skip => {
                FailureKind::Nack { retry_after: retry_after.map(Duration::from_millis) }
            }
        };
        self.hold_answer(answer);
        let pending = PendingAnswer { id: answer, range, entry: None };
        let failing = Failing { kind, error: how.error.clone(), member: Some(member), suspects: 0 };
        if let Some(after) = self.fail(source, index, failing, Some(pending), now, fx) {
            self.answered(pending, AckStatus::Ok, after, fx);
        }
    }

    /// More time, up to the longest (rule AK-5).
    fn extend(&mut self, member: MemberId, request: u64, targets: &Targets, now: Now, fx: &mut Effects) {
        let answer = self.begin_answer(member, request, targets.source);
        let (lease_ms, longest_ms) = (self.state.config.lease_ms, self.state.config.max_processing_ms);
        let mut budget = TARGETS_MAX;
        for run in &targets.runs {
            let run = self.clip(targets.source, *run, &mut budget, answer);
            let mut at = run.from;
            while at < run.to {
                let status = match self.leased_by(member, targets, at) {
                    Some(index) => {
                        let Some(work) = self.work(targets.source) else { break };
                        let longest = match longest_ms {
                            0 => u64::MAX,
                            longest_ms => work.record(index).since_ms.saturating_add(longest_ms),
                        };
                        work.extend(index, (now.monotonic_ms + lease_ms).min(longest));
                        AckStatus::Ok
                    }
                    None => self.status_of(member, targets, at),
                };
                self.tell(answer, Self::one(at), status, After::Now);
                at = at.saturating_add(1);
            }
        }
        if !targets.entries.is_empty() {
            self.extend_entries(member, targets, answer, now);
        }
        self.end_answer(answer, fx);
    }

    /// A handler begins (rule PI-1).
    fn started(&mut self, member: MemberId, targets: &Targets) {
        if let Some(one) = self.members.get_mut(member) {
            one.hints = true;
        }
        if self.is_offset() {
            self.range_started(member, targets.source, &targets.runs);
            return self.start_entries(member, targets);
        }
        let mut budget = TARGETS_MAX;
        for run in &targets.runs {
            let to = run.to.min(run.from.saturating_add(budget));
            budget -= to.distance_from(run.from);
            let mut at = run.from;
            while at < to {
                if let Some(index) = self.leased_by(member, targets, at)
                    && let Some(work) = self.works.get_mut(&targets.source)
                {
                    work.record_mut(index).started = true;
                }
                at = at.saturating_add(1);
            }
        }
        if !targets.entries.is_empty() {
            self.start_entries(member, targets);
        }
    }

    /// The record at `offset`, if it is leased to the member under that epoch.
    pub(super) fn leased_by(&self, member: MemberId, targets: &Targets, offset: Offset) -> Option<u32> {
        let handle = self.members.get(member)?.handle;
        let work = self.works.get(&targets.source)?;
        let index = work.find(offset)?;
        let record = work.record(index);
        (record.holder == handle && record.lease_epoch == targets.epoch).then_some(index)
    }
}

#[cfg(test)]
mod tests;
