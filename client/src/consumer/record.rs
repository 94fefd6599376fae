//! A record as a member of a group gets it.

use std::sync::Arc;

use bytes::Bytes;
use sawlog_proto::v1;

use crate::dead_letter::{EntryKind, EntryState};
use crate::payload::{Codec, PayloadError};
use crate::reader::ReadRecord;
use crate::types::{Header, TopicId, unsigned};

/// A partition of a topic, as deliveries name it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Source {
    /// Name of the topic.
    pub topic: Arc<str>,
    /// Id of the topic.
    pub topic_id: TopicId,
    /// Partition, from 0.
    pub partition: u32,
}

/// A record that was delivered to this member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsumedRecord {
    pub(crate) source: Arc<Source>,
    /// Offset in the source.
    pub offset: u64,
    /// Epoch of the partition when it was appended.
    pub epoch: u32,
    /// Time of the append in milliseconds since 1970.
    pub append_time_ms: i64,
    /// Event time in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Entity id; absent is not empty.
    pub key: Option<Bytes>,
    /// Payload; absent is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
    /// Which try this is, from 1. In mode offset the tries of this member.
    pub attempt: u32,
    /// The most tries that it gets; 0: no limit.
    pub max_attempts: u32,
    /// An earlier record of its key was dropped or left dead by the group's policy (rule DL-8).
    pub gap_before: bool,
    pub(crate) more: Option<Box<More>>,
}

/// What few deliveries have.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct More {
    pub(crate) first_delivery_ms: Option<i64>,
    pub(crate) last_error_class: Option<String>,
    pub(crate) entry: Option<EntryInfo>,
    pub(crate) replay: Option<Arc<str>>,
}

/// That a record comes through its dead-letter entry (rules RD-3, KO-7).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryInfo {
    /// Id of the entry.
    pub dlq_id: Arc<str>,
    /// State.
    pub state: Option<EntryState>,
    /// Kind.
    pub kind: Option<EntryKind>,
    /// How often the record was dead or spilled, from 1.
    pub cycle: u32,
    /// Version that is delivered: 0 the original, then one up with each edit.
    pub version: u32,
    /// Job that redrives it, if one does.
    pub job_id: Option<String>,
}

impl EntryInfo {
    /// Whether the record was edited.
    pub fn is_edited(&self) -> bool {
        self.version > 0
    }

    pub(crate) fn from_wire(wire: v1::EntryMark) -> Self {
        let (state, kind) = (wire.state(), wire.kind());
        Self {
            state: EntryState::from_wire(state),
            kind: EntryKind::from_wire(kind),
            dlq_id: wire.dlq_id.into(),
            cycle: wire.cycle,
            version: wire.version,
            job_id: Some(wire.job_id).filter(|job| !job.is_empty()),
        }
    }
}

impl ConsumedRecord {
    /// Name of the topic.
    pub fn topic(&self) -> &str {
        &self.source.topic
    }

    /// Id of the topic.
    pub fn topic_id(&self) -> &TopicId {
        &self.source.topic_id
    }

    /// Partition, from 0.
    pub fn partition(&self) -> u32 {
        self.source.partition
    }

    /// Topic and partition.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The payload as a value: `record.decode::<Json<Order>>()?`. A payload that cannot be decoded, or is absent, is an
    /// error that a handler's `?` sends to the dead letters.
    ///
    /// # Errors
    /// What the codec says.
    pub fn decode<C: Codec + Default>(&self) -> Result<C::Value, PayloadError> {
        match &self.value {
            Some(value) => C::default().decode(value),
            None => {
                let format = std::any::type_name::<C>();
                Err(PayloadError { format, bytes: 0, cause: "the record is a tombstone".to_owned() })
            }
        }
    }

    /// Whether this is the last try: what fails now goes where the group's policy says.
    pub fn is_last_attempt(&self) -> bool {
        self.max_attempts > 0 && self.attempt >= self.max_attempts
    }

    /// When it was first delivered, in milliseconds since 1970; `None` on the first try.
    pub fn first_delivery_ms(&self) -> Option<i64> {
        self.more.as_ref()?.first_delivery_ms
    }

    /// Class of the error of the try before.
    pub fn last_error_class(&self) -> Option<&str> {
        self.more.as_ref()?.last_error_class.as_deref()
    }

    /// Id of its dead-letter entry, if it comes through one.
    pub fn dlq_id(&self) -> Option<&str> {
        Some(&self.entry()?.dlq_id)
    }

    /// Its dead-letter entry, if it comes through one: redriven, or spilled.
    pub fn entry(&self) -> Option<&EntryInfo> {
        self.more.as_ref()?.entry.as_ref()
    }

    /// It is part of a replay (rule RP-2).
    pub fn is_replay(&self) -> bool {
        self.replay_id().is_some()
    }

    /// Id of the replay that it is part of.
    pub fn replay_id(&self) -> Option<&str> {
        self.more.as_ref()?.replay.as_deref()
    }

    /// The record, as part of this replay.
    pub(crate) fn of_replay(mut self, replay: Option<&Arc<str>>) -> Self {
        if let Some(replay) = replay {
            self.more.get_or_insert_default().replay = Some(Arc::clone(replay));
        }
        self
    }

    /// Bytes of key, value and headers.
    pub fn size_bytes(&self) -> usize {
        let headers: usize = self.headers.iter().map(|header| header.key.len() + header.value.len()).sum();
        self.key.as_ref().map_or(0, Bytes::len) + self.value.as_ref().map_or(0, Bytes::len) + headers
    }

    /// A record as it stands in the log.
    pub(crate) fn of_log(source: &Arc<Source>, record: ReadRecord) -> Self {
        Self {
            source: Arc::clone(source),
            offset: record.offset,
            epoch: record.epoch,
            append_time_ms: record.append_time_ms,
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            value: record.value,
            headers: record.headers,
            attempt: 1,
            max_attempts: 0,
            gap_before: false,
            more: None,
        }
    }

    /// Another version of it stands in its place.
    pub(crate) fn replace(&mut self, edited: v1::Record) {
        let header = |header: v1::Header| Header { key: header.key, value: header.value };
        self.timestamp_ms = edited.timestamp_ms.unwrap_or(self.timestamp_ms);
        (self.key, self.value) = (edited.key, edited.value);
        self.headers = edited.headers.into_iter().map(header).collect();
    }

    /// It comes through this entry.
    pub(crate) fn set_entry(&mut self, entry: v1::EntryMark) {
        let more = self.more.get_or_insert_with(Box::default);
        more.entry = Some(EntryInfo::from_wire(entry));
    }

    pub(crate) fn from_wire(
        source: &Arc<Source>,
        max_attempts: u32,
        wire: v1::Delivery,
        replay: Option<&Arc<str>>,
    ) -> Self {
        let replay = replay.filter(|_| wire.replay);
        let record = wire.record.unwrap_or_default();
        let has_more = wire.entry.is_some() || wire.first_delivery_ms != 0 || replay.is_some();
        let more = (has_more || !wire.last_error_class.is_empty()).then(|| {
            Box::new(More {
                first_delivery_ms: Some(wire.first_delivery_ms).filter(|ms| *ms != 0),
                last_error_class: Some(wire.last_error_class).filter(|class| !class.is_empty()),
                entry: wire.entry.map(EntryInfo::from_wire),
                replay: replay.cloned(),
            })
        });
        let header = |header: v1::Header| Header { key: header.key, value: header.value };
        Self {
            source: Arc::clone(source),
            offset: unsigned(wire.offset),
            epoch: wire.epoch,
            append_time_ms: wire.append_time_ms,
            timestamp_ms: record.timestamp_ms.unwrap_or(wire.append_time_ms),
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(header).collect(),
            attempt: wire.attempt,
            max_attempts,
            gap_before: wire.gap_before,
            more,
        }
    }
}
