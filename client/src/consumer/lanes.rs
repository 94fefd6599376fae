//! Order per key inside the client. Pure.
//!
//! A lane is there as long as one of its records is ready, in work, or waits for the answer that decides whether the
//! next may begin; the others wait behind it in the order of their arrival. Needed where the broker sends several
//! records of a key together: more than one in flight per key, and mode offset.
//!
//! Invariant: of a lane at most one record is ready or in work (rules KO-1 to KO-4).

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};

use bytes::Bytes;

use super::slots::Ticket;

/// A key of a source, by the source's number in this client.
pub(super) type LaneKey = (u32, Bytes);

/// Lanes that are busy, each with what waits behind its head.
#[derive(Debug, Default)]
pub(super) struct Lanes {
    busy: HashMap<LaneKey, VecDeque<Ticket>>,
}

impl Lanes {
    /// A record arrives: true if it may begin now, else it waits.
    pub(super) fn arrive(&mut self, lane: &LaneKey, ticket: Ticket) -> bool {
        match self.busy.entry(lane.clone()) {
            Entry::Vacant(free) => {
                free.insert(VecDeque::new());
                true
            }
            Entry::Occupied(mut busy) => {
                busy.get_mut().push_back(ticket);
                false
            }
        }
    }

    /// The head is done with: the next one, which is the head from now on.
    pub(super) fn leave(&mut self, lane: &LaneKey) -> Option<Ticket> {
        let waiting = self.busy.get_mut(lane)?;
        let next = waiting.pop_front();
        if next.is_none() {
            self.busy.remove(lane);
        }
        next
    }

    /// One that waited is taken back; false if it did not wait.
    pub(super) fn take_out(&mut self, lane: &LaneKey, ticket: Ticket) -> bool {
        let Some(waiting) = self.busy.get_mut(lane) else { return false };
        let before = waiting.len();
        waiting.retain(|waits| *waits != ticket);
        waiting.len() < before
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(index: u32) -> Ticket {
        Ticket { index, generation: 0 }
    }

    fn lane(source: u32, key: &'static [u8]) -> LaneKey {
        (source, Bytes::from_static(key))
    }

    #[test]
    fn ko_1_the_records_of_a_key_begin_one_after_the_other_in_order_of_arrival() {
        let (mut lanes, key) = (Lanes::default(), lane(0, b"k"));
        assert!(lanes.arrive(&key, ticket(1)));
        assert!(!lanes.arrive(&key, ticket(2)) && !lanes.arrive(&key, ticket(3)));
        assert_eq!(lanes.leave(&key), Some(ticket(2)));
        assert!(!lanes.arrive(&key, ticket(4)), "the second is in work");
        assert_eq!([lanes.leave(&key), lanes.leave(&key), lanes.leave(&key)], [Some(ticket(3)), Some(ticket(4)), None]);
        assert!(lanes.busy.is_empty(), "nothing stays behind");
    }

    #[test]
    fn ko_5_keys_and_partitions_do_not_wait_for_each_other() {
        let mut lanes = Lanes::default();
        assert!(lanes.arrive(&lane(0, b"a"), ticket(1)));
        assert!(lanes.arrive(&lane(0, b"b"), ticket(2)));
        assert!(lanes.arrive(&lane(1, b"a"), ticket(3)));
    }

    #[test]
    fn ko_4_one_that_waits_can_be_recalled() {
        let (mut lanes, key) = (Lanes::default(), lane(0, b"k"));
        lanes.arrive(&key, ticket(1));
        lanes.arrive(&key, ticket(2));
        lanes.arrive(&key, ticket(3));
        assert!(lanes.take_out(&key, ticket(2)));
        assert!(!lanes.take_out(&key, ticket(1)), "the head does not wait");
        assert_eq!(lanes.leave(&key), Some(ticket(3)));
    }
}
