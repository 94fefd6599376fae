//! Between the messages of the wire and the types of the model. What a type cannot hold is refused here; bounds that
//! need knowledge of topics are checked by `topics`.

use std::time::Duration;

use sawlog_proto::v1;

use super::convert_events;
use super::status::{self, Problem};
use crate::model::{AckLevel, Filter, HeaderCondition, HeaderValue, Offset, PartitionEpoch, PartitionId, TopicName};
use crate::partition::{PartitionState, PartitionStatus};
use crate::topics::{GroupHolds, Topic, TopicConfig, TopicNotes, Validation};

/// A checked name of a topic.
pub(super) fn topic_name(field: &'static str, name: &str) -> Result<TopicName, Problem> {
    TopicName::parse(name).map_err(|rule| status::invalid_name(field, name, rule))
}

/// The level that a request asks for; `None`: the topic's floor.
pub(super) fn ack_level(field: &'static str, level: i32) -> Result<Option<AckLevel>, Problem> {
    match v1::AckLevel::try_from(level) {
        Ok(v1::AckLevel::Unspecified) => Ok(None),
        Ok(v1::AckLevel::Written) => Ok(Some(AckLevel::Written)),
        Ok(v1::AckLevel::Durable) => Ok(Some(AckLevel::Durable)),
        Err(_) => Err(status::invalid_field(field, level, "0, 1 (written) or 2 (durable)")),
    }
}

pub(super) fn ack_to_wire(level: AckLevel) -> v1::AckLevel {
    match level {
        AckLevel::Written => v1::AckLevel::Written,
        AckLevel::Durable => v1::AckLevel::Durable,
    }
}

/// An offset of the wire.
pub(super) fn offset(field: &'static str, value: i64) -> Result<Offset, Problem> {
    Offset::from_wire(value).ok_or_else(|| status::invalid_field(field, value, "at least 0"))
}

/// An epoch of the wire.
pub(super) fn epoch(field: &'static str, value: u32) -> Result<PartitionEpoch, Problem> {
    PartitionEpoch::new(value).ok_or_else(|| status::invalid_field(field, value, "at most 2147483647"))
}

/// The partitions that a request names, sorted and each once; all of them if it names none.
pub(super) fn partitions(topic: &Topic, named: &[u32]) -> Result<Vec<PartitionId>, Problem> {
    let count = topic.partitions().len() as u32;
    if let Some(missing) = named.iter().find(|partition| **partition >= count) {
        return Err(status::partition_not_found(topic.name.as_str(), *missing, count));
    }
    let mut ids: Vec<_> = if named.is_empty() { (0..count).collect() } else { named.to_vec() };
    ids.sort_unstable();
    ids.dedup();
    Ok(ids.into_iter().map(PartitionId).collect())
}

/// A filter of the wire.
pub(super) fn filter(filter: v1::ReadFilter) -> Filter {
    let condition = |header: v1::HeaderMatch| HeaderCondition {
        key: header.key,
        value: match header.value {
            None => HeaderValue::Any,
            Some(v1::header_match::Value::Equals(value)) => HeaderValue::Equals(value),
            Some(v1::header_match::Value::Prefix(value)) => HeaderValue::Prefix(value),
        },
    };
    Filter {
        key: filter.key,
        key_prefix: filter.key_prefix,
        headers: filter.headers.into_iter().map(condition).collect(),
    }
}

/// A filter for the wire.
pub(super) fn filter_to_wire(filter: &Filter) -> v1::ReadFilter {
    let condition = |header: &HeaderCondition| v1::HeaderMatch {
        key: header.key.clone(),
        value: match &header.value {
            HeaderValue::Any => None,
            HeaderValue::Equals(value) => Some(v1::header_match::Value::Equals(value.clone())),
            HeaderValue::Prefix(value) => Some(v1::header_match::Value::Prefix(value.clone())),
        },
    };
    v1::ReadFilter {
        key: filter.key.clone(),
        key_prefix: filter.key_prefix.clone(),
        headers: filter.headers.iter().map(condition).collect(),
    }
}

/// `base` with everything that `config` gives.
pub(super) fn merge_config(base: TopicConfig, config: &v1::TopicConfig) -> Result<TopicConfig, Problem> {
    let mut merged = base;
    merged.partitions = config.partitions.unwrap_or(merged.partitions);
    merged.keyed = config.keyed.unwrap_or(merged.keyed);
    merged.ack_floor = ack_level("config.ack_floor", config.ack_floor)?.unwrap_or(merged.ack_floor);
    merged.validation = match v1::Validation::try_from(config.validation) {
        Ok(v1::Validation::Unspecified) => merged.validation,
        Ok(v1::Validation::Full) => Validation::Full,
        Ok(v1::Validation::Envelope) => Validation::Envelope,
        Err(_) => {
            let bounds = "0, 1 (full) or 2 (envelope)";
            return Err(status::invalid_field("config.validation", config.validation, bounds));
        }
    };
    if let Some(value) = config.retention_ms {
        merged.retention_ms = unlimited("config.retention_ms", value)?;
    }
    if let Some(value) = config.retention_bytes {
        merged.retention_bytes = unlimited("config.retention_bytes", value)?;
    }
    set(&mut merged.segment_bytes, "config.segment_bytes", config.segment_bytes)?;
    set(&mut merged.segment_ms, "config.segment_ms", config.segment_ms)?;
    set(&mut merged.max_record_bytes, "config.max_record_bytes", config.max_record_bytes)?;
    set(&mut merged.flush_interval_ms, "config.flush_interval_ms", config.flush_interval_ms)?;
    if let Some(holds) = &config.hold_groups {
        merged.holds = group_holds(holds)?;
    }
    convert_events::merge(&mut merged.events, config)?;
    Ok(merged)
}

/// 0 means the default, as it does where nothing is given.
fn group_holds(holds: &v1::HoldGroups) -> Result<GroupHolds, Problem> {
    let given = |field, value: i64| -> Result<Option<u64>, Problem> {
        let value = u64::try_from(value).map_err(|_| status::invalid_field(field, value, "at least 0"))?;
        Ok((value > 0).then_some(value))
    };
    Ok(GroupHolds {
        groups: holds.groups.clone(),
        max_ms: given("config.hold_groups.max_ms", holds.max_ms)?,
        max_bytes: given("config.hold_groups.max_bytes", holds.max_bytes)?,
    })
}

fn set(to: &mut u64, field: &'static str, value: Option<i64>) -> Result<(), Problem> {
    if let Some(value) = value {
        *to = u64::try_from(value).map_err(|_| status::invalid_field(field, value, "at least 0"))?;
    }
    Ok(())
}

fn unlimited(field: &'static str, value: i64) -> Result<Option<u64>, Problem> {
    match value {
        -1 => Ok(None),
        _ => u64::try_from(value).map(Some).map_err(|_| status::invalid_field(field, value, "at least 0, or -1")),
    }
}

/// Settings and notes after a change of the fields that `mask` names.
pub(super) fn masked(
    config: TopicConfig,
    notes: TopicNotes,
    request: v1::UpdateTopicRequest,
) -> Result<(TopicConfig, TopicNotes), Problem> {
    let (given, mut chosen, mut notes) = (request.config.unwrap_or_default(), v1::TopicConfig::default(), notes);
    let paths = request.update_mask.map(|mask| mask.paths).unwrap_or_default();
    if paths.is_empty() {
        let bounds = "the fields to change, such as owner or config.retention_ms";
        return Err(status::invalid_field("update_mask", "nothing", bounds));
    }
    for path in &paths {
        match path.as_str() {
            "owner" => notes.owner = request.owner.clone(),
            "description" => notes.description = request.description.clone(),
            "labels" => notes.labels = request.labels.clone().into_iter().collect(),
            "config" => chosen = given.clone(),
            "config.partitions" => chosen.partitions = given.partitions,
            "config.keyed" => chosen.keyed = given.keyed,
            "config.ack_floor" => chosen.ack_floor = given.ack_floor,
            "config.validation" => chosen.validation = given.validation,
            "config.retention_ms" => chosen.retention_ms = given.retention_ms,
            "config.retention_bytes" => chosen.retention_bytes = given.retention_bytes,
            "config.segment_bytes" => chosen.segment_bytes = given.segment_bytes,
            "config.segment_ms" => chosen.segment_ms = given.segment_ms,
            "config.max_record_bytes" => chosen.max_record_bytes = given.max_record_bytes,
            "config.hold_groups" => chosen.hold_groups = Some(given.hold_groups.clone().unwrap_or_default()),
            "config.envelope" => chosen.envelope = given.envelope,
            "config.dedup_window_ms" => chosen.dedup_window_ms = given.dedup_window_ms,
            "config.dedup_max_ids" => chosen.dedup_max_ids = given.dedup_max_ids,
            "config.flush_interval_ms" => chosen.flush_interval_ms = given.flush_interval_ms,
            _ => return Err(status::invalid_field("update_mask", path, "fields of a topic")),
        }
    }
    Ok((merge_config(config, &chosen)?, notes))
}

pub(super) fn topic_to_wire(topic: &Topic) -> v1::Topic {
    let revision = topic.revision();
    v1::Topic {
        name: topic.name.to_string(),
        topic_id: topic.uuid.to_string(),
        revision: revision.revision,
        config: Some(config_to_wire(&revision.config)),
        owner: revision.notes.owner.clone(),
        description: revision.notes.description.clone(),
        labels: revision.notes.labels.clone().into_iter().collect(),
        hash_version: topic.hash_version,
        slot_hash_version: topic.slot_hash_version,
        create_time: Some(timestamp(topic.created_ms)),
        update_time: Some(timestamp(revision.updated_ms)),
        dead_letters_of: topic.dead_letters.as_deref().map(|of| v1::DeadLettersOf {
            topic: of.source_name.to_string(),
            topic_id: of.source.to_string(),
            group: of.group_name.clone(),
            group_id: of.group.0,
        }),
    }
}

fn config_to_wire(config: &TopicConfig) -> v1::TopicConfig {
    let wire = |value: u64| Some(i64::try_from(value).unwrap_or(i64::MAX));
    v1::TopicConfig {
        partitions: Some(config.partitions),
        keyed: Some(config.keyed),
        ack_floor: ack_to_wire(config.ack_floor).into(),
        validation: match config.validation {
            Validation::Full => v1::Validation::Full.into(),
            Validation::Envelope => v1::Validation::Envelope.into(),
        },
        retention_ms: config.retention_ms.map_or(Some(-1), wire),
        retention_bytes: config.retention_bytes.map_or(Some(-1), wire),
        segment_bytes: wire(config.segment_bytes),
        segment_ms: wire(config.segment_ms),
        max_record_bytes: wire(config.max_record_bytes),
        flush_interval_ms: wire(config.flush_interval_ms),
        hold_groups: Some(v1::HoldGroups {
            groups: config.holds.groups.clone(),
            max_ms: config.holds.max_ms.and_then(wire).unwrap_or(0),
            max_bytes: config.holds.max_bytes.and_then(wire).unwrap_or(0),
        })
        .filter(|holds| *holds != v1::HoldGroups::default()),
        envelope: convert_events::envelope_to_wire(config.events.envelope).into(),
        dedup_window_ms: Some(convert_events::window_to_wire(config.events.dedup_window())),
        dedup_max_ids: Some(i64::from(config.events.max_ids)),
    }
}

pub(super) fn partition_to_wire(partition: PartitionId, status: PartitionStatus) -> v1::PartitionDescription {
    let (state, state_reason) = match status.state {
        PartitionState::Online => (v1::PartitionState::Online, String::new()),
        PartitionState::Degraded(reason) => (v1::PartitionState::Degraded, reason),
        PartitionState::Fenced(reason) => (v1::PartitionState::Fenced, reason),
        PartitionState::Recovering => (v1::PartitionState::Recovering, String::new()),
    };
    let truncation = |cut: crate::partition::Truncation| v1::Truncation {
        offset: cut.offset.to_wire(),
        epoch: cut.epoch.get(),
        bytes: i64::try_from(cut.bytes).unwrap_or(i64::MAX),
        time: Some(timestamp(cut.time_ms)),
    };
    let damaged = status.damaged.iter();
    v1::PartitionDescription {
        partition: partition.0,
        log_start_offset: status.log_start.to_wire(),
        high_watermark: status.high_watermark.to_wire(),
        log_end_offset: status.log_end.to_wire(),
        durable_end_offset: status.durable_end.to_wire(),
        size_bytes: i64::try_from(status.size_bytes).unwrap_or(i64::MAX),
        segments: status.segments,
        epoch: status.epoch.get(),
        state: state.into(),
        state_reason,
        last_truncation: status.last_truncation.map(truncation),
        damaged: damaged.map(|range| v1::DamagedRange { from: range.from.to_wire(), to: range.to.to_wire() }).collect(),
        maybe_missing_from: status.maybe_missing_from.map(Offset::to_wire),
    }
}

/// A time of the wire in milliseconds since 1970.
pub(super) fn millis(field: &'static str, time: &prost_types::Timestamp) -> Result<i64, Problem> {
    let millis = time.seconds.checked_mul(1_000).and_then(|ms| ms.checked_add(i64::from(time.nanos / 1_000_000)));
    millis.ok_or_else(|| status::invalid_field(field, time.seconds, "a time that milliseconds can hold"))
}

pub(super) fn timestamp(ms: i64) -> prost_types::Timestamp {
    let since = Duration::from_millis(ms.unsigned_abs());
    let (seconds, nanos) = (since.as_secs() as i64, since.subsec_nanos() as i32);
    let mut timestamp = match ms < 0 {
        false => prost_types::Timestamp { seconds, nanos },
        true => prost_types::Timestamp { seconds: -seconds, nanos: -nanos },
    };
    timestamp.normalize();
    timestamp
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> TopicConfig {
        TopicConfig {
            partitions: 3,
            keyed: true,
            ack_floor: AckLevel::Durable,
            validation: Validation::Full,
            retention_ms: Some(1_000),
            retention_bytes: None,
            segment_bytes: 1 << 20,
            segment_ms: 60_000,
            max_record_bytes: 1 << 20,
            flush_interval_ms: 1_000,
            holds: GroupHolds::default(),
            events: crate::topics::EventSettings::default(),
        }
    }

    #[test]
    fn an_update_takes_only_what_its_mask_names() {
        let request = v1::UpdateTopicRequest {
            config: Some(v1::TopicConfig { retention_ms: Some(-1), partitions: Some(99), ..Default::default() }),
            owner: "new".into(),
            description: "new".into(),
            update_mask: Some(prost_types::FieldMask { paths: vec!["config.retention_ms".into(), "owner".into()] }),
            ..Default::default()
        };
        let notes = TopicNotes { description: "old".into(), ..TopicNotes::default() };
        let (changed, notes) = masked(config(), notes, request).expect("a change");
        assert_eq!(changed, TopicConfig { retention_ms: None, ..config() });
        assert_eq!((notes.owner.as_str(), notes.description.as_str()), ("new", "old"));
    }

    #[test]
    fn a_mask_without_fields_or_with_unknown_ones_is_refused() {
        for paths in [vec![], vec!["config.colour".to_owned()]] {
            let update_mask = Some(prost_types::FieldMask { paths });
            let request = v1::UpdateTopicRequest { update_mask, ..Default::default() };
            let refused = masked(config(), TopicNotes::default(), request).expect_err("refused");
            assert_eq!(refused.reason(), v1::ErrorReason::InvalidField);
        }
    }

    #[test]
    fn what_no_setting_can_hold_is_refused() {
        let cases = [
            v1::TopicConfig { retention_ms: Some(-2), ..Default::default() },
            v1::TopicConfig { segment_bytes: Some(-1), ..Default::default() },
            v1::TopicConfig { ack_floor: 9, ..Default::default() },
            v1::TopicConfig { validation: -1, ..Default::default() },
        ];
        for given in cases {
            assert!(merge_config(config(), &given).is_err(), "{given:?}");
        }
        let wire = config_to_wire(&config());
        let merged = merge_config(TopicConfig { partitions: 1, ..config() }, &wire).expect("all given");
        assert!(merged.differences(&config()).is_empty(), "{merged:?}");
    }

    #[test]
    fn times_before_1970_stay_well_formed() {
        assert_eq!(timestamp(-1), prost_types::Timestamp { seconds: -1, nanos: 999_000_000 });
        assert_eq!(timestamp(1_500), prost_types::Timestamp { seconds: 1, nanos: 500_000_000 });
    }
}
