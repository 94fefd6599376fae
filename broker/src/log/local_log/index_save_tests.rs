use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::super::super::storage::{DirEntry, MappedFile, OpenMode, SimDisk, Space, Storage, StorageFile, StorageLock};
use super::super::super::test_support::*;
use super::*;

/// A disk that notices whether the indexes in memory of a segment are locked while a file is made.
#[derive(Debug)]
struct Watching {
    inner: Arc<dyn Storage>,
    segment: Mutex<Option<Arc<Segment>>>,
    made: AtomicUsize,
    locked: AtomicUsize,
}

impl Storage for Watching {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        if mode == OpenMode::CreateNew
            && let Some(segment) = &*self.segment.lock()
        {
            self.made.fetch_add(1, Ordering::Relaxed);
            self.locked.fetch_add(usize::from(segment.live().is_locked()), Ordering::Relaxed);
        }
        self.inner.open(path, mode)
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.inner.try_lock(path)
    }
    fn map(&self, path: &Path) -> io::Result<Box<dyn MappedFile>> {
        self.inner.map(path)
    }
}

#[test]
fn appends_and_readers_never_wait_while_index_files_are_written() {
    let disk = SimDisk::new();
    let (segment, none) = (Mutex::new(None), AtomicUsize::new(0));
    let watching = Arc::new(Watching { inner: disk.storage(), segment, made: none, locked: AtomicUsize::new(0) });
    let place = LogEnvironment { storage: watching.clone(), ..environment(&disk) };
    let mut log = LocalLog::create(place, epoch(1)).expect("the disk is well");
    fill(&mut log, 8);
    sync(&mut log);
    *watching.segment.lock() = Some(log.active.segment.clone());
    log.pending_index_save(1).expect("much is not covered").run().expect("the disk is well");
    log.roll().expect("the disk is well");
    assert_eq!(watching.made.load(Ordering::Relaxed), 5, "two indexes twice, and the next segment");
    assert_eq!(watching.locked.load(Ordering::Relaxed), 0, "no file is made under the lock that appends need");
}
