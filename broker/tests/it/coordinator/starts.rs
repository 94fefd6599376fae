//! What a kill leaves of dead letters on their way, and the start that goes on with it.

use super::*;

/// Records of the key that dies.
const DYING: u64 = 40;

fn limited(dlq_max_bytes: u64) -> GroupConfig {
    GroupConfig { dlq_max_bytes, ..GroupConfig::new(Mode::Keyed, vec!["orders".into()]) }
}

/// Sets the limit of bytes of the dead letters; what was decided before is durable then.
fn limit(groups: &Groups, dlq_max_bytes: u64) {
    let update = UpdateGroup {
        name: group_name("billing"),
        revision: None,
        config: Some(limited(dlq_max_bytes)),
        topic_retry: None,
        notes: None,
        force: false,
        caller: caller(),
    };
    groups.runtime.block_on(groups.coordinator().update(update)).expect("it may");
}

#[test]
fn g_3_intents_that_a_kill_left_open_are_copied_once_each_in_order_and_deliver_nothing() {
    let mut groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create_with("billing", limited(1), StartAt::Earliest).expect("a good group");
    let values: Vec<String> = (0..DYING / 2).map(|number| format!("value {number}")).collect();
    let records: Vec<(&str, &str)> = values.iter().map(|value| ("dead", value.as_str())).collect();
    groups.produce("orders", &records);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 1);
    groups.nack(&session, epoch, "orders", 0, NackKind::Dead);
    limit(&groups, 1);
    let open = || groups.coordinator().handle("billing").expect("it is there").intents().len() as u64;
    assert_eq!(open(), DYING / 2, "no copy fits");
    drop(session);
    groups.produce("orders", &records);
    groups.produce("orders", &[("live", "one")]);
    let before = groups.world.topic("orders").partitions()[0].epoch();
    groups.world.kill_and_start();
    let mut session = groups.join(join("billing", 1)).expect("let in");
    limit(&groups, 0);
    let (_, delivered) = groups.records(&mut session, 1);
    assert_eq!(offsets(&delivered), [DYING], "no record of the dead key");
    let topic = groups.source("orders").topic;
    let positions: Vec<Position> =
        (0..DYING).map(|at| Position { topic, partition: PartitionId(0), epoch: before, offset: offset(at) }).collect();
    let wait = groups.coordinator().await_processed("billing", &positions, LIMIT);
    let processed = groups.runtime.block_on(wait).expect("the group is there");
    assert!(processed.iter().all(|one| matches!(one, Processed::Dead(_) | Processed::Parked(_))), "{processed:?}");
    let copies = groups.world.topic("orders.billing.dlq").partitions()[0].high_watermark();
    assert_eq!(copies, offset(DYING), "one copy for each");
    groups.coordinator().handle("billing").expect("it is there").with_entries(&mut |entries| {
        let places: Vec<(u64, u64)> = entries.iter().map(|(key, entry)| (key.offset.get(), entry.copy.get())).collect();
        assert_eq!(places, (0..DYING).map(|at| (at, at)).collect::<Vec<_>>(), "in the order of the log");
    });
}
