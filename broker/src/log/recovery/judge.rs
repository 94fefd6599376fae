//! Torn or corrupt (rule C3): the decision alone, over what a scan found and what is proven.

use crate::log::frame::FrameHeader;
use crate::model::{Offset, OffsetRange};

/// Good frames that follow each other without a gap of offsets or bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Run {
    /// Offset of the first frame.
    pub(super) from: Offset,
    /// End of the last frame.
    pub(super) to: Offset,
    /// Position behind the last frame.
    pub(super) end_position: u64,
    /// Header of the last frame.
    pub(super) last: FrameHeader,
}

/// What becomes of a segment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Verdict {
    /// Where the log ends, as far as this segment tells.
    pub(super) end: Offset,
    /// Ranges that had been durable and are damaged.
    pub(super) lost: Vec<OffsetRange>,
}

/// Decides what is kept of a segment whose frames from `start` on came in these runs, if everything below `proven`
/// had been durable.
///
/// A hole that begins below the proven end is corruption: it is lost up to the next good frame or the proven end,
/// and nothing is cut. A hole at or above it is a torn tail: the log ends there. A place where bytes are damaged but
/// no offset is missing (a mark, or garbage) is no hole.
pub(super) fn judge(start: Offset, runs: &[Run], proven: Offset) -> Verdict {
    let mut verdict = Verdict { end: start, lost: Vec::new() };
    for run in runs {
        if run.from > verdict.end {
            if verdict.end >= proven {
                return verdict;
            }
            verdict.lost.push(OffsetRange { from: verdict.end, to: run.from.min(proven) });
            if run.from > proven {
                verdict.end = proven;
                return verdict;
            }
        }
        verdict.end = run.to;
    }
    if verdict.end < proven {
        verdict.lost.push(OffsetRange { from: verdict.end, to: proven });
        verdict.end = proven;
    }
    verdict
}

/// The ranges with one more, in order, those that touch joined.
pub(crate) fn with_range(ranges: &[OffsetRange], range: OffsetRange) -> Vec<OffsetRange> {
    let mut all: Vec<OffsetRange> = ranges.iter().copied().chain([range]).filter(|range| !range.is_empty()).collect();
    all.sort_by_key(|range| range.from);
    let mut joined: Vec<OffsetRange> = Vec::with_capacity(all.len());
    for range in all {
        match joined.last_mut() {
            Some(last) if range.from <= last.to => last.to = last.to.max(range.to),
            _ => joined.push(range),
        }
    }
    joined
}

/// The parts of a range that lie in none of `known`.
pub(super) fn without(range: OffsetRange, known: &[OffsetRange]) -> Vec<OffsetRange> {
    let mut parts = vec![range];
    for cover in known {
        parts = parts
            .into_iter()
            .flat_map(|part| {
                let before = OffsetRange { from: part.from, to: part.to.min(cover.from) };
                let after = OffsetRange { from: part.from.max(cover.to), to: part.to };
                [before, after]
            })
            .filter(|part| !part.is_empty())
            .collect();
    }
    parts
}

#[cfg(test)]
#[path = "judge_tests.rs"]
mod tests;
