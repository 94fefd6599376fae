//! Mode OFFSET, through a whole machine.

use super::super::GroupConfig;
use super::super::effect::AckStatus;
use super::super::entry::LaneState as State;
use super::super::event::{Admin, Credit, Event, RecordMeta as Meta};
use super::super::letters_support::{act, entry_key};
use super::super::retry::AfterDead;
use super::super::test_support::{Rig, at, error, member, source};
use super::super::{Mode, event::Targets};
use super::*;

fn s() -> Source {
    source(1, 0)
}

fn config() -> GroupConfig {
    GroupConfig::new(Mode::Offset, vec!["orders".to_owned()])
}

fn rig() -> Rig {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 1_000);
    rig
}

fn epoch(rig: &Rig, number: u8) -> AssignmentEpoch {
    rig.units[&member(number)][0].2
}

/// Ranges that a member was sent: from, to, marks.
fn ranges(rig: &mut Rig, number: u8) -> Vec<(u64, u64, Vec<Mark>)> {
    let frames = rig.taken(number).into_iter();
    frames
        .filter_map(|frame| match frame {
            Frame::DeliverRange { range, marks, .. } => Some((range.from.get(), range.to.get(), marks)),
            _ => None,
        })
        .collect()
}

fn covered(rig: &mut Rig, number: u8) -> Vec<(u64, u64)> {
    ranges(rig, number).into_iter().map(|(from, to, _)| (from, to)).collect()
}

fn commit_with(
    rig: &mut Rig,
    number: u8,
    next: u64,
    force: bool,
    record_epoch: Option<PartitionEpoch>,
) -> Result<Offset, Refusal> {
    let epoch = epoch(rig, number);
    let (request, metadata) = (9, "mine".to_owned());
    rig.verb(number, Verb::Commit { request, source: s(), epoch, next: at(next), record_epoch, metadata, force });
    let frames = rig.frames.get_mut(&member(number)).unwrap();
    let found = frames.iter().position(|(frame, _)| matches!(frame, Frame::CommitResult { .. })).unwrap();
    let (frame, after) = frames.remove(found).unwrap();
    assert_eq!(after, After::Group, "durable before the reply");
    let Frame::CommitResult { result, .. } = frame else { unreachable!("it was just matched") };
    result
}

fn commit(rig: &mut Rig, number: u8, next: u64) -> Result<Offset, Refusal> {
    commit_with(rig, number, next, false, None)
}

fn dead(rig: &mut Rig, number: u8, offset: u64, kind: EntryKind) {
    let epoch = epoch(rig, number);
    let error = Some(error("E"));
    rig.verb(number, Verb::DeadLetter { request: 5, source: s(), epoch, offset: at(offset), kind, error });
}

type Told = (Result<EntryKey, Refusal>, bool, After);

fn dead_results(rig: &mut Rig, number: u8) -> Vec<Told> {
    let frames = rig.frames.remove(&member(number)).unwrap_or_default();
    let results = frames.into_iter().filter_map(|(frame, after)| match frame {
        Frame::DeadLetterResult { result, lane_live, .. } => Some((result, lane_live, after)),
        _ => None,
    });
    results.collect()
}

#[test]
fn ak_8_ranges_come_in_order_within_credit_and_more_with_more_credit() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 3);
    rig.append(s(), &[1, 2, 3, 4, 5]);
    assert_eq!(covered(&mut rig, 1), [(0, 3)]);
    commit(&mut rig, 1, 3).unwrap();
    assert_eq!(covered(&mut rig, 1), [], "a commit gives no credit back (rule FC-2)");
    rig.verb(1, Verb::Credit(Credit { records: 10, bytes: 1 << 20 }));
    assert_eq!(covered(&mut rig, 1), [(3, 5)]);
    rig.append(s(), &[6]);
    assert_eq!(covered(&mut rig, 1), [(5, 6)]);
}

#[test]
fn ak_9_what_was_sent_and_not_committed_is_sent_to_the_next_owner() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3, 4, 5]);
    assert_eq!(covered(&mut rig, 1), [(0, 5)]);
    commit(&mut rig, 1, 2).unwrap();
    rig.verb(1, Verb::Leave);
    rig.join(2, 100);
    assert_eq!(covered(&mut rig, 2), [(2, 5)], "from the commit, all of it");
}

#[test]
fn ob_2_a_commit_counts_what_it_passed_and_times_what_was_sent_together() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3, 4, 5]);
    rig.pass_alive(70, &[1]);
    let settled = |rig: &mut Rig, next: u64| {
        rig.notices.clear();
        commit(rig, 1, next).unwrap();
        rig.notices.iter().find_map(|notice| match notice {
            Notice::Settled { records, took } => Some((*records, took.map(|took| took.delivery_ms))),
            _ => None,
        })
    };
    assert_eq!(settled(&mut rig, 2), Some((2, None)), "a part of it");
    assert_eq!(settled(&mut rig, 2), None);
    assert_eq!(settled(&mut rig, 5), Some((3, Some(70))));
}

#[test]
fn fc_2_bytes_bound_a_range_but_for_one_record_that_is_sent_alone() {
    let mut rig = Rig::with(config(), 1);
    rig.event(Event::Join(Box::new(super::super::event::Join {
        member: member(1),
        resume: None,
        instance: None,
        client_id: "c".to_owned(),
        client_version: "1".to_owned(),
        credit: Credit { records: 100, bytes: 250 },
        in_work: Vec::new(),
    })));
    rig.append(s(), &[1, 2, 3, 4]);
    assert_eq!(covered(&mut rig, 1), [(0, 2), (2, 3)], "200 of 250 bytes, and one more");
    rig.verb(1, Verb::Credit(Credit { records: 0, bytes: 100 }));
    assert_eq!(covered(&mut rig, 1), [(3, 4)]);
}

#[test]
fn ak_8_a_commit_is_durable_and_its_metadata_comes_with_the_next_assignment() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    assert_eq!(commit(&mut rig, 1, 2), Ok(at(2)));
    assert_eq!(rig.floor(s()), 2);
    let mut rig = rig.restart(10);
    rig.join(2, 100);
    rig.pass_alive(13_000, &[2]);
    let frames = rig.taken(2);
    let assigned = frames.iter().find_map(|frame| match frame {
        Frame::Assign { start, metadata, .. } => Some((*start, metadata.clone())),
        _ => None,
    });
    assert_eq!(assigned, Some((at(2), "mine".to_owned())));
    let from = frames.iter().find_map(|frame| match frame {
        Frame::DeliverRange { range, .. } => Some(range.from),
        _ => None,
    });
    assert_eq!(from, Some(at(2)), "rule AK-9: the new owner starts at the committed offset");
}

#[test]
fn ak_8_a_commit_goes_backwards_only_by_force_and_never_beyond_the_high_watermark() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    commit(&mut rig, 1, 2).unwrap();
    let backwards = Refusal::CommitBackwards { source_partition: s(), current: at(2), asked: at(1) };
    assert_eq!(commit(&mut rig, 1, 1), Err(backwards));
    assert_eq!(commit_with(&mut rig, 1, 1, true, None), Ok(at(1)));
    let beyond = commit(&mut rig, 1, 4);
    assert!(matches!(beyond, Err(Refusal::OutOfRange { latest, .. }) if latest == at(3)), "{beyond:?}");
    assert_eq!(rig.floor(s()), 1);
}

#[test]
fn ak_8_a_commit_under_a_stale_epoch_or_by_another_is_fenced() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    let stale = AssignmentEpoch(epoch(&rig, 1).0 - 1);
    let metadata = String::new();
    rig.taken(1);
    let (request, record_epoch, force) = (1, None, false);
    rig.verb(1, Verb::Commit { request, source: s(), epoch: stale, next: at(1), record_epoch, metadata, force });
    let fenced = rig
        .taken(1)
        .into_iter()
        .any(|frame| matches!(frame, Frame::CommitResult { result: Err(Refusal::Fenced { .. }), .. }));
    assert!(fenced);
    assert_eq!(rig.floor(s()), 0);
}

#[test]
fn ak_8_metadata_has_a_bound() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    let epoch = epoch(&rig, 1);
    let metadata = "x".repeat(4_097);
    rig.taken(1);
    let (request, record_epoch, force) = (1, None, false);
    rig.verb(1, Verb::Commit { request, source: s(), epoch, next: at(1), record_epoch, metadata, force });
    let refused = rig.taken(1).into_iter().any(|frame| {
        matches!(frame, Frame::CommitResult { result: Err(Refusal::Invalid { field: "metadata", .. }), .. })
    });
    assert!(refused);
}

#[test]
fn of_7_a_commit_of_a_position_before_a_cut_is_out_of_range_with_the_cut() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    rig.logs.get_mut(&s()).unwrap().truncate(1);
    rig.event(Event::Cut { source: s(), at: Some(at(1)), epoch: PartitionEpoch::new(1).unwrap() });
    rig.append(s(), &[4, 5]);
    rig.event(Event::HighWatermark { source: s(), offset: at(3) });
    let stale = commit_with(&mut rig, 1, 3, false, Some(PartitionEpoch::ZERO));
    assert!(matches!(stale, Err(Refusal::OutOfRange { latest, .. }) if latest == at(1)), "{stale:?}");
    assert_eq!(commit_with(&mut rig, 1, 3, false, PartitionEpoch::new(1)), Ok(at(3)));
}

#[test]
fn ak_8_a_dead_letter_makes_an_entry_and_later_records_of_its_lane_come_marked() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 1]);
    rig.taken(1);
    dead(&mut rig, 1, 0, EntryKind::Failed);
    assert_eq!(dead_results(&mut rig, 1), [], "not before its entry is durable");
    assert_eq!(rig.moves.len(), 1);
    rig.settle_moves();
    assert_eq!(dead_results(&mut rig, 1), [(Ok(entry_key(s(), 0)), false, After::Group)]);
    assert_eq!((rig.lane_state(s(), 1), rig.floor(s())), (State::Dead, 0), "the commit is the client's");
    rig.append(s(), &[1, 2]);
    let sent = ranges(&mut rig, 1);
    assert_eq!(sent.len(), 1);
    let (from, to, marks) = &sent[0];
    assert_eq!((*from, *to, marks.len()), (3, 5, 1));
    assert_eq!((marks[0].offset, marks[0].entry, marks[0].state), (at(3), entry_key(s(), 0), None));
    // The client parks what it was sent before and after.
    dead(&mut rig, 1, 2, EntryKind::Parked);
    dead(&mut rig, 1, 3, EntryKind::Parked);
    rig.settle_moves();
    let results = dead_results(&mut rig, 1);
    assert_eq!(results.len(), 2, "{results:?}");
    assert_eq!(rig.entry(s(), 2).blocked_by, Some(entry_key(s(), 0)));
    commit(&mut rig, 1, 5).unwrap();
    assert_eq!(rig.machine.entries().len(), 3);
}

#[test]
fn ak_8_parking_a_record_of_a_live_lane_is_answered_lane_live() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    rig.taken(1);
    dead(&mut rig, 1, 0, EntryKind::Parked);
    let results = dead_results(&mut rig, 1);
    assert_eq!((results.len(), results[0].1), (1, true));
    assert!(rig.machine.entries().is_empty() && rig.moves.is_empty());
}

#[test]
fn ak_8_a_dead_letter_twice_is_one_entry_and_both_are_answered() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    rig.taken(1);
    dead(&mut rig, 1, 0, EntryKind::Failed);
    rig.settle_moves();
    dead(&mut rig, 1, 0, EntryKind::Failed);
    let results = dead_results(&mut rig, 1);
    assert_eq!(results.iter().filter(|one| one.0.is_ok()).count(), 2, "{results:?}");
    assert_eq!(rig.machine.entries().len(), 1);
}

#[test]
fn ak_8_a_dead_letter_of_what_was_not_sent_is_refused() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 1);
    rig.append(s(), &[1, 2]);
    rig.taken(1);
    dead(&mut rig, 1, 1, EntryKind::Failed);
    assert!(matches!(dead_results(&mut rig, 1)[..], [(Err(Refusal::OutOfRange { .. }), false, _)]));
}

#[test]
fn ak_8_redriven_records_are_leased_beside_and_do_not_move_the_commit() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    dead(&mut rig, 1, 0, EntryKind::Failed);
    rig.settle_moves();
    rig.redrive(4, s(), &[0]).unwrap();
    rig.taken(1);
    assert_eq!(rig.both(1).1, Vec::<u64>::new(), "not before its place was passed (rule DL-15)");
    commit(&mut rig, 1, 1).unwrap();
    assert_eq!(rig.both(1).1, [0]);
    assert_eq!(rig.ack_entry(1, s(), &[0]), [AckStatus::Ok]);
    assert_eq!((rig.floor(s()), rig.lane_state(s(), 1)), (1, State::Live));
    rig.append(s(), &[1]);
    let sent = ranges(&mut rig, 1);
    assert!(sent.iter().all(|(_, _, marks)| marks.is_empty()), "rule RD-5: the next comes unmarked");
}

#[test]
fn dl_15_a_record_with_an_entry_comes_with_its_id_and_state_when_it_is_met_again() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    dead(&mut rig, 1, 0, EntryKind::Failed);
    dead(&mut rig, 1, 1, EntryKind::Failed);
    rig.settle_moves();
    rig.close(s(), &[1], EntryState::Discarded).unwrap();
    rig.taken(1);
    rig.reset(s(), 0, false);
    let marks: Vec<(Offset, Option<EntryState>)> =
        ranges(&mut rig, 1).into_iter().flat_map(|one| one.2).map(|mark| (mark.offset, mark.state)).collect();
    assert_eq!(marks, [(at(0), Some(EntryState::Open)), (at(1), Some(EntryState::Discarded))]);
}

#[test]
fn dl_8_continue_marks_nothing_of_the_lane() {
    let mut config = config();
    config.retry.after_dead = AfterDead::Continue;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 100);
    rig.append(s(), &[1]);
    dead(&mut rig, 1, 0, EntryKind::Failed);
    rig.settle_moves();
    rig.taken(1);
    rig.append(s(), &[1]);
    assert!(ranges(&mut rig, 1)[0].2.is_empty());
}

#[test]
fn ak_7_a_dead_letter_too_many_is_refused_and_the_partition_reads_no_more() {
    let mut rig = Rig::with(GroupConfig { max_dead_lanes: 1, ..config() }, 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 2]);
    dead(&mut rig, 1, 0, EntryKind::Failed);
    rig.settle_moves();
    rig.taken(1);
    dead(&mut rig, 1, 1, EntryKind::Failed);
    assert!(matches!(dead_results(&mut rig, 1)[..], [(Err(Refusal::Limit { .. }), false, _)]));
    rig.close(s(), &[0], EntryState::Discarded).unwrap();
    assert!(rig.machine.state().pauses.is_empty());
}

#[test]
fn fc_7_filtered_offsets_are_named_with_the_range() {
    let mut config = config();
    config.filter.key = Some(bytes::Bytes::from_static(b"k"));
    let mut rig = Rig::with(config, 1);
    rig.join(1, 100);
    let metas: Vec<Meta> =
        (0..3).map(|offset| Meta { offset: at(offset), filtered: offset == 1, ..rig.meta(s(), 1) }).collect();
    rig.logs.insert(s(), metas);
    rig.read();
    let frames = rig.taken(1);
    let filtered = frames.iter().find_map(|frame| match frame {
        Frame::DeliverRange { range, filtered, .. } => Some((range.to, filtered.clone())),
        _ => None,
    });
    assert_eq!(filtered, Some((at(3), vec![at(1)])));
}

#[test]
fn rm_8_crashes_with_the_first_record_started_are_counted_until_the_start_moves() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    for crashes in 1..=2_u8 {
        let epoch = epoch(&rig, crashes);
        let runs = vec![OffsetRange { from: at(0), to: at(1) }];
        rig.verb(crashes, Verb::Started { targets: Targets { source: s(), epoch, runs, entries: vec![] } });
        rig.pass(11_000);
        assert_eq!(rig.machine.state().partitions[&s()].crashes, u32::from(crashes));
        rig.join(crashes + 1, 100);
        let told = rig.frames[&member(crashes + 1)]
            .iter()
            .any(|(frame, _)| matches!(frame, Frame::Assign { crashes: told, .. } if *told == u32::from(crashes)));
        assert!(told);
    }
    commit(&mut rig, 3, 1).unwrap();
    assert_eq!(rig.machine.state().partitions[&s()].crashes, 0);
    rig.pass(11_000);
    assert_eq!(rig.machine.state().partitions[&s()].crashes, 0, "nothing was started");
}

#[test]
fn of_3_a_reset_starts_the_owner_anew_under_a_new_epoch() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    commit(&mut rig, 1, 3).unwrap();
    let before = epoch(&rig, 1);
    rig.taken(1);
    rig.reset(s(), 1, false);
    assert!(epoch(&rig, 1) > before);
    assert_eq!(covered(&mut rig, 1), [(1, 3)]);
}

/// Where the live end and what is behind it were told, in the row of ranges: (true, offset) is `CaughtUp`.
fn live(rig: &mut Rig, number: u8) -> Vec<Result<u64, (bool, u64)>> {
    let frames = rig.taken(number).into_iter();
    frames
        .filter_map(|frame| match frame {
            Frame::DeliverRange { range, .. } => Some(Ok(range.to.get())),
            Frame::CaughtUp { offset, .. } => Some(Err((true, offset.get()))),
            Frame::FellBehind { offset, .. } => Some(Err((false, offset.get()))),
            _ => None,
        })
        .collect()
}

#[test]
fn fc_4_the_live_end_is_told_behind_the_last_record_before_it() {
    let mut rig = Rig::with(config(), 1);
    rig.append(s(), &(0..6_000).collect::<Vec<u64>>());
    rig.join(1, 1_000);
    assert!(live(&mut rig, 1).iter().all(Result::is_ok), "records wait for credit");
    rig.verb(1, Verb::Credit(Credit { records: 5_000, bytes: 64 << 20 }));
    assert_eq!(live(&mut rig, 1).pop(), Some(Err((true, 6_000))));
    rig.append(s(), &(0..5_000).collect::<Vec<u64>>());
    assert_eq!(live(&mut rig, 1), [Err((false, 6_000))], "so much without credit is history again");
    rig.verb(1, Verb::Credit(Credit { records: 10_000, bytes: 64 << 20 }));
    assert_eq!(live(&mut rig, 1).pop(), Some(Err((true, 11_000))));
}

#[test]
fn gm_8_a_member_that_starts_anew_under_its_id_gets_what_its_former_session_was_sent() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3, 4]);
    commit(&mut rig, 1, 1).unwrap();
    assert_eq!(live(&mut rig, 1), [Ok(4), Err((true, 4))]);
    // The process was started anew: it knows its id and nothing else.
    rig.join(1, 2);
    assert_eq!(live(&mut rig, 1), [Ok(3)], "from the commit on, and that is not the live end");
    rig.verb(1, Verb::Credit(Credit { records: 10, bytes: 1 << 20 }));
    assert_eq!(live(&mut rig, 1), [Ok(4), Err((true, 4))]);
    rig.append(s(), &[5]);
    assert_eq!(live(&mut rig, 1), [Ok(5)]);
}

#[test]
fn gm_5_a_member_that_starts_anew_has_handed_over_what_was_revoked_from_its_former_session() {
    let mut rig = Rig::with(config(), 2);
    rig.join(1, 100);
    rig.join(2, 100);
    assert_eq!((rig.slots(1), rig.slots(2)), (8_192, 0), "one is to be handed over");
    rig.join(1, 100);
    assert_eq!((rig.slots(1), rig.slots(2)), (4_096, 4_096));
    assert_eq!((rig.units[&member(1)].len(), rig.units[&member(2)].len()), (1, 1), "both were told");
}

#[test]
fn gm_5_redriven_records_of_which_a_member_said_nothing_go_with_their_partition_and_without_a_strike() {
    let mut rig = Rig::with(config(), 2);
    rig.join(1, 100);
    let epoch = epoch(&rig, 1);
    for source in [source(1, 0), source(1, 1)] {
        rig.append(source, &[1]);
        let (kind, error) = (EntryKind::Failed, Some(error("E")));
        rig.verb(1, Verb::DeadLetter { request: 5, source, epoch, offset: at(0), kind, error });
        rig.settle_moves();
        let (next, record_epoch, metadata, force) = (at(1), None, String::new(), false);
        rig.verb(1, Verb::Commit { request: 9, source, epoch, next, record_epoch, metadata, force });
        rig.redrive(4, source, &[0]).unwrap();
    }
    assert_eq!(rig.both(1).1, [0, 0]);
    rig.join(2, 100);
    let revoked = rig.taken(1).into_iter().find_map(|frame| match frame {
        Frame::Revoke { unit, .. } => Some(unit.source),
        _ => None,
    });
    rig.verb(1, Verb::Revoked { source: revoked.expect("one of them moves"), slots: SlotRange::ALL });
    let deliveries = rig.taken(2).into_iter().filter_map(|frame| match frame {
        Frame::Deliver(delivered) => Some(delivered.records.iter().map(|one| one.attempt).collect::<Vec<_>>()),
        _ => None,
    });
    assert_eq!(deliveries.collect::<Vec<_>>(), [[1]], "at once, and as a first try");
}

#[test]
fn re_4_a_range_goes_on_behind_a_gap() {
    let mut rig = rig();
    rig.reading = false;
    let metas: Vec<Meta> = (5..8).map(|offset| Meta { offset: at(offset), ..rig.meta(s(), offset) }).collect();
    rig.logs.insert(s(), metas);
    let (range, reason) = (OffsetRange { from: at(0), to: at(5) }, super::super::record::GapReason::Retention);
    rig.event(Event::Gap { source: s(), range, reason });
    rig.reading = true;
    rig.read();
    assert_eq!((rig.floor(s()), covered(&mut rig, 1)), (5, vec![(5, 8)]));
}

#[test]
fn dl_4_a_crash_between_the_steps_of_a_dead_letter_converges() {
    for step in 0..2 {
        let mut rig = rig();
        rig.append(s(), &[1, 1]);
        dead(&mut rig, 1, 0, EntryKind::Failed);
        if step == 1 {
            rig.copy_moves();
        }
        let mut rig = rig.restart(10);
        rig.settle_moves();
        assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Open));
        assert_eq!(rig.floor(s()), 0, "the position is the client's");
        rig.join(1, 100);
        let marks: Vec<Mark> = ranges(&mut rig, 1).into_iter().flat_map(|one| one.2).collect();
        assert_eq!(marks.iter().map(|mark| mark.offset).collect::<Vec<_>>(), [at(0), at(1)]);
        let expected = Admin::Head { source: s(), lane: rig.lane(s(), 1), skip: true, act: act() };
        rig.admin(expected).unwrap();
        assert_eq!(rig.lane_state(s(), 1), State::Live);
    }
}

#[test]
fn re_4_a_gap_behind_what_waits_for_credit_is_passed_once_and_a_commit_does_not_open_it_again() {
    let mut rig = Rig::with(config(), 1);
    rig.join(1, 1);
    rig.append(s(), &[1, 2, 3, 4, 5, 6]);
    assert_eq!(covered(&mut rig, 1), [(0, 1)], "what was read besides waits for credit");
    rig.reading = false;
    rig.append(s(), &[7; 12]);
    rig.logs.get_mut(&s()).unwrap().retain(|meta| meta.offset >= at(12));
    let range = OffsetRange { from: at(6), to: at(12) };
    rig.event(Event::Gap { source: s(), range, reason: super::super::record::GapReason::Retention });
    assert_eq!(rig.asked[&s()].from, at(12), "it is not asked for again");
    rig.reading = true;
    rig.read();
    rig.verb(1, Verb::Credit(Credit { records: 100, bytes: 1 << 20 }));
    assert_eq!(covered(&mut rig, 1), [(1, 6), (12, 18)]);
    assert_eq!(commit(&mut rig, 1, 6), Ok(at(6)));
    assert_eq!(rig.floor(s()), 12, "the gap stays passed");
}

#[test]
fn re_4_a_dead_letter_for_a_record_that_is_gone_by_now_is_answered() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    assert_eq!(covered(&mut rig, 1), [(0, 3)]);
    rig.reading = false;
    dead(&mut rig, 1, 1, EntryKind::Failed);
    assert_eq!(rig.asked[&s()].from, at(1));
    let range = OffsetRange { from: at(0), to: at(2) };
    rig.event(Event::Gap { source: s(), range, reason: super::super::record::GapReason::Retention });
    assert_eq!(dead_results(&mut rig, 1), [(Err(Refusal::EntryNotFound), false, After::Now)]);
    assert_eq!(rig.asked[&s()].from, at(3), "reading goes on where it was");
}
