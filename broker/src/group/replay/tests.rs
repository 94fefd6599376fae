//! Replays, through a whole machine.

use super::super::effect::AckStatus;
use super::super::event::{Admin, Event, NackKind, Verb};
use super::super::letters_support::act;
use super::super::test_support::{Rig, at, member, source};
use super::super::{GroupConfig, Mode};
use super::*;

fn s() -> Source {
    source(1, 0)
}

/// A group that was made for a replay.
fn own(mode: Mode, partitions: u32) -> Rig {
    let config = GroupConfig { replay_only: true, ..GroupConfig::new(mode, vec!["orders".to_owned()]) };
    Rig::with(config, partitions)
}

fn plan(into: ReplayInto) -> ReplayPlan {
    ReplayPlan { into, filter: Filter::default(), rate: ReplayRate::Unlimited, act: act() }
}

fn range(source: Source, from: u64, to: u64) -> ReplayRange {
    ReplayRange { source, from: at(from), to: at(to), epoch: PartitionEpoch::ZERO, asked: at(from), left: 0 }
}

fn start(rig: &mut Rig, ranges: Vec<ReplayRange>) -> Result<(), Refusal> {
    let own = rig.machine.state().config.replay_only;
    let into = if own { ReplayInto::New } else { ReplayInto::Existing };
    rig.admin(Admin::StartReplay(Box::new(Replay { number: 0, plan: plan(into), ranges, end: None })))
}

/// What a member was told since frames were taken last: offsets delivered, marked and unmarked, and ends of replays.
#[derive(Debug, Default, PartialEq, Eq)]
struct Told {
    marked: Vec<u64>,
    plain: Vec<u64>,
    ends: Vec<(Option<Source>, ReplayEnd)>,
}

fn told(rig: &mut Rig, number: u8) -> Told {
    let mut told = Told::default();
    for frame in rig.taken(number) {
        match frame {
            Frame::Deliver(delivered) => {
                for record in &delivered.records {
                    let marked = delivered.replay.is_some_and(|mark| mark.covers(record));
                    if marked { &mut told.marked } else { &mut told.plain }.push(record.offset.get());
                }
            }
            Frame::DeliverRange { range, replay, .. } => {
                let list = if replay.is_some() { &mut told.marked } else { &mut told.plain };
                list.extend(range.from.get()..range.to.get());
            }
            Frame::ReplayDone { source, end, .. } => told.ends.push((source, end)),
            _ => {}
        }
    }
    told
}

fn done(ends: &[Option<Source>]) -> Vec<(Option<Source>, ReplayEnd)> {
    ends.iter().map(|source| (*source, ReplayEnd::Done)).collect()
}

fn epoch(rig: &Rig, number: u8, source: Source) -> AssignmentEpoch {
    let units = &rig.units[&member(number)];
    units.iter().find(|(unit, _, _)| *unit == source).map(|(_, _, epoch)| *epoch).unwrap()
}

fn commit(rig: &mut Rig, next: u64) {
    let epoch = epoch(rig, 1, s());
    let verb = Verb::Commit {
        request: 1,
        source: s(),
        epoch,
        next: at(next),
        record_epoch: None,
        metadata: String::new(),
        force: false,
    };
    rig.verb(1, verb);
    let failed =
        rig.frames[&member(1)].iter().any(|(frame, _)| matches!(frame, Frame::CommitResult { result: Err(_), .. }));
    assert!(!failed, "a commit of {next}");
}

#[test]
fn rp_5_a_group_of_its_own_gets_its_range_and_nothing_after_it() {
    let mut rig = own(Mode::Keyed, 1);
    rig.append(s(), &[1, 2, 3, 4, 5, 6, 7, 8]);
    rig.join(1, 100);
    assert_eq!(told(&mut rig, 1), Told::default(), "nothing before it begins");
    start(&mut rig, vec![range(s(), 2, 6)]).unwrap();
    assert_eq!(told(&mut rig, 1).marked, [2, 3, 4, 5]);
    rig.append(s(), &[9]);
    rig.ack(1, s(), &[2, 3, 4]);
    assert_eq!(told(&mut rig, 1), Told::default());
    rig.ack(1, s(), &[5]);
    let told = told(&mut rig, 1);
    assert_eq!((told.ends, told.marked, told.plain), (done(&[Some(s()), None]), vec![], vec![]));
    assert!(rig.machine.state().open_replay().is_none());
    assert_eq!(rig.floor(s()), 6);
}

#[test]
fn rp_5_the_end_is_told_per_partition_and_for_the_whole_and_survives_a_restart() {
    let (one, other) = (source(1, 0), source(1, 1));
    let mut rig = own(Mode::Keyed, 2);
    rig.append(one, &[1, 2]);
    rig.append(other, &[3, 4]);
    rig.join(1, 100);
    start(&mut rig, vec![range(other, 0, 2), range(one, 0, 1)]).unwrap();
    told(&mut rig, 1);
    rig.ack(1, other, &[0, 1]);
    assert_eq!(told(&mut rig, 1).ends, done(&[Some(other)]));
    let mut rig = rig.restart(60_000);
    rig.join(2, 100);
    rig.pass_alive(12_000, &[2]);
    let after = told(&mut rig, 2);
    assert_eq!((after.marked, after.ends), (vec![0], done(&[Some(other)])), "what is done is not sent again");
    rig.ack(2, one, &[0]);
    assert_eq!(told(&mut rig, 2).ends, done(&[Some(one), None]));
    let mut rig = rig.restart(60_000);
    rig.join(3, 100);
    rig.pass_alive(12_000, &[3]);
    let late = told(&mut rig, 3);
    assert!(late.marked.is_empty() && late.ends.contains(&(None, ReplayEnd::Done)), "who comes late is told: {late:?}");
}

#[test]
fn rp_1_a_group_that_was_there_is_set_back_and_goes_on_from_where_it_was() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.append(s(), &[1, 2, 3, 4, 5, 6, 7, 8]);
    rig.join(1, 100);
    told(&mut rig, 1);
    rig.ack(1, s(), &[0, 1, 2, 3, 4, 5]);
    assert_eq!(rig.floor(s()), 6);
    start(&mut rig, vec![range(s(), 1, 4)]).unwrap();
    assert_eq!(rig.floor(s()), 1);
    let sent = told(&mut rig, 1);
    // What was in work is delivered again as after any reset, unmarked: it is no part of the replay (rule RP-2).
    assert_eq!((sent.marked, sent.plain), (vec![1, 2, 3], vec![6, 7]));
    rig.ack(1, s(), &[1, 2, 3]);
    let end = told(&mut rig, 1);
    assert_eq!((end.ends, end.marked), (done(&[Some(s()), None]), vec![]));
    assert_eq!(rig.floor(s()), 6, "what was settled behind the range stays so");
    rig.append(s(), &[1]);
    assert_eq!(told(&mut rig, 1).plain, [8], "live records are not marked");
    rig.ack(1, s(), &[6, 7, 8]);
    let rig = rig.restart(1_000);
    assert_eq!(rig.floor(s()), 9);
}

#[test]
fn rp_1_only_what_a_group_has_handled_is_replayed_to_it() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.append(s(), &[1, 2, 3, 4]);
    rig.join(1, 100);
    rig.ack(1, s(), &[0, 1]);
    start(&mut rig, vec![range(s(), 0, 4)]).unwrap();
    let ranges = rig.machine.state().open_replay().unwrap().ranges.clone();
    assert_eq!((ranges[0].from, ranges[0].to), (at(0), at(2)));
}

#[test]
fn rp_5_an_empty_range_ends_at_once_and_says_so() {
    for mut rig in [own(Mode::Keyed, 1), Rig::new(Mode::Keyed, 1)] {
        rig.append(s(), &[1, 2, 3]);
        rig.join(1, 100);
        told(&mut rig, 1);
        start(&mut rig, vec![range(s(), 0, 0)]).unwrap();
        assert_eq!(told(&mut rig, 1).ends.last(), Some(&(None, ReplayEnd::Done)));
        assert!(rig.machine.state().open_replay().is_none());
    }
}

#[test]
fn rp_1_one_replay_at_a_time_and_no_reset_meanwhile() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.append(s(), &[1, 2, 3]);
    rig.join(1, 100);
    rig.ack(1, s(), &[0, 1, 2]);
    start(&mut rig, vec![range(s(), 0, 3)]).unwrap();
    assert_eq!(start(&mut rig, vec![range(s(), 0, 1)]), Err(Refusal::ReplayConflict { number: 1 }));
    let floors = vec![Start { source: s(), offset: at(0), epoch: PartitionEpoch::ZERO }];
    let reset = rig.admin(Admin::Reset { floors, clear: false, act: act() });
    assert_eq!(reset, Err(Refusal::ReplayConflict { number: 1 }));
}

#[test]
fn of_3_a_replay_into_a_group_can_be_undone() {
    for during in [true, false] {
        let mut rig = Rig::new(Mode::Keyed, 1);
        rig.append(s(), &[1, 2, 3, 4]);
        rig.join(1, 100);
        rig.ack(1, s(), &[0, 1, 2, 3]);
        start(&mut rig, vec![range(s(), 0, 3)]).unwrap();
        rig.ack(1, s(), if during { &[0] } else { &[0, 1, 2] });
        rig.admin(Admin::UndoReset { act: act() }).unwrap();
        assert_eq!(rig.floor(s()), 4, "during the replay: {during}");
        assert!(rig.machine.state().open_replay().is_none());
        rig.restart(1_000);
    }
}

#[test]
fn rp_3_a_cancelled_replay_leaves_the_group_where_it_was() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.append(s(), &[1, 2, 3, 4]);
    rig.join(1, 2);
    told(&mut rig, 1);
    rig.ack(1, s(), &[0, 1]);
    rig.ack(1, s(), &[2, 3]);
    told(&mut rig, 1);
    start(&mut rig, vec![range(s(), 0, 4)]).unwrap();
    assert_eq!(told(&mut rig, 1).marked, [0, 1]);
    rig.admin(Admin::CancelReplay { number: 1 }).unwrap();
    assert_eq!(rig.floor(s()), 4);
    assert_eq!(rig.ack(1, s(), &[0, 1]), [AckStatus::AlreadySettled; 2]);
    let end = told(&mut rig, 1);
    assert_eq!((end.marked, end.ends), (vec![], vec![(None, ReplayEnd::Cancelled)]));
    assert_eq!(rig.machine.state().replays[0].ranges[0].left, 4);
    let refused = rig.admin(Admin::CancelReplay { number: 1 });
    assert_eq!(refused, Err(Refusal::ReplayOver { number: 1, state: "CANCELLED" }));
    rig.append(s(), &[9]);
    assert_eq!(told(&mut rig, 1).plain, [4]);
    rig.restart(1_000);
}

#[test]
fn rp_3_a_cancelled_replay_sends_a_group_of_its_own_nothing_more() {
    for mode in [Mode::Keyed, Mode::Offset] {
        let mut rig = own(mode, 1);
        rig.append(s(), &[1, 2, 3, 4]);
        rig.join(1, 1);
        start(&mut rig, vec![range(s(), 0, 4)]).unwrap();
        assert_eq!(told(&mut rig, 1).marked, [0]);
        rig.admin(Admin::CancelReplay { number: 1 }).unwrap();
        rig.verb(1, Verb::Credit(super::super::event::Credit { records: 10, bytes: 1 << 20 }));
        if mode == Mode::Keyed {
            rig.ack(1, s(), &[0]);
        }
        let end = told(&mut rig, 1);
        assert_eq!((end.marked, end.ends), (vec![], vec![(None, ReplayEnd::Cancelled)]), "{mode:?}");
        let mut rig = rig.restart(60_000);
        rig.join(2, 100);
        rig.pass_alive(12_000, &[2]);
        assert_eq!(told(&mut rig, 2).marked, Vec::<u64>::new(), "after a restart too");
    }
}

#[test]
fn rp_3_a_paused_replay_delivers_nothing_until_it_is_resumed() {
    let mut rig = own(Mode::Keyed, 1);
    rig.append(s(), &[1, 2, 3, 4]);
    rig.join(1, 1);
    start(&mut rig, vec![range(s(), 0, 4)]).unwrap();
    let pause = |paused| Admin::PauseReplay { number: 1, paused, act: act() };
    rig.admin(pause(true)).unwrap();
    rig.admin(pause(true)).unwrap();
    told(&mut rig, 1);
    rig.ack(1, s(), &[0]);
    assert_eq!(told(&mut rig, 1).marked, Vec::<u64>::new());
    let mut rig = rig.restart(60_000);
    rig.join(2, 100);
    rig.pass_alive(12_000, &[2]);
    assert_eq!(told(&mut rig, 2).marked, Vec::<u64>::new(), "it is paused after a restart too");
    rig.admin(pause(false)).unwrap();
    assert_eq!(told(&mut rig, 2).marked, [1, 2, 3]);
}

#[test]
fn rp_3_a_pause_holds_the_partitions_of_the_replay_alone_and_each_until_its_range_is_done() {
    let other = source(1, 1);
    for mode in [Mode::Keyed, Mode::Unordered] {
        let mut rig = Rig::new(mode, 2);
        rig.append(s(), &[1, 2, 3]);
        rig.join(1, 100);
        told(&mut rig, 1);
        rig.ack(1, s(), &[0, 1, 2]);
        start(&mut rig, vec![range(s(), 0, 2)]).unwrap();
        assert_eq!(told(&mut rig, 1).marked.len(), 2, "both are handed out before it pauses");
        rig.admin(Admin::PauseReplay { number: 1, paused: true, act: act() }).unwrap();
        let pauses = &rig.machine.state().pauses;
        assert_eq!(pauses.iter().map(|pause| pause.partition).collect::<Vec<_>>(), [Some(s().partition)], "{mode:?}");
        rig.append(other, &[7]);
        assert_eq!(told(&mut rig, 1).plain, [0], "the other partition goes on: {mode:?}");
        rig.append(s(), &[9]);
        assert_eq!(told(&mut rig, 1).plain, Vec::<u64>::new(), "what lies behind the range waits");
        // What was handed out before ends it, and with it the pause.
        rig.ack(1, s(), &[0, 1]);
        assert!(rig.machine.state().pauses.is_empty() && rig.machine.state().open_replay().is_none());
        assert_eq!(told(&mut rig, 1).plain, [3], "{mode:?}");
    }
}

#[test]
fn rp_5_a_record_that_dies_in_a_replay_counts_as_done_once_its_entry_is_durable() {
    let mut rig = own(Mode::Keyed, 1);
    rig.append(s(), &[1, 2]);
    rig.join(1, 100);
    start(&mut rig, vec![range(s(), 0, 2)]).unwrap();
    told(&mut rig, 1);
    rig.ack(1, s(), &[1]);
    rig.nack(1, s(), &[0], NackKind::Dead);
    assert!(rig.machine.state().open_replay().is_some());
    rig.settle_moves();
    assert_eq!(told(&mut rig, 1).ends, done(&[Some(s()), None]));
}

#[test]
fn rp_5_in_mode_offset_the_commit_ends_it_and_the_group_goes_on_behind_what_it_had() {
    let mut rig = Rig::new(Mode::Offset, 1);
    rig.append(s(), &[1, 2, 3, 4, 5, 6, 7, 8]);
    rig.join(1, 1_000);
    commit(&mut rig, 6);
    told(&mut rig, 1);
    start(&mut rig, vec![range(s(), 1, 4)]).unwrap();
    let sent = told(&mut rig, 1);
    assert_eq!((sent.marked, sent.plain), (vec![1, 2, 3], vec![6, 7]), "what was handled in between is not sent");
    commit(&mut rig, 3);
    assert_eq!(rig.floor(s()), 3);
    commit(&mut rig, 4);
    assert_eq!(rig.floor(s()), 6, "behind the range lies what was committed before");
    commit(&mut rig, 4);
    let end = told(&mut rig, 1);
    assert_eq!((end.ends, end.marked, end.plain), (done(&[Some(s()), None]), vec![], vec![]));
    commit(&mut rig, 8);
    let rig = rig.restart(1_000);
    assert_eq!(rig.floor(s()), 8);
}

#[test]
fn rp_5_in_mode_offset_nothing_after_the_bound_is_sent() {
    let mut rig = own(Mode::Offset, 1);
    rig.append(s(), &[1, 2, 3, 4, 5]);
    rig.join(1, 1_000);
    start(&mut rig, vec![range(s(), 1, 3)]).unwrap();
    assert_eq!(told(&mut rig, 1).marked, [1, 2]);
    commit(&mut rig, 3);
    rig.append(s(), &[6]);
    let end = told(&mut rig, 1);
    assert_eq!((end.ends, end.marked, end.plain), (done(&[Some(s()), None]), vec![], vec![]));
}

#[test]
fn of_5_what_is_gone_of_a_range_is_told_to_its_owner() {
    let mut rig = own(Mode::Keyed, 1);
    rig.append(s(), &[1, 2, 3, 4]);
    rig.join(1, 100);
    start(&mut rig, vec![ReplayRange { asked: at(0), ..range(s(), 2, 4) }]).unwrap();
    let gone = |frame: &Frame| matches!(frame, Frame::Gap { range, stops: false, .. } if *range == OffsetRange { from: at(0), to: at(2) });
    assert!(rig.taken(1).iter().any(gone));
}

#[test]
fn re_4_a_gap_in_a_range_is_told_and_ends_at_its_bound() {
    let mut rig = own(Mode::Unordered, 1);
    rig.append(s(), &[1, 2, 3, 4, 5, 6, 7, 8]);
    rig.reading = false;
    rig.join(1, 100);
    start(&mut rig, vec![range(s(), 0, 6)]).unwrap();
    rig.event(Event::Gap { source: s(), range: OffsetRange { from: at(0), to: at(3) }, reason: GapReason::Retention });
    rig.reading = true;
    rig.read();
    assert_eq!(told(&mut rig, 1).marked, [3, 4, 5]);
    rig.event(Event::Gap { source: s(), range: OffsetRange { from: at(3), to: at(8) }, reason: GapReason::Retention });
    rig.ack(1, s(), &[3, 4, 5]);
    assert_eq!(told(&mut rig, 1).ends, done(&[Some(s()), None]));
}

#[test]
fn of_7_a_cut_of_the_log_shortens_a_replay() {
    let mut rig = own(Mode::Keyed, 1);
    rig.append(s(), &[1, 2, 3, 4]);
    rig.join(1, 2);
    start(&mut rig, vec![range(s(), 0, 4)]).unwrap();
    rig.ack(1, s(), &[0]);
    rig.logs.get_mut(&s()).unwrap().truncate(2);
    rig.event(Event::Cut { source: s(), at: Some(at(2)), epoch: PartitionEpoch::new(1).unwrap() });
    rig.append(s(), &[7, 8]);
    told(&mut rig, 1);
    rig.ack(1, s(), &[1]);
    let end = told(&mut rig, 1);
    assert_eq!((end.ends, end.marked), (done(&[Some(s()), None]), vec![]), "what came in its place is no part of it");
}

#[test]
fn re_10_a_replay_ends_with_its_topic() {
    let mut rig = own(Mode::Keyed, 1);
    rig.append(s(), &[1, 2]);
    rig.join(1, 100);
    start(&mut rig, vec![range(s(), 0, 2)]).unwrap();
    rig.event(Event::Topics { added: Vec::new(), starts: Vec::new(), removed: vec![s().topic] });
    assert!(told(&mut rig, 1).ends.contains(&(None, ReplayEnd::Cancelled)));
}

#[test]
fn rp_2_a_redrive_in_a_group_that_was_there_is_not_marked() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.append(s(), &[1, 2, 3]);
    rig.join(1, 100);
    rig.ack(1, s(), &[1, 2]);
    rig.bury(1, s(), 0);
    start(&mut rig, vec![range(s(), 0, 3)]).unwrap();
    told(&mut rig, 1);
    rig.redrive(5, s(), &[0]).unwrap();
    let sent = told(&mut rig, 1);
    assert_eq!((sent.plain, sent.marked), (vec![0], vec![]));
}
