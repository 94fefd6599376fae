//! What the coordinator needs of its surroundings, as narrow as it is used: journals to append to, partitions to read.

use std::fmt::Debug;
use std::sync::Arc;

use super::journals::GroupJournals;
use crate::dead_letter::handle::Written;
use crate::group::entry::EntryRecord;
use crate::group::record::GroupRecord;
use crate::model::{GroupId, Source, TopicUuid};
use crate::partition::journal_thread::JournalStopped;
use crate::partition::{BoxFuture, PartitionLog};
use crate::topics::{Topics, Validation};

/// The journals as the groups use them.
pub(super) trait Ledger: Debug + Send + Sync + 'static {
    /// Queues records in the order of the calls; never blocks. What there is none of has the sequence 0.
    fn append(&self, group: GroupId, records: &[GroupRecord], entries: &[EntryRecord]) -> Written;
    /// Queues the end of all entries of a group that is gone.
    fn forget_entries(&self, group: GroupId) -> Written;
    /// Everything that is durable.
    fn durable(&self) -> Written;
    /// Resolves once both journals are durable up to here.
    fn wait(&self, written: Written) -> BoxFuture<'static, Result<(), JournalStopped>>;
    /// Whether so much waits to be written that less should be delivered.
    fn is_behind(&self) -> bool;
    /// Why nothing is taken any more.
    fn stopped(&self) -> Option<Arc<str>>;
}

impl Ledger for GroupJournals {
    fn append(&self, group: GroupId, records: &[GroupRecord], entries: &[EntryRecord]) -> Written {
        Self::append(self, group, records, entries)
    }

    fn forget_entries(&self, group: GroupId) -> Written {
        Written { entries: Self::forget_entries(self, group), ..Written::default() }
    }

    fn durable(&self) -> Written {
        Written { group: self.groups().durable(), entries: self.entries().durable() }
    }

    fn wait(&self, written: Written) -> BoxFuture<'static, Result<(), JournalStopped>> {
        let (groups, entries) = (self.groups().clone(), self.entries().clone());
        Box::pin(async move {
            groups.wait(written.group).await?;
            entries.wait(written.entries).await
        })
    }

    fn is_behind(&self) -> bool {
        Self::is_behind(self)
    }

    fn stopped(&self) -> Option<Arc<str>> {
        Self::stopped(self)
    }
}

/// Where partitions are found.
pub(super) trait Logs: Debug + Send + Sync + 'static {
    /// A partition, if its topic is there.
    fn log(&self, source: Source) -> Option<Arc<dyn PartitionLog>>;
    /// The partition that holds a group's dead letters of a partition, if it has been made.
    fn dead_letter_log(&self, source: Source, group: GroupId) -> Option<Arc<dyn PartitionLog>>;
    /// Whether the broker has proved that every stored batch of a topic can be decoded.
    fn proves_batches(&self, topic: TopicUuid) -> bool;
}

impl Logs for Topics {
    fn log(&self, source: Source) -> Option<Arc<dyn PartitionLog>> {
        self.by_uuid(source.topic)?.partition(source.partition).cloned()
    }

    fn dead_letter_log(&self, source: Source, group: GroupId) -> Option<Arc<dyn PartitionLog>> {
        self.dead_letter_topic(source.topic, group)?.partition(source.partition).cloned()
    }

    fn proves_batches(&self, topic: TopicUuid) -> bool {
        self.by_uuid(topic).is_some_and(|topic| topic.revision().config.validation == Validation::Full)
    }
}
