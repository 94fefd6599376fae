//! Replay of group records: what each does to the durable state.

use super::*;
use crate::group::entry::{DeadReason, EntryKey, EntryKind};
use crate::group::record::{GapReason, SettledAs};
use crate::group::{GroupConfig, Mode};
use crate::model::{KeySlot, LaneKey, PartitionId};

fn source() -> Source {
    Source { topic: TopicUuid([3; 16]), partition: PartitionId(0) }
}

fn at(offset: u64) -> Offset {
    Offset::new(offset).unwrap()
}

fn epoch(number: u32) -> PartitionEpoch {
    PartitionEpoch::new(number).unwrap()
}

fn range(from: u64, to: u64) -> OffsetRange {
    OffsetRange { from: at(from), to: at(to) }
}

fn start(offset: u64) -> Start {
    Start { source: source(), offset: at(offset), epoch: epoch(0) }
}

fn state() -> GroupState {
    let config = Box::new(GroupConfig::new(Mode::Keyed, vec!["orders".into()]));
    let (name, notes) = (GroupName::parse("billing").unwrap(), GroupNotes::default());
    let (topics, starts) = (Vec::new(), Vec::new());
    let created = GroupRecord::Created { name, config, notes, created_ms: 5, topics, starts };
    let mut state = GroupState::create(GroupId(1), &created).unwrap();
    let topic = source().topic;
    let (name, dlq) = ("orders".to_owned(), "orders.billing.dlq".to_owned());
    let added = vec![GroupTopic { topic, name, partitions: 1, dlq, is_dlq: false }];
    state.replay(&GroupRecord::Topics { added, starts: vec![start(0)], removed: vec![] }).unwrap();
    state
}

fn partition(state: &GroupState) -> &PartitionState {
    &state.partitions[&source()]
}

fn settle(state: &mut GroupState, from: u64, to: u64) {
    let record = GroupRecord::Settled { source: source(), how: SettledAs::Acked, runs: vec![range(from, to)] };
    state.replay(&record).unwrap();
}

fn intend(state: &mut GroupState, number: u64, offset: u64) {
    let intent = Intent {
        key: EntryKey { source: source(), offset: at(offset), epoch: epoch(0) },
        lane: LaneKey(1),
        slot: KeySlot::new(1).unwrap(),
        kind: EntryKind::Failed,
        reason: DeadReason::Attempts,
        spilled: false,
        holds: true,
        source_lost: false,
        cleared: false,
        size_bytes: 1,
        cycle: 0,
        attempts: 6,
        due_ms: 0,
        delay_ms: 0,
        first_delivery_ms: 0,
        first_failure_ms: 0,
        last_failure_ms: 0,
        dead_ms: 0,
        error: None,
        member: None,
        client_version: String::new(),
        blocked_by: None,
        dlq_end: at(0),
        records: 1,
    };
    state.replay(&GroupRecord::Intended { number, intent: Box::new(intent) }).unwrap();
}

#[test]
fn dl_8_lanes_with_holes_are_bounded_and_those_of_the_oldest_records_go_first() {
    let mut state = state();
    let hole = |state: &mut GroupState, number: u64| {
        let lane = LaneKey(u128::from(number) << 64);
        state.replay(&GroupRecord::Hole { source: source(), lane, at: at(number) }).unwrap();
    };
    (0..holes::HOLES_KEPT as u64).for_each(|number| hole(&mut state, number));
    assert_eq!(partition(&state).holes.len(), holes::HOLES_KEPT);
    hole(&mut state, holes::HOLES_KEPT as u64);
    let kept = &partition(&state).holes;
    assert!(kept.len() <= holes::HOLES_KEPT && kept.len() >= holes::HOLES_KEPT / 8 * 7, "{}", kept.len());
    assert!(kept.values().all(|offset| *offset > at(holes::HOLES_KEPT as u64 / 8)));
    let cut = GroupRecord::Cut { source: source(), at: at(9_000), epoch: epoch(1), group_epoch: 9 };
    state.replay(&cut).unwrap();
    assert!(partition(&state).holes.values().all(|offset| *offset < at(9_000)));
}

fn reset(state: &mut GroupState, offset: u64, clear: bool) {
    let (floors, act) = (vec![start(offset)], Act::default());
    state.replay(&GroupRecord::Reset { floors, clear, epoch: state.epoch + 1, undo: false, act }).unwrap();
}

fn undo(state: &mut GroupState) {
    let floors = state.resets.back().unwrap().before.clone();
    let (clear, act) = (false, Act::default());
    state.replay(&GroupRecord::Reset { floors, clear, epoch: state.epoch + 1, undo: true, act }).unwrap();
}

#[test]
fn of_3_a_reset_sets_the_floor_and_forgets_what_was_settled_above_it() {
    let mut state = state();
    settle(&mut state, 0, 10);
    settle(&mut state, 15, 20);
    reset(&mut state, 3, false);
    assert_eq!((partition(&state).settled.floor(), partition(&state).settled.run_count()), (at(3), 0));
    assert_eq!(partition(&state).back_to, at(20), "what was seen before is known");
    assert_eq!(state.epoch, 2);
}

#[test]
fn of_3_an_undone_reset_back_keeps_what_was_settled_since() {
    let mut state = state();
    settle(&mut state, 0, 10);
    reset(&mut state, 3, false);
    settle(&mut state, 3, 5);
    undo(&mut state);
    assert_eq!(partition(&state).settled.floor(), at(10));
    assert!(state.resets.is_empty());
}

#[test]
fn of_3_an_undone_reset_forward_keeps_what_was_settled_since() {
    let mut state = state();
    settle(&mut state, 0, 10);
    reset(&mut state, 100, false);
    settle(&mut state, 100, 105);
    settle(&mut state, 110, 112);
    undo(&mut state);
    let settled = &partition(&state).settled;
    assert_eq!(settled.floor(), at(10));
    assert_eq!(settled.runs().collect::<Vec<_>>(), [range(100, 105), range(110, 112)]);
}

#[test]
fn of_3_ten_resets_are_kept() {
    let mut state = state();
    (0..12).for_each(|offset| reset(&mut state, offset, false));
    assert_eq!(state.resets.len(), 10);
    assert_eq!(state.resets.front().unwrap().before[0].offset, at(1));
}

#[test]
fn of_3_a_reset_that_clears_marks_the_intents_it_covers_and_no_later_ones() {
    let mut state = state();
    intend(&mut state, 1, 2);
    intend(&mut state, 2, 8);
    reset(&mut state, 5, true);
    intend(&mut state, 3, 9);
    let cleared: Vec<bool> = partition(&state).intents.values().map(|intent| intent.cleared).collect();
    assert_eq!(cleared, [false, true, false]);
    assert_eq!((partition(&state).clear_below, state.clearing.is_some()), (3, true));
    state.replay(&GroupRecord::Cleared).unwrap();
    assert!(state.clearing.is_none());
}

#[test]
fn ak_12_a_cut_drops_what_is_at_or_above_it_and_marks_intents() {
    let mut state = state();
    settle(&mut state, 0, 4);
    settle(&mut state, 6, 9);
    settle(&mut state, 12, 14);
    intend(&mut state, 1, 5);
    intend(&mut state, 2, 10);
    reset(&mut state, 20, false);
    undo(&mut state);
    let cut = GroupRecord::Cut { source: source(), at: at(8), epoch: epoch(1), group_epoch: 50 };
    state.replay(&cut).unwrap();
    let cut_to = partition(&state);
    assert_eq!(cut_to.settled.end(), at(4), "the undo forgot what was above the floor");
    assert_eq!((cut_to.epoch, state.epoch), (epoch(1), 50));
    let lost: Vec<bool> = cut_to.intents.values().map(|intent| intent.source_lost).collect();
    assert_eq!(lost, [false, true]);
    assert_eq!(cut_to.cuts, [(at(8), epoch(1))]);
}

#[test]
fn ak_12_a_cut_below_the_floor_lowers_it_and_what_a_reset_could_go_back_to() {
    let mut state = state();
    settle(&mut state, 0, 10);
    reset(&mut state, 2, false);
    settle(&mut state, 2, 9);
    let cut = GroupRecord::Cut { source: source(), at: at(5), epoch: epoch(1), group_epoch: 9 };
    state.replay(&cut).unwrap();
    assert_eq!(partition(&state).settled.floor(), at(5));
    assert_eq!(partition(&state).back_to, at(5));
    assert_eq!(state.resets[0].before[0].offset, at(5), "an undo never goes beyond the cut");
}

#[test]
fn ak_12_a_lower_cut_takes_the_place_of_higher_ones() {
    let mut state = state();
    for (offset, number) in [(50, 1), (80, 2), (60, 3)] {
        let cut = GroupRecord::Cut { source: source(), at: at(offset), epoch: epoch(number), group_epoch: 9 };
        state.replay(&cut).unwrap();
    }
    assert_eq!(partition(&state).cuts, [(at(50), epoch(1)), (at(60), epoch(3))]);
}

#[test]
fn dl_4_an_intent_is_open_until_it_arrives_and_settles_its_record_with_it() {
    let mut state = state();
    intend(&mut state, 1, 0);
    assert_eq!((partition(&state).next_intent, partition(&state).settled.floor()), (2, at(0)));
    let how = Some(SettledAs::Dead);
    state.replay(&GroupRecord::Arrived { source: source(), number: 1, how }).unwrap();
    assert!(partition(&state).intents.is_empty());
    assert_eq!(partition(&state).settled.floor(), at(1));
    state.replay(&GroupRecord::Arrived { source: source(), number: 1, how }).unwrap();
    assert_eq!(partition(&state).settled.floor(), at(1), "a second time changes nothing");
}

#[test]
fn dl_4_an_intent_that_is_lost_settles_nothing_by_itself() {
    let mut state = state();
    intend(&mut state, 1, 0);
    state.replay(&GroupRecord::Arrived { source: source(), number: 1, how: None }).unwrap();
    assert!(partition(&state).intents.is_empty());
    assert_eq!(partition(&state).settled.floor(), at(0));
}

#[test]
fn re_4_an_accepted_gap_settles_what_is_in_it() {
    let mut state = state();
    let record = GroupRecord::GapPassed { source: source(), range: range(0, 7), reason: GapReason::Retention };
    state.replay(&record).unwrap();
    assert_eq!(partition(&state).settled.floor(), at(7));
}

#[test]
fn of_8_what_is_late_for_a_topic_that_went_changes_nothing() {
    let mut state = state();
    let removed = vec![source().topic];
    state.replay(&GroupRecord::Topics { added: vec![], starts: vec![], removed }).unwrap();
    let before = state.clone();
    settle(&mut state, 0, 3);
    assert_eq!(state, before);
}

#[test]
fn a_state_is_the_same_after_a_snapshot() {
    let mut state = state();
    settle(&mut state, 0, 4);
    settle(&mut state, 6, 9);
    intend(&mut state, 1, 5);
    reset(&mut state, 2, true);
    let cut = GroupRecord::Cut { source: source(), at: at(8), epoch: epoch(1), group_epoch: 50 };
    state.replay(&cut).unwrap();
    let json = serde_json::to_vec(&state).unwrap();
    assert_eq!(serde_json::from_slice::<GroupState>(&json).unwrap(), state);
}
