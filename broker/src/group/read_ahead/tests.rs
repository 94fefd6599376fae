//! Rules of reading ahead: AK-7, FC-4, FC-7, and of offsets that do not exist.

use crate::group::effect::Frame;
use crate::group::event::{Event, Fetched, NackKind, RecordMeta};
use crate::group::record::{GroupRecord, SettledAs};
use crate::group::test_support::{Rig, at, source};
use crate::group::{GroupConfig, Mode};
use crate::model::Source;

fn log() -> Source {
    source(1, 0)
}

#[test]
fn ak_7_no_more_is_read_ahead_than_can_soon_be_delivered() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.append(log(), &(0..30_000).collect::<Vec<u64>>());
    assert_eq!(rig.machine.works[&log()].held(), 0, "nobody is there");
    rig.join(1, 10);
    let held = rig.machine.works[&log()].held();
    assert!((1_024..=2_200).contains(&held), "{held}");
    let first: Vec<u64> = (0..10).collect();
    for _ in 0..200 {
        let offsets = rig.offsets(1);
        rig.ack(1, log(), &offsets);
    }
    assert_eq!(rig.floor(log()), 2_000);
    assert!(rig.machine.works[&log()].held() <= 2_200);
    drop(first);
}

#[test]
fn ak_7_slow_keys_at_the_front_do_not_hide_the_others() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 100);
    let mut keys = vec![7; 6_000];
    keys.extend(100..200);
    rig.append(log(), &keys);
    let delivered = rig.offsets(1);
    assert_eq!(delivered.len(), 100, "one of the slow key, and others");
    assert!(delivered.contains(&0) && delivered.contains(&6_000));
}

#[test]
fn ak_7_behind_keys_that_wait_reading_goes_on_to_the_bound_of_held_records() {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.retry.on_exhausted = crate::group::retry::OnExhausted::Drop;
    config.max_held = 2_000;
    config.breaker.enabled = false;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 10_000);
    rig.append(log(), &(0..20).cycle().take(6_000).collect::<Vec<u64>>());
    let held = rig.offsets(1);
    rig.nack_with(1, log(), &held, NackKind::Retry, Some(3_600_000), "E");
    let held = rig.machine.works[&log()].held();
    assert!((2_000..3_001).contains(&held), "{held}");
}

#[test]
fn fc_4_the_live_end_is_told_on_each_change_and_to_who_comes_later() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.append(log(), &(0..10).collect::<Vec<u64>>());
    rig.join(1, 5);
    let ups = |rig: &mut Rig, number| {
        let frames = rig.taken(number).into_iter();
        frames.filter(|frame| matches!(frame, Frame::CaughtUp { .. })).count()
    };
    assert_eq!(ups(&mut rig, 1), 0, "records wait");
    rig.ack(1, log(), &[0, 1, 2, 3, 4]);
    assert_eq!(ups(&mut rig, 1), 1);
    rig.append(log(), &[11]);
    assert_eq!(ups(&mut rig, 1), 0, "one record more is no change");
    rig.join(2, 5);
    assert!(ups(&mut rig, 2) >= 1);
    rig.append(log(), &(0..20_000).collect::<Vec<u64>>());
    rig.event(Event::HighWatermark { source: log(), offset: rig.end(log()) });
    assert!(rig.taken(1).iter().any(|frame| matches!(frame, Frame::FellBehind { .. })));
}

#[test]
fn fc_4_records_behind_one_in_work_do_not_make_a_member_fall_behind_again_and_again() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10_000);
    rig.append(log(), &(0..10).cycle().take(10_000).collect::<Vec<u64>>());
    rig.taken(1);
    for round in 0..20 {
        rig.ack(1, log(), &[10 * round]);
    }
    let told =
        rig.taken(1).iter().filter(|frame| matches!(frame, Frame::CaughtUp { .. } | Frame::FellBehind { .. })).count();
    assert!(told <= 1, "told {told} times");
}

#[test]
fn fc_7_filtered_records_are_settled_as_skipped_and_never_delivered() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 100);
    for key in 0..6 {
        let meta = RecordMeta { filtered: key % 2 == 0, ..rig.meta(log(), key) };
        rig.logs.entry(log()).or_default().push(meta);
    }
    rig.read();
    assert_eq!(rig.offsets(1), [1, 3, 5]);
    assert_eq!(rig.floor(log()), 1);
    rig.ack(1, log(), &[1, 3, 5]);
    assert_eq!(rig.floor(log()), 6);
    assert!(rig.journal.iter().any(|record| matches!(record, GroupRecord::Settled { how: SettledAs::Skipped, .. })));
}

#[test]
fn offsets_that_do_not_exist_are_settled_as_the_reader_passes_them() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.reading = false;
    rig.join(1, 100);
    let fetch = rig.asked[&log()];
    let record = |offset| RecordMeta { offset: at(offset), ..rig.meta(log(), offset) };
    let records = vec![record(2), record(3), record(7)];
    rig.event(Event::Fetched(Box::new(Fetched {
        source: log(),
        from: fetch.from,
        next: at(10),
        records,
        log_bytes: 1_000,
        undecodable: Vec::new(),
        high_watermark: at(10),
        last_append_ms: 0,
    })));
    assert_eq!(rig.floor(log()), 2);
    rig.ack(1, log(), &[2, 3, 7]);
    assert_eq!(rig.floor(log()), 10);
}

#[test]
fn an_answer_to_what_was_asked_before_a_reset_is_left_alone() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 100);
    rig.append(log(), &[1, 2, 3]);
    let late = Fetched {
        source: log(),
        from: at(3),
        next: at(5),
        records: vec![RecordMeta { offset: at(3), ..rig.meta(log(), 9) }],
        log_bytes: 10,
        undecodable: Vec::new(),
        high_watermark: at(5),
        last_append_ms: 0,
    };
    rig.machine.restart_source(log(), at(0));
    rig.held.clear();
    rig.reading = false;
    rig.event(Event::Fetched(Box::new(late)));
    assert_eq!(rig.machine.works[&log()].held(), 0);
    rig.reading = true;
    rig.read();
    assert_eq!(rig.leased(1), 3);
}
