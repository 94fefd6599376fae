//! Rule RP-7 on a whole broker, by seeds: records with poison among them, entries discarded, edited and redriven before,
//! during and after a rebuild, workers and broker killed, the rebuild given up or swapped in. At the same bound the model
//! of the new version is that of the live one, and both are what a plain computation makes of the same history.
//!
//! `SAWLOG_CHAOS_SEEDS=n` runs so many seeds, `SAWLOG_CHAOS_SEED=n` runs one. The same with both machines and no database,
//! for many more seeds: `rebuild::sim` in the broker.

use std::collections::{BTreeMap, BTreeSet};

use sawlog_client::dead_letter::{Edit, Entry, EntryState, LaneHead, Payload, Redrive};
use sawlog_client::groups::{NewRebuild, RebuildState};
use sawlog_client::{Client, EntrySelector, RecordPosition, StreamExt as _};
use sawlog_testing::TestBroker;

use crate::load::Random;

use super::model::{GROUP, PATIENCE, Running, TOPIC, Totals, decided, in_time, produce, topic};
use super::versions::{LOOK, Versioned, Versions, member, model_of, table};

/// Seeds of a plain run.
const SEEDS: u64 = 4;
/// Times that records come in a history, with something done after each.
const TURNS: u64 = 14;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rp_7_the_rebuilt_model_is_the_live_one_in_random_histories() {
    seeds::<Versions>(SEEDS).await;
}

pub(super) async fn seeds<M: Versioned>(plain: u64) {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let seeds = match number("SAWLOG_CHAOS_SEED") {
        Some(seed) => seed..=seed,
        None => 1..=number("SAWLOG_CHAOS_SEEDS").unwrap_or(plain),
    };
    for seed in seeds {
        let history = tokio::spawn(History::<M>::run(seed));
        match tokio::time::timeout(PATIENCE * 2, history).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("seed {seed}: {error}\nagain: SAWLOG_CHAOS_SEED={seed}"),
            Err(_) => panic!("seed {seed} hangs\nagain: SAWLOG_CHAOS_SEED={seed}"),
        }
    }
}

struct History<M> {
    random: Random,
    broker: TestBroker,
    client: Client,
    model: M,
    /// All records by place: what a key has is in order.
    records: BTreeMap<(u32, u64), (String, String)>,
    positions: Vec<RecordPosition>,
    discarded: BTreeSet<(u32, u64)>,
    edited: BTreeMap<(u32, u64), String>,
    /// Versions that were begun, and which is the live one.
    versions: u64,
    live: Option<String>,
    worker: Option<Running>,
    rebuild: Option<(String, Running)>,
}

impl<M: Versioned> History<M> {
    async fn run(seed: u64) {
        let random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        let broker = TestBroker::start().await;
        let (client, model) = (broker.client(), M::fresh(&broker, "chaos").await);
        topic(&client, 2).await;
        let (records, positions, discarded, edited) = Default::default();
        let (versions, live, worker, rebuild) = (0, None, None, None);
        let mut own = Self {
            random,
            broker,
            client,
            model,
            records,
            positions,
            discarded,
            edited,
            versions,
            live,
            worker,
            rebuild,
        };
        own.worker = Some(own.start(None).await);
        for turn in 0..TURNS {
            own.produce().await;
            own.operate().await;
            if turn % 3 == 2 {
                own.rebuild_on().await;
            }
            if own.random.below(4) == 0 {
                own.disturb().await;
            }
        }
        own.rests().await;
        own.mend_all().await;
        own.rests().await;
        for running in own.worker.take().into_iter().chain(own.rebuild.take().map(|(_, running)| running)) {
            running.stop().await;
        }
        own.model.gone().await;
        own.broker.shutdown().await;
    }

    async fn start(&self, version: Option<&str>) -> Running {
        let store = version.map_or_else(|| self.model.of(None), |version| self.model.with_hook(version));
        Running::of(member(&self.client, store, version).batch(7, 1 << 20)).await
    }

    async fn produce(&mut self) {
        let mut records = Vec::new();
        for _ in 0..1 + self.random.below(14) {
            let key = format!("k{}", self.random.below(6));
            let value = match self.random.below(14) {
                0 => "bad".to_owned(),
                1 => "late".to_owned(),
                2 => "skip".to_owned(),
                _ => self.random.below(1_000).to_string(),
            };
            records.push((key, value));
        }
        let positions = produce(&self.client, records.clone()).await;
        let places: Vec<_> = positions.iter().map(|position| (position.partition, position.offset)).collect();
        self.records.extend(places.into_iter().zip(records));
        self.positions.extend(positions);
    }

    async fn entries(&self, group: &str, state: EntryState) -> Vec<Entry> {
        let selector = EntrySelector { states: vec![state], ..EntrySelector::default() };
        let letters = self.client.dead_letters();
        let mut entries = letters.entries(group, &selector, false);
        let mut found = Vec::new();
        while let Some(entry) = entries.next().await {
            found.push(entry.unwrap());
        }
        found
    }

    /// Something is done about a dead letter. What a job has by then is refused, and stays as it is.
    async fn operate(&mut self) {
        let open = self.entries(GROUP, EntryState::Open).await;
        let Some(entry) = open.get(self.random.below(open.len().max(1) as u64) as usize) else { return };
        let letters = self.client.dead_letters();
        let place = (entry.partition, entry.offset);
        match self.random.below(8) {
            0 | 1 => {
                let selector = EntrySelector { topic: Some(TOPIC.to_owned()), ..EntrySelector::default() };
                let _ = letters.redrive(GROUP, &Redrive { selector, ..Redrive::default() }).await;
            }
            2 | 3 => {
                let selector = EntrySelector::key(self.records[&place].0.clone());
                let _ = letters.redrive(GROUP, &Redrive { selector, ..Redrive::default() }).await;
            }
            4 => {
                let selector = EntrySelector::ids([entry.dlq_id.clone()]);
                if letters.discard(GROUP, &selector, "given up", false).await.is_ok_and(|(closed, _)| closed == 1) {
                    self.discarded.insert(place);
                }
            }
            5 => {
                let head = LaneHead::Entry(entry.dlq_id.clone());
                let _ = letters.retry_head(GROUP, &head).await;
            }
            _ => {
                let value = if self.random.below(4) == 0 { 0 } else { 1 + self.random.below(1_000) };
                self.edit(entry, value).await;
            }
        }
    }

    /// A new value; 0: one that fails too.
    async fn edit(&mut self, entry: &Entry, value: u64) {
        let value = if value == 0 { "bad".to_owned() } else { value.to_string() };
        let payload = Payload::Value(value.clone().into());
        let edit = Edit { payload, note: "as on paper".to_owned(), ..Edit::default() };
        if self.client.dead_letters().edit(&entry.dlq_id, edit).await.is_ok() {
            self.edited.insert((entry.partition, entry.offset), value);
        }
    }

    /// A rebuild begins, is swapped in, or is given up.
    async fn rebuild_on(&mut self) {
        let groups = self.client.groups();
        let Some((version, running)) = self.rebuild.take() else {
            self.versions += 1;
            let version = format!("v{}", self.versions);
            groups.start_rebuild(GROUP, NewRebuild::new(&version)).await.unwrap();
            let running = self.start(Some(&version)).await;
            self.rebuild = Some((version, running));
            return;
        };
        match self.random.below(4) {
            0 => {
                groups.abort_rebuild(GROUP).await.unwrap();
                drop(running.error().await);
            }
            1 => self.rebuild = Some((version, running)),
            _ => {
                self.swap().await;
                let retired = self.worker.replace(running).expect("a worker of the live version");
                drop(retired.error().await);
                self.live = Some(version);
            }
        }
    }

    /// Swaps once it is ready, however often that takes: a live model goes on meanwhile.
    async fn swap(&self) {
        let groups = self.client.groups();
        in_time(async {
            loop {
                let rebuild = groups.rebuild(GROUP).await.unwrap();
                match rebuild.state {
                    Some(RebuildState::Swapped) => return,
                    Some(RebuildState::Ready) => drop(groups.swap_rebuild(GROUP).await),
                    _ => {}
                }
                tokio::time::sleep(LOOK).await;
            }
        })
        .await;
    }

    /// A worker or the broker is killed.
    async fn disturb(&mut self) {
        match self.random.below(3) {
            0 => {
                let live = self.live.clone();
                self.worker.take().expect("a worker of the live version").kill().await;
                self.worker = Some(self.start(live.as_deref()).await);
            }
            1 => {
                if let Some((version, running)) = self.rebuild.take() {
                    running.kill().await;
                    let running = self.start(Some(&version)).await;
                    self.rebuild = Some((version, running));
                }
            }
            _ => {
                self.broker.kill().await;
                self.broker.restart().await;
            }
        }
    }

    /// Waits until nothing is under way, and compares.
    async fn rests(&mut self) {
        decided(&self.client, GROUP, &self.positions).await;
        let mut last = String::new();
        let equal = async {
            loop {
                match self.compare().await {
                    Ok(()) => return,
                    Err(differs) => last = differs,
                }
                tokio::time::sleep(LOOK).await;
            }
        };
        if tokio::time::timeout(PATIENCE / 2, equal).await.is_err() {
            let lag = self.client.groups().lag(GROUP, &[]).await;
            let jobs = self.client.dead_letters().jobs(Some(GROUP), false).await;
            let status = self.worker.as_ref().map(|worker| worker.handle.status());
            panic!("{last}\n{lag:?}\n{jobs:?}\n{status:?}\n{}", self.of_keys_that_differ().await);
        }
    }

    async fn compare(&self) -> Result<(), String> {
        let busy = self.entries(GROUP, EntryState::Redriving).await;
        if let Some(first) = busy.first() {
            return Err(format!("{} entries are being redriven, first {first:?}", busy.len()));
        }
        let place = |entry: &Entry| (entry.partition, entry.offset);
        let open: BTreeSet<_> = self.entries(GROUP, EntryState::Open).await.iter().map(place).collect();
        let left_out = |place: &(u32, u64)| open.contains(place) || self.discarded.contains(place);
        let value = |place: &(u32, u64), (key, value): &(String, String)| {
            let value = self.edited.get(place).unwrap_or(value);
            (key.clone(), if value == "late" { "1".to_owned() } else { value.clone() })
        };
        let handled = self.records.iter().filter(|(place, _)| !left_out(place));
        let expected: Totals = model_of(&handled.map(|(place, record)| value(place, record)).collect::<Vec<_>>());
        let live = self.model.rows(&table(self.live.as_deref())).await;
        if live != expected {
            return Err(format!("the live model is {live:?}, and should be {expected:?}; open: {open:?}"));
        }
        let Some((version, _)) = &self.rebuild else { return Ok(()) };
        let rebuilt = self.model.rows(&table(Some(version))).await;
        if rebuilt != expected {
            return Err(format!("the rebuilt model is {rebuilt:?}, and should be {expected:?}; open: {open:?}"));
        }
        let shadow = format!("{GROUP}@{version}");
        let there: BTreeSet<_> = self.entries(&shadow, EntryState::Open).await.iter().map(place).collect();
        if there != open {
            return Err(format!("open in the new version is {there:?}, in the live one {open:?}"));
        }
        Ok(())
    }

    /// Records of the keys whose totals differ, and what became of their entries.
    async fn of_keys_that_differ(&self) -> String {
        let live = self.model.rows(&table(self.live.as_deref())).await;
        let open = self.entries(GROUP, EntryState::Open).await;
        let mut told = format!("edited {:?}, discarded {:?}\n", self.edited, self.discarded);
        for (place, (key, value)) in &self.records {
            let entry = open.iter().find(|entry| (entry.partition, entry.offset) == *place);
            told += &format!("{place:?} {key}={value}{}\n", if entry.is_some() { " open" } else { "" });
            if let Some(entry) = entry.filter(|_| live.contains_key(key)) {
                told += &format!("   {:?}\n", self.client.dead_letters().get(&entry.dlq_id).await);
            }
        }
        told
    }

    /// Edits what can never be handled and redrives all, until nothing is open.
    async fn mend_all(&mut self) {
        for _ in 0..40 {
            let open = self.entries(GROUP, EntryState::Open).await;
            if open.is_empty() {
                return;
            }
            for entry in open {
                let place = (entry.partition, entry.offset);
                let value = self.edited.get(&place).unwrap_or(&self.records[&place].1);
                if value == "bad" {
                    let value = 1 + self.random.below(1_000);
                    self.edit(&entry, value).await;
                }
            }
            let selector = EntrySelector { topic: Some(TOPIC.to_owned()), ..EntrySelector::default() };
            let letters = self.client.dead_letters();
            if let Ok(job) = letters.redrive(GROUP, &Redrive { selector, ..Redrive::default() }).await {
                drop(in_time(letters.watch_job(&job.job_id, LOOK, |_| {})).await);
            }
            self.rests().await;
        }
        let letters = self.client.dead_letters();
        let mut open = letters.entries(GROUP, &EntrySelector::default(), true);
        let first = open.next().await;
        let jobs = letters.jobs(Some(GROUP), false).await;
        panic!("something stays open, first {first:?}\n{:?}\n{jobs:?}", self.edited);
    }
}
