//! GroupService: administration of consumer groups.

use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::v1::{self, group_service_server::GroupService};
use tonic::{Request, Response, Status};

use super::convert_groups::{NOTE_BYTES, group_name, source_topic, text};
use super::status::{self, Problem};
use super::{Context, convert, convert_config, convert_views, ids};
use crate::coordinator::GroupError;
use crate::coordinator::types::GroupNotes;
use crate::coordinator::views::{Caller, GroupView, NewGroup, ResetRequest, UpdateGroup};
use crate::limits;
use crate::model::{PartitionId, Position, TopicName};

/// Groups or members of a page if the request does not say.
const PAGE_DEFAULT: u32 = 100;
/// The most of a page.
const PAGE_MAX: u32 = 1_000;
/// How often a change without a revision is tried against changes that come in between.
const UPDATE_TRIES: usize = 8;
/// Tokens of one AwaitProcessed.
const TOKENS: usize = 1_000;

/// The handler.
#[derive(Debug, Clone)]
pub(super) struct GroupHandler(pub(super) Arc<Context>);

/// Who calls: what its client says it is.
pub(super) fn caller<T>(request: &Request<T>, note: &str) -> Result<Caller, Problem> {
    let agent = request.metadata().get("user-agent").and_then(|agent| agent.to_str().ok()).unwrap_or("");
    let actor = status::escaped(agent);
    Ok(Caller { actor, note: text("note", note.to_owned(), NOTE_BYTES)? })
}

/// Size of a page.
pub(super) fn page_size(size: u32) -> Result<usize, Problem> {
    match size {
        0 => Ok(PAGE_DEFAULT as usize),
        size @ 1..=PAGE_MAX => Ok(size as usize),
        size => Err(status::invalid_field("page_size", size, "1 to 1000, or 0 for 100")),
    }
}

fn some(text: &str) -> Option<&str> {
    Some(text).filter(|text| !text.is_empty())
}

fn notes(notes: GroupNotes) -> Result<GroupNotes, Problem> {
    let labels = &notes.labels;
    if labels.len() > limits::LABELS {
        return Err(status::invalid_field("labels", labels.len(), "at most 64"));
    }
    for (key, value) in labels {
        if key.is_empty() || key.len() > limits::LABEL_KEY_BYTES || value.len() > limits::LABEL_VALUE_BYTES {
            return Err(status::invalid_field("labels", key, "names of 1 to 128 bytes, values of at most 1024"));
        }
    }
    Ok(GroupNotes {
        owner: text("owner", notes.owner, limits::OWNER_BYTES)?,
        description: text("description", notes.description, limits::DESCRIPTION_BYTES)?,
        labels: notes.labels,
    })
}

impl GroupHandler {
    fn answer<T>(&self, result: Result<T, Problem>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|problem| self.0.fail(problem))
    }

    fn view(&self, name: &str) -> Result<GroupView, Problem> {
        Ok(self.0.coordinator().view(name)?)
    }

    async fn create(&self, request: v1::CreateGroupRequest) -> Result<v1::CreateGroupResponse, Problem> {
        let name = group_name("name", &request.name)?;
        let given = request.config.unwrap_or_default();
        let settings = convert_config::new_settings(&given)?;
        let (start, epochs) = convert_config::position("config.start", given.start.as_ref())?;
        let labels = request.labels.into_iter().collect();
        let notes = notes(GroupNotes { owner: request.owner, description: request.description, labels })?;
        let convert_config::Settings { config, topic_retry } = settings;
        let new = NewGroup { name, config, start, epochs, topic_retry, notes };
        let (view, created) = self.0.coordinator().create(new).await?;
        Ok(v1::CreateGroupResponse { group: Some(convert_views::group(&view)), created })
    }

    fn list(&self, request: &v1::ListGroupsRequest) -> Result<v1::ListGroupsResponse, Problem> {
        let size = page_size(request.page_size)?;
        // A token is the last name of the page before: it stays right whatever is created or deleted meanwhile.
        let (after, topic) = (some(&request.page_token), some(&request.topic));
        let mut groups = self.0.coordinator().list(after, &request.name_prefix, topic, size + 1)?;
        let more = groups.len() > size;
        groups.truncate(size);
        let next_page_token = match groups.last() {
            Some(last) if more => last.name.to_string(),
            _ => String::new(),
        };
        Ok(v1::ListGroupsResponse { groups: groups.iter().map(convert_views::group).collect(), next_page_token })
    }

    async fn update(
        &self,
        request: v1::UpdateGroupRequest,
        caller: Caller,
    ) -> Result<v1::UpdateGroupResponse, Problem> {
        let name = group_name("name", &request.name)?;
        let paths = request.update_mask.unwrap_or_default().paths;
        if paths.is_empty() {
            let bounds = "the fields to change, such as owner or config.lease_ms";
            return Err(status::invalid_field("update_mask", "nothing", bounds));
        }
        let given = request.config.unwrap_or_default();
        let mut tries = 0;
        loop {
            let current = self.view(&request.name)?;
            let (config, topic_retry) = match convert_config::masked(&current.config, &given, &paths)? {
                Some((config, topic_retry)) => (Some(config), topic_retry),
                None => (None, None),
            };
            let mut changed = current.notes.clone();
            for path in &paths {
                match path.as_str() {
                    "owner" => changed.owner.clone_from(&request.owner),
                    "description" => changed.description.clone_from(&request.description),
                    "labels" => changed.labels = request.labels.clone().into_iter().collect(),
                    _ => {}
                }
            }
            let update = UpdateGroup {
                name: name.clone(),
                revision: Some(request.revision.unwrap_or(current.revision)),
                config,
                topic_retry,
                notes: Some(notes(changed)?),
                force: request.force,
                caller: caller.clone(),
            };
            tries += 1;
            match self.0.coordinator().update(update).await {
                Ok(view) => return Ok(v1::UpdateGroupResponse { group: Some(convert_views::group(&view)) }),
                // Somebody else's change came in between; what the mask does not name must not be undone.
                Err(GroupError::StaleRevision { .. }) if request.revision.is_none() && tries < UPDATE_TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn delete(
        &self,
        request: &v1::DeleteGroupRequest,
        caller: &Caller,
    ) -> Result<v1::DeleteGroupResponse, Problem> {
        let id = some(&request.group_id).map(|id| {
            ids::parse_group_id(id).ok_or_else(|| status::invalid_field("group_id", id, "16 hexadecimal digits"))
        });
        let deleted = self.0.coordinator().delete(&request.name, request.force, id.transpose()?, caller).await?;
        Ok(v1::DeleteGroupResponse {
            group_id: ids::group_id(deleted.id),
            entries_lost: deleted.entries_lost,
            jobs_ended: deleted.jobs_ended,
        })
    }

    fn members(&self, request: &v1::ListMembersRequest) -> Result<v1::ListMembersResponse, Problem> {
        let size = page_size(request.page_size)?;
        let after = some(&request.page_token).map(|token| ids::parse_member_id("page_token", token)).transpose()?;
        let mut members = self.0.coordinator().members(&request.name, after, size + 1)?;
        let more = members.len() > size;
        members.truncate(size);
        let next_page_token = match members.last() {
            Some(last) if more => last.member.to_string(),
            _ => String::new(),
        };
        Ok(v1::ListMembersResponse {
            members: members.into_iter().map(convert_views::member).collect(),
            next_page_token,
        })
    }

    async fn reset(
        &self,
        request: v1::ResetPositionsRequest,
        caller: Caller,
    ) -> Result<v1::ResetPositionsResponse, Problem> {
        if request.target.as_ref().is_none_or(|target| target.at.is_none()) {
            let bounds = "earliest, latest, timestamp_ms, offsets or from_group";
            return Err(status::invalid_field("target", "nothing", bounds));
        }
        let (target, epochs) = convert_config::position("target", request.target.as_ref())?;
        let clear = match v1::ResetEntries::try_from(request.entries) {
            Ok(v1::ResetEntries::Unspecified | v1::ResetEntries::Keep) => false,
            Ok(v1::ResetEntries::Clear) => true,
            Err(_) => return Err(status::invalid_field("entries", request.entries, "0, 1 (keep) or 2 (clear)")),
        };
        let partitions: Result<Vec<(TopicName, Vec<PartitionId>)>, Problem> = request
            .partitions
            .iter()
            .map(|one| {
                let topic = source_topic("partitions.topic", &one.topic)?;
                Ok((topic, one.partitions.iter().copied().map(PartitionId).collect()))
            })
            .collect();
        let reset = ResetRequest {
            name: group_name("name", &request.name)?,
            target,
            epochs,
            partitions: partitions?,
            clear,
            dry_run: request.dry_run,
            caller,
        };
        let report = self.0.coordinator().reset(reset).await?;
        let partitions = convert_views::resets(report.partitions);
        Ok(v1::ResetPositionsResponse { partitions, reset_id: report.number })
    }

    async fn pause(&self, request: &v1::PauseGroupRequest, caller: &Caller) -> Result<v1::PauseGroupResponse, Problem> {
        let until = request.until.as_ref().map(|until| convert::millis("until", until)).transpose()?;
        let pauses = self.0.coordinator().pause(&request.name, some(&request.topic), until, caller).await?;
        Ok(v1::PauseGroupResponse { pauses: convert_views::pauses(&self.view(&request.name)?, &pauses) })
    }

    async fn resume(
        &self,
        request: &v1::ResumeGroupRequest,
        caller: &Caller,
    ) -> Result<v1::ResumeGroupResponse, Problem> {
        let pauses = self.0.coordinator().resume(&request.name, some(&request.topic), caller).await?;
        Ok(v1::ResumeGroupResponse { pauses: convert_views::pauses(&self.view(&request.name)?, &pauses) })
    }

    async fn accept_gaps(
        &self,
        request: &v1::AcceptGapRequest,
        caller: &Caller,
    ) -> Result<v1::AcceptGapResponse, Problem> {
        let (topic, partition) = (some(&request.topic), request.partition.map(PartitionId));
        if topic.is_none() && partition.is_some() {
            return Err(status::invalid_field("topic", "nothing", "the topic of the partition"));
        }
        let gaps = self.0.coordinator().accept_gap(&request.name, topic, partition, caller).await?;
        Ok(v1::AcceptGapResponse { gaps: gaps.into_iter().map(convert_views::accepted_gap).collect() })
    }

    async fn breaker(
        &self,
        request: &v1::SetBreakerRequest,
        caller: &Caller,
    ) -> Result<v1::SetBreakerResponse, Problem> {
        let forced = match v1::BreakerSwitch::try_from(request.switch) {
            Ok(v1::BreakerSwitch::Unspecified | v1::BreakerSwitch::Auto) => None,
            Ok(v1::BreakerSwitch::Open) => Some(true),
            Ok(v1::BreakerSwitch::Closed) => Some(false),
            Err(_) => return Err(status::invalid_field("switch", request.switch, "0 to 3")),
        };
        let breaker = self.0.coordinator().set_breaker(&request.name, forced, caller).await?;
        Ok(v1::SetBreakerResponse { breaker: Some(convert_views::breaker(&breaker)) })
    }

    async fn await_tokens(&self, request: &v1::AwaitProcessedRequest) -> Result<v1::AwaitProcessedResponse, Problem> {
        if request.tokens.is_empty() || request.tokens.len() > TOKENS {
            return Err(status::invalid_field("tokens", request.tokens.len(), "1 to 1000"));
        }
        let timeout = Duration::from_millis(request.timeout_ms.into());
        if timeout > limits::LONG_POLL {
            return Err(status::invalid_field("timeout_ms", request.timeout_ms, "at most 60000"));
        }
        let position = |token: &v1::Position| -> Result<Position, Problem> {
            Ok(Position {
                topic: ids::parse_topic_id("tokens.topic_id", &token.topic_id)?,
                partition: PartitionId(token.partition),
                epoch: convert::epoch("tokens.epoch", token.epoch)?,
                offset: convert::offset("tokens.offset", token.offset)?,
            })
        };
        let positions: Result<Vec<Position>, Problem> = request.tokens.iter().map(position).collect();
        let group = self.view(&request.name)?.id;
        let processed = self.0.coordinator().await_processed(&request.name, &positions?, timeout).await?;
        let tokens = processed.into_iter().map(|processed| convert_views::processed(group, processed)).collect();
        Ok(v1::AwaitProcessedResponse { tokens })
    }
}

#[tonic::async_trait]
impl GroupService for GroupHandler {
    async fn create_group(
        &self,
        request: Request<v1::CreateGroupRequest>,
    ) -> Result<Response<v1::CreateGroupResponse>, Status> {
        self.answer(self.create(request.into_inner()).await)
    }

    async fn get_group(&self, request: Request<v1::GetGroupRequest>) -> Result<Response<v1::GetGroupResponse>, Status> {
        let view = self.view(&request.get_ref().name);
        self.answer(view.map(|view| v1::GetGroupResponse { group: Some(convert_views::group(&view)) }))
    }

    async fn list_groups(
        &self,
        request: Request<v1::ListGroupsRequest>,
    ) -> Result<Response<v1::ListGroupsResponse>, Status> {
        self.answer(self.list(request.get_ref()))
    }

    async fn update_group(
        &self,
        request: Request<v1::UpdateGroupRequest>,
    ) -> Result<Response<v1::UpdateGroupResponse>, Status> {
        let caller = caller(&request, "").map_err(|problem| self.0.fail(problem))?;
        self.answer(self.update(request.into_inner(), caller).await)
    }

    async fn delete_group(
        &self,
        request: Request<v1::DeleteGroupRequest>,
    ) -> Result<Response<v1::DeleteGroupResponse>, Status> {
        let caller = caller(&request, "").map_err(|problem| self.0.fail(problem))?;
        self.answer(self.delete(request.get_ref(), &caller).await)
    }

    async fn list_members(
        &self,
        request: Request<v1::ListMembersRequest>,
    ) -> Result<Response<v1::ListMembersResponse>, Status> {
        self.answer(self.members(request.get_ref()))
    }

    async fn get_lag(&self, request: Request<v1::GetLagRequest>) -> Result<Response<v1::GetLagResponse>, Status> {
        let v1::GetLagRequest { name, topics } = request.get_ref();
        let lag = self.0.coordinator().lag(name, topics).await;
        self.answer(lag.map(convert_views::lag).map_err(Problem::from))
    }

    async fn reset_positions(
        &self,
        request: Request<v1::ResetPositionsRequest>,
    ) -> Result<Response<v1::ResetPositionsResponse>, Status> {
        let caller = caller(&request, &request.get_ref().note).map_err(|problem| self.0.fail(problem))?;
        self.answer(self.reset(request.into_inner(), caller).await)
    }

    async fn undo_reset(
        &self,
        request: Request<v1::UndoResetRequest>,
    ) -> Result<Response<v1::UndoResetResponse>, Status> {
        let caller = caller(&request, "").map_err(|problem| self.0.fail(problem))?;
        let v1::UndoResetRequest { name, reset_id } = request.get_ref();
        let number = Some(*reset_id).filter(|number| *number != 0);
        let report = self.0.coordinator().undo_reset(name, number, &caller).await;
        let response = report.map(|report| v1::UndoResetResponse {
            partitions: convert_views::resets(report.partitions),
            reset_id: report.number,
        });
        self.answer(response.map_err(Problem::from))
    }

    async fn pause_group(
        &self,
        request: Request<v1::PauseGroupRequest>,
    ) -> Result<Response<v1::PauseGroupResponse>, Status> {
        let caller = caller(&request, &request.get_ref().note).map_err(|problem| self.0.fail(problem))?;
        self.answer(self.pause(request.get_ref(), &caller).await)
    }

    async fn resume_group(
        &self,
        request: Request<v1::ResumeGroupRequest>,
    ) -> Result<Response<v1::ResumeGroupResponse>, Status> {
        let caller = caller(&request, "").map_err(|problem| self.0.fail(problem))?;
        self.answer(self.resume(request.get_ref(), &caller).await)
    }

    async fn accept_gap(
        &self,
        request: Request<v1::AcceptGapRequest>,
    ) -> Result<Response<v1::AcceptGapResponse>, Status> {
        let caller = caller(&request, "").map_err(|problem| self.0.fail(problem))?;
        self.answer(self.accept_gaps(request.get_ref(), &caller).await)
    }

    async fn set_breaker(
        &self,
        request: Request<v1::SetBreakerRequest>,
    ) -> Result<Response<v1::SetBreakerResponse>, Status> {
        let caller = caller(&request, &request.get_ref().note).map_err(|problem| self.0.fail(problem))?;
        self.answer(self.breaker(request.get_ref(), &caller).await)
    }

    async fn recover_groups(
        &self,
        request: Request<v1::RecoverGroupsRequest>,
    ) -> Result<Response<v1::RecoverGroupsResponse>, Status> {
        let report = self.0.coordinator().recover(request.get_ref().dry_run).await;
        self.answer(report.map(convert_views::recovered).map_err(Problem::from))
    }

    async fn await_processed(
        &self,
        request: Request<v1::AwaitProcessedRequest>,
    ) -> Result<Response<v1::AwaitProcessedResponse>, Status> {
        self.answer(self.await_tokens(request.get_ref()).await)
    }
}
