//! Row 6: every bit of every file of a log flipped, runs zeroed, files lost, cut, swapped, put where they do not belong.
//!
//! In each case: nothing is served that was not written, what is damaged is told and not skipped silently, everything
//! else is served unchanged, and the end of the log never goes back below what had been synced (C1, C2, C3, C4). The
//! offline check finds every flip as well.

use std::path::Path;

use sawlog_broker::log::sabotage::Sabotage;
use sawlog_broker::log::storage::SimDisk;
use sawlog_broker::log::storage::sim_disk::SmallRandom;
use sawlog_broker::log::{Frame, LocalLog, ReadError, ReadMode, ReadRange, RecoveryHint, verify};
use sawlog_broker::model::{Offset, OffsetRange, PartitionEpoch};

use crate::log_world::{DIR, Violation, World, ensure, environment, read_all};

/// A log that was stopped cleanly, and all that it holds.
pub(crate) struct Sample {
    pub(crate) disk: SimDisk,
    pub(crate) files: Vec<String>,
    frames: Vec<Frame>,
    end: Offset,
    epoch: PartitionEpoch,
}

impl Sample {
    /// A log of several sealed segments and an active one, about `bytes` in all.
    pub(crate) fn new(seed: u64, bytes: u64, sabotage: Sabotage) -> Self {
        let mut world = World::create(seed, sabotage);
        while files(&world.disk).iter().map(|file| world.disk.bytes_of(file).len() as u64).sum::<u64>() < bytes {
            if world.log.must_roll(1_500) {
                world.roll().unwrap();
            }
            world.append().unwrap();
            world.sync().unwrap();
        }
        let mut random = SmallRandom::new(seed);
        let frames = read_all(&world.log, &mut random).unwrap();
        let time_ms = frames.last().unwrap().append_time_ms;
        let epoch = world.history.epoch;
        let end = world.log.close(time_ms, epoch).unwrap();
        Self { files: files(&world.disk), disk: world.disk.kill(), frames, end, epoch }
    }

    fn hint(&self, clean: bool) -> RecoveryHint {
        RecoveryHint {
            log_start: Offset::ZERO,
            proven_end: self.end,
            clean_end: clean.then_some(self.end),
            quarantined: Vec::new(),
            next_epoch: self.epoch.next().unwrap(),
        }
    }

    fn bytes(&self) -> u64 {
        self.files.iter().map(|file| self.disk.bytes_of(file).len() as u64).sum()
    }
}

fn files(disk: &SimDisk) -> Vec<String> {
    disk.files().into_iter().filter(|file| file.starts_with(DIR)).collect()
}

/// What a client gets that reads everything and asks for what is behind each damage.
struct Served {
    frames: Vec<Frame>,
    told: Vec<OffsetRange>,
}

fn read_around(log: &LocalLog, end: Offset) -> Result<Served, Violation> {
    let reader = log.reader();
    let mut served = Served { frames: Vec::new(), told: Vec::new() };
    let mut from = reader.bounds().start;
    while from < reader.bounds().end {
        let range = ReadRange { from, until: reader.bounds().end, max_bytes: 4_000 };
        match reader.read(range, ReadMode::Blocking) {
            Ok(run) => {
                ensure!(run.next > from, "nothing is read at {from}");
                from = run.next;
                served.frames.extend(run.frames);
            }
            Err(ReadError::Corrupt(corruption)) => {
                let to = corruption.next_good.unwrap_or(end).max(corruption.first_bad);
                ensure!(corruption.first_bad >= from, "C2: damage at {} is told at {from}", corruption.first_bad);
                ensure!(to > from, "C2: the damage at {from} has no end");
                served.told.push(OffsetRange { from, to });
                from = to;
            }
            Err(error) => return Err(format!("reading {from}: {error}")),
        }
    }
    Ok(served)
}

/// Opens a damaged log and checks what is served and told. Returns the number of frames that are lost.
pub(crate) fn check(sample: &Sample, disk: &SimDisk, clean: bool, sabotage: Sabotage) -> Result<usize, Violation> {
    let opened = LocalLog::open(environment(disk, sabotage, 99), &sample.hint(clean));
    let (log, report) = opened.map_err(|error| format!("cannot be opened: {error}"))?;
    ensure!(report.fenced.is_none(), "fenced: {:?}", report.fenced);
    ensure!(log.end() >= sample.end, "C3: the log ends at {}, {} was durable", log.end(), sample.end);
    let served = read_around(&log, sample.end)?;
    for frame in &served.frames {
        let written = sample.frames.iter().find(|written| written.base_offset == frame.base_offset);
        let same = written.is_some_and(|written| {
            written.batch == frame.batch
                && written.extensions == frame.extensions
                && written.record_count == frame.record_count
                && written.epoch == frame.epoch
                && written.append_time_ms == frame.append_time_ms
        });
        ensure!(same, "C2: served at {} is not what was written", frame.base_offset);
    }
    let mut lost = 0;
    for written in &sample.frames {
        if served.frames.iter().any(|frame| frame.base_offset == written.base_offset) {
            continue;
        }
        lost += 1;
        let told = served.told.iter().chain(&report.quarantined).any(|range| range.contains(written.base_offset));
        ensure!(told, "C2: the frame at {} is skipped silently", written.base_offset);
    }
    Ok(lost)
}

/// One flipped bit; the kind of file says how many frames it may cost.
pub(crate) fn flip(sample: &Sample, file: &str, bit: u64, clean: bool, sabotage: Sabotage) -> Result<(), Violation> {
    let disk = sample.disk.fork();
    disk.flip(file, bit / 8, 1 << (bit % 8));
    let lost = check(sample, &disk, clean, sabotage)?;
    let most = usize::from(file.ends_with(".log"));
    ensure!(lost <= most, "C1: one bit costs {lost} frames");
    Ok(())
}

/// Files that are flipped at once, one bit each, to halve the time: two of different sealed segments, whose damage
/// has nothing to do with each other. The active segment's file, where a tail must be judged, is flipped alone.
fn pairs(sample: &Sample) -> Vec<Vec<&String>> {
    let segment = |file: &str| file.split('.').next().unwrap_or_default().to_owned();
    let active = segment(sample.files.last().unwrap());
    let sealed: Vec<&String> = sample.files.iter().filter(|file| segment(file) != active).collect();
    let half = sealed.len().div_ceil(2);
    let mut found: Vec<Vec<&String>> = (0..half)
        .flat_map(|at| match sealed.get(at + half) {
            Some(other) if segment(other) != segment(sealed[at]) => vec![vec![sealed[at], *other]],
            Some(other) => vec![vec![sealed[at]], vec![*other]],
            None => vec![vec![sealed[at]]],
        })
        .collect();
    found.extend(sample.files.iter().filter(|file| segment(file) == active).map(|file| vec![file]));
    found
}

fn every_bit(parity: u64) {
    let sample = Sample::new(1, 16 << 10, Sabotage::default());
    let mut flips = 0;
    for files in pairs(&sample) {
        let bits = |file: &str| sample.disk.bytes_of(file).len() as u64 * 8;
        let most = files.iter().map(|file| bits(file)).max().unwrap();
        for bit in (parity..most).step_by(2) {
            // Neighbouring bits are tried after a crash and after a clean stop, which scans nothing, by turns.
            let clean = bit / 2 % 2 == 0;
            let disk = sample.disk.fork();
            let hit: Vec<_> = files.iter().filter(|file| bit < bits(file)).collect();
            hit.iter().for_each(|file| disk.flip(file, bit / 8, 1 << (bit % 8)));
            let costs = hit.iter().filter(|file| file.ends_with(".log")).count();
            let rerun = || format!("rerun: {hit:?}, bit {bit}, clean: {clean}");
            let lost = check(&sample, &disk, clean, Sabotage::default())
                .unwrap_or_else(|violation| panic!("{violation}\n{}", rerun()));
            assert!(lost <= costs, "C1: one bit costs {lost} frames\n{}", rerun());
            flips += hit.len();
        }
    }
    assert!(flips * 2 >= 131_072, "only {flips} flips of {} bytes", sample.bytes());
}

#[test]
fn c_1_every_flipped_even_bit_is_found_or_costs_nothing() {
    every_bit(0);
}

#[test]
fn c_1_every_flipped_odd_bit_is_found_or_costs_nothing() {
    every_bit(1);
}

#[test]
fn c_5_the_offline_check_finds_every_flipped_byte_and_changes_nothing() {
    let sample = Sample::new(2, 8 << 10, Sabotage::default());
    let dir = Path::new(DIR);
    let good = verify::verify_log(&sample.disk, dir).unwrap();
    assert_eq!((good.grade(), good.end, good.proven_end), (None, sample.end, sample.end), "{:?}", good.findings);
    assert_eq!(good.segments.iter().map(|segment| segment.frames).sum::<u64>(), sample.frames.len() as u64);
    for file in &sample.files {
        for byte in 0..sample.disk.bytes_of(file).len() as u64 {
            let disk = sample.disk.fork();
            disk.flip(file, byte, 1 << (byte % 8));
            let before = disk.bytes_of(file);
            let report = verify::verify_log(&disk, dir).unwrap();
            let grade = report.grade().unwrap_or_else(|| panic!("{file}, byte {byte}: not found"));
            let log = file.ends_with(".log");
            assert!(log || grade == verify::Grade::Rebuildable, "{file}, byte {byte}: {grade:?}");
            assert_eq!(disk.bytes_of(file), before);
            assert!(disk.ops().iter().all(|op| !op.kind.changes()), "{file}, byte {byte}: something was written");
        }
    }
}

#[test]
fn c_3_zeroed_runs_are_told_and_the_rest_is_served() {
    let sample = Sample::new(3, 16 << 10, Sabotage::default());
    for file in &sample.files {
        let bytes = sample.disk.bytes_of(file);
        for run in [512, 2_048, 65_536] {
            for from in (0..bytes.len()).step_by(193) {
                let disk = sample.disk.fork();
                let mut damaged = bytes.clone();
                let to = (from + run).min(damaged.len());
                damaged[from..to].fill(0);
                disk.put_file(file, damaged);
                check(&sample, &disk, from % 2 == 0, Sabotage::default())
                    .unwrap_or_else(|violation| panic!("{violation}\nrerun: {file}, {run} zeros at {from}"));
            }
        }
    }
}

#[test]
fn c_3_lost_and_shortened_files_are_told_and_the_rest_is_served() {
    let sample = Sample::new(4, 16 << 10, Sabotage::default());
    for file in &sample.files {
        for clean in [false, true] {
            let disk = sample.disk.fork();
            disk.lose_file(file);
            let lost = check(&sample, &disk, clean, Sabotage::default())
                .unwrap_or_else(|violation| panic!("{violation}\nrerun: {file} lost, clean: {clean}"));
            assert!(lost > 0 || !file.ends_with(".log"), "{file}: nothing is lost with the whole file");
        }
        let bytes = sample.disk.bytes_of(file);
        for len in (0..bytes.len()).step_by(61) {
            let disk = sample.disk.fork();
            disk.put_file(file, bytes[..len].to_vec());
            check(&sample, &disk, len % 2 == 0, Sabotage::default())
                .unwrap_or_else(|violation| panic!("{violation}\nrerun: {file} cut to {len}"));
        }
    }
}

#[test]
fn c_1_inserted_and_deleted_bytes_are_told_and_the_rest_is_served() {
    let sample = Sample::new(5, 12 << 10, Sabotage::default());
    for file in &sample.files {
        let bytes = sample.disk.bytes_of(file);
        for at in (0..bytes.len()).step_by(37) {
            for (what, many) in [("inserted", 1), ("inserted", 8), ("deleted", 1), ("deleted", 8)] {
                let disk = sample.disk.fork();
                let mut damaged = bytes.clone();
                if what == "inserted" {
                    damaged.splice(at..at, vec![0x55; many]);
                } else {
                    damaged.drain(at..(at + many).min(bytes.len()));
                }
                disk.put_file(file, damaged);
                check(&sample, &disk, at % 2 == 0, Sabotage::default())
                    .unwrap_or_else(|violation| panic!("{violation}\nrerun: {file}, {many} {what} at {at}"));
            }
        }
    }
}

/// Where the frames of a log file begin and end.
fn places(disk: &SimDisk, file: &str) -> Vec<std::ops::Range<usize>> {
    let mut starts = Vec::new();
    verify::dump(disk, Path::new(file), &mut |position, _| {
        starts.push(usize::try_from(position.0).unwrap());
        true
    })
    .unwrap();
    starts.push(disk.bytes_of(file).len());
    starts.windows(2).map(|pair| pair[0]..pair[1]).collect()
}

#[test]
fn c_1_swapped_and_repeated_frames_are_never_served_as_others() {
    let sample = Sample::new(6, 16 << 10, Sabotage::default());
    for file in sample.files.iter().filter(|file| file.ends_with(".log")) {
        let bytes = sample.disk.bytes_of(file);
        let frames = places(&sample.disk, file);
        for pair in frames.windows(2) {
            let (one, other) = (&pair[0], &pair[1]);
            let swapped = [&bytes[other.clone()], &bytes[one.clone()]].concat();
            let repeated = [&bytes[one.clone()], &bytes[one.clone()]].concat();
            for (what, part) in [("swapped", swapped), ("repeated", repeated)] {
                let disk = sample.disk.fork();
                let damaged = [&bytes[..one.start], &part, &bytes[other.end..]].concat();
                disk.put_file(file, damaged);
                check(&sample, &disk, false, Sabotage::default())
                    .unwrap_or_else(|violation| panic!("{violation}\nrerun: {file}, {what} at {}", one.start));
            }
        }
    }
}

#[test]
fn c_1_the_files_of_another_log_are_never_served() {
    let sample = Sample::new(7, 12 << 10, Sabotage::default());
    // The same log of another run: equal names, offsets and identity, but other salts and contents.
    let other = Sample::new(8, 12 << 10, Sabotage::default());
    let mut tried = 0;
    for file in &sample.files {
        if !other.files.contains(file) {
            continue;
        }
        let disk = sample.disk.fork();
        disk.put_file(file, other.disk.bytes_of(file));
        if file.ends_with(".log") {
            // A whole segment of the same log with a good header is beyond what the log can tell: one frame of it is not.
            let frames = places(&other.disk, file);
            let mut bytes = sample.disk.bytes_of(file);
            let place = frames[0].clone();
            if bytes.len() < place.end {
                continue;
            }
            bytes[place.clone()].copy_from_slice(&other.disk.bytes_of(file)[place]);
            disk.put_file(file, bytes);
        }
        check(&sample, &disk, false, Sabotage::default())
            .unwrap_or_else(|violation| panic!("{violation}\nrerun: {file} of another run"));
        tried += 1;
    }
    assert!(tried >= 2);
}
