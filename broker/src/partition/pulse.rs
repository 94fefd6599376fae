//! What has to be done by time, as a few atomics that the partition's leader sets and a timer of the engine looks at.
//!
//! A partition whose records are not synced is due for a flush; one that has gone idle is due for its mark frame.

use std::time::Duration;

use super::Monotonic;
use super::sync::{AtomicU64, Ordering};

/// Idle for so long, a partition writes its mark frame: well within the second of rule C3.
const IDLE: Duration = Duration::from_millis(500);

/// Times in microseconds of the monotonic clock plus one; 0: not so.
#[derive(Debug, Default)]
pub(crate) struct Pulse {
    /// Since when something is unsynced.
    unsynced_since: AtomicU64,
    /// The last append that no mark frame has followed.
    unmarked_since: AtomicU64,
}

fn stamp(now: Monotonic) -> u64 {
    u64::try_from(now.0.as_micros()).unwrap_or(u64::MAX - 1).saturating_add(1)
}

fn passed(since: u64, now: Monotonic, time: Duration) -> bool {
    let time = u64::try_from(time.as_micros()).unwrap_or(u64::MAX);
    since != 0 && stamp(now).saturating_sub(since) >= time
}

impl Pulse {
    /// Frames were appended.
    pub(crate) fn appended(&self, now: Monotonic) {
        if self.unsynced_since.load(Ordering::SeqCst) == 0 {
            self.unsynced_since.store(stamp(now), Ordering::SeqCst);
        }
        self.unmarked_since.store(stamp(now), Ordering::SeqCst);
    }

    /// All of the log is durable.
    pub(crate) fn clean(&self) {
        self.unsynced_since.store(0, Ordering::SeqCst);
    }

    /// A sync that began at `began` has ended: what is still unsynced came later.
    pub(crate) fn synced(&self, began: Monotonic) {
        if self.unsynced_since.load(Ordering::SeqCst) != 0 {
            self.unsynced_since.store(stamp(began), Ordering::SeqCst);
        }
    }

    /// A mark frame was written, or none is possible.
    pub(crate) fn marked(&self) {
        self.unmarked_since.store(0, Ordering::SeqCst);
    }

    /// No mark frame could be written: it is due again.
    pub(crate) fn unmarked(&self, now: Monotonic) {
        self.unmarked_since.store(stamp(now), Ordering::SeqCst);
    }

    /// Whether records have been unsynced for `interval`.
    pub(crate) fn flush_due(&self, now: Monotonic, interval: Duration) -> bool {
        passed(self.unsynced_since.load(Ordering::SeqCst), now, interval)
    }

    /// Whether an idle period has begun and all of it is durable, but no mark frame says so.
    pub(crate) fn mark_due(&self, now: Monotonic) -> bool {
        self.unsynced_since.load(Ordering::SeqCst) == 0 && passed(self.unmarked_since.load(Ordering::SeqCst), now, IDLE)
    }
}
