//! The words of the broker as types: pure, without I/O, clock or anything else of ours.

pub mod filter;
pub mod offset;
pub mod rate;
pub mod topic;

pub use filter::{Filter, HeaderCondition, HeaderValue};
pub use offset::{FilePosition, Offset, OffsetRange, PartitionEpoch, Position};
pub use rate::TokenBucket;
pub use topic::{AckLevel, NameError, PartitionId, TopicId, TopicName, TopicUuid};
