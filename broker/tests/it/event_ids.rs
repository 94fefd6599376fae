//! Event ids across stops, power losses, fences and damage, on the simulated disk (rules PR-8, PR-12).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sawlog_broker::clock::Clock as _;
use sawlog_broker::log::storage::sim_disk::{Effect, Fault, OpKind, SmallRandom};
use sawlog_broker::log::storage::{OpenMode, SimDisk};
use sawlog_broker::model::{AckLevel, PartitionId};
use sawlog_broker::partition::events::{EventBatch, EventPlace, EventRef, Found, content_hash, event_key};
use sawlog_broker::partition::{AppendFailure, CheckedBatch, Permit, RequestStamp};
use sawlog_broker::topics::{DedupWindow, EventAck, EventSettings, TopicConfig, TopicNotes, TopicUpdate};
use sawlog_proto::batch::{self, BatchBuilder, BatchHeader, BatchLimits, Codec};
use sawlog_proto::envelope;

use crate::topics::{START_MS, World, config, offset};

const TOPIC: &str = "orders";

fn dedup(partitions: u32, window: DedupWindow) -> TopicConfig {
    let events = EventSettings { window: Some(window), ..EventSettings::default() };
    TopicConfig { keyed: false, events, ..config(partitions) }
}

/// Records with these ids; the payload says the id again, and fills the segment.
fn batch(ids: &[u64], bytes: usize, whole: bool) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    let mut refs = Vec::new();
    for (index, id) in (0..).zip(ids) {
        let (name, mut value) = (id.to_string(), id.to_string().into_bytes());
        value.resize(bytes.max(value.len()), b'.');
        builder.push(START_MS, None, Some(&value), [(envelope::EVENT_ID, name.as_bytes())].into_iter());
        let content = content_hash(None, Some(&value));
        refs.push(EventRef { index, id: event_key(b"", name.as_bytes()), content });
    }
    let bytes = builder.finish();
    let header = BatchHeader::decode(&bytes).expect("it is one");
    CheckedBatch { header, bytes, request: None, events: Some(Arc::new(EventBatch::new(refs, whole))) }
}

fn append(world: &World, partition: u32, batch: CheckedBatch, level: AckLevel) -> Result<EventAck, AppendFailure> {
    let ack = world.topic(TOPIC).append_events(PartitionId(partition), batch, level, Permit::default());
    world.runtime.block_on(ack)
}

/// Where the only record of an append stands, and whether it stood there before.
fn place(partition: u32, ack: &EventAck) -> (EventPlace, bool) {
    match (ack.written, &ack.found[..]) {
        (Some(written), []) => {
            let (offset, epoch, append_time_ms) = (written.base_offset, written.epoch, written.append_time_ms);
            (EventPlace { partition: PartitionId(partition), offset, epoch, append_time_ms }, false)
        }
        (None, [(0, Found::Repeat(place))]) if ack.failed.is_empty() => (*place, true),
        other => panic!("{other:?}"),
    }
}

fn send(world: &World, partition: u32, id: u64) -> (EventPlace, bool) {
    let ack = append(world, partition, batch(&[id], 0, false), AckLevel::Durable).expect("the disk is well");
    place(partition, &ack)
}

/// All ids in the log, each with its places.
fn stored(world: &World) -> BTreeMap<u64, Vec<(u32, u64)>> {
    let mut found: BTreeMap<u64, Vec<(u32, u64)>> = BTreeMap::new();
    for (partition, log) in (0..).zip(world.topic(TOPIC).partitions()) {
        let mut next = log.log_start();
        while next < log.high_watermark() {
            let run = world.runtime.block_on(log.read(next, 1 << 20)).expect("nothing is damaged");
            for frame in &run.frames {
                let records = batch::records(&frame.batch, &BatchLimits::DEFAULT).expect("a good batch");
                for (index, record) in (0..).zip(records) {
                    let record = record.expect("a good record");
                    let value = String::from_utf8(record.value.expect("a value").to_vec()).expect("text");
                    let id = value.trim_end_matches('.').parse().expect("a number");
                    let at = frame.base_offset.get() + index;
                    found.entry(id).or_default().push((partition, at));
                }
            }
            next = run.next;
        }
    }
    found
}

fn sidecars(disk: &SimDisk) -> Vec<std::path::PathBuf> {
    let names = disk.files().into_iter().filter(|path| path.ends_with(".events"));
    names.map(Into::into).collect()
}

/// Fills two partitions over several segments; returns where each id stands and the number of the call before its answer.
fn workload(world: &World, ids: u64) -> BTreeMap<u64, (EventPlace, u64)> {
    let mut random = SmallRandom::new(5);
    let mut acked = BTreeMap::new();
    for id in 0..ids {
        let partition = random.below(2) as u32;
        let ack = append(world, partition, batch(&[id], 90_000, random.one_in(2)), AckLevel::Durable);
        let (place, repeat) = place(partition, &ack.expect("the disk is well"));
        assert!(!repeat);
        acked.insert(id, (place, world.disk.op_count()));
    }
    acked
}

#[test]
fn pr_8_after_a_power_loss_at_any_storage_call_a_repeat_is_a_duplicate_and_no_id_outlives_its_record() {
    let mut world = World::new();
    world.create(TOPIC, dedup(2, DedupWindow::Log)).expect("the disk is well");
    world.disk.record_images();
    let acked = workload(&world, 40);
    assert!(world.stop());
    let images = world.disk.take_images();
    assert!(sidecars(&world.disk).len() >= 4, "segments were sealed");
    // Each image costs a start and two readings of the log: a part of them, unless all are asked for.
    let every = if std::env::var_os("SAWLOG_CRASH_ALL").is_some() { 1 } else { images.len().div_ceil(40) };
    for (at, image) in images.iter().enumerate().skip(images.len() % every).step_by(every) {
        let killed = at % 3 == 0;
        let disk = if killed { image.kill() } else { image.crash(at as u64) };
        world.start_on(disk);
        let before = stored(&world);
        for (id, (expected, call)) in &acked {
            let other = 1 - expected.partition.0;
            let known = before.get(id).map(|places| places[0]);
            assert!(known.is_some() || *call > image.ops, "image {at}: {id} was acknowledged");
            let ack = append(&world, other, batch(&[*id], 90_000, false), AckLevel::Durable).expect("well");
            let (found, repeat) = place(other, &ack);
            assert_eq!(repeat, known.is_some(), "image {at} after {:?}: event {id}", image.last);
            if let Some(known) = known {
                assert_eq!((found.partition.0, found.offset.get()), known, "image {at}: event {id}");
                assert_eq!(found, *expected, "image {at}: the token of event {id}");
            }
        }
        let after = stored(&world);
        assert!(after.values().all(|places| places.len() == 1), "image {at}: each event stands there once");
        assert_eq!(after.len(), acked.len());
        world.disk.clear_faults();
        world.stop();
    }
}

#[test]
fn pr_8_a_damaged_or_missing_sidecar_is_made_anew_from_the_log() {
    let mut world = World::new();
    world.create(TOPIC, dedup(2, DedupWindow::Log)).expect("the disk is well");
    let acked = workload(&world, 40);
    assert!(world.stop());
    let all = sidecars(&world.disk);
    for damage in 0..3 {
        let disk = world.disk.kill();
        for path in &all {
            let storage = disk.storage();
            match damage {
                0 => storage.remove_file(path).expect("it is there"),
                1 => {
                    let file = storage.open(path, OpenMode::ReadWrite).expect("it is there");
                    file.set_len(file.len().expect("well") - 1).expect("well");
                }
                _ => {
                    let file = storage.open(path, OpenMode::ReadWrite).expect("it is there");
                    let at = file.len().expect("well") / 2;
                    let mut byte = [0];
                    file.read_at(&mut byte, at).expect("well");
                    file.write_at(&[std::io::IoSlice::new(&[byte[0] ^ 1])], at).expect("well");
                }
            }
        }
        world.start_on(disk);
        assert_eq!(world.topic(TOPIC).event_ids().status().ids, acked.len(), "damage {damage}");
        for (id, (expected, _)) in &acked {
            let ack = append(&world, 0, batch(&[*id], 90_000, false), AckLevel::Durable).expect("well");
            assert_eq!(place(0, &ack), (*expected, true), "damage {damage}");
        }
        assert!(world.stop());
        let mut made = sidecars(&world.disk);
        made.sort();
        let mut before = all.clone();
        before.sort();
        assert_eq!(made, before, "damage {damage}: all are there again");
        // The next start reads them alone, of sealed segments not one frame of 90 kB.
        let calls = world.disk.op_count();
        world.start_on(world.disk.kill());
        assert_eq!(world.topic(TOPIC).event_ids().status().ids, acked.len());
        let large = world.disk.ops().into_iter().filter(|op| op.kind == OpKind::Read && op.len >= 1 << 20).count();
        assert_eq!(large, 0, "after {calls} calls");
        assert!(world.stop());
    }
}

#[test]
fn pr_8_the_window_goes_on_while_the_broker_is_down() {
    let mut world = World::new();
    world.create(TOPIC, dedup(1, DedupWindow::Ms(3_600_000))).expect("the disk is well");
    let (first, _) = send(&world, 0, 1);
    world.clock.advance(Duration::from_secs(1_800));
    assert_eq!(send(&world, 0, 1), (first, true));
    assert!(world.stop());
    world.clock.advance(Duration::from_secs(1_700));
    world.start_on(world.disk.kill());
    assert_eq!(send(&world, 0, 1), (first, true), "3,500 seconds after the first append");
    assert!(world.stop());
    world.clock.advance(Duration::from_secs(200));
    world.start_on(world.disk.kill());
    assert!(!send(&world, 0, 1).1, "3,700 seconds after the first append, 200 after the last repeat");
}

#[test]
fn pr_8_ids_leave_with_their_records_and_the_topic() {
    let mut world = World::new();
    world.create(TOPIC, dedup(1, DedupWindow::Log)).expect("the disk is well");
    (0..4).for_each(|id| assert!(!send(&world, 0, id).1));
    world.trim(TOPIC, 2).expect("the disk is well");
    assert!(send(&world, 0, 2).1);
    assert!(!send(&world, 0, 1).1, "its record was trimmed");
    world.kill_and_start();
    assert!(!send(&world, 0, 0).1, "after a start too");
    assert!(send(&world, 0, 1).1 && send(&world, 0, 3).1);
    world.delete(TOPIC);
    world.create(TOPIC, dedup(1, DedupWindow::Log)).expect("the disk is well");
    assert!(!send(&world, 0, 3).1, "a topic of the same name is another topic (RE-10)");
}

#[test]
fn pr_8_switched_off_it_forgets_and_switched_on_it_knows_what_comes_then() {
    let world = World::new();
    world.create(TOPIC, dedup(1, DedupWindow::Log)).expect("the disk is well");
    let switch = |window| {
        let update = TopicUpdate { if_revision: None, config: dedup(1, window), notes: TopicNotes::default() };
        world.runtime.block_on(world.engine().topics().update(TOPIC, update)).expect("it may");
    };
    assert!(!send(&world, 0, 1).1);
    switch(DedupWindow::Off);
    assert!(!send(&world, 0, 1).1);
    assert!(!world.topic(TOPIC).event_ids().is_active());
    switch(DedupWindow::Log);
    assert!(!send(&world, 0, 1).1);
    assert!(send(&world, 0, 1).1);
}

#[test]
fn pr_12_ids_above_the_durable_end_are_free_after_a_fence_and_a_waiting_repeat_is_told_not_written() {
    let world = World::new();
    world.create(TOPIC, dedup(2, DedupWindow::Log)).expect("the disk is well");
    let (kept, _) = send(&world, 0, 1);
    // The one thread that syncs partition 0 is held up until the repeat waits.
    let fault = Fault {
        from_op: 0,
        kinds: vec![OpKind::Sync],
        path_contains: "/0/".to_owned(),
        effect: Effect::Errno(5),
        forever: false,
    };
    world.disk.inject(fault);
    let topic = world.topic(TOPIC);
    let first = topic.append_events(PartitionId(0), batch(&[2], 0, false), AckLevel::Durable, Permit::default());
    let first = world.runtime.spawn(first);
    // Where appends were slow they go by a thread of their own: the repeat comes once the id is taken, or given back.
    world.runtime.block_on(async {
        while topic.event_ids().status().ids < 2 && !first.is_finished() {
            tokio::task::yield_now().await;
        }
    });
    let repeat = topic.append_events(PartitionId(1), batch(&[2], 0, false), AckLevel::Durable, Permit::default());
    let failed = world.runtime.block_on(first).expect("it ends");
    assert!(matches!(failed, Err(AppendFailure::Fenced { outcome_unknown: true, .. })), "{failed:?}");
    match world.runtime.block_on(repeat) {
        Ok(EventAck { written: None, failed, .. }) => assert_eq!(failed, [0]),
        other => panic!("{other:?}"),
    }
    world.runtime.block_on(world.engine().topics().reopen(TOPIC, PartitionId(0))).expect("the disk is well again");
    assert_eq!(send(&world, 0, 1), (kept, true), "what is durable stays known");
    let (place, _) = send(&world, 0, 2);
    assert_eq!(stored(&world)[&2], [(place.partition.0, place.offset.get())]);
}

/// A sync of partition 0 fails with id 2 in the page cache, so that it is fenced.
fn fenced_with_an_id_in_doubt() -> (World, EventPlace) {
    let world = World::new();
    world.create(TOPIC, dedup(2, DedupWindow::Log)).expect("the disk is well");
    let (kept, _) = send(&world, 0, 1);
    world.disk.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::Sync],
        path_contains: "/0/".to_owned(),
        effect: Effect::Errno(5),
        forever: false,
    });
    let failed = append(&world, 0, batch(&[2], 0, false), AckLevel::Durable);
    assert!(matches!(failed, Err(AppendFailure::Fenced { outcome_unknown: true, .. })), "{failed:?}");
    (world, kept)
}

#[test]
fn pr_12_an_id_above_the_durable_end_of_a_fenced_partition_is_nobodys_until_it_is_known_whether_it_survives() {
    for restarts in [true, false] {
        let (mut world, kept) = fenced_with_an_id_in_doubt();
        let repeat = append(&world, 1, batch(&[2], 0, false), AckLevel::Durable).expect("partition 1 is well");
        if restarts {
            // What was written may be found again: a failed sync is no cut.
            world.kill_and_start();
        } else {
            world.runtime.block_on(world.engine().topics().reopen(TOPIC, PartitionId(0))).expect("it is well again");
        }
        assert_eq!(send(&world, 0, 1), (kept, true), "what is durable stays known");
        let (place, known) = send(&world, 1, 2);
        assert_eq!(stored(&world)[&2], [(place.partition.0, place.offset.get())], "restarts: {restarts}");
        assert_eq!(repeat.failed, [0], "it was not written beside");
        assert_eq!(known, restarts, "a restart finds it, a reopening cuts it");
    }
}

#[test]
fn pr_8_an_append_that_fails_releases_its_ids() {
    let world = World::new();
    world.create(TOPIC, dedup(1, DedupWindow::Log)).expect("the disk is well");
    let fault = Fault {
        from_op: 0,
        kinds: vec![OpKind::Write],
        path_contains: ".log".to_owned(),
        effect: Effect::Errno(5),
        forever: false,
    };
    world.disk.inject(fault);
    let failed = append(&world, 0, batch(&[7, 8], 0, false), AckLevel::Durable);
    assert!(matches!(failed, Err(AppendFailure::WriteFailed { .. })), "{failed:?}");
    assert_eq!(world.topic(TOPIC).event_ids().status().ids, 0);
    assert!(!send(&world, 0, 8).1);
}

#[test]
fn pr_8_a_repeat_is_answered_once_the_first_has_reached_the_level_asked_for() {
    let world = World::new();
    let config = TopicConfig { ack_floor: AckLevel::Written, ..dedup(2, DedupWindow::Log) };
    world.create(TOPIC, config).expect("the disk is well");
    let first = append(&world, 0, batch(&[1], 0, false), AckLevel::Written).expect("the disk is well");
    let (first, _) = place(0, &first);
    let durable_end = |partition: usize| world.topic(TOPIC).partitions()[partition].status().durable_end;
    assert_eq!(durable_end(0), offset(0));
    let ack = append(&world, 1, batch(&[1], 0, false), AckLevel::Written).expect("the disk is well");
    assert_eq!((place(1, &ack), durable_end(0)), ((first, true), offset(0)), "`written` waits for no sync");
    let ack = append(&world, 1, batch(&[1], 0, false), AckLevel::Durable).expect("the disk is well");
    assert_eq!((place(1, &ack), durable_end(0)), ((first, true), offset(1)), "`durable` does");
}

#[test]
fn pr_7_a_request_written_without_its_repeats_is_answered_record_by_record_when_it_comes_again() {
    let mut world = World::new();
    world.create(TOPIC, dedup(2, DedupWindow::Log)).expect("the disk is well");
    let (producer_id, producer_epoch) =
        world.runtime.block_on(world.engine().topics().init_producer("")).expect("the disk is well");
    let (one, _) = send(&world, 1, 1);
    let request = || {
        let stamp = RequestStamp { producer_id, producer_epoch, request_number: 0 };
        CheckedBatch { request: Some(stamp), ..batch(&[1, 2, 3], 0, false) }
    };
    let first = append(&world, 0, request(), AckLevel::Durable).expect("the disk is well");
    assert_eq!((first.written.expect("the rest").record_count, &first.found[..]), (2, &[(0, Found::Repeat(one))][..]));
    for _ in 0..2 {
        let again = append(&world, 0, request(), AckLevel::Durable).expect("the disk is well");
        let at = |found: &Found| match found {
            Found::Repeat(place) => (place.partition.0, place.offset.get()),
            other => panic!("{other:?}"),
        };
        let places: Vec<_> = again.found.iter().map(|(_, found)| at(found)).collect();
        assert_eq!((again.written, places), (None, vec![(1, 0), (0, 0), (0, 1)]));
        world.kill_and_start();
    }
    world.trim(TOPIC, 0).expect("nothing to trim");
    let before = [(PartitionId(1), offset(1))];
    world.runtime.block_on(world.engine().topics().trim(TOPIC, &before)).expect("the disk is well");
    let again = append(&world, 0, request(), AckLevel::Durable);
    assert!(matches!(again, Err(AppendFailure::SequenceTooOld { .. })), "never written again: {again:?}");
}

#[test]
fn pr_8_appends_to_other_partitions_do_not_wait_for_each_other() {
    let world = World::new();
    world.create(TOPIC, dedup(4, DedupWindow::Log)).expect("the disk is well");
    let topic = world.topic(TOPIC);
    // Each id in every partition at once, all under way before anyone is asked for an answer.
    let all: Vec<_> = (0..50)
        .flat_map(|id| (0..4).map(move |partition| (id, partition)))
        .map(|(id, partition)| {
            let append = topic.append_events(
                PartitionId(partition),
                batch(&[id], 0, id % 2 == 0),
                AckLevel::Durable,
                Permit::default(),
            );
            (partition, append)
        })
        .collect();
    let mut repeats = 0;
    for (partition, append) in all {
        let ack = world.runtime.block_on(append).expect("the disk is well");
        repeats += u64::from(place(partition, &ack).1);
    }
    assert_eq!(repeats, 150);
    assert!(stored(&world).values().all(|places| places.len() == 1));
    assert_eq!(world.clock.wall_ms(), START_MS);
}
