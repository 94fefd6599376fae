//! Counts what a partition's leader does, and keeps what a fence means for others to see.

use std::time::Duration;

use super::append::Observer;
use super::facts::{Facts, Fence};
use super::sync::Arc;
use super::{Offset, PartitionRef};
use crate::metrics::{Metrics, PartitionMetrics};

/// The observer of a local partition.
#[derive(Debug)]
pub(crate) struct Meter {
    name: PartitionRef,
    metrics: Arc<Metrics>,
    counters: PartitionMetrics,
    facts: Arc<Facts>,
}

impl Meter {
    pub(crate) fn new(
        name: PartitionRef,
        metrics: Arc<Metrics>,
        counters: PartitionMetrics,
        facts: Arc<Facts>,
    ) -> Self {
        Self { name, metrics, counters, facts }
    }
}

impl Observer for Meter {
    fn appended(&self, records: u64, bytes: u64, took: Duration) {
        self.counters.produced_records.inc_by(records);
        self.counters.produced_bytes.inc_by(bytes);
        self.metrics.append_duration.observe(took.as_secs_f64());
    }

    fn synced(&self, took: Duration, good: bool) {
        self.metrics.sync_duration.observe(took.as_secs_f64());
        if !good {
            self.metrics.failed_syncs.inc();
        }
    }

    fn answered(&self, count: u64) {
        self.metrics.appends_per_sync.observe(count as f64);
    }

    fn fenced(&self, cause: &str, errno: Option<i32>, durable_end: Offset, visible: Offset) {
        tracing::error!(topic = %self.name.topic, partition = %self.name.partition, %durable_end, cause,
            "partition fenced: read-only until it is reopened");
        self.facts.set_fence(Some(Fence { cause: cause.to_owned(), errno }));
        if visible > durable_end {
            tracing::error!(topic = %self.name.topic, partition = %self.name.partition, from = %durable_end,
                "records acknowledged as written may be missing");
            self.facts.set_maybe_missing(durable_end);
        }
    }
}
