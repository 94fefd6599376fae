//! Error enums of the log, one per operation, with facts as fields.

use std::io;
use std::path::PathBuf;

use crate::model::{FilePosition, Offset};

/// Bytes on disk that are not what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: at byte {position}: {what}; first bad offset {first_bad}", file = file.display())]
pub struct Corruption {
    /// The file.
    pub file: PathBuf,
    /// Where the bad bytes begin.
    pub position: FilePosition,
    /// What is wrong, with what was expected and found.
    pub what: String,
    /// First offset that is lost.
    pub first_bad: Offset,
    /// First good offset after it, if known.
    pub next_good: Option<Offset>,
}

/// Why a log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A call to the storage failed.
    #[error("{action} {path}: {source}", path = path.display())]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// The files belong to another partition, data directory or format.
    #[error("{path}: {what}", path = path.display())]
    Foreign {
        /// The file.
        path: PathBuf,
        /// What differs.
        what: String,
    },
}

/// Why an append failed. Nothing of it is in the log, unless `fenced` says otherwise.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// The write failed and was taken back (rule F2).
    #[error("write failed: {source}")]
    Write {
        /// Why it failed.
        source: io::Error,
    },
    /// The write failed and could not be taken back, or the log was fenced before: read-only up to the durable end.
    #[error("fenced: {cause}")]
    Fenced {
        /// Why.
        cause: String,
    },
}

/// A failed sync. The log is fenced (rule F1).
#[derive(Debug, Clone, thiserror::Error)]
#[error("sync failed: {what}")]
pub struct SyncError {
    /// Error number of the system, if there was one.
    pub errno: Option<i32>,
    /// The error in words.
    pub what: String,
}

/// Why a read failed.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The offset is before the log start or beyond the end asked for.
    #[error("offset {offset} is not in the log, which has {start} to {end}")]
    OutOfRange {
        /// The offset asked for.
        offset: Offset,
        /// First offset kept.
        start: Offset,
        /// First offset not there.
        end: Offset,
    },
    /// The bytes are damaged (rule C2).
    #[error(transparent)]
    Corrupt(#[from] Corruption),
    /// The device could not be read (rule F4).
    #[error("reading {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why it failed.
        source: io::Error,
    },
    /// Not in the page cache, and the caller did not want to wait for the device.
    #[error("not in the page cache")]
    WouldBlock,
}
