//! Starting on directories that are in use, foreign, damaged or not writable (rules S1, S2, S3, S6), on the real disk.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sawlog_broker::log::data_dir::{CleanEnd, CleanMarker, DataDir, DataDirError, DataDirOptions};
use sawlog_broker::log::storage::{Disk, Storage};
use sawlog_broker::model::{Offset, PartitionId, TopicId};

const UUID: [u8; 16] = *b"0123456789abcdef";

fn open(path: &Path) -> Result<DataDir, DataDirError> {
    let storage: Arc<dyn Storage> = Arc::new(Disk::create(path).unwrap());
    DataDir::open(storage, DataDirOptions { new_uuid: UUID, reserve_bytes: 1 << 20 })
}

/// All files below a folder with their bytes.
fn snapshot(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(snapshot(&path));
        } else {
            found.insert(path.clone(), std::fs::read(&path).unwrap());
        }
    }
    found
}

#[test]
fn s_1_two_brokers_cannot_share_a_data_directory() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let first = open(&path).unwrap();
    let refused = open(&path).unwrap_err();
    assert!(matches!(refused, DataDirError::InUse { pid: Some(_) }), "{refused}");
    drop(first);
    open(&path).unwrap();
}

#[test]
fn s_2_and_s_3_the_files_of_format_1_are_these_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    let dir = open(&path).unwrap();
    let end = CleanEnd { topic: TopicId(7), partition: PartitionId(2), end: Offset::new(300).unwrap() };
    dir.write_clean_marker(CleanMarker { ends: vec![end] }).unwrap();
    let mut format = b"SAWLOG\x01F\x01\0\0\x000123456789abcdef".to_vec();
    format.extend_from_slice(&[0xf7, 0x8f, 0x27, 0xa0]);
    assert_eq!(std::fs::read(path.join("FORMAT")).unwrap(), format);
    let mut clean = b"SAWLOG\x01K\x01\0\0\0\x01\0\0\x000123456789abcdef".to_vec();
    clean.extend_from_slice(&[7, 0, 0, 0, 0, 0, 0, 0, 44, 1, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0, 0]);
    clean.extend_from_slice(&[0x44, 0x37, 0xab, 0x9c, 0x00, 0x00, 0x00, 0x00]);
    assert_eq!(std::fs::read(path.join("CLEAN")).unwrap(), clean);
}

#[test]
fn s_2_a_directory_of_a_later_format_is_refused_and_untouched() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("data");
    drop(open(&path).unwrap());
    let mut format = std::fs::read(path.join("FORMAT")).unwrap();
    format[8] = 9;
    let checksum = crc32fast::hash(&format[..28]);
    format[28..].copy_from_slice(&checksum.to_le_bytes());
    std::fs::write(path.join("FORMAT"), format).unwrap();
    let before = snapshot(&path);
    let refused = open(&path).unwrap_err();
    let text = "the data directory has format 9.0; this program reads format 1: use the version that wrote it";
    assert_eq!(refused.to_string(), text);
    assert_eq!(snapshot(&path), before);
}

#[test]
fn s_6_the_directory_of_another_program_is_refused_and_untouched() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("accounts.db"), b"money").unwrap();
    let refused = open(folder.path()).unwrap_err();
    let text = "accounts.db is there, but no FORMAT file: this is not a data directory of sawlog; give an empty one";
    assert_eq!(refused.to_string(), text);
    assert_eq!(snapshot(folder.path()).len(), 1);
}

#[test]
fn s_6_a_path_that_is_no_directory_is_refused_with_its_name() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("file");
    std::fs::write(&path, b"").unwrap();
    for wrong in [path.clone(), path.join("below")] {
        let refused = Disk::create(&wrong).unwrap_err();
        assert!(refused.to_string().contains(&*path.to_string_lossy()), "{refused}");
    }
}

#[cfg(target_os = "linux")]
#[test]
fn s_6_a_directory_that_cannot_be_written_is_refused() {
    // A directory of /proc can be opened and never written, by whomever: permissions do not stop the root user.
    let storage: Arc<dyn Storage> = Arc::new(Disk::open(Path::new("/proc/self/net")).unwrap());
    let refused = DataDir::open(storage, DataDirOptions { new_uuid: UUID, reserve_bytes: 0 }).unwrap_err();
    assert!(matches!(refused, DataDirError::Foreign { .. } | DataDirError::Io { .. }), "{refused}");
}

#[cfg(target_os = "linux")]
#[test]
fn s_6_a_directory_in_memory_is_warned_of() {
    let Ok(folder) = tempfile::tempdir_in("/dev/shm") else { return };
    let dir = open(&folder.path().join("data")).unwrap();
    assert!(dir.warnings().iter().any(|warning| warning.contains("in memory (tmpfs)")), "{:?}", dir.warnings());
}
