//! One segment as writer and readers share it: its file and its indexes, opened when needed and let go when asked.
//!
//! Owns the lazily opened descriptor, the indexes in memory (active) or mapped (sealed), and their rebuilding from
//! the frames. Must not know which segments a log has, nor what may be written.
//!
//! Invariants:
//! - an index is mapped only after a plain read of the whole file has passed its checks in this run (rule C6);
//! - an index that is missing, damaged or wrong is rebuilt from the frames and written again (rule C4);
//! - the descriptor of a pinned segment stays open (rule F1).

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::environment::LogEnvironment;
use super::error::{Corruption, ReadError};
use super::format::{FileKind, SEGMENT_HEADER_BYTES, file_name, unfinished_file_name};
use super::frame::{FrameContext, FrameHeader};
use super::index::{IndexEntry, OffsetIndex};
use super::index_file::Coverage;
use super::open_files::Closable;
use super::scan::{FrameAt, FrameWalker, SCAN_CHUNK_BYTES};
use super::segment_header::{FoundHeader, read_header};
use super::storage::{OpenMode, StorageFile};
use super::time_index::{TimeEntry, TimeIndex};
use crate::model::{FilePosition, Offset, PartitionEpoch};

/// Both indexes of a segment.
#[derive(Debug)]
pub(crate) struct Indexes {
    pub(crate) offsets: OffsetIndex,
    pub(crate) times: TimeIndex,
}

impl Indexes {
    pub(crate) fn empty() -> Self {
        Self { offsets: OffsetIndex::empty(), times: TimeIndex::empty() }
    }

    /// Notes a frame; marks get no entry.
    pub(crate) fn note(&mut self, base: Offset, append_time_ms: i64, position: u64, interval_bytes: u64) {
        let entry = IndexEntry { offset: base, position: FilePosition(position) };
        if self.offsets.note(entry, interval_bytes) {
            self.times.note(TimeEntry { time_ms: append_time_ms, offset: base });
        }
    }

    /// Notes a frame that was read.
    pub(crate) fn note_header(&mut self, header: &FrameHeader, position: u64, interval_bytes: u64) {
        if !header.mark {
            self.note(header.base_offset, header.append_time_ms, position, interval_bytes);
        }
    }
}

/// A segment's open files.
#[derive(Debug)]
pub(crate) struct OpenSegment {
    pub(crate) file: Arc<dyn StorageFile>,
    pub(crate) context: FrameContext,
    /// Length of the file when it was opened.
    pub(crate) file_bytes: u64,
    /// Of a sealed segment.
    indexes: Mutex<Option<Arc<Indexes>>>,
}

/// What is known of a sealed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SealedFacts {
    /// Where the next segment begins.
    pub(crate) end: Offset,
    /// Bytes of the log file.
    pub(crate) bytes: u64,
    /// Append time of the last frame, if it is known already.
    pub(crate) last_append_time_ms: Option<i64>,
}

/// One segment.
#[derive(Debug)]
pub(crate) struct Segment {
    environment: Arc<LogEnvironment>,
    base: Offset,
    sealed: Option<SealedFacts>,
    last_append_time_ms: OnceLock<i64>,
    live: Mutex<Indexes>,
    slot: Mutex<Option<Arc<OpenSegment>>>,
    pinned: AtomicBool,
    queued: AtomicBool,
    used: AtomicBool,
}

impl Closable for Segment {
    fn set_queued(&self, queued: bool) -> bool {
        self.queued.swap(queued, Ordering::Relaxed)
    }

    fn is_pinned(&self) -> bool {
        self.pinned.load(Ordering::Relaxed)
    }

    fn take_used(&self) -> bool {
        self.used.swap(false, Ordering::Relaxed)
    }

    fn close(&self) {
        let mut slot = self.slot.lock();
        if !self.is_pinned() {
            *slot = None;
        }
    }
}

impl Segment {
    /// The active segment, with what its indexes have so far.
    pub(crate) fn active(environment: Arc<LogEnvironment>, base: Offset, indexes: Indexes) -> Arc<Self> {
        Arc::new(Self::new(environment, base, None, indexes))
    }

    /// A sealed segment.
    pub(crate) fn sealed(environment: Arc<LogEnvironment>, base: Offset, facts: SealedFacts) -> Arc<Self> {
        let segment = Self::new(environment, base, Some(facts), Indexes::empty());
        if let Some(time_ms) = facts.last_append_time_ms {
            segment.last_append_time_ms.get_or_init(|| time_ms);
        }
        Arc::new(segment)
    }

    fn new(environment: Arc<LogEnvironment>, base: Offset, sealed: Option<SealedFacts>, indexes: Indexes) -> Self {
        Self {
            environment,
            base,
            sealed,
            last_append_time_ms: OnceLock::new(),
            live: Mutex::new(indexes),
            slot: Mutex::new(None),
            pinned: AtomicBool::new(false),
            queued: AtomicBool::new(false),
            used: AtomicBool::new(false),
        }
    }

    /// Offset of the first record.
    pub(crate) fn base(&self) -> Offset {
        self.base
    }

    /// What is known of it if it is sealed.
    pub(crate) fn facts(&self) -> Option<&SealedFacts> {
        self.sealed.as_ref()
    }

    /// Path of one of its files.
    pub(crate) fn path(&self, kind: FileKind) -> std::path::PathBuf {
        self.environment.path(&file_name(self.base, kind))
    }

    /// Whether its index is believed unchecked; never outside tests.
    pub(crate) fn trusts_index(&self) -> bool {
        self.environment.sabotage().trusts_index()
    }

    /// Gives the writer's descriptor of the active segment to readers, and keeps it open.
    pub(crate) fn pin(&self, file: Arc<dyn StorageFile>, context: FrameContext) {
        let mut slot = self.slot.lock();
        self.pinned.store(true, Ordering::Relaxed);
        *slot = Some(Arc::new(OpenSegment { file, context, file_bytes: 0, indexes: Mutex::new(None) }));
    }

    /// The writer has no use for its descriptor for now and no unsynced bytes.
    pub(crate) fn unpin(&self) {
        let mut slot = self.slot.lock();
        self.pinned.store(false, Ordering::Relaxed);
        *slot = None;
    }

    /// Indexes in memory, of the active segment.
    pub(crate) fn live(&self) -> &Mutex<Indexes> {
        &self.live
    }

    fn io_error(&self, source: io::Error) -> ReadError {
        ReadError::Io { path: self.path(FileKind::Log), source }
    }

    /// The whole segment cannot be read.
    fn lost(&self, what: &str) -> ReadError {
        ReadError::Corrupt(Corruption {
            file: self.path(FileKind::Log),
            position: FilePosition(0),
            what: what.to_owned(),
            first_bad: self.base,
            next_good: self.sealed.map(|facts| facts.end),
        })
    }

    /// The open files, if they are open.
    pub(crate) fn opened(&self) -> Option<Arc<OpenSegment>> {
        self.used.store(true, Ordering::Relaxed);
        self.slot.lock().clone()
    }

    /// Opens the files if they are not.
    ///
    /// # Errors
    /// The file is missing or not of this log (`Corrupt`), or cannot be read (`Io`).
    pub(crate) fn open(self: &Arc<Self>) -> Result<Arc<OpenSegment>, ReadError> {
        self.used.store(true, Ordering::Relaxed);
        let opened = {
            let mut slot = self.slot.lock();
            if let Some(open) = &*slot {
                return Ok(open.clone());
            }
            let opened = Arc::new(self.open_file()?);
            *slot = Some(opened.clone());
            opened
        };
        let weak: std::sync::Weak<Self> = Arc::downgrade(self);
        self.environment.open_files.opened(weak);
        Ok(opened)
    }

    fn open_file(&self) -> Result<OpenSegment, ReadError> {
        let storage = &self.environment.storage;
        let file = match storage.open(&self.path(FileKind::Log), OpenMode::Read) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(self.lost("the file is missing")),
            Err(error) => return Err(self.io_error(error)),
        };
        let found = read_header(&*file, &self.environment.identity, self.base).map_err(|e| self.io_error(e))?;
        let header = match found {
            Ok(FoundHeader::Good(header) | FoundHeader::MadeGood(header)) => header,
            Ok(FoundHeader::Lost) => return Err(self.lost("neither a good header nor a good frame")),
            Err(fault) => return Err(self.lost(&fault.to_string())),
        };
        let file_bytes = file.len().map_err(|e| self.io_error(e))?;
        let context = self.environment.context(header.salt);
        Ok(OpenSegment { file, context, file_bytes, indexes: Mutex::new(None) })
    }

    /// Runs `look` on the indexes: those in memory of the active segment, else the files', loaded when first needed.
    pub(crate) fn with_indexes<T>(&self, open: &OpenSegment, look: impl FnOnce(&Indexes) -> T) -> Result<T, ReadError> {
        if self.sealed.is_none() {
            return Ok(look(&self.live.lock()));
        }
        let indexes = {
            let mut loaded = open.indexes.lock();
            match &*loaded {
                Some(indexes) => indexes.clone(),
                None => {
                    let indexes = Arc::new(self.load_indexes(open)?);
                    *loaded = Some(indexes.clone());
                    indexes
                }
            }
        };
        Ok(look(&indexes))
    }

    /// Whether a look into the indexes needs no file.
    pub(crate) fn has_indexes(&self, open: &OpenSegment) -> bool {
        self.sealed.is_none() || open.indexes.lock().is_some()
    }

    /// Throws the indexes of a sealed segment away and makes them anew from the frames, because an entry was wrong.
    pub(crate) fn rebuild_indexes(&self, open: &OpenSegment) -> Result<(), ReadError> {
        let mut loaded = open.indexes.lock();
        let (indexes, coverage) = self.indexes_from_frames(open)?;
        self.save_indexes(open, &indexes, &coverage);
        *loaded = Some(Arc::new(indexes));
        Ok(())
    }

    fn load_indexes(&self, open: &OpenSegment) -> Result<Indexes, ReadError> {
        match (self.load_offsets(open), self.load_times(open)) {
            (Some(offsets), Some(times)) => Ok(Indexes { offsets, times }),
            _ => {
                let (indexes, coverage) = self.indexes_from_frames(open)?;
                self.save_indexes(open, &indexes, &coverage);
                Ok(indexes)
            }
        }
    }

    /// The mapped offset index, if a plain read of all of it passes its checks.
    fn load_offsets(&self, open: &OpenSegment) -> Option<OffsetIndex> {
        let path = self.path(FileKind::Index);
        let bytes = read_whole(&self.environment, &path).ok()??;
        if !self.environment.sabotage().trusts_index() {
            let coverage = OffsetIndex::check(&bytes, &open.context, self.base).ok()?;
            self.covers(open, &coverage).then_some(())?;
        }
        let mapped = self.environment.storage.map(&path).ok()?;
        (mapped.bytes().len() == bytes.len()).then(|| OffsetIndex::mapped(mapped))
    }

    /// The mapped time index, if a plain read of all of it passes its checks.
    fn load_times(&self, open: &OpenSegment) -> Option<TimeIndex> {
        let path = self.path(FileKind::TimeIndex);
        let bytes = read_whole(&self.environment, &path).ok()??;
        if !self.environment.sabotage().trusts_index() {
            let coverage = TimeIndex::check(&bytes, &open.context, self.base).ok()?;
            self.covers(open, &coverage).then_some(())?;
            self.last_append_time_ms.get_or_init(|| coverage.last_append_time_ms);
        }
        let mapped = self.environment.storage.map(&path).ok()?;
        (mapped.bytes().len() == bytes.len()).then(|| TimeIndex::mapped(mapped))
    }

    /// Whether an index may be of this segment as it is.
    fn covers(&self, open: &OpenSegment, coverage: &Coverage) -> bool {
        coverage.log_end.0 <= open.file_bytes && self.sealed.is_some_and(|facts| coverage.end <= facts.end)
    }

    /// Reads all frames of a sealed segment.
    fn indexes_from_frames(&self, open: &OpenSegment) -> Result<(Indexes, Coverage), ReadError> {
        let end = self.sealed.map_or(Offset::MAX, |facts| facts.end);
        let mut walker = FrameWalker::new(&*open.file, open.context, open.file_bytes, SCAN_CHUNK_BYTES);
        let walked = walk_indexes(&mut walker, self.base, end, self.environment.settings.index_interval_bytes)
            .map_err(|e| self.io_error(e))?;
        if let Some(last) = walked.last {
            self.last_append_time_ms.get_or_init(|| last.append_time_ms);
        }
        let coverage = Coverage {
            base: self.base,
            end: walked.end,
            log_end: FilePosition(walked.log_end),
            last_append_time_ms: walked.last.map_or(0, |last| last.append_time_ms),
            last_epoch: walked.last.map_or(PartitionEpoch::ZERO, |last| last.epoch),
        };
        Ok((walked.indexes, coverage))
    }

    /// Writes rebuilt indexes. They are only a hint, so a failure leaves no more than the need to do it again.
    fn save_indexes(&self, open: &OpenSegment, indexes: &Indexes, coverage: &Coverage) {
        let saved = write_indexes(&self.environment, &open.context, indexes, coverage);
        if saved.is_ok() {
            let _ = self.environment.sync_dir();
        }
    }

    /// Append time of the last frame, `None` if there is no good one.
    pub(crate) fn last_append_time_ms(self: &Arc<Self>) -> Result<Option<i64>, ReadError> {
        if self.last_append_time_ms.get().is_none() {
            let open = self.open()?;
            self.with_indexes(&open, |_| ())?;
        }
        Ok(self.last_append_time_ms.get().copied())
    }

    /// The same, if it is known without asking the files.
    pub(crate) fn known_last_append_time_ms(&self) -> Option<i64> {
        self.last_append_time_ms.get().copied()
    }
}

/// What a walk over the frames of a segment found.
#[derive(Debug)]
pub(crate) struct WalkedIndexes {
    pub(crate) indexes: Indexes,
    /// End of the last good frame.
    pub(crate) end: Offset,
    /// Position behind the last good frame.
    pub(crate) log_end: u64,
    /// The last good frame, marks included.
    pub(crate) last: Option<FrameHeader>,
}

/// Makes the indexes of a segment from its good frames, passing over damage.
pub(crate) fn walk_indexes(
    walker: &mut FrameWalker<'_>,
    base: Offset,
    end: Offset,
    interval_bytes: u64,
) -> io::Result<WalkedIndexes> {
    let mut walked =
        WalkedIndexes { indexes: Indexes::empty(), end: base, log_end: SEGMENT_HEADER_BYTES as u64, last: None };
    let mut position = SEGMENT_HEADER_BYTES as u64;
    loop {
        let next = walked.end;
        let fits = |header: &FrameHeader| header.base_offset >= next && header.end_offset() <= end;
        match walker.frame_at(position)? {
            FrameAt::End => return Ok(walked),
            FrameAt::Good(header) if fits(&header) => {
                walked.indexes.note_header(&header, position, interval_bytes);
                position += header.frame_bytes();
                walked.end = header.end_offset();
                walked.log_end = position;
                walked.last = Some(header);
            }
            FrameAt::Good(header) if header.base_offset >= end => return Ok(walked),
            FrameAt::BadBody(header, _) if fits(&header) => position += header.frame_bytes(),
            FrameAt::Good(_) | FrameAt::BadBody(..) | FrameAt::BadHeader(_) => {
                match walker.next_header(position + 8, fits)? {
                    Some((found, _)) => position = found,
                    None => return Ok(walked),
                }
            }
        }
    }
}

/// The bytes of both index files of a segment.
#[derive(Debug)]
pub(crate) struct EncodedIndexes {
    base: Offset,
    files: [(FileKind, Vec<u8>); 2],
}

impl EncodedIndexes {
    /// What `indexes` say of the frames that `coverage` covers. No call to the storage: for callers that hold a lock.
    pub(crate) fn new(context: &FrameContext, indexes: &Indexes, coverage: &Coverage) -> Self {
        let offsets = indexes.offsets.encode(context, coverage);
        let times = indexes.times.encode(context, coverage);
        Self { base: coverage.base, files: [(FileKind::Index, offsets), (FileKind::TimeIndex, times)] }
    }

    /// Writes both files, synced; the caller syncs the directory, and holds no lock that a reader or an append needs.
    pub(crate) fn write(&self, environment: &LogEnvironment) -> io::Result<()> {
        for (kind, bytes) in &self.files {
            let (name, unfinished) = (file_name(self.base, *kind), unfinished_file_name(self.base, *kind));
            environment.write_file(name.as_ref(), unfinished.as_ref(), bytes)?;
        }
        Ok(())
    }
}

/// Writes both index files of a segment, synced; the caller syncs the directory.
pub(crate) fn write_indexes(
    environment: &LogEnvironment,
    context: &FrameContext,
    indexes: &Indexes,
    coverage: &Coverage,
) -> io::Result<()> {
    EncodedIndexes::new(context, indexes, coverage).write(environment)
}

/// Most bytes of an index file: those of a segment with an entry for each of the smallest frames.
const INDEX_FILE_BYTES: u64 = 256 << 20;

/// All bytes of a small file by a plain read; `None` if there is no such file.
pub(crate) fn read_whole(environment: &LogEnvironment, path: &std::path::Path) -> io::Result<Option<Vec<u8>>> {
    let file = match environment.storage.open(path, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let len = file.len()?;
    if len > INDEX_FILE_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "an index is never that long"));
    }
    let mut bytes = vec![0; len as usize];
    let read = file.read_at(&mut bytes, 0)?;
    bytes.truncate(read);
    Ok(Some(bytes))
}
