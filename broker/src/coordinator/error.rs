//! Why a call about groups failed.

use super::rebuild_views::RebuildId;
use super::replay_views::ReplayId;
use crate::dead_letter::views::JobId;
use crate::group::effect::Refusal;
use crate::group::record::GapReason;
use crate::group::{ConfigError, Mode};
use crate::model::{NameError, Offset, OffsetRange, PartitionId};
use crate::topics::TopicError;

/// Why a call about groups failed; every case has a reason on the wire.
#[derive(Debug, thiserror::Error)]
pub enum GroupError {
    /// No such group.
    #[error("group {group:?} does not exist")]
    NotFound {
        /// Its name.
        group: String,
    },
    /// A group of that name exists with other settings.
    #[error("group {group:?} exists with other {}", fields.join(", "))]
    Exists {
        /// Its name.
        group: String,
        /// Fields that differ.
        fields: Vec<String>,
    },
    /// The name of its dead-letter topic is taken (rule DL-1).
    #[error("the dead-letter topic {name:?} of group {group:?} for topic {topic:?} would collide")]
    DlqNameTaken {
        /// The group.
        group: String,
        /// The topic.
        topic: String,
        /// The name.
        name: String,
    },
    /// A name breaks a rule.
    #[error("{field} {name:?}: {rule}")]
    InvalidName {
        /// Which name.
        field: &'static str,
        /// As given.
        name: String,
        /// The rule.
        rule: NameError,
    },
    /// A setting is out of its bounds.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The group is configured otherwise (rule GM-2).
    #[error("the group's {field} is {actual}, expected was {expected}")]
    Mismatch {
        /// Which.
        field: &'static str,
        /// The group's.
        actual: String,
        /// The member's.
        expected: String,
    },
    /// Another mode's call.
    #[error("{verb} is not for a group of mode {mode:?}")]
    WrongMode {
        /// The group.
        group: String,
        /// Its mode.
        mode: Mode,
        /// The call.
        verb: &'static str,
    },
    /// The revision given is not the current one.
    #[error("the group has revision {current}, given was {given}")]
    StaleRevision {
        /// The group.
        group: String,
        /// Given.
        given: u64,
        /// Current.
        current: u64,
    },
    /// The offset is not in the log (rule OF-5).
    #[error("offset {offset} of {topic:?} partition {partition} is not within {earliest} and {latest}")]
    OutOfRange {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// Given.
        offset: Offset,
        /// Log start.
        earliest: Offset,
        /// High watermark.
        latest: Offset,
    },
    /// A gap must be accepted first.
    #[error("{topic:?} partition {partition} has a gap ({reason:?}) that was not accepted")]
    GapNotAccepted {
        /// The topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// The gap.
        range: OffsetRange,
        /// Why.
        reason: GapReason,
    },
    /// Open entries would be lost.
    #[error("{what:?} has {open} open dead letters; deleting it loses them")]
    OpenEntries {
        /// Topic or group.
        what: String,
        /// How many.
        open: u64,
    },
    /// A job has not ended, and would end with it.
    #[error("job {job} of {what:?} has not ended; deleting it ends the job and loses {open} open dead letters")]
    JobConflict {
        /// The group.
        what: String,
        /// The job.
        job: JobId,
        /// Open dead letters that would be lost.
        open: u64,
    },
    /// A replay has not ended: it has the group, or would end with it.
    #[error("replay {replay} has not ended")]
    ReplayConflict {
        /// The replay.
        replay: ReplayId,
    },
    /// A rebuild has not ended: the group has one at a time, and it would end with it.
    #[error("rebuild {rebuild} has not ended")]
    RebuildConflict {
        /// The rebuild.
        rebuild: RebuildId,
    },
    /// A rebuild has not caught up.
    #[error("version {version} of group {group:?} has {lag} records to apply: a swap waits for READY")]
    RebuildNotReady {
        /// The group.
        group: String,
        /// The version.
        version: String,
        /// Records that it has yet to apply.
        lag: u64,
    },
    /// No such replay or rebuild.
    #[error("job {job} does not exist")]
    JobNotFound {
        /// Its id, as given.
        job: String,
    },
    /// The replay has ended.
    #[error("replay {job} is {state}")]
    JobClosed {
        /// Its id.
        job: ReplayId,
        /// Its state.
        state: &'static str,
    },
    /// A count is at its limit.
    #[error("{limit} is at its limit of {max}")]
    Limit {
        /// Which.
        limit: &'static str,
        /// How many.
        max: u64,
    },
    /// The machine refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// Something about a topic.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The journals are being read.
    #[error("the groups are being recovered")]
    Recovering,
    /// A journal failed or broke a rule: no group answers until the next start (rules F1, F7).
    #[error("the groups are stopped: {cause}")]
    Stopped {
        /// Why.
        cause: String,
    },
    /// The journal is damaged (rule G6).
    #[error("the group journal is damaged: {what}; `sawlog group recover` goes back to the last good state")]
    JournalCorrupt {
        /// What was found.
        what: String,
        /// First bad offset.
        first_bad: Offset,
    },
    /// The broker is shutting down.
    #[error("shutting down")]
    ShuttingDown,
    /// A dead letter, or a record of the source, cannot be read now.
    #[error("reading failed: {what}")]
    Read {
        /// Why.
        what: String,
    },
    /// Something of the request is out of its bounds.
    #[error("{field} is {found}; it must be {bounds}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        bounds: String,
    },
}
