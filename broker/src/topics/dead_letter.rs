//! Dead-letter topics: each group has one for each of its topics, made at its first entry (rule DL-1).
//!
//! Owns their names (reserved in the metadata log as long as the group has the topic), their making and their end. Who
//! has entries in them, and which, it must not know: [`DeletionGuard`] asks whoever does.
//!
//! Invariants: one such topic for a source topic and a group; it has as many partitions as the source and is always
//! durable; its mark in the metadata log says whose it is, never its name; it ends with its source or its group, in
//! the same record.

use std::fmt::Debug;
use std::sync::Arc;

use super::error::TopicError;
use super::holds::GroupHolds;
use super::metadata::record::{MetadataRecord, StoredReservation};
use super::metadata::state::MetadataState;
use super::settings::{TopicConfig, TopicNotes, Validation};
use super::topic::{NewTopic, Topic};
use super::{Shared, Topics};
use crate::limits;
use crate::model::{AckLevel, GroupId, Offset, PartitionId, TopicName, TopicUuid};
use crate::partition::BoxFuture;

/// Bytes at which a segment of a dead-letter topic is sealed: small, so that what is closed goes soon (rule DL-10).
const DEAD_LETTER_SEGMENT_BYTES: u64 = 16 << 20;

/// Whose dead letters a topic holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLettersOf {
    /// Id of the source topic.
    pub source: TopicUuid,
    /// Name of the source topic.
    pub source_name: TopicName,
    /// Id of the group.
    pub group: GroupId,
    /// Name of the group.
    pub group_name: String,
}

impl DeadLettersOf {
    pub(super) fn name_taken(&self, name: &TopicName) -> TopicError {
        TopicError::DeadLetterNameTaken {
            group: self.group_name.clone(),
            topic: self.source_name.to_string(),
            name: name.to_string(),
        }
    }
}

/// A dead-letter topic to make.
#[derive(Debug, Clone)]
pub struct NewDeadLetterTopic {
    /// The source topic.
    pub source: TopicUuid,
    /// The group.
    pub group: GroupId,
    /// Its name, for the mark.
    pub group_name: String,
    /// The name that the group has reserved.
    pub name: TopicName,
}

/// The name of a group's dead letters for one of its topics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reservation {
    /// The source topic.
    pub source: TopicUuid,
    /// The name.
    pub name: TopicName,
}

/// Knows what would be lost with a topic (rule RE-10), and is told of its end.
pub trait DeletionGuard: Debug + Send + Sync + 'static {
    /// Whether nothing would be lost. Asked in the task of whoever deletes, before the metadata log is.
    ///
    /// # Errors
    /// [`TopicError::OpenEntries`] or [`TopicError::JobConflict`].
    fn may_delete(&self, topic: Arc<Topic>) -> BoxFuture<'_, Result<(), TopicError>>;
    /// A topic is gone, durably; called for its dead-letter topics too. On the thread of the metadata log, as is
    /// [`DeletionGuard::trimmed`]: must neither block nor wait for a change of topics.
    fn deleted(&self, topic: &Topic);
    /// Somebody asks for the log of a partition to begin at `start`; it is about to be raised, perhaps less far at first.
    fn trimmed(&self, topic: &Topic, partition: PartitionId, start: Offset) {
        let _ = (topic, partition, start);
    }
}

impl Topic {
    /// Refuses what clients may not do with dead-letter topics: append, change, trim, delete (rule DL-1).
    ///
    /// # Errors
    /// [`TopicError::ReservedTopic`].
    pub fn check_not_reserved(&self) -> Result<(), TopicError> {
        match self.dead_letters {
            None => Ok(()),
            Some(_) => Err(TopicError::ReservedTopic { name: self.name.to_string() }),
        }
    }

    pub(super) fn holds_dead_letters_of(&self, of: &DeadLettersOf) -> bool {
        self.dead_letters.as_deref().is_some_and(|own| (own.source, own.group) == (of.source, of.group))
    }
}

impl TopicError {
    /// A name that a group has reserved was asked for by somebody else.
    pub(super) fn name_reserved(name: &TopicName) -> Self {
        Self::DeadLetterNameTaken { group: String::new(), topic: String::new(), name: name.to_string() }
    }
}

impl Topics {
    /// Who is asked before a topic is deleted, and told afterwards.
    pub fn set_deletion_guard(&self, guard: Arc<dyn DeletionGuard>) {
        *self.shared.guard.write() = Some(guard);
    }

    /// The topic that holds a group's dead letters of a topic, if it has been made. A look-up in memory.
    pub fn dead_letter_topic(&self, source: TopicUuid, group: GroupId) -> Option<Arc<Topic>> {
        self.shared.map.read().dead_letters.get(&(source, group)).cloned()
    }

    /// Whether any group has had dead letters of a topic.
    pub fn has_dead_letters(&self, source: TopicUuid) -> bool {
        !self.shared.dead_letters_of(source).is_empty()
    }

    /// Makes the topic for a group's dead letters of a topic, or finds it. Also on a low disk.
    ///
    /// # Errors
    /// [`TopicError::NotFound`] without its source, [`TopicError::DeadLetterNameTaken`], [`TopicError::Limit`] beyond
    /// [`limits::DEAD_LETTER_PARTITIONS`], [`TopicError::ReadOnly`], or what the files say.
    pub async fn create_dead_letter_topic(&self, new: NewDeadLetterTopic) -> Result<Arc<Topic>, TopicError> {
        if let Some(topic) = self.dead_letter_topic(new.source, new.group) {
            return Ok(topic);
        }
        let shared = &self.shared;
        shared.check_writable()?;
        let source = self.by_uuid(new.source).ok_or_else(|| gone(new.source))?;
        let of = DeadLettersOf {
            source: new.source,
            source_name: source.name.clone(),
            group: new.group,
            group_name: new.group_name,
        };
        let new = NewTopic { name: new.name, config: config_of(&source), notes: TopicNotes::default() };
        let own = Arc::clone(shared);
        let (topic, _) = shared.to_the_end(async move { own.create(new, Some(Arc::new(of))).await }).await?;
        Ok(topic)
    }

    /// Reserves names for a group's dead letters, all or none, durably: when the group takes topics. A name that the
    /// group has for the same topic already stays; another one takes its place, unless the topic is made already.
    ///
    /// # Errors
    /// [`TopicError::DeadLetterNameTaken`], [`TopicError::NotFound`] if a source is gone, [`TopicError::ReadOnly`].
    pub async fn reserve_dead_letter_names(
        &self,
        group: GroupId,
        group_name: &str,
        names: Vec<Reservation>,
    ) -> Result<(), TopicError> {
        let shared = &self.shared;
        shared.check_writable()?;
        let own = Arc::clone(shared);
        let group_name = group_name.to_owned();
        let change = shared.metadata.change(move |writer| {
            let mut reserved = Vec::new();
            let map = own.map.read();
            for (at, Reservation { source, name }) in names.iter().enumerate() {
                let source = map.by_uuid.get(source).ok_or_else(|| gone(*source))?;
                let taken = || TopicError::DeadLetterNameTaken {
                    group: group_name.clone(),
                    topic: source.name.to_string(),
                    name: name.to_string(),
                };
                let made = map.dead_letters.get(&(source.uuid, group));
                let other = map.by_name.get(name).is_some_and(|topic| made.is_none_or(|made| made.id != topic.id));
                let twice = names[..at].iter().any(|earlier| earlier.name == *name);
                if other || twice || made.is_some_and(|made| made.name != *name) {
                    return Err(taken());
                }
                match writer.state().reserved_for(name.as_str()) {
                    Some(holder) if holder == (source.id, group) => {}
                    Some(_) => return Err(taken()),
                    None => reserved.push(StoredReservation { topic: source.id.0, name: name.to_string() }),
                }
            }
            drop(map);
            if reserved.is_empty() {
                return Ok(());
            }
            writer.commit(vec![MetadataRecord::DeadLetterNames { group: group.0, names: reserved }])
        });
        change.await
    }

    /// The name that a group has reserved for its dead letters of a topic.
    ///
    /// # Errors
    /// The metadata log has ended.
    pub async fn reserved_dead_letter_name(
        &self,
        source: TopicUuid,
        group: GroupId,
    ) -> Result<Option<TopicName>, TopicError> {
        let Some(source) = self.by_uuid(source).map(|topic| topic.id) else { return Ok(None) };
        let look = move |writer: &mut super::metadata::Writer| Ok(writer.state().reserved_name(source, group).cloned());
        self.shared.metadata.change(look).await
    }

    /// Ends a group's dead letters of some topics, or of all: their topics and their names, with one durable record
    /// (rule OF-8). What is not there is no error.
    ///
    /// # Errors
    /// [`TopicError::ReadOnly`], or that the record could not be written.
    pub async fn drop_dead_letters(&self, group: GroupId, sources: Option<Vec<TopicUuid>>) -> Result<(), TopicError> {
        let shared = Arc::clone(&self.shared);
        shared.check_writable()?;
        let own = Arc::clone(&shared);
        let call = async move {
            let inner = Arc::clone(&own);
            let change = own.metadata.change(move |writer| inner.drop_of_group(writer, group, sources.as_deref()));
            own.bury_all(change.await?);
            Ok(())
        };
        shared.to_the_end(call).await
    }

    /// Groups that hold dead-letter topics or names: for the sweep of what a group that is gone has left.
    ///
    /// # Errors
    /// The metadata log has ended.
    pub async fn groups_with_dead_letters(&self) -> Result<std::collections::BTreeSet<GroupId>, TopicError> {
        let mut groups = self.shared.metadata.change(|writer| Ok(writer.state().reserving_groups())).await?;
        groups.extend(self.shared.map.read().dead_letters.keys().map(|(_, group)| *group));
        Ok(groups)
    }
}

impl Shared {
    /// All dead-letter topics of a source.
    pub(super) fn dead_letters_of(&self, source: TopicUuid) -> Vec<Arc<Topic>> {
        let map = self.map.read();
        let range = (source, GroupId(0))..=(source, GroupId(u64::MAX));
        map.dead_letters.range(range).map(|(_, topic)| Arc::clone(topic)).collect()
    }

    /// Whether a dead-letter topic may be made.
    pub(super) fn check_dead_letters(
        &self,
        state: &MetadataState,
        of: &DeadLettersOf,
        new: &NewTopic,
    ) -> Result<(), TopicError> {
        let map = self.map.read();
        let source = map.by_uuid.get(&of.source).ok_or_else(|| gone(of.source))?;
        if map.dead_letters.contains_key(&(of.source, of.group)) {
            // Under another name: there is one for a source and a group.
            return Err(of.name_taken(&new.name));
        }
        if state.reserved_for(new.name.as_str()).is_some_and(|holder| holder != (source.id, of.group)) {
            return Err(of.name_taken(&new.name));
        }
        if state.dead_letter_partition_count() + new.config.partitions as usize > limits::DEAD_LETTER_PARTITIONS {
            let max = limits::DEAD_LETTER_PARTITIONS as u64;
            return Err(TopicError::Limit { limit: "dead_letter_partitions", max });
        }
        Ok(())
    }

    fn drop_of_group(
        &self,
        writer: &mut super::metadata::Writer,
        group: GroupId,
        sources: Option<&[TopicUuid]>,
    ) -> Result<Vec<Arc<Topic>>, TopicError> {
        let (topics, numbers) = {
            let map = self.map.read();
            let wanted = |source: &TopicUuid| sources.is_none_or(|sources| sources.contains(source));
            let own = map.dead_letters.iter().filter(|((source, holder), _)| *holder == group && wanted(source));
            let topics: Vec<Arc<Topic>> = own.map(|(_, topic)| Arc::clone(topic)).collect();
            let numbers: Vec<u64> =
                sources.into_iter().flatten().filter_map(|source| Some(map.by_uuid.get(source)?.id.0)).collect();
            (topics, numbers)
        };
        let mut more = Vec::new();
        // No number would mean all of the group.
        if (sources.is_none() || !numbers.is_empty()) && writer.state().reserving_groups().contains(&group) {
            more.push(MetadataRecord::DeadLetterNamesFreed { group: group.0, topics: numbers });
        }
        self.remove_all(writer, &topics, more)?;
        Ok(topics)
    }
}

/// Settings of the dead-letter topic of a source: as many partitions, always durable, kept until the broker trims it
/// (rule DL-10).
fn config_of(source: &Topic) -> TopicConfig {
    let config = &source.revision().config;
    TopicConfig {
        partitions: config.partitions,
        keyed: config.keyed,
        ack_floor: AckLevel::Durable,
        validation: Validation::Full,
        retention_ms: None,
        retention_bytes: None,
        segment_bytes: DEAD_LETTER_SEGMENT_BYTES,
        segment_ms: config.segment_ms,
        max_record_bytes: limits::RECORD_BYTES_MAX,
        flush_interval_ms: config.flush_interval_ms,
        holds: GroupHolds::default(),
        events: crate::topics::EventSettings::default(),
    }
}

fn gone(source: TopicUuid) -> TopicError {
    TopicError::NotFound { name: source.to_string() }
}
