//! The scrub: reads every sealed segment once in an interval, so that damage is found while other copies may still
//! exist (rule C5). Driven by the engine, which owns the time: it asks [`due_bytes`] how much, and each partition to
//! verify so much; not asking is the pause.

use std::time::Duration;

use super::local::Partition;
use crate::log::{ReadError, ReadMode, ReadRange};
use crate::model::{Offset, OffsetRange};

/// Bytes read at once.
const STEP_BYTES: usize = 1 << 20;

/// Where a partition's scrub goes on.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ScrubCursor {
    next: Offset,
}

/// What one call of [`Partition::scrub`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Scrubbed {
    /// Bytes verified.
    pub bytes: u64,
    /// Damaged ranges met.
    pub damaged: u32,
    /// All sealed segments have been read; the next call begins anew.
    pub complete: bool,
}

/// Bytes to verify now, so that `total_bytes` are read once per `interval`, if `elapsed` has passed since the last
/// time. 0 if the interval is 0: the scrub is off.
pub fn due_bytes(total_bytes: u64, interval: Duration, elapsed: Duration) -> u64 {
    if interval.is_zero() {
        return 0;
    }
    let share = u128::from(total_bytes) * elapsed.min(interval).as_micros() / interval.as_micros();
    u64::try_from(share).unwrap_or(u64::MAX)
}

impl Partition {
    /// Verifies about `max_bytes` of sealed segments from where the last call stopped. Blocks. Damage found goes to
    /// the ledger (rules C3, C5), and the scrub goes on behind it.
    pub fn scrub(&self, max_bytes: u64) -> Scrubbed {
        let mut done = Scrubbed::default();
        let mut next = self.scrub.lock().next.max(self.reader.bounds().start);
        let until = self.facts.segments().iter().filter(|segment| !segment.active).map(|segment| segment.end).max();
        let until = until.unwrap_or(next).min(self.group.watermark.get());
        while next < until && done.bytes < max_bytes {
            let range = ReadRange { from: next, until, max_bytes: STEP_BYTES };
            match self.reader.read(range, ReadMode::Blocking) {
                Ok(run) => {
                    done.bytes += run.frames.iter().map(|frame| frame.batch.len() as u64).sum::<u64>();
                    // The frame that crosses `until` is left out: it is the next segment's.
                    next = if run.next > next { run.next } else { until };
                }
                Err(ReadError::Corrupt(corruption)) => {
                    done.damaged += 1;
                    let to = corruption.next_good.unwrap_or(until);
                    if self.facts.damaged_at(corruption.first_bad).is_none() {
                        self.environment.metrics.corrupt_frames.inc();
                    }
                    let range = OffsetRange { from: corruption.first_bad, to };
                    self.report_damage(range, &corruption.to_string());
                    next = to.max(next.saturating_add(1));
                }
                Err(error) => {
                    // The device or retention: whatever it is, the next pass comes here again (rule F4).
                    if matches!(error, ReadError::Io { .. }) {
                        self.facts.set_degraded(&error.to_string());
                    }
                    next = until;
                }
            }
        }
        self.environment.metrics.scrubbed_bytes.inc_by(done.bytes);
        done.complete = next >= until;
        self.scrub.lock().next = if done.complete { Offset::ZERO } else { next };
        done
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c_5_everything_is_due_once_per_interval() {
        let week = Duration::from_secs(604_800);
        assert_eq!(due_bytes(604_800, week, Duration::from_secs(1)), 1);
        assert_eq!(due_bytes(1 << 40, week, week * 3), 1 << 40, "a pause is not made up for at once");
        assert_eq!(due_bytes(u64::MAX, week, week), u64::MAX);
        assert_eq!(due_bytes(100, Duration::ZERO, week), 0);
    }
}
