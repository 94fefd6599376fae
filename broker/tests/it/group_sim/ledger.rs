//! What the journals say, read without the machine's own data structures: one offset at a time.

use std::collections::BTreeMap;

use sawlog_broker::group::Mode;
use sawlog_broker::group::entry::{EntryKey, EntryRecord, EntryTable};
use sawlog_broker::group::record::{GroupRecord, Intent, OwnedRun, SettledAs};
use sawlog_broker::group::retry::AfterDead;
use sawlog_broker::model::{LaneKey, OffsetRange, Source};

use super::Violation;
use super::log::{SimLog, range};

pub(crate) type Logs = BTreeMap<Source, SimLog>;

/// One partition as the journal tells it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Told {
    /// Everything below is settled.
    pub(crate) floor: u64,
    pub(crate) settled: BTreeMap<u64, SettledAs>,
    pub(crate) intents: BTreeMap<u64, Intent>,
    pub(crate) next_intent: u64,
    /// Some time the position was set back: order begins anew.
    pub(crate) reset: bool,
    pub(crate) owners: Vec<OwnedRun>,
    /// Where each reset that was not undone went to.
    resets: Vec<u64>,
}

impl Told {
    pub(crate) fn is_settled(&self, at: u64) -> bool {
        at < self.floor || self.settled.contains_key(&at)
    }

    /// The committed offset.
    pub(crate) fn lowest_unsettled(&self) -> u64 {
        (self.floor..).find(|at| !self.settled.contains_key(at)).unwrap()
    }

    /// Whether a dead letter of this record is on its way.
    pub(crate) fn is_intended(&self, at: u64) -> bool {
        self.intents.values().any(|intent| covers(intent, at) && !intent.cleared && !intent.source_lost)
    }

    /// A reset forgets what was settled; what was settled since the reset that is undone stays so (rule OF-3).
    fn set_position(&mut self, floor: u64, undo: bool) {
        let before = self.lowest_unsettled();
        let since = if undo { self.resets.pop() } else { None };
        match since {
            Some(since) => {
                // What was acknowledged since says nothing of the order from here on (rule KO-8).
                self.settled
                    .values_mut()
                    .filter(|how| **how == SettledAs::Acked)
                    .for_each(|how| *how = SettledAs::Skipped);
                for at in since..before {
                    self.settled.entry(at).or_insert(SettledAs::Skipped);
                }
            }
            None => self.settled.clear(),
        }
        if !undo {
            self.resets.push(floor);
        }
        self.floor = floor;
        self.reset = true;
    }

    fn settle(&mut self, range: OffsetRange, how: SettledAs) {
        for at in range.from.get()..range.to.get() {
            if at >= self.floor {
                self.settled.entry(at).or_insert(how);
            }
        }
    }
}

fn covers(intent: &Intent, at: u64) -> bool {
    let from = intent.key.offset.get();
    from <= at && at < from + u64::from(intent.records.max(1))
}

/// Everything that the journals tell.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    pub(crate) sources: BTreeMap<Source, Told>,
    pub(crate) entries: EntryTable,
    pub(crate) epoch: u64,
    pub(crate) mode: Option<Mode>,
    pub(crate) after_dead: Option<AfterDead>,
}

impl Ledger {
    /// Takes in a record of the group journal. With `logs`, its rules are checked.
    pub(crate) fn group(&mut self, record: &GroupRecord, logs: Option<&Logs>) -> Result<(), Violation> {
        if logs.is_some() {
            self.check(record)?;
        }
        match record {
            GroupRecord::Created { config, .. } | GroupRecord::Configured { config, .. } => {
                self.mode = Some(config.mode);
                // Once a policy let a key go on behind a dead record its order has holes for ever.
                if self.after_dead != Some(AfterDead::Continue) {
                    self.after_dead = Some(config.retry.after_dead);
                }
            }
            GroupRecord::Topics { starts, .. } => {
                for start in starts {
                    let told = self.sources.entry(start.source).or_default();
                    (told.floor, told.next_intent) = (start.offset.get(), 1);
                }
            }
            GroupRecord::Assigned { epoch, runs } => {
                self.epoch = self.epoch.max(*epoch);
                for (source, runs) in runs {
                    self.sources.entry(*source).or_default().owners.clone_from(runs);
                }
            }
            GroupRecord::Settled { source, how, runs } => {
                for at in runs.iter().flat_map(|run| run.from.get()..run.to.get()) {
                    if let Some(logs) = logs {
                        self.check_settled(*source, at, *how, &logs[source])?;
                    }
                    self.told(*source).settle(range(at, at + 1), *how);
                }
            }
            GroupRecord::Committed { source, next, .. } => {
                let told = self.told(*source);
                told.floor = next.get();
                // A gap above it stays passed.
                told.settled = told.settled.split_off(&next.get());
            }
            GroupRecord::Intended { number, intent } => {
                let told = self.told(intent.key.source);
                told.intents.insert(*number, (**intent).clone());
                told.next_intent = number + 1;
            }
            GroupRecord::Arrived { source, number, how } => {
                let told = self.told(*source);
                if let (Some(intent), Some(how)) = (told.intents.remove(number), how) {
                    let (from, records) = (intent.key.offset, u64::from(intent.records.max(1)));
                    told.settle(OffsetRange { from, to: from.checked_add(records).unwrap() }, *how);
                }
            }
            GroupRecord::GapPassed { source, range, .. } => self.told(*source).settle(*range, SettledAs::Expired),
            GroupRecord::Reset { floors, epoch, undo, clear, .. } => {
                self.epoch = self.epoch.max(*epoch);
                for start in floors {
                    let told = self.told(start.source);
                    told.set_position(start.offset.get(), *undo);
                    let covered = told.intents.values_mut().filter(|one| *clear && one.key.offset >= start.offset);
                    covered.for_each(|one| one.cleared = true);
                }
            }
            GroupRecord::Cut { source, at, group_epoch, .. } => {
                self.epoch = self.epoch.max(*group_epoch);
                let told = self.told(*source);
                told.settled.split_off(&at.get());
                told.floor = told.floor.min(at.get());
                let lost = told.intents.values_mut().filter(|one| one.key.offset >= *at);
                lost.for_each(|one| one.source_lost = true);
                told.resets.iter_mut().for_each(|to| *to = (*to).min(at.get()));
                told.reset = true;
            }
            _ => {}
        }
        Ok(())
    }

    pub(crate) fn entry(&mut self, record: &EntryRecord) -> Result<(), Violation> {
        self.entries.replay(record)
    }

    pub(crate) fn told(&mut self, source: Source) -> &mut Told {
        self.sources.entry(source).or_default()
    }

    fn check(&self, record: &GroupRecord) -> Result<(), Violation> {
        match record {
            GroupRecord::Assigned { epoch, runs } => {
                for (source, runs) in runs {
                    self.check_owners(*source, runs, *epoch)?;
                }
                Ok(())
            }
            GroupRecord::Intended { number, intent } => self.check_intent(*number, intent),
            GroupRecord::Arrived { source, number, .. } => {
                let first = self.sources.get(source).and_then(|told| told.intents.keys().next());
                match first {
                    Some(first) if first <= number => Ok(()),
                    _ => Err(format!("DL-4: intent {number} of {source:?} arrived, open are others")),
                }
            }
            _ => Ok(()),
        }
    }

    /// GM-6: epochs only rise; a slot has one owner.
    fn check_owners(&self, source: Source, runs: &[OwnedRun], epoch: u64) -> Result<(), Violation> {
        if epoch < self.epoch {
            return Err(format!("GM-6: epoch {epoch} was given after {}", self.epoch));
        }
        if runs.windows(2).any(|pair| pair[0].slots.to > pair[1].slots.from) {
            return Err(format!("GM-6: slots of {source:?} have two owners: {runs:?}"));
        }
        let Some(told) = self.sources.get(&source) else { return Ok(()) };
        for run in runs {
            for old in &told.owners {
                let both = run.slots.intersection(old.slots);
                if !both.is_empty() && old.member != run.member && run.epoch <= old.epoch {
                    return Err(format!(
                        "GM-6: slots {both} went to another under epoch {} after {}",
                        run.epoch, old.epoch
                    ));
                }
            }
        }
        Ok(())
    }

    fn check_settled(&self, source: Source, at: u64, how: SettledAs, log: &SimLog) -> Result<(), Violation> {
        let Some(told) = self.sources.get(&source) else { return Ok(()) };
        if at >= log.end() {
            return Err(format!("G7: offset {at} was settled, the log ends at {}", log.end()));
        }
        if told.is_settled(at) {
            return Err(format!("AK-4: offset {at} of {source:?} was settled twice, now as {how:?}"));
        }
        if how != SettledAs::Acked || self.mode != Some(Mode::Keyed) {
            return Ok(());
        }
        let lane = log.ever(at).unwrap().meta.lane;
        let of_lane = |other: &u64| log.ever(*other).is_some_and(|one| one.meta.lane == lane);
        if let Some(later) =
            told.settled.iter().find(|(other, how)| **other > at && **how == SettledAs::Acked && of_lane(other))
        {
            return Err(format!("KO-8: offset {at} was settled as acked after {} of its key", later.0));
        }
        let goes_on = self.after_dead == Some(AfterDead::Continue);
        let earlier = (told.floor..at)
            .find(|other| of_lane(other) && !told.is_settled(*other) && !(goes_on && told.is_intended(*other)));
        match earlier {
            Some(earlier) => Err(format!("KO-2: offset {at} was settled as acked while {earlier} of its key is not")),
            None => Ok(()),
        }
    }

    /// DL-4: one intent for a record; DL-6 and DL-9: a lane's intents are in source order.
    fn check_intent(&self, number: u64, intent: &Intent) -> Result<(), Violation> {
        let Some(told) = self.sources.get(&intent.key.source) else { return Ok(()) };
        let at = intent.key.offset.get();
        if number < told.next_intent {
            return Err(format!("DL-4: intent {number} came after {}", told.next_intent - 1));
        }
        if told.is_intended(at) {
            return Err(format!("DL-4: a second intent for offset {at}"));
        }
        if self.mode != Some(Mode::Offset) && told.is_settled(at) {
            return Err(format!("DL-4: an intent for offset {at}, which is settled"));
        }
        let before =
            told.intents.values().filter(|other| other.lane == intent.lane).map(|other| other.key.offset.get());
        let ordered = self.mode == Some(Mode::Keyed) && !told.reset;
        if let Some(later) = before.max().filter(|other| ordered && *other > at) {
            return Err(format!("DL-9: an intent for offset {at} behind one for {later} of its key"));
        }
        if let Some((key, entry)) = self.entries.at(intent.key.source, intent.key.offset, intent.key.epoch)
            && intent.cycle <= entry.cycle
        {
            return Err(format!(
                "DL-15: an intent of cycle {} for {key:?}, an entry of cycle {}",
                intent.cycle, entry.cycle
            ));
        }
        Ok(())
    }

    /// The first dead letter that holds a lane: an open entry, or one on its way.
    pub(crate) fn lane_begins(&self, source: Source, lane: LaneKey) -> Option<u64> {
        let holds = |key: &EntryKey| self.entries.get(key).is_some_and(|entry| entry.holds);
        let entry = self.entries.open_of(source, lane).find(holds).map(|key| key.offset.get());
        let holding = |intent: &&Intent| intent.lane == lane && intent.holds && !intent.cleared;
        let told = self.sources.get(&source);
        let intent = told.and_then(|told| told.intents.values().filter(holding).map(|one| one.key.offset.get()).min());
        entry.into_iter().chain(intent).min()
    }
}
