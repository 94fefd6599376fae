//! Offsets that will never come: gaps and cuts (rules RE-4, RE-5, AK-12).

use super::Now;
use super::effect::Effects;
use super::machine::Machine;
use super::record::GapReason;
use crate::model::{Offset, OffsetRange, PartitionEpoch, Source};

/// Gaps that wait to be accepted.
#[derive(Debug, Default)]
pub(super) struct Gaps {}

impl Machine {
    /// See [`super::event::Event::Gap`].
    pub(super) fn gap(&mut self, source: Source, range: OffsetRange, reason: GapReason, now: Now, fx: &mut Effects) {
        let _ = (source, range, reason, now, fx);
        todo!()
    }

    /// See [`super::event::Event::Cut`].
    pub(super) fn cut(
        &mut self,
        source: Source,
        at: Option<Offset>,
        epoch: PartitionEpoch,
        now: Now,
        fx: &mut Effects,
    ) {
        let _ = (source, at, epoch, now, fx);
        todo!()
    }
}
