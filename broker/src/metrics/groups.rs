//! Metrics of consumer groups (rules OB-1 to OB-3): counters where things happen, everything that can be asked for at
//! scrape time in [`GroupSamples`], taken just before.

use std::fmt::{self, Write as _};
use std::sync::Arc;

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    group: String,
}

/// The counters of one group; cheap to clone.
#[derive(Debug, Clone)]
pub struct GroupMetrics {
    /// Records delivered for the first time.
    pub delivered_records: Counter,
    /// Records settled.
    pub settled_records: Counter,
    /// Deliveries that failed.
    pub failed_tries: Counter,
    /// Records that went to the dead letters, failed or parked.
    pub dead_letters: Counter,
    /// Records that were spilled to the dead letters (rule KO-7).
    pub spilled_records: Counter,
    /// Lanes that are live again.
    pub lanes_revived: Counter,
    /// Units that changed hands.
    pub moved_units: Counter,
    /// Members lost.
    pub lost_members: Counter,
    /// Offsets that will not come (rule RE-4).
    pub gap_offsets: Counter,
    /// Times that the breaker opened.
    pub breaker_openings: Counter,
    /// Redriven entries that failed again.
    pub redrive_failures: Counter,
    /// Times that a bound of AK-7 was at 80 %.
    pub bounds_near: Counter,
    /// Warnings that retention comes near what is not settled (rule RE-3).
    pub loss_warnings: Counter,
    /// Seconds from append to first delivery.
    pub append_to_delivery: Histogram,
    /// Seconds from append to settle.
    pub append_to_settle: Histogram,
    /// Seconds from delivery to acknowledgement.
    pub handler: Histogram,
}

/// The counters of all groups.
#[derive(Debug, Clone)]
pub(super) struct GroupFamilies {
    counters: [(&'static str, &'static str, Family<GroupLabels, Counter>); 13],
    append_to_delivery: Family<GroupLabels, Histogram>,
    append_to_settle: Family<GroupLabels, Histogram>,
    handler: Family<GroupLabels, Histogram>,
}

/// 100 us to about an hour.
fn delays() -> Histogram {
    Histogram::new(exponential_buckets(1e-4, 2.0, 26))
}

impl Default for GroupFamilies {
    fn default() -> Self {
        let counter = |name, help| (name, help, Family::default());
        Self {
            counters: [
                counter("group_delivered_records", "Records delivered for the first time"),
                counter("group_settled_records", "Records settled"),
                counter("group_failed_tries", "Deliveries that failed"),
                counter("group_dead_letters", "Records that went to the dead letters"),
                counter("group_spilled_records", "Records spilled to the dead letters"),
                counter("group_lanes_revived", "Keys that are live again"),
                counter("group_moved_units", "Units that changed hands"),
                counter("group_lost_members", "Members lost"),
                counter("group_gap_offsets", "Offsets that will not come"),
                counter("group_breaker_openings", "Times that the breaker opened"),
                counter("group_redrive_failures", "Redriven dead letters that failed again"),
                counter("group_bounds_near", "Times that a bound was at 80 %"),
                counter("group_loss_warnings", "Times that retention came near what is not settled"),
            ],
            append_to_delivery: Family::new_with_constructor(delays),
            append_to_settle: Family::new_with_constructor(delays),
            handler: Family::new_with_constructor(delays),
        }
    }
}

impl GroupFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        for (name, help, family) in &self.counters {
            r.register(*name, *help, family.clone());
        }
        let delivery = self.append_to_delivery.clone();
        r.register_with_unit("group_append_to_delivery", "From append to first delivery", Unit::Seconds, delivery);
        let settle = self.append_to_settle.clone();
        r.register_with_unit("group_append_to_settle", "From append to settle", Unit::Seconds, settle);
        let help = "From delivery to acknowledgement, what the member has waiting before it included";
        r.register_with_unit("group_handler", help, Unit::Seconds, self.handler.clone());
    }

    pub(super) fn of(&self, group: &str) -> GroupMetrics {
        let labels = GroupLabels { group: group.to_owned() };
        let [
            delivered_records,
            settled_records,
            failed_tries,
            dead_letters,
            spilled_records,
            lanes_revived,
            moved_units,
            lost_members,
            gap_offsets,
            breaker_openings,
            redrive_failures,
            bounds_near,
            loss_warnings,
        ] = self.counters.each_ref().map(|(_, _, family)| family.get_or_create_owned(&labels));
        GroupMetrics {
            delivered_records,
            settled_records,
            failed_tries,
            dead_letters,
            spilled_records,
            lanes_revived,
            moved_units,
            lost_members,
            gap_offsets,
            breaker_openings,
            redrive_failures,
            bounds_near,
            loss_warnings,
            append_to_delivery: self.append_to_delivery.get_or_create_owned(&labels),
            append_to_settle: self.append_to_settle.get_or_create_owned(&labels),
            handler: self.handler.get_or_create_owned(&labels),
        }
    }

    pub(super) fn forget(&self, group: &str) {
        let labels = GroupLabels { group: group.to_owned() };
        for (_, _, family) in &self.counters {
            family.remove(&labels);
        }
        self.append_to_delivery.remove(&labels);
        self.append_to_settle.remove(&labels);
        self.handler.remove(&labels);
    }
}

/// A group in one partition, or summed up over the partitions of a topic.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupSample {
    /// Name of the group.
    pub group: String,
    /// Name of the topic.
    pub topic: String,
    /// Partition.
    pub partition: u32,
    /// Lowest unsettled offset.
    pub floor: u64,
    /// First offset kept.
    pub log_start: u64,
    /// First offset that readers do not see.
    pub high_watermark: u64,
    /// Records below the high watermark and not settled (rule OB-1).
    pub lag_records: u64,
    /// Bytes of log from the floor on.
    pub lag_bytes: u64,
    /// Age of the oldest deliverable record not yet delivered, in milliseconds.
    pub lag_ms: i64,
    /// The same by when its event happened.
    pub event_lag_ms: i64,
    /// Age of the record at the floor, in milliseconds.
    pub oldest_unsettled_ms: i64,
    /// Records leased.
    pub in_flight: u64,
    /// Records read ahead and not settled.
    pub held: u64,
    /// Keys that wait for a retry.
    pub blocked_keys: u64,
    /// Dead keys.
    pub dead_keys: u64,
    /// Milliseconds until retention reaches the floor; `None`: not in sight (rule RE-3).
    pub time_to_loss_ms: Option<i64>,
    /// It waits for a gap to be accepted.
    pub stopped_at_gap: bool,
    /// Units whose readers wait for their databases (rule RM-6).
    pub stalled_units: u64,
}

/// A group as a whole.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct GroupTotal {
    /// Name of the group.
    pub group: String,
    /// Members.
    pub members: u64,
    /// Members with a stream.
    pub connected: u64,
    /// 1 while the circuit breaker is open.
    pub breaker_open: bool,
    /// Pauses, the broker's own among them.
    pub pauses: u64,
    /// Offsets settled, and not settled, of its open replay (rule RP-3).
    pub replay: Option<(u64, u64)>,
}

/// All groups at a moment.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct GroupSamples {
    /// One a group and partition, in order of group, topic, partition.
    pub partitions: Vec<GroupSample>,
    /// One a group.
    pub groups: Vec<GroupTotal>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PartitionLabels {
    group: String,
    topic: String,
    partition: Option<u32>,
}

/// Shows the last samples.
#[derive(Debug)]
pub(super) struct GroupCollector {
    pub(super) samples: Arc<RwLock<GroupSamples>>,
    pub(super) per_partition: bool,
}

impl GroupSamples {
    /// One a topic of a group: counts added up, ages the greatest, the time to loss the least.
    fn by_topic(&self) -> Vec<GroupSample> {
        let mut sums: Vec<GroupSample> = Vec::new();
        for one in &self.partitions {
            let same = sums.last_mut().filter(|last| last.group == one.group && last.topic == one.topic);
            let Some(sum) = same else {
                sums.push(one.clone());
                continue;
            };
            sum.floor += one.floor;
            sum.high_watermark += one.high_watermark;
            sum.lag_records += one.lag_records;
            sum.lag_bytes += one.lag_bytes;
            sum.lag_ms = sum.lag_ms.max(one.lag_ms);
            sum.event_lag_ms = sum.event_lag_ms.max(one.event_lag_ms);
            sum.oldest_unsettled_ms = sum.oldest_unsettled_ms.max(one.oldest_unsettled_ms);
            sum.in_flight += one.in_flight;
            sum.held += one.held;
            sum.blocked_keys += one.blocked_keys;
            sum.dead_keys += one.dead_keys;
            sum.time_to_loss_ms = sum.time_to_loss_ms.into_iter().chain(one.time_to_loss_ms).min();
            sum.stopped_at_gap |= one.stopped_at_gap;
            sum.stalled_units += one.stalled_units;
        }
        sums
    }

    /// The names that boards made for kafka_exporter and kafka-lag-exporter know, as Prometheus text.
    pub fn kafka_text(&self) -> String {
        let mut out = String::new();
        type Named = (&'static str, &'static str, fn(&GroupSample) -> f64);
        let families: [Named; 3] = [
            ("kafka_consumergroup_current_offset", "Committed offset: the lowest unsettled one", |s| s.floor as f64),
            ("kafka_consumergroup_lag", "Records not settled", |s| s.lag_records as f64),
            ("kafka_consumergroup_group_lag_seconds", "Age of the oldest record not delivered", |s| {
                s.lag_ms as f64 / 1_000.0
            }),
        ];
        for (name, help, value) in families {
            let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
            for one in &self.partitions {
                // Names hold letters, digits, dots, dashes and underscores: nothing is to be escaped.
                let GroupSample { group, topic, partition, .. } = one;
                let labels = format!("consumergroup=\"{group}\",topic=\"{topic}\",partition=\"{partition}\"");
                let _ = writeln!(out, "{name}{{{labels}}} {}", value(one));
            }
        }
        let members = "kafka_consumergroup_members";
        let _ = writeln!(out, "# HELP {members} Members of the group\n# TYPE {members} gauge");
        for one in &self.groups {
            let _ = writeln!(out, "{members}{{consumergroup=\"{}\"}} {}", one.group, one.members);
        }
        out
    }
}

impl Collector for GroupCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Value = fn(&GroupSample) -> Option<f64>;
        type Column = (&'static str, &'static str, Option<Unit>, Value);
        let columns: [Column; 13] = [
            ("group_floor_offset", "Lowest unsettled offset", None, |s| Some(s.floor as f64)),
            ("group_lag_records", "Records not settled", None, |s| Some(s.lag_records as f64)),
            ("group_lag", "Bytes of log from the floor on", Some(Unit::Bytes), |s| Some(s.lag_bytes as f64)),
            ("group_lag", "Age of the oldest record not delivered", Some(Unit::Seconds), |s| Some(seconds(s.lag_ms))),
            ("group_event_lag", "The same by when its event happened", Some(Unit::Seconds), |s| {
                Some(seconds(s.event_lag_ms))
            }),
            ("group_oldest_unsettled", "Age of the record at the floor", Some(Unit::Seconds), |s| {
                Some(seconds(s.oldest_unsettled_ms))
            }),
            ("group_in_flight_records", "Records leased", None, |s| Some(s.in_flight as f64)),
            ("group_held_records", "Records read ahead and not settled", None, |s| Some(s.held as f64)),
            ("group_blocked_keys", "Keys that wait for a retry", None, |s| Some(s.blocked_keys as f64)),
            ("group_dead_keys", "Dead keys", None, |s| Some(s.dead_keys as f64)),
            ("group_time_to_loss", "Until retention reaches the floor", Some(Unit::Seconds), |s| {
                s.time_to_loss_ms.map(seconds)
            }),
            ("group_stopped_at_gap", "1 while a gap waits to be accepted", None, |s| {
                Some(f64::from(u8::from(s.stopped_at_gap)))
            }),
            ("group_stalled_units", "Units whose readers wait for their databases", None, |s| {
                Some(s.stalled_units as f64)
            }),
        ];
        let samples = self.samples.read();
        let lines = if self.per_partition { samples.partitions.clone() } else { samples.by_topic() };
        for (name, help, unit, value) in columns {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for line in &lines {
                let Some(value) = value(line) else { continue };
                let partition = self.per_partition.then_some(line.partition);
                let labels = PartitionLabels { group: line.group.clone(), topic: line.topic.clone(), partition };
                ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
            }
        }
        type Total = (&'static str, &'static str, fn(&GroupTotal) -> u64);
        let totals: [Total; 4] = [
            ("group_members", "Members", |g| g.members),
            ("group_connected_members", "Members with a stream", |g| g.connected),
            ("group_breaker_open", "1 while the circuit breaker is open", |g| u64::from(g.breaker_open)),
            ("group_pauses", "Pauses", |g| g.pauses),
        ];
        for (name, help, value) in totals {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for group in &samples.groups {
                let labels = GroupLabels { group: group.group.clone() };
                ConstGauge::new(value(group) as f64).encode(family.encode_family(&labels)?)?;
            }
        }
        type Part = (&'static str, &'static str, fn((u64, u64)) -> u64);
        let parts: [Part; 2] = [
            ("group_replay_done_records", "Records settled of the open replay", |(done, _)| done),
            ("group_replay_left_records", "Records not settled of the open replay", |(_, left)| left),
        ];
        for (name, help, value) in parts {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            for (group, replay) in samples.groups.iter().filter_map(|group| Some((group, group.replay?))) {
                let labels = GroupLabels { group: group.group.clone() };
                ConstGauge::new(value(replay) as f64).encode(family.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

fn seconds(ms: i64) -> f64 {
    ms as f64 / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(partition: u32, lag_records: u64, lag_ms: i64) -> GroupSample {
        let (group, topic) = ("billing".into(), "orders".into());
        GroupSample { group, topic, partition, floor: 7, lag_records, lag_ms, ..GroupSample::default() }
    }

    #[test]
    fn ob_1_lag_of_a_topic_adds_records_and_takes_the_greatest_age() {
        let partitions = vec![sample(0, 3, 500), sample(1, 4, 2_500)];
        let samples = GroupSamples { partitions, groups: Vec::new() };
        let sums = samples.by_topic();
        assert_eq!((sums.len(), sums[0].lag_records, sums[0].lag_ms, sums[0].floor), (1, 7, 2_500, 14));
    }

    #[test]
    fn ob_3_stalled_units_of_a_topic_are_counted() {
        let stalled = |partition, stalled_units| GroupSample { stalled_units, ..sample(partition, 0, 0) };
        let samples =
            GroupSamples { partitions: vec![stalled(0, 1), stalled(1, 0), stalled(2, 1)], groups: Vec::new() };
        assert_eq!(samples.by_topic()[0].stalled_units, 2);
    }

    #[test]
    fn boards_of_kafka_exporters_find_their_names() {
        let groups = vec![GroupTotal { group: "billing".into(), members: 2, ..GroupTotal::default() }];
        let text = GroupSamples { partitions: vec![sample(1, 4, 2_500)], groups }.kafka_text();
        let labels = "consumergroup=\"billing\",topic=\"orders\",partition=\"1\"";
        for line in [
            format!("kafka_consumergroup_lag{{{labels}}} 4"),
            format!("kafka_consumergroup_current_offset{{{labels}}} 7"),
            format!("kafka_consumergroup_group_lag_seconds{{{labels}}} 2.5"),
            "kafka_consumergroup_members{consumergroup=\"billing\"} 2".into(),
        ] {
            assert!(text.lines().any(|found| found == line), "{line} is not in {text}");
        }
    }
}
