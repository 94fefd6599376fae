//! Settings there and back.

use bytes::Bytes;

use super::*;
use crate::groups::filter::{HeaderFilter, HeaderValue};

fn full() -> GroupConfig {
    let retry = RetryPolicy {
        max_attempts: Some(3),
        backoff: Some(Backoff::List(vec![1, 2])),
        jitter_percent: Some(0),
        non_retryable_classes: vec!["A".to_owned()],
        on_exhausted: Some(OnExhausted::Block),
        after_dead: Some(AfterDead::Continue),
    };
    let exponential = Backoff::Exponential { base_ms: 5, factor_permille: 2000, max_ms: 100 };
    let offset = TopicOffset { topic: "t".to_owned(), partition: 1, offset: 7, epoch: Some(2) };
    GroupConfig {
        mode: Some(GroupMode::Unordered),
        subscription: Some(Subscription::Pattern("a.*".to_owned())),
        filter: Some(RecordFilter {
            key: None,
            key_prefix: Some(Bytes::from_static(b"k")),
            headers: vec![HeaderFilter { key: "h".to_owned(), value: HeaderValue::Prefix(Bytes::new()) }],
        }),
        start: Some(GroupPosition::Offsets(vec![offset])),
        retry: Some(retry.clone()),
        topic_retry: BTreeMap::from([(
            "t".to_owned(),
            RetryPolicy { backoff: Some(exponential), ..RetryPolicy::default() },
        )]),
        lease_ms: Some(1),
        max_processing_ms: Some(2),
        session_timeout_ms: Some(3),
        static_timeout_ms: Some(4),
        drain_timeout_ms: Some(5),
        max_in_flight_per_key: Some(6),
        caps: Some(GroupCaps { max_in_flight: 1, max_bytes_in_flight: 2, rate_limit: 3 }),
        breaker: Some(BreakerConfig { enabled: Some(false), window_ms: Some(9), ..BreakerConfig::default() }),
        on_gap: Some(OnGap::Continue),
        idle_ttl_ms: Some(7),
        positions: Some(PositionStore::Cursor),
        dead_letters: Some(DeadLetterConfig { retention_ms: Some(-1), ..DeadLetterConfig::default() }),
        bounds: Some(GroupBounds { held_records: Some(100), ..GroupBounds::default() }),
        version: Some("v2".to_owned()),
    }
}

#[test]
fn settings_come_back_from_the_wire_as_they_went() {
    let config = full();
    assert_eq!(GroupConfig::from_wire(config.to_wire()), config);
    assert_eq!(GroupConfig::from_wire(GroupConfig::default().to_wire()), GroupConfig::default());
    for start in [
        GroupPosition::Earliest,
        GroupPosition::Latest,
        GroupPosition::TimestampMs(5),
        GroupPosition::FromGroup("g".to_owned()),
    ] {
        assert_eq!(GroupPosition::from_wire(start.to_wire()), Some(start));
    }
}

#[test]
fn a_change_names_each_setting_that_is_given_and_no_other() {
    assert!(GroupConfig::default().mask().is_empty());
    assert_eq!(full().mask().len(), 20);
    let some = GroupConfig { lease_ms: Some(1), ..GroupConfig::topics(["t"]) };
    assert_eq!(some.mask(), ["config.topics", "config.lease_ms"]);
}
