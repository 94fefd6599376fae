//! Batching: order, bounds, due times, refusals.

use super::*;
use bytes::Bytes;
use sawlog_proto::batch::{self, BatchLimits};

use crate::types::Header;

const RULES: TopicRules = TopicRules { partitions: 4, keyed: true, max_record_bytes: 1 << 20 };
const BATCHING: Batching = Batching {
    linger: Linger::Always(Duration::from_millis(5)),
    batch_bytes: 1000,
    buffer_bytes: 100_000,
    codec: Codec::None,
};
const OPEN: Room = Room { batches: 64, idle: false };

fn accumulator() -> Accumulator {
    Accumulator::new(RULES, BATCHING, 0)
}

fn keyed<'a>(key: &'a str, value: &'a [u8]) -> RecordRef<'a> {
    RecordRef { key: Some(key.as_bytes()), value: Some(value), ..RecordRef::default() }
}

fn now() -> Now {
    Now { instant: Instant::now(), wall_ms: 1_000 }
}

fn push(accumulator: &mut Accumulator, record: RecordRef<'_>) -> Step {
    accumulator.push(record, now).expect("there is room").1
}

fn refusal(accumulator: &mut Accumulator, record: RecordRef<'_>) -> ErrorReason {
    match accumulator.push(record, now) {
        Err(PushError::Refused(error)) => error.reason().expect("a refusal has a reason"),
        other => panic!("refused, not {other:?}"),
    }
}

fn take(accumulator: &mut Accumulator, at: Instant) -> Vec<Filled> {
    let mut out = Vec::new();
    accumulator.take_due(at, |_| OPEN, &mut out);
    out
}

fn values(filled: &mut Filled) -> Vec<Bytes> {
    let bytes = filled.builder.finish();
    let records = batch::records(&bytes, &BatchLimits::DEFAULT).unwrap();
    records.map(|record| record.unwrap().value.unwrap()).collect()
}

#[test]
fn records_leave_in_their_order_in_batches_within_their_bounds() {
    let mut accumulator = accumulator();
    for number in 0..100_u32 {
        push(&mut accumulator, keyed("k", &[number as u8; 90]));
    }
    let late = Instant::now() + Duration::from_secs(1);
    let mut batches = take(&mut accumulator, late);
    let mut next = 0;
    for filled in &mut batches {
        assert_eq!(filled.partition, partitioner::partition_of(b"k", 4));
        assert!(filled.builder.len_bytes() <= BATCHING.batch_bytes);
        for value in values(filled) {
            assert_eq!(value[0], next);
            next += 1;
        }
    }
    assert_eq!(next, 100);
    assert!(accumulator.is_empty());
}

#[test]
fn a_batch_has_at_most_ten_thousand_records() {
    let mut accumulator =
        Accumulator::new(RULES, Batching { batch_bytes: 4 << 20, buffer_bytes: 4 << 20, ..BATCHING }, 0);
    for _ in 0..=10_000 {
        push(&mut accumulator, keyed("k", b""));
    }
    let counts: Vec<u32> = take(&mut accumulator, Instant::now() + Duration::from_secs(1))
        .iter()
        .map(|filled| filled.builder.record_count())
        .collect();
    assert_eq!(counts, [10_000, 1]);
}

#[test]
fn an_open_batch_is_due_after_its_linger_or_at_once_when_flushed_pressed_or_idle() {
    let mut accumulator = accumulator();
    assert_eq!(push(&mut accumulator, keyed("k", b"1")), Step::Opened);
    assert_eq!(push(&mut accumulator, keyed("k", b"2")), Step::Joined);
    let mut out = Vec::new();
    let now = Instant::now();
    let due = accumulator.take_due(now, |_| OPEN, &mut out).expect("an open batch has its time");
    assert!(out.is_empty() && due <= now + Duration::from_millis(5));
    accumulator.take_due(due, |_| OPEN, &mut out);
    assert_eq!(out.len(), 1);

    push(&mut accumulator, keyed("k", b"3"));
    accumulator.flush();
    assert_eq!(take(&mut accumulator, now).len(), 1);

    let adaptive = Batching { linger: Linger::WhileBusy(Duration::from_secs(9)), ..BATCHING };
    let mut accumulator = Accumulator::new(RULES, adaptive, 0);
    push(&mut accumulator, keyed("k", b"4"));
    assert!(take(&mut accumulator, now).is_empty(), "something of the partition is under way");
    accumulator.take_due(Instant::now(), |_| Room { batches: 64, idle: true }, &mut out);
    assert_eq!(out.len(), 2);
}

#[test]
fn nothing_leaves_without_room_further_on() {
    let mut accumulator = accumulator();
    for _ in 0..40 {
        push(&mut accumulator, keyed("k", &[0; 90]));
    }
    let late = Instant::now() + Duration::from_secs(1);
    let mut out = Vec::new();
    accumulator.take_due(late, |_| Room { batches: 0, idle: false }, &mut out);
    assert!(out.is_empty());
    accumulator.take_due(late, |_| Room { batches: 2, idle: false }, &mut out);
    assert_eq!(out.len(), 2);
}

#[test]
fn memory_is_bounded_and_comes_back_when_batches_are_settled() {
    let mut accumulator = Accumulator::new(RULES, Batching { buffer_bytes: 1000, ..BATCHING }, 0);
    let mut taken = 0;
    while let Ok(_pushed) = accumulator.push(keyed("k", &[0; 90]), now) {
        taken += 1;
        assert!(taken < 100, "the bound holds");
    }
    assert!(matches!(accumulator.push(keyed("k", &[0; 90]), now), Err(PushError::Full)));
    // Some bytes are free, but too few: who waited would only try in vain, over and over.
    assert!(!accumulator.has_room(), "there is no room for the record that was refused");
    // Whoever waits for room does not wait for a linger.
    let batches = take(&mut accumulator, Instant::now());
    assert_eq!(batches.len(), 1);
    assert!(accumulator.push(keyed("k", &[0; 90]), now).is_err(), "handed on is not yet answered");
    accumulator.settled(batches[0].id, batches[0].bytes, None);
    assert_eq!(push(&mut accumulator, keyed("k", &[0; 90])), Step::Opened);
    let mut alone = Accumulator::new(RULES, Batching { buffer_bytes: 10, ..BATCHING }, 0);
    push(&mut alone, keyed("k", &[0; 500]));
}

#[test]
fn pr_1_and_pr_11_what_the_broker_would_refuse_never_joins_a_batch() {
    let mut accumulator = accumulator();
    let record = keyed("k", b"v");
    assert_eq!(refusal(&mut accumulator, RecordRef { key: None, ..record }), ErrorReason::KeyRequired);
    assert_eq!(refusal(&mut accumulator, RecordRef { key: Some(&[0; 1025]), ..record }), ErrorReason::KeyTooLarge);
    let large = vec![0; 1 << 20];
    assert_eq!(refusal(&mut accumulator, RecordRef { value: Some(&large), ..record }), ErrorReason::RecordTooLarge);
    let headers = vec![Header { key: "h".to_owned(), value: Bytes::new() }; 65];
    assert_eq!(refusal(&mut accumulator, RecordRef { headers: &headers, ..record }), ErrorReason::HeadersTooLarge);
    let headers = vec![Header { key: "h".to_owned(), value: vec![0; 65_536].into() }];
    assert_eq!(refusal(&mut accumulator, RecordRef { headers: &headers, ..record }), ErrorReason::HeadersTooLarge);
    let other = (partitioner::partition_of(b"k", 4) + 1) % 4;
    assert_eq!(refusal(&mut accumulator, RecordRef { partition: Some(other), ..record }), ErrorReason::WrongPartition);
    assert!(accumulator.is_empty());
}

#[test]
fn without_keys_the_choice_of_a_partition_is_free_and_records_without_one_spread_by_batches() {
    let rules = TopicRules { keyed: false, ..RULES };
    let mut accumulator = Accumulator::new(rules, BATCHING, 1);
    let plain = RecordRef { value: Some(&[0; 90]), ..RecordRef::default() };
    assert_eq!(refusal(&mut accumulator, RecordRef { partition: Some(4), ..plain }), ErrorReason::PartitionNotFound);
    push(&mut accumulator, RecordRef { partition: Some(3), ..plain });
    for _ in 0..20 {
        push(&mut accumulator, plain);
    }
    let late = Instant::now() + Duration::from_secs(1);
    let partitions: BTreeSet<u32> = take(&mut accumulator, late).iter().map(|filled| filled.partition).collect();
    assert_eq!(partitions, BTreeSet::from([1, 2, 3]));
}

#[test]
fn a_flush_is_done_when_all_before_it_is_settled_and_tells_the_first_failure() {
    let mut accumulator = accumulator();
    push(&mut accumulator, keyed("a", b"1"));
    let mark = accumulator.flush();
    push(&mut accumulator, keyed("b", b"2"));
    push(&mut accumulator, keyed("a", b"3"));
    assert!(!accumulator.flushed(mark));
    let batches = take(&mut accumulator, Instant::now() + Duration::from_secs(1));
    let first = batches.iter().find(|filled| filled.id == 0).unwrap();
    accumulator.settled(first.id, first.bytes, Some(&Error::closed("it")));
    assert!(accumulator.flushed(mark));
    assert!(accumulator.take_failure().is_some() && accumulator.take_failure().is_none());
}

#[test]
fn a_closed_accumulator_takes_nothing_and_gives_what_it_has() {
    let mut accumulator = accumulator();
    push(&mut accumulator, keyed("a", b"1"));
    accumulator.close(Error::closed("the producer"));
    assert!(matches!(accumulator.push(keyed("a", b"2"), now), Err(PushError::Refused(_))));
    assert_eq!(take(&mut accumulator, Instant::now()).len(), 1);
    assert!(accumulator.is_empty() && accumulator.is_closed());
}

#[test]
fn a_time_of_its_own_stays_and_others_get_the_time_of_their_batch() {
    let mut accumulator = accumulator();
    push(&mut accumulator, RecordRef { timestamp_ms: Some(7), ..keyed("k", b"1") });
    push(&mut accumulator, keyed("k", b"2"));
    let mut filled = take(&mut accumulator, Instant::now() + Duration::from_secs(1));
    let bytes = filled[0].builder.finish();
    let times: Vec<i64> =
        batch::records(&bytes, &BatchLimits::DEFAULT).unwrap().map(|record| record.unwrap().timestamp_ms).collect();
    assert_eq!(times, [7, 1_000]);
}
