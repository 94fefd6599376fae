//! Random schedules of group commit, roll, fence and shutdown, with requests dropped at every poll (rule D8): no hang,
//! no leaked permit, no lost wake-up, no false ack. The very sources of the broker run over shuttle's locks, atomics
//! and threads; a hang is a deadlock that shuttle reports, a failure prints the schedule that leads to it.

#[allow(dead_code, unreachable_pub, reason = "the broker's sources, of which these tests use a part")]
mod partition;

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use sawlog_broker::clock::{Clock, Monotonic};
use sawlog_broker::model::{AckLevel, Offset, PartitionEpoch};
use sawlog_broker::partition::{AppendAck, AppendFailure, CheckedBatch};
use sawlog_proto::batch::{BatchBuilder, BatchHeader, Codec};
use shuttle::future::block_on;
use shuttle::rand::{Rng, thread_rng};
use shuttle::thread::{self, JoinHandle};

use partition::append::{Call, Executor, Group, Observer, Parts};
use partition::budget::InFlight;
use partition::commit::{Ticket, ticket};
use partition::fake_log::{Failures, FakeDisk, FakeLog};
use partition::producers::Producers;
use partition::sync::{Arc, Mutex};

/// Schedules per test; a schedule is a millisecond or so.
const SCHEDULES: usize = 1_000;
/// Bytes that may be in flight: two batches, so that producers wait for each other.
const IN_FLIGHT: usize = 200;

#[derive(Debug)]
struct StillClock;

impl Clock for StillClock {
    fn wall_ms(&self) -> i64 {
        1
    }
    fn monotonic(&self) -> Monotonic {
        Monotonic::default()
    }
}

struct Silent;

impl Observer for Silent {
    fn appended(&self, _records: u64, _bytes: u64, _took: Duration) {}
    fn synced(&self, _took: Duration, _good: bool) {}
    fn answered(&self, _count: u64) {}
    fn fenced(&self, _cause: &str, _errno: Option<i32>, _durable_end: Offset, _visible: Offset) {}
}

/// Runs each job on a thread of its own.
#[derive(Default)]
struct Threads(Mutex<Vec<JoinHandle<()>>>);

impl Executor for Threads {
    fn run(&self, job: Box<dyn FnOnce() + Send>) {
        let thread = thread::spawn(job);
        self.0.lock().push(thread);
    }
}

impl Threads {
    /// Waits for all jobs, those that they start included.
    fn join(&self) {
        loop {
            let Some(thread) = self.0.lock().pop() else { return };
            thread.join().expect("the job did not panic");
        }
    }
}

struct World {
    group: Arc<Group<FakeLog>>,
    disk: Arc<FakeDisk>,
    threads: Arc<Threads>,
    budget: InFlight,
}

#[derive(Clone, Copy)]
struct Setup {
    floor: AckLevel,
    segment_bytes: u64,
    failures: Failures,
    unwell: bool,
    ack_before_sync: bool,
}

const NORMAL: Setup = Setup {
    floor: AckLevel::Durable,
    segment_bytes: u64::MAX,
    failures: Failures { sync: 0, append: 0, append_for_good: 0, roll: 0 },
    unwell: false,
    ack_before_sync: false,
};

impl World {
    fn new(setup: Setup) -> Self {
        let (log, disk) = FakeLog::new(setup.segment_bytes);
        {
            let mut disk = disk.0.lock();
            disk.failures = setup.failures;
            disk.unwell = setup.unwell;
        }
        let threads = Arc::new(Threads::default());
        let group = Group::new(Parts {
            log,
            producers: Producers::new(Duration::from_secs(1)),
            epoch: PartitionEpoch::ZERO,
            last_append_time_ms: 0,
            floor: setup.floor,
            flush_bytes: 1,
            clock: Arc::new(StillClock),
            executor: Arc::clone(&threads) as Arc<dyn Executor>,
            observer: Arc::new(Silent),
            directory: None,
            events: None,
            ack_before_sync: setup.ack_before_sync,
        });
        Self { group, disk, threads, budget: InFlight::new(IN_FLIGHT) }
    }

    /// All is done: nothing may be left in flight, and the log has no hole.
    fn check_end(&self) {
        self.threads.join();
        assert_eq!(self.budget.held(), 0, "a permit leaked");
        let disk = self.disk.0.lock();
        let mut end = Offset::ZERO;
        for (base, count, ..) in &disk.frames {
            assert_eq!(*base, end, "a hole in the log");
            end = end.saturating_add(u64::from(*count));
        }
    }
}

fn batch() -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push(1, None, Some(b"0123456789"), std::iter::empty());
    let bytes = builder.finish();
    CheckedBatch { header: BatchHeader::decode(&bytes).expect("just built"), bytes, request: None, events: None }
}

/// Polls a future so many times at most; `None` if it is dropped then.
struct Impatient<F> {
    future: F,
    polls_left: u32,
}

impl<F: Future + Unpin> Future for Impatient<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        if self.polls_left == 0 {
            return Poll::Ready(None);
        }
        self.polls_left -= 1;
        match Pin::new(&mut self.future).poll(context) {
            Poll::Ready(value) => Poll::Ready(Some(value)),
            Poll::Pending if self.polls_left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}

type Appending = Ticket<Result<AppendAck, AppendFailure>>;

fn start_append(world: &World, level: AckLevel, patient: bool) -> Option<Appending> {
    let bytes = 100;
    let permit = if patient {
        block_on(world.budget.acquire(bytes))
    } else {
        let acquire = Box::pin(world.budget.acquire(bytes));
        let polls_left = thread_rng().gen_range(1..3);
        block_on(Impatient { future: acquire, polls_left })?
    };
    Some(world.group.append(batch(), level, permit))
}

/// Appends, and gives up at a random poll, or never. Returns what was answered, in order.
fn produce(world: &World, appends: u32, level: AckLevel) -> Vec<Result<AppendAck, AppendFailure>> {
    let mut answers = Vec::new();
    for _ in 0..appends {
        let polls_left = thread_rng().gen_range(0..4);
        let patient = polls_left == 3;
        let Some(appending) = start_append(world, level, patient) else { continue };
        let answer =
            if patient { Some(block_on(appending)) } else { block_on(Impatient { future: appending, polls_left }) };
        let Some(answer) = answer else { continue };
        if let Ok(ack) = &answer
            && ack.level == AckLevel::Durable
        {
            let durable_end = world.disk.0.lock().durable_end;
            assert!(ack.base_offset < durable_end, "acknowledged before it was synced (D1)");
            assert!(ack.base_offset < world.group.watermark.get(), "acknowledged, but cannot be read");
        }
        answers.push(answer);
    }
    let offsets: Vec<_> = answers.iter().flatten().map(|ack| ack.base_offset).collect();
    assert!(offsets.is_sorted(), "answers in the order of the log (D4)");
    answers
}

/// Producers side by side; returns all answers.
fn produce_in_threads(world: &Arc<World>, producers: u32, level: AckLevel) -> Vec<Result<AppendAck, AppendFailure>> {
    let threads: Vec<_> = (0..producers)
        .map(|_| {
            let world = Arc::clone(world);
            thread::spawn(move || produce(&world, 3, level))
        })
        .collect();
    threads.into_iter().flat_map(|thread| thread.join().expect("the producer did not panic")).collect()
}

#[test]
fn d_8_requests_dropped_at_every_poll_leave_no_permit_and_nobody_waiting() {
    for floor in [AckLevel::Durable, AckLevel::Written] {
        shuttle::check_random(
            move || {
                let world = Arc::new(World::new(Setup { floor, ..NORMAL }));
                let answers = produce_in_threads(&world, 3, AckLevel::Durable);
                assert!(answers.iter().all(Result::is_ok));
                world.check_end();
                let disk = world.disk.0.lock();
                assert_eq!(disk.durable_end.get(), disk.frames.len() as u64, "what was dropped is synced all the same");
            },
            SCHEDULES / 2,
        );
    }
}

#[test]
fn followers_see_everything_and_no_wake_up_is_lost() {
    shuttle::check_random(
        || {
            let world = Arc::new(World::new(NORMAL));
            let followers: Vec<_> = (0..2)
                .map(|_| {
                    let world = Arc::clone(&world);
                    thread::spawn(move || {
                        let mut seen = Offset::ZERO;
                        while seen.get() < 4 {
                            let polls_left = thread_rng().gen_range(1..4);
                            let wait = world.group.watermark.beyond(seen);
                            let high = if polls_left == 3 {
                                Some(block_on(wait))
                            } else {
                                block_on(Impatient { future: wait, polls_left })
                            };
                            let Some(high) = high else { continue };
                            assert!(high > seen);
                            assert!(high <= world.disk.0.lock().durable_end, "above the durable end (D3)");
                            seen = high;
                        }
                    })
                })
                .collect();
            let tickets: Vec<_> =
                (0..4).map(|_| start_append(&world, AckLevel::Durable, true).expect("patient")).collect();
            for ticket in tickets {
                block_on(ticket).unwrap();
            }
            followers.into_iter().for_each(|follower| follower.join().unwrap());
            world.check_end();
        },
        SCHEDULES / 2,
    );
}

#[test]
fn rolls_wait_for_the_sync_in_flight_and_appends_wait_for_the_roll() {
    shuttle::check_random(
        || {
            let world = Arc::new(World::new(Setup { segment_bytes: 200, ..NORMAL }));
            let answers = produce_in_threads(&world, 3, AckLevel::Durable);
            assert!(answers.iter().all(Result::is_ok));
            world.check_end();
            let disk = world.disk.0.lock();
            assert!(disk.frames.len() < 4 || disk.rolls > 0);
        },
        SCHEDULES,
    );
}

#[test]
fn f_1_after_a_failed_sync_nobody_is_acknowledged_above_the_durable_end() {
    shuttle::check_random(
        || {
            let sync = thread_rng().gen_range(1..4);
            let failures = Failures { sync, ..Failures::default() };
            let world = Arc::new(World::new(Setup { failures, segment_bytes: 400, ..NORMAL }));
            let answers = produce_in_threads(&world, 3, AckLevel::Durable);
            world.check_end();
            let durable_end = world.disk.0.lock().durable_end;
            for answer in answers {
                match answer {
                    Ok(ack) => assert!(ack.base_offset < durable_end),
                    Err(failure) => assert!(matches!(failure, AppendFailure::Fenced { .. }), "{failure}"),
                }
            }
        },
        SCHEDULES,
    );
}

#[test]
fn f_2_a_failed_write_is_a_definite_refusal_and_the_others_go_on() {
    shuttle::check_random(
        || {
            let append = thread_rng().gen_range(1..6);
            let failures = Failures { append, ..Failures::default() };
            let world = Arc::new(World::new(Setup { failures, unwell: append % 2 == 0, ..NORMAL }));
            let answers = produce_in_threads(&world, 3, AckLevel::Durable);
            world.check_end();
            for failure in answers.into_iter().filter_map(Result::err) {
                assert!(matches!(failure, AppendFailure::WriteFailed { errno: Some(28), .. }), "{failure}");
            }
        },
        SCHEDULES,
    );
}

#[test]
fn a_fence_can_be_left_while_producers_come_and_go() {
    shuttle::check_random(
        || {
            let failures = Failures { sync: 2, append_for_good: thread_rng().gen_range(0..4), ..Failures::default() };
            let world = Arc::new(World::new(Setup { failures, ..NORMAL }));
            let opener = {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    let (answer, ticket) = ticket::<Result<(), AppendFailure>>();
                    let run = Box::new(move |core: &mut partition::append::Core<FakeLog>, group: &Arc<_>| {
                        if core.fenced.is_some() {
                            core.log.reopen();
                            core.epoch = core.epoch.next().expect("few");
                            core.unfence(group);
                        }
                        answer.give(Ok(()));
                    });
                    world.group.call(Call { quiet: true, blocks: true, run });
                    block_on(ticket)
                })
            };
            produce_in_threads(&world, 3, AckLevel::Durable);
            opener.join().unwrap().unwrap();
            world.check_end();
        },
        SCHEDULES,
    );
}

#[test]
fn s_5_a_shutdown_finishes_what_is_queued_and_refuses_the_rest() {
    shuttle::check_random(
        || {
            let world = Arc::new(World::new(Setup { segment_bytes: 300, ..NORMAL }));
            let closer = {
                let world = Arc::clone(&world);
                thread::spawn(move || {
                    world.group.refuse_all();
                    let (answer, ticket) = ticket::<Result<(), AppendFailure>>();
                    let run = Box::new(move |core: &mut partition::append::Core<FakeLog>, group: &Arc<Group<_>>| {
                        assert!(!core.sync_in_flight, "it was asked for quiet");
                        assert!(core.backlog.is_empty(), "what is queued is finished first");
                        let closed = core.roll(group);
                        group.watermark.close();
                        answer.give(if closed { Ok(()) } else { Err(AppendFailure::ShuttingDown) });
                    });
                    world.group.call(Call { quiet: true, blocks: true, run });
                    block_on(ticket)
                })
            };
            let follower = {
                let world = Arc::clone(&world);
                thread::spawn(move || block_on(world.group.watermark.beyond(Offset::MAX)))
            };
            let answers = produce_in_threads(&world, 2, AckLevel::Durable);
            closer.join().unwrap().unwrap();
            follower.join().unwrap();
            world.check_end();
            assert!(answers.iter().all(|answer| matches!(answer, Ok(_) | Err(AppendFailure::ShuttingDown))));
            let disk = world.disk.0.lock();
            assert_eq!(disk.durable_end.get(), disk.frames.len() as u64);
        },
        SCHEDULES,
    );
}

#[test]
#[should_panic(expected = "acknowledged")]
fn the_schedules_notice_an_ack_before_its_sync() {
    shuttle::check_random(
        || {
            let world = Arc::new(World::new(Setup { ack_before_sync: true, ..NORMAL }));
            produce_in_threads(&world, 2, AckLevel::Durable);
            world.check_end();
        },
        SCHEDULES,
    );
}
