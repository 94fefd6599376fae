//! When a failed record is tried again, and when it has failed for good (rules RT-1 to RT-4).
//!
//! Owns: the policy, its bounds, delays. Must not know: lanes, leases, the clock. Who counts attempts is
//! [`super::machine`]; here a count comes in and a verdict goes out.
//!
//! Invariants: equal input gives an equal delay (the jitter is a hash of the seed, so that a history can be repeated);
//! a delay is at most the policy's longest one and its jitter, or [`limits::RETRY_AFTER_MAX`] if a client asked for it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::config::ConfigError;
use super::entry::DeadReason;
use crate::limits;

/// Class of a failure that nobody reported: the lease ran out (rule AK-5).
pub const LEASE_EXPIRED: &str = "LEASE_EXPIRED";
/// Class of a failure that nobody could report: the consumer died (rule PI-4).
pub const CONSUMER_CRASH: &str = "CONSUMER_CRASH";

/// The most deliveries that a policy may allow.
const MAX_ATTEMPTS: u32 = 1_000_000;
/// The most delays of a list.
const DELAYS: usize = 64;
/// The most classes that are not retried.
const CLASSES: usize = 64;
/// The longest delay of a policy.
const DELAY_MAX_MS: u64 = limits::RETRY_AFTER_MAX.as_millis() as u64;
/// The greatest factor, in thousandths.
const FACTOR_MAX_PERMILLE: u32 = 100_000;

/// Tries and delays of a group, or of one of its topics (rule RT-1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RetryPolicy {
    /// Deliveries in all; default 6, 1 to 1,000,000.
    pub max_attempts: u32,
    /// Delays between them.
    pub backoff: Backoff,
    /// How far a delay may deviate, in percent of it; default 20, 0 to 100.
    pub jitter_percent: u32,
    /// Error classes that are not tried again (rule RT-4); at most 64, each of at most 255 bytes.
    pub non_retryable: Vec<String>,
    /// What happens when the tries are spent; default `DeadLetter`.
    pub on_exhausted: OnExhausted,
    /// What happens to the later records of its key; default `Park`.
    pub after_dead: AfterDead,
}

/// Delays between tries (rule RT-2).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Backoff {
    /// The delay before try n + 1, in milliseconds, is number n of the list; the last one repeats. 1 to 64 delays, each
    /// at most 24 h.
    List {
        /// The delays in milliseconds.
        delays_ms: Vec<u64>,
    },
    /// The delay before try n + 1 is `min(max, base * factor^(n - 1))`.
    Exponential {
        /// The first delay in milliseconds, at most `max_ms`.
        base_ms: u64,
        /// By which each delay is greater than the one before, in thousandths; 1,000 to 100,000.
        factor_permille: u32,
        /// The longest delay in milliseconds, at most 24 h.
        max_ms: u64,
    },
}

/// What happens to a record whose tries are spent (rule RT-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OnExhausted {
    /// It goes to the dead-letter topic.
    DeadLetter,
    /// It is settled as skipped, and counted.
    Drop,
    /// It holds its lane in the source until someone decides.
    Block,
}

/// What happens to later records of a key whose record died (rule RT-1).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum AfterDead {
    /// They are parked behind it, so that order holds.
    Park,
    /// They are delivered, with a hole before them.
    Continue,
}

/// How a delivery ended without success.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailureKind {
    /// The handler asked for another try, perhaps after a delay of its own.
    Nack {
        /// The delay that it asked for; bounded by [`limits::RETRY_AFTER_MAX`].
        retry_after: Option<Duration>,
    },
    /// The handler said that it is to die now.
    DeadNack,
    /// The lease ran out.
    LeaseExpired,
    /// The member was lost while it worked on it (rule PI-2).
    MemberLost,
}

/// A failed delivery.
#[derive(Debug, Clone, Copy)]
pub struct Failure<'a> {
    /// Deliveries that count, this one among them; from 1.
    pub attempt: u32,
    /// Class of the error; empty if none was given.
    pub class: &'a str,
    /// How it failed.
    pub kind: FailureKind,
    /// What the jitter hangs on: see [`jitter_seed`].
    pub seed: u64,
}

/// What is to become of a record whose delivery failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is tried again after this delay.
    Retry(Duration),
    /// It has failed for good: [`RetryPolicy::on_exhausted`] says what follows.
    Exhausted(DeadReason),
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 6,
            backoff: Backoff::default(),
            jitter_percent: 20,
            non_retryable: Vec::new(),
            on_exhausted: OnExhausted::DeadLetter,
            after_dead: AfterDead::Park,
        }
    }
}

impl Default for Backoff {
    fn default() -> Self {
        Self::List { delays_ms: vec![1_000, 5_000, 30_000, 120_000, 600_000] }
    }
}

impl RetryPolicy {
    /// Decides after a failed delivery (rules RT-1, RT-2, RT-4).
    pub fn verdict(&self, failure: &Failure<'_>) -> Verdict {
        let exhausted = failure.attempt >= self.max_attempts;
        match failure.kind {
            FailureKind::DeadNack => Verdict::Exhausted(DeadReason::ConsumerDeadNack),
            _ if self.non_retryable.iter().any(|class| class == failure.class) => {
                Verdict::Exhausted(DeadReason::NonRetryable)
            }
            FailureKind::Nack { .. } if exhausted => Verdict::Exhausted(DeadReason::Attempts),
            FailureKind::LeaseExpired if exhausted => Verdict::Exhausted(DeadReason::LeaseExpired),
            FailureKind::MemberLost if exhausted => Verdict::Exhausted(DeadReason::ConsumerCrash),
            FailureKind::Nack { retry_after: Some(asked) } => Verdict::Retry(asked.min(limits::RETRY_AFTER_MAX)),
            FailureKind::Nack { retry_after: None } | FailureKind::LeaseExpired | FailureKind::MemberLost => {
                Verdict::Retry(self.delay(failure.attempt, failure.seed))
            }
        }
    }

    /// The delay after failed try `attempt` (from 1), jitter included.
    pub fn delay(&self, attempt: u32, seed: u64) -> Duration {
        let plain_us = self.backoff.delay_ms(attempt).min(DELAY_MAX_MS) * 1_000;
        let jitter_us = u128::from(plain_us) * u128::from(self.jitter_percent.min(100)) / 100;
        // Uniform in 0..=2 * jitter: the top bits of a product, as for any draw from a hash.
        let drawn = (u128::from(mix(seed)) * (2 * jitter_us + 1)) >> 64;
        let delay_us = u128::from(plain_us) - jitter_us + drawn;
        Duration::from_micros(u64::try_from(delay_us).unwrap_or(u64::MAX))
    }

    /// Whether a delivery with this count is the last one allowed: it goes out alone (rule PI-4).
    pub fn is_last(&self, attempt: u32) -> bool {
        attempt >= self.max_attempts
    }

    /// Checks every bound.
    ///
    /// # Errors
    /// The first field out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        within("retry.max_attempts", self.max_attempts.into(), 1, MAX_ATTEMPTS.into())?;
        within("retry.jitter_percent", self.jitter_percent.into(), 0, 100)?;
        match &self.backoff {
            Backoff::List { delays_ms } => {
                within("retry.backoff.delays", delays_ms.len() as u64, 1, DELAYS as u64)?;
                delays_ms.iter().try_for_each(|&delay| within("retry.backoff.delays_ms", delay, 0, DELAY_MAX_MS))?;
            }
            Backoff::Exponential { base_ms, factor_permille, max_ms } => {
                within("retry.backoff.max_ms", *max_ms, 1, DELAY_MAX_MS)?;
                within("retry.backoff.base_ms", *base_ms, 1, *max_ms)?;
                let factor = u64::from(*factor_permille);
                within("retry.backoff.factor_permille", factor, 1_000, FACTOR_MAX_PERMILLE.into())?;
            }
        }
        check_classes("retry.non_retryable", &self.non_retryable)
    }
}

impl Backoff {
    /// The delay in milliseconds after failed try `attempt` (from 1), without jitter.
    pub fn delay_ms(&self, attempt: u32) -> u64 {
        let step = attempt.saturating_sub(1);
        match self {
            Self::List { delays_ms } => {
                let index = usize::try_from(step).unwrap_or(usize::MAX);
                delays_ms.get(index).or(delays_ms.last()).copied().unwrap_or(0)
            }
            Self::Exponential { base_ms, factor_permille, max_ms } => {
                let factor = u128::from((*factor_permille).max(1_000));
                let max = u128::from(*max_ms) * 1_000;
                let mut delay = u128::from(*base_ms) * 1_000;
                // With a factor of 1.001 the longest delay takes some 20,000 steps; more change nothing.
                for _ in 0..step.min(32_768) {
                    if delay >= max || factor == 1_000 {
                        break;
                    }
                    delay = (delay * factor / 1_000).max(delay + 1);
                }
                u64::try_from(delay.min(max) / 1_000).unwrap_or(u64::MAX)
            }
        }
    }
}

/// The seed of a record's jitter: the group and the source, hashed once by the caller, the offset and the attempt.
pub fn jitter_seed(group_and_source: u64, offset: u64, attempt: u32) -> u64 {
    mix(group_and_source ^ mix(offset ^ mix(attempt.into())))
}

/// The names of classes in a policy: at most [`CLASSES`], none empty or longer than a class may be.
pub(super) fn check_classes(field: &'static str, classes: &[String]) -> Result<(), ConfigError> {
    within(field, classes.len() as u64, 0, CLASSES as u64)?;
    for class in classes {
        if class.is_empty() || class.len() > limits::ERROR_CLASS_BYTES {
            let found = format!("a class of {} bytes", class.len());
            let bounds = format!("classes of 1 to {} bytes", limits::ERROR_CLASS_BYTES);
            return Err(ConfigError { field, found, bounds });
        }
    }
    Ok(())
}

pub(super) fn within(field: &'static str, found: u64, min: u64, max: u64) -> Result<(), ConfigError> {
    if (min..=max).contains(&found) {
        return Ok(());
    }
    Err(ConfigError { field, found: found.to_string(), bounds: format!("{min} to {max}") })
}

/// The finalizer of splitmix64 (Steele, Lea and Flood, 2014): every bit of the result hangs on every bit of the seed.
fn mix(seed: u64) -> u64 {
    let seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}

#[cfg(test)]
mod tests;
