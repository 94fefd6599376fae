//! Time from the start of the process to the first answer: empty, with 10,000 partitions, with 10 GiB.

use std::error::Error;
use std::path::Path;

use sawlog_benches::load::client::create_topic;
use sawlog_benches::load::wire::{ClosedLoop, batch, closed_loop, connect, ready_request};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::server_process::ServerProcess;
use sawlog_benches::stats::Samples;
use sawlog_client::{AckLevel, Client};
use sawlog_proto::v1;

use super::context::Bench;

const TOPICS: u32 = 10;
const PARTITIONS_PER_TOPIC: f64 = 1_000.0;
const LARGE_BYTES: f64 = 10.0 * (1_u64 << 30) as f64;
const LARGE_PARTITIONS: u32 = 100;
/// Bytes of the large log's batches, and of their records.
const BATCH_BYTES: usize = 256 << 10;
const RECORD_BYTES: usize = 1_024;

/// How the broker ended the time before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ended {
    InGoodOrder,
    Killed,
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let mut empty = Samples::new();
    for _ in 0..bench.options.rounds {
        let broker = bench.broker()?;
        empty.push(first_answer_ms(bench, &broker.server)?);
    }
    bench.row(Row::shown("start, empty", "ms", empty).with_target(Target::AtMost(100.0)))?;
    many_partitions(bench)?;
    much_data(bench)
}

fn many_partitions(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let folder = bench.folder()?;
    let per_topic = (PARTITIONS_PER_TOPIC * bench.options.scale) as u32;
    let what = format!("{} partitions", per_topic * TOPICS);
    let server = bench.broker_on(folder.path())?;
    let client = bench.client(&server.url())?;
    for number in 0..TOPICS {
        let topic = format!("many-{number}");
        bench.runtime.block_on(create_topic(&client, &topic, per_topic, false, AckLevel::Written))?;
        each_partition_once(bench, &server, &topic, per_topic)?;
    }
    let open_mib = Samples::from_iter([server.resident_mib()?]);
    let row = Row::shown(format!("memory, {what} made and open"), "MiB", open_mib);
    bench.row(row.with_target(Target::AtMost(200.0)))?;
    server.stop()?;
    let mut memory = Samples::new();
    for ended in [Ended::InGoodOrder, Ended::Killed] {
        let times = restarts(bench, folder.path(), ended, &mut memory)?;
        bench.row(
            Row::shown(format!("start, {what}, {}", ended.word()), "ms", times).with_target(Target::AtMost(1_000.0)),
        )?;
    }
    let row = Row::shown(format!("memory, {what} after a start"), "MiB", memory);
    bench.row(row.with_target(Target::AtMost(200.0)))
}

fn much_data(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let folder = bench.folder()?;
    let bytes = LARGE_BYTES * bench.options.scale;
    let what = format!("{:.1} GiB in {LARGE_PARTITIONS} partitions", bytes / f64::from(1 << 30));
    let server = bench.broker_on(folder.path())?;
    let client = bench.client(&server.url())?;
    bench.runtime.block_on(create_topic(&client, "large", LARGE_PARTITIONS, false, AckLevel::Written))?;
    let filled = fill(bench, &server, bytes);
    let filled = filled.and_then(|()| Ok(server.stop()?));
    filled?;
    let mut memory = Samples::new();
    let clean = restarts(bench, folder.path(), Ended::InGoodOrder, &mut memory)?;
    bench.row(Row::shown(format!("start, {what}, clean"), "ms", clean).with_target(Target::AtMost(1_000.0)))?;
    let killed = restarts(bench, folder.path(), Ended::Killed, &mut memory)?;
    let row = Row::shown(format!("start, {what}, killed when idle"), "ms", killed);
    bench.row(row.with_target(Target::AtMost(5_000.0)))?;
    let under_load = killed_under_load(bench, folder.path())?;
    let row = Row::shown(format!("start, {what}, killed under load"), "ms", under_load);
    bench.row(row.with_target(Target::AtMost(5_000.0)))
}

impl Ended {
    fn word(self) -> &'static str {
        match self {
            Self::InGoodOrder => "clean",
            Self::Killed => "killed",
        }
    }

    fn end(self, server: ServerProcess) -> std::io::Result<()> {
        match self {
            Self::InGoodOrder => server.stop(),
            Self::Killed => server.kill(),
        }
    }
}

/// Starts and ends the broker in turn; the times of the starts that follow such an end.
fn restarts(bench: &mut Bench, folder: &Path, ended: Ended, memory: &mut Samples) -> Result<Samples, Box<dyn Error>> {
    let server = bench.broker_on(folder)?;
    first_answer_ms(bench, &server)?;
    ended.end(server)?;
    let mut times = Samples::new();
    for _ in 0..bench.options.rounds {
        let server = bench.broker_on(folder)?;
        times.push(first_answer_ms(bench, &server)?);
        memory.push(server.resident_mib()?);
        ended.end(server)?;
    }
    Ok(times)
}

/// Each time some more data, then a kill in the midst of it: unsynced tails in all partitions.
fn killed_under_load(bench: &mut Bench, folder: &Path) -> Result<Samples, Box<dyn Error>> {
    let mut times = Samples::new();
    for _ in 0..bench.options.rounds {
        let server = bench.broker_on(folder)?;
        first_answer_ms(bench, &server)?;
        fill(bench, &server, LARGE_BYTES * bench.options.scale / 20.0)?;
        server.kill()?;
        let server = bench.broker_on(folder)?;
        times.push(first_answer_ms(bench, &server)?);
        server.stop()?;
    }
    Ok(times)
}

/// Milliseconds from the start of the process to its first answer about a topic.
fn first_answer_ms(bench: &mut Bench, server: &ServerProcess) -> Result<f64, Box<dyn Error>> {
    let client: Client = bench.client(&server.url())?;
    bench.runtime.block_on(client.admin().list_page("", 1, ""))?;
    Ok(server.since_start().as_secs_f64() * 1e3)
}

fn each_partition_once(
    bench: &mut Bench,
    server: &ServerProcess,
    topic: &str,
    partitions: u32,
) -> Result<(), Box<dyn Error>> {
    let load = ClosedLoop { in_flight: partitions as usize, duration: std::time::Duration::ZERO };
    let data = batch(1, 100);
    bench.runtime.block_on(async {
        let channel = connect(&server.url()).await?;
        let request =
            |number| ready_request(topic, number as u32 % partitions, data.clone(), v1::AckLevel::Unspecified);
        closed_loop(channel, load, request).await?;
        Ok(())
    })
}

/// Spreads so many bytes over the partitions of the large topic.
fn fill(bench: &mut Bench, server: &ServerProcess, bytes: f64) -> Result<(), Box<dyn Error>> {
    let records = u32::try_from(BATCH_BYTES / RECORD_BYTES)?;
    let data = batch(records, RECORD_BYTES);
    let batches = (bytes / data.len() as f64).ceil() as u64;
    let load = ClosedLoop { in_flight: 16, duration: std::time::Duration::from_secs(1) };
    let mut sent = 0;
    while sent < batches {
        let outcome = bench.runtime.block_on(async {
            let channel = connect(&server.url()).await?;
            let request = |number: u64| {
                let partition = ((sent + number) % u64::from(LARGE_PARTITIONS)) as u32;
                ready_request("large", partition, data.clone(), v1::AckLevel::Unspecified)
            };
            Ok::<_, Box<dyn Error>>(closed_loop(channel, load, request).await?)
        })?;
        sent += outcome.answered;
    }
    Ok(())
}
