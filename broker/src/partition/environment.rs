//! What a partition is given: its settings, its surroundings, and the traits by which it asks what only the layer
//! above can answer.

use std::fmt::Debug;
use std::sync::Arc;

use crate::clock::Clock;
use crate::limits;
use crate::log::{LogEnvironment, RecoveryHint};
use crate::metrics::{Metrics, PartitionMetrics};
use crate::model::{AckLevel, Offset, OffsetRange, PartitionEpoch, PartitionId, TopicId};

use super::events::EventDirectory;
use super::journal_thread::ReleaseReserve;
use super::pool::Pools;
use super::sync::{AtomicBool, AtomicU64, Mutex, Ordering};
use super::{AppendFailure, Truncation};

/// Names a partition towards the layer above.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PartitionRef {
    /// Number of the topic.
    pub topic: TopicId,
    /// The partition.
    pub partition: PartitionId,
}

/// The metadata log does not take the record.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("metadata log: {what}")]
pub struct LedgerError {
    /// Why.
    pub what: String,
}

/// The durable memory of the layer above: every call returns once its record is synced, and blocks until then. Called
/// on threads that may block only.
pub trait PartitionLedger: Debug + Send + Sync + 'static {
    /// A new epoch, higher than any given before to this partition (rule D3). One durable raise may serve all
    /// partitions of an unclean start.
    ///
    /// # Errors
    /// The metadata log takes no writes: the partition stays closed or fenced.
    fn new_epoch(&self, partition: PartitionRef) -> Result<PartitionEpoch, LedgerError>;
    /// Keeps damaged ranges (rule C3); those known already may come again.
    ///
    /// # Errors
    /// As `new_epoch`; the ranges are known until the next start all the same.
    fn record_quarantine(&self, partition: PartitionRef, ranges: &[OffsetRange]) -> Result<(), LedgerError>;
    /// Keeps a cut of the end.
    ///
    /// # Errors
    /// As `new_epoch`.
    fn record_truncation(&self, partition: PartitionRef, truncation: Truncation) -> Result<(), LedgerError>;
    /// Keeps a new first offset (rule D9); the files go after.
    ///
    /// # Errors
    /// As `new_epoch`: no file goes then.
    fn record_start(&self, partition: PartitionRef, start: Offset) -> Result<(), LedgerError>;
}

/// Who knows which producers there are (rule PR-7).
pub trait ProducerDirectory: Debug + Send + Sync + 'static {
    /// The current epoch of a producer; `None` if there is no such producer (any more). Called while appends wait:
    /// a look-up in memory.
    fn epoch_of(&self, producer_id: i64) -> Option<i16>;
}

/// Whether there is room to append, and whether the broker may; set by whoever watches the disk and the metadata log,
/// asked at every append (rules F1, F3).
#[derive(Debug, Default)]
pub struct DiskGate {
    closed: AtomicBool,
    read_only: Mutex<Option<String>>,
    low: AtomicBool,
    free_bytes: AtomicU64,
    min_free_bytes: AtomicU64,
    dead_letters: Mutex<DeadLetterShare>,
}

/// What dead letters may still write while the disk is low.
#[derive(Default)]
struct DeadLetterShare {
    /// Bytes in all: half of the reserve.
    allowed: u64,
    /// Bytes taken since the disk was last well.
    taken: u64,
    /// Bytes of the reserve given back to the file system for them since.
    released: u64,
    release: Option<ReleaseReserve>,
}

impl Debug for DeadLetterShare {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeadLetterShare").field("allowed", &self.allowed).field("taken", &self.taken).finish()
    }
}

impl DiskGate {
    /// What dead letters may take while the disk is low: half of a reserve of `reserve_bytes`, which `release` gives
    /// back to the file system (rule F3).
    pub fn share_reserve(&self, reserve_bytes: u64, release: ReleaseReserve) {
        let share = DeadLetterShare { allowed: reserve_bytes / 2, release: Some(release), ..Default::default() };
        *self.dead_letters.lock() = share;
    }

    /// Takes note of the space; `low` refuses appends from now on.
    pub fn set(&self, low: bool, free_bytes: u64, min_free_bytes: u64) {
        if !low {
            // The reserve is whole again.
            let mut share = self.dead_letters.lock();
            (share.taken, share.released) = (0, 0);
        }
        self.free_bytes.store(free_bytes, Ordering::SeqCst);
        self.min_free_bytes.store(min_free_bytes, Ordering::SeqCst);
        self.low.store(low, Ordering::SeqCst);
        self.decide();
    }

    /// The metadata log takes no writes, for this cause: nothing else does either; `None`: it does again.
    pub fn set_read_only(&self, cause: Option<String>) {
        *self.read_only.lock() = cause;
        self.decide();
    }

    fn decide(&self) {
        let read_only = self.read_only.lock();
        self.closed.store(read_only.is_some() || self.low.load(Ordering::SeqCst), Ordering::SeqCst);
    }

    /// The refusal due, if any.
    ///
    /// # Errors
    /// [`AppendFailure::BrokerReadOnly`], or [`AppendFailure::DiskLow`] while it is low.
    pub fn check(&self) -> Result<(), AppendFailure> {
        if !self.closed.load(Ordering::SeqCst) {
            return Ok(());
        }
        if let Some(cause) = self.read_only.lock().clone() {
            return Err(AppendFailure::BrokerReadOnly { cause });
        }
        if !self.low.load(Ordering::SeqCst) {
            return Ok(());
        }
        Err(self.disk_low())
    }

    /// The refusal due to an append of dead letters of so many bytes, if any; what is not refused counts while the
    /// disk is low.
    ///
    /// # Errors
    /// As [`DiskGate::check`], the second only once dead letters have had their part of the reserve.
    pub fn take_dead_letters(&self, bytes: u64) -> Result<(), AppendFailure> {
        match self.check() {
            Err(AppendFailure::DiskLow { .. }) => {}
            other => return other,
        }
        let mut share = self.dead_letters.lock();
        if share.taken.saturating_add(bytes) > share.allowed {
            return Err(self.disk_low());
        }
        share.taken += bytes;
        Ok(())
    }

    /// Gives about `bytes` of the reserve back to the file system, for dead letters that the system has no space for;
    /// returns how many. Blocks.
    pub fn release_for_dead_letters(&self, bytes: u64) -> u64 {
        let mut share = self.dead_letters.lock();
        let bytes = bytes.min(share.allowed.saturating_sub(share.released));
        let given = match &share.release {
            Some(release) if bytes > 0 => release(bytes),
            _ => 0,
        };
        share.released += given;
        given
    }

    fn disk_low(&self) -> AppendFailure {
        let free_bytes = self.free_bytes.load(Ordering::SeqCst);
        let min_free_bytes = self.min_free_bytes.load(Ordering::SeqCst);
        AppendFailure::DiskLow { free_bytes, min_free_bytes }
    }
}

/// Settings of a partition that may change while it is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartitionSettings {
    /// Least level of acknowledgement; decides what readers see (rule D3).
    pub ack_floor: AckLevel,
    /// Age in milliseconds at which a non-empty active segment is sealed.
    pub segment_ms: u64,
    /// Age in milliseconds at which sealed segments go; `None`: never.
    pub retention_ms: Option<u64>,
    /// Bytes above which the oldest sealed segments go; `None`: no limit.
    pub retention_bytes: Option<u64>,
    /// With the floor `written`: longest time in milliseconds until records are synced. Default 1,000.
    pub flush_interval_ms: u64,
    /// With the floor `written`: unsynced bytes at which a sync starts. Default 4 MiB.
    pub flush_bytes: u64,
    /// Milliseconds for which an idle producer is remembered. Default 7 days.
    pub producer_ttl_ms: u64,
    /// Bytes at which the active segment is sealed.
    pub segment_bytes: u64,
}

impl Default for PartitionSettings {
    fn default() -> Self {
        Self {
            ack_floor: AckLevel::Durable,
            segment_ms: 86_400_000,
            retention_ms: None,
            retention_bytes: None,
            flush_interval_ms: 1_000,
            // Half of what stops inline appends: the sync starts before they have to leave the request's task.
            flush_bytes: limits::INLINE_UNSYNCED_BYTES / 2,
            producer_ttl_ms: 7 * 86_400_000,
            segment_bytes: 256 << 20,
        }
    }
}

/// Whether a partition's log is to be made or opened.
#[derive(Debug, Clone)]
pub enum Birth {
    /// It does not exist: it is made, durably, with this epoch.
    New {
        /// Epoch of its first frames.
        epoch: PartitionEpoch,
    },
    /// It exists.
    Existing {
        /// What the checkpoint, the clean marker and the metadata log know. `next_epoch` is the partition's current
        /// epoch; if there is no clean end, a new one is asked of the ledger before anything is written.
        hint: RecoveryHint,
        /// The last cut, if the metadata log knows one.
        last_truncation: Option<Truncation>,
    },
}

/// A partition to open.
#[derive(Debug, Clone)]
pub struct PartitionSpec {
    /// Where its log lives, whose it is, settings of the files.
    pub log: LogEnvironment,
    /// Its settings.
    pub settings: PartitionSettings,
    /// New or existing.
    pub birth: Birth,
}

/// Surroundings that all partitions of a broker share; cheap to clone.
#[derive(Debug, Clone)]
pub struct PartitionEnvironment {
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Threads for what blocks.
    pub pools: Arc<Pools>,
    /// Durable memory of the layer above.
    pub ledger: Arc<dyn PartitionLedger>,
    /// Who knows the producers; `None`: whoever comes is taken for known.
    pub producers: Option<Arc<dyn ProducerDirectory>>,
    /// The event ids of the topic; `None`: repeats of them are not found out.
    pub events: Option<Arc<dyn EventDirectory>>,
    /// Space on the disk.
    pub disk: Arc<DiskGate>,
    /// Metrics of the broker.
    pub metrics: Arc<Metrics>,
    /// Counters of this partition.
    pub counters: PartitionMetrics,
}
