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

use std::collections::{BTreeMap, BTreeSet};

use super::config::Mode;
use super::effect::{AckStatus, After, Effects, Frame, Notice, Refusal};
use super::entry::{Act, DeadReason, Entry, EntryKey, EntryKind, EntryRecord, EntryState, LaneState};
use super::event::RecordMeta;
use super::intents::Intents;
use super::lanes::Taken;
use super::machine::Machine;
use super::record::{ErrorInfo, GapReason, GroupRecord, Intent, Pause, PauseReason, SettledAs, Tried};
use super::retry::{AfterDead, OnExhausted, RetryPolicy};
use super::verbs::PendingAnswer;
use super::{Now, spill::Spills};
use crate::model::{KeySlot, LaneKey, MemberId, Offset, OffsetRange, PartitionEpoch, Source};

/// Due time of a record that waits for somebody's decision (rule DL-8).
pub(super) const BLOCKED_MS: i64 = i64::MAX;

/// What is kept in memory of dead letters on their way.
#[derive(Debug, Default)]
pub(super) struct Dead {
    pub(super) intents: Intents,
    /// Lanes that intents alone make dead or spilled.
    pub(super) by_intent_alone: u64,
    /// Cycles of open intents whose entries a reset clears.
    cleared: BTreeMap<EntryKey, u32>,
    /// Who waits for an intent.
    pub(super) pending: BTreeMap<(Source, u64), Pending>,
    /// Deaths that wait until fewer lanes are dead (rule AK-7).
    waiting: Vec<Death>,
    /// Ends of the dead-letter partitions, as far as known.
    ends: BTreeMap<Source, Offset>,
    /// Partitions whose dead letters cannot be appended (rule DL-5).
    blocked: BTreeMap<Source, PauseReason>,
    pub(super) spills: Spills,
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
struct Death {
    source: Source,
    offset: Offset,
    reason: DeadReason,
    error: Option<ErrorInfo>,
    member: Option<MemberId>,
    answer: Option<PendingAnswer>,
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
    /// Open intents go on (rule DL-4), resets are finished (OF-3), cuts too (AK-12), entries without a job are open (RD-1).
    pub(super) fn start_dead(&mut self, now: Now, fx: &mut Effects) {
        let sources: Vec<Source> = self.state.partitions.keys().copied().collect();
        sources.iter().for_each(|source| self.index_intents(*source));
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
        for source in sources {
            let numbers: Vec<u64> = self.state.partitions[&source].intents.keys().copied().collect();
            for number in numbers {
                self.move_on(source, number, now, fx);
            }
        }
        self.count_lanes();
        self.refresh_all(now);
    }

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
                self.note_hole(source, lane);
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
        let tried = Tried { offset, epoch, attempts, due_ms: BLOCKED_MS, first_ms, lane, slot, class };
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
            self.note_hole(source, lane);
        }
        self.arrive_in_place(now, fx);
    }

    /// Journals an intent and has it moved.
    pub(super) fn intend(&mut self, source: Source, dying: Dying, now: Now, fx: &mut Effects) -> u64 {
        let Dying { taken, kind, reason, spilled, holds, error, member, blocked_by, records } = dying;
        let key = EntryKey { source, offset: taken.offset, epoch: taken.epoch };
        let (number, tried) = {
            let partition = self.state.partitions.get(&source).expect("a partition of the group");
            (partition.next_intent, partition.tried.get(&taken.offset).cloned())
        };
        let before = self.entries.get(&key).map(|entry| entry.cycle).max(self.dead.cleared.get(&key).copied());
        let failed = kind == EntryKind::Failed;
        let first_delivery_ms = tried.as_ref().map_or(if failed { now.wall_ms } else { 0 }, |tried| tried.first_ms);
        let due_ms = match taken.due_ms {
            0 => 0,
            due => now.wall_ms.saturating_add_unsigned(due.saturating_sub(now.monotonic_ms)),
        };
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
            due_ms: if spilled { due_ms } else { 0 },
            first_delivery_ms,
            first_failure_ms: if failed { tried.map_or(now.wall_ms, |tried| tried.first_ms) } else { 0 },
            last_failure_ms: if failed { now.wall_ms } else { 0 },
            dead_ms: now.wall_ms,
            error,
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
        self.tell_gap(source, range, GapReason::Undecodable, false, fx);
        self.arrive_in_place(now, fx);
    }

    /// Nothing of a lane is held any more, and [`Machine::has_dead`]: its entries may be delivered (rule DL-15).
    pub(super) fn lane_done(&mut self, source: Source, lane: LaneKey, now: Now, fx: &mut Effects) {
        let _ = fx;
        self.refresh_lane(source, lane, now);
    }

    /// See [`super::event::Event::Copied`].
    pub(super) fn copied(&mut self, source: Source, number: u64, copy: Option<Offset>, now: Now, fx: &mut Effects) {
        let Some(intent) = self.partition(source).and_then(|one| one.intents.get(&number)).cloned() else { return };
        let Some(copy) = copy else { return self.lost(source, number, &intent, now, fx) };
        let there = self.entries.get(&intent.key).is_some_and(|entry| entry.cycle >= intent.cycle);
        if !there {
            let entry = Box::new(opened(number, &intent, copy));
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
        self.tell_gap(source, range, reason, false, fx);
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
        drop(self.work(source));
        let waits = self.dead.pending.remove(&(source, number));
        self.tell_pending_key(waits, AckStatus::Ok, intent.key, fx);
        self.lane_changed(source, intent.lane, was, now, fx);
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
        for death in gone {
            self.tell_pending(death.answer.map(Pending::Nack), AckStatus::Fenced, fx);
        }
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

    fn take_head(&mut self, source: Source, lane: LaneKey, now: Now) -> Option<Taken> {
        self.work(source)?.take_head(lane, now.monotonic_ms)
    }

    pub(super) fn settle_offset(&mut self, source: Source, offset: Offset, how: SettledAs, fx: &mut Effects) {
        let runs = vec![OffsetRange { from: offset, to: offset.saturating_add(1) }];
        self.commit(GroupRecord::Settled { source, how, runs }, fx);
        drop(self.work(source));
    }

    /// The next delivery of the lane is marked (rule DL-8).
    pub(super) fn note_hole(&mut self, source: Source, lane: LaneKey) {
        if self.state.config.mode == Mode::Keyed
            && let Some(work) = self.work(source)
        {
            work.holes.insert(lane);
        }
    }

    pub(super) fn tried_at(&self, source: Source, offset: Offset) -> Option<&Tried> {
        self.partition(source)?.tried.get(&offset)
    }

    fn tell_pending(&mut self, pending: Option<Pending>, status: AckStatus, fx: &mut Effects) {
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

    /// Journals a pause of the broker's, of a partition or of the group, unless it is there.
    pub(super) fn begin_pause(&mut self, source: Option<Source>, reason: PauseReason, now: Now, fx: &mut Effects) {
        if self.is_paused_for(source, reason) {
            return;
        }
        let act = Act { actor: "broker".into(), time_ms: now.wall_ms, note: String::new() };
        let (topic, partition) = (source.map(|one| one.topic), source.map(|one| one.partition));
        self.commit(GroupRecord::Paused(Pause { topic, partition, reason, until_ms: None, act }), fx);
        fx.notices.push(Notice::Pause { reason, on: true });
        self.pauses_changed(now);
    }

    /// Ends one, if it is there.
    pub(super) fn end_pause(&mut self, source: Option<Source>, reason: PauseReason, now: Now, fx: &mut Effects) {
        if !self.is_paused_for(source, reason) {
            return;
        }
        let (topic, partition) = (source.map(|one| one.topic), source.map(|one| one.partition));
        self.commit(GroupRecord::Resumed { topic, partition, reason }, fx);
        fx.notices.push(Notice::Pause { reason, on: false });
        self.pauses_changed(now);
    }

    pub(super) fn is_paused_for(&self, source: Option<Source>, reason: PauseReason) -> bool {
        let extent = (source.map(|one| one.topic), source.map(|one| one.partition));
        self.state.pauses.iter().any(|pause| (pause.topic, pause.partition) == extent && pause.reason == reason)
    }

    /// Partitions that pause for a reason of their own.
    pub(super) fn paused_for(&self, reason: PauseReason) -> impl Iterator<Item = Source> + '_ {
        let of = move |pause: &Pause| {
            let (topic, partition) = (pause.topic?, pause.partition?);
            (pause.reason == reason).then_some(Source { topic, partition })
        };
        self.state.pauses.iter().filter_map(of)
    }
}

fn opened(number: u64, intent: &Intent, copy: Offset) -> Entry {
    let state = match intent.spilled {
        _ if intent.cleared => EntryState::Cleared,
        true => EntryState::Spilled,
        false => EntryState::Open,
    };
    let error = intent.error.as_ref();
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
