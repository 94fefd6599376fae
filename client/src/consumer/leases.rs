//! Which leases are to be extended, and what has waited too long (rule AK-5). Pure.
//!
//! Everything that is held and not decided is extended, also what waits for a handler: its lease would run out in the
//! queue, which counts as a failure. What has waited for half of the longest processing time is given back instead, so
//! that another member gets it.

use std::time::Duration;

use tokio::time::Instant;

use super::slots::{Phase, Slot, Slots, Ticket};

/// What the broker told about leases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct LeaseTimes {
    pub(super) lease: Duration,
    /// Longest time for which a lease can be extended; `None`: without end.
    pub(super) max_processing: Option<Duration>,
}

impl LeaseTimes {
    /// How often to look: several times before a lease that was due at the last look runs out.
    pub(super) fn look_every(&self) -> Duration {
        (self.lease / 6).max(Duration::from_millis(10))
    }
}

/// What is to be done about leases.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Due {
    pub(super) extend: Vec<Ticket>,
    pub(super) give_back: Vec<Ticket>,
}

/// Looks at everything held.
pub(super) fn due(slots: &Slots, times: LeaseTimes, now: Instant) -> Due {
    let mut due = Due::default();
    for (ticket, slot) in slots.iter().filter(|(_, slot)| slot.leased && slot.lost.is_none()) {
        if slot.phase == Phase::Decided {
            continue;
        }
        let held = now.saturating_duration_since(slot.arrived_at);
        if slot.is_queued() && times.max_processing.is_some_and(|max| held >= max / 2) {
            due.give_back.push(ticket);
        } else if is_due(slot, times, now) && times.max_processing.is_none_or(|max| held < max) {
            due.extend.push(ticket);
        }
    }
    due
}

fn is_due(slot: &Slot, times: LeaseTimes, now: Instant) -> bool {
    now.saturating_duration_since(slot.leased_at) >= times.lease / 3
}

#[cfg(test)]
mod tests {
    use super::super::board::tests::slot_at;
    use super::super::error::AckOutcome;
    use super::*;

    const TIMES: LeaseTimes =
        LeaseTimes { lease: Duration::from_secs(30), max_processing: Some(Duration::from_secs(900)) };

    fn after(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[tokio::test]
    async fn ak_5_a_lease_is_extended_before_it_runs_out_and_not_beyond_the_longest_processing_time() {
        let (mut slots, start) = (Slots::default(), Instant::now());
        let started = slots.insert(Slot { phase: Phase::Started, ..slot_at(start) });
        slots.insert(Slot { phase: Phase::Decided, ..slot_at(start) });
        slots.insert(Slot { phase: Phase::Started, lost: Some(AckOutcome::Fenced), ..slot_at(start) });
        slots.insert(Slot { phase: Phase::Started, leased: false, ..slot_at(start) });
        assert_eq!(due(&slots, TIMES, after(start, 9)), Due::default());
        assert_eq!(due(&slots, TIMES, after(start, 10)).extend, [started]);
        slots.get_mut(started).unwrap().leased_at = after(start, 10);
        assert!(due(&slots, TIMES, after(start, 19)).extend.is_empty());
        assert_eq!(due(&slots, TIMES, after(start, 20)).extend, [started]);
        assert!(due(&slots, TIMES, after(start, 900)).extend.is_empty());
        let endless = LeaseTimes { max_processing: None, ..TIMES };
        assert_eq!(due(&slots, endless, after(start, 9000)).extend, [started]);
    }

    #[tokio::test]
    async fn ak_5_what_waits_for_a_handler_is_extended_and_given_back_without_a_strike_when_it_waits_too_long() {
        let (mut slots, start) = (Slots::default(), Instant::now());
        let queued = slots.insert(Slot { phase: Phase::Ready, ..slot_at(start) });
        assert_eq!(due(&slots, TIMES, after(start, 449)).extend, [queued]);
        assert_eq!(due(&slots, TIMES, after(start, 450)), Due { extend: Vec::new(), give_back: vec![queued] });
    }

    #[test]
    fn looks_come_several_times_within_a_lease() {
        assert_eq!(TIMES.look_every(), Duration::from_secs(5));
        let short = LeaseTimes { lease: Duration::from_millis(1), max_processing: None };
        assert_eq!(short.look_every(), Duration::from_millis(10));
    }
}
