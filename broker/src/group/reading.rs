//! How far a partition was read ahead, and how much log lies between that and the floor (rule AK-7).
//!
//! Owns: the position of reading, the one range that is being read, the bytes scanned ahead. Must not know: records.

use std::collections::VecDeque;

use crate::model::Offset;

/// Reading of one partition.
#[derive(Debug)]
pub(super) struct Reading {
    /// First offset that was not looked at.
    pub(super) next: Offset,
    /// Start of the range that is being read.
    pub(super) asked: Option<Offset>,
    /// First offset that cannot be read, as far as known.
    pub(super) high_watermark: Offset,
    /// Whether that was ever told.
    pub(super) knows_end: bool,
    /// Members were told that they are at the live end (rule FC-4).
    pub(super) caught_up: bool,
    /// Append time of the last record that was looked at, milliseconds since 1970.
    pub(super) last_append_ms: i64,
    scanned: VecDeque<(Offset, u64)>,
    scanned_bytes: u64,
}

impl Reading {
    /// Nothing was read; reading begins at `floor`.
    pub(super) fn new(floor: Offset) -> Self {
        Self {
            next: floor,
            asked: None,
            high_watermark: floor,
            knows_end: false,
            caught_up: false,
            last_append_ms: 0,
            scanned: VecDeque::new(),
            scanned_bytes: 0,
        }
    }

    /// Everything up to `next` was looked at; that took so many bytes of log.
    pub(super) fn advance(&mut self, next: Offset, log_bytes: u64) {
        self.next = next;
        if log_bytes > 0 {
            self.scanned.push_back((next, log_bytes));
            self.scanned_bytes += log_bytes;
        }
    }

    /// Bytes of log from the floor to what is read ahead, to the last range read.
    pub(super) fn scanned_bytes(&mut self, floor: Offset) -> u64 {
        while let Some(&(end, bytes)) = self.scanned.front()
            && end <= floor
        {
            self.scanned.pop_front();
            self.scanned_bytes -= bytes;
        }
        self.scanned_bytes
    }

    /// Reading goes back to `next`, or on from it; a range that is being read is forgotten.
    pub(super) fn restart(&mut self, next: Offset) {
        let (caught_up, knows_end, last_append_ms) = (self.caught_up, self.knows_end, self.last_append_ms);
        let high_watermark = self.high_watermark;
        *self = Self { high_watermark, caught_up, knows_end, last_append_ms, ..Self::new(next) };
    }
}
