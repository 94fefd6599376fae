use super::super::storage::sim_disk::{Effect, OpKind};
use super::super::storage::{OpenMode, SimDisk, Storage};
use super::super::test_support::*;
use super::super::{ReadMode, ReadRange, RecoveryHint};
use super::*;

#[test]
fn what_was_appended_is_read_back() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    let appended = log.append(&[draft(0, 3), draft(3, 1), draft(4, 6)]).expect("well");
    assert_eq!(appended.end, offset(10));
    assert_eq!(log.unsynced_bytes(), appended.bytes);
    let frames = read_all(&log.reader(), 0);
    assert_eq!(offsets(&frames), [0, 3, 4]);
    assert_eq!(frames[2].record_count, 6);
    assert_eq!(frames[2].extensions, vec![4_u8; 5]);
    assert_eq!(frames[2].append_time_ms, 1_004);
    assert_eq!(frames[2].epoch, epoch(1));
    sync(&mut log);
    assert_eq!(log.reader().bounds(), LogBounds { start: offset(0), durable_end: offset(10), end: offset(10) });
    assert_eq!(log.unsynced_bytes(), 0);
    assert!(log.pending_sync().is_none());
}

#[test]
fn many_frames_are_written_with_few_calls() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    let frames: Vec<FrameDraft> = (0..500).map(|base| draft(base, 1)).collect();
    let before = disk.ops().iter().filter(|op| op.kind == OpKind::Write).count();
    log.append(&frames).expect("well");
    let writes = disk.ops().iter().filter(|op| op.kind == OpKind::Write).count() - before;
    assert!(writes <= 3, "500 frames of at most 5 buffers take 3 calls of 1,024 buffers, took {writes}");
    assert_eq!(offsets(&read_all(&log.reader(), 0)).len(), 500);
}

#[test]
fn a_log_rolls_and_reads_across_segments() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 200);
    let segments = log.segments();
    assert!(segments.len() > 5, "small segments: {}", segments.len());
    for pair in segments.windows(2) {
        assert_eq!(pair[0].end, pair[1].base);
        assert!(!pair[0].active && pair[0].bytes <= 4 << 10);
        assert_eq!(pair[0].last_append_time_ms, 999 + pair[0].end.get() as i64);
    }
    let reader = log.reader();
    assert_eq!(offsets(&read_all(&reader, 0)), (0..200).collect::<Vec<_>>());
    for from in 0..200 {
        let range = ReadRange { from: offset(from), until: Offset::MAX, max_bytes: 1 };
        let run = reader.read(range, ReadMode::Blocking).expect("well");
        assert_eq!(offsets(&run.frames), [from]);
    }
}

#[test]
fn f1_a_failed_sync_fences_and_hides_what_it_did_not_cover() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 5);
    sync(&mut log);
    fill(&mut log, 9);
    disk.inject(fault(Effect::Errno(libc::EIO), OpKind::Sync, "", false));
    let first = log.pending_sync().expect("unsynced");
    let second = log.pending_sync().expect("unsynced");
    let error = first.run().expect_err("the device failed");
    let syncs = || disk.ops().iter().filter(|op| op.kind == OpKind::Sync).count();
    let before = syncs();
    second.run().expect_err("all who share a failed sync are told");
    assert_eq!(syncs(), before, "no sync starts after a failed one");
    log.fence(&error.to_string());
    log.note_synced(&second);
    assert_eq!(log.reader().bounds(), LogBounds { start: offset(0), durable_end: offset(5), end: offset(5) });
    assert!(matches!(log.append(&[draft(5, 1)]), Err(AppendError::Fenced { .. })));
    assert!(matches!(log.roll(), Err(AppendError::Fenced { .. })));
    assert!(matches!(log.write_mark(9_000, epoch(1)), Err(AppendError::Fenced { .. })));
    assert!(matches!(log.close(9_000, epoch(1)), Err(AppendError::Fenced { .. })));
    assert_eq!(offsets(&read_all(&log.reader(), 0)), [0, 1, 2, 3, 4]);
}

#[test]
fn f1_an_append_after_an_untold_failed_sync_fences_by_itself() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 3);
    disk.inject(fault(Effect::Errno(libc::EIO), OpKind::Sync, "", false));
    log.pending_sync().expect("unsynced").run().expect_err("the device failed");
    assert!(matches!(log.append(&[draft(3, 1)]), Err(AppendError::Fenced { .. })));
    assert_eq!(log.end(), offset(0));
}

#[test]
fn f1_reopening_begins_a_new_segment_and_epoch_at_the_durable_end() {
    for durable in [0, 4] {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        fill(&mut log, durable);
        sync(&mut log);
        fill(&mut log, 8);
        log.fence("test");
        log.reopen(epoch(2)).expect("the disk is well again");
        assert_eq!(log.end(), offset(durable));
        fill_in(&mut log, durable + 3, 2);
        sync(&mut log);
        let expected: Vec<u64> = (0..durable + 3).collect();
        assert_eq!(offsets(&read_all(&log.reader(), 0)), expected);
        let (log, report) = reopen(&disk.crash(1), &RecoveryHint::default());
        assert_eq!(report.quarantined, []);
        let frames = read_all(&log.reader(), 0);
        assert_eq!(offsets(&frames), expected);
        assert_eq!(frames.last().map(|frame| frame.epoch), Some(epoch(2)));
    }
}

#[test]
fn f2_a_failed_write_leaves_nothing_behind() {
    for effect in [Effect::Errno(libc::ENOSPC), Effect::Errno(libc::EIO)] {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        fill(&mut log, 3);
        disk.inject(fault(effect, OpKind::Write, "", false));
        let error = log.append(&[draft(3, 1), draft(4, 1)]).expect_err("the write failed");
        assert!(matches!(error, AppendError::Write { .. }), "{error}");
        assert_eq!(log.end(), offset(3));
        assert_eq!(log.durable_end(), offset(3), "the cut was synced");
        let (crashed, _) = reopen(&disk.crash(5), &RecoveryHint::default());
        assert_eq!(crashed.end(), offset(3));
        fill(&mut log, 6);
        assert_eq!(offsets(&read_all(&log.reader(), 0)), [0, 1, 2, 3, 4, 5]);
    }
}

#[test]
fn f2_a_short_write_is_continued_once() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    disk.inject(fault(Effect::ShortWrite, OpKind::Write, "", false));
    log.append(&[draft(0, 1), draft(1, 1)]).expect("the rest was written");
    assert_eq!(offsets(&read_all(&log.reader(), 0)), [0, 1]);
}

#[test]
fn f2_a_write_that_is_short_again_is_taken_back() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 2);
    disk.inject(fault(Effect::ShortWrite, OpKind::Write, "", true));
    let error = log.append(&[draft(2, 1), draft(3, 1), draft(4, 1)]).expect_err("short twice");
    assert!(matches!(error, AppendError::Write { .. }), "{error}");
    disk.clear_faults();
    let (crashed, _) = reopen(&disk.crash(3), &RecoveryHint::default());
    assert_eq!(crashed.end(), offset(2));
    fill(&mut log, 4);
    assert_eq!(offsets(&read_all(&log.reader(), 0)), [0, 1, 2, 3]);
}

#[test]
fn f2_a_write_that_cannot_be_taken_back_fences() {
    for kind in [OpKind::SetLen, OpKind::Sync] {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        fill(&mut log, 3);
        sync(&mut log);
        disk.inject(fault(Effect::Errno(libc::EIO), OpKind::Write, "", false));
        disk.inject(fault(Effect::Errno(libc::EIO), kind, "", false));
        let error = log.append(&[draft(3, 1)]).expect_err("the write failed");
        assert!(matches!(error, AppendError::Fenced { .. }), "{error}");
        assert_eq!(log.reader().bounds().end, offset(3));
        log.reopen(epoch(2)).expect("well again");
        fill_in(&mut log, 5, 2);
        assert_eq!(offsets(&read_all(&log.reader(), 0)), [0, 1, 2, 3, 4]);
    }
}

#[test]
fn c3_a_mark_proves_the_end_once_and_lets_the_descriptor_go() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 3);
    sync(&mut log);
    log.write_mark(5_000, epoch(1)).expect("well");
    assert_eq!(log.end(), offset(3));
    let bytes = log.unsynced_bytes();
    assert_eq!(bytes, FRAME_HEADER_BYTES as u64);
    sync(&mut log);
    assert_eq!(log.unsynced_bytes(), 0);
    log.write_mark(6_000, epoch(1)).expect("well");
    assert_eq!(log.unsynced_bytes(), 0, "the end is proven already");
    assert!(log.active.open_gate().is_none(), "an idle log holds no descriptor");
    let mut later = draft(3, 1);
    later.append_time_ms = 7_000;
    log.append(&[later]).expect("well");
    assert_eq!(offsets(&read_all(&log.reader(), 0)), [0, 1, 2, 3]);
}

#[test]
fn d9_a_raised_start_hides_and_removes_what_lies_below() {
    let disk = SimDisk::new();
    let mut log = new_log(&disk);
    fill(&mut log, 100);
    let segments = log.segments();
    let inside = segments[2].base.saturating_add(1);
    log.raise_start(inside).expect("well");
    let reader = log.reader();
    assert_eq!(reader.bounds().start, inside);
    assert_eq!(log.segments()[0].base, segments[2].base);
    let range = ReadRange { from: segments[2].base, until: Offset::MAX, max_bytes: 10 };
    assert!(matches!(reader.read(range, ReadMode::Blocking), Err(super::super::ReadError::OutOfRange { .. })));
    assert!(!disk.exists(log_path(0).as_ref()).expect("well"));
    assert!(disk.exists(log_path(segments[2].base.get()).as_ref()).expect("well"));
    assert_eq!(offsets(&read_all(&reader, inside.get())), (inside.get()..100).collect::<Vec<_>>());
    sync(&mut log);
    let (log, report) = reopen(&disk.crash(9), &RecoveryHint { log_start: inside, ..RecoveryHint::default() });
    assert_eq!(report.quarantined, []);
    assert_eq!(offsets(&read_all(&log.reader(), inside.get())), (inside.get()..100).collect::<Vec<_>>());
}

#[test]
fn a_clean_stop_is_opened_without_a_scan() {
    let disk = SimDisk::new();
    let mut log =
        LocalLog::create(environment_with(&disk, LogSettings { segment_bytes: 4 << 20, ..settings() }), epoch(1))
            .expect("well");
    fill(&mut log, 4_000);
    let end = log.close(9_000, epoch(1)).expect("well");
    drop(log);
    let hint = RecoveryHint { proven_end: end, clean_end: Some(end), ..RecoveryHint::default() };
    let (mut log, report) = reopen(&disk, &hint);
    assert!(report.clean);
    assert!(report.scanned_bytes <= 300 * 1024, "scanned {}", report.scanned_bytes);
    assert_eq!(log.segments().len(), 1);
    assert_eq!(read_all(&log.reader(), 0).len(), 4_000);
    let mut later = draft(4_000, 1);
    later.append_time_ms = 9_000;
    log.append(&[later]).expect("well");
    assert_eq!(log.end(), offset(4_001));
}

#[test]
fn s4_an_index_on_disk_bounds_the_scan() {
    let disk = SimDisk::new();
    let settings = LogSettings { segment_bytes: 4 << 20, ..settings() };
    let mut log = LocalLog::create(environment_with(&disk, settings), epoch(1)).expect("well");
    fill(&mut log, 9_000);
    sync(&mut log);
    let save = log.pending_index_save(1).expect("not saved yet");
    save.run().expect("well");
    assert!(log.pending_index_save(1).is_none());
    fill(&mut log, 9_100);
    sync(&mut log);
    let hint = RecoveryHint { proven_end: save.end(), ..RecoveryHint::default() };
    let (log, report) = LocalLog::open(environment_with(&disk.kill(), settings), &hint).expect("well");
    assert_eq!(log.end(), offset(9_100));
    assert!(report.scanned_bytes < 40_000, "scanned {}", report.scanned_bytes);
    assert_eq!(read_all(&log.reader(), 0).len(), 9_100);
}

#[test]
fn space_is_allocated_in_steps_and_given_back() {
    let disk = SimDisk::new();
    let settings = LogSettings { segment_bytes: 64 << 20, index_interval_bytes: 4_096, allocation_step_bytes: 1 << 20 };
    let environment = environment_with(&disk, settings);
    let budget = environment.ahead.clone();
    let mut log = LocalLog::create(environment, epoch(1)).expect("well");
    let big = |base: u64| FrameDraft {
        batch_rest: bytes::Bytes::from(vec![base as u8; 200 << 10]),
        append_time_ms: 100 * base as i64,
        ..draft(base, 1)
    };
    let length = || disk.open(log_path(0).as_ref(), OpenMode::Read).expect("there").len().expect("well");
    for base in 0..4 {
        log.append(&[big(base)]).expect("well");
    }
    assert_eq!(length(), log.size_bytes(), "nothing is allocated below 1 MiB");
    for base in 4..9 {
        log.append(&[big(base)]).expect("well");
    }
    assert!(length() > log.size_bytes(), "zeros lie ahead of a slow log");
    assert!(!budget.take((1 << 30) - 1), "the step is taken out of the budget");
    sync(&mut log);
    let (killed, report) =
        LocalLog::open(environment_with(&disk.kill(), settings), &RecoveryHint::default()).expect("well");
    assert_eq!((killed.end(), report.dropped_bytes), (offset(9), 0), "zeros are no torn tail");
    log.write_mark(1_000, epoch(1)).expect("well");
    assert_eq!(length(), log.size_bytes(), "a mark gives the space back");
    assert!(budget.take(1 << 30), "and the budget");
}

#[test]
fn d7_a_failed_creation_leaves_the_log_going_on_or_fenced() {
    for (kind, path, fenced) in [
        (OpKind::Create, "0010.log", false),
        (OpKind::Write, "0010.log", false),
        (OpKind::Sync, "0010.log", true),
        (OpKind::SyncDir, "topics/3/1", true),
    ] {
        let disk = SimDisk::new();
        let mut log = new_log(&disk);
        fill(&mut log, 10);
        disk.inject(fault(Effect::Errno(libc::ENOSPC), kind, path, false));
        let error = log.roll().expect_err("the disk is full");
        disk.clear_faults();
        assert_eq!(log.fenced().is_some(), fenced, "{kind:?}: {error}");
        if fenced {
            log.reopen(epoch(2)).expect("well again");
            fill_in(&mut log, 20, 2);
        } else {
            fill(&mut log, 12);
            log.roll().expect("well again");
            fill(&mut log, 20);
        }
        sync(&mut log);
        assert_eq!(read_all(&log.reader(), 0).len(), 20);
        let (log, report) = reopen(&disk.crash(2), &RecoveryHint::default());
        assert_eq!(report.quarantined, []);
        assert_eq!(read_all(&log.reader(), 0).len(), 20);
    }
}

#[test]
fn c1_every_segment_has_a_salt_of_its_own() {
    let (one, mut other) = (identity(), identity());
    other.partition = crate::model::PartitionId(2);
    let mut seen = std::collections::HashSet::new();
    for identity in [one, other] {
        for (first_base, in_epoch) in [(0, 1), (10, 1), (10, 2)] {
            // A log that is opened again with the same seed begins its sequence anew.
            let mut salts = Salts::new(7, &identity);
            assert!(seen.insert(salts.next(offset(first_base), epoch(in_epoch))));
            assert!(seen.insert(salts.next(offset(first_base), epoch(in_epoch))), "nor twice in one sequence");
        }
    }
    assert!(!seen.contains(&0));
}
