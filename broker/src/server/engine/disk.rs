//! The watch over disk space (rule F3): produce is refused before the system says so, and resumes by itself.
//!
//! ```text
//!            free < min_free                  reserve whole again, free >= min_free
//! enough ----------------------> low ---------------------------------------------> enough
//! ```
//! Below twice `min_free` nothing is allocated ahead.

use std::sync::Arc;

use crate::log::data_dir::DataDir;
use crate::log::storage::Space;
use crate::metrics::Metrics;
use crate::partition::DiskGate;

/// Least of the default of `storage.min_free_bytes`.
const MIN_FREE_BYTES: u64 = 256 << 20;
/// Part of the disk that is the default of `storage.min_free_bytes`, if larger: 2 %.
const MIN_FREE_DIVISOR: u64 = 50;

/// Looks at the space and opens or closes the gate.
#[derive(Debug)]
pub(super) struct DiskWatch {
    data_dir: Arc<DataDir>,
    gate: Arc<DiskGate>,
    metrics: Arc<Metrics>,
    min_free_bytes: u64,
    low: bool,
}

/// What a look found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct DiskLook {
    /// Produce is refused.
    pub(super) low: bool,
    /// Produce has just resumed.
    pub(super) resumed: bool,
    /// Space may be allocated ahead.
    pub(super) may_allocate_ahead: bool,
}

impl DiskWatch {
    /// `min_free_bytes` 0: the larger of 256 MiB and 2 % of the disk.
    pub(super) fn new(data_dir: Arc<DataDir>, gate: Arc<DiskGate>, metrics: Arc<Metrics>, min_free_bytes: u64) -> Self {
        Self { data_dir, gate, metrics, min_free_bytes, low: false }
    }

    /// One look. Blocks.
    pub(super) fn look(&mut self) -> Option<DiskLook> {
        let mut space = match self.data_dir.storage().space() {
            Ok(space) => space,
            Err(error) => {
                tracing::warn!(%error, "the disk cannot be asked for its space");
                return None;
            }
        };
        let min_free = self.min_free(space);
        let was_low = self.low;
        self.low = space.free_bytes < min_free;
        if was_low && !self.low {
            // The reserve is refilled first; without it the next full disk would be the end.
            let whole = self.data_dir.refill_reserve(min_free).unwrap_or_else(|error| {
                tracing::warn!(%error, "the reserve could not be refilled");
                false
            });
            space = self.data_dir.storage().space().unwrap_or(space);
            self.low = !whole || space.free_bytes < min_free;
        }
        self.gate.set(self.low, space.free_bytes, min_free);
        let metrics = &self.metrics;
        metrics.disk_free_bytes.set(i64::try_from(space.free_bytes).unwrap_or(i64::MAX));
        metrics.disk_min_free_bytes.set(i64::try_from(min_free).unwrap_or(i64::MAX));
        metrics.disk_low.set(i64::from(self.low));
        if self.low != was_low {
            let free_bytes = space.free_bytes;
            if self.low {
                tracing::error!(free_bytes, min_free_bytes = min_free, "the disk is nearly full: produce is refused");
            } else {
                tracing::info!(free_bytes, "there is space again: produce resumes");
            }
        }
        let may_allocate_ahead = space.free_bytes >= min_free.saturating_mul(2);
        Some(DiskLook { low: self.low, resumed: was_low && !self.low, may_allocate_ahead })
    }

    fn min_free(&self, space: Space) -> u64 {
        match self.min_free_bytes {
            0 => MIN_FREE_BYTES.max(space.total_bytes / MIN_FREE_DIVISOR),
            bytes => bytes,
        }
    }
}
