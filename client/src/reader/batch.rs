//! A batch as it was read, its records unpacked when asked for.

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchLimits, BatchRecord, Records};

use super::ReadRecord;
use crate::error::{Error, ErrorKind};
use crate::types::Header;

pub use sawlog_proto::batch::Headers;

/// A batch that was read and whose checksum is right, its records not yet unpacked.
#[derive(Debug, Clone)]
pub struct ReadBatch {
    pub(crate) partition: u32,
    pub(crate) epoch: u32,
    pub(crate) append_time_ms: i64,
    pub(crate) base_offset: u64,
    /// Index of the first record within the bounds of the read.
    pub(crate) first: u32,
    /// Index after the last.
    pub(crate) last: u32,
    pub(crate) batch: Bytes,
}

/// A record of a [`ReadBatch`], borrowed from it.
#[derive(Debug, Clone, Copy)]
pub struct BatchItem<'a> {
    /// Offset.
    pub offset: u64,
    /// Event time in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Entity id; absent is not empty.
    pub key: Option<&'a [u8]>,
    /// Payload; absent is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Names and values of the headers, in order.
    pub headers: Headers<'a>,
}

impl ReadBatch {
    /// Partition, from 0.
    pub fn partition(&self) -> u32 {
        self.partition
    }

    /// Epoch of the partition when it was appended.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// Time of the append in milliseconds since 1970.
    pub fn append_time_ms(&self) -> i64 {
        self.append_time_ms
    }

    /// Offset of the first record within the bounds of the read.
    pub fn first_offset(&self) -> u64 {
        self.base_offset + u64::from(self.first)
    }

    /// Number of records within the bounds of the read, at least 1.
    #[expect(clippy::len_without_is_empty, reason = "a batch that was read has at least one record")]
    pub fn len(&self) -> usize {
        (self.last - self.first) as usize
    }

    /// Bytes of the batch as it came.
    pub fn bytes(&self) -> usize {
        self.batch.len()
    }

    /// Calls `each` with every record in order; returns their number. Nothing is allocated per record.
    ///
    /// # Errors
    /// [`ErrorKind::DataLoss`] if the batch, or a record of it, cannot be unpacked.
    pub fn for_each(&self, mut each: impl FnMut(BatchItem<'_>)) -> Result<usize, Error> {
        let records = self.unpack()?;
        for view in records.views().take(self.last as usize) {
            let view = view.map_err(|flaw| self.undecodable(&flaw.to_string()))?;
            if view.index >= self.first {
                each(BatchItem {
                    offset: self.base_offset + u64::from(view.index),
                    timestamp_ms: view.timestamp_ms,
                    key: view.key,
                    value: view.value,
                    headers: view.headers,
                });
            }
        }
        Ok(self.len())
    }

    /// All records, sharing the bytes of the batch.
    ///
    /// # Errors
    /// As [`ReadBatch::for_each`].
    pub fn records(&self) -> Result<Vec<ReadRecord>, Error> {
        let mut open = OpenBatch::new(self.clone())?;
        std::iter::from_fn(|| open.next_record()).collect()
    }

    fn unpack(&self) -> Result<Records, Error> {
        batch::records(&self.batch, &BatchLimits::DEFAULT).map_err(|flaw| self.undecodable(&flaw.to_string()))
    }

    fn undecodable(&self, what: &str) -> Error {
        let message = format!(
            "the batch at offset {} of partition {} cannot be decoded: {what}",
            self.base_offset, self.partition
        );
        Error::new(ErrorKind::DataLoss, message)
            .with_fact("partition", self.partition.to_string())
            .with_fact("first_offset", self.first_offset().to_string())
            .with_fact("last_offset", (self.base_offset + u64::from(self.last) - 1).to_string())
    }
}

/// A batch that is handed out record by record.
#[derive(Debug)]
pub(crate) struct OpenBatch {
    batch: ReadBatch,
    records: Records,
    next: u32,
}

impl OpenBatch {
    pub(crate) fn new(batch: ReadBatch) -> Result<Self, Error> {
        let records = batch.unpack()?;
        Ok(Self { batch, records, next: 0 })
    }

    pub(crate) fn next_record(&mut self) -> Option<Result<ReadRecord, Error>> {
        while self.next < self.batch.last {
            let record = match self.records.next() {
                Some(Ok(record)) => record,
                Some(Err(flaw)) => {
                    self.next = self.batch.last;
                    return Some(Err(self.batch.undecodable(&flaw.to_string())));
                }
                None => return None,
            };
            self.next += 1;
            if self.next > self.batch.first {
                return Some(Ok(self.place(record)));
            }
        }
        None
    }

    fn place(&self, record: BatchRecord) -> ReadRecord {
        let header = |header: batch::RecordHeader| Header {
            key: String::from_utf8_lossy(&header.key).into_owned(),
            value: header.value.unwrap_or_default(),
        };
        ReadRecord {
            partition: self.batch.partition,
            offset: self.batch.base_offset + u64::from(self.next) - 1,
            epoch: self.batch.epoch,
            append_time_ms: self.batch.append_time_ms,
            timestamp_ms: record.timestamp_ms,
            key: record.key,
            value: record.value,
            headers: record.headers.into_iter().map(header).collect(),
        }
    }
}
