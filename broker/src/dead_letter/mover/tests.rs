//! The mover over logs and journals in memory: every durable step is once the last.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use sawlog_proto::batch::{BatchRecord, RecordHeader};

use super::super::headers::{DeadLetterHeaders, identity};
use super::super::test_support::{GROUP, MemoryGroup, MemoryLog, MemoryLogs, SOURCE, Steps, TOPIC, at, key};
use super::{Mover, Sabotage};
use crate::dead_letter::handle::{GroupHandle, Written};
use crate::dead_letter::logs::LetterLogs;
use crate::group::entry::EntryState;
use crate::group::record::PauseReason;
use crate::metrics::DeadLetterMetrics;
use crate::model::Offset;
use crate::partition::AppendFailure;
use crate::topics::TopicError;

const RECORDS: u64 = 12;

fn key_of(offset: u64) -> Option<Vec<u8>> {
    Some(format!("k{}", offset % 3).into_bytes())
}

fn record(offset: u64) -> BatchRecord {
    let header = |key: &str, value: Option<&str>| RecordHeader {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
    };
    BatchRecord {
        key: key_of(offset).map(Bytes::from),
        value: (offset != 5).then(|| Bytes::from(format!("value {offset}"))),
        headers: vec![header("type", Some("sale")), header("none", None), header("dlq.cycle", Some("99"))],
        timestamp_ms: 500 + offset as i64,
    }
}

struct World {
    logs: Arc<MemoryLogs>,
    group: Arc<MemoryGroup>,
    metrics: DeadLetterMetrics,
}

impl World {
    fn new(steps: &Arc<Steps>) -> Self {
        let records: Vec<BatchRecord> = (0..RECORDS).map(record).collect();
        let logs = MemoryLogs::default();
        *logs.source.lock() = MemoryLog::with(&records);
        Self { logs: Arc::new(logs), group: MemoryGroup::new(steps), metrics: DeadLetterMetrics::default() }
    }

    fn handle(&self) -> Arc<dyn GroupHandle> {
        Arc::clone(&self.group) as _
    }

    fn letters(&self) -> Arc<MemoryLog> {
        self.logs.letters.lock().get_or_insert_default().clone()
    }

    fn mover(&self, sabotage: Sabotage) -> Mover {
        let logs: Arc<dyn LetterLogs> = Arc::clone(&self.logs) as _;
        Mover::new(logs, self.metrics.clone(), tokio::runtime::Handle::current(), sabotage)
    }

    /// Lets the mover work until it has nothing to do, or is dead.
    async fn work(&self, mover: &Mover) {
        for _ in 0..400 {
            if mover.shared.queues.lock().is_empty() {
                return;
            }
            // Time is paused: it passes at once when nothing else can be done.
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    }

    /// Offsets of the copies of each record, by record and cycle.
    fn copies(&self) -> BTreeMap<(Offset, u32), Vec<Offset>> {
        let mut copies: BTreeMap<_, Vec<Offset>> = BTreeMap::new();
        for (offset, record) in self.letters().records() {
            let headers = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
            let (id, cycle, _) = identity(headers).expect("a dead letter");
            copies.entry((id.key.offset, cycle)).or_default().push(offset);
        }
        copies
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

/// Which of journals and dead letters keep what was written and not synced.
#[derive(Debug, Clone, Copy)]
struct Keep {
    journals: bool,
    letters: bool,
}

/// One life up to a crash, one after it; what is wrong at the end. Also the number of steps of the first life.
fn lives(sabotage: Sabotage, crash: u64, keep: Keep) -> Result<u64, String> {
    let steps = Steps::crash_at(crash);
    let world = World::new(&steps);
    world.letters().restart(true, &steps);
    runtime().block_on(async {
        let mover = world.mover(sabotage);
        for dying in [&[0, 3, 1][..], &[6, 4, 7, 9]] {
            let (moves, after) = world.group.kill(dying, key_of);
            mover.push(&world.handle(), moves, after, false);
            world.work(&mover).await;
        }
    });
    let taken = steps.taken();
    let alive = Arc::new(Steps::default());
    world.group.restart(keep.journals, &alive);
    world.letters().restart(keep.letters, &alive);
    // Only durable intents may have copies.
    let intents: Vec<Offset> = {
        let state = world.group.state.lock();
        state.intents.values().map(|intent| intent.key.offset).chain(state.settled.iter().copied()).collect()
    };
    for ((offset, _), _) in world.copies() {
        if !intents.contains(&offset) {
            return Err(format!("a copy of {offset} without an intent"));
        }
    }
    runtime().block_on(async {
        let mover = world.mover(sabotage);
        let open = world.group.intents();
        mover.push(&world.handle(), open, Written::default(), true);
        world.work(&mover).await;
        // What did not come to an intent dies again.
        let again: Vec<u64> = {
            let state = world.group.state.lock();
            [0, 3, 1, 6, 4, 7, 9].into_iter().filter(|offset| !state.settled.contains(&at(*offset))).collect()
        };
        world.group.state.lock().dlq_end = world.letters().records().last().map_or(Offset::ZERO, |last| last.0);
        let (moves, after) = world.group.kill(&again, key_of);
        mover.push(&world.handle(), moves, after, false);
        world.work(&mover).await;
    });
    judge(&world).map(|()| taken)
}

fn judge(world: &World) -> Result<(), String> {
    let state = world.group.state.lock();
    if !state.intents.is_empty() || !state.lost.is_empty() {
        return Err(format!("left open {:?}, lost {:?}", state.intents.keys(), state.lost));
    }
    let copies = world.copies();
    let mut by_lane: BTreeMap<u64, Vec<(Offset, Offset)>> = BTreeMap::new();
    for offset in [0, 3, 1, 6, 4, 7, 9] {
        let found = copies.get(&(at(offset), 0)).cloned().unwrap_or_default();
        let [copy] = found[..] else { return Err(format!("{offset} has copies at {found:?}")) };
        let entry = state.table.get(&key(offset)).ok_or_else(|| format!("{offset} has no entry"))?;
        if entry.copy != copy || entry.state != EntryState::Open {
            return Err(format!("the entry of {offset} says {entry:?}, the copy is at {copy}"));
        }
        by_lane.entry(offset % 3).or_default().push((at(offset), copy));
    }
    for lane in by_lane.values_mut() {
        lane.sort();
        if !lane.is_sorted_by_key(|(_, copy)| *copy) {
            return Err(format!("the copies of a lane are out of order: {lane:?}"));
        }
    }
    Ok(())
}

/// All crash points of all lives.
fn every_crash(sabotage: Sabotage) -> Result<(), String> {
    let steps = lives(sabotage, u64::MAX - 1, Keep { journals: true, letters: true })?;
    assert!(steps >= 8, "{steps} durable steps");
    for crash in 0..=steps {
        for bits in 0..4 {
            let keep = Keep { journals: bits & 1 != 0, letters: bits & 2 != 0 };
            lives(sabotage, crash, keep).map_err(|what| format!("crash after {crash} steps, {keep:?}: {what}"))?;
        }
    }
    Ok(())
}

#[test]
fn dl_4_a_crash_at_every_write_leaves_one_copy_and_one_entry_each() {
    every_crash(Sabotage::default()).expect("rule DL-4");
}

#[test]
fn g_3_the_crashes_find_each_fault_that_is_built_in() {
    let faults = [
        Sabotage { append_before_intent: true, ..Sabotage::default() },
        Sabotage { commit_before_append: true, ..Sabotage::default() },
        Sabotage { no_search: true, ..Sabotage::default() },
    ];
    for fault in faults {
        let found = every_crash(fault);
        assert!(found.is_err(), "{fault:?} was not found");
    }
}

#[test]
fn dl_2_key_payload_and_headers_are_copied_unchanged_and_a_repeat_does_not_pile_up() {
    let steps = Arc::new(Steps::default());
    let world = World::new(&steps);
    runtime().block_on(async {
        let mover = world.mover(Sabotage::default());
        let (moves, after) = world.group.kill(&[4, 5], key_of);
        mover.push(&world.handle(), moves, after, false);
        world.work(&mover).await;
    });
    for ((_, copy), offset) in world.letters().records().into_iter().zip([4, 5]) {
        let original = record(offset);
        assert_eq!(
            (&copy.key, &copy.value, copy.timestamp_ms),
            (&original.key, &original.value, original.timestamp_ms)
        );
        assert_eq!(copy.headers[..2], original.headers[..2], "those of its own, one without a value");
        let headers = copy.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        let said = DeadLetterHeaders::parse(headers).expect("all are there");
        assert_eq!((said.id.group, said.id.key, said.cycle, said.append_ms), (GROUP, key(offset), 0, 1_000));
        assert_eq!(copy.headers.iter().filter(|header| header.key == "dlq.cycle").count(), 1);
        assert!(copy.headers.iter().any(|header| header.key == "__dlq.errors.offset"));
    }
    assert_eq!(*world.logs.made.lock(), 1, "the topic is made at the first entry");
}

#[test]
fn dl_4_thousands_of_intents_go_out_with_few_appends() {
    let steps = Arc::new(Steps::default());
    let world = World::new(&steps);
    let records: Vec<BatchRecord> = (0..6_000).map(record).collect();
    *world.logs.source.lock() = MemoryLog::with(&records);
    runtime().block_on(async {
        let mover = world.mover(Sabotage::default());
        let (moves, after) = world.group.kill(&(0..6_000).collect::<Vec<_>>(), key_of);
        mover.push(&world.handle(), moves, after, false);
        world.work(&mover).await;
    });
    assert_eq!(world.letters().records().len(), 6_000);
    assert!(world.letters().appends() <= 12, "{} appends", world.letters().appends());
    assert!(world.group.state.lock().intents.is_empty());
}

#[test]
fn dl_4_a_record_that_is_damaged_or_gone_is_closed_as_lost_and_one_that_cannot_be_read_waits() {
    let steps = Arc::new(Steps::default());
    let world = World::new(&steps);
    world.logs.source.lock().trim(at(1));
    world.logs.source.lock().damage(4, true);
    world.logs.source.lock().damage(7, false);
    runtime().block_on(async {
        let mover = world.mover(Sabotage::default());
        let (moves, after) = world.group.kill(&[0, 4, 6, 7, 8], key_of);
        mover.push(&world.handle(), moves, after, false);
        world.work(&mover).await;
        assert_eq!(world.group.state.lock().lost, [at(0), at(4)]);
        assert_eq!(world.group.intents().len(), 2, "those behind it wait too: order");
        world.logs.source.lock().repair();
        world.work(&mover).await;
    });
    assert_eq!(world.copies().into_keys().map(|(offset, _)| offset.get()).collect::<Vec<_>>(), [6, 7, 8]);
    assert_eq!(world.metrics.lost.get(), 2);
}

#[test]
fn dl_5_what_cannot_be_appended_waits_and_nothing_is_dropped() {
    let steps = Arc::new(Steps::default());
    let world = World::new(&steps);
    let fenced =
        |outcome_unknown| AppendFailure::Fenced { durable_end: at(0), cause: "a sync".into(), outcome_unknown };
    let full = |errno| AppendFailure::WriteFailed { errno: Some(errno), what: "no space".into() };
    let low = AppendFailure::DiskLow { free_bytes: 1, min_free_bytes: 2 };
    // Taken from the back.
    world.letters().refuse(vec![fenced(true), full(28), low.clone(), low]);
    runtime().block_on(async {
        let mover = world.mover(Sabotage::default());
        let (moves, after) = world.group.kill(&[0, 1, 2], key_of);
        mover.push(&world.handle(), moves, after, false);
        world.work(&mover).await;
    });
    let state = world.group.state.lock();
    assert!(state.intents.is_empty() && state.lost.is_empty());
    assert_eq!(state.blocked, [Some(PauseReason::DiskLow), None], "told once, and that it is over");
    assert!(*world.logs.released.lock() > 0, "a part of the reserve (rule F3)");
    assert_eq!(world.copies().len(), 3);
    assert_eq!(world.metrics.blocked.get(), 0);
}

#[test]
fn dl_10_the_limit_of_bytes_pauses_the_group_until_it_is_raised() {
    let steps = Arc::new(Steps::default());
    let world = World::new(&steps);
    world.group.config.lock().dlq_max_bytes = 100;
    runtime().block_on(async {
        let mover = world.mover(Sabotage::default());
        let (moves, after) = world.group.kill(&[0], key_of);
        mover.push(&world.handle(), moves, after, false);
        world.work(&mover).await;
        assert_eq!(world.group.state.lock().blocked, [Some(PauseReason::DlqFull)]);
        assert_eq!((world.copies().len(), world.metrics.blocked.get()), (0, 1));
        world.group.config.lock().dlq_max_bytes = 0;
        world.work(&mover).await;
    });
    assert_eq!(world.group.state.lock().blocked, [Some(PauseReason::DlqFull), None]);
    assert_eq!(world.copies().len(), 1);
}

#[test]
fn dl_1_beyond_the_limit_of_partitions_the_group_waits_with_dead_limit() {
    let steps = Arc::new(Steps::default());
    let world = World::new(&steps);
    world.logs.make_fails.lock().push(TopicError::Limit { limit: "dead_letter_partitions", max: 50_000 });
    runtime().block_on(async {
        let mover = world.mover(Sabotage::default());
        let (moves, after) = world.group.kill(&[0], key_of);
        mover.push(&world.handle(), moves, after, false);
        world.work(&mover).await;
    });
    assert_eq!(world.group.state.lock().blocked, [Some(PauseReason::DeadLimit), None]);
    assert_eq!(world.copies().len(), 1);
}

#[test]
fn of_8_what_is_forgotten_is_not_carried_out_any_more() {
    let steps = Arc::new(Steps::default());
    let world = World::new(&steps);
    world.logs.source.lock().damage(0, false);
    runtime().block_on(async {
        let mover = world.mover(Sabotage::default());
        let (moves, after) = world.group.kill(&[0], key_of);
        mover.push(&world.handle(), moves, after, false);
        tokio::task::yield_now().await;
        mover.forget(GROUP, &[TOPIC]).await;
        assert!(mover.shared.queues.lock().is_empty());
        mover.push(&world.handle(), vec![(SOURCE, 1)], Written::default(), true);
        mover.stop().await;
        assert!(mover.shared.queues.lock().is_empty());
    });
    assert!(world.copies().is_empty());
}

#[test]
fn dl_16_a_batch_that_cannot_be_decoded_is_copied_whole() {
    let steps = Arc::new(Steps::default());
    let world = World::new(&steps);
    runtime().block_on(async {
        let mover = world.mover(Sabotage::default());
        let (moves, after) = world.group.kill(&[2], key_of);
        world.group.state.lock().intents.values_mut().for_each(|intent| {
            intent.reason = crate::group::entry::DeadReason::Undecodable;
        });
        mover.push(&world.handle(), moves, after, false);
        world.work(&mover).await;
    });
    let (_, copy) = world.letters().records().remove(0);
    let stored = super::super::test_support::checked(&[record(2)]);
    assert_eq!((copy.key, copy.value), (None, Some(stored.bytes)));
}

#[test]
fn g_3_intents_that_are_queued_twice_or_late_are_copied_once_each_and_in_their_order() {
    let steps = Arc::new(Steps::default());
    let world = World::new(&steps);
    runtime().block_on(async {
        let mover = world.mover(Sabotage::default());
        let (old, after) = world.group.kill(&[0, 3], key_of);
        let (new, _) = world.group.kill(&[6, 1], key_of);
        mover.push(&world.handle(), new.clone(), after, false);
        mover.push(&world.handle(), [old, new].concat(), after, true);
        world.work(&mover).await;
    });
    let copies = world.copies().into_iter().map(|((offset, _), copies)| (offset.get(), copies));
    let expected = [(0, vec![at(0)]), (1, vec![at(3)]), (3, vec![at(1)]), (6, vec![at(2)])];
    assert_eq!(copies.collect::<Vec<_>>(), expected);
}
