//! Pauses and who is told of them, through a whole machine.

use super::super::event::{Admin, Event};
use super::super::letters_support::act;
use super::super::record::GapReason;
use super::super::test_support::{Rig, at, source, topic};
use super::super::{GroupConfig, Mode};
use super::*;
use crate::model::OffsetRange;

/// Pauses that a member was told of: reason, topic, partition, whether it lasts.
fn told(rig: &mut Rig, number: u8) -> Vec<(PauseReason, Extent, bool)> {
    let frames = rig.taken(number).into_iter();
    frames
        .filter_map(|frame| match frame {
            Frame::Pause { pause, on } => Some((pause.reason, extent(&pause), on)),
            _ => None,
        })
        .collect()
}

fn pause(rig: &mut Rig, topic: Option<TopicUuid>, until_ms: Option<i64>) {
    rig.admin(Admin::Pause { topic, until_ms, act: act() }).expect("a topic of the group");
}

#[test]
fn of_6_members_are_told_when_deliveries_pause_and_when_they_go_on() {
    let mut rig = Rig::new(Mode::Keyed, 2);
    rig.join(1, 100);
    rig.join(2, 100);
    let (of_group, of_topic) = ((None, None), (Some(topic(1)), None));
    pause(&mut rig, None, None);
    let until_ms = rig.now.wall_ms + 5_000;
    pause(&mut rig, Some(topic(1)), Some(until_ms));
    for number in [1, 2] {
        let expected = [(PauseReason::Operator, of_group, true), (PauseReason::Operator, of_topic, true)];
        assert_eq!(told(&mut rig, number), expected);
    }
    // Who comes later, or comes back, is told of what lasts, behind `Joined`.
    rig.join(3, 100);
    let frames = rig.taken(3);
    assert!(matches!(
        frames[..3],
        [Frame::Joined { .. }, Frame::Pause { on: true, .. }, Frame::Pause { on: true, .. }]
    ));
    rig.pass_alive(5_000, &[1, 2, 3]);
    assert_eq!(told(&mut rig, 1), [(PauseReason::Operator, of_topic, false)], "it ends by itself");
    rig.admin(Admin::Resume { topic: None, act: act() }).expect("it may");
    for number in [1, 3] {
        assert_eq!(told(&mut rig, number).last(), Some(&(PauseReason::Operator, of_group, false)));
    }
    let records = rig.journal.len();
    rig.admin(Admin::Resume { topic: None, act: act() }).expect("it may");
    assert_eq!((told(&mut rig, 1), rig.journal.len()), (vec![], records), "there is none to end");
}

#[test]
fn of_6_members_are_told_of_the_pauses_of_the_broker_with_their_partition() {
    let config = GroupConfig { max_dead_lanes: 1_000, ..GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]) };
    let mut rig = Rig::with(config, 2);
    rig.reading = false;
    rig.join(1, 100);
    rig.taken(1);
    let range = OffsetRange { from: at(0), to: at(5) };
    rig.event(Event::Gap { source: source(1, 1), range, reason: GapReason::Retention });
    let of_partition = (Some(topic(1)), Some(PartitionId(1)));
    assert_eq!(told(&mut rig, 1), [(PauseReason::Gap, of_partition, true)]);
    rig.admin(Admin::AcceptGap { source: None, act: act() }).expect("it may");
    assert_eq!(told(&mut rig, 1), [(PauseReason::Gap, of_partition, false)]);
    for reason in [Some(PauseReason::DiskLow), None] {
        rig.event(Event::CopyBlocked { source: source(1, 0), reason });
        assert_eq!(told(&mut rig, 1), [(PauseReason::DiskLow, (None, None), reason.is_some())]);
    }
}
