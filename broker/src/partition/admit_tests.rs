//! Rules PR-1, PR-2, PR-3, PR-11, PR-13 and the times of F6.

use sawlog_proto::batch::{ProducerStamp, records};

use super::*;

const NOW: i64 = 1_700_000_000_000;

#[derive(Debug, Clone, Default)]
struct Plain {
    key: Option<Vec<u8>>,
    value: Option<Vec<u8>>,
    headers: Vec<(String, Vec<u8>)>,
    timestamp_ms: Option<i64>,
    partition: Option<u32>,
}

impl PlainRecord for Plain {
    fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }
    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }
    fn headers(&self) -> impl Iterator<Item = (&str, &[u8])> + Clone {
        self.headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()))
    }
    fn timestamp_ms(&self) -> Option<i64> {
        self.timestamp_ms
    }
    fn partition(&self) -> Option<u32> {
        self.partition
    }
}

fn rules(partitions: u32, keyed: bool) -> AdmitRules {
    AdmitRules {
        partitions,
        keyed,
        hash_version: 1,
        revision: 4,
        ack_floor: AckLevel::Durable,
        deep: true,
        max_record_bytes: limits::RECORD_BYTES_DEFAULT,
        events: EventRules::default(),
    }
}

fn keyed(key: &str) -> Plain {
    Plain { key: Some(key.into()), value: Some(b"v".to_vec()), ..Plain::default() }
}

fn keyless() -> Plain {
    Plain { value: Some(b"v".to_vec()), ..Plain::default() }
}

fn admit(rules: &AdmitRules, records: &[Plain]) -> Admitted {
    admit_records(rules, records, None, 0, Codec::None, NOW).expect("the request as a whole is fine")
}

fn refusals(part: &Part) -> Vec<(u32, RecordRefusal)> {
    match &part.batch {
        Err(AdmitError::Records(refused)) => refused.clone(),
        other => panic!("expected refused records, found {other:?}"),
    }
}

fn only_refusal(rules: &AdmitRules, record: Plain) -> RecordRefusal {
    let admitted = admit(rules, &[record]);
    refusals(&admitted.parts[0])[0].1.clone()
}

#[test]
fn pr_1_the_key_chooses_the_partition() {
    let records: Vec<_> = (0..100).map(|index| keyed(&format!("key {index}"))).collect();
    for is_keyed in [true, false] {
        let admitted = admit(&rules(7, is_keyed), &records);
        for (record, (part, index)) in records.iter().zip(&admitted.places) {
            let part = &admitted.parts[*part as usize];
            let expected = partition_of(record.key.as_deref().expect("all have keys"), 7);
            assert_eq!(part.partition, Some(PartitionId(expected)));
            assert!(*index < part.record_count);
        }
    }
}

#[test]
fn pr_1_a_keyed_topic_takes_no_record_without_key_and_no_other_partition() {
    assert_eq!(only_refusal(&rules(7, true), keyless()), RecordRefusal::KeyRequired);
    let expected = partition_of(b"a", 7);
    let found = (expected + 1) % 7;
    let hinted = |partition| Plain { partition: Some(partition), ..keyed("a") };
    assert_eq!(only_refusal(&rules(7, true), hinted(found)), RecordRefusal::WrongPartition { expected, found });
    assert!(admit(&rules(7, true), &[hinted(expected)]).parts[0].batch.is_ok());
}

#[test]
fn pr_1_on_a_topic_without_keys_the_choice_is_free_else_keyless_records_are_spread() {
    let free = Plain { partition: Some(3), ..keyed("a") };
    assert_eq!(admit(&rules(7, false), &[free]).parts[0].partition, Some(PartitionId(3)));
    for spread in 0..20 {
        let admitted = admit_records(&rules(7, false), &[keyless(), keyless()], None, spread, Codec::None, NOW);
        let admitted = admitted.expect("fine");
        assert_eq!(admitted.parts.len(), 1, "one request, one batch");
        assert_eq!(admitted.parts[0].partition, Some(PartitionId(spread % 7)));
    }
    let nowhere = Plain { partition: Some(7), ..keyless() };
    let admitted = admit(&rules(7, false), &[nowhere, keyless()]);
    assert_eq!(refusals(&admitted.parts[0]), [(0, RecordRefusal::NoPartition { found: 7, partitions: 7 })]);
    assert_eq!(admitted.parts[0].partition, None);
    assert!(admitted.parts[1].batch.is_ok());
}

#[test]
fn pr_2_less_than_the_floor_is_refused_and_more_is_given() {
    let durable = rules(1, false);
    assert_eq!(level(&durable, None), Ok(AckLevel::Durable));
    let below = AdmitError::AckBelowFloor { floor: AckLevel::Durable, asked: AckLevel::Written };
    assert_eq!(level(&durable, Some(AckLevel::Written)), Err(below));
    let written = AdmitRules { ack_floor: AckLevel::Written, ..durable };
    assert_eq!(level(&written, None), Ok(AckLevel::Written));
    assert_eq!(level(&written, Some(AckLevel::Durable)), Ok(AckLevel::Durable));
}

#[test]
fn pr_3_a_bad_record_spoils_its_part_alone() {
    let mut records: Vec<_> = (0..40).map(|index| keyed(&format!("key {index}"))).collect();
    records[11].key = Some(vec![0; limits::KEY_BYTES + 1]);
    let bad = partition_of(records[11].key.as_deref().expect("just set"), 3);
    let admitted = admit(&rules(3, true), &records);
    assert_eq!(admitted.parts.len(), 3);
    for part in &admitted.parts {
        if part.partition == Some(PartitionId(bad)) {
            let max = limits::KEY_BYTES as u64;
            assert_eq!(refusals(part), [(11, RecordRefusal::KeyTooLarge { found: max + 1, max })]);
        } else {
            let batch = part.batch.as_ref().expect("the other parts go on");
            assert_eq!(batch.header.record_count, part.record_count);
        }
    }
}

#[test]
fn pr_3_the_batches_hold_the_records_in_their_order() {
    let records_in: Vec<_> = (0..30)
        .map(|index| Plain {
            headers: vec![("h".into(), vec![index])],
            timestamp_ms: (index % 2 == 0).then_some(NOW - 5),
            ..keyed(&format!("key {index}"))
        })
        .collect();
    let stamp = RequestStamp { producer_id: 1, producer_epoch: 2, request_number: 3 };
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let admitted = admit_records(&rules(2, true), &records_in, Some(stamp), 0, codec, NOW).expect("fine");
        for (part_index, part) in (0..).zip(&admitted.parts) {
            let batch = part.batch.as_ref().expect("fine");
            assert_eq!((batch.header.codec, batch.request), (codec, Some(stamp)));
            let found = records(&batch.bytes, &BatchLimits::DEFAULT).expect("whole");
            let mut found = found.views().map(|record| record.expect("whole"));
            for (record, (place, _)) in records_in.iter().zip(&admitted.places) {
                if *place == part_index {
                    let view = found.next().expect("as many as went in");
                    assert_eq!((view.key, view.value), (record.key.as_deref(), record.value.as_deref()));
                    assert_eq!(view.timestamp_ms, record.timestamp_ms.unwrap_or(NOW), "absent: the time of the append");
                    assert_eq!(view.headers.len(), 1);
                }
            }
            assert!(found.next().is_none());
        }
    }
}

#[test]
fn pr_11_each_size_over_its_limit_is_named() {
    let small = AdmitRules { max_record_bytes: 100, ..rules(1, false) };
    let value = |bytes| Plain { value: Some(vec![0; bytes]), ..Plain::default() };
    assert_eq!(only_refusal(&small, value(101)), RecordRefusal::RecordTooLarge { found: 101, max: 100 });
    assert!(admit(&small, &[value(100)]).parts[0].batch.is_ok());
    let headers = |count, bytes| Plain { headers: vec![("n".into(), vec![0; bytes]); count], ..Plain::default() };
    let normal = rules(1, false);
    assert!(matches!(only_refusal(&normal, headers(65, 0)), RecordRefusal::HeadersTooLarge { count: 65, .. }));
    assert!(admit(&normal, &[headers(64, 1_023)]).parts[0].batch.is_ok());
    let too_many = RecordRefusal::HeadersTooLarge { count: 64, bytes: 65_600, max_count: 64, max_bytes: 65_536 };
    assert_eq!(only_refusal(&normal, headers(64, 1_024)), too_many);
    let many = vec![keyless(); limits::BATCH_RECORDS as usize + 1];
    let error = admit_records(&normal, &many, None, 0, Codec::None, NOW).expect_err("too many");
    assert_eq!(error, AdmitError::TooLarge { unit: "records", found: 10_001, max: 10_000 });
    let admitted = admit(&normal, &vec![value(1 << 20); 5]);
    assert!(matches!(admitted.parts[0].batch, Err(AdmitError::TooLarge { unit: "bytes", .. })));
    let none: &[Plain] = &[];
    assert_eq!(admit_records(&normal, none, None, 0, Codec::None, NOW).expect_err("none"), AdmitError::Empty);
}

#[test]
fn f_6_times_before_1970_or_more_than_an_hour_ahead_are_refused() {
    let at = |time| Plain { timestamp_ms: Some(time), ..keyless() };
    let normal = rules(1, false);
    let max = NOW + 3_600_000;
    for time in [-1, i64::MIN, max + 1, i64::MAX] {
        assert_eq!(only_refusal(&normal, at(time)), RecordRefusal::InvalidTimestamp { found: time, max });
        let error = admit_batch(&normal, ready(&[at(time)], Codec::None), NOW).expect_err("refused");
        assert!(
            matches!(&error, AdmitError::Records(bad) if matches!(bad[0].1, RecordRefusal::InvalidTimestamp { .. }))
        );
    }
    for time in [0, NOW, max] {
        assert!(admit(&normal, &[at(time)]).parts[0].batch.is_ok());
        assert!(admit_batch(&normal, ready(&[at(time)], Codec::None), NOW).is_ok());
    }
}

fn ready(records: &[Plain], codec: Codec) -> ReadyBatch {
    let mut builder = BatchBuilder::new(codec);
    for record in records {
        builder.push(record.timestamp_ms.unwrap_or(NOW), record.key(), record.value(), record.headers());
    }
    builder.set_producer(ProducerStamp { producer_id: 1, producer_epoch: 0, base_sequence: 0 });
    ReadyBatch { partition: 0, bytes: builder.finish(), hash_version: 1, topic_revision: 4 }
}

#[test]
fn pr_13_a_ready_batch_passes_as_it_is() {
    for codec in [Codec::None, Codec::Lz4, Codec::Zstd] {
        let sent = ready(&[keyed("a"), keyed("b")], codec);
        let bytes = sent.bytes.clone();
        let checked = admit_batch(&rules(1, true), sent, NOW).expect("fine");
        assert_eq!(checked.bytes, bytes);
        assert_eq!(checked.header.producer.map(|stamp| stamp.producer_id), Some(1));
    }
}

#[test]
fn pr_13_every_flipped_bit_of_a_ready_batch_is_refused_or_lies_outside_its_checksum() {
    let sent = ready(&[keyed("a"), keyed("b")], Codec::None);
    for bit in 0..sent.bytes.len() * 8 {
        let mut bytes = sent.bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        let result = admit_batch(&rules(1, true), ReadyBatch { bytes: bytes.into(), ..sent.clone() }, NOW);
        let set_by_broker = bit / 8 < 8 || (12..16).contains(&(bit / 8));
        assert_eq!(result.is_ok(), set_by_broker, "bit {bit}: {result:?}");
    }
}

#[test]
fn pr_13_stale_revisions_and_partitions_that_are_not_there_are_refused() {
    let sent = ready(&[keyed("a")], Codec::None);
    let stale = |what, current, found| Err(AdmitError::Stale { what, current, found });
    let admit = |rules: &AdmitRules, change: &dyn Fn(&mut ReadyBatch)| {
        let mut sent = sent.clone();
        change(&mut sent);
        admit_batch(rules, sent, NOW).map(|_| ())
    };
    let (on, off) = (rules(1, true), rules(1, false));
    assert_eq!(admit(&on, &|sent| sent.hash_version = 2), stale("hash_version", 1, 2));
    assert_eq!(admit(&off, &|sent| sent.hash_version = 2), Ok(()));
    assert_eq!(admit(&on, &|sent| sent.topic_revision = 3), stale("topic_revision", 4, 3));
    assert_eq!(admit(&on, &|sent| sent.topic_revision = 0), stale("topic_revision", 4, 0));
    assert_eq!(admit(&off, &|sent| sent.topic_revision = 0), Ok(()));
    let nowhere = AdmitError::NoPartition { found: 1, partitions: 1 };
    assert_eq!(admit(&on, &|sent| sent.partition = 1), Err(nowhere));
}

#[test]
fn pr_13_the_keys_of_an_uncompressed_batch_are_checked_under_either_validation() {
    let key_of = |partition| {
        let keys = (0..).map(|index| format!("key {index}"));
        keys.into_iter().find(|key| partition_of(key.as_bytes(), 5) == partition).expect("keys are spread")
    };
    let records = [keyed(&key_of(0)), keyed(&key_of(3)), keyless()];
    for deep in [true, false] {
        let rules = AdmitRules { deep, ..rules(5, true) };
        let error = admit_batch(&rules, ready(&records, Codec::None), NOW).expect_err("two are bad");
        let wrong = RecordRefusal::WrongPartition { expected: 3, found: 0 };
        assert_eq!(error, AdmitError::Records(vec![(1, wrong), (2, RecordRefusal::KeyRequired)]));
        assert!(admit_batch(&rules, ready(&records, Codec::Lz4), NOW).is_ok(), "a compressed one is not opened");
    }
}

#[test]
fn pr_11_sizes_inside_an_uncompressed_ready_batch_are_checked_under_full_validation() {
    let rules = AdmitRules { max_record_bytes: 10, ..rules(1, false) };
    let big = Plain { value: Some(vec![0; 11]), ..Plain::default() };
    let sent = ready(&[keyless(), big], Codec::None);
    let error = admit_batch(&rules, sent.clone(), NOW).expect_err("too large");
    assert_eq!(error, AdmitError::Records(vec![(1, RecordRefusal::RecordTooLarge { found: 11, max: 10 })]));
    assert!(admit_batch(&AdmitRules { deep: false, ..rules }, sent, NOW).is_ok());
}

#[test]
fn pr_13_an_unknown_codec_and_a_garbled_record_are_named() {
    let sent = ready(&[keyed("a")], Codec::None);
    let mut bytes = sent.bytes.to_vec();
    bytes[22] |= 1;
    let error = admit_batch(&rules(1, false), ReadyBatch { bytes: bytes.into(), ..sent.clone() }, NOW);
    assert!(matches!(error, Err(AdmitError::Batch(BatchError::UnsupportedCodec { codec: 1 }))), "{error:?}");
    let short = ReadyBatch { bytes: sent.bytes.slice(..40), ..sent };
    assert!(matches!(admit_batch(&rules(1, false), short, NOW), Err(AdmitError::Batch(BatchError::Invalid { .. }))));
}
