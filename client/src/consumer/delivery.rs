//! A record that was handed out by the stream, with the right to say what becomes of it.

use std::ops::Deref;
use std::sync::Arc;

use tokio::sync::oneshot;

use super::board::Verdict;
use super::error::{AckOutcome, HandlerError};
use super::record::ConsumedRecord;
use super::shared::{Shared, now};
use super::slots::Ticket;
use crate::error::{Error, ErrorReason};
use crate::groups::GroupMode;

/// A record to handle, and the right to say what becomes of it. Its lease is extended as long as it lives. Dropped
/// without a verdict it counts as failed, with class [`super::DROPPED`]; in mode offset it is passed and not committed.
#[derive(Debug)]
pub struct Delivery {
    /// There until a verdict takes it.
    record: Option<ConsumedRecord>,
    ticket: Ticket,
    mode: GroupMode,
    shared: Arc<Shared>,
}

impl Deref for Delivery {
    type Target = ConsumedRecord;

    fn deref(&self) -> &ConsumedRecord {
        self.record.as_ref().expect("it is there until a verdict takes the delivery")
    }
}

impl Delivery {
    pub(super) fn new(record: ConsumedRecord, ticket: Ticket, mode: GroupMode, shared: &Arc<Shared>) -> Self {
        Self { record: Some(record), ticket, mode, shared: Arc::clone(shared) }
    }

    /// It is done; resolves when that is durable, or told that it came too late. Modes keyed and unordered; in mode
    /// offset only for what comes through its entry.
    ///
    /// # Errors
    /// `WRONG_MODE`; the consumer has ended.
    pub async fn ack(self) -> Result<AckOutcome, Error> {
        self.needs_lease("ack")?;
        self.decide(Verdict::Done).await
    }

    /// The same, and nobody waits for the answer.
    pub fn ack_later(mut self) {
        if self.needs_lease("ack").is_ok() {
            self.finish(Verdict::Done, None);
        }
    }

    /// It is not done; resolves when that is durable. In mode offset a retry stays in this member, and only what goes
    /// to the dead letters is told to the broker.
    ///
    /// # Errors
    /// The consumer has ended; mode offset: the broker refused the dead letter.
    pub async fn nack(self, error: HandlerError) -> Result<AckOutcome, Error> {
        self.decide(Verdict::Failed(Box::new(error))).await
    }

    /// The same, and nobody waits for the answer.
    pub fn nack_later(mut self, error: HandlerError) {
        self.finish(Verdict::Failed(Box::new(error)), None);
    }

    /// Mode offset: it and everything before it in its partition is done; resolves when that is durable.
    ///
    /// # Errors
    /// `WRONG_MODE`, `FENCED`, `COMMIT_BACKWARDS`; the consumer has ended.
    pub async fn commit(mut self) -> Result<(), Error> {
        if self.mode != GroupMode::Offset || self.entry().is_some() {
            return Err(wrong_mode("commit"));
        }
        let (waiter, answer) = oneshot::channel();
        self.record = None;
        self.shared.with(|board| board.commit_through(self.ticket, waiter, now()));
        answer.await.unwrap_or_else(|_| Err(Error::closed("the consumer")))
    }

    async fn decide(mut self, verdict: Verdict) -> Result<AckOutcome, Error> {
        let (waiter, answer) = oneshot::channel();
        self.finish(verdict, Some(waiter));
        answer.await.unwrap_or_else(|_| Err(Error::closed("the consumer")))
    }

    fn finish(&mut self, verdict: Verdict, waiter: Option<super::slots::Waiter>) {
        let Some(record) = self.record.take() else { return };
        let at = now();
        self.shared.with(|board| match board.ending().is_some() {
            // The waiter is dropped, which tells it that the consumer has ended.
            true => drop(waiter),
            false => board.finish(self.ticket, verdict, Some(record), waiter, at),
        });
    }

    fn needs_lease(&self, verb: &str) -> Result<(), Error> {
        if self.mode == GroupMode::Offset && self.entry().is_none() { Err(wrong_mode(verb)) } else { Ok(()) }
    }
}

fn wrong_mode(verb: &str) -> Error {
    Error::refused(ErrorReason::WrongMode, format!("{verb} is not a verb of this group's mode"))
}

impl Drop for Delivery {
    fn drop(&mut self) {
        if self.record.is_none() {
            return;
        }
        let passes = self.needs_lease("").is_err();
        let leaves = self.shared.with(|board| board.draining().is_some());
        let verdict = match (passes, leaves) {
            (true, _) => Verdict::Done,
            (false, true) => Verdict::Failed(Box::new(HandlerError::release())),
            (false, false) => Verdict::Failed(Box::new(HandlerError::dropped())),
        };
        self.finish(verdict, None);
    }
}
