//! Reading a journal back: the newest good snapshot, the records after it, and what damage means (rule G6).

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchLimits};

use super::{Journal, Kind};
use crate::limits;
use crate::log::{Frame, ReadError, ReadMode, ReadRange, RecoveryReport};
use crate::model::Offset;

/// A segment that begins with records.
const NO_SNAPSHOT: &str = "no snapshot begins here";
/// A segment that has just begun.
const NOTHING_THERE: &str = "nothing is here";
/// Allowance for the key of an entry.
const KEY_BYTES: usize = 64;

/// What a journal holds.
#[derive(Debug, Default)]
pub struct Replayed {
    /// Parts of the newest good snapshot.
    pub snapshot: Vec<Bytes>,
    /// Records after it, up to the first damage.
    pub records: Vec<Bytes>,
    /// Records that were lost, if any were: the state is older than what had been made durable.
    pub damage: Option<JournalDamage>,
    /// Newer snapshots that were bad and not needed: where, and why.
    pub bad_snapshots: Vec<(Offset, String)>,
    /// Good records behind the damage, which are left out.
    pub left_out: Vec<Bytes>,
    /// What opening the log found.
    pub report: RecoveryReport,
}

/// Damage in what must be replayed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} (from offset {first_bad}; records after number {last_good_sequence} are affected)")]
pub struct JournalDamage {
    /// What was found.
    pub what: String,
    /// Where it begins.
    pub first_bad: Offset,
    /// The last record before it.
    pub last_good_sequence: u64,
}

impl JournalDamage {
    pub(super) fn missing() -> Self {
        Self { what: "there are no files".into(), first_bad: Offset::ZERO, last_good_sequence: 0 }
    }
}

/// A snapshot that has been read whole and found good.
#[derive(Debug)]
pub(super) struct Run {
    pub(super) sequence: u64,
    /// Empty if they were not to be kept.
    pub(super) parts: Vec<Bytes>,
    /// Records that stand between its parts.
    records: Vec<Entry>,
    /// Parts and their CRC.
    pub(super) summary: (u32, u32),
    /// Offset after its end.
    pub(super) end: Offset,
}

#[derive(Debug)]
pub(super) struct Entry {
    offset: Offset,
    kind: Kind,
    sequence: u64,
    payload: Bytes,
}

/// Puts the entries of a snapshot together and proves them.
#[derive(Debug)]
pub(super) struct RunReader {
    keep: bool,
    started: Option<Started>,
}

#[derive(Debug)]
struct Started {
    run: Run,
    hasher: crc32fast::Hasher,
    /// What its start said; `None`: records may stand between its parts.
    told: Option<(u32, u32)>,
    /// Sequence of the last record seen.
    last: u64,
}

impl RunReader {
    /// A reader that keeps what it reads, or only looks.
    pub(super) fn new(keep: bool) -> Self {
        Self { keep, started: None }
    }

    /// Takes the next entry; the run, once its end has come.
    fn take(&mut self, entry: Entry) -> Result<Option<Run>, String> {
        let Some(started) = &mut self.started else {
            if entry.kind != Kind::SnapshotStart {
                return Err(NO_SNAPSHOT.into());
            }
            let told = match entry.payload.is_empty() {
                true => None,
                false => Some(summary(&entry.payload).ok_or("a bad summary at its start")?),
            };
            let last = entry.sequence;
            let run = Run { sequence: last, parts: vec![], records: vec![], summary: (0, 0), end: entry.offset };
            self.started = Some(Started { run, hasher: crc32fast::Hasher::new(), told, last });
            return Ok(None);
        };
        let run = &mut started.run;
        if !self.keep {
            // Records between are not looked at here.
            started.last = started.last.max(entry.sequence);
        }
        match entry.kind {
            Kind::SnapshotPart if entry.sequence == started.last => {
                started.hasher.update(&entry.payload);
                run.summary.0 += 1;
                if self.keep {
                    run.parts.push(entry.payload);
                }
                Ok(None)
            }
            Kind::Record if started.told.is_none() && entry.sequence == started.last + 1 => {
                started.last = entry.sequence;
                if self.keep {
                    run.records.push(entry);
                }
                Ok(None)
            }
            Kind::SnapshotEnd if entry.sequence == started.last => {
                run.summary.1 = std::mem::take(&mut started.hasher).finalize();
                let ends = end_summary(&entry.payload).map(|(summary, _)| summary);
                if ends != Some(run.summary) || started.told.is_some_and(|told| told != run.summary) {
                    return Err("its parts are not those that it had".into());
                }
                run.end = entry.offset.saturating_add(1);
                Ok(self.started.take().map(|started| started.run))
            }
            _ => Err("it was not finished".into()),
        }
    }
}

/// What reading on found.
#[derive(Debug)]
enum Step {
    Entry(Entry),
    /// Nothing readable from here to `next`.
    Hole {
        from: Offset,
        next: Offset,
        what: String,
    },
    End,
}

/// Walks over entries and holes.
pub(super) struct Walk<'a> {
    journal: &'a Journal,
    at: Offset,
    end: Offset,
    ready: std::collections::VecDeque<Entry>,
}

impl Walk<'_> {
    /// Where the next read begins.
    pub(super) fn at(&self) -> Offset {
        self.at
    }

    /// Reads once and hands what was read to `reader`; the run, if it ended there.
    pub(super) fn feed(&mut self, reader: &mut RunReader) -> Result<Option<Run>, String> {
        loop {
            match self.next() {
                Step::Entry(entry) => match reader.take(entry)? {
                    None if self.ready.is_empty() => return Ok(None),
                    None => {}
                    run => return Ok(run),
                },
                Step::Hole { what, .. } => return Err(what),
                Step::End => return Ok(None),
            }
        }
    }

    fn next(&mut self) -> Step {
        loop {
            if let Some(entry) = self.ready.pop_front() {
                return Step::Entry(entry);
            }
            if self.at >= self.end {
                return Step::End;
            }
            let range = ReadRange { from: self.at, until: self.end, max_bytes: limits::READ_CHUNK_BYTES };
            let from = self.at;
            match self.journal.reader.read(range, ReadMode::Blocking) {
                Ok(run) if run.next > self.at => {
                    self.at = run.next;
                    for frame in &run.frames {
                        if let Err(what) = self.decode(frame) {
                            self.ready.clear();
                            return Step::Hole { from: frame.base_offset, next: run.next, what };
                        }
                    }
                }
                Ok(_) => return Step::End,
                Err(error) => {
                    let next = match &error {
                        ReadError::Corrupt(corruption) => corruption.next_good,
                        _ => None,
                    };
                    let next = next.filter(|next| *next > from).unwrap_or(self.end);
                    self.at = next;
                    return Step::Hole { from, next, what: error.to_string() };
                }
            }
        }
    }

    fn decode(&mut self, frame: &Frame) -> Result<(), String> {
        let limits = BatchLimits {
            record_bytes: limits::JOURNAL_RECORD_BYTES + KEY_BYTES,
            batch_bytes: limits::JOURNAL_RECORD_BYTES + limits::BATCH_FRAMING_BYTES,
            ..BatchLimits::DEFAULT
        };
        batch::check(&frame.batch, &limits, false).map_err(|error| error.to_string())?;
        let records = batch::records(&frame.batch, &limits).map_err(|error| error.to_string())?;
        let mut offset = frame.base_offset;
        for record in records {
            let record = record.map_err(|error| error.to_string())?;
            let key = record.key.unwrap_or_default();
            let kind = key.first().copied().and_then(Kind::from_byte);
            let sequence = key.get(1..).and_then(|bytes| <[u8; 8]>::try_from(bytes).ok()).map(u64::from_be_bytes);
            let (Some(kind), Some(sequence)) = (kind, sequence) else {
                return Err(format!("an entry of unknown kind at offset {offset}"));
            };
            self.ready.push_back(Entry { offset, kind, sequence, payload: record.value.unwrap_or_default() });
            offset = offset.saturating_add(1);
        }
        Ok(())
    }
}

/// Where replay stands.
struct Progress {
    sequence: u64,
    /// A hole that may have held records: unknown until something good comes after it.
    hole: Option<(Offset, String)>,
    /// A snapshot's run that has begun, up to its end: a hole inside it holds no record.
    run_until: Offset,
    /// The second copy of an end that has not come yet.
    owed_end: Option<Bytes>,
}

impl Journal {
    fn walk(&self, from: Offset) -> Walk<'_> {
        self.walk_between(from, self.reader.bounds().end)
    }

    pub(super) fn walk_between(&self, from: Offset, end: Offset) -> Walk<'_> {
        Walk { journal: self, at: from, end, ready: std::collections::VecDeque::new() }
    }

    /// Reads the snapshot that begins at `first`.
    pub(super) fn read_run(&self, first: Offset) -> Result<Run, String> {
        let mut walk = self.walk(first);
        let mut reader = RunReader::new(true);
        if walk.at >= walk.end {
            return Err(NOTHING_THERE.into());
        }
        while walk.at < walk.end {
            if let Some(run) = walk.feed(&mut reader)? {
                return Ok(run);
            }
        }
        Err("it has no end".into())
    }

    /// Finds the newest good snapshot and the records after it.
    pub(super) fn replay(&mut self, report: RecoveryReport) -> Replayed {
        let mut replayed = Replayed { report, ..Replayed::default() };
        let start = self.reader.bounds().start;
        let mut from = start;
        let mut bases: Vec<Offset> = self.log.segments().iter().map(|segment| segment.base.max(start)).collect();
        bases.dedup();
        let mut newest: Option<Run> = None;
        for base in bases.into_iter().rev() {
            match self.read_run(base) {
                Ok(run) => {
                    self.snapshots.insert(0, base);
                    newest.get_or_insert(run);
                    if self.snapshots.len() == 2 {
                        break;
                    }
                }
                Err(what) if newest.is_none() => replayed.bad_snapshots.push((base, what)),
                Err(_) => {}
            }
        }
        let mut between = Vec::new();
        if let Some(run) = newest {
            self.last_sequence = run.sequence;
            replayed.snapshot = run.parts;
            between = run.records;
            // The second copy of its end may follow; it is nothing new, but tells that a hole there is no record.
            from = Offset::new(run.end.get() - 1).expect("a run has frames");
        } else if start > Offset::ZERO {
            let what = "no snapshot is good, and the records before the oldest are gone".to_owned();
            let damage = JournalDamage { what, first_bad: start, last_good_sequence: 0 };
            replayed.damage = Some(damage);
        }
        self.replay_records(from, between, &mut replayed);
        // Segments that begin with records, because they were full, are no bad snapshots.
        replayed.bad_snapshots.retain(|(_, what)| what != NO_SNAPSHOT && what != NOTHING_THERE);
        replayed
    }

    fn replay_records(&mut self, from: Offset, between: Vec<Entry>, replayed: &mut Replayed) {
        let mut progress = Progress { sequence: self.last_sequence, hole: None, run_until: from, owed_end: None };
        for entry in between {
            progress.take(entry, replayed);
        }
        let mut greatest = progress.sequence;
        let mut walk = self.walk(from);
        loop {
            match walk.next() {
                Step::End => break,
                Step::Hole { from, next, what } => {
                    if next > progress.run_until && progress.hole.is_none() {
                        progress.hole = Some((from, what));
                    }
                }
                Step::Entry(entry) => {
                    greatest = greatest.max(entry.sequence);
                    progress.take(entry, replayed);
                }
            }
        }
        if let (Some((first_bad, what)), None) = (progress.hole, &replayed.damage) {
            let last_good_sequence = progress.sequence;
            replayed.damage = Some(JournalDamage { what, first_bad, last_good_sequence });
        }
        self.owed_end = progress.owed_end;
        // Whatever was dropped, its numbers are not given again.
        self.last_sequence = greatest;
    }
}

impl Progress {
    fn take(&mut self, entry: Entry, replayed: &mut Replayed) {
        // The number of the last record before this entry.
        let before = match entry.kind {
            Kind::Record => entry.sequence.saturating_sub(1),
            _ => entry.sequence,
        };
        if replayed.damage.is_none() && before != self.sequence {
            let (first_bad, what) =
                self.hole.take().unwrap_or_else(|| (entry.offset, "records are missing".to_owned()));
            let last_good_sequence = self.sequence;
            replayed.damage = Some(JournalDamage { what, first_bad, last_good_sequence });
        }
        // Something good that continues the count shows that the hole before it held no record.
        self.hole = None;
        self.owed_end = None;
        match entry.kind {
            Kind::Record if replayed.damage.is_none() => {
                self.sequence = entry.sequence;
                replayed.records.push(entry.payload);
            }
            Kind::Record => replayed.left_out.push(entry.payload),
            Kind::SnapshotStart => {
                if let Some((parts, _)) = summary(&entry.payload) {
                    self.run_until = entry.offset.saturating_add(u64::from(parts) + 2);
                }
            }
            Kind::SnapshotPart => {}
            Kind::SnapshotEnd => {
                if let Some(((parts, crc), Some(0))) = end_summary(&entry.payload) {
                    self.run_until = entry.offset.saturating_add(2);
                    let copy = [&parts.to_be_bytes()[..], &crc.to_be_bytes(), &[1]].concat();
                    self.owed_end = Some(copy.into());
                }
            }
        }
    }
}

fn summary(payload: &[u8]) -> Option<(u32, u32)> {
    let bytes: [u8; 8] = payload.try_into().ok()?;
    let value = u64::from_be_bytes(bytes);
    Some(((value >> 32) as u32, value as u32))
}

/// The summary of an end, and which copy it is if there are two.
fn end_summary(payload: &[u8]) -> Option<((u32, u32), Option<u8>)> {
    match payload.len() {
        9 => Some((summary(&payload[..8])?, Some(payload[8]))),
        _ => Some((summary(payload)?, None)),
    }
}
