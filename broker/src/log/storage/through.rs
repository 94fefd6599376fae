//! Storage that hands every call on to another, and asks hooks first: for tests that watch or hold some calls.

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::{DirEntry, MappedFile, OpenMode, Space, Storage, StorageFile, StorageLock};
use crate::log::sabotage::Sabotage;

/// Called before a call goes on; may block.
pub trait Hooks: Debug + Send + Sync + 'static {
    /// A file is about to be opened.
    fn opening(&self, path: &Path, mode: OpenMode) {
        let _ = (path, mode);
    }
    /// A directory is about to be listed.
    fn listing(&self, path: &Path) {
        let _ = path;
    }
    /// A file is about to be synced.
    fn syncing(&self, path: &Path) {
        let _ = path;
    }
}

/// Hands calls on.
#[derive(Debug)]
pub struct Through<H> {
    inner: Arc<dyn Storage>,
    hooks: Arc<H>,
}

#[derive(Debug)]
struct ThroughFile<H> {
    inner: Arc<dyn StorageFile>,
    path: PathBuf,
    hooks: Arc<H>,
}

impl<H: Hooks> Through<H> {
    /// Hands calls on to `inner`, after these hooks.
    pub fn new(inner: Arc<dyn Storage>, hooks: Arc<H>) -> Arc<Self> {
        Arc::new(Self { inner, hooks })
    }
}

impl<H: Hooks> Storage for Through<H> {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        self.hooks.opening(path, mode);
        let (inner, hooks) = (self.inner.open(path, mode)?, Arc::clone(&self.hooks));
        Ok(Arc::new(ThroughFile { inner, path: path.to_owned(), hooks }))
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
        self.hooks.listing(path);
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
    fn warnings(&self) -> Vec<String> {
        self.inner.warnings()
    }
    fn sabotage(&self) -> Sabotage {
        self.inner.sabotage()
    }
}

impl<H: Hooks> StorageFile for ThroughFile<H> {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, position)
    }
    fn read_cached_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_cached_at(buffer, position)
    }
    fn write_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.inner.write_at(buffers, position)
    }
    fn sync_data(&self) -> io::Result<()> {
        self.hooks.syncing(&self.path);
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.hooks.syncing(&self.path);
        self.inner.sync_all()
    }
    fn start_write_back(&self, position: u64, len: u64) -> io::Result<()> {
        self.inner.start_write_back(position, len)
    }
    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(position, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn drop_cache(&self) -> io::Result<bool> {
        self.inner.drop_cache()
    }
}
