//! What partitions ask the metadata log for: epochs, and the memory of damage, cuts and starts.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use super::MetadataLog;
use super::record::{MetadataRecord, StoredBound};
use crate::model::{Offset, OffsetRange, PartitionEpoch, TopicId};
use crate::partition::{LedgerError, PartitionLedger, PartitionRef, Truncation};
use crate::topics::TopicError;

/// The ledger of all partitions.
///
/// Invariant: an epoch handed out is at most the counter of the metadata log, and above every epoch that this
/// partition has had. So one raise of the counter serves every partition that has not had it yet (rule D3).
#[derive(Debug)]
pub struct MetadataLedger {
    log: Arc<MetadataLog>,
    given: Mutex<HashMap<PartitionRef, PartitionEpoch>>,
}

impl MetadataLedger {
    /// The ledger over a metadata log.
    pub fn new(log: Arc<MetadataLog>) -> Arc<Self> {
        Arc::new(Self { log, given: Mutex::default() })
    }

    /// Takes note of the epoch with which a partition is opened.
    pub fn note_epoch(&self, partition: PartitionRef, epoch: PartitionEpoch) {
        let mut given = self.given.lock();
        let greatest = given.entry(partition).or_insert(epoch);
        *greatest = (*greatest).max(epoch);
    }

    /// Forgets the partitions of a topic that is gone.
    pub fn forget(&self, topic: TopicId) {
        self.given.lock().retain(|partition, _| partition.topic != topic);
    }

    /// What a start finds is not kept by a read-only log; the start after the repair finds it again.
    fn commit_if_writable(&self, record: MetadataRecord) -> Result<(), LedgerError> {
        if self.log.status().read_only().is_some() {
            return Ok(());
        }
        self.commit(record)
    }

    fn commit(&self, record: MetadataRecord) -> Result<(), LedgerError> {
        self.log
            .change_blocking(move |writer| {
                // A topic deleted meanwhile takes its partitions' records with it.
                if topic_of(&record).is_some_and(|topic| writer.state().topic(topic).is_none()) {
                    return Ok(());
                }
                writer.commit(vec![record])
            })
            .map_err(|error| refused(&error))
    }
}

fn topic_of(record: &MetadataRecord) -> Option<TopicId> {
    match record {
        MetadataRecord::Quarantined { topic, .. } | MetadataRecord::Truncated { topic, .. } => Some(TopicId(*topic)),
        MetadataRecord::LogStarts { starts } => starts.first().map(|bound| TopicId(bound.topic)),
        _ => None,
    }
}

fn refused(error: &TopicError) -> LedgerError {
    LedgerError { what: error.to_string() }
}

impl PartitionLedger for MetadataLedger {
    fn new_epoch(&self, partition: PartitionRef) -> Result<PartitionEpoch, LedgerError> {
        let had = self.given.lock().get(&partition).copied();
        if self.log.status().read_only().is_some() {
            // Nothing is appended in this run, so no record gets this epoch; partitions open, to be read.
            let had = had.unwrap_or(PartitionEpoch::ZERO);
            return Ok(had.next().unwrap_or(had));
        }
        let current = self.log.status().epoch();
        if had.is_some_and(|had| had < current) {
            self.note_epoch(partition, current);
            return Ok(current);
        }
        let epoch = self.log.change_blocking(move |writer| {
            let current = writer.state().epoch();
            if had.is_some_and(|had| had < current) {
                return Ok(current);
            }
            let next = current.next().ok_or(TopicError::Limit { limit: "epochs", max: u64::from(current.get()) })?;
            writer.commit(vec![MetadataRecord::Epoch { epoch: next.get() }])?;
            Ok(next)
        });
        let epoch = epoch.map_err(|error| refused(&error))?;
        self.note_epoch(partition, epoch);
        Ok(epoch)
    }

    fn record_quarantine(&self, partition: PartitionRef, ranges: &[OffsetRange]) -> Result<(), LedgerError> {
        for range in ranges {
            self.commit_if_writable(MetadataRecord::Quarantined {
                topic: partition.topic.0,
                partition: partition.partition.0,
                from: range.from.get(),
                to: range.to.get(),
            })?;
        }
        Ok(())
    }

    fn record_truncation(&self, partition: PartitionRef, cut: Truncation) -> Result<(), LedgerError> {
        self.commit_if_writable(MetadataRecord::Truncated {
            topic: partition.topic.0,
            partition: partition.partition.0,
            offset: cut.offset.get(),
            epoch: cut.epoch.get(),
            bytes: cut.bytes,
            time_ms: cut.time_ms,
        })
    }

    fn record_start(&self, partition: PartitionRef, start: Offset) -> Result<(), LedgerError> {
        let bound = StoredBound { topic: partition.topic.0, partition: partition.partition.0, offset: start.get() };
        self.commit(MetadataRecord::LogStarts { starts: vec![bound] })
    }
}
