//! A true history passes; each forged one is flagged for what was forged, and for nothing else.

use super::*;

fn place(offset: u64) -> Place {
    Place { partition: 0, epoch: 1, offset }
}

fn event(time_us: u64, offset: u64, what: GroupAct) -> GroupEvent {
    GroupEvent { time_us, member: 1, place: place(offset), what }
}

/// Keys: 7 has offsets 0 and 2, healthy; 8 has 1 (healthy), 3 (poison), 4 (parked behind it).
fn history() -> GroupHistory {
    let appended = [(0, 7, false), (1, 8, false), (2, 7, false), (3, 8, true), (4, 8, false)];
    let appended = appended.map(|(offset, key, poison)| Appended { place: place(offset), key, poison });
    let mut events = Vec::new();
    let mut handled = |time, offset, key| {
        events.push(event(time, offset, GroupAct::Delivered { key, attempt: 1 }));
        events.push(event(time + 1, offset, GroupAct::Acking));
        events.push(event(time + 2, offset, GroupAct::Settled));
    };
    handled(10, 0, 7);
    handled(20, 1, 8);
    handled(30, 2, 7);
    for (time, attempt) in [(40, 1), (50, 2), (60, 3)] {
        events.push(event(time, 3, GroupAct::Delivered { key: 8, attempt }));
    }
    let dead = [(3, true), (4, false)].map(|(offset, failed)| DeadSeen { place: place(offset), key: 8, failed });
    GroupHistory {
        appended: appended.to_vec(),
        events,
        dead: dead.to_vec(),
        max_attempts: 3,
        broker_kills: 0,
        member_kills: 0,
    }
}

/// What the checker finds in a history that `forge` has spoiled.
fn forged(forge: impl FnOnce(&mut GroupHistory)) -> Vec<GroupViolation> {
    let mut history = history();
    forge(&mut history);
    check_group(&history).expect_err("a forged history does not pass")
}

#[test]
fn a_true_history_passes_and_is_counted() {
    let totals = check_group(&history()).unwrap();
    let expected = GroupTotals { appended: 5, delivered: 6, again: 0, settled: 3, unanswered: 0, failed: 1, parked: 1 };
    assert_eq!(totals, expected);
}

#[test]
fn an_ack_without_answer_and_a_second_delivery_before_the_answer_pass() {
    let mut history = history();
    history.events.retain(|event| !(event.place == place(0) && event.what == GroupAct::Settled));
    history.events.push(GroupEvent { member: 2, ..event(15, 0, GroupAct::Delivered { key: 7, attempt: 2 }) });
    history.events.push(GroupEvent { member: 2, ..event(16, 0, GroupAct::Settled) });
    let totals = check_group(&history).unwrap();
    assert_eq!((totals.again, totals.settled, totals.unanswered), (1, 3, 0));
}

#[test]
fn a_history_without_deliveries_proves_nothing() {
    let found = check_group(&GroupHistory { max_attempts: 3, ..GroupHistory::default() }).unwrap_err();
    assert_eq!(found, [GroupViolation::NothingDelivered]);
}

#[test]
fn a_lost_record_is_flagged() {
    // Never delivered at all, and delivered without ever being acknowledged.
    let found = forged(|history| history.events.retain(|event| event.place != place(2)));
    assert_eq!(found, [GroupViolation::Hole { place: place(2), delivered: false }]);
    let found = forged(|history| {
        history.events.retain(|event| event.place != place(2) || matches!(event.what, GroupAct::Delivered { .. }));
    });
    assert_eq!(found, [GroupViolation::Hole { place: place(2), delivered: true }]);
}

#[test]
fn a_lost_ack_is_flagged_when_the_record_comes_again() {
    let found = forged(|history| history.events.push(event(99, 2, GroupAct::Delivered { key: 7, attempt: 2 })));
    assert_eq!(found, [GroupViolation::DeliveredAfterSettle { place: place(2), member: 1 }]);
}

#[test]
fn a_reorder_is_flagged() {
    let found = forged(|history| {
        // Offset 2 comes before 0, of the same key, was acknowledged.
        for event in &mut history.events {
            if event.place == place(2) && matches!(event.what, GroupAct::Delivered { .. }) {
                event.time_us = 5;
            }
        }
    });
    assert_eq!(found, [GroupViolation::Overtaken { place: place(2), earlier: place(0) }]);
}

#[test]
fn a_record_delivered_of_a_dead_key_is_flagged() {
    let found = forged(|history| history.events.push(event(70, 4, GroupAct::Delivered { key: 8, attempt: 1 })));
    assert_eq!(found, [GroupViolation::Overtaken { place: place(4), earlier: place(3) }]);
}

#[test]
fn phantoms_are_flagged_among_deliveries_and_dead_letters() {
    let found = forged(|history| history.events.push(event(70, 9, GroupAct::Delivered { key: 7, attempt: 1 })));
    assert_eq!(found, [GroupViolation::Phantom { place: place(9) }]);
    let found = forged(|history| history.dead.push(DeadSeen { place: place(9), key: 8, failed: false }));
    assert_eq!(found, [GroupViolation::Phantom { place: place(9) }]);
    // A delivery with another key than was appended there.
    let found = forged(|history| {
        let another = event(12, 0, GroupAct::Delivered { key: 8, attempt: 1 });
        history.events.push(another);
    });
    assert_eq!(found, [GroupViolation::Phantom { place: place(0) }]);
}

#[test]
fn a_double_dead_letter_is_flagged() {
    let found = forged(|history| history.dead.push(history.dead[0]));
    assert_eq!(found, [GroupViolation::DoubleDeadLetter { place: place(3) }]);
}

#[test]
fn a_hole_in_the_dead_letters_is_flagged() {
    for index in 0..2 {
        let found = forged(|history| {
            history.dead.remove(index);
        });
        let offset = 3 + index as u64;
        assert_eq!(found, [GroupViolation::Hole { place: place(offset), delivered: offset == 3 }]);
    }
}

#[test]
fn a_dead_letter_of_a_healthy_key_or_of_the_wrong_kind_is_flagged() {
    let wrong = |found: Vec<GroupViolation>, offset| {
        assert!(
            matches!(found[..], [GroupViolation::WrongDeadLetter { place: at, .. }] if at == place(offset)),
            "{found:?}"
        );
    };
    wrong(forged(|history| history.dead.push(DeadSeen { place: place(0), key: 7, failed: true })), 0);
    wrong(forged(|history| history.dead[0].failed = false), 3);
    wrong(forged(|history| history.dead[1].failed = true), 4);
}

#[test]
fn a_poison_record_that_is_settled_is_flagged() {
    let found = forged(|history| {
        history.events.push(event(70, 3, GroupAct::Acking));
        history.events.push(event(71, 3, GroupAct::Settled));
    });
    assert!(matches!(found[..], [GroupViolation::WrongDeadLetter { .. }]), "{found:?}");
}

#[test]
fn attempts_outside_of_their_bounds_are_flagged() {
    let found = forged(|history| history.events.push(event(70, 3, GroupAct::Delivered { key: 8, attempt: 4 })));
    assert!(found.contains(&GroupViolation::Attempts { place: place(3), found: 4, max: 3 }), "{found:?}");
    // A member that was killed may have given one delivery back, but not two.
    let delivered = |time| event(time, 3, GroupAct::Delivered { key: 8, attempt: 3 });
    let mut history = history();
    history.member_kills = 1;
    history.events.push(delivered(70));
    check_group(&history).unwrap();
    history.events.push(delivered(71));
    let found = check_group(&history).unwrap_err();
    assert_eq!(found, [GroupViolation::Attempts { place: place(3), found: 5, max: 4 }]);
}
