//! Topics of the null server: as much of them as a client needs to produce and read.

use std::sync::Arc;
use std::sync::atomic::AtomicI64;

use sawlog_proto::v1::topic_service_server::TopicService;
use sawlog_proto::v1::{self};
use tonic::{Request, Response, Status};

use super::body::Replay;
use super::{BATCHES_LABEL, NullState, NullTopic, RECORD_BYTES_LABEL};

/// What the client may ask for and no load of ours does.
fn not_here<T>() -> Result<T, Status> {
    Err(Status::unimplemented("the null server has only what a load needs"))
}

fn label(topic: &v1::CreateTopicRequest, name: &str) -> Option<usize> {
    topic.labels.get(name).and_then(|value| value.parse().ok())
}

#[tonic::async_trait]
impl TopicService for NullState {
    async fn create_topic(
        &self,
        request: Request<v1::CreateTopicRequest>,
    ) -> Result<Response<v1::CreateTopicResponse>, Status> {
        let request = request.into_inner();
        let config = request.config.clone().unwrap_or_default();
        let partitions = config.partitions.unwrap_or(1);
        let replay = match (label(&request, RECORD_BYTES_LABEL), label(&request, BATCHES_LABEL)) {
            (Some(record_bytes), Some(batches)) => Some(Arc::new(Replay::new(record_bytes, batches))),
            _ => None,
        };
        let mut topics = self.0.write();
        let number = topics.len();
        let described = v1::Topic {
            name: request.name.clone(),
            topic_id: format!("00000000-0000-4000-8000-{number:012x}"),
            revision: 1,
            config: Some(v1::TopicConfig {
                partitions: Some(partitions),
                keyed: Some(config.keyed.unwrap_or(true)),
                max_record_bytes: Some(config.max_record_bytes.unwrap_or(1 << 20)),
                ..config
            }),
            labels: request.labels,
            hash_version: 1,
            slot_hash_version: 1,
            ..v1::Topic::default()
        };
        let topic = NullTopic {
            described: described.clone(),
            ends: (0..partitions).map(|_| AtomicI64::new(0)).collect(),
            followers: parking_lot::Mutex::default(),
            replay,
        };
        topics.insert(request.name, Arc::new(topic));
        Ok(Response::new(v1::CreateTopicResponse { topic: Some(described), created: true }))
    }

    async fn get_topic(&self, request: Request<v1::GetTopicRequest>) -> Result<Response<v1::GetTopicResponse>, Status> {
        let topic = self.topic(&request.into_inner().name)?;
        Ok(Response::new(v1::GetTopicResponse { topic: Some(topic.described.clone()) }))
    }

    async fn list_topics(
        &self,
        _request: Request<v1::ListTopicsRequest>,
    ) -> Result<Response<v1::ListTopicsResponse>, Status> {
        let topics = self.0.read().values().map(|topic| topic.described.clone()).collect();
        Ok(Response::new(v1::ListTopicsResponse { topics, next_page_token: String::new() }))
    }

    async fn update_topic(
        &self,
        _request: Request<v1::UpdateTopicRequest>,
    ) -> Result<Response<v1::UpdateTopicResponse>, Status> {
        not_here()
    }

    async fn delete_topic(
        &self,
        request: Request<v1::DeleteTopicRequest>,
    ) -> Result<Response<v1::DeleteTopicResponse>, Status> {
        let name = request.into_inner().name;
        let topic = self.topic(&name)?;
        self.0.write().remove(&name);
        Ok(Response::new(v1::DeleteTopicResponse { topic_id: topic.described.topic_id.clone() }))
    }

    async fn trim_topic(
        &self,
        _request: Request<v1::TrimTopicRequest>,
    ) -> Result<Response<v1::TrimTopicResponse>, Status> {
        not_here()
    }

    async fn describe_partitions(
        &self,
        request: Request<v1::DescribePartitionsRequest>,
    ) -> Result<Response<v1::DescribePartitionsResponse>, Status> {
        let topic = self.topic(&request.into_inner().name)?;
        let partitions = (0..topic.partitions())
            .map(|partition| v1::PartitionDescription {
                partition,
                high_watermark: topic.end(partition),
                log_end_offset: topic.end(partition),
                state: v1::PartitionState::Online.into(),
                ..v1::PartitionDescription::default()
            })
            .collect();
        let topic_id = topic.described.topic_id.clone();
        Ok(Response::new(v1::DescribePartitionsResponse { topic_id, partitions, event_ids: None }))
    }

    async fn reopen_partition(
        &self,
        _request: Request<v1::ReopenPartitionRequest>,
    ) -> Result<Response<v1::ReopenPartitionResponse>, Status> {
        not_here()
    }
}
