//! What members say of entries: Ack, Nack, Extend, Started by dead-letter id (rules AK-1, AK-2, AK-4, AK-5, PI-1).
//!
//! Owns: which verb fits which lease, and the answer of each. What becomes of the entry is [`super::outcomes`]'.

use super::Now;
use super::config::Positions;
use super::effect::{AckStatus, After, Effects};
use super::entry::{EntryKey, EntryState};
use super::event::{NackKind, Targets};
use super::failing::Failing;
use super::machine::Machine;
use super::record::{ErrorInfo, SettledAs};
use super::redriven::{EntryLease, Place};
use super::retry::FailureKind;
use super::verbs::{AnswerId, PendingAnswer};
use crate::limits;
use crate::model::{AssignmentEpoch, MemberId};

/// What a nack says, apart from its targets.
#[derive(Debug, Clone)]
pub(super) struct NackHow {
    /// How.
    pub(super) kind: NackKind,
    /// Delay that the client asks for.
    pub(super) retry_after_ms: Option<u64>,
    /// What went wrong.
    pub(super) error: Option<ErrorInfo>,
    /// Why it is skipped.
    pub(super) reason: String,
}

impl Machine {
    /// Acks `targets.entries`; each is answered by [`Machine::tell_entry`], or later ([`Machine::hold_answer`]).
    pub(super) fn ack_entries(
        &mut self,
        member: MemberId,
        targets: &Targets,
        versions: &[u32],
        answer: AnswerId,
        now: Now,
        fx: &mut Effects,
    ) {
        for (number, key) in targets.entries.iter().enumerate() {
            let lease = match self.leased_entry(member, key, targets.epoch) {
                Ok(lease) => lease,
                Err(status) => {
                    let late = self.ack_late(member, targets, key, versions.get(number).copied(), now, fx);
                    let late = late.then_some(AckStatus::Ok);
                    let status = late.or_else(|| self.ack_stand_in(member, targets, key, now, fx)).unwrap_or(status);
                    self.tell_entry(answer, *key, status, After::Entries);
                    continue;
                }
            };
            self.end_entry_lease(key);
            let version = versions.get(number).copied().unwrap_or(lease.version);
            let act = self.member_act(member, String::new(), now);
            self.close_entry(*key, EntryState::Resolved { version }, lease.attempt, act, now, fx);
            self.tell_entry(answer, *key, AckStatus::Ok, After::Entries);
        }
    }

    /// An entry that was recalled, or whose lease ran out, while its reader applied it: with cursors the reader's database
    /// decides, and an entry that is in the model is not open (rule RM-7). Whether it was so.
    fn ack_late(
        &mut self,
        member: MemberId,
        targets: &Targets,
        key: &EntryKey,
        version: Option<u32>,
        now: Now,
        fx: &mut Effects,
    ) -> bool {
        let open = self.entries.get(key).filter(|entry| entry.state == EntryState::Open);
        let (Some(entry), Some(version)) = (open, version) else { return false };
        if self.state.config.positions != Positions::Cursor
            || self.entry_is_leased(key)
            || self.owns_range(member, key.source, targets.epoch).is_err()
        {
            return false;
        }
        let act = self.member_act(member, String::new(), now);
        self.close_entry(*key, EntryState::Resolved { version }, entry.attempts, act, now, fx);
        true
    }

    /// Nacks `targets.entries`, answered as by [`Machine::ack_entries`].
    pub(super) fn nack_entries(
        &mut self,
        member: MemberId,
        targets: &Targets,
        how: &NackHow,
        answer: AnswerId,
        now: Now,
        fx: &mut Effects,
    ) {
        for key in &targets.entries {
            let lease = match self.leased_entry(member, key, targets.epoch) {
                Ok(lease) => lease,
                Err(status) => {
                    if !self.nack_stand_in(member, targets, key, how, answer, now, fx) {
                        self.tell_entry(answer, *key, status, After::Entries);
                    }
                    continue;
                }
            };
            self.end_entry_lease(key);
            let error = how.error.clone();
            match how.kind {
                NackKind::Retry => {
                    let retry_after = how.retry_after_ms.map(std::time::Duration::from_millis);
                    self.entry_failed(*key, lease, FailureKind::Nack { retry_after }, error, now, fx);
                }
                NackKind::Dead => self.entry_failed(*key, lease, FailureKind::DeadNack, error, now, fx),
                NackKind::Release => self.entry_back(*key, lease, how.retry_after_ms, now, fx),
                NackKind::Skip => {
                    let act = self.member_act(member, how.reason.clone(), now);
                    self.close_entry(*key, EntryState::Discarded, lease.attempt, act, now, fx);
                }
            }
            self.tell_entry(answer, *key, AckStatus::Ok, After::Entries);
        }
        self.arm_entries();
    }

    /// Extends the leases of `targets.entries`.
    pub(super) fn extend_entries(&mut self, member: MemberId, targets: &Targets, answer: AnswerId, now: Now) {
        let config = &self.state.config;
        let (lease_ms, most_ms) = (config.lease_ms, config.max_processing_ms);
        for key in &targets.entries {
            match self.leased_entry(member, key, targets.epoch) {
                Ok(mut lease) => {
                    lease.until_ms = now.monotonic_ms + lease_ms;
                    if most_ms != 0 {
                        lease.until_ms = lease.until_ms.min(lease.since_ms + most_ms);
                    }
                    self.redriven.put(*key, Place::Leased(lease));
                    self.tell_entry(answer, *key, AckStatus::Ok, After::Now);
                }
                Err(status) => {
                    let status = if self.extend_stand_in(member, targets, key, now) { AckStatus::Ok } else { status };
                    self.tell_entry(answer, *key, status, After::Now);
                }
            }
        }
        self.arm_entries();
    }

    /// A handler begins with `targets.entries`.
    pub(super) fn start_entries(&mut self, member: MemberId, targets: &Targets) {
        for key in &targets.entries {
            if let Some(Place::Leased(lease)) = self.redriven.places.get_mut(key)
                && lease.member == member
            {
                lease.started = true;
            }
        }
    }

    /// The lease that a verb is about, or why there is none.
    fn leased_entry(&self, member: MemberId, key: &EntryKey, epoch: AssignmentEpoch) -> Result<EntryLease, AckStatus> {
        match self.redriven.places.get(key) {
            Some(Place::Leased(lease)) if lease.member == member && lease.epoch == epoch => Ok(*lease),
            Some(Place::Leased(lease)) if epoch < lease.epoch => Err(AckStatus::Fenced),
            Some(Place::Leased(_)) => Err(AckStatus::NotLeased),
            place => match self.entries.state_of(key) {
                Some(state) if state.is_closed() => Err(AckStatus::AlreadySettled),
                Some(_) if place.is_some() => Err(AckStatus::Recalled),
                _ => Err(AckStatus::NotLeased),
            },
        }
    }

    /// A record of the source that was delivered as its entry was resolved, and is named by that (rule DL-15).
    fn stand_in(&self, member: MemberId, targets: &Targets, key: &EntryKey) -> Option<u32> {
        let index = self.leased_by(member, targets, key.offset)?;
        let record = self.works.get(&targets.source)?.record(index);
        (targets.source == key.source && record.epoch == key.epoch).then_some(index)
    }

    fn ack_stand_in(
        &mut self,
        member: MemberId,
        targets: &Targets,
        key: &EntryKey,
        now: Now,
        fx: &mut Effects,
    ) -> Option<AckStatus> {
        self.stand_in(member, targets, key)?;
        let (runs, entries) = (vec![Self::one(key.offset)], Vec::new());
        let named = Targets { source: key.source, epoch: targets.epoch, runs, entries };
        // Its answer is part of another.
        let inner = self.begin_answer(member, 0, key.source);
        self.settle_runs(member, &named, SettledAs::Acked, inner, now, fx);
        let answer = self.answers.open.remove(&inner)?;
        answer.statuses().next()
    }

    #[expect(clippy::too_many_arguments, reason = "one of a verb's many")]
    fn nack_stand_in(
        &mut self,
        member: MemberId,
        targets: &Targets,
        key: &EntryKey,
        how: &NackHow,
        answer: AnswerId,
        now: Now,
        fx: &mut Effects,
    ) -> bool {
        let Some(index) = self.stand_in(member, targets, key) else { return false };
        let longest = u64::try_from(limits::RETRY_AFTER_MAX.as_millis()).unwrap_or(u64::MAX);
        let retry_after = how.retry_after_ms.map(|ms| ms.min(longest));
        let kind = match how.kind {
            NackKind::Skip => {
                let status = self.ack_stand_in(member, targets, key, now, fx).unwrap_or(AckStatus::NotLeased);
                self.tell_entry(answer, *key, status, After::Group);
                return true;
            }
            NackKind::Release => {
                let after = self.release(key.source, index, retry_after.unwrap_or(0), now, fx);
                self.tell_entry(answer, *key, AckStatus::Ok, after);
                return true;
            }
            NackKind::Dead => FailureKind::DeadNack,
            NackKind::Retry => FailureKind::Nack { retry_after: retry_after.map(std::time::Duration::from_millis) },
        };
        self.hold_answer(answer);
        let pending = PendingAnswer { id: answer, range: Self::one(key.offset), entry: Some(*key) };
        let failing = Failing { kind, error: how.error.clone(), member: Some(member), suspects: 0 };
        if let Some(after) = self.fail(key.source, index, failing, Some(pending), now, fx) {
            self.answered(pending, AckStatus::Ok, after, fx);
        }
        true
    }

    fn extend_stand_in(&mut self, member: MemberId, targets: &Targets, key: &EntryKey, now: Now) -> bool {
        let Some(index) = self.stand_in(member, targets, key) else { return false };
        let (lease_ms, most_ms) = (self.state.config.lease_ms, self.state.config.max_processing_ms);
        let Some(work) = self.work(key.source) else { return false };
        let most = if most_ms == 0 { u64::MAX } else { work.record(index).since_ms.saturating_add(most_ms) };
        work.extend(index, (now.monotonic_ms + lease_ms).min(most));
        true
    }
}
