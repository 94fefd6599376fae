//! Groups whose surroundings break, on the real engine: the log's written tail vanishes, the journal is damaged, the power
//! goes while a group is made. What stands is what was durable, and what does not is told.

use std::time::Duration;

use sawlog_broker::coordinator::types::{
    EntryState, Frame, GapReason, GroupConfig, Mode, NackKind, SourceName, StartAt,
};
use sawlog_broker::coordinator::views::{Processed, ResetRequest};
use sawlog_broker::coordinator::{GroupError, Session, SessionFrame};
use sawlog_broker::log::storage::SimDisk;
use sawlog_broker::model::{AckLevel, AssignmentEpoch, Offset, OffsetRange, PartitionEpoch, Position};
use sawlog_broker::topics::TopicConfig;
use sawlog_proto::batch::{self, BatchLimits, RecordView};

use crate::coordinator::{Groups, caller, group_name, join, offsets, run, value};
use crate::topics::{World, config, offset};

impl Groups {
    /// The same group on what is left of the disk.
    fn on(disk: SimDisk) -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().expect("a runtime");
        Self { world: World::on(disk), runtime }
    }

    /// The gap that a member is told of before it gets records.
    fn gap(&self, session: &mut Session) -> (OffsetRange, GapReason, Option<u64>) {
        self.until(session, |frame| match frame {
            SessionFrame::Control(Frame::Gap { range, reason, records, .. }) => Some((range, reason, records)),
            SessionFrame::Records { records, .. } => panic!("{records:?} before the gap"),
            _ => None,
        })
    }
}

fn written() -> TopicConfig {
    TopicConfig { ack_floor: AckLevel::Written, ..config(1) }
}

fn end_of(groups: &Groups) -> Offset {
    groups.world.topic("orders").partitions()[0].high_watermark()
}

/// A power loss that leaves some of the log and not all of it.
fn loses_a_tail(groups: Groups, least: u64) -> (Groups, u64) {
    let before = end_of(&groups);
    let disk = groups.world.disk.fork();
    for seed in 0..200 {
        let left = Groups::on(disk.crash(seed));
        let end = end_of(&left);
        if offset(least) <= end && end < before {
            return (left, end.get());
        }
    }
    panic!("no loss of power takes a part of the tail");
}

#[test]
fn ak_12_a_group_goes_on_right_when_a_written_tail_that_it_had_settled_vanishes() {
    for mode in [Mode::Keyed, Mode::Offset] {
        let groups = Groups::new();
        groups.world.create("orders", written()).expect("the disk is well");
        groups.create("billing", mode, &["orders"], StartAt::Earliest);
        for number in 0..8 {
            groups.produce("orders", &[(&format!("key-{number}"), "old")]);
        }
        let mut session = groups.join(join("billing", 1)).expect("let in");
        let (epoch, records) = groups.records(&mut session, 8);
        assert_eq!(records.len(), 8);
        match mode {
            Mode::Offset => groups.commit(&mut session, epoch, "orders", 8),
            _ => groups.ack(&mut session, epoch, "orders", vec![run(0, 8)]),
        }
        assert_eq!(groups.lag("billing").floor, offset(8), "durable in the journal, though the log is not");
        drop(session);

        let (mut groups, cut) = loses_a_tail(groups, 0);
        assert_eq!(groups.lag("billing").floor, offset(cut), "{mode:?}: back to where the log ends");
        // Other records get the same offsets.
        for number in 0..8 {
            groups.produce("orders", &[(&format!("key-{number}"), "new")]);
        }
        // A kill in between changes nothing.
        groups.world.kill_and_start();
        let mut session = groups.join(join("billing", 1)).expect("let in");
        let (again, start) = groups.assigned(&mut session);
        assert!(again > epoch && start == offset(cut), "{mode:?}: {again:?} from {start}");
        let (_, records) = groups.records(&mut session, 8);
        assert_eq!(
            offsets(&records),
            (cut..cut + 8).collect::<Vec<_>>(),
            "{mode:?}: nothing is left out, nothing twice"
        );
        assert!(records.iter().all(|record| value(record) == b"new"), "{mode:?}: {records:?}");
        match mode {
            Mode::Offset => groups.commit(&mut session, again, "orders", cut + 8),
            _ => groups.ack(&mut session, again, "orders", vec![run(cut, cut + 8)]),
        }
        assert_eq!(groups.lag("billing").lag_records, 0, "{mode:?}");
    }
}

#[test]
fn ak_12_a_cut_is_told_as_a_gap_to_the_first_member_that_comes_and_dead_letters_of_it_stay() {
    let groups = Groups::new();
    groups.world.create("orders", written()).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    for number in 0..6 {
        groups.produce("orders", &[(&format!("key-{number}"), "old")]);
    }
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 6);
    groups.nack(&session, epoch, "orders", 5, NackKind::Dead);
    groups.results(&mut session, 9);
    drop(session);
    let (groups, cut) = loses_a_tail(groups, 1);
    let handle = groups.coordinator().handle("billing").expect("it is there");
    handle.with_entries(&mut |entries| {
        let entries: Vec<_> = entries.iter().collect();
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].1.state, entries[0].1.source_lost), (EntryState::Open, true));
    });
    assert_eq!(
        groups.world.topic("orders.billing.dlq").partitions()[0].high_watermark(),
        offset(1),
        "its copy is there"
    );
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (range, reason, lost) = groups.gap(&mut session);
    assert_eq!((range, reason), (run(cut, 6), GapReason::Truncated));
    assert_eq!(lost, Some(5_u64.saturating_sub(cut)), "the dead one was settled");
    // Its key is not held up by the old record at the offset of the new one.
    for number in cut..6 {
        groups.produce("orders", &[(&format!("other-{number}"), "new")]);
    }
    let (_, records) = groups.records(&mut session, 6);
    assert_eq!(offsets(&records), (0..6).collect::<Vec<_>>());
    assert_eq!(value(&records[5]), b"new");
}

/// Rule RW-1: a token of a part that was cut is never answered for another record, not when that is trimmed away either.
#[test]
fn of_7_rw_1_a_token_of_a_cut_part_is_of_another_log_also_once_the_part_is_trimmed() {
    let groups = Groups::new();
    groups.world.create("orders", written()).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    for number in 0..8 {
        groups.produce("orders", &[(&format!("key-{number}"), "old")]);
    }
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 8);
    groups.ack(&mut session, epoch, "orders", vec![run(0, 8)]);
    drop(session);
    let source = groups.source("orders");
    let before = groups.world.topic("orders").partitions()[0].epoch();
    let (groups, cut) = loses_a_tail(groups, 0);
    for number in cut..12 {
        groups.produce("orders", &[(&format!("key-{number}"), "new")]);
    }
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let left = usize::try_from(12 - cut).expect("small");
    let (epoch, _) = groups.records(&mut session, left);
    groups.ack(&mut session, epoch, "orders", vec![run(cut, 12)]);
    let after = groups.world.topic("orders").partitions()[0].epoch();
    assert!(after > before);
    let ahead = PartitionEpoch::new(after.get() + 1).expect("small");
    let ask = |groups: &Groups, epoch| {
        let at = |at| Position { topic: source.topic, partition: source.partition, epoch, offset: offset(at) };
        let positions = [at(7), at(11)];
        let wait = groups.coordinator().await_processed("billing", &positions, Duration::ZERO);
        groups.runtime.block_on(wait).expect("it is there")
    };
    for trimmed in [false, true] {
        if trimmed {
            groups.world.trim("orders", 12).expect("it can be trimmed");
        }
        assert_eq!(ask(&groups, before), [Processed::OtherLog, Processed::OtherLog], "trimmed: {trimmed}");
        assert_eq!(ask(&groups, after), [Processed::Acked, Processed::Acked], "trimmed: {trimmed}");
        assert_eq!(ask(&groups, ahead), [Processed::OtherLog, Processed::OtherLog], "trimmed: {trimmed}");
    }
}

#[test]
fn of_5_a_reset_to_below_the_log_begins_at_its_start_and_members_are_told_what_will_not_come() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    for number in 0..4 {
        groups.produce("orders", &[(&format!("key-{number}"), "value")]);
    }
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 4);
    groups.ack(&mut session, epoch, "orders", vec![run(0, 4)]);
    groups.world.trim("orders", 2).expect("it can be trimmed");
    let reset = ResetRequest {
        name: group_name("billing"),
        target: StartAt::Offsets(vec![(SourceName { topic: "orders".into(), partition: 0 }, Offset::ZERO)]),
        epochs: Vec::new(),
        partitions: Vec::new(),
        clear: false,
        dry_run: false,
        caller: caller(),
    };
    groups.runtime.block_on(groups.coordinator().reset(reset)).expect("it may");
    let (mut gap, mut again) = (None, Vec::new());
    groups.until(&mut session, |frame| {
        match frame {
            SessionFrame::Control(Frame::Gap { range, reason, stops, .. }) => gap = Some((range, reason, stops)),
            SessionFrame::Records { records, .. } => again.extend(offsets(&records)),
            SessionFrame::Control(_) | SessionFrame::Batches { .. } => {}
        }
        (gap.is_some() && again.len() >= 2).then_some(())
    });
    assert_eq!(gap, Some((run(0, 2), GapReason::Trim, false)));
    assert_eq!(again, [2, 3]);
}

/// Copies of the record at this offset among the dead letters, by their values.
fn copies(groups: &Groups) -> Vec<Vec<u8>> {
    let Some(topic) = groups.world.engine().topics().get("orders.billing.dlq") else { return Vec::new() };
    let log = &topic.partitions()[0];
    let end = log.high_watermark();
    let (mut next, mut found) = (Offset::ZERO, Vec::new());
    while next < end {
        let read = groups.runtime.block_on(log.read(next, 1 << 20)).expect("the disk is well");
        for frame in &read.frames {
            let records = batch::records(&frame.batch, &BatchLimits::DEFAULT).expect("a good batch");
            let value = |record: RecordView<'_>| record.value.expect("a value").to_vec();
            found.extend(records.views().map(|record| value(record.expect("a good record"))));
            next = frame.base_offset.saturating_add(frame.record_count.into());
        }
    }
    found
}

/// A record is killed while the log's tail, the record with it, is only written. The power goes at every call.
#[test]
fn ak_12_dl_4_a_tail_that_vanishes_at_any_step_of_a_death_leaves_nothing_lost_doubled_or_mistaken() {
    let groups = Groups::new();
    let slow = TopicConfig { flush_interval_ms: 60_000, ..written() };
    groups.world.create("orders", slow).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    for number in 0..3 {
        groups.produce("orders", &[(&format!("key-{number}"), "old")]);
    }
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 3);
    groups.world.disk.record_images();
    groups.nack(&session, epoch, "orders", 2, NackKind::Dead);
    groups.results(&mut session, 9);
    let images = groups.world.disk.take_images();
    drop(session);
    // Whether the record was cut, whether its intent was durable, whether it has an entry.
    let mut seen = std::collections::BTreeMap::new();
    for (at, image) in images.iter().enumerate() {
        for disk in [image.kill(), image.crash(at as u64), image.crash(1_000 + at as u64)] {
            *seen.entry(after_a_cut_death(disk, &format!("call {at}, after {:?}", image.last))).or_insert(0) += 1;
        }
    }
    for wanted in
        [(false, false, false), (false, true, true), (true, false, false), (true, true, false), (true, true, true)]
    {
        assert!(seen.contains_key(&wanted), "{wanted:?} is not among {seen:?}");
    }
    assert!(!seen.contains_key(&(false, true, false)), "{seen:?}");
}

/// What stands on such a disk, with the cut, is a group that goes on right. Tells what it was.
fn after_a_cut_death(disk: SimDisk, when: &str) -> (bool, bool, bool) {
    let mut groups = Groups::on(disk);
    let end = end_of(&groups).get();
    for number in end..3 {
        groups.produce("orders", &[(&format!("other-{number}"), "new")]);
    }
    for kills in 0..2 {
        let handle = groups.coordinator().handle("billing").expect("it is there");
        let done = async {
            while !handle.intents().is_empty() {
                tokio::task::yield_now().await
            }
        };
        let in_time = async { tokio::time::timeout(Duration::from_secs(20), done).await };
        groups.runtime.block_on(in_time).unwrap_or_else(|_| panic!("{when}: an intent stays open"));
        drop(handle);
        if kills == 0 {
            groups.world.kill_and_start();
        }
    }
    let (cut, mut intended, mut dead) = (end < 3, false, false);
    let handle = groups.coordinator().handle("billing").expect("it is there");
    handle.with_state(&mut |state| intended = state.partitions.values().any(|one| one.next_intent > 1));
    handle.with_entries(&mut |entries| {
        for (key, entry) in entries.iter() {
            assert_eq!((key.offset, entry.state), (offset(2), EntryState::Open), "{when}");
            assert_eq!(entry.source_lost, cut, "{when}");
            assert!(!dead, "{when}: two entries of one record");
            dead = true;
        }
    });
    let copies = copies(&groups);
    assert!(copies.iter().all(|value| value == b"old"), "{when}: {copies:?}");
    assert_eq!(copies.len(), usize::from(dead), "{when}");
    // What was not handled comes, each once; the dead one does not, another one in its place does.
    groups.advance(Duration::from_secs(11));
    let mut session = groups.join(join("billing", 2)).expect("let in");
    let expected: Vec<(u64, &[u8])> = (0..3)
        .filter(|number| *number < 2 || cut || !dead)
        .map(|number| (number, if number < end { &b"old"[..] } else { b"new" }))
        .collect();
    let (epoch, records) = groups.records(&mut session, expected.len());
    let mut found: Vec<(u64, &[u8])> = records.iter().map(|one| (one.delivery.offset.get(), value(one))).collect();
    found.sort_unstable();
    assert_eq!(found, expected, "{when}");
    groups.ack(&mut session, epoch, "orders", expected.iter().map(|(number, _)| run(*number, number + 1)).collect());
    assert_eq!(groups.lag("billing").floor, offset(3), "{when}");
    (cut, intended, dead)
}

#[test]
fn g_6_with_a_damaged_journal_groups_are_stopped_until_they_are_recovered_and_nothing_else_is() {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "0"), ("b", "1"), ("c", "2")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 3);
    groups.ack(&mut session, epoch, "orders", vec![run(0, 2)]);
    groups.create("search", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.ack(&mut session, epoch, "orders", vec![run(2, 3)]);
    drop(session);
    let left = groups.world.disk.kill();
    let needle = b"\"search\"";
    let hit = left.files().into_iter().filter(|path| path.starts_with("groups/")).find_map(|path| {
        let bytes = left.bytes_of(&path);
        Some((bytes.windows(needle.len()).position(|window| window == needle)?, path))
    });
    let (at, path) = hit.expect("it is stored as it is");
    left.flip(&path, at as u64, 1);

    let mut groups = Groups::on(left);
    let stopped = |groups: &Groups| {
        assert!(matches!(groups.join(join("billing", 1)), Err(GroupError::JournalCorrupt { .. })));
        assert!(matches!(groups.coordinator().view("billing"), Err(GroupError::JournalCorrupt { .. })));
        let created =
            groups.create_with("third", GroupConfig::new(Mode::Keyed, vec!["orders".into()]), StartAt::Latest);
        assert!(matches!(created, Err(GroupError::JournalCorrupt { .. })), "{created:?}");
    };
    stopped(&groups);
    groups.produce("orders", &[("d", "3")]);
    assert_eq!(end_of(&groups), offset(4), "produce goes on");
    let log = groups.world.topic("orders").partitions()[0].clone();
    let read = groups.runtime.block_on(log.read(Offset::ZERO, 1 << 20)).expect("read goes on");
    assert_eq!(read.frames.iter().map(|frame| frame.record_count).sum::<u32>(), 4);

    let recover = |groups: &Groups, dry_run| groups.runtime.block_on(groups.coordinator().recover(dry_run));
    let report = recover(&groups, true).expect("it can be recovered");
    assert_eq!(report.groups.iter().map(|group| group.name.as_str()).collect::<Vec<_>>(), ["billing"]);
    assert_eq!(report.groups[0].maybe_redelivered, 2, "what was settled behind the damage, and what is new");
    stopped(&groups);
    // A start in between decides nothing.
    groups.world.kill_and_start();
    stopped(&groups);
    let done = recover(&groups, false).expect("it can be recovered");
    assert_eq!(done.groups.len(), 1);
    assert!(
        matches!(groups.coordinator().view("search"), Err(GroupError::NotFound { .. })),
        "it was behind the damage"
    );

    for kills in 0..2 {
        let mut session = groups.join(join("billing", 1)).expect("let in");
        let (raised, start) = groups.assigned(&mut session);
        assert_eq!(start, offset(2), "{kills}: the last good state");
        assert!(raised >= epoch, "{kills}: {raised:?} after {epoch:?}");
        let (delivered, records) = groups.records(&mut session, 2);
        assert_eq!(offsets(&records), [2, 3], "{kills}: what was settled before the damage does not come again");
        assert!(delivered >= epoch);
        if kills == 1 {
            groups.ack(&mut session, delivered, "orders", vec![run(2, 4)]);
        }
        drop(session);
        groups.world.kill_and_start();
    }
    assert_eq!(groups.lag("billing").lag_records, 0);
    // A new unit is given under an epoch past any that may have been given before.
    groups.advance(Duration::from_secs(11));
    let mut session = groups.join(join("billing", 2)).expect("let in");
    let (given, _) = groups.assigned(&mut session);
    assert!(given >= AssignmentEpoch(epoch.0 + (1 << 32)), "{given:?} after {epoch:?}");
    groups.create("search", Mode::Keyed, &["orders"], StartAt::Latest);
    let (old, new) = (groups.coordinator().view("billing"), groups.coordinator().view("search"));
    assert!(new.expect("it is there").id.0 > old.expect("it is there").id.0 + (1 << 19), "no number is given twice");
}

#[test]
fn of_1_a_group_whose_creation_is_cut_short_is_not_there_or_begins_where_it_was_told() {
    let groups = Groups::new();
    groups.world.create("orders", config(2)).expect("the disk is well");
    groups.produce("orders", &[("a", "0"), ("b", "1"), ("c", "2")]);
    let ends = |groups: &Groups| {
        let topic = groups.world.topic("orders");
        topic.partitions().iter().map(|log| log.high_watermark()).collect::<Vec<_>>()
    };
    let told = ends(&groups);
    groups.world.disk.record_images();
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Latest);
    let images = groups.world.disk.take_images();
    assert!(images.len() > 3, "a creation writes: {}", images.len());
    let (mut there, mut missing) = (0, 0);
    for (at, image) in images.iter().enumerate() {
        for disk in [image.kill(), image.crash(at as u64), image.crash(1_000 + at as u64)] {
            let left = Groups::on(disk);
            match left.coordinator().view("billing") {
                Err(GroupError::NotFound { .. }) => {
                    missing += 1;
                    // It can be made, and is whole then.
                    let again = GroupConfig::new(Mode::Keyed, vec!["orders".into()]);
                    assert!(left.create_with("billing", again, StartAt::Latest).expect("nothing is in its way"));
                }
                Err(error) => panic!("call {at}: {error}"),
                Ok(view) => {
                    there += 1;
                    assert_eq!(view.topics.len(), 1, "call {at}");
                }
            }
            let lag = left.runtime.block_on(left.coordinator().lag("billing", &[])).expect("it is there");
            let floors: Vec<Offset> = lag.partitions.iter().map(|one| one.floor).collect();
            assert_eq!(floors, told, "call {at}, after {:?}", image.last);
        }
    }
    assert!(there > 0 && missing > 0, "{there} times it was there, {missing} times not");
}
