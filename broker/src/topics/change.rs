//! Changing what may be changed of a topic, and opening its fenced partitions again.

use std::sync::Arc;

use super::error::TopicError;
use super::factory::{KnownEnds, partition_settings};
use super::metadata::record::{MetadataRecord, StoredRevision};
use super::settings::{TopicRevision, TopicUpdate};
use super::topic::Topic;
use super::{Shared, Topics};
use crate::model::PartitionId;
use crate::partition::{PartitionLedger, PartitionLog, PartitionState, PartitionStatus};

impl Topics {
    /// Changes settings and notes. Nothing to change is no change.
    ///
    /// # Errors
    /// [`TopicError::NotFound`], [`TopicError::ReservedTopic`], [`TopicError::StaleRevision`], [`TopicError::Field`],
    /// [`TopicError::ReadOnly`], or that the record could not be written.
    pub async fn update(&self, name: &str, update: TopicUpdate) -> Result<Arc<Topic>, TopicError> {
        let shared = &self.shared;
        shared.check_writable()?;
        update.config.check()?;
        update.notes.check()?;
        let own = Arc::clone(shared);
        let name = name.to_owned();
        shared.to_the_end(async move { own.update(name, update).await }).await
    }

    /// Opens a fenced partition again (rule F1), or one that could not be opened at the start. One that is neither
    /// stays as it is.
    ///
    /// # Errors
    /// [`TopicError::NotFound`], [`TopicError::NoPartition`], [`TopicError::ReadOnly`], or what the files say.
    pub async fn reopen(&self, name: &str, partition: PartitionId) -> Result<PartitionStatus, TopicError> {
        let shared = &self.shared;
        let topic = shared.find(name)?;
        no_partition(&topic, partition)?;
        shared.check_writable()?;
        let own = Arc::clone(shared);
        shared.to_the_end(async move { own.reopen(topic, partition).await }).await
    }
}

/// Whether the topic has this partition.
pub(super) fn no_partition(topic: &Topic, partition: PartitionId) -> Result<(), TopicError> {
    if topic.partition(partition).is_some() {
        return Ok(());
    }
    let partitions = u32::try_from(topic.partitions().len()).expect("a topic has at most 1,024 partitions");
    Err(TopicError::NoPartition { name: topic.name.to_string(), partition: partition.0, partitions })
}

impl Shared {
    async fn update(self: Arc<Self>, name: String, update: TopicUpdate) -> Result<Arc<Topic>, TopicError> {
        let own = Arc::clone(&self);
        let (topic, applied) = self
            .metadata
            .change(move |writer| {
                let topic = own.find(&name)?;
                topic.check_not_reserved()?;
                let current = topic.revision();
                let Some(next) = next_revision(&topic, &current, update, writer.now_ms())? else {
                    return Ok((topic, Vec::new()));
                };
                let revision = StoredRevision::of(&next);
                writer.commit(vec![MetadataRecord::TopicUpdated { topic: topic.id.0, revision }])?;
                let settings = partition_settings(&next.config);
                topic.set_revision(Arc::new(next));
                // Begun here, in the order of the records, so that an older change never overtakes a newer one.
                let partitions = topic.slots().iter().filter_map(|slot| slot.partition());
                let applied: Vec<_> = partitions.map(|partition| partition.apply_settings(settings)).collect();
                Ok((topic, applied))
            })
            .await?;
        for ticket in applied {
            // The change is durable; a fenced or closed partition takes it when it is opened again.
            if let Err(error) = ticket.await {
                tracing::warn!(topic = topic.name.as_str(), %error, "a partition did not take changed settings");
            }
        }
        Ok(topic)
    }

    async fn reopen(self: Arc<Self>, topic: Arc<Topic>, partition: PartitionId) -> Result<PartitionStatus, TopicError> {
        let slot = Arc::clone(&topic.slots()[partition.0 as usize]);
        if slot.failure().is_some() && slot.partition().is_none() {
            let own = Arc::clone(&self);
            let number = topic.id;
            let place = Arc::clone(&slot);
            let found = self
                .metadata
                .change(move |writer| Ok((writer.state().topic(number).cloned(), writer.state().epoch())))
                .await?;
            let (Some(metadata), epoch) = found else {
                return Err(TopicError::NotFound { name: topic.name.to_string() });
            };
            let opened =
                self.blocking(move || own.factory.open(&metadata, partition, epoch, KnownEnds::default())).await?;
            match opened {
                Ok((opened, _)) => place.fill(opened),
                Err(error) => return Err(fenced(&error.to_string())),
            }
        }
        let Some(open) = slot.partition().cloned() else {
            return Err(crate::partition::AppendFailure::Recovering.into());
        };
        if matches!(open.status().state, PartitionState::Fenced(_)) {
            let ledger = Arc::clone(&self.factory.ledger);
            let reference = slot.reference();
            let epoch = self.blocking(move || ledger.new_epoch(reference)).await?;
            let epoch = epoch.map_err(|error| fenced(&error.to_string()))?;
            open.reopen(epoch).await?;
            if let Some(cut) = open.status().last_truncation {
                let ledger = Arc::clone(&self.factory.ledger);
                let kept = self.blocking(move || ledger.record_truncation(reference, cut)).await?;
                if let Err(error) = kept {
                    tracing::warn!(%error, "the cut is known until the next start only");
                }
            }
            tracing::info!(topic = topic.name.as_str(), partition = partition.0, "partition reopened");
            slot.touch();
        }
        Ok(slot.status())
    }
}

fn fenced(cause: &str) -> TopicError {
    let durable_end = crate::model::Offset::ZERO;
    crate::partition::AppendFailure::Fenced { durable_end, cause: cause.to_owned(), outcome_unknown: false }.into()
}

/// The revision after an update; `None` if it changes nothing.
fn next_revision(
    topic: &Topic,
    current: &TopicRevision,
    update: TopicUpdate,
    now_ms: i64,
) -> Result<Option<TopicRevision>, TopicError> {
    if let Some(given) = update.if_revision.filter(|given| *given != current.revision) {
        let name = topic.name.to_string();
        return Err(TopicError::StaleRevision { name, given, current: current.revision });
    }
    let fixed = |field, found: String, bounds: String| Err(TopicError::Field { field, found, bounds });
    let (new, old) = (&update.config, &current.config);
    if new.partitions != old.partitions {
        let bounds = format!("{}, fixed at creation", old.partitions);
        return fixed("config.partitions", new.partitions.to_string(), bounds);
    }
    if new.keyed != old.keyed {
        return fixed("config.keyed", new.keyed.to_string(), format!("{}, fixed at creation", old.keyed));
    }
    if update.config == current.config && update.notes == current.notes {
        return Ok(None);
    }
    let (config, notes) = (update.config, update.notes);
    Ok(Some(TopicRevision { revision: current.revision + 1, config, notes, updated_ms: now_ms }))
}
