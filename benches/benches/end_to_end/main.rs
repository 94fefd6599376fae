//! The broker's binary in a process of its own, under the loads of users, each result beside its limit.
//!
//! `cargo bench -p sawlog-benches --bench end_to_end -- [options]`
//!
//! ```text
//! --only a,b      sections to run (see `SECTIONS`); all without it
//! --rounds n      interleaved rounds of each comparison, 5 without it
//! --seconds s     length of one measurement, 1.5 without it
//! --dir path      where the data folders are made; the target folder without it
//! --scale f       share of the large data sets (10 GiB, 10,000 partitions), 1 without it
//! --json path     writes the report with every round
//! --broker path   a binary to measure; without it `cargo build --release` makes the present one
//! ```

mod context;
mod curve;
mod events;
mod followers;
mod groups;
mod latency;
mod lookups;
mod paced;
mod produce;
mod rebuild;
mod replay;
mod single;
mod start;

use std::error::Error;

use context::{Bench, Options};
use sawlog_benches::report::say;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

type Section = fn(&mut Bench) -> Result<(), Box<dyn Error>>;

/// Every section: its name and what runs it.
const SECTIONS: [(&str, Section); 16] = [
    ("produce", produce::run),
    ("single", single::run),
    ("replay", replay::run),
    ("latency", latency::run),
    ("lookups", lookups::run),
    ("followers", followers::run),
    ("curve", curve::run),
    ("start", start::run),
    ("groups", groups::speed),
    ("failing", groups::one_failing_key),
    ("stuck", groups::stuck),
    ("rebalance", groups::rebalance),
    ("many", groups::many),
    ("paced", paced::run),
    ("rebuild", rebuild::run),
    ("events", events::run),
];

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if !arguments.iter().any(|argument| argument == "--bench") {
        return Ok(say("run it with cargo bench")?);
    }
    let options = Options::parse(&arguments)?;
    if let Some(unknown) = options.only.iter().find(|name| SECTIONS.iter().all(|(known, _)| known != *name)) {
        return Err(format!("no section {unknown}; there are {:?}", SECTIONS.map(|(name, _)| name)).into());
    }
    let mut bench = Bench::new(options)?;
    let mut failed = Vec::new();
    for (name, section) in SECTIONS {
        if !bench.wants(name) {
            continue;
        }
        say(&format!("section {name}"))?;
        // A section that fails must not cost the figures of the others.
        if let Err(error) = section(&mut bench) {
            say(&format!("section {name} FAILED: {error}"))?;
            failed.push(name);
        }
    }
    bench.finish()?;
    if failed.is_empty() { Ok(()) } else { Err(format!("failed: {failed:?}").into()) }
}
