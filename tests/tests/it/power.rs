//! Loss of power under a whole broker: the simulated disk keeps any subset of what was not synced.

use sawlog_broker::log::storage::sim_disk::SimDisk;
use sawlog_client::reader::Start;
use sawlog_client::{
    AckLevel, Client, ErrorReason, NewTopic, Producer, ReadEvent, ReaderFrom, Record, StreamExt as _, TopicConfig,
};
use sawlog_testing::TestBroker;

/// Crash images that are tried; each keeps another subset.
const SEEDS: u64 = 8;

/// A broker on a simulated disk with a topic of this floor, and a producer of it.
async fn start(floor: AckLevel) -> (SimDisk, TestBroker, Client, Producer) {
    let disk = SimDisk::new();
    let broker = TestBroker::builder().storage(disk.storage()).start().await;
    let client = broker.client();
    let config = TopicConfig { ack_floor: Some(floor), flush_interval_ms: Some(60_000), ..TopicConfig::default() };
    client.admin().create_topic(NewTopic::new("t").config(config)).await.unwrap();
    let producer = client.producer("t").build().await.unwrap();
    (disk, broker, client, producer)
}

/// The power goes: what is left of the disk is what the next start finds.
async fn lose_power(disk: &SimDisk, broker: &mut TestBroker, seed: u64) {
    let left = disk.crash(seed);
    broker.kill().await;
    broker.replace_storage(left.storage());
    broker.restart().await;
}

async fn values(client: &Client) -> Vec<(u64, String)> {
    let mut reader = client.reader("t").open().await.unwrap();
    let mut values = Vec::new();
    while let Some(event) = reader.next().await {
        if let ReadEvent::Record(record) = event.unwrap() {
            values.push((record.offset, String::from_utf8(record.value.unwrap().to_vec()).unwrap()));
        }
    }
    values
}

#[tokio::test]
async fn d1_and_pr_2_durable_acks_survive_a_loss_of_power() {
    for seed in 0..SEEDS {
        let (disk, mut broker, client, producer) = start(AckLevel::Durable).await;
        for number in 0..10 {
            let place = producer.send_and_wait(Record::keyed("k", number.to_string())).await.unwrap();
            assert_eq!((place.offset, place.ack), (number, AckLevel::Durable));
        }
        lose_power(&disk, &mut broker, seed).await;
        let place = producer.send_and_wait(Record::keyed("k", "10")).await.unwrap();
        assert_eq!((place.offset, place.duplicate), (10, false), "seed {seed}");
        let expected: Vec<_> = (0..=10).map(|number| (number, number.to_string())).collect();
        assert_eq!(values(&client).await, expected, "seed {seed}");
        assert!(producer.take_lost().is_empty());
    }
}

#[tokio::test]
async fn d2_and_pr_12_what_power_took_from_a_written_topic_is_a_suffix_is_told_and_the_producer_goes_on() {
    let mut losses = 0;
    for seed in 0..SEEDS {
        let (disk, mut broker, client, producer) = start(AckLevel::Written).await;
        let mut epoch = 0;
        for number in 0..10 {
            let place = producer.send_and_wait(Record::keyed("k", number.to_string())).await.unwrap();
            assert_eq!(place.offset, number);
            epoch = place.epoch;
        }
        lose_power(&disk, &mut broker, seed).await;
        let left = values(&client).await;
        let expected: Vec<_> = (0..left.len() as u64).map(|number| (number, number.to_string())).collect();
        assert_eq!(left, expected, "seed {seed}: what is left is a beginning of what was there");
        let kept = left.len() as u64;

        let next = producer.send_and_wait(Record::keyed("k", "next")).await.unwrap();
        assert_eq!((next.offset, next.duplicate), (kept, false), "seed {seed}");
        let lost = producer.take_lost();
        if kept == 0 {
            // With the last record the broker forgets the producer: it can say UNKNOWN_PRODUCER, not how far it was.
            assert!(lost.is_empty(), "seed {seed}: {lost:?}");
        } else {
            assert_eq!(lost.iter().map(|lost| lost.records).sum::<u64>(), 10 - kept, "seed {seed}: {lost:?}");
        }
        if (1..10).contains(&kept) {
            losses += 1;
            assert_eq!((lost[0].partition, lost[0].first_offset), (0, Some(kept)));
            let told = client.admin().describe_partitions("t", &[]).await.unwrap();
            assert!(told[0].maybe_missing_from.is_some_and(|from| from <= kept), "seed {seed}: {told:?}");
            // A position of before the loss is refused and never leads to another record.
            let stale = Start { partition: 0, offset: kept + 1, epoch: Some(epoch) };
            let mut reader = client.reader("t").from(ReaderFrom::Starts(vec![stale])).open().await.unwrap();
            let error = reader.next().await.unwrap().unwrap_err();
            assert_eq!(error.reason(), Some(ErrorReason::OffsetOutOfRange), "seed {seed}: {error:?}");
        }
    }
    assert!(losses > 0, "not one of {SEEDS} losses of power took a part");
}
