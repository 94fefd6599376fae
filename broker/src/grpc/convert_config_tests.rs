//! Settings both ways, masks, refusals.

use super::*;

fn on(topic: &str) -> v1::GroupConfig {
    let names = v1::TopicNames { names: vec![topic.to_owned()] };
    v1::GroupConfig { subscription: Some(v1::group_config::Subscription::Topics(names)), ..Default::default() }
}

#[test]
fn what_is_not_given_takes_the_default_of_its_mode() {
    for (mode, wire) in [(Mode::Keyed, 0), (Mode::Keyed, 1), (Mode::Offset, 2)] {
        let settings = new_settings(&v1::GroupConfig { mode: wire, ..on("orders") }).expect("sound");
        assert_eq!(settings.config, GroupConfig::new(mode, vec!["orders".into()]));
    }
    let unordered = new_settings(&v1::GroupConfig { mode: 3, ..on("orders") }).expect("sound").config;
    assert_eq!((unordered.retry.after_dead, unordered.on_gap), (AfterDead::Continue, OnGap::Continue));
}

#[test]
fn settings_read_back_as_they_were_written() {
    let given = v1::GroupConfig {
        filter: Some(v1::ReadFilter { key_prefix: Some("eu-".into()), ..Default::default() }),
        retry: Some(v1::RetryPolicy {
            max_attempts: Some(3),
            backoff: Some(v1::retry_policy::Backoff::List(v1::BackoffList { delays_ms: vec![10, 20] })),
            non_retryable_classes: vec!["Bad".into()],
            on_exhausted: v1::OnExhausted::Block.into(),
            after_dead: v1::AfterDead::Continue.into(),
            ..Default::default()
        }),
        lease_ms: Some(2_000),
        max_processing_ms: Some(0),
        caps: Some(v1::GroupCaps { max_in_flight: 5, max_bytes_in_flight: 6, rate_limit: 7 }),
        breaker: Some(v1::BreakerConfig { enabled: Some(false), ..Default::default() }),
        on_gap: v1::OnGap::Continue.into(),
        dead_letters: Some(v1::DeadLetterConfig {
            retention_ms: Some(-1),
            max_bytes: Some(1 << 20),
            names: [("orders".to_owned(), "failed.dlq".to_owned())].into(),
        }),
        bounds: Some(v1::GroupBounds { held_records: Some(200), ..Default::default() }),
        ..on("orders")
    };
    let settings = new_settings(&given).expect("sound");
    let wire = to_wire(&settings.config, &[]);
    assert_eq!((wire.dead_letters.as_ref().expect("given").retention_ms, wire.lease_ms), (Some(-1), Some(2_000)));
    assert_eq!(new_settings(&wire).expect("its own"), settings);
}

#[test]
fn an_update_takes_what_its_mask_names_and_what_is_named_and_not_given_goes_back_to_its_default() {
    let before = new_settings(&v1::GroupConfig {
        lease_ms: Some(5_000),
        drain_timeout_ms: Some(5_000),
        filter: Some(v1::ReadFilter { key: Some("k".into()), ..Default::default() }),
        ..on("orders")
    });
    let before = before.expect("sound").config;
    let given = v1::GroupConfig { lease_ms: Some(7_000), drain_timeout_ms: Some(9_000), ..Default::default() };
    let paths = ["config.lease_ms".to_owned(), "config.filter".to_owned()];
    let (after, topic_retry) = masked(&before, &given, &paths).expect("sound").expect("a change");
    assert_eq!((after.lease_ms, after.drain_timeout_ms, after.filter.is_empty()), (7_000, 5_000, true));
    assert!(topic_retry.is_none(), "not named");
    assert!(masked(&before, &given, &["owner".to_owned()]).expect("sound").is_none());
}

#[test]
fn what_no_group_can_have_is_refused() {
    let retry = |retry| v1::GroupConfig { retry: Some(retry), ..on("orders") };
    let bad = [
        v1::GroupConfig::default(),
        on("a/b"),
        on("é.dlq"),
        v1::GroupConfig { mode: 9, ..on("orders") },
        v1::GroupConfig { on_gap: 9, ..on("orders") },
        v1::GroupConfig { positions: 2, ..on("orders") },
        v1::GroupConfig { positions: 3, mode: 2, ..on("orders") },
        v1::GroupConfig { lease_ms: Some(0), ..on("orders") },
        v1::GroupConfig { session_timeout_ms: Some(u64::MAX), ..on("orders") },
        v1::GroupConfig { max_in_flight_per_key: Some(33), ..on("orders") },
        retry(v1::RetryPolicy { max_attempts: Some(0), ..Default::default() }),
        retry(v1::RetryPolicy { jitter_percent: Some(101), ..Default::default() }),
        retry(v1::RetryPolicy { on_exhausted: 9, ..Default::default() }),
        retry(v1::RetryPolicy { after_dead: -1, ..Default::default() }),
        v1::GroupConfig { mode: 3, ..retry(v1::RetryPolicy { after_dead: 1, ..Default::default() }) },
        v1::GroupConfig {
            subscription: Some(v1::group_config::Subscription::TopicPattern("no-star".into())),
            ..Default::default()
        },
        v1::GroupConfig {
            dead_letters: Some(v1::DeadLetterConfig { max_bytes: Some(0), ..Default::default() }),
            ..on("orders")
        },
        v1::GroupConfig {
            dead_letters: Some(v1::DeadLetterConfig {
                names: [("orders".to_owned(), "failed".to_owned())].into(),
                ..Default::default()
            }),
            ..on("orders")
        },
    ];
    for given in bad {
        assert!(new_settings(&given).is_err(), "{given:?}");
    }
    let config = new_settings(&on("orders")).expect("sound").config;
    for path in ["config.mode", "config.start", "config", "name"] {
        assert!(masked(&config, &v1::GroupConfig::default(), &[path.to_owned()]).is_err(), "{path}");
    }
}

#[test]
fn of_1_a_start_is_a_place_in_every_partition() {
    use v1::group_position::At;
    let at = |at| position("start", Some(&v1::GroupPosition { at: Some(at) })).map(|(start, _)| start);
    assert_eq!(position("start", None).map(|(start, _)| start).ok(), Some(StartAt::Earliest));
    assert_eq!(at(At::Latest(v1::Unit {})).ok(), Some(StartAt::Latest));
    assert_eq!(at(At::TimestampMs(5)).ok(), Some(StartAt::Timestamp(5)));
    let one = v1::TopicPartitionOffset { topic: "orders".into(), partition: 1, offset: 2, epoch: Some(3) };
    let offsets = v1::GroupPosition { at: Some(At::Offsets(v1::TopicPartitionOffsets { offsets: vec![one.clone()] })) };
    let (_, epochs) = position("start", Some(&offsets)).expect("sound");
    assert_eq!(epochs.len(), 1);
    let negative = v1::TopicPartitionOffset { offset: -1, ..one };
    assert!(at(At::Offsets(v1::TopicPartitionOffsets { offsets: vec![negative] })).is_err());
    assert!(at(At::Offsets(v1::TopicPartitionOffsets::default())).is_err());
    assert!(at(At::FromGroup("../x".into())).is_err());
}
