//! Frames that were read for a group and are about to be delivered.
//!
//! Invariants: frames of a partition are in order and do not overlap; what all groups keep stays near the budget
//! ([`CACHE_BYTES`]): each partition of a group lets go of its oldest frames first, and keeps at least the newest.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;
use sawlog_proto::batch::{self, BatchError, BatchRecord, Records};

use super::STORED;
use crate::limits;
use crate::model::{Offset, PartitionEpoch, Source};
use crate::partition::Frame;

/// Bytes that all groups keep together.
pub(in crate::coordinator) const CACHE_BYTES: usize = limits::DELIVERY_CACHE_BYTES;
/// Bytes that a partition of a group keeps.
const PARTITION_BYTES: usize = limits::DELIVERY_CACHE_PARTITION_BYTES;
/// Frames that were read again, for retries, and are kept for the next retry: neighbours fail together.
const REREAD_FRAMES: usize = 4;
/// Frames of the dead letters of a partition that are kept: the entries of a lane lie side by side.
const COPY_FRAMES: usize = 2;

/// A frame, opened when somebody looks into it.
#[derive(Debug)]
pub(in crate::coordinator) struct Kept {
    /// As it stands in the log.
    pub(in crate::coordinator) frame: Frame,
    opened: OnceLock<Option<Opened>>,
}

/// The records of a frame and where each begins.
#[derive(Debug)]
pub(in crate::coordinator) struct Opened {
    records: Records,
    places: Vec<u32>,
}

impl Opened {
    /// Opens a frame; each record is shown to `look` on the way. `look` is not told more once one cannot be read.
    pub(in crate::coordinator) fn open(
        frame: &Frame,
        mut look: impl FnMut(&batch::RecordView<'_>),
    ) -> Result<Self, BatchError> {
        let records = batch::records(&frame.batch, &STORED)?;
        let mut places = Vec::with_capacity(frame.record_count as usize);
        {
            let mut views = records.views();
            loop {
                let left = views.bytes_left();
                let Some(view) = views.next() else { break };
                look(&view?);
                places.push(u32::try_from(left).expect("a batch has less than 4 GiB"));
            }
        }
        Ok(Self { records, places })
    }
}

impl Kept {
    /// A frame that nobody has looked into.
    pub(in crate::coordinator) fn new(frame: Frame) -> Arc<Self> {
        Arc::new(Self { frame, opened: OnceLock::new() })
    }

    /// A frame that was opened.
    pub(in crate::coordinator) fn with(frame: Frame, opened: Opened) -> Arc<Self> {
        Arc::new(Self { frame, opened: OnceLock::from(Some(opened)) })
    }

    /// A record of it; `None` if it is not in the frame or cannot be decoded.
    pub(in crate::coordinator) fn record(&self, offset: Offset) -> Option<BatchRecord> {
        let index = offset.get().checked_sub(self.frame.base_offset.get())?;
        let opened = self.opened.get_or_init(|| Opened::open(&self.frame, |_| ()).ok()).as_ref()?;
        let place = *opened.places.get(usize::try_from(index).ok()?)?;
        opened.records.at(u32::try_from(index).ok()?, place as usize).ok()
    }

    /// Whether `offset` is one of its records.
    pub(in crate::coordinator) fn holds(&self, offset: Offset) -> bool {
        self.frame.base_offset <= offset && offset < self.frame.end_offset()
    }

    fn bytes(&self) -> usize {
        let opened = self.opened.get().and_then(Option::as_ref);
        let unpacked = opened.map_or(0, |opened| opened.records.body_bytes() + 4 * opened.places.len());
        // Without compression records and batch are the same bytes; the double count errs on the safe side.
        self.frame.batch.len() + unpacked + size_of::<Self>()
    }
}

/// Bytes kept by all groups.
#[derive(Debug, Default)]
pub(in crate::coordinator) struct CacheBudget {
    used: AtomicUsize,
}

/// What one group keeps.
#[derive(Debug)]
pub(in crate::coordinator) struct Cache {
    partitions: Mutex<HashMap<Source, Partition>>,
    copies: Mutex<HashMap<Source, Copies>>,
    budget: Arc<CacheBudget>,
}

/// Frames of the partition that holds the dead letters of one, read while it had this epoch.
#[derive(Debug)]
struct Copies {
    epoch: PartitionEpoch,
    frames: VecDeque<Arc<Kept>>,
}

#[derive(Debug, Default)]
struct Partition {
    frames: VecDeque<(Arc<Kept>, usize)>,
    bytes: usize,
    reread: VecDeque<Arc<Kept>>,
}

impl Partition {
    fn pop(&mut self, budget: &CacheBudget) {
        if let Some((_, bytes)) = self.frames.pop_front() {
            self.bytes -= bytes;
            budget.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    fn clear(&mut self, budget: &CacheBudget) {
        self.frames.clear();
        budget.used.fetch_sub(std::mem::take(&mut self.bytes), Ordering::Relaxed);
        self.reread.clear();
    }
}

impl Cache {
    pub(in crate::coordinator) fn new(budget: Arc<CacheBudget>) -> Self {
        Self { partitions: Mutex::default(), copies: Mutex::default(), budget }
    }

    /// Keeps frames that were read ahead. A step back, as after a reset, forgets what was kept before.
    pub(in crate::coordinator) fn keep(&self, source: Source, frames: impl IntoIterator<Item = Arc<Kept>>) {
        let mut partitions = self.partitions.lock();
        let partition = partitions.entry(source).or_default();
        for kept in frames {
            let end = partition.frames.back().map(|(last, _)| last.frame.end_offset());
            let last = partition.frames.back().map(|(last, _)| (last.frame.base_offset, last.frame.epoch));
            if last == Some((kept.frame.base_offset, kept.frame.epoch)) {
                // Read again from its middle on, by a replay that takes it in parts.
                continue;
            }
            if end.is_some_and(|end| kept.frame.base_offset < end) {
                partition.clear(&self.budget);
            }
            let bytes = kept.bytes();
            partition.frames.push_back((kept, bytes));
            partition.bytes += bytes;
            self.budget.used.fetch_add(bytes, Ordering::Relaxed);
        }
        let over = |partition: &Partition| {
            partition.bytes > PARTITION_BYTES || self.budget.used.load(Ordering::Relaxed) > CACHE_BYTES
        };
        while partition.frames.len() > 1 && over(partition) {
            partition.pop(&self.budget);
        }
    }

    /// Keeps a frame that was read again.
    pub(in crate::coordinator) fn keep_reread(&self, source: Source, kept: Arc<Kept>) {
        let mut partitions = self.partitions.lock();
        let reread = &mut partitions.entry(source).or_default().reread;
        while reread.len() >= REREAD_FRAMES {
            reread.pop_front();
        }
        reread.push_back(kept);
    }

    /// The frame of a record.
    pub(in crate::coordinator) fn find(&self, source: Source, offset: Offset) -> Option<Arc<Kept>> {
        let partitions = self.partitions.lock();
        let partition = partitions.get(&source)?;
        let at = partition.frames.partition_point(|(kept, _)| kept.frame.end_offset() <= offset);
        let ahead = partition.frames.get(at).map(|(kept, _)| kept);
        let mut known = ahead.into_iter().chain(&partition.reread);
        known.find(|kept| kept.holds(offset)).cloned()
    }

    /// Frames kept that follow each other from the one of `from` on, up to `to`.
    pub(in crate::coordinator) fn run(&self, source: Source, from: Offset, to: Offset) -> Vec<Frame> {
        let partitions = self.partitions.lock();
        let Some(partition) = partitions.get(&source) else { return Vec::new() };
        let at = partition.frames.partition_point(|(kept, _)| kept.frame.end_offset() <= from);
        let mut run: Vec<Frame> = Vec::new();
        for (kept, _) in partition.frames.range(at..) {
            let follows = match run.last() {
                Some(last) => last.end_offset() == kept.frame.base_offset,
                None => kept.holds(from),
            };
            if !follows || kept.frame.base_offset >= to {
                break;
            }
            run.push(kept.frame.clone());
        }
        run
    }

    /// The frame of a copy among the dead letters of a partition, whose log has this epoch now.
    pub(in crate::coordinator) fn find_copy(
        &self,
        source: Source,
        epoch: PartitionEpoch,
        offset: Offset,
    ) -> Option<Arc<Kept>> {
        let copies = self.copies.lock();
        let known = copies.get(&source).filter(|known| known.epoch == epoch)?;
        known.frames.iter().find(|kept| kept.holds(offset)).cloned()
    }

    /// Keeps a frame of the dead letters of a partition, whose log had this epoch before it was read.
    pub(in crate::coordinator) fn keep_copy(&self, source: Source, epoch: PartitionEpoch, kept: Arc<Kept>) {
        let mut copies = self.copies.lock();
        let known = copies.entry(source).or_insert_with(|| Copies { epoch, frames: VecDeque::new() });
        if known.epoch != epoch {
            // Cut or reopened since: what was there may be another's now.
            *known = Copies { epoch, frames: VecDeque::new() };
        }
        known.frames.truncate(COPY_FRAMES - 1);
        known.frames.push_front(kept);
    }

    /// Lets go of frames that end at or before `offset`.
    pub(in crate::coordinator) fn pass(&self, source: Source, offset: Offset) {
        let mut partitions = self.partitions.lock();
        let Some(partition) = partitions.get_mut(&source) else { return };
        while partition.frames.front().is_some_and(|(kept, _)| kept.frame.end_offset() <= offset) {
            partition.pop(&self.budget);
        }
    }

    /// Forgets a partition: it was cut, or it is the group's no more.
    pub(in crate::coordinator) fn forget(&self, source: Source) {
        if let Some(mut partition) = self.partitions.lock().remove(&source) {
            partition.clear(&self.budget);
        }
        self.copies.lock().remove(&source);
    }
}

impl Drop for Cache {
    fn drop(&mut self) {
        let budget = Arc::clone(&self.budget);
        self.partitions.get_mut().values_mut().for_each(|partition| partition.clear(&budget));
    }
}

#[cfg(test)]
mod tests;
