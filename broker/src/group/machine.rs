//! The state machine of one group: one event in, its effects out.
//!
//! Owns durable state (changed by `replay` alone) and what is lost at a restart: sessions, leases, lanes read ahead. The
//! parts live in modules of their own, as `impl Machine` blocks: `members` and `units` (who is there, who owns what),
//! `verbs` (what members say), `delivery` (who gets what next), `deadlines`; `dead`, `spill`, `redriven`, `offset_mode`,
//! `admin` and `gaps`.
//!
//! Invariants: after each event, no record that can be delivered lies beside a member that may have it; whatever was
//! touched is looked at again before the event ends ([`Machine::finish`]); nothing is read before [`Machine::start`], so
//! that no record is met while the state is still being compared with its partitions.

use std::collections::BTreeMap;

use super::Now;
use super::breaker::Breaker;
use super::claims::Claims;
use super::config::Mode;
use super::dead::Dead;
use super::deadlines::Deadlines;
use super::delivery::{Rate, Totals};
use super::effect::{After, Effects, Frame, Outgoing};
use super::entry::{EntryRecord, EntryTable};
use super::event::Event;
use super::gaps::Gaps;
use super::lanes::Work;
use super::members::Members;
use super::offset_mode::Ranges;
use super::record::GroupRecord;
use super::redriven::Redriven;
use super::replay::Replaying;
use super::state::{GroupState, PartitionState};
use super::units::HandOver;
use super::verbs::Answers;
use crate::model::{MemberId, Source};

/// One group.
#[derive(Debug)]
pub struct Machine {
    pub(super) state: GroupState,
    pub(super) entries: EntryTable,
    /// Sessions and their credit.
    pub(super) members: Members,
    /// What is held of each partition.
    pub(super) works: BTreeMap<Source, Work>,
    /// Partitions that this event touched.
    pub(super) touched: Vec<Source>,
    /// Those of them that were looked at, and are to be read on.
    pub(super) looked_at: Vec<Source>,
    pub(super) deadlines: Deadlines,
    pub(super) breaker: Breaker,
    /// What is leased in all.
    pub(super) totals: Totals,
    pub(super) rate: Rate,
    /// Verbs about records that were not read yet.
    pub(super) claims: Claims,
    /// Verbs whose answer waits for a dead letter.
    pub(super) answers: Answers,
    /// Units on their way to another member.
    pub(super) hand_over: HandOver,
    /// What `dead` and `spill` keep in memory.
    pub(super) dead: Dead,
    /// Leases of entries.
    pub(super) redriven: Redriven,
    /// What was sent in mode OFFSET.
    pub(super) ranges: Ranges,
    /// Gaps that wait.
    pub(super) gaps: Gaps,
    /// What of a replay is not done.
    pub(super) replaying: Replaying,
    /// When the last event came.
    pub(super) now: Now,
    /// [`Machine::start`] was called.
    pub(super) started: bool,
    /// The broker is going: nothing more is delivered.
    pub(super) closing: bool,
}

impl Machine {
    /// A group as the journals have it, at the start of the broker. Until [`Machine::start`] it takes what comes of the
    /// comparison with its partitions (rule AK-12), reads nothing and lets no session end.
    pub fn new(state: GroupState, entries: EntryTable, now: Now) -> Self {
        let mut machine = Self {
            members: Members::default(),
            works: BTreeMap::new(),
            touched: Vec::new(),
            looked_at: Vec::new(),
            deadlines: Deadlines::default(),
            breaker: Breaker::new(state.config.breaker.clone()),
            totals: Totals::default(),
            rate: Rate::default(),
            claims: Claims::default(),
            answers: Answers::default(),
            hand_over: HandOver::default(),
            dead: Dead::default(),
            redriven: Redriven::default(),
            ranges: Ranges::default(),
            gaps: Gaps::default(),
            replaying: Replaying::default(),
            now,
            started: false,
            closing: false,
            state,
            entries,
        };
        machine.restore(now);
        machine.find_pending();
        machine
    }

    /// What is to be done at the start of the broker, once the state has been compared with its partitions: members that
    /// were there may resume within their session timeout from `now` (rule GM-11), dead letters on their way go on
    /// (rule DL-4), ranges are read.
    ///
    /// The moves are those of all intents that are open, before any later one; their copies may be there already.
    pub fn start(&mut self, now: Now) -> Effects {
        let mut effects = Effects::default();
        (self.started, self.now) = (true, now);
        self.await_members(now);
        self.start_dead(now, &mut effects);
        self.end_if_done(now, &mut effects);
        self.finish(now, &mut effects);
        effects
    }

    /// Takes an event. `now` never falls.
    pub fn handle(&mut self, event: Event, now: Now) -> Effects {
        let mut effects = Effects::default();
        let fx = &mut effects;
        self.now = now;
        self.expire(now, fx);
        match event {
            Event::Member { member, epoch, verb } => self.verb(member, epoch, verb, now, fx),
            Event::Join(join) => self.join(*join, now, fx),
            Event::StreamEnded { member, epoch } => self.stream_ended(member, epoch, now, fx),
            Event::Silent { member, epoch } => self.silent(member, epoch, now, fx),
            Event::Fetched(fetched) => self.fetched(*fetched, now, fx),
            Event::HighWatermark { source, offset } => self.high_watermark(source, offset),
            Event::Gap { source, range, reason } => self.gap(source, range, reason, now, fx),
            Event::Missed { source, range, reason } => self.tell_gap(source, range, reason, None, false, fx),
            Event::Cut { source, at, epoch } => self.cut(source, at, epoch, now, fx),
            Event::Copied { source, number, copy } => self.copied(source, number, copy, now, fx),
            Event::EntryDurable { source, number } => self.entry_durable(source, number, now, fx),
            Event::CopyBlocked { source, reason } => self.copy_blocked(source, reason, now, fx),
            Event::DlqEnd { source, end } => self.dlq_end(source, end),
            Event::Topics { added, starts, removed } => self.topics_changed(added, starts, removed, now, fx),
            Event::Admin(admin) => {
                let outcome = self.admin(admin, now, fx);
                fx.outcome = Some(outcome);
            }
            Event::Tick => {}
            Event::Shutdown { reconnect_after_ms } => self.shutdown(reconnect_after_ms, fx),
        }
        self.finish(now, fx);
        effects
    }

    /// Durable state.
    pub fn state(&self) -> &GroupState {
        &self.state
    }

    /// Dead-letter entries.
    pub fn entries(&self) -> &EntryTable {
        &self.entries
    }

    /// Whether records have no state of their own but a commit.
    pub(super) fn is_offset(&self) -> bool {
        self.state.config.mode == Mode::Offset
    }

    /// Durable state of a partition.
    pub(super) fn partition(&self, source: Source) -> Option<&PartitionState> {
        self.state.partitions.get(&source)
    }

    /// What is held of a partition, to be changed: it is looked at again before the event ends.
    pub(super) fn work(&mut self, source: Source) -> Option<&mut Work> {
        let work = self.works.get_mut(&source)?;
        if !work.touched {
            work.touched = true;
            self.touched.push(source);
        }
        Some(work)
    }

    /// A partition is looked at again before the event ends.
    pub(super) fn touch(&mut self, source: Source) {
        let _ = self.work(source);
    }

    /// Sends a frame to a member that has a stream; else it is lost, and the member asks again when it is back.
    pub(super) fn send(&self, member: MemberId, frame: Frame, after: After, fx: &mut Effects) {
        if self.members.get(member).is_some_and(|one| one.attached) {
            fx.frames.push(Outgoing { member, frame, after });
        }
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

    /// The end of each event: whoever was woken is served, what is missing is read, the next deadline is named.
    fn finish(&mut self, now: Now, fx: &mut Effects) {
        loop {
            self.look_at_touched(fx);
            while self.go_on_waiting(now, fx) || self.bury_spent(now, fx) {
                self.look_at_touched(fx);
            }
            if self.deliver(now, fx) || !self.touched.is_empty() || self.look_at_bounds(now, fx) {
                continue;
            }
            self.look_at_replay(now, fx);
            // The end of a replay that paused wakes what waited behind it.
            if self.touched.is_empty() {
                break;
            }
        }
        self.read_on(fx);
        fx.deadline_ms = self.deadlines.first();
    }
}

#[cfg(test)]
mod many_tests;
