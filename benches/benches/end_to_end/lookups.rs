//! Reads at a random offset and at a random time while the log grows.

use std::error::Error;

use sawlog_benches::load::client::create_topic;
use sawlog_benches::load::wire::{ClosedLoop, batch, closed_loop, connect, read_client, ready_request};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::server_process::ServerProcess;
use sawlog_benches::stats::{Latencies, Samples};
use sawlog_benches::timing::Stopwatch;
use sawlog_client::AckLevel;
use sawlog_proto::v1::{self, read_end, read_start};

use super::context::Bench;

/// Sizes of the log, in MiB.
const SIZES_MIB: [u64; 4] = [64, 256, 1_024, 4_096];
const RECORD_BYTES: usize = 1_024;
/// Records of a batch: small batches make a large index.
const BATCH_RECORDS: u32 = 4;
const LOOKUPS: u32 = 1_000;
/// Growth of a lookup's time over all sizes that still counts as none.
const NO_GROWTH: f64 = 1.25;
/// Seconds of filling between two looks at the size.
const FILL_SECONDS: f64 = 0.2;

/// Where a lookup begins.
#[derive(Debug, Clone, Copy)]
enum By {
    Offset,
    Time,
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let broker = bench.broker()?;
    let client = bench.client(&broker.server.url())?;
    let topic = bench.topic_name("lookups");
    bench.runtime.block_on(create_topic(&client, &topic, 1, false, AckLevel::Written))?;
    let (mut records, mut first_ms) = (0, None);
    let mut first = None;
    for size_mib in SIZES_MIB.map(|size| (size as f64 * bench.options.scale) as u64) {
        while records * RECORD_BYTES as u64 * 100 < size_mib * (100 << 20) {
            records += fill(bench, &broker.server, &topic)?;
        }
        let now_ms = append_time_ms(bench, &broker.server, &topic, records - 1)?;
        let first_ms = match first_ms {
            Some(known) => known,
            None => *first_ms.insert(append_time_ms(bench, &broker.server, &topic, 0)?),
        };
        let [mut by_offset, mut by_time] = [const { Samples::new() }; 2];
        for round in 0..bench.options.rounds as u64 {
            let times = Span { from: first_ms, to: now_ms };
            by_offset.push(lookups(
                bench,
                &broker.server,
                &topic,
                By::Offset,
                Span { from: 0, to: records as i64 },
                round,
            )?);
            by_time.push(lookups(bench, &broker.server, &topic, By::Time, times, round)?);
        }
        let target = Target::RatioAtMost(NO_GROWTH);
        let smallest = first.get_or_insert_with(|| (by_offset.clone(), by_time.clone())).clone();
        let row = Row::shown(format!("read at a random offset, log of {size_mib} MiB, p50"), "us", by_offset);
        bench.row(row.beside("at the first size", &smallest.0).with_target(target))?;
        let row = Row::shown(format!("read at a random time, log of {size_mib} MiB, p50"), "us", by_time);
        bench.row(row.beside("at the first size", &smallest.1).with_target(target))?;
    }
    Ok(())
}

/// A half-open range to draw from.
#[derive(Debug, Clone, Copy)]
struct Span {
    from: i64,
    to: i64,
}

fn fill(bench: &mut Bench, server: &ServerProcess, topic: &str) -> Result<u64, Box<dyn Error>> {
    let request = ready_request(topic, 0, batch(BATCH_RECORDS, RECORD_BYTES), v1::AckLevel::Unspecified);
    let load = ClosedLoop { in_flight: 256, duration: std::time::Duration::from_secs_f64(FILL_SECONDS) };
    let outcome = bench.runtime.block_on(async {
        let channel = connect(&server.url()).await?;
        Ok::<_, Box<dyn Error>>(closed_loop(channel, load, |_| request.clone()).await?)
    })?;
    Ok(outcome.answered * u64::from(BATCH_RECORDS))
}

fn one_record(topic: &str, start: read_start::At) -> v1::ReadRequest {
    v1::ReadRequest {
        topic: topic.to_owned(),
        partitions: vec![0],
        start: Some(v1::ReadStart { at: Some(start) }),
        end: Some(v1::ReadEnd { at: Some(read_end::At::Count(1)) }),
        form: v1::ReadForm::Records.into(),
        ..v1::ReadRequest::default()
    }
}

fn append_time_ms(bench: &mut Bench, server: &ServerProcess, topic: &str, offset: u64) -> Result<i64, Box<dyn Error>> {
    let request = one_record(topic, read_start::At::Offset(i64::try_from(offset)?));
    bench.runtime.block_on(async {
        let mut client = read_client(connect(&server.url()).await?);
        let mut stream = client.read(request).await?.into_inner();
        while let Some(response) = stream.message().await? {
            if let Some(v1::read_response::Frame::Records(frame)) = response.frame {
                return frame.records.first().map(|record| record.append_time_ms).ok_or_else(|| "no record".into());
            }
        }
        Err("the read ended without a record".into())
    })
}

/// Reads one record at so many random places; the median of their times in microseconds.
fn lookups(
    bench: &mut Bench,
    server: &ServerProcess,
    topic: &str,
    by: By,
    span: Span,
    seed: u64,
) -> Result<f64, Box<dyn Error>> {
    bench.runtime.block_on(async {
        let mut client = read_client(connect(&server.url()).await?);
        let mut latencies = Latencies::default();
        let clock = Stopwatch::start();
        let mut random = seed.wrapping_mul(7_919).wrapping_add(1);
        for _ in 0..LOOKUPS {
            random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let place = span.from + (random >> 16) as i64 % (span.to - span.from).max(1);
            let start = match by {
                By::Offset => read_start::At::Offset(place),
                By::Time => read_start::At::TimestampMs(place),
            };
            let before = clock.nanos();
            let mut stream = client.read(one_record(topic, start)).await?.into_inner();
            let mut found = false;
            while let Some(response) = stream.message().await? {
                found |= matches!(response.frame, Some(v1::read_response::Frame::Records(_)));
            }
            if !found {
                return Err(format!("nothing at {place}, by {by:?}").into());
            }
            latencies.record_ns(clock.nanos() - before);
        }
        Ok(latencies.percentile_us(50.0))
    })
}
