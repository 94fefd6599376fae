//! What is asked and told about groups: plain data, no locks, nothing that changes.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::group::entry::Act;
use crate::group::record::{GapReason, GroupNotes, Pause};
use crate::group::skips::Skip;
use crate::group::{GroupConfig, GroupTopic, Mode, SourceName, StartAt};
use crate::model::{
    AssignedUnit, AssignmentEpoch, GroupId, GroupName, MemberEpoch, MemberId, Offset, OffsetRange, PartitionEpoch,
    PartitionId, Source, TopicName, TopicUuid, VersionName,
};

/// Who calls, and why.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Caller {
    /// Who: name or address of the client.
    pub actor: String,
    /// In words, at most 4 KiB.
    pub note: String,
}

impl Caller {
    /// The call as it is kept.
    pub fn act(&self, time_ms: i64) -> Act {
        Act { actor: self.actor.clone(), time_ms, note: self.note.clone() }
    }
}

/// A group to create.
#[derive(Debug, Clone)]
pub struct NewGroup {
    /// Name.
    pub name: GroupName,
    /// Settings.
    pub config: GroupConfig,
    /// Where it begins.
    pub start: StartAt,
    /// Epochs of the records before given offsets, if known: positions of parts that were cut are refused (rule OF-7).
    pub epochs: Vec<(SourceName, PartitionEpoch)>,
    /// Other tries and delays for topics, by name; [`GroupConfig::topic_retry`] is filled from it.
    pub topic_retry: BTreeMap<String, crate::group::retry::RetryPolicy>,
    /// Notes.
    pub notes: GroupNotes,
}

/// A change of settings and notes; what is `None` stays.
#[derive(Debug, Clone)]
pub struct UpdateGroup {
    /// The group.
    pub name: GroupName,
    /// Only if its revision is this.
    pub revision: Option<u64>,
    /// Settings; the mode must be the group's.
    pub config: Option<GroupConfig>,
    /// As [`NewGroup::topic_retry`]; `None`: those of the group stay.
    pub topic_retry: Option<BTreeMap<String, crate::group::retry::RetryPolicy>>,
    /// Notes.
    pub notes: Option<GroupNotes>,
    /// Also if topics that go take open entries along (rule OF-8).
    pub force: bool,
    /// Who and why.
    pub caller: Caller,
}

/// A group at a moment.
#[derive(Debug, Clone)]
pub struct GroupView {
    /// Number.
    pub id: GroupId,
    /// Name.
    pub name: GroupName,
    /// Rises with each change of settings or notes.
    pub revision: u64,
    /// Settings.
    pub config: Arc<GroupConfig>,
    /// Notes.
    pub notes: GroupNotes,
    /// When it was created, milliseconds since 1970.
    pub created_ms: i64,
    /// The group epoch.
    pub epoch: u64,
    /// Members, those included whose stream has ended and that are not lost yet.
    pub members: u32,
    /// Members with a stream.
    pub connected: u32,
    /// Topics that it consumes, in order of their names.
    pub topics: Vec<GroupTopic>,
    /// Pauses.
    pub pauses: Vec<Pause>,
    /// The circuit breaker.
    pub breaker: BreakerView,
    /// The last skips with a reason, the newest first.
    pub skips: Vec<(Source, Skip)>,
}

impl GroupView {
    /// Name of a topic of the group.
    pub fn topic_name(&self, topic: TopicUuid) -> Option<&str> {
        self.topics.iter().find(|known| known.topic == topic).map(|known| known.name.as_str())
    }
}

pub use crate::group::view::{BreakerMode, BreakerView, Stall};

/// What a deletion took along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeletedGroup {
    /// Number.
    pub id: GroupId,
    /// Open dead letters that are gone.
    pub entries_lost: u64,
    /// Jobs that were ended.
    pub jobs_ended: u32,
}

/// What a unit is to a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnitState {
    /// It is the member's.
    Assigned,
    /// It is being taken away (rule GM-5).
    Revoking,
    /// It waits for the member to come back (rule GM-9).
    Reserved,
}

/// A unit of a member.
#[derive(Debug, Clone)]
pub struct UnitView {
    /// Name of the topic.
    pub topic: String,
    /// The unit.
    pub unit: AssignedUnit,
    /// Epoch of the assignment.
    pub epoch: AssignmentEpoch,
    /// State.
    pub state: UnitState,
    /// Its reader waits (rule RM-6).
    pub stalled: Option<Stall>,
}

/// A member at a moment.
#[derive(Debug, Clone)]
pub struct MemberView {
    /// The member.
    pub member: MemberId,
    /// Its session.
    pub epoch: MemberEpoch,
    /// Its instance id, if static.
    pub instance: Option<String>,
    /// Name that its client gives itself.
    pub client_id: String,
    /// Version of its client.
    pub client_version: String,
    /// It has a stream.
    pub connected: bool,
    /// When the session began, milliseconds since 1970.
    pub joined_ms: i64,
    /// When something was last heard of it, milliseconds since 1970.
    pub last_seen_ms: i64,
    /// Without a sign of life it is lost then, milliseconds since 1970.
    pub lost_at_ms: Option<i64>,
    /// Units.
    pub units: Vec<UnitView>,
    /// Records leased to it.
    pub in_flight: u64,
    /// Credit left in records.
    pub credit_records: u64,
    /// Credit left in bytes.
    pub credit_bytes: u64,
}

/// How far a group is in one partition (rules OB-1, OB-3). Ages in milliseconds.
#[derive(Debug, Clone)]
pub struct PartitionLag {
    /// Name of the topic.
    pub topic: String,
    /// Its id.
    pub topic_id: TopicUuid,
    /// Partition.
    pub partition: PartitionId,
    /// Lowest unsettled offset.
    pub floor: Offset,
    /// Epoch of the partition that the floor was compared with.
    pub epoch: PartitionEpoch,
    /// First offset kept.
    pub log_start: Offset,
    /// First offset that is not readable yet.
    pub high_watermark: Offset,
    /// Records below the high watermark that are not settled.
    pub lag_records: u64,
    /// Bytes of log from the floor on, by the index: never less than what is unsettled.
    pub lag_bytes: u64,
    /// Age of the oldest deliverable record that was not delivered yet; 0 if there is none.
    pub lag_ms: i64,
    /// The same by when its event happened, as its producer says.
    pub event_lag_ms: i64,
    /// Age of the record at the floor; 0 if there is none.
    pub oldest_unsettled_ms: i64,
    /// Records leased.
    pub in_flight: u64,
    /// Records read ahead and not settled.
    pub held_records: u64,
    /// Lanes that wait for a retry.
    pub blocked_lanes: u64,
    /// Lanes that are dead or spilled.
    pub dead_lanes: u64,
    /// Open entries.
    pub open_entries: u64,
    /// When retention reaches the floor at present rates, in milliseconds from now; `None`: not in sight.
    pub time_to_loss_ms: Option<i64>,
    /// A gap at which the group has stopped.
    pub gap: Option<(OffsetRange, GapReason)>,
    /// That gap is accepted, and passed once its reader is there (rule RM-1).
    pub gap_accepted: bool,
    /// Its reader waits for its database (rule RM-6).
    pub stalled: Option<Stall>,
    /// The member that owns all of it.
    pub owner: Option<MemberId>,
    /// The client's own of the last commit (mode OFFSET).
    pub metadata: String,
}

/// How far a group is.
#[derive(Debug, Clone)]
pub struct GroupLag {
    /// The group.
    pub group: GroupView,
    /// One a partition, in order of topic and partition.
    pub partitions: Vec<PartitionLag>,
    /// Dead and spilled lanes of the group.
    pub dead_lanes: u64,
}

/// Positions to set (rule OF-3).
#[derive(Debug, Clone)]
pub struct ResetRequest {
    /// The group.
    pub name: GroupName,
    /// Where to.
    pub target: StartAt,
    /// As [`NewGroup::epochs`].
    pub epochs: Vec<(SourceName, PartitionEpoch)>,
    /// Which topics, with their partitions (none: all of the topic); empty: everything, or with offsets what they name.
    pub partitions: Vec<(TopicName, Vec<PartitionId>)>,
    /// Clear entries at or above the new positions.
    pub clear: bool,
    /// Change nothing.
    pub dry_run: bool,
    /// Who and why.
    pub caller: Caller,
}

/// What a reset does to a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionReset {
    /// Name of the topic.
    pub topic: String,
    /// Partition.
    pub partition: PartitionId,
    /// Floor before.
    pub old: Offset,
    /// Floor after.
    pub new: Offset,
    /// Records that come again (positive), or are passed over (negative).
    pub records: i64,
    /// Append time of the record at the lower of both, milliseconds since 1970; 0: unknown.
    pub from_time_ms: i64,
    /// Append time of the last record below the higher of both; 0: unknown.
    pub to_time_ms: i64,
    /// Open entries at or above the new floor.
    pub entries: u64,
}

/// What a reset did, or would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResetReport {
    /// One a partition.
    pub partitions: Vec<PartitionReset>,
    /// Number of the reset: the group epoch that it began; 0 in a dry run.
    pub number: u64,
}

/// A gap that was accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AcceptedGap {
    /// Name of the topic.
    pub topic: String,
    /// Partition.
    pub partition: PartitionId,
    /// The gap.
    pub range: OffsetRange,
    /// Records of it that were settled as expired.
    pub expired: u64,
    /// Why; a cut is passed by its reader, once that is there (rule RM-1).
    pub reason: GapReason,
}

/// What recovery from a damaged journal means for a group (rule G6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecoveredGroup {
    /// Number.
    pub id: GroupId,
    /// Name.
    pub name: GroupName,
    /// Epoch before.
    pub old_epoch: u64,
    /// Epoch after, past any ever given.
    pub new_epoch: u64,
    /// At most so many records may be delivered again.
    pub maybe_redelivered: u64,
}

/// What recovery from a damaged journal means, or would mean.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RecoverReport {
    /// One a group.
    pub groups: Vec<RecoveredGroup>,
    /// First bad offset of the journal; `None`: nothing was damaged.
    pub first_bad: Option<Offset>,
    /// Bytes of records that are left out.
    pub dropped_bytes: u64,
}

/// What a group has decided about a record (rule RW-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Processed {
    /// Acknowledged, also through its entry.
    Acked,
    /// Skipped, discarded, moved or expired.
    Skipped,
    /// Waits behind a dead letter of its key; its entry.
    Parked(crate::group::entry::EntryKey),
    /// A dead letter; its entry.
    Dead(crate::group::entry::EntryKey),
    /// Not decided yet.
    Pending,
    /// The position is of another log: a topic that is not the group's, or a part that was cut.
    OtherLog,
}

/// What a member expects of the group it joins.
#[derive(Debug, Clone, Default)]
pub struct Expect {
    /// Its mode.
    pub mode: Option<Mode>,
    /// Its topics.
    pub topics: Option<Vec<TopicName>>,
    /// The version of the read model that the member keeps (rule RP-6).
    pub version: Option<VersionName>,
}
