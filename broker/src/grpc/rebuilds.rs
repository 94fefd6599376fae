//! The calls of ReplayService about rebuilds (rule RP-6): decode, call, encode.

use std::sync::Arc;

use sawlog_proto::v1;
use tonic::Request;

use super::convert_groups::version_name;
use super::groups::caller;
use super::replays::{rate, rate_to_wire};
use super::status::Problem;
use super::{Context, convert, ids};
use crate::coordinator::{RebuildPartitionView, RebuildState, RebuildView, StartRebuild};

/// Starts one.
pub(super) async fn start(
    context: &Arc<Context>,
    request: Request<v1::StartRebuildRequest>,
) -> Result<v1::Rebuild, Problem> {
    let caller = caller(&request, &request.get_ref().note)?;
    let request = request.into_inner();
    let version = version_name("version", &request.version)?;
    let (rate, accept_gap) = (rate(request.rate.as_ref())?, request.accept_gap);
    let start = StartRebuild { group: request.group, version, rate, accept_gap, caller };
    Ok(rebuild(context.coordinator().start_rebuild(start).await?))
}

/// Changes its rate.
pub(super) async fn update(
    context: &Arc<Context>,
    request: &Request<v1::UpdateRebuildRequest>,
) -> Result<v1::Rebuild, Problem> {
    let (caller, rate) = (caller(request, "")?, rate(request.get_ref().rate.as_ref())?);
    Ok(rebuild(context.coordinator().pace_rebuild(&request.get_ref().group, rate, &caller).await?))
}

/// Begins to swap it in.
pub(super) async fn swap(
    context: &Arc<Context>,
    request: &Request<v1::SwapRebuildRequest>,
) -> Result<v1::Rebuild, Problem> {
    let caller = caller(request, "")?;
    Ok(rebuild(context.coordinator().swap_rebuild(&request.get_ref().group, &caller).await?))
}

/// Gives it up.
pub(super) async fn abort(
    context: &Arc<Context>,
    request: &Request<v1::AbortRebuildRequest>,
) -> Result<v1::Rebuild, Problem> {
    let caller = caller(request, "")?;
    Ok(rebuild(context.coordinator().abort_rebuild(&request.get_ref().group, &caller).await?))
}

/// The open one of a group, or the last.
pub(super) fn get(context: &Arc<Context>, group: &str) -> Result<v1::Rebuild, Problem> {
    Ok(rebuild(context.coordinator().rebuild(group)?))
}

/// The last ones of a group.
pub(super) fn list(context: &Arc<Context>, group: &str) -> Result<Vec<v1::Rebuild>, Problem> {
    Ok(context.coordinator().rebuilds(group)?.into_iter().map(rebuild).collect())
}

fn partition(view: RebuildPartitionView) -> v1::RebuildPartition {
    v1::RebuildPartition {
        topic: view.topic,
        partition: view.partition.0,
        from: view.from.to_wire(),
        next_offset: view.next.to_wire(),
        high_watermark: view.high_watermark.to_wire(),
    }
}

fn rebuild(view: RebuildView) -> v1::Rebuild {
    let state = match view.state {
        RebuildState::Filling => v1::RebuildState::Filling,
        RebuildState::Ready => v1::RebuildState::Ready,
        RebuildState::Swapping => v1::RebuildState::Swapping,
        RebuildState::Swapped => v1::RebuildState::Swapped,
        RebuildState::Aborted => v1::RebuildState::Aborted,
    };
    v1::Rebuild {
        rebuild_id: view.id.to_string(),
        group: view.group.to_string(),
        group_id: ids::group_id(view.id.group),
        version: view.rebuild.version.to_string(),
        replaces: view.rebuild.replaces.map(|version| version.to_string()),
        state: state.into(),
        rate: rate_to_wire(view.rebuild.rate),
        done: view.progress.done,
        left: view.progress.left,
        records_per_second: view.progress.rate,
        eta_ms: view.progress.eta_ms,
        partitions: view.partitions.into_iter().map(partition).collect(),
        members: view.members,
        connected: view.connected,
        problem: view.rebuild.problem,
        create_time: Some(convert::timestamp(view.rebuild.act.time_ms)),
        end_time: view.rebuild.end.map(|(_, ended_ms)| convert::timestamp(ended_ms)),
        note: view.rebuild.act.note,
        actor: view.rebuild.act.actor,
    }
}
