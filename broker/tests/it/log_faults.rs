//! Rows 8 and 10: an error at every call, once and for ever, and a disk that runs full (rules F1 to F4).
//!
//! After each: no panic, no false acknowledgement, what was refused is not in the log, readers see what is durable, and
//! after a restart or a reopening the promises of [`crate::log_world`] hold.

use std::io;

use sawlog_broker::log::sabotage::Sabotage;
use sawlog_broker::log::storage::SimDisk;
use sawlog_broker::log::storage::sim_disk::{Effect, Fault, OpKind, SmallRandom};
use sawlog_broker::log::{AppendError, LocalLog, ReadError, ReadMode, ReadRange};
use sawlog_broker::model::Offset;

use crate::log_world::{DIR, Violation, World, check_frames, ensure, environment, read_all};

/// Steps of a workload.
const STEPS: u64 = 40;
/// Input/output error, no space, interrupted, as Linux and macOS number them.
pub(crate) const EIO: i32 = 5;
const ENOSPC: i32 = 28;
const EINTR: i32 = 4;

pub(crate) fn fault(from_op: u64, effect: Effect, forever: bool, kinds: &[OpKind]) -> Fault {
    Fault { from_op, kinds: kinds.to_vec(), path_contains: String::new(), effect, forever }
}

/// What rule F1 promises of a fenced log.
fn check_fenced(world: &mut World) -> Result<(), Violation> {
    ensure!(world.log.fenced().is_some(), "F1: the error says fenced, the log does not");
    let bounds = world.log.reader().bounds();
    ensure!(bounds.end == bounds.durable_end, "F1: fenced, but {} is shown above {}", bounds.end, bounds.durable_end);
    ensure!(bounds.end >= world.history.acked_end(), "F1: acknowledged records are hidden by the fence");
    ensure!(
        matches!(world.append(), Err(AppendError::Fenced { .. })),
        "F1: a fenced log takes an append, or refuses it with another reason"
    );
    Ok(())
}

/// Works until the steps are over or the log stays fenced.
fn work(world: &mut World) -> Result<(), Violation> {
    for _ in 0..STEPS {
        match world.step() {
            Ok(()) => {}
            Err(AppendError::Write { .. }) => {
                ensure!(world.log.fenced().is_none(), "F2: a write was refused for good, and the log is fenced");
            }
            Err(AppendError::Fenced { .. }) => {
                check_fenced(world)?;
                if world.reopen().is_err() {
                    check_fenced(world)?;
                    return Ok(());
                }
                ensure!(world.log.fenced().is_none(), "F1: reopened, but still fenced");
            }
        }
    }
    Ok(())
}

/// The log as it is, after the death of the process, and after a loss of power.
fn check_after(world: World, seed: u64) -> Result<(), Violation> {
    world.disk.clear_faults();
    let mut random = SmallRandom::new(seed);
    let history = world.history.at(world.disk.op_count());
    let frames = read_all(&world.log, &mut random).map_err(|violation| format!("before a restart: {violation}"))?;
    check_frames(&frames, &history, history.start())?;
    let sabotage = world.sabotage();
    let (killed, _) = World::recover(world.disk.kill(), history.clone(), seed, sabotage)
        .map_err(|violation| format!("after kill -9: {violation}"))?;
    // What the restarted broker has shown survives the loss of power that follows.
    let shown = killed.history.at(killed.disk.op_count());
    World::recover(killed.disk.crash(seed), shown, seed, sabotage)
        .map_err(|violation| format!("after kill -9 and then a power loss: {violation}"))?;
    World::recover(world.disk.crash(seed), history, seed, sabotage)
        .map_err(|violation| format!("after a power loss: {violation}"))?;
    world.disk.clear_faults();
    Ok(())
}

/// One workload with one fault.
pub(crate) fn run(seed: u64, injected: &Fault, sabotage: Sabotage) -> Result<(), Violation> {
    let mut world = World::create(seed, sabotage);
    world.disk.inject(injected.clone());
    work(&mut world)
        .and_then(|()| check_after(world, seed))
        .map_err(|violation| format!("{violation}\nrerun: workload seed {seed}, {injected:?}"))
}

/// Numbers of the calls of the workload on a healthy disk: first and last.
pub(crate) fn calls(seed: u64) -> std::ops::Range<u64> {
    let mut world = World::create(seed, Sabotage::default());
    let first = world.disk.op_count();
    work(&mut world).unwrap();
    first..world.disk.op_count()
}

fn everywhere(seed: u64, effect: Effect, forever: bool) {
    let calls = calls(seed);
    assert!(calls.end - calls.start > 60, "only {} calls", calls.end - calls.start);
    for op in calls {
        run(seed, &fault(op, effect, forever, &[]), Sabotage::default())
            .unwrap_or_else(|violation| panic!("{violation}"));
    }
}

#[test]
fn f_1_f_2_an_error_once_at_any_call_loses_nothing_acknowledged() {
    everywhere(1, Effect::Errno(EIO), false);
}

#[test]
fn f_1_f_2_an_error_from_any_call_on_loses_nothing_acknowledged() {
    everywhere(2, Effect::Errno(EIO), true);
}

#[test]
fn f_2_a_full_disk_at_any_call_loses_nothing_acknowledged() {
    everywhere(3, Effect::Errno(ENOSPC), false);
}

#[test]
fn f_1_an_error_at_any_sync_fences_and_is_never_taken_back() {
    for seed in 10..20 {
        for op in calls(seed).step_by(5) {
            run(seed, &fault(op, Effect::Errno(EIO), false, &[OpKind::Sync]), Sabotage::default())
                .unwrap_or_else(|violation| panic!("{violation}"));
        }
    }
}

#[test]
fn f_2_a_short_write_is_continued_and_nobody_notices() {
    let mut short = 0;
    for op in calls(4) {
        let mut world = World::create(4, Sabotage::default());
        world.disk.inject(fault(op, Effect::ShortWrite, false, &[OpKind::Write]));
        for _ in 0..STEPS {
            world.step().unwrap_or_else(|error| panic!("call {op}: {error}"));
        }
        check_after(world, op).unwrap_or_else(|violation| panic!("call {op}: {violation}"));
        short += 1;
    }
    assert!(short > 20);
}

#[test]
fn f_2_an_interrupted_write_is_an_error_like_any_other() {
    for op in calls(5).step_by(3) {
        run(5, &fault(op, Effect::Errno(EINTR), false, &[OpKind::Write]), Sabotage::default())
            .unwrap_or_else(|violation| panic!("{violation}"));
    }
}

#[test]
fn f_2_a_refused_append_is_not_in_the_log_and_the_next_one_is() {
    let mut world = World::create(6, Sabotage::default());
    world.append().unwrap();
    let end = world.log.end();
    let at = world.disk.op_count();
    world.disk.inject(fault(at, Effect::Errno(EIO), false, &[OpKind::Write]));
    assert!(matches!(world.append(), Err(AppendError::Write { .. })));
    assert_eq!((world.log.end(), world.log.fenced()), (end, None));
    world.append().unwrap();
    world.sync().unwrap();
    check_after(world, 6).unwrap();
}

#[test]
fn f_2_a_refused_append_that_cannot_be_taken_back_fences() {
    let mut world = World::create(7, Sabotage::default());
    world.append().unwrap();
    world.sync().unwrap();
    let at = world.disk.op_count();
    // Half of it is written, then the disk takes and gives nothing back.
    world.disk.inject(fault(at, Effect::ShortWrite, false, &[OpKind::Write]));
    world.disk.inject(fault(at + 1, Effect::Errno(EIO), true, &[OpKind::Write, OpKind::SetLen, OpKind::Sync]));
    assert!(matches!(world.append(), Err(AppendError::Fenced { .. })));
    check_fenced(&mut world).unwrap();
    check_after(world, 7).unwrap();
}

#[test]
fn f_4_a_read_error_fails_that_read_alone() {
    let mut world = World::create(8, Sabotage::default());
    while world.log.segments().len() < 3 {
        world.step().unwrap();
    }
    let reader = world.log.reader();
    let bounds = reader.bounds();
    let range = ReadRange { from: bounds.start, until: bounds.end, max_bytes: 100 };
    let at = world.disk.op_count();
    world.disk.inject(fault(at, Effect::Errno(EIO), true, &[OpKind::Read]));
    assert!(matches!(reader.read(range, ReadMode::Blocking), Err(ReadError::Io { .. })));
    world.append().unwrap();
    world.disk.clear_faults();
    assert!(!reader.read(range, ReadMode::Blocking).unwrap().frames.is_empty());
    check_after(world, 8).unwrap();
}

#[test]
fn f_3_a_full_disk_refuses_appends_serves_reads_and_goes_on_once_there_is_space() {
    let mut world = World::create(9, Sabotage::default());
    world.disk.set_quota(64 << 10);
    for round in 0..3 {
        let refused = loop {
            match world.step() {
                Ok(()) => {}
                Err(error) => break error,
            }
        };
        let AppendError::Write { source } = &refused else { panic!("round {round}: {refused}") };
        assert_eq!(source.kind(), io::ErrorKind::StorageFull, "round {round}");
        assert!(world.log.fenced().is_none(), "round {round}");
        let mut random = SmallRandom::new(round);
        let frames = read_all(&world.log, &mut random).unwrap();
        check_frames(&frames, &world.history, world.history.start()).unwrap();
        // Someone gives space, or retention does.
        world.disk.set_quota((64 << 10) * (round + 2));
        world.append().unwrap_or_else(|error| panic!("round {round}: {error}"));
        world.sync().unwrap_or_else(|error| panic!("round {round}: {error}"));
    }
    check_after(world, 9).unwrap();
}

/// A log that has been worked on, as the death of its process leaves it.
fn killed(seed: u64) -> (SimDisk, crate::log_world::History) {
    let mut world = World::create(seed, Sabotage::default());
    work(&mut world).unwrap();
    (world.disk.kill(), world.history.at(world.disk.op_count()))
}

#[test]
fn f_1_an_error_at_any_call_of_recovery_is_told_and_the_next_recovery_finds_everything() {
    let (template, history) = killed(11);
    let calls = {
        let (world, _) = World::recover(template.fork(), history.clone(), 1, Sabotage::default()).unwrap();
        world.disk.op_count()
    };
    assert!(calls > 10, "recovery makes only {calls} calls");
    for op in 0..calls {
        for forever in [false, true] {
            let label = format!("rerun: recovery with an error at call {op}, for ever: {forever}");
            let disk = template.fork();
            disk.inject(fault(op, Effect::Errno(EIO), forever, &[]));
            let hint = history.hint(&mut SmallRandom::new(op));
            let opened = LocalLog::open(environment(&disk, Sabotage::default(), op), &hint);
            let shown = opened.map_or(Offset::ZERO, |(log, _)| log.reader().bounds().durable_end);
            disk.clear_faults();
            let (world, _) = World::recover(disk.kill(), history.clone(), op, Sabotage::default())
                .unwrap_or_else(|violation| panic!("{violation}\n{label}"));
            assert!(world.log.end() >= shown, "{shown} was shown as durable, {} is left\n{label}", world.log.end());
            World::recover(disk.crash(op), history.clone(), op, Sabotage::default())
                .unwrap_or_else(|violation| panic!("after a power loss: {violation}\n{label}"));
        }
    }
}

#[test]
fn c_5_a_read_that_the_bus_garbled_is_repeated_before_it_counts_as_damage() {
    let mut world = World::create(12, Sabotage::default());
    world.append().unwrap();
    world.sync().unwrap();
    let file = format!("{DIR}/00000000000000000000.log");
    let len = world.disk.bytes_of(&file).len() as u64;
    let reader = world.log.reader();
    let bounds = reader.bounds();
    let range = ReadRange { from: bounds.start, until: bounds.end, max_bytes: 1 << 20 };
    let good = reader.read(range, ReadMode::Blocking).unwrap();
    for byte in (100..len).step_by(13) {
        world.disk.flip_reads(&file, byte, 4, 1);
        let found = reader.read(range, ReadMode::Blocking).unwrap_or_else(|error| panic!("byte {byte}: {error}"));
        assert_eq!(found.frames.len(), good.frames.len(), "byte {byte}");
        assert!(found.frames.iter().zip(&good.frames).all(|(one, other)| one.batch == other.batch), "byte {byte}");
    }
}
