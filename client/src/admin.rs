//! Topics, partitions, offsets, health: unary calls, repeated while the broker says that a repeat helps and the call's
//! time is not over. Every change is durable before it is answered.

use std::collections::BTreeMap;

use sawlog_proto::v1;

use crate::connection::Client;
use crate::error::Error;
use crate::paging;
use crate::types::{EventIds, OffsetAt, Partition, PartitionOffset, Topic, TopicConfig, TopicId, signed, unsigned};

/// Administration of a broker.
#[derive(Debug, Clone)]
pub struct Admin {
    client: Client,
}

/// A topic to create.
#[derive(Debug, Clone, Default)]
pub struct NewTopic {
    /// Name: ASCII letters, digits, `.`, `_`, `-`, at most 120 bytes.
    pub name: String,
    /// Settings; what is `None` takes the broker's default.
    pub config: TopicConfig,
    /// Who answers for the topic.
    pub owner: String,
    /// What its records are.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
}

impl NewTopic {
    /// A topic with the broker's defaults.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With so many partitions.
    pub fn partitions(mut self, partitions: u32) -> Self {
        self.config.partitions = Some(partitions);
        self
    }

    /// Whether each record must have a key.
    pub fn keyed(mut self, keyed: bool) -> Self {
        self.config.keyed = Some(keyed);
        self
    }

    /// With these settings.
    pub fn config(mut self, config: TopicConfig) -> Self {
        self.config = config;
        self
    }
}

/// A change of a topic: only what is `Some` changes.
#[derive(Debug, Clone, Default)]
pub struct TopicChange {
    /// The revision that must be current.
    pub if_revision: Option<u64>,
    /// New settings.
    pub config: TopicConfig,
    /// New owner.
    pub owner: Option<String>,
    /// New description.
    pub description: Option<String>,
    /// New labels, all of them.
    pub labels: Option<BTreeMap<String, String>>,
}

/// What a broker says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// It serves.
    Serving,
    /// It recovers, drains, or does not know the service asked for.
    NotServing,
}

impl Admin {
    pub(crate) fn new(client: Client) -> Self {
        Self { client }
    }

    /// Creates a topic. The flag says whether it is new: one that exists with equal settings is answered as it is.
    ///
    /// # Errors
    /// `TOPIC_EXISTS` with other settings, `INVALID_NAME`, `INVALID_FIELD`, `LIMIT_REACHED`, `DISK_LOW`.
    pub async fn create_topic(&self, topic: NewTopic) -> Result<(Topic, bool), Error> {
        let request = v1::CreateTopicRequest {
            name: topic.name,
            config: Some(topic.config.to_wire()),
            owner: topic.owner,
            description: topic.description,
            labels: topic.labels.into_iter().collect(),
        };
        let response = self
            .client
            .repeat(|| {
                let (mut topics, request) = (self.client.topics(), request.clone());
                async move { topics.create_topic(request).await }
            })
            .await?;
        Ok((given(response.topic)?, response.created))
    }

    /// A topic by its name.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`.
    pub async fn get_topic(&self, name: &str) -> Result<Topic, Error> {
        let response = self
            .client
            .repeat(|| {
                let (mut topics, request) = (self.client.topics(), v1::GetTopicRequest { name: name.to_owned() });
                async move { topics.get_topic(request).await }
            })
            .await?;
        given(response.topic)
    }

    /// All topics whose names begin with `prefix`, in order of their names. Asks for as many pages as it takes.
    ///
    /// # Errors
    /// Of the connection alone.
    pub async fn list_topics(&self, prefix: &str) -> Result<Vec<Topic>, Error> {
        paging::all(|token| async move { self.list_page(prefix, paging::PAGE, &token).await }).await
    }

    /// One page of at most `page_size` topics (0: 100) and the token of the next, empty at the end.
    ///
    /// # Errors
    /// `INVALID_FIELD` for a token that no page gave.
    pub async fn list_page(
        &self,
        prefix: &str,
        page_size: u32,
        page_token: &str,
    ) -> Result<(Vec<Topic>, String), Error> {
        let request =
            v1::ListTopicsRequest { page_size, page_token: page_token.to_owned(), name_prefix: prefix.to_owned() };
        let response = self
            .client
            .repeat(|| {
                let (mut topics, request) = (self.client.topics(), request.clone());
                async move { topics.list_topics(request).await }
            })
            .await?;
        Ok((response.topics.into_iter().map(Topic::from_wire).collect(), response.next_page_token))
    }

    /// Changes a topic; returns it as it is then.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `STALE_REVISION`, `INVALID_FIELD`.
    pub async fn update_topic(&self, name: &str, change: TopicChange) -> Result<Topic, Error> {
        let mut paths = change.config.mask();
        let fields = [
            ("owner", change.owner.is_some()),
            ("description", change.description.is_some()),
            ("labels", change.labels.is_some()),
        ];
        paths.extend(fields.iter().filter(|(_, set)| *set).map(|(name, _)| (*name).to_owned()));
        let request = v1::UpdateTopicRequest {
            name: name.to_owned(),
            revision: change.if_revision,
            config: Some(change.config.to_wire()),
            owner: change.owner.unwrap_or_default(),
            description: change.description.unwrap_or_default(),
            labels: change.labels.unwrap_or_default().into_iter().collect(),
            update_mask: Some(prost_types::FieldMask { paths }),
        };
        let response = self
            .client
            .repeat(|| {
                let (mut topics, request) = (self.client.topics(), request.clone());
                async move { topics.update_topic(request).await }
            })
            .await?;
        given(response.topic)
    }

    /// Deletes a topic and all its records; returns its id.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`; `OPEN_ENTRIES`, `JOB_CONFLICT` without `force`.
    pub async fn delete_topic(&self, name: &str, force: bool) -> Result<TopicId, Error> {
        let request = v1::DeleteTopicRequest { name: name.to_owned(), force };
        let response = self
            .client
            .repeat(|| {
                let (mut topics, request) = (self.client.topics(), request.clone());
                async move { topics.delete_topic(request).await }
            })
            .await?;
        Ok(TopicId::from(response.topic_id.as_str()))
    }

    /// Deletes the records before the offset of each partition named, for ever; returns the log starts.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `PARTITION_NOT_FOUND`, `OFFSET_OUT_OF_RANGE` above the high watermark.
    pub async fn trim_topic(&self, name: &str, before: &[(u32, u64)]) -> Result<Vec<(u32, u64)>, Error> {
        let before = before
            .iter()
            .map(|(partition, offset)| v1::PartitionOffset { partition: *partition, offset: signed(*offset) })
            .collect();
        let request = v1::TrimTopicRequest { name: name.to_owned(), before };
        let response = self
            .client
            .repeat(|| {
                let (mut topics, request) = (self.client.topics(), request.clone());
                async move { topics.trim_topic(request).await }
            })
            .await?;
        Ok(response.log_start.iter().map(|start| (start.partition, unsigned(start.offset))).collect())
    }

    /// Offsets, sizes and state of partitions; none named means all.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `PARTITION_NOT_FOUND`.
    pub async fn describe_partitions(&self, name: &str, partitions: &[u32]) -> Result<Vec<Partition>, Error> {
        let described = self.describe(name, partitions).await?;
        Ok(described.partitions.into_iter().map(Partition::from_wire).collect())
    }

    /// The event ids that a topic remembers; `None` if it finds out no repeats.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`.
    pub async fn event_ids(&self, name: &str) -> Result<Option<EventIds>, Error> {
        let described = self.describe(name, &[0]).await?;
        Ok(described.event_ids.map(|ids| EventIds {
            ids: unsigned(ids.ids),
            max_ids: unsigned(ids.max_ids),
            span_ms: u64::try_from(ids.span_ms).ok(),
            ready: ids.ready,
        }))
    }

    async fn describe(&self, name: &str, partitions: &[u32]) -> Result<v1::DescribePartitionsResponse, Error> {
        let request = v1::DescribePartitionsRequest { name: name.to_owned(), partitions: partitions.to_vec() };
        let response = self
            .client
            .repeat(|| {
                let (mut topics, request) = (self.client.topics(), request.clone());
                async move { topics.describe_partitions(request).await }
            })
            .await?;
        Ok(response)
    }

    /// Opens a fenced partition for writing again.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `PARTITION_NOT_FOUND`, `PARTITION_FENCED` while its new files cannot be synced.
    pub async fn reopen_partition(&self, name: &str, partition: u32) -> Result<Partition, Error> {
        let request = v1::ReopenPartitionRequest { name: name.to_owned(), partition };
        // Not repeated: the answer of a broker that cannot sync is what the operator asked for.
        let response = self.client.once(self.client.topics().reopen_partition(request)).await?;
        response.partition.map(Partition::from_wire).ok_or_else(|| Error::protocol("no partition in the answer"))
    }

    /// Offsets by place or time, one entry a partition; no partition named means all.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `PARTITION_NOT_FOUND`.
    pub async fn offsets(&self, name: &str, partitions: &[u32], at: OffsetAt) -> Result<Vec<PartitionOffset>, Error> {
        Ok(self.topic_offsets(name, partitions, at).await?.1)
    }

    /// The same, with the topic's id.
    pub(crate) async fn topic_offsets(
        &self,
        name: &str,
        partitions: &[u32],
        at: OffsetAt,
    ) -> Result<(TopicId, Vec<PartitionOffset>), Error> {
        use v1::get_offsets_request::At;
        let at = match at {
            OffsetAt::Earliest => At::Earliest(v1::Unit {}),
            OffsetAt::Latest => At::Latest(v1::Unit {}),
            OffsetAt::TimestampMs(time) => At::TimestampMs(time),
        };
        let request = v1::GetOffsetsRequest { topic: name.to_owned(), partitions: partitions.to_vec(), at: Some(at) };
        let response = self
            .client
            .repeat(|| {
                let (mut reads, request) = (self.client.reads(), request.clone());
                async move { reads.get_offsets(request).await }
            })
            .await?;
        let offsets = response.offsets.iter().map(|entry| PartitionOffset {
            partition: entry.partition,
            offset: unsigned(entry.offset),
            epoch: entry.epoch,
        });
        Ok((TopicId::from(response.topic_id.as_str()), offsets.collect()))
    }

    /// What the broker says of itself (`grpc.health.v1`, the whole server). One call, not repeated.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] if it cannot be reached.
    pub async fn health(&self) -> Result<Health, Error> {
        self.health_of("").await
    }

    /// What the broker says of one of its services, such as `sawlog.v1.ProduceService`.
    ///
    /// # Errors
    /// [`crate::ErrorKind::Unavailable`] if it cannot be reached, [`crate::ErrorKind::NotFound`] if it has no such service.
    pub async fn health_of(&self, service: &str) -> Result<Health, Error> {
        let mut health = tonic_health::pb::health_client::HealthClient::new(self.client.channel.clone());
        let request = tonic_health::pb::HealthCheckRequest { service: service.to_owned() };
        let response = self.client.once(health.check(request)).await?;
        Ok(match response.status() {
            tonic_health::pb::health_check_response::ServingStatus::Serving => Health::Serving,
            _ => Health::NotServing,
        })
    }
}

fn given(topic: Option<v1::Topic>) -> Result<Topic, Error> {
    topic.map(Topic::from_wire).ok_or_else(|| Error::protocol("no topic in the answer"))
}
