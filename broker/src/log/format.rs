//! Constants of the file formats: magic numbers, versions, field offsets, file names.
//!
//! Owns every number that stands on disk for segments, indexes and checkpoints; the figures are in [`super`]. Must
//! not know how the files are read or written. Every field offset is derived from the field before it. All integers
//! are little-endian.

use crate::limits;
use crate::model::Offset;

/// Major version of all files of a log: another one is refused.
pub const FORMAT_MAJOR: u16 = 1;
/// Minor version: a higher one has only additions that may be ignored.
pub const FORMAT_MINOR: u16 = 0;

/// Everything on disk is a multiple of this many bytes, and every frame starts at one (rule C1).
pub const ALIGNMENT_BYTES: usize = 8;

/// First bytes of a segment's log file.
pub const SEGMENT_MAGIC: [u8; 8] = *b"SAWLOG\x01S";
/// First bytes of an offset index.
pub const INDEX_MAGIC: [u8; 8] = *b"SAWLOG\x01I";
/// First bytes of a time index.
pub const TIME_INDEX_MAGIC: [u8; 8] = *b"SAWLOG\x01T";
/// First bytes of a checkpoint.
pub const CHECKPOINT_MAGIC: [u8; 8] = *b"SAWLOG\x01C";
/// First bytes of a frame: not zero, and no ASCII.
pub const FRAME_MAGIC: [u8; 4] = [0xF7, 0x53, 0x4C, 0x9E];
/// Version of the frame header.
pub const FRAME_VERSION: u8 = 1;
/// Frame flag: a mark, which has no records (rule C3).
pub const FRAME_FLAG_MARK: u8 = 1;

/// Field offsets of a segment's header.
pub mod segment_field {
    /// [`super::SEGMENT_MAGIC`].
    pub const MAGIC: usize = 0;
    /// Major version, `u16`.
    pub const MAJOR: usize = MAGIC + 8;
    /// Minor version, `u16`.
    pub const MINOR: usize = MAJOR + 2;
    /// The partition, `u32`.
    pub const PARTITION: usize = MINOR + 2;
    /// Uuid of the data directory, 16 bytes.
    pub const DATA_DIR: usize = PARTITION + 4;
    /// Uuid of the topic, 16 bytes.
    pub const TOPIC_UUID: usize = DATA_DIR + 16;
    /// Number of the topic, `u64`.
    pub const TOPIC_ID: usize = TOPIC_UUID + 16;
    /// Offset of the first record, `u64`; everything below had been durable (rule D7).
    pub const BASE_OFFSET: usize = TOPIC_ID + 8;
    /// Salt of the segment, `u64`.
    pub const SALT: usize = BASE_OFFSET + 8;
    /// Append time in milliseconds since 1970 below which no frame of the segment lies, `i64`.
    pub const FLOOR_TIME: usize = SALT + 8;
    /// Epoch below which no frame of the segment lies, `u32`.
    pub const EPOCH: usize = FLOOR_TIME + 8;
    /// CRC-32 of all bytes before it, `u32`.
    pub const CHECKSUM: usize = EPOCH + 4;
    /// Bytes of the header.
    pub const END: usize = CHECKSUM + 4;
}

/// Field offsets of a frame's header.
pub mod frame_field {
    /// [`super::FRAME_MAGIC`].
    pub const MAGIC: usize = 0;
    /// [`super::FRAME_VERSION`], `u8`.
    pub const VERSION: usize = MAGIC + 4;
    /// Flags, `u8`; unknown ones are refused.
    pub const FLAGS: usize = VERSION + 1;
    /// Zero, `u16`.
    pub const RESERVED: usize = FLAGS + 1;
    /// Bytes of the extension block, `u32`.
    pub const EXTENSION_BYTES: usize = RESERVED + 2;
    /// Bytes of the batch, `u32`.
    pub const BATCH_BYTES: usize = EXTENSION_BYTES + 4;
    /// Offset of the first record, `u64`.
    pub const BASE_OFFSET: usize = BATCH_BYTES + 4;
    /// Time of the append in milliseconds since 1970, `i64`.
    pub const APPEND_TIME: usize = BASE_OFFSET + 8;
    /// Everything below had been durable when the frame was written, `u64` (rule C3).
    pub const DURABLE_END: usize = APPEND_TIME + 8;
    /// Salt of the segment, `u64`.
    pub const SALT: usize = DURABLE_END + 8;
    /// Number of records, `u32`; 0 in a mark.
    pub const RECORD_COUNT: usize = SALT + 8;
    /// Epoch of the partition, `u32`.
    pub const EPOCH: usize = RECORD_COUNT + 4;
    /// The partition, `u32`.
    pub const PARTITION: usize = EPOCH + 4;
    /// CRC-32 of the log's identity, `u32`.
    pub const IDENTITY: usize = PARTITION + 4;
    /// CRC-32 of extension block, batch and padding, `u32`.
    pub const BODY_CHECKSUM: usize = IDENTITY + 4;
    /// CRC-32 of all header bytes before it, `u32`.
    pub const HEADER_CHECKSUM: usize = BODY_CHECKSUM + 4;
    /// Bytes of the header.
    pub const END: usize = HEADER_CHECKSUM + 4;
}

/// Field offsets of the header of an offset index or a time index.
pub mod index_field {
    /// [`super::INDEX_MAGIC`] or [`super::TIME_INDEX_MAGIC`].
    pub const MAGIC: usize = 0;
    /// Major version, `u16`.
    pub const MAJOR: usize = MAGIC + 8;
    /// Minor version, `u16`.
    pub const MINOR: usize = MAJOR + 2;
    /// Number of entries, `u32`.
    pub const ENTRY_COUNT: usize = MINOR + 2;
    /// Salt of the segment, `u64`.
    pub const SALT: usize = ENTRY_COUNT + 4;
    /// Offset of the segment's first record, `u64`.
    pub const BASE_OFFSET: usize = SALT + 8;
    /// End of what the index covers, `u64`.
    pub const END_OFFSET: usize = BASE_OFFSET + 8;
    /// Bytes of the log file that the index covers, `u64`.
    pub const LOG_BYTES: usize = END_OFFSET + 8;
    /// Append time of the last frame covered, `i64`.
    pub const LAST_APPEND_TIME: usize = LOG_BYTES + 8;
    /// Epoch of the last frame covered, `u32`.
    pub const LAST_EPOCH: usize = LAST_APPEND_TIME + 8;
    /// The partition, `u32`.
    pub const PARTITION: usize = LAST_EPOCH + 4;
    /// CRC-32 of the log's identity, `u32`.
    pub const IDENTITY: usize = PARTITION + 4;
    /// CRC-32 of all entries, `u32`.
    pub const ENTRIES_CHECKSUM: usize = IDENTITY + 4;
    /// Zero, `u32`.
    pub const RESERVED: usize = ENTRIES_CHECKSUM + 4;
    /// CRC-32 of all header bytes before it, `u32`.
    pub const HEADER_CHECKSUM: usize = RESERVED + 4;
    /// Bytes of the header; the entries follow.
    pub const END: usize = HEADER_CHECKSUM + 4;
}

/// Field offsets of the header of a checkpoint.
pub mod checkpoint_field {
    /// [`super::CHECKPOINT_MAGIC`].
    pub const MAGIC: usize = 0;
    /// Major version, `u16`.
    pub const MAJOR: usize = MAGIC + 8;
    /// Minor version, `u16`.
    pub const MINOR: usize = MAJOR + 2;
    /// Number of entries, `u32`.
    pub const ENTRY_COUNT: usize = MINOR + 2;
    /// Rises with every checkpoint, `u64`.
    pub const SEQUENCE: usize = ENTRY_COUNT + 4;
    /// Uuid of the data directory, 16 bytes.
    pub const DATA_DIR: usize = SEQUENCE + 8;
    /// CRC-32 of all entries, `u32`.
    pub const ENTRIES_CHECKSUM: usize = DATA_DIR + 16;
    /// CRC-32 of all header bytes before it, `u32`.
    pub const HEADER_CHECKSUM: usize = ENTRIES_CHECKSUM + 4;
    /// Bytes of the header; the entries follow.
    pub const END: usize = HEADER_CHECKSUM + 4;
}

/// Bytes of a segment's header; the first frame follows.
pub const SEGMENT_HEADER_BYTES: usize = segment_field::END;
/// Bytes of a frame's header.
pub const FRAME_HEADER_BYTES: usize = frame_field::END;
/// Bytes of an index's header.
pub const INDEX_HEADER_BYTES: usize = index_field::END;
/// Bytes of an entry of either index: two `u64`.
pub const INDEX_ENTRY_BYTES: usize = 16;
/// Bytes of a checkpoint's header.
pub const CHECKPOINT_HEADER_BYTES: usize = checkpoint_field::END;
/// Bytes of an entry of a checkpoint: topic id `u64`, proven end `u64`, partition `u32`, zero `u32`.
pub const CHECKPOINT_ENTRY_BYTES: usize = 24;
/// Most bytes of a frame's extension block, batch and padding.
pub const FRAME_BODY_BYTES: usize = limits::FRAME_BYTES - FRAME_HEADER_BYTES;

const _: () = assert!(SEGMENT_HEADER_BYTES.is_multiple_of(ALIGNMENT_BYTES));
const _: () = assert!(FRAME_HEADER_BYTES.is_multiple_of(ALIGNMENT_BYTES));
const _: () = assert!(INDEX_HEADER_BYTES.is_multiple_of(ALIGNMENT_BYTES));
const _: () = assert!(CHECKPOINT_HEADER_BYTES.is_multiple_of(ALIGNMENT_BYTES));
const _: () = assert!(INDEX_ENTRY_BYTES.is_multiple_of(ALIGNMENT_BYTES));
const _: () = assert!(limits::FRAME_BYTES.is_multiple_of(ALIGNMENT_BYTES));
const _: () = assert!(
    limits::BATCH_BYTES + limits::BATCH_FRAMING_BYTES + limits::FRAME_EXTENSION_BYTES + ALIGNMENT_BYTES
        <= FRAME_BODY_BYTES
);

/// The next multiple of [`ALIGNMENT_BYTES`].
pub const fn aligned(bytes: u64) -> u64 {
    bytes.next_multiple_of(ALIGNMENT_BYTES as u64)
}

/// What a file of a log's directory is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FileKind {
    /// The frames.
    Log,
    /// Offset to file position.
    Index,
    /// Append time to offset.
    TimeIndex,
}

impl FileKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::Log, Self::Index, Self::TimeIndex];

    /// What follows the dot of the file's name.
    pub const fn suffix(self) -> &'static str {
        match self {
            Self::Log => "log",
            Self::Index => "index",
            Self::TimeIndex => "timeindex",
        }
    }
}

/// Digits of the base offset in a file's name.
const NAME_DIGITS: usize = 20;
/// What follows a second dot in the name of a file that is still being written; removed when a log is opened.
pub const UNFINISHED_SUFFIX: &str = "new";

/// Name of a segment's file: its base offset in 20 digits, and its kind.
pub fn file_name(base: Offset, kind: FileKind) -> String {
    format!("{:0NAME_DIGITS$}.{}", base.get(), kind.suffix())
}

/// Name under which a segment's file is written before it is renamed.
pub fn unfinished_file_name(base: Offset, kind: FileKind) -> String {
    format!("{}.{UNFINISHED_SUFFIX}", file_name(base, kind))
}

/// Whether this is the name of a file that was still being written.
pub fn is_unfinished(name: &str) -> bool {
    name.strip_suffix(UNFINISHED_SUFFIX)
        .and_then(|rest| rest.strip_suffix('.'))
        .is_some_and(|rest| parse_file_name(rest).is_some())
}

/// Base offset and kind of a segment's file, if this is the name of one.
pub fn parse_file_name(name: &str) -> Option<(Offset, FileKind)> {
    let (digits, suffix) = name.split_once('.')?;
    let kind = FileKind::ALL.into_iter().find(|kind| kind.suffix() == suffix)?;
    if digits.len() != NAME_DIGITS || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    Some((Offset::new(digits.parse().ok()?)?, kind))
}

/// Reads a `u16` of a header whose length the caller has checked.
pub(crate) fn u16_at(bytes: &[u8], field: usize) -> u16 {
    u16::from_le_bytes(array_at(bytes, field))
}

/// Reads a `u32` of a header whose length the caller has checked.
pub(crate) fn u32_at(bytes: &[u8], field: usize) -> u32 {
    u32::from_le_bytes(array_at(bytes, field))
}

/// Reads a `u64` of a header whose length the caller has checked.
pub(crate) fn u64_at(bytes: &[u8], field: usize) -> u64 {
    u64::from_le_bytes(array_at(bytes, field))
}

/// Reads an `i64` of a header whose length the caller has checked.
pub(crate) fn i64_at(bytes: &[u8], field: usize) -> i64 {
    i64::from_le_bytes(array_at(bytes, field))
}

/// Copies a field of a header whose length the caller has checked.
pub(crate) fn array_at<const N: usize>(bytes: &[u8], field: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[field..field + N]);
    array
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_names_come_back() {
        for kind in FileKind::ALL {
            for base in [Offset::ZERO, Offset::new(4_711).expect("small"), Offset::MAX] {
                let name = file_name(base, kind);
                assert_eq!(name.find('.'), Some(20));
                assert_eq!(parse_file_name(&name), Some((base, kind)));
                assert_eq!(parse_file_name(&unfinished_file_name(base, kind)), None);
                assert!(is_unfinished(&unfinished_file_name(base, kind)));
                assert!(!is_unfinished(&name));
            }
        }
    }

    #[test]
    fn other_names_are_no_files_of_a_log() {
        for name in [
            "",
            ".log",
            "1.log",
            "00000000000000000000",
            "00000000000000000000.txt",
            "+0000000000000000001.log",
            "99999999999999999999.log",
            "18446744073709551615.log",
            "000000000000000000000.log",
            "00000000000000000000.log.old",
        ] {
            assert_eq!(parse_file_name(name), None, "{name}");
            assert!(!is_unfinished(name), "{name}");
        }
    }

    #[test]
    fn headers_have_the_sizes_of_format_1() {
        assert_eq!(SEGMENT_HEADER_BYTES, 88);
        assert_eq!(FRAME_HEADER_BYTES, 72);
        assert_eq!(INDEX_HEADER_BYTES, 80);
        assert_eq!(CHECKPOINT_HEADER_BYTES, 48);
    }
}
