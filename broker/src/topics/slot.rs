//! The place of one partition: serves as soon as its log is open, says why while it is not, and notices what happens
//! to it, so that nobody has to look at idle partitions.
//!
//! Invariants: once open, a slot stays open until it is closed for good; a partition with work that time will make
//! due is in the [`Attention`] list.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, watch};

use super::metadata::Status;
use crate::clock::Monotonic;
use crate::limits;
use crate::log::FrameRun;
use crate::model::{AckLevel, Offset, OffsetRange, PartitionEpoch};
use crate::partition::{
    AppendAck, AppendFailure, BoxFuture, CheckedBatch, Partition, PartitionLog, PartitionReadError, PartitionRef,
    PartitionState, PartitionStatus, Permit,
};

/// Milliseconds between two looks at the partitions in the list.
pub const TICK_MS: u64 = 250;
/// Looks after the last append, on top of the flush interval: mark frame within a second, then one to be sure.
const TICKS_AFTER_APPEND: u32 = 8;

/// Partitions that were appended to lately: the only ones that are looked at several times a second.
#[derive(Debug, Default)]
pub struct Attention {
    listed: Mutex<Vec<Arc<PartitionSlot>>>,
    /// Wakes the job when the list is no longer empty.
    pub wake: Notify,
    /// Wakes the job that writes checkpoints.
    pub checkpoint_due: Notify,
    unchecked_bytes: AtomicU64,
}

impl Attention {
    /// Takes the list out.
    pub fn take(&self) -> Vec<Arc<PartitionSlot>> {
        std::mem::take(&mut *self.listed.lock())
    }

    /// Puts those back that need another look.
    pub fn put_back(&self, slots: Vec<Arc<PartitionSlot>>) {
        self.listed.lock().extend(slots);
    }

    /// Whether nobody needs a look.
    pub fn is_empty(&self) -> bool {
        self.listed.lock().is_empty()
    }

    /// Bytes appended since the last checkpoint, of all partitions; starts to count anew.
    pub fn take_unchecked_bytes(&self) -> u64 {
        self.unchecked_bytes.swap(0, Ordering::Relaxed)
    }
}

/// What a slot is while its partition is not open.
#[derive(Debug, Clone)]
enum Phase {
    Recovering,
    Open,
    Failed(Arc<str>),
}

/// The place of one partition.
#[derive(Debug)]
pub struct PartitionSlot {
    reference: PartitionRef,
    partition: OnceLock<Arc<Partition>>,
    phase: RwLock<Phase>,
    opened: watch::Sender<bool>,
    known_epoch: PartitionEpoch,
    metadata: Arc<Status>,
    attention: Arc<Attention>,
    own: std::sync::Weak<Self>,
    listed: AtomicBool,
    touched: AtomicBool,
    looks_left: AtomicU32,
    flush_interval_ms: AtomicU64,
    unchecked_bytes: AtomicU64,
    /// The greatest log start that somebody asked for (rules RE-4, RE-9); 0: none.
    trimmed: AtomicU64,
}

impl PartitionSlot {
    /// A slot whose partition is not open yet.
    pub fn new(
        reference: PartitionRef,
        known_epoch: PartitionEpoch,
        metadata: Arc<Status>,
        attention: Arc<Attention>,
    ) -> Arc<Self> {
        Arc::new_cyclic(|own| Self {
            reference,
            partition: OnceLock::new(),
            phase: RwLock::new(Phase::Recovering),
            opened: watch::Sender::new(false),
            known_epoch,
            metadata,
            attention,
            own: own.clone(),
            listed: AtomicBool::new(false),
            touched: AtomicBool::new(false),
            looks_left: AtomicU32::new(0),
            flush_interval_ms: AtomicU64::new(0),
            unchecked_bytes: AtomicU64::new(0),
            trimmed: AtomicU64::new(0),
        })
    }

    /// Somebody asks for the log to begin here: as soon as nothing needs what lies below (rule DL-4).
    pub(super) fn note_trim(&self, to: Offset) {
        self.trimmed.fetch_max(to.get(), Ordering::SeqCst);
    }

    /// The greatest log start that somebody asked for.
    pub(super) fn trimmed(&self) -> Option<Offset> {
        Offset::new(self.trimmed.load(Ordering::SeqCst)).filter(|offset| *offset > Offset::ZERO)
    }

    /// Which partition it is.
    pub fn reference(&self) -> PartitionRef {
        self.reference
    }

    /// The partition, once open.
    pub fn partition(&self) -> Option<&Arc<Partition>> {
        self.partition.get()
    }

    /// Why it could not be opened, if so.
    pub fn failure(&self) -> Option<Arc<str>> {
        match &*self.phase.read() {
            Phase::Failed(cause) => Some(Arc::clone(cause)),
            _ => None,
        }
    }

    /// Serves from now on.
    pub fn fill(&self, partition: Arc<Partition>) {
        let filled = self.partition.set(partition).is_ok();
        assert!(filled, "a slot is filled once");
        *self.phase.write() = Phase::Open;
        self.opened.send_replace(true);
        // What recovery left to do by time (a mark frame, a flush) is seen to as after an append.
        self.touch();
    }

    /// Says why it cannot be opened.
    pub fn fail(&self, cause: &str) {
        *self.phase.write() = Phase::Failed(cause.into());
    }

    /// Longest time until what was appended is synced without being asked for.
    pub fn set_flush_interval_ms(&self, flush_interval_ms: u64) {
        self.flush_interval_ms.store(flush_interval_ms, Ordering::Relaxed);
    }

    /// One look: does what is due by time; `true` if another is needed.
    pub fn look(&self, now: Monotonic, wall_ms: i64) -> bool {
        let Some(partition) = self.partition.get() else { return false };
        if self.touched.swap(false, Ordering::SeqCst) {
            let flush = u32::try_from(self.flush_interval_ms.load(Ordering::Relaxed) / TICK_MS).unwrap_or(u32::MAX);
            self.looks_left.store(flush.saturating_add(TICKS_AFTER_APPEND), Ordering::Relaxed);
        }
        partition.tick(now, wall_ms);
        let left = self.looks_left.load(Ordering::Relaxed);
        if left > 0 {
            self.looks_left.store(left - 1, Ordering::Relaxed);
            return true;
        }
        self.listed.store(false, Ordering::SeqCst);
        // An append between the last look and this line found it listed.
        self.touched.load(Ordering::SeqCst) && !self.listed.swap(true, Ordering::SeqCst)
    }

    /// Bytes that recovery had to scan or that were appended since the last call: a checkpoint comes now.
    pub fn take_unchecked_bytes(&self) -> u64 {
        self.unchecked_bytes.swap(0, Ordering::Relaxed)
    }

    /// Takes note of bytes that recovery had to scan, so that the next checkpoint spares the next start them.
    pub fn note_scanned(&self, bytes: u64) {
        self.unchecked_bytes.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Puts it into the attention list.
    pub fn touch(&self) {
        if !self.touched.load(Ordering::Relaxed) {
            self.touched.store(true, Ordering::SeqCst);
        }
        if self.listed.load(Ordering::SeqCst) || self.listed.swap(true, Ordering::SeqCst) {
            return;
        }
        let Some(own) = self.own.upgrade() else { return };
        self.attention.listed.lock().push(own);
        self.attention.wake.notify_one();
    }

    fn note_append(&self, bytes: u64) {
        self.touch();
        let own = self.unchecked_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let all = self.attention.unchecked_bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        let due = |sum: u64, limit: u64| sum >= limit && sum - bytes < limit;
        if due(own, limits::UNCHECKED_PARTITION_BYTES) || due(all, limits::UNCHECKED_BYTES) {
            self.attention.checkpoint_due.notify_one();
        }
    }

    fn refusal(&self) -> AppendFailure {
        match &*self.phase.read() {
            Phase::Failed(cause) => {
                AppendFailure::Fenced { durable_end: Offset::ZERO, cause: cause.to_string(), outcome_unknown: false }
            }
            Phase::Recovering | Phase::Open => AppendFailure::Recovering,
        }
    }

    fn closed_status(&self) -> PartitionStatus {
        let state = match &*self.phase.read() {
            Phase::Failed(cause) => PartitionState::Fenced(cause.to_string()),
            Phase::Recovering | Phase::Open => PartitionState::Recovering,
        };
        PartitionStatus {
            log_start: Offset::ZERO,
            high_watermark: Offset::ZERO,
            log_end: Offset::ZERO,
            durable_end: Offset::ZERO,
            size_bytes: 0,
            segments: 0,
            epoch: self.known_epoch,
            state,
            damaged: Vec::new(),
            last_truncation: None,
            maybe_missing_from: None,
        }
    }
}

impl PartitionLog for PartitionSlot {
    fn append(
        &self,
        batch: CheckedBatch,
        level: AckLevel,
        permit: Permit,
    ) -> BoxFuture<'static, Result<AppendAck, AppendFailure>> {
        let Some(partition) = self.partition.get() else {
            let refusal = self.refusal();
            return Box::pin(async move { Err(refusal) });
        };
        if let Some(cause) = self.metadata.read_only() {
            return Box::pin(async move { Err(AppendFailure::BrokerReadOnly { cause: cause.to_string() }) });
        }
        let bytes = batch.bytes.len() as u64;
        let ack = partition.append(batch, level, permit);
        self.note_append(bytes);
        ack
    }

    fn append_dead_letters(&self, batch: CheckedBatch) -> BoxFuture<'static, Result<AppendAck, AppendFailure>> {
        let refusal = match (self.partition.get(), self.metadata.read_only()) {
            (Some(partition), None) => {
                let bytes = batch.bytes.len() as u64;
                let ack = partition.append_dead_letters(batch);
                self.note_append(bytes);
                return ack;
            }
            (None, _) => self.refusal(),
            (_, Some(cause)) => AppendFailure::BrokerReadOnly { cause: cause.to_string() },
        };
        Box::pin(async move { Err(refusal) })
    }

    fn read(&self, from: Offset, max_bytes: usize) -> BoxFuture<'_, Result<FrameRun, PartitionReadError>> {
        match self.partition.get() {
            Some(partition) => partition.read(from, max_bytes),
            None => Box::pin(async { Err(PartitionReadError::Recovering) }),
        }
    }

    fn high_watermark(&self) -> Offset {
        self.partition.get().map_or(Offset::ZERO, |partition| partition.high_watermark())
    }

    fn log_start(&self) -> Offset {
        self.partition.get().map_or(Offset::ZERO, |partition| partition.log_start())
    }

    fn wait_beyond(&self, offset: Offset) -> BoxFuture<'static, Offset> {
        if let Some(partition) = self.partition.get() {
            return partition.wait_beyond(offset);
        }
        let mut opened = self.opened.subscribe();
        let own = self.own.clone();
        Box::pin(async move {
            // An error means that the slot is gone, which counts as closed.
            if opened.wait_for(|opened| *opened).await.is_err() {
                return Offset::ZERO;
            }
            drop(opened);
            let partition = own.upgrade().and_then(|slot| slot.partition.get().cloned());
            match partition {
                Some(partition) => partition.wait_beyond(offset).await,
                None => Offset::ZERO,
            }
        })
    }

    fn offset_at_time(&self, time_ms: i64) -> BoxFuture<'_, Result<Offset, PartitionReadError>> {
        match self.partition.get() {
            Some(partition) => partition.offset_at_time(time_ms),
            None => Box::pin(async { Err(PartitionReadError::Recovering) }),
        }
    }

    fn check_position(&self, epoch: PartitionEpoch, offset: Offset) -> BoxFuture<'_, Result<(), PartitionReadError>> {
        match self.partition.get() {
            Some(partition) => partition.check_position(epoch, offset),
            None => Box::pin(async { Err(PartitionReadError::Recovering) }),
        }
    }

    fn epoch(&self) -> PartitionEpoch {
        self.partition.get().map_or(self.known_epoch, |partition| partition.epoch())
    }

    fn status(&self) -> PartitionStatus {
        self.partition.get().map_or_else(|| self.closed_status(), |partition| partition.status())
    }

    fn damaged_at(&self, offset: Offset) -> Option<OffsetRange> {
        self.partition.get()?.damaged_at(offset)
    }
}
