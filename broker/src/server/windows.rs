//! How large the HTTP/2 windows of a connection are: chosen when it is accepted, from a budget for all of them.
//!
//! Large windows make bulk transfer fast; ten thousand connections with large windows would take all memory. The first
//! half of the budget is given out in large grants, the second in small ones, and then the protocol's own 64 KiB are
//! left, uncounted. A grant goes back when its connection closes.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::limits::WINDOW_BUDGET_BYTES;

const LARGE_STREAM: u32 = 8 << 20;
const LARGE_CONNECTION: u32 = 16 << 20;
const SMALL: u32 = 1 << 20;
/// What the protocol gives without asking.
const LEAST: u32 = 65_535;

const _: () = assert!(LARGE_CONNECTION as u64 <= WINDOW_BUDGET_BYTES / 2);

/// The budget of a broker.
#[derive(Debug, Clone, Default)]
pub(super) struct Windows(Arc<AtomicU64>);

/// The windows of one connection.
#[derive(Debug)]
pub(super) struct Grant {
    /// Bytes of each stream's window.
    pub(super) stream: u32,
    /// Bytes of the connection's window.
    pub(super) connection: u32,
    counted: u64,
    windows: Windows,
}

impl Windows {
    /// Windows for a new connection.
    pub(super) fn grant(&self) -> Grant {
        let steps = [(LARGE_STREAM, LARGE_CONNECTION, WINDOW_BUDGET_BYTES / 2), (SMALL, SMALL, WINDOW_BUDGET_BYTES)];
        for (stream, connection, most) in steps {
            let counted = u64::from(connection);
            let take = |used: u64| (used + counted <= most).then_some(used + counted);
            if self.0.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                return Grant { stream, connection, counted, windows: self.clone() };
            }
        }
        Grant { stream: LEAST, connection: LEAST, counted: 0, windows: self.clone() }
    }
}

impl Drop for Grant {
    fn drop(&mut self) {
        self.windows.0.fetch_sub(self.counted, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_shrink_as_the_budget_is_used_and_grow_again_when_connections_close() {
        let windows = Windows::default();
        let mut grants: Vec<_> = (0..16).map(|_| windows.grant()).collect();
        assert!(grants.iter().all(|grant| (grant.stream, grant.connection) == (8 << 20, 16 << 20)));
        grants.extend((0..256).map(|_| windows.grant()));
        assert!(grants[16..].iter().all(|grant| (grant.stream, grant.connection) == (1 << 20, 1 << 20)));
        grants.extend((0..10_000).map(|_| windows.grant()));
        assert!(grants[272..].iter().all(|grant| (grant.stream, grant.connection) == (LEAST, LEAST)));
        assert_eq!(windows.0.load(Ordering::SeqCst), WINDOW_BUDGET_BYTES);
        drop(grants);
        assert_eq!(windows.0.load(Ordering::SeqCst), 0);
        assert_eq!(windows.grant().stream, 8 << 20);
    }
}
