use std::os::unix::fs::PermissionsExt;

use super::*;

fn disk() -> (tempfile::TempDir, Disk) {
    let folder = tempfile::tempdir().unwrap();
    let disk = Disk::create(&folder.path().join("data")).unwrap();
    (folder, disk)
}

fn write_all(file: &dyn StorageFile, bytes: &[u8], position: u64) {
    assert_eq!(file.write_at(&[IoSlice::new(bytes)], position).unwrap(), bytes.len());
}

#[test]
fn what_is_written_at_a_position_is_read_there() {
    let (_folder, disk) = disk();
    disk.create_dir_all(Path::new("topics/1/0")).unwrap();
    let file = disk.open(Path::new("topics/1/0/a.log"), OpenMode::CreateNew).unwrap();
    let parts = [IoSlice::new(b"hello "), IoSlice::new(b"world")];
    assert_eq!(file.write_at(&parts, 4096).unwrap(), 11);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("topics/1/0")).unwrap();
    assert_eq!(file.len().unwrap(), 4107);
    let mut found = [0_u8; 64];
    assert_eq!(file.read_at(&mut found, 4096).unwrap(), 11);
    assert_eq!(&found[..11], b"hello world");
    assert_eq!(file.read_cached_at(&mut found[..4], 4096).unwrap(), 4);
    assert_eq!(file.read_at(&mut found, 5000).unwrap(), 0, "behind the end there is nothing");
}

#[test]
fn files_and_directories_are_for_their_owner_alone() {
    let (folder, disk) = disk();
    disk.create_dir_all(Path::new("topics/1")).unwrap();
    disk.open(Path::new("topics/1/a"), OpenMode::CreateNew).unwrap();
    let mode =
        |path: &str| std::fs::metadata(folder.path().join("data").join(path)).unwrap().permissions().mode() & 0o777;
    assert_eq!((mode(""), mode("topics"), mode("topics/1"), mode("topics/1/a")), (0o700, 0o700, 0o700, 0o600));
}

#[test]
fn no_path_leads_out_of_the_data_directory() {
    let (folder, disk) = disk();
    let outside = folder.path().join("outside");
    std::fs::create_dir(&outside).unwrap();
    std::fs::write(outside.join("file"), b"untouched").unwrap();
    std::os::unix::fs::symlink(&outside, folder.path().join("data/link")).unwrap();
    std::os::unix::fs::symlink(outside.join("file"), folder.path().join("data/file")).unwrap();
    for path in ["../outside/file", "/etc/passwd", "link/file", "file", "", "a/../file"] {
        assert!(disk.open(Path::new(path), OpenMode::ReadWrite).is_err(), "{path} was opened");
    }
    assert!(disk.list(Path::new("link")).is_err());
    assert!(disk.remove_dir_all(Path::new("link")).is_err());
    assert!(disk.create_dir_all(Path::new("link/below")).is_err());
    assert_eq!(std::fs::read(outside.join("file")).unwrap(), b"untouched");
}

#[test]
fn a_new_file_is_not_made_over_an_old_one() {
    let (_folder, disk) = disk();
    disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    let again = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap_err();
    assert_eq!(again.kind(), io::ErrorKind::AlreadyExists);
    assert_eq!(disk.open(Path::new("b"), OpenMode::Read).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn entries_are_listed_renamed_and_removed() {
    let (_folder, disk) = disk();
    disk.create_dir_all(Path::new("t/1")).unwrap();
    disk.open(Path::new("t/a.tmp"), OpenMode::CreateNew).unwrap();
    disk.open(Path::new("t/1/b"), OpenMode::CreateNew).unwrap();
    disk.rename(Path::new("t/a.tmp"), Path::new("t/a")).unwrap();
    let mut found = disk.list(Path::new("t")).unwrap();
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let wanted = [DirEntry { name: "1".into(), is_dir: true }, DirEntry { name: "a".into(), is_dir: false }];
    assert_eq!(found, wanted);
    assert!(disk.exists(Path::new("t/a")).unwrap());
    assert!(!disk.exists(Path::new("t/a.tmp")).unwrap());
    assert!(!disk.exists(Path::new("u/v")).unwrap());
    disk.remove_file(Path::new("t/a")).unwrap();
    disk.remove_dir_all(Path::new("t")).unwrap();
    assert!(!disk.exists(Path::new("t")).unwrap());
    assert!(disk.list(Path::new("")).unwrap().is_empty());
}

#[test]
fn s_1_a_lock_is_held_until_it_is_dropped() {
    let (folder, disk) = disk();
    let held = disk.try_lock(Path::new("LOCK")).unwrap();
    let other = Disk::open(&folder.path().join("data")).unwrap();
    assert_eq!(other.try_lock(Path::new("LOCK")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    drop(held);
    other.try_lock(Path::new("LOCK")).unwrap();
}

#[test]
fn space_allocated_ahead_leaves_the_length_alone() {
    let (folder, disk) = disk();
    let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    write_all(&*file, b"abc", 0);
    file.allocate(0, 1 << 20).unwrap();
    file.start_write_back(0, 3).unwrap();
    assert_eq!(file.len().unwrap(), 3);
    file.set_len(3).unwrap();
    file.sync_all().unwrap();
    use std::os::unix::fs::MetadataExt;
    let blocks = std::fs::metadata(folder.path().join("data/a")).unwrap().blocks();
    assert!(blocks < 2048, "{blocks} blocks are still allocated");
    assert!(disk.space().unwrap().total_bytes > 0);
}

#[test]
fn a_map_holds_the_whole_file() {
    let (_folder, disk) = disk();
    let file = disk.open(Path::new("a.index"), OpenMode::CreateNew).unwrap();
    assert_eq!(disk.map(Path::new("a.index")).unwrap().bytes(), b"");
    write_all(&*file, b"index", 0);
    assert_eq!(disk.map(Path::new("a.index")).unwrap().bytes(), b"index");
}

#[cfg(target_os = "linux")]
#[test]
fn d_6_a_dropped_cache_is_gone_and_reads_come_from_the_device() {
    let (_folder, disk) = disk();
    let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    write_all(&*file, &vec![7_u8; 1 << 20], 0);
    file.sync_data().unwrap();
    // In memory there is no device behind the cache, and the answer says so.
    let dropped = file.drop_cache().unwrap();
    assert!(dropped || !disk.warnings().is_empty());
    let mut found = vec![0_u8; 1 << 20];
    assert_eq!(file.read_at(&mut found, 0).unwrap(), 1 << 20);
    assert!(found.iter().all(|byte| *byte == 7));
}

#[cfg(target_os = "linux")]
#[test]
fn d_6_dirty_pages_do_not_count_as_dropped() {
    let (_folder, disk) = disk();
    let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    write_all(&*file, &[7_u8; 100], 0);
    let mut found = [0_u8; 100];
    // Either its write-back has just finished, or the page is still there: what is read is what was written.
    let _ = file.drop_cache().unwrap();
    assert_eq!(file.read_at(&mut found, 0).unwrap(), 100);
    assert_eq!(found, [7_u8; 100]);
}
