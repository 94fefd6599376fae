//! Progress against a small model of a broker's read service that cuts where it likes.

use bytes::Bytes;
use sawlog_proto::batch::{BatchBuilder, Codec};

use super::*;

fn settings(from: ReaderFrom, to: Option<ReaderTo>) -> Settings {
    Settings {
        topic: "t".to_owned(),
        partitions: Vec::new(),
        from,
        to,
        follow: false,
        filter: None,
        max_records_per_second: 0,
        max_bytes_per_second: 0,
        skip_damaged: false,
    }
}

fn start(partition: u32, offset: u64) -> Start {
    Start { partition, offset, epoch: None }
}

fn end(partition: u32, offset: u64) -> PartitionOffset {
    PartitionOffset { partition, offset, epoch: 1 }
}

fn stored(base: u64, count: u32, epoch: u32) -> v1::StoredBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    for index in 0..u64::from(count) {
        builder.push(1, None, Some((base + index).to_string().as_bytes()), std::iter::empty());
    }
    let mut batch = builder.finish().to_vec();
    batch[..8].copy_from_slice(&base.to_be_bytes());
    let info =
        v1::BatchInfo { base_offset: signed(base), record_count: count, append_time_ms: signed(base) * 10, epoch };
    v1::StoredBatch { info: Some(info), batch: Bytes::from(batch) }
}

fn batches(partition: u32, batches: Vec<v1::StoredBatch>) -> v1::ReadResponse {
    v1::ReadResponse { frame: Some(v1::read_response::Frame::Batches(v1::BatchesFrame { partition, batches })) }
}

/// Offsets of all records in the events, each checked against its bytes.
fn offsets(events: &[BatchEvent]) -> Vec<u64> {
    let mut found = Vec::new();
    for event in events {
        if let BatchEvent::Batch(batch) = event {
            batch
                .for_each(|item| {
                    assert_eq!(item.value, Some(item.offset.to_string().as_bytes()));
                    found.push(item.offset);
                })
                .unwrap();
        }
    }
    found
}

fn ends(events: &[BatchEvent]) -> Vec<(u32, u64)> {
    let end = |event: &BatchEvent| match event {
        BatchEvent::Event(ReadEvent::PartitionEnd { partition, offset }) => Some((*partition, *offset)),
        _ => None,
    };
    events.iter().filter_map(end).collect()
}

#[test]
fn batches_that_reach_beyond_the_bounds_are_trimmed_to_them() {
    let mut events = Vec::new();
    let settings = settings(ReaderFrom::Offset(3), Some(ReaderTo::Offset(7)));
    let mut progress = Progress::new(settings, "id".into(), &[start(0, 3)], None, &mut events);
    progress.frame(batches(0, vec![stored(0, 5, 1), stored(5, 5, 1)]), &mut events).unwrap();
    assert_eq!(offsets(&events), [3, 4, 5, 6]);
    assert_eq!(ends(&events), [(0, 7)]);
    assert!(progress.is_finished());
}

#[test]
fn a_read_by_count_ends_after_so_many_records_and_asks_for_the_rest_after_a_cut() {
    let mut events = Vec::new();
    let settings = settings(ReaderFrom::Earliest, Some(ReaderTo::Count(7)));
    let mut progress = Progress::new(settings, "id".into(), &[start(0, 0), start(1, 0)], None, &mut events);
    progress.frame(batches(0, vec![stored(0, 4, 1)]), &mut events).unwrap();
    let end = progress.request().end.unwrap().at;
    assert_eq!(end, Some(v1::read_end::At::Count(3)));
    progress.frame(batches(1, vec![stored(0, 4, 1)]), &mut events).unwrap();
    assert_eq!(offsets(&events), [0, 1, 2, 3, 0, 1, 2]);
    assert!(progress.is_finished());
}

#[test]
fn a_read_to_the_high_watermark_ends_where_it_was_at_the_beginning_whatever_comes_later() {
    let mut events = Vec::new();
    let (starts, watermarks) = ([start(0, 0), start(1, 5)], [end(0, 6), end(1, 5)]);
    let settings = settings(ReaderFrom::Earliest, None);
    let mut progress = Progress::new(settings, "id".into(), &starts, Some(&watermarks), &mut events);
    assert_eq!(ends(&events), [(1, 5)], "a partition with nothing to read ends at once");
    progress.frame(batches(1, vec![stored(5, 3, 1)]), &mut events).unwrap();
    progress.frame(batches(0, vec![stored(0, 4, 1), stored(4, 4, 1)]), &mut events).unwrap();
    assert_eq!(offsets(&events), [0, 1, 2, 3, 4, 5]);
    assert_eq!(ends(&events), [(1, 5), (0, 6)]);
    assert!(progress.is_finished());
}

#[test]
fn of_4_a_read_to_a_time_ends_before_the_first_batch_appended_then() {
    let mut events = Vec::new();
    let settings = settings(ReaderFrom::Earliest, Some(ReaderTo::TimestampMs(40)));
    let mut progress = Progress::new(settings, "id".into(), &[start(0, 0)], None, &mut events);
    progress.frame(batches(0, vec![stored(0, 4, 1), stored(4, 4, 1)]), &mut events).unwrap();
    assert_eq!((offsets(&events), ends(&events)), (vec![0, 1, 2, 3], vec![(0, 4)]));
}

#[test]
fn c5_a_batch_with_a_flipped_bit_is_never_handed_out() {
    let whole = stored(0, 3, 1);
    for byte in 0..whole.batch.len() {
        // Base offset and leader epoch lie outside the checksum; the base offset is compared, the epoch unused.
        if (12..16).contains(&byte) {
            continue;
        }
        let mut bytes = whole.batch.to_vec();
        bytes[byte] ^= 0x10;
        let damaged = v1::StoredBatch { batch: bytes.into(), ..whole.clone() };
        let mut events = Vec::new();
        let settings = settings(ReaderFrom::Earliest, Some(ReaderTo::Count(9)));
        let mut progress = Progress::new(settings, "id".into(), &[start(0, 0)], None, &mut events);
        let error = progress.frame(batches(0, vec![damaged]), &mut events).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::DataLoss, "byte {byte}");
        assert!(events.is_empty());
    }
}

#[test]
fn a_hole_that_no_gap_told_is_an_error_and_one_that_was_told_is_a_gap() {
    let mut events = Vec::new();
    let settings = settings(ReaderFrom::Earliest, Some(ReaderTo::Count(99)));
    let mut progress = Progress::new(settings, "id".into(), &[start(0, 0)], None, &mut events);
    progress.frame(batches(0, vec![stored(0, 2, 1)]), &mut events).unwrap();
    let mut lost = Vec::new();
    assert_eq!(progress.frame(batches(0, vec![stored(5, 2, 1)]), &mut lost).unwrap_err().kind(), ErrorKind::DataLoss);
    let gap = v1::Gap { partition: 0, from: 2, to: 5, reason: v1::GapReason::Corrupt.into() };
    progress.frame(v1::ReadResponse { frame: Some(v1::read_response::Frame::Gap(gap)) }, &mut events).unwrap();
    progress.frame(batches(0, vec![stored(5, 2, 1)]), &mut events).unwrap();
    assert_eq!(offsets(&events), [0, 1, 5, 6]);
    let told = ReadEvent::Gap { partition: 0, from: 2, to: 5, reason: GapReason::Corrupt };
    assert!(events.iter().any(|event| matches!(event, BatchEvent::Event(event) if *event == told)));
}

#[test]
fn d3_after_a_cut_the_epoch_of_the_last_record_goes_with_the_offset() {
    let mut events = Vec::new();
    let settings = settings(ReaderFrom::Earliest, Some(ReaderTo::Count(99)));
    let mut progress = Progress::new(settings, "id".into(), &[start(0, 0)], None, &mut events);
    progress.frame(batches(0, vec![stored(0, 2, 3), stored(2, 2, 7)]), &mut events).unwrap();
    assert_eq!(progress.positions(), [Start { partition: 0, offset: 4, epoch: Some(7) }]);
    let request = progress.request();
    let Some(v1::read_start::At::Partitions(starts)) = request.start.unwrap().at else { panic!("exact starts") };
    assert_eq!(starts.starts, [v1::PartitionStart { partition: 0, offset: 4, epoch: Some(7) }]);
    assert_eq!(request.topic_id, "id");
}

#[test]
fn re_4_what_retention_removed_during_a_cut_is_a_gap_but_a_start_that_was_never_there_is_an_error() {
    let out_of_range = Error::refused(ErrorReason::OffsetOutOfRange, "gone")
        .with_fact("partition", "0")
        .with_fact("earliest", "9")
        .with_fact("latest", "20");
    let mut events = Vec::new();
    let settings = settings(ReaderFrom::Offset(0), Some(ReaderTo::Count(99)));
    let mut progress = Progress::new(settings, "id".into(), &[start(0, 0)], None, &mut events);
    assert!(!progress.out_of_range(&out_of_range, &mut events));
    progress.frame(batches(0, vec![stored(0, 2, 1)]), &mut events).unwrap();
    assert!(progress.out_of_range(&out_of_range, &mut events));
    let gap = ReadEvent::Gap { partition: 0, from: 2, to: 9, reason: GapReason::Retention };
    assert!(matches!(events.last(), Some(BatchEvent::Event(event)) if *event == gap));
    assert_eq!(progress.positions(), [start(0, 9)]);
}

#[test]
fn a_read_from_the_earliest_record_begins_at_the_new_log_start_if_that_rose_meanwhile() {
    let out_of_range =
        Error::refused(ErrorReason::OffsetOutOfRange, "gone").with_fact("partition", "0").with_fact("earliest", "9");
    let mut events = Vec::new();
    let settings = settings(ReaderFrom::Earliest, Some(ReaderTo::Count(99)));
    let mut progress = Progress::new(settings, "id".into(), &[start(0, 2)], None, &mut events);
    assert!(progress.out_of_range(&out_of_range, &mut events));
    assert!(events.is_empty());
    assert_eq!(progress.positions(), [start(0, 9)]);
}

#[test]
fn fc_4_caught_up_and_fell_behind_are_told_on_each_change_only() {
    use v1::read_response::Frame;
    let mut events = Vec::new();
    let settings = settings(ReaderFrom::Earliest, Some(ReaderTo::Count(99)));
    let mut progress = Progress::new(settings, "id".into(), &[start(0, 0)], None, &mut events);
    let caught_up = || Frame::CaughtUp(v1::CaughtUp { partition: 0, offset: 0, append_time_ms: 0 });
    let fell_behind = || Frame::FellBehind(v1::FellBehind { partition: 0, offset: 0 });
    // The second `CaughtUp` is what a stream resumed after a cut begins with.
    for frame in [caught_up(), caught_up(), fell_behind(), fell_behind(), caught_up()] {
        progress.frame(v1::ReadResponse { frame: Some(frame) }, &mut events).unwrap();
    }
    let told: Vec<bool> =
        events.iter().map(|event| matches!(event, BatchEvent::Event(ReadEvent::CaughtUp { .. }))).collect();
    assert_eq!(told, [true, false, true]);
}

#[test]
fn a_filtered_read_goes_on_behind_what_was_filtered_out() {
    use v1::read_response::Frame;
    let mut settings = settings(ReaderFrom::Earliest, Some(ReaderTo::Count(99)));
    settings.filter = Some(v1::ReadFilter::default());
    let mut events = Vec::new();
    let mut progress = Progress::new(settings, "id".into(), &[start(0, 0)], None, &mut events);
    let record = |offset| v1::PositionedRecord { offset, append_time_ms: 1, epoch: 2, record: None };
    let frame = v1::RecordsFrame { partition: 0, records: vec![record(1), record(5)] };
    progress.frame(v1::ReadResponse { frame: Some(Frame::Records(frame.clone())) }, &mut events).unwrap();
    // The same frame again, as after a cut: nothing new.
    progress.frame(v1::ReadResponse { frame: Some(Frame::Records(frame)) }, &mut events).unwrap();
    assert_eq!(events.len(), 2);
    let caught_up = v1::CaughtUp { partition: 0, offset: 9, append_time_ms: 0 };
    progress.frame(v1::ReadResponse { frame: Some(Frame::CaughtUp(caught_up)) }, &mut events).unwrap();
    assert_eq!(progress.positions()[0].offset, 9);
}

#[test]
fn starts_are_made_exact_before_the_first_request() {
    let (latest, earliest) = ([end(0, 100), end(1, 3)], [end(0, 95), end(1, 0)]);
    let exact = |from| starts_at(&from, &latest, &earliest).iter().map(|start| start.offset).collect::<Vec<_>>();
    assert_eq!(exact(ReaderFrom::Latest), [100, 3]);
    assert_eq!(exact(ReaderFrom::Last(10)), [95, 0]);
    assert_eq!(exact(ReaderFrom::Last(2)), [98, 1]);
    assert_eq!(exact(ReaderFrom::Offset(7)), [7, 7]);
    assert_eq!(exact(ReaderFrom::Starts(vec![start(1, 2)])), [2]);
}

#[test]
fn a_read_cut_anywhere_gives_each_record_once_and_in_order() {
    for seed in 0..300_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut chance = |of: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % of
        };
        let mut log = Vec::new();
        let mut next = 0;
        while next < 100 {
            let count = 1 + chance(7);
            log.push((next, count as u32));
            next += count;
        }
        let first = chance(50);
        let settings = settings(ReaderFrom::Offset(first), None);
        let mut events = Vec::new();
        let watermark = [end(0, next)];
        let mut progress = Progress::new(settings, "id".into(), &[start(0, first)], Some(&watermark), &mut events);
        let mut streams = 0;
        while !progress.is_finished() {
            streams += 1;
            assert!(streams < 1000, "seed {seed}");
            let Some(v1::read_start::At::Partitions(starts)) = progress.request().start.unwrap().at else {
                panic!("exact starts")
            };
            let from = unsigned(starts.starts[0].offset);
            for (base, count) in log.iter().filter(|(base, count)| base + u64::from(*count) > from) {
                if chance(4) == 0 {
                    break;
                }
                progress.frame(batches(0, vec![stored(*base, *count, 1)]), &mut events).unwrap();
            }
        }
        assert_eq!(offsets(&events), (first..next).collect::<Vec<_>>(), "seed {seed}");
    }
}
