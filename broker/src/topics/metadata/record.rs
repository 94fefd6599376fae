//! Records of the metadata log: JSON, one change each, versioned. What is stored is a type of its own, so that the
//! model may change without the log.
//!
//! A snapshot is the list of records that, applied to nothing, give the state.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::model::{AckLevel, TopicUuid};
use crate::partition::admit::EnvelopePolicy;
use crate::topics::event_ids::{DedupWindow, EventSettings};
use crate::topics::holds::GroupHolds;
use crate::topics::settings::{TopicConfig, TopicNotes, TopicRevision, Validation};

/// The newest version of the records that this program reads. A change is written in the oldest version that has its
/// records, so that a program that knows no groups, or no event ids, still reads it.
pub const RECORD_VERSION: u32 = 3;

/// Records of one change, applied all or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// The newest version of a record in it, at most [`RECORD_VERSION`].
    pub version: u32,
    /// The records in order.
    pub records: Vec<MetadataRecord>,
}

/// One change of the metadata.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum MetadataRecord {
    /// A topic exists from here on; its files were made before.
    TopicCreated(StoredTopic),
    /// Settings and notes of a topic changed.
    TopicUpdated {
        /// Number of the topic.
        topic: u64,
        /// The new revision.
        revision: StoredRevision,
    },
    /// A topic is gone; its files are removed after this (rule D7).
    TopicDeleted {
        /// Number of the topic.
        topic: u64,
    },
    /// The files of a deleted topic are gone.
    TopicFilesRemoved {
        /// Number of the topic.
        topic: u64,
    },
    /// First offsets kept, never falling (rule D9).
    LogStarts {
        /// Partitions and their starts.
        starts: Vec<StoredBound>,
    },
    /// Where somebody asked for logs to begin: what waits for a dead letter follows later, a restart between, and groups
    /// are told that it was no retention (rules RE-4, RE-9).
    Trimmed {
        /// Partitions and the starts asked for.
        asked: Vec<StoredBound>,
    },
    /// The epoch counter; never falls (rule D3).
    Epoch {
        /// The greatest epoch given.
        epoch: u32,
    },
    /// A range is lost to damage (rule C3).
    Quarantined {
        /// Number of the topic.
        topic: u64,
        /// The partition.
        partition: u32,
        /// First lost offset.
        from: u64,
        /// First offset after the range.
        to: u64,
    },
    /// A partition's end was cut, or records acknowledged at `written` may be missing (rules D2, F1).
    Truncated {
        /// Number of the topic.
        topic: u64,
        /// The partition.
        partition: u32,
        /// First offset cut.
        offset: u64,
        /// Epoch that began with it.
        epoch: u32,
        /// Bytes dropped.
        bytes: u64,
        /// When, in milliseconds since 1970.
        time_ms: i64,
    },
    /// A producer of this name has this id and epoch (rule PR-7).
    ProducerNamed {
        /// Its name.
        name: String,
        /// Its id.
        id: i64,
        /// Its epoch.
        epoch: i16,
        /// When it was registered, in milliseconds since 1970.
        time_ms: i64,
    },
    /// A producer that was idle at the limit is forgotten.
    ProducerForgotten {
        /// Its name.
        name: String,
    },
    /// Ids below this may have been given to producers; never falls.
    ProducerIds {
        /// The next id that is free.
        next: i64,
    },
    /// Topic numbers below this were given; never falls.
    TopicIds {
        /// The next number that is free.
        next: u64,
    },
    /// A group has reserved names for its dead-letter topics (rule DL-1). From version 2 on.
    DeadLetterNames {
        /// Number of the group.
        group: u64,
        /// For each source topic its name; an older one of the same topic is given up.
        names: Vec<StoredReservation>,
    },
    /// Names that a group had reserved are free again. From version 2 on.
    DeadLetterNamesFreed {
        /// Number of the group.
        group: u64,
        /// Numbers of the source topics; none: all of the group.
        topics: Vec<u64>,
    },
}

impl MetadataRecord {
    /// The first version that has this record.
    fn version(&self) -> u32 {
        match self {
            Self::TopicCreated(topic) if topic.revision.events.is_some() => 3,
            Self::TopicUpdated { revision, .. } if revision.events.is_some() => 3,
            Self::DeadLetterNames { .. } | Self::DeadLetterNamesFreed { .. } => 2,
            Self::TopicCreated(topic) if topic.dead_letters.is_some() || topic.revision.holds.is_some() => 2,
            Self::TopicUpdated { revision, .. } if revision.holds.is_some() => 2,
            _ => 1,
        }
    }
}

/// The name that a group's dead-letter topic for a source topic has or will have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredReservation {
    /// Number of the source topic.
    pub topic: u64,
    /// The name.
    pub name: String,
}

/// Whose dead letters a topic holds, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredDeadLetters {
    /// UUID of the source topic.
    pub source: String,
    /// Name of the source topic.
    pub source_name: String,
    /// Number of the group.
    pub group: u64,
    /// Name of the group.
    pub group_name: String,
}

/// A bound of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredBound {
    /// Number of the topic.
    pub topic: u64,
    /// The partition.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
}

/// A topic as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredTopic {
    /// Its number.
    pub topic: u64,
    /// Its UUID.
    pub uuid: String,
    /// Its name.
    pub name: String,
    /// Version of the function from key to partition.
    pub hash_version: u32,
    /// Version of the function from key to slot.
    pub slot_hash_version: u32,
    /// When it was created, milliseconds since 1970.
    pub created_ms: i64,
    /// Its first, or in a snapshot its current, settings and notes.
    pub revision: StoredRevision,
    /// Whose dead letters it holds, if any. From version 2 on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dead_letters: Option<StoredDeadLetters>,
}

/// Settings and notes as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredRevision {
    /// Rises with every change.
    pub revision: u64,
    /// When it was made, milliseconds since 1970.
    pub updated_ms: i64,
    /// Number of partitions.
    pub partitions: u32,
    /// Whether each record must have a key.
    pub keyed: bool,
    /// The least level of acknowledgement.
    pub ack_floor: StoredAckLevel,
    /// How ready batches are checked.
    pub validation: StoredValidation,
    /// Retention by age.
    pub retention_ms: Option<u64>,
    /// Retention by size.
    pub retention_bytes: Option<u64>,
    /// Bytes of a segment.
    pub segment_bytes: u64,
    /// Age of a segment.
    pub segment_ms: u64,
    /// Largest record.
    pub max_record_bytes: u64,
    /// Time between syncs at the floor `written`.
    pub flush_interval_ms: u64,
    /// Groups whose unread records are kept; a record of version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<StoredHolds>,
    /// Envelopes and event ids; a record of version 3.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub events: Option<StoredEvents>,
    /// Who answers for it.
    pub owner: String,
    /// What its records are.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// Groups whose unread records are kept, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredHolds {
    /// Their names.
    pub groups: Vec<String>,
    /// How long.
    pub max_ms: Option<u64>,
    /// How much.
    pub max_bytes: Option<u64>,
}

/// Envelopes and event ids, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoredEvents {
    /// What the topic does about envelopes.
    pub envelope: StoredEnvelope,
    /// How long repeats are found out; none: as the envelope says.
    pub window: Option<StoredWindow>,
    /// Ids at most.
    pub max_ids: u32,
}

/// What a topic does about envelopes, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredEnvelope {
    /// Nothing.
    Off,
    /// What is missing is added.
    Fill,
    /// What has none is refused.
    Required,
}

/// How long repeats of event ids are found out, as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredWindow {
    /// Never.
    Off,
    /// For so many milliseconds.
    Ms(u64),
    /// As long as the record is kept.
    Log,
}

/// A level of acknowledgement as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredAckLevel {
    /// In the page cache.
    Written,
    /// Synced.
    Durable,
}

/// A way of checking as stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StoredValidation {
    /// Record by record.
    Full,
    /// Header and checksum.
    Envelope,
}

impl StoredRevision {
    /// The stored form of a revision.
    pub fn of(revision: &TopicRevision) -> Self {
        let TopicRevision { revision, config, notes, updated_ms } = revision;
        Self {
            revision: *revision,
            updated_ms: *updated_ms,
            partitions: config.partitions,
            keyed: config.keyed,
            ack_floor: match config.ack_floor {
                AckLevel::Written => StoredAckLevel::Written,
                AckLevel::Durable => StoredAckLevel::Durable,
            },
            validation: match config.validation {
                Validation::Full => StoredValidation::Full,
                Validation::Envelope => StoredValidation::Envelope,
            },
            retention_ms: config.retention_ms,
            retention_bytes: config.retention_bytes,
            segment_bytes: config.segment_bytes,
            segment_ms: config.segment_ms,
            max_record_bytes: config.max_record_bytes,
            flush_interval_ms: config.flush_interval_ms,
            holds: StoredHolds::of(&config.holds),
            events: StoredEvents::of(&config.events),
            owner: notes.owner.clone(),
            description: notes.description.clone(),
            labels: notes.labels.clone(),
        }
    }

    /// The revision that is stored here.
    pub fn to_revision(&self) -> Arc<TopicRevision> {
        Arc::new(TopicRevision {
            revision: self.revision,
            config: TopicConfig {
                partitions: self.partitions,
                keyed: self.keyed,
                ack_floor: match self.ack_floor {
                    StoredAckLevel::Written => AckLevel::Written,
                    StoredAckLevel::Durable => AckLevel::Durable,
                },
                validation: match self.validation {
                    StoredValidation::Full => Validation::Full,
                    StoredValidation::Envelope => Validation::Envelope,
                },
                retention_ms: self.retention_ms,
                retention_bytes: self.retention_bytes,
                segment_bytes: self.segment_bytes,
                segment_ms: self.segment_ms,
                max_record_bytes: self.max_record_bytes,
                flush_interval_ms: self.flush_interval_ms,
                holds: self.holds.as_ref().map(StoredHolds::to_holds).unwrap_or_default(),
                events: self.events.map(StoredEvents::to_settings).unwrap_or_default(),
            },
            notes: TopicNotes {
                owner: self.owner.clone(),
                description: self.description.clone(),
                labels: self.labels.clone(),
            },
            updated_ms: self.updated_ms,
        })
    }
}

impl StoredHolds {
    fn of(holds: &GroupHolds) -> Option<Self> {
        let GroupHolds { groups, max_ms, max_bytes } = holds.clone();
        (*holds != GroupHolds::default()).then_some(Self { groups, max_ms, max_bytes })
    }

    fn to_holds(&self) -> GroupHolds {
        let Self { groups, max_ms, max_bytes } = self.clone();
        GroupHolds { groups, max_ms, max_bytes }
    }
}

impl StoredEvents {
    fn of(settings: &EventSettings) -> Option<Self> {
        let stored = Self {
            envelope: match settings.envelope {
                EnvelopePolicy::Off => StoredEnvelope::Off,
                EnvelopePolicy::Fill => StoredEnvelope::Fill,
                EnvelopePolicy::Required => StoredEnvelope::Required,
            },
            window: settings.window.map(|window| match window {
                DedupWindow::Off => StoredWindow::Off,
                DedupWindow::Ms(ms) => StoredWindow::Ms(ms),
                DedupWindow::Log => StoredWindow::Log,
            }),
            max_ids: settings.max_ids,
        };
        (*settings != EventSettings::default()).then_some(stored)
    }

    fn to_settings(self) -> EventSettings {
        EventSettings {
            envelope: match self.envelope {
                StoredEnvelope::Off => EnvelopePolicy::Off,
                StoredEnvelope::Fill => EnvelopePolicy::Fill,
                StoredEnvelope::Required => EnvelopePolicy::Required,
            },
            window: self.window.map(|window| match window {
                StoredWindow::Off => DedupWindow::Off,
                StoredWindow::Ms(ms) => DedupWindow::Ms(ms),
                StoredWindow::Log => DedupWindow::Log,
            }),
            max_ids: self.max_ids,
        }
    }
}

/// Why stored bytes are no change.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Written by a newer program.
    #[error("metadata record of version {found}; this program knows up to {RECORD_VERSION}")]
    Newer {
        /// Version found.
        found: u64,
    },
    /// Not what this program writes.
    #[error("metadata record: {0}")]
    Json(#[from] serde_json::Error),
}

/// The bytes of a change.
pub fn encode(records: Vec<MetadataRecord>) -> bytes::Bytes {
    let version = records.iter().map(MetadataRecord::version).max().unwrap_or(1);
    let change = Change { version, records };
    serde_json::to_vec(&change).expect("strings and integers always have a JSON form").into()
}

/// The records of a change.
///
/// # Errors
/// See [`DecodeError`].
pub fn decode(bytes: &[u8]) -> Result<Vec<MetadataRecord>, DecodeError> {
    match serde_json::from_slice::<Change>(bytes) {
        Ok(change) if change.version <= RECORD_VERSION => Ok(change.records),
        Ok(change) => Err(DecodeError::Newer { found: u64::from(change.version) }),
        Err(error) => {
            // A newer version may have records that this program cannot read: say so, rather than "damaged".
            let version = serde_json::from_slice::<serde_json::Value>(bytes).ok();
            match version.as_ref().and_then(|value| value.get("version")).and_then(serde_json::Value::as_u64) {
                Some(found) if found > u64::from(RECORD_VERSION) => Err(DecodeError::Newer { found }),
                _ => Err(error.into()),
            }
        }
    }
}

/// A UUID in its text form.
pub fn uuid_text(uuid: TopicUuid) -> String {
    uuid.to_string()
}

/// The UUID of a text.
pub fn parse_uuid(text: &str) -> Option<TopicUuid> {
    uuid::Uuid::parse_str(text).ok().map(|uuid| TopicUuid(uuid.into_bytes()))
}
