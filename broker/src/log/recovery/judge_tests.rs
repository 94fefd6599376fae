use super::super::super::test_support::{epoch, identity, offset};
use super::*;

/// A run of frames with these offsets; its bytes do not matter here.
fn run(from: u64, to: u64) -> Run {
    let identity = identity();
    let last = FrameHeader {
        mark: false,
        extension_bytes: 0,
        batch_bytes: 0,
        base_offset: offset(to - 1),
        record_count: 1,
        append_time_ms: 0,
        epoch: epoch(1),
        durable_end: offset(0),
        salt: 1,
        partition: identity.partition,
        identity: identity.digest(),
        body_checksum: 0,
    };
    Run { from: offset(from), to: offset(to), end_position: to * 100, last }
}

fn judged(runs: &[(u64, u64)], proven: u64) -> (u64, Vec<(u64, u64)>) {
    let runs: Vec<Run> = runs.iter().map(|(from, to)| run(*from, *to)).collect();
    let verdict = judge(offset(0), &runs, offset(proven));
    (verdict.end.get(), verdict.lost.iter().map(|range| (range.from.get(), range.to.get())).collect())
}

#[test]
fn c3_a_whole_log_ends_with_its_last_frame() {
    assert_eq!(judged(&[(0, 10)], 0), (10, vec![]));
    assert_eq!(judged(&[(0, 10)], 10), (10, vec![]));
    assert_eq!(judged(&[], 0), (0, vec![]));
}

#[test]
fn c3_a_hole_at_or_above_the_proven_end_is_a_torn_tail() {
    assert_eq!(judged(&[(0, 10), (12, 20)], 10), (10, vec![]));
    assert_eq!(judged(&[(0, 10), (12, 20)], 4), (10, vec![]));
    assert_eq!(judged(&[(3, 20)], 0), (0, vec![]));
}

#[test]
fn c3_a_hole_below_the_proven_end_is_lost_and_nothing_is_cut() {
    assert_eq!(
        judged(&[(0, 10), (12, 20)], 11),
        (11, vec![(10, 11)]),
        "the next frame is not proven, and a hole before it"
    );
    assert_eq!(judged(&[(0, 10), (12, 20)], 12), (20, vec![(10, 12)]), "good frames go on from the proven end");
    assert_eq!(judged(&[(0, 10), (12, 20)], 20), (20, vec![(10, 12)]));
    assert_eq!(judged(&[(0, 10)], 15), (15, vec![(10, 15)]), "the end of the file below the proven end");
    assert_eq!(judged(&[], 7), (7, vec![(0, 7)]));
}

#[test]
fn c3_several_holes_are_lost_and_the_first_unproven_one_ends_the_log() {
    assert_eq!(judged(&[(0, 5), (7, 9), (11, 13), (15, 20)], 13), (13, vec![(5, 7), (9, 11)]));
    assert_eq!(judged(&[(2, 5), (7, 9)], 8), (9, vec![(0, 2), (5, 7)]));
}

#[test]
fn c3_damaged_bytes_without_an_offset_are_no_hole() {
    assert_eq!(judged(&[(0, 5), (5, 9)], 0), (9, vec![]));
}

fn range(from: u64, to: u64) -> OffsetRange {
    OffsetRange { from: offset(from), to: offset(to) }
}

#[test]
fn ranges_are_joined_and_known_ones_taken_out() {
    let joined = with_range(&[range(0, 5), range(20, 30)], range(4, 20));
    assert_eq!(joined, [range(0, 30)]);
    assert_eq!(with_range(&[range(5, 9)], range(0, 2)), [range(0, 2), range(5, 9)]);
    assert_eq!(with_range(&[], range(4, 4)), []);
    assert_eq!(without(range(0, 10), &[range(2, 4), range(6, 20)]), [range(0, 2), range(4, 6)]);
    assert_eq!(without(range(0, 10), &[range(0, 10)]), []);
    assert_eq!(without(range(0, 10), &[]), [range(0, 10)]);
}
