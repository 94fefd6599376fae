//! Which sealed segments retention would remove (rules RE-1, RE-9): the log's decision with a partition's settings.

use super::{Offset, PartitionSettings};
use crate::log::SegmentInfo;
use crate::log::retention::{RetentionSettings, raised_start};

/// The first offset to keep, by the settings of the partition. `total_bytes`: of all segments now. `hold`: nothing from here on goes.
pub(super) fn first_kept(
    segments: &[SegmentInfo],
    total_bytes: u64,
    settings: &PartitionSettings,
    wall_ms: i64,
    hold: Option<Offset>,
) -> Option<Offset> {
    let bounds = RetentionSettings { max_age_ms: settings.retention_ms, max_bytes: settings.retention_bytes };
    raised_start(segments, total_bytes, &bounds, wall_ms, hold)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::AckLevel;

    fn segment(base: u64, end: u64, bytes: u64, last_append_time_ms: i64, active: bool) -> SegmentInfo {
        let offset = |value| Offset::new(value).expect("a small number is an offset");
        SegmentInfo { base: offset(base), end: offset(end), bytes, last_append_time_ms, active }
    }

    fn four() -> [SegmentInfo; 4] {
        [
            segment(0, 10, 100, 1_000, false),
            segment(10, 20, 100, 2_000, false),
            segment(20, 30, 100, 3_000, false),
            segment(30, 40, 100, 4_000, true),
        ]
    }

    fn first(retention_ms: Option<u64>, retention_bytes: Option<u64>, now: i64, hold: Option<u64>) -> Option<u64> {
        let settings = PartitionSettings {
            ack_floor: AckLevel::Durable,
            retention_ms,
            retention_bytes,
            ..PartitionSettings::default()
        };
        first_kept(&four(), 400, &settings, now, hold.and_then(Offset::new)).map(Offset::get)
    }

    #[test]
    fn re_1_whole_sealed_segments_go_by_age() {
        assert_eq!(first(Some(1_000), None, 2_000, None), None);
        assert_eq!(first(Some(1_000), None, 2_001, None), Some(10));
        assert_eq!(first(Some(1_000), None, 99_999, None), Some(30), "the active segment stays");
    }

    #[test]
    fn re_1_the_oldest_go_by_size_but_never_below_the_limit() {
        assert_eq!(first(None, Some(400), 0, None), None);
        assert_eq!(first(None, Some(301), 0, None), None);
        assert_eq!(first(None, Some(300), 0, None), Some(10));
        assert_eq!(first(None, Some(0), 0, None), Some(30));
    }

    #[test]
    fn what_is_held_stays_and_a_clock_that_went_back_removes_nothing() {
        assert_eq!(first(None, Some(0), 0, Some(19)), Some(10));
        assert_eq!(first(Some(0), None, -5, None), None);
    }
}
