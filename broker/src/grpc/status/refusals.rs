//! What was refused before it reached a partition: records, parts, ready batches.

use sawlog_proto::batch::BatchError;
use sawlog_proto::v1::ErrorReason;

use super::{Outcome, Problem, invalid_field, level_name};
use crate::partition::admit::{AdmitError, RecordRefusal};

/// A record that was refused; `index` is its place in the request.
pub(crate) fn record_refusal(topic: &str, index: u32, hash_version: u32, refusal: &RecordRefusal) -> Problem {
    use ErrorReason as R;
    let message = refusal.to_string();
    let problem = match *refusal {
        RecordRefusal::KeyRequired => Problem::new(R::KeyRequired, message),
        RecordRefusal::WrongPartition { expected, found } => Problem::new(R::WrongPartition, message)
            .fact("partition", found)
            .fact("key_partition", expected)
            .fact("hash_version", hash_version),
        RecordRefusal::NoPartition { found, partitions } => {
            Problem::new(R::PartitionNotFound, message).fact("partition", found).fact("partitions", partitions)
        }
        RecordRefusal::RecordTooLarge { found, max } => {
            Problem::new(R::RecordTooLarge, message).fact("found", found).fact("max", max)
        }
        RecordRefusal::KeyTooLarge { found, max } => {
            Problem::new(R::KeyTooLarge, message).fact("found", found).fact("max", max)
        }
        RecordRefusal::HeadersTooLarge { count, bytes, max_count, max_bytes } => {
            Problem::new(R::HeadersTooLarge, message)
                .fact("found", if count > max_count { count } else { bytes })
                .fact("max", if count > max_count { max_count } else { max_bytes })
                .fact("unit", if count > max_count { "headers" } else { "bytes" })
        }
        RecordRefusal::Envelope { header, ref found } => {
            let bounds = "text of 1 to 255 bytes";
            Problem::new(R::InvalidField, message).fact("field", header).fact("found", found).fact("bounds", bounds)
        }
        RecordRefusal::InvalidTimestamp { found, max } => {
            Problem::new(R::InvalidTimestamp, message).fact("timestamp_ms", found).fact("max_ms", max)
        }
    };
    problem.fact("topic", topic).fact("index", index).outcome(Outcome::NotWritten)
}

/// A request, part or ready batch that was refused.
pub(crate) fn admit(topic: &str, error: &AdmitError) -> Problem {
    use ErrorReason as R;
    let message = error.to_string();
    let problem = match error {
        AdmitError::AckBelowFloor { floor, asked } => {
            Problem::new(R::AckBelowFloor, message).fact("asked", level_name(*asked)).fact("floor", level_name(*floor))
        }
        AdmitError::TooLarge { unit, found, max } => {
            Problem::new(R::BatchTooLarge, message).fact("unit", unit).fact("found", found).fact("max", max)
        }
        AdmitError::Empty => return invalid_field("records", 0, "at least one").outcome(Outcome::NotWritten),
        AdmitError::NoPartition { found, partitions } => {
            Problem::new(R::PartitionNotFound, message).fact("partition", found).fact("partitions", partitions)
        }
        AdmitError::Batch(error) => batch(*error),
        AdmitError::Stale { what, current, found } => {
            Problem::new(R::StaleRevision, message).fact("what", what).fact("current", current).fact("found", found)
        }
        AdmitError::Records(refused) => {
            let problem = Problem::new(R::NotWritten, message);
            match refused.first() {
                Some((index, refusal)) => problem.fact("cause", refusal).fact("index", index),
                None => problem,
            }
        }
    };
    problem.fact("topic", topic).outcome(Outcome::NotWritten)
}

fn batch(error: BatchError) -> Problem {
    use ErrorReason as R;
    let message = error.to_string();
    let sized = |reason, index: u32, found: u64, max: u64| {
        Problem::new(reason, message.clone()).fact("index", index).fact("found", found).fact("max", max)
    };
    match error {
        BatchError::Invalid { what, index, expected, found } => {
            let problem = Problem::new(R::InvalidBatch, message.clone())
                .fact("what", what)
                .fact("expected", expected)
                .fact("found", found);
            match index {
                Some(index) => problem.fact("index", index),
                None => problem,
            }
        }
        BatchError::UnsupportedCodec { codec } => Problem::new(R::UnsupportedCodec, message)
            .fact("codec", codec)
            .fact("known", sawlog_proto::batch::Codec::KNOWN),
        BatchError::TooLarge { bound, found, max } => {
            Problem::new(R::BatchTooLarge, message).fact("unit", bound).fact("found", found).fact("max", max)
        }
        BatchError::RecordTooLarge { index, found, max } => sized(R::RecordTooLarge, index, found, max),
        BatchError::KeyTooLarge { index, found, max } => sized(R::KeyTooLarge, index, found, max),
        BatchError::TooManyHeaders { index, found, max } => {
            sized(R::HeadersTooLarge, index, found, max).fact("unit", "headers")
        }
        BatchError::HeadersTooLarge { index, found, max } => {
            sized(R::HeadersTooLarge, index, found, max).fact("unit", "bytes")
        }
    }
}
