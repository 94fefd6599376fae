//! Dead-letter entries: what a group's dead-letter topics mean at present (rules DL-4, DL-12).
//!
//! An entry is made when its copy is durable in the dead-letter partition, and lives through [`EntryRecord`]s of the
//! entry journal, outside of the group journal. The table answers, without reading a copy, which lanes are dead or
//! spilled and what comes next in each. Pure, like all of `group`.
//!
//! Records that open, try and change entries are many, so they have a binary form in the journal; the others are JSON. The
//! first byte tells: `{` begins JSON, a tag each binary form, whose numbers are LEB128 varints and whose texts stand behind
//! their lengths. A form that changes gets a new tag.
//!
//! ```text
//! key      topic: 16 bytes | partition | offset | epoch
//! state    0 open, 1 spilled, 2 resolved | version, 3 discarded, 4 moved, 5 cleared, 6 expired
//! act      actor | time | note
//! opened   1 | flags | key | lane: 16 bytes | slot | kind | state | reason | cycle | copy | attempts | due_ms | delay_ms
//!          | first delivery | size | intent | death | job | class | fingerprint | offset and epoch of what blocks it
//!          | versions | versions * offset | act: each from the job on only if its flag says so
//!          flags: 1 holds, 2 source lost, 4 job, 8 class, 16 fingerprint, 32 blocked, 64 versions, 128 act
//! tried    2 | flags: 8 class | key | attempts | due_ms | delay_ms | class, if any
//! changed  3 | flags: 4 job, 8 class, 16 fingerprint | key | state | kind | cycle | attempts | reason | job | class
//!          | fingerprint | act: the job, class and fingerprint only if given
//! ```
//!
//! Invariants: one entry for a record of a group, whatever its cycle; a lane is dead or spilled exactly as its open
//! entries say (rule DL-12); a lane's entries are in source order (rule DL-9).

mod codec;
mod entries;
mod failures;
mod index;
mod packed;
mod pages;
mod table;
#[cfg(test)]
mod tests;

use serde::{Deserialize, Serialize};

use crate::model::{KeySlot, LaneKey, Offset, PartitionEpoch, Source};

pub use failures::EntryFailure;
pub use table::{EntryReplica, EntryTable};

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
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum EntryKind {
    /// It failed itself.
    Failed,
    /// It waits behind one that failed, or was spilled.
    Parked,
}

impl EntryKind {
    /// All of them, as they are numbered in the journals.
    pub(super) const ALL: [Self; 2] = [Self::Failed, Self::Parked];
}

/// Why a record died or was parked (rule DL-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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

impl DeadReason {
    /// All of them, as they are numbered in the journals.
    pub(super) const ALL: [Self; 8] = [
        Self::Attempts,
        Self::NonRetryable,
        Self::ConsumerDeadNack,
        Self::LeaseExpired,
        Self::ConsumerCrash,
        Self::Undecodable,
        Self::Spill,
        Self::Parked,
    ];
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

/// What an entry was before the last thing done to it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Past {
    /// State then.
    pub state: EntryState,
    /// Job that redrove it then.
    pub job: Option<u64>,
    /// Cycle then.
    pub cycle: u32,
    /// What had made it so.
    pub act: Act,
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
    /// The delay that the due time was set with: after a start of the broker it waits no longer (rule F6).
    #[serde(default)]
    pub delay_ms: u64,
    /// Time of the first delivery, in milliseconds since 1970.
    pub first_delivery_ms: i64,
    /// Why it died.
    pub reason: DeadReason,
    /// Class of the last error.
    pub class: Option<String>,
    /// Fingerprint of the last error.
    pub fingerprint: Option<String>,
    /// Head of its lane, in the same partition, when it was parked.
    pub blocked_by: Option<EntryKey>,
    /// Whether its lane waits for it; not after a death under `after_dead = continue`, in mode UNORDERED, of a batch that
    /// cannot be decoded, or of a dead letter that died again (rules DL-8, DL-11, DL-16).
    pub holds: bool,
    /// Bytes of key, value and headers of the record.
    pub size_bytes: u32,
    /// Number of the intent that opened it last: what a reset cleared is told by it from what died since (rule OF-3).
    pub intent: u64,
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
        /// The delay that it was set with.
        #[serde(default)]
        delay_ms: u64,
        /// Class of the error.
        class: Option<String>,
    },
    /// The last delivery of an entry that lives on failed: with it the record died here, or its redrive ended.
    Failed {
        /// Which.
        key: EntryKey,
        /// How.
        failure: Box<EntryFailure>,
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
    /// A job took these open entries, or left them: attempts anew and one cycle more if it took them (rule RD-4).
    Redriving {
        /// Which.
        keys: Vec<EntryKey>,
        /// The job; `None`: they are open again.
        job: Option<u64>,
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
    /// What an entry was before, the oldest first: in snapshots only.
    Past {
        /// Which.
        key: EntryKey,
        /// What.
        past: Vec<Past>,
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
