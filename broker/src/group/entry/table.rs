//! All entries of a group, in little memory, with what is asked of them on every read: which lanes are not live.
//!
//! A million entries must fit, twice (the journal keeps a replica): what most entries lack is boxed, names of errors
//! are shared. The table hands out [`Entry`]s by value.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{BuildHasherDefault, Hasher};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::failures::{EntryFailure, Failures};
use super::packed::{At, Names, Packed, StateTag};
use super::{Act, DeadReason, Entry, EntryKey, EntryKind, EntryRecord, EntryState, LaneState, Past};
use crate::model::{LaneKey, Offset, PartitionEpoch, PartitionId, Source, TopicUuid};

/// All entries of a group.
#[derive(Debug, Clone, Default)]
pub struct EntryTable {
    partitions: BTreeMap<Source, Partition>,
    /// Redrive jobs, encoded by their owner.
    jobs: BTreeMap<u64, String>,
    names: Names,
    failures: Failures,
}

/// The entries of one source partition.
#[derive(Debug, Clone, Default)]
struct Partition {
    entries: BTreeMap<At, Packed>,
    /// Entries that are not closed, by lane, in order.
    open: BTreeSet<(LaneKey, At)>,
    /// How many open entries hold each lane. Never iterated: its order is not that of a replay.
    lanes: HashMap<LaneKey, Holds, BuildHasherDefault<LaneHasher>>,
    /// How many of these are dead, not only spilled.
    dead_lanes: u64,
    /// Entries that jobs redrive.
    redriving: BTreeSet<(u64, At)>,
    /// Entries by kind, state and reason (rule DL-14).
    depths: BTreeMap<(EntryKind, StateTag, bool, DeadReason), u64>,
}

/// Open entries that hold a lane, by state.
#[derive(Debug, Clone, Copy, Default)]
struct Holds {
    open: u32,
    spilled: u32,
}

/// A lane's name is a hash already.
#[derive(Debug, Clone, Copy, Default)]
struct LaneHasher(u64);

impl Hasher for LaneHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u128(&mut self, value: u128) {
        self.0 = (value >> 64) as u64 ^ (value as u64);
    }
}

impl EntryTable {
    /// One entry.
    pub fn get(&self, key: &EntryKey) -> Option<Entry> {
        self.packed(key).map(|packed| packed.unpack(key.source))
    }

    /// State of an entry.
    pub fn state_of(&self, key: &EntryKey) -> Option<EntryState> {
        self.packed(key).map(Packed::state)
    }

    /// The entry of the record at `offset` whose frame has `epoch`.
    pub fn at(&self, source: Source, offset: Offset, epoch: PartitionEpoch) -> Option<(EntryKey, Entry)> {
        let key = EntryKey { source, offset, epoch };
        self.get(&key).map(|entry| (key, entry))
    }

    /// What an entry was before the last thing done to it, the oldest first; of many only the first and the last.
    pub fn past(&self, key: &EntryKey) -> Vec<Past> {
        self.packed(key).map(|packed| packed.past().to_vec()).unwrap_or_default()
    }

    /// How an entry failed since its copy was made; `None`: it has not, or that is long past.
    pub fn failure(&self, key: &EntryKey) -> Option<&EntryFailure> {
        self.failures.get(key)
    }

    /// All entries in order of partition and offset.
    pub fn iter(&self) -> impl Iterator<Item = (EntryKey, Entry)> + '_ {
        self.partitions.iter().flat_map(|(source, partition)| {
            partition.entries.iter().map(|(at, packed)| (at.key(*source), packed.unpack(*source)))
        })
    }

    /// Entries behind `after`, in order.
    pub fn iter_after(&self, after: Option<EntryKey>) -> impl Iterator<Item = (EntryKey, Entry)> + '_ {
        use std::ops::Bound::{Excluded, Unbounded};
        let first = after.map_or(Unbounded, |key| std::ops::Bound::Included(key.source));
        self.partitions.range((first, Unbounded)).flat_map(move |(source, partition)| {
            let start = after.filter(|key| key.source == *source).map_or(Unbounded, |key| Excluded(At::of(&key)));
            let rest = partition.entries.range((start, Unbounded));
            rest.map(|(at, packed)| (at.key(*source), packed.unpack(*source)))
        })
    }

    /// Entries of a partition from `from` on, in order, with their state.
    pub fn from(&self, source: Source, from: Offset) -> impl Iterator<Item = (EntryKey, EntryState)> + '_ {
        let start = At { offset: from, epoch: PartitionEpoch::ZERO };
        let entries = self.partitions.get(&source).into_iter().flat_map(move |one| one.entries.range(start..));
        entries.map(move |(at, packed)| (at.key(source), packed.state()))
    }

    /// The greatest offset of a partition that has an entry.
    pub fn last_of(&self, source: Source) -> Option<Offset> {
        self.partitions.get(&source)?.entries.last_key_value().map(|(at, _)| at.offset)
    }

    /// Number of entries, closed ones counted.
    pub fn len(&self) -> usize {
        self.partitions.values().map(|one| one.entries.len()).sum()
    }

    /// Number of entries that are not closed.
    pub fn open_len(&self) -> usize {
        self.partitions.values().map(|one| one.open.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.partitions.values().all(|one| one.entries.is_empty())
    }

    /// Partitions that have entries.
    pub fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        self.partitions.keys().copied()
    }

    /// Lanes that are not live, in order.
    pub fn lanes(&self) -> impl Iterator<Item = (Source, LaneKey, LaneState)> + '_ {
        self.partitions.iter().flat_map(|(source, partition)| {
            let mut last = None;
            partition.open.iter().filter_map(move |(lane, _)| {
                if last.replace(*lane) == Some(*lane) {
                    return None;
                }
                Some((*source, *lane, partition.lane_state(*lane))).filter(|(_, _, state)| *state != LaneState::Live)
            })
        })
    }

    /// Number of lanes that are dead or spilled.
    pub fn lane_count(&self) -> usize {
        self.partitions.values().map(|one| one.lanes.len()).sum()
    }

    /// Number of lanes of a partition that are dead or spilled.
    pub fn lanes_of(&self, source: Source) -> usize {
        self.partitions.get(&source).map_or(0, |one| one.lanes.len())
    }

    /// Number of lanes of a partition that are dead, spilled ones not counted.
    pub fn dead_lanes_of(&self, source: Source) -> u64 {
        self.partitions.get(&source).map_or(0, |one| one.dead_lanes)
    }

    /// Number of entries of a partition that are open, spilled ones not counted.
    pub fn open_entries_of(&self, source: Source) -> u64 {
        let depths = self.partitions.get(&source).into_iter().flat_map(|one| one.depths.iter());
        depths.filter(|((_, state, ..), _)| *state == StateTag::Open).map(|(_, count)| *count).sum()
    }

    /// Number of entries of a topic that are not closed: what would be lost with it (rule RE-10).
    pub fn not_closed_of(&self, topic: TopicUuid) -> u64 {
        let all = PartitionId(0)..=PartitionId(u32::MAX);
        let (first, last) = (Source { topic, partition: *all.start() }, Source { topic, partition: *all.end() });
        self.partitions.range(first..=last).map(|(_, one)| one.open.len() as u64).sum()
    }

    /// Entries of a lane that are not closed, in order.
    pub fn open_of(&self, source: Source, lane: LaneKey) -> impl Iterator<Item = EntryKey> + '_ {
        let open = self.partitions.get(&source).into_iter();
        open.flat_map(move |one| one.open_of(lane)).map(move |at| at.key(source))
    }

    /// The first open entry that holds a lane: the only one that may be delivered.
    pub fn head_of(&self, source: Source, lane: LaneKey) -> Option<EntryKey> {
        let partition = self.partitions.get(&source)?;
        partition.lanes.get(&lane)?;
        let holds = |at: &At| partition.entries.get(at).is_some_and(|packed| packed.holds);
        partition.open_of(lane).find(holds).map(|at| at.key(source))
    }

    /// What the lane is. Intents that are open are not counted: the caller knows them.
    pub fn lane_state(&self, source: Source, lane: LaneKey) -> LaneState {
        self.partitions.get(&source).map_or(LaneState::Live, |one| one.lane_state(lane))
    }

    /// Entries that jobs redrive, with their jobs.
    pub fn redriving(&self) -> impl Iterator<Item = (u64, EntryKey)> + '_ {
        self.partitions
            .iter()
            .flat_map(|(source, partition)| partition.redriving.iter().map(|(job, at)| (*job, at.key(*source))))
    }

    /// How many entries a partition has of each kind, state and reason; closed ones without their detail (rule DL-14).
    /// The flag says whether a job redrives them.
    pub fn depths(&self, source: Source) -> impl Iterator<Item = (EntryKind, EntryState, bool, DeadReason, u64)> + '_ {
        let depths = self.partitions.get(&source).into_iter().flat_map(|one| one.depths.iter());
        depths.map(|((kind, state, job, reason), count)| (*kind, state.state(0), *job, *reason, *count))
    }

    /// Redrive jobs by number.
    pub fn jobs(&self) -> &BTreeMap<u64, String> {
        &self.jobs
    }

    /// Records that build this table from an empty one: its snapshot.
    pub fn records(&self) -> impl Iterator<Item = EntryRecord> + '_ {
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

    /// Applies a change: the only way in which the table changes.
    ///
    /// # Errors
    /// The record does not fit what is there; nothing was changed then.
    pub fn replay(&mut self, record: &EntryRecord) -> Result<(), String> {
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
            EntryRecord::Edited { key, copy, act } => self.update(key, |packed| {
                packed.remember();
                packed.change_rare(|rare| {
                    rare.versions.push(*copy);
                    rare.act = act.clone();
                });
            })?,
            EntryRecord::Past { key, past } => self.update(key, |packed| {
                packed.change_rare(|rare| rare.past.clone_from(past));
            })?,
            EntryRecord::SourceLost { source, from, epoch } => {
                if let Some(partition) = self.partitions.get_mut(source) {
                    let start = At { offset: *from, epoch: PartitionEpoch::ZERO };
                    let lost = partition.entries.range_mut(start..).filter(|(at, _)| at.epoch < *epoch);
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
        for key in keys {
            self.update(key, |packed| {
                packed.remember();
                packed.change_rare(|rare| (rare.job, rare.act) = (job, act.clone()));
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

    fn packed(&self, key: &EntryKey) -> Option<&Packed> {
        self.partitions.get(&key.source)?.entries.get(&At::of(key))
    }

    fn update(&mut self, key: &EntryKey, change: impl FnOnce(&mut Packed)) -> Result<(), String> {
        let partition = self.partitions.get_mut(&key.source).ok_or_else(|| format!("no entry {key:?}"))?;
        let mut packed = partition.remove(At::of(key)).ok_or_else(|| format!("no entry {key:?}"))?;
        change(&mut packed);
        partition.insert(At::of(key), packed);
        Ok(())
    }
}

impl Partition {
    fn lane_state(&self, lane: LaneKey) -> LaneState {
        match self.lanes.get(&lane) {
            None => LaneState::Live,
            Some(Holds { open: 0, .. }) => LaneState::Spilled,
            Some(_) => LaneState::Dead,
        }
    }

    fn open_of(&self, lane: LaneKey) -> impl Iterator<Item = At> + '_ {
        let last = At { offset: Offset::MAX, epoch: PartitionEpoch::new(i32::MAX as u32).expect("the greatest epoch") };
        let first = At { offset: Offset::ZERO, epoch: PartitionEpoch::ZERO };
        self.open.range((lane, first)..=(lane, last)).map(|(_, at)| *at)
    }

    fn insert(&mut self, at: At, packed: Packed) {
        *self.depths.entry(packed.depth()).or_default() += 1;
        if let Some(job) = packed.job() {
            self.redriving.insert((job, at));
        }
        let lane = packed.lane();
        if !packed.state().is_closed() {
            self.open.insert((lane, at));
            if packed.holds {
                let holds = self.lanes.entry(lane).or_default();
                *holds.count(packed.state) += 1;
                self.dead_lanes += u64::from(packed.state != StateTag::Spilled && holds.open == 1);
            }
        }
        self.entries.insert(at, packed);
    }

    fn remove(&mut self, at: At) -> Option<Packed> {
        let packed = self.entries.remove(&at)?;
        let depth = packed.depth();
        let count = self.depths.get_mut(&depth).expect("every entry is counted");
        *count -= 1;
        if *count == 0 {
            self.depths.remove(&depth);
        }
        if let Some(job) = packed.job() {
            self.redriving.remove(&(job, at));
        }
        let lane = packed.lane();
        if !packed.state().is_closed() {
            self.open.remove(&(lane, at));
            if packed.holds {
                let holds = self.lanes.get_mut(&lane).expect("the lane of an open entry is not live");
                *holds.count(packed.state) -= 1;
                self.dead_lanes -= u64::from(packed.state != StateTag::Spilled && holds.open == 0);
                if holds.open == 0 && holds.spilled == 0 {
                    self.lanes.remove(&lane);
                }
            }
        }
        Some(packed)
    }
}

impl Holds {
    fn count(&mut self, state: StateTag) -> &mut u32 {
        if state == StateTag::Spilled { &mut self.spilled } else { &mut self.open }
    }
}

impl PartialEq for EntryTable {
    fn eq(&self, other: &Self) -> bool {
        let past = |table: &Self| table.iter().map(|(key, _)| table.past(&key)).collect::<Vec<_>>();
        self.jobs == other.jobs
            && self.iter().eq(other.iter())
            && past(self) == past(other)
            && self.failures.iter().eq(other.failures.iter())
    }
}

impl Serialize for EntryTable {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.records())
    }
}

impl<'de> Deserialize<'de> for EntryTable {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut table = Self::default();
        for record in Vec::<EntryRecord>::deserialize(deserializer)? {
            table.replay(&record).map_err(serde::de::Error::custom)?;
        }
        Ok(table)
    }
}
