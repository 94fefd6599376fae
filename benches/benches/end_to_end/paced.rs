//! A replay limited to a fifth of what it could do: the rate that it keeps, and what live producers notice of it.

use std::error::Error;
use std::time::Duration;

use sawlog_benches::load::client::{LatencyLoad, create_topic};
use sawlog_benches::load::groups::fill;
use sawlog_benches::load::paced::{Burner, PacedReplay, ReplayBeside, produce_latency};
use sawlog_benches::process_stats::cpu_seconds;
use sawlog_benches::report::{Row, Target};
use sawlog_benches::stats::{Latencies, Samples};
use sawlog_benches::timing::Stopwatch;
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
/// Rounds with and without the replay.
const PAIRS: usize = 10;

/// What runs beside the live producers.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Beside {
    Nothing,
    Replay,
    /// A thread that takes as much processor time as the replay does, and does nothing.
    Burner,
}

const ALL: [Beside; 3] = [Beside::Replay, Beside::Nothing, Beside::Burner];

/// One value a round, by what ran beside.
#[derive(Debug, Default)]
struct Values([Samples; 3]);

impl Values {
    fn of(&mut self, beside: Beside) -> &mut Samples {
        &mut self.0[beside as usize]
    }
}

/// The history, the rate of its replay, and what that takes.
struct Plan {
    url: String,
    pid: u32,
    history: String,
    rate: f64,
    /// Processor time of the replay in broker and member, as cores.
    cores: f64,
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
    let mut plan = Plan { url, pid: broker.server.pid(), history, rate, cores: 0.5 };
    // What it takes of the processor, by itself.
    let alone = once(bench, &plan, Beside::Nothing, AckLevel::Written)?.cores;
    let mut cores = Samples::new();
    for _ in 0..bench.options.rounds.min(3) {
        cores.push((once(bench, &plan, Beside::Replay, AckLevel::Written)?.cores - alone).max(0.01));
    }
    plan.cores = cores.median();
    bench.row(Row::shown("processor time of that replay, broker and member", "cores", cores))?;
    let mut kept = Samples::new();
    for level in [AckLevel::Durable, AckLevel::Written] {
        level_rows(bench, &plan, level, &mut kept)?;
    }
    let asked: Samples = kept.values().iter().map(|_| plan.rate).collect();
    for target in [Target::RatioAtLeast(0.95), Target::RatioAtMost(1.05)] {
        let row = Row::shown("replay limited to a fifth of that", "records/s", kept.clone());
        bench.row(row.beside("asked", &asked).with_target(target))?;
    }
    Ok(())
}

/// The rounds of one level of acknowledgement.
fn level_rows(bench: &mut Bench, plan: &Plan, level: AckLevel, kept: &mut Samples) -> Result<(), Box<dyn Error>> {
    let (mut p50, mut p99) = (Values::default(), Values::default());
    for round in 0..PAIRS.max(bench.options.rounds) {
        // Each comes first in turn.
        for turn in 0..ALL.len() {
            let beside = ALL[(round + turn) % ALL.len()];
            let measured = once(bench, plan, beside, level)?;
            measured.replayed.into_iter().for_each(|rate| kept.push(rate));
            p50.of(beside).push(measured.latencies.percentile_us(50.0));
            p99.of(beside).push(measured.latencies.percentile_us(99.0));
        }
    }
    let word = if level == AckLevel::Durable { "durable" } else { "written" };
    let what = format!("produce at {LIVE_PER_SECOND}/s of {LIVE_BYTES} B, {word}");
    for (name, values) in [("p50", &mut p50), ("p99", &mut p99)] {
        let without = values.of(Beside::Nothing).clone();
        let row = Row::shown(format!("{what}, beside that replay, {name}"), "us", values.of(Beside::Replay).clone());
        let row = row.beside("without", &without);
        bench.row(if name == "p99" { row.with_target(Target::RatioAtMost(1.2)) } else { row })?;
        let burner = values.of(Beside::Burner).clone();
        let row = Row::shown(format!("{what}, beside a thread that burns as much, {name}"), "us", burner);
        bench.row(row.beside("without", &without))?;
    }
    Ok(())
}

/// What one round gives.
struct Measured {
    latencies: Latencies,
    /// The rate that the replay kept.
    replayed: Option<f64>,
    /// Processor time of broker and clients, as cores.
    cores: f64,
}

/// Live producers for a while, beside something.
fn once(bench: &mut Bench, plan: &Plan, beside: Beside, level: AckLevel) -> Result<Measured, Box<dyn Error>> {
    let client = bench.client(&plan.url)?;
    let topic = bench.topic_name("live");
    let load = LatencyLoad {
        topic: topic.clone(),
        record_bytes: LIVE_BYTES,
        per_second: LIVE_PER_SECOND,
        warm_up: WARM_UP,
        duration: Duration::from_secs_f64(bench.options.seconds.max(LEAST_SECONDS)),
    };
    let cpu = || Ok::<_, std::io::Error>(cpu_seconds(plan.pid)? + cpu_seconds(std::process::id())?);
    let measured: Result<Measured, Box<dyn Error>> = bench.runtime.block_on(async {
        create_topic(&client, &topic, 1, false, level).await?;
        let replay = match beside {
            Beside::Replay => Some(ReplayBeside::start(&plan.url, &plan.history, plan.rate as u64).await?),
            Beside::Nothing | Beside::Burner => None,
        };
        let burner = (beside == Beside::Burner).then(|| Burner::start(plan.cores));
        let (clock, before) = (Stopwatch::start(), cpu()?);
        let latencies = produce_latency(&plan.url, &load).await?;
        let cores = (cpu()? - before) / clock.seconds();
        if let Some(burner) = burner {
            burner.stop();
        }
        let replayed = match replay {
            Some(replay) => {
                let replayed = replay.stop().await?;
                Some(replayed.ok_or("the replay ended before the producers: it needs a longer history")?.rate())
            }
            None => None,
        };
        Ok(Measured { latencies, replayed, cores })
    });
    let measured = measured?;
    bench.delete_topic(&client, &topic)?;
    Ok(measured)
}
