//! Reads partitions in turn and sends what they hold, until every bound is reached or for ever.
//!
//! Each round reads at most [`limits::READ_CHUNK_BYTES`] of each partition, so that none waits for another. At the
//! live end it waits for the high watermarks, not for timers (rule FC-1: nothing above one is ever seen). It sends
//! the next message only when the last was taken, so a reader that does not read stops here and nothing else does
//! (rule FC-8). A position that was cut under the reader ends the read, never another record silently (rule D3).

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use sawlog_proto::batch::{self, BatchLimits};
use sawlog_proto::v1::{self, GapReason, read_response::Frame as Wire};

use super::Context;
use super::raw_body::{Chunks, Sink};
use super::read_plan::Plan;
use super::status::{self, Problem};
use crate::limits;
use crate::model::{Offset, OffsetRange};
use crate::partition::{BoxFuture, Frame, FrameRun, PartitionReadError, ReadError};

/// Bounds for opening what is stored: what was let in once is read again, whatever a topic's limits are now.
const STORED: BatchLimits = BatchLimits {
    batch_bytes: limits::FRAME_BYTES,
    records: i32::MAX as u32,
    decompressed_bytes: limits::BATCH_DECOMPRESSED_BYTES,
    ..BatchLimits::DEFAULT
};

/// Counts what a reading holds against the bound of all of them.
struct Held {
    context: Arc<Context>,
    bytes: usize,
}

impl Held {
    fn new(context: &Arc<Context>, bytes: usize) -> Self {
        context.reader_bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { context: Arc::clone(context), bytes }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        self.context.reader_bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The future behind one Read.
pub(super) struct ReadDriver {
    context: Arc<Context>,
    plan: Plan,
    sink: Sink,
}

impl ReadDriver {
    pub(super) fn new(context: Arc<Context>, plan: Plan, sink: Sink) -> Self {
        Self { context, plan, sink }
    }

    /// Reads to the end.
    pub(super) async fn run(mut self) -> Result<(), Problem> {
        let draining = self.context.parts.draining.clone();
        loop {
            let mut moved = false;
            for index in 0..self.plan.cursors.len() {
                if !self.plan.cursors[index].done {
                    moved |= self.turn(index).await?;
                }
                if self.plan.count == Some(0) {
                    return self.finish().await;
                }
            }
            if self.plan.cursors.iter().all(|cursor| cursor.done) {
                return Ok(());
            }
            if draining.is_cancelled() {
                return Err(status::shutting_down());
            }
            if !moved {
                tokio::select! {
                    () = draining.cancelled() => return Err(status::shutting_down()),
                    closed = self.wait() => self.check_closed(closed)?,
                }
            }
        }
    }

    /// One partition's turn; false if it is at its live end.
    async fn turn(&mut self, index: usize) -> Result<bool, Problem> {
        let cursor = &mut self.plan.cursors[index];
        if cursor.end.is_some_and(|end| cursor.next >= end) {
            self.end_partition(index).await;
            return Ok(true);
        }
        self.check_position(index).await?;
        let cursor = &self.plan.cursors[index];
        if cursor.next >= cursor.log.high_watermark() {
            self.tell_caught_up(index).await;
            return Ok(false);
        }
        let most = if self.context.reader_bytes.load(Ordering::Relaxed) < limits::READERS_BUFFER_BYTES {
            limits::READ_CHUNK_BYTES
        } else {
            // Beyond the bound of all readers one frame a stream.
            1
        };
        match cursor.log.read(cursor.next, most).await {
            Ok(run) => self.send_run(index, run).await,
            Err(error) => self.step_over(index, error).await,
        }
        .map(|()| true)
    }

    /// After a cut or reopening: is the next offset still the one that follows what was sent?
    async fn check_position(&mut self, index: usize) -> Result<(), Problem> {
        let cursor = &mut self.plan.cursors[index];
        let epoch = cursor.log.epoch();
        if epoch == cursor.checked_epoch {
            return Ok(());
        }
        // Before the first record is sent its epoch may be unknown: then that of the time when the read began.
        let before = cursor.epoch_before.unwrap_or(cursor.checked_epoch);
        if let Err(error) = cursor.log.check_position(before, cursor.next).await {
            return Err(status::read(self.plan.topic.name.as_str(), cursor.id.0, cursor.next.get(), &error));
        }
        cursor.checked_epoch = epoch;
        Ok(())
    }

    /// Sends what was read of one partition.
    async fn send_run(&mut self, index: usize, run: FrameRun) -> Result<(), Problem> {
        let (end_time, cursor) = (self.plan.end_time_ms, &mut self.plan.cursors[index]);
        let mut frames = run.frames;
        let _held = Held::new(&self.context, frames.iter().map(|frame| frame.batch.len()).sum());
        let mut past_end = false;
        if let Some(end_time) = end_time
            && let Some(at) = frames.iter().position(|frame| frame.append_time_ms >= end_time)
        {
            frames.truncate(at);
            past_end = true;
        }
        if let (Some(end), Some(at)) =
            (cursor.end, frames.iter().position(|frame| Some(frame.base_offset) >= cursor.end))
        {
            frames.truncate(at);
            debug_assert!(end > cursor.next);
        }
        let stopped = match self.plan.raw {
            true => self.send_batches(index, &frames).await,
            false => self.send_records(index, &frames).await?,
        };
        let cursor = &mut self.plan.cursors[index];
        if let Some(last) = frames.last() {
            cursor.epoch_before = Some(last.epoch);
            cursor.time_before_ms = Some(last.append_time_ms);
            cursor.next = cursor.next.max(last.end_offset());
        }
        if let Some(end) = stopped.into_iter().chain(cursor.end).min() {
            cursor.next = cursor.next.min(end);
        }
        if past_end {
            cursor.end = Some(cursor.next);
        } else if frames.is_empty() {
            // Only mark frames, or a run that is shorter than it was: go on where the log says.
            cursor.next = cursor.next.max(run.next);
        }
        self.tell_if_behind(index).await;
        Ok(())
    }

    /// Sends batches; gives the offset before which the count of records wanted was reached.
    async fn send_batches(&mut self, index: usize, frames: &[Frame]) -> Option<Offset> {
        let mut from = 0;
        while from < frames.len() {
            let frames = &frames[from..];
            // Whole batches up to the size of a message, at least one.
            let mut bytes = 0;
            let mut fit = frames.iter().take_while(|frame| {
                bytes += frame.batch.len();
                bytes <= limits::DELIVERY_FRAME_BYTES
            });
            let mut count = fit.by_ref().count().max(1);
            if let Some(left) = self.plan.count {
                let mut records = 0;
                let needed = frames.iter().take_while(|frame| {
                    let more = records < left;
                    records += u64::from(frame.record_count);
                    more
                });
                count = count.min(needed.count());
            }
            if count == 0 {
                return Some(frames[0].base_offset);
            }
            let frames = &frames[..count];
            let cursor = &self.plan.cursors[index];
            let records: u64 = frames.iter().map(|frame| u64::from(frame.record_count)).sum();
            let bytes: usize = frames.iter().map(|frame| frame.batch.len()).sum();
            let chunks = Chunks::batches(cursor.id, frames);
            self.deliver(chunks, records, bytes).await;
            from += count;
        }
        None
    }

    /// Sends records; gives the offset before which the count of records wanted was reached.
    async fn send_records(&mut self, index: usize, frames: &[Frame]) -> Result<Option<Offset>, Problem> {
        let (mut page, mut stopped) = (Page::default(), None);
        for frame in frames {
            if stopped.is_some() {
                break;
            }
            let cursor = &self.plan.cursors[index];
            let records = match batch::records(&frame.batch, &STORED) {
                Ok(records) => records,
                Err(error) => {
                    self.flush(index, &mut page).await;
                    self.undecodable(index, frame, error).await?;
                    continue;
                }
            };
            let _held = Held::new(&self.context, records.body_bytes());
            let (next, end) = (cursor.next, cursor.end.unwrap_or(Offset::MAX));
            for view in records.views() {
                let view = match view {
                    Ok(view) => view,
                    Err(error) => {
                        self.flush(index, &mut page).await;
                        self.undecodable(index, frame, error).await?;
                        break;
                    }
                };
                let offset = frame.base_offset.saturating_add(u64::from(view.index));
                if offset < next || offset >= end || !self.plan.filter.matches(view.key, view.headers) {
                    continue;
                }
                if self.plan.count.is_some_and(|left| page.records.len() as u64 >= left) {
                    stopped = Some(offset);
                    break;
                }
                let size = view.size_bytes();
                if page.bytes + size > limits::DELIVERY_FRAME_BYTES && !page.records.is_empty() {
                    self.flush(index, &mut page).await;
                }
                page.push(frame, offset, records.share(&view), size);
                if self.rate_is_due(&page) {
                    self.flush(index, &mut page).await;
                }
            }
        }
        self.flush(index, &mut page).await;
        Ok(stopped)
    }

    /// At a low rate a page would come in bursts far apart: send what the rate allows at once.
    fn rate_is_due(&self, page: &Page) -> bool {
        let due = |rate: &Option<crate::model::TokenBucket>, units: u64| {
            rate.as_ref().is_some_and(|rate| units >= rate.burst_units())
        };
        due(&self.plan.records_rate, page.records.len() as u64) || due(&self.plan.bytes_rate, page.bytes as u64)
    }

    async fn flush(&mut self, index: usize, page: &mut Page) {
        if page.records.is_empty() {
            return;
        }
        let Page { records, bytes } = std::mem::take(page);
        let count = records.len() as u64;
        let partition = self.plan.cursors[index].id.0;
        let wire = Wire::Records(v1::RecordsFrame { partition, records });
        let chunks = Chunks::message(&v1::ReadResponse { frame: Some(wire) });
        self.deliver(chunks, count, bytes).await;
    }

    /// Sends records, counts them and waits as long as the rate wants.
    async fn deliver(&mut self, chunks: Chunks, records: u64, bytes: usize) {
        self.sink.send(chunks).await;
        if let Some(left) = &mut self.plan.count {
            *left = left.saturating_sub(records);
        }
        let now = self.context.monotonic();
        let spend = |rate: &mut Option<crate::model::TokenBucket>, units: u64| {
            rate.as_mut().map(|rate| rate.spend(units, now)).unwrap_or_default()
        };
        let wait = spend(&mut self.plan.records_rate, records).max(spend(&mut self.plan.bytes_rate, bytes as u64));
        if !wait.is_zero() {
            tokio::time::sleep(wait).await;
        }
    }

    async fn tell(&self, frame: Wire) {
        self.sink.send(Chunks::message(&v1::ReadResponse { frame: Some(frame) })).await;
    }

    async fn end_partition(&mut self, index: usize) {
        let cursor = &mut self.plan.cursors[index];
        cursor.done = true;
        let end = v1::PartitionEnd { partition: cursor.id.0, offset: cursor.next.to_wire() };
        self.tell(Wire::PartitionEnd(end)).await;
    }

    /// All wanted records were sent.
    async fn finish(&mut self) -> Result<(), Problem> {
        for index in 0..self.plan.cursors.len() {
            if !self.plan.cursors[index].done {
                self.end_partition(index).await;
            }
        }
        Ok(())
    }

    /// Rule FC-4, on the way to the live end.
    async fn tell_caught_up(&mut self, index: usize) {
        let cursor = &mut self.plan.cursors[index];
        if cursor.live || !self.plan.follow {
            return;
        }
        cursor.live = true;
        if cursor.time_before_ms.is_none() && cursor.next > cursor.log.log_start() {
            // Nothing was read yet: look at the record before.
            let before = cursor.log.read(cursor.next.saturating_sub(1), 1).await;
            let before = before.ok().and_then(|run| run.frames.into_iter().next());
            cursor.time_before_ms = before.map(|frame| frame.append_time_ms);
        }
        let caught_up = v1::CaughtUp {
            partition: cursor.id.0,
            offset: cursor.next.to_wire(),
            append_time_ms: cursor.time_before_ms.unwrap_or(0),
        };
        self.tell(Wire::CaughtUp(caught_up)).await;
    }

    /// Rule FC-4, on the way back: a whole reading did not reach the live end.
    async fn tell_if_behind(&mut self, index: usize) {
        let cursor = &mut self.plan.cursors[index];
        let bound = cursor.end.unwrap_or(Offset::MAX);
        if cursor.live && cursor.next < cursor.log.high_watermark().min(bound) {
            cursor.live = false;
            let fell_behind = v1::FellBehind { partition: cursor.id.0, offset: cursor.next.to_wire() };
            self.tell(Wire::FellBehind(fell_behind)).await;
        }
    }

    /// A batch whose records cannot be had: told and passed if the reader wants so, else the end (rule C2).
    async fn undecodable(&mut self, index: usize, frame: &Frame, error: batch::BatchError) -> Result<(), Problem> {
        let range = OffsetRange { from: frame.base_offset, to: frame.end_offset() };
        let cursor = &self.plan.cursors[index];
        if !self.plan.skip_damaged {
            return Err(status::undecodable(self.plan.topic.name.as_str(), cursor.id.0, range, &error));
        }
        let range = OffsetRange { from: range.from.max(cursor.next), to: range.to };
        self.gap(index, range, GapReason::Undecodable).await;
        Ok(())
    }

    /// Passes what cannot be read, if that is allowed.
    async fn step_over(&mut self, index: usize, error: PartitionReadError) -> Result<(), Problem> {
        let cursor = &self.plan.cursors[index];
        let (next, start) = (cursor.next, cursor.log.log_start());
        let topic = self.plan.topic.name.as_str();
        match &error {
            // Retention or a trim went past the reader: what is gone is told, the read goes on (rule RE-4).
            PartitionReadError::Log(ReadError::OutOfRange { .. }) if next < start => {
                self.gap(index, OffsetRange { from: next, to: start }, GapReason::Retention).await;
            }
            PartitionReadError::Log(ReadError::Corrupt(corruption)) if self.plan.skip_damaged => {
                let damaged = cursor.log.damaged_at(next).map(|range| range.to).or(corruption.next_good);
                let Some(to) = damaged.filter(|to| *to > next) else {
                    return Err(status::read(topic, cursor.id.0, next.get(), &error));
                };
                tracing::warn!(
                    topic,
                    partition = cursor.id.0,
                    from = next.get(),
                    to = to.get(),
                    "a reader skips damage"
                );
                self.context.metrics().corrupt_skips.inc();
                self.gap(index, OffsetRange { from: next, to }, GapReason::Corrupt).await;
            }
            _ => return Err(status::read(topic, cursor.id.0, next.get(), &error)),
        }
        Ok(())
    }

    async fn gap(&mut self, index: usize, range: OffsetRange, reason: GapReason) {
        let cursor = &mut self.plan.cursors[index];
        let gap = v1::Gap {
            partition: cursor.id.0,
            from: range.from.to_wire(),
            to: range.to.to_wire(),
            reason: reason.into(),
        };
        cursor.next = cursor.next.max(range.to);
        self.tell(Wire::Gap(gap)).await;
    }

    /// Waits until a partition has more; gives the one that was closed instead.
    async fn wait(&self) -> Option<usize> {
        let mut waits: Vec<(usize, Offset, BoxFuture<'static, Offset>)> = Vec::new();
        for (index, cursor) in self.plan.cursors.iter().enumerate() {
            if !cursor.done {
                waits.push((index, cursor.next, cursor.log.wait_beyond(cursor.next)));
            }
        }
        std::future::poll_fn(move |task| {
            for (index, next, wait) in &mut waits {
                if let Poll::Ready(high_watermark) = wait.as_mut().poll(task) {
                    return Poll::Ready((high_watermark <= *next).then_some(*index));
                }
            }
            Poll::Pending
        })
        .await
    }

    /// A wait that ended without more: the topic is gone, or the broker stops.
    fn check_closed(&self, closed: Option<usize>) -> Result<(), Problem> {
        let Some(index) = closed else { return Ok(()) };
        let (topic, cursor) = (&self.plan.topic, &self.plan.cursors[index]);
        let name = topic.name.as_str();
        match self.context.topic(name) {
            Some(current) if current.uuid == topic.uuid => {}
            _ => return Err(status::topic_not_found(name)),
        }
        if cursor.log.high_watermark() < cursor.next || cursor.log.epoch() != cursor.checked_epoch {
            // Cut under the reader: the next turn says so.
            return Ok(());
        }
        Err(status::shutting_down())
    }
}

/// Records that will leave in one message.
#[derive(Default)]
struct Page {
    records: Vec<v1::PositionedRecord>,
    bytes: usize,
}

impl Page {
    fn push(&mut self, frame: &Frame, offset: Offset, record: batch::BatchRecord, size: usize) {
        let header = |header: batch::RecordHeader| v1::Header {
            // Names are UTF-8 by contract, which batches of other clients may break.
            key: String::from_utf8_lossy(&header.key).into_owned(),
            value: header.value.unwrap_or_default(),
        };
        let record = v1::Record {
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(header).collect(),
            timestamp_ms: Some(record.timestamp_ms),
        };
        self.records.push(v1::PositionedRecord {
            offset: offset.to_wire(),
            append_time_ms: frame.append_time_ms,
            epoch: frame.epoch.get(),
            record: Some(record),
        });
        self.bytes += size;
    }
}
