//! The one reader of the clock in this crate, and the pacing of a load that arrives at a fixed rate.
//!
//! Everything else here takes times from a [`Stopwatch`]. Broker and client have clocks of their own; a benchmark
//! measures them from outside.

use std::time::{Duration, Instant};

/// Monotonic time since the stopwatch was made; cheap to copy, comparable among threads.
#[derive(Debug, Clone, Copy)]
pub struct Stopwatch(Instant);

impl Stopwatch {
    /// A stopwatch that starts now.
    #[expect(clippy::disallowed_methods, reason = "the one reader of the clock in this crate")]
    pub fn start() -> Self {
        Self(Instant::now())
    }

    /// Time since the start.
    pub fn elapsed(&self) -> Duration {
        self.0.elapsed()
    }

    /// Seconds since the start.
    pub fn seconds(&self) -> f64 {
        self.0.elapsed().as_secs_f64()
    }

    /// Nanoseconds since the start, at most `u64::MAX`.
    pub fn nanos(&self) -> u64 {
        u64::try_from(self.0.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }
}

/// Waits on this thread.
#[expect(clippy::disallowed_methods, reason = "a benchmark paces its load and lets the disk settle between rounds")]
pub fn pause(duration: Duration) {
    std::thread::sleep(duration);
}

/// Lateness up to which the pacer's own wake-up is not charged to what is measured.
const PACER_SLACK: Duration = Duration::from_millis(1);

/// An open load: event `n` is due at `n / rate`, whether or not earlier ones have been answered.
#[derive(Debug)]
pub struct Pacer {
    clock: Stopwatch,
    interval: Duration,
    origin: Duration,
    sent: u32,
}

impl Pacer {
    /// So many events a second, at least 1, on this clock, the first of them now.
    pub fn new(clock: Stopwatch, per_second: u32) -> Self {
        let interval = Duration::from_secs(1) / per_second.max(1);
        Self { clock, interval, origin: clock.elapsed(), sent: 0 }
    }

    /// Waits until the next event is due. Returns its time in nanoseconds on the clock: the present, or when it was
    /// due if the load has fallen behind by more than a millisecond, so that a stall counts for every event it held
    /// up.
    pub fn next_due(&mut self) -> u64 {
        let due = self.origin + self.interval * self.sent;
        self.sent += 1;
        let now = self.clock.elapsed();
        if now < due {
            pause(due - now);
        } else if now - due > PACER_SLACK {
            return u64::try_from(due.as_nanos()).unwrap_or(u64::MAX);
        }
        self.clock.nanos()
    }
}
