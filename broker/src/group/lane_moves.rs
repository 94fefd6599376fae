//! What moves records and lanes beside the order of delivery: leases begin and end, waiting ends, parts are forgotten.
//!
//! Owns: the list of leases inside [`Work`], lanes that are cut short. Must not know: why.

use super::lanes::{Handle, Taken, Work};
use super::slab::NONE;
use crate::model::{LaneKey, Offset};

impl Work {
    /// Index of the lane of a record.
    pub(super) fn lane_of(&self, index: u32) -> u32 {
        self.records[index].lane
    }

    /// The record behind this one in its lane, or [`NONE`].
    pub(super) fn next_of(&self, index: u32) -> u32 {
        self.records[index].next
    }

    /// The first unleased record of a lane becomes leased.
    pub(super) fn lease_in_lane(&mut self, lane: u32, index: u32, holder: Handle) {
        let next = self.records[index].next;
        let one = &mut self.lanes[lane];
        assert_eq!(one.cursor, index, "a lane is leased in order (rule KO-1)");
        assert!(one.leased == 0 || one.holder == holder, "a lane is leased to one member (rule KO-1)");
        one.cursor = next;
        one.leased += 1;
        one.holder = holder;
    }

    /// The last `count` leased records of a lane, from this one on, are leased no more.
    pub(super) fn unlease_in_lane(&mut self, index: u32, count: u32) {
        if count > 0 {
            let one = &mut self.lanes[self.records[index].lane];
            one.cursor = index;
            one.leased -= count;
        }
    }

    /// Puts the lane of a record where its state says, after leases of it ended.
    pub(super) fn settle_lane(&mut self, index: u32, now_ms: u64) {
        self.refresh(self.records[index].lane, now_ms);
    }

    /// Lanes whose time has come go on.
    pub(super) fn retry_due(&mut self, now_ms: u64) {
        while let Some(&(due_ms, lane)) = self.waiting.first()
            && due_ms <= now_ms
        {
            self.refresh(lane, now_ms);
        }
    }

    /// When the first waiting lane may go on.
    pub(super) fn first_retry(&self) -> Option<u64> {
        self.waiting.first().map(|(due_ms, _)| *due_ms)
    }

    /// A lease begins: it is put in the order of ends.
    pub(super) fn begin_lease(&mut self, index: u32, until_ms: u64) {
        let tail = self.leases.tail;
        let odd = tail != NONE && self.records[tail].until_ms > until_ms;
        let record = &mut self.records[index];
        (record.until_ms, record.odd, record.lease_prev, record.lease_next) = (until_ms, odd, NONE, NONE);
        self.leased += 1;
        if odd {
            self.odd_leases.insert((until_ms, index));
            return;
        }
        self.records[index].lease_prev = tail;
        if tail == NONE {
            self.leases.head = index;
        } else {
            self.records[tail].lease_next = index;
        }
        self.leases.tail = index;
    }

    /// A lease ends: its record has no holder, and may be delivered again at once.
    pub(super) fn end_lease(&mut self, index: u32) {
        let record = self.records[index];
        self.leased -= 1;
        if record.odd {
            self.odd_leases.remove(&(record.until_ms, index));
        } else {
            match record.lease_prev {
                NONE => self.leases.head = record.lease_next,
                before => self.records[before].lease_next = record.lease_next,
            }
            match record.lease_next {
                NONE => self.leases.tail = record.lease_prev,
                after => self.records[after].lease_prev = record.lease_prev,
            }
        }
        let record = &mut self.records[index];
        (record.holder, record.until_ms, record.odd) = (NONE, 0, false);
    }
}

/// A lease that ended because its record was forgotten.
#[derive(Debug, Clone, Copy)]
pub(super) struct Dropped {
    /// Who had it.
    pub(super) holder: Handle,
    /// Its bytes.
    pub(super) size_bytes: u32,
    /// It was a suspect.
    pub(super) suspect: bool,
    /// It was the breaker's probe.
    pub(super) probe: bool,
}

impl Work {
    /// Forgets every record of which `gone` says so; one that is leased only if all behind it in its lane go too. Answers
    /// the leases that ended.
    pub(super) fn forget(&mut self, gone: impl Fn(Offset, bool) -> bool, now_ms: u64) -> Vec<Dropped> {
        let mut dropped = Vec::new();
        for lane in self.in_order() {
            let mut kept = NONE;
            let first = self.lanes[lane].head;
            let mut at = first;
            while at != NONE {
                let next = self.records[at].next;
                let record = self.records[at];
                if gone(record.offset, record.holder != NONE) {
                    self.forget_one(lane, at, kept, &mut dropped);
                } else {
                    kept = at;
                }
                at = next;
            }
            if self.lanes[lane].stuck && self.lanes[lane].head != first {
                self.set_stuck(lane, false);
            }
            self.lanes[lane].tail = kept;
            if kept == NONE {
                self.drop_lane(lane);
            } else {
                self.refresh(lane, now_ms);
                self.note_head(lane);
            }
        }
        dropped
    }

    /// Takes one record out of its lane; `before` is the one that stays before it.
    fn forget_one(&mut self, lane: u32, index: u32, before: u32, dropped: &mut Vec<Dropped>) {
        let record = self.records[index];
        if record.holder != NONE {
            let (holder, size_bytes) = (record.holder, record.size_bytes);
            dropped.push(Dropped { holder, size_bytes, suspect: record.suspects != 0, probe: record.probe });
            self.end_lease(index);
            self.lanes[lane].leased -= 1;
        }
        let one = &mut self.lanes[lane];
        if one.head == index {
            one.head = record.next;
        }
        if one.cursor == index {
            one.cursor = record.next;
        }
        one.len -= 1;
        if one.due_ms != 0 || one.stuck {
            self.blocked_records -= 1;
        }
        if before != NONE {
            self.records[before].next = record.next;
        }
        self.by_offset.remove(&record.offset);
        self.records.remove(index);
    }

    /// Heads of lanes that wait and whose time has come.
    pub(super) fn due_heads(&self, now_ms: u64) -> Vec<u32> {
        let due = self.waiting.iter().take_while(|(due_ms, _)| *due_ms <= now_ms);
        due.map(|(_, lane)| self.lanes[*lane].cursor).collect()
    }

    /// Hands a lane with nothing leased to another owner until owners change (rule FC-5, mode UNORDERED).
    pub(super) fn lend(&mut self, index: u32, owner: u32, now_ms: u64) {
        let lane = self.records[index].lane;
        self.unqueue(lane);
        self.lanes[lane].owner = owner;
        self.refresh(lane, now_ms);
    }

    /// A record was read whose tries are spent (rule RT-1).
    pub(super) fn mark_spent(&mut self, index: u32, now_ms: u64) {
        self.records[index].spent = true;
        let lane = self.records[index].lane;
        self.refresh(lane, now_ms);
        self.note_head(lane);
    }

    /// A lane may have another first record: one that is spent dies now.
    fn note_head(&mut self, lane: u32) {
        let head = self.lanes[lane].head;
        if self.records[head].spent {
            self.dying.push(self.records[head].offset);
        }
    }

    /// Whether a record can be leased now by a member that has it in work already (rule GM-8).
    pub(super) fn can_resume(&self, index: u32, handle: Handle) -> bool {
        let lane = &self.lanes[self.records[index].lane];
        let owned = lane.owner != NONE && self.owners[lane.owner as usize].handle == handle;
        let more = lane.leased == 0 || (lane.holder == handle && lane.leased < self.per_key);
        owned && !lane.stuck && !self.records[index].spent && lane.cursor == index && more
    }

    /// Index of the owner in whose queue a record's lane stands, or [`NONE`].
    pub(super) fn lane_owner(&self, index: u32) -> u32 {
        self.lanes[self.records[index].lane].owner
    }

    /// Records of a member that are leased, in order of offsets.
    pub(super) fn leased_to(&self, handle: Handle) -> Vec<u32> {
        let mut leased: Vec<u32> =
            self.leased_records().filter(|index| self.records[*index].holder == handle).collect();
        leased.sort_unstable_by_key(|index| self.records[*index].offset);
        leased
    }
}

impl Work {
    /// Takes the first record, which is not leased, or leased alone, out of its lane: it is settled.
    pub(super) fn take_head(&mut self, key: LaneKey, now_ms: u64) -> Option<Taken> {
        let lane = *self.by_key.get(&key)?;
        let head = self.lanes[lane].head;
        Some(self.settle(head, now_ms))
    }

    /// Takes a lane out, which must have nothing leased: its records in order.
    pub(super) fn take_lane(&mut self, key: LaneKey) -> Vec<Taken> {
        let Some(&lane) = self.by_key.get(&key) else { return Vec::new() };
        assert_eq!(self.lanes[lane].leased, 0, "what is leased stays in its lane (rule KO-1)");
        let mut taken = Vec::with_capacity(self.lanes[lane].len as usize);
        let mut index = self.lanes[lane].head;
        while index != NONE {
            taken.push(self.taken(index));
            index = self.records[index].next;
        }
        for one in &taken {
            let index = self.by_offset.remove(&one.offset).expect("what is in a lane is held");
            self.records.remove(index);
        }
        self.drop_lane(lane);
        taken
    }

    /// Settles the first record of a lane; its lease ends, if it had one.
    ///
    /// # Panics
    /// If it is not the first.
    pub(super) fn settle(&mut self, index: u32, now_ms: u64) -> Taken {
        let taken = self.taken(index);
        let lane = self.records[index].lane;
        assert_eq!(self.lanes[lane].head, index, "a lane is settled in order (rule KO-2)");
        if self.records[index].holder != NONE {
            self.end_lease(index);
            self.lanes[lane].leased -= 1;
        }
        let next = self.records[index].next;
        let one = &mut self.lanes[lane];
        if one.cursor == index {
            one.cursor = next;
        }
        one.head = next;
        if one.due_ms != 0 || one.stuck {
            self.blocked_records -= 1;
        }
        let one = &mut self.lanes[lane];
        one.len -= 1;
        self.by_offset.remove(&taken.offset);
        self.records.remove(index);
        if self.lanes[lane].len == 0 {
            self.lanes[lane].tail = NONE;
            self.drop_lane(lane);
        } else {
            // What a lane was stuck with, or waited for, was its first record.
            self.set_stuck(lane, false);
            self.refresh(lane, now_ms);
            self.note_head(lane);
        }
        taken
    }

    fn taken(&self, index: u32) -> Taken {
        let (record, lane) = (&self.records[index], &self.lanes[self.records[index].lane]);
        Taken {
            offset: record.offset,
            lane: lane.key,
            slot: lane.slot,
            epoch: record.epoch,
            size_bytes: record.size_bytes,
            append_ms: record.append_ms,
            attempts: record.attempts,
            due_ms: if record.holder == NONE { record.until_ms } else { 0 },
        }
    }

    /// Forgets a lane whose records are gone.
    pub(super) fn drop_lane(&mut self, lane: u32) {
        self.unqueue(lane);
        let one = self.lanes[lane];
        if one.due_ms != 0 {
            self.waiting.remove(&(one.due_ms, lane));
        }
        if one.due_ms != 0 || one.stuck {
            self.blocked_lanes -= 1;
            self.blocked_records -= one.len;
        }
        self.by_key.remove(&one.key);
        self.lanes.remove(lane);
    }

    /// Holds a lane until someone decides, or lets it go (rule DL-8). Nothing of it is leased.
    pub(super) fn stick(&mut self, key: LaneKey, stuck: bool, now_ms: u64) {
        if let Some(&lane) = self.by_key.get(&key) {
            self.set_stuck(lane, stuck);
            self.refresh(lane, now_ms);
        }
    }

    pub(super) fn set_stuck(&mut self, lane: u32, stuck: bool) {
        let one = &mut self.lanes[lane];
        let was = one.due_ms != 0 || one.stuck;
        one.stuck = stuck;
        self.count_blocked(lane, was);
    }
}
