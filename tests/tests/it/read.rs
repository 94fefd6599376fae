//! Rules of Read: bounds, following, filters, forms, damage, slow readers.

use std::sync::Arc;
use std::time::Duration;

use sawlog_broker::clock::ManualClock;
use sawlog_broker::log::storage::SimDisk;
use sawlog_proto::batch::{BatchLimits, check, records};
use sawlog_proto::v1::{self, GapReason, read_end::At as End, read_response::Frame, read_start::At as Start};
use sawlog_testing::TestBroker;
use tonic::Streaming;

use crate::wire::{Wire, all_of, from, keyed, unkeyed, until, value, values};

const START_MS: i64 = 1_800_000_000_000;

async fn next(stream: &mut Streaming<v1::ReadResponse>) -> Frame {
    stream.message().await.unwrap().expect("the stream is open").frame.unwrap()
}

/// Ten records, one a batch, 100 ms apart from `START_MS` on.
async fn ten(clock: &ManualClock, wire: &mut Wire) {
    wire.topic("a", unkeyed(1)).await;
    for index in 0..10 {
        wire.write("a", vec![value(format!("{index}"))]).await;
        clock.advance(Duration::from_millis(100));
    }
}

fn numbers(read: &[(u32, i64, String)]) -> Vec<i64> {
    read.iter().map(|(_, offset, _)| *offset).collect()
}

#[tokio::test]
async fn what_is_written_comes_back_in_order_and_the_end_is_told() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    for batch in 0..3 {
        wire.write("a", (0..4).map(|index| value(format!("{batch}.{index}"))).collect()).await;
    }
    let frames = wire.frames(all_of("a")).await;
    let expected: Vec<_> = (0..12).map(|offset| (0, offset, format!("{}.{}", offset / 4, offset % 4))).collect();
    assert_eq!(values(&frames), expected);
    assert_eq!(frames.last(), Some(&Frame::PartitionEnd(v1::PartitionEnd { partition: 0, offset: 12 })));
    assert!(broker.shutdown().await);
}

#[tokio::test]
async fn a_read_begins_and_ends_where_it_is_told_to() {
    let clock = Arc::new(ManualClock::new(START_MS));
    let broker = TestBroker::builder().clock(clock.clone()).start().await;
    let mut wire = Wire::new(&broker).await;
    ten(&clock, &mut wire).await;
    let unit = v1::Unit {};
    let partitions = v1::PartitionStarts { starts: vec![v1::PartitionStart { partition: 0, offset: 8, epoch: None }] };
    let cases = [
        (from(Start::Earliest(unit)), None, 0..10),
        (from(Start::Latest(unit)), None, 10..10),
        (from(Start::Offset(7)), None, 7..10),
        (from(Start::Offset(10)), None, 10..10),
        (from(Start::Last(3)), None, 7..10),
        (from(Start::Last(99)), None, 0..10),
        (from(Start::Partitions(partitions)), None, 8..10),
        (from(Start::Offset(2)), until(End::Offset(5)), 2..5),
        (from(Start::Offset(5)), until(End::Offset(5)), 5..5),
        (None, until(End::Offset(99)), 0..10),
        (None, until(End::Count(4)), 0..4),
        (None, until(End::Count(0)), 0..0),
        (None, until(End::HighWatermark(unit)), 0..10),
        (None, until(End::TimestampMs(START_MS + 300)), 0..3),
        (None, until(End::TimestampMs(START_MS + 301)), 0..4),
        (from(Start::TimestampMs(START_MS + 250)), until(End::TimestampMs(START_MS + 700)), 3..7),
    ];
    for (start, end, expected) in cases {
        let request = v1::ReadRequest { start: start.clone(), end, ..all_of("a") };
        let frames = wire.frames(request).await;
        assert_eq!(numbers(&values(&frames)), expected.clone().collect::<Vec<_>>(), "{start:?} to {end:?}");
        let end = Frame::PartitionEnd(v1::PartitionEnd { partition: 0, offset: expected.end });
        assert_eq!(frames.last(), Some(&end), "{start:?}");
    }
}

#[tokio::test]
async fn of_4_a_time_finds_the_first_record_appended_at_or_after_it_even_if_the_clock_went_back() {
    let clock = Arc::new(ManualClock::new(START_MS));
    let broker = TestBroker::builder().clock(clock.clone()).start().await;
    let mut wire = Wire::new(&broker).await;
    ten(&clock, &mut wire).await;
    // Append times never fall along a partition: this one gets the time of the one before.
    clock.set_wall_ms(START_MS - 1_000_000);
    wire.write("a", vec![value("late")]).await;
    let times =
        [(i64::MIN, 0), (START_MS, 0), (START_MS + 1, 1), (START_MS + 900, 9), (START_MS + 901, 11), (i64::MAX, 11)];
    for (time, offset) in times {
        let at = Some(v1::get_offsets_request::At::TimestampMs(time));
        let request = v1::GetOffsetsRequest { topic: "a".into(), partitions: vec![], at };
        let found = wire.read.get_offsets(request).await.unwrap().into_inner();
        assert_eq!(found.offsets[0].offset, offset, "{time}");
        let read = wire.values(v1::ReadRequest { start: from(Start::TimestampMs(time)), ..all_of("a") }).await;
        assert_eq!(numbers(&read), (offset..11).collect::<Vec<_>>(), "{time}");
    }
    for (at, offset) in [
        (v1::get_offsets_request::At::Earliest(v1::Unit {}), 0),
        (v1::get_offsets_request::At::Latest(v1::Unit {}), 11),
    ] {
        let request = v1::GetOffsetsRequest { topic: "a".into(), partitions: vec![0], at: Some(at) };
        assert_eq!(wire.read.get_offsets(request).await.unwrap().into_inner().offsets[0].offset, offset);
    }
}

#[tokio::test]
async fn fc_1_a_follower_sees_a_record_once_it_is_durable_and_not_before() {
    let disk = SimDisk::new();
    let broker = TestBroker::builder().storage(disk.storage()).start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let mut stream = wire.open(v1::ReadRequest { follow: true, ..all_of("a") }).await;
    assert!(matches!(next(&mut stream).await, Frame::CaughtUp(_)));
    for index in 0..5 {
        wire.write("a", vec![value(format!("{index}"))]).await;
        let frame = next(&mut stream).await;
        assert_eq!(values(&[frame]), [(0, index, format!("{index}"))]);
    }
    // A sync that fails: what was written is never acknowledged, and never seen.
    crate::errors::fail_syncs(&disk, "topics/");
    let refused = wire.produce.produce(crate::wire::plain("a", vec![value("lost")])).await.unwrap().into_inner();
    let failure = refused.parts[0].failure.clone().unwrap();
    assert_eq!(failure.reason(), v1::ErrorReason::PartitionFenced);
    assert_eq!(failure.facts["outcome"], "unknown");
    let read = wire.values(all_of("a")).await;
    assert_eq!(numbers(&read), [0, 1, 2, 3, 4]);
}

#[tokio::test]
async fn fc_4_the_live_end_is_told_on_the_way_there_and_on_the_way_back() {
    let clock = Arc::new(ManualClock::new(START_MS));
    let broker = TestBroker::builder().clock(clock.clone()).start().await;
    let mut wire = Wire::new(&broker).await;
    ten(&clock, &mut wire).await;
    let mut stream = wire.open(v1::ReadRequest { follow: true, start: from(Start::Offset(8)), ..all_of("a") }).await;
    assert_eq!(values(&[next(&mut stream).await]).len(), 2);
    let caught_up = v1::CaughtUp { partition: 0, offset: 10, append_time_ms: START_MS + 900 };
    assert_eq!(next(&mut stream).await, Frame::CaughtUp(caught_up));
    // One that begins at the end knows the time of the record before it, too.
    let latest = v1::ReadRequest { follow: true, start: from(Start::Latest(v1::Unit {})), ..all_of("a") };
    let mut at_end = wire.open(latest).await;
    assert_eq!(next(&mut at_end).await, Frame::CaughtUp(caught_up));
    // More than one reading at once: it falls behind and catches up again. The batch is atomic, so a follower that
    // wakes finds all of it; several batches wait while it does not read.
    let big = "x".repeat(200_000);
    for _ in 0..5 {
        wire.write("a", (0..5).map(|_| value(big.clone())).collect()).await;
    }
    let (mut seen, mut fell, mut caught) = (0, 0, 0);
    while seen < 25 || fell > caught {
        match next(&mut stream).await {
            Frame::Records(frame) => seen += frame.records.len(),
            Frame::FellBehind(_) => fell += 1,
            Frame::CaughtUp(_) => caught += 1,
            other => panic!("{other:?}"),
        }
    }
    assert_eq!((seen, fell), (25, caught));
}

#[tokio::test]
async fn fc_6_frames_stay_within_a_mebibyte_unless_one_record_needs_more() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", v1::TopicConfig { max_record_bytes: Some(3 << 20), ..unkeyed(1) }).await;
    for size in [300_000, 300_000, 300_000, 300_000, 2_500_000, 10, 10] {
        wire.write("a", vec![value("x".repeat(size))]).await;
    }
    wire.write("a", (0..8).map(|_| value("y".repeat(250_000))).collect()).await;
    let mut records_seen = 0;
    for frame in wire.frames(all_of("a")).await {
        let Frame::Records(frame) = frame else { continue };
        let bytes: usize =
            frame.records.iter().map(|record| record.record.as_ref().unwrap().value.as_ref().unwrap().len()).sum();
        assert!(bytes <= 1 << 20 || frame.records.len() == 1, "{bytes} bytes in {} records", frame.records.len());
        records_seen += frame.records.len();
    }
    assert_eq!(records_seen, 15);
}

#[tokio::test]
async fn fc_7_filters_leave_out_what_does_not_match_and_offsets_stay() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", v1::TopicConfig { partitions: Some(1), ..Default::default() }).await;
    let mut records: Vec<_> = ["invoice-1", "invoice-2", "order-1"].iter().map(|key| keyed(key, *key)).collect();
    let header = |value: &str| v1::Header { key: "type".into(), value: value.to_owned().into() };
    records[1].record.as_mut().unwrap().headers = vec![header("sale"), header("refund")];
    wire.write("a", records).await;
    let condition = |value| v1::HeaderMatch { key: "type".into(), value };
    let cases = [
        (v1::ReadFilter { key: Some("order-1".into()), ..Default::default() }, vec![2]),
        (v1::ReadFilter { key_prefix: Some("invoice".into()), ..Default::default() }, vec![0, 1]),
        (v1::ReadFilter { headers: vec![condition(None)], ..Default::default() }, vec![1]),
        (
            v1::ReadFilter {
                headers: vec![condition(Some(v1::header_match::Value::Equals("refund".into())))],
                key_prefix: Some("inv".into()),
                ..Default::default()
            },
            vec![1],
        ),
        (
            v1::ReadFilter {
                headers: vec![condition(Some(v1::header_match::Value::Prefix("x".into())))],
                ..Default::default()
            },
            vec![],
        ),
    ];
    for (filter, expected) in cases {
        let read = wire.values(v1::ReadRequest { filter: Some(filter.clone()), ..all_of("a") }).await;
        assert_eq!(numbers(&read), expected, "{filter:?}");
        let counted = v1::ReadRequest { filter: Some(filter), end: until(End::Count(1)), ..all_of("a") };
        assert_eq!(numbers(&wire.values(counted).await), expected.into_iter().take(1).collect::<Vec<_>>());
    }
}

#[tokio::test]
async fn stored_batches_come_whole_with_what_the_broker_knows_of_them() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(2)).await;
    for batch in 0..6 {
        let at = v1::ProduceRecord { partition: Some(1), ..value("z".repeat(60_000)) };
        wire.write("a", vec![at; 1 + batch]).await;
    }
    let raw = v1::ReadRequest {
        form: v1::ReadForm::Batches.into(),
        partitions: vec![1],
        start: from(Start::Offset(4)),
        ..all_of("a")
    };
    let mut expected = 3;
    for frame in wire.frames(raw).await {
        let Frame::Batches(frame) = frame else { continue };
        assert_eq!(frame.partition, 1);
        for stored in frame.batches {
            let info = stored.info.unwrap();
            let header = check(&stored.batch, &BatchLimits::DEFAULT, true).unwrap();
            // The first may reach beyond the bound asked for.
            assert_eq!(info.base_offset, expected);
            assert_eq!((header.base_offset, header.leader_epoch), (info.base_offset, info.epoch as i32));
            assert_eq!(header.record_count, info.record_count);
            assert_eq!(records(&stored.batch, &BatchLimits::DEFAULT).unwrap().count(), info.record_count as usize);
            assert!(info.append_time_ms > 0);
            expected += i64::from(info.record_count);
        }
    }
    assert_eq!(expected, 21);
}

#[tokio::test]
async fn partitions_take_turns() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(3)).await;
    for partition in 0..3 {
        for _ in 0..6 {
            let record = v1::ProduceRecord { partition: Some(partition), ..value("z".repeat(100_000)) };
            wire.write("a", vec![record; 3]).await;
        }
    }
    let frames = wire.frames(all_of("a")).await;
    let order: Vec<_> = values(&frames).iter().map(|(partition, _, _)| *partition).collect();
    assert_eq!(order.len(), 54);
    // None gets its second reading before each had its first.
    let first_of_last = order.iter().position(|partition| *partition == 2).unwrap();
    assert!(first_of_last <= 12, "partition 2 first came after {first_of_last} records");
}

#[tokio::test]
async fn c2_damage_is_told_and_passed_only_on_request() {
    let disk = SimDisk::new();
    let broker = TestBroker::builder().storage(disk.storage()).start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    for index in 0..6 {
        wire.write("a", vec![value(format!("record number {index}"))]).await;
    }
    let files = disk.files();
    let log = files.iter().find(|file| file.starts_with("topics/") && file.ends_with(".log")).unwrap();
    let bytes = disk.bytes_of(log);
    let at = bytes.windows(15).position(|window| window == b"record number 3").unwrap();
    disk.flip(log, at as u64, 0x04);

    let mut stream = wire.open(all_of("a")).await;
    let mut before = Vec::new();
    let status = loop {
        match stream.message().await {
            Ok(Some(response)) => before.extend(values(&[response.frame.unwrap()])),
            Ok(None) => panic!("damage was passed silently"),
            Err(status) => break status,
        }
    };
    assert_eq!(numbers(&before), [0, 1, 2]);
    let info = crate::errors::info(&status);
    assert_eq!((status.code(), info.reason.as_str()), (tonic::Code::DataLoss, "CORRUPT_SEGMENT"));
    assert_eq!((&info.metadata["first_bad_offset"][..], &info.metadata["next_good_offset"][..]), ("3", "4"));
    assert_eq!((&info.metadata["topic"][..], &info.metadata["partition"][..]), ("a", "0"));

    let frames = wire.frames(v1::ReadRequest { skip_damaged: true, ..all_of("a") }).await;
    assert_eq!(numbers(&values(&frames)), [0, 1, 2, 4, 5]);
    let gap = v1::Gap { partition: 0, from: 3, to: 4, reason: GapReason::Corrupt.into() };
    assert!(frames.contains(&Frame::Gap(gap)), "{frames:?}");
    assert!(crate::errors::metrics(&broker).await.contains("sawlog_corrupt_skips_total 1"));
}

#[tokio::test]
async fn re_9_a_reader_behind_a_trim_is_told_the_gap() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let big = "x".repeat(500_000);
    for _ in 0..60 {
        wire.write("a", vec![value(big.clone())]).await;
    }
    // The windows of the connection hold a part of it; the rest is read once the first was taken.
    let mut stream = wire.open(all_of("a")).await;
    assert_eq!(numbers(&values(&[next(&mut stream).await])), [0]);
    let before = vec![v1::PartitionOffset { partition: 0, offset: 58 }];
    wire.topics.trim_topic(v1::TrimTopicRequest { name: "a".into(), before }).await.unwrap();
    let (mut expected, mut gaps) = (1, 0);
    while let Some(response) = stream.message().await.unwrap() {
        match response.frame.unwrap() {
            Frame::Records(frame) => {
                for record in frame.records {
                    assert_eq!(record.offset, expected);
                    expected += 1;
                }
            }
            Frame::Gap(gap) => {
                assert_eq!((gap.from, gap.to), (expected, 58));
                expected = gap.to;
                gaps += 1;
            }
            _ => {}
        }
    }
    assert_eq!((expected, gaps), (60, 1));
}

#[tokio::test]
async fn a_rate_holds_back_and_loses_nothing() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    wire.write("a", (0..60).map(|index| value(format!("{index}"))).collect()).await;
    let slow = v1::ReadRequest { max_records_per_second: 400, ..all_of("a") };
    let frames = wire.frames(slow).await;
    assert_eq!(numbers(&values(&frames)), (0..60).collect::<Vec<_>>());
    // What may be sent at once, 100 ms' worth, bounds each message.
    let pages = frames.iter().filter_map(|frame| match frame {
        Frame::Records(frame) => Some(frame.records.len()),
        _ => None,
    });
    assert!(pages.max().unwrap() <= 40);
}

#[tokio::test]
async fn d3_a_position_of_another_epoch_beyond_the_end_is_refused() {
    let broker = TestBroker::start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let epoch = wire.write("a", vec![value("0"), value("1")]).await.parts[0].epoch;
    let at = |offset, epoch| {
        let starts = vec![v1::PartitionStart { partition: 0, offset, epoch: Some(epoch) }];
        v1::ReadRequest { start: from(Start::Partitions(v1::PartitionStarts { starts })), ..all_of("a") }
    };
    assert_eq!(numbers(&wire.values(at(1, epoch)).await), [1]);
    let status = wire.read.read(at(7, epoch)).await.unwrap_err();
    assert_eq!(crate::errors::info(&status).reason, "OFFSET_OUT_OF_RANGE");
}

#[tokio::test]
async fn fc_8_a_reader_that_does_not_read_is_cut_and_blocks_nobody() {
    let clock = Arc::new(ManualClock::new(START_MS));
    let broker = TestBroker::builder().clock(clock.clone()).start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    let big = "x".repeat(1_000_000);
    for _ in 0..12 {
        wire.write("a", vec![value(big.clone())]).await;
    }
    let mut stalled = Wire::new(&broker).await.open(all_of("a")).await;
    assert_eq!(numbers(&values(&[next(&mut stalled).await])), [0]);
    // Its windows are full now. Others write and read.
    wire.write("a", vec![value("more")]).await;
    let last = v1::ReadRequest { start: from(Start::Last(1)), ..all_of("a") };
    assert_eq!(wire.values(last).await.len(), 1);
    // Time is turned by hand; the watcher looks twice a second.
    let mut looks = 0;
    while !crate::errors::metrics(&broker).await.contains("reason=\"SLOW_READER\"") {
        if looks % 200 == 0 {
            clock.advance(Duration::from_secs(11));
        }
        looks += 1;
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(stalled_reason(&mut stalled).await, "SLOW_READER");
}

/// What the stream ends with.
async fn stalled_reason(stream: &mut Streaming<v1::ReadResponse>) -> String {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => return "the end".into(),
            Err(status) => return crate::errors::info(&status).reason,
        }
    }
}
