use std::collections::HashMap;

use proptest::prelude::*;

use super::*;

fn lane(number: u64) -> LaneKey {
    // Spread as the hash of a key would be.
    LaneKey(u128::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

const FAILED: FirstAttempt<'static> = FirstAttempt::Failed { class: "Timeout", fingerprint: "f1" };

fn breaker() -> Breaker {
    Breaker::new(BreakerPolicy::default())
}

/// A breaker that opened at `now_ms` because 20 keys failed.
fn opened(now_ms: u64) -> Breaker {
    let mut breaker = breaker();
    for key in 0..20 {
        assert_eq!(breaker.note_first_attempt(lane(key), FAILED, now_ms), key == 19);
    }
    breaker
}

fn is_open(breaker: &Breaker, now_ms: u64) -> bool {
    matches!(breaker.state(now_ms), BreakerState::Open { .. } | BreakerState::Probing { .. })
}

#[test]
fn cb_1_twenty_failed_keys_that_are_half_of_the_window_open_it() {
    let mut one = breaker();
    for key in 0..20 {
        one.note_first_attempt(lane(100 + key), FirstAttempt::Ok, 1_000);
    }
    for key in 0..19 {
        assert!(!one.note_first_attempt(lane(key), FAILED, 1_000));
    }
    assert!(one.note_first_attempt(lane(19), FAILED, 1_500));
    let reason = OpenReason::FailedKeys { failed: 20, seen: 40 };
    assert_eq!(one.state(1_500), BreakerState::Open { since_ms: 1_500, reason, next_probe_ms: Some(6_500) });
    assert_eq!(one.allowance(1_500), 0);
}

#[test]
fn cb_1_too_few_failed_keys_or_too_small_a_share_leave_it_closed() {
    let mut one = breaker();
    for key in 0..19 {
        one.note_first_attempt(lane(key), FAILED, 1_000);
    }
    assert_eq!(one.state(1_000), BreakerState::Closed, "19 keys");
    let mut many = breaker();
    for key in 0..10_000 {
        let outcome = if key % 10 == 0 { FAILED } else { FirstAttempt::Ok };
        many.note_first_attempt(lane(key), outcome, 1_000 + key);
    }
    assert_eq!(many.state(11_000), BreakerState::Closed, "one key of ten");
}

#[test]
fn cb_1_of_a_key_only_the_latest_first_attempt_counts() {
    let mut one = breaker();
    for round in 0..30 {
        one.note_first_attempt(lane(1), FAILED, 1_000 + round);
    }
    assert_eq!(one.window(1_030), (1, 1));
    one.note_first_attempt(lane(1), FirstAttempt::Ok, 2_000);
    assert_eq!(one.window(2_000), (1, 0));
}

#[test]
fn cb_1_what_is_older_than_the_window_does_not_count() {
    let mut one = breaker();
    for key in 0..15 {
        one.note_first_attempt(lane(key), FAILED, 0);
    }
    for key in 15..30 {
        one.note_first_attempt(lane(key), FAILED, 31_000);
    }
    assert_eq!(one.state(31_000), BreakerState::Closed);
    assert_eq!(one.window(31_000), (15, 15));
    assert_eq!(one.window(1_000_000), (0, 0));
}

#[test]
fn cb_1_failures_of_one_poison_class_alone_leave_it_closed() {
    let policy = BreakerPolicy { poison_classes: vec!["Bad".into(), "Worse".into()], ..BreakerPolicy::default() };
    let fail = |class| FirstAttempt::Failed { class, fingerprint: "x" };
    let mut one = Breaker::new(policy.clone());
    for key in 0..100 {
        assert!(!one.note_first_attempt(lane(key), fail("Bad"), 1_000));
    }
    assert!(one.note_first_attempt(lane(100), fail("Worse"), 1_000), "two classes, if both are listed");
    let mut two = Breaker::new(policy.clone());
    for key in 0..100 {
        two.note_first_attempt(lane(key), fail("Bad"), 1_000);
    }
    assert!(two.note_first_attempt(lane(100), fail("Timeout"), 1_000), "another class among them");
    let mut three = Breaker::new(policy);
    for key in 0..100 {
        let print = format!("one of its own {key}");
        let failed = FirstAttempt::Failed { class: "Bad", fingerprint: &print };
        assert!(!three.note_first_attempt(lane(key % 90), failed, 1_000), "whatever the fingerprints");
    }
}

#[test]
fn cb_1_it_can_be_switched_off() {
    let mut one = Breaker::new(BreakerPolicy { enabled: false, ..BreakerPolicy::default() });
    for key in 0..1_000 {
        assert!(!one.note_first_attempt(lane(key), FAILED, 1_000));
    }
    assert_eq!(one.state(1_000), BreakerState::Closed);
    one.ask_open(5_000, 1_000);
    assert!(is_open(&one, 1_000), "a consumer can open it all the same");
}

#[test]
fn cb_1_memory_is_bounded_and_a_flood_of_keys_keeps_its_share() {
    let mut one = Breaker::new(BreakerPolicy { percent: 40, min_failed_keys: 5_000, ..BreakerPolicy::default() });
    let mut opened_at = None;
    for key in 0..200_000_u64 {
        let outcome = if key % 2 == 0 { FAILED } else { FirstAttempt::Ok };
        if one.note_first_attempt(lane(key), outcome, 1_000 + key / 100) {
            opened_at = Some(key);
            break;
        }
        let (seen, failed) = (one.window.seen(), one.window.failed());
        assert!(seen <= window::KEYS_MAX as u32 && failed <= seen);
    }
    assert!(opened_at.is_some_and(|key| (9_998..12_000).contains(&key)), "{opened_at:?}");
}

#[test]
fn cb_2_probes_go_out_after_5_s_and_wait_twice_as_long_up_to_60_s() {
    let mut one = opened(1_000);
    assert!(!one.probe_due(5_999));
    let (mut now, mut waits) = (6_000, Vec::new());
    for _ in 0..6 {
        assert!(one.probe_due(now) && !one.probe_due(now - 1));
        one.probe_sent();
        assert!(!one.probe_due(now + 1_000_000), "one at a time");
        assert!(matches!(one.state(now), BreakerState::Probing { successes: 0, .. }));
        one.probe_failed(now);
        let BreakerState::Open { next_probe_ms: Some(next), .. } = one.state(now) else { panic!("open") };
        assert_eq!(one.next_deadline_ms(now), Some(next));
        waits.push((next - now) / 1_000);
        now = next;
    }
    assert_eq!(waits, [10, 20, 40, 60, 60, 60]);
    one.probe_sent();
    one.probe_lost(now);
    assert!(one.probe_due(now + 60_000) && !one.probe_due(now + 59_999), "a probe that was not tried changes nothing");
}

#[test]
fn cb_2_lanes_that_failed_before_the_window_keep_their_schedule() {
    let one = opened(100_000);
    assert!(!one.holds(69_999, 100_000) && one.holds(70_000, 100_000) && one.holds(100_000, 100_001));
    assert!(!breaker().holds(100_000, 100_000), "a closed one holds nothing");
}

#[test]
fn cb_2_an_open_breaker_counts_nothing() {
    let mut one = opened(1_000);
    for key in 100..200 {
        assert!(!one.note_first_attempt(lane(key), FAILED, 2_000));
    }
    assert_eq!(one.window(2_000), (0, 0));
}

#[test]
fn cb_3_five_good_probes_in_a_row_close_it_and_deliveries_ramp_up_over_30_s() {
    let mut one = opened(1_000);
    let mut now = 6_000;
    for round in [true, true, true, true, false, true, true, true, true] {
        one.probe_sent();
        if round {
            assert!(!one.probe_ok(now))
        } else {
            one.probe_failed(now)
        }
        now += 20_000;
    }
    assert!(is_open(&one, now), "a bad one begins the row anew");
    one.probe_sent();
    assert!(one.probe_ok(now));
    let part = |ms| one.allowance(now + ms);
    assert_eq!([part(0), part(6_000), part(15_000), part(29_999), part(30_000)], [33, 200, 500, 999, 1_000]);
    assert_eq!(one.state(now + 30_000), BreakerState::Closed);
    assert_eq!(one.state(now + 3_000), BreakerState::Ramp { permille: 100 });
    assert_eq!(one.next_deadline_ms(now + 3_000), Some(now + 4_000));
}

#[test]
fn cb_3_it_opens_again_while_deliveries_ramp_up() {
    let mut one = opened(1_000);
    for _ in 0..5 {
        one.probe_sent();
        one.probe_ok(10_000);
    }
    for key in 0..19 {
        assert!(!one.note_first_attempt(lane(key), FAILED, 11_000), "what opened it the first time counts no more");
    }
    assert!(one.note_first_attempt(lane(19), FAILED, 11_000));
    assert!(one.probe_due(16_000), "probes begin anew");
}

#[test]
fn cb_4_an_operator_forces_it_open_or_closed() {
    let mut one = breaker();
    one.force(Some(true), 1_000);
    assert_eq!(
        one.state(9_000_000),
        BreakerState::Open { since_ms: 1_000, reason: OpenReason::Forced, next_probe_ms: None }
    );
    assert!(!one.probe_due(u64::MAX), "no probe goes out");
    assert_eq!((one.forced(), one.next_deadline_ms(2_000)), (Some(true), None));
    let mut two = opened(1_000);
    two.force(Some(false), 2_000);
    for key in 0..100 {
        assert!(!two.note_first_attempt(lane(key), FAILED, 2_000));
    }
    assert_eq!((two.state(2_000), two.forced()), (BreakerState::Closed, Some(false)));
    two.ask_open(99_000, 2_000);
    assert_eq!(two.state(2_000), BreakerState::Closed, "a consumer does not overrule an operator");
    two.force(None, 3_000);
    assert_eq!((two.state(3_000), two.forced()), (BreakerState::Closed, None));
    assert!(!two.note_first_attempt(lane(500), FAILED, 3_000), "it begins anew");
}

#[test]
fn cb_4_the_most_frequent_failures_are_told() {
    let mut one = Breaker::new(BreakerPolicy { min_failed_keys: 60, ..BreakerPolicy::default() });
    for key in 0..60 {
        let (class, fingerprint) = match key {
            0..30 => ("Timeout", "aaaa"),
            30..50 => ("Timeout", "bbbb"),
            _ => ("Refused", "cccc"),
        };
        one.note_first_attempt(lane(key), FirstAttempt::Failed { class, fingerprint }, 1_000);
    }
    assert!(is_open(&one, 1_000));
    let top: Vec<_> = one.top_failures().into_iter().map(|top| (top.class, top.fingerprint, top.keys)).collect();
    let told = |class: &str, print: &str, keys| (class.to_owned(), print.to_owned(), keys);
    assert_eq!(top, [told("Timeout", "aaaa", 30), told("Timeout", "bbbb", 20), told("Refused", "cccc", 10)]);
}

#[test]
fn cb_4_kinds_of_failure_are_bounded() {
    let mut one = Breaker::new(BreakerPolicy { min_failed_keys: 5_000, ..BreakerPolicy::default() });
    for key in 0..2_000_u64 {
        let long = format!("{key}é").repeat(200);
        one.note_first_attempt(lane(key), FirstAttempt::Failed { class: &long, fingerprint: &long }, 1_000);
    }
    let top = one.top_failures();
    assert_eq!((top.len(), top[0].class.as_str(), top[0].keys), (TOP_FAILURES, "", 2_000 - 255));
    assert!(top[1].class.len() <= 255);
}

#[test]
fn cb_5_a_consumer_opens_it_until_the_time_it_knows() {
    let mut one = breaker();
    one.ask_open(61_000, 1_000);
    let state = BreakerState::Open { since_ms: 1_000, reason: OpenReason::Asked, next_probe_ms: Some(61_000) };
    assert_eq!(one.state(1_000), state);
    one.ask_open(31_000, 2_000);
    assert_eq!(one.state(2_000), state, "the later time counts");
    one.ask_open(91_000, 2_000);
    assert!(!one.probe_due(90_999) && one.probe_due(91_000));
    one.probe_sent();
    one.probe_failed(91_000);
    assert!(one.probe_due(101_000), "from there on as always");
}

#[test]
fn a_policy_out_of_bounds_is_told_with_its_range() {
    BreakerPolicy::default().check().unwrap();
    let base = BreakerPolicy::default();
    let cases = [
        (BreakerPolicy { window_ms: 999, ..base.clone() }, "breaker.window_ms"),
        (BreakerPolicy { window_ms: 3_600_001, ..base.clone() }, "breaker.window_ms"),
        (BreakerPolicy { min_failed_keys: 0, ..base.clone() }, "breaker.min_failed_keys"),
        (BreakerPolicy { min_failed_keys: 10_001, ..base.clone() }, "breaker.min_failed_keys"),
        (BreakerPolicy { percent: 0, ..base.clone() }, "breaker.percent"),
        (BreakerPolicy { percent: 101, ..base.clone() }, "breaker.percent"),
        (BreakerPolicy { poison_classes: vec!["x".into(); 65], ..base.clone() }, "breaker.poison_classes"),
    ];
    for (policy, field) in cases {
        assert_eq!(policy.check().unwrap_err().field, field);
    }
    assert_eq!(serde_json::from_str::<BreakerPolicy>("{}").unwrap(), base);
}

proptest! {
    #[test]
    fn cb_1_the_window_counts_the_latest_of_each_key(
        steps in prop::collection::vec((0..60_u64, any::<bool>(), 0..3_000_u64), 0..300)
    ) {
        let policy = BreakerPolicy { min_failed_keys: 10_000, ..BreakerPolicy::default() };
        let (mut one, mut model, mut now) = (Breaker::new(policy), HashMap::new(), 7_000_u64);
        for (key, ok, passed) in steps {
            now += passed;
            let outcome = if ok { FirstAttempt::Ok } else { FAILED };
            one.note_first_attempt(lane(key), outcome, now);
            model.insert(key, (now / 1_000, ok));
            let live = model.values().filter(|(second, _)| second + 30 > now / 1_000);
            let failed = live.clone().filter(|(_, ok)| !ok).count() as u32;
            prop_assert_eq!(one.window(now), (live.count() as u32, failed));
        }
    }
}
