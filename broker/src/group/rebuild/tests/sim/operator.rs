//! What operators do about dead letters while a rebuild goes on: redrives with jobs that are cancelled or not, discards,
//! edits, heads retried and skipped by hand.

use std::collections::BTreeSet;

use super::{Value, Violation, World, places};
use crate::group::effect::Notice;
use crate::group::entry::{Entry, EntryKey, EntryState};
use crate::group::event::Admin;
use crate::group::letters_support::act;
use crate::group::test_support::at;

impl World {
    /// Entries that an operator may do something about.
    fn free(&self) -> Vec<(EntryKey, Entry)> {
        let open = self.group.rig.machine.open_entries().into_iter();
        open.filter(|(_, entry)| entry.job.is_none()).collect()
    }

    pub(super) fn operate(&mut self) -> Result<(), Violation> {
        let free = self.free();
        let Some((key, entry)) = self.chance.pick(&free).cloned() else { return Ok(()) };
        match self.chance.below(10) {
            0..3 => {
                let all = self.chance.one_in(2);
                self.start_job(all)?;
            }
            // Else it would be open and in the model, until it is redriven.
            3 if !self.group.reader.has_unanswered(&self.group.rig) => self.cancel_job()?,
            4 | 5 => self.job_looks()?,
            // What was recalled may be applied by now, and not be answered yet.
            6 if !self.group.reader.has_entries() => self.close(key, EntryState::Discarded)?,
            7 if !self.group.reader.has_entries() && self.chance.one_in(3) => self.close(key, EntryState::Expired)?,
            8 if !self.group.reader.has_entries() => {
                let value = if self.chance.one_in(4) { Value::Bad } else { Value::Plain(self.chance.below(1_000)) };
                self.edit(key, value)?;
            }
            _ => {
                let head = self.group.rig.machine.entries().head_of(key.source, entry.lane);
                let head = head.filter(|head| free.iter().any(|(key, _)| key == head));
                let skip = self.chance.one_in(3) && !self.group.reader.has_entries();
                let Some(head) = head else { return Ok(()) };
                self.note(format!("head {} by hand, skip {skip}", places([&head])));
                self.act(Admin::Head { source: key.source, lane: entry.lane, skip, act: act() })?;
                if skip {
                    self.facts.discarded.insert(head);
                }
            }
        }
        Ok(())
    }

    fn act(&mut self, admin: Admin) -> Result<(), Violation> {
        let done = self.group.rig.admin(admin).map_err(|refusal| format!("refused: {refusal:?}"));
        self.group.reader.take(&mut self.group.rig);
        done
    }

    fn close(&mut self, key: EntryKey, state: EntryState) -> Result<(), Violation> {
        self.facts.discarded.insert(key);
        self.note(format!("{} is {state:?}", places([&key])));
        self.act(Admin::CloseEntries { entries: vec![key], state, act: act() })
    }

    fn edit(&mut self, key: EntryKey, value: Value) -> Result<(), Violation> {
        let copy = at(1_000_000 + self.facts.copies.len() as u64);
        self.facts.copies.insert(copy, value);
        self.facts.edited.insert(key, value);
        self.note(format!("{} is edited: {value:?}", places([&key])));
        self.act(Admin::EntryEdited { entry: key, copy, act: act() })
    }

    /// A job takes all lanes, or one.
    fn start_job(&mut self, all: bool) -> Result<(), Violation> {
        if self.job.is_some() {
            return Ok(());
        }
        self.jobs += 1;
        let mut lanes: Vec<_> = self.free().iter().map(|(key, entry)| (key.source, entry.lane)).collect();
        if !all {
            lanes = self.chance.pick(&lanes).copied().into_iter().collect();
        }
        self.job = Some((self.jobs, lanes.into_iter().collect::<BTreeSet<_>>()));
        self.act(Admin::KeepJob { job: self.jobs, state: Some("running".to_owned()) })?;
        self.job_looks()
    }

    /// The job gives what is free of its lanes to the group, and leaves those alone whose head has failed.
    pub(super) fn job_looks(&mut self) -> Result<(), Violation> {
        let machine = &self.group.rig.machine;
        let failed = self.group.rig.notices.drain(..).filter_map(|notice| match notice {
            Notice::RedriveFailed(key) => machine.entries().get(&key).map(|entry| (key.source, entry.lane)),
            _ => None,
        });
        let failed: Vec<_> = failed.collect();
        let Some((job, mut lanes)) = self.job.take() else { return Ok(()) };
        lanes.retain(|lane| !failed.contains(lane));
        let mut entries = Vec::new();
        lanes.retain(|(source, lane)| {
            let open: Vec<EntryKey> = self.group.rig.machine.entries().open_of(*source, *lane).collect();
            let job_of = |key: &EntryKey| self.group.rig.machine.entries().get(key).and_then(|entry| entry.job);
            entries.extend(open.iter().filter(|key| job_of(key).is_none()));
            !open.is_empty()
        });
        if !entries.is_empty() {
            self.note(format!("job {job} redrives {}", places(&entries)));
            self.act(Admin::Redrive { job, entries, act: act() })?;
        }
        if lanes.is_empty() {
            return self.act(Admin::KeepJob { job, state: None });
        }
        self.job = Some((job, lanes));
        Ok(())
    }

    fn cancel_job(&mut self) -> Result<(), Violation> {
        match self.job.take() {
            Some((job, _)) => {
                self.note(format!("job {job} is cancelled"));
                self.act(Admin::EndRedrive { job, act: act() })
            }
            None => Ok(()),
        }
    }

    /// Edits what can never be handled and redrives all, until nothing is open.
    pub(super) fn mend_all(&mut self) -> Result<(), Violation> {
        for _ in 0..60 {
            self.come_to_rest()?;
            let free = self.free();
            if free.is_empty() && self.group.open().is_empty() {
                return Ok(());
            }
            for (key, _) in free {
                let value = self.facts.log[&key.source][key.offset.get() as usize].1;
                if self.facts.edited.get(&key).copied().unwrap_or(value) == Value::Bad {
                    let amount = self.chance.below(1_000);
                    self.edit(key, Value::Plain(amount))?;
                }
            }
            self.start_job(true)?;
        }
        Ok(())
    }
}
