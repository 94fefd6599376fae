//! Everything that is done with dead letters, for whoever asks: the mover and the jobs for the groups, the calls of
//! operators.
//!
//! Calls that change entries of a group go one after another, so that what one has looked at stays so until it has
//! acted; what consumers do meanwhile is the group's to decide.

use std::collections::HashMap;
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::error::LetterError;
use super::handle::{DeadLetters, Driven, GroupHandle, Groups, Written};
use super::logs::LetterLogs;
use super::mover::Mover;
use super::redrive::Jobs;
use super::retention::Ages;
use super::views::JobId;
use crate::clock::Clock;
use crate::group::GroupTopic;
use crate::group::effect::{Notice, Refusal};
use crate::group::event::{Admin, Event};
use crate::metrics::{DeadLetterSource, Metrics};
use crate::model::{GroupId, LaneKey, Offset, Source, TopicUuid};
use crate::partition::BoxFuture;

/// What the dead letters are given.
#[derive(Debug, Clone)]
pub struct LettersParts {
    /// Where the partitions are; [`crate::topics::Topics`] is one.
    pub logs: Arc<dyn LetterLogs>,
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// Metrics of the broker.
    pub metrics: Arc<Metrics>,
    /// Runs the tasks; has timers.
    pub runtime: tokio::runtime::Handle,
    /// The lane of a record with this key, at this offset.
    pub lane_of: fn(Option<&[u8]>, Offset) -> LaneKey,
    /// Faults on purpose.
    #[cfg(any(test, feature = "testing"))]
    pub sabotage: super::mover::Sabotage,
}

/// The dead letters of all groups.
#[derive(Debug)]
pub struct Letters {
    pub(super) parts: LettersParts,
    pub(super) mover: Mover,
    pub(super) groups: OnceLock<Arc<dyn Groups>>,
    pub(super) own: std::sync::Weak<Self>,
    /// One call of an operator at a time for each group.
    acting: Mutex<HashMap<GroupId, Arc<tokio::sync::Mutex<()>>>>,
    pub(super) jobs: Jobs,
    /// The jobs that the journal has are taken up.
    pub(super) loaded: tokio::sync::watch::Sender<bool>,
    /// What the last pass of retention found.
    pub(super) ages: Mutex<HashMap<GroupId, Ages>>,
    pub(super) tasks: TaskTracker,
    pub(super) stopping: CancellationToken,
}

impl Letters {
    /// The dead letters of a broker; nothing happens before [`DeadLetters::start`].
    pub fn new(parts: LettersParts) -> Arc<Self> {
        let mover = Mover::new(
            Arc::clone(&parts.logs),
            parts.metrics.dead_letters.clone(),
            parts.runtime.clone(),
            #[cfg(any(test, feature = "testing"))]
            parts.sabotage,
        );
        Arc::new_cyclic(|own| Self {
            parts,
            mover,
            groups: OnceLock::new(),
            own: own.clone(),
            acting: Mutex::default(),
            jobs: Jobs::default(),
            loaded: tokio::sync::watch::Sender::new(false),
            ages: Mutex::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        })
    }

    /// The right to change entries of a group, one at a time.
    pub(super) async fn acting(&self, group: GroupId) -> tokio::sync::OwnedMutexGuard<()> {
        let lock = Arc::clone(self.acting.lock().entry(group).or_default());
        lock.lock_owned().await
    }

    /// Has the group do something; answers once it is durable.
    pub(super) async fn act(&self, group: &Arc<dyn GroupHandle>, admin: Admin) -> Result<(), LetterError> {
        let driven: Driven = group.drive(Event::Admin(admin));
        if driven.stopped {
            return Err(LetterError::Stopped { cause: "the group is gone".into() });
        }
        if let Some(Err(refusal)) = driven.outcome {
            return Err(refused(group.id(), refusal));
        }
        group.durable(driven.written).await.map_err(|stopped| LetterError::Stopped { cause: stopped.to_string() })
    }
}

fn refused(group: GroupId, refusal: Refusal) -> LetterError {
    match refusal {
        Refusal::EntryClosed { key, state } => LetterError::EntryClosed { key, state },
        Refusal::JobConflict { job } => LetterError::JobConflict { job: JobId { group, number: job } },
        other => LetterError::Refused(other),
    }
}

impl DeadLetters for Letters {
    fn moves(&self, group: &Arc<dyn GroupHandle>, moves: Vec<(Source, u64)>, after: Written, again: bool) {
        if again {
            let intents = moves.len();
            tracing::info!(group = %group.name(), intents, "dead letters are moved that a stop cut short");
        }
        self.mover.push(group, moves, after, again);
    }

    fn notices(&self, group: &Arc<dyn GroupHandle>, notices: &[Notice]) {
        self.job_notices(group, notices);
    }

    fn start(&self, groups: Arc<dyn Groups>) {
        let all = groups.all();
        // A second start changes nothing.
        let _ = self.groups.set(groups);
        let Some(own) = self.own.upgrade() else { return };
        let source: Arc<dyn DeadLetterSource> = Arc::clone(&own) as _;
        self.parts.metrics.dead_letters.set_source(Arc::downgrade(&source));
        self.tasks.spawn_on(Arc::clone(&own).keep_retention(), &self.parts.runtime);
        self.tasks.spawn_on(async move { own.take_up_jobs(all).await }, &self.parts.runtime);
    }

    fn forget(&self, group: GroupId, topics: Vec<GroupTopic>) -> BoxFuture<'static, ()> {
        let Some(own) = self.own.upgrade() else { return Box::pin(async {}) };
        Box::pin(async move {
            let sources: Vec<_> = topics.iter().map(|topic| topic.topic).collect();
            own.mover.forget(group, &sources).await;
            // Of a group that is gone everything goes, names of topics that it took and never used included.
            let is_gone = own.groups.get().is_none_or(|groups| groups.by_id(group).is_none());
            own.jobs.forget(group, Some(&sources[..]).filter(|_| !is_gone));
            let sources = if is_gone { None } else { Some(sources) };
            if let Err(error) = own.parts.logs.end(group, sources).await {
                tracing::warn!(group = group.0, %error, "dead-letter topics of a group that is gone stay for now");
            }
            if is_gone {
                own.acting.lock().remove(&group);
            }
        })
    }

    fn job_on(&self, topic: TopicUuid) -> BoxFuture<'static, Option<JobId>> {
        let Some(own) = self.own.upgrade() else { return Box::pin(async { None }) };
        Box::pin(async move {
            own.jobs_loaded().await;
            own.jobs.on(topic)
        })
    }

    fn job_of(&self, group: GroupId, topics: Option<Vec<TopicUuid>>) -> BoxFuture<'static, Option<JobId>> {
        let Some(own) = self.own.upgrade() else { return Box::pin(async { None }) };
        Box::pin(async move {
            own.jobs_loaded().await;
            own.jobs.of(group, topics.as_deref())
        })
    }

    fn running_jobs(&self, group: &Arc<dyn GroupHandle>) -> u32 {
        self.jobs_not_ended(group.id())
    }

    fn stop(&self) -> BoxFuture<'static, ()> {
        let Some(own) = self.own.upgrade() else { return Box::pin(async {}) };
        Box::pin(async move {
            own.stopping.cancel();
            own.mover.stop().await;
            own.tasks.close();
            own.tasks.wait().await;
        })
    }
}
