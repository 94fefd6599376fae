//! The log as the leader uses it: [`LocalLog`] with what others may know of it ([`Facts`]) and the producers'
//! snapshots.

use std::path::Path;
use std::time::Duration;

use sawlog_proto::batch::BatchHeader;

use super::append::GroupLog;
use super::event_load::Sidecars;
use super::facts::Facts;
use super::producers::{Kept, Producers};
use super::sync::Arc;
use super::{AppendError, Appended, FrameDraft, Monotonic, Offset, SyncError, extension, producer_snapshot};
use crate::log::storage::Storage;
use crate::log::{LocalLog, LogEnvironment, PendingSync, ReadError, ReadMode, ReadRange};

/// Bytes read at once when producers are rebuilt.
const REBUILD_BYTES: usize = 1 << 20;

/// A [`LocalLog`] with its surroundings.
#[derive(Debug)]
pub(crate) struct LogStore {
    pub(crate) log: LocalLog,
    pub(crate) environment: LogEnvironment,
    pub(crate) segment_ms: u64,
    /// No call touches the files any more.
    pub(crate) closed: bool,
    pub(super) events: Sidecars,
    facts: Arc<Facts>,
}

impl LogStore {
    pub(super) fn new(
        log: LocalLog,
        environment: LogEnvironment,
        segment_ms: u64,
        facts: Arc<Facts>,
        events: Sidecars,
    ) -> Self {
        let store = Self { log, environment, segment_ms, closed: false, events, facts };
        store.publish();
        store
    }

    /// Tells others of the segments, after a change of them.
    pub(crate) fn publish(&self) {
        self.facts.set_segments(self.log.segments(), self.log.size_bytes(), self.log.active_since_ms());
        self.facts.set_unsynced(self.log.unsynced_bytes());
    }

    /// Writes a snapshot of the state at the end of the log, as a hint: a failure is logged and no more.
    pub(crate) fn write_snapshot(&self, producers: &Producers) {
        let end = self.log.end();
        if end == Offset::ZERO || self.facts.snapshot_end() == Some(end) {
            return;
        }
        let bytes = match self.log.reader().epoch_before(end) {
            Ok(epoch) => producer_snapshot::encode(producers, end, epoch),
            Err(error) => {
                tracing::warn!(%error, dir = %self.environment.dir.display(), "no producer snapshot");
                return;
            }
        };
        match producer_snapshot::write(&*self.environment.storage, &self.environment.dir, end, &bytes) {
            Ok(()) => self.facts.set_snapshot_end(end),
            Err(error) => tracing::warn!(%error, dir = %self.environment.dir.display(), "no producer snapshot"),
        }
    }

    /// Brings the sidecar of the active segment up to the end of the log, as a hint.
    pub(crate) fn write_event_ids(&mut self) {
        self.events.write(&self.log, &self.environment);
    }

    /// Whether the active segment is old enough to be sealed.
    pub(crate) fn is_old(&self, now_ms: i64) -> bool {
        self.log.active_since_ms().is_some_and(|since| age(since, now_ms) >= self.segment_ms)
    }
}

fn age(since_ms: i64, now_ms: i64) -> u64 {
    u64::try_from(now_ms.saturating_sub(since_ms)).unwrap_or(0)
}

impl GroupLog for LogStore {
    type Sync = PendingSync;

    fn end(&self) -> Offset {
        self.log.end()
    }

    fn durable_end(&self) -> Offset {
        self.log.durable_end()
    }

    fn unsynced_bytes(&self) -> u64 {
        self.log.unsynced_bytes()
    }

    fn fenced(&self) -> Option<String> {
        self.log.fenced().map(str::to_owned)
    }

    fn fence_errno(&self) -> Option<i32> {
        self.log.fence_errno()
    }

    fn append(&mut self, frames: &[FrameDraft]) -> Result<Appended, AppendError> {
        let appended = self.log.append(frames)?;
        let first = frames.first().map_or(0, |frame| frame.append_time_ms);
        self.facts.appended(appended.bytes, first);
        self.facts.set_unsynced(self.log.unsynced_bytes());
        Ok(appended)
    }

    fn must_roll(&self, incoming_bytes: u64, append_time_ms: i64) -> bool {
        self.log.must_roll(incoming_bytes) || self.is_old(append_time_ms)
    }

    fn roll(&mut self, producers: &Producers) -> Result<(), AppendError> {
        self.write_event_ids();
        let result = self.log.roll();
        self.publish();
        if result.is_ok() {
            self.write_snapshot(producers);
        }
        result
    }

    fn begin_sync(&self) -> Option<PendingSync> {
        if self.closed { None } else { self.log.pending_sync() }
    }

    fn run_sync(sync: &PendingSync) -> Result<(), SyncError> {
        sync.run()
    }

    fn note_synced(&mut self, sync: &PendingSync) {
        self.log.note_synced(sync);
        self.facts.set_unsynced(self.log.unsynced_bytes());
    }

    fn fence(&mut self, cause: &str) {
        self.log.fence(cause);
    }
}

/// The state of a log's producers: the newest snapshot that fits the log, and what follows it (rules PR-12, D5).
/// Damaged ranges have no producers; they are skipped.
///
/// # Errors
/// The log cannot be read.
pub(crate) fn rebuild(
    log: &LocalLog,
    storage: &dyn Storage,
    dir: &Path,
    ttl: Duration,
    now: (Monotonic, i64),
) -> Result<(Producers, Option<Offset>), ReadError> {
    let (reader, segments) = (log.reader(), log.segments());
    let bounds = reader.bounds();
    let mut producers = Producers::new(ttl);
    let mut from = bounds.start;
    let mut snapshot_end = None;
    for end in producer_snapshot::list(storage, dir).unwrap_or_default() {
        if end > bounds.end || end < bounds.start {
            continue;
        }
        let bytes = producer_snapshot::read(storage, dir, end).unwrap_or_default();
        let Some(snapshot) = producer_snapshot::decode(&bytes, ttl, now.0, now.1) else { continue };
        if snapshot.end != end || reader.epoch_before(end).ok() != Some(snapshot.epoch) {
            continue;
        }
        (producers, from, snapshot_end) = (snapshot.producers, end, Some(end));
        break;
    }
    while from < bounds.end {
        let range = ReadRange { from, until: bounds.end, max_bytes: REBUILD_BYTES };
        let run = match reader.read(range, ReadMode::Blocking) {
            Ok(run) => run,
            Err(ReadError::Corrupt(corruption)) => {
                // Without a good frame behind it, the damage ends with its segment at the latest.
                let base = segments.iter().map(|segment| segment.base).find(|base| *base > from);
                from = corruption.next_good.filter(|next| *next > from).or(base).unwrap_or(bounds.end);
                continue;
            }
            Err(error) => return Err(error),
        };
        for frame in &run.frames {
            let request = extension::request_of(&frame.extensions);
            let stamp = BatchHeader::decode(&frame.batch).ok().and_then(|header| header.producer);
            let kept = Kept {
                base_offset: frame.base_offset,
                record_count: frame.record_count,
                epoch: frame.epoch,
                append_time_ms: frame.append_time_ms,
            };
            producers.found(stamp, request, kept, now.0, now.1);
        }
        if run.next <= from {
            break;
        }
        from = run.next;
    }
    producers.expire(now.0);
    Ok((producers, snapshot_end))
}
