//! The event ids of a topic as one of its partitions sees them.

use std::sync::Arc;

use super::EventIndex;
use crate::model::{Offset, OffsetRange, PartitionId};
use crate::partition::events::{EventBatch, EventDirectory, LoadBounds, Reservation, Reserved, StoredEvent};

/// See the module.
#[derive(Debug)]
pub(in crate::topics) struct PartitionEvents {
    pub(in crate::topics) index: Arc<EventIndex>,
    pub(in crate::topics) partition: PartitionId,
}

impl EventDirectory for PartitionEvents {
    fn is_active(&self) -> bool {
        self.index.is_active()
    }

    fn reserve(&self, batch: &EventBatch, at: Reservation) -> Reserved {
        self.index.reserve(self.partition, batch, at)
    }

    fn locate(&self, batch: &EventBatch, record_count: u32, written: Reservation) -> bool {
        self.index.locate(self.partition, batch, record_count, written)
    }

    fn truncate(&self, end: Offset) {
        self.index.truncate(self.partition, end);
    }

    fn forget(&self, range: OffsetRange) {
        self.index.forget(self.partition, range);
    }

    fn raise_start(&self, start: Offset) {
        self.index.raise_start(self.partition, start);
    }

    fn between(&self, range: OffsetRange, cursor: &mut u64) -> Vec<StoredEvent> {
        self.index.between(self.partition, range, cursor)
    }

    fn load_bounds(&self) -> Option<LoadBounds> {
        self.index.load_bounds()
    }

    fn adopt(&self, ids: Vec<StoredEvent>, start: Offset) {
        self.index.adopt(self.partition, ids, start);
    }
}
