//! Who owns which units, and how they move (rules GM-3 to GM-6).
//!
//! Owns: the way from the owners at present to the target, drains and their deadlines. Must not know: how the target is
//! found ([`super::assignor`]), leases beyond whose they are.
//!
//! In `KEYED` and `UNORDERED` slots change hands at once; a lane with leases stays with who has them until they are
//! settled, given back, or [`super::config::GroupConfig::drain_timeout_ms`] has passed. In `OFFSET` a partition stays with
//! its owner until it says `Revoked`, or the time has passed.
//!
//! Invariants: the owners' runs of a partition are in order and do not overlap; an epoch that was given rises with each
//! change of hands (rule GM-6); nobody drains slots that it owns, nor after its session.

use std::collections::BTreeMap;

use super::Now;
use super::assignor::{self, Assignment};
use super::config::GroupTopic;
use super::deadlines::Timer;
use super::effect::{After, Effects, Frame, Notice};
use super::lanes::Owner;
use super::machine::Machine;
use super::members::Loss;
use super::record::{GroupRecord, OwnedRun, Start};
use super::slab::NONE;
use crate::model::{AssignedUnit, AssignmentEpoch, KeySlot, MemberId, SlotRange, Source, TopicUuid};

/// Slots whose old owner may still have leases.
#[derive(Debug, Clone, Copy)]
pub(super) struct Drain {
    /// The unit.
    pub(super) unit: AssignedUnit,
    /// When its leases end.
    pub(super) at_ms: u64,
}

/// Units on their way to another member.
#[derive(Debug, Default)]
pub(super) struct HandOver {
    /// Members may still come back after the start of the broker: nothing moves (rule GM-11).
    pub(super) settling: bool,
    /// Modes KEYED and UNORDERED: slots with leases of their old owner, by that. None is empty.
    pub(super) drains: BTreeMap<MemberId, Vec<Drain>>,
    /// Mode OFFSET: partitions that their owner is to hand over, to whom (`None`: nobody), and until when.
    pub(super) pending: BTreeMap<Source, (Option<MemberId>, u64)>,
}

impl HandOver {
    /// Slots that a member had and may still have leases of.
    pub(super) fn drains_of(&self, member: MemberId) -> &[Drain] {
        self.drains.get(&member).map_or(&[], Vec::as_slice)
    }

    /// Slots are a member's again: it has not to hand them over any more. The rest of what it drains keeps its time.
    fn came_back(&mut self, member: MemberId, unit: AssignedUnit) {
        let Some(drains) = self.drains.get_mut(&member) else { return };
        let mut kept = Vec::with_capacity(drains.len());
        for drain in drains.drain(..) {
            let slots = drain.unit.slots;
            let back = slots.intersection(unit.slots);
            if drain.unit.source != unit.source || back.is_empty() {
                kept.push(drain);
                continue;
            }
            let rest = [SlotRange { to: back.from, ..slots }, SlotRange { from: back.to, ..slots }];
            let rest = rest.into_iter().filter(|slots| !slots.is_empty());
            kept.extend(rest.map(|slots| Drain { unit: AssignedUnit { slots, ..drain.unit }, ..drain }));
        }
        *drains = kept;
        if drains.is_empty() {
            self.drains.remove(&member);
        }
    }

    /// Keeps the drains, of a member or of all, of which `keep` says so.
    fn retain_drains(&mut self, only: Option<MemberId>, keep: impl Fn(&Drain) -> bool) {
        match only {
            Some(member) => {
                if let Some(drains) = self.drains.get_mut(&member) {
                    drains.retain(keep);
                    if drains.is_empty() {
                        self.drains.remove(&member);
                    }
                }
            }
            None => self.drains.retain(|_, drains| {
                drains.retain(&keep);
                !drains.is_empty()
            }),
        }
    }
}

impl Machine {
    /// Members, topics or the like changed: a new target, and what follows (rule GM-4).
    pub(super) fn rebalance(&mut self, now: Now, fx: &mut Effects) {
        if self.hand_over.settling || self.closing {
            return;
        }
        let mut members: Vec<MemberId> = self.state.members.keys().copied().collect();
        if self.state.rebuilds.drained {
            members.clear();
        }
        let sources: Vec<Source> = self.state.partitions.keys().copied().collect();
        let present = self.present();
        let target = assignor::assign(&members, &sources, self.state.config.mode, &present);
        if self.is_offset() {
            self.move_partitions(&target, now, fx);
        } else {
            self.move_slots(&target, now, fx);
        }
    }

    /// Who owns what, or will own it as soon as it is handed over.
    fn present(&self) -> Assignment {
        let runs = self.state.owners.iter().flat_map(|(source, runs)| {
            let pending = self.hand_over.pending.get(source).map(|(to, _)| *to);
            let unit = |run: &OwnedRun| AssignedUnit { source: *source, slots: run.slots };
            runs.iter().filter_map(move |run| Some((unit(run), pending.unwrap_or(Some(run.member))?)))
        });
        Assignment::from_units(runs)
    }

    /// Modes KEYED and UNORDERED: slots change hands at once.
    fn move_slots(&mut self, target: &Assignment, now: Now, fx: &mut Effects) {
        let moves = self.present().moves_to(target);
        if moves.is_empty() {
            return;
        }
        let epoch = AssignmentEpoch(self.state.epoch + 1);
        let mut sources: Vec<Source> = moves.iter().map(|one| one.unit.source).collect();
        sources.dedup();
        let runs = sources
            .iter()
            .map(|source| {
                let old = self.state.owners.get(source).map_or(&[][..], Vec::as_slice);
                (*source, merge(old, target.runs_of(*source), epoch))
            })
            .collect();
        self.commit(GroupRecord::Assigned { epoch: epoch.0, runs }, fx);
        for source in sources {
            self.rebuild_owners(source, now);
        }
        let at_ms = now.monotonic_ms + self.state.config.drain_timeout_ms;
        for one in moves {
            if let Some(from) = one.from.filter(|from| self.members.get(*from).is_some()) {
                self.send(from, Frame::Revoke { unit: one.unit, lost: false }, After::Now, fx);
                self.hand_over.drains.entry(from).or_default().push(Drain { unit: one.unit, at_ms });
                self.deadlines.arm(Timer::Drains, at_ms);
            }
            if let Some(to) = one.to {
                self.assigned(to, one.unit, epoch, fx);
                fx.notices.push(Notice::Moved(one.unit));
            }
        }
    }

    /// Mode OFFSET: partitions without an owner move at once, others when their owner has handed them over.
    fn move_partitions(&mut self, target: &Assignment, now: Now, fx: &mut Effects) {
        let at_ms = now.monotonic_ms + self.state.config.drain_timeout_ms;
        let sources: Vec<Source> = self.state.partitions.keys().copied().collect();
        let mut free = Vec::new();
        for source in sources {
            let to = target.runs_of(source).first().map(|(_, member)| *member);
            let from = self.state.owners.get(&source).and_then(|runs| runs.first()).map(|run| run.member);
            let from = from.filter(|from| self.members.get(*from).is_some());
            match (from, to) {
                (Some(from), to) => match self.hand_over.pending.get_mut(&source) {
                    Some((pending, _)) => *pending = to,
                    None if Some(from) == to => {}
                    None => {
                        self.hand_over.pending.insert(source, (to, at_ms));
                        self.deadlines.arm(Timer::Drains, at_ms);
                        let unit = AssignedUnit { source, slots: SlotRange::ALL };
                        self.send(from, Frame::Revoke { unit, lost: false }, After::Now, fx);
                    }
                },
                (None, None) if !self.state.owners.contains_key(&source) => {}
                (None, to) => free.push((source, to)),
            }
        }
        self.give_partitions(free, now, fx);
    }

    /// Partitions get their new owners.
    fn give_partitions(&mut self, given: Vec<(Source, Option<MemberId>)>, now: Now, fx: &mut Effects) {
        if given.is_empty() {
            return;
        }
        let epoch = AssignmentEpoch(self.state.epoch + 1);
        let run = |member| OwnedRun { slots: SlotRange::ALL, member, epoch };
        let runs = given.iter().map(|(source, to)| (*source, to.map(run).into_iter().collect())).collect();
        self.commit(GroupRecord::Assigned { epoch: epoch.0, runs }, fx);
        for (source, to) in given {
            self.hand_over.pending.remove(&source);
            self.range_revoked(source);
            self.rebuild_owners(source, now);
            if let Some(to) = to {
                self.range_assigned(source, run(to));
                let unit = AssignedUnit { source, slots: SlotRange::ALL };
                self.assigned(to, unit, epoch, fx);
                fx.notices.push(Notice::Moved(unit));
            }
        }
    }

    /// A member says that it has handed over (rule GM-5).
    pub(super) fn revoked(&mut self, member: MemberId, source: Source, slots: SlotRange, now: Now, fx: &mut Effects) {
        if self.is_offset() {
            let owner = self.owner(source, KeySlot::new(0).expect("the first slot"));
            if let Some(run) = owner.filter(|run| run.member == member)
                && let Some((to, _)) = self.hand_over.pending.get(&source).copied()
            {
                // Dead letters that it had and said nothing of: they are the next owner's.
                self.entries_back(member, Some((source, run)), Loss::Released, now, fx);
                self.give_partitions(vec![(source, to)], now, fx);
            }
            return;
        }
        let within = |drain: &Drain| drain.unit.source == source && !drain.unit.slots.intersection(slots).is_empty();
        if self.hand_over.drains.get(&member).is_some_and(|drains| drains.iter().any(within)) {
            self.give_back_slots(member, source, slots, Loss::Released, now, fx);
            let covered =
                |drain: &Drain| within(drain) && slots.from <= drain.unit.slots.from && drain.unit.slots.to <= slots.to;
            self.hand_over.retain_drains(Some(member), |drain| !covered(drain));
        }
    }

    /// A member has nothing in work any more: what it was to hand over is handed over (rule GM-5).
    pub(super) fn handed_over(&mut self, member: MemberId, now: Now, fx: &mut Effects) {
        self.hand_over.drains.remove(&member);
        let first = KeySlot::new(0).expect("the first slot");
        let pending = self.hand_over.pending.iter();
        let own = pending.filter(|(source, _)| self.owner(**source, first).is_some_and(|run| run.member == member));
        let given = own.map(|(source, (to, _))| (*source, *to)).collect();
        self.give_partitions(given, now, fx);
    }

    /// Units that were not handed over in time are taken (rule GM-5).
    pub(super) fn drains_due(&mut self, now: Now, fx: &mut Effects) {
        let all = self.hand_over.drains.iter().flat_map(|(from, drains)| drains.iter().map(|drain| (*from, *drain)));
        let mut due: Vec<(MemberId, Drain)> = all.filter(|(_, drain)| drain.at_ms <= now.monotonic_ms).collect();
        due.sort_by_key(|(_, drain)| drain.at_ms);
        self.hand_over.retain_drains(None, |drain| drain.at_ms > now.monotonic_ms);
        for (from, Drain { unit, .. }) in due {
            if self.give_back_slots(from, unit.source, unit.slots, Loss::Fenced, now, fx) {
                self.send(from, Frame::Revoke { unit, lost: true }, After::Now, fx);
            }
        }
        let mut given = Vec::new();
        for (source, (to, at_ms)) in &self.hand_over.pending {
            if *at_ms <= now.monotonic_ms {
                given.push((*source, *to));
            }
        }
        for (source, _) in &given {
            let unit = AssignedUnit { source: *source, slots: SlotRange::ALL };
            if let Some(run) = self.owner(*source, KeySlot::new(0).expect("the first slot")) {
                self.send(run.member, Frame::Revoke { unit, lost: true }, After::Now, fx);
                self.entries_back(run.member, Some((*source, run)), Loss::Fenced, now, fx);
            }
        }
        self.give_partitions(given, now, fx);
        let next = self.hand_over.drains.values().flatten().map(|drain| drain.at_ms);
        if let Some(at_ms) = next.chain(self.hand_over.pending.values().map(|(_, at_ms)| *at_ms)).min() {
            self.deadlines.arm(Timer::Drains, at_ms);
        }
    }

    /// Tells a member that it owns a unit, once that is durable.
    fn assigned(&mut self, member: MemberId, unit: AssignedUnit, epoch: AssignmentEpoch, fx: &mut Effects) {
        let source = unit.source;
        self.hand_over.came_back(member, unit);
        let Some(partition) = self.partition(unit.source) else { return };
        let frame = Frame::Assign {
            unit,
            epoch,
            start: partition.settled.floor(),
            partition_epoch: partition.epoch,
            crashes: partition.crashes,
            metadata: partition.commit.metadata.clone(),
            group_start: partition.start,
        };
        self.send(member, frame, After::Group, fx);
        self.tell_untold(member, source, fx);
        self.tell_live(member, source, fx);
        self.tell_replayed(member, source, fx);
    }

    /// Tells a member all its units: a stream knows nothing of the one before.
    pub(super) fn tell_units(&mut self, member: MemberId, fx: &mut Effects) {
        let mut units = Vec::new();
        for (source, runs) in &self.state.owners {
            let own = runs.iter().filter(|run| run.member == member);
            units.extend(own.map(|run| (AssignedUnit { source: *source, slots: run.slots }, *run)));
        }
        for (unit, run) in units {
            if self.is_offset() {
                self.range_assigned(unit.source, run);
            }
            self.assigned(member, unit, run.epoch, fx);
        }
    }

    /// Tells a member that is back what it has still to hand over.
    pub(super) fn tell_revoked(&mut self, member: MemberId, fx: &mut Effects) {
        let pending = self.hand_over.pending.keys().copied().filter(|source| {
            self.owner(*source, KeySlot::new(0).expect("the first slot")).is_some_and(|run| run.member == member)
        });
        let pending = pending.map(|source| AssignedUnit { source, slots: SlotRange::ALL });
        let drains = self.hand_over.drains_of(member).iter().map(|drain| drain.unit);
        let units: Vec<AssignedUnit> = pending.chain(drains).collect();
        for unit in units {
            self.send(member, Frame::Revoke { unit, lost: false }, After::Now, fx);
        }
    }

    /// All that one member owns is another's now, under a new epoch (rule GM-9).
    pub(super) fn rename_owner(&mut self, old: MemberId, new: MemberId, now: Now, fx: &mut Effects) {
        let epoch = AssignmentEpoch(self.state.epoch + 1);
        let mut changed = Vec::new();
        for (source, runs) in &self.state.owners {
            if runs.iter().any(|run| run.member == old) {
                let rename = |run: &OwnedRun| match run.member == old {
                    true => OwnedRun { slots: run.slots, member: new, epoch },
                    false => *run,
                };
                changed.push((*source, runs.iter().map(rename).collect::<Vec<_>>()));
            }
        }
        for (to, _) in self.hand_over.pending.values_mut() {
            if *to == Some(old) {
                *to = Some(new);
            }
        }
        if changed.is_empty() {
            return;
        }
        let sources: Vec<Source> = changed.iter().map(|(source, _)| *source).collect();
        self.commit(GroupRecord::Assigned { epoch: epoch.0, runs: changed }, fx);
        sources.into_iter().for_each(|source| self.rebuild_owners(source, now));
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
        let gone: Vec<Source> = self.works.keys().copied().filter(|source| removed.contains(&source.topic)).collect();
        for source in &gone {
            for run in self.state.owners.get(source).cloned().unwrap_or_default() {
                let unit = AssignedUnit { source: *source, slots: run.slots };
                self.send(run.member, Frame::Revoke { unit, lost: true }, After::Now, fx);
                self.entries_back(run.member, Some((*source, run)), Loss::Released, now, fx);
            }
            self.restart_source(*source, crate::model::Offset::ZERO);
            self.hand_over.pending.remove(source);
        }
        self.hand_over.retain_drains(None, |drain| !removed.contains(&drain.unit.source.topic));
        let new: Vec<Source> = starts.iter().map(|start| start.source).collect();
        self.commit(GroupRecord::Topics { added, starts, removed }, fx);
        self.drop_dead(now, fx);
        for source in gone {
            self.works.remove(&source);
            self.range_revoked(source);
            self.deadlines.disarm(Timer::Leases(source));
            self.deadlines.disarm(Timer::Retries(source));
            self.members.all.values_mut().for_each(|one| one.units.retain(|(other, _)| *other != source));
        }
        for source in new {
            if !self.works.contains_key(&source) {
                self.add_work(source, now);
            }
        }
        self.pauses_changed(now);
        self.topics_left_replay(now, fx);
        self.rebalance(now, fx);
    }

    /// All units of the partitions get the epoch that the group has now, with the same owners: after a reset or a cut.
    /// Leases are gone already; owners are told (rules OF-3, AK-12). The caller's record has raised the group epoch.
    pub(super) fn reassign(&mut self, sources: &[Source], now: Now, fx: &mut Effects) {
        let epoch = AssignmentEpoch(self.state.epoch);
        let owned: Vec<(Source, Vec<OwnedRun>)> =
            sources.iter().filter_map(|source| Some((*source, self.state.owners.get(source)?.clone()))).collect();
        if owned.is_empty() {
            return;
        }
        let raised = |runs: &[OwnedRun]| runs.iter().map(|run| OwnedRun { epoch, ..*run }).collect::<Vec<_>>();
        let runs = owned.iter().map(|(source, runs)| (*source, raised(runs))).collect();
        self.commit(GroupRecord::Assigned { epoch: epoch.0, runs }, fx);
        for (source, runs) in owned {
            self.rebuild_owners(source, now);
            for run in runs {
                let unit = AssignedUnit { source, slots: run.slots };
                self.send(run.member, Frame::Revoke { unit, lost: true }, After::Group, fx);
                if self.is_offset() {
                    self.range_assigned(source, OwnedRun { epoch, ..run });
                }
                self.assigned(run.member, unit, epoch, fx);
            }
        }
    }

    /// Takes the owners of a partition from the durable state.
    pub(super) fn rebuild_owners(&mut self, source: Source, now: Now) {
        let runs = self.state.owners.get(&source).cloned().unwrap_or_default();
        let handle = |member| self.members.get(member).map_or(NONE, |one| one.handle);
        let owners = runs.iter().map(|run| Owner::new(run.slots, run.member, handle(run.member), run.epoch)).collect();
        for one in self.members.all.values_mut() {
            one.units.retain(|(other, _)| *other != source);
        }
        if let Some(work) = self.work(source) {
            work.set_owners(owners, now.monotonic_ms);
            // Entries may wait for their new owners too.
            (0..work.owners.len() as u32).for_each(|owner| work.wake(owner));
        }
    }

    /// The owner of a slot.
    pub(super) fn owner(&self, source: Source, slot: KeySlot) -> Option<OwnedRun> {
        let runs = self.state.owners.get(&source)?;
        let after = runs.partition_point(|run| run.slots.from <= slot.get());
        runs.get(after.checked_sub(1)?).copied().filter(|run| run.slots.contains(slot))
    }

    /// Whether a member owns any slot of a partition.
    pub(super) fn owns_any(&self, source: Source, member: MemberId) -> bool {
        self.state.owners.get(&source).is_some_and(|runs| runs.iter().any(|run| run.member == member))
    }

    /// Something may be ready to be delivered to the owner of this slot.
    pub(super) fn wake_unit(&mut self, source: Source, slot: KeySlot) {
        if let Some(work) = self.work(source) {
            let owner = work.owner_of(slot);
            if owner != NONE {
                work.wake(owner);
            }
        }
    }
}

/// The runs of a partition after a move: what stays with its owner keeps its epoch, the rest has the new one.
fn merge(old: &[OwnedRun], target: &[(SlotRange, MemberId)], epoch: AssignmentEpoch) -> Vec<OwnedRun> {
    let mut runs: Vec<OwnedRun> = Vec::new();
    let mut push = |run: OwnedRun| match runs.last_mut() {
        _ if run.slots.is_empty() => {}
        Some(last) if last.slots.to == run.slots.from && last.member == run.member && last.epoch == run.epoch => {
            last.slots.to = run.slots.to;
        }
        _ => runs.push(run),
    };
    // Both lists are in order of slots, so that they are walked together.
    let mut first = 0;
    for &(slots, member) in target {
        let mut at = slots.from;
        first += old[first..].iter().take_while(|run| run.slots.to <= slots.from).count();
        let reached = old[first..].iter().take_while(|run| run.slots.from < slots.to);
        for kept in reached.filter(|run| run.member == member) {
            let both = kept.slots.intersection(slots);
            push(OwnedRun { slots: SlotRange { from: at, to: both.from }, member, epoch });
            push(OwnedRun { slots: both, member, epoch: kept.epoch });
            at = both.to;
        }
        push(OwnedRun { slots: SlotRange { from: at, to: slots.to }, member, epoch });
    }
    runs
}

#[cfg(test)]
mod tests;
