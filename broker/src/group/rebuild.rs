//! Rebuilds of a group: a new version of its read model is made beside the live one, then takes its place (rules RP-6,
//! RP-7).
//!
//! Owns: what a rebuild is in the durable state of its group, how the group takes its shadow's place; `followed`: what the
//! shadow takes over of the group's entries. Must not know: how shadows are made, who asks a member to swap, databases.
//!
//! ```text
//!   Filling --swap--> Draining --both drained, shadow as far--> Asked --the database says done--> Swapped
//!      ^                 | too long                              |  ^                            (the group is the shadow's
//!      +-----------------+---------------------------------------+  | abort                       positions and entries)
//!      |                              it says not done              +--- Asked, to undo --not done--> Aborted
//!      +--abort--> Aborted
//! ```
//!
//! Invariants: a group has one rebuild at a time; a name of a version is never used twice; from `Asked` on nothing but the
//! answer of a member, which is what the user's database says, ends a swap; a drained group gives its units to nobody; an
//! entry of the group that the shadow meets is in the shadow's table before the record is delivered.

mod followed;

use std::collections::{BTreeSet, VecDeque};

use serde::{Deserialize, Serialize};

use super::Now;
use super::effect::{After, Effects, Frame, Notice, Refusal};
use super::entry::{Act, Entry, EntryKey, EntryRecord, EntryState};
use super::machine::Machine;
use super::members::Loss;
use super::record::{GroupRecord, Start};
use super::replay::ReplayRate;
use super::state::{Commit, GroupState, PartitionState};
use crate::model::{GroupId, MemberId, Offset, PartitionEpoch, Source, VersionName};
pub use followed::Followed;

/// Rebuilds of a group that are remembered.
pub const REBUILDS_KEPT: usize = 20;
/// Versions that a group may have had; their names are not given again.
pub const VERSIONS_MAX: usize = 1_000;

/// Where a rebuild that has not ended stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebuildStage {
    /// The shadow reads.
    Filling,
    /// A swap was asked for: the group hands over what it has, the shadow comes as far as it.
    Draining,
    /// A member of the shadow may have changed the user's database.
    Asked {
        /// It is asked to make sure that it has not, and never will.
        undo: bool,
    },
}

/// How a rebuild ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebuildEnd {
    /// Its version is the active one.
    Swapped,
    /// Its shadow was deleted.
    Aborted,
}

/// A rebuild.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rebuild {
    /// Its number in the group, from 1.
    pub number: u64,
    /// The version that it makes.
    pub version: VersionName,
    /// The version that was active when it began; `None`: the model had none.
    pub replaces: Option<VersionName>,
    /// The group of its members.
    pub shadow: GroupId,
    /// How fast the shadow reads.
    pub rate: ReplayRate,
    /// Where it stands.
    pub stage: RebuildStage,
    /// Swaps that were begun: the number of the last one.
    pub swaps: u64,
    /// Why the last swap did not come about; empty: none failed.
    pub problem: String,
    /// Who began it, when and why.
    pub act: Act,
    /// How it ended, and when, milliseconds since 1970.
    pub end: Option<(RebuildEnd, i64)>,
}

/// All that a group remembers of its versions.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Rebuilds {
    /// The last rebuilds, the newest last; the last one may be open.
    pub list: VecDeque<Rebuild>,
    /// Names that were used.
    pub used: Vec<VersionName>,
    /// Units are given to nobody: a swap is under way.
    pub drained: bool,
}

impl Rebuilds {
    /// Whether there was never any.
    pub fn is_empty(&self) -> bool {
        self.list.is_empty() && self.used.is_empty() && !self.drained
    }

    /// The one that has not ended.
    pub fn open(&self) -> Option<&Rebuild> {
        self.list.back().filter(|last| last.end.is_none())
    }

    /// The number of the next one.
    pub fn next_number(&self) -> u64 {
        self.list.back().map_or(1, |last| last.number + 1)
    }

    fn open_mut(&mut self, number: u64) -> Result<&mut Rebuild, String> {
        let last = self.list.back_mut().filter(|last| last.number == number && last.end.is_none());
        last.ok_or_else(|| format!("rebuild {number} is not open"))
    }
}

/// Where the shadow was in a partition when it took its group's place.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakenPlace {
    /// Its floor, and the epoch of the partition that it was compared with.
    pub floor: Start,
    /// Where it had begun.
    pub began: Offset,
    /// Epoch of the record before the floor.
    pub record_epoch: PartitionEpoch,
}

/// A change of a group's rebuilds, as it stands in the journal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum RebuildRecord {
    /// One began; its shadow is there.
    Started(Rebuild),
    /// It stands elsewhere.
    Staged {
        /// Its number.
        number: u64,
        /// Where it stands.
        stage: RebuildStage,
        /// The number of the last swap.
        swaps: u64,
        /// Why the last swap did not come about.
        problem: String,
    },
    /// The shadow reads at another rate.
    Paced {
        /// Its number.
        number: u64,
        /// The rate.
        rate: ReplayRate,
    },
    /// Its shadow is to go.
    Aborted {
        /// Its number.
        number: u64,
        /// When.
        time_ms: i64,
    },
    /// The group is what its shadow was.
    Swapped {
        /// Its number.
        number: u64,
        /// The group epoch: above all that either has given.
        epoch: u64,
        /// The shadow's positions.
        places: Vec<TakenPlace>,
        /// When.
        time_ms: i64,
    },
    /// Units are given to nobody, or again to members.
    Drained(bool),
}

/// What is asked of a machine for a rebuild; by the coordinator alone, which sees to the order.
#[derive(Debug, Clone)]
pub enum RebuildCall {
    /// The group: one begins.
    Start(Rebuild),
    /// The group: it stands elsewhere.
    Stage {
        /// Its number.
        number: u64,
        /// Where.
        stage: RebuildStage,
        /// Why the last swap did not come about.
        problem: String,
    },
    /// The group: the shadow is to read at another rate.
    Pace {
        /// Its number.
        number: u64,
        /// The rate.
        rate: ReplayRate,
    },
    /// The group: it ends, and its shadow is to go.
    Abort {
        /// Its number.
        number: u64,
    },
    /// Group and shadow: units are given to nobody, or again to members.
    Drain(bool),
    /// The shadow: entries of the group whose records it is about to meet.
    Adopt(Vec<(EntryKey, Entry)>),
    /// The shadow: what became of entries of the group that are open in it.
    Follow(Followed),
    /// The group: entries are what they are in the shadow, which has passed these offsets.
    Merge {
        /// The shadow's entries.
        entries: Vec<(EntryKey, Entry)>,
        /// Its floors.
        passed: Vec<(Source, Offset)>,
    },
    /// The group: it takes the shadow's place; its members go.
    TakePlace {
        /// The rebuild.
        number: u64,
        /// The shadow's epoch.
        epoch: u64,
        /// Its positions.
        places: Vec<TakenPlace>,
    },
}

/// What a member of a shadow is asked to do in the user's database.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SwapAsk {
    /// The rebuild's number in its group.
    pub number: u64,
    /// The swap's number in its rebuild: what the database keeps of one says nothing of the next.
    pub swap: u64,
    /// The version that becomes active.
    pub version: VersionName,
    /// The version that it takes the place of.
    pub replaces: Option<VersionName>,
    /// Not to swap, but to make sure that nobody has or will.
    pub undo: bool,
}

impl GroupState {
    /// See [`GroupRecord::Rebuild`].
    pub(super) fn replay_rebuild(&mut self, record: &RebuildRecord) -> Result<(), String> {
        match record {
            RebuildRecord::Started(rebuild) => {
                if self.rebuilds.open().is_some() || rebuild.number != self.rebuilds.next_number() {
                    return Err(format!("rebuild {} does not follow what the group has", rebuild.number));
                }
                self.rebuilds.used.push(rebuild.version.clone());
                self.rebuilds.list.push_back(rebuild.clone());
                while self.rebuilds.list.len() > REBUILDS_KEPT {
                    self.rebuilds.list.pop_front();
                }
            }
            RebuildRecord::Staged { number, stage, swaps, problem } => {
                let open = self.rebuilds.open_mut(*number)?;
                (open.stage, open.swaps) = (*stage, *swaps);
                open.problem.clone_from(problem);
            }
            RebuildRecord::Paced { number, rate } => self.rebuilds.open_mut(*number)?.rate = *rate,
            RebuildRecord::Aborted { number, time_ms } => {
                self.rebuilds.open_mut(*number)?.end = Some((RebuildEnd::Aborted, *time_ms));
            }
            RebuildRecord::Swapped { number, epoch, places, time_ms } => {
                let open = self.rebuilds.open_mut(*number)?;
                open.end = Some((RebuildEnd::Swapped, *time_ms));
                open.problem.clear();
                self.config.version = Some(open.version.clone());
                self.revision += 1;
                self.rebuilds.drained = false;
                self.epoch = self.epoch.max(*epoch);
                for place in places {
                    let Some(partition) = self.partitions.get_mut(&place.floor.source) else { continue };
                    partition.settled.set_floor(place.floor.offset);
                    (partition.epoch, partition.start) = (place.floor.epoch, place.began);
                    partition.commit = Commit { epoch: place.record_epoch, metadata: String::new() };
                    partition.crashes = 0;
                    partition.cursor_cut = None;
                }
            }
            RebuildRecord::Drained(on) => self.rebuilds.drained = *on,
        }
        Ok(())
    }
}

impl Machine {
    /// Does what a rebuild needs.
    pub(super) fn rebuild(&mut self, call: RebuildCall, now: Now, fx: &mut Effects) -> Result<(), Refusal> {
        match call {
            RebuildCall::Start(rebuild) => self.commit_rebuild(RebuildRecord::Started(rebuild), fx),
            RebuildCall::Stage { number, stage, problem } => {
                let swaps = self.open_rebuild(number)?.swaps + u64::from(stage == RebuildStage::Draining);
                self.commit_rebuild(RebuildRecord::Staged { number, stage, swaps, problem }, fx);
            }
            RebuildCall::Pace { number, rate } => {
                self.open_rebuild(number)?;
                self.commit_rebuild(RebuildRecord::Paced { number, rate }, fx);
            }
            RebuildCall::Abort { number } => {
                self.open_rebuild(number)?;
                self.commit_rebuild(RebuildRecord::Aborted { number, time_ms: now.wall_ms }, fx);
                self.drain(false, now, fx);
            }
            RebuildCall::Drain(on) => self.drain(on, now, fx),
            RebuildCall::Adopt(entries) => entries.into_iter().for_each(|(key, entry)| self.adopt(key, entry, now, fx)),
            RebuildCall::Follow(followed) => self.follow_entries(followed, now, fx),
            RebuildCall::Merge { entries, passed } => self.merge_entries(entries, &passed, now, fx),
            RebuildCall::TakePlace { number, epoch, places } => {
                self.open_rebuild(number)?;
                self.take_place(number, epoch, places, now, fx);
            }
        }
        Ok(())
    }

    /// Whether nobody has anything of the group, and all of its dead letters are copied: the first step of a swap.
    pub fn is_drained(&self) -> bool {
        self.state.rebuilds.drained
            && self.state.owners.values().all(Vec::is_empty)
            && self.state.partitions.values().all(|one| one.intents.is_empty())
    }

    /// Where it stands in each partition: what its group takes over.
    pub fn places(&self) -> Vec<TakenPlace> {
        let place = |(source, one): (&Source, &PartitionState)| TakenPlace {
            floor: Start { source: *source, offset: one.settled.floor(), epoch: one.epoch },
            began: one.start,
            record_epoch: one.commit.epoch,
        };
        self.state.partitions.iter().map(place).collect()
    }

    /// Whether a partition is read up to its live end, and all of it was sent.
    pub fn is_at_live_end(&self, source: Source) -> bool {
        self.works.get(&source).is_some_and(|work| work.reading.caught_up)
    }

    fn open_rebuild(&self, number: u64) -> Result<&Rebuild, Refusal> {
        let open = self.state.rebuilds.open().filter(|open| open.number == number);
        open.ok_or_else(|| Refusal::Invalid {
            field: "rebuild",
            found: number.to_string(),
            bounds: "one that is open".into(),
        })
    }

    fn commit_rebuild(&mut self, record: RebuildRecord, fx: &mut Effects) {
        self.commit(GroupRecord::Rebuild(Box::new(record)), fx);
    }

    /// Units are taken from everybody (rule GM-5), or given again.
    fn drain(&mut self, on: bool, now: Now, fx: &mut Effects) {
        if self.state.rebuilds.drained != on {
            self.commit_rebuild(RebuildRecord::Drained(on), fx);
            self.rebalance(now, fx);
        }
    }

    /// Entries become what they are in the shadow; what is open here alone, of records that the shadow has handled, is
    /// closed as handled: the version that had it open is retired (rule RP-7).
    fn merge_entries(
        &mut self,
        entries: Vec<(EntryKey, Entry)>,
        passed: &[(Source, Offset)],
        now: Now,
        fx: &mut Effects,
    ) {
        let known: BTreeSet<EntryKey> = entries.iter().map(|(key, _)| *key).collect();
        for (key, mut entry) in entries {
            let own = self.entries.get(&key);
            let same = |own: &Entry| {
                (own.state, own.kind, own.versions.len()) == (entry.state, entry.kind, entry.versions.len())
            };
            // Closed by an operator since the shadow has looked last: it has not applied it either.
            let given_up = entry.state == EntryState::Open
                && own
                    .as_ref()
                    .is_some_and(|own| own.state.is_closed() && !matches!(own.state, EntryState::Resolved { .. }));
            if !self.state.partitions.contains_key(&key.source) || given_up || own.as_ref().is_some_and(same) {
                continue;
            }
            entry.job = None;
            if let Some(own) = own {
                entry.cycle = entry.cycle.max(own.cycle);
                if own.versions.len() > entry.versions.len() {
                    entry.versions = own.versions;
                }
                if entry.state == EntryState::Open {
                    entry.job = own.job;
                }
            }
            let (lane, closed, was) = (entry.lane, entry.state.is_closed(), self.lane_now(key.source, entry.lane));
            let opened = EntryRecord::Opened { key, entry: Box::new(entry) };
            self.with_lane(key.source, lane, |machine| machine.commit_entry(opened, fx));
            if closed {
                fx.notices.push(Notice::EntryClosed(key));
            }
            self.lane_changed(key.source, lane, was, now, fx);
        }
        let note = "the version that it was open in is retired".to_owned();
        let act = Act { actor: "broker".into(), time_ms: now.wall_ms, note };
        for (source, floor) in passed {
            let handled = self.entries.from(*source, Offset::ZERO).take_while(|(key, _)| key.offset < *floor);
            let handled = handled.filter(|(key, state)| *state == EntryState::Open && !known.contains(key));
            for key in handled.map(|(key, _)| key).collect::<Vec<_>>() {
                let attempts = self.entries.get(&key).map_or(0, |entry| entry.attempts);
                self.close_entry(key, EntryState::Resolved { version: 0 }, attempts, act.clone(), now, fx);
            }
        }
    }

    /// The group becomes what its shadow was: members of the retired version go, those of the new one come to it.
    fn take_place(&mut self, number: u64, epoch: u64, places: Vec<TakenPlace>, now: Now, fx: &mut Effects) {
        let active = self.state.rebuilds.open().map(|open| open.version.to_string()).unwrap_or_default();
        let members: Vec<MemberId> = self.state.members.keys().copied().collect();
        for member in members {
            let retired = Refusal::Retired { active: active.clone() };
            self.send(member, Frame::Ended(retired), After::Group, fx);
            self.lose(member, Loss::Released, now, fx);
        }
        let epoch = self.state.epoch.max(epoch) + 1;
        let floors: Vec<(Source, Offset)> =
            places.iter().map(|place| (place.floor.source, place.floor.offset)).collect();
        self.commit_rebuild(RebuildRecord::Swapped { number, epoch, places, time_ms: now.wall_ms }, fx);
        for (source, floor) in floors {
            self.forget_gap(source, now, fx);
            self.restart_source(source, floor);
            self.refresh_source(source, Offset::ZERO, now);
        }
        self.end_dead_limit(now, fx);
        self.rebalance(now, fx);
    }
}

#[cfg(test)]
mod tests;
