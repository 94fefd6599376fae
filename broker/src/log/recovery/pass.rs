//! The pass over one segment: sync, drop the cache, find the header, scan, and what is done to the file afterwards.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use super::judge::{Run, Verdict};
use super::{RecoveryReport, failed};
use crate::log::environment::LogEnvironment;
use crate::log::error::OpenError;
use crate::log::format::{FileKind, SEGMENT_HEADER_BYTES, file_name};
use crate::log::frame::{FrameContext, FrameHeader};
use crate::log::index::OffsetIndex;
use crate::log::index_file::Coverage;
use crate::log::scan::{FrameAt, FrameWalker, LOOKUP_CHUNK_BYTES, SCAN_CHUNK_BYTES};
use crate::log::segment::{Indexes, SealedFacts, read_whole, write_indexes};
use crate::log::segment_header::{FoundHeader, SegmentHeader, read_header};
use crate::log::storage::{OpenMode, StorageFile};
use crate::log::time_index::TimeIndex;
use crate::model::{FilePosition, Offset, PartitionEpoch};

/// A pass over one segment.
#[derive(Debug)]
pub(super) struct Pass {
    pub(super) path: PathBuf,
    base: Offset,
    file: Arc<dyn StorageFile>,
    file_bytes: u64,
    /// The segment's header, good or made good; `None` if there is neither it nor a good frame.
    pub(super) header: Option<SegmentHeader>,
    /// The header on disk is damaged.
    header_damaged: bool,
    /// The index files on disk were good.
    index_good: bool,
    /// Bytes of the log file that they cover.
    pub(super) indexed_bytes: u64,
    /// Offset at which the scan began: good, or the segment's base.
    pub(super) start: Offset,
    start_position: u64,
    /// Highest durable end in good headers.
    pub(super) proven: Offset,
    pub(super) runs: Vec<Run>,
    indexes: Indexes,
    first_append_time_ms: Option<i64>,
}

impl Pass {
    /// Syncs the file, drops its pages and reads its header.
    pub(super) fn begin(
        environment: &LogEnvironment,
        base: Offset,
        report: &mut RecoveryReport,
    ) -> Result<Self, OpenError> {
        let path = environment.path(&file_name(base, FileKind::Log));
        let file = environment.storage.open(&path, OpenMode::ReadWrite).map_err(failed("opening", &path))?;
        if !environment.sabotage().serves_unsynced_tail() {
            if let Err(error) = file.sync_all() {
                report.first_sync_error.get_or_insert_with(|| error.to_string());
            }
            report.cache_kept |= !file.drop_cache().map_err(failed("dropping the cache of", &path))?;
        }
        Self::over(environment, base, path, file)
    }

    /// Reads the header of a file.
    pub(super) fn over(
        environment: &LogEnvironment,
        base: Offset,
        path: PathBuf,
        file: Arc<dyn StorageFile>,
    ) -> Result<Self, OpenError> {
        let file_bytes = file.len().map_err(failed("measuring", &path))?;
        let found = read_header(&*file, &environment.identity, base).map_err(failed("reading", &path))?;
        let (header, header_damaged) = match found {
            Ok(FoundHeader::Good(header)) => (Some(header), false),
            Ok(FoundHeader::MadeGood(header)) => (Some(header), true),
            Ok(FoundHeader::Lost) => (None, true),
            Err(fault) => return Err(OpenError::Foreign { path, what: fault.to_string() }),
        };
        Ok(Self {
            path,
            base,
            file,
            file_bytes,
            header,
            header_damaged,
            index_good: false,
            indexed_bytes: SEGMENT_HEADER_BYTES as u64,
            start: base,
            start_position: SEGMENT_HEADER_BYTES as u64,
            proven: base,
            runs: Vec::new(),
            indexes: Indexes::empty(),
            first_append_time_ms: None,
        })
    }

    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// Scans the frames from `recovery_point` on, as far as the index on disk leads there, else all; frames at or
    /// above `limit`, where the next segment begins, are ignored.
    pub(super) fn scan(
        &mut self,
        environment: &LogEnvironment,
        recovery_point: Offset,
        limit: Option<Offset>,
        report: &mut RecoveryReport,
    ) -> Result<(), OpenError> {
        let Some(header) = self.header else { return Ok(()) };
        let context = environment.context(header.salt);
        self.load_indexes(environment, &context, recovery_point);
        let file = self.file.clone();
        let mut walker = FrameWalker::new(&*file, context, self.file_bytes, SCAN_CHUNK_BYTES);
        let scanned = self.start_from_index(&mut walker, environment.sabotage().trusts_index());
        let scanned = scanned.and_then(|()| self.walk(&mut walker, environment, limit));
        report.scanned_bytes += walker.read_bytes();
        scanned.map_err(failed("reading", &self.path))
    }

    /// Loads the entries up to the recovery point, if both index files pass their checks.
    fn load_indexes(&mut self, environment: &LogEnvironment, context: &FrameContext, recovery_point: Offset) {
        let read = |kind| read_whole(environment, &environment.path(&file_name(self.base, kind))).ok().flatten();
        let (Some(offsets), Some(times)) = (read(FileKind::Index), read(FileKind::TimeIndex)) else { return };
        let checked = OffsetIndex::check(&offsets, context, self.base).and_then(|coverage| {
            TimeIndex::check(&times, context, self.base)
                .map(|other| coverage.end.min(other.end))
                .map(|end| (end, coverage))
        });
        let Ok((end, coverage)) = checked else { return };
        if coverage.log_end.0 > self.file_bytes {
            return;
        }
        let until = recovery_point.min(end).saturating_add(1);
        self.index_good = true;
        self.indexed_bytes = coverage.log_end.0;
        self.indexes =
            Indexes { offsets: OffsetIndex::loaded(&offsets, until), times: TimeIndex::loaded(&times, until) };
    }

    /// Begins at the last index entry, if the frame there is good and is the one that the entry names (rule C4).
    fn start_from_index(&mut self, walker: &mut FrameWalker<'_>, trust: bool) -> io::Result<()> {
        let Some(entry) = self.indexes.offsets.lookup(Offset::MAX) else { return Ok(()) };
        let good = match walker.frame_at(entry.position.0)? {
            FrameAt::Good(header) => header.base_offset == entry.offset,
            _ => false,
        };
        if good || trust {
            (self.start, self.start_position) = (entry.offset, entry.position.0);
        } else {
            self.indexes = Indexes::empty();
            self.index_good = false;
            self.indexed_bytes = SEGMENT_HEADER_BYTES as u64;
        }
        Ok(())
    }

    fn walk(
        &mut self,
        walker: &mut FrameWalker<'_>,
        environment: &LogEnvironment,
        limit: Option<Offset>,
    ) -> io::Result<()> {
        let interval = environment.settings.index_interval_bytes;
        let limit = limit.unwrap_or(Offset::MAX);
        let (mut position, mut next) = (self.start_position, self.start);
        let mut joined = false;
        loop {
            let last = self.runs.last().map(|run| run.last);
            let fits = |header: &FrameHeader| {
                let ordered =
                    last.is_none_or(|last| header.epoch >= last.epoch && header.append_time_ms >= last.append_time_ms);
                header.base_offset >= next && header.end_offset() <= limit && ordered
            };
            match walker.frame_at(position)? {
                FrameAt::Good(header) if fits(&header) => {
                    self.proven = self.proven.max(header.durable_end);
                    self.note(&header, position, interval);
                    position += header.frame_bytes();
                    let run =
                        Run { from: header.base_offset, to: header.end_offset(), end_position: position, last: header };
                    next = run.to;
                    match self.runs.last_mut().filter(|last| joined && last.to == run.from) {
                        Some(last) => *last = Run { from: last.from, ..run },
                        None => self.runs.push(run),
                    }
                    joined = true;
                }
                FrameAt::End => return Ok(()),
                FrameAt::Good(header) if header.base_offset >= limit => return Ok(()),
                FrameAt::BadBody(header, _) if fits(&header) => {
                    // A good header over a bad body loses exactly its own offsets, and tells what it tells.
                    self.proven = self.proven.max(header.durable_end);
                    position += header.frame_bytes();
                    next = header.end_offset();
                    joined = false;
                }
                FrameAt::Good(_) | FrameAt::BadBody(..) | FrameAt::BadHeader(_) => {
                    joined = false;
                    match walker.next_header(position + 8, fits)? {
                        Some((found, _)) => position = found,
                        None => return Ok(()),
                    }
                }
            }
        }
    }

    fn note(&mut self, header: &FrameHeader, position: u64, interval: u64) {
        if !header.mark {
            self.first_append_time_ms.get_or_insert(header.append_time_ms);
        }
        self.indexes.note_header(header, position, interval);
    }

    /// Forgets what was scanned at or above the end that was decided.
    pub(super) fn keep_below(&mut self, end: Offset) {
        self.runs.retain(|run| run.from <= end && run.to <= end);
        self.truncate_indexes(end);
    }

    /// Drops the index entries at or above `end`.
    pub(super) fn truncate_indexes(&mut self, end: Offset) {
        self.indexes.offsets.truncate(end);
        self.indexes.times.truncate(end);
    }

    /// Whether the header on disk is good.
    pub(super) fn is_whole(&self) -> bool {
        !self.header_damaged
    }

    /// The last good frame that is kept.
    pub(super) fn last(&self) -> Option<&FrameHeader> {
        self.runs.last().map(|run| &run.last)
    }

    /// End of the last good frame that is kept.
    pub(super) fn end(&self) -> Offset {
        self.runs.last().map_or(self.start, |run| run.to)
    }

    /// Position behind it.
    pub(super) fn end_position(&self) -> u64 {
        self.runs.last().map_or(self.start_position, |run| run.end_position)
    }

    pub(super) fn last_epoch(&self) -> PartitionEpoch {
        let floor = self.header.map_or(PartitionEpoch::ZERO, |header| header.epoch);
        self.last().map_or(floor, |last| last.epoch)
    }

    pub(super) fn last_append_time_ms(&self) -> i64 {
        let floor = self.header.map_or(0, |header| header.floor_time_ms);
        self.last().map_or(floor, |last| last.append_time_ms)
    }

    /// Append time of the segment's first frame, also if the scan began behind it.
    pub(super) fn first_append_time_ms(&self, environment: &LogEnvironment) -> io::Result<Option<i64>> {
        let Some(header) = self.header.filter(|_| self.end() > self.base) else { return Ok(None) };
        let context = environment.context(header.salt);
        let mut walker = FrameWalker::new(&*self.file, context, self.file_bytes, LOOKUP_CHUNK_BYTES);
        let first = walker.header_at(SEGMENT_HEADER_BYTES as u64)?.ok().map(|first| first.append_time_ms);
        Ok(first.or(self.first_append_time_ms))
    }

    /// Position of the frame that begins with `offset`, an end that a good frame tells of.
    pub(super) fn position_of(&self, offset: Offset) -> io::Result<u64> {
        let header = self.header.expect("a segment with frames has a header");
        let context = FrameContext::new(&header.identity, header.salt);
        let mut walker = FrameWalker::new(&*self.file, context, self.end_position(), LOOKUP_CHUNK_BYTES);
        let mut position = SEGMENT_HEADER_BYTES as u64;
        if let Some(entry) = self.indexes.offsets.lookup(offset) {
            position = entry.position.0;
        }
        loop {
            match walker.header_at(position)? {
                Ok(header) if header.base_offset < offset => position += header.frame_bytes(),
                Ok(_) => return Ok(position),
                Err(_) if position >= self.end_position() => return Ok(self.end_position()),
                Err(_) => match walker.next_header(position + 8, |_| true)? {
                    Some((found, _)) => position = found,
                    None => return Ok(self.end_position()),
                },
            }
        }
    }

    /// Brings the file into the shape that was decided: the header made good, and the tail cut off unless the file
    /// is left as it is because a new segment follows it. Then the last sync of D6.
    pub(super) fn finish(
        &mut self,
        environment: &LogEnvironment,
        verdict: &Verdict,
        leave_tail: bool,
        report: &mut RecoveryReport,
    ) -> Result<(), OpenError> {
        let mut changed = false;
        if let Some(header) = self.header.filter(|_| self.header_damaged) {
            let bytes = header.encode();
            let written = self.file.write_at(&[io::IoSlice::new(&bytes)], 0).map_err(failed("writing", &self.path))?;
            if written < bytes.len() {
                return Err(failed("writing", &self.path)(io::ErrorKind::WriteZero.into()));
            }
            changed = true;
        }
        let end_position = self.end_position();
        if !leave_tail && self.file_bytes > end_position {
            debug_assert_eq!(self.end(), verdict.end, "a segment that goes on ends where the log ends");
            let context = environment.context(self.header.map_or(0, |header| header.salt));
            let mut walker = FrameWalker::new(&*self.file, context, self.file_bytes, SCAN_CHUNK_BYTES);
            let data_end = walker.end_of_data(end_position).map_err(failed("reading", &self.path))?;
            report.dropped_bytes += data_end - end_position;
            self.file.set_len(end_position).map_err(failed("cutting", &self.path))?;
            self.file_bytes = end_position;
            changed = true;
        }
        if environment.sabotage().serves_unsynced_tail() {
            return Ok(());
        }
        // What was only read has been synced above; what was changed must be before anything relies on it.
        let again = changed || report.first_sync_error.is_some();
        if again && let Err(error) = self.file.sync_all() {
            report.fenced.get_or_insert_with(|| format!("the last sync of recovery failed: {error}"));
        }
        Ok(())
    }

    /// The segment is followed by another one that begins at `end`: writes its indexes if those on disk are not
    /// good.
    pub(super) fn seal(&self, environment: &LogEnvironment, end: Offset) -> SealedFacts {
        let Some(header) = self.header else {
            return SealedFacts { end, bytes: self.file_bytes, last_append_time_ms: None };
        };
        let coverage = Coverage {
            base: self.base,
            end: self.end().min(end),
            log_end: FilePosition(self.end_position()),
            last_append_time_ms: self.last_append_time_ms(),
            last_epoch: self.last_epoch(),
        };
        if !self.index_good || self.indexed_bytes != coverage.log_end.0 {
            // A hint only: if it cannot be written now, it is made when the segment is read.
            let _ = write_indexes(environment, &environment.context(header.salt), &self.indexes, &coverage);
        }
        SealedFacts { end, bytes: self.file_bytes, last_append_time_ms: Some(coverage.last_append_time_ms) }
    }

    pub(super) fn into_indexes(self) -> Indexes {
        self.indexes
    }
}
