//! The only map from errors to gRPC codes, reasons, facts and retry advice.
//!
//! Every failure that a client is told becomes a [`Problem`] first and leaves as a status with `google.rpc` details
//! or as a [`Failure`] inside a body, with the same reason and facts in both. Every one is counted by its reason.
//! It must not know of requests in flight, sockets or files.

mod groups;
mod letters;
mod refusals;
mod topics;

use std::collections::HashMap;
use std::time::Duration;

use sawlog_proto::batch::BatchError;
use sawlog_proto::v1::{ErrorReason, Failure};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::metrics::Metrics;
use crate::model::NameError;
use crate::partition::{AppendFailure, PartitionReadError, ReadError};

pub(crate) use self::groups::{entry_not_found, group_not_found, job_not_found, protocol_violation, wrong_mode};
pub(crate) use self::letters::letter;
pub(crate) use self::refusals::{admit, record_refusal};

/// Domain of every `google.rpc.ErrorInfo` of ours.
pub const DOMAIN: &str = "sawlog";
/// What `retry_after` says where a call may succeed soon.
const SOON: Duration = Duration::from_millis(100);
/// What it says where someone or something must act first.
const LATER: Duration = Duration::from_secs(1);

/// What became of the records of a failed produce: the fact `outcome`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// Nothing of it is in the log.
    NotWritten,
    /// It may be in the log or not.
    Unknown,
}

/// A failure on its way to a client.
#[derive(Debug, Clone)]
pub(crate) struct Problem {
    reason: ErrorReason,
    message: String,
    facts: Vec<(&'static str, String)>,
}

/// The name of a reason on the wire, without its prefix.
pub(crate) fn reason_name(reason: ErrorReason) -> &'static str {
    let name = reason.as_str_name();
    name.strip_prefix("ERROR_REASON_").unwrap_or(name)
}

/// The canonical code of a reason.
pub(crate) fn code_of(reason: ErrorReason) -> Code {
    use ErrorReason as R;
    match reason {
        R::Unspecified | R::Bug => Code::Internal,
        R::TopicNotFound | R::PartitionNotFound | R::GroupNotFound | R::EntryNotFound | R::JobNotFound => {
            Code::NotFound
        }
        R::TopicExists | R::GroupExists | R::DlqNameTaken | R::EventIdConflict => Code::AlreadyExists,
        R::InvalidName
        | R::InvalidField
        | R::ProtocolViolation
        | R::KeyRequired
        | R::WrongPartition
        | R::RecordTooLarge
        | R::KeyTooLarge
        | R::HeadersTooLarge
        | R::BatchTooLarge
        | R::InvalidBatch
        | R::UnsupportedCodec
        | R::InvalidTimestamp => Code::InvalidArgument,
        R::OffsetOutOfRange => Code::OutOfRange,
        R::AckBelowFloor
        | R::ReservedTopic
        | R::UnknownProducer
        | R::SeqGap
        | R::SeqTooOld
        | R::GroupMismatch
        | R::WrongMode
        | R::CommitBackwards
        | R::GapNotAccepted
        | R::NothingToUndo
        | R::EntryClosed
        | R::JobClosed
        | R::OpenEntries
        | R::JobConflict
        | R::RebuildNotReady
        | R::CursorOfAnotherLog
        | R::TokenOfAnotherLog => Code::FailedPrecondition,
        R::Fenced | R::ProducerFenced | R::InstanceReplaced | R::StaleRevision | R::NotWritten => Code::Aborted,
        R::LimitReached | R::InFlightLimit | R::DiskLow => Code::ResourceExhausted,
        R::Recovering
        | R::ShuttingDown
        | R::PartitionFenced
        | R::GroupsStopped
        | R::BrokerReadOnly
        | R::WriteFailed
        | R::ReadFailed
        | R::NotLeader => Code::Unavailable,
        R::RequestTimeout | R::SlowReader => Code::DeadlineExceeded,
        R::CorruptSegment | R::Undecodable | R::JournalCorrupt => Code::DataLoss,
    }
}

/// How long to wait before the same call; `None`: never the same call.
fn retry_after(reason: ErrorReason) -> Option<Duration> {
    use ErrorReason as R;
    match reason {
        R::InFlightLimit | R::Recovering | R::WriteFailed | R::ReadFailed | R::RequestTimeout | R::SlowReader => {
            Some(SOON)
        }
        R::DiskLow | R::ShuttingDown | R::PartitionFenced | R::GroupsStopped | R::BrokerReadOnly | R::NotLeader => {
            Some(LATER)
        }
        _ => None,
    }
}

impl Problem {
    pub(crate) fn new(reason: ErrorReason, message: impl Into<String>) -> Self {
        Self { reason, message: message.into(), facts: Vec::new() }
    }

    /// The sentence for people.
    pub(crate) fn message(&self) -> &str {
        &self.message
    }

    /// With one fact more.
    pub(crate) fn fact(mut self, key: &'static str, value: impl ToString) -> Self {
        self.facts.push((key, value.to_string()));
        self
    }

    /// With what became of the records.
    pub(crate) fn outcome(self, outcome: Outcome) -> Self {
        self.fact(
            "outcome",
            match outcome {
                Outcome::NotWritten => "not_written",
                Outcome::Unknown => "unknown",
            },
        )
    }

    #[cfg(test)]
    pub(crate) fn reason(&self) -> ErrorReason {
        self.reason
    }

    /// As a failure inside a body.
    pub(crate) fn into_failure(self, metrics: &Metrics) -> Failure {
        metrics.count_error(reason_name(self.reason));
        Failure {
            reason: self.reason.into(),
            message: self.message,
            facts: self.facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect(),
            retry_after_ms: retry_after(self.reason).map(|after| after.as_millis() as i64),
        }
    }

    /// What was not found, by kind and name.
    fn resource(&self) -> (&'static str, String) {
        let fact = |wanted: &str| self.facts.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.as_str());
        let named = |keys: [&str; 2]| keys.into_iter().find_map(fact).unwrap_or_default().to_owned();
        match (self.reason, fact("partition")) {
            (ErrorReason::GroupNotFound, _) => ("group", named(["group", "group_id"])),
            (ErrorReason::EntryNotFound, _) => ("dead letter", named(["dlq_id", "group"])),
            (ErrorReason::JobNotFound, _) => ("job", named(["job", "group"])),
            (_, Some(partition)) => ("partition", format!("{}/{partition}", named(["topic", "topic_id"]))),
            _ => ("topic", named(["topic", "topic_id"])),
        }
    }

    /// From what the transport says of a client's stream: it sent what is no message, or went.
    pub(crate) fn from_client(status: Status) -> Self {
        let message = format!("the stream of requests ended: {}", escaped(status.message()));
        Self::new(ErrorReason::ProtocolViolation, message)
            .fact("frame", "message")
            .fact("rule", "must be whole messages")
    }

    /// As the status of a call.
    pub(crate) fn into_status(self, metrics: &Metrics) -> Status {
        metrics.count_error(reason_name(self.reason));
        let code = code_of(self.reason);
        let mut details = ErrorDetails::new();
        if let Some(after) = retry_after(self.reason) {
            details.set_retry_info(Some(after));
        }
        let fact = |wanted: &str| self.facts.iter().find(|(key, _)| *key == wanted).map(|(_, value)| value.clone());
        if code == Code::InvalidArgument
            && let Some(field) = fact("field")
        {
            details.add_bad_request_violation(field, self.message.clone());
        }
        if code == Code::NotFound {
            let (kind, name) = self.resource();
            details.set_resource_info(kind, name, "", self.message.clone());
        }
        let facts: HashMap<String, String> =
            self.facts.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
        details.set_error_info(reason_name(self.reason), DOMAIN, facts);
        Status::with_error_details(code, self.message, details)
    }
}

/// A name with everything escaped that could harm a log or a terminal, and cut to a bearable length.
pub(crate) fn escaped(name: &str) -> String {
    name.chars().take(2 * crate::limits::NAME_BYTES).flat_map(char::escape_default).collect()
}

pub(crate) fn topic_not_found(name: &str) -> Problem {
    let name = escaped(name);
    let message = format!("there is no topic {name}; create it, or check the name");
    Problem::new(ErrorReason::TopicNotFound, message).fact("topic", name)
}

pub(crate) fn topic_id_not_found(name: &str, id: &str) -> Problem {
    let message = format!("topic {} has another id than {}: it was made anew", escaped(name), escaped(id));
    Problem::new(ErrorReason::TopicNotFound, message).fact("topic_id", escaped(id)).fact("topic", escaped(name))
}

pub(crate) fn partition_not_found(topic: &str, partition: u32, partitions: u32) -> Problem {
    let message = format!("topic {topic} has {partitions} partitions, numbered from 0; there is no {partition}");
    Problem::new(ErrorReason::PartitionNotFound, message)
        .fact("topic", topic)
        .fact("partition", partition)
        .fact("partitions", partitions)
}

pub(crate) fn invalid_name(field: &'static str, name: &str, rule: NameError) -> Problem {
    let name = escaped(name);
    let message = format!("{field} {name:?}: {rule}");
    Problem::new(ErrorReason::InvalidName, message).fact("field", field).fact("name", name).fact("rule", rule)
}

pub(crate) fn invalid_field(field: &str, found: impl ToString, bounds: &str) -> Problem {
    let found = escaped(&found.to_string());
    let message = format!("{field}: found {found}, must be {bounds}");
    Problem::new(ErrorReason::InvalidField, message).fact("field", field).fact("found", found).fact("bounds", bounds)
}

pub(crate) fn shutting_down() -> Problem {
    Problem::new(ErrorReason::ShuttingDown, "the broker is shutting down; connect again in a moment")
        .fact("reconnect_after_ms", LATER.as_millis())
}

pub(crate) fn request_timeout(waited: Duration) -> Problem {
    let waited = waited.as_millis();
    Problem::new(ErrorReason::RequestTimeout, format!("the request was not done after {waited} ms"))
        .fact("waited_ms", waited)
}

pub(crate) fn in_flight_limit(scope: &'static str, bytes: usize, max: usize) -> Problem {
    let message = format!("{bytes} bytes more would exceed the {max} that may be in flight; send again in a moment");
    Problem::new(ErrorReason::InFlightLimit, message).fact("scope", scope).fact("bytes", bytes).fact("max", max)
}

pub(crate) fn bug(error_id: &str) -> Problem {
    let message = format!("a defect of the broker ended this request; its log has it under {error_id}");
    Problem::new(ErrorReason::Bug, message).fact("error_id", error_id)
}

fn disk_low(message: String, free_bytes: u64, min_free_bytes: u64) -> Problem {
    Problem::new(ErrorReason::DiskLow, message).fact("free_bytes", free_bytes).fact("min_free_bytes", min_free_bytes)
}

/// The problem, without topic and partition, and what became of the records.
fn append_failure(failure: AppendFailure) -> (Problem, Outcome) {
    use ErrorReason as R;
    let message = failure.to_string();
    let mut outcome = Outcome::NotWritten;
    let problem = match failure {
        AppendFailure::SequenceGap { producer_id, expected, found } => Problem::new(R::SeqGap, message)
            .fact("producer_id", producer_id)
            .fact("expected", expected)
            .fact("found", found),
        AppendFailure::SequenceTooOld { producer_id, found, oldest } => {
            // What fell out of the memory may well have been written before.
            outcome = Outcome::Unknown;
            Problem::new(R::SeqTooOld, message)
                .fact("producer_id", producer_id)
                .fact("found", found)
                .fact("oldest", oldest)
        }
        AppendFailure::UnknownProducer { producer_id } => {
            Problem::new(R::UnknownProducer, message).fact("producer_id", producer_id)
        }
        AppendFailure::ProducerFenced { producer_id, found, current } => Problem::new(R::ProducerFenced, message)
            .fact("producer_id", producer_id)
            .fact("found", found)
            .fact("current", current),
        AppendFailure::Fenced { durable_end, cause, outcome_unknown } => {
            if outcome_unknown {
                outcome = Outcome::Unknown;
            }
            Problem::new(R::PartitionFenced, message).fact("durable_end", durable_end).fact("cause", cause)
        }
        AppendFailure::WriteFailed { errno, what } => {
            let problem = Problem::new(R::WriteFailed, message).fact("what", what);
            match errno {
                Some(errno) => problem.fact("errno", errno),
                None => problem,
            }
        }
        AppendFailure::DiskLow { free_bytes, min_free_bytes } => disk_low(message, free_bytes, min_free_bytes),
        AppendFailure::BrokerReadOnly { cause } => Problem::new(R::BrokerReadOnly, message).fact("cause", cause),
        AppendFailure::ShuttingDown => shutting_down(),
        AppendFailure::Recovering => Problem::new(R::Recovering, message).fact("scope", "partition"),
        AppendFailure::EventIds => Problem::new(R::NotWritten, message).fact("cause", "a repeat in the batch"),
    };
    (problem, outcome)
}

/// A refused or failed append to a partition.
pub(crate) fn append(topic: &str, partition: u32, failure: AppendFailure) -> Problem {
    let (problem, outcome) = append_failure(failure);
    problem.fact("topic", topic).fact("partition", partition).outcome(outcome)
}

/// The name of a level as it stands in facts.
pub(crate) fn level_name(level: crate::model::AckLevel) -> &'static str {
    match level {
        crate::model::AckLevel::Written => "written",
        crate::model::AckLevel::Durable => "durable",
    }
}

/// A read that failed; `offset` is where it stood.
pub(crate) fn read(topic: &str, partition: u32, offset: u64, error: &PartitionReadError) -> Problem {
    use ErrorReason as R;
    let problem = match error {
        PartitionReadError::Log(ReadError::OutOfRange { offset, start, end }) => {
            out_of_range(topic, partition, offset.get(), start.get(), end.get())
        }
        PartitionReadError::Log(ReadError::Corrupt(corruption)) => {
            // The file's name stays here: it says nothing to a client.
            let message = format!(
                "stored bytes are damaged from offset {} on; read with skip_damaged to go past them",
                corruption.first_bad
            );
            let problem = Problem::new(R::CorruptSegment, message).fact("first_bad_offset", corruption.first_bad);
            match corruption.next_good {
                Some(next) => problem.fact("next_good_offset", next),
                None => problem,
            }
        }
        PartitionReadError::Log(ReadError::Io { source, .. }) => {
            let problem =
                Problem::new(R::ReadFailed, format!("the device could not be read: {source}")).fact("offset", offset);
            match source.raw_os_error() {
                Some(errno) => problem.fact("errno", errno),
                None => problem,
            }
        }
        PartitionReadError::Log(ReadError::WouldBlock) => {
            Problem::new(R::ReadFailed, "the read would have to wait for the device").fact("offset", offset)
        }
        PartitionReadError::Stale { epoch, offset, truncated_at } => {
            Problem::new(R::OffsetOutOfRange, error.to_string())
                .fact("offset", offset)
                .fact("epoch", epoch)
                .fact("truncated_at", truncated_at)
        }
        PartitionReadError::Recovering => {
            Problem::new(R::Recovering, "the partition is being recovered").fact("scope", "partition")
        }
    };
    if problem.facts.iter().any(|(key, _)| *key == "topic") {
        return problem;
    }
    problem.fact("topic", topic).fact("partition", partition)
}

/// A partition that could not be opened (rule F7).
pub(crate) fn partition_closed(topic: &str, partition: u32, cause: &str) -> Problem {
    let message = format!("partition {topic}/{partition} could not be opened: {cause}; repair it and restart");
    Problem::new(ErrorReason::PartitionFenced, message)
        .fact("topic", topic)
        .fact("partition", partition)
        .fact("durable_end", 0)
        .fact("cause", cause)
}

pub(crate) fn out_of_range(topic: &str, partition: u32, offset: u64, earliest: u64, latest: u64) -> Problem {
    let message = format!("offset {offset} of {topic}/{partition} is not in the log, which has {earliest} to {latest}");
    Problem::new(ErrorReason::OffsetOutOfRange, message)
        .fact("topic", topic)
        .fact("partition", partition)
        .fact("offset", offset)
        .fact("earliest", earliest)
        .fact("latest", latest)
}

pub(crate) fn undecodable(
    topic: &str,
    partition: u32,
    range: crate::model::OffsetRange,
    error: &BatchError,
) -> Problem {
    let message = format!("the batch at offset {} cannot be decoded ({error}); read it as raw batches", range.from);
    Problem::new(ErrorReason::Undecodable, message)
        .fact("topic", topic)
        .fact("partition", partition)
        .fact("first_offset", range.from)
        .fact("last_offset", range.to.saturating_sub(1))
}

pub(crate) fn slow_reader(buffered_bytes: usize, stalled: Duration) -> Problem {
    let stalled_ms = stalled.as_millis();
    let message = format!("nothing was read for {stalled_ms} ms; read faster, or from the last position again");
    Problem::new(ErrorReason::SlowReader, message).fact("buffered_bytes", buffered_bytes).fact("stalled_ms", stalled_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Offset;

    #[test]
    fn every_reason_has_its_name_and_a_code_that_is_not_ok() {
        for number in 0..=120 {
            let Ok(reason) = ErrorReason::try_from(number) else { continue };
            assert_ne!(code_of(reason), Code::Ok);
            assert!(!reason_name(reason).starts_with("ERROR_REASON"), "{}", reason_name(reason));
        }
    }

    #[test]
    fn a_status_and_a_failure_carry_the_same_reason_facts_and_retry_advice() {
        let metrics = Metrics::new(false);
        let fenced = AppendFailure::Fenced { durable_end: Offset::ZERO, cause: "EIO".into(), outcome_unknown: true };
        let problem = append("orders", 3, fenced);
        let failure = problem.clone().into_failure(&metrics);
        let status = problem.into_status(&metrics);
        assert_eq!(status.code(), Code::Unavailable);
        let info = status.get_details_error_info().expect("an ErrorInfo");
        assert_eq!((info.reason.as_str(), info.domain.as_str()), ("PARTITION_FENCED", "sawlog"));
        assert_eq!(info.metadata, failure.facts);
        assert_eq!(failure.facts["outcome"], "unknown");
        assert_eq!(failure.reason(), ErrorReason::PartitionFenced);
        let retry = status.get_details_retry_info().and_then(|info| info.retry_delay).expect("a delay");
        assert_eq!(failure.retry_after_ms, Some(retry.as_millis() as i64));
        assert!(metrics.encode().contains("sawlog_errors_total{reason=\"PARTITION_FENCED\"} 2"));
    }

    #[test]
    fn names_are_escaped_and_cut_before_they_go_anywhere() {
        assert_eq!(escaped("a\u{1b}[31m\n"), "a\\u{1b}[31m\\n");
        assert!(escaped(&"x".repeat(1 << 20)).len() < 1_000);
        let metrics = Metrics::new(false);
        let status = invalid_name("name", "../x", NameError::Character).into_status(&metrics);
        let violations = status.get_details_bad_request().expect("a BadRequest").field_violations;
        assert_eq!(violations[0].field, "name");
        let status = topic_not_found("orders").into_status(&metrics);
        assert_eq!(status.get_details_resource_info().expect("a ResourceInfo").resource_name, "orders");
    }
}
