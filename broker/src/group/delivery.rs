//! Who is delivered what next: credit, fairness, bounds (rules FC-2, KO-9, RT-9, PI-3, PI-4, CB-2, CB-3, FC-4, FC-5).

use super::Now;
use super::effect::Effects;
use super::event::Fetched;
use super::machine::Machine;
use crate::model::{Offset, Source};

/// What is leased in all.
#[derive(Debug, Default)]
pub(super) struct Totals {
    /// Records.
    pub(super) records: u64,
    /// Bytes.
    pub(super) bytes: u64,
}

/// Deliveries a second (rule RT-9).
#[derive(Debug, Default)]
pub(super) struct Rate {}

/// What a member may be sent now.
#[derive(Debug, Clone, Copy)]
pub(super) struct Room {
    /// Records.
    pub(super) records: u64,
    /// Bytes; the first record may be larger if `alone`.
    pub(super) bytes: u64,
    /// The member has nothing: one record of any size may be sent (rule FC-2).
    pub(super) alone: bool,
}

/// What was sent.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Used {
    /// Records.
    pub(super) records: u64,
    /// Bytes.
    pub(super) bytes: u64,
    /// There is more to send as soon as there is room.
    pub(super) more: bool,
}

impl Machine {
    /// See [`super::event::Event::Fetched`].
    pub(super) fn fetched(&mut self, fetched: Fetched, now: Now, fx: &mut Effects) {
        let _ = (fetched, now, fx);
        todo!()
    }

    /// See [`super::event::Event::HighWatermark`].
    pub(super) fn high_watermark(&mut self, source: Source, offset: Offset, now: Now, fx: &mut Effects) {
        let _ = (source, offset, now, fx);
        todo!()
    }

    /// Serves whoever was woken, in turn.
    pub(super) fn deliver(&mut self, now: Now, fx: &mut Effects) {
        let _ = (now, fx);
        todo!()
    }

    /// What this event touched: owners are woken, deadlines armed, bounds looked at.
    pub(super) fn look_at_touched(&mut self, now: Now, fx: &mut Effects) {
        let _ = (now, fx);
        todo!()
    }

    /// Asks for what is to be read next.
    pub(super) fn read_on(&mut self, fx: &mut Effects) {
        let _ = fx;
        todo!()
    }

    /// Pauses began or ended in the durable state.
    pub(super) fn pauses_changed(&mut self, now: Now) {
        let _ = now;
        todo!()
    }

    /// Settings changed in the durable state.
    pub(super) fn config_changed(&mut self, now: Now) {
        let _ = now;
        todo!()
    }

    /// Everything held of a partition at or above `offset` is forgotten, leased or not; reading goes on there, at most
    /// from `offset` (rule AK-12).
    pub(super) fn drop_from(&mut self, source: Source, offset: Offset) {
        let _ = (source, offset);
        todo!()
    }

    /// Everything held of a partition is forgotten; reading begins anew at `floor` (rule OF-3).
    pub(super) fn restart_source(&mut self, source: Source, floor: Offset) {
        let _ = (source, floor);
        todo!()
    }

    /// What is held of a range and not leased is forgotten: it was settled as expired (rule RE-4). Reading goes on
    /// behind it if it stands within.
    pub(super) fn drop_range(&mut self, source: Source, range: crate::model::OffsetRange, now: Now) {
        let _ = (source, range, now);
        todo!()
    }
}
