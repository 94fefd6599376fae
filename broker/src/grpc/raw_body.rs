//! The hand-made body of Read: gRPC messages as lists of buffers, stored batches among them uncopied.
//!
//! ```text
//! message = 0, length u32                           the gRPC prefix
//!           0x12, length                            ReadResponse.batches
//!             0x08, partition                       BatchesFrame.partition, left out if 0
//!             then, per batch: 0x12, length         BatchesFrame.batches
//!               0x0a, length, BatchInfo             StoredBatch.info
//!               0x12, length, the batch             StoredBatch.batch
//! ```
//!
//! [`ReadBody`] drives the future that reads (`read_driver.rs`) only when the connection wants more, and hands what it
//! sent over buffer by buffer: at most one message is held at a time. When the connection takes nothing for
//! [`limits::WRITE_DEADLINE`], the driver and what is held are dropped and the stream ends with SLOW_READER; a client
//! that does not even take that within as long again has its stream reset.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::HeaderMap;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use prost::Message;
use prost::encoding::{encode_varint, encoded_len_varint};
use sawlog_proto::v1;
use tonic::Status;

use super::stalls::Stallable;
use super::status::{self, Problem};
use super::{Context, guard};
use crate::limits;
use crate::metrics::Metrics;
use crate::model::PartitionId;
use crate::partition::{self, BoxFuture};

/// Batches up to this size are copied beside their heads: a frame of its own would cost more.
pub(super) const COPY_BYTES: usize = 8 << 10;
/// Buffers handed over at once are at most this: the write deadline counts per buffer.
const SLICE_BYTES: usize = 256 << 10;
/// Flag and length of a gRPC message.
const PREFIX_BYTES: usize = 5;

const RESPONSE_BATCHES: u8 = 0x12;
const FRAME_PARTITION: u8 = 0x08;
const FRAME_BATCH: u8 = 0x12;
const STORED_INFO: u8 = 0x0a;
const STORED_BATCH: u8 = 0x12;

/// Whole messages, as buffers.
#[derive(Debug, Default)]
pub(super) struct Chunks {
    list: Vec<Bytes>,
    bytes: usize,
}

impl Chunks {
    /// An ordinary message.
    pub(super) fn message(message: &impl Message) -> Self {
        let length = message.encoded_len();
        let mut out = BytesMut::with_capacity(PREFIX_BYTES + length);
        put_prefix(&mut out, length);
        message.encode(&mut out).expect("the buffer has room for the whole message");
        let mut chunks = Self::default();
        chunks.push(out.freeze());
        chunks
    }

    /// Stored batches of one partition as one message, large ones uncopied.
    pub(super) fn batches(partition: PartitionId, frames: &[partition::Frame]) -> Self {
        let infos: Vec<v1::BatchInfo> = frames.iter().map(info_of).collect();
        let sizes: Vec<StoredSize> =
            infos.iter().zip(frames).map(|(info, frame)| StoredSize::of(info, &frame.batch)).collect();
        let partition_len = if partition.0 == 0 { 0 } else { 1 + encoded_len_varint(partition.0.into()) };
        let frame_len = partition_len + sizes.iter().map(|size| field_len(size.stored)).sum::<usize>();
        let mut chunks = Self::default();
        let copied: usize = frames.iter().map(|frame| frame.batch.len()).filter(|len| *len <= COPY_BYTES).sum();
        let mut heads = BytesMut::with_capacity(64 + 48 * frames.len() + copied);
        put_prefix(&mut heads, field_len(frame_len));
        put_head(&mut heads, RESPONSE_BATCHES, frame_len);
        if partition.0 != 0 {
            heads.put_u8(FRAME_PARTITION);
            encode_varint(partition.0.into(), &mut heads);
        }
        for ((frame, info), size) in frames.iter().zip(&infos).zip(&sizes) {
            put_head(&mut heads, FRAME_BATCH, size.stored);
            put_head(&mut heads, STORED_INFO, size.info);
            info.encode(&mut heads).expect("a BytesMut grows");
            put_head(&mut heads, STORED_BATCH, frame.batch.len());
            if frame.batch.len() <= COPY_BYTES {
                heads.extend_from_slice(&frame.batch);
            } else {
                chunks.push(heads.split().freeze());
                chunks.push(frame.batch.clone());
            }
        }
        chunks.push(heads.freeze());
        debug_assert_eq!(chunks.bytes, PREFIX_BYTES + field_len(frame_len), "the lengths announced are those sent");
        chunks
    }

    /// Bytes of the message.
    pub(super) fn len(&self) -> usize {
        self.bytes
    }

    #[cfg(test)]
    pub(super) fn iter(&self) -> impl Iterator<Item = &Bytes> {
        self.list.iter()
    }

    #[cfg(test)]
    pub(super) fn concat(&self) -> Vec<u8> {
        self.list.concat()
    }

    pub(super) fn push(&mut self, mut bytes: Bytes) {
        self.bytes += bytes.len();
        while bytes.len() > SLICE_BYTES {
            self.list.push(bytes.split_to(SLICE_BYTES));
        }
        if !bytes.is_empty() {
            self.list.push(bytes);
        }
    }
}

pub(super) fn info_of(frame: &partition::Frame) -> v1::BatchInfo {
    v1::BatchInfo {
        base_offset: frame.base_offset.to_wire(),
        record_count: frame.record_count,
        append_time_ms: frame.append_time_ms,
        epoch: frame.epoch.get(),
    }
}

/// Lengths of a StoredBatch.
pub(super) struct StoredSize {
    pub(super) info: usize,
    pub(super) stored: usize,
}

impl StoredSize {
    pub(super) fn of(info: &v1::BatchInfo, batch: &Bytes) -> Self {
        let info = info.encoded_len();
        Self { info, stored: field_len(info) + field_len(batch.len()) }
    }
}

/// Bytes of a field with a length: tag, length, content.
pub(super) fn field_len(content: usize) -> usize {
    1 + encoded_len_varint(content as u64) + content
}

pub(super) fn put_head(out: &mut BytesMut, tag: u8, length: usize) {
    out.put_u8(tag);
    encode_varint(length as u64, out);
}

pub(super) fn put_prefix(out: &mut BytesMut, length: usize) {
    out.put_u8(0);
    out.put_u32(u32::try_from(length).expect("a message is far below 4 GiB"));
}

/// Resets one stream of a connection: the last means against a client that takes nothing at all.
#[derive(Debug, Clone, Default)]
pub struct StreamCut(Arc<CutState>);

#[derive(Debug, Default)]
struct CutState {
    cut: AtomicBool,
    waker: Mutex<Option<Waker>>,
}

tokio::task_local! {
    static STREAM: StreamCut;
}

impl StreamCut {
    /// Runs the future of one stream until it is done or cut.
    pub async fn run<F: Future>(future: F) -> Option<F::Output> {
        let cut = Self::default();
        let mut future = std::pin::pin!(STREAM.scope(cut.clone(), future));
        std::future::poll_fn(move |task| {
            if cut.0.cut.load(Ordering::SeqCst) {
                return Poll::Ready(None);
            }
            let polled = future.as_mut().poll(task).map(Some);
            // Only who asked for it can be cut, and only those pay for a waker.
            if polled.is_pending() && Arc::strong_count(&cut.0) > 2 {
                *cut.0.waker.lock() = Some(task.waker().clone());
            }
            polled
        })
        .await
    }

    /// The stream that this is called in.
    fn current() -> Option<Self> {
        STREAM.try_with(Self::clone).ok()
    }

    fn cut(&self) {
        self.0.cut.store(true, Ordering::SeqCst);
        if let Some(waker) = self.0.waker.lock().take() {
            waker.wake();
        }
    }
}

/// Where the driver puts what is to be sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Sink(Arc<Mutex<Chunks>>);

impl Sink {
    /// Hands a message over and waits until the connection has taken all of it.
    pub(super) async fn send(&self, chunks: Chunks) {
        let mut chunks = Some(chunks);
        // The body polls the driver only when nothing is left, so no waker is needed.
        std::future::poll_fn(|_| match chunks.take() {
            Some(mut chunks) => {
                chunks.list.reverse();
                *self.0.lock() = chunks;
                Poll::Pending
            }
            None if self.0.lock().list.is_empty() => Poll::Ready(()),
            None => Poll::Pending,
        })
        .await;
    }

    fn next(&self) -> Option<Bytes> {
        let mut chunks = self.0.lock();
        let next = chunks.list.pop()?;
        chunks.bytes -= next.len();
        Some(next)
    }
}

/// The future that reads: its end is the end of the stream.
pub(super) type Driver = BoxFuture<'static, Result<(), Problem>>;

/// What body and watcher of a stream share.
struct Shared {
    metrics: Arc<Metrics>,
    driver: Mutex<Option<Driver>>,
    sink: Sink,
    /// When something was handed over, in microseconds of monotonic time plus one; 0: the connection wants more.
    handed_us: AtomicU64,
    is_cut: AtomicBool,
    cut: Mutex<Option<Cut>>,
    stream: Option<StreamCut>,
}

/// A reader that was cut: when (monotonic time), and what it is told if it takes anything again.
struct Cut {
    at: Duration,
    status: Option<Status>,
}

impl Stallable for Shared {
    fn handed_at(&self) -> Option<Duration> {
        self.handed_us.load(Ordering::SeqCst).checked_sub(1).map(Duration::from_micros)
    }

    fn check(&self, handed_at: Duration, now: Duration) {
        let stalled = now.saturating_sub(handed_at);
        if stalled < limits::WRITE_DEADLINE {
            return;
        }
        let mut cut = self.cut.lock();
        if let Some(cut) = &*cut {
            if now.saturating_sub(cut.at) >= limits::WRITE_DEADLINE
                && let Some(stream) = &self.stream
            {
                stream.cut();
            }
            return;
        }
        let held = std::mem::take(&mut *self.sink.0.lock());
        tracing::warn!(stalled_ms = stalled.as_millis(), "a reader takes nothing and is cut");
        let status = status::slow_reader(held.bytes, stalled).into_status(&self.metrics);
        *cut = Some(Cut { at: now, status: Some(status) });
        self.is_cut.store(true, Ordering::SeqCst);
        drop(cut);
        let driver = self.driver.lock().take();
        drop(driver);
    }
}

/// The body of an answer to Read.
pub(super) struct ReadBody {
    shared: Arc<Shared>,
    context: Arc<Context>,
    done: bool,
}

impl ReadBody {
    pub(super) fn new(context: Arc<Context>, sink: Sink, driver: Driver) -> Self {
        let shared = Arc::new(Shared {
            metrics: Arc::clone(context.metrics()),
            driver: Mutex::new(Some(driver)),
            sink,
            handed_us: AtomicU64::new(0),
            is_cut: AtomicBool::new(false),
            cut: Mutex::new(None),
            stream: StreamCut::current(),
        });
        let watched: Arc<dyn Stallable> = Arc::<Shared>::clone(&shared);
        context.stalls.register(Arc::downgrade(&watched));
        context.metrics().readers.inc();
        Self { shared, context, done: false }
    }

    /// Hands over a buffer, with a note of the time for the watcher.
    fn hand(&self, bytes: Bytes) -> Frame<Bytes> {
        let now = self.context.monotonic().as_micros() as u64;
        self.shared.handed_us.store(now + 1, Ordering::SeqCst);
        self.context.stalls.note();
        Frame::data(bytes)
    }

    fn end(&mut self, status: Status) -> Frame<Bytes> {
        self.done = true;
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            trailers.insert(Status::GRPC_STATUS, (tonic::Code::Internal as i32).into());
        }
        Frame::trailers(trailers)
    }
}

impl Body for ReadBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        if this.done {
            return Poll::Ready(None);
        }
        this.shared.handed_us.store(0, Ordering::SeqCst);
        loop {
            if this.shared.is_cut.load(Ordering::SeqCst) {
                let cut = this.shared.cut.lock().as_mut().and_then(|cut| cut.status.take());
                let status = cut.expect("the reason is there before the flag, and taken once");
                return Poll::Ready(Some(Ok(this.end(status))));
            }
            if let Some(bytes) = this.shared.sink.next() {
                return Poll::Ready(Some(Ok(this.hand(bytes))));
            }
            let mut driver = this.shared.driver.lock();
            let Some(running) = driver.as_mut() else { continue };
            let polled = guard::poll(|| running.as_mut().poll(task)).unwrap_or_else(|bug| Poll::Ready(Err(bug)));
            let result = match polled {
                Poll::Ready(result) => result,
                Poll::Pending if this.shared.sink.0.lock().list.is_empty() => return Poll::Pending,
                Poll::Pending => continue,
            };
            *driver = None;
            drop(driver);
            let status = match result {
                Ok(()) => Status::ok(""),
                Err(problem) => problem.into_status(this.context.metrics()),
            };
            return Poll::Ready(Some(Ok(this.end(status))));
        }
    }

    fn is_end_stream(&self) -> bool {
        self.done
    }
}

impl Drop for ReadBody {
    fn drop(&mut self) {
        self.context.metrics().readers.dec();
    }
}

#[cfg(test)]
#[path = "raw_body_tests.rs"]
mod tests;
