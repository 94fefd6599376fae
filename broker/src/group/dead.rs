//! Records that have finally failed: intents, copies, settles (rules DL-4 to DL-8, DL-11, DL-15, DL-16).
//!
//! ```text
//! kill, park, spill --> Intended (groups) --> mover: copy durable --> Copied --> Opened (entries)
//!   --> EntryDurable --> Arrived (groups): settled, the verb is answered
//! ```
//!
//! Owns: which records become dead letters, what their lanes become, who waits for an answer. Must not know: how a copy
//! is made. A crash between any two steps converges: an intent that is open at the start is moved again, a copy or an
//! entry that is there already is not made again.
//!
//! Invariants: a lane is dead from the intent on (rule DL-6); a record with an open entry or intent is handled through it
//! alone (rule DL-15); a record is settled as dead only after its entry is durable (rule DL-4).

use std::collections::BTreeMap;

use super::config::Mode;
use super::effect::{AckStatus, Effects, EntryDelivery, Notice};
use super::entry::{DeadReason, EntryKey, EntryKind, EntryState, LaneState};
use super::event::RecordMeta;
use super::intents::Intents;
use super::lanes::{Held, Taken};
use super::machine::Machine;
use super::record::{ErrorInfo, GapReason, GroupRecord, Intent, PauseReason, SettledAs, Tried};
use super::retry::OnExhausted;
use super::spent::Spent;
use super::verbs::PendingAnswer;
use super::{Now, spill::Spills};
use crate::model::{KeySlot, LaneKey, MemberId, Offset, OffsetRange, PartitionEpoch, Source};

pub(super) use super::record::{BLOCKED_MS, SPENT_MS};

/// What is kept in memory of dead letters on their way.
#[derive(Debug, Default)]
pub(super) struct Dead {
    pub(super) intents: Intents,
    /// Lanes that intents alone make dead or spilled.
    pub(super) by_intent_alone: u64,
    /// Cycles of open intents whose entries a reset clears.
    pub(super) cleared: BTreeMap<EntryKey, u32>,
    /// Who waits for an intent.
    pub(super) pending: BTreeMap<(Source, u64), Pending>,
    /// Deaths that wait until fewer lanes are dead (rule AK-7).
    pub(super) waiting: Vec<Death>,
    /// Ends of the dead-letter partitions, as far as known.
    pub(super) ends: BTreeMap<Source, Offset>,
    /// Partitions whose dead letters cannot be appended (rule DL-5).
    pub(super) blocked: BTreeMap<Source, PauseReason>,
    pub(super) spills: Spills,
    /// Records whose tries are spent and that are not the first of their lanes.
    pub(super) spent: Spent,
}

/// Who waits for a dead letter.
#[derive(Debug)]
pub(super) enum Pending {
    /// A nack.
    Nack(PendingAnswer),
    /// A `DeadLetter` of mode OFFSET.
    DeadLetter {
        /// Whose.
        member: MemberId,
        /// Its number.
        request: u64,
    },
}

/// A record that has finally failed.
#[derive(Debug)]
pub(super) struct Death {
    pub(super) source: Source,
    pub(super) offset: Offset,
    pub(super) reason: DeadReason,
    pub(super) error: Option<ErrorInfo>,
    pub(super) member: Option<MemberId>,
    pub(super) answer: Option<PendingAnswer>,
}

/// A record on its way to the dead letters.
#[derive(Debug)]
pub(super) struct Dying {
    /// What was known of it.
    pub(super) taken: Taken,
    /// Why.
    pub(super) kind: EntryKind,
    /// Why exactly.
    pub(super) reason: DeadReason,
    /// Its lane is spilled.
    pub(super) spilled: bool,
    /// Its lane waits for it.
    pub(super) holds: bool,
    /// The last error.
    pub(super) error: Option<ErrorInfo>,
    /// Member that had it last.
    pub(super) member: Option<MemberId>,
    /// Head of its lane, if parked.
    pub(super) blocked_by: Option<EntryKey>,
    /// Records of its batch, if that goes as one; else 1.
    pub(super) records: u32,
}

/// What is to be done with a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    /// Hold it.
    Normal,
    /// It is taken care of: parked, or settled as its entry says.
    Taken,
}

impl Machine {
    /// A record has finally failed. It is the head of its lane and is not leased; its member has its credit back. By
    /// policy it becomes an intent, is settled as skipped, or blocks its lane. `answer` is given with
    /// [`Machine::answered`] once that is decided.
    #[expect(clippy::too_many_arguments, reason = "the facts of a death")]
    pub(super) fn kill(
        &mut self,
        source: Source,
        offset: Offset,
        reason: DeadReason,
        error: Option<ErrorInfo>,
        last_member: Option<MemberId>,
        answer: Option<PendingAnswer>,
        now: Now,
        fx: &mut Effects,
    ) {
        let death = Death { source, offset, reason, error, member: last_member, answer };
        let Some(lane) = self.works.get(&source).and_then(|work| work.find(offset).map(|at| work.place(at).0)) else {
            return self.tell_pending(death.answer.map(Pending::Nack), AckStatus::AlreadySettled, fx);
        };
        if self.partition(source).is_some_and(|partition| partition.settled.contains(offset)) {
            // Its place in the log is gone and was settled meanwhile (rule RE-5).
            self.take_head(source, lane, now);
            return self.tell_pending(death.answer.map(Pending::Nack), AckStatus::Ok, fx);
        }
        match self.exhausted_policy(source) {
            OnExhausted::Drop => {
                self.take_head(source, lane, now);
                self.settle_offset(source, offset, SettledAs::Skipped, fx);
                self.note_hole(source, lane, offset, fx);
                self.tell_pending(death.answer.map(Pending::Nack), AckStatus::Ok, fx);
            }
            OnExhausted::Block => self.block(death, lane, now, fx),
            OnExhausted::DeadLetter => self.dead_letter(death, lane, now, fx),
        }
    }

    /// What becomes of an exhausted record: of a dead-letter topic it is marked in place, whatever the policy
    /// (rule DL-11).
    fn exhausted_policy(&self, source: Source) -> OnExhausted {
        if self.is_dlq(source) { OnExhausted::DeadLetter } else { self.policy_for(source).on_exhausted }
    }

    fn block(&mut self, death: Death, lane: LaneKey, now: Now, fx: &mut Effects) {
        let Some(work) = self.work(death.source) else { return };
        let Some(at) = work.find(death.offset) else { return };
        let (held, (_, slot)) = (*work.record(at), work.place(at));
        work.stick(lane, true, now.monotonic_ms);
        let first_ms = self.tried_at(death.source, death.offset).map_or(now.wall_ms, |tried| tried.first_ms);
        let class = death.error.map(|error| error.class).unwrap_or_default();
        let (offset, epoch, attempts) = (held.offset, held.epoch, held.attempts);
        let (due_ms, delay_ms) = (BLOCKED_MS, 0);
        let tried = Tried { offset, epoch, attempts, due_ms, delay_ms, first_ms, lane, slot, class };
        self.commit(GroupRecord::Tried { source: death.source, tries: vec![tried] }, fx);
        self.tell_pending(death.answer.map(Pending::Nack), AckStatus::Ok, fx);
    }

    fn dead_letter(&mut self, death: Death, lane: LaneKey, now: Now, fx: &mut Effects) {
        let source = death.source;
        let parks = self.parks(source);
        if parks && self.dead_limit_reached(source, now, fx) {
            if let Some(work) = self.work(source) {
                work.stick(lane, true, now.monotonic_ms);
            }
            self.dead.waiting.push(death);
            return;
        }
        let taken = if parks {
            self.work(source).map(|work| work.take_lane(lane)).unwrap_or_default()
        } else {
            self.take_head(source, lane, now).into_iter().collect()
        };
        let mut head = None;
        let (mut error, mut member) = (death.error, death.member);
        for taken in taken {
            let key = EntryKey { source, offset: taken.offset, epoch: taken.epoch };
            let failed = head.is_none();
            let dying = Dying {
                taken,
                kind: if failed { EntryKind::Failed } else { EntryKind::Parked },
                reason: if failed { death.reason } else { DeadReason::Parked },
                spilled: false,
                holds: parks,
                error: error.take(),
                member: member.take(),
                blocked_by: head,
                records: 1,
            };
            let number = self.intend(source, dying, now, fx);
            if failed && let Some(answer) = death.answer {
                self.dead.pending.insert((source, number), Pending::Nack(answer));
            }
            head = head.or(Some(key));
        }
        if !parks {
            self.note_hole(source, lane, death.offset, fx);
        }
        self.arrive_in_place(now, fx);
    }

    /// Journals an intent and has it moved.
    pub(super) fn intend(&mut self, source: Source, dying: Dying, now: Now, fx: &mut Effects) -> u64 {
        let Dying { taken, kind, reason, spilled, holds, mut error, mut member, blocked_by, records } = dying;
        let key = EntryKey { source, offset: taken.offset, epoch: taken.epoch };
        let (number, tried) = {
            let partition = self.state.partitions.get(&source).expect("a partition of the group");
            (partition.next_intent, partition.tried.get(&taken.offset).cloned())
        };
        let before = self.entries.get(&key).map(|entry| entry.cycle).max(self.dead.cleared.get(&key).copied());
        let failed = kind == EntryKind::Failed;
        let first_delivery_ms = tried.as_ref().map_or(if failed { now.wall_ms } else { 0 }, |tried| tried.first_ms);
        let delay_ms = if spilled { taken.due_ms.saturating_sub(now.monotonic_ms) } else { 0 };
        let mut due_ms = if delay_ms == 0 { 0 } else { now.wall_ms.saturating_add_unsigned(delay_ms) };
        if spilled && let Some(spent) = tried.as_ref().filter(|tried| tried.due_ms == SPENT_MS) {
            // It dies where it is once it is the first of its lane (rule RT-1).
            due_ms = SPENT_MS;
            (error, member) = self.take_spent(source, spent);
        }
        let client_version = member.and_then(|member| self.state.members.get(&member));
        let intent = Intent {
            key,
            lane: taken.lane,
            slot: taken.slot,
            kind,
            reason,
            spilled,
            holds,
            source_lost: false,
            cleared: false,
            size_bytes: taken.size_bytes,
            cycle: before.map_or(0, |cycle| cycle + 1),
            attempts: if failed || spilled { taken.attempts } else { 0 },
            due_ms,
            delay_ms,
            first_delivery_ms,
            first_failure_ms: if failed { tried.map_or(now.wall_ms, |tried| tried.first_ms) } else { 0 },
            last_failure_ms: if failed { now.wall_ms } else { 0 },
            dead_ms: now.wall_ms,
            error: error.map(Box::new),
            client_version: client_version.map(|one| one.client_version.clone()).unwrap_or_default(),
            member,
            blocked_by,
            dlq_end: self.dead.ends.get(&source).copied().unwrap_or_default(),
            records,
        };
        fx.notices.push(Notice::DeadLettered { key, spilled });
        self.with_lane(source, taken.lane, |machine| {
            machine.dead.intents.insert(number, &intent);
            machine.commit(GroupRecord::Intended { number, intent: Box::new(intent) }, fx);
        });
        if !self.is_dlq(source) {
            fx.moves.push((source, number));
        }
        number
    }

    /// Whether any lane of the source is not live, or any record has an entry or an intent: a cheap check.
    pub(super) fn has_dead(&self, source: Source) -> bool {
        self.dead.intents.any(source) || self.entries.last_of(source).is_some()
    }

    /// A record was read that is not settled. Called if [`Machine::has_dead`].
    pub(super) fn meet(&mut self, source: Source, meta: &RecordMeta, now: Now, fx: &mut Effects) -> Met {
        let key = EntryKey { source, offset: meta.offset, epoch: meta.epoch };
        if self.dead.intents.has(&key, meta.lane) {
            // It is settled as its dead letter arrives.
            return Met::Taken;
        }
        if let Some(state) = self.entries.state_of(&key)
            && let Some(how) = self.settled_by_entry(&key, state)
        {
            self.settle_offset(source, meta.offset, how, fx);
            self.refresh_lane(source, meta.lane, now);
            // One that holds no lane may go too: its place was passed.
            self.refresh_alone(key, now);
            return Met::Taken;
        }
        if meta.filtered || self.state.config.mode == Mode::Unordered {
            return Met::Normal;
        }
        let state = self.lane_now(source, meta.lane);
        let Some(head) = self.head_now(source, meta.lane).filter(|head| head.offset < meta.offset) else {
            // A dead lane begins at its first open entry (rule DL-15).
            return Met::Normal;
        };
        self.park(meta, head, state == LaneState::Spilled, now, fx);
        Met::Taken
    }

    /// What is delivered in the place of a record that a reset leads back to: the version that it was resolved with
    /// (rule DL-15).
    pub(super) fn stands_in(&self, source: Source, record: &Held) -> Option<EntryDelivery> {
        if self.entries.last_of(source).is_none_or(|last| last < record.offset) {
            return None;
        }
        let key = EntryKey { source, offset: record.offset, epoch: record.epoch };
        let Some(EntryState::Resolved { version }) = self.entries.state_of(&key) else { return None };
        let edited = usize::try_from(version.checked_sub(1)?).ok()?;
        let entry = self.entries.get(&key)?;
        let copy = *entry.versions.get(edited)?;
        Some(EntryDelivery { key, copy, version, cycle: entry.cycle, job: None })
    }

    /// How the entry of a record that is met again settles it; `None`: it is to be delivered (rule DL-15).
    fn settled_by_entry(&self, key: &EntryKey, state: EntryState) -> Option<SettledAs> {
        let seen = self.partition(key.source).is_some_and(|partition| key.offset < partition.back_to);
        match state {
            EntryState::Open | EntryState::Spilled => Some(SettledAs::Parked),
            EntryState::Discarded | EntryState::Moved => Some(SettledAs::Skipped),
            // After a reset back it is delivered as it was resolved.
            EntryState::Resolved { .. } if seen => None,
            EntryState::Resolved { .. } => Some(SettledAs::Skipped),
            EntryState::Expired => Some(SettledAs::Expired),
            EntryState::Cleared => None,
        }
    }

    fn park(&mut self, meta: &RecordMeta, head: EntryKey, spilled: bool, now: Now, fx: &mut Effects) {
        let source = head.source;
        let attempts = self.tried_at(source, meta.offset).map_or(0, |tried| tried.attempts);
        let taken = Taken {
            offset: meta.offset,
            lane: meta.lane,
            slot: meta.slot,
            epoch: meta.epoch,
            size_bytes: meta.size_bytes,
            append_ms: meta.append_ms,
            attempts,
            due_ms: 0,
        };
        let dying = Dying {
            taken,
            kind: EntryKind::Parked,
            reason: if spilled { DeadReason::Spill } else { DeadReason::Parked },
            spilled,
            holds: true,
            error: None,
            member: None,
            blocked_by: Some(head),
            records: 1,
        };
        self.intend(source, dying, now, fx);
    }

    /// A batch that cannot be decoded was read (rule DL-16): it is a dead letter as a whole, and parks no lane.
    pub(super) fn undecodable(
        &mut self,
        source: Source,
        range: OffsetRange,
        epoch: PartitionEpoch,
        now: Now,
        fx: &mut Effects,
    ) {
        let key = EntryKey { source, offset: range.from, epoch };
        let lane = LaneKey(u128::from(range.from.get()));
        let known = self.entries.state_of(&key).is_some_and(|state| state != EntryState::Cleared);
        if known || self.dead.intents.has(&key, lane) {
            if !self.dead.intents.has(&key, lane) && !self.is_offset() {
                self.commit(GroupRecord::Settled { source, how: SettledAs::Dead, runs: vec![range] }, fx);
            }
            return;
        }
        let taken = Taken {
            offset: range.from,
            lane,
            slot: KeySlot::new(0).expect("the first slot"),
            epoch,
            size_bytes: 0,
            append_ms: 0,
            attempts: 0,
            due_ms: 0,
        };
        let records = u32::try_from(range.to.distance_from(range.from)).unwrap_or(u32::MAX);
        let (kind, reason) = (EntryKind::Failed, DeadReason::Undecodable);
        let (error, member, blocked_by) = (None, None, None);
        let dying = Dying { taken, kind, reason, spilled: false, holds: false, error, member, blocked_by, records };
        self.intend(source, dying, now, fx);
        self.tell_gap(source, range, GapReason::Undecodable, Some(records.into()), false, fx);
        self.arrive_in_place(now, fx);
    }

    /// Nothing of a lane is held any more, and [`Machine::has_dead`]: its entries may be delivered (rule DL-15).
    pub(super) fn lane_done(&mut self, source: Source, lane: LaneKey, now: Now, fx: &mut Effects) {
        let _ = fx;
        self.refresh_lane(source, lane, now);
    }

    fn take_head(&mut self, source: Source, lane: LaneKey, now: Now) -> Option<Taken> {
        self.work(source)?.take_head(lane, now.monotonic_ms)
    }

    pub(super) fn settle_offset(&mut self, source: Source, offset: Offset, how: SettledAs, fx: &mut Effects) {
        let runs = vec![OffsetRange { from: offset, to: offset.saturating_add(1) }];
        self.commit(GroupRecord::Settled { source, how, runs }, fx);
        self.touch(source);
    }

    pub(super) fn tried_at(&self, source: Source, offset: Offset) -> Option<&Tried> {
        self.partition(source)?.tried.get(&offset)
    }
}

#[cfg(test)]
mod tests;
