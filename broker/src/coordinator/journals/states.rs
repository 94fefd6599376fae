//! The states that the two journals build, with all groups in them, and their snapshots.
//!
//! ```text
//! record of the group journal     as crate::group::record has it
//! record of the entries journal   group: u64 LE | entry record; nothing behind the number: the group is gone;
//!                                 group 0: 1 byte, entries are to be made anew from their copies, or nothing: they were
//! snapshot                        one run of items, cut into parts wherever a part is full
//! item                            length: u32 LE | bytes
//! items of the group journal      next group: u64 LE | JSON of ended replays and of ranges of numbers that were lost, if
//!                                 any; then JSON, one item a group
//! items of the entries journal    records that build it
//! ```

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;

use super::super::replay_views::EndedReplay;
use super::super::replays::ENDED_KEPT;
use crate::group::entry::{EntryRecord, EntryReplica};
use crate::group::record::{self, GroupRecord};
use crate::group::state::GroupState;
use crate::limits;
use crate::model::GroupId;
use crate::partition::journal_thread::JournalState;

/// The number that no group has.
const NO_GROUP: GroupId = GroupId(0);

/// The state of all groups.
#[derive(Debug, Default)]
pub struct GroupsState {
    groups: BTreeMap<GroupId, GroupState>,
    last_group: u64,
    /// Numbers that groups may have had which the journal has lost: ranges, half-open.
    lost: Vec<(u64, u64)>,
    items: Items,
    /// Replays whose groups are gone, the newest last.
    ended: VecDeque<EndedReplay>,
    /// The first item of a snapshot has been read.
    headed: bool,
}

/// The dead-letter entries of all groups.
#[derive(Debug, Default)]
pub struct EntriesState {
    tables: BTreeMap<GroupId, EntryReplica>,
    /// Entries are to be made anew from their copies (rule AK-11).
    rebuild: bool,
    items: Items,
}

impl GroupsState {
    /// All groups.
    pub fn groups(&self) -> &BTreeMap<GroupId, GroupState> {
        &self.groups
    }

    /// Replays whose groups are gone, the newest last.
    pub fn ended(&self) -> &VecDeque<EndedReplay> {
        &self.ended
    }

    /// Remembers the replays of a group that goes.
    fn remember(&mut self, state: &GroupState) {
        self.ended.extend(EndedReplay::all_of(state));
        let most = self.ended.len().saturating_sub(ENDED_KEPT);
        self.ended.drain(..most);
    }

    /// The number that no group has had yet.
    pub fn next_group(&self) -> u64 {
        self.last_group + 1
    }

    /// Numbers that groups may have had which the journal has lost: ranges, half-open.
    pub fn lost(&self) -> &[(u64, u64)] {
        &self.lost
    }

    /// After damage: epochs past any that were given, numbers past those of groups that were lost.
    pub(super) fn raise_epochs(&mut self, epochs: u64, groups: u64) -> Result<(), String> {
        let first = self.next_group();
        self.last_group += groups;
        let next = self.next_group();
        match self.lost.last_mut().filter(|last| last.1 == first) {
            Some(last) => last.1 = next,
            None => self.lost.push((first, next)),
        }
        self.items = Items::default();
        for state in self.groups.values_mut() {
            state.next_member_epoch += epochs;
            state.replay(&GroupRecord::Recovered { epoch: state.epoch + epochs })?;
        }
        Ok(())
    }
}

impl EntriesState {
    /// The entries of all groups that have any.
    pub fn tables(&self) -> &BTreeMap<GroupId, EntryReplica> {
        &self.tables
    }

    /// Whether entries are to be made anew from their copies.
    pub fn is_to_rebuild(&self) -> bool {
        self.rebuild
    }

    /// After damage: what was lost is made anew from the copies.
    pub(super) fn ask_rebuild(&mut self) {
        self.items = Items::default();
        self.rebuild = true;
    }
}

impl JournalState for GroupsState {
    fn apply(&mut self, record: &[u8]) -> Result<(), String> {
        self.items.check_complete()?;
        let (id, record) = record::decode(record)?;
        match (self.groups.get_mut(&id), &record) {
            (Some(_), GroupRecord::Deleted) => {
                if let Some(state) = self.groups.remove(&id) {
                    self.remember(&state);
                }
            }
            (Some(state), record) => state.replay(record)?,
            (None, GroupRecord::Created { .. }) if id.0 > self.last_group => {
                self.groups.insert(id, GroupState::create(id, &record)?);
                self.last_group = id.0;
            }
            (None, GroupRecord::Created { .. }) => return Err(format!("the number of group {id} was given before")),
            // What comes late for a group that is gone changes nothing.
            (None, _) if id.0 <= self.last_group => {}
            (None, _) => return Err(format!("group {id} is not there")),
        }
        Ok(())
    }

    fn apply_part(&mut self, part: &[u8]) -> Result<(), String> {
        for item in self.items.take(part) {
            if !std::mem::replace(&mut self.headed, true) {
                let (next, rest) = item.split_first_chunk::<8>().ok_or("a snapshot without the next group")?;
                self.last_group = u64::from_le_bytes(*next).checked_sub(1).ok_or("group 0 is no group")?;
                if !rest.is_empty() {
                    (self.ended, self.lost) = serde_json::from_slice(rest).map_err(|error| error.to_string())?;
                }
                continue;
            }
            let state: GroupState = serde_json::from_slice(&item).map_err(|error| error.to_string())?;
            self.groups.insert(state.id, state);
        }
        Ok(())
    }

    fn parts(&self) -> Vec<Bytes> {
        let mut parts = Parts::default();
        let mut head = self.next_group().to_le_bytes().to_vec();
        if !self.ended.is_empty() || !self.lost.is_empty() {
            let rest = serde_json::to_vec(&(&self.ended, &self.lost));
            head.extend(rest.expect("neither has keys that are no strings"));
        }
        parts.push(&head);
        for state in self.groups.values() {
            parts.push(&serde_json::to_vec(state).expect("states have no keys that are no strings"));
        }
        parts.finish()
    }
}

impl JournalState for EntriesState {
    fn apply(&mut self, record: &[u8]) -> Result<(), String> {
        self.items.check_complete()?;
        self.apply_one(record)
    }

    fn apply_part(&mut self, part: &[u8]) -> Result<(), String> {
        self.items.take(part).iter().try_for_each(|item| self.apply_one(item))
    }

    fn parts(&self) -> Vec<Bytes> {
        let mut parts = Parts::default();
        if self.rebuild {
            parts.push(&encode_rebuild(true));
        }
        let mut item = Vec::new();
        for (group, table) in &self.tables {
            table.records().for_each(|record| {
                item.clear();
                encode_entry_into(&mut item, *group, &record);
                parts.push(&item);
            });
        }
        parts.finish()
    }
}

impl EntriesState {
    fn apply_one(&mut self, record: &[u8]) -> Result<(), String> {
        let (group, rest) = record.split_first_chunk::<8>().ok_or("too short for a group's number")?;
        let group = GroupId(u64::from_le_bytes(*group));
        if group == NO_GROUP {
            self.rebuild = !rest.is_empty();
            return Ok(());
        }
        if rest.is_empty() {
            self.tables.remove(&group);
            return Ok(());
        }
        self.tables.entry(group).or_default().replay(&EntryRecord::decode(rest)?)
    }
}

/// Adds a record of a group's entries as the journal has it.
pub(super) fn encode_entry_into(out: &mut Vec<u8>, group: GroupId, record: &EntryRecord) {
    out.extend_from_slice(&group.0.to_le_bytes());
    record.encode_into(out);
}

/// Whether entries are to be made anew from their copies.
pub(super) fn encode_rebuild(rebuild: bool) -> Bytes {
    let mut out = NO_GROUP.0.to_le_bytes().to_vec();
    out.extend(rebuild.then_some(1));
    out.into()
}

/// The end of all entries of a group.
pub(super) fn encode_gone(group: GroupId) -> Bytes {
    Bytes::copy_from_slice(&group.0.to_le_bytes())
}

/// Items become parts.
#[derive(Debug, Default)]
struct Parts {
    full: Vec<Bytes>,
    open: Vec<u8>,
}

impl Parts {
    fn push(&mut self, item: &[u8]) {
        let length = u32::try_from(item.len()).expect("the state of a group is shorter than 4 GiB");
        self.write(&length.to_le_bytes());
        self.write(item);
    }

    fn write(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.open.capacity() == 0 {
                self.open.reserve_exact(limits::SNAPSHOT_PART_BYTES);
            }
            let fits = bytes.len().min(limits::SNAPSHOT_PART_BYTES - self.open.len());
            self.open.extend_from_slice(&bytes[..fits]);
            bytes = &bytes[fits..];
            if self.open.len() == limits::SNAPSHOT_PART_BYTES {
                self.full.push(std::mem::take(&mut self.open).into());
            }
        }
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.open.is_empty() {
            self.open.shrink_to_fit();
            self.full.push(self.open.into());
        }
        self.full
    }
}

/// Parts become items again.
#[derive(Debug, Default)]
struct Items {
    open: Vec<u8>,
}

impl Items {
    /// The items that this part completes.
    fn take(&mut self, part: &[u8]) -> Vec<Vec<u8>> {
        self.open.extend_from_slice(part);
        let mut items = Vec::new();
        let mut at = 0;
        while let Some(length) = self.open[at..].first_chunk::<4>() {
            let length = u32::from_le_bytes(*length) as usize;
            let Some(item) = self.open.get(at + 4..at + 4 + length) else { break };
            items.push(item.to_vec());
            at += 4 + length;
        }
        self.open.drain(..at);
        items
    }

    /// A record comes only after the whole of a snapshot.
    fn check_complete(&self) -> Result<(), String> {
        if self.open.is_empty() { Ok(()) } else { Err("a snapshot ends within an item".into()) }
    }
}
