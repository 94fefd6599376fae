//! From producer to live consumer at 5,000 records a second of 256 B.

use std::error::Error;
use std::time::Duration;

use sawlog_benches::limits::{AppendLoad, bare_synced_append};
use sawlog_benches::load::client::{LatencyLoad, create_topic, end_to_end_latency};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::server_process::ServerProcess;
use sawlog_benches::stats::{Latencies, Samples};
use sawlog_client::AckLevel;

use super::context::Bench;

const RECORD_BYTES: usize = 256;
const PER_SECOND: u32 = 5_000;
const WARM_UP: Duration = Duration::from_millis(500);
/// A p99 of fewer records is noise.
const LEAST_SECONDS: f64 = 4.0;
const SYNCED_APPENDS: u64 = 2_000;

/// Median and 99th percentile of each round, in microseconds.
#[derive(Debug, Default)]
struct Percentiles {
    p50: Samples,
    p99: Samples,
}

impl Percentiles {
    fn push(&mut self, latencies: &Latencies) {
        self.p50.push(latencies.percentile_us(50.0));
        self.p99.push(latencies.percentile_us(99.0));
    }
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let null = bench.null()?;
    let broker = bench.broker()?;
    let [mut limit_n, mut limit_s, mut written, mut durable]: [Percentiles; 4] = Default::default();
    for _ in 0..bench.options.rounds {
        limit_n.push(&once(bench, &null, AckLevel::Written)?);
        written.push(&once(bench, &broker.server, AckLevel::Written)?);
        durable.push(&once(bench, &broker.server, AckLevel::Durable)?);
        let load = AppendLoad { bytes_each: RECORD_BYTES, count: SYNCED_APPENDS };
        limit_s.push(&bare_synced_append(broker.folder.path(), load)?);
    }
    let what = "end to end at 5,000/s of 256 B";
    let row = Row::shown(format!("{what}, written, p50"), "us", written.p50.clone());
    bench.row(row.beside("N", &limit_n.p50).with_target(Target::RatioAtMost(1.3)))?;
    let row = Row::shown(format!("{what}, written, p99"), "us", written.p99.clone());
    bench.row(row.beside("N", &limit_n.p99).with_target(Target::RatioAtMost(1.5)))?;
    let bound = |written: &Samples, synced: &Samples| written.zip_with(synced, |written, s| written + 1.5 * s);
    let row = Row::shown(format!("{what}, durable, p50"), "us", durable.p50);
    let limit = bound(&written.p50, &limit_s.p50);
    bench.row(row.beside("written + 1.5 S", &limit).with_target(Target::RatioAtMost(1.0)))?;
    let row = Row::shown(format!("{what}, durable, p99"), "us", durable.p99);
    let limit = bound(&written.p99, &limit_s.p99);
    bench.row(row.beside("written + 1.5 S", &limit).with_target(Target::RatioAtMost(1.0)))?;
    bench.row(Row::shown("S: bare append of 256 B + fdatasync, p50", "us", limit_s.p50))?;
    bench.row(Row::shown("S: bare append of 256 B + fdatasync, p99", "us", limit_s.p99))
}

fn once(bench: &mut Bench, server: &ServerProcess, floor: AckLevel) -> Result<Latencies, Box<dyn Error>> {
    let client = bench.client(&server.url())?;
    let topic = bench.topic_name("latency");
    let load = LatencyLoad {
        topic: topic.clone(),
        record_bytes: RECORD_BYTES,
        per_second: PER_SECOND,
        warm_up: WARM_UP,
        duration: Duration::from_secs_f64(bench.options.seconds.max(LEAST_SECONDS)),
    };
    let latencies = bench.runtime.block_on(async {
        create_topic(&client, &topic, 1, false, floor).await?;
        end_to_end_latency(&server.url(), &load).await
    })?;
    bench.delete_topic(&client, &topic)?;
    Ok(latencies)
}
