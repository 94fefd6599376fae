//! Rules of units: GM-3 to GM-6.

use crate::group::Mode;
use crate::group::effect::{AckStatus, Frame};
use crate::group::event::{Event, Verb};
use crate::group::test_support::{Rig, at, member, source, topic};
use crate::model::{OffsetRange, SlotRange, Source};

fn log() -> Source {
    source(1, 0)
}

#[test]
fn gm_3_more_members_than_partitions_share_a_partition_and_a_key_has_one_owner() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    for number in 1..=5 {
        rig.join(number, 1_000);
    }
    let slots: Vec<u32> = (1..=5).map(|number| rig.slots(number)).collect();
    assert_eq!(slots.iter().sum::<u32>(), 4_096);
    assert!(slots.iter().all(|slots| (768..=870).contains(slots)), "{slots:?}");
    let keys: Vec<u64> = (0..500).collect();
    rig.append(log(), &keys);
    let mut all: Vec<u64> = (1..=5).flat_map(|number| rig.offsets(number)).collect();
    all.sort_unstable();
    assert_eq!(all, (0..500).collect::<Vec<u64>>(), "each record once");
}

#[test]
fn gm_3_in_mode_offset_a_partition_has_one_owner() {
    let mut rig = Rig::new(Mode::Offset, 2);
    rig.join(1, 100);
    rig.join(2, 100);
    rig.verb(1, Verb::Revoked { source: source(1, 0), slots: SlotRange::ALL });
    rig.verb(1, Verb::Revoked { source: source(1, 1), slots: SlotRange::ALL });
    assert_eq!((rig.slots(1), rig.slots(2)), (4_096, 4_096));
}

#[test]
fn gm_5_in_mode_offset_the_new_owner_gets_a_partition_once_the_old_one_has_handed_it_over() {
    let mut rig = Rig::new(Mode::Offset, 2);
    rig.join(1, 100);
    rig.taken(1);
    rig.join(2, 100);
    let revoked: Vec<Source> = rig
        .taken(1)
        .into_iter()
        .filter_map(|frame| match frame {
            Frame::Revoke { unit, lost: false } => Some(unit.source),
            _ => None,
        })
        .collect();
    assert_eq!(revoked.len(), 1);
    assert_eq!(rig.slots(2), 0);
    rig.verb(1, Verb::Revoked { source: revoked[0], slots: SlotRange::ALL });
    assert_eq!(rig.slots(2), 4_096);
    assert!(rig.taken(2).iter().any(|frame| matches!(frame, Frame::Assign { unit, .. } if unit.source == revoked[0])));
}

#[test]
fn gm_5_who_does_not_hand_over_in_time_is_fenced() {
    let mut rig = Rig::new(Mode::Offset, 2);
    rig.join(1, 100);
    rig.join(2, 100);
    rig.pass_alive(29_000, &[1, 2]);
    assert_eq!(rig.slots(2), 0);
    rig.pass_alive(2_000, &[1, 2]);
    assert_eq!(rig.slots(2), 4_096);
    assert!(rig.taken(1).iter().any(|frame| matches!(frame, Frame::Revoke { lost: true, .. })));
}

#[test]
fn gm_5_keys_with_nothing_leased_move_at_once_and_others_once_settled_and_none_comes_twice() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 50);
    let keys: Vec<u64> = (0..100).chain(0..100).collect();
    rig.append(log(), &keys);
    let first = rig.offsets(1);
    assert_eq!(first.len(), 50);
    rig.join(2, 1_000);
    let moved = rig.offsets(2);
    assert!(!moved.is_empty() && moved.iter().all(|offset| !first.contains(offset)), "nothing that is leased moves");
    assert!(rig.taken(1).is_empty() || rig.units[&member(1)].len() <= 64);
    let before = rig.units[&member(1)].clone();
    for offset in &first {
        assert_eq!(rig.ack(1, log(), &[*offset]), [AckStatus::Ok], "{offset} is still its own, under its old epoch");
    }
    assert_eq!(rig.units[&member(1)], before);
    let mut seen: Vec<u64> = first.iter().copied().chain(moved).collect();
    loop {
        let (one, two) = (rig.offsets(1), rig.offsets(2));
        if one.is_empty() && two.is_empty() {
            let held: Vec<(u8, u64)> = [1, 2]
                .into_iter()
                .flat_map(|number| {
                    rig.held[&member(number)].keys().map(move |(_, offset)| (number, offset.get())).collect::<Vec<_>>()
                })
                .collect();
            if held.is_empty() {
                break;
            }
            held.into_iter()
                .for_each(|(number, offset)| assert_eq!(rig.ack(number, log(), &[offset]), [AckStatus::Ok]));
            continue;
        }
        seen.extend(one);
        seen.extend(two);
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..200).collect::<Vec<u64>>(), "a planned move delivers nothing twice");
    assert_eq!(rig.floor(log()), 200);
}

#[test]
fn gm_5_after_revoked_what_was_not_begun_is_the_new_owners() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 1_000);
    rig.append(log(), &(0..40).collect::<Vec<u64>>());
    assert_eq!(rig.offsets(1).len(), 40);
    rig.join(2, 1_000);
    assert!(rig.offsets(2).is_empty());
    rig.verb(1, Verb::Revoked { source: log(), slots: SlotRange::ALL });
    let moved = rig.delivered(2);
    assert!(moved.iter().flatten().count() > 5);
    assert!(moved.iter().flatten().all(|(_, attempt)| *attempt == 1), "no strike (rule RT-5)");
}

#[test]
fn gm_6_after_the_drain_timeout_verbs_of_the_old_owner_are_fenced_and_only_those() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 1_000);
    rig.append(log(), &(0..40).collect::<Vec<u64>>());
    let mine: Vec<u64> = rig.offsets(1);
    rig.join(2, 1_000);
    for _ in 0..31 {
        rig.pass_alive(1_000, &[1, 2]);
        let targets = rig.targets(1, log(), &mine);
        rig.verb(1, Verb::Extend { request: 9_999, targets });
    }
    let moved = rig.offsets(2);
    assert!(!moved.is_empty());
    let kept: Vec<u64> = mine.iter().copied().filter(|offset| !moved.contains(offset)).collect();
    let targets = rig.targets(1, log(), &mine);
    let told = rig.ack_targets(1, targets);
    let fenced = told.iter().filter(|status| **status == AckStatus::Fenced).count();
    let settled = told.iter().filter(|status| **status == AckStatus::Ok).count();
    assert_eq!((fenced, settled), (moved.len(), kept.len()), "the rest of the frame is handled");
}

#[test]
fn gm_6_epochs_only_rise_and_a_wrong_one_is_fenced() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    rig.offsets(1);
    let mut targets = rig.targets(1, log(), &[0]);
    let good = targets.clone();
    targets.epoch.0 += 7;
    assert_eq!(rig.ack_targets(1, targets), [AckStatus::Fenced]);
    assert_eq!(rig.ack_targets(1, good), [AckStatus::Ok]);
    let mut last = 0;
    for record in &rig.journal {
        if let crate::group::record::GroupRecord::Assigned { epoch, .. } = record {
            assert!(*epoch > last);
            last = *epoch;
        }
    }
}

#[test]
fn gm_4_topics_that_come_and_go_are_shared_out_and_taken_away() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    let start = |partition| crate::group::record::Start {
        source: source(2, partition),
        offset: at(0),
        epoch: crate::model::PartitionEpoch::ZERO,
    };
    let added = vec![crate::group::GroupTopic {
        topic: topic(2),
        name: "refunds".to_owned(),
        partitions: 2,
        dlq: "refunds.billing.dlq".to_owned(),
        is_dlq: false,
    }];
    rig.event(Event::Topics { added, starts: vec![start(0), start(1)], removed: Vec::new() });
    assert_eq!(rig.slots(1), 3 * 4_096);
    rig.append(source(2, 1), &[5]);
    assert_eq!(rig.leased(1), 2);
    rig.event(Event::Topics { added: Vec::new(), starts: Vec::new(), removed: vec![topic(1)] });
    assert_eq!(rig.slots(1), 2 * 4_096);
    assert_eq!(rig.leased(1), 1, "what was of it is no more");
    assert!(rig.taken(1).iter().any(|frame| matches!(frame, Frame::Revoke { lost: true, .. })));
    let targets = crate::group::event::Targets {
        source: log(),
        epoch: crate::model::AssignmentEpoch(2),
        runs: vec![OffsetRange { from: at(0), to: at(1) }],
        entries: Vec::new(),
    };
    assert_eq!(rig.ack_targets(1, targets), [AckStatus::NotLeased]);
}

#[test]
fn gm_6_after_a_move_each_slot_has_its_new_owner_and_what_stays_keeps_its_epoch() {
    use crate::group::record::OwnedRun;
    use crate::model::AssignmentEpoch;

    let mut random = 7_u64;
    let mut next = |below: u64| {
        random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (random >> 33) % below
    };
    for _ in 0..200 {
        let (mut old, mut target) = (Vec::new(), Vec::new());
        for (list, gaps) in [(0, true), (1, false)] {
            let mut at = 0;
            while at < 64 {
                let slots = SlotRange { from: at, to: (at + 1 + next(9) as u32).min(64) };
                at = slots.to;
                match list {
                    0 if gaps && next(5) == 0 => {}
                    0 => old.push(OwnedRun { slots, member: member(next(4) as u8), epoch: AssignmentEpoch(next(3)) }),
                    _ => target.push((slots, member(next(4) as u8))),
                }
            }
        }
        let merged = super::merge(&old, &target, AssignmentEpoch(9));
        assert!(merged.windows(2).all(|pair| pair[0].slots.to == pair[1].slots.from), "in order, without holes");
        for slot in (0..64).map(|slot| crate::model::KeySlot::new(slot).unwrap()) {
            let (_, owner) = target.iter().find(|(slots, _)| slots.contains(slot)).unwrap();
            let kept = old.iter().find(|run| run.slots.contains(slot) && run.member == *owner);
            let run = merged.iter().find(|run| run.slots.contains(slot)).unwrap();
            assert_eq!((run.member, run.epoch), (*owner, kept.map_or(AssignmentEpoch(9), |run| run.epoch)));
        }
    }
}

/// Whether a member was told that something was taken from it.
fn fenced(rig: &mut Rig, number: u8) -> bool {
    rig.taken(number).iter().any(|frame| matches!(frame, Frame::Revoke { lost: true, .. }))
}

#[test]
fn gm_5_who_left_and_came_back_has_the_whole_drain_timeout_for_what_it_hands_over() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 1_000);
    rig.join(2, 1_000);
    assert!(!rig.machine.hand_over.drains_of(member(1)).is_empty(), "half of it is to be handed over in 30 s");
    rig.verb(1, Verb::Leave);
    rig.join(1, 1_000);
    rig.pass_alive(10_000, &[1, 2]);
    rig.append(log(), &(0..100).collect::<Vec<u64>>());
    rig.join(3, 1_000);
    assert!(!rig.machine.hand_over.drains_of(member(1)).is_empty());
    rig.pass_alive(25_000, &[1, 2, 3]);
    assert!(!fenced(&mut rig, 1), "it has 30 s from the second move, and knows nothing of the first");
}

#[test]
fn gm_5_what_came_back_is_not_taken_when_its_drain_would_have_ended() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 1_000);
    rig.append(log(), &(0..100).collect::<Vec<u64>>());
    rig.join(2, 1_000);
    rig.verb(2, Verb::Leave);
    assert_eq!(rig.slots(1), 4_096);
    assert!(rig.machine.hand_over.drains_of(member(1)).is_empty());
    rig.join(2, 1_000);
    rig.join(3, 1_000);
    rig.verb(3, Verb::Leave);
    let owned = rig.machine.state().owners[&log()].iter().filter(|run| run.member == member(1));
    let owned: Vec<SlotRange> = owned.map(|run| run.slots).collect();
    for drain in rig.machine.hand_over.drains_of(member(1)) {
        let both = owned.iter().map(|slots| slots.intersection(drain.unit.slots));
        assert!(both.clone().all(SlotRange::is_empty), "{drain:?} is its own: {owned:?}");
    }
}
