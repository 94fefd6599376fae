//! The curve of durable appends over 1 to 1,000 active partitions: does one sync carry many appends only when they go
//! to one file?

use std::error::Error;

use sawlog_benches::limits::{AppendLoad, bare_synced_append};
use sawlog_benches::load::client::create_topic;
use sawlog_benches::load::wire::{ClosedLoop, LoopOutcome, batch, closed_loop, connect, ready_request};
use sawlog_benches::report::Row;
use sawlog_benches::server_process::ServerProcess;
use sawlog_benches::stats::Samples;
use sawlog_client::AckLevel;
use sawlog_proto::v1;

use super::context::Bench;

const PARTITIONS: [u32; 4] = [1, 10, 100, 1_000];
const RECORD_BYTES: usize = 1_024;
/// Producers, each with a stream of its own, on two connections.
const STREAMS: usize = 64;
/// Appends that one producer has in flight: in all about one for each of 1,000 partitions.
const IN_FLIGHT: usize = 16;
const CONNECTIONS: usize = 2;
const SYNCED_APPENDS: u64 = 500;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    for partitions in PARTITIONS {
        let broker = bench.broker()?;
        let [mut rate, mut p50, mut p99, mut limit_s, mut cpu] = [const { Samples::new() }; 5];
        for _ in 0..bench.options.rounds {
            let load = AppendLoad { bytes_each: RECORD_BYTES, count: SYNCED_APPENDS };
            limit_s.push(1e6 / bare_synced_append(broker.folder.path(), load)?.mean_us());
            let before = broker.server.cpu_seconds()?;
            let outcome = once(bench, &broker.server, partitions)?;
            cpu.push((broker.server.cpu_seconds()? - before) * 1e6 / outcome.answered as f64);
            rate.push(outcome.answered as f64 / outcome.seconds);
            p50.push(outcome.latencies.percentile_us(50.0) / 1_000.0);
            p99.push(outcome.latencies.percentile_us(99.0) / 1_000.0);
        }
        let what = format!("durable appends of 1 KiB over {partitions} partitions");
        bench.row(Row::shown(what.clone(), "appends/s", rate).beside("1 / S", &limit_s))?;
        bench.row(Row::shown(format!("{what}, p50"), "ms", p50))?;
        bench.row(Row::shown(format!("{what}, p99"), "ms", p99))?;
        bench.row(Row::shown(format!("{what}, server CPU"), "us/append", cpu))?;
    }
    Ok(())
}

fn once(bench: &mut Bench, server: &ServerProcess, partitions: u32) -> Result<LoopOutcome, Box<dyn Error>> {
    let client = bench.client(&server.url())?;
    let topic = bench.topic_name("curve");
    bench.runtime.block_on(create_topic(&client, &topic, partitions, false, AckLevel::Durable))?;
    let load = ClosedLoop { in_flight: IN_FLIGHT, duration: bench.duration() };
    let data = batch(1, RECORD_BYTES);
    let mut streams = Vec::new();
    for _ in 0..CONNECTIONS {
        let channel = bench.runtime.block_on(connect(&server.url()))?;
        for _ in 0..STREAMS / CONNECTIONS {
            // Each stream begins elsewhere and goes around, so that all partitions are active all the time.
            let start = streams.len() as u64 * u64::from(partitions) / STREAMS as u64;
            let (channel, topic, data) = (channel.clone(), topic.clone(), data.clone());
            streams.push(bench.runtime.spawn(async move {
                closed_loop(channel, load, |number| {
                    let partition = ((start + number) % u64::from(partitions)) as u32;
                    ready_request(&topic, partition, data.clone(), v1::AckLevel::Durable)
                })
                .await
            }));
        }
    }
    let mut total: Option<LoopOutcome> = None;
    for stream in streams {
        let outcome = bench.runtime.block_on(stream)??;
        match &mut total {
            Some(total) => total.add(&outcome),
            None => total = Some(outcome),
        }
    }
    bench.delete_topic(&client, &topic)?;
    total.ok_or_else(|| "no stream ran".into())
}
