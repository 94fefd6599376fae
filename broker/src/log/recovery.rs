//! Opens a log: finds its segments, scans what is above the recovery point, tells torn from corrupt.
//!
//! Owns rules D6, D7 and C3, and what a start may change on disk: cut a torn tail, make good a segment's header,
//! rebuild indexes, remove what lies below the log start or was never finished, begin a new segment. Must not know the
//! metadata log: what it finds goes out in a [`RecoveryReport`]. `judge.rs` is the decision alone, `scan.rs` the pass
//! over one segment, `clean.rs` the short way after a clean stop.
//!
//! Invariants:
//! - the order of D6: sync, drop the page cache, scan, cut or quarantine, sync; nothing is served before;
//! - nothing below the proven end is ever cut, nothing at or above it that follows a bad frame is kept;
//! - wherever it is cut short, the next run comes to the same end.

mod clean;
mod judge;
mod layout;
mod pass;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::environment::LogEnvironment;
use super::error::OpenError;
use super::format::{FileKind, SEGMENT_HEADER_BYTES, file_name};
use super::local_log::{CreateError, Salts, SegmentStart, create_segment};
use super::segment::{Indexes, Segment};
use super::segment_header::SegmentHeader;
use crate::model::{Offset, OffsetRange, PartitionEpoch};

pub(crate) use judge::with_range;
use layout::Layout;
use pass::Pass;

/// What is known of a log before it is opened; none of it is evidence that bytes are good.
#[derive(Debug, Clone, Default)]
pub struct RecoveryHint {
    /// First offset kept, from the metadata log (rule D9).
    pub log_start: Offset,
    /// Everything below had been synced, from the checkpoint or the clean marker.
    pub proven_end: Offset,
    /// The clean-shutdown marker says that the log ends here and is whole.
    pub clean_end: Option<Offset>,
    /// Ranges known to be damaged, from the metadata log.
    pub quarantined: Vec<OffsetRange>,
    /// Epoch for frames that recovery itself may have to append behind a damaged end.
    pub next_epoch: PartitionEpoch,
}

/// What opening a log found and did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RecoveryReport {
    /// End of the log.
    pub end: Offset,
    /// Epoch of its last frame, if it has one.
    pub last_epoch: Option<PartitionEpoch>,
    /// Append time of its last frame, 0 if it has none.
    pub last_append_time_ms: i64,
    /// Bytes read and verified.
    pub scanned_bytes: u64,
    /// Bytes of a torn tail that were cut off.
    pub dropped_bytes: u64,
    /// Ranges found damaged now, to be kept in the metadata log.
    pub quarantined: Vec<OffsetRange>,
    /// The last sync of recovery failed: the log is fenced at its proven end (rule D6).
    pub fenced: Option<String>,
    /// The clean-shutdown marker was right: nothing above it had to be scanned.
    pub clean: bool,
    /// A new segment was begun, in the epoch of the hint, because the end before it was damaged or missing.
    pub new_epoch: bool,
    /// The first sync failed, maybe of an error before the start: the scan decided (rule D6).
    pub first_sync_error: Option<String>,
    /// The system did not drop the page cache: what was verified may not be what the device has.
    pub cache_kept: bool,
}

/// A log that is ready to be written.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) segments: Vec<Arc<Segment>>,
    pub(crate) active: Arc<Segment>,
    pub(crate) header: SegmentHeader,
    pub(crate) start: Offset,
    /// The end, all of it synced; the proven end if the log is fenced.
    pub(crate) durable_end: Offset,
    pub(crate) end_position: u64,
    pub(crate) first_append_time_ms: Option<i64>,
    pub(crate) last_epoch: PartitionEpoch,
    pub(crate) last_append_time_ms: i64,
    /// The durable end that the last frame carries.
    pub(crate) proven_end: Offset,
    pub(crate) marked: bool,
    pub(crate) indexed_bytes: u64,
    pub(crate) damaged: Vec<OffsetRange>,
    pub(crate) report: RecoveryReport,
}

/// Names the call that failed.
fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> OpenError {
    let path = path.to_owned();
    move |source| OpenError::Io { action, path, source }
}

fn create_failed(path: PathBuf) -> impl FnOnce(CreateError) -> OpenError {
    move |error| match error {
        CreateError::Write(source) => OpenError::Io { action: "creating", path, source },
        CreateError::Sync(source) => OpenError::Io { action: "syncing", path, source },
    }
}

/// Makes a log with its first segment; all directories on the way to it are synced (rule D7).
pub(crate) fn create(
    environment: &Arc<LogEnvironment>,
    salts: &mut Salts,
    epoch: PartitionEpoch,
) -> Result<Opened, OpenError> {
    let dir = &environment.dir;
    environment.storage.create_dir_all(dir).map_err(failed("creating", dir))?;
    if !Layout::find(environment)?.bases.is_empty() {
        return Err(OpenError::Foreign { path: dir.clone(), what: "there are segments already".to_owned() });
    }
    let opened = begin(environment, salts, Vec::new(), Offset::ZERO, epoch, 0)?;
    for parent in dir.ancestors().skip(1) {
        environment.storage.sync_dir(parent).map_err(failed("syncing", parent))?;
    }
    Ok(opened)
}

/// Opens a log.
pub(crate) fn open(
    environment: &Arc<LogEnvironment>,
    salts: &mut Salts,
    hint: &RecoveryHint,
) -> Result<Opened, OpenError> {
    let dir = &environment.dir;
    environment.storage.create_dir_all(dir).map_err(failed("creating", dir))?;
    let mut layout = Layout::find(environment)?;
    if let Some(end) = hint.clean_end
        && let Some(opened) = clean::open(environment, &layout, hint, end)?
    {
        return Ok(opened);
    }
    let mut hint = hint.clone();
    hint.proven_end = hint.proven_end.max(hint.clean_end.unwrap_or_default());
    layout.remove_unfinished(environment)?;
    loop {
        // One round for each creation cut short: at most as many as there are segments.
        match recover(environment, salts, &hint, &layout)? {
            Recovered::Opened(opened) => return Ok(*opened),
            Recovered::Unfinished(base) => layout.remove(environment, base)?,
        }
    }
}

/// What a round of recovery came to.
enum Recovered {
    Opened(Box<Opened>),
    /// The last segment is a creation cut short (rule D7).
    Unfinished(Offset),
}

fn recover(
    environment: &Arc<LogEnvironment>,
    salts: &mut Salts,
    hint: &RecoveryHint,
    layout: &Layout,
) -> Result<Recovered, OpenError> {
    let mut report = RecoveryReport::default();
    let mut lost = Vec::new();
    let Some(last_base) = layout.bases.last().copied() else {
        return without_segments(environment, salts, hint, report).map(Box::new).map(Recovered::Opened);
    };
    if layout.bases[0] > hint.log_start {
        lost.push(OffsetRange { from: hint.log_start, to: layout.bases[0] });
    }
    if let Err(error) = environment.sync_dir() {
        // It may tell of an error before the start: the scan decides (rule D6).
        report.first_sync_error = Some(error.to_string());
    }
    let mut sealed = Vec::new();
    for (base, end) in layout.sealed() {
        sealed.push(recover_sealed(environment, hint, base, end, &mut lost, &mut report)?);
    }
    let mut pass = Pass::begin(environment, last_base, &mut report)?;
    if pass.header.is_none() && hint.proven_end <= last_base {
        return Ok(Recovered::Unfinished(last_base));
    }
    pass.scan(environment, hint.proven_end, None, &mut report)?;
    let proven = if environment.sabotage().truncates_at_first_bad_byte() {
        Offset::ZERO
    } else {
        pass.proven.max(hint.proven_end).max(last_base)
    };
    let verdict = judge::judge(pass.start, &pass.runs, proven);
    let new_segment = !verdict.lost.is_empty() || verdict.end < hint.log_start;
    lost.extend(&verdict.lost);
    pass.keep_below(verdict.end);
    pass.finish(environment, &verdict, new_segment, &mut report)?;
    sync_again(environment, &mut report);
    let opened = if new_segment {
        sealed.push(Segment::sealed(environment.clone(), last_base, pass.seal(environment, verdict.end)));
        let base = verdict.end.max(hint.log_start);
        let mut opened = begin(environment, salts, sealed, base, hint.next_epoch, pass.last_append_time_ms())?;
        opened.last_epoch = opened.last_epoch.max(pass.last_epoch());
        report.new_epoch = true;
        opened
    } else {
        activate(environment, sealed, pass, proven, &report)?
    };
    Ok(Recovered::Opened(Box::new(complete(environment, opened, hint, lost, report)?)))
}

/// The end of D6, as far as the directory is concerned: what the first sync failed to do must be done now.
fn sync_again(environment: &LogEnvironment, report: &mut RecoveryReport) {
    let Some(first) = report.first_sync_error.clone() else { return };
    if let Err(error) = environment.sync_dir() {
        report.fenced.get_or_insert_with(|| format!("the last sync of recovery failed: {error}"));
    }
    if report.cache_kept {
        // What was verified may be pages that never reached the device.
        report.fenced.get_or_insert_with(|| format!("a sync failed ({first}) and the page cache was not dropped"));
    }
}

/// D6 for a segment that another one follows: only what lies above the recovery point is scanned, or what its index
/// does not vouch for. Nothing of it is ever cut: the next segment's base proves that it had been durable.
fn recover_sealed(
    environment: &Arc<LogEnvironment>,
    hint: &RecoveryHint,
    base: Offset,
    end: Offset,
    lost: &mut Vec<OffsetRange>,
    report: &mut RecoveryReport,
) -> Result<Arc<Segment>, OpenError> {
    let below_start = end <= hint.log_start;
    let indexed = layout::indexed_facts(environment, base, end);
    if below_start || (end <= hint.proven_end && indexed.is_some()) {
        let facts = match indexed {
            Some(facts) => facts,
            None => layout::bare_facts(environment, base, end)?,
        };
        return Ok(Segment::sealed(environment.clone(), base, facts));
    }
    let mut pass = Pass::begin(environment, base, report)?;
    pass.scan(environment, hint.proven_end, Some(end), report)?;
    let verdict = judge::judge(pass.start, &pass.runs, end);
    lost.extend(&verdict.lost);
    pass.keep_below(end);
    pass.finish(environment, &verdict, true, report)?;
    let facts = pass.seal(environment, end);
    Ok(Segment::sealed(environment.clone(), base, facts))
}

/// No segment is left: what had been durable is lost as a whole.
fn without_segments(
    environment: &Arc<LogEnvironment>,
    salts: &mut Salts,
    hint: &RecoveryHint,
    mut report: RecoveryReport,
) -> Result<Opened, OpenError> {
    let base = hint.proven_end.max(hint.log_start);
    let lost = OffsetRange { from: hint.log_start, to: base };
    report.new_epoch = base > Offset::ZERO;
    let opened = begin(environment, salts, Vec::new(), base, hint.next_epoch, 0)?;
    for parent in environment.dir.ancestors().skip(1) {
        environment.storage.sync_dir(parent).map_err(failed("syncing", parent))?;
    }
    complete(environment, opened, hint, vec![lost], report)
}

/// Begins a new segment behind those given.
fn begin(
    environment: &Arc<LogEnvironment>,
    salts: &mut Salts,
    mut segments: Vec<Arc<Segment>>,
    base: Offset,
    epoch: PartitionEpoch,
    floor_time_ms: i64,
) -> Result<Opened, OpenError> {
    let start = SegmentStart { base, epoch, floor_time_ms };
    let path = environment.path(&file_name(base, FileKind::Log));
    let (header, _) = create_segment(environment, salts, start).map_err(create_failed(path))?;
    let active = Segment::active(environment.clone(), base, Indexes::empty());
    segments.push(active.clone());
    Ok(Opened {
        segments,
        active,
        header,
        start: Offset::ZERO,
        durable_end: base,
        end_position: SEGMENT_HEADER_BYTES as u64,
        first_append_time_ms: None,
        last_epoch: epoch,
        last_append_time_ms: floor_time_ms,
        proven_end: base,
        marked: false,
        indexed_bytes: SEGMENT_HEADER_BYTES as u64,
        damaged: Vec::new(),
        report: RecoveryReport::default(),
    })
}

/// The last segment goes on as the active one; fenced at the proven end if its last sync failed.
fn activate(
    environment: &Arc<LogEnvironment>,
    mut segments: Vec<Arc<Segment>>,
    mut pass: Pass,
    proven: Offset,
    report: &RecoveryReport,
) -> Result<Opened, OpenError> {
    let (mut end, mut end_position) = (pass.end(), pass.end_position());
    if report.fenced.is_some() && proven < end {
        end_position = pass.position_of(proven).map_err(failed("reading", &pass.path))?;
        end = proven;
        pass.truncate_indexes(end);
    }
    let header = pass.header.expect("a segment that goes on has a header");
    let (last_epoch, last_append_time_ms) = (pass.last_epoch(), pass.last_append_time_ms());
    let proven_end = pass.last().map_or(header.base, |last| last.durable_end).max(header.base);
    let marked = pass.last().is_some_and(|last| last.mark);
    let first_append_time_ms = pass.first_append_time_ms(environment).map_err(failed("reading", &pass.path))?;
    let indexed_bytes = pass.indexed_bytes;
    let active = Segment::active(environment.clone(), header.base, pass.into_indexes());
    segments.push(active.clone());
    Ok(Opened {
        segments,
        active,
        header,
        start: Offset::ZERO,
        durable_end: end,
        end_position,
        first_append_time_ms,
        last_epoch,
        last_append_time_ms,
        proven_end,
        marked,
        indexed_bytes,
        damaged: Vec::new(),
        report: RecoveryReport::default(),
    })
}

/// Clips what was found to the log as it now is, and removes what lies below its start.
fn complete(
    environment: &Arc<LogEnvironment>,
    mut opened: Opened,
    hint: &RecoveryHint,
    lost: Vec<OffsetRange>,
    mut report: RecoveryReport,
) -> Result<Opened, OpenError> {
    opened.start = hint.log_start;
    let keep = opened.segments.partition_point(|s| s.facts().is_some_and(|facts| facts.end <= hint.log_start));
    for segment in opened.segments.drain(..keep) {
        layout::remove(environment, segment.base())?;
    }
    let clip = |range: OffsetRange| OffsetRange { from: range.from.max(hint.log_start), to: range.to };
    for range in hint.quarantined.iter().copied().map(clip) {
        opened.damaged = with_range(&opened.damaged, range);
    }
    for range in lost.into_iter().map(clip).filter(|range| !range.is_empty()) {
        for new in judge::without(range, &hint.quarantined) {
            report.quarantined.push(new);
        }
        opened.damaged = with_range(&opened.damaged, range);
    }
    report.end = opened.durable_end;
    report.last_epoch = (opened.durable_end > Offset::ZERO).then_some(opened.last_epoch);
    report.last_append_time_ms = opened.last_append_time_ms;
    opened.report = report;
    Ok(opened)
}

#[cfg(test)]
mod tests;
