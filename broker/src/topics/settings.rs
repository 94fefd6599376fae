//! What can be chosen for a topic, with its bounds.
//!
//! Every value that is stored has passed [`TopicConfig::check`] or [`TopicNotes::check`].

use std::collections::BTreeMap;

use super::error::TopicError;
use super::event_ids::EventSettings;
use super::holds::GroupHolds;
use crate::limits;
use crate::model::AckLevel;

/// How ready batches are checked (rule PR-13).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validation {
    /// Uncompressed batches are walked record by record.
    Full,
    /// Only header and checksum.
    Envelope,
}

/// Settings of a topic, all given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicConfig {
    /// Number of partitions, 1 to 1,024.
    pub partitions: u32,
    /// Whether each record must have a key, which chooses its partition.
    pub keyed: bool,
    /// The least level of acknowledgement.
    pub ack_floor: AckLevel,
    /// How ready batches are checked.
    pub validation: Validation,
    /// Age in milliseconds at which sealed segments go; `None`: never.
    pub retention_ms: Option<u64>,
    /// Bytes per partition above which the oldest sealed segments go; `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// Bytes at which the active segment is sealed.
    pub segment_bytes: u64,
    /// Age in milliseconds at which a non-empty active segment is sealed.
    pub segment_ms: u64,
    /// Largest record in bytes.
    pub max_record_bytes: u64,
    /// With the floor `written`: longest time in milliseconds until records are synced.
    pub flush_interval_ms: u64,
    /// Groups whose unread records retention keeps.
    pub holds: GroupHolds,
    /// Envelopes and event ids.
    pub events: EventSettings,
}

/// What people say about a topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TopicNotes {
    /// Who answers for it.
    pub owner: String,
    /// What its records are.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

/// The changeable part of a topic at one revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicRevision {
    /// Rises with every change.
    pub revision: u64,
    /// Settings.
    pub config: TopicConfig,
    /// Notes.
    pub notes: TopicNotes,
    /// When it was last changed, milliseconds since 1970.
    pub updated_ms: i64,
}

/// A change of a topic.
#[derive(Debug, Clone)]
pub struct TopicUpdate {
    /// The revision that must be current.
    pub if_revision: Option<u64>,
    /// Takes the current settings and notes to the new ones.
    pub config: TopicConfig,
    /// New notes.
    pub notes: TopicNotes,
}

/// A field that is out of its bounds.
fn out_of_bounds(field: &'static str, found: impl ToString, bounds: impl ToString) -> TopicError {
    TopicError::Field { field, found: found.to_string(), bounds: bounds.to_string() }
}

pub(super) fn within(field: &'static str, value: u64, least: u64, most: u64) -> Result<(), TopicError> {
    if (least..=most).contains(&value) {
        return Ok(());
    }
    Err(out_of_bounds(field, value, format_args!("{least} to {most}")))
}

impl TopicConfig {
    /// Checks every setting against its bounds.
    ///
    /// # Errors
    /// [`TopicError::Field`] names the first that is out of its bounds.
    pub fn check(&self) -> Result<(), TopicError> {
        within("config.partitions", u64::from(self.partitions), 1, u64::from(limits::PARTITIONS_PER_TOPIC))?;
        if let Some(ms) = self.retention_ms {
            within("config.retention_ms", ms, 1, limits::DURATION_MS_MAX)?;
        }
        if let Some(bytes) = self.retention_bytes {
            within("config.retention_bytes", bytes, 1, i64::MAX as u64)?;
        }
        within("config.segment_bytes", self.segment_bytes, limits::SEGMENT_BYTES_MIN, limits::SEGMENT_BYTES_MAX)?;
        within("config.segment_ms", self.segment_ms, limits::SEGMENT_MS_MIN, limits::DURATION_MS_MAX)?;
        within("config.max_record_bytes", self.max_record_bytes, 1, limits::RECORD_BYTES_MAX)?;
        let (least, most) = (limits::FLUSH_INTERVAL_MS_MIN, limits::FLUSH_INTERVAL_MS_MAX);
        within("config.flush_interval_ms", self.flush_interval_ms, least, most)?;
        self.holds.check()?;
        self.events.check()
    }

    /// Names of the settings in which two configurations differ, with both values.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        let mut compare = |field: &str, here: String, there: String| {
            if here != there {
                found.push(format!("{field} ({here}, asked for {there})"));
            }
        };
        let limit = |value: Option<u64>| value.map_or_else(|| "-1".to_owned(), |value| value.to_string());
        compare("partitions", self.partitions.to_string(), other.partitions.to_string());
        compare("keyed", self.keyed.to_string(), other.keyed.to_string());
        compare("ack_floor", format!("{:?}", self.ack_floor), format!("{:?}", other.ack_floor));
        compare("validation", format!("{:?}", self.validation), format!("{:?}", other.validation));
        compare("retention_ms", limit(self.retention_ms), limit(other.retention_ms));
        compare("retention_bytes", limit(self.retention_bytes), limit(other.retention_bytes));
        compare("segment_bytes", self.segment_bytes.to_string(), other.segment_bytes.to_string());
        compare("segment_ms", self.segment_ms.to_string(), other.segment_ms.to_string());
        compare("max_record_bytes", self.max_record_bytes.to_string(), other.max_record_bytes.to_string());
        compare("flush_interval_ms", self.flush_interval_ms.to_string(), other.flush_interval_ms.to_string());
        compare("hold_groups", format!("{:?}", self.holds), format!("{:?}", other.holds));
        for (field, here, there) in self.events.compared(&other.events) {
            compare(field, here, there);
        }
        found
    }
}

impl TopicNotes {
    /// Checks lengths and counts.
    ///
    /// # Errors
    /// [`TopicError::Field`] names the first that is out of its bounds.
    pub fn check(&self) -> Result<(), TopicError> {
        let bytes = |field, text: &str, most: usize| within(field, text.len() as u64, 0, most as u64);
        bytes("owner", &self.owner, limits::OWNER_BYTES)?;
        bytes("description", &self.description, limits::DESCRIPTION_BYTES)?;
        within("labels", self.labels.len() as u64, 0, limits::LABELS as u64)?;
        for (key, value) in &self.labels {
            if key.is_empty() {
                return Err(out_of_bounds("labels", "an empty label name", "1 byte at least"));
            }
            bytes("labels", key, limits::LABEL_KEY_BYTES)?;
            bytes("labels", value, limits::LABEL_VALUE_BYTES)?;
        }
        Ok(())
    }

    /// Names of the notes that differ.
    pub fn differences(&self, other: &Self) -> Vec<String> {
        let mut found = Vec::new();
        for (field, equal) in [
            ("owner", self.owner == other.owner),
            ("description", self.description == other.description),
            ("labels", self.labels == other.labels),
        ] {
            if !equal {
                found.push(field.to_owned());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::super::event_ids::DedupWindow;
    use super::*;

    fn config() -> TopicConfig {
        TopicConfig {
            partitions: 1,
            keyed: true,
            ack_floor: AckLevel::Durable,
            validation: Validation::Full,
            retention_ms: None,
            retention_bytes: None,
            segment_bytes: 1 << 20,
            segment_ms: 1_000,
            max_record_bytes: 1 << 20,
            flush_interval_ms: 1_000,
            holds: GroupHolds::default(),
            events: EventSettings::default(),
        }
    }

    #[test]
    fn every_setting_has_bounds_and_says_them() {
        type Change = fn(&mut TopicConfig);
        let cases: [(Change, &str); 15] = [
            (|c| c.partitions = 0, "config.partitions"),
            (|c| c.partitions = 1_025, "config.partitions"),
            (|c| c.retention_ms = Some(0), "config.retention_ms"),
            (|c| c.retention_bytes = Some(0), "config.retention_bytes"),
            (|c| c.segment_bytes = (1 << 20) - 1, "config.segment_bytes"),
            (|c| c.segment_ms = 999, "config.segment_ms"),
            (|c| c.max_record_bytes = (4 << 20) + 1, "config.max_record_bytes"),
            (|c| c.flush_interval_ms = 60_001, "config.flush_interval_ms"),
            (|c| c.holds.groups = vec!["g".into(); 17], "config.hold_groups.groups"),
            (|c| c.holds.groups = vec!["a/b".into()], "config.hold_groups.groups"),
            (|c| c.holds.max_ms = Some(0), "config.hold_groups.max_ms"),
            (|c| c.holds.max_bytes = Some(0), "config.hold_groups.max_bytes"),
            (|c| c.events.window = Some(DedupWindow::Ms(999)), "config.dedup_window_ms"),
            (|c| c.events.max_ids = 0, "config.dedup_max_ids"),
            (|c| c.events.max_ids = 1_000_001, "config.dedup_max_ids"),
        ];
        assert!(config().check().is_ok());
        for (change, expected) in cases {
            let mut config = config();
            change(&mut config);
            match config.check() {
                Err(TopicError::Field { field, bounds, .. }) => {
                    assert_eq!(field, expected);
                    assert!(bounds.contains(" to ") || field.ends_with("groups"), "{bounds}");
                }
                other => panic!("{expected}: {other:?}"),
            }
        }
    }

    #[test]
    fn notes_have_bounds_in_bytes_and_counts() {
        let long = |bytes| "x".repeat(bytes);
        let labels = |count: usize| (0..count).map(|index| (index.to_string(), String::new())).collect();
        let cases = [
            (TopicNotes { owner: long(256), ..TopicNotes::default() }, "owner"),
            (TopicNotes { description: long(4_097), ..TopicNotes::default() }, "description"),
            (TopicNotes { labels: labels(65), ..TopicNotes::default() }, "labels"),
            (TopicNotes { labels: [(long(129), String::new())].into(), ..TopicNotes::default() }, "labels"),
            (TopicNotes { labels: [(String::new(), String::new())].into(), ..TopicNotes::default() }, "labels"),
        ];
        for (notes, expected) in cases {
            assert!(matches!(notes.check(), Err(TopicError::Field { field, .. }) if field == expected));
        }
        let full = TopicNotes { owner: long(255), description: long(4_096), labels: labels(64) };
        assert!(full.check().is_ok());
    }

    #[test]
    fn differences_name_the_fields_with_both_values() {
        let other = TopicConfig { partitions: 4, retention_ms: Some(5), ..config() };
        let found = config().differences(&other);
        assert_eq!(found, ["partitions (1, asked for 4)", "retention_ms (-1, asked for 5)"]);
        assert!(config().differences(&config()).is_empty());
    }
}
