//! The group append over a log in memory and threads that the test runs by hand: every order is the test's own.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parking_lot::Mutex;
use sawlog_proto::batch::{BatchBuilder, BatchHeader, Codec, ProducerStamp};

use super::append::{Call, Executor, Group, Observer, Parts};
use super::budget::InFlight;
use super::commit::Ticket;
use super::fake_log::{FakeDisk, FakeLog};
use super::producers::Producers;
use super::{AckLevel, AppendAck, AppendFailure, CheckedBatch, Offset, PartitionEpoch, Permit};
use crate::clock::ManualClock;

type Appending = Ticket<Result<AppendAck, AppendFailure>>;
type Job = Box<dyn FnOnce() + Send>;

/// Keeps jobs until the test runs them.
#[derive(Default)]
struct ByHand(Mutex<VecDeque<Job>>);

impl Executor for ByHand {
    fn run(&self, job: Job) {
        self.0.lock().push_back(job);
    }
}

impl ByHand {
    fn queued(&self) -> usize {
        self.0.lock().len()
    }

    fn run_one(&self) {
        let job = self.0.lock().pop_front().expect("a job is queued");
        job();
    }

    fn run_all(&self) {
        while self.queued() > 0 {
            self.run_one();
        }
    }
}

#[derive(Default)]
struct Seen(Mutex<Vec<String>>);

impl Observer for Seen {
    fn appended(&self, _records: u64, _bytes: u64, _took: Duration) {}
    fn synced(&self, _took: Duration, _good: bool) {}
    fn answered(&self, _count: u64) {}
    fn fenced(&self, cause: &str, _errno: Option<i32>, durable_end: Offset, visible: Offset) {
        self.0.lock().push(format!("{cause}, durable to {durable_end}, seen to {visible}"));
    }
}

struct World {
    group: Arc<Group<FakeLog>>,
    disk: Arc<FakeDisk>,
    jobs: Arc<ByHand>,
    clock: Arc<ManualClock>,
    seen: Arc<Seen>,
    budget: InFlight,
}

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("a small number is an offset")
}

fn world(floor: AckLevel) -> World {
    world_with(floor, u64::MAX)
}

fn world_with(floor: AckLevel, segment_bytes: u64) -> World {
    let (log, disk) = FakeLog::new(segment_bytes);
    let (jobs, seen) = (Arc::new(ByHand::default()), Arc::new(Seen::default()));
    let clock = Arc::new(ManualClock::new(1_000));
    let group = Group::new(Parts {
        log,
        producers: Producers::new(Duration::from_secs(60)),
        epoch: PartitionEpoch::ZERO,
        last_append_time_ms: 0,
        floor,
        flush_bytes: u64::MAX,
        clock: Arc::clone(&clock) as _,
        executor: Arc::clone(&jobs) as _,
        observer: Arc::clone(&seen) as _,
        directory: None,
        events: None,
        ack_before_sync: false,
    });
    World { group, disk, jobs, clock, seen, budget: InFlight::new(1 << 20) }
}

fn batch_of(records: u32, producer: Option<ProducerStamp>) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..records {
        builder.push(1, None, Some(b"0123456789"), std::iter::empty());
    }
    if let Some(stamp) = producer {
        builder.set_producer(stamp);
    }
    let bytes = builder.finish();
    CheckedBatch { header: BatchHeader::decode(&bytes).expect("just built"), bytes, request: None, events: None }
}

fn stamped(base_sequence: i32, records: u32) -> CheckedBatch {
    batch_of(records, Some(ProducerStamp { producer_id: 5, producer_epoch: 0, base_sequence }))
}

impl World {
    fn append(&self, batch: CheckedBatch, level: AckLevel) -> Appending {
        let permit = self.budget.try_acquire(batch.bytes.len()).expect("there is room");
        self.group.append(batch, level, permit)
    }

    fn durable(&self, records: u32) -> Appending {
        self.append(batch_of(records, None), AckLevel::Durable)
    }

    fn high_watermark(&self) -> u64 {
        self.group.watermark.get().get()
    }
}

fn answer<T>(ticket: &mut Ticket<T>) -> Option<T> {
    match Pin::new(ticket).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => Some(value),
        Poll::Pending => None,
    }
}

fn acked(ticket: &mut Appending) -> AppendAck {
    answer(ticket).expect("it is answered").expect("it is acknowledged")
}

fn failed(ticket: &mut Appending) -> AppendFailure {
    answer(ticket).expect("it is answered").expect_err("it has failed")
}

/// Notes that it was woken.
struct Woken(usize, Arc<Mutex<Vec<usize>>>);

impl std::task::Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.1.lock().push(self.0);
    }
}

#[test]
fn d_4_appends_are_answered_in_the_order_of_the_log() {
    let world = world(AckLevel::Durable);
    let woken = Arc::new(Mutex::new(Vec::new()));
    // The first leads and syncs alone, the others join the next syncs.
    let mut tickets: Vec<_> = (0..8).map(|number| world.append(stamped(number, 1), AckLevel::Durable)).collect();
    for number in [5, 2, 7, 0, 3, 6, 1, 4] {
        let waker = Waker::from(Arc::new(Woken(number, Arc::clone(&woken))));
        let polled = Pin::new(&mut tickets[number]).poll(&mut Context::from_waker(&waker));
        assert!(polled.is_pending(), "nothing is synced yet");
    }
    world.jobs.run_all();
    assert_eq!(*woken.lock(), (0..8).collect::<Vec<_>>(), "who waits is told in the order of the log");
    let bases: Vec<_> = tickets.iter_mut().map(|ticket| acked(ticket).base_offset.get()).collect();
    assert_eq!(bases, (0..8).collect::<Vec<_>>(), "and the log has the order in which they were sent");
}

#[test]
fn d_1_a_durable_append_is_answered_only_after_its_sync() {
    let world = world(AckLevel::Durable);
    let mut first = world.durable(3);
    assert_eq!(world.disk.0.lock().frames.len(), 1, "written at once, in the task of the request");
    assert!(answer(&mut first).is_none());
    assert_eq!(world.high_watermark(), 0, "not synced, not seen (D3)");
    world.jobs.run_one();
    let ack = acked(&mut first);
    assert_eq!((ack.base_offset, ack.record_count, ack.level), (offset(0), 3, AckLevel::Durable));
    assert_eq!(world.high_watermark(), 3);
    assert_eq!(world.jobs.queued(), 0, "nothing is left to sync");
}

#[test]
fn pr_2_a_written_append_is_answered_at_once_where_the_floor_allows_it() {
    let world = world(AckLevel::Written);
    let mut written = world.append(batch_of(2, None), AckLevel::Written);
    assert_eq!(acked(&mut written).level, AckLevel::Written);
    assert_eq!(world.high_watermark(), 2, "what is acknowledged can be read");
    assert_eq!(world.jobs.queued(), 0);
    let mut durable = world.append(batch_of(1, None), AckLevel::Durable);
    assert!(answer(&mut durable).is_none());
    world.jobs.run_all();
    assert_eq!(acked(&mut durable).level, AckLevel::Durable);
}

#[test]
fn pr_2_the_floor_is_given_even_if_less_is_asked_for() {
    let world = world(AckLevel::Durable);
    let mut append = world.append(batch_of(1, None), AckLevel::Written);
    assert!(answer(&mut append).is_none());
    world.jobs.run_all();
    assert_eq!(acked(&mut append).level, AckLevel::Durable);
}

#[test]
fn group_commit_what_came_during_a_sync_shares_the_next_one() {
    let world = world(AckLevel::Durable);
    let mut first = world.durable(1);
    let mut others: Vec<_> = (0..10).map(|_| world.durable(1)).collect();
    assert_eq!(world.jobs.queued(), 1, "one sync is in flight");
    world.jobs.run_one();
    assert_eq!(acked(&mut first).base_offset, offset(0));
    assert!(others.iter_mut().all(|other| answer(other).is_none()), "they were written after it began");
    world.jobs.run_all();
    let offsets: Vec<_> = others.iter_mut().map(|other| acked(other).base_offset.get()).collect();
    assert_eq!(offsets, (1..11).collect::<Vec<_>>());
    assert_eq!(world.disk.0.lock().syncs, 2);
}

#[test]
fn what_queues_behind_a_leader_is_written_with_one_call() {
    let world = world(AckLevel::Durable);
    world.disk.0.lock().unwell = true;
    let mut appends: Vec<_> = (0..20).map(|_| world.durable(1)).collect();
    assert_eq!(world.disk.0.lock().appends, 0, "not safe inline: left to a thread (6b)");
    world.jobs.run_one();
    assert_eq!(world.disk.0.lock().appends, 1);
    world.jobs.run_all();
    for (index, append) in (0..).zip(&mut appends) {
        assert_eq!(acked(append).base_offset, offset(index));
    }
}

#[test]
fn d_8_a_dropped_request_is_written_synced_and_its_permit_given_back() {
    let world = world(AckLevel::Durable);
    drop(world.durable(1));
    let mut polled = world.durable(1);
    assert!(answer(&mut polled).is_none());
    drop(polled);
    let mut last = world.durable(1);
    assert!(world.budget.held() > 0);
    world.jobs.run_all();
    assert_eq!(acked(&mut last).base_offset, offset(2));
    assert_eq!((world.high_watermark(), world.budget.held()), (3, 0));
}

#[test]
fn d_5_a_repeat_is_answered_once_its_original_is_at_the_level_asked_for() {
    let world = world(AckLevel::Durable);
    let mut first = world.append(stamped(0, 2), AckLevel::Durable);
    let mut repeat = world.append(stamped(0, 2), AckLevel::Durable);
    assert!(answer(&mut repeat).is_none(), "the original is not synced");
    world.jobs.run_all();
    assert!(!acked(&mut first).duplicate);
    let ack = acked(&mut repeat);
    assert_eq!((ack.base_offset, ack.record_count, ack.duplicate), (offset(0), 2, true));
    let mut late = world.append(stamped(0, 2), AckLevel::Durable);
    assert!(acked(&mut late).duplicate, "at once");
    assert_eq!(world.disk.0.lock().frames.len(), 1, "nothing was written twice");
}

#[test]
fn d_5_a_repeat_in_the_same_group_fails_with_its_original() {
    let world = world(AckLevel::Durable);
    {
        let mut disk = world.disk.0.lock();
        disk.unwell = true;
        disk.failures.append = 1;
    }
    let mut first = world.append(stamped(0, 2), AckLevel::Durable);
    let mut repeat = world.append(stamped(0, 2), AckLevel::Durable);
    world.jobs.run_all();
    assert!(matches!(failed(&mut first), AppendFailure::WriteFailed { .. }));
    assert!(matches!(failed(&mut repeat), AppendFailure::WriteFailed { .. }));
    let mut again = world.append(stamped(0, 2), AckLevel::Durable);
    world.jobs.run_all();
    let ack = acked(&mut again);
    assert_eq!((ack.base_offset, ack.duplicate), (offset(0), false), "a refused batch uses no sequence");
}

#[test]
fn pr_7_a_refused_batch_makes_those_behind_it_gaps_and_stops_nobody_else() {
    let world = world(AckLevel::Durable);
    let mut gap = world.append(stamped(3, 1), AckLevel::Durable);
    assert!(matches!(failed(&mut gap), AppendFailure::UnknownProducer { producer_id: 5 }));
    let mut other = world.durable(1);
    let mut first = world.append(stamped(0, 3), AckLevel::Durable);
    let mut behind = world.append(stamped(4, 1), AckLevel::Durable);
    let expected = AppendFailure::SequenceGap { producer_id: 5, expected: 3, found: 4 };
    assert_eq!(failed(&mut behind), expected);
    world.jobs.run_all();
    assert_eq!((acked(&mut other).base_offset, acked(&mut first).base_offset), (offset(0), offset(1)));
    assert_eq!(world.budget.held(), 0);
}

#[test]
fn f_1_after_a_failed_sync_all_who_joined_or_queued_are_told_and_nobody_is_acknowledged() {
    let world = world(AckLevel::Durable);
    let mut kept = world.durable(1);
    world.jobs.run_all();
    acked(&mut kept);
    world.disk.0.lock().failures.sync = 1;
    let mut joined = world.durable(2);
    let mut later = world.durable(1);
    world.jobs.run_all();
    for append in [&mut joined, &mut later] {
        let AppendFailure::Fenced { durable_end, outcome_unknown, .. } = failed(append) else { panic!("fenced") };
        assert_eq!((durable_end, outcome_unknown), (offset(1), true));
    }
    let mut after = world.durable(1);
    let AppendFailure::Fenced { outcome_unknown, .. } = failed(&mut after) else { panic!("fenced") };
    assert!(!outcome_unknown, "it was never written");
    assert_eq!((world.high_watermark(), world.budget.held(), world.jobs.queued()), (1, 0, 0));
    assert_eq!(*world.seen.0.lock(), ["i/o error, durable to 1, seen to 1"]);
}

#[test]
fn f_1_what_queued_behind_a_leader_is_refused_when_the_partition_is_fenced() {
    let world = world(AckLevel::Durable);
    let mut first = world.durable(1);
    {
        let mut disk = world.disk.0.lock();
        disk.failures.sync = 1;
        disk.unwell = true;
    }
    let mut queued = world.durable(1);
    assert_eq!(world.jobs.queued(), 2, "the sync, and the leader on its way to a thread");
    // The sync ends first: its news waits for the leader, which then finds both.
    world.jobs.run_all();
    assert!(matches!(failed(&mut first), AppendFailure::Fenced { outcome_unknown: true, .. }));
    assert!(matches!(failed(&mut queued), AppendFailure::Fenced { outcome_unknown: false, .. }));
    assert_eq!(world.disk.0.lock().frames.len(), 1);
}

#[test]
fn f_1_a_fence_hides_from_readers_what_was_only_written() {
    let world = world(AckLevel::Written);
    let mut written = world.append(batch_of(5, None), AckLevel::Written);
    acked(&mut written);
    assert_eq!(world.high_watermark(), 5);
    world.disk.0.lock().failures.sync = 1;
    let mut durable = world.append(batch_of(1, None), AckLevel::Durable);
    world.jobs.run_all();
    assert!(matches!(failed(&mut durable), AppendFailure::Fenced { outcome_unknown: true, .. }));
    assert_eq!(world.high_watermark(), 0);
    assert_eq!(*world.seen.0.lock(), ["i/o error, durable to 0, seen to 6"], "told from where it may be missing (D2)");
}

#[test]
fn pr_12_a_fence_rolls_producers_back_before_any_append() {
    let world = world(AckLevel::Durable);
    let mut kept = world.append(stamped(0, 1), AckLevel::Durable);
    world.jobs.run_all();
    acked(&mut kept);
    world.disk.0.lock().failures.sync = 1;
    let mut lost: Vec<_> = (1..65).map(|sequence| world.append(stamped(sequence, 1), AckLevel::Durable)).collect();
    world.jobs.run_all();
    assert!(lost.iter_mut().all(|append| matches!(failed(append), AppendFailure::Fenced { .. })));
    world.group.call(Call {
        quiet: true,
        blocks: false,
        run: Box::new(|core, group| {
            core.log.reopen();
            core.epoch = core.epoch.next().expect("few epochs");
            core.unfence(group);
        }),
    });
    let mut ahead = world.append(stamped(65, 1), AckLevel::Durable);
    let expected = AppendFailure::SequenceGap { producer_id: 5, expected: 1, found: 65 };
    assert_eq!(failed(&mut ahead), expected);
    let mut again = world.append(stamped(1, 1), AckLevel::Durable);
    world.jobs.run_all();
    let ack = acked(&mut again);
    assert_eq!((ack.base_offset, ack.epoch.get(), ack.duplicate), (offset(1), 1, false));
}

#[test]
fn f_2_a_failed_write_is_refused_for_good_and_the_next_one_takes_its_offsets() {
    let world = world(AckLevel::Durable);
    world.disk.0.lock().failures.append = 1;
    let mut refused = world.append(stamped(0, 4), AckLevel::Durable);
    let failure = failed(&mut refused);
    assert!(matches!(failure, AppendFailure::WriteFailed { errno: Some(28), .. }), "{failure}");
    let mut next = world.append(stamped(0, 4), AckLevel::Durable);
    world.jobs.run_all();
    assert_eq!(acked(&mut next).base_offset, offset(0));
    assert_eq!(world.budget.held(), 0);
}

#[test]
fn f_2_a_write_that_cannot_be_taken_back_fences() {
    let world = world(AckLevel::Durable);
    world.disk.0.lock().failures.append_for_good = 1;
    let mut append = world.durable(1);
    assert!(matches!(failed(&mut append), AppendFailure::Fenced { outcome_unknown: true, .. }));
    assert!(matches!(failed(&mut world.durable(1)), AppendFailure::Fenced { outcome_unknown: false, .. }));
    assert_eq!(world.jobs.queued(), 0, "no sync begins behind a fence");
}

#[test]
fn f_6_append_times_never_fall_when_the_clock_does() {
    let world = world(AckLevel::Written);
    let mut times = Vec::new();
    for wall_ms in [1_000, 900, i64::MIN, 1_001, 10_i64.pow(12), 5] {
        world.clock.set_wall_ms(wall_ms);
        times.push(acked(&mut world.append(batch_of(1, None), AckLevel::Written)).append_time_ms);
    }
    assert_eq!(times, [1_000, 1_000, 1_000, 1_001, 10_i64.pow(12), 10_i64.pow(12)]);
}

#[test]
fn a_roll_waits_for_the_sync_in_flight_and_appends_queue_behind_it() {
    let world = world_with(AckLevel::Durable, 250);
    let mut first = world.durable(1);
    let mut second = world.durable(2);
    let mut third = world.durable(1);
    assert_eq!(world.disk.0.lock().frames.len(), 1, "the second needs a roll");
    // The leader moves to a thread, finds the sync in flight and steps back; the sync's end rolls and writes.
    world.jobs.run_all();
    assert_eq!(acked(&mut first).base_offset, offset(0));
    assert_eq!((acked(&mut second).base_offset, acked(&mut third).base_offset), (offset(1), offset(3)));
    assert!(world.disk.0.lock().rolls >= 1);
}

#[test]
fn f_3_a_roll_that_finds_the_disk_full_refuses_and_the_next_append_tries_again() {
    let world = world_with(AckLevel::Durable, 150);
    let mut first = world.durable(1);
    world.jobs.run_all();
    acked(&mut first);
    world.disk.0.lock().failures.roll = 1;
    let mut refused = world.durable(1);
    world.jobs.run_all();
    assert!(matches!(failed(&mut refused), AppendFailure::WriteFailed { errno: Some(28), .. }));
    let mut next = world.durable(1);
    world.jobs.run_all();
    assert_eq!(acked(&mut next).base_offset, offset(1));
}

#[test]
fn s_5_a_shutdown_refuses_what_is_new_and_finishes_what_is_queued() {
    let world = world(AckLevel::Durable);
    let mut queued = world.durable(1);
    world.group.refuse_all();
    assert_eq!(failed(&mut world.durable(1)), AppendFailure::ShuttingDown);
    world.jobs.run_all();
    acked(&mut queued);
    assert_eq!(world.budget.held(), 0);
}

#[test]
fn a_leader_in_a_request_does_not_serve_others_for_ever() {
    let world = world(AckLevel::Written);
    // Each call queues the next: without a bound the first append would never return.
    fn forever(group: &Arc<Group<FakeLog>>, left: u32) {
        if left > 0 {
            let run = Box::new(move |_: &mut _, group: &Arc<Group<FakeLog>>| forever(group, left - 1));
            group.call(Call { quiet: false, blocks: false, run });
        }
    }
    forever(&world.group, 100);
    assert_eq!(world.jobs.queued(), 1, "handed over to a thread");
    world.jobs.run_all();
    let mut after = world.group.append(batch_of(1, None), AckLevel::Written, Permit::default());
    acked(&mut after);
}

#[test]
fn f_7_a_panic_while_leading_ends_the_process() {
    const CHILD: &str = "SAWLOG_TEST_PANIC_WHILE_LEADING";
    if std::env::var_os(CHILD).is_some() {
        let world = world(AckLevel::Written);
        world.group.call(Call { quiet: false, blocks: false, run: Box::new(|_, _| panic!("on purpose")) });
        return;
    }
    let test = "partition::append_tests::f_7_a_panic_while_leading_ends_the_process";
    let child = std::process::Command::new(std::env::current_exe().expect("this test runs from a file"))
        .args(["--exact", test, "--test-threads", "1"])
        .env(CHILD, "1")
        .output()
        .expect("the test can start itself");
    let status = child.status;
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "aborted, not failed: {status}");
}

#[test]
fn a_ticket_whose_answer_is_lost_says_so_instead_of_hanging() {
    let (answer, ticket) = super::commit::ticket::<Result<(), AppendFailure>>();
    drop(answer);
    assert_eq!(ticket.wait(), Err(AppendFailure::ShuttingDown));
}
