//! Row 3: a loss of power after every call of a workload, with any part of what was pending lost or torn.
//!
//! Checked on every image: what was acknowledged is there, unchanged, whole and in order (D1, D4), nothing else than
//! what was appended is (D6), an offset never gets another content in its epoch (D3), segments have no hole (D7), the
//! start never goes back (D9); and the same after a second loss of power inside the recovery or behind it.

use sawlog_broker::log::sabotage::Sabotage;
use sawlog_broker::log::storage::sim_disk::{SimImage, SmallRandom};

use crate::log_world::{History, Violation, World, ensure};

/// Steps of a workload.
const STEPS: u64 = 120;

/// A workload without faults, its images and its history.
pub(crate) fn workload(seed: u64, sabotage: Sabotage) -> Result<(Vec<SimImage>, History), Violation> {
    let mut world = World::create(seed, sabotage);
    world.disk.record_images();
    for step in 0..STEPS {
        world.step().map_err(|error| format!("step {step} failed on a healthy disk: {error}"))?;
    }
    Ok((world.disk.take_images(), world.history))
}

/// Recovers one image and goes on: works, crashes again, recovers again.
pub(crate) fn crash_twice(image: &SimImage, history: &History, seed: u64, sabotage: Sabotage) -> Result<(), Violation> {
    let mut random = SmallRandom::new(seed);
    let history = history.at(image.ops);
    // The process alone dies now and then: then the page cache is all that holds the tail, until recovery syncs it.
    let killed = random.one_in(4);
    let disk = if killed { image.kill() } else { image.crash(seed) };
    let inside = random.one_in(10);
    if inside {
        disk.record_images();
    }
    let recovery_seed = random.bits();
    let (mut world, report) = World::recover(disk, history.clone(), recovery_seed, sabotage)?;
    if inside {
        let images = world.disk.take_images();
        if images.is_empty() {
            return Ok(());
        }
        let at = random.index(images.len());
        let again = images[at].crash(random.bits());
        let (_, second) = World::recover(again, history, recovery_seed, sabotage)
            .map_err(|violation| format!("after a crash at change {at} of the recovery: {violation}"))?;
        // A page cache that is lost may take with it what nobody has seen yet.
        ensure!(
            killed || second.end == report.end,
            "S4: cut short at change {at}, recovery ends at {}, not at {}",
            second.end,
            report.end
        );
        return Ok(());
    }
    world.disk.record_images();
    for step in 0..random.below(12) {
        world.step().map_err(|error| format!("step {step} after recovery: {error}"))?;
    }
    let history = world.history.at(world.disk.op_count());
    let again = world.disk.crash(random.bits());
    World::recover(again, history, random.bits(), sabotage)
        .map_err(|violation| format!("after the second crash: {violation}"))?;
    Ok(())
}

/// All images of one workload, some seeds each; returns how many.
pub(crate) fn crash_everywhere(seed: u64, seeds: u64, sabotage: Sabotage) -> Result<u64, Violation> {
    let (images, history) = workload(seed, sabotage)?;
    ensure!(history.acked_count() > 20, "the workload acknowledges too little to show anything");
    let mut count = 0;
    for (at, image) in images.iter().enumerate() {
        for crash_seed in 0..seeds {
            let mixed = seed ^ (at as u64) << 20 ^ crash_seed << 40;
            crash_twice(image, &history, mixed, sabotage).map_err(|violation| {
                format!(
                    "{violation}\nrerun: SAWLOG_CRASH={seed}:{at}:{crash_seed} cargo test -p sawlog-broker --test it \
                     log_crash::rerun (after {:?}, call {})",
                    image.last, image.ops
                )
            })?;
            count += 1;
        }
    }
    Ok(count)
}

fn crashed(seeds: std::ops::Range<u64>) {
    let mut images = 0;
    for seed in seeds {
        images += crash_everywhere(seed, 3, Sabotage::default()).unwrap_or_else(|violation| panic!("{violation}"));
    }
    assert!(images >= 500, "only {images} images");
    println!("{images} images");
}

#[test]
fn d_1_d_3_d_7_d_9_a_power_loss_after_any_call_loses_nothing_acknowledged() {
    crashed(0..2);
}

#[test]
fn d_6_what_was_served_after_a_crash_survives_the_next_one() {
    crashed(100..102);
}

/// Reruns one image: `SAWLOG_CRASH=<workload seed>:<image>:<crash seed>`.
#[test]
fn rerun() {
    let Ok(which) = std::env::var("SAWLOG_CRASH") else { return };
    let numbers: Vec<u64> = which.split(':').map(|number| number.parse().expect("three numbers")).collect();
    let [seed, at, crash_seed] = numbers[..] else { panic!("three numbers, not {which}") };
    let (images, history) = workload(seed, Sabotage::default()).unwrap();
    let mixed = seed ^ at << 20 ^ crash_seed << 40;
    let image = &images[usize::try_from(at).unwrap()];
    crash_twice(image, &history, mixed, Sabotage::default()).unwrap_or_else(|violation| panic!("{violation}"));
}
