//! The table of entries against a plain model, and its codec.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;
use crate::group::record::ErrorInfo;
use crate::model::{PartitionId, TopicUuid};

fn source(partition: u32) -> Source {
    Source { topic: TopicUuid([7; 16]), partition: PartitionId(partition) }
}

fn key(offset: u64) -> EntryKey {
    let epoch = PartitionEpoch::ZERO;
    EntryKey { source: source(0), offset: Offset::new(offset).unwrap(), epoch }
}

fn entry(lane: u128, state: EntryState) -> Entry {
    Entry {
        lane: LaneKey(lane),
        slot: KeySlot::new(3).unwrap(),
        kind: EntryKind::Failed,
        state,
        job: None,
        cycle: 0,
        copy: Offset::new(9).unwrap(),
        attempts: 6,
        due_ms: 0,
        delay_ms: 0,
        first_delivery_ms: 40,
        reason: DeadReason::Attempts,
        class: Some("Timeout".into()),
        fingerprint: Some("f00".into()),
        blocked_by: None,
        holds: true,
        size_bytes: 100,
        intent: 8,
        versions: Vec::new(),
        dead_ms: 50,
        act: Act::default(),
        source_lost: false,
    }
}

fn open(table: &mut EntryTable, offset: u64, entry: Entry) {
    table.replay(&EntryRecord::Opened { key: key(offset), entry: Box::new(entry) }).unwrap();
}

fn change(table: &mut EntryTable, offset: u64, state: EntryState) {
    let old = table.get(&key(offset)).unwrap();
    let act = Act { actor: "ops".into(), time_ms: 60, note: "seen".into() };
    let (kind, cycle, attempts, reason) = (old.kind, old.cycle, old.attempts, old.reason);
    let (class, fingerprint) = (old.class, old.fingerprint);
    let key = key(offset);
    let job = None;
    table
        .replay(&EntryRecord::Changed { key, state, kind, cycle, job, attempts, reason, class, fingerprint, act })
        .unwrap();
}

#[test]
fn dl_12_a_lane_is_dead_while_an_entry_is_open_spilled_while_all_are_spilled_and_live_when_all_are_closed() {
    let mut table = EntryTable::default();
    let state = |table: &EntryTable| table.lane_state(source(0), LaneKey(1));
    assert_eq!(state(&table), LaneState::Live);
    open(&mut table, 5, entry(1, EntryState::Spilled));
    open(&mut table, 7, entry(1, EntryState::Spilled));
    assert_eq!((state(&table), table.lane_count()), (LaneState::Spilled, 1));
    change(&mut table, 5, EntryState::Open);
    assert_eq!(state(&table), LaneState::Dead);
    assert_eq!(table.head_of(source(0), LaneKey(1)), Some(key(5)));
    change(&mut table, 5, EntryState::Resolved { version: 2 });
    assert_eq!(state(&table), LaneState::Spilled);
    assert_eq!(table.head_of(source(0), LaneKey(1)), Some(key(7)));
    change(&mut table, 7, EntryState::Discarded);
    assert_eq!((state(&table), table.lane_count()), (LaneState::Live, 0));
    assert_eq!(table.state_of(&key(5)), Some(EntryState::Resolved { version: 2 }));
}

#[test]
fn dl_8_an_entry_that_its_lane_does_not_wait_for_leaves_the_lane_live() {
    let mut table = EntryTable::default();
    open(&mut table, 5, Entry { holds: false, ..entry(1, EntryState::Open) });
    assert_eq!(table.lane_state(source(0), LaneKey(1)), LaneState::Live);
    assert_eq!((table.head_of(source(0), LaneKey(1)), table.open_len(), table.lane_count()), (None, 1, 0));
    assert_eq!(table.open_of(source(0), LaneKey(1)).collect::<Vec<_>>(), [key(5)]);
}

#[test]
fn dl_9_the_open_entries_of_a_lane_are_in_source_order_whatever_the_order_of_their_opening() {
    let mut table = EntryTable::default();
    for offset in [30, 10, 20] {
        open(&mut table, offset, entry(1, EntryState::Open));
        open(&mut table, offset + 1, entry(2, EntryState::Open));
    }
    let lane: Vec<EntryKey> = table.open_of(source(0), LaneKey(1)).collect();
    assert_eq!(lane, [key(10), key(20), key(30)]);
    assert_eq!(table.lanes().count(), 2);
}

#[test]
fn rd_4_a_job_takes_entries_with_attempts_anew_and_one_cycle_more_and_leaves_them_as_they_are() {
    let mut table = EntryTable::default();
    open(&mut table, 5, entry(1, EntryState::Open));
    let keys = vec![key(5)];
    table.replay(&EntryRecord::Redriving { keys: keys.clone(), job: Some(4), act: Act::default() }).unwrap();
    let taken = table.get(&key(5)).unwrap();
    assert_eq!((taken.job, taken.cycle, taken.attempts), (Some(4), 1, 0));
    table.replay(&EntryRecord::Redriving { keys, job: None, act: Act::default() }).unwrap();
    let left = table.get(&key(5)).unwrap();
    assert_eq!((left.job, left.cycle, left.state), (None, 1, EntryState::Open));
}

#[test]
fn ak_12_entries_at_or_above_a_cut_and_of_older_epochs_are_marked() {
    let mut table = EntryTable::default();
    let newer = EntryKey { epoch: PartitionEpoch::new(1).unwrap(), ..key(6) };
    open(&mut table, 4, entry(1, EntryState::Open));
    open(&mut table, 6, entry(1, EntryState::Open));
    table.replay(&EntryRecord::Opened { key: newer, entry: Box::new(entry(1, EntryState::Open)) }).unwrap();
    let from = Offset::new(5).unwrap();
    let epoch = PartitionEpoch::new(1).unwrap();
    table.replay(&EntryRecord::SourceLost { source: source(0), from, epoch }).unwrap();
    let lost: Vec<bool> = table.iter().map(|(_, entry)| entry.source_lost).collect();
    assert_eq!(lost, [false, true, false]);
}

#[test]
fn dl_14_depths_are_counted_by_kind_state_and_reason() {
    let mut table = EntryTable::default();
    open(&mut table, 5, entry(1, EntryState::Open));
    open(&mut table, 6, entry(1, EntryState::Open));
    change(&mut table, 6, EntryState::Discarded);
    let depths: Vec<_> = table.depths(source(0)).collect();
    let (kind, reason) = (EntryKind::Failed, DeadReason::Attempts);
    assert_eq!(depths, [(kind, EntryState::Open, false, reason, 1), (kind, EntryState::Discarded, false, reason, 1)]);
}

#[test]
fn an_unknown_entry_is_an_error_and_changes_nothing() {
    let mut table = EntryTable::default();
    open(&mut table, 5, entry(1, EntryState::Open));
    let before = table.clone();
    let unknown = key(6);
    let act = Act::default();
    let records = [
        EntryRecord::Tried { key: unknown, attempts: 1, due_ms: 0, delay_ms: 0, class: None },
        EntryRecord::Edited { key: unknown, copy: Offset::ZERO, act: act.clone() },
        EntryRecord::Redriving { keys: vec![key(5), unknown], job: Some(1), act },
    ];
    for record in records {
        assert!(table.replay(&record).is_err(), "{record:?}");
        assert_eq!(table, before);
    }
}

#[test]
fn iteration_goes_on_behind_a_key_across_partitions() {
    let mut table = EntryTable::default();
    let elsewhere = EntryKey { source: source(1), ..key(1) };
    open(&mut table, 5, entry(1, EntryState::Open));
    open(&mut table, 6, entry(1, EntryState::Open));
    table.replay(&EntryRecord::Opened { key: elsewhere, entry: Box::new(entry(1, EntryState::Open)) }).unwrap();
    let behind: Vec<EntryKey> = table.iter_after(Some(key(5))).map(|(key, _)| key).collect();
    assert_eq!(behind, [key(6), elsewhere]);
    assert_eq!(table.iter_after(Some(elsewhere)).count(), 0);
    assert_eq!(table.iter_after(None).count(), 3);
    assert_eq!((table.last_of(source(0)), table.len()), (Some(key(6).offset), 3));
}

#[test]
fn every_field_of_an_entry_comes_back_from_the_table_and_from_the_journal() {
    let full = Entry {
        job: Some(3),
        cycle: 2,
        due_ms: -7,
        delay_ms: 40,
        blocked_by: Some(key(1)),
        versions: vec![Offset::new(11).unwrap()],
        act: Act { actor: "a".into(), time_ms: 1, note: "n".into() },
        source_lost: true,
        ..entry(u128::MAX - 5, EntryState::Resolved { version: 1 })
    };
    let record = EntryRecord::Opened { key: key(5), entry: Box::new(full.clone()) };
    assert_eq!(EntryRecord::decode(&record.encode()).unwrap(), record);
    let mut table = EntryTable::default();
    table.replay(&record).unwrap();
    assert_eq!(table.get(&key(5)), Some(full));
    let json = serde_json::to_vec(&table).unwrap();
    assert_eq!(serde_json::from_slice::<EntryTable>(&json).unwrap(), table);
}

/// One record of each kind, those of binary forms with all parts and with none.
fn records() -> Vec<EntryRecord> {
    let act = Act { actor: "ana".into(), time_ms: -1, note: "she \"knows\"".into() };
    let opened = |key, entry| EntryRecord::Opened { key, entry: Box::new(entry) };
    let full = Entry {
        kind: EntryKind::Parked,
        reason: DeadReason::Parked,
        job: Some(u64::MAX),
        cycle: u32::MAX,
        copy: Offset::MAX,
        attempts: u32::MAX,
        due_ms: i64::MIN,
        delay_ms: u64::MAX,
        blocked_by: Some(key(1)),
        holds: false,
        versions: vec![Offset::ZERO, Offset::MAX],
        act: act.clone(),
        source_lost: true,
        ..entry(u128::MAX, EntryState::Resolved { version: u32::MAX })
    };
    let elsewhere = EntryKey { source: source(9), ..key(1) };
    let none = Entry { class: None, fingerprint: None, ..entry(0, EntryState::Expired) };
    let changed = |state, job, class: Option<&str>| EntryRecord::Changed {
        key: key(1 << 40),
        state,
        kind: EntryKind::Parked,
        cycle: 3,
        job,
        attempts: 4,
        reason: DeadReason::Undecodable,
        class: class.map(str::to_owned),
        fingerprint: class.map(str::to_owned),
        act: act.clone(),
    };
    let epoch = PartitionEpoch::new(i32::MAX as u32).unwrap();
    vec![
        opened(key(5), full.clone()),
        opened(EntryKey { epoch, ..key(5) }, none),
        opened(key(5), Entry { blocked_by: Some(elsewhere), ..full }),
        EntryRecord::Tried { key: key(6), attempts: 1, due_ms: i64::MAX, delay_ms: 9, class: Some("Zeitüber".into()) },
        EntryRecord::Tried { key: key(6), attempts: 0, due_ms: -1, delay_ms: 0, class: None },
        EntryRecord::Failed { key: key(6), failure: Box::default() },
        changed(EntryState::Moved, Some(4), Some("E")),
        changed(EntryState::Cleared, None, None),
        EntryRecord::Redriving { keys: vec![key(1), key(2)], job: Some(1), act: act.clone() },
        EntryRecord::Edited { key: key(7), copy: Offset::MAX, act },
        EntryRecord::Past { key: key(7), past: Vec::new() },
        EntryRecord::SourceLost { source: source(1), from: Offset::ZERO, epoch },
        EntryRecord::Forgotten { keys: vec![key(3)] },
        EntryRecord::Job { job: 1, state: Some("{}".into()) },
        EntryRecord::Dropped { sources: vec![source(2)] },
    ]
}

#[test]
fn every_entry_record_comes_back_as_it_was() {
    for record in records() {
        assert_eq!(EntryRecord::decode(&record.encode()), Ok(record));
    }
}

#[test]
fn a_cut_or_flipped_entry_record_is_an_error_or_another_record_and_never_a_panic() {
    for record in records() {
        let bytes = record.encode();
        for length in 0..bytes.len() {
            assert!(EntryRecord::decode(&bytes[..length]).is_err(), "{length} bytes of {record:?}");
        }
        let longer = [&bytes[..], b"x"].concat();
        assert!(EntryRecord::decode(&longer).is_err(), "a byte behind {record:?}");
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok(other) = EntryRecord::decode(&flipped) {
                assert_eq!(EntryRecord::decode(&other.encode()), Ok(other.clone()), "what it is read as is written so");
                drop(EntryTable::default().replay(&other));
            }
        }
    }
}

#[test]
fn an_opened_a_tried_and_a_changed_entry_stand_in_the_journal_byte_by_byte_as_the_format_says() {
    let blocked = Entry { blocked_by: Some(key(300)), ..entry(1, EntryState::Spilled) };
    let opened = EntryRecord::Opened { key: key(301), entry: Box::new(blocked) }.encode();
    let golden = [
        &[1, 0x39][..],      // opened: holds, class, fingerprint, blocked
        &[7; 16],            // topic
        &[0, 0xad, 0x02, 0], // partition, offset, epoch
        &[1],                // lane
        &[0; 15],
        &[3, 0, 1, 0], // slot, kind, state, reason
        &[0, 9, 6],    // cycle, copy, attempts
        &[0, 0, 40],   // due, delay, first delivery
        &[100, 8, 50], // size, intent, death
        &[7],
        b"Timeout",
        &[3],
        b"f00",
        &[0xac, 0x02, 0], // what blocks it
    ];
    assert_eq!(opened, golden.concat());
    let class = Some("E".to_owned());
    let tried = EntryRecord::Tried { key: key(5), attempts: 2, due_ms: 9, delay_ms: 300, class }.encode();
    assert_eq!(tried, [&[2, 8][..], &[7; 16], &[0, 5, 0], &[2, 9, 0xac, 0x02], &[1, b'E']].concat());
    let changed = EntryRecord::Changed {
        key: key(5),
        state: EntryState::Resolved { version: 4 },
        kind: EntryKind::Parked,
        cycle: 1,
        job: Some(3),
        attempts: 2,
        reason: DeadReason::Spill,
        class: None,
        fingerprint: None,
        act: Act { actor: "a".into(), time_ms: 60, note: String::new() },
    };
    let golden = [&[3, 4][..], &[7; 16], &[0, 5, 0], &[2, 4, 1, 1, 2, 6], &[3], &[1, b'a', 60, 0]];
    assert_eq!(changed.encode(), golden.concat());
}

#[test]
fn an_entry_record_with_a_flag_or_a_state_that_nobody_knows_is_refused_in_words() {
    let bytes = EntryRecord::Opened { key: key(5), entry: Box::new(entry(1, EntryState::Open)) }.encode();
    let changed = |at: usize, value: u8| {
        let mut bytes = bytes.clone();
        bytes[at] = value;
        EntryRecord::decode(&bytes).unwrap_err()
    };
    let state = 2 + 16 + 3 + 16 + 1 + 1;
    assert!(changed(state, 7).contains("unknown state"));
    assert!(changed(state - 1, 2).contains("unknown kind"));
    assert!(changed(state + 1, 8).contains("unknown reason"));
    let mut flagged = bytes.clone();
    flagged.splice(1..2, [0x80 | bytes[1], 0x02]);
    assert!(EntryRecord::decode(&flagged).unwrap_err().contains("unknown flags"));
    assert!(EntryRecord::decode(&[9, 1, 2]).is_err(), "a tag that nobody knows");
    assert!(EntryRecord::decode(&[]).is_err());
}

#[test]
fn ak_7_an_entry_on_its_way_is_short() {
    let parked = Entry {
        kind: EntryKind::Parked,
        reason: DeadReason::Spill,
        blocked_by: Some(key(600_000)),
        class: None,
        fingerprint: None,
        copy: Offset::new(70_000).unwrap(),
        dead_ms: 1_763_700_000_000,
        ..entry(u128::MAX, EntryState::Spilled)
    };
    let opened = EntryRecord::Opened { key: key(700_000), entry: Box::new(parked) };
    assert!(opened.encode().len() <= 72, "{}", opened.encode().len());
}

#[test]
fn dl_12_the_replica_of_the_journal_makes_the_table_that_the_same_records_make() {
    let (mut table, mut replica) = (EntryTable::default(), EntryReplica::default());
    for offset in 0..200 {
        let state = if offset % 3 == 0 { EntryState::Open } else { EntryState::Spilled };
        let holds = offset % 5 != 0;
        let entry = Entry { holds, ..entry(u128::from(offset % 7), state) };
        let opened = EntryRecord::Opened { key: key(offset * 37 % 200), entry: Box::new(entry) };
        table.replay(&opened).unwrap();
        replica.replay(&opened).unwrap();
    }
    let forgotten = EntryRecord::Forgotten { keys: (0..50).map(key).collect() };
    table.replay(&forgotten).unwrap();
    replica.replay(&forgotten).unwrap();
    let again = replica.table();
    assert_eq!(again, table);
    assert_eq!(again.lanes().collect::<Vec<_>>(), table.lanes().collect::<Vec<_>>());
    assert_eq!(again.depths(source(0)).collect::<Vec<_>>(), table.depths(source(0)).collect::<Vec<_>>());
    assert_eq!((again.open_len(), replica.open_len()), (table.open_len(), table.open_len()));
    assert!(replica.records().eq(table.records()));
}

#[test]
fn dl_12_what_an_entry_was_before_is_remembered_and_comes_back_from_a_snapshot() {
    let act = |actor: &str, time_ms| Act { actor: actor.into(), time_ms, note: format!("by {actor}") };
    let mut table = EntryTable::default();
    open(&mut table, 5, entry(1, EntryState::Open));
    assert_eq!(table.past(&key(5)), [], "nothing was done to it");
    let redriving = |job, who: &str, time| EntryRecord::Redriving { keys: vec![key(5)], job, act: act(who, time) };
    table.replay(&redriving(Some(3), "ana", 60)).unwrap();
    assert_eq!(table.past(&key(5)), [], "the last thing stands in the entry");
    table.replay(&redriving(None, "broker", 70)).unwrap();
    let copy = Offset::new(11).unwrap();
    table.replay(&EntryRecord::Edited { key: key(5), copy, act: act("ben", 80) }).unwrap();
    change(&mut table, 5, EntryState::Discarded);
    let told = |table: &EntryTable| -> Vec<(i64, Option<u64>, u32)> {
        table.past(&key(5)).iter().map(|past| (past.act.time_ms, past.job, past.cycle)).collect()
    };
    assert_eq!(told(&table), [(60, Some(3), 1), (70, None, 1), (80, None, 1)]);
    // It dies again: its first death is remembered too. The same copy told again is no death.
    for _ in 0..2 {
        open(&mut table, 5, Entry { cycle: 2, dead_ms: 90, ..entry(1, EntryState::Open) });
        assert_eq!(told(&table)[0].0, entry(1, EntryState::Open).dead_ms);
        assert_eq!(told(&table).len(), 5);
    }
    // Many are cut short in the middle.
    for _ in 0..40 {
        change(&mut table, 5, EntryState::Open);
    }
    assert_eq!((told(&table).len(), told(&table)[0].0), (16, entry(1, EntryState::Open).dead_ms));
    let mut rebuilt = EntryTable::default();
    for record in table.records() {
        rebuilt.replay(&EntryRecord::decode(&record.encode()).unwrap()).unwrap();
    }
    assert_eq!(told(&rebuilt), told(&table));
    assert_eq!(rebuilt, table);
}

#[test]
fn rd_7_the_last_failure_of_an_entry_is_kept_within_a_bound_the_oldest_go_first() {
    let failure = |time_ms, bytes: usize| EntryFailure {
        time_ms,
        error: ErrorInfo { stack: "s".repeat(bytes), ..ErrorInfo::default() },
        ..EntryFailure::default()
    };
    let failed = |offset, failure| EntryRecord::Failed { key: key(offset), failure: Box::new(failure) };
    let mut table = EntryTable::default();
    assert!(table.replay(&failed(0, failure(1, 1))).is_err(), "of no entry");
    for offset in 0..4 {
        open(&mut table, offset, entry(1, EntryState::Open));
    }
    let third = crate::limits::ENTRY_FAILURES_BYTES / 3 - 1_000;
    for (offset, time) in [(0, 10), (1, 11), (2, 12), (0, 13)] {
        table.replay(&failed(offset, failure(time, third))).unwrap();
    }
    let kept = |table: &EntryTable| -> Vec<Option<i64>> {
        (0..4).map(|offset| table.failure(&key(offset)).map(|failure| failure.time_ms)).collect()
    };
    assert_eq!(kept(&table), [Some(13), Some(11), Some(12), None], "one an entry, the last");
    let mut rebuilt = EntryTable::default();
    for record in table.records() {
        rebuilt.replay(&EntryRecord::decode(&record.encode()).unwrap()).unwrap();
    }
    assert_eq!(rebuilt, table);
    for table in [&mut table, &mut rebuilt] {
        table.replay(&failed(3, failure(14, third))).unwrap();
        assert_eq!(
            kept(table),
            [Some(13), None, Some(12), Some(14)],
            "1 is the oldest, before the snapshot and after it"
        );
        // A new death, and the end of an entry, end what was known of its failure.
        open(table, 2, Entry { cycle: 9, ..entry(2, EntryState::Open) });
        table.replay(&EntryRecord::Forgotten { keys: vec![key(3)] }).unwrap();
        assert_eq!(kept(table), [Some(13), None, None, None]);
        table.replay(&EntryRecord::Dropped { sources: vec![source(0)] }).unwrap();
        assert_eq!(kept(table), [None; 4]);
    }
}

fn states() -> impl Strategy<Value = EntryState> {
    prop_oneof![
        Just(EntryState::Open),
        Just(EntryState::Spilled),
        Just(EntryState::Discarded),
        (0..3_u32).prop_map(|version| EntryState::Resolved { version }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(128) })]

    /// Rule OB-4: lane states, counts and heads equal what a look at all entries says, and a snapshot rebuilds the table.
    #[test]
    fn ob_4_the_table_answers_as_a_look_at_all_entries(
        steps in proptest::collection::vec((0..12_u64, 0..3_u128, states(), any::<bool>(), 0..5_u8), 1..60)
    ) {
        let mut table = EntryTable::default();
        let mut model: BTreeMap<EntryKey, Entry> = BTreeMap::new();
        for (offset, lane, state, holds, step) in steps {
            let key = key(offset);
            match (step, model.get_mut(&key)) {
                (0 | 1, Some(old)) => {
                    change(&mut table, offset, state);
                    (old.state, old.due_ms, old.delay_ms) = (state, 0, 0);
                    old.act = Act { actor: "ops".into(), time_ms: 60, note: "seen".into() };
                }
                (2, Some(_)) => {
                    table.replay(&EntryRecord::Forgotten { keys: vec![key] }).unwrap();
                    model.remove(&key);
                }
                (3, Some(old)) => {
                    let class = Some(format!("class {offset}"));
                    let record = EntryRecord::Tried { key, attempts: 2, due_ms: 9, delay_ms: 8, class: class.clone() };
                    table.replay(&record).unwrap();
                    (old.attempts, old.due_ms, old.delay_ms, old.class) = (2, 9, 8, class);
                }
                _ => {
                    let new = Entry { holds, ..entry(lane, state) };
                    open(&mut table, offset, new.clone());
                    model.insert(key, new);
                }
            }
            prop_assert!(table.iter().eq(model.iter().map(|(key, entry)| (*key, entry.clone()))));
            let mut lanes = 0;
            for lane in (0..3).map(LaneKey) {
                let held: Vec<_> =
                    model.iter().filter(|(_, one)| one.lane == lane && one.holds && !one.state.is_closed()).collect();
                let dead = held.iter().any(|(_, one)| one.state == EntryState::Open);
                let expected = match (held.is_empty(), dead) {
                    (true, _) => LaneState::Live,
                    (false, true) => LaneState::Dead,
                    (false, false) => LaneState::Spilled,
                };
                lanes += usize::from(expected != LaneState::Live);
                prop_assert_eq!(table.lane_state(source(0), lane), expected);
                prop_assert_eq!(table.head_of(source(0), lane), held.first().map(|(key, _)| **key));
            }
            prop_assert_eq!((table.lane_count(), table.lanes().count()), (lanes, lanes));
            prop_assert_eq!(table.depths(source(0)).map(|depth| depth.4).sum::<u64>(), model.len() as u64);
            let count = |wanted: &dyn Fn(&Entry) -> bool| model.values().filter(|one| wanted(one)).count() as u64;
            prop_assert_eq!(table.open_entries_of(source(0)), count(&|one| one.state == EntryState::Open));
            prop_assert_eq!(table.not_closed_of(source(0).topic), count(&|one| !one.state.is_closed()));
            let dead = table.lanes().filter(|(_, _, state)| *state == LaneState::Dead).count() as u64;
            prop_assert_eq!(table.dead_lanes_of(source(0)), dead);
        }
        let mut rebuilt = EntryTable::default();
        for record in table.records() {
            rebuilt.replay(&EntryRecord::decode(&record.encode()).unwrap()).unwrap();
        }
        prop_assert_eq!(rebuilt, table);
    }
}
