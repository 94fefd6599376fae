//! What a benchmark found, as a table and as JSON.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

use crate::arguments::Common;
use crate::failure::Outcome;
use crate::output::{self, Rows, grouped};

/// What was measured.
pub(super) struct Measured {
    /// Records acknowledged or read.
    pub(super) records: u64,
    /// Bytes of their payloads.
    pub(super) bytes: u64,
    /// Time from the first record until the last was acknowledged or read.
    pub(super) time: Duration,
    /// Latencies in microseconds, if they were measured.
    pub(super) latency_us: Option<Histogram<u64>>,
}

/// How it was measured.
#[derive(Debug, Serialize)]
pub(super) struct Settings {
    pub(super) partitions: u32,
    pub(super) size_bytes: usize,
    pub(super) rate_per_second: u64,
    pub(super) ack: String,
    pub(super) compression: String,
    pub(super) batch_bytes: u64,
    pub(super) linger_us: u64,
}

#[derive(Debug, Serialize)]
struct Latency {
    samples: u64,
    mean: f64,
    p50: u64,
    p90: u64,
    p99: u64,
    p999: u64,
    max: u64,
}

/// The report; its JSON form is a stable contract.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    bench: String,
    url: String,
    topic: String,
    records: u64,
    bytes: u64,
    seconds: f64,
    records_per_second: f64,
    bytes_per_second: f64,
    latency_us: Option<Latency>,
    server_cpu_seconds: Option<f64>,
    server_cpu_seconds_per_million_records: Option<f64>,
    settings: Settings,
}

impl Report {
    #[expect(clippy::cast_precision_loss, reason = "rates need no more than 50 bits")]
    pub(super) fn new(
        bench: &str,
        url: &str,
        topic: &str,
        measured: &Measured,
        server_cpu_seconds: Option<f64>,
        settings: Settings,
    ) -> Self {
        let seconds = measured.time.as_secs_f64().max(1e-9);
        Self {
            bench: bench.to_owned(),
            url: url.to_owned(),
            topic: topic.to_owned(),
            records: measured.records,
            bytes: measured.bytes,
            seconds,
            records_per_second: measured.records as f64 / seconds,
            bytes_per_second: measured.bytes as f64 / seconds,
            latency_us: measured.latency_us.as_ref().filter(|latency| !latency.is_empty()).map(|latency| Latency {
                samples: latency.len(),
                mean: latency.mean(),
                p50: latency.value_at_quantile(0.5),
                p90: latency.value_at_quantile(0.9),
                p99: latency.value_at_quantile(0.99),
                p999: latency.value_at_quantile(0.999),
                max: latency.max(),
            }),
            server_cpu_seconds,
            server_cpu_seconds_per_million_records: server_cpu_seconds
                .map(|seconds| seconds * 1e6 / measured.records.max(1) as f64),
            settings,
        }
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rates are shown as whole numbers")]
    pub(super) fn print(&self, common: &Common) -> Outcome {
        if common.json() {
            return output::json_line(self);
        }
        let mut rows = Rows::new(&["measured", ">value"]);
        rows.add(["records".to_owned(), grouped(self.records)]);
        rows.add(["seconds".to_owned(), format!("{:.3}", self.seconds)]);
        rows.add(["records/s".to_owned(), grouped(self.records_per_second as u64)]);
        rows.add(["payload/s".to_owned(), output::human_bytes(self.bytes_per_second as u64)]);
        if let Some(latency) = &self.latency_us {
            for (name, value) in [
                ("p50", latency.p50),
                ("p90", latency.p90),
                ("p99", latency.p99),
                ("p99.9", latency.p999),
                ("max", latency.max),
            ] {
                rows.add([format!("latency {name}"), format!("{} us", grouped(value))]);
            }
        }
        if let Some(seconds) = self.server_cpu_seconds_per_million_records {
            rows.add(["broker CPU per million".to_owned(), format!("{seconds:.3} s")]);
        }
        rows.print()
    }
}
