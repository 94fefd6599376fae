//! Replay from the page cache through the client's reader, 1 and 8 partitions.

use std::error::Error;

use sawlog_benches::load::client::{ProduceLoad, Throughput, create_null_replay, create_topic, produce, replay};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::server_process::ServerProcess;
use sawlog_benches::stats::Samples;
use sawlog_client::AckLevel;

use super::context::Bench;

/// Bytes of records in a topic.
const TOPIC_BYTES: usize = 1 << 30;
/// Connections that read 8 partitions: one for each core of the machines that this runs on.
const CONNECTIONS: u32 = 2;
/// Bytes that a made-up record takes in its batch besides its value, about.
const NULL_BATCH_BYTES: usize = 256 << 10;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    for (record_bytes, least) in [(100, 0.6), (1_024, 0.7)] {
        for partitions in [1, 8] {
            compare(bench, record_bytes, partitions, least)?;
        }
    }
    Ok(())
}

fn compare(bench: &mut Bench, record_bytes: usize, partitions: u32, least: f64) -> Result<(), Box<dyn Error>> {
    let null = bench.null()?;
    let broker = bench.broker()?;
    let topic = bench.topic_name("replay");
    let records = fill(bench, &broker.server, &topic, record_bytes, partitions)?;
    let null_client = bench.client(&null.url())?;
    let batches = (records * record_bytes as u64) as usize / NULL_BATCH_BYTES / partitions as usize;
    let made = create_null_replay(&null_client, &topic, partitions, record_bytes, batches);
    bench.runtime.block_on(made)?;
    read(bench, &broker.server, &topic, partitions)?;
    let [mut limit_n, mut rate, mut cpu] = [const { Samples::new() }; 3];
    for _ in 0..bench.options.rounds {
        limit_n.push(read(bench, &null, &topic, partitions)?.rate());
        let before = broker.server.cpu_seconds()?;
        let done = read(bench, &broker.server, &topic, partitions)?;
        cpu.push((broker.server.cpu_seconds()? - before) * 1e6 / done.records as f64);
        if done.records != records {
            return Err(format!("{} records were acknowledged, {} came back", records, done.records).into());
        }
        rate.push(done.rate());
    }
    let what = format!("replay {record_bytes} B, {partitions} partitions");
    let row = Row::shown(what.clone(), "records/s", rate);
    bench.row(row.beside("N", &limit_n).with_target(Target::RatioAtLeast(least)))?;
    bench.row(Row::shown(format!("{what}, server CPU"), "s/M records", cpu))
}

/// Fills the topic through the client's producer; returns the number of records.
fn fill(
    bench: &mut Bench,
    server: &ServerProcess,
    topic: &str,
    record_bytes: usize,
    partitions: u32,
) -> Result<u64, Box<dyn Error>> {
    let client = bench.client(&server.url())?;
    bench.runtime.block_on(create_topic(&client, topic, partitions, true, AckLevel::Written))?;
    let load = ProduceLoad { topic: topic.to_owned(), record_bytes, keys: 100_000, duration: bench.duration() };
    let mut records = 0;
    while records * (record_bytes as u64) < TOPIC_BYTES as u64 {
        records += bench.runtime.block_on(produce(&client, &load))?.records;
    }
    Ok(records)
}

/// Reads the topic once: one partition on one connection, several on two at the same time.
fn read(bench: &mut Bench, server: &ServerProcess, topic: &str, partitions: u32) -> Result<Throughput, Box<dyn Error>> {
    let connections = CONNECTIONS.min(partitions);
    let mut readers = Vec::new();
    for connection in 0..connections {
        let client = bench.client(&server.url())?;
        let topic = topic.to_owned();
        let own = (0..partitions).filter(|partition| partition % connections == connection).collect();
        readers.push(bench.runtime.spawn(async move { replay(&client, &topic, own).await }));
    }
    let mut total = Throughput::default();
    for reader in readers {
        let done = bench.runtime.block_on(reader)??;
        total.records += done.records;
        total.seconds = total.seconds.max(done.seconds);
    }
    Ok(total)
}
