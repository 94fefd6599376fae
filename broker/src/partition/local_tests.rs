//! The local engine over the real log on the simulated disk: open, crash, fence, read, trim, close.

use std::path::PathBuf;

use sawlog_proto::batch::{BatchBuilder, BatchHeader, Codec, ProducerStamp, records};

use super::super::Truncation;
use super::super::environment::Birth;
use super::*;
use crate::clock::{Clock, ManualClock};
use crate::log::sabotage::Sabotage;
use crate::log::storage::SimDisk;
use crate::log::storage::sim_disk::{Effect, Fault, OpKind};
use crate::log::{LogEnvironment, LogIdentity, ReadError, RecoveryHint};
use crate::metrics::{Metrics, PartitionMetrics};
use crate::model::{PartitionId, TopicId, TopicUuid};
use crate::partition::{DiskGate, PartitionLedger, PartitionState, RequestStamp};

const NAME: PartitionRef = PartitionRef { topic: TopicId(3), partition: PartitionId(1) };

/// The layer above, in memory; survives crashes as a synced metadata log would.
#[derive(Debug, Default)]
struct Ledger {
    kept: Mutex<Kept>,
}

#[derive(Debug, Default, Clone)]
struct Kept {
    epoch: u32,
    quarantined: Vec<OffsetRange>,
    truncations: Vec<Truncation>,
    start: Offset,
}

impl PartitionLedger for Ledger {
    fn new_epoch(&self, partition: PartitionRef) -> Result<PartitionEpoch, LedgerError> {
        assert_eq!(partition, NAME);
        let mut kept = self.kept.lock();
        kept.epoch += 1;
        Ok(PartitionEpoch::new(kept.epoch).expect("few epochs"))
    }
    fn record_quarantine(&self, _partition: PartitionRef, ranges: &[OffsetRange]) -> Result<(), LedgerError> {
        self.kept.lock().quarantined.extend_from_slice(ranges);
        Ok(())
    }
    fn record_truncation(&self, _partition: PartitionRef, truncation: Truncation) -> Result<(), LedgerError> {
        self.kept.lock().truncations.push(truncation);
        Ok(())
    }
    fn record_start(&self, _partition: PartitionRef, start: Offset) -> Result<(), LedgerError> {
        self.kept.lock().start = start;
        Ok(())
    }
}

/// A partition with all that it stands on.
struct World {
    disk: SimDisk,
    clock: Arc<ManualClock>,
    ledger: Arc<Ledger>,
    gate: Arc<DiskGate>,
    settings: PartitionSettings,
    partition: Arc<Partition>,
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("a small number is an offset")
}

fn settings() -> PartitionSettings {
    PartitionSettings { segment_bytes: 2 << 10, ..PartitionSettings::default() }
}

fn written() -> PartitionSettings {
    PartitionSettings { ack_floor: AckLevel::Written, ..settings() }
}

fn spec(disk: &SimDisk, settings: PartitionSettings, birth: Birth) -> PartitionSpec {
    let identity = LogIdentity {
        data_dir: [7; 16],
        topic_uuid: TopicUuid([9; 16]),
        topic_id: NAME.topic,
        partition: NAME.partition,
    };
    let mut log = LogEnvironment::new(disk.storage(), PathBuf::from("topics/3/1"), identity, 11);
    log.settings =
        LogSettings { segment_bytes: settings.segment_bytes, index_interval_bytes: 300, allocation_step_bytes: 0 };
    PartitionSpec { log, settings, birth }
}

impl World {
    fn new(settings: PartitionSettings) -> Self {
        let disk = SimDisk::new();
        disk.storage().create_dir_all("topics/3/1".as_ref()).expect("the disk is well");
        for dir in ["", "topics", "topics/3"] {
            disk.storage().sync_dir(dir.as_ref()).expect("the disk is well");
        }
        Self::on(disk, settings)
    }

    fn on(disk: SimDisk, settings: PartitionSettings) -> Self {
        let (clock, ledger) = (Arc::new(ManualClock::new(1_000_000)), Arc::new(Ledger::default()));
        let gate = Arc::new(DiskGate::default());
        let birth = Birth::New { epoch: PartitionEpoch::ZERO };
        let environment = environment(&clock, &ledger, &gate);
        let (partition, _) = Partition::open(spec(&disk, settings, birth), environment).expect("it is new");
        Self { disk, clock, ledger, gate, settings, partition }
    }

    /// The partition as a start finds it on `disk`: after a clean stop that ended at `clean_end`, or else.
    fn start(&self, disk: SimDisk, clean_end: Option<Offset>) -> Self {
        self.start_with(disk, clean_end, Offset::ZERO)
    }

    fn start_with(&self, disk: SimDisk, clean_end: Option<Offset>, proven_end: Offset) -> Self {
        let kept = self.ledger.kept.lock().clone();
        let hint = RecoveryHint {
            log_start: kept.start,
            proven_end,
            clean_end,
            quarantined: kept.quarantined.clone(),
            next_epoch: PartitionEpoch::new(kept.epoch).expect("few epochs"),
        };
        let birth = Birth::Existing { hint, last_truncation: kept.truncations.last().copied() };
        let ledger = Arc::new(Ledger { kept: Mutex::new(kept) });
        let environment = environment(&self.clock, &ledger, &self.gate);
        let opened = Partition::open(spec(&disk, self.settings, birth), environment);
        let (partition, _) = opened.expect("what a crash leaves can be opened");
        let (clock, gate) = (Arc::clone(&self.clock), Arc::clone(&self.gate));
        Self { disk, clock, ledger, gate, settings: self.settings, partition }
    }

    fn append(&self, batch: CheckedBatch, level: AckLevel) -> Result<AppendAck, AppendFailure> {
        block_on(self.partition.append(batch, level, Permit::default()))
    }

    fn fill(&self, records: u64) {
        for _ in 0..records {
            let value = self.partition.status().log_end.get();
            self.append(numbered(value, None), self.settings.ack_floor).expect("the disk is well");
        }
    }

    /// All that readers see, with what stands in each record.
    fn values(&self) -> Vec<(u64, u64)> {
        let mut found = Vec::new();
        let mut next = self.partition.log_start();
        while next < self.partition.high_watermark() {
            let run = block_on(self.partition.read(next, 500)).expect("nothing is damaged");
            for frame in &run.frames {
                let base = frame.base_offset.get();
                assert_eq!(frame.batch[..8], base.to_be_bytes(), "the base offset is stamped (1b)");
                assert_eq!(frame.batch[12..16], frame.epoch.get().to_be_bytes(), "the epoch is stamped (1b)");
                let records = records(&frame.batch, &Default::default()).expect("a good batch");
                for (at, record) in (base..).zip(records.views()) {
                    let value = record.expect("a good record").value.expect("it has a value");
                    found.push((at, u64::from_be_bytes(value[..8].try_into().expect("eight bytes"))));
                }
            }
            next = run.next;
        }
        found.retain(|(at, _)| *at >= self.partition.log_start().get());
        found
    }

    fn fail(&self, kind: OpKind, errno: i32) {
        let fault = Fault {
            from_op: 0,
            kinds: vec![kind],
            path_contains: ".log".to_owned(),
            effect: Effect::Errno(errno),
            forever: false,
        };
        self.disk.inject(fault);
    }

    fn reopen(&self) -> Result<(), AppendFailure> {
        let epoch = self.ledger.new_epoch(NAME).expect("the ledger is well");
        self.partition.reopen(epoch).wait()
    }
}

fn environment(clock: &Arc<ManualClock>, ledger: &Arc<Ledger>, gate: &Arc<DiskGate>) -> PartitionEnvironment {
    PartitionEnvironment {
        clock: Arc::clone(clock) as _,
        pools: Pools::new(1, 1),
        ledger: Arc::clone(ledger) as _,
        producers: None,
        events: None,
        disk: Arc::clone(gate),
        metrics: Metrics::new(false),
        counters: PartitionMetrics::default(),
    }
}

fn block_on<T>(future: impl std::future::Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
    runtime.block_on(future)
}

/// A batch of one record that holds a number.
fn numbered(value: u64, producer: Option<ProducerStamp>) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    let mut bytes = value.to_be_bytes().to_vec();
    bytes.resize(60, 7);
    builder.push(1, None, Some(&bytes), std::iter::empty());
    if let Some(stamp) = producer {
        builder.set_producer(stamp);
    }
    let bytes = builder.finish();
    CheckedBatch { header: BatchHeader::decode(&bytes).expect("just built"), bytes, request: None, events: None }
}

fn stamped(sequence: i32) -> CheckedBatch {
    let stamp = ProducerStamp { producer_id: 5, producer_epoch: 0, base_sequence: sequence };
    numbered(u64::try_from(sequence).expect("small"), Some(stamp))
}

fn counted(range: std::ops::Range<u64>) -> Vec<(u64, u64)> {
    range.map(|value| (value, value)).collect()
}

#[test]
fn what_is_appended_is_read_back_across_segments() {
    let world = World::new(settings());
    world.fill(100);
    assert!(world.partition.status().segments > 3);
    assert_eq!(world.values(), counted(0..100));
    let status = world.partition.status();
    assert_eq!(
        (status.high_watermark, status.durable_end, status.state),
        (offset(100), offset(100), PartitionState::Online)
    );
    let ahead = block_on(world.partition.read(offset(101), 1)).expect_err("beyond the end");
    assert!(matches!(ahead, PartitionReadError::Log(ReadError::OutOfRange { .. })), "{ahead}");
    assert!(block_on(world.partition.read(offset(100), 1)).expect("at the end").frames.is_empty());
}

#[test]
fn d_1_what_is_acknowledged_durable_survives_every_power_loss() {
    let world = World::new(settings());
    world.fill(40);
    for seed in 0..40 {
        let after = world.start(world.disk.crash(seed), None);
        assert_eq!(after.values(), counted(0..40), "seed {seed}");
        assert!(after.partition.epoch() > world.partition.epoch(), "a new epoch before the first append (D3)");
        after.fill(3);
        assert_eq!(after.values(), counted(0..43), "seed {seed}");
    }
}

#[test]
fn d_1_an_ack_before_its_sync_is_noticed() {
    let disk = SimDisk::new();
    disk.storage().create_dir_all("topics/3/1".as_ref()).expect("the disk is well");
    for dir in ["", "topics", "topics/3"] {
        disk.storage().sync_dir(dir.as_ref()).expect("the disk is well");
    }
    disk.set_sabotage(Sabotage { ack_before_sync: true, ..Sabotage::default() });
    let world = World::on(disk, PartitionSettings { segment_bytes: 1 << 20, ..settings() });
    // The one thread for syncs is busy, so that no sync wins the race against the power loss.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    world.partition.environment.pools.sync.submit(Box::new(move || {
        let _ = wait.recv();
    }));
    let acked = world.append(numbered(0, None), AckLevel::Durable);
    assert!(acked.is_ok(), "the sabotage lies");
    let lost = (0..40).filter(|seed| world.start(world.disk.crash(*seed), None).values().is_empty()).count();
    drop(go);
    assert!(lost > 0, "the check of the test above would notice");
}

#[test]
fn d_2_written_survives_the_death_of_the_process_and_loses_a_suffix_at_most() {
    let world = World::new(written());
    world.fill(30);
    let killed = world.start(world.disk.kill(), None);
    assert_eq!(killed.values(), counted(0..30));
    assert_eq!(killed.partition.status().maybe_missing_from, Some(offset(30)), "told from where it may be missing");
    for seed in 0..20 {
        let left = world.start(world.disk.crash(seed), None).values();
        assert_eq!(left, counted(0..left.len() as u64), "a suffix, never a hole");
    }
}

#[test]
fn d_2_a_flush_is_due_by_time() {
    let world = World::new(PartitionSettings { segment_bytes: 1 << 20, ..written() });
    world.fill(5);
    assert_eq!(world.partition.status().durable_end, offset(0));
    world.clock.advance(Duration::from_millis(999));
    world.partition.tick(world.clock.monotonic(), world.clock.wall_ms());
    world.clock.advance(Duration::from_millis(1));
    world.partition.tick(world.clock.monotonic(), world.clock.wall_ms());
    // Behind the sync that the tick has started.
    world.partition.sync_now().wait().expect("the disk is well");
    assert_eq!(world.partition.status().durable_end, offset(5));
    assert_eq!(world.start(world.disk.crash(3), None).values(), counted(0..5));
}

#[test]
fn d_3_a_floor_raised_to_durable_hides_nothing_and_shows_nothing_more_until_the_sync() {
    let world = World::new(PartitionSettings { segment_bytes: 1 << 20, ..written() });
    world.fill(5);
    let raised = PartitionSettings { ack_floor: AckLevel::Durable, ..world.settings };
    world.partition.apply_settings(raised).wait().expect("synced");
    let status = world.partition.status();
    assert_eq!((status.durable_end, status.high_watermark), (offset(5), offset(5)));
}

#[test]
fn d_5_producers_are_rebuilt_from_the_log_and_from_its_snapshots() {
    let world = World::new(settings());
    for sequence in 0..50 {
        world.append(stamped(sequence), AckLevel::Durable).expect("in order");
    }
    let request = RequestStamp { producer_id: 6, producer_epoch: 0, request_number: 9 };
    let plain = CheckedBatch { request: Some(request), ..numbered(0, None) };
    world.append(plain.clone(), AckLevel::Durable).expect("new");
    let check = |after: &World, how: &str| {
        let repeat = after.append(stamped(49), AckLevel::Durable).expect(how);
        assert_eq!((repeat.base_offset, repeat.duplicate), (offset(49), true), "{how}");
        let repeat = after.append(plain.clone(), AckLevel::Durable).expect(how);
        assert_eq!((repeat.base_offset, repeat.duplicate), (offset(50), true), "{how}");
        assert!(!after.append(stamped(50), AckLevel::Durable).expect(how).duplicate, "{how}");
    };
    check(&world.start(world.disk.crash(1), None), "from the snapshot of the last roll");
    let disk = world.disk.kill();
    let snapshots: Vec<_> = disk.files().into_iter().filter(|file| file.ends_with(".producers")).collect();
    assert_eq!(snapshots.len(), 2, "two are kept");
    for file in &snapshots {
        disk.flip(file, 30, 1);
    }
    check(&world.start(disk.kill(), None), "damaged snapshots are passed over (C4)");
    for file in &snapshots {
        disk.lose_file(file);
    }
    check(&world.start(disk, None), "from the log alone");
}

#[test]
fn pr_12_a_snapshot_of_a_part_that_was_cut_is_not_believed() {
    // One segment: no later snapshot takes its place at a roll.
    let world = World::new(PartitionSettings { segment_bytes: 1 << 20, ..written() });
    for sequence in 0..10 {
        world.append(stamped(sequence), AckLevel::Written).expect("in order");
    }
    world.partition.sync_now().wait().expect("the disk is well");
    for sequence in 10..20 {
        world.append(stamped(sequence), AckLevel::Written).expect("in order");
    }
    // It reaches to offset 20; then the end is cut to 10 and grows again with records of nobody.
    world.partition.checkpoint();
    world.fail(OpKind::Sync, 5);
    world.partition.sync_now().wait().expect_err("fenced");
    world.reopen().expect("the disk is well again");
    let cut = world.partition.status().log_end.get();
    assert!(cut < 20);
    for value in 0..20 {
        world.append(numbered(value, None), AckLevel::Durable).expect("the disk is well");
    }
    let after = world.start(world.disk.kill(), None);
    let gap = after.append(stamped(20), AckLevel::Durable).expect_err("ahead of what survives");
    let expected = i32::try_from(cut).expect("small");
    assert_eq!(gap, AppendFailure::SequenceGap { producer_id: 5, expected, found: 20 });
}

#[test]
fn f_1_a_failed_sync_fences_and_reopening_goes_on_from_the_durable_end() {
    let world = World::new(settings());
    world.fill(5);
    world.fail(OpKind::Sync, 5);
    let failure = world.append(numbered(99, None), AckLevel::Durable).expect_err("not synced");
    assert!(
        matches!(failure, AppendFailure::Fenced { outcome_unknown: true, durable_end, .. } if durable_end == offset(5))
    );
    let status = world.partition.status();
    assert!(matches!(status.state, PartitionState::Fenced(_)));
    assert_eq!((status.high_watermark, status.log_end), (offset(5), offset(5)));
    assert_eq!(world.values(), counted(0..5), "reads go on");
    assert!(!world.partition.fenced_for_space());
    let old = world.partition.reopen(world.partition.epoch()).wait();
    assert!(old.is_err(), "it takes a new epoch");
    world.reopen().expect("the disk is well again");
    let status = world.partition.status();
    assert_eq!((status.state, status.epoch.get()), (PartitionState::Online, 1));
    let truncation = status.last_truncation.expect("the cut is told");
    assert_eq!((truncation.offset, truncation.epoch.get()), (offset(5), 1));
    assert!(truncation.bytes > 0);
    world.fill(5);
    for seed in 0..10 {
        assert_eq!(world.start(world.disk.crash(seed), None).values(), counted(0..10));
    }
}

#[test]
fn f_1_a_fence_for_want_of_space_is_told_apart() {
    let world = World::new(settings());
    world.fill(1);
    world.fail(OpKind::Sync, 28);
    world.append(numbered(99, None), AckLevel::Durable).expect_err("not synced");
    assert!(world.partition.fenced_for_space());
}

#[test]
fn f_1_a_write_that_a_full_disk_keeps_from_being_taken_back_is_a_fence_for_want_of_space() {
    let world = World::new(settings());
    world.fill(1);
    world.fail(OpKind::Write, 28);
    world.fail(OpKind::Sync, 28);
    world.append(numbered(99, None), AckLevel::Durable).expect_err("neither written nor taken back");
    world.partition.sync_now().wait().expect_err("fenced");
    assert!(world.partition.fenced_for_space(), "it is reopened once there is space");
    world.reopen().expect("there is space");
    world.fail(OpKind::Write, 28);
    world.fail(OpKind::Sync, 5);
    world.append(numbered(99, None), AckLevel::Durable).expect_err("neither written nor taken back");
    world.partition.sync_now().wait().expect_err("fenced");
    assert!(!world.partition.fenced_for_space(), "the device failed: it is not reopened by itself");
}

#[test]
fn f_2_a_failed_write_leaves_nothing_behind() {
    let world = World::new(settings());
    world.fill(3);
    world.fail(OpKind::Write, 28);
    let failure = world.append(numbered(99, None), AckLevel::Durable).expect_err("the disk is full");
    assert!(matches!(failure, AppendFailure::WriteFailed { errno: Some(28), .. }), "{failure}");
    world.fill(3);
    assert_eq!(world.values(), counted(0..6));
    assert_eq!(world.start(world.disk.crash(5), None).values(), counted(0..6));
}

#[test]
fn f_3_a_low_disk_refuses_appends_before_the_kernel_does_and_reads_go_on() {
    let world = World::new(settings());
    world.fill(3);
    world.gate.set(true, 10, 20);
    let failure = world.append(numbered(9, None), AckLevel::Durable).expect_err("refused");
    assert_eq!(failure, AppendFailure::DiskLow { free_bytes: 10, min_free_bytes: 20 });
    assert_eq!(world.values(), counted(0..3));
    world.gate.set(false, 30, 20);
    world.fill(1);
    world.gate.set_read_only(Some("its sync failed".to_owned()));
    let failure = world.append(numbered(9, None), AckLevel::Durable).expect_err("refused");
    assert_eq!(failure, AppendFailure::BrokerReadOnly { cause: "its sync failed".to_owned() });
}

#[test]
fn d_3_a_position_of_a_part_that_was_cut_is_stale_and_names_the_cut() {
    let world = World::new(written());
    world.fill(10);
    world.partition.sync_now().wait().expect("the disk is well");
    let durable = world.partition.status().durable_end.get();
    world.fill(10);
    world.fail(OpKind::Sync, 5);
    world.partition.sync_now().wait().expect_err("fenced");
    let cut = world.partition.status().log_end.get();
    assert!(cut >= durable);
    let stale = |epoch: u32, at: u64| {
        let epoch = PartitionEpoch::new(epoch).expect("small");
        match block_on(world.partition.check_position(epoch, offset(at))) {
            Ok(()) => None,
            Err(PartitionReadError::Stale { truncated_at, .. }) => Some(truncated_at.get()),
            Err(error) => panic!("{error}"),
        }
    };
    assert_eq!(stale(0, 20), Some(cut), "beyond the end");
    world.reopen().expect("the disk is well again");
    world.fill(15);
    for at in 0..=cut {
        assert_eq!(stale(0, at), None, "offset {at} was not cut");
    }
    for at in cut + 1..=cut + 10 {
        assert_eq!(stale(0, at), Some(cut), "the record before {at} is another one now");
        assert_eq!(stale(1, at), None);
    }
}

#[test]
fn of_4_a_time_finds_the_first_record_appended_then_or_later() {
    let world = World::new(settings());
    for _ in 0..60 {
        world.fill(1);
        world.clock.advance(Duration::from_millis(10));
    }
    let at = |time_ms| block_on(world.partition.offset_at_time(time_ms)).expect("nothing is damaged").get();
    assert_eq!((at(0), at(1_000_000), at(1_000_001), at(1_000_590), at(1_000_591)), (0, 0, 1, 59, 60));
}

#[test]
fn re_9_a_raised_start_is_durable_first_and_its_segments_go() {
    let world = World::new(PartitionSettings { retention_bytes: Some(4 << 10), ..settings() });
    world.fill(100);
    let before = world.partition.status();
    let start = world.partition.run_retention(0, None).expect("the disk is well").expect("there is too much");
    let after = world.partition.status();
    assert_eq!((after.log_start, world.ledger.kept.lock().start), (start, start));
    assert!(after.segments < before.segments && after.size_bytes < before.size_bytes);
    assert_eq!(world.values(), counted(start.get()..100));
    assert_eq!(world.partition.run_retention(0, None), Ok(None));
    assert_eq!(world.start(world.disk.crash(1), None).values(), counted(start.get()..100), "it never comes back (D9)");
}

#[test]
fn c_2_damage_is_passed_up_kept_in_the_ledger_and_found_by_the_scrub() {
    for by_scrub in [false, true] {
        let world = World::new(settings());
        world.fill(60);
        let file = world.disk.files().into_iter().filter(|file| file.ends_with(".log")).min().expect("segments");
        world.disk.flip(&file, 700, 1);
        if by_scrub {
            let mut scrubbed = world.partition.scrub(1_000);
            let mut damaged = scrubbed.damaged;
            while !scrubbed.complete {
                scrubbed = world.partition.scrub(1_000);
                damaged += scrubbed.damaged;
            }
            assert_eq!(damaged, 1);
        }
        let (mut next, mut good) = (Offset::ZERO, Vec::new());
        while next < world.partition.high_watermark() {
            match block_on(world.partition.read(next, 500)) {
                Ok(run) => {
                    good.extend(run.frames.iter().map(|frame| frame.base_offset.get()));
                    next = run.next;
                }
                Err(PartitionReadError::Log(ReadError::Corrupt(corruption))) => {
                    assert_eq!(corruption.first_bad, next);
                    let range = world.partition.damaged_at(next).expect("the damage is known");
                    next = range.to;
                }
                Err(error) => panic!("{error}"),
            }
        }
        assert_eq!(good.len(), 59, "one record is lost, no more");
        let status = world.partition.status();
        assert!(matches!(status.state, PartitionState::Degraded(_)), "{:?}", status.state);
        assert_eq!(status.damaged, world.ledger.kept.lock().quarantined);
        world.fill(1);
        assert_eq!(world.partition.high_watermark(), offset(61), "appends go on undisturbed");
    }
}

#[test]
fn f_4_a_read_that_the_device_refuses_fails_alone() {
    let world = World::new(settings());
    world.fill(5);
    let fault = Fault {
        from_op: 0,
        kinds: vec![OpKind::Read],
        path_contains: ".log".to_owned(),
        effect: Effect::Errno(5),
        forever: true,
    };
    world.disk.inject(fault);
    let error = block_on(world.partition.read(Offset::ZERO, 500)).expect_err("the device is broken");
    assert!(matches!(error, PartitionReadError::Log(ReadError::Io { .. })), "{error}");
    assert!(matches!(world.partition.status().state, PartitionState::Degraded(_)));
    world.disk.clear_faults();
    assert_eq!(world.values(), counted(0..5));
}

#[test]
fn c_3_an_idle_partition_proves_its_end_with_a_mark() {
    let world = World::new(PartitionSettings { segment_bytes: 1 << 20, ..settings() });
    world.fill(5);
    let before = world.partition.status().size_bytes;
    world.clock.advance(Duration::from_millis(499));
    world.partition.tick(world.clock.monotonic(), world.clock.wall_ms());
    world.partition.sync_now().wait().expect("the disk is well");
    assert_eq!(world.partition.status().size_bytes, before, "not idle yet");
    for _ in 0..3 {
        world.clock.advance(Duration::from_millis(500));
        world.partition.tick(world.clock.monotonic(), world.clock.wall_ms());
        // In the order of calls: behind the mark.
        world.partition.apply_settings(world.settings).wait().expect("the disk is well");
    }
    let marked = world.partition.status().size_bytes;
    assert!(marked > before && marked < before + 200, "once per idle period: {before} to {marked}");
    world.partition.close().wait().expect("the disk is well");
    // With the mark, a damaged last frame is corruption and not a torn tail: nothing is cut.
    let disk = world.disk.kill();
    let file = disk.files().into_iter().find(|file| file.ends_with(".log")).expect("a segment");
    disk.flip(&file, before - 20, 1);
    let after = world.start(disk, None);
    assert_eq!(after.partition.status().log_end, offset(5));
    assert_eq!(after.ledger.kept.lock().quarantined.len(), 1);
}

#[test]
fn c_3_a_mark_that_an_append_came_before_is_written_later() {
    let world = World::new(PartitionSettings { segment_bytes: 1 << 20, ..written() });
    world.fill(3);
    // A tick found the partition idle, and before its call came the append that is not synced yet.
    world.partition.group.pulse.marked();
    world.partition.write_mark().wait().expect("there is nothing to do yet");
    world.partition.sync_now().wait().expect("the disk is well");
    world.clock.advance(Duration::from_millis(500));
    assert!(world.partition.group.pulse.mark_due(world.clock.monotonic()), "the end is not proven yet");
}

#[test]
fn re_1_a_segment_of_a_quiet_partition_is_sealed_by_age() {
    let world = World::new(PartitionSettings { segment_bytes: 1 << 20, segment_ms: 60_000, ..settings() });
    world.fill(3);
    let tick = || {
        world.partition.tick(world.clock.monotonic(), world.clock.wall_ms());
        world
            .partition
            .apply_settings(PartitionSettings { segment_bytes: 1 << 20, segment_ms: 60_000, ..settings() })
            .wait()
    };
    world.clock.advance(Duration::from_millis(59_999));
    tick().expect("the disk is well");
    assert_eq!(world.partition.status().segments, 1);
    world.clock.advance(Duration::from_millis(1));
    tick().expect("the disk is well");
    world.partition.sync_now().wait().expect("the disk is well");
    world.partition.checkpoint();
    assert_eq!(world.partition.status().segments, 2);
}

#[test]
fn s_5_a_clean_stop_refuses_wakes_and_needs_no_new_epoch() {
    let world = World::new(settings());
    world.fill(30);
    let waiting = world.partition.wait_beyond(offset(30));
    let end = world.partition.close().wait().expect("the disk is well");
    assert_eq!(end, offset(30));
    assert_eq!(block_on(waiting), offset(30));
    assert_eq!(world.append(numbered(0, None), AckLevel::Durable), Err(AppendFailure::ShuttingDown));
    assert_eq!(world.partition.sync_now().wait(), Err(AppendFailure::ShuttingDown));
    assert_eq!(world.partition.close().wait(), Err(AppendFailure::ShuttingDown));
    let after = world.start(world.disk.crash(9), Some(end));
    assert_eq!(after.partition.epoch(), world.partition.epoch());
    assert_eq!(after.ledger.kept.lock().epoch, 0, "none was asked for");
    assert_eq!(after.values(), counted(0..30));
}

#[test]
fn d_3_a_new_epoch_is_durable_before_the_first_append_after_an_unclean_start() {
    let world = World::new(settings());
    world.fill(3);
    let after = world.start(world.disk.kill(), None);
    assert_eq!((after.partition.epoch().get(), after.ledger.kept.lock().epoch), (1, 1));
    let ack = after.append(numbered(3, None), AckLevel::Durable).expect("the disk is well");
    assert_eq!((ack.epoch.get(), ack.base_offset), (1, offset(3)));
}

#[test]
fn d_3_an_epoch_that_the_metadata_log_forgot_is_not_given_again() {
    let world = World::new(settings());
    world.fill(3);
    let after = world.start(world.disk.kill(), None);
    after.append(numbered(3, None), AckLevel::Durable).expect("the disk is well");
    *after.ledger.kept.lock() = Kept::default();
    let again = after.start(after.disk.kill(), None);
    assert_eq!(again.partition.epoch().get(), 2, "epoch 1 has records already");
}

#[test]
fn d_3_a_clean_marker_that_the_log_has_outgrown_gives_a_new_epoch() {
    let world = World::new(settings());
    world.fill(30);
    let end = world.partition.close().wait().expect("the disk is well");
    let after = world.start(world.disk.kill(), None);
    after.fill(5);
    let again = after.start(after.disk.kill(), Some(end));
    assert_eq!(again.values(), counted(0..35));
    assert!(again.partition.epoch() > after.partition.epoch(), "what came last may be missing");
}

#[test]
fn f_6_append_times_never_fall_across_a_restart() {
    let world = World::new(settings());
    world.fill(1);
    world.clock.set_wall_ms(5);
    let after = world.start(world.disk.kill(), None);
    let ack = after.append(numbered(1, None), AckLevel::Durable).expect("the disk is well");
    assert_eq!(ack.append_time_ms, 1_000_000);
}

#[test]
fn s_4_a_checkpoint_says_what_is_synced() {
    let world = World::new(PartitionSettings { segment_bytes: 1 << 20, ..settings() });
    world.fill(20);
    assert!(world.partition.unchecked_bytes() > 0);
    let said = world.partition.checkpoint();
    assert_eq!((said.proven_end, said.log_start, said.fenced), (offset(20), Offset::ZERO, false));
    assert!(said.unchecked_bytes > 0);
    assert_eq!(world.partition.unchecked_bytes(), 0);
    let after = world.start_with(world.disk.crash(2), None, said.proven_end);
    assert_eq!(after.values(), counted(0..20));
}

#[test]
fn a_discarded_partition_touches_its_files_no_more() {
    let world = World::new(written());
    world.fill(3);
    world.partition.discard().wait().expect("there is nothing to fail");
    let ops = world.disk.op_count();
    world.clock.advance(Duration::from_secs(9));
    world.partition.tick(world.clock.monotonic(), world.clock.wall_ms());
    assert_eq!(world.partition.checkpoint().proven_end, offset(0));
    assert_eq!(world.partition.sync_now().wait(), Err(AppendFailure::ShuttingDown));
    assert_eq!(world.disk.op_count(), ops);
}
