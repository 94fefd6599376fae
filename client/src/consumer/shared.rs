//! What the parts of a consumer share: the board under one lock, and who is to be woken when it changes.
//!
//! Invariant: nobody is woken, and nothing is awaited, under the lock.

use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::board::Board;

/// See the module.
#[derive(Debug)]
pub(super) struct Shared {
    board: Mutex<Board>,
    /// Tells the session to look.
    pub(super) session: Notify,
    /// Tells handlers that wait to look.
    pub(super) handlers: Notify,
    /// The session has ended.
    pub(super) ended: CancellationToken,
}

impl Shared {
    pub(super) fn new(board: Board) -> Self {
        Self {
            board: Mutex::new(board),
            session: Notify::new(),
            handlers: Notify::new(),
            ended: CancellationToken::new(),
        }
    }

    /// Looks at the board, or changes it, and wakes whom the change concerns.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut Board) -> T) -> T {
        let (value, wakes) = {
            let mut board = self.board.lock();
            (change(&mut board), board.wakes())
        };
        if wakes.session {
            self.session.notify_one();
        }
        if let Some(reader) = wakes.reader {
            reader.wake();
        }
        if wakes.everyone {
            self.handlers.notify_waiters();
        } else if wakes.handler {
            self.handlers.notify_one();
        }
        value
    }
}

/// The time of the consumer's timers.
pub(crate) fn now() -> Instant {
    Instant::now()
}
