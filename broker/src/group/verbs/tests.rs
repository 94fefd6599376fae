//! Rules of what members say: AK-1 to AK-5, KO-3, KO-4, RT-5 to RT-7, PI-1.

use crate::group::Mode;
use crate::group::effect::AckStatus;
use crate::group::event::NackKind;
use crate::group::test_support::{Rig, source};

#[test]
fn ak_1_records_are_delivered_and_acked_in_the_order_of_their_keys() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    let log = source(1, 0);
    rig.join(1, 100);
    rig.append(log, &[1, 2, 1, 3]);
    assert_eq!(rig.offsets(1), [0, 1, 3]);
    assert_eq!(rig.ack(1, log, &[0]), [AckStatus::Ok]);
    assert_eq!(rig.offsets(1), [2], "the next of the key follows at once");
    assert_eq!(rig.ack(1, log, &[1, 2, 3]), [AckStatus::Ok; 3]);
    assert_eq!(rig.floor(log), 4);
}

#[test]
fn ko_5_a_key_that_waits_for_its_retry_holds_up_no_other() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    let log = source(1, 0);
    rig.join(1, 100);
    rig.append(log, &[1, 1, 2]);
    assert_eq!(rig.offsets(1), [0, 2]);
    assert_eq!(rig.nack(1, log, &[0], NackKind::Retry), [AckStatus::Ok]);
    assert_eq!(rig.ack(1, log, &[2]), [AckStatus::Ok]);
    assert!(rig.offsets(1).is_empty());
    assert_eq!(rig.floor(log), 0);
    rig.pass_alive(2_000, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 2)]]);
    assert_eq!(rig.ack(1, log, &[0]), [AckStatus::Ok]);
    assert_eq!(rig.offsets(1), [1]);
}
