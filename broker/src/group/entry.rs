//! Dead-letter entries: what a group's dead-letter topics mean at present (rules DL-4, DL-12).
//!
//! An entry is made when its copy is durable in the dead-letter partition, and lives through [`EntryRecord`]s of the
//! entry journal, outside of the group journal. The table answers, without reading a copy, which lanes are dead or
//! spilled and what comes next in each. Pure, like all of `group`.
//!
//! Invariants: one entry for a record of a group, whatever its cycle; a lane is dead or spilled exactly as its open
//! entries say (rule DL-12); a lane's entries are in source order (rule DL-9).

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use super::pairs;
use crate::model::{KeySlot, LaneKey, Offset, PartitionEpoch, Source};

/// Which record of the source an entry stands for. With the group's id it is the entry's id (rule DL-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct EntryKey {
    /// The partition.
    pub source: Source,
    /// Offset of the record.
    pub offset: Offset,
    /// Epoch of its frame.
    pub epoch: PartitionEpoch,
}

/// Why there is an entry (rule DL-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// It failed itself.
    Failed,
    /// It waits behind one that failed, or was spilled.
    Parked,
}

/// Why a record died or was parked (rule DL-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum DeadReason {
    /// All tries failed.
    Attempts,
    /// Its error class is not retried.
    NonRetryable,
    /// A consumer said so.
    ConsumerDeadNack,
    /// Its last lease ran out.
    LeaseExpired,
    /// Its members died with it.
    ConsumerCrash,
    /// Its batch cannot be decoded (rule DL-16).
    Undecodable,
    /// Its lane was spilled (rule KO-7).
    Spill,
    /// Its lane was dead.
    Parked,
}

/// State of an entry (rule DL-12). Redriving is open with a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum EntryState {
    /// Waits for someone.
    Open,
    /// Its lane lives and reads from here (rule KO-7).
    Spilled,
    /// Handled: acknowledged in this version, 0 being the record as it was.
    Resolved {
        /// The version.
        version: u32,
    },
    /// Given up, with a reason.
    Discarded,
    /// Appended to its topic again (rule RD-3).
    Moved,
    /// Forgotten by a reset (rule OF-3).
    Cleared,
    /// Retention took it (rule DL-10).
    Expired,
}

impl EntryState {
    /// Whether it is closed.
    pub fn is_closed(self) -> bool {
        !matches!(self, Self::Open | Self::Spilled)
    }
}

/// Who did something to an entry, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Act {
    /// Who: a member, an operator's client, or the broker.
    pub actor: String,
    /// When, in milliseconds since 1970.
    pub time_ms: i64,
    /// In words.
    pub note: String,
}

/// One entry.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its lane.
    pub lane: LaneKey,
    /// Its slot.
    pub slot: KeySlot,
    /// Why it is here.
    pub kind: EntryKind,
    /// State.
    pub state: EntryState,
    /// Job that redrives it.
    pub job: Option<u64>,
    /// 0 at first, one more with each redrive (rule RD-4) and each death after a clearing (rule DL-15).
    pub cycle: u32,
    /// Offset of the copy in the dead-letter partition.
    pub copy: Offset,
    /// Deliveries of this cycle that count (rule RT-5).
    pub attempts: u32,
    /// Wall time in milliseconds before which it is not tried again; 0: at once.
    pub due_ms: i64,
    /// Time of the first delivery, in milliseconds since 1970.
    pub first_delivery_ms: i64,
    /// Why it died.
    pub reason: DeadReason,
    /// Class of the last error.
    pub class: Option<String>,
    /// Fingerprint of the last error.
    pub fingerprint: Option<String>,
    /// Head of its lane when it was parked.
    pub blocked_by: Option<EntryKey>,
    /// Edited versions (rule RD-6): offsets in the dead-letter partition of their copies, version 1 first.
    pub versions: Vec<Offset>,
    /// When it died or was parked, in milliseconds since 1970.
    pub dead_ms: i64,
    /// The last thing done to it.
    pub act: Act,
    /// The part of the source with its record was cut: the copy is all that is left (rule AK-12).
    pub source_lost: bool,
}

/// A change of entries: the only thing that changes an [`EntryTable`].
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum EntryRecord {
    /// A copy is durable. For an entry that exists: a new copy (cycle, kind, state of the record given count).
    Opened {
        /// Which.
        key: EntryKey,
        /// The entry.
        entry: Box<Entry>,
    },
    /// A delivery of an open entry failed, or is about to be made: attempts and due time.
    Tried {
        /// Which.
        key: EntryKey,
        /// Attempts now.
        attempts: u32,
        /// Wall time of the next try.
        due_ms: i64,
        /// Class of the error.
        class: Option<String>,
    },
    /// State, kind or cycle changed: a spilled head died, an entry was closed, a job took it or left it.
    Changed {
        /// Which.
        key: EntryKey,
        /// State now.
        state: EntryState,
        /// Kind now.
        kind: EntryKind,
        /// Cycle now.
        cycle: u32,
        /// Job that redrives it now.
        job: Option<u64>,
        /// Attempts now.
        attempts: u32,
        /// Reason now.
        reason: DeadReason,
        /// Class of the last error.
        class: Option<String>,
        /// Fingerprint of the last error.
        fingerprint: Option<String>,
        /// Who and why.
        act: Act,
    },
    /// A new version was stored (rule RD-6).
    Edited {
        /// Which.
        key: EntryKey,
        /// Offset of its copy in the dead-letter partition.
        copy: Offset,
        /// Who and why.
        act: Act,
    },
    /// The sources of these entries were cut (rule AK-12).
    SourceLost {
        /// The partition.
        source: Source,
        /// Entries at or above this offset, of epochs below `epoch`.
        from: Offset,
        /// The epoch that began with the cut.
        epoch: PartitionEpoch,
    },
    /// Closed entries whose records and copies are gone are forgotten.
    Forgotten {
        /// Which.
        keys: Vec<EntryKey>,
    },
    /// A redrive job changed (rule RD-1); encoded by its owner.
    Job {
        /// Its number, unique in the group.
        job: u64,
        /// Its state; `None`: forgotten.
        state: Option<String>,
    },
    /// A topic was taken out of the group or deleted: everything of it goes.
    Dropped {
        /// Its partitions.
        sources: Vec<Source>,
    },
}

impl EntryRecord {
    /// Its bytes in the journal.
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("entry records have no keys that are no strings")
    }

    /// Reads one.
    ///
    /// # Errors
    /// What does not fit, in words.
    pub fn decode(bytes: &[u8]) -> Result<Self, String> {
        serde_json::from_slice(bytes).map_err(|error| error.to_string())
    }
}

/// What a lane is, by its open entries (rule DL-12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LaneState {
    /// Records are delivered from the source.
    Live,
    /// Records wait in the dead-letter topic and are delivered from there (rule KO-7).
    Spilled,
    /// Nothing is delivered but by a redrive.
    Dead,
}

/// All entries of a group.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct EntryTable {
    #[serde(with = "pairs")]
    entries: BTreeMap<EntryKey, Entry>,
    /// Redrive jobs, encoded by their owner.
    #[serde(with = "pairs")]
    jobs: BTreeMap<u64, String>,
    /// Open entries of each lane, in order; rebuilt from `entries`.
    #[serde(skip)]
    lanes: HashMap<(Source, LaneKey), std::collections::BTreeSet<EntryKey>>,
}

impl EntryTable {
    /// One entry.
    pub fn get(&self, key: &EntryKey) -> Option<&Entry> {
        self.entries.get(key)
    }

    /// The entry of the record at `offset`, of the newest epoch at most `epoch`.
    pub fn at(&self, source: Source, offset: Offset, epoch: PartitionEpoch) -> Option<(&EntryKey, &Entry)> {
        let key = EntryKey { source, offset, epoch };
        self.entries.get_key_value(&key)
    }

    /// All entries in order of partition and offset.
    pub fn iter(&self) -> impl Iterator<Item = (&EntryKey, &Entry)> {
        self.entries.iter()
    }

    /// Entries from `after` on, in order.
    pub fn iter_after(&self, after: Option<EntryKey>) -> impl Iterator<Item = (&EntryKey, &Entry)> {
        let start = after.map_or(std::ops::Bound::Unbounded, std::ops::Bound::Excluded);
        self.entries.range((start, std::ops::Bound::Unbounded))
    }

    /// Number of entries, closed ones counted.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Lanes that are not live.
    pub fn lanes(&self) -> impl Iterator<Item = (&(Source, LaneKey), &std::collections::BTreeSet<EntryKey>)> {
        self.lanes.iter()
    }

    /// Number of lanes that are dead or spilled.
    pub fn lane_count(&self) -> usize {
        self.lanes.len()
    }

    /// Open entries of a lane, in order; the first is its head.
    pub fn open_of(&self, source: Source, lane: LaneKey) -> impl Iterator<Item = &EntryKey> {
        self.lanes.get(&(source, lane)).into_iter().flatten()
    }

    /// What the lane is. Intents that are open are not counted: the caller knows them.
    pub fn lane_state(&self, source: Source, lane: LaneKey) -> LaneState {
        let Some(open) = self.lanes.get(&(source, lane)) else { return LaneState::Live };
        let dead = open.iter().any(|key| self.entries.get(key).is_some_and(|entry| entry.state == EntryState::Open));
        if dead { LaneState::Dead } else { LaneState::Spilled }
    }

    /// Redrive jobs by number.
    pub fn jobs(&self) -> &BTreeMap<u64, String> {
        &self.jobs
    }

    /// Applies a change: the only way in which the table changes.
    ///
    /// # Errors
    /// The record does not fit what is there.
    pub fn replay(&mut self, record: &EntryRecord) -> Result<(), String> {
        match record {
            EntryRecord::Opened { key, entry } => {
                self.unlink(key);
                self.entries.insert(*key, (**entry).clone());
                self.link(key);
            }
            EntryRecord::Tried { key, attempts, due_ms, class } => {
                let entry = self.entry_mut(key)?;
                entry.attempts = *attempts;
                entry.due_ms = *due_ms;
                if class.is_some() {
                    entry.class.clone_from(class);
                }
            }
            EntryRecord::Changed { key, state, kind, cycle, job, attempts, reason, class, fingerprint, act } => {
                self.unlink(key);
                let entry = self.entry_mut(key)?;
                (entry.state, entry.kind, entry.cycle, entry.job) = (*state, *kind, *cycle, *job);
                (entry.attempts, entry.reason) = (*attempts, *reason);
                entry.due_ms = 0;
                entry.class.clone_from(class);
                entry.fingerprint.clone_from(fingerprint);
                entry.act = act.clone();
                self.link(key);
            }
            EntryRecord::Edited { key, copy, act } => {
                let entry = self.entry_mut(key)?;
                entry.versions.push(*copy);
                entry.act = act.clone();
            }
            EntryRecord::SourceLost { source, from, epoch } => {
                let lost = |key: &EntryKey| key.source == *source && key.offset >= *from && key.epoch < *epoch;
                self.entries.iter_mut().filter(|(key, _)| lost(key)).for_each(|(_, entry)| entry.source_lost = true);
            }
            EntryRecord::Forgotten { keys } => {
                for key in keys {
                    self.unlink(key);
                    self.entries.remove(key);
                }
            }
            EntryRecord::Job { job, state } => match state {
                Some(state) => drop(self.jobs.insert(*job, state.clone())),
                None => drop(self.jobs.remove(job)),
            },
            EntryRecord::Dropped { sources } => {
                self.entries.retain(|key, _| !sources.contains(&key.source));
                self.lanes.retain(|(source, _), _| !sources.contains(source));
            }
        }
        Ok(())
    }

    /// Rebuilds what is not stored; to be called after reading a table.
    pub fn rebuild(&mut self) {
        self.lanes.clear();
        let open: Vec<EntryKey> = self.entries.keys().copied().collect();
        open.iter().for_each(|key| self.link(key));
    }

    fn entry_mut(&mut self, key: &EntryKey) -> Result<&mut Entry, String> {
        self.entries.get_mut(key).ok_or_else(|| format!("no entry {key:?}"))
    }

    fn unlink(&mut self, key: &EntryKey) {
        let Some(entry) = self.entries.get(key) else { return };
        let lane = (key.source, entry.lane);
        if let Some(open) = self.lanes.get_mut(&lane) {
            open.remove(key);
            if open.is_empty() {
                self.lanes.remove(&lane);
            }
        }
    }

    fn link(&mut self, key: &EntryKey) {
        if let Some(entry) = self.entries.get(key).filter(|entry| !entry.state.is_closed()) {
            self.lanes.entry((key.source, entry.lane)).or_default().insert(*key);
        }
    }
}
