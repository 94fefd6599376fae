//! TopicService: administration of topics.

use std::sync::Arc;

use sawlog_proto::v1::{self, topic_service_server::TopicService};
use tonic::{Request, Response, Status};

use super::status::{self, Problem};
use super::{Context, convert, convert_events};
use crate::model::PartitionId;
use crate::topics::{NewTopic, Topic, TopicError, TopicNotes, TopicUpdate};

/// Topics of a page if the request does not say.
const PAGE_DEFAULT: u32 = 100;
/// Most topics of a page.
const PAGE_MAX: u32 = 1_000;
/// How often a change without a revision is tried against changes that come in between.
const UPDATE_TRIES: usize = 8;

/// The handler.
#[derive(Debug, Clone)]
pub(super) struct TopicHandler(pub(super) Arc<Context>);

impl TopicHandler {
    fn answer<T>(&self, result: Result<T, Problem>) -> Result<Response<T>, Status> {
        result.map(Response::new).map_err(|problem| self.0.fail(problem))
    }

    fn existing(&self, name: &str) -> Result<Arc<Topic>, Problem> {
        self.0.topic(name).ok_or_else(|| status::topic_not_found(name))
    }

    async fn create(&self, request: v1::CreateTopicRequest) -> Result<v1::CreateTopicResponse, Problem> {
        let name = convert::topic_name("name", &request.name)?;
        let given = request.config.unwrap_or_default();
        let config = convert::merge_config(self.0.parts.topic_defaults.clone(), &given)?;
        let labels = request.labels.into_iter().collect();
        let notes = TopicNotes { owner: request.owner, description: request.description, labels };
        let (topic, created) = self.0.parts.topics.create(NewTopic { name, config, notes }).await?;
        Ok(v1::CreateTopicResponse { topic: Some(convert::topic_to_wire(&topic)), created })
    }

    fn list(&self, request: &v1::ListTopicsRequest) -> Result<v1::ListTopicsResponse, Problem> {
        let size = match request.page_size {
            0 => PAGE_DEFAULT,
            size @ 1..=PAGE_MAX => size,
            size => return Err(status::invalid_field("page_size", size, "1 to 1000, or 0 for 100")),
        };
        // A token is the last name of the page before: it stays right whatever is created or deleted meanwhile.
        let after = Some(request.page_token.as_str()).filter(|token| !token.is_empty());
        let topics = self.0.parts.topics.list(after, &request.name_prefix, size as usize + 1);
        let more = topics.len() > size as usize;
        let topics: Vec<_> = topics.iter().take(size as usize).map(|topic| convert::topic_to_wire(topic)).collect();
        let next_page_token = match topics.last() {
            Some(last) if more => last.name.clone(),
            _ => String::new(),
        };
        Ok(v1::ListTopicsResponse { topics, next_page_token })
    }

    async fn update(&self, request: v1::UpdateTopicRequest) -> Result<v1::UpdateTopicResponse, Problem> {
        let mut tries = 0;
        loop {
            let current = self.existing(&request.name)?.revision();
            let (config, notes) = convert::masked(current.config.clone(), current.notes.clone(), request.clone())?;
            let if_revision = Some(request.revision.unwrap_or(current.revision));
            let update = TopicUpdate { if_revision, config, notes };
            tries += 1;
            match self.0.parts.topics.update(&request.name, update).await {
                Ok(topic) => return Ok(v1::UpdateTopicResponse { topic: Some(convert::topic_to_wire(&topic)) }),
                // Somebody else's change came in between; what the mask does not name must not be undone.
                Err(TopicError::StaleRevision { .. }) if request.revision.is_none() && tries < UPDATE_TRIES => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn trim(&self, request: v1::TrimTopicRequest) -> Result<v1::TrimTopicResponse, Problem> {
        let topic = self.existing(&request.name)?;
        if request.before.is_empty() {
            return Err(status::invalid_field("before", "nothing", "at least one partition"));
        }
        let count = topic.partitions().len() as u32;
        let mut before = Vec::with_capacity(request.before.len());
        for bound in &request.before {
            if bound.partition >= count {
                return Err(status::partition_not_found(&request.name, bound.partition, count));
            }
            before.push((PartitionId(bound.partition), convert::offset("before.offset", bound.offset)?));
        }
        let starts = self.0.parts.topics.trim(&request.name, &before).await.map_err(|error| {
            let out_of_range = matches!(error, TopicError::OutOfRange { .. });
            let problem = Problem::from(error);
            if out_of_range { problem.fact("topic", &request.name) } else { problem }
        })?;
        let to_wire = |(partition, offset): (PartitionId, crate::model::Offset)| v1::PartitionOffset {
            partition: partition.0,
            offset: offset.to_wire(),
        };
        Ok(v1::TrimTopicResponse { log_start: starts.into_iter().map(to_wire).collect() })
    }

    fn describe(&self, request: &v1::DescribePartitionsRequest) -> Result<v1::DescribePartitionsResponse, Problem> {
        let topic = self.existing(&request.name)?;
        let ids = convert::partitions(&topic, &request.partitions)?;
        let describe = |id: PartitionId| {
            let status = topic.partition(id).expect("the partitions were checked").status();
            convert::partition_to_wire(id, status)
        };
        let partitions = ids.into_iter().map(describe).collect();
        let events = topic.event_ids();
        let event_ids = events.is_active().then(|| convert_events::status_to_wire(events.status()));
        Ok(v1::DescribePartitionsResponse { topic_id: topic.uuid.to_string(), partitions, event_ids })
    }

    async fn reopen(&self, request: &v1::ReopenPartitionRequest) -> Result<v1::ReopenPartitionResponse, Problem> {
        let topic = self.existing(&request.name)?;
        let id = convert::partitions(&topic, &[request.partition])?[0];
        let status = self.0.parts.topics.reopen(&request.name, id).await.map_err(|error| match error {
            TopicError::Partition(failure) => status::append(&request.name, id.0, failure),
            error => error.into(),
        })?;
        Ok(v1::ReopenPartitionResponse { partition: Some(convert::partition_to_wire(id, status)) })
    }
}

#[tonic::async_trait]
impl TopicService for TopicHandler {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        self.answer(self.create(request.into_inner()).await)
    }

    async fn get_topic(&self, request: Request<v1::GetTopicRequest>) -> Result<Response<v1::GetTopicResponse>, Status> {
        let topic = self.existing(&request.get_ref().name);
        self.answer(topic.map(|topic| v1::GetTopicResponse { topic: Some(convert::topic_to_wire(&topic)) }))
    }

    async fn list_topics(
        &self,
        request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        self.answer(self.list(request.get_ref()))
    }

    async fn update_topic(
        &self,
        request: Request<v1::UpdateTopicRequest>,
    ) -> Result<Response<v1::UpdateTopicResponse>, Status> {
        self.answer(self.update(request.into_inner()).await)
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let request = request.get_ref();
        let deleted = self.0.parts.topics.delete(&request.name, request.force).await;
        let response = deleted.map(|id| v1::DeleteTopicResponse { topic_id: id.to_string() });
        self.answer(response.map_err(Problem::from))
    }

    async fn trim_topic(
        &self,
        request: Request<v1::TrimTopicRequest>,
    ) -> Result<Response<v1::TrimTopicResponse>, Status> {
        self.answer(self.trim(request.into_inner()).await)
    }

    async fn describe_partitions(
        &self,
        request: Request<v1::DescribePartitionsRequest>,
    ) -> Result<Response<v1::DescribePartitionsResponse>, Status> {
        self.answer(self.describe(request.get_ref()))
    }

    async fn reopen_partition(
        &self,
        request: Request<v1::ReopenPartitionRequest>,
    ) -> Result<Response<v1::ReopenPartitionResponse>, Status> {
        self.answer(self.reopen(request.get_ref()).await)
    }
}
