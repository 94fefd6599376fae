//! Everything durable of a group, and the one way in which it changes: [`GroupState::replay`].
//!
//! What is not here is gone after a restart: leases, credits, what was read ahead. Dead-letter entries are in
//! [`super::entry::EntryTable`], with a journal of their own.
//!
//! Invariants: the group epoch only rises, member epochs too; the floor of a partition falls by a reset, an undo, a
//! recovery or a cut alone (rule G1); an unsettled record's tries are kept until it is settled (rule AK-6).

mod holes;

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use super::config::{GroupConfig, GroupTopic};
use super::cursor_cut::CursorCut;
use super::entry::Act;
use super::pairs;
use super::rebuild::Rebuilds;
use super::record::{GroupNotes, GroupRecord, Intent, OwnedRun, Pause, SettledAs, Start, Tried};
use super::replay::Replays;
use super::settled::SettledSet;
use super::skips::Skips;
use crate::limits;
use crate::model::{
    AssignmentEpoch, GroupId, GroupName, LaneKey, MemberEpoch, MemberId, Offset, OffsetRange, PartitionEpoch, Source,
    TopicUuid,
};

/// A member as the journal knows it (rule GM-11).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberState {
    /// Its session.
    pub epoch: MemberEpoch,
    /// Its instance id, if static.
    pub instance: Option<String>,
    /// Name that its client gives itself.
    pub client_id: String,
    /// Version of its client.
    pub client_version: String,
    /// When the session began, milliseconds since 1970.
    pub joined_ms: i64,
    /// When the stream of a static member ended, milliseconds since 1970; `None`: it has not.
    pub detached_ms: Option<i64>,
}

/// The last commit of a partition (mode OFFSET).
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Commit {
    /// Epoch of the record before the committed offset.
    pub epoch: PartitionEpoch,
    /// The client's own, at most 4 KiB.
    pub metadata: String,
}

/// What a group knows of a partition (rule AK-6).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct PartitionState {
    /// Epoch of the partition that this state was last compared with (rule G7).
    pub epoch: PartitionEpoch,
    /// Where the group began, no later than a cut since: where a cursor begins that its reader has not (rules OF-1, RM-3).
    #[serde(default)]
    pub start: Offset,
    /// Floor and what is settled above it.
    pub settled: SettledSet,
    /// Unsettled records that were tried.
    #[serde(with = "pairs")]
    pub tried: BTreeMap<Offset, Tried>,
    /// Dead letters on their way, by number.
    #[serde(with = "pairs")]
    pub intents: BTreeMap<u64, Box<Intent>>,
    /// Number of the next intent.
    pub next_intent: u64,
    /// The last commit.
    pub commit: Commit,
    /// Crashes in a row (rule RM-8).
    pub crashes: u32,
    /// Offsets below this were seen before a reset back, those on their way to the dead letters among them: a resolved entry is met again there as it was resolved (DL-15).
    #[serde(default)]
    pub back_to: Offset,
    /// Entries that intents of lower numbers opened are of before the last reset that clears entries (rule OF-3).
    #[serde(default)]
    pub clear_below: u64,
    /// The last cuts that no later one is below: where, and the epoch that began (rule AK-12).
    #[serde(default)]
    pub cuts: Vec<(Offset, PartitionEpoch)>,
    /// What was delivered under an earlier epoch is nobody's any more: the epoch of the last reset or cut, which dropped all
    /// leases (rules OF-3, AK-12). A member that resumes may name such records; others have their offsets by now.
    #[serde(default)]
    pub leases_from: AssignmentEpoch,
    /// Lanes that go on behind a record that was dropped or left dead, with that record: the next delivery of each is
    /// marked (rule DL-8).
    #[serde(default, with = "pairs")]
    pub holes: BTreeMap<LaneKey, Offset>,
    /// What was settled, but not as handled, and why.
    #[serde(default, skip_serializing_if = "Skips::is_empty")]
    pub skips: Skips,
    /// A cut took what the read model has applied (rule RM-1).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor_cut: Option<CursorCut>,
}

/// Cuts that a partition remembers; older ones are done with at the next start at the latest.
const CUTS_KEPT: usize = 16;

impl PartitionState {
    /// The state of a partition that a group starts at `start`.
    pub fn new(start: &Start) -> Self {
        Self {
            epoch: start.epoch,
            start: start.offset,
            settled: SettledSet::new(start.offset),
            tried: BTreeMap::new(),
            intents: BTreeMap::new(),
            next_intent: 1,
            commit: Commit::default(),
            crashes: 0,
            back_to: Offset::ZERO,
            clear_below: 0,
            cuts: Vec::new(),
            leases_from: AssignmentEpoch::default(),
            holes: BTreeMap::new(),
            skips: Skips::default(),
            cursor_cut: None,
        }
    }
}

/// A reset that can be undone (rule OF-3).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ResetMade {
    /// The floors before it.
    pub before: Vec<Start>,
    /// The floors that it set.
    #[serde(default)]
    pub after: Vec<Start>,
    /// Who and why.
    pub act: Act,
}

/// Everything durable of a group.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct GroupState {
    /// Its number.
    pub id: GroupId,
    /// Its name.
    pub name: GroupName,
    /// Settings.
    pub config: GroupConfig,
    /// Rises with each change of settings or notes.
    pub revision: u64,
    /// Notes.
    pub notes: GroupNotes,
    /// When it was created, milliseconds since 1970.
    pub created_ms: i64,
    /// The group epoch: every assignment epoch was one (rule GM-6).
    pub epoch: u64,
    /// Epoch of the next session of a member.
    pub next_member_epoch: u64,
    /// Topics.
    #[serde(with = "pairs")]
    pub topics: BTreeMap<TopicUuid, GroupTopic>,
    /// Partitions.
    #[serde(with = "pairs")]
    pub partitions: BTreeMap<Source, PartitionState>,
    /// Members.
    #[serde(with = "pairs")]
    pub members: BTreeMap<MemberId, MemberState>,
    /// Who owns which slots, in order of slots.
    #[serde(with = "pairs")]
    pub owners: BTreeMap<Source, Vec<OwnedRun>>,
    /// Pauses.
    pub pauses: Vec<Pause>,
    /// The last resets, the newest last.
    pub resets: VecDeque<ResetMade>,
    /// A reset that clears entries at or above these floors, not finished yet.
    pub clearing: Option<Vec<Start>>,
    /// The breaker by hand, and by whom.
    pub breaker: Option<(bool, Act)>,
    /// The last replays.
    #[serde(default, skip_serializing_if = "Replays::is_empty")]
    pub replays: Replays,
    /// The last rebuilds, and whether one has taken the units.
    #[serde(default, skip_serializing_if = "Rebuilds::is_empty")]
    pub rebuilds: Rebuilds,
}

impl GroupState {
    /// A group that begins; `record` must be [`GroupRecord::Created`].
    ///
    /// # Errors
    /// Any other record.
    pub fn create(id: GroupId, record: &GroupRecord) -> Result<Self, String> {
        let GroupRecord::Created { name, config, notes, created_ms, topics, starts } = record else {
            return Err(format!("group {id} is not there"));
        };
        let mut state = Self {
            id,
            name: name.clone(),
            config: (**config).clone(),
            revision: 1,
            notes: notes.clone(),
            created_ms: *created_ms,
            epoch: 1,
            next_member_epoch: 1,
            topics: BTreeMap::new(),
            partitions: BTreeMap::new(),
            members: BTreeMap::new(),
            owners: BTreeMap::new(),
            pauses: Vec::new(),
            resets: VecDeque::new(),
            clearing: None,
            breaker: None,
            replays: Replays::new(),
            rebuilds: Rebuilds::default(),
        };
        state.replay_topics(topics, starts, &[]);
        Ok(state)
    }

    /// Applies a change: the only way in which durable state changes. [`GroupRecord::Deleted`] is for the keeper of
    /// all groups.
    ///
    /// # Errors
    /// The record does not fit what is there.
    pub fn replay(&mut self, record: &GroupRecord) -> Result<(), String> {
        match record {
            GroupRecord::Created { .. } => return Err(format!("group {} is there already", self.id)),
            GroupRecord::Deleted => {}
            GroupRecord::Configured { config, notes } => {
                self.config = (**config).clone();
                self.notes = notes.clone();
                self.revision += 1;
            }
            GroupRecord::Topics { added, starts, removed } => self.replay_topics(added, starts, removed),
            GroupRecord::Joined { member, epoch, instance, client_id, client_version, time_ms } => {
                let state = MemberState {
                    epoch: *epoch,
                    instance: instance.clone(),
                    client_id: client_id.clone(),
                    client_version: client_version.clone(),
                    joined_ms: *time_ms,
                    detached_ms: None,
                };
                self.members.insert(*member, state);
                self.next_member_epoch = self.next_member_epoch.max(epoch.0 + 1);
            }
            GroupRecord::Left { member } => drop(self.members.remove(member)),
            GroupRecord::Detached { member, time_ms } => {
                let member = self.members.get_mut(member).ok_or("a member that is not there was detached")?;
                member.detached_ms = Some(*time_ms);
            }
            GroupRecord::Assigned { epoch, runs } => {
                self.epoch = self.epoch.max(*epoch);
                for (source, runs) in runs {
                    if runs.is_empty() {
                        self.owners.remove(source);
                    } else {
                        self.owners.insert(*source, runs.clone());
                    }
                }
            }
            GroupRecord::Paused(pause) => {
                self.resume(pause.topic, pause.partition, pause.reason);
                self.pauses.push(pause.clone());
            }
            GroupRecord::Resumed { topic, partition, reason } => self.resume(*topic, *partition, *reason),
            GroupRecord::Breaker { forced, act } => self.breaker = forced.map(|forced| (forced, act.clone())),
            GroupRecord::Recovered { epoch } => {
                self.epoch = self.epoch.max(*epoch);
            }
            GroupRecord::Reset { floors, clear, epoch, undo, act } => {
                self.replay_reset(floors, *clear, *undo, act);
                for start in floors {
                    if let Some(partition) = self.partitions.get_mut(&start.source) {
                        partition.leases_from = AssignmentEpoch(*epoch);
                    }
                }
                self.epoch = self.epoch.max(*epoch);
            }
            GroupRecord::Cleared => self.clearing = None,
            GroupRecord::ReplayStarted { replay, epoch } => self.replay_started(replay, *epoch)?,
            GroupRecord::ReplayPaced { number, rate } => self.replay_paced(*number, *rate)?,
            GroupRecord::ReplayEnded { number, end, time_ms } => self.replay_ended(*number, *end, *time_ms)?,
            GroupRecord::Rebuild(record) => self.replay_rebuild(record)?,
            other => self.replay_partition(other)?,
        }
        Ok(())
    }

    fn resume(
        &mut self,
        topic: Option<TopicUuid>,
        partition: Option<crate::model::PartitionId>,
        reason: super::record::PauseReason,
    ) {
        self.pauses.retain(|pause| (pause.topic, pause.partition, pause.reason) != (topic, partition, reason));
    }

    fn replay_topics(&mut self, added: &[GroupTopic], starts: &[Start], removed: &[TopicUuid]) {
        for topic in removed {
            self.topics.remove(topic);
            self.partitions.retain(|source, _| source.topic != *topic);
            self.owners.retain(|source, _| source.topic != *topic);
            self.pauses.retain(|pause| pause.topic != Some(*topic));
            for reset in &mut self.resets {
                reset.before.retain(|start| start.source.topic != *topic);
                reset.after.retain(|start| start.source.topic != *topic);
            }
            for replay in &mut self.replays {
                replay.ranges.retain(|range| range.source.topic != *topic);
            }
        }
        for topic in added {
            self.topics.insert(topic.topic, topic.clone());
        }
        for start in starts {
            self.partitions.entry(start.source).or_insert_with(|| PartitionState::new(start));
        }
    }

    fn replay_reset(&mut self, floors: &[Start], clear: bool, undo: bool, act: &Act) {
        let undone = if undo { self.resets.pop_back() } else { None };
        let mut before = Vec::new();
        for start in floors {
            let Some(partition) = self.partitions.get_mut(&start.source) else { continue };
            let old = partition.settled.clone();
            before.push(Start { source: start.source, offset: old.floor(), epoch: partition.epoch });
            partition.back_to = partition.back_to.max(partition.seen_end());
            partition.settled.set_floor(start.offset);
            // What was settled since the reset that is undone stays so.
            let reset = undone.iter().flat_map(|reset| &reset.after).find(|after| after.source == start.source);
            if let Some(reset) = reset {
                let since = OffsetRange { from: reset.offset, to: old.floor() };
                if !since.is_empty() {
                    partition.settled.settle(since);
                }
                for run in old.runs() {
                    partition.settled.settle(run);
                }
            }
            partition.epoch = start.epoch;
            partition.crashes = 0;
            partition.tried.clear();
            partition.holes.clear();
            partition.skips.forget(OffsetRange { from: start.offset, to: Offset::MAX });
            partition.commit = Commit::default();
            if clear {
                partition.clear_below = partition.next_intent;
                let covered = partition.intents.values_mut().filter(|one| one.key.offset >= start.offset);
                covered.for_each(|one| one.cleared = true);
            }
        }
        if !undo {
            self.resets.push_back(ResetMade { before, after: floors.to_vec(), act: act.clone() });
            while self.resets.len() > limits::RESETS_KEPT {
                self.resets.pop_front();
            }
        }
        if clear {
            self.clearing = Some(floors.to_vec());
        }
    }

    fn replay_partition(&mut self, record: &GroupRecord) -> Result<(), String> {
        let source = match record {
            GroupRecord::Settled { source, .. }
            | GroupRecord::Tried { source, .. }
            | GroupRecord::Committed { source, .. }
            | GroupRecord::Arrived { source, .. }
            | GroupRecord::GapPassed { source, .. }
            | GroupRecord::Cut { source, .. }
            | GroupRecord::Epoch { source, .. }
            | GroupRecord::Hole { source, .. }
            | GroupRecord::HolesTold { source, .. }
            | GroupRecord::SkippedBy { source, .. }
            | GroupRecord::CursorCut { source, .. }
            | GroupRecord::Crashes { source, .. } => *source,
            GroupRecord::Intended { intent, .. } => intent.key.source,
            other => return Err(format!("not a record of a partition: {other:?}")),
        };
        // What is late for a topic that was taken out meanwhile changes nothing.
        let Some(partition) = self.partitions.get_mut(&source) else { return Ok(()) };
        partition.replay(record)?;
        if let GroupRecord::Cut { at, group_epoch, .. } = record {
            self.epoch = self.epoch.max(*group_epoch);
            let resets = self.resets.iter_mut().flat_map(|reset| reset.before.iter_mut().chain(&mut reset.after));
            let lost = resets.chain(self.clearing.iter_mut().flatten()).filter(|start| start.source == source);
            lost.for_each(|start| start.offset = start.offset.min(*at));
            self.cut_replays(source, *at);
        }
        Ok(())
    }
}

impl PartitionState {
    fn replay(&mut self, record: &GroupRecord) -> Result<(), String> {
        match record {
            GroupRecord::Settled { runs, how, .. } => {
                for run in runs {
                    if matches!(how, SettledAs::Skipped | SettledAs::Expired) {
                        self.skips.add(*run);
                    }
                    self.settled.settle(*run);
                    self.forget_tries(run.from, run.to);
                }
            }
            GroupRecord::Tried { tries, .. } => {
                for tried in tries {
                    if tried.attempts == 0 && tried.due_ms == 0 {
                        self.tried.remove(&tried.offset);
                    } else if !self.settled.contains(tried.offset) {
                        self.tried.insert(tried.offset, tried.clone());
                    }
                }
            }
            GroupRecord::Committed { next, epoch, metadata, .. } => {
                self.settled.commit(*next);
                self.commit = Commit { epoch: *epoch, metadata: metadata.clone() };
                self.crashes = 0;
            }
            GroupRecord::Intended { number, intent } => {
                self.intents.insert(*number, intent.clone());
                self.next_intent = self.next_intent.max(number + 1);
            }
            GroupRecord::Arrived { number, how, .. } => {
                if let (Some(intent), Some(_)) = (self.intents.remove(number), how) {
                    let from = intent.key.offset;
                    let to = from.saturating_add(u64::from(intent.records.max(1)));
                    if *how == Some(SettledAs::Expired) {
                        self.skips.add(OffsetRange { from, to });
                    }
                    self.settled.settle(OffsetRange { from, to });
                    self.forget_tries(from, to);
                }
            }
            GroupRecord::GapPassed { range, .. } => {
                self.skips.add(*range);
                self.settled.settle(*range);
                self.forget_tries(range.from, range.to);
            }
            GroupRecord::Cut { at, epoch, group_epoch, .. } => {
                self.leases_from = AssignmentEpoch(*group_epoch);
                self.cut_at(*at, *epoch);
            }
            GroupRecord::Epoch { epoch, .. } => self.epoch = *epoch,
            GroupRecord::Hole { lane, at, .. } => self.add_hole(*lane, *at),
            GroupRecord::HolesTold { lanes, .. } => {
                for lane in lanes {
                    self.holes.remove(lane);
                }
            }
            GroupRecord::SkippedBy { runs, act, .. } => self.skips.explain(runs, act),
            GroupRecord::Crashes { count, .. } => self.crashes = *count,
            GroupRecord::CursorCut { cut, .. } => self.cursor_cut = cut.as_deref().cloned(),
            other => return Err(format!("not a record of a partition: {other:?}")),
        }
        Ok(())
    }

    /// Nothing at or above `at` is there any more (rule AK-12).
    fn cut_at(&mut self, at: Offset, epoch: PartitionEpoch) {
        self.settled.cut(at);
        self.skips.forget(OffsetRange { from: at, to: Offset::MAX });
        self.start = self.start.min(at);
        self.tried.retain(|offset, _| *offset < at);
        self.intents.values_mut().filter(|one| one.key.offset >= at).for_each(|one| one.source_lost = true);
        self.epoch = epoch;
        self.crashes = 0;
        // What was accepted of a cut that is further up says nothing of this one.
        self.cursor_cut.take_if(|known| at < known.at);
        self.holes.retain(|_, dropped| *dropped < at);
        self.back_to = self.back_to.min(at);
        self.cuts.retain(|(earlier, _)| *earlier < at);
        self.cuts.push((at, epoch));
        if self.cuts.len() > CUTS_KEPT {
            self.cuts.remove(0);
        }
    }

    /// The end of what is settled, or will be once its dead letter has arrived.
    pub(super) fn seen_end(&self) -> Offset {
        let intents = self.intents.values().filter(|intent| !intent.source_lost);
        let ends = intents.map(|one| one.key.offset.saturating_add(u64::from(one.records.max(1))));
        ends.fold(self.settled.end(), Offset::max)
    }
}

#[cfg(test)]
mod tests;
