//! What can be chosen for a group: defaults, units, bounds.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::breaker::BreakerPolicy;
use super::pairs;
use super::retry::RetryPolicy;
use crate::limits;
use crate::model::{Filter, GroupId, Offset, TopicUuid, VersionName};

/// How records are given out (rule GM-2); fixed at creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Mode {
    /// Acknowledged one by one, in order per key.
    Keyed,
    /// A partition belongs to one member, which commits the next offset.
    Offset,
    /// Acknowledged one by one, in no order.
    Unordered,
}

/// What happens at a gap that retention, a trim or damage made (rule RE-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum OnGap {
    /// The partition pauses until someone accepts the gap.
    Stop,
    /// The group goes on behind it.
    Continue,
}

/// Who keeps the positions of a group (rule RM-3); fixed at creation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, Serialize, Deserialize)]
pub enum Positions {
    /// The broker.
    #[default]
    Broker,
    /// The reader's own database, which reports them; mode OFFSET alone.
    Cursor,
}

/// Where a group begins in the partitions that exist when it is created (rule OF-1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum StartAt {
    /// At the log start.
    Earliest,
    /// At the high watermark.
    Latest,
    /// At the first record appended at or after this time, in milliseconds since 1970.
    Timestamp(i64),
    /// At these offsets; partitions not named: at the log start.
    Offsets(Vec<(super::SourceName, Offset)>),
    /// Where another group stands.
    FromGroup(String),
}

/// A topic that a group consumes. The name is for people; everything hangs on the id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GroupTopic {
    /// Its id.
    pub topic: TopicUuid,
    /// Its name.
    pub name: String,
    /// Number of its partitions.
    pub partitions: u32,
    /// Name of the dead-letter topic for it, reserved (rule DL-1).
    pub dlq: String,
    /// Whether it is a dead-letter topic itself: the group has no dead letters of its own then (rule DL-11).
    pub is_dlq: bool,
}

/// Settings of a group. Times are in milliseconds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupConfig {
    /// How records are given out.
    pub mode: Mode,
    /// Who keeps the positions.
    #[serde(default)]
    pub positions: Positions,
    /// Names of topics, or one pattern that ends with `*`.
    pub subscription: Vec<String>,
    /// Only records that pass (rule FC-7).
    pub filter: Filter,
    /// Tries and delays (rule RT-1).
    pub retry: RetryPolicy,
    /// Other tries and delays for some topics.
    #[serde(with = "pairs")]
    pub topic_retry: BTreeMap<TopicUuid, RetryPolicy>,
    /// Lease of a delivered record; default 30,000, 1,000 to 3,600,000 (rule AK-5).
    pub lease_ms: u64,
    /// The longest that a lease may be extended to, in all; default 900,000; 0: no limit (rule AK-5).
    pub max_processing_ms: u64,
    /// Silence after which a member is lost; default 10,000, 2,000 to 300,000 (rule GM-7).
    pub session_timeout_ms: u64,
    /// How long the units of a static member wait for it; default 300,000, at most 86,400,000 (rule GM-9).
    pub static_timeout_ms: u64,
    /// How long a member may take to hand over a unit; default 30,000, 1,000 to 600,000 (rule GM-5).
    pub drain_timeout_ms: u64,
    /// Records of one key leased together, 1 to 32; default 1 (rule KO-1).
    pub max_in_flight_per_key: u32,
    /// Records leased in all; 0: no limit (rule RT-9).
    pub max_in_flight: u64,
    /// Bytes leased in all; 0: no limit (rule RT-9).
    pub max_bytes_in_flight: u64,
    /// Deliveries a second; 0: no limit (rule RT-9).
    pub rate_limit: u64,
    /// The circuit breaker (rule CB-1).
    pub breaker: BreakerPolicy,
    /// What happens at a gap.
    pub on_gap: OnGap,
    /// Records of a partition that are held (rule AK-7).
    pub max_held: u32,
    /// Lanes of a partition that wait (rule AK-7).
    pub max_lanes_blocked: u32,
    /// Bytes of log between the floor and what is read ahead (rule AK-7).
    pub max_scan_ahead_bytes: u64,
    /// Dead lanes of the group (rule AK-7).
    pub max_dead_lanes: u64,
    /// Idle time after which the group is deleted; 0: never (rule OF-2).
    pub idle_ttl_ms: u64,
    /// Time for which dead letters are kept; default 2,592,000,000 (rule DL-10).
    pub dlq_retention_ms: i64,
    /// Bytes of dead letters at which the group pauses; 0: no limit (rule DL-10).
    pub dlq_max_bytes: u64,
    /// Names of dead-letter topics that were given instead of `{topic}.{group}.dlq`, by topic name.
    pub dlq_names: BTreeMap<String, String>,
    /// It was made for a replay: nothing outside the range of one is ever read (rule RP-5). Fixed at creation.
    #[serde(default)]
    pub replay_only: bool,
    /// The active version of its read model; `None`: it has no versions. Given at creation, changed by a swap alone
    /// (rule RP-6).
    #[serde(default)]
    pub version: Option<VersionName>,
    /// It is the shadow of this group, in which a version is rebuilt. Fixed at creation.
    #[serde(default)]
    pub shadow_of: Option<GroupId>,
}

impl GroupConfig {
    /// The defaults of a mode.
    pub fn new(mode: Mode, subscription: Vec<String>) -> Self {
        Self {
            mode,
            positions: Positions::Broker,
            subscription,
            filter: Filter::default(),
            retry: RetryPolicy::default(),
            topic_retry: BTreeMap::new(),
            lease_ms: 30_000,
            max_processing_ms: 900_000,
            session_timeout_ms: 10_000,
            static_timeout_ms: 300_000,
            drain_timeout_ms: 30_000,
            max_in_flight_per_key: 1,
            max_in_flight: 0,
            max_bytes_in_flight: 0,
            rate_limit: 0,
            breaker: BreakerPolicy::default(),
            on_gap: if mode == Mode::Keyed { OnGap::Stop } else { OnGap::Continue },
            max_held: limits::HELD_RECORDS,
            max_lanes_blocked: limits::BLOCKED_LANES,
            max_scan_ahead_bytes: limits::SCAN_AHEAD_BYTES,
            max_dead_lanes: limits::DEAD_LANES,
            idle_ttl_ms: 0,
            dlq_retention_ms: 30 * 86_400_000,
            dlq_max_bytes: 0,
            dlq_names: BTreeMap::new(),
            replay_only: false,
            version: None,
            shadow_of: None,
        }
    }

    /// The same for a group whose positions are kept so: a read model stops at a gap (rule RE-4).
    pub fn positions(mut self, positions: Positions) -> Self {
        self.positions = positions;
        if positions == Positions::Cursor {
            self.on_gap = OnGap::Stop;
        }
        self
    }

    /// The policy for a topic.
    pub fn retry_of(&self, topic: TopicUuid) -> &RetryPolicy {
        self.topic_retry.get(&topic).unwrap_or(&self.retry)
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first field out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        let within = |field: &'static str, found: u64, min: u64, max: u64| {
            if (min..=max).contains(&found) {
                Ok(())
            } else {
                Err(ConfigError { field, found: found.to_string(), bounds: format!("{min} to {max}") })
            }
        };
        if self.positions == Positions::Cursor && self.mode != Mode::Offset {
            let (found, bounds) =
                (format!("Cursor in mode {:?}", self.mode), "of the broker, or mode OFFSET".to_owned());
            return Err(ConfigError { field: "positions", found, bounds });
        }
        if let Some(version) = self.version.as_ref().filter(|_| self.positions != Positions::Cursor) {
            let (found, bounds) =
                (version.to_string(), "absent: only groups with positions CURSOR have versions".to_owned());
            return Err(ConfigError { field: "version", found, bounds });
        }
        within("lease_ms", self.lease_ms, 1_000, 3_600_000)?;
        within("max_processing_ms", self.max_processing_ms, 0, limits::DURATION_MS_MAX)?;
        if self.max_processing_ms != 0 {
            within("max_processing_ms", self.max_processing_ms, self.lease_ms, limits::DURATION_MS_MAX)?;
        }
        within("session_timeout_ms", self.session_timeout_ms, 2_000, 300_000)?;
        within("static_timeout_ms", self.static_timeout_ms, 0, 86_400_000)?;
        within("drain_timeout_ms", self.drain_timeout_ms, 1_000, 600_000)?;
        within("max_in_flight_per_key", self.max_in_flight_per_key.into(), 1, limits::IN_FLIGHT_PER_KEY.into())?;
        within("max_held", self.max_held.into(), 100, limits::HELD_RECORDS.into())?;
        within("max_lanes_blocked", self.max_lanes_blocked.into(), 10, limits::BLOCKED_LANES.into())?;
        within("max_scan_ahead_bytes", self.max_scan_ahead_bytes, 1 << 20, limits::SCAN_AHEAD_BYTES)?;
        within("max_dead_lanes", self.max_dead_lanes, 1, limits::DEAD_LANES)?;
        within("idle_ttl_ms", self.idle_ttl_ms, 0, limits::DURATION_MS_MAX)?;
        let retention = u64::try_from(self.dlq_retention_ms).unwrap_or(0);
        within("dlq_retention_ms", retention, 60_000, limits::DURATION_MS_MAX)?;
        within("topics", self.subscription.len() as u64, 1, limits::TOPICS_PER_GROUP as u64)?;
        self.retry.check()?;
        self.topic_retry.values().try_for_each(RetryPolicy::check)?;
        self.breaker.check()
    }
}

/// A setting out of its bounds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field} is {found}; it must be {bounds}")]
pub struct ConfigError {
    /// The field.
    pub field: &'static str,
    /// What was given.
    pub found: String,
    /// What is allowed.
    pub bounds: String,
}
