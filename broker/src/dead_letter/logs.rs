//! What dead letters need of topics, as narrow as it is used: so that tests bring their own.

use std::fmt::Debug;
use std::sync::Arc;

use crate::model::{AckLevel, GroupId, Offset, Source, TopicName, TopicUuid};
use crate::partition::{BoxFuture, PartitionLog};
use crate::topics::{NewDeadLetterTopic, TopicError, Topics};

/// A topic that entries are appended to again (rule RD-3).
#[derive(Debug, Clone)]
pub struct TargetTopic {
    /// Its id.
    pub uuid: TopicUuid,
    /// Its partitions.
    pub partitions: Vec<Arc<dyn PartitionLog>>,
    /// Whether the key chooses the partition.
    pub keyed: bool,
    /// The least level of acknowledgement.
    pub level: AckLevel,
    /// Largest record in bytes.
    pub max_record_bytes: u64,
    /// Whether only the broker appends to it.
    pub reserved: bool,
}

/// Where the partitions are.
pub trait LetterLogs: Debug + Send + Sync + 'static {
    /// A partition of a topic; `None`: the topic is gone.
    fn partition(&self, source: Source) -> Option<Arc<dyn PartitionLog>>;
    /// The partition that holds a group's dead letters of a partition; `None`: it has not been made.
    fn dead_letters(&self, group: GroupId, source: Source) -> Option<Arc<dyn PartitionLog>>;
    /// Makes the topic for a group's dead letters of a topic; one that is there is no error.
    fn make(&self, new: NewDeadLetterTopic) -> BoxFuture<'_, Result<(), TopicError>>;
    /// Ends a group's dead letters of some topics, or of all.
    fn end(&self, group: GroupId, sources: Option<Vec<TopicUuid>>) -> BoxFuture<'_, Result<(), TopicError>>;
    /// Bytes that a group's dead letters of a topic take.
    fn bytes(&self, group: GroupId, topic: TopicUuid) -> u64;
    /// Gives about so many bytes of the reserve back to the file system; returns how many. Blocks.
    fn release_reserve(&self, bytes: u64) -> u64;
    /// A topic by its name.
    fn target(&self, name: &str) -> Option<TargetTopic>;
    /// Raises log starts of dead letters, durably. Blocks.
    ///
    /// # Errors
    /// The metadata log takes no writes: nothing is removed.
    fn trim(&self, group: GroupId, starts: &[(Source, Offset)]) -> Result<(), TopicError>;
}

impl LetterLogs for Topics {
    fn partition(&self, source: Source) -> Option<Arc<dyn PartitionLog>> {
        self.by_uuid(source.topic)?.partition(source.partition).cloned()
    }

    fn dead_letters(&self, group: GroupId, source: Source) -> Option<Arc<dyn PartitionLog>> {
        self.dead_letter_topic(source.topic, group)?.partition(source.partition).cloned()
    }

    fn make(&self, new: NewDeadLetterTopic) -> BoxFuture<'_, Result<(), TopicError>> {
        Box::pin(async move { self.create_dead_letter_topic(new).await.map(|_| ()) })
    }

    fn end(&self, group: GroupId, sources: Option<Vec<TopicUuid>>) -> BoxFuture<'_, Result<(), TopicError>> {
        Box::pin(self.drop_dead_letters(group, sources))
    }

    fn bytes(&self, group: GroupId, topic: TopicUuid) -> u64 {
        let Some(topic) = self.dead_letter_topic(topic, group) else { return 0 };
        topic.partitions().iter().map(|partition| partition.status().size_bytes).sum()
    }

    fn release_reserve(&self, bytes: u64) -> u64 {
        self.factory().disk.release_for_dead_letters(bytes)
    }

    fn target(&self, name: &str) -> Option<TargetTopic> {
        let topic = self.get(name)?;
        let config = &topic.revision().config;
        Some(TargetTopic {
            uuid: topic.uuid,
            partitions: topic.partitions().to_vec(),
            keyed: config.keyed,
            level: config.ack_floor.max(AckLevel::Durable),
            max_record_bytes: config.max_record_bytes,
            reserved: topic.dead_letters.is_some(),
        })
    }

    fn trim(&self, group: GroupId, starts: &[(Source, Offset)]) -> Result<(), TopicError> {
        let slots = starts.iter().filter_map(|(source, start)| {
            let topic = self.dead_letter_topic(source.topic, group)?;
            Some((Arc::clone(topic.slots().get(source.partition.0 as usize)?), *start))
        });
        self.raise_starts(&slots.collect::<Vec<_>>())
    }
}

/// The name that a group has reserved for its dead letters of a topic.
pub(super) fn reserved_name(name: &str) -> Result<TopicName, TopicError> {
    TopicName::parse_dead_letter(name).map_err(|rule| TopicError::Name { name: name.to_owned(), rule })
}
