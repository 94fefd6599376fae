//! The thread's side of the metadata log: decides nothing, but writes, applies, saves and closes.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{Receiver, RecvTimeoutError};

use bytes::Bytes;

use super::record::{self, MetadataRecord};
use super::state::MetadataState;
use super::{Command, ReleaseReserve, SNAPSHOT_DELAY, SNAPSHOT_RETRY, Status};
use crate::clock::{Clock, Monotonic};
use crate::limits;
use crate::model::Offset;
use crate::partition::AppendFailure;
use crate::partition::journal::{Journal, JournalError};
use crate::topics::TopicError;

/// The owner of journal and state.
pub struct Writer {
    pub(super) journal: Journal,
    pub(super) state: MetadataState,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) status: Arc<Status>,
    pub(super) release_reserve: Option<ReleaseReserve>,
    /// Changes that no snapshot holds yet.
    pub(super) unsaved: bool,
}

impl fmt::Debug for Writer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Writer").field("journal", &self.journal).field("unsaved", &self.unsaved).finish_non_exhaustive()
    }
}

/// The parts of a snapshot: payloads as `record::encode` makes them, each of bounded size.
pub(super) fn snapshot_parts(state: &MetadataState) -> Vec<Bytes> {
    let mut parts = Vec::new();
    let mut records = Vec::new();
    let mut bytes = 0;
    for record in state.to_records() {
        // Estimated from what may be long; exact sizes would cost a second encoding.
        bytes += match &record {
            MetadataRecord::TopicCreated(topic) => {
                let labels = topic.revision.labels.iter().map(|(key, value)| key.len() + value.len() + 8);
                1_024 + 6 * (topic.revision.description.len() + labels.sum::<usize>())
            }
            MetadataRecord::LogStarts { starts: bounds } | MetadataRecord::Trimmed { asked: bounds } => {
                64 * bounds.len()
            }
            _ => 512,
        };
        records.push(record);
        if bytes >= limits::SNAPSHOT_PART_BYTES {
            parts.push(record::encode(std::mem::take(&mut records)));
            bytes = 0;
        }
    }
    parts.push(record::encode(records));
    parts
}

impl Writer {
    /// The state.
    pub fn state(&self) -> &MetadataState {
        &self.state
    }

    /// Everything below is synced in the log itself.
    pub fn durable_end(&self) -> Offset {
        self.journal.durable_end()
    }

    /// Wall time now, in milliseconds since 1970.
    pub fn now_ms(&self) -> i64 {
        self.clock.wall_ms()
    }

    /// Writes, syncs and applies records, all or none.
    ///
    /// # Errors
    /// [`TopicError::ReadOnly`] if nothing is written any more; the failure of the write else: nothing has changed.
    pub fn commit(&mut self, records: Vec<MetadataRecord>) -> Result<(), TopicError> {
        if records.is_empty() {
            return Ok(());
        }
        if let Some(cause) = self.status.read_only() {
            return Err(TopicError::ReadOnly { cause: cause.to_string() });
        }
        let payload = record::encode(records.clone());
        self.append(payload)?;
        self.unsaved = true;
        for record in &records {
            if let Err(error) = self.state.apply(record) {
                // Decided against this very state: a defect. What is on disk would not replay either.
                self.status.set_read_only(&format!("a change did not fit the state: {error}"));
                return Err(TopicError::ReadOnly { cause: error.to_string() });
            }
        }
        self.status.epoch.store(self.state.epoch().get(), Ordering::SeqCst);
        Ok(())
    }

    fn append(&mut self, payload: Bytes) -> Result<(), TopicError> {
        let bytes = payload.len() as u64;
        let payloads = [payload];
        let now_ms = self.clock.wall_ms();
        let mut result = self.journal.append(&payloads, now_ms);
        if let (Err(JournalError::Refused { source }), Some(release)) = (&result, &self.release_reserve)
            && is_full(source)
            && release((2 * bytes).max(4 << 20)) > 0
        {
            result = self.journal.append(&payloads, now_ms);
        }
        result.map_err(|error| match error {
            JournalError::Stopped { cause } => {
                self.status.set_read_only(&format!("the metadata log failed: {cause}; restart the broker"));
                TopicError::ReadOnly { cause }
            }
            JournalError::Refused { source } => {
                AppendFailure::WriteFailed { errno: source.raw_os_error(), what: source.to_string() }.into()
            }
            JournalError::ReadBack { what } => AppendFailure::WriteFailed { errno: None, what }.into(),
        })
    }

    pub(super) fn run(mut self, commands: &Receiver<Command>) {
        let mut delay = SNAPSHOT_DELAY;
        let mut since: Option<Monotonic> = None;
        loop {
            since = match since {
                _ if !self.unsaved || self.status.read_only().is_some() => None,
                None => Some(self.clock.monotonic()),
                earlier => earlier,
            };
            let command = match since {
                None => commands.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(since) => {
                    let waited = self.clock.monotonic().0.saturating_sub(since.0);
                    commands.recv_timeout(delay.saturating_sub(waited))
                }
            };
            match command {
                Ok(Command::Work(work)) => work(&mut self),
                Ok(Command::Snapshot(reply)) => {
                    // As below.
                    let _ = reply.send(self.snapshot());
                    since = None;
                }
                Ok(Command::Abandon) => return,
                Ok(Command::Close(reply)) => {
                    // Whoever closes may have stopped waiting.
                    let _ = reply.send(self.close());
                    return;
                }
                Err(RecvTimeoutError::Timeout) => {
                    delay = if self.snapshot() { SNAPSHOT_DELAY } else { SNAPSHOT_RETRY };
                    since = None;
                }
                // Dropped without a close: as if killed.
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    /// Writes a snapshot; returns whether it holds.
    fn snapshot(&mut self) -> bool {
        let parts = snapshot_parts(&self.state);
        let now_ms = self.clock.wall_ms();
        match self.journal.snapshot(&parts, now_ms) {
            Ok(()) => {
                self.unsaved = false;
                true
            }
            Err(JournalError::Stopped { cause }) => {
                self.status.set_read_only(&format!("the metadata log failed: {cause}; restart the broker"));
                false
            }
            Err(error) => {
                tracing::warn!(%error, "no snapshot of the metadata log; tried again later");
                false
            }
        }
    }

    /// Saves and closes; the end for the clean marker, if the log is well.
    fn close(&mut self) -> Option<Offset> {
        if self.status.read_only().is_some() {
            return None;
        }
        if self.unsaved {
            self.snapshot();
        }
        let now_ms = self.clock.wall_ms();
        self.journal.close(now_ms).map_err(|error| tracing::error!(%error, "the metadata log could not be closed")).ok()
    }
}

fn is_full(error: &std::io::Error) -> bool {
    use std::io::ErrorKind::{FileTooLarge, QuotaExceeded, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | FileTooLarge)
}
