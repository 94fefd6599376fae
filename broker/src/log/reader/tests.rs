use super::super::format::{FRAME_HEADER_BYTES, SEGMENT_HEADER_BYTES};
use super::super::frame::FrameDraft;
use super::super::open_files::OpenFiles;
use super::super::storage::SimDisk;
use super::super::storage::sim_disk::{Effect, OpKind};
use super::super::test_support::*;
use super::super::{LocalLog, LogSettings, RecoveryHint};
use super::*;

fn range(from: u64, until: u64, max_bytes: usize) -> ReadRange {
    ReadRange { from: offset(from), until: offset(until), max_bytes }
}

fn read(log: &LocalLog, from: u64, until: u64, max_bytes: usize) -> FrameRun {
    log.reader().read(range(from, until, max_bytes), ReadMode::Blocking).expect("all is well")
}

/// Where the frame with this offset begins in a log of one segment with one-record frames.
fn position(of: u64) -> u64 {
    SEGMENT_HEADER_BYTES as u64 + (0..of).map(|base| draft(base, 1).frame_bytes()).sum::<u64>()
}

#[test]
fn a_run_begins_with_the_frame_that_holds_the_offset() {
    let mut log = new_log(&SimDisk::new());
    log.append(&[draft(0, 5), draft(5, 3), draft(8, 2)]).expect("well");
    for (from, first) in [(0, 0), (4, 0), (5, 5), (7, 5), (8, 8), (9, 8)] {
        assert_eq!(read(&log, from, 10, 1 << 20).frames[0].base_offset, offset(first));
    }
}

#[test]
fn a_run_stops_at_its_bounds() {
    let mut log = new_log(&SimDisk::new());
    log.append(&[draft(0, 5), draft(5, 3), draft(8, 2)]).expect("well");
    let run = read(&log, 0, 9, 1 << 20);
    assert_eq!((offsets(&run.frames), run.next), (vec![0, 5], offset(8)), "no frame that ends later");
    let run = read(&log, 0, 5, 1 << 20);
    assert_eq!((offsets(&run.frames), run.next), (vec![0], offset(5)));
    let run = read(&log, 0, 3, 1 << 20);
    assert_eq!((offsets(&run.frames), run.next), (vec![], offset(0)));
    let run = read(&log, 0, 10, 1);
    assert_eq!((offsets(&run.frames), run.next), (vec![0], offset(5)), "the first frame always comes");
    let run = read(&log, 0, 10, (draft(0, 5).frame_bytes() + draft(5, 3).frame_bytes()) as usize);
    assert_eq!(offsets(&run.frames), [0, 5]);
    assert_eq!(read(&log, 10, 99, 1 << 20).frames.len(), 0, "empty at the end");
    assert!(matches!(log.reader().read(range(11, 99, 1), ReadMode::Blocking), Err(ReadError::OutOfRange { .. })));
}

#[test]
fn a_frame_larger_than_the_bytes_asked_for_comes_whole() {
    let settings = LogSettings { segment_bytes: 64 << 20, ..settings() };
    let mut log = LocalLog::create(environment_with(&SimDisk::new(), settings), epoch(1)).expect("well");
    let large = FrameDraft { batch_rest: Bytes::from(vec![7; 3 << 20]), ..draft(1, 1) };
    log.append(&[draft(0, 1), large.clone(), draft(2, 1)]).expect("well");
    for from in 0..3 {
        let run = read(&log, from, 3, 1_000);
        assert_eq!(offsets(&run.frames), [from]);
    }
    assert_eq!(read(&log, 1, 3, 1_000).frames[0].batch.len(), large.batch_head.len() + large.batch_rest.len());
}

#[test]
fn the_frames_of_a_run_come_from_one_read() {
    let disk = SimDisk::new();
    let settings = LogSettings { segment_bytes: 1 << 20, ..settings() };
    let mut log = LocalLog::create(environment_with(&disk, settings), epoch(1)).expect("well");
    fill(&mut log, 500);
    let before = disk.ops().iter().filter(|op| op.kind == OpKind::Read).count();
    let run = read(&log, 3, 500, 256 << 10);
    let reads = disk.ops().iter().filter(|op| op.kind == OpKind::Read).count() - before;
    assert_eq!((run.frames.len(), reads), (497, 1));
}

#[test]
fn cached_only_reads_touch_memory_alone_and_then_serve_the_same() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 100);
    let reader = log.reader();
    let wanted = range(0, 100, 1_000);
    assert!(matches!(reader.read(wanted, ReadMode::CachedOnly), Err(ReadError::WouldBlock)), "not open yet");
    let cold = reader.read(wanted, ReadMode::Blocking).expect("well");
    let warm = reader.read(wanted, ReadMode::CachedOnly).expect("cached now");
    assert_eq!(offsets(&cold.frames), offsets(&warm.frames));
    let active = log.segments().last().expect("one").base.get();
    let tail = reader.read(range(active, 100, 1_000), ReadMode::CachedOnly).expect("the active one is open");
    assert!(!tail.frames.is_empty());
}

#[test]
fn c5_a_frame_that_fails_is_read_once_more_from_the_device() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 10);
    sync(&mut log);
    for at in [position(4) + 10, position(4) + FRAME_HEADER_BYTES as u64 + 3] {
        disk.flip_reads(&log_path(0), at, 1, 1);
        assert_eq!(offsets(&read(&log, 4, 10, 1 << 20).frames), [4, 5, 6, 7, 8, 9]);
    }
    assert!(disk.ops().iter().any(|op| op.kind == OpKind::DropCache), "from the device");
}

#[test]
fn c2_a_bad_frame_is_never_served_and_says_where_good_ones_begin() {
    for header in [true, false] {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        fill(&mut log, 10);
        sync(&mut log);
        let within = if header { 20 } else { FRAME_HEADER_BYTES as u64 + 1 };
        disk.flip(&log_path(0), position(4) + within, 1);
        assert_eq!(offsets(&read(&log, 0, 10, 1 << 20).frames), [0, 1, 2, 3]);
        let reader = log.reader();
        let error = reader.read(range(4, 10, 1 << 20), ReadMode::Blocking).expect_err("damaged");
        let ReadError::Corrupt(damage) = error else { panic!("{error}") };
        assert_eq!((damage.first_bad, damage.next_good), (offset(4), Some(offset(5))));
        assert_eq!(damage.position.0, position(4));
        assert!(matches!(reader.read(range(4, 10, 1 << 20), ReadMode::CachedOnly), Err(ReadError::WouldBlock)));
        assert_eq!(offsets(&read(&log, 5, 10, 1 << 20).frames), [5, 6, 7, 8, 9]);
        log.quarantine(OffsetRange { from: offset(4), to: offset(5) });
        assert_eq!(reader.damaged_at(offset(4)), Some(OffsetRange { from: offset(4), to: offset(5) }));
        fill(&mut log, 12);
        assert_eq!(offsets(&read(&log, 5, 12, 1 << 20).frames).last(), Some(&11), "appends stay undisturbed");
    }
}

#[test]
fn c5_swapped_frames_are_never_served() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    let equal = |base| FrameDraft { extensions: Bytes::new(), batch_rest: Bytes::from(vec![1; 40]), ..draft(base, 1) };
    log.append(&[equal(0), equal(1), equal(2), equal(3)]).expect("well");
    sync(&mut log);
    let len = equal(0).frame_bytes() as usize;
    let mut bytes = disk.bytes_of(&log_path(0));
    let (first, second) = (SEGMENT_HEADER_BYTES + len, SEGMENT_HEADER_BYTES + 2 * len);
    let swapped: Vec<u8> = bytes[second..second + len].iter().chain(&bytes[first..first + len]).copied().collect();
    bytes[first..first + 2 * len].copy_from_slice(&swapped);
    disk.put_file(&log_path(0), bytes);
    let served: Vec<u64> = (0..4)
        .filter_map(|from| log.reader().read(range(from, 4, 1), ReadMode::Blocking).ok())
        .flat_map(|run| offsets(&run.frames))
        .collect();
    assert!(served.windows(2).all(|pair| pair[0] <= pair[1]), "{served:?}");
    let error = log.reader().read(range(1, 4, 1), ReadMode::Blocking);
    assert!(matches!(error, Ok(FrameRun { ref frames, .. }) if offsets(frames) == [1]) || error.is_err());
}

#[test]
fn f4_an_error_of_the_device_fails_that_read_alone() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 10);
    disk.inject(fault(Effect::Errno(libc::EIO), OpKind::Read, ".log", false));
    let error = log.reader().read(range(0, 10, 100), ReadMode::Blocking).expect_err("the device failed");
    assert!(matches!(error, ReadError::Io { .. }), "{error}");
    assert_eq!(read(&log, 0, 10, 1 << 20).frames.len(), 10);
    fill(&mut log, 11);
}

#[test]
fn c4_a_wrong_index_entry_is_found_out_by_its_frame() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 100);
    sync(&mut log);
    let second = log.segments()[1];
    drop(log);
    // An index with right checksums that points one frame too far, as a defect might leave it.
    let path = path(second.base.get(), FileKind::Index);
    let mut bytes = disk.bytes_of(&path);
    let wrong = draft(second.base.get(), 1).frame_bytes() + SEGMENT_HEADER_BYTES as u64;
    bytes[88..96].copy_from_slice(&wrong.to_le_bytes());
    let entries = crc32fast::hash(&bytes[80..]);
    bytes[68..72].copy_from_slice(&entries.to_le_bytes());
    let header = crc32fast::hash(&bytes[..76]);
    bytes[76..80].copy_from_slice(&header.to_le_bytes());
    disk.put_file(&path, bytes);
    let hint = RecoveryHint { proven_end: offset(100), ..RecoveryHint::default() };
    let (log, _) = reopen(&disk, &hint);
    let from = second.base.get();
    assert_eq!(offsets(&read(&log, from, 100, 1).frames), [from]);
    assert_eq!(read_all(&log.reader(), 0).len(), 100);
}

#[test]
fn of_4_the_first_offset_at_or_after_a_time_is_exact() {
    for times in [vec![5_i64, 5, 5, 9, 9, 20, 20, 21], (0..300).map(|at| 3 * (at / 4)).collect::<Vec<_>>()] {
        let mut log = new_log(&SimDisk::new());
        for (base, time_ms) in times.iter().enumerate() {
            let frame = FrameDraft { append_time_ms: *time_ms, ..draft(base as u64, 1) };
            if log.must_roll(frame.frame_bytes()) {
                log.roll().expect("well");
            }
            log.append(&[frame]).expect("well");
        }
        let reader = log.reader();
        for time_ms in -1..=times.last().expect("some") + 1 {
            let expected = times.iter().position(|time| *time >= time_ms).map(|at| offset(at as u64));
            assert_eq!(reader.offset_at_time(time_ms).expect("well"), expected, "{time_ms}");
        }
        log.raise_start(offset(3)).expect("well");
        assert_eq!(reader.offset_at_time(0).expect("well"), Some(offset(3)));
    }
}

#[test]
fn d3_the_epoch_before_an_offset_is_that_of_its_frame() {
    let mut log = new_log(&SimDisk::new());
    fill(&mut log, 30);
    fill_in(&mut log, 60, 3);
    let reader = log.reader();
    assert_eq!(reader.epoch_before(offset(0)).expect("well"), None);
    for at in 1..=60 {
        let expected = if at <= 30 { 1 } else { 3 };
        assert_eq!(reader.epoch_before(offset(at)).expect("well"), Some(epoch(expected)), "{at}");
    }
    assert!(matches!(reader.epoch_before(offset(61)), Err(ReadError::OutOfRange { .. })));
}

#[test]
fn f5_open_files_stay_bounded() {
    let disk = SimDisk::new();
    let mut environment = environment(&disk);
    environment.open_files = std::sync::Arc::new(OpenFiles::new(3));
    let files = environment.open_files.clone();
    let mut log = LocalLog::create(environment, epoch(1)).expect("well");
    fill(&mut log, 300);
    assert!(log.segments().len() > 10);
    for _ in 0..2 {
        assert_eq!(read_all(&log.reader(), 0).len(), 300);
        assert!(files.len() <= 3, "{}", files.len());
    }
}

#[test]
fn c6_an_index_is_mapped_only_after_a_plain_read_of_it() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 100);
    let index = path(0, FileKind::Index);
    let before = disk.op_count();
    read(&log, 0, 5, 100);
    let kinds: Vec<OpKind> = disk
        .ops()
        .into_iter()
        .filter(|op| op.index >= before && op.path.ends_with(&index))
        .map(|op| op.kind)
        .filter(|kind| matches!(kind, OpKind::Read | OpKind::Map))
        .collect();
    assert_eq!(kinds, [OpKind::Read, OpKind::Map]);
    let active = log.segments().last().expect("one").base.get();
    read(&log, active, 100, 100);
    let mapped = |kind| disk.ops().iter().any(|op| op.kind == OpKind::Map && op.path.ends_with(path(active, kind)));
    assert!(!mapped(FileKind::Log) && !mapped(FileKind::Index), "nothing of the active segment is mapped");
}
