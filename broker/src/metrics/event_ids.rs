//! The event ids of topics, read at scrape time (rules PR-8, OB-3). Topics that find out no repeats have no lines.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{PartitionSource, TopicLabels};

/// What can be asked of a topic's event ids.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct EventIdsSample {
    /// Ids now.
    pub ids: u64,
    /// How far back in seconds a repeat is found out; infinite: as long as records are kept.
    pub span_seconds: f64,
    /// Repeats found.
    pub repeats: u64,
    /// Conflicts found.
    pub conflicts: u64,
}

#[derive(Debug)]
pub(super) struct EventIdsCollector {
    pub(super) source: Arc<RwLock<Option<Weak<dyn PartitionSource>>>>,
}

impl Collector for EventIdsCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let source = self.source.read().as_ref().and_then(Weak::upgrade);
        let Some(source) = source else { return Ok(()) };
        let mut lines = Vec::new();
        source.visit_event_ids(&mut |topic, sample| {
            lines.push((TopicLabels { topic: topic.to_owned(), partition: None }, sample));
        });
        let mut ids = encoder.encode_descriptor("event_ids", "Event ids remembered", None, MetricType::Gauge)?;
        for (labels, sample) in &lines {
            ConstGauge::new(i64::try_from(sample.ids).unwrap_or(i64::MAX)).encode(ids.encode_family(labels)?)?;
        }
        let help = "How far back a repeat of an event id is found out";
        let mut span = encoder.encode_descriptor("dedup_span", help, Some(&Unit::Seconds), MetricType::Gauge)?;
        for (labels, sample) in &lines {
            ConstGauge::new(sample.span_seconds).encode(span.encode_family(labels)?)?;
        }
        type Column = (&'static str, &'static str, fn(&EventIdsSample) -> u64);
        let columns: [Column; 2] = [
            ("event_id_repeats", "Records that were not appended, as their event was", |sample| sample.repeats),
            ("event_id_conflicts", "Records with the event id of another event", |sample| sample.conflicts),
        ];
        for (name, help, value) in columns {
            let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
            for (labels, sample) in &lines {
                ConstCounter::new(value(sample)).encode(family.encode_family(labels)?)?;
            }
        }
        Ok(())
    }
}
