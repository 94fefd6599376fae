//! The start of a machine: what comes before it, and what it does with what a stop left open.

use super::super::entry::{EntryTable, LaneState};
use super::super::state::GroupState;
use super::super::test_support::{Rig, at, member, source};
use super::super::{GroupConfig, Mode};
use super::*;
use crate::group::event::Event;
use crate::model::{GroupId, PartitionEpoch};

fn s() -> Source {
    source(1, 0)
}

/// A rig in which the intents of offsets 0 and 2, of one key, are open; offset 3 of that key has not been read.
fn rig() -> Rig {
    let mut rig = Rig::with(GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]), 1);
    rig.join(1, 1_000);
    rig.append(s(), &[1, 2, 1]);
    rig.kill_record(1, s(), 0);
    rig.reading = false;
    rig.append(s(), &[1]);
    rig
}

/// The machine of a broker that has replayed the journals and not started its groups yet.
fn replayed(rig: &Rig, now: Now) -> Machine {
    let mut state = GroupState::create(GroupId(7), &rig.journal[0]).expect("a first record");
    rig.journal[1..].iter().for_each(|record| state.replay(record).expect("the journal replays"));
    let mut entries = EntryTable::default();
    rig.entry_journal.iter().for_each(|record| entries.replay(record).expect("the journal replays"));
    Machine::new(state, entries, now)
}

fn later(rig: &Rig, by_ms: u64) -> Now {
    Now { monotonic_ms: 50 + by_ms, wall_ms: rig.now.wall_ms + by_ms as i64 }
}

/// What the coordinator tells a group before it starts it.
fn comparison() -> [Event; 3] {
    let epoch = PartitionEpoch::new(1).expect("a small epoch");
    [Event::Cut { source: s(), at: None, epoch }, Event::DlqEnd { source: s(), end: at(0) }, Event::Tick]
}

#[test]
fn ak_12_nothing_is_read_before_the_state_was_compared_and_the_machine_started() {
    let rig = rig();
    let mut machine = replayed(&rig, later(&rig, 0));
    for event in comparison() {
        let what = format!("{event:?}");
        let effects = machine.handle(event, later(&rig, 1));
        assert_eq!((effects.fetches, effects.moves), (vec![], vec![]), "{what}");
    }
    let effects = machine.start(later(&rig, 2));
    assert_eq!(effects.moves, [(s(), 1), (s(), 2)], "all open intents, before any later one (rule G3)");
    assert_eq!(effects.fetches.iter().map(|fetch| (fetch.source, fetch.from)).collect::<Vec<_>>(), [(s(), at(0))]);
}

#[test]
fn dl_6_open_intents_hold_their_lane_from_the_first_event_after_a_replay_on() {
    let rig = rig();
    let machine = replayed(&rig, later(&rig, 0));
    let lane = rig.lane(s(), 1);
    assert_eq!(machine.lane_now(s(), lane), LaneState::Dead);
    assert_eq!(machine.head_now(s(), lane).map(|head| head.offset), Some(at(0)));
    assert_eq!((machine.dead_lanes(), machine.has_dead(s())), (1, true));
}

#[test]
fn dl_15_after_a_restart_a_record_with_an_intent_gets_no_second_one_and_later_ones_are_parked() {
    let mut rig = rig().restart(1_000);
    rig.join(1, 1_000);
    assert_eq!(rig.both(1), (vec![1], vec![]));
    rig.settle_moves();
    let intended = rig.journal.iter().filter_map(|record| match record {
        GroupRecord::Intended { intent, .. } => Some(intent.key.offset.get()),
        _ => None,
    });
    assert_eq!(intended.collect::<Vec<_>>(), [0, 2, 3]);
}

#[test]
fn gm_11_session_timeouts_run_from_the_start_however_long_the_comparison_takes() {
    let rig = rig();
    let timeout_ms = rig.machine.state().config.session_timeout_ms;
    let mut machine = replayed(&rig, later(&rig, 0));
    for event in comparison() {
        machine.handle(event, later(&rig, 3 * timeout_ms));
    }
    assert!(machine.state().members.contains_key(&member(1)), "nobody could come back yet");
    machine.start(later(&rig, 4 * timeout_ms));
    machine.handle(Event::Tick, later(&rig, 5 * timeout_ms - 1));
    assert!(machine.state().members.contains_key(&member(1)));
    machine.handle(Event::Tick, later(&rig, 5 * timeout_ms));
    assert!(!machine.state().members.contains_key(&member(1)));
}
