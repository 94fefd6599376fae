//! What becomes of records that fail: how often they are tried, and what then (rule RM-6). Pure.

use std::time::Duration;

use crate::consumer::HandlerError;

/// Class of a record that is taken out because its readers were lost with it time and again (rule RM-8).
pub const CONSUMER_CRASH: &str = "CONSUMER_CRASH";
/// Class of a handler that ran for longer than it may.
pub const TIMEOUT: &str = "TIMEOUT";

/// Time within which a record gets its tries.
const TRY_WITHIN: Duration = Duration::from_secs(2);

/// What happens to a record that has had all its tries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum OnPoison {
    /// It becomes a dead letter, later records of its key wait behind it, and the model goes on with the others.
    #[default]
    ParkKey,
    /// Its partition stops, and the projection ends with the error.
    Stop,
}

/// What a failure of a record leads to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Next {
    /// Tried again, alone, after this wait.
    Again(Duration),
    /// The same, and it was no fault of the record.
    Wait(Duration),
    /// It has had its tries.
    Poison,
    /// The handler says that it need not be handled.
    Skip,
}

/// After the `failures`-th failure of `tries`.
pub(super) fn next(error: &HandlerError, failures: u32, tries: u32) -> Next {
    use crate::consumer::Act;
    match &error.act {
        Act::Skip { .. } => Next::Skip,
        Act::Dead => Next::Poison,
        Act::Release { after, .. } => Next::Wait(after.unwrap_or(TRY_WITHIN)),
        Act::Retry { .. } if failures >= tries => Next::Poison,
        Act::Retry { after } => Next::Again(after.unwrap_or_else(|| wait(failures, tries)).min(TRY_WITHIN)),
    }
}

/// Waits that grow with the failures and are [`TRY_WITHIN`] in all.
fn wait(failures: u32, tries: u32) -> Duration {
    let waits = u64::from(tries.saturating_sub(1)).max(1);
    // Shares 1, 2, 3 ... of their sum.
    let all = waits * (waits + 1) / 2;
    let share = u64::from(failures.max(1)).min(waits);
    TRY_WITHIN.mul_f64(share as f64 / all as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed() -> HandlerError {
        HandlerError::retry("no")
    }

    #[test]
    fn rm_6_a_record_gets_three_tries_within_two_seconds() {
        let waits: Vec<Next> = (1..=3).map(|failures| next(&failed(), failures, 3)).collect();
        let [Next::Again(first), Next::Again(second), Next::Poison] = waits[..] else { panic!("{waits:?}") };
        assert!(first < second && first + second <= TRY_WITHIN, "{waits:?}");
    }

    #[test]
    fn rm_6_what_the_handler_says_of_a_record_is_done() {
        assert_eq!(next(&HandlerError::dead("bad"), 1, 3), Next::Poison);
        assert_eq!(next(&HandlerError::skip("not ours"), 1, 3), Next::Skip);
        let long = Duration::from_secs(60);
        assert_eq!(next(&HandlerError::release_after(long), 9, 3), Next::Wait(long));
        assert_eq!(next(&HandlerError::retry_after(long, "later"), 1, 3), Next::Again(TRY_WITHIN));
    }
}
