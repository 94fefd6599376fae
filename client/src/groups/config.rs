//! What can be chosen for a consumer group. Plain data; in a request `None` means the broker's default, or: unchanged.
//!
//! Bounds and defaults are the broker's: it answers a value out of bounds with `INVALID_FIELD`.

use std::collections::BTreeMap;

use sawlog_proto::v1;

use super::filter::RecordFilter;
use super::words::wire_enum;
use crate::types::{signed, unsigned};

wire_enum! {
    /// How a group shares out its work (rule GM-2). Fixed at creation.
    GroupMode of GroupMode {
        /// Each record is acked; the records of a key are handled in order.
        Keyed = "keyed",
        /// A partition belongs to one member, which commits the offset of the next record.
        Offset = "offset",
        /// Each record is acked; no order.
        Unordered = "unordered",
    }
}

wire_enum! {
    /// What happens to a record that has had all its tries (rule RT-1).
    OnExhausted of OnExhausted {
        /// It goes to the dead letters.
        DeadLetter = "dead_letter",
        /// It is settled as skipped, and counted.
        Drop = "drop",
        /// It holds its key until an operator skips or retries it.
        Block = "block",
    }
}

wire_enum! {
    /// What happens to later records of a key that has a dead letter (rules DL-6, DL-8).
    AfterDead of AfterDead {
        /// They wait behind it in the dead letters.
        Park = "park",
        /// They go on, with a hole.
        Continue = "continue",
    }
}

wire_enum! {
    /// What happens at records that are gone (rule RE-4).
    OnGap of OnGap {
        /// The partition waits for [`crate::groups::Groups::accept_gap`].
        Stop = "stop",
        /// The gap is told and the partition goes on.
        Continue = "continue",
    }
}

wire_enum! {
    /// Who keeps the positions of a group (rule RM-3). Fixed at creation.
    PositionStore of PositionStore {
        /// The broker.
        Broker = "broker",
        /// The reader's own database, in the transactions that write its read model; mode offset alone.
        Cursor = "cursor",
    }
}

/// Which topics a group has.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subscription {
    /// These, 1 to 100.
    Topics(Vec<String>),
    /// Those whose name matches, now and later: `*` stands for any characters.
    Pattern(String),
}

/// An offset of a partition of a topic.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct TopicOffset {
    /// Name of the topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
    /// The offset.
    pub offset: u64,
    /// Epoch of the record before it, if known: a position of a part that was cut is then refused.
    pub epoch: Option<u32>,
}

/// A place in every partition; made concrete at once, never applied again later (rule OF-1).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum GroupPosition {
    /// The log start.
    Earliest,
    /// The high watermark.
    Latest,
    /// The first record appended at or after this time, in milliseconds since 1970.
    TimestampMs(i64),
    /// These offsets; at creation partitions not named begin at the log start, at a reset they stay.
    Offsets(Vec<TopicOffset>),
    /// The positions of this group.
    FromGroup(String),
}

impl GroupPosition {
    pub(crate) fn to_wire(&self) -> v1::GroupPosition {
        use v1::group_position::At;
        let at = match self {
            Self::Earliest => At::Earliest(v1::Unit {}),
            Self::Latest => At::Latest(v1::Unit {}),
            Self::TimestampMs(time) => At::TimestampMs(*time),
            Self::Offsets(offsets) => {
                let offset = |offset: &TopicOffset| v1::TopicPartitionOffset {
                    topic: offset.topic.clone(),
                    partition: offset.partition,
                    offset: signed(offset.offset),
                    epoch: offset.epoch,
                };
                At::Offsets(v1::TopicPartitionOffsets { offsets: offsets.iter().map(offset).collect() })
            }
            Self::FromGroup(group) => At::FromGroup(group.clone()),
        };
        v1::GroupPosition { at: Some(at) }
    }

    fn from_wire(wire: v1::GroupPosition) -> Option<Self> {
        use v1::group_position::At;
        Some(match wire.at? {
            At::Earliest(_) => Self::Earliest,
            At::Latest(_) => Self::Latest,
            At::TimestampMs(time) => Self::TimestampMs(time),
            At::Offsets(offsets) => {
                let offset = |offset: v1::TopicPartitionOffset| TopicOffset {
                    topic: offset.topic,
                    partition: offset.partition,
                    offset: unsigned(offset.offset),
                    epoch: offset.epoch,
                };
                Self::Offsets(offsets.offsets.into_iter().map(offset).collect())
            }
            At::FromGroup(group) => Self::FromGroup(group),
        })
    }
}

/// Delays between the tries of a record.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Backoff {
    /// Milliseconds before the second, third and later tries; the last one repeats.
    List(Vec<u64>),
    /// min(max, base * factor^(n-1)) before try n + 1.
    Exponential {
        /// Milliseconds before the second try.
        base_ms: u64,
        /// Growth per try in thousandths: 2,000 doubles.
        factor_permille: u32,
        /// The longest delay in milliseconds.
        max_ms: u64,
    },
}

/// When and how often a failed record is tried again (rule RT-1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RetryPolicy {
    /// Deliveries in all, 1 to 1,000; default 6.
    pub max_attempts: Option<u32>,
    /// Delays between tries; default 1 s, 5 s, 30 s, 2 min, 10 min.
    pub backoff: Option<Backoff>,
    /// Spread of each delay in per cent either way; default 20.
    pub jitter_percent: Option<u32>,
    /// Error classes that skip the remaining tries.
    pub non_retryable_classes: Vec<String>,
    /// What happens after the last try.
    pub on_exhausted: Option<OnExhausted>,
    /// What happens to later records of the key.
    pub after_dead: Option<AfterDead>,
}

impl RetryPolicy {
    fn to_wire(&self) -> v1::RetryPolicy {
        use v1::retry_policy::Backoff as Wire;
        let backoff = self.backoff.as_ref().map(|backoff| match backoff {
            Backoff::List(delays) => Wire::List(v1::BackoffList { delays_ms: delays.clone() }),
            Backoff::Exponential { base_ms, factor_permille, max_ms } => Wire::Exponential(v1::BackoffExponential {
                base_ms: *base_ms,
                factor_permille: *factor_permille,
                max_ms: *max_ms,
            }),
        });
        v1::RetryPolicy {
            max_attempts: self.max_attempts,
            backoff,
            jitter_percent: self.jitter_percent,
            non_retryable_classes: self.non_retryable_classes.clone(),
            on_exhausted: OnExhausted::to_wire(self.on_exhausted),
            after_dead: AfterDead::to_wire(self.after_dead),
        }
    }

    fn from_wire(wire: v1::RetryPolicy) -> Self {
        use v1::retry_policy::Backoff as Wire;
        let (on_exhausted, after_dead) = (wire.on_exhausted(), wire.after_dead());
        Self {
            max_attempts: wire.max_attempts,
            backoff: wire.backoff.map(|backoff| match backoff {
                Wire::List(list) => Backoff::List(list.delays_ms),
                Wire::Exponential(v1::BackoffExponential { base_ms, factor_permille, max_ms }) => {
                    Backoff::Exponential { base_ms, factor_permille, max_ms }
                }
            }),
            jitter_percent: wire.jitter_percent,
            non_retryable_classes: wire.non_retryable_classes,
            on_exhausted: OnExhausted::from_wire(on_exhausted),
            after_dead: AfterDead::from_wire(after_dead),
        }
    }
}

/// When the circuit breaker opens (rule CB-1).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BreakerConfig {
    /// Whether there is one; default true.
    pub enabled: Option<bool>,
    /// Opens at so many failed keys in the window; default 20 ...
    pub failed_keys: Option<u32>,
    /// ... that are so many per cent of the window's keys; default 50.
    pub failed_percent: Option<u32>,
    /// Length of the window in milliseconds; default 30,000.
    pub window_ms: Option<u64>,
    /// Error classes that say that the record is bad, not what the handler depends on.
    pub poison_classes: Vec<String>,
}

/// What the group may have in work (rule RT-9). 0: no limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupCaps {
    /// Records leased at once.
    pub max_in_flight: u64,
    /// Bytes leased at once.
    pub max_bytes_in_flight: u64,
    /// Records delivered a second.
    pub rate_limit: u64,
}

/// What the broker may hold for the group per partition (rule AK-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupBounds {
    /// Records read ahead and not settled.
    pub held_records: Option<u32>,
    /// Keys that wait for a retry.
    pub blocked_keys: Option<u32>,
    /// Bytes of log between the first unsettled record and the end of what is read ahead.
    pub scan_ahead_bytes: Option<u64>,
    /// Dead and spilled keys of the whole group.
    pub dead_keys: Option<u64>,
}

/// The dead letters of a group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetterConfig {
    /// How long an open entry is kept, in milliseconds from its arrival; default 30 days; -1: for ever.
    pub retention_ms: Option<i64>,
    /// Bytes per partition at which the group pauses with DLQ_FULL; default -1, no limit.
    pub max_bytes: Option<i64>,
    /// Names of dead-letter topics by source topic, in place of `{topic}.{group}.dlq`.
    pub names: BTreeMap<String, String>,
}

/// Settings of a group. In a request `None` means the broker's default, or: unchanged. In an answer all are given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupConfig {
    /// How the work is shared out; default keyed. Fixed at creation.
    pub mode: Option<GroupMode>,
    /// Which topics; needed at creation.
    pub subscription: Option<Subscription>,
    /// Which records; others are settled as skipped and never sent.
    pub filter: Option<RecordFilter>,
    /// Where the group begins; default earliest. Used at creation alone.
    pub start: Option<GroupPosition>,
    /// When a failed record is tried again.
    pub retry: Option<RetryPolicy>,
    /// The same for single topics, used in place of the group's policy as a whole.
    pub topic_retry: BTreeMap<String, RetryPolicy>,
    /// Length of a lease in milliseconds; default 30,000.
    pub lease_ms: Option<u64>,
    /// Longest time in milliseconds for which a lease can be extended; default 900,000; 0: without end.
    pub max_processing_ms: Option<u64>,
    /// Without a frame for so many milliseconds a member is lost; default 10,000.
    pub session_timeout_ms: Option<u64>,
    /// How long a static member's units wait for it, in milliseconds; default 300,000.
    pub static_timeout_ms: Option<u64>,
    /// A revoked unit must be let go within so many milliseconds; default 30,000.
    pub drain_timeout_ms: Option<u64>,
    /// Most records of a key in work together, 1 to 32; default 1.
    pub max_in_flight_per_key: Option<u32>,
    /// What may be in work at once.
    pub caps: Option<GroupCaps>,
    /// When the circuit breaker opens.
    pub breaker: Option<BreakerConfig>,
    /// What happens at records that are gone; default stop in mode keyed, else continue.
    pub on_gap: Option<OnGap>,
    /// Milliseconds without a member after which the group is deleted; default 0: never.
    pub idle_ttl_ms: Option<u64>,
    /// Who keeps the positions; default the broker. Fixed at creation.
    pub positions: Option<PositionStore>,
    /// Its dead letters.
    pub dead_letters: Option<DeadLetterConfig>,
    /// What the broker may hold for it.
    pub bounds: Option<GroupBounds>,
    /// The active version of the read model of a group with cursors; given at creation, changed by a swap alone.
    pub version: Option<String>,
}

impl GroupConfig {
    /// Settings of a group of these topics.
    pub fn topics<T: Into<String>>(topics: impl IntoIterator<Item = T>) -> Self {
        let topics = topics.into_iter().map(Into::into).collect();
        Self { subscription: Some(Subscription::Topics(topics)), ..Self::default() }
    }

    /// With this mode.
    pub fn mode(mut self, mode: GroupMode) -> Self {
        self.mode = Some(mode);
        self
    }

    /// Beginning here.
    pub fn start(mut self, start: GroupPosition) -> Self {
        self.start = Some(start);
        self
    }

    /// With this retry policy.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = Some(retry);
        self
    }

    pub(crate) fn to_wire(&self) -> v1::GroupConfig {
        use v1::group_config::Subscription as Wire;
        let subscription = self.subscription.as_ref().map(|subscription| match subscription {
            Subscription::Topics(names) => Wire::Topics(v1::TopicNames { names: names.clone() }),
            Subscription::Pattern(pattern) => Wire::TopicPattern(pattern.clone()),
        });
        let topic_retry = self
            .topic_retry
            .iter()
            .map(|(topic, retry)| v1::TopicRetryPolicy { topic: topic.clone(), retry: Some(retry.to_wire()) });
        v1::GroupConfig {
            mode: GroupMode::to_wire(self.mode),
            subscription,
            filter: self.filter.as_ref().map(RecordFilter::to_wire),
            start: self.start.as_ref().map(GroupPosition::to_wire),
            retry: self.retry.as_ref().map(RetryPolicy::to_wire),
            topic_retry: topic_retry.collect(),
            lease_ms: self.lease_ms,
            max_processing_ms: self.max_processing_ms,
            session_timeout_ms: self.session_timeout_ms,
            static_timeout_ms: self.static_timeout_ms,
            drain_timeout_ms: self.drain_timeout_ms,
            max_in_flight_per_key: self.max_in_flight_per_key,
            caps: self.caps.map(wire::caps),
            breaker: self.breaker.as_ref().map(wire::breaker),
            on_gap: OnGap::to_wire(self.on_gap),
            idle_ttl_ms: self.idle_ttl_ms,
            positions: PositionStore::to_wire(self.positions),
            dead_letters: self.dead_letters.as_ref().map(wire::dead_letters),
            bounds: self.bounds.map(wire::bounds),
            version: self.version.clone().unwrap_or_default(),
        }
    }

    pub(crate) fn from_wire(wire: v1::GroupConfig) -> Self {
        use v1::group_config::Subscription as Wire;
        let (mode, on_gap, positions) = (wire.mode(), wire.on_gap(), wire.positions());
        let topic_retry = wire.topic_retry.into_iter().map(|own| {
            let retry = own.retry.map(RetryPolicy::from_wire).unwrap_or_default();
            (own.topic, retry)
        });
        Self {
            mode: GroupMode::from_wire(mode),
            subscription: wire.subscription.map(|subscription| match subscription {
                Wire::Topics(topics) => Subscription::Topics(topics.names),
                Wire::TopicPattern(pattern) => Subscription::Pattern(pattern),
            }),
            filter: wire.filter.map(RecordFilter::from_wire),
            start: wire.start.and_then(GroupPosition::from_wire),
            retry: wire.retry.map(RetryPolicy::from_wire),
            topic_retry: topic_retry.collect(),
            lease_ms: wire.lease_ms,
            max_processing_ms: wire.max_processing_ms,
            session_timeout_ms: wire.session_timeout_ms,
            static_timeout_ms: wire.static_timeout_ms,
            drain_timeout_ms: wire.drain_timeout_ms,
            max_in_flight_per_key: wire.max_in_flight_per_key,
            caps: wire.caps.map(wire::from_caps),
            breaker: wire.breaker.map(wire::from_breaker),
            on_gap: OnGap::from_wire(on_gap),
            idle_ttl_ms: wire.idle_ttl_ms,
            positions: PositionStore::from_wire(positions),
            dead_letters: wire.dead_letters.map(wire::from_dead_letters),
            bounds: wire.bounds.map(wire::from_bounds),
            version: Some(wire.version).filter(|version| !version.is_empty()),
        }
    }

    /// With its positions kept so.
    pub fn positions(mut self, positions: PositionStore) -> Self {
        self.positions = Some(positions);
        self
    }

    /// Names of the fields that are set, as a field mask calls them.
    pub(crate) fn mask(&self) -> Vec<String> {
        let set = [
            ("mode", self.mode.is_some()),
            ("topics", self.subscription.is_some()),
            ("filter", self.filter.is_some()),
            ("start", self.start.is_some()),
            ("retry", self.retry.is_some()),
            ("topic_retry", !self.topic_retry.is_empty()),
            ("lease_ms", self.lease_ms.is_some()),
            ("max_processing_ms", self.max_processing_ms.is_some()),
            ("session_timeout_ms", self.session_timeout_ms.is_some()),
            ("static_timeout_ms", self.static_timeout_ms.is_some()),
            ("drain_timeout_ms", self.drain_timeout_ms.is_some()),
            ("max_in_flight_per_key", self.max_in_flight_per_key.is_some()),
            ("caps", self.caps.is_some()),
            ("breaker", self.breaker.is_some()),
            ("on_gap", self.on_gap.is_some()),
            ("idle_ttl_ms", self.idle_ttl_ms.is_some()),
            ("positions", self.positions.is_some()),
            ("dead_letters", self.dead_letters.is_some()),
            ("bounds", self.bounds.is_some()),
            ("version", self.version.is_some()),
        ];
        set.iter().filter(|(_, set)| *set).map(|(name, _)| format!("config.{name}")).collect()
    }
}

/// The plain ones from and to the wire.
mod wire {
    use super::{BreakerConfig, DeadLetterConfig, GroupBounds, GroupCaps};
    use sawlog_proto::v1;

    pub(super) fn caps(caps: GroupCaps) -> v1::GroupCaps {
        let GroupCaps { max_in_flight, max_bytes_in_flight, rate_limit } = caps;
        v1::GroupCaps { max_in_flight, max_bytes_in_flight, rate_limit }
    }

    pub(super) fn from_caps(caps: v1::GroupCaps) -> GroupCaps {
        let v1::GroupCaps { max_in_flight, max_bytes_in_flight, rate_limit } = caps;
        GroupCaps { max_in_flight, max_bytes_in_flight, rate_limit }
    }

    pub(super) fn breaker(breaker: &BreakerConfig) -> v1::BreakerConfig {
        let BreakerConfig { enabled, failed_keys, failed_percent, window_ms, poison_classes } = breaker.clone();
        v1::BreakerConfig { enabled, failed_keys, failed_percent, window_ms, poison_classes }
    }

    pub(super) fn from_breaker(breaker: v1::BreakerConfig) -> BreakerConfig {
        let v1::BreakerConfig { enabled, failed_keys, failed_percent, window_ms, poison_classes } = breaker;
        BreakerConfig { enabled, failed_keys, failed_percent, window_ms, poison_classes }
    }

    pub(super) fn bounds(bounds: GroupBounds) -> v1::GroupBounds {
        let GroupBounds { held_records, blocked_keys, scan_ahead_bytes, dead_keys } = bounds;
        v1::GroupBounds { held_records, blocked_keys, scan_ahead_bytes, dead_keys }
    }

    pub(super) fn from_bounds(bounds: v1::GroupBounds) -> GroupBounds {
        let v1::GroupBounds { held_records, blocked_keys, scan_ahead_bytes, dead_keys } = bounds;
        GroupBounds { held_records, blocked_keys, scan_ahead_bytes, dead_keys }
    }

    pub(super) fn dead_letters(config: &DeadLetterConfig) -> v1::DeadLetterConfig {
        let DeadLetterConfig { retention_ms, max_bytes, names } = config.clone();
        v1::DeadLetterConfig { retention_ms, max_bytes, names: names.into_iter().collect() }
    }

    pub(super) fn from_dead_letters(config: v1::DeadLetterConfig) -> DeadLetterConfig {
        let v1::DeadLetterConfig { retention_ms, max_bytes, names } = config;
        DeadLetterConfig { retention_ms, max_bytes, names: names.into_iter().collect() }
    }
}

#[cfg(test)]
mod tests;
