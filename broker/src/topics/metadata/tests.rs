use std::path::PathBuf;

use super::record::{StoredAckLevel, StoredRevision, StoredTopic, StoredValidation};
use super::*;
use crate::clock::ManualClock;
use crate::limits;
use crate::log::storage::SimDisk;
use crate::log::{LogEnvironment, LogIdentity};
use crate::model::{OffsetRange, PartitionId, TopicId, TopicUuid};
use crate::partition::{PartitionLedger, PartitionRef, Truncation};

fn spec(disk: &SimDisk) -> MetadataSpec {
    let identity = LogIdentity {
        data_dir: [3; 16],
        topic_uuid: TopicUuid([0; 16]),
        topic_id: TopicId(0),
        partition: PartitionId(0),
    };
    let mut log = LogEnvironment::new(disk.storage(), PathBuf::from("meta"), identity, 5);
    log.settings.allocation_step_bytes = 0;
    MetadataSpec {
        journal: JournalSpec { log, proven_end: Offset::ZERO, clean_end: None, may_create: true },
        clock: Arc::new(ManualClock::new(1_000)),
        metrics: Metrics::new(false),
        release_reserve: None,
    }
}

fn open(disk: &SimDisk) -> OpenedMetadata {
    OpenedMetadata::open(spec(disk)).expect("the disk is well")
}

fn topic(id: u64, name: &str, description: String) -> MetadataRecord {
    MetadataRecord::TopicCreated(StoredTopic {
        topic: id,
        uuid: TopicUuid([id as u8; 16]).to_string(),
        name: name.to_owned(),
        hash_version: 1,
        slot_hash_version: 1,
        created_ms: 1,
        revision: StoredRevision {
            revision: 1,
            updated_ms: 1,
            partitions: 2,
            keyed: true,
            ack_floor: StoredAckLevel::Durable,
            validation: StoredValidation::Full,
            retention_ms: None,
            retention_bytes: None,
            segment_bytes: 1 << 20,
            segment_ms: 1_000,
            max_record_bytes: 1 << 20,
            flush_interval_ms: 1_000,
            holds: None,
            events: None,
            owner: String::new(),
            description,
            labels: (0..8).map(|label| (label.to_string(), "\u{1}".repeat(1_000))).collect(),
        },
        dead_letters: None,
    })
}

fn commit(log: &MetadataLog, record: MetadataRecord) {
    log.change_blocking(move |writer| writer.commit(vec![record])).expect("the disk is well");
}

fn partition() -> PartitionRef {
    PartitionRef { topic: TopicId(1), partition: PartitionId(0) }
}

#[test]
fn a_snapshot_of_many_large_topics_comes_back_in_bounded_parts() {
    let disk = SimDisk::new();
    let log = open(&disk).start();
    for id in 1..60 {
        commit(&log, topic(id, &format!("topic-{id}"), "\u{7}".repeat(4_096)));
    }
    let state = log.change_blocking(|writer| Ok(writer.state().clone())).expect("it runs");
    assert!(snapshot_parts(&state).iter().all(|part| part.len() < 2 * limits::SNAPSHOT_PART_BYTES));
    assert!(snapshot_parts(&state).len() > 5);
    assert!(log.snapshot_now());
    log.abandon();
    assert_eq!(*open(&disk).state(), state);
}

#[test]
fn g_6_the_close_saves_what_no_snapshot_holds_yet() {
    let disk = SimDisk::new();
    let log = open(&disk).start();
    commit(&log, topic(1, "orders", String::new()));
    let unsaved = log.change_blocking(|writer| Ok((writer.unsaved, writer.durable_end())));
    let (unsaved, before) = unsaved.expect("it runs");
    let end = log.close().expect("the disk is well");
    // A start, a part and an end.
    assert!(!unsaved || end.get() >= before.get() + 3, "{before} to {end}");
    assert!(open(&disk).state().topic_named("orders").is_some());
}

#[test]
fn f_1_nothing_is_changed_after_a_close() {
    let disk = SimDisk::new();
    let log = open(&disk).start();
    assert!(log.close().is_some());
    let late = log.change_blocking(|writer| writer.commit(vec![MetadataRecord::Epoch { epoch: 1 }]));
    assert!(matches!(late, Err(TopicError::ShuttingDown)), "{late:?}");
    assert_eq!(log.close(), None);
}

#[test]
fn d_3_one_raise_of_the_counter_serves_every_partition_that_has_not_had_it() {
    let disk = SimDisk::new();
    let log = open(&disk).start();
    let ledger = MetadataLedger::new(Arc::clone(&log));
    let other = PartitionRef { partition: PartitionId(1), ..partition() };
    ledger.note_epoch(partition(), PartitionEpoch::ZERO);
    ledger.note_epoch(other, PartitionEpoch::ZERO);
    let before = disk.op_count();
    assert_eq!(ledger.new_epoch(partition()).expect("it is well").get(), 1);
    let after_first = disk.op_count();
    assert!(after_first > before, "the raise is durable before it is answered");
    assert_eq!(ledger.new_epoch(other).expect("it is well").get(), 1);
    assert_eq!(ledger.new_epoch(partition()).expect("it is well").get(), 2, "it has had 1 already");
    log.abandon();
    assert_eq!(open(&disk).state().epoch().get(), 2);
}

#[test]
fn the_ledger_remembers_damage_cuts_and_starts_of_topics_that_exist() {
    let disk = SimDisk::new();
    let log = open(&disk).start();
    let ledger = MetadataLedger::new(Arc::clone(&log));
    commit(&log, topic(1, "orders", String::new()));
    let at = |value| Offset::new(value).expect("small");
    let cut = Truncation { offset: at(30), epoch: PartitionEpoch::ZERO, bytes: 9, time_ms: 4 };
    ledger.record_quarantine(partition(), &[OffsetRange { from: at(10), to: at(12) }]).expect("it is well");
    ledger.record_truncation(partition(), cut).expect("it is well");
    ledger.record_start(partition(), at(5)).expect("it is well");
    let gone = PartitionRef { topic: TopicId(9), ..partition() };
    ledger.record_start(gone, at(5)).expect("a deleted topic takes its records along");
    log.abandon();
    let opened = open(&disk);
    let found = &opened.state().topic(TopicId(1)).expect("it exists").partitions[0];
    assert_eq!((found.log_start, found.last_truncation), (at(5), Some(cut)));
    assert_eq!(found.quarantined, [OffsetRange { from: at(10), to: at(12) }]);
}

#[test]
fn a_log_of_a_newer_program_is_refused_untouched() {
    let disk = SimDisk::new();
    let log = open(&disk).start();
    log.change_blocking(|writer| {
        let newer = Bytes::from_static(br#"{"version":4,"records":[]}"#);
        writer.journal.append(&[newer], 1_000).expect("the disk is well");
        Ok(())
    })
    .expect("it runs");
    log.abandon();
    assert!(matches!(OpenedMetadata::open(spec(&disk)), Err(MetadataOpenError::Newer(_))));
}

#[test]
fn g_6_a_repair_makes_a_damaged_log_writable_at_its_last_good_state() {
    let disk = SimDisk::new();
    let log = open(&disk).start();
    for (id, name) in [(1, "first"), (2, "second"), (3, "third")] {
        commit(&log, topic(id, name, String::new()));
    }
    log.abandon();
    let needle = b"\"name\":\"second\"";
    for file in disk.files().into_iter().filter(|path| path.ends_with(".log")) {
        let bytes = disk.bytes_of(&file);
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            disk.flip(&file, at as u64 + 9, 2);
        }
    }
    let opened = open(&disk);
    let cause = opened.read_only().expect("a change is lost");
    assert!(cause.contains("sawlog segment repair"), "{cause}");
    assert!(opened.state().topic_named("first").is_some());
    let repair = opened.repair().expect("the disk is well");
    assert!(repair.damage.is_some());
    assert!(repair.dropped.len() == 1 && repair.dropped[0].contains("third"), "{:?}", repair.dropped);
    let repaired = open(&disk);
    assert_eq!(repaired.read_only(), None);
    assert!(repaired.state().topic_named("first").is_some());
    assert!(repaired.state().topic_named("third").is_none(), "what came after the damage is dropped");
    assert_eq!(repaired.repair().expect("nothing to do"), MetadataRepair::default());
    let log = open(&disk).start();
    commit(&log, topic(7, "fourth", String::new()));
    log.abandon();
    assert!(open(&disk).state().topic_named("fourth").is_some());
}
