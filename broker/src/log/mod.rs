//! The log engine: synchronous; no tokio, gRPC or clock; a batch is opaque bytes to it.
//!
//! A partition's log is a directory of segments. It is written by one owner at a time ([`LocalLog`]) and read by any
//! number of [`LogReader`]s, which never wait for a write. This head is the specification of what stands on disk, in
//! format version 1.0, and of what is done with it after a crash.
//!
//! # A log's directory
//!
//! ```text
//! topics/<topic id>/<partition>/
//!   00000000000000000000.log         a segment: header, then frames       (the base offset in 20 digits)
//!   00000000000000000000.index       offset -> file position, sparse
//!   00000000000000000000.timeindex   append time -> offset, sparse
//!   00000000000000004711.log         the last one is the active segment
//!   *.new                            being written; removed when the log is opened
//! ```
//!
//! All integers are little-endian; all parts begin at a multiple of 8 bytes; reserved bytes are zero. "CRC" is CRC-32
//! (IEEE). Field offsets live in [`format`], each derived from the one before.
//!
//! # A segment
//!
//! ```text
//! byte 0         8      10     12          16              32              48         56            64
//!      +---------+------+------+-----------+---------------+---------------+----------+-------------+
//!      | magic   | major| minor| partition | data dir uuid | topic uuid    | topic id | base offset |
//!      +---------+------+------+-----------+---------------+---------------+----------+-------------+
//! byte 64        72            80      84      88
//!      +---------+-------------+-------+-------+--------------------------------------------
//!      | salt    | floor time  | epoch | CRC   | frame | frame | mark | frame | ... zeros ...
//!      +---------+-------------+-------+-------+--------------------------------------------
//!                                        of bytes 0 to 83
//! ```
//!
//! The salt is random, new for each segment, and never leaves the data directory. No frame of a segment has a lower
//! epoch or append time than `epoch` and `floor time`. A file gets its name only once its header is durable. Behind the
//! last frame of the active segment there may be zeros: space written ahead, which never decodes as a frame.
//!
//! # A frame
//!
//! ```text
//! byte 0       4    5    6    8            12           16            24            32            40
//!      +-------+----+----+----+------------+------------+-------------+-------------+-------------+
//!      | magic | ver|flag| 0  | ext. bytes | batch bytes| base offset | append time | durable end |
//!      +-------+----+----+----+------------+------------+-------------+-------------+-------------+
//! byte 40      48             52      56          60         64         68           72
//!      +-------+--------------+-------+-----------+----------+----------+------------+
//!      | salt  | record count | epoch | partition | identity | body CRC | header CRC |
//!      +-------+--------------+-------+-----------+----------+----------+------------+
//!                                                                of bytes 0 to 67
//! byte 72                72 + ext. bytes            ... up to the next multiple of 8
//!      +-----------------+-------------------------+---------+
//!      | extension block | Kafka RecordBatch v2    | zeros   |   body CRC: of all three
//!      +-----------------+-------------------------+---------+
//! ```
//!
//! `identity` is the CRC of data dir uuid, topic uuid, topic id and partition. `durable end`: everything below had been
//! synced when the frame was written. A frame has at most 8 MiB, its extension block at most 64 KiB. A **mark** (flag 1)
//! is a header alone: no records, no body, no offset; it carries the durable end when the log falls idle.
//!
//! # The indexes of a segment
//!
//! ```text
//! byte 0         8      10     12            16     24            32           40          48
//!      +---------+------+------+-------------+------+-------------+------------+-----------+
//!      | magic   | major| minor| entry count | salt | base offset | end offset | log bytes |
//!      +---------+------+------+-------------+------+-------------+------------+-----------+
//! byte 48          56      60          64         68            72   76           80
//!      +-----------+-------+-----------+----------+-------------+----+------------+-----------------------
//!      | last time | epoch | partition | identity | entries CRC | 0  | header CRC | entries of 16 bytes ...
//!      +-----------+-------+-----------+----------+-------------+----+------------+-----------------------
//!   .index      entry: offset of a frame, its file position
//!   .timeindex  entry: append time with its sign bit inverted, offset of a frame appended then
//! ```
//!
//! They cover the frames below `end offset` and `log bytes`. Those of a sealed segment are mapped, after a plain read
//! of the whole file has passed every check in this run (rule C6); those of the active one are in memory, and on disk
//! only to bound the next scan. Anything off, and they are made anew from the frames (rule C4).
//!
//! # The checkpoint
//!
//! ```text
//! byte 0         8      10     12            16         24              40            44           48
//!      +---------+------+------+-------------+----------+---------------+-------------+------------+---------
//!      | magic   | major| minor| entry count | sequence | data dir uuid | entries CRC | header CRC | entries
//!      +---------+------+------+-------------+----------+---------------+-------------+------------+---------
//!   entry, 24 bytes:  topic id (8)   proven end (8)   partition (4)   0 (4)
//! ```
//!
//! # Invariants
//!
//! - Offsets continue without a gap; epochs and append times never fall along a log.
//! - A segment ends where the next begins: frames at or above the next one's base are ignored, never judged.
//! - A segment begins only where everything below is synced, so a base offset proves what lies before it (rule D7).
//! - No payload passes for a frame, since it cannot know the salt; stale, misplaced and zero bytes fail it too (C1).
//! - What is served has been verified in full by the read that serves it (rule C5).
//!
//! # Recovery
//!
//! After a clean stop the marker's end is compared with the frames behind the last index entry. Otherwise, for each
//! segment above the recovery point (rules D6, C3, S4): sync; drop the page cache; scan from the last index entry at or
//! below the recovery point; judge; cut or quarantine; sync. The **proven end** is the highest of: durable ends in good
//! headers, the checkpoint, the clean marker, the base of a later segment.
//!
//! ```text
//!   bad bytes begin at offset b:    b <  proven end   corrupt   nothing is cut; lost: b up to the next good frame or the
//!                                                               proven end; a new segment and epoch go on behind it
//!                                   b >= proven end   torn      never acknowledged: cut at the last good frame
//! ```
//!
//! A damaged segment header is written anew from the frames. A last segment without a good header or frame, nothing
//! proving more, is removed. The gap that remains, stated openly: damage to acknowledged frames after whose sync no
//! frame or mark was written yet looks like a torn tail.

pub mod checkpoint;
pub mod data_dir;
pub mod environment;
pub mod error;
pub mod flush;
pub mod format;
pub mod frame;
pub mod index;
pub mod index_file;
pub mod local_log;
pub mod open_files;
pub mod reader;
pub mod recovery;
pub mod repair;
pub mod retention;
pub mod sabotage;
pub mod scan;
mod segment;
pub mod segment_header;
pub mod sidecar;
pub mod storage;
#[cfg(test)]
mod test_support;
pub mod time_index;
pub mod verify;

pub use checkpoint::{Checkpoint, CheckpointEntry, CheckpointFile};
pub use environment::{AheadBudget, LogEnvironment, LogIdentity, LogSettings};
pub use error::{AppendError, Corruption, OpenError, ReadError, SyncError};
pub use frame::FrameDraft;
pub use local_log::{Appended, IndexSave, LocalLog, PendingSync, SegmentInfo};
pub use open_files::OpenFiles;
pub use reader::{Frame, FrameRun, LogBounds, LogReader, ReadMode, ReadRange};
pub use recovery::{RecoveryHint, RecoveryReport};
