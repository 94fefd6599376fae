//! Creating, changing and deleting groups: what each looks at, in which order it becomes durable.
//!
//! Invariants: one change at a time; a group is found only once its creation is durable, and not any more once its
//! deletion has begun; names of dead letters are reserved before the group that uses them.

use std::sync::Arc;

use super::admin::view_of;
use super::group::Group;
use super::hooks::{group_topic, reservations, subscribes};
use super::positions::places;
use super::rebuild_views::RebuildId;
use super::rebuilds::open_rebuild;
use super::replay_views::ReplayGroup;
use super::views::{Caller, DeletedGroup, GroupView, NewGroup, UpdateGroup};
use super::{Coordinator, GroupError};
use crate::dead_letter::handle::GroupHandle;
use crate::dead_letter::headers::reason_names;
use crate::group::entry::EntryTable;
use crate::group::event::{Admin, Event};
use crate::group::machine::Machine;
use crate::group::record::{GroupNotes, GroupRecord};
use crate::group::state::GroupState;
use crate::group::{GroupConfig, GroupTopic, StartAt};
use crate::limits;
use crate::model::{GroupId, TopicUuid};
use crate::topics::{Topic, TopicError};

impl Coordinator {
    pub(super) async fn create_now(self: Arc<Self>, mut new: NewGroup) -> Result<(GroupView, bool), GroupError> {
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
        let group = self.create_locked(new).await?;
        Ok((view_of(&group), true))
    }

    /// Creates a group whose name is free and whose settings were checked, while no other change is under way.
    pub(super) async fn create_locked(&self, new: NewGroup) -> Result<Arc<Group>, GroupError> {
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
            topics: added,
            starts,
        };
        let state = GroupState::create(id, &created).expect("the record creates a group");
        let machine = Machine::new(state, EntryTable::default(), self.shared.now());
        let group = Group::new(&self.shared, machine);
        // One record: there is no moment at which the group is there and begins elsewhere (rule OF-1).
        let written = self.shared.journals.append(id, &[created], &[]);
        group.start();
        self.shared.settle(written).await?;
        self.map.write().insert(&group);
        tracing::info!(group = %group.name(), id = id.0, "group created");
        Ok(group)
    }

    /// A group to make for a replay, checked, with the topics that it will have.
    pub(super) fn replay_group(&self, new: ReplayGroup) -> Result<(NewGroup, Vec<GroupTopic>), GroupError> {
        let ReplayGroup { name, mut config, topic_retry } = new;
        let name = name.expect("a name was found");
        config.topic_retry = self.retry_by_topic(&topic_retry)?;
        config.replay_only = true;
        config.check()?;
        check_subscription(&config)?;
        if self.map.read().by_name.contains_key(&name) {
            return Err(GroupError::Exists { group: name.to_string(), fields: vec!["target".into()] });
        }
        let topics = self.topics_of(name.as_str(), &config)?;
        let (start, epochs, notes) = (StartAt::Earliest, Vec::new(), GroupNotes::default());
        Ok((NewGroup { name, config, start, epochs, topic_retry, notes }, topics))
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

    pub(super) async fn update_now(self: Arc<Self>, update: UpdateGroup) -> Result<GroupView, GroupError> {
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
            self.check_losses(&group, Some(&gone)).await?;
        }
        let notes = update.notes.unwrap_or(notes);
        self.admin(&group, Admin::Configure { config: Box::new(new), notes }).await?;
        if !gone.is_empty() {
            let (added, starts) = (Vec::new(), Vec::new());
            let driven = group.drive_event(Event::Topics { added, starts, removed: gone.clone() });
            self.shared.settle(driven.written).await?;
            if let Some(letters) = self.shared.dead_letters.get() {
                let topics = known.into_iter().filter(|topic| gone.contains(&topic.topic)).collect();
                letters.forget(group.id(), topics).await;
            }
            self.topics.drop_dead_letters(group.id(), Some(gone)).await?;
        }
        self.adjust_topics(&group).await?;
        self.shared.settle(group.written()).await?;
        let actor = &update.caller.actor;
        tracing::info!(group = %group.name(), actor, "group changed");
        Ok(view_of(&group))
    }

    /// Refuses what would lose open entries or jobs (rule OF-8): of these topics, or of all. Says what would be lost.
    async fn check_losses(&self, group: &Arc<Group>, topics: Option<&[TopicUuid]>) -> Result<(), GroupError> {
        let reads = |source: &crate::model::Source| topics.is_none_or(|topics| topics.contains(&source.topic));
        if let Some(replay) = group.reads_again(reads) {
            return Err(GroupError::ReplayConflict { replay });
        }
        if let Some(rebuild) = open_rebuild(group).filter(|_| topics.is_none()) {
            return Err(GroupError::RebuildConflict {
                rebuild: RebuildId { group: group.id(), number: rebuild.number },
            });
        }
        let job = match self.shared.dead_letters.get() {
            Some(letters) => letters.job_of(group.id(), topics.map(<[_]>::to_vec)).await,
            None => None,
        };
        let open = open_entries(group, topics);
        match (job, open) {
            (Some(job), open) => Err(GroupError::JobConflict { what: group.name().to_string(), job, open }),
            (None, 0) => Ok(()),
            (None, open) => Err(GroupError::OpenEntries { what: group.name().to_string(), open }),
        }
    }

    pub(super) async fn delete_now(
        self: Arc<Self>,
        name: &str,
        force: bool,
        id: Option<GroupId>,
        caller: &Caller,
    ) -> Result<DeletedGroup, GroupError> {
        let _changing = self.changing.lock().await;
        let group = match self.find(name) {
            Err(GroupError::NotFound { .. }) => return self.delete_lost(name, force, id).await,
            found => found?,
        };
        if id.is_some_and(|id| id != group.id()) {
            return Err(GroupError::NotFound { group: name.to_owned() });
        }
        if group.is_shadow() {
            let bounds = "a group; a rebuild is given up by AbortRebuild".to_owned();
            return Err(GroupError::Invalid { field: "name", found: name.to_owned(), bounds });
        }
        if !force {
            self.check_losses(&group, None).await?;
        }
        let entries_lost = open_entries(&group, None);
        let as_handle: Arc<dyn GroupHandle> = Arc::clone(&group) as _;
        let mut jobs_ended = self.shared.dead_letters.get().map_or(0, |letters| letters.running_jobs(&as_handle));
        let topics: Vec<GroupTopic> = group.look(|machine| machine.state().topics.values().cloned().collect());
        if let Some(open) = group.reads_again(|_| true) {
            jobs_ended += 1;
            // It ends with its group; what it was is remembered.
            drop(group.drive_event(Event::Admin(Admin::CancelReplay { number: open.number })));
        }
        // Its shadow goes at the next look, for its group is gone.
        jobs_ended += u32::from(open_rebuild(&group).is_some());
        self.remember_replays(&group);
        let written = group.delete();
        self.map.write().remove(&group);
        self.shared.settle(written).await?;
        if let Some(letters) = self.shared.dead_letters.get() {
            letters.forget(group.id(), topics).await;
        }
        self.topics.drop_dead_letters(group.id(), None).await?;
        self.shared.metrics.forget_group(name);
        self.shared.metrics.dead_letters.forget(name, reason_names());
        self.shared.rebuilds.notify_one();
        tracing::info!(group = name, id = group.id().0, actor = caller.actor, "group deleted");
        Ok(DeletedGroup { id: group.id(), entries_lost, jobs_ended })
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

/// Entries of some topics, or of all, that are not closed.
fn open_entries(group: &Group, topics: Option<&[TopicUuid]>) -> u64 {
    group.look(|machine| match topics {
        None => machine.entries().open_len() as u64,
        Some(topics) => topics.iter().map(|topic| machine.entries().not_closed_of(*topic)).sum(),
    })
}
