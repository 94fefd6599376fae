//! The state that the records of the metadata log give: pure, [`MetadataState::apply`] alone changes it.
//!
//! Invariants: a name leads to one live topic; a reserved name is no other topic's; topic numbers, producer ids and epochs are never given twice, across
//! deletions too; a log start and the epoch never fall; what a topic owned goes with its number.

mod stored;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use stored::topic_records;

pub use stored::stored_topic;

use super::record::{
    MetadataRecord, StoredBound, StoredDeadLetters, StoredReservation, StoredRevision, StoredTopic, parse_uuid,
};
use crate::model::{GroupId, Offset, OffsetRange, PartitionEpoch, TopicId, TopicName, TopicUuid};
use crate::partition::Truncation;
use crate::topics::dead_letter::DeadLettersOf;
use crate::topics::settings::TopicRevision;

/// What the metadata log knows of a partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PartitionMetadata {
    /// First offset kept (rule D9).
    pub log_start: Offset,
    /// The greatest log start that somebody asked for (rules RE-4, RE-9); 0: none.
    pub trimmed: Offset,
    /// Ranges lost to damage, in order, apart from each other.
    pub quarantined: Vec<OffsetRange>,
    /// The last cut of its end.
    pub last_truncation: Option<Truncation>,
}

/// What the metadata log knows of a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicMetadata {
    /// Its number.
    pub id: TopicId,
    /// Its UUID.
    pub uuid: TopicUuid,
    /// Its name.
    pub name: TopicName,
    /// Version of the function from key to partition.
    pub hash_version: u32,
    /// Version of the function from key to slot.
    pub slot_hash_version: u32,
    /// When it was created, milliseconds since 1970.
    pub created_ms: i64,
    /// Settings and notes.
    pub revision: Arc<TopicRevision>,
    /// Its partitions.
    pub partitions: Vec<PartitionMetadata>,
    /// Whose dead letters it holds, if any (rule DL-1).
    pub dead_letters: Option<Arc<DeadLettersOf>>,
}

/// A named producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProducerMetadata {
    /// Its id.
    pub id: i64,
    /// Its epoch.
    pub epoch: i16,
    /// When it was registered last, milliseconds since 1970.
    pub time_ms: i64,
}

/// A record that does not fit the state: the log is damaged, or of another program.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what}")]
pub struct ApplyError {
    /// What does not fit.
    pub what: String,
}

/// Everything that the metadata log says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MetadataState {
    epoch: PartitionEpoch,
    next_topic: u64,
    next_producer: i64,
    topics: BTreeMap<TopicId, TopicMetadata>,
    names: HashMap<TopicName, TopicId>,
    removing: BTreeSet<TopicId>,
    producers: HashMap<String, ProducerMetadata>,
    /// Names reserved for dead-letter topics: of which source topic, for which group (rule DL-1).
    reserved: HashMap<TopicName, (TopicId, GroupId)>,
    /// The same from the other side.
    reserved_by: BTreeMap<(GroupId, TopicId), TopicName>,
    counts: Counts,
}

/// How many there are; dead-letter topics are outside the limits on topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Counts {
    topics: usize,
    partitions: usize,
    dead_letter_partitions: usize,
}

impl Counts {
    fn add(&mut self, topic: &TopicMetadata) {
        if topic.dead_letters.is_some() {
            self.dead_letter_partitions += topic.partitions.len();
        } else {
            self.topics += 1;
            self.partitions += topic.partitions.len();
        }
    }

    fn take(&mut self, topic: &TopicMetadata) {
        if topic.dead_letters.is_some() {
            self.dead_letter_partitions -= topic.partitions.len();
        } else {
            self.topics -= 1;
            self.partitions -= topic.partitions.len();
        }
    }
}

impl Default for MetadataState {
    fn default() -> Self {
        Self {
            epoch: PartitionEpoch::ZERO,
            // 0 is the metadata log's own.
            next_topic: 1,
            next_producer: 1,
            topics: BTreeMap::new(),
            names: HashMap::new(),
            removing: BTreeSet::new(),
            producers: HashMap::new(),
            reserved: HashMap::new(),
            reserved_by: BTreeMap::new(),
            counts: Counts::default(),
        }
    }
}

impl MetadataState {
    /// The greatest epoch given (rule D3).
    pub fn epoch(&self) -> PartitionEpoch {
        self.epoch
    }

    /// The next free topic number.
    pub fn next_topic(&self) -> TopicId {
        TopicId(self.next_topic)
    }

    /// The next free producer id.
    pub fn next_producer(&self) -> i64 {
        self.next_producer
    }

    /// All topics in order of their numbers.
    pub fn topics(&self) -> impl Iterator<Item = &TopicMetadata> {
        self.topics.values()
    }

    /// A topic by its number.
    pub fn topic(&self, id: TopicId) -> Option<&TopicMetadata> {
        self.topics.get(&id)
    }

    /// A topic by its name.
    pub fn topic_named(&self, name: &str) -> Option<&TopicMetadata> {
        self.topics.get(self.names.get(name)?)
    }

    /// Number of topics, dead-letter topics left out.
    pub fn topic_count(&self) -> usize {
        self.counts.topics
    }

    /// Number of partitions of all topics, dead-letter topics left out.
    pub fn partition_count(&self) -> usize {
        self.counts.partitions
    }

    /// Number of partitions of all dead-letter topics.
    pub fn dead_letter_partition_count(&self) -> usize {
        self.counts.dead_letter_partitions
    }

    /// For which source topic and group a name is reserved, if it is (rule DL-1).
    pub fn reserved_for(&self, name: &str) -> Option<(TopicId, GroupId)> {
        self.reserved.get(name).copied()
    }

    /// The name that a group has reserved for the dead letters of a topic.
    pub fn reserved_name(&self, source: TopicId, group: GroupId) -> Option<&TopicName> {
        self.reserved_by.get(&(group, source))
    }

    /// Groups that have reserved names.
    pub fn reserving_groups(&self) -> BTreeSet<GroupId> {
        self.reserved_by.keys().map(|(group, _)| *group).collect()
    }

    /// Deleted topics whose files may still be there.
    pub fn removing(&self) -> impl Iterator<Item = TopicId> + '_ {
        self.removing.iter().copied()
    }

    /// A named producer.
    pub fn producer(&self, name: &str) -> Option<ProducerMetadata> {
        self.producers.get(name).copied()
    }

    /// Number of named producers.
    pub fn producer_count(&self) -> usize {
        self.producers.len()
    }

    /// All named producers, in no order.
    pub fn producers(&self) -> impl Iterator<Item = (&str, ProducerMetadata)> {
        self.producers.iter().map(|(name, producer)| (name.as_str(), *producer))
    }

    /// Applies one record.
    ///
    /// # Errors
    /// [`ApplyError`]: the record does not fit; the state is unchanged.
    pub fn apply(&mut self, record: &MetadataRecord) -> Result<(), ApplyError> {
        match record {
            MetadataRecord::TopicCreated(stored) => self.create(stored),
            MetadataRecord::TopicUpdated { topic, revision } => self.update(TopicId(*topic), revision),
            MetadataRecord::TopicDeleted { topic } => self.delete(TopicId(*topic)),
            MetadataRecord::TopicFilesRemoved { topic } => {
                self.removing.remove(&TopicId(*topic));
                Ok(())
            }
            MetadataRecord::LogStarts { starts } => self.raise_starts(starts),
            MetadataRecord::Trimmed { asked } => self.note_trims(asked),
            MetadataRecord::Epoch { epoch } => {
                let epoch = PartitionEpoch::new(*epoch).ok_or_else(|| misfit("an epoch above the greatest"))?;
                self.epoch = self.epoch.max(epoch);
                Ok(())
            }
            MetadataRecord::Quarantined { topic, partition, from, to } => {
                let range = OffsetRange { from: offset(*from)?, to: offset(*to)? };
                add_range(&mut self.partition_mut(*topic, *partition)?.quarantined, range);
                Ok(())
            }
            MetadataRecord::Truncated { topic, partition, offset: at, epoch, bytes, time_ms } => {
                let epoch = PartitionEpoch::new(*epoch).ok_or_else(|| misfit("an epoch above the greatest"))?;
                let cut = Truncation { offset: offset(*at)?, epoch, bytes: *bytes, time_ms: *time_ms };
                let partition = self.partition_mut(*topic, *partition)?;
                partition.last_truncation = Some(cut);
                // What comes to lie above the cut is not what was to go.
                partition.trimmed = partition.trimmed.min(cut.offset);
                Ok(())
            }
            MetadataRecord::ProducerNamed { name, id, epoch, time_ms } => {
                let producer = ProducerMetadata { id: *id, epoch: *epoch, time_ms: *time_ms };
                self.producers.insert(name.clone(), producer);
                self.next_producer = self.next_producer.max(id.saturating_add(1));
                Ok(())
            }
            MetadataRecord::ProducerForgotten { name } => {
                self.producers.remove(name);
                Ok(())
            }
            MetadataRecord::ProducerIds { next } => {
                self.next_producer = self.next_producer.max(*next);
                Ok(())
            }
            MetadataRecord::TopicIds { next } => {
                self.next_topic = self.next_topic.max(*next);
                Ok(())
            }
            MetadataRecord::DeadLetterNames { group, names } => self.reserve(GroupId(*group), names),
            MetadataRecord::DeadLetterNamesFreed { group, topics } => {
                let group = GroupId(*group);
                let of_group = self.reserved_by.range((group, TopicId(0))..=(group, TopicId(u64::MAX)));
                let freed = of_group.map(|(holder, _)| *holder);
                let freed: Vec<_> = freed.filter(|(_, id)| topics.is_empty() || topics.contains(&id.0)).collect();
                freed.into_iter().for_each(|holder| self.free_name(holder));
                Ok(())
            }
        }
    }

    /// Records that, applied to nothing, give this state.
    pub fn to_records(&self) -> impl Iterator<Item = MetadataRecord> + '_ {
        let counters = [
            MetadataRecord::Epoch { epoch: self.epoch.get() },
            MetadataRecord::TopicIds { next: self.next_topic },
            MetadataRecord::ProducerIds { next: self.next_producer },
        ];
        let topics = self.topics.values().flat_map(topic_records);
        // A deleted topic has nothing left but its number.
        let removing = self.removing.iter().map(|topic| MetadataRecord::TopicDeleted { topic: topic.0 });
        let mut names: Vec<_> = self.producers.iter().collect();
        names.sort_by_key(|(name, _)| name.as_str());
        let producers = names.into_iter().map(|(name, producer)| MetadataRecord::ProducerNamed {
            name: name.clone(),
            id: producer.id,
            epoch: producer.epoch,
            time_ms: producer.time_ms,
        });
        let mut reserved: BTreeMap<GroupId, Vec<StoredReservation>> = BTreeMap::new();
        for ((group, topic), name) in &self.reserved_by {
            let stored = StoredReservation { topic: topic.0, name: name.as_str().to_owned() };
            reserved.entry(*group).or_default().push(stored);
        }
        let reserved = reserved.into_iter();
        let reserved = reserved.map(|(group, names)| MetadataRecord::DeadLetterNames { group: group.0, names });
        counters.into_iter().chain(topics).chain(removing).chain(producers).chain(reserved)
    }

    fn reserve(&mut self, group: GroupId, names: &[StoredReservation]) -> Result<(), ApplyError> {
        // All are checked first, so that the state is unchanged by a record that does not fit.
        let mut parsed = Vec::with_capacity(names.len());
        for reservation in names {
            let source = TopicId(reservation.topic);
            if !self.topics.contains_key(&source) {
                return Err(unknown_topic(source));
            }
            let name = TopicName::parse_dead_letter(&reservation.name)
                .map_err(|rule| misfit(format_args!("a bad name for dead letters: {rule}")))?;
            if self.reserved.get(&name).is_some_and(|holder| *holder != (source, group)) {
                return Err(misfit(format_args!("the name {name} is reserved twice")));
            }
            parsed.push((name, source));
        }
        for (name, source) in parsed {
            self.free_name((group, source));
            self.reserved.insert(name.clone(), (source, group));
            self.reserved_by.insert((group, source), name);
        }
        Ok(())
    }

    fn free_name(&mut self, holder: (GroupId, TopicId)) {
        if let Some(name) = self.reserved_by.remove(&holder) {
            self.reserved.remove(&name);
        }
    }

    fn create(&mut self, stored: &StoredTopic) -> Result<(), ApplyError> {
        let id = TopicId(stored.topic);
        if self.topics.contains_key(&id) || self.removing.contains(&id) {
            return Err(misfit(format_args!("topic number {id} is given twice")));
        }
        let parse = if stored.dead_letters.is_some() { TopicName::parse_dead_letter } else { TopicName::parse };
        let name =
            parse(&stored.name).map_err(|rule| misfit(format_args!("topic number {id} has a bad name: {rule}")))?;
        if self.names.contains_key(&name) {
            return Err(misfit(format_args!("two topics of the name {name}")));
        }
        let uuid = parse_uuid(&stored.uuid).ok_or_else(|| misfit(format_args!("topic {name} has a bad uuid")))?;
        let revision = checked_revision(&name, &stored.revision)?;
        let partitions = vec![PartitionMetadata::default(); revision.config.partitions as usize];
        let dead_letters = stored.dead_letters.as_ref().map(|mark| mark_of(&name, mark)).transpose()?;
        self.next_topic = self.next_topic.max(stored.topic.saturating_add(1));
        self.names.insert(name.clone(), id);
        let topic = TopicMetadata {
            id,
            uuid,
            name,
            hash_version: stored.hash_version,
            slot_hash_version: stored.slot_hash_version,
            created_ms: stored.created_ms,
            revision,
            partitions,
            dead_letters,
        };
        self.counts.add(&topic);
        self.topics.insert(id, topic);
        Ok(())
    }

    fn update(&mut self, id: TopicId, stored: &StoredRevision) -> Result<(), ApplyError> {
        let topic = self.topics.get_mut(&id).ok_or_else(|| unknown_topic(id))?;
        let revision = checked_revision(&topic.name, stored)?;
        if revision.revision <= topic.revision.revision {
            return Err(misfit(format_args!("the revision of topic {} falls", topic.name)));
        }
        if revision.config.partitions as usize != topic.partitions.len() {
            return Err(misfit(format_args!("the number of partitions of topic {} changes", topic.name)));
        }
        topic.revision = revision;
        Ok(())
    }

    fn delete(&mut self, id: TopicId) -> Result<(), ApplyError> {
        if let Some(topic) = self.topics.remove(&id) {
            self.names.remove(&topic.name);
            self.counts.take(&topic);
            let of_topic = self.reserved_by.keys().filter(|(_, source)| *source == id);
            let of_topic: Vec<_> = of_topic.copied().collect();
            of_topic.into_iter().for_each(|holder| self.free_name(holder));
        } else if id.0 >= self.next_topic {
            return Err(unknown_topic(id));
        }
        self.removing.insert(id);
        Ok(())
    }

    fn note_trims(&mut self, asked: &[StoredBound]) -> Result<(), ApplyError> {
        self.check_bounds(asked)?;
        for bound in asked {
            let start = offset(bound.offset)?;
            let partition = self.partition_mut(bound.topic, bound.partition)?;
            partition.trimmed = partition.trimmed.max(start);
        }
        Ok(())
    }

    /// All are checked first, so that the state is unchanged by a record that does not fit.
    fn check_bounds(&mut self, bounds: &[StoredBound]) -> Result<(), ApplyError> {
        for bound in bounds {
            offset(bound.offset)?;
            self.partition_mut(bound.topic, bound.partition)?;
        }
        Ok(())
    }

    fn raise_starts(&mut self, starts: &[StoredBound]) -> Result<(), ApplyError> {
        self.check_bounds(starts)?;
        for bound in starts {
            let start = offset(bound.offset)?;
            let partition = self.partition_mut(bound.topic, bound.partition)?;
            partition.log_start = partition.log_start.max(start);
            partition.quarantined.retain(|range| range.to > start);
        }
        Ok(())
    }

    fn partition_mut(&mut self, topic: u64, partition: u32) -> Result<&mut PartitionMetadata, ApplyError> {
        let topic = self.topics.get_mut(&TopicId(topic)).ok_or_else(|| unknown_topic(TopicId(topic)))?;
        let found = topic.partitions.get_mut(partition as usize);
        found.ok_or_else(|| misfit(format_args!("topic {} has no partition {partition}", topic.name)))
    }
}

fn mark_of(name: &TopicName, stored: &StoredDeadLetters) -> Result<Arc<DeadLettersOf>, ApplyError> {
    let bad = || misfit(format_args!("topic {name} has a bad source of dead letters"));
    Ok(Arc::new(DeadLettersOf {
        source: parse_uuid(&stored.source).ok_or_else(bad)?,
        source_name: TopicName::parse_dead_letter(&stored.source_name).map_err(|_| bad())?,
        group: GroupId(stored.group),
        group_name: stored.group_name.clone(),
    }))
}

fn checked_revision(name: &TopicName, stored: &StoredRevision) -> Result<Arc<TopicRevision>, ApplyError> {
    let revision = stored.to_revision();
    let checked = revision.config.check().and_then(|()| revision.notes.check());
    checked.map_err(|error| misfit(format_args!("topic {name}: {error}")))?;
    Ok(revision)
}

/// Adds a range to ranges in order, joining those that touch.
fn add_range(ranges: &mut Vec<OffsetRange>, mut added: OffsetRange) {
    if added.is_empty() {
        return;
    }
    ranges.retain(|range| {
        let apart = range.to < added.from || added.to < range.from;
        if !apart {
            added.from = added.from.min(range.from);
            added.to = added.to.max(range.to);
        }
        apart
    });
    let at = ranges.partition_point(|range| range.from < added.from);
    ranges.insert(at, added);
}

fn offset(value: u64) -> Result<Offset, ApplyError> {
    Offset::new(value).ok_or_else(|| misfit(format_args!("offset {value} is above the greatest")))
}

fn unknown_topic(id: TopicId) -> ApplyError {
    misfit(format_args!("there is no topic number {id}"))
}

fn misfit(what: impl ToString) -> ApplyError {
    ApplyError { what: what.to_string() }
}

#[cfg(test)]
mod tests;
