//! Rules of Produce: parts, order, idempotence, and streams that no bad request ends.

use bytes::Bytes;
use sawlog_proto::batch::{BatchBuilder, Codec, ProducerStamp};
use sawlog_proto::partitioner::{HASH_VERSION, partition_of};
use sawlog_proto::v1::produce_stream_response::Outcome;
use sawlog_proto::v1::{self, AckLevel, ErrorReason};
use sawlog_testing::TestBroker;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

use crate::wire::{Wire, all_of, keyed, plain, ready, unkeyed, value};

/// A produce stream, both ways.
struct Stream {
    send: mpsc::Sender<v1::ProduceStreamRequest>,
    receive: Streaming<v1::ProduceStreamResponse>,
    next: u64,
}

impl Stream {
    async fn open(wire: &mut Wire) -> Self {
        let (send, requests) = mpsc::channel(1_024);
        let receive = wire.produce.produce_stream(ReceiverStream::new(requests)).await.unwrap().into_inner();
        Self { send, receive, next: 0 }
    }

    async fn send(&mut self, request: v1::ProduceRequest) {
        let request = v1::ProduceStreamRequest { request_id: self.next, request: Some(request) };
        self.next += 1;
        self.send.send(request).await.unwrap();
    }

    async fn receive(&mut self) -> v1::ProduceStreamResponse {
        self.receive.message().await.unwrap().expect("the stream is open")
    }
}

fn failure(outcome: Option<Outcome>) -> v1::Failure {
    match outcome {
        Some(Outcome::Failure(failure)) => failure,
        Some(Outcome::Response(response)) => response.parts[0].failure.clone().expect("a failure"),
        None => panic!("no outcome"),
    }
}

fn written(outcome: Option<Outcome>) -> v1::ProduceResponse {
    match outcome {
        Some(Outcome::Response(response)) => {
            assert_eq!(response.parts[0].failure, None);
            response
        }
        other => panic!("not written: {other:?}"),
    }
}

fn batch(codec: Codec, stamp: Option<(i64, i16, i32)>, values: &[&str]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    if let Some((producer_id, producer_epoch, base_sequence)) = stamp {
        builder.set_producer(ProducerStamp { producer_id, producer_epoch, base_sequence });
    }
    for value in values {
        builder.push(1_700_000_000_000, None, Some(value.as_bytes()), std::iter::empty());
    }
    builder.finish()
}

#[tokio::test]
async fn a_stream_answers_in_the_order_of_its_requests_while_many_are_in_flight() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(3)).await;
    let mut stream = Stream::open(&mut wire).await;
    for index in 0..600 {
        let mut request = plain("a", vec![value(format!("{index}"))]);
        if let Some(v1::produce_request::Payload::Records(records)) = &mut request.payload {
            records.records[0].partition = Some(index % 3);
        }
        stream.send(request).await;
    }
    for index in 0..600_u32 {
        let response = stream.receive().await;
        assert_eq!(response.request_id, u64::from(index));
        let response = written(response.outcome);
        assert_eq!(response.parts[0].base_offset, i64::from(index / 3), "request {index}");
        assert_eq!(response.parts[0].ack(), AckLevel::Durable);
        assert_eq!(response.records[0].offset, Some(i64::from(index / 3)));
    }
    let Stream { send, mut receive, .. } = stream;
    drop(send);
    assert!(receive.message().await.unwrap().is_none(), "the stream ends with its requests");
}

#[tokio::test]
async fn pr_10_and_pr_11_a_bad_request_is_answered_in_its_turn_and_blocks_nothing() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", v1::TopicConfig { max_record_bytes: Some(1_000), ..unkeyed(1) }).await;
    let mut stream = Stream::open(&mut wire).await;
    let good = || plain("a", vec![value("good")]);
    let mut corrupt = batch(Codec::None, None, &["x"]).to_vec();
    *corrupt.last_mut().unwrap() ^= 1;
    let bad: Vec<(v1::ProduceRequest, ErrorReason)> = vec![
        (plain("nowhere", vec![value("x")]), ErrorReason::TopicNotFound),
        (plain("a", vec![value("x".repeat(1_001))]), ErrorReason::NotWritten),
        (ready("a", 0, corrupt.into()), ErrorReason::InvalidBatch),
        (ready("a", 9, batch(Codec::None, None, &["x"])), ErrorReason::PartitionNotFound),
        (plain("a", vec![]), ErrorReason::InvalidField),
        (v1::ProduceRequest { ack: AckLevel::Written.into(), ..good() }, ErrorReason::AckBelowFloor),
        (v1::ProduceRequest { topic: "a".into(), ..Default::default() }, ErrorReason::InvalidField),
    ];
    for (request, _) in &bad {
        stream.send(request.clone()).await;
        stream.send(good()).await;
    }
    for (index, (_, reason)) in bad.iter().enumerate() {
        let response = stream.receive().await;
        assert_eq!(response.request_id, 2 * index as u64);
        let failure = failure(response.outcome);
        assert_eq!(failure.reason(), *reason, "{failure:?}");
        assert_eq!(failure.facts["outcome"], "not_written");
        assert!(!failure.message.is_empty());
        let response = written(stream.receive().await.outcome);
        assert_eq!(response.parts[0].base_offset, index as i64);
    }
    assert_eq!(wire.values(all_of("a")).await.len(), bad.len());
}

#[tokio::test]
async fn pr_1_the_key_chooses_the_partition_and_a_wrong_hint_is_refused() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", v1::TopicConfig { partitions: Some(5), ..Default::default() }).await;
    let keys: Vec<_> = (0..40).map(|number| format!("invoice-{number}")).collect();
    let response = wire.write("a", keys.iter().map(|key| keyed(key, key)).collect()).await;
    for (key, result) in keys.iter().zip(&response.records) {
        assert_eq!(result.partition, partition_of(key.as_bytes(), 5), "{key}");
    }
    for (partition, _, key) in wire.values(all_of("a")).await {
        assert_eq!(partition, partition_of(key.as_bytes(), 5));
    }
    let mut hinted = keyed("invoice-1", "x");
    hinted.partition = Some((partition_of(b"invoice-1", 5) + 1) % 5);
    let response = wire.produce.produce(plain("a", vec![hinted, value("no key")])).await.unwrap().into_inner();
    let reasons: Vec<_> = response.parts.iter().flat_map(|part| &part.record_failures).collect();
    let reasons: Vec<_> = reasons.iter().map(|bad| (bad.index, bad.failure.as_ref().unwrap().reason())).collect();
    assert!(reasons.contains(&(0, ErrorReason::WrongPartition)), "{reasons:?}");
    assert!(reasons.contains(&(1, ErrorReason::KeyRequired)), "{reasons:?}");
}

#[tokio::test]
async fn pr_3_a_part_with_a_bad_record_is_refused_whole_and_the_others_go_on() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(2)).await;
    let at = |partition, text: &str| v1::ProduceRecord { partition: Some(partition), ..value(text) };
    let mut late = at(0, "late");
    late.record.as_mut().unwrap().timestamp_ms = Some(i64::MAX);
    let records = vec![at(0, "a"), at(1, "b"), late, at(1, "c"), at(0, "d")];
    let response = wire.produce.produce(plain("a", records)).await.unwrap().into_inner();
    let refused = response.parts.iter().find(|part| part.partition == 0).unwrap();
    assert_eq!(refused.failure.as_ref().unwrap().reason(), ErrorReason::NotWritten);
    let bad: Vec<_> = refused.record_failures.iter().map(|bad| bad.index).collect();
    assert_eq!(bad, [2]);
    assert_eq!(refused.record_failures[0].failure.as_ref().unwrap().reason(), ErrorReason::InvalidTimestamp);
    let offsets: Vec<_> = response.records.iter().map(|record| record.offset).collect();
    assert_eq!(offsets, [None, Some(0), None, Some(1), None]);
    let read = wire.values(all_of("a")).await;
    assert_eq!(read, [(1, 0, "b".to_owned()), (1, 1, "c".to_owned())]);
}

#[tokio::test]
async fn pr_2_the_level_reached_is_answered_and_never_below_what_was_asked_for() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("w", v1::TopicConfig { ack_floor: AckLevel::Written.into(), ..unkeyed(1) }).await;
    let response = wire.write("w", vec![value("x")]).await;
    assert_ne!(response.parts[0].ack(), AckLevel::Unspecified);
    let durable = v1::ProduceRequest { ack: AckLevel::Durable.into(), ..plain("w", vec![value("y")]) };
    let response = wire.produce.produce(durable).await.unwrap().into_inner();
    assert_eq!(response.parts[0].ack(), AckLevel::Durable);
}

#[tokio::test]
async fn pr_7_a_repeated_batch_answers_its_first_offsets() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let init = v1::InitProducerRequest { name: "importer".into() };
    let first = wire.produce.init_producer(init.clone()).await.unwrap().into_inner();
    let (id, epoch) = (first.producer_id, first.producer_epoch as i16);
    let mut stream = Stream::open(&mut wire).await;
    let one = ready("a", 0, batch(Codec::None, Some((id, epoch, 0)), &["0", "1"]));
    let two = ready("a", 0, batch(Codec::Lz4, Some((id, epoch, 2)), &["2"]));
    let gap = ready("a", 0, batch(Codec::None, Some((id, epoch, 9)), &["9"]));
    for request in [one.clone(), two, one, gap] {
        stream.send(request).await;
    }
    let mut offsets = Vec::new();
    for _ in 0..3 {
        let part = written(stream.receive().await.outcome).parts.remove(0);
        offsets.push((part.base_offset, part.duplicate));
    }
    assert_eq!(offsets, [(0, false), (2, false), (0, true)]);
    let refused = failure(stream.receive().await.outcome);
    assert_eq!((refused.reason(), refused.facts["expected"].as_str()), (ErrorReason::SeqGap, "3"));
    // A new session of the name fences the one before.
    let second = wire.produce.init_producer(init).await.unwrap().into_inner();
    assert_eq!((second.producer_id, second.producer_epoch), (id, first.producer_epoch + 1));
    stream.send(ready("a", 0, batch(Codec::None, Some((id, epoch, 3)), &["3"]))).await;
    assert_eq!(failure(stream.receive().await.outcome).reason(), ErrorReason::ProducerFenced);
}

#[tokio::test]
async fn pr_7_plain_requests_are_idempotent_by_their_number() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(2)).await;
    let producer = wire.produce.init_producer(v1::InitProducerRequest::default()).await.unwrap().into_inner();
    let request = |request_number| {
        let at = |partition| v1::ProduceRecord { partition: Some(partition), ..value("x") };
        v1::ProduceRequest {
            producer: Some(v1::ProducerRequest {
                producer_id: producer.producer_id,
                producer_epoch: producer.producer_epoch,
                request_number,
            }),
            ..plain("a", vec![at(0), at(1)])
        }
    };
    for (number, duplicate, offset) in [(0, false, 0), (1, false, 1), (0, true, 0), (1, true, 1)] {
        let response = wire.produce.produce(request(number)).await.unwrap().into_inner();
        for part in response.parts {
            assert_eq!((part.duplicate, part.base_offset), (duplicate, offset), "request {number}");
        }
    }
    let unknown = v1::ProducerRequest { producer_id: 1 << 50, producer_epoch: 0, request_number: 0 };
    let request = v1::ProduceRequest { producer: Some(unknown), ..plain("a", vec![value("x")]) };
    let response = wire.produce.produce(request).await.unwrap().into_inner();
    assert_eq!(response.parts[0].failure.as_ref().unwrap().reason(), ErrorReason::UnknownProducer);
}

#[tokio::test]
async fn pr_13_a_ready_batch_on_a_keyed_topic_states_how_its_partition_was_chosen() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    let topic = wire.topic("a", v1::TopicConfig { partitions: Some(3), ..Default::default() }).await;
    let mut builder = BatchBuilder::new(Codec::None);
    let mut make = |key: &str| {
        builder.push(0, Some(key.as_bytes()), Some(b"v"), std::iter::empty());
        builder.finish()
    };
    let right = partition_of(b"k", 3);
    let send = |partition, batch, hash_version, topic_revision| {
        let ready = v1::ReadyBatch { partition, batch, hash_version, topic_revision };
        let payload = Some(v1::produce_request::Payload::RecordBatch(ready));
        v1::ProduceRequest { topic: "a".into(), payload, ..Default::default() }
    };
    let cases = [
        (send(right, make("k"), HASH_VERSION, topic.revision), None),
        (send(right, make("k"), HASH_VERSION + 1, topic.revision), Some(ErrorReason::StaleRevision)),
        (send(right, make("k"), HASH_VERSION, topic.revision + 1), Some(ErrorReason::StaleRevision)),
        (send((right + 1) % 3, make("k"), HASH_VERSION, topic.revision), Some(ErrorReason::WrongPartition)),
    ];
    for (request, reason) in cases {
        let response = wire.produce.produce(request).await.unwrap().into_inner();
        let part = &response.parts[0];
        let bad = part.record_failures.first().and_then(|bad| bad.failure.as_ref());
        let found = bad.or(part.failure.as_ref()).map(v1::Failure::reason);
        assert_eq!(found, reason);
    }
}

#[tokio::test]
async fn d8_a_stream_dropped_with_requests_in_flight_leaves_whole_batches_and_no_bytes_in_flight() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let sent = 64;
    for _ in 0..4 {
        let mut other = Wire::new(&broker).await;
        let mut stream = Stream::open(&mut other).await;
        for _ in 0..sent {
            stream.send(ready("a", 0, batch(Codec::None, None, &["1", "2", "3"]))).await;
        }
        stream.receive().await;
        drop(stream);
    }
    // A durable append after them all: whatever was queued before is in the log now.
    wire.write("a", vec![value("last")]).await;
    let read = wire.values(all_of("a")).await;
    let (last, batches) = read.split_last().unwrap();
    assert_eq!(last.2, "last");
    assert!(batches.len() % 3 == 0 && batches.len() >= 12 && batches.len() <= 4 * 3 * sent);
    for (index, (_, offset, text)) in batches.iter().enumerate() {
        assert_eq!((*offset, text.as_str()), (index as i64, ["1", "2", "3"][index % 3]));
    }
    assert!(broker.shutdown().await, "nothing hangs at the stop");
}

#[tokio::test]
async fn topics_are_made_on_first_use_only_where_the_settings_say_so() {
    let broker = TestBroker::builder().config(|config| config.auto_create_topics = true).start().await;
    let mut wire = Wire::new(&broker).await;
    let mut stream = Stream::open(&mut wire).await;
    // The second request must not overtake the first, whose topic is still being made.
    for index in 0..20 {
        stream.send(plain("fresh", vec![keyed("k", format!("{index}"))])).await;
    }
    for index in 0..20 {
        assert_eq!(written(stream.receive().await.outcome).parts[0].base_offset, index);
    }
    let read = wire.values(all_of("read-first")).await;
    assert!(read.is_empty());
    let names = wire.topics.list_topics(v1::ListTopicsRequest::default()).await.unwrap().into_inner();
    let names: Vec<_> = names.topics.iter().map(|topic| topic.name.as_str()).collect();
    assert_eq!(names, ["fresh", "read-first"]);
    stream.send(plain("../x", vec![value("x")])).await;
    assert_eq!(failure(stream.receive().await.outcome).reason(), ErrorReason::InvalidName);
}
