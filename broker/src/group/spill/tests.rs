//! Bounds and spilled lanes, through a whole machine.

use super::super::effect::{AckStatus, Notice};
use super::super::entry::{EntryState, LaneState};
use super::super::event::NackKind;
use super::super::retry::Backoff;
use super::super::test_support::{Rig, source};
use super::super::{GroupConfig, Mode};
use super::*;

fn s() -> Source {
    source(1, 0)
}

fn config() -> GroupConfig {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.retry.backoff = Backoff::List { delays_ms: vec![60_000] };
    config.retry.jitter_percent = 0;
    config.max_lanes_blocked = 10;
    config.breaker.min_failed_keys = 1_000;
    config
}

fn rig(config: GroupConfig) -> Rig {
    let mut rig = Rig::with(config, 1);
    rig.join(1, 1_000);
    rig
}

/// So many keys fail, each once; key `k` has offset `k`, and one record more behind all.
fn failing(config: GroupConfig, keys: u64) -> Rig {
    let mut rig = rig(config);
    let all: Vec<u64> = (0..keys).chain(0..keys).collect();
    rig.append(s(), &all);
    let offsets: Vec<u64> = (0..keys).collect();
    rig.nack(1, s(), &offsets, NackKind::Retry);
    rig.taken(1);
    rig
}

fn spilled(rig: &Rig) -> Vec<u64> {
    let entries = rig.machine.entries().iter();
    entries.filter(|(_, entry)| entry.state == EntryState::Spilled).map(|(key, _)| key.offset.get()).collect()
}

#[test]
fn ak_7_at_80_percent_of_a_bound_there_is_a_warning() {
    let rig = failing(config(), 8);
    let near = |notice: &&Notice| matches!(notice, Notice::BoundNear { bound: "max_lanes_blocked", .. });
    assert_eq!(rig.notices.iter().filter(near).count(), 1);
    assert!(rig.moves.is_empty(), "nothing is spilled before the bound");
}

#[test]
fn ko_7_at_a_bound_lanes_are_spilled_until_below_80_percent_with_attempts_and_due_time_carried_over() {
    let mut rig = failing(config(), 10);
    assert_eq!(rig.machine.works[&s()].blocked(), 7, "below 80 % of 10");
    rig.settle_moves();
    assert_eq!(spilled(&rig).len(), 6, "three lanes of two records");
    let head = spilled(&rig)[0];
    let entry = rig.entry(s(), head);
    assert_eq!((entry.kind, entry.reason, entry.attempts), (EntryKind::Parked, DeadReason::Spill, 1));
    assert_eq!((entry.cycle, entry.due_ms), (0, rig.now.wall_ms + 60_000));
    assert!(rig.is_settled(s(), head) && rig.is_settled(s(), head + 10));
    assert_eq!(rig.lane_state(s(), head), LaneState::Spilled);
    assert_eq!(rig.machine.dead_lanes(), 3, "spilled ones count");
}

#[test]
fn ak_7_what_is_spilled_is_not_held_as_intents_instead() {
    let mut config = config();
    (config.max_lanes_blocked, config.max_held, config.breaker.min_failed_keys) = (10_000, 12_000, 10_000);
    let mut rig = Rig::with(config, 1);
    rig.join(1, 10_000);
    let keys = 6_000;
    rig.append(s(), &(0..keys).chain(0..keys).collect::<Vec<u64>>());
    let offsets: Vec<u64> = (0..keys).collect();
    rig.nack(1, s(), &offsets, NackKind::Retry);
    let held = |rig: &Rig| rig.machine.works[&s()].held();
    let first = rig.moves.len() as u64;
    assert!((UNDER_WAY..UNDER_WAY + 2).contains(&first), "{first} are on their way");
    assert!(held(&rig) >= 9_600, "not below 80 % yet");
    while !rig.moves.is_empty() {
        rig.settle_moves();
    }
    assert!((9_598..9_600).contains(&held(&rig)), "{} are held: just below 80 %", held(&rig));
    assert_eq!(spilled(&rig).len() as u64 + u64::from(held(&rig)), 2 * keys, "nothing is dropped");
}

#[test]
fn ko_7_a_spilled_lane_is_read_from_its_entries_until_empty_and_is_live_then() {
    let mut rig = failing(config(), 10);
    rig.settle_moves();
    let key = spilled(&rig)[0];
    rig.append(s(), &[key]);
    rig.settle_moves();
    assert_eq!(rig.entry_state(s(), 20), Some(EntryState::Spilled), "later records go to the end of its list");
    assert_eq!(rig.both(1), (vec![], vec![]));
    rig.pass_alive(61_000, &[1]);
    let deliveries = rig.deliveries(1);
    let head = deliveries.iter().find(|delivery| delivery.offset.get() == key).expect("its time has come");
    assert_eq!(head.attempt, 2, "attempts carry over");
    assert_eq!(head.more.as_ref().unwrap().entry.as_ref().unwrap().job, None);
    assert_eq!(rig.ack_entry(1, s(), &[key]), [AckStatus::Ok]);
    assert_eq!(rig.both(1).1, [key + 10]);
    rig.ack_entry(1, s(), &[key + 10]);
    assert_eq!(rig.both(1).1, [20]);
    rig.append(s(), &[key]);
    rig.settle_moves();
    rig.ack_entry(1, s(), &[20]);
    rig.ack_entry(1, s(), &[21]);
    assert_eq!(rig.lane_state(s(), key), LaneState::Live);
    rig.taken(1);
    rig.append(s(), &[key]);
    assert_eq!(rig.both(1), (vec![22], vec![]));
}

#[test]
fn ko_7_a_head_that_dies_where_it_was_spilled_becomes_failed_and_its_lane_dead() {
    let mut config = config();
    config.retry.max_attempts = 2;
    let mut rig = failing(config, 10);
    rig.settle_moves();
    let key = spilled(&rig)[0];
    rig.pass_alive(61_000, &[1]);
    assert_eq!(rig.nack_entry(1, s(), &[key], NackKind::Retry), [AckStatus::Ok]);
    let entry = rig.entry(s(), key);
    assert_eq!((entry.state, entry.kind, entry.reason), (EntryState::Open, EntryKind::Failed, DeadReason::Attempts));
    assert_eq!((entry.cycle, entry.attempts), (0, 2));
    assert_eq!(rig.lane_state(s(), key), LaneState::Dead);
    assert_eq!(rig.entry_state(s(), key + 10), Some(EntryState::Spilled));
    rig.taken(1);
    rig.pass_alive(100_000, &[1]);
    assert!(!rig.both(1).1.contains(&(key + 10)), "the rest waits behind it");
    rig.redrive(3, s(), &[key]).unwrap();
    rig.ack_entry(1, s(), &[key]);
    assert!(rig.both(1).1.contains(&(key + 10)), "and flows when it is done");
}

#[test]
fn ko_7_spilled_lanes_survive_a_restart_with_what_is_left_of_their_waits() {
    let mut rig = failing(config(), 10);
    rig.settle_moves();
    let key = spilled(&rig)[0];
    let mut rig = rig.restart(59_000);
    rig.join(1, 100);
    assert_eq!(rig.both(1).1, Vec::<u64>::new());
    rig.pass_alive(1_500, &[1]);
    assert!(rig.both(1).1.contains(&key));
}

#[test]
fn ko_7_a_crash_while_lanes_are_spilled_converges() {
    let mut rig = failing(config(), 10);
    rig.copy_moves();
    let mut rig = rig.restart(1_000);
    rig.join(1, 100);
    rig.settle_moves();
    let expected = spilled(&rig);
    assert_eq!(expected.len(), 6);
    assert!(expected.iter().all(|offset| rig.is_settled(s(), *offset)));
    assert!(rig.machine.state().partitions[&s()].intents.is_empty());
}

#[test]
fn ko_7_without_dead_letters_the_partition_reads_no_more_until_less_is_held() {
    let mut config = config();
    config.retry.on_exhausted = OnExhausted::Drop;
    let mut rig = failing(config, 10);
    assert!(rig.machine.is_paused_for(Some(s()), PauseReason::HeldLimit));
    assert!(rig.moves.is_empty());
    rig.append(s(), &[100]);
    rig.ack(1, s(), &[20]);
    rig.append(s(), &[101]);
    assert_eq!(rig.offsets(1), [20], "but for what had been asked for, nothing more is read");
    rig.pass_alive(61_000, &[1]);
    let offsets = rig.offsets(1);
    assert!(offsets.len() >= 10, "what is held is delivered, and so ends the pause: {offsets:?}");
    rig.ack(1, s(), &(0..10).collect::<Vec<_>>());
    assert!(!rig.machine.is_paused_for(Some(s()), PauseReason::HeldLimit));
}

#[test]
fn ko_7_a_stuck_key_with_many_records_is_spilled_first_and_others_finish() {
    let mut config = config();
    config.max_held = 100;
    let mut rig = rig(config);
    rig.append(s(), &[1]);
    rig.nack(1, s(), &[0], NackKind::Retry);
    for round in 0..30 {
        rig.append(s(), &[1, 1, 1, 1, 1, 50 + round]);
        rig.settle_moves();
        let offset = 6 * round + 6;
        assert_eq!(rig.ack(1, s(), &[offset]), [AckStatus::Ok], "round {round}");
    }
    assert_eq!(rig.lane_state(s(), 1), LaneState::Spilled);
    assert_eq!(rig.floor(s()), 181);
    assert_eq!(spilled(&rig).len(), 151);
}

#[test]
fn ko_7_too_many_bytes_ahead_of_the_floor_spill_the_lane_of_the_lowest_offset() {
    let mut config = config();
    config.max_scan_ahead_bytes = 1 << 20;
    let mut rig = rig(config);
    rig.append(s(), &[1, 1]);
    rig.nack(1, s(), &[0], NackKind::Retry);
    for round in 0..40_u64 {
        let mut meta = rig.meta(s(), 100 + round);
        meta.size_bytes = 100_000;
        rig.logs.get_mut(&s()).unwrap().push(meta);
        rig.read();
        rig.settle_moves();
        assert_eq!(rig.ack(1, s(), &[2 + round]), [AckStatus::Ok], "round {round}");
    }
    assert_eq!(spilled(&rig), [0, 1]);
    assert_eq!(rig.floor(s()), 42);
}

#[test]
fn ko_7_lanes_with_leases_are_not_spilled() {
    let mut config = config();
    config.max_scan_ahead_bytes = 1 << 20;
    let mut rig = rig(config);
    rig.append(s(), &[1, 1]);
    rig.taken(1);
    for round in 0..20_u64 {
        let mut meta = rig.meta(s(), 100 + round);
        meta.size_bytes = 100_000;
        rig.logs.get_mut(&s()).unwrap().push(meta);
        rig.read();
        rig.ack(1, s(), &[2 + round]);
    }
    assert_eq!(rig.lane_state(s(), 1), LaneState::Live);
    assert!(rig.moves.is_empty());
    assert_eq!(rig.ack(1, s(), &[0]), [AckStatus::Ok]);
}

#[test]
fn rt_1_a_spent_record_of_a_spilled_lane_dies_in_its_turn_and_is_not_delivered_once_more() {
    for restarts in [false, true] {
        let mut config = config();
        config.max_in_flight_per_key = 2;
        config.retry.max_attempts = 1;
        let mut rig = rig(config);
        // Two records of key 1; its second is spent, and the first waits: it was given back.
        rig.append(s(), &[1, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10]);
        assert_eq!(rig.nack(1, s(), &[1], NackKind::Retry), [AckStatus::Ok], "spent behind the first");
        rig.nack_with(1, s(), &[0], NackKind::Release, Some(60_000), "E");
        assert!(rig.moves.is_empty());
        // The bound is reached: its lane is spilled, as the longest.
        rig.nack_with(1, s(), &(2..11).collect::<Vec<_>>(), NackKind::Release, Some(60_000), "E");
        rig.settle_moves();
        assert_eq!(spilled(&rig)[..2], [0, 1]);
        rig.taken(1);
        if restarts {
            rig = rig.restart(1_000);
            rig.pass(11_000);
            rig.join(2, 1_000);
        }
        let me = if restarts { 2 } else { 1 };
        rig.pass_alive(61_000, &[me]);
        assert!(rig.both(me).1.contains(&0), "restarts: {restarts}");
        assert_eq!(rig.ack_entry(me, s(), &[0]), [AckStatus::Ok]);
        rig.settle_moves();
        rig.pass_alive(100_000, &[me]);
        assert!(!rig.both(me).1.contains(&1), "it is not delivered a second time, restarts: {restarts}");
        let entry = rig.entry(s(), 1);
        assert_eq!((entry.kind, entry.state, entry.attempts), (EntryKind::Failed, EntryState::Open, 1));
        assert_eq!((entry.reason, entry.class.as_deref()), (DeadReason::Attempts, Some("E")));
        assert_eq!(rig.lane_state(s(), 1), LaneState::Dead);
    }
}
