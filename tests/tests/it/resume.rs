//! Members whose connection is cut, or that come back without a memory, while the broker lives.

use std::collections::BTreeMap;
use std::time::Duration;

use sawlog_client::payload::Json;
use sawlog_client::{Client, GroupConfig, GroupMode, NewTopic, Record};
use sawlog_proto::v1;
use sawlog_proto::v1::consume_response::Frame as Told;
use sawlog_testing::TestBroker;
use tokio::sync::mpsc;

use crate::member::{Member, create, groups, join, settings};
use crate::proxy::Proxy;
use crate::wire::{Wire, keyed};

const PATIENCE: Duration = Duration::from_secs(30);
const RECORDS: u32 = 2_000;

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

/// A member behind a proxy that cuts it again and again handles each record once: its session is resumed with what it has
/// in work, and verdicts whose answers were lost are sent again.
async fn cut_again_and_again(mode: GroupMode) {
    let broker = TestBroker::start().await;
    let near = broker.client();
    near.admin().create_topic(NewTopic::new("orders").partitions(2)).await.unwrap();
    let producer = near.producer("orders").build().await.unwrap();
    for number in 0..RECORDS {
        drop(producer.send(Record::keyed(format!("k{}", number % 20), number.to_string())).await.unwrap());
    }
    producer.close().await.unwrap();
    let proxy = Proxy::before(&broker.url()).await;
    let far = Client::builder(proxy.url()).connect_lazy().unwrap();
    let config = GroupConfig::topics(["orders"]).mode(mode);
    let builder = far.consumer("g").create_if_missing(config).credit(100, 1 << 20).concurrency(8);
    let consumer = in_time(builder.open()).await.unwrap();
    let handle = consumer.handle();
    let session = near.groups().members("g").await.unwrap()[0].member_epoch;
    let (handled, mut seen) = mpsc::unbounded_channel();
    let running = tokio::spawn(consumer.run(move |record| {
        let handled = handled.clone();
        async move {
            handled.send(record.decode::<Json<u32>>()?).unwrap();
            tokio::task::yield_now().await;
            Ok(())
        }
    }));
    let (mut times, mut last) = (BTreeMap::<u32, u32>::new(), BTreeMap::new());
    for handled in 1..=RECORDS {
        let number = in_time(seen.recv()).await.unwrap();
        *times.entry(number).or_default() += 1;
        let before = last.insert(number % 20, number);
        assert!(before.is_none_or(|before| before < number), "{mode}: {number} of its key after {before:?}");
        if handled % 300 == 0 {
            proxy.cut();
        }
    }
    assert_eq!(times.len() as u32, RECORDS, "{mode}: none is left out");
    assert!(times.values().all(|times| *times == 1), "{mode}: {times:?}");
    in_time(async {
        while near.groups().lag("g", &[]).await.unwrap().lag_records > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let members = near.groups().members("g").await.unwrap();
    assert_eq!(members.iter().map(|member| member.member_epoch).collect::<Vec<_>>(), [session], "{mode}: one session");
    in_time(handle.shutdown(PATIENCE)).await;
    running.await.unwrap().unwrap();
    assert!(seen.try_recv().is_err(), "{mode}: nothing comes twice");
    assert!(broker.shutdown().await);
}

#[tokio::test]
async fn gm_8_in_mode_offset_a_cut_connection_is_resumed_and_nothing_is_left_out_or_handled_twice() {
    cut_again_and_again(GroupMode::Offset).await;
}

#[tokio::test]
async fn gm_8_in_mode_keyed_a_cut_connection_is_resumed_and_nothing_is_left_out_or_handled_twice() {
    cut_again_and_again(GroupMode::Keyed).await;
}

/// Offsets that a member is sent until it is told that it is at the live end.
async fn to_the_live_end(member: &mut Member) -> Vec<i64> {
    let mut offsets = Vec::new();
    in_time(member.until(|told| match told {
        Told::Records(records) => {
            offsets.extend(records.deliveries.iter().map(|delivery| delivery.offset));
            None
        }
        Told::CaughtUp(at) => Some(at.offset),
        _ => None,
    }))
    .await;
    offsets
}

#[tokio::test]
async fn fc_4_in_mode_offset_a_member_that_starts_anew_gets_what_is_not_committed_and_then_the_live_end() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("orders", v1::TopicConfig { partitions: Some(1), ..Default::default() }).await;
    wire.write("orders", (0..50).map(|number| keyed(&format!("key-{number}"), "x")).collect()).await;
    create(&wire, "copy", settings("orders", v1::GroupMode::Offset)).await;
    let all: Vec<i64> = (0..50).collect();
    for _ in 0..3 {
        // Each time a process that knows its id and no epoch; the one before has just died.
        let (mut member, joined) = Member::joined(&wire, join("copy", 1)).await;
        assert!(!joined.resumed);
        assert_eq!(to_the_live_end(&mut member).await, all);
    }
    assert!(broker.shutdown().await);
}

#[tokio::test]
async fn of_6_members_are_told_of_pauses_on_the_wire_with_their_topic_and_note() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("orders", v1::TopicConfig::default()).await;
    create(&wire, "billing", settings("orders", v1::GroupMode::Keyed)).await;
    let (mut member, _) = Member::joined(&wire, join("billing", 1)).await;
    let pause = v1::PauseGroupRequest {
        name: "billing".into(),
        topic: "orders".into(),
        note: "a migration".into(),
        ..Default::default()
    };
    groups(&wire).pause_group(pause).await.unwrap();
    let notice = |told| if let Told::Notice(notice) = told { Some(notice) } else { None };
    let told = in_time(member.until(notice)).await;
    let paused = told.pause.clone().unwrap();
    assert_eq!((told.paused, paused.reason()), (true, v1::PauseReason::Operator));
    assert_eq!((paused.topic.as_str(), paused.note.as_str(), paused.partition), ("orders", "a migration", None));
    // Who comes later is told right behind `Joined`.
    let (mut later, _) = Member::joined(&wire, join("billing", 2)).await;
    assert_eq!(notice(later.told().await.unwrap()), Some(told.clone()));
    let resume = v1::ResumeGroupRequest { name: "billing".into(), topic: "orders".into() };
    groups(&wire).resume_group(resume).await.unwrap();
    for member in [&mut member, &mut later] {
        let gone = in_time(member.until(notice)).await;
        assert_eq!((gone.paused, gone.pause.unwrap().topic.as_str()), (false, "orders"));
    }
    assert!(broker.shutdown().await);
}
