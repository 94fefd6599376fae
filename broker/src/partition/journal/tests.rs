use bytes::{BufMut, BytesMut};

use super::*;
use crate::log::LogIdentity;
use crate::log::storage::SimDisk;
use crate::log::storage::sim_disk::{Effect, Fault, OpKind};
use crate::model::{PartitionId, TopicId, TopicUuid};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn spec(disk: &SimDisk) -> JournalSpec {
    let identity = LogIdentity {
        data_dir: [3; 16],
        topic_uuid: TopicUuid([0; 16]),
        topic_id: TopicId(0),
        partition: PartitionId(0),
    };
    let mut log = LogEnvironment::new(disk.storage(), PathBuf::from("meta"), identity, 5);
    log.settings.allocation_step_bytes = 0;
    JournalSpec { log, proven_end: Offset::ZERO, clean_end: None, may_create: true }
}

fn open(disk: &SimDisk) -> (Journal, Replayed) {
    Journal::open(spec(disk)).expect("the disk is well")
}

fn payload(number: u64) -> Bytes {
    Bytes::from(format!("change {number}"))
}

/// A state is the numbers of the changes in it; its snapshot is one part for each.
fn parts(until: u64) -> Vec<Bytes> {
    (1..=until).map(payload).collect()
}

fn append(journal: &mut Journal, number: u64) {
    journal.append(&[payload(number)], 1_000).expect("the disk is well");
}

/// Everything that the replay says, snapshot first.
fn state(replayed: &Replayed) -> Vec<Bytes> {
    replayed.snapshot.iter().chain(&replayed.records).cloned().collect()
}

/// Two snapshots, with records before, between and after them: changes 1 to 5.
fn filled(disk: &SimDisk) -> Journal {
    let (mut journal, _) = open(disk);
    append(&mut journal, 1);
    append(&mut journal, 2);
    journal.snapshot(&parts(2), 1_000).expect("the disk is well");
    append(&mut journal, 3);
    append(&mut journal, 4);
    journal.snapshot(&parts(4), 1_000).expect("the disk is well");
    append(&mut journal, 5);
    journal
}

fn log_files(disk: &SimDisk) -> Vec<String> {
    let mut files: Vec<_> = disk.files().into_iter().filter(|path| path.ends_with(".log")).collect();
    files.sort();
    files
}

#[test]
fn a_journal_comes_back_with_its_newest_snapshot_and_the_records_after_it() {
    let disk = SimDisk::new();
    drop(filled(&disk));
    let (mut journal, replayed) = open(&disk);
    assert_eq!(replayed.damage, None);
    assert_eq!(replayed.snapshot, parts(4));
    assert_eq!(replayed.records, [payload(5)]);
    assert_eq!(journal.last_sequence(), 5);
    append(&mut journal, 6);
    drop(journal);
    assert_eq!(state(&open(&disk).1), parts(6));
}

#[test]
fn g_6_what_precedes_the_two_newest_snapshots_goes() {
    let disk = SimDisk::new();
    let mut journal = filled(&disk);
    for number in 6..40 {
        append(&mut journal, number);
        journal.snapshot(&parts(number), 1_000).expect("the disk is well");
    }
    assert!(log_files(&disk).len() <= 3, "{:?}", log_files(&disk));
    drop(journal);
    assert_eq!(state(&open(&disk).1), parts(39));
}

#[test]
fn g_6_older_segments_stay_while_the_newest_snapshot_cannot_be_read_back() {
    let disk = SimDisk::new();
    let mut journal = filled(&disk);
    let before = log_files(&disk);
    append(&mut journal, 6);
    disk.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::Read],
        path_contains: String::new(),
        effect: Effect::Errno(EIO),
        forever: true,
    });
    let failed = journal.snapshot(&parts(6), 1_000);
    assert!(matches!(failed, Err(JournalError::ReadBack { .. })), "{failed:?}");
    disk.clear_faults();
    assert!(before.iter().all(|file| log_files(&disk).contains(file)));
    append(&mut journal, 7);
    drop(journal);
    let (_, replayed) = open(&disk);
    assert_eq!(replayed.damage, None);
    assert_eq!(state(&replayed), parts(7));
}

#[test]
fn g_6_a_damaged_snapshot_falls_back_to_the_one_before() {
    let disk = SimDisk::new();
    let end = filled(&disk).durable_end();
    let newest = log_files(&disk).pop().expect("there are files");
    let len = disk.bytes_of(&newest).len() as u64;
    let mut fell_back = 0;
    for byte in 0..len {
        let damaged = disk.kill();
        damaged.flip(&newest, byte, 0x10);
        // No frame behind the last record proves it yet; here the checkpoint does.
        let spec = JournalSpec { proven_end: end, ..spec(&damaged) };
        let (_, replayed) = Journal::open(spec).expect("the disk is well");
        let found = state(&replayed);
        if found == parts(5) {
            assert_eq!(replayed.damage, None, "byte {byte}");
            fell_back += u64::from(replayed.snapshot == parts(2));
        } else {
            // Only the newest record itself, which no snapshot holds yet, can be lost by one flip, and it is told.
            assert_eq!(found, parts(4), "byte {byte}");
            assert!(replayed.damage.is_some(), "byte {byte}");
        }
    }
    assert!(fell_back > len / 3, "{fell_back} of {len}");
}

#[test]
fn g_6_any_flip_once_a_snapshot_holds_the_last_change_costs_nothing() {
    let disk = SimDisk::new();
    let mut journal = filled(&disk);
    journal.snapshot(&parts(5), 1_000).expect("the disk is well");
    let end = journal.close(1_000).expect("the disk is well");
    drop(journal);
    for file in log_files(&disk) {
        for byte in (0..disk.bytes_of(&file).len() as u64).step_by(3) {
            let damaged = disk.kill();
            damaged.flip(&file, byte, 0x01);
            let spec = JournalSpec { proven_end: end, clean_end: Some(end), ..spec(&damaged) };
            let (_, replayed) = Journal::open(spec).expect("the disk is well");
            assert_eq!(state(&replayed), parts(5), "byte {byte} of {file}");
            assert_eq!(replayed.damage, None, "byte {byte} of {file}");
        }
    }
}

#[test]
fn g_6_damage_in_what_must_be_replayed_is_told_and_keeps_what_came_before() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk);
    for number in 1..=9 {
        append(&mut journal, number);
    }
    drop(journal);
    let file = log_files(&disk).pop().expect("there is a file");
    let bytes = disk.bytes_of(&file);
    let needle = b"change 5";
    let at = bytes.windows(needle.len()).position(|window| window == needle).expect("it is stored as it is");
    disk.flip(&file, at as u64, 0x40);
    let (_, replayed) = open(&disk);
    assert_eq!(state(&replayed), parts(4));
    let damage = replayed.damage.expect("a record is lost");
    assert_eq!((damage.first_bad.get(), damage.last_good_sequence), (4, 4));
    assert_eq!(replayed.left_out, (6..=9).map(payload).collect::<Vec<_>>());
}

#[test]
fn g_6_a_repair_goes_back_to_the_last_good_state_and_reuses_no_number() {
    let disk = SimDisk::new();
    let (mut journal, _) = open(&disk);
    for number in 1..=9 {
        append(&mut journal, number);
    }
    drop(journal);
    let file = log_files(&disk).pop().expect("there is a file");
    let bytes = disk.bytes_of(&file);
    let at = bytes.windows(8).position(|window| window == b"change 5").expect("it is stored as it is");
    disk.flip(&file, at as u64, 0x40);
    let (mut journal, replayed) = open(&disk);
    journal.snapshot(&state(&replayed), 1_000).expect("the disk is well");
    assert_eq!(journal.last_sequence(), 9);
    append(&mut journal, 10);
    drop(journal);
    let (_, replayed) = open(&disk);
    assert_eq!(replayed.damage, None);
    assert_eq!(replayed.snapshot, parts(4));
    assert_eq!(replayed.records, [payload(10)]);
}

#[test]
fn files_that_are_gone_altogether_are_damage_unless_nothing_can_have_been_there() {
    let disk = SimDisk::new();
    let spec = JournalSpec { may_create: false, ..spec(&disk) };
    let (_, replayed) = Journal::open(spec).expect("the disk is well");
    assert!(replayed.damage.is_some());
    let (_, replayed) = open(&SimDisk::new());
    assert_eq!(replayed.damage, None);
}

#[test]
fn f_1_a_failed_sync_stops_the_journal_until_the_next_start() {
    let disk = SimDisk::new();
    let mut journal = filled(&disk);
    disk.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::Sync],
        path_contains: "meta".into(),
        effect: Effect::Errno(EIO),
        forever: false,
    });
    assert!(matches!(journal.append(&[payload(6)], 1_000), Err(JournalError::Stopped { .. })));
    // The fault is gone, and a retried sync would lie.
    assert!(matches!(journal.append(&[payload(7)], 1_000), Err(JournalError::Stopped { .. })));
    assert!(matches!(journal.snapshot(&parts(5), 1_000), Err(JournalError::Stopped { .. })));
    assert!(journal.close(1_000).is_err());
    drop(journal);
    let (mut journal, replayed) = open(&disk.crash(1));
    let found = state(&replayed);
    assert!(found == parts(5) || found == parts(6), "{found:?}");
    append(&mut journal, 9);
}

#[test]
fn f_2_a_refused_write_leaves_nothing_and_the_journal_goes_on() {
    let disk = SimDisk::new();
    let mut journal = filled(&disk);
    for effect in [Effect::Errno(ENOSPC), Effect::Errno(EIO)] {
        disk.inject(Fault {
            from_op: 0,
            kinds: vec![OpKind::Write],
            path_contains: "meta".into(),
            effect,
            forever: false,
        });
        let refused = journal.append(&[Bytes::from_static(b"refused")], 1_000);
        assert!(matches!(refused, Err(JournalError::Refused { .. })), "{refused:?}");
    }
    append(&mut journal, 6);
    drop(journal);
    assert_eq!(state(&open(&disk).1), parts(6));
}

#[test]
fn d_1_a_power_loss_at_any_step_keeps_every_answered_change() {
    let disk = SimDisk::new();
    disk.record_images();
    let (mut journal, _) = open(&disk);
    // After how many calls each change had been answered.
    let mut answered = Vec::new();
    for number in 1..=6 {
        append(&mut journal, number);
        answered.push(disk.op_count());
        if number % 2 == 0 {
            journal.snapshot(&parts(number), 1_000).expect("the disk is well");
        }
    }
    drop(journal);
    for (index, image) in disk.take_images().iter().enumerate() {
        for seed in 0..4 {
            let crashed = image.crash(seed);
            let (_, replayed) = open(&crashed);
            let found = state(&replayed);
            let least = answered.iter().filter(|op| **op <= image.ops).count();
            assert_eq!(replayed.damage, None, "image {index}, seed {seed}");
            assert_eq!(found, parts(found.len() as u64), "image {index}, seed {seed}");
            assert!(found.len() >= least, "image {index}, seed {seed}: {} of {least}", found.len());
            // A second start, after a second power loss, comes to the same end.
            let (_, again) = open(&crashed.crash(seed + 7));
            assert_eq!(state(&again), found, "image {index}, seed {seed}");
        }
    }
}

#[test]
fn g_6_a_snapshot_whose_parts_are_not_those_that_its_end_vouches_for_is_bad() {
    for forged in [&["change 1", "change 2"][..], &["change 1"], &["change 2", "change 1"]] {
        let disk = SimDisk::new();
        let (mut journal, _) = open(&disk);
        append(&mut journal, 1);
        append(&mut journal, 2);
        journal.roll().expect("the disk is well");
        let mut summary = BytesMut::new();
        summary.put_u32(2);
        summary.put_u32(crc32fast::hash(b"change 1change 2"));
        let kinds = [Kind::SnapshotStart].into_iter().chain(forged.iter().map(|_| Kind::SnapshotPart));
        let payloads = [&summary[..]].into_iter().chain(forged.iter().map(|part| part.as_bytes()));
        for (kind, payload) in kinds.zip(payloads).chain([(Kind::SnapshotEnd, &summary[..])]) {
            push(&mut journal.builder, kind, 2, payload);
            let draft = journal.draft(journal.log.end(), 1_000);
            journal.write(&[draft]).expect("the disk is well");
        }
        drop(journal);
        let (_, replayed) = open(&disk);
        assert_eq!(replayed.damage, None);
        assert_eq!(state(&replayed), parts(2), "{forged:?}");
        assert_eq!(replayed.snapshot.is_empty(), forged != ["change 1", "change 2"], "{forged:?}");
    }
}
