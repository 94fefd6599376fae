//! The records that this member holds, each in a slot. Pure.
//!
//! A slot is taken when a record arrives and given back when the broker has answered the verdict on it, so that a
//! resuming session can tell what is in work (rule GM-8). Tickets outlive slots: a stale one finds nothing.

use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use super::error::{AckOutcome, HandlerError};
use super::lanes::LaneKey;
use super::record::ConsumedRecord;
use crate::dead_letter::EntryKind;
use crate::error::Error;

/// Names a slot as long as the same record is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Ticket {
    pub(super) index: u32,
    pub(super) generation: u32,
}

/// Where a record stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// Behind another of its key, or until its next try is due.
    Waiting,
    /// To be handed out.
    Ready,
    /// Handed out.
    Started,
    /// Its verdict is on its way to the broker, or waits for its answer.
    Decided,
}

/// Who waits for the answer to a verdict.
pub(super) type Waiter = oneshot::Sender<Result<AckOutcome, Error>>;

/// A record that is held.
#[derive(Debug)]
pub(super) struct Slot {
    pub(super) phase: Phase,
    /// Number of its source in this client.
    pub(super) source: u32,
    /// Epoch of the assignment.
    pub(super) epoch: u64,
    pub(super) offset: u64,
    /// Epoch of the partition when it was appended.
    pub(super) record_epoch: u32,
    /// Its slot of the partition (rule KO-10).
    pub(super) key_slot: u32,
    /// The broker has leased it: in mode offset only records that come through their entries.
    pub(super) leased: bool,
    /// Id and version of the entry that it comes through.
    pub(super) entry: Option<(Arc<str>, u32)>,
    /// Its lane, where the client itself keeps the order.
    pub(super) lane: Option<LaneKey>,
    /// Until it is handed out, and as long as it may be handed out again.
    pub(super) record: Option<ConsumedRecord>,
    /// Bytes that it takes of the credit.
    pub(super) bytes: u64,
    pub(super) arrived_at: Instant,
    /// When its lease began or was extended.
    pub(super) leased_at: Instant,
    /// The lease is over: what its verdict would be answered with.
    pub(super) lost: Option<AckOutcome>,
    pub(super) waiter: Option<Waiter>,
    /// Mode offset: tries that failed here.
    pub(super) failures: u32,
    /// Mode offset: it goes, or went, to the dead letters.
    pub(super) letter: Option<Letter>,
    /// The same record, that came again while its verdict was on its way.
    pub(super) again: Option<Ticket>,
}

/// A dead letter in mode offset.
#[derive(Debug, Clone)]
pub(super) struct Letter {
    pub(super) kind: EntryKind,
    pub(super) error: Option<Box<HandlerError>>,
}

impl Slot {
    /// Whether it is held back, not handed out and not decided.
    pub(super) fn is_queued(&self) -> bool {
        matches!(self.phase, Phase::Waiting | Phase::Ready)
    }
}

/// All that is held.
#[derive(Debug, Default)]
pub(super) struct Slots {
    list: Vec<(u32, Option<Slot>)>,
    free: Vec<u32>,
    held: usize,
}

impl Slots {
    pub(super) fn insert(&mut self, slot: Slot) -> Ticket {
        self.held += 1;
        if let Some(index) = self.free.pop() {
            let (generation, place) = &mut self.list[index as usize];
            *place = Some(slot);
            return Ticket { index, generation: *generation };
        }
        self.list.push((0, Some(slot)));
        let index = u32::try_from(self.list.len() - 1).expect("the credit bounds what is held");
        Ticket { index, generation: 0 }
    }

    pub(super) fn get(&self, ticket: Ticket) -> Option<&Slot> {
        let (generation, slot) = self.list.get(ticket.index as usize)?;
        slot.as_ref().filter(|_| *generation == ticket.generation)
    }

    pub(super) fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Slot> {
        let (generation, slot) = self.list.get_mut(ticket.index as usize)?;
        if *generation == ticket.generation { slot.as_mut() } else { None }
    }

    pub(super) fn remove(&mut self, ticket: Ticket) -> Option<Slot> {
        let (generation, place) = self.list.get_mut(ticket.index as usize)?;
        if *generation != ticket.generation {
            return None;
        }
        let slot = place.take()?;
        *generation = generation.wrapping_add(1);
        self.free.push(ticket.index);
        self.held -= 1;
        Some(slot)
    }

    /// Number of records held.
    pub(super) fn len(&self) -> usize {
        self.held
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Ticket, &Slot)> {
        self.list.iter().enumerate().filter_map(|(index, (generation, slot))| {
            let index = u32::try_from(index).expect("as inserted");
            Some((Ticket { index, generation: *generation }, slot.as_ref()?))
        })
    }

    /// Tickets of the slots for which `which` holds.
    pub(super) fn select(&self, which: impl Fn(&Slot) -> bool) -> Vec<Ticket> {
        self.iter().filter(|(_, slot)| which(slot)).map(|(ticket, _)| ticket).collect()
    }
}
