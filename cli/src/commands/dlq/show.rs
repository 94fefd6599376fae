//! Dead letters and jobs as tables and as JSON.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use sawlog_client::dead_letter::{
    DeadReason, Entry, EntryDetails, EntryEvent, EntryKind, EntryRecord, EntryState, HeadDone, Job, JobState,
    RedrivePreview,
};
use serde_json::{Map, Value, json};

use super::told;
use crate::arguments::Common;
use crate::failure::Outcome;
use crate::output::{self, Rows, human_span, human_time};

/// Puts bytes under a name: as text, or in base64 under another name.
fn put_bytes(object: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(std::str::from_utf8) {
        None => object.insert(name.to_owned(), Value::Null),
        Some(Ok(text)) => object.insert(name.to_owned(), text.into()),
        Some(Err(_)) => object.insert(format!("{name}_base64"), STANDARD.encode(bytes.unwrap_or_default()).into()),
    };
}

fn time(ms: Option<i64>) -> Value {
    ms.map_or(Value::Null, |ms| human_time(ms).into())
}

fn record_json(record: &EntryRecord) -> Value {
    let mut object = Map::new();
    put_bytes(&mut object, "key", record.key.as_deref());
    put_bytes(&mut object, "value", record.value.as_deref());
    let headers = record.headers.iter().map(|header| {
        let mut object = Map::new();
        object.insert("key".to_owned(), header.key.as_str().into());
        put_bytes(&mut object, "value", Some(&header.value));
        Value::Object(object)
    });
    object.insert("headers".to_owned(), headers.collect());
    object.insert("timestamp_ms".to_owned(), record.timestamp_ms.into());
    Value::Object(object)
}

fn event_json(event: &EntryEvent) -> Value {
    json!({
        "state": event.state.map(EntryState::as_str), "time": human_time(event.time_ms), "actor": event.actor,
        "note": event.note, "cycle": event.cycle, "version": event.version,
    })
}

/// An entry as a line of JSON.
pub(super) fn entry_json(entry: &Entry) -> Value {
    let error = entry.error.as_ref().map(|error| {
        json!({
            "class": error.class, "message": error.message, "stack": error.stack, "fingerprint": error.fingerprint,
        })
    });
    let mut value = json!({
        "dlq_id": entry.dlq_id, "group": entry.group, "topic": entry.topic, "topic_id": entry.topic_id.as_str(),
        "partition": entry.partition, "epoch": entry.epoch, "offset": entry.offset,
        "kind": entry.kind.map(EntryKind::as_str), "state": entry.state.map(EntryState::as_str),
        "reason": entry.reason.map(DeadReason::as_str), "cycle": entry.cycle, "attempts": entry.attempts,
        "append_time": human_time(entry.append_time_ms), "first_failure_time": time(entry.first_failure_ms),
        "last_failure_time": time(entry.last_failure_ms), "dead_time": human_time(entry.dead_ms), "error": error,
        "member_id": entry.member_id, "client_version": entry.client_version, "blocked_by": entry.blocked_by,
        "versions": entry.versions, "job_id": entry.job_id, "source_lost": entry.source_lost,
        "closed": entry.closed.as_ref().map(event_json), "expire_time": time(entry.expire_ms),
        "dlq_topic": entry.dlq_topic, "dlq_offset": entry.dlq_offset,
    });
    if let Some(object) = value.as_object_mut() {
        put_bytes(object, "key", entry.key.as_deref());
        if let Some(record) = &entry.record {
            object.insert("record".to_owned(), record_json(record));
        }
    }
    value
}

fn key_text(key: Option<&[u8]>) -> String {
    key.map_or_else(|| "-".to_owned(), |key| key.escape_ascii().to_string())
}

fn row(entry: &Entry) -> [String; 7] {
    let class = entry.error.as_ref().map_or_else(String::new, |error| error.class.clone());
    [
        entry.dlq_id.clone(),
        entry.kind.map_or("", EntryKind::as_str).to_owned(),
        entry.state.map_or("", EntryState::as_str).to_owned(),
        key_text(entry.key.as_deref()),
        entry.attempts.to_string(),
        class,
        human_time(entry.dead_ms),
    ]
}

const COLUMNS: [&str; 7] = ["id", "kind", "state", "key", ">attempts", "class", "since"];

pub(super) fn list(entries: &[Entry], common: &Common) -> Outcome {
    if common.json() {
        return entries.iter().try_for_each(|entry| output::json_line(&entry_json(entry)));
    }
    let mut rows = Rows::new(&COLUMNS);
    entries.iter().for_each(|entry| rows.add(row(entry)));
    rows.print()?;
    output::talk(&match entries.len() {
        0 => "no dead letter like that".to_owned(),
        count => format!("{count} entries; `sawlog dlq show ID` shows one"),
    });
    Ok(())
}

pub(super) fn entry(details: &EntryDetails, common: &Common) -> Outcome {
    let entry = &details.entry;
    if common.json() {
        let versions = details.versions.iter().map(|version| {
            json!({
                "version": version.version, "record": record_json(&version.record), "actor": version.actor,
                "note": version.note, "time": human_time(version.time_ms),
            })
        });
        let versions: Vec<_> = versions.collect();
        let mut value = entry_json(entry);
        if let Some(object) = value.as_object_mut() {
            object.insert("version_list".to_owned(), versions.into());
            object.insert("history".to_owned(), details.history.iter().map(event_json).collect());
        }
        return output::json_line(&value);
    }
    let mut rows = Rows::new(&["entry", &entry.dlq_id]);
    rows.add(["group", &entry.group]);
    rows.add(["source", &format!("{}/{} offset {}", entry.topic, entry.partition, entry.offset)]);
    rows.add(["key", &key_text(entry.key.as_deref())]);
    rows.add(["kind", entry.kind.map_or("", EntryKind::as_str)]);
    rows.add(["state", entry.state.map_or("", EntryState::as_str)]);
    rows.add(["reason", entry.reason.map_or("", DeadReason::as_str)]);
    rows.add(["attempts", &format!("{} in cycle {}", entry.attempts, entry.cycle)]);
    rows.add(["dead since", &human_time(entry.dead_ms)]);
    if let Some(error) = &entry.error {
        rows.add(["error", &format!("{}: {}", error.class, error.message)]);
        rows.add(["fingerprint", &error.fingerprint]);
    }
    if let Some(head) = &entry.blocked_by {
        rows.add(["blocked by", head]);
    }
    if let Some(expires) = entry.expire_ms {
        rows.add(["expires", &human_time(expires)]);
    }
    if let Some(record) = &entry.record {
        let value = record.value.as_deref().map_or_else(|| "(tombstone)".to_owned(), |v| v.escape_ascii().to_string());
        rows.add(["value", &value.chars().take(1000).collect::<String>()]);
    }
    rows.print()?;
    for event in &details.history {
        let what = match (event.state, event.version) {
            (Some(EntryState::Open), version @ 1..) => format!("edited: version {version}"),
            (state, _) => state.map_or("", EntryState::as_str).to_owned(),
        };
        let line = format!("{} {what} by {} {}", human_time(event.time_ms), event.actor, event.note);
        output::data_line(line.trim_end())?;
    }
    Ok(())
}

pub(super) fn head(what: &str, done: &HeadDone, common: &Common) -> Outcome {
    let answer = json!({
        "partition": done.partition, "offset": done.offset, "dlq_id": done.dlq_id, "job_id": done.job_id,
    });
    let job = done.job_id.as_ref().map(|job| format!(", by job {job}")).unwrap_or_default();
    told(common, &answer, &format!("partition {} offset {} {what}{job}", done.partition, done.offset))
}

pub(super) fn preview(preview: &RedrivePreview, common: &Common) -> Outcome {
    if common.json() {
        let counts = |counts: &[(String, u64)]| {
            counts.iter().map(|(name, count)| json!({ "name": name, "count": count })).collect::<Vec<_>>()
        };
        return output::json_line(&json!({
            "entries": preview.entries, "keys": preview.keys, "by_key": counts(&preview.by_key),
            "by_class": counts(&preview.by_class), "first": preview.first.iter().map(entry_json).collect::<Vec<_>>(),
        }));
    }
    let mut rows = Rows::new(&["class", ">entries"]);
    preview.by_class.iter().for_each(|(class, count)| rows.add([class.clone(), count.to_string()]));
    rows.print()?;
    let mut rows = Rows::new(&COLUMNS);
    preview.first.iter().for_each(|entry| rows.add(row(entry)));
    rows.print()?;
    output::talk(&format!(
        "{} entries of {} keys would be delivered again; nothing was changed",
        output::grouped(preview.entries),
        output::grouped(preview.keys)
    ));
    Ok(())
}

fn job_json(job: &Job) -> Value {
    json!({
        "job_id": job.job_id, "group": job.group, "state": job.state.map(JobState::as_str),
        "pause_reason": job.pause_reason, "target_topic": job.target_topic, "rate": job.rate,
        "abort_after_failures": job.abort_after_failures, "selected": job.selected, "resolved": job.resolved,
        "failed": job.failed, "passed": job.passed, "eta_ms": job.eta_ms,
        "create_time": human_time(job.create_time_ms), "end_time": time(job.end_time_ms), "note": job.note,
        "actor": job.actor,
    })
}

pub(super) fn job(job: &Job, common: &Common) -> Outcome {
    jobs(std::slice::from_ref(job), common)
}

pub(super) fn jobs(jobs: &[Job], common: &Common) -> Outcome {
    if common.json() {
        return jobs.iter().try_for_each(|job| output::json_line(&job_json(job)));
    }
    let mut rows = Rows::new(&["job", "group", "state", ">selected", ">resolved", ">failed", ">passed", "left"]);
    for job in jobs {
        let left = job.eta_ms.map_or_else(String::new, |ms| human_span(i64::try_from(ms).unwrap_or(i64::MAX)));
        let state = job.state.map_or("", JobState::as_str);
        rows.add([
            job.job_id.clone(),
            job.group.clone(),
            if job.pause_reason.is_empty() { state.to_owned() } else { format!("{state}: {}", job.pause_reason) },
            job.selected.to_string(),
            job.resolved.to_string(),
            job.failed.to_string(),
            job.passed.to_string(),
            left,
        ]);
    }
    rows.print()
}
