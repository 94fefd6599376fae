//! When retention by age may go by the wall clock (rule F6): pure, time is an argument.
//!
//! What goes is decided by each partition; this decides only whether the wall clock can be believed.

use crate::clock::Monotonic;
use crate::limits;

/// Watches the wall clock against the monotonic one.
///
/// ```text
///           step over 10 min                     one interval without a step
/// sane ----------------------> suspended ------------------------------------> sane
/// ```
#[derive(Debug, Clone, Copy)]
pub struct ClockWatch {
    interval_ms: u64,
    last: Option<(i64, Monotonic)>,
    suspended_since: Option<Monotonic>,
}

/// What a look at the clocks says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockVerdict {
    /// The wall clock goes as the monotonic one.
    Sane,
    /// It has stepped by so many milliseconds since the last look: retention by age is suspended.
    Stepped {
        /// Milliseconds, negative if backwards.
        by_ms: i64,
    },
    /// It stepped not long ago: retention by age is still suspended.
    Suspended,
}

impl ClockWatch {
    /// A watch that believes the clock again after one interval without a step.
    pub fn new(interval_ms: u64) -> Self {
        Self { interval_ms, last: None, suspended_since: None }
    }

    /// One look at both clocks.
    pub fn look(&mut self, wall_ms: i64, now: Monotonic) -> ClockVerdict {
        let last = self.last.replace((wall_ms, now));
        if let Some((last_wall_ms, last_now)) = last {
            let passed = i64::try_from(now.0.saturating_sub(last_now.0).as_millis()).unwrap_or(i64::MAX);
            let by_ms = wall_ms.saturating_sub(last_wall_ms).saturating_sub(passed);
            if by_ms.unsigned_abs() > limits::CLOCK_STEP_MS {
                self.suspended_since = Some(now);
                return ClockVerdict::Stepped { by_ms };
            }
        }
        match self.suspended_since {
            Some(since) if now.0.saturating_sub(since.0).as_millis() < u128::from(self.interval_ms) => {
                ClockVerdict::Suspended
            }
            _ => {
                self.suspended_since = None;
                ClockVerdict::Sane
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const HOUR_MS: i64 = 3_600_000;

    fn at(seconds: u64) -> Monotonic {
        Monotonic(Duration::from_secs(seconds))
    }

    #[test]
    fn f_6_a_step_over_ten_minutes_suspends_for_one_interval() {
        for by in [HOUR_MS, -HOUR_MS, 240 * HOUR_MS, -240 * HOUR_MS] {
            let mut watch = ClockWatch::new(30_000);
            assert_eq!(watch.look(1_000_000_000_000, at(0)), ClockVerdict::Sane);
            assert_eq!(watch.look(1_000_000_001_000 + by, at(1)), ClockVerdict::Stepped { by_ms: by });
            assert_eq!(watch.look(1_000_000_020_000 + by, at(20)), ClockVerdict::Suspended);
            assert_eq!(watch.look(1_000_000_032_000 + by, at(32)), ClockVerdict::Sane);
        }
    }

    #[test]
    fn f_6_a_small_step_a_frozen_clock_and_far_years_change_nothing() {
        let mut watch = ClockWatch::new(30_000);
        // 2100-01-01, and drifts of less than ten minutes.
        let mut wall = 4_102_444_800_000;
        for second in 0..100 {
            assert_eq!(watch.look(wall, at(second)), ClockVerdict::Sane);
            wall += 1_000 + if second % 2 == 0 { 500_000 } else { -500_000 };
        }
        let mut frozen = ClockWatch::new(30_000);
        for second in 0..500 {
            assert_eq!(frozen.look(2_147_483_648_000, at(second)), ClockVerdict::Sane);
        }
    }

    #[test]
    fn f_6_a_second_step_begins_the_suspension_anew() {
        let mut watch = ClockWatch::new(30_000);
        watch.look(0, at(0));
        assert!(matches!(watch.look(HOUR_MS, at(1)), ClockVerdict::Stepped { .. }));
        assert!(matches!(watch.look(0, at(29)), ClockVerdict::Stepped { .. }));
        assert_eq!(watch.look(20_000, at(49)), ClockVerdict::Suspended);
        assert_eq!(watch.look(31_000, at(60)), ClockVerdict::Sane);
    }
}
