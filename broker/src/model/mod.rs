//! The words of the broker as types: pure, without I/O, clock or anything else of ours.

pub mod offset;
pub mod topic;

pub use offset::{FilePosition, Offset, OffsetRange, PartitionEpoch, Position};
pub use topic::{AckLevel, NameError, PartitionId, TopicId, TopicName, TopicUuid};
