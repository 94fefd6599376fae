//! What all groups of a broker share: clock, journals, partitions, timers, tasks.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};
use tokio::runtime::Handle;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::GroupError;
use super::delivery::cache::CacheBudget;
use super::group::Group;
use super::ports::{Ledger, Logs};
use super::timers::Timers;
use crate::clock::Clock;
use crate::dead_letter::handle::{DeadLetters, Written};
use crate::group::Now;
use crate::group::event::Event;
use crate::group::record::GapReason;
use crate::metrics::Metrics;
use crate::model::{GroupName, Offset, Source};
use crate::partition::BoxFuture;
use crate::partition::journal_thread::JournalStopped;

/// What the groups can do at present.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Phase {
    /// Groups are compared with their partitions; nobody is let in.
    Recovering,
    /// Everything.
    Ready,
    /// A journal is damaged (rule G6).
    Damaged {
        /// What was found.
        what: String,
        /// First bad offset.
        first_bad: Offset,
    },
    /// The broker stops.
    Draining,
}

/// What all groups share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) clock: Arc<dyn Clock>,
    pub(super) logs: Arc<dyn Logs>,
    pub(super) journals: Arc<dyn Ledger>,
    pub(super) metrics: Arc<Metrics>,
    pub(super) runtime: Handle,
    pub(super) tasks: TaskTracker,
    pub(super) cancel: CancellationToken,
    pub(super) timers: Timers,
    pub(super) cache_budget: Arc<CacheBudget>,
    pub(super) dead_letters: OnceLock<Arc<dyn DeadLetters>>,
    pub(super) opened: Opened,
    /// A replay ended, or a member left a group that was made for one.
    pub(super) replays: Notify,
    /// Something changed that a rebuild may wait for.
    pub(super) rebuilds: Notify,
    pub(super) phase: RwLock<Phase>,
    /// Log starts that somebody asked for, to tell a trim from retention.
    pub(super) trims: Mutex<HashMap<Source, Offset>>,
    /// Streams that there have been.
    pub(super) streams: AtomicU64,
}

impl Shared {
    /// The time of an event.
    pub(super) fn now(&self) -> Now {
        let monotonic_ms = u64::try_from(self.clock.monotonic().0.as_millis()).unwrap_or(u64::MAX);
        Now { monotonic_ms, wall_ms: self.clock.wall_ms() }
    }

    /// Why no group decides anything any more, if so: a journal has stopped (rule F1).
    pub(super) fn stopped(&self) -> Option<Arc<str>> {
        self.journals.stopped()
    }

    /// Everything that is durable.
    pub(super) fn durable(&self) -> Written {
        self.journals.durable()
    }

    /// Waits until both journals are durable up to here.
    pub(super) fn wait(&self, written: Written) -> BoxFuture<'static, Result<(), JournalStopped>> {
        self.journals.wait(written)
    }

    /// Waits for what a call decided.
    pub(super) async fn settle(&self, written: Written) -> Result<(), GroupError> {
        self.wait(written).await.map_err(|stopped| GroupError::Stopped { cause: stopped.cause.to_string() })
    }

    /// Why a group does not answer.
    pub(super) fn refusal(&self, group: &GroupName) -> GroupError {
        self.check().err().unwrap_or_else(|| GroupError::NotFound { group: group.to_string() })
    }

    /// Whether groups can be had.
    pub(super) fn check(&self) -> Result<(), GroupError> {
        match &*self.phase.read() {
            Phase::Recovering => return Err(GroupError::Recovering),
            Phase::Damaged { what, first_bad } => {
                return Err(GroupError::JournalCorrupt { what: what.clone(), first_bad: *first_bad });
            }
            Phase::Draining => return Err(GroupError::ShuttingDown),
            Phase::Ready => {}
        }
        match self.stopped() {
            Some(cause) => Err(GroupError::Stopped { cause: cause.to_string() }),
            None => Ok(()),
        }
    }

    /// Why what lies below a log start is gone.
    pub(super) fn reason_of_start(&self, source: Source, start: Offset) -> GapReason {
        let trimmed = self.trims.lock().get(&source).is_some_and(|trimmed| *trimmed >= start);
        if trimmed { GapReason::Trim } else { GapReason::Retention }
    }
}

/// A group, intents of its partitions, and what must be durable.
type Entered = (Weak<Group>, Vec<(Source, u64)>, Written);

/// Entries that were written and are to be told to their machines once they are durable, in order (rule DL-4).
#[derive(Debug, Default)]
pub(super) struct Opened {
    queue: Mutex<VecDeque<Entered>>,
    more: Notify,
}

impl Opened {
    /// Adds entries of a group, written up to here.
    pub(super) fn add(&self, group: &Arc<Group>, opened: Vec<(Source, u64)>, written: Written) {
        self.queue.lock().push_back((Arc::downgrade(group), opened, written));
        self.more.notify_one();
    }

    /// Tells the machines, one after the other, until it is dropped.
    pub(super) async fn run(&self, shared: &Shared) {
        loop {
            let next = self.queue.lock().pop_front();
            let Some((group, opened, written)) = next else {
                self.more.notified().await;
                continue;
            };
            if shared.wait(written).await.is_err() {
                // The groups are stopped; the next start goes on from the intents.
                continue;
            }
            let Some(group) = group.upgrade() else { continue };
            for (source, number) in opened {
                group.drive_event(Event::EntryDurable { source, number });
            }
        }
    }
}
