//! From a key to its partition, and to its key slot, by version.

/// Version of [`partition_of`] that new topics get: Kafka's default partitioner.
pub const HASH_VERSION: u32 = 1;
/// Version of [`slot_of`] that new topics get.
pub const SLOT_HASH_VERSION: u32 = 1;
/// Key slots of a partition (rule KO-10).
pub const KEY_SLOTS: u32 = 4096;

/// The partition of `key` among `partitions`, by [`HASH_VERSION`] 1: murmur2, sign bit cleared, modulo the count.
///
/// # Panics
/// If `partitions` is 0.
pub fn partition_of(_key: &[u8], _partitions: u32) -> u32 {
    todo!()
}

/// The key slot of `key` by [`SLOT_HASH_VERSION`] 1, independent of [`partition_of`], below [`KEY_SLOTS`].
pub fn slot_of(_key: &[u8]) -> u32 {
    todo!()
}
