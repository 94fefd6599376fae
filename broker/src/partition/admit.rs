//! Checks before an append: plain records become batches, ready batches are proved (rules PR-1, PR-2, PR-3, PR-11,
//! PR-13). Pure: bytes and `now` in, checked batches or refusals out.
//!
//! It must not know of messages, partitions' state or the clock.

use std::sync::Arc;

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchBuilder, BatchError, BatchHeader, BatchLimits, Codec};
use sawlog_proto::partitioner::partition_of;

pub use super::admit_events::{EnvelopePolicy, EventRules};
use super::events::{EventBatch, EventRef};
use super::{CheckedBatch, RequestStamp, admit_events};
use crate::limits;
use crate::model::{AckLevel, PartitionId};

/// How far in the future the time of a record may lie (rule F6).
const FUTURE_MS: i64 = 3_600_000;
/// Bytes of a batch as sent.
const BATCH_BYTES: usize = limits::BATCH_BYTES + limits::BATCH_FRAMING_BYTES;

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
    /// What is asked of envelopes and event ids.
    pub events: EventRules,
}

/// A plain record as its caller holds it.
pub trait PlainRecord {
    /// The key; absent is not empty.
    fn key(&self) -> Option<&[u8]>;
    /// The value; absent is a tombstone.
    fn value(&self) -> Option<&[u8]>;
    /// Headers in order.
    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone;
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
    /// The envelope that the topic asks for is missing, or an event id is no good.
    #[error("header {header}: {found}")]
    Envelope {
        /// The header.
        header: &'static str,
        /// What was found.
        found: String,
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
    /// The bytes are no batch that we take: malformed, or compressed in a way that is not known.
    #[error(transparent)]
    Batch(BatchError),
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
    /// Records are bad: each with its index in the request or ready batch; all others of the part are not written.
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
pub fn admit_records<R: PlainRecord>(
    rules: &AdmitRules,
    records: &[R],
    request: Option<RequestStamp>,
    spread: u32,
    codec: Codec,
    now_ms: i64,
) -> Result<Admitted, AdmitError> {
    if records.is_empty() {
        return Err(AdmitError::Empty);
    }
    if records.len() > limits::BATCH_RECORDS as usize {
        let (found, max) = (records.len() as u64, u64::from(limits::BATCH_RECORDS));
        return Err(AdmitError::TooLarge { unit: "records", found, max });
    }
    let mut parts = Parts::new(rules.partitions);
    let mut places = Vec::with_capacity(records.len());
    for (index, record) in (0..).zip(records) {
        let (partition, refusal) = match choose(rules, record, spread) {
            Ok(partition) => (Some(partition), check(rules, record, now_ms).err()),
            Err((partition, refusal)) => (partition, Some(refusal)),
        };
        let (part_index, part) = parts.of(partition, codec);
        places.push((part_index, part.count));
        let refusal = match refusal {
            None if rules.events.any() => part.take_event(rules, record).err(),
            refusal => refusal,
        };
        part.count += 1;
        match refusal {
            Some(refusal) => part.refused.push((index, refusal)),
            None if part.refused.is_empty() => {
                let time = record.timestamp_ms().unwrap_or(now_ms);
                part.builder.push(time, record.key(), record.value(), record.headers());
            }
            None => {}
        }
    }
    let parts = parts.list.into_iter().map(|part| part.finish(request)).collect();
    Ok(Admitted { parts, places })
}

/// The parts of a request while it is read.
struct Parts {
    list: Vec<Draft>,
    /// Index of each partition's part; `u32::MAX`: none yet. The last entry is for records of no partition.
    by_partition: Vec<u32>,
}

struct Draft {
    partition: Option<u32>,
    count: u32,
    builder: BatchBuilder,
    refused: Vec<(u32, RecordRefusal)>,
    events: Vec<EventRef>,
}

impl Parts {
    fn new(partitions: u32) -> Self {
        Self { list: Vec::new(), by_partition: vec![u32::MAX; partitions as usize + 1] }
    }

    fn of(&mut self, partition: Option<u32>, codec: Codec) -> (u32, &mut Draft) {
        let place = partition.map_or(self.by_partition.len() - 1, |partition| partition as usize);
        let index = &mut self.by_partition[place];
        if *index == u32::MAX {
            *index = self.list.len() as u32;
            let builder = BatchBuilder::new(codec);
            self.list.push(Draft { partition, count: 0, builder, refused: Vec::new(), events: Vec::new() });
        }
        (*index, &mut self.list[*index as usize])
    }
}

impl Draft {
    fn take_event<R: PlainRecord>(&mut self, rules: &AdmitRules, record: &R) -> Result<(), RecordRefusal> {
        self.events.extend(admit_events::of_plain(rules, record, self.count)?);
        Ok(())
    }

    fn finish(mut self, request: Option<RequestStamp>) -> Part {
        Part { partition: self.partition.map(PartitionId), record_count: self.count, batch: self.build(request) }
    }

    fn build(&mut self, request: Option<RequestStamp>) -> Result<CheckedBatch, AdmitError> {
        if !self.refused.is_empty() {
            return Err(AdmitError::Records(std::mem::take(&mut self.refused)));
        }
        let too_large =
            |found: usize| AdmitError::TooLarge { unit: "bytes", found: found as u64, max: BATCH_BYTES as u64 };
        if self.builder.len_bytes() > BATCH_BYTES {
            return Err(too_large(self.builder.len_bytes()));
        }
        let bytes = self.builder.finish();
        // A codec may make a little more of bytes that cannot be compressed.
        if bytes.len() > BATCH_BYTES {
            return Err(too_large(bytes.len()));
        }
        let header = BatchHeader::decode(&bytes).expect("the builder makes good batches");
        let events = std::mem::take(&mut self.events);
        let events = (!events.is_empty()).then(|| Arc::new(EventBatch::new(events, false)));
        Ok(CheckedBatch { header, bytes, request, events })
    }
}

/// The partition of a record (rule PR-1), or its refusal and the part that it spoils.
fn choose<R: PlainRecord>(rules: &AdmitRules, record: &R, spread: u32) -> Result<u32, (Option<u32>, RecordRefusal)> {
    let hint = record.partition();
    if let Some(found) = hint
        && found >= rules.partitions
    {
        return Err((None, RecordRefusal::NoPartition { found, partitions: rules.partitions }));
    }
    match (record.key(), hint) {
        (None, hint) if rules.keyed => Err((hint, RecordRefusal::KeyRequired)),
        (Some(key), Some(found)) if rules.keyed => {
            let expected = partition_of(key, rules.partitions);
            if expected == found {
                Ok(found)
            } else {
                Err((Some(expected), RecordRefusal::WrongPartition { expected, found }))
            }
        }
        (_, Some(hint)) => Ok(hint),
        (Some(key), None) => Ok(partition_of(key, rules.partitions)),
        (None, None) => Ok(spread % rules.partitions),
    }
}

/// Sizes and time of a record (rules PR-11, F6).
fn check<R: PlainRecord>(rules: &AdmitRules, record: &R, now_ms: i64) -> Result<(), RecordRefusal> {
    let key = record.key().map_or(0, <[u8]>::len);
    if key > limits::KEY_BYTES {
        return Err(RecordRefusal::KeyTooLarge { found: key as u64, max: limits::KEY_BYTES as u64 });
    }
    let (mut count, mut header_bytes) = (0, 0);
    for (name, value) in record.headers() {
        count += 1;
        header_bytes += (name.len() + value.len()) as u64;
    }
    if count > limits::HEADERS as u64 || header_bytes > limits::HEADERS_BYTES as u64 {
        return Err(headers_too_large(count, header_bytes));
    }
    let size = (key + record.value().map_or(0, <[u8]>::len)) as u64 + header_bytes;
    if size > rules.max_record_bytes {
        return Err(RecordRefusal::RecordTooLarge { found: size, max: rules.max_record_bytes });
    }
    record.timestamp_ms().map_or(Ok(()), |time| check_time(time, now_ms))
}

fn headers_too_large(count: u64, bytes: u64) -> RecordRefusal {
    let (max_count, max_bytes) = (limits::HEADERS as u64, limits::HEADERS_BYTES as u64);
    RecordRefusal::HeadersTooLarge { count, bytes, max_count, max_bytes }
}

fn check_time(found: i64, now_ms: i64) -> Result<(), RecordRefusal> {
    let max = now_ms.saturating_add(FUTURE_MS);
    if (0..=max).contains(&found) { Ok(()) } else { Err(RecordRefusal::InvalidTimestamp { found, max }) }
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
pub fn admit_batch(rules: &AdmitRules, ready: ReadyBatch, now_ms: i64) -> Result<CheckedBatch, AdmitError> {
    let ReadyBatch { partition, bytes, hash_version, topic_revision } = ready;
    if partition >= rules.partitions {
        return Err(AdmitError::NoPartition { found: partition, partitions: rules.partitions });
    }
    let stale = |what, current, found| Err(AdmitError::Stale { what, current, found });
    if rules.keyed && hash_version != rules.hash_version {
        return stale("hash_version", u64::from(rules.hash_version), u64::from(hash_version));
    }
    if topic_revision != rules.revision && (rules.keyed || topic_revision != 0) {
        return stale("topic_revision", rules.revision, topic_revision);
    }
    let bounds = BatchLimits {
        batch_bytes: BATCH_BYTES,
        records: limits::BATCH_RECORDS,
        decompressed_bytes: limits::BATCH_DECOMPRESSED_BYTES,
        record_bytes: usize::try_from(rules.max_record_bytes).unwrap_or(usize::MAX),
        key_bytes: limits::KEY_BYTES,
        headers: limits::HEADERS as u32,
        headers_bytes: limits::HEADERS_BYTES,
    };
    // The records are walked below, once for all that is to be checked of them.
    let header = batch::check(&bytes, &bounds, false).map_err(whole)?;
    if let Err(refusal) = check_time(header.base_timestamp_ms, now_ms).and(check_time(header.max_timestamp_ms, now_ms))
    {
        return Err(AdmitError::Records(vec![(0, refusal)]));
    }
    if header.codec == Codec::None && (rules.deep || rules.keyed) {
        walk(rules, partition, &header, &bytes, &bounds, now_ms)?;
    }
    let events = admit_events::of_batch(rules, &bytes)?.map(Arc::new);
    Ok(CheckedBatch { header, bytes, request: None, events })
}

fn walk(
    rules: &AdmitRules,
    partition: u32,
    header: &BatchHeader,
    bytes: &[u8],
    bounds: &BatchLimits,
    now_ms: i64,
) -> Result<(), AdmitError> {
    let mut refused = Vec::new();
    for record in batch::walk(header, bytes) {
        let record = record.map_err(whole)?;
        let mut refuse = |refusal| refused.push((record.index, refusal));
        if let Err(error) = record.check(bounds) {
            refuse(of_record(error).ok_or_else(|| whole(error))?);
        } else if let Err(refusal) = check_time(record.timestamp_ms, now_ms) {
            refuse(refusal);
        } else if rules.keyed {
            match record.key.map(|key| partition_of(key, rules.partitions)) {
                None => refuse(RecordRefusal::KeyRequired),
                Some(expected) if expected != partition => {
                    refuse(RecordRefusal::WrongPartition { expected, found: partition });
                }
                Some(_) => {}
            }
        }
    }
    if refused.is_empty() { Ok(()) } else { Err(AdmitError::Records(refused)) }
}

/// An error that concerns the whole batch.
fn whole(error: BatchError) -> AdmitError {
    match error {
        BatchError::TooLarge { bound, found, max } => {
            let unit = match bound {
                batch::BatchBound::Records => "records",
                batch::BatchBound::Bytes | batch::BatchBound::DecompressedBytes => "bytes",
            };
            AdmitError::TooLarge { unit, found, max }
        }
        error => AdmitError::Batch(error),
    }
}

/// The refusal of one record that is too large.
fn of_record(error: BatchError) -> Option<RecordRefusal> {
    match error {
        BatchError::RecordTooLarge { found, max, .. } => Some(RecordRefusal::RecordTooLarge { found, max }),
        BatchError::KeyTooLarge { found, max, .. } => Some(RecordRefusal::KeyTooLarge { found, max }),
        BatchError::TooManyHeaders { found, .. } => Some(headers_too_large(found, 0)),
        BatchError::HeadersTooLarge { found, .. } => Some(headers_too_large(0, found)),
        BatchError::Invalid { .. } | BatchError::UnsupportedCodec { .. } | BatchError::TooLarge { .. } => None,
    }
}

#[cfg(test)]
#[path = "admit_tests.rs"]
mod tests;
