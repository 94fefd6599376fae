//! The words of the broker as types: pure, without I/O, clock or anything else of ours.

pub mod filter;
pub mod group;
pub mod key;
pub mod offset;
pub mod rate;
pub mod topic;

pub use filter::{Filter, HeaderCondition, HeaderValue};
pub use group::{AssignedUnit, AssignmentEpoch, GroupId, GroupName, MemberEpoch, MemberId, Source, VersionName};
pub use key::{KeySlot, LaneKey, SlotRange};
pub use offset::{FilePosition, Offset, OffsetRange, PartitionEpoch, Position};
pub use rate::TokenBucket;
pub use topic::{AckLevel, NameError, PartitionId, TopicId, TopicName, TopicUuid};
