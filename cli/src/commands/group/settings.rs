//! What can be chosen for a group on the command line.

use std::collections::BTreeMap;

use clap::Args;
use sawlog_client::groups::{
    AfterDead, Backoff, BreakerConfig, DeadLetterConfig, GroupBounds, GroupCaps, OnExhausted, OnGap, PositionStore,
    Subscription,
};
use sawlog_client::{GroupConfig, GroupMode, GroupPosition, RetryPolicy};

use crate::amounts::{self, Place};
use crate::clock;
use crate::failure::{Failure, Outcome};

/// Which topics.
#[derive(Debug, Args)]
pub(crate) struct GroupTopics {
    /// A topic of the group; may be given again.
    #[arg(long, conflicts_with = "pattern")]
    topic: Vec<String>,
    /// Topics whose names match, now and later: `*` stands for any characters.
    #[arg(long)]
    pattern: Option<String>,
}

impl GroupTopics {
    pub(crate) fn subscription(&self) -> Option<Subscription> {
        match &self.pattern {
            Some(pattern) => Some(Subscription::Pattern(pattern.clone())),
            None => (!self.topic.is_empty()).then(|| Subscription::Topics(self.topic.clone())),
        }
    }
}

/// Where it begins.
#[derive(Debug, Args)]
pub(crate) struct Start {
    /// Where the group begins: earliest, latest, a span such as 2h ago, or a time [default: earliest].
    #[arg(long, value_parser = amounts::place, value_name = "PLACE", conflicts_with = "start_from_group")]
    start: Option<Place>,
    /// Begin where another group is.
    #[arg(long, value_name = "GROUP")]
    start_from_group: Option<String>,
}

impl Start {
    pub(crate) fn position(&self) -> Outcome<Option<GroupPosition>> {
        match (&self.start_from_group, self.start) {
            (Some(group), _) => Ok(Some(GroupPosition::FromGroup(group.clone()))),
            (None, None) => Ok(None),
            (None, Some(place)) => plain(place).map(Some).ok_or_else(|| {
                Failure::usage("a group begins at earliest, latest, a span ago or a time", "see --help of this command")
            }),
        }
    }
}

/// A place that means the same in every partition.
pub(crate) fn plain(place: Place) -> Option<GroupPosition> {
    match place.at(clock::wall_ms()) {
        Place::Earliest => Some(GroupPosition::Earliest),
        Place::Latest => Some(GroupPosition::Latest),
        Place::TimeMs(time) | Place::Ago(time) => Some(GroupPosition::TimestampMs(time)),
        Place::Offset(_) | Place::Last(_) => None,
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum ModeChoice {
    /// Each record is acked; the records of a key are handled in order.
    Keyed,
    /// A partition belongs to one member, which commits offsets.
    Offset,
    /// Each record is acked; no order.
    Unordered,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
pub(crate) enum PositionsChoice {
    /// The broker.
    Broker,
    /// The reader's own database, as a projection does; mode offset.
    Cursor,
}

impl From<PositionsChoice> for PositionStore {
    fn from(choice: PositionsChoice) -> Self {
        match choice {
            PositionsChoice::Broker => Self::Broker,
            PositionsChoice::Cursor => Self::Cursor,
        }
    }
}

impl From<ModeChoice> for GroupMode {
    fn from(choice: ModeChoice) -> Self {
        match choice {
            ModeChoice::Keyed => Self::Keyed,
            ModeChoice::Offset => Self::Offset,
            ModeChoice::Unordered => Self::Unordered,
        }
    }
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum ExhaustedChoice {
    /// To the dead letters.
    DeadLetter,
    /// Skipped, and counted.
    Drop,
    /// It holds its key until skip-head or retry-head.
    Block,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum DeadChoice {
    /// Later records of the key wait behind it.
    Park,
    /// They go on, with a hole.
    Continue,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum GapChoice {
    /// The partition waits for accept-gap.
    Stop,
    /// The gap is told and the partition goes on.
    Continue,
}

/// Settings that can be changed.
#[derive(Debug, Args)]
pub(crate) struct GroupSettings {
    /// Deliveries of a record in all, 1 to 1,000.
    #[arg(long, help_heading = "Retries")]
    max_attempts: Option<u32>,
    /// Delays between tries, such as 1s,5s,30s; the last one repeats.
    #[arg(long, value_parser = delay, value_delimiter = ',', value_name = "SPANS", help_heading = "Retries")]
    backoff: Vec<u64>,
    /// Spread of each delay in per cent either way.
    #[arg(long, value_name = "PER CENT", help_heading = "Retries")]
    jitter: Option<u32>,
    /// A class of errors that skips the remaining tries; may be given again.
    #[arg(long, value_name = "CLASS", help_heading = "Retries")]
    non_retryable: Vec<String>,
    /// What happens to a record after its last try.
    #[arg(long, value_enum, help_heading = "Retries")]
    on_exhausted: Option<ExhaustedChoice>,
    /// What happens to later records of a key that has a dead letter.
    #[arg(long, value_enum, help_heading = "Retries")]
    after_dead: Option<DeadChoice>,
    /// Length of a lease, 1s to 1h.
    #[arg(long, value_parser = delay, value_name = "SPAN", help_heading = "Leases")]
    lease: Option<u64>,
    /// Longest time for which a lease is extended; 0s: without end.
    #[arg(long, value_parser = delay, value_name = "SPAN", help_heading = "Leases")]
    max_processing: Option<u64>,
    /// Most records of a key in work together, 1 to 32.
    #[arg(long, value_name = "RECORDS", help_heading = "Leases")]
    max_in_flight_per_key: Option<u32>,
    /// Without a sign of life for so long a member is lost, 2s to 5m.
    #[arg(long, value_parser = delay, value_name = "SPAN", help_heading = "Members")]
    session_timeout: Option<u64>,
    /// How long the units of a static member wait for it, at most 1d.
    #[arg(long, value_parser = delay, value_name = "SPAN", help_heading = "Members")]
    static_timeout: Option<u64>,
    /// A revoked unit must be let go within this span.
    #[arg(long, value_parser = delay, value_name = "SPAN", help_heading = "Members")]
    drain_timeout: Option<u64>,
    /// Delete the group after this span without a member; 0s: never.
    #[arg(long, value_parser = delay, value_name = "SPAN", help_heading = "Members")]
    idle_ttl: Option<u64>,
    /// Records delivered a second at most; 0: no limit.
    #[arg(long, value_name = "RECORDS", help_heading = "Bounds")]
    rate_limit: Option<u64>,
    /// Records leased at once at most; 0: no limit.
    #[arg(long, value_name = "RECORDS", help_heading = "Bounds")]
    max_in_flight: Option<u64>,
    /// Records read ahead and not settled, per partition.
    #[arg(long, value_name = "RECORDS", help_heading = "Bounds")]
    held_records: Option<u32>,
    /// What happens at records that are gone.
    #[arg(long, value_enum, help_heading = "Bounds")]
    on_gap: Option<GapChoice>,
    /// Switch the circuit breaker on or off.
    #[arg(long, value_name = "BOOL", help_heading = "Bounds")]
    breaker: Option<bool>,
    /// How long open dead letters are kept: a span such as 30d, or `forever`.
    #[arg(long, value_parser = amounts::span_ms_or_forever, value_name = "SPAN", allow_hyphen_values = true,
          help_heading = "Dead letters")]
    dlq_retention: Option<i64>,
    /// Bytes per partition of dead letters at which the group pauses: such as 1GiB, or `unlimited`.
    #[arg(long, value_parser = amounts::size_or_unlimited, value_name = "SIZE", allow_hyphen_values = true,
          help_heading = "Dead letters")]
    dlq_bytes: Option<i64>,
    /// Name of the dead-letter topic of a topic, in place of `{topic}.{group}.dlq`; may be given again.
    #[arg(long, value_parser = amounts::pair, value_name = "TOPIC=NAME", help_heading = "Dead letters")]
    dlq_name: Vec<(String, String)>,
}

fn delay(text: &str) -> Result<u64, String> {
    amounts::span_ms(text).map(i64::unsigned_abs)
}

impl GroupSettings {
    /// The settings that are given.
    pub(crate) fn config(&self) -> GroupConfig {
        let some = |given: bool| given.then_some(());
        let caps = some(self.rate_limit.is_some() || self.max_in_flight.is_some()).map(|()| GroupCaps {
            max_in_flight: self.max_in_flight.unwrap_or_default(),
            max_bytes_in_flight: 0,
            rate_limit: self.rate_limit.unwrap_or_default(),
        });
        let dead_letters = some(self.dlq_retention.is_some() || self.dlq_bytes.is_some() || !self.dlq_name.is_empty())
            .map(|()| {
                let names = self.dlq_name.iter().cloned().collect();
                DeadLetterConfig { retention_ms: self.dlq_retention, max_bytes: self.dlq_bytes, names }
            });
        GroupConfig {
            retry: self.retry(),
            lease_ms: self.lease,
            max_processing_ms: self.max_processing,
            session_timeout_ms: self.session_timeout,
            static_timeout_ms: self.static_timeout,
            drain_timeout_ms: self.drain_timeout,
            max_in_flight_per_key: self.max_in_flight_per_key,
            caps,
            breaker: self.breaker.map(|enabled| BreakerConfig { enabled: Some(enabled), ..BreakerConfig::default() }),
            on_gap: self.on_gap.map(|choice| match choice {
                GapChoice::Stop => OnGap::Stop,
                GapChoice::Continue => OnGap::Continue,
            }),
            idle_ttl_ms: self.idle_ttl,
            dead_letters,
            bounds: self.held_records.map(|held| GroupBounds { held_records: Some(held), ..GroupBounds::default() }),
            ..GroupConfig::default()
        }
    }

    fn retry(&self) -> Option<RetryPolicy> {
        let retry = RetryPolicy {
            max_attempts: self.max_attempts,
            backoff: (!self.backoff.is_empty()).then(|| Backoff::List(self.backoff.clone())),
            jitter_percent: self.jitter,
            non_retryable_classes: self.non_retryable.clone(),
            on_exhausted: self.on_exhausted.map(|choice| match choice {
                ExhaustedChoice::DeadLetter => OnExhausted::DeadLetter,
                ExhaustedChoice::Drop => OnExhausted::Drop,
                ExhaustedChoice::Block => OnExhausted::Block,
            }),
            after_dead: self.after_dead.map(|choice| match choice {
                DeadChoice::Park => AfterDead::Park,
                DeadChoice::Continue => AfterDead::Continue,
            }),
        };
        (retry != RetryPolicy::default()).then_some(retry)
    }
}

/// What people say about a group.
#[derive(Debug, Args)]
pub(crate) struct GroupNotes {
    /// Who answers for it.
    #[arg(long)]
    pub(crate) owner: Option<String>,
    /// What it does.
    #[arg(long)]
    pub(crate) description: Option<String>,
    /// A label; may be given again. In an update all labels are replaced.
    #[arg(long, value_parser = amounts::pair, value_name = "NAME=VALUE")]
    pub(crate) label: Vec<(String, String)>,
}

impl GroupNotes {
    pub(crate) fn labels(&self) -> BTreeMap<String, String> {
        self.label.iter().cloned().collect()
    }
}
