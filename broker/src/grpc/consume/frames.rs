//! What a session says, as frames of the wire.

use sawlog_proto::v1::{self, consume_response::Frame as Told};

use super::super::status::{self, Problem};
use super::super::{convert_groups, convert_views, ids};
use super::Stream;
use super::encode::{Extra, Head, Item};
use super::verbs::runs_to_wire;
use crate::coordinator::types::{
    AckStatus, DeliveryMore, EntryKey, EntryState, Frame, Mark, Mode, Refusal, ReplayEnd, ReplayMark, SwapAsk,
};
use crate::coordinator::{DeliveredRecord, EditedRecord, RebuildId, ReplayId, SessionFrame, SwapId};
use crate::limits::DELIVERY_FRAME_BYTES;
use crate::model::{AssignedUnit, GroupId, Offset, OffsetRange, Source};
use crate::partition::Frame as LogFrame;

/// A client that pings so often is never taken for lost (rule GM-7).
const PING_INTERVAL_MS: u64 = 3_000;

impl Stream {
    /// Puts what the session says into the outbox.
    pub(super) fn answer(&mut self, frame: SessionFrame) {
        match frame {
            SessionFrame::Control(frame) => self.control(frame),
            SessionFrame::Records { source, epoch, records, reached, marks, replay } => {
                let (group, in_order) = (self.session.group_id(), self.mode == Mode::Offset);
                let items = records.iter().map(|record| item(group, record, in_order, &marks, replay));
                let items: Vec<Item<'_>> = items.collect();
                let replay = replay.filter(|_| items.iter().any(|item| item.replay));
                let replay_id = replay_id(group, replay);
                let head = Head { replay_id: &replay_id, ..self.head(source, epoch.0) };
                self.outbox.records(head, &items, reached.map(Offset::to_wire));
            }
            SessionFrame::Batches { source, epoch, frames, from, reached, marks, filtered, edited, replay } => {
                let replay_id = replay_id(self.session.group_id(), replay);
                let head = Head { replay_id: &replay_id, ..self.head(source, epoch.0) };
                let marks = marked(self.session.group_id(), &marks, &filtered, &edited);
                self.batches(head, &frames, &marks, OffsetRange { from, to: reached });
            }
        }
    }

    fn head(&mut self, source: Source, epoch: u64) -> Head<'static> {
        let max_attempts = match self.mode {
            Mode::Offset => 0,
            Mode::Keyed | Mode::Unordered => self.session.config().retry_of(source.topic).max_attempts,
        };
        Head { source_id: self.sources.id(source), epoch, max_attempts, replay_id: "" }
    }

    /// Batches in messages of at most [`DELIVERY_FRAME_BYTES`], or of one batch.
    fn batches(&mut self, head: Head<'_>, frames: &[LogFrame], marks: &[v1::MarkedOffset], range: OffsetRange) {
        let (mut rest, mut marks, mut from) = (frames, marks, range.from);
        loop {
            let mut bytes = 0;
            let fit = rest.iter().take_while(|frame| {
                bytes += frame.batch.len();
                bytes <= DELIVERY_FRAME_BYTES
            });
            let count = fit.count().max(1).min(rest.len());
            let (part, more) = rest.split_at(count);
            let to = more.first().map_or(range.to, |next| next.base_offset.min(range.to).max(from));
            let inside = marks.partition_point(|mark| mark.offset < to.to_wire());
            self.outbox.batches(head, part, &marks[..inside], from.to_wire(), to.to_wire());
            (rest, marks, from) = (more, &marks[inside..], to);
            if rest.is_empty() {
                return;
            }
        }
    }

    fn control(&mut self, frame: Frame) {
        let told = match frame {
            Frame::Joined { epoch, resumed, lost, lost_entries } => self.joined(epoch.0, resumed, &lost, &lost_entries),
            Frame::Assign { unit, epoch, start, partition_epoch, crashes, metadata, group_start } => {
                let assignment = v1::Assignment {
                    source: Some(self.named(unit.source)),
                    slots: Some(slots(unit)),
                    assignment_epoch: epoch.0,
                    start_offset: start.to_wire(),
                    start_epoch: partition_epoch.get(),
                    crash_count: crashes,
                    metadata,
                    group_start_offset: group_start.to_wire(),
                };
                Told::Assign(v1::Assign { units: vec![assignment] })
            }
            Frame::Revoke { unit, lost } => {
                let source_id = self.sources.id(unit.source);
                Told::Revoke(v1::Revoke { source_id, slots: Some(slots(unit)), lost })
            }
            Frame::Recall { source, epoch, runs, entries } => self.recall(source, epoch.0, runs, &entries),
            answer @ (Frame::AckResults { .. }
            | Frame::CommitResult { .. }
            | Frame::DeadLetterResult { .. }
            | Frame::Pong) => match self.verb_answered(answer) {
                Some(told) => told,
                None => return,
            },
            Frame::CaughtUp { source, offset, append_ms } => Told::CaughtUp(v1::SourceCaughtUp {
                source_id: self.sources.id(source),
                offset: offset.to_wire(),
                append_time_ms: append_ms,
            }),
            Frame::FellBehind { source, offset } => {
                Told::FellBehind(v1::SourceFellBehind { source_id: self.sources.id(source), offset: offset.to_wire() })
            }
            Frame::Gap { source, range, reason, records, stops } => Told::Gap(v1::SourceGap {
                source_id: self.sources.id(source),
                from: range.from.to_wire(),
                to: range.to.to_wire(),
                reason: convert_groups::gap_reason(reason).into(),
                records,
                stopped: stops,
            }),
            Frame::Pause { pause, on } => {
                let name = |topic| self.session.topic_name(topic).map(|name| name.to_string());
                Told::Notice(v1::Notice { pause: Some(convert_views::pause(&pause, name)), paused: on })
            }
            Frame::ReplayDone { number, end, source } => Told::ReplayDone(v1::ReplayDone {
                replay_id: ReplayId { group: self.session.group_id(), number }.to_string(),
                source_id: source.map(|source| self.sources.id(source)),
                cancelled: end == ReplayEnd::Cancelled,
            }),
            Frame::Goodbye { reconnect_after_ms } => {
                Told::Goodbye(v1::Goodbye { reconnect_after_ms: u32::try_from(reconnect_after_ms).unwrap_or(u32::MAX) })
            }
            Frame::Ended(refusal) => {
                self.ended = Some(match refusal {
                    Refusal::Deleted => status::group_not_found(&self.group),
                    Refusal::InstanceReplaced { .. } => Problem::from(refusal).fact("group", &self.group),
                    refusal => refusal.into(),
                });
                return;
            }
            // Their records are read by the coordinator, and come as frames of their own.
            Frame::Swap(ask) => self.swap(*ask),
            Frame::Deliver(_) | Frame::DeliverRange { .. } => return,
        };
        self.outbox.push(told);
    }

    fn recall(&mut self, source: Source, epoch: u64, runs: Vec<OffsetRange>, entries: &[EntryKey]) -> Told {
        let group = self.session.group_id();
        let entry = |key: &EntryKey| v1::EntryRef { dlq_id: ids::dlq_id(group, key), version: None };
        let work = v1::Work {
            source_id: self.sources.id(source),
            assignment_epoch: epoch,
            offsets: runs.into_iter().map(runs_to_wire).collect(),
            entries: entries.iter().map(entry).collect(),
        };
        Told::Recall(v1::Recall { work: vec![work] })
    }

    /// The answer to a verb; `None` while parts of it are not answered.
    fn verb_answered(&mut self, frame: Frame) -> Option<Told> {
        match frame {
            Frame::AckResults { request, results, entries, source } => {
                let results = self.results(source, &results, &entries);
                let done = self.pending.answered(request, results)?;
                Some(Told::AckResult(v1::AckResult { sequence: done.sequence, results: done.results, failure: None }))
            }
            Frame::CommitResult { request, result, .. } => {
                let done = self.pending.answered(request, Vec::new())?;
                let failure = result.err().map(|refusal| self.failure(refusal));
                Some(Told::CommitResult(v1::CommitResult {
                    sequence: done.sequence,
                    source_id: done.source_id,
                    failure,
                }))
            }
            Frame::DeadLetterResult { request, result, lane_live } => {
                let done = self.pending.answered(request, Vec::new())?;
                let result = Some(self.dead_letter_result(result, lane_live));
                Some(Told::DeadLetterResult(v1::DeadLetterResult { sequence: done.sequence, result }))
            }
            Frame::Pong => {
                let nonce = self.pings.pop_front()?;
                Some(Told::Pong(v1::Pong { nonce }))
            }
            _ => None,
        }
    }

    fn failure(&self, refusal: Refusal) -> v1::Failure {
        let problem = match refusal {
            Refusal::WrongMode { verb } => status::wrong_mode(&self.group, self.mode, verb),
            refusal => refusal.into(),
        };
        problem.into_failure(self.context.metrics())
    }

    /// What the member is asked to do in its database.
    fn swap(&self, ask: SwapAsk) -> Told {
        let rebuild = RebuildId { group: self.session.group_id(), number: ask.number };
        Told::Swap(v1::Swap {
            swap_id: SwapId { rebuild, swap: ask.swap }.to_string(),
            version: ask.version.to_string(),
            replaces: ask.replaces.map(|version| version.to_string()),
            undo: ask.undo,
        })
    }

    /// The source with its number.
    fn named(&mut self, source: Source) -> v1::Source {
        v1::Source {
            source_id: self.sources.id(source),
            topic: self.session.topic_name(source.topic).map(|name| name.to_string()).unwrap_or_default(),
            topic_id: source.topic.to_string(),
            partition: source.partition.0,
        }
    }

    fn joined(
        &mut self,
        epoch: u64,
        resumed: bool,
        lost: &[(Source, OffsetRange, AckStatus)],
        lost_entries: &[(EntryKey, AckStatus)],
    ) -> Told {
        let config = self.session.config();
        let in_work = std::mem::take(&mut self.in_work);
        let sources = in_work.into_iter().map(|source| self.named(source)).collect();
        let mut results = Vec::new();
        for (source, range, status) in lost {
            results.extend(self.results(*source, &[(*range, *status)], &[]));
        }
        for (key, status) in lost_entries {
            results.extend(self.results(key.source, &[], &[(*key, *status)]));
        }
        let ms = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
        Told::Joined(v1::Joined {
            member_epoch: epoch,
            group_id: ids::group_id(self.session.group_id()),
            mode: convert_groups::mode_to_wire(self.mode).into(),
            ping_interval_ms: ms(PING_INTERVAL_MS.min(config.session_timeout_ms / 3)),
            session_timeout_ms: ms(config.session_timeout_ms),
            lease_ms: ms(config.lease_ms),
            max_processing_ms: config.max_processing_ms,
            drain_timeout_ms: ms(config.drain_timeout_ms),
            max_in_flight_per_key: config.max_in_flight_per_key,
            resumed,
            sources,
            in_work: results,
            rebuilding: self.session.is_rebuilding(),
        })
    }

    /// What is not OK, by outcome.
    fn results(
        &mut self,
        source: Source,
        ranges: &[(OffsetRange, AckStatus)],
        entries: &[(EntryKey, AckStatus)],
    ) -> Vec<v1::WorkResult> {
        let mut results: Vec<v1::WorkResult> = Vec::new();
        let (source_id, group) = (self.sources.id(source), self.session.group_id());
        let mut of = |status: AckStatus, put: &mut dyn FnMut(&mut v1::WorkResult)| {
            let Some(outcome) = outcome(status) else { return };
            let outcome = outcome.into();
            let at = results.iter().position(|result| result.outcome == outcome).unwrap_or_else(|| {
                results.push(v1::WorkResult { source_id, outcome, ..Default::default() });
                results.len() - 1
            });
            put(&mut results[at]);
        };
        for (range, status) in ranges {
            of(*status, &mut |result| result.offsets.push(runs_to_wire(*range)));
        }
        for (key, status) in entries {
            of(*status, &mut |result| result.dlq_ids.push(ids::dlq_id(group, key)));
        }
        results
    }

    fn dead_letter_result(&self, result: Result<EntryKey, Refusal>, lane_live: bool) -> v1::dead_letter_result::Result {
        use v1::dead_letter_result::Result as Wire;
        if lane_live {
            return Wire::Outcome(v1::WorkOutcome::LaneLive.into());
        }
        match result {
            Ok(key) => Wire::DlqId(ids::dlq_id(self.session.group_id(), &key)),
            Err(Refusal::Fenced { .. }) => Wire::Outcome(v1::WorkOutcome::Fenced.into()),
            Err(refusal) => Wire::Failure(self.failure(refusal)),
        }
    }
}

/// The outcome of what is not OK.
fn outcome(status: AckStatus) -> Option<v1::WorkOutcome> {
    match status {
        AckStatus::Ok => None,
        AckStatus::Fenced => Some(v1::WorkOutcome::Fenced),
        AckStatus::NotLeased => Some(v1::WorkOutcome::NotLeased),
        AckStatus::Recalled => Some(v1::WorkOutcome::Recalled),
        AckStatus::AlreadySettled => Some(v1::WorkOutcome::AlreadySettled),
        AckStatus::LaneLive => Some(v1::WorkOutcome::LaneLive),
    }
}

fn slots(unit: AssignedUnit) -> v1::Slots {
    v1::Slots { from: unit.slots.from, to: unit.slots.to }
}

/// A record with what few records have.
fn item<'a>(
    group: GroupId,
    record: &'a DeliveredRecord,
    in_order: bool,
    marks: &[Mark],
    replay: Option<ReplayMark>,
) -> Item<'a> {
    let delivery = &record.delivery;
    let mut extra = delivery.more.as_deref().map(|more| Box::new(extra_of(group, delivery.attempt, record, more)));
    if !marks.is_empty()
        && let Ok(at) = marks.binary_search_by_key(&delivery.offset, |mark| mark.offset)
    {
        let extra = extra.get_or_insert_default();
        match mark_of(group, &marks[at]) {
            v1::marked_offset::Why::Entry(entry) => extra.entry = Some(entry),
            v1::marked_offset::Why::BlockedBy(head) => extra.blocked_by = head,
            v1::marked_offset::Why::Filtered(_) => {}
        }
    }
    // Mode OFFSET counts deliveries of entries alone.
    let counted = !in_order || delivery.more.as_ref().is_some_and(|more| more.entry.is_some());
    let replay = replay.is_some_and(|mark| mark.covers(delivery));
    Item { record, attempt: if counted { delivery.attempt } else { 0 }, replay, extra }
}

/// The id of a replay; empty: none.
fn replay_id(group: GroupId, replay: Option<ReplayMark>) -> String {
    replay.map(|mark| ReplayId { group, number: mark.number }.to_string()).unwrap_or_default()
}

fn extra_of(group: GroupId, attempt: u32, record: &DeliveredRecord, more: &DeliveryMore) -> Extra {
    let entry = more.entry.as_ref().map(|entry| v1::EntryMark {
        dlq_id: ids::dlq_id(group, &entry.key),
        state: match entry.job {
            Some(_) => v1::EntryState::Redriving.into(),
            None => v1::EntryState::Spilled.into(),
        },
        kind: v1::EntryKind::Unspecified.into(),
        cycle: entry.cycle,
        version: entry.version,
        job_id: entry.job.map(|job| ids::job_id(group, job)).unwrap_or_default(),
    });
    debug_assert!(more.entry.as_ref().is_none_or(|entry| entry.key.offset == record.delivery.offset));
    Extra {
        first_delivery_ms: if attempt > 1 { more.first_delivery_ms } else { 0 },
        last_error_class: more.last_class.clone(),
        entry,
        gap_before: more.gap_before,
        blocked_by: String::new(),
    }
}

/// Why a record of a range is not simply handled.
fn mark_of(group: GroupId, mark: &Mark) -> v1::marked_offset::Why {
    let dlq_id = ids::dlq_id(group, &mark.entry);
    match mark.state {
        None => v1::marked_offset::Why::BlockedBy(dlq_id),
        Some(state) => {
            let version = match state {
                EntryState::Resolved { version } => version,
                _ => 0,
            };
            let state = convert_groups::entry_state(state, false).into();
            v1::marked_offset::Why::Entry(v1::EntryMark {
                dlq_id,
                state,
                version,
                cycle: mark.cycle,
                ..Default::default()
            })
        }
    }
}

/// Marks and what the filter leaves out, in order.
fn marked(group: GroupId, marks: &[Mark], filtered: &[Offset], edited: &[EditedRecord]) -> Vec<v1::MarkedOffset> {
    let marks = marks.iter().map(|mark| v1::MarkedOffset {
        offset: mark.offset.to_wire(),
        why: Some(mark_of(group, mark)),
        edited: edited.iter().find(|one| one.offset == mark.offset).map(record_of),
    });
    let filtered = filtered.iter().map(|offset| v1::MarkedOffset {
        offset: offset.to_wire(),
        why: Some(v1::marked_offset::Why::Filtered(v1::Unit {})),
        edited: None,
    });
    let mut all: Vec<_> = marks.chain(filtered).collect();
    all.sort_by_key(|mark| mark.offset);
    all
}

fn record_of(edited: &EditedRecord) -> v1::Record {
    let EditedRecord { timestamp_ms, payload, .. } = edited;
    let headers = payload.headers.iter().map(|header| v1::Header {
        key: String::from_utf8_lossy(&header.key).into_owned(),
        value: header.value.clone().unwrap_or_default(),
    });
    v1::Record {
        key: payload.key.clone(),
        value: payload.value.clone(),
        headers: headers.collect(),
        timestamp_ms: Some(*timestamp_ms),
    }
}
