//! The real disk: files relative to the descriptor of the data directory.
//!
//! It must not know what the bytes mean. Invariants: every path is made of plain names and opened step by step from the
//! directory's descriptor, following no symbolic link, so that no file outside the data directory is ever touched;
//! directories are 0700 and files 0600; no error is swallowed and only `EINTR` is retried.
//!
//! Linux is what the promises are made for. macOS builds with weaker means: no write-back ahead, no allocation ahead,
//! no cached reads apart, and the page cache cannot be dropped.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, IoSlice};
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, Dir, FileType, Mode, OFlags};
use rustix::io::{Errno, retry_on_intr};

use super::{DirEntry, MappedFile, OpenMode, Space, Storage, StorageFile, StorageLock, mmap};

/// Mode of every file.
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
/// Mode of every directory.
const DIR_MODE: Mode = Mode::from_raw_mode(0o700);
/// Buffers that one vectored write takes (`IOV_MAX`); what is beyond is a short write.
const WRITE_BUFFERS: usize = 1024;
/// Directories deep that `remove_dir_all` goes.
const REMOVE_DEPTH: usize = 16;
/// Times that the page cache is asked to drop a file's pages: pages that another processor is about to use stay the
/// first time. Dirty pages stay always, so the caller syncs first.
#[cfg(target_os = "linux")]
const DROP_ATTEMPTS: usize = 4;

/// Files under one directory of the machine.
#[derive(Debug)]
pub struct Disk {
    root: OwnedFd,
    path: PathBuf,
}

impl Disk {
    /// The data directory at `path`, made with its missing parents if it is not there.
    ///
    /// # Errors
    /// The system's, with the path in the text.
    pub fn create(path: &Path) -> io::Result<Self> {
        use std::os::unix::fs::DirBuilderExt;
        let missing: Vec<&Path> =
            path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
        std::fs::DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| name_path(error, path))?;
        // The new entries must survive a power loss before anything below may be acknowledged (rule D7).
        for made in missing {
            let parent = made.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(parent).and_then(|dir| dir.sync_all()).map_err(|error| name_path(error, parent))?;
        }
        Self::open(path)
    }

    /// The data directory at `path`, which must exist.
    ///
    /// # Errors
    /// The system's, with the path in the text.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(path, flags, Mode::empty()).map_err(|error| name_path(error.into(), path))?;
        Ok(Self { root, path: path.to_path_buf() })
    }

    /// The path that the data directory was opened with: for messages.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens a directory step by step; the empty path is the data directory.
    fn open_dir(&self, path: &Path) -> io::Result<OwnedFd> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir = open_at(&self.root, OsStr::new("."), flags)?;
        for name in names(path)? {
            dir = open_at(&dir, name, flags)?;
        }
        Ok(dir)
    }

    /// The directory that holds `path`, and the last name.
    fn parent<'p>(&self, path: &'p Path) -> io::Result<(OwnedFd, &'p OsStr)> {
        let name = names(path)?.pop().ok_or(io::ErrorKind::InvalidInput)?;
        let dir = self.open_dir(path.parent().unwrap_or(Path::new("")))?;
        Ok((dir, name))
    }

    fn open_file(&self, path: &Path, flags: OFlags) -> io::Result<File> {
        let (dir, name) = self.parent(path)?;
        let file = File::from(open_at(&dir, name, flags | OFlags::NOFOLLOW | OFlags::CLOEXEC)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(file)
    }
}

/// The names of a relative path; anything but plain names is refused.
fn names(path: &Path) -> io::Result<Vec<&OsStr>> {
    path.components()
        .map(|component| match component {
            Component::Normal(name) => Ok(name),
            _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "a path in the data directory has plain names only")),
        })
        .collect()
}

fn open_at(dir: &OwnedFd, name: &OsStr, flags: OFlags) -> io::Result<OwnedFd> {
    Ok(retry_on_intr(|| rustix::fs::openat(dir, name, flags, FILE_MODE))?)
}

fn name_path(error: io::Error, path: &Path) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Entries of an open directory.
fn entries(dir: &OwnedFd) -> io::Result<Vec<DirEntry>> {
    let mut found = Vec::new();
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_str().map_err(|_| io::ErrorKind::InvalidData)?;
        if name == "." || name == ".." {
            continue;
        }
        let is_dir = match entry.file_type() {
            FileType::Unknown => {
                let stat = rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
                FileType::from_raw_mode(stat.st_mode) == FileType::Directory
            }
            kind => kind == FileType::Directory,
        };
        found.push(DirEntry { name: name.to_owned(), is_dir });
    }
    Ok(found)
}

fn remove_tree(parent: &OwnedFd, name: &OsStr, depth: usize) -> io::Result<()> {
    if depth == 0 {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "directories are nested too deep to remove"));
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let dir = open_at(parent, name, flags)?;
    for entry in entries(&dir)? {
        if entry.is_dir {
            remove_tree(&dir, OsStr::new(&entry.name), depth - 1)?;
        } else {
            rustix::fs::unlinkat(&dir, entry.name.as_str(), AtFlags::empty())?;
        }
    }
    Ok(rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR)?)
}

impl Storage for Disk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let flags = match mode {
            OpenMode::Read => OFlags::RDONLY,
            OpenMode::ReadWrite => OFlags::RDWR,
            OpenMode::CreateNew => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
        };
        Ok(Arc::new(DiskFile { file: self.open_file(path, flags)? }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut dir = open_at(&self.root, OsStr::new("."), flags)?;
        for name in names(path)? {
            match rustix::fs::mkdirat(&dir, name, DIR_MODE) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
            dir = open_at(&dir, name, flags)?;
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let (from_dir, from_name) = self.parent(from)?;
        let (to_dir, to_name) = self.parent(to)?;
        Ok(rustix::fs::renameat(&from_dir, from_name, &to_dir, to_name)?)
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        Ok(rustix::fs::unlinkat(&dir, name, AtFlags::empty())?)
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let (dir, name) = self.parent(path)?;
        remove_tree(&dir, name, REMOVE_DEPTH)
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let dir = self.open_dir(path)?;
        Ok(retry_on_intr(|| rustix::fs::fsync(&dir))?)
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        entries(&self.open_dir(path)?)
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let found = self.parent(path).and_then(|(dir, name)| {
            rustix::fs::statat(&dir, name, AtFlags::SYMLINK_NOFOLLOW)?;
            Ok(true)
        });
        match found {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            other => other,
        }
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.root)?;
        Ok(Space {
            free_bytes: stat.f_bavail.saturating_mul(stat.f_frsize),
            total_bytes: stat.f_blocks.saturating_mul(stat.f_frsize),
        })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let file = self.open_file(path, OFlags::RDWR | OFlags::CREATE)?;
        match file.try_lock() {
            Ok(()) => Ok(Box::new(DiskLock { _file: file })),
            Err(std::fs::TryLockError::WouldBlock) => Err(io::ErrorKind::WouldBlock.into()),
            Err(std::fs::TryLockError::Error(error)) => Err(error),
        }
    }

    fn map(&self, path: &Path) -> io::Result<Box<dyn MappedFile>> {
        Ok(Box::new(mmap::Mapped::new(&self.open_file(path, OFlags::RDONLY)?)?))
    }

    fn warnings(&self) -> Vec<String> {
        warnings(&self.root)
    }
}

#[derive(Debug)]
struct DiskLock {
    _file: File,
}

impl StorageLock for DiskLock {}

/// An open file of the real disk.
#[derive(Debug)]
struct DiskFile {
    file: File,
}

/// Reads until the buffer is full or the file ends; `read` is asked for what is missing.
fn read_full(
    buffer: &mut [u8],
    position: u64,
    read: impl Fn(&mut [u8], u64) -> io::Result<usize>,
) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match read(&mut buffer[filled..], position + filled as u64) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

impl StorageFile for DiskFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        read_full(buffer, position, |rest, at| self.file.read_at(rest, at))
    }

    #[cfg(target_os = "linux")]
    fn read_cached_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        use rustix::io::{ReadWriteFlags, preadv2};
        read_full(buffer, position, |rest, at| {
            let mut buffers = [io::IoSliceMut::new(rest)];
            match preadv2(&self.file, &mut buffers, at, ReadWriteFlags::NOWAIT) {
                Ok(count) => Ok(count),
                // This file system cannot tell what is cached: the read may wait, which is right, only slower.
                Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.read_at(buffers[0].as_mut(), at),
                Err(error) => Err(error.into()),
            }
        })
    }

    #[cfg(not(target_os = "linux"))]
    fn read_cached_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.read_at(buffer, position)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        let buffers = &buffers[..buffers.len().min(WRITE_BUFFERS)];
        Ok(retry_on_intr(|| rustix::io::pwritev(&self.file, buffers, position))?)
    }

    #[cfg(target_os = "linux")]
    fn sync_data(&self) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::fdatasync(&self.file))?)
    }

    #[cfg(not(target_os = "linux"))]
    fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    fn sync_all(&self) -> io::Result<()> {
        // On macOS this is `F_FULLFSYNC`.
        loop {
            match self.file.sync_all() {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => return other,
            }
        }
    }

    #[cfg(target_os = "linux")]
    fn start_write_back(&self, position: u64, len: u64) -> io::Result<()> {
        match mmap::start_write_back(&self.file, position, len) {
            // Not every file system has it (FUSE, some network ones): write-back then begins with the sync.
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP | libc::ESPIPE)) => {
                Ok(())
            }
            other => other,
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn start_write_back(&self, _position: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    #[cfg(target_os = "linux")]
    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        use rustix::fs::{FallocateFlags, fallocate};
        match retry_on_intr(|| fallocate(&self.file, FallocateFlags::KEEP_SIZE, position, len)) {
            // A file system without it: space is then taken as the file grows.
            Ok(()) | Err(Errno::OPNOTSUPP | Errno::NOSYS) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    #[cfg(not(target_os = "linux"))]
    fn allocate(&self, _position: u64, _len: u64) -> io::Result<()> {
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        Ok(retry_on_intr(|| rustix::fs::ftruncate(&self.file, len))?)
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.file.metadata()?.len())
    }

    #[cfg(target_os = "linux")]
    fn drop_cache(&self) -> io::Result<bool> {
        use rustix::fs::{Advice, fadvise};
        for _ in 0..DROP_ATTEMPTS {
            fadvise(&self.file, 0, None, Advice::DontNeed)?;
            if !mmap::any_page_cached(&self.file)? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    #[cfg(not(target_os = "linux"))]
    fn drop_cache(&self) -> io::Result<bool> {
        Ok(false)
    }
}

#[cfg(target_os = "linux")]
fn warnings(root: &OwnedFd) -> Vec<String> {
    let mut found = Vec::new();
    // Types of `statfs(2)`.
    let kind = rustix::fs::fstatfs(root).map_or(0, |stat| stat.f_type as u64 & 0xffff_ffff);
    let network = match kind {
        0x6969 => Some("NFS"),
        0xff53_4d42 | 0xfe53_4d42 | 0x517b => Some("SMB"),
        0x0102_1997 => Some("9p"),
        0x00c3_6400 => Some("Ceph"),
        0x5346_414f | 0x6b41_4653 => Some("AFS"),
        _ => None,
    };
    if let Some(name) = network {
        found.push(format!(
            "the data directory is on a network file system ({name}): locks, syncs and errors of the disk may not be \
             what they seem"
        ));
    }
    if matches!(kind, 0x0102_1994 | 0x8584_58f6) {
        found.push("the data directory is in memory (tmpfs): nothing in it survives a restart of the machine".into());
    }
    if kind == 0x6573_5546 {
        found.push("the data directory is on a FUSE file system: whether a sync reaches a device is up to it".into());
    }
    if mount_options(root).is_some_and(|options| {
        options.split(',').any(|option| matches!(option, "nobarrier" | "barrier=0" | "barrier=none"))
    }) {
        found.push("the data directory is mounted without barriers: a power loss may take what was synced".into());
    }
    found
}

/// Options of the mount that holds the directory, from `/proc/self/mountinfo`.
#[cfg(target_os = "linux")]
fn mount_options(root: &OwnedFd) -> Option<String> {
    let dev = rustix::fs::fstat(root).ok()?.st_dev;
    let id = format!("{}:{}", rustix::fs::major(dev), rustix::fs::minor(dev));
    let mounts = std::fs::read_to_string("/proc/self/mountinfo").ok()?;
    let line = mounts.lines().find(|line| line.split(' ').nth(2) == Some(&id))?;
    Some(line.rsplit(' ').next()?.to_owned())
}

#[cfg(not(target_os = "linux"))]
fn warnings(_root: &OwnedFd) -> Vec<String> {
    vec!["this system is not Linux: syncs are weaker, and damage that only the page cache hides is not found".into()]
}

#[cfg(test)]
#[path = "disk_tests.rs"]
mod tests;
