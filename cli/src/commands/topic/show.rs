//! Topics and partitions as tables and as JSON.

use std::collections::BTreeMap;

use sawlog_client::types::Validation;
use sawlog_client::{Admin, EnvelopePolicy, EventIds, Partition, Topic};
use serde::Serialize;

use crate::arguments::Common;
use crate::client::failed;
use crate::failure::Outcome;
use crate::output::{self, Rows, human_bytes, human_span, human_time};

#[derive(Serialize)]
struct TopicAnswer<'a> {
    name: &'a str,
    topic_id: &'a str,
    revision: u64,
    partitions: u32,
    keyed: bool,
    ack_floor: Option<String>,
    validation: &'static str,
    retention_ms: Option<i64>,
    retention_bytes: Option<i64>,
    segment_bytes: Option<i64>,
    segment_ms: Option<i64>,
    max_record_bytes: Option<i64>,
    flush_interval_ms: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    hold_groups: Option<HoldGroupsAnswer<'a>>,
    envelope: &'static str,
    dedup_window_ms: Option<i64>,
    dedup_max_ids: Option<i64>,
    owner: &'a str,
    description: &'a str,
    labels: &'a BTreeMap<String, String>,
    hash_version: u32,
    create_time: String,
    update_time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    partition_states: Option<Vec<PartitionAnswer<'a>>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    event_ids: Option<EventIdsAnswer>,
}

#[derive(Serialize)]
struct EventIdsAnswer {
    ids: u64,
    max_ids: u64,
    /// Absent: as long as records are kept.
    span_ms: Option<u64>,
    ready: bool,
}

#[derive(Serialize)]
struct HoldGroupsAnswer<'a> {
    groups: &'a [String],
    max_ms: Option<i64>,
    max_bytes: Option<i64>,
}

#[derive(Serialize)]
struct PartitionAnswer<'a> {
    partition: u32,
    state: String,
    #[serde(skip_serializing_if = "str::is_empty")]
    state_reason: &'a str,
    log_start_offset: u64,
    high_watermark: u64,
    log_end_offset: u64,
    durable_end_offset: u64,
    size_bytes: u64,
    segments: u32,
    epoch: u32,
    last_truncation: Option<TruncationAnswer>,
    damaged: &'a [(u64, u64)],
    maybe_missing_from: Option<u64>,
}

#[derive(Serialize)]
struct TruncationAnswer {
    offset: u64,
    epoch: u32,
    bytes: u64,
    time: String,
}

fn answer<'a>(topic: &'a Topic, partitions: Option<&'a [Partition]>, event_ids: Option<EventIds>) -> TopicAnswer<'a> {
    let config = &topic.config;
    TopicAnswer {
        name: &topic.name,
        topic_id: topic.topic_id.as_str(),
        revision: topic.revision,
        partitions: topic.partitions(),
        keyed: topic.keyed(),
        ack_floor: config.ack_floor.map(|level| level.to_string()),
        validation: validation(topic),
        retention_ms: config.retention_ms,
        retention_bytes: config.retention_bytes,
        segment_bytes: config.segment_bytes,
        segment_ms: config.segment_ms,
        max_record_bytes: config.max_record_bytes,
        flush_interval_ms: config.flush_interval_ms,
        hold_groups: config.hold_groups.as_ref().map(|holds| HoldGroupsAnswer {
            groups: &holds.groups,
            max_ms: holds.max_ms,
            max_bytes: holds.max_bytes,
        }),
        envelope: envelope(topic),
        dedup_window_ms: config.dedup_window_ms,
        dedup_max_ids: config.dedup_max_ids,
        owner: &topic.owner,
        description: &topic.description,
        labels: &topic.labels,
        hash_version: topic.hash_version,
        create_time: human_time(topic.create_time_ms),
        update_time: human_time(topic.update_time_ms),
        partition_states: partitions.map(|partitions| partitions.iter().map(partition_answer).collect()),
        event_ids: event_ids.map(|ids| EventIdsAnswer {
            ids: ids.ids,
            max_ids: ids.max_ids,
            span_ms: ids.span_ms,
            ready: ids.ready,
        }),
    }
}

fn partition_answer(partition: &Partition) -> PartitionAnswer<'_> {
    PartitionAnswer {
        partition: partition.partition,
        state: partition.state.to_string(),
        state_reason: &partition.state_reason,
        log_start_offset: partition.log_start_offset,
        high_watermark: partition.high_watermark,
        log_end_offset: partition.log_end_offset,
        durable_end_offset: partition.durable_end_offset,
        size_bytes: partition.size_bytes,
        segments: partition.segments,
        epoch: partition.epoch,
        last_truncation: partition.last_truncation.map(|cut| TruncationAnswer {
            offset: cut.offset,
            epoch: cut.epoch,
            bytes: cut.bytes,
            time: human_time(cut.time_ms),
        }),
        damaged: &partition.damaged,
        maybe_missing_from: partition.maybe_missing_from,
    }
}

fn validation(topic: &Topic) -> &'static str {
    match topic.config.validation {
        Some(Validation::Envelope) => "envelope",
        _ => "full",
    }
}

fn envelope(topic: &Topic) -> &'static str {
    match topic.config.envelope {
        Some(EnvelopePolicy::Fill) => "fill",
        Some(EnvelopePolicy::Required) => "required",
        _ => "off",
    }
}

fn dedup_window(topic: &Topic) -> String {
    match topic.config.dedup_window_ms {
        None | Some(0) => "off".to_owned(),
        Some(-1) => "log".to_owned(),
        Some(ms) => human_span(ms),
    }
}

fn bytes_or_unlimited(bytes: Option<i64>) -> String {
    bytes.and_then(|bytes| u64::try_from(bytes).ok()).map_or_else(|| "unlimited".to_owned(), human_bytes)
}

/// Prints the topics whose names begin with `prefix`.
pub(super) async fn list(admin: &Admin, prefix: &str, common: &Common) -> Outcome {
    let topics = admin.list_topics(prefix).await.map_err(failed)?;
    if common.json() {
        return topics.iter().try_for_each(|topic| output::json_line(&answer(topic, None, None)));
    }
    if topics.is_empty() {
        output::talk("there is no topic; `sawlog topic create NAME` makes one");
        return Ok(());
    }
    let mut rows = Rows::new(&["name", ">partitions", "keyed", "ack", "retention", "owner", "description"]);
    for topic in &topics {
        let ack = topic.config.ack_floor.map(|level| level.to_string()).unwrap_or_default();
        rows.add([
            topic.name.as_str(),
            &topic.partitions().to_string(),
            if topic.keyed() { "yes" } else { "no" },
            &ack,
            &human_span(topic.config.retention_ms.unwrap_or(-1)),
            &topic.owner,
            &topic.description,
        ]);
    }
    rows.print()
}

/// Prints a topic with its partitions.
pub(super) async fn show(admin: &Admin, name: &str, common: &Common) -> Outcome {
    let topic = admin.get_topic(name).await.map_err(failed)?;
    let partitions = admin.describe_partitions(name, &[]).await.map_err(failed)?;
    let event_ids = admin.event_ids(name).await.map_err(failed)?;
    if common.json() {
        return output::json_line(&answer(&topic, Some(&partitions), event_ids));
    }
    let mut rows = settings(&topic);
    if let Some(ids) = event_ids {
        let span = ids.span_ms.map_or_else(|| "as records are kept".to_owned(), |ms| human_span(ms.cast_signed()));
        let count = format!("{} of {}", output::grouped(ids.ids), output::grouped(ids.max_ids));
        rows.add(["event ids".to_owned(), format!("{count}, repeats found for {span}")]);
    }
    rows.print()?;
    output::data_line("")?;
    partition_rows(&partitions).print()
}

/// Prints a topic without its partitions.
pub(super) fn topic(topic: &Topic, common: &Common) -> Outcome {
    if common.json() { output::json_line(&answer(topic, None, None)) } else { settings(topic).print() }
}

/// Prints partitions.
pub(super) fn partitions(partitions: &[Partition], common: &Common) -> Outcome {
    if common.json() {
        return partitions.iter().try_for_each(|partition| output::json_line(&partition_answer(partition)));
    }
    partition_rows(partitions).print()
}

fn settings(topic: &Topic) -> Rows {
    let config = &topic.config;
    let labels: Vec<_> = topic.labels.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let lines = [
        ("name", topic.name.clone()),
        ("id", topic.topic_id.to_string()),
        ("revision", topic.revision.to_string()),
        ("partitions", topic.partitions().to_string()),
        ("keyed", if topic.keyed() { "yes" } else { "no" }.to_owned()),
        ("ack", config.ack_floor.map(|level| level.to_string()).unwrap_or_default()),
        ("validate", validation(topic).to_owned()),
        ("retention", human_span(config.retention_ms.unwrap_or(-1))),
        ("retention bytes", bytes_or_unlimited(config.retention_bytes)),
        ("segment bytes", bytes_or_unlimited(config.segment_bytes)),
        ("segment age", human_span(config.segment_ms.unwrap_or(-1))),
        ("largest record", bytes_or_unlimited(config.max_record_bytes)),
        ("flush interval", human_span(config.flush_interval_ms.unwrap_or(-1))),
        ("held for groups", config.hold_groups.as_ref().map(|holds| holds.groups.join(", ")).unwrap_or_default()),
        ("envelope", envelope(topic).to_owned()),
        ("dedup window", dedup_window(topic)),
        ("owner", topic.owner.clone()),
        ("description", topic.description.clone()),
        ("labels", labels.join(", ")),
        ("created", human_time(topic.create_time_ms)),
        ("changed", human_time(topic.update_time_ms)),
    ];
    let mut rows = Rows::new(&["setting", "value"]);
    for (name, value) in lines {
        rows.add([name.to_owned(), value]);
    }
    rows
}

fn partition_rows(partitions: &[Partition]) -> Rows {
    let mut rows = Rows::new(&[
        ">partition",
        ">start",
        ">high watermark",
        ">end",
        ">durable",
        ">size",
        ">segments",
        ">epoch",
        "state",
    ]);
    for partition in partitions {
        let state = if partition.state_reason.is_empty() {
            partition.state.to_string()
        } else {
            format!("{}: {}", partition.state, partition.state_reason)
        };
        rows.add([
            partition.partition.to_string(),
            partition.log_start_offset.to_string(),
            partition.high_watermark.to_string(),
            partition.log_end_offset.to_string(),
            partition.durable_end_offset.to_string(),
            human_bytes(partition.size_bytes),
            partition.segments.to_string(),
            partition.epoch.to_string(),
            state,
        ]);
    }
    rows
}
