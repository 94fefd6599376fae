//! When to start write-back: a pure decision.
//!
//! Owns no state and reads no clock: what has been written comes in, a decision goes out. When to sync is decided by the
//! layer above, which knows who waits.

use std::ops::Range;

use crate::limits;

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
    fn f8_write_back_starts_every_8_mib_and_never_splits_a_page() {
        assert_eq!(write_back_range(0, (8 << 20) - 1), None);
        assert_eq!(write_back_range(0, (8 << 20) + 5), Some(0..8 << 20));
        assert_eq!(write_back_range(4_100, (8 << 20) + 4_095), None);
        assert_eq!(write_back_range(4_100, (8 << 20) + 8_192), Some(4_096..(8 << 20) + 8_192));
        assert_eq!(write_back_range(10, 5), None);
    }
}
