//! A cut of the log that took records which a read model has applied (rules RM-1, OF-7).
//!
//! Owns: what of it is durable, and how it is accepted and passed. Must not know: how a cut is found, databases.
//!
//! ```text
//!   a report is refused --> found --AcceptGap--> accepted --> the next refusal says so: the reader moves its cursor to the cut
//!                             |                     |
//!                             +------- a report that is taken: forgotten
//! ```
//!
//! Invariants: what was accepted is one position of a cursor at one cut, and holds for no other; a reader is told that it
//! is only once it is durable.

use serde::{Deserialize, Serialize};

use super::effect::{After, Effects, Frame, Refusal};
use super::entry::Act;
use super::machine::Machine;
use super::record::{GapReason, GroupRecord};
use super::state::PartitionState;
use crate::model::{AssignmentEpoch, MemberId, Offset, OffsetRange, PartitionEpoch, Source};

/// A cursor above a cut.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CursorCut {
    /// Where the log was cut: nothing of what the cursor counts from here on is there any more.
    pub at: Offset,
    /// Where the cursor stood.
    pub next: Offset,
    /// Epoch of the record before it.
    pub record_epoch: PartitionEpoch,
    /// Who accepted that the model keeps what was cut, and goes on at the cut.
    pub accepted: Option<Act>,
}

impl CursorCut {
    /// What was cut of what the model has applied.
    pub fn range(&self) -> OffsetRange {
        OffsetRange { from: self.at, to: self.next }
    }

    fn is_same(&self, other: &Self) -> bool {
        (self.at, self.next, self.record_epoch) == (other.at, other.next, other.record_epoch)
    }
}

/// A report of a cursor that the log does not have any more.
#[derive(Debug, Clone, Copy)]
pub struct CutReport {
    /// Number to answer with.
    pub request: u64,
    /// The partition.
    pub source: Source,
    /// Epoch of the assignment.
    pub epoch: AssignmentEpoch,
    /// Where the cursor stands.
    pub next: Offset,
    /// Epoch of the record before it.
    pub record_epoch: PartitionEpoch,
    /// Where the log was cut.
    pub at: Offset,
}

impl PartitionState {
    /// Where a position of this epoch was cut, if it was and that is remembered.
    pub(super) fn cut_below(&self, next: Offset, record_epoch: PartitionEpoch) -> Option<Offset> {
        let cut = self.cuts.iter().find(|(at, began)| record_epoch < *began && next > *at);
        cut.map(|(at, _)| *at)
    }
}

impl Machine {
    /// A cursor was found to be of a part that was cut: its report is refused, and what is known of the cut is said.
    pub(super) fn report_cut(&mut self, member: MemberId, report: CutReport, fx: &mut Effects) {
        let CutReport { request, source, epoch, .. } = report;
        let refusal = match self.owns_range(member, source, epoch) {
            Ok(()) => self.cursor_cut(report, fx),
            Err(refusal) => refusal,
        };
        self.send(member, Frame::CommitResult { request, source, result: Err(refusal) }, After::Group, fx);
    }

    /// Why a cursor above a cut is refused; what was not known of it is kept.
    pub(super) fn cursor_cut(&mut self, report: CutReport, fx: &mut Effects) -> Refusal {
        let CutReport { source, next, record_epoch, at, .. } = report;
        let found = CursorCut { at, next, record_epoch, accepted: None };
        let known = self.partition(source).and_then(|partition| partition.cursor_cut.clone());
        if let Some(known) = known.filter(|known| known.is_same(&found)) {
            return Refusal::CursorCut(source, Box::new(known));
        }
        let cut = Some(Box::new(found.clone()));
        self.commit(GroupRecord::CursorCut { source, cut }, fx);
        Refusal::CursorCut(source, Box::new(found))
    }

    /// Someone accepts that a cursor, or all of them, go on at the cut.
    pub(super) fn accept_cursor_cuts(&mut self, source: Option<Source>, act: &Act, fx: &mut Effects) {
        let partitions = self.state.partitions.iter().filter(|(one, _)| source.is_none_or(|source| source == **one));
        let open = partitions.filter_map(|(one, state)| {
            let cut = state.cursor_cut.as_ref().filter(|cut| cut.accepted.is_none())?;
            Some((*one, CursorCut { accepted: Some(act.clone()), ..cut.clone() }))
        });
        for (source, cut) in open.collect::<Vec<_>>() {
            self.commit(GroupRecord::CursorCut { source, cut: Some(Box::new(cut)) }, fx);
        }
    }

    /// A cursor is one of this log: there is nothing to accept any more.
    pub(super) fn cursor_is_whole(&mut self, source: Source, fx: &mut Effects) {
        if self.partition(source).is_some_and(|partition| partition.cursor_cut.is_some()) {
            self.commit(GroupRecord::CursorCut { source, cut: None }, fx);
        }
    }

    /// The gap that a partition waits at, or passes once its reader is there; and whether it is accepted.
    pub(super) fn gap_of(&self, source: Source) -> (Option<(OffsetRange, GapReason)>, bool) {
        let cut = self.partition(source).and_then(|partition| partition.cursor_cut.as_ref());
        match (self.gaps.of(source), cut) {
            (None, Some(cut)) => (Some((cut.range(), GapReason::Truncated)), cut.accepted.is_some()),
            (gap, _) => (gap, false),
        }
    }
}

#[cfg(test)]
mod tests;
