//! Indexes of the active segment on disk: they bound what recovery scans (rule S4).
//!
//! They are written beside appends, at checkpoints and at a clean stop, and cover the synced part alone. The lock
//! over the segment's index files keeps an older one from replacing the one written at the seal.

use std::io;
use std::sync::Arc;

use parking_lot::Mutex;

use super::LocalLog;
use crate::log::environment::LogEnvironment;
use crate::log::frame::FrameContext;
use crate::log::index_file::Coverage;
use crate::log::segment::{EncodedIndexes, Segment};
use crate::model::{FilePosition, Offset};

/// Indexes of the active segment to be written; run on any thread, one at a time per log.
#[derive(Debug)]
pub struct IndexSave {
    environment: Arc<LogEnvironment>,
    segment: Arc<Segment>,
    context: FrameContext,
    coverage: Coverage,
    sealed: Arc<Mutex<bool>>,
}

impl IndexSave {
    /// Writes and syncs both index files. They are a hint: a failure costs time at the next start, nothing else.
    ///
    /// # Errors
    /// A call to the storage failed.
    pub fn run(&self) -> io::Result<()> {
        let sealed = self.sealed.lock();
        if *sealed {
            return Ok(());
        }
        let encoded = EncodedIndexes::new(&self.context, &self.segment.live().lock(), &self.coverage);
        encoded.write(&self.environment)?;
        self.environment.sync_dir()
    }

    /// Everything below was synced when it was taken: what a checkpoint may name.
    pub fn end(&self) -> Offset {
        self.coverage.end
    }
}

impl LocalLog {
    /// The indexes of the synced part of the active segment, if at least `least_bytes` of it are not covered by
    /// those on disk. To be run before a checkpoint names the durable end, so that recovery scans no more than what
    /// came after (rules C4, S4).
    pub fn pending_index_save(&mut self, least_bytes: u64) -> Option<IndexSave> {
        let bytes = self.active.durable_position.saturating_sub(self.active.indexed_bytes);
        if bytes < least_bytes.max(1) || self.durable_end == self.active.segment.base() {
            return None;
        }
        self.active.indexed_bytes = self.active.durable_position;
        Some(IndexSave {
            environment: self.environment.clone(),
            segment: self.active.segment.clone(),
            context: self.active.context,
            coverage: self.coverage(),
            sealed: self.index_files.clone(),
        })
    }

    /// What indexes of the synced part of the active segment cover.
    pub(super) fn coverage(&self) -> Coverage {
        Coverage {
            base: self.active.segment.base(),
            end: self.durable_end,
            log_end: FilePosition(self.active.durable_position),
            last_append_time_ms: self.last_append_time_ms,
            last_epoch: self.last_epoch,
        }
    }
}

#[cfg(test)]
#[path = "index_save_tests.rs"]
mod tests;
