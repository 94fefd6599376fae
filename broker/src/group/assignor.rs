//! Who owns which part of a group's partitions (rules GM-3, GM-4).
//!
//! Owns: the target assignment as a function of members, partitions, mode and the assignment at present. Must not know:
//! epochs, drains, leases: how the target is reached is [`super::machine`]'s.
//!
//! # How
//!
//! What is shared out is the key slots of all partitions, by the *grain*: a whole partition in mode `OFFSET`, else the
//! largest power of two of slots at which each member still gets [`GRAINS_PER_MEMBER`] grains, so that more members than
//! partitions share partitions evenly, and few members get few, long runs. First each member's share is fixed, such
//! that the least is taken from anyone; then each gives up what is too much, its shortest runs first; then what is free
//! goes to those who lack, the longest runs to those who lack most.
//!
//! Invariants: if there are members, every slot of every partition belongs to exactly one; two members' totals differ
//! by at most one grain; a slot changes hands only if its owner is gone or has more than its share; equal input gives
//! equal output.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap, HashMap};

use super::config::Mode;
use crate::limits::KEY_SLOTS;
use crate::model::{AssignedUnit, KeySlot, MemberId, SlotRange, Source};

/// Grains that each member gets at least, as long as slots can be divided so finely: two members' shares differ by a
/// sixteenth at most then.
const GRAINS_PER_MEMBER: u64 = 16;

/// Who owns which slots: of each partition runs in order, neighbours of one owner joined.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Assignment {
    sources: BTreeMap<Source, Vec<(SlotRange, MemberId)>>,
}

/// A run of slots that changes hands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// The slots.
    pub unit: AssignedUnit,
    /// Who has it; `None`: nobody.
    pub from: Option<MemberId>,
    /// Who gets it; `None`: nobody.
    pub to: Option<MemberId>,
}

impl Assignment {
    /// An assignment of these units. What overlaps something before it, or is empty, is left out.
    pub fn from_units(units: impl IntoIterator<Item = (AssignedUnit, MemberId)>) -> Self {
        let mut sources: BTreeMap<Source, Vec<(SlotRange, MemberId)>> = BTreeMap::new();
        for (unit, member) in units {
            sources.entry(unit.source).or_default().push((unit.slots, member));
        }
        sources.values_mut().for_each(tidy);
        sources.retain(|_, runs| !runs.is_empty());
        Self { sources }
    }

    /// The runs of each partition, in order.
    pub fn sources(&self) -> &BTreeMap<Source, Vec<(SlotRange, MemberId)>> {
        &self.sources
    }

    /// The runs of one partition, in order.
    pub fn runs_of(&self, source: Source) -> &[(SlotRange, MemberId)] {
        self.sources.get(&source).map_or(&[], Vec::as_slice)
    }

    /// Who owns a slot.
    pub fn owner(&self, source: Source, slot: KeySlot) -> Option<MemberId> {
        let runs = self.runs_of(source);
        let after = runs.partition_point(|(slots, _)| slots.from <= slot.get());
        let (slots, member) = runs.get(after.checked_sub(1)?)?;
        slots.contains(slot).then_some(*member)
    }

    /// All units with their owners, by partition and slot.
    pub fn iter(&self) -> impl Iterator<Item = (AssignedUnit, MemberId)> + '_ {
        self.sources.iter().flat_map(|(&source, runs)| {
            runs.iter().map(move |&(slots, member)| (AssignedUnit { source, slots }, member))
        })
    }

    /// The units of one member, by partition and slot.
    pub fn units_of(&self, member: MemberId) -> impl Iterator<Item = AssignedUnit> + '_ {
        self.iter().filter(move |(_, owner)| *owner == member).map(|(unit, _)| unit)
    }

    /// Slots of each member that has any.
    pub fn totals(&self) -> BTreeMap<MemberId, u64> {
        let mut totals = BTreeMap::new();
        for (unit, member) in self.iter() {
            *totals.entry(member).or_default() += u64::from(unit.slots.len());
        }
        totals
    }

    /// What changes hands on the way to `target`, by partition and slot.
    pub fn moves_to(&self, target: &Self) -> Vec<Move> {
        let mut moves = Vec::new();
        let sources =
            self.sources.keys().chain(target.sources.keys().filter(|source| !self.sources.contains_key(source)));
        for &source in sources {
            differ(source, self.runs_of(source), target.runs_of(source), &mut moves);
        }
        moves.sort_by_key(|one| one.unit);
        moves
    }
}

/// The target assignment (rule GM-4). `members` and `sources` are sorted and without repeats; what `current` has of
/// others is free.
///
/// # Panics
/// If `members` or `sources` are not sorted.
pub fn assign(members: &[MemberId], sources: &[Source], mode: Mode, current: &Assignment) -> Assignment {
    assert!(members.is_sorted() && sources.is_sorted(), "members and partitions are given in order");
    if members.is_empty() || sources.is_empty() {
        return Assignment::default();
    }
    let slots = sources.len() as u64 * u64::from(KEY_SLOTS);
    let grain = grain(mode, members.len() as u64, slots);
    let mut plan = Plan::new(members, sources, mode, current);
    let shares = shares(&plan.totals(), slots, grain);
    plan.shed(&shares);
    plan.fill(&shares);
    plan.into_assignment(members)
}

/// Slots that are given out together.
fn grain(mode: Mode, members: u64, slots: u64) -> u64 {
    let mut grain = u64::from(KEY_SLOTS);
    if mode != Mode::Offset {
        while grain > 1 && slots / grain < members * GRAINS_PER_MEMBER {
            grain /= 2;
        }
    }
    grain
}

/// The share of each member, of which the least must be taken away to be even: within one grain of each other, and
/// together all slots.
fn shares(totals: &[u64], slots: u64, grain: u64) -> Vec<u64> {
    let members = totals.len() as u64;
    let low = slots / members / grain * grain;
    let high = if low * members == slots { low } else { low + grain };
    let mut shares: Vec<u64> = totals.iter().map(|total| (*total).clamp(low, high)).collect();
    let sum: u64 = shares.iter().sum();
    // Those who have most give first, those who have least get first; the order of members decides between equals.
    let mut order: Vec<usize> = (0..shares.len()).collect();
    if sum > slots {
        order.sort_by_key(|&index| (Reverse(totals[index]), Reverse(index)));
        let mut rest = sum - slots;
        for index in order {
            let given = rest.min(shares[index] - low);
            shares[index] -= given;
            rest -= given;
        }
    } else {
        order.sort_by_key(|&index| (totals[index], index));
        let mut rest = slots - sum;
        for index in order {
            let taken = rest.min(high - shares[index]);
            shares[index] += taken;
            rest -= taken;
        }
    }
    shares
}

/// An assignment in the making: who has what, and what nobody has.
struct Plan {
    owned: Vec<Vec<AssignedUnit>>,
    free: Vec<AssignedUnit>,
}

impl Plan {
    /// What the members that are there keep; all else is free.
    fn new(members: &[MemberId], sources: &[Source], mode: Mode, current: &Assignment) -> Self {
        let index: HashMap<MemberId, usize> = members.iter().enumerate().map(|(at, member)| (*member, at)).collect();
        let mut plan = Self { owned: vec![Vec::new(); members.len()], free: Vec::new() };
        for &source in sources {
            let mut at = 0;
            for &(slots, member) in current.runs_of(source) {
                let whole = mode != Mode::Offset || slots == SlotRange::ALL;
                let Some(&owner) = index.get(&member).filter(|_| whole) else { continue };
                plan.free_run(source, at, slots.from);
                plan.owned[owner].push(AssignedUnit { source, slots });
                at = slots.to;
            }
            plan.free_run(source, at, KEY_SLOTS);
        }
        plan
    }

    fn free_run(&mut self, source: Source, from: u32, to: u32) {
        if from < to {
            self.free.push(AssignedUnit { source, slots: SlotRange { from, to } });
        }
    }

    fn totals(&self) -> Vec<u64> {
        self.owned.iter().map(|units| total(units)).collect()
    }

    /// Each gives up what is above its share, the shortest runs first, of the last one its end.
    fn shed(&mut self, shares: &[u64]) {
        for (units, &share) in self.owned.iter_mut().zip(shares) {
            let mut surplus = total(units).saturating_sub(share);
            if surplus == 0 {
                continue;
            }
            units.sort_by_key(|unit| (Reverse(unit.slots.len()), unit.source, unit.slots));
            while surplus > 0 {
                let unit = units.last_mut().expect("a surplus is a part of what is owned");
                if u64::from(unit.slots.len()) <= surplus {
                    surplus -= u64::from(unit.slots.len());
                    self.free.extend(units.pop());
                } else {
                    self.free.push(split_end(unit, surplus));
                    surplus = 0;
                }
            }
        }
        join(&mut self.free);
    }

    /// What is free goes to those who lack: the longest run to whoever lacks most.
    fn fill(&mut self, shares: &[u64]) {
        let lacks = self.totals().into_iter().zip(shares).map(|(total, share)| share.saturating_sub(total));
        let mut lacking: BinaryHeap<(u64, Reverse<usize>)> =
            lacks.enumerate().filter(|(_, lack)| *lack > 0).map(|(index, lack)| (lack, Reverse(index))).collect();
        let key = |unit: AssignedUnit| (unit.slots.len(), Reverse((unit.source, unit.slots)));
        let mut free: BinaryHeap<_> = self.free.drain(..).map(key).collect();
        while let Some((lack, Reverse(index))) = lacking.pop() {
            let (length, Reverse((source, slots))) = free.pop().expect("what is free is what is lacking");
            let mut unit = AssignedUnit { source, slots };
            let length = u64::from(length);
            if length > lack {
                let rest = split_end(&mut unit, length - lack);
                free.push(key(rest));
            } else if length < lack {
                lacking.push((lack - length, Reverse(index)));
            }
            self.owned[index].push(unit);
        }
        assert!(free.is_empty(), "every slot is assigned (rule GM-4)");
    }

    fn into_assignment(self, members: &[MemberId]) -> Assignment {
        let owned = self.owned.into_iter().zip(members);
        Assignment::from_units(owned.flat_map(|(units, member)| units.into_iter().map(move |unit| (unit, *member))))
    }
}

fn total(units: &[AssignedUnit]) -> u64 {
    units.iter().map(|unit| u64::from(unit.slots.len())).sum()
}

/// Takes `slots`, fewer than it has, from the end of a unit.
fn split_end(unit: &mut AssignedUnit, slots: u64) -> AssignedUnit {
    let slots = u32::try_from(slots).expect("fewer than the slots of a unit");
    let at = unit.slots.to - slots;
    let end = AssignedUnit { source: unit.source, slots: SlotRange { from: at, to: unit.slots.to } };
    unit.slots.to = at;
    end
}

/// Joins neighbours.
fn join(units: &mut Vec<AssignedUnit>) {
    units.sort();
    units.dedup_by(|unit, before| {
        let touches = unit.source == before.source && unit.slots.from == before.slots.to;
        if touches {
            before.slots.to = unit.slots.to;
        }
        touches
    });
}

/// Sorts runs, leaves out what is empty, beyond the slots, or overlaps, and joins neighbours of one owner.
fn tidy(runs: &mut Vec<(SlotRange, MemberId)>) {
    runs.retain(|(slots, _)| !slots.is_empty() && slots.to <= KEY_SLOTS);
    runs.sort();
    let mut end = 0;
    runs.retain(|(slots, _)| {
        let fits = slots.from >= end;
        if fits {
            end = slots.to;
        }
        fits
    });
    runs.dedup_by(|(slots, member), (before, owner)| {
        let touches = member == owner && slots.from == before.to;
        if touches {
            before.to = slots.to;
        }
        touches
    });
}

/// Walks two lists of runs together and tells each stretch whose owner differs.
fn differ(source: Source, old: &[(SlotRange, MemberId)], new: &[(SlotRange, MemberId)], moves: &mut Vec<Move>) {
    let mut bounds: Vec<u32> = old.iter().chain(new).flat_map(|(slots, _)| [slots.from, slots.to]).collect();
    bounds.sort_unstable();
    bounds.dedup();
    let (mut at_old, mut at_new) = (0, 0);
    for pair in bounds.windows(2) {
        let slots = SlotRange { from: pair[0], to: pair[1] };
        let (from, to) = (owner_at(old, &mut at_old, slots.from), owner_at(new, &mut at_new, slots.from));
        if from == to {
            continue;
        }
        match moves.last_mut() {
            Some(last)
                if last.unit.source == source
                    && last.unit.slots.to == slots.from
                    && (last.from, last.to) == (from, to) =>
            {
                last.unit.slots.to = slots.to;
            }
            _ => moves.push(Move { unit: AssignedUnit { source, slots }, from, to }),
        }
    }
}

/// The owner of `slot`; `at` moves on over runs that end before it.
fn owner_at(runs: &[(SlotRange, MemberId)], at: &mut usize, slot: u32) -> Option<MemberId> {
    while runs.get(*at).is_some_and(|(slots, _)| slots.to <= slot) {
        *at += 1;
    }
    runs.get(*at).filter(|(slots, _)| slots.from <= slot).map(|(_, member)| *member)
}

#[cfg(test)]
mod tests;
