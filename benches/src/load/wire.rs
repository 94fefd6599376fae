//! Loads on the generated stubs.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sawlog_broker::limits;
use sawlog_proto::batch::{BatchBuilder, Codec};
use sawlog_proto::v1::produce_service_client::ProduceServiceClient;
use sawlog_proto::v1::read_service_client::ReadServiceClient;
use sawlog_proto::v1::{self, produce_request, produce_stream_response};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Status;
use tonic::transport::{Channel, Endpoint};

use crate::stats::Latencies;
use crate::timing::Stopwatch;

/// HTTP/2 windows, as the client crate sets them.
const STREAM_WINDOW_BYTES: u32 = 8 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// A connection with the client crate's HTTP/2 settings.
///
/// # Errors
/// The server cannot be reached.
pub async fn connect(url: &str) -> Result<Channel, tonic::transport::Error> {
    Endpoint::from_shared(url.to_owned())?
        .tcp_nodelay(true)
        .max_frame_size(limits::HTTP2_FRAME_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect()
        .await
}

/// The produce service on a connection, with message limits of the broker.
pub fn produce_client(channel: Channel) -> ProduceServiceClient<Channel> {
    ProduceServiceClient::new(channel)
        .max_decoding_message_size(limits::GRPC_MESSAGE_BYTES)
        .max_encoding_message_size(limits::GRPC_MESSAGE_BYTES)
}

/// The read service on a connection, with message limits of the broker.
pub fn read_client(channel: Channel) -> ReadServiceClient<Channel> {
    ReadServiceClient::new(channel).max_decoding_message_size(limits::GRPC_MESSAGE_BYTES)
}

/// A batch of equal records without keys.
pub fn batch(records: u32, record_bytes: usize) -> Bytes {
    let value = super::payload(record_bytes);
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.push(1_700_000_000_000, None, Some(&value), std::iter::empty());
    }
    builder.finish()
}

/// A request with a ready batch.
pub fn ready_request(topic: &str, partition: u32, batch: Bytes, ack: v1::AckLevel) -> v1::ProduceRequest {
    let ready = v1::ReadyBatch { partition, batch, hash_version: 1, topic_revision: 0 };
    v1::ProduceRequest {
        topic: topic.to_owned(),
        ack: ack.into(),
        producer: None,
        payload: Some(produce_request::Payload::RecordBatch(ready)),
    }
}

/// A request with plain records, all for one partition.
pub fn plain_request(topic: &str, records: usize, record_bytes: usize, ack: v1::AckLevel) -> v1::ProduceRequest {
    let record = v1::Record { value: Some(super::payload(record_bytes)), ..v1::Record::default() };
    let record = v1::ProduceRecord { record: Some(record), partition: Some(0) };
    v1::ProduceRequest {
        topic: topic.to_owned(),
        ack: ack.into(),
        producer: None,
        payload: Some(produce_request::Payload::Records(v1::PlainRecords { records: vec![record; records] })),
    }
}

/// A closed loop on one `ProduceStream`.
#[derive(Debug, Clone, Copy)]
pub struct ClosedLoop {
    /// Requests sent and not yet answered, at least 1.
    pub in_flight: usize,
    /// How long new requests are sent.
    pub duration: Duration,
}

/// What a closed loop did.
#[derive(Debug, Clone)]
pub struct LoopOutcome {
    /// Requests answered.
    pub answered: u64,
    /// Seconds from the first request to the last answer.
    pub seconds: f64,
    /// Time of each from request to answer.
    pub latencies: Latencies,
}

impl LoopOutcome {
    /// Joins a loop that ran at the same time.
    pub fn add(&mut self, other: &Self) {
        self.answered += other.answered;
        self.seconds = self.seconds.max(other.seconds);
        self.latencies.add(&other.latencies);
    }
}

/// Keeps so many requests in flight on one stream until the time is over, then waits for the last answers. `request`
/// makes the request of each number.
///
/// # Errors
/// The stream ends, or a request was refused.
pub async fn closed_loop(
    channel: Channel,
    load: ClosedLoop,
    mut request: impl FnMut(u64) -> v1::ProduceRequest,
) -> Result<LoopOutcome, Status> {
    let (requests, receiver) = mpsc::channel(load.in_flight);
    let clock = Stopwatch::start();
    let mut sent_at = VecDeque::with_capacity(load.in_flight);
    let mut next_id = 0;
    let mut next = |sent_at: &mut VecDeque<u64>| {
        sent_at.push_back(clock.nanos());
        next_id += 1;
        v1::ProduceStreamRequest { request_id: next_id, request: Some(request(next_id - 1)) }
    };
    for _ in 0..load.in_flight {
        send(&requests, next(&mut sent_at)).await?;
    }
    let mut responses = produce_client(channel).produce_stream(ReceiverStream::new(receiver)).await?.into_inner();
    let mut outcome = LoopOutcome { answered: 0, seconds: 0.0, latencies: Latencies::default() };
    while let Some(sent) = sent_at.pop_front() {
        let response = responses.message().await?.ok_or_else(|| Status::aborted("the stream ended early"))?;
        accepted(response)?;
        outcome.answered += 1;
        outcome.latencies.record_ns(clock.nanos() - sent);
        if clock.elapsed() < load.duration {
            send(&requests, next(&mut sent_at)).await?;
        }
    }
    outcome.seconds = clock.seconds();
    Ok(outcome)
}

async fn send(
    requests: &mpsc::Sender<v1::ProduceStreamRequest>,
    request: v1::ProduceStreamRequest,
) -> Result<(), Status> {
    requests.send(request).await.map_err(|_| Status::aborted("the stream takes no more requests"))
}

fn accepted(response: v1::ProduceStreamResponse) -> Result<(), Status> {
    let refused = |failure: v1::Failure| Status::aborted(format!("{:?}: {}", failure.reason(), failure.message));
    match response.outcome {
        Some(produce_stream_response::Outcome::Response(response)) => {
            response.parts.into_iter().find_map(|part| part.failure).map_or(Ok(()), |failure| Err(refused(failure)))
        }
        Some(produce_stream_response::Outcome::Failure(failure)) => Err(refused(failure)),
        None => Err(Status::aborted("a response without an outcome")),
    }
}

/// One unary `Produce` after the other for so long.
///
/// # Errors
/// A call failed or was refused.
pub async fn one_at_a_time(
    channel: Channel,
    duration: Duration,
    request: v1::ProduceRequest,
) -> Result<LoopOutcome, Status> {
    let mut client = produce_client(channel);
    let clock = Stopwatch::start();
    let mut outcome = LoopOutcome { answered: 0, seconds: 0.0, latencies: Latencies::default() };
    while clock.elapsed() < duration {
        let before = clock.nanos();
        let response = client.produce(request.clone()).await?.into_inner();
        if let Some(failure) = response.parts.into_iter().find_map(|part| part.failure) {
            return Err(Status::aborted(failure.message));
        }
        outcome.answered += 1;
        outcome.latencies.record_ns(clock.nanos() - before);
    }
    outcome.seconds = clock.seconds();
    Ok(outcome)
}
