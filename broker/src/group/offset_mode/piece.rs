//! A piece of a partition that was read and waits for credit.

use std::collections::VecDeque;

use super::super::delivery::Room;
use super::super::event::RecordMeta;
use crate::model::OffsetRange;

/// What was read and not sent.
#[derive(Debug)]
pub(super) struct Piece {
    pub(super) range: OffsetRange,
    pub(super) bytes: u64,
    /// Records in it, if they were looked at.
    pub(super) records: Option<VecDeque<RecordMeta>>,
    pub(super) last_append_ms: i64,
}

impl Piece {
    /// Takes from the front what fits; `None`: nothing does.
    pub(super) fn take(&mut self, room: Room) -> Option<(OffsetRange, u64, VecDeque<RecordMeta>)> {
        let all = self.range.to.distance_from(self.range.from);
        if room.records == 0 || (room.bytes == 0 && !room.alone) {
            return None;
        }
        // Bytes are spread evenly over the records of a piece: what the log gave is all that is known of them.
        let fit = if self.bytes <= room.bytes {
            all
        } else {
            let fit = u128::from(all) * u128::from(room.bytes) / u128::from(self.bytes.max(1));
            u64::try_from(fit).expect("at most all").max(1)
        };
        let count = fit.min(room.records).min(all);
        let to = self.range.from.saturating_add(count);
        let share = u128::from(self.bytes) * u128::from(count) / u128::from(all.max(1));
        let bytes = u64::try_from(share).expect("at most all of its bytes");
        let mut records = VecDeque::new();
        if let Some(waiting) = &mut self.records {
            let later = waiting.split_off(waiting.partition_point(|meta| meta.offset < to));
            records = std::mem::replace(waiting, later);
        }
        let range = OffsetRange { from: self.range.from, to };
        self.range.from = to;
        self.bytes -= bytes;
        Some((range, bytes, records))
    }
}
