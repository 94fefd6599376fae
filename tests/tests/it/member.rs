//! A member of a group as a stock gRPC client would be one: frames out, frames in, nothing hidden.

use sawlog_proto::v1::consume_request::Frame as Ask;
use sawlog_proto::v1::consume_response::Frame as Told;
use sawlog_proto::v1::consume_service_client::ConsumeServiceClient;
use sawlog_proto::v1::dead_letter_service_client::DeadLetterServiceClient;
use sawlog_proto::v1::group_service_client::GroupServiceClient;
use sawlog_proto::v1::{self, GroupMode};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use crate::wire::Wire;

/// Id number `n`.
pub(crate) fn member_id(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

pub(crate) fn groups(wire: &Wire) -> GroupServiceClient<Channel> {
    GroupServiceClient::new(wire.channel.clone())
}

pub(crate) fn letters(wire: &Wire) -> DeadLetterServiceClient<Channel> {
    DeadLetterServiceClient::new(wire.channel.clone()).max_decoding_message_size(8 << 20)
}

/// Settings of a group on one topic, quick to retry.
pub(crate) fn settings(topic: &str, mode: GroupMode) -> v1::GroupConfig {
    let names = v1::TopicNames { names: vec![topic.to_owned()] };
    let list = v1::BackoffList { delays_ms: vec![1] };
    v1::GroupConfig {
        mode: mode.into(),
        subscription: Some(v1::group_config::Subscription::Topics(names)),
        retry: Some(v1::RetryPolicy {
            max_attempts: Some(2),
            backoff: Some(v1::retry_policy::Backoff::List(list)),
            ..Default::default()
        }),
        breaker: Some(v1::BreakerConfig { enabled: Some(false), ..Default::default() }),
        ..Default::default()
    }
}

/// Creates a group.
pub(crate) async fn create(wire: &Wire, name: &str, config: v1::GroupConfig) -> v1::Group {
    let request = v1::CreateGroupRequest { name: name.into(), config: Some(config), ..Default::default() };
    groups(wire).create_group(request).await.unwrap().into_inner().group.unwrap()
}

/// What a member that takes everything says first.
pub(crate) fn join(group: &str, member: u32) -> v1::Join {
    v1::Join {
        group: group.into(),
        member_id: member_id(member),
        credit: Some(v1::Credit { records: 1_000, bytes: 64 << 20 }),
        ..Default::default()
    }
}

/// One stream.
pub(crate) struct Member {
    ask: mpsc::Sender<v1::ConsumeRequest>,
    told: Streaming<v1::ConsumeResponse>,
}

impl Member {
    /// Opens a stream and says nothing.
    pub(crate) async fn silent(wire: &Wire) -> Self {
        let (ask, frames) = mpsc::channel(4_096);
        let mut client = ConsumeServiceClient::new(wire.channel.clone()).max_decoding_message_size(8 << 20);
        let told = client.consume(ReceiverStream::new(frames)).await.unwrap().into_inner();
        Self { ask, told }
    }

    /// Joins, and takes the first answer.
    pub(crate) async fn joined(wire: &Wire, join: v1::Join) -> (Self, v1::Joined) {
        let mut member = Self::silent(wire).await;
        member.ask(Ask::Join(join)).await;
        match member.told().await.unwrap() {
            Told::Joined(joined) => (member, joined),
            other => panic!("{other:?} before Joined"),
        }
    }

    pub(crate) async fn ask(&self, frame: Ask) {
        self.send(v1::ConsumeRequest { frame: Some(frame) }).await;
    }

    pub(crate) async fn send(&self, request: v1::ConsumeRequest) {
        self.ask.send(request).await.unwrap();
    }

    /// The next frame; the end of the stream without a reason is an error of code OK.
    pub(crate) async fn told(&mut self) -> Result<Told, Status> {
        match self.told.message().await? {
            Some(response) => Ok(response.frame.unwrap()),
            None => Err(Status::ok("the stream has ended")),
        }
    }

    /// The first frame that `wanted` takes; others are passed.
    pub(crate) async fn until<T>(&mut self, mut wanted: impl FnMut(Told) -> Option<T>) -> T {
        loop {
            if let Some(found) = wanted(self.told().await.unwrap()) {
                return found;
            }
        }
    }

    /// Why the stream ends, whatever else comes before.
    pub(crate) async fn end(&mut self) -> Status {
        loop {
            if let Err(status) = self.told().await {
                return status;
            }
        }
    }

    /// Frames of records until `count` were delivered.
    pub(crate) async fn records(&mut self, count: usize) -> Vec<v1::Records> {
        let (mut frames, mut got) = (Vec::new(), 0);
        while got < count {
            let records = self.until(|told| if let Told::Records(records) = told { Some(records) } else { None }).await;
            got += records.deliveries.len();
            frames.push(records);
        }
        frames
    }

    /// The result of an Ack, Nack or Extend of this number.
    pub(crate) async fn result(&mut self, sequence: u64) -> v1::AckResult {
        self.until(|told| match told {
            Told::AckResult(result) if result.sequence == sequence => Some(result),
            _ => None,
        })
        .await
    }

    /// Acks and takes the result.
    pub(crate) async fn ack(&mut self, sequence: u64, work: v1::Work) -> v1::AckResult {
        self.ask(Ask::Ack(v1::Ack { sequence, work: vec![work] })).await;
        self.result(sequence).await
    }

    /// Nacks and takes the result.
    pub(crate) async fn nack(&mut self, nack: v1::Nack) -> v1::AckResult {
        let sequence = nack.sequence;
        self.ask(Ask::Nack(nack)).await;
        self.result(sequence).await
    }
}

/// Offsets of a source, for a verb.
pub(crate) fn work(frame: &v1::Records, offsets: impl IntoIterator<Item = i64>) -> v1::Work {
    v1::Work {
        source_id: frame.source_id,
        assignment_epoch: frame.assignment_epoch,
        offsets: offsets.into_iter().map(|from| v1::OffsetRun { from, count: 1 }).collect(),
        entries: Vec::new(),
    }
}

/// What a verb is about if it is one delivery.
pub(crate) fn work_of(frame: &v1::Records, delivery: &v1::Delivery) -> v1::Work {
    match &delivery.entry {
        None => work(frame, [delivery.offset]),
        Some(entry) => {
            let entries = vec![v1::EntryRef { dlq_id: entry.dlq_id.clone(), version: None }];
            v1::Work { entries, ..work(frame, []) }
        }
    }
}

/// The outcome of a verb whose records all had the same; OK if it names none.
pub(crate) fn outcome(result: &v1::AckResult) -> v1::WorkOutcome {
    assert_eq!(result.failure, None);
    let mut outcomes = result.results.iter().map(v1::WorkResult::outcome);
    let first = outcomes.next().unwrap_or(v1::WorkOutcome::Ok);
    assert!(outcomes.all(|outcome| outcome == first), "{result:?}");
    first
}

/// The reason for which a verb was refused as a whole.
pub(crate) fn refusal(result: &v1::AckResult) -> v1::ErrorReason {
    result.failure.as_ref().expect("a refusal").reason()
}
