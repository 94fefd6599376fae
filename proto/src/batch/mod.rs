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
//! All integers are big-endian. A record is, in zig-zag varints but for its attributes:
//!
//! ```text
//! length varint, attributes i8 (unused), timestamp delta varlong, offset delta varint,
//! key length varint (-1: none) and key, value length varint (-1: none) and value,
//! header count varint, per header: name length varint and name, value length varint (-1: none) and value
//! ```
//!
//! It owns the bytes of a batch and nothing of where they are stored or what they mean. Invariants: bytes of the wire
//! or the disk lead to a [`BatchError`], never to a panic; no length is believed before it was compared with the bytes
//! that are there; memory taken stays within the [`BatchLimits`] given; encoding, checking and walking take no memory
//! per record.

mod check;
mod compress;
mod encode;
mod error;
mod varint;
mod walk;

#[cfg(test)]
mod tests;

use bytes::Bytes;

pub use self::check::{check, head_with};
pub use self::encode::{BatchBuilder, restamp};
pub use self::error::{BatchBound, BatchError, Flaw};
pub use self::walk::{Headers, RecordView, Records, Walk, records, walk};

/// Bytes of the header before the records.
pub const HEADER_BYTES: usize = 61;

/// Compression of the records of a batch; numbers as in Kafka (`CompressionType`).
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

impl Codec {
    /// The names of all codecs, for error messages.
    pub const KNOWN: &'static str = "none, lz4, zstd";

    /// Its number in the attributes of a batch.
    pub const fn id(self) -> u8 {
        match self {
            Self::None => 0,
            Self::Lz4 => 3,
            Self::Zstd => 4,
        }
    }

    /// The codec of this number; `None` if it is not one of ours.
    pub const fn from_id(id: u8) -> Option<Self> {
        match id {
            0 => Some(Self::None),
            3 => Some(Self::Lz4),
            4 => Some(Self::Zstd),
            _ => None,
        }
    }
}

/// Bounds within which batches are checked and decoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BatchLimits {
    /// Bytes of a batch as sent, header included.
    pub batch_bytes: usize,
    /// Records of a batch.
    pub records: u32,
    /// Bytes of all records after decompression.
    pub decompressed_bytes: usize,
    /// Bytes of a record: key, value, names and values of headers.
    pub record_bytes: usize,
    /// Bytes of a key.
    pub key_bytes: usize,
    /// Headers of a record.
    pub headers: u32,
    /// Bytes of all headers of a record, names and values.
    pub headers_bytes: usize,
}

impl BatchLimits {
    /// What a broker allows unless a topic says otherwise.
    pub const DEFAULT: Self = Self {
        batch_bytes: (4 << 20) + (64 << 10),
        records: 10_000,
        decompressed_bytes: 16 << 20,
        record_bytes: 1 << 20,
        key_bytes: 1 << 10,
        headers: 64,
        headers_bytes: 64 << 10,
    };
}

impl Default for BatchLimits {
    fn default() -> Self {
        Self::DEFAULT
    }
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
