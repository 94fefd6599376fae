//! Calls of operators, through a whole machine.

use super::super::effect::{AckStatus, Frame};
use super::super::event::{Event, NackKind, Verb};
use super::super::letters_support::{act, entry_key, floor};
use super::super::test_support::{Rig, at, member, source};
use super::super::{GroupConfig, Mode};
use super::*;

fn s() -> Source {
    source(1, 0)
}

fn config() -> GroupConfig {
    GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()])
}

fn rig() -> Rig {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 1_000);
    rig
}

fn configure(rig: &mut Rig, config: GroupConfig) -> Result<(), Refusal> {
    let notes = rig.machine.state().notes.clone();
    rig.admin(Admin::Configure { config: Box::new(config), notes })
}

#[test]
fn gm_2_the_mode_cannot_change_and_bounds_are_kept() {
    let mut rig = rig();
    let before = rig.machine.state().clone();
    let other = GroupConfig::new(Mode::Offset, vec!["orders".to_owned()]);
    assert!(matches!(configure(&mut rig, other), Err(Refusal::Invalid { field: "mode", .. })));
    let short = GroupConfig { lease_ms: 1, ..config() };
    assert!(matches!(configure(&mut rig, short), Err(Refusal::Invalid { field: "lease_ms", .. })));
    assert_eq!(rig.machine.state(), &before);
}

#[test]
fn rt_3_a_policy_counts_from_the_next_failure_on() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    rig.nack(1, s(), &[0], NackKind::Retry);
    let mut changed = config();
    changed.retry.max_attempts = 2;
    configure(&mut rig, changed).unwrap();
    assert_eq!(rig.machine.state().revision, 2);
    rig.pass_alive(3_000, &[1]);
    rig.nack(1, s(), &[0], NackKind::Retry);
    rig.settle_moves();
    assert_eq!(rig.entry(s(), 0).reason, DeadReason::Attempts);
}

#[test]
fn of_3_a_reset_with_members_drops_leases_raises_epochs_and_keeps_entries() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    rig.bury(1, s(), 1);
    rig.ack(1, s(), &[0]);
    let old = rig.targets(1, s(), &[2]);
    rig.taken(1);
    rig.reset(s(), 0, false);
    assert_eq!(rig.floor(s()), 0);
    assert_eq!(rig.offsets(1), [0, 2], "the dead letter is not met again");
    let stale = rig.ack_targets(1, old);
    assert_eq!(stale, [AckStatus::Fenced], "leases of before are gone");
    assert_eq!(rig.entry_state(s(), 1), Some(EntryState::Open));
    assert_eq!(rig.ack(1, s(), &[0, 2]), [AckStatus::Ok, AckStatus::Ok]);
    assert_eq!(rig.floor(s()), 3);
}

#[test]
fn of_3_a_reset_ends_leases_of_entries_too() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    rig.bury(1, s(), 0);
    rig.redrive(4, s(), &[0]).unwrap();
    assert_eq!(rig.leased(1), 1);
    rig.taken(1);
    rig.reset(s(), 0, false);
    assert_eq!(rig.both(1).1, [0], "it is delivered again under the new epoch");
    assert_eq!(rig.leased(1), 1);
    assert_eq!(rig.ack_entry(1, s(), &[0]), [AckStatus::Ok]);
}

#[test]
fn of_3_the_last_reset_can_be_undone_and_no_more_than_there_were() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    rig.ack(1, s(), &[0, 1]);
    rig.taken(1);
    rig.reset(s(), 0, false);
    assert_eq!(rig.offsets(1), [0, 1, 2]);
    rig.ack(1, s(), &[0]);
    rig.admin(Admin::UndoReset { act: act() }).unwrap();
    assert_eq!(rig.floor(s()), 2);
    assert_eq!(rig.offsets(1), [2]);
    assert_eq!(rig.admin(Admin::UndoReset { act: act() }), Err(Refusal::NothingToUndo));
}

#[test]
fn of_3_a_reset_of_an_unknown_partition_changes_nothing() {
    let mut rig = rig();
    let before = rig.machine.state().clone();
    let floors = vec![floor(s(), 0), floor(source(9, 0), 0)];
    assert!(matches!(rig.admin(Admin::Reset { floors, clear: false, act: act() }), Err(Refusal::Invalid { .. })));
    assert_eq!(rig.machine.state(), &before);
}

#[test]
fn of_6_a_pause_is_durable_and_ends_when_asked_or_at_its_time() {
    let mut rig = rig();
    rig.admin(Admin::Pause { topic: Some(s().topic), until_ms: None, act: act() }).unwrap();
    rig.append(s(), &[1]);
    assert_eq!(rig.offsets(1), Vec::<u64>::new());
    let mut rig = rig.restart(10);
    rig.join(1, 100);
    assert_eq!(rig.offsets(1), Vec::<u64>::new());
    rig.admin(Admin::Resume { topic: Some(s().topic), act: act() }).unwrap();
    assert_eq!(rig.offsets(1), [0]);
    let until_ms = Some(rig.now.wall_ms + 5_000);
    rig.admin(Admin::Pause { topic: None, until_ms, act: act() }).unwrap();
    rig.append(s(), &[2]);
    assert_eq!(rig.offsets(1), Vec::<u64>::new());
    rig.pass_alive(6_000, &[1]);
    assert_eq!(rig.offsets(1), [1]);
    let unknown = Admin::Pause { topic: Some(source(9, 0).topic), until_ms: None, act: act() };
    assert!(matches!(rig.admin(unknown), Err(Refusal::Invalid { field: "topic", .. })));
}

#[test]
fn cb_4_an_operator_forces_the_breaker_open_and_lets_it_go() {
    let mut rig = rig();
    rig.admin(Admin::SetBreaker { forced: Some(true), act: act() }).unwrap();
    assert!(rig.machine.breaker.is_open(rig.now.monotonic_ms));
    rig.admin(Admin::SetBreaker { forced: Some(false), act: act() }).unwrap();
    rig.append(s(), &[1]);
    assert_eq!(rig.offsets(1), [0]);
    rig.admin(Admin::SetBreaker { forced: None, act: act() }).unwrap();
    assert!(rig.machine.state().breaker.is_none());
}

#[test]
fn rd_6_only_open_entries_of_no_job_are_closed_edited_or_redriven() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    (0..3).for_each(|offset| rig.bury(1, s(), offset));
    rig.close(s(), &[0], EntryState::Discarded).unwrap();
    rig.redrive(4, s(), &[1]).unwrap();
    let (closed, taken) = (entry_key(s(), 0), entry_key(s(), 1));
    let edit = |entry| Admin::EntryEdited { entry, copy: at(9_000), act: act() };
    let state = EntryState::Discarded;
    assert_eq!(rig.close(s(), &[0], state), Err(Refusal::EntryClosed { key: closed, state }));
    assert_eq!(rig.admin(edit(closed)), Err(Refusal::EntryClosed { key: closed, state }));
    assert_eq!(rig.redrive(5, s(), &[0]), Err(Refusal::EntryClosed { key: closed, state }));
    assert_eq!(rig.close(s(), &[1], state), Err(Refusal::JobConflict { job: 4 }));
    assert_eq!(rig.admin(edit(taken)), Err(Refusal::JobConflict { job: 4 }));
    assert_eq!(rig.redrive(5, s(), &[1]), Err(Refusal::JobConflict { job: 4 }));
    assert_eq!(rig.redrive(5, s(), &[9]), Err(Refusal::EntryNotFound));
    // One that cannot be closed keeps all from it.
    assert!(rig.close(s(), &[2, 1], state).is_err());
    assert_eq!(rig.entry_state(s(), 2), Some(EntryState::Open));
    rig.admin(edit(entry_key(s(), 2))).unwrap();
    assert_eq!(rig.entry(s(), 2).versions, [at(9_000)]);
}

#[test]
fn dl_12_a_discard_needs_a_reason_and_open_is_no_way_to_close() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    rig.bury(1, s(), 0);
    let entries = vec![entry_key(s(), 0)];
    let silent = Act { note: "  ".into(), ..act() };
    let discard = Admin::CloseEntries { entries: entries.clone(), state: EntryState::Discarded, act: silent };
    assert!(matches!(rig.admin(discard), Err(Refusal::Invalid { field: "reason", .. })));
    let open = Admin::CloseEntries { entries, state: EntryState::Open, act: act() };
    assert!(matches!(rig.admin(open), Err(Refusal::Invalid { field: "state", .. })));
}

#[test]
fn dl_10_only_closed_entries_are_forgotten() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    (0..2).for_each(|offset| rig.bury(1, s(), offset));
    rig.close(s(), &[0], EntryState::Discarded).unwrap();
    let forget = |offsets: &[u64]| Admin::ForgetEntries {
        entries: offsets.iter().map(|offset| entry_key(s(), *offset)).collect(),
    };
    assert!(rig.admin(forget(&[0, 1])).is_err());
    assert_eq!(rig.machine.entries().len(), 2);
    rig.admin(forget(&[0])).unwrap();
    assert_eq!(rig.machine.entries().len(), 1);
}

#[test]
fn rd_1_jobs_are_kept_and_forgotten_as_they_are() {
    let mut rig = rig();
    rig.admin(Admin::KeepJob { job: 4, state: Some("half way".into()) }).unwrap();
    let mut rig = rig.restart(10);
    assert_eq!(rig.machine.entries().jobs()[&4], "half way");
    rig.admin(Admin::KeepJob { job: 4, state: None }).unwrap();
    assert!(rig.machine.entries().jobs().is_empty());
}

#[test]
fn rd_8_a_head_that_waits_for_a_retry_is_skipped_or_tried_at_once() {
    for skip in [true, false] {
        let mut rig = rig();
        rig.append(s(), &[1, 1]);
        rig.nack(1, s(), &[0], NackKind::Retry);
        rig.taken(1);
        let lane = rig.lane(s(), 1);
        rig.admin(Admin::Head { source: s(), lane, skip, act: act() }).unwrap();
        let expected = if skip { vec![vec![(1, 1)]] } else { vec![vec![(0, 1)]] };
        assert_eq!(rig.delivered(1), expected);
        let head = Admin::Head { source: s(), lane, skip, act: act() };
        assert!(rig.admin(head).is_err(), "it is out");
    }
}

#[test]
fn rd_8_there_is_no_head_of_a_lane_that_nothing_waits_in() {
    let mut rig = rig();
    let lane = rig.lane(s(), 1);
    assert_eq!(rig.admin(Admin::Head { source: s(), lane, skip: true, act: act() }), Err(Refusal::EntryNotFound));
}

#[test]
fn of_8_a_deleted_group_ends_its_sessions() {
    let mut rig = rig();
    rig.taken(1);
    rig.admin(Admin::Delete).unwrap();
    assert!(rig.taken(1).iter().any(|frame| matches!(frame, Frame::Ended(Refusal::Deleted))));
    assert!(rig.journal.contains(&GroupRecord::Deleted));
}

#[test]
fn an_evicted_member_is_told_and_its_records_go_to_others_without_a_strike() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    rig.join(2, 100);
    rig.taken(1);
    rig.admin(Admin::Evict { member: member(1) }).unwrap();
    assert!(rig.taken(1).iter().any(|frame| matches!(frame, Frame::Ended(Refusal::SessionOver))));
    assert_eq!(rig.delivered(2), [[(0, 1)]]);
    assert_eq!(rig.admin(Admin::Evict { member: member(1) }), Err(Refusal::SessionOver));
}

#[test]
fn gm_2_a_topic_that_comes_is_read_from_its_start() {
    let mut rig = rig();
    let added = super::super::GroupTopic {
        topic: source(2, 0).topic,
        name: "refunds".into(),
        partitions: 1,
        dlq: "refunds.billing.dlq".into(),
        is_dlq: false,
    };
    let starts = vec![floor(source(2, 0), 0)];
    rig.event(Event::Topics { added: vec![added], starts, removed: vec![] });
    rig.append(source(2, 0), &[1]);
    assert_eq!(rig.offsets(1), [0]);
    rig.verb(1, Verb::Ping);
    rig.event(Event::Topics { added: vec![], starts: vec![], removed: vec![s().topic] });
    assert_eq!(rig.machine.state().partitions.len(), 1);
}
