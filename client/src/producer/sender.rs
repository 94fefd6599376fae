//! The task of a producer: moves due batches from the accumulator into the window and on to one ProduceStream, brings
//! answers back, and opens the stream again after a cut.
//!
//! What an answer or a cut means is decided in `window`; here is only the I/O. Every batch is settled in the end, also
//! when the task is dropped.

use std::sync::Arc;

use parking_lot::Mutex;
use sawlog_proto::partitioner::HASH_VERSION;
use sawlog_proto::v1;
use tokio::sync::{Notify, mpsc};
use tokio::time::Instant;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tonic::{Response, Status, Streaming};

use super::accumulator::{Accumulator, Filled};
use super::receipt::{BatchFailure, BatchPlace, Left};
use super::window::{Identity, Need, Outgoing, Window};
use super::{LostRecords, Settings, init_producer};
use crate::connection::Client;
use crate::error::{self, Error, ErrorKind, ErrorReason};
use crate::retry::Retry;
use crate::types::{AckLevel, RecordPosition, Topic, TopicId, unsigned};

/// Requests handed to the connection and not yet taken by it. Their batches are counted in the producer's buffer.
const QUEUE: usize = 64;

/// What producers and their sender share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) accumulator: Mutex<Accumulator>,
    /// Tells the sender to look.
    pub(crate) wake: Notify,
    /// Tells those who wait for room or for a flush to look.
    settled: Notify,
    pub(crate) topic: Mutex<Topic>,
    pub(crate) lost: Mutex<Vec<LostRecords>>,
    /// The sender has ended.
    pub(crate) ended: CancellationToken,
}

impl Shared {
    pub(crate) fn new(accumulator: Accumulator, topic: Topic) -> Self {
        Self {
            accumulator: Mutex::new(accumulator),
            wake: Notify::new(),
            settled: Notify::new(),
            topic: Mutex::new(topic),
            lost: Mutex::default(),
            ended: CancellationToken::new(),
        }
    }

    /// Takes no more records; the sender ends when what is buffered is answered.
    pub(crate) fn close(&self, error: Error) {
        self.accumulator.lock().close(error);
        self.wake.notify_one();
        self.settled.notify_waiters();
    }

    /// Waits until `ready` gives something; asked again whenever a batch is settled.
    pub(crate) async fn wait_until<T>(&self, mut ready: impl FnMut(&mut Accumulator) -> Option<T>) -> T {
        loop {
            let settled = self.settled.notified();
            tokio::pin!(settled);
            // From here on no notification is missed, so that the look below cannot be outdated.
            settled.as_mut().enable();
            if let Some(found) = ready(&mut self.accumulator.lock()) {
                return found;
            }
            settled.await;
        }
    }
}

/// How a stream came to its end.
enum End {
    /// Closed, and all is answered.
    Finished,
    /// Cut: try again.
    Cut(Error),
    /// There was no connection: try again, nothing was sent.
    Unconnected(Error),
    /// No use in trying again.
    Fatal(Error),
}

type Answers = Streaming<v1::ProduceStreamResponse>;
type Answer = Result<Option<v1::ProduceStreamResponse>, Status>;

/// See the module.
#[derive(Debug)]
pub(crate) struct Sender {
    client: Client,
    settings: Settings,
    shared: Arc<Shared>,
    window: Window,
    topic: Topic,
    due: Vec<Filled>,
    /// When the next open batch is due.
    next_due: Option<Instant>,
}

impl Sender {
    pub(crate) fn new(client: Client, settings: Settings, shared: Arc<Shared>, identity: Option<Identity>) -> Self {
        let topic = shared.topic.lock().clone();
        let window = Window::new(topic.partitions().max(1), settings.max_in_flight, identity);
        Self { client, settings, shared, window, topic, due: Vec::new(), next_due: None }
    }

    pub(crate) async fn run(mut self) {
        let mut retry = Retry::new();
        loop {
            self.collect();
            if self.is_done() {
                return;
            }
            if self.window.is_empty() {
                // Nothing to send: no stream is opened before there is.
                self.sleep(None).await;
                continue;
            }
            let (error, connected) = match self.stream(&mut retry).await {
                End::Finished => return,
                End::Fatal(error) => {
                    self.fail(&error);
                    return;
                }
                End::Cut(error) => (error, true),
                End::Unconnected(error) => (error, false),
            };
            tracing::debug!(topic = %self.topic.name, error = %error, connected, "produce stream cut");
            self.window.cut(&error, connected);
            let until = Instant::now() + retry.next_wait(error.retry_after());
            while Instant::now() < until && !self.is_done() {
                self.collect();
                self.sleep(Some(until)).await;
            }
        }
    }

    /// One stream, from its opening to its end.
    async fn stream(&mut self, retry: &mut Retry) -> End {
        let (requests, queue) = mpsc::channel(QUEUE);
        let mut produce = self.client.produce();
        let opening = produce.produce_stream(ReceiverStream::new(queue));
        tokio::pin!(opening);
        let mut answers: Option<Answers> = None;
        loop {
            self.collect();
            self.send(&requests);
            if let Some(fatal) = self.window.fatal() {
                return End::Fatal(fatal.clone());
            }
            if let Some(need) = self.window.need() {
                // What is needed may show only when something is to be sent; then nothing else would wake this loop.
                if let Some(end) = self.see_to(need).await {
                    return end;
                }
                continue;
            }
            if self.is_done() {
                return End::Finished;
            }
            let full = requests.capacity() == 0;
            let wake_at = earliest(self.next_due, self.window.next_deadline(Instant::now()));
            let answer = tokio::select! {
                biased;
                answer = next_answer(&mut answers, opening.as_mut()) => answer,
                () = self.shared.wake.notified() => continue,
                _ = requests.reserve(), if full => continue,
                () = sleep_until(wake_at) => {
                    if self.window.expire(Instant::now()) {
                        return End::Cut(Error::new(ErrorKind::Timeout, "the broker did not answer in time"));
                    }
                    continue;
                }
            };
            match answer {
                Ok(Some(answer)) => {
                    retry.reset();
                    if let Err(error) = self.answered(answer) {
                        return End::Cut(error);
                    }
                }
                Ok(None) => return End::Cut(Error::new(ErrorKind::Unavailable, "the broker ended the stream")),
                Err(status) => {
                    let error = Error::from_status(&status);
                    if answers.is_none() && error::is_unconnected(&status) {
                        return End::Unconnected(error);
                    }
                    return if error.is_retryable() { End::Cut(error) } else { End::Fatal(error) };
                }
            }
        }
    }

    /// Moves what is due from the accumulator into the window, and what is settled back.
    fn collect(&mut self) {
        self.window.expire(Instant::now());
        let mut accumulator = self.shared.accumulator.lock();
        let mut settled = false;
        for done in self.window.take_settled() {
            accumulator.settled(done.id, done.bytes, done.error.as_ref());
            settled = true;
        }
        let window = &self.window;
        self.next_due = accumulator.take_due(Instant::now(), |partition| window.room(partition), &mut self.due);
        drop(accumulator);
        for filled in self.due.drain(..) {
            let deadline = filled.opened_at + self.settings.delivery_timeout;
            self.window.admit(filled, deadline);
        }
        let lost = self.window.take_lost();
        if !lost.is_empty() {
            self.shared.lost.lock().extend(lost);
        }
        if settled {
            self.shared.settled.notify_waiters();
        }
    }

    fn send(&mut self, requests: &mpsc::Sender<v1::ProduceStreamRequest>) {
        let now = Instant::now();
        while let Ok(place) = requests.try_reserve() {
            let Some(outgoing) = self.window.next_send(now) else { return };
            let Outgoing { request_id, partition, batch, spare } = outgoing;
            if let Some(spare) = spare {
                self.shared.accumulator.lock().recycle(spare);
            }
            let batch =
                v1::ReadyBatch { partition, batch, hash_version: HASH_VERSION, topic_revision: self.topic.revision };
            let request = v1::ProduceRequest {
                topic: self.topic.name.clone(),
                ack: AckLevel::to_wire(self.settings.ack),
                producer: None,
                payload: Some(v1::produce_request::Payload::RecordBatch(batch)),
            };
            place.send(v1::ProduceStreamRequest { request_id, request: Some(request) });
        }
    }

    async fn see_to(&mut self, need: Need) -> Option<End> {
        match need {
            Need::NewEpoch => match init_producer(&self.client, &self.settings.name).await {
                Ok(identity) => {
                    tracing::info!(topic = %self.topic.name, epoch = identity.epoch, "producer began a new epoch");
                    self.window.renewed(identity);
                }
                Err(error) if error.is_retryable() => return Some(End::Cut(error)),
                Err(error) => return Some(End::Fatal(error)),
            },
            Need::Refresh => match self.client.admin().get_topic(&self.topic.name).await {
                Ok(topic) if topic.topic_id == self.topic.topic_id => {
                    self.window.refreshed();
                    (*self.shared.topic.lock()).clone_from(&topic);
                    self.topic = topic;
                }
                Ok(_) => {
                    let message = "the topic was deleted; the one made anew under its name is another";
                    return Some(End::Fatal(Error::refused(ErrorReason::TopicNotFound, message)));
                }
                Err(error) if error.is_retryable() => return Some(End::Cut(error)),
                Err(error) => return Some(End::Fatal(error)),
            },
        }
        None
    }

    /// # Errors
    /// If the answer is none to what was asked.
    fn answered(&mut self, answer: v1::ProduceStreamResponse) -> Result<(), Error> {
        use v1::produce_stream_response::Outcome;
        let outcome = match answer.outcome {
            Some(Outcome::Response(response)) => self.outcome_of(response)?,
            Some(Outcome::Failure(failure)) => Err(BatchFailure::of(Error::from_failure(&failure))),
            None => return Err(Error::protocol("an answer without an outcome")),
        };
        self.window.answered(answer.request_id, outcome, Instant::now())
    }

    fn outcome_of(&self, mut response: v1::ProduceResponse) -> Result<Result<BatchPlace, BatchFailure>, Error> {
        let part = match (response.parts.pop(), response.parts.is_empty()) {
            (Some(part), true) => part,
            _ => return Err(Error::protocol("not one part in the answer to a batch")),
        };
        let known = &self.topic.topic_id;
        let topic_id = if known.as_str() == response.topic_id { known.clone() } else { (&*response.topic_id).into() };
        let ack = AckLevel::from_wire(part.ack());
        let left = part.repeats.iter().map(|repeat| left_of(repeat, &topic_id, ack));
        let left: Vec<_> = left.collect::<Result<_, Error>>()?;
        if part.failure.is_some() || !left.is_empty() {
            let error = part.failure.as_ref().map_or_else(
                || Error::refused(ErrorReason::NotWritten, "every record stands in the log already"),
                Error::from_failure,
            );
            let records = part.record_failures.iter().filter_map(|record| {
                let failure = record.failure.as_ref()?;
                Some((record.index, Error::from_failure(failure)))
            });
            return Ok(Err(BatchFailure { error, records: records.collect(), left }));
        }
        let Some(ack) = ack else {
            return Err(Error::protocol("an acknowledgement without a level"));
        };
        Ok(Ok(BatchPlace {
            topic_id,
            partition: part.partition,
            epoch: part.epoch,
            base_offset: unsigned(part.base_offset),
            append_time_ms: part.append_time_ms,
            duplicate: part.duplicate,
            ack,
            left: Vec::new(),
        }))
    }

    /// Waits until there may be something to do, at most until `until`.
    async fn sleep(&self, until: Option<Instant>) {
        let wake_at = earliest(until, earliest(self.next_due, self.window.next_deadline(Instant::now())));
        tokio::select! {
            () = self.shared.wake.notified() => {}
            () = sleep_until(wake_at) => {}
        }
    }

    /// Closed, and nothing is left to answer.
    fn is_done(&self) -> bool {
        if !self.window.is_empty() {
            return false;
        }
        let accumulator = self.shared.accumulator.lock();
        accumulator.is_closed() && accumulator.is_empty()
    }

    /// Ends everything with this error.
    fn fail(&mut self, error: &Error) {
        self.shared.close(error.clone());
        let buffered = self.shared.accumulator.lock().drain();
        let now = Instant::now();
        for filled in buffered {
            self.window.admit(filled, now);
        }
        self.window.fail_all(error);
        self.collect();
    }
}

impl Drop for Sender {
    fn drop(&mut self) {
        self.fail(&Error::closed("the producer"));
        self.shared.ended.cancel();
    }
}

/// A record that stands in the log already.
fn left_of(repeat: &v1::RepeatedRecord, topic_id: &TopicId, ack: Option<AckLevel>) -> Result<(u32, Left), Error> {
    use v1::repeated_record::First;
    let left = match (repeat.first, ack) {
        (Some(First::SameAs(first)), _) if first < repeat.index => Left::SameAs(first),
        (Some(First::Position(place)), Some(ack)) => Left::Repeat(Box::new(RecordPosition {
            topic_id: topic_id.clone(),
            partition: place.partition,
            epoch: place.epoch,
            offset: unsigned(place.offset),
            append_time_ms: place.append_time_ms,
            duplicate: true,
            ack,
        })),
        _ => return Err(Error::protocol("a repeat without a place")),
    };
    Ok((repeat.index, left))
}

fn earliest(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The next answer; before it, the opening of the stream. Nothing is lost when it is dropped while it waits.
async fn next_answer(
    answers: &mut Option<Answers>,
    opening: std::pin::Pin<&mut impl Future<Output = Result<Response<Answers>, Status>>>,
) -> Answer {
    if answers.is_none() {
        *answers = Some(opening.await?.into_inner());
    }
    answers.as_mut().expect("it was opened above").message().await
}

#[cfg(test)]
mod tests;
