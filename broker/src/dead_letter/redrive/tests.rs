//! Jobs over a group and logs in memory: what they give and in which order, pauses, restarts, moves.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::dead_letter::LetterError;
use crate::dead_letter::handle::{DeadLetters, GroupHandle};
use crate::dead_letter::test_support::{GROUP, MemoryLog, OneGroup, Steps, TOPIC, at, key, lane};
use crate::dead_letter::test_world::{World, letters, runtime};
use crate::dead_letter::views::{JobState, RedriveOrder, RedriveRequest, RedriveTarget, Selector, StateName};
use crate::group::entry::EntryState;
use crate::group::event::{Admin, Event};

fn request(selector: Selector) -> RedriveRequest {
    RedriveRequest {
        selector,
        rate: 0,
        order: RedriveOrder::OldestFirst,
        abort_after_failures: 10,
        target: RedriveTarget::Group,
        actor: "ana".into(),
        note: "the shop is up again".into(),
    }
}

fn all() -> Selector {
    Selector { topic: Some("orders".into()), ..Selector::default() }
}

fn of(offset: u64) -> Selector {
    Selector { ids: vec![key(offset)], ..Selector::default() }
}

#[test]
fn rd_4_an_entry_of_a_dead_lane_selects_the_lane_from_its_head_in_order() {
    runtime().block_on(async {
        let world = World::new().await;
        let job = world.start(request(of(4))).await.expect("it is open");
        world.settle().await;
        assert_eq!(world.given(), [1, 4, 7]);
        for offset in [1, 4, 7] {
            assert_eq!(world.job(job.id).state, JobState::Running);
            world.resolve(offset);
        }
        world.settle().await;
        let done = world.job(job.id);
        assert_eq!((done.state, done.selected, done.resolved), (JobState::Done, 3, 3));
        assert!(done.ended_ms.is_some());
    });
}

#[test]
fn rd_5_what_is_parked_behind_a_redriven_lane_is_part_of_it() {
    runtime().block_on(async {
        let world = World::new().await;
        let job = world.start(request(of(0))).await.expect("it is open");
        world.settle().await;
        world.group.open(key(9), lane(Some(b"k0"), at(9)), 0, 20_000);
        for offset in [0, 3, 6] {
            world.resolve(offset);
        }
        world.settle().await;
        assert_eq!(world.given(), [0, 3, 6, 9]);
        world.resolve(9);
        world.settle().await;
        let done = world.job(job.id);
        assert_eq!((done.state, done.selected, done.resolved), (JobState::Done, 4, 4));
    });
}

#[test]
fn rd_2_a_dry_run_counts_and_changes_nothing() {
    runtime().block_on(async {
        let world = World::new().await;
        let before = world.group.state.lock().table.clone();
        let preview = world.letters.preview_redrive(&world.handle, &request(all())).await.expect("they are open");
        assert_eq!((preview.entries, preview.keys), (9, 3));
        assert_eq!(preview.by_class, [("Timeout".to_owned(), 9)]);
        assert_eq!(preview.by_key.iter().map(|(_, count)| *count).collect::<Vec<_>>(), [3, 3, 3]);
        assert!(preview.by_key.iter().any(|(name, _)| name == "k1"));
        assert_eq!(preview.first.len(), 9);
        world.settle().await;
        assert!(world.given().is_empty() && world.letters.jobs(None, false, None, 10).is_empty());
        assert_eq!(before.len(), world.group.state.lock().table.len());
    });
}

#[test]
fn rd_1_a_key_belongs_to_one_job_at_most() {
    runtime().block_on(async {
        let world = World::new().await;
        let first = world.start(request(of(0))).await.expect("it is open");
        let second = world.start(request(of(1))).await.expect("another key");
        assert_ne!(first.id, second.id);
        let conflict = world.start(request(all())).await;
        assert!(matches!(conflict, Err(LetterError::JobConflict { job }) if job == first.id), "{conflict:?}");
        world.settle().await;
        let conflict = world.start(request(of(3))).await;
        assert!(matches!(conflict, Err(LetterError::JobConflict { .. })), "{conflict:?}");
        assert_eq!(world.letters.running_jobs(&world.handle), 2);
        world.letters.cancel_job(first.id).await.expect("it runs");
        world.start(request(of(3))).await.expect("the key is free again");
        assert!(matches!(world.letters.pause_job(first.id).await, Err(LetterError::JobClosed { .. })));
        assert_eq!(world.letters.jobs(None, true, None, 10).len(), 2);
    });
}

#[test]
fn rd_7_after_so_many_failures_a_job_pauses_and_what_it_had_is_open() {
    runtime().block_on(async {
        let world = World::new().await;
        let job = world.start(RedriveRequest { abort_after_failures: 2, ..request(all()) }).await.expect("open");
        world.settle().await;
        world.fail(0);
        assert_eq!(world.job(job.id).state, JobState::Running);
        world.fail(1);
        world.settle().await;
        let paused = world.job(job.id);
        assert_eq!((paused.state, paused.failed), (JobState::Paused, 2));
        assert!(paused.pause_reason.contains("failures"), "{}", paused.pause_reason);
        for offset in 0..9 {
            assert_eq!(world.group.entry(key(offset)).job, None, "{offset}");
        }
        // What has not failed goes on; what has is not tried again by this job.
        world.letters.resume_job(job.id).await.expect("it is paused");
        world.settle().await;
        let again: Vec<u64> = world.given()[9..].to_vec();
        assert_eq!(again, [2, 5, 8]);
        for offset in again {
            world.resolve(offset);
        }
        world.settle().await;
        let done = world.job(job.id);
        assert_eq!((done.state, done.resolved, done.failed), (JobState::Done, 3, 2));
    });
}

#[test]
fn rd_4_a_head_that_somebody_else_had_and_gave_back_is_taken_by_the_job_that_has_the_rest_of_its_lane() {
    runtime().block_on(async {
        let world = World::new().await;
        let act = crate::group::entry::Act { actor: "ben".into(), time_ms: 1, note: "by hand".into() };
        let by_hand = Admin::Redrive { job: 0, entries: vec![key(0)], act };
        world.group.drive(Event::Admin(by_hand));
        let job = world.start(request(of(3))).await.expect("it is open");
        world.settle().await;
        assert_eq!(world.given(), [0, 3, 6], "the rest, behind what is tried by hand");
        world.group.fail(key(0));
        world.settle().await;
        assert_eq!(world.given(), [0, 3, 6, 0]);
        assert_eq!(world.group.entry(key(0)).job, Some(job.id.number));
        [0, 3, 6].into_iter().for_each(|offset| world.resolve(offset));
        world.settle().await;
        let done = world.job(job.id);
        assert_eq!((done.state, done.resolved, done.selected), (JobState::Done, 3, 3));
    });
}

#[test]
fn rd_1_the_rate_holds() {
    runtime().block_on(async {
        let world = World::new().await;
        world.start(RedriveRequest { rate: 2, ..request(all()) }).await.expect("they are open");
        // Time of the clock and of the timers goes together.
        for _ in 0..20 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            world.clock.advance(Duration::from_millis(100));
        }
        let given = world.given().len();
        assert!((3..=6).contains(&given), "{given} in 2 seconds at 2 a second");
    });
}

#[test]
fn rd_1_a_job_survives_a_restart_and_delivers_nothing_twice_as_resolved() {
    runtime().block_on(async {
        let mut world = World::new().await;
        let job = world.start(request(all())).await.expect("they are open");
        world.settle().await;
        world.resolve(0);
        world.resolve(1);
        world.settle().await;
        world.restart().await;
        let running = world.job(job.id);
        assert_eq!((running.state, running.resolved), (JobState::Running, 2));
        for offset in 2..9 {
            assert_eq!(world.group.entry(key(offset)).job, Some(job.id.number));
            world.resolve(offset);
        }
        world.settle().await;
        let done = world.job(job.id);
        assert_eq!((done.state, done.resolved, done.selected), (JobState::Done, 9, 9));
        world.restart().await;
        assert_eq!(world.job(job.id).state, JobState::Done);
        assert_eq!(world.job(job.id).request.note, "the shop is up again");
    });
}

#[test]
fn rd_1_a_paused_job_stays_paused_over_a_restart() {
    runtime().block_on(async {
        let mut world = World::new().await;
        let job = world.start(request(of(2))).await.expect("open");
        world.settle().await;
        world.letters.pause_job(job.id).await.expect("it runs");
        world.restart().await;
        assert_eq!(world.job(job.id).state, JobState::Paused);
        assert_eq!(world.group.entry(key(2)).job, None, "redriving without a job is open");
        world.letters.resume_job(job.id).await.expect("it is paused");
        world.settle().await;
        assert_eq!(world.group.entry(key(2)).job, Some(job.id.number));
    });
}

#[test]
fn rd_1_what_cannot_be_selected_is_told() {
    runtime().block_on(async {
        let world = World::new().await;
        let nothing = world.start(request(Selector::default())).await;
        assert!(matches!(nothing, Err(LetterError::Invalid { field: "selector", .. })), "{nothing:?}");
        let states = Selector { states: vec![StateName::Resolved], ..all() };
        let closed = world.start(request(states)).await;
        assert!(matches!(closed, Err(LetterError::Invalid { field: "selector.states", .. })), "{closed:?}");
        world.resolve(0);
        let resolved = world.start(request(of(0))).await;
        assert!(matches!(resolved, Err(LetterError::EntryClosed { .. })), "{resolved:?}");
        let unknown = world.start(request(of(11))).await;
        assert!(matches!(unknown, Err(LetterError::EntryNotFound { .. })), "{unknown:?}");
        let target = RedriveTarget::Topic(Some("nowhere".into()));
        let missing = world.start(RedriveRequest { target, ..request(all()) }).await;
        assert!(matches!(missing, Err(LetterError::Topic(_))), "{missing:?}");
    });
}

fn moved(world: &World) -> Vec<(String, String)> {
    let targets = world.logs.targets.lock().get("again").expect("it is there").clone();
    let records = targets.iter().flat_map(|log| log.records());
    let text = |bytes: Option<&Bytes>| String::from_utf8(bytes.expect("there").to_vec()).expect("text");
    let pairs = records.map(|(_, record)| {
        let from = record.headers.iter().find(|header| header.key == "dlq.redriven_from").expect("it is marked");
        assert!(!record.headers.iter().any(|header| header.key == "dlq.id"), "the headers of dead letters are gone");
        (text(record.value.as_ref()), text(from.value.as_ref()))
    });
    pairs.collect()
}

fn to_topic(selector: Selector) -> RedriveRequest {
    RedriveRequest { target: RedriveTarget::Topic(Some("again".into())), ..request(selector) }
}

#[test]
fn rd_3_target_topic_appends_each_entry_once_and_marks_it_moved() {
    runtime().block_on(async {
        let world = World::new().await;
        world.logs.targets.lock().insert("again".into(), vec![Arc::default(), Arc::default()]);
        let job = world.start(to_topic(all())).await.expect("they are open");
        world.settle().await;
        let done = world.job(job.id);
        assert_eq!((done.state, done.resolved), (JobState::Done, 9));
        let mut found: Vec<String> = moved(&world).into_iter().map(|(value, _)| value).collect();
        found.sort();
        assert_eq!(found, (0..9).map(|offset| format!("value {offset}")).collect::<Vec<_>>());
        assert!((0..9).all(|offset| world.group.entry(key(offset)).state == EntryState::Moved));
        assert!(world.given().is_empty(), "the group sees nothing of it");
    });
}

/// One life up to a crash in the middle of a move, one after it.
fn move_with_crash(crash: u64, keep: bool) -> u64 {
    runtime().block_on(async {
        let mut world = World::new().await;
        let target: Arc<MemoryLog> = Arc::default();
        world.logs.targets.lock().insert("again".into(), vec![Arc::clone(&target)]);
        let steps = Steps::crash_at(crash);
        world.group.restart(true, &steps);
        target.restart(true, &steps);
        let begin = world.letters.start_redrive(&world.handle, to_topic(all()));
        // A call that meets the crash is never answered.
        let _ = tokio::time::timeout(Duration::from_secs(2), begin).await;
        world.settle().await;
        let taken = steps.taken();
        let alive = Arc::new(Steps::default());
        world.group.restart(keep, &alive);
        target.restart(keep, &alive);
        world.letters = letters(&world.logs, &world.clock);
        world.letters.start(Arc::new(OneGroup(Arc::clone(&world.group))));
        world.settle().await;
        if world.letters.jobs(None, false, None, 10).is_empty() {
            world.letters.start_redrive(&world.handle, to_topic(all())).await.expect("they are open");
            world.settle().await;
        }
        let mut found: Vec<String> = moved(&world).into_iter().map(|(_, from)| from).collect();
        let count = found.len();
        found.sort();
        found.dedup();
        assert_eq!((count, found.len()), (9, 9), "crash after {crash} steps, keep {keep}");
        assert!((0..9).all(|offset| world.group.entry(key(offset)).state == EntryState::Moved));
        taken
    })
}

#[test]
fn rd_3_a_crash_at_every_write_of_a_move_doubles_and_loses_nothing() {
    let steps = move_with_crash(u64::MAX - 1, true);
    assert!(steps >= 6, "{steps} durable steps");
    for crash in 0..=steps {
        for keep in [false, true] {
            move_with_crash(crash, keep);
        }
    }
}

#[test]
fn rd_3_what_comes_back_into_its_own_topic_is_given_to_the_group_and_not_appended_without_end() {
    runtime().block_on(async {
        let world = World::new().await;
        let source = Arc::clone(&world.logs.source.lock());
        world.logs.targets.lock().insert("orders".into(), vec![Arc::clone(&source)]);
        let before = source.records().len();
        let target = RedriveTarget::Topic(None);
        let job = world.start(RedriveRequest { target, ..request(all()) }).await.expect("they are open");
        // The first of what is appended is read and parked before the last of its key is closed.
        world.group.open(key(12), lane(Some(b"k0"), at(12)), 0, 20_000);
        world.settle().await;
        let appended: Vec<_> = source.records()[before..].iter().map(|(_, record)| record.value.clone()).collect();
        assert_eq!(appended.len(), 9, "each once: {appended:?}");
        assert!((0..9).all(|offset| world.group.entry(key(offset)).state == EntryState::Moved));
        assert_eq!((world.given(), world.job(job.id).state), (vec![12], JobState::Running));
        world.resolve(12);
        world.settle().await;
        let done = world.job(job.id);
        assert_eq!((done.state, done.resolved, done.selected), (JobState::Done, 10, 10));
    });
}

#[test]
fn of_8_jobs_end_with_their_group_and_lose_what_is_of_a_topic_that_goes() {
    runtime().block_on(async {
        let world = World::new().await;
        let job = world.start(request(all())).await.expect("they are open");
        world.settle().await;
        assert_eq!(world.letters.job_on(TOPIC).await, Some(job.id));
        assert_eq!(world.letters.job_of(GROUP, None).await, Some(job.id));
        assert_eq!(world.letters.job_of(GROUP, Some(vec![TOPIC])).await, Some(job.id));
        let topic = world.handle.topic(TOPIC).expect("there is one");
        world.letters.forget(GROUP, vec![topic]).await;
        world.settle().await;
        assert_eq!(world.letters.job_on(TOPIC).await, None);
        assert_eq!(world.job(job.id).state, JobState::Done, "nothing is left of it");
        assert_eq!(*world.logs.ended.lock(), 1);
    });
}
