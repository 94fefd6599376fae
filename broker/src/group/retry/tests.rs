use proptest::prelude::*;

use super::*;

fn without_jitter() -> RetryPolicy {
    RetryPolicy { jitter_percent: 0, ..RetryPolicy::default() }
}

fn seconds(policy: &RetryPolicy, attempt: u32) -> u64 {
    policy.delay(attempt, 1).as_secs()
}

fn failure(attempt: u32, kind: FailureKind) -> Failure<'static> {
    Failure { attempt, class: "Timeout", kind, seed: 7 }
}

const NACK: FailureKind = FailureKind::Nack { retry_after: None };

#[test]
fn rt_1_the_defaults_are_six_tries_and_growing_delays() {
    let policy = RetryPolicy::default();
    policy.check().unwrap();
    assert_eq!((policy.max_attempts, policy.jitter_percent), (6, 20));
    assert_eq!((policy.on_exhausted, policy.after_dead), (OnExhausted::DeadLetter, AfterDead::Park));
    let plain = without_jitter();
    assert_eq!([1, 2, 3, 4, 5].map(|attempt| seconds(&plain, attempt)), [1, 5, 30, 120, 600]);
}

#[test]
fn rt_2_the_last_delay_of_a_list_repeats() {
    let plain = without_jitter();
    assert_eq!((seconds(&plain, 6), seconds(&plain, u32::MAX)), (600, 600));
}

#[test]
fn rt_2_an_exponential_delay_grows_to_its_greatest() {
    let backoff = Backoff::Exponential { base_ms: 1_000, factor_permille: 2_500, max_ms: 60_000 };
    let policy = RetryPolicy { backoff, ..without_jitter() };
    policy.check().unwrap();
    let delays = [1, 2, 3, 4, 5, 6, 7, u32::MAX].map(|attempt| policy.delay(attempt, 1).as_millis());
    assert_eq!(delays, [1_000, 2_500, 6_250, 15_625, 39_062, 60_000, 60_000, 60_000]);
}

#[test]
fn rt_2_the_jitter_is_uniform_around_the_delay_and_repeats_for_a_seed() {
    let policy = RetryPolicy::default();
    let draws: Vec<u64> = (0..4_000).map(|seed| policy.delay(2, seed).as_millis() as u64).collect();
    assert!(draws.iter().all(|delay| (4_000..=6_000).contains(delay)));
    // Each tenth of the span gets its share, give or take a quarter of it: with 400 expected that is five deviations.
    for tenth in 0..10 {
        let (from, to) = (4_000 + tenth * 200, 4_200 + tenth * 200);
        let count = draws.iter().filter(|&&delay| from <= delay && delay < to).count();
        assert!((300..=500).contains(&count), "{count} of 4,000 in {from}..{to} ms");
    }
    assert_eq!(policy.delay(2, 99), policy.delay(2, 99));
    let seeds: std::collections::BTreeSet<u64> =
        (0..100).flat_map(|offset| (1..4).map(move |attempt| jitter_seed(5, offset, attempt))).collect();
    assert_eq!(seeds.len(), 300, "offset and attempt each change the seed");
}

#[test]
fn rt_2_what_the_client_asks_for_overrides_up_to_24_hours() {
    let policy = RetryPolicy::default();
    let asked = |after| policy.verdict(&failure(1, FailureKind::Nack { retry_after: Some(after) }));
    assert_eq!(asked(Duration::from_millis(1)), Verdict::Retry(Duration::from_millis(1)));
    assert_eq!(asked(Duration::ZERO), Verdict::Retry(Duration::ZERO));
    assert_eq!(asked(Duration::MAX), Verdict::Retry(limits::RETRY_AFTER_MAX));
}

#[test]
fn rt_2_a_nack_and_an_expired_lease_wait_alike() {
    let policy = RetryPolicy::default();
    let delay = Verdict::Retry(policy.delay(3, 7));
    for kind in [NACK, FailureKind::LeaseExpired, FailureKind::MemberLost] {
        assert_eq!(policy.verdict(&failure(3, kind)), delay);
    }
}

#[test]
fn rt_1_the_last_try_exhausts_and_says_how_it_failed() {
    let policy = RetryPolicy::default();
    let reason = |attempt, kind| match policy.verdict(&failure(attempt, kind)) {
        Verdict::Exhausted(reason) => Some(reason),
        Verdict::Retry(_) => None,
    };
    assert_eq!(reason(5, NACK), None);
    assert_eq!(reason(6, NACK), Some(DeadReason::Attempts));
    assert_eq!(reason(7, NACK), Some(DeadReason::Attempts), "a policy may have shrunk meanwhile");
    assert_eq!(reason(6, FailureKind::LeaseExpired), Some(DeadReason::LeaseExpired));
    assert_eq!(reason(6, FailureKind::MemberLost), Some(DeadReason::ConsumerCrash));
    assert!(policy.is_last(6) && !policy.is_last(5));
    let asks = FailureKind::Nack { retry_after: Some(Duration::from_secs(1)) };
    assert_eq!(reason(6, asks), Some(DeadReason::Attempts), "asking for a delay adds no try");
}

#[test]
fn rt_4_a_dead_nack_and_a_class_that_is_not_retried_skip_the_remaining_tries() {
    let policy = RetryPolicy { non_retryable: vec!["Timeout".into()], ..RetryPolicy::default() };
    assert_eq!(policy.verdict(&failure(1, NACK)), Verdict::Exhausted(DeadReason::NonRetryable));
    assert_eq!(policy.verdict(&failure(1, FailureKind::DeadNack)), Verdict::Exhausted(DeadReason::ConsumerDeadNack));
    let other = Failure { class: "timeout", ..failure(1, NACK) };
    assert!(matches!(policy.verdict(&other), Verdict::Retry(_)), "classes are compared to the letter");
    let expired = RetryPolicy { non_retryable: vec![LEASE_EXPIRED.into()], ..RetryPolicy::default() };
    let expired = expired.verdict(&Failure { class: LEASE_EXPIRED, ..failure(1, FailureKind::LeaseExpired) });
    assert_eq!(expired, Verdict::Exhausted(DeadReason::NonRetryable));
}

#[test]
fn rt_1_a_value_out_of_bounds_is_told_with_its_range() {
    let day = 86_400_000;
    let list = |delays_ms: Vec<u64>| Backoff::List { delays_ms };
    let exponential = |base_ms, factor_permille, max_ms| Backoff::Exponential { base_ms, factor_permille, max_ms };
    let base = RetryPolicy::default();
    let with = |backoff| RetryPolicy { backoff, ..base.clone() };
    let cases = [
        (RetryPolicy { max_attempts: 0, ..base.clone() }, "retry.max_attempts", "1 to 1000000"),
        (RetryPolicy { jitter_percent: 101, ..base.clone() }, "retry.jitter_percent", "0 to 100"),
        (with(list(vec![])), "retry.backoff.delays", "1 to 64"),
        (with(list(vec![1; 65])), "retry.backoff.delays", "1 to 64"),
        (with(list(vec![1, day + 1])), "retry.backoff.delays_ms", "0 to 86400000"),
        (with(exponential(0, 2_000, 10)), "retry.backoff.base_ms", "1 to 10"),
        (with(exponential(11, 2_000, 10)), "retry.backoff.base_ms", "1 to 10"),
        (with(exponential(1, 999, 10)), "retry.backoff.factor_permille", "1000 to 100000"),
        (with(exponential(1, 2_000, day + 1)), "retry.backoff.max_ms", "1 to 86400000"),
        (RetryPolicy { non_retryable: vec!["x".into(); 65], ..base.clone() }, "retry.non_retryable", "0 to 64"),
        (RetryPolicy { non_retryable: vec![String::new()], ..base.clone() }, "retry.non_retryable", "1 to 255"),
        (RetryPolicy { non_retryable: vec!["x".repeat(256)], ..base.clone() }, "retry.non_retryable", "1 to 255"),
    ];
    for (policy, field, bounds) in cases {
        let refused = policy.check().unwrap_err();
        assert_eq!(refused.field, field);
        assert!(refused.bounds.contains(bounds), "{refused}");
        // A policy that was never checked still gives delays, not panics.
        policy.delay(3, 3);
    }
}

#[test]
fn a_policy_is_read_back_from_json_and_fields_left_out_have_their_defaults() {
    let policy = RetryPolicy {
        backoff: Backoff::Exponential { base_ms: 10, factor_permille: 2_000, max_ms: 1_000 },
        on_exhausted: OnExhausted::Block,
        ..RetryPolicy::default()
    };
    let json = serde_json::to_string(&policy).unwrap();
    assert_eq!(serde_json::from_str::<RetryPolicy>(&json).unwrap(), policy);
    assert_eq!(serde_json::from_str::<RetryPolicy>("{}").unwrap(), RetryPolicy::default());
}

proptest! {
    #[test]
    fn rt_2_every_delay_stays_within_its_jitter(
        attempt in 1..50_u32, seed in any::<u64>(), jitter in 0..=100_u32,
        base in 1..1_000_u64, factor in 1_000..5_000_u32, max in 1_000..86_400_000_u64,
    ) {
        let backoff = Backoff::Exponential { base_ms: base, factor_permille: factor, max_ms: max };
        let policy = RetryPolicy { backoff, jitter_percent: jitter, ..RetryPolicy::default() };
        policy.check().unwrap();
        let plain = policy.backoff.delay_ms(attempt) * 1_000;
        let span = plain * u64::from(jitter) / 100;
        let delay = policy.delay(attempt, seed).as_micros() as u64;
        prop_assert!(plain - span <= delay && delay <= plain + span, "{delay} of {plain} with {jitter} %");
        prop_assert!(plain <= max * 1_000);
        prop_assert!(policy.backoff.delay_ms(attempt + 1) * 1_000 >= plain, "delays never fall");
    }
}
