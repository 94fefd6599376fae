//! Delivery of entries, redriven and spilled: their leases and verbs (rules RD-3 to RD-7, KO-7, AK-1).
//!
//! Owns: which entry of each lane comes next, when it may, who has it until when. Must not know: credits, who is there.
//! One entry of a lane is out at a time, its head, so that order per key needs nothing more (rule KO-1).
//!
//! ```text
//! spilled or with a job, head of its lane, its place in the source settled, nothing of its lane held
//!   --> waiting until its time --> ready --> leased --> resolved: the next of the lane
//!                                    ^         |  failed: waiting again; or open: failed, its lane dead (rule KO-7)
//!                                    +---------+  given back
//! ```
//!
//! Invariants: an entry is in one place alone: waiting, unread, ready or leased; it is in none unless it may be delivered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::BuildHasherDefault;

use super::Now;
use super::config::Mode;
use super::deadlines::Timer;
use super::delivery::Room;
use super::effect::{After, Delivery, DeliveryMore, Effects, EntryDelivery, Frame};
use super::entry::{Entry, EntryKey, EntryRecord, EntryState};
use super::lanes::KeyHasher;
use super::machine::Machine;
use super::record::OwnedRun;
use super::retry::FailureKind;
use crate::model::{AssignmentEpoch, KeySlot, LaneKey, MemberId, Offset, PartitionEpoch, Source};

pub(super) use super::entry_verbs::NackHow;

/// Entries that may be delivered, and leases of entries.
#[derive(Debug, Default)]
pub(super) struct Redriven {
    /// Where each entry is that may be delivered.
    pub(super) places: BTreeMap<EntryKey, Place>,
    /// The entry of each lane that is in a place. Never iterated.
    heads: HashMap<(Source, LaneKey), EntryKey, BuildHasherDefault<KeyHasher>>,
    ready: BTreeMap<Source, BTreeSet<ReadyAt>>,
    /// The slot that was served last of each run of slots, so that no slot waits for another.
    served: BTreeMap<(Source, u32), KeySlot>,
    waiting: BTreeSet<(u64, EntryKey)>,
    /// When each entry that waits is due by the monotonic clock, with the due time by the wall clock that this is of: the
    /// wall clock is asked once (rule F6).
    dues: BTreeMap<EntryKey, (i64, u64)>,
    ends: BTreeSet<(u64, EntryKey)>,
    unread: BTreeSet<EntryKey>,
}

type ReadyAt = (KeySlot, Offset, PartitionEpoch);

/// Where an entry is that may be delivered.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place {
    /// For a member with credit.
    Ready(KeySlot),
    /// Until this monotonic time.
    Waiting(u64),
    /// Until the source is read up to it (rule OF-3).
    Unread,
    /// A member has it.
    Leased(EntryLease),
}

/// A lease of an entry.
#[derive(Debug, Clone, Copy)]
pub(super) struct EntryLease {
    /// Who has it.
    pub(super) member: MemberId,
    /// Under which epoch.
    pub(super) epoch: AssignmentEpoch,
    slot: KeySlot,
    /// Deliveries that count, this one among them.
    pub(super) attempt: u32,
    pub(super) version: u32,
    pub(super) size_bytes: u32,
    pub(super) since_ms: u64,
    pub(super) until_ms: u64,
    pub(super) started: bool,
}

/// Entries to be delivered in one frame.
#[derive(Debug)]
pub(super) struct EntryBatch {
    /// The deliveries.
    pub(super) records: Vec<Delivery>,
    /// Bytes that they take of the member's credit.
    pub(super) bytes: u64,
    /// When they may go out (rule RT-6).
    pub(super) after: After,
}

impl Machine {
    /// Whether an entry in these slots can be delivered now.
    pub(super) fn has_redriven(&self, source: Source, run: &OwnedRun) -> bool {
        self.redriven.next(source, run).is_some()
    }

    /// Leases entries to the owner of a run of slots, within its room; `None`: there is nothing to deliver now.
    pub(super) fn next_redriven(
        &mut self,
        source: Source,
        run: &OwnedRun,
        room: Room,
        now: Now,
        fx: &mut Effects,
    ) -> Option<EntryBatch> {
        let mut batch = EntryBatch { records: Vec::new(), bytes: 0, after: After::Now };
        while (batch.records.len() as u64) < room.records
            && let Some(at) = self.redriven.next(source, run)
        {
            let key = EntryKey { source, offset: at.1, epoch: at.2 };
            let entry = self.entries.get(&key).expect("what is ready has an entry");
            let size = u64::from(entry.size_bytes);
            let first = batch.records.is_empty();
            if batch.bytes + size > room.bytes && !(first && room.alone) {
                break;
            }
            let last = self.policy_for(source).is_last(entry.attempts + 1);
            if last && !first {
                // The last allowed attempt goes alone (rule PI-4).
                break;
            }
            self.redriven.served.insert((source, run.slots.from), at.0);
            let attempt = self.lease_entry(key, &entry, entry.attempts + 1, run.member, run.epoch, now);
            if attempt > 1 {
                // Durable before the delivery (rule RT-6).
                let tried = EntryRecord::Tried { key, attempts: attempt, due_ms: 0, delay_ms: 0, class: None };
                self.commit_entry(tried, fx);
            }
            batch.after = After::Entries;
            batch.bytes += size;
            let hole = self.has_hole(source, entry.lane, key.offset);
            batch.records.push(delivery(key, entry, attempt, hole));
            if last {
                break;
            }
        }
        (!batch.records.is_empty()).then_some(batch)
    }

    /// Leases an entry with this attempt.
    pub(super) fn lease_entry(
        &mut self,
        key: EntryKey,
        entry: &Entry,
        attempt: u32,
        member: MemberId,
        epoch: AssignmentEpoch,
        now: Now,
    ) -> u32 {
        let until_ms = now.monotonic_ms + self.state.config.lease_ms;
        let lease = EntryLease {
            member,
            epoch,
            slot: entry.slot,
            attempt,
            version: entry.versions.len() as u32,
            size_bytes: entry.size_bytes,
            since_ms: now.monotonic_ms,
            until_ms,
            started: false,
        };
        self.redriven.dues.remove(&key);
        self.redriven.put(key, Place::Leased(lease));
        self.deadlines.arm(Timer::Entries, until_ms);
        attempt
    }

    /// Leases of entries that have run out, and entries whose time has come. Called when the deadline that was armed
    /// with [`Timer::Entries`] has come.
    pub(super) fn expire_entries(&mut self, now: Now, fx: &mut Effects) {
        while let Some(&(at, key)) = self.redriven.waiting.first()
            && at <= now.monotonic_ms
        {
            self.make_ready(key);
        }
        while let Some(&(at, key)) = self.redriven.ends.first()
            && at <= now.monotonic_ms
        {
            let Some(lease) = self.end_entry_lease(&key) else { break };
            let (source, epoch) = (key.source, lease.epoch);
            let recall = Frame::Recall { source, epoch, runs: Vec::new(), entries: vec![key] };
            self.send(lease.member, recall, After::Now, fx);
            self.entry_failed(key, lease, FailureKind::LeaseExpired, None, now, fx);
        }
        self.arm_entries();
    }

    /// Whether a member has the entry leased.
    pub(super) fn entry_is_leased(&self, key: &EntryKey) -> bool {
        matches!(self.redriven.places.get(key), Some(Place::Leased(_)))
    }

    /// Who has the entry leased.
    pub(super) fn leased_to(&self, key: &EntryKey) -> Option<MemberId> {
        match self.redriven.places.get(key) {
            Some(Place::Leased(lease)) => Some(lease.member),
            _ => None,
        }
    }

    /// Whether the entry waits for a member alone.
    pub(super) fn entry_is_ready(&self, key: &EntryKey) -> bool {
        matches!(self.redriven.places.get(key), Some(Place::Ready(_)))
    }

    /// Entries that are leased to a member, or to all.
    pub(super) fn leased_entries(&self, member: Option<MemberId>) -> Vec<(EntryKey, EntryLease)> {
        let leased = self.redriven.ends.iter().filter_map(|(_, key)| match self.redriven.places.get(key) {
            Some(Place::Leased(lease)) => Some((*key, *lease)),
            _ => None,
        });
        leased.filter(|(_, lease)| member.is_none_or(|member| lease.member == member)).collect()
    }

    /// Ends a lease: the credit is the member's again. The entry is in no place then.
    pub(super) fn end_entry_lease(&mut self, key: &EntryKey) -> Option<EntryLease> {
        let Some(Place::Leased(lease)) = self.redriven.places.get(key).copied() else { return None };
        self.redriven.take(key);
        self.credit_back(lease.member, 1, lease.size_bytes.into());
        Some(lease)
    }

    /// Puts the head of a lane where it belongs, after anything about the lane changed.
    pub(super) fn refresh_lane(&mut self, source: Source, lane: LaneKey, now: Now) {
        let head = self.entries.head_of(source, lane);
        if let Some(old) = self.redriven.heads.get(&(source, lane)).copied()
            && Some(old) != head
        {
            if self.entry_is_leased(&old) {
                // One of a lane at a time (rule KO-1): its end looks again.
                return;
            }
            self.redriven.heads.remove(&(source, lane));
            self.redriven.take(&old);
        }
        if let Some(head) = head {
            self.redriven.heads.insert((source, lane), head);
            self.refresh_entry(head, now);
            if !self.redriven.places.contains_key(&head) {
                self.redriven.heads.remove(&(source, lane));
            }
        }
    }

    /// Puts an entry that holds no lane, or is the head of one, where it belongs.
    pub(super) fn refresh_entry(&mut self, key: EntryKey, now: Now) {
        if self.entry_is_leased(&key) {
            return;
        }
        self.redriven.take(&key);
        let Some(entry) = self.entries.get(&key).filter(|entry| self.may_go(&key, entry)) else {
            self.redriven.dues.remove(&key);
            return;
        };
        if entry.holds && self.unread_before(&key) {
            self.redriven.put(key, Place::Unread);
            return;
        }
        match entry.due_ms {
            super::dead::BLOCKED_MS => {}
            super::dead::SPENT_MS => self.dead.spent.entry_comes_first(key),
            0 => {
                self.redriven.dues.remove(&key);
                self.put_ready(key, entry.slot);
            }
            due_ms => {
                let known = self.redriven.dues.get(&key).filter(|(of, _)| *of == due_ms).map(|(_, at_ms)| *at_ms);
                let at_ms = known.unwrap_or_else(|| {
                    // Whatever became of the clock, it waits no longer than its own delay (rule F6).
                    let left = u64::try_from(due_ms.saturating_sub(now.wall_ms)).unwrap_or(0).min(entry.delay_ms);
                    now.monotonic_ms + left
                });
                self.redriven.dues.insert(key, (due_ms, at_ms));
                if at_ms > now.monotonic_ms {
                    self.redriven.put(key, Place::Waiting(at_ms));
                    self.arm_entries();
                } else {
                    self.put_ready(key, entry.slot);
                }
            }
        }
    }

    /// Puts an entry that holds no lane where it belongs; others stand with their lanes.
    pub(super) fn refresh_alone(&mut self, key: EntryKey, now: Now) {
        if self.entries.get(&key).is_some_and(|entry| !entry.holds) {
            self.refresh_entry(key, now);
        }
    }

    /// Whether an entry, head of its lane if it holds one, may be delivered (rules DL-15, RD-4).
    fn may_go(&self, key: &EntryKey, entry: &Entry) -> bool {
        let wanted = entry.state == EntryState::Spilled || (entry.state == EntryState::Open && entry.job.is_some());
        if !wanted || entry.state.is_closed() {
            return false;
        }
        let source = key.source;
        let passed =
            entry.source_lost || self.partition(source).is_none_or(|partition| partition.settled.contains(key.offset));
        if !entry.holds {
            return passed;
        }
        let held_before =
            self.works.get(&source).and_then(|work| work.lane(entry.lane)).is_some_and(|lane| lane.first < key.offset);
        let intent_before = self.dead.intents.first_of(source, entry.lane).is_some_and(|first| first < *key);
        passed && !held_before && !intent_before
    }

    /// Whether a record of its key may lie before an entry, unsettled and not read. Only where a reset was undone: what
    /// died since stays settled above records that are not (rule OF-3).
    fn unread_before(&self, key: &EntryKey) -> bool {
        let (Some(partition), Some(work)) = (self.partition(key.source), self.works.get(&key.source)) else {
            return false;
        };
        self.state.config.mode == Mode::Keyed
            && key.offset < partition.back_to
            && partition.settled.first_unsettled_at_or_after(work.reading.next) < key.offset
    }

    /// The source was read on: entries that waited for it go where they belong.
    pub(super) fn unread_passed(&mut self, source: Source, now: Now) {
        let waiting = self.redriven.unread.iter().filter(|key| key.source == source);
        let passed: Vec<EntryKey> = waiting.filter(|key| !self.unread_before(key)).copied().collect();
        for key in passed {
            if let Some(entry) = self.entries.get(&key) {
                self.refresh_of(key, &entry, now);
            }
        }
    }

    fn make_ready(&mut self, key: EntryKey) {
        self.redriven.take(&key);
        if let Some(entry) = self.entries.get(&key) {
            self.put_ready(key, entry.slot);
        }
    }

    fn put_ready(&mut self, key: EntryKey, slot: KeySlot) {
        self.redriven.put(key, Place::Ready(slot));
        self.wake_unit(key.source, slot);
    }

    pub(super) fn arm_entries(&mut self) {
        let first = self.redriven.waiting.first().into_iter().chain(self.redriven.ends.first());
        if let Some(at) = first.map(|(at, _)| *at).min() {
            self.deadlines.arm(Timer::Entries, at);
        }
    }

    /// Puts every entry where it belongs: at the start.
    pub(super) fn refresh_all(&mut self, now: Now) {
        let lanes: Vec<(Source, LaneKey)> = self.entries.lanes().map(|(source, lane, _)| (source, lane)).collect();
        lanes.into_iter().for_each(|(source, lane)| self.refresh_lane(source, lane, now));
        let alone: Vec<EntryKey> = self.entries.redriving().map(|(_, key)| key).collect();
        for key in alone {
            if self.entries.get(&key).is_some_and(|entry| !entry.holds) {
                self.refresh_entry(key, now);
            }
        }
    }

    /// Puts what an entry's change concerns where it belongs: its lane, or itself.
    pub(super) fn refresh_of(&mut self, key: EntryKey, entry: &Entry, now: Now) {
        if entry.holds {
            self.refresh_lane(key.source, entry.lane, now);
        } else {
            self.refresh_entry(key, now);
        }
    }

    /// Forgets the entries of partitions: their leases end.
    pub(super) fn drop_redriven(&mut self, of: impl Fn(Source) -> bool) {
        let keys: Vec<EntryKey> = self.redriven.places.keys().filter(|key| of(key.source)).copied().collect();
        for key in keys {
            self.end_entry_lease(&key);
            self.redriven.take(&key);
        }
        self.redriven.heads.retain(|(source, _), _| !of(*source));
        self.redriven.dues.retain(|key, _| !of(key.source));
        self.redriven.served.retain(|(source, _), _| !of(*source));
    }
}

impl EntryLease {
    /// Slot of the entry.
    pub(super) fn slot(&self) -> KeySlot {
        self.slot
    }

    /// Whether a handler has begun with it.
    pub(super) fn started(&self) -> bool {
        self.started
    }
}

impl Redriven {
    /// The next ready entry of a run of slots, in turn.
    fn next(&self, source: Source, run: &OwnedRun) -> Option<ReadyAt> {
        use std::ops::Bound::{Excluded, Included, Unbounded};
        let ready = self.ready.get(&source)?;
        let from = (KeySlot::new(run.slots.from)?, Offset::ZERO, PartitionEpoch::ZERO);
        let to = KeySlot::new(run.slots.to).map_or(Unbounded, |to| Excluded((to, Offset::ZERO, PartitionEpoch::ZERO)));
        let served = self.served.get(&(source, run.slots.from)).filter(|slot| run.slots.contains(**slot));
        let last = PartitionEpoch::new(i32::MAX as u32).expect("the greatest epoch");
        let behind = served.and_then(|slot| ready.range((Excluded((*slot, Offset::MAX, last)), to)).next());
        behind.or_else(|| ready.range((Included(from), to)).next()).copied()
    }

    /// Takes an entry out of its place.
    fn take(&mut self, key: &EntryKey) {
        match self.places.remove(key) {
            Some(Place::Ready(slot)) => {
                if let Some(ready) = self.ready.get_mut(&key.source) {
                    ready.remove(&(slot, key.offset, key.epoch));
                    if ready.is_empty() {
                        self.ready.remove(&key.source);
                    }
                }
            }
            Some(Place::Waiting(at)) => drop(self.waiting.remove(&(at, *key))),
            Some(Place::Unread) => drop(self.unread.remove(key)),
            Some(Place::Leased(lease)) => drop(self.ends.remove(&(lease.until_ms, *key))),
            None => {}
        }
    }

    /// Puts an entry into a place, out of the one that it was in.
    pub(super) fn put(&mut self, key: EntryKey, place: Place) {
        self.take(&key);
        self.places.insert(key, place);
        match place {
            Place::Ready(slot) => {
                self.ready.entry(key.source).or_default().insert((slot, key.offset, key.epoch));
            }
            Place::Waiting(at) => drop(self.waiting.insert((at, key))),
            Place::Unread => drop(self.unread.insert(key)),
            Place::Leased(lease) => drop(self.ends.insert((lease.until_ms, key))),
        }
    }
}

fn delivery(key: EntryKey, entry: Entry, attempt: u32, gap_before: bool) -> Delivery {
    let version = entry.versions.len() as u32;
    let copy = entry.versions.last().copied().unwrap_or(entry.copy);
    let more = DeliveryMore {
        first_delivery_ms: entry.first_delivery_ms,
        last_class: entry.class.unwrap_or_default(),
        gap_before,
        entry: Some(EntryDelivery { key, copy, version, cycle: entry.cycle, job: entry.job }),
    };
    Delivery { offset: key.offset, attempt, more: Some(Box::new(more)) }
}

#[cfg(test)]
mod tests;
