//! Rules PR-7 and PR-12 on the state alone.

use std::time::Duration;

use bytes::Bytes;
use sawlog_proto::batch::{BatchHeader, Codec, ProducerStamp};

use super::producers::{Decision, Kept, Producers, advance_sequence};
use super::{AppendFailure, CheckedBatch, Monotonic, Offset, PartitionEpoch, ProducerDirectory, RequestStamp};

const TTL: Duration = Duration::from_secs(3_600);

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("a small number is an offset")
}

fn header(records: u32, producer: Option<ProducerStamp>) -> BatchHeader {
    BatchHeader {
        base_offset: 0,
        leader_epoch: 0,
        total_bytes: 61,
        record_count: records,
        codec: Codec::None,
        base_timestamp_ms: 0,
        max_timestamp_ms: 0,
        producer,
    }
}

fn batch(producer_epoch: i16, base_sequence: i32, records: u32) -> CheckedBatch {
    let stamp = ProducerStamp { producer_id: 7, producer_epoch, base_sequence };
    CheckedBatch { header: header(records, Some(stamp)), bytes: Bytes::new(), request: None, events: None }
}

fn request(request_number: u64) -> CheckedBatch {
    let stamp = RequestStamp { producer_id: 7, producer_epoch: 0, request_number };
    CheckedBatch { header: header(2, None), bytes: Bytes::new(), request: Some(stamp), events: None }
}

fn kept(base: u64, batch: &CheckedBatch) -> Kept {
    let record_count = batch.header.record_count;
    Kept { base_offset: offset(base), record_count, epoch: PartitionEpoch::ZERO, append_time_ms: 5 }
}

/// A log of one partition, as far as producers are concerned.
struct Log {
    producers: Producers,
    end: u64,
}

impl Log {
    fn new() -> Self {
        Self { producers: Producers::new(TTL), end: 0 }
    }

    fn offer(&mut self, batch: &CheckedBatch) -> Decision {
        let decision = self.producers.decide(batch, None);
        if decision == Decision::Write {
            self.producers.wrote(batch, kept(self.end, batch), Monotonic::default());
            self.end += u64::from(batch.header.record_count);
        }
        decision
    }

    fn cut(&mut self, end: u64) {
        self.producers.truncate(offset(end));
        self.end = end;
    }
}

fn gap(expected: i32, found: i32) -> Decision {
    Decision::Refuse(AppendFailure::SequenceGap { producer_id: 7, expected, found })
}

#[test]
fn pr_7_a_repeated_batch_answers_its_first_offsets() {
    let mut log = Log::new();
    let (first, second) = (batch(0, 0, 3), batch(0, 3, 2));
    assert_eq!(log.offer(&first), Decision::Write);
    assert_eq!(log.offer(&second), Decision::Write);
    assert_eq!(log.offer(&first), Decision::Duplicate(kept(0, &first)));
    assert_eq!(log.offer(&second), Decision::Duplicate(kept(3, &second)));
}

#[test]
fn pr_7_a_missing_batch_is_a_gap_that_names_the_next_sequence() {
    let mut log = Log::new();
    log.offer(&batch(0, 0, 3));
    assert_eq!(log.offer(&batch(0, 4, 1)), gap(3, 4));
    assert_eq!(log.offer(&batch(0, 3, 1)), Decision::Write, "a refused batch uses no sequence");
}

#[test]
fn pr_7_what_is_older_than_the_window_is_too_old() {
    let mut log = Log::new();
    for sequence in 0..65 {
        assert_eq!(log.offer(&batch(0, sequence, 1)), Decision::Write);
    }
    let too_old = AppendFailure::SequenceTooOld { producer_id: 7, found: 0, oldest: 1 };
    assert_eq!(log.offer(&batch(0, 0, 1)), Decision::Refuse(too_old));
    let oldest = batch(0, 1, 1);
    assert_eq!(log.offer(&oldest), Decision::Duplicate(kept(1, &oldest)));
    assert!(matches!(log.offer(&batch(0, 2, 2)), Decision::Refuse(AppendFailure::SequenceTooOld { .. })));
}

#[test]
fn pr_7_sequences_wrap_as_in_kafka() {
    assert_eq!(advance_sequence(i32::MAX, 1), 0);
    assert_eq!(advance_sequence(i32::MAX - 1, 5), 3);
    let mut log = Log::new();
    log.offer(&batch(0, 0, 1));
    // As after two thousand million records: the next batch begins before the wrap and ends after it.
    log.producers.known.get_mut(&7).expect("it was written").batches[0].sequence = i32::MAX - 2;
    let across = batch(0, i32::MAX - 1, 4);
    assert_eq!(log.offer(&across), Decision::Write);
    assert_eq!(log.offer(&batch(0, 2, 1)), Decision::Write);
    assert_eq!(log.offer(&across), Decision::Duplicate(kept(1, &across)));
    assert_eq!(log.offer(&batch(0, 4, 1)), gap(3, 4));
    let old = log.offer(&batch(0, i32::MAX - 40, 1));
    assert!(matches!(old, Decision::Refuse(AppendFailure::SequenceTooOld { .. })), "{old:?}");
}

#[test]
fn pr_7_an_unknown_producer_is_told_so_and_never_of_a_gap() {
    let mut log = Log::new();
    let unknown = Decision::Refuse(AppendFailure::UnknownProducer { producer_id: 7 });
    assert_eq!(log.offer(&batch(0, 5, 1)), unknown);
    assert_eq!(log.offer(&batch(0, 0, 1)), Decision::Write);
    log.producers.expire(Monotonic(TTL));
    assert_eq!(log.offer(&batch(0, 1, 1)), unknown, "idle for its time to live");
}

#[test]
fn pr_7_a_newer_epoch_fences_the_older_and_begins_at_0() {
    let mut log = Log::new();
    log.offer(&batch(3, 0, 1));
    assert_eq!(log.offer(&batch(4, 1, 1)), gap(0, 1));
    assert_eq!(log.offer(&batch(4, 0, 1)), Decision::Write);
    let fenced = AppendFailure::ProducerFenced { producer_id: 7, found: 3, current: 4 };
    assert_eq!(log.offer(&batch(3, 0, 1)), Decision::Refuse(fenced.clone()));
    assert_eq!(log.offer(&batch(3, 1, 1)), Decision::Refuse(fenced));
}

#[test]
fn pr_7_a_bumped_epoch_fences_partitions_that_have_not_seen_it() {
    #[derive(Debug)]
    struct Directory;
    impl ProducerDirectory for Directory {
        fn epoch_of(&self, producer_id: i64) -> Option<i16> {
            (producer_id == 7).then_some(2)
        }
    }
    let producers = Producers::new(TTL);
    let decide = |batch: &CheckedBatch| producers.decide(batch, Some(&Directory));
    let fenced = AppendFailure::ProducerFenced { producer_id: 7, found: 1, current: 2 };
    assert_eq!(decide(&batch(1, 0, 1)), Decision::Refuse(fenced));
    assert_eq!(decide(&batch(2, 0, 1)), Decision::Write);
    let unknown = Decision::Refuse(AppendFailure::UnknownProducer { producer_id: 7 });
    assert_eq!(decide(&batch(3, 0, 1)), unknown, "an epoch that was never given");
    let mut stranger = batch(0, 0, 1);
    stranger.header.producer = Some(ProducerStamp { producer_id: 8, producer_epoch: 0, base_sequence: 0 });
    assert!(matches!(decide(&stranger), Decision::Refuse(AppendFailure::UnknownProducer { producer_id: 8 })));
}

#[test]
fn pr_7_plain_requests_are_idempotent_without_a_gap_check() {
    let mut log = Log::new();
    assert_eq!(log.offer(&request(10)), Decision::Write);
    assert_eq!(log.offer(&request(17)), Decision::Write, "a part for another partition was in between");
    assert_eq!(log.offer(&request(12)), Decision::Write, "a request that was overtaken");
    assert_eq!(log.offer(&request(12)), Decision::Duplicate(kept(4, &request(12))));
    for number in 20..82 {
        assert_eq!(log.offer(&request(number)), Decision::Write);
    }
    assert_eq!(log.offer(&request(12)), Decision::Duplicate(kept(4, &request(12))), "the 64 newest numbers are kept");
    let too_old = AppendFailure::SequenceTooOld { producer_id: 7, found: 10, oldest: 12 };
    assert_eq!(log.offer(&request(10)), Decision::Refuse(too_old));
}

#[test]
fn pr_12_a_cut_with_64_in_flight_names_the_sequence_that_survives() {
    let mut log = Log::new();
    for sequence in 0..100 {
        log.offer(&batch(0, sequence, 1));
    }
    log.cut(36);
    assert_eq!(log.offer(&batch(0, 100, 1)), gap(36, 100));
    assert_eq!(log.offer(&batch(0, 36, 1)), Decision::Write, "the client sends again what it holds");
    let again = batch(0, 36, 1);
    assert_eq!(log.offer(&again), Decision::Duplicate(kept(36, &again)));
}

#[test]
fn pr_12_a_cut_below_what_is_kept_makes_the_producer_unknown() {
    let mut log = Log::new();
    for sequence in 0..100 {
        log.offer(&batch(0, sequence, 1));
    }
    log.cut(20);
    let unknown = Decision::Refuse(AppendFailure::UnknownProducer { producer_id: 7 });
    for sequence in [0, 20, 36, 100] {
        assert_eq!(log.offer(&batch(0, sequence, 1)), unknown, "nobody knows whether {sequence} is next");
    }
    assert_eq!(log.offer(&batch(1, 0, 1)), Decision::Write, "a new epoch goes on");
}

#[test]
fn pr_12_a_cut_rolls_requests_back() {
    let mut log = Log::new();
    log.offer(&request(1));
    log.offer(&request(2));
    log.cut(2);
    assert_eq!(log.offer(&request(1)), Decision::Duplicate(kept(0, &request(1))));
    assert_eq!(log.offer(&request(2)), Decision::Write);
}

#[test]
fn f_6_a_producer_from_the_future_is_kept_for_its_time_to_live_at_most() {
    let mut producers = Producers::new(TTL);
    let stamp = ProducerStamp { producer_id: 7, producer_epoch: 0, base_sequence: 0 };
    let mut place = kept(0, &batch(0, 0, 1));
    place.append_time_ms = 10_i64.pow(15);
    producers.found(Some(stamp), None, place, Monotonic::default(), 1_000);
    producers.expire(Monotonic(TTL - Duration::from_millis(1)));
    assert_eq!(producers.known.len(), 1);
    producers.expire(Monotonic(TTL));
    assert!(producers.known.is_empty());
}

#[test]
fn f_6_time_idle_before_a_restart_counts() {
    let mut producers = Producers::new(TTL);
    let stamp = ProducerStamp { producer_id: 7, producer_epoch: 0, base_sequence: 0 };
    let wall_ms = 5 + i64::try_from(TTL.as_millis()).expect("an hour fits") - 1_000;
    producers.found(Some(stamp), None, kept(0, &batch(0, 0, 1)), Monotonic::default(), wall_ms);
    producers.expire(Monotonic(Duration::from_millis(999)));
    assert_eq!(producers.known.len(), 1);
    producers.expire(Monotonic(Duration::from_millis(1_000)));
    assert!(producers.known.is_empty());
}
