//! The thread's side of a journal: rounds of write, sync, publish, apply, and one step of a snapshot.
//!
//! [`Worker::step`] does one round and never waits; the thread alone waits, between rounds. So tests can drive it
//! step by step.

use std::collections::VecDeque;
use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;

use super::handle::{Command, Look, Recover, Shared};
use super::snapshotting::Snapshotting;
use super::{FULL_RETRY, JournalHandle, JournalHealth, JournalSpec, JournalState, JournalThreadSpec, OpenError};
use super::{JournalError, OpenedJournal};
use crate::limits;
use crate::model::Offset;
use crate::partition::journal::Journal;
use crate::partition::sync::Arc;

/// Bytes of payloads in one batch of records, unless one record needs more.
const BATCH_BYTES: usize = 1 << 20;
/// Bytes of records written before they are synced, unless one batch has more.
const ROUND_BYTES: usize = 8 << 20;
/// Records applied to the replica in one round, unless more were written in it.
const APPLY_RECORDS: usize = 8_192;
/// Bytes of records written in a round for which a snapshot takes one more step in it.
const STEP_PER_BYTES: usize = 1 << 20;
/// Steps of a snapshot in a round, at most, beside the first: at 256 KiB each, a few milliseconds.
const STEPS_PER_ROUND: usize = 6;
/// What an entry costs beside its payload, about.
const ENTRY_BYTES: u64 = 20;

/// What a round came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flow {
    /// There is more to do.
    Busy,
    /// Nothing to do until something comes.
    Idle,
    /// Nothing to do until there is space, or a command comes.
    Full,
    /// The thread is to end.
    End,
}

/// The owner of journal and replica.
pub(super) struct Worker<S: JournalState> {
    pub(super) shared: Arc<Shared<S>>,
    pub(super) journal: Journal,
    pub(super) spec: JournalThreadSpec,
    /// The replica; lent while it is being encoded.
    pub(super) state: Option<S>,
    /// Not yet written.
    waiting: VecDeque<Bytes>,
    /// Written, not yet synced: how many, and their bytes.
    unsynced: (u64, u64),
    /// Durable, not yet in the replica.
    pub(super) unapplied: VecDeque<Bytes>,
    /// The last record in the replica.
    applied: u64,
    /// Questions, each with the record that must be in the replica.
    questions: Vec<(u64, Look<S>)>,
    pub(super) snapshotting: Snapshotting<S>,
    /// Who asked for a snapshot.
    pub(super) snapshot_asked: Vec<std::sync::mpsc::Sender<bool>>,
    /// Bytes of the journal that the newest snapshot does not hold.
    pub(super) unsaved_bytes: u64,
    /// The next snapshot is due at so many.
    pub(super) snapshot_at: u64,
    full: bool,
    closing: Option<std::sync::mpsc::Sender<Option<Offset>>>,
    /// Whether the sync of a round is left to the next (see [`crate::log::sabotage`]); never outside tests.
    lies: bool,
    sync_owed: bool,
    /// Bytes of records that the last round wrote.
    round_bytes: usize,
}

/// See [`OpenedJournal::open`].
pub(super) fn open<S: JournalState>(spec: JournalSpec, mut empty: S) -> Result<OpenedJournal<S>, OpenError> {
    let dir = spec.log.dir.clone();
    let (journal, replayed) = Journal::open(spec)?;
    for (at, what) in &replayed.bad_snapshots {
        tracing::warn!(?dir, offset = at.get(), what, "a snapshot of a journal is bad; an older one serves");
    }
    let mut damage = replayed.damage.map(|damage| (damage.to_string(), damage.first_bad));
    let misfit = |what: String| (what, journal.durable_end());
    // A record that makes the replay panic keeps the groups stopped, and the broker starts (rule F7).
    let applied = catch_unwind(AssertUnwindSafe(|| {
        let parts = replayed.snapshot.iter().try_for_each(|part| empty.apply_part(part));
        parts.and_then(|()| replayed.records.iter().try_for_each(|record| empty.apply(record)))
    }));
    match applied {
        Ok(Ok(())) => {}
        Ok(Err(what)) => drop(damage.get_or_insert_with(|| misfit(format!("a record does not fit: {what}")))),
        Err(_) => drop(damage.get_or_insert_with(|| misfit("its replay panicked".to_owned()))),
    }
    let sum = |payloads: &[Bytes]| payloads.iter().map(|payload| payload.len() as u64 + ENTRY_BYTES).sum::<u64>();
    Ok(OpenedJournal {
        journal,
        state: empty,
        damage: damage.map(|(what, first_bad)| (what.into(), first_bad)),
        left_out: replayed.left_out,
        unsaved_bytes: sum(&replayed.records),
        snapshot_bytes: sum(&replayed.snapshot),
        bad_snapshots: !replayed.bad_snapshots.is_empty(),
    })
}

/// See [`OpenedJournal::start`].
pub(super) fn start<S: JournalState>(opened: OpenedJournal<S>, spec: JournalThreadSpec) -> JournalHandle<S> {
    let name = format!("sawlog-{}", spec.name);
    let worker = Worker::new(opened, spec);
    let shared = Arc::clone(&worker.shared);
    let thread = std::thread::Builder::new().name(name).spawn(move || worker.run());
    shared.keep_thread(thread.expect("a broker that gets no thread cannot start"));
    JournalHandle::new(shared)
}

fn is_full(error: &JournalError) -> bool {
    match error {
        JournalError::Refused { source } => matches!(source.kind(), StorageFull | QuotaExceeded | FileTooLarge),
        _ => false,
    }
}

impl<S: JournalState> Worker<S> {
    pub(super) fn new(opened: OpenedJournal<S>, spec: JournalThreadSpec) -> Self {
        let health = match (&opened.damage, opened.journal.stopped()) {
            (Some((what, first_bad)), _) => JournalHealth::Damaged { what: Arc::clone(what), first_bad: *first_bad },
            (None, Some(cause)) => JournalHealth::Stopped { cause: cause.into() },
            (None, None) => JournalHealth::Well,
        };
        if !matches!(health, JournalHealth::Well) {
            tracing::error!(journal = spec.name, ?health, "a journal takes no records");
            spec.metrics.stopped.set(1);
        }
        let last = opened.journal.last_sequence();
        let lies = opened.journal.sabotage().acks_journal_before_sync();
        let mut worker = Self {
            shared: Shared::new(last, health),
            state: Some(opened.state),
            waiting: VecDeque::new(),
            unsynced: (0, 0),
            unapplied: VecDeque::new(),
            applied: last,
            questions: Vec::new(),
            snapshotting: Snapshotting::Idle,
            snapshot_asked: Vec::new(),
            unsaved_bytes: opened.unsaved_bytes,
            snapshot_at: 0,
            full: false,
            closing: None,
            lies,
            sync_owed: false,
            round_bytes: 0,
            journal: opened.journal,
            spec,
        };
        worker.expect_next_snapshot(opened.snapshot_bytes);
        if opened.bad_snapshots {
            // Two good ones again, as soon as may be.
            worker.snapshot_at = 0;
        }
        worker.note_sizes();
        worker
    }

    /// The thread.
    fn run(mut self) {
        let shared = Arc::clone(&self.shared);
        let (name, stopped) = (self.spec.name, self.spec.metrics.stopped.clone());
        let ended = catch_unwind(AssertUnwindSafe(|| {
            loop {
                match self.step() {
                    Flow::Busy => {}
                    Flow::Idle => shared.sleep(None),
                    Flow::Full => shared.sleep(Some(FULL_RETRY)),
                    Flow::End => break,
                }
            }
        }));
        let cause = if ended.is_ok() { "it was closed" } else { "its thread panicked" };
        if ended.is_err() {
            tracing::error!(journal = name, "the thread of a journal panicked");
            stopped.set(1);
        }
        shared.end(cause);
    }

    /// One round. Blocks for the disk, never to wait for work.
    pub(super) fn step(&mut self) -> Flow {
        let (records, commands) = self.shared.take();
        self.waiting.extend(records);
        for command in commands {
            if self.obey(command) {
                return Flow::End;
            }
        }
        if self.shared.is_stopped() {
            self.drop_records();
        }
        let written = self.write_round();
        self.apply(written.max(APPLY_RECORDS / 2) * 2);
        self.answer_questions();
        let mut busy = !self.waiting.is_empty() && !self.full;
        busy |= !self.unapplied.is_empty() && self.state.is_some();
        // Under load each round brings much, and a snapshot must keep pace with what it is to replace.
        let steps = 1 + (self.round_bytes / STEP_PER_BYTES).min(STEPS_PER_ROUND);
        let more = (0..steps).all(|_| self.snapshot_step());
        busy |= more || self.sync_owed;
        if self.closing.is_some() && (!busy || self.shared.is_stopped()) && !self.snapshotting.is_encoding() {
            let end = self.close();
            if let Some(reply) = self.closing.take() {
                // Whoever closes may have stopped waiting.
                let _ = reply.send(end);
            }
            return Flow::End;
        }
        match (busy, self.full) {
            (true, _) => Flow::Busy,
            (false, true) => Flow::Full,
            (false, false) => Flow::Idle,
        }
    }

    /// Does what a command asks for, or takes note of it; whether the thread is to end at once.
    fn obey(&mut self, command: Command<S>) -> bool {
        match command {
            Command::Read(look) => self.questions.push((self.shared.durable(), look)),
            Command::Snapshot(reply) => self.snapshot_asked.push(reply),
            Command::Recover(recover) => self.recover(recover),
            Command::Encoded(state, parts) => self.take_encoded(state, parts),
            Command::EncoderPanicked => {
                self.snapshotting = Snapshotting::Idle;
                self.stop("the state could not be encoded");
            }
            Command::Close(reply) => self.closing = Some(reply),
            Command::Abandon => return true,
        }
        false
    }

    /// Writes what waits, syncs once, tells everyone. Returns how many records became durable.
    fn write_round(&mut self) -> usize {
        if self.sync_owed {
            self.sync_owed = false;
            if let Err(error) = self.journal.sync() {
                self.stop(&error.to_string());
                return 0;
            }
        }
        self.round_bytes = 0;
        while !self.waiting.is_empty() && self.round_bytes < ROUND_BYTES {
            let (records, bytes) = self.next_batch();
            match self.write_batch(&records, bytes as u64) {
                Ok(framed) => {
                    if std::mem::take(&mut self.full) {
                        tracing::info!(journal = self.spec.name, "there is space again: a journal goes on");
                        self.shared.set_health(JournalHealth::Well);
                    }
                    self.unsaved_bytes += framed;
                    self.unsynced.0 += records.len() as u64;
                    self.unsynced.1 += bytes as u64;
                    self.unapplied.extend(records);
                    self.round_bytes += bytes;
                }
                Err(error) => {
                    for record in records.into_iter().rev() {
                        self.waiting.push_front(record);
                    }
                    self.note_refused(&error);
                    break;
                }
            }
        }
        if self.shared.is_stopped() { 0 } else { self.sync_round() }
    }

    fn sync_round(&mut self) -> usize {
        let (records, bytes) = std::mem::take(&mut self.unsynced);
        if records == 0 {
            return 0;
        }
        if self.lies {
            self.sync_owed = true;
        } else {
            let began = self.spec.clock.monotonic();
            if let Err(error) = self.journal.sync() {
                // Whether they are durable nobody knows, so they must not enter the replica.
                self.unsynced = (records, bytes);
                self.stop(&error.to_string());
                return 0;
            }
            let took = self.spec.clock.monotonic().0.saturating_sub(began.0);
            self.spec.metrics.sync_duration.observe(took.as_secs_f64());
        }
        self.spec.metrics.records.inc_by(records);
        self.spec.metrics.record_bytes.inc_by(bytes);
        self.note_sizes();
        self.shared.publish(self.journal.last_sequence());
        usize::try_from(records).unwrap_or(usize::MAX)
    }

    /// Takes records for one batch from those that wait.
    fn next_batch(&mut self) -> (Vec<Bytes>, usize) {
        let mut bytes = 0;
        let fits = |record: &&Bytes| {
            bytes += record.len() + ENTRY_BYTES as usize;
            bytes <= BATCH_BYTES
        };
        let count = self.waiting.iter().take(limits::BATCH_RECORDS as usize).take_while(fits).count().max(1);
        let records: Vec<Bytes> = self.waiting.drain(..count).collect();
        let bytes = records.iter().map(Bytes::len).sum();
        (records, bytes)
    }

    /// Writes a batch; on a full disk once more with space from the reserve (rule F3).
    fn write_batch(&mut self, records: &[Bytes], bytes: u64) -> Result<u64, JournalError> {
        let now_ms = self.spec.clock.wall_ms();
        let result = self.journal.write_records(records, now_ms);
        match (&result, &self.spec.release_reserve) {
            (Err(error), Some(release)) if is_full(error) && release((4 * bytes).max(4 << 20)) > 0 => {
                self.journal.write_records(records, now_ms)
            }
            _ => result,
        }
    }

    fn note_refused(&mut self, error: &JournalError) {
        if !is_full(error) {
            // A definite refusal, but of records that their group has taken for decided: there is no way on.
            self.stop(&error.to_string());
        } else if !self.full {
            tracing::error!(journal = self.spec.name, %error, "the disk is full, the reserve too: a journal waits");
            self.full = true;
            self.shared.set_health(JournalHealth::Full);
        }
    }

    /// Nothing is written any more; everyone who waits is told (rule F1).
    pub(super) fn stop(&mut self, cause: &str) {
        tracing::error!(journal = self.spec.name, cause, "a journal has stopped");
        self.spec.metrics.stopped.set(1);
        self.shared.set_health(JournalHealth::Stopped { cause: cause.into() });
        self.full = false;
        self.drop_records();
    }

    fn drop_records(&mut self) {
        let bytes: usize = self.waiting.drain(..).map(|record| record.len()).sum();
        self.shared.note_done(bytes as u64);
        // Written, but not known to be durable: they never come into the replica.
        let unknown = usize::try_from(std::mem::take(&mut self.unsynced).0).unwrap_or(usize::MAX);
        let keep = self.unapplied.len().saturating_sub(unknown);
        let bytes: usize = self.unapplied.drain(keep..).map(|record| record.len()).sum();
        self.shared.note_done(bytes as u64);
    }

    /// Brings durable records into the replica, at most so many.
    fn apply(&mut self, at_most: usize) {
        let Some(state) = &mut self.state else { return };
        let mut bytes = 0;
        let mut failure = None;
        for record in self.unapplied.drain(..at_most.min(self.unapplied.len())) {
            bytes += record.len() as u64;
            self.applied += 1;
            if let Err(what) = state.apply(&record) {
                failure = Some(what);
                break;
            }
        }
        self.shared.note_done(bytes);
        if let Some(what) = failure {
            self.stop(&format!("a record did not fit the state: {what}"));
        }
        self.spec.metrics.queued_bytes.set(i64::try_from(self.shared.queued_bytes()).unwrap_or(i64::MAX));
    }

    fn answer_questions(&mut self) {
        let Some(state) = &self.state else { return };
        let (stopped, applied) = (self.shared.is_stopped(), self.applied);
        for (sequence, look) in std::mem::take(&mut self.questions) {
            if sequence <= applied || stopped {
                look(state);
            } else {
                self.questions.push((sequence, look));
            }
        }
    }

    /// See [`JournalHandle::recover`].
    fn recover(&mut self, recover: Recover<S>) {
        let result = match (self.shared.health(), &mut self.state) {
            (JournalHealth::Damaged { .. }, Some(state)) => {
                (recover.change)(state);
                let now_ms = self.spec.clock.wall_ms();
                let parts = state.parts();
                self.journal.snapshot(&parts, now_ms).map(|()| parts.iter().map(|part| part.len() as u64).sum())
            }
            (JournalHealth::Stopped { cause }, _) => Err(JournalError::Stopped { cause: cause.to_string() }),
            _ => Err(JournalError::Stopped { cause: "it is not damaged".into() }),
        };
        let answer = result.map(|bytes: u64| {
            tracing::warn!(journal = self.spec.name, "a damaged journal went back to its last good state");
            self.note_snapshot(bytes, 0);
            self.applied = self.journal.last_sequence();
            self.spec.metrics.stopped.set(0);
            self.note_sizes();
            self.shared.set_health(JournalHealth::Well);
        });
        // Whoever asked may have gone.
        let _ = recover.done.send(answer);
    }

    /// Saves and closes; the end for the clean marker, if the journal is well.
    fn close(&mut self) -> Option<Offset> {
        if self.shared.is_stopped() || !self.waiting.is_empty() {
            return None;
        }
        let now_ms = self.spec.clock.wall_ms();
        let state = self.state.as_ref()?;
        if self.unsaved_bytes > 0
            && let Err(error) = self.journal.snapshot(&state.parts(), now_ms)
        {
            tracing::warn!(journal = self.spec.name, %error, "no last snapshot of a journal");
        }
        let closed = self.journal.close(now_ms);
        closed.map_err(|error| tracing::error!(journal = self.spec.name, %error, "a journal was not closed")).ok()
    }

    /// A snapshot holds; `newer_bytes` of the journal came after it.
    pub(super) fn note_snapshot(&mut self, snapshot_bytes: u64, newer_bytes: u64) {
        self.unsaved_bytes = newer_bytes;
        self.expect_next_snapshot(snapshot_bytes);
        self.spec.metrics.snapshots.inc();
    }

    fn expect_next_snapshot(&mut self, snapshot_bytes: u64) {
        self.snapshot_at = self.spec.snapshot_bytes.max(2 * snapshot_bytes);
    }

    /// Whether something was written and not synced.
    pub(super) fn has_unsynced(&self) -> bool {
        self.unsynced.0 > 0 || self.sync_owed
    }

    pub(super) fn note_sizes(&self) {
        let size_bytes = self.journal.size_bytes();
        self.shared.note_sizes(size_bytes, self.journal.durable_end());
        self.spec.metrics.size_bytes.set(i64::try_from(size_bytes).unwrap_or(i64::MAX));
    }
}

impl<S> Shared<S> {
    /// Waits until something comes: anything, or a command only if there is a time after which to go on.
    pub(super) fn sleep(&self, time: Option<Duration>) {
        let mut queue = self.queue.lock();
        match time {
            None => {
                while queue.records.is_empty() && queue.commands.is_empty() {
                    queue.asleep = true;
                    self.wake.wait(&mut queue);
                }
            }
            Some(time) => {
                if queue.commands.is_empty() {
                    self.wake.wait_for(&mut queue, time);
                }
            }
        }
        queue.asleep = false;
    }
}
