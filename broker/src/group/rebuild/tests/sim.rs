//! Seeded histories of a group and its shadow (rule RP-7): records with poison among them, entries that are discarded,
//! edited and redriven before, during and after a rebuild, which is swapped in or given up; readers and brokers that are
//! killed. Both machines are whole, their readers are made up.
//!
//! What must hold whenever both have come to rest at the same bound: the model of the shadow is that of the group, record
//! by record, and both are what a plain computation makes of the log, the discards and the edits.
//!
//! `SAWLOG_SIM_SEED=n cargo test -p sawlog-broker --lib rebuild::tests::sim` runs one seed; `SAWLOG_SIM_SEEDS=20000` runs so many,
//! `SAWLOG_SIM_FROM` says from which on.

mod operator;
mod reader;

use std::collections::{BTreeMap, BTreeSet};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::group::event::{Admin, Event};
use crate::group::letters_support::act;
use crate::group::rebuild::*;
use crate::group::test_support::{Rig, at, source};
use crate::group::{GroupConfig, Mode, Positions};
use crate::model::LaneKey;
use reader::Reader;

/// Seeds of a plain run.
const SEEDS: u64 = 400;
/// Steps of a history.
const STEPS: u64 = 220;

/// What is wrong.
type Violation = String;

/// Chance from a seed (splitmix64; Steele, Lea and Flood, 2014).
#[derive(Debug)]
struct Chance(u64);

impl Chance {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        if list.is_empty() { None } else { list.get(self.below(list.len() as u64) as usize) }
    }
}

/// What a record is to a handler.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Value {
    Plain(u64),
    /// Fails when it is met in the log, and is well later, through its entry.
    Late(u64),
    /// Always fails, until it is edited.
    Bad,
    /// The handler says that it need not be handled.
    Skip,
}

/// What is known beside the machines.
#[derive(Debug, Default)]
struct Facts {
    /// Key and value of each record.
    log: BTreeMap<Source, Vec<(u64, Value)>>,
    /// Edited versions, by their copies.
    copies: BTreeMap<Offset, Value>,
    /// The newest version of what was edited.
    edited: BTreeMap<EntryKey, Value>,
    discarded: BTreeSet<EntryKey>,
}

type Model = BTreeMap<(Source, u64), Vec<(u64, u64)>>;

/// How a model differs from what it should be, key by key.
fn differs(is: &Model, expected: &Model) -> String {
    let keys: BTreeSet<_> = is.keys().chain(expected.keys()).filter(|key| is.get(key) != expected.get(key)).collect();
    let text = |key: &&(Source, u64)| {
        let empty = Vec::new();
        let (is, expected) = (is.get(key).unwrap_or(&empty), expected.get(key).unwrap_or(&empty));
        format!("key {} of {}: {is:?}, and should be {expected:?}", key.1, key.0.partition.0)
    };
    keys.iter().map(text).collect::<Vec<_>>().join("\n")
}

/// Places for people: partition and offset.
fn places<'a>(keys: impl IntoIterator<Item = &'a EntryKey>) -> String {
    let place = |key: &EntryKey| format!("{}:{}", key.source.partition.0, key.offset.get());
    keys.into_iter().map(place).collect::<Vec<_>>().join(" ")
}

/// A group with its reader.
struct Side {
    rig: Rig,
    reader: Reader,
}

impl Side {
    fn new(config: GroupConfig, facts: &Facts) -> Self {
        let mut rig = Rig::with(config, 2);
        rig.reading = false;
        let mut side = Self { rig, reader: Reader::new(1) };
        for (source, records) in &facts.log {
            records.iter().for_each(|(key, _)| side.rig.append(*source, &[*key]));
        }
        side
    }

    fn call(&mut self, call: RebuildCall) -> Result<(), Violation> {
        self.rig.admin(Admin::Rebuild(Box::new(call))).map_err(|refusal| format!("refused: {refusal:?}"))
    }

    /// Answers a read; what the group has of the records is taken over before.
    fn fetch(&mut self, chance: &mut Chance, parent: Option<&Machine>) -> Result<bool, Violation> {
        let able = self.rig.asked.values().filter(|fetch| self.rig.end(fetch.source) > fetch.from);
        let able: Vec<_> = able.copied().collect();
        let Some(fetch) = chance.pick(&able).copied() else { return Ok(false) };
        self.rig.asked.remove(&fetch.source);
        let end = at(fetch.from.get() + 1 + chance.below(5));
        let mut fetched = self.rig.answer(&fetch).up_to(end);
        if !fetch.look {
            fetched.records.clear();
        }
        if let Some(parent) = parent {
            let (to, met) = parent.entries_met(fetch.source, fetched.from, fetched.next);
            if to == fetched.from {
                self.rig.asked.insert(fetch.source, fetch);
                return Ok(false);
            }
            fetched = fetched.up_to(to);
            if !met.is_empty() {
                self.call(RebuildCall::Adopt(met))?;
            }
        }
        if !self.rig.asked.contains_key(&fetch.source) {
            self.rig.event(Event::Fetched(Box::new(fetched)));
        }
        Ok(true)
    }

    /// One step of the mover of dead letters.
    fn moves(&mut self, chance: &mut Chance) -> bool {
        if !self.rig.opened.is_empty() && chance.one_in(2) {
            let (source, number) = self.rig.opened.remove(0);
            self.rig.event(Event::EntryDurable { source, number });
        } else if !self.rig.moves.is_empty() {
            let (source, number) = self.rig.moves.remove(0);
            self.rig.event(Event::Copied { source, number, copy: Some(at(1_000 + number)) });
        } else if !self.rig.opened.is_empty() {
            let (source, number) = self.rig.opened.remove(0);
            self.rig.event(Event::EntryDurable { source, number });
        } else {
            return false;
        }
        true
    }

    fn pass(&mut self, ms: u64) {
        self.rig.pass_alive(ms, &[self.reader.member]);
        self.reader.take(&mut self.rig);
    }

    /// The broker is killed and starts again.
    fn restart(self, chance: &mut Chance) -> Self {
        let Self { rig, mut reader } = self;
        let epochs = rig.epochs.clone();
        let mut rig = rig.restart(10);
        rig.reading = false;
        rig.epochs = epochs;
        reader.join(&mut rig, 3 + chance.below(20));
        Self { rig, reader }
    }

    fn open(&self) -> BTreeSet<EntryKey> {
        self.rig.machine.open_entries().into_iter().map(|(key, _)| key).collect()
    }

    /// What changes as long as anything goes on.
    fn signature(&self) -> (u64, usize, usize, usize, bool) {
        let applied: usize = self.reader.applied.values().map(Vec::len).sum();
        let next = self.reader.next.values().sum();
        let on_the_way = self.rig.moves.len() + self.rig.opened.len();
        (next, applied, on_the_way, self.open().len(), self.reader.busy())
    }
}

/// Where a rebuild stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rebuilding {
    Filling,
    Swapping,
}

struct World {
    /// What was done, for people.
    history: Vec<String>,
    chance: Chance,
    facts: Facts,
    group: Side,
    shadow: Option<(Side, Rebuilding)>,
    rebuilds: u64,
    swapped: u64,
    members: u8,
    job: Option<(u64, BTreeSet<(Source, LaneKey)>)>,
    jobs: u64,
    steps: u64,
}

fn config() -> GroupConfig {
    GroupConfig::new(Mode::Offset, vec!["orders".to_owned()]).positions(Positions::Cursor)
}

impl World {
    fn new(seed: u64) -> Self {
        let facts = Facts::default();
        let mut group = Side::new(config(), &facts);
        group.reader.join(&mut group.rig, 10);
        let chance = Chance(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5bf0_3635);
        let (shadow, job) = (None, None);
        let (rebuilds, swapped, members, jobs, steps) = (0, 0, 1, 0, 0);
        let history = Vec::new();
        Self { history, chance, facts, group, shadow, rebuilds, swapped, members, job, jobs, steps }
    }

    fn note(&mut self, what: impl std::fmt::Display) {
        self.history.push(format!("{}: {what}", self.steps));
    }

    fn produce(&mut self, count: u64) {
        for _ in 0..count {
            let key = self.chance.below(5);
            let source = source(1, (key % 2) as u32);
            let value = match self.chance.below(16) {
                0 => Value::Bad,
                1 => Value::Late(self.chance.below(1_000)),
                2 => Value::Skip,
                _ => Value::Plain(self.chance.below(1_000)),
            };
            let records = self.facts.log.entry(source).or_default();
            records.push((key, value));
            let place = format!("{}:{} is {value:?} of key {key}", source.partition.0, records.len() - 1);
            self.note(place);
            self.group.rig.append(source, &[key]);
            if let Some((shadow, _)) = &mut self.shadow {
                shadow.rig.append(source, &[key]);
            }
        }
    }

    fn step(&mut self) -> Result<(), Violation> {
        self.steps += 1;
        match self.chance.below(100) {
            0..8 => {
                let count = 1 + self.chance.below(4);
                self.produce(count);
            }
            8..22 => drop(self.group.fetch(&mut self.chance, None)?),
            22..36 => drop(self.fetch_shadow()?),
            36..52 => drop(self.group.reader.step(&mut self.group.rig, &self.facts, &mut self.chance)),
            52..68 => drop(self.read_shadow()),
            68..76 => drop(self.moves()),
            76..81 => self.follow()?,
            81..91 => self.operate()?,
            91..94 => self.rebuild()?,
            94 => self.group.reader.join(&mut self.group.rig, 3 + self.chance.below(20)),
            95 => {
                if let Some((shadow, _)) = &mut self.shadow {
                    shadow.reader.join(&mut shadow.rig, 3 + self.chance.below(20));
                }
            }
            // What is redriven by hand is open after a start.
            96 if self.chance.one_in(2) && !self.group.reader.has_unanswered(&self.group.rig) => {
                let fresh = Side { rig: Rig::with(config(), 0), reader: Reader::new(1) };
                let group = std::mem::replace(&mut self.group, fresh);
                self.group = group.restart(&mut self.chance);
            }
            97 if self.chance.one_in(2) => {
                if let Some((shadow, stage)) = self.shadow.take() {
                    self.shadow = Some((shadow.restart(&mut self.chance), stage));
                }
            }
            98 => {
                let ms = 100 + self.chance.below(3_000);
                self.pass(ms);
            }
            _ if self.chance.one_in(3) => self.come_to_rest()?,
            _ => {}
        }
        self.swap_on()
    }

    fn fetch_shadow(&mut self) -> Result<bool, Violation> {
        let Some((shadow, _)) = &mut self.shadow else { return Ok(false) };
        shadow.fetch(&mut self.chance, Some(&self.group.rig.machine))
    }

    fn read_shadow(&mut self) -> bool {
        let Some((shadow, _)) = &mut self.shadow else { return false };
        shadow.reader.step(&mut shadow.rig, &self.facts, &mut self.chance)
    }

    fn moves(&mut self) -> bool {
        match &mut self.shadow {
            Some((shadow, _)) if self.chance.one_in(2) => shadow.moves(&mut self.chance),
            _ => self.group.moves(&mut self.chance),
        }
    }

    fn pass(&mut self, ms: u64) {
        self.group.pass(ms);
        if let Some((shadow, _)) = &mut self.shadow {
            shadow.pass(ms);
        }
    }

    /// The shadow looks at its group.
    fn follow(&mut self) -> Result<(), Violation> {
        let Some((shadow, _)) = &mut self.shadow else { return Ok(()) };
        let followed = self.group.rig.machine.outcomes(&shadow.rig.machine.open_entries());
        if followed.is_empty() {
            return Ok(());
        }
        let (closed, redriven) = (followed.closed.iter().map(|one| &one.0), followed.redriven.iter().map(|one| &one.0));
        let what = format!("the shadow follows: closed {}, redriven {}", places(closed), places(redriven));
        shadow.call(RebuildCall::Follow(followed))?;
        self.note(what);
        Ok(())
    }

    /// A rebuild begins, its swap does, or it is given up.
    fn rebuild(&mut self) -> Result<(), Violation> {
        let Some((_, stage)) = &mut self.shadow else {
            if self.steps < 20 || self.chance.one_in(2) {
                return Ok(());
            }
            self.rebuilds += 1;
            let version = VersionName::parse(&format!("v{}", self.rebuilds)).expect("a good name");
            let (number, act) = (self.rebuilds, act());
            let (rate, stage) = (ReplayRate::Unlimited, RebuildStage::Filling);
            let replaces = self.group.rig.machine.state().config.version.clone();
            let (swaps, problem, end) = (0, String::new(), None);
            let shadow = GroupId(100 + number);
            let version = version.clone();
            let rebuild =
                Rebuild { number, version: version.clone(), replaces, shadow, rate, stage, swaps, problem, act, end };
            self.group.call(RebuildCall::Start(rebuild))?;
            self.note("a rebuild begins");
            let config = GroupConfig { version: Some(version), shadow_of: Some(GroupId(7)), ..config() };
            let mut side = Side::new(config, &self.facts);
            side.reader.join(&mut side.rig, 3 + self.chance.below(20));
            self.shadow = Some((side, Rebuilding::Filling));
            return Ok(());
        };
        if *stage == Rebuilding::Filling && self.chance.one_in(3) {
            *stage = Rebuilding::Swapping;
            self.note("a swap begins");
        } else if self.chance.one_in(6) {
            self.shadow = None;
            self.note("the rebuild is given up");
            self.group.call(RebuildCall::Abort { number: self.rebuilds })?;
            self.group.reader.take(&mut self.group.rig);
        }
        Ok(())
    }

    /// The steps of a swap, as they can be taken.
    fn swap_on(&mut self) -> Result<(), Violation> {
        let Some((shadow, Rebuilding::Swapping)) = &mut self.shadow else { return Ok(()) };
        if !self.group.rig.machine.state().rebuilds.drained {
            self.group.call(RebuildCall::Drain(true))?;
            self.group.reader.take(&mut self.group.rig);
        }
        let passed: Vec<(Source, Offset)> =
            self.group.rig.machine.places().iter().map(|place| (place.floor.source, place.floor.offset)).collect();
        let machine = &shadow.rig.machine;
        let floor = |source: &Source| machine.state().partitions[source].settled.floor();
        let as_far = passed.iter().all(|(source, offset)| floor(source) >= *offset);
        if !self.group.rig.machine.is_drained() || !as_far || machine.is_following() {
            return Ok(());
        }
        if !self.group.rig.machine.outcomes(&machine.open_entries()).is_empty() {
            return self.follow();
        }
        if !machine.state().rebuilds.drained {
            shadow.call(RebuildCall::Drain(true))?;
            shadow.reader.take(&mut shadow.rig);
        }
        if shadow.rig.machine.is_drained() {
            let (shadow, _) = self.shadow.take().expect("it is there");
            self.take_place(shadow)?;
        }
        Ok(())
    }

    fn take_place(&mut self, shadow: Side) -> Result<(), Violation> {
        let places = shadow.rig.machine.places();
        let entries = shadow.rig.machine.entries().iter().collect();
        let passed = places.iter().map(|place| (place.floor.source, place.floor.offset)).collect();
        self.group.call(RebuildCall::Merge { entries, passed })?;
        let epoch = shadow.rig.machine.state().epoch;
        self.group.call(RebuildCall::TakePlace { number: self.rebuilds, epoch, places })?;
        self.members += 1;
        self.swapped += 1;
        self.note("swapped");
        self.group.reader = shadow.reader;
        self.group.reader.moves_to(&mut self.group.rig, self.members);
        Ok(())
    }

    /// All that can be done is done, and both are compared.
    fn come_to_rest(&mut self) -> Result<(), Violation> {
        let mut still = 0;
        for _ in 0..300 {
            let before = (self.group.signature(), self.shadow.as_ref().map(|(shadow, _)| shadow.signature()));
            for _ in 0..40 {
                self.group.fetch(&mut self.chance, None)?;
                self.fetch_shadow()?;
                self.group.reader.step(&mut self.group.rig, &self.facts, &mut self.chance);
                self.read_shadow();
                self.moves();
            }
            self.job_looks()?;
            self.follow()?;
            self.swap_on()?;
            self.pass(2_500);
            let after = (self.group.signature(), self.shadow.as_ref().map(|(shadow, _)| shadow.signature()));
            still = if before == after { still + 1 } else { 0 };
            if still == 3 {
                return self.compare();
            }
        }
        Err("it does not come to rest".to_owned())
    }

    fn compare(&self) -> Result<(), Violation> {
        let is = |side: &Side| side.reader.applied.clone();
        let (open, expected) = (self.group.open(), self.expected());
        for (source, records) in &self.facts.log {
            let next = self.group.reader.next.get(source).copied().unwrap_or(0);
            if next != records.len() as u64 && !self.group.rig.machine.state().rebuilds.drained {
                return Err(format!("RM-4: the group stands at {next} of {}", records.len()));
            }
        }
        if self.group.rig.machine.state().rebuilds.drained {
            return Err("RP-6: a swap does not come about".to_owned());
        }
        if is(&self.group) != expected {
            let differs = differs(&is(&self.group), &expected);
            return Err(format!("RP-7: the group's model: {differs}\nopen: {}", places(&open)));
        }
        let Some((shadow, _)) = &self.shadow else { return Ok(()) };
        for (source, records) in &self.facts.log {
            let next = shadow.reader.next.get(source).copied().unwrap_or(0);
            if next != records.len() as u64 {
                let (asked, reader) = (&shadow.rig.asked, &shadow.reader);
                return Err(format!("RM-4: the shadow stands at {next} of {}: {asked:?} {reader:?}", records.len()));
            }
        }
        if shadow.open() != open {
            let state = |side: &Side, key: &EntryKey| {
                let entry = side.rig.machine.entries().get(key);
                let text = |one: Entry| {
                    format!("{:?} job {:?} cycle {} tries {}", one.state, one.job, one.cycle, one.attempts)
                };
                entry.map_or_else(|| "none".to_owned(), text)
            };
            let there = shadow.open();
            let differs: Vec<String> = there
                .symmetric_difference(&open)
                .map(|key| {
                    format!(
                        "{} in the shadow {}, in the group {}",
                        places([key]),
                        state(shadow, key),
                        state(&self.group, key)
                    )
                })
                .collect();
            return Err(format!("RP-7: open entries differ: {differs:#?}"));
        }
        if is(shadow) != expected {
            let differs = differs(&is(shadow), &expected);
            return Err(format!("RP-7: the shadow's model: {differs}\nopen: {}", places(&open)));
        }
        Ok(())
    }

    /// What a plain computation makes of the same history.
    fn expected(&self) -> Model {
        let open = self.group.open();
        let mut model = Model::new();
        for (source, records) in &self.facts.log {
            for (offset, (key, value)) in records.iter().enumerate() {
                let entry = crate::group::letters_support::entry_key(*source, offset as u64);
                if open.contains(&entry) || self.facts.discarded.contains(&entry) {
                    continue;
                }
                let value = self.facts.edited.get(&entry).copied().unwrap_or(*value);
                if let Value::Plain(amount) | Value::Late(amount) = value {
                    model.entry((*source, *key)).or_default().push((offset as u64, amount));
                }
            }
        }
        model
    }
}

/// One history; steps and swaps in it.
fn history(seed: u64) -> Result<(u64, u64), Violation> {
    let mut world = World::new(seed);
    let run = catch_unwind(AssertUnwindSafe(|| {
        world.produce(10);
        for _ in 0..STEPS {
            world.step()?;
        }
        world.come_to_rest()?;
        // Whatever is open is mended and redriven.
        world.mend_all()?;
        world.come_to_rest()
    }));
    let step = world.steps;
    match run {
        Ok(Ok(())) if !world.group.open().is_empty() => {
            Err(format!("RD-1: {:?} is open at the end", world.group.open()))
        }
        Ok(Ok(())) => Ok((step, world.swapped)),
        Ok(Err(violation)) => Err(format!("{violation}\nat step {step}\n{}", world.history.join("\n"))),
        Err(panic) => {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            Err(format!("panicked at step {step}: {}\n{}", text.unwrap_or_default(), world.history.join("\n")))
        }
    }
}

#[test]
fn rp_7_the_model_of_a_shadow_is_that_of_its_group_in_random_histories() {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match number("SAWLOG_SIM_SEED") {
        Some(seed) => seed..seed + 1,
        None => {
            let from = number("SAWLOG_SIM_FROM").unwrap_or(1);
            from..from + number("SAWLOG_SIM_SEEDS").unwrap_or(SEEDS)
        }
    };
    let (count, mut swapped, mut failed) = (seeds.end - seeds.start, 0, Vec::new());
    for seed in seeds {
        match history(seed) {
            Ok((_, swaps)) => swapped += swaps,
            Err(violation) => failed.push((seed, violation)),
        }
    }
    if let Some((seed, violation)) = failed.first() {
        panic!(
            "{violation}\nseed {seed}, and {} more of {count}\nagain: SAWLOG_SIM_SEED={seed} cargo test -p sawlog-broker --lib rebuild::tests::sim",
            failed.len() - 1
        );
    }
    println!("{count} histories, {swapped} swaps");
    assert!(count < 20 || swapped > count / 4, "only {swapped} swaps in {count} histories");
}
