//! Names and meaning of all metrics: one [`Metrics`] per broker, nothing global, so that two brokers can live in one
//! process.
//!
//! Counters and histograms are updated where things happen; handles of a partition are looked up once and kept
//! ([`Metrics::partition`]), so that the hot path touches atomics only. Whatever can be asked for (high watermarks,
//! sizes, states, process figures) is read at scrape time from a [`PartitionSource`] and costs nothing between
//! scrapes. Every name begins with `sawlog_`; units are seconds and bytes.
//!
//! It knows nothing else of ours.

mod collectors;
mod dead_letters;
mod event_ids;
mod groups;
mod journals;
mod kafka;

use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::{Registry, Unit};

use collectors::{PartitionCollector, ProcessCollector};
use event_ids::EventIdsCollector;
pub use event_ids::EventIdsSample;
use groups::{GroupCollector, GroupFamilies};
use journals::JournalFamilies;

pub use dead_letters::{DeadLetterMetrics, DeadLetterSample, DeadLetterSource, DepthSample};
pub use groups::{GroupMetrics, GroupSample, GroupSamples, GroupTotal};
pub use journals::JournalMetrics;

/// Media type of [`Metrics::encode`].
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabels {
    topic: String,
    partition: Option<u32>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// What can be asked of a partition at scrape time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionSample<'a> {
    /// Name of the topic.
    pub topic: &'a str,
    /// Partition.
    pub partition: u32,
    /// First offset kept.
    pub log_start: u64,
    /// First offset that readers do not see.
    pub high_watermark: u64,
    /// Offset that the next record gets.
    pub log_end: u64,
    /// Bytes of its files.
    pub size_bytes: u64,
    /// Read-only.
    pub fenced: bool,
    /// Damaged.
    pub degraded: bool,
    /// Not open yet.
    pub recovering: bool,
}

/// Whoever knows the partitions.
pub trait PartitionSource: std::fmt::Debug + Send + Sync {
    /// Calls `visit` once for every partition, topic by topic in order of their names.
    fn visit(&self, visit: &mut dyn FnMut(PartitionSample<'_>));
    /// Calls `visit` once for every topic that finds out repeats of event ids.
    fn visit_event_ids(&self, visit: &mut dyn FnMut(&str, EventIdsSample)) {
        let _ = visit;
    }
}

/// The counters of one partition, or of its topic if partitions are not told apart. Cheap to clone, to be kept.
#[derive(Debug, Clone, Default)]
pub struct PartitionMetrics {
    /// Records acknowledged.
    pub produced_records: Counter,
    /// Bytes of batches acknowledged.
    pub produced_bytes: Counter,
    /// Records handed to readers.
    pub read_records: Counter,
    /// Bytes of batches handed to readers.
    pub read_bytes: Counter,
}

/// All metrics of a broker.
#[derive(Debug)]
pub struct Metrics {
    registry: Registry,
    source: Arc<RwLock<Option<Weak<dyn PartitionSource>>>>,
    per_partition: bool,
    produced_records: Family<TopicLabels, Counter>,
    produced_bytes: Family<TopicLabels, Counter>,
    read_records: Family<TopicLabels, Counter>,
    read_bytes: Family<TopicLabels, Counter>,
    errors: Family<ReasonLabels, Counter>,
    journals: JournalFamilies,
    /// Dead letters.
    pub dead_letters: DeadLetterMetrics,
    groups: GroupFamilies,
    group_samples: Arc<RwLock<GroupSamples>>,
    /// Seconds from the entry of a batch into its partition to the end of the write.
    pub append_duration: Histogram,
    /// Seconds of a sync of log data.
    pub sync_duration: Histogram,
    /// Appends made durable by one sync.
    pub appends_per_sync: Histogram,
    /// Frames that failed their checksum, at recovery, while serving or in the scrub.
    pub corrupt_frames: Counter,
    /// Failed syncs.
    pub failed_syncs: Counter,
    /// Bytes verified by the scrub.
    pub scrubbed_bytes: Counter,
    /// Reads that had to wait for the device.
    pub cold_reads: Counter,
    /// Bytes free on the disk of the data directory.
    pub disk_free_bytes: Gauge,
    /// Bytes below which produce is refused.
    pub disk_min_free_bytes: Gauge,
    /// 1 while produce is refused for want of space.
    pub disk_low: Gauge,
    /// 1 while the metadata log takes no writes.
    pub read_only: Gauge,
    /// Partitions that recovery has to open.
    pub recovery_partitions: Gauge,
    /// Partitions that recovery has opened.
    pub recovery_partitions_done: Gauge,
    /// Bytes read and verified by recovery.
    pub recovery_scanned_bytes: Counter,
    /// Bytes of torn tails that recovery cut off.
    pub recovery_dropped_bytes: Counter,
    /// Wall-clock steps over 10 minutes (rule F6).
    pub clock_steps: Counter,
    /// Segments removed by retention or trim.
    pub removed_segments: Counter,
    /// Checkpoints written.
    pub checkpoints: Counter,
    /// Open connections.
    pub connections: Gauge,
    /// Connections accepted.
    pub accepted_connections: Counter,
    /// Connections refused at the limit.
    pub refused_connections: Counter,
    /// Produce bytes in flight.
    pub in_flight_bytes: Gauge,
    /// Open reading streams.
    pub readers: Gauge,
    /// Records and batches whose checksum a reader skipped on its own wish (rule C2).
    pub corrupt_skips: Counter,
}

impl Metrics {
    /// Metrics of a new broker. `per_partition` tells the partitions of a topic apart.
    pub fn new(per_partition: bool) -> Arc<Self> {
        let mut metrics = Self::unregistered(per_partition);
        let mut registry = Registry::with_prefix("sawlog");
        metrics.register_traffic(&mut registry);
        metrics.register_storage(&mut registry);
        metrics.register_server(&mut registry);
        metrics.journals.register(&mut registry);
        metrics.dead_letters.register(&mut registry);
        metrics.groups.register(&mut registry);
        registry.register_collector(Box::new(GroupCollector {
            samples: Arc::clone(&metrics.group_samples),
            per_partition: metrics.per_partition,
        }));
        registry.register_collector(Box::new(EventIdsCollector { source: Arc::clone(&metrics.source) }));
        registry.register_collector(Box::new(PartitionCollector {
            source: Arc::clone(&metrics.source),
            per_partition: metrics.per_partition,
        }));
        registry.register_collector(Box::new(ProcessCollector));
        metrics.registry = registry;
        Arc::new(metrics)
    }

    fn unregistered(per_partition: bool) -> Self {
        // 1 us to 8 s and 16 us to 8 s: an append into the page cache is microseconds, a sync fractions of a
        // millisecond, and a stuck disk seconds.
        let append_buckets = exponential_buckets(1e-6, 2.0, 24);
        let sync_buckets = exponential_buckets(16e-6, 2.0, 20);
        Self {
            registry: Registry::default(),
            source: Arc::default(),
            per_partition,
            produced_records: Family::default(),
            produced_bytes: Family::default(),
            read_records: Family::default(),
            read_bytes: Family::default(),
            errors: Family::default(),
            journals: JournalFamilies::default(),
            dead_letters: DeadLetterMetrics::default(),
            groups: GroupFamilies::default(),
            group_samples: Arc::default(),
            append_duration: Histogram::new(append_buckets),
            sync_duration: Histogram::new(sync_buckets),
            appends_per_sync: Histogram::new(exponential_buckets(1.0, 2.0, 12)),
            corrupt_frames: Counter::default(),
            failed_syncs: Counter::default(),
            scrubbed_bytes: Counter::default(),
            cold_reads: Counter::default(),
            disk_free_bytes: Gauge::default(),
            disk_min_free_bytes: Gauge::default(),
            disk_low: Gauge::default(),
            read_only: Gauge::default(),
            recovery_partitions: Gauge::default(),
            recovery_partitions_done: Gauge::default(),
            recovery_scanned_bytes: Counter::default(),
            recovery_dropped_bytes: Counter::default(),
            clock_steps: Counter::default(),
            removed_segments: Counter::default(),
            checkpoints: Counter::default(),
            connections: Gauge::default(),
            accepted_connections: Counter::default(),
            refused_connections: Counter::default(),
            in_flight_bytes: Gauge::default(),
            readers: Gauge::default(),
            corrupt_skips: Counter::default(),
        }
    }

    fn register_traffic(&self, r: &mut Registry) {
        r.register("produced_records", "Records acknowledged", self.produced_records.clone());
        let produced = self.produced_bytes.clone();
        r.register_with_unit("produced", "Bytes of batches acknowledged", Unit::Bytes, produced);
        r.register("read_records", "Records handed to readers", self.read_records.clone());
        r.register_with_unit("read", "Bytes of batches handed to readers", Unit::Bytes, self.read_bytes.clone());
        r.register("errors", "Failures told to clients, by reason", self.errors.clone());
        let append = self.append_duration.clone();
        r.register_with_unit("append_duration", "From a partition's queue to the end of write", Unit::Seconds, append);
        let sync = self.sync_duration.clone();
        r.register_with_unit("sync_duration", "Syncs of log data", Unit::Seconds, sync);
        r.register("appends_per_sync", "Appends made durable by one sync", self.appends_per_sync.clone());
        r.register("cold_reads", "Reads that had to wait for the device", self.cold_reads.clone());
        r.register("readers", "Open reading streams", self.readers.clone());
        r.register("corrupt_skips", "Damaged ranges that readers asked to skip", self.corrupt_skips.clone());
    }

    fn register_storage(&self, r: &mut Registry) {
        r.register("corrupt_frames", "Frames that failed their checksum", self.corrupt_frames.clone());
        r.register("failed_syncs", "Syncs that failed", self.failed_syncs.clone());
        let scrubbed = self.scrubbed_bytes.clone();
        r.register_with_unit("scrubbed", "Bytes verified by the scrub", Unit::Bytes, scrubbed);
        let free = self.disk_free_bytes.clone();
        r.register_with_unit("disk_free", "Bytes free on the disk of the data directory", Unit::Bytes, free);
        let min_free = self.disk_min_free_bytes.clone();
        r.register_with_unit("disk_min_free", "Free bytes below which produce is refused", Unit::Bytes, min_free);
        r.register("disk_low", "1 while produce is refused for want of space", self.disk_low.clone());
        r.register("read_only", "1 while the metadata log takes no writes", self.read_only.clone());
        let all = self.recovery_partitions.clone();
        r.register("recovery_partitions", "Partitions that recovery has to open", all);
        let done = self.recovery_partitions_done.clone();
        r.register("recovery_partitions_done", "Partitions that recovery has opened", done);
        let scanned = self.recovery_scanned_bytes.clone();
        r.register_with_unit("recovery_scanned", "Bytes verified by recovery", Unit::Bytes, scanned);
        let dropped = self.recovery_dropped_bytes.clone();
        r.register_with_unit("recovery_dropped", "Bytes of torn tails cut by recovery", Unit::Bytes, dropped);
        r.register("clock_steps", "Wall-clock steps over 10 minutes", self.clock_steps.clone());
        r.register("removed_segments", "Segments removed by retention or trim", self.removed_segments.clone());
        r.register("checkpoints", "Checkpoints written", self.checkpoints.clone());
    }

    fn register_server(&self, r: &mut Registry) {
        r.register("connections", "Open connections", self.connections.clone());
        r.register("accepted_connections", "Connections accepted", self.accepted_connections.clone());
        r.register("refused_connections", "Connections refused at the limit", self.refused_connections.clone());
        let in_flight = self.in_flight_bytes.clone();
        r.register_with_unit("in_flight", "Produce bytes in flight", Unit::Bytes, in_flight);
    }

    /// Counts a failure told to a client. `reason` is the name of the wire without its prefix.
    pub fn count_error(&self, reason: &'static str) {
        self.errors.get_or_create(&ReasonLabels { reason }).inc();
    }

    /// The metrics of a journal; look them up once and keep them.
    pub fn journal(&self, name: &'static str) -> JournalMetrics {
        self.journals.of(name)
    }

    /// Shows how the groups stand, until the next call.
    pub fn set_group_samples(&self, samples: GroupSamples) {
        *self.group_samples.write() = samples;
    }

    /// The names that boards made for exporters of Kafka know (rule OB-1), as Prometheus text.
    pub fn encode_kafka(&self) -> String {
        let mut text = self.group_samples.read().kafka_text();
        let source = self.source.read().as_ref().and_then(Weak::upgrade);
        let Some(source) = source else { return text };
        let mut lines: Vec<(String, u32, u64, u64)> = Vec::new();
        source.visit(&mut |sample| {
            lines.push((sample.topic.to_owned(), sample.partition, sample.log_start, sample.high_watermark));
        });
        kafka::topics(&lines, &mut text);
        text
    }

    /// The counters of a consumer group; look them up once and keep them.
    pub fn group(&self, group: &str) -> GroupMetrics {
        self.groups.of(group)
    }

    /// Removes the counters of a deleted group.
    pub fn forget_group(&self, group: &str) {
        self.groups.forget(group);
    }

    /// The counters of a partition; look them up once and keep them.
    pub fn partition(&self, topic: &str, partition: u32) -> PartitionMetrics {
        let labels = self.labels(topic, partition);
        PartitionMetrics {
            produced_records: self.produced_records.get_or_create_owned(&labels),
            produced_bytes: self.produced_bytes.get_or_create_owned(&labels),
            read_records: self.read_records.get_or_create_owned(&labels),
            read_bytes: self.read_bytes.get_or_create_owned(&labels),
        }
    }

    /// Removes the counters of a deleted topic.
    pub fn forget_topic(&self, topic: &str, partitions: u32) {
        for partition in 0..partitions {
            let labels = self.labels(topic, partition);
            self.produced_records.remove(&labels);
            self.produced_bytes.remove(&labels);
            self.read_records.remove(&labels);
            self.read_bytes.remove(&labels);
        }
    }

    /// Says who knows the partitions; held weakly.
    pub fn set_partition_source(&self, source: Weak<dyn PartitionSource>) {
        *self.source.write() = Some(source);
    }

    /// All metrics as OpenMetrics text ([`CONTENT_TYPE`]).
    pub fn encode(&self) -> String {
        let mut text = String::with_capacity(16 << 10);
        prometheus_client::encoding::text::encode(&mut text, &self.registry)
            .expect("writing into a String does not fail");
        text
    }

    fn labels(&self, topic: &str, partition: u32) -> TopicLabels {
        TopicLabels { topic: topic.to_owned(), partition: self.per_partition.then_some(partition) }
    }
}

#[cfg(test)]
mod tests;
