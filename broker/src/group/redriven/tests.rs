//! Deliveries from entries, through a whole machine.

use super::super::effect::{AckStatus, Frame, Notice, Refusal};
use super::super::entry::{DeadReason, EntryKind, LaneState};
use super::super::event::{Admin, InWork, NackKind, Verb};
use super::super::letters_support::{act, entry_key};
use super::super::record::ErrorInfo;
use super::super::retry::Backoff;
use super::super::test_support::{Rig, at, member, source};
use super::super::{GroupConfig, Mode};
use super::*;

fn s() -> Source {
    source(1, 0)
}

fn config() -> GroupConfig {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.retry.backoff = Backoff::List { delays_ms: vec![1_000] };
    config.retry.jitter_percent = 0;
    config
}

/// Key 1 has offsets 0, 2, 3, dead and parked; key 2 offset 1.
fn dead_lane(config: GroupConfig) -> Rig {
    let mut rig = Rig::with(config, 1);
    rig.join(1, 1_000);
    rig.append(s(), &[1, 2, 1, 1]);
    rig.bury(1, s(), 0);
    assert_eq!(rig.ack(1, s(), &[1]), [AckStatus::Ok]);
    rig.taken(1);
    rig.notices.clear();
    rig
}

fn entries(rig: &mut Rig) -> Vec<u64> {
    rig.both(1).1
}

#[test]
fn rd_3_rd_4_a_lane_is_delivered_from_its_head_in_order_one_at_a_time_with_attempts_anew() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    let deliveries = rig.deliveries(1);
    assert_eq!(deliveries.len(), 1);
    let entry = deliveries[0].more.as_ref().unwrap().entry.clone().unwrap();
    assert_eq!((deliveries[0].offset, deliveries[0].attempt), (at(0), 1));
    assert_eq!((entry.key, entry.cycle, entry.job, entry.version), (entry_key(s(), 0), 1, Some(5), 0));
    for (done, next) in [(0, vec![2]), (2, vec![3]), (3, vec![])] {
        assert_eq!(rig.ack_entry(1, s(), &[done]), [AckStatus::Ok]);
        assert_eq!(entries(&mut rig), next);
    }
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Resolved { version: 0 }));
    assert!(rig.entry(s(), 0).act.actor.contains("client-1"));
}

#[test]
fn rd_3_without_a_job_nothing_of_a_dead_lane_is_delivered() {
    let mut rig = dead_lane(config());
    rig.pass_alive(100_000, &[1]);
    assert_eq!(rig.both(1), (vec![], vec![]));
}

#[test]
fn rd_5_new_records_go_to_the_end_of_the_list_and_the_last_close_makes_the_lane_live() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.append(s(), &[1]);
    rig.settle_moves();
    for offset in [0, 2, 3] {
        assert_eq!(rig.ack_entry(1, s(), &[offset]), [AckStatus::Ok]);
    }
    assert_eq!(rig.lane_state(s(), 1), LaneState::Dead, "the record that came meanwhile is its head now");
    rig.taken(1);
    rig.redrive(6, s(), &[4]).unwrap();
    assert_eq!(entries(&mut rig), [4]);
    assert!(!rig.notices.iter().any(|notice| matches!(notice, Notice::LaneLive)));
    rig.ack_entry(1, s(), &[4]);
    assert!(rig.notices.iter().any(|notice| matches!(notice, Notice::LaneLive)));
    assert_eq!(rig.lane_state(s(), 1), LaneState::Live);
    rig.append(s(), &[1]);
    assert_eq!(rig.both(1), (vec![5], vec![]), "the next one comes from the source");
}

#[test]
fn rd_5_an_intent_of_the_lane_keeps_it_from_becoming_live() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.append(s(), &[1]);
    for offset in [0, 2, 3] {
        rig.ack_entry(1, s(), &[offset]);
    }
    assert_eq!(rig.lane_state(s(), 1), LaneState::Dead, "its copy is on its way");
    assert_eq!(rig.machine.dead_lanes(), 1);
    rig.append(s(), &[1]);
    rig.settle_moves();
    assert_eq!(rig.both(1).0, Vec::<u64>::new());
    let lane = rig.lane(s(), 1);
    let open: Vec<u64> = rig.machine.entries().open_of(s(), lane).map(|key| key.offset.get()).collect();
    assert_eq!(open, [4, 5]);
}

#[test]
fn dl_7_a_lane_is_live_when_all_its_entries_are_closed_in_whatever_way() {
    let mut rig = dead_lane(config());
    rig.close(s(), &[0, 3], EntryState::Discarded).unwrap();
    assert_eq!(rig.lane_state(s(), 1), LaneState::Dead);
    rig.close(s(), &[2], EntryState::Expired).unwrap();
    assert_eq!((rig.lane_state(s(), 1), rig.machine.dead_lanes()), (LaneState::Live, 0));
    let told = rig.taken(1).into_iter().any(|frame| {
        matches!(frame, Frame::Gap { reason: super::super::record::GapReason::DlqExpired, stops: false, .. })
    });
    assert!(told, "an expired entry is told as a gap");
}

#[test]
fn rd_7_a_redriven_entry_that_fails_again_is_open_at_the_head_and_its_lane_leaves_the_job() {
    let mut config = config();
    config.retry.max_attempts = 2;
    let mut rig = dead_lane(config);
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    assert_eq!(rig.nack_entry(1, s(), &[0], NackKind::Retry), [AckStatus::Ok]);
    rig.taken(1);
    rig.pass_alive(900, &[1]);
    assert_eq!(entries(&mut rig), Vec::<u64>::new(), "it waits as any other");
    rig.pass_alive(200, &[1]);
    let again = rig.deliveries(1);
    assert_eq!((again[0].offset, again[0].attempt), (at(0), 2));
    rig.nack_entry(1, s(), &[0], NackKind::Retry);
    let entry = rig.entry(s(), 0);
    assert_eq!((entry.state, entry.job, entry.kind, entry.attempts), (EntryState::Open, None, EntryKind::Failed, 2));
    assert_eq!((entry.cycle, entry.reason), (1, DeadReason::Attempts));
    assert!(rig.notices.iter().any(|notice| matches!(notice, Notice::RedriveFailed(key) if *key == entry_key(s(), 0))));
    assert_eq!(rig.machine.entries().redriving().count(), 0);
    assert_eq!((entries(&mut rig), rig.leased(1)), (vec![], 0));
}

#[test]
fn rt_6_a_second_attempt_is_durable_before_it_is_delivered() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.nack_entry(1, s(), &[0], NackKind::Retry);
    rig.taken(1);
    rig.pass_alive(1_500, &[1]);
    let frames = rig.frames.remove(&member(1)).unwrap();
    let (_, after) = frames.iter().find(|(frame, _)| matches!(frame, Frame::Deliver(_))).unwrap();
    assert_eq!(*after, After::Entries);
    assert_eq!(rig.entry(s(), 0).attempts, 2);
}

#[test]
fn ak_4_an_ack_again_is_settled_already_and_one_of_a_stranger_is_not_leased() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    assert_eq!(rig.ack_entry(1, s(), &[0]), [AckStatus::Ok]);
    assert_eq!(rig.ack_entry(1, s(), &[0]), [AckStatus::AlreadySettled]);
    assert_eq!(rig.ack_entry(1, s(), &[3]), [AckStatus::NotLeased], "not the head");
    assert_eq!(rig.ack_entry(1, s(), &[99]), [AckStatus::NotLeased], "no such entry");
    let mut targets = rig.entry_targets(1, s(), &[2]);
    targets.epoch = crate::model::AssignmentEpoch(0);
    rig.verb(1, Verb::Ack { request: 1, targets, versions: vec![] });
    let fenced = rig
        .taken(1)
        .into_iter()
        .any(|frame| matches!(&frame, Frame::AckResults { entries, .. } if entries[0].1 == AckStatus::Fenced));
    assert!(fenced);
}

#[test]
fn ak_5_a_lease_of_an_entry_runs_out_as_a_failure_and_can_be_extended() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.pass_alive(20_000, &[1]);
    let targets = rig.entry_targets(1, s(), &[0]);
    rig.verb(1, Verb::Extend { request: 3, targets });
    rig.pass_alive(20_000, &[1]);
    assert!(rig.machine.entry_is_leased(&entry_key(s(), 0)));
    rig.pass_alive(11_000, &[1]);
    assert!(!rig.machine.entry_is_leased(&entry_key(s(), 0)) || rig.entry(s(), 0).attempts == 2);
    assert_eq!(rig.entry(s(), 0).class.as_deref(), Some("LEASE_EXPIRED"));
}

#[test]
fn rt_5_a_released_entry_has_no_strike_and_comes_again_at_once() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.taken(1);
    assert_eq!(rig.nack_entry(1, s(), &[0], NackKind::Release), [AckStatus::Ok]);
    let again = rig.deliveries(1);
    assert_eq!((again[0].offset, again[0].attempt), (at(0), 1));
}

#[test]
fn ak_1_a_skipped_entry_is_discarded_with_its_reason() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.taken(1);
    assert_eq!(rig.nack_entry(1, s(), &[0], NackKind::Skip), [AckStatus::Ok]);
    let entry = rig.entry(s(), 0);
    assert_eq!((entry.state, entry.act.note.as_str()), (EntryState::Discarded, "seen"));
    assert_eq!(entries(&mut rig), [2]);
}

#[test]
fn fc_2_entries_take_credit_and_give_it_back() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 1);
    rig.append(s(), &[1, 2]);
    rig.bury(1, s(), 0);
    rig.bury(1, s(), 1);
    rig.redrive(5, s(), &[0, 1]).unwrap();
    assert_eq!(rig.leased(1), 1);
    let first = entries(&mut rig);
    assert_eq!(first.len(), 1);
    rig.ack_entry(1, s(), &first);
    assert_eq!((entries(&mut rig).len(), rig.leased(1)), (1, 1));
}

#[test]
fn gm_12_an_entry_of_a_lost_member_comes_to_another_with_a_strike_if_it_was_started() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    let targets = rig.entry_targets(1, s(), &[0]);
    rig.verb(1, Verb::Started { targets });
    rig.pass(11_000);
    rig.join(2, 100);
    rig.pass_alive(3_000, &[2]);
    let again = rig.deliveries(2);
    assert_eq!((again[0].offset, again[0].attempt), (at(0), 2));
    assert_eq!(rig.entry(s(), 0).class.as_deref(), Some("CONSUMER_CRASH"));
}

#[test]
fn gm_10_an_entry_of_a_member_that_leaves_has_no_strike() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.verb(1, Verb::Leave);
    rig.join(2, 100);
    let again = rig.deliveries(2);
    assert_eq!((again[0].offset, again[0].attempt), (at(0), 1));
}

#[test]
fn gm_8_a_member_that_comes_back_keeps_the_entries_that_it_names_and_gives_back_the_others() {
    for named in [true, false] {
        let mut rig = dead_lane(config());
        rig.redrive(5, s(), &[0, 2, 3]).unwrap();
        rig.taken(1);
        let epoch = rig.epochs[&member(1)];
        rig.event(super::super::event::Event::StreamEnded { member: member(1), epoch });
        let entries = if named { vec![entry_key(s(), 0)] } else { vec![] };
        let unit_epoch = rig.entry_targets(1, s(), &[]).epoch;
        let in_work = vec![InWork { source: s(), epoch: unit_epoch, runs: vec![], entries }];
        rig.join_as(1, 100, None, Some(in_work));
        let again = rig.deliveries(1);
        assert_eq!(again.len(), usize::from(!named), "what is named is not delivered again");
        assert_eq!(rig.leased(1), 1);
        assert_eq!(rig.ack_entry(1, s(), &[0]), [AckStatus::Ok]);
    }
}

#[test]
fn rd_1_after_a_restart_entries_of_a_known_job_go_on_and_those_of_none_are_open() {
    let mut rig = dead_lane(config());
    rig.append(s(), &[7]);
    rig.bury(1, s(), 4);
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.admin(Admin::Redrive { job: 6, entries: vec![entry_key(s(), 4)], act: act() }).unwrap();
    let mut rig = rig.restart(1_000);
    assert_eq!(rig.entry(s(), 4).job, None, "job 6 was never kept");
    assert_eq!(rig.entry(s(), 0).job, Some(5));
    rig.join(1, 100);
    assert_eq!(rig.both(1), (vec![], vec![0]));
}

#[test]
fn rd_1_an_ended_job_gives_its_entries_back_and_recalls_what_is_out() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.taken(1);
    rig.admin(Admin::EndRedrive { job: 5, act: act() }).unwrap();
    assert!(rig.taken(1).iter().any(|frame| matches!(frame, Frame::Recall { entries, .. } if entries.len() == 1)));
    assert_eq!(rig.leased(1), 0);
    assert_eq!(rig.machine.entries().redriving().count(), 0);
    assert_eq!(rig.ack_entry(1, s(), &[0]), [AckStatus::NotLeased]);
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Open));
}

#[test]
fn rd_6_a_redrive_delivers_the_newest_version_and_resolves_with_it() {
    let mut rig = dead_lane(config());
    for copy in [5_000, 5_001] {
        rig.admin(Admin::EntryEdited { entry: entry_key(s(), 0), copy: at(copy), act: act() }).unwrap();
    }
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    let entry = rig.deliveries(1)[0].more.as_ref().unwrap().entry.clone().unwrap();
    assert_eq!((entry.copy, entry.version), (at(5_001), 2));
    rig.ack_entry(1, s(), &[0]);
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Resolved { version: 2 }));
}

#[test]
fn rd_8_a_head_is_tried_anew_by_hand_or_skipped() {
    let mut rig = dead_lane(config());
    let lane = rig.lane(s(), 1);
    let head = |skip| Admin::Head { source: s(), lane, skip, act: act() };
    rig.admin(head(false)).unwrap();
    assert_eq!(entries(&mut rig), [0]);
    assert!(matches!(rig.admin(head(true)), Err(Refusal::JobConflict { .. })), "it is out");
    rig.ack_entry(1, s(), &[0]);
    assert_eq!(entries(&mut rig), Vec::<u64>::new(), "the head alone was asked for");
    rig.admin(head(true)).unwrap();
    assert_eq!(rig.entry_state(s(), 2), Some(EntryState::Discarded));
}

#[test]
fn ko_9_lanes_of_all_slots_have_their_turn_though_credit_is_short() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 1, 1, 2, 2, 2]);
    rig.bury(1, s(), 0);
    rig.bury(1, s(), 3);
    rig.verb(1, Verb::Leave);
    rig.join(2, 1);
    rig.redrive(5, s(), &[0, 1, 2, 3, 4, 5]).unwrap();
    let mut order = Vec::new();
    for _ in 0..6 {
        let next = rig.both(2).1;
        assert_eq!(next.len(), 1);
        rig.ack_entry(2, s(), &next);
        order.extend(next);
    }
    let lanes: Vec<bool> = order.iter().map(|offset| *offset < 3).collect();
    assert!(lanes.windows(2).all(|pair| pair[0] != pair[1]), "{order:?}");
}

#[test]
fn gm_5_an_entry_in_a_unit_that_came_back_before_it_was_handed_over_stays_with_its_member() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    assert_eq!(entries(&mut rig), [0]);
    let key_slot = rig.meta(s(), 1).slot;
    // Newcomers take the unit away; then they go, and it comes back before its time is over.
    let mut number = 2;
    while rig.machine.owner(s(), key_slot).is_some_and(|run| run.member == member(1)) {
        rig.join(number, 10);
        number += 1;
    }
    (2..number).for_each(|number| rig.verb(number, Verb::Leave));
    assert!(rig.machine.owner(s(), key_slot).is_some_and(|run| run.member == member(1)));
    rig.taken(1);
    for _ in 0..32 {
        let targets = rig.entry_targets(1, s(), &[0]);
        let epoch = rig.machine.leased_entries(Some(member(1)))[0].1.epoch;
        rig.verb(1, Verb::Extend { request: 3, targets: super::super::event::Targets { epoch, ..targets } });
        rig.pass_alive(1_000, &[1]);
    }
    assert!(entries(&mut rig).is_empty(), "it is not delivered a second time");
    assert!(rig.machine.entry_is_leased(&entry_key(s(), 0)));
}

#[test]
fn dl_15_a_redriven_entry_that_holds_no_lane_goes_once_its_place_was_passed_again() {
    let mut config = config();
    config.retry.after_dead = super::super::retry::AfterDead::Continue;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 1_000);
    rig.append(s(), &[1, 2]);
    rig.bury(1, s(), 0);
    rig.reading = false;
    rig.reset(s(), 0, false);
    rig.taken(1);
    rig.redrive(5, s(), &[0]).unwrap();
    assert!(entries(&mut rig).is_empty(), "its place is not passed yet");
    rig.reading = true;
    rig.read();
    assert_eq!(rig.both(1).1, [0]);
}

#[test]
fn dl_4_an_entry_without_a_lane_that_was_redriven_before_its_record_was_settled_goes_after_that() {
    let mut config = config();
    config.retry.after_dead = super::super::retry::AfterDead::Continue;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 1_000);
    rig.append(s(), &[1]);
    rig.kill_record(1, s(), 0);
    rig.copy_moves();
    rig.redrive(5, s(), &[0]).unwrap();
    assert!(entries(&mut rig).is_empty());
    rig.open_moves();
    assert_eq!(entries(&mut rig), [0]);
}

#[test]
fn f6_a_step_of_the_wall_clock_moves_no_entry_that_waits_and_after_a_restart_it_waits_its_own_delay_at_most() {
    for (hours, restart) in [(-240, false), (240, false), (-5, true), (-240, true)] {
        let mut rig = dead_lane(config());
        rig.redrive(5, s(), &[0, 2, 3]).unwrap();
        assert_eq!(entries(&mut rig), [0]);
        assert_eq!(rig.nack_entry(1, s(), &[0], NackKind::Retry), [AckStatus::Ok]);
        rig.now.wall_ms += hours * 3_600_000;
        if restart {
            rig = rig.restart(0);
            rig.pass(900);
            rig.join(2, 1_000);
            rig.pass_alive(99, &[2]);
            assert!(rig.both(2).1.is_empty(), "{hours} hours: too early");
            // Only what its first owner left undone keeps it now.
            rig.pass_alive(15_000, &[2]);
            assert_eq!(rig.both(2).1, [0], "{hours} hours");
            continue;
        }
        // Something else about the lane changes meanwhile.
        rig.append(s(), &[1]);
        rig.settle_moves();
        rig.pass_alive(999, &[1]);
        assert!(entries(&mut rig).is_empty(), "{hours} hours: too early");
        rig.pass_alive(1, &[1]);
        assert_eq!(entries(&mut rig), [0], "{hours} hours");
    }
}

#[test]
fn rd_7_a_redriven_entry_that_dies_again_keeps_message_and_stack_of_that_failure() {
    let mut rig = dead_lane(config());
    rig.redrive(5, s(), &[0, 2, 3]).unwrap();
    rig.taken(1);
    let error = ErrorInfo {
        class: "Teapot".into(),
        message: "no coffee".into(),
        stack: "at brew()".into(),
        ..ErrorInfo::default()
    };
    let targets = rig.entry_targets(1, s(), &[0]);
    let (kind, retry_after_ms, reason) = (NackKind::Dead, None, String::new());
    let error_sent = Some(error.clone());
    let nack = Verb::Nack { request: 1, targets, kind, retry_after_ms, whole_group: false, error: error_sent, reason };
    rig.verb(1, nack);
    let failure = rig.machine.entries().failure(&entry_key(s(), 0)).cloned().expect("it failed");
    assert_eq!((failure.error, failure.member), (error, Some(member(1))));
    assert_eq!(failure.time_ms, rig.now.wall_ms);
    let rig = rig.restart(1_000);
    assert_eq!(rig.machine.entries().failure(&entry_key(s(), 0)).unwrap().error.stack, "at brew()");
}

#[test]
fn of_3_an_entry_waits_until_what_an_undone_reset_brings_back_before_it_is_read_and_settled() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 1_000);
    rig.append(s(), &[1, 1, 2]);
    rig.reset(s(), 1, false);
    rig.taken(1);
    rig.bury(1, s(), 1);
    rig.redrive(5, s(), &[1]).unwrap();
    assert_eq!(entries(&mut rig), [1]);
    rig.admin(Admin::UndoReset { act: act() }).unwrap();
    assert_eq!(rig.both(1), (vec![0, 2], vec![]));
    assert_eq!(rig.ack(1, s(), &[0]), [AckStatus::Ok]);
    assert_eq!(entries(&mut rig), [1]);
    assert_eq!(rig.ack_entry(1, s(), &[1]), [AckStatus::Ok]);
    assert_eq!(rig.floor(s()), 2);
}

#[test]
fn of_3_an_entry_that_arrives_after_a_reset_was_undone_waits_for_what_that_brings_back_too() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 1_000);
    rig.append(s(), &[1, 1, 2]);
    rig.reset(s(), 1, false);
    rig.taken(1);
    rig.kill_record(1, s(), 1);
    // While it rests nothing is read.
    rig.admin(Admin::Pause { topic: None, until_ms: None, act: act() }).unwrap();
    rig.admin(Admin::UndoReset { act: act() }).unwrap();
    rig.settle_moves();
    rig.redrive(5, s(), &[1]).unwrap();
    rig.taken(1);
    rig.admin(Admin::Resume { topic: None, act: act() }).unwrap();
    assert_eq!(rig.both(1), (vec![0, 2], vec![]), "what is before it was not read yet");
    assert_eq!(rig.ack(1, s(), &[0]), [AckStatus::Ok]);
    assert_eq!(entries(&mut rig), [1]);
}
