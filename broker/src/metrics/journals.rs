//! Metrics of the group journals: one set of handles per journal, told apart by its name.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct JournalLabels {
    journal: &'static str,
}

/// The metrics of one journal; cheap to clone.
#[derive(Debug, Clone)]
pub struct JournalMetrics {
    /// Records made durable.
    pub records: Counter,
    /// Bytes of those records, without framing.
    pub record_bytes: Counter,
    /// Seconds of a sync.
    pub sync_duration: Histogram,
    /// Bytes of its files.
    pub size_bytes: Gauge,
    /// Bytes of records that wait to be written, or to enter the replica.
    pub queued_bytes: Gauge,
    /// Snapshots that hold.
    pub snapshots: Counter,
    /// 1 while it takes nothing: damaged at the start, or failed since.
    pub stopped: Gauge,
}

/// The metrics of all journals.
#[derive(Debug, Clone)]
pub(super) struct JournalFamilies {
    records: Family<JournalLabels, Counter>,
    record_bytes: Family<JournalLabels, Counter>,
    sync_duration: Family<JournalLabels, Histogram>,
    size_bytes: Family<JournalLabels, Gauge>,
    queued_bytes: Family<JournalLabels, Gauge>,
    snapshots: Family<JournalLabels, Counter>,
    stopped: Family<JournalLabels, Gauge>,
}

fn sync_buckets() -> Histogram {
    Histogram::new(exponential_buckets(16e-6, 2.0, 20))
}

impl Default for JournalFamilies {
    fn default() -> Self {
        Self {
            records: Family::default(),
            record_bytes: Family::default(),
            sync_duration: Family::new_with_constructor(sync_buckets),
            size_bytes: Family::default(),
            queued_bytes: Family::default(),
            snapshots: Family::default(),
            stopped: Family::default(),
        }
    }
}

impl JournalFamilies {
    pub(super) fn register(&self, r: &mut Registry) {
        r.register("journal_records", "Records of a journal made durable", self.records.clone());
        let bytes = self.record_bytes.clone();
        r.register_with_unit("journal_record", "Bytes of records of a journal, unframed", Unit::Bytes, bytes);
        let sync = self.sync_duration.clone();
        r.register_with_unit("journal_sync_duration", "Syncs of a journal", Unit::Seconds, sync);
        r.register_with_unit("journal_size", "Bytes of a journal's files", Unit::Bytes, self.size_bytes.clone());
        let queued = self.queued_bytes.clone();
        r.register_with_unit("journal_queued", "Bytes of records that wait in a journal", Unit::Bytes, queued);
        r.register("journal_snapshots", "Snapshots of a journal that hold", self.snapshots.clone());
        r.register("journal_stopped", "1 while a journal takes nothing", self.stopped.clone());
    }

    pub(super) fn of(&self, journal: &'static str) -> JournalMetrics {
        let labels = JournalLabels { journal };
        JournalMetrics {
            records: self.records.get_or_create_owned(&labels),
            record_bytes: self.record_bytes.get_or_create_owned(&labels),
            sync_duration: self.sync_duration.get_or_create_owned(&labels),
            size_bytes: self.size_bytes.get_or_create_owned(&labels),
            queued_bytes: self.queued_bytes.get_or_create_owned(&labels),
            snapshots: self.snapshots.get_or_create_owned(&labels),
            stopped: self.stopped.get_or_create_owned(&labels),
        }
    }
}
