//! Raising log starts: on request, and in batches for retention (rules RE-9, D9).

use std::sync::Arc;

use super::change::no_partition;
use super::error::TopicError;
use super::metadata::record::{MetadataRecord, StoredBound};
use super::slot::PartitionSlot;
use super::topic::Topic;
use super::{Shared, Topics};
use crate::model::{Offset, PartitionId, Source};
use crate::partition::{AppendFailure, PartitionLog};

/// Starts that one record holds.
const STARTS_PER_RECORD: usize = 1_000;

impl Topics {
    /// Raises log starts; returns the log start of each partition named (rule RE-9). An offset below the log start
    /// changes nothing. Where a dead letter is on its way from below the offset, the log start comes to lie at its
    /// record, and rises to the offset once it has arrived, even after a restart.
    ///
    /// # Errors
    /// [`TopicError::NotFound`], [`TopicError::ReservedTopic`] for a dead-letter topic, [`TopicError::NoPartition`],
    /// [`TopicError::OutOfRange`] above the high watermark, [`TopicError::ReadOnly`], or what the files say. Before any of these nothing is trimmed.
    pub async fn trim(
        &self,
        name: &str,
        before: &[(PartitionId, Offset)],
    ) -> Result<Vec<(PartitionId, Offset)>, TopicError> {
        let shared = &self.shared;
        let topic = shared.find(name)?;
        topic.check_not_reserved()?;
        for (partition, _) in before {
            no_partition(&topic, *partition)?;
        }
        shared.check_writable()?;
        let own = Arc::clone(shared);
        let before = before.to_vec();
        shared.to_the_end(async move { own.trim(topic, before).await }).await
    }

    /// The greatest log start that somebody asked for, of each partition that anybody asked for one.
    pub fn trims(&self) -> Vec<(Source, Offset)> {
        let mut trims = Vec::new();
        for topic in self.all() {
            let asked = topic.slots().iter().filter_map(|slot| Some((slot.reference().partition, slot.trimmed()?)));
            trims.extend(asked.map(|(partition, asked)| (Source { topic: topic.uuid, partition }, asked)));
        }
        trims
    }

    /// Makes new log starts durable, all with as few records as possible, then removes what lies below. Starts of
    /// topics deleted meanwhile are left out. Blocks: for retention.
    ///
    /// # Errors
    /// The metadata log takes no writes: nothing is removed.
    pub fn raise_starts(&self, starts: &[(Arc<PartitionSlot>, Offset)]) -> Result<(), TopicError> {
        for chunk in starts.chunks(STARTS_PER_RECORD) {
            let bounds: Vec<StoredBound> = chunk.iter().map(|(slot, start)| bound(slot, *start)).collect();
            self.shared.metadata.change_blocking(move |writer| {
                let mut bounds = bounds;
                bounds.retain(|bound| writer.state().topic(crate::model::TopicId(bound.topic)).is_some());
                if bounds.is_empty() {
                    return Ok(());
                }
                writer.commit(vec![MetadataRecord::LogStarts { starts: bounds }])
            })?;
            let raised = chunk.iter().filter_map(|(slot, start)| Some(slot.partition()?.raise_start(*start)));
            let raised: Vec<_> = raised.collect();
            for ticket in raised {
                if let Err(error) = ticket.wait() {
                    tracing::warn!(%error, "files below the log start stay until later");
                }
            }
        }
        Ok(())
    }
}

fn bound(slot: &PartitionSlot, start: Offset) -> StoredBound {
    let reference = slot.reference();
    StoredBound { topic: reference.topic.0, partition: reference.partition.0, offset: start.get() }
}

impl Shared {
    async fn trim(
        self: Arc<Self>,
        topic: Arc<Topic>,
        before: Vec<(PartitionId, Offset)>,
    ) -> Result<Vec<(PartitionId, Offset)>, TopicError> {
        let needed = self.holds.needed(Some(topic.uuid));
        let (mut starts, mut asked) = (Vec::new(), Vec::new());
        for (partition, offset) in &before {
            let slot = &topic.slots()[partition.0 as usize];
            let open = slot.partition().ok_or(AppendFailure::Recovering)?;
            let status = open.status();
            if *offset > status.high_watermark {
                return Err(TopicError::OutOfRange {
                    partition: partition.0,
                    offset: *offset,
                    earliest: status.log_start,
                    latest: status.high_watermark,
                });
            }
            // The start must not come to lie above what a crash leaves.
            if *offset > status.durable_end {
                open.sync_now().await?;
            }
            // The record of a dead letter on its way must stay readable (rule DL-4); the rest of the trim waits for it.
            let needed = needed.get(&Source { topic: topic.uuid, partition: *partition });
            let reached = needed.map_or(*offset, |needed| (*needed).min(*offset));
            if *offset > status.log_start {
                asked.push((Arc::clone(slot), *offset));
            }
            if reached > status.log_start {
                starts.push((Arc::clone(slot), reached));
            }
        }
        if let Some(guard) = self.guard.read().clone() {
            asked.iter().for_each(|(slot, start)| guard.trimmed(&topic, slot.reference().partition, *start));
        }
        if !asked.is_empty() {
            let bounds = |list: &[(Arc<PartitionSlot>, Offset)]| -> Vec<StoredBound> {
                list.iter().map(|(slot, start)| bound(slot, *start)).collect()
            };
            let records = vec![
                MetadataRecord::Trimmed { asked: bounds(&asked) },
                MetadataRecord::LogStarts { starts: bounds(&starts) },
            ];
            let number = topic.id;
            let name = topic.name.to_string();
            self.metadata
                .change(move |writer| {
                    if writer.state().topic(number).is_none() {
                        return Err(TopicError::NotFound { name });
                    }
                    writer.commit(records)
                })
                .await?;
            asked.iter().for_each(|(slot, asked)| slot.note_trim(*asked));
            for (slot, start) in starts {
                if let Some(open) = slot.partition() {
                    open.raise_start(start).await?;
                }
            }
        }
        Ok(before.iter().map(|(partition, _)| (*partition, topic.slots()[partition.0 as usize].log_start())).collect())
    }
}
