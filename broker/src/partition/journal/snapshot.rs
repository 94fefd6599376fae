//! Writing snapshots: at once, or step by step between appends (rule G6).
//!
//! Invariants: a snapshot counts only once it has been read back from the device; nothing is removed before; a
//! snapshot that is given up leaves a run without an end, which no replay takes for one.

use std::io;

use bytes::{BufMut, Bytes, BytesMut};

use super::replay::RunReader;
use super::{FrameDraft, Journal, JournalError, Kind, push};
use crate::model::{Offset, OffsetRange};

/// Frames written with one call.
const FRAMES_PER_WRITE: usize = 64;

/// A snapshot that is being written between appends.
#[derive(Debug)]
pub struct SnapshotRun {
    first: Offset,
    sequence: u64,
    parts: u32,
    bytes: u64,
    hasher: crc32fast::Hasher,
    /// Where its own frames stand; records stand between them.
    ranges: Vec<OffsetRange>,
}

impl SnapshotRun {
    /// The last record that it holds.
    pub fn sequence(&self) -> u64 {
        self.sequence
    }

    /// Bytes of the parts written so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }
}

/// A written snapshot that is being read back from the device.
#[derive(Debug)]
pub struct ReadBack {
    first: Offset,
    /// What is left to read, the next last.
    ranges: Vec<OffsetRange>,
    sequence: u64,
    summary: (u32, u32),
    reader: RunReader,
}

fn summary_of(parts: u32, crc: u32) -> BytesMut {
    let mut summary = BytesMut::with_capacity(9);
    summary.put_u32(parts);
    summary.put_u32(crc);
    summary
}

fn counted(parts: usize) -> u32 {
    u32::try_from(parts).expect("a snapshot has fewer parts than bytes fit in memory")
}

impl Journal {
    /// Writes a snapshot of everything up to the last record, syncs it, reads it back from the device, and then
    /// removes what lies before the two newest good ones.
    ///
    /// # Errors
    /// As [`Journal::append`]; after [`JournalError::ReadBack`] and [`JournalError::Refused`] the snapshots before
    /// it still hold, and a later one may succeed.
    pub fn snapshot(&mut self, parts: &[Bytes], now_ms: i64) -> Result<(), JournalError> {
        self.check_stopped()?;
        if self.active_is_used() {
            self.roll()?;
        }
        let first = self.log.end();
        self.write_run(parts, first, now_ms)?;
        self.sync()?;
        self.prove_end()?;
        self.drop_cache(first).map_err(|error| JournalError::ReadBack { what: error.to_string() })?;
        let run = self.read_run(first).map_err(|what| JournalError::ReadBack { what })?;
        if run.parts != parts || run.sequence != self.last_sequence {
            return Err(JournalError::ReadBack { what: "other bytes than were written".into() });
        }
        self.snapshots.push(first);
        while !self.remove_old()? {}
        Ok(())
    }

    /// Begins a snapshot of everything up to the last record. Its parts may come later, after more records; nothing
    /// is synced here, and the caller writes something before the next [`Journal::sync`].
    ///
    /// # Errors
    /// As [`Journal::snapshot`].
    pub fn begin_snapshot(&mut self, now_ms: i64) -> Result<SnapshotRun, JournalError> {
        self.check_stopped()?;
        if self.active_is_used() {
            self.roll()?;
        }
        let first = self.log.end();
        push(&mut self.builder, Kind::SnapshotStart, self.last_sequence, &[]);
        let draft = self.draft(first, now_ms);
        self.write(&[draft])?;
        let hasher = crc32fast::Hasher::new();
        let ranges = vec![OffsetRange { from: first, to: self.log.end() }];
        Ok(SnapshotRun { first, sequence: self.last_sequence, parts: 0, bytes: 0, hasher, ranges })
    }

    /// Writes the next parts, with one call; they are synced with what follows.
    ///
    /// # Errors
    /// As [`Journal::snapshot`]: the snapshot is to be given up.
    pub fn write_parts(&mut self, run: &mut SnapshotRun, parts: &[Bytes], now_ms: i64) -> Result<(), JournalError> {
        self.check_stopped()?;
        let mut drafts = Vec::with_capacity(parts.len());
        let from = self.log.end();
        for (at, part) in (self.log.end().get()..).zip(parts) {
            push(&mut self.builder, Kind::SnapshotPart, self.last_sequence, part);
            let at = Offset::new(at).expect("the log never reaches the greatest offset");
            drafts.push(self.draft(at, now_ms));
        }
        self.write(&drafts)?;
        run.ranges.push(OffsetRange { from, to: self.log.end() });
        for part in parts {
            run.hasher.update(part);
            run.bytes += part.len() as u64;
        }
        run.parts += counted(parts.len());
        Ok(())
    }

    /// Writes the end of a snapshot, syncs it, and drops it from the page cache: what follows is
    /// [`Journal::read_back`].
    ///
    /// # Errors
    /// As [`Journal::snapshot`].
    pub fn end_snapshot(&mut self, run: SnapshotRun, now_ms: i64) -> Result<ReadBack, JournalError> {
        self.check_stopped()?;
        let SnapshotRun { first, sequence, parts, hasher, mut ranges, .. } = run;
        let from = self.log.end();
        let crc = hasher.finalize();
        let mut drafts: Vec<FrameDraft> = Vec::with_capacity(2);
        for copy in 0..2 {
            let mut summary = summary_of(parts, crc);
            summary.put_u8(copy);
            push(&mut self.builder, Kind::SnapshotEnd, self.last_sequence, &summary);
            drafts.push(self.draft(self.log.end().saturating_add(u64::from(copy)), now_ms));
        }
        self.write(&drafts)?;
        ranges.push(OffsetRange { from, to: self.log.end() });
        ranges.reverse();
        self.sync()?;
        self.prove_end()?;
        self.drop_cache(first).map_err(|error| JournalError::ReadBack { what: error.to_string() })?;
        let reader = RunReader::new(false);
        Ok(ReadBack { first, ranges, sequence, summary: (parts, crc), reader })
    }

    /// Reads a bounded part of a written snapshot back, and none of the records that stand between its parts; `true`: all of it is good, and it counts from now on.
    ///
    /// # Errors
    /// [`JournalError::ReadBack`]: it does not count; the snapshots before it still hold.
    pub fn read_back(&mut self, back: &mut ReadBack) -> Result<bool, JournalError> {
        let bad = |what: &str| JournalError::ReadBack { what: what.to_owned() };
        let Some(range) = back.ranges.last_mut() else { return Err(bad("it has no end")) };
        let mut walk = self.walk_between(range.from, range.to);
        let run = walk.feed(&mut back.reader).map_err(|what| bad(&what))?;
        range.from = walk.at();
        if range.is_empty() {
            back.ranges.pop();
        }
        let Some(run) = run else { return Ok(false) };
        if (run.sequence, run.summary) != (back.sequence, back.summary) {
            return Err(bad("other bytes than were written"));
        }
        self.snapshots.push(back.first);
        Ok(true)
    }

    /// Removes one segment before the two newest good snapshots; `true` if there was none any more.
    ///
    /// # Errors
    /// [`JournalError::Refused`]: it goes when the journal is opened next.
    pub fn remove_old(&mut self) -> Result<bool, JournalError> {
        let excess = self.snapshots.len().saturating_sub(2);
        self.snapshots.drain(..excess);
        if self.snapshots.len() < 2 {
            return Ok(true);
        }
        let start = self.snapshots[0];
        let next = self.log.segments().get(1).map(|segment| segment.base).filter(|base| *base <= start);
        let Some(next) = next else { return Ok(true) };
        self.log.raise_start(next).map_err(|error| self.note_append_error(error))?;
        Ok(false)
    }

    fn write_run(&mut self, parts: &[Bytes], first: Offset, now_ms: i64) -> Result<(), JournalError> {
        let mut hasher = crc32fast::Hasher::new();
        parts.iter().for_each(|part| hasher.update(part));
        let summary = summary_of(counted(parts.len()), hasher.finalize()).freeze();
        let entries = std::iter::once((Kind::SnapshotStart, &summary))
            .chain(parts.iter().map(|part| (Kind::SnapshotPart, part)))
            .chain(std::iter::once((Kind::SnapshotEnd, &summary)));
        let mut drafts = Vec::with_capacity(FRAMES_PER_WRITE);
        let mut at = first;
        for (kind, payload) in entries {
            push(&mut self.builder, kind, self.last_sequence, payload);
            drafts.push(self.draft(at, now_ms));
            at = at.saturating_add(1);
            if drafts.len() == FRAMES_PER_WRITE {
                self.write(&drafts)?;
                drafts.clear();
            }
        }
        self.write(&drafts).map(|_| ())
    }

    /// A mark frame proves that the end of a run was durable, so that damage to it is told from a torn tail.
    fn prove_end(&mut self) -> Result<(), JournalError> {
        self.log.write_mark(self.last_time_ms, self.epoch).map_err(|error| self.note_append_error(error))?;
        self.sync()
    }

    /// Makes the next reads from `from` on come from the device.
    fn drop_cache(&self, from: Offset) -> io::Result<()> {
        for segment in self.log.segments().iter().filter(|segment| segment.base >= from) {
            let path = self.environment.dir.join(format!("{base:020}.log", base = segment.base.get()));
            let file = self.environment.storage.open(&path, crate::log::storage::OpenMode::Read)?;
            // A file system without a page cache to drop answers `false`; its reads come from the device anyway.
            file.drop_cache()?;
        }
        Ok(())
    }
}
