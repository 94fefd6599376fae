//! One file that says, for all partitions, up to where their logs had been synced (rule S4).
//!
//! Owns the codec and the two slots `checkpoint.a` and `checkpoint.b`, written in turn: temporary file, sync, rename,
//! sync of the directory. Must not know logs: what is proven comes in, and goes out again at the next start.
//!
//! Invariants:
//! - it names only what a good sync had covered when it was taken;
//! - a damaged slot falls back to the other one, and both being damaged costs a longer scan, nothing else (rule C4);
//! - the entries are in order of topic and partition, each once.

use std::io;
use std::path::Path;
use std::sync::Arc;

use super::environment::write_file;
use super::format::{
    CHECKPOINT_ENTRY_BYTES, CHECKPOINT_HEADER_BYTES, CHECKPOINT_MAGIC, FORMAT_MAJOR, FORMAT_MINOR, array_at,
    checkpoint_field as field, u16_at, u32_at, u64_at,
};
use super::storage::{OpenMode, Storage};
use crate::model::{Offset, PartitionId, TopicId};

/// The two slots, in the data directory.
pub const SLOT_NAMES: [&str; 2] = ["checkpoint.a", "checkpoint.b"];
/// A slot that is being written.
const UNFINISHED_NAME: &str = "checkpoint.new";
/// Most bytes of a slot that are read: far more than all partitions need.
const SLOT_BYTES: u64 = 16 << 20;

const _: () = assert!((CHECKPOINT_HEADER_BYTES + 200_000 * CHECKPOINT_ENTRY_BYTES) as u64 <= SLOT_BYTES);
const _: () = assert!(crate::limits::PARTITIONS <= 200_000);

/// What a checkpoint says of one partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CheckpointEntry {
    /// The topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// Everything below had been synced.
    pub proven_end: Offset,
}

/// Why the bytes of a slot are not used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CheckpointFault {
    /// Shorter or longer than its header says.
    #[error("the file has {found} bytes, expected {expected}")]
    Length {
        /// Bytes that it should have.
        expected: u64,
        /// Bytes that it has.
        found: u64,
    },
    /// Not a checkpoint, or one of another version.
    #[error("magic or version is not that of a checkpoint")]
    Kind,
    /// A part was damaged.
    #[error("checksum of the {part} is {found:08x}, expected {expected:08x}")]
    Checksum {
        /// Header or entries.
        part: &'static str,
        /// The checksum of the bytes found.
        expected: u32,
        /// The checksum that the file has.
        found: u32,
    },
    /// A checkpoint of another data directory.
    #[error("a checkpoint of another data directory")]
    Foreign,
    /// An entry that none of our writers writes.
    #[error("entry {0} cannot be")]
    Entry(u32),
}

/// A checkpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Checkpoint {
    /// Rises with every checkpoint of a data directory.
    pub sequence: u64,
    /// In order of topic and partition.
    entries: Vec<CheckpointEntry>,
}

impl Checkpoint {
    /// A checkpoint of these partitions; of several entries for one, the highest counts.
    pub fn new(sequence: u64, mut entries: Vec<CheckpointEntry>) -> Self {
        entries.sort_unstable_by_key(|entry| (entry.topic, entry.partition, std::cmp::Reverse(entry.proven_end)));
        entries.dedup_by_key(|entry| (entry.topic, entry.partition));
        Self { sequence, entries }
    }

    /// The entries, in order of topic and partition.
    pub fn entries(&self) -> &[CheckpointEntry] {
        &self.entries
    }

    /// Up to where the log of a partition had been synced, if it is named.
    pub fn proven_end(&self, topic: TopicId, partition: PartitionId) -> Option<Offset> {
        let found = self.entries.binary_search_by_key(&(topic, partition), |entry| (entry.topic, entry.partition));
        found.ok().map(|at| self.entries[at].proven_end)
    }

    /// The bytes of a slot.
    pub fn encode(&self, data_dir: &[u8; 16]) -> Vec<u8> {
        let mut bytes = vec![0; CHECKPOINT_HEADER_BYTES];
        for entry in &self.entries {
            bytes.extend_from_slice(&entry.topic.0.to_le_bytes());
            bytes.extend_from_slice(&entry.proven_end.get().to_le_bytes());
            bytes.extend_from_slice(&entry.partition.0.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
        }
        let entries_checksum = crc32fast::hash(&bytes[CHECKPOINT_HEADER_BYTES..]);
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(field::MAGIC, &CHECKPOINT_MAGIC);
        put(field::MAJOR, &FORMAT_MAJOR.to_le_bytes());
        put(field::MINOR, &FORMAT_MINOR.to_le_bytes());
        put(field::ENTRY_COUNT, &(self.entries.len() as u32).to_le_bytes());
        put(field::SEQUENCE, &self.sequence.to_le_bytes());
        put(field::DATA_DIR, data_dir);
        put(field::ENTRIES_CHECKSUM, &entries_checksum.to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..field::HEADER_CHECKSUM]);
        bytes[field::HEADER_CHECKSUM..field::END].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Decodes and checks the bytes of a slot.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn decode(bytes: &[u8], data_dir: &[u8; 16]) -> Result<Self, CheckpointFault> {
        let found = bytes.len() as u64;
        if bytes.len() < CHECKPOINT_HEADER_BYTES {
            return Err(CheckpointFault::Length { expected: CHECKPOINT_HEADER_BYTES as u64, found });
        }
        if array_at(bytes, field::MAGIC) != CHECKPOINT_MAGIC || u16_at(bytes, field::MAJOR) != FORMAT_MAJOR {
            return Err(CheckpointFault::Kind);
        }
        check("header", &bytes[..field::HEADER_CHECKSUM], u32_at(bytes, field::HEADER_CHECKSUM))?;
        if array_at(bytes, field::DATA_DIR) != *data_dir {
            return Err(CheckpointFault::Foreign);
        }
        let count = u64::from(u32_at(bytes, field::ENTRY_COUNT));
        let expected = CHECKPOINT_HEADER_BYTES as u64 + count * CHECKPOINT_ENTRY_BYTES as u64;
        if expected != found {
            return Err(CheckpointFault::Length { expected, found });
        }
        check("entries", &bytes[CHECKPOINT_HEADER_BYTES..], u32_at(bytes, field::ENTRIES_CHECKSUM))?;
        let mut entries: Vec<CheckpointEntry> = Vec::with_capacity(count as usize);
        for (number, bytes) in bytes[CHECKPOINT_HEADER_BYTES..].chunks_exact(CHECKPOINT_ENTRY_BYTES).enumerate() {
            let bad = CheckpointFault::Entry(number as u32);
            let entry = CheckpointEntry {
                topic: TopicId(u64_at(bytes, 0)),
                proven_end: Offset::new(u64_at(bytes, 8)).ok_or(bad)?,
                partition: PartitionId(u32_at(bytes, 16)),
            };
            let rises = entries.last().is_none_or(|last| (last.topic, last.partition) < (entry.topic, entry.partition));
            if !rises || u32_at(bytes, 20) != 0 {
                return Err(bad);
            }
            entries.push(entry);
        }
        Ok(Self { sequence: u64_at(bytes, field::SEQUENCE), entries })
    }
}

fn check(part: &'static str, bytes: &[u8], found: u32) -> Result<(), CheckpointFault> {
    let expected = crc32fast::hash(bytes);
    if expected == found { Ok(()) } else { Err(CheckpointFault::Checksum { part, expected, found }) }
}

/// The two slots of a data directory.
#[derive(Debug)]
pub struct CheckpointFile {
    storage: Arc<dyn Storage>,
    data_dir: [u8; 16],
    sequence: u64,
    next_slot: usize,
}

impl CheckpointFile {
    /// Reads both slots; the newer good one counts. `None` if there is no good one.
    pub fn load(storage: Arc<dyn Storage>, data_dir: [u8; 16]) -> (Self, Option<Checkpoint>) {
        let mut newest: Option<(usize, Checkpoint)> = None;
        for (slot, name) in SLOT_NAMES.iter().enumerate() {
            // A slot that cannot be read is as good as missing: it is a hint.
            let Ok(bytes) = read_slot(&*storage, Path::new(name)) else { continue };
            let Ok(checkpoint) = Checkpoint::decode(&bytes, &data_dir) else { continue };
            if newest.as_ref().is_none_or(|(_, other)| other.sequence < checkpoint.sequence) {
                newest = Some((slot, checkpoint));
            }
        }
        let sequence = newest.as_ref().map_or(0, |(_, checkpoint)| checkpoint.sequence);
        let next_slot = newest.as_ref().map_or(0, |(slot, _)| 1 - slot);
        (Self { storage, data_dir, sequence, next_slot }, newest.map(|(_, checkpoint)| checkpoint))
    }

    /// Writes the next checkpoint over the older slot. What each partition's indexes need for it must be on disk
    /// already (see [`super::LocalLog::pending_index_save`]).
    ///
    /// # Errors
    /// A call to the storage failed: the older slot may be gone, the newer one is as it was.
    pub fn save(&mut self, entries: Vec<CheckpointEntry>) -> io::Result<()> {
        let checkpoint = Checkpoint::new(self.sequence + 1, entries);
        let bytes = checkpoint.encode(&self.data_dir);
        let name = Path::new(SLOT_NAMES[self.next_slot]);
        write_file(&*self.storage, name, Path::new(UNFINISHED_NAME), &bytes)?;
        self.storage.sync_dir(Path::new(""))?;
        self.sequence = checkpoint.sequence;
        self.next_slot = 1 - self.next_slot;
        Ok(())
    }
}

fn read_slot(storage: &dyn Storage, path: &Path) -> io::Result<Vec<u8>> {
    let file = storage.open(path, OpenMode::Read)?;
    let len = file.len()?;
    if len > SLOT_BYTES {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

#[cfg(test)]
mod tests;
