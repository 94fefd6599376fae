//! What a shadow has of its group's dead letters: as they stand when it meets their records, and what becomes of them
//! later (rules DL-15, RP-7).
//!
//! Owns: what is taken over, which outcomes in the group are followed, whether all are. Must not know: who looks, and when.
//!
//! Invariants: a record that is on its way to the dead letters of the group is not met before its entry is there; what is
//! redriven in the group is redriven here once it has come to something there, so that nothing is applied here that the
//! group may yet give up; a redrive is followed once for each cycle; nothing follows before what is open before it in its
//! lane.

use super::super::Now;
use super::super::admin::BY_HAND;
use super::super::effect::Effects;
use super::super::entry::{Act, Entry, EntryKey, EntryKind, EntryRecord, EntryState, LaneState};
use super::super::machine::Machine;
use crate::model::{Offset, Source};

/// What became, in the group, of entries that are open in its shadow.
#[derive(Debug, Clone, Default)]
pub struct Followed {
    /// Closed without being handled.
    pub closed: Vec<(EntryKey, EntryState, Act)>,
    /// Delivered again, with the copies of their versions.
    pub redriven: Vec<(EntryKey, Vec<Offset>)>,
}

/// What an open entry of a shadow does.
enum Outcome {
    /// It waits, and with it what is behind it in its lane.
    Waits,
    /// It is delivered already.
    Goes,
    Closed(EntryState, Act),
    Redriven(Vec<Offset>),
}

impl Followed {
    /// Whether there is nothing to do.
    pub fn is_empty(&self) -> bool {
        self.closed.is_empty() && self.redriven.is_empty()
    }
}

impl Machine {
    /// What the group has of the records from `from` up to `to` of a partition: where the first of them lies that is on
    /// its way to the dead letters, or else `to`; and the entries of those before it.
    pub fn entries_met(&self, source: Source, from: Offset, to: Offset) -> (Offset, Vec<(EntryKey, Entry)>) {
        let intents = self.partition(source).into_iter().flat_map(|partition| partition.intents.values());
        let on_their_way = intents.map(|intent| intent.key.offset).filter(|at| (from..to).contains(at));
        let to = on_their_way.min().unwrap_or(to);
        let met = self.entries.from(source, from).take_while(|(key, _)| key.offset < to);
        (to, met.filter_map(|(key, _)| Some((key, self.entries.get(&key)?))).collect())
    }

    /// Entries that are open, lane by lane, each in order.
    pub fn open_entries(&self) -> Vec<(EntryKey, Entry)> {
        self.entries.open().filter_map(|key| Some((key, self.entries.get(&key)?))).collect()
    }

    /// What became, in this group, of entries that are open in its shadow and come as by [`Machine::open_entries`].
    pub fn outcomes(&self, open: &[(EntryKey, Entry)]) -> Followed {
        let mut followed = Followed::default();
        let (mut lane, mut waits) = (None, false);
        for (key, own) in open {
            if lane.replace((key.source, own.lane)) != Some((key.source, own.lane)) {
                waits = false;
            }
            match self.outcome(key, own) {
                Outcome::Closed(state, act) => followed.closed.push((*key, state, act)),
                Outcome::Redriven(versions) if !(waits && own.holds) => followed.redriven.push((*key, versions)),
                Outcome::Waits | Outcome::Redriven(_) => waits |= own.holds,
                Outcome::Goes => {}
            }
        }
        followed
    }

    fn outcome(&self, key: &EntryKey, own: &Entry) -> Outcome {
        if own.job.is_some() {
            return Outcome::Goes;
        }
        let Some(here) = self.entries.get(key) else {
            // Parked in the shadow alone, behind a record that had come to something here by then: it was handled here.
            let on_its_way = self.dead.intents.has(key, own.lane);
            let passed = self.partition(key.source).is_some_and(|partition| partition.settled.floor() > key.offset);
            let handled = own.kind == EntryKind::Parked && passed && !on_its_way;
            return if handled { Outcome::Redriven(Vec::new()) } else { Outcome::Waits };
        };
        match here.state {
            EntryState::Discarded | EntryState::Moved | EntryState::Expired => Outcome::Closed(here.state, here.act),
            // Not if it failed in the shadow in this cycle.
            EntryState::Resolved { .. } if here.cycle > own.cycle || own.attempts == 0 => {
                Outcome::Redriven(here.versions)
            }
            // It failed here again, and may do better in the shadow (rule RP-7).
            EntryState::Open if here.job.is_none() && here.cycle > own.cycle && self.was_tried(key, &here) => {
                Outcome::Redriven(here.versions)
            }
            _ => Outcome::Waits,
        }
    }

    /// Whether the last redrive of an open entry has come to something: it failed, or one before it in its lane did.
    fn was_tried(&self, key: &EntryKey, entry: &Entry) -> bool {
        let failed = |entry: &Entry| entry.job.is_none() && entry.attempts > 0 && entry.cycle > 0;
        let head = self.entries.head_of(key.source, entry.lane).filter(|head| entry.holds && head < key);
        failed(entry) || head.and_then(|head| self.entries.get(&head)).is_some_and(|head| failed(&head))
    }

    /// Whether this is a shadow.
    pub(in super::super) fn follows_group(&self) -> bool {
        self.state.config.shadow_of.is_some()
    }

    /// Whether an entry that follows the group has not been tried yet, and can be: what the group has applied is missing
    /// here.
    pub fn is_following(&self) -> bool {
        let next = |key: &EntryKey, entry: &Entry| {
            !entry.holds || self.entries.head_of(key.source, entry.lane).is_some_and(|head| head == *key)
        };
        let untried =
            |key: EntryKey| self.entries.get(&key).is_some_and(|entry| entry.attempts == 0 && next(&key, &entry));
        self.entries.redriving().any(|(_, key)| untried(key))
    }

    /// An entry of the group whose record is about to be met (rules DL-15, RP-7). What was resolved waits all the same if
    /// an earlier record of its key is still open here: it follows once that is decided. A record that was told already is
    /// what its reader makes of it, unless that is a dead letter too.
    pub(super) fn adopt(&mut self, key: EntryKey, mut entry: Entry, now: Now, fx: &mut Effects) {
        if !self.state.partitions.contains_key(&key.source)
            || matches!(entry.state, EntryState::Cleared | EntryState::Spilled)
            || self.entries.state_of(&key).is_some()
            || self.dead.intents.has(&key, entry.lane)
        {
            return;
        }
        let told = self.ranges.next(key.source).is_some_and(|next| key.offset < next);
        if told && self.ranges.looks_at(key.source) != Some(key.offset) {
            return;
        }
        let was = self.lane_now(key.source, entry.lane);
        if entry.job.take().is_some() && entry.state == EntryState::Open {
            // What the redrive comes to in the group is followed.
            entry.cycle = entry.cycle.saturating_sub(1);
        }
        if (told || entry.holds && was != LaneState::Live) && matches!(entry.state, EntryState::Resolved { .. }) {
            (entry.state, entry.attempts) = (EntryState::Open, 0);
        }
        (entry.due_ms, entry.delay_ms, entry.intent) = (0, 0, 0);
        let lane = entry.lane;
        let opened = EntryRecord::Opened { key, entry: Box::new(entry) };
        self.with_lane(key.source, lane, |machine| machine.commit_entry(opened, fx));
        self.lane_changed(key.source, lane, was, now, fx);
    }

    /// Open entries become what they became in the group.
    pub(super) fn follow_entries(&mut self, followed: Followed, now: Now, fx: &mut Effects) {
        let free = |machine: &Self, key: &EntryKey| {
            machine.entries.get(key).filter(|entry| entry.state == EntryState::Open && entry.job.is_none())
        };
        for (key, state, act) in followed.closed {
            if let Some(entry) = free(self, &key) {
                self.close_entry(key, state, entry.attempts, act, now, fx);
            }
        }
        let note = "redriven in its group".to_owned();
        let act = Act { actor: "broker".into(), time_ms: now.wall_ms, note };
        let mut keys = Vec::new();
        for (key, versions) in followed.redriven {
            let Some(entry) = free(self, &key) else { continue };
            for copy in versions.into_iter().skip(entry.versions.len()) {
                self.commit_entry(EntryRecord::Edited { key, copy, act: act.clone() }, fx);
            }
            keys.push(key);
        }
        if keys.is_empty() {
            return;
        }
        self.commit_entry(EntryRecord::Redriving { keys: keys.clone(), job: Some(BY_HAND), act }, fx);
        for key in keys {
            if let Some(entry) = self.entries.get(&key) {
                self.refresh_of(key, &entry, now);
            }
        }
    }
}
