//! How near retention is to what a group has not settled (rule RE-3): by age, by bytes at the present rate; said once at
//! 24 hours and once at one.
//!
//! Invariant: a warning is said once on the way down, and again only after the danger had passed.

use std::collections::HashMap;

use super::Coordinator;
use super::lag::stands;
use crate::model::{GroupId, Offset, Source};
use crate::topics::TopicConfig;

const HOUR_MS: i64 = 3_600_000;
/// Time between two looks, in milliseconds.
const LOOK_MS: u64 = 60_000;
/// A rate is measured over this time at least, in milliseconds.
const MEASURED_MS: u64 = 10_000;

/// Until when retention has come so far, and how long what it keeps lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct TimeToLoss {
    /// Milliseconds until retention reaches the floor.
    pub(super) left_ms: i64,
    /// Milliseconds from an append to its loss: where records live only for a day, 24 hours are nothing to speak of.
    pub(super) span_ms: i64,
}

/// How urgent it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub(super) enum Urgency {
    #[default]
    None,
    /// Within 24 hours, or half of the span.
    Day,
    /// Within one hour, or an eighth of the span.
    Hour,
}

/// What is known about rates and what was said.
#[derive(Debug, Default)]
pub(super) struct Losses {
    looked_ms: Option<u64>,
    rates: HashMap<Source, Rate>,
    said: HashMap<(GroupId, Source), Urgency>,
}

/// How fast a partition grows.
#[derive(Debug, Clone, Copy, Default)]
struct Rate {
    at_ms: u64,
    end: Offset,
    bytes_per_s: f64,
}

impl TimeToLoss {
    /// The nearer of two.
    fn nearer(self, other: Option<Self>) -> Self {
        other.filter(|other| other.left_ms < self.left_ms).unwrap_or(self)
    }

    pub(super) fn urgency(self) -> Urgency {
        if self.left_ms <= HOUR_MS.min(self.span_ms / 8) {
            Urgency::Hour
        } else if self.left_ms <= (24 * HOUR_MS).min(self.span_ms / 2) {
            Urgency::Day
        } else {
            Urgency::None
        }
    }
}

impl Losses {
    /// Whether it is time for another look; then it counts as done.
    fn is_due(&mut self, now_ms: u64) -> bool {
        let due = self.looked_ms.is_none_or(|looked| now_ms.saturating_sub(looked) >= LOOK_MS);
        if due {
            self.looked_ms = Some(now_ms);
        }
        due
    }

    /// Bytes a second at which a partition grows; `since` tells the bytes from an offset on.
    fn rate(&mut self, source: Source, end: Offset, now_ms: u64, since: impl Fn(Offset) -> u64) -> f64 {
        let fresh = Rate { at_ms: now_ms, end, bytes_per_s: 0.0 };
        let known = self.rates.entry(source).or_insert(fresh);
        let passed_ms = now_ms.saturating_sub(known.at_ms);
        if passed_ms >= MEASURED_MS {
            let now = since(known.end) as f64 * 1_000.0 / passed_ms as f64;
            // Half of what was: a burst counts, and is forgotten within minutes.
            let smooth = if known.bytes_per_s == 0.0 { now } else { (known.bytes_per_s + now) / 2.0 };
            *known = Rate { at_ms: now_ms, end: end.max(known.end), bytes_per_s: smooth };
        }
        known.bytes_per_s
    }

    /// Notes how urgent it is; what is to be said, if anything.
    fn note(&mut self, at: (GroupId, Source), urgency: Urgency) -> Option<Urgency> {
        let said = self.said.entry(at).or_default();
        let before = std::mem::replace(said, urgency);
        if urgency == Urgency::None {
            self.said.remove(&at);
        }
        (urgency > before).then_some(urgency)
    }

    /// Forgets groups and partitions that are gone.
    fn retain(&mut self, seen: &HashMap<(GroupId, Source), ()>) {
        self.said.retain(|at, _| seen.contains_key(at));
        self.rates.retain(|source, _| seen.keys().any(|(_, known)| known == source));
    }
}

/// The nearer end of what retention keeps for a group: by age, and by bytes at this rate.
pub(super) fn time_to_loss(
    config: &TopicConfig,
    group: &str,
    age_ms: Option<i64>,
    bytes_behind: u64,
    bytes_per_s: f64,
) -> Option<TimeToLoss> {
    let held = config.holds.groups.iter().any(|name| name == group);
    let more_ms = if held { config.holds.max_ms.unwrap_or(crate::limits::MAX_HOLD_MS) } else { 0 };
    let more_bytes = if held { config.holds.max_bytes.unwrap_or(0) } else { 0 };
    let by_age = config.retention_ms.zip(age_ms).map(|(kept_ms, age_ms)| {
        let span_ms = i64::try_from(kept_ms.saturating_add(more_ms)).unwrap_or(i64::MAX);
        TimeToLoss { left_ms: span_ms.saturating_sub(age_ms).max(0), span_ms }
    });
    let by_bytes = config.retention_bytes.filter(|_| bytes_per_s > 0.0).map(|kept| {
        let kept = kept.saturating_add(more_bytes);
        let ms = |bytes: u64| (bytes as f64 / bytes_per_s * 1_000.0) as i64;
        TimeToLoss { left_ms: ms(kept.saturating_sub(bytes_behind)), span_ms: ms(kept) }
    });
    by_age.map(|by_age| by_age.nearer(by_bytes)).or(by_bytes)
}

impl Coordinator {
    /// How fast a partition grows at present, in bytes a second; 0 until it has been looked at twice.
    pub(super) fn growth(&self, source: Source, end: Offset) -> f64 {
        let Some(topic) = self.topics.by_uuid(source.topic) else { return 0.0 };
        let now_ms = self.shared.now().monotonic_ms;
        self.losses.lock().rate(source, end, now_ms, |from| topic.bytes_from(source.partition, from))
    }

    /// Looks, once a minute at most, how near retention is to what groups have not settled, and says so (rule RE-3).
    /// Also for tests, which turn the clock themselves.
    pub async fn look_for_losses(&self) {
        if self.shared.check().is_err() || !self.losses.lock().is_due(self.shared.now().monotonic_ms) {
            return;
        }
        let mut seen = HashMap::new();
        for group in self.all_groups() {
            for stand in stands(&group) {
                let at = (group.id(), stand.source);
                seen.insert(at, ());
                let (lag, loss) = self.partition_lag(group.name().as_str(), stand).await;
                let urgency = loss.map_or(Urgency::None, TimeToLoss::urgency);
                let Some(urgency) = self.losses.lock().note(at, urgency) else { continue };
                let within = if urgency == Urgency::Hour { "1h" } else { "24h" };
                let left_s = loss.map_or(0, |loss| loss.left_ms / 1_000);
                let (topic, partition, floor) = (lag.topic.as_str(), lag.partition.0, lag.floor.get());
                tracing::warn!(
                    group = %group.name(), topic, partition, floor, left_s, within,
                    "retention comes near what a group has not settled"
                );
                self.shared.metrics.group(group.name().as_str()).loss_warnings.inc();
            }
        }
        self.losses.lock().retain(&seen);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{AckLevel, PartitionId, TopicUuid};
    use crate::topics::{EventSettings, GroupHolds, Validation};

    const SOURCE: Source = Source { topic: TopicUuid([1; 16]), partition: PartitionId(0) };

    fn config(retention_ms: Option<u64>, retention_bytes: Option<u64>) -> TopicConfig {
        TopicConfig {
            partitions: 1,
            keyed: true,
            ack_floor: AckLevel::Durable,
            validation: Validation::Full,
            retention_ms,
            retention_bytes,
            segment_bytes: 1 << 20,
            segment_ms: 1,
            max_record_bytes: 1 << 20,
            flush_interval_ms: 1_000,
            holds: GroupHolds::default(),
            events: EventSettings::default(),
        }
    }

    fn hours(left: i64, span: i64) -> TimeToLoss {
        TimeToLoss { left_ms: left * HOUR_MS, span_ms: span * HOUR_MS }
    }

    #[test]
    fn re_3_a_warning_is_said_once_at_24_hours_and_once_at_one() {
        let mut losses = Losses::default();
        let at = (GroupId(1), SOURCE);
        let said = [100, 24, 23, 2, 1, 0, 30, 24].map(|left| losses.note(at, hours(left, 168).urgency()));
        let (day, hour) = (Some(Urgency::Day), Some(Urgency::Hour));
        assert_eq!(said, [None, day, None, None, hour, None, None, day]);
    }

    #[test]
    fn re_3_where_records_live_for_an_hour_a_group_that_keeps_up_is_not_warned() {
        let fresh = TimeToLoss { left_ms: HOUR_MS - 5_000, span_ms: HOUR_MS };
        assert_eq!(fresh.urgency(), Urgency::None);
        assert_eq!(TimeToLoss { left_ms: HOUR_MS / 2, ..fresh }.urgency(), Urgency::Day);
        assert_eq!(TimeToLoss { left_ms: HOUR_MS / 8, ..fresh }.urgency(), Urgency::Hour);
    }

    #[test]
    fn re_3_the_nearer_of_age_and_bytes_counts_and_a_hold_puts_both_off() {
        let day = 24 * HOUR_MS;
        let both = config(Some(day as u64), Some(1_000_000));
        // 100 bytes a second: 900,000 bytes left last 9,000 s.
        let loss = time_to_loss(&both, "g", Some(HOUR_MS), 100_000, 100.0);
        assert_eq!(loss, Some(TimeToLoss { left_ms: 9_000_000, span_ms: 10_000_000 }));
        let slow = time_to_loss(&both, "g", Some(HOUR_MS), 100_000, 1.0);
        assert_eq!(slow, Some(hours(23, 24)));
        assert_eq!(time_to_loss(&both, "g", Some(2 * day), 2_000_000, 0.0), Some(hours(0, 24)));
        assert_eq!(time_to_loss(&config(None, None), "g", Some(day), 5, 100.0), None);
        let holds = GroupHolds { groups: vec!["g".into()], max_ms: Some(day as u64), max_bytes: Some(1_000_000) };
        let held = TopicConfig { holds, ..both };
        assert_eq!(time_to_loss(&held, "g", Some(HOUR_MS), 100_000, 1.0), Some(hours(47, 48)));
        assert_eq!(time_to_loss(&held, "other", Some(HOUR_MS), 100_000, 1.0), Some(hours(23, 24)));
    }

    #[test]
    fn re_3_the_rate_follows_what_is_appended() {
        let mut losses = Losses::default();
        let end = |offset| Offset::new(offset).expect("small");
        // Each record has 10 bytes.
        let mut look = |now_ms, at: u64| losses.rate(SOURCE, end(at), now_ms, |from| (at - from.get()) * 10);
        assert_eq!(look(0, 0), 0.0);
        assert_eq!(look(5_000, 500), 0.0, "too short a time");
        assert_eq!(look(10_000, 1_000), 1_000.0);
        assert_eq!(look(20_000, 1_000), 500.0, "nothing came: half of it is forgotten");
    }
}
