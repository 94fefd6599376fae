//! Checks before an append: plain records become batches, ready batches are proved (rules PR-1, PR-2, PR-3, PR-11,
//! PR-13). Pure: bytes and `now` in, checked batches or refusals out.
//!
//! It must not know of messages, partitions' state or the clock.

use bytes::Bytes;
use sawlog_proto::batch::Codec;

use super::{CheckedBatch, RequestStamp};
use crate::model::{AckLevel, PartitionId};

/// The rules of a topic that concern what may be appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AdmitRules {
    /// Partitions of the topic, at least 1.
    pub partitions: u32,
    /// Whether each record must have a key, which chooses its partition.
    pub keyed: bool,
    /// Version of the function from key to partition.
    pub hash_version: u32,
    /// Current revision of the topic.
    pub revision: u64,
    /// The least level of acknowledgement.
    pub ack_floor: AckLevel,
    /// Whether uncompressed ready batches are walked record by record (`validate = full`).
    pub deep: bool,
    /// Largest record in bytes: key, value and headers.
    pub max_record_bytes: u64,
}

/// A plain record as its caller holds it.
pub trait RecordView {
    /// The key; absent is not empty.
    fn key(&self) -> Option<&[u8]>;
    /// The value; absent is a tombstone.
    fn value(&self) -> Option<&[u8]>;
    /// Headers in order.
    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])>;
    /// Event time in milliseconds since 1970; `None`: the time of the append.
    fn timestamp_ms(&self) -> Option<i64>;
    /// The partition wished for.
    fn partition(&self) -> Option<u32>;
}

/// Why one record is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RecordRefusal {
    /// A keyed topic takes no record without a key.
    #[error("the topic is keyed: each record needs a key")]
    KeyRequired,
    /// The key belongs to another partition.
    #[error("the key belongs to partition {expected}, not {found}")]
    WrongPartition {
        /// Partition of the key.
        expected: u32,
        /// Partition named.
        found: u32,
    },
    /// There is no such partition.
    #[error("partition {found} does not exist: the topic has {partitions}")]
    NoPartition {
        /// Partition named.
        found: u32,
        /// Partitions of the topic.
        partitions: u32,
    },
    /// Key, value and headers together are too large.
    #[error("the record has {found} bytes, at most {max} are allowed")]
    RecordTooLarge {
        /// Bytes found.
        found: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The key is too large.
    #[error("the key has {found} bytes, at most {max} are allowed")]
    KeyTooLarge {
        /// Bytes found.
        found: u64,
        /// Bytes allowed.
        max: u64,
    },
    /// The headers are too many or too large.
    #[error("the headers are {count} with {bytes} bytes, at most {max_count} with {max_bytes} are allowed")]
    HeadersTooLarge {
        /// Headers found.
        count: u64,
        /// Their bytes, names and values.
        bytes: u64,
        /// Headers allowed.
        max_count: u64,
        /// Bytes allowed.
        max_bytes: u64,
    },
    /// The time is negative or too far in the future.
    #[error("the time {found} ms is not between 0 and {max} ms")]
    InvalidTimestamp {
        /// Time found.
        found: i64,
        /// Latest time allowed: an hour from now.
        max: i64,
    },
}

/// Why a whole request, part or ready batch is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmitError {
    /// Less than the topic's floor was asked for (rule PR-2).
    #[error("the topic acknowledges at {floor:?} at least, {asked:?} was asked for")]
    AckBelowFloor {
        /// The floor.
        floor: AckLevel,
        /// What was asked for.
        asked: AckLevel,
    },
    /// The batch or request is larger, or has more records, than allowed.
    #[error("{found} {unit}, at most {max} are allowed")]
    TooLarge {
        /// `bytes` or `records`.
        unit: &'static str,
        /// Found.
        found: u64,
        /// Allowed.
        max: u64,
    },
    /// There is nothing in it.
    #[error("no records")]
    Empty,
    /// There is no such partition.
    #[error("partition {found} does not exist: the topic has {partitions}")]
    NoPartition {
        /// Partition named.
        found: u32,
        /// Partitions of the topic.
        partitions: u32,
    },
    /// The bytes are no batch that we take.
    #[error("invalid batch: {0}")]
    Batch(String),
    /// It is compressed in a way that the broker does not know.
    #[error("codec {0} is not known: none (0), lz4 (3) and zstd (4) are")]
    UnsupportedCodec(u8),
    /// The sender chose the partition by another version of the partitioner, or another revision of the topic.
    #[error("{what} is {current}, the sender used {found}")]
    Stale {
        /// `hash_version` or `topic_revision`.
        what: &'static str,
        /// Of the topic.
        current: u64,
        /// Of the sender.
        found: u64,
    },
    /// Records are bad: each with its index; all others of the part are not written.
    #[error("{} records are refused", .0.len())]
    Records(Vec<(u32, RecordRefusal)>),
}

/// The level to append at: the floor, or what more is asked for.
///
/// # Errors
/// [`AdmitError::AckBelowFloor`].
pub fn level(rules: &AdmitRules, asked: Option<AckLevel>) -> Result<AckLevel, AdmitError> {
    let floor = rules.ack_floor;
    match asked {
        Some(asked) if asked < floor => Err(AdmitError::AckBelowFloor { floor, asked }),
        Some(asked) => Ok(asked),
        None => Ok(floor),
    }
}

/// The records of a request for one partition: a batch, or the reason why none of them is written.
#[derive(Debug)]
pub struct Part {
    /// The partition; `None` if its records name none that exists: then each of them is refused.
    pub partition: Option<PartitionId>,
    /// Number of records.
    pub record_count: u32,
    /// The batch, checked and built.
    pub batch: Result<CheckedBatch, AdmitError>,
}

/// A request of plain records, admitted part by part.
#[derive(Debug, Default)]
pub struct Admitted {
    /// The parts, in order of their first record.
    pub parts: Vec<Part>,
    /// For each record of the request: index of its part, and its index in that part.
    pub places: Vec<(u32, u32)>,
}

/// Checks plain records and builds one batch for each partition (rules PR-1, PR-3, PR-11). `spread` chooses the
/// partition of records without key on a topic without keys: one for the whole request, so let it rise by one with
/// each request. `codec` compresses the stored batches.
///
/// # Errors
/// What concerns the whole request: too many records, or none.
pub fn admit_records<R: RecordView>(
    _rules: &AdmitRules,
    _records: &[R],
    _request: Option<RequestStamp>,
    _spread: u32,
    _codec: Codec,
    _now_ms: i64,
) -> Result<Admitted, AdmitError> {
    todo!()
}

/// A ready batch as it came.
#[derive(Debug, Clone)]
pub struct ReadyBatch {
    /// The partition that it is for.
    pub partition: u32,
    /// The batch.
    pub bytes: Bytes,
    /// Version of the partitioner that the sender used.
    pub hash_version: u32,
    /// Revision of the topic that the sender knew; 0 is not checked on topics without keys.
    pub topic_revision: u64,
}

/// Checks a ready batch (rule PR-13).
///
/// # Errors
/// The first rule that it breaks; [`AdmitError::Records`] names the records that do.
pub fn admit_batch(_rules: &AdmitRules, _ready: ReadyBatch, _now_ms: i64) -> Result<CheckedBatch, AdmitError> {
    todo!()
}
