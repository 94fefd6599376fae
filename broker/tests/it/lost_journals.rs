//! Damaged journals of groups on the real engine, over the simulated disk: what is made anew, what is kept.

use std::time::Duration;

use sawlog_broker::coordinator::GroupError;
use sawlog_broker::coordinator::types::{EntryState, Mode, NackKind, StartAt};
use sawlog_broker::log::storage::SimDisk;
use sawlog_broker::topics::{TopicConfig, TopicError};

use crate::coordinator::{Groups, caller, join, run};
use crate::topics::{config, offset};

/// No wait takes longer.
const LIMIT: Duration = Duration::from_secs(20);
const DLQ: &str = "orders.billing.dlq";

/// A group in which the first record of key `a` is dead, the second parked behind it, and then one of `c` dead: all of
/// it durable.
fn with_dead_letters() -> Groups {
    let groups = Groups::new();
    groups.world.create("orders", config(1)).expect("the disk is well");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
    groups.produce("orders", &[("a", "bad"), ("b", "good"), ("a", "behind"), ("c", "bad too")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 3);
    groups.nack(&session, epoch, "orders", 0, NackKind::Dead);
    groups.results(&mut session, 9);
    groups.ack(&mut session, epoch, "orders", vec![run(1, 2)]);
    until_open(&groups, 2);
    groups.nack(&session, epoch, "orders", 3, NackKind::Dead);
    groups.results(&mut session, 9);
    drop(session);
    groups
}

/// Lets the engine go on until so many entries are open.
fn until_open(groups: &Groups, count: u64) {
    let open = async {
        loop {
            let lag = groups.coordinator().lag("billing", &[]).await.expect("the group is there");
            if lag.partitions[0].open_entries == count {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let bounded = async { tokio::time::timeout(LIMIT, open).await };
    groups.runtime.block_on(bounded).expect("they are open in time");
}

/// Flips a bit where this text first stands in the files of a journal.
fn damage(disk: &SimDisk, dir: &str, needle: &[u8]) {
    let hit = disk.files().into_iter().filter(|path| path.starts_with(dir)).find_map(|path| {
        let bytes = disk.bytes_of(&path);
        Some((bytes.windows(needle.len()).position(|window| window == needle)?, path))
    });
    let (at, path) = hit.expect("it is stored as it is");
    disk.flip(&path, at as u64, 1);
}

fn is_stopped(groups: &Groups) -> bool {
    matches!(groups.coordinator().view("billing"), Err(GroupError::JournalCorrupt { .. }))
}

fn recover(groups: &Groups) {
    groups.runtime.block_on(groups.coordinator().recover(false)).expect("the disk is well");
}

fn check_entries(groups: &Groups) {
    // An intent that was open opens its entry by itself, shortly after the start.
    until_open(groups, 3);
    let lag = groups.lag("billing");
    assert_eq!((lag.floor, lag.dead_lanes, lag.open_entries), (offset(4), 2, 3));
    let handle = groups.coordinator().handle("billing").expect("it is there");
    let mut entries = Vec::new();
    handle.with_entries(&mut |table| entries.extend(table.iter()));
    let (head, behind) = (&entries[0], &entries[1]);
    assert_eq!((head.0.offset, head.1.class.as_deref()), (offset(0), Some("Bad")));
    assert_eq!((behind.0.offset, behind.1.blocked_by), (offset(2), Some(head.0)));
    assert!(entries.iter().all(|(_, entry)| entry.state == EntryState::Open));
}

#[test]
fn ak_11_a_recovery_makes_the_entries_anew_that_a_damaged_journal_has_lost() {
    let mut groups = with_dead_letters();
    let left = groups.world.disk.kill();
    damage(&left, "entries", b"Bad");
    groups.world.start_on(left);
    assert!(is_stopped(&groups));
    // Nobody may delete what cannot be asked about.
    let delete = |groups: &Groups| groups.runtime.block_on(groups.world.engine().topics().delete("orders", false));
    let refused = delete(&groups);
    assert!(matches!(refused, Err(TopicError::GroupsUnknown { recovering: false, .. })), "{refused:?}");
    recover(&groups);
    check_entries(&groups);
    groups.world.kill_and_start();
    check_entries(&groups);
    let refused = delete(&groups);
    assert!(matches!(refused, Err(TopicError::OpenEntries { open: 3, .. })), "{refused:?}");
    // The key is dead: what comes now is parked behind it.
    groups.produce("orders", &[("a", "later"), ("b", "fine")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (_, records) = groups.records(&mut session, 1);
    assert_eq!(records[0].delivery.offset, offset(5));
}

#[test]
fn ak_11_a_kill_within_a_recovery_loses_no_entry() {
    let mut groups = with_dead_letters();
    let left = groups.world.disk.kill();
    damage(&left, "entries", b"Bad");
    groups.world.start_on(left);
    // The journal has gone back, and nothing was made anew yet.
    let journals = groups.world.engine().journals();
    groups.runtime.block_on(journals.recover(|_| None)).expect("the disk is well");
    groups.world.kill_and_start();
    check_entries(&groups);
    groups.world.kill_and_start();
    check_entries(&groups);
}

#[test]
fn ak_11_dead_letters_of_a_group_that_its_journal_has_lost_are_kept_until_it_is_deleted() {
    let mut groups = with_dead_letters();
    groups.create("other", Mode::Keyed, &["orders"], StartAt::Earliest);
    let left = groups.world.disk.kill();
    damage(&left, "groups", b"\"billing\"");
    groups.world.start_on(left);
    assert!(is_stopped(&groups));
    recover(&groups);
    for _ in 0..2 {
        assert!(matches!(groups.coordinator().view("billing"), Err(GroupError::NotFound { .. })));
        let kept = groups.world.engine().topics().get(DLQ).expect("it is all that is left");
        assert_eq!(kept.partitions()[0].high_watermark(), offset(3));
        groups.world.kill_and_start();
    }
    // A group that had no dead letters leaves nothing: its names are free.
    groups.create("other", Mode::Keyed, &["orders"], StartAt::Earliest);
    let delete = |force| {
        let caller = caller();
        groups.runtime.block_on(groups.coordinator().delete("billing", force, None, &caller))
    };
    let refused = delete(false);
    assert!(matches!(refused, Err(GroupError::OpenEntries { open: 3, .. })), "{refused:?}");
    assert_eq!(delete(true).expect("by force").entries_lost, 3);
    assert!(groups.world.engine().topics().get(DLQ).is_none());
    assert!(matches!(delete(true), Err(GroupError::NotFound { .. })), "nothing is left");
    groups.create("billing", Mode::Keyed, &["orders"], StartAt::Earliest);
}

#[test]
fn re_3_a_group_is_warned_a_day_and_an_hour_before_retention_reaches_what_it_has_not_settled() {
    const HOUR: Duration = Duration::from_secs(3_600);
    let groups = Groups::new();
    let kept = TopicConfig { retention_ms: Some(7 * 24 * 3_600_000), ..config(1) };
    groups.world.create("orders", kept).expect("the disk is well");
    for name in ["billing", "idle"] {
        groups.create(name, Mode::Keyed, &["orders"], StartAt::Earliest);
    }
    groups.produce("orders", &[("a", "one")]);
    let mut session = groups.join(join("billing", 1)).expect("let in");
    let (epoch, _) = groups.records(&mut session, 1);
    groups.ack(&mut session, epoch, "orders", vec![run(0, 1)]);
    let warned = |groups: &Groups| {
        groups.runtime.block_on(groups.coordinator().look_for_losses());
        let metrics = groups.world.engine().metrics();
        (metrics.group("idle").loss_warnings.get(), metrics.group("billing").loss_warnings.get())
    };
    assert_eq!(warned(&groups), (0, 0));
    groups.advance(143 * HOUR);
    assert_eq!(groups.lag("idle").time_to_loss_ms, Some(25 * 3_600_000));
    assert_eq!(warned(&groups), (0, 0));
    groups.advance(HOUR);
    assert_eq!(warned(&groups), (1, 0));
    assert_eq!(warned(&groups), (1, 0), "once");
    groups.advance(22 * HOUR);
    assert_eq!(warned(&groups), (1, 0));
    groups.advance(HOUR);
    assert_eq!(warned(&groups), (2, 0), "and once more");
}
