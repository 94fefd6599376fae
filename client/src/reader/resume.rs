//! Where a read stands, and how it goes on after a cut. Pure: frames go in, events and the next request come out.
//!
//! Invariants:
//! - `next` of a partition only rises; nothing below it is handed out again, and nothing is left out without a
//!   [`ReadEvent::Gap`] (unless a filter takes it out).
//! - The epoch that goes with `next` is that of the record before it, so that the broker refuses to go on in a log that
//!   was cut there.
//! - Ends are fixed when the read begins: a resumed read ends where the first would have.

use sawlog_proto::batch::{self, BatchLimits};
use sawlog_proto::v1;

use super::batch::ReadBatch;
use super::{BatchEvent, GapReason, ReadEvent, ReadRecord, ReaderFrom, ReaderTo, Settings, Start};
use crate::error::{Error, ErrorKind, ErrorReason};
use crate::types::{Header, PartitionOffset, TopicId, signed, unsigned};

/// What a stored batch may be: a dead letter is larger than a batch that was sent, by the headers that it has got.
const STORED: BatchLimits =
    BatchLimits { batch_bytes: BatchLimits::DEFAULT.batch_bytes + (128 << 10), ..BatchLimits::DEFAULT };

/// One partition of a read.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lane {
    partition: u32,
    next: u64,
    /// Of the record before `next`.
    epoch: Option<u32>,
    /// Where it ends.
    end: Option<u64>,
    done: bool,
    live: bool,
    /// Something of it was read: what is missing from now on is a gap.
    begun: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Progress {
    topic_id: TopicId,
    settings: Settings,
    lanes: Vec<Lane>,
    /// Records left of a read that ends by count.
    left: Option<u64>,
}

impl Progress {
    /// A read of these starts; `ends` are the high watermarks, if the read ends there. Partitions at their end already
    /// say so at once.
    pub(crate) fn new(
        settings: Settings,
        topic_id: TopicId,
        starts: &[Start],
        ends: Option<&[PartitionOffset]>,
        events: &mut Vec<BatchEvent>,
    ) -> Self {
        let bound = |partition| match settings.to {
            Some(ReaderTo::Offset(end)) => Some(end),
            Some(ReaderTo::TimestampMs(_) | ReaderTo::Count(_)) => None,
            Some(ReaderTo::HighWatermark) | None => {
                ends.and_then(|ends| ends.iter().find(|end| end.partition == partition)).map(|end| end.offset)
            }
        };
        let lanes = starts.iter().map(|start| Lane {
            partition: start.partition,
            next: start.offset,
            epoch: start.epoch,
            end: bound(start.partition),
            done: false,
            live: false,
            begun: false,
        });
        let left = match settings.to {
            Some(ReaderTo::Count(count)) => Some(count),
            _ => None,
        };
        let mut progress = Self { topic_id, lanes: lanes.collect(), left, settings };
        for at in 0..progress.lanes.len() {
            let lane = &progress.lanes[at];
            // Only a start exactly there is an end; one beyond is for the broker to refuse, as is a position of a part
            // that was cut: with an epoch the broker is always asked.
            let there = lane.end == Some(lane.next) || progress.settings.to.is_some_and(offset_bound);
            if there && lane.epoch.is_none() {
                progress.end_if_reached(at, events);
            }
        }
        progress
    }

    pub(crate) fn topic_id(&self) -> &TopicId {
        &self.topic_id
    }

    pub(crate) fn follows(&self) -> bool {
        self.settings.follow
    }

    pub(crate) fn skips_damaged(&self) -> bool {
        self.settings.skip_damaged
    }

    /// Nothing more will come.
    pub(crate) fn is_finished(&self) -> bool {
        self.left == Some(0) || self.lanes.iter().all(|lane| lane.done)
    }

    /// Where each partition stands: what comes next, with the epoch of the record before it.
    pub(crate) fn positions(&self) -> Vec<Start> {
        let start = |lane: &Lane| Start { partition: lane.partition, offset: lane.next, epoch: lane.epoch };
        self.lanes.iter().map(start).collect()
    }

    /// The request that begins the read, or goes on with it.
    pub(crate) fn request(&self) -> v1::ReadRequest {
        use v1::read_end::At as EndAt;
        let lanes = self.lanes.iter().filter(|lane| !lane.done);
        let starts = lanes.map(|lane| v1::PartitionStart {
            partition: lane.partition,
            offset: signed(lane.next),
            epoch: lane.epoch,
        });
        let starts = v1::PartitionStarts { starts: starts.collect() };
        let end = match self.settings.to {
            None if self.settings.follow => None,
            None | Some(ReaderTo::HighWatermark) => Some(EndAt::HighWatermark(v1::Unit {})),
            Some(ReaderTo::Offset(offset)) => Some(EndAt::Offset(signed(offset))),
            Some(ReaderTo::TimestampMs(time)) => Some(EndAt::TimestampMs(time)),
            Some(ReaderTo::Count(_)) => Some(EndAt::Count(signed(self.left.unwrap_or(0)))),
        };
        let form = match self.settings.filter {
            Some(_) => v1::ReadForm::Records,
            None => v1::ReadForm::Batches,
        };
        v1::ReadRequest {
            topic: self.settings.topic.clone(),
            partitions: Vec::new(),
            start: Some(v1::ReadStart { at: Some(v1::read_start::At::Partitions(starts)) }),
            end: end.map(|at| v1::ReadEnd { at: Some(at) }),
            follow: self.settings.follow,
            filter: self.settings.filter.clone(),
            form: form.into(),
            max_records_per_second: self.settings.max_records_per_second,
            max_bytes_per_second: self.settings.max_bytes_per_second,
            skip_damaged: self.settings.skip_damaged,
            topic_id: self.topic_id.as_str().to_owned(),
        }
    }

    /// Takes a frame and adds what it means to `events`.
    ///
    /// # Errors
    /// What cannot be gone on from: a bad batch, a hole, a frame that the protocol does not allow.
    pub(crate) fn frame(&mut self, frame: v1::ReadResponse, events: &mut Vec<BatchEvent>) -> Result<(), Error> {
        use v1::read_response::Frame;
        match frame.frame {
            Some(Frame::Batches(frame)) => {
                let at = self.lane(frame.partition)?;
                frame.batches.into_iter().try_for_each(|stored| self.batch(at, stored, events))
            }
            Some(Frame::Records(frame)) => {
                let at = self.lane(frame.partition)?;
                for record in frame.records {
                    self.record(at, record, events);
                }
                Ok(())
            }
            Some(Frame::CaughtUp(caught_up)) => {
                let at = self.lane(caught_up.partition)?;
                let offset = unsigned(caught_up.offset);
                self.passed(at, offset);
                let lane = &mut self.lanes[at];
                if !lane.done && !std::mem::replace(&mut lane.live, true) {
                    events.push(BatchEvent::Event(ReadEvent::CaughtUp { partition: lane.partition, offset }));
                }
                Ok(())
            }
            Some(Frame::FellBehind(fell_behind)) => {
                let at = self.lane(fell_behind.partition)?;
                let (lane, offset) = (&mut self.lanes[at], unsigned(fell_behind.offset));
                if !lane.done && std::mem::replace(&mut lane.live, false) {
                    events.push(BatchEvent::Event(ReadEvent::FellBehind { partition: lane.partition, offset }));
                }
                Ok(())
            }
            Some(Frame::Gap(gap)) => {
                let at = self.lane(gap.partition)?;
                self.gap(at, unsigned(gap.to), GapReason::from_wire(gap.reason()), events);
                Ok(())
            }
            Some(Frame::PartitionEnd(end)) => {
                let at = self.lane(end.partition)?;
                self.passed(at, unsigned(end.offset));
                self.end(at, events);
                Ok(())
            }
            // A frame of a later version tells nothing that this client had asked for.
            None => Ok(()),
        }
    }

    /// The broker says that a start is not in the log any more. What retention or a trim removed after the read had
    /// begun is a gap like any other; true if the read can go on behind it.
    pub(crate) fn out_of_range(&mut self, error: &Error, events: &mut Vec<BatchEvent>) -> bool {
        if error.reason() != Some(ErrorReason::OffsetOutOfRange) {
            return false;
        }
        let (Some(partition), Some(earliest)) =
            (error.fact_number::<u32>("partition"), error.fact_number::<u64>("earliest"))
        else {
            return false;
        };
        let Some(at) = self.lanes.iter().position(|lane| lane.partition == partition && !lane.done) else {
            return false;
        };
        let lane = &mut self.lanes[at];
        if lane.next >= earliest {
            return false;
        }
        if lane.begun {
            // The record before the new start is gone, and its epoch with it.
            self.gap(at, earliest, GapReason::Retention, events);
            return true;
        }
        // A start that was looked up has risen since; it was to be what the log still has. One that the caller named
        // is refused.
        let looked_up = !matches!(self.settings.from, ReaderFrom::Offset(_) | ReaderFrom::Starts(_));
        if looked_up {
            lane.next = earliest;
            self.end_if_reached(at, events);
        }
        looked_up
    }

    fn lane(&self, partition: u32) -> Result<usize, Error> {
        let at = self.lanes.iter().position(|lane| lane.partition == partition);
        at.ok_or_else(|| Error::protocol(format!("a frame of partition {partition}, which is not read")))
    }

    fn batch(&mut self, at: usize, stored: v1::StoredBatch, events: &mut Vec<BatchEvent>) -> Result<(), Error> {
        let lane = &mut self.lanes[at];
        let info = stored.info.ok_or_else(|| Error::protocol("a batch without its description"))?;
        let base = unsigned(info.base_offset);
        if lane.done {
            return Ok(());
        }
        if let Some(ReaderTo::TimestampMs(time)) = self.settings.to
            && info.append_time_ms >= time
        {
            self.end(at, events);
            return Ok(());
        }
        let checked = batch::check(&stored.batch, &STORED, false);
        let header = checked.map_err(|flaw| bad_batch(lane.partition, base, &flaw.to_string()))?;
        if header.record_count != info.record_count || header.base_offset != info.base_offset {
            return Err(bad_batch(lane.partition, base, "its description is of another batch"));
        }
        let after = base + u64::from(info.record_count);
        if after <= lane.next {
            return Ok(());
        }
        if base > lane.next {
            return Err(hole(lane.partition, lane.next, base));
        }
        let first = lane.next - base;
        let mut last = after.min(lane.end.unwrap_or(u64::MAX)) - base;
        if let Some(left) = &mut self.left {
            last = last.min(first.saturating_add(*left));
            *left -= last - first;
        }
        (lane.next, lane.epoch, lane.begun) = (base + last, Some(info.epoch), true);
        if first < last {
            events.push(BatchEvent::Batch(ReadBatch {
                partition: lane.partition,
                epoch: info.epoch,
                append_time_ms: info.append_time_ms,
                base_offset: base,
                // Both are at most the batch's record count, a u32.
                first: first as u32,
                last: last as u32,
                batch: stored.batch,
            }));
        }
        self.end_if_reached(at, events);
        Ok(())
    }

    fn record(&mut self, at: usize, record: v1::PositionedRecord, events: &mut Vec<BatchEvent>) {
        let lane = &mut self.lanes[at];
        let offset = unsigned(record.offset);
        if lane.done || offset < lane.next || self.left == Some(0) {
            return;
        }
        if lane.end.is_none_or(|end| offset < end) {
            (lane.next, lane.epoch, lane.begun) = (offset + 1, Some(record.epoch), true);
            if let Some(left) = &mut self.left {
                *left -= 1;
            }
            let partition = lane.partition;
            events.push(BatchEvent::Event(ReadEvent::Record(plain(partition, record))));
            self.end_if_reached(at, events);
        } else {
            self.passed(at, offset);
            self.end(at, events);
        }
    }

    /// Everything before `offset` was looked at; what did not come was filtered out.
    fn passed(&mut self, at: usize, offset: u64) {
        let (lane, filtered) = (&mut self.lanes[at], self.settings.filter.is_some());
        lane.begun = true;
        if filtered && offset > lane.next {
            lane.next = offset.min(lane.end.unwrap_or(u64::MAX));
            // The epoch of the record before it was not told.
            lane.epoch = None;
        }
    }

    fn gap(&mut self, at: usize, to: u64, reason: GapReason, events: &mut Vec<BatchEvent>) {
        let lane = &mut self.lanes[at];
        if lane.done || to <= lane.next {
            return;
        }
        let (partition, from) = (lane.partition, lane.next);
        (lane.next, lane.epoch, lane.begun) = (to, None, true);
        events.push(BatchEvent::Event(ReadEvent::Gap { partition, from, to, reason }));
        self.end_if_reached(at, events);
    }

    fn end_if_reached(&mut self, at: usize, events: &mut Vec<BatchEvent>) {
        let lane = &self.lanes[at];
        if lane.end.is_some_and(|end| lane.next >= end) {
            self.end(at, events);
        }
    }

    fn end(&mut self, at: usize, events: &mut Vec<BatchEvent>) {
        let lane = &mut self.lanes[at];
        if !std::mem::replace(&mut lane.done, true) {
            let (partition, offset) = (lane.partition, lane.next);
            events.push(BatchEvent::Event(ReadEvent::PartitionEnd { partition, offset }));
        }
    }
}

/// Where the read begins, as far as that takes a look at the log: what to ask for, and what becomes of the answer.
pub(crate) fn starts_at(from: &ReaderFrom, offsets: &[PartitionOffset], earliest: &[PartitionOffset]) -> Vec<Start> {
    let at = |offset: &PartitionOffset| offset.offset;
    let first_kept = |partition| earliest.iter().find(|offset| offset.partition == partition).map_or(0, at);
    let start = |found: &PartitionOffset| {
        let offset = match from {
            ReaderFrom::Offset(offset) => *offset,
            ReaderFrom::Last(records) => found.offset.saturating_sub(*records).max(first_kept(found.partition)),
            _ => found.offset,
        };
        Start { partition: found.partition, offset, epoch: None }
    };
    match from {
        ReaderFrom::Starts(starts) => starts.clone(),
        _ => offsets.iter().map(start).collect(),
    }
}

fn offset_bound(to: ReaderTo) -> bool {
    matches!(to, ReaderTo::Offset(_))
}

fn plain(partition: u32, wire: v1::PositionedRecord) -> ReadRecord {
    let record = wire.record.unwrap_or_default();
    let headers = record.headers.into_iter().map(|header| Header { key: header.key, value: header.value });
    ReadRecord {
        partition,
        offset: unsigned(wire.offset),
        epoch: wire.epoch,
        append_time_ms: wire.append_time_ms,
        timestamp_ms: record.timestamp_ms.unwrap_or(wire.append_time_ms),
        key: record.key,
        value: record.value,
        headers: headers.collect(),
    }
}

/// A stored batch whose checksum and description are right, cut to `from..to`; `None` if nothing of it lies there.
///
/// # Errors
/// [`ErrorKind::DataLoss`] if it is not what it says.
pub(crate) fn checked_batch(
    partition: u32,
    stored: v1::StoredBatch,
    from: u64,
    to: u64,
) -> Result<Option<ReadBatch>, Error> {
    let info = stored.info.ok_or_else(|| Error::protocol("a batch without its description"))?;
    let base = unsigned(info.base_offset);
    let checked = batch::check(&stored.batch, &STORED, false);
    let header = checked.map_err(|flaw| bad_batch(partition, base, &flaw.to_string()))?;
    if header.record_count != info.record_count || header.base_offset != info.base_offset {
        return Err(bad_batch(partition, base, "its description is of another batch"));
    }
    let after = base + u64::from(info.record_count);
    let (first, last) = (from.max(base).min(after), to.min(after).max(base));
    if first >= last {
        return Ok(None);
    }
    // Both lie within the batch, whose count has 32 bits.
    let index = |offset: u64| u32::try_from(offset - base).unwrap_or(info.record_count);
    Ok(Some(ReadBatch {
        partition,
        epoch: info.epoch,
        append_time_ms: info.append_time_ms,
        base_offset: base,
        first: index(first),
        last: index(last),
        batch: stored.batch,
    }))
}

fn bad_batch(partition: u32, base_offset: u64, what: &str) -> Error {
    Error::new(ErrorKind::DataLoss, format!("the batch at offset {base_offset} of partition {partition}: {what}"))
        .with_fact("partition", partition.to_string())
        .with_fact("offset", base_offset.to_string())
}

fn hole(partition: u32, expected: u64, found: u64) -> Error {
    let message = format!("offsets {expected} to {found} of partition {partition} did not come and no gap was told");
    Error::new(ErrorKind::DataLoss, message)
        .with_fact("partition", partition.to_string())
        .with_fact("expected", expected.to_string())
        .with_fact("found", found.to_string())
}

#[cfg(test)]
mod tests;
