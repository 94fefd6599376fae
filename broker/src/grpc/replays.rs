//! ReplayService: ranges of topics delivered again. Its rebuilds are in `rebuilds`.

use std::sync::Arc;

use sawlog_proto::v1::{self, replay_service_server::ReplayService};
use tonic::{Request, Response, Status};

use super::convert_groups::{group_name, source_topic};
use super::groups::{caller, page_size};
use super::status::{self, Problem};
use super::{Context, convert, convert_config, ids, rebuilds};
use crate::coordinator::replay_views::{
    Progress, ReplayGroup, ReplayPartitionView, ReplayState, ReplayTarget, ReplayView, StartReplay,
};
use crate::coordinator::types::{ReplayInto, ReplayRate, StartAt};
use crate::coordinator::{Caller, ReplayId};
use crate::limits;

/// The greatest speed, in thousandths of the original one.
const SPEED_MAX: u64 = 1_000_000;

/// The handler.
#[derive(Debug, Clone)]
pub(super) struct ReplayHandler(pub(super) Arc<Context>);

fn replay_id(text: &str) -> Result<ReplayId, Problem> {
    text.parse().map_err(|_| status::job_not_found(text))
}

pub(super) fn rate(given: Option<&v1::ReplayRate>) -> Result<ReplayRate, Problem> {
    use v1::replay_rate::Rate;
    let at_least_1 = |field, found: u64| match found {
        0 => Err(status::invalid_field(field, found, "at least 1")),
        found => Ok(found),
    };
    Ok(match given.and_then(|given| given.rate.as_ref()) {
        None => ReplayRate::Unlimited,
        Some(Rate::RecordsPerSecond(records)) => ReplayRate::Records(at_least_1("rate.records_per_second", *records)?),
        Some(Rate::BytesPerSecond(bytes)) => ReplayRate::Bytes(at_least_1("rate.bytes_per_second", *bytes)?),
        Some(Rate::SpeedPermille(speed @ 1..=SPEED_MAX)) => ReplayRate::SpeedPermille(*speed),
        Some(Rate::SpeedPermille(speed)) => {
            return Err(status::invalid_field("rate.speed_permille", speed, "1 to 1000000"));
        }
    })
}

pub(super) fn rate_to_wire(rate: ReplayRate) -> Option<v1::ReplayRate> {
    use v1::replay_rate::Rate;
    let rate = match rate {
        ReplayRate::Unlimited => return None,
        ReplayRate::Records(records) => Rate::RecordsPerSecond(records),
        ReplayRate::Bytes(bytes) => Rate::BytesPerSecond(bytes),
        ReplayRate::SpeedPermille(speed) => Rate::SpeedPermille(speed),
    };
    Some(v1::ReplayRate { rate: Some(rate) })
}

/// A group to make: its topics are the replay's, and what the replay decides must not be said twice.
fn group(given: v1::ReplayGroup, topics: &[String]) -> Result<Box<ReplayGroup>, Problem> {
    let name = match given.name.as_str() {
        "" => None,
        name => Some(group_name("target.name", name)?),
    };
    let mut config = given.config.unwrap_or_default();
    let decided = [
        ("target.config.subscription", config.subscription.is_some()),
        ("target.config.filter", config.filter.is_some()),
        ("target.config.start", config.start.is_some()),
    ];
    if let Some((field, _)) = decided.into_iter().find(|(_, given)| *given) {
        return Err(status::invalid_field(field, "something", "absent: it is the replay's"));
    }
    if topics.is_empty() {
        return Err(status::invalid_field("topics", "nothing", "1 to 100 names"));
    }
    config.subscription = Some(v1::group_config::Subscription::Topics(v1::TopicNames { names: topics.to_vec() }));
    let convert_config::Settings { config, topic_retry } = convert_config::new_settings(&config)?;
    Ok(Box::new(ReplayGroup { name, config, topic_retry }))
}

fn start_request(request: v1::StartReplayRequest, caller: Caller) -> Result<StartReplay, Problem> {
    use v1::replay_target::Target;
    if request.topics.len() > limits::TOPICS_PER_GROUP {
        return Err(status::invalid_field("topics", request.topics.len(), "at most 100 names"));
    }
    let target = match request.target.and_then(|target| target.target) {
        None => return Err(status::invalid_field("target", "nothing", "new_group, ephemeral or existing")),
        Some(Target::Existing(name)) => ReplayTarget::Existing(group_name("target.existing", &name)?),
        Some(Target::NewGroup(new)) => ReplayTarget::New(group(new, &request.topics)?),
        Some(Target::Ephemeral(new)) => ReplayTarget::Ephemeral(group(new, &request.topics)?),
    };
    let topics = request.topics.iter().map(|name| source_topic("topics", name)).collect::<Result<_, Problem>>()?;
    let (from, from_epochs) = convert_config::position("from", request.from.as_ref())?;
    let (to, to_epochs) = match request.to.as_ref().filter(|to| to.at.is_some()) {
        None => (StartAt::Latest, Vec::new()),
        to => convert_config::position("to", to)?,
    };
    let filter = request.filter.as_ref().map(convert_config::filter).transpose()?.unwrap_or_default();
    let rate = rate(request.rate.as_ref())?;
    Ok(StartReplay { topics, from, from_epochs, to, to_epochs, filter, rate, target, caller })
}

fn partition(view: ReplayPartitionView) -> v1::ReplayPartition {
    let Progress { done, left, rate, eta_ms } = view.progress;
    v1::ReplayPartition {
        topic: view.topic,
        partition: view.range.source.partition.0,
        from: view.range.from.to_wire(),
        to: view.range.to.to_wire(),
        asked_from: view.range.asked.to_wire(),
        done,
        left,
        rate,
        eta_ms,
    }
}

fn replay(view: ReplayView) -> v1::Replay {
    let Progress { done, left, rate, eta_ms } = view.progress;
    v1::Replay {
        replay_id: view.id.to_string(),
        group: view.group.to_string(),
        group_id: ids::group_id(view.id.group),
        target: match view.plan.into {
            ReplayInto::New => v1::ReplayTargetKind::New.into(),
            ReplayInto::Ephemeral => v1::ReplayTargetKind::Ephemeral.into(),
            ReplayInto::Existing => v1::ReplayTargetKind::Existing.into(),
        },
        topics: view.topics,
        filter: (!view.plan.filter.is_empty()).then(|| convert::filter_to_wire(&view.plan.filter)),
        rate: rate_to_wire(view.plan.rate),
        state: match view.state {
            ReplayState::Running => v1::ReplayState::Running.into(),
            ReplayState::Paused => v1::ReplayState::Paused.into(),
            ReplayState::Done => v1::ReplayState::Done.into(),
            ReplayState::Cancelled => v1::ReplayState::Cancelled.into(),
        },
        records: done + left,
        done,
        left,
        records_per_second: rate,
        eta_ms,
        partitions: view.partitions.into_iter().map(partition).collect(),
        create_time: Some(convert::timestamp(view.created_ms)),
        end_time: view.ended_ms.map(convert::timestamp),
        note: view.plan.act.note,
        actor: view.plan.act.actor,
    }
}

impl ReplayHandler {
    fn answer<T>(&self, result: Result<T, Problem>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|problem| self.0.fail(problem))
    }

    async fn start(&self, request: Request<v1::StartReplayRequest>) -> Result<v1::StartReplayResponse, Problem> {
        let caller = caller(&request, &request.get_ref().note)?;
        let request = start_request(request.into_inner(), caller)?;
        let view = self.0.coordinator().start_replay(request).await?;
        Ok(v1::StartReplayResponse { replay: Some(replay(view)) })
    }

    fn list(&self, request: &v1::ListReplaysRequest) -> Result<v1::ListReplaysResponse, Problem> {
        let size = page_size(request.page_size)?;
        let group = Some(request.group.as_str()).filter(|name| !name.is_empty());
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse().map_err(|_| status::invalid_field("page_token", token, "as it was given"))?),
        };
        let mut views = self.0.coordinator().replays(group, request.running, after, size + 1)?;
        let more = views.len() > size;
        views.truncate(size);
        let next_page_token = match views.last() {
            Some(last) if more => last.id.to_string(),
            _ => String::new(),
        };
        Ok(v1::ListReplaysResponse { replays: views.into_iter().map(replay).collect(), next_page_token })
    }

    async fn update(&self, request: &v1::UpdateReplayRequest) -> Result<v1::UpdateReplayResponse, Problem> {
        let (id, rate) = (replay_id(&request.replay_id)?, rate(request.rate.as_ref())?);
        let view = self.0.coordinator().pace_replay(id, rate).await?;
        Ok(v1::UpdateReplayResponse { replay: Some(replay(view)) })
    }

    async fn pause(&self, id: &str, paused: bool, caller: Result<Caller, Problem>) -> Result<v1::Replay, Problem> {
        let view = self.0.coordinator().pause_replay(replay_id(id)?, paused, &caller?).await?;
        Ok(replay(view))
    }

    async fn cancel(&self, id: &str) -> Result<v1::Replay, Problem> {
        let view = self.0.coordinator().cancel_replay(replay_id(id)?).await?;
        Ok(replay(view))
    }
}

#[tonic::async_trait]
impl ReplayService for ReplayHandler {
    async fn start_replay(
        &self,
        request: Request<v1::StartReplayRequest>,
    ) -> Result<Response<v1::StartReplayResponse>, Status> {
        self.answer(self.start(request).await)
    }

    async fn get_replay(
        &self,
        request: Request<v1::GetReplayRequest>,
    ) -> Result<Response<v1::GetReplayResponse>, Status> {
        let view = replay_id(&request.get_ref().replay_id).and_then(|id| Ok(self.0.coordinator().replay(id)?));
        self.answer(view.map(|view| v1::GetReplayResponse { replay: Some(replay(view)) }))
    }

    async fn list_replays(
        &self,
        request: Request<v1::ListReplaysRequest>,
    ) -> Result<Response<v1::ListReplaysResponse>, Status> {
        self.answer(self.list(request.get_ref()))
    }

    async fn update_replay(
        &self,
        request: Request<v1::UpdateReplayRequest>,
    ) -> Result<Response<v1::UpdateReplayResponse>, Status> {
        self.answer(self.update(request.get_ref()).await)
    }

    async fn pause_replay(
        &self,
        request: Request<v1::PauseReplayRequest>,
    ) -> Result<Response<v1::PauseReplayResponse>, Status> {
        let paused = self.pause(&request.get_ref().replay_id, true, caller(&request, "")).await;
        self.answer(paused.map(|replay| v1::PauseReplayResponse { replay: Some(replay) }))
    }

    async fn resume_replay(
        &self,
        request: Request<v1::ResumeReplayRequest>,
    ) -> Result<Response<v1::ResumeReplayResponse>, Status> {
        let resumed = self.pause(&request.get_ref().replay_id, false, caller(&request, "")).await;
        self.answer(resumed.map(|replay| v1::ResumeReplayResponse { replay: Some(replay) }))
    }

    async fn cancel_replay(
        &self,
        request: Request<v1::CancelReplayRequest>,
    ) -> Result<Response<v1::CancelReplayResponse>, Status> {
        let cancelled = self.cancel(&request.get_ref().replay_id).await;
        self.answer(cancelled.map(|replay| v1::CancelReplayResponse { replay: Some(replay) }))
    }

    async fn start_rebuild(
        &self,
        request: Request<v1::StartRebuildRequest>,
    ) -> Result<Response<v1::StartRebuildResponse>, Status> {
        let started = rebuilds::start(&self.0, request).await;
        self.answer(started.map(|rebuild| v1::StartRebuildResponse { rebuild: Some(rebuild) }))
    }

    async fn update_rebuild(
        &self,
        request: Request<v1::UpdateRebuildRequest>,
    ) -> Result<Response<v1::UpdateRebuildResponse>, Status> {
        let updated = rebuilds::update(&self.0, &request).await;
        self.answer(updated.map(|rebuild| v1::UpdateRebuildResponse { rebuild: Some(rebuild) }))
    }

    async fn swap_rebuild(
        &self,
        request: Request<v1::SwapRebuildRequest>,
    ) -> Result<Response<v1::SwapRebuildResponse>, Status> {
        let swapping = rebuilds::swap(&self.0, &request).await;
        self.answer(swapping.map(|rebuild| v1::SwapRebuildResponse { rebuild: Some(rebuild) }))
    }

    async fn abort_rebuild(
        &self,
        request: Request<v1::AbortRebuildRequest>,
    ) -> Result<Response<v1::AbortRebuildResponse>, Status> {
        let aborted = rebuilds::abort(&self.0, &request).await;
        self.answer(aborted.map(|rebuild| v1::AbortRebuildResponse { rebuild: Some(rebuild) }))
    }

    async fn get_rebuild(
        &self,
        request: Request<v1::GetRebuildRequest>,
    ) -> Result<Response<v1::GetRebuildResponse>, Status> {
        let rebuild = rebuilds::get(&self.0, &request.get_ref().group);
        self.answer(rebuild.map(|rebuild| v1::GetRebuildResponse { rebuild: Some(rebuild) }))
    }

    async fn list_rebuilds(
        &self,
        request: Request<v1::ListRebuildsRequest>,
    ) -> Result<Response<v1::ListRebuildsResponse>, Status> {
        let rebuilds = rebuilds::list(&self.0, &request.get_ref().group);
        self.answer(rebuilds.map(|rebuilds| v1::ListRebuildsResponse { rebuilds }))
    }
}
