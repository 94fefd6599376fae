//! From a write to its answer: the sync job, the completions that wait for it, and their permits.
//!
//! Completions belong to the partition, not to the request's future: when a [`Ticket`] is dropped, its completion
//! still waits for the sync, is counted, and gives its permit back (rule D8).
//!
//! Invariants: one sync is in flight at most, and none starts while a call that needs quiet waits. What was written
//! before a sync began shares its result, what came later waits for the next. After a failed sync nobody is told that
//! a record is durable (rule F1). Completions are answered in the order of the log (rule D4).

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use super::append::{Core, Group, GroupLog};
use super::budget::Permit;
use super::sync::{Arc, Mutex};
use super::{AckLevel, AppendAck, AppendFailure, Monotonic, Offset, SyncError};

enum Slot<T> {
    Empty,
    Watched(Waker),
    Full(T),
    Taken,
}

/// The answer to something that a partition's leader carries out: a future, or [`Ticket::wait`] where blocking is
/// allowed. Dropping it changes nothing.
#[must_use = "the call is under way, but its outcome is lost"]
pub struct Ticket<T> {
    slot: Arc<Mutex<Slot<T>>>,
}

/// Answers one [`Ticket`].
pub(crate) struct Answer<T: Lost> {
    slot: Option<Arc<Mutex<Slot<T>>>>,
}

/// The answer when whoever should have answered is gone.
pub(crate) trait Lost {
    /// That answer.
    fn lost() -> Self;
}

impl<T> Lost for Result<T, AppendFailure> {
    fn lost() -> Self {
        Err(AppendFailure::ShuttingDown)
    }
}

/// A ticket and what answers it.
pub(crate) fn ticket<T: Lost>() -> (Answer<T>, Ticket<T>) {
    let slot = Arc::new(Mutex::new(Slot::Empty));
    (Answer { slot: Some(Arc::clone(&slot)) }, Ticket { slot })
}

impl<T: Lost> Answer<T> {
    pub(crate) fn give(mut self, value: T) {
        self.fill(value);
    }

    fn fill(&mut self, value: T) {
        let Some(slot) = self.slot.take() else { return };
        let before = std::mem::replace(&mut *slot.lock(), Slot::Full(value));
        if let Slot::Watched(waker) = before {
            waker.wake();
        }
    }
}

impl<T: Lost> Drop for Answer<T> {
    fn drop(&mut self) {
        if self.slot.is_some() {
            self.fill(T::lost());
        }
    }
}

impl<T> Future for Ticket<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<T> {
        let mut slot = self.slot.lock();
        match std::mem::replace(&mut *slot, Slot::Taken) {
            Slot::Full(value) => Poll::Ready(value),
            Slot::Taken => panic!("a ticket was polled after it had answered"),
            Slot::Empty | Slot::Watched(_) => {
                *slot = Slot::Watched(context.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> Ticket<T> {
    /// A ticket that is answered already.
    pub(crate) fn ready(value: T) -> Self {
        Self { slot: Arc::new(Mutex::new(Slot::Full(value))) }
    }

    /// Blocks this thread until the answer is there. Not in async code.
    pub fn wait(mut self) -> T {
        struct Unpark(std::thread::Thread);
        impl Wake for Unpark {
            fn wake(self: std::sync::Arc<Self>) {
                self.0.unpark();
            }
        }
        let waker = Waker::from(std::sync::Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        loop {
            if let Poll::Ready(value) = Pin::new(&mut self).poll(&mut context) {
                return value;
            }
            std::thread::park();
        }
    }
}

impl<T> fmt::Debug for Ticket<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Ticket")
    }
}

/// Answers an append.
pub(crate) type AppendAnswer = Answer<Result<AppendAck, AppendFailure>>;

/// What waits for a sync.
pub(crate) enum Completion {
    /// An append, with its permit.
    Append {
        /// Who is answered.
        answer: AppendAnswer,
        /// Given back with the answer.
        permit: Permit,
        /// The answer if it becomes durable.
        ack: AppendAck,
    },
    /// Someone who wants to know that all so far is durable.
    Barrier(Answer<Result<(), AppendFailure>>),
}

impl Completion {
    pub(crate) fn give(self, result: Result<(), AppendFailure>) {
        match self {
            Self::Append { answer, permit, ack } => {
                // The permit first: whoever is told may come with the next request at once.
                drop(permit);
                answer.give(result.map(|()| ack));
            }
            Self::Barrier(answer) => answer.give(result),
        }
    }
}

/// Completions in the order of the log.
#[derive(Default)]
pub(crate) struct Waiting {
    queue: VecDeque<(Offset, Completion)>,
}

impl Waiting {
    /// Adds one that waits until everything below `end` is durable.
    pub(crate) fn push(&mut self, end: Offset, completion: Completion) {
        self.queue.push_back((end, completion));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// The first one in turn, if it waits for nothing above `durable_end`. One behind it, a repeat of an older batch
    /// for instance, waits for its turn: answers keep the order of the log.
    fn pop_durable(&mut self, durable_end: Offset) -> Option<Completion> {
        let (end, _) = self.queue.front()?;
        if *end > durable_end {
            return None;
        }
        self.queue.pop_front().map(|(_, completion)| completion)
    }

    fn pop(&mut self) -> Option<(Offset, Completion)> {
        self.queue.pop_front()
    }
}

/// What a sync job brings back to the leader.
pub(crate) struct Synced<S> {
    sync: S,
    result: Result<(), SyncError>,
    began: Monotonic,
    took: Duration,
}

impl<L: GroupLog> Core<L> {
    /// Starts a sync if one is wanted and may start.
    pub(crate) fn begin_sync(&mut self, group: &Arc<Group<L>>) {
        if self.sync_in_flight || self.fenced.is_some() || self.needs_quiet() {
            return;
        }
        let wanted = !self.waiting.is_empty()
            || self.floor == AckLevel::Durable
            || self.force_sync
            || self.log.unsynced_bytes() >= self.flush_bytes;
        if !wanted {
            return;
        }
        self.force_sync = false;
        let Some(sync) = self.log.begin_sync() else { return };
        self.sync_in_flight = true;
        let group = Arc::clone(group);
        let executor = Arc::clone(&group.executor);
        executor.run(Box::new(move || {
            let began = group.clock.monotonic();
            let result = L::run_sync(&sync);
            let took = group.clock.monotonic().0.saturating_sub(began.0);
            group.bring_synced(Synced { sync, result, began, took });
        }));
    }

    /// Takes what a sync job brought.
    pub(crate) fn finish_sync(&mut self, group: &Arc<Group<L>>, synced: Synced<L::Sync>) {
        self.sync_in_flight = false;
        group.observer.synced(synced.took, synced.result.is_ok());
        if self.fenced.is_some() {
            // Fenced by a failed write meanwhile: all who waited have been told that the outcome is unknown.
            return;
        }
        match synced.result {
            Ok(()) => {
                self.log.note_synced(&synced.sync);
                group.pulse.synced(synced.began);
                // The disk works on while we tell the news.
                self.begin_sync(group);
                self.settle(group);
            }
            Err(error) => {
                self.log.fence(&error.what);
                self.enter_fence(group, error.errno);
            }
        }
    }

    /// Publishes what the log has reached, and answers those who waited for it. After every change of the log.
    pub(crate) fn settle(&mut self, group: &Group<L>) {
        if self.fenced.is_some() {
            return;
        }
        if self.log.fenced().is_some() {
            self.enter_fence(group, self.log.fence_errno());
            return;
        }
        let durable_end = self.log.durable_end();
        if durable_end == self.log.end() {
            group.pulse.clean();
        }
        let visible = if self.floor == AckLevel::Durable { durable_end } else { self.log.end() };
        // Before the answers: what is acknowledged can be read. Never back: what was shown under the floor `written`
        // stays shown when the floor is raised.
        group.watermark.advance(visible);
        let mut answered = 0;
        while let Some(completion) = self.waiting.pop_durable(durable_end) {
            completion.give(Ok(()));
            answered += 1;
        }
        if answered > 0 {
            group.observer.answered(answered);
        }
    }

    /// Has `completion` answered once all that is appended so far is durable; `needed`: or at once.
    pub(crate) fn barrier(&mut self, completion: Completion, needed: bool) {
        let end = self.log.end();
        match &self.fenced {
            Some(cause) => {
                let (durable_end, cause) = (self.log.durable_end(), cause.clone());
                completion.give(Err(AppendFailure::Fenced { durable_end, cause, outcome_unknown: false }));
            }
            None if needed && (end > self.log.durable_end() || !self.waiting.is_empty()) => {
                self.waiting.push(end, completion);
            }
            None => completion.give(Ok(())),
        }
    }

    /// Nothing will be synced any more: those who wait are told that the broker stops.
    pub(crate) fn lose_waiting(&mut self) {
        while let Some((_, completion)) = self.waiting.pop() {
            completion.give(Err(AppendFailure::ShuttingDown));
        }
    }

    /// Leaves the fence: the log has been reopened and the producers' state rebuilt.
    pub(crate) fn unfence(&mut self, group: &Group<L>) {
        self.fenced = None;
        self.slow = false;
        if let Some(events) = &group.events {
            events.truncate(self.log.durable_end());
        }
        group.watermark.reset(self.log.durable_end());
        group.refuse_fenced(None);
    }

    /// After a failed sync, or a failed write that could not be taken back (rules F1, F2): nobody gets an ack, readers
    /// see the durable part alone, producers fall back to it (rule PR-12).
    pub(crate) fn enter_fence(&mut self, group: &Group<L>, errno: Option<i32>) {
        let cause = self.log.fenced().unwrap_or_else(|| "sync failed".to_owned());
        let durable_end = self.log.durable_end();
        group.observer.fenced(&cause, errno, durable_end, group.watermark.get());
        self.fenced = Some(cause.clone());
        let refusal = |outcome_unknown| AppendFailure::Fenced { durable_end, cause: cause.clone(), outcome_unknown };
        group.refuse_fenced(Some(refusal(false)));
        self.producers.truncate(durable_end);
        // Event ids above it stay taken: what was written may be found again by a restart, so that nobody may write it
        // elsewhere before it is known (rules D5, PR-12).
        group.watermark.reset(durable_end);
        group.pulse.clean();
        group.pulse.marked();
        while let Some((end, completion)) = self.waiting.pop() {
            completion.give(if end <= durable_end { Ok(()) } else { Err(refusal(true)) });
        }
        while let Some(queued) = self.backlog.pop_front() {
            queued.refuse(refusal(false));
        }
    }
}
