//! Where a copied record came from: the headers that say so, and which records of a source are in a topic already.
//!
//! Must not know how records are read or written. Invariant: a record counts as copied only if topic, epoch, partition
//! and offset are those of its own headers.

use std::collections::HashMap;

use bytes::Bytes;
use sawlog_client::ReadRecord;
use sawlog_client::types::Header;

/// Name of the source topic.
const TOPIC: &str = "replay.topic";
/// Id of the source topic.
pub(super) const TOPIC_ID: &str = "replay.topic_id";
/// Partition, from 0, as decimal text; so are the others.
const PARTITION: &str = "replay.partition";
/// Epoch of the partition at the append.
const EPOCH: &str = "replay.epoch";
/// Offset.
const OFFSET: &str = "replay.offset";
/// Time of the append in milliseconds since 1970.
const APPEND_TIME: &str = "replay.append_time_ms";

/// The headers of a copy: its origin, then its own. Of several of one name the first counts, so a copy of a copy says
/// where it was copied from, and behind that where that one came from.
pub(super) fn headers(topic: &str, topic_id: &str, record: &ReadRecord) -> Vec<Header> {
    let origin = [
        (TOPIC, topic.to_owned()),
        (TOPIC_ID, topic_id.to_owned()),
        (PARTITION, record.partition.to_string()),
        (EPOCH, record.epoch.to_string()),
        (OFFSET, record.offset.to_string()),
        (APPEND_TIME, record.append_time_ms.to_string()),
    ];
    let origin = origin.into_iter().map(|(name, value)| Header { key: name.to_owned(), value: Bytes::from(value) });
    origin.chain(record.headers.iter().cloned()).collect()
}

/// Which records of one topic are in another one already: a bit for each offset of the range of a partition and epoch.
#[derive(Debug, Default)]
pub(super) struct Copied {
    topic_id: String,
    /// First offset and first offset after the range of each partition, by its number.
    ranges: HashMap<u32, (u64, u64)>,
    bits: HashMap<(u32, u32), Vec<u64>>,
}

impl Copied {
    /// None yet, of this topic and these ranges: partition, first offset, first offset after it.
    pub(super) fn new(topic_id: &str, ranges: impl IntoIterator<Item = (u32, u64, u64)>) -> Self {
        let ranges = ranges.into_iter().map(|(partition, from, to)| (partition, (from, to))).collect();
        Self { topic_id: topic_id.to_owned(), ranges, bits: HashMap::new() }
    }

    /// Takes note of a record of the target, by the first header of each name. One that says nothing, or something else,
    /// is none of ours.
    pub(super) fn note(&mut self, headers: &[Header]) {
        let text = |name: &str| {
            let header = headers.iter().find(|header| header.key == name)?;
            std::str::from_utf8(&header.value).ok()
        };
        let number = |name: &str| text(name)?.parse::<u64>().ok();
        let (Some(partition), Some(epoch), Some(offset)) = (number(PARTITION), number(EPOCH), number(OFFSET)) else {
            return;
        };
        let (Ok(partition), Ok(epoch)) = (u32::try_from(partition), u32::try_from(epoch)) else { return };
        if text(TOPIC_ID) != Some(self.topic_id.as_str()) {
            return;
        }
        if let Some((word, bit, words)) = self.place(partition, offset) {
            let bits = self.bits.entry((partition, epoch)).or_insert_with(|| vec![0; words]);
            bits[word] |= bit;
        }
    }

    /// Whether the target has it.
    pub(super) fn has(&self, record: &ReadRecord) -> bool {
        let bits = self.bits.get(&(record.partition, record.epoch));
        let place = self.place(record.partition, record.offset);
        bits.zip(place).is_some_and(|(bits, (word, bit, _))| bits[word] & bit != 0)
    }

    /// Word and bit of an offset within its range, and the words of the range.
    fn place(&self, partition: u32, offset: u64) -> Option<(usize, u64, usize)> {
        let (from, to) = *self.ranges.get(&partition)?;
        if !(from..to).contains(&offset) {
            return None;
        }
        let at = offset - from;
        let words = usize::try_from((to - from).div_ceil(64)).ok()?;
        Some((usize::try_from(at / 64).ok()?, 1 << (at % 64), words))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(partition: u32, epoch: u32, offset: u64) -> ReadRecord {
        let own = Header { key: "source".to_owned(), value: "shop".into() };
        let (key, value) = (Some("k".into()), Some("v".into()));
        ReadRecord { partition, epoch, offset, append_time_ms: 7, timestamp_ms: 5, key, value, headers: vec![own] }
    }

    #[test]
    fn rp_1_a_record_is_copied_only_under_its_own_topic_epoch_partition_and_offset() {
        let mut copied = Copied::new("id", [(0, 100, 300), (1, 0, 64)]);
        copied.note(&headers("orders", "id", &record(0, 2, 164)));
        copied.note(&headers("orders", "id", &record(1, 0, 63)));
        assert!(copied.has(&record(0, 2, 164)) && copied.has(&record(1, 0, 63)));
        for other in [record(0, 1, 164), record(0, 2, 163), record(0, 2, 165), record(1, 2, 164), record(1, 0, 62)] {
            assert!(!copied.has(&other), "{other:?}");
        }
        // Another topic, offsets outside of the range, records that say nothing or nonsense.
        copied.note(&headers("orders", "other", &record(0, 2, 170)));
        copied.note(&headers("orders", "id", &record(0, 2, 300)));
        copied.note(&headers("orders", "id", &record(9, 2, 0)));
        copied.note(&[]);
        let nonsense = |header: Header| Header { value: "x".into(), ..header };
        copied.note(&headers("orders", "id", &record(0, 2, 171)).into_iter().map(nonsense).collect::<Vec<_>>());
        for other in [record(0, 2, 170), record(0, 2, 300), record(9, 2, 0), record(0, 2, 171)] {
            assert!(!copied.has(&other), "{other:?}");
        }
    }

    #[test]
    fn rp_1_a_copy_of_a_copy_says_first_where_it_was_copied_from() {
        let first = headers("orders", "id", &record(0, 0, 3));
        assert_eq!(first.last().unwrap().key, "source", "its own headers stay, behind its origin");
        let second = headers("copy", "id-2", &ReadRecord { headers: first, ..record(1, 0, 9) });
        let mut of_copy = Copied::new("id-2", [(1, 0, 10)]);
        of_copy.note(&second);
        assert!(of_copy.has(&record(1, 0, 9)));
        let mut of_orders = Copied::new("id", [(0, 0, 10)]);
        of_orders.note(&second);
        assert!(!of_orders.has(&record(0, 0, 3)), "what was copied from a copy was not copied from the first topic");
    }
}
