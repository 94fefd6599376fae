//! Groups whose positions are cursors in their readers' databases (rules RM-3, RM-8, DL-15).
//!
//! Owns: what a report changes, which readers wait, how a record with an entry is told to a cursor. Must not know: databases.
//!
//! Invariants: nothing of a unit is sent before its owner has reported where the cursor stands; the cursor is the truth,
//! so a report may lie before the last one.

use super::super::Now;
use super::super::config::Positions;
use super::super::cursor_cut::CutReport;
use super::super::effect::{Effects, Mark, Refusal};
use super::super::entry::{DeadReason, EntryKey, EntryState};
use super::super::machine::Machine;
use super::super::record::{ErrorInfo, GroupRecord};
use super::super::view::Stall;
use crate::model::{AssignmentEpoch, MemberId, Offset, PartitionEpoch, Source};

/// Class of a record that its reader takes out because it was lost with it time and again (rule RM-8).
const CONSUMER_CRASH: &str = "CONSUMER_CRASH";

impl Machine {
    /// The cursor of a unit stands at `next`. The first report of an assignment begins the sending.
    pub(super) fn report(
        &mut self,
        member: MemberId,
        source: Source,
        epoch: AssignmentEpoch,
        (next, record_epoch): (Offset, Option<PartitionEpoch>),
        now: Now,
        fx: &mut Effects,
    ) -> Result<Offset, Refusal> {
        if self.state.config.positions != Positions::Cursor {
            return Err(Refusal::WrongMode { verb: "ReportProgress" });
        }
        self.owns_range(member, source, epoch)?;
        let partition = self.partition(source).ok_or(Refusal::SessionOver)?;
        let cut = record_epoch.and_then(|of_record| Some((of_record, partition.cut_below(next, of_record)?)));
        if let Some((record_epoch, at)) = cut {
            return Err(self.cursor_cut(CutReport { request: 0, source, epoch, next, record_epoch, at }, fx));
        }
        let (floor, record_epoch) = self.valid_position(source, next, record_epoch)?;
        self.cursor_is_whole(source, fx);
        let known = self.partition(source).map(|partition| partition.commit.epoch);
        if next != floor || known != Some(record_epoch) {
            let metadata = String::new();
            self.commit(GroupRecord::Committed { source, next, epoch: record_epoch, metadata }, fx);
        }
        self.touch(source);
        let sent = self.ranges.sources.get_mut(&source).expect("its owner was just checked");
        if next != floor {
            sent.first_started = false;
        }
        if sent.reported {
            sent.passed(floor, next, now, fx);
        }
        if !sent.reported || sent.next < next || next < floor {
            (sent.reported, sent.next) = (true, next);
            sent.pieces.clear();
            if let Some(work) = self.work(source) {
                work.reading.restart(next);
            }
        }
        if self.has_dead(source) {
            // Entries whose places were passed may go (rule DL-15).
            self.refresh_source(source, floor.min(next), now);
        }
        Ok(next)
    }

    /// A unit waits for what its reader depends on, or goes on. Told to people and nothing else: what waits has not begun,
    /// so that a reader that is lost meanwhile was not lost with its record (rules RM-6, RM-8).
    pub(in super::super) fn range_stalled(
        &mut self,
        member: MemberId,
        source: Source,
        epoch: AssignmentEpoch,
        reason: Option<String>,
        now: Now,
    ) {
        if self.owns_range(member, source, epoch).is_err() {
            return;
        }
        let sent = self.ranges.sources.get_mut(&source).expect("its owner was just checked");
        sent.first_started &= reason.is_none();
        let since_ms = sent.stalled.as_ref().map_or(now.wall_ms, |known| known.since_ms);
        sent.stalled = reason.map(|reason| Stall { reason, since_ms });
    }

    /// The stream of a member has ended, or another begins: it says again what waits.
    pub(in super::super) fn forget_stalls(&mut self, member: MemberId) {
        let own = self.ranges.sources.values_mut().filter(|sent| sent.run.member == member);
        own.for_each(|sent| sent.stalled = None);
    }

    /// Why and since when the reader of a partition waits; `None`: it does not, or has not said so.
    pub fn stall_of(&self, source: Source) -> Option<&Stall> {
        self.ranges.sources.get(&source)?.stalled.as_ref()
    }

    /// How a record is told that has an entry in this state.
    pub(super) fn entry_mark(&self, key: EntryKey, state: EntryState) -> Mark {
        let entry = self.entries.get(&key);
        let cycle = entry.as_ref().map_or(0, |entry| entry.cycle);
        let copy = match state {
            // A cursor gets it in its place, as it was resolved.
            EntryState::Resolved { version } if self.state.config.positions == Positions::Cursor => {
                let edited = version.checked_sub(1).and_then(|edited| usize::try_from(edited).ok());
                entry.zip(edited).and_then(|(entry, edited)| entry.versions.get(edited).copied())
            }
            _ => None,
        };
        Mark { offset: key.offset, entry: key, state: Some(state), cycle, copy }
    }
}

/// Why a record is a dead letter that its reader made one.
pub(super) fn reason_of(failed: bool, error: Option<&ErrorInfo>) -> DeadReason {
    match (failed, error) {
        (false, _) => DeadReason::Parked,
        (true, Some(error)) if error.class == CONSUMER_CRASH => DeadReason::ConsumerCrash,
        (true, _) => DeadReason::ConsumerDeadNack,
    }
}

#[cfg(test)]
mod tests;
