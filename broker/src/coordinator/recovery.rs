//! Begin and end of the groups.
//!
//! ```text
//! open (journals replayed, threads run) -> Recovering
//! start (partitions are open): machines -> topics that went or came -> epochs compared with every partition, cuts told
//!   -> machines begin (open intents go to the mover) -> dead letters begin -> Ready
//! begin_shutdown: Goodbye to every member -> stop: sessions end, dead letters end, journals are closed by their owner
//! ```
//!
//! Nobody is let in before Ready, so nothing is delivered before the state was compared (rules AK-12, G7); members
//! that were there may resume from then on (rule GM-11).

use std::sync::{Arc, Weak};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::delivery::fetch;
use super::group::Group;
use super::holds::Holds;
use super::hooks::Guard;
use super::journals::{GroupJournals, LoadedGroups};
use super::shared::{Opened, Phase, Shared};
use super::timers::Timers;
use super::views::RecoverReport;
use super::{Coordinator, GroupError, GroupMap};
use crate::clock::Clock;
use crate::dead_letter::handle::{DeadLetters, GroupHandle, Groups};
use crate::group::event::Event;
use crate::group::machine::Machine;
use crate::metrics::Metrics;
use crate::model::{GroupId, Source};
use crate::partition::PartitionReadError;
use crate::topics::Topics;

/// Clients come back after so many milliseconds.
const RECONNECT_AFTER_MS: u64 = 1_000;
/// Time between two looks whether the streams that were told goodbye have ended by themselves.
const GOODBYE_LOOK: Duration = Duration::from_millis(10);
/// So many looks: two seconds in all.
const GOODBYE_LOOKS: u32 = 200;
/// Time between two tries to compare a group with a partition that cannot be read.
pub(super) const COMPARE_AGAIN: Duration = Duration::from_millis(500);
/// Groups that are compared with their partitions at the same time.
const PARALLEL: usize = 64;

/// The groups for those who are held by them.
#[derive(Debug)]
struct AllGroups(Weak<Coordinator>);

impl Groups for AllGroups {
    fn by_id(&self, id: GroupId) -> Option<Arc<dyn GroupHandle>> {
        self.0.upgrade()?.by_id(id)
    }

    fn by_name(&self, name: &str) -> Option<Arc<dyn GroupHandle>> {
        self.0.upgrade()?.by_name(name)
    }

    fn all(&self) -> Vec<Arc<dyn GroupHandle>> {
        self.0.upgrade().map(|coordinator| Groups::all(&*coordinator)).unwrap_or_default()
    }
}

/// What a coordinator is made of.
#[derive(Debug)]
pub struct CoordinatorParts {
    /// The journals, open.
    pub journals: Arc<GroupJournals>,
    /// All topics.
    pub topics: Arc<Topics>,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// All metrics.
    pub metrics: Arc<Metrics>,
    /// Runs reading ahead and timers.
    pub runtime: Handle,
}

impl Coordinator {
    /// A coordinator that lets nobody in before [`Coordinator::start`].
    pub fn new(parts: CoordinatorParts) -> Arc<Self> {
        let logs = Arc::clone(&parts.topics);
        let journals = Arc::clone(&parts.journals);
        let shared = Arc::new(Shared {
            clock: parts.clock,
            logs,
            journals,
            metrics: parts.metrics,
            runtime: parts.runtime,
            tasks: TaskTracker::new(),
            cancel: CancellationToken::new(),
            timers: Timers::default(),
            cache_budget: Arc::default(),
            dead_letters: std::sync::OnceLock::new(),
            opened: Opened::default(),
            replays: tokio::sync::Notify::new(),
            rebuilds: tokio::sync::Notify::new(),
            phase: parking_lot::RwLock::new(Phase::Recovering),
            streams: 0.into(),
            trims: parking_lot::Mutex::new(parts.topics.trims().into_iter().collect()),
        });
        Arc::new(Self {
            shared,
            journals: parts.journals,
            topics: parts.topics,
            map: parking_lot::RwLock::default(),
            changing: tokio::sync::Mutex::new(()),
            swapping: tokio::sync::Mutex::new(()),
            waiting: 0.into(),
            ended: parking_lot::Mutex::default(),
            losses: parking_lot::Mutex::default(),
        })
    }

    /// Says who moves dead letters; once, before [`Coordinator::start`].
    pub fn set_dead_letters(&self, dead_letters: Arc<dyn DeadLetters>) {
        let set = self.shared.dead_letters.set(dead_letters).is_ok();
        assert!(set, "the dead letters are set once");
    }

    /// Begins, once the partitions are open. Groups that cannot begin, because a journal is damaged, say so; nothing
    /// else of the broker is touched (rule G6).
    pub async fn start(self: &Arc<Self>) {
        self.topics.set_deletion_guard(Arc::new(Guard(Arc::downgrade(self))));
        self.topics.set_retention_holds(Arc::new(Holds(Arc::downgrade(self))));
        let (timers, opened) = (Arc::clone(self), Arc::clone(&self.shared));
        let cancel = self.shared.cancel.clone();
        self.spawn(async move { timers.run_timers().await });
        self.spawn(async move {
            tokio::select! {
                () = cancel.cancelled() => {}
                () = opened.opened.run(&opened) => {}
            }
        });
        let own = Arc::clone(self);
        self.spawn(async move { own.run_upkeep().await });
        self.load().await;
        let own = Arc::clone(self);
        self.spawn(async move { own.run_rebuilds().await });
    }

    fn spawn(&self, task: impl std::future::Future<Output = ()> + Send + 'static) {
        self.shared.tasks.spawn_on(task, &self.shared.runtime);
    }

    /// Makes the machines from what the journals have, and opens the doors.
    async fn load(self: &Arc<Self>) {
        match self.journals.load().await {
            Ok(loaded) => self.begin(loaded).await,
            Err(GroupError::JournalCorrupt { what, first_bad }) => {
                tracing::error!(
                    what,
                    first_bad = first_bad.get(),
                    "a journal of the groups is damaged: no group goes on"
                );
                self.set_phase(Phase::Damaged { what, first_bad });
            }
            Err(error) => {
                tracing::error!(%error, "the groups cannot begin");
                self.set_phase(Phase::Ready);
            }
        }
    }

    async fn begin(self: &Arc<Self>, mut loaded: LoadedGroups) {
        if loaded.rebuild && !self.rebuild_entries(&mut loaded).await {
            // A journal has stopped, which is told; or the broker stops.
            self.set_phase(Phase::Ready);
            return;
        }
        let now = self.shared.now();
        let lost = std::mem::take(&mut loaded.lost);
        let mut map = GroupMap { next_group: loaded.next_group, lost, ..GroupMap::default() };
        for (state, entries) in loaded.groups.into_values() {
            let group = Group::new(&self.shared, Machine::new(state, entries, now));
            map.insert(&group);
        }
        *self.map.write() = map;
        *self.ended.lock() = loaded.ended;
        let groups = self.all_groups();
        for chunk in groups.chunks(PARALLEL) {
            let mut running = tokio::task::JoinSet::new();
            for group in chunk {
                let (own, group) = (Arc::clone(self), Arc::clone(group));
                running.spawn_on(async move { own.compare(&group).await }, &self.shared.runtime);
            }
            while running.join_next().await.is_some() {}
        }
        self.sweep().await;
        for group in &groups {
            self.pace_anew(group).await;
        }
        self.begin_shadows().await;
        groups.iter().for_each(|group| group.start());
        if let Some(dead_letters) = self.shared.dead_letters.get() {
            dead_letters.start(Arc::new(AllGroups(Arc::downgrade(self))));
        }
        tracing::info!(groups = groups.len(), "the groups go on");
        self.set_phase(Phase::Ready);
    }

    fn set_phase(&self, phase: Phase) {
        let mut current = self.shared.phase.write();
        if *current != Phase::Draining {
            *current = phase;
        }
    }

    /// Brings a group's state to what topics and partitions are now.
    async fn compare(self: &Arc<Self>, group: &Arc<Group>) {
        if let Err(error) = self.adjust_topics(group).await {
            tracing::warn!(group = %group.name(), %error, "topics of a group could not be brought up to date");
        }
        let sources: Vec<Source> = group.look(|machine| machine.state().partitions.keys().copied().collect());
        for source in sources {
            let Some(log) = group.log(source) else { continue };
            loop {
                match fetch::compare(group, source, &*log).await {
                    Ok(()) => break,
                    // It cannot be read: it is compared before anything of it is delivered, see `fetch`.
                    Err(PartitionReadError::Recovering) => break,
                    Err(error) => {
                        tracing::warn!(group = %group.name(), %error, "a partition cannot be compared yet");
                        tokio::select! {
                            () = self.shared.cancel.cancelled() => return,
                            () = tokio::time::sleep(COMPARE_AGAIN) => {}
                        }
                    }
                }
            }
            if let Some(log) = group.dead_letter_log(source) {
                group.drive_event(Event::DlqEnd { source, end: log.high_watermark() });
            }
        }
    }

    /// Wakes groups at their deadlines.
    async fn run_timers(self: Arc<Self>) {
        let timers = &self.shared.timers;
        loop {
            let wait = match timers.first() {
                Some(due) => Duration::from_millis(due.saturating_sub(self.shared.now().monotonic_ms).max(1)),
                None => Duration::from_secs(3_600),
            };
            tokio::select! {
                () = self.shared.cancel.cancelled() => return,
                () = timers.earlier() => {}
                () = tokio::time::sleep(wait) => {}
            }
            self.turn_timers();
        }
    }

    /// Gives every group whose time has come its turn. Also for tests, which turn the clock themselves.
    pub fn turn_timers(&self) {
        let now_ms = self.shared.now().monotonic_ms;
        while let Some((due, id)) = self.shared.timers.take_due(now_ms) {
            let group = self.map.read().by_id.get(&id).cloned();
            if let Some(group) = group {
                group.tick(due);
            }
        }
    }

    /// Lets nobody in any more and says goodbye to every member (rule GM-11).
    pub fn begin_shutdown(&self) {
        {
            let mut phase = self.shared.phase.write();
            if *phase == Phase::Draining {
                return;
            }
            *phase = Phase::Draining;
        }
        for group in self.all_groups() {
            group.drive_event(Event::Shutdown { reconnect_after_ms: RECONNECT_AFTER_MS });
        }
    }

    /// Ends sessions, dead letters and tasks. The journals are closed by their owner, afterwards.
    pub async fn stop(&self) {
        self.begin_shutdown();
        let streams = || self.all_groups().iter().map(|group| group.streams()).sum::<usize>();
        for _ in 0..GOODBYE_LOOKS {
            if streams() == 0 {
                break;
            }
            tokio::time::sleep(GOODBYE_LOOK).await;
        }
        if let Some(dead_letters) = self.shared.dead_letters.get() {
            dead_letters.stop().await;
        }
        self.end_tasks();
        self.shared.tasks.wait().await;
    }

    /// Ends everything at once, as if killed.
    pub fn abandon(&self) {
        *self.shared.phase.write() = Phase::Draining;
        self.end_tasks();
    }

    fn end_tasks(&self) {
        self.shared.cancel.cancel();
        self.all_groups().iter().for_each(|group| group.end(None));
        self.shared.tasks.close();
    }

    /// Starts groups that stopped at a damaged journal, from the last good state (rule G6).
    ///
    /// # Errors
    /// [`GroupError::Stopped`] if the state could not be written.
    pub async fn recover(self: &Arc<Self>, dry_run: bool) -> Result<RecoverReport, GroupError> {
        let _changing = self.changing.lock().await;
        let topics = Arc::clone(&self.topics);
        let high_watermark = move |source: Source| {
            let topic = topics.by_uuid(source.topic)?;
            Some(topic.partition(source.partition)?.high_watermark())
        };
        if dry_run {
            return self.journals.recover_report(high_watermark).await;
        }
        let report = self.journals.recover(high_watermark).await?;
        if matches!(*self.shared.phase.read(), Phase::Damaged { .. }) {
            self.load().await;
        }
        Ok(report)
    }
}
