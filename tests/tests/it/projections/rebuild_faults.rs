//! Swaps interrupted at each step: finished or undone, as the database says (rule RP-6).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sawlog_client::groups::{NewRebuild, Rebuild, RebuildState};
use sawlog_client::projection::Step;
use sawlog_client::{Client, ErrorReason};
use sawlog_testing::TestBroker;

use super::model::{GROUP, Running, decided, in_time, numbers, produce};
use super::rebuild::{Versions, live, member, model_of, until};

const LOOK: Duration = Duration::from_millis(10);
const STEPS: [Step; 4] = [Step::SwapAsked, Step::SwapHandled, Step::SwapMarked, Step::SwapCommitted];

/// Stops at a step, once, as a kill would.
fn stops(at: Step) -> (impl Fn(Step) -> bool + Send + Sync + 'static, Arc<AtomicBool>) {
    let reached = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&reached);
    let probe = move |step| step == at && !flag.swap(true, Ordering::SeqCst);
    (probe, reached)
}

async fn when(flag: &AtomicBool) {
    in_time(async {
        while !flag.load(Ordering::SeqCst) {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

/// A rebuild whose swap stops in a member of the new version at this step.
async fn stopped_at(client: &Client, model: &Versions, step: Step) -> (Running, Running, Vec<(String, String)>) {
    let (old, records, _) = live(client, model, 200).await;
    client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    let (probe, reached) = stops(step);
    let new = Running::of(member(client, model.swapping("v2"), Some("v2")).probe(probe)).await;
    until(client, RebuildState::Ready).await;
    client.groups().swap_rebuild(GROUP).await.unwrap();
    when(&reached).await;
    let swapping = client.groups().rebuild(GROUP).await.unwrap();
    assert_eq!(swapping.state, Some(RebuildState::Swapping), "{step:?}");
    (old, new, records)
}

/// The swap is done, and version 2 goes on.
async fn finished(client: &Client, model: &Versions, records: &mut Vec<(String, String)>, what: &str) {
    until(client, RebuildState::Swapped).await;
    let more = numbers(20, 40).0;
    let positions = produce(client, more.clone()).await;
    records.extend(more);
    decided(client, GROUP, &positions).await;
    assert_eq!(model.totals("active"), model_of(records), "{what}");
    assert_eq!(model.text("SELECT version FROM projection_version"), Some("v2".into()), "{what}");
    assert_eq!(model.text("SELECT COUNT(*) FROM projection_swap"), Some("1".into()), "{what}: one mark");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_worker_killed_at_each_step_of_a_swap_leaves_it_to_be_finished() {
    for step in STEPS {
        let broker = TestBroker::start().await;
        let (client, model) = (broker.client(), Versions::new(&broker));
        let (old, new, mut records) = stopped_at(&client, &model, step).await;
        new.kill().await;
        let next = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
        finished(&client, &model, &mut records, &format!("{step:?}")).await;
        assert_eq!(old.error().await.reason(), Some(ErrorReason::GroupMismatch));
        next.stop().await;
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_broker_killed_at_each_step_of_a_swap_finishes_it() {
    for step in STEPS {
        let mut broker = TestBroker::start().await;
        let (client, model) = (broker.client(), Versions::new(&broker));
        let (old, new, mut records) = stopped_at(&client, &model, step).await;
        broker.kill().await;
        broker.restart().await;
        // The same worker comes back, and is asked again.
        finished(&client, &model, &mut records, &format!("{step:?}")).await;
        assert_eq!(old.error().await.reason(), Some(ErrorReason::GroupMismatch));
        new.stop().await;
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_swap_that_is_given_up_ends_as_the_database_says() {
    for step in STEPS {
        let broker = TestBroker::start().await;
        let (client, model) = (broker.client(), Versions::new(&broker));
        let (old, new, mut records) = stopped_at(&client, &model, step).await;
        new.kill().await;
        let asked = client.groups().abort_rebuild(GROUP).await.unwrap();
        assert_eq!(asked.state, Some(RebuildState::Swapping), "{step:?}: nobody knows yet");
        let next = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
        if step == Step::SwapCommitted {
            finished(&client, &model, &mut records, "it was done").await;
            drop(old.error().await);
            next.stop().await;
        } else {
            until(&client, RebuildState::Aborted).await;
            assert_eq!(next.error().await.reason(), Some(ErrorReason::GroupMismatch), "{step:?}");
            assert_eq!(model.text("SELECT version FROM projection_version"), None, "{step:?}");
            assert_eq!(model.text("SELECT done FROM projection_swap"), Some("0".into()), "{step:?}: never to be done");
            // The old version goes on.
            let more = numbers(20, 40).0;
            let positions = produce(&client, more.clone()).await;
            records.extend(more);
            decided(&client, GROUP, &positions).await;
            assert_eq!(model.totals("active"), model_of(&records), "{step:?}");
            old.stop().await;
        }
        broker.shutdown().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_broker_killed_while_a_version_fills_goes_on_with_both() {
    let mut broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, mut records, _) = live(&client, &model, 500).await;
    client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    broker.kill().await;
    broker.restart().await;
    let new = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
    let begun = |rebuild: &Rebuild| rebuild.done > 0;
    in_time(client.groups().watch_rebuild(GROUP, LOOK, |_| {}, begun)).await.unwrap();
    broker.kill().await;
    broker.restart().await;
    let more = numbers(20, 40).0;
    let positions = produce(&client, more.clone()).await;
    records.extend(more);
    decided(&client, GROUP, &positions).await;
    until(&client, RebuildState::Ready).await;
    client.groups().swap_rebuild(GROUP).await.unwrap();
    finished(&client, &model, &mut records, "after two kills").await;
    drop(old.error().await);
    new.stop().await;
    broker.shutdown().await;
}
