//! Mode offset: frames of the log in order, opened record by record or handed out whole. Pure.

use std::collections::VecDeque;
use std::sync::Arc;

use sawlog_proto::v1;

use super::record::{ConsumedRecord, Source};
use crate::error::Error;
use crate::reader::{BatchItem, OpenBatch, ReadBatch, checked_batch};
use crate::types::unsigned;

/// Why a record of a frame is not simply handled (rules AK-8, DL-15).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mark {
    /// It has an entry: it is passed.
    Passed,
    /// Its key is dead: it is parked, unless the key lives again.
    Blocked,
    /// The group's filter leaves it out.
    Filtered,
}

/// A record of a frame.
#[derive(Debug)]
pub(super) struct FrameItem {
    pub(super) record: ConsumedRecord,
    pub(super) mark: Option<Mark>,
}

/// A frame that is opened as it is taken.
#[derive(Debug)]
pub(super) struct OpenFrame {
    pub(super) source: u32,
    /// Epoch of the assignment.
    pub(super) epoch: u64,
    /// First offset after it.
    pub(super) reached: u64,
    /// Records and bytes of it that were not handed out: what it still takes of the credit.
    pub(super) records: u64,
    pub(super) bytes: u64,
    shared: Arc<Source>,
    replay: Option<Arc<str>>,
    content: Content,
    begun: bool,
}

#[derive(Debug)]
enum Content {
    Batches { left: VecDeque<ReadBatch>, open: Option<OpenBatch>, marks: Vec<(u64, Mark)> },
    Records { left: std::vec::IntoIter<v1::Delivery>, from: u64 },
}

impl OpenFrame {
    /// Of stored batches; what lies before `received` came already.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DataLoss`] if a batch fails its checksum.
    pub(super) fn of_batches(
        source: u32,
        shared: &Arc<Source>,
        wire: v1::RecordBatches,
        received: u64,
    ) -> Result<Self, Error> {
        let from = unsigned(wire.from_offset).max(received);
        let reached = unsigned(wire.reached_offset);
        // The broker counts offsets, those that are missing or left out too.
        let records = reached.saturating_sub(unsigned(wire.from_offset));
        let mut bytes = 0;
        let mut left = VecDeque::with_capacity(wire.batches.len());
        for stored in wire.batches {
            bytes += stored.batch.len() as u64;
            let batch = checked_batch(shared.partition, stored, from, reached)?;
            left.extend(batch);
        }
        let mark = |marked: v1::MarkedOffset| {
            let mark = match marked.why? {
                v1::marked_offset::Why::Entry(_) => Mark::Passed,
                v1::marked_offset::Why::BlockedBy(_) => Mark::Blocked,
                v1::marked_offset::Why::Filtered(_) => Mark::Filtered,
            };
            Some((unsigned(marked.offset), mark))
        };
        let marks = wire.marks.into_iter().filter_map(mark).collect();
        let content = Content::Batches { left, open: None, marks };
        let (epoch, replay) = (wire.assignment_epoch, replay_of(wire.replay_id));
        let shared = Arc::clone(shared);
        Ok(Self { source, epoch, reached, records, bytes, shared, replay, content, begun: false })
    }

    /// Of plain records; what lies before `received` came already.
    pub(super) fn of_records(
        source: u32,
        shared: &Arc<Source>,
        epoch: u64,
        wire: Vec<v1::Delivery>,
        reached: u64,
        received: u64,
    ) -> Self {
        let size = |delivery: &v1::Delivery| {
            let Some(record) = &delivery.record else { return 0 };
            let headers: usize = record.headers.iter().map(|header| header.key.len() + header.value.len()).sum();
            let parts = [&record.key, &record.value].into_iter().flatten().map(|part| part.len()).sum::<usize>();
            (parts + headers) as u64
        };
        let (records, bytes) = (wire.len() as u64, wire.iter().map(size).sum());
        let last = wire.last().map_or(0, |delivery| unsigned(delivery.offset) + 1);
        let content = Content::Records { left: wire.into_iter(), from: received };
        let reached = reached.max(last);
        let shared = Arc::clone(shared);
        Self { source, epoch, reached, records, bytes, shared, replay: None, content, begun: false }
    }

    /// The same, as part of a replay.
    pub(super) fn of_replay(self, replay: Option<Arc<str>>) -> Self {
        Self { replay, ..self }
    }

    /// Nothing of it was taken, and all of it is simply handled.
    pub(super) fn is_whole(&self) -> bool {
        !self.begun
            && matches!(&self.content, Content::Batches { marks, left, .. } if marks.is_empty() && !left.is_empty())
    }

    /// The next record; what the filter leaves out is passed.
    pub(super) fn next(&mut self) -> Option<Result<FrameItem, Error>> {
        self.begun = true;
        loop {
            match &mut self.content {
                Content::Records { left, from } => {
                    let delivery = left.next()?;
                    if unsigned(delivery.offset) < *from {
                        continue;
                    }
                    let mark = match (&delivery.entry, delivery.blocked_by.is_empty()) {
                        (Some(_), _) => Some(Mark::Passed),
                        (None, false) => Some(Mark::Blocked),
                        (None, true) => None,
                    };
                    let record = ConsumedRecord::from_wire(&self.shared, 0, delivery, self.replay.as_ref());
                    return Some(Ok(FrameItem { record, mark }));
                }
                Content::Batches { left, open, marks } => {
                    let batch = match open {
                        Some(batch) => batch,
                        None => match OpenBatch::new(left.pop_front()?) {
                            Ok(batch) => open.insert(batch),
                            Err(error) => return Some(Err(error)),
                        },
                    };
                    let record = match batch.next_record() {
                        Some(Ok(record)) => record,
                        Some(Err(error)) => return Some(Err(error)),
                        None => {
                            *open = None;
                            continue;
                        }
                    };
                    let mark = marks.binary_search_by_key(&record.offset, |(offset, _)| *offset);
                    let mark = mark.ok().map(|at| marks[at].1.clone());
                    if mark == Some(Mark::Filtered) {
                        continue;
                    }
                    let record = ConsumedRecord::of_log(&self.shared, record).of_replay(self.replay.as_ref());
                    return Some(Ok(FrameItem { record, mark }));
                }
            }
        }
    }

    /// One of its records was handed out; returns the bytes of the credit that go with it, an even share.
    pub(super) fn handed_out(&mut self) -> u64 {
        let share = self.bytes / self.records.max(1);
        self.records = self.records.saturating_sub(1);
        self.bytes -= share;
        share
    }

    /// All of it, for readers in a hurry.
    pub(super) fn into_batches(self) -> VecDeque<ConsumedBatch> {
        let Content::Batches { left, .. } = self.content else { return VecDeque::new() };
        let (number, assignment_epoch, replay) = (self.source, self.epoch, self.replay);
        let of = |batch| ConsumedBatch {
            number,
            assignment_epoch,
            source: Arc::clone(&self.shared),
            replay: replay.clone(),
            batch,
        };
        left.into_iter().map(of).collect()
    }
}

/// A replay's id as it came; empty: none.
pub(super) fn replay_of(id: String) -> Option<Arc<str>> {
    (!id.is_empty()).then(|| id.into())
}

/// Mode offset: a batch as it was stored, its checksum right, its records not yet unpacked. Commit behind it with
/// [`super::Consumer::commit_batch`].
#[derive(Debug, Clone)]
pub struct ConsumedBatch {
    pub(super) number: u32,
    pub(super) assignment_epoch: u64,
    source: Arc<Source>,
    replay: Option<Arc<str>>,
    batch: ReadBatch,
}

impl ConsumedBatch {
    /// Topic and partition.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Name of the topic.
    pub fn topic(&self) -> &str {
        &self.source.topic
    }

    /// Partition, from 0.
    pub fn partition(&self) -> u32 {
        self.source.partition
    }

    /// Id of the replay that it is part of (rule RP-2).
    pub fn replay_id(&self) -> Option<&str> {
        self.replay.as_deref()
    }

    /// Epoch of the partition when it was appended.
    pub fn epoch(&self) -> u32 {
        self.batch.epoch()
    }

    /// Time of the append in milliseconds since 1970.
    pub fn append_time_ms(&self) -> i64 {
        self.batch.append_time_ms()
    }

    /// Offset of the first record to handle.
    pub fn first_offset(&self) -> u64 {
        self.batch.first_offset()
    }

    /// First offset after it: what to commit when it is done.
    pub fn next_offset(&self) -> u64 {
        self.first_offset() + self.batch.len() as u64
    }

    /// Number of records to handle, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a batch has at least one record")]
    pub fn len(&self) -> usize {
        self.batch.len()
    }

    /// Bytes of the batch as it came.
    pub fn bytes(&self) -> usize {
        self.batch.bytes()
    }

    /// Calls `each` with every record in order; returns their number. Nothing is allocated per record.
    ///
    /// # Errors
    /// [`crate::ErrorKind::DataLoss`] if the batch, or a record of it, cannot be unpacked.
    pub fn for_each(&self, each: impl FnMut(BatchItem<'_>)) -> Result<usize, Error> {
        self.batch.for_each(each)
    }
}
