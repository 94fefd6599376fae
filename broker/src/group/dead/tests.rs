//! Deaths and what is met again, through a whole machine.

use super::super::effect::{AckStatus, After, Frame, Notice};
use super::super::entry::{EntryState, LaneState};
use super::super::event::{Admin, Event, Fetched, NackKind, RecordMeta};
use super::super::letters_support::{act, entry_key};
use super::super::record::{GapReason, GroupRecord, PauseReason};
use super::super::retry::{AfterDead, Backoff};
use super::super::test_support::{Rig, at, member, source};
use super::super::{GroupConfig, Mode};
use super::*;

fn s() -> Source {
    source(1, 0)
}

fn config(mode: Mode) -> GroupConfig {
    GroupConfig::new(mode, vec!["orders".to_owned()])
}

fn rig_with(config: GroupConfig) -> Rig {
    let mut rig = Rig::with(config, 1);
    rig.join(1, 1_000);
    rig
}

fn rig() -> Rig {
    rig_with(config(Mode::Keyed))
}

/// Answers to nacks and acks that a member has got, with what they waited for.
fn answers(rig: &mut Rig) -> Vec<(AckStatus, After)> {
    let frames = rig.frames.remove(&member(1)).unwrap_or_default();
    frames
        .into_iter()
        .filter_map(|(frame, after)| match frame {
            Frame::AckResults { results, .. } => Some(results.into_iter().map(move |(_, status)| (status, after))),
            _ => None,
        })
        .flatten()
        .collect()
}

/// Intents in the order of the journal: offset, kind.
fn intended(rig: &Rig) -> Vec<(u64, EntryKind)> {
    let intents = rig.journal.iter().filter_map(|record| match record {
        GroupRecord::Intended { intent, .. } => Some((intent.key.offset.get(), intent.kind)),
        _ => None,
    });
    intents.collect()
}

#[test]
fn dl_4_a_death_is_intended_copied_opened_settled_and_answered_in_this_order() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    assert_eq!(rig.offsets(1), [0, 1]);
    rig.dlq_end(s(), 500);
    rig.kill_record(1, s(), 0);
    assert_eq!((intended(&rig), rig.moves.clone()), (vec![(0, EntryKind::Failed)], vec![(s(), 1)]));
    assert_eq!(rig.machine.state().partitions[&s()].intents[&1].dlq_end, at(500));
    assert_eq!((rig.entry_state(s(), 0), rig.is_settled(s(), 0)), (None, false));
    assert_eq!(answers(&mut rig), []);
    rig.copy_moves();
    assert_eq!((rig.entry_state(s(), 0), rig.is_settled(s(), 0)), (Some(EntryState::Open), false));
    assert_eq!(answers(&mut rig), []);
    rig.open_moves();
    assert!(rig.is_settled(s(), 0));
    assert_eq!(answers(&mut rig), [(AckStatus::Ok, After::Group)]);
    let entry = rig.entry(s(), 0);
    assert_eq!((entry.reason, entry.attempts, entry.copy), (DeadReason::ConsumerDeadNack, 1, at(1_001)));
    assert_eq!((entry.class.as_deref(), entry.cycle, entry.size_bytes), (Some("E"), 0, 100));
}

#[test]
fn dl_4_a_crash_between_any_two_steps_converges_to_one_entry_and_no_redelivery() {
    for step in 0..5 {
        let mut rig = rig();
        rig.append(s(), &[1, 1, 2]);
        rig.kill_record(1, s(), 0);
        let entries_before = rig.entry_journal.len();
        if step >= 1 {
            rig.copy_moves();
        }
        if step == 1 {
            // The entry had not become durable.
            rig.entry_journal.truncate(entries_before);
        }
        if step >= 3 {
            rig.open_moves();
        }
        if step >= 4 {
            rig.settle_moves();
        }
        let mut rig = rig.restart(1_000);
        rig.join(1, 100);
        rig.settle_moves();
        assert_eq!(rig.both(1), (vec![2], vec![]), "step {step}");
        for offset in [0, 1] {
            assert_eq!(rig.entry_state(s(), offset), Some(EntryState::Open), "step {step}");
            assert!(rig.is_settled(s(), offset), "step {step}");
            assert_eq!(rig.entry(s(), offset).cycle, 0);
        }
        assert_eq!(rig.lane_state(s(), 1), LaneState::Dead);
        assert_eq!(rig.machine.dead_lanes(), 1);
        let opened = |record: &&super::super::entry::EntryRecord| {
            matches!(record, super::super::entry::EntryRecord::Opened { .. })
        };
        assert_eq!(rig.entry_journal.iter().filter(opened).count(), 2, "step {step}");
    }
}

#[test]
fn dl_6_the_lane_is_dead_from_the_intent_on_and_its_held_and_later_records_are_parked_in_order() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 1, 1, 2]);
    assert_eq!(rig.offsets(1), [0, 1]);
    rig.kill_record(1, s(), 0);
    assert_eq!(rig.lane_state(s(), 1), LaneState::Dead);
    rig.append(s(), &[1, 2]);
    let expected = [(0, EntryKind::Failed), (2, EntryKind::Parked), (3, EntryKind::Parked), (5, EntryKind::Parked)];
    assert_eq!(intended(&rig), expected);
    rig.settle_moves();
    rig.append(s(), &[1]);
    rig.settle_moves();
    assert_eq!(intended(&rig).last(), Some(&(7, EntryKind::Parked)));
    assert_eq!(rig.entry(s(), 7).blocked_by, Some(entry_key(s(), 0)));
    assert_eq!(rig.entry(s(), 2).reason, DeadReason::Parked);
    assert_eq!(rig.offsets(1), Vec::<u64>::new());
    assert_eq!(rig.ack(1, s(), &[1]), [AckStatus::Ok]);
    assert_eq!(rig.offsets(1), [4], "the other lane is untouched");
    assert_eq!(rig.floor(s()), 4);
    let lane = rig.lane(s(), 1);
    let list: Vec<u64> = rig.machine.entries().open_of(s(), lane).map(|key| key.offset.get()).collect();
    assert_eq!(list, [0, 2, 3, 5, 7], "rule DL-9");
}

#[test]
fn dl_6_leases_behind_a_death_are_recalled_and_parked() {
    let mut rig = rig_with(GroupConfig { max_in_flight_per_key: 3, ..config(Mode::Keyed) });
    rig.append(s(), &[1, 1, 1]);
    assert_eq!(rig.offsets(1), [0, 1, 2]);
    rig.kill_record(1, s(), 0);
    assert!(rig.taken(1).iter().any(|frame| matches!(frame, Frame::Recall { .. })));
    rig.settle_moves();
    assert_eq!(intended(&rig).len(), 3);
    assert_eq!((rig.leased(1), rig.floor(s())), (0, 3));
}

#[test]
fn rt_1_all_tries_are_made_before_a_record_dies() {
    let mut config = config(Mode::Keyed);
    config.retry.max_attempts = 3;
    config.retry.backoff = Backoff::List { delays_ms: vec![1_000] };
    let mut rig = rig_with(config);
    rig.append(s(), &[1]);
    for attempt in 1..=3 {
        assert_eq!(rig.delivered(1), [[(0, attempt)]]);
        rig.nack(1, s(), &[0], NackKind::Retry);
        rig.pass_alive(2_000, &[1]);
    }
    rig.settle_moves();
    let entry = rig.entry(s(), 0);
    assert_eq!((entry.reason, entry.attempts, entry.kind), (DeadReason::Attempts, 3, EntryKind::Failed));
}

#[test]
fn ak_5_a_record_whose_last_lease_runs_out_dies_of_that() {
    let mut config = config(Mode::Keyed);
    config.retry.max_attempts = 1;
    let mut rig = rig_with(config);
    rig.append(s(), &[1]);
    rig.pass_alive(31_000, &[1]);
    rig.settle_moves();
    assert_eq!(rig.entry(s(), 0).reason, DeadReason::LeaseExpired);
}

#[test]
fn dl_8_continue_goes_on_with_a_hole_that_the_next_delivery_tells() {
    let mut config = config(Mode::Keyed);
    config.retry.after_dead = AfterDead::Continue;
    let mut rig = rig_with(config);
    rig.append(s(), &[1, 1, 1]);
    rig.taken(1);
    rig.bury(1, s(), 0);
    let next = rig.deliveries(1);
    assert_eq!(next.len(), 1);
    assert_eq!((next[0].offset, next[0].more.as_ref().unwrap().gap_before), (at(1), true));
    assert_eq!((rig.lane_state(s(), 1), rig.machine.dead_lanes()), (LaneState::Live, 0));
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Open));
    rig.ack(1, s(), &[1]);
    assert!(rig.deliveries(1)[0].more.is_none(), "the hole is told once");
}

#[test]
fn dl_8_a_hole_is_told_after_a_restart_until_a_marked_record_is_settled() {
    for policy in ["drop", "continue"] {
        let mut config = config(Mode::Keyed);
        match policy {
            "drop" => config.retry.on_exhausted = OnExhausted::Drop,
            _ => config.retry.after_dead = AfterDead::Continue,
        }
        let mut rig = rig_with(config);
        rig.append(s(), &[1, 1, 1, 2]);
        rig.taken(1);
        rig.nack(1, s(), &[0], NackKind::Dead);
        rig.settle_moves();
        let marked = |rig: &mut Rig| {
            let all = rig.deliveries(1).into_iter();
            all.filter(|one| one.more.as_ref().is_some_and(|more| more.gap_before))
                .map(|one| one.offset)
                .collect::<Vec<_>>()
        };
        assert_eq!(marked(&mut rig), [at(1)], "{policy}");
        // The member dies with it, the broker too: who gets it then is told again.
        let mut rig = rig.restart(1_000_000);
        rig.join(1, 100);
        assert_eq!(marked(&mut rig), [at(1)], "{policy}");
        rig.ack(1, s(), &[1]);
        assert_eq!(marked(&mut rig), [], "{policy}: it is told once");
        let mut rig = rig.restart(1_000_000);
        rig.join(1, 100);
        assert_eq!(marked(&mut rig), [], "{policy}: and not again");
        assert!(rig.machine.state().partitions[&s()].holes.is_empty());
    }
}

#[test]
fn dl_8_drop_settles_as_skipped_without_a_dead_letter_and_tells_the_hole() {
    let mut config = config(Mode::Keyed);
    config.retry.on_exhausted = OnExhausted::Drop;
    let mut rig = rig_with(config);
    rig.append(s(), &[1, 1]);
    rig.taken(1);
    assert_eq!(rig.nack(1, s(), &[0], NackKind::Dead), [AckStatus::Ok]);
    assert!(rig.is_settled(s(), 0) && rig.moves.is_empty() && rig.entry_journal.is_empty());
    assert!(rig.deliveries(1)[0].more.as_ref().unwrap().gap_before);
    let skipped =
        rig.journal.iter().any(|record| matches!(record, GroupRecord::Settled { how: SettledAs::Skipped, .. }));
    assert!(skipped);
}

#[test]
fn dl_8_block_holds_the_lane_in_the_source_until_its_head_is_skipped_or_tried_anew_after_a_restart_too() {
    for skip in [true, false] {
        let mut config = config(Mode::Keyed);
        config.retry.on_exhausted = OnExhausted::Block;
        let mut rig = rig_with(config);
        rig.append(s(), &[1, 1, 2]);
        assert_eq!(rig.nack(1, s(), &[0], NackKind::Dead), [AckStatus::Ok]);
        assert_eq!(rig.ack(1, s(), &[2]), [AckStatus::Ok]);
        rig.taken(1);
        rig.pass_alive(100_000, &[1]);
        let mut rig = rig.restart(1_000_000_000);
        rig.join(1, 100);
        assert_eq!(rig.both(1), (vec![], vec![]));
        let lane = rig.lane(s(), 1);
        rig.admin(Admin::Head { source: s(), lane, skip, act: act() }).unwrap();
        let next = rig.deliveries(1);
        if skip {
            assert_eq!((next[0].offset, next[0].more.as_ref().unwrap().gap_before), (at(1), true));
        } else {
            assert_eq!((next[0].offset, next[0].attempt), (at(0), 1), "attempts anew");
        }
    }
}

#[test]
fn dl_11_a_group_on_a_dead_letter_topic_marks_failures_in_place_and_goes_on() {
    let mut rig = rig();
    let topic = rig.machine.state().topics[&s().topic].clone();
    let topic = super::super::GroupTopic { is_dlq: true, ..topic };
    let (added, starts, removed) = (vec![topic], vec![], vec![]);
    rig.event(Event::Topics { added, starts, removed });
    rig.append(s(), &[1, 1]);
    rig.kill_record(1, s(), 0);
    assert!(rig.moves.is_empty(), "nothing is copied");
    rig.open_moves();
    let entry = rig.entry(s(), 0);
    assert_eq!((entry.state, entry.copy, entry.holds), (EntryState::Open, at(0), false));
    assert!(rig.is_settled(s(), 0));
    assert_eq!(rig.offsets(1), [0, 1], "its key goes on");
    assert_eq!(rig.redrive(1, s(), &[0]), Err(super::super::effect::Refusal::NoDeadLetters));
}

#[test]
fn dl_5_while_copies_cannot_be_made_the_group_pauses_and_the_intent_stays_open() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    rig.kill_record(1, s(), 0);
    rig.event(Event::CopyBlocked { source: s(), reason: Some(PauseReason::DiskLow) });
    rig.append(s(), &[3]);
    assert_eq!(rig.offsets(1), [0, 1], "nothing more is delivered");
    assert_eq!(rig.machine.state().partitions[&s()].intents.len(), 1);
    rig.event(Event::CopyBlocked { source: s(), reason: None });
    assert!(rig.machine.state().pauses.is_empty());
    rig.settle_moves();
    assert_eq!(rig.offsets(1), [2]);
    assert!(rig.is_settled(s(), 0));
}

#[test]
fn dl_4_an_intent_whose_record_cannot_be_read_any_more_is_closed_as_lost_and_told_as_a_gap() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    rig.kill_record(1, s(), 0);
    rig.moves.clear();
    rig.event(Event::Copied { source: s(), number: 1, copy: None });
    let frames = rig.taken(1);
    let told = frames.iter().any(|frame| {
        matches!(frame, Frame::Gap { range, reason: GapReason::Corrupt, stops: false, .. } if range.contains(at(0)))
    });
    assert!(told);
    assert!(rig.is_settled(s(), 0) && rig.entry_state(s(), 0).is_none());
    assert_eq!((rig.lane_state(s(), 1), rig.machine.dead_lanes()), (LaneState::Live, 0));
    rig.append(s(), &[1]);
    assert_eq!(rig.offsets(1), [1]);
}

#[test]
fn dl_8_unordered_always_continues() {
    let mut rig = rig_with(config(Mode::Unordered));
    rig.append(s(), &[1, 1, 1]);
    assert_eq!(rig.offsets(1), [0, 1, 2]);
    rig.bury(1, s(), 0);
    assert_eq!(rig.machine.dead_lanes(), 0);
    assert_eq!(rig.ack(1, s(), &[1, 2]), [AckStatus::Ok, AckStatus::Ok]);
    rig.append(s(), &[1]);
    assert_eq!(rig.offsets(1), [3]);
    rig.reset(s(), 0, false);
    assert_eq!(rig.offsets(1), [1, 2, 3], "rule DL-15: what has an entry is not met again");
}

#[test]
fn dl_15_after_a_reset_back_a_record_is_settled_as_its_entry_says() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3, 4, 5, 1]);
    rig.taken(1);
    for offset in 0..4 {
        rig.bury(1, s(), offset);
    }
    rig.ack(1, s(), &[4]);
    rig.close(s(), &[1], EntryState::Discarded).unwrap();
    rig.close(s(), &[2], EntryState::Moved).unwrap();
    rig.redrive(1, s(), &[3]).unwrap();
    assert_eq!(rig.ack_entry(1, s(), &[3]), [AckStatus::Ok]);
    rig.taken(1);
    rig.reset(s(), 0, false);
    assert_eq!(rig.both(1), (vec![3, 4], vec![]), "open: parked; discarded, moved: skipped; resolved: as it was");
    assert_eq!(rig.floor(s()), 3);
    assert!(rig.is_settled(s(), 5), "parked, not delivered");
    assert_eq!(rig.lane_state(s(), 1), LaneState::Dead);
}

#[test]
fn dl_15_a_record_that_was_resolved_and_is_met_again_without_a_reset_is_skipped() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    rig.bury(1, s(), 0);
    rig.redrive(1, s(), &[0]).unwrap();
    rig.ack_entry(1, s(), &[0]);
    // The group journal goes back to its last good state: nothing of the death is in it.
    let created = rig.journal[..2].to_vec();
    let mut state = super::super::state::GroupState::create(crate::model::GroupId(7), &created[0]).unwrap();
    state.replay(&created[1]).unwrap();
    let mut again = Rig::of(state, rig.machine.entries().clone(), rig.now, created);
    again.logs = rig.logs.clone();
    again.join(2, 100);
    assert_eq!(again.both(2), (vec![1], vec![]));
    assert!(again.is_settled(s(), 0));
}

#[test]
fn dl_15_a_cleared_record_is_new_again_and_its_death_opens_the_same_entry_with_one_cycle_more() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    rig.bury(1, s(), 0);
    rig.taken(1);
    rig.reset(s(), 0, true);
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Cleared));
    assert!(rig.machine.state().clearing.is_some());
    rig.settle_moves();
    assert!(rig.machine.state().clearing.is_none());
    assert_eq!(rig.offsets(1), [0, 1]);
    rig.bury(1, s(), 0);
    let entry = rig.entry(s(), 0);
    assert_eq!((entry.state, entry.cycle), (EntryState::Open, 1));
    assert_eq!(rig.machine.entries().len(), 1);
}

#[test]
fn of_3_a_clearing_cut_short_is_finished_at_the_start_and_spares_what_died_since() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    rig.bury(1, s(), 0);
    rig.bury(1, s(), 1);
    rig.reset(s(), 0, true);
    // Record 0 dies anew before the clearing is known to be durable.
    rig.opened.clear();
    rig.kill_record(1, s(), 0);
    rig.settle_moves();
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Open));
    assert!(rig.machine.state().clearing.is_some());
    let mut rig = rig.restart(1_000);
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Open));
    assert_eq!(rig.entry_state(s(), 1), Some(EntryState::Cleared));
    rig.settle_moves();
    assert!(rig.machine.state().clearing.is_none());
}

#[test]
fn of_3_a_dead_letter_on_its_way_while_a_reset_clears_arrives_cleared_and_its_record_is_new() {
    let mut rig = rig();
    rig.append(s(), &[1, 1]);
    rig.kill_record(1, s(), 0);
    rig.taken(1);
    rig.reset(s(), 0, true);
    assert_eq!(rig.offsets(1), [0]);
    rig.settle_moves();
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Cleared));
    assert!(!rig.is_settled(s(), 0), "the copy of before settles nothing");
    assert_eq!((rig.lane_state(s(), 1), rig.machine.dead_lanes()), (LaneState::Live, 0));
    assert_eq!(rig.ack(1, s(), &[0]), [AckStatus::Ok]);
    assert_eq!(rig.offsets(1), [1]);
}

#[test]
fn dl_15_records_before_the_first_entry_of_a_dead_lane_are_delivered_as_usual() {
    let mut rig = rig();
    rig.append(s(), &[1, 1, 1]);
    rig.ack(1, s(), &[0]);
    rig.bury(1, s(), 1);
    rig.taken(1);
    rig.reset(s(), 0, false);
    assert_eq!(rig.offsets(1), [0]);
    rig.redrive(9, s(), &[1, 2]).unwrap();
    assert_eq!(rig.both(1), (vec![], vec![]), "its entries only when those are settled");
    rig.ack(1, s(), &[0]);
    assert_eq!(rig.both(1), (vec![], vec![1]));
}

#[test]
fn dl_15_an_edited_and_resolved_record_comes_in_its_place_after_a_reset_back_and_is_named_by_its_entry() {
    let mut rig = rig();
    rig.append(s(), &[1, 1]);
    rig.bury(1, s(), 0);
    let edited = Admin::EntryEdited { entry: entry_key(s(), 0), copy: at(4_000), act: act() };
    rig.admin(edited).unwrap();
    rig.redrive(1, s(), &[0, 1]).unwrap();
    rig.ack_entry(1, s(), &[0]);
    rig.ack_entry(1, s(), &[1]);
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Resolved { version: 1 }));
    rig.taken(1);
    rig.reset(s(), 0, false);
    let deliveries = rig.deliveries(1);
    let entry = deliveries[0].more.as_ref().and_then(|more| more.entry.clone()).expect("as it was resolved");
    assert_eq!((deliveries.len(), entry.copy, entry.version), (1, at(4_000), 1));
    assert_eq!(rig.nack_entry(1, s(), &[0], NackKind::Release), [AckStatus::Ok]);
    assert_eq!(rig.both(1), (vec![], vec![0]));
    assert_eq!(rig.ack_entry(1, s(), &[0]), [AckStatus::Ok]);
    assert!(rig.is_settled(s(), 0));
    assert_eq!(rig.both(1), (vec![1], vec![]), "the next of its key: version 0 is the record itself");
}

fn fetched(rig: &mut Rig, records: Vec<RecordMeta>, undecodable: Vec<(OffsetRange, PartitionEpoch)>, next: u64) {
    let fetch = rig.asked.remove(&s()).expect("something is asked for");
    rig.event(Event::Fetched(Box::new(Fetched {
        source: s(),
        from: fetch.from,
        next: at(next),
        records,
        log_bytes: 1_000,
        undecodable,
        high_watermark: at(next),
        last_append_ms: 0,
    })));
}

#[test]
fn dl_16_a_batch_that_cannot_be_decoded_is_one_entry_parks_nothing_and_cannot_be_redriven() {
    let mut rig = rig();
    rig.reading = false;
    let range = OffsetRange { from: at(0), to: at(3) };
    let meta = RecordMeta { offset: at(3), ..rig.meta(s(), 1) };
    fetched(&mut rig, vec![meta], vec![(range, PartitionEpoch::ZERO)], 4);
    let frames = rig.taken(1);
    let told = |frame: &Frame| matches!(frame, Frame::Gap { reason: GapReason::Undecodable, stops: false, .. });
    assert!(frames.iter().any(told));
    assert!(frames.iter().any(|frame| matches!(frame, Frame::Deliver(_))), "the rest is delivered");
    rig.settle_moves();
    assert_eq!((rig.floor(s()), rig.machine.dead_lanes()), (3, 0));
    let entry = rig.entry(s(), 0);
    assert_eq!((entry.reason, entry.state, entry.holds), (DeadReason::Undecodable, EntryState::Open, false));
    assert!(matches!(rig.redrive(1, s(), &[0]), Err(super::super::effect::Refusal::Invalid { .. })));
    rig.close(s(), &[0], EntryState::Discarded).unwrap();
}

#[test]
fn ak_7_at_the_limit_of_dead_lanes_a_death_waits_and_the_partition_reads_no_more() {
    let mut rig = rig_with(GroupConfig { max_dead_lanes: 1, ..config(Mode::Keyed) });
    rig.append(s(), &[1, 2, 3]);
    rig.bury(1, s(), 0);
    assert!(rig.nack(1, s(), &[1], NackKind::Dead).is_empty(), "not answered yet");
    assert_eq!(intended(&rig).len(), 1);
    assert!(rig.machine.is_paused_for(Some(s()), PauseReason::DeadLimit));
    assert_eq!(rig.ack(1, s(), &[2]), [AckStatus::Ok], "what is held goes on");
    rig.taken(1);
    rig.redrive(1, s(), &[0]).unwrap();
    assert_eq!(rig.both(1), (vec![], vec![0]), "what can end the pause goes on");
    rig.ack_entry(1, s(), &[0]);
    assert!(rig.machine.state().pauses.is_empty());
    rig.settle_moves();
    assert_eq!(intended(&rig).last(), Some(&(1, EntryKind::Failed)));
    assert!(answers(&mut rig).contains(&(AckStatus::Ok, After::Group)));
    assert!(rig.notices.iter().any(|notice| matches!(notice, Notice::Pause { reason: PauseReason::DeadLimit, .. })));
}

#[test]
fn rt_3_a_change_of_policy_makes_nothing_live_again() {
    let mut rig = rig();
    rig.append(s(), &[1, 1]);
    rig.bury(1, s(), 0);
    let mut changed = config(Mode::Keyed);
    changed.retry.after_dead = AfterDead::Continue;
    let notes = rig.machine.state().notes.clone();
    rig.admin(Admin::Configure { config: Box::new(changed), notes }).unwrap();
    rig.taken(1);
    rig.append(s(), &[1, 2]);
    assert_eq!(rig.offsets(1), [3]);
    assert_eq!(rig.lane_state(s(), 1), LaneState::Dead);
}

#[test]
fn of_8_topics_that_go_take_their_entries_and_intents_along() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    rig.bury(1, s(), 0);
    rig.kill_record(1, s(), 1);
    let removed = vec![s().topic];
    rig.event(Event::Topics { added: vec![], starts: vec![], removed });
    assert!(rig.machine.entries().is_empty());
    assert_eq!(rig.machine.dead_lanes(), 0);
    rig.settle_moves();
    assert!(rig.machine.entries().is_empty(), "what was on its way is of no topic any more");
}

#[test]
fn of_8_entries_of_topics_that_went_before_a_crash_go_at_the_start() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    rig.bury(1, s(), 0);
    let kept = rig.entry_journal.clone();
    rig.event(Event::Topics { added: vec![], starts: vec![], removed: vec![s().topic] });
    rig.entry_journal = kept;
    let rig = rig.restart(10);
    assert!(rig.machine.entries().is_empty());
}
