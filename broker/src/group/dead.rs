//! Records that have finally failed: intents, copies, settles (rules DL-4 to DL-8, DL-15, DL-16).

use super::Now;
use super::effect::Effects;
use super::entry::DeadReason;
use super::event::RecordMeta;
use super::machine::Machine;
use super::record::{ErrorInfo, PauseReason};
use super::verbs::PendingAnswer;
use crate::model::{LaneKey, MemberId, Offset, OffsetRange, PartitionEpoch, Source};

/// What is kept in memory of dead letters on their way.
#[derive(Debug, Default)]
pub(super) struct Dead {}

/// What is to be done with a record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Met {
    /// Hold it.
    Normal,
    /// It is taken care of: parked, or settled as its entry says.
    Taken,
}

impl Machine {
    /// Open intents go on (rule DL-4).
    pub(super) fn start_dead(&mut self, now: Now, fx: &mut Effects) {
        let _ = (now, fx);
    }

    /// A record has finally failed. It is the head of its lane and is not leased; its member has its credit back. By
    /// policy it becomes an intent, is settled as skipped, or blocks its lane. `answer` is given with
    /// [`Machine::answered`] once that is decided.
    #[expect(clippy::too_many_arguments, reason = "the facts of a death")]
    pub(super) fn kill(
        &mut self,
        source: Source,
        offset: Offset,
        reason: DeadReason,
        error: Option<ErrorInfo>,
        last_member: Option<MemberId>,
        answer: Option<PendingAnswer>,
        now: Now,
        fx: &mut Effects,
    ) {
        let _ = (source, offset, reason, error, last_member, answer, now, fx);
        todo!()
    }

    /// Whether any lane of the source is not live, or any record has an entry or an intent: a cheap check.
    pub(super) fn has_dead(&self, source: Source) -> bool {
        let _ = source;
        false
    }

    /// A record was read that is not settled. Called if [`Machine::has_dead`].
    pub(super) fn meet(&mut self, source: Source, meta: &RecordMeta, now: Now, fx: &mut Effects) -> Met {
        let _ = (source, meta, now, fx);
        Met::Normal
    }

    /// A batch that cannot be decoded was read (rule DL-16).
    pub(super) fn undecodable(
        &mut self,
        source: Source,
        range: OffsetRange,
        epoch: PartitionEpoch,
        now: Now,
        fx: &mut Effects,
    ) {
        let _ = (source, range, epoch, now, fx);
        todo!()
    }

    /// Nothing of a lane is held any more, and [`Machine::has_dead`]: its entries may be delivered (rule DL-15).
    pub(super) fn lane_done(&mut self, source: Source, lane: LaneKey, now: Now, fx: &mut Effects) {
        let _ = (source, lane, now, fx);
    }

    /// See [`super::event::Event::Copied`].
    pub(super) fn copied(&mut self, source: Source, number: u64, copy: Option<Offset>, now: Now, fx: &mut Effects) {
        let _ = (source, number, copy, now, fx);
        todo!()
    }

    /// See [`super::event::Event::EntryDurable`].
    pub(super) fn entry_durable(&mut self, source: Source, number: u64, now: Now, fx: &mut Effects) {
        let _ = (source, number, now, fx);
        todo!()
    }

    /// See [`super::event::Event::CopyBlocked`].
    pub(super) fn copy_blocked(&mut self, source: Source, reason: Option<PauseReason>, now: Now, fx: &mut Effects) {
        let _ = (source, reason, now, fx);
        todo!()
    }

    /// See [`super::event::Event::DlqEnd`].
    pub(super) fn dlq_end(&mut self, source: Source, end: Offset) {
        let _ = (source, end);
    }
}
