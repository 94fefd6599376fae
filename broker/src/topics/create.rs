//! Making topics: files first, then the record that makes them count.

use std::sync::Arc;

use super::dead_letter::DeadLettersOf;
use super::error::TopicError;
use super::metadata::record::MetadataRecord;
use super::metadata::state::{PartitionMetadata, TopicMetadata, stored_topic};
use super::settings::TopicRevision;
use super::slot::PartitionSlot;
use super::topic::{NewTopic, Topic};
use super::{Shared, Topics};
use crate::limits;
use crate::model::{PartitionEpoch, PartitionId, TopicUuid};
use crate::partition::{AppendFailure, Partition, PartitionOpenError};

/// Version of the function from key to partition that new topics get.
const HASH_VERSION: u32 = 1;
/// Version of the function from key to slot that new topics get.
const SLOT_HASH_VERSION: u32 = 1;
/// Partitions of a topic that are made at the same time.
const PARALLEL: usize = 8;

impl Topics {
    /// Creates a topic, or finds the one with equal settings; the flag says whether it is new.
    ///
    /// # Errors
    /// [`TopicError::Field`], [`TopicError::Exists`] with the fields that differ, [`TopicError::Limit`],
    /// [`TopicError::ReadOnly`], [`TopicError::DiskLow`], or what the files say.
    pub async fn create(&self, new: NewTopic) -> Result<(Arc<Topic>, bool), TopicError> {
        let shared = &self.shared;
        new.config.check()?;
        new.notes.check()?;
        if let Some(existing) = self.get(new.name.as_str()) {
            return same(&existing, &new).map(|()| (existing, false));
        }
        shared.check_writable()?;
        shared.factory.disk.check()?;
        shared.check_counts(new.config.partitions)?;
        let own = Arc::clone(shared);
        shared.to_the_end(async move { own.create(new, None).await }).await
    }
}

/// Whether a topic is as asked for.
fn same(existing: &Topic, new: &NewTopic) -> Result<(), TopicError> {
    existing.check_not_reserved()?;
    let revision = existing.revision();
    let mut differences = revision.config.differences(&new.config);
    differences.extend(revision.notes.differences(&new.notes));
    if differences.is_empty() {
        return Ok(());
    }
    Err(TopicError::Exists { name: existing.name.to_string(), differences: differences.join(", ") })
}

fn check_limits(topics: usize, partitions: usize, more: u32) -> Result<(), TopicError> {
    if topics >= limits::TOPICS {
        return Err(TopicError::Limit { limit: "topics", max: limits::TOPICS as u64 });
    }
    if partitions + more as usize > limits::PARTITIONS {
        return Err(TopicError::Limit { limit: "partitions", max: limits::PARTITIONS as u64 });
    }
    Ok(())
}

impl Shared {
    /// Refuses early what the record would be refused for, before files are made.
    fn check_counts(&self, more: u32) -> Result<(), TopicError> {
        let (topics, partitions) = {
            let map = self.map.read();
            let counted = map.by_name.values().filter(|topic| topic.dead_letters.is_none());
            (map.by_name.len() - map.dead_letters.len(), counted.map(|topic| topic.partitions().len()).sum())
        };
        check_limits(topics, partitions, more)
    }

    /// Makes a topic; with `dead_letters` one that holds those of a group (rule DL-1).
    pub(super) async fn create(
        self: Arc<Self>,
        new: NewTopic,
        dead_letters: Option<Arc<DeadLettersOf>>,
    ) -> Result<(Arc<Topic>, bool), TopicError> {
        let id = self.take_topic_id();
        let (epoch, now_ms) = self.metadata.change(|writer| Ok((writer.state().epoch(), writer.now_ms()))).await?;
        let revision =
            TopicRevision { revision: 1, config: new.config.clone(), notes: new.notes.clone(), updated_ms: now_ms };
        let metadata = Arc::new(TopicMetadata {
            id,
            uuid: TopicUuid(uuid::Uuid::new_v4().into_bytes()),
            name: new.name.clone(),
            hash_version: HASH_VERSION,
            slot_hash_version: SLOT_HASH_VERSION,
            created_ms: now_ms,
            partitions: vec![PartitionMetadata::default(); new.config.partitions as usize],
            revision: Arc::new(revision),
            dead_letters,
        });
        let made = self.make_files(&metadata, epoch).await;
        let result = match made {
            Ok(partitions) => self.publish(Arc::clone(&metadata), epoch, partitions, new).await,
            Err(error) => Err(error),
        };
        // Anything but a topic that is listed now leaves files that nobody owns.
        if !matches!(result, Ok((_, true))) {
            let own = Arc::clone(&self);
            let removed = self.blocking(move || own.factory.remove_files(id)).await?;
            if let Err(error) = removed {
                tracing::warn!(topic = id.0, %error, "files of a topic that was not created stay until the next start");
            }
            self.factory.forget(id);
        }
        result
    }

    async fn make_files(
        self: &Arc<Self>,
        metadata: &Arc<TopicMetadata>,
        epoch: PartitionEpoch,
    ) -> Result<Vec<Arc<Partition>>, TopicError> {
        let own = Arc::clone(self);
        let topic = Arc::clone(metadata);
        self.blocking(move || {
            let partitions = topic.revision.config.partitions;
            own.factory.make_dirs(topic.id, partitions).map_err(|error| failed(&error))?;
            let indexes: Vec<u32> = (0..partitions).collect();
            let create = |index: &u32| {
                own.factory.create(&topic, PartitionId(*index), epoch).map_err(|error| match error {
                    PartitionOpenError::Log(crate::log::OpenError::Io { source, .. }) => failed(&source),
                    other => AppendFailure::WriteFailed { errno: None, what: other.to_string() }.into(),
                })
            };
            let made: Vec<Result<Arc<Partition>, TopicError>> = in_parallel(PARALLEL, &indexes, create);
            made.into_iter().collect()
        })
        .await?
    }

    /// The record, and with it the topic.
    async fn publish(
        self: &Arc<Self>,
        metadata: Arc<TopicMetadata>,
        epoch: PartitionEpoch,
        partitions: Vec<Arc<Partition>>,
        new: NewTopic,
    ) -> Result<(Arc<Topic>, bool), TopicError> {
        let own = Arc::clone(self);
        let slots: Vec<Arc<PartitionSlot>> = (0..)
            .zip(&partitions)
            .map(|(index, _)| self.factory.slot(metadata.id, PartitionId(index), epoch))
            .collect();
        self.metadata
            .change(move |writer| {
                if own.draining.load(std::sync::atomic::Ordering::SeqCst) {
                    return Err(TopicError::ShuttingDown);
                }
                // Another creation may have come first.
                let existing = own.map.read().by_name.get(new.name.as_str()).cloned();
                if let Some(existing) = existing {
                    return match &metadata.dead_letters {
                        None => same(&existing, &new).map(|()| (existing, false)),
                        Some(of) if existing.holds_dead_letters_of(of) => Ok((existing, false)),
                        Some(of) => Err(of.name_taken(&new.name)),
                    };
                }
                let state = writer.state();
                match &metadata.dead_letters {
                    None => {
                        if state.reserved_for(new.name.as_str()).is_some() {
                            return Err(TopicError::name_reserved(&new.name));
                        }
                        check_limits(state.topic_count(), state.partition_count(), new.config.partitions)?;
                    }
                    Some(of) => own.check_dead_letters(state, of, &new)?,
                }
                writer.commit(vec![MetadataRecord::TopicCreated(stored_topic(&metadata))])?;
                for (slot, partition) in slots.iter().zip(partitions) {
                    slot.fill(partition);
                }
                let topic = Topic::new(&metadata, slots, own.factory.event_ids(&metadata));
                own.map.write().insert(Arc::clone(&topic));
                own.created.notify_one();
                tracing::info!(topic = topic.name.as_str(), id = topic.id.0, "topic created");
                Ok((topic, true))
            })
            .await
    }
}

fn failed(error: &std::io::Error) -> TopicError {
    AppendFailure::WriteFailed { errno: error.raw_os_error(), what: error.to_string() }.into()
}

/// Maps `items` on up to `threads` threads, in order. A panic of one goes on after all have ended.
pub(crate) fn in_parallel<I: Sync, O: Send>(threads: usize, items: &[I], work: impl Fn(&I) -> O + Sync) -> Vec<O> {
    if items.len() <= 1 || threads <= 1 {
        return items.iter().map(work).collect();
    }
    let next = std::sync::atomic::AtomicUsize::new(0);
    let done: parking_lot::Mutex<Vec<Option<O>>> = parking_lot::Mutex::new(items.iter().map(|_| None).collect());
    std::thread::scope(|scope| {
        for _ in 0..threads.min(items.len()) {
            scope.spawn(|| {
                loop {
                    let index = next.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    let Some(item) = items.get(index) else { return };
                    let output = work(item);
                    done.lock()[index] = Some(output);
                }
            });
        }
    });
    done.into_inner().into_iter().map(|output| output.expect("the scope ends after every item is done")).collect()
}
