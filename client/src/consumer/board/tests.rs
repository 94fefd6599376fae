//! The board against frames by hand.

use sawlog_proto::batch::{BatchBuilder, Codec};
use sawlog_proto::v1::{self, consume_request::Frame as Said, consume_response::Frame};
use tokio::sync::oneshot;

use super::*;
use crate::consumer::positions::{Commit, Position};
use crate::consumer::slots::Slot;

/// A slot for tests of leases.
pub(in super::super) fn slot_at(at: Instant) -> Slot {
    Slot {
        phase: Phase::Ready,
        source: 0,
        epoch: 1,
        offset: 0,
        record_epoch: 0,
        key_slot: 0,
        leased: true,
        entry: None,
        lane: None,
        record: None,
        bytes: 0,
        arrived_at: at,
        leased_at: at,
        lost: None,
        waiter: None,
        failures: 0,
        letter: None,
        again: None,
    }
}

/// A board, its time, and the frames that it wants to send.
struct Bench {
    board: Board,
    now: Instant,
    frames: VecDeque<v1::ConsumeRequest>,
    /// Epoch of the batches that come.
    epoch: u64,
}

impl Bench {
    fn new(mode: GroupMode, auto: bool, per_key: u32) -> Self {
        let rules = Rules { mode, auto, tries: 2, credit: (8, 8000) };
        let mut bench = Self { board: Board::new(rules), now: Instant::now(), frames: VecDeque::new(), epoch: 7 };
        bench.join(false, per_key, Vec::new());
        bench.assign(7, 0);
        bench
    }

    fn join(&mut self, resumed: bool, per_key: u32, in_work: Vec<v1::WorkResult>) {
        let joined = v1::Joined {
            mode: GroupMode::to_wire(Some(self.board.rules.mode)),
            max_in_flight_per_key: per_key,
            lease_ms: 30_000,
            max_processing_ms: 900_000,
            resumed,
            sources: vec![self.source()],
            in_work,
            ..v1::Joined::default()
        };
        self.board.joined(&joined, self.now).unwrap();
    }

    fn source(&self) -> v1::Source {
        v1::Source { source_id: 1, topic: "t".to_owned(), topic_id: "id".to_owned(), partition: 3 }
    }

    fn assign(&mut self, assignment_epoch: u64, start_offset: i64) {
        let slots = Some(v1::Slots { from: 0, to: 4096 });
        let source = Some(self.source());
        let unit = v1::Assignment { source, slots, assignment_epoch, start_offset, ..v1::Assignment::default() };
        let known = self.board.units().len();
        self.tell(Frame::Assign(v1::Assign { units: vec![unit] }));
        if self.board.units().len() > known {
            assert!(matches!(self.take_any(), Some(Taken::Event(ConsumerEvent::Assigned(_)))));
        }
    }

    fn tell(&mut self, frame: Frame) {
        self.board.frame(frame, self.now).unwrap();
    }

    fn records(&mut self, records: &[(i64, &str)]) {
        let deliveries = records.iter().map(|(offset, key)| delivery(*offset, key)).collect();
        self.deliver(deliveries);
    }

    fn deliver(&mut self, deliveries: Vec<v1::Delivery>) {
        let records =
            v1::Records { source_id: 1, assignment_epoch: 7, max_attempts: 6, deliveries, ..Default::default() };
        self.tell(Frame::Records(records));
    }

    /// Values are the offsets, keys `k0` to `k2` by them.
    fn batch(&mut self, base: u64, count: u64, marks: Vec<v1::MarkedOffset>) {
        let mut builder = BatchBuilder::new(Codec::None);
        for offset in base..base + count {
            let key = format!("k{}", offset % 3);
            builder.push(5, Some(key.as_bytes()), Some(offset.to_string().as_bytes()), std::iter::empty());
        }
        let mut batch = builder.finish().to_vec();
        batch[..8].copy_from_slice(&base.to_be_bytes());
        let info = v1::BatchInfo { base_offset: base as i64, record_count: count as u32, append_time_ms: 5, epoch: 2 };
        let stored = v1::StoredBatch { info: Some(info), batch: batch.into() };
        self.tell(Frame::Batches(v1::RecordBatches {
            source_id: 1,
            assignment_epoch: self.epoch,
            batches: vec![stored],
            marks,
            from_offset: base as i64,
            reached_offset: (base + count) as i64,
            replay_id: String::new(),
        }));
    }

    fn take_any(&mut self) -> Option<Taken> {
        self.board.take(self.now, false)
    }

    fn take(&mut self) -> Option<(Ticket, u64)> {
        match self.take_any()? {
            Taken::Record(ticket, record) => Some((ticket, record.offset)),
            other => panic!("{other:?}"),
        }
    }

    fn take_all(&mut self) -> Vec<(Ticket, u64)> {
        std::iter::from_fn(|| self.take()).collect()
    }

    fn offsets(&mut self) -> Vec<u64> {
        self.take_all().into_iter().map(|(_, offset)| offset).collect()
    }

    fn done(&mut self, ticket: Ticket) {
        self.board.finish(ticket, Verdict::Done, None, None, self.now);
    }

    fn fail(&mut self, ticket: Ticket, error: HandlerError) {
        self.board.finish(ticket, Verdict::Failed(Box::new(error)), None, None, self.now);
    }

    /// What the board says now, hints left out.
    fn said(&mut self) -> Vec<Said> {
        self.board.flush(self.now, &mut self.frames);
        let said = self.frames.drain(..).filter_map(|request| request.frame);
        said.filter(|frame| !matches!(frame, Said::Started(_))).collect()
    }

    fn answer(&mut self, sequence: u64, results: Vec<v1::WorkResult>) {
        self.tell(Frame::AckResult(v1::AckResult { sequence, results, failure: None }));
    }
}

fn delivery(offset: i64, key: &str) -> v1::Delivery {
    let key = Some(key.to_owned().into()).filter(|key: &bytes::Bytes| !key.is_empty());
    let record = v1::Record { key, value: Some("v".into()), ..v1::Record::default() };
    v1::Delivery { offset, record: Some(record), attempt: 1, epoch: 2, ..v1::Delivery::default() }
}

fn runs(work: &[v1::Work]) -> Vec<(i64, u32)> {
    work.iter().flat_map(|work| work.offsets.iter().map(|run| (run.from, run.count))).collect()
}

fn result(outcome: v1::WorkOutcome, runs: &[(i64, u32)]) -> v1::WorkResult {
    let offsets = runs.iter().map(|(from, count)| v1::OffsetRun { from: *from, count: *count }).collect();
    v1::WorkResult { source_id: 1, offsets, dlq_ids: Vec::new(), outcome: outcome.into() }
}

fn work(runs: &[(i64, u32)]) -> Vec<v1::Work> {
    let offsets = runs.iter().map(|(from, count)| v1::OffsetRun { from: *from, count: *count }).collect();
    vec![v1::Work { source_id: 1, assignment_epoch: 7, offsets, entries: Vec::new() }]
}

#[test]
fn ak_1_acks_gather_into_runs_under_the_epoch_of_their_delivery() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    bench.records(&[(5, "a"), (6, "b"), (7, "c"), (9, "d")]);
    for (ticket, _) in bench.take_all().into_iter().rev() {
        bench.done(ticket);
    }
    let said = bench.said();
    let [Said::Ack(ack)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(runs(&ack.work), [(5, 3), (9, 1)]);
    assert_eq!((ack.work[0].source_id, ack.work[0].assignment_epoch), (1, 7));
    assert!(!bench.board.is_drained(), "the answer is not there");
    bench.answer(ack.sequence, Vec::new());
    assert!(bench.board.is_drained() && bench.board.slots.len() == 0);
}

#[test]
fn acks_wait_while_some_are_out_unless_many_have_gathered() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    let mut sequences = Vec::new();
    for offset in 0..4 {
        bench.records(&[(offset, "a")]);
        let (ticket, _) = bench.take().unwrap();
        bench.done(ticket);
        let said = bench.said();
        let [Said::Ack(ack)] = said.as_slice() else { panic!("{said:?}") };
        sequences.push(ack.sequence);
    }
    bench.records(&[(4, "a"), (5, "b")]);
    for (ticket, _) in bench.take_all() {
        bench.done(ticket);
    }
    assert!(bench.said().is_empty(), "four frames are out");
    bench.answer(sequences[0], Vec::new());
    assert!(matches!(bench.said().as_slice(), [Said::Ack(ack)] if runs(&ack.work) == [(4, 2)]));
    for offset in 10..10 + 256 {
        bench.records(&[(offset, &offset.to_string())]);
        let (ticket, _) = bench.take().unwrap();
        bench.done(ticket);
    }
    assert!(matches!(bench.said().as_slice(), [Said::Ack(ack)] if runs(&ack.work) == [(10, 256)]));
}

#[test]
fn ko_1_with_more_in_flight_per_key_the_next_record_begins_when_the_one_before_is_done() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 4);
    bench.records(&[(1, "a"), (2, "a"), (3, "b"), (4, "a"), (5, ""), (6, "")]);
    let first = bench.take_all();
    assert_eq!(first.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [1, 3, 5, 6]);
    bench.done(first[0].0);
    let (second, offset) = bench.take().unwrap();
    assert_eq!(offset, 2);
    assert!(bench.take().is_none());
    bench.done(second);
    assert_eq!(bench.offsets(), [4]);
}

#[test]
fn ko_4_after_a_failure_the_records_behind_it_do_not_begin_and_are_dropped_when_recalled() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 4);
    bench.records(&[(1, "a"), (2, "a"), (3, "a")]);
    let (ticket, _) = bench.take().unwrap();
    bench.fail(ticket, HandlerError::retry("no").class("X"));
    assert!(bench.take().is_none());
    let said = bench.said();
    let [Said::Nack(nack)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((nack.kind(), runs(&nack.work)), (v1::NackKind::Retry, vec![(1, 1)]));
    assert_eq!(nack.error.as_ref().unwrap().class, "X");
    bench.tell(Frame::Recall(v1::Recall { work: work(&[(2, 2)]) }));
    bench.answer(nack.sequence, Vec::new());
    assert!(bench.take().is_none(), "the lane is empty");
    // Its next try comes as a new delivery, and the lane is free for it.
    bench.deliver(vec![v1::Delivery { attempt: 2, ..delivery(1, "a") }]);
    assert_eq!(bench.offsets(), [1]);
}

#[tokio::test]
async fn fc_5_a_recall_drops_what_was_not_started_and_tells_who_was_too_late() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    bench.records(&[(1, "a"), (2, "b")]);
    let (started, _) = bench.take().unwrap();
    bench.tell(Frame::Recall(v1::Recall { work: work(&[(1, 2)]) }));
    assert!(bench.take().is_none(), "2 is dropped");
    let (waiter, answer) = oneshot::channel();
    bench.board.finish(started, Verdict::Done, None, Some(waiter), bench.now);
    assert_eq!(answer.await.unwrap().unwrap(), AckOutcome::Recalled);
    assert!(bench.said().is_empty() && bench.board.slots.len() == 0);
}

#[tokio::test]
async fn ak_2_each_record_of_a_verb_gets_its_own_outcome() {
    let mut bench = Bench::new(GroupMode::Unordered, false, 1);
    bench.records(&[(1, "a"), (2, "b"), (3, "c")]);
    let mut answers = Vec::new();
    for (ticket, _) in bench.take_all() {
        let (waiter, answer) = oneshot::channel();
        bench.board.finish(ticket, Verdict::Done, None, Some(waiter), bench.now);
        answers.push(answer);
    }
    let said = bench.said();
    let [Said::Ack(ack)] = said.as_slice() else { panic!("{said:?}") };
    let results = vec![result(v1::WorkOutcome::Fenced, &[(1, 1)]), result(v1::WorkOutcome::AlreadySettled, &[(3, 1)])];
    bench.answer(ack.sequence, results);
    let mut outcomes = Vec::new();
    for answer in answers {
        outcomes.push(answer.await.unwrap().unwrap());
    }
    assert_eq!(outcomes, [AckOutcome::Fenced, AckOutcome::Done, AckOutcome::AlreadySettled]);
}

#[test]
fn gm_5_a_revoked_unit_is_let_go_when_what_was_started_of_it_is_decided() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    bench.records(&[(1, "a"), (2, "b")]);
    let (started, _) = bench.take().unwrap();
    let slots = Some(v1::Slots { from: 0, to: 4096 });
    bench.tell(Frame::Revoke(v1::Revoke { source_id: 1, slots, lost: false }));
    let said = bench.said();
    let [Said::Nack(nack)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((nack.kind(), runs(&nack.work)), (v1::NackKind::Release, vec![(2, 1)]));
    bench.done(started);
    let said = bench.said();
    assert!(matches!(said.as_slice(), [Said::Ack(_), Said::Revoked(revoked)] if revoked.slots == slots), "{said:?}");
    assert!(bench.board.units().is_empty());
}

#[test]
fn gm_5_a_revoke_of_some_slots_leaves_the_others() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    let (inside, outside): (Vec<_>, Vec<_>) =
        (0..40).map(|n| format!("k{n}")).partition(|key| sawlog_proto::partitioner::slot_of(key.as_bytes()) < 2048);
    let keys: Vec<_> = inside.iter().chain(&outside).collect();
    let records: Vec<_> = keys.iter().enumerate().map(|(at, key)| (at as i64, key.as_str())).collect();
    bench.records(&records);
    bench.tell(Frame::Revoke(v1::Revoke { source_id: 1, slots: Some(v1::Slots { from: 0, to: 2048 }), lost: false }));
    let said = bench.said();
    let [Said::Nack(nack), Said::Revoked(_)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(runs(&nack.work), [(0, inside.len() as u32)]);
    let units = bench.board.units();
    assert_eq!(units.iter().map(|unit| unit.slots).collect::<Vec<_>>(), [(2048, 4096)]);
}

#[test]
fn gm_8_a_resuming_member_tells_all_it_holds_and_says_its_verdicts_again() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    bench.records(&[(1, "a"), (2, "b"), (3, "c"), (4, "d"), (9, "e")]);
    let taken: Vec<_> = (0..3).filter_map(|_| bench.take()).collect();
    bench.done(taken[0].0);
    bench.said();
    bench.board.cut();
    let in_work = bench.board.in_work();
    assert_eq!(in_work.len(), 1);
    assert_eq!((in_work[0].topic_id.as_str(), in_work[0].partition, in_work[0].assignment_epoch), ("id", 3, 7));
    let runs_in_work: Vec<_> = in_work[0].offsets.iter().map(|run| (run.from, run.count)).collect();
    assert_eq!(runs_in_work, [(1, 4), (9, 1)]);
    // 3 was started, 9 was not: both are another's by now.
    bench.join(true, 1, vec![result(v1::WorkOutcome::Fenced, &[(3, 1), (9, 1)])]);
    let mut frames = VecDeque::new();
    bench.board.resend(&mut frames);
    assert!(matches!(&frames[0].frame, Some(Said::Ack(ack)) if runs(&ack.work) == [(1, 1)]));
    // What is told twice is held once.
    bench.records(&[(4, "d"), (5, "f")]);
    assert_eq!(bench.offsets(), [4, 5]);
    bench.done(taken[1].0);
    bench.done(taken[2].0);
    assert!(matches!(bench.said().as_slice(), [Said::Ack(ack)] if runs(&ack.work) == [(2, 1)]), "3 was lost");
}

/// A board whose member has said of a record what `say` says, was cut off, and came back; the record came again before the
/// verdict was answered. With it the number of the verdict.
fn came_again(say: impl Fn(&mut Bench, Ticket)) -> (Bench, u64) {
    let mut bench = Bench::new(GroupMode::Keyed, false, 1);
    bench.records(&[(5, "a")]);
    let (ticket, _) = bench.take().unwrap();
    say(&mut bench, ticket);
    assert_eq!(bench.said().len(), 1);
    bench.board.cut();
    bench.join(true, 1, vec![result(v1::WorkOutcome::NotLeased, &[(5, 1)])]);
    bench.board.resend(&mut bench.frames);
    let sequence = match &bench.said()[..] {
        [Said::Ack(ack)] => ack.sequence,
        [Said::Nack(nack)] => nack.sequence,
        other => panic!("{other:?}"),
    };
    bench.records(&[(5, "a"), (6, "b")]);
    assert_eq!(bench.offsets(), [6], "what came again waits for the answer");
    (bench, sequence)
}

#[test]
fn ak_10_what_came_again_before_its_verdict_was_answered_is_not_handed_out_once_it_is_settled() {
    for results in [Vec::new(), vec![result(v1::WorkOutcome::AlreadySettled, &[(5, 1)])]] {
        let (mut bench, sequence) = came_again(Bench::done);
        bench.answer(sequence, results);
        assert_eq!(bench.offsets(), [0; 0]);
        assert_eq!(bench.board.slots.len(), 1, "only the other one is held");
    }
}

#[test]
fn rt_1_what_came_again_begins_if_its_verdict_has_not_settled_it() {
    let (mut bench, sequence) = came_again(Bench::done);
    bench.answer(sequence, vec![result(v1::WorkOutcome::NotLeased, &[(5, 1)])]);
    assert_eq!(bench.offsets(), [5]);
    let (mut bench, sequence) = came_again(|bench, ticket| bench.fail(ticket, HandlerError::release()));
    bench.answer(sequence, Vec::new());
    assert_eq!(bench.offsets(), [5]);
}

#[test]
fn ak_2_a_verdict_that_is_refused_as_a_whole_has_settled_nothing() {
    let (mut bench, sequence) = came_again(Bench::done);
    let failure = v1::Failure { reason: v1::ErrorReason::WrongMode.into(), ..Default::default() };
    let refused = v1::AckResult { sequence, results: Vec::new(), failure: Some(failure) };
    bench.tell(Frame::AckResult(refused));
    assert_eq!(bench.offsets(), [5], "what came again is to be handled");
}

#[test]
fn gm_8_nothing_more_begins_once_others_may_have_it() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    bench.records(&[(1, "a")]);
    bench.board.suspend();
    assert!(bench.take().is_none());
    bench.join(true, 1, Vec::new());
    assert_eq!(bench.offsets(), [1]);
}

#[test]
fn ak_5_leases_are_extended_and_a_lost_one_is_dropped() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    bench.records(&[(1, "a"), (2, "b")]);
    bench.take().unwrap();
    bench.now += Duration::from_secs(10);
    bench.board.tick(bench.now);
    let said = bench.said();
    let [Said::Extend(extend)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!(runs(&extend.work), [(1, 2)]);
    bench.answer(extend.sequence, vec![result(v1::WorkOutcome::NotLeased, &[(2, 1)])]);
    assert!(bench.take().is_none());
    assert_eq!(bench.board.slots.len(), 1);
}

#[test]
fn pi_1_hints_are_sent_for_what_is_still_in_work() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    bench.records(&[(1, "a"), (2, "b"), (3, "c")]);
    let taken: Vec<_> = (0..2).filter_map(|_| bench.take()).collect();
    bench.done(taken[0].0);
    bench.board.flush(bench.now, &mut bench.frames);
    let Some(Said::Started(started)) = &bench.frames[0].frame else { panic!("{:?}", bench.frames) };
    assert_eq!(runs(&started.work), [(2, 1)]);
}

#[test]
fn ak_8_positions_are_committed_behind_what_is_done_and_one_commit_is_out_at_a_time() {
    let mut bench = Bench::new(GroupMode::Offset, true, 1);
    bench.batch(0, 6, Vec::new());
    let taken = bench.take_all();
    assert_eq!(taken.iter().map(|(_, offset)| *offset).collect::<Vec<_>>(), [0, 1, 2], "one of each key");
    bench.done(taken[1].0);
    assert!(bench.said().is_empty(), "0 is not done");
    bench.done(taken[0].0);
    let said = bench.said();
    let [Said::Commit(commit), ..] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((commit.next_offset, commit.epoch, commit.assignment_epoch), (2, Some(2), 7));
    bench.done(taken[2].0);
    for (ticket, _) in bench.take_all() {
        bench.done(ticket);
    }
    assert!(!bench.said().iter().any(|frame| matches!(frame, Said::Commit(_))), "one is out");
    bench.tell(Frame::CommitResult(v1::CommitResult { sequence: commit.sequence, source_id: 1, failure: None }));
    assert!(commits(&mut bench).is_empty(), "nobody waits for it, and one was sent just now");
    bench.now = bench.board.commits_due().unwrap();
    assert_eq!(commits(&mut bench), [6]);
    assert_eq!(bench.board.commits_due(), None);
}

/// Positions that the board commits now.
fn commits(bench: &mut Bench) -> Vec<i64> {
    let said = bench.said().into_iter();
    let positions = said.filter_map(|frame| match frame {
        Said::Commit(commit) => Some((commit.next_offset, commit.sequence)),
        _ => None,
    });
    let positions: Vec<(i64, u64)> = positions.collect();
    for (_, sequence) in &positions {
        bench.tell(Frame::CommitResult(v1::CommitResult { sequence: *sequence, source_id: 1, failure: None }));
    }
    positions.into_iter().map(|(next, _)| next).collect()
}

#[test]
fn ak_8_commits_that_nobody_waits_for_are_gathered_and_others_go_at_once() {
    let mut bench = Bench::new(GroupMode::Offset, false, 1);
    let commit = |bench: &mut Bench, next, force, waiters| {
        let position = Position { next, epoch: None };
        bench.board.commit(0, 7, Commit { position, metadata: String::new(), force, waiters });
        bench.board.wakes().session
    };
    let later = |bench: &mut Bench, next| commit(bench, next, false, Vec::new());
    assert!(later(&mut bench, 1) && commits(&mut bench) == [1], "the first one after a while");
    assert!(later(&mut bench, 2) && commits(&mut bench).is_empty());
    let due = bench.board.commits_due().unwrap();
    assert!(due > bench.now && due <= bench.now + Duration::from_millis(10));
    assert!(!later(&mut bench, 3), "the session knows when");
    let (waiter, mut answer) = oneshot::channel();
    assert!(commit(&mut bench, 4, false, vec![waiter]) && commits(&mut bench) == [4], "somebody waits for it");
    assert!(answer.try_recv().unwrap().is_ok());
    later(&mut bench, 5);
    bench.now = due;
    assert_eq!(commits(&mut bench), [5]);
    later(&mut bench, 6);
    commit(&mut bench, 2, true, Vec::new());
    assert_eq!([commits(&mut bench), commits(&mut bench)].concat(), [6, 2], "in order, those before it with it");
    later(&mut bench, 7);
    bench.board.drain(bench.now);
    assert_eq!(commits(&mut bench), [7], "a member that leaves commits all");
}

#[test]
fn fc_2_in_mode_offset_credit_comes_back_as_records_are_done_with() {
    let mut bench = Bench::new(GroupMode::Offset, false, 1);
    bench.batch(0, 3, Vec::new());
    let bytes = 8000
        - bench
            .board
            .ready
            .iter()
            .map(|queued| match queued {
                Queued::Frame(frame) => 8000 - frame.bytes,
                _ => 0,
            })
            .sum::<u64>();
    for (ticket, _) in bench.take_all() {
        bench.done(ticket);
    }
    let said = bench.said();
    assert!(
        matches!(said.as_slice(), [Said::Credit(credit)] if credit.records == 3 && credit.bytes == bytes),
        "{said:?} {bytes}"
    );
}

fn letter_result(sequence: u64, result: v1::dead_letter_result::Result) -> Frame {
    Frame::DeadLetterResult(v1::DeadLetterResult { sequence, result: Some(result) })
}

#[test]
fn ak_8_a_record_that_keeps_failing_goes_to_the_dead_letters_and_its_key_is_parked_until_it_lives() {
    use v1::dead_letter_result::Result as Wire;
    let mut bench = Bench::new(GroupMode::Offset, true, 1);
    bench.batch(0, 9, Vec::new());
    let taken = bench.take_all();
    bench.fail(taken[0].0, HandlerError::retry("no"));
    assert!(bench.said().is_empty() && bench.take().is_none(), "it waits for its next try, its key behind it");
    bench.now += Duration::from_secs(1);
    bench.board.wake_due(bench.now);
    let Some(Taken::Record(again, record)) = bench.take_any() else { panic!() };
    assert_eq!((record.offset, record.attempt, record.is_last_attempt()), (0, 2, true));
    bench.fail(again, HandlerError::retry("no").class("X"));
    let said = bench.said();
    let [Said::DeadLetter(letter)] = said.as_slice() else { panic!("{said:?}") };
    assert_eq!((letter.offset, letter.kind()), (0, v1::EntryKind::Failed));
    bench.tell(letter_result(letter.sequence, Wire::DlqId("x-0".to_owned())));
    // 3 is of the same key: parked; the broker says that the key lives.
    let said = bench.said();
    let [Said::Commit(_), Said::DeadLetter(parked)] = said.as_slice() else {
        let [Said::DeadLetter(parked), Said::Commit(_), ..] = said.as_slice() else { panic!("{said:?}") };
        assert_eq!((parked.offset, parked.kind()), (3, v1::EntryKind::Parked));
        bench.tell(letter_result(parked.sequence, Wire::Outcome(v1::WorkOutcome::LaneLive.into())));
        assert_eq!(bench.take().unwrap().1, 3);
        return;
    };
    panic!("letters go first: {parked:?}");
}

#[test]
fn dl_15_marked_records_are_passed_parked_or_left_out() {
    use v1::marked_offset::Why;
    let mut bench = Bench::new(GroupMode::Offset, true, 1);
    let mark = |offset, why| v1::MarkedOffset { offset, why: Some(why), edited: None };
    let entry = v1::EntryMark { dlq_id: "x".to_owned(), ..v1::EntryMark::default() };
    let marks =
        vec![mark(0, Why::Entry(entry)), mark(1, Why::BlockedBy("y".to_owned())), mark(2, Why::Filtered(v1::Unit {}))];
    bench.batch(0, 4, marks);
    assert_eq!(bench.offsets(), [3]);
    let said = bench.said();
    assert!(
        matches!(said.as_slice(), [Said::DeadLetter(letter), Said::Commit(commit), ..]
            if letter.offset == 1 && commit.next_offset == 1),
        "{said:?}"
    );
    let position = bench.board.sources[0].progress.window.position();
    assert_eq!(position.next, 1, "the commit waits for the parked one");
}

#[test]
fn gm_8_in_mode_offset_what_came_before_the_cut_is_not_handled_twice() {
    let mut bench = Bench::new(GroupMode::Offset, true, 1);
    bench.batch(0, 3, Vec::new());
    bench.board.cut();
    let in_work = bench.board.in_work();
    let runs: Vec<_> = in_work[0].offsets.iter().map(|run| (run.from, run.count)).collect();
    assert_eq!((in_work[0].assignment_epoch, runs), (7, vec![(0, 3)]), "so that the broker goes on behind it");
    assert_eq!(bench.board.credit().0, 5, "what is held is part of the credit");
    bench.join(true, 1, Vec::new());
    bench.assign(7, 0);
    bench.batch(0, 6, Vec::new());
    let mut offsets = Vec::new();
    while let Some((ticket, offset)) = bench.take() {
        offsets.push(offset);
        bench.done(ticket);
    }
    assert_eq!(offsets, [0, 1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn whoever_waits_is_told_when_the_consumer_ends() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    bench.records(&[(1, "a")]);
    let (ticket, _) = bench.take().unwrap();
    let (waiter, answer) = oneshot::channel();
    bench.board.finish(ticket, Verdict::Done, None, Some(waiter), bench.now);
    bench.said();
    bench.board.end(Ending::Closed);
    assert_eq!(answer.await.unwrap().unwrap_err().kind(), crate::ErrorKind::Closed);
    assert!(bench.take().is_none());
}

#[test]
fn without_a_stream_the_session_is_woken_to_leave_and_not_for_what_it_cannot_send() {
    let mut bench = Bench::new(GroupMode::Keyed, true, 1);
    bench.records(&[(1, "a")]);
    let (ticket, _) = bench.take().unwrap();
    bench.board.cut();
    bench.done(ticket);
    assert!(!bench.board.wakes().session);
    bench.board.drain(bench.now);
    assert!(bench.board.wakes().session && !bench.board.wakes().session, "once");
    bench.join(true, 1, Vec::new());
    assert!(matches!(bench.said().as_slice(), [Said::Ack(_)]));
}

#[test]
fn gm_8_in_mode_offset_each_partition_is_named_though_nothing_of_it_came() {
    let bench = Bench::new(GroupMode::Offset, true, 1);
    let in_work = bench.board.in_work();
    assert!(matches!(in_work.as_slice(), [work] if work.partition == 3 && work.offsets.is_empty()), "{in_work:?}");
}

#[test]
fn of_6_pauses_are_told_once_over_a_cut_and_their_end_too() {
    let mut bench = Bench::new(GroupMode::Keyed, false, 1);
    let notice = |topic: &str, paused| {
        let pause = v1::Pause { topic: topic.to_owned(), note: "because".to_owned(), ..v1::Pause::default() };
        Frame::Notice(v1::Notice { pause: Some(pause), paused })
    };
    let told = |bench: &mut Bench| {
        let mut told = Vec::new();
        while let Some(taken) = bench.take_any() {
            match taken {
                Taken::Event(ConsumerEvent::Paused { topic, note, .. }) => told.push((topic, note == "because")),
                Taken::Event(ConsumerEvent::Resumed { topic, .. }) => told.push((topic, false)),
                _ => {}
            }
        }
        told
    };
    let of = |topic: &str| Some(topic.to_owned());
    bench.tell(notice("a", true));
    bench.tell(notice("b", true));
    assert_eq!(told(&mut bench), [(of("a"), true), (of("b"), true)]);
    // A stream tells of what lasts, and of that first: "a" has ended meanwhile, "" is new.
    bench.board.cut();
    bench.join(true, 1, Vec::new());
    bench.tell(notice("b", true));
    bench.tell(notice("", true));
    assert_eq!(told(&mut bench), [(None, true)]);
    let caught_up = v1::SourceCaughtUp { source_id: bench.source().source_id, ..v1::SourceCaughtUp::default() };
    bench.tell(Frame::CaughtUp(caught_up));
    assert_eq!(told(&mut bench), [(of("a"), false)]);
    bench.tell(notice("b", true));
    bench.tell(notice("b", false));
    assert_eq!(told(&mut bench), [(of("b"), true), (of("b"), false)], "what is told anew may say otherwise");
    bench.board.cut();
    bench.join(false, 1, Vec::new());
    bench.tell(Frame::CaughtUp(caught_up));
    assert_eq!(told(&mut bench), [(None, false)]);
}

#[test]
fn ak_12_in_mode_offset_what_was_cut_is_handled_when_its_offsets_are_given_anew() {
    let mut bench = Bench::new(GroupMode::Offset, true, 1);
    bench.batch(0, 3, Vec::new());
    let taken = bench.take_all();
    assert_eq!(taken.len(), 3);
    taken.into_iter().for_each(|(ticket, _)| bench.done(ticket));
    bench.assign(8, 1);
    let reason = v1::GapReason::Truncated.into();
    let gap = v1::SourceGap { source_id: bench.source().source_id, from: 1, to: 3, reason, ..v1::SourceGap::default() };
    bench.tell(Frame::Gap(gap));
    while let Some(taken) = bench.take_any() {
        assert!(matches!(taken, Taken::Event(_)), "{taken:?}");
    }
    bench.epoch = 8;
    bench.batch(1, 3, Vec::new());
    assert_eq!(bench.offsets(), [1, 2, 3]);
}
