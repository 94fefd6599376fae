//! What groups still need outlives retention and trims (rules RE-2, RE-9, DL-4), asked of a stand-in for the groups.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use sawlog_broker::coordinator::{Caller, NewGroup};
use sawlog_broker::group::{GroupConfig, Mode, StartAt};
use sawlog_broker::model::{GroupName, Offset, PartitionId, Source, TopicUuid};
use sawlog_broker::topics::{GroupHolds, RetentionHolds, TopicConfig, TopicNotes, TopicUpdate};

use crate::topics::{World, config, fill, offset};

/// Longer than any age in these tests.
const DAY: Duration = Duration::from_secs(86_400);

/// The floor of one group called `billing`, and the lowest record of a dead letter on its way.
#[derive(Debug)]
struct Needs {
    floor: Mutex<Option<Offset>>,
    needed: Mutex<Option<Offset>>,
    topic: Mutex<TopicUuid>,
}

impl RetentionHolds for Needs {
    fn floor(&self, _topic: TopicUuid, _partition: PartitionId, group: &str) -> Option<Offset> {
        self.floor.lock().filter(|_| group == "billing")
    }

    fn needed(&self, topic: Option<TopicUuid>) -> HashMap<Source, Offset> {
        let source = |topic| Source { topic, partition: PartitionId(0) };
        let all = [topic.unwrap_or(*self.topic.lock())].into_iter();
        all.filter_map(|topic| Some((source(topic), (*self.needed.lock())?))).collect()
    }
}

/// A topic of about four segments of 17 records whose records are kept for an hour, and held for a group.
fn world(groups: &[&str], max_ms: Option<u64>) -> (World, Arc<Needs>) {
    let world = World::new();
    let holds = GroupHolds { groups: groups.iter().map(|&group| group.into()).collect(), max_ms, max_bytes: None };
    let config = TopicConfig { retention_ms: Some(3_600_000), holds, ..config(1) };
    world.create("orders", config).expect("the disk is well");
    fill(&world, "orders");
    let topic = Mutex::new(world.topic("orders").uuid);
    let needs = Arc::new(Needs { floor: Mutex::default(), needed: Mutex::default(), topic });
    world.engine().topics().set_retention_holds(Arc::clone(&needs) as _);
    (world, needs)
}

fn log_start(world: &World) -> Offset {
    world.topic("orders").partitions()[0].log_start()
}

#[test]
fn re_2_retention_keeps_what_a_group_of_the_list_has_not_settled_and_lets_go_later() {
    let (world, needs) = world(&["billing", "nobody"], None);
    *needs.floor.lock() = Some(offset(20));
    world.clock.advance(DAY);
    world.engine().run_retention_now();
    let held = log_start(&world);
    assert!(held > Offset::ZERO && held <= offset(20), "{held}");
    *needs.floor.lock() = Some(offset(60));
    world.engine().run_retention_now();
    assert!(log_start(&world) > offset(30), "{}", log_start(&world));
}

#[test]
fn re_2_beyond_the_longest_hold_records_go_although_a_group_needs_them() {
    let (world, needs) = world(&["billing"], Some(7_200_000));
    *needs.floor.lock() = Some(Offset::ZERO);
    world.clock.advance(Duration::from_secs(2 * 3_600));
    world.engine().run_retention_now();
    assert_eq!(log_start(&world), Offset::ZERO);
    world.clock.advance(Duration::from_secs(2 * 3_600));
    world.engine().run_retention_now();
    assert!(log_start(&world) > offset(30), "{}", log_start(&world));
}

#[test]
fn re_2_a_group_that_does_not_exist_and_one_that_is_not_listed_hold_nothing() {
    for groups in [&["nobody"][..], &[]] {
        let (world, needs) = world(groups, None);
        *needs.floor.lock() = Some(Offset::ZERO);
        world.clock.advance(DAY);
        world.engine().run_retention_now();
        assert!(log_start(&world) > offset(30), "{groups:?}");
    }
}

#[test]
fn re_2_the_list_is_kept_over_a_restart_and_may_be_changed() {
    let (mut world, _) = world(&["billing"], Some(5_000));
    world.kill_and_start();
    let revision = world.topic("orders").revision();
    assert_eq!(revision.config.holds.groups, ["billing"]);
    assert_eq!(revision.config.holds.max_ms, Some(5_000));
    let changed = TopicConfig { holds: GroupHolds::default(), ..revision.config.clone() };
    let update = TopicUpdate { if_revision: None, config: changed, notes: TopicNotes::default() };
    world.runtime.block_on(world.engine().topics().update("orders", update)).expect("the disk is well");
    world.kill_and_start();
    assert_eq!(world.topic("orders").revision().config.holds, GroupHolds::default());
}

#[test]
fn dl_4_neither_retention_nor_a_trim_takes_the_record_of_a_dead_letter_on_its_way() {
    let (world, needs) = world(&[], None);
    *needs.needed.lock() = Some(offset(20));
    world.clock.advance(DAY);
    world.engine().run_retention_now();
    assert!(log_start(&world) <= offset(20));
    let trimmed = world.trim("orders", 40).expect("it is in the log");
    assert_eq!(trimmed, [(PartitionId(0), offset(20))], "the trim says how far it came");
    // Once it has arrived, the rest of the trim follows.
    *needs.needed.lock() = None;
    world.engine().run_retention_suspended_now();
    assert_eq!(log_start(&world), offset(40));
}

#[test]
fn re_9_a_trim_that_waits_for_a_dead_letter_is_done_after_a_restart_too() {
    let (mut world, needs) = world(&[], None);
    *needs.needed.lock() = Some(offset(20));
    assert_eq!(world.trim("orders", 40).expect("it is in the log"), [(PartitionId(0), offset(20))]);
    // A trim that asks for less takes nothing back.
    assert_eq!(world.trim("orders", 30).expect("it is in the log"), [(PartitionId(0), offset(20))]);
    world.kill_and_start();
    assert_eq!(log_start(&world), offset(20));
    world.engine().run_retention_suspended_now();
    assert_eq!(log_start(&world), offset(40));
}

#[test]
fn re_2_a_real_group_holds_what_it_has_not_settled_until_it_is_deleted() {
    let mut world = World::new();
    let holds = GroupHolds { groups: vec!["billing".into()], max_ms: None, max_bytes: None };
    let config = TopicConfig { retention_ms: Some(3_600_000), holds, ..config(1) };
    world.create("orders", config).expect("the disk is well");
    fill(&world, "orders");
    let new = NewGroup {
        name: GroupName::parse("billing").expect("a good name"),
        config: GroupConfig::new(Mode::Keyed, vec!["orders".into()]),
        start: StartAt::Earliest,
        epochs: Vec::new(),
        topic_retry: Default::default(),
        notes: Default::default(),
    };
    world.runtime.block_on(world.engine().coordinator().create(new)).expect("the disk is well");
    world.clock.advance(DAY);
    world.engine().run_retention_now();
    assert_eq!(log_start(&world), Offset::ZERO);
    world.kill_and_start();
    world.engine().run_retention_now();
    assert_eq!(log_start(&world), Offset::ZERO, "after a restart too");
    let (coordinator, nobody) = (world.engine().coordinator(), Caller::default());
    world.runtime.block_on(coordinator.delete("billing", false, None, &nobody)).expect("the disk is well");
    world.engine().run_retention_now();
    assert!(log_start(&world) > offset(30), "{}", log_start(&world));
}
