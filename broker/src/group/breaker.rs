//! The circuit breaker of a group (rules CB-1 to CB-5).
//!
//! Owns: when deliveries stop because too many keys fail at once, when a probe goes out, how deliveries come back. Must
//! not know: which record is a probe, what becomes of failed ones, the wall clock. All times are monotonic milliseconds.
//!
//! ```text
//!            >= 20 failed keys and >= 50 % of the window's            five good probes in a row
//!   Closed ----------------------------------------------> Open ------------------------------------> Ramp --30 s--> Closed
//!     ^       or a consumer asks, or an operator forces      |  \ probe out: Probing; bad: wait twice      |
//!     |                                                      |   5 s, 10 s, .. 60 s                        |
//!     +----------------- an operator forces it closed -------+<----------- as from Closed -----------------+
//! ```
//!
//! Invariants: an open breaker allows no normal delivery; a success of a record that is no probe never closes it;
//! memory is bounded whatever the number of keys (see [`window`]).

mod window;

use serde::{Deserialize, Serialize};

use super::config::ConfigError;
use super::retry::{check_classes, within};
use crate::model::LaneKey;
use window::Window;

/// Time to the first probe, and between probes as long as they succeed (rule CB-2).
pub const PROBE_FIRST_MS: u64 = 5_000;
/// The longest time between two probes (rule CB-2).
pub const PROBE_LONGEST_MS: u64 = 60_000;
/// Good probes in a row that close the breaker (rule CB-3).
pub const PROBES_TO_CLOSE: u32 = 5;
/// Time over which deliveries come back (rule CB-3).
pub const RAMP_MS: u64 = 30_000;
/// Kinds of failure that are told, the most frequent first (rule CB-4).
pub const TOP_FAILURES: usize = 5;

/// The greatest number of failed keys that a policy may ask for.
const FAILED_KEYS_MAX: u32 = 10_000;
const _: () = assert!((FAILED_KEYS_MAX as usize) < window::KEYS_MAX);

/// When the breaker of a group opens (rule CB-1).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct BreakerPolicy {
    /// Whether it opens by itself; default true. An operator or a consumer can open it in any case.
    pub enabled: bool,
    /// Time that is looked back at, in milliseconds; default 30,000, 1,000 to 3,600,000.
    pub window_ms: u64,
    /// Failed keys from which on it opens; default 20, 1 to 10,000.
    pub min_failed_keys: u32,
    /// Percent of the window's keys that must have failed; default 50, 1 to 100.
    pub percent: u32,
    /// It stays closed while all failures have one class and that class is listed here; at most 64, each at most 255
    /// bytes.
    pub poison_classes: Vec<String>,
}

impl Default for BreakerPolicy {
    fn default() -> Self {
        Self { enabled: true, window_ms: 30_000, min_failed_keys: 20, percent: 50, poison_classes: Vec::new() }
    }
}

impl BreakerPolicy {
    /// Checks every bound.
    ///
    /// # Errors
    /// The first field out of its bounds.
    pub fn check(&self) -> Result<(), ConfigError> {
        within("breaker.window_ms", self.window_ms, 1_000, 3_600_000)?;
        within("breaker.min_failed_keys", self.min_failed_keys.into(), 1, FAILED_KEYS_MAX.into())?;
        within("breaker.percent", self.percent.into(), 1, 100)?;
        check_classes("breaker.poison_classes", &self.poison_classes)
    }
}

/// How the first delivery of a record ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstAttempt<'a> {
    /// It was settled.
    Ok,
    /// It failed.
    Failed {
        /// Class of the error.
        class: &'a str,
        /// Its fingerprint (rule DL-13).
        fingerprint: &'a str,
    },
}

/// Why the breaker is open (rule CB-4).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum OpenReason {
    /// Too many keys failed.
    FailedKeys {
        /// Keys that failed in the window.
        failed: u32,
        /// Keys seen in the window.
        seen: u32,
    },
    /// A consumer asked for it (rule CB-5).
    Asked,
    /// An operator forced it.
    Forced,
}

/// What the breaker allows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Everything.
    Closed,
    /// Nothing but, from `next_probe_ms` on, one probe.
    Open {
        /// Since when.
        since_ms: u64,
        /// Why.
        reason: OpenReason,
        /// When the next probe may go out; `None`: an operator forced it open.
        next_probe_ms: Option<u64>,
    },
    /// Nothing: a probe is out.
    Probing {
        /// Open since when.
        since_ms: u64,
        /// Why it is open.
        reason: OpenReason,
        /// Good probes in a row so far.
        successes: u32,
    },
    /// A part of the deliveries, rising.
    Ramp {
        /// The part in thousandths, as [`Breaker::allowance`].
        permille: u32,
    },
}

/// A kind of failure and how many keys of the window show it (rule CB-4).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopFailure {
    /// Class of the error; empty beyond the classes that are told apart.
    pub class: String,
    /// Fingerprint; empty beyond those that are told apart.
    pub fingerprint: String,
    /// Keys whose latest first attempt failed so.
    pub keys: u32,
}

/// The breaker of one group.
#[derive(Debug)]
pub struct Breaker {
    policy: BreakerPolicy,
    window: Window,
    phase: Phase,
    forced: Option<Force>,
}

/// Set by an operator.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Force {
    Open { since_ms: u64 },
    Closed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    Open(Opened),
    Ramp { since_ms: u64 },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Opened {
    since_ms: u64,
    reason: OpenReason,
    /// Time from the last verdict to the next probe.
    interval_ms: u64,
    next_probe_ms: u64,
    probing: bool,
    successes: u32,
}

impl Breaker {
    /// A closed breaker that has seen nothing.
    pub fn new(policy: BreakerPolicy) -> Self {
        let window = Window::new(&policy);
        Self { policy, window, phase: Phase::Closed, forced: None }
    }

    /// Takes another policy. State stays; what was seen is forgotten, so that it opens only by the new one.
    pub fn set_policy(&mut self, policy: BreakerPolicy) {
        if policy != self.policy {
            self.window = Window::new(&policy);
            self.policy = policy;
        }
    }

    /// Counts the end of a record's first delivery; not of a probe, and not of a later try (rule CB-1). Of a key only
    /// the latest counts. Returns whether this opened the breaker.
    pub fn note_first_attempt(&mut self, lane: LaneKey, outcome: FirstAttempt<'_>, now_ms: u64) -> bool {
        if !self.policy.enabled || matches!(self.phase, Phase::Open(_)) {
            return false;
        }
        self.window.note(lane, outcome, now_ms);
        // While an operator holds it closed the window goes on, so that it is right once he lets go.
        if self.forced.is_some() || !self.is_due() {
            return false;
        }
        let reason = OpenReason::FailedKeys { failed: self.window.failed(), seen: self.window.seen() };
        self.open(reason, now_ms, now_ms.saturating_add(PROBE_FIRST_MS));
        true
    }

    /// What the breaker allows now.
    pub fn state(&self, now_ms: u64) -> BreakerState {
        match (self.forced, self.phase) {
            (Some(Force::Open { since_ms }), _) => {
                BreakerState::Open { since_ms, reason: OpenReason::Forced, next_probe_ms: None }
            }
            (Some(Force::Closed), _) | (None, Phase::Closed) => BreakerState::Closed,
            (None, Phase::Open(open)) if open.probing => {
                BreakerState::Probing { since_ms: open.since_ms, reason: open.reason, successes: open.successes }
            }
            (None, Phase::Open(open)) => BreakerState::Open {
                since_ms: open.since_ms,
                reason: open.reason,
                next_probe_ms: Some(open.next_probe_ms),
            },
            (None, Phase::Ramp { since_ms }) => match ramp(since_ms, now_ms) {
                1_000 => BreakerState::Closed,
                permille => BreakerState::Ramp { permille },
            },
        }
    }

    /// The part of the normal deliveries that may go out now, in thousandths: 0 while open, 1,000 while closed, and
    /// rising over [`RAMP_MS`] after it has closed (rule CB-3).
    pub fn allowance(&self, now_ms: u64) -> u32 {
        match self.state(now_ms) {
            BreakerState::Closed => 1_000,
            BreakerState::Open { .. } | BreakerState::Probing { .. } => 0,
            BreakerState::Ramp { permille } => permille,
        }
    }

    /// Whether normal deliveries are stopped.
    pub fn is_open(&self, now_ms: u64) -> bool {
        self.allowance(now_ms) == 0
    }

    /// Whether a probe may go out now (rule CB-2).
    pub fn probe_due(&self, now_ms: u64) -> bool {
        matches!(self.state(now_ms), BreakerState::Open { next_probe_ms: Some(due), .. } if due <= now_ms)
    }

    /// The next time at which the breaker allows more than before; `None` if only an event can change it.
    pub fn next_deadline_ms(&self, now_ms: u64) -> Option<u64> {
        match self.state(now_ms) {
            BreakerState::Open { next_probe_ms, .. } => next_probe_ms,
            BreakerState::Ramp { .. } => Some(now_ms.saturating_add(RAMP_MS / 30)),
            BreakerState::Closed | BreakerState::Probing { .. } => None,
        }
    }

    /// A probe went out.
    pub fn probe_sent(&mut self) {
        if let Phase::Open(open) = &mut self.phase {
            open.probing = true;
        }
    }

    /// The probe was handled: five good ones in a row close the breaker (rule CB-3). Returns whether this did.
    pub fn probe_ok(&mut self, now_ms: u64) -> bool {
        let Phase::Open(open) = &mut self.phase else { return false };
        open.probing = false;
        open.successes += 1;
        open.interval_ms = PROBE_FIRST_MS;
        open.next_probe_ms = now_ms.saturating_add(PROBE_FIRST_MS);
        if open.successes < PROBES_TO_CLOSE {
            return false;
        }
        self.phase = Phase::Ramp { since_ms: now_ms };
        true
    }

    /// The probe failed: the next one waits twice as long, and the row begins anew.
    pub fn probe_failed(&mut self, now_ms: u64) {
        if let Phase::Open(open) = &mut self.phase {
            open.probing = false;
            open.successes = 0;
            open.interval_ms = (open.interval_ms * 2).min(PROBE_LONGEST_MS);
            open.next_probe_ms = now_ms.saturating_add(open.interval_ms);
        }
    }

    /// The probe came back without having been tried (released, recalled, its member left): another goes out after the
    /// same time.
    pub fn probe_lost(&mut self, now_ms: u64) {
        if let Phase::Open(open) = &mut self.phase {
            open.probing = false;
            open.next_probe_ms = now_ms.saturating_add(open.interval_ms);
        }
    }

    /// An operator forces it open or closed, or lets it go (`None`): it is closed then, and what was seen is forgotten
    /// (rule CB-4).
    pub fn force(&mut self, open: Option<bool>, now_ms: u64) {
        self.forced = open.map(|open| if open { Force::Open { since_ms: now_ms } } else { Force::Closed });
        self.phase = Phase::Closed;
        self.window = Window::new(&self.policy);
    }

    /// What an operator forces; `None`: nothing.
    pub fn forced(&self) -> Option<bool> {
        self.forced.map(|force| matches!(force, Force::Open { .. }))
    }

    /// A consumer knows that what it depends on is down: the first probe goes out at `until_ms` (rule CB-5). A breaker
    /// that is open already stays open at least so long; one that is forced does not change.
    pub fn ask_open(&mut self, until_ms: u64, now_ms: u64) {
        let until_ms = until_ms.max(now_ms);
        if self.forced.is_some() {
            return;
        }
        match &mut self.phase {
            Phase::Open(open) => {
                open.next_probe_ms = open.next_probe_ms.max(until_ms);
                open.successes = 0;
            }
            Phase::Closed | Phase::Ramp { .. } => self.open(OpenReason::Asked, now_ms, until_ms),
        }
    }

    /// Whether a lane that waits for a retry waits on while the breaker is open: it first failed inside of the window
    /// that opened it. One that failed before keeps its schedule, strikes and way to the dead letters (rule CB-2).
    pub fn holds(&self, first_failure_ms: u64, now_ms: u64) -> bool {
        match self.state(now_ms) {
            BreakerState::Open { since_ms, .. } | BreakerState::Probing { since_ms, .. } => {
                first_failure_ms >= since_ms.saturating_sub(self.policy.window_ms)
            }
            BreakerState::Closed | BreakerState::Ramp { .. } => false,
        }
    }

    /// Keys of the window and how many of them failed, as of `now_ms`.
    pub fn window(&mut self, now_ms: u64) -> (u32, u32) {
        self.window.advance(now_ms);
        (self.window.seen(), self.window.failed())
    }

    /// The most frequent failures of the window that is kept: of an open breaker the one that opened it (rule CB-4).
    pub fn top_failures(&self) -> Vec<TopFailure> {
        self.window.top(TOP_FAILURES)
    }

    fn is_due(&self) -> bool {
        let (failed, seen) = (u64::from(self.window.failed()), u64::from(self.window.seen()));
        failed >= u64::from(self.policy.min_failed_keys)
            && failed * 100 >= seen * u64::from(self.policy.percent)
            && !self.window.is_all_one_poison_class()
    }

    fn open(&mut self, reason: OpenReason, now_ms: u64, next_probe_ms: u64) {
        self.phase = Phase::Open(Opened {
            since_ms: now_ms,
            reason,
            interval_ms: PROBE_FIRST_MS,
            next_probe_ms,
            probing: false,
            successes: 0,
        });
        // What was seen up to here has had its effect; top_failures still tells of it.
        self.window.close();
    }
}

/// The part of the deliveries in thousandths, `since_ms` being the time of closing.
fn ramp(since_ms: u64, now_ms: u64) -> u32 {
    let passed = now_ms.saturating_sub(since_ms).min(RAMP_MS);
    // It begins with a thirtieth, not with nothing: the five probes have shown that something works.
    let permille = (passed.max(RAMP_MS / 30) * 1_000) / RAMP_MS;
    u32::try_from(permille).expect("a part of the ramp is at most 1,000 thousandths")
}

#[cfg(test)]
mod tests;
