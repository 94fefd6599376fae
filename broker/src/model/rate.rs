//! A token bucket: so many units a second, with a bounded burst. Time is an argument.

use std::time::Duration;

/// Units that may be spent at once after a pause, in seconds' worth.
const BURST: Duration = Duration::from_millis(100);

/// Lets units through at a rate. A single piece larger than the burst passes too and is paid for afterwards, so the
/// rate holds over time whatever the pieces are.
#[derive(Debug, Clone)]
pub struct TokenBucket {
    per_second: u64,
    /// The time at which all that was spent is paid for.
    paid_until: Duration,
}

impl TokenBucket {
    /// A bucket of `per_second` units a second, at least 1, that is full at `now` (monotonic time).
    pub fn new(per_second: u64, now: Duration) -> Self {
        Self { per_second: per_second.max(1), paid_until: now.saturating_sub(BURST) }
    }

    /// A bucket of `per_second` units a second, at least 1, with nothing saved up at `now`.
    pub fn empty(per_second: u64, now: Duration) -> Self {
        Self { per_second: per_second.max(1), paid_until: now }
    }

    /// The same at another rate from `now` on: nothing is saved up by the change, and what is not paid for yet stays owed.
    /// No longer than it was; of more than a burst only as long as it takes at the new rate, which may be far greater.
    pub fn at_rate(&self, per_second: u64, now: Duration) -> Self {
        let mut bucket = Self::empty(per_second, now);
        let owed = self.wait(now);
        let anew = owed.as_nanos().saturating_mul(u128::from(self.per_second)) / u128::from(bucket.per_second);
        let anew = Duration::from_nanos(u64::try_from(anew).unwrap_or(u64::MAX));
        bucket.paid_until = now.saturating_add(owed.min(anew.max(BURST)));
        bucket
    }

    /// Units a second.
    pub fn per_second(&self) -> u64 {
        self.per_second
    }

    /// Spends `units` at `now`; returns how long to wait before the next are spent.
    pub fn spend(&mut self, units: u64, now: Duration) -> Duration {
        let start = self.paid_until.max(now.saturating_sub(BURST));
        self.paid_until = start.saturating_add(self.price(units));
        self.wait(now)
    }

    /// How long to wait at `now` before units may be spent.
    pub fn wait(&self, now: Duration) -> Duration {
        self.paid_until.saturating_sub(now)
    }

    /// Units that can be spent at once without a wait afterwards.
    pub fn burst_units(&self) -> u64 {
        (u128::from(self.per_second) * BURST.as_millis() / 1000).max(1) as u64
    }

    fn price(&self, units: u64) -> Duration {
        let nanos = u128::from(units) * 1_000_000_000 / u128::from(self.per_second);
        Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_rate_holds_over_time_whatever_the_pieces_are() {
        for piece in [1_u64, 7, 100, 5_000] {
            let (mut now, mut sent) = (ms(1_000), 0);
            let mut bucket = TokenBucket::new(1_000, now);
            while now < ms(61_000) {
                let wait = bucket.spend(piece, now);
                sent += piece;
                now += wait.max(Duration::from_micros(10));
            }
            // 60 seconds at 1,000 a second, a burst of 100 and one piece.
            assert!((60_000..=60_100 + piece).contains(&sent), "{sent} in pieces of {piece}");
        }
    }

    #[test]
    fn a_pause_saves_up_no_more_than_the_burst() {
        let mut bucket = TokenBucket::new(1_000, ms(0));
        let now = ms(3_600_000);
        assert_eq!(bucket.spend(bucket.burst_units(), now), Duration::ZERO);
        assert_eq!(bucket.spend(10, now), ms(10));
        assert_eq!(bucket.wait(now + ms(4)), ms(6));
    }

    #[test]
    fn a_change_of_rate_saves_nothing_up_and_forgives_nothing() {
        let mut bucket = TokenBucket::new(1_000, ms(0));
        assert_eq!(bucket.at_rate(500, ms(9_000)).spend(1, ms(9_000)), ms(2), "nothing is saved up");
        bucket.spend(1_000, ms(0));
        assert_eq!(bucket.wait(ms(0)), ms(1_000));
        assert_eq!(bucket.at_rate(2_000, ms(0)).wait(ms(0)), ms(500), "1,000 units at the new rate");
        assert_eq!(bucket.at_rate(10, ms(0)).wait(ms(0)), ms(1_000), "no longer than it was");
        assert_eq!(bucket.at_rate(1_000_000, ms(0)).wait(ms(0)), BURST, "a burst is paid for as it was let through");
        assert_eq!(bucket.at_rate(1_000_000, ms(940)).wait(ms(940)), ms(60));
        assert_eq!(bucket.at_rate(2_000, ms(1_000)).wait(ms(1_000)), ms(0), "it is paid");
    }

    #[test]
    fn huge_amounts_and_tiny_rates_do_not_overflow() {
        let mut bucket = TokenBucket::new(0, ms(5));
        assert!(bucket.spend(u64::MAX, ms(5)) > Duration::from_secs(1 << 30));
        assert!(bucket.spend(u64::MAX, ms(5)) > Duration::from_secs(1 << 30));
        let mut bucket = TokenBucket::new(u64::MAX, ms(5));
        assert_eq!(bucket.spend(1, ms(5)), Duration::ZERO);
    }
}
