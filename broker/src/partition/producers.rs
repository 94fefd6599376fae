//! Idempotent producers of one partition (rules PR-7, PR-12, D5): which batch continues, repeats or misses another.
//!
//! Decided where offsets are assigned, by the leader. For each producer the last 64 batches, and apart from them the
//! last 64 requests of plain records, are kept with the answers that they got. Sequences count records and wrap from
//! `i32::MAX` to 0, as in Kafka (`DefaultRecordBatch.incrementSequence`).
//!
//! Invariants: what is kept of a producer are batches that stand in the log, in the order of their offsets; after
//! [`Producers::truncate`] nothing kept lies at or above the end. State is rebuilt from the log; snapshots are hints.
//!
//! It must not know of files, locks or the wall clock.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use super::{
    AppendFailure, CheckedBatch, Monotonic, Offset, PartitionEpoch, ProducerDirectory, ProducerStamp, RequestStamp,
    limits,
};

/// Where a batch stands, and what was answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Kept {
    /// Offset of its first record.
    pub(crate) base_offset: Offset,
    /// Its records.
    pub(crate) record_count: u32,
    /// Epoch of its frame.
    pub(crate) epoch: PartitionEpoch,
    /// Time of its append in milliseconds since 1970.
    pub(crate) append_time_ms: i64,
}

/// What to do with a batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Decision {
    /// It is new.
    Write,
    /// It stands in the log already, or in the group being written.
    Duplicate(Kept),
    /// It must not be written.
    Refuse(AppendFailure),
}

/// All producers of a partition.
#[derive(Debug)]
pub(crate) struct Producers {
    pub(super) known: HashMap<i64, Producer>,
    ttl: Duration,
}

/// A batch that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeptBatch {
    pub(super) sequence: i32,
    pub(super) kept: Kept,
}

/// A request that is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct KeptRequest {
    pub(super) number: u64,
    pub(super) kept: Kept,
}

/// The newest batch that is no longer kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Evicted {
    pub(super) next_sequence: i32,
    pub(super) end: Offset,
}

/// One producer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Producer {
    pub(super) epoch: i16,
    /// In the order of the log.
    pub(super) batches: VecDeque<KeptBatch>,
    pub(super) evicted: Option<Evicted>,
    /// A cut went below what was kept: which sequence is next is not known any more.
    pub(super) lost: bool,
    /// In the order of their numbers.
    pub(super) requests: VecDeque<KeptRequest>,
    /// The greatest request number that is no longer kept.
    pub(super) evicted_request: Option<u64>,
    /// Time of the last append, for snapshots.
    pub(super) last_append_time_ms: i64,
    /// When it is forgotten, on the monotonic clock.
    pub(super) forget_at: Duration,
}

/// The sequence `records` after this one.
pub(crate) fn advance_sequence(sequence: i32, records: u32) -> i32 {
    ((i64::from(sequence) + i64::from(records)) & i64::from(i32::MAX)) as i32
}

impl Kept {
    /// Offset after its last record.
    pub(crate) fn end(&self) -> Offset {
        self.base_offset.saturating_add(u64::from(self.record_count))
    }
}

impl Producer {
    fn new(epoch: i16) -> Self {
        Self {
            epoch,
            batches: VecDeque::new(),
            evicted: None,
            lost: false,
            requests: VecDeque::new(),
            evicted_request: None,
            last_append_time_ms: 0,
            forget_at: Duration::ZERO,
        }
    }

    fn next_sequence(&self) -> i32 {
        match (self.batches.back(), self.evicted) {
            (Some(last), _) => advance_sequence(last.sequence, last.kept.record_count),
            (None, Some(evicted)) => evicted.next_sequence,
            (None, None) => 0,
        }
    }

    fn decide_batch(&self, stamp: &ProducerStamp, record_count: u32) -> Decision {
        let producer_id = stamp.producer_id;
        let found = stamp.base_sequence;
        let same = |kept: &&KeptBatch| kept.sequence == found && kept.kept.record_count == record_count;
        if let Some(batch) = self.batches.iter().rev().find(same) {
            return Decision::Duplicate(batch.kept);
        }
        if self.lost {
            return Decision::Refuse(AppendFailure::UnknownProducer { producer_id });
        }
        let expected = self.next_sequence();
        if found == expected {
            return Decision::Write;
        }
        // Sequences live on a circle: what lies less than half of it ahead is ahead.
        let ahead = found.wrapping_sub(expected) & i32::MAX;
        Decision::Refuse(if ahead < 1 << 30 {
            AppendFailure::SequenceGap { producer_id, expected, found }
        } else {
            let oldest = self.batches.front().map_or(expected, |batch| batch.sequence);
            AppendFailure::SequenceTooOld { producer_id, found: found as u64, oldest: oldest as u64 }
        })
    }

    fn decide_request(&self, request: &RequestStamp) -> Decision {
        let found = request.request_number;
        if let Ok(index) = self.requests.binary_search_by_key(&found, |kept| kept.number) {
            return Decision::Duplicate(self.requests[index].kept);
        }
        if self.evicted_request.is_some_and(|evicted| found <= evicted) {
            let oldest = self.requests.front().map_or(found, |kept| kept.number);
            let producer_id = request.producer_id;
            return Decision::Refuse(AppendFailure::SequenceTooOld { producer_id, found, oldest });
        }
        Decision::Write
    }

    fn keep_batch(&mut self, sequence: i32, kept: Kept) {
        if self.batches.len() == limits::PRODUCER_WINDOW
            && let Some(oldest) = self.batches.pop_front()
        {
            let next_sequence = advance_sequence(oldest.sequence, oldest.kept.record_count);
            self.evicted = Some(Evicted { next_sequence, end: oldest.kept.end() });
        }
        self.batches.push_back(KeptBatch { sequence, kept });
    }

    fn keep_request(&mut self, number: u64, kept: Kept) {
        let place = self.requests.partition_point(|other| other.number < number);
        self.requests.insert(place, KeptRequest { number, kept });
        if self.requests.len() > limits::PRODUCER_WINDOW
            && let Some(oldest) = self.requests.pop_front()
        {
            self.evicted_request = Some(oldest.number);
        }
    }

    fn truncate(&mut self, end: Offset) {
        while self.batches.back().is_some_and(|batch| batch.kept.base_offset >= end) {
            self.batches.pop_back();
        }
        if self.batches.is_empty() && self.evicted.is_some_and(|evicted| evicted.end > end) {
            self.evicted = None;
            self.lost = true;
        }
        self.requests.retain(|request| request.kept.base_offset < end);
    }
}

impl Producers {
    /// No producers yet; each is forgotten once idle for `ttl`.
    pub(crate) fn new(ttl: Duration) -> Self {
        Self { known: HashMap::new(), ttl }
    }

    /// Changes the time for which idle producers are kept, from their next append on.
    pub(crate) fn set_ttl(&mut self, ttl: Duration) {
        self.ttl = ttl;
    }

    /// What to do with a batch that comes next. `directory` knows the current epochs of all producers.
    pub(crate) fn decide(&self, batch: &CheckedBatch, directory: Option<&dyn ProducerDirectory>) -> Decision {
        let (producer_id, found) = match (&batch.header.producer, &batch.request) {
            (Some(stamp), _) => (stamp.producer_id, stamp.producer_epoch),
            (None, Some(request)) => (request.producer_id, request.producer_epoch),
            (None, None) => return Decision::Write,
        };
        let fenced = |current| Decision::Refuse(AppendFailure::ProducerFenced { producer_id, found, current });
        let unknown = Decision::Refuse(AppendFailure::UnknownProducer { producer_id });
        if let Some(directory) = directory {
            match directory.epoch_of(producer_id) {
                Some(current) if found < current => return fenced(current),
                Some(current) if found == current => {}
                // Never given, or given by a metadata log that has been lost since.
                Some(_) | None => return unknown,
            }
        }
        let known = self.known.get(&producer_id);
        if let Some(known) = known
            && found < known.epoch
        {
            return fenced(known.epoch);
        }
        let current = known.filter(|known| known.epoch == found);
        match (&batch.header.producer, &batch.request, current) {
            (Some(stamp), _, Some(producer)) => producer.decide_batch(stamp, batch.header.record_count),
            (Some(stamp), _, None) if stamp.base_sequence == 0 => Decision::Write,
            // A new session begins at 0; of a producer that is not known nothing can be said.
            (Some(stamp), _, None) if known.is_some() => {
                let found = stamp.base_sequence;
                Decision::Refuse(AppendFailure::SequenceGap { producer_id, expected: 0, found })
            }
            (Some(_), _, None) => unknown,
            (None, Some(request), Some(producer)) => producer.decide_request(request),
            (None, _, _) => Decision::Write,
        }
    }

    /// Takes note of a batch that was decided to be written.
    pub(crate) fn wrote(&mut self, batch: &CheckedBatch, kept: Kept, now: Monotonic) {
        self.replay(batch.header.producer, batch.request, kept, now.0.saturating_add(self.ttl));
    }

    /// Takes note of a frame found in the log. It may have been appended long ago by a wall clock that was wrong: it
    /// is kept for its time to live at most (rule F6).
    pub(crate) fn found(
        &mut self,
        stamp: Option<ProducerStamp>,
        request: Option<RequestStamp>,
        kept: Kept,
        now: Monotonic,
        wall_ms: i64,
    ) {
        let forget_at = self.forget_at(kept.append_time_ms, now, wall_ms);
        self.replay(stamp, request, kept, forget_at);
    }

    /// When a producer is forgotten whose last append was at this wall time.
    pub(crate) fn forget_at(&self, last_append_time_ms: i64, now: Monotonic, wall_ms: i64) -> Duration {
        let idle = u64::try_from(wall_ms.saturating_sub(last_append_time_ms)).unwrap_or(0);
        now.0.saturating_add(self.ttl.saturating_sub(Duration::from_millis(idle)))
    }

    fn replay(&mut self, stamp: Option<ProducerStamp>, request: Option<RequestStamp>, kept: Kept, forget_at: Duration) {
        let (id, epoch) = match (&stamp, &request) {
            (Some(stamp), _) => (stamp.producer_id, stamp.producer_epoch),
            (None, Some(request)) => (request.producer_id, request.producer_epoch),
            (None, None) => return,
        };
        if self.known.len() >= limits::PRODUCERS && !self.known.contains_key(&id) {
            self.forget_longest_idle();
        }
        let producer = self.known.entry(id).or_insert_with(|| Producer::new(epoch));
        if producer.epoch != epoch {
            *producer = Producer::new(epoch);
        }
        producer.last_append_time_ms = kept.append_time_ms;
        producer.forget_at = forget_at;
        match (stamp, request) {
            (Some(stamp), _) => producer.keep_batch(stamp.base_sequence, kept),
            (None, Some(request)) => producer.keep_request(request.request_number, kept),
            (None, None) => {}
        }
    }

    /// The log ends at `end` now: what lay above is gone (rule PR-12).
    pub(crate) fn truncate(&mut self, end: Offset) {
        self.known.values_mut().for_each(|producer| producer.truncate(end));
    }

    /// Forgets those that have been idle for their time to live.
    pub(crate) fn expire(&mut self, now: Monotonic) {
        self.known.retain(|_, producer| producer.forget_at > now.0);
    }

    fn forget_longest_idle(&mut self) {
        let idle = self.known.iter().min_by_key(|(_, producer)| producer.forget_at).map(|(id, _)| *id);
        if let Some(id) = idle {
            self.known.remove(&id);
        }
    }
}
