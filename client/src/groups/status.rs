//! What a broker tells of groups: settings in force, members, lag, pauses, breakers, resets. Plain data.

use std::collections::BTreeMap;

use sawlog_proto::v1;

use super::config::{GroupConfig, GroupMode, Subscription};
use super::words::wire_enum;
use crate::reader::GapReason;
use crate::types::{milliseconds, unsigned};

/// A consumer group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Group {
    /// Name.
    pub name: String,
    /// Id given once at creation, 16 hexadecimal digits. State hangs on it, never on the name.
    pub group_id: String,
    /// Rises with every change.
    pub revision: u64,
    /// Every setting.
    pub config: GroupConfig,
    /// Who answers for the group.
    pub owner: String,
    /// What it does.
    pub description: String,
    /// Free labels.
    pub labels: BTreeMap<String, String>,
    /// When it was created, in milliseconds since 1970.
    pub create_time_ms: i64,
    /// How it is at present.
    pub status: GroupStatus,
    /// The group whose read model it rebuilds, if it is no group of its own but the version of one (rule RP-6).
    pub version_of: Option<String>,
}

impl Group {
    /// How it shares out its work.
    pub fn mode(&self) -> GroupMode {
        self.config.mode.unwrap_or(GroupMode::Keyed)
    }

    /// The topics of its subscription: their names, or the pattern.
    pub fn subscription(&self) -> Vec<&str> {
        match &self.config.subscription {
            None => Vec::new(),
            Some(Subscription::Topics(topics)) => topics.iter().map(String::as_str).collect(),
            Some(Subscription::Pattern(pattern)) => vec![pattern],
        }
    }

    pub(crate) fn from_wire(wire: v1::Group) -> Self {
        Self {
            name: wire.name,
            group_id: wire.group_id,
            revision: wire.revision,
            config: wire.config.map(GroupConfig::from_wire).unwrap_or_default(),
            owner: wire.owner,
            description: wire.description,
            labels: wire.labels.into_iter().collect(),
            create_time_ms: milliseconds(wire.create_time),
            status: wire.status.map(GroupStatus::from_wire).unwrap_or_default(),
            version_of: Some(wire.version_of).filter(|name| !name.is_empty()),
        }
    }
}

/// How a group is at present.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupStatus {
    /// Epoch of its assignment.
    pub group_epoch: u64,
    /// Members, those included that are away but not lost yet.
    pub members: u32,
    /// Members with a stream.
    pub connected: u32,
    /// Names of the topics that it has at present.
    pub topics: Vec<String>,
    /// What holds it up.
    pub pauses: Vec<Pause>,
    /// Its circuit breaker.
    pub breaker: Breaker,
    /// The last skips with a reason, the newest first.
    pub skips: Vec<Skip>,
}

/// Records of a partition that a member or an operator had settled unhandled.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Skip {
    /// Topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Which: runs of offsets, the ends exclusive.
    pub runs: Vec<std::ops::Range<u64>>,
    /// Who.
    pub actor: String,
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// Why.
    pub reason: String,
}

impl Skip {
    fn from_wire(wire: v1::Skip) -> Self {
        Self {
            topic: wire.topic,
            partition: wire.partition,
            runs: wire.runs.into_iter().map(|run| run.from..run.to).collect(),
            actor: wire.actor,
            time_ms: milliseconds(wire.time),
            reason: wire.reason,
        }
    }
}

impl GroupStatus {
    fn from_wire(wire: v1::GroupStatus) -> Self {
        Self {
            group_epoch: wire.group_epoch,
            members: wire.members,
            connected: wire.connected,
            topics: wire.topics,
            pauses: wire.pauses.into_iter().map(Pause::from_wire).collect(),
            breaker: wire.breaker.map(Breaker::from_wire).unwrap_or_default(),
            skips: wire.skips.into_iter().map(Skip::from_wire).collect(),
        }
    }
}

wire_enum! {
    /// Why deliveries pause (rule OF-6).
    PauseReason of PauseReason {
        /// An operator asked for it.
        Operator = "operator",
        /// Too many records are held.
        HeldLimit = "held_limit",
        /// Too many keys are dead.
        DeadLimit = "dead_limit",
        /// The dead letters are full.
        DlqFull = "dlq_full",
        /// The disk is nearly full.
        DiskLow = "disk_low",
        /// Records are gone; accepting the gap goes on.
        Gap = "gap",
        /// Its replay is paused.
        Replay = "replay",
    }
}

/// A pause.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pause {
    /// Why; `None`: a reason that this client does not know.
    pub reason: Option<PauseReason>,
    /// Topic that pauses; `None`: all of the group.
    pub topic: Option<String>,
    /// Partition that pauses; `None`: all of the topic.
    pub partition: Option<u32>,
    /// When it ends by itself, in milliseconds since 1970.
    pub until_ms: Option<i64>,
    /// What was noted with it.
    pub note: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
}

impl Pause {
    pub(crate) fn from_wire(wire: v1::Pause) -> Self {
        Self {
            reason: PauseReason::from_wire(wire.reason()),
            topic: Some(wire.topic).filter(|topic| !topic.is_empty()),
            partition: wire.partition,
            until_ms: wire.until.map(|until| milliseconds(Some(until))),
            note: wire.note,
            since_ms: milliseconds(wire.since),
        }
    }
}

wire_enum! {
    /// Where a circuit breaker stands (rules CB-1 to CB-3).
    BreakerState of BreakerState {
        /// Deliveries flow.
        Closed = "closed",
        /// Probes alone are delivered.
        Open = "open",
        /// It has closed and deliveries are rising again.
        Ramping = "ramping",
        /// Switched off by configuration.
        Off = "off",
    }
}

wire_enum! {
    /// Who decides about a circuit breaker.
    BreakerSwitch of BreakerSwitch {
        /// Itself.
        Auto = "auto",
        /// Forced open.
        Open = "open",
        /// Forced closed.
        Closed = "closed",
    }
}

/// A circuit breaker.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Breaker {
    /// Where it stands.
    pub state: Option<BreakerState>,
    /// Who decides.
    pub switch: Option<BreakerSwitch>,
    /// Why it is open; empty otherwise.
    pub reason: String,
    /// Since when it stands so, in milliseconds since 1970; 0: not told.
    pub since_ms: i64,
    /// When the next probe is sent, while open, in milliseconds since 1970.
    pub next_probe_ms: Option<i64>,
    /// The most frequent failures of the window: fingerprint, class, count.
    pub top: Vec<FingerprintCount>,
}

/// A failure seen often.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FingerprintCount {
    /// Fingerprint (rule DL-13).
    pub fingerprint: String,
    /// Class of the error.
    pub class: String,
    /// How often it was seen in the window.
    pub count: u64,
}

impl Breaker {
    pub(crate) fn from_wire(wire: v1::BreakerStatus) -> Self {
        let top = |top: v1::FingerprintCount| FingerprintCount {
            fingerprint: top.fingerprint,
            class: top.class,
            count: top.count,
        };
        Self {
            state: BreakerState::from_wire(wire.state()),
            switch: BreakerSwitch::from_wire(wire.switch()),
            reason: wire.reason,
            since_ms: milliseconds(wire.since),
            next_probe_ms: wire.next_probe.map(|at| milliseconds(Some(at))),
            top: wire.top.into_iter().map(top).collect(),
        }
    }
}

wire_enum! {
    /// How a unit stands with its member.
    UnitState of UnitState {
        /// The member's.
        Assigned = "assigned",
        /// Taken away; the member drains it.
        Revoking = "revoking",
        /// Kept for a static member that is away.
        Reserved = "reserved",
    }
}

/// That a unit waits for what its reader depends on, such as the database of a projection (rule RM-6).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stall {
    /// Why, as its reader said.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub since_ms: i64,
}

impl Stall {
    fn from_wire(wire: v1::Stall) -> Self {
        Self { reason: wire.reason, since_ms: milliseconds(wire.since) }
    }
}

/// A unit of a member: a run of key slots of a partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemberUnit {
    /// Name of the topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
    /// First key slot.
    pub slot_from: u32,
    /// First key slot after it, at most 4,096.
    pub slot_to: u32,
    /// Epoch of the assignment.
    pub assignment_epoch: u64,
    /// How it stands.
    pub state: Option<UnitState>,
    /// If its reader waits.
    pub stalled: Option<Stall>,
}

/// A member of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Its id, a UUID.
    pub member_id: String,
    /// Name of its session.
    pub member_epoch: u64,
    /// Static name; empty if it has none.
    pub instance_id: String,
    /// Name for people.
    pub client_id: String,
    /// Name and version of its program.
    pub client_version: String,
    /// Whether it has a stream.
    pub connected: bool,
    /// When its last frame came, in milliseconds since 1970.
    pub last_seen_ms: i64,
    /// Its units.
    pub units: Vec<MemberUnit>,
    /// Records leased to it.
    pub in_flight: u64,
    /// Credit left: records.
    pub credit_records: u64,
    /// Credit left: bytes.
    pub credit_bytes: u64,
    /// While it is away: when it counts as lost, in milliseconds since 1970.
    pub lost_at_ms: Option<i64>,
}

impl Member {
    pub(crate) fn from_wire(wire: v1::Member) -> Self {
        let unit = |unit: v1::MemberUnit| MemberUnit {
            state: UnitState::from_wire(unit.state()),
            topic: unit.topic,
            partition: unit.partition,
            slot_from: unit.slot_from,
            slot_to: unit.slot_to,
            assignment_epoch: unit.assignment_epoch,
            stalled: unit.stalled.map(Stall::from_wire),
        };
        Self {
            member_id: wire.member_id,
            member_epoch: wire.member_epoch,
            instance_id: wire.instance_id,
            client_id: wire.client_id,
            client_version: wire.client_version,
            connected: wire.connected,
            last_seen_ms: milliseconds(wire.last_seen),
            units: wire.units.into_iter().map(unit).collect(),
            in_flight: wire.in_flight,
            credit_records: wire.credit_records,
            credit_bytes: wire.credit_bytes,
            lost_at_ms: wire.lost_at.map(|at| milliseconds(Some(at))),
        }
    }
}

/// How far a group is behind (rules OB-1, OB-3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lag {
    /// One entry a partition.
    pub partitions: Vec<PartitionLag>,
    /// Circuit breaker.
    pub breaker: Breaker,
    /// What holds the group up.
    pub pauses: Vec<Pause>,
    /// Records in all.
    pub lag_records: u64,
    /// Age in milliseconds of the oldest deliverable record that was not yet delivered.
    pub lag_ms: u64,
    /// Dead keys of the group, spilled ones included.
    pub dead_keys: u64,
}

impl Lag {
    pub(crate) fn from_wire(wire: v1::GetLagResponse) -> Self {
        Self {
            partitions: wire.partitions.into_iter().map(PartitionLag::from_wire).collect(),
            breaker: wire.breaker.map(Breaker::from_wire).unwrap_or_default(),
            pauses: wire.pauses.into_iter().map(Pause::from_wire).collect(),
            lag_records: wire.lag_records,
            lag_ms: unsigned(wire.lag_ms),
            dead_keys: wire.dead_keys,
        }
    }
}

/// A gap that waits to be accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PendingGap {
    /// First missing offset.
    pub from: u64,
    /// First offset after it.
    pub to: u64,
    /// Why; [`GapReason::Truncated`]: a read model has applied what was cut.
    pub reason: GapReason,
    /// It is accepted, and passed as soon as its reader is there.
    pub accepted: bool,
}

/// How far a group is behind in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PartitionLag {
    /// Name of the topic.
    pub topic: String,
    /// Id of the topic.
    pub topic_id: String,
    /// Partition, from 0.
    pub partition: u32,
    /// First unsettled offset, which is the committed one.
    pub floor: u64,
    /// Epoch of the position.
    pub epoch: u32,
    /// First offset of the log.
    pub log_start_offset: u64,
    /// First offset not yet visible.
    pub high_watermark: u64,
    /// Unsettled records.
    pub lag_records: u64,
    /// Bytes of log from the floor to the high watermark.
    pub lag_bytes: u64,
    /// Age in milliseconds of the oldest deliverable record that was not yet delivered.
    pub lag_ms: u64,
    /// The same by when its event happened, as its producer says.
    pub event_lag_ms: u64,
    /// Age in milliseconds of the record at the floor.
    pub oldest_unsettled_ms: u64,
    /// Records leased.
    pub in_flight: u64,
    /// Records read ahead and not settled.
    pub held_records: u64,
    /// Keys that wait for a retry.
    pub blocked_keys: u64,
    /// Dead keys.
    pub dead_keys: u64,
    /// Open dead letters.
    pub open_entries: u64,
    /// Milliseconds until retention reaches the floor at present rates; `None`: not in sight.
    pub time_to_loss_ms: Option<u64>,
    /// A gap at which it has stopped.
    pub gap: Option<PendingGap>,
    /// Member that owns all of it; empty if none or several do.
    pub member_id: String,
    /// Bytes committed with the position; mode offset.
    pub metadata: bytes::Bytes,
    /// If its reader waits; mode offset.
    pub stalled: Option<Stall>,
}

impl PartitionLag {
    fn from_wire(wire: v1::PartitionLag) -> Self {
        let gap = wire.gap.map(|gap| PendingGap {
            from: unsigned(gap.from),
            to: unsigned(gap.to),
            reason: GapReason::from_wire(gap.reason()),
            accepted: gap.accepted,
        });
        Self {
            topic: wire.topic,
            topic_id: wire.topic_id,
            partition: wire.partition,
            floor: unsigned(wire.floor),
            epoch: wire.epoch,
            log_start_offset: unsigned(wire.log_start_offset),
            high_watermark: unsigned(wire.high_watermark),
            lag_records: wire.lag_records,
            lag_bytes: wire.lag_bytes,
            lag_ms: unsigned(wire.lag_ms),
            event_lag_ms: unsigned(wire.event_lag_ms),
            oldest_unsettled_ms: unsigned(wire.oldest_unsettled_ms),
            in_flight: wire.in_flight,
            held_records: wire.held_records,
            blocked_keys: wire.blocked_keys,
            dead_keys: wire.dead_keys,
            open_entries: wire.open_entries,
            time_to_loss_ms: wire.time_to_loss_ms.map(unsigned),
            gap,
            member_id: wire.member_id,
            metadata: wire.metadata.into(),
            stalled: wire.stalled.map(Stall::from_wire),
        }
    }
}
