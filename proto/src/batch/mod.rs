//! Kafka's RecordBatch v2 (KIP-98, `DefaultRecordBatch`): the unit of append.
//!
//! ```text
//! 0   base offset           i64   outside the CRC; set by the broker
//! 8   batch length          i32   bytes after this field
//! 12  partition leader epoch i32  outside the CRC; set by the broker
//! 16  magic                 i8    2
//! 17  crc                   u32   CRC-32C of everything from 21 on
//! 21  attributes            i16   bits 0-2 codec, 3 timestamp type, 4 transactional, 5 control, 6 delete horizon
//! 23  last offset delta     i32   record count - 1
//! 27  base timestamp        i64   milliseconds since 1970
//! 35  max timestamp         i64
//! 43  producer id           i64   -1: none
//! 51  producer epoch        i16   -1: none
//! 53  base sequence         i32   -1: none
//! 57  record count          i32
//! 61  records
//! ```
//!
//! All integers are big-endian; records use zig-zag varints.

use bytes::Bytes;

/// Bytes of the header before the records.
pub const HEADER_BYTES: usize = 61;

/// Compression of the records of a batch; numbers as in Kafka.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Codec {
    /// Not compressed.
    #[default]
    None,
    /// LZ4 frame format.
    Lz4,
    /// Zstandard.
    Zstd,
}

/// Identity of an idempotent batch (rule PR-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProducerStamp {
    /// From InitProducer.
    pub producer_id: i64,
    /// From InitProducer, 0 to 32,767.
    pub producer_epoch: i16,
    /// Sequence of the first record; counts records per partition and wraps from `i32::MAX` to 0.
    pub base_sequence: i32,
}

/// The decoded fixed part of a batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchHeader {
    /// Offset of the first record as it stands in the bytes.
    pub base_offset: i64,
    /// Leader epoch as it stands in the bytes.
    pub leader_epoch: i32,
    /// Bytes of the whole batch, header included.
    pub total_bytes: usize,
    /// Number of records, at least 1.
    pub record_count: u32,
    /// Compression of the records.
    pub codec: Codec,
    /// Time of the first record, milliseconds since 1970.
    pub base_timestamp_ms: i64,
    /// Greatest time of a record, milliseconds since 1970.
    pub max_timestamp_ms: i64,
    /// Identity of an idempotent producer.
    pub producer: Option<ProducerStamp>,
}

/// A header of a record, borrowed from its batch.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RecordHeader {
    /// Name, UTF-8 by contract, not checked here.
    pub key: Bytes,
    /// Value; absent is not empty.
    pub value: Option<Bytes>,
}

/// A record, its buffers shared with the batch it came from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct BatchRecord {
    /// Key; absent is not empty.
    pub key: Option<Bytes>,
    /// Value; absent is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<RecordHeader>,
    /// Milliseconds since 1970.
    pub timestamp_ms: i64,
}
