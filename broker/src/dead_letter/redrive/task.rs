//! The task of a job: gives entries to the group at the job's rate, sees to its end, makes its progress durable.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use super::stored::StoredJob;
use super::{Job, Piece};
use crate::dead_letter::error::LetterError;
use crate::dead_letter::handle::GroupHandle;
use crate::dead_letter::letters::Letters;
use crate::dead_letter::views::{JobId, JobState, RedriveTarget};
use crate::group::entry::{Act, EntryKey, EntryState};
use crate::group::event::Admin;
use crate::model::rate::TokenBucket;
use crate::model::{LaneKey, Source};

/// Entries that the group has of a job at most.
const IN_FLIGHT: usize = 1_000;
/// Entries given at once.
const GIVEN: usize = 200;
/// How often a job looks after itself, whatever happens: progress made durable, what was missed.
const LOOK: Duration = Duration::from_secs(1);

/// How often a job whose entries are closed looks whether the group is done parking what came behind them.
const BACK: Duration = Duration::from_millis(10);

/// What a job does next.
enum Next {
    /// These are given to the group, or moved.
    Give(Vec<(EntryKey, Piece)>),
    /// Wait: for news, or for so long.
    Wait(Duration),
    /// It has nothing more to do.
    Finished,
    /// Too much failed.
    TooManyFailures,
    /// It does not run.
    Stopped,
}

impl Letters {
    /// Begins the task of a job.
    pub(super) fn run_job(&self, id: JobId) {
        let Some(own) = self.own.upgrade() else { return };
        if self.stopping.is_cancelled() {
            return;
        }
        let runtime = self.parts.runtime.clone();
        let task = async move {
            if let Err(error) = own.work(id).await {
                tracing::warn!(job = %id, %error, "a redrive stopped; it goes on at the next start");
            }
        };
        self.tasks.spawn_on(task, &runtime);
    }

    async fn work(self: Arc<Self>, id: JobId) -> Result<(), LetterError> {
        let Some((group, wake, rate)) = self.jobs.of_task(id) else { return Ok(()) };
        if !self.load_pieces(id, &group).await? {
            return Ok(());
        }
        let moves = self.jobs.moves(id);
        let mut bucket = (rate > 0).then(|| TokenBucket::new(rate, self.parts.clock.monotonic().0));
        let mut kept = self.parts.clock.monotonic().0;
        loop {
            let now = self.parts.clock.monotonic().0;
            let paid = bucket.as_ref().map_or(Duration::ZERO, |bucket| bucket.wait(now));
            let most = bucket
                .as_ref()
                .map_or(GIVEN, |bucket| usize::try_from(bucket.burst_units()).unwrap_or(GIVEN).min(GIVEN));
            match self.next(id, &group, most, paid) {
                Next::Give(given) => {
                    if let Some(bucket) = &mut bucket {
                        bucket.spend(given.len() as u64, now);
                    }
                    if moves {
                        self.move_or_give(id, &group, given).await?;
                    } else {
                        self.give(id, &group, given).await?;
                    }
                }
                Next::Wait(time) => {
                    tokio::select! {
                        () = self.stopping.cancelled() => return Ok(()),
                        () = wake.notified() => {}
                        () = tokio::time::sleep(time) => {}
                    }
                    self.jobs.reconcile(id);
                }
                Next::Finished => return self.end(id, JobState::Done, "").await,
                Next::TooManyFailures => {
                    let why = "too many failures";
                    return self.end(id, JobState::Paused, why).await;
                }
                Next::Stopped => return Ok(()),
            }
            if now.saturating_sub(kept) >= LOOK && self.jobs.is_dirty(id) {
                kept = now;
                self.keep(id).await?;
            }
        }
    }

    /// After a start: what the job has yet to take, and what the group has of it.
    async fn load_pieces(&self, id: JobId, group: &Arc<dyn GroupHandle>) -> Result<bool, LetterError> {
        let Some(stored) = self.jobs.to_load(id) else { return Ok(true) };
        self.finish_moving(id, group, &stored).await?;
        let selection = self.select(group, &stored.request, stored.created_ms, id.number).await?;
        let failed: HashSet<Piece> = stored.failed_pieces.iter().map(|piece| piece.piece()).collect();
        let mut held = HashMap::new();
        group.with_entries(&mut |table| {
            let own = table.redriving().filter(|(job, _)| *job == id.number);
            let entries = own.filter_map(|(_, key)| Some((key, super::piece_of(key, &table.get(&key)?))));
            held.extend(entries);
        });
        let pieces = selection.pieces.into_iter().filter(|piece| !failed.contains(piece));
        Ok(self.jobs.loaded(id, pieces.collect(), held))
    }

    /// What is next: under the lock of the jobs, then of the group, never the other way round.
    fn next(&self, id: JobId, group: &Arc<dyn GroupHandle>, most: usize, paid: Duration) -> Next {
        loop {
            let piece = match self.jobs.next_piece(id, paid) {
                Ok(piece) => piece,
                Err(Next::Finished) if self.comes_back(id, group) => return Next::Wait(BACK),
                Err(next) => return next,
            };
            let keys = self.entries_of_piece(group, piece, most + 1);
            let more = keys.len() > most;
            if let Some(given) = self.jobs.take(id, piece, keys, most, more) {
                return Next::Give(given);
            }
        }
    }

    /// Whether of keys that the job has redriven something is parked again, or about to be: those are looked at again. Else
    /// they live, and what comes of them is delivered as ever (rule RD-5).
    fn comes_back(&self, id: JobId, group: &Arc<dyn GroupHandle>) -> bool {
        let lanes = self.jobs.lanes_of(id);
        let mut parking = false;
        group.with_state(&mut |state| {
            let intents =
                state.partitions.iter().flat_map(|(source, one)| one.intents.values().map(|it| (*source, it.lane)));
            parking = intents.into_iter().any(|lane| lanes.contains(&lane));
        });
        let mut parked = Vec::new();
        group.with_entries(&mut |table| {
            let free = |key: EntryKey| table.get(&key).is_some_and(|entry| super::is_free(&entry));
            let dead = |lane: &&(Source, LaneKey)| table.head_of(lane.0, lane.1).is_some_and(free);
            parked.extend(lanes.iter().filter(dead).map(|lane| Piece::Lane(lane.0, lane.1)));
        });
        self.jobs.look_again(id, &parked);
        parking || !parked.is_empty()
    }

    /// Gives entries to the group (rule RD-4).
    pub(super) async fn give(
        &self,
        id: JobId,
        group: &Arc<dyn GroupHandle>,
        given: Vec<(EntryKey, Piece)>,
    ) -> Result<(), LetterError> {
        // A pause that came first has taken them back.
        let _acting = self.acting(id.group).await;
        if !self.jobs.runs(id) {
            return Ok(());
        }
        let redrive = |entries: Vec<EntryKey>| {
            let act = Act {
                actor: "broker".into(),
                time_ms: self.parts.clock.wall_ms(),
                note: format!("redriven by job {id}"),
            };
            Admin::Redrive { job: id.number, entries, act }
        };
        let all = given.iter().map(|(key, _)| *key).collect();
        let Err(error) = self.act(group, redrive(all)).await else { return Ok(()) };
        if matches!(error, LetterError::Stopped { .. }) {
            return Err(error);
        }
        // One of them was closed or taken by hand meanwhile: one by one, so that the others go on.
        for (key, _) in given {
            match self.act(group, redrive(vec![key])).await {
                Ok(()) => {}
                Err(error @ LetterError::Stopped { .. }) => return Err(error),
                Err(_) => self.jobs.passed_by(id, &key),
            }
        }
        Ok(())
    }

    /// The end of a job, or its pause.
    async fn end(&self, id: JobId, state: JobState, why: &str) -> Result<(), LetterError> {
        let _acting = self.acting(id.group).await;
        let now_ms = self.parts.clock.wall_ms();
        let ended = self.jobs.change(id, |job| {
            let still = job.stored.state == JobState::Running;
            if still {
                job.stored.halt(state, why, now_ms);
            }
            still
        });
        // Somebody else was faster: it is as they said.
        if !matches!(ended, Ok(true)) {
            return Ok(());
        }
        self.give_back(id).await?;
        tracing::info!(job = %id, state = state.as_str(), why, "a redrive has ended or pauses");
        self.keep(id).await
    }

    /// Takes up the jobs that the journal has.
    pub(in crate::dead_letter) async fn take_up_jobs(&self, groups: Vec<Arc<dyn GroupHandle>>) {
        for group in groups {
            let mut texts = Vec::new();
            group.with_entries(&mut |table| texts.extend(table.jobs().clone()));
            for (number, text) in texts {
                let id = JobId { group: group.id(), number };
                match StoredJob::decode(&text) {
                    Ok(stored) => {
                        let now_ms = self.monotonic_ms();
                        let runs = stored.state == JobState::Running;
                        self.jobs.put(id, Job::new(&group, stored, None, now_ms));
                        if runs {
                            self.claim_held(id, &group);
                            self.run_job(id);
                        }
                    }
                    Err(what) => tracing::warn!(job = %id, what, "a redrive that this program cannot read"),
                }
            }
        }
        self.loaded.send_replace(true);
    }

    /// Claims the keys of what a job was about to do, before others may.
    fn claim_held(&self, id: JobId, group: &Arc<dyn GroupHandle>) {
        let mut lanes = Vec::new();
        group.with_entries(&mut |table| {
            let own = table.redriving().filter(|(job, _)| *job == id.number);
            lanes.extend(own.filter_map(|(_, key)| Some((key.source, table.get(&key)?.lane))));
        });
        self.jobs.claim(id, lanes);
    }

    /// Resolves once the jobs that the journal has are taken up.
    pub(in crate::dead_letter) async fn jobs_loaded(&self) {
        let mut loaded = self.loaded.subscribe();
        // An error means that nobody will load them any more.
        let _ = loaded.wait_for(|loaded| *loaded).await;
    }
}

impl super::Jobs {
    fn put(&self, id: JobId, job: Job) {
        self.inner.lock().jobs.insert(id, job);
    }

    fn claim(&self, id: JobId, lanes: Vec<(Source, LaneKey)>) {
        let mut inner = self.inner.lock();
        for (source, lane) in lanes {
            inner.claims.insert((id.group, source, lane), id.number);
        }
    }

    fn of_task(&self, id: JobId) -> Option<(Arc<dyn GroupHandle>, Arc<tokio::sync::Notify>, u64)> {
        let inner = self.inner.lock();
        let job = inner.jobs.get(&id)?;
        Some((job.group.upgrade()?, Arc::clone(&job.wake), job.stored.request.rate))
    }

    fn moves(&self, id: JobId) -> bool {
        let inner = self.inner.lock();
        inner.jobs.get(&id).is_some_and(|job| matches!(job.stored.request.target, RedriveTarget::Topic(_)))
    }

    /// Keys of a job, without those that failed.
    fn lanes_of(&self, id: JobId) -> HashSet<(Source, LaneKey)> {
        let inner = self.inner.lock();
        let Some(job) = inner.jobs.get(&id) else { return HashSet::new() };
        let failed: HashSet<_> = job.stored.failed_pieces.iter().map(|piece| piece.piece().lane()).collect();
        let own = inner.claims.iter().filter(|((group, ..), number)| (*group, **number) == (id.group, id.number));
        own.map(|((_, source, lane), _)| (*source, *lane)).filter(|lane| !failed.contains(lane)).collect()
    }

    fn look_again(&self, id: JobId, pieces: &[Piece]) {
        if let Some(job) = self.inner.lock().jobs.get_mut(&id) {
            pieces.iter().for_each(|piece| job.again(*piece));
        }
    }

    fn is_dirty(&self, id: JobId) -> bool {
        self.inner.lock().jobs.get(&id).is_some_and(|job| job.dirty)
    }

    /// What was stored of a job whose pieces are to be found again.
    fn to_load(&self, id: JobId) -> Option<StoredJob> {
        let inner = self.inner.lock();
        inner.jobs.get(&id).filter(|job| job.pending.is_none()).map(|job| job.stored.clone())
    }

    /// The pieces of a job, found again. What another job has claimed meanwhile is that one's.
    fn loaded(&self, id: JobId, pieces: Vec<Piece>, held: HashMap<EntryKey, Piece>) -> bool {
        let mut inner = self.inner.lock();
        let mut pending = std::collections::VecDeque::new();
        for piece in pieces.into_iter().chain(held.values().copied()) {
            let (source, lane) = piece.lane();
            let holder = *inner.claims.entry((id.group, source, lane)).or_insert(id.number);
            if holder == id.number && !held.values().any(|own| *own == piece) {
                pending.push_back(piece);
            }
        }
        let Some(job) = inner.jobs.get_mut(&id) else { return false };
        job.pending = Some(pending);
        job.in_flight = held;
        true
    }

    /// The piece that is next, or what is to be done without one.
    fn next_piece(&self, id: JobId, paid: Duration) -> Result<Piece, Next> {
        let inner = self.inner.lock();
        let Some(job) = inner.jobs.get(&id) else { return Err(Next::Stopped) };
        let stored = &job.stored;
        if stored.state != JobState::Running {
            return Err(Next::Stopped);
        }
        if stored.request.abort_after_failures > 0 && stored.failures >= stored.request.abort_after_failures {
            return Err(Next::TooManyFailures);
        }
        let front = job.pending.as_ref().and_then(|pending| pending.front());
        match front {
            Some(_) if job.in_flight.len() >= IN_FLIGHT => Err(Next::Wait(LOOK)),
            Some(_) if !paid.is_zero() => Err(Next::Wait(paid)),
            Some(piece) => Ok(*piece),
            None if job.in_flight.is_empty() => Err(Next::Finished),
            None => Err(Next::Wait(LOOK)),
        }
    }

    /// Takes the first `most` of a piece's entries; a piece without any more leaves the queue.
    fn take(
        &self,
        id: JobId,
        piece: Piece,
        mut keys: Vec<EntryKey>,
        most: usize,
        more: bool,
    ) -> Option<Vec<(EntryKey, Piece)>> {
        let mut inner = self.inner.lock();
        let job = inner.jobs.get_mut(&id)?;
        let pending = job.pending.as_mut()?;
        if !more && pending.front() == Some(&piece) {
            pending.pop_front();
        }
        keys.truncate(most);
        if keys.is_empty() {
            return None;
        }
        let given: Vec<_> = keys.into_iter().map(|key| (key, piece)).collect();
        job.in_flight.extend(given.iter().copied());
        job.dirty = true;
        // Parked meanwhile behind what was selected: it is part of the lane (rule RD-5).
        let known = job.stored.done() + job.in_flight.len() as u64;
        job.stored.selected = job.stored.selected.max(known);
        Some(given)
    }

    /// An entry that could not be given: somebody else has it, or has closed it.
    pub(super) fn passed_by(&self, id: JobId, key: &EntryKey) {
        let mut inner = self.inner.lock();
        let Some(job) = inner.jobs.get_mut(&id) else { return };
        if job.in_flight.remove(key).is_some() {
            job.stored.passed += 1;
            job.dirty = true;
        }
    }

    /// Makes good for news that did not come: what is closed, or has left the job, is not in flight; a lane whose head is
    /// nobody's is taken from its head.
    fn reconcile(&self, id: JobId) {
        let (group, held) = {
            let inner = self.inner.lock();
            let Some(job) = inner.jobs.get(&id) else { return };
            (job.group.upgrade(), job.in_flight.iter().map(|(key, piece)| (*key, *piece)).collect::<Vec<_>>())
        };
        let Some(group) = group else { return };
        let mut gone = Vec::new();
        let mut headless = HashSet::new();
        group.with_entries(&mut |table| {
            for (key, piece) in &held {
                match table.get(key) {
                    Some(entry) if entry.state == EntryState::Open && entry.job == Some(id.number) => {
                        let (source, lane) = piece.lane();
                        let head = table.head_of(source, lane).filter(|_| matches!(piece, Piece::Lane(..)));
                        let free = |head: EntryKey| table.get(&head).is_some_and(|entry| super::is_free(&entry));
                        if head.is_some_and(free) {
                            headless.insert(*piece);
                        }
                    }
                    entry => gone.push((*key, entry.map(|entry| entry.state))),
                }
            }
        });
        for (key, state) in gone {
            match state {
                Some(EntryState::Open) => self.left(id, &key),
                state => self.closed(id.group, &key, state),
            }
        }
        if let Some(job) = self.inner.lock().jobs.get_mut(&id) {
            headless.into_iter().for_each(|piece| job.take_from_head(piece));
        }
    }

    /// An entry has left the job without being closed: behind one that failed when another had it, so that its lane is
    /// looked at again. Where that one failed for this job, its lane is given up already (rule RD-7).
    fn left(&self, id: JobId, key: &EntryKey) {
        if let Some(job) = self.inner.lock().jobs.get_mut(&id)
            && let Some(piece) = job.in_flight.remove(key)
        {
            job.take_from_head(piece);
        }
    }
}
