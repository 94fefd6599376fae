//! Names of lanes and slots of records: what stands for a key in all state of a group.

use std::hash::Hasher as _;

use sawlog_proto::partitioner;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use crate::model::{KeySlot, LaneKey, Offset};

/// First half of the hash key. Frozen: names of lanes are journalled.
const HASH_KEY: u64 = 0x7361_776c_6f67;

/// Keeps what a lane's name is made of in one place: SipHash-1-3 of 128 bits with a fixed key over the record's key;
/// for a record without key over its offset, with another.
pub fn lane_key(key: Option<&[u8]>, offset: Offset) -> LaneKey {
    let hash = match key {
        Some(key) => {
            let mut hasher = SipHasher13::new_with_keys(HASH_KEY, 1);
            hasher.write(key);
            hasher.finish128()
        }
        None => {
            let mut hasher = SipHasher13::new_with_keys(HASH_KEY, 2);
            hasher.write(&offset.get().to_le_bytes());
            hasher.finish128()
        }
    };
    LaneKey(hash.as_u128())
}

/// The slot of a record: of its key, or of its offset if it has none (rule KO-6).
pub(super) fn slot(key: Option<&[u8]>, offset: Offset) -> KeySlot {
    let slot = match key {
        Some(key) => partitioner::slot_of(key),
        None => partitioner::slot_of_offset(offset.get()),
    };
    KeySlot::new(slot).expect("the hash is below the number of slots")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_lanes_are_frozen_since_they_are_journalled() {
        assert_eq!(lane_key(Some(b"order-17"), Offset::ZERO), lane_key(Some(b"order-17"), Offset::MAX));
        assert_ne!(lane_key(Some(b"order-17"), Offset::ZERO), lane_key(Some(b"order-18"), Offset::ZERO));
        // A key of eight bytes is not taken for an offset.
        assert_ne!(lane_key(Some(&[0; 8]), Offset::ZERO), lane_key(None, Offset::ZERO));
    }

    #[test]
    fn ko_6_records_without_key_are_each_their_own_lane_and_spread_over_the_slots() {
        let offsets = (0..10_000).map(|offset| Offset::new(offset).expect("small"));
        let slots: std::collections::BTreeSet<_> = offsets.clone().map(|offset| slot(None, offset)).collect();
        let lanes: std::collections::BTreeSet<_> = offsets.map(|offset| lane_key(None, offset)).collect();
        assert!(slots.len() > 3_000, "{} slots", slots.len());
        assert_eq!(lanes.len(), 10_000);
    }
}
