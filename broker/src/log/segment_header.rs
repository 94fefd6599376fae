//! The first bytes of a log file: whose segment it is, where it begins, its salt.
//!
//! Owns the codec, and how a damaged header is made good from the frames (rule C1). Must not know indexes or readers.

use std::io;

use super::environment::LogIdentity;
use super::format::{
    FORMAT_MAJOR, FORMAT_MINOR, SEGMENT_HEADER_BYTES, SEGMENT_MAGIC, array_at, i64_at, segment_field as field, u16_at,
    u32_at, u64_at,
};
use super::frame::FrameContext;
use super::scan::{FrameWalker, SCAN_CHUNK_BYTES};
use super::storage::StorageFile;
use crate::model::{Offset, PartitionEpoch, PartitionId, TopicId, TopicUuid};

/// The header of a segment's log file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SegmentHeader {
    /// Whose log it is.
    pub identity: LogIdentity,
    /// Offset of the first record; everything below had been durable when the segment was made (rule D7).
    pub base: Offset,
    /// Random number that stands in each of its frames.
    pub salt: u64,
    /// No frame of the segment was appended before this time, in milliseconds since 1970.
    pub floor_time_ms: i64,
    /// No frame of the segment has a lower epoch.
    pub epoch: PartitionEpoch,
}

/// Why a segment's header is not good.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SegmentFault {
    /// Damaged: it may be made good from the frames.
    #[error("damaged segment header: {0}")]
    Damaged(&'static str),
    /// Written by a program of another major version.
    #[error("format version {major}.{minor}, this program knows {FORMAT_MAJOR}")]
    Version {
        /// Major version found.
        major: u16,
        /// Minor version found.
        minor: u16,
    },
    /// A segment of another log.
    #[error("a segment of another log: {0} differs")]
    Foreign(&'static str),
}

impl SegmentHeader {
    /// Decodes a header and checks it by itself.
    ///
    /// # Errors
    /// [`SegmentFault::Damaged`] or [`SegmentFault::Version`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SegmentFault> {
        if bytes.len() < SEGMENT_HEADER_BYTES {
            return Err(SegmentFault::Damaged("too short"));
        }
        if array_at(bytes, field::MAGIC) != SEGMENT_MAGIC {
            return Err(SegmentFault::Damaged("magic"));
        }
        if crc32fast::hash(&bytes[..field::CHECKSUM]) != u32_at(bytes, field::CHECKSUM) {
            return Err(SegmentFault::Damaged("checksum"));
        }
        let (major, minor) = (u16_at(bytes, field::MAJOR), u16_at(bytes, field::MINOR));
        if major != FORMAT_MAJOR {
            return Err(SegmentFault::Version { major, minor });
        }
        Ok(Self {
            identity: LogIdentity {
                data_dir: array_at(bytes, field::DATA_DIR),
                topic_uuid: TopicUuid(array_at(bytes, field::TOPIC_UUID)),
                topic_id: TopicId(u64_at(bytes, field::TOPIC_ID)),
                partition: PartitionId(u32_at(bytes, field::PARTITION)),
            },
            base: Offset::new(u64_at(bytes, field::BASE_OFFSET)).ok_or(SegmentFault::Damaged("base offset"))?,
            salt: u64_at(bytes, field::SALT),
            floor_time_ms: i64_at(bytes, field::FLOOR_TIME),
            epoch: PartitionEpoch::new(u32_at(bytes, field::EPOCH)).ok_or(SegmentFault::Damaged("epoch"))?,
        })
    }

    /// Checks that the segment is of this log and begins at `base`.
    ///
    /// # Errors
    /// [`SegmentFault::Foreign`].
    pub fn check(&self, identity: &LogIdentity, base: Offset) -> Result<(), SegmentFault> {
        let foreign = |what| Err(SegmentFault::Foreign(what));
        if self.identity.data_dir != identity.data_dir {
            return foreign("data directory");
        }
        if self.identity.topic_uuid != identity.topic_uuid || self.identity.topic_id != identity.topic_id {
            return foreign("topic");
        }
        if self.identity.partition != identity.partition {
            return foreign("partition");
        }
        if self.base != base { foreign("base offset") } else { Ok(()) }
    }

    /// The bytes of the header.
    pub fn encode(&self) -> [u8; SEGMENT_HEADER_BYTES] {
        let mut bytes = [0; SEGMENT_HEADER_BYTES];
        let mut put = |at: usize, field: &[u8]| bytes[at..at + field.len()].copy_from_slice(field);
        put(field::MAGIC, &SEGMENT_MAGIC);
        put(field::MAJOR, &FORMAT_MAJOR.to_le_bytes());
        put(field::MINOR, &FORMAT_MINOR.to_le_bytes());
        put(field::PARTITION, &self.identity.partition.0.to_le_bytes());
        put(field::DATA_DIR, &self.identity.data_dir);
        put(field::TOPIC_UUID, &self.identity.topic_uuid.0);
        put(field::TOPIC_ID, &self.identity.topic_id.0.to_le_bytes());
        put(field::BASE_OFFSET, &self.base.get().to_le_bytes());
        put(field::SALT, &self.salt.to_le_bytes());
        put(field::FLOOR_TIME, &self.floor_time_ms.to_le_bytes());
        put(field::EPOCH, &self.epoch.get().to_le_bytes());
        let checksum = crc32fast::hash(&bytes[..field::CHECKSUM]);
        bytes[field::CHECKSUM..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }
}

/// What is known of the beginning of a log file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FoundHeader {
    /// A good header.
    Good(SegmentHeader),
    /// The header is damaged, but its frames tell what it said.
    MadeGood(SegmentHeader),
    /// The header is damaged and there is no good frame.
    Lost,
}

/// Reads the header of a log file and, if it is damaged, makes it good from the first good frame of this log whose
/// offset is at or above `base`.
///
/// # Errors
/// The outer one: the file could not be read. The inner one: the file is of another log or version.
pub fn read_header(
    file: &dyn StorageFile,
    identity: &LogIdentity,
    base: Offset,
) -> io::Result<Result<FoundHeader, SegmentFault>> {
    let mut bytes = [0; SEGMENT_HEADER_BYTES];
    let read = file.read_at(&mut bytes, 0)?;
    match SegmentHeader::decode(&bytes[..read]) {
        Ok(header) => return Ok(header.check(identity, base).map(|()| FoundHeader::Good(header))),
        Err(SegmentFault::Damaged(_)) => {}
        Err(fault) => return Ok(Err(fault)),
    }
    let any = FrameContext::new(identity, 0);
    let mut walker = FrameWalker::new(file, any, file.len()?, SCAN_CHUNK_BYTES);
    // The salt is not known, so that the frame must show in every other way that it is one of this log.
    let first = walker.next_header_of_any(SEGMENT_HEADER_BYTES as u64, |header| {
        header.identity == any.identity && header.partition == any.partition && header.base_offset >= base
    })?;
    Ok(Ok(match first {
        None => FoundHeader::Lost,
        Some((_, frame)) => FoundHeader::MadeGood(SegmentHeader {
            identity: *identity,
            base,
            salt: frame.salt,
            floor_time_ms: frame.append_time_ms,
            epoch: frame.epoch,
        }),
    }))
}
