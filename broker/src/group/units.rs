//! Who owns which units, and how they move (rules GM-3 to GM-6).

use super::Now;
use super::config::GroupTopic;
use super::effect::Effects;
use super::machine::Machine;
use super::record::{OwnedRun, Start};
use crate::model::{KeySlot, Source, TopicUuid};

/// Units on their way to another member.
#[derive(Debug, Default)]
pub(super) struct HandOver {}

impl Machine {
    /// Members, topics or the like changed: a new target, and what follows (rule GM-4).
    pub(super) fn rebalance(&mut self, now: Now, fx: &mut Effects) {
        let _ = (now, fx);
        todo!()
    }

    /// See [`super::event::Event::Topics`].
    pub(super) fn topics_changed(
        &mut self,
        added: Vec<GroupTopic>,
        starts: Vec<Start>,
        removed: Vec<TopicUuid>,
        now: Now,
        fx: &mut Effects,
    ) {
        let _ = (added, starts, removed, now, fx);
        todo!()
    }

    /// All units of the partitions get the epoch that the group has now, with the same owners: after a reset or a cut.
    /// Leases are gone already; owners are told (rules OF-3, AK-12). The caller's record has raised the group epoch.
    pub(super) fn reassign(&mut self, sources: &[Source], now: Now, fx: &mut Effects) {
        let _ = (sources, now, fx);
        todo!()
    }

    /// The owner of a slot.
    pub(super) fn owner(&self, source: Source, slot: KeySlot) -> Option<OwnedRun> {
        let runs = self.state.owners.get(&source)?;
        let after = runs.partition_point(|run| run.slots.from <= slot.get());
        runs.get(after.checked_sub(1)?).copied().filter(|run| run.slots.contains(slot))
    }

    /// Something may be ready to be delivered to the owner of this slot.
    pub(super) fn wake_unit(&mut self, source: Source, slot: KeySlot) {
        if let Some(work) = self.work(source) {
            let owner = work.owner_of(slot);
            if owner != super::slab::NONE {
                work.wake(owner);
            }
        }
    }
}
