//! Records that come again while the verdict on them is on its way.
//!
//! After a resume, or when a lease has run out, the broker may lease a record anew before it reads the verdict that was
//! sent already: the verdict is then about the new lease, and its answer comes behind the delivery. So what comes again
//! waits for that answer, and is not handed out if the record is settled by it (rule AK-10).
//!
//! Invariant: what waits here begins, or is dropped, when the slot ends that it waits for. Records with a lane keep the
//! order of the lane instead, and are only dropped.

use std::collections::HashMap;
use std::sync::Arc;

use sawlog_proto::v1;

use super::super::error::{AckOutcome, Act};
use super::super::slots::{Phase, Ticket};
use super::Board;
use super::outbound::Verb;

/// Offset of a record, and the id of its entry if it comes through one.
pub(super) type Place = (u64, Option<Arc<str>>);

/// How a record is held that comes again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// Not handed out yet: the same lease is told twice.
    Queued,
    /// Its verdict is not answered.
    Decided(Ticket),
}

impl Board {
    /// Which of these are held and not in work: after a resume the broker may send what it cannot know to have come.
    pub(super) fn held(&self, source: u32, epoch: u64, deliveries: &[v1::Delivery]) -> HashMap<Place, Held> {
        let first_tries = deliveries.iter().all(|delivery| delivery.attempt <= 1 && delivery.entry.is_none());
        let mut held = HashMap::new();
        if self.slots.len() == 0 || (first_tries && !self.resumed) {
            return held;
        }
        for (ticket, slot) in self.slots.iter().filter(|(_, slot)| slot.source == source) {
            let place = (slot.offset, slot.entry.as_ref().map(|(id, _)| Arc::clone(id)));
            if slot.is_queued() {
                held.insert(place, Held::Queued);
            } else if slot.phase == Phase::Decided && slot.leased && slot.epoch == epoch {
                held.entry(place).or_insert(Held::Decided(ticket));
            }
        }
        held
    }

    /// A record that has just arrived waits for the answer to the verdict on `before`, the same record.
    pub(super) fn wait_for_answer(&mut self, before: Ticket, ticket: Ticket) {
        let Some(slot) = self.slots.get_mut(before) else { return };
        slot.again = Some(ticket);
        if let Some(slot) = self.slots.get_mut(ticket).filter(|slot| slot.lane.is_none()) {
            slot.phase = Phase::Waiting;
        }
    }

    /// A verdict is answered: what came again of a record that is settled by it is not handed out.
    pub(super) fn drop_settled(&mut self, ticket: Ticket, verb: &Verb, outcome: AckOutcome) {
        let Some(again) = self.slots.get(ticket).and_then(|slot| slot.again) else { return };
        let settles = match verb {
            Verb::Ack => outcome.is_settled(),
            Verb::Nack(error) if matches!(error.act, Act::Skip { .. } | Act::Dead) => outcome.is_settled(),
            _ => outcome == AckOutcome::AlreadySettled,
        };
        if settles && self.slots.get(again).is_some_and(|slot| slot.is_queued()) {
            self.drop_queued(again);
        }
    }

    /// The slot has ended that a record waited for.
    pub(super) fn begin_again(&mut self, ticket: Ticket) {
        if self.slots.get(ticket).is_some_and(|slot| slot.phase == Phase::Waiting && slot.lane.is_none()) {
            self.may_begin(ticket);
        }
    }
}
