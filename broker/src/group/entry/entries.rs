//! All entries of a group, in little memory, and the one way in which they change.
//!
//! A million entries must fit, twice (the journal keeps a replica): what most entries lack is boxed, names of errors
//! and actors are shared, pages have their own size. They are handed out as [`Entry`]s by value.

use std::collections::BTreeMap;

use super::failures::Failures;
use super::index::Index;
use super::packed::{At, Names, Packed};
use super::pages::Pages;
use super::{Act, Entry, EntryKey, EntryRecord, Past};
use crate::model::{PartitionEpoch, Source};

/// All entries of a group, each partition with an index.
#[derive(Debug, Clone, Default)]
pub(super) struct Entries<I> {
    pub(super) partitions: BTreeMap<Source, Partition<I>>,
    /// Redrive jobs, encoded by their owner.
    pub(super) jobs: BTreeMap<u64, String>,
    names: Names,
    pub(super) failures: Failures,
}

/// The entries of one source partition.
#[derive(Debug, Clone, Default)]
pub(super) struct Partition<I> {
    pub(super) entries: Pages<Packed>,
    pub(super) index: I,
}

impl<I: Index> Entries<I> {
    /// The same entries with another index.
    pub(super) fn with_index<J: Index>(&self) -> Entries<J> {
        let mut partitions = BTreeMap::new();
        for (source, partition) in &self.partitions {
            let mut index = J::default();
            partition.entries.iter().for_each(|(at, packed)| index.added(at, packed));
            partitions.insert(*source, Partition { entries: partition.entries.clone(), index });
        }
        let (jobs, names, failures) = (self.jobs.clone(), self.names.clone(), self.failures.clone());
        Entries { partitions, jobs, names, failures }
    }

    pub(super) fn get(&self, key: &EntryKey) -> Option<Entry> {
        self.packed(key).map(|packed| packed.unpack(key.source))
    }

    /// What an entry was before the last thing done to it, the oldest first; of many only the first and the last.
    pub(super) fn past(&self, key: &EntryKey) -> Vec<Past> {
        self.packed(key).map(|packed| packed.past().to_vec()).unwrap_or_default()
    }

    /// All entries in order of partition and offset.
    pub(super) fn iter(&self) -> impl Iterator<Item = (EntryKey, Entry)> + '_ {
        self.partitions.iter().flat_map(|(source, partition)| {
            partition.entries.iter().map(|(at, packed)| (at.key(*source), packed.unpack(*source)))
        })
    }

    pub(super) fn len(&self) -> usize {
        self.partitions.values().map(|one| one.entries.len()).sum()
    }

    /// Records that build these from an empty one: its snapshot.
    pub(super) fn records(&self) -> impl Iterator<Item = EntryRecord> + '_ {
        let opened = self.iter().flat_map(|(key, entry)| {
            let past = self.past(&key);
            let past = (!past.is_empty()).then_some(EntryRecord::Past { key, past });
            std::iter::once(EntryRecord::Opened { key, entry: Box::new(entry) }).chain(past)
        });
        let jobs = self.jobs.iter();
        let failures = self.failures.iter();
        let failed = failures.map(|(key, failure)| EntryRecord::Failed { key, failure: Box::new(failure.clone()) });
        opened.chain(failed).chain(jobs.map(|(job, state)| EntryRecord::Job { job: *job, state: Some(state.clone()) }))
    }

    /// Applies a change: the only way in which they change.
    ///
    /// # Errors
    /// The record does not fit what is there; nothing was changed then.
    pub(super) fn replay(&mut self, record: &EntryRecord) -> Result<(), String> {
        match record {
            EntryRecord::Opened { key, entry } => self.replay_opened(key, entry)?,
            EntryRecord::Tried { key, attempts, due_ms, delay_ms, class } => {
                let class = class.as_deref().map(|class| self.names.share(class));
                self.update(key, |packed| {
                    packed.change_rest(|rest| {
                        (rest.attempts, rest.due_ms, rest.delay_ms) = (*attempts, *due_ms, *delay_ms);
                        if class.is_some() {
                            rest.class = class;
                        }
                    });
                })?;
            }
            EntryRecord::Failed { key, failure } => {
                self.packed(key).ok_or_else(|| format!("no entry {key:?}"))?;
                self.failures.put(*key, (**failure).clone());
            }
            EntryRecord::Changed { .. } => self.replay_changed(record)?,
            EntryRecord::Redriving { keys, job, act } => self.replay_redriving(keys, *job, act)?,
            EntryRecord::Edited { key, copy, act } => {
                let act = self.names.share_act(act);
                self.update(key, |packed| {
                    packed.remember();
                    packed.set_act(act);
                    packed.change_rare(|rare| rare.versions.push(*copy));
                    // This version was not tried yet.
                    packed.change_rest(|rest| rest.attempts = 0);
                })?;
            }
            EntryRecord::Past { key, past } => self.update(key, |packed| {
                packed.change_rare(|rare| rare.past.clone_from(past));
            })?,
            EntryRecord::SourceLost { source, from, epoch } => {
                if let Some(partition) = self.partitions.get_mut(source) {
                    let start = At { offset: *from, epoch: PartitionEpoch::ZERO };
                    let lost = partition.entries.at_or_after_mut(start).filter(|(at, _)| at.epoch < *epoch);
                    lost.for_each(|(_, packed)| packed.source_lost = true);
                }
            }
            EntryRecord::Forgotten { keys } => {
                for key in keys {
                    if let Some(partition) = self.partitions.get_mut(&key.source) {
                        partition.remove(At::of(key));
                    }
                    self.failures.forget(key);
                }
            }
            EntryRecord::Job { job, state } => match state {
                Some(state) => drop(self.jobs.insert(*job, state.clone())),
                None => drop(self.jobs.remove(job)),
            },
            EntryRecord::Dropped { sources } => {
                self.partitions.retain(|source, _| !sources.contains(source));
                self.failures.retain(|key| !sources.contains(&key.source));
            }
        }
        Ok(())
    }

    fn replay_opened(&mut self, key: &EntryKey, entry: &Entry) -> Result<(), String> {
        if entry.blocked_by.is_some_and(|head| head.source != key.source) {
            return Err(format!("entry {key:?} waits for one of another partition"));
        }
        let mut packed = Packed::pack(entry, &mut self.names);
        let partition = self.partitions.entry(key.source).or_default();
        if let Some(mut old) = partition.remove(At::of(key)) {
            // The same copy may be told again after a crash: that is no other death.
            if old.cycle() < packed.cycle() {
                old.remember_death();
                old.remember();
                self.failures.forget(key);
            }
            packed.inherit(&mut old);
        }
        partition.insert(At::of(key), packed);
        Ok(())
    }

    fn replay_changed(&mut self, record: &EntryRecord) -> Result<(), String> {
        let EntryRecord::Changed { key, state, kind, cycle, job, attempts, reason, class, fingerprint, act } = record
        else {
            return Ok(());
        };
        let mut entry = self.get(key).ok_or_else(|| format!("no entry {key:?}"))?;
        (entry.state, entry.kind, entry.cycle, entry.job) = (*state, *kind, *cycle, *job);
        (entry.attempts, entry.reason) = (*attempts, *reason);
        (entry.due_ms, entry.delay_ms) = (0, 0);
        entry.class.clone_from(class);
        entry.fingerprint.clone_from(fingerprint);
        entry.act = act.clone();
        let mut packed = Packed::pack(&entry, &mut self.names);
        self.update(key, |old| {
            old.remember();
            packed.inherit(old);
            *old = packed;
        })
    }

    fn replay_redriving(&mut self, keys: &[EntryKey], job: Option<u64>, act: &Act) -> Result<(), String> {
        if let Some(unknown) = keys.iter().find(|key| self.packed(key).is_none()) {
            return Err(format!("no entry {unknown:?}"));
        }
        let act = self.names.share_act(act);
        for key in keys {
            self.update(key, |packed| {
                packed.remember();
                packed.set_act(act.clone());
                packed.change_rare(|rare| rare.job = job);
                if job.is_some() {
                    packed.change_rest(|rest| {
                        rest.cycle = rest.cycle.saturating_add(1);
                        (rest.attempts, rest.due_ms, rest.delay_ms) = (0, 0, 0);
                    });
                }
            })?;
        }
        Ok(())
    }

    pub(super) fn packed(&self, key: &EntryKey) -> Option<&Packed> {
        self.partitions.get(&key.source)?.entries.get(At::of(key))
    }

    fn update(&mut self, key: &EntryKey, change: impl FnOnce(&mut Packed)) -> Result<(), String> {
        let partition = self.partitions.get_mut(&key.source).ok_or_else(|| format!("no entry {key:?}"))?;
        let at = At::of(key);
        let packed = partition.entries.get_mut(at).ok_or_else(|| format!("no entry {key:?}"))?;
        partition.index.removed(at, packed);
        change(packed);
        partition.index.added(at, packed);
        Ok(())
    }
}

impl<I: Index> Partition<I> {
    fn insert(&mut self, at: At, packed: Packed) {
        self.index.added(at, &packed);
        self.entries.insert(at, packed);
    }

    fn remove(&mut self, at: At) -> Option<Packed> {
        let packed = self.entries.remove(at)?;
        self.index.removed(at, &packed);
        Some(packed)
    }
}

impl<I: Index> PartialEq for Entries<I> {
    fn eq(&self, other: &Self) -> bool {
        let past = |table: &Self| table.iter().map(|(key, _)| table.past(&key)).collect::<Vec<_>>();
        self.jobs == other.jobs
            && self.iter().eq(other.iter())
            && past(self) == past(other)
            && self.failures.iter().eq(other.failures.iter())
    }
}
