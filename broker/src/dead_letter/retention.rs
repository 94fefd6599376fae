//! What becomes of dead letters with time (rule DL-10), and what there is of them now (rule DL-14).
//!
//! ```text
//! open    --retention from arrival, source record gone--> expired, told as a gap; said three days before
//! closed  --retention from arrival--> its copy may go --source record gone--> its versions and its state too
//! ```
//! A pass looks at all entries, a few at a time; copies go by raising the start of the dead letters' log to the first
//! that is needed.
//!
//! Invariants: no copy goes that an open entry or an open intent needs; nothing expires while its source record is in
//! the log, nor while the wall clock cannot be believed (rule F6).

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::handle::GroupHandle;
use super::headers::reason_name;
use super::letters::Letters;
use super::views::StateName;
use crate::group::entry::{Act, Entry, EntryKey, EntryKind, EntryState};
use crate::group::event::Admin;
use crate::metrics::{DeadLetterSample, DeadLetterSource, DepthSample};
use crate::model::{GroupId, Offset, PartitionId, Source};
use crate::partition::PartitionLog;
use crate::topics::retention::{ClockVerdict, ClockWatch};

/// Time between passes.
const INTERVAL: Duration = Duration::from_secs(60);
/// Entries looked at under one lock, or closed by one record.
const CHUNK: usize = 1_000;
/// So long before its expiry an open entry is spoken of.
const NOTICE_MS: i64 = 3 * 86_400_000;
/// It is said again after this.
const AGAIN_MS: i64 = 86_400_000;

/// What the last pass found of a group's open entries.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Ages {
    oldest_dead_ms: Option<i64>,
    first_expiry_ms: Option<i64>,
    said_ms: i64,
}

/// What a pass finds in a group.
#[derive(Debug, Default)]
struct Pass {
    now_ms: i64,
    retention_ms: i64,
    sources: HashMap<Source, Option<Arc<dyn PartitionLog>>>,
    /// The first copy that is needed of each partition's dead letters.
    needed: BTreeMap<Source, Offset>,
    expired: Vec<EntryKey>,
    forgotten: Vec<EntryKey>,
    oldest_dead_ms: Option<i64>,
    first_expiry_ms: Option<i64>,
    soon: u64,
}

impl Letters {
    /// Runs passes until the end.
    pub(super) async fn keep_retention(self: Arc<Self>) {
        let interval_ms = u64::try_from(INTERVAL.as_millis()).unwrap_or(u64::MAX);
        let mut watch = ClockWatch::new(interval_ms);
        watch.look(self.parts.clock.wall_ms(), self.parts.clock.monotonic());
        loop {
            tokio::select! {
                () = self.stopping.cancelled() => return,
                () = tokio::time::sleep(INTERVAL) => {}
            }
            let verdict = watch.look(self.parts.clock.wall_ms(), self.parts.clock.monotonic());
            self.run_retention(verdict == ClockVerdict::Sane).await;
        }
    }

    /// One pass over all groups; without `by_age` nothing expires and no copy goes.
    pub async fn run_retention(&self, by_age: bool) {
        let Some(groups) = self.groups.get() else { return };
        let all = groups.all();
        self.ages.lock().retain(|id, _| all.iter().any(|group| group.id() == *id));
        for group in all {
            if self.stopping.is_cancelled() {
                return;
            }
            // While a version is rebuilt, two tables of entries have copies in the same dead letters (rule RP-7).
            let mut paired = group.letters_id() != group.id();
            group.with_state(&mut |state| paired |= state.rebuilds.open().is_some());
            self.retain_of(&group, by_age && !paired).await;
        }
    }

    async fn retain_of(&self, group: &Arc<dyn GroupHandle>, by_age: bool) {
        let ends = self.ends_of(group);
        let mut pass = Pass {
            now_ms: self.parts.clock.wall_ms(),
            retention_ms: group.config().dlq_retention_ms,
            needed: ends.clone(),
            ..Pass::default()
        };
        let mut after = None;
        loop {
            let mut chunk = Vec::new();
            group.with_entries(&mut |table| chunk.extend(table.iter_after(after).take(CHUNK)));
            let Some((last, _)) = chunk.last() else { break };
            after = Some(*last);
            for (key, entry) in &chunk {
                pass.look(self, key, entry);
            }
            tokio::task::yield_now().await;
        }
        self.note_ages(group, &pass);
        if by_age {
            self.apply(group, pass).await;
        }
    }

    /// Up to where copies may go at most: what is appended from now on is above, and so is what an open intent has.
    fn ends_of(&self, group: &Arc<dyn GroupHandle>) -> BTreeMap<Source, Offset> {
        let mut sources = Vec::new();
        group.with_state(&mut |state| {
            for topic in state.topics.values() {
                let partitions = (0..topic.partitions).map(PartitionId);
                sources.extend(partitions.map(|partition| Source { topic: topic.topic, partition }));
            }
        });
        let mut ends = BTreeMap::new();
        for source in sources {
            if let Some(log) = self.parts.logs.dead_letters(group.id(), source) {
                ends.insert(source, log.high_watermark());
            }
        }
        for (source, number) in group.intents() {
            if let (Some(end), Some(intent)) = (ends.get_mut(&source), group.intent(source, number)) {
                *end = intent.dlq_end.min(*end);
            }
        }
        ends
    }

    fn note_ages(&self, group: &Arc<dyn GroupHandle>, pass: &Pass) {
        let mut ages = self.ages.lock();
        let ages = ages.entry(group.id()).or_default();
        (ages.oldest_dead_ms, ages.first_expiry_ms) = (pass.oldest_dead_ms, pass.first_expiry_ms);
        if pass.soon > 0 && pass.now_ms.saturating_sub(ages.said_ms) >= AGAIN_MS {
            ages.said_ms = pass.now_ms;
            let entries = pass.soon;
            tracing::warn!(group = %group.name(), entries, "open dead letters expire within three days");
        }
    }

    async fn apply(&self, group: &Arc<dyn GroupHandle>, pass: Pass) {
        let _acting = self.acting(group.id()).await;
        for chunk in pass.expired.chunks(CHUNK) {
            let act = Act { actor: "broker".into(), time_ms: pass.now_ms, note: "retention of dead letters".into() };
            let close = Admin::CloseEntries { entries: chunk.to_vec(), state: EntryState::Expired, act };
            match self.act(group, close).await {
                Ok(()) => {
                    self.parts.metrics.dead_letters.expired.inc_by(chunk.len() as u64);
                    tracing::warn!(group = %group.name(), entries = chunk.len(), "open dead letters have expired");
                }
                // One was closed meanwhile, or a job has it: at the next pass.
                Err(error) => tracing::info!(group = %group.name(), %error, "dead letters expire later"),
            }
        }
        for chunk in pass.forgotten.chunks(CHUNK) {
            let forget = Admin::ForgetEntries { entries: chunk.to_vec() };
            if let Err(error) = self.act(group, forget).await {
                tracing::info!(group = %group.name(), %error, "dead letters are forgotten later");
            }
        }
        let risen = pass.needed.into_iter().filter(|(source, start)| {
            let log = self.parts.logs.dead_letters(group.id(), *source);
            log.is_some_and(|log| log.log_start() < *start)
        });
        let starts: Vec<(Source, Offset)> = risen.collect();
        if starts.is_empty() {
            return;
        }
        let (logs, id) = (Arc::clone(&self.parts.logs), group.id());
        let trimmed = self.parts.runtime.spawn_blocking(move || logs.trim(id, &starts)).await;
        if let Ok(Err(error)) = trimmed {
            tracing::warn!(group = %group.name(), %error, "copies of dead letters stay until later");
        }
    }
}

impl Pass {
    fn look(&mut self, letters: &Letters, key: &EntryKey, entry: &Entry) {
        let due_ms = entry.dead_ms.saturating_add(self.retention_ms);
        let (is_old, closed) = (due_ms <= self.now_ms, entry.state.is_closed());
        let source_gone = entry.source_lost || self.is_gone(letters, key);
        if !closed {
            self.oldest_dead_ms = Some(self.oldest_dead_ms.map_or(entry.dead_ms, |oldest| oldest.min(entry.dead_ms)));
            self.first_expiry_ms = Some(self.first_expiry_ms.map_or(due_ms, |first| first.min(due_ms)));
            self.soon += u64::from(due_ms.saturating_sub(NOTICE_MS) <= self.now_ms);
        }
        match (closed, is_old && source_gone) {
            (false, true) if entry.job.is_none() => self.expired.push(*key),
            (true, true) => return self.forgotten.push(*key),
            _ => {}
        }
        // Of a closed entry only what a rebuild may still ask for (rule DL-15).
        let copy = Some(entry.copy).filter(|_| !closed || !is_old);
        let first = entry.versions.iter().copied().chain(copy).min();
        if let (Some(first), Some(needed)) = (first, self.needed.get_mut(&key.source)) {
            *needed = first.min(*needed);
        }
    }

    fn is_gone(&mut self, letters: &Letters, key: &EntryKey) -> bool {
        let log = self.sources.entry(key.source).or_insert_with(|| letters.parts.logs.partition(key.source));
        log.as_ref().is_some_and(|log| key.offset < log.log_start())
    }
}

impl DeadLetterSource for Letters {
    fn visit(&self, visit: &mut dyn FnMut(DeadLetterSample)) {
        let Some(groups) = self.groups.get() else { return };
        let now_ms = self.parts.clock.wall_ms();
        let ages: HashMap<GroupId, Ages> = self.ages.lock().clone();
        for group in groups.all() {
            let mut counts: BTreeMap<(String, &'static str, &'static str, &'static str), u64> = BTreeMap::new();
            let (mut keys, mut open) = (0, 0);
            group.with_entries(&mut |table| {
                keys = table.lane_count() as u64;
                open = table.open_len();
                for source in table.sources() {
                    for (kind, state, redriven, reason, count) in table.depths(source) {
                        let topic = source.topic.to_string();
                        let labels = (
                            topic,
                            kind_name(kind),
                            StateName::of_state(state, redriven).as_str(),
                            reason_name(reason),
                        );
                        *counts.entry(labels).or_default() += count;
                    }
                }
            });
            if counts.is_empty() {
                continue;
            }
            let mut names: HashMap<String, String> = HashMap::new();
            group.with_state(&mut |state| {
                names.extend(state.topics.values().map(|topic| (topic.topic.to_string(), topic.name.clone())));
            });
            let depth = |((topic, kind, state, reason), entries): ((String, _, _, _), u64)| {
                let topic = names.get(&topic).cloned().unwrap_or(topic);
                DepthSample { topic, kind, state, reason, entries }
            };
            let ages = ages.get(&group.id()).copied().filter(|_| open > 0).unwrap_or_default();
            visit(DeadLetterSample {
                group: group.name().as_str().to_owned(),
                depths: counts.into_iter().map(depth).collect(),
                keys,
                oldest_age_s: ages.oldest_dead_ms.map(|oldest| now_ms.saturating_sub(oldest).max(0) / 1_000),
                first_expiry_s: ages.first_expiry_ms.map(|first| first.saturating_sub(now_ms).max(0) / 1_000),
            });
        }
    }
}

fn kind_name(kind: EntryKind) -> &'static str {
    match kind {
        EntryKind::Failed => "failed",
        EntryKind::Parked => "parked",
    }
}

#[cfg(test)]
mod tests;
