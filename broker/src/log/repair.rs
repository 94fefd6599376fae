//! Cuts a stopped broker's log back to its last good state: the one tool that writes to a damaged log, and only when
//! it is told to.
//!
//! For the metadata log above all, which makes the broker read-only when it is damaged. A partition's log needs no
//! repair to start: its damaged ranges are quarantined and what follows stays readable (rule C3); cutting it gives up
//! what follows. [`plan`] only reads; [`apply`] does what the plan says and is safe to be cut short.

use std::io;
use std::path::{Path, PathBuf};

use super::format::{self, FileKind, SEGMENT_HEADER_BYTES};
use super::storage::{OpenMode, Storage};
use super::verify::{Dumped, Finding, Grade, SegmentReport, dump, verify_log};
use crate::model::{FilePosition, Offset};

/// Frames that a repair would drop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dropped {
    /// The log file, relative to the data directory.
    pub file: PathBuf,
    /// First byte dropped.
    pub position: FilePosition,
    /// Bytes dropped.
    pub bytes: u64,
    /// Good frames among them.
    pub good_frames: u64,
    /// Records of those frames.
    pub good_records: u64,
}

/// What a repair would do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RepairPlan {
    /// The log's directory, relative to the data directory.
    pub dir: PathBuf,
    /// Why: the first finding that is more than rebuildable; `None` if there is nothing to repair.
    pub cause: Option<Finding>,
    /// End of the log after the repair.
    pub end: Offset,
    /// What is dropped, in order of offset.
    pub dropped: Vec<Dropped>,
}

/// Finds out what a repair of this log would do, and changes nothing.
///
/// # Errors
/// The log could not be read.
pub fn plan(storage: &dyn Storage, dir: &Path) -> io::Result<RepairPlan> {
    let report = verify_log(storage, dir)?;
    let order = |finding: &&Finding| (finding.file.clone(), finding.position);
    let cause = report.findings.iter().filter(|finding| finding.grade > Grade::Rebuildable).min_by_key(order).cloned();
    let mut plan = RepairPlan { dir: dir.to_path_buf(), cause, end: report.end, dropped: Vec::new() };
    let Some(cause) = &plan.cause else { return Ok(plan) };
    let Some(first) = report.segments.iter().position(|segment| segment.file == cause.file) else { return Ok(plan) };
    let cut = cause.position.unwrap_or_default();
    plan.end = end_before(storage, &report.segments, first, cut)?;
    for (at, segment) in report.segments.iter().enumerate().skip(first) {
        let position = if at == first { cut } else { FilePosition(0) };
        plan.dropped.push(dropped(storage, segment, position)?);
    }
    Ok(plan)
}

/// Offset after the last good frame before the cut.
fn end_before(
    storage: &dyn Storage,
    segments: &[SegmentReport],
    first: usize,
    cut: FilePosition,
) -> io::Result<Offset> {
    let mut end = match first.checked_sub(1) {
        Some(before) => segments[before].end,
        None => segments[first].base,
    };
    if cut.0 >= SEGMENT_HEADER_BYTES as u64 {
        end = end.max(segments[first].base);
        dump(storage, &segments[first].file, &mut |position, dumped| {
            if let Dumped::Frame { header, .. } = dumped
                && position < cut
            {
                end = header.end_offset();
            }
            position < cut
        })?;
    }
    Ok(end)
}

/// What of a segment lies at or behind the cut.
fn dropped(storage: &dyn Storage, segment: &SegmentReport, cut: FilePosition) -> io::Result<Dropped> {
    let bytes = segment.bytes.saturating_sub(cut.0);
    let mut found = Dropped { file: segment.file.clone(), position: cut, bytes, good_frames: 0, good_records: 0 };
    let dumped = dump(storage, &segment.file, &mut |position, dumped| {
        if let Dumped::Frame { header, .. } = dumped
            && position >= cut
            && !header.mark
        {
            found.good_frames += 1;
            found.good_records += u64::from(header.record_count);
        }
        true
    });
    match dumped {
        // A segment in which nothing can be told from anything has no good frames.
        Err(error) if error.kind() != io::ErrorKind::InvalidData => Err(error),
        _ => Ok(found),
    }
}

/// Does what a plan says, durably, and removes the hints that know of a longer log (checkpoints, the clean marker).
///
/// # Errors
/// A file could not be changed or synced: plan and apply again.
pub fn apply(storage: &dyn Storage, plan: &RepairPlan) -> io::Result<()> {
    if plan.dropped.is_empty() {
        return Ok(());
    }
    // First the hints: a log that is cut while one of them still knows its old end would count as damaged.
    let hint = |name: &str| name == "CLEAN" || name.starts_with("checkpoint");
    remove_all(storage, Path::new(""), hint)?;
    // Then from the end, so that wherever this is cut short, the same plan is made again.
    for dropped in plan.dropped.iter().rev() {
        let name = dropped.file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let base = format::parse_file_name(name).map(|(base, _)| base).ok_or(io::ErrorKind::InvalidInput)?;
        let index =
            |name: &str| format::parse_file_name(name).is_some_and(|(of, kind)| of == base && kind != FileKind::Log);
        remove_all(storage, &plan.dir, index)?;
        if dropped.position.0 >= SEGMENT_HEADER_BYTES as u64 {
            let file = storage.open(&dropped.file, OpenMode::ReadWrite)?;
            file.set_len(dropped.position.0)?;
            file.sync_all()?;
        } else {
            remove_all(storage, &plan.dir, |found| found == name)?;
        }
    }
    Ok(())
}

/// Removes the files of a directory whose names are chosen, durably.
fn remove_all(storage: &dyn Storage, dir: &Path, chosen: impl Fn(&str) -> bool) -> io::Result<()> {
    let mut any = false;
    for entry in storage.list(dir)? {
        if !entry.is_dir && chosen(&entry.name) {
            storage.remove_file(&dir.join(entry.name))?;
            any = true;
        }
    }
    if any { storage.sync_dir(dir) } else { Ok(()) }
}

#[cfg(test)]
#[path = "repair_tests.rs"]
mod tests;
