//! What a group wants done after an event: records to journal, frames to send, ranges to read, dead letters to move.

use super::entry::{EntryKey, EntryRecord, EntryState};
use super::rebuild::SwapAsk;
use super::record::{GapReason, GroupRecord, Pause, PauseReason};
use super::replay::{ReplayEnd, ReplayMark};
use super::took::Took;
use crate::model::{
    AssignedUnit, AssignmentEpoch, MemberEpoch, MemberId, Offset, OffsetRange, PartitionEpoch, SlotRange, Source,
};

/// Everything that follows from one event, in order.
#[derive(Debug, Default)]
pub struct Effects {
    /// Records for the group journal; they are applied already.
    pub records: Vec<GroupRecord>,
    /// Records for the entry journal; they are applied already.
    pub entry_records: Vec<EntryRecord>,
    /// Frames for members, each in order with those before it to the same member.
    pub frames: Vec<Outgoing>,
    /// Ranges to read; one at a time is out for a partition.
    pub fetches: Vec<Fetch>,
    /// Dead letters to move, in order, once this event's records are durable: partition and number of the intent.
    pub moves: Vec<(Source, u64)>,
    /// Intents told by [`super::event::Event::EntryDurable`] once this event's entry records are; 0: a reset that clears.
    pub opened: Vec<(Source, u64)>,
    /// When [`super::event::Event::Tick`] is due at the latest, by the monotonic clock; `None`: never.
    pub deadline_ms: Option<u64>,
    /// What operators, metrics and events want to know.
    pub notices: Vec<Notice>,
    /// Sessions to be answered with [`super::event::Event::Silent`], or heard: they are not lost before (rule GM-7).
    pub doubts: Vec<(MemberId, MemberEpoch)>,
    /// The answer to an admin call, or a refused join.
    pub outcome: Option<Result<(), Refusal>>,
}

/// When a frame may go out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum After {
    /// At once.
    Now,
    /// When the group records up to this event are durable.
    Group,
    /// When the entry records up to this event are durable, and the group records too.
    Entries,
}

/// A frame for a member.
#[derive(Debug)]
pub struct Outgoing {
    /// To whom.
    pub member: MemberId,
    /// What.
    pub frame: Frame,
    /// When.
    pub after: After,
}

/// What a member is told.
#[derive(Debug, Clone)]
pub enum Frame {
    /// The answer to a join.
    Joined {
        /// Its session.
        epoch: MemberEpoch,
        /// It is the session that was to be resumed.
        resumed: bool,
        /// What became of what it had in work, other than leased (again).
        lost: Vec<(Source, OffsetRange, AckStatus)>,
        /// The same for entries.
        lost_entries: Vec<(EntryKey, AckStatus)>,
    },
    /// It owns a unit.
    Assign {
        /// The unit.
        unit: AssignedUnit,
        /// Under this epoch.
        epoch: AssignmentEpoch,
        /// The first unsettled offset.
        start: Offset,
        /// Epoch of the partition.
        partition_epoch: PartitionEpoch,
        /// Crashes in a row with the first record (rule RM-8).
        crashes: u32,
        /// The commit's metadata (mode OFFSET).
        metadata: String,
        /// Where the group began.
        group_start: Offset,
    },
    /// It must hand over a unit.
    Revoke {
        /// The unit.
        unit: AssignedUnit,
        /// At once: what it holds of it is lost to it.
        lost: bool,
    },
    /// It should give back what it has not started (rules KO-4, FC-5).
    Recall {
        /// The partition.
        source: Source,
        /// Epoch under which they were leased, as far as it is known.
        epoch: AssignmentEpoch,
        /// Offsets.
        runs: Vec<OffsetRange>,
        /// Entries.
        entries: Vec<EntryKey>,
    },
    /// Records, one by one.
    Deliver(Delivered),
    /// Everything from `range.from` to `range.to` (mode OFFSET), read by the coordinator as it stands in the log.
    DeliverRange {
        /// The partition.
        source: Source,
        /// Epoch of the assignment.
        epoch: AssignmentEpoch,
        /// Offsets.
        range: OffsetRange,
        /// Records in it that are told otherwise: of an entry, or of a dead lane (rules AK-8, DL-15).
        marks: Vec<Mark>,
        /// Offsets in it that the filter leaves out.
        filtered: Vec<Offset>,
        /// The replay that it is part of; a range is within it or without.
        replay: Option<ReplayMark>,
    },
    /// Answers to Ack, Nack and Extend, one a verb (rule AK-2).
    AckResults {
        /// Number of the request.
        request: u64,
        /// Offsets.
        results: Vec<(OffsetRange, AckStatus)>,
        /// Entries.
        entries: Vec<(EntryKey, AckStatus)>,
        /// The partition.
        source: Source,
    },
    /// Answer to Commit.
    CommitResult {
        /// Number of the request.
        request: u64,
        /// The partition.
        source: Source,
        /// Committed, or why not.
        result: Result<Offset, Refusal>,
    },
    /// Answer to DeadLetter.
    DeadLetterResult {
        /// Number of the request.
        request: u64,
        /// The entry, or why there is none.
        result: Result<EntryKey, Refusal>,
        /// The lane is live: handle the record (rule AK-8).
        lane_live: bool,
    },
    /// Answer to a ping.
    Pong,
    /// The unit has reached the live end (rule FC-4).
    CaughtUp {
        /// The partition.
        source: Source,
        /// The next offset.
        offset: Offset,
        /// Append time of the record before it.
        append_ms: i64,
    },
    /// It is behind again.
    FellBehind {
        /// The partition.
        source: Source,
        /// The next offset.
        offset: Offset,
    },
    /// Offsets that will not come (rule RE-4).
    Gap {
        /// The partition.
        source: Source,
        /// Which.
        range: OffsetRange,
        /// Why.
        reason: GapReason,
        /// How many records of it the group had not settled, if known.
        records: Option<u64>,
        /// The partition waits until it is accepted.
        stops: bool,
    },
    /// Deliveries pause, or go on (rule OF-6).
    Pause {
        /// The pause.
        pause: Box<Pause>,
        /// It lasts; false: it has ended.
        on: bool,
    },
    /// All of a replay's range was handled, of a partition or of all; or the replay was cancelled (rule RP-5).
    ReplayDone {
        /// Number of the replay.
        number: u64,
        /// How it ended.
        end: ReplayEnd,
        /// The partition; `None`: the whole replay.
        source: Option<Source>,
    },
    /// Change the user's database, so that its version becomes the active one (rule RP-6).
    Swap(Box<SwapAsk>),
    /// Come back later (rule GM-11).
    Goodbye {
        /// When.
        reconnect_after_ms: u64,
    },
    /// The session is over; the stream ends with this.
    Ended(Refusal),
}

/// Records delivered one by one.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The partition.
    pub source: Source,
    /// Epoch of the assignment.
    pub epoch: AssignmentEpoch,
    /// The records.
    pub records: Vec<Delivery>,
    /// The replay that those in its range are part of.
    pub replay: Option<ReplayMark>,
}

/// One delivered record.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// Its offset in the source.
    pub offset: Offset,
    /// Which delivery this is, from 1 (rule RT-7).
    pub attempt: u32,
    /// More, for all but first deliveries from the source.
    pub more: Option<Box<DeliveryMore>>,
}

/// What few deliveries have.
#[derive(Debug, Clone, Default)]
pub struct DeliveryMore {
    /// Time of the first delivery, milliseconds since 1970.
    pub first_delivery_ms: i64,
    /// Class of the last error.
    pub last_class: String,
    /// There is a hole in its key before it (rule DL-8).
    pub gap_before: bool,
    /// It comes from its entry: the copy to read and what it is.
    pub entry: Option<EntryDelivery>,
}

/// A delivery from an entry.
#[derive(Debug, Clone)]
pub struct EntryDelivery {
    /// The entry.
    pub key: EntryKey,
    /// Where the copy, of the newest version, is in the dead-letter partition.
    pub copy: Offset,
    /// Version: 0 as it was.
    pub version: u32,
    /// Cycle.
    pub cycle: u32,
    /// The job that redrives it.
    pub job: Option<u64>,
}

/// A record in a range that is not simply to be handled (mode OFFSET).
#[derive(Debug, Clone, Copy)]
pub struct Mark {
    /// Its offset.
    pub offset: Offset,
    /// Its entry, or the head of its lane if it has none.
    pub entry: EntryKey,
    /// State of its entry; `None`: it has none, its lane is dead.
    pub state: Option<EntryState>,
    /// Cycle of its entry.
    pub cycle: u32,
    /// The record is delivered as it was resolved, edited: where that copy is (rule DL-15, for a cursor).
    pub copy: Option<Offset>,
}

/// What became of a verb for a record (rule AK-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AckStatus {
    /// Done, durably.
    Ok,
    /// The unit is another's.
    Fenced,
    /// It is not leased to the member, or another of its lane comes first (rule KO-3).
    NotLeased,
    /// It was recalled (rule KO-4).
    Recalled,
    /// It had been settled.
    AlreadySettled,
    /// Its lane is live: handle it (rule AK-8).
    LaneLive,
}

/// A range to read. The answer is [`super::event::Event::Fetched`], or a gap; at the high watermark the reader waits for
/// more. One for a partition that is being read already takes the place of the older one and its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Fetch {
    /// The partition.
    pub source: Source,
    /// First offset.
    pub from: Offset,
    /// About so many bytes of log.
    pub max_bytes: u32,
    /// Whether each record must be looked at; if not, only `next` is needed.
    pub look: bool,
}

/// For operators, metrics and events; never contents.
#[derive(Debug, Clone)]
pub enum Notice {
    /// A unit moved.
    Moved(AssignedUnit),
    /// Records were delivered for the first time: how many, and how long after their append, in milliseconds.
    FirstDelivered {
        /// Records.
        records: u64,
        /// Milliseconds from append to delivery of the last of them.
        after_ms: u64,
    },
    /// Records were settled.
    Settled {
        /// Records.
        records: u64,
        /// Of one of them; in mode OFFSET once what was sent together is passed whole.
        took: Option<Took>,
    },
    /// A try failed.
    Failed,
    /// A record died or was parked or spilled.
    DeadLettered {
        /// The entry.
        key: EntryKey,
        /// Its lane was spilled.
        spilled: bool,
    },
    /// A lane is live again.
    LaneLive,
    /// A bound of AK-7 is at 80 %.
    BoundNear {
        /// The partition.
        source: Source,
        /// Which.
        bound: &'static str,
    },
    /// A pause began or ended by itself.
    Pause {
        /// Why.
        reason: PauseReason,
        /// It began.
        on: bool,
    },
    /// The breaker opened or closed.
    Breaker {
        /// It opened.
        open: bool,
        /// Why.
        why: String,
    },
    /// A member was lost.
    MemberLost(MemberId),
    /// Records will not come.
    Gap {
        /// The partition.
        source: Source,
        /// Which.
        range: OffsetRange,
        /// Why.
        reason: GapReason,
    },
    /// A replay has ended.
    ReplayEnded,
    /// An entry was closed: for jobs and waiters.
    EntryClosed(EntryKey),
    /// A redriven entry failed again.
    RedriveFailed(EntryKey),
}

/// Why a verb, a join or a call was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Another mode's verb.
    #[error("{verb} is not a verb of this group's mode")]
    WrongMode {
        /// The verb.
        verb: &'static str,
    },
    /// The assignment epoch is stale, or the unit another's.
    #[error("the unit has epoch {current}, given was {given}")]
    Fenced {
        /// The partition.
        source_partition: Source,
        /// The slots.
        slots: SlotRange,
        /// Epoch given.
        given: AssignmentEpoch,
        /// Current epoch.
        current: AssignmentEpoch,
    },
    /// The session was replaced, lost or never was.
    #[error("the session is over")]
    SessionOver,
    /// Another session took the instance id over.
    #[error("another session took over instance {instance:?}")]
    InstanceReplaced {
        /// The instance id.
        instance: String,
    },
    /// Too many of something.
    #[error("{limit} is at its limit of {max}")]
    Limit {
        /// Which.
        limit: &'static str,
        /// How many.
        max: u64,
    },
    /// The offset is not one that can be named.
    #[error("offset {offset} is not within {earliest} and {latest}")]
    OutOfRange {
        /// The partition.
        source_partition: Source,
        /// Given.
        offset: Offset,
        /// The least.
        earliest: Offset,
        /// The greatest.
        latest: Offset,
    },
    /// A cut of the log took records that a read model has applied (rule RM-1).
    #[error("position {} is of a part that was cut at {}", .1.next, .1.at)]
    CursorCut(Source, Box<super::cursor_cut::CursorCut>),
    /// A commit below the committed offset.
    #[error("{current} is committed, asked was {asked}")]
    CommitBackwards {
        /// The partition.
        source_partition: Source,
        /// Committed.
        current: Offset,
        /// Asked.
        asked: Offset,
    },
    /// No reset is left.
    #[error("there is no reset to undo")]
    NothingToUndo,
    /// No such entry.
    #[error("no such entry")]
    EntryNotFound,
    /// The entry is closed.
    #[error("the entry is {state:?}")]
    EntryClosed {
        /// Which.
        key: EntryKey,
        /// Its state.
        state: EntryState,
    },
    /// A job has it.
    #[error("job {job} has it")]
    JobConflict {
        /// The job.
        job: u64,
    },
    /// Something of the request is out of its bounds.
    #[error("{field} is {found}; it must be {bounds}")]
    Invalid {
        /// The field.
        field: &'static str,
        /// What was given.
        found: String,
        /// What is allowed.
        bounds: String,
    },
    /// A replay is open.
    #[error("replay {number} is open")]
    ReplayConflict {
        /// Its number.
        number: u64,
    },
    /// The replay is not open.
    #[error("replay {number} is {state}")]
    ReplayOver {
        /// Its number.
        number: u64,
        /// What it is.
        state: &'static str,
    },
    /// The group was deleted.
    #[error("the group was deleted")]
    Deleted,
    /// The member's version of the read model is not the active one any more (rule RP-6).
    #[error("this version of the read model is retired; the active one is {active}")]
    Retired {
        /// The active one.
        active: String,
    },
    /// There are no dead letters for this: the group consumes a dead-letter topic (rule DL-11), or the policy has none.
    #[error("the group has no dead letters for this topic")]
    NoDeadLetters,
}
