//! The fixed part of a batch, and the checks of a whole one.

use crc_fast::CrcAlgorithm;

use super::error::{BatchBound, BatchError, Flaw};
use super::{BatchHeader, BatchLimits, Codec, HEADER_BYTES, ProducerStamp, walk};

/// Bytes before the length counts.
pub(super) const LENGTH_END: usize = 12;
/// Bytes that the CRC does not cover.
pub(super) const CRC_START: usize = 21;
/// Version of the format.
pub(super) const MAGIC: u8 = 2;

const CODEC_MASK: u16 = 0x07;
const TRANSACTION_BIT: u16 = 0x10;
const CONTROL_BIT: u16 = 0x20;

/// The first `N` bytes of `bytes` from `at`.
fn array<const N: usize>(bytes: &[u8; HEADER_BYTES], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

impl BatchHeader {
    /// Decodes the fixed part of the batch that begins `bytes`; what follows it is not looked at.
    ///
    /// # Errors
    /// [`BatchError::Invalid`] if the fixed part contradicts itself or is of a kind that is not stored here (control,
    /// transaction); [`BatchError::UnsupportedCodec`].
    pub fn decode(bytes: &[u8]) -> Result<Self, BatchError> {
        let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else {
            return Err(BatchError::flaw(Flaw::Length, HEADER_BYTES as i64, bytes.len() as i64));
        };
        if head[16] != MAGIC {
            return Err(BatchError::flaw(Flaw::Magic, i64::from(MAGIC), i64::from(head[16])));
        }
        let length = i32::from_be_bytes(array(head, 8));
        let shortest = (HEADER_BYTES - LENGTH_END) as i32;
        if length < shortest {
            return Err(BatchError::flaw(Flaw::Length, i64::from(shortest), i64::from(length)));
        }
        let record_count = i32::from_be_bytes(array(head, 57));
        let last_offset_delta = i32::from_be_bytes(array(head, 23));
        if record_count < 1 || record_count - 1 != last_offset_delta {
            return Err(BatchError::flaw(Flaw::Count, i64::from(last_offset_delta) + 1, i64::from(record_count)));
        }
        Ok(Self {
            base_offset: i64::from_be_bytes(array(head, 0)),
            leader_epoch: i32::from_be_bytes(array(head, 12)),
            total_bytes: LENGTH_END + length as usize,
            record_count: record_count as u32,
            codec: codec_of(u16::from_be_bytes(array(head, CRC_START)))?,
            base_timestamp_ms: i64::from_be_bytes(array(head, 27)),
            max_timestamp_ms: i64::from_be_bytes(array(head, 35)),
            producer: producer_of(head)?,
        })
    }
}

fn codec_of(attributes: u16) -> Result<Codec, BatchError> {
    let found = i64::from(attributes);
    if attributes & CONTROL_BIT != 0 {
        return Err(BatchError::flaw(Flaw::Control, 0, found));
    }
    if attributes & TRANSACTION_BIT != 0 {
        return Err(BatchError::flaw(Flaw::Transaction, 0, found));
    }
    let id = (attributes & CODEC_MASK) as u8;
    if attributes & !CODEC_MASK != 0 {
        return Err(BatchError::flaw(Flaw::Attributes, i64::from(id), found));
    }
    Codec::from_id(id).ok_or(BatchError::UnsupportedCodec { codec: id })
}

fn producer_of(head: &[u8; HEADER_BYTES]) -> Result<Option<ProducerStamp>, BatchError> {
    let stamp = ProducerStamp {
        producer_id: i64::from_be_bytes(array(head, 43)),
        producer_epoch: i16::from_be_bytes(array(head, 51)),
        base_sequence: i32::from_be_bytes(array(head, 53)),
    };
    // Clients without idempotence write -1 as id and differ in what they write beside it.
    if stamp.producer_id == -1 {
        return Ok(None);
    }
    let worst = stamp.producer_id.min(i64::from(stamp.producer_epoch)).min(i64::from(stamp.base_sequence));
    if worst < 0 {
        return Err(BatchError::flaw(Flaw::Producer, 0, worst));
    }
    Ok(Some(stamp))
}

/// CRC-32C of everything that a batch's CRC covers.
pub(super) fn crc_of(batch: &[u8]) -> u32 {
    crc_fast::checksum(CrcAlgorithm::Crc32Iscsi, &batch[CRC_START..]) as u32
}

/// Checks a whole batch as a broker does at entry and a reader after it: size, header, length, CRC-32C; if `deep`,
/// also each record of an uncompressed batch, with its size. A compressed one is not opened.
///
/// # Errors
/// The first flaw found, as [`BatchError`].
pub fn check(batch: &[u8], limits: &BatchLimits, deep: bool) -> Result<BatchHeader, BatchError> {
    if batch.len() > limits.batch_bytes {
        return Err(BatchError::TooLarge {
            bound: BatchBound::Bytes,
            found: batch.len() as u64,
            max: limits.batch_bytes as u64,
        });
    }
    let header = BatchHeader::decode(batch)?;
    if header.total_bytes != batch.len() {
        return Err(BatchError::flaw(Flaw::Length, header.total_bytes as i64, batch.len() as i64));
    }
    if header.record_count > limits.records {
        return Err(BatchError::TooLarge {
            bound: BatchBound::Records,
            found: u64::from(header.record_count),
            max: u64::from(limits.records),
        });
    }
    let mut stated = [0; 4];
    stated.copy_from_slice(&batch[17..CRC_START]);
    let (expected, found) = (crc_of(batch), u32::from_be_bytes(stated));
    if expected != found {
        return Err(BatchError::flaw(Flaw::Crc, i64::from(expected), i64::from(found)));
    }
    if deep && header.codec == Codec::None {
        for record in walk::walk(&header, batch) {
            record?.check(limits)?;
        }
    }
    Ok(header)
}

/// The first 16 bytes of `batch` with this base offset and leader epoch: what a broker writes in place of those that
/// came. The CRC does not cover them.
///
/// # Panics
/// If `batch` is shorter than its header; call it on checked batches.
pub fn head_with(batch: &[u8], base_offset: i64, leader_epoch: i32) -> [u8; 16] {
    let mut head = [0; 16];
    head[..8].copy_from_slice(&base_offset.to_be_bytes());
    head[8..LENGTH_END].copy_from_slice(&batch[8..LENGTH_END]);
    head[LENGTH_END..].copy_from_slice(&leader_epoch.to_be_bytes());
    head
}
