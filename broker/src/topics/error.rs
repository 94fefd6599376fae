//! Why a call about topics fails.

use crate::model::{NameError, Offset};
use crate::partition::AppendFailure;

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
    /// It holds dead letters: only the broker appends to it, changes, trims or deletes it (rule DL-1).
    #[error("{name} holds dead letters: only the broker changes it")]
    ReservedTopic {
        /// Name of the topic.
        name: String,
    },
    /// The name of a dead-letter topic is taken, or that of a new topic is reserved for dead letters (rule DL-1).
    #[error("the name {name} is taken: it cannot be that of the dead letters of group {group:?} for topic {topic:?}")]
    DeadLetterNameTaken {
        /// The group, as far as known.
        group: String,
        /// The source topic, as far as known.
        topic: String,
        /// The name.
        name: String,
    },
    /// Open dead letters would be lost with it (rule RE-10).
    #[error("{name} has {open} open dead letters, which deleting it loses")]
    OpenEntries {
        /// Name of the topic.
        name: String,
        /// How many are open.
        open: u64,
    },
    /// A job reads it (rule RE-10).
    #[error("job {job} reads {name}; deleting it ends the job's part in it and loses {open} open dead letters")]
    JobConflict {
        /// Name of the topic.
        name: String,
        /// The job.
        job: String,
        /// Open dead letters that would be lost.
        open: u64,
    },
    /// It has dead letters, and the groups cannot be asked what would be lost with them.
    #[error("{name} has dead letters, and the groups cannot be asked about them: {cause}")]
    GroupsUnknown {
        /// Name of the topic.
        name: String,
        /// Why.
        cause: String,
        /// It passes: the groups are being recovered.
        recovering: bool,
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
