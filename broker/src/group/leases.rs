//! Leases of the records of one partition: who has what until when (rule AK-5).
//!
//! Owns: the list of leases in the order of their ends, the end of each. Must not know: why a lease ends, what a member
//! is told. Most leases are as long as the others, so that a list in order costs nothing; those that end before one that
//! began earlier (a cap, a shorter setting) are in a set beside it.

use super::lanes::{Handle, Work};
use super::slab::NONE;
use crate::model::{AssignmentEpoch, Offset, OffsetRange};

/// To whom and for how long a record is leased.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lease {
    /// The member.
    pub(super) holder: Handle,
    /// Epoch of the assignment.
    pub(super) epoch: AssignmentEpoch,
    /// Since when, monotonic.
    pub(super) since_ms: u64,
    /// Until when, monotonic.
    pub(super) until_ms: u64,
}

impl Work {
    /// Leases a record: the first of its lane that is not leased. The delivery counts as an attempt from now on.
    pub(super) fn lease(&mut self, index: u32, lease: Lease) {
        let lane = self.lane_of(index);
        self.lease_in_lane(lane, index, lease.holder);
        let record = self.record_mut(index);
        (record.holder, record.lease_epoch) = (lease.holder, lease.epoch);
        record.since_ms = lease.since_ms;
        if record.recalled_from == lease.holder {
            record.recalled_from = NONE;
        }
        record.started = false;
        record.attempts += 1;
        self.begin_lease(index, lease.until_ms);
        self.refresh(lane, lease.since_ms);
    }

    /// Ends the leases of a record and of all later ones of its lane, in order (rule KO-4). They may be delivered again
    /// from `due_ms` on; attempts stay as they are. The lane is put where it belongs by [`Work::settle_lane`].
    pub(super) fn unlease_from(&mut self, index: u32) -> Vec<u32> {
        let mut ended = Vec::new();
        let mut at = index;
        while at != NONE && self.record(at).holder != NONE {
            self.end_lease(at);
            ended.push(at);
            at = self.next_of(at);
        }
        self.unlease_in_lane(index, ended.len() as u32);
        ended
    }

    /// Lengthens, or shortens, a lease.
    pub(super) fn extend(&mut self, index: u32, until_ms: u64) {
        let record = self.record(index);
        let (holder, epoch) = (record.holder, record.lease_epoch);
        self.end_lease(index);
        let record = self.record_mut(index);
        (record.holder, record.lease_epoch) = (holder, epoch);
        self.begin_lease(index, until_ms);
    }

    /// The first lease to end.
    pub(super) fn first_lease(&self) -> Option<(u64, u32)> {
        let in_list =
            Some(self.leases.head).filter(|head| *head != NONE).map(|head| (self.record(head).until_ms, head));
        let odd = self.odd_leases.first().copied();
        match (in_list, odd) {
            (Some(a), Some(b)) => Some(a.min(b)),
            (a, b) => a.or(b),
        }
    }

    /// Offsets of a range that are leased, in order.
    pub(super) fn leased_in(&self, range: OffsetRange) -> Vec<Offset> {
        let leased = self.leased_records().map(|index| self.record(index).offset);
        let mut leased: Vec<Offset> = leased.filter(|offset| range.contains(*offset)).collect();
        leased.sort_unstable();
        leased
    }

    /// Leased records, in no order.
    pub(super) fn leased_records(&self) -> impl Iterator<Item = u32> + '_ {
        let mut at = self.leases.head;
        let list = std::iter::from_fn(move || {
            let index = Some(at).filter(|at| *at != NONE)?;
            at = self.record(index).lease_next;
            Some(index)
        });
        list.chain(self.odd_leases.iter().map(|(_, index)| *index))
    }
}
