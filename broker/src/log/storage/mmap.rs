//! The one file with unsafe code: maps of sealed indexes, and two system calls that no safe crate offers.
//!
//! It must not know what the bytes mean. Invariants: only whole, sealed, rebuildable files are mapped (rule C6), which
//! nobody truncates while a map lives; a map is never written through.

#![expect(unsafe_code, reason = "maps and two system calls; each block says why it is sound")]

use std::fs::File;
use std::io;

use super::MappedFile;

/// A whole file, mapped for reading.
#[derive(Debug)]
pub(super) struct Mapped {
    map: Option<memmap2::Mmap>,
}

impl Mapped {
    /// Maps the whole file. An empty file has no map.
    ///
    /// # Errors
    /// The system's.
    pub(super) fn new(file: &File) -> io::Result<Self> {
        if file.metadata()?.len() == 0 {
            return Ok(Self { map: None });
        }
        // SAFETY: the caller of `Storage::map` promises a sealed index that no one writes or truncates while the map
        // lives (rule C6); the data directory is locked, so no other broker does either. Another program that cuts
        // the file ends this process with SIGBUS, which is stated in rule C6, and does not corrupt memory.
        let map = unsafe { memmap2::Mmap::map(file) }?;
        Ok(Self { map: Some(map) })
    }
}

impl MappedFile for Mapped {
    fn bytes(&self) -> &[u8] {
        self.map.as_deref().unwrap_or_default()
    }
}

/// Whether any page of the file is in the page cache (`mincore`).
///
/// # Errors
/// The system's; `Unsupported` where there is no such call.
#[cfg(target_os = "linux")]
pub(super) fn any_page_cached(file: &File) -> io::Result<bool> {
    /// Bytes asked for at once.
    const WINDOW_BYTES: u64 = 64 << 20;
    let len = file.metadata()?.len();
    // The smallest page there is: with larger ones, the end of the answer stays unused.
    let page_bytes = 4096;
    let mut position = 0;
    while position < len {
        let window = usize::try_from((len - position).min(WINDOW_BYTES)).expect("a window fits usize");
        // SAFETY: the bytes of this map are never read or written: `mincore` looks at page tables and the page cache
        // alone, so that no other use of the file can make this unsound, and no access can fault.
        let map = unsafe { memmap2::MmapOptions::new().offset(position).len(window).map(file) }?;
        let mut pages = vec![0_u8; window.div_ceil(page_bytes)];
        // SAFETY: the address is page aligned as `mmap` returned it for an offset that is a multiple of the page
        // size, the length is the map's, and `pages` has a byte for each page of it.
        let result = unsafe { libc::mincore(map.as_ptr().cast_mut().cast(), window, pages.as_mut_ptr()) };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
        if pages.iter().any(|page| page & 1 == 1) {
            return Ok(true);
        }
        position += window as u64;
    }
    Ok(false)
}

/// Starts write-back of a range and does not wait for it (`sync_file_range`).
///
/// # Errors
/// The system's.
#[cfg(target_os = "linux")]
pub(super) fn start_write_back(file: &File, position: u64, len: u64) -> io::Result<()> {
    use std::os::fd::AsRawFd;
    let offset = i64::try_from(position).map_err(|_| io::ErrorKind::InvalidInput)?;
    let bytes = i64::try_from(len).map_err(|_| io::ErrorKind::InvalidInput)?;
    // SAFETY: the call takes integers only, and the descriptor is open as long as `file` is borrowed.
    let result = unsafe { libc::sync_file_range(file.as_raw_fd(), offset, bytes, libc::SYNC_FILE_RANGE_WRITE) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
