//! Rules of lost members and last tries: PI-1 to PI-4, RT-5, RT-6, G4.

use crate::group::effect::AckStatus;
use crate::group::entry::DeadReason;
use crate::group::event::{Event, NackKind, Verb};
use crate::group::record::GroupRecord;
use crate::group::test_support::{Rig, at, member, source};
use crate::group::view::BreakerMode;
use crate::group::{GroupConfig, Mode};
use crate::model::Source;

fn log() -> Source {
    source(1, 0)
}

/// The member's stream ends and it does not come back; `alive` ping meanwhile.
fn die(rig: &mut Rig, number: u8, alive: &[u8]) {
    let epoch = rig.epochs[&member(number)];
    rig.held.remove(&member(number));
    rig.event(Event::StreamEnded { member: member(number), epoch });
    rig.pass_alive(10_000, alive);
}

#[test]
fn pi_2_a_strike_goes_to_what_was_begun_and_if_nothing_is_known_to_all() {
    for hints in [true, false] {
        let mut rig = Rig::new(Mode::Keyed, 1);
        rig.join(1, 10);
        rig.append(log(), &[1, 2, 3]);
        rig.taken(1);
        if hints {
            rig.started(1, log(), &[1]);
        }
        die(&mut rig, 1, &[]);
        rig.join(2, 10);
        for _ in 0..3 {
            let held: Vec<u64> = rig.held[&member(2)].keys().map(|(_, offset)| offset.get()).collect();
            rig.ack(2, log(), &held);
        }
        let mut delivered: Vec<(u64, u32)> = rig.delivered(2).into_iter().flatten().collect();
        delivered.sort_unstable();
        let expected = if hints { [(0, 1), (1, 2), (2, 1)] } else { [(0, 2), (1, 2), (2, 2)] };
        assert_eq!(delivered, expected, "hints {hints}");
    }
}

#[test]
fn pi_3_what_may_have_killed_a_member_comes_in_halves_and_never_two_suspects_to_one_member() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 100);
    rig.append(log(), &(0..8).collect::<Vec<u64>>());
    assert_eq!(rig.offsets(1).len(), 8);
    die(&mut rig, 1, &[]);
    let mut expected = 4;
    for number in 2..=4 {
        rig.join(number, 100);
        let frames = rig.delivered(number);
        assert_eq!(frames.iter().flatten().count(), expected, "half of those before");
        rig.append(log(), &[100 + u64::from(number)]);
        assert_eq!(rig.offsets(number).len(), 1, "others flow");
        let fresh = rig.held[&member(number)].keys().map(|(_, offset)| offset.get()).max().expect("it holds some");
        rig.ack(number, log(), &[fresh]);
        die(&mut rig, number, &[]);
        expected = (expected / 2).max(1);
    }
    rig.join(9, 100);
    let first = rig.delivered(9);
    assert_eq!(first.iter().flatten().count(), 1, "a suspect alone");
    let (offset, _) = first[0][0];
    assert_eq!(rig.ack(9, log(), &[offset]), [AckStatus::Ok]);
    assert_eq!(rig.delivered(9).iter().flatten().count(), 1, "the next one follows");
}

#[test]
fn pi_4_the_last_try_is_delivered_alone_and_a_death_by_crashes_says_so() {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.retry.max_attempts = 2;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 10);
    rig.append(log(), &[1, 2]);
    rig.taken(1);
    die(&mut rig, 1, &[]);
    rig.append(log(), &[3, 4]);
    rig.join(2, 10);
    let frames = rig.delivered(2);
    let last: Vec<_> = frames.iter().filter(|frame| frame.iter().any(|(_, attempt)| *attempt == 2)).collect();
    assert!(!last.is_empty() && last.iter().all(|frame| frame.len() == 1), "{frames:?}");
    rig.started(2, log(), &[last[0][0].0]);
    die(&mut rig, 2, &[]);
    let intent = rig.journal.iter().find_map(|record| match record {
        GroupRecord::Intended { intent, .. } => Some(intent.clone()),
        _ => None,
    });
    let intent = intent.expect("it died");
    assert_eq!(intent.reason, DeadReason::ConsumerCrash);
    let error = intent.error.expect("with an error");
    assert_eq!(error.class, "CONSUMER_CRASH");
    assert!(error.message.contains(&member(2).to_string()));
}

#[test]
fn pi_4_the_last_try_after_nacks_comes_in_a_frame_of_its_own() {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.retry.max_attempts = 2;
    config.retry.jitter_percent = 0;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 10);
    rig.append(log(), &[1, 2, 3]);
    rig.nack(1, log(), &[0, 1, 2], NackKind::Retry);
    rig.taken(1);
    rig.pass_alive(1_000, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 2)], [(1, 2)], [(2, 2)]]);
}

#[test]
fn rt_1_after_the_last_try_a_record_goes_to_the_dead_letters() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    for attempt in 1..=6 {
        assert_eq!(rig.delivered(1), [[(0, attempt)]]);
        assert!(rig.moves.is_empty());
        rig.nack(1, log(), &[0], NackKind::Retry);
        for _ in 0..800 {
            rig.pass_alive(1_000, &[1]);
            if rig.leased(1) > 0 {
                break;
            }
        }
    }
    assert_eq!(rig.moves, [(log(), 1)]);
    assert!(rig.offsets(1).is_empty());
}

#[test]
fn g4_and_rt_6_a_delivery_that_a_crash_of_the_broker_lost_does_not_count() {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.retry.jitter_percent = 0;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    rig.taken(1);
    rig.pass_alive(1_000, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 2)]]);
    for _ in 0..3 {
        rig = rig.restart(10);
        rig.pass(10_000);
        rig.join(2, 10);
        assert_eq!(rig.delivered(2), [[(0, 2)]], "low by the one under way, never too high");
    }
    rig.nack(2, log(), &[0], NackKind::Retry);
    rig = rig.restart(10);
    rig.pass(20_000);
    rig.join(3, 10);
    assert_eq!(rig.delivered(3), [[(0, 3)]], "what was nacked counts");
}

#[test]
fn g4_a_resumed_delivery_keeps_its_count_across_a_restart() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    rig.taken(1);
    rig.pass_alive(1_300, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 2)]]);
    let (epochs, held, in_work) = (rig.epochs.clone(), rig.held.clone(), rig.in_work(1));
    let mut rig = rig.restart(10);
    (rig.epochs, rig.held) = (epochs, held);
    rig.join_as(1, 10, None, Some(in_work));
    rig.nack(1, log(), &[0], NackKind::Retry);
    assert_eq!(rig.machine.state().partitions[&log()].tried[&at(0)].attempts, 2);
}

#[test]
fn rt_10_after_a_restart_a_retry_keeps_its_time_and_a_clock_set_back_does_not_hold_it() {
    for (back_ms, waits_ms) in [(0, 29_000), (-10 * 86_400_000, 30_500), (-5 * 3_600_000, 30_500)] {
        let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
        config.retry.backoff = crate::group::retry::Backoff::List { delays_ms: vec![30_000] };
        config.retry.jitter_percent = 0;
        let mut rig = Rig::with(config, 1);
        rig.join(1, 10);
        rig.append(log(), &[1]);
        rig.nack(1, log(), &[0], NackKind::Retry);
        let mut rig = rig.restart(1_000 + back_ms);
        rig.pass(10_001);
        rig.join(2, 10);
        rig.pass_alive(waits_ms - 10_001 - 1_000, &[2]);
        assert!(rig.offsets(2).is_empty());
        rig.pass_alive(2_000, &[2]);
        assert_eq!(rig.delivered(2), [[(0, 2)]]);
    }
}

#[test]
fn dl_8_a_key_that_blocks_waits_for_somebody_even_across_a_restart() {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.retry.max_attempts = 1;
    config.retry.on_exhausted = crate::group::retry::OnExhausted::Block;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 10);
    rig.append(log(), &[1, 1, 2]);
    rig.taken(1);
    assert_eq!(rig.nack(1, log(), &[0], NackKind::Retry), [AckStatus::Ok]);
    rig.pass_alive(100_000, &[1]);
    assert!(rig.offsets(1).is_empty());
    let mut rig = rig.restart(10);
    rig.pass(10_001);
    rig.join(2, 10);
    rig.pass_alive(100_000, &[2]);
    assert!(!rig.offsets(2).contains(&0));
    assert_eq!(rig.floor(log()), 0);
}

#[test]
fn a_member_that_leaves_while_its_key_waits_leaves_the_wait() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    rig.verb(1, Verb::Leave);
    rig.join(2, 10);
    assert!(rig.offsets(2).is_empty());
    rig.pass_alive(1_300, &[2]);
    assert_eq!(rig.delivered(2), [[(0, 2)]]);
}

#[test]
fn g4_a_delivery_that_ended_with_a_strike_and_is_resumed_after_a_restart_is_the_same_try() {
    for (late_ms, tries) in [(0, 1), (60_000, 1)] {
        let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
        config.retry.jitter_percent = 0;
        let mut rig = Rig::with(config, 1);
        rig.join(1, 10);
        rig.append(log(), &[1]);
        rig.pass_alive(30_000, &[1]);
        assert_eq!(rig.machine.state().partitions[&log()].tried[&at(0)].attempts, 1, "its lease ran out");
        let (epochs, held, in_work) = (rig.epochs.clone(), rig.held.clone(), rig.in_work(1));
        let mut rig = rig.restart(late_ms);
        (rig.epochs, rig.held) = (epochs, held);
        rig.join_as(1, 10, None, Some(in_work));
        assert!(rig.delivered(1).is_empty(), "it goes on");
        rig.nack(1, log(), &[0], NackKind::Retry);
        let tried = rig.machine.state().partitions[&log()].tried[&at(0)].attempts;
        assert_eq!(tried, tries, "it was sent once, {late_ms} ms after");
    }
}

#[test]
fn rt_5_a_delivery_that_was_given_back_is_no_strike_for_who_resumes_it_after_a_restart() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    rig.pass_alive(1_300, &[1]);
    let (held, in_work) = (rig.held.clone(), rig.in_work(1));
    rig.nack(1, log(), &[0], NackKind::Release);
    assert_eq!(rig.machine.state().partitions[&log()].tried[&at(0)].attempts, 2, "it came again");
    let epoch = rig.epochs[&member(1)];
    rig.event(Event::StreamEnded { member: member(1), epoch });
    // It is back and has nothing, so that the delivery counts for nothing; then it finds it after all.
    rig.join_as(1, 0, None, Some(Vec::new()));
    assert_eq!(rig.machine.state().partitions[&log()].tried[&at(0)].attempts, 1);
    let epochs = rig.epochs.clone();
    let mut rig = rig.restart(10);
    (rig.epochs, rig.held) = (epochs, held);
    rig.join_as(1, 10, None, Some(in_work));
    rig.nack(1, log(), &[0], NackKind::Retry);
    assert_eq!(rig.machine.state().partitions[&log()].tried[&at(0)].attempts, 2);
}

#[test]
fn gm_12_and_cb_1_many_members_lost_at_once_are_one_change_and_hold_nothing_up() {
    const MEMBERS: u8 = 80;
    const DYING: u8 = 20;
    let logs = [source(1, 0), source(1, 1)];
    for hints in [true, false] {
        let mut rig = Rig::new(Mode::Keyed, 2);
        (1..=MEMBERS).for_each(|number| rig.join(number, 1_000));
        let keys: Vec<u64> = (0..400).map(|number| number % 200).collect();
        logs.iter().for_each(|log| rig.append(*log, &keys));
        for number in 1..=DYING {
            let held = held_by(&rig, number);
            held.iter().filter(|_| hints).for_each(|(log, offset)| rig.started(number, *log, &[*offset]));
            let epoch = rig.epochs[&member(number)];
            rig.event(Event::StreamEnded { member: member(number), epoch });
        }
        let before = rig.journal.len();
        let living: Vec<u8> = (DYING + 1..=MEMBERS).collect();
        rig.pass_alive(10_000, &living);
        let assigned = rig.journal[before..].iter().filter(|record| matches!(record, GroupRecord::Assigned { .. }));
        assert_eq!(assigned.count(), 1, "one new assignment for all (rule GM-4)");
        let slots: u32 = living.iter().map(|number| rig.slots(*number)).sum();
        assert_eq!(slots, 2 * 4_096, "every slot belongs to one that lives");
        assert_eq!(rig.machine.breaker_view().mode, BreakerMode::Closed, "hints {hints}");
        let mut rounds = 0;
        while logs.iter().any(|log| rig.floor(*log) < 400) {
            rounds += 1;
            assert!(rounds < 20, "all is settled without waiting for anything, hints {hints}");
            for number in &living {
                let held = held_by(&rig, *number);
                held.iter().for_each(|(log, offset)| drop(rig.ack(*number, *log, &[*offset])));
            }
        }
    }
}

/// What a member was delivered and has not settled.
fn held_by(rig: &Rig, number: u8) -> Vec<(Source, u64)> {
    let held = rig.held.get(&member(number)).into_iter().flatten();
    held.map(|((log, offset), _)| (*log, offset.get())).collect()
}
