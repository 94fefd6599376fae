//! Failures about topics.

use sawlog_proto::v1::ErrorReason;

use super::{
    Problem, append_failure, disk_low, escaped, invalid_field, invalid_name, partition_not_found, shutting_down,
    topic_not_found,
};
use crate::topics::TopicError;

impl From<TopicError> for Problem {
    fn from(error: TopicError) -> Self {
        use ErrorReason as R;
        let message = error.to_string();
        match error {
            TopicError::NotFound { name } => topic_not_found(&name),
            TopicError::NoPartition { name, partition, partitions } => {
                partition_not_found(&name, partition, partitions)
            }
            TopicError::Exists { name, differences } => {
                Self::new(R::TopicExists, message).fact("name", name).fact("fields", differences)
            }
            TopicError::Name { name, rule } => invalid_name("name", &name, rule),
            TopicError::Field { field, found, bounds } => invalid_field(field, found, &bounds),
            TopicError::StaleRevision { name, given, current } => {
                Self::new(R::StaleRevision, message).fact("topic", name).fact("found", given).fact("current", current)
            }
            TopicError::OutOfRange { partition, offset, earliest, latest } => Self::new(R::OffsetOutOfRange, message)
                .fact("partition", partition)
                .fact("offset", offset)
                .fact("earliest", earliest)
                .fact("latest", latest),
            TopicError::ReservedTopic { name } => Self::new(R::ReservedTopic, message).fact("topic", escaped(&name)),
            TopicError::DeadLetterNameTaken { group, topic, name } => Self::new(R::DlqNameTaken, message)
                .fact("group", escaped(&group))
                .fact("topic", escaped(&topic))
                .fact("name", escaped(&name)),
            TopicError::OpenEntries { name, open } => {
                Self::new(R::OpenEntries, message).fact("topic", escaped(&name)).fact("open_entries", open)
            }
            TopicError::GroupsUnknown { recovering: true, .. } => {
                Self::new(R::Recovering, message).fact("scope", "groups")
            }
            TopicError::GroupsUnknown { cause, .. } => Self::new(R::GroupsStopped, message).fact("cause", cause),
            TopicError::JobConflict { name, job, open } => Self::new(R::JobConflict, message)
                .fact("topic", escaped(&name))
                .fact("job", job)
                .fact("open_entries", open),
            TopicError::Limit { limit, max } => {
                Self::new(R::LimitReached, message).fact("limit", limit).fact("max", max)
            }
            TopicError::ReadOnly { cause } => Self::new(R::BrokerReadOnly, message).fact("cause", cause),
            TopicError::Partition(failure) => append_failure(failure).0,
            TopicError::DiskLow { free_bytes, min_free_bytes } => disk_low(message, free_bytes, min_free_bytes),
            TopicError::ShuttingDown => shutting_down(),
        }
    }
}
