//! The window against a small model of a broker's partition, and each answer by itself.

use std::time::Duration;

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchBuilder, BatchHeader, BatchLimits, Codec};
use sawlog_proto::v1;

use super::super::receipt::{Completion, Receipt};
use super::*;
use crate::error::ErrorReason;
use crate::types::AckLevel;

const IDENTITY: Identity = Identity { producer_id: 7, epoch: 0 };

fn filled(id: u64, partition: u32, values: &[&str]) -> Filled {
    let mut builder = BatchBuilder::new(Codec::None);
    for value in values {
        builder.push(1, None, Some(value.as_bytes()), std::iter::empty());
    }
    let (bytes, opened_at) = (values.len(), Instant::now());
    Filled { id, partition, builder, completion: std::sync::Arc::default(), bytes, opened_at }
}

fn far() -> Instant {
    Instant::now() + Duration::from_secs(3600)
}

/// A window with `batches` batches of two records in partition 0, and their completions.
fn window_with(batches: u64) -> (Window, Vec<std::sync::Arc<Completion>>) {
    let mut window = Window::new(2, 64, Some(IDENTITY));
    let completions = (0..batches)
        .map(|id| {
            let filled = filled(id, 0, &[&format!("{id}a"), &format!("{id}b")]);
            let completion = std::sync::Arc::clone(&filled.completion);
            window.admit(filled, far());
            completion
        })
        .collect();
    (window, completions)
}

fn send_all(window: &mut Window) -> Vec<Outgoing> {
    std::iter::from_fn(|| window.next_send(far() - Duration::from_secs(1))).collect()
}

fn sequences(sent: &[Outgoing]) -> Vec<i32> {
    sent.iter().map(|out| stamp(&out.batch).base_sequence).collect()
}

fn stamp(batch: &Bytes) -> batch::ProducerStamp {
    header(batch).producer.expect("an idempotent producer stamps its batches")
}

fn header(batch: &Bytes) -> BatchHeader {
    batch::check(batch, &BatchLimits::DEFAULT, true).expect("every batch sent is whole")
}

fn place(base_offset: u64) -> BatchPlace {
    BatchPlace {
        topic_id: "t".into(),
        partition: 0,
        epoch: 1,
        base_offset,
        append_time_ms: 5,
        duplicate: false,
        ack: AckLevel::Written,
        left: Vec::new(),
    }
}

fn failure(reason: ErrorReason, facts: &[(&str, &str)], retry_after_ms: Option<i64>) -> BatchFailure {
    let facts = facts.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let failure = v1::Failure { reason: reason.into(), message: String::new(), facts, retry_after_ms };
    BatchFailure::of(Error::from_failure(&failure))
}

fn gap(expected: i32) -> BatchFailure {
    failure(ErrorReason::SeqGap, &[("expected", &expected.to_string()), ("outcome", "not_written")], None)
}

fn answer(window: &mut Window, sent: &Outgoing, answer: Result<BatchPlace, BatchFailure>) {
    window.answered(sent.request_id, answer, Instant::now()).unwrap();
}

fn offset_of(completion: &std::sync::Arc<Completion>, index: u32) -> Option<Result<u64, Error>> {
    let position = Receipt::new(std::sync::Arc::clone(completion), index).try_position()?;
    Some(position.map(|position| position.offset))
}

#[test]
fn batches_are_numbered_by_their_records_and_at_most_the_window_is_unanswered() {
    let mut window = Window::new(1, 3, Some(IDENTITY));
    for id in 0..3 {
        assert_eq!(window.room(0), Room { batches: 3 - id as usize, idle: id == 0 });
        window.admit(filled(id, 0, &["x", "y"]), far());
    }
    assert_eq!(window.room(0).batches, 0);
    let sent = send_all(&mut window);
    assert_eq!(sequences(&sent), [0, 2, 4]);
    answer(&mut window, &sent[0], Ok(place(0)));
    assert_eq!(window.room(0).batches, 1);
}

#[test]
fn pr_10_after_a_cut_what_is_unanswered_is_sent_again_in_order_as_it_was() {
    let (mut window, completions) = window_with(4);
    let sent = send_all(&mut window);
    answer(&mut window, &sent[0], Ok(place(0)));
    window.cut(&Error::new(ErrorKind::Unavailable, "cut"), true);
    let again = send_all(&mut window);
    assert_eq!(
        again.iter().map(|out| &out.batch).collect::<Vec<_>>(),
        [&sent[1].batch, &sent[2].batch, &sent[3].batch]
    );
    assert!(again[0].request_id > sent[3].request_id, "a request id is not used twice");
    answer(&mut window, &again[0], Ok(BatchPlace { duplicate: true, ..place(2) }));
    assert_eq!(offset_of(&completions[1], 1).unwrap().unwrap(), 3);
    assert!(offset_of(&completions[2], 0).is_none());
}

#[test]
fn pr_7_a_refused_batch_uses_no_sequence_and_those_behind_it_are_numbered_and_sent_again_in_order() {
    let (mut window, completions) = window_with(3);
    let sent = send_all(&mut window);
    answer(&mut window, &sent[0], Err(failure(ErrorReason::InvalidTimestamp, &[("outcome", "not_written")], None)));
    assert!(send_all(&mut window).is_empty(), "nothing goes while the stream has older batches of the partition");
    answer(&mut window, &sent[1], Err(gap(0)));
    answer(&mut window, &sent[2], Err(gap(0)));
    let again = send_all(&mut window);
    assert_eq!(sequences(&again), [0, 2]);
    answer(&mut window, &again[0], Ok(place(0)));
    answer(&mut window, &again[1], Ok(place(2)));
    assert_eq!(offset_of(&completions[0], 0).unwrap().unwrap_err().reason(), Some(ErrorReason::InvalidTimestamp));
    assert_eq!(offset_of(&completions[2], 0).unwrap().unwrap(), 2);
    assert!(window.is_empty() && window.take_lost().is_empty());
}

#[test]
fn pr_7_after_a_refusal_with_nothing_behind_it_the_next_batch_takes_its_sequence() {
    let (mut window, _) = window_with(1);
    let sent = send_all(&mut window);
    answer(&mut window, &sent[0], Err(failure(ErrorReason::KeyRequired, &[("outcome", "not_written")], None)));
    window.admit(filled(9, 0, &["next"]), far());
    assert_eq!(sequences(&send_all(&mut window)), [0]);
}

#[test]
fn a_refusal_of_unknown_outcome_never_lets_another_batch_take_its_sequence() {
    let (mut window, _) = window_with(1);
    let sent = send_all(&mut window);
    answer(&mut window, &sent[0], Err(failure(ErrorReason::Bug, &[("outcome", "unknown")], None)));
    window.admit(filled(9, 0, &["next"]), far());
    assert_eq!(window.need(), Some(Need::NewEpoch));
    assert!(send_all(&mut window).is_empty());
}

#[test]
fn pr_3_a_bad_record_does_not_take_its_neighbours_down() {
    let mut window = Window::new(1, 64, Some(IDENTITY));
    let batch = filled(0, 0, &["a", "bad", "c", "worse", "e"]);
    let completion = std::sync::Arc::clone(&batch.completion);
    window.admit(batch, far());
    let sent = send_all(&mut window);
    let bad = |index| {
        let mut failure = failure(ErrorReason::InvalidTimestamp, &[("outcome", "not_written")], None);
        failure.records = vec![(index, failure.error.clone())];
        failure
    };
    answer(&mut window, &sent[0], Err(bad(1)));
    let again = send_all(&mut window);
    assert_eq!(header(&again[0].batch).record_count, 4);
    // "worse" stands at 2 in the batch of four.
    answer(&mut window, &again[0], Err(bad(2)));
    let last = send_all(&mut window);
    assert_eq!((header(&last[0].batch).record_count, stamp(&last[0].batch).base_sequence), (3, 0));
    answer(&mut window, &last[0], Ok(place(10)));
    let offsets: Vec<_> = (0..5).map(|index| offset_of(&completion, index).unwrap().ok()).collect();
    assert_eq!(offsets, [Some(10), None, Some(11), None, Some(12)]);
}

#[test]
fn what_is_not_possible_now_is_sent_again_after_the_time_told_with_its_number() {
    let (mut window, _) = window_with(2);
    let sent = send_all(&mut window);
    let now = Instant::now();
    let full = failure(ErrorReason::DiskLow, &[("outcome", "not_written")], Some(5_000));
    window.answered(sent[0].request_id, Err(full), now).unwrap();
    answer(&mut window, &sent[1], Err(gap(0)));
    assert!(window.next_send(now + Duration::from_secs(4)).is_none());
    assert!(window.next_deadline(now).unwrap() >= now + Duration::from_secs(5));
    assert_eq!(sequences(&send_all(&mut window)), [0, 2]);
}

#[test]
fn one_partition_that_waits_does_not_hold_up_another() {
    let (mut window, _) = window_with(1);
    let sent = send_all(&mut window);
    let now = Instant::now();
    let fenced = failure(ErrorReason::PartitionFenced, &[("outcome", "unknown")], Some(60_000));
    window.answered(sent[0].request_id, Err(fenced), now).unwrap();
    window.admit(filled(5, 1, &["other"]), far());
    let other = window.next_send(now).unwrap();
    assert_eq!(other.partition, 1);
    assert!(window.next_send(now).is_none());
}

#[test]
fn pr_7_an_unknown_producer_takes_a_new_epoch_and_gives_back_what_has_an_unknown_outcome() {
    let (mut window, completions) = window_with(3);
    let sent = send_all(&mut window);
    answer(&mut window, &sent[0], Ok(place(0)));
    window.cut(&Error::new(ErrorKind::Unavailable, "cut"), true);
    window.admit(filled(8, 0, &["new"]), far());
    let again = send_all(&mut window);
    let unknown = || failure(ErrorReason::UnknownProducer, &[("outcome", "not_written")], None);
    for out in &again {
        answer(&mut window, out, Err(unknown()));
    }
    assert_eq!(window.need(), Some(Need::NewEpoch));
    window.renewed(Identity { producer_id: 7, epoch: 1 });
    for completion in &completions[1..] {
        let error = offset_of(completion, 0).unwrap().unwrap_err();
        assert_eq!(error.outcome(), Some(Outcome::Unknown));
    }
    // The batch that was first sent after the cut was surely not written.
    let fresh = send_all(&mut window);
    assert_eq!(fresh.len(), 1);
    assert_eq!((stamp(&fresh[0].batch).producer_epoch, stamp(&fresh[0].batch).base_sequence), (1, 0));
}

#[test]
fn pr_12_cut_with_64_in_flight_what_is_held_goes_again_under_a_new_epoch_and_what_is_not_is_reported() {
    let (mut window, completions) = window_with(64);
    let sent = send_all(&mut window);
    assert_eq!(sent.len(), 64);
    // Ten batches were acknowledged at `written`, then the broker lost them all but three.
    for (number, out) in sent[..10].iter().enumerate() {
        answer(&mut window, out, Ok(place(100 + 2 * number as u64)));
    }
    for out in &sent[10..] {
        answer(&mut window, out, Err(gap(6)));
    }
    assert!(send_all(&mut window).is_empty());
    let lost = LostRecords { partition: 0, records: 14, first_offset: Some(106) };
    assert_eq!(window.take_lost(), [lost]);
    assert_eq!(window.need(), Some(Need::NewEpoch));
    window.renewed(Identity { producer_id: 7, epoch: 1 });
    let again = send_all(&mut window);
    assert_eq!(again.len(), 54);
    assert_eq!(sequences(&again), (0..54).map(|batch| 2 * batch).collect::<Vec<_>>());
    for (number, out) in again.iter().enumerate() {
        answer(&mut window, out, Ok(place(106 + 2 * number as u64)));
    }
    assert!(completions.iter().all(|completion| offset_of(completion, 1).unwrap().is_ok()));
}

#[test]
fn a_fenced_producer_stops_for_good() {
    let (mut window, completions) = window_with(2);
    let sent = send_all(&mut window);
    answer(&mut window, &sent[0], Err(failure(ErrorReason::ProducerFenced, &[("outcome", "not_written")], None)));
    let fatal = window.fatal().unwrap().clone();
    window.fail_all(&fatal);
    let error = offset_of(&completions[1], 0).unwrap().unwrap_err();
    assert_eq!((error.reason(), error.outcome()), (Some(ErrorReason::ProducerFenced), Some(Outcome::Unknown)));
}

#[test]
fn pr_13_a_stale_revision_is_looked_up_and_the_batch_sent_again() {
    let (mut window, _) = window_with(1);
    let sent = send_all(&mut window);
    answer(&mut window, &sent[0], Err(failure(ErrorReason::StaleRevision, &[("outcome", "not_written")], None)));
    assert_eq!(window.need(), Some(Need::Refresh));
    window.refreshed();
    assert_eq!(sequences(&send_all(&mut window)), [0]);
}

#[test]
fn without_idempotence_what_was_under_way_at_a_cut_is_given_back_and_the_rest_goes_on() {
    let mut window = Window::new(1, 64, None);
    let (first, second) = (filled(0, 0, &["a"]), filled(1, 0, &["b"]));
    let completion = std::sync::Arc::clone(&first.completion);
    window.admit(first, far());
    let sent = send_all(&mut window);
    assert_eq!(header(&sent[0].batch).producer, None);
    window.admit(second, far());
    window.cut(&Error::new(ErrorKind::Unavailable, "cut"), true);
    assert_eq!(offset_of(&completion, 0).unwrap().unwrap_err().outcome(), Some(Outcome::Unknown));
    assert_eq!(send_all(&mut window).len(), 1);
}

#[test]
fn what_never_found_a_connection_was_surely_not_written() {
    for identity in [Some(IDENTITY), None] {
        let mut window = Window::new(1, 64, identity);
        let soon = Instant::now() + Duration::from_secs(1);
        let batch = filled(0, 0, &["a"]);
        let completion = std::sync::Arc::clone(&batch.completion);
        window.admit(batch, soon);
        assert_eq!(send_all(&mut window).len(), 1);
        window.cut(&Error::new(ErrorKind::Unavailable, "refused"), false);
        assert!(offset_of(&completion, 0).is_none(), "it is tried again");
        assert!(!window.expire(soon));
        assert_eq!(offset_of(&completion, 0).unwrap().unwrap_err().outcome(), Some(Outcome::NotWritten));
        assert_eq!(window.need(), None);
    }
}

#[test]
fn a_batch_beyond_its_deadline_is_given_back_and_its_sequence_only_used_if_it_was_surely_not_written() {
    let mut window = Window::new(1, 64, Some(IDENTITY));
    let soon = Instant::now() + Duration::from_secs(1);
    let early = filled(0, 0, &["a"]);
    let completion = std::sync::Arc::clone(&early.completion);
    window.admit(early, soon);
    window.admit(filled(1, 0, &["b"]), far());
    let sent = send_all(&mut window);
    assert!(window.expire(soon), "what is on the stream is not given back before the stream is cut");
    assert!(offset_of(&completion, 0).is_none() && sent.len() == 2);
    window.cut(&Error::new(ErrorKind::Timeout, "silent"), true);
    assert!(!window.expire(soon));
    assert_eq!(offset_of(&completion, 0).unwrap().unwrap_err().outcome(), Some(Outcome::Unknown));
    assert_eq!(window.need(), Some(Need::NewEpoch));

    let mut window = Window::new(1, 64, Some(IDENTITY));
    window.admit(filled(0, 0, &["a"]), soon);
    window.admit(filled(1, 0, &["b"]), far());
    assert!(!window.expire(soon));
    assert_eq!((window.need(), sequences(&send_all(&mut window))), (None, vec![0]));
}

#[test]
fn an_answer_out_of_order_ends_the_stream() {
    let (mut window, _) = window_with(2);
    let sent = send_all(&mut window);
    assert!(window.answered(sent[1].request_id, Ok(place(0)), Instant::now()).is_err());
    assert!(Window::new(1, 1, None).answered(0, Ok(place(0)), Instant::now()).is_err());
}

#[test]
fn sequences_wrap_to_zero_after_the_greatest() {
    use super::super::lane::advance;
    assert_eq!(advance(i32::MAX, 1), 0);
    assert_eq!(advance(i32::MAX - 1, 4), 2);
    assert_eq!(distance(i32::MAX, 1), 2);
}

/// A partition as the broker keeps it for one producer: order, gaps, repeats, refusals, losses.
#[derive(Default)]
struct Model {
    epoch: i16,
    log: Vec<String>,
    written: Vec<(i32, u64, Vec<String>)>,
    next: i32,
}

impl Model {
    fn produce(&mut self, bytes: &Bytes, recovering: bool, refuse: bool) -> Result<BatchPlace, BatchFailure> {
        if recovering {
            // Said before anything is looked at, also to what was written long ago.
            return Err(failure(ErrorReason::Recovering, &[("outcome", "not_written")], Some(0)));
        }
        let (stamp, limits) = (stamp(bytes), BatchLimits::DEFAULT);
        let values: Vec<String> = batch::records(bytes, &limits)
            .unwrap()
            .map(|record| String::from_utf8(record.unwrap().value.unwrap().to_vec()).unwrap())
            .collect();
        if stamp.producer_epoch > self.epoch {
            (self.epoch, self.next) = (stamp.producer_epoch, 0);
            self.written.clear();
        }
        if let Some((_, offset, kept)) = self.written.iter().find(|(sequence, ..)| *sequence == stamp.base_sequence) {
            assert_eq!(*kept, values, "a sequence was given to other records");
            return Ok(BatchPlace { duplicate: true, ..place(*offset) });
        }
        if stamp.base_sequence != self.next {
            return Err(gap(self.next));
        }
        if values[0].starts_with("bad") {
            return Err(failure(ErrorReason::InvalidTimestamp, &[("outcome", "not_written")], None));
        }
        if refuse {
            return Err(failure(ErrorReason::DiskLow, &[("outcome", "not_written")], Some(0)));
        }
        let offset = self.log.len() as u64;
        self.written.push((stamp.base_sequence, offset, values.clone()));
        self.next += values.len() as i32;
        self.log.extend(values);
        Ok(place(offset))
    }
}

/// Records of the batch with this number; the bad ones are refused whenever they would be written.
fn values_of(id: u64) -> Vec<String> {
    let word = if id % 11 == 4 { "bad" } else { "good" };
    (0..1 + id % 3).map(|index| format!("{word} {id}.{index}")).collect()
}

#[test]
fn pr_7_whatever_is_cut_or_refused_each_record_is_written_once_and_in_order() {
    const BATCHES: u64 = 60;
    let mut unknown = 0;
    for seed in 0..300_u64 {
        let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        let mut chance = |of: u64| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % of
        };
        let (mut window, mut model) = (Window::new(1, 64, Some(IDENTITY)), Model::default());
        let (mut completions, mut on_the_way, mut rounds) = (Vec::new(), VecDeque::new(), 0);
        let mut recovering = 0_u64;
        while !window.is_empty() || (completions.len() as u64) < BATCHES {
            rounds += 1;
            assert!(rounds < 10_000, "seed {seed} does not come to an end");
            for id in completions.len() as u64..(completions.len() as u64 + chance(8)).min(BATCHES) {
                let values = values_of(id);
                let filled = filled(id, 0, &values.iter().map(String::as_str).collect::<Vec<_>>());
                completions.push(std::sync::Arc::clone(&filled.completion));
                window.admit(filled, far());
            }
            for out in send_all(&mut window) {
                recovering = if chance(20) == 0 { chance(5) } else { recovering.saturating_sub(1) };
                let outcome = model.produce(&out.batch, recovering > 0, chance(8) == 0);
                on_the_way.push_back((out, outcome));
            }
            for _ in 0..chance(on_the_way.len() as u64 + 1) {
                let (out, outcome) = on_the_way.pop_front().unwrap();
                answer(&mut window, &out, outcome);
            }
            if chance(6) == 0 {
                on_the_way.clear();
                window.cut(&Error::new(ErrorKind::Unavailable, "cut"), true);
            }
            if window.need() == Some(Need::NewEpoch) {
                // A bad batch was cut off and then refused: whether it used its sequence is not known.
                assert!(on_the_way.is_empty(), "seed {seed}");
                window.renewed(Identity { epoch: model.epoch + 1, ..IDENTITY });
            }
        }
        // Each record once at most, in order, where its receipt says; what is missing was told to be unknown.
        let mut behind = 0;
        for id in (0..BATCHES).filter(|id| id % 11 != 4) {
            let values = values_of(id);
            let found = model.log[behind..].iter().position(|value| *value == values[0]);
            match (offset_of(&completions[id as usize], 0).unwrap(), found) {
                (Ok(offset), Some(found)) => assert_eq!(offset, (behind + found) as u64, "seed {seed}"),
                (Err(error), _) => assert_eq!(error.outcome(), Some(Outcome::Unknown), "seed {seed}"),
                (Ok(offset), None) => panic!("seed {seed}: {id} is not at {offset}"),
            }
            if let Some(found) = found {
                assert_eq!(model.log[behind + found..][..values.len()], values, "seed {seed}");
                behind += found + values.len();
            }
        }
        let distinct: std::collections::HashSet<_> = model.log.iter().collect();
        assert!(distinct.len() == model.log.len() && behind == model.log.len(), "seed {seed}: {:?}", model.log);
        unknown += completions
            .iter()
            .filter(|one| offset_of(one, 0).unwrap().is_err_and(|error| error.outcome() == Some(Outcome::Unknown)))
            .count();
    }
    assert!(unknown < 300 * BATCHES as usize / 20, "an unknown outcome is rare: {unknown}");
}

fn repeat(index: u32, offset: u64) -> (u32, Left) {
    (index, Left::Repeat(Box::new(BatchPlace { duplicate: true, ..place(offset) }.position_of(0).unwrap())))
}

fn repeats(left: Vec<(u32, Left)>) -> BatchFailure {
    let not_written = failure(ErrorReason::NotWritten, &[("outcome", "not_written")], None);
    BatchFailure { left, ..not_written }
}

#[test]
fn pr_8_a_batch_with_repeats_uses_no_sequence_and_its_rest_is_sent_again_before_those_behind_it() {
    let mut window = Window::new(1, 64, Some(IDENTITY));
    let first = filled(0, 0, &["a", "b", "c", "b"]);
    let completion = std::sync::Arc::clone(&first.completion);
    window.admit(first, far());
    window.admit(filled(1, 0, &["x"]), far());
    let sent = send_all(&mut window);
    assert_eq!(sequences(&sent), [0, 4]);
    answer(&mut window, &sent[0], Err(repeats(vec![repeat(0, 70), (3, Left::SameAs(1))])));
    assert!(send_all(&mut window).is_empty(), "nothing goes while the stream has older batches of the partition");
    answer(&mut window, &sent[1], Err(gap(0)));
    let again = send_all(&mut window);
    assert_eq!(sequences(&again), [0, 2]);
    // Another producer has written the last of the rest meanwhile.
    answer(&mut window, &again[0], Err(repeats(vec![repeat(1, 90)])));
    answer(&mut window, &again[1], Err(gap(0)));
    let last = send_all(&mut window);
    assert_eq!(sequences(&last), [0, 1]);
    answer(&mut window, &last[0], Ok(place(100)));
    answer(&mut window, &last[1], Ok(place(101)));
    let offsets: Vec<u64> = (0..4).map(|index| offset_of(&completion, index).unwrap().unwrap()).collect();
    assert_eq!(offsets, [70, 100, 90, 100]);
    let duplicate = |index| Receipt::new(std::sync::Arc::clone(&completion), index).try_position().unwrap().unwrap();
    assert_eq!([0, 1, 2, 3].map(|index| duplicate(index).duplicate), [true, false, true, true]);
    assert!(window.take_settled().all(|settled| settled.error.is_none()) && window.is_empty());
}

#[test]
fn pr_8_a_batch_of_repeats_alone_is_settled_and_the_next_takes_its_sequence() {
    let (mut window, completions) = window_with(1);
    let sent = send_all(&mut window);
    answer(&mut window, &sent[0], Err(repeats(vec![repeat(0, 7), (1, Left::SameAs(0))])));
    assert_eq!([0, 1].map(|index| offset_of(&completions[0], index).unwrap().unwrap()), [7, 7]);
    window.admit(filled(9, 0, &["next"]), far());
    assert_eq!(sequences(&send_all(&mut window)), [0]);
}

#[test]
fn pr_8_without_idempotence_the_rest_of_a_batch_with_repeats_goes_back_to_its_caller() {
    let mut window = Window::new(1, 64, None);
    let first = filled(0, 0, &["a", "b"]);
    let completion = std::sync::Arc::clone(&first.completion);
    window.admit(first, far());
    let sent = send_all(&mut window);
    answer(&mut window, &sent[0], Err(repeats(vec![repeat(1, 3)])));
    assert_eq!(offset_of(&completion, 1).unwrap().unwrap(), 3);
    assert_eq!(offset_of(&completion, 0).unwrap().unwrap_err().reason(), Some(ErrorReason::NotWritten));
    assert!(window.is_empty());
}
