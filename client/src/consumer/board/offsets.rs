//! Mode offset: the log in order, positions, dead letters by hand (rules AK-8, AK-9).

use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::v1;
use tokio::time::Instant;

use super::super::batch::{FrameItem, Mark, OpenFrame};
use super::super::error::{AckOutcome, Act, HandlerError};
use super::super::record::More;
use super::super::slots::{Letter, Phase, Slot, Ticket};
use super::{Board, Queued, Verdict, delay, tell};
use crate::dead_letter::EntryKind;
use crate::error::Error;
use crate::groups::GroupMode;
use crate::types::signed;

/// Delay before a dead letter that was refused for now is sent again.
const LETTER_AGAIN: Duration = Duration::from_secs(1);
/// Offsets of a run of what came that is still told to the broker.
const LONGEST_RUN: u32 = 50_000;
/// Delay before a record that cannot become a dead letter is tried again.
const NO_LETTER: Duration = Duration::from_secs(5);

impl Board {
    /// A record of the log arrives; its ticket if it may begin at once.
    pub(super) fn arrive_offset(
        &mut self,
        source: u32,
        epoch: u64,
        item: Result<FrameItem, Error>,
        now: Instant,
    ) -> Option<Ticket> {
        let FrameItem { record, mark } = match item {
            Ok(item) => item,
            Err(error) => {
                self.end(super::Ending::Failed(error));
                return None;
            }
        };
        let state = &mut self.sources[source as usize];
        if mark == Some(Mark::Passed) {
            state.progress.window.pass(record.offset + 1, Some(record.epoch));
            return None;
        }
        state.progress.window.open(record.offset, record.epoch);
        let bytes = match self.ready.front_mut() {
            Some(Queued::Frame(frame)) => frame.handed_out(),
            _ => 0,
        };
        let lane = record.key.clone().filter(|_| self.rules.auto).map(|key| (source, key));
        let letter = (mark == Some(Mark::Blocked)).then_some(Letter { kind: EntryKind::Parked, error: None });
        let ticket = self.slots.insert(Slot {
            phase: Phase::Ready,
            source,
            epoch,
            offset: record.offset,
            record_epoch: record.epoch,
            key_slot: 0,
            leased: false,
            entry: None,
            lane: lane.clone(),
            bytes,
            record: Some(record),
            arrived_at: now,
            leased_at: now,
            lost: None,
            waiter: None,
            failures: 0,
            letter,
            again: None,
        });
        if lane.is_some_and(|lane| !self.lanes.arrive(&lane, ticket)) {
            if let Some(slot) = self.slots.get_mut(ticket) {
                slot.phase = Phase::Waiting;
            }
            return None;
        }
        (!self.parks(ticket)).then_some(ticket)
    }

    /// A frame was opened to its end.
    pub(super) fn frame_taken(&mut self, frame: &OpenFrame) {
        let progress = &mut self.sources[frame.source as usize].progress;
        progress.window.pass(frame.reached, None);
        if self.rules.auto {
            progress.commit_done();
            self.look_at_commits(frame.source);
        }
        self.outbox.grant(frame.records, frame.bytes);
    }

    /// A frame was handed out whole: it counts as consumed.
    pub(super) fn frame_handed_out(&mut self, frame: &OpenFrame) {
        self.sources[frame.source as usize].progress.window.pass(frame.reached, None);
        self.outbox.grant(frame.records, frame.bytes);
    }

    /// A record of a dead key is parked in place of its handling; true if so.
    pub(super) fn parks(&mut self, ticket: Ticket) -> bool {
        let Some(slot) = self.slots.get_mut(ticket).filter(|slot| !slot.leased) else { return false };
        let dead = &self.sources[slot.source as usize].progress.dead_keys;
        let key = slot.record.as_ref().and_then(|record| record.key.as_ref());
        if slot.letter.is_none() && key.is_some_and(|key| dead.contains(key)) {
            slot.letter = Some(Letter { kind: EntryKind::Parked, error: None });
        }
        let parks = slot.letter.is_some();
        if parks {
            slot.phase = Phase::Decided;
            self.outbox.letters.push(ticket);
        }
        parks
    }

    /// A verdict on a record of the log.
    pub(super) fn finish_offset(&mut self, ticket: Ticket, verdict: Verdict, now: Instant) {
        match verdict {
            Verdict::Done => self.done_offset(ticket),
            Verdict::Failed(error) => match &error.act {
                Act::Skip { reason } => {
                    tracing::info!(reason, "a record is skipped");
                    self.done_offset(ticket);
                }
                Act::Dead => self.letter(ticket, error),
                Act::Retry { .. } | Act::Release { .. } => self.again(ticket, error, now),
            },
        }
    }

    fn done_offset(&mut self, ticket: Ticket) {
        let Some(slot) = self.slots.get_mut(ticket) else { return };
        tell(slot.waiter.take(), Ok(AckOutcome::Done));
        let (source, epoch, offset) = (slot.source, slot.epoch, slot.offset);
        let state = &mut self.sources[source as usize];
        // Of an assignment that is over nothing is committed any more.
        if state.epoch == Some(epoch) {
            state.progress.window.done(offset);
            if self.rules.auto {
                state.progress.commit_done();
                self.look_at_commits(source);
            }
        }
        self.outbox.other |= !self.revoking.is_empty();
        self.leave_lane(ticket);
        self.free(ticket);
    }

    /// To the dead letters.
    fn letter(&mut self, ticket: Ticket, error: Box<HandlerError>) {
        let Some(slot) = self.slots.get_mut(ticket) else { return };
        slot.phase = Phase::Decided;
        slot.letter = Some(Letter { kind: EntryKind::Failed, error: Some(error) });
        self.outbox.letters.push(ticket);
    }

    /// Another try here, or the last one was the last.
    fn again(&mut self, ticket: Ticket, error: Box<HandlerError>, now: Instant) {
        let tries = self.rules.tries;
        let Some(slot) = self.slots.get_mut(ticket) else { return };
        if error.is_strike() {
            slot.failures += 1;
        }
        if slot.failures >= tries || slot.record.is_none() {
            self.letter(ticket, error);
            return;
        }
        slot.phase = Phase::Waiting;
        let failures = slot.failures;
        if let Some(record) = &mut slot.record {
            record.attempt = failures + 1;
            record.max_attempts = tries;
            let more = record.more.get_or_insert_with(|| Box::new(More::default()));
            more.last_error_class = Some(error.class.clone());
        }
        tell(slot.waiter.take(), Ok(AckOutcome::Done));
        self.delayed.insert((now + delay(&error.act, failures), ticket), ());
    }

    /// The time of a delayed record has come.
    pub(super) fn due_again(&mut self, ticket: Ticket) {
        let Some(slot) = self.slots.get_mut(ticket).filter(|slot| slot.phase == Phase::Waiting) else { return };
        if slot.letter.is_some() {
            slot.phase = Phase::Decided;
            self.outbox.letters.push(ticket);
        } else {
            slot.phase = Phase::Ready;
            self.ready.push_front(Queued::Record(ticket));
        }
    }

    /// The answer to a dead letter.
    pub(super) fn dead_lettered(&mut self, result: v1::DeadLetterResult, now: Instant) {
        use v1::dead_letter_result::Result as Wire;
        let Some(sent) = self.take_sent(result.sequence) else { return };
        let Some(ticket) = sent.tickets.first().copied() else { return };
        let Some(slot) = self.slots.get_mut(ticket) else { return };
        let progress = &mut self.sources[slot.source as usize].progress;
        let key = slot.record.as_ref().and_then(|record| record.key.clone());
        let failed = slot.letter.as_ref().is_some_and(|letter| letter.kind == EntryKind::Failed);
        match result.result {
            Some(Wire::DlqId(_)) => {
                if let Some(key) = key.filter(|_| failed) {
                    progress.dead_keys.insert(key);
                }
                self.done_offset(ticket);
            }
            Some(Wire::Outcome(outcome)) if outcome == i32::from(v1::WorkOutcome::LaneLive) => {
                if let Some(key) = key {
                    progress.dead_keys.remove(&key);
                }
                slot.letter = None;
                slot.phase = Phase::Ready;
                self.ready.push_front(Queued::Record(ticket));
            }
            Some(Wire::Outcome(outcome)) => {
                let outcome = v1::WorkOutcome::try_from(outcome).unwrap_or_default();
                slot.lost = Some(AckOutcome::from_wire(outcome));
                self.leave_lane(ticket);
                self.free(ticket);
            }
            Some(Wire::Failure(failure)) => {
                let error = Error::from_failure(&failure);
                tracing::warn!(error = %error, "a record could not be made a dead letter");
                tell(slot.waiter.take(), Err(error.clone()));
                slot.phase = Phase::Waiting;
                if !error.is_retryable() && failed {
                    slot.letter = None;
                    slot.failures = 0;
                    self.delayed.insert((now + NO_LETTER, ticket), ());
                } else {
                    self.delayed.insert((now + LETTER_AGAIN, ticket), ());
                }
            }
            None => {
                slot.phase = Phase::Waiting;
                self.delayed.insert((now + LETTER_AGAIN, ticket), ());
            }
        }
    }

    /// Drops what came of an assignment that is over and was not handed out.
    pub(super) fn drop_offset_queue(&mut self, source: u32) {
        let mut dropped = Vec::new();
        self.ready.retain(|queued| match queued {
            Queued::Frame(frame) if frame.source == source => {
                dropped.push((frame.records, frame.bytes));
                false
            }
            _ => true,
        });
        for (records, bytes) in dropped {
            self.outbox.grant(records, bytes);
        }
        for ticket in self.slots.select(|slot| slot.source == source && !slot.leased && slot.is_queued()) {
            self.drop_queued(ticket);
        }
    }

    /// Whether records below `next` wait to be parked, so that a commit must wait with them.
    pub(super) fn parks_below(&self, source: u32, next: u64) -> bool {
        self.slots
            .iter()
            .any(|(_, slot)| slot.source == source && !slot.leased && slot.letter.is_some() && slot.offset < next)
    }

    /// Mode offset: what came of a partition from its committed offset on, which need not be sent again. Too long a run
    /// is not told: what came is told apart by its offsets anyway.
    pub(super) fn received_run(&self, source: u32) -> Option<(u64, Vec<v1::OffsetRun>)> {
        let state = &self.sources[source as usize];
        let (from, to) = (state.progress.confirmed, state.progress.received);
        let count = to.checked_sub(from).and_then(|count| u32::try_from(count).ok());
        let count = count.filter(|count| (1..=LONGEST_RUN).contains(count));
        let run = count.map(|count| v1::OffsetRun { from: signed(from), count });
        Some((state.epoch?, run.into_iter().collect()))
    }

    /// The credit of a stream that begins: what is held of the log was taken from an older one's.
    pub(in super::super) fn credit(&mut self) -> (u64, u64) {
        let (mut records, mut bytes) = self.rules.credit;
        if self.rules.mode == GroupMode::Offset {
            let frames = self.ready.iter().filter_map(|queued| match queued {
                Queued::Frame(frame) => Some((frame.records, frame.bytes)),
                Queued::Record(_) | Queued::Event(_) => None,
            });
            let slots = self.slots.iter().filter(|(_, slot)| !slot.leased).map(|(_, slot)| (1, slot.bytes));
            for (held_records, held_bytes) in frames.chain(slots) {
                records = records.saturating_sub(held_records);
                bytes = bytes.saturating_sub(held_bytes);
            }
            self.outbox.forget_grants();
        }
        (records, bytes)
    }

    /// The source of a number.
    pub(super) fn shared(&self, source: u32) -> Arc<super::Source> {
        Arc::clone(&self.sources[source as usize].source)
    }
}
