//! What a group may do, judged by what goes in and out: leases, deliveries, answers. It knows nothing of the machine's
//! data, nor of the switches that break it.

use std::collections::{BTreeMap, HashMap, HashSet};

use sawlog_broker::group::Mode;
use sawlog_broker::group::effect::{AckStatus, Delivered, Delivery, EntryDelivery};
use sawlog_broker::group::entry::{EntryKey, EntryState, EntryTable};
use sawlog_broker::group::record::OwnedRun;
use sawlog_broker::group::retry::AfterDead;
use sawlog_broker::group::state::GroupState;
use sawlog_broker::model::{AssignmentEpoch, KeySlot, LaneKey, MemberId, OffsetRange, SlotRange, Source};

use super::Violation;
use super::client::{Asked, Held, Item, Pending, status_of};
use super::ledger::{Ledger, Logs};

/// A delivered record that its member may still work on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Lease {
    pub(crate) member: MemberId,
    pub(crate) lane: LaneKey,
    pub(crate) slot: u32,
    pub(crate) epoch: AssignmentEpoch,
    pub(crate) until_ms: u64,
    /// Which delivery it is.
    pub(crate) attempt: u32,
    /// It was recalled: the broker may give it to another.
    pub(crate) recalled: bool,
}

/// What there is at the moment.
pub(crate) struct Scene<'a> {
    pub(crate) logs: &'a Logs,
    pub(crate) ledger: &'a Ledger,
    pub(crate) state: &'a GroupState,
    pub(crate) entries: &'a EntryTable,
    /// True time: no clock of the broker changes it.
    pub(crate) now_ms: u64,
}

/// The shortest delay of all policies, less its jitter.
const LEAST_DELAY_MS: u64 = 160;

/// The judge.
#[derive(Debug, Default)]
pub(crate) struct Judge {
    pub(crate) leases: BTreeMap<(Source, Item), Lease>,
    /// Records whose settling was confirmed to a client.
    pub(crate) confirmed: HashSet<u64>,
    /// Entries, with their cycle, whose settling was confirmed.
    pub(crate) confirmed_entries: HashSet<(Source, Item, u32)>,
    /// Deliveries of a record, from its entry too, since its position was set.
    pub(crate) sent: HashMap<u64, u32>,
    /// Failures that were confirmed to the client.
    pub(crate) strikes: HashMap<u64, u32>,
    /// True time before which a failed record is not to come again.
    pub(crate) not_before: HashMap<u64, u64>,
    /// When something was last heard of a member.
    pub(crate) heard: BTreeMap<MemberId, u64>,
    /// Lanes that were lent to an idle member, until owners change (rule FC-5).
    pub(crate) lent: HashSet<(Source, LaneKey, MemberId)>,
    /// What was recalled and not delivered since; it may be late if the breaker is open. Until owners change.
    pub(crate) recalled: HashSet<(Source, Item)>,
    /// The next offset that was committed and confirmed (mode OFFSET).
    pub(crate) committed: BTreeMap<Source, u64>,
    /// Records that any client acknowledged or skipped, whatever it was told.
    pub(crate) handled: HashSet<u64>,
}

impl Judge {
    /// Whether a lease surely holds still.
    fn holds(&self, lease: &Lease, scene: &Scene<'_>) -> bool {
        let heard = self.heard.get(&lease.member).copied().unwrap_or(0);
        let session = heard + scene.state.config.session_timeout_ms;
        !lease.recalled && scene.now_ms < lease.until_ms.min(session)
    }

    /// A strike was written down: the lease must be over, by a verb or by time.
    pub(crate) fn struck(
        &mut self,
        source: Source,
        item: Item,
        attempts: u32,
        scene: &Scene<'_>,
    ) -> Result<(), Violation> {
        // Fewer than were delivered: it was given back without a strike.
        if self.leases.get(&(source, item)).is_some_and(|lease| attempts < lease.attempt) {
            return Ok(());
        }
        if let Some(lease) = self.leases.get(&(source, item))
            && self.holds(lease, scene)
        {
            let left = lease.until_ms - scene.now_ms;
            return Err(format!("AK-5: {item:?} got a strike {left} ms before its lease ends"));
        }
        self.leases.remove(&(source, item));
        Ok(())
    }

    /// Records go out to a member.
    pub(crate) fn delivered(&mut self, member: MemberId, all: &Delivered, scene: &Scene<'_>) -> Result<(), Violation> {
        for one in &all.records {
            let entry = one.more.as_ref().and_then(|more| more.entry.as_ref());
            let item = entry.map_or(Item::Record(one.offset.get()), |entry| Item::Entry(entry.key));
            let facts = match entry {
                None => self.check_delivery(all.source, one, scene)?,
                Some(entry) => self.check_entry_delivery(all.source, entry, scene)?,
            };
            let (lane, slot, uid) = facts;
            self.owned(member, all, slot, item, lane, scene)?;
            self.order(member, all.source, item, lane, scene)?;
            self.attempts(one, uid, scene)?;
            let lease = Lease {
                member,
                lane,
                slot: slot.get(),
                epoch: all.epoch,
                until_ms: scene.now_ms + scene.state.config.lease_ms,
                attempt: one.attempt,
                recalled: false,
            };
            self.leases.insert((all.source, item), lease);
            *self.sent.entry(uid).or_default() += 1;
        }
        Ok(())
    }

    fn check_delivery(
        &self,
        source: Source,
        one: &Delivery,
        scene: &Scene<'_>,
    ) -> Result<(LaneKey, KeySlot, u64), Violation> {
        let at = one.offset.get();
        let log = &scene.logs[&source];
        let Some(record) = log.ever(at) else {
            return Err(format!("G7: offset {at} was delivered, the log ends at {}", log.end()));
        };
        if at >= log.high_watermark() {
            return Err(format!("FC-1: offset {at} was delivered at or above the high watermark"));
        }
        let (lane, slot, uid) = (record.meta.lane, record.meta.slot, record.uid);
        if self.confirmed.contains(&uid) {
            return Err(format!("AK-10: offset {at} of {source:?} was delivered again after its OK"));
        }
        let told = &scene.ledger.sources[&source];
        if told.is_settled(at) || told.is_intended(at) {
            return Err(format!("AK-10: offset {at} was delivered, it is settled or on its way to the dead letters"));
        }
        if record.meta.filtered {
            return Err(format!("FC-7: offset {at} was delivered, the filter leaves it out"));
        }
        if let Some((_, entry)) = scene.ledger.entries.at(source, one.offset, record.meta.epoch)
            && entry.state != EntryState::Cleared
            && !(told.reset && matches!(entry.state, EntryState::Resolved { .. }))
        {
            return Err(format!("DL-15: offset {at} was delivered from the source, its entry is {:?}", entry.state));
        }
        let keyed = scene.state.config.mode == Mode::Keyed;
        if let Some(begins) = scene.ledger.lane_begins(source, lane).filter(|begins| keyed && *begins < at) {
            return Err(format!(
                "RD-5: offset {at} was delivered from the source while {begins} of its key is a dead letter"
            ));
        }
        Ok((lane, slot, uid))
    }

    fn check_entry_delivery(
        &self,
        source: Source,
        one: &EntryDelivery,
        scene: &Scene<'_>,
    ) -> Result<(LaneKey, KeySlot, u64), Violation> {
        let Some(entry) = scene.entries.get(&one.key) else {
            return Err(format!("DL-4: {:?} was delivered, there is no such entry", one.key));
        };
        let at = one.key.offset.get();
        let may = entry.state == EntryState::Spilled || (entry.state == EntryState::Open && entry.job.is_some());
        if !may {
            return Err(format!("RD-1: entry {at} was delivered, it is {:?} with job {:?}", entry.state, entry.job));
        }
        let item = Item::Entry(one.key);
        if self.confirmed_entries.contains(&(source, item, entry.cycle)) {
            return Err(format!("AK-10: entry {at} was delivered again after its OK"));
        }
        let keyed = scene.state.config.mode == Mode::Keyed;
        let holds = |key: &EntryKey| scene.entries.get(key).is_some_and(|other| other.holds);
        for before in scene.entries.open_of(source, entry.lane).filter(|key| keyed && *key < one.key && holds(key)) {
            if !self.leases.contains_key(&(source, Item::Entry(before))) {
                return Err(format!("RD-4: entry {at} was delivered before entry {} of its key", before.offset));
            }
        }
        let told = &scene.ledger.sources[&source];
        let log = &scene.logs[&source];
        let earlier = (told.floor..at.min(log.end())).find(|other| {
            let record = log.ever(*other).unwrap().meta;
            record.lane == entry.lane && !record.filtered && !told.is_settled(*other) && *other < log.high_watermark()
        });
        // One that holds no lane waits for nothing of its key (rule DL-8).
        if let Some(earlier) = earlier.filter(|_| keyed && entry.holds) {
            return Err(format!(
                "DL-15: entry {at} was delivered while {earlier} of its key is unsettled in the source"
            ));
        }
        let uid =
            log.ever(at).filter(|record| record.meta.epoch == one.key.epoch).map_or(u64::MAX - at, |record| record.uid);
        // One that holds no lane stands alone.
        let lane = if entry.holds { entry.lane } else { LaneKey(!u128::from(at)) };
        Ok((lane, entry.slot, uid))
    }

    /// GM-6: to the owner of the slot, under the epoch that gave it.
    fn owned(
        &mut self,
        member: MemberId,
        all: &Delivered,
        slot: KeySlot,
        item: Item,
        lane: LaneKey,
        scene: &Scene<'_>,
    ) -> Result<(), Violation> {
        let runs = scene.state.owners.get(&all.source).map_or(&[][..], Vec::as_slice);
        match runs.iter().find(|run| run.slots.contains(slot)) {
            Some(run) if run.member == member && run.epoch == all.epoch => Ok(()),
            // FC-5: it was recalled from its owner, who has too much, for one that idles.
            // It keeps the lane until that is empty.
            Some(_) if self.recalled.remove(&(all.source, item)) => {
                self.lent.insert((all.source, lane, member));
                Ok(())
            }
            Some(_) if self.lent.contains(&(all.source, lane, member)) => Ok(()),
            other => Err(format!("GM-6: {item:?} went to {member} under epoch {}, its slot is {other:?}", all.epoch)),
        }
    }

    /// KO-1, KO-2: the first unsettled ones of the lane, to one member.
    fn order(
        &self,
        member: MemberId,
        source: Source,
        item: Item,
        lane: LaneKey,
        scene: &Scene<'_>,
    ) -> Result<(), Violation> {
        if let Some(lease) = self.leases.get(&(source, item))
            && self.holds(lease, scene)
        {
            return Err(format!("KO-1: {item:?} was delivered, {} has it until {}", lease.member, lease.until_ms));
        }
        if scene.state.config.mode != Mode::Keyed {
            return Ok(());
        }
        let others: Vec<_> = self
            .leases
            .range((source, Item::Record(0))..)
            .take_while(|((other, _), _)| *other == source)
            .filter(|((_, other), lease)| lease.lane == lane && *other != item && !lease.recalled)
            .collect();
        if let Some((_, lease)) = others.iter().find(|(_, lease)| lease.member != member && self.holds(lease, scene)) {
            return Err(format!("KO-1: {item:?} went to {member} while {} has another of its key", lease.member));
        }
        let most = scene.state.config.max_in_flight_per_key as usize;
        if others.iter().filter(|(_, lease)| self.holds(lease, scene)).count() >= most {
            return Err(format!("KO-1: {item:?} is more than {most} of its key in flight"));
        }
        let Item::Record(at) = item else { return Ok(()) };
        let (told, log) = (&scene.ledger.sources[&source], &scene.logs[&source]);
        for other in told.floor..at {
            let record = log.ever(other).unwrap().meta;
            if record.lane != lane || told.is_settled(other) || record.filtered {
                continue;
            }
            let goes_on = scene.ledger.after_dead == Some(AfterDead::Continue) && told.is_intended(other);
            let together = self.leases.get(&(source, Item::Record(other))).is_some_and(|lease| lease.member == member);
            if !goes_on && !together {
                return Err(format!("KO-2: offset {at} was delivered while {other} of its key is unsettled"));
            }
        }
        Ok(())
    }

    /// G4, RT-6: attempts are neither counted too high nor lost.
    fn attempts(&mut self, one: &Delivery, uid: u64, scene: &Scene<'_>) -> Result<(), Violation> {
        let sent = self.sent.get(&uid).copied().unwrap_or(0);
        if one.attempt > sent + 1 {
            return Err(format!(
                "G4: offset {} is said to be try {}, it was sent {sent} times",
                one.offset, one.attempt
            ));
        }
        let strikes = self.strikes.get(&uid).copied().unwrap_or(0);
        let fresh = one.more.as_ref().is_some_and(|more| more.entry.is_some());
        if !fresh && one.attempt <= strikes && !scene.state.config.breaker.enabled {
            return Err(format!(
                "RT-6: offset {} is said to be try {}, it failed {strikes} times",
                one.offset, one.attempt
            ));
        }
        if let Some(at) = self.not_before.remove(&uid).filter(|at| !fresh && scene.now_ms < *at) {
            return Err(format!("RT-2: offset {} came again {} ms too early", one.offset, at - scene.now_ms));
        }
        Ok(())
    }

    /// A verb is about to be handled: what of it is leased to the member; those leases are over.
    pub(crate) fn asks(&mut self, member: MemberId, asked: Asked, items: &[Held]) -> Vec<(Source, Item, Lease)> {
        let mut leased = Vec::new();
        for held in items {
            let key = (held.source, held.item);
            let lease = self.leases.get(&key).copied();
            if let Some(lease) = lease.filter(|lease| lease.member == member && lease.epoch == held.epoch) {
                leased.push((held.source, held.item, lease));
                // Only what an answer confirms is longer; it is at least as long as before.
                if asked != Asked::Extend {
                    self.leases.remove(&key);
                }
            }
            if matches!(asked, Asked::Ack | Asked::Skip) {
                self.handled.insert(held.uid);
            }
        }
        leased
    }

    /// The machine has answered (what is told may wait for the journal).
    pub(crate) fn answers(
        &mut self,
        pending: &Pending,
        results: &[(OffsetRange, AckStatus)],
        entries: &[(EntryKey, AckStatus)],
        scene: &Scene<'_>,
    ) -> Result<(), Violation> {
        for held in &pending.items {
            let status = status_of(held.item, results, entries);
            let Some(status) = status else {
                return Err(format!("AK-2: {:?} has no answer to {:?}", held.item, pending.asked));
            };
            let lease = pending.leased.iter().find(|(source, item, _)| (*source, *item) == (held.source, held.item));
            match (status, lease) {
                (AckStatus::Ok, None) => {
                    return Err(format!(
                        "GM-6: {:?} of {:?} was OK, it was not leased to the member",
                        pending.asked, held.item
                    ));
                }
                (AckStatus::Ok, Some(_)) => {}
                // The verb was of an earlier delivery, or of one too many: the lease, if there is one, goes on.
                (_, Some((source, item, lease))) => {
                    self.leases.entry((*source, *item)).or_insert(Lease { until_ms: 0, ..*lease });
                }
                (_, None) => {}
            }
            if status == AckStatus::Ok && pending.asked == Asked::Retry && !scene.state.config.breaker.enabled {
                self.not_before.insert(held.uid, pending.asked_ms + LEAST_DELAY_MS);
            }
        }
        Ok(())
    }

    /// A client has read an answer.
    pub(crate) fn confirms(
        &mut self,
        pending: &Pending,
        held: &Held,
        status: AckStatus,
        cycle: Option<u32>,
        settled: bool,
    ) {
        if status != AckStatus::Ok {
            return;
        }
        match (pending.asked, held.item) {
            // Under the policy `block` it waits for someone; or a reset came before the answer was read.
            (Asked::Ack | Asked::Skip | Asked::Dead, _) if !settled => {}
            (Asked::Ack | Asked::Skip | Asked::Dead, Item::Record(_)) => drop(self.confirmed.insert(held.uid)),
            (Asked::Ack | Asked::Skip, Item::Entry(_)) => {
                if let Some(cycle) = cycle {
                    self.confirmed_entries.insert((held.source, held.item, cycle));
                }
            }
            (Asked::Retry, Item::Record(_)) if settled => *self.strikes.entry(held.uid).or_default() += 1,
            _ => {}
        }
    }

    /// The member has nothing any more.
    pub(crate) fn member_gone(&mut self, member: MemberId) {
        self.leases.retain(|_, lease| lease.member != member);
    }

    /// The member is back: what it kept is leased to it, for an unknown time; nothing else is.
    pub(crate) fn resumed<'a>(&mut self, member: MemberId, kept: impl Iterator<Item = &'a Held>, scene: &Scene<'_>) {
        let mut before = std::mem::take(&mut self.leases);
        for held in kept {
            let key = (held.source, held.item);
            let lane = match held.item {
                Item::Record(at) => scene.logs[&held.source].ever(at).map(|record| record.meta.lane),
                Item::Entry(entry) => {
                    let alone = LaneKey(!u128::from(entry.offset.get()));
                    scene.entries.get(&entry).map(|entry| if entry.holds { entry.lane } else { alone })
                }
            };
            let Some(lane) = lane else { continue };
            let own = before.get(&key).filter(|lease| lease.member == member);
            let (until_ms, attempt) = own.map_or((0, 0), |lease| (lease.until_ms, lease.attempt));
            let lease = Lease { member, lane, slot: held.slot, epoch: held.epoch, until_ms, attempt, recalled: false };
            self.leases.insert(key, lease);
        }
        before.retain(|_, lease| lease.member != member);
        self.leases.append(&mut before);
    }

    /// A unit was taken from a member at once.
    pub(crate) fn unit_gone(&mut self, member: MemberId, source: Source, slots: SlotRange) {
        let gone =
            |lease: &Lease| lease.member == member && KeySlot::new(lease.slot).is_some_and(|slot| slots.contains(slot));
        self.leases.retain(|(other, _), lease| *other != source || !gone(lease));
    }

    /// A record failed, or is decided: KO-4 takes back what is leased behind it. Members without a stream cannot be told.
    pub(crate) fn recalled_unheard(
        &mut self,
        source: Source,
        at: u64,
        lane: LaneKey,
        hears: impl Fn(MemberId) -> bool,
    ) {
        for ((other, item), lease) in &mut self.leases {
            let later = matches!(item, Item::Record(later) if *later > at);
            lease.recalled |= *other == source && later && lease.lane == lane && !hears(lease.member);
        }
    }

    /// A member says that it has handed over a unit. What came back to it meanwhile it keeps; what was lent to it, perhaps.
    pub(crate) fn handed_over(&mut self, member: MemberId, source: Source, slots: SlotRange, runs: &[OwnedRun]) {
        let own = |slot: KeySlot| runs.iter().any(|run| run.member == member && run.slots.contains(slot));
        let gone = |lease: &Lease| {
            let slot = KeySlot::new(lease.slot).filter(|slot| slots.contains(*slot));
            lease.member == member && slot.is_some_and(|slot| !own(slot))
        };
        self.leases.retain(|(other, _), lease| {
            if *other != source || !gone(lease) {
                return true;
            }
            lease.until_ms = 0;
            self.lent.contains(&(source, lease.lane, member))
        });
    }

    /// Units changed hands: those who had them have until `end_ms` to hand over (rule GM-5).
    pub(crate) fn units_moved(&mut self, source: Source, runs: &[OwnedRun], end_ms: u64) {
        self.recalled.retain(|(other, _)| *other != source);
        self.lent.retain(|(other, ..)| *other != source);
        for ((other, _), lease) in &mut self.leases {
            let kept = |run: &OwnedRun| {
                run.member == lease.member && KeySlot::new(lease.slot).is_some_and(|slot| run.slots.contains(slot))
            };
            if *other == source && !runs.iter().any(kept) {
                lease.until_ms = lease.until_ms.min(end_ms);
            }
        }
    }

    /// Positions were set, or the end was cut: what is at or above `from` begins anew.
    pub(crate) fn begin_anew(&mut self, source: Source, from: u64, logs: &Logs) {
        let uids: HashSet<u64> = (from..logs[&source].end()).map(|at| logs[&source].ever(at).unwrap().uid).collect();
        self.confirmed.retain(|uid| !uids.contains(uid));
        self.confirmed_entries.retain(|(other, item, _)| *other != source || item.offset() < from);
        self.committed.remove(&source);
        self.forget_tries(source, logs);
    }

    /// Tries of a whole partition are counted from 0 again.
    pub(crate) fn forget_tries(&mut self, source: Source, logs: &Logs) {
        self.leases.retain(|(other, _), _| *other != source);
        for record in &logs[&source].records {
            self.strikes.remove(&record.uid);
            self.not_before.remove(&record.uid);
        }
    }

    /// The broker has stopped: leases are forgotten, and with them what waits.
    pub(crate) fn broker_gone(&mut self) {
        self.leases.clear();
        self.recalled.clear();
        self.lent.clear();
        self.not_before.clear();
        self.heard.clear();
    }
}
