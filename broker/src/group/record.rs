//! Changes of a group as they stand in the group journal.
//!
//! Those that settle and try records and take them to the dead letters are many and small, and an assignment to many
//! members is long, so they have a binary form; the others are JSON. The first byte tells: `{` begins JSON, a tag
//! ([`TAG_SETTLED`] and those behind it) each binary form, whose numbers are LEB128 varints and whose texts stand behind
//! their lengths. A form that changes gets a new tag.
//!
//! ```text
//! settled  tag | topic: 16 bytes | partition | how | runs | runs * (from - end of the run before | length)
//! tried    tag | topic: 16 bytes | partition | tries | tries * (offset | epoch | attempts | due_ms | delay_ms | first_ms | lane: 16 bytes | slot
//!          | class length | class)
//! assigned tag | group epoch | members | members * 16 bytes | partitions | partitions * (topic: 16 bytes | partition | runs
//!          | runs * (from - end of the run before | length | index of the member | group epoch - epoch of the run))
//! intended tag | flags | number | topic: 16 bytes | partition | offset | epoch | lane: 16 bytes | slot | kind | reason | size
//!          | cycle | attempts | records | due_ms | delay_ms | first delivery | first failure | last failure | death
//!          | end of the dead letters | client version | class, message, stack, fingerprint, trace of the error, if any
//!          | member: 16 bytes, if any | offset and epoch of what blocks it, if any, behind its partition if that is another
//!          flags: 1 spilled, 2 holds, 4 source lost, 8 cleared, 16 error, 32 member, 64 blocked, 128 by another partition
//! arrived  tag | topic: 16 bytes | partition | number | 0: not settled, else 1 + how
//! ```

mod codec;

use serde::{Deserialize, Serialize};

pub use codec::{TAG_ARRIVED, TAG_ASSIGNED, TAG_INTENDED, TAG_SETTLED, TAG_TRIED, decode, encode, encode_into};

use super::config::{GroupConfig, GroupTopic};
use super::cursor_cut::CursorCut;
use super::entry::{Act, DeadReason, EntryKey, EntryKind};
use super::rebuild::RebuildRecord;
use super::replay::{Replay, ReplayEnd, ReplayRate};
use crate::model::{
    AssignmentEpoch, GroupName, KeySlot, LaneKey, MemberEpoch, MemberId, Offset, OffsetRange, PartitionEpoch,
    PartitionId, SlotRange, Source, TopicUuid,
};

/// How records were settled.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum SettledAs {
    /// Acknowledged.
    Acked,
    /// Skipped by a consumer, a filter, an operator or a policy.
    Skipped,
    /// Copied to the dead letters because it failed.
    Dead,
    /// Copied to the dead letters behind another, or spilled.
    Parked,
    /// Not in the log any more.
    Expired,
    /// Committed past (mode OFFSET).
    Committed,
}

impl SettledAs {
    const ALL: [Self; 6] = [Self::Acked, Self::Skipped, Self::Dead, Self::Parked, Self::Expired, Self::Committed];
}

/// Due time of a record whose last delivery was given back (rule RT-5): at once, and not the end of a try.
pub const GIVEN_BACK_MS: i64 = 1;

/// Due time of a record that waits for somebody's decision (rule DL-8).
pub const BLOCKED_MS: i64 = i64::MAX;

/// Due time of a record whose tries are spent while earlier records of its key are in work: it dies once it is the first.
pub const SPENT_MS: i64 = i64::MAX - 1;

/// The tries of an unsettled record (rules AK-6, RT-6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tried {
    /// Its offset.
    pub offset: Offset,
    /// Epoch of its frame.
    pub epoch: PartitionEpoch,
    /// Deliveries that count (rule RT-5).
    pub attempts: u32,
    /// Wall time of the next try; 0: it is under way, [`GIVEN_BACK_MS`]: at once, the last delivery did not count.
    pub due_ms: i64,
    /// The delay that the due time was set with: after a start of the broker it waits no longer (rule F6).
    #[serde(default)]
    pub delay_ms: u64,
    /// Time of the first delivery.
    pub first_ms: i64,
    /// Its lane.
    pub lane: LaneKey,
    /// Its slot.
    pub slot: KeySlot,
    /// Class of the last error; empty: none.
    pub class: String,
}

/// A dead letter on its way (rule DL-4): durable before its copy is made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Intent {
    /// The record.
    pub key: EntryKey,
    /// Its lane.
    pub lane: LaneKey,
    /// Its slot.
    pub slot: KeySlot,
    /// Why.
    pub kind: EntryKind,
    /// Why exactly.
    pub reason: DeadReason,
    /// Whether the lane lives on from its entries (rule KO-7).
    pub spilled: bool,
    /// Whether its lane waits for it, as in [`super::entry::Entry::holds`].
    pub holds: bool,
    /// The record was cut from the source after this was intended (rule AK-12): set by the cut.
    #[serde(default)]
    pub source_lost: bool,
    /// A reset clears its entry as soon as it is there (rule OF-3): set by the reset.
    #[serde(default)]
    pub cleared: bool,
    /// Bytes of key, value and headers of the record.
    pub size_bytes: u32,
    /// Cycle of the copy.
    pub cycle: u32,
    /// Deliveries that counted.
    pub attempts: u32,
    /// Wall time of the next try, carried over by a spilled head; 0: at once.
    pub due_ms: i64,
    /// The delay that the due time was set with (rule F6).
    #[serde(default)]
    pub delay_ms: u64,
    /// Time of the first delivery; 0: never delivered.
    pub first_delivery_ms: i64,
    /// Time of the first and the last failure; 0: none.
    pub first_failure_ms: i64,
    /// Time of the last failure; 0: none.
    pub last_failure_ms: i64,
    /// Time of the death.
    pub dead_ms: i64,
    /// The last error.
    pub error: Option<Box<ErrorInfo>>,
    /// Member that had it last.
    pub member: Option<MemberId>,
    /// Version of that member's client.
    pub client_version: String,
    /// Head of its lane, if parked.
    pub blocked_by: Option<EntryKey>,
    /// End of the dead-letter partition when the intent was made: the copy is not before (rule DL-4).
    pub dlq_end: Offset,
    /// Records of the batch, if the whole of it goes as one (rule DL-16); else 1.
    pub records: u32,
}

const _: () = assert!(size_of::<Intent>() <= 240, "thousands are on their way at once, each kept twice");

/// What a handler said went wrong; cut to the limits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ErrorInfo {
    /// Class, such as an exception's name.
    pub class: String,
    /// Message, at most 4 KiB.
    pub message: String,
    /// Stack, at most 16 KiB.
    pub stack: String,
    /// Given by the client, or computed.
    pub fingerprint: String,
    /// The record's traceparent of the delivery, if any.
    pub trace: String,
}

/// A run of slots and who owns it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct OwnedRun {
    /// The slots.
    pub slots: SlotRange,
    /// The owner.
    pub member: MemberId,
    /// The group epoch that gave it.
    pub epoch: AssignmentEpoch,
}

/// A pause (rule OF-6).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Pause {
    /// Only this topic; `None`: the group.
    pub topic: Option<TopicUuid>,
    /// Only this partition of it.
    pub partition: Option<PartitionId>,
    /// Why.
    pub reason: PauseReason,
    /// Wall time at which it ends by itself.
    pub until_ms: Option<i64>,
    /// Who, when, why.
    pub act: Act,
}

/// Why a group or a part of it pauses (rule OF-6).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum PauseReason {
    /// Someone asked for it.
    Operator,
    /// Too many records are held and there are no dead letters to spill to.
    HeldLimit,
    /// Too many lanes are dead.
    DeadLimit,
    /// The dead letters are at their limit of bytes.
    DlqFull,
    /// No room for dead letters.
    DiskLow,
    /// A gap waits to be accepted (rule RE-4).
    Gap,
    /// Someone paused its replay (rule RP-3).
    Replay,
}

/// Why records will not come (rule RE-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum GapReason {
    /// Retention removed them.
    Retention,
    /// They were trimmed.
    Trim,
    /// They are damaged.
    Corrupt,
    /// They were cut from the end.
    Truncated,
    /// Their batch cannot be decoded.
    Undecodable,
    /// Their dead letter expired.
    DlqExpired,
}

/// A partition with the place where the group begins in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Start {
    /// The partition.
    pub source: Source,
    /// First offset.
    pub offset: Offset,
    /// Epoch of the partition then.
    pub epoch: PartitionEpoch,
}

/// Who answers for a group and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct GroupNotes {
    /// Who.
    pub owner: String,
    /// What.
    pub description: String,
    /// Free labels.
    pub labels: std::collections::BTreeMap<String, String>,
}

/// A change of one group: the only thing that changes a [`super::state::GroupState`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum GroupRecord {
    /// The group exists, from the first with the places where it begins (rule OF-1).
    Created {
        /// Name.
        name: GroupName,
        /// Settings.
        config: Box<GroupConfig>,
        /// Notes.
        notes: GroupNotes,
        /// When.
        created_ms: i64,
        /// Topics that it has from the first.
        #[serde(default)]
        topics: Vec<GroupTopic>,
        /// Where it starts in each of their partitions.
        #[serde(default)]
        starts: Vec<Start>,
    },
    /// Settings or notes changed.
    Configured {
        /// Settings now.
        config: Box<GroupConfig>,
        /// Notes now.
        notes: GroupNotes,
    },
    /// The group is gone with all that is its.
    Deleted,
    /// Something of a rebuild changed (rule RP-6).
    Rebuild(Box<RebuildRecord>),
    /// Topics came or went; each new partition has its start.
    Topics {
        /// Topics that came.
        added: Vec<GroupTopic>,
        /// Where the group starts in each of their partitions.
        starts: Vec<Start>,
        /// Topics that went.
        removed: Vec<TopicUuid>,
    },
    /// A session of a member began.
    Joined {
        /// The member.
        member: MemberId,
        /// Its session.
        epoch: MemberEpoch,
        /// Its instance id, if static (rule GM-9).
        instance: Option<String>,
        /// Name that its client gives itself.
        client_id: String,
        /// Version of its client.
        client_version: String,
        /// When.
        time_ms: i64,
    },
    /// Who skipped records that were just settled, and why (rules AK-1, RD-8): for the audit.
    SkippedBy {
        /// The partition.
        source: Source,
        /// Which.
        runs: Vec<OffsetRange>,
        /// Who, when and why.
        act: Act,
    },
    /// A member is gone.
    Left {
        /// The member.
        member: MemberId,
    },
    /// A static member's session ended; its units wait (rule GM-9).
    Detached {
        /// The member.
        member: MemberId,
        /// When.
        time_ms: i64,
    },
    /// Units changed hands: all runs of each partition named.
    Assigned {
        /// The group epoch.
        epoch: u64,
        /// Partitions with all their runs.
        runs: Vec<(Source, Vec<OwnedRun>)>,
    },
    /// Records were settled.
    Settled {
        /// The partition.
        source: Source,
        /// How.
        how: SettledAs,
        /// Which, in order, without overlap.
        runs: Vec<OffsetRange>,
    },
    /// Records were tried.
    Tried {
        /// The partition.
        source: Source,
        /// Which; one with 0 attempts is forgotten.
        tries: Vec<Tried>,
    },
    /// An offset was committed (rule AK-8).
    Committed {
        /// The partition.
        source: Source,
        /// The next offset.
        next: Offset,
        /// Epoch of the record before it.
        epoch: PartitionEpoch,
        /// The client's own.
        metadata: String,
    },
    /// A dead letter is on its way.
    Intended {
        /// Its number in the partition, rising.
        number: u64,
        /// What.
        intent: Box<Intent>,
    },
    /// A dead letter has arrived, or was lost; its record is settled with it (not in mode OFFSET).
    Arrived {
        /// The partition.
        source: Source,
        /// The intent's number.
        number: u64,
        /// How its record is settled; `None`: it is not (mode OFFSET).
        how: Option<SettledAs>,
    },
    /// Positions were set anew (rule OF-3).
    Reset {
        /// The floors now.
        floors: Vec<Start>,
        /// Whether entries at or above them are cleared; recovery finishes that.
        clear: bool,
        /// The group epoch, raised.
        epoch: u64,
        /// Whether it undoes the last reset.
        undo: bool,
        /// Who and why.
        act: Act,
    },
    /// The entries that a reset clears are cleared.
    Cleared,
    /// A replay began: positions are set for it (rule RP-1).
    ReplayStarted {
        /// The replay.
        replay: Box<Replay>,
        /// The group epoch, raised.
        epoch: u64,
    },
    /// The open replay has another rate.
    ReplayPaced {
        /// Its number.
        number: u64,
        /// The rate.
        rate: ReplayRate,
    },
    /// The open replay has ended.
    ReplayEnded {
        /// Its number.
        number: u64,
        /// How.
        end: ReplayEnd,
        /// When, milliseconds since 1970.
        time_ms: i64,
    },
    /// A pause began, or took the place of one of the same extent and reason.
    Paused(Pause),
    /// Pauses of this extent and reason ended.
    Resumed {
        /// Only this topic; `None`: the group.
        topic: Option<TopicUuid>,
        /// Only this partition.
        partition: Option<PartitionId>,
        /// Reason.
        reason: PauseReason,
    },
    /// A gap was told, and accepted if the policy asks for it: what is unsettled in it is expired.
    GapPassed {
        /// The partition.
        source: Source,
        /// The gap.
        range: OffsetRange,
        /// Why.
        reason: GapReason,
    },
    /// A partition's end was cut (rule AK-12).
    Cut {
        /// The partition.
        source: Source,
        /// First offset cut.
        at: Offset,
        /// The epoch that began with it.
        epoch: PartitionEpoch,
        /// The group epoch, raised.
        group_epoch: u64,
    },
    /// A partition has a new epoch without anything of the group being cut.
    Epoch {
        /// The partition.
        source: Source,
        /// Its epoch.
        epoch: PartitionEpoch,
    },
    /// A record of a lane was dropped or left dead and the lane goes on: its next delivery is marked (rule DL-8).
    Hole {
        /// The partition.
        source: Source,
        /// The lane.
        lane: LaneKey,
        /// The record.
        at: Offset,
    },
    /// Records of these lanes that were marked are settled: nothing is left to be told.
    HolesTold {
        /// The partition.
        source: Source,
        /// The lanes.
        lanes: Vec<LaneKey>,
    },
    /// How often in a row the unit's member was lost with its first record started (rule RM-8).
    Crashes {
        /// The partition.
        source: Source,
        /// The count.
        count: u32,
    },
    /// A cut took what a read model has applied, that was accepted, or (`None`) it is passed (rule RM-1).
    CursorCut {
        /// The partition.
        source: Source,
        /// The cut.
        cut: Option<Box<CursorCut>>,
    },
    /// The breaker was forced, or let go.
    Breaker {
        /// Open or closed by hand; `None`: by itself.
        forced: Option<bool>,
        /// Who and why.
        act: Act,
    },
    /// The journal was damaged and the group goes on from its last good state (rule AK-11).
    Recovered {
        /// The group epoch, raised past any that was given.
        epoch: u64,
    },
}

#[cfg(test)]
mod tests;
