//! The write deadline of reading streams: who takes nothing of what was sent to it for so long is cut (rule FC-8).
//!
//! No stream has a timer of its own. Each notes when it handed something to its connection, and clears the note when
//! the connection asks for more; one job looks at the notes, and sleeps while there are none, so that streams with
//! nothing to send cost nothing.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::Notify;

/// How often notes are looked at while there are some.
const TICK: Duration = Duration::from_millis(500);

/// A stream that may be cut.
pub(super) trait Stallable: Send + Sync {
    /// Since when (monotonic time) the connection has been holding something that it was handed; `None`: it has not.
    fn handed_at(&self) -> Option<Duration>;
    /// Called while something is held that was handed over then; cuts the stream if that is too long ago.
    fn check(&self, handed_at: Duration, now: Duration);
}

/// All streams that may be cut.
#[derive(Default)]
pub(super) struct Stalls {
    streams: Mutex<Vec<Weak<dyn Stallable>>>,
    armed: AtomicBool,
    wake: Notify,
}

impl std::fmt::Debug for Stalls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stalls").field("streams", &self.streams.lock().len()).finish_non_exhaustive()
    }
}

impl Stalls {
    /// Watches a stream until it is dropped.
    pub(super) fn register(&self, stream: Weak<dyn Stallable>) {
        let mut streams = self.streams.lock();
        // Those that ended go when as many have come since: each is moved about once.
        if streams.len() == streams.capacity() {
            streams.retain(|stream| stream.strong_count() > 0);
        }
        streams.push(stream);
    }

    /// Says that a stream has just handed something over.
    pub(super) fn note(&self) {
        if !self.armed.load(Ordering::SeqCst) && !self.armed.swap(true, Ordering::SeqCst) {
            self.wake.notify_one();
        }
    }

    /// Looks at all streams; true if any of them holds something.
    fn sweep(&self, now: Duration) -> bool {
        let mut held = Vec::new();
        self.streams.lock().retain(|stream| match stream.upgrade() {
            Some(stream) => {
                held.extend(stream.handed_at().map(|at| (stream, at)));
                true
            }
            None => false,
        });
        let any = !held.is_empty();
        // Outside of the lock: what is cut is dropped here, and may wake others.
        for (stream, at) in held {
            stream.check(at, now);
        }
        any
    }

    /// Cuts what must be cut; runs until it is dropped.
    pub(super) async fn watch(self: &Arc<Self>, now: impl Fn() -> Duration) {
        loop {
            self.wake.notified().await;
            loop {
                tokio::time::sleep(TICK).await;
                if self.sweep(now()) {
                    continue;
                }
                self.armed.store(false, Ordering::SeqCst);
                // Somebody may have handed something over before the flag fell, and not have woken us.
                if !self.sweep(now()) {
                    break;
                }
                self.armed.store(true, Ordering::SeqCst);
            }
        }
    }
}
