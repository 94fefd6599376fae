//! Which sealed segments retention would remove (rules RE-1, RE-9): the log's decision with a partition's settings.

use super::local::Partition;
use super::{AppendFailure, Offset, PartitionSettings};
use crate::log::SegmentInfo;
use crate::log::retention::{RetentionSettings, raised_start};

/// What is kept for others beyond the settings of the partition (rule RE-2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hold {
    /// The lowest offset that they need.
    pub from: Offset,
    /// Milliseconds for which a segment is kept beyond its time.
    pub max_ms: u64,
    /// Bytes that are kept beyond the limits.
    pub max_bytes: u64,
}

/// The first offset to keep, by the settings of the partition. `total_bytes`: of all segments now. `needed`: nothing from
/// here on goes. `hold`: nothing from there on goes, within its bounds; beyond them the oldest go.
pub(super) fn first_kept(
    segments: &[SegmentInfo],
    total_bytes: u64,
    settings: &PartitionSettings,
    wall_ms: i64,
    needed: Option<Offset>,
    hold: Option<Hold>,
) -> Option<Offset> {
    let bounds = RetentionSettings { max_age_ms: settings.retention_ms, max_bytes: settings.retention_bytes };
    let start = raised_start(segments, total_bytes, &bounds, wall_ms, needed)?;
    let Some(hold) = hold else { return Some(start) };
    // From the newest that would go to the oldest: the first that is held no more goes with all before it.
    let going = segments.iter().filter(|segment| !segment.active && segment.end <= start);
    let mut held_bytes = 0_u64;
    for segment in going.rev() {
        held_bytes = held_bytes.saturating_add(segment.bytes);
        let age_ms = u64::try_from(wall_ms.saturating_sub(segment.last_append_time_ms)).unwrap_or(0);
        let too_old = age_ms > hold.max_ms.saturating_add(settings.retention_ms.unwrap_or(0));
        if segment.end <= hold.from || too_old || held_bytes > hold.max_bytes {
            return Some(segment.end);
        }
    }
    None
}

impl Partition {
    /// The first offset that retention by age and bytes would keep now, if it is above the log start. `needed`: kept
    /// whatever the settings say; `hold`: kept for others within its bounds.
    pub fn retention_start(&self, wall_ms: i64, needed: Option<Offset>, hold: Option<Hold>) -> Option<Offset> {
        let settings = *self.settings.lock();
        let (segments, size_bytes) = (self.facts.segments(), self.facts.size_bytes());
        let first = first_kept(&segments, size_bytes, &settings, wall_ms, needed, hold)?;
        (first > self.reader.bounds().start).then_some(first)
    }

    /// Retention: finds the first offset to keep, makes it durable in the ledger, removes what lies below. Blocks.
    /// Returns the new log start if it rose.
    ///
    /// # Errors
    /// The ledger or the files failed; what was not removed is removed by a later run.
    pub fn run_retention(&self, wall_ms: i64, needed: Option<Offset>) -> Result<Option<Offset>, AppendFailure> {
        let Some(start) = self.retention_start(wall_ms, needed, None) else { return Ok(None) };
        let recorded = self.environment.ledger.record_start(self.name, start);
        recorded.map_err(|error| AppendFailure::BrokerReadOnly { cause: error.to_string() })?;
        self.raise_start(start).wait()?;
        Ok(Some(start))
    }
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
        first_kept(&four(), 400, &settings, now, hold.and_then(Offset::new), None).map(Offset::get)
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

    /// Retention by age of 1,000 ms with a hold from offset `from`.
    fn held(now: i64, from: u64, max_ms: u64, max_bytes: u64) -> Option<u64> {
        let settings = PartitionSettings { retention_ms: Some(1_000), ..PartitionSettings::default() };
        let hold = Hold { from: Offset::new(from)?, max_ms, max_bytes };
        first_kept(&four(), 400, &settings, now, None, Some(hold)).map(Offset::get)
    }

    #[test]
    fn re_2_a_segment_stays_while_a_group_is_inside_or_before_it() {
        assert_eq!(held(99_999, 0, u64::MAX, u64::MAX), None);
        assert_eq!(held(99_999, 9, u64::MAX, u64::MAX), None);
        assert_eq!(held(99_999, 10, u64::MAX, u64::MAX), Some(10));
        assert_eq!(held(99_999, 29, u64::MAX, u64::MAX), Some(20));
        assert_eq!(held(99_999, 40, u64::MAX, u64::MAX), Some(30), "what nobody needs goes by its settings");
    }

    #[test]
    fn re_2_an_active_segment_that_has_nothing_yet_is_not_taken_for_an_old_one() {
        let settings = PartitionSettings { retention_ms: Some(1_000), ..PartitionSettings::default() };
        let hold = Hold { from: Offset::ZERO, max_ms: 1_000_000, max_bytes: u64::MAX };
        let mut segments = four();
        segments[3] = segment(30, 30, 100, 0, true);
        assert_eq!(first_kept(&segments, 400, &settings, 99_999, None, Some(hold)), None);
    }

    #[test]
    fn re_2_beyond_the_longest_hold_the_oldest_go_anyway() {
        // Beyond its own 1,000 ms each may be held for 2,000 more.
        assert_eq!(held(4_000, 0, 2_000, u64::MAX), None);
        assert_eq!(held(4_001, 0, 2_000, u64::MAX), Some(10));
        assert_eq!(held(5_001, 0, 2_000, u64::MAX), Some(20));
        assert_eq!(held(99_999, 0, u64::MAX, 200), Some(10), "of three that would go, two may be held");
        assert_eq!(held(99_999, 0, u64::MAX, 99), Some(30));
    }

    #[test]
    fn dl_4_what_a_dead_letter_needs_stays_whatever_the_bounds_of_a_hold_are() {
        let settings = PartitionSettings { retention_ms: Some(0), ..PartitionSettings::default() };
        let hold = Hold { from: Offset::ZERO, max_ms: 0, max_bytes: 0 };
        let first = first_kept(&four(), 400, &settings, 99_999, Offset::new(15), Some(hold));
        assert_eq!(first.map(Offset::get), Some(10));
    }
}
