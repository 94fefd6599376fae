//! The stream of a read: opens it, hands out what comes, and opens it again after a cut.
//!
//! Where it goes on is decided in `resume`; here is only the I/O. No task of its own: it reads when it is polled, so a
//! slow reader holds up nobody but itself.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use sawlog_proto::v1;
use tokio::time::{Instant, Sleep};
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::batch::OpenBatch;
use super::resume::Progress;
use super::{BatchEvent, GapReason, ReadEvent, Start};
use crate::connection::Client;
use crate::error::{Error, ErrorKind};
use crate::retry::Retry;
use crate::types::TopicId;

/// A read under way: a stream of events. Ends after the last [`ReadEvent::PartitionEnd`], after the last record of a
/// read by count, or after an error. Cuts are mended by itself: without `follow` for as long as the client's
/// `call_timeout`, with it for ever.
#[derive(Debug)]
pub struct Reader {
    client: Client,
    progress: Progress,
    state: State,
    /// Events that came and were not handed out.
    queue: VecDeque<BatchEvent>,
    frame_events: Vec<BatchEvent>,
    /// The batch whose records are being handed out.
    open: Option<OpenBatch>,
    /// Where each partition stands for the reader of this stream.
    delivered: Vec<Start>,
    retry: Retry,
    failing_since: Option<Instant>,
}

type Opening = Pin<Box<dyn Future<Output = Result<Streaming<v1::ReadResponse>, Status>> + Send>>;

enum State {
    /// No stream is open.
    Idle,
    Opening(Opening),
    Reading(Box<Streaming<v1::ReadResponse>>),
    Waiting(Pin<Box<Sleep>>),
    Ended,
}

impl std::fmt::Debug for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Idle => "Idle",
            Self::Opening(_) => "Opening",
            Self::Reading(_) => "Reading",
            Self::Waiting(_) => "Waiting",
            Self::Ended => "Ended",
        })
    }
}

impl Reader {
    pub(super) fn new(client: Client, progress: Progress, events: Vec<BatchEvent>) -> Self {
        Self {
            client,
            delivered: progress.positions(),
            progress,
            state: State::Idle,
            queue: events.into(),
            frame_events: Vec::new(),
            open: None,
            retry: Retry::new(),
            failing_since: None,
        }
    }

    /// The next batch or event, for readers in a hurry: the records of a batch are unpacked in place, without an
    /// allocation each. A reader with a filter gets its records one by one, as [`ReadEvent::Record`]. Not to be mixed
    /// with the stream of single records.
    pub async fn next_batch(&mut self) -> Option<Result<BatchEvent, Error>> {
        let event = std::future::poll_fn(|context| self.poll_event(context)).await;
        match &event {
            Some(Ok(BatchEvent::Batch(batch))) => {
                let next = batch.base_offset + u64::from(batch.last);
                self.delivered_to(batch.partition, next, Some(batch.epoch));
            }
            Some(Ok(BatchEvent::Event(event))) => self.delivered_event(&event.clone()),
            _ => {}
        }
        event
    }

    /// Where the read stands: per partition the next offset, with the epoch of the record before it. Give it to
    /// [`super::ReaderFrom::Starts`] to go on there.
    pub fn positions(&self) -> &[Start] {
        &self.delivered
    }

    /// Id of the topic that is read.
    pub fn topic_id(&self) -> &TopicId {
        self.progress.topic_id()
    }

    fn poll_event(&mut self, context: &mut Context<'_>) -> Poll<Option<Result<BatchEvent, Error>>> {
        loop {
            if let Some(event) = self.queue.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            if self.progress.is_finished() {
                self.state = State::Ended;
            }
            match &mut self.state {
                State::Ended => return Poll::Ready(None),
                State::Idle => {
                    let (mut reads, request) = (self.client.reads(), self.progress.request());
                    let opening = async move { reads.read(request).await.map(tonic::Response::into_inner) };
                    self.state = State::Opening(Box::pin(opening));
                }
                State::Opening(opening) => match ready!(opening.as_mut().poll(context)) {
                    Ok(stream) => self.state = State::Reading(Box::new(stream)),
                    Err(status) => self.cut(Error::from_status(&status))?,
                },
                State::Waiting(sleep) => {
                    ready!(sleep.as_mut().poll(context));
                    self.state = State::Idle;
                }
                State::Reading(stream) => match ready!(Pin::new(stream).poll_next(context)) {
                    Some(Ok(frame)) => {
                        self.retry.reset();
                        self.failing_since = None;
                        if let Err(error) = self.progress.frame(frame, &mut self.frame_events) {
                            self.state = State::Ended;
                            return Poll::Ready(Some(Err(error)));
                        }
                        self.queue.extend(self.frame_events.drain(..));
                    }
                    Some(Err(status)) => self.cut(Error::from_status(&status))?,
                    // An end before the read's own end is a cut like any other.
                    None => self.cut(Error::new(ErrorKind::Unavailable, "the broker ended the stream"))?,
                },
            }
        }
    }

    /// The stream ended too early: waits and goes on, or gives up.
    fn cut(&mut self, error: Error) -> Result<(), Error> {
        if self.progress.out_of_range(&error, &mut self.frame_events) {
            self.queue.extend(self.frame_events.drain(..));
            self.state = State::Idle;
            return Ok(());
        }
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let patient = self.progress.follows() || since.elapsed() < self.client.call_timeout();
        if !error.is_retryable() || !patient {
            self.state = State::Ended;
            return Err(error);
        }
        tracing::debug!(error = %error, "read cut");
        let wait = self.retry.next_wait(error.retry_after());
        self.state = State::Waiting(Box::pin(tokio::time::sleep(wait)));
        Ok(())
    }

    fn delivered_to(&mut self, partition: u32, next: u64, epoch: Option<u32>) {
        if let Some(start) = self.delivered.iter_mut().find(|start| start.partition == partition) {
            (start.offset, start.epoch) = (next, epoch);
        }
    }

    fn delivered_event(&mut self, event: &ReadEvent) {
        match event {
            ReadEvent::Record(record) => self.delivered_to(record.partition, record.offset + 1, Some(record.epoch)),
            ReadEvent::Gap { partition, to, .. } => self.delivered_to(*partition, *to, None),
            _ => {}
        }
    }

    /// A batch that cannot be unpacked: a gap if damage is to be skipped, else the end.
    fn undecodable(&mut self, error: Error) -> Result<ReadEvent, Error> {
        let last: Option<u64> = error.fact_number("last_offset");
        let start = self.delivered.iter().find(|start| error.fact_number("partition") == Some(start.partition));
        match (start, last) {
            (Some(start), Some(last)) if self.progress.skips_damaged() => {
                let (partition, from, to) = (start.partition, start.offset, last + 1);
                Ok(ReadEvent::Gap { partition, from, to, reason: GapReason::Undecodable })
            }
            _ => {
                self.state = State::Ended;
                self.queue.clear();
                Err(error)
            }
        }
    }
}

impl Stream for Reader {
    type Item = Result<ReadEvent, Error>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let this = &mut *self;
        loop {
            let event = match this.open.as_mut().map(OpenBatch::next_record) {
                Some(Some(Ok(record))) => ReadEvent::Record(record),
                Some(Some(Err(error))) => {
                    this.open = None;
                    this.undecodable(error)?
                }
                Some(None) => {
                    this.open = None;
                    continue;
                }
                None => match ready!(this.poll_event(context)?) {
                    None => return Poll::Ready(None),
                    Some(BatchEvent::Event(event)) => event,
                    Some(BatchEvent::Batch(batch)) => match OpenBatch::new(batch) {
                        Ok(open) => {
                            this.open = Some(open);
                            continue;
                        }
                        Err(error) => this.undecodable(error)?,
                    },
                },
            };
            this.delivered_event(&event);
            return Poll::Ready(Some(Ok(event)));
        }
    }
}
