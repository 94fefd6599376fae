//! Failures about groups, members and dead letters.

use sawlog_proto::v1::ErrorReason;

use super::{Problem, escaped, invalid_field, invalid_name, out_of_range, shutting_down};
use crate::coordinator::GroupError;
use crate::coordinator::types::{EntryState, Refusal};

/// A frame that the protocol does not allow here; ends the stream (rule GM-1).
pub(crate) fn protocol_violation(frame: &'static str, rule: &'static str) -> Problem {
    Problem::new(ErrorReason::ProtocolViolation, format!("{frame}: {rule}")).fact("frame", frame).fact("rule", rule)
}

/// Another mode's verb (rule GM-2).
pub(crate) fn wrong_mode(group: &str, mode: impl std::fmt::Debug, verb: &'static str) -> Problem {
    let mode = format!("{mode:?}").to_uppercase();
    Problem::new(ErrorReason::WrongMode, format!("{verb} is not for a group of mode {mode}"))
        .fact("group", group)
        .fact("mode", mode)
        .fact("verb", verb)
}

pub(crate) fn group_not_found(group: &str) -> Problem {
    let group = escaped(group);
    let message = format!("there is no group {group}; create it, or check the name");
    Problem::new(ErrorReason::GroupNotFound, message).fact("group", group)
}

pub(crate) fn entry_not_found(dlq_id: &str) -> Problem {
    let dlq_id = escaped(dlq_id);
    Problem::new(ErrorReason::EntryNotFound, format!("there is no dead-letter entry {dlq_id}")).fact("dlq_id", dlq_id)
}

pub(crate) fn job_not_found(job: &str) -> Problem {
    let job = escaped(job);
    Problem::new(ErrorReason::JobNotFound, format!("there is no job {job}")).fact("job", job)
}

/// The name of an entry's state, as it stands in facts.
pub(super) fn state_name(state: EntryState) -> &'static str {
    match state {
        EntryState::Open => "OPEN",
        EntryState::Spilled => "SPILLED",
        EntryState::Resolved { .. } => "RESOLVED",
        EntryState::Discarded => "DISCARDED",
        EntryState::Moved => "MOVED",
        EntryState::Cleared => "CLEARED",
        EntryState::Expired => "EXPIRED",
    }
}

impl From<GroupError> for Problem {
    fn from(error: GroupError) -> Self {
        use ErrorReason as R;
        let message = error.to_string();
        let new = |reason| Self::new(reason, message.clone());
        match error {
            GroupError::NotFound { group } => group_not_found(&group),
            GroupError::Exists { group, fields } => {
                new(R::GroupExists).fact("name", group).fact("fields", fields.join(", "))
            }
            GroupError::DlqNameTaken { group, topic, name } => {
                new(R::DlqNameTaken).fact("group", group).fact("topic", topic).fact("name", name)
            }
            GroupError::InvalidName { field, name, rule } => invalid_name(field, &name, rule),
            GroupError::Config(error) => invalid_field(error.field, error.found, &error.bounds),
            GroupError::Mismatch { field, actual, expected } => {
                new(R::GroupMismatch).fact("field", field).fact("actual", actual).fact("expected", expected)
            }
            GroupError::WrongMode { group, mode, verb } => wrong_mode(&group, mode, verb),
            GroupError::StaleRevision { group, given, current } => {
                new(R::StaleRevision).fact("group", group).fact("given", given).fact("current", current)
            }
            GroupError::OutOfRange { topic, partition, offset, earliest, latest } => {
                out_of_range(&topic, partition.0, offset.get(), earliest.get(), latest.get())
            }
            GroupError::GapNotAccepted { topic, partition, range, reason } => new(R::GapNotAccepted)
                .fact("topic", topic)
                .fact("partition", partition.0)
                .fact("from", range.from)
                .fact("to", range.to)
                .fact("gap_reason", format!("{reason:?}").to_uppercase()),
            GroupError::OpenEntries { what, open } => new(R::OpenEntries).fact("name", what).fact("open_entries", open),
            GroupError::JobConflict { what, job, open } => {
                new(R::JobConflict).fact("name", what).fact("job", job).fact("open_entries", open)
            }
            GroupError::ReplayConflict { replay } => new(R::JobConflict).fact("job", replay),
            GroupError::RebuildConflict { rebuild } => new(R::JobConflict).fact("job", rebuild),
            GroupError::RebuildNotReady { group, version, lag } => {
                let new = new(R::RebuildNotReady).fact("group", group).fact("version", version);
                new.fact("lag", lag).fact("budget", "caught up")
            }
            GroupError::JobNotFound { job } => job_not_found(&job),
            GroupError::JobClosed { job, state } => new(R::JobClosed).fact("job", job).fact("state", state),
            GroupError::Limit { limit, max } => new(R::LimitReached).fact("limit", limit).fact("max", max),
            GroupError::Refused(refusal) => refusal.into(),
            GroupError::Topic(error) => error.into(),
            GroupError::Recovering => new(R::Recovering).fact("scope", "groups"),
            GroupError::Stopped { cause } => new(R::GroupsStopped).fact("cause", cause),
            GroupError::JournalCorrupt { what, first_bad } => {
                new(R::JournalCorrupt).fact("cause", what).fact("first_bad_offset", first_bad)
            }
            GroupError::ShuttingDown => shutting_down(),
            GroupError::Read { what } => new(R::ReadFailed).fact("cause", what),
            GroupError::Invalid { field, found, bounds } => invalid_field(field, found, &bounds),
        }
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Self {
        use ErrorReason as R;
        let message = refusal.to_string();
        let new = |reason| Self::new(reason, message.clone());
        match refusal {
            Refusal::WrongMode { verb } => new(R::WrongMode).fact("verb", verb),
            Refusal::Fenced { source_partition, slots, given, current } => new(R::Fenced)
                .fact("topic_id", source_partition.topic)
                .fact("partition", source_partition.partition.0)
                .fact("slots", slots)
                .fact("epoch", given)
                .fact("current", current),
            Refusal::SessionOver => new(R::Fenced).fact("unit", "all"),
            Refusal::InstanceReplaced { instance } => new(R::InstanceReplaced).fact("instance_id", escaped(&instance)),
            Refusal::Limit { limit, max } => new(R::LimitReached).fact("limit", limit).fact("max", max),
            Refusal::OutOfRange { source_partition, offset, earliest, latest } => new(R::OffsetOutOfRange)
                .fact("topic_id", source_partition.topic)
                .fact("partition", source_partition.partition.0)
                .fact("offset", offset)
                .fact("earliest", earliest)
                .fact("latest", latest),
            Refusal::CursorCut(source, cut) => {
                let problem = new(R::OffsetOutOfRange).fact("topic_id", source.topic);
                let problem = problem.fact("partition", source.partition.0).fact("offset", cut.next);
                let problem = problem.fact("epoch", cut.record_epoch.get()).fact("truncated_at", cut.at);
                problem.fact("gap_accepted", cut.accepted.is_some())
            }
            Refusal::CommitBackwards { source_partition, current, asked } => new(R::CommitBackwards)
                .fact("topic_id", source_partition.topic)
                .fact("partition", source_partition.partition.0)
                .fact("current", current)
                .fact("asked", asked),
            Refusal::NothingToUndo => new(R::NothingToUndo),
            Refusal::EntryNotFound => new(R::EntryNotFound),
            Refusal::EntryClosed { state, .. } => new(R::EntryClosed).fact("state", state_name(state)),
            Refusal::JobConflict { job } => new(R::JobConflict).fact("job", job),
            Refusal::Invalid { field, found, bounds } => invalid_field(field, found, &bounds),
            Refusal::ReplayConflict { number } => new(R::JobConflict).fact("job", number),
            Refusal::ReplayOver { number, state } => new(R::JobClosed).fact("job", number).fact("state", state),
            Refusal::Deleted => new(R::GroupNotFound),
            Refusal::Retired { active } => new(R::GroupMismatch).fact("field", "version").fact("actual", active),
            Refusal::NoDeadLetters => {
                new(R::InvalidField).fact("field", "kind").fact("bounds", "a group with dead letters")
            }
        }
    }
}
