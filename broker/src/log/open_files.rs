//! Bounds how many sealed and idle segments keep their files open: a queue with a second chance.
//!
//! Owns the order in which segments are asked to close. Must not know what a segment does with its files. A segment
//! that is written to, or has unsynced bytes, is pinned and never closed here (rule F1).

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Segments kept open by default.
const DEFAULT_SEGMENTS: usize = 512;

/// Something that holds files open and can let them go.
pub(crate) trait Closable: Debug + Send + Sync {
    /// Takes note that it is queued (`true`) or no longer queued; returns what it was before.
    fn set_queued(&self, queued: bool) -> bool;
    /// Whether it must stay open.
    fn is_pinned(&self) -> bool;
    /// Whether it was used since the last call.
    fn take_used(&self) -> bool;
    /// Lets its files go; those who still read from them keep them.
    fn close(&self);
}

/// The segments that are open for reading.
#[derive(Debug)]
pub struct OpenFiles {
    capacity: usize,
    queue: Mutex<VecDeque<Weak<dyn Closable>>>,
}

impl Default for OpenFiles {
    fn default() -> Self {
        Self::new(DEFAULT_SEGMENTS)
    }
}

impl OpenFiles {
    /// Keeps at most `segments` open, at least 1; each may hold one descriptor and two maps.
    pub fn new(segments: usize) -> Self {
        Self { capacity: segments.max(1), queue: Mutex::new(VecDeque::new()) }
    }

    /// Segments open now, pinned ones aside.
    pub fn len(&self) -> usize {
        self.queue.lock().len()
    }

    /// Whether none is open.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Takes note that a segment has opened its files, and closes others if there are too many.
    pub(crate) fn opened(&self, segment: Weak<dyn Closable>) {
        let mut victims: Vec<Arc<dyn Closable>> = Vec::new();
        {
            let mut queue = self.queue.lock();
            if segment.upgrade().is_none_or(|segment| segment.set_queued(true)) {
                return;
            }
            queue.push_back(segment);
            // Each segment is passed over at most once, so the loop ends within two rounds.
            let mut chances = queue.len();
            while queue.len() > self.capacity {
                let Some(front) = queue.pop_front() else { break };
                let Some(candidate) = front.upgrade() else { continue };
                if candidate.is_pinned() {
                    candidate.set_queued(false);
                } else if chances > 0 && candidate.take_used() {
                    chances -= 1;
                    queue.push_back(front);
                } else {
                    candidate.set_queued(false);
                    victims.push(candidate);
                }
            }
        }
        for victim in victims {
            victim.close();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;

    #[derive(Debug, Default)]
    struct Fake {
        queued: AtomicBool,
        pinned: AtomicBool,
        used: AtomicBool,
        closed: AtomicBool,
    }

    impl Closable for Fake {
        fn set_queued(&self, queued: bool) -> bool {
            self.queued.swap(queued, Ordering::Relaxed)
        }
        fn is_pinned(&self) -> bool {
            self.pinned.load(Ordering::Relaxed)
        }
        fn take_used(&self) -> bool {
            self.used.swap(false, Ordering::Relaxed)
        }
        fn close(&self) {
            self.closed.store(true, Ordering::Relaxed);
        }
    }

    fn open(files: &OpenFiles, segment: &Arc<Fake>) {
        let weak: Weak<Fake> = Arc::downgrade(segment);
        files.opened(weak);
    }

    #[test]
    fn the_longest_unused_segment_is_closed() {
        let files = OpenFiles::new(2);
        let segments: Vec<Arc<Fake>> = (0..3).map(|_| Arc::default()).collect();
        open(&files, &segments[0]);
        open(&files, &segments[1]);
        segments[0].used.store(true, Ordering::Relaxed);
        open(&files, &segments[2]);
        assert_eq!(files.len(), 2);
        let closed: Vec<bool> = segments.iter().map(|segment| segment.closed.load(Ordering::Relaxed)).collect();
        assert_eq!(closed, [false, true, false]);
    }

    #[test]
    fn f1_a_pinned_segment_is_never_closed() {
        let files = OpenFiles::new(1);
        let segments: Vec<Arc<Fake>> = (0..5).map(|_| Arc::default()).collect();
        segments[0].pinned.store(true, Ordering::Relaxed);
        for segment in &segments {
            open(&files, segment);
        }
        assert!(!segments[0].closed.load(Ordering::Relaxed));
        assert_eq!(files.len(), 1);
    }

    #[test]
    fn a_segment_is_queued_once_and_a_dropped_one_is_forgotten() {
        let files = OpenFiles::new(2);
        let segment = Arc::new(Fake::default());
        open(&files, &segment);
        open(&files, &segment);
        assert_eq!(files.len(), 1);
        drop(segment);
        let others: Vec<Arc<Fake>> = (0..2).map(|_| Arc::default()).collect();
        open(&files, &others[0]);
        open(&files, &others[1]);
        assert!(others.iter().all(|other| !other.closed.load(Ordering::Relaxed)));
    }
}
