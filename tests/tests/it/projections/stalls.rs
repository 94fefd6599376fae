//! What operators see of a read model whose database cannot be used (rules RM-6, OB-3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sawlog_client::Client;
use sawlog_client::groups::Stall;
use sawlog_client::projection::{
    Applied, ApplyError, Claim, ClaimError, Claimed, Cursor, Store, StoreError, UnitState, Work,
};
use sawlog_testing::TestBroker;
use tokio::sync::Mutex;

use super::model::{GROUP, MEMBER, Running, TOPIC, decided, in_time, numbers, produce, topic};
use crate::errors::metrics;

/// A database that is away, or keeps a cursor of one partition.
#[derive(Debug, Clone, Default)]
struct Away {
    away: Arc<AtomicBool>,
    cursor: Arc<Mutex<Option<Cursor>>>,
}

impl Away {
    fn go(&self, away: bool) {
        self.away.store(away, Ordering::SeqCst);
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::SeqCst) { Err(StoreError::unavailable("the database is away")) } else { Ok(()) }
    }
}

impl Store for Away {
    async fn open(&self, claim: &Claim) -> Result<Claimed, ClaimError> {
        self.check()?;
        let mut cursor = self.cursor.lock().await;
        let is_new = cursor.is_none();
        Ok(Claimed { cursor: cursor.get_or_insert_with(|| claim.first.clone()).clone(), is_new, applied: Vec::new() })
    }

    async fn apply(&self, work: Arc<Work>) -> Result<Applied, ApplyError> {
        self.check()?;
        self.cursor.lock().await.as_mut().expect("it was claimed").next_offset = work.advance.to;
        Ok(Applied::default())
    }
}

/// What the broker says of the one partition, and of its unit.
async fn told(client: &Client) -> (Option<Stall>, Option<Stall>) {
    let lag = client.groups().lag(GROUP, &[]).await.unwrap();
    let members = client.groups().members(GROUP).await.unwrap();
    let unit = members.into_iter().flat_map(|member| member.units).find_map(|unit| unit.stalled);
    (lag.partitions[0].stalled.clone(), unit)
}

/// Asks until the broker says that the unit waits.
async fn stalled(client: &Client) -> Stall {
    in_time(async {
        loop {
            if let (Some(of_partition), Some(of_unit)) = told(client).await {
                assert_eq!(of_partition.since_ms, of_unit.since_ms);
                return of_partition;
            }
        }
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rm_6_ob_3_a_stalled_unit_is_seen_at_the_broker_until_it_goes_on() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, 1).await;
    let positions = produce(&client, numbers(3, 30).0).await;
    let store = Away::default();
    store.go(true);
    let projection = client.projection(GROUP, store.clone()).topics([TOPIC]).create_if_missing().member_id(MEMBER);
    let running = Running::of(projection).await;
    assert_eq!(stalled(&client).await.reason, "the database is away");
    let gauge = |units: u64| {
        format!("sawlog_group_stalled_units{{group=\"{GROUP}\",topic=\"{TOPIC}\",partition=\"\"}} {units}")
    };
    let text = metrics(&broker).await;
    assert!(text.lines().any(|line| line.starts_with(&gauge(1))), "{text}");

    store.go(false);
    decided(&client, GROUP, &positions).await;
    assert_eq!(told(&client).await, (None, None), "told before the position");
    assert!(metrics(&broker).await.lines().any(|line| line.starts_with(&gauge(0))));
    // In the middle of the work it is the same.
    store.go(true);
    let later = produce(&client, numbers(3, 30).0).await;
    stalled(&client).await;
    store.go(false);
    decided(&client, GROUP, &later).await;
    assert_eq!(told(&client).await, (None, None));
    assert!(running.handle.status().units().all(|unit| unit.state == UnitState::Running && unit.error.is_none()));
    running.stop().await;
    let group = client.groups().lag(GROUP, &[]).await.unwrap();
    assert_eq!((group.dead_keys, group.partitions[0].open_entries), (0, 0), "no record is to blame");
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rm_6_that_a_unit_is_stalled_is_forgotten_with_its_program() {
    let broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, 1).await;
    produce(&client, numbers(3, 3).0).await;
    let store = Away::default();
    store.go(true);
    let make = || client.projection(GROUP, store.clone()).topics([TOPIC]).create_if_missing();
    let running = Running::of(make()).await;
    stalled(&client).await;
    running.stop().await;
    assert_eq!(told(&client).await, (None, None), "it has left");
    let running = Running::of(make()).await;
    stalled(&client).await;
    running.kill().await;
    in_time(async { while told(&client).await != (None, None) {} }).await;
    broker.shutdown().await;
}
