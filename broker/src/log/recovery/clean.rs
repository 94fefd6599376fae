//! The short way to open a log after a clean stop: the marker bounds the scan, the frames still have to agree.

use std::sync::Arc;

use super::layout::{self, Layout};
use super::pass::Pass;
use super::{Opened, RecoveryHint, RecoveryReport, activate, complete, failed, judge};
use crate::log::environment::LogEnvironment;
use crate::log::error::OpenError;
use crate::log::format::{FileKind, file_name};
use crate::log::segment::Segment;
use crate::log::storage::OpenMode;
use crate::model::Offset;

/// Opens a log that the clean-shutdown marker says to end at `end`. `None` if anything does not agree: then the long
/// way finds out what is the matter.
pub(super) fn open(
    environment: &Arc<LogEnvironment>,
    layout: &Layout,
    hint: &RecoveryHint,
    end: Offset,
) -> Result<Option<Opened>, OpenError> {
    let Some(last_base) = layout.bases.last().copied().filter(|_| layout.bases[0] <= hint.log_start) else {
        return Ok(None);
    };
    let mut report = RecoveryReport { clean: true, ..RecoveryReport::default() };
    let mut sealed = Vec::new();
    for (base, end) in layout.sealed() {
        let Some(facts) = layout::indexed_facts(environment, base, end) else { return Ok(None) };
        sealed.push(Segment::sealed(environment.clone(), base, facts));
    }
    let path = environment.path(&file_name(last_base, FileKind::Log));
    let file = environment.storage.open(&path, OpenMode::Read).map_err(failed("opening", &path))?;
    let mut pass = Pass::over(environment, last_base, path, file)?;
    pass.scan(environment, end, None, &mut report)?;
    let verdict = judge::judge(pass.start, &pass.runs, end);
    let whole = pass.is_whole() && verdict.lost.is_empty() && verdict.end == end && end >= hint.log_start;
    if !whole || pass.end_position() != pass.file_bytes() || pass.end() != end {
        return Ok(None);
    }
    let opened = activate(environment, sealed, pass, end, &report)?;
    complete(environment, opened, hint, Vec::new(), report).map(Some)
}
