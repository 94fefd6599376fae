//! One group: a lock around its machine, the outboxes of its sessions, and what follows from each event.
//!
//! [`Group::drive_event`] is the one way in. Under the lock: the machine decides, its records go to both journals (so
//! that they stand there in the order in which they were decided), frames go to outboxes, fetches begin. What calls
//! others (dead letters, metrics) is handed over after the lock, in the order of the decisions.
//!
//! Invariants: no await and no call out of this module's own structures under the lock; at most one fetch of a
//! partition is out, a newer one ends the older; the group's place in the timers is never later than its deadline.

mod handle;
mod shadow;
mod streams;

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard};
use tokio::task::AbortHandle;

use super::counters::Counters;
use super::delivery::cache::Cache;
use super::delivery::fetch;
use super::delivery::pace::{CurrentPace, Pace};
use super::outbox::Outbox;
use super::replay_views::ReplayId;
use super::shared::Shared;
use super::waiters::Waiters;
use crate::dead_letter::handle::{Driven, GroupHandle, Written};
use crate::group::GroupConfig;
use crate::group::effect::{Effects, Fetch, Frame, Notice, Refusal};
use crate::group::event::{Admin, Event, Fetched};
use crate::group::machine::Machine;
use crate::group::record::{GapReason, GroupRecord};
use crate::model::{GroupId, GroupName, MemberId, Offset, PartitionEpoch, Source};
use crate::partition::PartitionLog;

/// No deadline.
const NEVER: u64 = u64::MAX;

/// One group.
#[derive(Debug)]
pub(super) struct Group {
    id: GroupId,
    name: GroupName,
    shared: Arc<Shared>,
    own: Weak<Self>,
    inner: Mutex<Inner>,
    cache: Cache,
    /// The pace of its open replay.
    pace: CurrentPace,
    pub(super) waiters: Waiters,
    counters: Counters,
    /// When the timers look at the group next, by the monotonic clock in milliseconds.
    scheduled_ms: AtomicU64,
    handing: Mutex<()>,
    handovers: Mutex<VecDeque<Handover>>,
    rebuilding: shadow::Rebuilding,
}

/// What the lock protects.
#[derive(Debug)]
pub(super) struct Inner {
    pub(super) machine: Machine,
    pub(super) config: Arc<GroupConfig>,
    outboxes: HashMap<MemberId, Arc<Outbox>>,
    fetches: HashMap<Source, (u64, AbortHandle)>,
    next_fetch: u64,
    told: HashMap<Source, Offset>,
    written: Written,
    /// Deleted, or the broker stops: nothing is decided any more.
    gone: bool,
    /// The end of the group is in the journal.
    deleted: bool,
    /// Since when nobody has a stream, by the monotonic clock in milliseconds.
    idle_since_ms: u64,
}

/// What others are told after the lock.
#[derive(Debug)]
struct Handover {
    moves: Vec<(Source, u64)>,
    /// The moves are of intents from before the start.
    again: bool,
    opened: Vec<(Source, u64)>,
    notices: Vec<Notice>,
    written: Written,
}

impl Group {
    /// A group with the state that the journals have, or that was just created.
    pub(super) fn new(shared: &Arc<Shared>, machine: Machine) -> Arc<Self> {
        let (id, name) = (machine.state().id, machine.state().name.clone());
        let rebuilding = shadow::Rebuilding::of(&machine);
        let inner = Inner {
            config: Arc::new(machine.state().config.clone()),
            machine,
            outboxes: HashMap::new(),
            fetches: HashMap::new(),
            next_fetch: 1,
            told: HashMap::new(),
            written: Written::default(),
            gone: false,
            deleted: false,
            idle_since_ms: shared.now().monotonic_ms,
        };
        Arc::new_cyclic(|own| Self {
            id,
            cache: Cache::new(Arc::clone(&shared.cache_budget)),
            pace: CurrentPace::default(),
            shared: Arc::clone(shared),
            own: own.clone(),
            inner: Mutex::new(inner),
            waiters: Waiters::default(),
            counters: Counters::new(shared.metrics.group(name.as_str())),
            name,
            scheduled_ms: AtomicU64::new(NEVER),
            handing: Mutex::new(()),
            handovers: Mutex::default(),
            rebuilding,
        })
    }

    pub(super) fn id(&self) -> GroupId {
        self.id
    }

    pub(super) fn name(&self) -> &GroupName {
        &self.name
    }

    pub(super) fn shared(&self) -> &Arc<Shared> {
        &self.shared
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// The pace of the open replay.
    pub(super) fn pace(&self) -> Option<Arc<Pace>> {
        self.pace.get()
    }

    /// The open replay has another pace from now on.
    pub(super) fn set_pace(&self, pace: Option<Pace>) {
        self.pace.set(pace);
    }

    pub(super) fn config(&self) -> Arc<GroupConfig> {
        Arc::clone(&self.inner.lock().config)
    }

    /// Looks at the machine; keep it short.
    pub(super) fn look<T>(&self, look: impl FnOnce(&Machine) -> T) -> T {
        look(&self.inner.lock().machine)
    }

    /// Looks at the machine and what is kept beside it; keep it short.
    pub(super) fn look_inside<T>(&self, look: impl FnOnce(&Inner) -> T) -> T {
        look(&self.inner.lock())
    }

    /// What everything decided so far must wait for.
    pub(super) fn written(&self) -> Written {
        self.inner.lock().written
    }

    /// A partition of the group.
    pub(super) fn log(&self, source: Source) -> Option<Arc<dyn PartitionLog>> {
        self.shared.logs.log(source)
    }

    /// The partition that holds the dead letters of a partition.
    pub(super) fn dead_letter_log(&self, source: Source) -> Option<Arc<dyn PartitionLog>> {
        self.shared.logs.dead_letter_log(source, self.letters_id())
    }

    /// Whether every stored batch of the partition's topic can be decoded.
    pub(super) fn proves_batches(&self, source: Source) -> bool {
        self.shared.logs.proves_batches(source.topic)
    }

    /// The epoch that the state of a partition was last compared with; `None`: not a partition of the group.
    pub(super) fn known_epoch(&self, source: Source) -> Option<PartitionEpoch> {
        self.look(|machine| machine.state().partitions.get(&source).map(|partition| partition.epoch))
    }

    /// The same, with the end of everything that the group knows of the partition.
    pub(super) fn highest(&self, source: Source) -> Option<(PartitionEpoch, Offset)> {
        self.look(|machine| {
            let partition = machine.state().partitions.get(&source)?;
            let after = |offset: Offset| offset.saturating_add(1);
            let read_to = machine.partition_live(source).map(|live| live.read_to);
            let tried = partition.tried.keys().next_back().copied().map(after);
            let intents = partition.intents.values().map(|intent| after(intent.key.offset)).max();
            let known = [Some(partition.settled.end()), read_to, tried, intents];
            Some((partition.epoch, known.into_iter().flatten().fold(partition.settled.floor(), Offset::max)))
        })
    }

    /// Why what lies below a log start is gone.
    pub(super) fn reason_of_start(&self, source: Source, start: Offset) -> GapReason {
        self.shared.reason_of_start(source, start)
    }

    /// Gives the machine an event and sees to everything that follows from it.
    pub(super) fn drive_event(&self, event: Event) -> Driven {
        let inner = self.inner.lock();
        self.drive_locked(inner, event, |_| ())
    }

    /// Gives the answer to a fetch, unless a newer one has taken its place.
    pub(super) fn fetched(&self, number: u64, fetched: Fetched) {
        let mut inner = self.inner.lock();
        let current = inner.fetches.get(&fetched.source).is_some_and(|(current, _)| *current == number);
        if !current {
            return;
        }
        inner.fetches.remove(&fetched.source);
        inner.told.insert(fetched.source, fetched.high_watermark);
        self.drive_locked(inner, Event::Fetched(Box::new(fetched)), |_| ());
    }

    /// Tells the machine of a high watermark that it does not know.
    pub(super) fn tell_high_watermark(&self, source: Source, offset: Offset) {
        let mut inner = self.inner.lock();
        if inner.told.insert(source, offset) != Some(offset) {
            self.drive_locked(inner, Event::HighWatermark { source, offset }, |_| ());
        }
    }

    fn drive_locked(&self, mut inner: MutexGuard<'_, Inner>, event: Event, look: impl FnOnce(&Inner)) -> Driven {
        if inner.gone || self.shared.stopped().is_some() {
            look(&inner);
            return Driven { stopped: true, ..Driven::default() };
        }
        let now = self.shared.now();
        let effects = inner.machine.handle(event, now);
        let handover = self.follow(&mut inner, effects);
        look(&inner);
        let driven = Driven { outcome: handover.1, written: inner.written, stopped: false };
        if let Some(handover) = handover.0 {
            // Still under the lock: handovers stand in the order of the decisions.
            self.handovers.lock().push_back(handover);
            drop(inner);
            self.hand_over();
        }
        driven
    }

    /// Everything that follows from an event under the lock.
    fn follow(&self, inner: &mut Inner, effects: Effects) -> (Option<Handover>, Option<Result<(), Refusal>>) {
        let Effects { records, entry_records, frames, fetches, moves, opened, deadline_ms, notices, doubts, outcome } =
            effects;
        if !records.is_empty() || !entry_records.is_empty() {
            let written = self.shared.journals.append(self.id, &records, &entry_records);
            inner.written.group = inner.written.group.max(written.group);
            inner.written.entries = inner.written.entries.max(written.entries);
            self.note_records(inner, &records);
            self.rebuild_changed();
        }
        self.waiters.wake(&records, &entry_records);
        for outgoing in frames {
            let (member, ends) = (outgoing.member, matches!(outgoing.frame, Frame::Ended(_)));
            let Some(outbox) = inner.outboxes.get(&member) else { continue };
            outbox.push(outgoing, inner.written);
            if ends {
                inner.outboxes.remove(&member);
            }
        }
        for (member, epoch) in doubts {
            self.ask(inner, member, epoch);
        }
        for fetch in fetches {
            self.begin_fetch(inner, fetch);
        }
        self.schedule(deadline_ms);
        let quiet = moves.is_empty() && opened.is_empty() && notices.is_empty();
        let written = inner.written;
        let handover = if quiet { None } else { Some(Handover { moves, again: false, opened, notices, written }) };
        (handover, outcome)
    }

    /// What records change of what is kept beside the machine.
    fn note_records(&self, inner: &mut Inner, records: &[GroupRecord]) {
        for record in records {
            match record {
                GroupRecord::Configured { .. } | GroupRecord::Rebuild(_) => {
                    inner.config = Arc::new(inner.machine.state().config.clone())
                }
                GroupRecord::Topics { removed, .. } => {
                    let gone: Vec<Source> =
                        inner.fetches.keys().filter(|source| removed.contains(&source.topic)).copied().collect();
                    for source in gone {
                        self.end_fetch(inner, source);
                        self.cache.forget(source);
                    }
                }
                GroupRecord::Reset { floors, .. } => {
                    floors.iter().for_each(|start| self.cache.forget(start.source));
                }
                GroupRecord::ReplayStarted { replay, .. } => {
                    replay.ranges.iter().for_each(|range| self.cache.forget(range.source));
                }
                GroupRecord::ReplayEnded { .. } => {
                    self.set_pace(None);
                    self.shared.replays.notify_one();
                }
                GroupRecord::Left { .. } if inner.config.replay_only => self.shared.replays.notify_one(),
                GroupRecord::Cut { source, .. } => self.cache.forget(*source),
                GroupRecord::Deleted => inner.deleted = true,
                _ => {}
            }
        }
    }

    fn begin_fetch(&self, inner: &mut Inner, fetch: Fetch) {
        self.end_fetch(inner, fetch.source);
        let Some(own) = self.own.upgrade() else { return };
        let number = inner.next_fetch;
        inner.next_fetch += 1;
        let task = self.shared.tasks.spawn_on(fetch::run(own, fetch, number), &self.shared.runtime);
        inner.fetches.insert(fetch.source, (number, task.abort_handle()));
    }

    fn end_fetch(&self, inner: &mut Inner, source: Source) {
        if let Some((_, task)) = inner.fetches.remove(&source) {
            task.abort();
        }
    }

    /// Makes sure that the timers look at the group in time.
    fn schedule(&self, deadline_ms: Option<u64>) {
        let Some(deadline) = deadline_ms else { return };
        if deadline < self.scheduled_ms.load(Ordering::Relaxed) {
            self.scheduled_ms.store(deadline, Ordering::Relaxed);
            self.shared.timers.add(deadline, self.id);
        }
    }

    /// What is to be done at the start of the broker, once the state has been compared with the partitions.
    pub(super) fn start(&self) {
        let mut inner = self.inner.lock();
        if inner.gone || self.shared.stopped().is_some() {
            return;
        }
        let effects = inner.machine.start(self.shared.now());
        if let (Some(handover), _) = self.follow(&mut inner, effects) {
            // In front of all intents to come: copies are appended in the order of the intents (rule G3).
            self.handovers.lock().push_back(Handover { again: true, ..handover });
        }
        drop(inner);
        self.hand_over();
    }

    /// The timers have come to the group's place of `due_ms`. A later or earlier place is another turn's.
    pub(super) fn tick(&self, due_ms: u64) {
        let inner = self.inner.lock();
        if self.scheduled_ms.load(Ordering::Relaxed) != due_ms {
            return;
        }
        self.scheduled_ms.store(NEVER, Ordering::Relaxed);
        self.drive_locked(inner, Event::Tick, |_| ());
    }

    /// Tells others what has been decided, in order. Whoever comes while somebody does leaves it to them.
    fn hand_over(&self) {
        loop {
            let Some(handing) = self.handing.try_lock() else { return };
            loop {
                let Some(handover) = self.handovers.lock().pop_front() else { break };
                self.tell(handover);
            }
            drop(handing);
            // Somebody may have come between the last look and the end of the turn.
            if self.handovers.lock().is_empty() {
                return;
            }
        }
    }

    fn tell(&self, handover: Handover) {
        let Handover { moves, again, opened, notices, written } = handover;
        let Some(own) = self.own.upgrade() else { return };
        self.counters.note(&notices);
        if !opened.is_empty() {
            self.shared.opened.add(&own, opened, written);
        }
        let Some(dead_letters) = self.shared.dead_letters.get() else { return };
        let own: Arc<dyn GroupHandle> = own;
        if !notices.is_empty() {
            dead_letters.notices(&own, &notices);
        }
        if !moves.is_empty() {
            dead_letters.moves(&own, moves, written, again);
        }
    }

    /// The end of the group: its sessions end, its state is no more (rule OF-8). What must be durable then.
    pub(super) fn delete(&self) -> Written {
        let driven = self.drive_event(Event::Admin(Admin::Delete));
        let mut written = driven.written;
        {
            let mut inner = self.inner.lock();
            if !std::mem::replace(&mut inner.deleted, true) {
                let own = self.shared.journals.append(self.id, &[GroupRecord::Deleted], &[]);
                written.group = written.group.max(own.group);
            }
            let own = self.shared.journals.forget_entries(self.id);
            written.entries = written.entries.max(own.entries);
        }
        self.end(Some(&Frame::Ended(Refusal::Deleted)));
        written
    }

    /// Number of streams.
    pub(super) fn streams(&self) -> usize {
        self.inner.lock().outboxes.len()
    }

    /// Ends everything at once: nothing is decided any more, streams end, fetches stop.
    pub(super) fn end(&self, frame: Option<&Frame>) {
        let mut inner = self.inner.lock();
        inner.gone = true;
        for (_, (_, task)) in inner.fetches.drain() {
            task.abort();
        }
        let (outboxes, written) = (std::mem::take(&mut inner.outboxes), inner.written);
        drop(inner);
        for (member, outbox) in outboxes {
            match frame {
                Some(frame) => {
                    let after = crate::group::effect::After::Now;
                    outbox.push(crate::group::effect::Outgoing { member, frame: frame.clone(), after }, written);
                    outbox.finish(Written::default());
                }
                None => outbox.close(),
            }
        }
        self.waiters.wake_all();
    }

    /// The open replay, if it reads one of these partitions.
    pub(super) fn reads_again(&self, of: impl Fn(&Source) -> bool) -> Option<ReplayId> {
        self.look(|machine| {
            let open = machine.state().open_replay()?;
            let reads = open.ranges.iter().any(|range| of(&range.source));
            reads.then_some(ReplayId { group: self.id, number: open.number })
        })
    }

    pub(super) fn is_gone(&self) -> bool {
        self.inner.lock().gone
    }
}

impl Inner {
    /// Whether a stream is the member's present one.
    fn speaks(&self, member: MemberId, outbox: &Arc<Outbox>) -> bool {
        self.outboxes.get(&member).is_some_and(|current| Arc::ptr_eq(current, outbox))
    }
}
