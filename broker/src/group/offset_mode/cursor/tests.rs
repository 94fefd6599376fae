//! Groups whose positions are cursors, through a whole machine.

use super::super::super::effect::{AckStatus, Frame, Refusal};
use super::super::super::entry::{DeadReason, EntryKind, EntryState};
use super::super::super::event::{Admin, Event, Targets, Verb};
use super::super::super::letters_support::{act, entry_key};
use super::super::super::record::ErrorInfo;
use super::super::super::test_support::{Rig, at, error, member, source};
use super::super::super::{GroupConfig, Mode, OnGap, Positions};
use super::*;
use crate::model::OffsetRange;

fn s() -> Source {
    source(1, 0)
}

fn config() -> GroupConfig {
    GroupConfig::new(Mode::Offset, vec!["orders".to_owned()]).positions(Positions::Cursor)
}

fn rig() -> Rig {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 1_000);
    rig
}

fn epoch(rig: &Rig, number: u8) -> AssignmentEpoch {
    rig.units[&member(number)][0].2
}

fn report_with(rig: &mut Rig, number: u8, next: u64, record_epoch: Option<PartitionEpoch>) -> Result<Offset, Refusal> {
    let epoch = epoch(rig, number);
    // As a session does.
    let offset = rig.end(s());
    rig.event(Event::HighWatermark { source: s(), offset });
    rig.verb(number, Verb::Report { request: 3, source: s(), epoch, next: at(next), record_epoch });
    let frames = rig.frames.get_mut(&member(number)).unwrap();
    let found = frames.iter().position(|(frame, _)| matches!(frame, Frame::CommitResult { .. })).unwrap();
    let Some((Frame::CommitResult { result, .. }, _)) = frames.remove(found) else { unreachable!("just matched") };
    result
}

fn report(rig: &mut Rig, number: u8, next: u64) -> Result<Offset, Refusal> {
    report_with(rig, number, next, None)
}

fn ranges(rig: &mut Rig, number: u8) -> Vec<(u64, u64, Vec<Mark>)> {
    let told = rig.taken(number).into_iter().filter_map(|frame| match frame {
        Frame::DeliverRange { range, marks, .. } => Some((range.from.get(), range.to.get(), marks)),
        _ => None,
    });
    told.collect()
}

fn covered(rig: &mut Rig, number: u8) -> Vec<(u64, u64)> {
    ranges(rig, number).into_iter().map(|(from, to, _)| (from, to)).collect()
}

fn dead(rig: &mut Rig, number: u8, offset: u64, error: ErrorInfo) {
    let epoch = epoch(rig, number);
    let (kind, error) = (EntryKind::Failed, Some(error));
    rig.verb(number, Verb::DeadLetter { request: 5, source: s(), epoch, offset: at(offset), kind, error });
    rig.settle_moves();
}

#[test]
fn rm_3_nothing_of_a_unit_is_sent_before_its_cursor_is_reported() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    rig.append(s(), &[4]);
    assert_eq!(covered(&mut rig, 1), []);
    assert_eq!(report(&mut rig, 1, 2), Ok(at(2)));
    assert_eq!((covered(&mut rig, 1), rig.floor(s())), (vec![(2, 4)], 2));
    rig.append(s(), &[5]);
    assert_eq!(covered(&mut rig, 1), [(4, 5)]);
}

#[test]
fn rm_3_a_resumed_session_and_a_new_owner_report_anew() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    report(&mut rig, 1, 1).unwrap();
    let in_work = rig.in_work(1);
    rig.taken(1);
    rig.join_as(1, 100, None, Some(in_work));
    assert_eq!(covered(&mut rig, 1), [], "the cursor may have moved since");
    report(&mut rig, 1, 2).unwrap();
    assert_eq!(covered(&mut rig, 1), [(2, 3)]);
    rig.join(2, 100);
    rig.pass_alive(11_000, &[2]);
    assert_eq!(covered(&mut rig, 2), []);
    report(&mut rig, 2, 0).unwrap();
    assert_eq!(covered(&mut rig, 2), [(0, 3)]);
}

#[test]
fn rm_3_the_cursor_is_the_truth_and_its_report_is_durable_also_backwards() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    report(&mut rig, 1, 3).unwrap();
    rig.taken(1);
    assert_eq!(report(&mut rig, 1, 1), Ok(at(1)));
    assert_eq!((covered(&mut rig, 1), rig.floor(s())), (vec![(1, 3)], 1));
    let rig = rig.restart(10);
    assert_eq!(rig.floor(s()), 1);
}

#[test]
fn rm_3_a_report_beyond_the_log_of_a_cut_epoch_or_a_stale_assignment_is_refused() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    let beyond = report(&mut rig, 1, 4);
    assert!(matches!(beyond, Err(Refusal::OutOfRange { latest, .. }) if latest == at(3)), "{beyond:?}");
    report(&mut rig, 1, 3).unwrap();
    rig.logs.get_mut(&s()).unwrap().truncate(1);
    rig.event(Event::Cut { source: s(), at: Some(at(1)), epoch: PartitionEpoch::new(1).unwrap() });
    rig.append(s(), &[4, 5]);
    rig.taken(1);
    let stale = report_with(&mut rig, 1, 3, Some(PartitionEpoch::ZERO));
    assert!(matches!(&stale, Err(Refusal::CursorCut(_, cut)) if cut.at == at(1)), "{stale:?}");
    assert_eq!(covered(&mut rig, 1), [], "nothing follows a refusal");
    let old = AssignmentEpoch(epoch(&rig, 1).0 - 1);
    rig.verb(1, Verb::Report { request: 1, source: s(), epoch: old, next: at(1), record_epoch: None });
    let told = rig.taken(1);
    let fenced = |frame: &Frame| matches!(frame, Frame::CommitResult { result: Err(Refusal::Fenced { .. }), .. });
    assert!(told.iter().any(fenced), "{told:?}");
}

#[test]
fn rm_3_commits_and_resets_are_of_the_wrong_mode_and_so_are_reports_elsewhere() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    report(&mut rig, 1, 0).unwrap();
    let epoch_now = epoch(&rig, 1);
    let (request, metadata) = (1, String::new());
    let commit = |epoch| Verb::Commit {
        request,
        source: s(),
        epoch,
        next: at(1),
        record_epoch: None,
        metadata: metadata.clone(),
        force: true,
    };
    rig.verb(1, commit(epoch_now));
    let wrong = |frame: &Frame| matches!(frame, Frame::CommitResult { result: Err(Refusal::WrongMode { .. }), .. });
    assert!(rig.taken(1).iter().any(wrong));
    let (floors, clear) = (Vec::new(), false);
    let reset = rig.admin(Admin::Reset { floors, clear, act: act() });
    assert_eq!(reset, Err(Refusal::WrongMode { verb: "ResetPositions" }));
    assert_eq!(rig.admin(Admin::UndoReset { act: act() }), Err(Refusal::WrongMode { verb: "UndoReset" }));
    let plain = GroupConfig::new(Mode::Offset, vec!["orders".to_owned()]);
    let change = Admin::Configure { config: Box::new(plain.clone()), notes: Default::default() };
    assert!(matches!(rig.admin(change), Err(Refusal::Invalid { field: "positions", .. })));
    let mut rig = Rig::with(plain, 1);
    rig.join(1, 10);
    assert_eq!(report(&mut rig, 1, 0), Err(Refusal::WrongMode { verb: "ReportProgress" }));
}

#[test]
fn rm_3_cursors_are_of_mode_offset_and_stop_at_gaps() {
    assert_eq!(config().on_gap, OnGap::Stop);
    let keyed = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]).positions(Positions::Cursor);
    assert_eq!(keyed.check().unwrap_err().field, "positions");
    config().check().unwrap();
}

#[test]
fn rm_8_crashes_are_counted_until_a_report_moves_the_start() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    report(&mut rig, 1, 0).unwrap();
    let (epoch, runs) = (epoch(&rig, 1), vec![OffsetRange { from: at(0), to: at(2) }]);
    rig.verb(1, Verb::Started { targets: Targets { source: s(), epoch, runs, entries: vec![] } });
    rig.pass(11_000);
    assert_eq!(rig.machine.state().partitions[&s()].crashes, 1);
    let mut rig = rig.restart(10);
    rig.join(2, 100);
    rig.read();
    let told = rig.frames[&member(2)].iter().any(|(frame, _)| matches!(frame, Frame::Assign { crashes: 1, .. }));
    assert!(told, "durable, and told");
    report(&mut rig, 2, 0).unwrap();
    assert_eq!(rig.machine.state().partitions[&s()].crashes, 1, "the start has not moved");
    dead(&mut rig, 2, 0, error(CONSUMER_CRASH));
    assert_eq!(rig.entry(s(), 0).reason, DeadReason::ConsumerCrash);
    report(&mut rig, 2, 1).unwrap();
    assert_eq!(rig.machine.state().partitions[&s()].crashes, 0);
}

#[test]
fn dl_15_a_cursor_that_meets_a_resolved_record_again_gets_the_version_it_was_resolved_with() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    report(&mut rig, 1, 0).unwrap();
    dead(&mut rig, 1, 0, error("E"));
    dead(&mut rig, 1, 1, error("E"));
    report(&mut rig, 1, 2).unwrap();
    let copy = at(70);
    rig.admin(Admin::EntryEdited { entry: entry_key(s(), 0), copy, act: act() }).unwrap();
    for offset in [0, 1] {
        rig.redrive(4 + offset, s(), &[offset]).unwrap();
        rig.both(1);
        assert_eq!(rig.ack_entry(1, s(), &[offset]), [AckStatus::Ok]);
    }
    rig.taken(1);
    report(&mut rig, 1, 0).unwrap();
    let marks: Vec<Mark> = ranges(&mut rig, 1).into_iter().flat_map(|one| one.2).collect();
    let told: Vec<_> = marks.iter().map(|mark| (mark.state, mark.copy)).collect();
    let resolved = |version| Some(EntryState::Resolved { version });
    assert_eq!(told, [(resolved(1), Some(copy)), (resolved(0), None)]);
    assert_eq!(marks[0].cycle, rig.entry(s(), 0).cycle);
}

fn stall(rig: &mut Rig, number: u8, epoch: AssignmentEpoch, reason: Option<&str>) {
    rig.verb(number, Verb::Stalled(s(), epoch, reason.map(str::to_owned)));
}

/// Why the reader waits, as people are told.
fn stalled(rig: &Rig) -> Option<String> {
    rig.machine.partition_live(s()).unwrap().stalled.map(|stall| stall.reason)
}

#[test]
fn rm_6_a_reader_that_waits_is_told_until_it_goes_on_and_nothing_of_it_is_durable() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    report(&mut rig, 1, 0).unwrap();
    let (epoch, journal) = (epoch(&rig, 1), rig.journal.len());
    stall(&mut rig, 1, AssignmentEpoch(epoch.0 - 1), Some("of another owner"));
    assert_eq!(stalled(&rig), None);
    stall(&mut rig, 1, epoch, Some("locked"));
    let since_ms = rig.machine.stall_of(s()).unwrap().since_ms;
    rig.pass_alive(1_000, &[1]);
    stall(&mut rig, 1, epoch, Some("still locked"));
    let told = rig.machine.stall_of(s()).unwrap();
    assert_eq!((told.reason.as_str(), told.since_ms), ("still locked", since_ms), "since the first time");
    stall(&mut rig, 1, epoch, None);
    assert_eq!(stalled(&rig), None);
    stall(&mut rig, 1, epoch, Some("again"));
    assert!(rig.machine.stall_of(s()).unwrap().since_ms > since_ms);
    assert_eq!(rig.journal.len(), journal);
    assert_eq!(stalled(&rig.restart(10)), None);
}

#[test]
fn rm_6_that_a_reader_waits_is_forgotten_with_its_stream_its_session_and_its_unit() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    report(&mut rig, 1, 0).unwrap();
    let told = |rig: &mut Rig, number: u8| {
        let epoch = epoch(rig, number);
        stall(rig, number, epoch, Some("locked"));
        assert!(stalled(rig).is_some());
    };
    told(&mut rig, 1);
    rig.event(Event::StreamEnded { member: member(1), epoch: rig.epochs[&member(1)] });
    assert_eq!(stalled(&rig), None, "the stream has ended");
    let in_work = rig.in_work(1);
    rig.join_as(1, 100, None, Some(in_work));
    told(&mut rig, 1);
    rig.join(1, 100);
    assert_eq!(stalled(&rig), None, "another session begins");
    told(&mut rig, 1);
    rig.join(2, 100);
    rig.pass_alive(11_000, &[2]);
    assert_eq!(stalled(&rig), None, "the unit is another's");
    let (old, epoch) = (member(1), epoch(&rig, 2));
    assert_ne!(rig.machine.state().owners[&s()][0].member, old);
    stall(&mut rig, 2, epoch, Some("its own"));
    assert_eq!(stalled(&rig).as_deref(), Some("its own"));
}

#[test]
fn rm_6_a_reader_that_is_lost_while_it_waits_for_its_database_is_no_crash_of_a_record() {
    for waits in [true, false] {
        let mut rig = rig();
        rig.append(s(), &[1, 2]);
        report(&mut rig, 1, 0).unwrap();
        let (epoch, runs) = (epoch(&rig, 1), vec![OffsetRange { from: at(0), to: at(1) }]);
        rig.verb(1, Verb::Started { targets: Targets { source: s(), epoch, runs, entries: vec![] } });
        if waits {
            stall(&mut rig, 1, epoch, Some("read-only"));
        }
        rig.pass(11_000);
        assert_eq!(rig.machine.state().partitions[&s()].crashes, u32::from(!waits));
    }
}
