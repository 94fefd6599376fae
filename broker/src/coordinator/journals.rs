//! The two journals of the groups, as the coordinator has them: one for decisions about records and members, one for
//! dead-letter entries (rules G1, G6, AK-6, DL-12).
//!
//! Owns how states and records of all groups stand in them, what damage means, and the way back from it. Decisions it
//! knows nothing of: it stores what machines give, in the order in which they give it.
//!
//! Invariants: a group's number is never given twice; a journal that is damaged or has failed takes nothing, and no
//! group goes on then, while produce and read do; after a recovery no epoch that may have been given is given again.

mod states;

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use bytes::Bytes;

pub use self::states::{EntriesState, GroupsState};

use super::GroupError;
use super::replay_views::EndedReplay;
use super::views::{RecoverReport, RecoveredGroup};
use crate::clock::Clock;
use crate::dead_letter::handle::Written;
use crate::group::entry::{EntryRecord, EntryReplica, EntryTable};
use crate::group::record::{self, GroupRecord};
use crate::group::state::GroupState;
use crate::limits;
use crate::metrics::Metrics;
use crate::model::{GroupId, Offset, Source};
use crate::partition::journal::JournalSpec;
use crate::partition::journal_thread::{
    JournalHandle, JournalHealth, JournalSequence, JournalState, JournalStopped, JournalThreadSpec, OpenedJournal,
    ReleaseReserve,
};

/// What a recovery raises epochs of groups and members by (rule AK-11).
const EPOCHS_SKIPPED: u64 = 1 << 32;
/// Numbers of groups that a recovery leaves out: groups may have been made in what was lost.
const GROUPS_SKIPPED: u64 = 1 << 20;
/// Bytes that may wait in a journal before callers are to hold back.
const QUEUED_BYTES: u64 = 8 << 20;
/// Bytes that most records have at most.
const USUAL_BYTES: usize = 112;

/// What the journals of the groups are given.
pub struct GroupJournalsSpec {
    /// The group journal.
    pub groups: JournalSpec,
    /// The entries journal.
    pub entries: JournalSpec,
    /// Wall time of their records.
    pub clock: Arc<dyn Clock>,
    /// Metrics of the broker.
    pub metrics: Arc<Metrics>,
    /// Called when the disk is full.
    pub release_reserve: Option<ReleaseReserve>,
}

impl std::fmt::Debug for GroupJournalsSpec {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("GroupJournalsSpec").field("groups", &self.groups).finish_non_exhaustive()
    }
}

/// The two journals, on their threads.
#[derive(Debug)]
pub struct GroupJournals {
    groups: JournalHandle<GroupsState>,
    entries: JournalHandle<EntriesState>,
    /// Bytes of good records behind the damage, which are left out.
    left_out_bytes: u64,
}

/// Everything durable of all groups.
#[derive(Debug, Default)]
pub struct LoadedGroups {
    /// Groups with their entries.
    pub groups: BTreeMap<GroupId, (GroupState, EntryTable)>,
    /// Number of the next group.
    pub next_group: u64,
    /// Replays whose groups are gone, the newest last.
    pub ended: std::collections::VecDeque<EndedReplay>,
    /// Numbers that groups may have had which a damaged journal has lost: ranges, half-open.
    pub lost: Vec<(u64, u64)>,
    /// A part of the entries journal was lost: entries are to be made anew from their copies, then
    /// [`GroupJournals::rebuilt`].
    pub rebuild: bool,
}

impl GroupJournals {
    /// Opens or makes both journals, replays them and starts their threads. Blocks. What goes wrong stops the groups,
    /// never the start of the broker (rule F7): [`GroupJournals::check`] says it.
    pub fn open(spec: GroupJournalsSpec) -> Self {
        let thread = |name| JournalThreadSpec {
            name,
            clock: Arc::clone(&spec.clock),
            metrics: spec.metrics.journal(name),
            release_reserve: spec.release_reserve.clone(),
            snapshot_bytes: limits::GROUP_JOURNAL_SNAPSHOT_BYTES,
        };
        let (groups, group_bytes) = open_one(spec.groups, thread("groups"), GroupsState::default());
        let (entries, entry_bytes) = open_one(spec.entries, thread("entries"), EntriesState::default());
        Self { groups, entries, left_out_bytes: group_bytes + entry_bytes }
    }

    /// Whether the groups may go on.
    ///
    /// # Errors
    /// [`GroupError::JournalCorrupt`] until [`GroupJournals::recover`]; [`GroupError::Stopped`] until the next start.
    pub fn check(&self) -> Result<(), GroupError> {
        let stopped = |name, cause: &str| GroupError::Stopped { cause: format!("the {name} journal: {cause}") };
        for (name, health) in [("group", self.groups.health()), ("entries", self.entries.health())] {
            match health {
                JournalHealth::Well | JournalHealth::Full => {}
                JournalHealth::Stopped { cause } => return Err(stopped(name, &cause)),
                JournalHealth::Damaged { what, first_bad } => {
                    return Err(GroupError::JournalCorrupt { what: what.to_string(), first_bad });
                }
            }
        }
        Ok(())
    }

    /// Why the groups may not go on, in words; cheap while they may.
    pub fn stopped(&self) -> Option<Arc<str>> {
        self.groups.stopped().or_else(|| self.entries.stopped())
    }

    /// Whether the disk is so full that records wait (rule F3): nothing is lost, and nothing new should be begun.
    pub fn is_full(&self) -> bool {
        matches!(self.groups.health(), JournalHealth::Full) || matches!(self.entries.health(), JournalHealth::Full)
    }

    /// Whether so much waits to be written that callers should hold back: deliver less, read less.
    pub fn is_behind(&self) -> bool {
        self.groups.queued_bytes() > QUEUED_BYTES || self.entries.queued_bytes() > QUEUED_BYTES
    }

    /// Everything durable of all groups: where machines begin. Waits for the replay.
    ///
    /// # Errors
    /// As [`GroupJournals::check`].
    pub async fn load(&self) -> Result<LoadedGroups, GroupError> {
        self.check()?;
        let look = |state: &GroupsState| {
            (state.groups().clone(), state.next_group(), state.ended().clone(), state.lost().to_vec())
        };
        let groups = self.groups.read_state(look).await;
        let tables = |state: &EntriesState| {
            let tables: BTreeMap<_, _> = state.tables().iter().map(|(id, replica)| (*id, replica.table())).collect();
            (tables, state.is_to_rebuild())
        };
        let entries = self.entries.read_state(tables).await;
        let (Some((groups, next_group, ended, lost)), Some((mut entries, rebuild))) = (groups, entries) else {
            return Err(GroupError::Stopped { cause: "the journals were closed".into() });
        };
        let with_entries = |(id, state): (GroupId, GroupState)| {
            let table = entries.remove(&id).unwrap_or_default();
            (id, (state, table))
        };
        let groups = groups.into_iter().map(with_entries).collect();
        // What is left belongs to groups that are gone, their end cut short; or to groups that were lost.
        for gone in entries.into_keys().filter(|id| !was_lost(&lost, *id)) {
            self.forget_entries(gone);
        }
        Ok(LoadedGroups { groups, next_group, ended, lost, rebuild })
    }

    /// Queues what a machine decided, in its order; never blocks, to be called under the group's lock. What must be
    /// durable before anything that depends on it goes out.
    pub fn append(&self, group: GroupId, records: &[GroupRecord], entries: &[EntryRecord]) -> Written {
        Written { group: self.append_groups(group, records), entries: self.append_entries(group, entries) }
    }

    /// Queues records of a group.
    pub fn append_groups(&self, group: GroupId, records: &[GroupRecord]) -> JournalSequence {
        if records.is_empty() {
            return JournalSequence::default();
        }
        self.groups.append(encode_all(records, |out, one| record::encode_into(out, group, one)))
    }

    /// Queues records of a group's entries.
    pub fn append_entries(&self, group: GroupId, records: &[EntryRecord]) -> JournalSequence {
        if records.is_empty() {
            return JournalSequence::default();
        }
        self.entries.append(encode_all(records, |out, one| states::encode_entry_into(out, group, one)))
    }

    /// Queues the end of all entries of a group that is gone.
    pub fn forget_entries(&self, group: GroupId) -> JournalSequence {
        self.entries.append([states::encode_gone(group)])
    }

    /// Queues that entries were made anew from their copies: what was appended before this is all of it.
    pub fn rebuilt(&self) -> JournalSequence {
        self.entries.append([states::encode_rebuild(false)])
    }

    /// Entries of a group that is not there: of one that a damaged journal has lost.
    pub async fn entries_of_lost(&self, group: GroupId) -> u64 {
        let count = move |state: &EntriesState| state.tables().get(&group).map_or(0, EntryReplica::open_len);
        self.entries.read_state(count).await.unwrap_or(0) as u64
    }

    /// Waits until both journals are durable that far.
    ///
    /// # Errors
    /// One of them has stopped before.
    pub async fn durable(&self, written: Written) -> Result<(), JournalStopped> {
        self.groups.wait(written.group).await?;
        self.entries.wait(written.entries).await
    }

    /// Whether both journals are durable that far already.
    pub fn is_durable(&self, written: Written) -> bool {
        self.groups.durable() >= written.group && self.entries.durable() >= written.entries
    }

    /// The group journal, for those who wait for it alone.
    pub fn groups(&self) -> &JournalHandle<GroupsState> {
        &self.groups
    }

    /// The entries journal.
    pub fn entries(&self) -> &JournalHandle<EntriesState> {
        &self.entries
    }

    /// What a recovery would mean, or nothing if the journals are well. `high_watermark` answers for partitions that
    /// exist: above the last good floor and below it everything that is not settled may be delivered again.
    ///
    /// # Errors
    /// [`GroupError::Stopped`] if the journals have failed otherwise.
    pub async fn recover_report(
        &self,
        high_watermark: impl Fn(Source) -> Option<Offset> + Send + 'static,
    ) -> Result<RecoverReport, GroupError> {
        let first_bad = match self.check() {
            Ok(()) => return Ok(RecoverReport::default()),
            Err(GroupError::JournalCorrupt { first_bad, .. }) => first_bad,
            Err(error) => return Err(error),
        };
        let damaged = matches!(self.groups.health(), JournalHealth::Damaged { .. });
        let look = move |state: &GroupsState| {
            let report = |state: &GroupState| report_of(state, damaged, &high_watermark);
            state.groups().values().map(report).collect::<Vec<_>>()
        };
        let groups = self.groups.read_state(look).await;
        let groups = groups.ok_or_else(|| GroupError::Stopped { cause: "the journals were closed".into() })?;
        Ok(RecoverReport { groups, first_bad: Some(first_bad), dropped_bytes: self.left_out_bytes })
    }

    /// Goes back to the last good state of what is damaged (rules G6, AK-11): epochs are raised past any that may have
    /// been given, entries stay. Returns what it means. The machines must be made anew from [`GroupJournals::load`].
    ///
    /// # Errors
    /// [`GroupError::Stopped`]: the state could not be written, or the journals have failed otherwise.
    pub async fn recover(
        &self,
        high_watermark: impl Fn(Source) -> Option<Offset> + Send + 'static,
    ) -> Result<RecoverReport, GroupError> {
        let report = self.recover_report(high_watermark).await?;
        let failed = |error: crate::partition::journal::JournalError| GroupError::Stopped { cause: error.to_string() };
        // The entries first: while the groups are damaged, nothing begins.
        if matches!(self.entries.health(), JournalHealth::Damaged { .. }) {
            self.entries.recover(EntriesState::ask_rebuild).await.map_err(failed)?;
        }
        if matches!(self.groups.health(), JournalHealth::Damaged { .. }) {
            let raise = |state: &mut GroupsState| state.raise_epochs(EPOCHS_SKIPPED, GROUPS_SKIPPED);
            self.groups.recover(raise).await.map_err(failed)?.map_err(|cause| GroupError::Stopped { cause })?;
        }
        Ok(report)
    }

    /// Ends of the group journal and of the entries journal for the clean marker, as far as they are well. Blocks.
    pub fn close(&self) -> (Option<Offset>, Option<Offset>) {
        (self.groups.close(), self.entries.close())
    }

    /// Ends the threads and leaves the journals as a crash would. Blocks.
    pub fn abandon(&self) {
        self.groups.abandon();
        self.entries.abandon();
    }
}

/// Records in one piece of memory, before the queue's lock is taken: most are shorter than what a piece of its own costs.
fn encode_all<T>(records: &[T], encode: impl Fn(&mut Vec<u8>, &T)) -> Vec<Bytes> {
    let mut all = Vec::with_capacity(USUAL_BYTES * records.len());
    let mut payloads = Vec::with_capacity(records.len());
    let ends: Vec<usize> = records
        .iter()
        .map(|record| {
            encode(&mut all, record);
            all.len()
        })
        .collect();
    all.shrink_to_fit();
    let mut rest = Bytes::from(all);
    let mut begin = 0;
    for end in ends {
        payloads.push(rest.split_to(end - begin));
        begin = end;
    }
    payloads
}

/// Whether a number may be that of a group which a damaged journal has lost.
pub(super) fn was_lost(lost: &[(u64, u64)], group: GroupId) -> bool {
    lost.iter().any(|(from, to)| (*from..*to).contains(&group.0))
}

/// A journal on its thread, and the bytes of good records behind damage.
fn open_one<S: JournalState>(spec: JournalSpec, thread: JournalThreadSpec, empty: S) -> (JournalHandle<S>, u64) {
    let name = thread.name;
    let opened = catch_unwind(AssertUnwindSafe(|| OpenedJournal::open(spec, empty)));
    let failed = |cause: String| {
        tracing::error!(journal = name, cause, "a journal could not be opened: the groups are stopped");
        (JournalHandle::failed(&cause), 0)
    };
    match opened {
        Ok(Ok(opened)) => {
            let left_out = opened.left_out().iter().map(|payload| payload.len() as u64).sum();
            (opened.start(thread), left_out)
        }
        Ok(Err(error)) => failed(error.to_string()),
        Err(_) => failed("its recovery panicked".to_owned()),
    }
}

fn report_of(state: &GroupState, damaged: bool, high_watermark: &dyn Fn(Source) -> Option<Offset>) -> RecoveredGroup {
    let unsettled = state.partitions.iter().map(|(source, partition)| {
        let (floor, end) = (partition.settled.floor(), high_watermark(*source).unwrap_or(Offset::ZERO));
        let within = crate::model::OffsetRange { from: floor, to: end.max(floor) };
        partition.settled.count_unsettled_in(within)
    });
    let raised = if damaged { EPOCHS_SKIPPED } else { 0 };
    RecoveredGroup {
        id: state.id,
        name: state.name.clone(),
        old_epoch: state.epoch,
        new_epoch: state.epoch + raised,
        // A journal of entries that is damaged lets nothing be delivered again: what has lost its state is open.
        maybe_redelivered: if damaged { unsettled.sum() } else { 0 },
    }
}

#[cfg(test)]
mod tests;
