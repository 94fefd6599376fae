use bytes::Bytes;
use sawlog_proto::batch::{BatchBuilder, Codec};

use super::*;
use crate::model::{PartitionEpoch, PartitionId, TopicUuid};

const SOURCE: Source = Source { topic: TopicUuid([7; 16]), partition: PartitionId(0) };

fn offset(offset: u64) -> Offset {
    Offset::new(offset).expect("small")
}

fn frame(base: u64, records: u32, value_bytes: usize) -> Frame {
    let mut builder = BatchBuilder::new(Codec::None);
    for number in 0..records {
        builder.push(0, Some(&number.to_be_bytes()), Some(&vec![1; value_bytes]), std::iter::empty());
    }
    Frame {
        base_offset: offset(base),
        record_count: records,
        append_time_ms: 5,
        epoch: PartitionEpoch::ZERO,
        extensions: Bytes::new(),
        batch: builder.finish(),
    }
}

#[test]
fn records_are_found_in_the_frames_that_were_read() {
    let cache = Cache::new(Arc::default());
    cache.keep(SOURCE, [Kept::new(frame(0, 3, 10)), Kept::new(frame(3, 2, 10))]);
    for (at, key) in [(0, 0_u32), (2, 2), (3, 0), (4, 1)] {
        let kept = cache.find(SOURCE, offset(at)).expect("kept");
        let record = kept.record(offset(at)).expect("a record");
        assert_eq!(record.key.as_deref(), Some(&key.to_be_bytes()[..]), "record {at}");
    }
    assert!(cache.find(SOURCE, offset(5)).is_none());
    assert_eq!(cache.run(SOURCE, offset(1), offset(5)).len(), 2);
    assert_eq!(cache.run(SOURCE, offset(1), offset(3)).len(), 1);
    cache.pass(SOURCE, offset(3));
    assert!(cache.find(SOURCE, offset(2)).is_none());
    cache.keep_reread(SOURCE, Kept::new(frame(0, 3, 10)));
    assert!(cache.find(SOURCE, offset(2)).is_some(), "a frame that was read again is found");
}

#[test]
fn a_partition_keeps_to_its_bound_and_gives_everything_back() {
    let budget = Arc::new(CacheBudget::default());
    let cache = Cache::new(Arc::clone(&budget));
    for base in 0..100 {
        cache.keep(SOURCE, [Kept::new(frame(base, 1, PARTITION_BYTES / 10))]);
        assert!(budget.used.load(Ordering::Relaxed) <= PARTITION_BYTES);
    }
    assert!(cache.find(SOURCE, offset(99)).is_some(), "the newest stays");
    assert!(cache.find(SOURCE, offset(0)).is_none(), "the oldest went");
    cache.keep(SOURCE, [Kept::new(frame(5, 1, 10))]);
    assert!(cache.find(SOURCE, offset(99)).is_none(), "a step back forgets what was read ahead");
    drop(cache);
    assert_eq!(budget.used.load(Ordering::Relaxed), 0);
}
