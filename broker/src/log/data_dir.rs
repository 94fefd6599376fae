//! The data directory as a whole: lock, `FORMAT`, clean-shutdown marker, reserve.
//!
//! It must not know what the logs hold. Invariants: nothing is touched before the directory is known to be ours and of a
//! format that we know (rules S2, S6); the lock is held as long as the directory is open (S1); the clean marker is gone
//! durably before anything else is written, and it is the last thing written (S3); a damaged `FORMAT` is made good from
//! what the segments say.
//!
//! ```text
//! LOCK       flock; the holder's pid in decimal, for information
//! FORMAT     magic 8 | major u16 | minor u16 | uuid 16 | CRC-32 of all before it u32
//! CLEAN      magic 8 | major u16 | minor u16 | count u32 | uuid 16
//!            | count times: topic u64, end u64, partition u32, zero u32 | CRC-32 of all before it u32 | zero u32
//! reserve    zeros: space to give back when the disk is full
//! checkpoint.*  meta/  groups/  entries/  topics/<topic id>/<partition>/
//! ```
//! All integers are little-endian; `FORMAT` and `CLEAN` have exactly these bytes, so that any other is damage.

mod files;
mod format_file;
mod reserve;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::format::{FORMAT_MAJOR, FORMAT_MINOR, u32_at, u64_at};
use super::storage::{OpenMode, Storage, StorageLock};
use crate::model::{Offset, PartitionId, TopicId};

/// Settings of a data directory, and the chance that it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DataDirOptions {
    /// Id that the directory gets if it is new: random.
    pub new_uuid: [u8; 16],
    /// Bytes kept back for what must be written on a full disk (rule F3); 0: none. Default 64 MiB.
    pub reserve_bytes: u64,
}

/// Why a data directory cannot be used (rule S6). Nothing in it has been touched.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    /// Another process has it open (rule S1).
    #[error("the data directory is in use by another process{}", pid.map(|pid| format!(" (pid {pid})")).unwrap_or_default())]
    InUse {
        /// The process that took the lock, as it wrote: information only.
        pid: Option<u32>,
    },
    /// It was written by a later, incompatible version (rule S2).
    #[error(
        "the data directory has format {major}.{minor}; this program reads format {known}: use the version that wrote it"
    )]
    UnknownFormat {
        /// Its major version.
        major: u16,
        /// Its minor version.
        minor: u16,
        /// The major version that this program reads.
        known: u16,
    },
    /// It holds files, but none that say it is ours.
    #[error("{found} is there, but no FORMAT file: this is not a data directory of sawlog; give an empty one")]
    Foreign {
        /// A file that is there.
        found: String,
    },
    /// `FORMAT` is damaged, and no segment was found that could make it good.
    #[error("FORMAT is damaged ({what}), and there is no segment to restore it from")]
    FormatDamaged {
        /// What is wrong with it.
        what: String,
    },
    /// A call to the storage failed: unwritable, for example.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
}

/// End of one log at a clean stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct CleanEnd {
    /// The topic; the metadata log stands as topic 0, partition 0.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
    /// End of the log.
    pub end: Offset,
}

/// The clean-shutdown marker (rule S3): lets the next start skip scans, never vouches for content. Fenced partitions
/// are left out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CleanMarker {
    /// Ends of all logs, by topic and partition.
    pub ends: Vec<CleanEnd>,
}

/// First bytes of a clean marker.
const CLEAN_MAGIC: [u8; 8] = *b"SAWLOG\x01K";
/// Bytes before the entries of a clean marker, of an entry, and behind the entries.
const CLEAN_PARTS: [usize; 3] = [32, 24, 8];
/// Most bytes of a clean marker: more logs than may exist.
const CLEAN_BYTES: u64 = 4 << 20;

impl CleanMarker {
    /// End of this log, if the marker has it.
    pub fn end_of(&self, topic: TopicId, partition: PartitionId) -> Option<Offset> {
        let at = self.ends.binary_search_by_key(&(topic, partition), |end| (end.topic, end.partition)).ok()?;
        Some(self.ends[at].end)
    }

    /// The bytes of the marker of this directory.
    pub fn encode(&self, uuid: [u8; 16]) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(CLEAN_PARTS[0] + CLEAN_PARTS[1] * self.ends.len() + CLEAN_PARTS[2]);
        bytes.extend_from_slice(&CLEAN_MAGIC);
        bytes.extend_from_slice(&FORMAT_MAJOR.to_le_bytes());
        bytes.extend_from_slice(&FORMAT_MINOR.to_le_bytes());
        let count = u32::try_from(self.ends.len()).expect("fewer logs than 2^32");
        bytes.extend_from_slice(&count.to_le_bytes());
        bytes.extend_from_slice(&uuid);
        for end in &self.ends {
            bytes.extend_from_slice(&end.topic.0.to_le_bytes());
            bytes.extend_from_slice(&end.end.get().to_le_bytes());
            bytes.extend_from_slice(&end.partition.0.to_le_bytes());
            bytes.extend_from_slice(&[0; 4]);
        }
        let checksum = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&checksum.to_le_bytes());
        bytes.extend_from_slice(&[0; 4]);
        bytes
    }

    /// Decodes the marker of this directory.
    ///
    /// # Errors
    /// What is wrong with the bytes.
    pub fn decode(bytes: &[u8], uuid: [u8; 16]) -> Result<Self, &'static str> {
        let [head, entry, tail] = CLEAN_PARTS;
        let entries = bytes.len().checked_sub(head + tail).ok_or("too short")?;
        let (summed, checksum) = bytes.split_at(bytes.len() - tail);
        if checksum[..4] != crc32fast::hash(summed).to_le_bytes() || checksum[4..] != [0; 4] {
            return Err("checksum");
        }
        if bytes[..8] != CLEAN_MAGIC || bytes[8..10] != FORMAT_MAJOR.to_le_bytes() {
            return Err("another format");
        }
        if bytes[16..32] != uuid {
            return Err("of another data directory");
        }
        let count = u32_at(bytes, 12) as usize;
        if count.checked_mul(entry) != Some(entries) {
            return Err("count");
        }
        let mut ends = Vec::with_capacity(count);
        for at in (head..head + entries).step_by(entry) {
            ends.push(CleanEnd {
                topic: TopicId(u64_at(bytes, at)),
                end: Offset::new(u64_at(bytes, at + 8)).ok_or("offset")?,
                partition: PartitionId(u32_at(bytes, at + 16)),
            });
        }
        if ends.is_sorted() { Ok(Self { ends }) } else { Err("order") }
    }
}

/// The id of the directory in the bytes of a `FORMAT`, for tests that feed it bytes that no writer writes.
#[cfg(any(test, feature = "testing"))]
#[doc(hidden)]
pub fn decode_format(bytes: &[u8]) -> Option<[u8; 16]> {
    format_file::decode(bytes).ok()
}

/// Name of the lock file.
const LOCK: &str = "LOCK";
/// Name of the clean-shutdown marker.
const CLEAN: &str = "CLEAN";

/// An open data directory: the lock is held as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    storage: Arc<dyn Storage>,
    uuid: [u8; 16],
    is_new: bool,
    clean: Option<CleanMarker>,
    warnings: Vec<String>,
    reserve: reserve::Reserve,
    _lock: Box<dyn StorageLock>,
}

impl DataDir {
    /// Locks the directory, checks or writes `FORMAT`, takes the clean marker out (durably removed from then on:
    /// rule S3) and allocates the reserve as far as there is space. Blocks.
    ///
    /// # Errors
    /// As the variants say.
    pub fn open(storage: Arc<dyn Storage>, options: DataDirOptions) -> Result<Self, DataDirError> {
        // Once before the lock, because a directory that is not ours must not even get a lock file, and once with
        // the lock, because another process may have made the directory in between.
        format_file::look(&*storage)?;
        let lock = lock(&*storage)?;
        let mut warnings = storage.warnings();
        let found = format_file::look(&*storage)?;
        let is_new = found == format_file::Found::Nothing;
        let uuid = format_file::settle(&*storage, found, options.new_uuid, &mut warnings)?;
        write_pid(&*storage);
        let clean = take_clean_marker(&*storage, uuid, &mut warnings)?;
        let reserve = reserve::Reserve::open(&*storage, options.reserve_bytes);
        let dir = Self { storage, uuid, is_new, clean, warnings, reserve, _lock: lock };
        dir.with_first_reserve(options.reserve_bytes)
    }

    /// Fills the reserve, if at least as much stays free.
    fn with_first_reserve(mut self, bytes: u64) -> Result<Self, DataDirError> {
        if !self.refill_reserve(bytes)? {
            let held = self.reserve_held();
            self.warnings.push(format!(
                "the disk is too full for the reserve: {held} of {bytes} bytes are kept back for a full disk"
            ));
        }
        Ok(self)
    }

    /// The files.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Id of the directory: stands in every segment header.
    pub fn uuid(&self) -> [u8; 16] {
        self.uuid
    }

    /// Whether this run made it.
    pub fn is_new(&self) -> bool {
        self.is_new
    }

    /// The marker that the last run left, if it stopped cleanly.
    pub fn clean_marker(&self) -> Option<&CleanMarker> {
        self.clean.as_ref()
    }

    /// What an operator should know: file systems that are not to be trusted, a `FORMAT` made good, no reserve.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Writes the clean marker, durably; the last write of a run (rule S3).
    ///
    /// # Errors
    /// It could not be written: the next start recovers as after a crash.
    pub fn write_clean_marker(&self, mut marker: CleanMarker) -> Result<(), DataDirError> {
        marker.ends.sort_unstable();
        files::replace(&*self.storage, CLEAN, &marker.encode(self.uuid))
    }

    /// Bytes of the reserve that are held now.
    pub fn reserve_held(&self) -> u64 {
        self.reserve.held()
    }

    /// Gives `bytes` of the reserve, or what is left of it, back to the file system; returns how many (rule F3).
    ///
    /// # Errors
    /// The reserve file could not be cut.
    pub fn release_reserve(&self, bytes: u64) -> Result<u64, DataDirError> {
        self.reserve.release(&*self.storage, bytes)
    }

    /// Fills the reserve up again, as far as `min_free_bytes` stay free after it; returns whether it is whole. Called
    /// before produce resumes (rule F3).
    ///
    /// # Errors
    /// The reserve file could not be made; "no space" is not an error but `false`.
    pub fn refill_reserve(&self, min_free_bytes: u64) -> Result<bool, DataDirError> {
        self.reserve.refill(&*self.storage, min_free_bytes)
    }
}

/// What the small files of a directory say, for the offline check; changes nothing.
pub(crate) struct Look {
    /// The id that `FORMAT` says, or what is wrong with it.
    pub(crate) format: Result<[u8; 16], String>,
    /// The id that segments say, looked for only if `FORMAT` is not good.
    pub(crate) segments_uuid: Option<[u8; 16]>,
    /// The clean marker, if there is one, or what is wrong with it.
    pub(crate) clean: Option<Result<CleanMarker, String>>,
}

/// Reads the small files of a directory and changes nothing.
pub(crate) fn look(storage: &dyn Storage) -> Look {
    let (format, segments_uuid) = match format_file::look(storage) {
        Ok(format_file::Found::Good { uuid }) => (Ok(uuid), None),
        Ok(format_file::Found::Restorable { uuid, what }) => (Err(what.to_owned()), Some(uuid)),
        Ok(format_file::Found::Nothing) => (Err("it is missing, and so is everything else".to_owned()), None),
        Err(error) => (Err(error.to_string()), None),
    };
    let uuid = format.as_ref().ok().copied().or(segments_uuid).unwrap_or_default();
    let clean = match files::read(storage, CLEAN, CLEAN_BYTES) {
        Ok(None) => None,
        Ok(Some(bytes)) => Some(CleanMarker::decode(&bytes, uuid).map_err(str::to_owned)),
        Err(error) => Some(Err(error.to_string())),
    };
    Look { format, segments_uuid, clean }
}

/// Takes the lock if there is a lock file: a check makes none.
pub(crate) fn lock_existing(storage: &dyn Storage) -> Result<Option<Box<dyn StorageLock>>, DataDirError> {
    match storage.exists(Path::new(LOCK)) {
        Ok(true) => lock(storage).map(Some),
        Ok(false) => Ok(None),
        Err(error) => Err(files::io_error("look for", LOCK)(error)),
    }
}

fn lock(storage: &dyn Storage) -> Result<Box<dyn StorageLock>, DataDirError> {
    storage.try_lock(Path::new(LOCK)).map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock => {
            let text = files::read(storage, LOCK, 32).ok().flatten().unwrap_or_default();
            let pid = std::str::from_utf8(&text).ok().and_then(|text| text.trim().parse().ok());
            DataDirError::InUse { pid }
        }
        _ => files::io_error("lock", LOCK)(error),
    })
}

/// Information only, so that its failure, on a full disk for example, changes nothing.
fn write_pid(storage: &dyn Storage) {
    if let Ok(file) = storage.open(Path::new(LOCK), OpenMode::ReadWrite) {
        let text = format!("{}\n", std::process::id());
        let _ = file.set_len(0).and_then(|()| file.write_at(&[io::IoSlice::new(text.as_bytes())], 0));
    }
}

/// Reads the marker and removes it durably, so that a crash of this run cannot find it (rule S3).
fn take_clean_marker(
    storage: &dyn Storage,
    uuid: [u8; 16],
    warnings: &mut Vec<String>,
) -> Result<Option<CleanMarker>, DataDirError> {
    let Some(bytes) = files::read(storage, CLEAN, CLEAN_BYTES)? else {
        // The run before may have been killed between the removal and its sync: a power loss would bring it back.
        storage.sync_dir(Path::new("")).map_err(files::io_error("sync", "the data directory"))?;
        return Ok(None);
    };
    let marker = CleanMarker::decode(&bytes, uuid);
    if let Err(what) = &marker {
        warnings.push(format!("the clean-shutdown marker is not used ({what}): recovering as after a crash"));
    }
    files::remove(storage, CLEAN)?;
    Ok(marker.ok())
}

#[cfg(test)]
#[path = "data_dir/tests.rs"]
mod tests;
