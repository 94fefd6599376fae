//! Medians, spreads and ratios of repeated measurements. Pure.

use hdrhistogram::Histogram;

/// Repetitions of one measurement, in the order in which they were taken.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// No repetitions yet.
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a repetition.
    pub fn push(&mut self, value: f64) {
        self.0.push(value);
    }

    /// Number of repetitions.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nothing was measured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The repetitions in order of time.
    pub fn values(&self) -> &[f64] {
        &self.0
    }

    /// The median: of an even number, the mean of the two in the middle. NaN if nothing was measured.
    pub fn median(&self) -> f64 {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        let middle = sorted.len() / 2;
        match sorted.len() {
            0 => f64::NAN,
            n if n % 2 == 1 => sorted[middle],
            _ => f64::midpoint(sorted[middle - 1], sorted[middle]),
        }
    }

    /// The least. NaN if nothing was measured.
    pub fn min(&self) -> f64 {
        self.0.iter().copied().reduce(f64::min).unwrap_or(f64::NAN)
    }

    /// The greatest. NaN if nothing was measured.
    pub fn max(&self) -> f64 {
        self.0.iter().copied().reduce(f64::max).unwrap_or(f64::NAN)
    }

    /// Distance from the least to the greatest, as a share of the median; 0 if all are alike.
    pub fn spread(&self) -> f64 {
        let distance = self.max() - self.min();
        if distance == 0.0 { 0.0 } else { distance / self.median() }
    }

    /// Each repetition over the one of `limit` taken in the same round: what noise both share cancels out.
    pub fn over(&self, limit: &Self) -> Self {
        Self(self.0.iter().zip(&limit.0).map(|(value, limit)| value / limit).collect())
    }

    /// Each repetition changed by `change`.
    pub fn map(&self, change: impl Fn(f64) -> f64) -> Self {
        Self(self.0.iter().copied().map(change).collect())
    }

    /// Repetition by repetition: `combine(self, other)`.
    pub fn zip_with(&self, other: &Self, combine: impl Fn(f64, f64) -> f64) -> Self {
        Self(self.0.iter().zip(&other.0).map(|(a, b)| combine(*a, *b)).collect())
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        Self(values.into_iter().collect())
    }
}

/// A distribution of times, kept to three digits up to a minute.
#[derive(Debug, Clone)]
pub struct Latencies(Histogram<u64>);

impl Default for Latencies {
    fn default() -> Self {
        Self(Histogram::new_with_bounds(1, 60_000_000_000, 3).expect("the bounds are constants that it allows"))
    }
}

impl Latencies {
    /// Counts one time in nanoseconds; a minute and more count as a minute.
    pub fn record_ns(&mut self, nanos: u64) {
        self.0.saturating_record(nanos.max(1));
    }

    /// Counts all times of another distribution too.
    pub fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("both have the same bounds");
    }

    /// Number of times counted.
    pub fn len(&self) -> u64 {
        self.0.len()
    }

    /// Whether nothing was counted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The time in microseconds that `percent` of all do not exceed.
    pub fn percentile_us(&self, percent: f64) -> f64 {
        self.0.value_at_percentile(percent) as f64 / 1_000.0
    }

    /// The mean time in microseconds.
    pub fn mean_us(&self) -> f64 {
        self.0.mean() / 1_000.0
    }
}

#[cfg(test)]
mod tests {
    use super::{Latencies, Samples};

    fn samples(values: &[f64]) -> Samples {
        values.iter().copied().collect()
    }

    #[test]
    fn the_median_ignores_the_order_and_the_outlier() {
        assert_eq!(samples(&[5.0, 1.0, 900.0, 2.0, 3.0]).median(), 3.0);
        assert_eq!(samples(&[4.0, 1.0, 2.0, 3.0]).median(), 2.5);
        assert!(samples(&[]).median().is_nan());
    }

    #[test]
    fn the_spread_is_the_range_over_the_median() {
        assert_eq!(samples(&[8.0, 10.0, 12.0]).spread(), 0.4);
        assert_eq!(samples(&[0.0, 0.0]).spread(), 0.0);
    }

    #[test]
    fn a_ratio_pairs_the_rounds() {
        // The machine was twice as slow in the second round; the ratio does not see it.
        let ratio = samples(&[6.0, 3.0]).over(&samples(&[10.0, 5.0]));
        assert_eq!(ratio.values(), [0.6, 0.6]);
    }

    #[test]
    fn percentiles_come_in_microseconds() {
        let mut latencies = Latencies::default();
        for us in 1..=100_u64 {
            latencies.record_ns(us * 1_000);
        }
        assert!((latencies.percentile_us(50.0) - 50.0).abs() < 0.1);
        assert!((latencies.percentile_us(99.0) - 99.0).abs() < 0.2);
        assert_eq!(latencies.len(), 100);
    }
}
