//! What to delete and when to roll by age: pure decisions over what is known of segments (rule RE-1).
//!
//! Owns no state, reads no clock, touches no file: the answer is a new log start, which the caller makes durable
//! before [`super::LocalLog::raise_start`] (rule D9).

use super::local_log::SegmentInfo;
use crate::model::Offset;

/// How long and how much a log keeps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetentionSettings {
    /// Milliseconds for which a record is kept after its append; `None`: for ever.
    pub max_age_ms: Option<u64>,
    /// Bytes of log files beyond which the oldest segments go; `None`: no bound.
    pub max_bytes: Option<u64>,
}

/// The log start after retention, if it rises: whole sealed segments go from the oldest on, by age or by size, but none
/// that reaches beyond `held_from`, the lowest offset that someone still needs. A segment goes by size if the rest
/// still has `max_bytes` (the rule of Kafka's `UnifiedLog.deleteRetentionSizeBreachedSegments`); the active one never goes. `total_bytes`: of all segments now, which may be more
/// than the list says of the active one.
pub fn raised_start(
    segments: &[SegmentInfo],
    total_bytes: u64,
    settings: &RetentionSettings,
    now_ms: i64,
    held_from: Option<Offset>,
) -> Option<Offset> {
    let mut bytes = total_bytes;
    let mut start = None;
    for segment in segments {
        let held = held_from.is_some_and(|held| segment.end > held);
        if segment.active || held || !(is_old(segment, settings, now_ms) || is_beyond(segment, settings, bytes)) {
            break;
        }
        bytes = bytes.saturating_sub(segment.bytes);
        start = Some(segment.end);
    }
    start
}

fn is_old(segment: &SegmentInfo, settings: &RetentionSettings, now_ms: i64) -> bool {
    let Some(max_age_ms) = settings.max_age_ms else { return false };
    let age_ms = u64::try_from(now_ms.saturating_sub(segment.last_append_time_ms)).unwrap_or(0);
    age_ms > max_age_ms
}

fn is_beyond(segment: &SegmentInfo, settings: &RetentionSettings, bytes: u64) -> bool {
    settings.max_bytes.is_some_and(|max_bytes| bytes.saturating_sub(segment.bytes) >= max_bytes)
}

/// Whether the active segment is so old that it is to be sealed, although it is not full: otherwise a quiet log would
/// keep its records beyond their time.
pub fn roll_due(active_since_ms: Option<i64>, max_segment_age_ms: u64, now_ms: i64) -> bool {
    active_since_ms.is_some_and(|since_ms| {
        u64::try_from(now_ms.saturating_sub(since_ms)).is_ok_and(|age_ms| age_ms >= max_segment_age_ms)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Segments of 10 records and 100 bytes, the last active; segment `n` was last appended to at `1,000 * n` ms.
    fn segments(count: u64) -> Vec<SegmentInfo> {
        (0..count)
            .map(|number| SegmentInfo {
                base: Offset::new(number * 10).expect("small"),
                end: Offset::new(number * 10 + 10).expect("small"),
                bytes: 100,
                last_append_time_ms: 1_000 * number as i64,
                active: number + 1 == count,
            })
            .collect()
    }

    fn start(settings: RetentionSettings, now_ms: i64, held: Option<u64>) -> Option<u64> {
        raised_start(&segments(5), 500, &settings, now_ms, held.and_then(Offset::new)).map(Offset::get)
    }

    #[test]
    fn re_1_segments_go_once_their_last_record_is_too_old() {
        let by_age = RetentionSettings { max_age_ms: Some(1_500), max_bytes: None };
        assert_eq!(start(by_age, 1_500, None), None);
        assert_eq!(start(by_age, 1_501, None), Some(10));
        assert_eq!(start(by_age, 3_900, None), Some(30));
        assert_eq!(start(by_age, 1 << 50, None), Some(40), "the active one stays");
        assert_eq!(start(by_age, -5_000, None), None, "a clock far back deletes nothing");
    }

    #[test]
    fn re_1_segments_go_while_the_rest_has_the_bytes_to_keep() {
        let by_size = |max_bytes| RetentionSettings { max_age_ms: None, max_bytes: Some(max_bytes) };
        assert_eq!(start(by_size(500), 0, None), None);
        assert_eq!(start(by_size(401), 0, None), None);
        assert_eq!(start(by_size(400), 0, None), Some(10));
        assert_eq!(start(by_size(150), 0, None), Some(30));
        assert_eq!(start(by_size(0), 0, None), Some(40));
    }

    #[test]
    fn re_9_what_is_held_stays_with_all_that_follows() {
        let all = RetentionSettings { max_age_ms: Some(0), max_bytes: Some(0) };
        assert_eq!(start(all, 1 << 40, Some(20)), Some(20));
        assert_eq!(start(all, 1 << 40, Some(19)), Some(10));
        assert_eq!(start(all, 1 << 40, Some(0)), None);
    }

    #[test]
    fn without_bounds_nothing_goes() {
        assert_eq!(start(RetentionSettings::default(), i64::MAX, None), None);
        assert_eq!(raised_start(&[], 0, &RetentionSettings::default(), 0, None), None);
    }

    #[test]
    fn re_1_an_old_segment_is_sealed_although_it_is_not_full() {
        assert!(!roll_due(None, 0, 5_000));
        assert!(!roll_due(Some(1_000), 4_001, 5_000));
        assert!(roll_due(Some(1_000), 4_000, 5_000));
        assert!(!roll_due(Some(9_000), 0, 5_000), "a clock that went back rolls nothing");
    }
}
