//! Rules of sessions: GM-1, GM-7 to GM-12.

use crate::group::Mode;
use crate::group::effect::{AckStatus, Frame, Notice, Refusal};
use crate::group::event::{Credit, Event, InWork, NackKind, Verb};
use crate::group::record::GroupRecord;
use crate::group::test_support::{Rig, at, member, one, source};

const LOG: crate::model::Source =
    crate::model::Source { topic: crate::model::TopicUuid([1; 16]), partition: crate::model::PartitionId(0) };

#[test]
fn gm_1_joined_comes_first_then_the_units_then_records() {
    let mut rig = Rig::new(Mode::Keyed, 2);
    rig.append(LOG, &[1]);
    rig.join(1, 10);
    let frames = rig.taken(1);
    assert!(matches!(frames[0], Frame::Joined { resumed: false, .. }));
    assert!(frames[1..3].iter().all(|frame| matches!(frame, Frame::Assign { .. })));
    assert!(frames[3..].iter().any(|frame| matches!(frame, Frame::Deliver(_))));
    assert_eq!(rig.slots(1), 2 * 4_096);
}

#[test]
fn gm_7_a_member_is_lost_after_the_session_timeout_without_a_frame_and_not_before() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.pass(9_999);
    assert!(rig.machine.state().members.contains_key(&member(1)));
    rig.verb(1, Verb::Ping);
    rig.pass(9_999);
    assert!(rig.machine.state().members.contains_key(&member(1)), "each frame is a sign of life");
    rig.pass(1);
    assert!(rig.machine.state().members.is_empty());
    assert!(rig.taken(1).iter().any(|frame| matches!(frame, Frame::Ended(Refusal::SessionOver))));
    assert!(rig.notices.iter().any(|notice| matches!(notice, Notice::MemberLost(_))));
}

#[test]
fn gm_7_time_that_the_broker_takes_does_not_count_against_members() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.doubts = Some(Vec::new());
    (1..=3).for_each(|number| rig.join(number, 10));
    rig.pass(10_000);
    let doubts = rig.doubts.take().expect("they were asked for");
    assert_eq!(doubts.len(), 3, "all streams are asked");
    rig.doubts = Some(Vec::new());
    // Its ping waited behind what kept the broker busy, for longer than any timeout.
    rig.pass(60_000);
    rig.verb(1, Verb::Ping);
    let journalled = rig.journal.len();
    for (member, epoch) in doubts {
        rig.event(Event::Silent { member, epoch });
    }
    assert_eq!(rig.machine.state().members.keys().collect::<Vec<_>>(), [&member(1)], "two are silent");
    let assigned = |record: &&GroupRecord| matches!(record, GroupRecord::Assigned { .. });
    assert_eq!(
        rig.journal[journalled..].iter().filter(assigned).count(),
        1,
        "lost together, one assignment (rule GM-4)"
    );
    assert_eq!(rig.slots(1), 4_096);
    rig.verb(2, Verb::Ping);
    assert!(rig.taken(2).iter().any(|frame| matches!(frame, Frame::Ended(Refusal::SessionOver))));
}

#[test]
fn gm_7_a_stream_that_ends_while_it_is_asked_may_be_resumed() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.doubts = Some(Vec::new());
    rig.join(1, 10);
    rig.pass(10_000);
    let epoch = rig.epochs[&member(1)];
    rig.event(Event::StreamEnded { member: member(1), epoch });
    rig.event(Event::Silent { member: member(1), epoch });
    rig.pass(9_999);
    assert!(rig.machine.state().members.contains_key(&member(1)));
    rig.pass(1);
    assert!(rig.machine.state().members.is_empty(), "without a stream there is nobody to ask");
}

#[test]
fn gm_7_a_long_handler_does_not_matter_as_long_as_its_member_pings() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(LOG, &[1]);
    rig.pass_alive(29_000, &[1]);
    assert_eq!(rig.ack(1, LOG, &[0]), [AckStatus::Ok]);
}

#[test]
fn gm_8_a_resumed_session_keeps_its_units_its_leases_and_its_epochs() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(LOG, &[1, 2]);
    assert_eq!(rig.offsets(1), [0, 1]);
    let (epoch, units) = (rig.epochs[&member(1)], rig.units[&member(1)].clone());
    rig.event(Event::StreamEnded { member: member(1), epoch });
    rig.append(LOG, &[3]);
    rig.pass(5_000);
    let journalled = rig.journal.len();
    let in_work = rig.in_work(1);
    rig.join_as(1, 10, None, Some(in_work));
    let frames = rig.taken(1);
    let Frame::Joined { epoch: again, resumed: true, lost, .. } = &frames[0] else { panic!("{frames:?}") };
    assert_eq!((*again, lost.len()), (epoch, 0));
    assert_eq!(rig.units[&member(1)], units);
    assert_eq!(rig.journal.len(), journalled, "nothing durable changes");
    assert_eq!(rig.leased(1), 3, "what came meanwhile is delivered");
    assert_eq!(rig.ack(1, LOG, &[0, 1, 2]), [AckStatus::Ok; 3]);
}

#[test]
fn gm_8_what_a_resuming_member_does_not_name_goes_back_without_a_strike() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(LOG, &[1, 2]);
    rig.offsets(1);
    let epoch = rig.epochs[&member(1)];
    rig.event(Event::StreamEnded { member: member(1), epoch });
    let held = rig.units[&member(1)][0].2;
    let in_work = vec![InWork { source: LOG, epoch: held, runs: vec![one(1)], entries: Vec::new() }];
    rig.join_as(1, 10, None, Some(in_work));
    assert_eq!(rig.delivered(1), [[(0, 1)]], "the frame that was lost on its way is sent again, as the first try");
    assert_eq!(rig.leased(1), 2);
}

#[test]
fn gm_8_the_joined_frame_tells_what_became_of_the_rest() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(LOG, &[1, 2]);
    rig.offsets(1);
    rig.ack(1, LOG, &[0]);
    let epoch = rig.epochs[&member(1)];
    rig.event(Event::StreamEnded { member: member(1), epoch });
    let held = rig.units[&member(1)][0].2;
    let runs = vec![one(0), one(1), one(77)];
    let in_work = vec![InWork { source: LOG, epoch: held, runs, entries: Vec::new() }];
    rig.reading = false;
    rig.join_as(1, 10, None, Some(in_work));
    let frames = rig.taken(1);
    let Frame::Joined { lost, .. } = &frames[0] else { panic!("{frames:?}") };
    assert_eq!(lost.as_slice(), [(LOG, one(0), AckStatus::AlreadySettled)], "77 may come yet, 1 is leased");
}

#[test]
fn gm_8_credit_named_at_a_resume_is_all_of_it() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 2);
    rig.append(LOG, &[1, 2, 3, 4]);
    assert_eq!(rig.offsets(1), [0, 1]);
    let epoch = rig.epochs[&member(1)];
    rig.event(Event::StreamEnded { member: member(1), epoch });
    let in_work = rig.in_work(1);
    rig.join_as(1, 3, None, Some(in_work));
    assert_eq!(rig.offsets(1), [2], "two of three are in work");
}

#[test]
fn gm_9_a_static_member_keeps_its_units_for_its_timeout_and_its_records_wait() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join_as(1, 10, Some("a"), None);
    rig.join_as(2, 10, Some("b"), None);
    let key = rig.key_of(1, LOG, 0);
    rig.append(LOG, &[key]);
    assert_eq!(rig.offsets(1), [0]);
    let (epoch, slots) = (rig.epochs[&member(1)], rig.slots(1));
    rig.event(Event::StreamEnded { member: member(1), epoch });
    rig.pass_alive(60_000, &[2]);
    assert_eq!(rig.slots(1), slots, "units wait");
    assert_eq!(rig.machine.works[&LOG].leased(), 0, "its leases ended with the session timeout");
    assert!(rig.offsets(2).is_empty(), "its records wait for it");
    rig.join_as(3, 10, Some("a"), None);
    assert_eq!((rig.slots(3), rig.slots(1)), (slots, 0));
    assert_eq!(rig.delivered(3), [[(0, 2)]], "there were no hints: it counts as begun (rule PI-2)");
    rig.pass_alive(300_000, &[2, 3]);
    assert_eq!(rig.slots(3), slots);
}

#[test]
fn gm_9_a_new_session_of_an_instance_fences_the_old_one() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join_as(1, 10, Some("a"), None);
    rig.append(LOG, &[1]);
    rig.offsets(1);
    rig.join_as(2, 10, Some("a"), None);
    let told = rig.taken(1);
    assert!(told.iter().any(|frame| matches!(frame, Frame::Ended(Refusal::InstanceReplaced { .. }))));
    assert_eq!(rig.delivered(2), [[(0, 1)]], "the lost delivery counts for nothing");
    assert_eq!(rig.slots(2), 4_096);
    let epochs: Vec<u64> = rig.units[&member(2)].iter().map(|(_, _, epoch)| epoch.0).collect();
    assert!(epochs.iter().all(|epoch| *epoch > 1), "a new epoch: {epochs:?}");
}

#[test]
fn gm_9_a_static_member_that_does_not_come_back_loses_its_units_after_its_timeout() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join_as(1, 10, Some("a"), None);
    rig.join(2, 10);
    let epoch = rig.epochs[&member(1)];
    rig.event(Event::StreamEnded { member: member(1), epoch });
    rig.pass_alive(299_000, &[2]);
    assert!(rig.slots(1) > 0);
    rig.pass_alive(2_000, &[2]);
    assert_eq!((rig.slots(1), rig.slots(2)), (0, 4_096));
}

#[test]
fn gm_10_who_leaves_frees_its_units_at_once_and_its_records_have_no_strike() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(LOG, &[1, 2]);
    assert_eq!(rig.offsets(1), [0, 1]);
    rig.join(2, 10);
    rig.started(1, LOG, &[0]);
    rig.verb(1, Verb::Leave);
    assert_eq!(rig.slots(2), 4_096);
    let mut delivered: Vec<(u64, u32)> = rig.delivered(2).into_iter().flatten().collect();
    delivered.sort_unstable();
    assert_eq!(delivered, [(0, 1), (1, 1)]);
}

#[test]
fn gm_11_after_a_restart_members_units_and_epochs_are_as_before_and_nothing_moves_before_the_timeout() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.join(2, 10);
    let owners = rig.machine.state().owners.clone();
    let in_work = Vec::new();
    let epochs = rig.epochs.clone();
    let mut rig = rig.restart(1_000);
    rig.epochs = epochs;
    assert_eq!(rig.machine.state().owners, owners);
    rig.join(3, 10);
    assert_eq!(rig.machine.state().owners, owners, "a newcomer waits until the others have had their time");
    rig.join_as(1, 10, None, Some(in_work));
    assert!(matches!(rig.taken(1)[0], Frame::Joined { resumed: true, .. }));
    assert_eq!(rig.machine.state().owners, owners);
    rig.pass_alive(9_000, &[1, 3]);
    assert_eq!(rig.machine.state().owners, owners);
    rig.pass_alive(2_000, &[1, 3]);
    assert_eq!(rig.slots(2), 0, "who did not come back is lost");
    assert!(rig.slots(1) > 0 && rig.slots(3) > 0);
}

#[test]
fn gm_11_what_a_member_has_in_work_across_a_restart_is_its_own_whether_it_was_read_or_not() {
    for read_first in [true, false] {
        let mut rig = Rig::new(Mode::Keyed, 1);
        rig.join(1, 10);
        rig.append(LOG, &[1, 2, 1]);
        assert_eq!(rig.offsets(1), [0, 1]);
        let (epochs, in_work) = (rig.epochs.clone(), rig.in_work(1));
        let mut rig = {
            let held = rig.held.clone();
            let logs = std::mem::take(&mut rig.logs);
            let mut again = rig.restart(100);
            (again.logs, again.epochs, again.held) = (logs, epochs, held);
            again
        };
        if read_first {
            rig.read();
        }
        rig.reading = false;
        rig.join_as(1, 10, None, Some(in_work));
        let frames = rig.taken(1);
        let Frame::Joined { resumed: true, lost, .. } = &frames[0] else { panic!("{frames:?}") };
        assert!(lost.is_empty());
        let answered: &[AckStatus] = if read_first { &[AckStatus::Ok] } else { &[] };
        assert_eq!(rig.ack(1, LOG, &[1]), answered, "what was not read yet is answered once it was");
        rig.reading = true;
        rig.read();
        assert!(rig.is_settled(LOG, 1));
        assert!(rig.offsets(1).is_empty(), "0 is in work, and 2 is of its key");
        assert_eq!(rig.ack(1, LOG, &[0]), [AckStatus::Ok]);
        assert_eq!(rig.delivered(1), [[(2, 1)]]);
    }
}

#[test]
fn gm_11_at_shutdown_members_are_told_when_to_come_back_and_get_nothing_more() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(LOG, &[1, 1]);
    assert_eq!(rig.offsets(1), [0]);
    rig.event(Event::Shutdown { reconnect_after_ms: 250 });
    assert!(matches!(rig.taken(1).as_slice(), [Frame::Goodbye { reconnect_after_ms: 250 }]));
    assert_eq!(rig.ack(1, LOG, &[0]), [AckStatus::Ok], "verbs are still taken");
    assert!(rig.offsets(1).is_empty());
}

#[test]
fn gm_12_records_of_a_lost_member_come_to_another_within_the_session_timeout() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(LOG, &[1]);
    assert_eq!(rig.offsets(1), [0]);
    rig.join(2, 10);
    let epoch = rig.epochs[&member(1)];
    rig.event(Event::StreamEnded { member: member(1), epoch });
    rig.pass_alive(10_000, &[2]);
    assert_eq!(rig.delivered(2), [[(0, 2)]]);
}

#[test]
fn a_verb_of_an_older_session_is_told_that_it_is_over_and_changes_nothing() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(LOG, &[1]);
    let targets = rig.targets(1, LOG, &[0]);
    rig.verb(1, Verb::Leave);
    rig.taken(1);
    assert!(rig.ack_targets(1, targets).is_empty());
    assert!(matches!(rig.taken(1).as_slice(), [Frame::Ended(Refusal::SessionOver)]));
    assert_eq!(rig.floor(LOG), 0);
}

#[test]
fn fc_2_credits_of_zero_and_of_all_there_is_are_held_within_bounds() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 0);
    rig.append(LOG, &[1]);
    assert!(rig.offsets(1).is_empty());
    rig.verb(1, Verb::Credit(Credit { records: 0, bytes: 0 }));
    assert!(rig.offsets(1).is_empty());
    for _ in 0..3 {
        rig.verb(1, Verb::Credit(Credit { records: 1 << 63, bytes: u64::MAX }));
    }
    assert_eq!(rig.offsets(1), [0]);
    let left = rig.machine.members.get(member(1)).map(|one| (one.records_left, one.bytes_left));
    assert_eq!(left, Some((1 << 31, 1 << 40)), "beyond that nothing counts");
    assert_eq!(rig.nack(1, LOG, &[0], NackKind::Release), [AckStatus::Ok]);
    assert_eq!(rig.leased(1), 1, "it came again at once");
    assert_eq!(at(0), rig.machine.state().partitions[&source(1, 0)].settled.floor());
}
