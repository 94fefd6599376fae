//! How long records take, for the histograms of rule OB-2.

use super::Now;

/// How long it took until a record was settled, in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Took {
    /// Since its append.
    pub append_ms: u64,
    /// Since its delivery.
    pub delivery_ms: u64,
}

impl Took {
    /// Of a record that was appended at a wall time and delivered at a monotonic time.
    pub(super) fn until(now: Now, appended_ms: i64, delivered_ms: u64) -> Self {
        let append_ms = u64::try_from(now.wall_ms.saturating_sub(appended_ms)).unwrap_or(0);
        Self { append_ms, delivery_ms: now.monotonic_ms.saturating_sub(delivered_ms) }
    }
}
