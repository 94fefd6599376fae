//! Bodies of `Read` made by hand: a few bytes of gRPC and protobuf before each batch, which is never copied.
//!
//! ```text
//! 0, length u32         prefix of gRPC
//! 0x12, length          ReadResponse.batches
//!   0x08, partition     BatchesFrame.partition, left out if 0
//!   0x12, length        BatchesFrame.batches
//!     0x0a, length, ..  StoredBatch.info
//!     0x12, length, ..  StoredBatch.batch
//! ```

use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::Frame;
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use sawlog_proto::batch::{BatchBuilder, Codec};
use sawlog_proto::v1;
use tokio::sync::mpsc;
use tonic::codegen::http::HeaderMap;

use super::{BATCH_BYTES, Passing};

/// Bytes at the start of a batch that the sender sets: its base offset.
const OFFSET_BYTES: usize = 8;

/// What a made-up topic holds: the same batch many times in each partition.
#[derive(Debug)]
pub(super) struct Replay {
    batch: Bytes,
    records: u32,
    batches: usize,
}

impl Replay {
    /// So many batches of about 256 KiB, their records' values of so many bytes.
    pub(super) fn new(record_bytes: usize, batches: usize) -> Self {
        let value = vec![b'x'; record_bytes];
        let mut builder = BatchBuilder::new(Codec::None);
        let mut records = 0;
        while builder.len_bytes() + record_bytes < BATCH_BYTES {
            builder.push(1, None, Some(&value), std::iter::empty());
            records += 1;
        }
        Self { batch: builder.finish(), records, batches }
    }

    pub(super) fn end_offset(&self) -> i64 {
        i64::from(self.records) * i64::try_from(self.batches).unwrap_or(i64::MAX)
    }
}

/// Sends all of a [`Replay`], a batch of each partition in turn.
#[derive(Debug)]
pub(super) struct ReplayBody {
    replay: Arc<Replay>,
    partitions: Vec<u32>,
    /// Batches sent so far, of all partitions.
    sent: usize,
    pending: VecDeque<Frame<Bytes>>,
    ended: bool,
}

impl ReplayBody {
    pub(super) fn new(replay: Arc<Replay>, partitions: Vec<u32>) -> Self {
        Self { replay, partitions, sent: 0, pending: VecDeque::new(), ended: false }
    }

    fn next_batch(&mut self) {
        let round = self.sent / self.partitions.len();
        let partition = self.partitions[self.sent % self.partitions.len()];
        let records = self.replay.records;
        let base_offset = i64::from(records) * i64::try_from(round).unwrap_or(i64::MAX);
        let info = v1::BatchInfo { base_offset, record_count: records, append_time_ms: 1, epoch: 0 };
        push_batch(&mut self.pending, partition, info, &self.replay.batch);
        self.sent += 1;
    }

    fn end(&mut self) {
        for partition in &self.partitions {
            let end = v1::PartitionEnd { partition: *partition, offset: self.replay.end_offset() };
            self.pending.push_back(message(v1::read_response::Frame::PartitionEnd(end)));
        }
        self.pending.push_back(Frame::trailers(ok_trailers()));
        self.ended = true;
    }
}

impl http_body::Body for ReplayBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.pending.is_empty() && !self.ended {
            if self.sent < self.replay.batches * self.partitions.len() {
                self.next_batch();
            } else {
                self.end();
            }
        }
        Poll::Ready(self.pending.pop_front().map(Ok))
    }
}

/// Sends on what producers send, for ever.
#[derive(Debug)]
pub(super) struct FollowBody {
    source: mpsc::Receiver<Passing>,
    pending: VecDeque<Frame<Bytes>>,
}

impl FollowBody {
    pub(super) fn new(source: mpsc::Receiver<Passing>, partitions: Vec<u32>) -> Self {
        let caught_up = partitions.into_iter().map(|partition| {
            let frame = v1::CaughtUp { partition, offset: 0, append_time_ms: 0 };
            message(v1::read_response::Frame::CaughtUp(frame))
        });
        Self { source, pending: caught_up.collect() }
    }
}

impl http_body::Body for FollowBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(frame) = self.pending.pop_front() {
            return Poll::Ready(Some(Ok(frame)));
        }
        match std::task::ready!(self.source.poll_recv(context)) {
            Some(passing) => push_batch(&mut self.pending, passing.partition, passing.info, &passing.batch),
            None => return Poll::Ready(None),
        }
        Poll::Ready(self.pending.pop_front().map(Ok))
    }
}

fn ok_trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", tonic::codegen::http::HeaderValue::from_static("0"));
    trailers
}

/// A message encoded as usual.
fn message(frame: v1::read_response::Frame) -> Frame<Bytes> {
    let response = v1::ReadResponse { frame: Some(frame) };
    let mut buffer = BytesMut::new();
    buffer.put_u8(0);
    buffer.put_u32(u32::try_from(response.encoded_len()).unwrap_or(u32::MAX));
    response.encode(&mut buffer).expect("a growing buffer has room");
    Frame::data(buffer.freeze())
}

/// A message with one batch in two pieces: all before the batch with the base offset set, and the rest of the batch.
fn push_batch(pieces: &mut VecDeque<Frame<Bytes>>, partition: u32, info: v1::BatchInfo, batch: &Bytes) {
    let len = |len: usize| 1 + encoded_len_varint(len as u64) + len;
    let info_bytes = info.encoded_len();
    let stored_bytes = len(info_bytes) + len(batch.len());
    let partition_bytes = if partition == 0 { 0 } else { 1 + encoded_len_varint(u64::from(partition)) };
    let frame_bytes = partition_bytes + len(stored_bytes);
    let mut head = BytesMut::with_capacity(96);
    head.put_u8(0);
    head.put_u32(u32::try_from(len(frame_bytes)).unwrap_or(u32::MAX));
    let field = |head: &mut BytesMut, tag: u8, len: usize| {
        head.put_u8(tag);
        encode_varint(len as u64, head);
    };
    field(&mut head, 0x12, frame_bytes);
    if partition != 0 {
        field(&mut head, 0x08, partition as usize);
    }
    field(&mut head, 0x12, stored_bytes);
    field(&mut head, 0x0a, info_bytes);
    info.encode(&mut head).expect("a growing buffer has room");
    field(&mut head, 0x12, batch.len());
    head.put_i64(info.base_offset);
    pieces.push_back(Frame::data(head.freeze()));
    pieces.push_back(Frame::data(batch.slice(OFFSET_BYTES..)));
}

#[cfg(test)]
mod tests {
    use std::collections::VecDeque;

    use bytes::Bytes;
    use prost::Message as _;
    use sawlog_proto::v1;

    use super::push_batch;

    #[test]
    fn a_batch_by_hand_is_the_message_that_prost_would_write() {
        for partition in [0, 7, 300] {
            let info = v1::BatchInfo { base_offset: 70_000, record_count: 3, append_time_ms: 5, epoch: 0 };
            let batch = Bytes::from(vec![1; 500]);
            let mut pieces = VecDeque::new();
            push_batch(&mut pieces, partition, info, &batch);
            let bytes: Vec<u8> =
                pieces.into_iter().flat_map(|piece| piece.into_data().expect("only data was pushed")).collect();

            let mut expected = 70_000_i64.to_be_bytes().to_vec();
            expected.extend_from_slice(&batch[8..]);
            let stored = v1::StoredBatch { info: Some(info), batch: expected.into() };
            let frame = v1::BatchesFrame { partition, batches: vec![stored] };
            let response = v1::ReadResponse { frame: Some(v1::read_response::Frame::Batches(frame)) };
            assert_eq!(u32::from_be_bytes(*bytes[1..].first_chunk().expect("five bytes")), bytes.len() as u32 - 5);
            assert_eq!(v1::ReadResponse::decode(&bytes[5..]).expect("it decodes"), response);
        }
    }
}
