//! The event ids of a topic in memory: found by id, left in the order in which they came.
//!
//! ```text
//!   table   slot = id & mask, then the next ones      slots of 4 bytes: place of an entry, or empty
//!   entries 48 bytes each, in chunks                  a place stays where it is until its entry leaves
//!   order   places in the order of arrival            the oldest at the front
//! ```
//!
//! About 60 bytes an id. Invariants: every entry that is not dead is in the table once, and every entry, dead or not,
//! stands in the order once; a dead one leaves with its turn. Pure: no clock, no lock, no files.

use std::collections::VecDeque;

use crate::model::{Offset, PartitionEpoch, PartitionId};
use crate::partition::events::{EventKey, EventPlace};

/// No entry.
const EMPTY: u32 = u32::MAX;
/// `since` of an entry that is no longer in the table.
const DEAD: u32 = u32::MAX;
/// Entries of a chunk, as a power of two.
const CHUNK_BITS: u32 = 12;
/// Slots of a table at first.
const FIRST_SLOTS: usize = 64;
/// Dead entries beyond as many as are alive that are dropped together.
const COMPACT_FROM: usize = 4_096;
/// Bits of a content hash; a partition stands above them.
const CONTENT_BITS: u32 = 48;

/// An id, and where its record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) id: EventKey,
    content_partition: u64,
    offset: Offset,
    append_time_ms: i64,
    epoch: PartitionEpoch,
    /// When it was reserved, in seconds of the owner's monotonic clock.
    since: u32,
}

const _: () = assert!(size_of::<Entry>() == 48);
const _: () = assert!(crate::limits::PARTITIONS_PER_TOPIC <= 1 << (64 - CONTENT_BITS));

impl Entry {
    pub(super) fn new(id: EventKey, content: u64, place: EventPlace, since: u32) -> Self {
        assert!(content < 1 << CONTENT_BITS && since != DEAD, "a content hash has 48 bits");
        Self {
            id,
            content_partition: content | u64::from(place.partition.0) << CONTENT_BITS,
            offset: place.offset,
            append_time_ms: place.append_time_ms,
            epoch: place.epoch,
            since,
        }
    }

    pub(super) fn content(&self) -> u64 {
        self.content_partition & ((1 << CONTENT_BITS) - 1)
    }

    pub(super) fn since(&self) -> u32 {
        self.since
    }

    pub(super) fn place(&self) -> EventPlace {
        EventPlace {
            partition: PartitionId((self.content_partition >> CONTENT_BITS) as u32),
            offset: self.offset,
            epoch: self.epoch,
            append_time_ms: self.append_time_ms,
        }
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Index {
    chunks: Vec<Vec<Entry>>,
    free: Vec<u32>,
    order: VecDeque<u32>,
    /// Number of the entry at the front, counted from the first that ever came.
    front: u64,
    slots: Vec<u32>,
    live: usize,
}

impl Index {
    /// Ids in the table.
    pub(super) fn len(&self) -> usize {
        self.live
    }

    /// Bytes that it takes, about.
    #[cfg(test)]
    pub(super) fn bytes(&self) -> usize {
        let chunk = (1 << CHUNK_BITS) * size_of::<Entry>();
        self.chunks.len() * chunk + (self.free.capacity() + self.order.capacity() + self.slots.capacity()) * 4
    }

    fn entry(&self, place: u32) -> &Entry {
        &self.chunks[(place >> CHUNK_BITS) as usize][(place & ((1 << CHUNK_BITS) - 1)) as usize]
    }

    fn entry_mut(&mut self, place: u32) -> &mut Entry {
        &mut self.chunks[(place >> CHUNK_BITS) as usize][(place & ((1 << CHUNK_BITS) - 1)) as usize]
    }

    fn mask(&self) -> usize {
        self.slots.len() - 1
    }

    /// The slot of an id, if it is in the table.
    fn slot_of(&self, id: &EventKey) -> Option<usize> {
        if self.slots.is_empty() {
            return None;
        }
        let mut slot = id[0] as usize & self.mask();
        while self.slots[slot] != EMPTY {
            if self.entry(self.slots[slot]).id == *id {
                return Some(slot);
            }
            slot = (slot + 1) & self.mask();
        }
        None
    }

    /// The entry of an id.
    pub(super) fn get(&self, id: &EventKey) -> Option<&Entry> {
        self.slot_of(id).map(|slot| self.entry(self.slots[slot]))
    }

    /// Adds an id that is not in the table, as the newest.
    pub(super) fn push(&mut self, entry: Entry) {
        if (self.live + 1) * 4 > self.slots.len() * 3 {
            self.grow();
        }
        let place = match self.free.pop() {
            Some(place) => {
                *self.entry_mut(place) = entry;
                place
            }
            None => self.new_place(entry),
        };
        self.put(place);
        self.order.push_back(place);
        self.live += 1;
        self.compact();
    }

    fn new_place(&mut self, entry: Entry) -> u32 {
        if self.chunks.last().is_none_or(|chunk| chunk.len() == 1 << CHUNK_BITS) {
            self.chunks.push(Vec::with_capacity(1 << CHUNK_BITS));
        }
        let chunk = self.chunks.len() - 1;
        let chunk_entries = &mut self.chunks[chunk];
        chunk_entries.push(entry);
        // Ids are bounded by `limits::EVENT_IDS`, dead ones by as many again.
        ((chunk as u32) << CHUNK_BITS) | (chunk_entries.len() as u32 - 1)
    }

    fn put(&mut self, place: u32) {
        let mut slot = self.entry(place).id[0] as usize & self.mask();
        while self.slots[slot] != EMPTY {
            slot = (slot + 1) & self.mask();
        }
        self.slots[slot] = place;
    }

    fn grow(&mut self) {
        let slots = (self.slots.len() * 2).max(FIRST_SLOTS);
        self.slots = vec![EMPTY; slots];
        let order = std::mem::take(&mut self.order);
        for place in &order {
            if self.entry(*place).since != DEAD {
                self.put(*place);
            }
        }
        self.order = order;
    }

    /// Takes an id out of the table, if it is in it; its place is free once its turn has come.
    pub(super) fn remove(&mut self, id: &EventKey) {
        let Some(slot) = self.slot_of(id) else { return };
        let place = self.slots[slot];
        self.unlink(slot);
        self.entry_mut(place).since = DEAD;
        self.live -= 1;
    }

    /// Empties a slot, and moves those behind it up that would not be found any more.
    fn unlink(&mut self, slot: usize) {
        let (mut hole, mut at) = (slot, slot);
        loop {
            at = (at + 1) & self.mask();
            let place = self.slots[at];
            if place == EMPTY {
                break;
            }
            let home = self.entry(place).id[0] as usize & self.mask();
            // From home to here the way leads over the hole.
            let away = at.wrapping_sub(home) & self.mask();
            if away >= at.wrapping_sub(hole) & self.mask() {
                self.slots[hole] = place;
                hole = at;
            }
        }
        self.slots[hole] = EMPTY;
    }

    /// The oldest entry in the table; dead ones before it leave.
    pub(super) fn oldest(&mut self) -> Option<Entry> {
        while let Some(place) = self.order.front() {
            let entry = *self.entry(*place);
            if entry.since != DEAD {
                return Some(entry);
            }
            self.free.push(*place);
            self.order.pop_front();
            self.front += 1;
        }
        None
    }

    /// The newest `count` entries leave, as if they had never come.
    pub(super) fn take_back(&mut self, count: usize) {
        for _ in 0..count {
            let place = self.order.pop_back().expect("as many were added just now");
            let id = self.entry(place).id;
            self.remove(&id);
            self.free.push(place);
        }
    }

    /// Number of the entry that comes next, counted from the first that ever came.
    pub(super) fn next_number(&self) -> u64 {
        self.front + self.order.len() as u64
    }

    /// The entries from this number on that are in the table, in the order in which they came.
    pub(super) fn after_number(&self, number: u64) -> impl Iterator<Item = &Entry> {
        let skip = usize::try_from(number.saturating_sub(self.front)).unwrap_or(usize::MAX).min(self.order.len());
        self.order.range(skip..).map(|place| self.entry(*place)).filter(|entry| entry.since != DEAD)
    }

    /// Removes all for which `gone` holds.
    pub(super) fn remove_where(&mut self, gone: impl Fn(&Entry) -> bool) {
        let ids: Vec<EventKey> = self.after_number(0).filter(|entry| gone(entry)).map(|entry| entry.id).collect();
        ids.iter().for_each(|id| self.remove(id));
        self.drop_dead_at_the_back();
    }

    /// What was never written was the newest: it does not wait for its turn.
    fn drop_dead_at_the_back(&mut self) {
        while let Some(place) = self.order.back().copied().filter(|place| self.entry(*place).since == DEAD) {
            self.order.pop_back();
            self.free.push(place);
        }
    }

    /// Drops all that are dead, once they are many.
    fn compact(&mut self) {
        if self.order.len() <= 2 * self.live + COMPACT_FROM {
            return;
        }
        let order = std::mem::take(&mut self.order);
        // Numbers fall for those behind a dead one: whoever goes on from a number looks at some of them again.
        for place in order {
            if self.entry(place).since == DEAD {
                self.free.push(place);
            } else {
                self.order.push_back(place);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn entry(number: u64, spread: u64) -> Entry {
        let place = EventPlace {
            partition: PartitionId((number % 1_024) as u32),
            offset: Offset::new(number).expect("small"),
            epoch: PartitionEpoch::new(3).expect("small"),
            append_time_ms: number as i64 - 7,
        };
        // Few first halves, so that many ids share a slot.
        Entry::new([number % spread, number], number % (1 << 48), place, number as u32)
    }

    #[test]
    fn an_entry_gives_back_what_it_holds() {
        let place = EventPlace {
            partition: PartitionId(1_023),
            offset: Offset::new(1 << 60).expect("an offset"),
            epoch: PartitionEpoch::new(9).expect("small"),
            append_time_ms: -5,
        };
        let entry = Entry::new([1, 2], (1 << 48) - 1, place, 8);
        assert_eq!((entry.place(), entry.content(), entry.since()), (place, (1 << 48) - 1, 8));
    }

    #[test]
    fn it_agrees_with_a_map_and_a_queue_whatever_comes() {
        for spread in [3, 1_000_003] {
            let (mut index, mut twin, mut order) = (Index::default(), HashMap::new(), VecDeque::new());
            let mut random = 1_u64;
            for number in 0..20_000_u64 {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                match random >> 60 {
                    0..=8 => {
                        let new = entry(number, spread);
                        index.push(new);
                        twin.insert(new.id, new);
                        order.push_back(new.id);
                    }
                    9..=11 => {
                        order.retain(|id| twin.contains_key(id));
                        let oldest = index.oldest();
                        assert_eq!(oldest.map(|entry| entry.id), order.front().copied());
                        if let Some(oldest) = oldest {
                            index.remove(&oldest.id);
                            twin.remove(&oldest.id);
                        }
                    }
                    12..=13 => {
                        order.retain(|id| twin.contains_key(id));
                        if !order.is_empty() {
                            let id = order[(random >> 8) as usize % order.len()];
                            index.remove(&id);
                            twin.remove(&id);
                        }
                    }
                    14 => {
                        let new = [entry(number, spread), entry(number + 1_000_000, spread)];
                        new.iter().for_each(|entry| index.push(*entry));
                        index.take_back(2);
                    }
                    _ => assert_eq!(index.after_number(0).count(), twin.len()),
                }
                assert_eq!(index.len(), twin.len());
                if number % 500 == 0 {
                    assert!(twin.iter().all(|(id, entry)| index.get(id) == Some(entry)));
                }
            }
            index.remove_where(|entry| entry.place().offset.get() % 2 == 0);
            assert!(twin.values().all(|entry| index.get(&entry.id).is_some() == (entry.place().offset.get() % 2 == 1)));
        }
    }

    #[test]
    fn an_id_takes_about_sixty_bytes() {
        let mut index = Index::default();
        (0..200_000).for_each(|number| index.push(entry(number, u64::MAX)));
        let each = index.bytes() / index.len();
        assert!(each < 70, "{each} bytes an id");
    }
}
