//! Gaps and cuts, through a whole machine.

use super::super::effect::AckStatus;
use super::super::entry::EntryState;
use super::super::event::{Admin, Event, NackKind, RecordMeta};
use super::super::letters_support::{act, entry_key};
use super::super::test_support::{Rig, at, source};
use super::super::{GroupConfig, Mode};
use super::*;

fn s() -> Source {
    source(1, 0)
}

fn config() -> GroupConfig {
    GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()])
}

fn range(from: u64, to: u64) -> OffsetRange {
    OffsetRange { from: at(from), to: at(to) }
}

/// A log that begins at offset 5; nothing of it is read yet.
fn shortened(config: GroupConfig) -> Rig {
    let mut rig = Rig::with(config, 1);
    rig.reading = false;
    rig.join(1, 100);
    let metas: Vec<RecordMeta> =
        (5..8).map(|offset| RecordMeta { offset: at(offset), ..rig.meta(s(), offset) }).collect();
    rig.logs.insert(s(), metas);
    rig.taken(1);
    rig
}

fn gap(rig: &mut Rig, from: u64, to: u64, reason: GapReason) {
    rig.event(Event::Gap { source: s(), range: range(from, to), reason });
}

/// Gaps that the member was told: range, reason, whether the partition waits.
fn told(rig: &mut Rig) -> Vec<(u64, u64, GapReason, bool)> {
    let frames = rig.taken(1).into_iter();
    frames
        .filter_map(|frame| match frame {
            Frame::Gap { range, reason, stops, .. } => Some((range.from.get(), range.to.get(), reason, stops)),
            _ => None,
        })
        .collect()
}

#[test]
fn re_4_a_gap_tells_how_many_records_of_it_were_not_settled() {
    let records = |rig: &mut Rig| {
        let mut frames = rig.taken(1).into_iter();
        frames.find_map(|frame| if let Frame::Gap { records, .. } = frame { Some(records) } else { None }).flatten()
    };
    for mode in [Mode::Keyed, Mode::Offset] {
        let mut rig = Rig::new(mode, 1);
        rig.join(1, 100);
        rig.append(s(), &[1, 2, 3, 4, 5]);
        if mode == Mode::Keyed {
            rig.ack(1, s(), &[1, 3]);
        }
        rig.taken(1);
        gap(&mut rig, 0, 3, GapReason::Retention);
        assert_eq!(records(&mut rig), Some(if mode == Mode::Keyed { 2 } else { 3 }), "{mode:?}");
        rig.event(Event::Cut { source: s(), at: Some(at(3)), epoch: PartitionEpoch::new(1).unwrap() });
        assert_eq!(records(&mut rig), Some(if mode == Mode::Keyed { 1 } else { 2 }), "{mode:?}");
    }
}

#[test]
fn re_4_a_gap_that_is_found_while_nobody_is_there_is_told_to_the_first_that_comes() {
    for mode in [Mode::Keyed, Mode::Offset] {
        let mut rig = Rig::new(mode, 1);
        rig.join(1, 100);
        rig.append(s(), &[1, 2, 3]);
        let mut rig = rig.restart(10);
        rig.logs.get_mut(&s()).unwrap().truncate(1);
        rig.event(Event::Cut { source: s(), at: Some(at(1)), epoch: PartitionEpoch::new(1).unwrap() });
        rig.join(1, 100);
        let kinds: Vec<&str> = rig.taken(1).iter().map(kind).collect();
        assert_eq!(kinds[..3], ["joined", "assign", "gap"], "{mode:?}");
        rig.join(1, 100);
        assert!(!rig.taken(1).iter().any(|frame| kind(frame) == "gap"), "{mode:?}: once");
    }
}

fn kind(frame: &Frame) -> &'static str {
    match frame {
        Frame::Joined { .. } => "joined",
        Frame::Assign { .. } => "assign",
        Frame::Gap { .. } => "gap",
        _ => "other",
    }
}

fn read(rig: &mut Rig) {
    rig.reading = true;
    rig.read();
}

#[test]
fn re_4_a_gap_stops_a_keyed_group_until_someone_accepts_it() {
    for reason in [GapReason::Retention, GapReason::Trim, GapReason::Corrupt] {
        let mut rig = shortened(config());
        gap(&mut rig, 0, 5, reason);
        gap(&mut rig, 0, 5, reason);
        assert_eq!(told(&mut rig), [(0, 5, reason, true)], "told once");
        assert!(rig.machine.is_paused_for(Some(s()), PauseReason::Gap));
        assert_eq!((rig.machine.gaps.of(s()), rig.floor(s())), (Some((range(0, 5), reason)), 0));
        rig.admin(Admin::AcceptGap { source: Some(s()), act: act() }).unwrap();
        assert!(!rig.machine.is_paused_for(Some(s()), PauseReason::Gap));
        assert_eq!(rig.floor(s()), 5, "what was unsettled in it is expired");
        read(&mut rig);
        assert_eq!(rig.offsets(1), [5, 6, 7]);
    }
}

#[test]
fn re_4_a_group_that_continues_goes_on_behind_the_gap_and_is_told() {
    let mut rig = shortened(GroupConfig { on_gap: OnGap::Continue, ..config() });
    gap(&mut rig, 0, 5, GapReason::Retention);
    assert_eq!(told(&mut rig), [(0, 5, GapReason::Retention, false)]);
    assert_eq!(rig.floor(s()), 5);
    read(&mut rig);
    assert_eq!(rig.offsets(1), [5, 6, 7]);
}

#[test]
fn re_4_a_gap_in_what_is_settled_is_passed_without_a_word() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 2]);
    rig.ack(1, s(), &[0, 1]);
    rig.taken(1);
    gap(&mut rig, 0, 2, GapReason::Retention);
    assert_eq!(told(&mut rig), []);
    assert!(rig.machine.state().pauses.is_empty());
}

#[test]
fn re_4_a_gap_accepted_after_a_restart_is_passed_as_soon_as_it_is_told_again() {
    let mut rig = shortened(config());
    gap(&mut rig, 0, 5, GapReason::Retention);
    rig.reading = true;
    let logs = std::mem::take(&mut rig.logs);
    let mut rig = rig.restart(10);
    rig.reading = false;
    rig.logs = logs;
    rig.join(1, 100);
    assert!(rig.machine.is_paused_for(Some(s()), PauseReason::Gap));
    rig.admin(Admin::AcceptGap { source: None, act: act() }).unwrap();
    gap(&mut rig, 0, 5, GapReason::Retention);
    assert!(rig.machine.state().pauses.is_empty());
    assert_eq!(rig.floor(s()), 5);
}

#[test]
fn re_5_records_in_flight_stay_leased_and_are_not_delivered_again() {
    let mut rig = Rig::with(GroupConfig { on_gap: OnGap::Continue, ..config() }, 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 1, 2, 3]);
    assert_eq!(rig.offsets(1), [0, 2, 3]);
    gap(&mut rig, 0, 3, GapReason::Retention);
    assert_eq!(rig.leased(1), 3);
    assert_eq!(rig.nack(1, s(), &[0], NackKind::Retry), [AckStatus::Ok]);
    rig.kill_record(1, s(), 2);
    rig.pass_alive(100_000, &[1]);
    assert!(!rig.offsets(1).iter().any(|offset| *offset < 3), "settled as expired");
    assert!(rig.moves.is_empty(), "a death of one makes no dead letter");
    assert_eq!(rig.floor(s()), 3);
}

#[test]
fn ak_12_and_g7_a_cut_drops_everything_at_or_above_it_and_gives_units_a_new_epoch() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 2, 3, 4, 5, 6]);
    rig.ack(1, s(), &[0, 1, 4]);
    rig.nack(1, s(), &[5], NackKind::Retry);
    let before = rig.machine.state().epoch;
    rig.taken(1);
    rig.logs.get_mut(&s()).unwrap().truncate(4);
    rig.reading = false;
    rig.event(Event::Cut { source: s(), at: Some(at(4)), epoch: PartitionEpoch::new(1).unwrap() });
    let partition = &rig.machine.state().partitions[&s()];
    assert_eq!((partition.epoch.get(), partition.settled.end(), partition.tried.len()), (1, at(2), 0));
    assert!(rig.machine.state().epoch > before);
    assert_eq!(rig.leased(1), 2, "what is below the cut stays leased");
    let frames = rig.taken(1);
    let cut = |frame: &Frame| matches!(frame, Frame::Gap { reason: GapReason::Truncated, range, stops: false, .. } if range.from == at(4));
    assert!(frames.iter().any(cut));
    let reassigned = |frame: &Frame| matches!(frame, Frame::Assign { epoch, .. } if epoch.0 > before);
    assert!(frames.iter().any(reassigned));
    // The same again, as after a crash in between, changes nothing.
    let records = rig.journal.len();
    rig.event(Event::Cut { source: s(), at: Some(at(4)), epoch: PartitionEpoch::new(1).unwrap() });
    assert_eq!(rig.journal.len(), records);
}

#[test]
fn ak_12_a_floor_above_the_cut_falls_to_it_and_new_records_there_are_delivered() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 2, 3]);
    rig.ack(1, s(), &[0, 1, 2]);
    rig.taken(1);
    rig.logs.get_mut(&s()).unwrap().truncate(1);
    rig.event(Event::Cut { source: s(), at: Some(at(1)), epoch: PartitionEpoch::new(1).unwrap() });
    assert_eq!(rig.floor(s()), 1);
    rig.append(s(), &[9]);
    assert_eq!(rig.offsets(1), [1]);
}

#[test]
fn ak_12_entries_stay_and_are_marked_and_a_new_record_at_their_offset_is_another() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 2]);
    rig.bury(1, s(), 0);
    rig.bury(1, s(), 1);
    rig.logs.get_mut(&s()).unwrap().truncate(1);
    rig.taken(1);
    let epoch = PartitionEpoch::new(1).unwrap();
    rig.event(Event::Cut { source: s(), at: Some(at(1)), epoch });
    assert_eq!((rig.entry(s(), 0).source_lost, rig.entry(s(), 1).source_lost), (false, true));
    let meta = RecordMeta { epoch, ..rig.meta(s(), 7) };
    rig.logs.get_mut(&s()).unwrap().push(meta);
    rig.read();
    assert_eq!(rig.both(1), (vec![1], vec![]), "another record, of another key");
    rig.redrive(3, s(), &[1]).unwrap();
    assert_eq!(rig.both(1), (vec![], vec![1]), "its copy is all that is left");
}

#[test]
fn ak_12_a_mark_that_was_not_durable_is_made_again_at_the_start() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 2]);
    rig.bury(1, s(), 1);
    let kept = rig.entry_journal.clone();
    rig.event(Event::Cut { source: s(), at: Some(at(1)), epoch: PartitionEpoch::new(1).unwrap() });
    assert!(rig.entry(s(), 1).source_lost);
    rig.entry_journal = kept;
    let rig = rig.restart(10);
    assert!(rig.entry(s(), 1).source_lost);
}

#[test]
fn ak_12_a_cut_at_each_step_of_a_death_leaves_one_entry_or_a_loss_that_is_told() {
    for step in 0..3 {
        let mut rig = Rig::with(config(), 1);
        rig.join(1, 100);
        rig.append(s(), &[1, 2]);
        rig.kill_record(1, s(), 1);
        if step >= 1 {
            rig.copy_moves();
        }
        if step >= 2 {
            rig.open_moves();
        }
        rig.taken(1);
        rig.logs.get_mut(&s()).unwrap().truncate(1);
        let epoch = PartitionEpoch::new(1).unwrap();
        rig.event(Event::Cut { source: s(), at: Some(at(1)), epoch });
        if step == 0 {
            // The record is gone before its copy was made.
            rig.moves.clear();
            rig.event(Event::Copied { source: s(), number: 1, copy: None });
            assert!(told(&mut rig).iter().any(|gap| gap.2 == GapReason::Truncated));
            assert_eq!(rig.entry_state(s(), 1), None);
        } else {
            rig.settle_moves();
            assert_eq!(rig.entry_state(s(), 1), Some(EntryState::Open), "step {step}");
            assert!(rig.entry(s(), 1).source_lost, "step {step}");
        }
        let meta = RecordMeta { epoch, ..rig.meta(s(), 7) };
        rig.logs.get_mut(&s()).unwrap().push(meta);
        rig.read();
        let again = rig.restart(10);
        assert!(!again.is_settled(s(), 1), "step {step}: the new record is not settled by the old one's death");
        assert!(again.machine.state().partitions[&s()].intents.is_empty());
    }
}

#[test]
fn ak_12_a_new_epoch_without_a_cut_changes_nothing_else() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 2]);
    rig.ack(1, s(), &[0]);
    rig.taken(1);
    let before = rig.machine.state().epoch;
    rig.event(Event::Cut { source: s(), at: None, epoch: PartitionEpoch::new(1).unwrap() });
    assert_eq!((rig.floor(s()), rig.leased(1), rig.machine.state().epoch), (1, 1, before));
    assert_eq!(rig.ack(1, s(), &[1]), [AckStatus::Ok]);
}

#[test]
fn dl_10_an_expired_entry_settles_its_record_as_expired_when_it_is_met_again() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 1]);
    rig.bury(1, s(), 0);
    rig.admin(Admin::CloseEntries { entries: vec![entry_key(s(), 0)], state: EntryState::Expired, act: act() })
        .unwrap();
    rig.admin(Admin::CloseEntries { entries: vec![entry_key(s(), 1)], state: EntryState::Discarded, act: act() })
        .unwrap();
    assert_eq!(told(&mut rig).last(), Some(&(0, 1, GapReason::DlqExpired, false)));
    rig.reset(s(), 0, false);
    assert_eq!((rig.floor(s()), rig.offsets(1)), (2, vec![]));
}
