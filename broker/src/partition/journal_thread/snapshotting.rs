//! A snapshot between the rounds of a journal's thread (rule G6): encoded on another thread, written in small parts,
//! read back in small parts, so that none of it delays a round by more than one step.
//!
//! ```text
//! idle -> encoding (the replica is lent; records go on, and wait for it) -> writing -> reading back -> removing -> idle
//!   ^------------------------------- whatever fails: tried again later --------------------------------------|
//! ```

use std::collections::VecDeque;

use bytes::Bytes;

use super::JournalState;
use super::handle::{Command, Shared};
use super::worker::Worker;
use crate::limits;
use crate::partition::journal::{JournalError, ReadBack, SnapshotRun};
use crate::partition::sync::Arc;

/// Bytes of parts written in one step, unless one part is longer.
const STEP_BYTES: usize = 256 << 10;
/// Bytes of parts after which they are synced, so that no round finds many of them.
const SYNC_BYTES: usize = 1 << 20;

const _: () = assert!(limits::SNAPSHOT_PART_BYTES <= STEP_BYTES);

/// Where a snapshot stands.
pub(super) enum Snapshotting<S> {
    Idle,
    /// Lent to a thread that encodes it.
    Encoding {
        run: SnapshotRun,
        /// Bytes of the journal when it began.
        unsaved_before: u64,
        thread: Option<std::thread::JoinHandle<()>>,
        /// The handle is how the encoder answers.
        _answers_to: Arc<Shared<S>>,
    },
    Writing {
        run: SnapshotRun,
        unsaved_before: u64,
        parts: VecDeque<Bytes>,
        unsynced_bytes: usize,
    },
    ReadingBack {
        back: ReadBack,
        unsaved_before: u64,
        bytes: u64,
    },
    /// It holds; what precedes the two newest goes.
    Removing,
}

impl<S> Snapshotting<S> {
    pub(super) fn is_encoding(&self) -> bool {
        matches!(self, Self::Encoding { .. })
    }
}

impl<S: JournalState> Worker<S> {
    /// One bounded step of a snapshot, or its begin if one is due; whether there is another step to do now.
    pub(super) fn snapshot_step(&mut self) -> bool {
        if self.shared.is_stopped() {
            self.answer_asked(false);
            if !self.snapshotting.is_encoding() {
                self.snapshotting = Snapshotting::Idle;
            }
            return false;
        }
        let stepped = match std::mem::replace(&mut self.snapshotting, Snapshotting::Idle) {
            Snapshotting::Idle => self.begin_if_due(),
            // Its end wakes the thread.
            encoding @ Snapshotting::Encoding { .. } => {
                self.snapshotting = encoding;
                return false;
            }
            Snapshotting::Writing { run, unsaved_before, parts, unsynced_bytes } => {
                self.write_step(run, unsaved_before, parts, unsynced_bytes)
            }
            Snapshotting::ReadingBack { mut back, unsaved_before, bytes } => {
                self.journal.read_back(&mut back).map(|whole| {
                    self.snapshotting = if whole {
                        self.note_snapshot(bytes, self.unsaved_bytes.saturating_sub(unsaved_before));
                        self.answer_asked(true);
                        Snapshotting::Removing
                    } else {
                        Snapshotting::ReadingBack { back, unsaved_before, bytes }
                    };
                    true
                })
            }
            Snapshotting::Removing => self.journal.remove_old().map(|done| {
                if !done {
                    self.snapshotting = Snapshotting::Removing;
                }
                self.note_sizes();
                !done
            }),
        };
        stepped.unwrap_or_else(|error| {
            self.give_up(&error);
            false
        })
    }

    fn begin_if_due(&mut self) -> Result<bool, JournalError> {
        let asked = !self.snapshot_asked.is_empty();
        let due = asked || self.unsaved_bytes >= self.snapshot_at.max(1);
        // The replica must be where the journal is.
        if !due || !self.unapplied.is_empty() || self.has_unsynced() {
            return Ok(false);
        }
        let Some(state) = self.state.take() else { return Ok(false) };
        let run = match self.journal.begin_snapshot(self.spec.clock.wall_ms()) {
            Ok(run) => run,
            Err(error) => {
                self.state = Some(state);
                return Err(error);
            }
        };
        let shared = Arc::clone(&self.shared);
        let answers_to = Arc::clone(&shared);
        let name = format!("sawlog-{}-snapshot", self.spec.name);
        let encode = move || {
            let guard = PanicGuard(&shared);
            let parts = state.parts();
            std::mem::forget(guard);
            shared.command(Command::Encoded(state, parts));
        };
        let thread = std::thread::Builder::new().name(name).spawn(encode);
        // Without a thread its closure is dropped, and the replica with it.
        let thread = thread.map_err(|source| JournalError::Stopped { cause: source.to_string() })?;
        let unsaved_before = self.unsaved_bytes;
        self.snapshotting =
            Snapshotting::Encoding { run, unsaved_before, thread: Some(thread), _answers_to: answers_to };
        Ok(false)
    }

    /// The encoder is done: the replica is back.
    pub(super) fn take_encoded(&mut self, state: S, parts: Vec<Bytes>) {
        self.state = Some(state);
        if let Snapshotting::Encoding { run, unsaved_before, thread, .. } =
            std::mem::replace(&mut self.snapshotting, Snapshotting::Idle)
        {
            if let Some(thread) = thread {
                // It has nothing more to do.
                let _ = thread.join();
            }
            self.snapshotting = Snapshotting::Writing { run, unsaved_before, parts: parts.into(), unsynced_bytes: 0 };
        }
    }

    fn write_step(
        &mut self,
        mut run: SnapshotRun,
        unsaved_before: u64,
        mut parts: VecDeque<Bytes>,
        mut unsynced_bytes: usize,
    ) -> Result<bool, JournalError> {
        let now_ms = self.spec.clock.wall_ms();
        let mut step = Vec::new();
        let mut bytes = 0;
        while let Some(part) = parts.pop_front() {
            bytes += part.len();
            step.push(part);
            if parts.front().is_some_and(|next| bytes + next.len() > STEP_BYTES) {
                break;
            }
        }
        self.journal.write_parts(&mut run, &step, now_ms)?;
        unsynced_bytes += bytes;
        if parts.is_empty() {
            let bytes = run.bytes();
            let back = self.journal.end_snapshot(run, now_ms)?;
            self.snapshotting = Snapshotting::ReadingBack { back, unsaved_before, bytes };
            return Ok(true);
        }
        if unsynced_bytes >= SYNC_BYTES {
            self.journal.sync()?;
            unsynced_bytes = 0;
        }
        self.snapshotting = Snapshotting::Writing { run, unsaved_before, parts, unsynced_bytes };
        Ok(true)
    }

    fn give_up(&mut self, error: &JournalError) {
        self.snapshotting = Snapshotting::Idle;
        self.answer_asked(false);
        if let JournalError::Stopped { cause } = error {
            self.stop(cause);
        } else {
            tracing::warn!(journal = self.spec.name, %error, "no snapshot of a journal; tried again later");
            self.snapshot_at = self.unsaved_bytes + self.spec.snapshot_bytes / 8;
        }
    }

    fn answer_asked(&mut self, holds: bool) {
        for reply in self.snapshot_asked.drain(..) {
            // Whoever asked may have gone.
            let _ = reply.send(holds);
        }
    }
}

/// Tells the thread if the encoder panics.
struct PanicGuard<'a, S>(&'a Arc<Shared<S>>);

impl<S> Drop for PanicGuard<'_, S> {
    fn drop(&mut self) {
        self.0.command(Command::EncoderPanicked);
    }
}
