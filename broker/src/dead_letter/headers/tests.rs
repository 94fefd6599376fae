use proptest::prelude::*;

use super::*;

fn key(offset: u64) -> EntryKey {
    EntryKey {
        source: Source { topic: TopicUuid([0xab; 16]), partition: PartitionId(3) },
        offset: Offset::new(offset).unwrap(),
        epoch: PartitionEpoch::new(2).unwrap(),
    }
}

fn letter() -> DeadLetterHeaders {
    DeadLetterHeaders {
        id: DeadLetterId { group: GroupId(0x2a), key: key(1_234) },
        kind: EntryKind::Failed,
        reason: DeadReason::Attempts,
        topic: "orders".into(),
        group: "billing".into(),
        key_seq: Some(9),
        append_ms: 1_700_000_000_000,
        event_id: Some("e-1".into()),
        attempts: 6,
        first_failure_ms: Some(1_700_000_001_000),
        last_failure_ms: Some(1_700_000_002_000),
        dead_ms: 1_700_000_003_000,
        error: ErrorInfo {
            class: "Timeout".into(),
            message: "no answer".into(),
            stack: "at a\nat b".into(),
            fingerprint: "0123456789abcdef".into(),
            trace: "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01".into(),
        },
        member: Some(MemberId([7; 16])),
        client_version: "rust 1".into(),
        blocked_by: None,
        cycle: 0,
        edited: 0,
    }
}

fn views<'a>(added: &'a [(&'static str, Bytes)]) -> Vec<(&'a [u8], Option<&'a [u8]>)> {
    added.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_ref()))).collect()
}

fn bytes(added: &[(&'static str, Bytes)]) -> usize {
    added.iter().map(|(name, value)| name.len() + value.len()).sum()
}

fn read_back(letter: &DeadLetterHeaders) -> DeadLetterHeaders {
    DeadLetterHeaders::parse(views(&letter.added())).unwrap()
}

#[test]
fn dl_3_every_header_is_written_as_text_and_read_back() {
    let letter = letter();
    let added = letter.added();
    let text = |name: &str| {
        let value = added.iter().find(|(known, _)| *known == name);
        value.map(|(_, value)| String::from_utf8(value.to_vec()).unwrap())
    };
    let id = "000000000000002a-abababab-abab-abab-abab-abababababab-3-2-1234";
    let told = [
        ("dlq.id", id),
        ("dlq.kind", "failed"),
        ("dlq.topic", "orders"),
        ("dlq.partition", "3"),
        ("dlq.epoch", "2"),
        ("dlq.offset", "1234"),
        ("dlq.key_seq", "9"),
        ("dlq.append_ts", "1700000000000"),
        ("dlq.event_id", "e-1"),
        ("dlq.group", "billing"),
        ("dlq.attempts", "6"),
        ("dlq.first_failure_ts", "1700000001000"),
        ("dlq.last_failure_ts", "1700000002000"),
        ("dlq.dead_ts", "1700000003000"),
        ("dlq.reason", "ATTEMPTS"),
        ("dlq.error.class", "Timeout"),
        ("dlq.error.message", "no answer"),
        ("dlq.error.stack", "at a\nat b"),
        ("dlq.error.fingerprint", "0123456789abcdef"),
        ("dlq.member", "07070707-0707-0707-0707-070707070707"),
        ("dlq.client_version", "rust 1"),
        ("dlq.cycle", "0"),
        ("dlq.edited", "0"),
        ("dlq.trace", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"),
    ];
    for (name, value) in told {
        assert_eq!(text(name).as_deref(), Some(value), "{name}");
    }
    assert_eq!(text("dlq.blocked_by"), None, "it is not parked");
    assert_eq!(read_back(&letter), letter);
    assert_eq!(identity(views(&added)), Some((letter.id, 0, 0)));
}

#[test]
fn dl_3_the_names_that_kafka_gives_dead_letters_stand_beside_ours() {
    let added = letter().added();
    let kafka: Vec<_> = added.iter().filter(|(name, _)| name.starts_with("__dlq.")).cloned().collect();
    let told = [
        ("__dlq.errors.topic", "orders"),
        ("__dlq.errors.partition", "3"),
        ("__dlq.errors.offset", "1234"),
        ("__dlq.errors.group", "billing"),
        ("__dlq.errors.delivery.count", "6"),
        ("__dlq.errors.message", "no answer"),
    ];
    assert_eq!(kafka, told.map(|(name, value)| (name, Bytes::from(value))));
}

#[test]
fn dl_3_a_parked_record_names_the_head_and_has_no_error() {
    let letter = DeadLetterHeaders {
        kind: EntryKind::Parked,
        reason: DeadReason::Parked,
        error: ErrorInfo::default(),
        attempts: 0,
        key_seq: None,
        event_id: None,
        first_failure_ms: None,
        last_failure_ms: None,
        member: None,
        client_version: String::new(),
        blocked_by: Some(key(1_000)),
        ..letter()
    };
    let added = letter.added();
    assert!(added.iter().all(|(name, _)| !name.contains("error.") && *name != "dlq.member"));
    assert_eq!(read_back(&letter), letter);
}

#[test]
fn dl_3_a_repeat_overwrites_and_does_not_pile_up() {
    let first = letter();
    let again = DeadLetterHeaders { cycle: 1, reason: DeadReason::NonRetryable, ..letter() };
    let own: Vec<(String, Bytes)> = [("shop", "7"), ("dlq.note", "mine"), ("dlq", "x")]
        .map(|(name, value)| (name.to_owned(), Bytes::from(value)))
        .into();
    let behind = |own: &[(String, Bytes)], letter: &DeadLetterHeaders| -> Vec<(String, Bytes)> {
        let kept = own.iter().filter(|(name, _)| !is_added(name.as_bytes())).cloned();
        kept.chain(letter.added().into_iter().map(|(name, value)| (name.to_owned(), value))).collect()
    };
    let once = behind(&own, &first);
    let twice = behind(&once, &again);
    assert_eq!(once.len(), twice.len());
    assert_eq!(twice[..3], own[..], "the record's own stay (rule DL-2), also those of similar names");
    let views = twice.iter().map(|(name, value)| (name.as_bytes(), Some(value.as_ref())));
    assert_eq!(DeadLetterHeaders::parse(views).unwrap(), again);
}

#[test]
fn dl_5_what_is_added_stays_within_64_kib_whatever_the_error_says() {
    let huge = "é€".repeat(100_000);
    let letter = DeadLetterHeaders {
        topic: "t".repeat(limits::NAME_BYTES),
        group: "g".repeat(limits::NAME_BYTES),
        error: ErrorInfo {
            class: huge.clone(),
            message: huge.clone(),
            stack: huge.clone(),
            fingerprint: huge.clone(),
            trace: huge.clone(),
        },
        client_version: huge.clone(),
        event_id: Some(huge.clone()),
        blocked_by: Some(key(i64::MAX as u64)),
        attempts: u32::MAX,
        append_ms: i64::MIN,
        ..letter()
    };
    assert!(bytes(&letter.added()) <= limits::DEAD_LETTER_BYTES);
    let read = read_back(&letter);
    assert!(read.error.message.len() <= limits::ERROR_MESSAGE_BYTES && read.error.message.len() > 4_090);
    assert!(read.error.stack.len() <= limits::ERROR_STACK_BYTES && huge.starts_with(&read.error.stack));
    assert_eq!(read.event_id, None, "half of an id is none; the record's own headers have it");
    assert_eq!(read.topic, letter.topic);
}

#[test]
fn every_reason_and_kind_has_its_own_text() {
    let all = [
        DeadReason::Attempts,
        DeadReason::NonRetryable,
        DeadReason::ConsumerDeadNack,
        DeadReason::LeaseExpired,
        DeadReason::ConsumerCrash,
        DeadReason::Undecodable,
        DeadReason::Spill,
        DeadReason::Parked,
    ];
    for reason in all {
        for kind in [EntryKind::Failed, EntryKind::Parked] {
            let letter = DeadLetterHeaders { reason, kind, ..letter() };
            assert_eq!(read_back(&letter), letter);
        }
    }
    let texts: std::collections::BTreeSet<&str> = REASONS.iter().map(|(_, text)| *text).collect();
    assert_eq!(texts.len(), all.len());
}

#[test]
fn headers_of_no_dead_letter_are_refused_with_the_one_that_is_wrong() {
    let added = letter().added();
    for gone in ["dlq.id", "dlq.kind", "dlq.reason", "dlq.topic", "dlq.append_ts", "dlq.cycle"] {
        let left: Vec<_> = added.iter().filter(|(name, _)| *name != gone).cloned().collect();
        assert_eq!(DeadLetterHeaders::parse(views(&left)), Err(HeaderError::Missing { name: gone }));
    }
    for (name, value) in [("dlq.kind", "dead"), ("dlq.attempts", "-1"), ("dlq.blocked_by", "x"), ("dlq.member", "7")] {
        let mut wrong = views(&added);
        wrong.push((name.as_bytes(), Some(value.as_bytes())));
        let refused = HeaderError::Malformed { name, found: value.to_owned() };
        assert_eq!(DeadLetterHeaders::parse(wrong), Err(refused), "the last of a name counts");
    }
    let mut wrong = views(&added);
    wrong.push((b"dlq.topic", Some(b"\xff\xfe")));
    assert!(matches!(DeadLetterHeaders::parse(wrong), Err(HeaderError::Malformed { name: "dlq.topic", .. })));
    assert_eq!(identity([(&b"shop"[..], Some(&b"7"[..]))]), None);
}

#[test]
fn dl_4_an_id_has_one_text() {
    let id = DeadLetterId { group: GroupId(u64::MAX), key: key(i64::MAX as u64) };
    let text = id.to_string();
    assert_eq!(text.parse(), Ok(id));
    for bad in [
        text.to_uppercase(),
        format!("{text}-1"),
        format!("{text} "),
        text.replacen("-3-", "-03-", 1),
        text.replacen("-3-", "-+3-", 1),
        text[1..].to_owned(),
        text.replace("-3-2-", "-3-4294967295-"),
        text.replace('-', "_"),
        "€".repeat(40),
        String::new(),
    ] {
        assert_eq!(bad.parse::<DeadLetterId>(), Err(DeadLetterIdError), "{bad:?}");
    }
}

proptest! {
    #[test]
    fn dl_4_every_id_is_read_back(
        group in any::<u64>(), topic in any::<[u8; 16]>(), partition in any::<u32>(),
        epoch in 0..=i32::MAX as u32, offset in 0..=i64::MAX as u64,
    ) {
        let source = Source { topic: TopicUuid(topic), partition: PartitionId(partition) };
        let key = EntryKey {
            source, offset: Offset::new(offset).unwrap(), epoch: PartitionEpoch::new(epoch).unwrap(),
        };
        let id = DeadLetterId { group: GroupId(group), key };
        prop_assert_eq!(id.to_string().parse(), Ok(id));
    }

    #[test]
    fn any_headers_are_a_dead_letter_or_an_error(
        values in prop::collection::vec((0..NAMES.len(), prop::collection::vec(any::<u8>(), 0..8)), 0..40)
    ) {
        let headers = values.iter().map(|(name, value)| (NAMES[*name].as_bytes(), Some(&value[..])));
        let _ = DeadLetterHeaders::parse(headers.clone());
        let _ = identity(headers);
        let _: Result<DeadLetterId, _> = String::from_utf8_lossy(&values.concat_bytes()).parse();
    }
}

trait Concat {
    fn concat_bytes(&self) -> Vec<u8>;
}

impl Concat for Vec<(usize, Vec<u8>)> {
    fn concat_bytes(&self) -> Vec<u8> {
        self.iter().flat_map(|(_, value)| value.clone()).collect()
    }
}
