//! The metadata log: topics, log starts, epochs, damage and producers, durable before they are answered.
//!
//! Owns a [`Journal`] and the [`MetadataState`] that its records give, both on a thread of their own (rule F8): a
//! change is decided against the state, written and synced, applied, shown to the rest of the broker, answered, in
//! this order and one at a time. A snapshot follows within a second. It must not know partitions' files, requests or
//! messages.
//!
//! Invariants: what has been shown is durable; a refused change leaves the state as it was; after a failed sync, or
//! damage at the start, nothing is changed any more until the next start (rules F1, G6).

mod ledger;
pub mod record;
pub mod state;
mod writer;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::mpsc::{SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;
use std::time::Duration;

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use tokio::sync::oneshot;

use self::record::{DecodeError, MetadataRecord};
use self::state::MetadataState;
use self::writer::snapshot_parts;
use super::error::TopicError;
use crate::clock::Clock;
use crate::log::OpenError;
use crate::metrics::Metrics;
use crate::model::{Offset, PartitionEpoch};
use crate::partition::journal::{Journal, JournalError, JournalSpec};

pub use ledger::MetadataLedger;
pub use writer::Writer;

/// Changes that may wait; more are refused.
const QUEUE: usize = 1_024;
/// A snapshot comes so long after the first change that it does not hold: within a second, together with its sync.
const SNAPSHOT_DELAY: Duration = Duration::from_millis(500);
/// After a snapshot that failed, the next is tried so much later.
const SNAPSHOT_RETRY: Duration = Duration::from_secs(5);
/// What to do about a damaged metadata log.
const REPAIR_HINT: &str = "stop the broker and run `sawlog segment repair` on the metadata log";

/// Gives bytes of the reserve back to the file system; returns how many (rule F3).
pub type ReleaseReserve = Arc<dyn Fn(u64) -> u64 + Send + Sync>;

/// What a metadata log is given.
pub struct MetadataSpec {
    /// Its log.
    pub journal: JournalSpec,
    /// Wall time of its records.
    pub clock: Arc<dyn Clock>,
    /// Metrics of the broker.
    pub metrics: Arc<Metrics>,
    /// Called when the disk is full and a change must be written all the same.
    pub release_reserve: Option<ReleaseReserve>,
}

impl fmt::Debug for MetadataSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataSpec").field("journal", &self.journal).finish_non_exhaustive()
    }
}

/// Why a metadata log could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum MetadataOpenError {
    /// Its files could not be opened.
    #[error(transparent)]
    Log(#[from] OpenError),
    /// It was written by a newer program: nothing may be changed.
    #[error("{0}; use the version that wrote it")]
    Newer(DecodeError),
}

/// The state of a metadata log as it was found, and its writer.
pub struct OpenedMetadata {
    writer: Writer,
    damage: Option<String>,
    left_out: Vec<Bytes>,
}

/// Work that the metadata thread does with its writer.
type Work = Box<dyn FnOnce(&mut Writer) + Send>;

enum Command {
    Work(Work),
    Snapshot(std::sync::mpsc::Sender<bool>),
    Close(std::sync::mpsc::Sender<Option<Offset>>),
    Abandon,
}

/// A started metadata log.
pub struct MetadataLog {
    sender: SyncSender<Command>,
    status: Arc<Status>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

/// What everyone may see of the metadata log.
#[derive(Debug)]
pub struct Status {
    read_only: RwLock<Option<Arc<str>>>,
    is_read_only: AtomicBool,
    epoch: AtomicU32,
    metrics: Arc<Metrics>,
}

impl Status {
    /// Why nothing can be changed, if so.
    pub fn read_only(&self) -> Option<Arc<str>> {
        // Asked at every append: one load while all is well.
        if !self.is_read_only.load(Ordering::SeqCst) {
            return None;
        }
        self.read_only.read().clone()
    }

    /// The greatest epoch given, durably (rule D3).
    pub fn epoch(&self) -> PartitionEpoch {
        PartitionEpoch::new(self.epoch.load(Ordering::SeqCst)).unwrap_or(PartitionEpoch::ZERO)
    }

    fn set_read_only(&self, cause: &str) {
        let mut read_only = self.read_only.write();
        self.is_read_only.store(true, Ordering::SeqCst);
        if read_only.is_none() {
            tracing::error!(cause, "the metadata log takes no changes: the broker is read-only");
            *read_only = Some(cause.into());
            self.metrics.read_only.set(1);
        }
    }
}

/// What a repair gave up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MetadataRepair {
    /// What was damaged; `None`: nothing, and nothing was done.
    pub damage: Option<String>,
    /// Good records behind the damage that are dropped, in words.
    pub dropped: Vec<String>,
}

impl fmt::Debug for OpenedMetadata {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.writer.fmt(f)
    }
}

impl fmt::Debug for MetadataLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetadataLog").field("status", &self.status).finish_non_exhaustive()
    }
}

impl OpenedMetadata {
    /// Opens or makes the metadata log and replays it. Blocks. Damage makes it read-only, with the last good state.
    ///
    /// # Errors
    /// See [`MetadataOpenError`].
    pub fn open(spec: MetadataSpec) -> Result<Self, MetadataOpenError> {
        let (journal, replayed) = Journal::open(spec.journal)?;
        let status = Arc::new(Status {
            read_only: RwLock::default(),
            is_read_only: AtomicBool::new(false),
            epoch: AtomicU32::new(0),
            metrics: spec.metrics,
        });
        for (at, what) in &replayed.bad_snapshots {
            tracing::warn!(offset = at.get(), what, "a snapshot of the metadata log is bad; an older one serves");
        }
        let mut damage = replayed.damage.map(|damage| damage.to_string());
        let mut state = MetadataState::default();
        for payload in replayed.snapshot.iter().chain(&replayed.records) {
            if let Err(what) = apply_payload(&mut state, payload)? {
                damage.get_or_insert(what);
                break;
            }
        }
        if let Some(what) = &damage {
            status.set_read_only(&format!("the metadata log is damaged: {what}; {REPAIR_HINT}"));
        } else if let Some(cause) = journal.stopped() {
            status.set_read_only(&format!("the metadata log could not be synced: {cause}"));
        }
        status.epoch.store(state.epoch().get(), Ordering::SeqCst);
        let release_reserve = spec.release_reserve;
        let unsaved = !replayed.records.is_empty() || !replayed.bad_snapshots.is_empty();
        let writer = Writer { journal, state, clock: spec.clock, status, release_reserve, unsaved };
        Ok(Self { writer, damage, left_out: replayed.left_out })
    }

    /// The state as it was found.
    pub fn state(&self) -> &MetadataState {
        &self.writer.state
    }

    /// Why nothing can be changed, if so.
    pub fn read_only(&self) -> Option<Arc<str>> {
        self.writer.status.read_only()
    }

    /// Writes and applies records at once, before the thread runs. Blocks.
    ///
    /// # Errors
    /// As [`MetadataLog::change`].
    pub fn commit(&mut self, records: Vec<MetadataRecord>) -> Result<(), TopicError> {
        self.writer.commit(records)
    }

    /// Goes back to the last good state: a snapshot of it is written behind the damage, so that replay begins there.
    /// Only on request of an operator (rule G6); does nothing to a log that is well. Blocks.
    ///
    /// # Errors
    /// The snapshot could not be written.
    pub fn repair(mut self) -> Result<MetadataRepair, JournalError> {
        if self.damage.is_none() {
            return Ok(MetadataRepair::default());
        }
        let parts = snapshot_parts(&self.writer.state);
        let now_ms = self.writer.clock.wall_ms();
        self.writer.journal.snapshot(&parts, now_ms)?;
        self.writer.journal.close(now_ms)?;
        let dropped = self.left_out.iter().flat_map(|payload| match record::decode(payload) {
            Ok(records) => records.iter().map(|record| format!("{record:?}")).collect(),
            Err(error) => vec![error.to_string()],
        });
        Ok(MetadataRepair { dropped: dropped.collect(), damage: self.damage })
    }

    /// Starts the thread.
    pub fn start(self) -> Arc<MetadataLog> {
        let (sender, receiver) = sync_channel(QUEUE);
        let status = Arc::clone(&self.writer.status);
        let thread = std::thread::Builder::new().name("sawlog-metadata".into());
        let thread = thread.spawn(move || self.writer.run(&receiver));
        let thread = thread.expect("a broker that gets no thread cannot start");
        Arc::new(MetadataLog { sender, status, thread: Mutex::new(Some(thread)) })
    }
}

/// Applies the records of one payload; the inner error says what does not fit.
fn apply_payload(state: &mut MetadataState, payload: &[u8]) -> Result<Result<(), String>, MetadataOpenError> {
    let records = match record::decode(payload) {
        Ok(records) => records,
        Err(newer @ DecodeError::Newer { .. }) => return Err(MetadataOpenError::Newer(newer)),
        Err(error) => return Ok(Err(error.to_string())),
    };
    for record in &records {
        if let Err(error) = state.apply(record) {
            return Ok(Err(error.to_string()));
        }
    }
    Ok(Ok(()))
}

impl MetadataLog {
    /// What everyone may see.
    pub fn status(&self) -> &Arc<Status> {
        &self.status
    }

    /// Does `work` on the metadata thread: it decides against [`Writer::state`], commits, shows the outcome to the
    /// rest of the broker. Dropping the answer changes nothing (rule D8). Never blocks.
    ///
    /// # Errors
    /// [`TopicError::Limit`] if too many wait, [`TopicError::ShuttingDown`] after the close; else what `work` says.
    pub async fn change<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, TopicError> + Send + 'static,
    ) -> Result<T, TopicError> {
        let (reply, answer) = oneshot::channel();
        let work: Work = Box::new(move |writer| {
            // The caller may have gone; the change stands all the same.
            let _ = reply.send(work(writer));
        });
        self.sender.try_send(Command::Work(work)).map_err(|error| match error {
            TrySendError::Full(_) => TopicError::Limit { limit: "metadata_changes", max: QUEUE as u64 },
            TrySendError::Disconnected(_) => TopicError::ShuttingDown,
        })?;
        answer.await.unwrap_or(Err(TopicError::ShuttingDown))
    }

    /// The same for threads that may block; waits for a place in the queue.
    ///
    /// # Errors
    /// As [`MetadataLog::change`], without the limit.
    pub fn change_blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Writer) -> Result<T, TopicError> + Send + 'static,
    ) -> Result<T, TopicError> {
        let (reply, answer) = std::sync::mpsc::channel();
        let work: Work = Box::new(move |writer| {
            // As above.
            let _ = reply.send(work(writer));
        });
        self.sender.send(Command::Work(work)).map_err(|_| TopicError::ShuttingDown)?;
        answer.recv().unwrap_or(Err(TopicError::ShuttingDown))
    }

    /// Writes a snapshot now, instead of within a second; returns whether it holds. Blocks.
    pub fn snapshot_now(&self) -> bool {
        let (reply, answer) = std::sync::mpsc::channel();
        self.sender.send(Command::Snapshot(reply)).is_ok() && answer.recv().unwrap_or(false)
    }

    /// Ends the thread and leaves the log as a crash would.
    pub fn abandon(&self) {
        if let Some(thread) = self.thread.lock().take() {
            // If it has ended by itself there is nothing to tell it.
            let _ = self.sender.send(Command::Abandon);
            let _ = thread.join();
        }
    }

    /// Writes the last snapshot, closes the log, ends the thread. Blocks. The end for the clean marker, if the log
    /// is well.
    pub fn close(&self) -> Option<Offset> {
        let thread = self.thread.lock().take()?;
        let (reply, answer) = std::sync::mpsc::channel();
        let end = self.sender.send(Command::Close(reply)).ok().and_then(|()| answer.recv().ok().flatten());
        // A panic of the thread has been reported by the panic hook; there is no end then.
        thread.join().ok().and(end)
    }
}

#[cfg(test)]
mod tests;
