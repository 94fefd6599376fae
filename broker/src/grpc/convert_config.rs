//! Settings of groups, from the wire and to it. What a type cannot hold is refused here, bounds by the settings'
//! own check, what needs knowledge of topics by the coordinator.

use std::collections::BTreeMap;

use sawlog_proto::v1;

use super::convert;
use super::convert_groups::{mode_of, mode_to_wire, source_topic, version_name};
use super::status::{self, Problem};
use crate::coordinator::types::{
    AfterDead, Backoff, BreakerPolicy, ConfigError, GroupConfig, GroupTopic, Mode, OnExhausted, OnGap, Positions,
    RetryPolicy, SourceName, StartAt,
};
use crate::limits;
use crate::model::topic::DEAD_LETTER_SUFFIX;
use crate::model::{Filter, PartitionEpoch, VersionName};

/// Header conditions of a filter.
const CONDITIONS: usize = 64;
/// Bytes of a pattern: the longest name of a topic, a dead-letter topic's.
const PATTERN_BYTES: usize = 249;

/// Policies of topics, by name.
pub(super) type TopicRetry = BTreeMap<String, RetryPolicy>;

/// Settings with those parts that name topics by their names.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Settings {
    pub(super) config: GroupConfig,
    pub(super) topic_retry: TopicRetry,
}

impl From<ConfigError> for Problem {
    fn from(error: ConfigError) -> Self {
        status::invalid_field(error.field, error.found, &error.bounds)
    }
}

/// The settings of a new group.
pub(super) fn new_settings(given: &v1::GroupConfig) -> Result<Settings, Problem> {
    let mode = mode(given.mode)?.unwrap_or(Mode::Keyed);
    let Some(subscription) = subscription(given)? else {
        return Err(status::invalid_field("config.topics", "nothing", "names of topics, or a pattern"));
    };
    let base = Settings { config: GroupConfig::new(mode, subscription), topic_retry: BTreeMap::new() };
    checked(merged(base, given)?)
}

fn checked(settings: Settings) -> Result<Settings, Problem> {
    settings.config.check()?;
    settings.topic_retry.values().try_for_each(RetryPolicy::check)?;
    Ok(settings)
}

fn mode(mode: i32) -> Result<Option<Mode>, Problem> {
    let known = v1::GroupMode::try_from(mode);
    known.map(mode_of).map_err(|_| status::invalid_field("config.mode", mode, "0 to 3"))
}

fn subscription(given: &v1::GroupConfig) -> Result<Option<Vec<String>>, Problem> {
    use v1::group_config::Subscription;
    match &given.subscription {
        None => Ok(None),
        Some(Subscription::Topics(topics)) => {
            if topics.names.is_empty() || topics.names.len() > limits::TOPICS_PER_GROUP {
                return Err(status::invalid_field("config.topics", topics.names.len(), "1 to 100 names"));
            }
            let names: Result<Vec<_>, Problem> =
                topics.names.iter().map(|name| Ok(source_topic("config.topics", name)?.to_string())).collect();
            let mut names = names?;
            names.sort_unstable();
            names.dedup();
            Ok(Some(names))
        }
        Some(Subscription::TopicPattern(pattern)) => {
            let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'*');
            if pattern.len() > PATTERN_BYTES || !pattern.contains('*') || !pattern.bytes().all(sound) {
                let bounds = "at most 249 bytes of a name, with * for any characters";
                return Err(status::invalid_field("config.topic_pattern", pattern, bounds));
            }
            Ok(Some(vec![pattern.clone()]))
        }
    }
}

pub(super) fn filter(given: &v1::ReadFilter) -> Result<Filter, Problem> {
    let keys = [&given.key, &given.key_prefix].into_iter().flatten();
    if let Some(key) = keys.into_iter().find(|key| key.len() > limits::KEY_BYTES) {
        return Err(status::invalid_field("config.filter.key", key.len(), "at most 1024 bytes"));
    }
    if given.headers.len() > CONDITIONS {
        return Err(status::invalid_field("config.filter.headers", given.headers.len(), "at most 64"));
    }
    let filter = convert::filter(given.clone());
    let bytes: usize = given.headers.iter().map(prost::Message::encoded_len).sum();
    if bytes > limits::HEADERS_BYTES {
        return Err(status::invalid_field("config.filter.headers", bytes, "at most 65536 bytes"));
    }
    Ok(filter)
}

/// `base` with everything that `given` has.
fn merged(base: Settings, given: &v1::GroupConfig) -> Result<Settings, Problem> {
    let Settings { mut config, mut topic_retry } = base;
    if let Some(subscription) = subscription(given)? {
        config.subscription = subscription;
    }
    if let Some(given) = &given.filter {
        config.filter = filter(given)?;
    }
    if let Some(retry) = &given.retry {
        config.retry = retry_of("config.retry", config.mode, retry)?;
    } else if config.mode == Mode::Unordered {
        config.retry.after_dead = AfterDead::Continue;
    }
    if !given.topic_retry.is_empty() {
        topic_retry.clear();
        for one in &given.topic_retry {
            let name = source_topic("config.topic_retry.topic", &one.topic)?.to_string();
            let policy = one.retry.clone().unwrap_or_default();
            topic_retry.insert(name, retry_of("config.topic_retry", config.mode, &policy)?);
        }
        if topic_retry.len() > limits::TOPICS_PER_GROUP {
            return Err(status::invalid_field("config.topic_retry", topic_retry.len(), "at most 100"));
        }
    }
    take(&mut config.lease_ms, given.lease_ms);
    take(&mut config.max_processing_ms, given.max_processing_ms);
    take(&mut config.session_timeout_ms, given.session_timeout_ms);
    take(&mut config.static_timeout_ms, given.static_timeout_ms);
    take(&mut config.drain_timeout_ms, given.drain_timeout_ms);
    take(&mut config.max_in_flight_per_key, given.max_in_flight_per_key);
    take(&mut config.idle_ttl_ms, given.idle_ttl_ms);
    if let Some(caps) = &given.caps {
        config.max_in_flight = caps.max_in_flight;
        config.max_bytes_in_flight = caps.max_bytes_in_flight;
        config.rate_limit = caps.rate_limit;
    }
    if let Some(breaker) = &given.breaker {
        config.breaker = breaker_of(breaker);
    }
    match v1::OnGap::try_from(given.on_gap) {
        Ok(v1::OnGap::Unspecified) => {}
        Ok(v1::OnGap::Stop) => config.on_gap = OnGap::Stop,
        Ok(v1::OnGap::Continue) => config.on_gap = OnGap::Continue,
        Err(_) => return Err(status::invalid_field("config.on_gap", given.on_gap, "0, 1 (stop) or 2 (continue)")),
    }
    match v1::PositionStore::try_from(given.positions) {
        Ok(v1::PositionStore::Unspecified | v1::PositionStore::Broker) => {}
        Ok(v1::PositionStore::Cursor) => {
            let on_gap = config.on_gap;
            config = config.positions(Positions::Cursor);
            if given.on_gap != 0 {
                config.on_gap = on_gap;
            }
        }
        Err(_) => {
            return Err(status::invalid_field("config.positions", given.positions, "0, 1 (broker) or 2 (cursor)"));
        }
    }
    config.version = version(given)?.or(config.version);
    if let Some(letters) = &given.dead_letters {
        dead_letters(&mut config, letters)?;
    }
    if let Some(bounds) = &given.bounds {
        take(&mut config.max_held, bounds.held_records);
        take(&mut config.max_lanes_blocked, bounds.blocked_keys);
        take(&mut config.max_scan_ahead_bytes, bounds.scan_ahead_bytes);
        take(&mut config.max_dead_lanes, bounds.dead_keys);
    }
    Ok(Settings { config, topic_retry })
}

fn version(given: &v1::GroupConfig) -> Result<Option<VersionName>, Problem> {
    let given = Some(&given.version).filter(|version| !version.is_empty());
    given.map(|version| version_name("config.version", version)).transpose()
}

fn take<T>(to: &mut T, given: Option<T>) {
    if let Some(given) = given {
        *to = given;
    }
}

fn dead_letters(config: &mut GroupConfig, given: &v1::DeadLetterConfig) -> Result<(), Problem> {
    match given.retention_ms {
        None => {}
        Some(-1) => config.dlq_retention_ms = limits::DURATION_MS_MAX as i64,
        Some(retention) => config.dlq_retention_ms = retention,
    }
    match given.max_bytes {
        None => {}
        Some(-1) => config.dlq_max_bytes = 0,
        Some(bytes) => {
            let bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes > 0);
            config.dlq_max_bytes = bytes.ok_or_else(|| {
                status::invalid_field("config.dead_letters.max_bytes", given.max_bytes(), "-1, or above 0")
            })?;
        }
    }
    if given.names.len() > limits::TOPICS_PER_GROUP {
        return Err(status::invalid_field("config.dead_letters.names", given.names.len(), "at most 100"));
    }
    config.dlq_names.clear();
    for (topic, name) in &given.names {
        let topic = source_topic("config.dead_letters.names", topic)?.to_string();
        if !name.ends_with(DEAD_LETTER_SUFFIX) {
            return Err(status::invalid_field("config.dead_letters.names", name, "a name that ends with .dlq"));
        }
        config.dlq_names.insert(topic, source_topic("config.dead_letters.names", name)?.to_string());
    }
    Ok(())
}

/// A policy: the defaults, with everything that is given.
fn retry_of(field: &'static str, mode: Mode, given: &v1::RetryPolicy) -> Result<RetryPolicy, Problem> {
    use v1::retry_policy::Backoff as Wire;
    let mut policy = RetryPolicy::default();
    take(&mut policy.max_attempts, given.max_attempts);
    take(&mut policy.jitter_percent, given.jitter_percent);
    match &given.backoff {
        None => {}
        Some(Wire::List(list)) => policy.backoff = Backoff::List { delays_ms: list.delays_ms.clone() },
        Some(Wire::Exponential(growth)) => {
            let v1::BackoffExponential { base_ms, factor_permille, max_ms } = *growth;
            policy.backoff = Backoff::Exponential { base_ms, factor_permille, max_ms };
        }
    }
    policy.non_retryable = given.non_retryable_classes.clone();
    policy.on_exhausted = match v1::OnExhausted::try_from(given.on_exhausted) {
        Ok(v1::OnExhausted::Unspecified | v1::OnExhausted::DeadLetter) => OnExhausted::DeadLetter,
        Ok(v1::OnExhausted::Drop) => OnExhausted::Drop,
        Ok(v1::OnExhausted::Block) => OnExhausted::Block,
        Err(_) => return Err(status::invalid_field(field, given.on_exhausted, "on_exhausted of 0 to 3")),
    };
    policy.after_dead = match (v1::AfterDead::try_from(given.after_dead), mode) {
        (Ok(v1::AfterDead::Unspecified | v1::AfterDead::Continue), Mode::Unordered)
        | (Ok(v1::AfterDead::Continue), _) => AfterDead::Continue,
        (Ok(v1::AfterDead::Unspecified | v1::AfterDead::Park), Mode::Keyed | Mode::Offset) => AfterDead::Park,
        _ => {
            return Err(status::invalid_field(field, given.after_dead, "after_dead of 0 to 2; not PARK without order"));
        }
    };
    Ok(policy)
}

fn breaker_of(given: &v1::BreakerConfig) -> BreakerPolicy {
    let mut policy = BreakerPolicy { poison_classes: given.poison_classes.clone(), ..BreakerPolicy::default() };
    take(&mut policy.enabled, given.enabled);
    take(&mut policy.min_failed_keys, given.failed_keys);
    take(&mut policy.percent, given.failed_percent);
    take(&mut policy.window_ms, given.window_ms);
    policy
}

/// Settings after a change of the fields that `paths` names, others than those of the group itself; a field that is
/// named and not given takes its default. The flag says whether policies of topics are among them.
pub(super) fn masked(
    config: &GroupConfig,
    given: &v1::GroupConfig,
    paths: &[String],
) -> Result<Option<(GroupConfig, Option<TopicRetry>)>, Problem> {
    let defaults = GroupConfig::new(config.mode, config.subscription.clone()).positions(config.positions);
    let (mut base, mut chosen, mut topic_retry, mut any) = (config.clone(), v1::GroupConfig::default(), false, false);
    for path in paths {
        any |= path.starts_with("config");
        match path.as_str() {
            "owner" | "description" | "labels" => {}
            "config.topics" | "config.topic_pattern" => chosen.subscription = given.subscription.clone(),
            "config.filter" => (base.filter, chosen.filter) = (Filter::default(), given.filter.clone()),
            "config.retry" => (base.retry, chosen.retry) = (defaults.retry.clone(), given.retry.clone()),
            "config.topic_retry" => (topic_retry, chosen.topic_retry) = (true, given.topic_retry.clone()),
            "config.lease_ms" => (base.lease_ms, chosen.lease_ms) = (defaults.lease_ms, given.lease_ms),
            "config.max_processing_ms" => {
                (base.max_processing_ms, chosen.max_processing_ms) =
                    (defaults.max_processing_ms, given.max_processing_ms);
            }
            "config.session_timeout_ms" => {
                (base.session_timeout_ms, chosen.session_timeout_ms) =
                    (defaults.session_timeout_ms, given.session_timeout_ms);
            }
            "config.static_timeout_ms" => {
                (base.static_timeout_ms, chosen.static_timeout_ms) =
                    (defaults.static_timeout_ms, given.static_timeout_ms);
            }
            "config.drain_timeout_ms" => {
                (base.drain_timeout_ms, chosen.drain_timeout_ms) = (defaults.drain_timeout_ms, given.drain_timeout_ms);
            }
            "config.max_in_flight_per_key" => {
                (base.max_in_flight_per_key, chosen.max_in_flight_per_key) =
                    (defaults.max_in_flight_per_key, given.max_in_flight_per_key);
            }
            "config.caps" => chosen.caps = Some(given.caps.unwrap_or_default()),
            "config.breaker" => chosen.breaker = Some(given.breaker.clone().unwrap_or_default()),
            "config.on_gap" => (base.on_gap, chosen.on_gap) = (defaults.on_gap, given.on_gap),
            "config.idle_ttl_ms" => (base.idle_ttl_ms, chosen.idle_ttl_ms) = (defaults.idle_ttl_ms, given.idle_ttl_ms),
            "config.dead_letters" => {
                (base.dlq_retention_ms, base.dlq_max_bytes) = (defaults.dlq_retention_ms, defaults.dlq_max_bytes);
                chosen.dead_letters = Some(given.dead_letters.clone().unwrap_or_default());
            }
            "config.bounds" => {
                (base.max_held, base.max_lanes_blocked) = (defaults.max_held, defaults.max_lanes_blocked);
                (base.max_scan_ahead_bytes, base.max_dead_lanes) =
                    (defaults.max_scan_ahead_bytes, defaults.max_dead_lanes);
                chosen.bounds = given.bounds;
            }
            "config.mode" | "config.positions" | "config.start" | "config.version" => {
                return Err(status::invalid_field("update_mask", path, "fields that are not fixed at creation"));
            }
            _ => return Err(status::invalid_field("update_mask", path, "fields of a group")),
        }
    }
    if !any {
        return Ok(None);
    }
    let settings = checked(merged(Settings { config: base, topic_retry: BTreeMap::new() }, &chosen)?)?;
    Ok(Some((settings.config, topic_retry.then_some(settings.topic_retry))))
}

/// A place in every partition, with the epochs that were given with offsets.
pub(super) fn position(
    field: &'static str,
    given: Option<&v1::GroupPosition>,
) -> Result<(StartAt, Vec<(SourceName, PartitionEpoch)>), Problem> {
    use v1::group_position::At;
    let mut epochs = Vec::new();
    let start = match given.and_then(|given| given.at.as_ref()) {
        None | Some(At::Earliest(_)) => StartAt::Earliest,
        Some(At::Latest(_)) => StartAt::Latest,
        Some(At::TimestampMs(time)) => StartAt::Timestamp(*time),
        Some(At::FromGroup(group)) => StartAt::FromGroup(super::convert_groups::group_name(field, group)?.to_string()),
        Some(At::Offsets(given)) => {
            let mut offsets = Vec::with_capacity(given.offsets.len());
            for one in &given.offsets {
                let name = SourceName { topic: source_topic(field, &one.topic)?.to_string(), partition: one.partition };
                if let Some(epoch) = one.epoch {
                    epochs.push((name.clone(), convert::epoch(field, epoch)?));
                }
                offsets.push((name, convert::offset(field, one.offset)?));
            }
            if offsets.is_empty() {
                return Err(status::invalid_field(field, "no offsets", "at least one"));
            }
            StartAt::Offsets(offsets)
        }
    };
    Ok((start, epochs))
}

/// Every setting; `topics` gives the names that policies of topics hang on.
pub(super) fn to_wire(config: &GroupConfig, topics: &[GroupTopic]) -> v1::GroupConfig {
    use v1::group_config::Subscription;
    let pattern = config.subscription.first().filter(|name| name.contains('*'));
    let subscription = match pattern {
        Some(pattern) => Subscription::TopicPattern(pattern.clone()),
        None => Subscription::Topics(v1::TopicNames { names: config.subscription.clone() }),
    };
    let name_of = |topic| topics.iter().find(|known| known.topic == topic).map(|known| known.name.clone());
    let topic_retry = config.topic_retry.iter().filter_map(|(topic, policy)| {
        Some(v1::TopicRetryPolicy { topic: name_of(*topic)?, retry: Some(retry_to_wire(policy)) })
    });
    v1::GroupConfig {
        mode: mode_to_wire(config.mode).into(),
        subscription: Some(subscription),
        filter: (!config.filter.is_empty()).then(|| convert::filter_to_wire(&config.filter)),
        start: None,
        retry: Some(retry_to_wire(&config.retry)),
        topic_retry: topic_retry.collect(),
        lease_ms: Some(config.lease_ms),
        max_processing_ms: Some(config.max_processing_ms),
        session_timeout_ms: Some(config.session_timeout_ms),
        static_timeout_ms: Some(config.static_timeout_ms),
        drain_timeout_ms: Some(config.drain_timeout_ms),
        max_in_flight_per_key: Some(config.max_in_flight_per_key),
        caps: Some(v1::GroupCaps {
            max_in_flight: config.max_in_flight,
            max_bytes_in_flight: config.max_bytes_in_flight,
            rate_limit: config.rate_limit,
        }),
        breaker: Some(v1::BreakerConfig {
            enabled: Some(config.breaker.enabled),
            failed_keys: Some(config.breaker.min_failed_keys),
            failed_percent: Some(config.breaker.percent),
            window_ms: Some(config.breaker.window_ms),
            poison_classes: config.breaker.poison_classes.clone(),
        }),
        on_gap: match config.on_gap {
            OnGap::Stop => v1::OnGap::Stop.into(),
            OnGap::Continue => v1::OnGap::Continue.into(),
        },
        idle_ttl_ms: Some(config.idle_ttl_ms),
        version: config.version.as_ref().map(ToString::to_string).unwrap_or_default(),
        positions: match config.positions {
            Positions::Broker => v1::PositionStore::Broker.into(),
            Positions::Cursor => v1::PositionStore::Cursor.into(),
        },
        dead_letters: Some(v1::DeadLetterConfig {
            retention_ms: Some(match config.dlq_retention_ms {
                forever if forever >= limits::DURATION_MS_MAX as i64 => -1,
                retention => retention,
            }),
            max_bytes: Some(match config.dlq_max_bytes {
                0 => -1,
                bytes => i64::try_from(bytes).unwrap_or(i64::MAX),
            }),
            names: config.dlq_names.clone().into_iter().collect(),
        }),
        bounds: Some(v1::GroupBounds {
            held_records: Some(config.max_held),
            blocked_keys: Some(config.max_lanes_blocked),
            scan_ahead_bytes: Some(config.max_scan_ahead_bytes),
            dead_keys: Some(config.max_dead_lanes),
        }),
    }
}

fn retry_to_wire(policy: &RetryPolicy) -> v1::RetryPolicy {
    use v1::retry_policy::Backoff as Wire;
    v1::RetryPolicy {
        max_attempts: Some(policy.max_attempts),
        backoff: Some(match &policy.backoff {
            Backoff::List { delays_ms } => Wire::List(v1::BackoffList { delays_ms: delays_ms.clone() }),
            Backoff::Exponential { base_ms, factor_permille, max_ms } => Wire::Exponential(v1::BackoffExponential {
                base_ms: *base_ms,
                factor_permille: *factor_permille,
                max_ms: *max_ms,
            }),
        }),
        jitter_percent: Some(policy.jitter_percent),
        non_retryable_classes: policy.non_retryable.clone(),
        on_exhausted: match policy.on_exhausted {
            OnExhausted::DeadLetter => v1::OnExhausted::DeadLetter.into(),
            OnExhausted::Drop => v1::OnExhausted::Drop.into(),
            OnExhausted::Block => v1::OnExhausted::Block.into(),
        },
        after_dead: match policy.after_dead {
            AfterDead::Park => v1::AfterDead::Park.into(),
            AfterDead::Continue => v1::AfterDead::Continue.into(),
        },
    }
}

#[cfg(test)]
#[path = "convert_config_tests.rs"]
mod tests;
