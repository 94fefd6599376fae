//! A replay limited to a fifth of what it could do: the rate that it keeps, and what live producers notice of it.

use std::error::Error;
use std::time::Duration;

use sawlog_benches::load::client::{LatencyLoad, create_topic};
use sawlog_benches::load::groups::fill;
use sawlog_benches::load::paced::{PacedReplay, ReplayBeside, produce_latency};
use sawlog_benches::report::{Row, Target};
use sawlog_benches::stats::{Latencies, Samples};
use sawlog_client::AckLevel;

use super::context::Bench;

const RECORDS: u64 = 10_000_000;
const RECORD_BYTES: usize = 100;
const KEYS: u64 = 100_000;
const PARTITIONS: u32 = 4;
/// Share of its capacity at which a replay runs.
const SHARE: f64 = 0.2;
const LIVE_PER_SECOND: u32 = 5_000;
const LIVE_BYTES: usize = 256;
const WARM_UP: Duration = Duration::from_millis(500);
/// A p99 of fewer records is noise.
const LEAST_SECONDS: f64 = 2.5;
/// Pairs of rounds with and without the replay.
const PAIRS: usize = 10;

/// One value a round, beside the replay and without it.
#[derive(Debug, Default)]
struct Pairs {
    without: Samples,
    beside: Samples,
}

pub(crate) fn run(bench: &mut Bench) -> Result<(), Box<dyn Error>> {
    let broker = bench.broker()?;
    let url = broker.server.url();
    let history = bench.topic_name("history");
    let client = bench.client(&url)?;
    bench.runtime.block_on(async {
        create_topic(&client, &history, PARTITIONS, true, AckLevel::Written).await?;
        fill(&client, &history, RECORDS, RECORD_BYTES, KEYS).await
    })?;
    let mut capacity = Samples::new();
    for _ in 0..bench.options.rounds.min(3) {
        let whole = bench.runtime.block_on(async { PacedReplay::start(&url, &history, None).await?.finish().await })?;
        capacity.push(whole.rate());
    }
    let rate = capacity.median() * SHARE;
    bench.row(Row::shown("replay into a group without a limit, 100 B", "records/s", capacity))?;
    let mut kept = Samples::new();
    for level in [AckLevel::Durable, AckLevel::Written] {
        let (mut p50, mut p99) = (Pairs::default(), Pairs::default());
        for pair in 0..PAIRS.max(bench.options.rounds) {
            // Each comes first in turn.
            for with_replay in if pair % 2 == 0 { [true, false] } else { [false, true] } {
                let replay = with_replay.then_some((history.as_str(), rate as u64));
                let (latencies, replayed) = once(bench, &url, replay, level)?;
                kept_of(&mut kept, replayed);
                let of = |pairs: &mut Pairs, value| {
                    if with_replay { &mut pairs.beside } else { &mut pairs.without }.push(value);
                };
                of(&mut p50, latencies.percentile_us(50.0));
                of(&mut p99, latencies.percentile_us(99.0));
            }
        }
        let word = if level == AckLevel::Durable { "durable" } else { "written" };
        let what = format!("produce at {LIVE_PER_SECOND}/s of {LIVE_BYTES} B beside that replay, {word}");
        let row = Row::shown(format!("{what}, p50"), "us", p50.beside);
        bench.row(row.beside("without", &p50.without))?;
        let row = Row::shown(format!("{what}, p99"), "us", p99.beside);
        bench.row(row.beside("without", &p99.without).with_target(Target::RatioAtMost(1.2)))?;
    }
    let asked: Samples = kept.values().iter().map(|_| rate).collect();
    for target in [Target::RatioAtLeast(0.95), Target::RatioAtMost(1.05)] {
        let row = Row::shown("replay limited to a fifth of that", "records/s", kept.clone());
        bench.row(row.beside("asked", &asked).with_target(target))?;
    }
    Ok(())
}

fn kept_of(kept: &mut Samples, replayed: Option<f64>) {
    if let Some(rate) = replayed {
        kept.push(rate);
    }
}

/// Live producers for a while, beside a replay of a topic at a rate or alone; and the rate that it kept.
fn once(
    bench: &mut Bench,
    url: &str,
    replay: Option<(&str, u64)>,
    level: AckLevel,
) -> Result<(Latencies, Option<f64>), Box<dyn Error>> {
    let client = bench.client(url)?;
    let topic = bench.topic_name("live");
    let load = LatencyLoad {
        topic: topic.clone(),
        record_bytes: LIVE_BYTES,
        per_second: LIVE_PER_SECOND,
        warm_up: WARM_UP,
        duration: Duration::from_secs_f64(bench.options.seconds.max(LEAST_SECONDS)),
    };
    let measured: Result<_, Box<dyn Error>> = bench.runtime.block_on(async {
        create_topic(&client, &topic, 1, false, level).await?;
        let Some((history, rate)) = replay else { return Ok((produce_latency(url, &load).await?, None)) };
        let beside = ReplayBeside::start(url, history, rate).await?;
        let latencies = produce_latency(url, &load).await?;
        let replayed = beside.stop().await?;
        let replayed = replayed.ok_or("the replay ended before the producers: it needs a longer history")?;
        Ok((latencies, Some(replayed.rate())))
    });
    let measured = measured?;
    bench.delete_topic(&client, &topic)?;
    Ok(measured)
}
