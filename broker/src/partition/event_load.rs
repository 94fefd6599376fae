//! Event ids of a partition between its log and the directory of its topic (rule PR-8): found at the start, kept in
//! sidecars, and waited for.
//!
//! At the start the newest segments are looked through until there are enough ids, each by its sidecar as far as that
//! counts, else by its records. Sidecars are hints (rule C4): what they say is compared with the log's epochs, and
//! records that are lost to damage have no ids.
//!
//! It must not know of topics or requests.

use std::sync::Arc;

use sawlog_proto::batch::{self, BatchLimits};

use super::append::{Call, CallBody};
use super::commit::{Completion, Ticket, ticket};
use super::environment::PartitionSpec;
use super::events::{EventDirectory, LoadBounds, event_of};
use super::local::Partition;
use super::open::Opened;
use super::store::LogStore;
use super::{AckLevel, AppendFailure, Frame, Offset, OffsetRange};
use crate::log::sidecar::{self, Block, StoredEvent};
use crate::log::{LocalLog, LogEnvironment, ReadError, ReadMode, ReadRange, SegmentInfo};

/// Bytes read at once when ids are looked for.
const LOAD_BYTES: usize = 1 << 20;

/// What the leader keeps of sidecars.
#[derive(Debug)]
pub(super) struct Sidecars {
    directory: Option<Arc<dyn EventDirectory>>,
    /// Base of the segment whose sidecar was written last.
    base: Offset,
    /// That sidecar is complete up to here.
    end: Offset,
    /// Where the directory goes on looking.
    cursor: u64,
}

impl Sidecars {
    /// Adds what is new since the last call to the sidecar of the active segment. A failure is logged and no more.
    pub(super) fn write(&mut self, log: &LocalLog, environment: &LogEnvironment) {
        let Some(directory) = self.directory.as_ref().filter(|directory| directory.is_active()) else { return };
        let segments = log.segments();
        let Some(active) = segments.iter().find(|segment| segment.active) else { return };
        let end = log.end();
        if self.base != active.base {
            (self.base, self.end) = (active.base, active.base);
        }
        // After a cut the end may lie behind what was written: that block counts no more.
        if end <= self.end {
            return;
        }
        let Ok(Some(epoch)) = log.reader().epoch_before(end) else { return };
        let range = OffsetRange { from: self.end, to: end };
        let events = directory.between(range, &mut self.cursor);
        let block = Block { from: range.from, end, epoch, events };
        let (storage, dir) = (&*environment.storage, &environment.dir);
        match sidecar::append(storage, dir, &environment.identity, self.base, &block) {
            Ok(()) => self.end = end,
            Err(error) => {
                tracing::warn!(%error, dir = %dir.display(), "no sidecar of event ids");
                // What follows a part of a block is never read: the file is begun anew.
                let removed = sidecar::remove(storage, dir, self.base);
                (self.end, self.cursor) = (if removed.is_ok() { self.base } else { end }, 0);
            }
        }
        let is_segment = |base| segments.iter().any(|segment| segment.base == base);
        if let Err(error) = sidecar::remove_orphans(storage, dir, is_segment) {
            tracing::warn!(%error, dir = %dir.display(), "sidecars of removed segments stay");
        }
    }

    /// Records below `start` are gone.
    pub(super) fn raise_start(&self, start: Offset) {
        if let Some(directory) = &self.directory {
            directory.raise_start(start);
        }
    }
}

/// Finds the ids in a log that was just opened, and gives them to the directory.
pub(super) fn load_events(
    opened: &Opened,
    spec: &PartitionSpec,
    directory: Option<&Arc<dyn EventDirectory>>,
) -> Result<Sidecars, ReadError> {
    let mut sidecars = Sidecars { directory: directory.cloned(), base: Offset::ZERO, end: Offset::ZERO, cursor: 0 };
    let Some(directory) = directory else { return Ok(sidecars) };
    let (log, reader) = (&opened.log, opened.log.reader());
    let start = reader.bounds().start;
    let Some(bounds) = directory.load_bounds() else {
        directory.adopt(Vec::new(), start);
        return Ok(sidecars);
    };
    let mut found = Vec::new();
    for segment in log.segments().iter().rev() {
        if found.len() >= bounds.max_ids || (!segment.active && is_past(&bounds, segment)) {
            break;
        }
        let mut known = load_sidecar(log, &spec.log, segment, &mut found);
        let first = found.len();
        scan(log, OffsetRange { from: known.max(start), to: segment.end }, &log.segments(), &mut found)?;
        known = mend(log, &spec.log, segment, known, &found[first..]);
        if segment.active {
            (sidecars.base, sidecars.end) = (segment.base, known);
        }
    }
    let lost = |offset| opened.quarantined.iter().any(|range| range.contains(offset));
    found.retain(|event: &StoredEvent| event.offset >= start && !lost(event.offset));
    directory.adopt(found, start);
    Ok(sidecars)
}

fn is_past(bounds: &LoadBounds, segment: &SegmentInfo) -> bool {
    bounds.oldest_ms.is_some_and(|oldest| segment.last_append_time_ms < oldest)
}

/// Takes from a segment's sidecar what counts; returns the offset up to which that is. One to which nothing can be
/// added any more is removed.
fn load_sidecar(
    log: &LocalLog,
    environment: &LogEnvironment,
    segment: &SegmentInfo,
    found: &mut Vec<StoredEvent>,
) -> Offset {
    let (storage, dir, identity) = (&*environment.storage, &environment.dir, &environment.identity);
    let (reader, mut known) = (log.reader(), segment.base);
    let Ok(read) = sidecar::read(storage, dir, identity, segment.base) else { return known };
    let mut sound = !read.damaged;
    for block in read.blocks {
        let fits = block.from == known && block.end <= segment.end;
        if !fits || reader.epoch_before(block.end).ok() != Some(Some(block.epoch)) {
            sound = false;
            break;
        }
        known = block.end;
        found.extend(block.events);
    }
    if !sound {
        tracing::info!(dir = %dir.display(), base = %segment.base, "sidecar of event ids is made anew from the log");
        found.retain(|event| event.offset < segment.base || event.offset >= segment.end);
        known = segment.base;
        if let Err(error) = sidecar::remove(storage, dir, segment.base) {
            tracing::warn!(%error, dir = %dir.display(), "a damaged sidecar stays");
        }
    }
    known
}

/// Adds what was found in the log to the segment's sidecar, so that the next start need not look again; returns the
/// offset up to which it is complete.
fn mend(
    log: &LocalLog,
    environment: &LogEnvironment,
    segment: &SegmentInfo,
    known: Offset,
    events: &[StoredEvent],
) -> Offset {
    let Ok(Some(epoch)) = log.reader().epoch_before(segment.end) else { return known };
    if known >= segment.end {
        return known;
    }
    let block = Block { from: known, end: segment.end, epoch, events: events.to_vec() };
    let (storage, dir) = (&*environment.storage, &environment.dir);
    match sidecar::append(storage, dir, &environment.identity, segment.base, &block) {
        Ok(()) => segment.end,
        Err(error) => {
            tracing::warn!(%error, dir = %dir.display(), "no sidecar of event ids");
            // A block that is there in part is found out by the next start.
            let removed = sidecar::remove(storage, dir, segment.base);
            if removed.is_ok() { segment.base } else { segment.end }
        }
    }
}

/// Reads the records of a range for their ids. Damaged ranges have none.
fn scan(
    log: &LocalLog,
    range: OffsetRange,
    segments: &[SegmentInfo],
    found: &mut Vec<StoredEvent>,
) -> Result<(), ReadError> {
    let (reader, mut from) = (log.reader(), range.from);
    while from < range.to {
        let run = match reader.read(ReadRange { from, until: range.to, max_bytes: LOAD_BYTES }, ReadMode::Blocking) {
            Ok(run) => run,
            Err(ReadError::Corrupt(corruption)) => {
                // Without a good frame behind it, the damage ends with its segment at the latest.
                let base = segments.iter().map(|segment| segment.base).find(|base| *base > from);
                from = corruption.next_good.filter(|next| *next > from).or(base).unwrap_or(range.to);
                continue;
            }
            Err(error) => return Err(error),
        };
        run.frames.iter().for_each(|frame| ids_of(frame, found));
        if run.next <= from {
            break;
        }
        from = run.next;
    }
    Ok(())
}

fn ids_of(frame: &Frame, found: &mut Vec<StoredEvent>) {
    // What cannot be decoded has no ids: it was written while repeats were not found out.
    let Ok(records) = batch::records(&frame.batch, &BatchLimits::DEFAULT) else { return };
    for view in records.views() {
        let Ok(view) = view else { return };
        let Some(event) = event_of(&view) else { continue };
        found.push(StoredEvent {
            id: event.id,
            content: event.content,
            offset: frame.base_offset.saturating_add(u64::from(event.index)),
            epoch: frame.epoch,
            append_time_ms: frame.append_time_ms,
        });
    }
}

impl Partition {
    /// Resolves once everything below `end` that is in the log has reached this level. What is no longer in the log
    /// is not waited for.
    pub fn reached(&self, end: Offset, level: AckLevel) -> Ticket<Result<(), AppendFailure>> {
        let (answer, ticket) = ticket();
        let run: CallBody<LogStore> = Box::new(move |core, _| {
            if core.log.closed {
                return answer.give(Err(AppendFailure::ShuttingDown));
            }
            let (durable_end, asked) = (core.log.log.durable_end(), end);
            let end = end.min(core.log.log.end());
            match &core.fenced {
                Some(cause) if asked > durable_end => {
                    let cause = cause.clone();
                    answer.give(Err(AppendFailure::Fenced { durable_end, cause, outcome_unknown: true }));
                }
                None if level == AckLevel::Durable && end > durable_end => {
                    core.waiting.push(end, Completion::Barrier(answer));
                }
                _ => answer.give(Ok(())),
            }
        });
        self.group.call(Call { quiet: false, blocks: false, run });
        ticket
    }

    /// The records of a range are lost: their event ids are free again.
    pub(super) fn forget_events(&self, range: OffsetRange) {
        if let Some(events) = &self.environment.events {
            events.forget(range);
        }
    }
}
