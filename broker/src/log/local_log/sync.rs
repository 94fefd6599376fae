//! Syncs of the active segment: exactly one in flight per file, none after a failure (rule F1).

use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use crate::log::error::SyncError;
use crate::log::storage::StorageFile;
use crate::model::Offset;

/// The descriptor that writes, and the one place from which it is synced.
#[derive(Debug)]
pub(super) struct SyncGate {
    file: Arc<dyn StorageFile>,
    /// Held while a sync runs: of concurrent ones the system would tell only one of an error.
    running: Mutex<()>,
    failure: OnceLock<SyncError>,
}

impl SyncGate {
    pub(super) fn new(file: Arc<dyn StorageFile>) -> Arc<Self> {
        Arc::new(Self { file, running: Mutex::new(()), failure: OnceLock::new() })
    }

    pub(super) fn file(&self) -> &Arc<dyn StorageFile> {
        &self.file
    }

    /// Syncs the file, unless a sync of it has failed before.
    pub(super) fn sync(&self) -> Result<(), SyncError> {
        let _alone = self.running.lock();
        if let Some(failure) = self.failure.get() {
            return Err(failure.clone());
        }
        if let Err(error) = self.file.sync_data() {
            return Err(self.fail(&error));
        }
        // Write-back that was started meanwhile may have taken the error that this sync should have had.
        self.failure.get().map_or(Ok(()), |failure| Err(failure.clone()))
    }

    /// Starts write-back of a range; an error counts as that of a sync.
    pub(super) fn start_write_back(&self, position: u64, len: u64) -> Result<(), SyncError> {
        self.file.start_write_back(position, len).map_err(|error| self.fail(&error))
    }

    /// The failure of a sync of this file, if one has failed.
    pub(super) fn failure(&self) -> Option<&SyncError> {
        self.failure.get()
    }

    fn fail(&self, error: &std::io::Error) -> SyncError {
        let failure = SyncError { errno: error.raw_os_error(), what: error.to_string() };
        self.failure.get_or_init(|| failure).clone()
    }
}

/// A sync that covers everything appended before it was taken; run on any thread, one at a time per log.
#[derive(Debug)]
pub struct PendingSync {
    pub(super) gate: Arc<SyncGate>,
    /// Base offset of the segment that it syncs.
    pub(super) base: Offset,
    pub(super) end: Offset,
    pub(super) position: u64,
}

impl PendingSync {
    /// Syncs the file (`fdatasync`). Waits for a sync of the file that runs already.
    ///
    /// # Errors
    /// The sync failed, or one before it: the log must be told with [`super::LocalLog::fence`].
    pub fn run(&self) -> Result<(), SyncError> {
        self.gate.sync()
    }

    /// Everything below is durable once [`PendingSync::run`] has returned `Ok`.
    pub fn end(&self) -> Offset {
        self.end
    }
}
