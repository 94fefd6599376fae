//! Calls of operators: create, look, change, delete; pauses, gaps, breaker. Each is durable once answered, and is
//! finished even if its caller goes away (rule D8).

use std::sync::Arc;

use super::group::Group;
use super::replay_views::ReplayId;
use super::views::{
    AcceptedGap, BreakerView, Caller, DeletedGroup, GroupView, MemberView, NewGroup, UnitState, UnitView, UpdateGroup,
};
use super::{Coordinator, GroupError};
use crate::dead_letter::handle::GroupHandle;
use crate::group::GroupTopic;
use crate::group::effect::Refusal;
use crate::group::event::{Admin, Event};
use crate::group::machine::Machine;
use crate::group::record::{GapReason, Pause};
use crate::group::skips::Skip;
use crate::group::state::GroupState;
use crate::model::{AssignedUnit, GroupId, MemberId, PartitionId, Source, TopicUuid};
use crate::topics::TopicError;

/// Bytes of a note (rule OF-3 and others keep it).
const NOTE_BYTES: usize = 4 << 10;
/// Skips that the view of a group tells.
const SKIPS_TOLD: usize = 10;

impl Coordinator {
    /// Creates a group. A repeat with equal settings answers the one that exists; the flag says whether it is new.
    ///
    /// # Errors
    /// A bad setting, a topic that is not there, a name that is taken, a limit; the groups are stopped.
    pub async fn create(self: &Arc<Self>, new: NewGroup) -> Result<(GroupView, bool), GroupError> {
        let own = Arc::clone(self);
        self.to_the_end(async move { own.create_now(new).await }).await
    }

    /// One group.
    ///
    /// # Errors
    /// [`GroupError::NotFound`], or the groups are not to be had.
    pub fn view(&self, name: &str) -> Result<GroupView, GroupError> {
        self.find(name).map(|group| view_of(&group))
    }

    /// Up to `limit` groups in order of their names, after `after`, with this prefix, that consume `topic` if given.
    ///
    /// # Errors
    /// The groups are not to be had.
    pub fn list(
        &self,
        after: Option<&str>,
        prefix: &str,
        topic: Option<&str>,
        limit: usize,
    ) -> Result<Vec<GroupView>, GroupError> {
        self.shared.check()?;
        let consumes = |group: &Arc<Group>| {
            topic.is_none_or(|name| {
                group.look(|machine| machine.state().topics.values().any(|known| known.name == name))
            })
        };
        let page = self.page(after, prefix);
        Ok(page.iter().filter(|group| consumes(group)).take(limit).map(|group| view_of(group)).collect())
    }

    /// A group for the dead letters.
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub fn handle(&self, name: &str) -> Result<Arc<dyn GroupHandle>, GroupError> {
        let group = self.find(name)?;
        Ok(group)
    }

    /// The same by its number, which ids of entries and jobs begin with.
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub fn handle_of(&self, id: GroupId) -> Result<Arc<dyn GroupHandle>, GroupError> {
        self.shared.check()?;
        let group = self.map.read().by_id.get(&id).cloned();
        Ok(group.ok_or_else(|| GroupError::NotFound { group: format!("{:016x}", id.0) })?)
    }

    /// Changes settings or notes.
    ///
    /// # Errors
    /// [`GroupError::StaleRevision`], [`GroupError::OpenEntries`] and [`GroupError::JobConflict`] without `force`, or
    /// as [`Coordinator::create`].
    pub async fn update(self: &Arc<Self>, update: UpdateGroup) -> Result<GroupView, GroupError> {
        let own = Arc::clone(self);
        self.to_the_end(async move { own.update_now(update).await }).await
    }

    /// Deletes a group with its positions, dead letters and jobs (rule OF-8); only the one of this number, if given.
    ///
    /// # Errors
    /// [`GroupError::OpenEntries`] and [`GroupError::JobConflict`] without `force`.
    pub async fn delete(
        self: &Arc<Self>,
        name: &str,
        force: bool,
        id: Option<GroupId>,
        caller: &Caller,
    ) -> Result<DeletedGroup, GroupError> {
        let (own, name, caller) = (Arc::clone(self), name.to_owned(), caller.clone());
        self.to_the_end(async move { own.delete_now(&name, force, id, &caller).await }).await
    }

    /// Up to `limit` members in order of their ids, after `after`.
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub fn members(&self, name: &str, after: Option<MemberId>, limit: usize) -> Result<Vec<MemberView>, GroupError> {
        let group = self.find(name)?;
        let now = self.shared.now();
        Ok(group.look(|machine| {
            let members = machine.state().members.keys().filter(|member| after.is_none_or(|after| **member > after));
            members.take(limit).map(|member| member_view(machine, *member, now)).collect()
        }))
    }

    /// Pauses a group, or a topic of it (rule OF-6). Answers what holds the group up now.
    ///
    /// # Errors
    /// As [`Coordinator::view`], or a topic that is not the group's.
    pub async fn pause(
        &self,
        name: &str,
        topic: Option<&str>,
        until_ms: Option<i64>,
        caller: &Caller,
    ) -> Result<Vec<Pause>, GroupError> {
        let group = self.find(name)?;
        let topic = topic.map(|topic| topic_of(&group, topic)).transpose()?;
        let act = caller.act(self.shared.clock.wall_ms());
        self.admin(&group, Admin::Pause { topic, until_ms, act }).await?;
        Ok(group.look(|machine| machine.state().pauses.clone()))
    }

    /// Ends a pause made by [`Coordinator::pause`]. Answers what still holds the group up.
    ///
    /// # Errors
    /// As [`Coordinator::pause`].
    pub async fn resume(&self, name: &str, topic: Option<&str>, caller: &Caller) -> Result<Vec<Pause>, GroupError> {
        let group = self.find(name)?;
        let topic = topic.map(|topic| topic_of(&group, topic)).transpose()?;
        self.admin(&group, Admin::Resume { topic, act: caller.act(self.shared.clock.wall_ms()) }).await?;
        Ok(group.look(|machine| machine.state().pauses.clone()))
    }

    /// Goes on past gaps at which the group has stopped (rule RE-4), and past cuts of the log below cursors: these are
    /// passed once their readers are there, and answered again until then (rule RM-1).
    ///
    /// # Errors
    /// The group is not to be had; a topic or partition that is not the group's.
    pub async fn accept_gap(
        &self,
        name: &str,
        topic: Option<&str>,
        partition: Option<PartitionId>,
        caller: &Caller,
    ) -> Result<Vec<AcceptedGap>, GroupError> {
        let group = self.find(name)?;
        let invalid = |field, found: String, bounds: &str| GroupError::Invalid { field, found, bounds: bounds.into() };
        let foreign = |name: &str| invalid("topic", name.to_owned(), "a topic of the group");
        let topic = topic.map(|name| topic_of(&group, name).map_err(|_| foreign(name))).transpose()?;
        if let (Some(topic), Some(partition)) = (topic, partition)
            && !group.look(|machine| machine.state().partitions.contains_key(&Source { topic, partition }))
        {
            return Err(invalid("partition", partition.0.to_string(), "a partition of the group"));
        }
        let waiting: Vec<(Source, AcceptedGap)> = group.look(|machine| {
            let state = machine.state();
            let chosen = |source: &Source| {
                topic.is_none_or(|topic| source.topic == topic)
                    && partition.is_none_or(|partition| source.partition == partition)
            };
            let waiting = state.partitions.iter().filter(|(source, _)| chosen(source));
            let waiting = waiting.filter_map(|(source, partition)| {
                let (range, reason) = machine.partition_live(*source)?.gap?;
                let expired = match reason {
                    // A cursor is the truth on what was applied.
                    GapReason::Truncated => 0,
                    _ => partition.settled.count_unsettled_in(range),
                };
                let topic = state.topics.get(&source.topic)?.name.clone();
                Some((*source, AcceptedGap { topic, partition: source.partition, range, expired, reason }))
            });
            waiting.collect()
        });
        let act = caller.act(self.shared.clock.wall_ms());
        for (source, gap) in &waiting {
            tracing::info!(group = name, topic = gap.topic, partition = gap.partition.0, ?gap.range, "gap accepted");
            self.admin(&group, Admin::AcceptGap { source: Some(*source), act: act.clone() }).await?;
        }
        Ok(waiting.into_iter().map(|(_, gap)| gap).collect())
    }

    /// Forces the breaker open or closed, or leaves it to itself (rule CB-4).
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub async fn set_breaker(
        &self,
        name: &str,
        forced: Option<bool>,
        caller: &Caller,
    ) -> Result<BreakerView, GroupError> {
        let group = self.find(name)?;
        self.admin(&group, Admin::SetBreaker { forced, act: caller.act(self.shared.clock.wall_ms()) }).await?;
        Ok(group.look(Machine::breaker_view))
    }

    /// Puts a member out.
    ///
    /// # Errors
    /// As [`Coordinator::view`].
    pub async fn evict(&self, name: &str, member: MemberId) -> Result<(), GroupError> {
        let group = self.find(name)?;
        self.admin(&group, Admin::Evict { member }).await
    }

    /// Gives a machine a call and waits until what it decided is durable.
    pub(super) async fn admin(&self, group: &Group, call: Admin) -> Result<(), GroupError> {
        let note = match &call {
            Admin::Reset { act, .. } | Admin::Pause { act, .. } | Admin::SetBreaker { act, .. } => act.note.len(),
            _ => 0,
        };
        if note > NOTE_BYTES {
            let (found, bounds) = (format!("{note} bytes"), format!("at most {NOTE_BYTES} bytes"));
            return Err(GroupError::Invalid { field: "note", found, bounds });
        }
        let driven = group.drive_event(Event::Admin(call));
        if driven.stopped {
            return Err(self.shared.refusal(group.name()));
        }
        driven.outcome.unwrap_or(Ok(())).map_err(|refusal| match refusal {
            Refusal::ReplayConflict { number } => {
                GroupError::ReplayConflict { replay: ReplayId { group: group.id(), number } }
            }
            Refusal::ReplayOver { number, state } => {
                GroupError::JobClosed { job: ReplayId { group: group.id(), number }, state }
            }
            refusal => refusal.into(),
        })?;
        self.shared.settle(driven.written).await
    }

    /// Runs a call to its end, whether or not its caller waits (rule D8).
    pub(super) async fn to_the_end<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, GroupError>> + Send + 'static,
    ) -> Result<T, GroupError> {
        match self.shared.tasks.spawn_on(call, &self.shared.runtime).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(GroupError::ShuttingDown),
        }
    }

    /// Deletes groups that had no member for as long as they allow (rule OF-2).
    pub(super) async fn delete_idle(self: &Arc<Self>) {
        let now_ms = self.shared.now().monotonic_ms;
        for group in self.all_groups() {
            let ttl_ms = group.config().idle_ttl_ms;
            if group.idle_for(now_ms) < ttl_ms || ttl_ms == 0 {
                continue;
            }
            let caller = Caller { actor: "broker".into(), note: "no member for longer than idle_ttl".into() };
            let deleted = self.delete(group.name().as_str(), false, Some(group.id()), &caller).await;
            if let Err(error) = deleted {
                tracing::debug!(group = %group.name(), %error, "a group that nobody uses stays");
            }
        }
    }
}

fn topic_of(group: &Group, name: &str) -> Result<TopicUuid, GroupError> {
    let found = group.look(|machine| {
        let topics = &machine.state().topics;
        topics.values().find(|topic| topic.name == name).map(|topic| topic.topic)
    });
    found.ok_or_else(|| TopicError::NotFound { name: name.to_owned() }.into())
}

pub(super) fn view_of(group: &Group) -> GroupView {
    let config = group.config();
    let connected = u32::try_from(group.streams()).unwrap_or(u32::MAX);
    group.look(|machine| {
        let state = machine.state();
        let mut topics: Vec<GroupTopic> = state.topics.values().cloned().collect();
        topics.sort_by(|one, other| one.name.cmp(&other.name));
        GroupView {
            id: state.id,
            name: state.name.clone(),
            revision: state.revision,
            config,
            notes: state.notes.clone(),
            created_ms: state.created_ms,
            epoch: state.epoch,
            members: u32::try_from(state.members.len()).unwrap_or(u32::MAX),
            connected,
            topics,
            pauses: state.pauses.clone(),
            breaker: machine.breaker_view(),
            skips: last_skips(state),
        }
    })
}

/// The newest skips of all partitions, the newest first.
fn last_skips(state: &GroupState) -> Vec<(Source, Skip)> {
    let of_partitions = state.partitions.iter();
    let mut skips: Vec<_> =
        of_partitions.flat_map(|(source, own)| own.skips.reasons().map(|skip| (*source, skip.clone()))).collect();
    skips.sort_by_key(|(source, skip)| (std::cmp::Reverse(skip.act.time_ms), *source));
    skips.truncate(SKIPS_TOLD);
    skips
}

fn member_view(machine: &Machine, member: MemberId, now: crate::group::Now) -> MemberView {
    let state = machine.state();
    let known = &state.members[&member];
    let live = machine.member_live(member).unwrap_or_default();
    let wall = |monotonic_ms: u64| {
        let ahead =
            i64::try_from(monotonic_ms).unwrap_or(i64::MAX) - i64::try_from(now.monotonic_ms).unwrap_or(i64::MAX);
        now.wall_ms.saturating_add(ahead)
    };
    let units = state.owners.iter().flat_map(|(source, runs)| {
        let own = runs.iter().filter(|run| run.member == member);
        own.map(|run| {
            let unit = AssignedUnit { source: *source, slots: run.slots };
            let state_of_unit = if !live.connected {
                UnitState::Reserved
            } else if live.revoking.contains(&unit) {
                UnitState::Revoking
            } else {
                UnitState::Assigned
            };
            let topic = state.topics.get(&source.topic).map(|topic| topic.name.clone()).unwrap_or_default();
            let stalled = machine.stall_of(*source).cloned();
            UnitView { topic, unit, epoch: run.epoch, state: state_of_unit, stalled }
        })
    });
    MemberView {
        member,
        epoch: known.epoch,
        instance: known.instance.clone(),
        client_id: known.client_id.clone(),
        client_version: known.client_version.clone(),
        connected: live.connected,
        joined_ms: known.joined_ms,
        last_seen_ms: wall(live.last_seen_ms),
        lost_at_ms: live.lost_at_ms.map(wall),
        units: units.collect(),
        in_flight: live.in_flight,
        credit_records: live.credit_records,
        credit_bytes: live.credit_bytes,
    }
}
