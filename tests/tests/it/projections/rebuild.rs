//! A read model rebuilt beside the live one, and swapped in (rules RP-6, RP-7, RW-3).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sawlog_client::dead_letter::{Edit, EntryKind, EntryState, JobState, Payload, Redrive};
use sawlog_client::groups::{NewRebuild, ProcessedState, Rebuild, RebuildState, Reset};
use sawlog_client::projection::SwapPlan;
use sawlog_client::projection::sqlite::Transaction;
use sawlog_client::replays::ReplayRate;
use sawlog_client::{
    Client, EntrySelector, ErrorReason, GroupConfig, GroupMode, GroupPosition, HandlerError, NewGroup, StreamExt as _,
};
use sawlog_testing::TestBroker;

use super::model::{GROUP, Running, TOPIC, decided, in_time, numbers, produce, topic};
use super::versions::{LOOK, Versions, live, member, model_of, table, until};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_version_is_rebuilt_beside_the_live_model_under_load_and_swapped_in() {
    let broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, mut records, _) = live(&client, &model, 1_000).await;
    let started = client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    assert_eq!((started.version.as_str(), started.replaces.as_deref()), ("v2", None));
    assert_eq!((started.state, started.done, started.left), (Some(RebuildState::Filling), 0, 1_000));
    let new = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
    // The old one goes on meanwhile.
    for part in numbers(20, 1_000).0.chunks(100) {
        let positions = produce(&client, part.to_vec()).await;
        records.extend(part.to_vec());
        decided(&client, GROUP, &positions).await;
    }
    until(&client, RebuildState::Ready).await;
    assert_eq!(model.totals("totals"), model_of(&records), "the live model was not touched");
    client.groups().swap_rebuild(GROUP).await.unwrap();
    let swapped = until(&client, RebuildState::Swapped).await;
    assert_eq!((swapped.end_time_ms.is_some(), swapped.problem.as_str()), (true, ""));
    // The worker of the retired version is told so, and ends.
    let error = old.error().await;
    assert_eq!((error.reason(), error.fact("field")), (Some(ErrorReason::GroupMismatch), Some("version")), "{error}");
    assert!(error.message().contains("v2"), "{error}");
    // Version 2 answers for the group's name (rule RW-3), and goes on by itself.
    let more = numbers(20, 50).0;
    let positions = produce(&client, more.clone()).await;
    records.extend(more);
    decided(&client, GROUP, &positions).await;
    assert_eq!(model.totals("active"), model_of(&records));
    assert_eq!(model.text("SELECT version FROM projection_version"), Some("v2".into()));
    assert_eq!(client.groups().get(GROUP).await.unwrap().config.version.as_deref(), Some("v2"));
    let late = Running::of(member(&client, model.store(None), None)).await.error().await;
    assert_eq!(late.reason(), Some(ErrorReason::GroupMismatch));
    new.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_rebuild_keeps_its_rate_says_how_far_it_is_and_is_not_swapped_in_early() {
    let broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, records, _) = live(&client, &model, 1_000).await;
    let groups = client.groups();
    let slow = NewRebuild { rate: Some(ReplayRate::Records(400)), ..NewRebuild::new("v2") };
    groups.start_rebuild(GROUP, slow).await.unwrap();
    let new = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
    let half = in_time(groups.watch_rebuild(GROUP, LOOK, |_| {}, |rebuild| rebuild.done > 0)).await.unwrap();
    assert!(half.left > 0 && half.records_per_second > 0.0 && half.eta_ms.is_some(), "{half:?}");
    let early = groups.swap_rebuild(GROUP).await.unwrap_err();
    assert_eq!((early.reason(), early.fact("version")), (Some(ErrorReason::RebuildNotReady), Some("v2")), "{early}");
    let ready = until(&client, RebuildState::Ready).await;
    assert_eq!((ready.done, ready.left, ready.connected), (1_000, 0, 1));
    assert!(ready.records_per_second < 800.0, "{ready:?}");
    assert_eq!(model.totals("totals_v2"), model_of(&records));
    new.stop().await;
    old.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_rp_3_the_rate_of_a_rebuild_is_changed_while_it_runs_and_survives_a_restart() {
    let mut broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, records, _) = live(&client, &model, 1_000).await;
    let groups = client.groups();
    let none = groups.update_rebuild(GROUP, None).await.unwrap_err();
    assert_eq!(none.reason(), Some(ErrorReason::JobNotFound), "{none}");
    // A thousand records at one a second would outlast any patience.
    let slow = NewRebuild { rate: Some(ReplayRate::Records(1)), ..NewRebuild::new("v2") };
    groups.start_rebuild(GROUP, slow).await.unwrap();
    let new = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
    in_time(groups.watch_rebuild(GROUP, LOOK, |_| {}, |rebuild| rebuild.done > 0)).await.unwrap();
    let zero = groups.update_rebuild(GROUP, Some(ReplayRate::Records(0))).await.unwrap_err();
    assert_eq!(zero.reason(), Some(ErrorReason::InvalidField), "{zero}");
    let told = groups.update_rebuild(GROUP, Some(ReplayRate::Records(2))).await.unwrap();
    assert_eq!((told.rate, told.state), (Some(ReplayRate::Records(2)), Some(RebuildState::Filling)));
    broker.kill().await;
    broker.restart().await;
    let shown = groups.rebuild(GROUP).await.unwrap();
    assert_eq!(shown.rate, Some(ReplayRate::Records(2)), "it is durable");
    assert!(shown.left > 900, "{shown:?}");
    assert_eq!(groups.update_rebuild(GROUP, None).await.unwrap().rate, None);
    let ready = until(&client, RebuildState::Ready).await;
    assert_eq!((ready.rate, ready.done), (None, 1_000));
    assert_eq!(model.totals("totals_v2"), model_of(&records));
    groups.abort_rebuild(GROUP).await.unwrap();
    let over = groups.update_rebuild(GROUP, None).await.unwrap_err();
    assert_eq!(over.reason(), Some(ErrorReason::JobNotFound), "{over}");
    assert_eq!(new.error().await.reason(), Some(ErrorReason::GroupMismatch));
    old.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_what_cannot_be_rebuilt_is_refused() {
    let broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, ..) = live(&client, &model, 300).await;
    let groups = client.groups();
    let none = groups.rebuild(GROUP).await.unwrap_err();
    assert_eq!(none.reason(), Some(ErrorReason::JobNotFound));
    let first = groups.start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    let second = groups.start_rebuild(GROUP, NewRebuild::new("v3")).await.unwrap_err();
    assert_eq!(second.reason(), Some(ErrorReason::JobConflict), "one at a time");
    assert_eq!(second.fact("job"), Some(first.rebuild_id.as_str()));
    let deletion = groups.delete(GROUP, false, None).await.unwrap_err();
    assert_eq!(deletion.reason(), Some(ErrorReason::JobConflict), "{deletion}");
    let topic = client.admin().delete_topic(TOPIC, false).await.unwrap_err();
    assert_eq!(topic.reason(), Some(ErrorReason::JobConflict), "{topic}");
    let shadow = groups.delete("totals@v2", true, None).await.unwrap_err();
    assert_eq!(shadow.reason(), Some(ErrorReason::InvalidField), "{shadow}");
    let reset = groups.reset(GROUP, &Reset::to(GroupPosition::Earliest)).await.unwrap_err();
    assert_eq!(reset.reason(), Some(ErrorReason::WrongMode));
    let unknown = Running::of(member(&client, model.store(Some("v9")), Some("v9"))).await.error().await;
    assert_eq!((unknown.reason(), unknown.fact("actual")), (Some(ErrorReason::GroupMismatch), Some("none")));
    // Given up, its members are told; its name is not given again.
    let new = Running::of(member(&client, model.store(Some("v2")), Some("v2"))).await;
    until(&client, RebuildState::Ready).await;
    let aborted = groups.abort_rebuild(GROUP).await.unwrap();
    assert_eq!(aborted.state, Some(RebuildState::Aborted));
    assert_eq!(new.error().await.reason(), Some(ErrorReason::GroupMismatch));
    let again = groups.start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap_err();
    assert_eq!((again.reason(), again.fact("field")), (Some(ErrorReason::InvalidField), Some("version")));
    let name = groups.start_rebuild(GROUP, NewRebuild::new("v@2")).await.unwrap_err();
    assert_eq!(name.reason(), Some(ErrorReason::InvalidName));
    // A group without cursors has no versions.
    let plain = GroupConfig::topics([TOPIC]).mode(GroupMode::Keyed);
    groups.create(NewGroup::new("plain", plain)).await.unwrap();
    let plain = groups.start_rebuild("plain", NewRebuild::new("v2")).await.unwrap_err();
    assert_eq!((plain.reason(), plain.fact("verb")), (Some(ErrorReason::WrongMode), Some("StartRebuild")));
    old.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_log_whose_start_is_gone_is_rebuilt_only_if_the_gap_is_accepted() {
    let broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, records, positions) = live(&client, &model, 300).await;
    let groups = client.groups();
    let at = positions.iter().find(|position| position.offset == 40).unwrap();
    client.admin().trim_topic(TOPIC, &[(at.partition, at.offset)]).await.unwrap();
    let gap = groups.start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap_err();
    assert_eq!((gap.reason(), gap.fact("from")), (Some(ErrorReason::GapNotAccepted), Some("0")), "{gap}");
    assert_eq!((gap.fact("to"), gap.fact("partition")), (Some("40"), Some(&*at.partition.to_string())), "{gap}");
    assert!(groups.rebuilds(GROUP).await.unwrap().is_empty(), "nothing was begun");
    let accepted = NewRebuild { accept_gap: true, ..NewRebuild::new("v2") };
    let accepted = groups.start_rebuild(GROUP, accepted).await.unwrap();
    assert_eq!((accepted.left, accepted.partitions[at.partition as usize].from), (260, 40), "{accepted:?}");
    // What is there is the new model, and no cursor stops at what is not.
    let new = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
    until(&client, RebuildState::Ready).await;
    groups.swap_rebuild(GROUP).await.unwrap();
    until(&client, RebuildState::Swapped).await;
    let there = records.iter().zip(&positions).filter(|(_, one)| one.partition != at.partition || one.offset >= 40);
    let there: Vec<_> = there.map(|(record, _)| record.clone()).collect();
    assert_eq!(model.totals("active"), model_of(&there));
    drop(old.error().await);
    new.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_worker_of_a_retired_version_is_told_which_is_active() {
    let broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, mut records, _) = live(&client, &model, 100).await;
    client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    let new = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
    until(&client, RebuildState::Ready).await;
    client.groups().swap_rebuild(GROUP).await.unwrap();
    until(&client, RebuildState::Swapped).await;
    // The one that ran, one that comes later, and one of a version that never was.
    let model_before = model.totals("totals");
    let running = old.error().await;
    let late = Running::of(member(&client, model.store(None), None)).await.error().await;
    let unknown = Running::of(member(&client, model.store(Some("v9")), Some("v9"))).await.error().await;
    for error in [running, late, unknown] {
        assert_eq!(
            (error.reason(), error.fact("field")),
            (Some(ErrorReason::GroupMismatch), Some("version")),
            "{error}"
        );
        assert!(error.message().contains("v2"), "{error}");
    }
    let more = numbers(20, 30).0;
    let positions = produce(&client, more.clone()).await;
    records.extend(more);
    decided(&client, GROUP, &positions).await;
    assert_eq!(model.totals("active"), model_of(&records));
    assert_eq!(model.totals("totals"), model_before, "no retired worker has written");
    new.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rm_1_a_rebuild_is_the_way_out_of_a_cursor_of_another_log() {
    let broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, records, _) = live(&client, &model, 200).await;
    old.stop().await;
    // A group of the same name is another group: its cursors are of the old one.
    client.groups().delete(GROUP, true, None).await.unwrap();
    let stopped = Running::of(member(&client, model.store(None), None)).await.error().await;
    assert_eq!(stopped.reason(), Some(ErrorReason::CursorOfAnotherLog), "{stopped}");
    client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    let new = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
    until(&client, RebuildState::Ready).await;
    client.groups().swap_rebuild(GROUP).await.unwrap();
    until(&client, RebuildState::Swapped).await;
    assert_eq!(model.totals("active"), model_of(&records));
    new.stop().await;
    broker.shutdown().await;
}

fn all() -> EntrySelector {
    EntrySelector { topic: Some(TOPIC.to_owned()), ..EntrySelector::default() }
}

fn of_key(key: &str) -> EntrySelector {
    EntrySelector { key: Some(key.as_bytes().to_vec().into()), ..EntrySelector::default() }
}

async fn redrive(client: &Client, selector: EntrySelector) {
    let letters = client.dead_letters();
    let job = letters.redrive(GROUP, &Redrive { selector, ..Redrive::default() }).await.unwrap();
    let job = in_time(letters.watch_job(&job.job_id, Duration::from_millis(5), |_| {})).await.unwrap();
    assert_eq!(job.state, Some(JobState::Done), "{job:?}");
}

async fn entries(client: &Client, group: &str) -> Vec<(u32, u64, Option<EntryKind>, Option<EntryState>)> {
    let letters = client.dead_letters();
    let (selector, mut found) = (EntrySelector::default(), Vec::new());
    let mut entries = letters.entries(group, &selector, false);
    while let Some(entry) = entries.next().await {
        let entry = entry.unwrap();
        found.push((entry.partition, entry.offset, entry.kind, entry.state));
    }
    found
}

/// Waits until the model of a version is that of the active one.
async fn equal(model: &Versions) {
    in_time(async {
        while model.totals("totals_v2") != model.totals("totals") {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_7_a_rebuild_takes_dead_letters_as_they_stand_and_its_model_is_equal() {
    let broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    topic(&client, 2).await;
    let mut records = numbers(12, 600).0;
    // Keys that die early: resolved as they were, resolved edited, discarded, open, open and redriven during and after.
    for (at, value) in [(101, "mend"), (102, "bad"), (103, "bad"), (104, "bad"), (105, "mend"), (106, "mend")] {
        records[at].1 = value.to_owned();
    }
    let key = |at: usize| records[at].0.clone();
    let positions = produce(&client, records.clone()).await;
    let old = Running::of(member(&client, model.store(None), None)).await;
    decided(&client, GROUP, &positions).await;
    let letters = client.dead_letters();
    let id_of = |at: usize| {
        let (selector, position) = (of_key(&key(at)), positions[at].clone());
        let letters = client.dead_letters();
        async move {
            let mut found = letters.entries(GROUP, &selector, false);
            while let Some(entry) = found.next().await {
                let entry = entry.unwrap();
                if (entry.partition, entry.offset) == (position.partition, position.offset) {
                    return entry.dlq_id;
                }
            }
            panic!("{} has an entry", position.offset);
        }
    };
    // Before: 101 as it was, 102 edited, 103 discarded with the rest of its key redriven.
    model.mend();
    redrive(&client, of_key(&key(101))).await;
    let edit = Edit { payload: Payload::Value(b"7".to_vec().into()), note: "typo".to_owned(), ..Edit::default() };
    letters.edit(&id_of(102).await, edit).await.unwrap();
    redrive(&client, of_key(&key(102))).await;
    let first = EntrySelector { dlq_ids: vec![id_of(103).await], ..EntrySelector::default() };
    letters.discard(GROUP, &first, "no sale", false).await.unwrap();
    redrive(&client, of_key(&key(103))).await;

    client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    let new = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
    until(&client, RebuildState::Ready).await;
    equal(&model).await;
    assert_eq!(entries(&client, GROUP).await, entries(&client, "totals@v2").await, "as they stand");
    // During: a redrive goes to both versions; so does an edit with it, and a discard.
    redrive(&client, of_key(&key(105))).await;
    equal(&model).await;
    let edit = Edit { payload: Payload::Value(b"9".to_vec().into()), note: "typo".to_owned(), ..Edit::default() };
    letters.edit(&id_of(104).await, edit).await.unwrap();
    redrive(&client, of_key(&key(104))).await;
    equal(&model).await;
    client.groups().swap_rebuild(GROUP).await.unwrap();
    until(&client, RebuildState::Swapped).await;
    drop(old.error().await);
    let open = |entries: Vec<(u32, u64, Option<EntryKind>, Option<EntryState>)>| {
        entries.into_iter().filter(|(.., state)| *state == Some(EntryState::Open)).count()
    };
    assert_eq!(open(entries(&client, GROUP).await), records.iter().skip(106).step_by(12).count());
    // After: version 2 is redriven.
    redrive(&client, all()).await;
    assert_eq!(open(entries(&client, GROUP).await), 0);
    let mut handled = records.clone();
    for (at, value) in [(101, "1"), (102, "7"), (104, "9"), (105, "1"), (106, "1")] {
        handled[at].1 = value.to_owned();
    }
    assert_eq!(model.totals("active"), model_of(&handled), "the discarded one alone is not in it");
    let states: Vec<_> =
        client.groups().await_processed(GROUP, &positions[101..107], super::model::PATIENCE).await.unwrap();
    let states: Vec<_> = states.into_iter().map(|one| one.state.unwrap()).collect();
    let (acked, skipped) = (ProcessedState::Acked, ProcessedState::Skipped);
    assert_eq!(states, [acked, acked, skipped, acked, acked, acked], "the active version answers (rule RW-3)");
    new.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_swap_whose_hook_fails_is_undone_and_may_be_tried_again() {
    let broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, mut records, _) = live(&client, &model, 200).await;
    client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    let well = Arc::new(AtomicBool::new(false));
    let (ready, inner) = (Arc::clone(&well), table(Some("v2")));
    let store = model.store(Some("v2")).on_swap(move |tx: &Transaction<'_>, _: &SwapPlan| {
        tx.execute_batch(&format!("DROP VIEW active; CREATE VIEW active AS SELECT * FROM {inner}"))?;
        if ready.load(Ordering::SeqCst) { Ok(()) } else { Err(HandlerError::retry("the check sums differ")) }
    });
    let new = Running::of(member(&client, store, Some("v2"))).await;
    until(&client, RebuildState::Ready).await;
    client.groups().swap_rebuild(GROUP).await.unwrap();
    let failed = |rebuild: &Rebuild| !rebuild.problem.is_empty();
    let failed = in_time(client.groups().watch_rebuild(GROUP, LOOK, |_| {}, failed)).await.unwrap();
    assert!(failed.problem.contains("the check sums differ"), "{failed:?}");
    // The old version is the active one, and goes on.
    let more = numbers(20, 60).0;
    let positions = produce(&client, more.clone()).await;
    records.extend(more);
    decided(&client, GROUP, &positions).await;
    assert_eq!(model.totals("active"), model_of(&records));
    assert_eq!(model.text("SELECT version FROM projection_version"), None);
    well.store(true, Ordering::SeqCst);
    until(&client, RebuildState::Ready).await;
    client.groups().swap_rebuild(GROUP).await.unwrap();
    until(&client, RebuildState::Swapped).await;
    drop(old.error().await);
    assert_eq!(model.totals("totals_v2"), model_of(&records));
    new.stop().await;
    broker.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_6_a_group_that_is_deleted_takes_its_rebuild_along() {
    let broker = TestBroker::start().await;
    let (client, model) = (broker.client(), Versions::new(&broker));
    let (old, ..) = live(&client, &model, 50).await;
    client.groups().start_rebuild(GROUP, NewRebuild::new("v2")).await.unwrap();
    let new = Running::of(member(&client, model.swapping("v2"), Some("v2"))).await;
    until(&client, RebuildState::Ready).await;
    let deleted = client.groups().delete(GROUP, true, None).await.unwrap();
    assert_eq!(deleted.jobs_ended, 1);
    for running in [old, new] {
        assert_eq!(running.error().await.reason(), Some(ErrorReason::GroupNotFound));
    }
    in_time(async {
        while client.groups().get("totals@v2").await.is_ok() {
            tokio::time::sleep(LOOK).await;
        }
    })
    .await;
    broker.shutdown().await;
}
