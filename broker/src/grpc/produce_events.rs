//! Envelopes and event ids in produce requests (rules SC-1, PR-8): what the policy `fill` adds to plain records, and the
//! answer for records that were not appended because their event is known.

use sawlog_proto::envelope;
use sawlog_proto::v1::{self, ErrorReason, repeated_record::First};

use super::status::{self, Outcome, Problem};
use super::{convert, convert_events};
use crate::metrics::Metrics;
use crate::model::AckLevel;
use crate::partition::events::{EventPlace, Found, event_id_at};
use crate::topics::EventAck;

/// Adds what is missing of event_id, occurred_at and producer. A record without a time of its own has that of its append,
/// which is now but for moments.
pub(super) fn fill(records: &mut [v1::ProduceRecord], producer: Option<&str>, now_ms: i64) {
    for record in records.iter_mut().filter_map(|record| record.record.as_mut()) {
        let lacks = |name: &str| record.headers.iter().all(|header| header.key != name);
        let mut missing = Vec::new();
        if lacks(envelope::EVENT_ID) {
            missing.push((envelope::EVENT_ID, uuid::Uuid::now_v7().to_string()));
        }
        if lacks(envelope::OCCURRED_AT) {
            let time = record.timestamp_ms.unwrap_or(now_ms);
            missing.push((envelope::OCCURRED_AT, envelope::time_text(time)));
        }
        if let Some(producer) = producer.filter(|_| lacks(envelope::PRODUCER)) {
            missing.push((envelope::PRODUCER, producer.to_owned()));
        }
        let header = |(name, value): (&str, String)| v1::Header { key: name.to_owned(), value: value.into() };
        record.headers.extend(missing.into_iter().map(header));
    }
}

/// A batch of records with event ids, when its answer is made.
pub(super) struct Answered<'a> {
    pub(super) topic: &'a str,
    pub(super) partition: u32,
    pub(super) record_count: u32,
    pub(super) level: AckLevel,
    pub(super) bytes: &'a bytes::Bytes,
    /// Of plain records: the index in the request of each record of the batch.
    pub(super) in_request: Option<Vec<u32>>,
}

impl Answered<'_> {
    fn index(&self, in_batch: u32) -> u32 {
        self.in_request.as_ref().map_or(in_batch, |indexes| indexes[in_batch as usize])
    }

    /// The result of the part.
    pub(super) fn result(&self, ack: &EventAck, metrics: &Metrics) -> v1::PartResult {
        let mut result = v1::PartResult {
            partition: self.partition,
            ack: convert::ack_to_wire(self.level).into(),
            ..v1::PartResult::default()
        };
        if let Some(written) = &ack.written {
            result.base_offset = written.base_offset.to_wire();
            result.record_count = written.record_count;
            result.epoch = written.epoch.get();
            result.append_time_ms = written.append_time_ms;
            result.ack = convert::ack_to_wire(written.level).into();
            result.duplicate = written.duplicate;
        }
        let mut cause = None;
        for (in_batch, found) in &ack.found {
            let index = self.index(*in_batch);
            let repeat = |first| v1::RepeatedRecord { index, first: Some(first) };
            let problem = match found {
                Found::Repeat(_) if ack.failed.contains(in_batch) => Some(self.first_failed(index)),
                Found::Repeat(place) => {
                    result.repeats.push(repeat(First::Position(convert_events::place_to_wire(place))));
                    None
                }
                Found::SameAs(first) => {
                    result.repeats.push(repeat(First::SameAs(self.index(*first))));
                    None
                }
                Found::Conflict(place) => Some(self.conflict(*in_batch, Some(place), None)),
                Found::ConflictInBatch(first) => Some(self.conflict(*in_batch, None, Some(self.index(*first)))),
            };
            if let Some(problem) = problem {
                cause.get_or_insert_with(|| (problem.message().to_owned(), index));
                let failure = Some(problem.into_failure(metrics));
                result.record_failures.push(v1::RecordFailure { index, failure });
            }
        }
        if ack.written.is_none() {
            self.finish_unwritten(&mut result, cause, metrics);
        }
        result
    }

    /// Nothing of the batch was written by this request.
    fn finish_unwritten(&self, result: &mut v1::PartResult, cause: Option<(String, u32)>, metrics: &Metrics) {
        let all_repeats = result.repeats.len() == self.record_count as usize;
        if all_repeats {
            result.duplicate = true;
            if let Some(First::Position(place)) = result.repeats.first().and_then(|repeat| repeat.first) {
                result.base_offset = place.offset;
                result.epoch = place.epoch;
                result.append_time_ms = place.append_time_ms;
            }
            return;
        }
        let (cause, index) = cause.unwrap_or_else(|| {
            let first = result.repeats.first().map_or(0, |repeat| repeat.index);
            ("a repeat in the batch, which is stored whole or not".to_owned(), first)
        });
        let message = format!("not written: {cause}");
        let problem = Problem::new(ErrorReason::NotWritten, message).fact("cause", cause).fact("index", index);
        let problem = problem.fact("topic", self.topic).outcome(Outcome::NotWritten);
        result.record_count = self.record_count;
        result.failure = Some(problem.into_failure(metrics));
    }

    fn first_failed(&self, index: u32) -> Problem {
        let cause = "the append of the first record with this event id failed";
        Problem::new(ErrorReason::NotWritten, format!("not written: {cause}; send it again"))
            .fact("cause", cause)
            .fact("topic", self.topic)
            .fact("index", index)
            .outcome(Outcome::NotWritten)
    }

    fn conflict(&self, in_batch: u32, first: Option<&EventPlace>, same_as: Option<u32>) -> Problem {
        let id = status::escaped(&event_id_at(self.bytes, in_batch).unwrap_or_default());
        let what = format!("another record with event id {id} has another key or payload");
        let problem = Problem::new(ErrorReason::EventIdConflict, what).fact("event_id", id).fact("topic", self.topic);
        let problem = problem.fact("index", self.index(in_batch)).outcome(Outcome::NotWritten);
        match (first, same_as) {
            (Some(place), _) => problem
                .fact("partition", place.partition)
                .fact("epoch", place.epoch)
                .fact("offset", place.offset)
                .fact("append_time_ms", place.append_time_ms),
            (None, Some(index)) => problem.fact("first_index", index),
            (None, None) => problem,
        }
    }
}

/// Where each plain record went, in the order of the request. `places`: for each its part, and its place in the part.
pub(super) fn records(parts: &[v1::PartResult], places: &[(u32, u32)]) -> Vec<v1::RecordResult> {
    if parts.iter().all(|part| part.repeats.is_empty() && part.record_failures.is_empty()) {
        let record = |(part, index): &(u32, u32)| {
            let part = &parts[*part as usize];
            let offset = part.failure.is_none().then(|| part.base_offset + i64::from(*index));
            v1::RecordResult { partition: part.partition, offset, duplicate: part.duplicate && offset.is_some() }
        };
        return places.iter().map(record).collect();
    }
    let mut next: Vec<i64> = parts.iter().map(|part| part.base_offset).collect();
    let mut results: Vec<v1::RecordResult> = Vec::with_capacity(places.len());
    for (index, (part_index, _)) in (0..).zip(places) {
        let part = &parts[*part_index as usize];
        // Both lists are in the order of the records.
        let repeat = part.repeats.binary_search_by_key(&index, |repeat| repeat.index);
        let failed = part.record_failures.iter().any(|failure| failure.index == index);
        let result = match repeat.ok().and_then(|at| part.repeats[at].first) {
            Some(First::Position(place)) => {
                v1::RecordResult { partition: place.partition, offset: Some(place.offset), duplicate: true }
            }
            Some(First::SameAs(first)) => {
                let first = results[first as usize];
                v1::RecordResult { duplicate: first.offset.is_some(), ..first }
            }
            None if failed || part.failure.is_some() => {
                v1::RecordResult { partition: part.partition, offset: None, duplicate: false }
            }
            None => {
                let offset = next[*part_index as usize];
                next[*part_index as usize] += 1;
                v1::RecordResult { partition: part.partition, offset: Some(offset), duplicate: part.duplicate }
            }
        };
        results.push(result);
    }
    results
}
