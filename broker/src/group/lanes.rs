//! What is held of one partition: records read ahead in their lanes, which lanes are ready, what is leased.
//!
//! Owns: the order of each lane (rules KO-1, KO-2), the queues of ready lanes by owner (KO-9), leases in the order of
//! their ends (AK-5), lanes that wait (KO-5). Must not know: policies, members' credits, the journal; what is settled is
//! decided elsewhere. A record without key is its own lane, as each record is in mode `UNORDERED` (KO-6).
//!
//! Invariants: the leased records of a lane are its first ones, and all one member's; a lane is in a queue exactly if its
//! next record can be delivered now; a lane that waits or is stuck has nothing leased; every held record is unsettled or
//! leased.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::event::RecordMeta;
use super::held::{BuildKeyHasher, EMPTY, Lane, Queue};
use super::reading::Reading;
use super::slab::{NONE, Slab};
use crate::model::{AssignmentEpoch, KeySlot, LaneKey, Offset, Source};

pub(super) use super::held::{Handle, Held, KeyHasher, LaneView, Owner, QueueKind, Taken};

/// What is held of one partition.
#[derive(Debug)]
pub(super) struct Work {
    /// Which.
    pub(super) source: Source,
    /// What is read of it.
    pub(super) reading: Reading,
    /// Its deliveries rest (rule OF-6).
    pub(super) paused: bool,
    /// Runs of slots with their owners, in order of slots.
    pub(super) owners: Vec<Owner>,
    /// Owners with something new to deliver.
    pub(super) woken: Vec<u32>,
    /// The machine looks at it at the end of the event.
    pub(super) touched: bool,
    /// Spent records that have become the first of their lanes (rule RT-1).
    pub(super) dying: Vec<Offset>,
    /// A bound was at 80 % or more when it was looked at last (rule AK-7).
    pub(super) near: bool,
    /// What members that came back after a start of the broker have in work and was not read yet (rule GM-8).
    pub(super) claims: BTreeMap<Offset, Handle>,
    pub(super) records: Slab<Held>,
    pub(super) by_offset: HashMap<Offset, u32, BuildKeyHasher>,
    pub(super) lanes: Slab<Lane>,
    pub(super) by_key: HashMap<LaneKey, u32, BuildKeyHasher>,
    pub(super) per_key: u32,
    pub(super) leases: Queue,
    pub(super) odd_leases: BTreeSet<(u64, u32)>,
    pub(super) leased: u32,
    pub(super) waiting: BTreeSet<(u64, u32)>,
    pub(super) blocked_lanes: u32,
    pub(super) blocked_records: u32,
    ready_lanes: u32,
}

impl Work {
    /// Nothing is held; reading begins at `floor`. At most `per_key` records of a lane are leased together.
    pub(super) fn new(source: Source, floor: Offset, per_key: u32) -> Self {
        Self {
            source,
            reading: Reading::new(floor),
            paused: false,
            owners: Vec::new(),
            woken: Vec::new(),
            touched: false,
            near: false,
            dying: Vec::new(),
            claims: BTreeMap::new(),
            records: Slab::new(),
            by_offset: HashMap::default(),
            lanes: Slab::new(),
            by_key: HashMap::default(),
            per_key,
            leases: EMPTY,
            odd_leases: BTreeSet::new(),
            leased: 0,
            waiting: BTreeSet::new(),
            blocked_lanes: 0,
            blocked_records: 0,
            ready_lanes: 0,
        }
    }

    /// Records held, leased ones counted.
    pub(super) fn held(&self) -> u32 {
        self.records.len() as u32
    }

    /// Records leased.
    pub(super) fn leased(&self) -> u32 {
        self.leased
    }

    /// Gives memory back that nothing needs.
    pub(super) fn shrink(&mut self) {
        if self.records.len() == 0 {
            (self.records, self.lanes) = (Slab::new(), Slab::new());
            (self.by_offset, self.by_key) = (HashMap::default(), HashMap::default());
        }
    }

    /// Lanes that wait for a retry, or for somebody's decision.
    pub(super) fn blocked(&self) -> u32 {
        self.blocked_lanes
    }

    /// Records that are not leased and not behind a blocked lane's head.
    pub(super) fn undelivered(&self) -> u32 {
        self.held() - self.leased - self.blocked_records
    }

    /// Lanes with a record that can be delivered now.
    pub(super) fn ready(&self) -> u32 {
        self.ready_lanes
    }

    /// The record at `offset`, if it is held.
    pub(super) fn find(&self, offset: Offset) -> Option<u32> {
        self.by_offset.get(&offset).copied()
    }

    /// A held record.
    pub(super) fn record(&self, index: u32) -> &Held {
        &self.records[index]
    }

    /// A held record, for what does not move it.
    pub(super) fn record_mut(&mut self, index: u32) -> &mut Held {
        &mut self.records[index]
    }

    /// Lane and slot of a held record.
    pub(super) fn place(&self, index: u32) -> (LaneKey, KeySlot) {
        let lane = &self.lanes[self.records[index].lane];
        (lane.key, lane.slot)
    }

    /// Whether the record is the first of its lane.
    pub(super) fn is_head(&self, index: u32) -> bool {
        self.lanes[self.records[index].lane].head == index
    }

    /// A lane, if anything of it is held.
    pub(super) fn lane(&self, key: LaneKey) -> Option<LaneView> {
        self.by_key.get(&key).map(|&lane| self.view(lane))
    }

    /// All lanes with nothing leased, in no order (rule KO-7).
    pub(super) fn idle_lanes(&self) -> impl Iterator<Item = LaneView> + '_ {
        self.by_key.values().map(|&lane| self.view(lane)).filter(|lane| lane.leased == 0)
    }

    /// The lanes among [`Work::idle_lanes`] that wait.
    pub(super) fn blocked_lanes(&self) -> impl Iterator<Item = LaneView> + '_ {
        self.idle_lanes().filter(|lane| lane.blocked)
    }

    pub(super) fn view(&self, lane: u32) -> LaneView {
        let lane = &self.lanes[lane];
        LaneView {
            key: lane.key,
            slot: lane.slot,
            first: self.records[lane.head].offset,
            records: lane.len,
            leased: lane.leased,
            blocked: lane.due_ms != 0 || lane.stuck,
        }
    }

    /// Holds a record behind those of its lane. It was tried `attempts` times and rests until `due_ms`, monotonic.
    pub(super) fn push(&mut self, meta: &RecordMeta, attempts: u32, due_ms: u64, now_ms: u64) -> u32 {
        let held = Held {
            offset: meta.offset,
            append_ms: meta.append_ms,
            since_ms: 0,
            until_ms: due_ms,
            lease_epoch: AssignmentEpoch(0),
            size_bytes: meta.size_bytes,
            epoch: meta.epoch,
            attempts,
            holder: NONE,
            recalled_from: NONE,
            suspects: 0,
            started: false,
            probe: false,
            exempt: false,
            spent: false,
            odd: false,
            lane: NONE,
            next: NONE,
            lease_prev: NONE,
            lease_next: NONE,
        };
        let index = self.records.insert(held);
        self.by_offset.insert(meta.offset, index);
        let lane = match self.by_key.get(&meta.lane) {
            Some(&lane) => lane,
            None => self.new_lane(meta.lane, meta.slot),
        };
        self.records[index].lane = lane;
        let tail = self.lanes[lane].tail;
        if tail == NONE {
            self.lanes[lane].head = index;
        } else {
            debug_assert!(self.records[tail].offset < meta.offset, "a lane is in order of offsets (rule KO-2)");
            self.records[tail].next = index;
        }
        let one = &mut self.lanes[lane];
        one.tail = index;
        one.len += 1;
        let blocked = one.due_ms != 0 || one.stuck;
        if blocked {
            self.blocked_records += 1;
        }
        if one.cursor == NONE {
            one.cursor = index;
            self.refresh(lane, now_ms);
        }
        index
    }

    fn new_lane(&mut self, key: LaneKey, slot: KeySlot) -> u32 {
        let lane = self.lanes.insert(Lane {
            key,
            slot,
            head: NONE,
            tail: NONE,
            cursor: NONE,
            len: 0,
            leased: 0,
            holder: NONE,
            owner: self.owner_of(slot),
            queue: None,
            prev: NONE,
            next: NONE,
            due_ms: 0,
            stuck: false,
        });
        self.by_key.insert(key, lane);
        lane
    }

    /// Index in `owners` of the owner of a slot, or [`NONE`].
    pub(super) fn owner_of(&self, slot: KeySlot) -> u32 {
        let after = self.owners.partition_point(|owner| owner.slots.from <= slot.get());
        match after.checked_sub(1) {
            Some(at) if self.owners[at].slots.contains(slot) => at as u32,
            _ => NONE,
        }
    }

    /// Sets who owns what; every lane goes to its owner's queue, except those that others have leases of.
    pub(super) fn set_owners(&mut self, owners: Vec<Owner>, now_ms: u64) {
        let lanes: Vec<u32> = self.in_order();
        for &lane in &lanes {
            self.unqueue(lane);
        }
        self.owners = owners;
        self.woken.clear();
        for lane in lanes {
            self.lanes[lane].owner = self.owner_of(self.lanes[lane].slot);
            self.refresh(lane, now_ms);
        }
    }

    /// Sets how many records of a lane are leased together.
    pub(super) fn set_per_key(&mut self, per_key: u32, now_ms: u64) {
        if self.per_key != per_key {
            self.per_key = per_key;
            self.in_order().into_iter().for_each(|lane| self.refresh(lane, now_ms));
        }
    }

    /// All lanes in order of their first records: equal histories have equal queues.
    pub(super) fn in_order(&self) -> Vec<u32> {
        let mut lanes: Vec<u32> = self.by_key.values().copied().collect();
        lanes.sort_unstable_by_key(|&lane| self.records[self.lanes[lane].head].offset);
        lanes
    }

    /// Puts a lane where its state says: into a queue, among those that wait, or nowhere.
    pub(super) fn refresh(&mut self, lane: u32, now_ms: u64) {
        let one = self.lanes[lane];
        let due_ms = self.due_of(&one, now_ms);
        if due_ms != one.due_ms {
            if one.due_ms != 0 {
                self.waiting.remove(&(one.due_ms, lane));
            }
            if due_ms != 0 {
                self.waiting.insert((due_ms, lane));
            }
            let was = one.due_ms != 0 || one.stuck;
            self.lanes[lane].due_ms = due_ms;
            self.count_blocked(lane, was);
        }
        let wanted = if due_ms == 0 { self.queue_of(&one) } else { None };
        if wanted != one.queue {
            self.unqueue(lane);
            if let Some(kind) = wanted {
                self.enqueue(lane, kind);
            }
        }
    }

    fn due_of(&self, lane: &Lane, now_ms: u64) -> u64 {
        if lane.stuck || lane.leased > 0 || lane.cursor == NONE {
            return 0;
        }
        let due_ms = self.records[lane.cursor].until_ms;
        if due_ms > now_ms { due_ms } else { 0 }
    }

    fn queue_of(&self, lane: &Lane) -> Option<QueueKind> {
        if lane.stuck || lane.cursor == NONE || lane.owner == NONE || lane.leased >= self.per_key {
            return None;
        }
        let record = &self.records[lane.cursor];
        if record.spent {
            return None;
        }
        // What was tried, or is a suspect, has its lane to itself: it goes out in another frame than first deliveries.
        let tried = |record: &Held| record.until_ms != 0 || record.suspects != 0 || record.attempts != 0;
        let head = &self.records[lane.head];
        let again = tried(record) || head.suspects != 0 || head.attempts > 1;
        if lane.leased > 0 && (again || lane.holder != self.owners[lane.owner as usize].handle) {
            return None;
        }
        Some(match record {
            record if record.exempt => QueueKind::Exempt,
            record if record.suspects != 0 => QueueKind::Suspect,
            _ => QueueKind::Ready,
        })
    }

    /// Keeps the counts right after a lane's `due_ms` or `stuck` changed.
    pub(super) fn count_blocked(&mut self, lane: u32, was: bool) {
        let one = &self.lanes[lane];
        let is = one.due_ms != 0 || one.stuck;
        if is && !was {
            debug_assert_eq!(one.leased, 0, "a lane that waits has nothing leased (rule KO-4)");
            self.blocked_lanes += 1;
            self.blocked_records += one.len;
        } else if was && !is {
            self.blocked_lanes -= 1;
            self.blocked_records -= one.len;
        }
    }

    fn enqueue(&mut self, lane: u32, kind: QueueKind) {
        let owner = self.lanes[lane].owner;
        let queue = &mut self.owners[owner as usize].queues[kind as usize];
        let tail = queue.tail;
        queue.tail = lane;
        if tail == NONE {
            queue.head = lane;
        } else {
            self.lanes[tail].next = lane;
        }
        let one = &mut self.lanes[lane];
        (one.prev, one.next, one.queue) = (tail, NONE, Some(kind));
        self.ready_lanes += 1;
        self.wake(owner);
    }

    pub(super) fn unqueue(&mut self, lane: u32) {
        let one = self.lanes[lane];
        let Some(kind) = one.queue else { return };
        if one.prev != NONE {
            self.lanes[one.prev].next = one.next;
        }
        if one.next != NONE {
            self.lanes[one.next].prev = one.prev;
        }
        let queue = &mut self.owners[one.owner as usize].queues[kind as usize];
        if queue.head == lane {
            queue.head = one.next;
        }
        if queue.tail == lane {
            queue.tail = one.prev;
        }
        let one = &mut self.lanes[lane];
        (one.prev, one.next, one.queue) = (NONE, NONE, None);
        self.ready_lanes -= 1;
    }

    /// Tells the machine that something may be ready for an owner.
    pub(super) fn wake(&mut self, owner: u32) {
        let one = &mut self.owners[owner as usize];
        if !one.listed {
            one.listed = true;
            self.woken.push(owner);
        }
    }

    /// The record that is to be delivered next of an owner's queue.
    pub(super) fn next_ready(&self, owner: u32, kind: QueueKind) -> Option<u32> {
        let lane = self.owners[owner as usize].queues[kind as usize].head;
        if lane == NONE { None } else { Some(self.lanes[lane].cursor) }
    }

    /// The first record of an owner's ready lanes that never failed, looking at `most` lanes (rule CB-2).
    pub(super) fn first_untried(&self, owner: u32, most: usize) -> Option<u32> {
        let mut lane = self.owners[owner as usize].queues[QueueKind::Ready as usize].head;
        for _ in 0..most {
            if lane == NONE {
                return None;
            }
            let cursor = self.lanes[lane].cursor;
            if self.records[cursor].attempts == 0 {
                return Some(cursor);
            }
            lane = self.lanes[lane].next;
        }
        None
    }
}
