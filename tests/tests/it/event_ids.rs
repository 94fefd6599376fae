//! Event ids and envelopes as clients see them: plain records and ready batches, one request at a time and on streams,
//! and the producer of the client crate (rules SC-1, PR-8).

use bytes::Bytes;
use sawlog_client::{Client, EnvelopePolicy, ErrorReason, NewTopic, ReadEvent, Record, StreamExt, TopicConfig};
use sawlog_proto::batch::{BatchBuilder, Codec};
use sawlog_proto::v1::repeated_record::First;
use sawlog_proto::v1::{self, produce_stream_response::Outcome};
use sawlog_testing::TestBroker;
use tokio_stream::wrappers::ReceiverStream;

use crate::wire::{Wire, all_of, plain, ready, unkeyed, value};

fn dedup(partitions: u32) -> v1::TopicConfig {
    v1::TopicConfig { dedup_window_ms: Some(-1), ..unkeyed(partitions) }
}

fn event(id: &str, text: &str) -> v1::ProduceRecord {
    let mut record = value(text);
    let header = v1::Header { key: "event_id".into(), value: Bytes::from(id.to_owned()) };
    record.record.as_mut().unwrap().headers.push(header);
    record
}

fn batch(codec: Codec, events: &[(&str, &str)]) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    for (id, text) in events {
        builder.push(1_700_000_000_000, None, Some(text.as_bytes()), [("event_id", id.as_bytes())].into_iter());
    }
    builder.finish()
}

fn offsets(response: &v1::ProduceResponse) -> Vec<(Option<i64>, bool)> {
    response.records.iter().map(|record| (record.offset, record.duplicate)).collect()
}

fn places(part: &v1::PartResult) -> Vec<(u32, i64)> {
    let place = |repeat: &v1::RepeatedRecord| match repeat.first {
        Some(First::Position(place)) => (repeat.index, place.offset),
        Some(First::SameAs(first)) => (repeat.index, -i64::from(first) - 1),
        None => panic!("no place"),
    };
    part.repeats.iter().map(place).collect()
}

#[tokio::test]
async fn pr_8_plain_records_that_repeat_get_the_first_token_and_the_others_are_written() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", dedup(1)).await;
    let first = wire.write("a", vec![event("x", "1"), value("no id"), event("y", "2")]).await;
    assert_eq!(offsets(&first), [(Some(0), false), (Some(1), false), (Some(2), false)]);
    let mixed = wire.write("a", vec![event("new", "3"), event("y", "2"), event("new", "3"), value("no id")]).await;
    assert_eq!(offsets(&mixed), [(Some(3), false), (Some(2), true), (Some(3), true), (Some(4), false)]);
    assert_eq!((mixed.parts[0].record_count, places(&mixed.parts[0])), (2, vec![(1, 2), (2, -1)]));
    let all = wire.write("a", vec![event("x", "1")]).await;
    assert_eq!((offsets(&all), all.parts[0].duplicate), (vec![(Some(0), true)], true));
    let repeat = all.parts[0].repeats[0].first;
    let token = v1::EventPosition { append_time_ms: first.parts[0].append_time_ms, ..Default::default() };
    assert_eq!(repeat, Some(First::Position(token)));
    let values: Vec<String> = wire.values(all_of("a")).await.into_iter().map(|(_, _, value)| value).collect();
    assert_eq!(values, ["1", "no id", "2", "3", "no id"]);
}

#[tokio::test]
async fn pr_8_another_payload_under_an_id_is_a_conflict_that_names_the_first_position() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", dedup(1)).await;
    wire.write("a", vec![value("before"), event("x", "1")]).await;
    for request in [
        plain("a", vec![event("y", "2"), event("x", "other")]),
        ready("a", 0, batch(Codec::None, &[("y", "2"), ("x", "other")])),
        ready("a", 0, batch(Codec::Zstd, &[("y", "2"), ("x", "other")])),
    ] {
        let response = wire.produce.produce(request).await.unwrap().into_inner();
        let part = &response.parts[0];
        assert_eq!(part.failure.as_ref().unwrap().reason(), ErrorReason::NotWritten);
        let refused = &part.record_failures[0];
        let failure = refused.failure.as_ref().unwrap();
        assert_eq!((refused.index, failure.reason()), (1, ErrorReason::EventIdConflict));
        let fact = |name: &str| failure.facts[name].as_str();
        assert_eq!(
            (fact("event_id"), fact("partition"), fact("offset"), fact("outcome")),
            ("x", "0", "1", "not_written")
        );
    }
    let keyed = |key: &str| {
        let mut record = event("k", "same");
        record.record.as_mut().unwrap().key = Some(key.to_owned().into());
        record
    };
    wire.write("a", vec![keyed("one")]).await;
    let response = wire.produce.produce(plain("a", vec![keyed("two")])).await.unwrap().into_inner();
    let failure = response.parts[0].record_failures[0].failure.as_ref().unwrap();
    assert_eq!(failure.reason(), ErrorReason::EventIdConflict, "another key is another event");
    assert_eq!(wire.values(all_of("a")).await.len(), 3);
}

#[tokio::test]
async fn pr_8_a_ready_batch_with_repeats_is_not_written_and_its_repeats_get_their_tokens() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", dedup(2)).await;
    wire.produce.produce(ready("a", 1, batch(Codec::None, &[("w", "0"), ("x", "1")]))).await.unwrap();
    for codec in [Codec::None, Codec::Lz4] {
        let mixed = batch(codec, &[("new", "3"), ("x", "1"), ("new", "3")]);
        let response = wire.produce.produce(ready("a", 0, mixed)).await.unwrap().into_inner();
        let part = &response.parts[0];
        assert_eq!(part.failure.as_ref().unwrap().reason(), ErrorReason::NotWritten);
        assert_eq!(places(part), [(1, 1), (2, -1)]);
        assert!(part.record_failures.is_empty() && !part.duplicate);
    }
    let response = wire.produce.produce(ready("a", 0, batch(Codec::None, &[("x", "1")]))).await.unwrap().into_inner();
    let part = &response.parts[0];
    assert_eq!((&part.failure, part.duplicate, part.base_offset), (&None, true, 1));
    assert!(matches!(part.repeats[0].first, Some(First::Position(place)) if place.partition == 1));
    assert_eq!(wire.values(all_of("a")).await.len(), 2);
}

#[tokio::test]
async fn pr_8_on_a_stream_repeats_are_found_among_requests_under_way() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", dedup(1)).await;
    let requests: Vec<v1::ProduceStreamRequest> = (0..200_u64)
        .map(|number| {
            let (id, text) = (format!("{}", number % 50), format!("{}", number % 50));
            let request = if number % 3 == 0 {
                ready("a", 0, batch(Codec::None, &[(&id, &text)]))
            } else {
                plain("a", vec![event(&id, &text)])
            };
            v1::ProduceStreamRequest { request_id: number, request: Some(request) }
        })
        .collect();
    let (send, queue) = tokio::sync::mpsc::channel(200);
    for request in requests {
        send.send(request).await.unwrap();
    }
    drop(send);
    let mut answers = wire.produce.produce_stream(ReceiverStream::new(queue)).await.unwrap().into_inner();
    for number in 0..200_u64 {
        let answer = answers.message().await.unwrap().expect("an answer each");
        assert_eq!(answer.request_id, number);
        let Some(Outcome::Response(response)) = answer.outcome else { panic!("{answer:?}") };
        let part = &response.parts[0];
        assert_eq!((&part.failure, part.duplicate), (&None, number >= 50), "request {number}");
        assert_eq!(part.base_offset, (number % 50) as i64);
    }
    assert_eq!(wire.values(all_of("a")).await.len(), 50);
}

#[tokio::test]
async fn sc_1_fill_adds_what_is_missing_to_plain_records_and_required_refuses_what_has_none() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    let filled = v1::TopicConfig { envelope: v1::EnvelopePolicy::Fill.into(), ..unkeyed(1) };
    let topic = wire.topic("filled", filled).await;
    assert_eq!(topic.config.unwrap().dedup_window_ms, Some(86_400_000), "on by default for topics with envelopes");
    assert_eq!(wire.topic("off", unkeyed(1)).await.config.unwrap().dedup_window_ms, Some(0));
    let producer = v1::InitProducerRequest { name: "shop".into() };
    let producer = wire.produce.init_producer(producer).await.unwrap().into_inner();
    let mut own = event("mine", "1");
    own.record.as_mut().unwrap().timestamp_ms = Some(1_322_727_960_000);
    let mut request = plain("filled", vec![own, value("2")]);
    request.producer = Some(v1::ProducerRequest {
        producer_id: producer.producer_id,
        producer_epoch: producer.producer_epoch,
        request_number: 0,
    });
    for _ in 0..2 {
        let response = wire.produce.produce(request.clone()).await.unwrap().into_inner();
        assert_eq!(response.parts[0].failure, None);
    }
    let client = Client::builder(broker.url()).connect_lazy().unwrap();
    let mut reader = client.reader("filled").open().await.unwrap();
    let mut envelopes = Vec::new();
    while let Some(event) = reader.next().await {
        if let ReadEvent::Record(record) = event.unwrap() {
            envelopes.push(record.envelope());
        }
    }
    assert_eq!(envelopes.len(), 2, "a repeated request is not written again, whatever was filled in");
    assert_eq!(envelopes[0].event_id.as_deref(), Some("mine"));
    assert_eq!(envelopes[0].occurred_at_ms, Some(1_322_727_960_000));
    assert!(envelopes.iter().all(|envelope| envelope.producer.as_deref() == Some("shop")));
    assert!(envelopes[1].event_id.as_ref().is_some_and(|id| id.len() == 36) && envelopes[1].occurred_at_ms.is_some());

    let required = v1::TopicConfig { envelope: v1::EnvelopePolicy::Required.into(), ..unkeyed(1) };
    wire.topic("required", required).await;
    for (request, field) in [
        (plain("required", vec![value("x")]), "event_id"),
        (plain("required", vec![event("x", "x")]), "event_type"),
        (ready("required", 0, batch(Codec::None, &[("x", "x")])), "event_type"),
        (ready("required", 0, batch(Codec::Lz4, &[("", "x")])), "event_type"),
        (plain("filled", vec![event("", "x")]), "event_id"),
        (plain("filled", vec![event(&"x".repeat(256), "x")]), "event_id"),
    ] {
        let response = wire.produce.produce(request).await.unwrap().into_inner();
        let failure = response.parts[0].record_failures[0].failure.as_ref().unwrap();
        assert_eq!((failure.reason(), failure.facts["field"].as_str()), (ErrorReason::InvalidField, field));
    }
    let producer = client.producer("required").build().await.unwrap();
    let record = Record::new("x").event_id("1").event_type("thing.done");
    assert!(!producer.send_and_wait(record.clone()).await.unwrap().duplicate);
    assert!(producer.send_and_wait(record).await.unwrap().duplicate);
}

#[tokio::test]
async fn pr_8_the_producer_sends_the_rest_of_a_batch_with_repeats_again_in_order() {
    let broker = TestBroker::start().await;
    let client = Client::builder(broker.url()).connect_lazy().unwrap();
    let config = TopicConfig {
        partitions: Some(2),
        keyed: Some(false),
        envelope: Some(EnvelopePolicy::Off),
        dedup_window_ms: Some(3_600_000),
        ..TopicConfig::default()
    };
    client.admin().create_topic(NewTopic { config, ..NewTopic::new("a") }).await.unwrap();
    // A program that sends the first 300 events, stops, and starts over from the 100th.
    let record = |number: u32| Record::new(number.to_string()).event_id(format!("e{number}")).partition(number % 2);
    let before = client.producer("a").build().await.unwrap();
    for number in 0..300 {
        drop(before.send(record(number)).await.unwrap());
    }
    before.close().await.unwrap();
    let producer = client.producer("a").batch_bytes(2_000).build().await.unwrap();
    let mut receipts = Vec::new();
    for number in 100..600_u32 {
        receipts.push((number, producer.send(record(number)).await.unwrap()));
        if number % 10 == 0 {
            receipts.push((number, producer.send(record(number)).await.unwrap()));
        }
    }
    let bad = producer.send(Record::new("other").event_id("e5").partition(1)).await.unwrap();
    for (number, receipt) in receipts {
        let index_in_batch = receipt.index_in_batch();
        let position = receipt.await.unwrap_or_else(|error| panic!("{number} at {index_in_batch}: {error}"));
        assert_eq!((position.partition, position.offset), (number % 2, u64::from(number / 2)), "event {number}");
        assert!(position.duplicate || number >= 300);
    }
    let conflict = bad.await.unwrap_err();
    assert_eq!(conflict.reason(), Some(ErrorReason::EventIdConflict));
    assert_eq!(conflict.fact_number::<u64>("offset"), Some(2));
    assert_eq!(producer.flush().await.unwrap_err().reason(), Some(ErrorReason::EventIdConflict));
    let ids = client.admin().event_ids("a").await.unwrap().unwrap();
    assert_eq!((ids.ids, ids.max_ids, ids.span_ms, ids.ready), (600, 1_000_000, Some(3_600_000), true));
    let ends = client.admin().describe_partitions("a", &[]).await.unwrap();
    assert_eq!(ends.iter().map(|partition| partition.high_watermark).collect::<Vec<_>>(), [300, 300]);
}
