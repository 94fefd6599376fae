//! Calls of operators: create, look, change, delete; pauses, gaps, breaker. Each is durable once answered, and is
//! finished even if its caller goes away (rule D8).

use std::sync::Arc;

use super::group::Group;
use super::hooks::{group_topic, reservations, subscribes};
use super::positions::places;
use super::views::{
    AcceptedGap, BreakerView, Caller, DeletedGroup, GroupView, MemberView, NewGroup, UnitState, UnitView, UpdateGroup,
};
use super::{Coordinator, GroupError};
use crate::dead_letter::handle::{GroupHandle, Written};
use crate::group::entry::{EntryState, EntryTable};
use crate::group::event::{Admin, Event};
use crate::group::machine::Machine;
use crate::group::record::{GroupNotes, GroupRecord, Pause};
use crate::group::state::GroupState;
use crate::group::{GroupConfig, GroupTopic};
use crate::limits;
use crate::model::{AssignedUnit, GroupId, MemberId, PartitionId, Source, TopicUuid};
use crate::topics::{Topic, TopicError};

/// Bytes of a note (rule OF-3 and others keep it).
const NOTE_BYTES: usize = 4 << 10;

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

    /// Goes on past gaps at which the group has stopped (rule RE-4).
    ///
    /// # Errors
    /// As [`Coordinator::pause`].
    pub async fn accept_gap(
        &self,
        name: &str,
        topic: Option<&str>,
        partition: Option<PartitionId>,
        caller: &Caller,
    ) -> Result<Vec<AcceptedGap>, GroupError> {
        let group = self.find(name)?;
        let topic = topic.map(|topic| topic_of(&group, topic)).transpose()?;
        let waiting: Vec<(Source, AcceptedGap)> = group.look(|machine| {
            let state = machine.state();
            let chosen = |source: &Source| {
                topic.is_none_or(|topic| source.topic == topic)
                    && partition.is_none_or(|partition| source.partition == partition)
            };
            let waiting = state.partitions.iter().filter(|(source, _)| chosen(source));
            let waiting = waiting.filter_map(|(source, partition)| {
                let (range, _) = machine.partition_live(*source)?.gap?;
                let expired = partition.settled.count_unsettled_in(range);
                let topic = state.topics.get(&source.topic)?.name.clone();
                Some((*source, AcceptedGap { topic, partition: source.partition, range, expired }))
            });
            waiting.collect()
        });
        let act = caller.act(self.shared.clock.wall_ms());
        for (source, _) in &waiting {
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
        driven.outcome.unwrap_or(Ok(()))?;
        self.shared.settle(driven.written).await
    }

    /// Runs a call to its end, whether or not its caller waits (rule D8).
    async fn to_the_end<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, GroupError>> + Send + 'static,
    ) -> Result<T, GroupError> {
        match self.shared.tasks.spawn_on(call, &self.shared.runtime).await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(GroupError::ShuttingDown),
        }
    }

    async fn create_now(self: Arc<Self>, mut new: NewGroup) -> Result<(GroupView, bool), GroupError> {
        let _changing = self.changing.lock().await;
        self.shared.check()?;
        new.config.topic_retry = self.retry_by_topic(&new.topic_retry)?;
        new.config.check()?;
        check_subscription(&new.config)?;
        let existing = self.map.read().by_name.get(&new.name).cloned();
        if let Some(existing) = existing {
            same(&existing, &new.config, &new.notes)?;
            return Ok((view_of(&existing), false));
        }
        let id = {
            let map = self.map.read();
            if map.by_id.len() >= limits::GROUPS {
                return Err(GroupError::Limit { limit: "groups", max: limits::GROUPS as u64 });
            }
            GroupId(map.next_group)
        };
        let added = self.topics_of(new.name.as_str(), &new.config)?;
        let targets = self.resolve(&new.start, &places(&added), &new.epochs, true).await?;
        let starts = targets.iter().map(|target| target.start).collect();
        let names = reservations(&added)?;
        // A creation under this number may have been cut short.
        if self.topics.groups_with_dead_letters().await?.contains(&id) {
            self.topics.drop_dead_letters(id, None).await?;
        }
        // The number is taken, whatever comes of it: what it leaves is found by it.
        self.map.write().next_group = id.0 + 1;
        if !names.is_empty() {
            self.topics.reserve_dead_letter_names(id, new.name.as_str(), names).await?;
        }
        let created = GroupRecord::Created {
            name: new.name.clone(),
            config: Box::new(new.config),
            notes: new.notes,
            created_ms: self.shared.clock.wall_ms(),
        };
        let state = GroupState::create(id, &created).expect("the record creates a group");
        let machine = Machine::new(state, EntryTable::default(), self.shared.now());
        let group = Group::new(&self.shared, machine);
        self.shared.journals.append(id, &[created], &[]);
        group.start();
        let driven = group.drive_event(Event::Topics { added, starts, removed: Vec::new() });
        // Behind the creation even if there was no topic to take.
        let marked = self.shared.journals.append(id, &[GroupRecord::Cleared], &[]);
        let written = Written { group: marked.group.max(driven.written.group), ..driven.written };
        self.shared.settle(written).await?;
        self.map.write().insert(&group);
        tracing::info!(group = %group.name(), id = id.0, "group created");
        Ok((view_of(&group), true))
    }

    /// Topics that a subscription names at present.
    fn topics_of(&self, group: &str, config: &GroupConfig) -> Result<Vec<GroupTopic>, GroupError> {
        for name in config.subscription.iter().filter(|name| !name.contains('*')) {
            if self.topics.get(name).is_none() {
                return Err(TopicError::NotFound { name: name.clone() }.into());
            }
        }
        let all = self.topics.all();
        let named: Vec<&Arc<Topic>> = all.iter().filter(|topic| subscribes(&config.subscription, topic)).collect();
        if named.len() > limits::TOPICS_PER_GROUP {
            return Err(GroupError::Limit { limit: "topics_per_group", max: limits::TOPICS_PER_GROUP as u64 });
        }
        Ok(named.into_iter().map(|topic| group_topic(group, config, topic)).collect())
    }

    fn retry_by_topic(
        &self,
        policies: &std::collections::BTreeMap<String, crate::group::retry::RetryPolicy>,
    ) -> Result<std::collections::BTreeMap<TopicUuid, crate::group::retry::RetryPolicy>, GroupError> {
        let of = |(name, policy): (&String, &crate::group::retry::RetryPolicy)| {
            let topic = self.topics.get(name).ok_or_else(|| TopicError::NotFound { name: name.clone() })?;
            Ok((topic.uuid, policy.clone()))
        };
        policies.iter().map(of).collect()
    }

    async fn update_now(self: Arc<Self>, update: UpdateGroup) -> Result<GroupView, GroupError> {
        let _changing = self.changing.lock().await;
        let group = self.find(update.name.as_str())?;
        let (current, config, notes) = group.look(|machine| {
            let state = machine.state();
            (state.revision, state.config.clone(), state.notes.clone())
        });
        if let Some(given) = update.revision.filter(|given| *given != current) {
            return Err(GroupError::StaleRevision { group: update.name.to_string(), given, current });
        }
        let mut new = update.config.unwrap_or_else(|| config.clone());
        new.topic_retry = match &update.topic_retry {
            Some(policies) => self.retry_by_topic(policies)?,
            None => config.topic_retry.clone(),
        };
        if new.mode != config.mode {
            let (found, bounds) = (format!("{:?}", new.mode), format!("{:?}: it is fixed at creation", config.mode));
            return Err(GroupError::Invalid { field: "mode", found, bounds });
        }
        new.check()?;
        check_subscription(&new)?;
        let wanted = self.topics_of(update.name.as_str(), &new)?;
        let known: Vec<GroupTopic> = group.look(|machine| machine.state().topics.values().cloned().collect());
        let gone: Vec<TopicUuid> = known
            .iter()
            .map(|topic| topic.topic)
            .filter(|topic| !wanted.iter().any(|wanted| wanted.topic == *topic))
            .collect();
        if !update.force {
            self.check_losses(&group, |source| gone.contains(&source.topic))?;
        }
        let notes = update.notes.unwrap_or(notes);
        self.admin(&group, Admin::Configure { config: Box::new(new), notes }).await?;
        if !gone.is_empty() {
            let (added, starts) = (Vec::new(), Vec::new());
            let driven = group.drive_event(Event::Topics { added, starts, removed: gone.clone() });
            self.shared.settle(driven.written).await?;
            self.topics.drop_dead_letters(group.id(), Some(gone)).await?;
        }
        self.adjust_topics(&group).await?;
        self.shared.settle(group.written()).await?;
        let actor = &update.caller.actor;
        tracing::info!(group = %group.name(), actor, "group changed");
        Ok(view_of(&group))
    }

    /// Refuses what would lose open entries or running jobs (rules OF-8, RE-10).
    fn check_losses(&self, group: &Arc<Group>, of: impl Fn(&Source) -> bool) -> Result<(), GroupError> {
        let (open, job) = losses(group, of);
        if open > 0 {
            return Err(GroupError::OpenEntries { what: group.name().to_string(), open });
        }
        match job {
            Some(job) => Err(GroupError::JobConflict { job }),
            None => Ok(()),
        }
    }

    async fn delete_now(
        self: Arc<Self>,
        name: &str,
        force: bool,
        id: Option<GroupId>,
        caller: &Caller,
    ) -> Result<DeletedGroup, GroupError> {
        let _changing = self.changing.lock().await;
        let group = self.find(name)?;
        if id.is_some_and(|id| id != group.id()) {
            return Err(GroupError::NotFound { group: name.to_owned() });
        }
        if !force {
            self.check_losses(&group, |_| true)?;
        }
        let (entries_lost, _) = losses(&group, |_| true);
        let as_handle: Arc<dyn GroupHandle> = Arc::clone(&group) as _;
        let jobs_ended = self.shared.dead_letters.get().map_or(0, |letters| letters.running_jobs(&as_handle));
        let topics: Vec<GroupTopic> = group.look(|machine| machine.state().topics.values().cloned().collect());
        let written = group.delete();
        self.map.write().remove(&group);
        self.shared.settle(written).await?;
        if let Some(letters) = self.shared.dead_letters.get() {
            letters.forget(group.id(), topics).await;
        }
        self.topics.drop_dead_letters(group.id(), None).await?;
        self.shared.metrics.forget_group(name);
        tracing::info!(group = name, id = group.id().0, actor = caller.actor, "group deleted");
        Ok(DeletedGroup { id: group.id(), entries_lost, jobs_ended })
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

/// A subscription is a list of names, or one pattern.
fn check_subscription(config: &GroupConfig) -> Result<(), GroupError> {
    let wild = config.subscription.iter().any(|name| name.contains('*'));
    if wild && config.subscription.len() > 1 {
        let (found, bounds) = (config.subscription.join(", "), "names, or one pattern".into());
        return Err(GroupError::Invalid { field: "topics", found, bounds });
    }
    Ok(())
}

/// Whether a group is as asked for.
fn same(existing: &Group, config: &GroupConfig, notes: &GroupNotes) -> Result<(), GroupError> {
    let fields = existing.look(|machine| {
        let state = machine.state();
        let mut fields = differences(&state.config, config);
        fields.extend(differences(&state.notes, notes));
        fields
    });
    if fields.is_empty() { Ok(()) } else { Err(GroupError::Exists { group: existing.name().to_string(), fields }) }
}

/// Names of the fields in which two values differ.
fn differences<T: serde::Serialize>(one: &T, other: &T) -> Vec<String> {
    let fields = |value: &T| match serde_json::to_value(value) {
        Ok(serde_json::Value::Object(fields)) => fields,
        _ => serde_json::Map::new(),
    };
    let (one, other) = (fields(one), fields(other));
    one.into_iter().filter(|(name, value)| other.get(name) != Some(value)).map(|(name, _)| name).collect()
}

/// Open entries of some partitions, and a job that has one.
fn losses(group: &Group, of: impl Fn(&Source) -> bool) -> (u64, Option<u64>) {
    group.look(|machine| {
        let (mut open, mut job) = (0, None);
        for (_, entry) in machine.entries().iter().filter(|(key, _)| of(&key.source)) {
            open += u64::from(matches!(entry.state, EntryState::Open | EntryState::Spilled));
            job = job.or(entry.job);
        }
        (open, job)
    })
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
        }
    })
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
            UnitView { topic, unit, epoch: run.epoch, state: state_of_unit }
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
