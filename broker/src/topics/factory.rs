//! Makes and opens partitions: where their files are, what they are given. The directory of a topic is its number.

use std::collections::HashMap;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::event_ids::{EventIndex, PartitionEvents};
use super::metadata::state::TopicMetadata;
use super::metadata::{MetadataLedger, Status};
use super::producers::Producers;
use super::settings::TopicConfig;
use super::slot::{Attention, PartitionSlot};
use crate::clock::Clock;
use crate::limits;
use crate::log::storage::Storage;
use crate::log::{LogEnvironment, LogIdentity, LogSettings, RecoveryHint, RecoveryReport};
use crate::metrics::Metrics;
use crate::model::{Offset, PartitionEpoch, PartitionId, TopicId};
use crate::partition::{
    Birth, DiskGate, Partition, PartitionEnvironment, PartitionOpenError, PartitionRef, PartitionSettings,
    PartitionSpec, Pools,
};

/// Directory of all topics, relative to the data directory.
pub const TOPICS_DIR: &str = "topics";

/// What partitions share.
#[derive(Debug, Clone)]
pub struct PartitionFactory {
    /// A log environment whose directory and identity are replaced for each partition.
    pub log: LogEnvironment,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Threads for what blocks.
    pub pools: Arc<Pools>,
    /// Durable memory.
    pub ledger: Arc<MetadataLedger>,
    /// Who produces.
    pub producers: Arc<Producers>,
    /// Space on the disk.
    pub disk: Arc<DiskGate>,
    /// Metrics of the broker.
    pub metrics: Arc<Metrics>,
    /// Partitions that need a look.
    pub attention: Arc<Attention>,
    /// State of the metadata log.
    pub status: Arc<Status>,
    /// The event ids of each topic.
    pub event_ids: Arc<EventIndexes>,
}

/// The event ids of topics, by number.
pub type EventIndexes = parking_lot::Mutex<HashMap<TopicId, Arc<EventIndex>>>;

/// What the checkpoint and the clean marker know of a partition.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct KnownEnds {
    /// Everything below had been synced.
    pub proven_end: Offset,
    /// It was closed cleanly with this end.
    pub clean_end: Option<Offset>,
}

/// Settings of a partition as its topic's settings say.
pub fn partition_settings(config: &TopicConfig) -> PartitionSettings {
    PartitionSettings {
        ack_floor: config.ack_floor,
        segment_ms: config.segment_ms,
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes,
        flush_interval_ms: config.flush_interval_ms,
        segment_bytes: config.segment_bytes,
        ..PartitionSettings::default()
    }
}

/// Directory of a topic, relative to the data directory.
pub fn topic_dir(topic: TopicId) -> PathBuf {
    PathBuf::from(TOPICS_DIR).join(topic.0.to_string())
}

impl PartitionFactory {
    /// The files.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.log.storage
    }

    /// An empty slot.
    pub fn slot(&self, topic: TopicId, partition: PartitionId, epoch: PartitionEpoch) -> Arc<PartitionSlot> {
        let reference = PartitionRef { topic, partition };
        PartitionSlot::new(reference, epoch, Arc::clone(&self.status), Arc::clone(&self.attention))
    }

    /// The event ids of a topic, which lives as long as it.
    pub(super) fn event_ids(&self, topic: &TopicMetadata) -> Arc<EventIndex> {
        let mut indexes = self.event_ids.lock();
        let index = indexes.entry(topic.id).or_insert_with(|| {
            let config = &topic.revision.config;
            EventIndex::new(config.partitions, &config.events, Arc::clone(&self.clock))
        });
        Arc::clone(index)
    }

    /// A partition could not be opened: nobody waits for the event ids in it.
    pub fn give_up_event_ids(&self, partition: PartitionRef) {
        let index = self.event_ids.lock().get(&partition.topic).cloned();
        if let Some(index) = index {
            index.give_up(partition.partition);
        }
    }

    /// A topic is gone, or never came to be.
    pub(super) fn forget(&self, topic: TopicId) {
        self.event_ids.lock().remove(&topic);
        self.ledger.forget(topic);
    }

    /// Makes the directories of a new topic, durably (rule D7). Blocks.
    ///
    /// # Errors
    /// What the storage says.
    pub fn make_dirs(&self, topic: TopicId, partitions: u32) -> io::Result<()> {
        let dir = topic_dir(topic);
        for partition in 0..partitions {
            self.storage().create_dir_all(&dir.join(partition.to_string()))?;
        }
        self.storage().sync_dir(&dir)?;
        self.storage().sync_dir(TOPICS_DIR.as_ref())
    }

    /// Removes the files of a topic, durably. Blocks. What is not there any more is no error.
    ///
    /// # Errors
    /// What the storage says; to be repeated.
    pub fn remove_files(&self, topic: TopicId) -> io::Result<()> {
        let dir = topic_dir(topic);
        if self.storage().exists(&dir)? {
            self.storage().remove_dir_all(&dir)?;
        }
        self.storage().sync_dir(TOPICS_DIR.as_ref())
    }

    /// Makes a partition. Blocks.
    ///
    /// # Errors
    /// As [`Partition::open`].
    pub fn create(
        &self,
        topic: &TopicMetadata,
        partition: PartitionId,
        epoch: PartitionEpoch,
    ) -> Result<Arc<Partition>, PartitionOpenError> {
        self.ledger.note_epoch(PartitionRef { topic: topic.id, partition }, epoch);
        self.open_as(topic, partition, Birth::New { epoch }).map(|(partition, _)| partition)
    }

    /// Opens a partition that exists. `epoch`: the epoch that it had at most. Blocks.
    ///
    /// # Errors
    /// As [`Partition::open`].
    pub fn open(
        &self,
        topic: &TopicMetadata,
        partition: PartitionId,
        epoch: PartitionEpoch,
        ends: KnownEnds,
    ) -> Result<(Arc<Partition>, RecoveryReport), PartitionOpenError> {
        self.ledger.note_epoch(PartitionRef { topic: topic.id, partition }, epoch);
        let known = &topic.partitions[partition.0 as usize];
        let hint = RecoveryHint {
            log_start: known.log_start,
            proven_end: ends.proven_end,
            clean_end: ends.clean_end,
            quarantined: known.quarantined.clone(),
            next_epoch: epoch,
        };
        self.open_as(topic, partition, Birth::Existing { hint, last_truncation: known.last_truncation })
    }

    fn open_as(
        &self,
        topic: &TopicMetadata,
        partition: PartitionId,
        birth: Birth,
    ) -> Result<(Arc<Partition>, RecoveryReport), PartitionOpenError> {
        let mut log = self.log.clone();
        log.dir = topic_dir(topic.id).join(partition.0.to_string());
        let data_dir = self.log.identity.data_dir;
        log.identity = LogIdentity { data_dir, topic_uuid: topic.uuid, topic_id: topic.id, partition };
        log.settings = LogSettings {
            segment_bytes: topic.revision.config.segment_bytes,
            allocation_step_bytes: limits::ALLOCATION_STEP_BYTES,
            ..self.log.settings
        };
        log.salt_seed = random_u64();
        let settings = partition_settings(&topic.revision.config);
        let environment = PartitionEnvironment {
            clock: Arc::clone(&self.clock),
            pools: Arc::clone(&self.pools),
            ledger: Arc::clone(&self.ledger) as _,
            producers: Some(Arc::clone(&self.producers) as _),
            events: Some(Arc::new(PartitionEvents { index: self.event_ids(topic), partition }) as _),
            disk: Arc::clone(&self.disk),
            metrics: Arc::clone(&self.metrics),
            counters: self.metrics.partition(topic.name.as_str(), partition.0),
        };
        Partition::open(PartitionSpec { log, settings, birth }, environment)
    }
}

/// Random bits, from the system's source.
pub fn random_u64() -> u64 {
    uuid::Uuid::new_v4().as_u64_pair().1
}
