use super::*;

#[derive(Debug)]
struct TwoPartitions;

impl PartitionSource for TwoPartitions {
    fn visit(&self, visit: &mut dyn FnMut(PartitionSample<'_>)) {
        let base = PartitionSample {
            topic: "orders",
            partition: 0,
            log_start: 1,
            high_watermark: 10,
            log_end: 12,
            size_bytes: 100,
            fenced: false,
            degraded: false,
            recovering: false,
        };
        visit(base);
        visit(PartitionSample { partition: 1, high_watermark: 20, fenced: true, ..base });
    }
}

#[test]
fn metrics_show_partitions_one_by_one_if_asked() {
    let metrics = Metrics::new(true);
    let source: Arc<dyn PartitionSource> = Arc::new(TwoPartitions);
    metrics.set_partition_source(Arc::downgrade(&source));
    metrics.partition("orders", 1).produced_records.inc_by(7);
    let text = metrics.encode();
    assert!(text.contains("sawlog_high_watermark{topic=\"orders\",partition=\"1\"} 20"), "{text}");
    assert!(text.contains("sawlog_produced_records_total{topic=\"orders\",partition=\"1\"} 7"), "{text}");
    assert!(text.contains("sawlog_fenced_partitions 1"), "{text}");
}

#[test]
fn metrics_sum_the_partitions_of_a_topic_by_default() {
    let metrics = Metrics::new(false);
    let source: Arc<dyn PartitionSource> = Arc::new(TwoPartitions);
    metrics.set_partition_source(Arc::downgrade(&source));
    metrics.partition("orders", 0).produced_bytes.inc_by(3);
    metrics.partition("orders", 1).produced_bytes.inc_by(4);
    let text = metrics.encode();
    assert!(text.contains("sawlog_high_watermark{topic=\"orders\",partition=\"\"} 30"), "{text}");
    assert!(text.contains("sawlog_produced_bytes_total{topic=\"orders\",partition=\"\"} 7"), "{text}");
}

#[test]
fn metrics_have_the_prefix_base_units_and_process_figures() {
    let metrics = Metrics::new(false);
    metrics.count_error("TOPIC_NOT_FOUND");
    metrics.sync_duration.observe(0.000_2);
    let text = metrics.encode();
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("sawlog_"), "{line}");
    }
    assert!(text.contains("sawlog_errors_total{reason=\"TOPIC_NOT_FOUND\"} 1"), "{text}");
    assert!(text.contains("sawlog_sync_duration_seconds_count 1"), "{text}");
    assert!(text.contains("sawlog_process_cpu_seconds_total"), "{text}");
    assert!(!cfg!(target_os = "linux") || text.contains("sawlog_process_resident_memory_bytes"), "{text}");
}

#[test]
fn metrics_of_a_deleted_topic_are_gone() {
    let metrics = Metrics::new(true);
    metrics.partition("orders", 0).read_records.inc();
    metrics.forget_topic("orders", 1);
    assert!(!metrics.encode().contains("orders"));
}
