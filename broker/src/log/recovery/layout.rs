//! The files of a log's directory: which segments there are, and what is left over of something unfinished.

use std::sync::Arc;

use super::failed;
use crate::log::environment::LogEnvironment;
use crate::log::error::OpenError;
use crate::log::format::{FileKind, INDEX_HEADER_BYTES, TIME_INDEX_MAGIC, file_name, is_unfinished, parse_file_name};
use crate::log::index_file::IndexHeader;
use crate::log::local_log::remove_segment;
use crate::log::segment::SealedFacts;
use crate::log::storage::OpenMode;
use crate::model::Offset;

/// What a log's directory holds.
#[derive(Debug, Default)]
pub(super) struct Layout {
    /// Base offsets of the log files, in order.
    pub(super) bases: Vec<Offset>,
    /// Files that were still being written, and indexes without a log file.
    leftovers: Vec<String>,
}

impl Layout {
    pub(super) fn find(environment: &LogEnvironment) -> Result<Self, OpenError> {
        let dir = &environment.dir;
        let mut layout = Self::default();
        let mut indexes = Vec::new();
        for entry in environment.storage.list(dir).map_err(failed("listing", dir))? {
            match parse_file_name(&entry.name) {
                _ if entry.is_dir => {}
                Some((base, FileKind::Log)) => layout.bases.push(base),
                Some((base, _)) => indexes.push((base, entry.name)),
                None if is_unfinished(&entry.name) => layout.leftovers.push(entry.name),
                None => {}
            }
        }
        layout.bases.sort_unstable();
        let alone = indexes.into_iter().filter(|(base, _)| layout.bases.binary_search(base).is_err());
        let alone: Vec<String> = alone.map(|(_, name)| name).collect();
        layout.leftovers.extend(alone);
        Ok(layout)
    }

    /// Each segment that another one follows: its base, and where the next begins.
    pub(super) fn sealed(&self) -> impl Iterator<Item = (Offset, Offset)> + '_ {
        self.bases.windows(2).map(|pair| (pair[0], pair[1]))
    }

    pub(super) fn remove_unfinished(&mut self, environment: &LogEnvironment) -> Result<(), OpenError> {
        for name in std::mem::take(&mut self.leftovers) {
            let path = environment.path(&name);
            environment.storage.remove_file(&path).map_err(failed("removing", &path))?;
        }
        Ok(())
    }

    /// Removes the last segment, whose creation was cut short.
    pub(super) fn remove(&mut self, environment: &LogEnvironment, base: Offset) -> Result<(), OpenError> {
        remove(environment, base)?;
        self.bases.retain(|other| *other != base);
        environment.sync_dir().map_err(failed("syncing", &environment.dir))
    }
}

/// Removes the files of a segment.
pub(super) fn remove(environment: &LogEnvironment, base: Offset) -> Result<(), OpenError> {
    let path = environment.path(&file_name(base, FileKind::Log));
    remove_segment(environment, base).map_err(failed("removing", &path))
}

/// What the time index of a sealed segment says of it, if its header is good and says that no frame is missing.
pub(super) fn indexed_facts(environment: &Arc<LogEnvironment>, base: Offset, end: Offset) -> Option<SealedFacts> {
    let path = environment.path(&file_name(base, FileKind::TimeIndex));
    let file = environment.storage.open(&path, OpenMode::Read).ok()?;
    let mut bytes = [0; INDEX_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0).ok()?;
    let header = IndexHeader::decode(&bytes[..read], TIME_INDEX_MAGIC, &environment.context(0)).ok()?;
    let coverage = header.coverage;
    (coverage.base == base && coverage.end == end).then_some(SealedFacts {
        end,
        bytes: coverage.log_end.0,
        last_append_time_ms: Some(coverage.last_append_time_ms),
    })
}

/// What can be said of a sealed segment without its index.
pub(super) fn bare_facts(
    environment: &Arc<LogEnvironment>,
    base: Offset,
    end: Offset,
) -> Result<SealedFacts, OpenError> {
    let path = environment.path(&file_name(base, FileKind::Log));
    let file = environment.storage.open(&path, OpenMode::Read).map_err(failed("opening", &path))?;
    let bytes = file.len().map_err(failed("measuring", &path))?;
    Ok(SealedFacts { end, bytes, last_append_time_ms: None })
}
