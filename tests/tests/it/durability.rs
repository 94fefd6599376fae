//! What was acknowledged survives, proven by a checker that knows only what clients saw.

use sawlog_client::{NewTopic, OffsetAt, TopicConfig};
use sawlog_testing::{BrokerProcess, Checker, History, TestBroker};

use crate::load::{Load, Random, read_all};

/// Kills of the real binary.
const KILLS: u64 = 5;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_d3_d4_d5_kill_9_under_load_loses_doubles_and_reorders_nothing() {
    let seed = 0x5a17_1e57_u64;
    let load = Load {
        topic: "orders".to_owned(),
        partitions: 4,
        producers: 4,
        records: 4_000,
        value_bytes: 1_000,
        batch_bytes: 16 << 10,
    };
    let mut broker = BrokerProcess::start_with(&["--set", "storage.retention_interval_s=1"]).await;
    let client = broker.client();
    let config = TopicConfig {
        partitions: Some(load.partitions),
        segment_bytes: Some(1 << 20),
        retention_bytes: Some(2 << 20),
        ..TopicConfig::default()
    };
    client.admin().create_topic(NewTopic::new("orders").config(config)).await.unwrap();

    let total = u64::from(load.producers) * load.records;
    let share = total / KILLS;
    let running = load.start_with(&broker.url(), share);
    let (mut random, mut reads, mut in_flight) = (Random(seed), Vec::new(), 0);
    for kill in 0..KILLS {
        // Somewhere in the middle of its share of the load; the next share waits for its turn.
        running.allow((kill + 1) * share);
        let unanswered = running.answered(kill * share + share / 4 + random.below(share / 2)).await;
        broker.kill().await;
        in_flight += u64::from(unanswered > 0);
        broker.restart().await;
        reads.push(read_all(&client, "orders").await);
    }
    running.allow(u64::MAX);
    let sent = running.finish().await;
    reads.push(read_all(&client, "orders").await);
    let kept = client.admin().describe_partitions("orders", &[]).await.unwrap();
    let totals = Checker::new().check(&History { sent, reads });
    let totals = totals.unwrap_or_else(|found| panic!("seed {seed}: {found:#?}\n{}", broker.log()));
    println!("{KILLS} kills, {in_flight} with requests in flight: {totals:?}");
    assert_eq!(totals.acked as u64, total, "an idempotent producer brings every record through");
    assert!(in_flight * 10 >= KILLS * 9, "requests were in flight at {in_flight} of {KILLS} kills");
    assert!(totals.retired > 0 || kept.iter().any(|partition| partition.segments > 1), "segments rolled: {kept:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn d1_what_a_broker_dropped_in_the_middle_had_acknowledged_is_there_again() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    client.admin().create_topic(NewTopic::new("orders").partitions(3)).await.unwrap();
    let load = Load {
        topic: "orders".to_owned(),
        partitions: 3,
        producers: 2,
        records: 1_500,
        value_bytes: 200,
        batch_bytes: 4 << 10,
    };
    let running = load.start(&broker.url());
    let mut reads = Vec::new();
    for answered in [500, 1_500, 2_200] {
        running.answered(answered).await;
        broker.kill().await;
        broker.restart().await;
        reads.push(read_all(&client, "orders").await);
    }
    let sent = running.finish().await;
    reads.push(read_all(&client, "orders").await);
    let totals = Checker::new().check(&History { sent, reads }).unwrap();
    assert_eq!((totals.acked, totals.read), (3_000, 3_000));
}

#[tokio::test]
async fn d3_an_unclean_start_raises_the_epoch_and_old_positions_stay_good() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    client.admin().create_topic(NewTopic::new("t")).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    let before = producer.send_and_wait(sawlog_client::Record::keyed("k", "before")).await.unwrap();
    broker.kill().await;
    broker.restart().await;
    let after = producer.send_and_wait(sawlog_client::Record::keyed("k", "after")).await.unwrap();
    assert!(after.epoch > before.epoch, "{before:?} {after:?}");
    assert_eq!((after.offset, &after.topic_id), (before.offset + 1, &before.topic_id));
    let latest = client.admin().offsets("t", &[], OffsetAt::Latest).await.unwrap();
    assert_eq!((latest[0].offset, latest[0].epoch), (2, after.epoch));
    let run = read_epochs(&client).await;
    assert_eq!(run, [(0, before.epoch), (1, after.epoch)]);
}

async fn read_epochs(client: &sawlog_client::Client) -> Vec<(u64, u32)> {
    use sawlog_client::StreamExt as _;
    let mut reader = client.reader("t").open().await.unwrap();
    let mut epochs = Vec::new();
    while let Some(event) = reader.next().await {
        if let sawlog_client::ReadEvent::Record(record) = event.unwrap() {
            epochs.push((record.offset, record.epoch));
        }
    }
    epochs
}
