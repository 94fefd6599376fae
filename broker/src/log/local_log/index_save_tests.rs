use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::super::storage::through::{Hooks, Through};
use super::super::super::storage::{OpenMode, SimDisk};
use super::super::super::test_support::*;
use super::*;

/// Notices whether the indexes in memory of a segment are locked while a file is made.
#[derive(Debug, Default)]
struct Watching {
    segment: Mutex<Option<Arc<Segment>>>,
    made: AtomicUsize,
    locked: AtomicUsize,
}

impl Hooks for Watching {
    fn opening(&self, _: &Path, mode: OpenMode) {
        if mode == OpenMode::CreateNew
            && let Some(segment) = &*self.segment.lock()
        {
            self.made.fetch_add(1, Ordering::Relaxed);
            self.locked.fetch_add(usize::from(segment.live().is_locked()), Ordering::Relaxed);
        }
    }
}

#[test]
fn appends_and_readers_never_wait_while_index_files_are_written() {
    let disk = SimDisk::new();
    let watching = Arc::new(Watching::default());
    let storage = Through::new(disk.storage(), Arc::clone(&watching));
    let place = LogEnvironment { storage, ..environment(&disk) };
    let mut log = LocalLog::create(place, epoch(1)).expect("the disk is well");
    fill(&mut log, 8);
    sync(&mut log);
    *watching.segment.lock() = Some(log.active.segment.clone());
    log.pending_index_save(1).expect("much is not covered").run().expect("the disk is well");
    log.roll().expect("the disk is well");
    assert_eq!(watching.made.load(Ordering::Relaxed), 5, "two indexes twice, and the next segment");
    assert_eq!(watching.locked.load(Ordering::Relaxed), 0, "no file is made under the lock that appends need");
}
