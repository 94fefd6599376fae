//! Cuts below cursors, through a whole machine (rule RM-1).

use super::super::config::{GroupConfig, Mode, Positions};
use super::super::event::{Admin, Event, Verb};
use super::super::letters_support::act;
use super::super::test_support::{Rig, at, member, source};
use super::*;

fn s() -> Source {
    source(1, 0)
}

/// A reader whose cursor may stand anywhere, and a log that was cut.
fn rig() -> Rig {
    let config = GroupConfig::new(Mode::Offset, vec!["orders".to_owned()]).positions(Positions::Cursor);
    let mut rig = Rig::with(config, 2);
    rig.join(1, 1_000);
    rig.append(s(), &[1, 2, 3, 4, 5, 6]);
    rig
}

fn epoch(rig: &Rig, number: u8) -> AssignmentEpoch {
    rig.units[&member(number)].iter().find(|unit| unit.0 == s()).unwrap().2
}

/// The answer to a report.
fn answer(rig: &mut Rig, number: u8, verb: Verb) -> Result<Offset, Refusal> {
    rig.verb(number, verb);
    let told = rig.taken(number).into_iter().find_map(|frame| match frame {
        Frame::CommitResult { result, .. } => Some(result),
        _ => None,
    });
    told.expect("a report is answered")
}

/// What the log says of a cursor at `next`: cut at `cut`.
fn cut_at(rig: &mut Rig, number: u8, next: u64, cut: u64) -> CursorCut {
    let (epoch, record_epoch) = (epoch(rig, number), PartitionEpoch::ZERO);
    let report = CutReport { request: 1, source: s(), epoch, next: at(next), record_epoch, at: at(cut) };
    match answer(rig, number, Verb::ReportCut(Box::new(report))) {
        Err(Refusal::CursorCut(of, cut)) if of == s() => *cut,
        other => panic!("{other:?}"),
    }
}

fn whole(rig: &mut Rig, number: u8, next: u64) {
    let (epoch, offset) = (epoch(rig, number), rig.end(s()));
    rig.event(Event::HighWatermark { source: s(), offset });
    let report = Verb::Report { request: 2, source: s(), epoch, next: at(next), record_epoch: None };
    assert_eq!(answer(rig, number, report), Ok(at(next)));
}

fn accept(rig: &mut Rig, source: Option<Source>) {
    rig.admin(Admin::AcceptGap { source, act: act() }).expect("it may");
}

fn gap(rig: &Rig) -> Option<(u64, u64, bool)> {
    let live = rig.machine.partition_live(s()).unwrap();
    let (range, reason) = live.gap?;
    assert_eq!(reason, GapReason::Truncated);
    Some((range.from.get(), range.to.get(), live.gap_accepted))
}

#[test]
fn rm_1_an_accepted_cut_is_durable_and_told_until_the_reader_has_passed_it() {
    let mut rig = rig();
    assert_eq!(gap(&rig), None);
    assert_eq!(cut_at(&mut rig, 1, 5, 3).accepted, None);
    assert_eq!(gap(&rig), Some((3, 5, false)), "an operator sees it");
    let found = rig.journal.len();
    cut_at(&mut rig, 1, 5, 3);
    assert_eq!(rig.journal.len(), found, "kept once");
    // Killed before and after somebody accepts it.
    let mut rig = rig.restart(10);
    assert_eq!(gap(&rig), Some((3, 5, false)));
    accept(&mut rig, Some(s()));
    let mut rig = rig.restart(10);
    assert_eq!(gap(&rig), Some((3, 5, true)));
    rig.join(2, 100);
    rig.pass_alive(11_000, &[2]);
    assert_eq!(cut_at(&mut rig, 2, 5, 3).accepted, Some(act()), "the reader may go on at the cut");
    // Killed before it did, it is told again.
    let mut rig = rig.restart(10);
    rig.join(3, 100);
    rig.pass_alive(11_000, &[3]);
    assert_eq!(cut_at(&mut rig, 3, 5, 3).accepted, Some(act()));
    whole(&mut rig, 3, 3);
    assert_eq!((gap(&rig), rig.floor(s())), (None, 3));
    assert_eq!(gap(&rig.restart(10)), None, "it is passed");
}

#[test]
fn rm_1_what_was_accepted_holds_for_one_position_at_one_cut_alone() {
    for (next, cut) in [(5, 2), (6, 3), (4, 3)] {
        let mut rig = rig();
        cut_at(&mut rig, 1, 5, 3);
        accept(&mut rig, None);
        assert_eq!(cut_at(&mut rig, 1, next, cut).accepted, None, "a cursor at {next}, cut at {cut}");
        assert_eq!(gap(&rig), Some((cut, next, false)));
    }
    // A cut further down, that the broker finds by itself.
    let mut rig = rig();
    cut_at(&mut rig, 1, 5, 3);
    accept(&mut rig, None);
    rig.logs.get_mut(&s()).unwrap().truncate(2);
    rig.event(Event::Cut { source: s(), at: Some(at(2)), epoch: PartitionEpoch::new(1).unwrap() });
    assert_eq!(gap(&rig), None, "the reader is asked anew");
    assert_eq!(cut_at(&mut rig, 1, 5, 2).accepted, None);
}

#[test]
fn rm_1_without_a_cut_there_is_nothing_to_accept_and_another_partition_or_owner_changes_nothing() {
    let mut rig = rig();
    let journal = rig.journal.len();
    accept(&mut rig, None);
    accept(&mut rig, Some(s()));
    assert_eq!(rig.journal.len(), journal);
    cut_at(&mut rig, 1, 5, 3);
    accept(&mut rig, Some(source(1, 1)));
    assert_eq!(gap(&rig), Some((3, 5, false)));
    let epoch = AssignmentEpoch(epoch(&rig, 1).0 - 1);
    let report =
        CutReport { request: 1, source: s(), epoch, next: at(6), record_epoch: PartitionEpoch::ZERO, at: at(1) };
    let fenced = answer(&mut rig, 1, Verb::ReportCut(Box::new(report)));
    assert!(matches!(fenced, Err(Refusal::Fenced { .. })), "{fenced:?}");
    assert_eq!(gap(&rig), Some((3, 5, false)));
    // The model was made anew meanwhile.
    whole(&mut rig, 1, 0);
    assert_eq!(gap(&rig), None);
}

#[test]
fn rm_1_a_cut_that_the_group_remembers_is_kept_and_accepted_the_same_way() {
    let mut rig = rig();
    rig.logs.get_mut(&s()).unwrap().truncate(3);
    rig.event(Event::Cut { source: s(), at: Some(at(3)), epoch: PartitionEpoch::new(1).unwrap() });
    rig.append(s(), &[7, 8, 9, 10]);
    let stale = |rig: &mut Rig| {
        let record_epoch = Some(PartitionEpoch::ZERO);
        let report = Verb::Report { request: 3, source: s(), epoch: epoch(rig, 1), next: at(5), record_epoch };
        match answer(rig, 1, report) {
            Err(Refusal::CursorCut(_, cut)) => (cut.at, cut.accepted.is_some()),
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(stale(&mut rig), (at(3), false));
    accept(&mut rig, None);
    assert_eq!(stale(&mut rig), (at(3), true));
    whole(&mut rig, 1, 3);
    assert_eq!(gap(&rig), None);
}
