//! Failures about dead letters and their jobs.

use sawlog_proto::v1::ErrorReason;

use super::{Problem, append_failure, entry_not_found, invalid_field, job_not_found, shutting_down};
use crate::coordinator::types::EntryKey;
use crate::dead_letter::LetterError;

/// A failed call about dead letters; `id` gives the id of an entry.
pub(crate) fn letter(id: &dyn Fn(&EntryKey) -> String, error: LetterError) -> Problem {
    match &error {
        LetterError::EntryNotFound { key } => entry_not_found(&id(key)),
        LetterError::EntryClosed { key, .. } => {
            let dlq_id = id(key);
            Problem::from(error).fact("dlq_id", dlq_id)
        }
        _ => error.into(),
    }
}

impl From<LetterError> for Problem {
    fn from(error: LetterError) -> Self {
        use ErrorReason as R;
        let message = error.to_string();
        let new = |reason| Self::new(reason, message.clone());
        match error {
            LetterError::EntryNotFound { .. } | LetterError::NoHead => new(R::EntryNotFound),
            LetterError::EntryClosed { state, .. } => {
                new(R::EntryClosed).fact("state", super::groups::state_name(state))
            }
            LetterError::JobConflict { job } => new(R::JobConflict).fact("job", job),
            LetterError::JobNotFound { job } => job_not_found(&job.to_string()),
            LetterError::JobClosed { job, state } => new(R::JobClosed).fact("job", job).fact("state", state),
            LetterError::Limit { limit, max } => new(R::LimitReached).fact("limit", limit).fact("max", max),
            LetterError::Invalid { field, found, bounds } => invalid_field(field, found, &bounds),
            LetterError::StaleVersion { given, current } => {
                new(R::StaleRevision).fact("given", given).fact("current", current)
            }
            LetterError::Read { what } => new(R::ReadFailed).fact("cause", what),
            LetterError::Append(failure) => append_failure(failure).0,
            LetterError::Topic(error) => error.into(),
            LetterError::Refused(refusal) => refusal.into(),
            LetterError::Stopped { cause } => new(R::GroupsStopped).fact("cause", cause),
            LetterError::ShuttingDown => shutting_down(),
        }
    }
}
