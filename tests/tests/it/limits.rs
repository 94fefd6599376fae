//! Limits as a user of the client meets them: sizes are refused before they spoil a batch, memory stays bounded, and
//! what the broker holds back for a while comes through in the end.

use std::time::Duration;

use bytes::Bytes;
use sawlog_client::producer::{RecordRef, TrySendError};
use sawlog_client::{AckLevel, ErrorKind, ErrorReason, NewTopic, ReadEvent, Record, StreamExt as _, TopicConfig};
use sawlog_testing::TestBroker;

#[tokio::test]
async fn pr_11_records_up_to_the_limits_pass_and_larger_ones_are_refused_without_harm_to_others() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    let config = TopicConfig { max_record_bytes: Some(4 << 20), ..TopicConfig::default() };
    client.admin().create_topic(NewTopic::new("large").config(config)).await.unwrap();
    let producer = client.producer("large").build().await.unwrap();
    let before = producer.send(Record::keyed("k", "before")).await.unwrap();
    // Key, value and headers count.
    let largest = Record::keyed("k", vec![7; (4 << 20) - 3]).header("h", "v");
    let receipt = producer.send(largest.clone()).await.unwrap();
    let refused = producer.send(Record { value: Some(vec![7; (4 << 20) - 2].into()), ..largest.clone() }).await;
    let error = refused.unwrap_err();
    assert_eq!((error.reason(), error.kind()), (Some(ErrorReason::RecordTooLarge), ErrorKind::Invalid));
    assert_eq!(
        (error.fact_number::<usize>("found"), error.fact_number::<usize>("max")),
        (Some((4 << 20) + 1), Some(4 << 20))
    );
    for (record, reason) in [
        (Record::new("no key"), ErrorReason::KeyRequired),
        (Record::keyed(vec![b'k'; 1025], "v"), ErrorReason::KeyTooLarge),
        (Record::keyed("k", "v").header("h", vec![0; 65_536]), ErrorReason::HeadersTooLarge),
    ] {
        assert_eq!(producer.send(record).await.unwrap_err().reason(), Some(reason));
    }
    let after = producer.send(Record::keyed(vec![b'k'; 1024], "after")).await.unwrap();
    producer.close().await.unwrap();
    assert_eq!(before.await.unwrap().offset, 0);
    assert_eq!((receipt.await.unwrap().offset, after.await.unwrap().offset), (1, 2));
    let mut reader = client.reader("large").open().await.unwrap();
    let mut sizes = Vec::new();
    while let Some(event) = reader.next().await {
        if let ReadEvent::Record(record) = event.unwrap() {
            sizes.push(record.value.unwrap().len());
        }
    }
    assert_eq!(sizes, [6, (4 << 20) - 3, 5]);
}

#[tokio::test]
async fn a_batch_of_the_most_records_passes() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    client.admin().create_topic(NewTopic::new("t")).await.unwrap();
    let producer = client.producer("t").batch_bytes(4 << 20).linger(Duration::from_secs(60)).build().await.unwrap();
    let mut last = None;
    for _ in 0..10_000 {
        last = Some(producer.try_send(RecordRef { key: Some(b"k"), ..RecordRef::default() }).unwrap());
    }
    producer.flush().await.unwrap();
    let last = last.unwrap();
    assert_eq!(last.index_in_batch(), 9_999);
    assert_eq!(last.await.unwrap().offset, 9_999);
}

#[tokio::test]
async fn a_producer_never_buffers_more_than_it_may_and_loses_nothing_when_it_waits() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    client.admin().create_topic(NewTopic::new("t")).await.unwrap();
    let producer = client.producer("t").buffer_bytes(10_000).batch_bytes(2048).build().await.unwrap();
    broker.stop().await;
    let record = Record::keyed("k", vec![1; 100]);
    let mut receipts = Vec::new();
    let full = loop {
        match producer.try_send((&record).into()) {
            Ok(receipt) => receipts.push(receipt),
            Err(full) => break full,
        }
    };
    assert!(matches!(full, TrySendError::Full));
    assert!((50..100).contains(&receipts.len()), "{} records of 100 bytes fit", receipts.len());
    // One that waits for room gets it when the broker is back.
    let waiting = tokio::spawn({
        let (producer, record) = (producer.clone(), record.clone());
        async move { producer.send(record).await }
    });
    broker.restart().await;
    receipts.push(waiting.await.unwrap().unwrap());
    for (number, receipt) in receipts.into_iter().enumerate() {
        assert_eq!(receipt.await.unwrap().offset, number as u64);
    }
}

#[tokio::test]
async fn a_broker_that_is_gone_gives_records_back_when_their_time_is_over() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    client.admin().create_topic(NewTopic::new("t")).await.unwrap();
    let builder = client.producer("t").delivery_timeout(Duration::from_millis(300));
    let producer = builder.build().await.unwrap();
    broker.stop().await;
    let error = producer.send_and_wait(Record::keyed("k", "v")).await.unwrap_err();
    assert_eq!(error.outcome(), Some(sawlog_client::Outcome::NotWritten), "{error:?}");
    broker.restart().await;
    assert_eq!(producer.send_and_wait(Record::keyed("k", "w")).await.unwrap().offset, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_in_flight_than_the_broker_takes_at_once_is_read_later_and_not_refused() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    let config = TopicConfig {
        partitions: Some(8),
        keyed: Some(false),
        ack_floor: Some(AckLevel::Written),
        ..TopicConfig::default()
    };
    client.admin().create_topic(NewTopic::new("t").config(config)).await.unwrap();
    // 48 MiB on one connection, of which the broker takes 32 at once.
    let builder = client.producer("t").buffer_bytes(64 << 20).batch_bytes(1 << 20).max_in_flight(64);
    let producer = builder.build().await.unwrap();
    let value = Bytes::from(vec![3; 256 << 10]);
    let mut receipts = Vec::new();
    for number in 0..192 {
        receipts.push(producer.send(Record::new(value.clone()).partition(number % 8)).await.unwrap());
    }
    producer.close().await.unwrap();
    for receipt in receipts {
        receipt.await.unwrap();
    }
    let described = client.admin().describe_partitions("t", &[]).await.unwrap();
    assert_eq!(described.iter().map(|partition| partition.high_watermark).sum::<u64>(), 192);
}

#[tokio::test]
async fn names_and_settings_out_of_bounds_are_refused_with_the_field() {
    let broker = TestBroker::start().await;
    let admin = broker.client().admin();
    for name in ["", "a/b", "..", "__internal", "x.dlq", &"n".repeat(121)] {
        let error = admin.create_topic(NewTopic::new(name)).await.unwrap_err();
        assert_eq!(error.reason(), Some(ErrorReason::InvalidName), "{name}");
    }
    let error = admin.create_topic(NewTopic::new("t").partitions(1025)).await.unwrap_err();
    assert_eq!((error.reason(), error.fact("found")), (Some(ErrorReason::InvalidField), Some("1025")));
    let (topic, created) = admin.create_topic(NewTopic::new(&*"n".repeat(120)).partitions(2)).await.unwrap();
    assert!(created);
    let (again, created) = admin.create_topic(NewTopic::new(topic.name.as_str()).partitions(2)).await.unwrap();
    assert_eq!((again, created), (topic.clone(), false));
    let other = admin.create_topic(NewTopic::new(topic.name.as_str()).partitions(3)).await.unwrap_err();
    assert_eq!(other.kind(), ErrorKind::AlreadyExists);
}

#[tokio::test]
async fn topics_are_listed_over_all_pages() {
    let broker = TestBroker::start().await;
    let admin = broker.client().admin();
    for number in 0..25 {
        admin.create_topic(NewTopic::new(format!("orders-{number:02}"))).await.unwrap();
    }
    admin.create_topic(NewTopic::new("other")).await.unwrap();
    let all = admin.list_topics("orders-").await.unwrap();
    assert!(all.len() == 25 && all.is_sorted_by_key(|topic| topic.name.clone()));
    let (page, next) = admin.list_page("orders-", 10, "").await.unwrap();
    assert_eq!(page.len(), 10);
    let (page, _) = admin.list_page("orders-", 10, &next).await.unwrap();
    assert_eq!(page[0].name, "orders-10");
}
