//! The pieces of what is held of a partition: records, lanes, owners, and how others see them.

use std::hash::{BuildHasherDefault, Hasher};

use super::slab::NONE;
use crate::model::{AssignmentEpoch, KeySlot, LaneKey, MemberId, Offset, PartitionEpoch, SlotRange};

/// A member's number while it is there; never given twice by a machine.
pub(super) type Handle = u32;

/// Takes the key as its own hash. A lane is one already. Offsets come in runs: neighbours stay neighbours in the table,
/// which so is walked through instead of jumped about in; only the bits that tell places of one group apart are spread.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct KeyHasher(u64);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.write_u64(u64::from_le_bytes(word));
        }
    }

    fn write_u64(&mut self, value: u64) {
        const TAG: u64 = 0x7f << 57;
        let value = self.0.rotate_left(5) ^ value;
        self.0 = value & !TAG | value.wrapping_mul(0x9e37_79b9_7f4a_7c15) & TAG;
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value >> 64) as u64 ^ value as u64;
    }
}

pub(super) type BuildKeyHasher = BuildHasherDefault<KeyHasher>;

/// One record that is held.
#[derive(Debug, Clone, Copy)]
pub(super) struct Held {
    /// Its offset.
    pub(super) offset: Offset,
    /// Time of its append, milliseconds since 1970.
    pub(super) append_ms: i64,
    /// Since when it is leased, monotonic.
    pub(super) since_ms: u64,
    /// Leased: when that ends. Else: when it may be delivered. Monotonic; 0: at once.
    pub(super) until_ms: u64,
    /// Epoch of the assignment under which it is leased.
    pub(super) lease_epoch: AssignmentEpoch,
    /// Bytes.
    pub(super) size_bytes: u32,
    /// Epoch of its frame.
    pub(super) epoch: PartitionEpoch,
    /// Deliveries that count, the one that is under way among them.
    pub(super) attempts: u32,
    /// Member that has it; [`NONE`]: nobody.
    pub(super) holder: Handle,
    /// Member that it was recalled from last (rule KO-4).
    pub(super) recalled_from: Handle,
    /// It may have killed a member: at most so many such are delivered together; 0: it is no suspect (rule PI-3).
    pub(super) suspects: u32,
    /// A handler has begun with it (rule PI-1).
    pub(super) started: bool,
    /// It is the breaker's probe (rule CB-2).
    pub(super) probe: bool,
    /// It failed before the window of the open breaker: that does not hold it (rule CB-2).
    pub(super) exempt: bool,
    /// Its tries are spent: it dies once it is the first of its lane (rule RT-1).
    pub(super) spent: bool,
    /// Its lease is not in the list but in `odd_leases`.
    pub(super) odd: bool,
    pub(super) lane: u32,
    pub(super) next: u32,
    pub(super) lease_prev: u32,
    pub(super) lease_next: u32,
}

/// One lane.
#[derive(Debug, Clone, Copy)]
pub(super) struct Lane {
    pub(super) key: LaneKey,
    pub(super) slot: KeySlot,
    pub(super) head: u32,
    pub(super) tail: u32,
    /// First record that is not leased.
    pub(super) cursor: u32,
    pub(super) len: u32,
    pub(super) leased: u32,
    /// Member that has its leased records.
    pub(super) holder: Handle,
    pub(super) owner: u32,
    /// Queue that it is in.
    pub(super) queue: Option<QueueKind>,
    pub(super) prev: u32,
    pub(super) next: u32,
    /// When its next record may be delivered; 0: it does not wait for that.
    pub(super) due_ms: u64,
    /// Held until someone decides.
    pub(super) stuck: bool,
}

/// Queues of an owner.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum QueueKind {
    /// Anything else.
    Ready = 0,
    /// Its next record may have killed a member.
    Suspect = 1,
    /// An open breaker does not hold it.
    Exempt = 2,
}

/// First and last of a list.
#[derive(Debug, Clone, Copy)]
pub(super) struct Queue {
    pub(super) head: u32,
    pub(super) tail: u32,
}

/// No list.
pub(super) const EMPTY: Queue = Queue { head: NONE, tail: NONE };

/// A run of slots with its owner.
#[derive(Debug, Clone)]
pub(super) struct Owner {
    /// The slots.
    pub(super) slots: SlotRange,
    /// Who.
    pub(super) member: MemberId,
    /// The member's number.
    pub(super) handle: Handle,
    /// Under which epoch.
    pub(super) epoch: AssignmentEpoch,
    /// Whether the member knows that something may be ready.
    pub(super) listed: bool,
    pub(super) queues: [Queue; 3],
}

impl Owner {
    /// A run with empty queues.
    pub(super) fn new(slots: SlotRange, member: MemberId, handle: Handle, epoch: AssignmentEpoch) -> Self {
        Self { slots, member, handle, epoch, listed: false, queues: [EMPTY; 3] }
    }
}

/// A lane as others see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LaneView {
    /// Its name.
    pub(super) key: LaneKey,
    /// Its slot.
    pub(super) slot: KeySlot,
    /// Its first unsettled record.
    pub(super) first: Offset,
    /// Records held.
    pub(super) records: u32,
    /// Records leased.
    pub(super) leased: u32,
    /// It waits for a retry or for somebody's decision.
    pub(super) blocked: bool,
}

/// A record that was taken out of its lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Taken {
    /// Its offset.
    pub(super) offset: Offset,
    /// Its lane.
    pub(super) lane: LaneKey,
    /// Its slot.
    pub(super) slot: KeySlot,
    /// Epoch of its frame.
    pub(super) epoch: PartitionEpoch,
    /// Bytes.
    pub(super) size_bytes: u32,
    /// Time of its append, milliseconds since 1970.
    pub(super) append_ms: i64,
    /// Deliveries that count.
    pub(super) attempts: u32,
    /// Monotonic time before which it is not to be delivered; 0: at once.
    pub(super) due_ms: u64,
}
