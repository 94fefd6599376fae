//! What became of a batch, shared by the receipts of its records: one completion per batch, none per record.
//!
//! Invariant: a completion is settled exactly once, and every receipt that waits is woken then.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;

use crate::error::Error;
use crate::types::{AckLevel, RecordPosition, TopicId};

/// What became of a record that was taken out of its batch before the others were written.
#[derive(Debug, Clone)]
pub(crate) enum Left {
    /// It was refused.
    Refused(Error),
    /// It stands there already, under its event id.
    Repeat(Box<RecordPosition>),
    /// It has the event id of the record at this index of the batch, and stands where that one does.
    SameAs(u32),
}

impl Left {
    /// Its position; `other` gives that of another record of the batch.
    fn position(&self, other: impl FnOnce(u32) -> Result<RecordPosition, Error>) -> Result<RecordPosition, Error> {
        match self {
            Self::Refused(error) => Err(error.clone()),
            Self::Repeat(position) => Ok((**position).clone()),
            Self::SameAs(first) => other(*first).map(|position| RecordPosition { duplicate: true, ..position }),
        }
    }
}

/// Where a batch went.
#[derive(Debug, Clone)]
pub(crate) struct BatchPlace {
    pub(crate) topic_id: TopicId,
    pub(crate) partition: u32,
    pub(crate) epoch: u32,
    pub(crate) base_offset: u64,
    pub(crate) append_time_ms: i64,
    pub(crate) duplicate: bool,
    pub(crate) ack: AckLevel,
    /// Records that were taken out before the others were written, by index, in order.
    pub(crate) left: Vec<(u32, Left)>,
}

impl BatchPlace {
    /// Of a batch of which every record was taken out.
    pub(crate) fn of_repeat(position: &RecordPosition) -> Self {
        Self {
            topic_id: position.topic_id.clone(),
            partition: position.partition,
            epoch: position.epoch,
            base_offset: position.offset,
            append_time_ms: position.append_time_ms,
            duplicate: true,
            ack: position.ack,
            left: Vec::new(),
        }
    }

    pub(crate) fn position_of(&self, index: u32) -> Result<RecordPosition, Error> {
        let mut before = 0;
        for (at, left) in &self.left {
            if *at == index {
                return left.position(|first| self.position_of(first));
            }
            before += u64::from(*at < index);
        }
        Ok(RecordPosition {
            topic_id: self.topic_id.clone(),
            partition: self.partition,
            epoch: self.epoch,
            offset: self.base_offset + u64::from(index) - before,
            append_time_ms: self.append_time_ms,
            duplicate: self.duplicate,
            ack: self.ack,
        })
    }
}

/// Why a batch failed; single records may have a reason of their own, by index.
#[derive(Debug, Clone)]
pub(crate) struct BatchFailure {
    pub(crate) error: Error,
    pub(crate) records: Vec<(u32, Error)>,
    /// Records that stand in the log all the same, or were taken out, by index.
    pub(crate) left: Vec<(u32, Left)>,
}

impl BatchFailure {
    /// The same for all of its records.
    pub(crate) fn of(error: Error) -> Self {
        Self { error, records: Vec::new(), left: Vec::new() }
    }

    fn position_of(&self, index: u32) -> Result<RecordPosition, Error> {
        if let Some((_, left)) = self.left.iter().find(|(at, _)| *at == index) {
            return left.position(|first| self.position_of(first));
        }
        let own = self.records.iter().find(|(at, _)| *at == index);
        Err(own.map_or(&self.error, |(_, error)| error).clone())
    }
}

/// The shared completion of a batch.
#[derive(Debug, Default)]
pub(crate) struct Completion {
    outcome: OnceLock<Result<BatchPlace, BatchFailure>>,
    waiting: Mutex<Vec<Waker>>,
}

impl Completion {
    /// Settles the batch and wakes all that wait. A second call changes nothing.
    pub(crate) fn settle(&self, outcome: Result<BatchPlace, BatchFailure>) {
        let waiting = {
            let mut waiting = self.waiting.lock();
            if self.outcome.set(outcome).is_err() {
                return;
            }
            std::mem::take(&mut *waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    pub(crate) fn outcome(&self) -> Option<&Result<BatchPlace, BatchFailure>> {
        self.outcome.get()
    }
}

/// The promise of a record's position. Awaiting it gives the position once the record is acknowledged; dropping it
/// changes nothing.
#[derive(Debug)]
#[must_use = "without awaiting it nobody learns whether the record was appended; `flush` tells it for all"]
pub struct Receipt {
    completion: Arc<Completion>,
    index: u32,
    slot: Option<usize>,
}

impl Receipt {
    pub(crate) fn new(completion: Arc<Completion>, index: u32) -> Self {
        Self { completion, index, slot: None }
    }

    /// The position, if the answer is there.
    pub fn try_position(&self) -> Option<Result<RecordPosition, Error>> {
        Some(match self.completion.outcome()? {
            Ok(place) => place.position_of(self.index),
            Err(failure) => failure.position_of(self.index),
        })
    }

    /// The record's place in its batch, from 0: a batch is written whole or not at all.
    pub fn index_in_batch(&self) -> u32 {
        self.index
    }
}

impl Future for Receipt {
    type Output = Result<RecordPosition, Error>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if let Some(position) = self.try_position() {
            return Poll::Ready(position);
        }
        let slot = {
            let mut waiting = self.completion.waiting.lock();
            if self.completion.outcome().is_some() {
                None
            } else if let Some(slot) = self.slot {
                waiting[slot].clone_from(context.waker());
                Some(slot)
            } else {
                // Receipts of one batch are mostly awaited by one task, one after the other.
                if !waiting.last().is_some_and(|last| last.will_wake(context.waker())) {
                    waiting.push(context.waker().clone());
                }
                Some(waiting.len() - 1)
            }
        };
        match slot {
            Some(_) => {
                self.slot = slot;
                Poll::Pending
            }
            None => Poll::Ready(self.try_position().expect("it was settled under the lock above")),
        }
    }
}
