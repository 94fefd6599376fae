//! A reader as a projection is one: a database with its cursor, what waits to be applied, answers of the broker.
//!
//! A step is a transaction or an answer; what is not in the database is lost with the program.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::{Chance, Facts, Value};
use crate::group::effect::{EntryDelivery, Frame, Mark};
use crate::group::entry::{EntryKey, EntryKind, EntryState};
use crate::group::event::{Credit, Event, NackKind, Targets, Verb};
use crate::group::test_support::{Rig, at, error};
use crate::model::{AssignmentEpoch, SlotRange, Source};

/// What a handler makes of a record: the same in both versions.
enum Did {
    Applied(u64),
    Skipped,
    Failed,
}

fn handle(value: Value, through_entry: bool) -> Did {
    match value {
        Value::Plain(amount) => Did::Applied(amount),
        Value::Late(amount) if through_entry => Did::Applied(amount),
        Value::Late(_) | Value::Bad => Did::Failed,
        Value::Skip => Did::Skipped,
    }
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Reader {
    pub(super) member: u8,
    /// Its database: cursors, entries that were applied, and the model, in order for each key.
    pub(super) next: BTreeMap<Source, u64>,
    rows: BTreeMap<EntryKey, u32>,
    pub(super) applied: BTreeMap<(Source, u64), Vec<(u64, u64)>>,
    units: BTreeMap<Source, Unit>,
    /// Credit that is free again.
    freed: u64,
    request: u64,
}

#[derive(Debug)]
struct Unit {
    epoch: AssignmentEpoch,
    queue: VecDeque<(u64, Option<Mark>)>,
    entries: VecDeque<EntryDelivery>,
    dead_keys: BTreeSet<u64>,
    letter: Option<Letter>,
    reported: u64,
}

/// A dead letter that is waited for.
#[derive(Debug)]
struct Letter {
    request: u64,
    offset: u64,
    key: u64,
    mark: Option<Mark>,
}

impl Reader {
    pub(super) fn new(member: u8) -> Self {
        Self { member, ..Self::default() }
    }

    /// Whether it has anything to do.
    pub(super) fn busy(&self) -> bool {
        self.units.iter().any(|(source, unit)| {
            !unit.queue.is_empty()
                || !unit.entries.is_empty()
                || unit.letter.is_some()
                || unit.reported != self.next_of(source)
        })
    }

    /// Whether records are in its hands that came through entries.
    pub(super) fn has_entries(&self) -> bool {
        self.units.values().any(|unit| !unit.entries.is_empty())
    }

    /// Whether it has applied an entry that the group takes for open: it was killed before it said so.
    pub(super) fn has_unanswered(&self, rig: &Rig) -> bool {
        self.rows.keys().any(|key| rig.machine.entries().state_of(key) == Some(EntryState::Open))
    }

    fn next_of(&self, source: &Source) -> u64 {
        self.next.get(source).copied().unwrap_or(0)
    }

    /// Joins, or comes back after it was killed.
    pub(super) fn join(&mut self, rig: &mut Rig, credit: u64) {
        self.units.clear();
        self.freed = 0;
        rig.taken(self.member);
        rig.join_as(self.member, credit, None, Some(Vec::new()));
        self.take(rig);
    }

    /// Takes what it was told.
    pub(super) fn take(&mut self, rig: &mut Rig) {
        loop {
            let told = rig.taken(self.member);
            if told.is_empty() {
                return;
            }
            told.into_iter().for_each(|frame| self.told(frame, rig));
        }
    }

    fn told(&mut self, frame: Frame, rig: &mut Rig) {
        match frame {
            Frame::Assign { unit, epoch, .. } => {
                let (queue, entries, dead_keys) = Default::default();
                let reported = self.next_of(&unit.source);
                self.drop_unit(unit.source);
                self.units.insert(unit.source, Unit { epoch, queue, entries, dead_keys, letter: None, reported });
                self.report(unit.source, rig);
            }
            Frame::Revoke { unit, lost } => {
                let had = self.drop_unit(unit.source);
                if had && !lost {
                    rig.verb(self.member, Verb::Revoked { source: unit.source, slots: SlotRange::ALL });
                }
            }
            Frame::DeliverRange { source, epoch, range, marks, .. } => {
                let Some(unit) = self.units.get_mut(&source).filter(|unit| unit.epoch == epoch) else {
                    self.freed += range.to.distance_from(range.from);
                    return;
                };
                for offset in range.from.get()..range.to.get() {
                    let mark = marks.iter().find(|mark| mark.offset == at(offset)).copied();
                    unit.queue.push_back((offset, mark));
                }
            }
            Frame::Deliver(delivered) => {
                let Some(unit) = self.units.get_mut(&delivered.source) else { return };
                unit.entries.extend(delivered.records.into_iter().filter_map(|record| record.more?.entry));
            }
            Frame::DeadLetterResult { request, result, lane_live } => self.lettered(request, result.is_ok(), lane_live),
            Frame::CommitResult { result, .. } => assert!(result.is_ok(), "a report was refused: {result:?}"),
            _ => {}
        }
    }

    /// What waited is dropped, and its credit is free again; whether there was such a unit.
    fn drop_unit(&mut self, source: Source) -> bool {
        let dropped = self.units.remove(&source);
        self.freed += dropped.as_ref().map_or(0, |unit| unit.queue.len() as u64);
        dropped.is_some()
    }

    fn grant(&mut self, rig: &mut Rig) {
        let records = std::mem::take(&mut self.freed);
        rig.verb(self.member, Verb::Credit(Credit { records, bytes: 0 }));
    }

    fn report(&mut self, source: Source, rig: &mut Rig) {
        let (next, end) = (self.next_of(&source), rig.end(source));
        let Some(unit) = self.units.get_mut(&source) else { return };
        unit.reported = next;
        let epoch = unit.epoch;
        rig.event(Event::HighWatermark { source, offset: end });
        rig.verb(self.member, Verb::Report { request: 1, source, epoch, next: at(next), record_epoch: None });
    }

    /// One step of one partition; false: there is nothing to do.
    pub(super) fn step(&mut self, rig: &mut Rig, facts: &Facts, chance: &mut Chance) -> bool {
        self.take(rig);
        let able = self.units.iter().filter(|(source, unit)| {
            let waits = unit.letter.is_some();
            let work = !unit.entries.is_empty() || !unit.queue.is_empty() || unit.reported != self.next_of(source);
            !waits && work
        });
        let able: Vec<Source> = able.map(|(source, _)| *source).collect();
        let Some(source) = chance.pick(&able).copied() else {
            if self.freed > 0 {
                self.grant(rig);
            }
            return false;
        };
        let unit = self.units.get_mut(&source).expect("it is able");
        if let Some(entry) = unit.entries.pop_front() {
            let dies = chance.one_in(12);
            self.entry(source, &entry, rig, facts, dies);
        } else if unit.reported != self.next_of(&source) && chance.one_in(3) {
            self.report(source, rig);
        } else if let Some((offset, mark)) = self.units.get_mut(&source).and_then(|unit| unit.queue.pop_front()) {
            self.freed += 1;
            self.record(source, offset, mark, rig, facts);
        } else {
            self.report(source, rig);
        }
        if self.freed > 3 {
            self.grant(rig);
        }
        self.take(rig);
        true
    }

    /// A record of the log.
    fn record(&mut self, source: Source, offset: u64, mark: Option<Mark>, rig: &mut Rig, facts: &Facts) {
        if offset < self.next_of(&source) {
            return;
        }
        let (key, value) = facts.log[&source][offset as usize];
        let dead = self.units[&source].dead_keys.contains(&key);
        match mark.map(|mark| mark.state) {
            Some(None) => self.letter(source, (offset, key), EntryKind::Parked, mark, rig),
            None | Some(Some(EntryState::Resolved { .. })) if dead => {
                self.letter(source, (offset, key), EntryKind::Parked, mark, rig);
            }
            None => self.apply(source, offset, (key, value), None, rig),
            Some(Some(EntryState::Resolved { version })) => {
                let mark = mark.expect("it is marked");
                let value = mark.copy.map_or(value, |copy| facts.copies[&copy]);
                self.apply(source, offset, (key, value), Some((mark.entry, version)), rig);
            }
            Some(Some(_)) => drop(self.next.insert(source, offset + 1)),
        }
    }

    fn apply(
        &mut self,
        source: Source,
        offset: u64,
        (key, value): (u64, Value),
        through: Option<(EntryKey, u32)>,
        rig: &mut Rig,
    ) {
        if through.is_none_or(|(entry, _)| !self.rows.contains_key(&entry)) {
            match handle(value, through.is_some()) {
                Did::Failed if through.is_some() => panic!("{offset} was resolved so, and fails"),
                Did::Failed => return self.letter(source, (offset, key), EntryKind::Failed, None, rig),
                Did::Skipped => {}
                Did::Applied(amount) => {
                    self.applied.entry((source, key)).or_default().push((offset, amount));
                    self.rows.extend(through);
                }
            }
        }
        self.next.insert(source, offset + 1);
    }

    fn letter(&mut self, source: Source, letter: (u64, u64), kind: EntryKind, mark: Option<Mark>, rig: &mut Rig) {
        self.request += 1;
        let (request, (offset, key)) = (self.request, letter);
        let unit = self.units.get_mut(&source).expect("it works on it");
        unit.letter = Some(Letter { request, offset, key, mark });
        let (epoch, error) = (unit.epoch, (kind == EntryKind::Failed).then(|| error("E")));
        rig.verb(self.member, Verb::DeadLetter { request, source, epoch, offset: at(offset), kind, error });
    }

    fn lettered(&mut self, request: u64, done: bool, lane_live: bool) {
        let answered = |unit: &Unit| unit.letter.as_ref().is_some_and(|letter| letter.request == request);
        let Some((source, unit)) = self.units.iter_mut().find(|(_, unit)| answered(unit)) else { return };
        let letter = unit.letter.take().expect("it waits");
        assert!(done, "a dead letter of {source:?} {} was refused", letter.offset);
        if lane_live {
            // Handled as it stands, first of all.
            unit.dead_keys.remove(&letter.key);
            unit.queue.push_front((letter.offset, letter.mark.filter(|mark| mark.state.is_some())));
            return;
        }
        unit.dead_keys.insert(letter.key);
        self.next.insert(*source, letter.offset + 1);
    }

    /// A record that comes through its entry. `dies`: the program is killed once it is committed.
    fn entry(&mut self, source: Source, entry: &EntryDelivery, rig: &mut Rig, facts: &Facts, dies: bool) {
        let offset = entry.key.offset.get();
        let (key, value) = facts.log[&source][offset as usize];
        let value = if entry.version > 0 { facts.copies[&entry.copy] } else { value };
        let targets = Targets { source, epoch: self.units[&source].epoch, runs: Vec::new(), entries: vec![entry.key] };
        let mut version = entry.version;
        if let Some(known) = self.rows.get(&entry.key) {
            version = *known;
        } else {
            match handle(value, true) {
                Did::Applied(amount) => {
                    self.applied.entry((source, key)).or_default().push((offset, amount));
                    self.rows.insert(entry.key, entry.version);
                }
                Did::Skipped => return self.nack(targets, NackKind::Skip, rig),
                Did::Failed => return self.nack(targets, NackKind::Dead, rig),
            }
        }
        let redriven = rig.machine.entries().get(&entry.key).is_some_and(|entry| entry.job.is_some());
        if dies && redriven {
            return self.join(rig, 12);
        }
        rig.verb(self.member, Verb::Ack { request: 2, targets, versions: vec![version] });
    }

    fn nack(&self, targets: Targets, kind: NackKind, rig: &mut Rig) {
        let (error, reason) = (Some(error("E")), "not needed".to_owned());
        let (retry_after_ms, whole_group) = (None, false);
        rig.verb(self.member, Verb::Nack { request: 2, targets, kind, retry_after_ms, whole_group, error, reason });
    }

    /// The group's partitions are another version's from now on: this one joins it.
    pub(super) fn moves_to(&mut self, rig: &mut Rig, member: u8) {
        self.member = member;
        self.join(rig, 16);
    }
}
