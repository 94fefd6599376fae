//! The state machine of one group: one event in, its effects out.
//!
//! Owns durable state (changed by `replay` alone) and what is lost at a restart: sessions, leases, lanes read ahead.

use super::Now;
use super::effect::Effects;
use super::entry::{EntryRecord, EntryTable};
use super::event::Event;
use super::record::GroupRecord;
use super::state::GroupState;

/// One group.
#[derive(Debug)]
pub struct Machine {
    pub(super) state: GroupState,
    pub(super) entries: EntryTable,
}

impl Machine {
    /// A group as the journals have it, at the start of the broker: members that were there may resume within their
    /// session timeout from `now` (rule GM-11), intents that are open are to be moved again (rule DL-4).
    pub fn new(state: GroupState, entries: EntryTable, now: Now) -> Self {
        let _ = now;
        Self { state, entries }
    }

    /// Takes an event. `now` never falls.
    pub fn handle(&mut self, event: Event, now: Now) -> Effects {
        let _ = (event, now);
        todo!()
    }

    /// Durable state.
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// Dead-letter entries.
    pub fn entries(&self) -> &EntryTable {
        &self.entries
    }

    /// Applies a record and hands it to the journal.
    ///
    /// # Panics
    /// If it does not fit the state that it was decided on: a defect.
    pub(super) fn commit(&mut self, record: GroupRecord, effects: &mut Effects) {
        self.state.replay(&record).expect("a record fits the state that it was decided on");
        effects.records.push(record);
    }

    /// Applies an entry record and hands it to the entry journal.
    ///
    /// # Panics
    /// If it does not fit the entries that it was decided on: a defect.
    pub(super) fn commit_entry(&mut self, record: EntryRecord, effects: &mut Effects) {
        self.entries.replay(&record).expect("a record fits the entries that it was decided on");
        effects.entry_records.push(record);
    }
}
