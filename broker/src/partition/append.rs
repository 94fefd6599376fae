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
//! `leader.rs` has what the leader does with what it finds.
//!
//! Invariants: nothing is awaited and no lock is held while leading, but for the moments of queue access; a panic
//! while leading ends the process (rule F7), since the log and its books may disagree; offsets, times and epochs never
//! fall along the log (rules D3, F6).

use std::collections::VecDeque;
use std::fmt;
use std::time::Duration;

use bytes::BytesMut;

use super::budget::Permit;
use super::commit::{AppendAnswer, Synced, Ticket, Waiting, ticket};
use super::producers::Producers;
use super::pulse::Pulse;
use super::sync::{Arc, Mutex};
use super::watermark::Watermark;
use super::{
    AckLevel, AppendAck, AppendError, AppendFailure, Appended, CheckedBatch, Clock, EventDirectory, FrameDraft, Offset,
    PartitionEpoch, ProducerDirectory, SyncError,
};

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
    /// Error number of the call of its own whose failure fenced it, if known.
    fn fence_errno(&self) -> Option<i32> {
        None
    }
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
    pub(crate) events: Option<Arc<dyn EventDirectory>>,
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
    pub(super) directory: Option<Arc<dyn ProducerDirectory>>,
    pub(super) events: Option<Arc<dyn EventDirectory>>,
}

pub(super) struct Queue<L: GroupLog> {
    core: Option<Box<Core<L>>>,
    pub(super) appends: VecDeque<Queued>,
    pub(super) calls: VecDeque<Call<L>>,
    pub(super) synced: Option<Synced<L::Sync>>,
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
    pub(super) calls: VecDeque<Call<L>>,
    pub(super) synced: Option<Synced<L::Sync>>,
    /// A roll is due and waits for the sync in flight.
    pub(super) roll_stalled: bool,
    /// The last append was slow.
    pub(super) slow: bool,
    pub(super) ack_before_sync: bool,
    pub(super) drafts: Vec<FrameDraft>,
    pub(super) decided: Vec<Decided>,
    pub(super) heads: BytesMut,
}

/// An append that waits for its turn.
pub(crate) struct Queued {
    pub(super) batch: CheckedBatch,
    pub(super) level: AckLevel,
    pub(super) permit: Permit,
    pub(super) answer: AppendAnswer,
}

/// An append whose place in the log is decided.
pub(super) struct Decided {
    pub(super) ack: AppendAck,
    pub(super) permit: Permit,
    pub(super) answer: AppendAnswer,
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
pub(super) enum Place {
    /// In a request's task: must not block.
    Inline,
    /// On a thread that may.
    Blocking,
}

pub(super) enum Progress {
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
            events: parts.events,
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

impl<L: GroupLog> fmt::Debug for Group<L> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Group").field("watermark", &self.watermark.get()).finish_non_exhaustive()
    }
}
