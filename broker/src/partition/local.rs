//! The local engine of one partition: group append over [`crate::log::LocalLog`], syncs, readers, and what the layer
//! above asks for: settings, retention, checkpoints, reopening, closing.
//!
//! It owns the partition's leader and its facts. It must not know topics, names or requests.

use std::sync::Arc;
use std::time::Duration;

use crate::clock::Monotonic;
use crate::log::{LogReader, LogSettings, OpenError, RecoveryReport};
use crate::model::{AckLevel, Offset, OffsetRange, PartitionEpoch};

use super::append::{Call, CallBody, Core, Executor, Group, Parts};
use super::commit::{Completion, Ticket, ticket};
use super::environment::{LedgerError, PartitionEnvironment, PartitionRef, PartitionSettings, PartitionSpec};
use super::event_load::load_events;
use super::facts::{Facts, Fence};
use super::meter::Meter;
use super::open::{open_log, reopen};
use super::pool::Pools;
use super::reader::ReadTurn;
use super::scrub::ScrubCursor;
use super::store::{LogStore, rebuild};
use super::sync::{AtomicBool, Mutex, Ordering};
use super::{
    AppendAck, AppendFailure, BoxFuture, CheckedBatch, FrameRun, PartitionLog, PartitionReadError, PartitionStatus,
    Permit,
};

/// How often idle producers are looked for.
const EXPIRE_EVERY: Duration = Duration::from_secs(3_600);
/// Bytes of the active segment beyond its indexes on disk at which a checkpoint writes them: below, a scan is as quick.
const INDEX_SAVE_BYTES: u64 = 256 << 10;
/// Errors of the system that say that the disk or a quota is full: ENOSPC, EDQUOT.
const NO_SPACE: [i32; 2] = [28, 122];

/// Why a partition could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum PartitionOpenError {
    /// The log could not be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// The metadata log does not take what must be durable first.
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// The log was opened, but could not be read to find the producers' state.
    #[error("reading the log for producer state: {what}")]
    Producers {
        /// Why.
        what: String,
    },
    /// The log was opened, but could not be read to find the event ids in it.
    #[error("reading the log for event ids: {what}")]
    EventIds {
        /// Why.
        what: String,
    },
}

/// What the next checkpoint may say of a partition: everything below `proven_end` is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checkpointed {
    /// Everything below is synced.
    pub proven_end: Offset,
    /// First offset kept.
    pub log_start: Offset,
    /// Current epoch.
    pub epoch: PartitionEpoch,
    /// Bytes appended since the checkpoint before, which recovery would have had to check.
    pub unchecked_bytes: u64,
    /// Fenced: must be in no clean marker.
    pub fenced: bool,
}

/// One partition on this machine.
#[derive(Debug)]
pub struct Partition {
    pub(super) group: Arc<Group<LogStore>>,
    pub(super) reader: LogReader,
    pub(super) facts: Arc<Facts>,
    pub(super) environment: PartitionEnvironment,
    pub(super) name: PartitionRef,
    pub(super) scrub: Mutex<ScrubCursor>,
    pub(super) settings: Mutex<PartitionSettings>,
    roll_asked: Arc<AtomicBool>,
    expired: Mutex<Monotonic>,
}

impl Executor for Pools {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        self.sync.submit(job);
    }
}

impl Partition {
    /// Makes or opens a partition. Blocks; only on threads that may.
    ///
    /// # Errors
    /// See [`PartitionOpenError`]. A last sync of recovery that failed is no error: the partition comes up fenced.
    pub fn open(
        spec: PartitionSpec,
        environment: PartitionEnvironment,
    ) -> Result<(Arc<Self>, RecoveryReport), PartitionOpenError> {
        let identity = spec.log.identity;
        let name = PartitionRef { topic: identity.topic_id, partition: identity.partition };
        let opened = open_log(&spec, name, &environment)?;
        let settings = spec.settings;
        let reader = opened.log.reader();
        let ttl = Duration::from_millis(settings.producer_ttl_ms);
        let now = (environment.clock.monotonic(), environment.clock.wall_ms());
        let (producers, snapshot_end) = rebuild(&opened.log, &*spec.log.storage, &spec.log.dir, ttl, now)
            .map_err(|error| PartitionOpenError::Producers { what: error.to_string() })?;
        let events = load_events(&opened, &spec, environment.events.as_ref())
            .map_err(|error| PartitionOpenError::EventIds { what: error.to_string() })?;
        let facts = Arc::new(Facts::new(opened.epoch));
        if let Some(end) = snapshot_end {
            facts.set_snapshot_end(end);
        }
        for range in opened.quarantined {
            facts.add_damage(range, "damaged ranges were found at start");
        }
        if let Some(truncation) = opened.last_truncation {
            facts.set_truncation(truncation);
        }
        if let Some(cause) = &opened.report.fenced {
            facts.set_fence(Some(Fence { cause: cause.clone(), errno: None }));
        }
        if !opened.clean && settings.ack_floor == AckLevel::Written {
            // What a machine that died took with it leaves no trace (rule D2).
            facts.set_maybe_missing(opened.report.end);
        }
        let ack_before_sync = spec.log.storage.sabotage().acks_before_sync();
        let meter = Meter::new(name, environment.metrics.clone(), environment.counters.clone(), Arc::clone(&facts));
        let group = Group::new(Parts {
            log: LogStore::new(opened.log, spec.log, settings.segment_ms, Arc::clone(&facts), events),
            producers,
            epoch: opened.epoch,
            last_append_time_ms: opened.report.last_append_time_ms,
            floor: settings.ack_floor,
            flush_bytes: settings.flush_bytes,
            clock: Arc::clone(&environment.clock),
            executor: Arc::clone(&environment.pools) as Arc<dyn Executor>,
            observer: Arc::new(meter),
            directory: environment.producers.clone(),
            events: environment.events.clone(),
            ack_before_sync,
        });
        let partition = Arc::new(Self {
            group,
            reader,
            facts,
            environment,
            name,
            scrub: Mutex::new(ScrubCursor::default()),
            settings: Mutex::new(settings),
            roll_asked: Arc::new(AtomicBool::new(false)),
            expired: Mutex::new(now.0),
        });
        Ok((partition, opened.report))
    }

    /// Has the leader do something and answers with its result.
    fn call<T: Send + 'static>(
        &self,
        quiet: bool,
        blocks: bool,
        work: impl FnOnce(&mut Core<LogStore>, &Arc<Group<LogStore>>) -> Result<T, AppendFailure> + Send + 'static,
    ) -> Ticket<Result<T, AppendFailure>> {
        let (answer, ticket) = ticket();
        let run: CallBody<LogStore> = Box::new(move |core, group| {
            let result = if core.log.closed { Err(AppendFailure::ShuttingDown) } else { work(core, group) };
            answer.give(result);
        });
        self.group.call(Call { quiet, blocks, run });
        ticket
    }

    /// Takes changed settings. A floor raised to `durable` shows readers nothing more until it is synced (rule D3);
    /// the answer comes after that sync.
    pub fn apply_settings(&self, settings: PartitionSettings) -> Ticket<Result<(), AppendFailure>> {
        *self.settings.lock() = settings;
        let (answer, ticket) = ticket();
        let run: CallBody<LogStore> = Box::new(move |core, group| {
            if core.log.closed {
                answer.give(Err(AppendFailure::ShuttingDown));
                return;
            }
            core.floor = settings.ack_floor;
            core.flush_bytes = settings.flush_bytes;
            core.log.segment_ms = settings.segment_ms;
            core.producers.set_ttl(Duration::from_millis(settings.producer_ttl_ms));
            let log = core.log.environment.settings;
            core.log.log.set_settings(LogSettings { segment_bytes: settings.segment_bytes, ..log });
            core.settle(group);
            core.barrier(Completion::Barrier(answer), settings.ack_floor == AckLevel::Durable);
        });
        self.group.call(Call { quiet: false, blocks: false, run });
        ticket
    }

    /// Syncs all that was appended before the call.
    pub fn sync_now(&self) -> Ticket<Result<(), AppendFailure>> {
        let (answer, ticket) = ticket();
        let run: CallBody<LogStore> = Box::new(move |core, _| {
            if core.log.closed {
                answer.give(Err(AppendFailure::ShuttingDown));
            } else {
                core.barrier(Completion::Barrier(answer), true);
            }
        });
        self.group.call(Call { quiet: false, blocks: false, run });
        ticket
    }

    /// Removes sealed segments below `start` and hides everything below it from readers. The ledger has it already
    /// (rule D9).
    pub fn raise_start(&self, start: Offset) -> Ticket<Result<(), AppendFailure>> {
        let facts = Arc::clone(&self.facts);
        let metrics = Arc::clone(&self.environment.metrics);
        self.call(false, true, move |core, _| {
            let before = facts.segments().len();
            // A fence may have lowered the end since the caller looked.
            let start = start.min(core.log.log.end());
            let result = core.log.log.raise_start(start);
            core.log.publish();
            core.log.events.raise_start(start);
            facts.raise_start(start);
            metrics.removed_segments.inc_by(before.saturating_sub(facts.segments().len()) as u64);
            result.map_err(|error| AppendFailure::WriteFailed { errno: None, what: error.to_string() })
        })
    }

    /// Leaves the fence under this epoch, which the ledger has already (rule F1): producers are rolled back to the
    /// surviving end before any append (rule PR-12). The cut stands in the status; the caller keeps it in the ledger.
    /// A partition that is not fenced stays as it is.
    pub fn reopen(&self, epoch: PartitionEpoch) -> Ticket<Result<(), AppendFailure>> {
        let facts = Arc::clone(&self.facts);
        let ttl = Duration::from_millis(self.settings.lock().producer_ttl_ms);
        self.call(true, true, move |core, group| reopen(core, group, &facts, epoch, ttl))
    }

    /// Whether it is fenced because the disk or a quota was full (rule F1): to be reopened once there is space.
    pub fn fenced_for_space(&self) -> bool {
        self.facts.fence().and_then(|fence| fence.errno).is_some_and(|errno| NO_SPACE.contains(&errno))
    }

    /// What has to be done by time: flush, mark frame, roll by age, producers to forget. Cheap if nothing is due; to
    /// be called about four times a second.
    pub fn tick(&self, now: Monotonic, wall_ms: i64) {
        let settings = *self.settings.lock();
        let interval = Duration::from_millis(settings.flush_interval_ms);
        if settings.ack_floor == AckLevel::Written && self.group.pulse.flush_due(now, interval) {
            drop(self.sync_now());
        }
        if self.group.pulse.mark_due(now) {
            self.group.pulse.marked();
            drop(self.write_mark());
        }
        if self.facts.active_is_old(wall_ms, settings.segment_ms) && !self.roll_asked.swap(true, Ordering::SeqCst) {
            drop(self.roll_by_age());
        }
        let expire = {
            let mut expired = self.expired.lock();
            let due = now.0.saturating_sub(expired.0) >= EXPIRE_EVERY;
            if due {
                *expired = now;
            }
            due
        };
        if expire {
            drop(self.call(false, false, move |core, _| {
                core.producers.expire(now);
                Ok(())
            }));
        }
    }

    /// Writes a mark frame and syncs it, so that the end of an idle partition is proven (rule C3).
    fn write_mark(&self) -> Ticket<Result<(), AppendFailure>> {
        self.call(false, true, |core, group| {
            if core.fenced.is_some() {
                return Ok(());
            }
            if core.log.log.durable_end() != core.log.log.end() {
                // An append came between the look at the clock and here.
                group.pulse.unmarked(group.clock.monotonic());
                return Ok(());
            }
            let time = core.append_time(&*group.clock);
            let result = core.log.log.write_mark(time, core.epoch);
            core.force_sync = true;
            match &result {
                Ok(()) => core.last_append_time_ms = time,
                Err(_) => group.pulse.unmarked(group.clock.monotonic()),
            }
            core.log.publish();
            result.map_err(|error| AppendFailure::WriteFailed { errno: None, what: error.to_string() })
        })
    }

    fn roll_by_age(&self) -> Ticket<Result<(), AppendFailure>> {
        let asked = Arc::clone(&self.roll_asked);
        self.call(true, true, move |core, group| {
            asked.store(false, Ordering::SeqCst);
            if core.fenced.is_none() && core.log.is_old(group.clock.wall_ms()) {
                core.roll(group);
            }
            Ok(())
        })
    }

    /// Bytes of the log from an offset on: of whole segments, and a share by offsets of the one that holds it.
    pub fn bytes_from(&self, from: Offset) -> u64 {
        let (end, mut left, mut bytes) = (self.group.watermark.get(), self.facts.size_bytes(), 0);
        for segment in self.facts.segments().iter() {
            let (own, upto) = if segment.active { (left, end) } else { (segment.bytes, segment.end) };
            left = left.saturating_sub(own);
            let all = upto.distance_from(segment.base);
            let wanted = upto.distance_from(segment.base.max(from)).min(all);
            bytes += u64::try_from(u128::from(own) * u128::from(wanted) / u128::from(all.max(1))).unwrap_or(own);
        }
        bytes
    }

    /// Bytes appended since the last checkpoint; a checkpoint is due when there are many.
    pub fn unchecked_bytes(&self) -> u64 {
        self.facts.unchecked_bytes()
    }

    /// What the next checkpoint may say. Before it is said, the indexes of what it covers are written, and the
    /// producers' snapshot if the log has grown, so that recovery reads no more than what came after (rules C4, S4).
    /// Blocks.
    pub fn checkpoint(&self) -> Checkpointed {
        let unchecked_bytes = self.facts.checkpointed();
        let prepared = self.call(false, true, |core, _| {
            core.log.write_snapshot(&core.producers);
            core.log.write_event_ids();
            Ok(core.log.log.pending_index_save(INDEX_SAVE_BYTES))
        });
        // A partition that is closed needs neither any more.
        if let Ok(Some(save)) = prepared.wait()
            && let Err(error) = save.run()
        {
            tracing::warn!(%error, topic = %self.name.topic, partition = %self.name.partition, "no saved index");
        }
        let bounds = self.reader.bounds();
        Checkpointed {
            proven_end: bounds.durable_end,
            log_start: bounds.start,
            epoch: self.facts.epoch(),
            unchecked_bytes,
            fenced: self.facts.fence().is_some(),
        }
    }

    /// Refuses appends from now on; those queued are finished.
    pub fn begin_shutdown(&self) {
        self.group.refuse_all();
    }

    /// Finishes what is queued, marks, syncs, writes the producers' snapshot; returns the end for the clean marker
    /// (rule S5). Readers that wait are woken. Later calls find it closed.
    pub fn close(&self) -> Ticket<Result<Offset, AppendFailure>> {
        self.begin_shutdown();
        self.call(true, true, |core, group| {
            let result = match &core.fenced {
                Some(cause) => Err(fenced(core, cause.clone())),
                None => {
                    let time = core.append_time(&*group.clock);
                    let closed = core.log.log.close(time, core.epoch);
                    core.settle(group);
                    closed.map_err(|error| fenced(core, error.to_string()))
                }
            };
            if result.is_ok() {
                core.log.write_snapshot(&core.producers);
                core.log.write_event_ids();
            }
            core.log.closed = true;
            core.log.publish();
            core.lose_waiting();
            group.watermark.close();
            result
        })
    }

    /// Stops touching the files, without a mark or a sync: they are about to be removed. Waits for the sync in flight.
    pub fn discard(&self) -> Ticket<Result<(), AppendFailure>> {
        self.begin_shutdown();
        self.call(true, true, |core, group| {
            core.log.closed = true;
            core.lose_waiting();
            group.watermark.close();
            Ok(())
        })
    }

    /// Keeps a damaged range (rule C3): in the ledger, and for readers that skip it. Blocks.
    pub fn report_damage(&self, range: OffsetRange, what: &str) {
        if !self.facts.add_damage(range, what) {
            return;
        }
        self.forget_events(range);
        tracing::error!(topic = %self.name.topic, partition = %self.name.partition, from = %range.from, to = %range.to,
            what, "damaged range");
        if let Err(error) = self.environment.ledger.record_quarantine(self.name, &[range]) {
            tracing::error!(%error, "the damaged range is known until the next start only");
        }
    }
}

pub(super) fn fenced(core: &Core<LogStore>, cause: String) -> AppendFailure {
    AppendFailure::Fenced { durable_end: core.log.log.durable_end(), cause, outcome_unknown: false }
}

impl PartitionLog for Partition {
    fn append(
        &self,
        batch: CheckedBatch,
        level: AckLevel,
        permit: Permit,
    ) -> BoxFuture<'static, Result<AppendAck, AppendFailure>> {
        Box::pin(match self.environment.disk.check() {
            Ok(()) => self.group.append(batch, level, permit),
            Err(failure) => Ticket::ready(Err(failure)),
        })
    }

    fn append_dead_letters(&self, batch: CheckedBatch) -> BoxFuture<'static, Result<AppendAck, AppendFailure>> {
        Box::pin(match self.environment.disk.take_dead_letters(batch.bytes.len() as u64) {
            Ok(()) => self.group.append(batch, AckLevel::Durable, Permit::default()),
            Err(failure) => Ticket::ready(Err(failure)),
        })
    }

    fn read(&self, from: Offset, max_bytes: usize) -> BoxFuture<'_, Result<FrameRun, PartitionReadError>> {
        Box::pin(self.read_frames(from, max_bytes, ReadTurn::Live))
    }

    fn read_behind(&self, from: Offset, max_bytes: usize) -> BoxFuture<'_, Result<FrameRun, PartitionReadError>> {
        Box::pin(self.read_frames(from, max_bytes, ReadTurn::Behind))
    }

    fn high_watermark(&self) -> Offset {
        self.group.watermark.get()
    }

    fn log_start(&self) -> Offset {
        self.reader.bounds().start
    }

    fn wait_beyond(&self, offset: Offset) -> BoxFuture<'static, Offset> {
        Box::pin(self.group.watermark.beyond(offset))
    }

    fn offset_at_time(&self, time_ms: i64) -> BoxFuture<'_, Result<Offset, PartitionReadError>> {
        Box::pin(self.find_time(time_ms))
    }

    fn check_position(&self, epoch: PartitionEpoch, offset: Offset) -> BoxFuture<'_, Result<(), PartitionReadError>> {
        Box::pin(self.find_cut(epoch, offset))
    }

    fn epoch(&self) -> PartitionEpoch {
        self.facts.epoch()
    }

    fn status(&self) -> PartitionStatus {
        let bounds = self.reader.bounds();
        let condition = self.facts.condition();
        PartitionStatus {
            log_start: bounds.start,
            high_watermark: self.group.watermark.get(),
            log_end: bounds.end,
            durable_end: bounds.durable_end,
            size_bytes: self.facts.size_bytes(),
            segments: u32::try_from(condition.segments.len()).unwrap_or(u32::MAX),
            epoch: self.facts.epoch(),
            state: condition.state,
            damaged: condition.damaged,
            last_truncation: condition.last_truncation,
            maybe_missing_from: condition.maybe_missing_from,
        }
    }

    fn damaged_at(&self, offset: Offset) -> Option<OffsetRange> {
        self.facts.damaged_at(offset)
    }
}

#[cfg(test)]
#[path = "local_tests.rs"]
mod tests;
