//! Where one segment ends and the next begins: seal, roll, leaving the fence, a clean stop, a raised start.

use std::io::{self, IoSlice};
use std::sync::Arc;

use super::active::{Active, ActiveStart};
use super::sync::SyncGate;
use super::{LocalLog, SyncError};
use crate::log::environment::{LogEnvironment, LogIdentity};
use crate::log::error::AppendError;
use crate::log::format::{FileKind, SEGMENT_HEADER_BYTES, file_name, unfinished_file_name};
use crate::log::segment::{EncodedIndexes, Indexes, SealedFacts, Segment};
use crate::log::segment_header::SegmentHeader;
use crate::log::storage::{OpenMode, StorageFile};
use crate::model::{Offset, PartitionEpoch};

/// Salts of new segments: a sequence that nobody outside can guess.
#[derive(Debug)]
pub(crate) struct Salts {
    state: u64,
}

impl Salts {
    /// A sequence for one log: logs that share a seed have different ones.
    pub(crate) fn new(seed: u64, identity: &LogIdentity) -> Self {
        Self { state: mixed(seed ^ (u64::from(identity.digest()) << 32) ^ u64::from(identity.partition.0)) }
    }

    /// The next salt, never 0. Base and epoch enter too, so that a log opened twice with one seed has no salt again.
    pub(crate) fn next(&mut self, base: Offset, epoch: PartitionEpoch) -> u64 {
        self.state = mixed(self.state);
        mixed(self.state ^ mixed(base.get() ^ (u64::from(epoch.get()) << 32))).max(1)
    }
}

/// A step of SplitMix64: each bit of the result depends on all bits given.
fn mixed(seed: u64) -> u64 {
    let mut bits = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
    bits = (bits ^ (bits >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    bits = (bits ^ (bits >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    bits ^ (bits >> 31)
}

/// Why a segment could not be made.
#[derive(Debug)]
pub(crate) enum CreateError {
    /// A file could not be made or written; nothing depends on it.
    Write(io::Error),
    /// A sync failed (rule F1).
    Sync(io::Error),
}

/// A segment to be made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SegmentStart {
    /// Where it begins: everything below is synced.
    pub(crate) base: Offset,
    pub(crate) epoch: PartitionEpoch,
    /// No frame in it is older.
    pub(crate) floor_time_ms: i64,
}

/// Makes a segment's log file with its header: written, synced, named, and the directory synced (rule D7). A file
/// gets its name only once its header is durable, so that a creation that fails leaves no segment behind. One of the
/// same base is replaced: after a fence nothing of it had been durable.
pub(crate) fn create_segment(
    environment: &LogEnvironment,
    salts: &mut Salts,
    start: SegmentStart,
) -> Result<(SegmentHeader, Arc<dyn StorageFile>), CreateError> {
    let storage = &environment.storage;
    let path = environment.path(&file_name(start.base, FileKind::Log));
    let written_as = environment.path(&unfinished_file_name(start.base, FileKind::Log));
    let header = SegmentHeader {
        identity: environment.identity,
        base: start.base,
        salt: salts.next(start.base, start.epoch),
        floor_time_ms: start.floor_time_ms,
        epoch: start.epoch,
    };
    let file = write_header(environment, &written_as, &header).map_err(CreateError::Write)?;
    file.sync_all().map_err(CreateError::Sync)?;
    storage.rename(&written_as, &path).map_err(CreateError::Write)?;
    environment.sync_dir().map_err(CreateError::Sync)?;
    Ok((header, file))
}

fn write_header(
    environment: &LogEnvironment,
    path: &std::path::Path,
    header: &SegmentHeader,
) -> io::Result<Arc<dyn StorageFile>> {
    // What is there is left over from a creation that failed.
    if environment.storage.exists(path)? {
        environment.storage.remove_file(path)?;
    }
    let file = environment.storage.open(path, OpenMode::CreateNew)?;
    let bytes = header.encode();
    let mut written = 0;
    while written < SEGMENT_HEADER_BYTES {
        match file.write_at(&[IoSlice::new(&bytes[written..])], written as u64)? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            count => written += count,
        }
    }
    Ok(file)
}

impl LocalLog {
    /// Seals the active segment (sync, indexes, exact length) and starts the next. Blocks; no sync may be pending.
    /// Does nothing if the active segment has no records.
    ///
    /// # Errors
    /// As [`LocalLog::append`]; a failed sync fences. After [`AppendError::Write`] the log goes on in the same
    /// segment.
    pub fn roll(&mut self) -> Result<(), AppendError> {
        let gate = self.gate_to_write()?;
        if self.end == self.active.segment.base() {
            return Ok(());
        }
        let write = |source| AppendError::Write { source };
        self.active.trim(&self.environment, &gate).map_err(write)?;
        // The length must be durable too, so the sync is due even if no frame is unsynced.
        if let Err(error) = gate.sync() {
            return Err(self.fence_after(&error));
        }
        self.note_durable(self.end, self.active.end_position);
        self.seal_indexes().map_err(write)?;
        let start = SegmentStart { base: self.end, epoch: self.last_epoch, floor_time_ms: self.last_append_time_ms };
        match create_segment(&self.environment, &mut self.salts, start) {
            Ok((header, file)) => self.begin_segment(header, file),
            Err(CreateError::Write(source)) => return Err(write(source)),
            Err(CreateError::Sync(error)) => {
                let error = SyncError { errno: error.raw_os_error(), what: error.to_string() };
                return Err(self.fence_after(&error));
            }
        }
        Ok(())
    }

    /// Writes the indexes of the synced part for good; the directory is synced with the next segment's file.
    fn seal_indexes(&self) -> io::Result<()> {
        let _alone = self.index_files.lock();
        let coverage = self.coverage();
        let encoded = EncodedIndexes::new(&self.active.context, &self.active.segment.live().lock(), &coverage);
        encoded.write(&self.environment)
    }

    /// Makes a new segment the active one, and shows the change to readers.
    fn begin_segment(&mut self, header: SegmentHeader, file: Arc<dyn StorageFile>) {
        // From here on no save of the old segment's indexes may replace those of the seal.
        *self.index_files.lock() = true;
        self.index_files = Arc::default();
        self.active.give_back(&self.environment);
        let old = self.active.segment.clone();
        let sealed = (old.base() < header.base).then(|| {
            let facts = SealedFacts {
                end: header.base,
                bytes: self.active.end_position,
                last_append_time_ms: Some(self.last_append_time_ms),
            };
            Segment::sealed(self.environment.clone(), old.base(), facts)
        });
        let segment = Segment::active(self.environment.clone(), header.base, Indexes::empty());
        let start = ActiveStart {
            segment: segment.clone(),
            header,
            end_position: SEGMENT_HEADER_BYTES as u64,
            durable_position: SEGMENT_HEADER_BYTES as u64,
            first_append_time_ms: None,
            proven_end: header.base,
            marked: false,
            indexed_bytes: SEGMENT_HEADER_BYTES as u64,
        };
        self.active = Active::new(&self.environment, start, Some(SyncGate::new(file)));
        (self.end, self.durable_end) = (header.base, header.base);
        self.last_epoch = self.last_epoch.max(header.epoch);
        let mut shared = self.shared.lock();
        let kept = shared.segments[..shared.segments.len() - 1].iter().cloned();
        shared.segments = kept.chain(sealed).chain([segment]).collect();
        shared.active_bytes = SEGMENT_HEADER_BYTES as u64;
        (shared.bounds.end, shared.bounds.durable_end) = (header.base, header.base);
    }

    /// Leaves the fence: a new segment from the durable end; what lies above is gone (rule F1).
    ///
    /// # Errors
    /// The new files could not be written or synced; the log stays fenced.
    ///
    /// # Panics
    /// If `epoch` is not above that of the last frame: what was written above the durable end had that one.
    pub fn reopen(&mut self, epoch: PartitionEpoch) -> Result<(), AppendError> {
        if self.fenced.is_none() {
            return Ok(());
        }
        assert!(epoch > self.last_epoch, "leaving a fence begins a new epoch");
        let write = |source| AppendError::Write { source };
        if self.active.segment.base() < self.durable_end {
            self.seal_indexes().map_err(write)?;
        }
        let floor_time_ms = self.last_append_time_ms;
        let start = SegmentStart { base: self.durable_end, epoch, floor_time_ms };
        match create_segment(&self.environment, &mut self.salts, start) {
            Ok((header, file)) => {
                (self.fenced, self.fence_errno) = (None, None);
                self.begin_segment(header, file);
                Ok(())
            }
            Err(CreateError::Write(source) | CreateError::Sync(source)) => Err(write(source)),
        }
    }

    /// Marks, syncs and gives back allocated space, for a clean stop; returns the end for the clean marker. Blocks;
    /// no sync may be pending.
    ///
    /// # Errors
    /// As [`LocalLog::append`]: the log must be left out of the clean marker.
    pub fn close(&mut self, append_time_ms: i64, epoch: PartitionEpoch) -> Result<Offset, AppendError> {
        if self.active.durable_position < self.active.end_position {
            let gate = self.gate_to_write()?;
            self.sync_inline(&gate)?;
        }
        self.write_mark(append_time_ms, epoch)?;
        if let Some(cause) = &self.fenced {
            return Err(AppendError::Fenced { cause: cause.clone() });
        }
        if let Some(gate) = self.active.open_gate().cloned() {
            // The exact length counts in the next run, so it is synced even if no frame is.
            self.sync_inline(&gate)?;
        }
        if let Some(save) = self.pending_index_save(CLOSE_INDEX_BYTES) {
            save.run().map_err(|source| AppendError::Write { source })?;
        }
        self.active.release();
        Ok(self.end)
    }

    /// Removes sealed segments that lie wholly below `start`, and hides everything below it from readers. The
    /// caller has made `start` durable first (rule D9). Does nothing if the log begins there or later already.
    ///
    /// # Errors
    /// [`AppendError::Write`]: a file could not be removed; the start is raised all the same, and the rest goes when
    /// the log is opened next.
    ///
    /// # Panics
    /// If `start` is above the end of the log.
    pub fn raise_start(&mut self, start: Offset) -> Result<(), AppendError> {
        assert!(start <= self.end, "a log never starts behind its end");
        let gone = {
            let mut shared = self.shared.lock();
            if start <= shared.bounds.start {
                return Ok(());
            }
            shared.bounds.start = start;
            let keep =
                shared.segments.partition_point(|segment| segment.facts().is_some_and(|facts| facts.end <= start));
            let gone = shared.segments[..keep].to_vec();
            shared.segments = shared.segments[keep..].into();
            shared.damaged = shared.damaged.iter().copied().filter(|range| range.to > start).collect();
            gone
        };
        if gone.is_empty() {
            return Ok(());
        }
        let removed: io::Result<()> =
            gone.iter().try_for_each(|segment| remove_segment(&self.environment, segment.base()));
        removed.and_then(|()| self.environment.sync_dir()).map_err(|source| AppendError::Write { source })
    }
}

/// Bytes of the active segment beyond its index on disk at which a clean stop writes it: below, a scan is as quick.
const CLOSE_INDEX_BYTES: u64 = 256 << 10;

/// Removes the files of a segment, the log file last: a start that is cut short between them finds it again.
pub(crate) fn remove_segment(environment: &LogEnvironment, base: Offset) -> io::Result<()> {
    for kind in [FileKind::TimeIndex, FileKind::Index, FileKind::Log] {
        match environment.storage.remove_file(&environment.path(&file_name(base, kind))) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}
