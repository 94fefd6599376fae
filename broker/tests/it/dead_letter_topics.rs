//! Dead-letter topics (rules DL-1, RE-10, DL-5): their names, their mark, what clients may not do, their end.

use std::sync::Arc;

use parking_lot::Mutex;
use sawlog_broker::model::{GroupId, Offset, TopicName, TopicUuid};
use sawlog_broker::partition::{AppendFailure, BoxFuture};
use sawlog_broker::topics::{
    DeletionGuard, NewDeadLetterTopic, Reservation, Topic, TopicError, TopicNotes, TopicUpdate,
};

use crate::topics::{World, batch, batch_of, config, name_of, offset};

const BILLING: GroupId = GroupId(7);

fn dead_letters(topic: &str, group: &str) -> TopicName {
    TopicName::dead_letters_of(&name_of(topic), group).expect("a good name")
}

impl World {
    fn reserve(&self, group: GroupId, group_name: &str, source: &str, name: &str) -> Result<(), TopicError> {
        let name = TopicName::parse_dead_letter(name).expect("a good name");
        let names = vec![Reservation { source: self.topic(source).uuid, name }];
        self.runtime.block_on(self.engine().topics().reserve_dead_letter_names(group, group_name, names))
    }

    fn make(&self, group: GroupId, group_name: &str, source: &str) -> Result<Arc<Topic>, TopicError> {
        let name = dead_letters(source, group_name);
        let new = NewDeadLetterTopic { source: self.topic(source).uuid, group, group_name: group_name.into(), name };
        self.runtime.block_on(self.engine().topics().create_dead_letter_topic(new))
    }
}

#[derive(Debug, Default)]
struct Guard {
    open: Mutex<u64>,
    deleted: Mutex<Vec<String>>,
}

impl DeletionGuard for Guard {
    fn may_delete(&self, topic: Arc<Topic>) -> BoxFuture<'_, Result<(), TopicError>> {
        let answer = match *self.open.lock() {
            0 => Ok(()),
            open => Err(TopicError::OpenEntries { name: topic.name.to_string(), open }),
        };
        Box::pin(async move { answer })
    }

    fn deleted(&self, topic: &Topic) {
        self.deleted.lock().push(topic.name.to_string());
    }
}

#[test]
fn dl_1_a_dead_letter_topic_is_made_like_its_source_and_its_mark_survives() {
    let mut world = World::new();
    let (source, _) = world.create("orders", config(3)).expect("the disk is well");
    world.reserve(BILLING, "billing", "orders", "orders.billing.dlq").expect("it is free");
    let made = world.make(BILLING, "billing", "orders").expect("the disk is well");
    assert_eq!(world.make(BILLING, "billing", "orders").expect("it is there").uuid, made.uuid);
    for _ in 0..2 {
        let topics = world.engine().topics();
        let found = topics.dead_letter_topic(source.uuid, BILLING).expect("it was made");
        assert_eq!((found.name.as_str(), found.partitions().len()), ("orders.billing.dlq", 3));
        let of = found.dead_letters.as_deref().expect("it is marked");
        assert_eq!((of.source, of.source_name.as_str()), (source.uuid, "orders"));
        assert_eq!((of.group, of.group_name.as_str()), (BILLING, "billing"));
        assert_eq!(found.revision().config.ack_floor, sawlog_broker::model::AckLevel::Durable);
        let name = world.runtime.block_on(topics.reserved_dead_letter_name(source.uuid, BILLING));
        assert_eq!(name.expect("it runs").as_ref().map(TopicName::as_str), Some("orders.billing.dlq"));
        world.kill_and_start();
    }
}

#[test]
fn dl_1_clients_neither_change_nor_trim_nor_delete_a_dead_letter_topic() {
    let world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    let made = world.make(BILLING, "billing", "orders").expect("the disk is well");
    world.runtime.block_on(made.partitions()[0].append_dead_letters(batch(3))).expect("the broker may");
    let topics = world.engine().topics();
    let name = made.name.as_str();
    let update =
        TopicUpdate { if_revision: None, config: made.revision().config.clone(), notes: TopicNotes::default() };
    let refusals = [
        world.runtime.block_on(topics.update(name, update)).err(),
        world.trim(name, 1).err(),
        world.runtime.block_on(topics.delete(name, true)).err(),
        made.check_not_reserved().err(),
    ];
    for refused in refusals {
        assert!(matches!(refused, Some(TopicError::ReservedTopic { .. })), "{refused:?}");
    }
    assert!(TopicName::parse("orders.billing.dlq").is_err(), "clients cannot make one either");
    let read = world.runtime.block_on(made.partitions()[0].read(Offset::ZERO, 1 << 20)).expect("anyone may read it");
    assert_eq!(read.next, offset(3));
}

#[test]
fn dl_1_a_name_that_is_taken_is_refused_whoever_comes_second() {
    let mut world = World::new();
    for name in ["a", "a.b", "errors"] {
        world.create(name, config(1)).expect("the disk is well");
    }
    let taken = |result: Result<(), TopicError>| matches!(result, Err(TopicError::DeadLetterNameTaken { .. }));
    world.reserve(GroupId(1), "b.c", "a", "a.b.c.dlq").expect("it is free");
    world.reserve(GroupId(1), "b.c", "a", "a.b.c.dlq").expect("it has it already");
    assert!(taken(world.reserve(GroupId(2), "c", "a.b", "a.b.c.dlq")), "the same name of other parts");
    assert!(taken(world.make(GroupId(2), "c", "a.b").map(|_| ())), "nor without having asked");
    assert!(taken(world.reserve(GroupId(2), "c", "a.b", "errors")), "a topic has it");
    world.reserve(GroupId(2), "c", "a.b", "failures").expect("another may be given");
    world.kill_and_start();
    assert!(taken(world.create("failures", config(1)).map(|_| ())), "a topic made later");
    // Freed with the group.
    let topics = world.engine().topics();
    world.runtime.block_on(topics.drop_dead_letters(GroupId(2), None)).expect("the disk is well");
    world.create("failures", config(1)).expect("the name is free again");
    assert!(taken(world.reserve(GroupId(3), "x", "a", "failures")));
}

#[test]
fn re_10_a_topic_takes_its_dead_letters_along_in_one_record() {
    let mut world = World::new();
    world.create("orders", config(2)).expect("the disk is well");
    let guard = Arc::new(Guard::default());
    world.engine().topics().set_deletion_guard(Arc::clone(&guard) as _);
    for (group, name) in [(1, "one"), (2, "two")] {
        world.reserve(GroupId(group), name, "orders", &format!("orders.{name}.dlq")).expect("it is free");
        world.make(GroupId(group), name, "orders").expect("the disk is well");
    }
    *guard.open.lock() = 4;
    let refused = world.runtime.block_on(world.engine().topics().delete("orders", false));
    assert!(matches!(refused, Err(TopicError::OpenEntries { open: 4, .. })), "{refused:?}");
    assert!(world.engine().topics().get("orders.one.dlq").is_some());
    world.runtime.block_on(world.engine().topics().delete("orders", true)).expect("by force");
    assert_eq!(*guard.deleted.lock(), ["orders.one.dlq", "orders.two.dlq", "orders"]);
    for _ in 0..2 {
        assert!(world.engine().topics().all().is_empty(), "{:?}", world.engine().topics().all());
        world.kill_and_start();
    }
    world.create("orders", config(1)).expect("the disk is well");
    world.reserve(GroupId(3), "one", "orders", "orders.one.dlq").expect("the names are free");
}

#[test]
fn of_8_the_end_of_a_group_takes_its_own_dead_letters_and_no_others() {
    let world = World::new();
    let uuid = |name: &str| -> TopicUuid { world.topic(name).uuid };
    for name in ["orders", "returns"] {
        world.create(name, config(1)).expect("the disk is well");
        for (group, group_name) in [(1, "one"), (2, "two")] {
            let own = dead_letters(name, group_name);
            world.reserve(GroupId(group), group_name, name, own.as_str()).expect("it is free");
            world.make(GroupId(group), group_name, name).expect("the disk is well");
        }
    }
    let topics = world.engine().topics();
    world.runtime.block_on(topics.drop_dead_letters(GroupId(1), Some(vec![uuid("orders")]))).expect("well");
    assert!(topics.get("orders.one.dlq").is_none() && topics.get("returns.one.dlq").is_some());
    world.runtime.block_on(topics.drop_dead_letters(GroupId(1), None)).expect("well");
    assert!(topics.get("returns.one.dlq").is_none() && topics.get("returns.two.dlq").is_some());
    let left = world.runtime.block_on(topics.groups_with_dead_letters()).expect("it runs");
    assert_eq!(left.into_iter().collect::<Vec<_>>(), [GroupId(2)]);
}

#[test]
fn f_3_dead_letters_take_half_of_the_reserve_while_the_disk_is_low() {
    let world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    world.disk.set_quota(world.disk.used_bytes() + (1 << 19));
    world.engine().look_at_disk_now();
    let made = world.make(BILLING, "billing", "orders").expect("it is made on a low disk too");
    let refused = world.runtime.block_on(world.topic("orders").partitions()[0].append(
        batch(1),
        sawlog_broker::model::AckLevel::Durable,
        sawlog_broker::partition::Permit::default(),
    ));
    assert!(matches!(refused, Err(AppendFailure::DiskLow { .. })), "{refused:?}");
    // Half of a reserve of 1 MiB.
    let letter = batch_of(1, &[7; 100 << 10]);
    let append = || world.runtime.block_on(made.partitions()[0].append_dead_letters(letter.clone()));
    let taken = (0..20).take_while(|_| append().is_ok()).count();
    assert_eq!(taken, 5);
    assert!(matches!(append(), Err(AppendFailure::DiskLow { .. })));
    world.disk.set_quota(world.disk.used_bytes() + (64 << 20));
    world.engine().look_at_disk_now();
    append().expect("there is space again");
}

#[test]
fn dl_5_a_copy_of_the_largest_record_fits() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    let made = world.make(BILLING, "billing", "orders").expect("the disk is well");
    let largest = batch_of(1, &vec![3; (4 << 20) + ((2 * 64) << 10)]);
    world.runtime.block_on(made.partitions()[0].append_dead_letters(largest.clone())).expect("it fits");
    world.kill_and_start();
    let topic = world.topic("orders.billing.dlq");
    let read = world.runtime.block_on(topic.partitions()[0].read(Offset::ZERO, 1)).expect("it is there");
    assert_eq!(read.frames.len(), 1);
    assert_eq!(read.frames[0].batch[16..], largest.bytes[16..]);
}
