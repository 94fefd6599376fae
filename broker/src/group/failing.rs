//! Deliveries that end without success: failures, expiries, lost members, records that are given back (rules AK-5, KO-4,
//! RT-2 to RT-6, PI-2, PI-3, CB-2).
//!
//! Owns: what an ended delivery does to the attempts and the due time of its record, and to later ones of its lane. Must
//! not know: verbs, what becomes of a record that has finally failed ([`Machine::kill`]).
//!
//! Invariants: a count that is at least 1 after a failure is durable with it (rule RT-6); a delivery that is given back
//! does not count (rule RT-5).

use std::collections::HashSet;

use super::Now;
use super::breaker::FirstAttempt;
use super::effect::{After, Effects, Frame, Notice};
use super::lanes::{Handle, Held};
use super::machine::Machine;
use super::members::Loss;
use super::record::{ErrorInfo, GIVEN_BACK_MS, GroupRecord, SPENT_MS, Tried};
use super::retry::{CONSUMER_CRASH, Failure, FailureKind, LEASE_EXPIRED, Verdict, jitter_seed};
use super::slab::NONE;
use super::spent::SpentFacts;
use super::verbs::PendingAnswer;
use crate::model::{AssignmentEpoch, MemberId, Offset, OffsetRange, SlotRange, Source};

/// How a delivery failed.
#[derive(Debug)]
pub(super) struct Failing {
    /// How.
    pub(super) kind: FailureKind,
    /// What went wrong.
    pub(super) error: Option<ErrorInfo>,
    /// Who had it.
    pub(super) member: Option<MemberId>,
    /// It may be delivered again at once, to so many others of its kind at most (rules GM-12, PI-3); 0: it waits.
    pub(super) suspects: u32,
}

impl Machine {
    /// A delivery failed. Later leases of its lane are recalled; the record waits, or is dead. `answer` is given once
    /// that is decided; if it is decided at once, this tells when it is durable.
    pub(super) fn fail(
        &mut self,
        source: Source,
        index: u32,
        failing: Failing,
        answer: Option<PendingAnswer>,
        now: Now,
        fx: &mut Effects,
    ) -> Option<After> {
        let is_head = self.works[&source].is_head(index);
        let record = *self.works[&source].record(index);
        let (lane, _) = self.works[&source].place(index);
        self.end_leases(source, index, now, fx);
        if self.gone_meanwhile(source, record.offset, now, fx) {
            return Some(After::Group);
        }
        let class = failing.error.as_ref().map_or("", |error| error.class.as_str());
        let held_by_breaker = self.note_failure(&record, lane, &failing, now, fx) && !is_final(failing.kind);
        fx.notices.push(Notice::Failed);
        if held_by_breaker {
            return Some(self.wait_for_breaker(source, index, class, now, fx));
        }
        let policy = self.state.config.retry_of(source.topic);
        let seed = jitter_seed(self.seed_of(source), record.offset.get(), record.attempts);
        let failure = Failure { attempt: record.attempts, class, kind: failing.kind, seed };
        match policy.verdict(&failure) {
            Verdict::Exhausted(reason) if is_head => {
                self.settle_lane(source, index, now);
                self.kill(source, record.offset, reason, failing.error, failing.member, answer, now, fx);
                None
            }
            Verdict::Retry(delay) if failing.suspects == 0 => {
                if let Some(work) = self.work(source) {
                    // Whatever became of it, it has not killed its member.
                    work.record_mut(index).suspects = 0;
                }
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                Some(self.retry_later(source, index, delay_ms.max(1), class, now, fx))
            }
            Verdict::Exhausted(reason) => {
                let facts = SpentFacts { reason, error: failing.error.clone(), member: failing.member };
                Some(self.spend(source, index, class, facts, now, fx))
            }
            // It may go at once.
            Verdict::Retry(_) => {
                if let Some(work) = self.work(source) {
                    work.record_mut(index).suspects = failing.suspects;
                }
                Some(self.retry_later(source, index, 0, class, now, fx))
            }
        }
    }

    /// A record waits for its next try. The count is durable with it (rule RT-6).
    fn retry_later(
        &mut self,
        source: Source,
        index: u32,
        delay_ms: u64,
        class: &str,
        now: Now,
        fx: &mut Effects,
    ) -> After {
        let mut tried = self.tried_of(source, index, now);
        (tried.due_ms, tried.delay_ms) = (due_at(now, delay_ms), delay_ms);
        class.clone_into(&mut tried.class);
        if let Some(work) = self.work(source) {
            work.record_mut(index).until_ms = if delay_ms == 0 { 0 } else { now.monotonic_ms + delay_ms };
        }
        self.settle_lane(source, index, now);
        self.commit(GroupRecord::Tried { source, tries: vec![tried] }, fx);
        After::Group
    }

    /// While the breaker is open, what fails has no strike and waits for it (rule CB-2).
    fn wait_for_breaker(&mut self, source: Source, index: u32, class: &str, now: Now, fx: &mut Effects) -> After {
        if let Some(work) = self.work(source) {
            let record = work.record_mut(index);
            record.attempts = record.attempts.saturating_sub(1);
        }
        self.retry_later(source, index, 1, class, now, fx)
    }

    /// What is known of the tries of a record, as of now.
    pub(super) fn tried_of(&self, source: Source, index: u32, now: Now) -> Tried {
        let work = &self.works[&source];
        let record = work.record(index);
        let (lane, slot) = work.place(index);
        let known = self.partition(source).and_then(|partition| partition.tried.get(&record.offset));
        let since = i64::try_from(now.monotonic_ms.saturating_sub(record.since_ms)).unwrap_or(0);
        Tried {
            offset: record.offset,
            epoch: record.epoch,
            attempts: record.attempts,
            due_ms: 0,
            delay_ms: 0,
            first_ms: known.map_or(now.wall_ms - since, |known| known.first_ms),
            lane,
            slot,
            class: known.map(|known| known.class.clone()).unwrap_or_default(),
        }
    }

    /// Tells the breaker of a failure; answers whether it holds the record now. What was lost with a member has a strike
    /// (rule PI-2), but tells nothing of what handlers depend on: it would open the breaker by itself, and hold what must
    /// be delivered again within the session timeout (rules CB-1, GM-12) and in halves (rule PI-3).
    fn note_failure(
        &mut self,
        record: &Held,
        lane: crate::model::LaneKey,
        failing: &Failing,
        now: Now,
        fx: &mut Effects,
    ) -> bool {
        let was_open = self.breaker.is_open(now.monotonic_ms);
        if record.probe {
            self.breaker.probe_failed(now.monotonic_ms);
        } else if record.attempts == 1 && failing.kind != FailureKind::MemberLost {
            let (class, fingerprint) =
                failing.error.as_ref().map_or(("", ""), |error| (error.class.as_str(), error.fingerprint.as_str()));
            let failed = FirstAttempt::Failed { class, fingerprint };
            if self.breaker.note_first_attempt(lane, failed, now.monotonic_ms) {
                self.tell_breaker(true, now, fx);
            }
        }
        self.arm_breaker(now);
        was_open && !record.exempt
    }

    /// Ends the lease of a record, and of all behind it in its lane: those are recalled without a strike (rule KO-4).
    fn end_leases(&mut self, source: Source, index: u32, now: Now, fx: &mut Effects) {
        let Some(work) = self.work(source) else { return };
        let first = *work.record(index);
        let ended = work.unlease_from(index);
        let mut recalled: Vec<(AssignmentEpoch, Vec<OffsetRange>)> = Vec::new();
        let mut sizes = 0;
        let mut probe = false;
        for &one in &ended {
            let record = work.record_mut(one);
            sizes += u64::from(record.size_bytes);
            if one != index {
                record.attempts = record.attempts.saturating_sub(1);
                record.recalled_from = first.holder;
                probe |= std::mem::take(&mut record.probe);
                match recalled.last_mut() {
                    Some((epoch, runs)) if *epoch == record.lease_epoch => super::read_ahead::add(runs, record.offset),
                    _ => recalled.push((record.lease_epoch, vec![Self::one(record.offset)])),
                }
            }
        }
        let record = work.record_mut(index);
        (record.probe, record.started) = (false, false);
        if probe {
            self.breaker.probe_lost(now.monotonic_ms);
        }
        let Some(member) = self.members.id(first.holder) else {
            self.totals.records = self.totals.records.saturating_sub(ended.len() as u64);
            self.totals.bytes = self.totals.bytes.saturating_sub(sizes);
            return;
        };
        self.suspect_done(first.holder, first.suspects != 0);
        self.credit_back(member, ended.len() as u64, sizes);
        for (epoch, runs) in recalled {
            self.send(member, Frame::Recall { source, epoch, runs, entries: Vec::new() }, After::Now, fx);
        }
    }

    /// A lease is over and its record with it.
    pub(super) fn lease_ended(&mut self, holder: Handle, size_bytes: u32, suspect: bool) {
        self.suspect_done(holder, suspect);
        match self.members.id(holder) {
            Some(member) => self.credit_back(member, 1, size_bytes.into()),
            None => {
                self.totals.records = self.totals.records.saturating_sub(1);
                self.totals.bytes = self.totals.bytes.saturating_sub(size_bytes.into());
            }
        }
    }

    /// A suspect is no more with its member: the next ones may come (rule PI-3).
    pub(super) fn suspect_done(&mut self, holder: Handle, suspect: bool) {
        if !suspect {
            return;
        }
        let Some(member) = self.members.id(holder) else { return };
        let Some(one) = self.members.get_mut(member) else { return };
        one.suspects = one.suspects.saturating_sub(1);
        if one.suspects == 0 {
            self.wake_units(holder);
        }
    }

    /// Gives a record back without a strike (rule RT-5), to be delivered again after `delay_ms`. Later leases of its
    /// lane are recalled. Tells when it is durable.
    pub(super) fn release(&mut self, source: Source, index: u32, delay_ms: u64, now: Now, fx: &mut Effects) -> After {
        let record = *self.works[&source].record(index);
        self.end_leases(source, index, now, fx);
        if record.probe {
            self.breaker.probe_lost(now.monotonic_ms);
            self.arm_breaker(now);
        }
        if self.gone_meanwhile(source, record.offset, now, fx) {
            return After::Group;
        }
        let known = self.partition(source).is_some_and(|partition| partition.tried.contains_key(&record.offset));
        let Some(work) = self.work(source) else { return After::Now };
        let one = work.record_mut(index);
        one.attempts = one.attempts.saturating_sub(1);
        one.until_ms = if delay_ms == 0 { 0 } else { now.monotonic_ms + delay_ms };
        if !known && delay_ms == 0 {
            self.settle_lane(source, index, now);
            return After::Now;
        }
        let mut tried = self.tried_of(source, index, now);
        (tried.due_ms, tried.delay_ms) = (if delay_ms == 0 { GIVEN_BACK_MS } else { due_at(now, delay_ms) }, delay_ms);
        self.settle_lane(source, index, now);
        self.commit(GroupRecord::Tried { source, tries: vec![tried] }, fx);
        After::Group
    }

    /// Puts a lane where it belongs after leases of it ended.
    fn settle_lane(&mut self, source: Source, index: u32, now: Now) {
        if let Some(work) = self.work(source) {
            work.settle_lane(index, now.monotonic_ms);
        }
    }

    /// A lease ran out: the same as a nack (rule AK-5).
    pub(super) fn leases_due(&mut self, source: Source, now: Now, fx: &mut Effects) {
        while let Some((until_ms, index)) = self.works.get(&source).and_then(super::lanes::Work::first_lease) {
            if until_ms > now.monotonic_ms {
                break;
            }
            let member = self.members.id(self.works[&source].record(index).holder);
            let error = ErrorInfo { class: LEASE_EXPIRED.to_owned(), ..ErrorInfo::default() };
            let failing = Failing { kind: FailureKind::LeaseExpired, error: Some(error), member, suspects: 0 };
            self.fail(source, index, failing, None, now, fx);
        }
        self.touch(source);
    }

    /// Everything leased to a member, of one partition or of all, comes back.
    pub(super) fn give_back(&mut self, member: MemberId, only: Option<Source>, loss: Loss, now: Now, fx: &mut Effects) {
        let Some(one) = self.members.get(member) else { return };
        let (handle, hints) = (one.handle, one.hints);
        let mut leased: Vec<(Source, Offset)> = Vec::new();
        let mut struck: HashSet<(Source, Offset)> = HashSet::new();
        for (source, work) in &self.works {
            if only.is_some_and(|only| only != *source) {
                continue;
            }
            for index in work.leased_to(handle) {
                let record = work.record(index);
                leased.push((*source, record.offset));
                let counts = match loss {
                    Loss::Released => false,
                    Loss::Lost => record.started || !hints,
                    Loss::Fenced => record.started,
                };
                if counts {
                    struck.insert((*source, record.offset));
                }
            }
        }
        // The next frames of suspects are half as large (rule PI-3).
        let suspects = (struck.len() as u32 / 2).max(1);
        for (source, offset) in leased {
            self.one_back(source, offset, struck.contains(&(source, offset)), suspects, loss, member, now, fx);
        }
    }

    /// One record comes back; it may have been recalled with an earlier one of its lane already.
    #[expect(clippy::too_many_arguments, reason = "what is known of one of many")]
    fn one_back(
        &mut self,
        source: Source,
        offset: Offset,
        counts: bool,
        suspects: u32,
        loss: Loss,
        member: MemberId,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(index) = self.works.get(&source).and_then(|work| work.find(offset)) else { return };
        if self.works[&source].record(index).holder == NONE {
            return;
        }
        if !counts {
            self.release(source, index, 0, now, fx);
            return;
        }
        let (kind, class, suspects) = match loss {
            Loss::Lost => (FailureKind::MemberLost, CONSUMER_CRASH, suspects),
            Loss::Fenced | Loss::Released => (FailureKind::LeaseExpired, LEASE_EXPIRED, 0),
        };
        let message = if kind == FailureKind::MemberLost { format!("member {member} was lost") } else { String::new() };
        let error = Some(ErrorInfo { class: class.to_owned(), message, ..ErrorInfo::default() });
        self.fail(source, index, Failing { kind, error, member: Some(member), suspects }, None, now, fx);
    }

    /// Some leases of a member come back without a strike.
    pub(super) fn give_back_only(
        &mut self,
        source: Source,
        member: MemberId,
        offsets: &HashSet<Offset>,
        now: Now,
        fx: &mut Effects,
    ) {
        let mut sorted: Vec<Offset> = offsets.iter().copied().collect();
        sorted.sort_unstable();
        for offset in sorted {
            self.one_back(source, offset, false, 0, Loss::Released, member, now, fx);
        }
    }

    /// What a member has of slots that are another's by now comes back; answers whether there was any.
    pub(super) fn give_back_slots(
        &mut self,
        member: MemberId,
        source: Source,
        slots: SlotRange,
        loss: Loss,
        now: Now,
        fx: &mut Effects,
    ) -> bool {
        let Some(one) = self.members.get(member) else { return false };
        let handle = one.handle;
        let Some(work) = self.works.get(&source) else { return false };
        let back: Vec<(Offset, bool)> = work
            .leased_to(handle)
            .into_iter()
            .filter(|index| {
                let (_, slot) = work.place(*index);
                slots.contains(slot) && self.owner(source, slot).is_none_or(|run| run.member != member)
            })
            .map(|index| (work.record(index).offset, work.record(index).started && loss == Loss::Fenced))
            .collect();
        for (offset, counts) in &back {
            self.one_back(source, *offset, *counts, 0, loss, member, now, fx);
        }
        let mut any = !back.is_empty();
        for slots in self.slots_of_others(source, slots, member) {
            let run = super::record::OwnedRun { slots, member, epoch: crate::model::AssignmentEpoch(0) };
            any |= self.entries_back(member, Some((source, run)), loss, now, fx);
        }
        any
    }

    /// The parts of a run of slots that a member does not own: what moved away may have come back.
    fn slots_of_others(&self, source: Source, slots: SlotRange, member: MemberId) -> Vec<SlotRange> {
        let mut others = Vec::new();
        let mut from = slots.from;
        let owners = self.state.owners.get(&source).into_iter().flatten();
        for own in owners.filter(|run| run.member == member).map(|run| run.slots.intersection(slots)) {
            if !own.is_empty() {
                others.push(SlotRange { from, to: own.from });
                from = own.to;
            }
        }
        others.push(SlotRange { from, to: slots.to });
        others.retain(|slots| !slots.is_empty());
        others
    }

    /// What the jitter of delays hangs on: the group and the partition.
    fn seed_of(&self, source: Source) -> u64 {
        let topic = source.topic.0.chunks(8).fold(self.state.id.0, |seed, chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            seed.rotate_left(17) ^ u64::from_le_bytes(word)
        });
        topic ^ u64::from(source.partition.0).rotate_left(40)
    }

    /// One offset as a range.
    pub(super) fn one(offset: Offset) -> OffsetRange {
        OffsetRange { from: offset, to: offset.saturating_add(1) }
    }
}

/// Wall time after a delay: never one of the times that say something else.
fn due_at(now: Now, delay_ms: u64) -> i64 {
    now.wall_ms.saturating_add_unsigned(delay_ms).clamp(GIVEN_BACK_MS + 1, SPENT_MS - 1)
}

/// Whether a failure counts even while the breaker is open.
fn is_final(kind: FailureKind) -> bool {
    kind == FailureKind::DeadNack
}

#[cfg(test)]
mod tests;
