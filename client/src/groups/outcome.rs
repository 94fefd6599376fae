//! What calls about groups did: resets, gaps, recovery, and what became of records. Plain data.

use sawlog_proto::v1;

use super::words::wire_enum;
use crate::reader::GapReason;
use crate::types::unsigned;

/// What a reset does to one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReset {
    /// Name of the topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
    /// Position before.
    pub old_offset: u64,
    /// Position after.
    pub new_offset: u64,
    /// Records that are delivered again (positive) or skipped (negative).
    pub records: i64,
    /// Append time of the record at the lower of both, in milliseconds since 1970; 0 if unknown.
    pub from_time_ms: i64,
    /// Append time of the record at the higher of both; 0 if unknown.
    pub to_time_ms: i64,
    /// Dead letters at or above the new position.
    pub entries: u64,
}

impl PartitionReset {
    pub(crate) fn from_wire(wire: v1::PartitionReset) -> Self {
        Self {
            topic: wire.topic,
            partition: wire.partition,
            old_offset: unsigned(wire.old_offset),
            new_offset: unsigned(wire.new_offset),
            records: wire.records,
            from_time_ms: wire.from_time_ms,
            to_time_ms: wire.to_time_ms,
            entries: wire.entries,
        }
    }
}

/// A gap that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedGap {
    /// Name of the topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
    /// First missing offset.
    pub from: u64,
    /// First offset after it.
    pub to: u64,
    /// Records settled as expired.
    pub expired: u64,
    /// Why; [`GapReason::Truncated`]: a read model has applied what was cut, and its reader goes on at `from`.
    pub reason: GapReason,
}

/// What recovery means for one group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Name of the group.
    pub name: String,
    /// Id of the group.
    pub group_id: String,
    /// Epoch before.
    pub old_epoch: u64,
    /// Epoch after, past any ever given.
    pub new_epoch: u64,
    /// At most so many records may be delivered again.
    pub maybe_redelivered: u64,
}

wire_enum! {
    /// What a group has decided about a record (rule RW-1).
    ProcessedState of ProcessedState {
        /// Acked, also through its entry.
        Acked = "acked",
        /// Skipped, discarded, expired, compacted or filtered out.
        Skipped = "skipped",
        /// Waits behind a dead letter of its key.
        Parked = "parked",
        /// A dead letter.
        Dead = "dead",
        /// Not decided within the time.
        Pending = "pending",
        /// The token belongs to another log.
        TokenOfAnotherLog = "token_of_another_log",
    }
}

/// What is known of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Processed {
    /// What was decided; `None`: something that this client does not know.
    pub state: Option<ProcessedState>,
    /// Its dead-letter entry, if it has one.
    pub dlq_id: Option<String>,
}
