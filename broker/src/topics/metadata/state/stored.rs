//! From the state back to the records that give it, for snapshots.

use super::TopicMetadata;
use crate::model::{Offset, PartitionId};
use crate::topics::metadata::record::{
    MetadataRecord, StoredBound, StoredDeadLetters, StoredRevision, StoredTopic, uuid_text,
};

/// Everything of a topic.
pub(super) fn topic_records(topic: &TopicMetadata) -> Vec<MetadataRecord> {
    let number = topic.id.0;
    let mut records = vec![MetadataRecord::TopicCreated(stored_topic(topic))];
    let (mut starts, mut asked) = (Vec::new(), Vec::new());
    for (index, partition) in topic.partitions.iter().enumerate() {
        let index = PartitionId(u32::try_from(index).expect("a topic has at most 1,024 partitions")).0;
        if partition.log_start > Offset::ZERO {
            starts.push(StoredBound { topic: number, partition: index, offset: partition.log_start.get() });
        }
        if partition.trimmed > Offset::ZERO {
            asked.push(StoredBound { topic: number, partition: index, offset: partition.trimmed.get() });
        }
        for range in &partition.quarantined {
            let (from, to) = (range.from.get(), range.to.get());
            records.push(MetadataRecord::Quarantined { topic: number, partition: index, from, to });
        }
        if let Some(cut) = partition.last_truncation {
            records.push(MetadataRecord::Truncated {
                topic: number,
                partition: index,
                offset: cut.offset.get(),
                epoch: cut.epoch.get(),
                bytes: cut.bytes,
                time_ms: cut.time_ms,
            });
        }
    }
    if !starts.is_empty() {
        records.push(MetadataRecord::LogStarts { starts });
    }
    if !asked.is_empty() {
        records.push(MetadataRecord::Trimmed { asked });
    }
    records
}

/// The stored form of a topic.
pub fn stored_topic(topic: &TopicMetadata) -> StoredTopic {
    StoredTopic {
        topic: topic.id.0,
        uuid: uuid_text(topic.uuid),
        name: topic.name.as_str().to_owned(),
        hash_version: topic.hash_version,
        slot_hash_version: topic.slot_hash_version,
        created_ms: topic.created_ms,
        revision: StoredRevision::of(&topic.revision),
        dead_letters: topic.dead_letters.as_deref().map(|of| StoredDeadLetters {
            source: uuid_text(of.source),
            source_name: of.source_name.as_str().to_owned(),
            group: of.group.0,
            group_name: of.group_name.clone(),
        }),
    }
}
