//! Snapshots of a partition's producers: files beside the segments that save reading the log again at start.
//!
//! ```text
//! 0   magic            u32   "SLPS"
//! 4   version          u16   1
//! 6   zero             u16
//! 8   crc              u32   CRC-32 of everything from 12 on
//! 12  end              u64   offset up to which the state holds
//! 20  epoch            u32   epoch of the record before `end`; u32::MAX: there is none
//! 24  producers        u32   so many follow
//!
//! producer: id i64, epoch i16, flags u8 (1 lost, 2 evicted batch, 4 evicted request), batches u8, requests u8,
//!           last append i64, evicted: next sequence i32, end u64; evicted request u64
//! batch:    sequence i32, then a place          request: number u64, then a place
//! place:    base offset u64, records u32, epoch u32, append time i64
//! ```
//!
//! All integers are little-endian. The file is named by `end` in 20 digits. It is a hint (rule C4): it counts only if
//! its checksum holds, it does not reach beyond the log, and the record before `end` still has that epoch, since a cut
//! log that has grown again has another one there. Whatever is wrong with it, the log is read instead.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::producers::{Evicted, Kept, KeptBatch, KeptRequest, Producer, Producers};
use super::{Monotonic, Offset, PartitionEpoch, limits};
use crate::log::storage::{OpenMode, Storage};

const MAGIC: u32 = u32::from_le_bytes(*b"SLPS");
const VERSION: u16 = 1;
const HEAD_BYTES: usize = 28;
const CRC_FROM: usize = 12;
const NO_EPOCH: u32 = u32::MAX;
const SUFFIX: &str = ".producers";
/// Bytes of a snapshot that is read: more than the limits on producers and windows allow is not one of ours.
const MAX_BYTES: u64 = 1 << 30;
/// Snapshots kept.
const KEEP: usize = 2;

const FLAG_LOST: u8 = 1;
const FLAG_EVICTED: u8 = 2;
const FLAG_EVICTED_REQUEST: u8 = 4;

/// A snapshot that was found and is whole.
#[derive(Debug)]
pub(crate) struct Snapshot {
    /// Everything below is in it.
    pub(crate) end: Offset,
    /// Epoch of the record before `end`.
    pub(crate) epoch: Option<PartitionEpoch>,
    /// The state.
    pub(crate) producers: Producers,
}

/// The bytes of a snapshot.
pub(crate) fn encode(producers: &Producers, end: Offset, epoch: Option<PartitionEpoch>) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(HEAD_BYTES + producers.known.len() * 128);
    bytes.extend_from_slice(&MAGIC.to_le_bytes());
    bytes.extend_from_slice(&VERSION.to_le_bytes());
    bytes.extend_from_slice(&[0; 6]);
    bytes.extend_from_slice(&end.get().to_le_bytes());
    bytes.extend_from_slice(&epoch.map_or(NO_EPOCH, PartitionEpoch::get).to_le_bytes());
    let count = u32::try_from(producers.known.len()).expect("producers are bounded by `limits::PRODUCERS`");
    bytes.extend_from_slice(&count.to_le_bytes());
    for (id, producer) in &producers.known {
        put_producer(&mut bytes, *id, producer);
    }
    let crc = crc32fast::hash(&bytes[CRC_FROM..]);
    bytes[8..CRC_FROM].copy_from_slice(&crc.to_le_bytes());
    bytes
}

fn put_producer(bytes: &mut Vec<u8>, id: i64, producer: &Producer) {
    let flag = |set: bool, flag: u8| if set { flag } else { 0 };
    let flags = flag(producer.lost, FLAG_LOST)
        | flag(producer.evicted.is_some(), FLAG_EVICTED)
        | flag(producer.evicted_request.is_some(), FLAG_EVICTED_REQUEST);
    bytes.extend_from_slice(&id.to_le_bytes());
    bytes.extend_from_slice(&producer.epoch.to_le_bytes());
    // Windows hold at most `limits::PRODUCER_WINDOW` entries, which a byte counts.
    bytes.extend_from_slice(&[flags, producer.batches.len() as u8, producer.requests.len() as u8]);
    bytes.extend_from_slice(&producer.last_append_time_ms.to_le_bytes());
    let evicted = producer.evicted.unwrap_or(Evicted { next_sequence: 0, end: Offset::ZERO });
    bytes.extend_from_slice(&evicted.next_sequence.to_le_bytes());
    bytes.extend_from_slice(&evicted.end.get().to_le_bytes());
    bytes.extend_from_slice(&producer.evicted_request.unwrap_or(0).to_le_bytes());
    for batch in &producer.batches {
        bytes.extend_from_slice(&batch.sequence.to_le_bytes());
        put_place(bytes, &batch.kept);
    }
    for request in &producer.requests {
        bytes.extend_from_slice(&request.number.to_le_bytes());
        put_place(bytes, &request.kept);
    }
}

fn put_place(bytes: &mut Vec<u8>, kept: &Kept) {
    bytes.extend_from_slice(&kept.base_offset.get().to_le_bytes());
    bytes.extend_from_slice(&kept.record_count.to_le_bytes());
    bytes.extend_from_slice(&kept.epoch.get().to_le_bytes());
    bytes.extend_from_slice(&kept.append_time_ms.to_le_bytes());
}

/// Reads fields off the front; `None` once there are too few bytes.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
    fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }
    fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    fn i16(&mut self) -> Option<i16> {
        self.take().map(i16::from_le_bytes)
    }
    fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    fn i32(&mut self) -> Option<i32> {
        self.take().map(i32::from_le_bytes)
    }
    fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }
    fn offset(&mut self) -> Option<Offset> {
        Offset::new(self.u64()?)
    }
    fn place(&mut self) -> Option<Kept> {
        Some(Kept {
            base_offset: self.offset()?,
            record_count: self.u32()?,
            epoch: PartitionEpoch::new(self.u32()?)?,
            append_time_ms: self.i64()?,
        })
    }

    fn producer(&mut self) -> Option<(i64, Producer)> {
        let id = self.i64()?;
        let epoch = self.i16()?;
        let (flags, batches, requests) = (self.u8()?, self.u8()?, self.u8()?);
        if usize::from(batches.max(requests)) > limits::PRODUCER_WINDOW {
            return None;
        }
        let last_append_time_ms = self.i64()?;
        let evicted = Evicted { next_sequence: self.i32()?, end: self.offset()? };
        let evicted_request = self.u64()?;
        let mut producer = Producer {
            epoch,
            batches: VecDeque::with_capacity(usize::from(batches)),
            evicted: (flags & FLAG_EVICTED != 0).then_some(evicted),
            lost: flags & FLAG_LOST != 0,
            requests: VecDeque::with_capacity(usize::from(requests)),
            evicted_request: (flags & FLAG_EVICTED_REQUEST != 0).then_some(evicted_request),
            last_append_time_ms,
            forget_at: Duration::ZERO,
        };
        for _ in 0..batches {
            producer.batches.push_back(KeptBatch { sequence: self.i32()?, kept: self.place()? });
        }
        for _ in 0..requests {
            producer.requests.push_back(KeptRequest { number: self.u64()?, kept: self.place()? });
        }
        Some((id, producer))
    }
}

/// The snapshot in these bytes; `None` if anything is off. What was idle for its time to live is left out; a last
/// append that lies in the future counts as now (rule F6).
pub(crate) fn decode(bytes: &[u8], ttl: Duration, now: Monotonic, wall_ms: i64) -> Option<Snapshot> {
    let mut fields = Fields(bytes);
    if fields.u32()? != MAGIC || fields.u16()? != VERSION || fields.u16()? != 0 {
        return None;
    }
    if fields.u32()? != crc32fast::hash(fields.0) {
        return None;
    }
    let end = fields.offset()?;
    let epoch = match fields.u32()? {
        NO_EPOCH => None,
        epoch => Some(PartitionEpoch::new(epoch)?),
    };
    let mut producers = Producers::new(ttl);
    for _ in 0..fields.u32()? {
        let (id, mut producer) = fields.producer()?;
        producer.forget_at = producers.forget_at(producer.last_append_time_ms, now, wall_ms);
        producers.known.insert(id, producer);
    }
    producers.expire(now);
    fields.0.is_empty().then_some(Snapshot { end, epoch, producers })
}

fn path(dir: &Path, end: Offset) -> PathBuf {
    dir.join(format!("{:020}{SUFFIX}", end.get()))
}

/// Ends of the snapshots in a directory, newest first.
///
/// # Errors
/// The directory cannot be listed.
pub(crate) fn list(storage: &dyn Storage, dir: &Path) -> io::Result<Vec<Offset>> {
    let mut ends: Vec<Offset> = storage
        .list(dir)?
        .iter()
        .filter_map(|entry| entry.name.strip_suffix(SUFFIX)?.parse().ok())
        .filter_map(Offset::new)
        .collect();
    ends.sort_unstable_by(|a, b| b.cmp(a));
    Ok(ends)
}

/// The bytes of a snapshot file.
///
/// # Errors
/// It cannot be read, or is larger than any that we write.
pub(crate) fn read(storage: &dyn Storage, dir: &Path, end: Offset) -> io::Result<Vec<u8>> {
    let file = storage.open(&path(dir, end), OpenMode::Read)?;
    let length = file.len()?;
    if length > MAX_BYTES {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let mut bytes = vec![0; usize::try_from(length).map_err(|_| io::ErrorKind::InvalidData)?];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(bytes)
}

/// Writes a snapshot and removes all but the newest two. Not synced: if it is lost or torn, the log is read instead.
///
/// # Errors
/// A call to the storage failed; the snapshots before are still there.
pub(crate) fn write(storage: &dyn Storage, dir: &Path, end: Offset, bytes: &[u8]) -> io::Result<()> {
    let unfinished = dir.join("producers.tmp");
    if storage.exists(&unfinished)? {
        storage.remove_file(&unfinished)?;
    }
    let file = storage.open(&unfinished, OpenMode::CreateNew)?;
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&[IoSlice::new(&bytes[written..])], written as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            more => written += more,
        }
    }
    storage.rename(&unfinished, &path(dir, end))?;
    for old in list(storage, dir)?.into_iter().skip(KEEP) {
        storage.remove_file(&path(dir, old))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "producer_snapshot_tests.rs"]
mod tests;
