//! The harness can fail: each rule that is broken on purpose is caught by a check that does not know of the switch.
//!
//! The same checks pass without the switches: they are the tests of [`crate::log_crash`], [`crate::log_faults`] and
//! [`crate::log_flips`]. `ack_before_sync` belongs to the group append and is caught there.

use std::panic::{AssertUnwindSafe, catch_unwind};

use sawlog_broker::log::sabotage::Sabotage;
use sawlog_broker::log::storage::sim_disk::{Effect, OpKind};

use crate::log_crash::crash_everywhere;
use crate::log_faults::{EIO, calls, fault, run};
use crate::log_flips::{Sample, flip};
use crate::log_world::Violation;

/// What a check says; a panic of the engine, which an assertion of its own has stopped, says it as well.
fn said(check: impl FnOnce() -> Result<(), Violation>) -> Result<(), Violation> {
    catch_unwind(AssertUnwindSafe(check)).unwrap_or_else(|_| Err("the engine panicked".to_owned()))
}

/// The first of the checks that notices.
fn first(checks: impl Iterator<Item = Result<(), Violation>>) -> Option<Violation> {
    checks.into_iter().find_map(Result::err)
}

fn must_be_caught(switch: &str, violation: Option<Violation>, by: &str) {
    let violation = violation.unwrap_or_else(|| panic!("{switch}: nobody noticed"));
    let sentence = violation.lines().next().unwrap_or_default();
    assert!(by.split('|').any(|rule| sentence.contains(rule)), "{switch}: caught for another reason: {sentence}");
    println!("{switch}: {sentence}");
}

/// Crashes of several workloads.
fn crashes(sabotage: Sabotage) -> Option<Violation> {
    first((0..10).map(|seed| said(|| crash_everywhere(seed, 2, sabotage).map(|_| ()))))
}

/// Failed syncs at several calls of several workloads.
fn failed_syncs(sabotage: Sabotage) -> Option<Violation> {
    let faults = (10..20).flat_map(|seed| calls(seed).step_by(5).map(move |op| (seed, op)));
    first(faults.map(|(seed, op)| {
        let injected = fault(op, Effect::Errno(EIO), false, &[OpKind::Sync]);
        said(|| run(seed, &injected, sabotage))
    }))
}

/// Flipped bits of one kind of file.
fn flips(sabotage: Sabotage, suffix: &str, step: usize) -> Option<Violation> {
    let sample = Sample::new(1, 12 << 10, sabotage);
    let bits = sample.files.iter().filter(|file| file.ends_with(suffix)).flat_map(|file| {
        let bits = sample.disk.bytes_of(file).len() as u64 * 8;
        (0..bits).step_by(step).map(move |bit| (file, bit))
    });
    first(bits.map(|(file, bit)| said(|| flip(&sample, file, bit, bit % 3 == 0, sabotage))))
}

#[test]
fn a_retried_sync_is_caught_by_the_loss_of_acknowledged_records() {
    let sabotage = Sabotage { retry_failed_sync: true, ..Sabotage::default() };
    must_be_caught("retry a failed sync", failed_syncs(sabotage), "D1|D6");
    assert_eq!(failed_syncs(Sabotage::default()), None);
}

#[test]
fn directories_that_are_not_synced_are_caught_by_a_power_loss() {
    let sabotage = Sabotage { skip_directory_sync: true, ..Sabotage::default() };
    must_be_caught("skip directory sync", crashes(sabotage), "D1|cannot be opened|D7|C3");
}

#[test]
fn a_tail_that_is_served_unsynced_is_caught_by_the_next_power_loss() {
    let sabotage = Sabotage { serve_unsynced_tail: true, ..Sabotage::default() };
    let caught = crashes(sabotage).or_else(|| failed_syncs(sabotage));
    must_be_caught("serve the recovered tail unsynced", caught, "D1|D6|C3");
}

#[test]
fn a_checksum_of_the_payload_alone_is_caught_by_a_flipped_bit() {
    let sabotage = Sabotage { payload_only_checksum: true, ..Sabotage::default() };
    must_be_caught("payload-only checksum", flips(sabotage, ".log", 7), "C1|C2|C3|nothing is read|panicked");
    assert_eq!(flips(Sabotage::default(), ".log", 77), None);
}

#[test]
fn a_cut_at_the_first_bad_byte_is_caught_by_a_flipped_bit() {
    let sabotage = Sabotage { truncate_at_first_bad_byte: true, ..Sabotage::default() };
    must_be_caught("truncate at the first bad byte", flips(sabotage, ".log", 7), "C3|C2|C1");
}

#[test]
fn a_trusted_index_is_caught_by_a_flipped_bit() {
    let sabotage = Sabotage { trust_index: true, ..Sabotage::default() };
    must_be_caught("trust the index", flips(sabotage, "index", 1), "C1|C2|C4|nothing is read|panicked|reading");
}
