//! Consumer groups as clients see them: the three modes, two members on one partition, retries, dead letters, redrive,
//! resume after a cut, leaving in order.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sawlog_client::consumer::{BatchEvent, ConsumerEvent};
use sawlog_client::dead_letter::{Edit, EntryState, JobState, Payload, Redrive};
use sawlog_client::groups::{Backoff, ProcessedState};
use sawlog_client::payload::Json;
use sawlog_client::{
    AckOutcome, Client, ConsumedRecord, EntrySelector, ErrorReason, GroupConfig, GroupMode, HandlerError, NewTopic,
    Record, RetryPolicy, StreamExt as _,
};
use sawlog_testing::TestBroker;
use tokio::sync::mpsc;

pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// A topic with records `0..count`, whose keys are `k0` to `k(keys-1)` in turn.
pub(crate) async fn topic(client: &Client, name: &str, partitions: u32, keys: u32, count: u32) {
    client.admin().create_topic(NewTopic::new(name).partitions(partitions)).await.unwrap();
    produce(client, name, keys, 0..count).await;
}

async fn produce(client: &Client, name: &str, keys: u32, numbers: std::ops::Range<u32>) {
    let producer = client.producer(name).build().await.unwrap();
    for number in numbers {
        let record = Record::keyed(format!("k{}", number % keys), number.to_string());
        drop(producer.send(record).await.unwrap());
    }
    producer.close().await.unwrap();
}

pub(crate) fn config(topic: &str, mode: GroupMode) -> GroupConfig {
    let backoff = Some(Backoff::List(vec![1]));
    let retry = RetryPolicy { max_attempts: Some(3), backoff, jitter_percent: Some(0), ..RetryPolicy::default() };
    GroupConfig::topics([topic]).mode(mode).retry(retry)
}

pub(crate) fn number(record: &ConsumedRecord) -> u32 {
    record.decode::<Json<u32>>().unwrap()
}

pub(crate) async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

/// Runs a member of a group until it has handled `count` records; returns their numbers in the order of their handling.
async fn run(client: &Client, group: &str, config: GroupConfig, count: usize) -> Vec<u32> {
    let consumer = client.consumer(group).create_if_missing(config).concurrency(8).open().await.unwrap();
    let (handled, mut seen) = mpsc::unbounded_channel();
    let numbers = async {
        let mut numbers = Vec::new();
        while numbers.len() < count {
            numbers.push(seen.recv().await.expect("handlers run"));
        }
        numbers
    };
    let (stop, stopped) = tokio::sync::oneshot::channel();
    let running = consumer.run_until(stopped, PATIENCE, move |record| {
        let handled = handled.clone();
        async move {
            handled.send(number(&record)).unwrap();
            Ok(())
        }
    });
    let numbers = async {
        let numbers = in_time(numbers).await;
        stop.send(()).unwrap();
        numbers
    };
    let (ended, numbers) = tokio::join!(running, numbers);
    ended.unwrap();
    numbers
}

pub(crate) async fn lag(client: &Client, group: &str) -> u64 {
    client.groups().lag(group, &[]).await.unwrap().lag_records
}

#[tokio::test]
async fn gm_2_in_each_mode_a_group_gets_every_record_once_and_is_then_not_behind() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 3, 10, 300).await;
    for mode in [GroupMode::Keyed, GroupMode::Offset, GroupMode::Unordered] {
        let group = mode.to_string();
        let numbers = run(&client, &group, config("orders", mode), 300).await;
        assert_eq!(numbers.iter().copied().collect::<BTreeSet<_>>().len(), 300, "{mode}");
        if mode != GroupMode::Unordered {
            let mut last = BTreeMap::new();
            for number in numbers {
                let before = last.insert(number % 10, number);
                assert!(before.is_none_or(|before| before < number), "{mode}: {before:?} before {number}");
            }
        }
        assert_eq!(lag(&client, &group).await, 0, "{mode}");
        assert_eq!(client.groups().members(&group).await.unwrap(), [], "the member has left");
    }
    // Nothing of it is delivered again (rule AK-10): a member that joins now gets only what is new.
    produce(&client, "orders", 10, 300..310).await;
    for mode in [GroupMode::Keyed, GroupMode::Offset, GroupMode::Unordered] {
        let numbers = run(&client, mode.as_str(), config("orders", mode), 10).await;
        assert_eq!(numbers.into_iter().collect::<BTreeSet<_>>(), (300..310).collect(), "{mode}");
    }
    broker.shutdown().await;
}

#[tokio::test]
async fn gm_3_two_members_share_one_partition_and_each_key_has_one_of_them() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 1, 50, 0).await;
    let mut members = Vec::new();
    let (handled, mut seen) = mpsc::unbounded_channel();
    for member in 0..2 {
        let builder = client.consumer("g").create_if_missing(config("orders", GroupMode::Keyed));
        let consumer = builder.open().await.unwrap();
        let handle = consumer.handle();
        let handled = handled.clone();
        let running = tokio::spawn(consumer.run(move |record| {
            let handled = handled.clone();
            async move {
                handled.send((member, record.key.clone().unwrap(), number(&record))).unwrap();
                Ok(())
            }
        }));
        members.push((handle, running));
    }
    // Both own half of the slots before there is something to handle.
    in_time(async {
        loop {
            let members = client.groups().members("g").await.unwrap();
            let slots = |unit: &sawlog_client::groups::MemberUnit| unit.slot_to - unit.slot_from;
            if members.len() == 2 && members.iter().all(|member| member.units.iter().map(slots).sum::<u32>() == 2048) {
                break;
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    produce(&client, "orders", 50, 0..500).await;
    let mut by_key: BTreeMap<_, (BTreeSet<i32>, Vec<u32>)> = BTreeMap::new();
    let mut shares = [0, 0];
    for _ in 0..500 {
        let (member, key, number) = in_time(seen.recv()).await.unwrap();
        let (owners, numbers) = by_key.entry(key).or_default();
        owners.insert(member);
        numbers.push(number);
        shares[usize::try_from(member).unwrap()] += 1;
    }
    assert!(by_key.values().all(|(owners, numbers)| owners.len() == 1 && numbers.is_sorted()), "{by_key:?}");
    assert!(shares.iter().all(|share| *share > 50), "{shares:?}");
    for (handle, running) in members {
        handle.shutdown(PATIENCE).await;
        running.await.unwrap().unwrap();
    }
    assert_eq!(lag(&client, "g").await, 0);
    broker.shutdown().await;
}

#[tokio::test]
async fn rt_1_a_record_that_fails_is_tried_again_and_its_key_waits_while_others_flow() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 1, 3, 9).await;
    let builder = client.consumer("g").create_if_missing(config("orders", GroupMode::Keyed));
    let mut consumer = builder.open().await.unwrap();
    let mut seen = Vec::new();
    while seen.len() < 11 {
        let delivery = in_time(consumer.next_delivery()).await.unwrap().unwrap();
        let (number, attempt) = (number(&delivery), delivery.attempt);
        seen.push((number, attempt));
        if number == 0 && attempt < 3 {
            assert!(!delivery.is_last_attempt());
            let outcome = delivery.nack(HandlerError::retry("not yet").class("LATER")).await.unwrap();
            assert_eq!(outcome, AckOutcome::Done);
            continue;
        }
        if number == 0 {
            assert!(delivery.is_last_attempt() && delivery.max_attempts == 3);
            assert_eq!(delivery.last_error_class(), Some("LATER"));
            assert!(delivery.first_delivery_ms().is_some());
        }
        assert_eq!(delivery.ack().await.unwrap(), AckOutcome::Done);
    }
    let of_key: Vec<_> = seen.iter().filter(|(number, _)| number % 3 == 0).copied().collect();
    assert_eq!(of_key, [(0, 1), (0, 2), (0, 3), (3, 1), (6, 1)]);
    consumer.shutdown(PATIENCE).await.unwrap();
    assert_eq!(lag(&client, "g").await, 0);
    broker.shutdown().await;
}

#[tokio::test]
async fn dl_6_rd_4_a_dead_letter_parks_its_key_and_a_redrive_delivers_all_of_it_in_order_with_the_edit() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 2, 4, 12).await;
    let consumer = client.consumer("g").create_if_missing(config("orders", GroupMode::Keyed)).open().await.unwrap();
    let handle = consumer.handle();
    let (handled, mut seen) = mpsc::unbounded_channel();
    let running = tokio::spawn(consumer.run(move |record| {
        let handled = handled.clone();
        async move {
            if record.value.as_deref() == Some(b"1") {
                return Err(HandlerError::dead("no teapot").class("TEAPOT"));
            }
            let (cycle, edited) = record.entry().map_or((0, false), |entry| (entry.cycle, entry.is_edited()));
            handled.send((number(&record), cycle, edited)).unwrap();
            Ok(())
        }
    }));
    let mut numbers = BTreeSet::new();
    for _ in 0..9 {
        numbers.insert(in_time(seen.recv()).await.unwrap().0);
    }
    assert_eq!(numbers, BTreeSet::from([0, 2, 3, 4, 6, 7, 8, 10, 11]), "the other keys");
    let letters = client.dead_letters().actor("test");
    let entries = in_time(async {
        loop {
            let entries: Vec<_> = letters.entries("g", &EntrySelector::default(), true).collect().await;
            if entries.len() == 3 {
                break entries.into_iter().collect::<Result<Vec<_>, _>>().unwrap();
            }
            tokio::task::yield_now().await;
        }
    })
    .await;
    let head = &entries[0];
    assert_eq!(head.error.as_ref().unwrap().class, "TEAPOT");
    assert!(entries[1..].iter().all(|entry| entry.blocked_by.as_deref() == Some(head.dlq_id.as_str())), "{entries:?}");
    let position = sawlog_client::types::RecordPosition {
        topic_id: head.topic_id.clone(),
        partition: head.partition,
        epoch: head.epoch,
        offset: head.offset,
        append_time_ms: 0,
        duplicate: false,
        ack: sawlog_client::AckLevel::Durable,
    };
    let processed = client.groups().await_processed("g", &[position], PATIENCE).await.unwrap();
    assert_eq!(processed[0].state, Some(ProcessedState::Dead));

    let edit = Edit { payload: Payload::Value("101".into()), note: "one teapot".to_owned(), ..Edit::default() };
    assert_eq!(letters.edit(&head.dlq_id, edit).await.unwrap().1, 1);
    let redrive = Redrive { selector: EntrySelector::ids([&head.dlq_id]), ..Redrive::default() };
    assert_eq!(letters.redrive_preview("g", &redrive).await.unwrap().entries, 3);
    let job = letters.redrive("g", &redrive).await.unwrap();
    let mut again = Vec::new();
    for _ in 0..3 {
        again.push(in_time(seen.recv()).await.unwrap());
    }
    assert_eq!(again.iter().map(|(number, ..)| *number).collect::<Vec<_>>(), [101, 5, 9]);
    assert!(again[0].2 && !again[1].2, "only the first was edited: {again:?}");
    let job = in_time(letters.watch_job(&job.job_id, Duration::from_millis(5), |_| {})).await.unwrap();
    assert_eq!((job.state, job.resolved, job.failed), (Some(JobState::Done), 3, 0));
    assert_eq!(letters.get(&head.dlq_id).await.unwrap().entry.state, Some(EntryState::Resolved));
    // The key lives again.
    produce(&client, "orders", 4, 13..14).await;
    assert_eq!(in_time(seen.recv()).await.unwrap().0, 13);
    handle.shutdown(PATIENCE).await;
    running.await.unwrap().unwrap();
    broker.shutdown().await;
}

#[tokio::test]
async fn ak_8_in_mode_offset_poison_is_stepped_over_and_its_key_parked() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 1, 3, 9).await;
    let builder = client.consumer("g").create_if_missing(config("orders", GroupMode::Offset)).tries(2);
    let consumer = builder.open().await.unwrap();
    let handle = consumer.handle();
    let tries = Arc::new(AtomicU64::new(0));
    let (handled, mut seen) = mpsc::unbounded_channel();
    let running = tokio::spawn(consumer.run({
        let tries = Arc::clone(&tries);
        move |record| {
            let (handled, tries) = (handled.clone(), Arc::clone(&tries));
            async move {
                if number(&record) == 1 {
                    tries.fetch_add(1, Ordering::Relaxed);
                    return Err(HandlerError::retry("poison"));
                }
                handled.send(number(&record)).unwrap();
                Ok(())
            }
        }
    }));
    let mut numbers = BTreeSet::new();
    for _ in 0..6 {
        numbers.insert(in_time(seen.recv()).await.unwrap());
    }
    assert_eq!(numbers, BTreeSet::from([0, 2, 3, 5, 6, 8]), "4 and 7 have the key of 1");
    in_time(async {
        while lag(&client, "g").await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    handle.shutdown(PATIENCE).await;
    running.await.unwrap().unwrap();
    assert_eq!(tries.load(Ordering::Relaxed), 2);
    let entries: Vec<_> = client.dead_letters().entries("g", &EntrySelector::default(), false).collect().await;
    let offsets: Vec<_> = entries.into_iter().map(|entry| entry.unwrap().offset).collect();
    assert_eq!(offsets, [1, 4, 7]);
    broker.shutdown().await;
}

#[tokio::test]
async fn ak_8_batches_are_read_whole_and_committed_behind() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 2, 10, 1000).await;
    let open = || client.consumer("g").create_if_missing(config("orders", GroupMode::Offset)).open();
    let mut consumer = open().await.unwrap();
    let mut count = 0;
    while count < 1000 {
        match in_time(consumer.next_batch()).await.unwrap().unwrap() {
            BatchEvent::Batch(batch) => {
                count += batch.for_each(|_| {}).unwrap();
                consumer.commit_batch(&batch).await.unwrap();
            }
            BatchEvent::Event(ConsumerEvent::Delivery(delivery)) => panic!("{delivery:?}"),
            BatchEvent::Event(_) => {}
        }
    }
    consumer.shutdown(PATIENCE).await.unwrap();
    assert_eq!(lag(&client, "g").await, 0);
    // A record is no verb of another mode's.
    produce(&client, "orders", 10, 0..1).await;
    let mut consumer = open().await.unwrap();
    let delivery = in_time(consumer.next_delivery()).await.unwrap().unwrap();
    assert_eq!(delivery.ack().await.unwrap_err().reason(), Some(ErrorReason::WrongMode));
    broker.shutdown().await;
}

#[tokio::test]
async fn gm_8_a_restart_of_the_broker_goes_unnoticed_by_what_is_in_work() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 1, 4, 4).await;
    let builder = client.consumer("g").create_if_missing(config("orders", GroupMode::Keyed));
    let mut consumer = builder.open().await.unwrap();
    let mut held = Vec::new();
    for _ in 0..4 {
        held.push(in_time(consumer.next_delivery()).await.unwrap().unwrap());
    }
    in_time(broker.kill()).await;
    in_time(broker.restart()).await;
    for delivery in held {
        assert_eq!(delivery.attempt, 1);
        let outcome = in_time(delivery.ack()).await.unwrap();
        assert_eq!(outcome, AckOutcome::Done);
    }
    produce(&client, "orders", 4, 4..8).await;
    for _ in 0..4 {
        let delivery = in_time(consumer.next_delivery()).await.unwrap().unwrap();
        assert!((4..8).contains(&number(&delivery)), "nothing is delivered again");
        delivery.ack().await.unwrap();
    }
    consumer.shutdown(PATIENCE).await.unwrap();
    assert_eq!(lag(&client, "g").await, 0);
    broker.shutdown().await;
}

#[tokio::test]
async fn gm_10_a_member_that_leaves_gives_back_what_it_has_not_started_without_a_strike() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 1, 5, 5).await;
    let open = || client.consumer("g").create_if_missing(config("orders", GroupMode::Keyed)).open();
    let mut first = open().await.unwrap();
    let delivery = in_time(first.next_delivery()).await.unwrap().unwrap();
    let (leaving, outcome) = tokio::join!(first.shutdown(PATIENCE), delivery.ack());
    leaving.unwrap();
    assert_eq!(outcome.unwrap(), AckOutcome::Done, "what was in work is acked before the member leaves");
    let mut second = open().await.unwrap();
    for _ in 0..4 {
        let delivery = in_time(second.next_delivery()).await.unwrap().unwrap();
        assert_eq!(delivery.attempt, 1);
        delivery.ack().await.unwrap();
    }
    assert_eq!(lag(&client, "g").await, 0);
    broker.shutdown().await;
}

#[tokio::test]
async fn gm_2_a_join_that_expects_otherwise_is_refused() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 1, 5, 0).await;
    topic(&client, "others", 1, 5, 0).await;
    let missing = client.consumer("g").open().await.unwrap_err();
    assert_eq!(missing.reason(), Some(ErrorReason::GroupNotFound));
    drop(client.consumer("g").create_if_missing(config("orders", GroupMode::Keyed)).open().await.unwrap());
    let other = client.consumer("g").mode(GroupMode::Offset).open().await.unwrap_err();
    assert_eq!(other.reason(), Some(ErrorReason::GroupMismatch));
    let other = client.consumer("g").topics(["others"]).open().await.unwrap_err();
    assert_eq!(other.reason(), Some(ErrorReason::GroupMismatch));
    broker.shutdown().await;
}

#[tokio::test]
async fn g2_in_mode_offset_nothing_is_left_out_when_the_broker_is_killed_under_work() {
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, "orders", 2, 20, 2000).await;
    let builder = client.consumer("g").create_if_missing(config("orders", GroupMode::Offset)).credit(100, 1 << 20);
    let consumer = builder.open().await.unwrap();
    let handle = consumer.handle();
    let (handled, mut seen) = mpsc::unbounded_channel();
    let running = tokio::spawn(consumer.run(move |record| {
        let handled = handled.clone();
        async move {
            handled.send(number(&record)).unwrap();
            tokio::task::yield_now().await;
            Ok(())
        }
    }));
    let mut numbers = BTreeSet::new();
    for round in 1..=3 {
        while numbers.len() < round * 400 {
            numbers.insert(in_time(seen.recv()).await.unwrap());
        }
        in_time(broker.kill()).await;
        in_time(broker.restart()).await;
    }
    while numbers.len() < 2000 {
        numbers.insert(in_time(seen.recv()).await.unwrap());
    }
    in_time(async {
        while lag(&client, "g").await > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    handle.shutdown(PATIENCE).await;
    running.await.unwrap().unwrap();
    broker.shutdown().await;
}
