//! Between the logs and the groups: reading ahead for the machine ([`fetch`]), keeping what was read for the
//! deliveries that follow ([`cache`]), finding the records of a delivery again ([`payload`]), and the pace of replays
//! ([`pace`]).
//!
//! A fetch reads frames, opens each once, tells the machine what it must know of the records, and keeps the frames:
//! the session that delivers them takes keys and values out of the same bytes, without a second read. Raw batches
//! leave as they were stored. Memory is bounded per partition of a group and for all groups together; what was let go
//! of is read again.

pub(super) mod cache;
pub(super) mod fetch;
mod fine_sleep;
pub(super) mod pace;
pub(super) mod payload;

use sawlog_proto::batch::BatchLimits;

use crate::limits;

/// Bounds for opening what is stored: what was let in once is read again, whatever a topic's limits are now.
pub(super) const STORED: BatchLimits = BatchLimits {
    batch_bytes: limits::FRAME_BYTES,
    records: i32::MAX as u32,
    decompressed_bytes: limits::BATCH_DECOMPRESSED_BYTES,
    ..BatchLimits::DEFAULT
};
