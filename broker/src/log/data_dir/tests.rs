use super::*;
use crate::log::storage::SimDisk;
use crate::log::storage::sim_disk::{Effect, Fault, OpKind};

const UUID: [u8; 16] = [7; 16];
const OPTIONS: DataDirOptions = DataDirOptions { new_uuid: UUID, reserve_bytes: 1 << 20 };

fn open(disk: &SimDisk) -> Result<DataDir, DataDirError> {
    DataDir::open(disk.storage(), OPTIONS)
}

fn end(topic: u64, partition: u32, end: u64) -> CleanEnd {
    CleanEnd { topic: TopicId(topic), partition: PartitionId(partition), end: Offset::new(end).unwrap() }
}

/// The header of a segment of the metadata log.
fn segment_header(uuid: [u8; 16], major: u16) -> Vec<u8> {
    let mut bytes = vec![0; 84];
    bytes[..8].copy_from_slice(b"SAWLOG\x01S");
    bytes[8..10].copy_from_slice(&major.to_le_bytes());
    bytes[16..32].copy_from_slice(&uuid);
    let checksum = crc32fast::hash(&bytes);
    bytes.extend_from_slice(&checksum.to_le_bytes());
    bytes
}

fn with_segment(disk: &SimDisk, header: Vec<u8>) {
    disk.create_dir_all(Path::new("meta")).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk.put_file("meta/00000000000000000000.log", header);
}

#[test]
fn a_new_directory_gets_its_id_and_keeps_it() {
    let disk = SimDisk::new();
    let dir = open(&disk).unwrap();
    assert!(dir.is_new());
    assert_eq!((dir.uuid(), dir.clean_marker(), dir.reserve_held()), (UUID, None, 1 << 20));
    drop(dir);
    let again = DataDir::open(disk.storage(), DataDirOptions { new_uuid: [9; 16], ..OPTIONS }).unwrap();
    assert!(!again.is_new());
    assert_eq!(again.uuid(), UUID);
    assert!(again.warnings().is_empty());
}

#[test]
fn s_1_a_second_broker_is_refused_and_told_who_holds_the_lock() {
    let disk = SimDisk::new();
    let held = open(&disk).unwrap();
    let refused = open(&disk).unwrap_err();
    assert!(matches!(refused, DataDirError::InUse { pid: Some(pid) } if pid == std::process::id()));
    assert!(refused.to_string().contains("in use by another process (pid"), "{refused}");
    drop(held);
    open(&disk).unwrap();
}

#[test]
fn s_2_an_unknown_major_version_is_refused_and_nothing_is_touched() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    let mut format = disk.bytes_of("FORMAT");
    format[8] = 2;
    let checksum = crc32fast::hash(&format[..28]);
    format[28..].copy_from_slice(&checksum.to_le_bytes());
    disk.put_file("FORMAT", format);
    disk.put_file("CLEAN", vec![1, 2, 3]);
    let before: Vec<_> = disk.files().into_iter().map(|file| (disk.bytes_of(&file), file)).collect();
    let ops = disk.op_count();
    let refused = open(&disk).unwrap_err();
    assert!(matches!(refused, DataDirError::UnknownFormat { major: 2, minor: 0, known: 1 }), "{refused}");
    let after: Vec<_> = disk.files().into_iter().map(|file| (disk.bytes_of(&file), file)).collect();
    assert_eq!(before, after);
    assert!(disk.ops()[ops as usize..].iter().all(|op| !op.kind.changes()));
}

#[test]
fn s_2_a_higher_minor_version_is_read() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    let mut format = disk.bytes_of("FORMAT");
    format[10] = 9;
    let checksum = crc32fast::hash(&format[..28]);
    format[28..].copy_from_slice(&checksum.to_le_bytes());
    disk.put_file("FORMAT", format);
    assert_eq!(open(&disk).unwrap().uuid(), UUID);
}

#[test]
fn s_2_every_flipped_bit_of_format_is_made_good_from_a_segment() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    with_segment(&disk, segment_header(UUID, 1));
    let good = disk.bytes_of("FORMAT");
    for bit in 0..good.len() as u64 * 8 {
        disk.flip("FORMAT", bit / 8, 1 << (bit % 8));
        let dir = open(&disk).unwrap_or_else(|error| panic!("bit {bit}: {error}"));
        assert_eq!(dir.uuid(), UUID, "bit {bit}");
        assert!(dir.warnings().iter().any(|warning| warning.contains("made good")), "bit {bit} was not noticed");
        assert_eq!(disk.bytes_of("FORMAT"), good, "bit {bit}");
    }
    disk.lose_file("FORMAT");
    assert_eq!(open(&disk).unwrap().uuid(), UUID);
    for len in 0..good.len() {
        disk.put_file("FORMAT", good[..len].to_vec());
        assert_eq!(open(&disk).unwrap().uuid(), UUID, "cut to {len} bytes");
    }
}

#[test]
fn s_2_without_a_segment_a_damaged_format_is_refused() {
    let disk = SimDisk::new();
    drop(open(&disk).unwrap());
    disk.flip("FORMAT", 3, 1);
    let refused = open(&disk).unwrap_err();
    assert!(matches!(refused, DataDirError::FormatDamaged { .. }), "{refused}");
    with_segment(&disk, segment_header(UUID, 3));
    assert!(matches!(open(&disk).unwrap_err(), DataDirError::UnknownFormat { major: 3, .. }));
}

#[test]
fn s_6_the_directory_of_another_program_is_refused_and_gets_no_lock_file() {
    let disk = SimDisk::new();
    disk.put_file("family-photos.zip", vec![1, 2, 3]);
    let refused = open(&disk).unwrap_err();
    assert!(matches!(&refused, DataDirError::Foreign { found } if found == "family-photos.zip"), "{refused}");
    assert_eq!(disk.files(), ["family-photos.zip"]);
}

#[test]
fn s_6_a_directory_that_cannot_be_written_is_refused_with_the_reason() {
    let disk = SimDisk::new();
    let fault = Fault {
        from_op: 0,
        kinds: vec![OpKind::Create, OpKind::Lock],
        path_contains: String::new(),
        effect: Effect::Errno(libc::EROFS),
        forever: true,
    };
    disk.inject(fault);
    let refused = open(&disk).unwrap_err();
    assert!(refused.to_string().starts_with("lock LOCK: Read-only file system"), "{refused}");
}

#[test]
fn s_3_the_marker_is_read_once_and_gone_durably_before_anything_else_is_written() {
    let disk = SimDisk::new();
    let marker = CleanMarker { ends: vec![end(0, 0, 3), end(1, 0, 100), end(1, 1, 0)] };
    let dir = open(&disk).unwrap();
    let unsorted = CleanMarker { ends: marker.ends.iter().rev().copied().collect() };
    dir.write_clean_marker(unsorted).unwrap();
    drop(dir);
    let last = disk.ops().into_iter().rfind(|op| op.kind.changes()).unwrap();
    assert_eq!(last.kind, OpKind::SyncDir, "the marker is durable");
    let disk = disk.crash(1);
    let dir = open(&disk).unwrap();
    assert_eq!(dir.clean_marker(), Some(&marker));
    let found = dir.clean_marker().and_then(|marker| marker.end_of(TopicId(1), PartitionId(0)));
    assert_eq!(found, Offset::new(100));
    assert_eq!(dir.clean_marker().and_then(|marker| marker.end_of(TopicId(2), PartitionId(0))), None);
    for seed in 0..20 {
        let after = disk.crash(seed);
        assert_eq!(open(&after).unwrap().clean_marker(), None, "seed {seed}");
    }
}

#[test]
fn s_3_every_flipped_bit_of_the_marker_makes_it_no_marker() {
    let disk = SimDisk::new();
    open(&disk).unwrap().write_clean_marker(CleanMarker { ends: vec![end(1, 2, 3)] }).unwrap();
    let good = disk.bytes_of("CLEAN");
    for bit in 0..good.len() as u64 * 8 {
        disk.put_file("CLEAN", good.clone());
        disk.flip("CLEAN", bit / 8, 1 << (bit % 8));
        let dir = open(&disk).unwrap();
        assert_eq!(dir.clean_marker(), None, "bit {bit}");
        assert_eq!(dir.warnings().len(), 1, "bit {bit}");
    }
    for len in 0..good.len() {
        disk.put_file("CLEAN", good[..len].to_vec());
        assert_eq!(open(&disk).unwrap().clean_marker(), None, "cut to {len} bytes");
    }
    let foreign = CleanMarker { ends: vec![end(1, 2, 3)] }.encode([8; 16]);
    disk.put_file("CLEAN", foreign);
    assert_eq!(open(&disk).unwrap().clean_marker(), None);
}

#[test]
fn s_3_a_crash_at_any_call_of_a_first_start_leaves_a_directory_that_starts() {
    let disk = SimDisk::new();
    disk.record_images();
    let dir = open(&disk).unwrap();
    dir.write_clean_marker(CleanMarker { ends: vec![end(1, 2, 3)] }).unwrap();
    drop(dir);
    drop(open(&disk).unwrap());
    for image in disk.take_images() {
        for seed in 0..20 {
            let after = image.crash(seed);
            let dir = open(&after).unwrap_or_else(|error| panic!("op {} seed {seed}: {error}", image.ops));
            assert_eq!(dir.uuid(), UUID);
        }
    }
}

#[test]
fn f_3_the_reserve_is_given_back_and_refilled_first() {
    let disk = SimDisk::new();
    disk.set_quota(4 << 20);
    let dir = open(&disk).unwrap();
    let free = || disk.space().unwrap().free_bytes;
    let full = free();
    assert_eq!(dir.release_reserve(1 << 18).unwrap(), 1 << 18);
    assert_eq!(free(), full + (1 << 18));
    assert_eq!(dir.release_reserve(1 << 30).unwrap(), 3 << 18, "no more than there is");
    assert_eq!((dir.reserve_held(), dir.release_reserve(1).unwrap()), (0, 0));
    assert!(!dir.refill_reserve(free() - 4096).unwrap(), "one page may be taken");
    assert_eq!(dir.reserve_held(), 4096);
    assert!(!dir.refill_reserve(1 << 30).unwrap());
    assert!(dir.refill_reserve(0).unwrap());
    assert_eq!((dir.reserve_held(), free()), (1 << 20, full));
}

#[test]
fn f_3_a_start_on_a_full_disk_keeps_the_reserve_it_has_and_warns_without_one() {
    let disk = SimDisk::new();
    disk.set_quota(4 << 20);
    drop(open(&disk).unwrap());
    disk.set_quota(disk.used_bytes());
    let dir = open(&disk).unwrap();
    assert_eq!((dir.reserve_held(), dir.warnings().len()), (1 << 20, 0));
    dir.release_reserve(1 << 20).unwrap();
    disk.set_quota(disk.used_bytes());
    drop(dir);
    let dir = open(&disk).unwrap();
    assert_eq!(dir.reserve_held(), 0);
    assert!(dir.warnings().iter().any(|warning| warning.contains("too full for the reserve")));
}

#[test]
fn an_error_at_any_call_of_a_start_is_an_error_of_it_and_the_next_start_works() {
    let template = SimDisk::new();
    open(&template).unwrap().write_clean_marker(CleanMarker { ends: vec![end(1, 2, 3)] }).unwrap();
    let calls = {
        let disk = template.fork();
        drop(open(&disk).unwrap());
        disk.op_count()
    };
    for at in 0..calls {
        let disk = template.fork();
        let effect = Effect::Errno(libc::EIO);
        disk.inject(Fault { from_op: at, kinds: Vec::new(), path_contains: String::new(), effect, forever: false });
        // What is information only may fail unseen; everything else is told. In no case is there a panic.
        let first = open(&disk);
        drop(first);
        assert_eq!(open(&disk).unwrap().uuid(), UUID, "after an error at call {at}");
    }
}

#[test]
fn s_3_a_marker_whose_removal_was_cut_short_never_comes_back() {
    let disk = SimDisk::new();
    open(&disk).unwrap().write_clean_marker(CleanMarker { ends: vec![end(1, 2, 3)] }).unwrap();
    disk.record_images();
    open(&disk).unwrap();
    for (number, image) in disk.take_images().iter().enumerate() {
        let killed = image.kill();
        open(&killed).unwrap();
        for seed in 0..20 {
            let clean = open(&killed.crash(seed)).unwrap().clean_marker().cloned();
            assert_eq!(clean, None, "killed after change {number}, power loss in the run after it, seed {seed}");
        }
    }
}
