//! The index of a topic without files: reservations, windows, bounds, roll-backs.

use std::collections::HashMap;

use proptest::prelude::*;

use super::*;
use crate::clock::ManualClock;
use crate::model::PartitionEpoch;
use crate::partition::admit::EnvelopePolicy;
use crate::partition::events::{content_hash, event_key};

const START_MS: i64 = 1_700_000_000_000;
const EPOCH: PartitionEpoch = PartitionEpoch::ZERO;

fn settings(window: DedupWindow, max_ids: u32) -> EventSettings {
    EventSettings { envelope: EnvelopePolicy::Off, window: Some(window), max_ids }
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

fn index(partitions: u32, settings: &EventSettings) -> (Arc<EventIndex>, Arc<ManualClock>) {
    let clock = Arc::new(ManualClock::new(START_MS));
    let index = EventIndex::new(partitions, settings, Arc::clone(&clock) as _);
    (0..partitions).for_each(|partition| index.adopt(PartitionId(partition), Vec::new(), Offset::ZERO));
    (index, clock)
}

/// Ids by number, each with a payload by number.
fn batch(events: &[(u64, u64)], whole: bool) -> EventBatch {
    let event = |(index, (id, content)): (u32, &(u64, u64))| EventRef {
        index,
        id: event_key(b"", &id.to_le_bytes()),
        content: content_hash(None, Some(&content.to_le_bytes())),
    };
    EventBatch::new((0..).zip(events).map(event).collect(), whole)
}

fn place(partition: u32, at: u64, append_time_ms: i64) -> EventPlace {
    EventPlace { partition: PartitionId(partition), offset: offset(at), epoch: EPOCH, append_time_ms }
}

fn reserve(index: &EventIndex, clock: &ManualClock, partition: u32, base: u64, batch: &EventBatch) -> Reserved {
    let record_count = batch.refs().len() as u32;
    let at = Reservation { base: offset(base), record_count, epoch: EPOCH, append_time_ms: clock.wall_ms() };
    index.reserve(PartitionId(partition), batch, at)
}

#[test]
fn pr_8_a_repeat_is_told_where_the_first_stands_and_the_rest_closes_up() {
    let (index, clock) = index(2, &settings(DedupWindow::Log, 100));
    assert_eq!(reserve(&index, &clock, 0, 10, &batch(&[(1, 1), (2, 2)], false)), Reserved::All);
    let second = batch(&[(3, 3), (1, 1), (4, 4), (3, 3)], false);
    assert_eq!(reserve(&index, &clock, 1, 50, &second), Reserved::LeftOut);
    let found = [(1, Found::Repeat(place(0, 10, START_MS))), (3, Found::SameAs(0))];
    assert_eq!(second.found(), Some(&found[..]));
    let third = batch(&[(4, 4)], true);
    assert_eq!(reserve(&index, &clock, 0, 12, &third), Reserved::Nothing);
    assert_eq!(third.found(), Some(&[(0, Found::Repeat(place(1, 51, START_MS)))][..]));
}

#[test]
fn pr_8_a_ready_batch_with_a_repeat_reserves_nothing() {
    let (index, clock) = index(1, &settings(DedupWindow::Log, 100));
    assert_eq!(reserve(&index, &clock, 0, 0, &batch(&[(1, 1)], true)), Reserved::All);
    assert_eq!(reserve(&index, &clock, 0, 1, &batch(&[(2, 2), (1, 1)], true)), Reserved::Nothing);
    assert_eq!(reserve(&index, &clock, 0, 1, &batch(&[(2, 2)], true)), Reserved::All);
}

#[test]
fn pr_8_another_payload_under_an_id_is_a_conflict_and_nothing_is_reserved() {
    let (index, clock) = index(1, &settings(DedupWindow::Log, 100));
    assert_eq!(reserve(&index, &clock, 0, 0, &batch(&[(1, 1)], false)), Reserved::All);
    let other = batch(&[(2, 2), (1, 9), (2, 3)], false);
    assert_eq!(reserve(&index, &clock, 0, 1, &other), Reserved::Nothing);
    let found = [(1, Found::Conflict(place(0, 0, START_MS))), (2, Found::ConflictInBatch(0))];
    assert_eq!(other.found(), Some(&found[..]));
    assert_eq!((index.status().ids, index.status().conflicts), (1, 2));
}

#[test]
fn pr_8_the_window_begins_with_the_first_append_and_repeats_do_not_refresh_it() {
    let (index, clock) = index(1, &settings(DedupWindow::Ms(60_000), 100));
    let one = || batch(&[(1, 1)], false);
    assert_eq!(reserve(&index, &clock, 0, 0, &one()), Reserved::All);
    for _ in 0..6 {
        clock.advance(Duration::from_secs(10));
        assert_eq!(reserve(&index, &clock, 0, 1, &one()), Reserved::Nothing, "within the window");
    }
    clock.advance(Duration::from_secs(2));
    assert_eq!(reserve(&index, &clock, 0, 1, &one()), Reserved::All, "a window after the first, not after the last");
}

#[test]
fn pr_8_a_window_of_0_is_off_and_of_log_lasts_as_long_as_the_record() {
    let (off, clock) = index(1, &settings(DedupWindow::Off, 100));
    for base in 0..2 {
        assert_eq!(reserve(&off, &clock, 0, base, &batch(&[(1, 1)], false)), Reserved::All);
    }
    let (log, clock) = index(1, &settings(DedupWindow::Log, 100));
    assert_eq!(reserve(&log, &clock, 0, 5, &batch(&[(1, 1)], false)), Reserved::All);
    clock.advance(Duration::from_secs(1_000 * 86_400));
    assert_eq!(reserve(&log, &clock, 0, 6, &batch(&[(1, 1)], false)), Reserved::Nothing);
    log.raise_start(PartitionId(0), offset(6));
    assert_eq!(reserve(&log, &clock, 0, 6, &batch(&[(1, 1)], false)), Reserved::All, "its record was trimmed");
}

#[test]
fn pr_8_at_the_limit_the_oldest_leave_first_and_the_span_in_force_is_told() {
    let (index, clock) = index(1, &settings(DedupWindow::Ms(3_600_000), 3));
    assert_eq!(index.status().span_ms, Some(3_600_000));
    for id in 0..5 {
        assert_eq!(reserve(&index, &clock, 0, id, &batch(&[(id, id)], false)), Reserved::All);
        clock.advance(Duration::from_secs(60));
    }
    let status = index.status();
    assert_eq!((status.ids, status.max_ids), (3, 3));
    assert_eq!(status.span_ms, Some(4 * 60_000), "the newest that was crowded out came 4 minutes ago");
    assert_eq!(reserve(&index, &clock, 0, 9, &batch(&[(4, 4)], false)), Reserved::Nothing);
    assert_eq!(reserve(&index, &clock, 0, 9, &batch(&[(1, 1)], false)), Reserved::All);
}

#[test]
fn pr_8_ids_of_tenants_are_apart() {
    assert_ne!(event_key(b"a", b"1"), event_key(b"b", b"1"));
    assert_ne!(event_key(b"a", b"b1"), event_key(b"ab", b"1"), "where the tenant ends is part of the name");
    assert_ne!(content_hash(None, Some(b"")), content_hash(Some(b""), Some(b"")));
    assert_ne!(content_hash(None, None), content_hash(None, Some(b"")));
}

#[test]
fn pr_12_a_cut_gives_back_the_ids_above_it() {
    let (index, clock) = index(2, &settings(DedupWindow::Log, 100));
    assert_eq!(reserve(&index, &clock, 0, 0, &batch(&[(1, 1), (2, 2), (3, 3)], false)), Reserved::All);
    assert_eq!(reserve(&index, &clock, 1, 2, &batch(&[(4, 4)], false)), Reserved::All);
    index.truncate(PartitionId(0), offset(1));
    let again = batch(&[(1, 1), (2, 2), (3, 3), (4, 4)], false);
    assert_eq!(reserve(&index, &clock, 0, 1, &again), Reserved::LeftOut);
    let found = [(0, Found::Repeat(place(0, 0, START_MS))), (3, Found::Repeat(place(1, 2, START_MS)))];
    assert_eq!(again.found(), Some(&found[..]));
}

#[test]
fn no_id_is_reserved_before_all_partitions_are_loaded_and_the_first_of_two_records_counts() {
    let clock = Arc::new(ManualClock::new(START_MS));
    let index = EventIndex::new(2, &settings(DedupWindow::Ms(60_000), 100), Arc::clone(&clock) as _);
    let stored = |id: u64, at: u64, ago_ms: i64| StoredEvent {
        id: event_key(b"", &id.to_le_bytes()),
        content: content_hash(None, Some(&id.to_le_bytes())),
        offset: offset(at),
        epoch: EPOCH,
        append_time_ms: START_MS - ago_ms,
    };
    index.adopt(PartitionId(0), vec![stored(1, 7, 1_000), stored(2, 8, 900), stored(3, 3, 70_000)], offset(3));
    assert_eq!(reserve(&index, &clock, 0, 9, &batch(&[(5, 5)], false)), Reserved::NotReady);
    assert!(!index.status().ready);
    index.adopt(PartitionId(1), vec![stored(1, 2, 5_000)], Offset::ZERO);
    let repeats = batch(&[(1, 1), (2, 2), (3, 3)], false);
    assert_eq!(reserve(&index, &clock, 0, 9, &repeats), Reserved::LeftOut);
    let found = [(0, Found::Repeat(place(1, 2, START_MS - 5_000))), (1, Found::Repeat(place(0, 8, START_MS - 900)))];
    assert_eq!(repeats.found(), Some(&found[..]), "the third was too old");
}

#[test]
fn a_request_that_was_written_without_its_repeats_is_found_record_by_record() {
    let (index, clock) = index(2, &settings(DedupWindow::Log, 100));
    assert_eq!(reserve(&index, &clock, 1, 0, &batch(&[(1, 1)], false)), Reserved::All);
    // Three records, of which the second has no id; the first repeats another's.
    let request = || {
        let events = batch(&[(1, 1), (2, 2)], false);
        let refs = vec![events.refs()[0], EventRef { index: 2, ..events.refs()[1] }];
        EventBatch::new(refs, false)
    };
    let first = request();
    let at = Reservation { base: offset(20), record_count: 3, epoch: EPOCH, append_time_ms: START_MS };
    assert_eq!(index.reserve(PartitionId(0), &first, at), Reserved::LeftOut);
    let again = request();
    let written = Reservation { record_count: 2, ..at };
    assert!(index.locate(PartitionId(0), &again, 3, written));
    let found = [(0, 1, 0), (1, 0, 20), (2, 0, 21)]
        .map(|(index, partition, at)| (index, Found::Repeat(place(partition, at, START_MS))));
    assert_eq!(again.found(), Some(&found[..]));
    index.truncate(PartitionId(1), Offset::ZERO);
    assert!(!index.locate(PartitionId(0), &request(), 3, written), "it is not known any more where the first went");
    clock.advance(Duration::from_secs(1));
}

#[derive(Debug, Clone)]
enum Act {
    Append { partition: u32, events: Vec<(u64, u64)>, whole: bool, fails: bool },
    Cut { partition: u32, keep: u64 },
    Trim { partition: u32, to: u64 },
    Wait { seconds: u64 },
    Restart,
}

fn act() -> impl Strategy<Value = Act> {
    let events = prop::collection::vec((0..12_u64, 0..2_u64), 1..6);
    prop_oneof![
        8 => (0..3_u32, events, any::<bool>(), prop::bool::weighted(0.1))
            .prop_map(|(partition, events, whole, fails)| Act::Append { partition, events, whole, fails }),
        1 => (0..3_u32, 0..20_u64).prop_map(|(partition, keep)| Act::Cut { partition, keep }),
        1 => (0..3_u32, 0..20_u64).prop_map(|(partition, to)| Act::Trim { partition, to }),
        1 => (1..40_u64).prop_map(|seconds| Act::Wait { seconds }),
        1 => Just(Act::Restart),
    ]
}

/// What stands in a log: id, content and time of its append.
type Log = Vec<(u64, u64, i64)>;

/// The twin: logs, searched through whenever something comes.
struct Twin {
    logs: Vec<(Log, u64)>,
    window_ms: i64,
}

impl Twin {
    fn first(&self, id: u64, now_ms: i64) -> Option<(u32, u64, u64)> {
        let of_log = |(partition, (log, start)): (u32, &(Log, u64))| {
            let found = (0..).zip(log).filter(|(at, (other, ..))| at >= start && *other == id);
            found.map(move |(at, (_, content, time))| (*time, partition, at, *content)).collect::<Vec<_>>()
        };
        let all = (0..).zip(&self.logs).flat_map(of_log).filter(|(time, ..)| now_ms - time <= self.window_ms);
        all.min().map(|(_, partition, at, content)| (partition, at, content))
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    // Whole seconds and a window between two of them: what the index rounds does not show.
    #[test]
    fn te_2_pr_8_no_two_records_within_a_window_have_one_id(acts in prop::collection::vec(act(), 1..60)) {
        let settings = settings(DedupWindow::Ms(30_500), 1_000);
        let (mut index, clock) = index(3, &settings);
        let mut twin = Twin { logs: vec![(Log::new(), 0); 3], window_ms: 31_999 };
        for act in acts {
            let now = clock.wall_ms();
            match act {
                Act::Append { partition, events, whole, fails } => {
                    let base = twin.logs[partition as usize].0.len() as u64;
                    let tried = batch(&events, whole);
                    let reserved = reserve(&index, &clock, partition, base, &tried);
                    let mut expected = Vec::new();
                    let mut seen: HashMap<u64, (u32, u64)> = HashMap::new();
                    let mut conflict = false;
                    for (at, (id, content)) in (0..).zip(&events) {
                        let other = match (twin.first(*id, now), seen.get(id)) {
                            (Some((.., known)), _) => Some(known),
                            (None, seen) => seen.map(|(_, known)| *known),
                        };
                        match other {
                            Some(known) => {
                                conflict |= known != *content;
                                expected.push((at, *id, *content, known != *content));
                            }
                            None => { seen.insert(*id, (at, *content)); }
                        }
                    }
                    for ((at, id, _, differs), (found_at, found)) in
                        expected.iter().zip(tried.found().unwrap_or_default())
                    {
                        prop_assert_eq!(at, found_at);
                        match (twin.first(*id, now), found) {
                            (Some((partition, at, _)), Found::Repeat(place) | Found::Conflict(place)) => {
                                prop_assert_eq!((place.partition.0, place.offset.get()), (partition, at));
                                prop_assert_eq!(matches!(found, Found::Conflict(_)), *differs);
                            }
                            (None, Found::SameAs(first) | Found::ConflictInBatch(first)) => {
                                prop_assert_eq!(*first, seen[id].0);
                                prop_assert_eq!(matches!(found, Found::ConflictInBatch(_)), *differs);
                            }
                            other => prop_assert!(false, "{:?}", other),
                        }
                    }
                    prop_assert_eq!(expected.len(), tried.found().unwrap_or_default().len());
                    let nothing = conflict || (whole && !expected.is_empty()) || expected.len() == events.len();
                    let want = match (expected.is_empty(), nothing) {
                        (true, _) => Reserved::All,
                        (false, true) => Reserved::Nothing,
                        (false, false) => Reserved::LeftOut,
                    };
                    prop_assert_eq!(reserved, want);
                    if fails {
                        index.truncate(PartitionId(partition), offset(base));
                    } else if want != Reserved::Nothing {
                        let left_out = |at: u32| expected.iter().any(|(out, ..)| *out == at);
                        let written = (0..).zip(&events).filter(|(at, _)| !left_out(*at));
                        twin.logs[partition as usize].0.extend(written.map(|(_, (id, content))| (*id, *content, now)));
                    }
                }
                Act::Cut { partition, keep } => {
                    let (log, start) = &mut twin.logs[partition as usize];
                    log.truncate((keep.max(*start)) as usize);
                    index.truncate(PartitionId(partition), offset(log.len() as u64));
                }
                Act::Trim { partition, to } => {
                    let (log, start) = &mut twin.logs[partition as usize];
                    *start = (*start).max(to.min(log.len() as u64));
                    index.raise_start(PartitionId(partition), offset(*start));
                }
                Act::Wait { seconds } => clock.advance(Duration::from_secs(seconds)),
                Act::Restart => {
                    // The index as a start finds it in the logs.
                    index = EventIndex::new(3, &settings, Arc::clone(&clock) as _);
                    for (partition, (log, start)) in (0..).zip(&twin.logs) {
                        let stored = |(at, (id, content, time)): (u64, &(u64, u64, i64))| StoredEvent {
                            id: event_key(b"", &id.to_le_bytes()),
                            content: content_hash(None, Some(&content.to_le_bytes())),
                            offset: offset(at),
                            epoch: EPOCH,
                            append_time_ms: *time,
                        };
                        let all = (0..).zip(log).map(stored).filter(|e| e.offset.get() >= *start);
                        index.adopt(PartitionId(partition), all.collect(), offset(*start));
                    }
                }
            }
        }
    }
}
