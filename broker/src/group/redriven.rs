//! Delivery of entries, redriven and spilled: their leases and verbs (rules RD-3 to RD-7, KO-7, AK-1).

use super::Now;
use super::delivery::Room;
use super::effect::{AckStatus, After, Delivery, Effects};
use super::entry::EntryKey;
use super::event::{NackKind, Targets};
use super::machine::Machine;
use super::members::Loss;
use super::record::{ErrorInfo, OwnedRun};
use super::verbs::AnswerId;
use crate::model::{MemberId, Source};

/// Leases of entries.
#[derive(Debug, Default)]
pub(super) struct Redriven {}

/// Entries to be delivered in one frame.
#[derive(Debug)]
pub(super) struct EntryBatch {
    /// The deliveries.
    pub(super) records: Vec<Delivery>,
    /// Bytes that they take of the member's credit.
    pub(super) bytes: u64,
    /// When they may go out (rule RT-6).
    pub(super) after: After,
}

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
    /// Whether an entry in these slots can be delivered now.
    pub(super) fn has_redriven(&self, source: Source, run: &OwnedRun) -> bool {
        let _ = (source, run);
        false
    }

    /// Leases entries to the owner of a run of slots, within its room; `None`: there is nothing to deliver now.
    pub(super) fn next_redriven(
        &mut self,
        source: Source,
        run: &OwnedRun,
        room: Room,
        now: Now,
        fx: &mut Effects,
    ) -> Option<EntryBatch> {
        let _ = (source, run, room, now, fx);
        None
    }

    /// Leases of entries that have run out, and entries whose time has come. Called when the deadline that was armed
    /// with [`super::deadlines::Timer::Entries`] has come.
    pub(super) fn expire_entries(&mut self, now: Now, fx: &mut Effects) {
        let _ = (now, fx);
    }

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
        let _ = (member, versions, now, fx);
        targets.entries.iter().for_each(|key| self.tell_entry(answer, *key, AckStatus::NotLeased, After::Now));
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
        let _ = (member, how, now, fx);
        targets.entries.iter().for_each(|key| self.tell_entry(answer, *key, AckStatus::NotLeased, After::Now));
    }

    /// Extends the leases of `targets.entries`.
    pub(super) fn extend_entries(&mut self, member: MemberId, targets: &Targets, answer: AnswerId, now: Now) {
        let _ = (member, now);
        targets.entries.iter().for_each(|key| self.tell_entry(answer, *key, AckStatus::NotLeased, After::Now));
    }

    /// A handler begins with `targets.entries`.
    pub(super) fn start_entries(&mut self, member: MemberId, targets: &Targets) {
        let _ = (member, targets);
    }

    /// A member is gone, or gave back what it had: its entries are free again. `only`: of these slots alone.
    pub(super) fn entries_back(
        &mut self,
        member: MemberId,
        only: Option<(Source, OwnedRun)>,
        loss: Loss,
        now: Now,
        fx: &mut Effects,
    ) {
        let _ = (member, only, loss, now, fx);
    }

    /// A member is back with these entries in work (rule GM-8): what it had and does not name is free again. Answers
    /// what of those named is not leased to it.
    pub(super) fn resume_entries(
        &mut self,
        member: MemberId,
        entries: &[EntryKey],
        now: Now,
        fx: &mut Effects,
    ) -> Vec<(EntryKey, AckStatus)> {
        let _ = (member, now, fx);
        entries.iter().map(|key| (*key, AckStatus::NotLeased)).collect()
    }
}
