//! What members say of entries: Ack, Nack, Extend, Started by dead-letter id (rules AK-1, AK-2, AK-4, AK-5, PI-1).
//!
//! Owns: which verb fits which lease, and the answer of each. What becomes of the entry is [`super::outcomes`]'.

use super::Now;
use super::effect::{AckStatus, After, Effects};
use super::entry::{EntryKey, EntryState};
use super::event::{NackKind, Targets};
use super::machine::Machine;
use super::record::ErrorInfo;
use super::redriven::{EntryLease, Place};
use super::retry::FailureKind;
use super::verbs::AnswerId;
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
    /// Acks `targets.entries`; each is answered by [`Machine::tell_entry`], or later ([`Machine::hold_answer`],
    /// [`Machine::answered_entry`]).
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
                    self.tell_entry(answer, *key, status, After::Entries);
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
                Err(status) => self.tell_entry(answer, *key, status, After::Now),
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
}
