//! Building a batch.

use bytes::Bytes;

use super::check::{CRC_START, LENGTH_END, MAGIC, crc_of};
use super::compress::Compressor;
use super::{Codec, HEADER_BYTES, ProducerStamp, varint};

/// Bytes before the key: length, attributes, timestamp delta, offset delta, key length.
const HEAD_MAX: usize = 2 * varint::MAX_I32 + varint::MAX_I64 + varint::MAX_I32 + 1;

/// Collects records and makes a batch of them; then it is empty again and can be used for the next.
///
/// Base offset and leader epoch of a new batch are 0; a broker writes its own over them.
#[derive(Debug)]
pub struct BatchBuilder {
    codec: Codec,
    producer: Option<ProducerStamp>,
    /// Room for the header, then the records, not compressed.
    buffer: Vec<u8>,
    count: u32,
    base_timestamp_ms: i64,
    max_timestamp_ms: i64,
    compressor: Compressor,
    /// Bytes that the last batch took: the next will take about as many.
    expected_bytes: usize,
}

impl BatchBuilder {
    /// An empty builder; it takes no memory before the first record.
    pub fn new(codec: Codec) -> Self {
        Self {
            codec,
            producer: None,
            buffer: Vec::new(),
            count: 0,
            base_timestamp_ms: 0,
            max_timestamp_ms: 0,
            compressor: Compressor::default(),
            expected_bytes: 0,
        }
    }

    /// Makes room for about so many bytes of records.
    pub fn reserve(&mut self, bytes: usize) {
        self.begin();
        self.buffer.reserve(bytes);
    }

    /// Appends a record. Its bounds are not checked here, any time and any bytes come back as they were.
    ///
    /// `headers` is gone through twice: for its size and for its bytes.
    ///
    /// # Panics
    /// If the batch would have more than `i32::MAX` bytes or records.
    pub fn push<'a>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a str, &'a [u8])> + Clone,
    ) {
        let headers = headers.map(|(name, value)| (name.as_bytes(), Some(value)));
        self.push_raw(timestamp_ms, key, value, headers);
    }

    /// The same for headers that came from elsewhere: names of any bytes, values that may be absent.
    ///
    /// # Panics
    /// As [`BatchBuilder::push`].
    pub fn push_raw<'a>(
        &mut self,
        timestamp_ms: i64,
        key: Option<&[u8]>,
        value: Option<&[u8]>,
        headers: impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
    ) {
        self.begin();
        if self.count == 0 {
            self.base_timestamp_ms = timestamp_ms;
            self.max_timestamp_ms = timestamp_ms;
        }
        self.max_timestamp_ms = self.max_timestamp_ms.max(timestamp_ms);
        let timestamp_delta = timestamp_ms.wrapping_sub(self.base_timestamp_ms);
        let offset_delta = i32::try_from(self.count).expect("a batch has at most i32::MAX records");
        let (key_len, value_len) = (length_of(key), length_of(value));
        let (mut header_count, mut headers_bytes) = (0, 0);
        for (name, value) in headers.clone() {
            header_count += 1;
            headers_bytes += field_bytes(Some(name)) + field_bytes(value);
        }
        let length = 1
            + varint::size_i64(timestamp_delta)
            + varint::size_i32(offset_delta)
            + varint::size_i32(key_len)
            + key.map_or(0, <[u8]>::len)
            + varint::size_i32(value_len)
            + value.map_or(0, <[u8]>::len)
            + varint::size_i32(header_count)
            + headers_bytes;
        assert!(length <= i32::MAX as usize - self.buffer.len(), "a batch has at most i32::MAX bytes");
        self.buffer.reserve(length + varint::MAX_I32);
        let mut head = [0; HEAD_MAX];
        // One byte of attributes, unused and 0, follows the length.
        let at = varint::put_i32(&mut head, 0, length as i32) + 1;
        let at = varint::put_i64(&mut head, at, timestamp_delta);
        let at = varint::put_i32(&mut head, at, offset_delta);
        let at = varint::put_i32(&mut head, at, key_len);
        self.buffer.extend_from_slice(&head[..at]);
        self.buffer.extend_from_slice(key.unwrap_or_default());
        let at = varint::put_i32(&mut head, 0, value_len);
        self.buffer.extend_from_slice(&head[..at]);
        self.buffer.extend_from_slice(value.unwrap_or_default());
        let at = varint::put_i32(&mut head, 0, header_count);
        self.buffer.extend_from_slice(&head[..at]);
        for (name, value) in headers {
            self.put_field(Some(name));
            self.put_field(value);
        }
        self.count += 1;
    }

    /// Records so far.
    pub fn record_count(&self) -> u32 {
        self.count
    }

    /// Whether there is no record.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Bytes of the batch so far, header included, before compression; 0 without records.
    pub fn len_bytes(&self) -> usize {
        if self.count == 0 { 0 } else { self.buffer.len() }
    }

    /// Sets the identity of the batch being built (rule PR-7); it is forgotten with the batch.
    pub fn set_producer(&mut self, producer: ProducerStamp) {
        self.producer = Some(producer);
    }

    /// The batch of all records pushed since the last; the builder is empty afterwards.
    ///
    /// # Panics
    /// If there is no record: a batch has at least one.
    pub fn finish(&mut self) -> Bytes {
        assert!(self.count > 0, "a batch has at least one record");
        let mut batch = if self.codec == Codec::None {
            self.expected_bytes = self.buffer.len();
            std::mem::take(&mut self.buffer)
        } else {
            let mut batch = Vec::with_capacity(HEADER_BYTES + self.buffer.len() / 2);
            batch.resize(HEADER_BYTES, 0);
            self.compressor.compress(self.codec, &self.buffer[HEADER_BYTES..], &mut batch);
            self.buffer.clear();
            batch
        };
        self.seal(&mut batch);
        self.count = 0;
        self.producer = None;
        Bytes::from(batch)
    }

    /// Leaves room for the header before the first record.
    fn begin(&mut self) {
        if self.buffer.is_empty() {
            self.buffer.reserve(self.expected_bytes.max(HEADER_BYTES));
            self.buffer.resize(HEADER_BYTES, 0);
        }
    }

    fn put_field(&mut self, bytes: Option<&[u8]>) {
        let mut head = [0; varint::MAX_I32];
        let at = varint::put_i32(&mut head, 0, length_of(bytes));
        self.buffer.extend_from_slice(&head[..at]);
        self.buffer.extend_from_slice(bytes.unwrap_or_default());
    }

    /// Writes the header over the room left for it.
    fn seal(&self, batch: &mut [u8]) {
        let length = i32::try_from(batch.len() - LENGTH_END).expect("a batch has at most i32::MAX bytes");
        let (none, count) =
            (ProducerStamp { producer_id: -1, producer_epoch: -1, base_sequence: -1 }, self.count as i32);
        let producer = self.producer.unwrap_or(none);
        batch[8..12].copy_from_slice(&length.to_be_bytes());
        batch[16] = MAGIC;
        batch[21..23].copy_from_slice(&u16::from(self.codec.id()).to_be_bytes());
        batch[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        batch[27..35].copy_from_slice(&self.base_timestamp_ms.to_be_bytes());
        batch[35..43].copy_from_slice(&self.max_timestamp_ms.to_be_bytes());
        batch[43..51].copy_from_slice(&producer.producer_id.to_be_bytes());
        batch[51..53].copy_from_slice(&producer.producer_epoch.to_be_bytes());
        batch[53..57].copy_from_slice(&producer.base_sequence.to_be_bytes());
        batch[57..61].copy_from_slice(&count.to_be_bytes());
        let crc = crc_of(batch);
        batch[17..CRC_START].copy_from_slice(&crc.to_be_bytes());
    }
}

/// The same batch under another identity: its producer sends it again, numbered anew (rule PR-7).
///
/// # Panics
/// If it is no whole batch.
pub fn restamp(batch: Bytes, producer: ProducerStamp) -> Bytes {
    let mut batch = batch.try_into_mut().unwrap_or_else(|shared| shared.as_ref().into());
    assert!(batch.len() >= HEADER_BYTES, "only a whole batch is stamped anew");
    batch[43..51].copy_from_slice(&producer.producer_id.to_be_bytes());
    batch[51..53].copy_from_slice(&producer.producer_epoch.to_be_bytes());
    batch[53..57].copy_from_slice(&producer.base_sequence.to_be_bytes());
    let crc = crc_of(&batch);
    batch[17..CRC_START].copy_from_slice(&crc.to_be_bytes());
    batch.freeze()
}

/// The length that stands before a field, -1 for an absent one.
fn length_of(field: Option<&[u8]>) -> i32 {
    field.map_or(-1, |field| i32::try_from(field.len()).expect("a batch has at most i32::MAX bytes"))
}

fn field_bytes(field: Option<&[u8]>) -> usize {
    varint::size_i32(length_of(field)) + field.map_or(0, <[u8]>::len)
}
