//! What the leader of a partition does with the core in its hands: takes what has come, writes it in groups, rolls,
//! carries out calls, answers.
//!
//! Invariants as in `append.rs`; beside them: what was decided for a group is taken back as a whole if its write
//! fails, producers' state included (rules F2, PR-12), and what is answered can be read already.

use bytes::{BufMut, Bytes};
use std::time::Duration;

use super::append::{Core, Decided, Group, GroupLog, Place, Progress, Queue, Queued};
use super::commit::Completion;
use super::extension;
use super::producers::{Decision, Kept};
use super::sync::Arc;
use super::{
    AckLevel, AppendAck, AppendError, AppendFailure, CheckedBatch, Clock, FrameDraft, Offset, Reservation, Reserved,
    head_with, limits, without_found,
};

/// Bytes that one call writes at most, unless one frame needs more.
const GROUP_BYTES: u64 = 4 << 20;
/// Bytes of a frame beside batch and extensions, at most.
const FRAME_OVERHEAD_BYTES: u64 = 128;
/// An append that takes longer than this is slow: the next ones leave the request's task.
const SLOW_APPEND: Duration = Duration::from_millis(1);

impl<L: GroupLog> Core<L> {
    pub(super) fn take(&mut self, queue: &mut Queue<L>) {
        if self.backlog.is_empty() {
            std::mem::swap(&mut self.backlog, &mut queue.appends);
        } else {
            self.backlog.append(&mut queue.appends);
        }
        self.calls.append(&mut queue.calls);
        if let Some(synced) = queue.synced.take() {
            self.synced = Some(synced);
        }
    }

    /// Nothing can be done before someone brings more.
    pub(super) fn is_idle(&self) -> bool {
        let callable = self.calls.front().is_some_and(|call| !(call.quiet && self.sync_in_flight));
        let writable = !self.backlog.is_empty() && !self.roll_stalled;
        self.synced.is_none() && !callable && !writable
    }

    /// A call or a roll waits for the sync in flight, so that no other may begin.
    pub(crate) fn needs_quiet(&self) -> bool {
        self.roll_stalled || self.calls.iter().any(|call| call.quiet)
    }

    pub(super) fn run(&mut self, group: &Arc<Group<L>>, place: Place) -> Progress {
        if let Some(synced) = self.synced.take() {
            // Still stalled while it is finished, so that no other sync begins before the roll.
            self.finish_sync(group, synced);
            self.roll_stalled = false;
        }
        if let Progress::NeedsThread = self.write_backlog(group, place) {
            return Progress::NeedsThread;
        }
        while let Some(call) = self.calls.front() {
            if call.quiet && self.sync_in_flight {
                break;
            }
            if call.blocks && place == Place::Inline {
                return Progress::NeedsThread;
            }
            let call = self.calls.pop_front().expect("it was looked at just now");
            (call.run)(self, group);
            self.settle(group);
        }
        self.begin_sync(group);
        Progress::Done
    }

    fn write_backlog(&mut self, group: &Arc<Group<L>>, place: Place) -> Progress {
        while let Some(front) = self.backlog.front() {
            if let Some(cause) = &self.fenced {
                let (durable_end, cause) = (self.log.durable_end(), cause.clone());
                let queued = self.backlog.pop_front().expect("it was looked at just now");
                queued.refuse(AppendFailure::Fenced { durable_end, cause, outcome_unknown: false });
                continue;
            }
            let time = self.append_time(&*group.clock);
            let roll = self.log.must_roll(frame_bytes(&front.batch), time);
            if place == Place::Inline && (roll || !self.is_well()) {
                return Progress::NeedsThread;
            }
            if roll {
                if self.sync_in_flight {
                    self.roll_stalled = true;
                    return Progress::Done;
                }
                if !self.roll(group) {
                    continue;
                }
            }
            self.write_group(group, time);
        }
        Progress::Done
    }

    /// Seals the active segment. On a thread that may block, without a sync in flight. If the next segment cannot be
    /// made, what is queued is refused, and the next append tries again.
    pub(crate) fn roll(&mut self, group: &Arc<Group<L>>) -> bool {
        let result = self.log.roll(&self.producers);
        self.settle(group);
        let Err(error) = result else { return true };
        let failure = write_failure(&error, self.log.durable_end(), false);
        while let Some(queued) = self.backlog.pop_front() {
            queued.refuse(failure.clone());
        }
        false
    }

    /// Whether appends may run in a request's task.
    fn is_well(&self) -> bool {
        !self.slow && self.log.unsynced_bytes() < limits::INLINE_UNSYNCED_BYTES
    }

    /// The time of the next append: the wall clock, but never earlier than the last (rule F6).
    pub(crate) fn append_time(&self, clock: &dyn Clock) -> i64 {
        clock.wall_ms().max(self.last_append_time_ms)
    }

    /// Writes as many batches as one call takes, at least one.
    fn write_group(&mut self, group: &Arc<Group<L>>, time: i64) {
        let began = group.clock.monotonic();
        let begin = self.log.end();
        let mut next = begin;
        let mut bytes = 0;
        while let Some(front) = self.backlog.front() {
            let size = frame_bytes(&front.batch);
            if bytes > 0 && (bytes + size > GROUP_BYTES || self.log.must_roll(bytes + size, time)) {
                break;
            }
            let queued = self.backlog.pop_front().expect("it was looked at just now");
            match self.producers.decide(&queued.batch, group.directory.as_deref()) {
                Decision::Refuse(failure) => queued.refuse(failure),
                Decision::Duplicate(kept) => self.decide_duplicate(group, queued, kept),
                Decision::Write => {
                    let Some(queued) = self.reserve_events(group, queued, next, time) else { continue };
                    let record_count = queued.batch.header.record_count;
                    let kept = Kept { base_offset: next, record_count, epoch: self.epoch, append_time_ms: time };
                    self.producers.wrote(&queued.batch, kept, began);
                    next = next.saturating_add(u64::from(record_count));
                    bytes += size;
                    self.draft(&queued.batch, kept);
                    self.decide(queued, kept, false);
                }
            }
        }
        if self.drafts.is_empty() {
            self.answer_group(group, None);
            return;
        }
        let result = self.log.append(&self.drafts);
        self.drafts.clear();
        let now = group.clock.monotonic();
        let took = now.0.saturating_sub(began.0);
        self.slow = took > SLOW_APPEND;
        match result {
            Ok(appended) => {
                self.last_append_time_ms = time;
                group.pulse.appended(now);
                group.observer.appended(next.distance_from(begin), appended.bytes, took);
                self.answer_group(group, None);
            }
            Err(error) => {
                self.producers.truncate(begin);
                // Of a log that could not be cut back a part may be found again (see `enter_fence`).
                if let Some(events) = group.events.as_ref().filter(|_| self.log.fenced().is_none()) {
                    events.truncate(begin);
                }
                let failure = write_failure(&error, self.log.durable_end(), true);
                self.answer_group(group, Some((begin, failure)));
            }
        }
    }

    /// A repeat by rule PR-7. A request that was written without some of its records is answered record by record.
    fn decide_duplicate(&mut self, group: &Group<L>, queued: Queued, kept: Kept) {
        let (batch, record_count) = (&queued.batch, queued.batch.header.record_count);
        let Some((events, request)) = batch.events.as_ref().zip(batch.request) else {
            return self.decide(queued, kept, true);
        };
        if kept.record_count == record_count {
            return self.decide(queued, kept, true);
        }
        let known = group.events.as_ref().is_some_and(|all| all.locate(events, record_count, reservation(&kept)));
        queued.refuse(if known {
            AppendFailure::EventIds
        } else {
            let (producer_id, found) = (request.producer_id, request.request_number);
            AppendFailure::SequenceTooOld { producer_id, found, oldest: found.saturating_add(1) }
        });
    }

    /// Reserves the event ids of a batch for the places from `base` on (rule PR-8); takes out what is known already, or
    /// refuses the whole and returns nothing.
    fn reserve_events(&self, group: &Group<L>, mut queued: Queued, base: Offset, time: i64) -> Option<Queued> {
        let (Some(events), Some(directory)) = (&queued.batch.events, &group.events) else { return Some(queued) };
        let record_count = queued.batch.header.record_count;
        let at = Reservation { base, record_count, epoch: self.epoch, append_time_ms: time };
        match directory.reserve(events, at) {
            Reserved::All => {}
            Reserved::LeftOut => {
                queued.batch = without_found(&queued.batch, events.found().unwrap_or_default());
            }
            Reserved::Nothing => {
                queued.refuse(AppendFailure::EventIds);
                return None;
            }
            Reserved::NotReady => {
                queued.refuse(AppendFailure::Recovering);
                return None;
            }
        }
        Some(queued)
    }

    fn decide(&mut self, queued: Queued, kept: Kept, duplicate: bool) {
        let ack = AppendAck {
            base_offset: kept.base_offset,
            record_count: kept.record_count,
            epoch: kept.epoch,
            append_time_ms: kept.append_time_ms,
            level: queued.level.max(self.floor),
            duplicate,
        };
        self.decided.push(Decided { ack, permit: queued.permit, answer: queued.answer });
    }

    fn draft(&mut self, batch: &CheckedBatch, kept: Kept) {
        let head = head_with(&batch.bytes, kept.base_offset.to_wire(), kept.epoch.get() as i32);
        self.heads.reserve(head.len());
        self.heads.put_slice(&head);
        self.drafts.push(FrameDraft {
            base_offset: kept.base_offset,
            record_count: kept.record_count,
            append_time_ms: kept.append_time_ms,
            epoch: kept.epoch,
            extensions: batch.request.as_ref().map_or_else(Bytes::new, extension::encode),
            batch_head: self.heads.split().freeze(),
            batch_rest: batch.bytes.slice(head.len()..),
        });
    }

    /// Answers what was decided, or has it wait for a sync. `failed`: what would lie above this offset was not
    /// written.
    fn answer_group(&mut self, group: &Arc<Group<L>>, failed: Option<(Offset, AppendFailure)>) {
        let durable_end = self.log.durable_end();
        if self.floor == AckLevel::Written && failed.is_none() {
            // Before the answers: what is acknowledged can be read.
            group.watermark.advance(self.log.end());
        }
        let mut decided = std::mem::take(&mut self.decided);
        for Decided { ack, permit, answer } in decided.drain(..) {
            let end = ack.base_offset.saturating_add(u64::from(ack.record_count));
            match &failed {
                Some((begin, failure)) if end > *begin => {
                    drop(permit);
                    answer.give(Err(failure.clone()));
                }
                _ if ack.level == AckLevel::Written || end <= durable_end || self.ack_before_sync => {
                    drop(permit);
                    answer.give(Ok(ack));
                }
                _ => self.waiting.push(end, Completion::Append { answer, permit, ack }),
            }
        }
        self.decided = decided;
        if failed.is_some() {
            self.settle(group);
        }
    }
}

fn reservation(kept: &Kept) -> Reservation {
    let Kept { base_offset, record_count, epoch, append_time_ms } = *kept;
    Reservation { base: base_offset, record_count, epoch, append_time_ms }
}

/// `tried`: the frames were given to the system, so that a fence leaves their outcome unknown.
fn write_failure(error: &AppendError, durable_end: Offset, tried: bool) -> AppendFailure {
    match error {
        AppendError::Write { source } => {
            AppendFailure::WriteFailed { errno: source.raw_os_error(), what: source.to_string() }
        }
        AppendError::Fenced { cause } => {
            AppendFailure::Fenced { durable_end, cause: cause.clone(), outcome_unknown: tried }
        }
    }
}

/// Bytes of a batch's frame, at most.
fn frame_bytes(batch: &CheckedBatch) -> u64 {
    batch.bytes.len() as u64 + FRAME_OVERHEAD_BYTES
}
