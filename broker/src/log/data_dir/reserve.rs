//! Space kept back for a full disk (rule F3): a file of zeros whose length is what it holds.
//!
//! Invariants: the length never says more than has been allocated; the file is never read.

use std::io;
use std::path::Path;

use parking_lot::Mutex;

use super::{DataDirError, files};
use crate::log::storage::{OpenMode, Storage};

/// Name of the file.
const NAME: &str = "reserve";

/// The reserve of an open data directory.
#[derive(Debug)]
pub(super) struct Reserve {
    wanted: u64,
    held: Mutex<u64>,
}

fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge)
}

impl Reserve {
    /// Takes over what the last run held; a reserve that cannot be looked at counts as none.
    pub(super) fn open(storage: &dyn Storage, wanted: u64) -> Self {
        let held = storage.open(Path::new(NAME), OpenMode::Read).and_then(|file| file.len()).unwrap_or(0);
        Self { wanted, held: Mutex::new(held) }
    }

    pub(super) fn held(&self) -> u64 {
        *self.held.lock()
    }

    pub(super) fn release(&self, storage: &dyn Storage, bytes: u64) -> Result<u64, DataDirError> {
        let mut held = self.held.lock();
        let given = bytes.min(*held);
        if given == 0 {
            return Ok(0);
        }
        let file = storage.open(Path::new(NAME), OpenMode::ReadWrite).map_err(files::io_error("open", NAME))?;
        file.set_len(*held - given).map_err(files::io_error("cut", NAME))?;
        *held -= given;
        // The space is usable once the file system has written that it is free.
        file.sync_all().map_err(files::io_error("sync", NAME))?;
        Ok(given)
    }

    pub(super) fn refill(&self, storage: &dyn Storage, min_free_bytes: u64) -> Result<bool, DataDirError> {
        let mut held = self.held.lock();
        if *held >= self.wanted {
            return Ok(true);
        }
        let free = storage.space().map_err(files::io_error("measure", "the disk"))?.free_bytes;
        let taken = (self.wanted - *held).min(free.saturating_sub(min_free_bytes));
        if taken == 0 {
            return Ok(false);
        }
        match grow(storage, *held, taken) {
            Ok(()) => *held += taken,
            Err(DataDirError::Io { source, .. }) if is_full(&source) => return Ok(false),
            Err(error) => return Err(error),
        }
        Ok(*held == self.wanted)
    }
}

fn grow(storage: &dyn Storage, held: u64, taken: u64) -> Result<(), DataDirError> {
    let path = Path::new(NAME);
    let is_new = !storage.exists(path).map_err(files::io_error("look for", NAME))?;
    let mode = if is_new { OpenMode::CreateNew } else { OpenMode::ReadWrite };
    let file = storage.open(path, mode).map_err(files::io_error("open", NAME))?;
    // First the space, then the length that says so.
    file.allocate(held, taken).map_err(files::io_error("allocate", NAME))?;
    file.set_len(held + taken).map_err(files::io_error("lengthen", NAME))?;
    file.sync_all().map_err(files::io_error("sync", NAME))?;
    if is_new {
        storage.sync_dir(Path::new("")).map_err(files::io_error("sync", "the data directory"))?;
    }
    Ok(())
}
