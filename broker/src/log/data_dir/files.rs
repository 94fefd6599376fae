//! Small files of the data directory, read and replaced whole.

use std::io::{self, IoSlice};
use std::path::{Path, PathBuf};

use super::DataDirError;
use crate::log::storage::{OpenMode, Storage};

/// Adds what was attempted to an error of the storage.
pub(super) fn io_error(action: &'static str, path: &str) -> impl Fn(io::Error) -> DataDirError + use<> {
    let path = PathBuf::from(path);
    move |source| DataDirError::Io { action, path: path.clone(), source }
}

/// The whole file, or `None` if it is not there. Of a file longer than `most` bytes, one byte more than that, so that
/// it is not taken for a good one.
pub(super) fn read(storage: &dyn Storage, name: &str, most: u64) -> Result<Option<Vec<u8>>, DataDirError> {
    let file = match storage.open(Path::new(name), OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(io_error("open", name)(error)),
    };
    let len = file.len().map_err(io_error("read", name))?.min(most + 1);
    let mut bytes =
        vec![0; usize::try_from(len).map_err(|_| io_error("read", name)(io::ErrorKind::OutOfMemory.into()))?];
    let read = file.read_at(&mut bytes, 0).map_err(io_error("read", name))?;
    bytes.truncate(read);
    Ok(Some(bytes))
}

/// Writes the file under another name, syncs it, renames it and syncs the directory (rule D7).
pub(super) fn replace(storage: &dyn Storage, name: &str, bytes: &[u8]) -> Result<(), DataDirError> {
    let unfinished = format!("{name}.new");
    let path = Path::new(&unfinished);
    if storage.exists(path).map_err(io_error("look for", &unfinished))? {
        storage.remove_file(path).map_err(io_error("remove", &unfinished))?;
    }
    let file = storage.open(path, OpenMode::CreateNew).map_err(io_error("create", &unfinished))?;
    let mut written = 0;
    while written < bytes.len() {
        let count = file
            .write_at(&[IoSlice::new(&bytes[written..])], written as u64)
            .map_err(io_error("write", &unfinished))?;
        if count == 0 {
            return Err(io_error("write", &unfinished)(io::ErrorKind::WriteZero.into()));
        }
        written += count;
    }
    file.sync_all().map_err(io_error("sync", &unfinished))?;
    storage.rename(path, Path::new(name)).map_err(io_error("rename", &unfinished))?;
    storage.sync_dir(Path::new("")).map_err(io_error("sync", "the data directory"))
}

/// Removes the file, durably.
pub(super) fn remove(storage: &dyn Storage, name: &str) -> Result<(), DataDirError> {
    storage.remove_file(Path::new(name)).map_err(io_error("remove", name))?;
    storage.sync_dir(Path::new("")).map_err(io_error("sync", "the data directory"))
}
