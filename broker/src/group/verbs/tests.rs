//! Rules of what members say: AK-1 to AK-5, KO-1 to KO-6, RT-5 to RT-7, PI-1.

use crate::group::effect::{AckStatus, After, Frame};
use crate::group::event::{NackKind, Targets, Verb};
use crate::group::record::{GroupRecord, SettledAs};
use crate::group::test_support::{Rig, at, member, source};
use crate::group::{GroupConfig, Mode};
use crate::model::{Offset, OffsetRange, Source};

fn log() -> Source {
    source(1, 0)
}

fn with(change: impl FnOnce(&mut GroupConfig)) -> Rig {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    config.retry.jitter_percent = 0;
    change(&mut config);
    Rig::with(config, 1)
}

#[test]
fn ak_1_records_are_delivered_and_acked_in_the_order_of_their_keys() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 100);
    rig.append(log(), &[1, 2, 1, 3]);
    assert_eq!(rig.offsets(1), [0, 1, 3]);
    assert_eq!(rig.ack(1, log(), &[0]), [AckStatus::Ok]);
    assert_eq!(rig.offsets(1), [2], "the next of the key follows at once");
    assert_eq!(rig.ack(1, log(), &[1, 2, 3]), [AckStatus::Ok; 3]);
    assert_eq!(rig.floor(log()), 4);
}

#[test]
fn ak_1_release_gives_back_without_a_strike_at_once_or_later() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 1);
    rig.append(log(), &[1]);
    assert_eq!(rig.delivered(1), [[(0, 1)]]);
    assert_eq!(rig.nack(1, log(), &[0], NackKind::Release), [AckStatus::Ok]);
    assert_eq!(rig.delivered(1), [[(0, 1)]]);
    assert_eq!(rig.nack_with(1, log(), &[0], NackKind::Release, Some(3_000), ""), [AckStatus::Ok]);
    rig.pass_alive(2_900, &[1]);
    assert!(rig.offsets(1).is_empty());
    rig.pass_alive(200, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 1)]]);
}

#[test]
fn ak_1_skip_settles_and_dead_goes_to_the_dead_letters() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1, 2]);
    assert_eq!(rig.nack(1, log(), &[0], NackKind::Skip), [AckStatus::Ok]);
    let skipped = |record: &GroupRecord| matches!(record, GroupRecord::Settled { how: SettledAs::Skipped, .. });
    assert!(rig.journal.iter().any(skipped));
    assert!(rig.nack(1, log(), &[1], NackKind::Dead).is_empty(), "the answer waits for the dead letter (rule DL-4)");
    assert_eq!(rig.moves, [(log(), 1)]);
    assert_eq!(rig.leased(1), 0, "its credit is back");
}

#[test]
fn ak_2_every_offset_of_a_verb_is_answered_for_itself_in_one_frame() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1, 1, 2]);
    let held = rig.targets(1, log(), &[0]);
    let runs = vec![OffsetRange { from: at(0), to: at(5) }];
    let targets = Targets { runs, ..held };
    let told = rig.ack_targets(1, targets.clone());
    use AckStatus::{AlreadySettled, NotLeased, Ok};
    assert_eq!(told, [Ok, NotLeased, Ok, NotLeased, NotLeased], "1 waits behind 0, 3 and 4 are not there");
    assert_eq!(rig.ack_targets(1, targets), [AlreadySettled, Ok, AlreadySettled, NotLeased, NotLeased]);
}

#[test]
fn ak_3_an_ack_is_answered_once_it_is_durable() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    let targets = rig.targets(1, log(), &[0]);
    rig.frames.clear();
    for request in 1..=2 {
        rig.verb(1, Verb::Ack { request, targets: targets.clone(), versions: Vec::new() });
    }
    let told: Vec<After> = rig.frames[&member(1)].iter().map(|(_, after)| *after).collect();
    assert_eq!(told, [After::Group, After::Group], "a repeat waits for the same record");
}

#[test]
fn ak_4_an_ack_again_says_that_it_was_settled_even_after_a_restart() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1, 2]);
    let targets = rig.targets(1, log(), &[1]);
    assert_eq!(rig.ack_targets(1, targets.clone()), [AckStatus::Ok]);
    assert_eq!(rig.ack_targets(1, targets.clone()), [AckStatus::AlreadySettled]);
    let epochs = rig.epochs.clone();
    let mut rig = rig.restart(10);
    rig.epochs = epochs;
    rig.reading = false;
    rig.join_as(1, 10, None, Some(Vec::new()));
    assert_eq!(rig.ack_targets(1, targets), [AckStatus::AlreadySettled]);
}

#[test]
fn ak_5_a_lease_that_runs_out_is_a_failure_of_its_class_and_waits_like_one() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    rig.taken(1);
    rig.pass_alive(29_999, &[1]);
    assert_eq!(rig.leased(1), 1);
    rig.pass_alive(1, &[1]);
    assert_eq!(rig.leased(1), 0);
    let tried = &rig.machine.state().partitions[&log()].tried[&at(0)];
    assert_eq!((tried.attempts, tried.class.as_str()), (1, "LEASE_EXPIRED"));
    rig.pass_alive(1_200, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 2)]]);
}

#[test]
fn ak_5_an_extension_lasts_a_lease_and_all_of_them_the_longest_time() {
    let mut rig = with(|config| config.max_processing_ms = 60_000);
    rig.join(1, 10);
    rig.append(log(), &[1]);
    let targets = rig.targets(1, log(), &[0]);
    for _ in 0..3 {
        rig.pass_alive(15_000, &[1]);
        rig.verb(1, Verb::Extend { request: 1, targets: targets.clone() });
    }
    rig.pass_alive(14_900, &[1]);
    assert_eq!(rig.leased(1), 1);
    rig.verb(1, Verb::Extend { request: 2, targets: targets.clone() });
    rig.pass_alive(200, &[1]);
    assert_eq!(rig.leased(1), 0, "60 s in all");
    rig.verb(1, Verb::Extend { request: 3, targets });
    let frames = rig.taken(1);
    let last = frames.iter().rev().find_map(|frame| match frame {
        Frame::AckResults { request: 3, results, .. } => Some(results[0].1),
        _ => None,
    });
    assert_eq!(last, Some(AckStatus::NotLeased));
}

#[test]
fn ak_5_leases_of_other_lengths_end_in_their_own_time() {
    let mut rig = with(|config| {
        config.max_processing_ms = 31_000;
        config.retry.backoff = crate::group::retry::Backoff::List { delays_ms: vec![100_000] };
    });
    rig.join(1, 10);
    rig.append(log(), &[1, 2]);
    rig.pass_alive(10_000, &[1]);
    rig.append(log(), &[3]);
    let targets = rig.targets(1, log(), &[0]);
    rig.verb(1, Verb::Extend { request: 1, targets });
    rig.pass_alive(20_100, &[1]);
    assert_eq!(rig.leased(1), 2, "1 is over");
    rig.pass_alive(1_000, &[1]);
    assert_eq!(rig.leased(1), 1, "0 too, capped");
    rig.pass_alive(9_000, &[1]);
    assert!(
        rig.machine.works[&log()]
            .find(at(2))
            .is_some_and(|index| rig.machine.works[&log()].record(index).attempts >= 1)
    );
}

#[test]
fn ko_1_as_many_records_of_a_key_as_the_policy_says_are_leased_together() {
    let mut rig = with(|config| config.max_in_flight_per_key = 3);
    rig.join(1, 100);
    rig.append(log(), &[1; 5]);
    assert_eq!(rig.offsets(1), [0, 1, 2]);
    assert_eq!(rig.ack(1, log(), &[0]), [AckStatus::Ok]);
    assert_eq!(rig.offsets(1), [3]);
}

#[test]
fn ko_3_an_ack_that_skips_one_of_its_key_is_not_leased() {
    let mut rig = with(|config| config.max_in_flight_per_key = 3);
    rig.join(1, 100);
    rig.append(log(), &[1; 3]);
    let targets = rig.targets(1, log(), &[1]);
    assert_eq!(rig.ack_targets(1, targets), [AckStatus::NotLeased]);
    let targets = rig.targets(1, log(), &[0]);
    let runs = vec![OffsetRange { from: at(0), to: at(3) }];
    assert_eq!(rig.ack_targets(1, Targets { runs, ..targets }), [AckStatus::Ok; 3]);
}

#[test]
fn ko_4_after_a_failure_the_later_ones_of_its_key_are_recalled_without_a_strike() {
    let mut rig = with(|config| config.max_in_flight_per_key = 3);
    rig.join(1, 100);
    rig.append(log(), &[1; 4]);
    assert_eq!(rig.offsets(1), [0, 1, 2]);
    let late = rig.targets(1, log(), &[1, 2]);
    assert_eq!(rig.nack(1, log(), &[0], NackKind::Retry), [AckStatus::Ok]);
    let recalled = rig.taken(1).into_iter().find_map(|frame| match frame {
        Frame::Recall { epoch, runs, .. } => Some((epoch, runs)),
        _ => None,
    });
    assert_eq!(recalled, Some((late.epoch, vec![OffsetRange { from: at(1), to: at(3) }])));
    assert_eq!(rig.ack_targets(1, late), [AckStatus::Recalled; 2]);
    assert_eq!(rig.leased(1), 0);
    rig.pass_alive(1_000, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 2)]], "a retry has its key to itself");
    assert_eq!(rig.ack(1, log(), &[0]), [AckStatus::Ok]);
    assert_eq!(rig.delivered(1), [[(1, 1), (2, 1), (3, 1)]]);
}

#[test]
fn ko_4_the_failure_of_a_later_one_leaves_the_first_where_it_is() {
    let mut rig = with(|config| config.max_in_flight_per_key = 3);
    rig.join(1, 100);
    rig.append(log(), &[1; 3]);
    rig.taken(1);
    assert_eq!(rig.nack(1, log(), &[1], NackKind::Retry), [AckStatus::Ok]);
    assert_eq!(rig.leased(1), 1);
    rig.pass_alive(2_000, &[1]);
    assert!(rig.offsets(1).is_empty(), "1 is not delivered while 0 is unsettled and it was tried (rule KO-2)");
    assert_eq!(rig.ack(1, log(), &[0]), [AckStatus::Ok]);
    assert_eq!(rig.delivered(1), [[(1, 2)]]);
    assert_eq!(rig.ack(1, log(), &[1]), [AckStatus::Ok]);
    assert_eq!(rig.delivered(1), [[(2, 1)]]);
}

#[test]
fn ko_5_a_key_that_waits_for_its_retry_holds_up_no_other() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 100);
    rig.append(log(), &[1, 1, 2]);
    assert_eq!(rig.offsets(1), [0, 2]);
    assert_eq!(rig.nack(1, log(), &[0], NackKind::Retry), [AckStatus::Ok]);
    assert_eq!(rig.ack(1, log(), &[2]), [AckStatus::Ok]);
    assert!(rig.offsets(1).is_empty());
    assert_eq!(rig.floor(log()), 0, "the floor stays, what is settled above is kept");
    rig.pass_alive(2_000, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 2)]]);
    assert_eq!(rig.ack(1, log(), &[0]), [AckStatus::Ok]);
    assert_eq!(rig.offsets(1), [1]);
}

#[test]
fn ko_6_in_mode_unordered_every_record_is_its_own_lane() {
    let mut rig = Rig::new(Mode::Unordered, 1);
    rig.join(1, 100);
    rig.append(log(), &[1, 1, 1]);
    assert_eq!(rig.offsets(1), [0, 1, 2]);
    assert_eq!(rig.ack(1, log(), &[2, 0]), [AckStatus::Ok; 2]);
    assert_eq!(rig.nack(1, log(), &[1], NackKind::Retry), [AckStatus::Ok]);
    rig.append(log(), &[1]);
    assert_eq!(rig.offsets(1), [3]);
}

#[test]
fn rt_5_and_rt_7_the_count_is_of_deliveries_and_comes_with_each_of_them() {
    let mut rig = with(|_| {});
    rig.join(1, 100);
    rig.append(log(), &[1]);
    rig.taken(1);
    rig.nack_with(1, log(), &[0], NackKind::Retry, None, "Timeout");
    rig.pass_alive(1_000, &[1]);
    let frames = rig.taken(1);
    let delivery = frames.iter().find_map(|frame| match frame {
        Frame::Deliver(delivered) => delivered.records.first().cloned(),
        _ => None,
    });
    let delivery = delivery.expect("it came again");
    let more = delivery.more.expect("a retry says more");
    assert_eq!((delivery.attempt, more.last_class.as_str()), (2, "Timeout"));
    assert_eq!(more.first_delivery_ms, crate::group::test_support::WALL);
    rig.nack(1, log(), &[0], NackKind::Release);
    assert_eq!(rig.delivered(1), [[(0, 2)]], "a release gives the count back");
}

#[test]
fn rt_6_the_count_is_durable_with_every_nack_and_before_every_delivery_but_the_first() {
    let mut rig = with(|_| {});
    rig.join(1, 100);
    rig.append(log(), &[1]);
    let nacked = rig.journal.len();
    rig.nack(1, log(), &[0], NackKind::Retry);
    let tried = |record: &GroupRecord| match record {
        GroupRecord::Tried { tries, .. } => Some(tries[0].attempts),
        _ => None,
    };
    assert_eq!(rig.journal[nacked..].iter().filter_map(tried).collect::<Vec<_>>(), [1]);
    rig.frames.clear();
    let before = rig.journal.len();
    rig.pass_alive(1_000, &[1]);
    assert_eq!(rig.journal[before..].iter().filter_map(tried).collect::<Vec<_>>(), [2]);
    let after =
        rig.frames[&member(1)].iter().find(|(frame, _)| matches!(frame, Frame::Deliver(_))).map(|(_, after)| *after);
    assert_eq!(after, Some(After::Group));
}

#[test]
fn rt_2_a_client_may_ask_for_another_delay_up_to_24_hours() {
    let mut rig = with(|_| {});
    rig.join(1, 100);
    rig.append(log(), &[1]);
    rig.nack_with(1, log(), &[0], NackKind::Retry, Some(u64::MAX), "E");
    let due = rig.machine.state().partitions[&log()].tried[&at(0)].due_ms;
    assert_eq!(due - rig.now.wall_ms, 86_400_000);
}

#[test]
fn rt_3_a_changed_policy_counts_from_the_next_failure() {
    let mut rig = with(|_| {});
    rig.join(1, 100);
    rig.append(log(), &[1]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    let mut config = rig.machine.state().config.clone();
    config.retry.max_attempts = 2;
    let notes = crate::group::record::GroupNotes::default();
    rig.event(crate::group::event::Event::Admin(crate::group::event::Admin::Configure {
        config: Box::new(config),
        notes,
    }));
    rig.taken(1);
    rig.pass_alive(1_000, &[1]);
    assert_eq!(rig.delivered(1), [[(0, 2)]]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    assert_eq!(rig.moves.len(), 1, "two were all");
}

#[test]
fn rt_4_a_class_that_is_not_retried_dies_at_its_first_failure() {
    let mut rig = with(|config| config.retry.non_retryable = vec!["BadInput".to_owned()]);
    rig.join(1, 100);
    rig.append(log(), &[1]);
    rig.nack_with(1, log(), &[0], NackKind::Retry, None, "BadInput");
    assert_eq!(rig.moves.len(), 1);
}

#[test]
fn a_verb_about_all_offsets_there_are_costs_little_and_names_what_it_did() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(log(), &[1, 2]);
    let targets = rig.targets(1, log(), &[0]);
    let all = Targets { runs: vec![OffsetRange { from: Offset::ZERO, to: Offset::MAX }; 100], ..targets };
    rig.verb(1, Verb::Ack { request: 5, targets: all.clone(), versions: Vec::new() });
    rig.verb(
        1,
        Verb::Nack {
            request: 6,
            targets: all.clone(),
            kind: NackKind::Retry,
            retry_after_ms: None,
            whole_group: false,
            error: None,
            reason: String::new(),
        },
    );
    rig.verb(1, Verb::Extend { request: 7, targets: all.clone() });
    rig.verb(1, Verb::Started { targets: all });
    assert_eq!(rig.floor(log()), 2);
}

#[test]
fn ak_1_who_skips_a_record_and_why_is_in_the_journal() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 10);
    rig.append(source(1, 0), &[1, 2]);
    assert_eq!(rig.nack(1, source(1, 0), &[0, 1], NackKind::Skip), [AckStatus::Ok, AckStatus::Ok]);
    let skipped = rig.journal.iter().find_map(|record| match record {
        GroupRecord::SkippedBy { runs, act, .. } => Some((runs.clone(), act.clone())),
        _ => None,
    });
    let (runs, act) = skipped.expect("it is said");
    assert_eq!(runs, [crate::model::OffsetRange { from: at(0), to: at(2) }]);
    assert!(act.actor.contains("client-1") && act.note == "not needed", "{act:?}");
    assert_eq!(rig.nack(1, source(1, 0), &[0], NackKind::Skip), [AckStatus::AlreadySettled]);
    let times = rig.journal.iter().filter(|record| matches!(record, GroupRecord::SkippedBy { .. })).count();
    assert_eq!(times, 1, "once");
    // It is part of the state, so of a snapshot too.
    let rig = rig.restart(10);
    let stored = serde_json::to_string(rig.machine.state()).unwrap();
    let state: super::super::state::GroupState = serde_json::from_str(&stored).unwrap();
    assert_eq!(&state, rig.machine.state());
    let skips = &state.partitions[&source(1, 0)].skips;
    assert_eq!(skips.reasons().map(|skip| skip.act.note.as_str()).collect::<Vec<_>>(), ["not needed"]);
    assert!(skips.contains(at(1)) && !skips.contains(at(2)));
    assert_eq!(rig.floor(source(1, 0)), 2);
}
