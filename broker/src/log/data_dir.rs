//! The data directory as a whole: lock, `FORMAT`, clean-shutdown marker, reserve.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::storage::Storage;
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

impl CleanMarker {
    /// End of this log, if the marker has it.
    pub fn end_of(&self, topic: TopicId, partition: PartitionId) -> Option<Offset> {
        let at = self.ends.binary_search_by_key(&(topic, partition), |end| (end.topic, end.partition)).ok()?;
        Some(self.ends[at].end)
    }
}

/// An open data directory: the lock is held as long as this lives.
#[derive(Debug)]
pub struct DataDir {
    storage: Arc<dyn Storage>,
}

impl DataDir {
    /// Locks the directory, checks or writes `FORMAT`, takes the clean marker out (durably removed from then on:
    /// rule S3) and allocates the reserve as far as there is space. Blocks.
    ///
    /// # Errors
    /// As the variants say.
    pub fn open(_storage: Arc<dyn Storage>, _options: DataDirOptions) -> Result<Self, DataDirError> {
        todo!()
    }

    /// The files.
    pub fn storage(&self) -> &Arc<dyn Storage> {
        &self.storage
    }

    /// Id of the directory: stands in every segment header.
    pub fn uuid(&self) -> [u8; 16] {
        todo!()
    }

    /// Whether this run made it.
    pub fn is_new(&self) -> bool {
        todo!()
    }

    /// The marker that the last run left, if it stopped cleanly.
    pub fn clean_marker(&self) -> Option<&CleanMarker> {
        todo!()
    }

    /// What an operator should know: file systems that are not to be trusted, a `FORMAT` made good, no reserve.
    pub fn warnings(&self) -> &[String] {
        todo!()
    }

    /// Writes the clean marker, durably; the last write of a run (rule S3).
    ///
    /// # Errors
    /// It could not be written: the next start recovers as after a crash.
    pub fn write_clean_marker(&self, _marker: CleanMarker) -> Result<(), DataDirError> {
        todo!()
    }

    /// Bytes of the reserve that are held now.
    pub fn reserve_held(&self) -> u64 {
        todo!()
    }

    /// Gives `bytes` of the reserve, or what is left of it, back to the file system; returns how many (rule F3).
    ///
    /// # Errors
    /// The reserve file could not be cut.
    pub fn release_reserve(&self, _bytes: u64) -> Result<u64, DataDirError> {
        todo!()
    }

    /// Fills the reserve up again if `min_free_bytes` stay free after it; returns whether it is whole. Called before
    /// produce resumes (rule F3).
    ///
    /// # Errors
    /// The reserve file could not be made; "no space" is not an error but `false`.
    pub fn refill_reserve(&self, _min_free_bytes: u64) -> Result<bool, DataDirError> {
        todo!()
    }
}
