//! The only place that touches data files: one trait, with the real disk and a simulated, adversarial one.
//!
//! All paths are relative to the data directory and built from numbers and fixed names only, never from names of
//! clients. Implementations open relative to the directory's descriptor and follow no symbolic link.

pub mod disk;
mod mmap;
#[cfg(any(test, feature = "testing"))]
pub mod sim_disk;
#[cfg(any(test, feature = "testing"))]
pub mod through;

use std::fmt::Debug;
use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use super::sabotage::Sabotage;

pub use disk::Disk;
#[cfg(any(test, feature = "testing"))]
pub use sim_disk::SimDisk;

/// How to open a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OpenMode {
    /// An existing file, for reading.
    Read,
    /// An existing file, for reading and writing.
    ReadWrite,
    /// A new file, for reading and writing; fails if it exists.
    CreateNew,
}

/// What an entry of a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DirEntry {
    /// Its name, without the directory.
    pub name: String,
    /// Whether it is a directory.
    pub is_dir: bool,
}

/// Space of the file system that holds the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that this process may still use.
    pub free_bytes: u64,
    /// Bytes in all.
    pub total_bytes: u64,
}

/// Data files, as the log engine needs them. Every call may block.
pub trait Storage: Debug + Send + Sync + 'static {
    /// Opens a file. A new file exists durably only after [`Storage::sync_dir`] of its directory.
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>>;
    /// Makes a directory and its missing parents; the caller syncs the parents.
    fn create_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Renames a file over another; durable after [`Storage::sync_dir`].
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()>;
    /// Removes a file; durable after [`Storage::sync_dir`].
    fn remove_file(&self, path: &Path) -> io::Result<()>;
    /// Removes a directory with all that is in it; durable after [`Storage::sync_dir`] of its parent.
    fn remove_dir_all(&self, path: &Path) -> io::Result<()>;
    /// Makes the entries of a directory durable.
    fn sync_dir(&self, path: &Path) -> io::Result<()>;
    /// Entries of a directory, in no order.
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>>;
    /// Whether there is such a file or directory.
    fn exists(&self, path: &Path) -> io::Result<bool>;
    /// Space of the file system.
    fn space(&self) -> io::Result<Space>;
    /// Takes the exclusive lock on this file (made if missing) for as long as the result lives; `WouldBlock` if
    /// another process has it.
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>>;
    /// Maps a whole file for reading. Only for sealed, rebuildable files that a plain read has verified in this run
    /// (rule C6); implementations without maps return a copy.
    fn map(&self, path: &Path) -> io::Result<Box<dyn MappedFile>>;
    /// What an operator should know of the file system before trusting it (rule S6): one sentence each.
    fn warnings(&self) -> Vec<String> {
        Vec::new()
    }
    /// Rules that a test has switched off in this instance; none in the real disk.
    fn sabotage(&self) -> Sabotage {
        Sabotage::default()
    }
}

/// A held lock, released when dropped.
pub trait StorageLock: Debug + Send + Sync {}

/// The bytes of a mapped file.
pub trait MappedFile: Debug + Send + Sync {
    /// The bytes.
    fn bytes(&self) -> &[u8];
}

/// An open file. Positions are in bytes from its start; every call may be made from several threads at once.
#[expect(clippy::len_without_is_empty, reason = "the length may fail, and nobody asks for emptiness alone")]
pub trait StorageFile: Debug + Send + Sync + 'static {
    /// Reads at `position` until `buffer` is full or the file ends; returns the bytes read. `EINTR` is retried.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// The same, but only from the page cache: `WouldBlock` if the device would have to be asked. Systems without
    /// such a call answer as [`StorageFile::read_at`].
    fn read_cached_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
    /// Writes at `position`; returns how much, which may be less than all. `EINTR` is retried, nothing else.
    fn write_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<usize>;
    /// Makes the data of the file durable (`fdatasync`). After an error nothing is known of what was written since
    /// the last success, and a later success means nothing (rule F1).
    fn sync_data(&self) -> io::Result<()>;
    /// Makes data and metadata of the file durable (`fsync`).
    fn sync_all(&self) -> io::Result<()>;
    /// Starts write-back of a range without waiting for it (`sync_file_range`). An error counts as a failed sync.
    fn start_write_back(&self, position: u64, len: u64) -> io::Result<()>;
    /// Allocates space without changing the length (`fallocate` with `KEEP_SIZE`). Systems without it do nothing.
    fn allocate(&self, position: u64, len: u64) -> io::Result<()>;
    /// Sets the length; space allocated beyond it is given back.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// The length.
    fn len(&self) -> io::Result<u64>;
    /// Drops the file's pages from the page cache, so that the next read comes from the device; returns whether
    /// they are gone.
    fn drop_cache(&self) -> io::Result<bool>;
}
