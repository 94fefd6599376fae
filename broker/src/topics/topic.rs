//! One topic with its partitions.

use std::sync::Arc;

use super::dead_letter::DeadLettersOf;
use super::event_ids::EventIndex;
use super::metadata::state::TopicMetadata;
use super::settings::{TopicConfig, TopicNotes, TopicRevision};
use super::slot::PartitionSlot;
use crate::model::{Offset, PartitionId, TopicId, TopicName, TopicUuid};
use crate::partition::PartitionLog;

/// A topic to create.
#[derive(Debug, Clone)]
pub struct NewTopic {
    /// Name.
    pub name: TopicName,
    /// Settings.
    pub config: TopicConfig,
    /// Notes.
    pub notes: TopicNotes,
}

/// A topic with its partitions.
#[derive(Debug)]
pub struct Topic {
    /// Name.
    pub name: TopicName,
    /// Number; names its directory.
    pub id: TopicId,
    /// Id that clients see.
    pub uuid: TopicUuid,
    /// Version of the function from key to partition.
    pub hash_version: u32,
    /// Version of the function from key to slot.
    pub slot_hash_version: u32,
    /// When it was created, milliseconds since 1970.
    pub created_ms: i64,
    /// Whose dead letters it holds, if any: only the broker appends to it, trims it or deletes it (rule DL-1).
    pub dead_letters: Option<Arc<DeadLettersOf>>,
    partitions: Vec<Arc<dyn PartitionLog>>,
    slots: Vec<Arc<PartitionSlot>>,
    current: parking_lot::RwLock<Arc<TopicRevision>>,
    /// Its event ids, which its partitions know too.
    pub(super) event_ids: Arc<EventIndex>,
}

impl Topic {
    /// Settings and notes at this moment.
    pub fn revision(&self) -> Arc<TopicRevision> {
        Arc::clone(&self.current.read())
    }

    /// One partition.
    pub fn partition(&self, id: PartitionId) -> Option<&Arc<dyn PartitionLog>> {
        self.partitions.get(id.0 as usize)
    }

    /// All partitions, in order.
    pub fn partitions(&self) -> &[Arc<dyn PartitionLog>] {
        &self.partitions
    }

    /// A topic with its slots, one a partition.
    pub(super) fn new(
        metadata: &TopicMetadata,
        slots: Vec<Arc<PartitionSlot>>,
        event_ids: Arc<EventIndex>,
    ) -> Arc<Self> {
        assert_eq!(slots.len(), metadata.partitions.len(), "each partition has its slot");
        slots.iter().for_each(|slot| slot.set_flush_interval_ms(metadata.revision.config.flush_interval_ms));
        Arc::new(Self {
            name: metadata.name.clone(),
            id: metadata.id,
            uuid: metadata.uuid,
            hash_version: metadata.hash_version,
            slot_hash_version: metadata.slot_hash_version,
            created_ms: metadata.created_ms,
            dead_letters: metadata.dead_letters.clone(),
            partitions: slots.iter().map(|slot| Arc::clone(slot) as Arc<dyn PartitionLog>).collect(),
            slots,
            current: parking_lot::RwLock::new(Arc::clone(&metadata.revision)),
            event_ids,
        })
    }

    /// Bytes of a partition's log from an offset on: of whole segments, and a share by offsets of the one that holds it.
    pub fn bytes_from(&self, partition: PartitionId, from: Offset) -> u64 {
        let slot = self.slots.get(partition.0 as usize);
        slot.and_then(|slot| slot.partition()).map_or(0, |partition| partition.bytes_from(from))
    }

    /// The places of its partitions, in order.
    pub(crate) fn slots(&self) -> &[Arc<PartitionSlot>] {
        &self.slots
    }

    /// Shows a new revision.
    pub(super) fn set_revision(&self, revision: Arc<TopicRevision>) {
        self.slots.iter().for_each(|slot| slot.set_flush_interval_ms(revision.config.flush_interval_ms));
        self.event_ids.configure(&revision.config.events);
        *self.current.write() = revision;
    }
}
