//! Topics: create, look up, change, trim, delete; every change is durable in the metadata log before it is answered.
//!
//! State hangs on a topic's id; a topic made anew under an old name is another topic.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::model::{AckLevel, NameError, Offset, PartitionId, TopicId, TopicName, TopicUuid};
use crate::partition::{AppendFailure, PartitionLog, PartitionStatus};

/// How ready batches are checked (rule PR-13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// Uncompressed batches are walked record by record.
    Full,
    /// Only header and checksum.
    Envelope,
}

/// Settings of a topic, all given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// Number of partitions, 1 to 1,024.
    pub partitions: u32,
    /// Whether each record must have a key, which chooses its partition.
    pub keyed: bool,
    /// The least level of acknowledgement.
    pub ack_floor: AckLevel,
    /// How ready batches are checked.
    pub validation: Validation,
    /// Age in milliseconds at which sealed segments go; `None`: never.
    pub retention_ms: Option<u64>,
    /// Bytes per partition above which the oldest sealed segments go; `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// Bytes at which the active segment is sealed.
    pub segment_bytes: u64,
    /// Age in milliseconds at which a non-empty active segment is sealed.
    pub segment_ms: u64,
    /// Largest record in bytes.
    pub max_record_bytes: u64,
    /// With the floor `written`: longest time in milliseconds until records are synced.
    pub flush_interval_ms: u64,
}

/// What people say about a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicNotes {
    /// Who answers for it.
    pub owner: String,
    /// What its records are.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// The changeable part of a topic at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRevision {
    /// Rises with every change.
    pub revision: u64,
    /// Settings.
    pub config: TopicConfig,
    /// Notes.
    pub notes: TopicNotes,
    /// When it was last changed, milliseconds since 1970.
    pub updated_ms: i64,
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
    partitions: Vec<Arc<dyn PartitionLog>>,
    current: parking_lot::RwLock<Arc<TopicRevision>>,
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
}

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

/// A change of a topic.
#[derive(Debug, Clone)]
pub struct TopicUpdate {
    /// The revision that must be current.
    pub if_revision: Option<u64>,
    /// Takes the current settings and notes to the new ones.
    pub config: TopicConfig,
    /// New notes.
    pub notes: TopicNotes,
}

/// Why a call about topics failed.
#[derive(Debug, thiserror::Error)]
pub enum TopicError {
    /// No such topic.
    #[error("there is no topic {name}")]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// No such partition.
    #[error("topic {name} has {partitions} partitions, not {partition}")]
    NoPartition {
        /// Name of the topic.
        name: String,
        /// Partition asked for.
        partition: u32,
        /// Partitions it has.
        partitions: u32,
    },
    /// It exists with other settings.
    #[error("topic {name} exists with other settings: {differences}")]
    Exists {
        /// Name of the topic.
        name: String,
        /// Fields that differ.
        differences: String,
    },
    /// The name is not allowed.
    #[error("{name}: {rule}")]
    Name {
        /// The name, escaped.
        name: String,
        /// The rule that it breaks.
        rule: NameError,
    },
    /// A field is out of its bounds.
    #[error("{field}: found {found}, must be {bounds}")]
    Field {
        /// Name of the field.
        field: &'static str,
        /// Value found.
        found: String,
        /// What it may be.
        bounds: String,
    },
    /// The revision given is not the current one.
    #[error("topic {name} has revision {current}, not {given}")]
    StaleRevision {
        /// Name of the topic.
        name: String,
        /// Revision given.
        given: u64,
        /// Current revision.
        current: u64,
    },
    /// An offset out of the log.
    #[error("offset {offset} of partition {partition} is not in {earliest} to {latest}")]
    OutOfRange {
        /// The partition.
        partition: u32,
        /// Offset asked for.
        offset: Offset,
        /// First offset kept.
        earliest: Offset,
        /// High watermark.
        latest: Offset,
    },
    /// A count is at its limit.
    #[error("limit reached: {limit}, at most {max}")]
    Limit {
        /// Name of the limit.
        limit: &'static str,
        /// Its value.
        max: u64,
    },
    /// The broker takes no changes until it is restarted or repaired.
    #[error("the broker is read-only: {cause}")]
    ReadOnly {
        /// Why.
        cause: String,
    },
    /// The partition could not be reopened, or refused the call.
    #[error(transparent)]
    Partition(#[from] AppendFailure),
    /// The disk is nearly full and nothing new is made.
    #[error("disk low: {free_bytes} bytes free, {min_free_bytes} needed")]
    DiskLow {
        /// Bytes free.
        free_bytes: u64,
        /// Bytes that must stay free.
        min_free_bytes: u64,
    },
    /// Shutting down.
    #[error("shutting down")]
    ShuttingDown,
}

/// All topics of a broker.
#[derive(Debug)]
pub struct Topics {}

impl Topics {
    /// A topic by its name. A look-up in memory, for the hot path.
    pub fn get(&self, _name: &str) -> Option<Arc<Topic>> {
        todo!()
    }

    /// Up to `limit` topics in order of their names, after `after`, with this prefix.
    pub fn list(&self, _after: Option<&str>, _prefix: &str, _limit: usize) -> Vec<Arc<Topic>> {
        todo!()
    }

    /// Creates a topic, or finds the one with equal settings; the flag says whether it is new.
    pub async fn create(&self, _new: NewTopic) -> Result<(Arc<Topic>, bool), TopicError> {
        todo!()
    }

    /// Changes settings and notes.
    pub async fn update(&self, _name: &str, _update: TopicUpdate) -> Result<Arc<Topic>, TopicError> {
        todo!()
    }

    /// Deletes a topic: one durable metadata record first, its files after (rule D7).
    pub async fn delete(&self, _name: &str) -> Result<TopicUuid, TopicError> {
        todo!()
    }

    /// Raises log starts; returns the log start of each partition named (rule RE-9).
    pub async fn trim(
        &self,
        _name: &str,
        _before: &[(PartitionId, Offset)],
    ) -> Result<Vec<(PartitionId, Offset)>, TopicError> {
        todo!()
    }

    /// Opens a fenced partition again (rule F1).
    pub async fn reopen(&self, _name: &str, _partition: PartitionId) -> Result<PartitionStatus, TopicError> {
        todo!()
    }

    /// Registers a producer: its id and epoch (rule PR-7). An empty name gets a new id.
    pub async fn init_producer(&self, _name: &str) -> Result<(i64, i16), TopicError> {
        todo!()
    }
}
