//! Collects records into batches, one open batch a partition. Pure: no I/O, no task, time is an argument.
//!
//! Invariants:
//! - Records of one partition leave in the order in which they came, each in exactly one batch.
//! - `buffered` is the sum of the bytes of all batches from their first record to [`Accumulator::settled`]; no record
//!   is taken that would bring it above the bound, unless nothing else is buffered.
//! - A batch has at most 10,000 records and, unless a single record is larger, at most `batch_bytes`.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::batch::{BatchBuilder, Codec};
use sawlog_proto::partitioner;
use tokio::time::Instant;

use super::receipt::{Completion, Receipt};
use super::{Linger, RecordRef};
use crate::error::{Error, ErrorReason};
use crate::types::Topic;

/// Records of a batch, as the broker bounds them.
const BATCH_RECORDS: u32 = 10_000;
/// Bytes of a key.
const KEY_BYTES: usize = 1 << 10;
/// Headers of a record.
const HEADERS: usize = 64;
/// Bytes of all headers of a record.
const HEADERS_BYTES: usize = 64 << 10;
/// Charged for each record beyond its key, value and headers; its framing never takes more, but for headers.
const FRAMING_BYTES: usize = 32;
/// Charged for each header beyond its name and value.
const HEADER_FRAMING_BYTES: usize = 6;
/// The clock is read for every so many records that bring no time of their own.
const RECORDS_PER_TICK: u32 = 16;
/// Emptied builders kept for reuse.
const SPARES: usize = 64;

/// What the accumulator must know of a topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct TopicRules {
    pub(crate) partitions: u32,
    pub(crate) keyed: bool,
    pub(crate) max_record_bytes: usize,
}

impl TopicRules {
    pub(crate) fn of(topic: &Topic) -> Self {
        let max_record_bytes = topic.config.max_record_bytes.and_then(|bytes| usize::try_from(bytes).ok());
        Self {
            partitions: topic.partitions().max(1),
            keyed: topic.keyed(),
            max_record_bytes: max_record_bytes.unwrap_or(1 << 20),
        }
    }
}

/// Sizes and times of batching.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Batching {
    pub(crate) linger: Linger,
    pub(crate) batch_bytes: usize,
    pub(crate) buffer_bytes: usize,
    pub(crate) codec: Codec,
}

/// Monotonic and wall time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Now {
    pub(crate) instant: Instant,
    pub(crate) wall_ms: i64,
}

/// A batch that is to be sent.
#[derive(Debug)]
pub(crate) struct Filled {
    pub(crate) id: u64,
    pub(crate) partition: u32,
    pub(crate) builder: BatchBuilder,
    pub(crate) completion: Arc<Completion>,
    pub(crate) bytes: usize,
    pub(crate) opened_at: Instant,
}

/// Room of a partition further on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Room {
    /// Batches that may still be handed on.
    pub(crate) batches: usize,
    /// Nothing of the partition is under way.
    pub(crate) idle: bool,
}

/// What a record did to the batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It joined a batch.
    Joined,
    /// It opened a batch.
    Opened,
    /// It found its batch full, and opened the next.
    Filled,
}

/// Why a record was not taken.
#[derive(Debug)]
pub(crate) enum PushError {
    Full,
    Refused(Error),
}

#[derive(Debug, Default)]
struct Lane {
    open: Option<Filled>,
    full: VecDeque<Filled>,
    listed: bool,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Accumulator {
    rules: TopicRules,
    batching: Batching,
    /// By partition.
    lanes: Vec<Lane>,
    /// Partitions with anything in their lanes, each once.
    listed: Vec<u32>,
    buffered: usize,
    next_batch: u64,
    outstanding: BTreeSet<u64>,
    /// Partition of records that have none, until its batch is full.
    sticky: u32,
    /// Someone waits for room: everything is due.
    pressed: bool,
    /// Bytes of the record that last found no room.
    wanted: usize,
    /// Batches before this one are due.
    flush_before: u64,
    closed: Option<Error>,
    failed: Option<Error>,
    spare: Vec<BatchBuilder>,
    ticker: Ticker,
}

/// Wall time, read now and then: for a new batch, and for every few records of one.
#[derive(Debug, Default)]
struct Ticker {
    wall_ms: i64,
    left: u32,
}

impl Ticker {
    fn read(&mut self, fresh: bool, now: &impl Fn() -> Now) -> i64 {
        if fresh || self.left == 0 {
            self.left = RECORDS_PER_TICK;
            self.wall_ms = now().wall_ms;
        }
        self.left -= 1;
        self.wall_ms
    }
}

impl Accumulator {
    pub(crate) fn new(rules: TopicRules, batching: Batching, sticky: u32) -> Self {
        Self {
            rules,
            batching,
            lanes: (0..rules.partitions).map(|_| Lane::default()).collect(),
            listed: Vec::new(),
            buffered: 0,
            next_batch: 0,
            outstanding: BTreeSet::new(),
            sticky: sticky % rules.partitions,
            pressed: false,
            wanted: 0,
            flush_before: 0,
            closed: None,
            failed: None,
            spare: Vec::new(),
            ticker: Ticker::default(),
        }
    }

    /// Takes a record. Unless it just joined a batch, whoever sends must look.
    pub(crate) fn push(&mut self, record: RecordRef<'_>, now: impl Fn() -> Now) -> Result<(Receipt, Step), PushError> {
        if let Some(error) = &self.closed {
            return Err(PushError::Refused(error.clone()));
        }
        let bytes = self.check(record).map_err(PushError::Refused)?;
        if self.buffered > 0 && self.buffered + bytes > self.batching.buffer_bytes {
            self.pressed = true;
            self.wanted = bytes;
            return Err(PushError::Full);
        }
        let partition = self.partition_of(record).map_err(PushError::Refused)?;
        let lane = &mut self.lanes[partition as usize];
        let mut step = Step::Joined;
        let over = |open: &Filled| {
            open.builder.record_count() >= BATCH_RECORDS || open.builder.len_bytes() + bytes > self.batching.batch_bytes
        };
        if let Some(full) = lane.open.take_if(|open| over(open)) {
            lane.full.push_back(full);
            step = Step::Filled;
            if partition == self.sticky {
                self.sticky = (partition + 1) % self.rules.partitions;
            }
        }
        if lane.open.is_none() {
            if step == Step::Joined {
                step = Step::Opened;
            }
            if !lane.listed {
                lane.listed = true;
                self.listed.push(partition);
            }
            self.outstanding.insert(self.next_batch);
        }
        let open = lane.open.get_or_insert_with(|| {
            self.next_batch += 1;
            Filled {
                id: self.next_batch - 1,
                partition,
                builder: self.spare.pop().unwrap_or_else(|| BatchBuilder::new(self.batching.codec)),
                completion: Arc::new(Completion::default()),
                bytes: 0,
                opened_at: now().instant,
            }
        });
        let index = open.builder.record_count();
        let timestamp_ms = record.timestamp_ms.unwrap_or_else(|| self.ticker.read(step != Step::Joined, &now));
        let headers = record.headers.iter().map(|header| (header.key.as_str(), &header.value[..]));
        open.builder.push(timestamp_ms, record.key, record.value, headers);
        open.bytes += bytes;
        self.buffered += bytes;
        Ok((Receipt::new(Arc::clone(&open.completion), index), step))
    }

    /// Moves what is due and has room further on to `out`; returns when the next open batch is due.
    pub(crate) fn take_due(
        &mut self,
        now: Instant,
        room: impl Fn(u32) -> Room,
        out: &mut Vec<Filled>,
    ) -> Option<Instant> {
        let mut next_due: Option<Instant> = None;
        let (pressed, flush_before, linger) = (self.pressed, self.flush_before, self.batching.linger);
        self.pressed = false;
        let lanes = &mut self.lanes;
        let (sticky, partitions) = (&mut self.sticky, self.rules.partitions);
        self.listed.retain(|partition| {
            let lane = &mut lanes[*partition as usize];
            let Room { batches: mut left, mut idle } = room(*partition);
            while left > 0
                && let Some(full) = lane.full.pop_front()
            {
                out.push(full);
                left -= 1;
                idle = false;
            }
            if left > 0
                && let Some(open) = &lane.open
            {
                let due_at = open.opened_at + linger.wait(idle);
                if pressed || open.id < flush_before || due_at <= now {
                    out.extend(lane.open.take());
                    if *partition == *sticky {
                        *sticky = (*partition + 1) % partitions;
                    }
                } else {
                    next_due = Some(next_due.map_or(due_at, |earliest| earliest.min(due_at)));
                }
            }
            lane.listed = lane.open.is_some() || !lane.full.is_empty();
            lane.listed
        });
        next_due
    }

    /// A batch was answered or given up: its bytes are free again.
    pub(crate) fn settled(&mut self, id: u64, bytes: usize, error: Option<&Error>) {
        if self.outstanding.remove(&id) {
            self.buffered -= bytes;
        }
        if let Some(error) = error {
            self.failed.get_or_insert_with(|| error.clone());
        }
    }

    /// Takes back an emptied builder.
    pub(crate) fn recycle(&mut self, builder: BatchBuilder) {
        if self.spare.len() < SPARES {
            self.spare.push(builder);
        }
    }

    /// Makes all that is buffered due; returns a mark for [`Accumulator::flushed`].
    pub(crate) fn flush(&mut self) -> u64 {
        self.flush_before = self.next_batch;
        self.flush_before
    }

    /// Whether every batch before the mark is settled.
    pub(crate) fn flushed(&self, mark: u64) -> bool {
        self.outstanding.first().is_none_or(|first| *first >= mark)
    }

    /// The first failure since the last call.
    pub(crate) fn take_failure(&mut self) -> Option<Error> {
        self.failed.take()
    }

    /// Takes no more records, for this reason; the first one stays. What is buffered is due.
    pub(crate) fn close(&mut self, error: Error) {
        self.closed.get_or_insert(error);
        self.flush_before = self.next_batch;
    }

    /// Whether nothing waits to be handed on.
    pub(crate) fn is_empty(&self) -> bool {
        self.listed.is_empty()
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.closed.is_some()
    }

    /// Whether the record that last found no room would be taken now.
    pub(crate) fn has_room(&self) -> bool {
        self.closed.is_some() || self.buffered == 0 || self.buffered + self.wanted <= self.batching.buffer_bytes
    }

    /// Takes out everything that was not handed on yet.
    pub(crate) fn drain(&mut self) -> Vec<Filled> {
        self.listed.clear();
        let lanes = self.lanes.iter_mut().map(std::mem::take);
        lanes.flat_map(|lane| lane.full.into_iter().chain(lane.open)).collect()
    }

    /// Checks what the broker would refuse, before it can spoil a batch; returns the bytes charged.
    fn check(&self, record: RecordRef<'_>) -> Result<usize, Error> {
        let key = record.key.map_or(0, <[u8]>::len);
        let headers: usize = record.headers.iter().map(|header| header.key.len() + header.value.len()).sum();
        let size = key + record.value.map_or(0, <[u8]>::len) + headers;
        let refuse = |reason, found: usize, max: usize, what: &str| {
            Err(Error::refused(reason, format!("{what}: {found}, at most {max}"))
                .with_fact("found", found.to_string())
                .with_fact("max", max.to_string()))
        };
        if key > KEY_BYTES {
            return refuse(ErrorReason::KeyTooLarge, key, KEY_BYTES, "bytes of the key");
        }
        if record.headers.len() > HEADERS {
            return refuse(ErrorReason::HeadersTooLarge, record.headers.len(), HEADERS, "number of headers");
        }
        if headers > HEADERS_BYTES {
            return refuse(ErrorReason::HeadersTooLarge, headers, HEADERS_BYTES, "bytes of the headers");
        }
        if size > self.rules.max_record_bytes {
            return refuse(ErrorReason::RecordTooLarge, size, self.rules.max_record_bytes, "bytes of the record");
        }
        Ok(size + FRAMING_BYTES + record.headers.len() * HEADER_FRAMING_BYTES)
    }

    /// The partition by rule PR-1.
    fn partition_of(&self, record: RecordRef<'_>) -> Result<u32, Error> {
        let partitions = self.rules.partitions;
        // On a keyed topic a partition asked for is only checked, below.
        if !self.rules.keyed
            && let Some(partition) = record.partition
        {
            if partition < partitions {
                return Ok(partition);
            }
            let message = format!("the topic has {partitions} partitions, not {partition}");
            return Err(Error::refused(ErrorReason::PartitionNotFound, message)
                .with_fact("partition", partition.to_string())
                .with_fact("partitions", partitions.to_string()));
        }
        match record.key {
            Some(key) => {
                let partition = partitioner::partition_of(key, partitions);
                match record.partition {
                    Some(asked) if asked != partition => {
                        let message = format!("the key belongs to partition {partition}, not {asked}");
                        Err(Error::refused(ErrorReason::WrongPartition, message)
                            .with_fact("asked", asked.to_string())
                            .with_fact("partition", partition.to_string()))
                    }
                    _ => Ok(partition),
                }
            }
            None if self.rules.keyed => {
                Err(Error::refused(ErrorReason::KeyRequired, "each record of this topic needs a key"))
            }
            None => Ok(self.sticky),
        }
    }
}

impl Linger {
    fn wait(self, idle: bool) -> Duration {
        match self {
            Self::WhileBusy(_) if idle => Duration::ZERO,
            Self::WhileBusy(wait) | Self::Always(wait) => wait,
        }
    }
}

#[cfg(test)]
mod tests;
