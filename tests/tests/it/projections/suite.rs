//! What every database must show.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sawlog_client::dead_letter::{DeadReason, Edit, Entry, EntryKind, EntryState, Job, JobState, Payload, Redrive};
use sawlog_client::projection::{OnPoison, Step, UnitState};
use sawlog_client::{Client, EntrySelector, ErrorReason, GroupConfig, RetryPolicy, StreamExt as _};
use sawlog_testing::TestBroker;

use crate::load::Random;

use super::faults::{Gate, STEPS, StopAt};
use super::model::{
    Deeds, GROUP, MEMBER, Model, PATIENCE, Running, TOPIC, Totals, builder, decided, in_time, numbers, produce, topic,
};

/// Gives the names of all tests of the suite to a macro that makes tests of them.
macro_rules! all {
    ($make:ident) => {
        $make! {
            rm_1_a_read_model_is_that_of_the_log_and_of_every_rebuild
            rm_1_a_cursor_of_another_log_stops_the_program_and_nothing_is_written
            rm_2_an_old_owner_that_wakes_up_late_cannot_write
            rm_2_workers_and_broker_killed_at_random_the_model_is_that_of_the_log
            rm_3_a_program_that_ends_in_order_goes_on_where_it_was
            rm_4_many_records_are_one_transaction_and_a_failure_splits_it
            rm_6_killed_between_each_two_steps_nothing_is_lost_or_done_twice
            rm_6_and_rm_7_a_poison_record_parks_its_key_and_redriven_it_is_applied_once
            rm_6_a_program_may_stop_at_a_poison_record_instead
            rm_6_a_database_whose_tables_do_not_fit_ends_the_program
            rm_6_a_lock_on_the_model_stalls_and_is_no_failure_of_a_record
            rm_8_a_record_that_takes_its_readers_down_is_taken_out
        }
    };
}
pub(super) use all;

pub(super) async fn rm_1_a_read_model_is_that_of_the_log_and_of_every_rebuild<M: Model>(
    broker: &TestBroker,
    model: M,
    _: Deeds,
) {
    let client = broker.client();
    topic(&client, 3).await;
    let (records, totals) = numbers(20, 2_000);
    let positions = produce(&client, records).await;
    for _ in 0..2 {
        let mut running = Running::of(builder(&client, &model)).await;
        decided(&client, GROUP, &positions).await;
        assert!(in_time(running.handle.caught_up()).await);
        let status = running.handle.status();
        assert_eq!((status.units().count(), status.applied_records()), (3, 2_000));
        assert!(status.units().all(|unit| unit.state == UnitState::Running), "{status:?}");
        assert!(status.freshness_seconds() < 1e-9, "nothing waits: {status:?}");
        let handle = running.handle.clone();
        running.stop().await;
        assert_eq!(handle.status().applied_records(), 2_000, "also once it has ended");
        assert_eq!(model.totals().await, totals);
        assert_eq!(model.number("SELECT SUM(next_offset) FROM projection_cursor").await, 2_000);
        model.wipe().await;
    }
}

pub(super) async fn rm_3_a_program_that_ends_in_order_goes_on_where_it_was<M: Model>(
    broker: &TestBroker,
    model: M,
    deeds: Deeds,
) {
    let client = broker.client();
    topic(&client, 2).await;
    let (records, totals) = numbers(7, 600);
    for part in records.chunks(200) {
        let running = Running::of(builder(&client, &model)).await;
        let positions = produce(&client, part.to_vec()).await;
        decided(&client, GROUP, &positions).await;
        running.stop().await;
    }
    assert_eq!(model.totals().await, totals);
    let twice = (0..2).flat_map(|partition| (0..600).map(move |offset| (partition, offset)));
    let twice: Vec<_> = twice.filter(|(partition, offset)| deeds.tries(*partition, *offset) > 1).collect();
    assert_eq!(twice, [], "no record is handled again");
    let lag = client.groups().lag(GROUP, &[TOPIC.to_owned()]).await.unwrap();
    assert_eq!(lag.lag_records, 0, "the broker was told");
}

pub(super) async fn rm_4_many_records_are_one_transaction_and_a_failure_splits_it<M: Model>(
    broker: &TestBroker,
    model: M,
    deeds: Deeds,
) {
    let client = broker.client();
    topic(&client, 1).await;
    let (mut records, mut totals) = numbers(5, 100);
    records[40].1 = "flaky".to_owned();
    records[41].1 = "skip".to_owned();
    totals.get_mut("k1").unwrap().0 += 1 - 41;
    let skipped = totals.get_mut("k2").unwrap();
    (skipped.0, skipped.1) = (skipped.0 - 42, skipped.1 - 1);
    let positions = produce(&client, records).await;
    let running = Running::of(builder(&client, &model)).await;
    decided(&client, GROUP, &positions).await;
    running.stop().await;
    assert_eq!(model.totals().await, totals);
    assert_eq!(deeds.tries(0, 40), 3);
    assert!(deeds.tries(0, 0) <= 2 && deeds.tries(0, 99) <= 3, "what is not at fault is not tried often");
}

/// Records of six keys, of which `k3` has one that fails until it is mended; and the model once it is.
pub(super) fn with_poison(count: u64) -> (Vec<(String, String)>, Totals) {
    let (mut records, mut totals) = numbers(6, count);
    let poison = 14;
    assert_eq!(records[poison].0, "k3");
    let total = &mut totals.get_mut("k3").unwrap().0;
    *total += 1 - i64::try_from(poison + 1).unwrap();
    records[poison].1 = "mend".to_owned();
    (records, totals)
}

pub(super) async fn open_entries(client: &Client) -> Vec<Entry> {
    let selector = EntrySelector { states: vec![EntryState::Open, EntryState::Redriving], ..EntrySelector::default() };
    let mut entries = client.dead_letters().entries(GROUP, &selector, false);
    let mut found = Vec::new();
    while let Some(entry) = entries.next().await {
        found.push(entry.unwrap());
    }
    found
}

pub(super) fn everything() -> Redrive {
    let selector = EntrySelector { topic: Some(TOPIC.to_owned()), ..EntrySelector::default() };
    Redrive { selector, ..Redrive::default() }
}

pub(super) async fn ended(client: &Client, job: &Job) -> Job {
    in_time(client.dead_letters().watch_job(&job.job_id, Duration::from_millis(5), |_| {})).await.unwrap()
}

pub(super) async fn rm_6_killed_between_each_two_steps_nothing_is_lost_or_done_twice<M: Model>(
    broker: &TestBroker,
    model: M,
    deeds: Deeds,
) {
    let client = broker.client();
    topic(&client, 1).await;
    let (records, totals) = with_poison(60);
    let positions = produce(&client, records).await;
    for (round, step) in STEPS.into_iter().enumerate() {
        let group = format!("totals-{round}");
        let make = || {
            let builder = client.projection(&group, model.store()).topics([TOPIC]).create_if_missing();
            builder.batch(7, 1 << 20).member_id(MEMBER)
        };
        let deeds = deeds.clone();
        deeds.forget();
        let nth = if matches!(step, Step::Handled | Step::Advanced | Step::Committed) { 2 } else { 1 };
        let stop = StopAt::new(step, nth);
        let mut running = Running::of(make().probe(stop.probe())).await;
        if step == Step::EntryApplied {
            decided(&client, &group, &positions).await;
            deeds.mend();
            let job = client.dead_letters().redrive(&group, &everything()).await.unwrap();
            stop.hit().await;
            running.kill().await;
            running = Running::of(make()).await;
            assert_eq!(ended(&client, &job).await.state, Some(JobState::Done));
        } else {
            stop.hit().await;
            running.kill().await;
            running = Running::of(make()).await;
            decided(&client, &group, &positions).await;
            deeds.mend();
            let job = client.dead_letters().redrive(&group, &everything()).await.unwrap();
            assert_eq!(ended(&client, &job).await.resolved, 8, "{step:?}");
        }
        running.stop().await;
        assert_eq!(model.totals().await, totals, "{step:?}");
        assert_eq!(model.number("SELECT COUNT(*) FROM projection_entry").await, 8, "{step:?}");
        model.wipe().await;
    }
}

pub(super) async fn rm_6_and_rm_7_a_poison_record_parks_its_key_and_redriven_it_is_applied_once<M: Model>(
    broker: &TestBroker,
    model: M,
    deeds: Deeds,
) {
    let client = broker.client();
    topic(&client, 1).await;
    let (mut records, mut totals) = with_poison(60);
    // Another key has one that can never be applied, and one that is edited.
    records[15].1 = "dead".to_owned();
    records[16].1 = "panic".to_owned();
    let positions = produce(&client, records).await;
    let running = Running::of(builder(&client, &model)).await;
    decided(&client, GROUP, &positions).await;
    assert_eq!((deeds.tries(0, 14), deeds.tries(0, 20)), (3, 0), "3 tries, and what is behind it is not handled");
    let before = model.totals().await;
    assert_eq!((before["k0"], before["k3"].1), (totals["k0"], 2), "other keys go on");
    let entries = open_entries(&client).await;
    assert_eq!(entries.len(), 3 * 8, "{entries:?}");
    let failed = |offset| entries.iter().find(|entry| entry.offset == offset).unwrap().clone();
    assert_eq!(failed(14).error.unwrap().class, "ERROR");
    assert_eq!(failed(16).error.unwrap().class, "PANIC");
    assert_eq!((failed(20).kind, failed(20).blocked_by), (Some(EntryKind::Parked), Some(failed(14).dlq_id)));

    // The dead one is discarded, the one that panics is edited.
    let letters = client.dead_letters();
    letters.discard(GROUP, &EntrySelector::ids([failed(15).dlq_id]), "it is no sale", false).await.unwrap();
    let edit = Edit { payload: Payload::Value("5".into()), note: "as on paper".to_owned(), ..Edit::default() };
    letters.edit(&failed(16).dlq_id, edit).await.unwrap();
    deeds.mend();
    let job = client.dead_letters().redrive(GROUP, &everything()).await.unwrap();
    assert_eq!(ended(&client, &job).await.state, Some(JobState::Done));
    let (k4, k5) = (totals.get_mut("k4").unwrap(), 16);
    (k4.0, k4.1) = (k4.0 - k5, k4.1 - 1);
    totals.get_mut("k5").unwrap().0 += 5 - 17;
    assert_eq!(model.totals().await, totals);
    assert_eq!(open_entries(&client).await.len(), 0);
    // The keys live again.
    let later = produce(&client, [("k3".to_owned(), "1000")]).await;
    decided(&client, GROUP, &later).await;
    let k3 = totals.get_mut("k3").unwrap();
    (k3.0, k3.1) = (k3.0 + 1000, k3.1 + 1);
    running.stop().await;
    assert_eq!(model.totals().await, totals);

    // A rebuild meets the entries in the source, as they stand (rules DL-15, RM-7).
    model.wipe().await;
    let mut running = Running::of(builder(&client, &model)).await;
    assert!(
        in_time(
            running.handle.wait_for(|status| status.is_live() && status.units().all(|unit| unit.next_offset == 61))
        )
        .await
    );
    running.stop().await;
    assert_eq!(model.totals().await, totals, "the rebuilt model is the same");
}

pub(super) async fn rm_6_a_program_may_stop_at_a_poison_record_instead<M: Model>(
    broker: &TestBroker,
    model: M,
    deeds: Deeds,
) {
    let client = broker.client();
    topic(&client, 1).await;
    let (records, totals) = with_poison(30);
    let positions = produce(&client, records).await;
    let running = Running::of(builder(&client, &model).on_poison(OnPoison::Stop)).await;
    let error = running.error().await;
    assert_eq!((error.fact("offset"), error.fact("class")), (Some("14"), Some("ERROR")), "{error}");
    assert_eq!(model.number("SELECT next_offset FROM projection_cursor").await, 14, "what is before it is applied");
    deeds.mend();
    let running = Running::of(builder(&client, &model).on_poison(OnPoison::Stop)).await;
    decided(&client, GROUP, &positions).await;
    running.stop().await;
    assert_eq!(model.totals().await, totals);
    assert_eq!(open_entries(&client).await.len(), 0);
}

pub(super) async fn rm_2_an_old_owner_that_wakes_up_late_cannot_write<M: Model>(
    broker: &TestBroker,
    model: M,
    deeds: Deeds,
) {
    let client = broker.client();
    topic(&client, 2).await;
    let (records, totals) = numbers(10, 200);
    let positions = produce(&client, records).await;
    let config = GroupConfig { drain_timeout_ms: Some(1_000), ..GroupConfig::default() };
    let gate = Gate::closed();
    let late =
        client.projection(GROUP, gate.before(model.store())).topics([TOPIC]).create_with(config).batch(10, 1 << 20);
    let late = Running::of(late).await;
    gate.waiting(2).await;
    // It is asked to hand a partition over, and does not: another has it by force.
    let mut new = Running::of(client.projection(GROUP, model.store()).batch(10, 1 << 20)).await;
    let caught_up = new.handle.wait_for(|status| status.is_live() && status.units().any(|unit| unit.next_offset > 0));
    assert!(in_time(caught_up).await);
    let status = new.handle.status();
    let moved = status.units().next().unwrap().clone();
    assert_eq!(status.units().count(), 1);
    assert_eq!(deeds.tries(1 - moved.partition, 0), 0, "the old owner waits");
    // Now it wakes up, with records of both partitions in its hands.
    gate.open();
    decided(&client, GROUP, &positions).await;
    let mut handle = late.handle.clone();
    assert!(in_time(handle.wait_for(|status| status.is_live() && status.units().count() == 1)).await);
    late.stop().await;
    new.stop().await;
    assert_eq!(model.totals().await, totals);
    assert_eq!(deeds.tries(moved.partition, 0), 2, "the old owner handled it, in vain");
}

/// Waits until the partition waits for its database; the state and the error.
pub(super) async fn stalled(running: &mut Running) -> String {
    assert!(in_time(running.handle.wait_for(|status| status.stalled() > 0)).await, "it ended");
    let status = running.handle.status();
    let error = status.units().find_map(|unit| unit.error.clone());
    error.map(|error| error.to_string()).unwrap_or_default()
}

/// The cursor says what is changed to, then the program ends with `CURSOR_OF_ANOTHER_LOG` and has changed nothing.
async fn of_another_log<M: Model>(client: &Client, model: &M, what: &str) {
    let before = model.totals().await;
    let error = Running::of(builder(client, model)).await.error().await;
    assert_eq!(error.reason(), Some(ErrorReason::CursorOfAnotherLog), "{what}: {error}");
    assert_eq!(model.totals().await, before, "{what}");
}

pub(super) async fn rm_1_a_cursor_of_another_log_stops_the_program_and_nothing_is_written<M: Model>(
    broker: &TestBroker,
    model: M,
    _: Deeds,
) {
    let client = broker.client();
    topic(&client, 1).await;
    let (records, totals) = numbers(3, 30);
    let positions = produce(&client, records).await;
    let running = Running::of(builder(&client, &model)).await;
    decided(&client, GROUP, &positions).await;
    running.stop().await;
    model.execute("UPDATE projection_cursor SET next_offset = 31").await;
    of_another_log(&client, &model, "beyond the end of the log").await;
    model.execute("UPDATE projection_cursor SET next_offset = 30, group_id = '00'").await;
    of_another_log(&client, &model, "of another group").await;
    let group = client.groups().get(GROUP).await.unwrap().group_id;
    let statement = format!("UPDATE projection_cursor SET group_id = '{group}', topic_id = 'other'");
    model.execute(&statement).await;
    of_another_log(&client, &model, "of another topic").await;

    // The same names on another data directory.
    let other = TestBroker::start().await;
    topic(&other.client(), 1).await;
    produce(&other.client(), numbers(3, 30).0).await;
    of_another_log(&other.client(), &model, "of another data directory").await;
    other.shutdown().await;

    // The way out is a rebuild.
    model.wipe().await;
    let running = Running::of(builder(&client, &model)).await;
    let mut handle = running.handle.clone();
    assert!(in_time(handle.wait_for(|status| status.units().any(|unit| unit.next_offset == 30))).await);
    running.stop().await;
    assert_eq!(model.totals().await, totals);
}

pub(super) async fn rm_6_a_database_whose_tables_do_not_fit_ends_the_program<M: Model>(
    broker: &TestBroker,
    model: M,
    _: Deeds,
) {
    let client = broker.client();
    topic(&client, 1).await;
    produce(&client, numbers(3, 30).0).await;
    model.execute("CREATE TABLE totals (key TEXT PRIMARY KEY, amount BIGINT)").await;
    let error = Running::of(builder(&client, &model)).await.error().await;
    assert!(error.message().contains("does not fit"), "{error}");
    assert_eq!(open_entries(&client).await.len(), 0, "no record is to blame");
    model.wipe().await;
    model.execute("CREATE TABLE projection_cursor (projection TEXT, topic TEXT, at BIGINT)").await;
    let error = Running::of(builder(&client, &model)).await.error().await;
    assert!(error.message().contains("does not fit"), "{error}");
}

pub(super) async fn rm_6_a_lock_on_the_model_stalls_and_is_no_failure_of_a_record<M: Model>(
    broker: &TestBroker,
    model: M,
    deeds: Deeds,
) {
    let client = broker.client();
    topic(&client, 1).await;
    let (records, totals) = numbers(3, 30);
    let lock = model.lock().await;
    let positions = produce(&client, records).await;
    let mut running = Running::of(builder(&client, &model)).await;
    let error = stalled(&mut running).await;
    assert!(!error.is_empty());
    assert!(running.handle.status().units().all(|unit| unit.state == UnitState::Stalled));
    // The broker is told too (rule OB-3).
    let told = async || client.groups().lag(GROUP, &[]).await.unwrap().partitions.remove(0).stalled;
    in_time(async { while told().await.is_none() {} }).await;
    model.unlock(lock).await;
    decided(&client, GROUP, &positions).await;
    assert_eq!(told().await, None, "it goes on");
    running.stop().await;
    assert_eq!(model.totals().await, totals);
    assert!((0..30).all(|offset| deeds.tries(0, offset) <= 1), "no try was spent");
    assert_eq!(open_entries(&client).await.len(), 0);
}

pub(super) async fn rm_8_a_record_that_takes_its_readers_down_is_taken_out<M: Model>(
    broker: &TestBroker,
    model: M,
    _: Deeds,
) {
    let client = broker.client();
    topic(&client, 1).await;
    let (records, mut totals) = numbers(3, 30);
    let positions = produce(&client, records).await;
    let retry = RetryPolicy { max_attempts: Some(2), ..RetryPolicy::default() };
    let config = GroupConfig { session_timeout_ms: Some(2_000), retry: Some(retry), ..GroupConfig::default() };
    // Each reader dies at offset 7, whatever it applies with it.
    let dies = |handled: &std::sync::Arc<AtomicBool>| {
        let handled = std::sync::Arc::clone(handled);
        let store = model.dying(7, handled.clone());
        client.projection(GROUP, store).topics([TOPIC]).create_with(config.clone()).batch(10, 1 << 20)
    };
    for _ in 0..6 {
        let died = std::sync::Arc::new(AtomicBool::new(false));
        let running = Running::of(dies(&died)).await;
        let handle = running.handle.clone();
        let is_over = || died.load(Ordering::SeqCst) || handle.status().units().any(|unit| unit.next_offset == 30);
        in_time(async {
            while !is_over() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await;
        if !died.load(Ordering::SeqCst) {
            running.stop().await;
            break;
        }
        running.kill().await;
    }
    decided(&client, GROUP, &positions).await;
    let entries = open_entries(&client).await;
    let dead = entries.iter().find(|entry| entry.offset == 7).expect("it is a dead letter");
    assert_eq!((dead.reason, dead.kind), (Some(DeadReason::ConsumerCrash), Some(EntryKind::Failed)));
    // Its key waits, the others are complete.
    totals.retain(|key, _| *key != "k2");
    let mut found = model.totals().await;
    found.remove("k2");
    assert_eq!(found, totals);
}

/// Seeds of the test below; `SAWLOG_CHAOS_SEEDS` for more.
const SEEDS: u64 = 6;

pub(super) async fn rm_2_workers_and_broker_killed_at_random_the_model_is_that_of_the_log<M: Model>(
    broker: &TestBroker,
    model: M,
    deeds: Deeds,
) {
    let _ = broker;
    let seeds = std::env::var("SAWLOG_CHAOS_SEEDS").map_or(SEEDS, |seeds| seeds.parse().unwrap());
    for seed in 1..=seeds {
        deeds.forget();
        tokio::time::timeout(PATIENCE, chaos(seed, &model, &deeds))
            .await
            .unwrap_or_else(|_| panic!("seed {seed} hangs"));
        model.wipe().await;
    }
}

/// Two workers; while records come, one or the other or the broker is killed, or ends in order, and starts again.
async fn chaos<M: Model>(seed: u64, model: &M, deeds: &Deeds) {
    let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
    let mut broker = TestBroker::start().await;
    let client = broker.client();
    topic(&client, 3).await;
    let (mut records, mut totals) = numbers(12, 400);
    let poison = usize::try_from(random.below(200)).unwrap();
    let (key, number) = records[poison].clone();
    records[poison].1 = "mend".to_owned();
    totals.get_mut(&key).unwrap().0 += 1 - number.parse::<i64>().unwrap();
    let config =
        GroupConfig { session_timeout_ms: Some(2_000), drain_timeout_ms: Some(1_000), ..GroupConfig::default() };
    let worker = |which: usize| {
        let member = ["6ba7b810-9dad-41d1-80b4-00c04fd430c8", "6ba7b811-9dad-41d1-80b4-00c04fd430c8"][which];
        let projection = client.projection(GROUP, model.store()).topics([TOPIC]).create_with(config.clone());
        projection.member_id(member).batch(9, 1 << 20)
    };
    let mut workers = vec![Running::of(worker(0)).await, Running::of(worker(1)).await];
    let mut positions = Vec::new();
    for part in records.chunks(40) {
        positions.extend(produce(&client, part.to_vec()).await);
        let which = usize::try_from(random.below(2)).unwrap();
        // At any step of the work, that is at a random number of turns of it.
        for _ in 0..random.below(200) {
            tokio::task::yield_now().await;
        }
        match random.below(4) {
            0 | 1 => {
                workers.remove(which).kill().await;
                workers.insert(which, Running::of(worker(which)).await);
            }
            2 => {
                workers.remove(which).stop().await;
                workers.insert(which, Running::of(worker(which)).await);
            }
            _ => {
                broker.kill().await;
                broker.restart().await;
            }
        }
    }
    decided(&client, GROUP, &positions).await;
    deeds.mend();
    let job = client.dead_letters().redrive(GROUP, &everything()).await.unwrap();
    assert_eq!(ended(&client, &job).await.state, Some(JobState::Done), "seed {seed}");
    for worker in workers {
        worker.stop().await;
    }
    assert_eq!(model.totals().await, totals, "seed {seed}");
    broker.shutdown().await;
}
