//! Metrics of dead letters (rule DL-14): what arrives is counted here, what lies there is asked for at scrape time.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::{Registry, Unit};

/// Why something arrived.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ArrivalLabels {
    group: String,
    reason: &'static str,
}

/// What lies there.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct DepthLabels {
    group: String,
    topic: String,
    kind: &'static str,
    state: &'static str,
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct GroupLabels {
    group: String,
}

/// Entries of one kind, state and reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepthSample {
    /// Name of the source topic.
    pub topic: String,
    /// `failed` or `parked`.
    pub kind: &'static str,
    /// State.
    pub state: &'static str,
    /// Reason.
    pub reason: &'static str,
    /// How many.
    pub entries: u64,
}

/// The dead letters of a group at a moment.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct DeadLetterSample {
    /// Name of the group.
    pub group: String,
    /// By kind, state and reason.
    pub depths: Vec<DepthSample>,
    /// Keys that are dead or spilled.
    pub keys: u64,
    /// Age of the oldest open entry in seconds; `None`: none is open.
    pub oldest_age_s: Option<i64>,
    /// Seconds until the first open entry may expire; `None`: none is open.
    pub first_expiry_s: Option<i64>,
}

/// Whoever knows the dead letters.
pub trait DeadLetterSource: fmt::Debug + Send + Sync {
    /// Calls `visit` once for every group that has any.
    fn visit(&self, visit: &mut dyn FnMut(DeadLetterSample));
}

/// The metrics of dead letters; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DeadLetterMetrics {
    arrivals: Family<ArrivalLabels, Counter>,
    /// Records that could not be copied any more: their intent was closed as lost (rule DL-4).
    pub lost: Counter,
    /// Partitions whose dead letters wait: no room, a limit, a fence (rule DL-5).
    pub blocked: Gauge,
    /// Bytes of copies appended.
    pub copied_bytes: Counter,
    /// Entries that retention has taken while they were open (rule DL-10).
    pub expired: Counter,
    source: Arc<RwLock<Option<Weak<dyn DeadLetterSource>>>>,
}

impl DeadLetterMetrics {
    /// Counts arrivals of a group.
    pub fn arrived(&self, group: &str, reason: &'static str, count: u64) {
        self.arrivals.get_or_create(&ArrivalLabels { group: group.to_owned(), reason }).inc_by(count);
    }

    /// Forgets the counts of a group that is gone.
    pub fn forget(&self, group: &str, reasons: impl IntoIterator<Item = &'static str>) {
        for reason in reasons {
            self.arrivals.remove(&ArrivalLabels { group: group.to_owned(), reason });
        }
    }

    /// Who is asked at scrape time.
    pub fn set_source(&self, source: Weak<dyn DeadLetterSource>) {
        *self.source.write() = Some(source);
    }

    pub(super) fn register(&self, r: &mut Registry) {
        r.register("dead_letter_arrivals", "Dead letters that arrived", self.arrivals.clone());
        r.register("dead_letter_lost", "Records that could not become dead letters any more", self.lost.clone());
        r.register("dead_letter_blocked", "Partitions whose dead letters wait", self.blocked.clone());
        let bytes = self.copied_bytes.clone();
        r.register_with_unit("dead_letter_copied", "Bytes of dead letters appended", Unit::Bytes, bytes);
        r.register("dead_letter_expired", "Open dead letters that retention took", self.expired.clone());
        r.register_collector(Box::new(DeadLetterCollector(Arc::clone(&self.source))));
    }
}

#[derive(Debug)]
struct DeadLetterCollector(Arc<RwLock<Option<Weak<dyn DeadLetterSource>>>>);

impl Collector for DeadLetterCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let source = self.0.read().as_ref().and_then(Weak::upgrade);
        let mut samples = Vec::new();
        if let Some(source) = source {
            source.visit(&mut |sample| samples.push(sample));
        }
        let help = "Dead letters by kind, state and reason";
        let mut family = encoder.encode_descriptor("dead_letter_entries", help, None, MetricType::Gauge)?;
        for sample in &samples {
            for depth in &sample.depths {
                let labels = DepthLabels {
                    group: sample.group.clone(),
                    topic: depth.topic.clone(),
                    kind: depth.kind,
                    state: depth.state,
                    reason: depth.reason,
                };
                gauge(depth.entries).encode(family.encode_family(&labels)?)?;
            }
        }
        type Column = (&'static str, &'static str, Option<Unit>, fn(&DeadLetterSample) -> Option<i64>);
        let columns: [Column; 3] = [
            ("dead_letter_keys", "Keys that are dead or spilled", None, |s| i64::try_from(s.keys).ok()),
            ("dead_letter_oldest_age", "Age of the oldest open dead letter", Some(Unit::Seconds), |s| s.oldest_age_s),
            (
                "dead_letter_first_expiry",
                "Time until the first open dead letter may expire",
                Some(Unit::Seconds),
                |s| s.first_expiry_s,
            ),
        ];
        for (name, help, unit, value) in columns {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for sample in &samples {
                if let Some(value) = value(sample) {
                    let labels = GroupLabels { group: sample.group.clone() };
                    ConstGauge::new(value).encode(family.encode_family(&labels)?)?;
                }
            }
        }
        Ok(())
    }
}

fn gauge(value: u64) -> ConstGauge<i64> {
    ConstGauge::new(i64::try_from(value).unwrap_or(i64::MAX))
}
