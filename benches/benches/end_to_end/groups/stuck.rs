//! 10,000 keys that always fail among 1 M records of 100,000 keys on one partition: every tenth key, so that at any time
//! a tenth of all keys fails and the breaker has no reason to open (rule CB-1). What was held and spilled comes back once
//! the handlers succeed; that is waited for as long as anything moves.

use std::error::Error;
use std::time::Duration;

use sawlog_benches::load::client::create_topic;
use sawlog_benches::load::groups::{GroupLoad, consume_acked, fill, join, make_group};
use sawlog_benches::process_stats::peak_resident_bytes;
use sawlog_benches::report::{Row, Target};
use sawlog_benches::stats::Samples;
use sawlog_benches::timing::Stopwatch;
use sawlog_client::dead_letter::{EntrySelector, EntryState};
use sawlog_client::groups::{BreakerState, GroupMode};
use sawlog_client::{AckLevel, Client, StreamExt as _};

use crate::context::Bench;

const RECORDS: u64 = 1_000_000;
const KEYS: u64 = 100_000;
const FAILING: u64 = 10_000;
const RECORD_BYTES: usize = 100;
/// For all records that do not fail.
const PATIENCE: Duration = Duration::from_secs(300);
/// Without any record that comes.
const STANDSTILL: Duration = Duration::from_secs(60);
/// Between two looks at what is left.
const LOOK: Duration = Duration::from_millis(250);

/// What one run came to.
#[derive(Debug, Default)]
struct Run {
    rate: f64,
    peak_mib: f64,
    /// Keys that waited, and records held, when all others were settled.
    blocked: u64,
    held: u64,
    spilled: u64,
    unwind_seconds: f64,
    /// Times that a bound of rule AK-7 was neared.
    near: f64,
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let [mut with, mut without, mut memory, mut spilled, mut unwind] = [const { Samples::new() }; 5];
    let [mut blocked, mut held, mut near] = [const { Samples::new() }; 3];
    for _ in 0..bench.options.rounds.min(3) {
        let sound = once(bench, 0)?;
        let stuck = once(bench, FAILING)?;
        without.push(sound.rate);
        with.push(stuck.rate);
        memory.push(stuck.peak_mib - sound.peak_mib);
        blocked.push(stuck.blocked as f64);
        held.push(stuck.held as f64);
        spilled.push(stuck.spilled as f64);
        unwind.push(stuck.unwind_seconds);
        near.push(stuck.near);
    }
    let what = "10,000 of 100,000 keys failing, 1 partition";
    bench.row(Row::shown(format!("{what}: the others"), "records/s", with).beside("none failing", &without))?;
    let row = Row::shown(format!("{what}: memory above the run without"), "MiB", memory);
    bench.row(row.with_target(Target::AtMost(64.0)))?;
    bench.row(Row::shown(format!("{what}: keys that waited when the others were done"), "keys", blocked))?;
    bench.row(Row::shown(format!("{what}: records held then"), "records", held))?;
    let row = Row::shown(format!("{what}: records spilled"), "records", spilled);
    bench.row(row.with_target(Target::AtLeast(1.0)))?;
    let row =
        Row::shown(format!("{what}: times that a bound of held records or waiting keys was at 80 %"), "times", near);
    bench.row(row.with_target(Target::AtLeast(1.0)))?;
    bench.row(Row::shown(format!("{what}: until all is settled once they succeed"), "s", unwind))
}

fn once(bench: &mut Bench, failing: u64) -> Result<Run, Box<dyn Error>> {
    let broker = bench.broker()?;
    let client = bench.client(&broker.server.url())?;
    let topic = bench.topic_name("stuck");
    let mut load = GroupLoad::new("stuck", topic.as_str(), GroupMode::Keyed);
    load.backoff_ms = 5_000;
    bench.runtime.block_on(async {
        create_topic(&client, &topic, 1, true, AckLevel::Written).await?;
        fill(&client, &topic, RECORDS, RECORD_BYTES, KEYS).await?;
        make_group(&client, &load).await
    })?;
    let every = KEYS.checked_div(failing).unwrap_or(u64::MAX);
    let healthy = RECORDS - failing * (RECORDS / KEYS);
    let consume = consume_acked(&client, "stuck", healthy, |key| failing > 0 && key % every == 0);
    let consume = async { Ok::<_, Box<dyn Error>>(tokio::time::timeout(PATIENCE, consume).await??) };
    let done = bench.runtime.block_on(consume)?;
    let peak_mib = peak_resident_bytes(broker.server.pid())? as f64 / f64::from(1 << 20);
    let mut run = Run { rate: done.rate(), peak_mib, ..Run::default() };
    if failing == 0 {
        return Ok(run);
    }
    let lag = bench.runtime.block_on(client.groups().lag("stuck", &[]))?;
    if lag.breaker.state != Some(BreakerState::Closed) {
        return Err(format!("the breaker is not closed: {:?}", lag.breaker).into());
    }
    run.blocked = lag.partitions.iter().map(|partition| partition.blocked_keys).sum();
    run.held = lag.partitions.iter().map(|partition| partition.held_records).sum();
    run.near = broker.server.metric("sawlog_group_bounds_near_total{group=\"stuck\"}")?;
    run.spilled = bench.runtime.block_on(count_spilled(&client))?;
    // From now on every handler succeeds: what was held and what was spilled must come, all of it.
    run.unwind_seconds = bench.runtime.block_on(unwind(&client))?;
    let left = bench.runtime.block_on(count_spilled(&client))?;
    if left > 0 {
        return Err(format!("{left} records are still spilled").into());
    }
    Ok(run)
}

/// Acknowledges whatever comes until nothing is unsettled and no key is dead or spilled; the seconds that it took. Records
/// may come twice when the machine is so busy that leases or sessions end: what is left is asked for, not counted here.
async fn unwind(client: &Client) -> Result<f64, Box<dyn Error>> {
    let mut consumer = join(client, "stuck").await?;
    let (clock, mut moved) = (Stopwatch::start(), Stopwatch::start());
    let (mut acked, mut acked_before) = (0_u64, 0);
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            delivery = consumer.next_delivery() => {
                delivery.ok_or("the consumer has ended")??.ack_later();
                acked += 1;
            }
            _ = looks.tick() => {
                let lag = client.groups().lag("stuck", &[]).await?;
                if lag.lag_records + lag.dead_keys == 0 {
                    break;
                }
                if acked > std::mem::replace(&mut acked_before, acked) {
                    moved = Stopwatch::start();
                }
                if moved.elapsed() > STANDSTILL || acked > RECORDS {
                    let (records, keys) = (lag.lag_records, lag.dead_keys);
                    return Err(format!("{acked} came, still {records} are unsettled, {keys} keys not live").into());
                }
            }
        }
    }
    let seconds = clock.seconds();
    consumer.shutdown(STANDSTILL).await?;
    Ok(seconds)
}

async fn count_spilled(client: &Client) -> Result<u64, sawlog_client::Error> {
    let selector = EntrySelector { states: vec![EntryState::Spilled], ..EntrySelector::default() };
    let dead_letters = client.dead_letters();
    let mut entries = dead_letters.entries("stuck", &selector, false);
    let mut count = 0;
    while let Some(entry) = entries.next().await {
        entry?;
        count += 1;
    }
    Ok(count)
}
