//! What others may know of a partition without asking its leader: sizes, segments, damage, fence.
//!
//! Written by the leader and by readers that find damage, read by anyone; nothing here decides where a record goes.

use super::sync::{Arc, AtomicU64, Mutex, Ordering};
use super::{Offset, OffsetRange, PartitionEpoch, PartitionState, Truncation};
use crate::log::local_log::SegmentInfo;

/// No time: there is no frame in the active segment.
const NO_TIME: u64 = 0;
/// No offset.
const NO_OFFSET: u64 = u64::MAX;

/// What is known of a partition.
#[derive(Debug)]
pub(crate) struct Facts {
    size_bytes: AtomicU64,
    unsynced_bytes: AtomicU64,
    unchecked_bytes: AtomicU64,
    /// Append time of the first frame of the active segment plus one; [`NO_TIME`] if there is none.
    active_since: AtomicU64,
    snapshot_end: AtomicU64,
    epoch: AtomicU64,
    condition: Mutex<Condition>,
}

#[derive(Debug, Default)]
struct Condition {
    segments: Arc<[SegmentInfo]>,
    fence: Option<Fence>,
    degraded: Option<String>,
    damaged: Vec<OffsetRange>,
    last_truncation: Option<Truncation>,
    maybe_missing_from: Option<Offset>,
}

/// Why a partition takes no appends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) cause: String,
    pub(crate) errno: Option<i32>,
}

/// A copy of what only changes now and then.
#[derive(Debug, Clone)]
pub(crate) struct ConditionCopy {
    pub(crate) state: PartitionState,
    pub(crate) segments: Arc<[SegmentInfo]>,
    pub(crate) damaged: Vec<OffsetRange>,
    pub(crate) last_truncation: Option<Truncation>,
    pub(crate) maybe_missing_from: Option<Offset>,
}

impl Facts {
    pub(crate) fn new(epoch: PartitionEpoch) -> Self {
        Self {
            size_bytes: AtomicU64::new(0),
            unsynced_bytes: AtomicU64::new(0),
            unchecked_bytes: AtomicU64::new(0),
            active_since: AtomicU64::new(NO_TIME),
            snapshot_end: AtomicU64::new(NO_OFFSET),
            epoch: AtomicU64::new(u64::from(epoch.get())),
            condition: Mutex::new(Condition::default()),
        }
    }

    pub(crate) fn set_segments(&self, segments: Vec<SegmentInfo>, size_bytes: u64, active_since_ms: Option<i64>) {
        self.size_bytes.store(size_bytes, Ordering::Relaxed);
        self.active_since.store(active_since_ms.map_or(NO_TIME, stamp), Ordering::Relaxed);
        self.condition.lock().segments = segments.into();
    }

    pub(crate) fn appended(&self, bytes: u64, append_time_ms: i64) {
        self.size_bytes.fetch_add(bytes, Ordering::Relaxed);
        self.unchecked_bytes.fetch_add(bytes, Ordering::Relaxed);
        if self.active_since.load(Ordering::Relaxed) == NO_TIME {
            self.active_since.store(stamp(append_time_ms), Ordering::Relaxed);
        }
    }

    pub(crate) fn set_unsynced(&self, bytes: u64) {
        self.unsynced_bytes.store(bytes, Ordering::Relaxed);
    }

    pub(crate) fn unsynced_bytes(&self) -> u64 {
        self.unsynced_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.size_bytes.load(Ordering::Relaxed)
    }

    pub(crate) fn unchecked_bytes(&self) -> u64 {
        self.unchecked_bytes.load(Ordering::Relaxed)
    }

    /// Takes note of a checkpoint: what is unchecked from now on is what is not synced yet.
    pub(crate) fn checkpointed(&self) -> u64 {
        self.unchecked_bytes.swap(self.unsynced_bytes.load(Ordering::Relaxed), Ordering::Relaxed)
    }

    /// Whether the active segment began so long ago.
    pub(crate) fn active_is_old(&self, wall_ms: i64, segment_ms: u64) -> bool {
        let since = self.active_since.load(Ordering::Relaxed);
        since != NO_TIME && stamp(wall_ms).saturating_sub(since) >= segment_ms
    }

    pub(crate) fn snapshot_end(&self) -> Option<Offset> {
        Offset::new(self.snapshot_end.load(Ordering::Relaxed))
    }

    pub(crate) fn set_snapshot_end(&self, end: Offset) {
        self.snapshot_end.store(end.get(), Ordering::Relaxed);
    }

    pub(crate) fn epoch(&self) -> PartitionEpoch {
        let epoch = u32::try_from(self.epoch.load(Ordering::SeqCst)).ok().and_then(PartitionEpoch::new);
        epoch.expect("only epochs are stored here")
    }

    pub(crate) fn set_epoch(&self, epoch: PartitionEpoch) {
        self.epoch.store(u64::from(epoch.get()), Ordering::SeqCst);
    }

    pub(crate) fn set_fence(&self, fence: Option<Fence>) {
        self.condition.lock().fence = fence;
    }

    pub(crate) fn fence(&self) -> Option<Fence> {
        self.condition.lock().fence.clone()
    }

    pub(crate) fn set_truncation(&self, truncation: Truncation) {
        self.condition.lock().last_truncation = Some(truncation);
    }

    pub(crate) fn set_maybe_missing(&self, from: Offset) {
        self.condition.lock().maybe_missing_from = Some(from);
    }

    pub(crate) fn set_degraded(&self, why: &str) {
        let mut condition = self.condition.lock();
        if condition.degraded.is_none() {
            condition.degraded = Some(why.to_owned());
        }
    }

    /// Keeps a damaged range; `false` if it was known already.
    pub(crate) fn add_damage(&self, range: OffsetRange, why: &str) -> bool {
        let mut condition = self.condition.lock();
        if range.is_empty() || condition.damaged.iter().any(|known| known.from <= range.from && range.to <= known.to) {
            return false;
        }
        condition.damaged.push(range);
        condition.damaged.sort_unstable_by_key(|known| known.from);
        if condition.degraded.is_none() {
            condition.degraded = Some(why.to_owned());
        }
        true
    }

    /// The damaged range that holds `offset`.
    pub(crate) fn damaged_at(&self, offset: Offset) -> Option<OffsetRange> {
        let condition = self.condition.lock();
        condition.damaged.iter().copied().filter(|range| range.contains(offset)).max_by_key(|range| range.to)
    }

    /// Forgets damage that lies below the log start.
    pub(crate) fn raise_start(&self, start: Offset) {
        let mut condition = self.condition.lock();
        condition.damaged.retain(|range| range.to > start);
        if condition.damaged.is_empty() {
            condition.degraded = None;
        }
    }

    pub(crate) fn segments(&self) -> Arc<[SegmentInfo]> {
        Arc::clone(&self.condition.lock().segments)
    }

    pub(crate) fn condition(&self) -> ConditionCopy {
        let condition = self.condition.lock();
        let state = match (&condition.fence, &condition.degraded) {
            (Some(fence), _) => PartitionState::Fenced(fence.cause.clone()),
            (None, Some(why)) => PartitionState::Degraded(why.clone()),
            (None, None) => PartitionState::Online,
        };
        ConditionCopy {
            state,
            segments: Arc::clone(&condition.segments),
            damaged: condition.damaged.clone(),
            last_truncation: condition.last_truncation,
            maybe_missing_from: condition.maybe_missing_from,
        }
    }
}

fn stamp(time_ms: i64) -> u64 {
    u64::try_from(time_ms).unwrap_or(0).saturating_add(1)
}
