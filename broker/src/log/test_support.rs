//! What the unit tests of the log share: a small log on a simulated disk.

use std::path::PathBuf;

use bytes::Bytes;

use super::format::{FileKind, file_name};
use super::storage::SimDisk;
use super::storage::sim_disk::{Effect, Fault, OpKind};
use super::*;
use crate::model::{Offset, PartitionEpoch, PartitionId, TopicId, TopicUuid};

pub(super) fn offset(value: u64) -> Offset {
    Offset::new(value).expect("tests use small offsets")
}

pub(super) fn epoch(value: u32) -> PartitionEpoch {
    PartitionEpoch::new(value).expect("tests use small epochs")
}

pub(super) fn identity() -> LogIdentity {
    LogIdentity { data_dir: [7; 16], topic_uuid: TopicUuid([9; 16]), topic_id: TopicId(3), partition: PartitionId(1) }
}

pub(super) fn dir() -> PathBuf {
    PathBuf::from("topics/3/1")
}

/// Small segments and many index entries, nothing allocated ahead.
pub(super) fn settings() -> LogSettings {
    LogSettings { segment_bytes: 4 << 10, index_interval_bytes: 300, allocation_step_bytes: 0 }
}

pub(super) fn environment(disk: &SimDisk) -> LogEnvironment {
    environment_with(disk, settings())
}

pub(super) fn environment_with(disk: &SimDisk, settings: LogSettings) -> LogEnvironment {
    LogEnvironment { settings, ..LogEnvironment::new(disk.storage(), dir(), identity(), 11) }
}

/// The bytes of the batch whose first record has this offset: of a length and content of its own.
pub(super) fn batch(base: u64) -> Vec<u8> {
    (0..60 + base * 7 % 90).map(|at| (base * 31 + at * 3) as u8).collect()
}

/// A frame of `count` records that continues a log at `base`, in epoch 1, at `1,000 + base` ms.
pub(super) fn draft(base: u64, count: u32) -> FrameDraft {
    draft_in(base, count, 1)
}

pub(super) fn draft_in(base: u64, count: u32, in_epoch: u32) -> FrameDraft {
    let bytes = Bytes::from(batch(base));
    FrameDraft {
        base_offset: offset(base),
        record_count: count,
        append_time_ms: 1_000 * i64::from(in_epoch) + base as i64,
        epoch: epoch(in_epoch),
        extensions: Bytes::from(vec![base as u8; (base % 3) as usize * 5]),
        batch_head: bytes.slice(..16),
        batch_rest: bytes.slice(16..),
    }
}

/// Appends one-record frames up to `until`, rolling as needed.
pub(super) fn fill(log: &mut LocalLog, until: u64) {
    fill_in(log, until, 1);
}

pub(super) fn fill_in(log: &mut LocalLog, until: u64, in_epoch: u32) {
    while log.end().get() < until {
        let frame = draft_in(log.end().get(), 1, in_epoch);
        if log.must_roll(frame.frame_bytes()) {
            log.roll().expect("the disk is well");
        }
        log.append(&[frame]).expect("the disk is well");
    }
}

pub(super) fn sync(log: &mut LocalLog) {
    if let Some(pending) = log.pending_sync() {
        pending.run().expect("the disk is well");
        log.note_synced(&pending);
    }
}

pub(super) fn new_log(disk: &SimDisk) -> LocalLog {
    LocalLog::create(environment(disk), epoch(1)).expect("the disk is well")
}

pub(super) fn reopen(disk: &SimDisk, hint: &RecoveryHint) -> (LocalLog, RecoveryReport) {
    LocalLog::open(environment(disk), hint).expect("the disk is well")
}

/// Reads everything from `from` to the end and checks each frame against what was appended.
pub(super) fn read_all(reader: &LogReader, from: u64) -> Vec<Frame> {
    let mut frames = Vec::new();
    let mut next = offset(from);
    while next < reader.bounds().end {
        let range = ReadRange { from: next, until: Offset::MAX, max_bytes: 700 };
        let run = reader.read(range, ReadMode::Blocking).expect("all is well");
        assert!(run.next > next, "a read comes forward");
        for frame in &run.frames {
            assert_eq!(frame.batch, batch(frame.base_offset.get()), "a batch comes back as it was");
        }
        next = run.next;
        frames.extend(run.frames);
    }
    frames
}

pub(super) fn offsets(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.base_offset.get()).collect()
}

/// The next call of this kind on such a path fails, or all do.
pub(super) fn fault(effect: Effect, kind: OpKind, path_contains: &str, forever: bool) -> Fault {
    Fault { from_op: 0, kinds: vec![kind], path_contains: path_contains.to_owned(), effect, forever }
}

pub(super) fn log_path(base: u64) -> String {
    path(base, FileKind::Log)
}

pub(super) fn path(base: u64, kind: FileKind) -> String {
    dir().join(file_name(offset(base), kind)).to_string_lossy().into_owned()
}
