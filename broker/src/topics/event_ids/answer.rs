//! The answer to an append of records with event ids: what was written, and for what was not, where the first stands.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::EventIndex;
use crate::model::{AckLevel, Offset, PartitionId};
use crate::partition::events::{EventBatch, EventPlace, Found};
use crate::partition::{AppendAck, AppendFailure, BoxFuture, CheckedBatch, Permit};
use crate::topics::Topic;

/// What became of a batch of records with event ids.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EventAck {
    /// Where the records went that were written, if any were.
    pub written: Option<AppendAck>,
    /// What is known of those that were not, by their index.
    pub found: Vec<(u32, Found)>,
    /// Of those, the ones whose first had failed, or was gone when its turn came: nothing of them is in the log.
    pub failed: Vec<u32>,
}

impl Topic {
    /// Appends a batch to a partition and answers for its repeats too, each once its first has reached `level`
    /// (rule PR-8). The batch is handed over before this returns.
    ///
    /// # Errors
    /// As [`crate::partition::PartitionLog::append`], but for `EventIds`, which is an answer here.
    pub fn append_events(
        self: &Arc<Self>,
        partition: PartitionId,
        batch: CheckedBatch,
        level: AckLevel,
        permit: Permit,
    ) -> BoxFuture<'static, Result<EventAck, AppendFailure>> {
        let Some(log) = self.partition(partition) else {
            return Box::pin(async { Err(AppendFailure::Recovering) });
        };
        let events = batch.events.clone();
        let append = log.append(batch, level, permit);
        let topic = Arc::clone(self);
        Box::pin(async move {
            let written = match append.await {
                Ok(ack) => Some(ack),
                Err(AppendFailure::EventIds) => None,
                Err(failure) => return Err(failure),
            };
            let found = events.as_ref().and_then(|events| events.found()).unwrap_or_default().to_vec();
            let failed = match events {
                Some(events) if !found.is_empty() => topic.wait_for_firsts(&events, &found, level).await,
                _ => Vec::new(),
            };
            Ok(EventAck { written, found, failed })
        })
    }

    /// Waits until the firsts of all repeats have reached the level; returns the indexes of those that have not.
    async fn wait_for_firsts(&self, events: &EventBatch, found: &[(u32, Found)], level: AckLevel) -> Vec<u32> {
        let repeats = found.iter().filter_map(|(index, found)| match found {
            Found::Repeat(place) => Some((*index, *place)),
            _ => None,
        });
        let repeats: Vec<(u32, EventPlace)> = repeats.collect();
        let mut ends: BTreeMap<PartitionId, Offset> = BTreeMap::new();
        for (_, place) in &repeats {
            let end = ends.entry(place.partition).or_default();
            *end = (*end).max(place.offset.saturating_add(1));
        }
        let mut lost = Vec::new();
        for (partition, end) in ends {
            let slot = &self.slots()[partition.0 as usize];
            let reached = match slot.partition() {
                Some(partition) => partition.reached(end, level).await.is_ok(),
                None => false,
            };
            if !reached {
                lost.push(partition);
            }
        }
        let index = self.event_ids();
        let failed = repeats.iter().filter(|(at, place)| {
            let named = events.refs().iter().find(|event| event.index == *at);
            // Those without an id of their own were written by the request that this one repeats.
            let stands = named.is_none_or(|event| index.stands(&event.id, place));
            lost.contains(&place.partition) || !stands
        });
        failed.map(|(at, _)| *at).collect()
    }

    /// The event ids of the topic.
    pub fn event_ids(&self) -> &Arc<EventIndex> {
        &self.event_ids
    }
}
