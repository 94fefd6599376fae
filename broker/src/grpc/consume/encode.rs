//! The hand-made encoding of what Consume sends: the hot frames without a tree of messages in between, and without a
//! copy of large payloads.
//!
//! ```text
//! message = 0, length u32                           the gRPC prefix
//!           0x2a, length                            ConsumeResponse.records
//!             0x08, source_id; 0x10, epoch; 0x18, max_attempts
//!             then, per record: 0x22, length        Records.deliveries
//!               0x08, offset                        Delivery.offset
//!               0x12, length                        Delivery.record
//!                 0x0a, length, key; 0x12, length, value; per header: 0x1a, length, Header; 0x20, time
//!               0x18, append time; 0x20, epoch; 0x28, attempt; what few records have
//!             0x28, reached                         Records.reached_offset
//!             0x32, length, id                      Records.replay_id
//! ```
//!
//! [`Outbox`] gathers messages until the connection wants them. Invariant: what it holds is whole gRPC messages, byte
//! for byte those that the generated code would make.

use bytes::{BufMut as _, BytesMut};
use prost::Message as _;
use prost::encoding::{encode_varint, encoded_len_varint};
use sawlog_proto::v1;

use super::super::raw_body::{COPY_BYTES, Chunks, StoredSize, field_len, info_of, put_head, put_prefix};
use crate::coordinator::DeliveredRecord;
use crate::limits::DELIVERY_FRAME_BYTES;
use crate::partition;

const RESPONSE_RECORDS: u8 = 0x2a;
const RESPONSE_BATCHES: u8 = 0x32;
const FIELD_1_VARINT: u8 = 0x08;
const FIELD_2_VARINT: u8 = 0x10;
const FIELD_3_VARINT: u8 = 0x18;
const FIELD_4_VARINT: u8 = 0x20;
const FIELD_5_VARINT: u8 = 0x28;
const FIELD_6_VARINT: u8 = 0x30;
const FIELD_9_VARINT: u8 = 0x48;
const FIELD_10_VARINT: u8 = 0x50;
const FIELD_1_BYTES: u8 = 0x0a;
const FIELD_2_BYTES: u8 = 0x12;
const FIELD_3_BYTES: u8 = 0x1a;
const FIELD_4_BYTES: u8 = 0x22;
const FIELD_6_BYTES: u8 = 0x32;
const FIELD_7_BYTES: u8 = 0x3a;
const FIELD_8_BYTES: u8 = 0x42;
const FIELD_11_BYTES: u8 = 0x5a;

/// What is the same for all records of a frame.
#[derive(Debug, Clone, Copy)]
pub(in super::super) struct Head<'a> {
    pub(in super::super) source_id: u32,
    pub(in super::super) epoch: u64,
    pub(in super::super) max_attempts: u32,
    /// Id of the replay, as text; empty: none.
    pub(in super::super) replay_id: &'a str,
}

/// A record, and what few have.
#[derive(Debug)]
pub(in super::super) struct Item<'a> {
    pub(in super::super) record: &'a DeliveredRecord,
    pub(in super::super) attempt: u32,
    pub(in super::super) replay: bool,
    pub(in super::super) extra: Option<Box<Extra>>,
}

/// What few records have.
#[derive(Debug, Default)]
pub(in super::super) struct Extra {
    pub(in super::super) first_delivery_ms: i64,
    pub(in super::super) last_error_class: String,
    pub(in super::super) entry: Option<v1::EntryMark>,
    pub(in super::super) gap_before: bool,
    pub(in super::super) blocked_by: String,
}

/// Messages on their way to the connection.
#[derive(Debug, Default)]
pub(in super::super) struct Outbox {
    bytes: BytesMut,
    chunks: Chunks,
    sizes: Vec<Sizes>,
}

/// Lengths of a Delivery and of the Record in it.
#[derive(Debug, Clone, Copy)]
struct Sizes {
    record: usize,
    delivery: usize,
}

impl Outbox {
    /// Bytes held.
    pub(in super::super) fn len(&self) -> usize {
        self.chunks.len() + self.bytes.len()
    }

    pub(in super::super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Everything held.
    pub(in super::super) fn take(&mut self) -> Chunks {
        self.cut();
        std::mem::take(&mut self.chunks)
    }

    fn cut(&mut self) {
        if !self.bytes.is_empty() {
            self.chunks.push(self.bytes.split().freeze());
        }
    }

    /// An ordinary message.
    pub(in super::super) fn push(&mut self, frame: v1::consume_response::Frame) {
        let message = v1::ConsumeResponse { frame: Some(frame) };
        let length = message.encoded_len();
        self.bytes.reserve(5 + length);
        put_prefix(&mut self.bytes, length);
        message.encode(&mut self.bytes).expect("a BytesMut grows");
    }

    /// Records of one source, in messages of at most [`DELIVERY_FRAME_BYTES`] or one record.
    pub(in super::super) fn records(&mut self, head: Head<'_>, items: &[Item<'_>], reached: Option<i64>) {
        let mut sizes = std::mem::take(&mut self.sizes);
        sizes.clear();
        sizes.extend(items.iter().map(Sizes::of));
        let mut from = 0;
        loop {
            let mut bytes = 0;
            let fit = sizes[from..].iter().take_while(|sizes| {
                bytes += field_len(sizes.delivery);
                bytes <= DELIVERY_FRAME_BYTES
            });
            let to = (from + fit.count().max(1)).min(items.len());
            // What a part reaches is where the next one begins.
            let part_reached = match items.get(to) {
                Some(next) => reached.map(|_| next.record.delivery.offset.to_wire()),
                None => reached,
            };
            self.records_part(head, &items[from..to], &sizes[from..to], part_reached.unwrap_or(0));
            from = to;
            if from >= items.len() {
                break;
            }
        }
        self.sizes = sizes;
    }

    fn records_part(&mut self, head: Head<'_>, items: &[Item<'_>], sizes: &[Sizes], reached: i64) {
        let content: usize = sizes.iter().map(|sizes| field_len(sizes.delivery)).sum();
        let frame = varint_len(head.source_id.into())
            + varint_len(head.epoch)
            + varint_len(head.max_attempts.into())
            + content
            + varint_len(reached as u64)
            + text_len(head.replay_id.len());
        let start = self.len();
        self.bytes.reserve(16 + field_len(frame));
        put_prefix(&mut self.bytes, field_len(frame));
        put_head(&mut self.bytes, RESPONSE_RECORDS, frame);
        self.varint(FIELD_1_VARINT, head.source_id.into());
        self.varint(FIELD_2_VARINT, head.epoch);
        self.varint(FIELD_3_VARINT, head.max_attempts.into());
        for (item, sizes) in items.iter().zip(sizes) {
            self.delivery(item, *sizes);
        }
        self.varint(FIELD_5_VARINT, reached as u64);
        self.text(FIELD_6_BYTES, head.replay_id.as_bytes());
        debug_assert_eq!(self.len() - start, 5 + field_len(frame), "the lengths announced are those sent");
    }

    fn delivery(&mut self, item: &Item<'_>, sizes: Sizes) {
        let Item { record, attempt, replay, extra } = item;
        let mut head = Small::new();
        head.field(FIELD_4_BYTES, sizes.delivery as u64);
        head.number(FIELD_1_VARINT, record.delivery.offset.get());
        head.field(FIELD_2_BYTES, sizes.record as u64);
        self.bytes.extend_from_slice(head.bytes());
        let payload = &record.payload;
        if let Some(key) = &payload.key {
            self.blob(FIELD_1_BYTES, key);
        }
        if let Some(value) = &payload.value {
            self.blob(FIELD_2_BYTES, value);
        }
        for header in &payload.headers {
            let (key, value) = (name_of(&header.key), header.value.as_deref().unwrap_or_default());
            put_head(&mut self.bytes, FIELD_3_BYTES, header_len(&key, value));
            self.text(FIELD_1_BYTES, key.as_bytes());
            if !value.is_empty() {
                put_head(&mut self.bytes, FIELD_2_BYTES, value.len());
                self.bytes.extend_from_slice(value);
            }
        }
        let mut tail = Small::new();
        tail.field(FIELD_4_VARINT, record.timestamp_ms as u64);
        tail.number(FIELD_3_VARINT, record.append_ms as u64);
        tail.number(FIELD_4_VARINT, record.epoch.get().into());
        tail.number(FIELD_5_VARINT, (*attempt).into());
        self.bytes.extend_from_slice(tail.bytes());
        let Some(extra) = extra else { return self.varint(FIELD_10_VARINT, (*replay).into()) };
        self.varint(FIELD_6_VARINT, extra.first_delivery_ms as u64);
        self.text(FIELD_7_BYTES, extra.last_error_class.as_bytes());
        if let Some(entry) = &extra.entry {
            put_head(&mut self.bytes, FIELD_8_BYTES, entry.encoded_len());
            entry.encode(&mut self.bytes).expect("a BytesMut grows");
        }
        self.varint(FIELD_9_VARINT, extra.gap_before.into());
        self.varint(FIELD_10_VARINT, (*replay).into());
        self.text(FIELD_11_BYTES, extra.blocked_by.as_bytes());
    }

    /// A number, left out if it is 0.
    fn varint(&mut self, tag: u8, value: u64) {
        if value != 0 {
            self.bytes.put_u8(tag);
            encode_varint(value, &mut self.bytes);
        }
    }

    /// A text, left out if it is empty.
    fn text(&mut self, tag: u8, text: &[u8]) {
        if !text.is_empty() {
            put_head(&mut self.bytes, tag, text.len());
            self.bytes.extend_from_slice(text);
        }
    }

    /// Bytes of the log, present even if empty; large ones uncopied.
    fn blob(&mut self, tag: u8, bytes: &bytes::Bytes) {
        let mut head = Small::new();
        head.field(tag, bytes.len() as u64);
        self.bytes.extend_from_slice(head.bytes());
        if bytes.len() <= COPY_BYTES {
            self.bytes.extend_from_slice(bytes);
        } else {
            self.cut();
            self.chunks.push(bytes.clone());
        }
    }

    /// Stored batches of one source as one message, large ones uncopied.
    pub(in super::super) fn batches(
        &mut self,
        head: Head<'_>,
        frames: &[partition::Frame],
        marks: &[v1::MarkedOffset],
        from: i64,
        reached: i64,
    ) {
        let infos: Vec<v1::BatchInfo> = frames.iter().map(info_of).collect();
        let sizes: Vec<StoredSize> =
            infos.iter().zip(frames).map(|(info, frame)| StoredSize::of(info, &frame.batch)).collect();
        let frame_len = varint_len(head.source_id.into())
            + varint_len(head.epoch)
            + sizes.iter().map(|size| field_len(size.stored)).sum::<usize>()
            + marks.iter().map(|mark| field_len(mark.encoded_len())).sum::<usize>()
            + varint_len(from as u64)
            + varint_len(reached as u64)
            + text_len(head.replay_id.len());
        let start = self.len();
        put_prefix(&mut self.bytes, field_len(frame_len));
        put_head(&mut self.bytes, RESPONSE_BATCHES, frame_len);
        self.varint(FIELD_1_VARINT, head.source_id.into());
        self.varint(FIELD_2_VARINT, head.epoch);
        for ((frame, info), size) in frames.iter().zip(&infos).zip(&sizes) {
            put_head(&mut self.bytes, FIELD_3_BYTES, size.stored);
            put_head(&mut self.bytes, FIELD_1_BYTES, size.info);
            info.encode(&mut self.bytes).expect("a BytesMut grows");
            self.blob(FIELD_2_BYTES, &frame.batch);
        }
        for mark in marks {
            put_head(&mut self.bytes, FIELD_4_BYTES, mark.encoded_len());
            mark.encode(&mut self.bytes).expect("a BytesMut grows");
        }
        self.varint(FIELD_5_VARINT, from as u64);
        self.varint(FIELD_6_VARINT, reached as u64);
        self.text(FIELD_7_BYTES, head.replay_id.as_bytes());
        debug_assert_eq!(self.len() - start, 5 + field_len(frame_len), "the lengths announced are those sent");
    }
}

/// A few fields, gathered on the stack: each write to a shared buffer costs more than a number is long.
struct Small {
    bytes: [u8; SMALL_BYTES],
    len: usize,
}

/// Four fields of a tag and a number each.
const SMALL_BYTES: usize = 4 * 11;

impl Small {
    const fn new() -> Self {
        Self { bytes: [0; SMALL_BYTES], len: 0 }
    }

    /// A tag and a number, which may be the length of what follows.
    fn field(&mut self, tag: u8, mut value: u64) {
        self.byte(tag);
        while value >= 0x80 {
            self.byte(value as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    /// The same, left out if it is 0.
    fn number(&mut self, tag: u8, value: u64) {
        if value != 0 {
            self.field(tag, value);
        }
    }

    fn byte(&mut self, byte: u8) {
        self.bytes[self.len] = byte;
        self.len += 1;
    }

    fn bytes(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

impl Sizes {
    fn of(item: &Item<'_>) -> Self {
        let Item { record, attempt, replay, extra } = item;
        let payload = &record.payload;
        let mut size = 1 + encoded_len_varint(record.timestamp_ms as u64);
        size += payload.key.as_ref().map_or(0, |key| field_len(key.len()));
        size += payload.value.as_ref().map_or(0, |value| field_len(value.len()));
        for header in &payload.headers {
            let value = header.value.as_deref().unwrap_or_default();
            size += field_len(header_len(&name_of(&header.key), value));
        }
        let mut delivery = varint_len(record.delivery.offset.get())
            + field_len(size)
            + varint_len(record.append_ms as u64)
            + varint_len(record.epoch.get().into())
            + varint_len((*attempt).into())
            + varint_len((*replay).into());
        if let Some(extra) = extra {
            delivery += varint_len(extra.first_delivery_ms as u64)
                + text_len(extra.last_error_class.len())
                + extra.entry.as_ref().map_or(0, |entry| field_len(entry.encoded_len()))
                + varint_len(extra.gap_before.into())
                + text_len(extra.blocked_by.len());
        }
        Self { record: size, delivery }
    }
}

/// Names are UTF-8 by contract, which batches of other clients may break.
fn name_of(name: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(name)
}

fn header_len(key: &str, value: &[u8]) -> usize {
    text_len(key.len()) + text_len(value.len())
}

/// Bytes of a field with a number, which is left out if it is 0.
fn varint_len(value: u64) -> usize {
    if value == 0 { 0 } else { 1 + encoded_len_varint(value) }
}

/// Bytes of a field with a text, which is left out if it is empty.
fn text_len(length: usize) -> usize {
    if length == 0 { 0 } else { field_len(length) }
}

#[cfg(test)]
#[path = "encode_tests.rs"]
mod tests;
