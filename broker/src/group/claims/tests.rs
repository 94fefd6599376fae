//! Records in work across a start of the broker, through a whole machine.

use super::super::effect::AckStatus;
use super::super::event::{Admin, Event, InWork, NackKind};
use super::super::letters_support::act;
use super::super::record::{GapReason, GroupRecord};
use super::super::test_support::{Rig, at, member, one, source};
use super::super::{GroupConfig, Mode};
use super::*;

fn log() -> Source {
    source(1, 0)
}

/// The broker started anew; nothing is read until [`read`]. Member 1 is back and says that it has these in work.
fn back(mut before: Rig, offsets: &[u64]) -> Rig {
    let (epochs, units, logs) = (before.epochs.clone(), before.units.clone(), std::mem::take(&mut before.logs));
    let mut rig = before.restart(100);
    rig.reading = false;
    (rig.epochs, rig.units, rig.logs) = (epochs, units, logs);
    let epoch = rig.units[&member(1)][0].2;
    for offset in offsets {
        rig.held.entry(member(1)).or_default().insert((log(), at(*offset)), (epoch, 1));
    }
    let runs = offsets.iter().map(|offset| one(*offset)).collect();
    let work = InWork { source: log(), epoch, runs, entries: Vec::new() };
    rig.join_as(1, 100, None, Some(vec![work]));
    let frames = rig.taken(1);
    let Frame::Joined { resumed: true, lost, .. } = &frames[0] else { panic!("{frames:?}") };
    assert!(lost.is_empty(), "nothing speaks against it yet");
    rig
}

fn rig(config: GroupConfig, keys: &[u64]) -> Rig {
    let mut rig = Rig::with(config, 1);
    rig.join(1, 100);
    rig.append(log(), keys);
    rig
}

fn config() -> GroupConfig {
    GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()])
}

fn read(rig: &mut Rig) {
    rig.reading = true;
    rig.read();
}

/// Statuses of the answers that a member got since frames were taken last.
fn told(rig: &mut Rig) -> Vec<AckStatus> {
    let frames = rig.taken(1).into_iter();
    let results = frames.filter_map(|frame| match frame {
        Frame::AckResults { results, .. } => Some(results),
        _ => None,
    });
    results
        .flatten()
        .flat_map(|(run, status)| std::iter::repeat_n(status, run.to.distance_from(run.from) as usize))
        .collect()
}

#[test]
fn ko_8_an_ack_of_what_is_behind_an_unsettled_record_of_its_key_is_refused_once_that_is_known() {
    // The member was told that 0 is done and got 2 of the same key, then the journal lost the end of that.
    let mut rig = back(rig(config(), &[1, 2, 1]), &[1, 2]);
    assert!(rig.ack(1, log(), &[2]).is_empty(), "whose key it is of is not known yet");
    assert!(rig.ack(1, log(), &[1]).is_empty());
    read(&mut rig);
    let recalled = |frame: &Frame| matches!(frame, Frame::Recall { runs, .. } if runs == &[one(2)]);
    assert!(rig.frames[&member(1)].iter().any(|(frame, _)| recalled(frame)));
    assert_eq!(told(&mut rig), [AckStatus::Recalled, AckStatus::Ok]);
    assert!(!rig.is_settled(log(), 2) && rig.is_settled(log(), 1));
    assert_eq!(rig.ack(1, log(), &[0]), [AckStatus::Ok]);
    assert_eq!(rig.offsets(1), [2], "in order of its key");
}

#[test]
fn ak_4_what_is_named_twice_is_settled_once() {
    let mut rig = back(rig(config(), &[1]), &[0]);
    let mut targets = rig.targets(1, log(), &[0]);
    targets.runs.push(one(0));
    assert!(rig.ack_targets(1, targets.clone()).is_empty());
    assert!(rig.ack_targets(1, targets).is_empty());
    read(&mut rig);
    // What one verb names twice is leased no more the second time; a second verb learns that it was settled.
    let again = AckStatus::AlreadySettled;
    assert_eq!(told(&mut rig), [AckStatus::Ok, AckStatus::NotLeased, again, again]);
    let settled = rig.journal.iter().filter(|record| matches!(record, GroupRecord::Settled { .. })).count();
    assert_eq!(settled, 1);
}

#[test]
fn gm_8_nacks_hints_and_extensions_of_what_was_not_read_count_once_it_is() {
    let mut rig = back(rig(config(), &[1, 2, 3]), &[0, 1, 2]);
    rig.started(1, log(), &[1]);
    assert!(rig.nack(1, log(), &[0], NackKind::Retry).is_empty());
    let targets = rig.targets(1, log(), &[1]);
    rig.verb(1, Verb::Extend { request: 40, targets });
    assert!(told(&mut rig).is_empty());
    read(&mut rig);
    assert_eq!(told(&mut rig), [AckStatus::Ok, AckStatus::Ok]);
    assert_eq!(rig.machine.state().partitions[&log()].tried[&at(0)].attempts, 1, "the try that failed");
    rig.verb(1, Verb::Leave);
    rig.join(2, 100);
    let again: Vec<(u64, u32)> = rig.delivered(2).into_iter().flatten().collect();
    assert_eq!(again, [(1, 1), (2, 1)], "0 waits for its next try");
}

#[test]
fn gm_8_what_is_in_work_is_read_although_the_group_is_paused_and_no_more_than_that_is_delivered() {
    let mut before = rig(config(), &[1, 2, 1]);
    before.admin(Admin::Pause { topic: None, until_ms: None, act: act() }).unwrap();
    let mut rig = back(before, &[0]);
    assert!(rig.ack(1, log(), &[0]).is_empty());
    read(&mut rig);
    let frames = rig.taken(1);
    assert!(frames.iter().any(|frame| matches!(frame, Frame::AckResults { .. })), "{frames:?}");
    assert!(!frames.iter().any(|frame| matches!(frame, Frame::Deliver(_))), "{frames:?}");
    assert!(rig.is_settled(log(), 0));
}

#[test]
fn re_4_what_is_in_work_behind_a_gap_that_waits_is_recalled_so_that_no_verb_waits_for_an_operator() {
    let mut rig = back(rig(config(), &[1, 2, 3]), &[2]);
    assert!(rig.ack(1, log(), &[2]).is_empty());
    let range = OffsetRange { from: at(0), to: at(2) };
    rig.event(Event::Gap { source: log(), range, reason: GapReason::Retention });
    let frames = rig.taken(1);
    assert!(frames.iter().any(|frame| matches!(frame, Frame::Recall { .. })), "{frames:?}");
    let answered =
        |frame: &Frame| matches!(frame, Frame::AckResults { results, .. } if results[0].1 == AckStatus::NotLeased);
    assert!(frames.iter().any(answered), "{frames:?}");
}

#[test]
fn re_5_what_is_in_work_and_gone_from_the_log_is_told_as_settled() {
    let mut rig = back(rig(GroupConfig { on_gap: crate::group::OnGap::Continue, ..config() }, &[1, 2, 3]), &[0, 2]);
    assert!(rig.ack(1, log(), &[0]).is_empty());
    let range = OffsetRange { from: at(0), to: at(2) };
    rig.event(Event::Gap { source: log(), range, reason: GapReason::Retention });
    assert_eq!(told(&mut rig), [AckStatus::AlreadySettled]);
    read(&mut rig);
    assert_eq!(rig.ack(1, log(), &[2]), [AckStatus::Ok]);
}

#[test]
fn gm_8_a_session_that_begins_anew_has_nothing_in_work() {
    let mut rig = back(rig(config(), &[1, 2]), &[0, 1]);
    assert!(rig.ack(1, log(), &[0]).is_empty());
    rig.held.clear();
    rig.join(1, 100);
    read(&mut rig);
    assert_eq!(rig.offsets(1), [0, 1], "both come again, and the ack of the old session is nobody's");
    assert_eq!(rig.ack(1, log(), &[0, 1]), [AckStatus::Ok, AckStatus::Ok]);
}

#[test]
fn gm_8_of_two_who_say_that_they_have_a_record_in_work_the_first_has_it() {
    let mut before = rig(config(), &[1]);
    before.join(2, 100);
    let epoch2 = before.epochs[&member(2)];
    let mut rig = back(before, &[0]);
    rig.epochs.insert(member(2), epoch2);
    let epoch = rig.machine.state().owners[&log()][0].epoch;
    let work = InWork { source: log(), epoch, runs: vec![one(0)], entries: Vec::new() };
    rig.join_as(2, 100, None, Some(vec![work]));
    let frames = rig.taken(2);
    let Frame::Joined { lost, .. } = &frames[0] else { panic!("{frames:?}") };
    assert_eq!(lost, &[(log(), one(0), AckStatus::Fenced)]);
}
