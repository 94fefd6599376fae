//! What of a partition was settled without being handled, and who skipped what and why (rules AK-1, RW-1, RD-8).
//!
//! Part of a partition's durable state, so of its snapshots too. Bounded: of many runs and many reasons the newest are
//! kept; a run that is forgotten counts as handled.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};

use super::entry::Act;
use crate::model::{Offset, OffsetRange};

/// Runs that are remembered as not handled.
const RUNS_KEPT: usize = 128;
/// Reasons that are remembered.
const REASONS_KEPT: usize = 32;

/// Who skipped records, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Skip {
    /// Which.
    pub runs: Vec<OffsetRange>,
    /// Who, when and why.
    pub act: Act,
}

/// What was settled, but not as handled.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Skips {
    runs: VecDeque<OffsetRange>,
    reasons: VecDeque<Skip>,
}

impl Skips {
    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty() && self.reasons.is_empty()
    }

    /// Whether a settled record is known not to have been handled.
    pub fn contains(&self, offset: Offset) -> bool {
        self.runs.iter().any(|run| run.contains(offset))
    }

    /// The last skips with a reason, the newest last.
    pub fn reasons(&self) -> impl Iterator<Item = &Skip> + '_ {
        self.reasons.iter()
    }

    /// A run was settled, but not as handled.
    pub(super) fn add(&mut self, run: OffsetRange) {
        match self.runs.back_mut() {
            Some(last) if last.to == run.from => last.to = run.to,
            _ => {
                if self.runs.len() >= RUNS_KEPT {
                    self.runs.pop_front();
                }
                self.runs.push_back(run);
            }
        }
    }

    /// Somebody said why.
    pub(super) fn explain(&mut self, runs: &[OffsetRange], act: &Act) {
        if self.reasons.len() >= REASONS_KEPT {
            self.reasons.pop_front();
        }
        self.reasons.push_back(Skip { runs: runs.to_vec(), act: act.clone() });
    }

    /// Records of this range are settled anew, or are others by now: what is said of them is void. Reasons of what was
    /// stay: they are history.
    pub(super) fn forget(&mut self, range: OffsetRange) {
        let mut kept = VecDeque::with_capacity(self.runs.len());
        for run in self.runs.drain(..) {
            let before = OffsetRange { from: run.from, to: run.to.min(range.from) };
            let after = OffsetRange { from: run.from.max(range.to), to: run.to };
            kept.extend([before, after].into_iter().filter(|part| part.from < part.to));
        }
        self.runs = kept;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(from: u64, to: u64) -> OffsetRange {
        OffsetRange { from: Offset::new(from).unwrap(), to: Offset::new(to).unwrap() }
    }

    fn told(skips: &Skips) -> Vec<u64> {
        (0..30).filter(|offset| skips.contains(Offset::new(*offset).unwrap())).collect()
    }

    #[test]
    fn rw_1_runs_are_joined_and_what_is_settled_anew_is_forgotten() {
        let mut skips = Skips::default();
        for part in [run(1, 3), run(3, 6), run(10, 12), run(20, 24)] {
            skips.add(part);
        }
        assert_eq!(skips.runs.len(), 3);
        skips.forget(run(4, 11));
        assert_eq!(told(&skips), [1, 2, 3, 11, 20, 21, 22, 23]);
        skips.forget(run(2, 3));
        assert_eq!(told(&skips), [1, 3, 11, 20, 21, 22, 23]);
        skips.forget(OffsetRange { from: Offset::new(21).unwrap(), to: Offset::MAX });
        assert_eq!(told(&skips), [1, 3, 11, 20]);
    }

    #[test]
    fn rw_1_of_many_runs_and_reasons_the_newest_are_kept() {
        let mut skips = Skips::default();
        for number in 0..1_000 {
            skips.add(run(2 * number, 2 * number + 1));
            skips.explain(&[run(2 * number, 2 * number + 1)], &Act { time_ms: number as i64, ..Act::default() });
        }
        assert_eq!((skips.runs.len(), skips.reasons.len()), (RUNS_KEPT, REASONS_KEPT));
        assert_eq!(skips.reasons().last().unwrap().act.time_ms, 999);
        assert!(skips.contains(Offset::new(1_998).unwrap()) && !skips.contains(Offset::ZERO));
    }
}
