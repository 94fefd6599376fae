//! Checkpoints: what is known to be synced, of all logs, so that recovery need not scan it (rule S4). A hint, never
//! evidence that bytes are good (rule C4).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::journals::{ENTRIES, GROUPS};
use super::open::METADATA;
use crate::coordinator::journals::GroupJournals;
use crate::log::data_dir::DataDir;
use crate::log::{Checkpoint, CheckpointEntry, CheckpointFile};
use crate::metrics::Metrics;
use crate::model::Offset;
use crate::partition::{PartitionLog, PartitionRef};
use crate::topics::Topics;
use crate::topics::factory::KnownEnds;

/// Writes checkpoints, each with all that is known.
#[derive(Debug)]
pub(super) struct Checkpoints {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Gone once the directory was let go.
    file: Option<CheckpointFile>,
    known: HashMap<PartitionRef, Offset>,
    written: bool,
}

impl Checkpoints {
    /// The checkpoints of a directory, and what the newest good one says. Without one: nothing.
    pub(super) fn open(data_dir: &DataDir) -> (CheckpointFile, HashMap<PartitionRef, KnownEnds>) {
        let (file, newest) = CheckpointFile::load(Arc::clone(data_dir.storage()), data_dir.uuid());
        let entries = newest.iter().flat_map(Checkpoint::entries);
        let ends = entries.map(|entry| {
            let reference = PartitionRef { topic: entry.topic, partition: entry.partition };
            (reference, KnownEnds { proven_end: entry.proven_end, clean_end: None })
        });
        (file, ends.collect())
    }

    pub(super) fn new(file: CheckpointFile, ends: &HashMap<PartitionRef, KnownEnds>) -> Self {
        let known = ends.iter().map(|(reference, ends)| (*reference, ends.proven_end)).collect();
        Self { inner: Mutex::new(Inner { file: Some(file), known, written: false }) }
    }

    /// Whether this run has written none yet: the clean marker is gone, and nothing else says what it said.
    pub(super) fn is_first(&self) -> bool {
        !self.inner.lock().written
    }

    /// Writes a checkpoint. Blocks.
    pub(super) fn write(&self, topics: &Topics, journals: &GroupJournals, metrics: &Metrics) {
        let mut inner = self.inner.lock();
        if inner.file.is_none() {
            return;
        }
        let mut known = HashMap::with_capacity(inner.known.len());
        let metadata_end = topics.metadata().change_blocking(|writer| Ok(writer.durable_end()));
        if let Ok(end) = metadata_end {
            known.insert(METADATA, end);
        }
        let (groups, entries) = (journals.groups(), journals.entries());
        let ends =
            [(GROUPS, groups.stopped(), groups.durable_end()), (ENTRIES, entries.stopped(), entries.durable_end())];
        for (reference, stopped, end) in ends {
            // Of one that has stopped, what was known stays true.
            let before = inner.known.get(&reference).copied();
            let end = if stopped.is_some() { before } else { Some(end) };
            known.extend(end.map(|end| (reference, end)));
        }
        for topic in topics.all() {
            for slot in topic.slots() {
                let reference = slot.reference();
                let unchecked = slot.take_unchecked_bytes() > 0;
                let end = match slot.partition() {
                    Some(partition) if unchecked || partition.unchecked_bytes() > 0 => {
                        Some(partition.checkpoint().proven_end)
                    }
                    Some(partition) => Some(partition.status().durable_end),
                    // Not open yet, or not at all: what was known stays true.
                    None => inner.known.get(&reference).copied(),
                };
                if let Some(end) = end {
                    known.insert(reference, end);
                }
            }
        }
        let entries = known.iter().map(|(reference, end)| CheckpointEntry {
            topic: reference.topic,
            partition: reference.partition,
            proven_end: *end,
        });
        let entries = entries.collect();
        let Some(file) = &mut inner.file else { return };
        if let Err(error) = file.save(entries) {
            tracing::warn!(%error, "no checkpoint; the one before still holds, and the next start scans more");
            return;
        }
        inner.written = true;
        inner.known = known;
        metrics.checkpoints.inc();
    }

    /// Lets go of the directory.
    pub(super) fn release(&self) {
        self.inner.lock().file = None;
    }
}
