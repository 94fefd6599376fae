//! When to try again: exponential backoff with jitter. Pure: it hands out waits and never waits itself.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// Shortest wait after a failure.
const SHORTEST: Duration = Duration::from_millis(20);
/// Longest wait before jitter, which at most doubles it.
const LONGEST: Duration = Duration::from_secs(2);

/// The waits between tries. Never ends: whoever uses it has a deadline.
#[derive(Debug)]
pub(crate) struct Retry {
    waits: ExponentialBackoff,
    waited: bool,
}

impl Retry {
    pub(crate) fn new() -> Self {
        Self { waits: builder().build(), waited: false }
    }

    /// The wait before the next try; never shorter than what the broker told.
    pub(crate) fn next_wait(&mut self, told: Option<Duration>) -> Duration {
        self.waited = true;
        // The iterator has no end; the fallback is never taken.
        let wait = self.waits.next().unwrap_or(LONGEST);
        told.map_or(wait, |told| wait.max(told))
    }

    /// A try succeeded: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        if self.waited {
            *self = Self::new();
        }
    }
}

fn builder() -> ExponentialBuilder {
    ExponentialBuilder::default()
        .with_min_delay(SHORTEST)
        .with_max_delay(LONGEST)
        .with_factor(2.0)
        .with_jitter()
        .without_max_times()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_start_again_after_a_success() {
        let mut retry = Retry::new();
        let waits: Vec<Duration> = (0..20).map(|_| retry.next_wait(None)).collect();
        assert!(waits[0] >= SHORTEST && waits[0] <= SHORTEST * 2, "{:?}", waits[0]);
        assert!(waits.iter().all(|wait| *wait <= LONGEST * 2), "{waits:?}");
        assert!(waits[19] >= LONGEST);
        retry.reset();
        assert!(retry.next_wait(None) <= SHORTEST * 2);
    }

    #[test]
    fn a_time_told_by_the_broker_is_kept() {
        let told = Duration::from_secs(30);
        assert!(Retry::new().next_wait(Some(told)) >= told);
    }

    #[test]
    fn two_clients_do_not_wait_equally() {
        let draw = || {
            (0..8)
                .map({
                    let mut retry = Retry::new();
                    move |_| retry.next_wait(None)
                })
                .collect::<Vec<_>>()
        };
        let first = draw();
        assert!((0..20).any(|_| draw() != first));
    }
}
