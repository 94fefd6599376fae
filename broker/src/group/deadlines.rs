//! What is due when: one ordered table of all deadlines of a group, by the monotonic clock.
//!
//! Owns: the table and what follows when a deadline comes. Invariant: a timer is armed at most once, at the earliest time
//! that was asked for; one that comes too early only looks again.

use std::collections::{BTreeMap, BTreeSet};

use super::Now;
use super::effect::Effects;
use super::lanes::Handle;
use super::machine::Machine;
use crate::model::Source;

/// What is waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Timer {
    /// The first lease of a partition runs out.
    Leases(Source),
    /// The first waiting lane of a partition may go on.
    Retries(Source),
    /// A lease of an entry runs out, or an entry may go on: [`Machine::expire_entries`].
    Entries,
    /// A member was silent for long, or its reservation ends.
    Session(Handle),
    /// Units must have been handed over.
    Drains,
    /// The breaker allows more.
    Breaker,
    /// The rate allows more.
    Rate,
    /// A pause ends.
    Pauses,
    /// Whether a member idles while another has more than it works on.
    Idle,
}

/// The table.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    table: BTreeSet<(u64, Timer)>,
    armed: BTreeMap<Timer, u64>,
}

impl Deadlines {
    /// Looks at `timer` at `at_ms`, monotonic, or earlier.
    pub(super) fn arm(&mut self, timer: Timer, at_ms: u64) {
        match self.armed.get_mut(&timer) {
            Some(armed) if *armed <= at_ms => return,
            Some(armed) => {
                self.table.remove(&(*armed, timer));
                *armed = at_ms;
            }
            None => drop(self.armed.insert(timer, at_ms)),
        }
        self.table.insert((at_ms, timer));
    }

    /// Nobody waits for it any more.
    pub(super) fn disarm(&mut self, timer: Timer) {
        if let Some(at_ms) = self.armed.remove(&timer) {
            self.table.remove(&(at_ms, timer));
        }
    }

    /// Takes the first that is due.
    pub(super) fn due(&mut self, now_ms: u64) -> Option<Timer> {
        let &(at_ms, timer) = self.table.first()?;
        if at_ms > now_ms {
            return None;
        }
        self.table.pop_first();
        self.armed.remove(&timer);
        Some(timer)
    }

    /// When the first is due.
    pub(super) fn first(&self) -> Option<u64> {
        self.table.first().map(|(at_ms, _)| *at_ms)
    }
}

impl Machine {
    /// Everything whose time has come. However many members are lost together, there is one new assignment (rule GM-4): one
    /// for each would give units to the next that is lost.
    pub(super) fn expire(&mut self, now: Now, fx: &mut Effects) {
        let mut lost = false;
        while let Some(timer) = self.deadlines.due(now.monotonic_ms) {
            match timer {
                Timer::Leases(source) => self.leases_due(source, now, fx),
                Timer::Retries(source) => self.retries_due(source, now),
                Timer::Entries => self.expire_entries(now, fx),
                Timer::Session(handle) => lost |= self.session_due(handle, now, fx),
                Timer::Drains => self.drains_due(now, fx),
                Timer::Breaker => self.arm_breaker(now),
                // The row of those that wait is served at the end of each event.
                Timer::Rate => {}
                Timer::Pauses => self.pauses_due(now, fx),
                Timer::Idle => self.idle_due(now, fx),
            }
        }
        if lost {
            self.rebalance(now, fx);
        }
    }
}
