//! The client's way in and out: what is produced comes back as it was, in order, whatever is restarted between.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sawlog_broker::clock::ManualClock;
use sawlog_client::payload::{Codec as _, Json};
use sawlog_client::reader::{BatchEvent, GapReason, Start};
use sawlog_client::{
    AckLevel, Client, Codec, ErrorKind, ErrorReason, NewTopic, OffsetAt, Outcome, ReadEvent, ReadRecord, Reader,
    ReaderFrom, ReaderTo, Record, StreamExt as _, TopicChange, TopicConfig,
};
use sawlog_testing::TestBroker;

/// Later than any real clock: times of records, which come from there, are never in its future.
const START_MS: i64 = 4_000_000_000_000;

async fn topic(client: &Client, name: &str, partitions: u32) {
    client.admin().create_topic(NewTopic::new(name).partitions(partitions)).await.unwrap();
}

/// Sends the numbers as values, all with one key, and waits for them.
async fn send(client: &Client, name: &str, numbers: std::ops::Range<u32>) {
    let producer = client.producer(name).build().await.unwrap();
    for number in numbers {
        let receipt = producer.send(Record::keyed("k", number.to_string())).await.unwrap();
        drop(receipt);
    }
    producer.close().await.unwrap();
}

async fn all(mut reader: Reader) -> Vec<ReadRecord> {
    let mut records = Vec::new();
    while let Some(event) = reader.next().await {
        if let ReadEvent::Record(record) = event.unwrap() {
            records.push(record);
        }
    }
    records
}

fn numbers(records: &[ReadRecord]) -> Vec<u32> {
    let number = |record: &ReadRecord| std::str::from_utf8(record.value.as_deref().unwrap()).unwrap().parse().unwrap();
    records.iter().map(number).collect()
}

/// The next record of a reader that follows; other events are passed.
async fn next_record(reader: &mut Reader) -> ReadRecord {
    loop {
        match reader.next().await.expect("a follower does not end").expect("a follower mends cuts") {
            ReadEvent::Record(record) => return record,
            _ => continue,
        }
    }
}

#[tokio::test]
async fn pr_4_each_codec_brings_back_keys_values_headers_and_times_at_the_positions_told() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    for (name, codec) in [("plain", Codec::None), ("lz4", Codec::Lz4), ("zstd", Codec::Zstd)] {
        topic(&client, name, 3).await;
        let producer = client.producer(name).compression(codec).batch_bytes(2048).build().await.unwrap();
        let mut sent = BTreeMap::new();
        let mut receipts = Vec::new();
        for number in 0..200_i64 {
            let record = match number % 4 {
                0 => Record::tombstone(format!("key-{number}")),
                1 => Record::keyed("", Bytes::new()),
                _ => Record::keyed(format!("key-{}", number % 10), format!("value {number}"))
                    .header("trace", number.to_string())
                    .header("trace", Bytes::new()),
            };
            let record = record.timestamp_ms(1_000_000 + number);
            receipts.push((record.clone(), producer.send(record).await.unwrap()));
        }
        producer.flush().await.unwrap();
        for (record, receipt) in receipts {
            let position = receipt.await.unwrap();
            assert_eq!((position.ack, position.duplicate), (AckLevel::Durable, false));
            sent.insert((position.partition, position.offset), (record, position));
        }
        let read = all(client.reader(name).open().await.unwrap()).await;
        assert_eq!(read.len(), 200);
        for found in read {
            let (record, position) = sent.remove(&(found.partition, found.offset)).expect("told by its receipt");
            assert_eq!((found.key, found.value), (record.key, record.value));
            assert_eq!((found.headers, Some(found.timestamp_ms)), (record.headers, record.timestamp_ms));
            assert_eq!((found.epoch, found.append_time_ms), (position.epoch, position.append_time_ms));
        }
    }
}

#[tokio::test]
async fn typed_payloads_come_back_as_values() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    let (codec, value) = (Json::<BTreeMap<String, u64>>::new(), BTreeMap::from([("total".to_owned(), 7)]));
    let producer = client.producer("t").build().await.unwrap();
    producer.send_and_wait(Record::keyed("k", codec.encode(&value).unwrap())).await.unwrap();
    let read = all(client.reader("t").open().await.unwrap()).await;
    assert_eq!(codec.decode(read[0].value.as_ref().unwrap()).unwrap(), value);
}

#[tokio::test]
async fn pr_2_a_request_gets_the_floor_or_more_and_never_less() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "safe", 1).await;
    let config = TopicConfig { ack_floor: Some(AckLevel::Written), ..TopicConfig::default() };
    client.admin().create_topic(NewTopic::new("fast").config(config)).await.unwrap();
    let level = async |name: &str, ack: Option<AckLevel>| {
        let mut builder = client.producer(name);
        if let Some(ack) = ack {
            builder = builder.ack(ack);
        }
        builder.build().await.unwrap().send_and_wait(Record::keyed("k", "v")).await
    };
    assert_eq!(level("safe", None).await.unwrap().ack, AckLevel::Durable);
    assert_eq!(level("fast", Some(AckLevel::Durable)).await.unwrap().ack, AckLevel::Durable);
    assert!(level("fast", None).await.is_ok());
    let error = level("safe", Some(AckLevel::Written)).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::AckBelowFloor));
    assert_eq!((error.kind(), error.outcome()), (ErrorKind::Precondition, Some(Outcome::NotWritten)));
}

#[tokio::test]
async fn pr_7_a_later_producer_of_a_name_fences_the_earlier_one() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    let first = client.producer("t").name("billing").build().await.unwrap();
    first.send_and_wait(Record::keyed("k", "1")).await.unwrap();
    let second = client.producer("t").name("billing").build().await.unwrap();
    second.send_and_wait(Record::keyed("k", "2")).await.unwrap();
    let error = first.send_and_wait(Record::keyed("k", "3")).await.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::ProducerFenced));
    second.send_and_wait(Record::keyed("k", "4")).await.unwrap();
    assert_eq!(numbers(&all(client.reader("t").open().await.unwrap()).await), [1, 2, 4]);
}

#[tokio::test]
async fn pr_7_and_pr_10_a_producer_goes_on_in_order_over_stops_and_kills() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    let producer = client.producer("t").batch_bytes(1024).build().await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..400_u32 {
        receipts.push(producer.send(Record::keyed("k", number.to_string())).await.unwrap());
        if number == 100 {
            broker.kill().await;
        }
        if number == 200 || number == 300 {
            broker.restart().await;
        }
    }
    producer.close().await.unwrap();
    for (number, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.await.unwrap().offset, number as u64);
    }
    let read = all(client.reader("t").open().await.unwrap()).await;
    assert_eq!(numbers(&read), (0..400).collect::<Vec<_>>());
}

#[tokio::test]
async fn pr_13_a_producer_goes_on_when_its_topic_changes() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 2).await;
    let producer = client.producer("t").build().await.unwrap();
    producer.send_and_wait(Record::keyed("k", "1")).await.unwrap();
    let config = TopicConfig { retention_ms: Some(3_600_000), ..TopicConfig::default() };
    let change = TopicChange { config, owner: Some("billing".to_owned()), ..TopicChange::default() };
    let changed = client.admin().update_topic("t", change).await.unwrap();
    assert_eq!((changed.owner.as_str(), changed.config.retention_ms), ("billing", Some(3_600_000)));
    producer.send_and_wait(Record::keyed("k", "2")).await.unwrap();
    assert_eq!(producer.topic().revision, changed.revision);
}

#[tokio::test]
async fn a_topic_made_anew_under_an_old_name_is_another_for_producers_and_readers() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    send(&client, "t", 0..3).await;
    let mut reader = client.reader("t").follow(true).open().await.unwrap();
    let old = reader.topic_id().clone();
    assert_eq!(next_record(&mut reader).await.offset, 0);
    assert_eq!(client.admin().delete_topic("t", false).await.unwrap(), old);
    topic(&client, "t", 1).await;
    send(&client, "t", 7..8).await;
    let error = loop {
        match reader.next().await.expect("it ends with an error") {
            Ok(ReadEvent::Record(record)) => assert!(numbers(&[record])[0] < 3, "nothing of the new topic"),
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert_eq!(error.reason(), Some(ErrorReason::TopicNotFound));
    let read = all(client.reader("t").open().await.unwrap()).await;
    assert_eq!((read[0].offset, numbers(&read)), (0, vec![7]));
}

#[tokio::test]
async fn of_4_a_read_by_time_begins_and_ends_at_the_first_record_appended_then() {
    let clock = Arc::new(ManualClock::new(START_MS));
    let broker = TestBroker::builder().clock(clock.clone()).start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    for number in 0..5 {
        send(&client, "t", number * 10..number * 10 + 10).await;
        clock.advance(Duration::from_secs(60));
    }
    let at = |minute: i64| START_MS + minute * 60_000;
    let reader = client.reader("t").from(ReaderFrom::TimestampMs(at(1))).to(ReaderTo::TimestampMs(at(3) - 5));
    assert_eq!(numbers(&all(reader.open().await.unwrap()).await), (10..30).collect::<Vec<_>>());
    let found = client.admin().offsets("t", &[], OffsetAt::TimestampMs(at(2) + 1)).await.unwrap();
    assert_eq!(found[0].offset, 30);
}

#[tokio::test]
async fn reads_begin_and_end_where_they_are_told_to() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    send(&client, "t", 0..100).await;
    let read = async |from: ReaderFrom, to: ReaderTo| {
        numbers(&all(client.reader("t").from(from).to(to).open().await.unwrap()).await)
    };
    assert_eq!(read(ReaderFrom::Offset(97), ReaderTo::HighWatermark).await, [97, 98, 99]);
    assert_eq!(read(ReaderFrom::Last(2), ReaderTo::HighWatermark).await, [98, 99]);
    assert_eq!(read(ReaderFrom::Earliest, ReaderTo::Count(3)).await, [0, 1, 2]);
    assert_eq!(read(ReaderFrom::Offset(50), ReaderTo::Offset(52)).await, [50, 51]);
    assert!(read(ReaderFrom::Latest, ReaderTo::HighWatermark).await.is_empty());
    let beyond = client.reader("t").from(ReaderFrom::Offset(101)).open().await.unwrap().next().await.unwrap();
    let error = beyond.unwrap_err();
    assert_eq!(error.reason(), Some(ErrorReason::OffsetOutOfRange));
    assert_eq!((error.fact_number("earliest"), error.fact_number("latest")), (Some(0), Some(100)));
}

#[tokio::test]
async fn filters_leave_only_what_matches() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 2).await;
    let producer = client.producer("t").build().await.unwrap();
    for number in 0..40_u32 {
        let mut record = Record::keyed(format!("order-{}", number % 4), number.to_string());
        if number % 10 == 0 {
            record = record.header("kind", format!("big-{number}"));
        }
        producer.send_and_wait(record).await.unwrap();
    }
    let read = |reader: sawlog_client::ReaderBuilder| async {
        let mut found = numbers(&all(reader.open().await.unwrap()).await);
        found.sort_unstable();
        found
    };
    let third: Vec<u32> = (0..40).filter(|number| number % 4 == 2).collect();
    assert_eq!(read(client.reader("t").key("order-2")).await, third);
    assert_eq!(read(client.reader("t").key_prefix("order")).await.len(), 40);
    assert_eq!(read(client.reader("t").header("kind")).await, [0, 10, 20, 30]);
    assert_eq!(read(client.reader("t").header_equals("kind", "big-20")).await, [20]);
    assert_eq!(read(client.reader("t").header_prefix("kind", "big-").key("order-0")).await, [0, 20]);
}

#[tokio::test]
async fn fc_1_and_fc_4_a_follower_gets_history_is_told_of_the_live_end_and_gets_what_comes() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    send(&client, "t", 0..3).await;
    let mut reader = client.reader("t").follow(true).open().await.unwrap();
    for offset in 0..3 {
        assert_eq!(next_record(&mut reader).await.offset, offset);
    }
    let told = reader.next().await.unwrap().unwrap();
    assert_eq!(told, ReadEvent::CaughtUp { partition: 0, offset: 3 });
    send(&client, "t", 3..5).await;
    assert_eq!(numbers(&[next_record(&mut reader).await, next_record(&mut reader).await]), [3, 4]);
}

#[tokio::test]
async fn d3_a_follower_over_stops_and_kills_misses_nothing_and_sees_nothing_twice() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    let mut reader = client.reader("t").follow(true).open().await.unwrap();
    let mut next = 0;
    for round in 0..4_u32 {
        send(&client, "t", round * 50..round * 50 + 50).await;
        // Half of it is read before the cut, half after it.
        for _ in 0..25 + 50 * round - next {
            assert_eq!(numbers(&[next_record(&mut reader).await]), [next]);
            next += 1;
        }
        if round % 2 == 0 {
            broker.kill().await;
        }
        broker.restart().await;
    }
    while next < 200 {
        assert_eq!(numbers(&[next_record(&mut reader).await]), [next]);
        next += 1;
    }
    assert_eq!(reader.positions()[0].offset, 200);
}

#[tokio::test]
async fn a_read_goes_on_from_the_positions_of_another() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 3).await;
    let producer = client.producer("t").build().await.unwrap();
    for number in 0..90_u32 {
        producer.send_and_wait(Record::keyed(format!("k{}", number % 9), number.to_string())).await.unwrap();
    }
    let mut first = client.reader("t").open().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 40 {
        if let ReadEvent::Record(record) = first.next().await.unwrap().unwrap() {
            seen.push(record);
        }
    }
    let positions: Vec<Start> = first.positions().to_vec();
    drop(first);
    seen.extend(all(client.reader("t").from(ReaderFrom::Starts(positions)).open().await.unwrap()).await);
    let mut found = numbers(&seen);
    found.sort_unstable();
    assert_eq!(found, (0..90).collect::<Vec<_>>());
}

#[tokio::test]
async fn re_4_a_follower_that_a_trim_overtakes_is_told_the_gap() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    send(&client, "t", 0..10).await;
    let mut reader = client.reader("t").follow(true).open().await.unwrap();
    for _ in 0..10 {
        next_record(&mut reader).await;
    }
    assert!(matches!(reader.next().await.unwrap().unwrap(), ReadEvent::CaughtUp { .. }));
    // The reader is cut off while ten more records come and all but two go.
    broker.stop().await;
    broker.restart().await;
    send(&client, "t", 10..20).await;
    assert_eq!(client.admin().trim_topic("t", &[(0, 18)]).await.unwrap(), [(0, 18)]);
    let mut got = Vec::new();
    while got.last() != Some(&19) {
        match reader.next().await.unwrap().unwrap() {
            ReadEvent::Record(record) => got.extend(numbers(&[record])),
            ReadEvent::Gap { from, to, reason, .. } => {
                assert!(matches!(reason, GapReason::Trim | GapReason::Retention), "{reason:?}");
                assert_eq!((from, to), (10 + got.len() as u64, 18));
                got.extend(from as u32..to as u32);
            }
            _ => {}
        }
    }
    assert_eq!(got, (10..20).collect::<Vec<_>>());
}

#[tokio::test]
async fn c5_batches_come_whole_and_their_records_in_place() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "t", 1).await;
    let producer = client.producer("t").linger(Duration::from_secs(60)).build().await.unwrap();
    let mut receipts = Vec::new();
    for number in 0..1000_u32 {
        receipts.push(producer.send(Record::keyed("k", number.to_string())).await.unwrap());
    }
    producer.flush().await.unwrap();
    let reader = client.reader("t").from(ReaderFrom::Offset(300)).to(ReaderTo::Offset(700));
    let mut reader = reader.open().await.unwrap();
    let (mut offsets, mut batches) = (Vec::new(), 0);
    while let Some(event) = reader.next_batch().await {
        if let BatchEvent::Batch(batch) = event.unwrap() {
            batches += 1;
            let count = batch.for_each(|item| {
                assert_eq!(item.value, Some(item.offset.to_string().as_bytes()));
                offsets.push(item.offset);
            });
            assert_eq!(count.unwrap(), batch.len());
        }
    }
    assert_eq!(offsets, (300..700).collect::<Vec<_>>());
    assert_eq!(batches, 1, "what one flush sent came as one batch");
    assert_eq!(receipts.pop().unwrap().await.unwrap().offset, 999);
}
