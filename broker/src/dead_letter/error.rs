//! Why a call about dead letters failed.

use super::views::JobId;
use crate::group::effect::Refusal;
use crate::group::entry::{EntryKey, EntryState};
use crate::topics::TopicError;

/// Why a call about dead letters failed; every case has a reason on the wire.
#[derive(Debug, thiserror::Error)]
pub enum LetterError {
    /// No such entry.
    #[error("there is no such dead letter")]
    EntryNotFound {
        /// Which.
        key: EntryKey,
    },
    /// The entry is not open (rule RD-6).
    #[error("the dead letter is {state:?}")]
    EntryClosed {
        /// Which.
        key: EntryKey,
        /// Its state.
        state: EntryState,
    },
    /// Nothing blocks the key.
    #[error("no record blocks this key")]
    NoHead,
    /// A job has it (rules RD-1, RD-6).
    #[error("job {job} has it")]
    JobConflict {
        /// The job.
        job: JobId,
    },
    /// No such job.
    #[error("job {job} does not exist")]
    JobNotFound {
        /// The job.
        job: JobId,
    },
    /// The job has ended.
    #[error("job {job} is {state}")]
    JobClosed {
        /// The job.
        job: JobId,
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
    /// The entry has another number of versions than was seen.
    #[error("the dead letter has {current} versions, given was {given}")]
    StaleVersion {
        /// Given.
        given: u32,
        /// Current.
        current: u32,
    },
    /// The copy, and the record in the source, cannot be read now.
    #[error("reading the dead letter failed: {what}")]
    Read {
        /// Why.
        what: String,
    },
    /// The new version could not be written.
    #[error(transparent)]
    Append(#[from] crate::partition::AppendFailure),
    /// Something about a topic.
    #[error(transparent)]
    Topic(#[from] TopicError),
    /// The group refused.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The groups are stopped, or the group was deleted meanwhile.
    #[error("the groups are stopped: {cause}")]
    Stopped {
        /// Why.
        cause: String,
    },
    /// Shutting down.
    #[error("shutting down")]
    ShuttingDown,
}
