//! Tests of the journals of the groups on the simulated disk.

use std::path::PathBuf;

use super::*;
use crate::clock::ManualClock;
use crate::group::entry::{Act, DeadReason, Entry, EntryKey, EntryKind, EntryState};
use crate::group::record::{GroupNotes, SettledAs, Start};
use crate::group::{GroupConfig, GroupTopic, Mode};
use crate::log::storage::SimDisk;
use crate::log::storage::sim_disk::{Effect, Fault, OpKind};
use crate::log::{LogEnvironment, LogIdentity};
use crate::model::{GroupName, KeySlot, LaneKey, OffsetRange, PartitionEpoch, PartitionId, TopicId, TopicUuid};

const TOPIC: TopicUuid = TopicUuid([7; 16]);
const SOURCE: Source = Source { topic: TOPIC, partition: PartitionId(0) };
const A: GroupId = GroupId(1);
const B: GroupId = GroupId(2);

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

fn spec(disk: &SimDisk, dir: &str, partition: u32) -> JournalSpec {
    let identity = LogIdentity {
        data_dir: [3; 16],
        topic_uuid: TopicUuid([0; 16]),
        topic_id: TopicId(0),
        partition: PartitionId(partition),
    };
    let mut log = LogEnvironment::new(disk.storage(), PathBuf::from(dir), identity, 5);
    log.settings.allocation_step_bytes = 0;
    JournalSpec { log, proven_end: Offset::ZERO, clean_end: None, may_create: true }
}

fn open(disk: &SimDisk) -> GroupJournals {
    GroupJournals::open(GroupJournalsSpec {
        groups: spec(disk, "groups", 1),
        entries: spec(disk, "entries", 2),
        clock: Arc::new(ManualClock::new(1_000)),
        metrics: Metrics::new(false),
        release_reserve: None,
    })
}

fn block<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(future)
}

fn created(name: &str) -> GroupRecord {
    let name = GroupName::parse(name).expect("a good name");
    let config = Box::new(GroupConfig::new(Mode::Keyed, vec!["orders".into()]));
    let (topics, starts) = (Vec::new(), Vec::new());
    GroupRecord::Created { name, config, notes: GroupNotes::default(), created_ms: 1, topics, starts }
}

fn topic() -> GroupRecord {
    let topic = GroupTopic {
        topic: TOPIC,
        name: "orders".into(),
        partitions: 1,
        dlq: "orders.billing.dlq".into(),
        is_dlq: false,
    };
    let start = Start { source: SOURCE, offset: Offset::ZERO, epoch: PartitionEpoch::ZERO };
    GroupRecord::Topics { added: vec![topic], starts: vec![start], removed: vec![] }
}

fn settled(from: u64, to: u64) -> GroupRecord {
    let runs = vec![OffsetRange { from: offset(from), to: offset(to) }];
    GroupRecord::Settled { source: SOURCE, how: SettledAs::Acked, runs }
}

fn opened(at: u64) -> EntryRecord {
    let key = EntryKey { source: SOURCE, offset: offset(at), epoch: PartitionEpoch::ZERO };
    let entry = Entry {
        lane: LaneKey(u128::from(at)),
        slot: KeySlot::new(3).expect("a slot"),
        kind: EntryKind::Failed,
        state: EntryState::Open,
        job: None,
        cycle: 0,
        copy: offset(9),
        attempts: 6,
        due_ms: 0,
        delay_ms: 0,
        first_delivery_ms: 40,
        reason: DeadReason::Attempts,
        class: Some("Timeout".into()),
        fingerprint: Some("f00".into()),
        blocked_by: None,
        holds: true,
        size_bytes: 100,
        versions: Vec::new(),
        dead_ms: 50,
        act: Act::default(),
        source_lost: false,
        intent: 0,
    };
    EntryRecord::Opened { key, entry: Box::new(entry) }
}

fn write(journals: &GroupJournals, group: GroupId, records: &[GroupRecord], entries: &[EntryRecord]) {
    let written = journals.append(group, records, entries);
    block(journals.durable(written)).expect("the disk is well");
    assert!(journals.is_durable(written));
}

fn load(journals: &GroupJournals) -> LoadedGroups {
    block(journals.load()).expect("the journals are well")
}

#[test]
fn g_1_states_and_entries_of_all_groups_come_back_after_a_kill_and_after_a_close() {
    let disk = SimDisk::new();
    let journals = open(&disk);
    write(&journals, A, &[created("billing"), topic(), settled(0, 5), settled(7, 9)], &[opened(5)]);
    write(&journals, B, &[created("search"), topic()], &[]);
    let before = load(&journals);
    journals.abandon();
    for close in [false, true] {
        let disk = disk.kill();
        let journals = open(&disk);
        if close {
            assert!(matches!(journals.close(), (Some(_), Some(_))));
        } else {
            journals.abandon();
        }
        let found = load(&open(&disk));
        assert_eq!((&found.groups, found.next_group), (&before.groups, 3));
        let floor = found.groups[&A].0.partitions[&SOURCE].settled.floor();
        assert_eq!((floor, found.groups[&A].1.len()), (offset(5), 1));
    }
}

#[test]
fn a_state_of_many_parts_comes_back_and_no_part_is_large() {
    let mut groups = GroupsState::default();
    let mut entries = EntriesState::default();
    for id in 1..=40 {
        let id = GroupId(id);
        let name = format!("group-{}-{}", id.0, "x".repeat(80));
        for record in [created(&name), topic()] {
            groups.apply(&record::encode(id, &record)).expect("it fits");
        }
        // Every second record, so that each is a run of its own.
        for at in (0..4_000).step_by(2) {
            groups.apply(&record::encode(id, &settled(at + 1, at + 2))).expect("it fits");
        }
        for at in 0..250 {
            let mut record = Vec::new();
            states::encode_entry_into(&mut record, id, &opened(at));
            entries.apply(&record).expect("it fits");
        }
    }
    groups.apply(&record::encode(GroupId(40), &GroupRecord::Deleted)).expect("it fits");
    let (parts, more) = (groups.parts(), entries.parts());
    assert!(parts.len() > 3 && more.len() > 3, "{} and {}", parts.len(), more.len());
    assert!(parts.iter().chain(&more).all(|part| part.len() <= limits::SNAPSHOT_PART_BYTES));
    let (mut groups_again, mut entries_again) = (GroupsState::default(), EntriesState::default());
    parts.iter().try_for_each(|part| groups_again.apply_part(part)).expect("they fit");
    more.iter().try_for_each(|part| entries_again.apply_part(part)).expect("they fit");
    assert_eq!((groups_again.groups(), groups_again.next_group()), (groups.groups(), 41));
    assert_eq!(entries_again.tables(), entries.tables());
    // A snapshot that lacks its end takes no record.
    let mut cut = GroupsState::default();
    cut.apply_part(&parts[0]).expect("it fits");
    assert!(cut.apply(&record::encode(A, &settled(1, 2))).is_err());
}

#[test]
fn the_number_of_a_group_that_is_gone_is_never_given_again() {
    let disk = SimDisk::new();
    let journals = open(&disk);
    write(&journals, A, &[created("billing"), topic()], &[opened(1)]);
    write(&journals, A, &[GroupRecord::Deleted], &[]);
    assert!(matches!(journals.close(), (Some(_), Some(_))));
    let journals = open(&disk);
    let found = load(&journals);
    assert_eq!((found.groups.len(), found.next_group), (0, 2));
    // What its deletion left in the other journal goes with the load.
    assert!(matches!(journals.close(), (Some(_), Some(_))));
    let journals = open(&disk);
    let left = block(journals.entries().read_state(|state| state.tables().len()));
    assert_eq!(left, Some(0));
    // A record that comes late for it harms nobody.
    write(&journals, A, &[settled(1, 2)], &[]);
    assert!(journals.check().is_ok());
    write(&journals, A, &[created("billing")], &[]);
    block(journals.groups().read_state(|_| ()));
    assert!(journals.check().is_err(), "a defect is not written on");
}

fn damage(disk: &SimDisk, dir: &str, needle: &[u8]) {
    let hit =
        disk.files().into_iter().filter(|path| path.starts_with(dir) && path.ends_with(".log")).find_map(|path| {
            let bytes = disk.bytes_of(&path);
            Some((bytes.windows(needle.len()).position(|window| window == needle)?, path))
        });
    let (at, path) = hit.expect("it is stored as it is");
    disk.flip(&path, at as u64, 0x01);
}

/// Two groups; the record that made the second one is damaged, and more came after it.
fn damaged() -> SimDisk {
    let disk = SimDisk::new();
    let journals = open(&disk);
    write(&journals, A, &[created("billing"), topic(), settled(0, 5)], &[opened(5)]);
    write(&journals, B, &[created("search"), topic()], &[]);
    write(&journals, A, &[settled(5, 8)], &[]);
    journals.abandon();
    let disk = disk.kill();
    damage(&disk, "groups", b"\"search\"");
    disk
}

#[test]
fn g_6_damage_stops_the_groups_until_a_recovery_to_the_last_good_state() {
    let disk = damaged();
    let journals = open(&disk);
    let checked = journals.check();
    assert!(matches!(checked, Err(GroupError::JournalCorrupt { .. })), "{checked:?}");
    assert!(block(journals.load()).is_err());
    assert_eq!(journals.append_groups(A, &[settled(8, 9)]), JournalSequence::NEVER);
    let high = |_: Source| Some(offset(20));
    let report = block(journals.recover_report(high)).expect("it looks only");
    assert!(journals.check().is_err(), "a dry run changes nothing");
    assert_eq!(block(journals.recover(high)).expect("the disk is well"), report);
    let billing = &report.groups[0];
    assert_eq!((report.groups.len(), billing.name.as_str()), (1, "billing"));
    assert_eq!((billing.new_epoch - billing.old_epoch, billing.maybe_redelivered), (1 << 32, 15));
    assert!(report.first_bad.is_some() && report.dropped_bytes > 0);
    let found = load(&journals);
    let (state, entries) = &found.groups[&A];
    assert_eq!((state.epoch, state.partitions[&SOURCE].settled.floor()), (billing.new_epoch, offset(5)));
    assert_eq!(entries.len(), 1, "entries are not touched");
    assert!(found.next_group > 2, "the number of the group that was lost is not given again");
    // It goes on, and stays well.
    write(&journals, A, &[settled(5, 6)], &[]);
    assert!(matches!(journals.close(), (Some(_), Some(_))));
    let journals = open(&disk);
    assert_eq!(load(&journals).groups[&A].0.partitions[&SOURCE].settled.floor(), offset(6));
    assert_eq!(block(journals.recover(high)).expect("well"), RecoverReport::default());
}

#[test]
fn ak_11_no_epoch_is_given_twice_however_often_a_recovery_is_cut_short() {
    let disk = damaged();
    disk.record_images();
    let journals = open(&disk);
    block(journals.recover(|_| None)).expect("the disk is well");
    write(&journals, A, &[settled(5, 6)], &[]);
    journals.abandon();
    for (index, image) in disk.take_images().iter().enumerate() {
        let journals = open(&image.crash(index as u64));
        if journals.check().is_err() {
            block(journals.recover(|_| None)).expect("the disk is well");
        }
        let epoch = load(&journals).groups[&A].0.epoch;
        assert!(epoch > 1 << 32, "image {index}: {epoch}");
        journals.abandon();
    }
}

#[test]
fn f_1_a_failed_sync_of_either_journal_stops_the_groups_until_the_next_start() {
    for dir in ["groups", "entries"] {
        let disk = SimDisk::new();
        let journals = open(&disk);
        write(&journals, A, &[created("billing"), topic()], &[opened(1)]);
        disk.inject(Fault {
            from_op: 0,
            kinds: vec![OpKind::Sync],
            path_contains: dir.into(),
            effect: Effect::Errno(5),
            forever: false,
        });
        let written = journals.append(A, &[settled(0, 1)], &[opened(2)]);
        assert!(block(journals.durable(written)).is_err());
        assert!(matches!(journals.check(), Err(GroupError::Stopped { .. })));
        let recovered = block(journals.recover(|_| None));
        assert!(matches!(recovered, Err(GroupError::Stopped { .. })), "{recovered:?}");
        journals.abandon();
        assert!(open(&disk.kill()).check().is_ok());
    }
}

#[test]
fn f_7_a_journal_that_cannot_be_opened_stops_the_groups_and_not_the_start() {
    let disk = SimDisk::new();
    let journals = open(&disk);
    write(&journals, A, &[created("billing")], &[]);
    journals.abandon();
    disk.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::List],
        path_contains: "groups".into(),
        effect: Effect::Errno(5),
        forever: true,
    });
    let journals = open(&disk);
    assert!(matches!(journals.check(), Err(GroupError::Stopped { .. })));
    assert_eq!(journals.append_groups(A, &[settled(0, 1)]), JournalSequence::NEVER);
    assert!(block(journals.load()).is_err());
    assert_eq!(journals.close().0, None);
}
