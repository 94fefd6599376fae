//! Members that never read what they are sent: they are cut, nobody else notices, and what they had goes to others.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use sawlog_broker::clock::ManualClock;
use sawlog_proto::v1::consume_request::Frame as Ask;
use sawlog_proto::v1::consume_response::Frame as Told;
use sawlog_proto::v1::{self, GroupMode, WorkOutcome};
use sawlog_testing::TestBroker;

use crate::errors::info;
use crate::member::{Member, create, join, outcome, settings, work_of};
use crate::wire::{Wire, keyed};

const PATIENCE: Duration = Duration::from_secs(60);
/// Records that fill every window between broker and member, and small ones of other keys.
const BIG: usize = 12;
const SMALL: usize = 24;

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("it comes in time")
}

/// A member that acks whatever it gets, one ping at a time.
struct Busy {
    member: Member,
    sequence: u64,
    /// Attempt of each record that it was given.
    attempts: BTreeMap<i64, u32>,
    acked: usize,
}

impl Busy {
    /// Takes in what comes until the broker has answered a ping, and acks it.
    async fn turn(&mut self) {
        self.member.ask(Ask::Ping(v1::Ping { nonce: 7 })).await;
        loop {
            match self.member.told().await.unwrap() {
                Told::Pong(_) => return,
                Told::AckResult(result) => {
                    assert_eq!(outcome(&result), WorkOutcome::Ok);
                    self.acked += 1;
                }
                Told::Records(frame) => {
                    for delivery in &frame.deliveries {
                        self.sequence += 1;
                        let work = vec![work_of(&frame, delivery)];
                        self.member.ask(Ask::Ack(v1::Ack { sequence: self.sequence, work })).await;
                        let before = self.attempts.insert(delivery.offset, delivery.attempt);
                        assert_eq!(before, None, "record {} came twice", delivery.offset);
                    }
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn fc_8_a_member_that_never_reads_is_cut_and_its_records_go_to_others() {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let broker = TestBroker::builder().clock(clock.clone()).start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("orders", v1::TopicConfig { partitions: Some(1), ..Default::default() }).await;
    for number in 0..BIG {
        wire.write("orders", vec![keyed(&format!("big-{number}"), "x".repeat(1_000_000))]).await;
    }
    // Session and leases outlast the time that a member is given to read.
    let (session_timeout_ms, lease_ms) = (Some(300_000), Some(600_000));
    let config = v1::GroupConfig { session_timeout_ms, lease_ms, ..settings("orders", GroupMode::Keyed) };
    create(&wire, "billing", config).await;
    // On a connection of its own, whose windows it fills.
    let (mut silent, _) = Member::joined(&Wire::new(&broker).await, join("billing", 1)).await;
    in_time(silent.records(1)).await;
    let (member, _) = Member::joined(&wire, join("billing", 2)).await;
    let mut other = Busy { member, sequence: 0, attempts: BTreeMap::new(), acked: 0 };
    // Appends go on, and the other member has its share of what comes.
    let small = (0..SMALL).map(|number| keyed(&format!("small-{number}"), "x".to_owned()));
    wire.write("orders", small.collect()).await;
    in_time(async {
        while other.acked < SMALL / 4 {
            other.turn().await;
        }
    })
    .await;
    // Time is turned by hand; the watcher looks twice a second.
    in_time(async {
        let mut looks = 0_u32;
        while !crate::errors::metrics(&broker).await.contains("reason=\"SLOW_READER\"") {
            if looks.is_multiple_of(100) {
                clock.advance(Duration::from_secs(11));
                broker.turn_timers();
            }
            looks += 1;
            other.turn().await;
        }
    })
    .await;
    assert_eq!(info(&in_time(silent.end()).await).reason, "SLOW_READER");
    assert!(other.acked < BIG + SMALL, "what it has may be resumed for as long as its session lasts");
    for _ in 0..61 {
        clock.advance(Duration::from_secs(5));
        broker.turn_timers();
        other.turn().await;
    }
    // What it had counts as tried once: the next try waits for its delay.
    in_time(async {
        while other.acked < BIG + SMALL {
            clock.advance(Duration::from_millis(5));
            broker.turn_timers();
            other.turn().await;
        }
    })
    .await;
    assert_eq!(other.attempts.keys().copied().collect::<Vec<_>>(), (0..(BIG + SMALL) as i64).collect::<Vec<_>>());
    let again = other.attempts.values().filter(|attempt| **attempt == 2).count();
    assert!(again > 0 && other.attempts.values().all(|attempt| *attempt <= 2), "{:?}", other.attempts);
    assert!(broker.shutdown().await);
}
