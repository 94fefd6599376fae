//! One producer, one record at a time, durable: what a careful caller without batches gets.

use std::error::Error;

use sawlog_benches::limits::{AppendLoad, bare_synced_append, tcp_round_trips};
use sawlog_benches::load::client::{ProduceLoad, create_topic, produce_one_at_a_time};
use sawlog_benches::load::wire::{connect, one_at_a_time, plain_request};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::server_process::ServerProcess;
use sawlog_benches::stats::Samples;
use sawlog_client::AckLevel;
use sawlog_proto::v1;

use super::context::Bench;

const RECORD_BYTES: usize = 100;
/// Bytes of the frame that such a record becomes, about.
const FRAME_BYTES: usize = 256;
const SYNCED_APPENDS: u64 = 1_000;
const ROUND_TRIPS: u32 = 5_000;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let null = bench.null()?;
    let broker = bench.broker()?;
    let [mut limit_n, mut limit_s, mut limit_r] = [const { Samples::new() }; 3];
    let [mut unary, mut unary_p99, mut producer, mut null_producer] = [const { Samples::new() }; 4];
    for _ in 0..bench.options.rounds {
        limit_r.push(tcp_round_trips(ROUND_TRIPS)?.mean_us());
        limit_n.push(unary_once(bench, &null)?.0);
        let load = AppendLoad { bytes_each: FRAME_BYTES, count: SYNCED_APPENDS };
        limit_s.push(bare_synced_append(broker.folder.path(), load)?.mean_us());
        let (mean_us, p99_us) = unary_once(bench, &broker.server)?;
        unary.push(1e6 / mean_us);
        unary_p99.push(p99_us);
        null_producer.push(producer_once(bench, &null)?);
        producer.push(1e6 / producer_once(bench, &broker.server)?);
    }
    bench.row(Row::shown("R: TCP round trip of 64 B, mean", "us", limit_r))?;
    bench.row(Row::shown("S: bare append of 256 B + fdatasync, mean", "us", limit_s.clone()))?;
    bench.row(Row::shown("N: unary Produce of one record, mean", "us", limit_n.clone()))?;
    let best = limit_n.zip_with(&limit_s, |n, s| 1e6 / (n + s));
    let row = Row::shown("durable, one record at a time, unary", "records/s", unary);
    bench.row(row.beside("1 / (N + S)", &best).with_target(Target::RatioAtLeast(0.8)))?;
    bench.row(Row::shown("durable, one record at a time, unary, p99", "us", unary_p99))?;
    let best = null_producer.zip_with(&limit_s, |n, s| 1e6 / (n + s));
    bench.row(Row::shown("durable, one record at a time, producer", "records/s", producer).beside("1 / (N + S)", &best))
}

/// Mean and p99 in microseconds.
fn unary_once(bench: &mut Bench, server: &ServerProcess) -> Result<(f64, f64), Box<dyn Error>> {
    let client = bench.client(&server.url())?;
    let topic = bench.topic_name("single");
    let duration = bench.duration();
    let outcome = bench.runtime.block_on(async {
        create_topic(&client, &topic, 1, false, AckLevel::Durable).await?;
        let channel = connect(&server.url()).await?;
        let request = plain_request(&topic, 1, RECORD_BYTES, v1::AckLevel::Durable);
        Ok::<_, Box<dyn Error>>(one_at_a_time(channel, duration, request).await?)
    })?;
    bench.delete_topic(&client, &topic)?;
    Ok((outcome.latencies.mean_us(), outcome.latencies.percentile_us(99.0)))
}

/// Mean in microseconds, through the client's producer.
fn producer_once(bench: &mut Bench, server: &ServerProcess) -> Result<f64, Box<dyn Error>> {
    let client = bench.client(&server.url())?;
    let topic = bench.topic_name("single");
    let load = ProduceLoad { topic: topic.clone(), record_bytes: RECORD_BYTES, keys: 0, duration: bench.duration() };
    let latencies = bench.runtime.block_on(async {
        create_topic(&client, &topic, 1, false, AckLevel::Durable).await?;
        produce_one_at_a_time(&client, &load).await
    })?;
    bench.delete_topic(&client, &topic)?;
    Ok(latencies.mean_us())
}
