//! Calls of operators (rules OF-3, OF-6, OF-8, CB-4, RE-4, RD-3, RD-6, RD-8, RT-3).
//!
//! Owns: what each call may touch, and what follows. Must not know: who may call; selectors, jobs and their pace.
//!
//! Invariants: a call that is refused changes nothing; entries are closed, edited or given to a job only while they are
//! open and no job has them.

use super::Now;
use super::config::Positions;
use super::effect::{Effects, Refusal};
use super::entry::{Act, DeadReason, EntryKey, EntryRecord, EntryState};
use super::event::Admin;
use super::machine::Machine;
use super::record::{GapReason, GroupRecord, Pause, PauseReason, SettledAs, Start, Tried};
use super::replay::ReplayEnd;
use crate::model::{LaneKey, Offset, OffsetRange, Source, TopicUuid};

/// Job of a head that is tried anew by hand: none of the jobs, so that nothing is left of it after a restart.
pub(super) const BY_HAND: u64 = 0;

impl Machine {
    /// Does what an operator asks for.
    pub(super) fn admin(&mut self, admin: Admin, now: Now, fx: &mut Effects) -> Result<(), Refusal> {
        match admin {
            Admin::Configure { config, notes } => self.configure(config, notes, now, fx),
            Admin::Reset { floors, clear, act } => self.reset(floors, clear, act, now, fx),
            Admin::UndoReset { act } => self.undo_reset(act, now, fx),
            Admin::Pause { topic, until_ms, act } => {
                let pause = Pause { topic, partition: None, reason: PauseReason::Operator, until_ms, act };
                self.known_topic(topic)?;
                self.pause(pause, now, fx);
                Ok(())
            }
            Admin::Resume { topic, act: _ } => {
                let meant = |pause: &Pause| (pause.topic, pause.partition) == (topic, None);
                self.unpause(|pause| meant(pause) && pause.reason == PauseReason::Operator, now, fx);
                Ok(())
            }
            Admin::AcceptGap { source, act } => {
                self.accept_gaps(source, now, fx);
                self.accept_cursor_cuts(source, &act, fx);
                Ok(())
            }
            Admin::SetBreaker { forced, act } => {
                self.commit(GroupRecord::Breaker { forced, act }, fx);
                self.breaker_forced(now, fx);
                Ok(())
            }
            Admin::Redrive { job, entries, act } => self.redrive(job, &entries, act, now, fx),
            Admin::EndRedrive { job, act } => {
                self.end_redrive(job, act, now, fx);
                Ok(())
            }
            Admin::CloseEntries { entries, state, act } => self.close_entries(&entries, state, &act, now, fx),
            Admin::EntryEdited { entry, copy, act } => {
                self.free_entry(&entry, false)?;
                self.commit_entry(EntryRecord::Edited { key: entry, copy, act }, fx);
                Ok(())
            }
            Admin::Head { source, lane, skip, act } => self.head(source, lane, skip, act, now, fx),
            Admin::KeepJob { job, state } => {
                self.commit_entry(EntryRecord::Job { job, state }, fx);
                Ok(())
            }
            Admin::ForgetEntries { entries } => self.forget_entries(entries, fx),
            Admin::StartReplay(replay) => self.start_replay(*replay, now, fx),
            Admin::PaceReplay { number, rate } => self.pace_replay(number, rate, fx),
            Admin::PauseReplay { number, paused, act } => self.pause_replay(number, paused, act, now, fx),
            Admin::CancelReplay { number } => self.cancel_replay(number, now, fx),
            Admin::Evict { member } => {
                if !self.state.members.contains_key(&member) {
                    return Err(Refusal::SessionOver);
                }
                self.evict(member, now, fx);
                Ok(())
            }
            Admin::Rebuild(call) => self.rebuild(*call, now, fx),
            Admin::Delete => {
                self.commit(GroupRecord::Deleted, fx);
                self.end_sessions(fx);
                Ok(())
            }
        }
    }

    fn configure(
        &mut self,
        config: Box<super::GroupConfig>,
        notes: super::record::GroupNotes,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let refused = |error: super::ConfigError| Refusal::Invalid {
            field: error.field,
            found: error.found,
            bounds: error.bounds,
        };
        config.check().map_err(refused)?;
        if config.positions != self.state.config.positions {
            let (found, bounds) = (format!("{:?}", config.positions), format!("{:?}", self.state.config.positions));
            return Err(Refusal::Invalid { field: "positions", found, bounds });
        }
        if config.mode != self.state.config.mode {
            let (found, bounds) = (format!("{:?}", config.mode), format!("{:?}", self.state.config.mode));
            return Err(Refusal::Invalid { field: "mode", found, bounds });
        }
        self.commit(GroupRecord::Configured { config, notes }, fx);
        self.config_changed(now);
        self.end_dead_limit(now, fx);
        Ok(())
    }

    fn known_topic(&self, topic: Option<TopicUuid>) -> Result<(), Refusal> {
        match topic {
            Some(topic) if !self.state.topics.contains_key(&topic) => {
                let (found, bounds) = (topic.to_string(), "a topic of the group".into());
                Err(Refusal::Invalid { field: "topic", found, bounds })
            }
            _ => Ok(()),
        }
    }

    /// Sets positions with members connected: one record decides (rule OF-3).
    fn reset(&mut self, floors: Vec<Start>, clear: bool, act: Act, now: Now, fx: &mut Effects) -> Result<(), Refusal> {
        self.keeps_positions("ResetPositions")?;
        let unknown = floors.iter().find(|start| !self.state.partitions.contains_key(&start.source));
        if let Some(start) = unknown {
            let (found, bounds) = (format!("{:?}", start.source), "a partition of the group".into());
            return Err(Refusal::Invalid { field: "partition", found, bounds });
        }
        if let Some(open) = self.state.open_replay() {
            return Err(Refusal::ReplayConflict { number: open.number });
        }
        if self.state.config.replay_only {
            let (found, bounds) =
                ("a group made for a replay".into(), "any other; start another replay into it".into());
            return Err(Refusal::Invalid { field: "group", found, bounds });
        }
        self.set_floors(floors, clear, false, act, now, fx);
        Ok(())
    }

    /// Positions that a reader keeps are not set here (rule RM-3).
    pub(super) fn keeps_positions(&self, verb: &'static str) -> Result<(), Refusal> {
        match self.state.config.positions {
            Positions::Broker => Ok(()),
            Positions::Cursor => Err(Refusal::WrongMode { verb }),
        }
    }

    fn undo_reset(&mut self, act: Act, now: Now, fx: &mut Effects) -> Result<(), Refusal> {
        self.keeps_positions("UndoReset")?;
        if !self.state.resets.is_empty() {
            self.end_replay(ReplayEnd::Cancelled, now, fx);
        }
        let last = self.state.resets.back().ok_or(Refusal::NothingToUndo)?;
        let floors = last.before.iter().filter_map(|start| {
            let epoch = self.partition(start.source)?.epoch;
            Some(Start { epoch, ..*start })
        });
        let floors = floors.collect();
        self.set_floors(floors, false, true, act, now, fx);
        Ok(())
    }

    fn set_floors(&mut self, floors: Vec<Start>, clear: bool, undo: bool, act: Act, now: Now, fx: &mut Effects) {
        let sources: Vec<Source> = floors.iter().map(|start| start.source).collect();
        let epoch = self.state.epoch + 1;
        self.set_positions(&sources, GroupRecord::Reset { floors, clear, epoch, undo, act }, now, fx);
    }

    /// Positions of these partitions are set by a record, with members connected.
    pub(super) fn set_positions(&mut self, sources: &[Source], record: GroupRecord, now: Now, fx: &mut Effects) {
        for source in sources {
            self.drop_redriven(|one| one == *source);
            self.forget_deaths(*source, Offset::ZERO, fx);
        }
        self.commit(record, fx);
        for source in sources {
            self.index_intents(*source);
            self.forget_gap(*source, now, fx);
            let floor = self.state.partitions[source].settled.floor();
            self.restart_source(*source, floor);
        }
        self.clear_entries(now, fx);
        self.count_lanes();
        self.reassign(sources, now, fx);
        for source in sources {
            self.refresh_source(*source, Offset::ZERO, now);
        }
        self.end_dead_limit(now, fx);
    }

    /// Clears the entries that the last reset clears, at the start of the broker too: what died since stays.
    pub(super) fn clear_entries(&mut self, now: Now, fx: &mut Effects) {
        let Some(floors) = self.state.clearing.clone() else { return };
        let act = Act { actor: "broker".into(), time_ms: now.wall_ms, note: "cleared by a reset".into() };
        let mut cleared = None;
        for start in floors {
            let Some(below) = self.partition(start.source).map(|one| one.clear_below) else { continue };
            let keys: Vec<EntryKey> = self.entries.from(start.source, start.offset).map(|(key, _)| key).collect();
            for key in keys {
                let Some(entry) = self.entries.get(&key).filter(|entry| entry.intent < below) else { continue };
                if entry.state != EntryState::Cleared {
                    self.close_entry(key, EntryState::Cleared, entry.attempts, act.clone(), now, fx);
                    cleared = Some(start.source);
                }
            }
        }
        match cleared {
            // The reset is done once these are durable.
            Some(source) => fx.opened.push((source, 0)),
            None => self.commit(GroupRecord::Cleared, fx),
        }
    }

    fn redrive(&mut self, job: u64, entries: &[EntryKey], act: Act, now: Now, fx: &mut Effects) -> Result<(), Refusal> {
        let mut keys = Vec::new();
        for key in entries {
            let entry = self.entries.get(key).ok_or(Refusal::EntryNotFound)?;
            match (entry.state, entry.job) {
                (EntryState::Open, _) if self.is_dlq(key.source) => return Err(Refusal::NoDeadLetters),
                (EntryState::Open, _) if entry.reason == DeadReason::Undecodable => {
                    let (found, bounds) = (format!("{:?}", entry.reason), "an entry that can be decoded".into());
                    return Err(Refusal::Invalid { field: "entry", found, bounds });
                }
                (EntryState::Open, None) => keys.push(*key),
                (EntryState::Open, Some(other)) if other == job => {}
                (EntryState::Open, Some(other)) => return Err(Refusal::JobConflict { job: other }),
                // It goes by itself once it is the head (rule KO-7).
                (EntryState::Spilled, _) => {}
                (state, _) => return Err(Refusal::EntryClosed { key: *key, state }),
            }
        }
        if !keys.is_empty() {
            self.commit_entry(EntryRecord::Redriving { keys: keys.clone(), job: Some(job), act }, fx);
        }
        for key in keys {
            if let Some(entry) = self.entries.get(&key) {
                self.refresh_of(key, &entry, now);
            }
        }
        Ok(())
    }

    fn end_redrive(&mut self, job: u64, act: Act, now: Now, fx: &mut Effects) {
        let keys: Vec<EntryKey> = self.entries.redriving().filter(|(one, _)| *one == job).map(|(_, key)| key).collect();
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            self.recall_entry(key, fx);
        }
        self.commit_entry(EntryRecord::Redriving { keys: keys.clone(), job: None, act }, fx);
        for key in keys {
            if let Some(entry) = self.entries.get(&key) {
                self.refresh_of(key, &entry, now);
            }
        }
    }

    fn close_entries(
        &mut self,
        entries: &[EntryKey],
        state: EntryState,
        act: &Act,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let invalid = |field, found: String, bounds: &str| Refusal::Invalid { field, found, bounds: bounds.into() };
        match state {
            EntryState::Discarded if act.note.trim().is_empty() => {
                return Err(invalid("reason", "empty".into(), "given"));
            }
            EntryState::Discarded | EntryState::Moved | EntryState::Expired => {}
            other => return Err(invalid("state", format!("{other:?}"), "discarded, moved or expired")),
        }
        for key in entries {
            self.free_entry(key, state == EntryState::Expired)?;
        }
        for key in entries {
            self.recall_entry(key, fx);
            let Some(entry) = self.entries.get(key).filter(|entry| !entry.state.is_closed()) else { continue };
            self.close_entry(*key, state, entry.attempts, act.clone(), now, fx);
            if state == EntryState::Expired {
                let range = OffsetRange { from: key.offset, to: key.offset.saturating_add(1) };
                self.tell_gap(key.source, range, GapReason::DlqExpired, Some(1), false, fx);
            }
        }
        Ok(())
    }

    /// An entry that can be closed or edited: open, and no job's (rule RD-6).
    fn free_entry(&self, key: &EntryKey, spilled_too: bool) -> Result<(), Refusal> {
        let entry = self.entries.get(key).ok_or(Refusal::EntryNotFound)?;
        match (entry.state, entry.job) {
            (EntryState::Open, None) => Ok(()),
            (EntryState::Open, Some(job)) => Err(Refusal::JobConflict { job }),
            (EntryState::Spilled, _) if spilled_too => Ok(()),
            (state, _) => Err(Refusal::EntryClosed { key: *key, state }),
        }
    }

    /// Takes an entry back from the member that has it, without a strike.
    fn recall_entry(&mut self, key: &EntryKey, fx: &mut Effects) {
        if let Some(lease) = self.end_entry_lease(key) {
            let (source, epoch, entries) = (key.source, lease.epoch, vec![*key]);
            let frame = super::effect::Frame::Recall { source, epoch, runs: Vec::new(), entries };
            self.send(lease.member, frame, super::effect::After::Now, fx);
        }
    }

    /// The head of a lane is tried anew or skipped, in the dead letters or in the source (rules RD-8, DL-8).
    fn head(
        &mut self,
        source: Source,
        lane: LaneKey,
        skip: bool,
        act: Act,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let Some(key) = self.entries.head_of(source, lane) else {
            return self.head_in_source(source, lane, skip, act, now, fx);
        };
        let entry = self.entries.get(&key).ok_or(Refusal::EntryNotFound)?;
        if let Some(job) = entry.job {
            return Err(Refusal::JobConflict { job });
        }
        if self.entry_is_leased(&key) {
            return Err(Refusal::JobConflict { job: BY_HAND });
        }
        match (skip, entry.state) {
            (true, _) => {
                let act = Act { note: if act.note.is_empty() { "skipped".into() } else { act.note }, ..act };
                self.close_entry(key, EntryState::Discarded, entry.attempts, act, now, fx);
            }
            (false, EntryState::Spilled) => {
                self.commit_entry(EntryRecord::Tried { key, attempts: 0, due_ms: 0, delay_ms: 0, class: None }, fx);
                self.refresh_lane(source, lane, now);
            }
            (false, _) => return self.redrive(BY_HAND, &[key], act, now, fx),
        }
        Ok(())
    }

    /// The head of a lane that blocks it in the source.
    fn head_in_source(
        &mut self,
        source: Source,
        lane: LaneKey,
        skip: bool,
        act: Act,
        now: Now,
        fx: &mut Effects,
    ) -> Result<(), Refusal> {
        let held = self.works.get(&source).and_then(|work| work.lane(lane));
        if held.is_some_and(|view| view.leased > 0) {
            return Err(Refusal::JobConflict { job: BY_HAND });
        }
        let partition = self.partition(source).ok_or(Refusal::EntryNotFound)?;
        let tried = match held {
            Some(view) => partition.tried.get(&view.first),
            None => partition.tried.values().find(|tried| tried.lane == lane),
        };
        let tried = tried.cloned().ok_or(Refusal::EntryNotFound)?;
        let offset = tried.offset;
        if skip {
            if let Some(work) = self.work(source) {
                work.take_head(lane, now.monotonic_ms);
            }
            self.settle_offset(source, offset, SettledAs::Skipped, fx);
            // It has no entry to note it in.
            self.commit(GroupRecord::SkippedBy { source, runs: vec![Self::one(offset)], act }, fx);
            self.note_hole(source, lane, offset, fx);
            return Ok(());
        }
        let anew = Tried { attempts: 0, due_ms: 0, delay_ms: 0, ..tried };
        self.commit(GroupRecord::Tried { source, tries: vec![anew] }, fx);
        if let Some(work) = self.work(source)
            && let Some(at) = work.find(offset)
        {
            let record = work.record_mut(at);
            (record.attempts, record.until_ms, record.suspects, record.spent) = (0, 0, 0, false);
            work.stick(lane, false, now.monotonic_ms);
        }
        Ok(())
    }

    fn forget_entries(&mut self, entries: Vec<EntryKey>, fx: &mut Effects) -> Result<(), Refusal> {
        for key in &entries {
            if let Some(entry) = self.entries.get(key).filter(|entry| !entry.state.is_closed()) {
                return Err(Refusal::JobConflict { job: entry.job.unwrap_or(BY_HAND) });
            }
        }
        self.commit_entry(EntryRecord::Forgotten { keys: entries }, fx);
        Ok(())
    }
}

#[cfg(test)]
mod tests;
