//! What is asked and told about dead letters and their jobs: plain data.

use std::fmt;
use std::str::FromStr;

use bytes::Bytes;
use sawlog_proto::batch::{BatchRecord, RecordHeader};
use serde::{Deserialize, Serialize};

use crate::group::entry::{Act, DeadReason, Entry, EntryKey, EntryKind, EntryState};
use crate::group::record::ErrorInfo;
use crate::model::{GroupId, LaneKey, MemberId, Offset, PartitionId, Source};

/// States by which entries are selected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum StateName {
    /// Open, and no job has it.
    Open,
    /// Its lane lives and reads from here (rule KO-7).
    Spilled,
    /// Open, and a job delivers it again.
    Redriving,
    /// Handled.
    Resolved,
    /// Given up.
    Discarded,
    /// Appended to a topic again.
    Moved,
    /// Forgotten by a reset.
    Cleared,
    /// Taken by retention.
    Expired,
}

impl StateName {
    /// The state of an entry.
    pub fn of(entry: &Entry) -> Self {
        Self::of_state(entry.state, entry.job.is_some())
    }

    /// The same of a state; whether a job redrives it.
    pub fn of_state(state: EntryState, redriven: bool) -> Self {
        match state {
            EntryState::Open if redriven => Self::Redriving,
            EntryState::Open => Self::Open,
            EntryState::Spilled => Self::Spilled,
            EntryState::Resolved { .. } => Self::Resolved,
            EntryState::Discarded => Self::Discarded,
            EntryState::Moved => Self::Moved,
            EntryState::Cleared => Self::Cleared,
            EntryState::Expired => Self::Expired,
        }
    }

    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Open => "open",
            Self::Spilled => "spilled",
            Self::Redriving => "redriving",
            Self::Resolved => "resolved",
            Self::Discarded => "discarded",
            Self::Moved => "moved",
            Self::Cleared => "cleared",
            Self::Expired => "expired",
        }
    }
}

/// A header that an entry's record must have.
pub use crate::model::filter::HeaderCondition;

/// Which entries; all conditions must hold, one that is not given always does.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Selector {
    /// One of these; empty: any.
    pub ids: Vec<EntryKey>,
    /// From this source topic, by name.
    pub topic: Option<String>,
    /// Of this partition.
    pub partition: Option<PartitionId>,
    /// With this key.
    pub key: Option<Bytes>,
    /// In one of these states; empty: what the call says.
    pub states: Vec<StateName>,
    /// Of this kind.
    pub kind: Option<EntryKind>,
    /// With this class of error.
    pub class: Option<String>,
    /// With this fingerprint.
    pub fingerprint: Option<String>,
    /// Dead at or after this time, milliseconds since 1970.
    pub dead_from_ms: Option<i64>,
    /// Dead before this time, milliseconds since 1970.
    pub dead_before_ms: Option<i64>,
    /// With these headers.
    pub headers: Vec<HeaderCondition>,
    /// For this reason.
    pub reason: Option<DeadReason>,
}

impl Selector {
    /// Whether it has no condition but that on states.
    pub fn is_empty(&self) -> bool {
        *self == Self { states: self.states.clone(), ..Self::default() }
    }
}

/// An entry with what its copy says.
#[derive(Debug, Clone)]
pub struct EntryView {
    /// The group.
    pub group: GroupId,
    /// The record; with the group its id.
    pub key: EntryKey,
    /// Name of the group.
    pub group_name: String,
    /// Name of the source topic.
    pub topic: String,
    /// Name of the dead-letter topic.
    pub dlq_topic: String,
    /// The entry.
    pub entry: Entry,
    /// What only the copy knows; `None`: the copy is lost.
    pub copy: Option<CopyView>,
    /// When it expires, milliseconds since 1970, if its source record is gone by then; `None`: it is closed.
    pub expire_ms: Option<i64>,
    /// The newest version of the record, without the headers of dead letters, if asked for and there.
    pub record: Option<BatchRecord>,
}

/// What only the copy of an entry says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyView {
    /// Key of the record.
    pub key: Option<Bytes>,
    /// Time of the append to the source, milliseconds since 1970.
    pub append_ms: i64,
    /// When it first failed, milliseconds since 1970; `None`: never.
    pub first_failure_ms: Option<i64>,
    /// When it last failed, milliseconds since 1970; `None`: never.
    pub last_failure_ms: Option<i64>,
    /// The last error.
    pub error: ErrorInfo,
    /// Member that had it last.
    pub member: Option<MemberId>,
    /// Version of that member's client.
    pub client_version: String,
}

/// A page of entries.
#[derive(Debug, Clone, Default)]
pub struct EntryPage {
    /// Entries in order of source and offset.
    pub entries: Vec<EntryView>,
    /// Where the next page begins; `None`: there is none.
    pub next: Option<EntryKey>,
}

/// Which page of entries.
#[derive(Debug, Clone, Copy)]
pub struct PageRequest {
    /// After this entry.
    pub after: Option<EntryKey>,
    /// Most entries.
    pub limit: usize,
    /// With their records.
    pub with_records: bool,
    /// Bytes of records at which a page ends; it has at least one entry, whatever its size.
    pub max_bytes: usize,
}

/// A version of an entry's record.
#[derive(Debug, Clone)]
pub struct VersionView {
    /// Number; 0 is the original.
    pub version: u32,
    /// The record, without the headers of dead letters; `None`: its copy is lost.
    pub record: Option<BatchRecord>,
    /// Who stored it, and why.
    pub act: Act,
}

/// Something that happened to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventView {
    /// State after it.
    pub state: StateName,
    /// Who, when, why.
    pub act: Act,
    /// Cycle.
    pub cycle: u32,
    /// Version acked, or stored.
    pub version: u32,
}

/// An entry with everything known of it.
#[derive(Debug, Clone)]
pub struct EntryDetails {
    /// The entry with its newest record.
    pub view: EntryView,
    /// All versions, the original first.
    pub versions: Vec<VersionView>,
    /// What happened to it, the newest last.
    pub history: Vec<EventView>,
}

/// A new version of an entry's record (rule RD-6).
#[derive(Debug, Clone)]
pub struct Edit {
    /// Which entry.
    pub key: EntryKey,
    /// New payload; outer `None`: as it was, inner `None`: a tombstone.
    pub value: Option<Option<Bytes>>,
    /// New headers, all of them; `None`: as they were.
    pub headers: Option<Vec<RecordHeader>>,
    /// If given it must be the record's key: it cannot be edited.
    pub record_key: Option<Bytes>,
    /// If given: versions that there must be.
    pub versions: Option<u32>,
    /// Who.
    pub actor: String,
    /// Why; needed.
    pub note: String,
}

/// What a discard did, or would do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Discarded {
    /// Entries discarded.
    pub entries: u64,
    /// Lanes that became live by it.
    pub lanes_live: u64,
}

/// The lane whose head is meant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeadOf {
    /// Of this key.
    Key {
        /// Name of the source topic.
        topic: String,
        /// The key.
        key: Bytes,
    },
    /// Of this entry.
    Entry(EntryKey),
    /// Of the record at this offset.
    Offset {
        /// Name of the source topic.
        topic: String,
        /// The partition.
        partition: PartitionId,
        /// The offset.
        offset: Offset,
    },
}

/// What became of a lane's head.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeadView {
    /// The partition.
    pub source: Source,
    /// The lane.
    pub lane: LaneKey,
    /// The record.
    pub record: EntryKey,
    /// Whether it is an entry; else it blocked its lane in the source.
    pub is_entry: bool,
    /// The job that tries it again.
    pub job: Option<JobId>,
}

/// A job's id: its group and its number in it. As text `<group in 16 hexadecimal digits>-<number>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct JobId {
    /// The group.
    pub group: GroupId,
    /// The number.
    pub number: u64,
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}-{}", self.group.0, self.number)
    }
}

/// A text that is no job's id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a job's id is 16 hexadecimal digits, a dash and a number")]
pub struct JobIdError;

impl FromStr for JobId {
    type Err = JobIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (group, number) = text.split_once('-').filter(|(group, _)| group.len() == 16).ok_or(JobIdError)?;
        let group = u64::from_str_radix(group, 16).map_err(|_| JobIdError)?;
        let id = Self { group: GroupId(group), number: number.parse().map_err(|_| JobIdError)? };
        // Other spellings of the same numbers are no ids.
        if id.to_string() == text { Ok(id) } else { Err(JobIdError) }
    }
}

/// Where a redrive delivers to (rule RD-3).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RedriveTarget {
    /// To the same group.
    #[default]
    Group,
    /// Appended to a topic, by name; `None`: the source topic.
    Topic(Option<String>),
}

/// Which keys come first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub enum RedriveOrder {
    /// Those longest dead.
    #[default]
    OldestFirst,
    /// Those last dead.
    NewestFirst,
}

/// A redrive to start (rule RD-1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedriveRequest {
    /// Which open entries; an entry of a dead lane selects the lane from its head (rule RD-4).
    pub selector: Selector,
    /// At most so many entries a second; 0: no limit.
    pub rate: u64,
    /// Which keys come first.
    pub order: RedriveOrder,
    /// Pauses after so many failures; 0: never. Default 10.
    pub abort_after_failures: u32,
    /// Where to.
    pub target: RedriveTarget,
    /// Who.
    pub actor: String,
    /// Why.
    pub note: String,
}

/// What a redrive would do (rule RD-2).
#[derive(Debug, Clone, Default)]
pub struct RedrivePreview {
    /// Entries.
    pub entries: u64,
    /// Lanes.
    pub keys: u64,
    /// Entries by key, the largest first.
    pub by_key: Vec<(String, u64)>,
    /// Entries by class of error, the largest first.
    pub by_class: Vec<(String, u64)>,
    /// The first of them.
    pub first: Vec<EntryView>,
}

/// Where a job stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum JobState {
    /// At work.
    Running,
    /// Waits for someone.
    Paused,
    /// Everything selected was tried.
    Done,
    /// Ended before.
    Cancelled,
}

impl JobState {
    /// As people read it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
        }
    }

    /// Whether it has ended.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

/// A job at a moment.
#[derive(Debug, Clone)]
pub struct JobView {
    /// Its id.
    pub id: JobId,
    /// Name of its group.
    pub group_name: String,
    /// What was asked for.
    pub request: RedriveRequest,
    /// Where it stands.
    pub state: JobState,
    /// Why it is paused; empty otherwise.
    pub pause_reason: String,
    /// Entries selected.
    pub selected: u64,
    /// Entries resolved or moved.
    pub resolved: u64,
    /// Entries that failed again.
    pub failed: u64,
    /// Entries that others closed meanwhile.
    pub passed: u64,
    /// Milliseconds to the end at the present rate.
    pub eta_ms: Option<i64>,
    /// When it was started, milliseconds since 1970.
    pub created_ms: i64,
    /// When it ended, milliseconds since 1970.
    pub ended_ms: Option<i64>,
}
