//! Records that are spent behind others of their key, through a whole machine.

use super::super::effect::AckStatus;
use super::super::entry::{EntryKind, EntryState};
use super::super::event::NackKind;
use super::super::retry::OnExhausted;
use super::super::test_support::{Rig, source};
use super::super::{GroupConfig, Mode};
use super::*;

fn s() -> Source {
    source(1, 0)
}

/// Key 1 has offsets 0 to 2, two of a key may be in flight, and one try is all. The second has failed.
fn spent(on_exhausted: OnExhausted) -> Rig {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.max_in_flight_per_key = 2;
    config.retry.max_attempts = 1;
    config.retry.on_exhausted = on_exhausted;
    let mut rig = Rig::with(config, 1);
    rig.join(1, 100);
    rig.append(s(), &[1, 1, 1]);
    assert_eq!(rig.offsets(1), [0, 1]);
    assert_eq!(rig.nack(1, s(), &[1], NackKind::Retry), [AckStatus::Ok], "its strike is durable");
    rig.pass_alive(3_000, &[1]);
    assert!(rig.offsets(1).is_empty(), "it is not delivered a second time, and nothing behind it is");
    rig
}

#[test]
fn rt_1_what_is_spent_behind_another_of_its_key_is_delivered_no_more_and_dies_once_it_is_the_first() {
    let mut rig = spent(OnExhausted::DeadLetter);
    assert!(rig.moves.is_empty(), "it does not overtake the first");
    assert_eq!(rig.ack(1, s(), &[0]), [AckStatus::Ok]);
    rig.settle_moves();
    let entry = rig.entry(s(), 1);
    assert_eq!((entry.kind, entry.reason, entry.attempts), (EntryKind::Failed, DeadReason::Attempts, 1));
    assert_eq!(entry.class.as_deref(), Some("E"));
    assert_eq!(rig.entry(s(), 2).kind, EntryKind::Parked);
    assert_eq!(rig.floor(s()), 3);
    assert!(rig.offsets(1).is_empty());
}

#[test]
fn rt_1_what_is_spent_stays_so_across_a_restart() {
    let mut rig = spent(OnExhausted::DeadLetter).restart(1_000);
    rig.pass(11_000);
    rig.join(2, 100);
    assert_eq!(rig.offsets(2), [0], "the first is tried again, the spent one is not");
    assert_eq!(rig.ack(2, s(), &[0]), [AckStatus::Ok]);
    rig.settle_moves();
    assert_eq!((rig.entry(s(), 1).kind, rig.entry(s(), 1).reason), (EntryKind::Failed, DeadReason::Attempts));
    assert_eq!(rig.floor(s()), 3);
}

#[test]
fn dl_6_what_is_spent_behind_a_record_that_dies_is_parked_with_the_rest() {
    let mut rig = spent(OnExhausted::DeadLetter);
    rig.bury(1, s(), 0);
    let kinds: Vec<EntryKind> = (0..3).map(|offset| rig.entry(s(), offset).kind).collect();
    assert_eq!(kinds, [EntryKind::Failed, EntryKind::Parked, EntryKind::Parked]);
    assert_eq!(rig.entry_state(s(), 1), Some(EntryState::Open));
}

#[test]
fn dl_8_what_is_spent_is_dropped_in_its_turn_and_the_next_goes_on() {
    let mut rig = spent(OnExhausted::Drop);
    assert_eq!(rig.ack(1, s(), &[0]), [AckStatus::Ok]);
    assert!(rig.is_settled(s(), 1));
    assert_eq!(rig.offsets(1), [2]);
}
