//! The hand-made encoding against the generated one.

use bytes::Bytes;
use proptest::prelude::*;
use sawlog_proto::batch::{BatchRecord, RecordHeader};

use super::*;
use crate::coordinator::types::Delivery;
use crate::model::{Offset, PartitionEpoch};

fn record(offset: u64, payload: BatchRecord) -> DeliveredRecord {
    DeliveredRecord {
        delivery: Delivery { offset: Offset::new(offset).expect("small"), attempt: 1, more: None },
        epoch: PartitionEpoch::new(5).expect("small"),
        append_ms: 1_700_000_000_000,
        timestamp_ms: payload.timestamp_ms,
        payload,
    }
}

fn generated(item: &Item<'_>) -> v1::Delivery {
    let payload = &item.record.payload;
    let header = |header: &RecordHeader| v1::Header {
        key: String::from_utf8_lossy(&header.key).into_owned(),
        value: header.value.clone().unwrap_or_default(),
    };
    let mut delivery = v1::Delivery {
        offset: item.record.delivery.offset.to_wire(),
        record: Some(v1::Record {
            key: payload.key.clone(),
            value: payload.value.clone(),
            headers: payload.headers.iter().map(header).collect(),
            timestamp_ms: Some(payload.timestamp_ms),
        }),
        append_time_ms: item.record.append_ms,
        epoch: item.record.epoch.get(),
        attempt: item.attempt,
        replay: item.replay,
        ..Default::default()
    };
    if let Some(extra) = &item.extra {
        delivery.first_delivery_ms = extra.first_delivery_ms;
        delivery.last_error_class = extra.last_error_class.clone();
        delivery.entry = extra.entry.clone();
        delivery.gap_before = extra.gap_before;
        delivery.blocked_by = extra.blocked_by.clone();
    }
    delivery
}

/// Messages as the generated code reads them.
fn read_back(outbox: &mut Outbox) -> Vec<v1::ConsumeResponse> {
    let mut bytes = Bytes::from(outbox.take().concat());
    let mut messages = Vec::new();
    while !bytes.is_empty() {
        let head = bytes.split_to(5);
        assert_eq!(head[0], 0, "not compressed");
        let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]) as usize;
        messages.push(v1::ConsumeResponse::decode(bytes.split_to(length)).expect("a message"));
    }
    messages
}

fn bytes_of(message: &v1::ConsumeResponse) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    put_prefix(&mut bytes, message.encoded_len());
    message.encode(&mut bytes).expect("grows");
    bytes.to_vec()
}

fn payload() -> impl Strategy<Value = BatchRecord> {
    let blob = || {
        prop_oneof![
            Just(None),
            proptest::collection::vec(any::<u8>(), 0..40).prop_map(|bytes| Some(Bytes::from(bytes))),
            (8_190_usize..8_200).prop_map(|length| Some(Bytes::from(vec![7; length]))),
        ]
    };
    let header = (proptest::collection::vec(any::<u8>(), 0..8), blob())
        .prop_map(|(key, value)| RecordHeader { key: key.into(), value });
    (blob(), blob(), proptest::collection::vec(header, 0..3), any::<i64>())
        .prop_map(|(key, value, headers, timestamp_ms)| BatchRecord { key, value, headers, timestamp_ms })
}

fn extra() -> impl Strategy<Value = Option<Box<Extra>>> {
    let mark = ("[a-f0-9]{0,40}", 0..9_i32, 0..3_u32, "[a-z]{0,5}").prop_map(|(dlq_id, state, number, job_id)| {
        v1::EntryMark { dlq_id, state, kind: number as i32, cycle: number, version: number, job_id }
    });
    let extra = (any::<i64>(), "[a-z]{0,9}", proptest::option::of(mark), any::<bool>(), "[a-z]{0,9}");
    proptest::option::of(extra.prop_map(|(first_delivery_ms, last_error_class, entry, gap_before, blocked_by)| {
        Box::new(Extra { first_delivery_ms, last_error_class, entry, gap_before, blocked_by })
    }))
}

proptest! {
    #[test]
    fn records_made_by_hand_are_the_messages_that_the_generated_code_makes(
        source_id in any::<u32>(),
        epoch in any::<u64>(),
        max_attempts in 0..3_u32,
        reached in proptest::option::of(0..i64::MAX),
        replay_id in "[a-f0-9]{0,3}",
        parts in proptest::collection::vec((payload(), 0..3_u32, extra(), 0..u64::from(u32::MAX)), 0..5),
    ) {
        let records: Vec<_> = parts.iter().map(|(payload, _, _, offset)| record(*offset, payload.clone())).collect();
        let items: Vec<Item<'_>> = records
            .iter()
            .zip(parts)
            .map(|(record, (_, attempt, extra, offset))| Item { record, attempt, replay: offset % 2 == 0, extra })
            .collect();
        let mut outbox = Outbox::default();
        outbox.records(Head { source_id, epoch, max_attempts, replay_id: &replay_id }, &items, reached);
        let expected = v1::ConsumeResponse {
            frame: Some(v1::consume_response::Frame::Records(v1::Records {
                source_id,
                assignment_epoch: epoch,
                max_attempts,
                deliveries: items.iter().map(generated).collect(),
                reached_offset: reached.unwrap_or(0),
                replay_id,
            })),
        };
        prop_assert_eq!(outbox.len(), bytes_of(&expected).len());
        prop_assert!(outbox.take().concat() == bytes_of(&expected));
        prop_assert!(outbox.is_empty());
    }
}

fn large(offset: u64, bytes: usize) -> DeliveredRecord {
    record(offset, BatchRecord { value: Some(Bytes::from(vec![1; bytes])), ..BatchRecord::default() })
}

#[test]
fn fc_6_a_message_has_at_most_a_mebibyte_or_one_record_and_each_says_where_it_ends() {
    let records = [large(3, 600_000), large(4, 400_000), large(9, 600_000), large(12, 3 << 20), large(13, 5)];
    let items: Vec<_> = records.iter().map(|record| Item { record, attempt: 1, replay: false, extra: None }).collect();
    let mut outbox = Outbox::default();
    outbox.records(Head { source_id: 1, epoch: 2, max_attempts: 6, replay_id: "" }, &items, Some(20));
    let parts: Vec<(Vec<i64>, i64)> = read_back(&mut outbox)
        .into_iter()
        .map(|message| match message.frame {
            Some(v1::consume_response::Frame::Records(records)) => {
                (records.deliveries.iter().map(|delivery| delivery.offset).collect(), records.reached_offset)
            }
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(parts, [(vec![3, 4], 9), (vec![9], 12), (vec![12], 13), (vec![13], 20)]);
}

#[test]
fn large_values_leave_uncopied() {
    let records = [large(0, 100_000), large(1, 10)];
    let items: Vec<_> = records.iter().map(|record| Item { record, attempt: 1, replay: false, extra: None }).collect();
    let mut outbox = Outbox::default();
    outbox.records(Head { source_id: 0, epoch: 1, max_attempts: 6, replay_id: "" }, &items, None);
    let value = records[0].payload.value.as_ref().expect("a value").as_ptr();
    assert!(outbox.take().iter().any(|chunk| chunk.as_ptr() == value));
}

#[test]
fn batches_made_by_hand_are_the_messages_that_the_generated_code_makes() {
    let frame = |base: u64, bytes: usize| partition::Frame {
        base_offset: Offset::new(base).expect("small"),
        record_count: 3,
        append_time_ms: 1_700_000_000_000,
        epoch: PartitionEpoch::new(5).expect("small"),
        extensions: Bytes::new(),
        batch: Bytes::from(vec![base as u8; bytes]),
    };
    let frames = [frame(0, 10), frame(3, 100_000), frame(6, 1)];
    let marks = vec![
        v1::MarkedOffset { offset: 1, why: Some(v1::marked_offset::Why::Filtered(v1::Unit {})), edited: None },
        v1::MarkedOffset { offset: 4, why: Some(v1::marked_offset::Why::BlockedBy("x".into())), edited: None },
    ];
    let mut outbox = Outbox::default();
    outbox.batches(
        Head { source_id: 7, epoch: 300, max_attempts: 0, replay_id: "0000000000000001-r2" },
        &frames,
        &marks,
        1,
        8,
    );
    let stored = |frame: &partition::Frame| v1::StoredBatch { info: Some(info_of(frame)), batch: frame.batch.clone() };
    let expected = v1::RecordBatches {
        source_id: 7,
        assignment_epoch: 300,
        batches: frames.iter().map(stored).collect(),
        marks,
        from_offset: 1,
        reached_offset: 8,
        replay_id: "0000000000000001-r2".into(),
    };
    let expected = v1::ConsumeResponse { frame: Some(v1::consume_response::Frame::Batches(expected)) };
    assert!(outbox.take().concat() == bytes_of(&expected));
}
