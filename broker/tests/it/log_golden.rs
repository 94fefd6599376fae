//! The files of format version 1 as they were when it was released: they must read back for ever, and be written
//! the same, byte for byte (row 21 of the test programme).
//!
//! `SAWLOG_WRITE_GOLDEN=1` writes them anew, which only a new format version may need.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sawlog_broker::log::checkpoint::{Checkpoint, CheckpointEntry, CheckpointFile};
use sawlog_broker::log::storage::{Disk, Storage};
use sawlog_broker::log::{
    FrameDraft, LocalLog, LogEnvironment, LogIdentity, LogSettings, ReadMode, ReadRange, RecoveryHint,
};
use sawlog_broker::model::{Offset, PartitionEpoch, PartitionId, TopicId, TopicUuid};

const DATA_DIR: [u8; 16] = [0xD1; 16];
const RECORDS: u64 = 24;
const FILES: [&str; 8] = [
    "topics/5/3/00000000000000000000.log",
    "topics/5/3/00000000000000000000.index",
    "topics/5/3/00000000000000000000.timeindex",
    "topics/5/3/00000000000000000012.log",
    "topics/5/3/00000000000000000012.index",
    "topics/5/3/00000000000000000012.timeindex",
    "topics/5/3/00000000000000000024.log",
    "checkpoint.a",
];

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/golden/v1")
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

fn epoch() -> PartitionEpoch {
    PartitionEpoch::new(6).expect("small")
}

fn environment(storage: Arc<dyn Storage>) -> LogEnvironment {
    let identity = LogIdentity {
        data_dir: DATA_DIR,
        topic_uuid: TopicUuid([0x70; 16]),
        topic_id: TopicId(5),
        partition: PartitionId(3),
    };
    let settings = LogSettings { segment_bytes: 1 << 20, index_interval_bytes: 400, allocation_step_bytes: 0 };
    LogEnvironment { settings, ..LogEnvironment::new(storage, PathBuf::from("topics/5/3"), identity, 2_026) }
}

fn body(base: u64) -> Bytes {
    (0..60 + base * 5).map(|at| (base * 17 + at) as u8).collect()
}

fn draft(base: u64) -> FrameDraft {
    let body = body(base);
    FrameDraft {
        base_offset: offset(base),
        record_count: 2,
        append_time_ms: 1_760_000_000_000 + base as i64 * 500,
        epoch: epoch(),
        extensions: Bytes::from(vec![base as u8; (base % 5) as usize]),
        batch_head: body.slice(..16),
        batch_rest: body.slice(16..),
    }
}

/// Two sealed segments, a mark, an active segment with a mark, and a checkpoint.
fn write(storage: Arc<dyn Storage>) {
    let mut log = LocalLog::create(environment(storage.clone()), epoch()).expect("a fresh directory");
    for base in (0..RECORDS).step_by(2) {
        log.append(&[draft(base)]).expect("the disk is well");
        let sync = log.pending_sync().expect("unsynced");
        sync.run().expect("the disk is well");
        log.note_synced(&sync);
        if base == 4 {
            log.write_mark(draft(base).append_time_ms + 1, epoch()).expect("the disk is well");
        }
        if log.end() == offset(12) || log.end() == offset(RECORDS) {
            log.roll().expect("the disk is well");
        }
    }
    log.close(1_760_000_100_000, epoch()).expect("the disk is well");
    let (mut checkpoint, _) = CheckpointFile::load(storage, DATA_DIR);
    checkpoint.save(entries()).expect("the disk is well");
}

fn entries() -> Vec<CheckpointEntry> {
    let entry = |topic, partition, end| CheckpointEntry {
        topic: TopicId(topic),
        partition: PartitionId(partition),
        proven_end: offset(end),
    };
    vec![entry(0, 0, 7), entry(5, 3, RECORDS), entry(1 << 40, 1_023, 1 << 50)]
}

fn fresh() -> (tempfile::TempDir, Arc<dyn Storage>) {
    let dir = tempfile::tempdir().expect("a temporary directory");
    let disk = Disk::open(dir.path()).expect("it can be opened");
    (dir, Arc::new(disk))
}

#[test]
fn format_1_is_written_byte_for_byte_as_it_was() {
    let (dir, storage) = fresh();
    write(storage);
    for name in FILES {
        let written = std::fs::read(dir.path().join(name)).expect(name);
        let golden = golden_dir().join(name.replace('/', "_"));
        if std::env::var_os("SAWLOG_WRITE_GOLDEN").is_some() {
            std::fs::create_dir_all(golden_dir()).expect("it can be made");
            std::fs::write(&golden, &written).expect("it can be written");
        }
        let expected = std::fs::read(&golden).expect("the golden files are checked in");
        assert!(written == expected, "{name} is not what format version 1 has");
    }
}

#[test]
fn format_1_reads_back() {
    let (dir, storage) = fresh();
    std::fs::create_dir_all(dir.path().join("topics/5/3")).expect("it can be made");
    for name in FILES {
        std::fs::copy(golden_dir().join(name.replace('/', "_")), dir.path().join(name)).expect(name);
    }
    let checkpoint = CheckpointFile::load(storage.clone(), DATA_DIR).1.expect("the checkpoint is good");
    assert_eq!(checkpoint, Checkpoint::new(1, entries()));
    let proven_end = checkpoint.proven_end(TopicId(5), PartitionId(3)).expect("named");
    for clean_end in [None, Some(offset(RECORDS))] {
        let hint = RecoveryHint { proven_end, clean_end, ..RecoveryHint::default() };
        let (log, report) = LocalLog::open(environment(storage.clone()), &hint).expect("good files");
        assert_eq!((report.end, report.quarantined, report.dropped_bytes), (offset(RECORDS), vec![], 0));
        assert_eq!(report.clean, clean_end.is_some());
        let reader = log.reader();
        for base in (0..RECORDS).step_by(2) {
            let range = ReadRange { from: offset(base), until: Offset::MAX, max_bytes: 1 };
            let run = reader.read(range, ReadMode::Blocking).expect("good files");
            let (frame, expected) = (&run.frames[0], draft(base));
            assert_eq!((frame.base_offset, frame.record_count, frame.epoch), (offset(base), 2, epoch()));
            assert_eq!((&frame.batch, &frame.extensions), (&body(base), &expected.extensions));
            let found = reader.offset_at_time(expected.append_time_ms).expect("good files");
            assert_eq!(found, Some(offset(base)));
        }
    }
    for name in FILES {
        let golden = std::fs::read(golden_dir().join(name.replace('/', "_"))).expect(name);
        assert!(std::fs::read(dir.path().join(name)).expect(name) == golden, "{name} was changed by reading it");
    }
}
