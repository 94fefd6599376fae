//! All entries of a group with what is asked of them on every read: which lanes are not live. And the journal's replica
//! of them, of which nothing is asked.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::entries::Entries;
use super::failures::EntryFailure;
use super::index::Lanes;
use super::packed::{At, Packed, StateTag};
use super::{DeadReason, Entry, EntryKey, EntryKind, EntryRecord, EntryState, LaneState, Past};
use crate::model::{LaneKey, Offset, PartitionEpoch, PartitionId, Source, TopicUuid};

/// All entries of a group.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EntryTable(Entries<Lanes>);

/// All entries of a group, as the journal keeps them: without an index.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EntryReplica(Entries<()>);

impl EntryReplica {
    /// The table to be asked.
    pub fn table(&self) -> EntryTable {
        EntryTable(self.0.with_index())
    }

    /// Number of entries that are not closed: looks at all.
    pub fn open_len(&self) -> usize {
        let all = self.0.partitions.values().flat_map(|one| one.entries.iter());
        all.filter(|(_, packed)| !packed.state().is_closed()).count()
    }

    /// As [`EntryTable::records`].
    pub fn records(&self) -> impl Iterator<Item = EntryRecord> + '_ {
        self.0.records()
    }

    /// As [`EntryTable::replay`].
    ///
    /// # Errors
    /// The record does not fit what is there; nothing was changed then.
    pub fn replay(&mut self, record: &EntryRecord) -> Result<(), String> {
        self.0.replay(record)
    }
}

impl EntryTable {
    /// One entry.
    pub fn get(&self, key: &EntryKey) -> Option<Entry> {
        self.0.get(key)
    }

    /// State of an entry.
    pub fn state_of(&self, key: &EntryKey) -> Option<EntryState> {
        self.0.packed(key).map(Packed::state)
    }

    /// The entry of the record at `offset` whose frame has `epoch`.
    pub fn at(&self, source: Source, offset: Offset, epoch: PartitionEpoch) -> Option<(EntryKey, Entry)> {
        let key = EntryKey { source, offset, epoch };
        self.get(&key).map(|entry| (key, entry))
    }

    /// What an entry was before the last thing done to it, the oldest first; of many only the first and the last.
    pub fn past(&self, key: &EntryKey) -> Vec<Past> {
        self.0.past(key)
    }

    /// How an entry failed since its copy was made; `None`: it has not, or that is long past.
    pub fn failure(&self, key: &EntryKey) -> Option<&EntryFailure> {
        self.0.failures.get(key)
    }

    /// All entries in order of partition and offset.
    pub fn iter(&self) -> impl Iterator<Item = (EntryKey, Entry)> + '_ {
        self.0.iter()
    }

    /// Entries behind `after`, in order.
    pub fn iter_after(&self, after: Option<EntryKey>) -> impl Iterator<Item = (EntryKey, Entry)> + '_ {
        use std::ops::Bound::{Included, Unbounded};
        let first = after.map_or(Unbounded, |key| Included(key.source));
        self.0.partitions.range((first, Unbounded)).flat_map(move |(source, partition)| {
            let start = after.filter(|key| key.source == *source).map_or(At::FIRST, |key| At::of(&key));
            let rest = partition.entries.at_or_after(start).filter(move |(at, _)| after != Some(at.key(*source)));
            rest.map(|(at, packed)| (at.key(*source), packed.unpack(*source)))
        })
    }

    /// Entries of a partition from `from` on, in order, with their state.
    pub fn from(&self, source: Source, from: Offset) -> impl Iterator<Item = (EntryKey, EntryState)> + '_ {
        let start = At { offset: from, epoch: PartitionEpoch::ZERO };
        let entries = self.0.partitions.get(&source).into_iter().flat_map(move |one| one.entries.at_or_after(start));
        entries.map(move |(at, packed)| (at.key(source), packed.state()))
    }

    /// The greatest offset of a partition that has an entry.
    pub fn last_of(&self, source: Source) -> Option<Offset> {
        self.0.partitions.get(&source)?.entries.last().map(|at| at.offset)
    }

    /// Number of entries, closed ones counted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Number of entries that are not closed.
    pub fn open_len(&self) -> usize {
        self.0.partitions.values().map(|one| one.index.open.len()).sum()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.partitions.values().all(|one| one.entries.len() == 0)
    }

    /// Partitions that have entries.
    pub fn sources(&self) -> impl Iterator<Item = Source> + '_ {
        self.0.partitions.keys().copied()
    }

    /// Entries that are not closed, lane by lane, each in order.
    pub fn open(&self) -> impl Iterator<Item = EntryKey> + '_ {
        let partitions = self.0.partitions.iter();
        partitions.flat_map(|(source, one)| one.index.open.iter().map(|(_, at)| at.key(*source)))
    }

    /// Lanes that are not live, in order.
    pub fn lanes(&self) -> impl Iterator<Item = (Source, LaneKey, LaneState)> + '_ {
        self.0.partitions.iter().flat_map(|(source, partition)| {
            let mut last = None;
            partition.index.open.iter().filter_map(move |(lane, _)| {
                if last.replace(*lane) == Some(*lane) {
                    return None;
                }
                Some((*source, *lane, partition.index.lane_state(*lane)))
                    .filter(|(_, _, state)| *state != LaneState::Live)
            })
        })
    }

    /// Number of lanes that are dead or spilled.
    pub fn lane_count(&self) -> usize {
        self.0.partitions.values().map(|one| one.index.lanes.len()).sum()
    }

    /// Number of lanes of a partition that are dead or spilled.
    pub fn lanes_of(&self, source: Source) -> usize {
        self.0.partitions.get(&source).map_or(0, |one| one.index.lanes.len())
    }

    /// Number of lanes of a partition that are dead, spilled ones not counted.
    pub fn dead_lanes_of(&self, source: Source) -> u64 {
        self.0.partitions.get(&source).map_or(0, |one| one.index.dead_lanes)
    }

    /// Number of entries of a partition that are open, spilled ones not counted.
    pub fn open_entries_of(&self, source: Source) -> u64 {
        let depths = self.0.partitions.get(&source).into_iter().flat_map(|one| one.index.depths.iter());
        depths.filter(|((_, state, ..), _)| *state == StateTag::Open).map(|(_, count)| *count).sum()
    }

    /// Number of entries of a topic that are not closed: what would be lost with it (rule RE-10).
    pub fn not_closed_of(&self, topic: TopicUuid) -> u64 {
        let all = PartitionId(0)..=PartitionId(u32::MAX);
        let (first, last) = (Source { topic, partition: *all.start() }, Source { topic, partition: *all.end() });
        self.0.partitions.range(first..=last).map(|(_, one)| one.index.open.len() as u64).sum()
    }

    /// Entries of a lane that are not closed, in order.
    pub fn open_of(&self, source: Source, lane: LaneKey) -> impl Iterator<Item = EntryKey> + '_ {
        let open = self.0.partitions.get(&source).into_iter();
        open.flat_map(move |one| one.index.open_of(lane)).map(move |at| at.key(source))
    }

    /// The first open entry that holds a lane: the only one that may be delivered.
    pub fn head_of(&self, source: Source, lane: LaneKey) -> Option<EntryKey> {
        let partition = self.0.partitions.get(&source)?;
        partition.index.lanes.get(&lane)?;
        let holds = |at: &At| partition.entries.get(*at).is_some_and(|packed| packed.holds);
        partition.index.open_of(lane).find(holds).map(|at| at.key(source))
    }

    /// What the lane is. Intents that are open are not counted: the caller knows them.
    pub fn lane_state(&self, source: Source, lane: LaneKey) -> LaneState {
        self.0.partitions.get(&source).map_or(LaneState::Live, |one| one.index.lane_state(lane))
    }

    /// Entries that jobs redrive, with their jobs.
    pub fn redriving(&self) -> impl Iterator<Item = (u64, EntryKey)> + '_ {
        self.0
            .partitions
            .iter()
            .flat_map(|(source, partition)| partition.index.redriving.iter().map(|(job, at)| (*job, at.key(*source))))
    }

    /// How many entries a partition has of each kind, state and reason; closed ones without their detail (rule DL-14).
    /// The flag says whether a job redrives them.
    pub fn depths(&self, source: Source) -> impl Iterator<Item = (EntryKind, EntryState, bool, DeadReason, u64)> + '_ {
        let depths = self.0.partitions.get(&source).into_iter().flat_map(|one| one.index.depths.iter());
        depths.map(|((kind, state, job, reason), count)| (*kind, state.state(0), *job, *reason, *count))
    }

    /// Redrive jobs by number.
    pub fn jobs(&self) -> &BTreeMap<u64, String> {
        &self.0.jobs
    }

    /// Records that build this table from an empty one: its snapshot.
    pub fn records(&self) -> impl Iterator<Item = EntryRecord> + '_ {
        self.0.records()
    }

    /// Applies a change: the only way in which the table changes.
    ///
    /// # Errors
    /// The record does not fit what is there; nothing was changed then.
    pub fn replay(&mut self, record: &EntryRecord) -> Result<(), String> {
        self.0.replay(record)
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
