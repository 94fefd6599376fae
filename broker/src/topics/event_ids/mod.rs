//! Event ids of a topic (rules PR-8, PR-12): reserved topic-wide before an append, given back if it fails, left by age,
//! by number, or with their records; and how a repeat is answered.
//!
//! ```text
//!             leader of a partition                              the task that answers
//!   batch --> PR-7 --> reserve --> write --> sync --> ack          repeat found
//!                        |  known already                             |
//!                        +----> not written ---------------------> wait until the first has reached the level,
//!                                                                   look whether it still stands: token | NOT_WRITTEN
//! ```
//!
//! An id is reserved for the very place that its record is about to take, by the leader that assigns the place, so that
//! an id in the index leads to a record in the log, or to one whose write is under way in its leader's hands. No append
//! waits for another; the answer to a repeat does, in a task of its own.
//!
//! Invariants: at most `max_ids` ids; of two records with one id the second is written only if the first was never
//! written, is gone, or is older than the window - what a fenced partition has above its durable end is none of that
//! before it is reopened, or found by a restart; while a partition of the topic is not loaded, no id is reserved. Its
//! lock is held for look-ups in memory alone. It must not know of messages.

mod answer;
mod directory;
mod index;
mod settings;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;

use self::index::{Entry, Index};
use crate::clock::{Clock, Monotonic};
use crate::limits;
use crate::model::{Offset, OffsetRange, PartitionId};
use crate::partition::events::{
    EventBatch, EventKey, EventPlace, EventRef, Found, LoadBounds, Reservation, Reserved, StoredEvent,
};

pub use answer::EventAck;
pub(super) use directory::PartitionEvents;
pub use settings::{DedupWindow, EventSettings};

/// The second at which an index begins: what was appended before it has a place below.
const ORIGIN_S: u32 = 1 << 31;

/// Ids beyond as many as come that leave with an append.
const EVICTED_AT_ONCE: usize = 256;
/// Ids that leave under one hold of the lock.
const EVICTED_IN_A_STEP: usize = 4_096;

/// What can be told of a topic's event ids (rule OB-3).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventIdsStatus {
    /// Ids now.
    pub ids: usize,
    /// Ids at most.
    pub max_ids: u32,
    /// How far back in milliseconds a repeat is found out; `None`: as long as records are kept.
    pub span_ms: Option<u64>,
    /// Whether all partitions are loaded.
    pub ready: bool,
    /// Repeats found since the start.
    pub repeats: u64,
    /// Conflicts found since the start.
    pub conflicts: u64,
}

/// The event ids of a topic.
#[derive(Debug)]
pub struct EventIndex {
    inner: Mutex<Inner>,
    active: AtomicBool,
    repeats: AtomicU64,
    conflicts: AtomicU64,
    clock: Arc<dyn Clock>,
    began: Monotonic,
}

#[derive(Debug)]
struct Inner {
    index: Index,
    /// How long ids are kept; `None`: as long as their records.
    window: Option<Duration>,
    max_ids: usize,
    partitions: Vec<PartitionState>,
    /// Partitions that are not loaded.
    missing: usize,
    /// Ids found in the log, until all partitions are loaded.
    found: Vec<(PartitionId, StoredEvent)>,
    /// Time of the append of the newest id that left because there were too many.
    crowded_out_ms: Option<i64>,
}

/// One partition of the topic.
#[derive(Debug, Default)]
struct PartitionState {
    loaded: bool,
    start: Offset,
}

impl EventIndex {
    /// The index of a topic, of whose partitions none is loaded.
    pub(super) fn new(partitions: u32, settings: &EventSettings, clock: Arc<dyn Clock>) -> Arc<Self> {
        let began = clock.monotonic();
        let inner = Inner {
            index: Index::default(),
            window: None,
            max_ids: 0,
            partitions: (0..partitions).map(|_| PartitionState::default()).collect(),
            missing: partitions as usize,
            found: Vec::new(),
            crowded_out_ms: None,
        };
        let own = Self {
            inner: Mutex::new(inner),
            active: AtomicBool::new(false),
            repeats: AtomicU64::new(0),
            conflicts: AtomicU64::new(0),
            clock,
            began,
        };
        own.configure(settings);
        Arc::new(own)
    }

    /// Takes changed settings. Switched off, it forgets everything; switched on, it knows what comes from then on.
    pub(super) fn configure(&self, settings: &EventSettings) {
        let mut inner = self.inner.lock();
        inner.window = match settings.dedup_window() {
            DedupWindow::Ms(ms) => Some(Duration::from_millis(ms)),
            DedupWindow::Off | DedupWindow::Log => None,
        };
        inner.max_ids = settings.max_ids as usize;
        self.active.store(settings.dedup(), Ordering::SeqCst);
        if !settings.dedup() {
            inner.index = Index::default();
            inner.found = Vec::new();
            inner.crowded_out_ms = None;
        }
        drop(inner);
        self.expire();
    }

    /// Whether repeats are found out.
    pub fn is_active(&self) -> bool {
        self.active.load(Ordering::SeqCst)
    }

    /// The present second of this index.
    fn second(&self) -> u32 {
        let seconds = self.clock.monotonic().0.saturating_sub(self.began.0).as_secs();
        // A broker that runs for 68 years stops here.
        ORIGIN_S.saturating_add(u32::try_from(seconds).unwrap_or(u32::MAX)).min(u32::MAX - 1)
    }

    /// What can be told.
    pub fn status(&self) -> EventIdsStatus {
        self.expire();
        let inner = self.inner.lock();
        let window = inner.window.map(|window| u64::try_from(window.as_millis()).unwrap_or(u64::MAX));
        let since = |time: i64| u64::try_from(self.clock.wall_ms().saturating_sub(time)).unwrap_or(0);
        let span_ms = match (window, inner.crowded_out_ms.map(since)) {
            (Some(window), Some(crowded)) => Some(window.min(crowded)),
            (window, crowded) => window.or(crowded),
        };
        EventIdsStatus {
            ids: inner.index.len(),
            max_ids: u32::try_from(inner.max_ids).unwrap_or(u32::MAX),
            span_ms,
            ready: inner.missing == 0,
            repeats: self.repeats.load(Ordering::Relaxed),
            conflicts: self.conflicts.load(Ordering::Relaxed),
        }
    }

    /// A partition could not be opened: its ids are not known, and nobody waits for them (rule F7).
    pub(super) fn give_up(&self, partition: PartitionId) {
        self.adopt(partition, Vec::new(), Offset::ZERO);
    }

    /// See [`crate::partition::EventDirectory::load_bounds`].
    fn load_bounds(&self) -> Option<LoadBounds> {
        if !self.is_active() {
            return None;
        }
        let inner = self.inner.lock();
        let window_ms = inner.window.map(|window| i64::try_from(window.as_millis()).unwrap_or(i64::MAX));
        let oldest_ms = window_ms.map(|window| self.clock.wall_ms().saturating_sub(window));
        Some(LoadBounds { max_ids: inner.max_ids, oldest_ms })
    }

    /// Takes the ids found in the log of a partition. With the last one all become known, in the order of their
    /// appends; of several records with one id the first counts.
    fn adopt(&self, partition: PartitionId, ids: Vec<StoredEvent>, start: Offset) {
        let (now, wall_ms) = (self.second(), self.clock.wall_ms());
        let mut inner = self.inner.lock();
        let Some(state) = inner.partitions.get_mut(partition.0 as usize) else { return };
        state.start = start;
        let first_time = !std::mem::replace(&mut state.loaded, true);
        inner.missing -= usize::from(first_time);
        if !self.is_active() {
            return;
        }
        inner.found.extend(ids.into_iter().map(|id| (partition, id)));
        let (ready, max_ids) = (inner.missing == 0, inner.max_ids);
        if inner.found.len() > 2 * max_ids || ready {
            inner.found.sort_unstable_by_key(|(partition, event)| (event.append_time_ms, partition.0, event.offset));
            let surplus = inner.found.len().saturating_sub(max_ids);
            if surplus > 0 {
                inner.crowded_out_ms = Some(inner.found[surplus - 1].1.append_time_ms);
                inner.found.drain(..surplus);
            }
        }
        if ready {
            for (partition, event) in std::mem::take(&mut inner.found) {
                let age_s = u64::try_from(wall_ms.saturating_sub(event.append_time_ms)).unwrap_or(0) / 1_000;
                let since = now.saturating_sub(u32::try_from(age_s).unwrap_or(u32::MAX));
                let place = EventPlace {
                    partition,
                    offset: event.offset,
                    epoch: event.epoch,
                    append_time_ms: event.append_time_ms,
                };
                // The first that counts: one that is past makes room for a later one.
                if inner.look_up(&event.id, now).is_none() {
                    inner.index.push(Entry::new(event.id, event.content, place, since));
                }
            }
        }
        drop(inner);
        self.expire();
    }

    /// See [`crate::partition::EventDirectory::reserve`].
    fn reserve(&self, partition: PartitionId, batch: &EventBatch, at: Reservation) -> Reserved {
        if !self.is_active() {
            return Reserved::All;
        }
        let now = self.second();
        let mut inner = self.inner.lock();
        if inner.missing > 0 {
            return Reserved::NotReady;
        }
        let (mut found, mut reserved) = (Vec::new(), 0);
        for event in batch.refs() {
            // Those before it that are left out take no offset.
            let offset = at.base.saturating_add(u64::from(event.index) - found.len() as u64);
            let (epoch, append_time_ms) = (at.epoch, at.append_time_ms);
            let place = EventPlace { partition, offset, epoch, append_time_ms };
            match inner.look_up(&event.id, now) {
                None => {
                    inner.index.push(Entry::new(event.id, event.content, place, now));
                    reserved += 1;
                }
                Some(known) => found.push((event.index, judge(batch, event, &known, partition, at.base))),
            }
        }
        // As many as came, and some more, so that those that are past leave without holding anyone up.
        let most = reserved + EVICTED_AT_ONCE;
        if found.is_empty() {
            inner.evict(now, most);
            return Reserved::All;
        }
        let conflicts = found.iter().filter(|(_, found)| is_conflict(found)).count();
        self.conflicts.fetch_add(conflicts as u64, Ordering::Relaxed);
        self.repeats.fetch_add((found.len() - conflicts) as u64, Ordering::Relaxed);
        let nothing = batch.whole() || conflicts > 0 || found.len() == at.record_count as usize;
        if nothing {
            inner.index.take_back(reserved);
        } else {
            inner.evict(now, most);
        }
        drop(inner);
        batch.set_found(found);
        if nothing { Reserved::Nothing } else { Reserved::LeftOut }
    }

    /// See [`crate::partition::EventDirectory::locate`].
    fn locate(&self, partition: PartitionId, batch: &EventBatch, record_count: u32, written: Reservation) -> bool {
        if !self.is_active() {
            return false;
        }
        let now = self.second();
        let mut inner = self.inner.lock();
        let end = written.base.saturating_add(u64::from(written.record_count));
        let (mut found, mut next, mut refs) = (Vec::new(), written.base, batch.refs().iter().peekable());
        for index in 0..record_count {
            let known = match refs.next_if(|event| event.index == index) {
                Some(event) => match inner.look_up(&event.id, now) {
                    Some(known) => Some(known.place()),
                    None => return false,
                },
                None => None,
            };
            let ours = |place: &EventPlace| place.partition == partition && place.offset == next;
            let place = match known {
                Some(place) if !ours(&place) => place,
                // Without an id, or the first with it: written by this request.
                _ => {
                    let (offset, epoch, append_time_ms) = (next, written.epoch, written.append_time_ms);
                    next = next.saturating_add(1);
                    EventPlace { partition, offset, epoch, append_time_ms }
                }
            };
            found.push((index, Found::Repeat(place)));
        }
        drop(inner);
        let whole = next == end;
        if whole {
            batch.set_found(found);
        }
        whole
    }

    /// Whether this id still leads to this place.
    fn stands(&self, id: &EventKey, place: &EventPlace) -> bool {
        self.inner.lock().index.get(id).is_some_and(|entry| entry.place() == *place)
    }

    fn truncate(&self, partition: PartitionId, end: Offset) {
        let gone = |entry: &Entry| entry.place().partition == partition && entry.place().offset >= end;
        self.inner.lock().index.remove_where(gone);
    }

    fn forget(&self, partition: PartitionId, range: OffsetRange) {
        let gone = |entry: &Entry| entry.place().partition == partition && range.contains(entry.place().offset);
        self.inner.lock().index.remove_where(gone);
    }

    fn raise_start(&self, partition: PartitionId, start: Offset) {
        let mut inner = self.inner.lock();
        if let Some(state) = inner.partitions.get_mut(partition.0 as usize) {
            state.start = state.start.max(start);
        }
        drop(inner);
        self.expire();
    }

    fn between(&self, partition: PartitionId, range: OffsetRange, cursor: &mut u64) -> Vec<StoredEvent> {
        let inner = self.inner.lock();
        let own = inner.index.after_number(*cursor).filter(|entry| {
            let place = entry.place();
            place.partition == partition && range.contains(place.offset)
        });
        let stored = |entry: &Entry| {
            let place = entry.place();
            let (offset, epoch, append_time_ms) = (place.offset, place.epoch, place.append_time_ms);
            StoredEvent { id: entry.id, content: entry.content(), offset, epoch, append_time_ms }
        };
        let mut events: Vec<StoredEvent> = own.map(stored).collect();
        *cursor = inner.index.next_number();
        drop(inner);
        events.sort_unstable_by_key(|event| event.offset);
        events
    }

    /// Drops what is too old or too much, in steps, so that no append waits for long. Also called by time, for a topic
    /// that nobody appends to.
    pub fn expire(&self) {
        if self.is_active() {
            let now = self.second();
            while self.inner.lock().evict(now, EVICTED_IN_A_STEP) {}
        }
    }
}

impl Inner {
    /// Whether an entry counts no more: too old, or its record is gone.
    fn is_past(&self, entry: &Entry, now: u32) -> bool {
        let place = entry.place();
        let start = self.partitions.get(place.partition.0 as usize).map_or(Offset::ZERO, |state| state.start);
        // Seconds were cut off from both; an id is never forgotten too early.
        let old = self.window.is_some_and(|window| {
            Duration::from_secs(u64::from(now.saturating_sub(entry.since()))) > window + Duration::from_secs(1)
        });
        old || place.offset < start
    }

    fn look_up(&mut self, id: &EventKey, now: u32) -> Option<Entry> {
        let entry = *self.index.get(id)?;
        if self.is_past(&entry, now) {
            self.index.remove(id);
            return None;
        }
        Some(entry)
    }

    /// The oldest leave: those that are past, and as many as are too many, but `most` at one time. Whether more have to.
    fn evict(&mut self, now: u32, most: usize) -> bool {
        for _ in 0..most {
            let Some(oldest) = self.index.oldest() else { return false };
            let past = self.is_past(&oldest, now);
            if !past && self.index.len() <= self.max_ids {
                return false;
            }
            if !past {
                self.crowded_out_ms = Some(oldest.place().append_time_ms);
            }
            self.index.remove(&oldest.id);
        }
        true
    }
}

/// What a record is whose id is known.
fn judge(batch: &EventBatch, event: &EventRef, known: &Entry, partition: PartitionId, base: Offset) -> Found {
    let (place, same) = (known.place(), known.content() == event.content);
    if place.partition == partition && place.offset >= base {
        // Nobody has been given a place from here on but this batch.
        let first = batch.refs().iter().find(|first| first.id == event.id).map_or(0, |first| first.index);
        return if same { Found::SameAs(first) } else { Found::ConflictInBatch(first) };
    }
    if same { Found::Repeat(place) } else { Found::Conflict(place) }
}

fn is_conflict(found: &Found) -> bool {
    matches!(found, Found::Conflict(_) | Found::ConflictInBatch(_))
}

const _: () = assert!(limits::EVENT_IDS < 1 << 30);
