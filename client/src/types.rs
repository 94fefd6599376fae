//! The words of the client: records, positions, topics and partitions. Plain data; conversions from and to the wire
//! stay inside the crate.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;
pub use sawlog_proto::batch::Codec;
use sawlog_proto::v1;

pub use self::holds::HoldGroups;
pub use crate::envelope::{EnvelopePolicy, EventIds};

mod holds;

/// How safe a record is when it is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AckLevel {
    /// In the broker's page cache: survives the death of the broker, not of the machine.
    Written,
    /// Written and synced to the device.
    Durable,
}

impl AckLevel {
    pub(crate) fn to_wire(level: Option<Self>) -> i32 {
        let level = match level {
            None => v1::AckLevel::Unspecified,
            Some(Self::Written) => v1::AckLevel::Written,
            Some(Self::Durable) => v1::AckLevel::Durable,
        };
        level.into()
    }

    pub(crate) fn from_wire(level: v1::AckLevel) -> Option<Self> {
        match level {
            v1::AckLevel::Unspecified => None,
            v1::AckLevel::Written => Some(Self::Written),
            v1::AckLevel::Durable => Some(Self::Durable),
        }
    }
}

impl fmt::Display for AckLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Written => "written",
            Self::Durable => "durable",
        })
    }
}

/// The id of a topic, given once at its creation. A topic made anew under an old name has another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TopicId(Arc<str>);

impl TopicId {
    /// The id, a UUID, as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<&str> for TopicId {
    fn from(id: &str) -> Self {
        Self(id.into())
    }
}

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A header of a record. Order and repeats are kept.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Header {
    /// Name.
    pub key: String,
    /// Value, any bytes.
    pub value: Bytes,
}

/// A record to produce. Cheap to clone: its bytes are shared.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Record {
    /// Entity id: chooses the partition of a keyed topic and the order of the record. Absent is not empty.
    pub key: Option<Bytes>,
    /// Payload. Absent is a tombstone, not an empty payload.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
    /// Event time in milliseconds since 1970; absent: when it was given to the producer.
    pub timestamp_ms: Option<i64>,
    /// On a topic without keys: the partition wanted. On a keyed one the key alone decides.
    pub partition: Option<u32>,
}

impl Record {
    /// A record with this payload and no key.
    pub fn new(value: impl Into<Bytes>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// A record with this key and payload.
    pub fn keyed(key: impl Into<Bytes>, value: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), value: Some(value.into()), ..Self::default() }
    }

    /// A record that says: this key has no value any more.
    pub fn tombstone(key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// With this key.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.key = Some(key.into());
        self
    }

    /// With one more header.
    pub fn header(mut self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.headers.push(Header { key: key.into(), value: value.into() });
        self
    }

    /// With this event time, in milliseconds since 1970.
    pub fn timestamp_ms(mut self, timestamp_ms: i64) -> Self {
        self.timestamp_ms = Some(timestamp_ms);
        self
    }

    /// For this partition of a topic without keys.
    pub fn partition(mut self, partition: u32) -> Self {
        self.partition = Some(partition);
        self
    }
}

/// Where a record went.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RecordPosition {
    /// Id of the topic.
    pub topic_id: TopicId,
    /// Partition, from 0.
    pub partition: u32,
    /// Epoch of the partition at the append.
    pub epoch: u32,
    /// Offset of the record.
    pub offset: u64,
    /// Time of the append in milliseconds since 1970.
    pub append_time_ms: i64,
    /// The record had been appended before: by a try whose answer was lost, or under the same event id.
    pub duplicate: bool,
    /// How safe it is.
    pub ack: AckLevel,
}

/// How thoroughly a broker checks ready batches.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Validation {
    /// Record by record, if not compressed.
    Full,
    /// Only the batch header and its checksum.
    Envelope,
}

/// Settings of a topic. In a request `None` means the broker's default, or: unchanged. In an answer all are given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicConfig {
    /// Number of partitions, 1 to 1,024. Fixed at creation.
    pub partitions: Option<u32>,
    /// Whether each record must have a key, which alone chooses its partition. Fixed at creation.
    pub keyed: Option<bool>,
    /// The least safety at which records are acknowledged.
    pub ack_floor: Option<AckLevel>,
    /// How ready batches are checked.
    pub validation: Option<Validation>,
    /// Age in milliseconds at which sealed segments go; -1 keeps them for ever.
    pub retention_ms: Option<i64>,
    /// Bytes per partition above which the oldest sealed segments go; -1: no limit.
    pub retention_bytes: Option<i64>,
    /// Bytes at which the active segment is sealed.
    pub segment_bytes: Option<i64>,
    /// Age in milliseconds at which a non-empty active segment is sealed.
    pub segment_ms: Option<i64>,
    /// Largest record in bytes: key, value and headers.
    pub max_record_bytes: Option<i64>,
    /// With the floor `written`: the longest time in milliseconds until records are synced.
    pub flush_interval_ms: Option<i64>,
    /// Groups whose unread records retention keeps.
    pub hold_groups: Option<HoldGroups>,
    /// What it does about envelopes; default off.
    pub envelope: Option<EnvelopePolicy>,
    /// Milliseconds from its first append for which a repeat of an event id is found out; 0: never; -1: as long as the
    /// record is kept. Default a day, or 0 if `envelope` is off.
    pub dedup_window_ms: Option<i64>,
    /// Event ids remembered at most, 1 to 1,000,000; the oldest leave first.
    pub dedup_max_ids: Option<i64>,
}

impl TopicConfig {
    pub(crate) fn to_wire(&self) -> v1::TopicConfig {
        let validation = match self.validation {
            None => v1::Validation::Unspecified,
            Some(Validation::Full) => v1::Validation::Full,
            Some(Validation::Envelope) => v1::Validation::Envelope,
        };
        v1::TopicConfig {
            partitions: self.partitions,
            keyed: self.keyed,
            ack_floor: AckLevel::to_wire(self.ack_floor),
            validation: validation.into(),
            retention_ms: self.retention_ms,
            retention_bytes: self.retention_bytes,
            segment_bytes: self.segment_bytes,
            segment_ms: self.segment_ms,
            max_record_bytes: self.max_record_bytes,
            flush_interval_ms: self.flush_interval_ms,
            hold_groups: self.hold_groups.as_ref().map(HoldGroups::to_wire),
            envelope: EnvelopePolicy::to_wire(self.envelope).into(),
            dedup_window_ms: self.dedup_window_ms,
            dedup_max_ids: self.dedup_max_ids,
        }
    }

    fn from_wire(wire: &v1::TopicConfig) -> Self {
        let validation = match wire.validation() {
            v1::Validation::Unspecified => None,
            v1::Validation::Full => Some(Validation::Full),
            v1::Validation::Envelope => Some(Validation::Envelope),
        };
        Self {
            partitions: wire.partitions,
            keyed: wire.keyed,
            ack_floor: AckLevel::from_wire(wire.ack_floor()),
            validation,
            retention_ms: wire.retention_ms,
            retention_bytes: wire.retention_bytes,
            segment_bytes: wire.segment_bytes,
            segment_ms: wire.segment_ms,
            max_record_bytes: wire.max_record_bytes,
            flush_interval_ms: wire.flush_interval_ms,
            hold_groups: wire.hold_groups.as_ref().map(HoldGroups::from_wire),
            envelope: EnvelopePolicy::from_wire(wire.envelope()),
            dedup_window_ms: wire.dedup_window_ms,
            dedup_max_ids: wire.dedup_max_ids,
        }
    }

    /// Names of the fields that are set, as a field mask calls them.
    pub(crate) fn mask(&self) -> Vec<String> {
        let set = [
            ("partitions", self.partitions.is_some()),
            ("keyed", self.keyed.is_some()),
            ("ack_floor", self.ack_floor.is_some()),
            ("validation", self.validation.is_some()),
            ("retention_ms", self.retention_ms.is_some()),
            ("retention_bytes", self.retention_bytes.is_some()),
            ("segment_bytes", self.segment_bytes.is_some()),
            ("segment_ms", self.segment_ms.is_some()),
            ("max_record_bytes", self.max_record_bytes.is_some()),
            ("flush_interval_ms", self.flush_interval_ms.is_some()),
            ("hold_groups", self.hold_groups.is_some()),
            ("envelope", self.envelope.is_some()),
            ("dedup_window_ms", self.dedup_window_ms.is_some()),
            ("dedup_max_ids", self.dedup_max_ids.is_some()),
        ];
        set.iter().filter(|(_, set)| *set).map(|(name, _)| format!("config.{name}")).collect()
    }
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Topic {
    /// Name.
    pub name: String,
    /// Id, given once at creation.
    pub topic_id: TopicId,
    /// Rises with every change.
    pub revision: u64,
    /// Settings, all of them given.
    pub config: TopicConfig,
    /// Who answers for the topic.
    pub owner: String,
    /// What its records are.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// Version of the function from key to partition.
    pub hash_version: u32,
    /// When it was created, in milliseconds since 1970.
    pub create_time_ms: i64,
    /// When it was last changed, in milliseconds since 1970.
    pub update_time_ms: i64,
    /// Whose dead letters it holds, if any: only the broker appends to it, changes, trims or deletes it.
    pub dead_letters_of: Option<DeadLettersOf>,
}

/// Of whom a topic holds the dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLettersOf {
    /// Name of the source topic.
    pub topic: String,
    /// Id of the source topic.
    pub topic_id: TopicId,
    /// Name of the group.
    pub group: String,
    /// Id of the group.
    pub group_id: u64,
}

impl Topic {
    /// Number of partitions.
    pub fn partitions(&self) -> u32 {
        self.config.partitions.unwrap_or(1)
    }

    /// Whether each record must have a key.
    pub fn keyed(&self) -> bool {
        self.config.keyed.unwrap_or(true)
    }

    pub(crate) fn from_wire(wire: v1::Topic) -> Self {
        Self {
            topic_id: TopicId::from(wire.topic_id.as_str()),
            revision: wire.revision,
            config: wire.config.as_ref().map(TopicConfig::from_wire).unwrap_or_default(),
            owner: wire.owner,
            description: wire.description,
            labels: wire.labels.into_iter().collect(),
            hash_version: wire.hash_version,
            create_time_ms: milliseconds(wire.create_time),
            update_time_ms: milliseconds(wire.update_time),
            dead_letters_of: wire.dead_letters_of.map(|of| DeadLettersOf {
                topic_id: TopicId::from(of.topic_id.as_str()),
                topic: of.topic,
                group: of.group,
                group_id: of.group_id,
            }),
            name: wire.name,
        }
    }
}

pub(crate) fn milliseconds(time: Option<prost_types::Timestamp>) -> i64 {
    time.map_or(0, |time| time.seconds.saturating_mul(1000).saturating_add(i64::from(time.nanos / 1_000_000)))
}

/// A time in milliseconds since 1970 as the wire has it.
pub(crate) fn timestamp(ms: i64) -> prost_types::Timestamp {
    let nanos = i32::try_from(ms.rem_euclid(1000) * 1_000_000).expect("a part of a second is below 1,000,000,000 ns");
    prost_types::Timestamp { seconds: ms.div_euclid(1000), nanos }
}

/// What a partition can do at present.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum PartitionState {
    /// Reads and writes.
    Online,
    /// Reads and writes, but a range of it is damaged or could not be read.
    Degraded,
    /// Read-only up to its last durable offset.
    Fenced,
    /// Not open yet.
    Recovering,
}

impl fmt::Display for PartitionState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Online => "online",
            Self::Degraded => "degraded",
            Self::Fenced => "fenced",
            Self::Recovering => "recovering",
        })
    }
}

/// The last cut of a partition's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Truncation {
    /// First offset that was cut.
    pub offset: u64,
    /// Epoch that began with the cut.
    pub epoch: u32,
    /// Bytes dropped by it.
    pub bytes: u64,
    /// When it happened, in milliseconds since 1970.
    pub time_ms: i64,
}

/// State of one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Partition {
    /// Partition, from 0.
    pub partition: u32,
    /// First offset kept.
    pub log_start_offset: u64,
    /// First offset that readers do not see yet.
    pub high_watermark: u64,
    /// Offset that the next record will get.
    pub log_end_offset: u64,
    /// First offset not yet known to be synced.
    pub durable_end_offset: u64,
    /// Bytes of the log files.
    pub size_bytes: u64,
    /// Number of segments.
    pub segments: u32,
    /// Current epoch.
    pub epoch: u32,
    /// State.
    pub state: PartitionState,
    /// Why it is fenced or degraded; empty otherwise.
    pub state_reason: String,
    /// The last cut of its end.
    pub last_truncation: Option<Truncation>,
    /// Ranges lost to damage, half-open.
    pub damaged: Vec<(u64, u64)>,
    /// Offset from which records acknowledged at `written` may be missing.
    pub maybe_missing_from: Option<u64>,
}

impl Partition {
    pub(crate) fn from_wire(wire: v1::PartitionDescription) -> Self {
        let state = match wire.state() {
            v1::PartitionState::Online => PartitionState::Online,
            v1::PartitionState::Fenced => PartitionState::Fenced,
            v1::PartitionState::Recovering => PartitionState::Recovering,
            // Something this client does not know is not said to be well.
            v1::PartitionState::Degraded | v1::PartitionState::Unspecified => PartitionState::Degraded,
        };
        let last_truncation = wire.last_truncation.map(|cut| Truncation {
            offset: unsigned(cut.offset),
            epoch: cut.epoch,
            bytes: unsigned(cut.bytes),
            time_ms: milliseconds(cut.time),
        });
        Self {
            partition: wire.partition,
            log_start_offset: unsigned(wire.log_start_offset),
            high_watermark: unsigned(wire.high_watermark),
            log_end_offset: unsigned(wire.log_end_offset),
            durable_end_offset: unsigned(wire.durable_end_offset),
            size_bytes: unsigned(wire.size_bytes),
            segments: wire.segments,
            epoch: wire.epoch,
            state,
            state_reason: wire.state_reason,
            last_truncation,
            damaged: wire.damaged.iter().map(|range| (unsigned(range.from), unsigned(range.to))).collect(),
            maybe_missing_from: wire.maybe_missing_from.map(unsigned),
        }
    }
}

/// Counts and offsets are never negative on the wire; a negative one would be a defect, shown as 0.
pub(crate) fn unsigned(wire: i64) -> u64 {
    u64::try_from(wire).unwrap_or(0)
}

/// An offset as the wire has it; offsets end at `i64::MAX`.
pub(crate) fn signed(offset: u64) -> i64 {
    i64::try_from(offset).unwrap_or(i64::MAX)
}

/// An offset of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct PartitionOffset {
    /// Partition, from 0.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
    /// Current epoch of the partition; 0 in a request.
    pub epoch: u32,
}

/// Which offset to look up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum OffsetAt {
    /// The log start.
    Earliest,
    /// The high watermark: the offset of the next record that readers will see.
    Latest,
    /// The first record appended at or after this time in milliseconds since 1970; the high watermark if none is.
    TimestampMs(i64),
}
