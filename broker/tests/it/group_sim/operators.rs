//! What operators do: resets, redrives, edits, policies, pauses.

use sawlog_broker::group::entry::{Entry, EntryKey, EntryState, LaneState};
use sawlog_broker::group::event::{Admin, Event};
use sawlog_broker::group::record::Start;
use sawlog_broker::model::Source;

use super::Violation;
use super::acts::act;
use super::log::{Copy, offset};
use super::world::World;

impl World {
    /// An operator calls; what is refused changes nothing.
    pub(crate) fn admin(&mut self, admin: Admin) -> Result<bool, Violation> {
        self.outcome = None;
        self.handle(Event::Admin(admin))?;
        let refused = match &self.outcome {
            None => return Err("an admin call was not answered".into()),
            Some(outcome) => outcome.is_err(),
        };
        self.pump()?;
        Ok(!refused)
    }

    pub(crate) fn operator_acts(&mut self, source: Source) -> Result<(), Violation> {
        let (start, high) = (self.logs[&source].start, self.logs[&source].high_watermark());
        let open: Vec<_> = self.machine.entries().iter().filter(|(_, entry)| !entry.state.is_closed()).collect();
        match self.chance.below(12) {
            0 => {
                let floor = Start {
                    source,
                    offset: offset(self.chance.within(start, high)),
                    epoch: self.logs[&source].epoch(),
                };
                let clear = self.chance.one_in(4);
                self.admin(Admin::Reset { floors: vec![floor], clear, act: act() })?;
            }
            1 => drop(self.admin(Admin::UndoReset { act: act() })?),
            2 => {
                let until_ms = self.chance.one_in(2).then(|| self.wall_ms() + 5_000);
                self.admin(Admin::Pause { topic: None, until_ms, act: act() })?;
            }
            3 => drop(self.admin(Admin::Resume { topic: None, act: act() })?),
            4 => self.redrive()?,
            5 => self.redrive_one()?,
            6 => {
                if let Some((_, entry)) = self.chance.pick(&open).filter(|(_, entry)| entry.job.is_some()) {
                    let job = entry.job.unwrap();
                    self.admin(Admin::EndRedrive { job, act: act() })?;
                }
            }
            7 => {
                if let Some((key, _)) = self.chance.pick(&open) {
                    let (entries, state) = (vec![*key], EntryState::Discarded);
                    self.admin(Admin::CloseEntries { entries, state, act: act() })?;
                }
            }
            8 => {
                if let Some((key, entry)) = self.chance.pick(&open) {
                    let (source, lane, skip) = (key.source, entry.lane, self.chance.one_in(2));
                    self.forget_strikes(source);
                    self.admin(Admin::Head { source, lane, skip, act: act() })?;
                }
            }
            9 => self.configure()?,
            10 => self.edit()?,
            _ => {
                let member = self.clients[self.chance.index(self.clients.len())].id;
                if self.machine.state().members.contains_key(&member) && self.chance.one_in(2) {
                    self.judge.member_gone(member);
                    self.admin(Admin::Evict { member })?;
                } else {
                    self.admin(Admin::AcceptGap { source: None, act: act() })?;
                }
            }
        }
        Ok(())
    }

    /// Attempts may begin anew.
    pub(crate) fn forget_strikes(&mut self, source: Source) {
        for record in &self.logs[&source].records {
            self.judge.strikes.remove(&record.uid);
            self.judge.not_before.remove(&record.uid);
        }
    }

    /// A dead lane is given to a job, whole.
    pub(crate) fn redrive(&mut self) -> Result<(), Violation> {
        let lanes: Vec<_> = self.machine.entries().lanes().filter(|(.., state)| *state == LaneState::Dead).collect();
        let Some((source, lane, _)) = self.chance.pick(&lanes).copied() else { return Ok(()) };
        let free = |key: &EntryKey| {
            self.machine.entries().get(key).is_some_and(|entry| entry.job.is_none() && entry.state == EntryState::Open)
        };
        let entries: Vec<_> = self.machine.entries().open_of(source, lane).filter(free).collect();
        self.redrive_these(entries)
    }

    /// One entry that holds no lane is given to a job.
    pub(crate) fn redrive_one(&mut self) -> Result<(), Violation> {
        let free = |entry: &Entry| !entry.holds && entry.job.is_none() && entry.state == EntryState::Open;
        let free: Vec<_> = self.machine.entries().iter().filter(|(_, entry)| free(entry)).map(|(key, _)| key).collect();
        let entries = self.chance.pick(&free).copied().into_iter().collect();
        self.redrive_these(entries)
    }

    fn redrive_these(&mut self, entries: Vec<EntryKey>) -> Result<(), Violation> {
        if entries.is_empty() {
            return Ok(());
        }
        self.next_job += 1;
        let job = self.next_job;
        self.admin(Admin::KeepJob { job, state: Some("{}".into()) })?;
        self.admin(Admin::Redrive { job, entries, act: act() }).map(drop)
    }

    fn configure(&mut self) -> Result<(), Violation> {
        let mut config = self.machine.state().config.clone();
        super::setup::change(&mut config, &mut self.chance);
        let notes = self.machine.state().notes.clone();
        self.judge.not_before.clear();
        self.admin(Admin::Configure { config: Box::new(config), notes }).map(drop)
    }

    /// A version of an open entry is stored, then told (rule RD-6).
    fn edit(&mut self) -> Result<(), Violation> {
        let open: Vec<_> = self
            .machine
            .entries()
            .iter()
            .filter(|(_, entry)| entry.state == EntryState::Open && entry.job.is_none())
            .collect();
        let Some((key, entry)) = self.chance.pick(&open).cloned() else { return Ok(()) };
        let dlq = self.dlqs.get_mut(&key.source).unwrap();
        let version = entry.versions.len() as u32 + 1;
        let copy = dlq.append(Copy { key, uid: 0, lane: entry.lane, cycle: entry.cycle, version, again: true });
        dlq.synced = dlq.copies.len();
        self.sync_dlqs()?;
        self.admin(Admin::EntryEdited { entry: key, copy, act: act() }).map(drop)
    }
}
