//! Groups, members, lag and what calls did, as tables and as JSON.

use sawlog_client::groups::{
    AcceptedGap, Breaker, BreakerState, Group, Lag, Member, MemberUnit, PartitionLag, PartitionReset, Pause,
    PauseReason, PendingGap, Recovered, RetryPolicy, Skip, Stall, Subscription, UnitState,
};
use sawlog_client::reader::GapReason;
use serde_json::{Value, json};

use crate::arguments::Common;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{self, Rows, human_span, human_time};

/// Prints an answer as JSON or as a line.
pub(crate) fn told(common: &Common, answer: &Value, line: &str) -> Outcome {
    if common.json() { output::json_line(answer) } else { output::data_line(line) }
}

fn time(ms: Option<i64>) -> Value {
    ms.map_or(Value::Null, |ms| human_time(ms).into())
}

fn pause_json(pause: &Pause) -> Value {
    json!({
        "reason": pause.reason.map(PauseReason::as_str), "topic": pause.topic, "partition": pause.partition,
        "until": time(pause.until_ms), "since": human_time(pause.since_ms), "note": pause.note,
    })
}

fn breaker_json(breaker: &Breaker) -> Value {
    let top = breaker
        .top
        .iter()
        .map(|top| json!({ "fingerprint": top.fingerprint, "class": top.class, "count": top.count }))
        .collect::<Vec<_>>();
    json!({
        "state": breaker.state.map(BreakerState::as_str), "switch": breaker.switch.map(|switch| switch.as_str()),
        "reason": breaker.reason, "since": time((breaker.since_ms > 0).then_some(breaker.since_ms)),
        "next_probe": time(breaker.next_probe_ms), "top": top,
    })
}

fn retry_json(retry: &RetryPolicy) -> Value {
    use sawlog_client::groups::Backoff;
    let backoff = retry.backoff.as_ref().map(|backoff| match backoff {
        Backoff::List(delays) => json!({ "delays_ms": delays }),
        Backoff::Exponential { base_ms, factor_permille, max_ms } => {
            json!({ "base_ms": base_ms, "factor_permille": factor_permille, "max_ms": max_ms })
        }
    });
    json!({
        "max_attempts": retry.max_attempts, "backoff": backoff, "jitter_percent": retry.jitter_percent,
        "non_retryable_classes": retry.non_retryable_classes,
        "on_exhausted": retry.on_exhausted.map(|choice| choice.as_str()),
        "after_dead": retry.after_dead.map(|choice| choice.as_str()),
    })
}

/// That a reader waits for its database.
fn stall_json(stall: Option<&Stall>) -> Value {
    stall.map_or(Value::Null, |stall| json!({ "reason": stall.reason, "since": human_time(stall.since_ms) }))
}

fn talk_of_stall(topic: &str, partition: u32, stall: &Stall) {
    let since = human_time(stall.since_ms);
    output::talk(&format!("{topic}/{partition} is stalled since {since}, its reader waits: {}", stall.reason));
}

fn member_json(member: &Member) -> Value {
    let units = member
        .units
        .iter()
        .map(|unit| {
            json!({
                "topic": unit.topic, "partition": unit.partition, "slot_from": unit.slot_from, "slot_to": unit.slot_to,
                "assignment_epoch": unit.assignment_epoch, "state": unit.state.map(UnitState::as_str),
                "stalled": stall_json(unit.stalled.as_ref()),
            })
        })
        .collect::<Vec<_>>();
    json!({
        "member_id": member.member_id, "member_epoch": member.member_epoch, "instance_id": member.instance_id,
        "client_id": member.client_id, "client_version": member.client_version, "connected": member.connected,
        "last_seen": human_time(member.last_seen_ms), "units": units, "in_flight": member.in_flight,
        "credit_records": member.credit_records, "credit_bytes": member.credit_bytes, "lost_at": time(member.lost_at_ms),
    })
}

fn group_json(group: &Group, members: Option<&[Member]>) -> Value {
    let config = &group.config;
    let (topics, pattern) = match &config.subscription {
        Some(Subscription::Topics(topics)) => (Some(topics), None),
        Some(Subscription::Pattern(pattern)) => (None, Some(pattern)),
        None => (None, None),
    };
    let mut value = json!({
        "name": group.name, "group_id": group.group_id, "revision": group.revision, "mode": group.mode().as_str(),
        "positions": config.positions.map(|positions| positions.as_str()),
        "version": config.version, "version_of": group.version_of,
        "topics": topics, "topic_pattern": pattern, "current_topics": group.status.topics,
        "retry": config.retry.as_ref().map(retry_json),
        "lease_ms": config.lease_ms, "max_processing_ms": config.max_processing_ms,
        "session_timeout_ms": config.session_timeout_ms, "static_timeout_ms": config.static_timeout_ms,
        "drain_timeout_ms": config.drain_timeout_ms, "max_in_flight_per_key": config.max_in_flight_per_key,
        "on_gap": config.on_gap.map(|choice| choice.as_str()), "idle_ttl_ms": config.idle_ttl_ms,
        "dlq_retention_ms": config.dead_letters.as_ref().and_then(|dead| dead.retention_ms),
        "dlq_max_bytes": config.dead_letters.as_ref().and_then(|dead| dead.max_bytes),
        "owner": group.owner, "description": group.description, "labels": group.labels,
        "create_time": human_time(group.create_time_ms),
        "group_epoch": group.status.group_epoch, "members": group.status.members, "connected": group.status.connected,
        "pauses": group.status.pauses.iter().map(pause_json).collect::<Vec<_>>(),
        "breaker": breaker_json(&group.status.breaker),
    });
    if let (Some(members), Some(object)) = (members, value.as_object_mut()) {
        object.insert("member_list".to_owned(), members.iter().map(member_json).collect());
        object.insert("skips".to_owned(), group.status.skips.iter().map(skip_json).collect());
    }
    value
}

pub(crate) fn list(groups: &[Group], common: &Common) -> Outcome {
    if common.json() {
        return groups.iter().try_for_each(|group| output::json_line(&group_json(group, None)));
    }
    // Versions that are being rebuilt stand beside the groups that they are of.
    let mut rows = Rows::new(&["group", "version of", "mode", "topics", ">members", "state"]);
    for group in groups {
        let members = format!("{}/{}", group.status.connected, group.status.members);
        let (version_of, topics) = (group.version_of.clone().unwrap_or_default(), group.subscription().join(","));
        rows.add([group.name.clone(), version_of, group.mode().to_string(), topics, members, state(group)]);
    }
    rows.print()
}

/// In a word or two: what holds it up.
fn state(group: &Group) -> String {
    let pauses: Vec<_> = group.status.pauses.iter().map(pause_text).collect();
    match group.status.breaker.state {
        _ if !pauses.is_empty() => format!("paused: {}", pauses.join(", ")),
        Some(BreakerState::Open) => "breaker open".to_owned(),
        _ if group.status.connected == 0 => "no member".to_owned(),
        _ => "active".to_owned(),
    }
}

fn pause_text(pause: &Pause) -> String {
    let mut text = pause.reason.map_or("unknown", PauseReason::as_str).to_owned();
    if let Some(topic) = &pause.topic {
        text.push_str(&format!(" {topic}"));
    }
    if let Some(partition) = pause.partition {
        text.push_str(&format!("/{partition}"));
    }
    if let Some(until) = pause.until_ms {
        text.push_str(&format!(" until {}", human_time(until)));
    }
    if !pause.note.is_empty() {
        text.push_str(&format!(" ({})", pause.note));
    }
    text
}

pub(crate) fn group(group: &Group, members: Option<&[Member]>, common: &Common) -> Outcome {
    if common.json() {
        return output::json_line(&group_json(group, members));
    }
    let config = &group.config;
    let span = |ms: Option<u64>| ms.map_or_else(String::new, |ms| human_span(i64::try_from(ms).unwrap_or(i64::MAX)));
    let retry = config.retry.as_ref();
    let mut rows = Rows::new(&["setting", "value"]);
    rows.add(["name", &group.name]);
    rows.add(["id", &group.group_id]);
    rows.add(["revision", &group.revision.to_string()]);
    rows.add(["mode", group.mode().as_str()]);
    rows.add(["positions", config.positions.map_or("", |positions| positions.as_str())]);
    if let Some(version) = &config.version {
        rows.add(["version", version]);
    }
    if let Some(name) = &group.version_of {
        rows.add(["version of", name]);
    }
    rows.add(["topics", &group.subscription().join(", ")]);
    rows.add(["state", &state(group)]);
    rows.add(["max attempts", &retry.and_then(|retry| retry.max_attempts).map_or_else(String::new, |n| n.to_string())]);
    rows.add(["lease", &span(config.lease_ms)]);
    rows.add(["session timeout", &span(config.session_timeout_ms)]);
    rows.add(["drain timeout", &span(config.drain_timeout_ms)]);
    rows.add(["owner", &group.owner]);
    rows.add(["description", &group.description]);
    rows.add(["created", &human_time(group.create_time_ms)]);
    rows.print()?;
    if !group.status.skips.is_empty() {
        output::data_line("")?;
        skips(&group.status.skips)?;
    }
    let Some(members) = members.filter(|members| !members.is_empty()) else { return Ok(()) };
    output::data_line("")?;
    let mut rows = Rows::new(&["member", "name", "connected", ">in flight", "owns"]);
    for member in members {
        let name = if member.instance_id.is_empty() { &member.client_id } else { &member.instance_id };
        let owns: Vec<_> = member.units.iter().map(unit_text).collect();
        rows.add([
            member.member_id.clone(),
            name.clone(),
            if member.connected { "yes" } else { "no" }.to_owned(),
            member.in_flight.to_string(),
            owns.join(" "),
        ]);
    }
    rows.print()?;
    for unit in members.iter().flat_map(|member| &member.units) {
        unit.stalled.iter().for_each(|stall| talk_of_stall(&unit.topic, unit.partition, stall));
    }
    Ok(())
}

fn unit_text(unit: &MemberUnit) -> String {
    let slots = match (unit.slot_from, unit.slot_to) {
        (0, 4096) => String::new(),
        (from, to) => format!("[{from}..{to}]"),
    };
    let stalled = if unit.stalled.is_some() { " (stalled)" } else { "" };
    format!("{}/{}{slots}{stalled}", unit.topic, unit.partition)
}

/// In a word: what holds a partition up.
fn partition_state(partition: &PartitionLag) -> &'static str {
    match (&partition.stalled, &partition.gap) {
        (Some(_), _) => "stalled",
        (None, Some(gap)) if gap.accepted => "gap accepted",
        (None, Some(_)) => "at gap",
        (None, None) => "",
    }
}

fn skip_json(skip: &Skip) -> Value {
    let runs: Vec<_> = skip.runs.iter().map(|run| json!({ "from": run.start, "to": run.end })).collect();
    json!({
        "topic": skip.topic, "partition": skip.partition, "runs": runs, "actor": skip.actor,
        "time": human_time(skip.time_ms), "reason": skip.reason,
    })
}

fn skips(skips: &[Skip]) -> Outcome {
    let mut rows = Rows::new(&["skipped", "offsets", "by", "when", "why"]);
    for skip in skips {
        let offsets: Vec<_> = skip.runs.iter().map(|run| format!("{}..{}", run.start, run.end)).collect();
        let place = format!("{}/{}", skip.topic, skip.partition);
        rows.add([place, offsets.join(" "), skip.actor.clone(), human_time(skip.time_ms), skip.reason.clone()]);
    }
    rows.print()
}

fn partition_json(partition: &PartitionLag) -> Value {
    let gap = partition.gap.map(|gap| {
        let reason = crate::commands::consume::gap(gap.reason);
        json!({ "from": gap.from, "to": gap.to, "reason": reason, "accepted": gap.accepted })
    });
    json!({
        "topic": partition.topic, "topic_id": partition.topic_id, "partition": partition.partition,
        "floor": partition.floor, "epoch": partition.epoch, "log_start_offset": partition.log_start_offset,
        "high_watermark": partition.high_watermark, "lag_records": partition.lag_records,
        "lag_bytes": partition.lag_bytes, "lag_ms": partition.lag_ms, "event_lag_ms": partition.event_lag_ms,
        "oldest_unsettled_ms": partition.oldest_unsettled_ms, "in_flight": partition.in_flight,
        "held_records": partition.held_records, "blocked_keys": partition.blocked_keys,
        "dead_keys": partition.dead_keys, "open_entries": partition.open_entries,
        "time_to_loss_ms": partition.time_to_loss_ms, "gap": gap, "member_id": partition.member_id,
        "stalled": stall_json(partition.stalled.as_ref()),
    })
}

/// What becomes of a gap at which a partition has stopped.
fn gap_text(gap: &PendingGap) -> String {
    match (gap.accepted, gap.reason) {
        (true, _) => format!("goes on at {} once its reader is there: the cut is accepted", gap.from),
        (false, GapReason::Truncated) => {
            let (at, next) = (gap.from, gap.to);
            format!("was cut at {at}, its read model stands at {next}; `sawlog group accept-gap` goes on there")
        }
        (false, _) => "waits at records that are gone; `sawlog group accept-gap` goes on without them".to_owned(),
    }
}

pub(crate) fn lag(lag: &Lag, common: &Common) -> Outcome {
    if common.json() {
        return lag.partitions.iter().try_for_each(|partition| output::json_line(&partition_json(partition)));
    }
    let columns = [
        "topic",
        ">partition",
        ">floor",
        ">end",
        ">lag",
        ">lag time",
        ">in flight",
        ">blocked",
        ">dead",
        ">dlq",
        "state",
    ];
    let mut rows = Rows::new(&columns);
    for partition in &lag.partitions {
        rows.add([
            partition.topic.clone(),
            partition.partition.to_string(),
            partition.floor.to_string(),
            partition.high_watermark.to_string(),
            output::grouped(partition.lag_records),
            human_span(i64::try_from(partition.lag_ms).unwrap_or(i64::MAX)),
            partition.in_flight.to_string(),
            partition.blocked_keys.to_string(),
            partition.dead_keys.to_string(),
            partition.open_entries.to_string(),
            partition_state(partition).to_owned(),
        ]);
    }
    rows.print()?;
    output::talk(&format!("{} records behind", output::grouped(lag.lag_records)));
    if !lag.pauses.is_empty() {
        let pauses: Vec<_> = lag.pauses.iter().map(pause_text).collect();
        output::talk(&format!("paused: {}", pauses.join(", ")));
    }
    for partition in &lag.partitions {
        partition.stalled.iter().for_each(|stall| talk_of_stall(&partition.topic, partition.partition, stall));
    }
    for (partition, gap) in lag.partitions.iter().filter_map(|partition| Some((partition, partition.gap?))) {
        output::talk(&format!("{}/{} {}", partition.topic, partition.partition, gap_text(&gap)));
    }
    if lag.breaker.state == Some(BreakerState::Open) {
        output::talk(&format!("the circuit breaker is open: {}", lag.breaker.reason));
    }
    Ok(())
}

pub(crate) fn resets(partitions: &[PartitionReset], id: u64, common: &Common) -> Outcome {
    if common.json() {
        for reset in partitions {
            output::json_line(&json!({
                "topic": reset.topic, "partition": reset.partition, "old_offset": reset.old_offset,
                "new_offset": reset.new_offset, "records": reset.records, "entries": reset.entries,
                "from_time": time((reset.from_time_ms > 0).then_some(reset.from_time_ms)),
                "to_time": time((reset.to_time_ms > 0).then_some(reset.to_time_ms)), "reset_id": id,
            }))?;
        }
        return Ok(());
    }
    let mut rows = Rows::new(&["topic", ">partition", ">old", ">new", ">records", ">dead letters"]);
    for reset in partitions {
        let (old, new) = (reset.old_offset.to_string(), reset.new_offset.to_string());
        let (records, entries) = (format!("{:+}", reset.records), reset.entries.to_string());
        rows.add([reset.topic.clone(), reset.partition.to_string(), old, new, records, entries]);
    }
    rows.print()?;
    output::talk(match id {
        0 => "nothing was changed; without --dry-run it is",
        _ => "`sawlog group reset GROUP --undo` takes it back",
    });
    Ok(())
}

pub(crate) fn pauses(name: &str, pauses: &[Pause], common: &Common) -> Outcome {
    let answer = json!({ "name": name, "pauses": pauses.iter().map(pause_json).collect::<Vec<_>>() });
    let texts: Vec<_> = pauses.iter().map(pause_text).collect();
    let line = match texts.is_empty() {
        true => format!("{name} runs"),
        false => format!("{name} is paused: {}", texts.join(", ")),
    };
    told(common, &answer, &line)
}

pub(crate) fn accepted(name: &str, gaps: &[AcceptedGap], common: &Common) -> Outcome {
    if gaps.is_empty() {
        let next = format!("`sawlog group lag {name}` shows what holds it up");
        return Err(Failure::new(Exit::CheckFailed, format!("nothing of group {name} waits to be accepted"), next));
    }
    gaps.iter().try_for_each(|gap| {
        let answer = json!({
            "topic": gap.topic, "partition": gap.partition, "from": gap.from, "to": gap.to, "expired": gap.expired,
            "reason": crate::commands::consume::gap(gap.reason),
        });
        let what = match gap.reason {
            GapReason::Truncated => {
                let from = gap.from;
                format!("were cut; the read model keeps what it has of them, and its reader goes on at {from} once it is there")
            }
            _ => format!("are passed, {} unsettled records expired", gap.expired),
        };
        let line = format!("{}/{}: offsets {} to {} {what}", gap.topic, gap.partition, gap.from, gap.to);
        told(common, &answer, &line)
    })
}

pub(crate) fn breaker(breaker: &Breaker, common: &Common) -> Outcome {
    let state = breaker.state.map_or("unknown", BreakerState::as_str);
    let switch = breaker.switch.map_or("auto", |switch| switch.as_str());
    told(common, &breaker_json(breaker), &format!("breaker {state}, decided by {switch}"))
}

pub(crate) fn recovered(recovered: &Recovered, common: &Common) -> Outcome {
    if common.json() {
        let groups: Vec<_> = recovered
            .groups
            .iter()
            .map(|group| {
                json!({
                    "name": group.name, "group_id": group.group_id, "old_epoch": group.old_epoch,
                    "new_epoch": group.new_epoch, "maybe_redelivered": group.maybe_redelivered,
                })
            })
            .collect();
        return output::json_line(&json!({
            "groups": groups, "first_bad_offset": recovered.first_bad_offset, "dropped_bytes": recovered.dropped_bytes,
        }));
    }
    let mut rows = Rows::new(&["group", ">old epoch", ">new epoch", ">maybe again"]);
    for group in &recovered.groups {
        let (old, new) = (group.old_epoch.to_string(), group.new_epoch.to_string());
        rows.add([group.name.clone(), old, new, group.maybe_redelivered.to_string()]);
    }
    rows.print()?;
    output::talk(&match recovered.first_bad_offset {
        None => "the journal is not damaged".to_owned(),
        Some(offset) => format!(
            "the journal is damaged at offset {offset}; {} of it are dropped",
            output::human_bytes(recovered.dropped_bytes)
        ),
    });
    Ok(())
}
