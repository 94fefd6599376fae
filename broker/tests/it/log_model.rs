//! A log against a twin that is a list in memory: random appends, syncs, rolls, fences, trims, stops and crashes.
//!
//! The twin knows what was appended, what of it is durable and what readers may see; after each step the log must
//! agree. After a power loss the log may keep any whole prefix that has all durable records (rules D1, D2, D4).

use std::path::PathBuf;

use bytes::Bytes;
use proptest::prelude::*;
use sawlog_broker::log::storage::SimDisk;
use sawlog_broker::log::{
    FrameDraft, LocalLog, LogEnvironment, LogIdentity, LogSettings, ReadMode, ReadRange, RecoveryHint,
};
use sawlog_broker::model::{Offset, PartitionEpoch, PartitionId, TopicId, TopicUuid};

/// One step.
#[derive(Debug, Clone)]
enum Step {
    /// Appends frames of these record counts and body lengths.
    Append(Vec<(u8, u16)>),
    Roll,
    Sync,
    /// Takes a sync, appends, and only then runs it.
    SyncBehind(u16),
    Mark,
    SaveIndex,
    /// Fences and leaves the fence.
    Fence,
    /// Raises the start to so many 255ths of the log.
    Trim(u8),
    CleanStop,
    Kill,
    PowerLoss(u64),
    /// Loses the power while a recovery runs, after so many of its calls.
    PowerLossInRecovery(u64, u8),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        10 => prop::collection::vec((1..9_u8, 20..600_u16), 1..6).prop_map(Step::Append),
        2 => Just(Step::Roll),
        5 => Just(Step::Sync),
        2 => (20..600_u16).prop_map(Step::SyncBehind),
        2 => Just(Step::Mark),
        1 => Just(Step::SaveIndex),
        1 => Just(Step::Fence),
        1 => any::<u8>().prop_map(Step::Trim),
        1 => Just(Step::CleanStop),
        2 => Just(Step::Kill),
        2 => any::<u64>().prop_map(Step::PowerLoss),
        1 => (any::<u64>(), any::<u8>()).prop_map(|(seed, call)| Step::PowerLossInRecovery(seed, call)),
    ]
}

/// A frame that was appended.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Kept {
    base: u64,
    count: u32,
    time_ms: i64,
    epoch: u32,
    body: Bytes,
}

impl Kept {
    fn end(&self) -> u64 {
        self.base + u64::from(self.count)
    }
}

/// The log, and the twin.
struct Twins {
    disk: SimDisk,
    log: LocalLog,
    frames: Vec<Kept>,
    start: u64,
    durable: u64,
    epoch: u32,
    time_ms: i64,
    seed: u64,
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

fn epoch(value: u32) -> PartitionEpoch {
    PartitionEpoch::new(value).expect("small")
}

fn environment(disk: &SimDisk, salt_seed: u64) -> LogEnvironment {
    let identity = LogIdentity {
        data_dir: [3; 16],
        topic_uuid: TopicUuid([4; 16]),
        topic_id: TopicId(8),
        partition: PartitionId(2),
    };
    let settings = LogSettings { segment_bytes: 6 << 10, index_interval_bytes: 700, allocation_step_bytes: 0 };
    LogEnvironment { settings, ..LogEnvironment::new(disk.storage(), PathBuf::from("topics/8/2"), identity, salt_seed) }
}

impl Twins {
    fn new() -> Self {
        let disk = SimDisk::new();
        let log = LocalLog::create(environment(&disk, 1), epoch(1)).expect("the disk is well");
        Self { disk, log, frames: Vec::new(), start: 0, durable: 0, epoch: 1, time_ms: 1, seed: 1 }
    }

    fn end(&self) -> u64 {
        self.frames.last().map_or(self.durable, Kept::end)
    }

    fn run(&mut self, step: &Step) {
        match step {
            Step::Append(shapes) => self.append(shapes),
            Step::Roll => {
                self.log.roll().expect("the disk is well");
                self.durable = self.durable.max(self.log.durable_end().get());
            }
            Step::Sync => self.sync(),
            Step::SyncBehind(len) => {
                let pending = self.log.pending_sync();
                let before = self.end();
                let fits = !self.log.must_roll(u64::from(*len) + 200);
                if fits {
                    self.append(&[(1, *len)]);
                }
                if let Some(pending) = pending {
                    pending.run().expect("the disk is well");
                    self.log.note_synced(&pending);
                    self.durable = before;
                }
            }
            Step::Mark => self.log.write_mark(self.time_ms, epoch(self.epoch)).expect("the disk is well"),
            Step::SaveIndex => {
                if let Some(save) = self.log.pending_index_save(1) {
                    save.run().expect("the disk is well");
                }
            }
            Step::Fence => self.fence(),
            Step::Trim(part) => {
                let start = self.start + (self.durable - self.start) * u64::from(*part) / 255;
                self.log.raise_start(offset(start)).expect("the disk is well");
                self.start = start;
            }
            Step::CleanStop => {
                let end = self.log.close(self.time_ms, epoch(self.epoch)).expect("the disk is well");
                assert_eq!(end.get(), self.end());
                self.durable = self.end();
                self.reopen(self.disk.kill(), Some(end), true);
            }
            Step::Kill => self.reopen(self.disk.kill(), None, true),
            Step::PowerLoss(seed) => self.reopen(self.disk.crash(*seed), None, false),
            Step::PowerLossInRecovery(seed, call) => {
                let first = self.disk.crash(*seed);
                first.record_images();
                let hint = self.hint(None);
                LocalLog::open(environment(&first, *seed), &hint).expect("the disk is well");
                let images = first.take_images();
                if let Some(image) = images.get(usize::from(*call) % images.len().max(1)) {
                    self.reopen(image.crash(seed.wrapping_add(1)), None, false);
                } else {
                    self.reopen(first, None, false);
                }
            }
        }
    }

    fn append(&mut self, shapes: &[(u8, u16)]) {
        let mut drafts = Vec::new();
        for (count, len) in shapes {
            self.time_ms += i64::from(*count);
            let base = self.end();
            let body: Bytes = (0..*len).map(|at| (base as u16 * 7 + at) as u8).collect();
            let kept =
                Kept { base, count: u32::from(*count), time_ms: self.time_ms, epoch: self.epoch, body: body.clone() };
            drafts.push(FrameDraft {
                base_offset: offset(base),
                record_count: kept.count,
                append_time_ms: kept.time_ms,
                epoch: epoch(kept.epoch),
                extensions: Bytes::new(),
                batch_head: body.slice(..16),
                batch_rest: body.slice(16..),
            });
            self.frames.push(kept);
        }
        if self.log.must_roll(drafts.iter().map(FrameDraft::frame_bytes).sum()) {
            self.log.roll().expect("the disk is well");
            self.durable = self.log.durable_end().get();
        }
        self.log.append(&drafts).expect("the disk is well");
    }

    fn sync(&mut self) {
        if let Some(pending) = self.log.pending_sync() {
            pending.run().expect("the disk is well");
            self.log.note_synced(&pending);
        }
        self.durable = self.end();
    }

    fn fence(&mut self) {
        self.log.fence("a step of the model");
        self.frames.retain(|frame| frame.end() <= self.durable);
        self.check();
        self.epoch += 1;
        self.log.reopen(epoch(self.epoch)).expect("the disk is well");
    }

    fn hint(&self, clean_end: Option<Offset>) -> RecoveryHint {
        RecoveryHint {
            log_start: offset(self.start),
            // A checkpoint may lag as far as it likes; half the time it says all it may.
            proven_end: offset(if self.seed.is_multiple_of(2) { self.durable } else { self.start }),
            clean_end,
            quarantined: Vec::new(),
            next_epoch: epoch(self.epoch + 1),
        }
    }

    fn reopen(&mut self, disk: SimDisk, clean_end: Option<Offset>, whole: bool) {
        self.seed += 1;
        let (log, report) =
            LocalLog::open(environment(&disk, self.seed), &self.hint(clean_end)).expect("the disk is well");
        assert_eq!(report.quarantined, [], "nothing was damaged");
        assert_eq!(report.clean, clean_end.is_some(), "a clean stop is believed");
        let end = report.end.get();
        assert!(end >= self.durable, "D1: {end} of {} durable", self.durable);
        assert!(!whole || end == self.end(), "D2: kill -9 loses nothing: {end} of {}", self.end());
        self.frames.retain(|frame| frame.end() <= end);
        assert_eq!(end, self.frames.last().map_or(self.durable, Kept::end), "D4: frames are kept whole");
        (self.disk, self.log, self.durable) = (disk, log, end);
        self.epoch += 1;
    }

    /// The log shows what the twin has.
    fn check(&self) {
        let reader = self.log.reader();
        let bounds = reader.bounds();
        assert_eq!((bounds.start.get(), bounds.end.get()), (self.start, self.end()));
        assert_eq!(bounds.durable_end.get(), self.durable);
        let visible: Vec<&Kept> = self.frames.iter().filter(|frame| frame.end() > self.start).collect();
        let mut read = Vec::new();
        let mut next = bounds.start;
        while next < bounds.end {
            let range = ReadRange { from: next, until: bounds.end, max_bytes: 1_500 };
            let run = reader.read(range, ReadMode::Blocking).expect("nothing is damaged");
            assert!(run.next > next, "a read comes forward");
            next = run.next;
            read.extend(run.frames.into_iter().map(|frame| Kept {
                base: frame.base_offset.get(),
                count: frame.record_count,
                time_ms: frame.append_time_ms,
                epoch: frame.epoch.get(),
                body: frame.batch,
            }));
        }
        assert!(read.iter().eq(visible.iter().copied()), "what was appended comes back in order");
        let Some(middle) = visible.get(visible.len() / 2) else { return };
        let first = visible.iter().find(|frame| frame.time_ms >= middle.time_ms).map(|frame| frame.base);
        let found = reader.offset_at_time(middle.time_ms).expect("nothing is damaged");
        assert_eq!(found.map(Offset::get), first.map(|base| base.max(self.start)));
        let before = reader.epoch_before(offset(middle.end())).expect("nothing is damaged");
        assert_eq!(before.map(PartitionEpoch::get), Some(middle.epoch));
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn d1_d2_d4_a_log_and_its_twin_agree_after_every_step(steps in prop::collection::vec(step(), 1..40)) {
        let mut twins = Twins::new();
        for step in &steps {
            twins.run(step);
            twins.check();
        }
    }
}
