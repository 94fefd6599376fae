//! What a member meets: records, units that come and go, gaps, pauses.

use std::sync::Arc;

use super::delivery::Delivery;
use super::record::Source;
use crate::groups::PauseReason;
use crate::reader::GapReason;

/// What a member meets.
#[derive(Debug)]
pub enum ConsumerEvent {
    /// A record to handle.
    Delivery(Delivery),
    /// A unit has become this member's.
    Assigned(Unit),
    /// A unit is taken away.
    Revoked(Unit),
    /// The live end of a partition is reached.
    CaughtUp {
        /// The partition.
        source: Arc<Source>,
        /// Offset that comes next.
        offset: u64,
    },
    /// The group has fallen behind the live end again.
    FellBehind {
        /// The partition.
        source: Arc<Source>,
        /// Offset that comes next.
        offset: u64,
    },
    /// Offsets that the group will not get (rule RE-4).
    Gap {
        /// The partition.
        source: Arc<Source>,
        /// First missing offset.
        from: u64,
        /// First offset after the gap.
        to: u64,
        /// Why.
        reason: GapReason,
        /// How many records of it the group had not settled, if known.
        records: Option<u64>,
        /// The group waits until somebody accepts the gap.
        stopped: bool,
    },
    /// All of a replay's range was handled, of a partition or of all; or the replay was cancelled (rule RP-5). It may be
    /// told more than once.
    ReplayDone {
        /// Id of the replay.
        replay_id: String,
        /// The partition; `None`: the whole replay.
        source: Option<Arc<Source>>,
        /// It was cancelled; nothing more of it comes.
        cancelled: bool,
    },
    /// Deliveries pause.
    Paused {
        /// Why.
        reason: Option<PauseReason>,
        /// Topic that pauses; `None`: all.
        topic: Option<String>,
        /// Partition that pauses; `None`: all.
        partition: Option<u32>,
        /// What was noted with it.
        note: String,
    },
    /// Deliveries go on.
    Resumed {
        /// Why they paused.
        reason: Option<PauseReason>,
        /// Topic that goes on; `None`: all.
        topic: Option<String>,
        /// Partition that goes on; `None`: all.
        partition: Option<u32>,
    },
}

/// What a member owns: a run of the key slots of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unit {
    /// The partition.
    pub source: Arc<Source>,
    /// Its slots, half-open; all 4,096 in mode offset.
    pub slots: (u32, u32),
    /// Epoch of the assignment.
    pub assignment_epoch: u64,
    /// First offset that is not settled; 0 when it is taken away.
    pub start_offset: u64,
    /// Text committed with the position; mode offset.
    pub metadata: String,
}
