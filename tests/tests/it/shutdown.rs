//! Stopping in order (rule S5): what is in flight is answered or refused, never lost; the next start is a clean one.

use sawlog_client::{ErrorKind, Health, NewTopic, Record};
use sawlog_testing::{BrokerProcess, Checker, History, TestBroker};

use crate::load::{Load, read_all};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn s5_sigterm_in_the_middle_of_produce_loses_nothing_and_leaves_the_marker() {
    let mut broker = BrokerProcess::start().await;
    let client = broker.client();
    client.admin().create_topic(NewTopic::new("orders").partitions(2)).await.unwrap();
    let load = Load {
        topic: "orders".to_owned(),
        partitions: 2,
        producers: 3,
        records: 2_000,
        value_bytes: 300,
        batch_bytes: 8 << 10,
    };
    let running = load.start(&broker.url());
    let mut reads = Vec::new();
    for answered in [1_000, 4_000] {
        let unanswered = running.answered(answered).await;
        assert!(unanswered > 0, "produce is under way");
        broker.terminate();
        assert_eq!(broker.wait().await, Some(0), "{}", broker.log());
        assert!(broker.data_dir().join("CLEAN").is_file(), "{}", broker.log());
        broker.restart().await;
        reads.push(read_all(&client, "orders").await);
    }
    let sent = running.finish().await;
    reads.push(read_all(&client, "orders").await);
    let totals = Checker::new().check(&History { sent, reads });
    let totals = totals.unwrap_or_else(|found| panic!("{found:#?}\n{}", broker.log()));
    assert_eq!((totals.acked, totals.read), (6_000, 6_000));
}

#[tokio::test]
async fn s3_after_a_clean_stop_offsets_epochs_and_topics_are_as_they_were() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    let (topic, _) = client.admin().create_topic(NewTopic::new("t").partitions(2)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    for number in 0..10 {
        producer.send_and_wait(Record::keyed(format!("k{number}"), "v")).await.unwrap();
    }
    let before = client.admin().describe_partitions("t", &[]).await.unwrap();
    assert!(broker.stop().await, "the stop is clean");
    broker.restart().await;
    let after = client.admin().describe_partitions("t", &[]).await.unwrap();
    for (before, after) in before.iter().zip(&after) {
        assert_eq!(
            (before.log_start_offset, before.high_watermark, before.epoch),
            (after.log_start_offset, after.high_watermark, after.epoch)
        );
    }
    assert_eq!(client.admin().get_topic("t").await.unwrap(), topic);
    // The producer goes on with its own sequence.
    assert!(!producer.send_and_wait(Record::keyed("k0", "v")).await.unwrap().duplicate);
}

#[tokio::test]
async fn a_broker_that_is_gone_is_unavailable_and_one_that_is_back_serves_the_same_client() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    assert_eq!(client.admin().health().await.unwrap(), Health::Serving);
    broker.stop().await;
    assert_eq!(client.admin().health().await.unwrap_err().kind(), ErrorKind::Unavailable);
    broker.restart().await;
    // The first call after a cut may still meet the old connection; a topic call is repeated by itself.
    client.admin().create_topic(NewTopic::new("t")).await.unwrap();
    assert_eq!(client.admin().health().await.unwrap(), Health::Serving);
}
