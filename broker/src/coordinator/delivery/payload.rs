//! The records of a delivery: out of what was read ahead, else read again; of entries, out of their copies.
//!
//! A record that is not to be had any more is no error of the delivery: the machine is told that it will not come
//! (rules RE-4, RE-5, DL-4), and the delivery goes without it.

use sawlog_proto::batch::BatchRecord;

use super::super::frames::{DeliveredRecord, EditedRecord, SessionFrame};
use super::super::group::Group;
use super::cache::Kept;
use crate::dead_letter::{detached, headers};
use crate::group::effect::{Delivered, Delivery, EntryDelivery, Mark};
use crate::group::entry::EntryState;
use crate::group::event::Event;
use crate::group::record::GapReason;
use crate::group::replay::ReplayMark;
use crate::limits;
use crate::model::{AssignmentEpoch, Offset, OffsetRange, PartitionEpoch, Source};
use crate::partition::{Frame, PartitionLog, PartitionReadError, ReadError};

/// Why a record is not there.
#[derive(Debug)]
pub(in crate::coordinator) enum Missing {
    /// It will not come back.
    Gone(GapReason),
    /// It cannot be read now.
    Later(String),
}

/// A delivery with its records, and those that cannot be read now.
#[derive(Debug, Default)]
pub(in crate::coordinator) struct Filled {
    pub(in crate::coordinator) frames: Vec<SessionFrame>,
    pub(in crate::coordinator) later: Vec<Delivery>,
}

/// A record found, with what its frame says of it.
struct Found {
    record: BatchRecord,
    epoch: PartitionEpoch,
    append_ms: i64,
}

impl Found {
    /// The same with bytes of its own.
    fn detached(self) -> Self {
        Self { record: detached(self.record), ..self }
    }
}

/// Fills a delivery of single records.
///
/// Records that come again lie anywhere, each in another frame: they are read in the order of the logs, and have bytes of
/// their own, so that a delivery does not hold a frame for each of them.
pub(in crate::coordinator) async fn fill(group: &Group, delivered: &Delivered) -> Filled {
    let mut filled = Filled::default();
    let mut page = Page::new(delivered.source, delivered.epoch, delivered.replay);
    let mut lookup = Lookup { group, source: delivered.source, at: None };
    if delivered.records.iter().all(|delivery| delivery.more.is_none()) {
        for delivery in &delivered.records {
            let found = lookup.find(delivery).await;
            page.take(group, delivery, found, &mut filled);
        }
    } else {
        let place = |delivery: &Delivery| entry_of(delivery).map_or((0, delivery.offset), |entry| (1, entry.copy));
        let mut order: Vec<usize> = (0..delivered.records.len()).collect();
        order.sort_unstable_by_key(|index| place(&delivered.records[*index]));
        let mut all: Vec<Option<Result<Found, Missing>>> = order.iter().map(|_| None).collect();
        for index in order {
            all[index] = Some(lookup.find(&delivered.records[index]).await);
        }
        for (delivery, found) in delivered.records.iter().zip(all) {
            page.take(group, delivery, found.expect("each place was looked at"), &mut filled);
        }
    }
    page.flush(&mut filled.frames);
    filled
}

fn entry_of(delivery: &Delivery) -> Option<&EntryDelivery> {
    delivery.more.as_ref().and_then(|more| more.entry.as_ref())
}

/// Finds records of a partition one after the other.
struct Lookup<'a> {
    group: &'a Group,
    source: Source,
    /// The frame of the last one.
    at: Option<std::sync::Arc<Kept>>,
}

impl Lookup<'_> {
    async fn find(&mut self, delivery: &Delivery) -> Result<Found, Missing> {
        let (group, source) = (self.group, self.source);
        if let Some(entry) = entry_of(delivery) {
            return entry_record(group, source, entry).await.map(Found::detached);
        }
        if !self.at.as_ref().is_some_and(|kept| kept.holds(delivery.offset)) {
            self.at = group.cache().find(source, delivery.offset);
        }
        match &self.at {
            Some(kept) if delivery.more.is_none() => found(kept, delivery.offset),
            Some(kept) => found(kept, delivery.offset).map(Found::detached),
            None => {
                let kept = reread(group, source, delivery.offset).await?;
                found(self.at.insert(kept), delivery.offset).map(Found::detached)
            }
        }
    }
}

fn found(kept: &Kept, offset: Offset) -> Result<Found, Missing> {
    let record = kept.record(offset).ok_or(Missing::Gone(GapReason::Undecodable))?;
    Ok(Found { record, epoch: kept.frame.epoch, append_ms: kept.frame.append_time_ms })
}

/// Reads the frame of a record again.
async fn reread(group: &Group, source: Source, offset: Offset) -> Result<std::sync::Arc<Kept>, Missing> {
    let log = group.log(source).ok_or_else(|| Missing::Later("the topic is gone".into()))?;
    let frame = read_frame(&*log, offset).await?;
    let kept = Kept::new(frame);
    group.cache().keep_reread(source, std::sync::Arc::clone(&kept));
    Ok(kept)
}

/// The frame of a record.
async fn read_frame(log: &dyn PartitionLog, offset: Offset) -> Result<Frame, Missing> {
    match log.read(offset, 1).await {
        Ok(run) => {
            let frame = run.frames.into_iter().next();
            let holds = |frame: &Frame| frame.base_offset <= offset && offset < frame.end_offset();
            frame.filter(holds).ok_or(Missing::Gone(GapReason::Retention))
        }
        Err(PartitionReadError::Log(ReadError::OutOfRange { offset, start, .. })) if offset < start => {
            Err(Missing::Gone(GapReason::Retention))
        }
        Err(PartitionReadError::Log(ReadError::Corrupt(_))) => Err(Missing::Gone(GapReason::Corrupt)),
        Err(error) => Err(Missing::Later(error.to_string())),
    }
}

/// The record of an entry: its copy, or the source's record if the copy is lost (rule DL-12).
async fn entry_record(group: &Group, source: Source, entry: &EntryDelivery) -> Result<Found, Missing> {
    let copy = match group.dead_letter_log(source) {
        Some(log) => read_copy(group, source, &*log, entry.copy).await.and_then(|kept| found(&kept, entry.copy)),
        None => Err(Missing::Later("the dead-letter topic is not there".into())),
    };
    match copy {
        Ok(found) => Ok(Found { record: original(found.record), epoch: entry.key.epoch, ..found }),
        // An edited version is nowhere else.
        Err(missing) if entry.version > 0 => Err(missing),
        Err(missing) => {
            let kept = reread(group, source, entry.key.offset).await.map_err(|_| missing)?;
            let found = found(&kept, entry.key.offset)?;
            if found.epoch == entry.key.epoch { Ok(found) } else { Err(Missing::Gone(GapReason::Truncated)) }
        }
    }
}

/// The frame of a copy, kept for its neighbours.
async fn read_copy(
    group: &Group,
    source: Source,
    log: &dyn PartitionLog,
    copy: Offset,
) -> Result<std::sync::Arc<Kept>, Missing> {
    let epoch = log.epoch();
    if let Some(kept) = group.cache().find_copy(source, epoch, copy) {
        return Ok(kept);
    }
    let kept = Kept::new(read_frame(log, copy).await?);
    group.cache().keep_copy(source, epoch, std::sync::Arc::clone(&kept));
    Ok(kept)
}

/// A copy as the record was: without the headers that the broker added.
pub(in crate::coordinator) fn original(mut copy: BatchRecord) -> BatchRecord {
    copy.headers.retain(|header| !headers::is_added(&header.key));
    copy
}

/// Records that will leave in one frame.
struct Page {
    source: Source,
    epoch: AssignmentEpoch,
    replay: Option<ReplayMark>,
    records: Vec<DeliveredRecord>,
    bytes: usize,
}

impl Page {
    fn new(source: Source, epoch: AssignmentEpoch, replay: Option<ReplayMark>) -> Self {
        Self { source, epoch, replay, records: Vec::new(), bytes: 0 }
    }

    /// What came of looking for a record.
    fn take(&mut self, group: &Group, delivery: &Delivery, found: Result<Found, Missing>, filled: &mut Filled) {
        match found {
            Ok(found) => self.push(delivery.clone(), found, &mut filled.frames),
            Err(Missing::Gone(reason)) => {
                let range = OffsetRange { from: delivery.offset, to: delivery.offset.saturating_add(1) };
                group.drive_event(Event::Gap { source: self.source, range, reason });
            }
            Err(Missing::Later(what)) => {
                tracing::warn!(group = %group.name(), offset = delivery.offset.get(), what, "a record cannot be read now");
                filled.later.push(delivery.clone());
            }
        }
    }

    fn push(&mut self, delivery: Delivery, found: Found, out: &mut Vec<SessionFrame>) {
        let Found { record, epoch, append_ms } = found;
        let timestamp_ms = record.timestamp_ms;
        let record = DeliveredRecord { delivery, epoch, append_ms, timestamp_ms, payload: record };
        // What a record takes besides its bytes: offsets, times, lengths.
        let bytes = record.payload_bytes() + 64;
        if self.bytes + bytes > limits::DELIVERY_FRAME_BYTES {
            self.flush(out);
        }
        self.bytes += bytes;
        self.records.push(record);
    }

    fn flush(&mut self, out: &mut Vec<SessionFrame>) {
        if !self.records.is_empty() {
            self.bytes = 0;
            out.push(SessionFrame::Records {
                source: self.source,
                epoch: self.epoch,
                records: std::mem::take(&mut self.records),
                reached: None,
                marks: Vec::new(),
                replay: self.replay,
            });
        }
    }
}

/// A range of a partition as it is delivered in mode OFFSET.
#[derive(Debug, Clone)]
pub(in crate::coordinator) struct Range {
    pub(in crate::coordinator) source: Source,
    pub(in crate::coordinator) epoch: AssignmentEpoch,
    pub(in crate::coordinator) range: OffsetRange,
    pub(in crate::coordinator) marks: Vec<Mark>,
    pub(in crate::coordinator) filtered: Vec<Offset>,
    pub(in crate::coordinator) replay: Option<ReplayMark>,
}

/// What could be read of a range.
#[derive(Debug)]
pub(in crate::coordinator) struct RangePart {
    pub(in crate::coordinator) frames: Vec<SessionFrame>,
    /// Where to go on; the end of the range if all of it is there.
    pub(in crate::coordinator) reached: Offset,
}

/// The next part of a range, at most a few frames of a message each; to be asked again for the rest.
pub(in crate::coordinator) async fn range_part(
    group: &Group,
    range: &Range,
    batches: bool,
) -> Result<RangePart, (OffsetRange, Missing)> {
    let OffsetRange { from, to } = range.range;
    let mut frames = group.cache().run(range.source, from, to);
    if frames.is_empty() {
        frames = read_range(group, range).await?;
    }
    let reached = frames.last().map_or(to, Frame::end_offset).min(to);
    let edited = edited_records(group, range, OffsetRange { from, to: reached }).await?;
    group.cache().pass(range.source, reached);
    let out = if batches {
        batch_pages(range, frames, reached, &edited)
    } else {
        record_pages(group, range, &frames, reached, &edited)
    };
    Ok(RangePart { frames: out, reached })
}

/// Records of a range that come as they were resolved, edited (rule DL-15).
async fn edited_records(
    group: &Group,
    range: &Range,
    within: OffsetRange,
) -> Result<Vec<EditedRecord>, (OffsetRange, Missing)> {
    let mut edited = Vec::new();
    for mark in range.marks.iter().filter(|mark| within.contains(mark.offset)) {
        let (Some(copy), Some(EntryState::Resolved { version })) = (mark.copy, mark.state) else { continue };
        let entry = EntryDelivery { key: mark.entry, copy, version, cycle: mark.cycle, job: None };
        match entry_record(group, range.source, &entry).await {
            Ok(Found { record, .. }) => {
                let timestamp_ms = record.timestamp_ms;
                edited.push(EditedRecord { offset: mark.offset, timestamp_ms, payload: record });
            }
            // An edited version is nowhere else: what cannot be read is waited for, never told as the original.
            Err(Missing::Gone(reason)) => {
                let what = format!("the edited copy of offset {} is gone ({reason:?})", mark.offset.get());
                return Err((within, Missing::Later(what)));
            }
            Err(missing) => return Err((within, missing)),
        }
    }
    Ok(edited)
}

/// Reads frames of a range that are not kept any more.
async fn read_range(group: &Group, range: &Range) -> Result<Vec<Frame>, (OffsetRange, Missing)> {
    let OffsetRange { from, to } = range.range;
    let Some(log) = group.log(range.source) else {
        return Err((range.range, Missing::Later("the topic is gone".into())));
    };
    match log.read(from, limits::DELIVERY_FRAME_BYTES).await {
        Ok(run) => Ok(run.frames.into_iter().take_while(|frame| frame.base_offset < to).collect()),
        Err(PartitionReadError::Log(ReadError::OutOfRange { start, .. })) if from < start => {
            Err((OffsetRange { from, to: start.min(to) }, Missing::Gone(GapReason::Retention)))
        }
        Err(PartitionReadError::Log(ReadError::Corrupt(corruption))) => {
            let next = log.damaged_at(from).map(|range| range.to).or(corruption.next_good);
            let end = next.filter(|next| *next > from).unwrap_or_else(|| from.saturating_add(1));
            Err((OffsetRange { from, to: end.min(to) }, Missing::Gone(GapReason::Corrupt)))
        }
        Err(error) => Err((range.range, Missing::Later(error.to_string()))),
    }
}

/// Stored batches in frames of at most about 1 MiB (rule FC-6).
fn batch_pages(range: &Range, frames: Vec<Frame>, reached: Offset, edited: &[EditedRecord]) -> Vec<SessionFrame> {
    let mut out = Vec::new();
    let (mut page, mut bytes): (Vec<Frame>, usize) = (Vec::new(), 0);
    let mut from = range.range.from;
    let mut flush = |page: &mut Vec<Frame>, upto: Offset| {
        let span = OffsetRange { from, to: upto };
        out.push(SessionFrame::Batches {
            source: range.source,
            epoch: range.epoch,
            frames: std::mem::take(page),
            from,
            reached: upto,
            marks: range.marks.iter().filter(|mark| span.contains(mark.offset)).copied().collect(),
            filtered: range.filtered.iter().filter(|offset| span.contains(**offset)).copied().collect(),
            edited: edited.iter().filter(|one| span.contains(one.offset)).cloned().collect(),
            replay: range.replay,
        });
        from = upto;
    };
    for frame in frames {
        if bytes + frame.batch.len() > limits::DELIVERY_FRAME_BYTES && !page.is_empty() {
            flush(&mut page, frame.base_offset);
            bytes = 0;
        }
        bytes += frame.batch.len();
        page.push(frame);
    }
    flush(&mut page, reached);
    out
}

/// Single records in frames of at most about 1 MiB, each saying how far it reaches (rule FC-7).
fn record_pages(
    group: &Group,
    range: &Range,
    frames: &[Frame],
    reached: Offset,
    edited: &[EditedRecord],
) -> Vec<SessionFrame> {
    let mut out = Vec::new();
    let mut page = Page::new(range.source, range.epoch, range.replay);
    let skipped: std::collections::HashSet<Offset> = range.filtered.iter().copied().collect();
    for frame in frames {
        let kept = Kept::new(frame.clone());
        for index in 0..u64::from(frame.record_count) {
            let offset = frame.base_offset.saturating_add(index);
            if offset < range.range.from || offset >= reached || skipped.contains(&offset) {
                continue;
            }
            let Ok(mut found) = found(&kept, offset) else {
                let range = OffsetRange { from: frame.base_offset, to: frame.end_offset() };
                tracing::warn!(group = %group.name(), offset = offset.get(), "a batch cannot be decoded");
                group.drive_event(Event::Gap { source: page.source, range, reason: GapReason::Undecodable });
                break;
            };
            if let Some(edited) = edited.iter().find(|edited| edited.offset == offset) {
                found.record = edited.payload.clone();
            }
            page.push(Delivery { offset, attempt: 1, more: None }, found, &mut out);
        }
    }
    page.flush(&mut out);
    if out.is_empty() {
        let (source, epoch, replay) = (range.source, range.epoch, range.replay);
        let (records, marks) = (Vec::new(), Vec::new());
        out.push(SessionFrame::Records { source, epoch, records, reached: None, marks, replay });
    }
    let mut from = range.range.from;
    let last = out.len() - 1;
    for (at, frame) in out.iter_mut().enumerate() {
        if let SessionFrame::Records { records, reached: upto, marks, .. } = frame {
            let end = records.last().map(|record| record.delivery.offset.saturating_add(1));
            let end = if at == last { reached } else { end.unwrap_or(reached) };
            let span = OffsetRange { from, to: end };
            *marks = range.marks.iter().filter(|mark| span.contains(mark.offset)).copied().collect();
            *upto = Some(end);
            from = end;
        }
    }
    out
}
