//! A [`Journal`] on a thread of its own: the machinery under the group journal and the entries journal (rules G6, F8).
//!
//! Owns the queue of records that wait, the group commit (one sync for all that wait), the durable sequence and those
//! who wait for it, a replica of the state that the records build, and when a snapshot of it is due. It must not know
//! what the records mean, nor who appends them.
//!
//! ```text
//! append (under any lock) -> queue -> [ write all -> one sync -> durable sequence, waiters -> replica ] -> ...
//!                                        between two rounds: one bounded step of a snapshot, if one is due
//! ```
//!
//! Invariants: records stand in the journal in the order of the calls of [`JournalHandle::append`]; a sequence is
//! durable only after a good sync of its record; the replica never holds a record that is not durable; after a failed
//! sync, or a record that does not fit the state, nothing is written any more and every waiter is told (rule F1); a
//! full disk stops nothing: what waits is written once there is space, from the reserve first (rule F3).

mod handle;
mod snapshotting;
mod worker;

use std::fmt::Debug;
use std::time::Duration;

use bytes::Bytes;

use super::journal::{Journal, JournalError, JournalSpec};
use super::sync::Arc;
use crate::clock::Clock;
use crate::log::OpenError;
use crate::metrics::JournalMetrics;
use crate::model::Offset;

pub use self::handle::JournalHandle;

/// Gives bytes of the reserve back to the file system; returns how many (rule F3).
pub type ReleaseReserve = Arc<dyn Fn(u64) -> u64 + Send + Sync>;

/// Durable state that a journal's records build; the thread keeps a replica of it.
pub trait JournalState: Debug + Send + 'static {
    /// Applies one record.
    ///
    /// # Errors
    /// A record that does not fit: stops the journal.
    fn apply(&mut self, record: &[u8]) -> Result<(), String>;

    /// Applies one part of a snapshot, to a state that began empty. A part is a record unless a state says otherwise.
    ///
    /// # Errors
    /// As [`JournalState::apply`].
    fn apply_part(&mut self, part: &[u8]) -> Result<(), String> {
        self.apply(part)
    }

    /// The whole state as parts of at most about [`crate::limits::SNAPSHOT_PART_BYTES`] each. Called on another thread
    /// than `apply`, never at the same time.
    fn parts(&self) -> Vec<Bytes>;
}

/// Number of a record: records count from 1 over the whole life of a journal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct JournalSequence(pub u64);

impl JournalSequence {
    /// What an append to a stopped journal answers: never durable.
    pub const NEVER: Self = Self(u64::MAX);
}

/// The journal takes nothing any more; what had not become durable has an unknown outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the journal has stopped: {cause}")]
pub struct JournalStopped {
    /// Why.
    pub cause: Arc<str>,
}

/// How a journal is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum JournalHealth {
    /// It takes records.
    Well,
    /// The disk is full, the reserve too: what waits is written once there is space (rule F3).
    Full,
    /// Damage in what had to be replayed (rule G6): until [`JournalHandle::recover`] nothing is written.
    Damaged {
        /// What was found.
        what: Arc<str>,
        /// Where it begins in the journal.
        first_bad: Offset,
    },
    /// A sync failed, or a record did not fit, or the thread has ended: until the next start nothing is written.
    Stopped {
        /// Why.
        cause: Arc<str>,
    },
}

/// What a journal's thread is given.
#[derive(Clone)]
pub struct JournalThreadSpec {
    /// Name of the journal, in the thread's name and in logs.
    pub name: &'static str,
    /// Wall time of its records.
    pub clock: Arc<dyn Clock>,
    /// Its metrics.
    pub metrics: JournalMetrics,
    /// Called when the disk is full.
    pub release_reserve: Option<ReleaseReserve>,
    /// Bytes of records after a snapshot at which the next is due, unless twice the last snapshot is more.
    pub snapshot_bytes: u64,
}

impl Debug for JournalThreadSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("JournalThreadSpec").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A journal with the state that it gave.
#[derive(Debug)]
pub struct OpenedJournal<S> {
    journal: Journal,
    state: S,
    damage: Option<(Arc<str>, Offset)>,
    left_out: Vec<Bytes>,
    /// Bytes of records that the newest snapshot does not hold.
    unsaved_bytes: u64,
    /// Bytes of the newest snapshot.
    snapshot_bytes: u64,
    /// Newer snapshots were bad.
    bad_snapshots: bool,
}

impl<S: JournalState> OpenedJournal<S> {
    /// Opens or makes a journal and replays it into `empty`. Blocks. Damage is no error: the state is the last good
    /// one then, and [`OpenedJournal::damage`] says so.
    ///
    /// # Errors
    /// The log could not be opened at all.
    pub fn open(spec: JournalSpec, empty: S) -> Result<Self, OpenError> {
        worker::open(spec, empty)
    }

    /// The state as it was found.
    pub fn state(&self) -> &S {
        &self.state
    }

    /// What of the journal was damaged, if anything that counts was.
    pub fn damage(&self) -> Option<&str> {
        self.damage.as_ref().map(|(what, _)| &**what)
    }

    /// Good records behind the damage, which are left out.
    pub fn left_out(&self) -> &[Bytes] {
        &self.left_out
    }

    /// Goes back to the last good state: a snapshot of it is written behind the damage. Blocks; for a stopped broker.
    ///
    /// # Errors
    /// The snapshot could not be written.
    pub fn repair(mut self, now_ms: i64) -> Result<(), JournalError> {
        if self.damage.is_none() {
            return Ok(());
        }
        self.journal.snapshot(&self.state.parts(), now_ms)?;
        self.journal.close(now_ms).map(|_| ())
    }

    /// Starts the thread.
    pub fn start(self, spec: JournalThreadSpec) -> JournalHandle<S> {
        worker::start(self, spec)
    }
}

/// A thread that finds its disk full tries again after so long, or when something happens.
const FULL_RETRY: Duration = Duration::from_millis(250);

#[cfg(test)]
mod tests;
