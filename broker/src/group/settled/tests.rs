use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn set(floor: u64, runs: &[(u64, u64)]) -> SettledSet {
    let mut set = SettledSet::new(offset(floor));
    for &(from, to) in runs {
        set.settle(range(from, to));
    }
    set
}

fn runs(set: &SettledSet) -> Vec<(u64, u64)> {
    set.runs().map(|run| (run.from.get(), run.to.get())).collect()
}

#[test]
fn ak_6_the_floor_is_the_lowest_unsettled_offset() {
    let mut set = SettledSet::new(offset(10));
    assert_eq!(set.settle(range(12, 14)), 2);
    assert_eq!((set.floor().get(), runs(&set)), (10, vec![(12, 14)]));
    assert_eq!(set.settle(range(10, 11)), 1);
    assert_eq!((set.floor().get(), runs(&set)), (11, vec![(12, 14)]));
    assert_eq!(set.settle(range(11, 12)), 1);
    assert_eq!((set.floor().get(), runs(&set)), (14, vec![]));
    assert_eq!(set.settled_above_floor(), 0);
}

#[test]
fn ak_4_settling_again_settles_nothing_new() {
    let mut set = set(5, &[(7, 9), (12, 20)]);
    assert_eq!(set.settle(range(0, 5)), 0, "below the floor");
    assert_eq!(set.settle(range(13, 15)), 0, "inside of a run");
    assert_eq!(set.settle(range(8, 13)), 3, "what lies between two runs");
    assert_eq!(runs(&set), vec![(7, 20)]);
    assert_eq!(set.settle(range(0, 30)), 12, "what was left");
    assert_eq!(set.floor().get(), 30);
}

#[test]
fn an_empty_or_reversed_range_settles_nothing() {
    let mut set = set(5, &[(7, 9)]);
    let before = set.clone();
    assert_eq!(set.settle(range(8, 8)), 0);
    assert_eq!(set.settle(range(20, 6)), 0);
    assert_eq!(set, before);
}

#[test]
fn of_3_a_reset_forgets_everything_above_the_new_floor() {
    let mut set = set(5, &[(7, 9)]);
    set.set_floor(offset(3));
    assert_eq!(set, SettledSet::new(offset(3)));
    assert!(!set.contains(offset(4)) && !set.contains(offset(7)));
}

#[test]
fn ak_8_a_commit_moves_the_floor_and_keeps_what_is_settled_above_it() {
    let mut set = set(5, &[(7, 9), (12, 20)]);
    set.commit(offset(6));
    assert_eq!((set.floor().get(), runs(&set), set.settled_above_floor()), (6, vec![(7, 9), (12, 20)], 10));
    set.commit(offset(7));
    assert_eq!((set.floor().get(), runs(&set)), (9, vec![(12, 20)]));
    set.commit(offset(15));
    assert_eq!((set.floor().get(), runs(&set)), (20, vec![]));
    set.commit(offset(3));
    assert_eq!((set.floor().get(), set.contains(offset(4))), (3, false), "back by force");
}

#[test]
fn ak_12_a_cut_drops_what_is_at_or_above_it() {
    let settled = || set(5, &[(7, 9), (12, 20), (30, 31)]);
    let mut cut = settled();
    assert_eq!(cut.cut(offset(15)), 6);
    assert_eq!((cut.floor().get(), runs(&cut), cut.settled_above_floor()), (5, vec![(7, 9), (12, 15)], 5));
    let mut cut = settled();
    assert_eq!(cut.cut(offset(12)), 9);
    assert_eq!(runs(&cut), vec![(7, 9)]);
    let mut cut = settled();
    assert_eq!(cut.cut(offset(3)), 13, "two below the floor and all above it");
    assert_eq!(cut, SettledSet::new(offset(3)));
    let mut cut = settled();
    assert_eq!(cut.cut(offset(31)), 0);
    assert_eq!(cut, settled());
}

#[test]
fn the_next_unsettled_offset_and_the_holes_are_found() {
    let set = set(5, &[(7, 9), (12, 20)]);
    let next = |from| set.first_unsettled_at_or_after(offset(from)).get();
    assert_eq!([next(0), next(5), next(6), next(7), next(9), next(19), next(20)], [5, 5, 6, 9, 9, 20, 20]);
    let holes =
        |from, to| set.unsettled_in(range(from, to)).map(|hole| (hole.from.get(), hole.to.get())).collect::<Vec<_>>();
    assert_eq!(holes(0, 25), vec![(5, 7), (9, 12), (20, 25)]);
    assert_eq!(holes(8, 10), vec![(9, 10)]);
    assert_eq!(holes(12, 20), vec![]);
    assert_eq!(holes(0, 5), vec![]);
    assert_eq!(set.count_unsettled_in(range(0, 25)), 10);
    assert_eq!(set.end().get(), 20);
}

#[test]
fn the_greatest_offsets_are_settled_without_overflow() {
    let max = Offset::MAX.get();
    let mut set = set(0, &[(max - 1, max)]);
    assert!(set.contains(offset(max - 1)) && !set.contains(offset(max)));
    assert_eq!(set.settle(range(0, max)), max - 1);
    assert_eq!(set.floor(), Offset::MAX);
}

#[test]
fn a_set_cut_short_at_any_byte_is_refused() {
    let mut bytes = Vec::new();
    set(300, &[(70_000, 90_000), (1 << 40, 1 << 41)]).encode(&mut bytes);
    for length in 0..bytes.len() {
        let refused = SettledSet::decode(&mut &bytes[..length]).unwrap_err();
        assert!(
            matches!(refused, SettledDecodeError::Truncated | SettledDecodeError::TooManyRuns { .. }),
            "{length}: {refused}"
        );
    }
}

#[test]
fn bytes_that_break_an_invariant_are_refused() {
    let decode = |bytes: &[u8]| SettledSet::decode(&mut &bytes[..]);
    assert_eq!(decode(&[5, 1, 0, 3]), Err(SettledDecodeError::NoRun { index: 0 }), "touches the floor");
    assert_eq!(decode(&[5, 1, 2, 0]), Err(SettledDecodeError::NoRun { index: 0 }), "is empty");
    assert_eq!(decode(&[5, 2, 2, 3, 0, 1]), Err(SettledDecodeError::NoRun { index: 1 }), "touches a run");
    assert_eq!(decode(&[5, 9, 2, 3]), Err(SettledDecodeError::TooManyRuns { announced: 9, bytes: 2 }));
    let mut beyond = vec![5, 1, 1];
    put(&mut beyond, i64::MAX as u64);
    assert_eq!(decode(&beyond), Err(SettledDecodeError::TooGreat), "an offset beyond the greatest");
    assert_eq!(decode(&[0xff; 12]), Err(SettledDecodeError::TooGreat), "a number of more than 64 bits");
    let mut overflow = vec![5, 1];
    put(&mut overflow, u64::MAX);
    put(&mut overflow, 1);
    assert_eq!(decode(&overflow), Err(SettledDecodeError::TooGreat));
}

#[test]
fn json_that_breaks_an_invariant_is_refused() {
    let json = serde_json::to_string(&set(5, &[(7, 9), (12, 20)])).unwrap();
    assert_eq!(json, "[5,[[7,9],[12,20]]]");
    assert_eq!(serde_json::from_str::<SettledSet>(&json).unwrap(), set(5, &[(7, 9), (12, 20)]));
    for bad in ["[5,[[5,9]]]", "[5,[[7,7]]]", "[5,[[7,9],[9,10]]]", "[5,[[7,9223372036854775809]]]"] {
        assert!(serde_json::from_str::<SettledSet>(bad).is_err(), "{bad}");
    }
}

#[derive(Debug, Clone)]
enum Step {
    Settle(u64, u64),
    SetFloor(u64),
    Cut(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..120_u64, 0..12_u64).prop_map(|(from, length)| Step::Settle(from, from + length)),
        1 => (0..120_u64).prop_map(Step::SetFloor),
        2 => (0..130_u64).prop_map(Step::Cut),
    ]
}

/// Every settled offset, one by one.
fn told(set: &SettledSet) -> BTreeSet<u64> {
    (0..150).filter(|&at| set.contains(offset(at))).collect()
}

proptest! {
    #[test]
    fn ak_6_a_settled_set_is_a_set_of_offsets(steps in prop::collection::vec(step(), 0..60)) {
        let (mut set, mut model) = (SettledSet::new(offset(20)), (0..20).collect::<BTreeSet<u64>>());
        for step in steps {
            match step {
                Step::Settle(from, to) => {
                    let new = (from..to).filter(|&at| model.insert(at)).count() as u64;
                    prop_assert_eq!(set.settle(range(from, to)), new);
                }
                Step::SetFloor(floor) => {
                    model = (0..floor).collect();
                    set.set_floor(offset(floor));
                }
                Step::Cut(to) => {
                    let lost = model.split_off(&to).len() as u64;
                    prop_assert_eq!(set.cut(offset(to)), lost);
                }
            }
            prop_assert_eq!(&told(&set), &model);
            let floor = (0..).find(|at| !model.contains(at)).unwrap();
            prop_assert_eq!(set.floor().get(), floor);
            prop_assert_eq!(set.settled_above_floor(), model.range(floor..).count() as u64);
            let runs = runs(&set);
            prop_assert!(runs.iter().all(|run| run.0 < run.1 && run.0 > floor));
            prop_assert!(runs.windows(2).all(|pair| pair[0].1 < pair[1].0));
            let holes: BTreeSet<u64> =
                set.unsettled_in(range(10, 140)).flat_map(|hole| hole.from.get()..hole.to.get()).collect();
            prop_assert_eq!(holes, (10..140).filter(|at| !model.contains(at)).collect::<BTreeSet<_>>());
        }
    }

    #[test]
    fn a_set_is_read_back_as_it_was_written(steps in prop::collection::vec((0..1_u64 << 40, 1..1_u64 << 20), 0..40)) {
        let mut set = SettledSet::new(offset(1_000));
        for (from, length) in steps {
            set.settle(range(from, from + length));
        }
        let mut bytes = Vec::new();
        set.encode(&mut bytes);
        bytes.push(77);
        let mut input = &bytes[..];
        prop_assert_eq!(&SettledSet::decode(&mut input).unwrap(), &set);
        prop_assert_eq!(input, &[77][..]);
    }

    #[test]
    fn any_bytes_are_a_set_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
        if let Ok(set) = SettledSet::decode(&mut &bytes[..]) {
            prop_assert!(set.runs().all(|run| run.from < run.to && run.from > set.floor()));
        }
    }
}
