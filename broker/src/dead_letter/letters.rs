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
use super::views::{
    Discarded, Edit, EntryDetails, EntryPage, EntryView, HeadOf, HeadView, JobId, JobView, PageRequest, RedrivePreview,
    RedriveRequest, Selector,
};
use crate::clock::Clock;
use crate::group::GroupTopic;
use crate::group::effect::{Notice, Refusal};
use crate::group::entry::EntryKey;
use crate::group::event::{Admin, Event};
use crate::metrics::Metrics;
use crate::model::{GroupId, LaneKey, Offset, Source};
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

    /// Entries in order of source and offset; those not closed unless the selector names states.
    ///
    /// # Errors
    /// The group has no such topic, or copies cannot be read now.
    pub async fn list(
        &self,
        group: &Arc<dyn GroupHandle>,
        selector: &Selector,
        page: PageRequest,
    ) -> Result<EntryPage, LetterError> {
        let _ = (group, selector, page);
        todo!()
    }

    /// An entry with its versions and its history.
    ///
    /// # Errors
    /// [`LetterError::EntryNotFound`], or a copy cannot be read now.
    pub async fn get(&self, group: &Arc<dyn GroupHandle>, key: EntryKey) -> Result<EntryDetails, LetterError> {
        let _ = (group, key);
        todo!()
    }

    /// Stores a new version of an open entry (rule RD-6); answers the entry and the version's number.
    ///
    /// # Errors
    /// [`LetterError::EntryNotFound`], [`LetterError::EntryClosed`], [`LetterError::JobConflict`],
    /// [`LetterError::Invalid`] for another key, no note, or too large a record, [`LetterError::StaleVersion`], or that
    /// it could not be written.
    pub async fn edit(&self, group: &Arc<dyn GroupHandle>, edit: Edit) -> Result<(EntryView, u32), LetterError> {
        let _ = (group, edit);
        todo!()
    }

    /// Gives open entries up, with a reason (rule RD-8).
    ///
    /// # Errors
    /// [`LetterError::Invalid`] without a condition or a reason, [`LetterError::JobConflict`] if a job has one of them,
    /// and of entries named by their ids those of [`Letters::edit`].
    pub async fn discard(
        &self,
        group: &Arc<dyn GroupHandle>,
        selector: &Selector,
        actor: &str,
        reason: &str,
        dry_run: bool,
    ) -> Result<Discarded, LetterError> {
        let _ = (group, selector, actor, reason, dry_run);
        todo!()
    }

    /// Gives up the record that blocks a lane (rule RD-8).
    ///
    /// # Errors
    /// [`LetterError::NoHead`], [`LetterError::JobConflict`], [`LetterError::Invalid`] without a reason.
    pub async fn skip_head(
        &self,
        group: &Arc<dyn GroupHandle>,
        head: &HeadOf,
        actor: &str,
        reason: &str,
    ) -> Result<HeadView, LetterError> {
        let _ = (group, head, actor, reason);
        todo!()
    }

    /// Tries the record that blocks a lane again, its attempts counted anew (rule RD-8): a dead one by a job.
    ///
    /// # Errors
    /// [`LetterError::NoHead`], [`LetterError::JobConflict`], [`LetterError::Limit`].
    pub async fn retry_head(
        &self,
        group: &Arc<dyn GroupHandle>,
        head: &HeadOf,
        actor: &str,
    ) -> Result<HeadView, LetterError> {
        let _ = (group, head, actor);
        todo!()
    }

    /// What a redrive would do; changes nothing (rule RD-2).
    ///
    /// # Errors
    /// As [`Letters::start_redrive`].
    pub async fn preview_redrive(
        &self,
        group: &Arc<dyn GroupHandle>,
        request: &RedriveRequest,
    ) -> Result<RedrivePreview, LetterError> {
        let _ = (group, request);
        todo!()
    }

    /// Starts a redrive, durably (rule RD-1).
    ///
    /// # Errors
    /// [`LetterError::Invalid`] without a condition or with a target that is none, [`LetterError::JobConflict`] if a job
    /// has one of the keys, [`LetterError::Limit`], and of entries named by their ids those of [`Letters::edit`].
    pub async fn start_redrive(
        &self,
        group: &Arc<dyn GroupHandle>,
        request: RedriveRequest,
    ) -> Result<JobView, LetterError> {
        let _ = (group, request);
        todo!()
    }

    /// One job.
    ///
    /// # Errors
    /// [`LetterError::JobNotFound`].
    pub fn job(&self, id: JobId) -> Result<JobView, LetterError> {
        let _ = id;
        todo!()
    }

    /// Up to `limit` jobs, the newest first, after `after`; of one group if given, only those that have not ended if
    /// `running`.
    pub fn jobs(&self, group: Option<GroupId>, running: bool, after: Option<JobId>, limit: usize) -> Vec<JobView> {
        let _ = (group, running, after, limit);
        todo!()
    }

    /// Stops a job for a while: what it has not resolved is open. One that is paused stays so.
    ///
    /// # Errors
    /// [`LetterError::JobNotFound`], [`LetterError::JobClosed`].
    pub async fn pause_job(&self, id: JobId) -> Result<JobView, LetterError> {
        let _ = id;
        todo!()
    }

    /// Goes on with a paused job; its failures are counted anew.
    ///
    /// # Errors
    /// As [`Letters::pause_job`].
    pub async fn resume_job(&self, id: JobId) -> Result<JobView, LetterError> {
        let _ = id;
        todo!()
    }

    /// Ends a job; what it has not resolved is open.
    ///
    /// # Errors
    /// As [`Letters::pause_job`].
    pub async fn cancel_job(&self, id: JobId) -> Result<JobView, LetterError> {
        let _ = id;
        todo!()
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
    fn moves(&self, group: &Arc<dyn GroupHandle>, moves: Vec<(Source, u64)>, after: Written) {
        self.mover.push(group, moves, after, false);
    }

    fn notices(&self, group: &Arc<dyn GroupHandle>, notices: &[Notice]) {
        let _ = (group, notices);
    }

    fn start(&self, groups: Arc<dyn Groups>) {
        for group in groups.all() {
            let open = group.intents();
            if !open.is_empty() {
                tracing::info!(group = %group.name(), intents = open.len(), "dead letters are moved that a stop cut short");
                self.mover.push(&group, open, Written::default(), true);
            }
        }
        // A second start changes nothing.
        let _ = self.groups.set(groups);
    }

    fn forget(&self, group: GroupId, topics: Vec<GroupTopic>) -> BoxFuture<'static, ()> {
        let Some(own) = self.own.upgrade() else { return Box::pin(async {}) };
        Box::pin(async move {
            let sources: Vec<_> = topics.iter().map(|topic| topic.topic).collect();
            own.mover.forget(group, &sources).await;
            // Of a group that is gone everything goes, names of topics that it took and never used included.
            let is_gone = own.groups.get().is_none_or(|groups| groups.by_id(group).is_none());
            let sources = if is_gone { None } else { Some(sources) };
            if let Err(error) = own.parts.logs.end(group, sources).await {
                tracing::warn!(group = group.0, %error, "dead-letter topics of a group that is gone stay for now");
            }
            if is_gone {
                own.acting.lock().remove(&group);
            }
        })
    }

    fn running_jobs(&self, group: &Arc<dyn GroupHandle>) -> u32 {
        let _ = group;
        0
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
