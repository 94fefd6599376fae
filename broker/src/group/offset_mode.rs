//! Mode OFFSET: ranges in the order of the log, commits, dead letters by hand (rules AK-8, AK-9).

use super::Now;
use super::delivery::{Room, Used};
use super::effect::{Effects, Fetch};
use super::event::{Fetched, Verb};
use super::machine::Machine;
use super::record::OwnedRun;
use crate::model::{MemberId, Source};

/// What was sent of each partition.
#[derive(Debug, Default)]
pub(super) struct Ranges {}

impl Machine {
    /// A partition has an owner from now on, or a new epoch of the same: sending begins at the commit.
    pub(super) fn range_assigned(&mut self, source: Source, run: OwnedRun) {
        let _ = (source, run);
    }

    /// A partition has no owner any more.
    pub(super) fn range_revoked(&mut self, source: Source) {
        let _ = source;
    }

    /// Sends the owner what was read, within its room. Called when the unit was woken.
    pub(super) fn offer_ranges(
        &mut self,
        source: Source,
        run: &OwnedRun,
        room: Room,
        now: Now,
        fx: &mut Effects,
    ) -> Used {
        let _ = (source, run, room, now, fx);
        Used::default()
    }

    /// What is to be read next; `None`: enough is there.
    pub(super) fn next_range(&self, source: Source) -> Option<Fetch> {
        let _ = source;
        None
    }

    /// What was read. The position of reading is the caller's; the unit's owner is to be woken with
    /// [`Machine::wake_unit`].
    pub(super) fn range_fetched(&mut self, fetched: &Fetched, now: Now, fx: &mut Effects) {
        let _ = (fetched, now, fx);
    }

    /// `Commit` and `DeadLetter`.
    pub(super) fn offset_verb(&mut self, member: MemberId, verb: Verb, now: Now, fx: &mut Effects) {
        let _ = (member, verb, now, fx);
        todo!()
    }
}
