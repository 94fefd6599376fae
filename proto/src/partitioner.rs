//! From a key to its partition, and to its key slot, by version.
//!
//! Both functions are frozen: a topic keeps for its life the versions that it was created with, since a key that moved
//! to another partition would lose its order. They must not depend on each other, or the slots of one partition would
//! be used unevenly.

/// Version of [`partition_of`] that new topics get: Kafka's default partitioner.
pub const HASH_VERSION: u32 = 1;
/// Version of [`slot_of`] that new topics get.
pub const SLOT_HASH_VERSION: u32 = 1;
/// Key slots of a partition (rule KO-10).
pub const KEY_SLOTS: u32 = 4096;

const _: () = assert!(KEY_SLOTS.is_power_of_two());

/// The partition of `key` among `partitions`, by [`HASH_VERSION`] 1: murmur2, sign bit cleared, modulo the count
/// (Kafka: `BuiltInPartitioner.partitionForKey`).
///
/// # Panics
/// If `partitions` is 0.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    assert!(partitions > 0, "a topic has at least one partition");
    (murmur2(key) & 0x7fff_ffff) % partitions
}

/// The key slot of `key` by [`SLOT_HASH_VERSION`] 1, independent of [`partition_of`], below [`KEY_SLOTS`]: the low
/// bits of FNV-1a of 64 bits, mixed by the last steps of MurmurHash3.
pub fn slot_of(key: &[u8]) -> u32 {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for byte in key {
        hash = (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    ((hash ^ (hash >> 33)) as u32) & (KEY_SLOTS - 1)
}

/// The key slot of a record without key, by [`SLOT_HASH_VERSION`] 1: that of its offset as 8 bytes, the lowest first
/// (rule KO-6).
pub fn slot_of_offset(offset: u64) -> u32 {
    slot_of(&offset.to_le_bytes())
}

/// MurmurHash2 of 32 bits with the seed that Kafka uses (`Utils.murmur2`).
fn murmur2(key: &[u8]) -> u32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java lengths have 32 bits; keys are far shorter.
    let mut hash = SEED ^ key.len() as u32;
    let (words, tail) = key.as_chunks::<4>();
    for word in words {
        let mut word = u32::from_le_bytes(*word).wrapping_mul(M);
        word ^= word >> R;
        hash = hash.wrapping_mul(M) ^ word.wrapping_mul(M);
    }
    for (index, byte) in tail.iter().enumerate() {
        hash ^= u32::from(*byte) << (8 * index);
    }
    if !tail.is_empty() {
        hash = hash.wrapping_mul(M);
    }
    hash = (hash ^ (hash >> 13)).wrapping_mul(M);
    hash ^ (hash >> 15)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pr_1_murmur2_gives_the_vectors_that_kafka_publishes() {
        let vectors: [(&[u8], i32); 6] = [
            (b"21", -973_932_308),
            (b"foobar", -790_332_482),
            (b"a-little-bit-long-string", -985_981_536),
            (b"a-little-bit-longer-string", -1_486_304_829),
            (b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            (b"abc", 479_470_107),
        ];
        for (key, hash) in vectors {
            assert_eq!(murmur2(key) as i32, hash, "{}", key.escape_ascii());
            let positive = (hash & 0x7fff_ffff) as u32;
            assert_eq!(partition_of(key, 7), positive % 7);
            assert_eq!(partition_of(key, 1), 0);
        }
    }

    #[test]
    fn ko_10_the_4096_slots_of_one_partition_are_used_evenly() {
        let mut used = vec![0_u32; KEY_SLOTS as usize];
        let keys = (0..400_000_u32).map(|number| format!("invoice-{number}"));
        for key in keys.filter(|key| partition_of(key.as_bytes(), 8) == 3) {
            used[slot_of(key.as_bytes()) as usize] += 1;
        }
        // About 12 keys a slot: none is empty by far, none has many times its share.
        let empty = used.iter().filter(|count| **count == 0).count();
        assert!(empty <= 2, "{empty} slots without a key");
        assert!(used.iter().max() < Some(&40), "{:?}", used.iter().max());
    }

    #[test]
    fn ko_10_slots_of_version_1_never_change() {
        assert_eq!(slot_of(b""), 2342);
        assert_eq!(slot_of(b"invoice-1"), 1850);
        assert_eq!(slot_of_offset(0x0102), slot_of(&[2, 1, 0, 0, 0, 0, 0, 0]));
        assert_eq!(slot_of(b"invoice-2"), 1861);
    }
}
