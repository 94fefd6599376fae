//! Rates of a group beside the plain reader, what one failing key costs, time to the first delivery, the journal.

use std::error::Error;
use std::path::Path;
use std::time::Duration;

use sawlog_benches::load::client::{LatencyLoad, create_topic, replay};
use sawlog_benches::load::groups::{
    GroupLoad, consume_acked, consume_committed, consume_scattered, fill, first_delivery_latency, make_group,
};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::stats::Samples;
use sawlog_client::AckLevel;
use sawlog_client::groups::GroupMode;

use crate::context::{Bench, BrokerOnFolder};

const RECORD_BYTES: usize = 100;
const RECORDS: u64 = 1_000_000;
const KEYS: u64 = 100_000;
const PARTITIONS: u32 = 4;
/// Pairs of rounds with and without a failing key.
const PAIRS: usize = 10;
/// Records that are in work at once where acknowledgements come out of order.
const HANDLERS: usize = 256;
/// Records whose settling the journal is measured by.
const JOURNAL_RECORDS: u64 = 10_000_000;

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    modes(bench)?;
    latency(bench)?;
    journal(bench)
}

fn filled(bench: &mut Bench, broker: &BrokerOnFolder, records: u64, partitions: u32) -> Result<String, Box<dyn Error>> {
    let topic = bench.topic_name("groups");
    let client = bench.client(&broker.server.url())?;
    bench.runtime.block_on(async {
        create_topic(&client, &topic, partitions, true, AckLevel::Written).await?;
        fill(&client, &topic, records, RECORD_BYTES, KEYS).await
    })?;
    Ok(topic)
}

/// Each mode over the same topic, beside a plain replay of it.
fn modes(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let broker = bench.broker()?;
    let topic = filled(bench, &broker, RECORDS, PARTITIONS)?;
    let [mut plain, mut offset, mut keyed, mut unordered, mut cpu] = [const { Samples::new() }; 5];
    for round in 0..bench.options.rounds {
        let client = bench.client(&broker.server.url())?;
        let partitions = (0..PARTITIONS).collect();
        plain.push(bench.runtime.block_on(replay(&client, &topic, partitions))?.rate());
        for (mode, samples) in
            [(GroupMode::Offset, &mut offset), (GroupMode::Keyed, &mut keyed), (GroupMode::Unordered, &mut unordered)]
        {
            let load = GroupLoad::new(format!("{mode:?}-{round}").to_lowercase(), topic.as_str(), mode);
            let before = broker.server.cpu_seconds()?;
            let done = bench.runtime.block_on(async {
                make_group(&client, &load).await?;
                match mode {
                    GroupMode::Offset => consume_committed(&client, &load.group, RECORDS).await,
                    _ => consume_acked(&client, &load.group, RECORDS, |_| false).await,
                }
            })?;
            samples.push(done.rate());
            if mode == GroupMode::Keyed {
                cpu.push((broker.server.cpu_seconds()? - before) * 1e6 / done.records as f64);
            }
        }
    }
    let what = "group of one member, 100 B";
    let row = Row::shown(format!("{what}, OFFSET, committed"), "records/s", offset.clone());
    bench.row(row.beside("replay", &plain).with_target(Target::RatioAtLeast(0.5)))?;
    bench.row(Row::shown("the same, floor", "records/s", offset.clone()).with_target(Target::AtLeast(2e6)))?;
    let row = Row::shown(format!("{what}, KEYED, each acked"), "records/s", keyed.clone());
    bench.row(row.beside("OFFSET", &offset).with_target(Target::RatioAtLeast(0.12)))?;
    bench.row(Row::shown("the same, floor", "records/s", keyed).with_target(Target::AtLeast(3e5)))?;
    bench.row(Row::shown(format!("{what}, UNORDERED, each acked"), "records/s", unordered))?;
    bench.row(Row::shown(format!("{what}, KEYED, server CPU"), "s/M records", cpu))
}

/// Pairs of runs over one partition, with and without a key that always fails.
pub(crate) fn one_failing_key(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let broker = bench.broker()?;
    let topic = filled(bench, &broker, RECORDS, 1)?;
    let [mut sound, mut failing] = [const { Samples::new() }; 2];
    let per_key = RECORDS / KEYS;
    for pair in 0..PAIRS.max(bench.options.rounds) {
        // Each comes first in turn.
        let order = if pair % 2 == 0 { [0, 1] } else { [1, 0] };
        for failing_keys in order {
            let client = bench.client(&broker.server.url())?;
            let name = format!("pair-{pair}-{failing_keys}");
            let load = GroupLoad::new(name, topic.as_str(), GroupMode::Keyed);
            let expect = RECORDS - failing_keys * per_key;
            let done = bench.runtime.block_on(async {
                make_group(&client, &load).await?;
                consume_acked(&client, &load.group, expect, |key| key < failing_keys).await
            })?;
            if failing_keys == 0 { &mut sound } else { &mut failing }.push(done.rate());
        }
    }
    let row = Row::shown("group KEYED, 1 partition, one key failing", "records/s", failing);
    bench.row(row.beside("none failing", &sound).with_target(Target::RatioAtLeast(0.95)))
}

/// From append to first delivery at 5,000 records a second of 256 B.
fn latency(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let broker = bench.broker()?;
    let [mut p50, mut p99] = [const { Samples::new() }; 2];
    for _ in 0..bench.options.rounds {
        let topic = bench.topic_name("group-latency");
        let url = broker.server.url();
        let client = bench.client(&url)?;
        let load = LatencyLoad {
            topic: topic.clone(),
            record_bytes: 256,
            per_second: 5_000,
            warm_up: Duration::from_millis(500),
            duration: Duration::from_secs_f64(bench.options.seconds.max(4.0)),
        };
        let latencies = bench.runtime.block_on(async {
            create_topic(&client, &topic, 1, false, AckLevel::Written).await?;
            make_group(&client, &GroupLoad::new(topic.as_str(), topic.as_str(), GroupMode::Keyed)).await?;
            first_delivery_latency(&url, &topic, &load).await
        })?;
        p50.push(latencies.percentile_us(50.0));
        p99.push(latencies.percentile_us(99.0));
    }
    let what = "append to first delivery at 5,000/s of 256 B, written, KEYED";
    bench.row(Row::shown(format!("{what}, p50"), "us", p50).with_target(Target::AtMost(1_000.0)))?;
    bench.row(Row::shown(format!("{what}, p99"), "us", p99))
}

fn bytes_in(dir: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries.flatten().filter_map(|entry| entry.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Size of the group journal after 10 M acknowledgements in and out of order, and how long the next start takes.
fn journal(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    journal_after(bench, None)?;
    journal_after(bench, Some(HANDLERS))
}

fn journal_after(bench: &mut Bench, handlers: Option<usize>) -> Result<(), Box<dyn Error>> {
    let broker = bench.broker()?;
    let records = ((JOURNAL_RECORDS as f64 * bench.options.scale) as u64).max(RECORDS);
    let topic = filled(bench, &broker, records, PARTITIONS)?;
    let client = bench.client(&broker.server.url())?;
    let load = GroupLoad::new("journal", topic.as_str(), GroupMode::Keyed);
    bench.runtime.block_on(make_group(&client, &load))?;
    let before = broker.server.cpu_seconds()?;
    let done = bench.runtime.block_on(async {
        match handlers {
            None => consume_acked(&client, &load.group, records, |_| false).await,
            Some(handlers) => consume_scattered(&client, &load.group, records, handlers).await,
        }
    })?;
    let cpu = broker.server.cpu_seconds()? - before;
    let written = broker.server.metric("sawlog_journal_record_bytes_total{journal=\"groups\"}")?;
    let BrokerOnFolder { server, folder } = broker;
    let rss = server.resident_mib()?;
    server.kill()?;
    let bytes = bytes_in(&folder.path().join("data/groups")) as f64;
    let again = bench.broker_on(folder.path())?;
    let ready_ms = again.since_start().as_secs_f64() * 1e3;
    let what = match handlers {
        None => format!("{records} acks in order"),
        Some(handlers) => format!("{records} acks, each of a random one of {handlers} in work"),
    };
    let one = |value: f64| {
        let mut samples = Samples::new();
        samples.push(value);
        samples
    };
    bench.row(Row::shown(format!("{what}, KEYED"), "records/s", one(done.rate())))?;
    bench.row(Row::shown(format!("{what}, server CPU"), "s/M records", one(cpu * 1e6 / records as f64)))?;
    bench.row(Row::shown(format!("{what}, memory after"), "MiB", one(rss)))?;
    let size = Row::shown(format!("{what}, group journal"), "MiB", one(bytes / f64::from(1 << 20)));
    bench.row(size.with_target(Target::AtMost(256.0)))?;
    let per_record = one(written / records as f64);
    bench.row(Row::shown(format!("{what}, journal per settled record, unframed"), "B", per_record))?;
    let start = Row::shown(format!("{what}, start after a kill"), "ms", one(ready_ms));
    bench.row(start.with_target(Target::AtMost(1_000.0)))
}
