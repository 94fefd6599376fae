//! The unanswered batches of one partition and their sequences. Pure; see `window` for the whole.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchBuilder, BatchLimits, Codec, ProducerStamp};
use tokio::time::Instant;

use super::MAX_IN_FLIGHT;
use super::accumulator::Filled;
use super::receipt::{BatchFailure, BatchPlace, Completion, Left};
use super::window::Identity;
use crate::error::{Error, ErrorKind, ErrorReason, Outcome};
use crate::retry::Retry;
use crate::types::AckLevel;

/// Sequences wrap from `i32::MAX` to 0.
const SEQUENCE_MASK: u32 = i32::MAX as u32;

/// The sequence `records` later.
pub(crate) fn advance(sequence: i32, records: u32) -> i32 {
    // Masked to 31 bits, so the cast keeps the value.
    ((sequence as u32).wrapping_add(records) & SEQUENCE_MASK) as i32
}

/// Records from one sequence on to another.
pub(crate) fn distance(from: i32, to: i32) -> u32 {
    (to as u32).wrapping_sub(from as u32) & SEQUENCE_MASK
}

/// What an answer means for an idempotent batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is wrong in itself, or repeats do not help.
    Refused,
    /// The same again later.
    NotNow,
    /// Batches before it are missing; the broker expects this sequence.
    Gap(i32),
    /// The partition was chosen by an older revision of the topic.
    StaleRevision,
    /// The broker does not know the producer (any more).
    UnknownProducer,
    /// The broker has forgotten whether it was written.
    TooOld,
    /// A newer session of the producer has begun.
    Fenced,
}

impl Verdict {
    pub(crate) fn of(error: &Error) -> Self {
        match error.reason() {
            Some(ErrorReason::SeqGap) => match error.fact_number("expected") {
                Some(expected) => Self::Gap(expected),
                // Without the fact nothing can be numbered anew; a new epoch can always begin.
                None => Self::UnknownProducer,
            },
            Some(ErrorReason::StaleRevision) => Self::StaleRevision,
            Some(ErrorReason::UnknownProducer) => Self::UnknownProducer,
            Some(ErrorReason::SeqTooOld) => Self::TooOld,
            Some(ErrorReason::ProducerFenced) => Self::Fenced,
            _ if error.is_retryable() => Self::NotNow,
            _ => Self::Refused,
        }
    }
}

/// The bytes of a batch: finished when they are first sent.
#[derive(Debug)]
enum Body {
    Open(BatchBuilder),
    Done(Bytes, Option<ProducerStamp>),
}

/// A batch that is not settled.
#[derive(Debug)]
pub(crate) struct Flying {
    pub(crate) id: u64,
    pub(crate) bytes: usize,
    pub(crate) completion: Arc<Completion>,
    pub(crate) deadline: Instant,
    /// The request that it is on the stream with.
    pub(crate) on_stream: Option<u64>,
    /// It was on a stream that was cut, or its answer left it open.
    pub(crate) maybe_written: bool,
    records: u32,
    base_sequence: Option<i32>,
    body: Body,
    /// Records that were taken out, by their first index.
    left: Vec<(u32, Left)>,
    last_error: Option<Error>,
}

impl Flying {
    pub(crate) fn new(filled: Filled, deadline: Instant) -> Self {
        Self {
            id: filled.id,
            bytes: filled.bytes,
            completion: filled.completion,
            deadline,
            on_stream: None,
            maybe_written: false,
            records: filled.builder.record_count(),
            base_sequence: None,
            body: Body::Open(filled.builder),
            left: Vec::new(),
            last_error: None,
        }
    }

    /// What was last said about it, or this.
    pub(crate) fn last_error(&self, otherwise: &str) -> Error {
        self.last_error.clone().unwrap_or_else(|| Error::new(ErrorKind::Timeout, otherwise))
    }

    /// The outcome for the receipts, and the failure that `flush` tells.
    pub(crate) fn outcome(
        &self,
        outcome: Result<BatchPlace, BatchFailure>,
    ) -> (Result<BatchPlace, BatchFailure>, Option<Error>) {
        match outcome {
            Ok(mut place) => {
                place.left.clone_from(&self.left);
                let first = self.refused().next().map(|(_, error)| error);
                (Ok(place), first)
            }
            Err(mut failure) => {
                for (index, _) in &mut failure.records {
                    *index = self.first_index(*index);
                }
                failure.records.extend(self.refused());
                failure.left.clone_from(&self.left);
                // Of a part with bad records the reason of the first says more than that of the whole.
                let error = failure.records.first().map_or(&failure.error, |(_, error)| error).clone();
                (Err(failure), Some(error))
            }
        }
    }

    /// Those of the records taken out that were refused.
    fn refused(&self) -> impl Iterator<Item = (u32, Error)> {
        self.left.iter().filter_map(|(index, left)| match left {
            Left::Refused(error) => Some((*index, error.clone())),
            Left::Repeat(_) | Left::SameAs(_) => None,
        })
    }

    fn stamp(&mut self, identity: Option<Identity>, sequence: i32) -> (Bytes, Option<BatchBuilder>) {
        let stamp = identity.map(|identity| ProducerStamp {
            producer_id: identity.producer_id,
            producer_epoch: identity.epoch,
            base_sequence: sequence,
        });
        let (bytes, spare) = match &mut self.body {
            Body::Done(bytes, stamped) if *stamped == stamp => return (bytes.clone(), None),
            Body::Done(bytes, _) => {
                let bytes = std::mem::take(bytes);
                (if let Some(stamp) = stamp { batch::restamp(bytes, stamp) } else { bytes }, None)
            }
            Body::Open(builder) => {
                if let Some(stamp) = stamp {
                    builder.set_producer(stamp);
                }
                let bytes = builder.finish();
                let spare = std::mem::replace(builder, BatchBuilder::new(Codec::None));
                (bytes, Some(spare))
            }
        };
        self.body = Body::Done(bytes.clone(), stamp);
        (bytes, spare)
    }

    /// The index that a record of the present batch had at first.
    fn first_index(&self, index: u32) -> u32 {
        let mut first = index;
        for (left, _) in &self.left {
            if *left <= first {
                first += 1;
            }
        }
        first
    }

    /// Builds the batch anew without these records, if that leaves any.
    fn without(&mut self, out: &[(u32, Left)]) -> bool {
        let Body::Done(bytes, _) = &self.body else { return false };
        let Ok(header) = batch::BatchHeader::decode(bytes) else { return false };
        let Ok(records) = batch::records(bytes, &BatchLimits::DEFAULT) else { return false };
        let mut builder = BatchBuilder::new(header.codec);
        for view in records.views() {
            let Ok(view) = view else { return false };
            if out.iter().any(|(index, _)| *index == view.index) {
                continue;
            }
            // Names came in as text from this client.
            let headers =
                view.headers.map(|(name, value)| (std::str::from_utf8(name).unwrap_or(""), value.unwrap_or_default()));
            builder.push(view.timestamp_ms, view.key, view.value, headers);
        }
        if builder.is_empty() {
            return false;
        }
        self.take_out(out);
        self.records = builder.record_count();
        self.body = Body::Open(builder);
        true
    }

    /// Takes note of records that are no longer to be sent.
    fn take_out(&mut self, out: &[(u32, Left)]) {
        let first = |(index, left): &(u32, Left)| {
            let left = match left {
                Left::SameAs(same) => Left::SameAs(self.first_index(*same)),
                other => other.clone(),
            };
            (self.first_index(*index), left)
        };
        let mut out: Vec<_> = out.iter().map(first).collect();
        self.left.append(&mut out);
        self.left.sort_by_key(|(index, _)| *index);
    }
}

/// A batch acknowledged at `written`, remembered in case the broker loses it.
#[derive(Debug, Clone, Copy)]
struct Acked {
    base_sequence: i32,
    records: u32,
    base_offset: u64,
}

/// One partition.
#[derive(Debug)]
pub(crate) struct Lane {
    pub(crate) batches: VecDeque<Flying>,
    /// How many of them are on the stream.
    pub(crate) on_stream: usize,
    /// Something went wrong: nothing is sent until the stream has none of this partition any more.
    pub(crate) blocked: bool,
    pub(crate) hold_until: Option<Instant>,
    pub(crate) retry: Retry,
    /// The sequence that the broker last said it expects.
    pub(crate) expected: Option<i32>,
    /// The sequence after the last batch known to be written.
    pub(crate) acked_end: i32,
    next_sequence: i32,
    remembered: VecDeque<Acked>,
}

impl Default for Lane {
    fn default() -> Self {
        Self {
            batches: VecDeque::new(),
            on_stream: 0,
            blocked: false,
            hold_until: None,
            retry: Retry::new(),
            expected: None,
            acked_end: 0,
            next_sequence: 0,
            remembered: VecDeque::new(),
        }
    }
}

impl Lane {
    /// Whether a batch waits and may go, or at least be looked at.
    pub(crate) fn may_send(&self, now: Instant) -> bool {
        let waiting = self.on_stream < self.batches.len();
        let held = self.hold_until.is_some_and(|until| until > now);
        waiting && (!self.blocked || (self.on_stream == 0 && !held))
    }

    /// Puts the first waiting batch on the stream.
    pub(crate) fn send_next(&mut self, request_id: u64, identity: Option<Identity>) -> (Bytes, Option<BatchBuilder>) {
        // What waits stands behind what is on the stream: a lane is blocked until all of it is answered.
        let flying = &mut self.batches[self.on_stream];
        assert!(flying.on_stream.is_none(), "batches go on the stream in their order");
        // A batch that is sent again keeps its number, and the next new one stays behind all that were given: those
        // behind it may be written although it is not answered yet.
        let sequence = match flying.base_sequence {
            Some(sequence) => sequence,
            None => {
                let sequence = self.next_sequence;
                self.next_sequence = advance(sequence, flying.records);
                sequence
            }
        };
        flying.base_sequence = Some(sequence);
        flying.on_stream = Some(request_id);
        self.on_stream += 1;
        self.hold_until = None;
        flying.stamp(identity, sequence)
    }

    /// The place of the batch that is on the stream with this request.
    pub(crate) fn position_of(&self, request_id: u64) -> usize {
        let at = self.batches.iter().position(|flying| flying.on_stream == Some(request_id));
        at.expect("a request on the stream belongs to a batch of its partition")
    }

    pub(crate) fn remove(&mut self, at: usize) -> Flying {
        let flying = self.batches.remove(at).expect("the place was found just now");
        if flying.on_stream.is_some() {
            self.on_stream -= 1;
        }
        flying
    }

    /// A batch is written.
    pub(crate) fn acked(&mut self, flying: &Flying, place: &BatchPlace) {
        let base_sequence = flying.base_sequence.expect("what was answered had been sent");
        let end = advance(base_sequence, flying.records);
        // An answer to what was sent again may come after that to a later batch.
        if distance(self.acked_end, end) < SEQUENCE_MASK / 2 {
            self.acked_end = end;
        }
        if place.ack == AckLevel::Written {
            if self.remembered.len() == MAX_IN_FLIGHT {
                self.remembered.pop_front();
            }
            let base_offset = place.base_offset;
            self.remembered.push_back(Acked { base_sequence, records: flying.records, base_offset });
        }
    }

    /// The offset at which a sequence had been acknowledged, if it is remembered.
    pub(crate) fn acked_offset_of(&self, sequence: i32) -> Option<u64> {
        self.remembered.iter().find_map(|acked| {
            let into = distance(acked.base_sequence, sequence);
            (into < acked.records).then(|| acked.base_offset + u64::from(into))
        })
    }

    /// A batch was answered and stays, to be sent again.
    pub(crate) fn back(&mut self, at: usize, maybe_written: bool, error: Error) {
        let flying = &mut self.batches[at];
        flying.on_stream = None;
        flying.maybe_written = maybe_written;
        flying.last_error = Some(error);
        self.on_stream -= 1;
        self.blocked = true;
    }

    /// A batch was refused and used no sequence: those behind it get SEQ_GAP and are numbered anew.
    pub(crate) fn refused(&mut self) {
        self.blocked = true;
        self.expected.get_or_insert(self.acked_end);
    }

    /// Keeps a refused batch without its bad records, if that leaves any (rule PR-3: the others were not written
    /// because of them).
    pub(crate) fn without_refused(&mut self, at: usize, failure: &BatchFailure) -> bool {
        let bad: Vec<_> = failure
            .records
            .iter()
            .filter(|(_, error)| error.reason() != Some(ErrorReason::NotWritten))
            .map(|(index, error)| (*index, Left::Refused(error.clone())))
            .collect();
        let flying = &mut self.batches[at];
        let sure = failure.error.outcome() != Some(Outcome::Unknown) && !flying.maybe_written;
        if bad.is_empty() || !sure || !flying.without(&bad) {
            return false;
        }
        self.back(at, false, failure.error.clone());
        self.refused();
        true
    }

    /// Takes the records out of a batch that stand in the log already, and those that were refused with them (rule
    /// PR-8: a batch with repeats is not written and uses no sequence); whether any are left to be sent. `None` if the
    /// batch cannot be taken apart.
    pub(crate) fn without_repeats(&mut self, at: usize, failure: &BatchFailure) -> Option<bool> {
        let bad = failure.records.iter().filter(|(_, error)| error.reason() != Some(ErrorReason::NotWritten));
        let refused = bad.map(|(index, error)| (*index, Left::Refused(error.clone())));
        let mut out: Vec<_> = failure.left.iter().cloned().chain(refused).collect();
        out.sort_by_key(|(index, _)| *index);
        let flying = &mut self.batches[at];
        if out.len() == flying.records as usize {
            flying.take_out(&out);
            return Some(false);
        }
        flying.without(&out).then_some(true)
    }

    /// The stream was cut, or there was none after all.
    pub(crate) fn cut(&mut self, error: &Error, connected: bool) {
        for flying in self.batches.iter_mut().filter(|flying| flying.on_stream.is_some()) {
            flying.on_stream = None;
            flying.maybe_written |= connected;
            flying.last_error = Some(error.clone());
            self.blocked = true;
        }
        self.on_stream = 0;
    }

    /// Numbers what waits from this sequence on. Only if none of it may have been written under its number.
    pub(crate) fn renumber(&mut self, from: i32) {
        if !self.batches.is_empty() && self.is_numbered(from) {
            return;
        }
        if self.batches.iter().any(|flying| flying.maybe_written) {
            // Sent as they are; their answers tell more.
            return;
        }
        for flying in &mut self.batches {
            flying.base_sequence = None;
        }
        self.next_sequence = from;
    }

    /// Whether what waits has its numbers from this one on, without a gap where records were taken out of a batch.
    fn is_numbered(&self, from: i32) -> bool {
        let mut next = from;
        self.batches.iter().enumerate().all(|(at, flying)| {
            let fits = flying.base_sequence.map_or(at > 0, |sequence| sequence == next);
            next = advance(next, flying.records);
            fits
        })
    }

    /// A batch that was surely not written leaves: its sequence goes to the one behind it.
    pub(crate) fn renumber_behind(&mut self, gone: &Flying) {
        if let Some(sequence) = gone.base_sequence {
            self.blocked = true;
            self.expected = Some(sequence);
        }
    }

    /// A new epoch of the producer: sequences start at 0.
    pub(crate) fn begin_epoch(&mut self) {
        self.next_sequence = 0;
        self.acked_end = 0;
        self.expected = None;
        self.blocked = false;
        self.remembered.clear();
        for flying in &mut self.batches {
            flying.base_sequence = None;
        }
    }
}
