//! Group append: leader and followers.
//!
//! All that changes a partition's log is done by its leader: whoever holds the [`Core`], of which there is one. An
//! append puts its batch into a queue under a short lock; if the core lies there, the same task takes it and leads: in
//! one synchronous section, without an await, it drains the queue, decides sequences, assigns offsets, writes all
//! frames with one call, publishes, answers, and puts the core back once the queue is empty. If someone leads already,
//! that leader finds the batch: it cannot put the core back without looking at the queue under the same lock.
//!
//! ```text
//! append ----> queue --- core there? --yes--> lead: take all, decide, write, publish, answer --+--> put core back
//!                            |                  ^                      |                       |
//!                            no: leader sees it |                      | not safe inline       +--> sync job
//!                                               +---- pool thread <----+ (roll, slow, call)          |
//!                                               +-------------------- core there? <------------------+
//! ```
//!
//! Leading inline is for what takes microseconds: while less than 8 MiB are unsynced and appends are quick. Rolls,
//! calls that touch files and appends to a slow disk move, core and all, to a thread that may block; appends queue
//! behind them.
//!
//! Invariants: nothing is awaited and no lock is held while leading, but for the moments of queue access; a panic
//! while leading ends the process (rule F7), since the log and its books may disagree; offsets, times and epochs never
//! fall along the log (rules D3, F6).

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};

use super::budget::Permit;
use super::commit::{AppendAnswer, Completion, Synced, Ticket, Waiting, ticket};
use super::extension;
use super::producers::{Decision, Kept, Producers};
use super::pulse::Pulse;
use super::sync::{Arc, Mutex};
use super::watermark::Watermark;
use super::{
    AckLevel, AppendAck, AppendError, AppendFailure, Appended, CheckedBatch, Clock, FrameDraft, Offset, PartitionEpoch,
    ProducerDirectory, SyncError, head_with, limits,
};

/// Bytes that one call writes at most, unless one frame needs more.
const GROUP_BYTES: u64 = 4 << 20;
/// Bytes of a frame beside batch and extensions, at most.
const FRAME_OVERHEAD_BYTES: u64 = 128;
/// An append that takes longer than this is slow: the next ones leave the request's task.
const SLOW_APPEND: Duration = Duration::from_millis(1);
/// Times that a leader in a request's task takes the queue before it hands over: nobody serves others for ever.
const INLINE_ROUNDS: u32 = 16;

/// The log of a partition, as its leader needs it.
pub(crate) trait GroupLog: Send + 'static {
    /// A sync of all that was appended before it was taken.
    type Sync: Send + 'static;
    /// Offset that the next record gets.
    fn end(&self) -> Offset;
    /// Everything below is synced.
    fn durable_end(&self) -> Offset;
    /// Bytes above the durable end.
    fn unsynced_bytes(&self) -> u64;
    /// Why the log takes no writes, if so.
    fn fenced(&self) -> Option<String>;
    /// Writes all frames, or none.
    fn append(&mut self, frames: &[FrameDraft]) -> Result<Appended, AppendError>;
    /// Whether the active segment must be sealed before so many bytes more, or because of its age.
    fn must_roll(&self, incoming_bytes: u64, append_time_ms: i64) -> bool;
    /// Seals the active segment. Blocks; no sync is in flight. `producers` is the state at the end of the log.
    fn roll(&mut self, producers: &Producers) -> Result<(), AppendError>;
    /// A sync of everything so far, or `None` if all is durable.
    fn begin_sync(&self) -> Option<Self::Sync>;
    /// Blocks until it is durable.
    fn run_sync(sync: &Self::Sync) -> Result<(), SyncError>;
    /// Takes note that it has succeeded.
    fn note_synced(&mut self, sync: &Self::Sync);
    /// Takes no more writes, hides what lies above the durable end.
    fn fence(&mut self, cause: &str);
}

/// Threads that may block. Every job runs.
pub(crate) trait Executor: Send + Sync + 'static {
    /// Runs it soon, elsewhere.
    fn run(&self, job: Box<dyn FnOnce() + Send>);
}

/// Told of what happens; counts.
pub(crate) trait Observer: Send + Sync + 'static {
    /// A group was written.
    fn appended(&self, records: u64, bytes: u64, took: Duration);
    /// A sync ended.
    fn synced(&self, took: Duration, good: bool);
    /// So many completions were answered by one sync.
    fn answered(&self, count: u64);
    /// The partition was fenced; readers had seen everything below `visible`.
    fn fenced(&self, cause: &str, errno: Option<i32>, durable_end: Offset, visible: Offset);
}

/// What a group is made of.
pub(crate) struct Parts<L> {
    pub(crate) log: L,
    pub(crate) producers: Producers,
    pub(crate) epoch: PartitionEpoch,
    pub(crate) last_append_time_ms: i64,
    pub(crate) floor: AckLevel,
    pub(crate) flush_bytes: u64,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) observer: Arc<dyn Observer>,
    pub(crate) directory: Option<Arc<dyn ProducerDirectory>>,
    /// Sabotage: acknowledges before the sync.
    pub(crate) ack_before_sync: bool,
}

/// One partition's queue, and the core while nobody leads.
pub(crate) struct Group<L: GroupLog> {
    queue: Mutex<Queue<L>>,
    pub(crate) watermark: Arc<Watermark>,
    pub(crate) pulse: Pulse,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) executor: Arc<dyn Executor>,
    pub(crate) observer: Arc<dyn Observer>,
    directory: Option<Arc<dyn ProducerDirectory>>,
}

struct Queue<L: GroupLog> {
    core: Option<Box<Core<L>>>,
    appends: VecDeque<Queued>,
    calls: VecDeque<Call<L>>,
    synced: Option<Synced<L::Sync>>,
    fenced: Option<AppendFailure>,
    shutting_down: bool,
}

/// What only the leader may touch.
pub(crate) struct Core<L: GroupLog> {
    pub(crate) log: L,
    pub(crate) producers: Producers,
    pub(crate) epoch: PartitionEpoch,
    pub(crate) last_append_time_ms: i64,
    pub(crate) floor: AckLevel,
    pub(crate) flush_bytes: u64,
    pub(crate) fenced: Option<String>,
    pub(crate) backlog: VecDeque<Queued>,
    pub(crate) waiting: Waiting,
    pub(crate) sync_in_flight: bool,
    pub(crate) force_sync: bool,
    calls: VecDeque<Call<L>>,
    synced: Option<Synced<L::Sync>>,
    /// A roll is due and waits for the sync in flight.
    roll_stalled: bool,
    /// The last append was slow.
    pub(crate) slow: bool,
    ack_before_sync: bool,
    drafts: Vec<FrameDraft>,
    decided: Vec<Decided>,
    heads: BytesMut,
}

/// An append that waits for its turn.
pub(crate) struct Queued {
    batch: CheckedBatch,
    level: AckLevel,
    permit: Permit,
    answer: AppendAnswer,
}

/// An append whose place in the log is decided.
struct Decided {
    ack: AppendAck,
    permit: Permit,
    answer: AppendAnswer,
}

/// Something that the leader does for someone else.
pub(crate) struct Call<L: GroupLog> {
    /// No sync may be in flight.
    pub(crate) quiet: bool,
    /// It may block.
    pub(crate) blocks: bool,
    pub(crate) run: CallBody<L>,
}

/// What a [`Call`] does.
pub(crate) type CallBody<L> = Box<dyn FnOnce(&mut Core<L>, &Arc<Group<L>>) + Send>;

/// Where a leader runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// In a request's task: must not block.
    Inline,
    /// On a thread that may.
    Blocking,
}

enum Progress {
    /// All was done that can be done now.
    Done,
    /// The rest may block.
    NeedsThread,
}

/// Ends the process when a panic leaves a critical section (rule F7).
struct CriticalSection;

impl Drop for CriticalSection {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

impl Queued {
    /// Bytes of its frame, at most.
    fn frame_bytes(&self) -> u64 {
        self.batch.bytes.len() as u64 + FRAME_OVERHEAD_BYTES
    }

    pub(crate) fn refuse(self, failure: AppendFailure) {
        drop(self.permit);
        self.answer.give(Err(failure));
    }
}

impl<L: GroupLog> Group<L> {
    pub(crate) fn new(parts: Parts<L>) -> Arc<Self> {
        let visible = match parts.floor {
            AckLevel::Durable => parts.log.durable_end(),
            AckLevel::Written => parts.log.end(),
        };
        let watermark = Watermark::new(visible);
        let fenced = parts.log.fenced();
        let refusal = fenced.as_ref().map(|cause| AppendFailure::Fenced {
            durable_end: parts.log.durable_end(),
            cause: cause.clone(),
            outcome_unknown: false,
        });
        let core = Core {
            log: parts.log,
            producers: parts.producers,
            epoch: parts.epoch,
            last_append_time_ms: parts.last_append_time_ms,
            floor: parts.floor,
            flush_bytes: parts.flush_bytes,
            fenced,
            backlog: VecDeque::new(),
            waiting: Waiting::default(),
            sync_in_flight: false,
            force_sync: false,
            calls: VecDeque::new(),
            synced: None,
            roll_stalled: false,
            slow: false,
            ack_before_sync: parts.ack_before_sync,
            drafts: Vec::new(),
            decided: Vec::new(),
            heads: BytesMut::new(),
        };
        let queue = Queue {
            core: Some(Box::new(core)),
            appends: VecDeque::new(),
            calls: VecDeque::new(),
            synced: None,
            fenced: refusal,
            shutting_down: false,
        };
        Arc::new(Self {
            queue: Mutex::new(queue),
            watermark,
            pulse: Pulse::default(),
            clock: parts.clock,
            executor: parts.executor,
            observer: parts.observer,
            directory: parts.directory,
        })
    }

    /// Queues a batch, and leads if nobody does. From here on the caller may go away (rule D8).
    pub(crate) fn append(
        self: &Arc<Self>,
        batch: CheckedBatch,
        level: AckLevel,
        permit: Permit,
    ) -> Ticket<Result<AppendAck, AppendFailure>> {
        let core = {
            let mut queue = self.queue.lock();
            let refusal = if queue.shutting_down { Some(AppendFailure::ShuttingDown) } else { queue.fenced.clone() };
            if let Some(refusal) = refusal {
                drop(queue);
                return Ticket::ready(Err(refusal));
            }
            let (answer, ticket) = ticket();
            queue.appends.push_back(Queued { batch, level, permit, answer });
            match queue.core.take() {
                Some(core) => (core, ticket),
                None => return ticket,
            }
        };
        let (core, ticket) = core;
        self.lead(core, Place::Inline);
        ticket
    }

    /// Has the leader do something, in the order of the calls.
    pub(crate) fn call(self: &Arc<Self>, call: Call<L>) {
        let core = {
            let mut queue = self.queue.lock();
            queue.calls.push_back(call);
            queue.core.take()
        };
        if let Some(core) = core {
            self.lead(core, Place::Inline);
        }
    }

    /// Brings the result of a sync, and leads if nobody does. On a thread that may block.
    pub(crate) fn bring_synced(self: &Arc<Self>, synced: Synced<L::Sync>) {
        let core = {
            let mut queue = self.queue.lock();
            assert!(queue.synced.is_none(), "one sync is in flight at most");
            queue.synced = Some(synced);
            queue.core.take()
        };
        if let Some(core) = core {
            self.lead(core, Place::Blocking);
        }
    }

    /// What appends are refused with while the partition is fenced.
    pub(crate) fn refuse_fenced(&self, refusal: Option<AppendFailure>) {
        self.queue.lock().fenced = refusal;
    }

    /// Refuses appends from now on; what is queued is finished.
    pub(crate) fn refuse_all(&self) {
        self.queue.lock().shutting_down = true;
    }

    fn lead(self: &Arc<Self>, mut core: Box<Core<L>>, place: Place) {
        let _guard = CriticalSection;
        let mut rounds = 0;
        loop {
            {
                let mut queue = self.queue.lock();
                core.take(&mut queue);
                if core.is_idle() {
                    queue.core = Some(core);
                    return;
                }
            }
            let tired = place == Place::Inline && rounds == INLINE_ROUNDS;
            if tired || matches!(core.run(self, place), Progress::NeedsThread) {
                let group = Arc::clone(self);
                self.executor.run(Box::new(move || group.lead(core, Place::Blocking)));
                return;
            }
            rounds += 1;
        }
    }
}

impl<L: GroupLog> Core<L> {
    fn take(&mut self, queue: &mut Queue<L>) {
        if self.backlog.is_empty() {
            std::mem::swap(&mut self.backlog, &mut queue.appends);
        } else {
            self.backlog.append(&mut queue.appends);
        }
        self.calls.append(&mut queue.calls);
        if let Some(synced) = queue.synced.take() {
            self.synced = Some(synced);
        }
    }

    /// Nothing can be done before someone brings more.
    fn is_idle(&self) -> bool {
        let callable = self.calls.front().is_some_and(|call| !(call.quiet && self.sync_in_flight));
        let writable = !self.backlog.is_empty() && !self.roll_stalled;
        self.synced.is_none() && !callable && !writable
    }

    /// A call or a roll waits for the sync in flight, so that no other may begin.
    pub(crate) fn needs_quiet(&self) -> bool {
        self.roll_stalled || self.calls.iter().any(|call| call.quiet)
    }

    fn run(&mut self, group: &Arc<Group<L>>, place: Place) -> Progress {
        if let Some(synced) = self.synced.take() {
            // Still stalled while it is finished, so that no other sync begins before the roll.
            self.finish_sync(group, synced);
            self.roll_stalled = false;
        }
        if let Progress::NeedsThread = self.write_backlog(group, place) {
            return Progress::NeedsThread;
        }
        while let Some(call) = self.calls.front() {
            if call.quiet && self.sync_in_flight {
                break;
            }
            if call.blocks && place == Place::Inline {
                return Progress::NeedsThread;
            }
            let call = self.calls.pop_front().expect("it was looked at just now");
            (call.run)(self, group);
            self.settle(group);
        }
        self.begin_sync(group);
        Progress::Done
    }

    fn write_backlog(&mut self, group: &Arc<Group<L>>, place: Place) -> Progress {
        while let Some(front) = self.backlog.front() {
            if let Some(cause) = &self.fenced {
                let (durable_end, cause) = (self.log.durable_end(), cause.clone());
                let queued = self.backlog.pop_front().expect("it was looked at just now");
                queued.refuse(AppendFailure::Fenced { durable_end, cause, outcome_unknown: false });
                continue;
            }
            let time = self.append_time(&*group.clock);
            let roll = self.log.must_roll(front.frame_bytes(), time);
            if place == Place::Inline && (roll || !self.is_well()) {
                return Progress::NeedsThread;
            }
            if roll {
                if self.sync_in_flight {
                    self.roll_stalled = true;
                    return Progress::Done;
                }
                if !self.roll(group) {
                    continue;
                }
            }
            self.write_group(group, time);
        }
        Progress::Done
    }

    /// Seals the active segment. On a thread that may block, without a sync in flight. If the next segment cannot be
    /// made, what is queued is refused, and the next append tries again.
    pub(crate) fn roll(&mut self, group: &Arc<Group<L>>) -> bool {
        let result = self.log.roll(&self.producers);
        self.settle(group);
        let Err(error) = result else { return true };
        let failure = write_failure(&error, self.log.durable_end(), false);
        while let Some(queued) = self.backlog.pop_front() {
            queued.refuse(failure.clone());
        }
        false
    }

    /// Whether appends may run in a request's task.
    fn is_well(&self) -> bool {
        !self.slow && self.log.unsynced_bytes() < limits::INLINE_UNSYNCED_BYTES
    }

    /// The time of the next append: the wall clock, but never earlier than the last (rule F6).
    pub(crate) fn append_time(&self, clock: &dyn Clock) -> i64 {
        clock.wall_ms().max(self.last_append_time_ms)
    }

    /// Writes as many batches as one call takes, at least one.
    fn write_group(&mut self, group: &Arc<Group<L>>, time: i64) {
        let began = group.clock.monotonic();
        let begin = self.log.end();
        let mut next = begin;
        let mut bytes = 0;
        while let Some(front) = self.backlog.front() {
            let size = front.frame_bytes();
            if bytes > 0 && (bytes + size > GROUP_BYTES || self.log.must_roll(bytes + size, time)) {
                break;
            }
            let queued = self.backlog.pop_front().expect("it was looked at just now");
            match self.producers.decide(&queued.batch, group.directory.as_deref()) {
                Decision::Refuse(failure) => queued.refuse(failure),
                Decision::Duplicate(kept) => self.decide(queued, kept, true),
                Decision::Write => {
                    let record_count = queued.batch.header.record_count;
                    let kept = Kept { base_offset: next, record_count, epoch: self.epoch, append_time_ms: time };
                    self.producers.wrote(&queued.batch, kept, began);
                    next = next.saturating_add(u64::from(record_count));
                    bytes += size;
                    self.draft(&queued.batch, kept);
                    self.decide(queued, kept, false);
                }
            }
        }
        if self.drafts.is_empty() {
            self.answer_group(group, None);
            return;
        }
        let result = self.log.append(&self.drafts);
        self.drafts.clear();
        let now = group.clock.monotonic();
        let took = now.0.saturating_sub(began.0);
        self.slow = took > SLOW_APPEND;
        match result {
            Ok(appended) => {
                self.last_append_time_ms = time;
                group.pulse.appended(now);
                group.observer.appended(next.distance_from(begin), appended.bytes, took);
                self.answer_group(group, None);
            }
            Err(error) => {
                self.producers.truncate(begin);
                let failure = write_failure(&error, self.log.durable_end(), true);
                self.answer_group(group, Some((begin, failure)));
            }
        }
    }

    fn decide(&mut self, queued: Queued, kept: Kept, duplicate: bool) {
        let ack = AppendAck {
            base_offset: kept.base_offset,
            record_count: kept.record_count,
            epoch: kept.epoch,
            append_time_ms: kept.append_time_ms,
            level: queued.level.max(self.floor),
            duplicate,
        };
        self.decided.push(Decided { ack, permit: queued.permit, answer: queued.answer });
    }

    fn draft(&mut self, batch: &CheckedBatch, kept: Kept) {
        let head = head_with(&batch.bytes, kept.base_offset.to_wire(), kept.epoch.get() as i32);
        self.heads.reserve(head.len());
        self.heads.put_slice(&head);
        self.drafts.push(FrameDraft {
            base_offset: kept.base_offset,
            record_count: kept.record_count,
            append_time_ms: kept.append_time_ms,
            epoch: kept.epoch,
            extensions: batch.request.as_ref().map_or_else(Bytes::new, extension::encode),
            batch_head: self.heads.split().freeze(),
            batch_rest: batch.bytes.slice(head.len()..),
        });
    }

    /// Answers what was decided, or has it wait for a sync. `failed`: what would lie above this offset was not
    /// written.
    fn answer_group(&mut self, group: &Arc<Group<L>>, failed: Option<(Offset, AppendFailure)>) {
        let durable_end = self.log.durable_end();
        if self.floor == AckLevel::Written && failed.is_none() {
            // Before the answers: what is acknowledged can be read.
            group.watermark.advance(self.log.end());
        }
        let mut decided = std::mem::take(&mut self.decided);
        for Decided { ack, permit, answer } in decided.drain(..) {
            let end = ack.base_offset.saturating_add(u64::from(ack.record_count));
            match &failed {
                Some((begin, failure)) if end > *begin => {
                    drop(permit);
                    answer.give(Err(failure.clone()));
                }
                _ if ack.level == AckLevel::Written || end <= durable_end || self.ack_before_sync => {
                    drop(permit);
                    answer.give(Ok(ack));
                }
                _ => self.waiting.push(end, Completion::Append { answer, permit, ack }),
            }
        }
        self.decided = decided;
        if failed.is_some() {
            self.settle(group);
        }
    }
}

/// `tried`: the frames were given to the system, so that a fence leaves their outcome unknown.
fn write_failure(error: &AppendError, durable_end: Offset, tried: bool) -> AppendFailure {
    match error {
        AppendError::Write { source } => {
            AppendFailure::WriteFailed { errno: source.raw_os_error(), what: source.to_string() }
        }
        AppendError::Fenced { cause } => {
            AppendFailure::Fenced { durable_end, cause: cause.clone(), outcome_unknown: tried }
        }
    }
}

impl<L: GroupLog> fmt::Debug for Group<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("watermark", &self.watermark.get()).finish_non_exhaustive()
    }
}
