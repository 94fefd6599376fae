//! Consuming as a member of a group: records are leased to this member, handled, and acked.
//!
//! [`Consumer::run`] calls a handler for each record; the [`Consumer`] itself is a stream of deliveries for those who
//! want to decide when to take the next.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! # let broker = sawlog_testing::TestBroker::start().await;
//! # let url = broker.url();
//! use std::time::Duration;
//!
//! use sawlog_client::payload::Json;
//! use sawlog_client::{Client, GroupConfig, HandlerError, Record};
//!
//! let client = Client::builder(url).connect_lazy()?;
//! # client.admin().create_topic(sawlog_client::NewTopic::new("orders").partitions(2)).await?;
//! # client.producer("orders").build().await?.send_and_wait(Record::keyed("order-7", "42")).await?;
//! # let (handled, mut done) = tokio::sync::mpsc::channel::<()>(1);
//! # let stop = async move { done.recv().await };
//! let consumer = client
//!     .consumer("billing")
//!     .topics(["orders"])
//!     .create_if_missing(GroupConfig::default())
//!     .open()
//!     .await?;
//! consumer
//!     .run_until(stop, Duration::from_secs(10), move |record| {
//! #       let handled = handled.clone();
//!         async move {
//!             let cents: u64 = record.decode::<Json<u64>>()?; // cannot be decoded: a dead letter
//!             if cents == 0 {
//!                 return Err(HandlerError::skip("nothing to bill"));
//!             }
//!             println!("{} costs {cents}", record.key.as_deref().unwrap_or_default().escape_ascii());
//! #           handled.send(()).await.ok();
//!             Ok(()) // acked: it is not delivered to this group again
//!         }
//!     })
//!     .await?;
//! # broker.shutdown().await;
//! # Ok(())
//! # }
//! ```
//!
//! Invariants:
//! - The records of a key are handled one after the other, in order, whatever the concurrency (mode keyed; mode offset
//!   under [`Consumer::run`]).
//! - At most the credit is held, waiting records included; leases of all of it are extended (rules FC-2, AK-5).
//! - After a cut the session is resumed with what is in work, and verdicts without an answer are sent again (rule GM-8).

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_stream::Stream;

use crate::error::Error;
use crate::groups::Group;

mod batch;
mod board;
mod builder;
mod delivery;
mod error;
mod event;
mod lanes;
mod leases;
mod positions;
mod record;
mod run;
mod session;
mod shared;
mod slots;

pub use batch::ConsumedBatch;
pub use builder::ConsumerBuilder;
pub use delivery::Delivery;
pub use error::{AckOutcome, DECODE, DROPPED, HandlerError, PANIC};
pub use event::{ConsumerEvent, Unit};
pub use record::{ConsumedRecord, EntryInfo, Source};

pub(crate) use error::Act;

use board::{Board, Ending, Taken};
use positions::{Commit, Position};
use shared::Shared;
pub(crate) use shared::now;

/// What ends a consumer when it is dropped.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.with(|board| board.drain(now()));
    }
}

/// A member of a group: a stream of deliveries and events. Cuts are mended by itself. Dropped, it leaves the group, and
/// what it holds is given back; [`Consumer::shutdown`] lets it finish first.
#[derive(Debug)]
pub struct Consumer {
    handle: Handle,
    group: Group,
    concurrency: usize,
    /// Batches of a frame that was taken whole.
    batches: VecDeque<ConsumedBatch>,
    /// Its end was told.
    told: bool,
}

/// What a reader in a hurry meets.
#[derive(Debug)]
pub enum BatchEvent {
    /// Records of the log, all to be handled.
    Batch(ConsumedBatch),
    /// Anything else; also single records, where not all of a batch is simply handled.
    Event(ConsumerEvent),
}

/// Ends a consumer from elsewhere. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConsumerHandle {
    shared: Arc<Shared>,
}

impl ConsumerHandle {
    /// Takes no more, lets what is in work finish, acks it, and leaves; after `deadline` what is still in work is given
    /// back. Resolves when the member has left.
    pub async fn shutdown(&self, deadline: Duration) {
        self.begin_shutdown(deadline);
        self.shared.ended.cancelled().await;
    }

    fn begin_shutdown(&self, deadline: Duration) {
        self.shared.with(|board| board.drain(now() + deadline));
    }
}

impl Consumer {
    /// The group as it was when this member joined.
    pub fn group(&self) -> &Group {
        &self.group
    }

    /// What this member owns at present.
    pub fn units(&self) -> Vec<Unit> {
        self.handle.shared.with(|board| board.units())
    }

    /// The next record; other events are logged and passed. `None` after the consumer was shut down.
    pub async fn next_delivery(&mut self) -> Option<Result<Delivery, Error>> {
        loop {
            match std::future::poll_fn(|context| Pin::new(&mut *self).poll_next(context)).await? {
                Ok(ConsumerEvent::Delivery(delivery)) => return Some(Ok(delivery)),
                Ok(event) => log(&event),
                Err(error) => return Some(Err(error)),
            }
        }
    }

    /// Mode offset: the next batch or event, for readers in a hurry: the records of a batch are unpacked in place,
    /// without an allocation each. Commit with [`Consumer::commit_batch`].
    pub async fn next_batch(&mut self) -> Option<Result<BatchEvent, Error>> {
        std::future::poll_fn(|context| {
            if let Some(batch) = self.batches.pop_front() {
                return Poll::Ready(Some(Ok(BatchEvent::Batch(batch))));
            }
            match std::task::ready!(self.poll_taken(context, true)) {
                None => Poll::Ready(None),
                Some(Err(error)) => Poll::Ready(Some(Err(error))),
                Some(Ok(Taken::Event(event))) => Poll::Ready(Some(Ok(BatchEvent::Event(event)))),
                Some(Ok(Taken::Record(ticket, record))) => {
                    let delivery = Delivery::new(record, ticket, self.group.mode(), &self.handle.shared);
                    Poll::Ready(Some(Ok(BatchEvent::Event(ConsumerEvent::Delivery(delivery)))))
                }
                Some(Ok(Taken::Frame(frame))) => {
                    self.batches = frame.into_batches();
                    Poll::Ready(self.batches.pop_front().map(|batch| Ok(BatchEvent::Batch(batch))))
                }
            }
        })
        .await
    }

    /// Mode offset: everything up to the end of a batch is done; resolves when that is durable. Batches of a partition
    /// are committed in their order; the last one is enough.
    ///
    /// # Errors
    /// `FENCED`, `WRONG_MODE`; the consumer has ended.
    pub async fn commit_batch(&self, batch: &ConsumedBatch) -> Result<(), Error> {
        let (waiter, answer) = oneshot::channel();
        self.commit_of(batch, vec![waiter]);
        answer.await.unwrap_or_else(|_| Err(Error::closed("the consumer")))
    }

    /// The same, and nobody waits for the answer: of many within 10 ms only the last one is sent.
    pub fn commit_batch_later(&self, batch: &ConsumedBatch) {
        self.commit_of(batch, Vec::new());
    }

    fn commit_of(&self, batch: &ConsumedBatch, waiters: Vec<oneshot::Sender<Result<(), Error>>>) {
        let position = Position { next: batch.next_offset(), epoch: Some(batch.epoch()) };
        let commit = Commit { position, metadata: String::new(), force: false, waiters };
        self.handle.shared.with(|board| match board.ending().is_some() {
            true => drop(commit),
            false => board.commit(batch.number, batch.assignment_epoch, commit),
        });
    }

    /// Mode offset: commits this position of a partition that is this member's, with a text of at most 4 KiB; with
    /// `force` also below what is committed. Resolves when that is durable.
    ///
    /// # Errors
    /// `FENCED`, `COMMIT_BACKWARDS`, `OFFSET_OUT_OF_RANGE`, `WRONG_MODE`, `INVALID_FIELD`; the consumer has ended.
    pub async fn commit(
        &self,
        source: &Source,
        next_offset: u64,
        metadata: impl Into<String>,
        force: bool,
    ) -> Result<(), Error> {
        let (waiter, answer) = oneshot::channel();
        let position = Position { next: next_offset, epoch: None };
        let commit = Commit { position, metadata: metadata.into(), force, waiters: vec![waiter] };
        self.handle.shared.with(|board| match board.ending().is_some() {
            true => drop(commit),
            false => board.commit_source(source, commit),
        });
        answer.await.unwrap_or_else(|_| Err(Error::closed("the consumer")))
    }

    /// Ends this consumer from elsewhere, as while it runs.
    pub fn handle(&self) -> ConsumerHandle {
        ConsumerHandle { shared: Arc::clone(&self.handle.shared) }
    }

    /// Calls the handler for each record until the consumer is shut down or cannot go on: so many at once as
    /// [`ConsumerBuilder::concurrency`] says, the records of a key one after the other, leases extended meanwhile.
    /// `Ok` acks the record (mode offset: commits behind it); an error says what is to become of it; a panic counts as a
    /// failure with class [`PANIC`].
    ///
    /// # Errors
    /// Why the consumer cannot go on.
    pub async fn run<H, F>(self, handler: H) -> Result<(), Error>
    where
        H: Fn(ConsumedRecord) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let shared = &self.handle.shared;
        shared.with(Board::set_auto);
        let handler = Arc::new(handler);
        let mut workers = JoinSet::new();
        for _ in 0..self.concurrency {
            workers.spawn(run::work(Arc::clone(shared), Arc::clone(&handler)));
        }
        shared.ended.cancelled().await;
        workers.shutdown().await;
        match shared.with(|board| board.ending().cloned()) {
            Some(Ending::Failed(error)) => Err(error),
            Some(Ending::Closed) | None => Ok(()),
        }
    }

    /// As [`Consumer::run`], until `stop` is ready; then shuts down within `deadline`.
    ///
    /// # Errors
    /// As [`Consumer::run`].
    pub async fn run_until<H, F>(self, stop: impl Future, deadline: Duration, handler: H) -> Result<(), Error>
    where
        H: Fn(ConsumedRecord) -> F + Send + Sync + 'static,
        F: Future<Output = Result<(), HandlerError>> + Send + 'static,
    {
        let handle = self.handle();
        let running = self.run(handler);
        tokio::pin!(running);
        tokio::select! {
            ended = &mut running => return ended,
            _ = stop => handle.begin_shutdown(deadline),
        }
        running.await
    }

    /// Takes no more, lets what was handed out finish, acks it, and leaves; after `deadline` what is still out is given
    /// back.
    ///
    /// # Errors
    /// Why the consumer could not go on, if it had ended before.
    pub async fn shutdown(self, deadline: Duration) -> Result<(), Error> {
        self.handle().shutdown(deadline).await;
        match self.handle.shared.with(|board| board.ending().cloned()) {
            Some(Ending::Failed(error)) if !self.told => Err(error),
            _ => Ok(()),
        }
    }

    fn poll_taken(&mut self, context: &mut Context<'_>, whole: bool) -> Poll<Option<Result<Taken, Error>>> {
        let at = now();
        let told = self.told;
        let taken = self.handle.shared.with(|board| {
            if let Some(taken) = board.take(at, whole) {
                return Poll::Ready(Some(Ok(taken)));
            }
            match board.ending() {
                Some(Ending::Failed(error)) if !told => return Poll::Ready(Some(Err(error.clone()))),
                Some(_) => return Poll::Ready(None),
                None if board.draining().is_some() => return Poll::Ready(None),
                None => {}
            }
            board.wait(context.waker());
            Poll::Pending
        });
        self.told |= matches!(taken, Poll::Ready(Some(Err(_))));
        taken
    }
}

impl Stream for Consumer {
    type Item = Result<ConsumerEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        Poll::Ready(match std::task::ready!(self.poll_taken(context, false)) {
            None => None,
            Some(Err(error)) => Some(Err(error)),
            Some(Ok(Taken::Event(event))) => Some(Ok(event)),
            Some(Ok(Taken::Record(ticket, record))) => {
                let delivery = Delivery::new(record, ticket, self.group.mode(), &self.handle.shared);
                Some(Ok(ConsumerEvent::Delivery(delivery)))
            }
            Some(Ok(Taken::Frame(_))) => unreachable!("frames were not asked for"),
        })
    }
}

/// What happens beside records, for those who only handle records.
fn log(event: &ConsumerEvent) {
    match event {
        ConsumerEvent::Delivery(_) | ConsumerEvent::CaughtUp { .. } | ConsumerEvent::FellBehind { .. } => {}
        ConsumerEvent::Assigned(unit) => {
            tracing::debug!(topic = %unit.source.topic, partition = unit.source.partition, slots = ?unit.slots, "assigned");
        }
        ConsumerEvent::Revoked(unit) => {
            tracing::debug!(topic = %unit.source.topic, partition = unit.source.partition, slots = ?unit.slots, "revoked");
        }
        ConsumerEvent::Gap { source, from, to, reason, stopped, .. } => {
            tracing::warn!(topic = %source.topic, partition = source.partition, from, to, ?reason, stopped, "gap");
        }
        ConsumerEvent::ReplayDone { replay_id, source, cancelled } => {
            let partition = source.as_ref().map(|source| source.partition);
            tracing::info!(replay_id, ?partition, cancelled, "a replay has ended");
        }
        ConsumerEvent::Paused { reason, topic, partition, note } => {
            tracing::info!(?reason, ?topic, ?partition, note, "deliveries pause");
        }
        ConsumerEvent::Resumed { reason, topic, partition } => {
            tracing::info!(?reason, ?topic, ?partition, "deliveries go on");
        }
    }
}
