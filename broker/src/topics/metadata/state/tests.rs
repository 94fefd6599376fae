use proptest::prelude::*;

use super::*;
use crate::model::AckLevel;
use crate::topics::metadata::record;
use crate::topics::metadata::record::uuid_text;
use crate::topics::settings::{TopicConfig, TopicNotes, Validation};

fn config(partitions: u32) -> TopicConfig {
    TopicConfig {
        partitions,
        keyed: true,
        ack_floor: AckLevel::Written,
        validation: Validation::Envelope,
        retention_ms: Some(1_000),
        retention_bytes: None,
        segment_bytes: 1 << 20,
        segment_ms: 1_000,
        max_record_bytes: 1 << 20,
        flush_interval_ms: 10,
        holds: crate::topics::GroupHolds::default(),
        events: crate::topics::EventSettings::default(),
    }
}

fn revision(number: u64, partitions: u32) -> TopicRevision {
    let labels = [("team".to_owned(), "sales \"north\"".to_owned())].into();
    let notes = TopicNotes { owner: "Ana".into(), description: "order lines, ü".into(), labels };
    TopicRevision { revision: number, config: config(partitions), notes, updated_ms: 1_700_000_000_000 }
}

fn created(id: u64, name: &str, partitions: u32) -> MetadataRecord {
    MetadataRecord::TopicCreated(StoredTopic {
        topic: id,
        uuid: uuid_text(TopicUuid([id as u8; 16])),
        name: name.to_owned(),
        hash_version: 1,
        slot_hash_version: 1,
        created_ms: 5,
        revision: StoredRevision::of(&revision(1, partitions)),
        dead_letters: None,
    })
}

fn dead_letters(id: u64, name: &str, source: u64, group: u64) -> MetadataRecord {
    let MetadataRecord::TopicCreated(mut topic) = created(id, name, 2) else { unreachable!() };
    topic.dead_letters = Some(StoredDeadLetters {
        source: uuid_text(TopicUuid([source as u8; 16])),
        source_name: "orders".into(),
        group,
        group_name: "billing".into(),
    });
    MetadataRecord::TopicCreated(topic)
}

fn reserved(group: u64, topic: u64, name: &str) -> MetadataRecord {
    MetadataRecord::DeadLetterNames { group, names: vec![StoredReservation { topic, name: name.into() }] }
}

fn start(topic: u64, partition: u32, offset: u64) -> MetadataRecord {
    MetadataRecord::LogStarts { starts: vec![StoredBound { topic, partition, offset }] }
}

fn applied(records: &[MetadataRecord]) -> MetadataState {
    let mut state = MetadataState::default();
    for record in records {
        state.apply(record).expect("it fits");
    }
    state
}

#[test]
fn every_record_comes_back_from_its_json_form() {
    let records = vec![
        created(1, "orders", 2),
        MetadataRecord::TopicUpdated { topic: 1, revision: StoredRevision::of(&revision(2, 2)) },
        MetadataRecord::Trimmed { asked: vec![StoredBound { topic: 1, partition: 0, offset: 9 }] },
        MetadataRecord::TopicDeleted { topic: 1 },
        MetadataRecord::TopicFilesRemoved { topic: 1 },
        start(1, 0, u64::MAX >> 1),
        MetadataRecord::Epoch { epoch: 7 },
        MetadataRecord::Quarantined { topic: 1, partition: 0, from: 3, to: 9 },
        MetadataRecord::Truncated { topic: 1, partition: 1, offset: 3, epoch: 2, bytes: 9, time_ms: -1 },
        MetadataRecord::ProducerNamed { name: "p".into(), id: 4, epoch: 3, time_ms: 1 },
        MetadataRecord::ProducerForgotten { name: "p".into() },
        MetadataRecord::ProducerIds { next: 1_000 },
        MetadataRecord::TopicIds { next: 8 },
        dead_letters(2, "orders.billing.dlq", 1, 7),
        reserved(7, 1, "orders.billing.dlq"),
        MetadataRecord::DeadLetterNamesFreed { group: 7, topics: vec![1] },
    ];
    assert_eq!(record::decode(&record::encode(records.clone())).expect("it is one"), records);
}

#[test]
fn a_record_of_a_newer_version_is_told_from_damage() {
    let newer = br#"{"version":4,"records":[{"type":"something_new"}]}"#;
    assert!(matches!(record::decode(newer), Err(record::DecodeError::Newer { found: 4 })));
    let torn = br#"{"version":1,"records":[{"type":"top"#;
    assert!(matches!(record::decode(torn), Err(record::DecodeError::Json(_))));
}

#[test]
fn the_records_of_a_state_give_the_state_again() {
    let state = applied(&[
        created(1, "orders", 3),
        created(2, "gone", 1),
        created(3, "again", 1),
        MetadataRecord::TopicUpdated { topic: 1, revision: StoredRevision::of(&revision(4, 3)) },
        start(1, 2, 77),
        MetadataRecord::Quarantined { topic: 1, partition: 1, from: 5, to: 9 },
        MetadataRecord::Truncated { topic: 1, partition: 1, offset: 50, epoch: 2, bytes: 9, time_ms: 8 },
        MetadataRecord::TopicDeleted { topic: 2 },
        MetadataRecord::TopicDeleted { topic: 3 },
        MetadataRecord::TopicFilesRemoved { topic: 3 },
        created(4, "gone", 2),
        MetadataRecord::Epoch { epoch: 9 },
        MetadataRecord::ProducerIds { next: 2_000 },
        MetadataRecord::ProducerNamed { name: "p".into(), id: 4, epoch: 3, time_ms: 1 },
        MetadataRecord::ProducerNamed { name: "a".into(), id: 5, epoch: 0, time_ms: 2 },
    ]);
    let again = applied(&state.to_records().collect::<Vec<_>>());
    assert_eq!(again, state);
    assert_eq!(again.next_topic(), TopicId(5));
    assert_eq!(again.removing().collect::<Vec<_>>(), [TopicId(2)]);
}

#[test]
fn d_7_what_a_topic_owned_dies_with_its_number() {
    let mut state = applied(&[created(1, "orders", 1), start(1, 0, 40)]);
    let first = state.topic_named("orders").expect("it exists").uuid;
    state.apply(&MetadataRecord::TopicDeleted { topic: 1 }).expect("it fits");
    assert_eq!(state.partition_count(), 0);
    assert!(state.apply(&created(1, "orders", 1)).is_err(), "a number is given once");
    state.apply(&created(2, "orders", 1)).expect("another topic");
    let second = state.topic_named("orders").expect("it exists");
    assert_ne!(second.uuid, first);
    assert_eq!(second.partitions[0].log_start, Offset::ZERO);
}

#[test]
fn d_9_a_log_start_never_falls_and_takes_damage_below_it_along() {
    let mut state = applied(&[
        created(1, "orders", 1),
        MetadataRecord::Quarantined { topic: 1, partition: 0, from: 10, to: 20 },
        MetadataRecord::Quarantined { topic: 1, partition: 0, from: 20, to: 30 },
        MetadataRecord::Quarantined { topic: 1, partition: 0, from: 50, to: 60 },
        start(1, 0, 40),
        start(1, 0, 7),
    ]);
    let partition = &state.topic(TopicId(1)).expect("it exists").partitions[0];
    assert_eq!(partition.log_start.get(), 40);
    assert_eq!(partition.quarantined.len(), 1);
    let before = state.clone();
    let starts =
        vec![StoredBound { topic: 1, partition: 0, offset: 90 }, StoredBound { topic: 1, partition: 5, offset: 1 }];
    assert!(state.apply(&MetadataRecord::LogStarts { starts }).is_err());
    assert_eq!(state, before, "a record that does not fit changes nothing");
}

#[test]
fn re_9_what_somebody_asked_to_trim_is_known_after_a_snapshot_and_a_cut_lowers_it() {
    let asked = |offset| MetadataRecord::Trimmed { asked: vec![StoredBound { topic: 1, partition: 1, offset }] };
    let mut state = applied(&[created(1, "orders", 2), start(1, 1, 20), asked(40), asked(30)]);
    let trimmed = |state: &MetadataState| state.topic(TopicId(1)).expect("it exists").partitions[1].trimmed.get();
    assert_eq!(trimmed(&state), 40);
    assert_eq!(trimmed(&applied(&state.to_records().collect::<Vec<_>>())), 40);
    let cut = MetadataRecord::Truncated { topic: 1, partition: 1, offset: 25, epoch: 3, bytes: 1, time_ms: 5 };
    state.apply(&cut).expect("it fits");
    assert_eq!(trimmed(&state), 25);
    let misfit = MetadataRecord::Trimmed { asked: vec![StoredBound { topic: 1, partition: 7, offset: 1 }] };
    assert!(state.apply(&misfit).is_err());
}

#[test]
fn d_3_the_epoch_counter_and_ids_never_fall() {
    let state = applied(&[
        MetadataRecord::Epoch { epoch: 9 },
        MetadataRecord::Epoch { epoch: 3 },
        MetadataRecord::ProducerIds { next: 1_000 },
        MetadataRecord::ProducerIds { next: 5 },
        MetadataRecord::TopicIds { next: 8 },
    ]);
    assert_eq!((state.epoch().get(), state.next_producer(), state.next_topic().0), (9, 1_000, 8));
}

#[test]
fn records_that_do_not_fit_are_refused() {
    let mut state = applied(&[created(1, "orders", 2)]);
    let bad = [
        created(1, "other", 1),
        created(2, "orders", 1),
        created(3, "../x", 1),
        created(4, "many", 5_000),
        MetadataRecord::TopicUpdated { topic: 9, revision: StoredRevision::of(&revision(2, 2)) },
        MetadataRecord::TopicUpdated { topic: 1, revision: StoredRevision::of(&revision(1, 2)) },
        MetadataRecord::TopicUpdated { topic: 1, revision: StoredRevision::of(&revision(2, 3)) },
        MetadataRecord::TopicDeleted { topic: 9 },
        start(1, 2, 0),
        start(1, 0, u64::MAX),
        MetadataRecord::Epoch { epoch: u32::MAX },
        MetadataRecord::Quarantined { topic: 9, partition: 0, from: 0, to: 1 },
    ];
    let before = state.clone();
    for record in bad {
        assert!(state.apply(&record).is_err(), "{record:?}");
        assert_eq!(state, before, "{record:?}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn damaged_ranges_stay_apart_and_in_order(ranges in prop::collection::vec((0_u64..60, 1_u64..9), 0..20)) {
        let mut joined = Vec::new();
        let mut lost = [false; 80];
        for (from, len) in ranges {
            let at = |value| Offset::new(value).expect("small");
            add_range(&mut joined, OffsetRange { from: at(from), to: at(from + len) });
            lost[from as usize..(from + len) as usize].fill(true);
        }
        prop_assert!(joined.windows(2).all(|pair| pair[0].to < pair[1].from), "{joined:?}");
        for (offset, lost) in lost.iter().enumerate() {
            let offset = Offset::new(offset as u64).expect("small");
            prop_assert_eq!(joined.iter().any(|range| range.contains(offset)), *lost);
        }
    }
}

#[test]
fn dl_1_a_record_without_dead_letters_is_still_written_for_a_program_that_knows_none() {
    let version = |record: MetadataRecord| {
        let bytes = record::encode(vec![MetadataRecord::Epoch { epoch: 1 }, record]);
        serde_json::from_slice::<serde_json::Value>(&bytes).expect("it is JSON")["version"].as_u64()
    };
    assert_eq!(version(created(1, "orders", 2)), Some(1));
    assert_eq!(version(dead_letters(2, "orders.billing.dlq", 1, 7)), Some(2));
    assert_eq!(version(reserved(7, 1, "orders.billing.dlq")), Some(2));
}

#[test]
fn dl_1_dead_letter_topics_are_counted_apart_and_come_back_from_a_snapshot() {
    let mut state = applied(&[
        created(1, "orders", 3),
        reserved(7, 1, "orders.billing.dlq"),
        dead_letters(2, "orders.billing.dlq", 1, 7),
    ]);
    assert_eq!((state.topic_count(), state.partition_count(), state.dead_letter_partition_count()), (1, 3, 2));
    assert_eq!(state.reserved_for("orders.billing.dlq"), Some((TopicId(1), GroupId(7))));
    let mark = state.topic(TopicId(2)).and_then(|topic| topic.dead_letters.clone()).expect("it is marked");
    assert_eq!((mark.source, mark.group), (TopicUuid([1; 16]), GroupId(7)));
    let records: Vec<MetadataRecord> = state.to_records().collect();
    assert_eq!(applied(&records), state);
    state.apply(&MetadataRecord::TopicDeleted { topic: 2 }).expect("it fits");
    assert_eq!((state.topic_count(), state.partition_count(), state.dead_letter_partition_count()), (1, 3, 0));
    assert!(state.reserved_for("orders.billing.dlq").is_some(), "the group still has the name");
    state.apply(&MetadataRecord::TopicDeleted { topic: 1 }).expect("it fits");
    assert_eq!(state.reserved_for("orders.billing.dlq"), None, "names go with their source topic");
}

#[test]
fn dl_1_a_name_is_reserved_once_until_it_is_freed() {
    let mut state = applied(&[created(1, "a", 1), created(2, "a.b", 1), reserved(7, 1, "a.b.c.dlq")]);
    let other = reserved(8, 2, "a.b.c.dlq");
    assert!(state.apply(&other).is_err(), "topic a.b of group c, topic a of group b.c: the same name");
    state.apply(&reserved(7, 1, "another.dlq")).expect("it may be changed");
    assert_eq!(state.reserved_for("a.b.c.dlq"), None);
    state.apply(&other).expect("it is free");
    state.apply(&MetadataRecord::DeadLetterNamesFreed { group: 8, topics: vec![1] }).expect("another topic's");
    assert!(state.reserved_for("a.b.c.dlq").is_some());
    state.apply(&MetadataRecord::DeadLetterNamesFreed { group: 8, topics: Vec::new() }).expect("all of the group");
    assert_eq!(state.reserving_groups().into_iter().collect::<Vec<_>>(), [GroupId(7)]);
}
