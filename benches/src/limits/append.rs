//! A and S: what the file system gives one thread that appends.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use crate::stats::Latencies;
use crate::timing::Stopwatch;

/// A load of equal appends to one new file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AppendLoad {
    /// Bytes of one append, at least 1.
    pub bytes_each: usize,
    /// Number of appends, at least 1.
    pub count: u64,
}

/// Limit A: appends to a new file in `dir`, no sync, and removes it. Returns bytes per second.
///
/// # Errors
/// The file could not be made or written.
pub fn bare_append(dir: &Path, load: AppendLoad) -> io::Result<f64> {
    let (file, path) = new_file(dir)?;
    let data = pattern(load.bytes_each);
    let clock = Stopwatch::start();
    let mut position = 0;
    for _ in 0..load.count {
        file.write_all_at(&data, position)?;
        position += data.len() as u64;
    }
    let seconds = clock.seconds();
    std::fs::remove_file(path)?;
    Ok(position as f64 / seconds)
}

/// Limit S: appends to a new file in `dir`, syncing its data after each, and removes it. Returns the time of each
/// append with its sync.
///
/// # Errors
/// The file could not be made, written or synced.
pub fn bare_synced_append(dir: &Path, load: AppendLoad) -> io::Result<Latencies> {
    let (file, path) = new_file(dir)?;
    let data = pattern(load.bytes_each);
    let mut latencies = Latencies::default();
    let clock = Stopwatch::start();
    let mut position = 0;
    for _ in 0..load.count {
        let before = clock.nanos();
        file.write_all_at(&data, position)?;
        file.sync_data()?;
        latencies.record_ns(clock.nanos() - before);
        position += data.len() as u64;
    }
    std::fs::remove_file(path)?;
    Ok(latencies)
}

fn new_file(dir: &Path) -> io::Result<(File, std::path::PathBuf)> {
    let path = dir.join("limit.log");
    let file = OpenOptions::new().read(true).write(true).create(true).truncate(true).open(&path)?;
    Ok((file, path))
}

/// Bytes that are not all alike, should the device compress.
fn pattern(len: usize) -> Vec<u8> {
    (0..len).map(|index| (index.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
}
