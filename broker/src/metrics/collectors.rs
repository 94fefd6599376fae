//! What is read at scrape time: partitions from their source, the process from the system.

use std::fmt;
use std::sync::{Arc, Weak};

use parking_lot::RwLock;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Unit;

use super::{PartitionSample, PartitionSource, TopicLabels};

#[derive(Debug)]
pub(super) struct PartitionCollector {
    pub(super) source: Arc<RwLock<Option<Weak<dyn PartitionSource>>>>,
    pub(super) per_partition: bool,
}

/// One line per label set: of a partition, or summed over those of a topic.
#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    log_start: u64,
    high_watermark: u64,
    log_end: u64,
    size_bytes: u64,
}

#[derive(Debug, Clone, Copy, Default)]
struct Totals {
    partitions: u64,
    fenced: u64,
    degraded: u64,
    recovering: u64,
}

impl PartitionCollector {
    fn gather(&self) -> (Vec<(TopicLabels, Sums)>, Totals) {
        let mut lines: Vec<(TopicLabels, Sums)> = Vec::new();
        let mut totals = Totals::default();
        let source = self.source.read().as_ref().and_then(Weak::upgrade);
        let Some(source) = source else { return (lines, totals) };
        source.visit(&mut |sample: PartitionSample<'_>| {
            totals.partitions += 1;
            totals.fenced += u64::from(sample.fenced);
            totals.degraded += u64::from(sample.degraded);
            totals.recovering += u64::from(sample.recovering);
            let partition = self.per_partition.then_some(sample.partition);
            let same = lines.last().is_some_and(|(l, _)| l.topic == sample.topic && l.partition == partition);
            if !same {
                lines.push((TopicLabels { topic: sample.topic.to_owned(), partition }, Sums::default()));
            }
            let (_, sums) = lines.last_mut().expect("a line was pushed just now if there was none");
            sums.log_start += sample.log_start;
            sums.high_watermark += sample.high_watermark;
            sums.log_end += sample.log_end;
            sums.size_bytes += sample.size_bytes;
        });
        (lines, totals)
    }
}

impl Collector for PartitionCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        type Column = (&'static str, &'static str, Option<Unit>, fn(&Sums) -> u64);
        let columns: [Column; 4] = [
            ("log_start_offset", "First offset kept", None, |s| s.log_start),
            ("high_watermark", "First offset that readers do not see", None, |s| s.high_watermark),
            ("log_end_offset", "Offset that the next record gets", None, |s| s.log_end),
            ("log_size", "Bytes of log files", Some(Unit::Bytes), |s| s.size_bytes),
        ];
        let (lines, totals) = self.gather();
        for (name, help, unit, value) in columns {
            let mut family = encoder.encode_descriptor(name, help, unit.as_ref(), MetricType::Gauge)?;
            for (labels, sums) in &lines {
                ConstGauge::new(gauge(value(sums))).encode(family.encode_family(labels)?)?;
            }
        }
        let counts = [
            ("partitions", "Partitions", totals.partitions),
            ("fenced_partitions", "Partitions that are read-only until reopened", totals.fenced),
            ("degraded_partitions", "Partitions with damage", totals.degraded),
            ("recovering_partitions", "Partitions that are not open yet", totals.recovering),
        ];
        for (name, help, count) in counts {
            let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
            ConstGauge::new(gauge(count)).encode(metric)?;
        }
        Ok(())
    }
}

/// Figures of the process; a system without them leaves them out.
#[derive(Debug)]
pub(super) struct ProcessCollector;

impl Collector for ProcessCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let cpu = process_cpu_seconds();
        let unit = Some(&Unit::Seconds);
        let metric = encoder.encode_descriptor("process_cpu", "CPU time of the process", unit, MetricType::Counter)?;
        ConstCounter::new(cpu).encode(metric)?;
        if let Some(bytes) = resident_bytes() {
            let unit = Some(&Unit::Bytes);
            let metric =
                encoder.encode_descriptor("process_resident_memory", "Resident memory", unit, MetricType::Gauge)?;
            ConstGauge::new(gauge(bytes)).encode(metric)?;
        }
        Ok(())
    }
}

/// CPU seconds of all threads of this process, user and system.
fn process_cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    time.tv_sec as f64 + time.tv_nsec as f64 / 1e9
}

/// Resident memory: the second field of `statm`, in pages (proc_pid_statm(5)).
fn resident_bytes() -> Option<u64> {
    let statm = std::fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

fn gauge(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}
