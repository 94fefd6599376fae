//! Seeded simulation of the group machine: members, journals, dead letters, operators, stops of the broker, all from
//! one seed, and after each event what must hold.
//!
//! `SAWLOG_SIM_SEED=n cargo test -p sawlog-broker --test it group_sim` runs one seed and shows its history;
//! `SAWLOG_SIM_SEEDS=20000` runs so many, `SAWLOG_SIM_FROM` says from which on; with `SAWLOG_SIM_SURVEY=1` all that fail are told. `SAWLOG_SIM_HISTORY`: so
//! many lines of the history are shown.

mod acts;
mod calm;
mod chance;
mod client;
mod judge;
mod ledger;
mod log;
mod nonsense;
mod operators;
mod setup;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};

use sawlog_broker::group::Mode;
use world::World;

/// What is wrong, beginning with the rule.
type Violation = String;

/// Seeds of a plain run.
const SEEDS: u64 = 300;
/// Steps of one history, before it comes to rest.
const STEPS: u64 = 120;

/// Rules that the world around the machine breaks on purpose.
#[derive(Debug, Clone, Copy, Default)]
struct Sabotage {
    /// A copy is appended although its intent is not durable yet.
    copy_before_intent: bool,
    /// The machine is told of a copy that is not appended yet.
    settle_before_copy: bool,
    /// The machine's monotonic clock is the wall clock.
    wall_clock_in_leases: bool,
    /// Answers go out although what they stand on is not durable yet.
    answer_before_durable: bool,
}

/// What may happen next.
#[derive(Debug, Clone, Copy)]
enum Step {
    Produce,
    Fetch,
    SyncGroup,
    SyncEntries,
    Mover,
    SyncDlqs,
    Client,
    Stall,
    Drop,
    Crash,
    Leave,
    Pass,
    PassLong,
    WallJumps,
    Operator,
    Trim,
    Kill,
    PowerLoss,
    Nonsense,
}

const WEIGHTS: &[(u64, Step)] = &[
    (10, Step::Produce),
    (16, Step::Fetch),
    (12, Step::SyncGroup),
    (8, Step::SyncEntries),
    (10, Step::Mover),
    (8, Step::SyncDlqs),
    (45, Step::Client),
    (2, Step::Stall),
    (2, Step::Drop),
    (2, Step::Crash),
    (1, Step::Leave),
    (14, Step::Pass),
    (3, Step::PassLong),
    (2, Step::WallJumps),
    (7, Step::Operator),
    (1, Step::Trim),
    (1, Step::Kill),
    (1, Step::PowerLoss),
    (2, Step::Nonsense),
];

impl World {
    fn step(&mut self, step: Step) -> Result<(), Violation> {
        let sources = self.sources();
        let source = sources[self.chance.index(sources.len())];
        let index = self.chance.index(self.clients.len());
        match step {
            Step::Produce => {
                let count = self.chance.within(1, 6);
                self.produce(source, count)
            }
            Step::Fetch => self.answer_fetch(source),
            Step::SyncGroup => self.sync_group(),
            Step::SyncEntries => self.sync_entries(),
            Step::Mover => self.mover(source),
            Step::SyncDlqs => self.sync_dlqs(),
            Step::Client => self.client_acts(index),
            Step::Stall => {
                self.clients[index].stalled ^= self.clients[index].connected;
                Ok(())
            }
            Step::Drop => self.drop_stream(index),
            Step::Crash => {
                self.drop_stream(index)?;
                self.clients[index].forget();
                Ok(())
            }
            Step::Leave if self.clients[index].lives() => self.leave(index),
            Step::Leave => Ok(()),
            Step::Pass => {
                let ms = self.chance.within(50, 3_000);
                self.pass(ms)
            }
            Step::PassLong => {
                let ms = self.chance.within(3_000, 40_000);
                self.pass(ms)
            }
            Step::WallJumps => {
                // What is due by the wall clock is due before a history has come to rest.
                self.time.skew_ms = self.chance.within(0, 500_000) as i64 - 250_000;
                self.time.greatest_skew_ms = self.time.greatest_skew_ms.max(self.time.skew_ms);
                Ok(())
            }
            Step::Operator => self.operator_acts(source),
            Step::Trim => {
                self.trim(source);
                Ok(())
            }
            Step::Kill => self.restart(false),
            Step::PowerLoss => self.restart(true),
            Step::Nonsense => self.nonsense(index, source),
        }
    }
}

/// One history. What it says of itself when it fails.
fn history(seed: u64, mode: Option<Mode>, sabotage: Sabotage) -> Result<u64, Violation> {
    let mut world = World::new(seed, mode, sabotage)?;
    let run = catch_unwind(AssertUnwindSafe(|| {
        for _ in 0..STEPS {
            let step = world.chance.weighted(WEIGHTS);
            world.step(step)?;
        }
        world.come_to_rest()
    }));
    let violation = match run {
        Ok(Ok(())) => return Ok(world.events),
        Ok(Err(violation)) => violation,
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            format!("the machine panicked: {}", text.unwrap_or_default())
        }
    };
    let lines: Vec<String> = world.history.into_iter().collect();
    Err(format!("{violation}\nseed {seed}, mode {mode:?}, the last of its history:\n{}", lines.join("\n")))
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

/// Runs the seeds that were asked for; the first that fails is told with how to run it again.
fn seeds(from: u64, mode: Option<Mode>) {
    if let Some(seed) = number("SAWLOG_SIM_SEED") {
        let events = history(seed, mode, Sabotage::default()).unwrap_or_else(|violation| panic!("{violation}"));
        println!("seed {seed}: {events} events");
        return;
    }
    let count = number("SAWLOG_SIM_SEEDS").unwrap_or(SEEDS);
    let from = number("SAWLOG_SIM_FROM").unwrap_or(from);
    if std::env::var_os("SAWLOG_SIM_SURVEY").is_some() {
        return survey(from..from + count, mode);
    }
    let mut events = 0;
    for seed in from..from + count {
        match history(seed, mode, Sabotage::default()) {
            Ok(more) => events += more,
            Err(violation) => panic!(
                "{violation}\nagain: SAWLOG_SIM_SEED={seed} cargo test -p sawlog-broker --test it group_sim -- --nocapture"
            ),
        }
    }
    println!("{count} histories, {events} events");
    assert!(events > count * STEPS / 2, "only {events} events in {count} histories");
}

/// What goes wrong in all of the seeds, and how often: each sentence with its first seed.
fn survey(range: std::ops::Range<u64>, mode: Option<Mode>) {
    let mut said: std::collections::BTreeMap<String, (u64, u64)> = std::collections::BTreeMap::new();
    for seed in range {
        if let Err(violation) = history(seed, mode, Sabotage::default()) {
            let sentence = violation.lines().next().unwrap_or_default();
            println!("{seed} {sentence}");
            let sentence: String = sentence.chars().skip(6).filter(|c| !c.is_ascii_digit()).take(90).collect();
            said.entry(sentence).or_insert((seed, 0)).1 += 1;
        }
    }
    said.iter().for_each(|(sentence, (seed, times))| println!("{times} times, first seed {seed}: {sentence}"));
}

#[test]
fn every_rule_of_groups_holds_in_random_histories() {
    seeds(1, None);
}

/// The first history that notices a broken rule, and what it says.
fn caught(sabotage: Sabotage, by: &[&str]) {
    let mut others = Vec::new();
    for seed in 1..2_000 {
        let mode = if seed % 2 == 0 { Mode::Keyed } else { Mode::Unordered };
        if let Err(violation) = history(seed, Some(mode), sabotage) {
            let sentence = violation.lines().next().unwrap_or_default().to_owned();
            if by.iter().any(|rule| sentence.starts_with(rule)) {
                println!("{sabotage:?}: seed {seed}: {sentence}");
                return;
            }
            others.push(sentence);
        }
    }
    panic!("{sabotage:?} was not caught by {by:?}; said was {others:?}");
}

#[test]
fn a_copy_before_its_intent_is_caught() {
    caught(Sabotage { copy_before_intent: true, ..Sabotage::default() }, &["DL-4"]);
}

#[test]
fn a_settle_before_its_copy_is_caught() {
    caught(Sabotage { settle_before_copy: true, ..Sabotage::default() }, &["G3", "DL-4"]);
}

#[test]
fn the_wall_clock_in_leases_is_caught() {
    caught(Sabotage { wall_clock_in_leases: true, ..Sabotage::default() }, &["AK-5", "KO-1", "RT-2"]);
}

#[test]
fn an_answer_before_the_journal_is_durable_is_caught() {
    caught(Sabotage { answer_before_durable: true, ..Sabotage::default() }, &["AK-10"]);
}
