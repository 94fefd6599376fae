//! The table of jobs: who has which key, what became of what was given.

use std::collections::{BTreeSet, HashSet, VecDeque};
use std::sync::Arc;

use super::stored::StoredJob;
use super::{ENDED_KEPT, Inner, Job, Jobs, Piece};
use crate::dead_letter::error::LetterError;
use crate::dead_letter::handle::GroupHandle;
use crate::dead_letter::views::JobId;
use crate::group::entry::{EntryKey, EntryState};
use crate::limits;
use crate::model::{GroupId, LaneKey, PartitionId, Source, TopicUuid};

impl Jobs {
    /// Adds a job with its claims, all or none.
    pub(super) fn add(
        &self,
        group: &Arc<dyn GroupHandle>,
        stored: StoredJob,
        pieces: VecDeque<Piece>,
        now_ms: u64,
    ) -> Result<JobId, LetterError> {
        let mut inner = self.inner.lock();
        if inner.jobs.values().filter(|job| !job.stored.state.is_ended()).count() >= limits::JOBS {
            return Err(LetterError::Limit { limit: "jobs", max: limits::JOBS as u64 });
        }
        let own = group.id();
        for (source, lane) in pieces.iter().map(Piece::lane) {
            if let Some(number) = inner.claims.get(&(own, source, lane)) {
                return Err(LetterError::JobConflict { job: JobId { group: own, number: *number } });
            }
        }
        let last = inner.jobs.keys().filter(|id| id.group == own).map(|id| id.number).max().unwrap_or(0);
        let id = JobId { group: own, number: last + 1 };
        for (source, lane) in pieces.iter().map(Piece::lane) {
            inner.claims.insert((own, source, lane), id.number);
        }
        inner.jobs.insert(id, Job::new(group, stored, Some(pieces), now_ms));
        Ok(id)
    }

    /// Takes a job out with its claims.
    pub(super) fn remove(&self, id: JobId) {
        let mut inner = self.inner.lock();
        if let Some(job) = inner.jobs.remove(&id) {
            job.wake.notify_one();
        }
        inner.release(id);
    }

    /// Changes a job that has not ended; `change` says whether it did.
    pub(super) fn change(&self, id: JobId, change: impl FnOnce(&mut Job) -> bool) -> Result<bool, LetterError> {
        let mut inner = self.inner.lock();
        let job = inner.jobs.get_mut(&id).ok_or(LetterError::JobNotFound { job: id })?;
        if job.stored.state.is_ended() {
            return Err(LetterError::JobClosed { job: id, state: job.stored.state.as_str() });
        }
        let changed = change(job);
        job.dirty |= changed;
        if job.stored.state.is_ended() {
            inner.release(id);
        }
        Ok(changed)
    }

    pub(super) fn wake(&self, id: JobId) {
        if let Some(job) = self.inner.lock().jobs.get(&id) {
            job.wake.notify_one();
        }
    }

    /// What the group had of a job is to be taken again.
    pub(super) fn give_back(&self, id: JobId) -> Option<Arc<dyn GroupHandle>> {
        let mut inner = self.inner.lock();
        let job = inner.jobs.get_mut(&id)?;
        let pieces: HashSet<Piece> = job.in_flight.drain().map(|(_, piece)| piece).collect();
        if let Some(pending) = &mut job.pending {
            let mut pieces: Vec<Piece> = pieces.into_iter().filter(|piece| !pending.contains(piece)).collect();
            pieces.sort_unstable();
            pieces.into_iter().rev().for_each(|piece| pending.push_front(piece));
        }
        job.group.upgrade()
    }

    pub(super) fn encoded(&self, id: JobId) -> Option<(Arc<dyn GroupHandle>, String)> {
        let mut inner = self.inner.lock();
        let job = inner.jobs.get_mut(&id)?;
        job.dirty = false;
        Some((job.group.upgrade()?, job.stored.encode()))
    }

    /// Ended jobs of a group beyond those that are remembered.
    pub(super) fn old(&self, group: GroupId) -> Vec<JobId> {
        let inner = self.inner.lock();
        let ended = inner.jobs.iter().filter(|(id, job)| id.group == group && job.stored.state.is_ended());
        let mut ended: Vec<(i64, JobId)> = ended.map(|(id, job)| (job.stored.ended_ms.unwrap_or(0), *id)).collect();
        ended.sort_unstable();
        let most = ended.len().saturating_sub(ENDED_KEPT);
        ended.into_iter().take(most).map(|(_, id)| id).collect()
    }

    pub(super) fn closed(&self, group: GroupId, key: &EntryKey, state: Option<EntryState>) {
        self.with_holder(group, key, |job| {
            let Some(piece) = job.in_flight.remove(key) else { return };
            match state {
                Some(EntryState::Resolved { .. } | EntryState::Moved) => job.stored.resolved += 1,
                _ => job.stored.passed += 1,
            }
            // More of its lane may have come meanwhile (rule RD-5): it is looked at again.
            job.again(piece);
        });
    }

    pub(super) fn failed(&self, group: GroupId, key: &EntryKey) {
        self.with_holder(group, key, |job| {
            let Some(piece) = job.in_flight.remove(key) else { return };
            job.stored.failed += 1;
            job.stored.failures += 1;
            job.stored.failed_pieces.push(piece.into());
            // What is behind it in its lane has left the job with it (rule RD-7).
            job.in_flight.retain(|_, other| *other != piece || matches!(piece, Piece::One(..)));
            if let Some(pending) = &mut job.pending {
                pending.retain(|other| *other != piece);
            }
        });
    }

    fn with_holder(&self, group: GroupId, key: &EntryKey, change: impl FnOnce(&mut Job)) {
        let mut inner = self.inner.lock();
        let first = JobId { group, number: 0 };
        let last = JobId { group, number: u64::MAX };
        let mut own = inner.jobs.range_mut(first..=last);
        if let Some((_, job)) = own.find(|(_, job)| job.in_flight.contains_key(key)) {
            change(job);
            job.dirty = true;
            job.wake.notify_one();
        }
    }

    /// A job that has keys of this topic (rule RE-10).
    pub(in crate::dead_letter) fn on(&self, topic: TopicUuid) -> Option<JobId> {
        let inner = self.inner.lock();
        let groups: BTreeSet<GroupId> = inner.jobs.keys().map(|id| id.group).collect();
        groups.into_iter().find_map(|group| inner.claimed(group, topic))
    }

    /// A job of a group that has not ended; if topics are given, one that has keys of them (rule OF-8).
    pub(in crate::dead_letter) fn of(&self, group: GroupId, topics: Option<&[TopicUuid]>) -> Option<JobId> {
        let inner = self.inner.lock();
        if let Some(topics) = topics {
            return topics.iter().find_map(|topic| inner.claimed(group, *topic));
        }
        let (first, last) = (JobId { group, number: 0 }, JobId { group, number: u64::MAX });
        let mut own = inner.jobs.range(first..=last);
        own.find(|(_, job)| !job.stored.state.is_ended()).map(|(id, _)| *id)
    }

    /// Ends all jobs of a group, or takes what is of these topics out of them.
    pub(in crate::dead_letter) fn forget(&self, group: GroupId, topics: Option<&[TopicUuid]>) {
        let mut inner = self.inner.lock();
        let gone = |source: &Source| topics.is_none_or(|topics| topics.contains(&source.topic));
        inner.claims.retain(|(owner, source, _), _| *owner != group || !gone(source));
        if topics.is_none() {
            let ids: Vec<JobId> = inner.jobs.keys().filter(|id| id.group == group).copied().collect();
            for id in ids {
                if let Some(job) = inner.jobs.remove(&id) {
                    job.wake.notify_one();
                }
            }
            return;
        }
        for (_, job) in inner.jobs.iter_mut().filter(|(id, _)| id.group == group) {
            job.in_flight.retain(|key, _| !gone(&key.source));
            if let Some(pending) = &mut job.pending {
                pending.retain(|piece| !gone(&piece.lane().0));
            }
            job.wake.notify_one();
        }
    }
}

impl Inner {
    /// A job that has a key of this topic of a group.
    fn claimed(&self, group: GroupId, topic: TopicUuid) -> Option<JobId> {
        let at = |partition, lane| (group, Source { topic, partition: PartitionId(partition) }, LaneKey(lane));
        let mut claims = self.claims.range(at(0, 0)..=at(u32::MAX, u128::MAX));
        claims.next().map(|(_, number)| JobId { group, number: *number })
    }
}
