//! Drives the groups: time, ids, reading, journals, sessions; replies once what they stand on is durable.
//!
//! One [`Group`] a group: a lock around its [`crate::group::machine::Machine`]. Whoever has an event locks, handles,
//! hands the records to the journals while still under the lock (so that their order in the journal is the order in
//! which they were decided), puts frames into the outboxes of sessions, and lets go. No lock is held over an await.
//!
//! It must not know messages, gRPC or files.

mod admin;
mod error;
pub mod journals;
pub mod types;
pub mod views;

use std::sync::Arc;

use sawlog_proto::batch::BatchRecord;

pub use error::GroupError;
pub use views::{Caller, Expect, GroupView, NewGroup, UpdateGroup};

use crate::group::GroupConfig;
use crate::group::effect::{Delivery, Frame, Mark};
use crate::group::event::{Join, Verb};
use crate::model::{AssignmentEpoch, GroupName, Offset, PartitionEpoch, Source};
use crate::partition::Frame as LogFrame;

/// All groups of a broker.
#[derive(Debug)]
pub struct Coordinator {}

/// What a member wants to join.
#[derive(Debug, Clone)]
pub struct JoinGroup {
    /// The group.
    pub group: GroupName,
    /// The rest of the first frame.
    pub join: Join,
    /// What the member expects: mode, topics (rule GM-2).
    pub expect: Expect,
    /// Stored batches instead of plain records (mode OFFSET).
    pub batches: bool,
    /// Least bytes of a delivery, if they come within `max_wait_ms` (rule FC-3).
    pub min_bytes: u32,
    /// Longest wait for them.
    pub max_wait_ms: u64,
}

/// One stream of a member. Dropped without [`Verb::Leave`], it may be resumed.
#[derive(Debug)]
pub struct Session {}

/// A frame for the client.
#[derive(Debug)]
pub enum SessionFrame {
    /// Everything but records.
    Control(Frame),
    /// Records one by one.
    Records {
        /// The partition.
        source: Source,
        /// Epoch of the assignment.
        epoch: AssignmentEpoch,
        /// The records.
        records: Vec<DeliveredRecord>,
        /// Mode OFFSET: first offset after what this frame covers, filtered records included (rule FC-7).
        reached: Option<Offset>,
        /// Mode OFFSET: records that are told otherwise.
        marks: Vec<Mark>,
    },
    /// Stored batches (mode OFFSET), of which the client handles what lies in `from..reached` and is not filtered.
    Batches {
        /// The partition.
        source: Source,
        /// Epoch of the assignment.
        epoch: AssignmentEpoch,
        /// The batches.
        frames: Vec<LogFrame>,
        /// First offset to handle.
        from: Offset,
        /// First offset not to handle.
        reached: Offset,
        /// Records that are told otherwise.
        marks: Vec<Mark>,
        /// Offsets that the filter leaves out.
        filtered: Vec<Offset>,
    },
}

/// A record with its delivery.
#[derive(Debug)]
pub struct DeliveredRecord {
    /// The delivery.
    pub delivery: Delivery,
    /// Epoch of its frame.
    pub epoch: PartitionEpoch,
    /// Time of its append, milliseconds since 1970.
    pub append_ms: i64,
    /// Its own time, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Key, value, headers.
    pub payload: BatchRecord,
}

impl Coordinator {
    /// Begins a session.
    ///
    /// # Errors
    /// The group is not there or is configured otherwise, the member is fenced or refused, the groups are stopped.
    pub async fn join(self: &Arc<Self>, join: JoinGroup) -> Result<Session, GroupError> {
        let _ = join;
        todo!()
    }
}

impl Session {
    /// Settings of the group, for the answer to the join.
    pub fn config(&self) -> Arc<GroupConfig> {
        todo!()
    }

    /// The group's number, of which ids of entries are made.
    pub fn group_id(&self) -> crate::model::GroupId {
        todo!()
    }

    /// Name of a topic of the group.
    pub fn topic_name(&self, topic: crate::model::TopicUuid) -> Option<crate::model::TopicName> {
        let _ = topic;
        todo!()
    }

    /// Takes a verb. Never blocks; answers come as frames.
    ///
    /// # Errors
    /// The session is over, or the groups are stopped.
    pub fn handle(&self, verb: Verb) -> Result<(), GroupError> {
        let _ = verb;
        todo!()
    }

    /// The next frame, durable as far as it must be, its records read; `None` after [`Frame::Ended`] or
    /// [`Frame::Goodbye`]. Safe to drop at any await.
    pub async fn next(&mut self) -> Option<SessionFrame> {
        todo!()
    }

    /// The name of the dead-letter entry's or record's topic, for tests and logs.
    pub fn group_name(&self) -> &GroupName {
        todo!()
    }
}

/// Keeps what a lane's name is made of in one place: SipHash-1-3 of 128 bits with a fixed key over the record's key;
/// for a record without key over its offset, with another.
pub fn lane_key(key: Option<&[u8]>, offset: Offset) -> crate::model::LaneKey {
    use std::hash::Hasher as _;

    use siphasher::sip128::{Hasher128 as _, SipHasher13};
    let hash = match key {
        Some(key) => {
            let mut hasher = SipHasher13::new_with_keys(0x7361_776c_6f67, 1);
            hasher.write(key);
            hasher.finish128()
        }
        None => {
            let mut hasher = SipHasher13::new_with_keys(0x7361_776c_6f67, 2);
            hasher.write(&offset.get().to_le_bytes());
            hasher.finish128()
        }
    };
    crate::model::LaneKey(hash.as_u128())
}
