use proptest::prelude::*;

use super::*;
use crate::model::{PartitionId, TopicUuid};

fn members(count: u32) -> Vec<MemberId> {
    named(0..count)
}

fn named(numbers: impl IntoIterator<Item = u32>) -> Vec<MemberId> {
    let one = |number: u32| {
        let mut id = [0; 16];
        id[..4].copy_from_slice(&number.to_be_bytes());
        MemberId(id)
    };
    numbers.into_iter().map(one).collect()
}

fn sources(partitions: u32) -> Vec<Source> {
    (0..partitions).map(|partition| Source { topic: TopicUuid([7; 16]), partition: PartitionId(partition) }).collect()
}

/// Slots that `target` takes from members that are still there.
fn taken(members: &[MemberId], old: &Assignment, target: &Assignment) -> u64 {
    let moves = old.moves_to(target);
    let theirs = moves.iter().filter(|one| one.from.is_some_and(|from| members.contains(&from)));
    theirs.map(|one| u64::from(one.unit.slots.len())).sum()
}

/// Every slot once, in order, and totals within a grain of each other.
fn check(assignment: &Assignment, members: &[MemberId], sources: &[Source], mode: Mode) {
    assert_eq!(assignment.sources().keys().copied().collect::<Vec<_>>(), sources);
    for (source, runs) in assignment.sources() {
        let mut at = 0;
        for (slots, member) in runs {
            assert_eq!(slots.from, at, "{source:?}: each slot belongs to one member");
            assert!(!slots.is_empty() && members.contains(member));
            at = slots.to;
        }
        assert_eq!(at, KEY_SLOTS, "{source:?}: each slot belongs to a member");
        assert!(mode != Mode::Offset || runs.len() == 1, "{source:?}: whole partitions in mode OFFSET");
        assert!(runs.windows(2).all(|pair| pair[0].1 != pair[1].1), "{source:?}: neighbours of one owner are joined");
    }
    let totals = assignment.totals();
    let total = |member| totals.get(member).copied().unwrap_or(0);
    let (least, most) = (members.iter().map(total).min().unwrap(), members.iter().map(total).max().unwrap());
    let slots = sources.len() as u64 * u64::from(KEY_SLOTS);
    let grain = grain(mode, members.len() as u64, slots);
    assert!(most - least <= grain, "{least} to {most} slots with a grain of {grain}");
}

#[test]
fn gm_3_in_mode_offset_a_member_owns_whole_partitions() {
    let (members, sources) = (members(3), sources(10));
    let assignment = assign(&members, &sources, Mode::Offset, &Assignment::default());
    check(&assignment, &members, &sources, Mode::Offset);
    let mut totals: Vec<u64> = assignment.totals().into_values().map(|slots| slots / u64::from(KEY_SLOTS)).collect();
    totals.sort_unstable();
    assert_eq!(totals, [3, 3, 4]);
}

#[test]
fn gm_3_in_mode_offset_members_beyond_the_partitions_own_nothing() {
    let (members, sources) = (members(5), sources(2));
    let assignment = assign(&members, &sources, Mode::Offset, &Assignment::default());
    check(&assignment, &members, &sources, Mode::Offset);
    assert_eq!(assignment.totals().len(), 2);
}

#[test]
fn gm_3_more_members_than_partitions_share_them_evenly() {
    for mode in [Mode::Keyed, Mode::Unordered] {
        let (members, sources) = (members(1_000), sources(1));
        let assignment = assign(&members, &sources, mode, &Assignment::default());
        check(&assignment, &members, &sources, mode);
        assert_eq!(assignment.totals().len(), 1_000, "everybody has work");
        assert_eq!(assignment.iter().count(), 1_000, "in one run each");
    }
    let (members, sources) = (members(7), sources(3));
    let assignment = assign(&members, &sources, Mode::Keyed, &Assignment::default());
    let totals: Vec<u64> = assignment.totals().into_values().collect();
    assert!(totals.iter().all(|slots| (1_664..=1_792).contains(slots)), "{totals:?}");
}

#[test]
fn gm_3_few_members_get_long_runs() {
    let (members, sources) = (members(4), sources(8));
    let assignment = assign(&members, &sources, Mode::Keyed, &Assignment::default());
    assert!(assignment.iter().all(|(unit, _)| unit.slots == SlotRange::ALL), "two partitions each, none divided");
}

#[test]
fn gm_4_the_same_input_gives_the_same_assignment() {
    let (members, sources) = (members(37), sources(11));
    let one = assign(&members, &sources, Mode::Keyed, &Assignment::default());
    assert_eq!(assign(&members, &sources, Mode::Keyed, &Assignment::default()), one);
    assert_eq!(assign(&members, &sources, Mode::Keyed, &one), one, "an even assignment stays as it is");
}

#[test]
fn gm_4_a_member_that_joins_takes_no_more_than_its_share() {
    let (sources, before) = (sources(4), members(10));
    let old = assign(&before, &sources, Mode::Keyed, &Assignment::default());
    let after = members(11);
    let new = assign(&after, &sources, Mode::Keyed, &old);
    check(&new, &after, &sources, Mode::Keyed);
    let share = new.totals()[&after[10]];
    assert_eq!(taken(&before, &old, &new), share, "nothing moves but what it gets");
    assert!(old.moves_to(&new).iter().all(|one| one.to == Some(after[10])));
}

#[test]
fn gm_4_when_a_member_leaves_only_its_units_move() {
    let (sources, before) = (sources(16), members(5));
    for mode in [Mode::Keyed, Mode::Offset] {
        let old = assign(&before, &sources, mode, &Assignment::default());
        let after = named([0, 1, 3, 4]);
        let new = assign(&after, &sources, mode, &old);
        check(&new, &after, &sources, mode);
        assert!(old.moves_to(&new).iter().all(|one| one.from == Some(before[2])), "{mode:?}");
    }
}

#[test]
fn gm_4_partitions_come_and_go() {
    let (members, few, many) = (members(3), sources(2), sources(6));
    let old = assign(&members, &few, Mode::Offset, &Assignment::default());
    let new = assign(&members, &many, Mode::Offset, &old);
    check(&new, &members, &many, Mode::Offset);
    assert_eq!(taken(&members, &old, &new), 0, "what comes goes to those who have less");
    let back = assign(&members, &few, Mode::Offset, &new);
    check(&back, &members, &few, Mode::Offset);
}

#[test]
fn without_members_or_partitions_nobody_owns_anything() {
    let none = Assignment::default();
    assert_eq!(assign(&[], &sources(3), Mode::Keyed, &none), none);
    assert_eq!(assign(&members(3), &[], Mode::Keyed, &none), none);
    let all = assign(&members(1), &sources(1), Mode::Keyed, &none);
    let gone = all.moves_to(&none);
    assert_eq!((gone.len(), gone[0].to), (1, None));
    assert_eq!(assign(&[], &sources(1), Mode::Keyed, &all), none);
}

#[test]
fn the_owner_of_a_slot_is_found_by_its_run() {
    let (members, sources) = (members(3), sources(1));
    let unit = |from, to| AssignedUnit { source: sources[0], slots: SlotRange { from, to } };
    let assignment = Assignment::from_units([
        (unit(100, 200), members[1]),
        (unit(0, 100), members[0]),
        (unit(300, 400), members[2]),
    ]);
    let owner = |slot| assignment.owner(sources[0], KeySlot::new(slot).unwrap());
    assert_eq!([owner(0), owner(99), owner(100), owner(199)], [0, 0, 1, 1].map(|index| Some(members[index])));
    assert_eq!([owner(200), owner(299), owner(400)], [None; 3]);
    assert_eq!(owner(300), Some(members[2]));
    assert_eq!(assignment.units_of(members[1]).collect::<Vec<_>>(), [unit(100, 200)]);
    let overlapping = Assignment::from_units([(unit(0, 100), members[0]), (unit(50, 150), members[1])]);
    assert_eq!(overlapping.iter().count(), 1, "what overlaps is left out");
}

/// A bound that a debug build on a busy machine keeps with ease; the figures of a release build stand in the benches.
#[test]
fn gm_4_the_largest_groups_are_assigned_in_few_steps() {
    let (members, sources) = (members(2_000), sources(1_024));
    let mut assignment = assign(&members, &sources, Mode::Keyed, &Assignment::default());
    check(&assignment, &members, &sources, Mode::Keyed);
    assert!(assignment.iter().count() <= 2_000 + 1_024, "runs at first: {}", assignment.iter().count());
    for gone in [7, 1_999, 500] {
        let left: Vec<MemberId> = members.iter().copied().filter(|member| *member != members[gone]).collect();
        assignment = assign(&left, &sources, Mode::Keyed, &assignment);
        assignment = assign(&members, &sources, Mode::Keyed, &assignment);
    }
    check(&assignment, &members, &sources, Mode::Keyed);
    assert!(assignment.iter().count() <= 4_000, "runs after six changes: {}", assignment.iter().count());
}

/// The least that any even assignment must take from members that stay: what each has above the greatest share, or
/// more if the others can take no more than that.
fn least_taken(members: &[MemberId], sources: &[Source], mode: Mode, old: &Assignment) -> u64 {
    let slots = sources.len() as u64 * u64::from(KEY_SLOTS);
    let grain = grain(mode, members.len() as u64, slots);
    let low = slots / members.len() as u64 / grain * grain;
    let high = if low * members.len() as u64 == slots { low } else { low + grain };
    let kept = Assignment::from_units(old.iter().filter(|(unit, _)| sources.contains(&unit.source)));
    let totals = kept.totals();
    let (mut above, mut sum) = (0, 0);
    for member in members {
        let total = totals.get(member).copied().unwrap_or(0);
        above += total.saturating_sub(high);
        sum += total.clamp(low, high);
    }
    above + sum.saturating_sub(slots)
}

#[derive(Debug, Clone)]
enum Change {
    Join(u32),
    Leave(u32),
    Partitions(u32),
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        4 => (0..60_u32).prop_map(Change::Join),
        3 => (0..60_u32).prop_map(Change::Leave),
        1 => (1..9_u32).prop_map(Change::Partitions),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]
    #[test]
    fn gm_4_every_change_gives_an_even_assignment_and_moves_the_least(
        offset in any::<bool>(), changes in prop::collection::vec(change(), 1..25)
    ) {
        let mode = if offset { Mode::Offset } else { Mode::Keyed };
        let (mut present, mut partitions) = (std::collections::BTreeSet::from([5_u32]), sources(3));
        let mut assignment = assign(&named([5]), &partitions, mode, &Assignment::default());
        for change in changes {
            match change {
                Change::Join(number) => drop(present.insert(number)),
                Change::Leave(number) if present.len() > 1 => drop(present.remove(&number)),
                Change::Leave(_) => {}
                Change::Partitions(count) => partitions = sources(count),
            }
            let members = named(present.iter().copied());
            let target = assign(&members, &partitions, mode, &assignment);
            check(&target, &members, &partitions, mode);
            let moved = taken(&members, &assignment, &target);
            let gone = assignment.iter().filter(|(unit, owner)| !partitions.contains(&unit.source) && members.contains(owner));
            let gone: u64 = gone.map(|(unit, _)| u64::from(unit.slots.len())).sum();
            prop_assert_eq!(moved - gone, least_taken(&members, &partitions, mode, &assignment));
            let runs = target.iter().count();
            prop_assert!(runs <= (partitions.len() + 1) * GRAINS_PER_MEMBER as usize * 4 + members.len() * 32, "{runs} runs");
            prop_assert_eq!(&assign(&members, &partitions, mode, &assignment), &target);
            assignment = target;
        }
    }
}
