//! Mode offset: commits on their way. One of a partition is out at a time, those before it are joined with it; those that
//! nobody waits for are gathered.

use std::time::Duration;

use sawlog_proto::v1;
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::super::positions::{Commit, Position};
use super::super::slots::Ticket;
use super::outbound::{Frames, Verb};
use super::{Board, Source, Verdict};
use crate::error::{Error, ErrorReason};
use crate::groups::GroupMode;

/// Least time between commits that nobody waits for: each is a write of the group's journal, and a member that reads small
/// batches would ask for thousands a second.
const COMMITS_EVERY: Duration = Duration::from_millis(10);

/// When commits that nobody waits for are sent.
#[derive(Debug, Default)]
pub(super) struct CommitTimes {
    /// Not before this time again.
    next: Option<Instant>,
    /// The same, if some wait for it.
    due: Option<Instant>,
}

impl Board {
    /// Sends the commits whose time has come, one of a partition at a time.
    pub(super) fn flush_commits(&mut self, now: Instant, frames: &mut Frames) {
        let leaving = self.draining.is_some() || !self.revoking.is_empty();
        let too_early = self.commit_times.next.filter(|next| now < *next && !leaving);
        self.commit_times.due = None;
        let mut sent_unasked = false;
        for source in 0..self.sources.len() {
            let number = u32::try_from(source).expect("the broker bounds the number of partitions");
            let state = &self.sources[source];
            let Some(next) = state.progress.commits.front().map(|commit| commit.position.next) else { continue };
            if state.progress.committing || state.wire.is_none() {
                continue;
            }
            let urgent = state.progress.is_urgent();
            if !urgent && too_early.is_some() {
                self.commit_times.due = too_early;
                continue;
            }
            if self.parks_below(number, next) {
                continue;
            }
            sent_unasked |= !urgent;
            let progress = &mut self.sources[source].progress;
            let Some(commit) = progress.commits.pop_front() else { continue };
            progress.committing = true;
            progress.committed = commit.position.next;
            self.send(Verb::Commit { source: number, commit }, Vec::new(), frames);
        }
        if sent_unasked {
            self.commit_times.next = Some(now + COMMITS_EVERY);
        }
    }

    /// When commits are to be sent that wait for their time.
    pub(in super::super) fn commits_due(&self) -> Option<Instant> {
        self.commit_times.due
    }

    /// A commit of `number`'s position under the epoch of what was handled.
    pub(in super::super) fn commit(&mut self, number: u32, epoch: u64, commit: Commit) {
        let progress = match self.sources.get_mut(number as usize) {
            Some(state) if state.epoch == Some(epoch) && self.rules.mode == GroupMode::Offset => &mut state.progress,
            _ => {
                let error = Error::refused(ErrorReason::Fenced, "the partition is not this member's any more");
                commit.waiters.into_iter().for_each(|waiter| {
                    let _ = waiter.send(Err(error.clone()));
                });
                return;
            }
        };
        progress.commit(commit);
        self.look_at_commits(number);
    }

    /// The session is to look at a partition's commits, unless it will do so by itself.
    pub(super) fn look_at_commits(&mut self, source: u32) {
        let progress = &self.sources[source as usize].progress;
        let by_itself = self.commit_times.due.is_some() && !progress.is_urgent();
        self.outbox.other |= !progress.committing && !progress.commits.is_empty() && !by_itself;
    }

    /// A commit of a partition by its name, under the epoch of now.
    pub(in super::super) fn commit_source(&mut self, source: &Source, commit: Commit) {
        let number = self.sources.iter().position(|state| *state.source == *source).unwrap_or(usize::MAX);
        let epoch = self.sources.get(number).and_then(|state| state.epoch).unwrap_or(u64::MAX);
        self.commit(u32::try_from(number).unwrap_or(u32::MAX), epoch, commit);
    }

    /// Mode offset: everything up to a record that was handed out is done.
    pub(in super::super) fn commit_through(
        &mut self,
        ticket: Ticket,
        waiter: oneshot::Sender<Result<(), Error>>,
        now: Instant,
    ) {
        let Some(slot) = self.slots.get(ticket) else {
            let _ = waiter.send(Err(Error::refused(ErrorReason::Fenced, "the record is not this member's any more")));
            return;
        };
        let (number, epoch) = (slot.source, slot.epoch);
        let position = Position { next: slot.offset + 1, epoch: Some(slot.record_epoch) };
        self.finish(ticket, Verdict::Done, None, None, now);
        self.commit(number, epoch, Commit { position, metadata: String::new(), force: false, waiters: vec![waiter] });
    }

    /// The answer to a commit.
    pub(super) fn committed(&mut self, result: &v1::CommitResult) {
        let Some(sent) = self.take_sent(result.sequence) else { return };
        let Verb::Commit { source, commit } = sent.verb else { return };
        let progress = &mut self.sources[source as usize].progress;
        progress.committing = false;
        if result.failure.is_none() {
            progress.confirmed = commit.position.next;
        }
        let outcome = result.failure.as_ref().map_or(Ok(()), |failure| Err(Error::from_failure(failure)));
        if let Err(error) = &outcome {
            tracing::debug!(error = %error, "a commit was refused");
        }
        for waiter in commit.waiters {
            let _ = waiter.send(outcome.clone());
        }
    }

    /// The partition is not this member's any more: what waits to be committed is refused.
    pub(super) fn refuse_commits(&mut self, source: u32) {
        let error = Error::refused(ErrorReason::Fenced, "the partition is not this member's any more");
        for commit in self.sources[source as usize].progress.commits.drain(..) {
            for waiter in commit.waiters {
                let _ = waiter.send(Err(error.clone()));
            }
        }
    }
}
