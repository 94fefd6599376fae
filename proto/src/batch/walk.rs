//! The records of a batch: borrowed, without a copy or an allocation, or as shared buffers.

use bytes::Bytes;

use super::error::{BatchBound, BatchError, Flaw};
use super::{BatchHeader, BatchLimits, BatchRecord, Codec, HEADER_BYTES, RecordHeader, compress, varint};

/// The least bytes of a record: one for each of its seven fields.
const SHORTEST_RECORD: usize = 7;

/// A record, borrowed from its batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecordView<'a> {
    /// Its place in the batch, from 0.
    pub index: u32,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Key; absent is not empty.
    pub key: Option<&'a [u8]>,
    /// Value; absent is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in order.
    pub headers: Headers<'a>,
}

impl RecordView<'_> {
    /// Bytes of key, value and headers, as the limits count them.
    pub fn size_bytes(&self) -> usize {
        self.key.map_or(0, <[u8]>::len) + self.value.map_or(0, <[u8]>::len) + self.headers.payload_bytes
    }

    /// Checks the record against the limits of a record.
    ///
    /// # Errors
    /// [`BatchError::KeyTooLarge`], [`BatchError::TooManyHeaders`], [`BatchError::HeadersTooLarge`] or
    /// [`BatchError::RecordTooLarge`].
    pub fn check(&self, limits: &BatchLimits) -> Result<(), BatchError> {
        let index = self.index;
        let key = self.key.map_or(0, <[u8]>::len);
        if key > limits.key_bytes {
            return Err(BatchError::KeyTooLarge { index, found: key as u64, max: limits.key_bytes as u64 });
        }
        let (count, bytes) = (self.headers.count, self.headers.payload_bytes);
        if count > limits.headers {
            return Err(BatchError::TooManyHeaders { index, found: u64::from(count), max: u64::from(limits.headers) });
        }
        if bytes > limits.headers_bytes {
            return Err(BatchError::HeadersTooLarge { index, found: bytes as u64, max: limits.headers_bytes as u64 });
        }
        let size = self.size_bytes();
        if size > limits.record_bytes {
            return Err(BatchError::RecordTooLarge { index, found: size as u64, max: limits.record_bytes as u64 });
        }
        Ok(())
    }
}

/// The headers of a record, borrowed: an iterator over names and values, already proven well formed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Headers<'a> {
    bytes: &'a [u8],
    count: u32,
    payload_bytes: usize,
}

impl Headers<'_> {
    /// Headers left.
    pub fn len(&self) -> usize {
        self.count as usize
    }

    /// Whether none is left.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }
}

impl<'a> Iterator for Headers<'a> {
    /// Name, UTF-8 by contract but not checked here, and value; absent is not empty.
    type Item = (&'a [u8], Option<&'a [u8]>);

    fn next(&mut self) -> Option<Self::Item> {
        self.count = self.count.checked_sub(1)?;
        let mut at = 0;
        let name = read_field(self.bytes, &mut at).flatten().expect("headers were parsed before they were handed out");
        let value = read_field(self.bytes, &mut at).expect("headers were parsed before they were handed out");
        self.bytes = &self.bytes[at..];
        Some((name, value))
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.len(), Some(self.len()))
    }
}

impl ExactSizeIterator for Headers<'_> {}

/// A length and so many bytes: outer `None` if malformed, inner `None` if the length is -1.
#[inline]
fn read_field<'a>(bytes: &'a [u8], at: &mut usize) -> Option<Option<&'a [u8]>> {
    let length = varint::read_i32(bytes, at)?;
    if length < 0 {
        return (length == -1).then_some(None);
    }
    let end = at.checked_add(length as usize)?;
    let field = bytes.get(*at..end)?;
    *at = end;
    Some(Some(field))
}

/// Parses the record at the beginning of `bytes`; returns it and its length.
#[inline]
fn read_record(bytes: &[u8], index: u32, base_timestamp_ms: i64) -> Result<(RecordView<'_>, usize), BatchError> {
    let left = bytes.len() as i64;
    let malformed = |at: usize| BatchError::record(index, left, at as i64);
    let mut start = 0;
    let length = varint::read_i32(bytes, &mut start).ok_or_else(|| malformed(start))?;
    let end = usize::try_from(length).ok().and_then(|length| start.checked_add(length));
    let Some(body) = end.and_then(|end| bytes.get(start..end)) else {
        return Err(BatchError::record(index, left, i64::from(length)));
    };
    // The attributes of a record are unused and, as in Kafka, not looked at.
    let mut at = 1;
    let timestamp_delta = varint::read_i64(body, &mut at).ok_or_else(|| malformed(start + at))?;
    let offset_delta = varint::read_i32(body, &mut at).ok_or_else(|| malformed(start + at))?;
    if i64::from(offset_delta) != i64::from(index) {
        return Err(BatchError::record(index, i64::from(index), i64::from(offset_delta)));
    }
    let key = read_field(body, &mut at).ok_or_else(|| malformed(start + at))?;
    let value = read_field(body, &mut at).ok_or_else(|| malformed(start + at))?;
    let headers = read_headers(body, &mut at).ok_or_else(|| malformed(start + at))?;
    if at != body.len() {
        return Err(BatchError::record(index, body.len() as i64, at as i64));
    }
    let timestamp_ms = base_timestamp_ms.wrapping_add(timestamp_delta);
    Ok((RecordView { index, timestamp_ms, key, value, headers }, start + body.len()))
}

#[inline]
fn read_headers<'a>(body: &'a [u8], at: &mut usize) -> Option<Headers<'a>> {
    let count = u32::try_from(varint::read_i32(body, at)?).ok()?;
    let (start, mut payload_bytes) = (*at, 0);
    for _ in 0..count {
        // A count beyond the bytes fails at the first header that is not there.
        payload_bytes += read_field(body, at)??.len();
        payload_bytes += read_field(body, at)?.map_or(0, <[u8]>::len);
    }
    Some(Headers { bytes: &body[start..*at], count, payload_bytes })
}

/// Goes through records without a copy or an allocation.
#[derive(Debug, Clone)]
pub struct Walk<'a> {
    rest: &'a [u8],
    next: u32,
    count: u32,
    base_timestamp_ms: i64,
}

impl<'a> Walk<'a> {
    fn new(header: &BatchHeader, records: &'a [u8]) -> Self {
        Self { rest: records, next: 0, count: header.record_count, base_timestamp_ms: header.base_timestamp_ms }
    }
}

impl Walk<'_> {
    /// Bytes of records that are left: the place of the next record, for [`Records::at`].
    pub fn bytes_left(&self) -> usize {
        self.rest.len()
    }
}

impl<'a> Iterator for Walk<'a> {
    type Item = Result<RecordView<'a>, BatchError>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        if self.next == self.count {
            return None;
        }
        let result = read_record(self.rest, self.next, self.base_timestamp_ms);
        let result = result.and_then(|(record, length)| {
            self.rest = &self.rest[length..];
            let last = self.next + 1 == self.count;
            if last && !self.rest.is_empty() {
                return Err(BatchError::record(self.next, 0, self.rest.len() as i64));
            }
            Ok(record)
        });
        self.next = if result.is_ok() { self.next + 1 } else { self.count };
        Some(result)
    }
}

/// The records of an uncompressed batch, borrowed. After the first error the walk ends; of a well-formed batch it
/// gives exactly as many records as the header says.
///
/// # Panics
/// If the batch is compressed or shorter than its header says; call it on batches that passed [`super::check`].
pub fn walk<'a>(header: &BatchHeader, batch: &'a [u8]) -> Walk<'a> {
    assert!(header.codec == Codec::None, "only uncompressed records can be walked in place");
    Walk::new(header, &batch[HEADER_BYTES..header.total_bytes])
}

/// The records of a batch, decompressed if need be. Buffers are shared with the batch or with the decompressed whole.
#[derive(Debug, Clone)]
pub struct Records {
    body: Bytes,
    at: usize,
    next: u32,
    count: u32,
    base_timestamp_ms: i64,
}

/// Opens a batch for reading, decompressing it within `limits`. The CRC is not looked at: [`super::check`] does that.
///
/// # Errors
/// [`BatchError::Invalid`] if the header is malformed, the bytes are too few or cannot be decompressed,
/// [`BatchError::TooLarge`] if there would be more of them than allowed.
pub fn records(batch: &Bytes, limits: &BatchLimits) -> Result<Records, BatchError> {
    let header = BatchHeader::decode(batch)?;
    if header.total_bytes > batch.len() {
        return Err(BatchError::flaw(Flaw::Length, header.total_bytes as i64, batch.len() as i64));
    }
    if header.record_count > limits.records {
        return Err(BatchError::TooLarge {
            bound: BatchBound::Records,
            found: u64::from(header.record_count),
            max: u64::from(limits.records),
        });
    }
    let packed = batch.slice(HEADER_BYTES..header.total_bytes);
    let body = match header.codec {
        Codec::None => packed,
        codec => Bytes::from(compress::decompress(codec, &packed, limits.decompressed_bytes)?),
    };
    let shortest = header.record_count as usize * SHORTEST_RECORD;
    if body.len() < shortest {
        return Err(BatchError::flaw(Flaw::Records, shortest as i64, body.len() as i64));
    }
    let (count, base_timestamp_ms) = (header.record_count, header.base_timestamp_ms);
    Ok(Records { body, at: 0, next: 0, count, base_timestamp_ms })
}

impl Records {
    /// The same records, borrowed, from the first that is left.
    pub fn views(&self) -> Walk<'_> {
        Walk {
            rest: &self.body[self.at..],
            next: self.next,
            count: self.count,
            base_timestamp_ms: self.base_timestamp_ms,
        }
    }

    /// `view`, which came from [`Records::views`] of this batch, as shared buffers.
    pub fn share(&self, view: &RecordView<'_>) -> BatchRecord {
        let share = |part: &[u8]| if part.is_empty() { Bytes::new() } else { self.body.slice_ref(part) };
        let header = |(name, value): (&[u8], Option<&[u8]>)| RecordHeader { key: share(name), value: value.map(share) };
        BatchRecord {
            key: view.key.map(share),
            value: view.value.map(share),
            headers: view.headers.map(header).collect(),
            timestamp_ms: view.timestamp_ms,
        }
    }

    /// The record of this number, which begins where a walk had `bytes_left` before it.
    ///
    /// # Errors
    /// [`BatchError::Invalid`] if no record of this number begins there.
    pub fn at(&self, index: u32, bytes_left: usize) -> Result<BatchRecord, BatchError> {
        let start = self.body.len().checked_sub(bytes_left);
        let rest = start.map_or(&[][..], |start| &self.body[start..]);
        read_record(rest, index, self.base_timestamp_ms).map(|(view, _)| self.share(&view))
    }

    /// Bytes of all records, decompressed.
    pub fn body_bytes(&self) -> usize {
        self.body.len()
    }
}

impl Iterator for Records {
    type Item = Result<BatchRecord, BatchError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut views = self.views();
        let view = views.next()?;
        let (rest, next) = (views.rest.len(), views.next);
        let record = view.map(|view| self.share(&view));
        self.at = self.body.len() - rest;
        self.next = next;
        Some(record)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (0, Some((self.count - self.next) as usize))
    }
}
