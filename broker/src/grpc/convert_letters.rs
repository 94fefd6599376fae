//! Between the messages of the wire and what is asked and told of dead letters and their jobs.

use sawlog_proto::batch::{BatchRecord, RecordHeader};
use sawlog_proto::v1;

use super::convert::{self, timestamp};
use super::convert_groups::{NOTE_BYTES, dead_reason, entry_kind, text};
use super::ids;
use super::status::{self, Problem};
use crate::coordinator::types::{Act, DeadReason, EntryKey, EntryKind, EntryState};
use crate::dead_letter::views::{
    Edit, EntryDetails, EntryView, EventView, HeadOf, HeadView, JobState, JobView, RedriveOrder, RedrivePreview,
    RedriveRequest, RedriveTarget, Selector, StateName, VersionView,
};
use crate::limits;
use crate::model::{GroupId, HeaderCondition, HeaderValue, PartitionId};

/// Ids of a selector.
const IDS: usize = 1_000;
/// Header conditions of a selector.
const CONDITIONS: usize = 16;
/// Every state: what an export takes if the request does not say.
pub(super) const ALL_STATES: [StateName; 8] = [
    StateName::Open,
    StateName::Spilled,
    StateName::Redriving,
    StateName::Resolved,
    StateName::Discarded,
    StateName::Moved,
    StateName::Cleared,
    StateName::Expired,
];
/// Failures after which a job pauses, if the request does not say (rule RD-7).
const ABORT_AFTER: u32 = 10;

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// The group and key of an entry; of another group than the one asked there is none.
fn key_of(group: GroupId, field: &'static str, id: &str) -> Result<EntryKey, Problem> {
    match ids::parse_dlq_id(field, id)? {
        (of, key) if of == group => Ok(key),
        _ => Err(status::entry_not_found(id)),
    }
}

pub(super) fn selector(group: GroupId, given: v1::EntrySelector) -> Result<Selector, Problem> {
    if given.dlq_ids.len() > IDS {
        return Err(status::invalid_field("selector.dlq_ids", given.dlq_ids.len(), "at most 1000"));
    }
    if given.headers.len() > CONDITIONS {
        return Err(status::invalid_field("selector.headers", given.headers.len(), "at most 16"));
    }
    let ids: Result<Vec<_>, _> = given.dlq_ids.iter().map(|id| key_of(group, "selector.dlq_ids", id)).collect();
    let states: Result<Vec<_>, _> = given.states.iter().map(|state| state_name(*state)).collect();
    let kind = match v1::EntryKind::try_from(given.kind) {
        Ok(v1::EntryKind::Unspecified) => None,
        Ok(v1::EntryKind::Failed) => Some(EntryKind::Failed),
        Ok(v1::EntryKind::Parked) => Some(EntryKind::Parked),
        Err(_) => return Err(status::invalid_field("selector.kind", given.kind, "0, 1 (failed) or 2 (parked)")),
    };
    let time = |field, time: &Option<prost_types::Timestamp>| {
        time.as_ref().map(|time| convert::millis(field, time)).transpose()
    };
    Ok(Selector {
        ids: ids?,
        topic: some(text("selector.topic", given.topic, 2 * limits::NAME_BYTES)?),
        partition: given.partition.map(PartitionId),
        key: given.key,
        states: states?,
        kind,
        class: some(text("selector.error_class", given.error_class, limits::ERROR_CLASS_BYTES)?),
        fingerprint: some(text("selector.fingerprint", given.fingerprint, limits::ERROR_CLASS_BYTES)?),
        dead_from_ms: time("selector.dead_from", &given.dead_from)?,
        dead_before_ms: time("selector.dead_before", &given.dead_before)?,
        headers: convert::filter(v1::ReadFilter { headers: given.headers, ..Default::default() }).headers,
        reason: reason(given.reason)?,
    })
}

fn reason(reason: i32) -> Result<Option<DeadReason>, Problem> {
    Ok(match v1::DeadReason::try_from(reason) {
        Ok(v1::DeadReason::Unspecified) => None,
        Ok(v1::DeadReason::Attempts) => Some(DeadReason::Attempts),
        Ok(v1::DeadReason::NonRetryable) => Some(DeadReason::NonRetryable),
        Ok(v1::DeadReason::ConsumerDeadNack) => Some(DeadReason::ConsumerDeadNack),
        Ok(v1::DeadReason::LeaseExpired) => Some(DeadReason::LeaseExpired),
        Ok(v1::DeadReason::ConsumerCrash) => Some(DeadReason::ConsumerCrash),
        Ok(v1::DeadReason::Undecodable) => Some(DeadReason::Undecodable),
        Ok(v1::DeadReason::Spill) => Some(DeadReason::Spill),
        Ok(v1::DeadReason::Parked) => Some(DeadReason::Parked),
        Ok(v1::DeadReason::Schema) | Err(_) => {
            return Err(status::invalid_field("selector.reason", reason, "a reason that this version gives"));
        }
    })
}

fn state_name(state: i32) -> Result<StateName, Problem> {
    Ok(match v1::EntryState::try_from(state) {
        Ok(v1::EntryState::Open) => StateName::Open,
        Ok(v1::EntryState::Spilled) => StateName::Spilled,
        Ok(v1::EntryState::Redriving) => StateName::Redriving,
        Ok(v1::EntryState::Resolved) => StateName::Resolved,
        Ok(v1::EntryState::Discarded) => StateName::Discarded,
        Ok(v1::EntryState::Moved) => StateName::Moved,
        Ok(v1::EntryState::Cleared) => StateName::Cleared,
        Ok(v1::EntryState::Expired) => StateName::Expired,
        Ok(v1::EntryState::Unspecified) | Err(_) => {
            return Err(status::invalid_field("selector.states", state, "1 to 8"));
        }
    })
}

fn state_to_wire(state: StateName) -> v1::EntryState {
    match state {
        StateName::Open => v1::EntryState::Open,
        StateName::Spilled => v1::EntryState::Spilled,
        StateName::Redriving => v1::EntryState::Redriving,
        StateName::Resolved => v1::EntryState::Resolved,
        StateName::Discarded => v1::EntryState::Discarded,
        StateName::Moved => v1::EntryState::Moved,
        StateName::Cleared => v1::EntryState::Cleared,
        StateName::Expired => v1::EntryState::Expired,
    }
}

pub(super) fn edit(group: GroupId, request: v1::EditEntryRequest, actor: String) -> Result<Edit, Problem> {
    use v1::edit_entry_request::Payload;
    let key = key_of(group, "dlq_id", &request.dlq_id)?;
    let header = |header: v1::Header| RecordHeader { key: header.key.into(), value: Some(header.value) };
    if request.note.trim().is_empty() {
        return Err(status::invalid_field("note", "nothing", "why the dead letter is edited"));
    }
    Ok(Edit {
        key,
        value: request.payload.map(|payload| match payload {
            Payload::Value(value) => Some(value),
            Payload::Tombstone(_) => None,
        }),
        headers: request.headers.map(|headers| headers.headers.into_iter().map(header).collect()),
        record_key: request.key,
        versions: request.versions,
        actor,
        note: text("note", request.note, NOTE_BYTES)?,
    })
}

pub(super) fn head(group: GroupId, given: Option<v1::LaneHead>) -> Result<HeadOf, Problem> {
    use v1::lane_head::Lane;
    let nothing = || status::invalid_field("head", "nothing", "key, dlq_id or offset");
    let given = given.ok_or_else(nothing)?;
    let topic = || some(given.topic.clone()).ok_or_else(|| status::invalid_field("head.topic", "nothing", "the topic"));
    match given.lane.ok_or_else(nothing)? {
        Lane::Key(key) => Ok(HeadOf::Key { topic: topic()?, key }),
        Lane::DlqId(id) => Ok(HeadOf::Entry(key_of(group, "head.dlq_id", &id)?)),
        Lane::Offset(offset) => {
            let partition = given.partition.map(PartitionId);
            let missing = || status::invalid_field("head.partition", "nothing", "the partition of the offset");
            Ok(HeadOf::Offset {
                topic: topic()?,
                partition: partition.ok_or_else(missing)?,
                offset: convert::offset("head.offset", offset)?,
            })
        }
    }
}

pub(super) fn redrive(
    group: GroupId,
    request: v1::StartRedriveRequest,
    actor: String,
) -> Result<RedriveRequest, Problem> {
    let order = match v1::RedriveOrder::try_from(request.order) {
        Ok(v1::RedriveOrder::Unspecified | v1::RedriveOrder::OldestFirst) => RedriveOrder::OldestFirst,
        Ok(v1::RedriveOrder::NewestFirst) => RedriveOrder::NewestFirst,
        Err(_) => return Err(status::invalid_field("order", request.order, "0, 1 (oldest) or 2 (newest first)")),
    };
    let target = match v1::RedriveTarget::try_from(request.target) {
        Ok(v1::RedriveTarget::Unspecified | v1::RedriveTarget::Group) => RedriveTarget::Group,
        Ok(v1::RedriveTarget::Topic) => {
            let topic = some(request.target_topic);
            if let Some(topic) = &topic {
                convert::topic_name("target_topic", topic)?;
            }
            RedriveTarget::Topic(topic)
        }
        Err(_) => return Err(status::invalid_field("target", request.target, "0, 1 (group) or 2 (topic)")),
    };
    Ok(RedriveRequest {
        selector: selector(group, request.selector.unwrap_or_default())?,
        rate: request.rate,
        order,
        abort_after_failures: request.abort_after_failures.unwrap_or(ABORT_AFTER),
        target,
        actor,
        note: text("note", request.note, NOTE_BYTES)?,
    })
}

pub(super) fn entry(view: EntryView) -> v1::Entry {
    let EntryView { group, key, group_name, topic, dlq_topic, entry, copy, expire_ms, record } = view;
    let state = StateName::of(&entry);
    let (class, fingerprint) = (entry.class.clone().unwrap_or_default(), entry.fingerprint.clone().unwrap_or_default());
    let error = match &copy {
        Some(copy) => v1::HandlerError {
            class: some(class).unwrap_or_else(|| copy.error.class.clone()),
            message: copy.error.message.clone(),
            stack: copy.error.stack.clone(),
            fingerprint: some(fingerprint).unwrap_or_else(|| copy.error.fingerprint.clone()),
        },
        None => v1::HandlerError { class, fingerprint, ..Default::default() },
    };
    let version = match entry.state {
        EntryState::Resolved { version } => version,
        _ => 0,
    };
    let closed = entry.state.is_closed().then(|| event_of(state, &entry.act, entry.cycle, version));
    let time = |of: fn(&crate::dead_letter::views::CopyView) -> Option<i64>| copy.as_ref().and_then(of).map(timestamp);
    v1::Entry {
        dlq_id: ids::dlq_id(group, &key),
        group: group_name,
        topic,
        source: Some(position(&key)),
        key: copy.as_ref().and_then(|copy| copy.key.clone()),
        kind: entry_kind(entry.kind).into(),
        state: state_to_wire(state).into(),
        reason: dead_reason(entry.reason).into(),
        cycle: entry.cycle,
        attempts: entry.attempts,
        append_time: time(|copy| Some(copy.append_ms)),
        first_failure_time: time(|copy| copy.first_failure_ms),
        last_failure_time: time(|copy| copy.last_failure_ms),
        dead_time: Some(timestamp(entry.dead_ms)),
        error: Some(error),
        member_id: copy.as_ref().and_then(|copy| copy.member).map(|member| member.to_string()).unwrap_or_default(),
        client_version: copy.as_ref().map(|copy| copy.client_version.clone()).unwrap_or_default(),
        blocked_by: entry.blocked_by.map(|head| ids::dlq_id(group, &head)).unwrap_or_default(),
        versions: entry.versions.len() as u32,
        job_id: entry.job.map(|job| ids::job_id(group, job)).unwrap_or_default(),
        source_lost: entry.source_lost,
        closed,
        expire_time: expire_ms.map(timestamp),
        dlq_topic,
        dlq_offset: copy.is_some().then(|| entry.copy.to_wire()),
        record: record.map(record_to_wire),
    }
}

fn position(key: &EntryKey) -> v1::Position {
    v1::Position {
        topic_id: key.source.topic.to_string(),
        partition: key.source.partition.0,
        epoch: key.epoch.get(),
        offset: key.offset.to_wire(),
    }
}

fn record_to_wire(record: BatchRecord) -> v1::Record {
    let header = |header: RecordHeader| v1::Header {
        // Names are UTF-8 by contract, which batches of other clients may break.
        key: String::from_utf8_lossy(&header.key).into_owned(),
        value: header.value.unwrap_or_default(),
    };
    v1::Record {
        key: record.key,
        value: record.value,
        headers: record.headers.into_iter().map(header).collect(),
        timestamp_ms: Some(record.timestamp_ms),
    }
}

fn event_of(state: StateName, act: &Act, cycle: u32, version: u32) -> v1::EntryEvent {
    v1::EntryEvent {
        state: state_to_wire(state).into(),
        time: Some(timestamp(act.time_ms)),
        actor: act.actor.clone(),
        note: act.note.clone(),
        cycle,
        version,
    }
}

pub(super) fn details(details: EntryDetails) -> v1::GetEntryResponse {
    let version = |version: VersionView| v1::EntryVersion {
        version: version.version,
        record: version.record.map(record_to_wire),
        actor: version.act.actor,
        note: version.act.note,
        time: Some(timestamp(version.act.time_ms)),
    };
    let event = |event: EventView| event_of(event.state, &event.act, event.cycle, event.version);
    v1::GetEntryResponse {
        entry: Some(entry(details.view)),
        versions: details.versions.into_iter().map(version).collect(),
        history: details.history.into_iter().map(event).collect(),
    }
}

/// Position, id and job of a lane's head.
pub(super) fn head_to_wire(group: GroupId, head: HeadView) -> (v1::Position, String, String) {
    let dlq_id = if head.is_entry { ids::dlq_id(group, &head.record) } else { String::new() };
    (position(&head.record), dlq_id, head.job.map(|job| job.to_string()).unwrap_or_default())
}

pub(super) fn preview(preview: RedrivePreview) -> v1::RedrivePreview {
    let counts =
        |counts: Vec<(String, u64)>| counts.into_iter().map(|(name, count)| v1::NamedCount { name, count }).collect();
    v1::RedrivePreview {
        entries: preview.entries,
        keys: preview.keys,
        by_key: counts(preview.by_key),
        by_class: counts(preview.by_class),
        first: preview.first.into_iter().map(entry).collect(),
    }
}

pub(super) fn job(view: JobView) -> v1::Job {
    let (target, target_topic) = match view.request.target {
        RedriveTarget::Group => (v1::RedriveTarget::Group, None),
        RedriveTarget::Topic(topic) => (v1::RedriveTarget::Topic, topic),
    };
    v1::Job {
        job_id: view.id.to_string(),
        group: view.group_name,
        selector: Some(selector_to_wire(view.id.group, view.request.selector)),
        target: target.into(),
        target_topic: target_topic.unwrap_or_default(),
        order: match view.request.order {
            RedriveOrder::OldestFirst => v1::RedriveOrder::OldestFirst.into(),
            RedriveOrder::NewestFirst => v1::RedriveOrder::NewestFirst.into(),
        },
        rate: view.request.rate,
        abort_after_failures: view.request.abort_after_failures,
        state: match view.state {
            JobState::Running => v1::JobState::Running.into(),
            JobState::Paused => v1::JobState::Paused.into(),
            JobState::Done => v1::JobState::Done.into(),
            JobState::Cancelled => v1::JobState::Cancelled.into(),
        },
        pause_reason: view.pause_reason,
        selected: view.selected,
        resolved: view.resolved,
        failed: view.failed,
        passed: view.passed,
        eta_ms: view.eta_ms,
        create_time: Some(timestamp(view.created_ms)),
        end_time: view.ended_ms.map(timestamp),
        note: view.request.note,
        actor: view.request.actor,
    }
}

fn selector_to_wire(group: GroupId, selector: Selector) -> v1::EntrySelector {
    let condition = |header: HeaderCondition| v1::HeaderMatch {
        key: header.key,
        value: match header.value {
            HeaderValue::Any => None,
            HeaderValue::Equals(value) => Some(v1::header_match::Value::Equals(value)),
            HeaderValue::Prefix(value) => Some(v1::header_match::Value::Prefix(value)),
        },
    };
    v1::EntrySelector {
        dlq_ids: selector.ids.iter().map(|key| ids::dlq_id(group, key)).collect(),
        topic: selector.topic.unwrap_or_default(),
        partition: selector.partition.map(|partition| partition.0),
        key: selector.key,
        states: selector.states.into_iter().map(|state| state_to_wire(state).into()).collect(),
        kind: selector.kind.map_or(v1::EntryKind::Unspecified, entry_kind).into(),
        error_class: selector.class.unwrap_or_default(),
        fingerprint: selector.fingerprint.unwrap_or_default(),
        dead_from: selector.dead_from_ms.map(timestamp),
        dead_before: selector.dead_before_ms.map(timestamp),
        headers: selector.headers.into_iter().map(condition).collect(),
        reason: selector.reason.map_or(v1::DeadReason::Unspecified, dead_reason).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GROUP: GroupId = GroupId(7);
    const ID: &str = "0000000000000007-abababab-abab-abab-abab-abababababab-1-2-3";

    fn sound() -> v1::EntrySelector {
        v1::EntrySelector {
            dlq_ids: vec![ID.into()],
            topic: "orders".into(),
            partition: Some(1),
            key: Some("k".into()),
            states: vec![1, 2, 3, 4, 5, 6, 7, 8],
            kind: 2,
            error_class: "Timeout".into(),
            fingerprint: "f".into(),
            dead_from: Some(timestamp(5)),
            dead_before: Some(timestamp(9)),
            headers: vec![v1::HeaderMatch { key: "h".into(), value: None }],
            reason: 9,
        }
    }

    #[test]
    fn a_selector_reads_back_as_it_was_given() {
        let read = selector(GROUP, sound()).expect("sound");
        assert_eq!(selector_to_wire(GROUP, read), sound());
        assert!(selector(GROUP, v1::EntrySelector::default()).expect("sound").is_empty());
    }

    #[test]
    fn what_selects_nothing_that_can_be_is_refused() {
        let bad = [
            v1::EntrySelector { dlq_ids: vec!["x".into()], ..sound() },
            v1::EntrySelector { dlq_ids: vec![ID.replacen('7', "8", 1)], ..sound() },
            v1::EntrySelector { dlq_ids: vec![ID.into(); 1_001], ..sound() },
            v1::EntrySelector { states: vec![0], ..sound() },
            v1::EntrySelector { states: vec![9], ..sound() },
            v1::EntrySelector { kind: 3, ..sound() },
            v1::EntrySelector { reason: 6, ..sound() },
            v1::EntrySelector { error_class: "x".repeat(256), ..sound() },
            v1::EntrySelector { dead_from: Some(prost_types::Timestamp { seconds: i64::MAX, nanos: 0 }), ..sound() },
            v1::EntrySelector { headers: vec![v1::HeaderMatch::default(); 17], ..sound() },
        ];
        for given in bad {
            assert!(selector(GROUP, given.clone()).is_err(), "{given:?}");
        }
    }

    #[test]
    fn rd_6_an_edit_needs_a_note_and_keeps_absent_and_tombstone_apart() {
        use v1::edit_entry_request::Payload;
        let request =
            |payload| v1::EditEntryRequest { dlq_id: ID.into(), note: "typo".into(), payload, ..Default::default() };
        let value = |payload| edit(GROUP, request(payload), String::new()).expect("sound").value;
        assert_eq!(value(None), None);
        assert_eq!(value(Some(Payload::Tombstone(v1::Unit {}))), Some(None));
        assert_eq!(value(Some(Payload::Value("".into()))), Some(Some("".into())));
        assert!(edit(GROUP, v1::EditEntryRequest { note: " ".into(), ..request(None) }, String::new()).is_err());
    }

    #[test]
    fn rd_8_a_head_is_named_by_key_entry_or_offset() {
        use v1::lane_head::Lane;
        let named = |lane, topic: &str, partition| {
            head(GROUP, Some(v1::LaneHead { lane, topic: topic.into(), partition })).is_ok()
        };
        assert!(named(Some(Lane::Key("k".into())), "orders", None));
        assert!(named(Some(Lane::DlqId(ID.into())), "", None));
        assert!(named(Some(Lane::Offset(3)), "orders", Some(1)));
        assert!(!named(None, "orders", Some(1)) && head(GROUP, None).is_err());
        assert!(!named(Some(Lane::Key("k".into())), "", None));
        assert!(!named(Some(Lane::Offset(3)), "orders", None));
        assert!(!named(Some(Lane::Offset(-3)), "orders", Some(1)));
    }
}
