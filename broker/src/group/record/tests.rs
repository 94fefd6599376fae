//! The codec of group records: round trips, bytes cut short, bits flipped.

use proptest::prelude::*;

use super::super::packing::put;
use super::*;
use crate::group::{GroupConfig, Mode};
use crate::model::GroupId;

fn source() -> Source {
    Source { topic: TopicUuid([3; 16]), partition: PartitionId(2) }
}

fn at(offset: u64) -> Offset {
    Offset::new(offset).unwrap()
}

fn run(from: u64, to: u64) -> OffsetRange {
    OffsetRange { from: at(from), to: at(to) }
}

fn act() -> Act {
    Act { actor: "ops".into(), time_ms: -3, note: "why not \"that\"".into() }
}

fn start() -> Start {
    Start { source: source(), offset: at(9), epoch: PartitionEpoch::new(4).unwrap() }
}

fn intent() -> Intent {
    let key = EntryKey { source: source(), offset: at(7), epoch: PartitionEpoch::ZERO };
    Intent {
        key,
        lane: LaneKey(u128::MAX - 1),
        slot: KeySlot::new(4_095).unwrap(),
        kind: EntryKind::Failed,
        reason: DeadReason::NonRetryable,
        spilled: false,
        holds: true,
        source_lost: false,
        cleared: true,
        size_bytes: 10,
        cycle: 2,
        attempts: 6,
        due_ms: 11,
        delay_ms: 300,
        first_delivery_ms: 1,
        first_failure_ms: 2,
        last_failure_ms: 3,
        dead_ms: 4,
        error: Some(Box::new(ErrorInfo { class: "E".into(), message: "m\n".into(), ..ErrorInfo::default() })),
        member: Some(MemberId([9; 16])),
        client_version: "1".into(),
        blocked_by: Some(key),
        dlq_end: at(100),
        records: 1,
    }
}

/// What most intents are: a record behind others of its key.
fn parked() -> Intent {
    let blocked_by = Some(EntryKey { offset: at(600_000), ..intent().key });
    Intent {
        key: EntryKey { offset: at(700_000), ..intent().key },
        kind: EntryKind::Parked,
        reason: DeadReason::Spill,
        spilled: true,
        holds: true,
        source_lost: true,
        cleared: false,
        size_bytes: 108,
        cycle: 0,
        attempts: 0,
        due_ms: 0,
        delay_ms: 0,
        first_delivery_ms: 0,
        first_failure_ms: 0,
        last_failure_ms: 0,
        dead_ms: 1_763_700_000_000,
        error: None,
        member: None,
        client_version: String::new(),
        blocked_by,
        dlq_end: at(70_000),
        ..intent()
    }
}

/// One that no machine makes, with the greatest and the least numbers.
fn elsewhere() -> Intent {
    let elsewhere = EntryKey {
        source: Source { partition: PartitionId(u32::MAX), ..source() },
        offset: Offset::MAX,
        epoch: PartitionEpoch::new(i32::MAX as u32).unwrap(),
    };
    let text = || "ü".repeat(200);
    let error = ErrorInfo { class: text(), message: text(), stack: text(), fingerprint: text(), trace: String::new() };
    Intent {
        slot: KeySlot::new(0).unwrap(),
        reason: DeadReason::Parked,
        size_bytes: u32::MAX,
        cycle: u32::MAX,
        attempts: u32::MAX,
        records: u32::MAX,
        due_ms: i64::MIN,
        delay_ms: u64::MAX,
        first_delivery_ms: -1,
        first_failure_ms: i64::MAX,
        error: Some(Box::new(error)),
        member: None,
        client_version: text(),
        blocked_by: Some(elsewhere),
        dlq_end: Offset::MAX,
        ..intent()
    }
}

fn tried() -> Tried {
    Tried {
        offset: Offset::MAX,
        epoch: PartitionEpoch::new(i32::MAX as u32).unwrap(),
        attempts: u32::MAX,
        due_ms: i64::MAX,
        delay_ms: 0,
        first_ms: i64::MIN,
        lane: LaneKey(1 << 100),
        slot: KeySlot::new(4_095).unwrap(),
        class: "Zeitüberschreitung".into(),
    }
}

/// One record of each kind.
fn all() -> Vec<GroupRecord> {
    let (source, member) = (source(), MemberId([1; 16]));
    let config = Box::new(GroupConfig::new(Mode::Keyed, vec!["orders".into()]));
    let name = GroupName::parse("billing").unwrap();
    let notes = GroupNotes { labels: [("a".to_owned(), "b".to_owned())].into(), ..GroupNotes::default() };
    let topic = GroupTopic {
        topic: source.topic,
        name: "orders".into(),
        partitions: 3,
        dlq: "orders.billing.dlq".into(),
        is_dlq: false,
    };
    let owned = OwnedRun { slots: SlotRange::ALL, member, epoch: AssignmentEpoch(5) };
    let pause = Pause {
        topic: Some(source.topic),
        partition: Some(source.partition),
        reason: PauseReason::DeadLimit,
        until_ms: Some(5),
        act: act(),
    };
    let (client_id, client_version) = ("c".to_owned(), "1".to_owned());
    vec![
        GroupRecord::Created {
            name,
            config: config.clone(),
            notes: notes.clone(),
            created_ms: 1,
            topics: vec![topic.clone()],
            starts: vec![start()],
        },
        GroupRecord::Configured { config, notes },
        GroupRecord::Deleted,
        GroupRecord::Topics { added: vec![topic], starts: vec![start()], removed: vec![TopicUuid([8; 16])] },
        GroupRecord::Joined {
            member,
            epoch: MemberEpoch(3),
            instance: Some("i".into()),
            client_id,
            client_version,
            time_ms: 3,
        },
        GroupRecord::Left { member },
        GroupRecord::Detached { member, time_ms: 4 },
        GroupRecord::Assigned { epoch: 5, runs: vec![(source, vec![owned])] },
        GroupRecord::Assigned {
            epoch: 7,
            runs: vec![
                (source, Vec::new()),
                (
                    Source { partition: PartitionId(3), ..source },
                    vec![
                        OwnedRun { slots: SlotRange { from: 1, to: 9 }, ..owned },
                        OwnedRun {
                            slots: SlotRange { from: 9, to: 10 },
                            member: MemberId([2; 16]),
                            epoch: AssignmentEpoch(7),
                        },
                        OwnedRun { slots: SlotRange { from: 500, to: 4_096 }, ..owned },
                    ],
                ),
            ],
        },
        GroupRecord::Settled { source, how: SettledAs::Committed, runs: vec![run(0, 3), run(5, i64::MAX as u64)] },
        GroupRecord::Settled { source, how: SettledAs::Acked, runs: Vec::new() },
        GroupRecord::Tried { source, tries: vec![tried(), Tried { class: String::new(), ..tried() }] },
        GroupRecord::Committed { source, next: at(4), epoch: PartitionEpoch::ZERO, metadata: "m".into() },
        GroupRecord::Intended { number: 4, intent: Box::new(intent()) },
        GroupRecord::Intended { number: u64::MAX, intent: Box::new(parked()) },
        GroupRecord::Intended { number: 1, intent: Box::new(elsewhere()) },
        GroupRecord::Arrived { source, number: 4, how: Some(SettledAs::Dead) },
        GroupRecord::Arrived { source, number: 1 << 40, how: None },
        GroupRecord::Reset { floors: vec![start()], clear: true, epoch: 6, undo: false, act: act() },
        GroupRecord::Cleared,
        GroupRecord::Paused(pause),
        GroupRecord::Resumed { topic: None, partition: None, reason: PauseReason::Operator },
        GroupRecord::GapPassed { source, range: run(3, 5), reason: GapReason::Corrupt },
        GroupRecord::Cut { source, at: at(5), epoch: PartitionEpoch::new(2).unwrap(), group_epoch: 7 },
        GroupRecord::Epoch { source, epoch: PartitionEpoch::new(2).unwrap() },
        GroupRecord::Crashes { source, count: 2 },
        GroupRecord::Hole { source, lane: LaneKey(u128::MAX), at: at(7) },
        GroupRecord::HolesTold { source, lanes: vec![LaneKey(0), LaneKey(1 << 90)] },
        GroupRecord::Breaker { forced: Some(true), act: act() },
        GroupRecord::Recovered { epoch: 1 << 40 },
    ]
}

#[test]
fn every_record_comes_back_as_it_was() {
    for record in all() {
        let bytes = encode(GroupId(u64::MAX), &record);
        assert_eq!(decode(&bytes), Ok((GroupId(u64::MAX), record)));
    }
}

#[test]
fn a_record_cut_short_anywhere_is_an_error() {
    for record in all() {
        let bytes = encode(GroupId(1), &record);
        for length in 0..bytes.len() {
            assert!(decode(&bytes[..length]).is_err(), "{length} of {} bytes of {record:?}", bytes.len());
        }
    }
}

#[test]
fn bytes_behind_a_record_are_an_error() {
    for record in all() {
        let mut bytes = encode(GroupId(1), &record);
        bytes.push(b'x');
        assert!(decode(&bytes).is_err(), "{record:?}");
    }
}

#[test]
fn one_flipped_bit_is_an_error_or_another_record_and_never_a_panic() {
    for record in all() {
        let bytes = encode(GroupId(1), &record);
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            if let Ok((group, other)) = decode(&flipped) {
                // What it is read as is written as bytes that are read alike.
                assert_eq!(decode(&encode(group, &other)), Ok((group, other)));
            }
        }
    }
}

#[test]
fn a_count_that_the_bytes_cannot_hold_reserves_nothing() {
    let mut bytes = encode(GroupId(1), &GroupRecord::Settled { source: source(), how: SettledAs::Acked, runs: vec![] });
    bytes.pop();
    put(&mut bytes, u64::MAX);
    assert!(decode(&bytes).is_err());
}

#[test]
fn a_settled_record_of_one_run_is_small() {
    let record =
        GroupRecord::Settled { source: source(), how: SettledAs::Acked, runs: vec![run(1_000_000, 1_000_500)] };
    assert!(encode(GroupId(1), &record).len() <= 34, "{}", encode(GroupId(1), &record).len());
}

#[test]
fn an_intent_and_its_arrival_stand_in_the_journal_byte_by_byte_as_the_format_says() {
    let intended = encode(GroupId(1), &GroupRecord::Intended { number: 300, intent: Box::new(intent()) });
    let golden = [
        &[1, 0, 0, 0, 0, 0, 0, 0][..], // group
        &[TAG_INTENDED, 0x7a],         // holds, cleared, error, member, blocked
        &[0xac, 0x02],                 // number
        &[3; 16],                      // topic
        &[2, 7, 0],                    // partition, offset, epoch
        &[0xfe],                       // lane
        &[0xff; 15],
        &[0xff, 0x1f],                       // slot
        &[0, 1],                             // kind, reason
        &[10, 2, 6, 1],                      // size, cycle, attempts, records
        &[11, 0xac, 0x02],                   // due, delay
        &[1, 2, 3, 4],                       // times
        &[100],                              // end of the dead letters
        &[1, b'1'],                          // client version
        &[1, b'E', 2, b'm', b'\n', 0, 0, 0], // error
        &[9; 16],                            // member
        &[7, 0],                             // what blocks it
    ];
    assert_eq!(intended, golden.concat());
    let arrived =
        encode(GroupId(1), &GroupRecord::Arrived { source: source(), number: 300, how: Some(SettledAs::Parked) });
    let golden = [&[1, 0, 0, 0, 0, 0, 0, 0, TAG_ARRIVED][..], &[3; 16], &[2, 0xac, 0x02, 4]];
    assert_eq!(arrived, golden.concat());
}

#[test]
fn an_intent_with_a_flag_a_kind_or_a_way_that_nobody_knows_is_refused_in_words() {
    let flags = 9;
    let mut bytes = encode(GroupId(1), &GroupRecord::Intended { number: 1, intent: Box::new(parked()) });
    assert_eq!(bytes[flags] & 0x80, 0, "the flags take one byte");
    bytes[flags] |= 0x80;
    bytes.insert(flags + 1, 0x02);
    assert!(decode(&bytes).unwrap_err().contains("unknown flags"), "{:?}", decode(&bytes));
    let mut bytes = encode(GroupId(1), &GroupRecord::Intended { number: 1, intent: Box::new(intent()) });
    let kind = 9 + 1 + 1 + 16 + 3 + 16 + 2;
    bytes[kind] = 2;
    assert!(decode(&bytes).unwrap_err().contains("unknown kind"), "{:?}", decode(&bytes));
    bytes[kind] = 0;
    bytes[kind + 1] = 8;
    assert!(decode(&bytes).unwrap_err().contains("unknown reason"), "{:?}", decode(&bytes));
    let mut bytes = encode(GroupId(1), &GroupRecord::Arrived { source: source(), number: 1, how: None });
    *bytes.last_mut().unwrap() = 7;
    assert!(decode(&bytes).unwrap_err().contains("way to settle"), "{:?}", decode(&bytes));
}

#[test]
fn ak_7_an_intent_on_its_way_is_short() {
    let intended = encode(GroupId(1), &GroupRecord::Intended { number: 70_000, intent: Box::new(parked()) });
    assert!(intended.len() <= 90, "{}", intended.len());
    let arrived = GroupRecord::Arrived { source: source(), number: 70_000, how: Some(SettledAs::Parked) };
    assert!(encode(GroupId(1), &arrived).len() <= 32);
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn settled_runs_come_back(runs in proptest::collection::vec((0..1_000_u64, 1..1_000_u64), 0..20)) {
        let mut end = 0;
        let runs = runs.into_iter().map(|(gap, length)| {
            let from = end + gap;
            end = from + length;
            run(from, end)
        });
        let record = GroupRecord::Settled { source: source(), how: SettledAs::Parked, runs: runs.collect() };
        prop_assert_eq!(decode(&encode(GroupId(2), &record)), Ok((GroupId(2), record)));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(decode(&bytes));
    }

    #[test]
    fn arbitrary_bytes_behind_a_tag_never_panic(tag in 0..7_u8, bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let mut all = vec![0; 8];
        all.push(tag);
        all.extend(bytes);
        drop(decode(&all));
    }
}
