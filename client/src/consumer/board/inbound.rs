//! Frames of the broker: records in, records taken back, units, answers.

use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::partitioner::{slot_of, slot_of_offset};
use sawlog_proto::v1;
use tokio::time::Instant;

use super::super::batch::{OpenFrame, replay_of};
use super::super::error::AckOutcome;
use super::super::leases::LeaseTimes;
use super::super::positions::Progress;
use super::super::record::{ConsumedRecord, Source};
use super::super::slots::{Phase, Slot, Ticket};
use super::super::{ConsumerEvent, Unit};
use super::again::Held;
use super::{Board, Queued, Revoking, SourceState};
use crate::error::Error;
use crate::groups::GroupMode;
use crate::reader::GapReason;
use crate::types::{TopicId, unsigned};

impl Board {
    /// Takes any frame but `Joined`, `Goodbye` and `Pong`, which are the session's.
    ///
    /// # Errors
    /// If the frame is none that the protocol allows.
    pub(in super::super) fn frame(&mut self, frame: v1::consume_response::Frame, now: Instant) -> Result<(), Error> {
        use v1::consume_response::Frame;
        if !matches!(frame, Frame::Notice(_)) {
            self.pauses.other_frame().into_iter().for_each(|event| self.event(event));
        }
        match frame {
            Frame::Records(records) if self.rules.mode == GroupMode::Offset => self.offset_records(records, now),
            Frame::Records(records) => self.records(records, now),
            Frame::Batches(batches) => self.batches(batches),
            Frame::Assign(assign) => assign.units.into_iter().try_for_each(|unit| self.assign(unit)),
            Frame::Revoke(revoke) => self.revoke(&revoke),
            Frame::Recall(recall) => {
                self.lose(&recall.work, AckOutcome::Recalled);
                Ok(())
            }
            Frame::AckResult(result) => {
                self.acked(&result);
                Ok(())
            }
            Frame::CommitResult(result) => {
                self.committed(&result);
                Ok(())
            }
            Frame::DeadLetterResult(result) => {
                self.dead_lettered(result, now);
                Ok(())
            }
            Frame::CaughtUp(at) => {
                let source = self.source_of(at.source_id)?;
                self.event(ConsumerEvent::CaughtUp { source, offset: unsigned(at.offset) });
                Ok(())
            }
            Frame::FellBehind(at) => {
                let source = self.source_of(at.source_id)?;
                self.event(ConsumerEvent::FellBehind { source, offset: unsigned(at.offset) });
                Ok(())
            }
            Frame::Gap(gap) => self.gap(&gap),
            Frame::Notice(notice) => {
                if let Some(event) = self.pauses.notice(notice) {
                    self.event(event);
                }
                Ok(())
            }
            Frame::ReplayDone(done) => {
                let source = done.source_id.map(|id| self.source_of(id)).transpose()?;
                let (replay_id, cancelled) = (done.replay_id, done.cancelled);
                self.event(ConsumerEvent::ReplayDone { replay_id, source, cancelled });
                Ok(())
            }
            Frame::Joined(_) | Frame::Goodbye(_) | Frame::Pong(_) | Frame::Swap(_) => Ok(()),
        }
    }

    /// The session has begun, or goes on: what of `in_work` is not this member's any more is let go.
    ///
    /// # Errors
    /// If the broker's mode is another.
    pub(in super::super) fn joined(&mut self, joined: &v1::Joined, now: Instant) -> Result<(), Error> {
        if GroupMode::from_wire(joined.mode()) != Some(self.rules.mode) {
            return Err(Error::protocol("the group joined has another mode than it said"));
        }
        self.suspended = false;
        self.resumed = joined.resumed;
        self.pauses.joined();
        self.ordered = self.rules.mode == GroupMode::Offset || joined.max_in_flight_per_key > 1;
        let max = joined.max_processing_ms;
        self.times = LeaseTimes {
            lease: Duration::from_millis(u64::from(joined.lease_ms).max(1)),
            max_processing: (max > 0).then(|| Duration::from_millis(max)),
        };
        self.by_wire.clear();
        for source in &mut self.sources {
            source.wire = None;
        }
        for source in &joined.sources {
            self.source(source);
        }
        if !joined.resumed {
            self.units.clear();
            self.revoking.clear();
        }
        for result in &joined.in_work {
            self.lose_of(result.source_id, &result.offsets, &result.dlq_ids, AckOutcome::from_wire(result.outcome()));
        }
        for ticket in self.slots.select(|slot| slot.leased && slot.lost.is_none()) {
            if let Some(slot) = self.slots.get_mut(ticket) {
                slot.leased_at = now;
            }
        }
        Ok(())
    }

    /// The stream ended: its numbers mean nothing any more.
    pub(in super::super) fn cut(&mut self) {
        // Nothing can be sent: the session need not be told, or it would look again and again.
        self.told_session = true;
        self.drop_extends();
    }

    fn records(&mut self, records: v1::Records, now: Instant) -> Result<(), Error> {
        let source = self.number(records.source_id)?;
        let shared = Arc::clone(&self.sources[source as usize].source);
        let epoch = records.assignment_epoch;
        let held = self.held(source, epoch, &records.deliveries);
        let replay = replay_of(records.replay_id);
        for delivery in records.deliveries {
            let record = ConsumedRecord::from_wire(&shared, records.max_attempts, delivery, replay.as_ref());
            let place = (record.offset, record.entry().map(|entry| Arc::clone(&entry.dlq_id)));
            match held.get(&place) {
                Some(Held::Queued) => {}
                Some(Held::Decided(before)) => {
                    let ticket = self.arrive(source, epoch, record, now);
                    self.wait_for_answer(*before, ticket);
                }
                None => {
                    self.arrive(source, epoch, record, now);
                }
            }
        }
        Ok(())
    }

    /// A leased record arrives.
    pub(super) fn arrive(&mut self, source: u32, epoch: u64, record: ConsumedRecord, now: Instant) -> Ticket {
        let key_slot = match &record.key {
            Some(key) => slot_of(key),
            None => slot_of_offset(record.offset),
        };
        // Records without key are each their own lane.
        let lane = record.key.clone().filter(|_| self.ordered && self.rules.mode != GroupMode::Unordered);
        let lane = lane.map(|key| (source, key));
        let ticket = self.slots.insert(Slot {
            phase: Phase::Ready,
            source,
            epoch,
            offset: record.offset,
            record_epoch: record.epoch,
            key_slot,
            leased: true,
            entry: record.entry().map(|entry| (Arc::clone(&entry.dlq_id), entry.version)),
            lane: lane.clone(),
            bytes: record.size_bytes() as u64,
            record: Some(record),
            arrived_at: now,
            leased_at: now,
            lost: None,
            waiter: None,
            failures: 0,
            letter: None,
            again: None,
        });
        if lane.is_none_or(|lane| self.lanes.arrive(&lane, ticket)) {
            self.ready.push_back(Queued::Record(ticket));
        } else if let Some(slot) = self.slots.get_mut(ticket) {
            slot.phase = Phase::Waiting;
        }
        ticket
    }

    fn batches(&mut self, batches: v1::RecordBatches) -> Result<(), Error> {
        let source = self.number(batches.source_id)?;
        let state = &mut self.sources[source as usize];
        let frame = OpenFrame::of_batches(source, &state.source, batches, state.progress.received)?;
        self.queue_frame(source, frame);
        Ok(())
    }

    fn offset_records(&mut self, records: v1::Records, now: Instant) -> Result<(), Error> {
        let source = self.number(records.source_id)?;
        let shared = Arc::clone(&self.sources[source as usize].source);
        let (epoch, max_attempts) = (records.assignment_epoch, records.max_attempts);
        let replay = replay_of(records.replay_id);
        // What has an attempt comes through its entry and is leased; the rest is the log in order.
        let (leased, plain): (Vec<_>, Vec<_>) =
            records.deliveries.into_iter().partition(|delivery| delivery.attempt > 0);
        for delivery in leased {
            let record = ConsumedRecord::from_wire(&shared, max_attempts, delivery, replay.as_ref());
            self.arrive(source, epoch, record, now);
        }
        if !plain.is_empty() || records.reached_offset > 0 {
            let received = self.sources[source as usize].progress.received;
            let reached = unsigned(records.reached_offset);
            let frame = OpenFrame::of_records(source, &shared, epoch, plain, reached, received).of_replay(replay);
            self.queue_frame(source, frame);
        }
        Ok(())
    }

    fn queue_frame(&mut self, source: u32, frame: OpenFrame) {
        let state = &mut self.sources[source as usize];
        if state.epoch != Some(frame.epoch) {
            // Of an assignment that is over.
            self.outbox.grant(frame.records, frame.bytes);
            return;
        }
        state.progress.received = state.progress.received.max(frame.reached);
        self.ready.push_back(Queued::Frame(Box::new(frame)));
    }

    fn assign(&mut self, unit: v1::Assignment) -> Result<(), Error> {
        let Some(wire) = &unit.source else { return Err(Error::protocol("a unit without a source")) };
        let source = self.source(wire);
        let slots = unit.slots.unwrap_or_default();
        let start_offset = unsigned(unit.start_offset);
        let state = &mut self.sources[source as usize];
        let told = Unit {
            source: Arc::clone(&state.source),
            slots: (slots.from, slots.to),
            assignment_epoch: unit.assignment_epoch,
            start_offset,
            metadata: unit.metadata,
        };
        if self.rules.mode == GroupMode::Offset && state.epoch != Some(unit.assignment_epoch) {
            state.epoch = Some(unit.assignment_epoch);
            self.drop_offset_queue(source);
            self.refuse_commits(source);
            self.sources[source as usize].progress = Progress::starting_at(start_offset);
        }
        let same = |has: &Unit| has.source == told.source && has.slots == told.slots;
        if self.units.iter().any(|has| same(has) && has.assignment_epoch == told.assignment_epoch) {
            // A resumed session is told again what it has.
            return Ok(());
        }
        self.units.retain(|has| !same(has));
        self.units.push(told.clone());
        self.event(ConsumerEvent::Assigned(told));
        Ok(())
    }

    fn revoke(&mut self, revoke: &v1::Revoke) -> Result<(), Error> {
        let source = self.number(revoke.source_id)?;
        let slots = revoke.slots.unwrap_or_default();
        let run = (slots.from, slots.to);
        let inside = |slot: &Slot| slot.source == source && run.0 <= slot.key_slot && slot.key_slot < run.1;
        let held = self.slots.select(|slot| inside(slot) && slot.phase != Phase::Decided);
        for ticket in held {
            let Some(slot) = self.slots.get_mut(ticket) else { continue };
            match (slot.is_queued(), revoke.lost || !slot.leased) {
                (true, true) => self.drop_queued(ticket),
                (true, false) => self.give_back(ticket),
                (false, _) if revoke.lost => slot.lost = Some(AckOutcome::Fenced),
                (false, _) => {}
            }
        }
        if self.rules.mode == GroupMode::Offset {
            self.drop_offset_queue(source);
            if revoke.lost {
                self.refuse_commits(source);
                self.sources[source as usize].epoch = None;
            }
        }
        if !revoke.lost {
            self.revoking.push(Revoking { source, slots: run });
            self.outbox.other = true;
        }
        let shared = &self.sources[source as usize].source;
        // Of a unit that shrinks the rest stays.
        let mut kept = Vec::new();
        for unit in self.units.drain(..) {
            if unit.source != *shared {
                kept.push(unit);
                continue;
            }
            let (from, to) = unit.slots;
            for rest in [(from, to.min(run.0)), (from.max(run.1), to)] {
                if rest.0 < rest.1 {
                    kept.push(Unit { slots: rest, ..unit.clone() });
                }
            }
        }
        self.units = kept;
        let source = Arc::clone(shared);
        let gone = Unit { source, slots: run, assignment_epoch: 0, start_offset: 0, metadata: String::new() };
        self.event(ConsumerEvent::Revoked(gone));
        Ok(())
    }

    /// Records that are not this member's any more.
    fn lose(&mut self, work: &[v1::Work], outcome: AckOutcome) {
        for part in work {
            let ids: Vec<String> = part.entries.iter().map(|entry| entry.dlq_id.clone()).collect();
            self.lose_of(part.source_id, &part.offsets, &ids, outcome);
        }
    }

    fn lose_of(&mut self, source_id: u32, runs: &[v1::OffsetRun], ids: &[String], outcome: AckOutcome) {
        let Some(source) = self.by_wire.get(&source_id).copied() else { return };
        let runs = sorted(runs);
        let named = |slot: &Slot| {
            slot.source == source
                && match &slot.entry {
                    Some((id, _)) => ids.iter().any(|named| **named == **id),
                    None => contains(&runs, slot.offset),
                }
        };
        for ticket in self.slots.select(|slot| slot.leased && slot.phase != Phase::Decided && named(slot)) {
            self.lost(ticket, outcome);
        }
    }

    /// A lease is over.
    pub(super) fn lost(&mut self, ticket: Ticket, outcome: AckOutcome) {
        let Some(slot) = self.slots.get_mut(ticket) else { return };
        match slot.phase {
            Phase::Started => slot.lost = Some(outcome),
            Phase::Waiting | Phase::Ready => self.drop_queued(ticket),
            Phase::Decided => {}
        }
    }

    fn gap(&mut self, gap: &v1::SourceGap) -> Result<(), Error> {
        let number = self.number(gap.source_id)?;
        let (from, to) = (unsigned(gap.from), unsigned(gap.to));
        // Offsets that were cut are given anew: nothing of them has come (rule AK-12).
        let passed = !gap.stopped && gap.reason() != v1::GapReason::Truncated;
        if self.rules.mode == GroupMode::Offset && passed {
            let progress = &mut self.sources[number as usize].progress;
            if from <= progress.received && to > progress.received {
                progress.received = to;
                self.queue_gap(number, to);
            }
        }
        let source = Arc::clone(&self.sources[number as usize].source);
        let reason = GapReason::from_wire(gap.reason());
        let (records, stopped) = (gap.records, gap.stopped);
        self.event(ConsumerEvent::Gap { source, from, to, reason, records, stopped });
        Ok(())
    }

    fn queue_gap(&mut self, source: u32, to: u64) {
        let state = &self.sources[source as usize];
        let Some(epoch) = state.epoch else { return };
        let frame = OpenFrame::of_records(source, &state.source, epoch, Vec::new(), to, to);
        self.ready.push_back(Queued::Frame(Box::new(frame)));
    }

    /// Our number of a source of the present stream.
    pub(super) fn number(&self, source_id: u32) -> Result<u32, Error> {
        let unknown = || Error::protocol(format!("source {source_id} was never told"));
        self.by_wire.get(&source_id).copied().ok_or_else(unknown)
    }

    fn source_of(&self, source_id: u32) -> Result<Arc<Source>, Error> {
        Ok(Arc::clone(&self.sources[self.number(source_id)? as usize].source))
    }

    /// Learns the number of a source on the present stream.
    fn source(&mut self, wire: &v1::Source) -> u32 {
        let same = |state: &SourceState| {
            state.source.partition == wire.partition && state.source.topic_id.as_str() == wire.topic_id
        };
        let number = self.sources.iter().position(same).unwrap_or_else(|| {
            let source = Arc::new(Source {
                topic: wire.topic.as_str().into(),
                topic_id: TopicId::from(wire.topic_id.as_str()),
                partition: wire.partition,
            });
            self.sources.push(SourceState { source, wire: None, epoch: None, progress: Progress::default() });
            self.sources.len() - 1
        });
        self.sources[number].wire = Some(wire.source_id);
        let number = u32::try_from(number).expect("the broker bounds the number of partitions");
        self.by_wire.insert(wire.source_id, number);
        number
    }
}

/// Runs as half-open ranges in order.
fn sorted(runs: &[v1::OffsetRun]) -> Vec<(u64, u64)> {
    let range = |run: &v1::OffsetRun| {
        let from = unsigned(run.from);
        (from, from.saturating_add(u64::from(run.count.max(1))))
    };
    let mut ranges: Vec<_> = runs.iter().map(range).collect();
    ranges.sort_unstable();
    ranges
}

/// Whether an offset is in one of the ranges.
fn contains(ranges: &[(u64, u64)], offset: u64) -> bool {
    let after = ranges.partition_point(|(from, _)| *from <= offset);
    after.checked_sub(1).is_some_and(|at| offset < ranges[at].1)
}
