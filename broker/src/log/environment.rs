//! Where a log lives, whose it is, how it is set, and what it shares with the other logs of the broker.
//!
//! Owns no I/O of its own but the one helper that syncs a directory. Must not know segments or frames.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use crc32fast::Hasher;

use super::frame::FrameContext;
use super::open_files::OpenFiles;
use super::sabotage::Sabotage;
use super::storage::Storage;
use crate::limits;
use crate::model::{PartitionId, TopicId, TopicUuid};

/// Whose log it is: stands in every segment header, and as a digest in every frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogIdentity {
    /// Id of the data directory, from its `FORMAT` file.
    pub data_dir: [u8; 16],
    /// Id of the topic that clients see.
    pub topic_uuid: TopicUuid,
    /// Number of the topic.
    pub topic_id: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

impl LogIdentity {
    /// CRC-32 of all of it, which stands in frames and indexes.
    pub fn digest(&self) -> u32 {
        let mut hasher = Hasher::new();
        hasher.update(&self.data_dir);
        hasher.update(&self.topic_uuid.0);
        hasher.update(&self.topic_id.0.to_le_bytes());
        hasher.update(&self.partition.0.to_le_bytes());
        hasher.finalize()
    }
}

/// Settings of a log that may change while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSettings {
    /// Bytes at which the active segment is sealed, 1 MiB to 1 GiB (smaller in tests). Default 1 GiB.
    pub segment_bytes: u64,
    /// Bytes of log per entry of the offset index. Default 4,096.
    pub index_interval_bytes: u64,
    /// Bytes by which space is allocated ahead; 0: never. Default 4 MiB.
    pub allocation_step_bytes: u64,
}

impl Default for LogSettings {
    fn default() -> Self {
        Self { segment_bytes: 1 << 30, index_interval_bytes: 4_096, allocation_step_bytes: 4 << 20 }
    }
}

/// Bytes that all logs together may allocate ahead of their ends.
#[derive(Debug)]
pub struct AheadBudget {
    left: AtomicU64,
    closed: AtomicBool,
}

impl AheadBudget {
    /// A budget of so many bytes.
    pub fn new(bytes: u64) -> Self {
        Self { left: AtomicU64::new(bytes), closed: AtomicBool::new(false) }
    }

    /// Whether anything may be allocated ahead: not while the disk is nearly full (rule F3).
    pub fn set_open(&self, open: bool) {
        self.closed.store(!open, Ordering::Relaxed);
    }

    /// Takes `bytes` out; `false` if there are not so many left.
    pub(crate) fn take(&self, bytes: u64) -> bool {
        let take = |left: u64| left.checked_sub(bytes);
        !self.closed.load(Ordering::Relaxed)
            && self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Gives `bytes` back.
    pub(crate) fn give(&self, bytes: u64) {
        self.left.fetch_add(bytes, Ordering::Relaxed);
    }
}

impl Default for AheadBudget {
    fn default() -> Self {
        Self::new(limits::ALLOCATED_AHEAD_BYTES)
    }
}

/// Where a log lives.
#[derive(Debug, Clone)]
pub struct LogEnvironment {
    /// The files.
    pub storage: Arc<dyn Storage>,
    /// Directory of the log, relative to the data directory.
    pub dir: PathBuf,
    /// Whose log it is.
    pub identity: LogIdentity,
    /// Its settings.
    pub settings: LogSettings,
    /// Random bits for the salts of its segments.
    pub salt_seed: u64,
    /// Files kept open for reading; one for all logs of a broker.
    pub open_files: Arc<OpenFiles>,
    /// Space allocated ahead; one for all logs of a broker.
    pub ahead: Arc<AheadBudget>,
}

impl LogEnvironment {
    /// An environment with default settings that shares nothing with other logs.
    pub fn new(storage: Arc<dyn Storage>, dir: PathBuf, identity: LogIdentity, salt_seed: u64) -> Self {
        Self {
            storage,
            dir,
            identity,
            settings: LogSettings::default(),
            salt_seed,
            open_files: Arc::new(OpenFiles::default()),
            ahead: Arc::new(AheadBudget::default()),
        }
    }

    /// Path of a file of the log.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// What the frames of a segment with this salt have in common.
    pub(crate) fn context(&self, salt: u64) -> FrameContext {
        let mut context = FrameContext::new(&self.identity, salt);
        context.payload_only = self.sabotage().checks_payload_only();
        context
    }

    /// Rules that a test has switched off.
    pub(crate) fn sabotage(&self) -> Sabotage {
        self.storage.sabotage()
    }

    /// Makes the entries of the log's directory durable (rule D7).
    pub(crate) fn sync_dir(&self) -> io::Result<()> {
        self.storage.sync_dir(&self.dir)
    }

    /// Writes a whole file under another name, syncs it and gives it its name; the caller syncs the directory.
    pub(crate) fn write_file(&self, name: &Path, unfinished: &Path, bytes: &[u8]) -> io::Result<()> {
        write_file(&*self.storage, &self.dir.join(name), &self.dir.join(unfinished), bytes)
    }
}

/// Writes a whole file under another name, syncs it and gives it its name; the caller syncs the directory.
pub(crate) fn write_file(storage: &dyn Storage, path: &Path, unfinished: &Path, bytes: &[u8]) -> io::Result<()> {
    use super::storage::OpenMode;
    if storage.exists(unfinished)? {
        storage.remove_file(unfinished)?;
    }
    let file = storage.open(unfinished, OpenMode::CreateNew)?;
    let mut written = 0;
    while written < bytes.len() {
        match file.write_at(&[io::IoSlice::new(&bytes[written..])], written as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => written += count,
        }
    }
    file.sync_all()?;
    storage.rename(unfinished, path)
}
