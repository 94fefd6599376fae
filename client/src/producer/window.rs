//! What is under way: batches sent and not answered, and what each answer means for them. Pure: no I/O, no task, time
//! is an argument.
//!
//! ```text
//!            next_send              answered: ok
//!  waiting ------------> on the stream --------> settled
//!     ^                        |
//!     +---- cut; not now; SEQ_GAP; UNKNOWN_PRODUCER
//! ```
//!
//! Invariants:
//! - Per partition, batches are first sent in the order in which they were admitted, and sent again in that order,
//!   only when nothing of the partition is on the stream any more (rules PR-7, PR-10).
//! - A batch that may have been written is never given another sequence: it is sent again as it is, or given back to
//!   its caller with an unknown outcome.
//! - Each admitted batch is settled exactly once.

use std::collections::VecDeque;

use sawlog_proto::batch::BatchBuilder;
use tokio::time::Instant;

use super::LostRecords;
use super::accumulator::{Filled, Room};
use super::lane::{Flying, Lane, Verdict, distance};
use super::receipt::{BatchFailure, BatchPlace, Left};
use crate::error::{Error, ErrorKind, Outcome};

/// A batch to put on the stream.
#[derive(Debug)]
pub(crate) struct Outgoing {
    pub(crate) request_id: u64,
    pub(crate) partition: u32,
    pub(crate) batch: bytes::Bytes,
    /// The emptied builder, if the batch was finished just now.
    pub(crate) spare: Option<BatchBuilder>,
}

/// A batch that is done with.
#[derive(Debug)]
pub(crate) struct Settled {
    pub(crate) id: u64,
    pub(crate) bytes: usize,
    pub(crate) error: Option<Error>,
}

/// Identity of an idempotent producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) producer_id: i64,
    pub(crate) epoch: i16,
}

/// What must happen before more can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Need {
    /// A new epoch of the producer.
    NewEpoch,
    /// A look at the topic's revision.
    Refresh,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Window {
    identity: Option<Identity>,
    max_in_flight: usize,
    lanes: Vec<Lane>,
    /// Partitions with batches, each once.
    busy: Vec<u32>,
    /// Where the next look for something to send begins, so that all partitions get their turn.
    turn: usize,
    /// Requests on the stream, in order.
    unanswered: VecDeque<(u64, u32)>,
    next_request: u64,
    new_epoch: bool,
    refresh: bool,
    fatal: Option<Error>,
    settled: Vec<Settled>,
    lost: Vec<LostRecords>,
}

impl Window {
    /// Without an identity the producer is not idempotent.
    pub(crate) fn new(partitions: u32, max_in_flight: usize, identity: Option<Identity>) -> Self {
        Self {
            identity,
            max_in_flight,
            lanes: (0..partitions).map(|_| Lane::default()).collect(),
            busy: Vec::new(),
            turn: 0,
            unanswered: VecDeque::new(),
            next_request: 0,
            new_epoch: false,
            refresh: false,
            fatal: None,
            settled: Vec::new(),
            lost: Vec::new(),
        }
    }

    /// Room of a partition.
    pub(crate) fn room(&self, partition: u32) -> Room {
        let batches = self.lanes[partition as usize].batches.len();
        Room { batches: self.max_in_flight.saturating_sub(batches), idle: batches == 0 }
    }

    /// Takes a batch that is to be answered before `deadline`.
    pub(crate) fn admit(&mut self, filled: Filled, deadline: Instant) {
        let partition = filled.partition;
        let lane = &mut self.lanes[partition as usize];
        if lane.batches.is_empty() {
            self.busy.push(partition);
        }
        lane.batches.push_back(Flying::new(filled, deadline));
    }

    /// The next batch to put on the stream, if any may go now.
    pub(crate) fn next_send(&mut self, now: Instant) -> Option<Outgoing> {
        if self.new_epoch || self.fatal.is_some() {
            return None;
        }
        for step in 0..self.busy.len() {
            let at = (self.turn + step) % self.busy.len();
            let partition = self.busy[at];
            let lane = &mut self.lanes[partition as usize];
            if !lane.may_send(now) {
                continue;
            }
            if lane.blocked && !self.unblock(partition) {
                if self.new_epoch {
                    return None;
                }
                continue;
            }
            self.turn = at + 1;
            let request_id = self.next_request;
            self.next_request += 1;
            self.unanswered.push_back((request_id, partition));
            let lane = &mut self.lanes[partition as usize];
            let (batch, spare) = lane.send_next(request_id, self.identity);
            return Some(Outgoing { request_id, partition, batch, spare });
        }
        None
    }

    /// Nothing of the partition is on the stream: decides whether and how its batches are sent again.
    fn unblock(&mut self, partition: u32) -> bool {
        let lane = &mut self.lanes[partition as usize];
        let Some(expected) = lane.expected.take() else {
            lane.blocked = false;
            return true;
        };
        // The sequence that the broker expects lies before the end of what it had acknowledged: it lost some.
        let missing = distance(expected, lane.acked_end);
        if missing > 0 && missing < i32::MAX as u32 / 2 {
            self.lost.push(LostRecords {
                partition,
                records: u64::from(missing),
                first_offset: lane.acked_offset_of(expected),
            });
            self.new_epoch = true;
            return false;
        }
        lane.renumber(expected);
        lane.blocked = false;
        true
    }

    /// An answer came. Answers come in the order of the requests.
    ///
    /// # Errors
    /// If this is not the answer to the oldest request.
    pub(crate) fn answered(
        &mut self,
        request_id: u64,
        answer: Result<BatchPlace, BatchFailure>,
        now: Instant,
    ) -> Result<(), Error> {
        let Some((expected, partition)) = self.unanswered.pop_front() else {
            return Err(Error::protocol(format!("an answer to request {request_id}, which was not made")));
        };
        if expected != request_id {
            return Err(Error::protocol(format!("an answer to request {request_id} in place of {expected}")));
        }
        let idempotent = self.identity.is_some();
        let lane = &mut self.lanes[partition as usize];
        let at = lane.position_of(request_id);
        match answer {
            Ok(place) => {
                lane.retry.reset();
                let flying = lane.remove(at);
                if idempotent {
                    lane.acked(&flying, &place);
                }
                self.settle(flying, Ok(place));
            }
            Err(failure) => self.failed(partition, at, failure, idempotent, now),
        }
        self.unlist(partition);
        Ok(())
    }

    fn failed(&mut self, partition: u32, at: usize, failure: BatchFailure, idempotent: bool, now: Instant) {
        let lane = &mut self.lanes[partition as usize];
        let verdict = if idempotent { Verdict::of(&failure.error) } else { Verdict::Refused };
        let maybe_written = lane.batches[at].maybe_written;
        match verdict {
            Verdict::Refused if !failure.left.is_empty() => self.repeated(partition, at, failure, idempotent),
            Verdict::Refused => {
                if idempotent && lane.without_refused(at, &failure) {
                    return;
                }
                let flying = lane.remove(at);
                if idempotent && surely_not_written(&flying, &failure.error) {
                    lane.refused();
                } else {
                    // Whether its sequence is used is not known: a new epoch begins without it.
                    self.new_epoch |= idempotent;
                }
                self.settle(flying, Err(failure));
            }
            Verdict::NotNow => {
                let outcome_unknown = failure.error.outcome() != Some(Outcome::NotWritten);
                let wait = lane.retry.next_wait(failure.error.retry_after());
                lane.hold_until = Some(now + wait);
                lane.back(at, maybe_written || outcome_unknown, failure.error);
            }
            Verdict::Gap(expected) => {
                lane.expected = Some(expected);
                lane.back(at, false, failure.error);
            }
            Verdict::StaleRevision => {
                self.refresh = true;
                lane.hold_until = Some(now + lane.retry.next_wait(None));
                lane.back(at, maybe_written, failure.error);
            }
            Verdict::UnknownProducer => {
                self.new_epoch = true;
                if maybe_written {
                    let flying = lane.remove(at);
                    lane.blocked = true;
                    self.settle(flying, Err(unknown(failure.error)));
                } else {
                    lane.back(at, false, failure.error);
                }
            }
            Verdict::TooOld => {
                // Whether it was written is forgotten; what follows goes on from what the broker expects.
                let flying = lane.remove(at);
                lane.blocked = true;
                self.settle(flying, Err(unknown(failure.error)));
            }
            Verdict::Fenced => {
                self.fatal = Some(failure.error.clone());
                let flying = lane.remove(at);
                self.settle(flying, Err(failure));
            }
        }
    }

    /// Some records stand in the log already, and nothing was written. An idempotent producer sends the others again, in
    /// their order; any other gives them back, since what it sent behind them may have been written before.
    fn repeated(&mut self, partition: u32, at: usize, failure: BatchFailure, idempotent: bool) {
        let place = failure.left.iter().find_map(|(_, left)| match left {
            Left::Repeat(position) => Some(BatchPlace::of_repeat(position)),
            Left::Refused(_) | Left::SameAs(_) => None,
        });
        let lane = &mut self.lanes[partition as usize];
        let rest = lane.without_repeats(at, &failure);
        if rest == Some(true) && idempotent {
            lane.back(at, false, failure.error);
            lane.refused();
            return;
        }
        let flying = lane.remove(at);
        if idempotent {
            lane.refused();
        }
        let outcome = match place {
            Some(place) if rest == Some(false) => Ok(place),
            _ => Err(BatchFailure::of(failure.error)),
        };
        self.settle(flying, outcome);
    }

    /// The stream was cut: what was on it has an unknown outcome, unless there was never a connection. An idempotent
    /// producer sends it again, any other gives it back.
    pub(crate) fn cut(&mut self, error: &Error, connected: bool) {
        let idempotent = self.identity.is_some();
        self.unanswered.clear();
        for partition in self.busy.clone() {
            let lane = &mut self.lanes[partition as usize];
            // What was told before the cut may be past: the answers to what is sent again say it anew.
            lane.expected = None;
            if idempotent || !connected {
                lane.cut(error, connected);
            } else {
                let (sent, waiting): (Vec<_>, Vec<_>) =
                    lane.batches.drain(..).partition(|flying| flying.on_stream.is_some());
                lane.batches = waiting.into();
                lane.on_stream = 0;
                for flying in sent {
                    self.settle(flying, Err(unknown(error.clone())));
                }
            }
            self.unlist(partition);
        }
    }

    /// What must happen before more can be sent, once nothing is in the way of it.
    pub(crate) fn need(&self) -> Option<Need> {
        if self.fatal.is_some() {
            None
        } else if self.new_epoch {
            self.unanswered.is_empty().then_some(Need::NewEpoch)
        } else {
            self.refresh.then_some(Need::Refresh)
        }
    }

    /// The topic was looked at.
    pub(crate) fn refreshed(&mut self) {
        self.refresh = false;
    }

    /// A new epoch begins: sequences start at 0. What may have been written under the old one is given back.
    pub(crate) fn renewed(&mut self, identity: Identity) {
        self.identity = Some(identity);
        self.new_epoch = false;
        for partition in self.busy.clone() {
            let batches = std::mem::take(&mut self.lanes[partition as usize].batches);
            let (unsure, sure): (Vec<_>, Vec<_>) = batches.into_iter().partition(|flying| flying.maybe_written);
            self.lanes[partition as usize].batches = sure.into();
            for flying in unsure {
                let error = flying.last_error("the producer had to begin a new epoch");
                self.settle(flying, Err(unknown(error)));
            }
            self.unlist(partition);
        }
        for lane in &mut self.lanes {
            lane.begin_epoch();
        }
    }

    /// Gives back what has waited beyond its deadline. Returns true if something on the stream has: then the stream is
    /// to be cut, and expired again.
    pub(crate) fn expire(&mut self, now: Instant) -> bool {
        let mut overdue = false;
        for partition in self.busy.clone() {
            let lane = &mut self.lanes[partition as usize];
            while let Some(front) = lane.batches.front().filter(|front| front.deadline <= now) {
                if front.on_stream.is_some() {
                    overdue = true;
                    break;
                }
                let flying = lane.remove(0);
                let error = flying.last_error("the record was not acknowledged in time");
                let outcome = if flying.maybe_written { Outcome::Unknown } else { Outcome::NotWritten };
                if flying.maybe_written {
                    // Whether its sequence is used is not known: a new epoch begins without it.
                    self.new_epoch |= self.identity.is_some();
                } else {
                    lane.renumber_behind(&flying);
                }
                self.settled.push(Settled { id: flying.id, bytes: flying.bytes, error: Some(error.clone()) });
                let failure = BatchFailure::of(error.with_outcome(outcome));
                flying.completion.settle(Err(failure));
            }
            self.unlist(partition);
        }
        overdue
    }

    /// When to look again although nothing happens: the end of a wait, or of a deadline. A wait that is over already
    /// is held up by something else, which tells when it is done.
    pub(crate) fn next_deadline(&self, now: Instant) -> Option<Instant> {
        let lanes = self.busy.iter().map(|partition| &self.lanes[*partition as usize]);
        lanes
            .flat_map(|lane| {
                let held = lane.hold_until.filter(|until| *until > now && lane.blocked && lane.on_stream == 0);
                held.into_iter().chain(lane.batches.front().map(|front| front.deadline))
            })
            .min()
    }

    /// What stopped the producer for good.
    pub(crate) fn fatal(&self) -> Option<&Error> {
        self.fatal.as_ref()
    }

    /// Whether nothing is under way.
    pub(crate) fn is_empty(&self) -> bool {
        self.busy.is_empty()
    }

    /// Settles everything with this error.
    pub(crate) fn fail_all(&mut self, error: &Error) {
        self.unanswered.clear();
        for partition in std::mem::take(&mut self.busy) {
            for flying in std::mem::take(&mut self.lanes[partition as usize].batches) {
                let written = flying.maybe_written || flying.on_stream.is_some();
                let outcome = if written { Outcome::Unknown } else { Outcome::NotWritten };
                let failure = BatchFailure::of(error.clone().with_outcome(outcome));
                self.settle(flying, Err(failure));
            }
        }
    }

    /// Batches settled since the last call.
    pub(crate) fn take_settled(&mut self) -> std::vec::Drain<'_, Settled> {
        self.settled.drain(..)
    }

    /// Losses told since the last call.
    pub(crate) fn take_lost(&mut self) -> Vec<LostRecords> {
        std::mem::take(&mut self.lost)
    }

    fn settle(&mut self, flying: Flying, outcome: Result<BatchPlace, BatchFailure>) {
        let (outcome, error) = flying.outcome(outcome);
        self.settled.push(Settled { id: flying.id, bytes: flying.bytes, error });
        flying.completion.settle(outcome);
    }

    fn unlist(&mut self, partition: u32) {
        if self.lanes[partition as usize].batches.is_empty() {
            self.busy.retain(|busy| *busy != partition);
        }
    }
}

/// A refusal of a request that is wrong in itself leaves nothing behind, if no try before it did.
fn surely_not_written(flying: &Flying, error: &Error) -> bool {
    let said = match error.outcome() {
        Some(outcome) => outcome == Outcome::NotWritten,
        None => matches!(error.kind(), ErrorKind::Invalid | ErrorKind::NotFound | ErrorKind::Precondition),
    };
    said && !flying.maybe_written
}

/// The same failure, said to have an unknown outcome.
fn unknown(error: Error) -> BatchFailure {
    BatchFailure::of(error.with_outcome(Outcome::Unknown))
}

#[cfg(test)]
mod tests;
