use std::collections::BTreeSet;
use std::io::IoSlice;

use super::*;

fn disk_with(path: &str, bytes: &[u8]) -> (SimDisk, Arc<dyn StorageFile>) {
    let disk = SimDisk::new();
    let file = disk.open(Path::new(path), OpenMode::CreateNew).unwrap();
    write(&*file, bytes, 0);
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    (disk, file)
}

fn write(file: &dyn StorageFile, bytes: &[u8], position: u64) {
    assert_eq!(file.write_at(&[IoSlice::new(bytes)], position).unwrap(), bytes.len());
}

fn sync_error(number: i32) -> Fault {
    Fault {
        from_op: 0,
        kinds: vec![OpKind::Sync],
        path_contains: String::new(),
        effect: Effect::Errno(number),
        forever: false,
    }
}

/// Contents of a file after crashes with many seeds; `None` where it is not there.
fn outcomes(disk: &SimDisk, path: &str) -> BTreeSet<Option<Vec<u8>>> {
    (0..400)
        .map(|seed| {
            let after = disk.crash(seed);
            after.files().contains(&path.to_owned()).then(|| after.bytes_of(path))
        })
        .collect()
}

#[test]
fn what_was_synced_survives_every_crash() {
    let (disk, _file) = disk_with("a", b"synced");
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"synced".to_vec())]));
}

#[test]
fn what_was_not_synced_survives_whole_in_part_or_not_at_all() {
    let (disk, file) = disk_with("a", &[1; 512]);
    write(&*file, &[2; 512], 512);
    write(&*file, &[3; 512], 1024);
    let found = outcomes(&disk, "a");
    let of = |parts: &[u8]| Some(parts.iter().flat_map(|part| [*part; 512]).collect::<Vec<u8>>());
    for wanted in [of(&[1]), of(&[1, 2]), of(&[1, 2, 3]), of(&[1, 0, 3]), of(&[1, 0, 0]), of(&[1, 2, 0])] {
        assert!(found.contains(&wanted), "no crash left {wanted:?}");
    }
    assert!(found.iter().flatten().all(|bytes| bytes[..512] == [1; 512]), "synced bytes changed");
}

#[test]
fn a_write_is_torn_at_sectors() {
    let (disk, file) = disk_with("a", b"");
    write(&*file, &[9; 8192], 0);
    let torn = outcomes(&disk, "a").into_iter().flatten().filter(|bytes| {
        let sectors: BTreeSet<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        sectors.len() == 2 && bytes.chunks(512).all(|sector| sector.iter().all(|byte| *byte == sector[0]))
    });
    assert!(torn.count() > 5);
}

#[test]
fn a_truncation_is_kept_or_lost() {
    let (disk, file) = disk_with("a", b"0123456789");
    file.set_len(4).unwrap();
    let found = outcomes(&disk, "a");
    assert_eq!(found, BTreeSet::from([Some(b"0123".to_vec()), Some(b"0123456789".to_vec())]));
}

#[test]
fn d_7_an_entry_is_durable_only_after_a_sync_of_its_directory() {
    let disk = SimDisk::new();
    let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    write(&*file, b"x", 0);
    file.sync_data().unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(b"x".to_vec())]));
    disk.sync_dir(Path::new("")).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"x".to_vec())]));
    disk.remove_file(Path::new("a")).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([None, Some(b"x".to_vec())]));
}

#[test]
fn d_7_a_rename_happens_whole_or_not() {
    let (disk, _old) = disk_with("a", b"old");
    let new = disk.open(Path::new("a.tmp"), OpenMode::CreateNew).unwrap();
    write(&*new, b"new", 0);
    new.sync_data().unwrap();
    disk.rename(Path::new("a.tmp"), Path::new("a")).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"new".to_vec()), Some(b"old".to_vec())]));
    disk.sync_dir(Path::new("")).unwrap();
    assert_eq!(outcomes(&disk, "a"), BTreeSet::from([Some(b"new".to_vec())]));
}

#[test]
fn a_file_in_a_directory_that_is_not_durable_goes_with_it() {
    let disk = SimDisk::new();
    disk.create_dir_all(Path::new("t/1")).unwrap();
    disk.open(Path::new("t/1/a"), OpenMode::CreateNew).unwrap().sync_data().unwrap();
    disk.sync_dir(Path::new("t/1")).unwrap();
    assert!(outcomes(&disk, "t/1/a").contains(&None));
    disk.sync_dir(Path::new("t")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    assert_eq!(outcomes(&disk, "t/1/a"), BTreeSet::from([Some(Vec::new())]));
    disk.remove_dir_all(Path::new("t")).unwrap();
    assert!(disk.files().is_empty());
}

#[test]
fn f_1_a_failed_sync_loses_pages_that_the_next_sync_calls_durable() {
    let mut old_after_drop = 0;
    for seed in 0..50 {
        let (disk, file) = disk_with("a", b"old");
        disk.set_seed(seed);
        write(&*file, b"new", 0);
        disk.inject(sync_error(libc::EIO));
        assert_eq!(file.sync_data().unwrap_err().raw_os_error(), Some(libc::EIO));
        file.sync_data().expect("the pages count as clean");
        disk.open(Path::new("a"), OpenMode::ReadWrite).unwrap().sync_data().expect("for a new descriptor as well");
        let mut found = [0; 3];
        file.read_at(&mut found, 0).unwrap();
        assert_eq!(&found, b"new", "the cache keeps them");
        assert!(file.drop_cache().unwrap());
        file.read_at(&mut found, 0).unwrap();
        old_after_drop += usize::from(&found == b"old");
        assert_eq!(disk.crash(0).bytes_of("a"), found, "a crash leaves what the device has");
    }
    assert!(old_after_drop > 10, "the device had the old bytes only {old_after_drop} times");
}

#[test]
fn f_1_of_two_descriptors_each_learns_of_a_failed_write_back_once() {
    let (disk, file) = disk_with("a", b"old");
    let other = disk.open(Path::new("a"), OpenMode::ReadWrite).unwrap();
    write(&*file, b"new", 0);
    disk.fail_write_back("a", libc::EIO);
    let later = disk.open(Path::new("a"), OpenMode::ReadWrite).unwrap();
    for descriptor in [&file, &other, &later] {
        assert!(descriptor.sync_data().is_err());
        descriptor.sync_data().unwrap();
    }
    disk.open(Path::new("a"), OpenMode::ReadWrite).unwrap().sync_data().expect("an error that was seen is over");
}

#[test]
fn a_fault_hits_the_call_with_its_number_once_or_for_ever() {
    let (disk, file) = disk_with("a", b"");
    let at = disk.op_count();
    let fault = Fault { from_op: at + 1, effect: Effect::Errno(libc::EMFILE), kinds: Vec::new(), ..sync_error(0) };
    disk.inject(fault.clone());
    file.len().unwrap();
    assert_eq!(file.len().unwrap_err().raw_os_error(), Some(libc::EMFILE));
    file.len().unwrap();
    assert_eq!(disk.ops().last().map(|op| (op.index, op.kind)), Some((at + 2, OpKind::Len)));
    disk.inject(Fault { forever: true, ..fault });
    assert!(file.len().is_err() && file.len().is_err());
    disk.clear_faults();
    file.len().unwrap();
}

#[test]
fn a_short_write_takes_half_and_a_misdirected_one_lands_elsewhere() {
    let (disk, file) = disk_with("a", b"");
    disk.inject(Fault { kinds: vec![OpKind::Write], effect: Effect::ShortWrite, ..sync_error(0) });
    assert_eq!(file.write_at(&[IoSlice::new(b"abcd"), IoSlice::new(b"efgh")], 0).unwrap(), 4);
    disk.inject(Fault { kinds: vec![OpKind::Write], effect: Effect::Misdirected(4), ..sync_error(0) });
    write(&*file, b"WXYZ", 4);
    assert_eq!(disk.bytes_of("a"), b"abcd\0\0\0\0WXYZ");
}

#[test]
fn f_3_a_full_disk_takes_what_fits_and_then_nothing() {
    let (disk, file) = disk_with("a", b"");
    disk.set_quota(8192);
    file.allocate(0, 4096).unwrap();
    assert_eq!(file.allocate(0, 12_288).unwrap_err().raw_os_error(), Some(libc::ENOSPC));
    assert_eq!(disk.space().unwrap(), Space { free_bytes: 4096, total_bytes: 8192 });
    assert_eq!(file.write_at(&[IoSlice::new(&[1; 10_000])], 0).unwrap(), 8192);
    let full = file.write_at(&[IoSlice::new(b"x")], 8192).unwrap_err();
    assert_eq!(full.raw_os_error(), Some(libc::ENOSPC));
    write(&*file, b"over old bytes", 100);
    file.set_len(0).unwrap();
    assert_eq!(disk.space().unwrap().free_bytes, 8192);
}

#[test]
fn a_read_is_flipped_once_and_a_flipped_file_stays_so() {
    let (disk, file) = disk_with("a", b"abc");
    let read = |file: &dyn StorageFile| {
        let mut found = [0; 3];
        file.read_at(&mut found, 0).unwrap();
        found
    };
    disk.flip_reads("a", 1, 1, 1);
    assert_eq!(&read(&*file), b"acc");
    assert_eq!(&read(&*file), b"abc");
    disk.flip("a", 0, 1);
    file.drop_cache().unwrap();
    assert_eq!(&read(&*file), b"`bc");
}

#[test]
fn the_death_of_the_process_keeps_the_cache_and_frees_the_lock() {
    let (disk, file) = disk_with("a", b"old");
    let _held = disk.try_lock(Path::new("LOCK")).unwrap();
    assert_eq!(disk.try_lock(Path::new("LOCK")).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    write(&*file, b"new", 0);
    let after = disk.kill();
    assert_eq!(after.bytes_of("a"), b"new");
    after.try_lock(Path::new("LOCK")).unwrap();
    write(&*file, b"dead", 0);
    assert_eq!(after.bytes_of("a"), b"new", "a dead process writes no more");
}

#[test]
fn an_image_is_kept_after_each_call_that_changes_something() {
    let disk = SimDisk::new();
    disk.record_images();
    let file = disk.open(Path::new("a"), OpenMode::CreateNew).unwrap();
    write(&*file, b"x", 0);
    file.len().unwrap();
    file.sync_data().unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    let images = disk.take_images();
    let kinds: Vec<OpKind> = images.iter().map(|image| image.last).collect();
    assert_eq!(kinds, [OpKind::Create, OpKind::Write, OpKind::Sync, OpKind::SyncDir]);
    assert_eq!(images[3].crash(1).bytes_of("a"), b"x");
    assert_eq!(images[0].kill().bytes_of("a"), b"");
}

#[test]
fn equal_seeds_leave_equal_images() {
    let (disk, file) = disk_with("a", &[1; 3000]);
    write(&*file, &[2; 9000], 700);
    file.set_len(5000).unwrap();
    write(&*file, &[3; 700], 4900);
    for seed in 0..50 {
        assert_eq!(disk.crash(seed).bytes_of("a"), disk.crash(seed).bytes_of("a"));
    }
}
