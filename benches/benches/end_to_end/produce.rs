//! Produce through the client's producer, `written` and durable, and as plain records; CPU and memory of the broker.

use std::error::Error;

use sawlog_benches::limits::{AppendLoad, bare_append};
use sawlog_benches::load::client::{ProduceLoad, create_topic, produce};
use sawlog_benches::load::wire::{ClosedLoop, closed_loop, connect, plain_request};
use sawlog_benches::process_stats::peak_resident_bytes;
use sawlog_benches::report::{Row, Target};
use sawlog_benches::server_process::ServerProcess;
use sawlog_benches::stats::Samples;
use sawlog_client::{AckLevel, Client};
use sawlog_proto::v1;

use super::context::{Bench, BrokerOnFolder};

/// Bytes of one bare append: about a batch of the client.
const APPEND_BYTES: usize = 128 << 10;
/// Bytes appended for limit A.
const APPEND_TOTAL_BYTES: u64 = 512 << 20;
/// Records of a request of plain records, and requests in flight.
const PLAIN_RECORDS: usize = 1_000;
const PLAIN_IN_FLIGHT: usize = 16;

/// A topic's shape and the load on it.
#[derive(Debug, Clone, Copy)]
struct Shape {
    record_bytes: usize,
    partitions: u32,
    keys: u32,
    floor: AckLevel,
}

/// What one load cost.
#[derive(Debug, Clone, Copy)]
struct Measured {
    rate: f64,
    cpu_s_per_million: f64,
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    ready_batches(bench, 100)?;
    ready_batches(bench, 1_024)?;
    keyed(bench)?;
    plain_records(bench)
}

fn ready_batches(bench: &mut Bench, record_bytes: usize) -> Result<(), Box<dyn Error>> {
    let null = bench.null()?;
    let broker = bench.broker()?;
    let idle_mib = broker.server.resident_mib()?;
    let (null_client, client) = (bench.client(&null.url())?, bench.client(&broker.server.url())?);
    let shape = Shape { record_bytes, partitions: 1, keys: 0, floor: AckLevel::Written };
    let durable_shape = Shape { floor: AckLevel::Durable, ..shape };
    once(bench, &null, &null_client, shape)?;
    once(bench, &broker.server, &client, shape)?;
    let [mut limit_n, mut written, mut durable] = [const { Vec::new() }; 3];
    let mut limit_a = Samples::new();
    for _ in 0..bench.options.rounds {
        limit_n.push(once(bench, &null, &null_client, shape)?);
        written.push(once(bench, &broker.server, &client, shape)?);
        durable.push(once(bench, &broker.server, &client, durable_shape)?);
        let load = AppendLoad { bytes_each: APPEND_BYTES, count: APPEND_TOTAL_BYTES / APPEND_BYTES as u64 };
        limit_a.push(bare_append(broker.folder.path(), load)? / record_bytes as f64);
    }
    let rates = |measured: &[Measured]| measured.iter().map(|one| one.rate).collect::<Samples>();
    let cpu = |measured: &[Measured]| measured.iter().map(|one| one.cpu_s_per_million).collect::<Samples>();
    let (limit_n_cpu, limit_n) = (cpu(&limit_n), rates(&limit_n));
    let (written_cpu, durable_cpu) = (cpu(&written), cpu(&durable));
    let (written, durable) = (rates(&written), rates(&durable));
    let what = format!("produce {record_bytes} B, batched");
    let row = Row::shown(format!("{what}, written"), "records/s", written.clone());
    bench.row(row.clone().beside("N", &limit_n).with_target(Target::RatioAtLeast(0.6)))?;
    bench.row(row.beside("A", &limit_a))?;
    let row = Row::shown(format!("{what}, durable"), "records/s", durable);
    bench.row(row.beside("written", &written).with_target(Target::RatioAtLeast(0.5)))?;
    let row = Row::shown(format!("{what}, written, server CPU"), "s/M records", written_cpu);
    let row = row.beside("N", &limit_n_cpu);
    bench.row(if record_bytes == 100 { row.with_target(Target::AtMost(0.25)) } else { row })?;
    bench.row(Row::shown(format!("{what}, durable, server CPU"), "s/M records", durable_cpu))?;
    memory(bench, &broker, idle_mib, &what)
}

fn memory(bench: &mut Bench, broker: &BrokerOnFolder, idle_mib: f64, what: &str) -> Result<(), Box<dyn Error>> {
    let peak_mib = peak_resident_bytes(broker.server.pid())? as f64 / f64::from(1 << 20);
    let one = |value: f64| Samples::from_iter([value]);
    bench.row(Row::shown("memory, idle", "MiB", one(idle_mib)).with_target(Target::AtMost(20.0)))?;
    let row = Row::shown(format!("memory, peak under: {what}"), "MiB", one(peak_mib));
    bench.row(row.with_target(Target::AtMost(120.0)))
}

/// Keys spread over 8 partitions: what most users do.
fn keyed(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let null = bench.null()?;
    let broker = bench.broker()?;
    let (null_client, client) = (bench.client(&null.url())?, bench.client(&broker.server.url())?);
    let shape = Shape { record_bytes: 100, partitions: 8, keys: 100_000, floor: AckLevel::Written };
    once(bench, &broker.server, &client, shape)?;
    let [mut limit_n, mut written, mut durable] = [const { Samples::new() }; 3];
    for _ in 0..bench.options.rounds {
        limit_n.push(once(bench, &null, &null_client, shape)?.rate);
        written.push(once(bench, &broker.server, &client, shape)?.rate);
        durable.push(once(bench, &broker.server, &client, Shape { floor: AckLevel::Durable, ..shape })?.rate);
    }
    let what = "produce 100 B + key of 8 B, 8 partitions";
    bench.row(Row::shown(format!("{what}, written"), "records/s", written).beside("N", &limit_n))?;
    bench.row(Row::shown(format!("{what}, durable"), "records/s", durable).beside("N", &limit_n))
}

/// One load on a fresh topic.
fn once(bench: &mut Bench, server: &ServerProcess, client: &Client, shape: Shape) -> Result<Measured, Box<dyn Error>> {
    let topic = bench.topic_name("produce");
    let load = ProduceLoad {
        topic: topic.clone(),
        record_bytes: shape.record_bytes,
        keys: shape.keys,
        duration: bench.duration(),
    };
    bench.runtime.block_on(create_topic(client, &topic, shape.partitions, shape.keys > 0, shape.floor))?;
    let before = server.cpu_seconds()?;
    let done = bench.runtime.block_on(produce(client, &load))?;
    let cpu = server.cpu_seconds()? - before;
    bench.delete_topic(client, &topic)?;
    Ok(Measured { rate: done.rate(), cpu_s_per_million: cpu * 1e6 / done.records as f64 })
}

fn plain_records(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let null = bench.null()?;
    let broker = bench.broker()?;
    let (null_client, client) = (bench.client(&null.url())?, bench.client(&broker.server.url())?);
    let shape = Shape { record_bytes: 100, partitions: 1, keys: 0, floor: AckLevel::Written };
    let [mut limit_n, mut limit_plain, mut plain] = [const { Samples::new() }; 3];
    for _ in 0..bench.options.rounds {
        limit_n.push(once(bench, &null, &null_client, shape)?.rate);
        limit_plain.push(plain_once(bench, &null, &null_client)?);
        plain.push(plain_once(bench, &broker.server, &client)?);
    }
    let row = Row::shown("produce 100 B, plain records, written", "records/s", plain);
    let target = row.clone().beside("N (ready batches)", &limit_n).with_target(Target::RatioAtLeast(0.3));
    bench.row(target.with_note("half of the 0.6 of ready batches"))?;
    bench.row(row.beside("N (plain records)", &limit_plain))
}

fn plain_once(bench: &mut Bench, server: &ServerProcess, client: &Client) -> Result<f64, Box<dyn Error>> {
    let topic = bench.topic_name("plain");
    bench.runtime.block_on(create_topic(client, &topic, 1, false, AckLevel::Written))?;
    let request = plain_request(&topic, PLAIN_RECORDS, 100, v1::AckLevel::Unspecified);
    let load = ClosedLoop { in_flight: PLAIN_IN_FLIGHT, duration: bench.duration() };
    let outcome = bench.runtime.block_on(async {
        let channel = connect(&server.url()).await?;
        Ok::<_, Box<dyn Error>>(closed_loop(channel, load, |_| request.clone()).await?)
    })?;
    bench.delete_topic(client, &topic)?;
    Ok(outcome.answered as f64 * PLAIN_RECORDS as f64 / outcome.seconds)
}
