//! The words of dead letters and of the jobs that deliver them again. Plain data.

use bytes::Bytes;
use sawlog_proto::v1;

use crate::groups::{HeaderFilter, wire_enum};
use crate::types::{Header, TopicId, milliseconds, timestamp, unsigned};

wire_enum! {
    /// What a dead letter is (rules DL-3, DL-6).
    EntryKind of EntryKind {
        /// The record itself failed.
        Failed = "failed",
        /// A record that waits behind one of its key that failed.
        Parked = "parked",
    }
}

wire_enum! {
    /// Where a dead letter stands (rule DL-12).
    EntryState of EntryState {
        /// Waits for somebody to decide.
        Open = "open",
        /// Moved here to make room; its key lives and it waits for its turn.
        Spilled = "spilled",
        /// A job is delivering it again.
        Redriving = "redriving",
        /// Closed: delivered again and acked.
        Resolved = "resolved",
        /// Closed: given up, with a reason.
        Discarded = "discarded",
        /// Closed: appended to a topic again.
        Moved = "moved",
        /// Closed: a reset took it back into the source.
        Cleared = "cleared",
        /// Closed: kept as long as configured.
        Expired = "expired",
    }
}

wire_enum! {
    /// Why a record is a dead letter (rule DL-3).
    DeadReason of DeadReason {
        /// It has had all its tries.
        Attempts = "attempts",
        /// The class of its error is not worth a retry.
        NonRetryable = "non_retryable",
        /// The consumer said so.
        ConsumerDeadNack = "consumer_dead_nack",
        /// Its last lease ran out.
        LeaseExpired = "lease_expired",
        /// Its consumers were lost while they handled it.
        ConsumerCrash = "consumer_crash",
        /// It does not match its schema.
        Schema = "schema",
        /// Its batch cannot be decoded.
        Undecodable = "undecodable",
        /// Moved here to make room.
        Spill = "spill",
        /// It waits behind a dead letter of its key.
        Parked = "parked",
    }
}

wire_enum! {
    /// Where a job stands.
    JobState of JobState {
        /// At work.
        Running = "running",
        /// Waits to be resumed.
        Paused = "paused",
        /// Ended: everything selected was tried.
        Done = "done",
        /// Ended before that.
        Cancelled = "cancelled",
    }
}

impl JobState {
    /// Whether the job has ended.
    pub fn is_ended(self) -> bool {
        matches!(self, Self::Done | Self::Cancelled)
    }
}

wire_enum! {
    /// Which keys of a redrive come first. Inside a key it is always the order of the source.
    RedriveOrder of RedriveOrder {
        /// Those longest dead.
        OldestFirst = "oldest_first",
        /// Those last dead.
        NewestFirst = "newest_first",
    }
}

/// A record as its entry holds it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntryRecord {
    /// Entity id; absent is not empty.
    pub key: Option<Bytes>,
    /// Payload; absent is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
    /// Event time in milliseconds since 1970, if it has one.
    pub timestamp_ms: Option<i64>,
}

impl EntryRecord {
    fn from_wire(wire: v1::Record) -> Self {
        Self {
            key: wire.key,
            value: wire.value,
            headers: wire.headers.into_iter().map(|header| Header { key: header.key, value: header.value }).collect(),
            timestamp_ms: wire.timestamp_ms,
        }
    }
}

/// How a handler failed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Failure {
    /// Class, stable for programs.
    pub class: String,
    /// Message for people.
    pub message: String,
    /// Stack.
    pub stack: String,
    /// Fingerprint under which like failures are counted.
    pub fingerprint: String,
}

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Its id, the same for ever.
    pub dlq_id: String,
    /// Name of the group.
    pub group: String,
    /// Name of the source topic.
    pub topic: String,
    /// Id of the source topic.
    pub topic_id: TopicId,
    /// Partition in the source, from 0.
    pub partition: u32,
    /// Epoch of the record in the source.
    pub epoch: u32,
    /// Offset of the record in the source.
    pub offset: u64,
    /// Key of the record; absent if it has none.
    pub key: Option<Bytes>,
    /// Kind.
    pub kind: Option<EntryKind>,
    /// State.
    pub state: Option<EntryState>,
    /// Why it is here.
    pub reason: Option<DeadReason>,
    /// How often it was dead or spilled, from 1.
    pub cycle: u32,
    /// Deliveries of the last cycle.
    pub attempts: u32,
    /// Time of the append to the source, in milliseconds since 1970.
    pub append_time_ms: i64,
    /// When it first failed, if it did.
    pub first_failure_ms: Option<i64>,
    /// When it last failed, if it did.
    pub last_failure_ms: Option<i64>,
    /// When it came here.
    pub dead_ms: i64,
    /// The last failure.
    pub error: Option<Failure>,
    /// Member that had it last.
    pub member_id: String,
    /// Name and version of that member's program.
    pub client_version: String,
    /// Id of the entry at the head of its key, if it is parked.
    pub blocked_by: Option<String>,
    /// Number of edited versions.
    pub versions: u32,
    /// Job that redrives it.
    pub job_id: Option<String>,
    /// The source lost the record to a cut: this copy is all that is left.
    pub source_lost: bool,
    /// How it was closed, if it is.
    pub closed: Option<EntryEvent>,
    /// When it expires, if it does.
    pub expire_ms: Option<i64>,
    /// Name of the topic where its copy lies.
    pub dlq_topic: String,
    /// Offset of its copy there; `None` if the copy is lost.
    pub dlq_offset: Option<u64>,
    /// The newest version of the record, if asked for and there.
    pub record: Option<EntryRecord>,
}

impl Entry {
    pub(crate) fn from_wire(wire: v1::Entry) -> Self {
        let (kind, state, reason) = (wire.kind(), wire.state(), wire.reason());
        let source = wire.source.unwrap_or_default();
        Self {
            dlq_id: wire.dlq_id,
            group: wire.group,
            topic: wire.topic,
            topic_id: TopicId::from(source.topic_id.as_str()),
            partition: source.partition,
            epoch: source.epoch,
            offset: unsigned(source.offset),
            key: wire.key,
            kind: EntryKind::from_wire(kind),
            state: EntryState::from_wire(state),
            reason: DeadReason::from_wire(reason),
            cycle: wire.cycle,
            attempts: wire.attempts,
            append_time_ms: milliseconds(wire.append_time),
            first_failure_ms: wire.first_failure_time.map(|time| milliseconds(Some(time))),
            last_failure_ms: wire.last_failure_time.map(|time| milliseconds(Some(time))),
            dead_ms: milliseconds(wire.dead_time),
            error: wire.error.map(|error| Failure {
                class: error.class,
                message: error.message,
                stack: error.stack,
                fingerprint: error.fingerprint,
            }),
            member_id: wire.member_id,
            client_version: wire.client_version,
            blocked_by: some(wire.blocked_by),
            versions: wire.versions,
            job_id: some(wire.job_id),
            source_lost: wire.source_lost,
            closed: wire.closed.map(EntryEvent::from_wire),
            expire_ms: wire.expire_time.map(|time| milliseconds(Some(time))),
            dlq_topic: wire.dlq_topic,
            dlq_offset: wire.dlq_offset.map(unsigned),
            record: wire.record.map(EntryRecord::from_wire),
        }
    }
}

fn some(text: String) -> Option<String> {
    Some(text).filter(|text| !text.is_empty())
}

/// Something that happened to an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryEvent {
    /// State after it.
    pub state: Option<EntryState>,
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// Who.
    pub actor: String,
    /// Why.
    pub note: String,
    /// Cycle.
    pub cycle: u32,
    /// Version concerned: the one acked, or the one stored by an edit.
    pub version: u32,
}

impl EntryEvent {
    pub(crate) fn from_wire(wire: v1::EntryEvent) -> Self {
        Self {
            state: EntryState::from_wire(wire.state()),
            time_ms: milliseconds(wire.time),
            actor: wire.actor,
            note: wire.note,
            cycle: wire.cycle,
            version: wire.version,
        }
    }
}

/// A version of an entry's record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EntryVersion {
    /// Number; 0 is the original.
    pub version: u32,
    /// The record.
    pub record: EntryRecord,
    /// Who stored it.
    pub actor: String,
    /// Why.
    pub note: String,
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
}

impl EntryVersion {
    pub(crate) fn from_wire(wire: v1::EntryVersion) -> Self {
        Self {
            version: wire.version,
            record: EntryRecord::from_wire(wire.record.unwrap_or_default()),
            actor: wire.actor,
            note: wire.note,
            time_ms: milliseconds(wire.time),
        }
    }
}

/// Which entries; all conditions must hold, one that is absent always does.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EntrySelector {
    /// One of these ids; at most 1,000.
    pub dlq_ids: Vec<String>,
    /// From this source topic.
    pub topic: Option<String>,
    /// Of this partition.
    pub partition: Option<u32>,
    /// With this key.
    pub key: Option<Bytes>,
    /// In one of these states.
    pub states: Vec<EntryState>,
    /// Of this kind.
    pub kind: Option<EntryKind>,
    /// With this class of error.
    pub error_class: Option<String>,
    /// With this fingerprint.
    pub fingerprint: Option<String>,
    /// Dead at or after this time, in milliseconds since 1970.
    pub dead_from_ms: Option<i64>,
    /// Dead before this time, in milliseconds since 1970.
    pub dead_before_ms: Option<i64>,
    /// With these headers, at most 16.
    pub headers: Vec<HeaderFilter>,
    /// For this reason.
    pub reason: Option<DeadReason>,
}

impl EntrySelector {
    /// The entries with these ids.
    pub fn ids<T: Into<String>>(ids: impl IntoIterator<Item = T>) -> Self {
        Self { dlq_ids: ids.into_iter().map(Into::into).collect(), ..Self::default() }
    }

    /// The entries of this key.
    pub fn key(key: impl Into<Bytes>) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    /// Whether it names no condition: every entry.
    pub fn is_all(&self) -> bool {
        *self == Self::default()
    }

    pub(crate) fn to_wire(&self) -> v1::EntrySelector {
        v1::EntrySelector {
            dlq_ids: self.dlq_ids.clone(),
            topic: self.topic.clone().unwrap_or_default(),
            partition: self.partition,
            key: self.key.clone(),
            states: self.states.iter().map(|state| EntryState::to_wire(Some(*state))).collect(),
            kind: EntryKind::to_wire(self.kind),
            error_class: self.error_class.clone().unwrap_or_default(),
            fingerprint: self.fingerprint.clone().unwrap_or_default(),
            dead_from: self.dead_from_ms.map(timestamp),
            dead_before: self.dead_before_ms.map(timestamp),
            headers: self.headers.iter().map(HeaderFilter::to_wire).collect(),
            reason: DeadReason::to_wire(self.reason),
        }
    }

    fn from_wire(wire: v1::EntrySelector) -> Self {
        let (kind, reason) = (wire.kind(), wire.reason());
        let states = wire.states().filter_map(EntryState::from_wire).collect();
        Self {
            dlq_ids: wire.dlq_ids,
            topic: some(wire.topic),
            partition: wire.partition,
            key: wire.key,
            states,
            kind: EntryKind::from_wire(kind),
            error_class: some(wire.error_class),
            fingerprint: some(wire.fingerprint),
            dead_from_ms: wire.dead_from.map(|time| milliseconds(Some(time))),
            dead_before_ms: wire.dead_before.map(|time| milliseconds(Some(time))),
            headers: wire.headers.into_iter().map(HeaderFilter::from_wire).collect(),
            reason: DeadReason::from_wire(reason),
        }
    }
}

/// A redrive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Job {
    /// Its id.
    pub job_id: String,
    /// Name of the group.
    pub group: String,
    /// What was selected.
    pub selector: EntrySelector,
    /// Topic that the entries are appended to; `None`: they are delivered to the group.
    pub target_topic: Option<String>,
    /// Which keys come first.
    pub order: Option<RedriveOrder>,
    /// Entries a second; 0: no limit.
    pub rate: u64,
    /// Failures after which it pauses; 0: never.
    pub abort_after_failures: u32,
    /// Where it stands.
    pub state: Option<JobState>,
    /// Why it is paused; empty otherwise.
    pub pause_reason: String,
    /// Entries selected.
    pub selected: u64,
    /// Entries resolved or moved.
    pub resolved: u64,
    /// Entries that failed again.
    pub failed: u64,
    /// Entries that were closed by others in the meantime.
    pub passed: u64,
    /// Milliseconds to the end at the present rate; `None` if unknown.
    pub eta_ms: Option<u64>,
    /// When it was started, in milliseconds since 1970.
    pub create_time_ms: i64,
    /// When it ended, in milliseconds since 1970.
    pub end_time_ms: Option<i64>,
    /// Why it was started.
    pub note: String,
    /// Who started it.
    pub actor: String,
}

impl Job {
    /// Whether it has ended.
    pub fn is_ended(&self) -> bool {
        self.state.is_some_and(JobState::is_ended)
    }

    pub(crate) fn from_wire(wire: v1::Job) -> Self {
        let (order, state) = (wire.order(), wire.state());
        let to_topic = wire.target() == v1::RedriveTarget::Topic;
        Self {
            job_id: wire.job_id,
            group: wire.group,
            selector: wire.selector.map(EntrySelector::from_wire).unwrap_or_default(),
            target_topic: to_topic.then_some(wire.target_topic),
            order: RedriveOrder::from_wire(order),
            rate: wire.rate,
            abort_after_failures: wire.abort_after_failures,
            state: JobState::from_wire(state),
            pause_reason: wire.pause_reason,
            selected: wire.selected,
            resolved: wire.resolved,
            failed: wire.failed,
            passed: wire.passed,
            eta_ms: wire.eta_ms.map(unsigned),
            create_time_ms: milliseconds(wire.create_time),
            end_time_ms: wire.end_time.map(|time| milliseconds(Some(time))),
            note: wire.note,
            actor: wire.actor,
        }
    }
}

/// What a redrive would do.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RedrivePreview {
    /// Entries.
    pub entries: u64,
    /// Keys.
    pub keys: u64,
    /// Entries by key, the largest 100.
    pub by_key: Vec<(String, u64)>,
    /// Entries by class of error, the largest 100.
    pub by_class: Vec<(String, u64)>,
    /// The first 20.
    pub first: Vec<Entry>,
}

impl RedrivePreview {
    pub(crate) fn from_wire(wire: v1::RedrivePreview) -> Self {
        let counts = |counts: Vec<v1::NamedCount>| counts.into_iter().map(|count| (count.name, count.count)).collect();
        Self {
            entries: wire.entries,
            keys: wire.keys,
            by_key: counts(wire.by_key),
            by_class: counts(wire.by_class),
            first: wire.first.into_iter().map(Entry::from_wire).collect(),
        }
    }
}
