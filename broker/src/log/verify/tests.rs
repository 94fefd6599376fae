use super::*;
use crate::log::data_dir::{DataDir, DataDirOptions};
use crate::log::storage::SimDisk;
use crate::log::{FrameDraft, LocalLog, LogEnvironment, LogSettings};
use crate::model::{PartitionId, TopicId, TopicUuid};

const UUID: [u8; 16] = [5; 16];

fn identity(topic_id: u64, partition: u32) -> LogIdentity {
    LogIdentity {
        data_dir: UUID,
        topic_uuid: TopicUuid([topic_id as u8; 16]),
        topic_id: TopicId(topic_id),
        partition: PartitionId(partition),
    }
}

/// A log of a few segments, five records a frame.
pub(crate) fn make_log(disk: &SimDisk, dir: &str, identity: LogIdentity, frames: u64) {
    disk.create_dir_all(dir.as_ref()).unwrap();
    let mut environment = LogEnvironment::new(disk.storage(), dir.into(), identity, 7);
    environment.settings = LogSettings { segment_bytes: 1_000, index_interval_bytes: 200, allocation_step_bytes: 0 };
    let epoch = PartitionEpoch::new(1).unwrap();
    let mut log = LocalLog::create(environment, epoch).unwrap();
    for at in 0..frames {
        if log.must_roll(250) {
            log.roll().unwrap();
        }
        let draft = FrameDraft {
            base_offset: log.end(),
            record_count: 5,
            append_time_ms: 100 + at as i64,
            epoch,
            extensions: Bytes::from_static(b"ext"),
            batch_head: Bytes::from_static(b"0123456789abcdef"),
            batch_rest: Bytes::from(vec![at as u8; 150]),
        };
        log.append(&[draft]).unwrap();
        let sync = log.pending_sync().unwrap();
        sync.run().unwrap();
        log.note_synced(&sync);
    }
    log.close(100 + frames as i64, epoch).unwrap();
}

fn directory() -> SimDisk {
    let disk = SimDisk::new();
    let dir = DataDir::open(disk.storage(), DataDirOptions { new_uuid: UUID, reserve_bytes: 0 }).unwrap();
    make_log(&disk, "meta", identity(0, 0), 6);
    make_log(&disk, "topics/10/0", identity(10, 0), 12);
    make_log(&disk, "topics/9/1", identity(9, 1), 3);
    dir.write_clean_marker(Default::default()).unwrap();
    disk
}

#[test]
fn a_whole_directory_is_counted_and_nothing_is_found() {
    let disk = directory();
    let before = disk.op_count();
    let report = verify_all(&disk).unwrap();
    assert_eq!(report.grade(), None, "{report:?}");
    assert_eq!((report.uuid, report.clean), (Some(UUID), true));
    let dirs: Vec<_> = report.logs.iter().map(|log| log.dir.to_str().unwrap()).collect();
    assert_eq!(dirs, ["meta", "topics/9/1", "topics/10/0"]);
    let log = &report.logs[2];
    assert!(log.segments.len() > 2);
    assert_eq!(log.segments.iter().map(|segment| segment.records).sum::<u64>(), 60);
    assert_eq!(log.end, Offset::new(60).unwrap());
    assert_eq!(log.proven_end, log.end, "the mark proves it");
    assert_eq!(log.segments[0].times_ms.unwrap().0, 100);
    assert!(disk.ops()[before as usize..].iter().all(|op| !op.kind.changes()));
}

#[test]
fn a_running_broker_keeps_the_check_out_and_a_stopped_one_does_not() {
    let disk = directory();
    assert!(lock_stopped(&disk).unwrap().is_some());
    let running = DataDir::open(disk.storage(), DataDirOptions { new_uuid: UUID, reserve_bytes: 0 }).unwrap();
    assert!(matches!(lock_stopped(&disk), Err(DataDirError::InUse { .. })));
    drop(running);
    let empty = SimDisk::new();
    assert!(lock_stopped(&empty).unwrap().is_none());
    assert!(empty.files().is_empty(), "a check makes no lock file");
}

#[test]
fn segments_are_listed_with_their_files() {
    let disk = directory();
    let listing = list_segments(&disk, Path::new("topics/10/0")).unwrap();
    assert!(listing.windows(2).all(|pair| pair[0].base < pair[1].base));
    let (last, sealed) = listing.split_last().unwrap();
    assert!(sealed.iter().all(|segment| segment.index_bytes.is_some() && segment.time_index_bytes.is_some()));
    assert!(last.log_bytes > 0);
}

#[test]
fn a_dump_shows_frames_marks_damage_and_space() {
    let disk = directory();
    let listing = list_segments(&disk, Path::new("topics/9/1")).unwrap();
    let file = &listing[0].file;
    let name = file.to_str().unwrap();
    let mut bytes = disk.bytes_of(name);
    let mut seen = Vec::new();
    dump(&disk, file, &mut |position, dumped| {
        seen.push((position, dumped));
        true
    })
    .unwrap();
    assert_eq!(seen.len(), 4, "three frames and a mark: {seen:?}");
    let Dumped::Frame { header, extensions, batch } = &seen[1].1 else { panic!("{:?}", seen[1]) };
    assert_eq!((header.base_offset.get(), &extensions[..], batch.len()), (5, &b"ext"[..], 166));
    let hit = usize::try_from(seen[1].0.0).unwrap();
    bytes[hit + 20] ^= 1;
    bytes.extend_from_slice(&[0; 64]);
    disk.put_file(name, bytes);
    let mut kinds = Vec::new();
    dump(&disk, file, &mut |_, dumped| {
        kinds.push(match dumped {
            Dumped::Frame { header, .. } if header.mark => "mark",
            Dumped::Frame { .. } => "frame",
            Dumped::Bad { .. } => "bad",
            Dumped::Space { bytes: 64 } => "space",
            Dumped::Space { .. } => "other space",
        });
        true
    })
    .unwrap();
    assert_eq!(kinds, ["frame", "bad", "frame", "mark", "space"]);
}

#[test]
fn c_3_damage_below_the_proven_end_and_a_torn_tail_are_told_apart() {
    let disk = directory();
    let listing = list_segments(&disk, Path::new("topics/9/1")).unwrap();
    let name = listing[0].file.to_str().unwrap();
    let good = disk.bytes_of(name);
    // A tail that a crash has cut short: half a frame behind the mark.
    let mut torn = good.clone();
    torn.extend_from_slice(&good[88..200]);
    disk.put_file(name, torn);
    let report = verify_log(&disk, Path::new("topics/9/1")).unwrap();
    assert_eq!(report.grade(), Some(Grade::TornTail), "{:?}", report.findings);
    // The same bytes gone from the middle.
    disk.flip(name, 100, 1);
    let report = verify_log(&disk, Path::new("topics/9/1")).unwrap();
    assert_eq!(report.grade(), Some(Grade::Damage));
    let lost = report.findings.iter().find_map(|finding| finding.lost).unwrap();
    assert_eq!((lost.from.get(), lost.to.get()), (0, 5), "exactly its own records");
}

#[test]
fn s_2_a_log_in_the_wrong_place_or_of_another_directory_is_found() {
    let disk = directory();
    make_log(&disk, "topics/11/0", identity(10, 0), 2);
    let foreign = LogIdentity { data_dir: [6; 16], ..identity(12, 0) };
    make_log(&disk, "topics/12/0", foreign, 2);
    let report = verify_all(&disk).unwrap();
    let text = |at: usize| report.logs[at].findings.iter().map(|finding| finding.what.as_str()).collect::<Vec<_>>();
    assert_eq!(text(3), ["its segments belong to topics/10/0"]);
    assert_eq!(text(4), ["its segments are of another data directory"]);
}

#[test]
fn a_damaged_small_file_is_found_and_is_no_loss() {
    let disk = directory();
    disk.flip("FORMAT", 20, 1);
    disk.flip("CLEAN", 20, 1);
    let report = verify_all(&disk).unwrap();
    assert_eq!((report.uuid, report.clean, report.grade()), (Some(UUID), false, Some(Grade::Rebuildable)));
    assert_eq!(report.findings.len(), 2);
}

#[test]
fn a_file_that_cannot_be_read_is_a_finding_and_the_check_goes_on() {
    use crate::log::storage::sim_disk::{Effect, Fault, OpKind};
    let disk = directory();
    let listing = list_segments(&disk, Path::new("topics/10/0")).unwrap();
    disk.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::Read],
        path_contains: listing[1].file.to_str().unwrap().to_owned(),
        effect: Effect::Errno(libc::EIO),
        forever: true,
    });
    let report = verify_all(&disk).unwrap();
    assert_eq!(report.grade(), Some(Grade::Damage));
    assert_eq!(report.logs[2].segments.len(), listing.len() - 1);
}

#[test]
fn stray_files_in_a_log_directory_are_left_alone() {
    let disk = directory();
    disk.put_file("topics/9/1/producers.snapshot", vec![1, 2, 3]);
    assert_eq!(verify_log(&disk, Path::new("topics/9/1")).unwrap().grade(), None);
}
