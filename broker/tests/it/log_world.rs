//! One log on a simulated disk, what was done to it, and what must therefore be found in it.
//!
//! The checks know the promises and the history, never the engine's inside: they take what a client would see. Each
//! returns a sentence when a promise is broken, so that a test of the harness itself can ask for it.

use std::path::PathBuf;

use bytes::Bytes;
use sawlog_broker::log::sabotage::Sabotage;
use sawlog_broker::log::storage::sim_disk::SmallRandom;
use sawlog_broker::log::storage::{SimDisk, Storage};
use sawlog_broker::log::{
    AppendError, Frame, FrameDraft, LocalLog, LogEnvironment, LogIdentity, LogSettings, ReadMode, ReadRange,
    RecoveryHint, RecoveryReport,
};
use sawlog_broker::model::{Offset, PartitionEpoch, PartitionId, TopicId, TopicUuid};

/// A promise that was broken.
pub(crate) type Violation = String;

/// The directory of the log.
pub(crate) const DIR: &str = "topics/1/0";

/// Whose log it is.
pub(crate) const IDENTITY: LogIdentity =
    LogIdentity { data_dir: [1; 16], topic_uuid: TopicUuid([2; 16]), topic_id: TopicId(1), partition: PartitionId(0) };

/// Stops a check with a sentence unless the condition holds.
macro_rules! ensure {
    ($condition:expr, $($text:tt)+) => {
        if !$condition {
            return Err(format!($($text)+));
        }
    };
}
pub(crate) use ensure;

/// A frame that somebody tried to append.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) base: Offset,
    pub(crate) count: u32,
    pub(crate) epoch: PartitionEpoch,
    pub(crate) time_ms: i64,
    pub(crate) extensions: Bytes,
    pub(crate) batch: Bytes,
    /// Calls made before it began.
    begun: u64,
    /// Calls made when it was acknowledged, or shown to a reader as durable.
    acked: Option<u64>,
    /// Calls made when it was known to be gone: refused for good, cut, or not found by recovery.
    dead: Option<u64>,
}

impl Attempt {
    pub(crate) fn end(&self) -> Offset {
        self.base.saturating_add(u64::from(self.count))
    }

    fn is(&self, frame: &Frame) -> bool {
        self.base == frame.base_offset
            && self.count == frame.record_count
            && self.epoch == frame.epoch
            && self.time_ms == frame.append_time_ms
            && self.extensions == frame.extensions
            && self.batch == frame.batch
    }
}

/// All that was done, with the number of calls at which it was.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    pub(crate) attempts: Vec<Attempt>,
    /// Log starts that were decided durably.
    starts: Vec<(u64, Offset)>,
    /// Ends that a sync has proven.
    proven: Vec<(u64, Offset)>,
    /// The highest epoch given out.
    pub(crate) epoch: PartitionEpoch,
}

impl History {
    /// What must be true of the machine after so many calls; the calls count from 0 again.
    pub(crate) fn at(&self, ops: u64) -> History {
        let moved = |op: Option<u64>| op.filter(|op| *op <= ops).map(|_| 0);
        History {
            attempts: self
                .attempts
                .iter()
                .filter(|attempt| attempt.begun < ops)
                .map(|attempt| Attempt {
                    begun: 0,
                    acked: moved(attempt.acked),
                    dead: moved(attempt.dead),
                    ..attempt.clone()
                })
                .collect(),
            starts: self.starts.iter().filter(|(op, _)| *op <= ops).map(|(_, start)| (0, *start)).collect(),
            proven: self.proven.iter().filter(|(op, _)| *op <= ops).map(|(_, end)| (0, *end)).collect(),
            epoch: self.epoch,
        }
    }

    pub(crate) fn start(&self) -> Offset {
        self.starts.last().map_or(Offset::ZERO, |(_, start)| *start)
    }

    pub(crate) fn acked_end(&self) -> Offset {
        self.attempts.iter().filter(|attempt| attempt.acked.is_some()).map(Attempt::end).max().unwrap_or_default()
    }

    pub(crate) fn acked_count(&self) -> usize {
        self.attempts.iter().filter(|attempt| attempt.acked.is_some()).count()
    }

    /// What the metadata log and a checkpoint would say; the checkpoint may be old or not there.
    pub(crate) fn hint(&self, random: &mut SmallRandom) -> RecoveryHint {
        let proven_end = match (random.below(3), self.proven.len()) {
            (_, 0) | (0, _) => Offset::ZERO,
            (1, many) => self.proven[random.index(many)].1,
            _ => self.acked_end(),
        };
        RecoveryHint {
            log_start: self.start(),
            proven_end: proven_end.max(self.start()),
            clean_end: None,
            quarantined: Vec::new(),
            next_epoch: self.epoch.next().expect("few epochs"),
        }
    }

    fn ack_below(&mut self, end: Offset, ops: u64) {
        for attempt in &mut self.attempts {
            if attempt.end() <= end && attempt.dead.is_none() && attempt.acked.is_none() {
                attempt.acked = Some(ops);
            }
        }
        self.proven.push((ops, end));
    }

    /// Everything that is not acknowledged and ends above `end` is gone.
    fn kill_above(&mut self, end: Offset, ops: u64) {
        for attempt in &mut self.attempts {
            if attempt.end() > end && attempt.acked.is_none() && attempt.dead.is_none() {
                attempt.dead = Some(ops);
            }
        }
    }
}

/// All frames of the log from its start, read as a client would, a few at a time.
pub(crate) fn read_all(log: &LocalLog, random: &mut SmallRandom) -> Result<Vec<Frame>, Violation> {
    let reader = log.reader();
    let bounds = reader.bounds();
    let mut frames: Vec<Frame> = Vec::new();
    let mut from = bounds.start;
    while from < bounds.end {
        let max_bytes = 1 + random.index(2_000);
        let range = ReadRange { from, until: bounds.end, max_bytes };
        let run = reader.read(range, ReadMode::Blocking).map_err(|error| format!("D1: reading {from}: {error}"))?;
        ensure!(!run.frames.is_empty() || run.next > from, "nothing is read at {from}, below the end {}", bounds.end);
        for frame in run.frames {
            ensure!(frame.end_offset() > from, "reading from {from} gave a frame that ends at {}", frame.end_offset());
            let before = frames.last().map_or(frame.base_offset, Frame::end_offset);
            ensure!(frame.base_offset == before, "a hole: {} follows {before}", frame.base_offset);
            from = frame.end_offset();
            frames.push(frame);
        }
        ensure!(run.next >= from, "the next read would go back from {from} to {}", run.next);
        from = run.next;
    }
    Ok(frames)
}

/// Checks a log that was just recovered after a loss of power or the death of the process.
pub(crate) fn check_recovered(
    log: &LocalLog,
    report: &RecoveryReport,
    history: &History,
    random: &mut SmallRandom,
) -> Result<Vec<Frame>, Violation> {
    ensure!(report.fenced.is_none(), "fenced without a reason: {:?}", report.fenced);
    ensure!(report.quarantined.is_empty(), "C3: a torn tail was taken for damage: {:?}", report.quarantined);
    let bounds = log.reader().bounds();
    ensure!(bounds.end == report.end, "the report says {}, the log {}", report.end, bounds.end);
    ensure!(bounds.durable_end == bounds.end, "D6: {} to {} is shown unsynced", bounds.durable_end, bounds.end);
    ensure!(bounds.start == history.start(), "D9: the start is {}, not {}", bounds.start, history.start());
    let frames = read_all(log, random)?;
    check_frames(&frames, history, bounds.start)?;
    let end = history.acked_end();
    ensure!(bounds.end >= end, "D1: the log ends at {}, acknowledged was {end}", bounds.end);
    check_lookups(log, &frames, random)?;
    Ok(frames)
}

/// Checks frames against what was tried and acknowledged.
pub(crate) fn check_frames(frames: &[Frame], history: &History, start: Offset) -> Result<(), Violation> {
    for frame in frames {
        let offset = frame.base_offset;
        let mut tried = history.attempts.iter().filter(|attempt| attempt.base == offset).peekable();
        ensure!(tried.peek().is_some(), "D6: phantom: nobody appended a frame at {offset}");
        let found = tried.find(|attempt| attempt.is(frame));
        let Some(attempt) = found else {
            return Err(format!("D3: the frame at {offset} is none that was appended there: {frame:?}"));
        };
        ensure!(attempt.dead.is_none(), "F2: the frame at {offset} was refused or cut, and is back");
    }
    for pair in frames.windows(2) {
        ensure!(pair[0].epoch <= pair[1].epoch, "D3: the epoch falls at {}", pair[1].base_offset);
        ensure!(pair[0].append_time_ms <= pair[1].append_time_ms, "F6: the time falls at {}", pair[1].base_offset);
    }
    for attempt in history.attempts.iter().filter(|attempt| attempt.acked.is_some() && attempt.end() > start) {
        let is_there = frames.iter().any(|frame| attempt.is(frame));
        ensure!(is_there, "D1: the acknowledged frame at {} is lost", attempt.base);
    }
    Ok(())
}

/// Checks reads at any offset and time against the frames read in order: the indexes are right.
fn check_lookups(log: &LocalLog, frames: &[Frame], random: &mut SmallRandom) -> Result<(), Violation> {
    if frames.is_empty() {
        return Ok(());
    }
    let reader = log.reader();
    let bounds = reader.bounds();
    for _ in 0..4 {
        let wanted = &frames[random.index(frames.len())];
        let from = wanted.base_offset.saturating_add(random.below(u64::from(wanted.record_count))).max(bounds.start);
        let range = ReadRange { from, until: bounds.end, max_bytes: 1 };
        let run = reader.read(range, ReadMode::Blocking).map_err(|error| format!("reading {from}: {error}"))?;
        let found = run.frames.first().map(|frame| frame.base_offset);
        ensure!(found == Some(wanted.base_offset), "C4: {from} is read at {found:?}, not at {}", wanted.base_offset);
        let time = wanted.append_time_ms;
        let first = frames.iter().find(|frame| frame.append_time_ms >= time).expect("at least the wanted one");
        let first = first.base_offset.max(bounds.start);
        let found = reader.offset_at_time(time).map_err(|error| format!("looking for {time}: {error}"))?;
        ensure!(found == Some(first), "C4: time {time} is found at {found:?}, not at {first}");
    }
    Ok(())
}

/// Where the log lives.
pub(crate) fn environment(disk: &SimDisk, sabotage: Sabotage, salt_seed: u64) -> LogEnvironment {
    disk.set_sabotage(sabotage);
    let mut environment = LogEnvironment::new(disk.storage(), PathBuf::from(DIR), IDENTITY, salt_seed);
    environment.settings =
        LogSettings { segment_bytes: 3_000, index_interval_bytes: 256, allocation_step_bytes: 1_024 };
    environment
}

/// A log at work, and its history.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) log: LocalLog,
    pub(crate) history: History,
    pub(crate) random: SmallRandom,
    sabotage: Sabotage,
    time_ms: i64,
}

impl World {
    /// A new log on an empty disk.
    pub(crate) fn create(seed: u64, sabotage: Sabotage) -> Self {
        let disk = SimDisk::new();
        disk.set_seed(seed);
        disk.create_dir_all(DIR.as_ref()).unwrap();
        for dir in ["topics/1", "topics", ""] {
            disk.sync_dir(dir.as_ref()).unwrap();
        }
        let epoch = PartitionEpoch::new(1).unwrap();
        let log = LocalLog::create(environment(&disk, sabotage, seed), epoch).unwrap();
        let history = History { epoch, ..History::default() };
        Self { disk, log, history, random: SmallRandom::new(seed), sabotage, time_ms: 1_000 }
    }

    /// Recovers what a crash left and checks it against the history, of which the calls count from 0. What is found
    /// has been shown to readers from then on; what is not found is gone.
    pub(crate) fn recover(
        disk: SimDisk,
        history: History,
        seed: u64,
        sabotage: Sabotage,
    ) -> Result<(Self, RecoveryReport), Violation> {
        let mut random = SmallRandom::new(seed);
        let hint = history.hint(&mut random);
        let opened = LocalLog::open(environment(&disk, sabotage, random.bits()), &hint);
        let (log, report) = opened.map_err(|error| format!("cannot be opened: {error}"))?;
        let frames = check_recovered(&log, &report, &history, &mut random)?;
        let time_ms = frames.last().map_or(1_000, |frame| frame.append_time_ms);
        let mut world = Self { disk, log, history, random, sabotage, time_ms };
        world.history.epoch = hint.next_epoch;
        let ops = world.disk.op_count();
        for attempt in &mut world.history.attempts {
            if attempt.dead.is_none() {
                let found = frames.iter().any(|frame| attempt.is(frame));
                attempt.acked = attempt.acked.or(found.then_some(ops));
                attempt.dead = (!found && attempt.acked.is_none()).then_some(ops);
            }
        }
        Ok((world, report))
    }

    pub(crate) fn sabotage(&self) -> Sabotage {
        self.sabotage
    }

    fn drafts(&mut self) -> Vec<FrameDraft> {
        let mut base = self.log.end();
        let mut drafts = Vec::new();
        for _ in 0..1 + self.random.below(3) {
            self.time_ms += i64::try_from(self.random.below(3)).unwrap();
            let count = 1 + u32::try_from(self.random.below(5)).unwrap();
            let [extensions, head, rest] = [24, 17, 500].map(|most| {
                let len = self.random.index(most);
                Bytes::from(self.random.bytes(len))
            });
            drafts.push(FrameDraft {
                base_offset: base,
                record_count: count,
                append_time_ms: self.time_ms,
                epoch: self.history.epoch,
                extensions,
                batch_head: head,
                batch_rest: rest,
            });
            base = base.saturating_add(u64::from(count));
        }
        drafts
    }

    /// Appends one to three frames. An error is the log's; the history takes note of what it means.
    pub(crate) fn append(&mut self) -> Result<(), AppendError> {
        let drafts = self.drafts();
        let begun = self.disk.op_count();
        let first = self.history.attempts.len();
        for draft in &drafts {
            self.history.attempts.push(Attempt {
                base: draft.base_offset,
                count: draft.record_count,
                epoch: draft.epoch,
                time_ms: draft.append_time_ms,
                extensions: draft.extensions.clone(),
                batch: [draft.batch_head.as_ref(), draft.batch_rest.as_ref()].concat().into(),
                begun,
                acked: None,
                dead: None,
            });
        }
        let result = self.log.append(&drafts);
        if let Err(AppendError::Write { .. }) = result {
            let ops = self.disk.op_count();
            self.history.attempts[first..].iter_mut().for_each(|attempt| attempt.dead = Some(ops));
        }
        result.map(|_| ())
    }

    /// Syncs everything appended so far, with an append during the sync now and then, and counts it as acknowledged.
    pub(crate) fn sync(&mut self) -> Result<(), AppendError> {
        let Some(sync) = self.log.pending_sync() else { return Ok(()) };
        // What is written while the sync runs is not covered by it.
        if self.random.one_in(4) {
            self.append()?;
        }
        if let Err(error) = sync.run() {
            self.log.fence(&error.to_string());
            return Err(AppendError::Fenced { cause: error.to_string() });
        }
        self.log.note_synced(&sync);
        let ops = self.disk.op_count();
        self.history.ack_below(sync.end(), ops);
        Ok(())
    }

    /// Seals the active segment, which makes all of it durable.
    pub(crate) fn roll(&mut self) -> Result<(), AppendError> {
        self.log.roll()?;
        let (end, ops) = (self.log.durable_end(), self.disk.op_count());
        self.history.ack_below(end, ops);
        Ok(())
    }

    /// Raises the start somewhere below the durable end, as a trim or retention does.
    fn raise_start(&mut self) -> Result<(), AppendError> {
        let (start, end) = (self.history.start(), self.log.durable_end());
        let start = start.saturating_add(self.random.below(1 + end.distance_from(start) / 2));
        self.history.starts.push((self.disk.op_count(), start));
        self.log.raise_start(start)
    }

    /// A random step of a partition's life.
    pub(crate) fn step(&mut self) -> Result<(), AppendError> {
        match self.random.below(40) {
            0 => self.raise_start(),
            1 => self.roll(),
            2 | 3 => {
                self.log.write_mark(self.time_ms, self.history.epoch)?;
                self.sync()
            }
            4..=15 => self.sync(),
            _ if self.log.must_roll(1_500) => self.roll(),
            _ => self.append(),
        }
    }

    /// Leaves a fence the way an operator does (rule F1); what lies above the durable end is gone.
    pub(crate) fn reopen(&mut self) -> Result<(), AppendError> {
        self.history.epoch = self.history.epoch.next().expect("few epochs");
        let end = self.log.durable_end();
        self.log.reopen(self.history.epoch)?;
        let ops = self.disk.op_count();
        self.history.kill_above(end, ops);
        Ok(())
    }
}
