//! What happens to a group: verbs of members, news of the log and of dead letters, calls of operators, time.

use super::config::{GroupConfig, GroupTopic};
use super::cursor_cut::CutReport;
use super::entry::{Act, EntryKey, EntryKind, EntryState};
use super::rebuild::RebuildCall;
use super::record::{ErrorInfo, GapReason, GroupNotes, PauseReason, Start};
use super::replay::{Replay, ReplayRate};
use crate::model::{
    AssignmentEpoch, KeySlot, LaneKey, MemberEpoch, MemberId, Offset, OffsetRange, PartitionEpoch, Source, TopicUuid,
};

/// One event.
#[derive(Debug, Clone)]
pub enum Event {
    /// A verb of a member's session.
    Member {
        /// The member.
        member: MemberId,
        /// Its session; an older one is answered with [`super::effect::Frame::Ended`].
        epoch: MemberEpoch,
        /// What it says.
        verb: Verb,
    },
    /// A stream begins.
    Join(Box<Join>),
    /// A stream ended without `Leave`; the session may be resumed.
    StreamEnded {
        /// The member.
        member: MemberId,
        /// Its session.
        epoch: MemberEpoch,
    },
    /// Of a session that [`super::effect::Effects::doubts`] named nothing waits to be taken in.
    Silent {
        /// The member.
        member: MemberId,
        /// Its session.
        epoch: MemberEpoch,
    },
    /// Records that a [`super::effect::Fetch`] asked for.
    Fetched(Box<Fetched>),
    /// The high watermark rose (or is told for the first time).
    HighWatermark {
        /// The partition.
        source: Source,
        /// First offset that cannot be read.
        offset: Offset,
    },
    /// These offsets will never come (rule RE-4). A cut is [`Event::Cut`].
    Gap {
        /// The partition.
        source: Source,
        /// Which.
        range: OffsetRange,
        /// Why.
        reason: GapReason,
    },
    /// A reset asked for these offsets, and they are gone: the group begins behind them (rule OF-5).
    Missed {
        /// The partition.
        source: Source,
        /// Which.
        range: OffsetRange,
        /// Why.
        reason: GapReason,
    },
    /// The partition's end was cut at `at` and `epoch` began (rule AK-12); `at` `None`: a new epoch, nothing cut.
    Cut {
        /// The partition.
        source: Source,
        /// First offset cut.
        at: Option<Offset>,
        /// Epoch that began.
        epoch: PartitionEpoch,
    },
    /// A copy is durable: the entry can be opened. Or it is lost: the record cannot be read any more (rule DL-4).
    Copied {
        /// The partition.
        source: Source,
        /// Number of the intent.
        number: u64,
        /// Where the copy is; `None`: lost.
        copy: Option<Offset>,
    },
    /// The entry of an intent is durable: its record can be settled.
    EntryDurable {
        /// The partition.
        source: Source,
        /// Number of the intent.
        number: u64,
    },
    /// A dead letter could not be appended: the group, or the partition, must wait (rule DL-5).
    CopyBlocked {
        /// The partition.
        source: Source,
        /// Why; `None`: appends work again.
        reason: Option<PauseReason>,
    },
    /// End of a dead-letter partition, for the next intents (rule DL-4).
    DlqEnd {
        /// The source partition.
        source: Source,
        /// End of its dead-letter partition.
        end: Offset,
    },
    /// Topics came or went.
    Topics {
        /// Came.
        added: Vec<GroupTopic>,
        /// Where the group starts in each of their partitions.
        starts: Vec<Start>,
        /// Went.
        removed: Vec<TopicUuid>,
    },
    /// A call of an operator.
    Admin(Admin),
    /// The deadline that [`super::effect::Effects::deadline_ms`] named has come.
    Tick,
    /// The broker is shutting down: say goodbye (rule GM-11).
    Shutdown {
        /// When clients should come back.
        reconnect_after_ms: u64,
    },
}

/// The first frame of a stream (rules GM-1, GM-8).
#[derive(Debug, Clone)]
pub struct Join {
    /// The member.
    pub member: MemberId,
    /// The session to resume.
    pub resume: Option<MemberEpoch>,
    /// Instance id of a static member.
    pub instance: Option<String>,
    /// Name that the client gives itself.
    pub client_id: String,
    /// Version of the client.
    pub client_version: String,
    /// First credit.
    pub credit: Credit,
    /// What a resuming client has in work.
    pub in_work: Vec<InWork>,
}

/// What a client may hold at most, added to what it may already (rule FC-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Credit {
    /// Records.
    pub records: u64,
    /// Bytes.
    pub bytes: u64,
}

/// What a client has in work in a partition when it comes back.
#[derive(Debug, Clone)]
pub struct InWork {
    /// The partition.
    pub source: Source,
    /// Epoch of the assignment under which it was delivered (rule GM-6).
    pub epoch: AssignmentEpoch,
    /// Offsets delivered from the source.
    pub runs: Vec<OffsetRange>,
    /// Entries.
    pub entries: Vec<EntryKey>,
}

/// What a verb is about: records of a partition, and entries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Targets {
    /// The partition.
    pub source: Source,
    /// Epoch of the assignment under which they were delivered (rule GM-6).
    pub epoch: AssignmentEpoch,
    /// Offsets.
    pub runs: Vec<OffsetRange>,
    /// Entries of that partition.
    pub entries: Vec<EntryKey>,
}

/// Kinds of a negative acknowledgement (rule AK-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NackKind {
    /// Try again by the policy.
    Retry,
    /// Give it back without a strike.
    Release,
    /// To the dead letters now.
    Dead,
    /// Settle it, with a reason.
    Skip,
}

/// What a member says.
#[derive(Debug, Clone)]
pub enum Verb {
    /// It lives.
    Ping,
    /// It may hold more.
    Credit(Credit),
    /// Done.
    Ack {
        /// Number to answer with.
        request: u64,
        /// What.
        targets: Targets,
        /// Version of each entry that was handled, if the client knows better than the last delivery; empty: as delivered.
        versions: Vec<u32>,
    },
    /// Not done.
    Nack {
        /// Number to answer with.
        request: u64,
        /// What.
        targets: Targets,
        /// How.
        kind: NackKind,
        /// Delay that the client asks for, in milliseconds.
        retry_after_ms: Option<u64>,
        /// The whole group should wait (rule CB-5).
        whole_group: bool,
        /// What went wrong.
        error: Option<ErrorInfo>,
        /// Why it is skipped.
        reason: String,
    },
    /// More time (rule AK-5).
    Extend {
        /// Number to answer with (rule AK-2).
        request: u64,
        /// What.
        targets: Targets,
    },
    /// A handler begins with these (rule PI-1).
    Started {
        /// What.
        targets: Targets,
    },
    /// Mode OFFSET: everything below is done (rule AK-8).
    Commit {
        /// Number to answer with.
        request: u64,
        /// The partition.
        source: Source,
        /// Epoch of the assignment.
        epoch: AssignmentEpoch,
        /// The next offset.
        next: Offset,
        /// Epoch of the record before it, if known.
        record_epoch: Option<PartitionEpoch>,
        /// The client's own.
        metadata: String,
        /// Also backwards.
        force: bool,
    },
    /// The cursor of a read model stands here (rule RM-3); answered like a commit.
    Report {
        /// Number to answer with.
        request: u64,
        /// The partition.
        source: Source,
        /// Epoch of the assignment.
        epoch: AssignmentEpoch,
        /// The next offset.
        next: Offset,
        /// Epoch of the record before it, if known.
        record_epoch: Option<PartitionEpoch>,
    },
    /// The same of a cursor that a cut took (rule RM-1): refused.
    ReportCut(Box<CutReport>),
    /// Mode OFFSET: make an entry and let me pass (rule AK-8).
    DeadLetter {
        /// Number to answer with.
        request: u64,
        /// The partition.
        source: Source,
        /// Epoch of the assignment.
        epoch: AssignmentEpoch,
        /// The record.
        offset: Offset,
        /// Why.
        kind: EntryKind,
        /// What went wrong.
        error: Option<ErrorInfo>,
    },
    /// Mode OFFSET: a unit waits for what its reader depends on, and why; `None`: it goes on (rule RM-6).
    Stalled(Source, AssignmentEpoch, Option<String>),
    /// It has handed over what was revoked (rule GM-5).
    Revoked {
        /// The partition.
        source: Source,
        /// The slots.
        slots: crate::model::SlotRange,
    },
    /// It goes (rule GM-10).
    Leave,
}

/// What the machine must know of a record to place it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordMeta {
    /// Its offset.
    pub offset: Offset,
    /// Its lane.
    pub lane: LaneKey,
    /// Its slot.
    pub slot: KeySlot,
    /// Epoch of its frame.
    pub epoch: PartitionEpoch,
    /// Bytes of key, value and headers.
    pub size_bytes: u32,
    /// Time of the append, milliseconds since 1970.
    pub append_ms: i64,
    /// The group's filter leaves it out (rule FC-7).
    pub filtered: bool,
}

/// Records read ahead.
#[derive(Debug, Clone)]
pub struct Fetched {
    /// The partition.
    pub source: Source,
    /// First offset asked for.
    pub from: Offset,
    /// First offset after what was read; offsets between that are not in `records` do not exist.
    pub next: Offset,
    /// The records, in order. Empty in mode OFFSET when no record had to be looked at.
    pub records: Vec<RecordMeta>,
    /// Bytes of log read.
    pub log_bytes: u64,
    /// Batches that cannot be decoded (rule DL-16), with their epoch.
    pub undecodable: Vec<(OffsetRange, PartitionEpoch)>,
    /// The high watermark when it was read.
    pub high_watermark: Offset,
    /// Append time of the last record read, milliseconds since 1970.
    pub last_append_ms: i64,
}

impl Fetched {
    /// The same up to `end`, which lies in it.
    pub fn up_to(mut self, end: Offset) -> Self {
        let before = self.next.distance_from(self.from).max(1);
        self.next = self.next.min(end).max(self.from);
        self.records.retain(|meta| meta.offset < end);
        self.undecodable.retain(|(range, _)| range.from < end);
        let share = u128::from(self.log_bytes) * u128::from(self.next.distance_from(self.from)) / u128::from(before);
        self.log_bytes = u64::try_from(share).expect("at most all of its bytes");
        if let Some(last) = self.records.last() {
            self.last_append_ms = last.append_ms;
        }
        self
    }
}

/// A call of an operator. The answer is in [`super::effect::Effects::outcome`].
#[derive(Debug, Clone)]
pub enum Admin {
    /// New settings or notes (rule RT-3: from the next failure on).
    Configure {
        /// Settings.
        config: Box<GroupConfig>,
        /// Notes.
        notes: GroupNotes,
    },
    /// Set positions (rule OF-3); bounds are checked by the caller.
    Reset {
        /// The floors.
        floors: Vec<Start>,
        /// Clear entries at or above them.
        clear: bool,
        /// Who and why.
        act: Act,
    },
    /// Undo the last reset.
    UndoReset {
        /// Who and why.
        act: Act,
    },
    /// Pause (rule OF-6).
    Pause {
        /// Only this topic.
        topic: Option<TopicUuid>,
        /// Until.
        until_ms: Option<i64>,
        /// Who and why.
        act: Act,
    },
    /// Go on.
    Resume {
        /// Only this topic.
        topic: Option<TopicUuid>,
        /// Who and why.
        act: Act,
    },
    /// Accept a gap that the group stopped at (rule RE-4).
    AcceptGap {
        /// The partition; `None`: every one that waits.
        source: Option<Source>,
        /// Who and why.
        act: Act,
    },
    /// Force the breaker, or let it go (rule CB-4).
    SetBreaker {
        /// Open, closed, by itself.
        forced: Option<bool>,
        /// Who and why.
        act: Act,
    },
    /// Give these open entries to a job: their lanes are delivered from the head (rules RD-3, RD-4).
    Redrive {
        /// The job.
        job: u64,
        /// Entries, whole lanes from their heads.
        entries: Vec<EntryKey>,
        /// Who and why.
        act: Act,
    },
    /// Take back what a job has not finished: open again.
    EndRedrive {
        /// The job.
        job: u64,
        /// Who and why.
        act: Act,
    },
    /// Close open entries: discarded, moved, expired (rules RD-8, RD-3, DL-10).
    CloseEntries {
        /// Which.
        entries: Vec<EntryKey>,
        /// How.
        state: EntryState,
        /// Who and why.
        act: Act,
    },
    /// A new version of an open entry is durable (rule RD-6).
    EntryEdited {
        /// Which.
        entry: EntryKey,
        /// Where its copy is.
        copy: Offset,
        /// Who and why.
        act: Act,
    },
    /// The head of a lane, dead or blocking: try it anew (`skip` false) or settle it as skipped (rules RD-8, DL-8).
    Head {
        /// The partition.
        source: Source,
        /// The lane.
        lane: LaneKey,
        /// Skip it instead.
        skip: bool,
        /// Who and why.
        act: Act,
    },
    /// Keep, or forget, a job's state.
    KeepJob {
        /// Its number.
        job: u64,
        /// Its state.
        state: Option<String>,
    },
    /// Closed entries whose copies and records are gone (rule DL-10).
    ForgetEntries {
        /// Which.
        entries: Vec<EntryKey>,
    },
    /// A replay begins; bounds are concrete, its number is given by the group (rule RP-1).
    StartReplay(Box<Replay>),
    /// The open replay of this number has another rate.
    PaceReplay {
        /// Its number.
        number: u64,
        /// The rate.
        rate: ReplayRate,
    },
    /// The open replay of this number pauses or goes on (rule RP-3).
    PauseReplay {
        /// Its number.
        number: u64,
        /// It pauses.
        paused: bool,
        /// Who and why.
        act: Act,
    },
    /// The open replay of this number ends.
    CancelReplay {
        /// Its number.
        number: u64,
    },
    /// A member is put out by an operator, or by the server for not reading.
    Evict {
        /// The member.
        member: MemberId,
    },
    /// Something that a rebuild needs (rule RP-6).
    Rebuild(Box<RebuildCall>),
    /// The group is deleted: sessions end (rule OF-8).
    Delete,
}
