//! Retention of dead letters and their figures, with the clock turned by hand.

use std::time::Duration;

use crate::dead_letter::handle::DeadLetters;
use crate::dead_letter::test_support::{at, key};
use crate::dead_letter::test_world::{World, runtime};
use crate::group::entry::EntryState;
use crate::partition::PartitionLog;

const DAY: Duration = Duration::from_secs(86_400);

#[test]
fn dl_10_an_open_entry_expires_once_its_time_is_over_and_its_source_record_gone() {
    runtime().block_on(async {
        let world = World::new().await;
        world.letters.run_retention(true).await;
        world.clock.advance(31 * DAY);
        world.letters.run_retention(true).await;
        assert!(
            (0..9).all(|offset| world.group.entry(key(offset)).state == EntryState::Open),
            "their records are there"
        );
        world.logs.source.lock().trim(at(4));
        world.letters.run_retention(false).await;
        assert_eq!(world.group.entry(key(0)).state, EntryState::Open, "the wall clock cannot be believed (rule F6)");
        world.letters.run_retention(true).await;
        for offset in 0..9 {
            let expected = if offset < 4 { EntryState::Expired } else { EntryState::Open };
            assert_eq!(world.group.entry(key(offset)).state, expected, "{offset}");
        }
        assert!(world.letters.parts.metrics.encode().contains("sawlog_dead_letter_expired_total 4"));
        // Then they are forgotten, and what only they needed goes.
        world.letters.run_retention(true).await;
        assert!((0..4).all(|offset| world.group.state.lock().table.get(&key(offset)).is_none()));
        let letters = world.logs.letters.lock().clone().expect("they are made");
        assert_eq!(letters.log_start(), at(4));
        assert!(world.letters.get(&world.handle, key(5)).await.expect("it is there").view.record.is_some());
    });
}

#[test]
fn dl_10_the_copy_of_a_closed_entry_goes_its_state_stays_as_long_as_the_source_record() {
    runtime().block_on(async {
        let world = World::new().await;
        world.group.close(key(0), EntryState::Discarded);
        world.group.close(key(1), EntryState::Resolved { version: 0 });
        world.letters.run_retention(true).await;
        let letters = world.logs.letters.lock().clone().expect("they are made");
        assert_eq!(letters.log_start(), at(0), "not before its time");
        world.clock.advance(31 * DAY);
        world.letters.run_retention(true).await;
        assert_eq!(letters.log_start(), at(2));
        assert!(world.group.entry(key(0)).state.is_closed(), "the group may meet it again (rule DL-15)");
        world.logs.source.lock().trim(at(1));
        world.letters.run_retention(true).await;
        assert!(world.group.state.lock().table.get(&key(0)).is_none());
        assert!(world.group.entry(key(1)).state.is_closed());
    });
}

#[test]
fn dl_10_what_an_intent_may_need_stays() {
    runtime().block_on(async {
        let world = World::new().await;
        (0..9).for_each(|offset| world.group.close(key(offset), EntryState::Discarded));
        world.group.state.lock().dlq_end = at(6);
        world.logs.source.lock().damage(9, false);
        let (moves, after) = world.group.kill(&[9], |_| None);
        world.letters.moves(&world.handle, moves, after, false);
        world.clock.advance(31 * DAY);
        world.letters.run_retention(true).await;
        let letters = world.logs.letters.lock().clone().expect("they are made");
        assert_eq!(letters.log_start(), at(6));
    });
}

#[test]
fn dl_14_depth_age_keys_and_expiry_are_told() {
    runtime().block_on(async {
        let world = World::new().await;
        world.resolve(3);
        world.clock.advance(Duration::from_secs(100));
        world.letters.run_retention(true).await;
        let text = world.letters.parts.metrics.encode();
        for line in [
            r#"sawlog_dead_letter_entries{group="billing",topic="orders",kind="failed",state="open",reason="ATTEMPTS"} 8"#,
            r#"sawlog_dead_letter_entries{group="billing",topic="orders",kind="failed",state="resolved",reason="ATTEMPTS"} 1"#,
            r#"sawlog_dead_letter_keys{group="billing"} 3"#,
            r#"sawlog_dead_letter_arrivals_total{group="billing",reason="ATTEMPTS"} 9"#,
            r#"sawlog_dead_letter_oldest_age_seconds{group="billing"} 114"#,
            r#"sawlog_dead_letter_first_expiry_seconds{group="billing"} 2591885"#,
            "sawlog_dead_letter_blocked 0",
        ] {
            assert!(text.contains(line), "{line} is not in\n{text}");
        }
    });
}
