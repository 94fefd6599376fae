//! Deleting topics: the record first, the files after it, resumed at the start (rule D7).

use std::sync::Arc;

use super::error::TopicError;
use super::metadata::Writer;
use super::metadata::record::MetadataRecord;
use super::topic::Topic;
use super::{Shared, Topics};
use crate::model::{TopicId, TopicUuid};

impl Topics {
    /// Deletes a topic with the dead-letter topics of its records: one durable metadata record first, the files after
    /// (rules D7, RE-10). Without `force` not while something depends on it.
    ///
    /// # Errors
    /// [`TopicError::NotFound`], [`TopicError::ReservedTopic`] for a dead-letter topic, [`TopicError::OpenEntries`] and
    /// [`TopicError::JobConflict`] without `force`, [`TopicError::ReadOnly`], or that the record could not be written.
    pub async fn delete(&self, name: &str, force: bool) -> Result<TopicUuid, TopicError> {
        let shared = &self.shared;
        shared.check_writable()?;
        let own = Arc::clone(shared);
        let name = name.to_owned();
        shared.to_the_end(async move { own.delete(name, force).await }).await
    }

    /// Removes what deletions before this run left (rule D7).
    pub fn resume_removals(&self, topics: impl IntoIterator<Item = TopicId>) {
        for topic in topics {
            let own = Arc::clone(&self.shared);
            self.shared.tasks.spawn_on(async move { own.remove_files(topic).await }, &self.shared.runtime);
        }
    }
}

impl Shared {
    async fn delete(self: Arc<Self>, name: String, force: bool) -> Result<TopicUuid, TopicError> {
        let asked = self.find(&name)?;
        asked.check_not_reserved()?;
        let guard = self.guard.read().clone();
        if let Some(guard) = guard.filter(|_| !force) {
            guard.may_delete(Arc::clone(&asked)).await?;
        }
        let own = Arc::clone(&self);
        let (uuid, gone) = self
            .metadata
            .change(move |writer| {
                let topic = own.find(&name)?;
                // Another one of its name may have come meanwhile: nobody was asked about that.
                if topic.uuid != asked.uuid {
                    return Err(TopicError::NotFound { name });
                }
                let mut gone = own.dead_letters_of(topic.uuid);
                gone.push(Arc::clone(&topic));
                own.remove_all(writer, &gone, Vec::new())?;
                Ok((topic.uuid, gone))
            })
            .await?;
        self.bury_all(gone);
        Ok(uuid)
    }

    /// Deletes topics with one record, together with `more`; whoever still holds one of them gets no acknowledgement
    /// from here on.
    pub(super) fn remove_all(
        &self,
        writer: &mut Writer,
        gone: &[Arc<Topic>],
        more: Vec<MetadataRecord>,
    ) -> Result<(), TopicError> {
        let mut records: Vec<_> = gone.iter().map(|topic| MetadataRecord::TopicDeleted { topic: topic.id.0 }).collect();
        records.extend(more);
        writer.commit(records)?;
        for topic in gone {
            self.map.write().remove(topic.name.as_str());
            for slot in topic.slots() {
                slot.fail("the topic was deleted");
                if let Some(partition) = slot.partition() {
                    partition.begin_shutdown();
                }
            }
            tracing::info!(topic = topic.name.as_str(), id = topic.id.0, "topic deleted");
        }
        if let Some(guard) = &*self.guard.read() {
            gone.iter().for_each(|topic| guard.deleted(topic));
        }
        Ok(())
    }

    /// Removes what deleted topics leave, each in a task of its own.
    pub(super) fn bury_all(self: &Arc<Self>, gone: Vec<Arc<Topic>>) {
        for topic in gone {
            let own = Arc::clone(self);
            self.tasks.spawn_on(async move { own.bury(topic).await }, &self.runtime);
        }
    }

    /// Ends the partitions of a deleted topic, then removes its files.
    async fn bury(self: Arc<Self>, topic: Arc<Topic>) {
        for slot in topic.slots() {
            if let Some(partition) = slot.partition() {
                // Readers and appends that wait are answered; what the files say does not matter any more.
                let _ = partition.discard().await;
            }
        }
        self.factory.metrics.forget_topic(topic.name.as_str(), topic.revision().config.partitions);
        self.factory.forget(topic.id);
        self.remove_files(topic.id).await;
    }

    /// Removes the files of a deleted topic and says so in the metadata log.
    async fn remove_files(self: Arc<Self>, topic: TopicId) {
        let own = Arc::clone(&self);
        let removed = self.blocking(move || own.factory.remove_files(topic)).await;
        let noted = match removed {
            Ok(Ok(())) => {
                let record = MetadataRecord::TopicFilesRemoved { topic: topic.0 };
                self.metadata.change(move |writer| writer.commit(vec![record])).await.map_err(|error| error.to_string())
            }
            Ok(Err(error)) => Err(error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = noted {
            tracing::warn!(topic = topic.0, error, "files of a deleted topic are removed at the next start");
        }
    }
}
