//! Redrive jobs: dead letters delivered again, select by select, at a rate (rules RD-1 to RD-7).
//!
//! ```text
//!            pause, failures            all tried
//!  running <----------------> paused    running --> done      running, paused --cancel--> cancelled
//!            resume
//! ```
//! A job's state stands in the entries journal; which entries it has at the moment, in the entries themselves. What it
//! has yet to take is found again after a restart by what was selected, without what came later. One task for each job
//! that runs: `redrive/task.rs` gives entries to the group, `redrive/moving.rs` appends them to a topic.
//!
//! Invariants: a key belongs to one job at most; an entry of a dead lane is taken only with all before it in its lane;
//! an entry that failed again is not taken again by the same job; what a job that does not run has is open.

mod jobs;
mod moving;
mod stored;
mod task;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tokio::sync::Notify;

use super::copies::Copies;
use super::entries::{check_condition, check_ids};
use super::error::LetterError;
use super::handle::GroupHandle;
use super::letters::Letters;
use super::select::Ready;
use super::views::{JobId, JobState, JobView, RedrivePreview, RedriveRequest, RedriveTarget, StateName};
use crate::group::effect::Notice;
use crate::group::entry::{Act, DeadReason, Entry, EntryKey, EntryState};
use crate::group::event::Admin;
use crate::model::{GroupId, LaneKey, Source};
use stored::StoredJob;

/// Ended jobs of a group that are remembered.
const ENDED_KEPT: usize = 50;
/// Names with their counts in a preview.
const COUNTS: usize = 100;
/// Entries shown in a preview (rule RD-2).
const SHOWN: usize = 20;
/// Entries of a page of a selection.
const SELECTED_PAGE: usize = 5_000;

/// A lane, or an entry that no lane waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Piece {
    /// All open entries of a lane, from its head.
    Lane(Source, LaneKey),
    /// One entry.
    One(EntryKey, LaneKey),
}

impl Piece {
    fn lane(&self) -> (Source, LaneKey) {
        match self {
            Self::Lane(source, lane) => (*source, *lane),
            Self::One(key, lane) => (key.source, *lane),
        }
    }
}

/// Where jobs are kept.
#[derive(Debug, Default)]
pub(super) struct Jobs {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    jobs: BTreeMap<JobId, Job>,
    /// Which job has a key (rule RD-1).
    claims: BTreeMap<(GroupId, Source, LaneKey), u64>,
}

/// A job.
#[derive(Debug)]
struct Job {
    /// Not held: the group holds whoever holds this.
    group: Weak<dyn GroupHandle>,
    group_name: String,
    stored: StoredJob,
    /// What it has yet to take, in order; `None`: to be selected again.
    pending: Option<VecDeque<Piece>>,
    /// Entries that the group has of it, with what they belong to.
    in_flight: HashMap<EntryKey, Piece>,
    /// Its state differs from what is stored.
    dirty: bool,
    /// When it began to run, monotonic milliseconds, and what it had done then.
    began: (u64, u64),
    wake: Arc<Notify>,
}

/// What was selected: pieces in order, their claims, entries in all.
#[derive(Debug, Default)]
struct Selection {
    pieces: VecDeque<Piece>,
    entries: u64,
}

impl Letters {
    /// What a redrive would do; changes nothing (rule RD-2).
    ///
    /// # Errors
    /// As [`Letters::start_redrive`].
    pub async fn preview_redrive(
        &self,
        group: &Arc<dyn GroupHandle>,
        request: &RedriveRequest,
    ) -> Result<RedrivePreview, LetterError> {
        self.check_request(group, request)?;
        let selection = self.select(group, request, i64::MAX, 0).await?;
        let mut by_class: HashMap<String, u64> = HashMap::new();
        let mut by_lane: Vec<(Piece, u64)> = Vec::new();
        let mut first = Vec::new();
        for piece in &selection.pieces {
            let keys = self.entries_of_piece(group, *piece, usize::MAX);
            group.with_entries(&mut |table| {
                for entry in keys.iter().filter_map(|key| table.get(key)) {
                    *by_class.entry(entry.class.unwrap_or_default()).or_default() += 1;
                }
            });
            first.extend(keys.iter().copied().take(SHOWN - first.len()));
            by_lane.push((*piece, keys.len() as u64));
        }
        by_lane.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
        by_lane.truncate(COUNTS);
        let mut copies = Copies::new(&self.parts.logs, group);
        let mut by_key = Vec::with_capacity(by_lane.len());
        for (piece, count) in by_lane {
            by_key.push((self.name_of(group, &mut copies, piece).await?, count));
        }
        let mut by_class: Vec<_> = by_class.into_iter().collect();
        by_class.sort_by(|one, two| two.1.cmp(&one.1).then_with(|| one.0.cmp(&two.0)));
        by_class.truncate(COUNTS);
        let mut shown = Vec::with_capacity(first.len());
        for key in first {
            let mut entry = None;
            group.with_entries(&mut |table| entry = table.get(&key));
            if let Some(entry) = entry {
                shown.push(copies.view(key, entry, false).await?);
            }
        }
        let keys = selection.pieces.iter().map(Piece::lane).collect::<HashSet<_>>().len() as u64;
        Ok(RedrivePreview { entries: selection.entries, keys, by_key, by_class, first: shown })
    }

    /// The key of a piece as text.
    async fn name_of(
        &self,
        group: &Arc<dyn GroupHandle>,
        copies: &mut Copies,
        piece: Piece,
    ) -> Result<String, LetterError> {
        let Some(key) = self.entries_of_piece(group, piece, 1).first().copied() else { return Ok(String::new()) };
        let mut entry = None;
        group.with_entries(&mut |table| entry = table.get(&key));
        let Some(entry) = entry else { return Ok(String::new()) };
        let original = copies.original(&key, &entry).await?;
        let text = original.and_then(|original| original.record.key);
        Ok(text.map(|key| String::from_utf8_lossy(&key).into_owned()).unwrap_or_default())
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
        self.check_request(group, &request)?;
        let _acting = self.acting(group.id()).await;
        self.jobs_loaded().await;
        check_ids(group, &request.selector)?;
        let now_ms = self.parts.clock.wall_ms();
        let selection = self.select(group, &request, i64::MAX, 0).await?;
        let mut stored = StoredJob::new(request, now_ms, selection.entries);
        stored.ends = self.ends_of_sources(group, &stored.request.target, &selection);
        let id = self.jobs.add(group, stored, selection.pieces, self.monotonic_ms())?;
        if let Err(error) = self.keep(id).await {
            self.jobs.remove(id);
            return Err(error);
        }
        self.forget_old_jobs(group);
        self.run_job(id);
        self.job(id)
    }

    fn check_request(&self, group: &Arc<dyn GroupHandle>, request: &RedriveRequest) -> Result<(), LetterError> {
        check_condition(&request.selector)?;
        if let RedriveTarget::Topic(Some(name)) = &request.target {
            let target = self.parts.logs.target(name);
            let target = target.ok_or_else(|| crate::topics::TopicError::NotFound { name: name.clone() })?;
            if target.reserved {
                return Err(crate::topics::TopicError::ReservedTopic { name: name.clone() }.into());
            }
        }
        let states = &request.selector.states;
        if states.iter().any(|state| *state != StateName::Open) {
            let (found, bounds) = ("states other than open".into(), "open, or none".into());
            return Err(LetterError::Invalid { field: "selector.states", found, bounds });
        }
        Ready::new(group, &request.selector, self.parts.lane_of, &[]).map(|_| ())
    }

    /// Open entries that no job has, or this one, that were dead at `until_ms`: as pieces, in order.
    async fn select(
        &self,
        group: &Arc<dyn GroupHandle>,
        request: &RedriveRequest,
        until_ms: i64,
        job: u64,
    ) -> Result<Selection, LetterError> {
        let ready = Ready::new(group, &request.selector, self.parts.lane_of, &[StateName::Open])?;
        let mut copies = Copies::new(&self.parts.logs, group);
        let mut after = None;
        let mut pieces: BTreeMap<Piece, i64> = BTreeMap::new();
        loop {
            let (found, next) = ready.page(group, &mut copies, after, SELECTED_PAGE).await?;
            for (key, entry) in found {
                if entry.dead_ms > until_ms || !can_be_redriven(&entry) {
                    continue;
                }
                let piece = piece_of(key, &entry);
                let dead_ms = pieces.entry(piece).or_insert(entry.dead_ms);
                *dead_ms = entry.dead_ms.min(*dead_ms);
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        let mut in_order: Vec<(i64, Piece)> = pieces.into_iter().map(|(piece, dead_ms)| (dead_ms, piece)).collect();
        in_order.sort_unstable();
        if request.order == super::views::RedriveOrder::NewestFirst {
            in_order.reverse();
        }
        let mut selection = Selection::default();
        for (_, piece) in in_order {
            let entries = self.entries_of_piece(group, piece, usize::MAX).len() as u64;
            if entries > 0 || job != 0 {
                selection.entries += entries;
                selection.pieces.push_back(piece);
            }
        }
        Ok(selection)
    }

    /// Open entries of a piece that no job has, in order, up to `limit`.
    fn entries_of_piece(&self, group: &Arc<dyn GroupHandle>, piece: Piece, limit: usize) -> Vec<EntryKey> {
        let mut keys = Vec::new();
        group.with_entries(&mut |table| {
            let free = |key: &EntryKey| table.get(key).is_some_and(|entry| is_free(&entry));
            match piece {
                Piece::Lane(source, lane) => keys.extend(table.open_of(source, lane).filter(free).take(limit)),
                Piece::One(key, _) => keys.extend(Some(key).filter(free)),
            }
        });
        keys
    }

    /// One job.
    ///
    /// # Errors
    /// [`LetterError::JobNotFound`].
    pub fn job(&self, id: JobId) -> Result<JobView, LetterError> {
        let now_ms = self.monotonic_ms();
        let inner = self.jobs.inner.lock();
        let job = inner.jobs.get(&id).ok_or(LetterError::JobNotFound { job: id })?;
        Ok(job.view(id, now_ms))
    }

    /// Up to `limit` jobs, the newest first, after `after`; of one group if given, only those that have not ended if
    /// `running`.
    pub fn jobs(&self, group: Option<GroupId>, running: bool, after: Option<JobId>, limit: usize) -> Vec<JobView> {
        let now_ms = self.monotonic_ms();
        let inner = self.jobs.inner.lock();
        let wanted = |id: &JobId, job: &Job| {
            group.is_none_or(|group| id.group == group) && !(running && job.stored.state.is_ended())
        };
        let mut jobs: Vec<_> = inner.jobs.iter().filter(|(id, job)| wanted(id, job)).collect();
        jobs.sort_by_key(|(id, job)| std::cmp::Reverse((job.stored.created_ms, **id)));
        let from = match after {
            Some(after) => jobs.iter().position(|(id, _)| **id == after).map_or(jobs.len(), |at| at + 1),
            None => 0,
        };
        jobs[from..].iter().take(limit).map(|(id, job)| job.view(**id, now_ms)).collect()
    }

    /// Stops a job for a while: what it has not resolved is open. One that is paused stays so.
    ///
    /// # Errors
    /// [`LetterError::JobNotFound`], [`LetterError::JobClosed`].
    pub async fn pause_job(&self, id: JobId) -> Result<JobView, LetterError> {
        self.halt(id, JobState::Paused, "paused by hand").await
    }

    /// Goes on with a paused job; its failures are counted anew.
    ///
    /// # Errors
    /// As [`Letters::pause_job`].
    pub async fn resume_job(&self, id: JobId) -> Result<JobView, LetterError> {
        let _acting = self.acting(id.group).await;
        let began = self.monotonic_ms();
        let resumed = self.jobs.change(id, |job| {
            if job.stored.state == JobState::Running {
                return false;
            }
            job.stored.state = JobState::Running;
            job.stored.pause_reason.clear();
            job.stored.failures = 0;
            job.began = (began, job.stored.done());
            true
        })?;
        if resumed {
            self.keep(id).await?;
            self.run_job(id);
        }
        self.job(id)
    }

    /// Ends a job; what it has not resolved is open.
    ///
    /// # Errors
    /// As [`Letters::pause_job`].
    pub async fn cancel_job(&self, id: JobId) -> Result<JobView, LetterError> {
        self.halt(id, JobState::Cancelled, "").await
    }

    async fn halt(&self, id: JobId, state: JobState, why: &str) -> Result<JobView, LetterError> {
        let _acting = self.acting(id.group).await;
        let now_ms = self.parts.clock.wall_ms();
        let halted = self.jobs.change(id, |job| {
            if job.stored.state == state {
                return false;
            }
            job.stored.halt(state, why, now_ms);
            true
        })?;
        if halted {
            self.give_back(id).await?;
            self.keep(id).await?;
            self.jobs.wake(id);
        }
        self.job(id)
    }

    /// What a job has is open again; durable with what follows.
    pub(super) async fn give_back(&self, id: JobId) -> Result<(), LetterError> {
        let Some(group) = self.jobs.give_back(id) else { return Ok(()) };
        let note = "its job does not run".to_owned();
        let act = Act { actor: "broker".into(), time_ms: self.parts.clock.wall_ms(), note };
        self.act(&group, Admin::EndRedrive { job: id.number, act }).await
    }

    /// Makes a job's state durable.
    pub(super) async fn keep(&self, id: JobId) -> Result<(), LetterError> {
        let Some((group, state)) = self.jobs.encoded(id) else { return Ok(()) };
        self.act(&group, Admin::KeepJob { job: id.number, state: Some(state) }).await
    }

    fn forget_old_jobs(&self, group: &Arc<dyn GroupHandle>) {
        for id in self.jobs.old(group.id()) {
            // Lost, they would be forgotten later.
            drop(group.drive(crate::group::event::Event::Admin(Admin::KeepJob { job: id.number, state: None })));
            self.jobs.remove(id);
        }
    }

    /// What became of entries.
    pub(super) fn job_notices(&self, group: &Arc<dyn GroupHandle>, notices: &[Notice]) {
        for notice in notices {
            match notice {
                Notice::EntryClosed(key) => {
                    let mut state = None;
                    group.with_entries(&mut |table| state = table.state_of(key));
                    self.jobs.closed(group.id(), key, state);
                }
                Notice::RedriveFailed(key) => self.jobs.failed(group.id(), key),
                _ => {}
            }
        }
    }

    /// Jobs of a group that have not ended.
    pub(super) fn jobs_not_ended(&self, group: GroupId) -> u32 {
        let inner = self.jobs.inner.lock();
        let own = inner.jobs.iter().filter(|(id, job)| id.group == group && !job.stored.state.is_ended());
        u32::try_from(own.count()).unwrap_or(u32::MAX)
    }

    fn monotonic_ms(&self) -> u64 {
        u64::try_from(self.parts.clock.monotonic().0.as_millis()).unwrap_or(u64::MAX)
    }
}

/// Whether an entry can be delivered again at all (rule DL-16).
fn can_be_redriven(entry: &Entry) -> bool {
    entry.reason != DeadReason::Undecodable
}

/// Whether a job may take an entry.
fn is_free(entry: &Entry) -> bool {
    entry.state == EntryState::Open && entry.job.is_none() && can_be_redriven(entry)
}

fn piece_of(key: EntryKey, entry: &Entry) -> Piece {
    if entry.holds { Piece::Lane(key.source, entry.lane) } else { Piece::One(key, entry.lane) }
}

impl Inner {
    fn release(&mut self, id: JobId) {
        self.claims.retain(|(group, _, _), number| (*group, *number) != (id.group, id.number));
    }
}

impl Job {
    fn new(group: &Arc<dyn GroupHandle>, stored: StoredJob, pending: Option<VecDeque<Piece>>, now_ms: u64) -> Self {
        let began = (now_ms, stored.done());
        let (group_name, wake) = (group.name().as_str().to_owned(), Arc::new(Notify::new()));
        let group = Arc::downgrade(group);
        Self { group, group_name, stored, pending, in_flight: HashMap::new(), dirty: false, began, wake }
    }

    /// A lane is taken from its head, whatever the job has of it, unless that failed or waits already.
    fn take_from_head(&mut self, piece: Piece) {
        let failed = self.stored.failed_pieces.iter().any(|failed| failed.piece() == piece);
        if let Some(pending) = &mut self.pending
            && !failed
            && !pending.contains(&piece)
        {
            pending.push_front(piece);
        }
    }

    /// A lane is looked at again, unless it waits already.
    fn again(&mut self, piece: Piece) {
        let waits = self.in_flight.values().any(|other| *other == piece);
        if let Some(pending) = &mut self.pending
            && matches!(piece, Piece::Lane(..))
            && !waits
            && pending.front() != Some(&piece)
            && !pending.contains(&piece)
        {
            pending.push_front(piece);
        }
    }

    fn view(&self, id: JobId, now_ms: u64) -> JobView {
        let stored = &self.stored;
        let (began_ms, done_then) = self.began;
        let (passed_ms, done) = (now_ms.saturating_sub(began_ms), stored.done().saturating_sub(done_then));
        let left = stored.selected.saturating_sub(stored.done());
        let eta_ms = (stored.state == JobState::Running && done > 0)
            .then(|| i64::try_from(u128::from(left) * u128::from(passed_ms) / u128::from(done)).unwrap_or(i64::MAX));
        JobView {
            id,
            group_name: self.group_name.clone(),
            request: stored.request.clone(),
            state: stored.state,
            pause_reason: stored.pause_reason.clone(),
            selected: stored.selected,
            resolved: stored.resolved,
            failed: stored.failed,
            passed: stored.passed,
            eta_ms,
            created_ms: stored.created_ms,
            ended_ms: stored.ended_ms,
        }
    }
}

#[cfg(test)]
mod tests;
