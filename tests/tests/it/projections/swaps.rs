//! Swaps interrupted at each step: finished or undone, as the database says (rule RP-6). On every database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sawlog_client::groups::{NewRebuild, Rebuild, RebuildState};
use sawlog_client::projection::Step;
use sawlog_client::{Client, ErrorReason};
use sawlog_testing::TestBroker;

use super::model::{GROUP, Running, Totals, decided, in_time, numbers, produce};
use super::versions::{LOOK, Versioned, Versions, live, member, model_of, until};

const STEPS: [Step; 4] = [Step::SwapAsked, Step::SwapHandled, Step::SwapMarked, Step::SwapCommitted];

/// Gives the names of all tests of the suite to a macro that makes tests of them.
macro_rules! all {
    ($make:ident) => {
        $make! {
            rm_2_the_cursors_of_a_retired_version_are_fenced
            rp_6_a_broker_killed_at_each_step_of_a_swap_finishes_it
            rp_6_a_broker_killed_while_a_version_fills_goes_on_with_both
            rp_6_a_swap_that_is_given_up_ends_as_the_database_says
            rp_6_a_worker_killed_at_each_step_of_a_swap_leaves_it_to_be_finished
            rp_6_the_hook_is_part_of_the_transaction_of_the_swap
        }
    };
}
pub(super) use all;

/// A test of the suite on SQLite.
macro_rules! on_sqlite {
    ($($name:ident)+) => {$(
        #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            generic::$name::<Versions>().await;
        }
    )+};
}

all!(on_sqlite);

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
async fn stopped_at<M: Versioned>(client: &Client, model: &M, step: Step) -> (Running, Running, Vec<(String, String)>) {
    let (old, records, _) = live(client, model, 200).await;
    client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    let (probe, reached) = stops(step);
    let new = Running::of(member(client, model.with_hook("v2"), Some("v2")).probe(probe)).await;
    until(client, RebuildState::Ready).await;
    client.groups().swap_rebuild(GROUP).await.unwrap();
    when(&reached).await;
    let swapping = client.groups().rebuild(GROUP).await.unwrap();
    assert_eq!(swapping.state, Some(RebuildState::Swapping), "{step:?}");
    let expected: Totals = model_of(&records);
    assert_eq!(model.rows("active").await, expected, "{step:?}: readers see one whole model or the other");
    (old, new, records)
}

/// The swap is done, and version 2 goes on.
async fn finished<M: Versioned>(client: &Client, model: &M, records: &mut Vec<(String, String)>, what: &str) {
    until(client, RebuildState::Swapped).await;
    let more = numbers(20, 40).0;
    let positions = produce(client, more.clone()).await;
    records.extend(more);
    decided(client, GROUP, &positions).await;
    assert_eq!(model.rows("active").await, model_of(records), "{what}");
    assert_eq!(model.first("SELECT version FROM projection_version").await, Some("v2".into()), "{what}");
    assert_eq!(model.first("SELECT COUNT(*) FROM projection_swap").await, Some("1".into()), "{what}: one mark");
}

/// The tests, for a database.
pub(super) mod generic {
    use super::*;

    pub(crate) async fn rp_6_a_worker_killed_at_each_step_of_a_swap_leaves_it_to_be_finished<M: Versioned>() {
        for step in STEPS {
            let broker = TestBroker::start().await;
            let (client, model) = (broker.client(), M::fresh(&broker, "swap").await);
            let (old, new, mut records) = stopped_at(&client, &model, step).await;
            new.kill().await;
            let next = Running::of(member(&client, model.with_hook("v2"), Some("v2"))).await;
            finished(&client, &model, &mut records, &format!("{step:?}")).await;
            assert_eq!(old.error().await.reason(), Some(ErrorReason::GroupMismatch));
            next.stop().await;
            model.gone().await;
            broker.shutdown().await;
        }
    }

    pub(crate) async fn rp_6_a_broker_killed_at_each_step_of_a_swap_finishes_it<M: Versioned>() {
        for step in STEPS {
            let mut broker = TestBroker::start().await;
            let (client, model) = (broker.client(), M::fresh(&broker, "swap").await);
            let (old, new, mut records) = stopped_at(&client, &model, step).await;
            broker.kill().await;
            broker.restart().await;
            // The same worker comes back, and is asked again.
            finished(&client, &model, &mut records, &format!("{step:?}")).await;
            assert_eq!(old.error().await.reason(), Some(ErrorReason::GroupMismatch));
            new.stop().await;
            model.gone().await;
            broker.shutdown().await;
        }
    }

    pub(crate) async fn rp_6_a_swap_that_is_given_up_ends_as_the_database_says<M: Versioned>() {
        for step in STEPS {
            let broker = TestBroker::start().await;
            let (client, model) = (broker.client(), M::fresh(&broker, "swap").await);
            let (old, new, mut records) = stopped_at(&client, &model, step).await;
            new.kill().await;
            let asked = client.groups().abort_rebuild(GROUP).await.unwrap();
            assert_eq!(asked.state, Some(RebuildState::Swapping), "{step:?}: nobody knows yet");
            let next = Running::of(member(&client, model.with_hook("v2"), Some("v2"))).await;
            if step == Step::SwapCommitted {
                finished(&client, &model, &mut records, "it was done").await;
                drop(old.error().await);
                next.stop().await;
            } else {
                until(&client, RebuildState::Aborted).await;
                assert_eq!(next.error().await.reason(), Some(ErrorReason::GroupMismatch), "{step:?}");
                assert_eq!(model.first("SELECT version FROM projection_version").await, None, "{step:?}");
                assert_eq!(
                    model.first("SELECT done FROM projection_swap").await,
                    Some("0".into()),
                    "{step:?}: never to be done"
                );
                // The old version goes on.
                let more = numbers(20, 40).0;
                let positions = produce(&client, more.clone()).await;
                records.extend(more);
                decided(&client, GROUP, &positions).await;
                assert_eq!(model.rows("active").await, model_of(&records), "{step:?}");
                old.stop().await;
            }
            model.gone().await;
            broker.shutdown().await;
        }
    }

    pub(crate) async fn rp_6_a_broker_killed_while_a_version_fills_goes_on_with_both<M: Versioned>() {
        let mut broker = TestBroker::start().await;
        let (client, model) = (broker.client(), M::fresh(&broker, "swap").await);
        let (old, mut records, _) = live(&client, &model, 500).await;
        client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
        broker.kill().await;
        broker.restart().await;
        let new = Running::of(member(&client, model.with_hook("v2"), Some("v2"))).await;
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
        model.gone().await;
        broker.shutdown().await;
    }

    pub(crate) async fn rm_2_the_cursors_of_a_retired_version_are_fenced<M: Versioned>() {
        let broker = TestBroker::start().await;
        let (client, model) = (broker.client(), M::fresh(&broker, "fenced").await);
        let (old, ..) = live(&client, &model, 100).await;
        client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
        let new = Running::of(member(&client, model.with_hook("v2"), Some("v2"))).await;
        until(&client, RebuildState::Ready).await;
        client.groups().swap_rebuild(GROUP).await.unwrap();
        until(&client, RebuildState::Swapped).await;
        let of = |name: &str, what: &str| {
            format!("SELECT {what}(assignment_epoch) FROM projection_cursor WHERE projection = '{name}'")
        };
        let (retired, active) = (model.first(&of("totals", "MIN")).await, model.first(&of("totals@v2", "MAX")).await);
        assert_eq!(retired, Some(i64::MAX.to_string()), "no owner of the old version can write any more");
        assert_ne!(active, Some(i64::MAX.to_string()));
        drop(old.error().await);
        new.stop().await;
        model.gone().await;
        broker.shutdown().await;
    }

    pub(crate) async fn rp_6_the_hook_is_part_of_the_transaction_of_the_swap<M: Versioned>() {
        let broker = TestBroker::start().await;
        let (client, model) = (broker.client(), M::fresh(&broker, "hook").await);
        // Its hook has run, and nothing is committed.
        let (old, new, records) = stopped_at(&client, &model, Step::SwapHandled).await;
        model.first("INSERT INTO totals VALUES ('of the old version', 1, 1)").await;
        assert!(model.rows("active").await.contains_key("of the old version"), "the view is the old version's");
        assert_eq!(model.first("SELECT COUNT(*) FROM projection_swap").await, Some("0".into()));
        new.kill().await;
        let next = Running::of(member(&client, model.with_hook("v2"), Some("v2"))).await;
        until(&client, RebuildState::Swapped).await;
        assert_eq!(model.rows("active").await, model_of(&records), "names, mark and fence came at once");
        assert_eq!(model.first("SELECT version FROM projection_version").await, Some("v2".into()));
        drop(old.error().await);
        next.stop().await;
        model.gone().await;
        broker.shutdown().await;
    }
}
