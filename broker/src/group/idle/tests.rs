//! Rules of the breaker's part in deliveries and of idle members: CB-1 to CB-3, CB-5, FC-5.

use crate::group::effect::{AckStatus, Frame, Notice};
use crate::group::event::{NackKind, Verb};
use crate::group::test_support::{Rig, member, source};
use crate::group::{GroupConfig, Mode};
use crate::model::Source;

fn log() -> Source {
    source(1, 0)
}

/// A group whose breaker has just opened: 20 of 20 keys failed, 20 more records wait.
fn opened() -> Rig {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 20);
    rig.append(log(), &(0..40).collect::<Vec<u64>>());
    for offset in 0..20 {
        if rig.machine.breaker.is_open(rig.now.monotonic_ms) {
            break;
        }
        assert_eq!(rig.nack(1, log(), &[offset], NackKind::Retry), [AckStatus::Ok]);
    }
    assert!(rig.machine.breaker.is_open(rig.now.monotonic_ms));
    rig
}

fn back_all(rig: &mut Rig) {
    let held: Vec<u64> = rig.held.values().flatten().map(|((_, offset), _)| offset.get()).collect();
    rig.nack(1, log(), &held, NackKind::Release);
    rig.taken(1);
}

#[test]
fn cb_1_twenty_keys_that_fail_open_the_breaker_and_deliveries_stop() {
    let mut rig = opened();
    assert!(rig.notices.iter().any(|notice| matches!(notice, Notice::Breaker { open: true, .. })));
    back_all(&mut rig);
    rig.pass_alive(4_000, &[1]);
    assert!(rig.offsets(1).is_empty(), "retries that first failed in the window wait too (rule CB-2)");
}

#[test]
fn cb_2_a_probe_goes_out_every_5_s_one_at_a_time_and_its_failure_is_no_strike() {
    let mut rig = opened();
    back_all(&mut rig);
    rig.pass_alive(5_000, &[1]);
    let probe = rig.delivered(1);
    let [frame] = probe.as_slice() else { panic!("{probe:?}") };
    let [(offset, 1)] = frame.as_slice() else { panic!("a record that never failed: {probe:?}") };
    rig.pass_alive(5_000, &[1]);
    assert!(rig.offsets(1).is_empty(), "one probe at a time");
    rig.nack(1, log(), &[*offset], NackKind::Retry);
    let tried = rig.machine.state().partitions[&log()].tried.get(&crate::group::test_support::at(*offset)).cloned();
    assert_eq!(tried.map(|tried| tried.attempts), Some(0), "no strike while it is open");
    rig.pass_alive(9_000, &[1]);
    assert!(rig.offsets(1).is_empty(), "the next one waits twice as long");
    rig.pass_alive(1_500, &[1]);
    assert_eq!(rig.offsets(1).len(), 1);
}

#[test]
fn cb_3_five_good_probes_close_it_and_deliveries_rise_again() {
    let mut rig = opened();
    back_all(&mut rig);
    for _ in 0..5 {
        rig.pass_alive(5_000, &[1]);
        let probe = rig.offsets(1);
        assert_eq!(probe.len(), 1);
        rig.ack(1, log(), &probe);
    }
    assert!(rig.notices.iter().any(|notice| matches!(notice, Notice::Breaker { open: false, .. })));
    let out = rig.leased(1);
    assert!((1..=2).contains(&out), "a thirtieth of the credit, at least one: {out}");
    rig.pass_alive(15_000, &[1]);
    assert!((5..=14).contains(&rig.leased(1)), "half of it: {}", rig.leased(1));
    rig.pass_alive(16_000, &[1]);
    assert_eq!(rig.leased(1), 20, "all of it");
}

#[test]
fn cb_2_an_explicit_dead_goes_its_way_while_the_breaker_is_open() {
    let mut rig = opened();
    back_all(&mut rig);
    rig.pass_alive(5_000, &[1]);
    let probe = rig.offsets(1);
    rig.nack(1, log(), &probe, NackKind::Dead);
    assert_eq!(rig.moves.len(), 1);
}

#[test]
fn cb_2_a_lane_that_failed_before_the_window_keeps_its_schedule_while_the_breaker_is_open() {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.breaker.window_ms = 1_000;
    config.retry.backoff = crate::group::retry::Backoff::List { delays_ms: vec![8_000] };
    config.retry.jitter_percent = 0;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 100);
    rig.append(log(), &[1_000]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    rig.taken(1);
    rig.pass_alive(6_000, &[1]);
    rig.append(log(), &(0..20).collect::<Vec<u64>>());
    for offset in 1..=20 {
        rig.nack(1, log(), &[offset], NackKind::Retry);
    }
    assert!(rig.machine.breaker.is_open(rig.now.monotonic_ms));
    rig.taken(1);
    rig.pass_alive(2_000, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 2)]]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    let tried = &rig.machine.state().partitions[&log()].tried[&crate::group::test_support::at(0)];
    assert_eq!(tried.attempts, 2, "its strikes count");
}

#[test]
fn cb_5_a_consumer_that_knows_of_an_outage_stops_the_group_until_then() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 1);
    rig.append(log(), &[1, 2, 3]);
    assert_eq!(rig.offsets(1), [0]);
    let targets = rig.targets(1, log(), &[0]);
    rig.verb(
        1,
        Verb::Nack {
            request: 9,
            targets,
            kind: NackKind::Release,
            retry_after_ms: Some(20_000),
            whole_group: true,
            error: None,
            reason: String::new(),
        },
    );
    rig.taken(1);
    rig.pass_alive(19_000, &[1]);
    assert!(rig.offsets(1).is_empty());
    rig.pass_alive(2_000, &[1]);
    assert_eq!(rig.offsets(1).len(), 1, "a probe");
}

#[test]
fn fc_5_in_mode_unordered_an_idle_member_gets_an_even_share_of_what_was_not_begun() {
    let mut rig = Rig::new(Mode::Unordered, 1);
    rig.join(1, 1_000);
    rig.join(2, 1_000);
    let key = rig.key_of(1, log(), 0);
    rig.append(log(), &[key; 40]);
    assert_eq!(rig.offsets(1).len(), 40);
    rig.started(1, log(), &[0, 1]);
    rig.pass_alive(6_000, &[1, 2]);
    let shared = rig.delivered(2);
    assert_eq!(shared.iter().flatten().count(), 19, "half of the 38 that were not begun");
    assert!(shared.iter().flatten().all(|(_, attempt)| *attempt == 1), "no strike");
    let under = rig.units[&member(1)][0].2;
    let recalled: u64 = rig
        .taken(1)
        .iter()
        .map(|frame| match frame {
            Frame::Recall { epoch, runs, .. } if *epoch == under => {
                runs.iter().map(|run| run.to.distance_from(run.from)).sum()
            }
            _ => 0,
        })
        .sum();
    assert_eq!(recalled, 19);
    assert_eq!(rig.ack(1, log(), &[39]), [AckStatus::Recalled]);
    assert_eq!(rig.ack(2, log(), &[39]), [AckStatus::Ok]);
}

#[test]
fn fc_5_without_hints_nothing_is_recalled() {
    let mut rig = Rig::new(Mode::Unordered, 1);
    rig.join(1, 1_000);
    rig.join(2, 1_000);
    let key = rig.key_of(1, log(), 0);
    rig.append(log(), &[key; 40]);
    rig.pass_alive(6_000, &[1, 2]);
    assert!(rig.offsets(2).is_empty());
}

#[test]
fn fc_5_in_mode_keyed_an_idle_member_gets_what_of_its_own_keys_another_has_not_begun() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 1_000);
    rig.append(log(), &(0..40).collect::<Vec<u64>>());
    rig.started(1, log(), &[0]);
    rig.join(2, 1_000);
    rig.pass_alive(6_000, &[1, 2]);
    let moved = rig.offsets(2);
    assert!(moved.len() > 5 && !moved.contains(&0), "{moved:?}");
}

#[test]
fn cb_2_after_a_reset_that_takes_the_probe_away_another_one_goes_out() {
    let mut rig = opened();
    back_all(&mut rig);
    rig.pass_alive(5_000, &[1]);
    assert_eq!(rig.offsets(1).len(), 1);
    rig.held.clear();
    rig.machine.restart_source(log(), crate::group::test_support::at(0));
    rig.pass_alive(5_500, &[1]);
    assert_eq!(rig.offsets(1).len(), 1, "the breaker does not wait for what is gone");
}

#[test]
fn fc_5_nothing_is_recalled_from_who_cannot_be_told_or_while_the_group_is_paused() {
    for paused in [true, false] {
        let mut rig = Rig::new(Mode::Keyed, 1);
        rig.join_as(1, 1_000, Some("a"), None);
        rig.append(log(), &(0..40).collect::<Vec<u64>>());
        rig.started(1, log(), &[0]);
        rig.join(2, 1_000);
        let one = crate::group::test_support::member(1);
        let epoch = rig.epochs[&one];
        if paused {
            let act = crate::group::letters_support::act();
            rig.event(crate::group::event::Event::Admin(crate::group::event::Admin::Pause {
                topic: None,
                until_ms: None,
                act,
            }));
        } else {
            rig.event(crate::group::event::Event::StreamEnded { member: one, epoch });
        }
        rig.taken(1);
        rig.pass_alive(6_000, if paused { &[1, 2] } else { &[2] });
        assert!(rig.offsets(2).is_empty());
        assert!(!rig.taken(1).iter().any(|frame| matches!(frame, Frame::Recall { .. })));
        assert_eq!(rig.leased(1), 40, "paused {paused}");
    }
}

#[test]
fn cb_4_a_breaker_that_is_forced_open_shows_as_open_also_of_a_group_without_members_and_after_a_restart() {
    use crate::group::event::{Admin, Event};
    use crate::group::view::BreakerMode;
    let mut rig = Rig::new(Mode::Keyed, 1);
    let act = crate::group::letters_support::act();
    rig.event(Event::Admin(Admin::SetBreaker { forced: Some(true), act: act.clone() }));
    let shown = |rig: &Rig| (rig.machine.breaker_view().mode, rig.machine.breaker_view().forced);
    assert_eq!(shown(&rig), (BreakerMode::Open, Some(true)));
    rig.pass(60_000);
    assert_eq!(shown(&rig), (BreakerMode::Open, Some(true)));
    let mut rig = rig.restart(10);
    assert_eq!(shown(&rig), (BreakerMode::Open, Some(true)));
    rig.event(Event::Admin(Admin::SetBreaker { forced: None, act }));
    assert_eq!(shown(&rig), (BreakerMode::Closed, None));
}
