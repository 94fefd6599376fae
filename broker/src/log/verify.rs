//! Checks and dumps a stopped broker's files, changing nothing.
//!
//! It must not know batches, and never opens a file for writing. What it reports is plain data that the command line
//! prints. It judges as recovery would (rule C3): what is bad below the proven end is damage, what is bad at or above
//! it is a tail that was cut short by a crash, and what can be rebuilt from the log is neither.

mod walk;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use super::data_dir::{self, DataDirError};
use super::environment::LogIdentity;
use super::format::{self, FileKind};
use super::frame::{FrameFault, FrameHeader};
use super::storage::{OpenMode, Storage, StorageLock};
use crate::model::{FilePosition, Offset, OffsetRange, PartitionEpoch};

/// Directories of the metadata log and of the journals of the groups.
const OWN_DIRS: [&str; 3] = ["meta", "groups", "entries"];
/// Directory of all topics.
const TOPICS_DIR: &str = "topics";

/// How grave a finding is; the later, the graver.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// Rebuilt from the log at the next start, or of no consequence: no record is affected.
    Rebuildable,
    /// Bytes behind the proven end that a crash has cut short: never acknowledged as durable, cut at the next start.
    TornTail,
    /// Bytes that had been durable are not what was written.
    Damage,
}

/// Something that is not as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How grave it is.
    pub grade: Grade,
    /// The file, relative to the data directory.
    pub file: PathBuf,
    /// Where in it, if it is a place.
    pub position: Option<FilePosition>,
    /// What was expected and found.
    pub what: String,
    /// Offsets that cannot be read because of it.
    pub lost: Option<OffsetRange>,
}

/// What one segment holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentReport {
    /// Its log file, relative to the data directory.
    pub file: PathBuf,
    /// Offset of its first record, from its name.
    pub base: Offset,
    /// Offset after its last good frame.
    pub end: Offset,
    /// Bytes of the log file.
    pub bytes: u64,
    /// Good frames with records.
    pub frames: u64,
    /// Mark frames.
    pub marks: u64,
    /// Records of the good frames.
    pub records: u64,
    /// Append times of the first and the last good frame, in milliseconds since 1970.
    pub times_ms: Option<(i64, i64)>,
    /// Lowest and highest epoch of the good frames.
    pub epochs: Option<(PartitionEpoch, PartitionEpoch)>,
}

/// What one log holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogReport {
    /// Its directory, relative to the data directory.
    pub dir: PathBuf,
    /// Whose log it is, if any segment header is good.
    pub identity: Option<LogIdentity>,
    /// Its segments, oldest first.
    pub segments: Vec<SegmentReport>,
    /// Offset after the last good frame.
    pub end: Offset,
    /// Everything below is known to have been durable.
    pub proven_end: Offset,
    /// What is not as it was written, in order of offset.
    pub findings: Vec<Finding>,
}

impl LogReport {
    /// The gravest finding; `None` if there is none.
    pub fn grade(&self) -> Option<Grade> {
        self.findings.iter().map(|finding| finding.grade).max()
    }
}

/// What a data directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirReport {
    /// Its id, from `FORMAT` or else from a segment.
    pub uuid: Option<[u8; 16]>,
    /// Whether the broker was stopped cleanly.
    pub clean: bool,
    /// Its logs: the broker's own first, then by topic and partition.
    pub logs: Vec<LogReport>,
    /// Findings in files that belong to no log.
    pub findings: Vec<Finding>,
}

impl DirReport {
    /// The gravest finding of all; `None` if there is none.
    pub fn grade(&self) -> Option<Grade> {
        let own = self.findings.iter().map(|finding| finding.grade).max();
        self.logs.iter().filter_map(LogReport::grade).max().max(own)
    }
}

/// A place in a log file, dumped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Dumped {
    /// A good frame; a mark has neither extensions nor a batch.
    Frame {
        /// Its header.
        header: FrameHeader,
        /// Its extension block.
        extensions: Bytes,
        /// Its batch.
        batch: Bytes,
    },
    /// Bytes that are no good frame, up to `until`, where the next good header is or the file ends.
    Bad {
        /// First byte after them.
        until: FilePosition,
        /// What is wrong with the first of them.
        fault: FrameFault,
    },
    /// Zeros up to the end of the file: space that was allocated ahead.
    Space {
        /// Bytes of it.
        bytes: u64,
    },
}

/// Sizes of a segment's files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SegmentListing {
    /// Its log file, relative to the data directory.
    pub file: PathBuf,
    /// Offset of its first record, from its name.
    pub base: Offset,
    /// Bytes of the log file.
    pub log_bytes: u64,
    /// Bytes of the offset index, if there is one.
    pub index_bytes: Option<u64>,
    /// Bytes of the time index, if there is one.
    pub time_index_bytes: Option<u64>,
}

/// Takes the lock of a data directory, so that no broker starts meanwhile; makes no lock file if there is none.
///
/// # Errors
/// [`DataDirError::InUse`] if a broker runs on it.
pub fn lock_stopped(storage: &dyn Storage) -> Result<Option<Box<dyn StorageLock>>, DataDirError> {
    data_dir::lock_existing(storage)
}

/// Directories of all logs: the broker's own first, then by topic and partition.
///
/// # Errors
/// A directory could not be listed.
pub fn logs(storage: &dyn Storage) -> io::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for own in OWN_DIRS {
        if storage.exists(Path::new(own))? {
            found.push(PathBuf::from(own));
        }
    }
    if !storage.exists(Path::new(TOPICS_DIR))? {
        return Ok(found);
    }
    for topic in numbers_in(storage, Path::new(TOPICS_DIR))? {
        let topic = Path::new(TOPICS_DIR).join(topic.to_string());
        for partition in numbers_in(storage, &topic)? {
            found.push(topic.join(partition.to_string()));
        }
    }
    Ok(found)
}

/// Names of directories that are numbers, in order.
fn numbers_in(storage: &dyn Storage, dir: &Path) -> io::Result<Vec<u64>> {
    let entries = storage.list(dir)?.into_iter().filter(|entry| entry.is_dir);
    let mut found: Vec<u64> = entries.filter_map(|entry| entry.name.parse().ok()).collect();
    found.sort_unstable();
    Ok(found)
}

/// Segments of one log, oldest first, without looking into them.
///
/// # Errors
/// The directory or a file could not be read.
pub fn list_segments(storage: &dyn Storage, dir: &Path) -> io::Result<Vec<SegmentListing>> {
    let entries = storage.list(dir)?;
    let has = |name: &str| entries.iter().any(|entry| entry.name == name);
    let bytes = |path: PathBuf| storage.open(&path, OpenMode::Read)?.len();
    let mut found = Vec::new();
    for entry in &entries {
        let Some((base, FileKind::Log)) = format::parse_file_name(&entry.name) else { continue };
        let index_bytes = |kind| {
            let name = format::file_name(base, kind);
            has(&name).then(|| bytes(dir.join(name))).transpose()
        };
        found.push(SegmentListing {
            file: dir.join(&entry.name),
            base,
            log_bytes: bytes(dir.join(&entry.name))?,
            index_bytes: index_bytes(FileKind::Index)?,
            time_index_bytes: index_bytes(FileKind::TimeIndex)?,
        });
    }
    found.sort_by_key(|segment| segment.base);
    Ok(found)
}

/// Everything in one log file, in order; `visit` returns whether to go on.
///
/// # Errors
/// The file could not be read, or nothing in it tells whose it is (`InvalidData`).
pub fn dump(storage: &dyn Storage, file: &Path, visit: &mut dyn FnMut(FilePosition, Dumped) -> bool) -> io::Result<()> {
    walk::dump(storage, file, visit)
}

/// Checks every byte of one log.
///
/// # Errors
/// The directory could not be listed; a file that cannot be read is a finding.
pub fn verify_log(storage: &dyn Storage, dir: &Path) -> io::Result<LogReport> {
    walk::verify(storage, dir)
}

/// Checks every byte of a data directory.
///
/// # Errors
/// The directory could not be listed; a file that cannot be read is a finding.
pub fn verify_all(storage: &dyn Storage) -> io::Result<DirReport> {
    let mut findings = Vec::new();
    let look = data_dir::look(storage);
    let uuid = match look.format {
        Ok(uuid) => Some(uuid),
        Err(what) => {
            findings.push(small_file("FORMAT", what));
            look.segments_uuid
        }
    };
    let clean = match look.clean {
        Some(Ok(_)) => true,
        Some(Err(what)) => {
            findings.push(small_file("CLEAN", what));
            false
        }
        None => false,
    };
    let mut logs = Vec::new();
    for dir in self::logs(storage)? {
        let mut report = verify_log(storage, &dir)?;
        walk::check_place(&mut report, uuid);
        logs.push(report);
    }
    Ok(DirReport { uuid, clean, logs, findings })
}

/// A small file that is made good, or not used, at the next start.
fn small_file(file: &str, what: String) -> Finding {
    Finding { grade: Grade::Rebuildable, file: file.into(), position: None, what, lost: None }
}

#[cfg(test)]
#[path = "verify/tests.rs"]
pub(crate) mod tests;
