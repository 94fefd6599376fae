//! The only reader of wall and monotonic time. Everything else takes `now` as an argument or asks a [`Clock`].

use std::fmt::Debug;
use std::time::Duration;

/// A point of monotonic time: the time since the clock was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Monotonic(pub Duration);

/// Wall and monotonic time.
pub trait Clock: Debug + Send + Sync + 'static {
    /// Wall time in milliseconds since 1970-01-01T00:00:00Z. May step in both directions.
    fn wall_ms(&self) -> i64;
    /// Monotonic time; never falls.
    fn monotonic(&self) -> Monotonic;
}

/// The clock of the machine.
#[derive(Debug)]
pub struct SystemClock {
    origin: std::time::Instant,
}

impl SystemClock {
    /// A clock whose monotonic time starts now.
    #[expect(clippy::disallowed_methods, reason = "this file is the one reader of the clock")]
    pub fn new() -> Self {
        Self { origin: std::time::Instant::now() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this file is the one reader of the clock")]
    fn wall_ms(&self) -> i64 {
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(self.origin.elapsed())
    }
}

/// A clock that tests turn by hand.
#[cfg(any(test, feature = "testing"))]
#[derive(Debug)]
pub struct ManualClock {
    wall_ms: std::sync::atomic::AtomicI64,
    monotonic_us: std::sync::atomic::AtomicU64,
}

#[cfg(any(test, feature = "testing"))]
impl ManualClock {
    /// A clock at this wall time, in milliseconds since 1970, and at monotonic zero.
    pub fn new(wall_ms: i64) -> Self {
        Self { wall_ms: wall_ms.into(), monotonic_us: 0.into() }
    }

    /// Lets time pass: both clocks go on.
    pub fn advance(&self, by: Duration) {
        let ms = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.wall_ms.fetch_add(ms, std::sync::atomic::Ordering::SeqCst);
        let us = u64::try_from(by.as_micros()).unwrap_or(u64::MAX);
        self.monotonic_us.fetch_add(us, std::sync::atomic::Ordering::SeqCst);
    }

    /// Sets the wall clock, as an operator or a time server would; monotonic time stays.
    pub fn set_wall_ms(&self, wall_ms: i64) {
        self.wall_ms.store(wall_ms, std::sync::atomic::Ordering::SeqCst);
    }
}

#[cfg(any(test, feature = "testing"))]
impl Clock for ManualClock {
    fn wall_ms(&self) -> i64 {
        self.wall_ms.load(std::sync::atomic::Ordering::SeqCst)
    }

    fn monotonic(&self) -> Monotonic {
        Monotonic(Duration::from_micros(self.monotonic_us.load(std::sync::atomic::Ordering::SeqCst)))
    }
}
