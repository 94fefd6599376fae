//! What a session takes in at its begin and gives out: plain data.

use sawlog_proto::batch::BatchRecord;

use super::views::Expect;
use crate::group::effect::{Delivery, Frame, Mark};
use crate::group::event::Join;
use crate::group::replay::ReplayMark;
use crate::model::{AssignmentEpoch, GroupName, Offset, PartitionEpoch, Source};
use crate::partition::Frame as LogFrame;

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
        /// The replay that those in its range are part of.
        replay: Option<ReplayMark>,
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
        /// Records as they were resolved, edited, for those in the batches (rule DL-15), by offset.
        edited: Vec<EditedRecord>,
        /// The replay that all of them are part of.
        replay: Option<ReplayMark>,
    },
}

/// A record as it was resolved, to be handled in place of the one in the log.
#[derive(Debug, Clone)]
pub struct EditedRecord {
    /// Its offset in the log.
    pub offset: Offset,
    /// Its own time, milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Key, value, headers.
    pub payload: BatchRecord,
}

impl SessionFrame {
    /// Bytes of records in it: what a long poll waits for.
    pub fn payload_bytes(&self) -> usize {
        match self {
            Self::Control(_) => 0,
            Self::Records { records, .. } => records.iter().map(DeliveredRecord::payload_bytes).sum(),
            Self::Batches { frames, .. } => frames.iter().map(|frame| frame.batch.len()).sum(),
        }
    }
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

impl DeliveredRecord {
    /// Bytes of key, value and headers.
    pub fn payload_bytes(&self) -> usize {
        let part = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
        let headers = self.payload.headers.iter().map(|header| header.key.len() + part(&header.value));
        part(&self.payload.key) + part(&self.payload.value) + headers.sum::<usize>()
    }
}
