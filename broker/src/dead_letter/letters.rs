//! Everything that is done with dead letters, for whoever asks: the calls of operators.

use std::sync::Arc;

use super::error::LetterError;
use super::handle::GroupHandle;
use super::views::{
    Discarded, Edit, EntryDetails, EntryPage, EntryView, HeadOf, HeadView, JobId, JobView, PageRequest, RedrivePreview,
    RedriveRequest, Selector,
};
use crate::group::entry::EntryKey;
use crate::model::GroupId;

/// The dead letters of all groups.
#[derive(Debug)]
pub struct Letters {}

impl Letters {
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
