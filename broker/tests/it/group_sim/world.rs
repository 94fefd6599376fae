//! The world around the machine: time, journals, logs, the mover of dead letters, members' streams.
//!
//! It does what the coordinator does, without threads: an event is handled, its records go to the journals, its frames
//! to the streams, where they wait until what they stand on is durable. What is durable, and when, is up to chance; a
//! stop of the broker leaves at least that.

use std::collections::{BTreeMap, VecDeque};

use sawlog_broker::group::effect::{After, Effects, Fetch, Frame, Refusal};
use sawlog_broker::group::entry::{EntryRecord, EntryTable};
use sawlog_broker::group::event::{Event, Verb};
use sawlog_broker::group::machine::Machine;
use sawlog_broker::group::record::{GroupRecord, SettledAs};
use sawlog_broker::group::state::GroupState;
use sawlog_broker::group::{Mode, Now};
use sawlog_broker::model::{GroupId, MemberId, Offset, Source};

use super::chance::Chance;
use super::client::{Client, Item, Queued};
use super::judge::{Judge, Scene};
use super::ledger::{Ledger, Logs};
use super::log::{Copy, SimDlq, offset};
use super::{Sabotage, Violation};

pub(crate) const GROUP: GroupId = GroupId(7);
/// The wall clock at true time 0, milliseconds since 1970.
const WALL_MS: i64 = 1_700_000_000_000;
/// Lines of the history that are shown with a violation, if nobody asks for more.
pub(crate) const HISTORY: u64 = 120;

/// A journal: what of it is durable survives any stop.
#[derive(Debug)]
pub(crate) struct Journal<R> {
    pub(crate) records: Vec<R>,
    pub(crate) durable: usize,
}

impl<R> Default for Journal<R> {
    fn default() -> Self {
        Self { records: Vec::new(), durable: 0 }
    }
}

impl<R> Journal<R> {
    fn cut(&mut self, chance: &mut Chance) {
        let end = chance.within(self.durable as u64, self.records.len() as u64) as usize;
        self.records.truncate(end);
        self.durable = end;
    }
}

/// True time, and the clocks of the broker.
#[derive(Debug, Default)]
pub(crate) struct Time {
    pub(crate) true_ms: u64,
    pub(crate) started_ms: u64,
    pub(crate) skew_ms: i64,
    pub(crate) greatest_skew_ms: i64,
    /// Only for a broker that is broken on purpose.
    pub(crate) wall_start_ms: i64,
    pub(crate) latest_ms: u64,
}

/// A move that the mover has to make, and the group records that it stands on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Move {
    pub(crate) number: u64,
    pub(crate) after: usize,
}

pub(crate) struct World {
    pub(crate) chance: Chance,
    pub(crate) sabotage: Sabotage,
    pub(crate) time: Time,
    pub(crate) logs: Logs,
    pub(crate) dlqs: BTreeMap<Source, SimDlq>,
    pub(crate) machine: Machine,
    pub(crate) groups: Journal<GroupRecord>,
    pub(crate) entries: Journal<EntryRecord>,
    pub(crate) ledger: Ledger,
    pub(crate) judge: Judge,
    pub(crate) clients: Vec<Client>,
    pub(crate) moves: BTreeMap<Source, VecDeque<Move>>,
    /// Copies that were appended and are not yet synced: intent and place.
    pub(crate) copied: VecDeque<(Source, u64, Offset)>,
    /// Copies that a broken mover has still to append.
    pub(crate) late: VecDeque<(Source, Copy)>,
    pub(crate) opened: VecDeque<(Source, u64, usize)>,
    pub(crate) fetches: BTreeMap<Source, Fetch>,
    pub(crate) deadline: Option<u64>,
    pub(crate) outcome: Option<Result<(), Refusal>>,
    pub(crate) next_uid: u64,
    pub(crate) next_job: u64,
    pub(crate) history: VecDeque<String>,
    /// Lines of it that are kept.
    pub(crate) lines: usize,
    /// All is well: members acknowledge everything, nothing stops.
    pub(crate) calm: bool,
    pub(crate) events: u64,
}

impl World {
    pub(crate) fn note(&mut self, line: impl FnOnce() -> String) {
        let line = line();
        // What happens all the time tells nothing.
        if line == "Tick" || line.contains("verb: Ping") || line.contains("verb: Credit") || line.ends_with("Pong") {
            return;
        }
        if self.history.len() >= self.lines {
            self.history.pop_front();
        }
        self.history.push_back(format!("{:>8} {}", self.time.true_ms, short(&line)));
    }

    pub(crate) fn wall_ms(&self) -> i64 {
        WALL_MS + self.time.true_ms as i64 + self.time.skew_ms
    }

    pub(crate) fn now(&mut self) -> Now {
        let wall_ms = self.wall_ms();
        let mut monotonic_ms = self.time.true_ms - self.time.started_ms;
        if self.sabotage.wall_clock_in_leases {
            let passed = u64::try_from(wall_ms - self.time.wall_start_ms).unwrap_or(0);
            self.time.latest_ms = self.time.latest_ms.max(passed);
            monotonic_ms = self.time.latest_ms;
        }
        Now { monotonic_ms, wall_ms }
    }

    pub(crate) fn uid(&mut self) -> u64 {
        self.next_uid += 1;
        self.next_uid
    }

    /// Gives the machine an event and sees to everything that follows.
    pub(crate) fn handle(&mut self, event: Event) -> Result<(), Violation> {
        self.events += 1;
        self.note(|| format!("{event:?}"));
        let now = self.now();
        let effects = self.machine.handle(event, now);
        self.absorb(effects)
    }

    pub(crate) fn absorb(&mut self, effects: Effects) -> Result<(), Violation> {
        let Effects {
            records,
            entry_records,
            frames,
            fetches,
            moves,
            opened,
            deadline_ms,
            notices: _,
            doubts,
            outcome,
        } = effects;
        for record in records {
            self.note(|| format!("    {record:?}"));
            self.record(record)?;
        }
        for record in entry_records {
            self.note(|| format!("    {record:?}"));
            self.ledger.entry(&record)?;
            self.entries.records.push(record);
        }
        let (group, entries) = (self.groups.records.len(), self.entries.records.len());
        for one in frames {
            self.note(|| format!("    to {} after {:?}: {:?}", one.member.0[0], one.after, one.frame));
            self.judge_frame(one.member, &one.frame)?;
            let (group, entries) = match one.after {
                _ if self.sabotage.answer_before_durable => (0, 0),
                After::Now => (0, 0),
                After::Group => (group, 0),
                After::Entries => (group, entries),
            };
            if let Some(client) = self.clients.iter_mut().find(|client| client.id == one.member && client.connected) {
                client.outbox.push_back(Queued { frame: one.frame, group, entries });
            }
        }
        for fetch in fetches {
            // After a reset another range is wanted instead of the one that is out.
            self.fetches.insert(fetch.source, fetch);
        }
        for (source, number) in moves {
            self.moves.entry(source).or_default().push_back(Move { number, after: group });
        }
        self.opened.extend(opened.into_iter().map(|(source, number)| (source, number, entries)));
        self.deadline = deadline_ms;
        if outcome.is_some() {
            self.outcome = outcome;
        }
        self.invariants()?;
        // Nothing that a member said waits anywhere: what it says is handled at once.
        doubts.into_iter().try_for_each(|(member, epoch)| self.handle(Event::Silent { member, epoch }))
    }

    fn record(&mut self, record: GroupRecord) -> Result<(), Violation> {
        if let GroupRecord::Tried { source, tries } = &record {
            for tried in tries.iter().filter(|tried| tried.due_ms > 0) {
                let scene = scene(&self.logs, &self.ledger, &self.machine, self.time.true_ms);
                self.judge.struck(*source, Item::Record(tried.offset.get()), tried.attempts, &scene)?;
            }
        }
        let failed: Vec<(Source, u64)> = match &record {
            GroupRecord::Tried { source, tries } => {
                tries.iter().filter(|tried| tried.due_ms > 0).map(|tried| (*source, tried.offset.get())).collect()
            }
            GroupRecord::Intended { intent, .. } => vec![(intent.key.source, intent.key.offset.get())],
            GroupRecord::Settled { source, how: SettledAs::Skipped, runs } => {
                runs.iter().map(|run| (*source, run.from.get())).collect()
            }
            _ => Vec::new(),
        };
        for (source, at) in failed.into_iter().filter(|_| self.machine.state().config.mode == Mode::Keyed) {
            let hears = |member| self.clients.iter().any(|client| client.id == member && client.connected);
            if let Some(record) = self.logs[&source].ever(at) {
                self.judge.recalled_unheard(source, at, record.meta.lane, hears);
            }
        }
        if let GroupRecord::Reset { floors, .. } = &record {
            for start in floors {
                self.judge.begin_anew(start.source, start.offset.get(), &self.logs);
            }
        }
        if let GroupRecord::Assigned { runs, .. } = &record {
            let end_ms = self.time.true_ms + self.machine.state().config.drain_timeout_ms;
            runs.iter().for_each(|(source, runs)| self.judge.units_moved(*source, runs, end_ms));
        }
        if let GroupRecord::Cut { source, at, .. } = &record {
            self.judge.forget_tries(*source, &self.logs);
            // A commit above a cut is lowered to it (rules G1, G7).
            self.judge.committed.entry(*source).and_modify(|next| *next = (*next).min(at.get()));
        }
        self.ledger.group(&record, Some(&self.logs))?;
        self.groups.records.push(record);
        Ok(())
    }

    fn judge_frame(&mut self, member: MemberId, frame: &Frame) -> Result<(), Violation> {
        match frame {
            Frame::Deliver(delivered) => {
                let scene = scene(&self.logs, &self.ledger, &self.machine, self.time.true_ms);
                self.judge.delivered(member, delivered, &scene)
            }
            Frame::DeliverRange { .. } => self.judge_range(member, frame),
            Frame::Recall { source, runs, entries, .. } => {
                let records = runs.iter().flat_map(|run| run.from.get()..run.to.get()).map(Item::Record);
                let items = records.chain(entries.iter().map(|key| Item::Entry(*key)));
                self.judge.recalled.extend(items.map(|item| (*source, item)));
                for ((other, item), lease) in &mut self.judge.leases {
                    let named = match item {
                        Item::Record(at) => runs.iter().any(|run| run.contains(offset(*at))),
                        Item::Entry(key) => entries.contains(key),
                    };
                    lease.recalled |= other == source && named && lease.member == member;
                }
                Ok(())
            }
            Frame::Joined { resumed, lost, lost_entries, .. } => {
                let client = self.clients.iter().find(|client| client.id == member);
                let gone = |item: Item, source| match item {
                    Item::Record(at) => lost.iter().any(|(other, run, _)| *other == source && run.contains(offset(at))),
                    Item::Entry(key) => lost_entries.iter().any(|(other, _)| *other == key),
                };
                let held = client.map_or(&[][..], |client| &client.held);
                let kept = held.iter().filter(|held| *resumed && !gone(held.item, held.source));
                self.judge.resumed(member, kept, &scene(&self.logs, &self.ledger, &self.machine, self.time.true_ms));
                Ok(())
            }
            Frame::Revoke { unit, lost: true } => {
                self.judge.unit_gone(member, unit.source, unit.slots);
                Ok(())
            }
            Frame::Ended(_) => {
                self.judge.member_gone(member);
                Ok(())
            }
            Frame::AckResults { request, results, entries, .. } => {
                let client = self.clients.iter().find(|client| client.id == member);
                let Some(pending) = client.and_then(|client| client.pending.get(request)) else { return Ok(()) };
                let scene = scene(&self.logs, &self.ledger, &self.machine, self.time.true_ms);
                self.judge.answers(pending, results, entries, &scene)
            }
            _ => Ok(()),
        }
    }

    /// What holds after each event.
    fn invariants(&mut self) -> Result<(), Violation> {
        for (source, partition) in &self.machine.state().partitions {
            let told = &self.ledger.sources[source];
            let (floor, expected) = (partition.settled.floor().get(), told.lowest_unsettled());
            if floor != expected {
                return Err(format!("AK-6: the floor of {source:?} is {floor}, the journal says {expected}"));
            }
            let log = &self.logs[source];
            if partition.epoch == log.epoch() && partition.settled.end().get() > log.end().max(floor) {
                return Err(format!("AK-12: settled up to {}, the log ends at {}", partition.settled.end(), log.end()));
            }
        }
        if self.machine.state().epoch < self.ledger.epoch {
            return Err(format!("GM-6: the group epoch fell to {}", self.machine.state().epoch));
        }
        Ok(())
    }

    /// What the journals say is what the machine knows: `replay` alone changes durable state.
    pub(crate) fn check_replicas(&self) -> Result<(), Violation> {
        let (state, entries) = replay(&self.groups.records, &self.entries.records)?;
        if state != *self.machine.state() {
            return Err(format!(
                "the journal gives another state: {state:?}\nthe machine has {:?}",
                self.machine.state()
            ));
        }
        if !entries.iter().eq(self.machine.entries().iter()) {
            return Err("the journal gives other entries than the machine has".into());
        }
        for (source, partition) in &state.partitions {
            let told = &self.ledger.sources[source];
            for at in 0..self.logs[source].end() + 3 {
                if partition.settled.contains(offset(at)) != told.is_settled(at) {
                    return Err(format!("AK-6: whether offset {at} is settled is in doubt"));
                }
            }
        }
        Ok(())
    }

    /// More of the journals becomes durable, and what waited for it goes on.
    pub(crate) fn sync_group(&mut self) -> Result<(), Violation> {
        let (durable, end) = (self.groups.durable as u64, self.groups.records.len() as u64);
        self.groups.durable = if self.calm { end } else { self.chance.within(durable, end) } as usize;
        self.note(|| "group journal synced".into());
        self.pump()
    }

    pub(crate) fn sync_entries(&mut self) -> Result<(), Violation> {
        let (durable, end) = (self.entries.durable as u64, self.entries.records.len() as u64);
        self.entries.durable = if self.calm { end } else { self.chance.within(durable, end) } as usize;
        self.note(|| "entries journal synced".into());
        let durable = self.entries.durable;
        while let Some((source, number, _)) = self.opened.front().copied().filter(|(_, _, after)| *after <= durable) {
            self.opened.pop_front();
            self.handle(Event::EntryDurable { source, number })?;
        }
        self.pump()
    }

    /// Frames that may go out reach their clients.
    pub(crate) fn pump(&mut self) -> Result<(), Violation> {
        for index in 0..self.clients.len() {
            while let Some(frame) = self.next_frame(index) {
                self.read_frame(index, frame)?;
            }
        }
        Ok(())
    }

    fn next_frame(&mut self, index: usize) -> Option<Frame> {
        let (group, entries) = (self.groups.durable, self.entries.durable);
        let client = &mut self.clients[index];
        if client.stalled || !client.connected {
            return None;
        }
        client.outbox.front().filter(|one| one.group <= group && one.entries <= entries)?;
        client.outbox.pop_front().map(|one| one.frame)
    }

    pub(crate) fn verb(&mut self, index: usize, verb: Verb) -> Result<(), Violation> {
        let (member, epoch) = (self.clients[index].id, self.clients[index].session.unwrap());
        self.judge.heard.insert(member, self.time.true_ms);
        self.handle(Event::Member { member, epoch, verb })?;
        self.pump()
    }

    /// Time passes, with pings of who lives and ticks when they are due.
    pub(crate) fn pass(&mut self, ms: u64) -> Result<(), Violation> {
        let end = self.time.true_ms + ms;
        let mut still = 0;
        while self.time.true_ms < end {
            let next_ping = (self.time.true_ms / 2_000 + 1) * 2_000;
            let due = self.deadline.map(|at| self.time.started_ms + at);
            let next = due.unwrap_or(u64::MAX).clamp(self.time.true_ms, end.min(next_ping));
            still = if next == self.time.true_ms { still + 1 } else { 0 };
            if still > 50 {
                return Err(format!("a tick at {next} asks for another at once: {due:?}"));
            }
            self.time.true_ms = next;
            if due.is_some_and(|due| due <= next) {
                self.handle(Event::Tick)?;
                self.pump()?;
            }
            if next == next_ping {
                for index in 0..self.clients.len() {
                    if self.clients[index].lives() {
                        self.verb(index, Verb::Ping)?;
                    }
                }
            }
        }
        Ok(())
    }

    /// The broker stops; `power`: what was not synced goes, of the logs too. Then it starts again.
    pub(crate) fn restart(&mut self, power: bool) -> Result<(), Violation> {
        self.check_replicas()?;
        self.note(|| format!("the broker stops, power lost: {power}"));
        self.groups.cut(&mut self.chance);
        self.entries.cut(&mut self.chance);
        for dlq in self.dlqs.values_mut() {
            let end = self.chance.within(dlq.synced as u64, dlq.copies.len() as u64) as usize;
            dlq.copies.truncate(end);
            dlq.synced = end;
        }
        for log in self.logs.values_mut() {
            let end = if power { self.chance.within(log.synced, log.end()) } else { log.end() };
            log.new_epoch(end.max(log.start));
        }
        self.moves.clear();
        self.copied.clear();
        self.late.clear();
        self.opened.clear();
        self.fetches.clear();
        self.clients.iter_mut().for_each(Client::disconnect);
        self.judge.broker_gone();
        self.start()
    }

    /// The broker starts: journals are replayed, ends compared, open intents moved (AK-12, DL-4).
    pub(crate) fn start(&mut self) -> Result<(), Violation> {
        let (state, entries) = replay(&self.groups.records, &self.entries.records)?;
        let after_dead = self.ledger.after_dead;
        self.ledger = Ledger { after_dead, ..Ledger::default() };
        for record in &self.groups.records {
            self.ledger.group(record, None)?;
        }
        for record in &self.entries.records {
            self.ledger.entry(record)?;
        }
        self.time.started_ms = self.time.true_ms;
        (self.time.wall_start_ms, self.time.latest_ms) = (self.wall_ms(), 0);
        for member in state.members.keys() {
            self.judge.heard.insert(*member, self.time.true_ms);
        }
        let now = self.now();
        self.machine = Machine::new(through_json(&state), entries, now);
        let sources: Vec<Source> = self.logs.keys().copied().collect();
        for source in &sources {
            let epoch = self.machine.state().partitions[source].epoch;
            let log = &self.logs[source];
            if let Some((at, lost)) = log.cut_since(epoch) {
                let (epoch, at) = (log.epoch(), (lost || self.chance.one_in(2)).then(|| offset(at)));
                self.handle(Event::Cut { source: *source, at, epoch })?;
            }
        }
        for source in &sources {
            let end = offset(self.dlqs[source].copies.len() as u64);
            self.handle(Event::DlqEnd { source: *source, end })?;
        }
        // Reads run beside the comparison: one that is asked for by now may be answered before the start.
        for source in &sources {
            self.answer_fetch(*source)?;
        }
        let now = self.now();
        let effects = self.machine.start(now);
        self.absorb(effects)?;
        for source in &sources {
            self.told_end(*source)?;
        }
        Ok(())
    }

    /// The high watermark is told.
    pub(crate) fn told_end(&mut self, source: Source) -> Result<(), Violation> {
        let end = offset(self.logs[&source].high_watermark());
        self.handle(Event::HighWatermark { source, offset: end })
    }
}

/// Ids and type names as people read them.
fn short(line: &str) -> String {
    let ids = |number: u8| format!("{number}, ").repeat(15) + &number.to_string();
    let mut line = line.replace(&format!("Source {{ topic: TopicUuid([{}]), partition: PartitionId", ids(9)), "P{");
    for number in 1..=9 {
        line = line.replace(&format!("MemberId([{}])", ids(number)), &format!("M{number}"));
    }
    for name in ["Offset", "PartitionEpoch", "AssignmentEpoch", "MemberEpoch", "KeySlot"] {
        line = line.replace(&format!(" {name}("), " (");
    }
    line.chars().take(500).collect()
}

pub(crate) fn scene<'a>(logs: &'a Logs, ledger: &'a Ledger, machine: &'a Machine, now_ms: u64) -> Scene<'a> {
    Scene { logs, ledger, state: machine.state(), entries: machine.entries(), now_ms }
}

/// State and entries as the journals give them.
fn replay(groups: &[GroupRecord], entries: &[EntryRecord]) -> Result<(GroupState, EntryTable), Violation> {
    let mut state = GroupState::create(GROUP, &groups[0])?;
    groups[1..].iter().try_for_each(|record| state.replay(record))?;
    let mut table = EntryTable::default();
    entries.iter().try_for_each(|record| table.replay(record))?;
    Ok((state, table))
}

/// As a snapshot would give it back.
fn through_json(state: &GroupState) -> GroupState {
    serde_json::from_slice(&serde_json::to_vec(state).unwrap()).unwrap()
}
