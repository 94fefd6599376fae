//! Rules of groups that are promises about what stays as it is: retries leave no trace in topics, dead letters outlive
//! their source, answers to "was it processed", figures for operators, a replay beside a live group.

use std::collections::BTreeSet;
use std::time::Duration;

use sawlog_broker::clock::{Clock as _, SystemClock};
use sawlog_client::dead_letter::{EntryKind, JobState, Redrive};
use sawlog_client::groups::ProcessedState;
use sawlog_client::replays::{NewReplay, ReplayInto};
use sawlog_client::types::RecordPosition;
use sawlog_client::{
    Client, ConsumedRecord, EntrySelector, GroupConfig, GroupMode, HandlerError, NewTopic, Record, StreamExt as _,
};
use sawlog_testing::TestBroker;
use tokio::sync::mpsc;

use crate::errors::metrics;
use crate::groups::{PATIENCE, config, in_time, lag, number, topic};

/// Runs a member until `count` records were handled, those that `verdict` does not refuse; returns them in order.
async fn handle(
    client: &Client,
    group: &str,
    config: GroupConfig,
    count: usize,
    verdict: fn(&ConsumedRecord) -> Result<(), HandlerError>,
) -> Vec<ConsumedRecord> {
    let consumer = client.consumer(group).create_if_missing(config).open().await.unwrap();
    let (handled, mut seen) = mpsc::unbounded_channel();
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = consumer.run_until(stopped, PATIENCE, move |record| {
        let handled = handled.clone();
        async move {
            verdict(&record)?;
            handled.send(record.clone()).unwrap();
            Ok(())
        }
    });
    let records = async {
        let mut records = Vec::new();
        while records.len() < count {
            records.push(in_time(seen.recv()).await.expect("handlers run"));
        }
        stop.send(()).unwrap();
        records
    };
    let (ended, records) = tokio::join!(running, records);
    ended.unwrap();
    records
}

/// Where records `0..count` of a topic of one partition are.
async fn positions(client: &Client, name: &str, count: u32) -> Vec<RecordPosition> {
    client.admin().create_topic(NewTopic::new(name)).await.unwrap();
    let producer = client.producer(name).build().await.unwrap();
    let mut positions = Vec::new();
    for number in 0..count {
        let record = Record::keyed(format!("k{}", number % 3), number.to_string());
        positions.push(producer.send_and_wait(record).await.unwrap());
    }
    positions
}

async fn decided(client: &Client, tokens: &[RecordPosition], wait: Duration) -> Vec<ProcessedState> {
    let told = client.groups().await_processed("g", tokens, wait).await.unwrap();
    told.into_iter().map(|one| one.state.expect("a state that is known")).collect()
}

#[tokio::test]
async fn rt_8_a_retry_makes_no_topic_moves_no_record_and_is_not_seen_by_other_groups() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 1, 3, 9).await;
    let tried = |record: &ConsumedRecord| match (number(record), record.attempt) {
        (0, 1 | 2) => Err(HandlerError::retry("not yet")),
        _ => Ok(()),
    };
    let keyed = config("orders", GroupMode::Keyed);
    let handled = handle(&client, "g", keyed.clone(), 9, tried).await;
    assert!(handled.iter().any(|record| (number(record), record.attempt) == (0, 3)));
    let topics: Vec<_> = client.admin().list_topics("").await.unwrap().into_iter().map(|topic| topic.name).collect();
    assert_eq!(topics, ["orders"]);
    let partition = &client.admin().describe_partitions("orders", &[0]).await.unwrap()[0];
    assert_eq!(partition.high_watermark, 9);
    let other = handle(&client, "other", keyed, 9, |_| Ok(())).await;
    assert!(other.iter().all(|record| record.attempt == 1));
    broker.shutdown().await;
}

#[tokio::test]
async fn re_6_a_dead_letter_and_what_is_parked_behind_it_outlive_their_source() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 1, 3, 9).await;
    let poison = |record: &ConsumedRecord| match number(record) {
        1 => Err(HandlerError::dead("poison")),
        _ => Ok(()),
    };
    let keyed = config("orders", GroupMode::Keyed);
    handle(&client, "g", keyed.clone(), 6, poison).await;
    in_time(async {
        while lag(&client, "g").await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    client.admin().trim_topic("orders", &[(0, 9)]).await.unwrap();
    let letters = client.dead_letters();
    let entries: Vec<_> = letters.entries("g", &EntrySelector::default(), true).collect().await;
    let entries: Vec<_> = entries.into_iter().map(|entry| entry.unwrap()).collect();
    let kinds: Vec<_> = entries.iter().map(|entry| (entry.offset, entry.kind)).collect();
    let (failed, parked) = (Some(EntryKind::Failed), Some(EntryKind::Parked));
    assert_eq!(kinds, [(1, failed), (4, parked), (7, parked)]);
    let redrive = Redrive { selector: EntrySelector::ids([&entries[0].dlq_id]), ..Redrive::default() };
    let job = letters.redrive("g", &redrive).await.unwrap();
    let again = handle(&client, "g", keyed, 3, |_| Ok(())).await;
    assert_eq!(again.iter().map(number).collect::<Vec<_>>(), [1, 4, 7], "with what they said, in their order");
    let job = in_time(letters.watch_job(&job.job_id, Duration::from_millis(5), |_| {})).await.unwrap();
    assert_eq!((job.state, job.resolved), (Some(JobState::Done), 3));
    broker.shutdown().await;
}

#[tokio::test]
async fn rw_2_with_acks_per_record_the_answer_is_the_record_s_own_whatever_the_floor() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    let tokens = positions(&client, "orders", 3).await;
    let builder = client.consumer("g").create_if_missing(config("orders", GroupMode::Keyed));
    let mut consumer = builder.open().await.unwrap();
    let mut held = None;
    let mut left = BTreeSet::from([0, 1, 2]);
    while !left.is_empty() {
        let delivery = in_time(consumer.next_delivery()).await.unwrap().unwrap();
        left.remove(&delivery.offset);
        match delivery.offset {
            1 => drop(delivery.ack().await.unwrap()),
            0 => held = Some(delivery),
            _ => {}
        }
    }
    // The floor is 0 and the greatest record was delivered: neither says anything of record 1.
    assert_eq!(decided(&client, &tokens[1..2], PATIENCE).await, [ProcessedState::Acked]);
    let pending = [ProcessedState::Pending, ProcessedState::Acked, ProcessedState::Pending];
    assert_eq!(decided(&client, &tokens, Duration::ZERO).await, pending);
    held.expect("it was delivered").ack().await.unwrap();
    assert_eq!(decided(&client, &tokens[..1], PATIENCE).await, [ProcessedState::Acked]);
    broker.shutdown().await;
}

#[tokio::test]
async fn rw_3_in_mode_offset_the_answer_is_the_committed_position_unless_there_is_an_entry() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    let tokens = positions(&client, "orders", 9).await;
    let offset = config("orders", GroupMode::Offset);
    let first = client.consumer("g").create_if_missing(offset.clone()).open().await.unwrap();
    assert_eq!(decided(&client, &tokens[..1], Duration::ZERO).await, [ProcessedState::Pending]);
    drop(first);
    let poison = |record: &ConsumedRecord| match number(record) {
        1 => Err(HandlerError::dead("poison")),
        _ => Ok(()),
    };
    handle(&client, "g", offset, 6, poison).await;
    let mut expected = [ProcessedState::Acked; 9];
    expected[1] = ProcessedState::Dead;
    (expected[4], expected[7]) = (ProcessedState::Parked, ProcessedState::Parked);
    assert_eq!(decided(&client, &tokens, PATIENCE).await, expected);
    broker.shutdown().await;
}

#[tokio::test]
async fn ob_1_ob_2_and_ob_3_how_a_group_stands_and_how_long_it_took_is_told() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    client.admin().create_topic(NewTopic::new("orders")).await.unwrap();
    let producer = client.producer("orders").build().await.unwrap();
    let hour = Duration::from_secs(3_600);
    for number in 0..9 {
        let happened = SystemClock::new().wall_ms() - i64::try_from(hour.as_millis()).unwrap();
        let record = Record::keyed(format!("k{}", number % 3), number.to_string()).occurred_at_ms(happened);
        producer.send_and_wait(record).await.unwrap();
    }
    for (group, mode) in [("keyed", GroupMode::Keyed), ("batches", GroupMode::Offset)] {
        let poison = |record: &ConsumedRecord| match number(record) {
            1 => Err(HandlerError::dead("poison")),
            _ => Ok(()),
        };
        handle(&client, group, config("orders", mode), 6, poison).await;
        in_time(async {
            while lag(&client, group).await > 0 {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    client
        .groups()
        .create(sawlog_client::groups::NewGroup::new("late", config("orders", GroupMode::Keyed)))
        .await
        .unwrap();
    let behind = client.groups().lag("late", &[]).await.unwrap();
    let behind = &behind.partitions[0];
    let (hour, day) = (3_600_000, 86_400_000);
    assert!(behind.lag_ms < hour && (hour..day).contains(&behind.event_lag_ms), "{behind:?}");

    let told = metrics(&broker).await;
    let value = |name: &str| {
        let line = told.lines().find(|line| line.starts_with(name)).unwrap_or_else(|| panic!("{name} in {told}"));
        line.rsplit(' ').next().unwrap().parse::<f64>().unwrap()
    };
    // What is parked behind a dead record is delivered in mode OFFSET alone.
    for (group, delivered) in [("keyed", 7.0), ("batches", 9.0)] {
        for times in ["append_to_delivery", "append_to_settle", "handler"] {
            assert!(value(&format!("sawlog_group_{times}_seconds_count{{group=\"{group}\"}}")) >= 1.0, "{times}");
        }
        assert_eq!(value(&format!("sawlog_group_delivered_records_total{{group=\"{group}\"}}")), delivered, "{group}");
        assert_eq!(value(&format!("sawlog_group_breaker_open{{group=\"{group}\"}}")), 0.0);
        let of = |name: &str| value(&format!("sawlog_group_{name}{{group=\"{group}\",topic=\"orders\""));
        assert_eq!((of("dead_keys"), of("blocked_keys"), of("held_records")), (1.0, 0.0, 0.0));
        assert_eq!((of("lag_records"), of("oldest_unsettled_seconds"), of("event_lag_seconds")), (0.0, 0.0, 0.0));
    }
    assert_eq!(value("sawlog_group_settled_records_total{group=\"batches\"}"), 9.0);
    let late = |name: &str| value(&format!("sawlog_group_{name}{{group=\"late\",topic=\"orders\""));
    assert!(late("event_lag_seconds") >= 3_600.0 && late("lag_seconds") < 3_600.0);
    assert!(late("time_to_loss_seconds") > 0.0);
    broker.shutdown().await;
}

#[tokio::test]
async fn g5_a_replay_reads_what_was_read_before_and_leaves_the_position_of_live_groups_alone() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 1, 3, 9).await;
    let keyed = config("orders", GroupMode::Keyed);
    let first = handle(&client, "g", keyed.clone(), 9, |_| Ok(())).await;
    let before = client.groups().lag("g", &[]).await.unwrap().partitions;
    let unbound = GroupConfig { subscription: None, ..keyed };
    let into = ReplayInto::New("again".into(), Box::new(unbound.clone()));
    client.replays().start(NewReplay::new("orders", into)).await.unwrap();
    let again = handle(&client, "again", unbound, 9, |_| Ok(())).await;
    let told = |records: &[ConsumedRecord]| {
        let mut all: Vec<_> = records
            .iter()
            .map(|one| {
                (one.offset, one.epoch, one.timestamp_ms, one.key.clone(), one.value.clone(), one.headers.clone())
            })
            .collect();
        all.sort_by_key(|one| one.0);
        format!("{all:?}")
    };
    assert_eq!(told(&first), told(&again));
    let after = client.groups().lag("g", &[]).await.unwrap().partitions;
    assert_eq!((after[0].floor, after[0].epoch, after[0].lag_records), (before[0].floor, before[0].epoch, 0));
    broker.shutdown().await;
}
