//! Sidecars of segments: the event ids of their records (rule PR-8), so that a start need not read the log for them.
//!
//! A file beside the segment, named like it with the suffix `events`, is a run of blocks; a block is added when the
//! partition is checkpointed, the segment sealed or the log closed. A block tells all ids that were known of the
//! records from `from` to `end`.
//!
//! ```text
//! 0   magic         u32   "SLEI"
//! 4   version       u16   1
//! 6   zero          u16
//! 8   crc           u32   CRC-32 of the block from 12 on
//! 12  entries       u32   so many follow
//! 16  from          u64   first offset that the block is about
//! 24  end           u64   first offset after those
//! 32  epoch         u32   epoch of the record before `end`
//! 36  partition     u32
//! 40  topic uuid    16 bytes
//! 56  segment base  u64
//! 64  entries: id 16 bytes, content u64, offset - from u32, epoch u32, append time i64
//! ```
//!
//! All integers are little-endian. A sidecar is a hint (rule C4): a block counts only if its checksum holds, it is of
//! this segment, it goes on where the one before ended, and the record before its end still has that epoch, since a
//! log that was cut and has grown again has another one there. From the first block that does not count on, the log is
//! read instead. Nothing is synced.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::LogIdentity;
use super::format::{array_at, u16_at, u32_at, u64_at};
use super::storage::{OpenMode, Storage, StorageFile};
use crate::model::{Offset, PartitionEpoch};

const MAGIC: u32 = u32::from_le_bytes(*b"SLEI");
const VERSION: u16 = 1;
const CRC_FIELD: usize = 8;
const CRC_FROM: usize = 12;
const HEAD_BYTES: usize = 64;
const ENTRY_BYTES: usize = 40;
const SUFFIX: &str = ".events";
/// Entries of a block: more than the limit on ids is not one of ours.
const ENTRIES_MAX: u32 = 1 << 20;

/// An event id in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoredEvent {
    /// Hash of tenant and event id.
    pub id: [u64; 2],
    /// Hash of key and payload.
    pub content: u64,
    /// The record.
    pub offset: Offset,
    /// Epoch of its frame.
    pub epoch: PartitionEpoch,
    /// Time of its append in milliseconds since 1970.
    pub append_time_ms: i64,
}

/// A part of a sidecar.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// First offset that it is about.
    pub from: Offset,
    /// First offset after those.
    pub end: Offset,
    /// Epoch of the record before `end`.
    pub epoch: PartitionEpoch,
    /// The ids, in order of their offsets.
    pub events: Vec<StoredEvent>,
}

fn path(dir: &Path, base: Offset) -> PathBuf {
    dir.join(format!("{:020}{SUFFIX}", base.get()))
}

/// The bytes of a block of the segment at `base`.
pub fn encode(identity: &LogIdentity, base: Offset, block: &Block) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + block.events.len() * ENTRY_BYTES);
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 6]);
    let entries = u32::try_from(block.events.len()).expect("ids are bounded by `limits::EVENT_IDS`");
    bytes.extend_from_slice(&entries.to_le_bytes());
    bytes.extend_from_slice(&block.from.get().to_le_bytes());
    bytes.extend_from_slice(&block.end.get().to_le_bytes());
    bytes.extend_from_slice(&block.epoch.get().to_le_bytes());
    bytes.extend_from_slice(&identity.partition.0.to_le_bytes());
    bytes.extend_from_slice(&identity.topic_uuid.0);
    bytes.extend_from_slice(&base.get().to_le_bytes());
    for event in &block.events {
        assert!(block.from <= event.offset && event.offset < block.end, "a block is about its own offsets");
        bytes.extend_from_slice(&event.id[0].to_le_bytes());
        bytes.extend_from_slice(&event.id[1].to_le_bytes());
        bytes.extend_from_slice(&event.content.to_le_bytes());
        // A segment is at most 1 GiB, so that its offsets differ by less than 2^32.
        bytes.extend_from_slice(&(event.offset.distance_from(block.from) as u32).to_le_bytes());
        bytes.extend_from_slice(&event.epoch.get().to_le_bytes());
        bytes.extend_from_slice(&event.append_time_ms.to_le_bytes());
    }
    let crc = crc32fast::hash(&bytes[CRC_FROM..]);
    bytes[CRC_FIELD..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    bytes
}

/// The block at the beginning of `bytes` and its length; `None` if anything is off.
pub fn decode(identity: &LogIdentity, base: Offset, bytes: &[u8]) -> Option<(Block, usize)> {
    let head = bytes.get(..HEAD_BYTES)?;
    let entries = u32_at(head, 12);
    if u32_at(head, 0) != MAGIC || u16_at(head, 4) != VERSION || u16_at(head, 6) != 0 || entries > ENTRIES_MAX {
        return None;
    }
    let length = HEAD_BYTES + entries as usize * ENTRY_BYTES;
    let body = bytes.get(CRC_FROM..length)?;
    let own = u32_at(head, 36) == identity.partition.0
        && array_at::<16>(head, 40) == identity.topic_uuid.0
        && u64_at(head, 56) == base.get();
    if !own || crc32fast::hash(body) != u32_at(head, CRC_FIELD) {
        return None;
    }
    let (from, end) = (Offset::new(u64_at(head, 16))?, Offset::new(u64_at(head, 24))?);
    let epoch = PartitionEpoch::new(u32_at(head, 32))?;
    let event = |entry: &[u8]| {
        let offset = from.saturating_add(u64::from(u32_at(entry, 24)));
        Some(StoredEvent {
            id: [u64_at(entry, 0), u64_at(entry, 8)],
            content: u64_at(entry, 16),
            offset: (offset < end).then_some(offset)?,
            epoch: PartitionEpoch::new(u32_at(entry, 28))?,
            append_time_ms: i64::from_le_bytes(array_at(entry, 32)),
        })
    };
    let events: Option<Vec<_>> = bytes[HEAD_BYTES..length].chunks_exact(ENTRY_BYTES).map(event).collect();
    Some((Block { from, end, epoch, events: events? }, length))
}

/// What a sidecar holds.
#[derive(Debug, Default)]
pub struct Sidecar {
    /// Its blocks, up to the first that is damaged.
    pub blocks: Vec<Block>,
    /// Whether something follows that is no block: nothing may be added behind it.
    pub damaged: bool,
}

/// Reads the sidecar of a segment; one that is missing is empty.
///
/// # Errors
/// It cannot be read.
pub fn read(storage: &dyn Storage, dir: &Path, identity: &LogIdentity, base: Offset) -> io::Result<Sidecar> {
    let path = path(dir, base);
    if !storage.exists(&path)? {
        return Ok(Sidecar::default());
    }
    let file = storage.open(&path, OpenMode::Read)?;
    let (length, mut position) = (file.len()?, 0);
    let mut found = Sidecar::default();
    while position < length {
        let block = read_block(&*file, position, length)?;
        let Some((block, bytes)) = block.and_then(|bytes| decode(identity, base, &bytes)) else {
            found.damaged = true;
            break;
        };
        found.blocks.push(block);
        position += bytes as u64;
    }
    Ok(found)
}

/// The bytes of one block, as its head says how many; `None` if the file ends before.
fn read_block(file: &dyn StorageFile, position: u64, length: u64) -> io::Result<Option<Vec<u8>>> {
    let mut bytes = vec![0; HEAD_BYTES];
    if file.read_at(&mut bytes, position)? < HEAD_BYTES {
        return Ok(None);
    }
    let entries = u32_at(&bytes, 12);
    let whole = HEAD_BYTES as u64 + u64::from(entries) * ENTRY_BYTES as u64;
    if entries > ENTRIES_MAX || whole > length - position {
        return Ok(None);
    }
    // At most 40 MiB, and not more than the file has.
    bytes.resize(whole as usize, 0);
    let read = file.read_at(&mut bytes[HEAD_BYTES..], position + HEAD_BYTES as u64)?;
    Ok((HEAD_BYTES + read == bytes.len()).then_some(bytes))
}

/// Adds a block to the sidecar of the segment at `base`. Not synced: if it is lost or torn, the log is read instead.
///
/// # Errors
/// A call to the storage failed; what was there before may be followed by a part of the block.
pub fn append(
    storage: &dyn Storage,
    dir: &Path,
    identity: &LogIdentity,
    base: Offset,
    block: &Block,
) -> io::Result<()> {
    let path = path(dir, base);
    let mode = if storage.exists(&path)? { OpenMode::ReadWrite } else { OpenMode::CreateNew };
    let file = storage.open(&path, mode)?;
    let (bytes, position) = (encode(identity, base, block), file.len()?);
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&[IoSlice::new(&bytes[written..])], position + written as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            more => written += more,
        }
    }
    Ok(())
}

/// Removes the sidecar of a segment, if there is one.
///
/// # Errors
/// It cannot be removed.
pub fn remove(storage: &dyn Storage, dir: &Path, base: Offset) -> io::Result<()> {
    let path = path(dir, base);
    if storage.exists(&path)? { storage.remove_file(&path) } else { Ok(()) }
}

/// Removes the sidecars of segments that are gone.
///
/// # Errors
/// The directory cannot be listed, or a file not removed.
pub fn remove_orphans(storage: &dyn Storage, dir: &Path, is_segment: impl Fn(Offset) -> bool) -> io::Result<()> {
    for entry in storage.list(dir)? {
        let base = entry.name.strip_suffix(SUFFIX).and_then(|digits| digits.parse().ok()).and_then(Offset::new);
        if base.is_some_and(|base| !is_segment(base)) {
            storage.remove_file(&dir.join(&entry.name))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
