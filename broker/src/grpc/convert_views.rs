//! What is told of groups: views of the coordinator as messages.

use sawlog_proto::v1;

use super::convert::timestamp;
use super::{convert_config, convert_groups, ids};
use crate::coordinator::types::Pause;
use crate::coordinator::views::{
    AcceptedGap, BreakerMode, BreakerView, GroupLag, GroupView, MemberView, PartitionLag, PartitionReset, Processed,
    RecoverReport, Stall, UnitState, UnitView,
};
use crate::group::skips::Skip;
use crate::model::{GroupId, Offset, Source, TopicUuid};

pub(super) fn group(view: &GroupView) -> v1::Group {
    v1::Group {
        name: view.name.to_string(),
        group_id: ids::group_id(view.id),
        revision: view.revision,
        config: Some(convert_config::to_wire(&view.config, &view.topics)),
        owner: view.notes.owner.clone(),
        description: view.notes.description.clone(),
        labels: view.notes.labels.clone().into_iter().collect(),
        create_time: Some(timestamp(view.created_ms)),
        status: Some(v1::GroupStatus {
            group_epoch: view.epoch,
            members: view.members,
            connected: view.connected,
            topics: view.topics.iter().map(|topic| topic.name.clone()).collect(),
            pauses: pauses(view, &view.pauses),
            breaker: Some(breaker(&view.breaker)),
            skips: view.skips.iter().map(|(source, one)| skip(view, *source, one)).collect(),
        }),
        version_of: view.config.shadow_of.map(|_| view.name.root().to_string()).unwrap_or_default(),
    }
}

fn skip(view: &GroupView, source: Source, skip: &Skip) -> v1::Skip {
    let name = view.topic_name(source.topic).map_or_else(|| source.topic.to_string(), str::to_owned);
    v1::Skip {
        topic: name,
        partition: source.partition.0,
        runs: skip.runs.iter().map(|run| v1::SkippedRun { from: run.from.get(), to: run.to.get() }).collect(),
        actor: skip.act.actor.clone(),
        time: Some(timestamp(skip.act.time_ms)),
        reason: skip.act.note.clone(),
    }
}

/// Pauses with the names of their topics.
pub(super) fn pauses(view: &GroupView, pauses: &[Pause]) -> Vec<v1::Pause> {
    let name = |topic| view.topic_name(topic).map(str::to_owned);
    pauses.iter().map(|one| pause(one, name)).collect()
}

/// A pause; a topic that has no name any more is named by its id.
pub(super) fn pause(pause: &Pause, name: impl Fn(TopicUuid) -> Option<String>) -> v1::Pause {
    v1::Pause {
        reason: convert_groups::pause_reason(pause.reason).into(),
        topic: pause.topic.map(|topic| name(topic).unwrap_or_else(|| topic.to_string())).unwrap_or_default(),
        partition: pause.partition.map(|partition| partition.0),
        until: pause.until_ms.map(timestamp),
        note: pause.act.note.clone(),
        since: Some(timestamp(pause.act.time_ms)),
    }
}

pub(super) fn breaker(view: &BreakerView) -> v1::BreakerStatus {
    let top = view.top.iter().map(|(fingerprint, class, count)| v1::FingerprintCount {
        fingerprint: fingerprint.clone(),
        class: class.clone(),
        count: *count,
    });
    v1::BreakerStatus {
        state: match view.mode {
            BreakerMode::Closed => v1::BreakerState::Closed.into(),
            BreakerMode::Open => v1::BreakerState::Open.into(),
            BreakerMode::Ramping => v1::BreakerState::Ramping.into(),
            BreakerMode::Off => v1::BreakerState::Off.into(),
        },
        switch: match view.forced {
            None => v1::BreakerSwitch::Auto.into(),
            Some(true) => v1::BreakerSwitch::Open.into(),
            Some(false) => v1::BreakerSwitch::Closed.into(),
        },
        reason: view.reason.clone(),
        since: Some(view.since_ms).filter(|since| *since != 0).map(timestamp),
        next_probe: view.next_probe_ms.map(timestamp),
        top: top.collect(),
    }
}

pub(super) fn member(view: MemberView) -> v1::Member {
    let unit = |unit: UnitView| v1::MemberUnit {
        topic: unit.topic,
        partition: unit.unit.source.partition.0,
        slot_from: unit.unit.slots.from,
        slot_to: unit.unit.slots.to,
        assignment_epoch: unit.epoch.0,
        state: match unit.state {
            UnitState::Assigned => v1::UnitState::Assigned.into(),
            UnitState::Revoking => v1::UnitState::Revoking.into(),
            UnitState::Reserved => v1::UnitState::Reserved.into(),
        },
        stalled: unit.stalled.map(stall),
    };
    v1::Member {
        member_id: view.member.to_string(),
        member_epoch: view.epoch.0,
        instance_id: view.instance.unwrap_or_default(),
        client_id: view.client_id,
        client_version: view.client_version,
        connected: view.connected,
        last_seen: Some(timestamp(view.last_seen_ms)),
        units: view.units.into_iter().map(unit).collect(),
        in_flight: view.in_flight,
        credit_records: view.credit_records,
        credit_bytes: view.credit_bytes,
        lost_at: view.lost_at_ms.map(timestamp),
    }
}

pub(super) fn lag(lag: GroupLag) -> v1::GetLagResponse {
    let lag_records = lag.partitions.iter().map(|one| one.lag_records).fold(0, u64::saturating_add);
    let lag_ms = lag.partitions.iter().map(|one| one.lag_ms).max().unwrap_or(0);
    v1::GetLagResponse {
        breaker: Some(breaker(&lag.group.breaker)),
        pauses: pauses(&lag.group, &lag.group.pauses),
        lag_records,
        lag_ms,
        dead_keys: lag.dead_lanes,
        partitions: lag.partitions.into_iter().map(partition_lag).collect(),
    }
}

fn partition_lag(lag: PartitionLag) -> v1::PartitionLag {
    let gap = lag.gap.map(|(range, reason)| v1::PendingGap {
        from: range.from.to_wire(),
        to: range.to.to_wire(),
        reason: convert_groups::gap_reason(reason).into(),
        accepted: lag.gap_accepted,
    });
    v1::PartitionLag {
        topic: lag.topic,
        topic_id: lag.topic_id.to_string(),
        partition: lag.partition.0,
        floor: lag.floor.to_wire(),
        epoch: lag.epoch.get(),
        log_start_offset: lag.log_start.to_wire(),
        high_watermark: lag.high_watermark.to_wire(),
        lag_records: lag.lag_records,
        lag_bytes: lag.lag_bytes,
        lag_ms: lag.lag_ms,
        event_lag_ms: lag.event_lag_ms,
        oldest_unsettled_ms: lag.oldest_unsettled_ms,
        in_flight: lag.in_flight,
        held_records: lag.held_records,
        blocked_keys: lag.blocked_lanes,
        dead_keys: lag.dead_lanes,
        open_entries: lag.open_entries,
        time_to_loss_ms: lag.time_to_loss_ms,
        gap,
        member_id: lag.owner.map(|member| member.to_string()).unwrap_or_default(),
        metadata: lag.metadata,
        stalled: lag.stalled.map(stall),
    }
}

fn stall(stall: Stall) -> v1::Stall {
    v1::Stall { reason: stall.reason, since: Some(timestamp(stall.since_ms)) }
}

pub(super) fn resets(resets: Vec<PartitionReset>) -> Vec<v1::PartitionReset> {
    let one = |reset: PartitionReset| v1::PartitionReset {
        topic: reset.topic,
        partition: reset.partition.0,
        old_offset: reset.old.to_wire(),
        new_offset: reset.new.to_wire(),
        records: reset.records,
        from_time_ms: reset.from_time_ms,
        to_time_ms: reset.to_time_ms,
        entries: reset.entries,
    };
    resets.into_iter().map(one).collect()
}

pub(super) fn accepted_gap(gap: AcceptedGap) -> v1::AcceptedGap {
    v1::AcceptedGap {
        topic: gap.topic,
        partition: gap.partition.0,
        from: gap.range.from.to_wire(),
        to: gap.range.to.to_wire(),
        expired: gap.expired,
        reason: convert_groups::gap_reason(gap.reason).into(),
    }
}

pub(super) fn recovered(report: RecoverReport) -> v1::RecoverGroupsResponse {
    let groups = report.groups.into_iter().map(|group| v1::RecoveredGroup {
        name: group.name.to_string(),
        group_id: ids::group_id(group.id),
        old_epoch: group.old_epoch,
        new_epoch: group.new_epoch,
        maybe_redelivered: group.maybe_redelivered,
    });
    v1::RecoverGroupsResponse {
        groups: groups.collect(),
        first_bad_offset: report.first_bad.map(Offset::to_wire),
        dropped_bytes: report.dropped_bytes,
    }
}

pub(super) fn processed(group: GroupId, processed: Processed) -> v1::ProcessedToken {
    use v1::ProcessedState as State;
    let (state, entry) = match processed {
        Processed::Acked => (State::Acked, None),
        Processed::Skipped => (State::Skipped, None),
        Processed::Parked(entry) => (State::Parked, Some(entry)),
        Processed::Dead(entry) => (State::Dead, Some(entry)),
        Processed::Pending => (State::Pending, None),
        Processed::OtherLog => (State::TokenOfAnotherLog, None),
    };
    let dlq_id = entry.map(|entry| ids::dlq_id(group, &entry)).unwrap_or_default();
    v1::ProcessedToken { state: state.into(), dlq_id }
}
