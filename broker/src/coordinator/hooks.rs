//! Topics that come and go: groups take in what matches their subscription and let go of what is deleted (rules OF-1,
//! RE-10).

use std::sync::{Arc, Weak};
use std::time::Duration;

use super::group::Group;
use super::rebuild_views::RebuildId;
use super::rebuilds::open_rebuild;
use super::{Coordinator, GroupError};
use crate::dead_letter::handle::GroupHandle;
use crate::group::event::Event;
use crate::group::record::Start;
use crate::group::{GroupConfig, GroupTopic};
use crate::model::{Offset, PartitionId, Source, TopicName, TopicUuid};
use crate::partition::BoxFuture;
use crate::topics::{DeletionGuard, Reservation, Topic, TopicError};

/// Time between two looks for topics that came, went, or groups that nobody uses.
const UPKEEP: Duration = Duration::from_secs(5);

/// Whether a subscription names a topic: by its name, or by a pattern in which `*` stands for any characters.
pub(super) fn subscribes(subscription: &[String], topic: &Topic) -> bool {
    // Dead letters are consumed by their full name, or by a pattern that speaks of them.
    let matches = |pattern: &String| {
        let wild = pattern.contains('*');
        let kind = topic.dead_letters.is_none() || !wild || pattern.ends_with(".dlq");
        kind && if wild { matches(pattern, topic.name.as_str()) } else { pattern == topic.name.as_str() }
    };
    subscription.iter().any(matches)
}

/// Whether a name fits a pattern in which `*` stands for any characters.
pub(super) fn matches(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('*');
    let Some(first) = parts.next() else { return false };
    let Some(mut rest) = name.strip_prefix(first) else { return false };
    let mut parts: Vec<&str> = parts.collect();
    let Some(last) = parts.pop() else { return rest.is_empty() };
    for part in parts {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

/// A topic as a group has it.
pub(super) fn group_topic(group: &str, config: &GroupConfig, topic: &Topic) -> GroupTopic {
    let name = topic.name.to_string();
    let dlq = config.dlq_names.get(&name).cloned().unwrap_or_else(|| format!("{name}.{group}.dlq"));
    let partitions = u32::try_from(topic.partitions().len()).expect("a topic has at most 1,024 partitions");
    GroupTopic { topic: topic.uuid, name, partitions, dlq, is_dlq: topic.dead_letters.is_some() }
}

/// Names to reserve for topics that a group takes. A group that consumes dead letters has none of its own (rule DL-11).
pub(super) fn reservations(topics: &[GroupTopic]) -> Result<Vec<Reservation>, GroupError> {
    let own = topics.iter().filter(|topic| !topic.is_dlq);
    own.map(|topic| {
        let name = TopicName::parse_dead_letter(&topic.dlq);
        let invalid = |rule| GroupError::InvalidName { field: "dead_letters.names", name: topic.dlq.clone(), rule };
        Ok(Reservation { source: topic.topic, name: name.map_err(invalid)? })
    })
    .collect()
}

impl Coordinator {
    /// Brings the topics of a group to what its subscription names now: new ones begin at 0, deleted ones go.
    pub(super) async fn adjust_topics(&self, group: &Arc<Group>) -> Result<(), GroupError> {
        let config = group.config();
        let known: Vec<GroupTopic> = group.look(|machine| machine.state().topics.values().cloned().collect());
        let removed: Vec<TopicUuid> =
            known.iter().map(|topic| topic.topic).filter(|topic| self.topics.by_uuid(*topic).is_none()).collect();
        let is_new = |topic: &Arc<Topic>| !known.iter().any(|known| known.topic == topic.uuid);
        let all = self.topics.all();
        let added = all.iter().filter(|topic| subscribes(&config.subscription, topic) && is_new(topic));
        let room = crate::limits::TOPICS_PER_GROUP.saturating_sub(known.len() - removed.len());
        let added: Vec<GroupTopic> =
            added.take(room).map(|topic| group_topic(group.letters_name().as_str(), &config, topic)).collect();
        if added.is_empty() && removed.is_empty() {
            return Ok(());
        }
        let names = reservations(&added)?;
        if !names.is_empty() && !group.is_shadow() {
            self.topics.reserve_dead_letter_names(group.id(), group.name().as_str(), names).await?;
        }
        let starts = self.starts_at_zero(&added);
        group.drive_event(Event::Topics { added, starts, removed });
        Ok(())
    }

    fn starts_at_zero(&self, added: &[GroupTopic]) -> Vec<Start> {
        let mut starts = Vec::new();
        for topic in added {
            for partition in 0..topic.partitions {
                let source = Source { topic: topic.topic, partition: PartitionId(partition) };
                let Some(log) = self.shared.logs.log(source) else { continue };
                starts.push(Start { source, offset: Offset::ZERO, epoch: log.epoch() });
            }
        }
        starts
    }

    /// Looks now and then for topics that came without being told, for records that retention comes near (rule RE-3),
    /// and for groups that nobody uses (rule OF-2).
    pub(super) async fn run_upkeep(self: Arc<Self>) {
        let mut seen: Option<Vec<TopicUuid>> = None;
        loop {
            tokio::select! {
                () = self.shared.cancel.cancelled() => return,
                () = self.topics.created().notified() => {}
                () = self.shared.replays.notified() => {}
                () = tokio::time::sleep(UPKEEP) => {}
            }
            if self.shared.check().is_err() {
                continue;
            }
            let topics: Vec<TopicUuid> = self.topics.all().iter().map(|topic| topic.uuid).collect();
            if seen.as_ref() != Some(&topics) {
                let _changing = self.changing.lock().await;
                for group in self.all_groups() {
                    if let Err(error) = self.adjust_topics(&group).await {
                        tracing::warn!(group = %group.name(), %error, "topics of a group could not be brought up to date");
                    }
                }
                seen = Some(topics);
            }
            self.look_for_losses().await;
            self.delete_idle().await;
            self.delete_replayed().await;
            self.delete_unbegun().await;
        }
    }
}

/// What topics ask before they are deleted, and tell afterwards.
#[derive(Debug)]
pub(super) struct Guard(pub(super) Weak<Coordinator>);

impl DeletionGuard for Guard {
    fn may_delete(&self, topic: Arc<Topic>) -> BoxFuture<'_, Result<(), TopicError>> {
        Box::pin(async move {
            match self.0.upgrade() {
                Some(coordinator) => coordinator.may_delete(&topic).await,
                None => Ok(()),
            }
        })
    }

    fn deleted(&self, topic: &Topic) {
        if let Some(coordinator) = self.0.upgrade() {
            coordinator.topic_deleted(topic);
        }
    }

    fn trimmed(&self, topic: &Topic, partition: PartitionId, start: Offset) {
        if let Some(coordinator) = self.0.upgrade() {
            coordinator.shared.trims.lock().insert(Source { topic: topic.uuid, partition }, start);
        }
    }
}

impl Coordinator {
    /// Whether no open entry and no job would be lost with a topic (rule RE-10); from counters, whatever their number.
    async fn may_delete(&self, topic: &Topic) -> Result<(), TopicError> {
        let name = topic.name.to_string();
        if let Err(error) = self.shared.check() {
            // What was never copied is no dead letter of anybody.
            return match self.topics.has_dead_letters(topic.uuid) {
                false => Ok(()),
                true => {
                    let recovering = matches!(error, GroupError::Recovering);
                    Err(TopicError::GroupsUnknown { name, cause: error.to_string(), recovering })
                }
            };
        }
        let job = match self.shared.dead_letters.get() {
            Some(letters) => letters.job_on(topic.uuid).await,
            None => None,
        };
        let groups = self.all_groups();
        let replay = groups.iter().find_map(|group| group.reads_again(|source| source.topic == topic.uuid));
        let rebuild = groups.iter().find_map(|group| {
            let rebuild = open_rebuild(group).filter(|_| GroupHandle::topic(&**group, topic.uuid).is_some())?;
            Some(RebuildId { group: group.id(), number: rebuild.number })
        });
        let job = job.map(|job| job.to_string()).or(replay.map(|replay| replay.to_string()));
        let job = job.or(rebuild.map(|rebuild| rebuild.to_string()));
        let open = groups.iter().map(|group| group.look(|machine| machine.entries().not_closed_of(topic.uuid))).sum();
        match (job, open) {
            (Some(job), open) => Err(TopicError::JobConflict { name, job, open }),
            (None, 0) => Ok(()),
            (None, open) => Err(TopicError::OpenEntries { name, open }),
        }
    }

    fn topic_deleted(self: &Arc<Self>, topic: &Topic) {
        let removed = vec![topic.uuid];
        for group in self.all_groups() {
            let Some(gone) = GroupHandle::topic(&*group, topic.uuid) else { continue };
            let (added, starts) = (Vec::new(), Vec::new());
            group.drive_event(Event::Topics { added, starts, removed: removed.clone() });
            // Jobs lose what is of it: not here, where nothing may wait for a change of topics.
            let own = Arc::clone(self);
            self.shared.tasks.spawn_on(
                async move {
                    if let Some(letters) = own.shared.dead_letters.get() {
                        letters.forget(group.id(), vec![gone]).await;
                    }
                },
                &self.shared.runtime,
            );
        }
        self.shared.trims.lock().retain(|source, _| source.topic != topic.uuid);
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn gm_2_a_star_stands_for_any_characters() {
        for (pattern, name, fits) in [
            ("orders*", "orders", true),
            ("orders*", "orders.eu", true),
            ("orders*", "order", false),
            ("*.dlq", "orders.billing.dlq", true),
            ("*.dlq", "orders", false),
            ("a*b*c", "a-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("ab*ba", "aba", false),
            ("*", "anything", true),
            ("exact", "exact", true),
            ("exact", "exactly", false),
        ] {
            assert_eq!(matches(pattern, name), fits, "{pattern} {name}");
        }
    }
}
