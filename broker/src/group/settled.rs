//! What a group has settled in one partition: a floor, and runs of settled offsets above it (rule AK-6).
//!
//! Owns: the arithmetic of that set, and its bytes. Must not know: how a record was settled, epochs, time.
//!
//! ```text
//!   settled ........floor          runs above the floor
//!   ################|____####______##_____________
//!                   ^ lowest unsettled offset = committed offset
//! ```
//!
//! Invariants: a run is not empty, begins above the floor, and touches neither the floor nor another run (so the
//! floor is always the lowest unsettled offset); the number of settled offsets above the floor is the sum of the runs.
//! A call costs the logarithm of the number of runs, plus the runs that it joins or drops; settling in order costs
//! nothing that grows.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::model::{Offset, OffsetRange};

/// The settled offsets of a partition: all below [`floor`](Self::floor), and [`runs`](Self::runs) above it.
#[derive(Clone, PartialEq, Eq, Default)]
pub struct SettledSet {
    floor: u64,
    /// First offset of a run -> first offset after it.
    runs: BTreeMap<u64, u64>,
    /// Sum of the lengths of all runs.
    above: u64,
}

/// Bytes that are no settled set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SettledDecodeError {
    /// They end inside of a number.
    #[error("a settled set is cut short")]
    Truncated,
    /// A number has more than 64 bits, or an offset is beyond the greatest.
    #[error("a number in a settled set is too great")]
    TooGreat,
    /// More runs are announced than the bytes can hold.
    #[error("a settled set announces {announced} runs in {bytes} bytes")]
    TooManyRuns {
        /// Runs announced.
        announced: u64,
        /// Bytes that are left.
        bytes: usize,
    },
    /// A run is empty, or touches the floor or the run before it.
    #[error("run {index} of a settled set is empty or touches what is before it")]
    NoRun {
        /// Its number, from 0.
        index: u64,
    },
}

impl SettledSet {
    /// Nothing at or above `floor` is settled, everything below it is.
    pub fn new(floor: Offset) -> Self {
        Self { floor: floor.get(), runs: BTreeMap::new(), above: 0 }
    }

    /// The lowest unsettled offset: the committed offset.
    pub fn floor(&self) -> Offset {
        offset(self.floor)
    }

    /// Settles a range; what of it was settled before does not matter. Returns how many offsets are newly settled.
    /// The floor moves on by itself.
    pub fn settle(&mut self, range: OffsetRange) -> u64 {
        let (mut from, mut to) = (range.from.get().max(self.floor), range.to.get());
        if from >= to {
            return 0;
        }
        let asked = to - from;
        let mut known = 0;
        // The run before may reach into the range or touch it, the others begin inside of it or right behind.
        if let Some((&start, &end)) = self.runs.range(..from).next_back()
            && end >= from
        {
            known += end.min(to) - from;
            self.remove(start, end);
            (from, to) = (start, to.max(end));
        }
        while let Some((&start, &end)) = self.runs.range(from..=to).next() {
            known += overlap(start, end, range.from.get().max(self.floor), range.to.get());
            self.remove(start, end);
            to = to.max(end);
        }
        if from == self.floor {
            self.floor = to;
        } else {
            self.runs.insert(from, to);
            self.above += to - from;
        }
        asked - known
    }

    /// Whether an offset is settled.
    pub fn contains(&self, offset: Offset) -> bool {
        let offset = offset.get();
        offset < self.floor || self.runs.range(..=offset).next_back().is_some_and(|(_, &end)| offset < end)
    }

    /// The runs above the floor, in order.
    pub fn runs(&self) -> impl DoubleEndedIterator<Item = OffsetRange> + '_ {
        self.runs.iter().map(|(&from, &to)| range(from, to))
    }

    /// Number of runs above the floor.
    pub fn run_count(&self) -> usize {
        self.runs.len()
    }

    /// Number of settled offsets above the floor.
    pub fn settled_above_floor(&self) -> u64 {
        self.above
    }

    /// The first offset above everything settled; the floor if nothing above it is.
    pub fn end(&self) -> Offset {
        offset(self.runs.last_key_value().map_or(self.floor, |(_, &to)| to))
    }

    /// Sets the floor and forgets everything above it, whether it was settled or not (rule OF-3).
    pub fn set_floor(&mut self, floor: Offset) {
        *self = Self::new(floor);
    }

    /// Sets the floor and keeps what is settled above it: a gap that was passed stays passed (rules AK-8, RE-4).
    pub fn commit(&mut self, next: Offset) {
        let old = std::mem::replace(self, Self::new(next));
        for (from, to) in old.runs {
            self.settle(OffsetRange { from: offset(from), to: offset(to) });
        }
    }

    /// Makes a range unsettled; what lies around it stays as it is. Costs the number of runs.
    pub fn unsettle(&mut self, taken: OffsetRange) {
        if taken.is_empty() {
            return;
        }
        let mut rest = Self::new(offset(self.floor.min(taken.from.get())));
        for run in std::iter::once(range(0, self.floor)).chain(self.runs()) {
            rest.settle(OffsetRange { from: run.from, to: run.to.min(taken.from) });
            rest.settle(OffsetRange { from: run.from.max(taken.to), to: run.to });
        }
        *self = rest;
    }

    /// Forgets everything at or above `to`; the floor is at most `to` afterwards (rule AK-12).
    /// Returns how many settled offsets were forgotten.
    pub fn cut(&mut self, to: Offset) -> u64 {
        let to = to.get();
        if self.floor >= to {
            let forgotten = self.floor - to + self.above;
            *self = Self::new(offset(to));
            return forgotten;
        }
        let mut forgotten = 0;
        for (start, end) in self.runs.split_off(&to) {
            forgotten += end - start;
        }
        if let Some(mut last) = self.runs.last_entry()
            && *last.get() > to
        {
            forgotten += *last.get() - to;
            last.insert(to);
        }
        self.above -= forgotten;
        forgotten
    }

    /// The first unsettled offset at or above `from`. It may lie beyond the end of the log.
    pub fn first_unsettled_at_or_after(&self, from: Offset) -> Offset {
        let from = from.get().max(self.floor);
        match self.runs.range(..=from).next_back() {
            Some((_, &end)) if end > from => offset(end),
            _ => offset(from),
        }
    }

    /// What of `within` is not settled, in order.
    pub fn unsettled_in(&self, within: OffsetRange) -> impl Iterator<Item = OffsetRange> + '_ {
        let mut at = self.first_unsettled_at_or_after(within.from).get();
        let to = within.to.get();
        let mut runs = self.runs.range(at..);
        std::iter::from_fn(move || {
            if at >= to {
                return None;
            }
            let (from, next) = (at, runs.next());
            at = next.map_or(to, |(_, &end)| end);
            Some(range(from, next.map_or(to, |(&start, _)| start.min(to))))
        })
    }

    /// Number of offsets of `within` that are not settled.
    pub fn count_unsettled_in(&self, within: OffsetRange) -> u64 {
        self.unsettled_in(within).map(|run| run.to.distance_from(run.from)).sum()
    }

    /// Appends the bytes: `floor | runs | runs * (from - end of what is before | length)`, as LEB128 varints. The end
    /// before the first run is the floor.
    pub fn encode(&self, out: &mut Vec<u8>) {
        put(out, self.floor);
        put(out, self.runs.len() as u64);
        let mut end = self.floor;
        for (&from, &to) in &self.runs {
            put(out, from - end);
            put(out, to - from);
            end = to;
        }
    }

    /// Takes a set from the front of `input`.
    ///
    /// # Errors
    /// See [`SettledDecodeError`]; `input` stands anywhere then.
    pub fn decode(input: &mut &[u8]) -> Result<Self, SettledDecodeError> {
        let mut set = Self::new(checked(take(input)?)?);
        let count = take(input)?;
        if count > input.len() as u64 / 2 {
            return Err(SettledDecodeError::TooManyRuns { announced: count, bytes: input.len() });
        }
        let mut end = set.floor;
        for index in 0..count {
            let (gap, length) = (take(input)?, take(input)?);
            if gap == 0 || length == 0 {
                return Err(SettledDecodeError::NoRun { index });
            }
            let from = end.checked_add(gap).ok_or(SettledDecodeError::TooGreat)?;
            let to = from.checked_add(length).ok_or(SettledDecodeError::TooGreat)?;
            end = checked(to)?.get();
            set.runs.insert(from, to);
            set.above += length;
        }
        Ok(set)
    }

    fn remove(&mut self, start: u64, end: u64) {
        self.runs.remove(&start);
        self.above -= end - start;
    }
}

/// For people and logs: `floor 5, 7..9 12..13`.
impl fmt::Debug for SettledSet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "floor {},", self.floor)?;
        self.runs.iter().try_for_each(|(from, to)| write!(f, " {from}..{to}"))
    }
}

/// As the floor and the list of runs.
impl Serialize for SettledSet {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let runs: Vec<(u64, u64)> = self.runs.iter().map(|(&from, &to)| (from, to)).collect();
        (self.floor, runs).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for SettledSet {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        let (floor, runs) = <(u64, Vec<(u64, u64)>)>::deserialize(deserializer)?;
        let mut set = Self::new(checked(floor).map_err(D::Error::custom)?);
        let mut end = floor;
        for (index, (from, to)) in runs.into_iter().enumerate() {
            if from <= end || to <= from {
                return Err(D::Error::custom(SettledDecodeError::NoRun { index: index as u64 }));
            }
            end = checked(to).map_err(D::Error::custom)?.get();
            set.runs.insert(from, to);
            set.above += to - from;
        }
        Ok(set)
    }
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("every number in the set came from an offset")
}

fn range(from: u64, to: u64) -> OffsetRange {
    OffsetRange { from: offset(from), to: offset(to) }
}

fn overlap(from: u64, to: u64, other_from: u64, other_to: u64) -> u64 {
    to.min(other_to).saturating_sub(from.max(other_from))
}

fn checked(value: u64) -> Result<Offset, SettledDecodeError> {
    Offset::new(value).ok_or(SettledDecodeError::TooGreat)
}

fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn take(input: &mut &[u8]) -> Result<u64, SettledDecodeError> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = input.split_first().ok_or(SettledDecodeError::Truncated)?;
        *input = rest;
        let bits = u64::from(byte & 0x7f);
        if shift == 63 && bits > 1 {
            return Err(SettledDecodeError::TooGreat);
        }
        value |= bits << shift;
        if byte & 0x80 == 0 {
            return Ok(value);
        }
    }
    Err(SettledDecodeError::TooGreat)
}

#[cfg(test)]
mod tests;
