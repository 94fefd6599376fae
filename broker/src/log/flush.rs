//! When to start write-back and when to sync: pure decisions.
//!
//! Owns no state and reads no clock: what has been written and how long ago comes in, a decision goes out.

use std::ops::Range;
use std::time::Duration;

use crate::limits;

/// When records acknowledged at `written` are synced (rule D2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlushSettings {
    /// Longest time for which appended bytes stay unsynced. Default and hard cap 1 s.
    pub interval: Duration,
    /// Unsynced bytes at which a sync is due. Default 64 MiB.
    pub bytes: u64,
}

impl Default for FlushSettings {
    fn default() -> Self {
        Self { interval: Duration::from_secs(1), bytes: 64 << 20 }
    }
}

/// Whether a sync is due: so many bytes are unsynced, the oldest of them for so long.
pub fn sync_due(settings: &FlushSettings, unsynced_bytes: u64, oldest: Duration) -> bool {
    unsynced_bytes > 0 && (unsynced_bytes >= settings.bytes || oldest >= settings.interval)
}

/// The bytes of a file whose write-back is to be started, if there are enough of them: whole pages.
pub(crate) fn write_back_range(from: u64, end: u64) -> Option<Range<u64>> {
    const PAGE_BYTES: u64 = 4_096;
    let from = from / PAGE_BYTES * PAGE_BYTES;
    let end = end / PAGE_BYTES * PAGE_BYTES;
    (end.saturating_sub(from) >= limits::WRITE_BACK_BYTES).then_some(from..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d2_a_sync_is_due_by_time_or_by_bytes_but_never_of_nothing() {
        let settings = FlushSettings { interval: Duration::from_millis(100), bytes: 1_000 };
        assert!(!sync_due(&settings, 0, Duration::from_secs(9)));
        assert!(!sync_due(&settings, 999, Duration::from_millis(99)));
        assert!(sync_due(&settings, 1_000, Duration::ZERO));
        assert!(sync_due(&settings, 1, Duration::from_millis(100)));
    }

    #[test]
    fn f8_write_back_starts_every_8_mib_and_never_splits_a_page() {
        assert_eq!(write_back_range(0, (8 << 20) - 1), None);
        assert_eq!(write_back_range(0, (8 << 20) + 5), Some(0..8 << 20));
        assert_eq!(write_back_range(4_100, (8 << 20) + 4_095), None);
        assert_eq!(write_back_range(4_100, (8 << 20) + 8_192), Some(4_096..(8 << 20) + 8_192));
        assert_eq!(write_back_range(10, 5), None);
    }
}
