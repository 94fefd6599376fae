//! The way of dead letters after their intents: copies, entries, settles, answers (rules DL-4, DL-5, DL-11, OF-8).
//!
//! Owns: what follows when a copy or an entry is durable, lost or blocked; what the start of the broker finishes. Must not
//! know: why a record died.

use std::collections::BTreeSet;

use super::Now;
use super::dead::{Death, Pending};
use super::effect::{AckStatus, After, Effects, Frame, Refusal};
use super::entry::{Act, Entry, EntryKey, EntryKind, EntryRecord, EntryState};
use super::machine::Machine;
use super::record::{GapReason, GroupRecord, Intent, PauseReason, SettledAs};
use crate::model::{Offset, OffsetRange, Source};

impl Machine {
    /// Open intents go on (rule DL-4), resets are finished (OF-3), cuts too (AK-12), entries without a job are open (RD-1).
    pub(super) fn start_dead(&mut self, now: Now, fx: &mut Effects) {
        let sources: Vec<Source> = self.state.partitions.keys().copied().collect();
        let gone: Vec<Source> = self.entries.sources().filter(|source| !sources.contains(source)).collect();
        if !gone.is_empty() {
            self.commit_entry(EntryRecord::Dropped { sources: gone }, fx);
        }
        for source in &sources {
            for (from, epoch) in self.state.partitions[source].cuts.clone() {
                self.mark_source_lost(*source, from, epoch, fx);
            }
        }
        self.clear_entries(now, fx);
        self.leave_jobs(now, fx);
        for reason in [PauseReason::DlqFull, PauseReason::DiskLow] {
            self.end_pause(None, reason, now, fx);
        }
        // Nothing is held yet; if it is too much again, the partition pauses again.
        for source in &sources {
            self.end_pause(Some(*source), PauseReason::HeldLimit, now, fx);
        }
        for source in sources {
            let numbers: Vec<u64> = self.state.partitions[&source].intents.keys().copied().collect();
            for number in numbers {
                self.move_on(source, number, now, fx);
            }
        }
        self.count_lanes();
        self.refresh_all(now);
    }

    /// See [`super::event::Event::Copied`].
    pub(super) fn copied(&mut self, source: Source, number: u64, copy: Option<Offset>, now: Now, fx: &mut Effects) {
        let Some(intent) = self.partition(source).and_then(|one| one.intents.get(&number)).cloned() else { return };
        let Some(copy) = copy else { return self.lost(source, number, &intent, now, fx) };
        let there = self.entries.get(&intent.key).is_some_and(|entry| entry.cycle >= intent.cycle);
        if !there {
            let mut entry = Box::new(opened(number, &intent, copy));
            // Parked again, it comes back as it was edited (rule DL-15).
            let resolved = self.entries.get(&intent.key).filter(|old| matches!(old.state, EntryState::Resolved { .. }));
            entry.versions = resolved.map(|old| old.versions).unwrap_or_default();
            self.with_lane(source, intent.lane, |machine| {
                machine.commit_entry(EntryRecord::Opened { key: intent.key, entry }, fx);
            });
        }
        fx.opened.push((source, number));
    }

    /// The record of an intent cannot be read any more: it is closed as lost, told as a gap (rule DL-4).
    fn lost(&mut self, source: Source, number: u64, intent: &Intent, now: Now, fx: &mut Effects) {
        let reason = if intent.source_lost { GapReason::Truncated } else { GapReason::Corrupt };
        let (from, records) = (intent.key.offset, u64::from(intent.records.max(1)));
        let range = OffsetRange { from, to: from.saturating_add(records) };
        let settles = !intent.source_lost && !self.is_offset();
        self.arrive(source, number, intent, settles.then_some(SettledAs::Expired), now, fx);
        self.tell_gap(source, range, reason, Some(records), false, fx);
    }

    /// See [`super::event::Event::EntryDurable`].
    pub(super) fn entry_durable(&mut self, source: Source, number: u64, now: Now, fx: &mut Effects) {
        if number == 0 {
            if self.state.clearing.is_some() {
                self.commit(GroupRecord::Cleared, fx);
            }
            return;
        }
        let Some(intent) = self.partition(source).and_then(|one| one.intents.get(&number)).cloned() else { return };
        let cleared = self.entries.state_of(&intent.key) == Some(EntryState::Cleared);
        let how = match intent.kind {
            _ if self.is_offset() || intent.source_lost || intent.cleared || cleared => None,
            EntryKind::Failed => Some(SettledAs::Dead),
            EntryKind::Parked => Some(SettledAs::Parked),
        };
        self.arrive(source, number, &intent, how, now, fx);
    }

    fn arrive(
        &mut self,
        source: Source,
        number: u64,
        intent: &Intent,
        how: Option<SettledAs>,
        now: Now,
        fx: &mut Effects,
    ) {
        let was = self.lane_now(source, intent.lane);
        self.with_lane(source, intent.lane, |machine| {
            machine.dead.intents.remove(number, intent);
            machine.commit(GroupRecord::Arrived { source, number, how }, fx);
        });
        if intent.cleared {
            self.dead.cleared.remove(&intent.key);
        }
        self.touch(source);
        let waits = self.dead.pending.remove(&(source, number));
        self.tell_pending_key(waits, AckStatus::Ok, intent.key, fx);
        self.lane_changed(source, intent.lane, was, now, fx);
        self.refresh_alone(intent.key, now);
    }

    /// See [`super::event::Event::CopyBlocked`].
    pub(super) fn copy_blocked(&mut self, source: Source, reason: Option<PauseReason>, now: Now, fx: &mut Effects) {
        let was = match reason {
            Some(reason) => {
                if self.dead.blocked.insert(source, reason) == Some(reason) {
                    return;
                }
                self.begin_pause(None, reason, now, fx);
                return;
            }
            None => self.dead.blocked.remove(&source),
        };
        if let Some(was) = was
            && !self.dead.blocked.values().any(|reason| *reason == was)
        {
            self.end_pause(None, was, now, fx);
        }
    }

    /// See [`super::event::Event::DlqEnd`].
    pub(super) fn dlq_end(&mut self, source: Source, end: Offset) {
        let known = self.dead.ends.entry(source).or_default();
        *known = end.max(*known);
    }

    fn move_on(&mut self, source: Source, number: u64, now: Now, fx: &mut Effects) {
        if self.is_dlq(source) {
            let copy = self.state.partitions[&source].intents[&number].key.offset;
            self.copied(source, number, Some(copy), now, fx);
        } else {
            fx.moves.push((source, number));
        }
    }

    /// Records of a dead-letter topic are their own copies: their entries are opened at once (rule DL-11).
    pub(super) fn arrive_in_place(&mut self, now: Now, fx: &mut Effects) {
        let numbers: Vec<(Source, u64, Offset)> = fx
            .records
            .iter()
            .filter_map(|record| match record {
                GroupRecord::Intended { number, intent } => Some((intent.key.source, *number, intent.key.offset)),
                _ => None,
            })
            .filter(|(source, number, _)| self.is_dlq(*source) && !fx.opened.contains(&(*source, *number)))
            .collect();
        for (source, number, offset) in numbers {
            self.copied(source, number, Some(offset), now, fx);
        }
    }

    /// Topics went: their entries too (rule OF-8). Called once they are gone from the durable state.
    pub(super) fn drop_dead(&mut self, now: Now, fx: &mut Effects) {
        let there = |machine: &Self, source: &Source| machine.state.partitions.contains_key(source);
        let gone: Vec<Source> = self.entries.sources().filter(|source| !there(self, source)).collect();
        if !gone.is_empty() {
            self.commit_entry(EntryRecord::Dropped { sources: gone.clone() }, fx);
        }
        let gone = self.dead.pending.keys().filter(|(source, _)| !there(self, source));
        for place in gone.copied().collect::<Vec<_>>() {
            let waits = self.dead.pending.remove(&place);
            self.tell_pending(waits, AckStatus::NotLeased, fx);
        }
        let kept: BTreeSet<Source> = self.state.partitions.keys().copied().collect();
        let gone_intents: Vec<Source> = self.dead.intents.sources().filter(|source| !kept.contains(source)).collect();
        gone_intents.into_iter().for_each(|source| self.dead.intents.forget(source));
        self.dead.waiting.retain(|death| kept.contains(&death.source));
        self.dead.spent.keep(&kept);
        self.dead.cleared.retain(|key, _| kept.contains(&key.source));
        self.dead.ends.retain(|source, _| kept.contains(source));
        self.dead.blocked.retain(|source, _| kept.contains(source));
        self.drop_redriven(|source| !kept.contains(&source));
        self.count_lanes();
        self.end_dead_limit(now, fx);
    }

    /// What waits of a partition is dropped: its positions are set anew, or its end was cut.
    pub(super) fn forget_deaths(&mut self, source: Source, from: Offset, fx: &mut Effects) {
        let gone = |death: &Death| death.source == source && death.offset >= from;
        let (gone, kept): (Vec<Death>, Vec<Death>) = std::mem::take(&mut self.dead.waiting).into_iter().partition(gone);
        self.dead.waiting = kept;
        self.dead.spent.forget(source, crate::model::OffsetRange { from, to: Offset::MAX });
        for death in gone {
            self.tell_pending(death.answer.map(Pending::Nack), AckStatus::Fenced, fx);
        }
    }

    pub(super) fn tell_pending(&mut self, pending: Option<Pending>, status: AckStatus, fx: &mut Effects) {
        match pending {
            Some(Pending::Nack(answer)) => self.answered(answer, status, After::Group, fx),
            Some(Pending::DeadLetter { member, request }) => {
                let result = Err(Refusal::EntryNotFound);
                let frame = Frame::DeadLetterResult { request, result, lane_live: false };
                self.send(member, frame, After::Group, fx);
            }
            None => {}
        }
    }

    fn tell_pending_key(&mut self, pending: Option<Pending>, status: AckStatus, key: EntryKey, fx: &mut Effects) {
        let Some(Pending::DeadLetter { member, request }) = pending else {
            return self.tell_pending(pending, status, fx);
        };
        let result = self.entries.state_of(&key).map(|_| key).ok_or(Refusal::EntryNotFound);
        let frame = Frame::DeadLetterResult { request, result, lane_live: false };
        self.send(member, frame, After::Group, fx);
    }
}

fn opened(number: u64, intent: &Intent, copy: Offset) -> Entry {
    let state = match intent.spilled {
        _ if intent.cleared => EntryState::Cleared,
        true => EntryState::Spilled,
        false => EntryState::Open,
    };
    let error = intent.error.as_deref();
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    Entry {
        lane: intent.lane,
        slot: intent.slot,
        kind: intent.kind,
        state,
        job: None,
        cycle: intent.cycle,
        copy,
        attempts: intent.attempts,
        due_ms: intent.due_ms,
        delay_ms: intent.delay_ms,
        first_delivery_ms: intent.first_delivery_ms,
        reason: intent.reason,
        class: error.and_then(|error| some(&error.class)),
        fingerprint: error.and_then(|error| some(&error.fingerprint)),
        blocked_by: intent.blocked_by,
        holds: intent.holds,
        size_bytes: intent.size_bytes,
        intent: number,
        versions: Vec::new(),
        dead_ms: intent.dead_ms,
        act: Act::default(),
        source_lost: intent.source_lost,
    }
}

#[cfg(test)]
mod tests;
