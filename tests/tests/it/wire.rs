//! The services as a stock gRPC client sees them, without our client crate in between.

use sawlog_proto::v1;
use sawlog_proto::v1::produce_service_client::ProduceServiceClient;
use sawlog_proto::v1::read_service_client::ReadServiceClient;
use sawlog_proto::v1::topic_service_client::TopicServiceClient;
use sawlog_testing::TestBroker;
use tonic::Streaming;
use tonic::transport::{Channel, Endpoint};

pub(crate) struct Wire {
    pub(crate) channel: Channel,
    pub(crate) topics: TopicServiceClient<Channel>,
    pub(crate) produce: ProduceServiceClient<Channel>,
    pub(crate) read: ReadServiceClient<Channel>,
}

impl Wire {
    pub(crate) async fn new(broker: &TestBroker) -> Self {
        Self::at(&broker.url()).await
    }

    pub(crate) async fn at(url: &str) -> Self {
        let endpoint = Endpoint::from_shared(url.to_owned()).unwrap();
        let channel = endpoint.connect().await.unwrap();
        Self {
            topics: TopicServiceClient::new(channel.clone()).max_decoding_message_size(8 << 20),
            produce: ProduceServiceClient::new(channel.clone()).max_decoding_message_size(8 << 20),
            read: ReadServiceClient::new(channel.clone()).max_decoding_message_size(8 << 20),
            channel,
        }
    }

    /// Creates a topic.
    pub(crate) async fn topic(&mut self, name: &str, config: v1::TopicConfig) -> v1::Topic {
        let config = Some(config);
        let request = v1::CreateTopicRequest { name: name.into(), config, ..Default::default() };
        self.topics.create_topic(request).await.unwrap().into_inner().topic.unwrap()
    }

    /// Produces plain records and expects that all of them are written.
    pub(crate) async fn write(&mut self, topic: &str, records: Vec<v1::ProduceRecord>) -> v1::ProduceResponse {
        let response = self.produce.produce(plain(topic, records)).await.unwrap().into_inner();
        for part in &response.parts {
            assert_eq!(part.failure, None);
        }
        response
    }

    pub(crate) async fn open(&mut self, request: v1::ReadRequest) -> Streaming<v1::ReadResponse> {
        self.read.read(request).await.unwrap().into_inner()
    }

    /// All frames of a read that ends.
    pub(crate) async fn frames(&mut self, request: v1::ReadRequest) -> Vec<v1::read_response::Frame> {
        let mut stream = self.open(request).await;
        let mut frames = Vec::new();
        while let Some(response) = stream.message().await.unwrap() {
            frames.push(response.frame.unwrap());
        }
        frames
    }

    /// Offset and value of all records of a read that ends.
    pub(crate) async fn values(&mut self, request: v1::ReadRequest) -> Vec<(u32, i64, String)> {
        values(&self.frames(request).await)
    }
}

pub(crate) fn values(frames: &[v1::read_response::Frame]) -> Vec<(u32, i64, String)> {
    let mut out = Vec::new();
    for frame in frames {
        if let v1::read_response::Frame::Records(frame) = frame {
            for record in &frame.records {
                let value = record.record.as_ref().unwrap().value.clone().unwrap_or_default();
                out.push((frame.partition, record.offset, String::from_utf8(value.to_vec()).unwrap()));
            }
        }
    }
    out
}

/// A record without key.
pub(crate) fn value(value: impl Into<String>) -> v1::ProduceRecord {
    let value = Some(value.into().into());
    v1::ProduceRecord { record: Some(v1::Record { value, ..Default::default() }), partition: None }
}

/// A record with a key.
pub(crate) fn keyed(key: &str, text: impl Into<String>) -> v1::ProduceRecord {
    let mut record = value(text);
    record.record.as_mut().unwrap().key = Some(key.to_owned().into());
    record
}

pub(crate) fn plain(topic: &str, records: Vec<v1::ProduceRecord>) -> v1::ProduceRequest {
    v1::ProduceRequest {
        topic: topic.into(),
        payload: Some(v1::produce_request::Payload::Records(v1::PlainRecords { records })),
        ..Default::default()
    }
}

pub(crate) fn ready(topic: &str, partition: u32, batch: bytes::Bytes) -> v1::ProduceRequest {
    let batch = v1::ReadyBatch { partition, batch, ..Default::default() };
    v1::ProduceRequest {
        topic: topic.into(),
        payload: Some(v1::produce_request::Payload::RecordBatch(batch)),
        ..Default::default()
    }
}

/// Topics without keys: records may go anywhere.
pub(crate) fn unkeyed(partitions: u32) -> v1::TopicConfig {
    v1::TopicConfig { partitions: Some(partitions), keyed: Some(false), ..Default::default() }
}

pub(crate) fn all_of(topic: &str) -> v1::ReadRequest {
    v1::ReadRequest { topic: topic.into(), ..Default::default() }
}

pub(crate) fn from(at: v1::read_start::At) -> Option<v1::ReadStart> {
    Some(v1::ReadStart { at: Some(at) })
}

pub(crate) fn until(at: v1::read_end::At) -> Option<v1::ReadEnd> {
    Some(v1::ReadEnd { at: Some(at) })
}
