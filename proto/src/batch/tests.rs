//! The codec against itself, against bytes of another implementation, and against bytes of nobody.

use bytes::Bytes;
use proptest::prelude::*;

use super::*;

type Fields = (i64, Option<Vec<u8>>, Option<Vec<u8>>, Vec<(String, Vec<u8>)>);

const LIMITS: BatchLimits = BatchLimits::DEFAULT;
const CODECS: [Codec; 3] = [Codec::None, Codec::Lz4, Codec::Zstd];

fn build(builder: &mut BatchBuilder, fields: &[Fields]) -> Bytes {
    for (time, key, value, headers) in fields {
        let headers = headers.iter().map(|(name, value)| (name.as_str(), value.as_slice()));
        builder.push(*time, key.as_deref(), value.as_deref(), headers);
    }
    builder.finish()
}

fn read(batch: &Bytes) -> Vec<Fields> {
    let owned = |bytes: Bytes| bytes.to_vec();
    let fields = |record: BatchRecord| {
        let header =
            |header: RecordHeader| (String::from_utf8(header.key.to_vec()).unwrap(), header.value.unwrap().to_vec());
        (
            record.timestamp_ms,
            record.key.map(owned),
            record.value.map(owned),
            record.headers.into_iter().map(header).collect(),
        )
    };
    records(batch, &LIMITS).unwrap().map(|record| fields(record.unwrap())).collect()
}

fn fields() -> impl Strategy<Value = Fields> {
    let bytes = || prop::collection::vec(any::<u8>(), 0..200);
    let headers = prop::collection::vec((".{0,10}", bytes()), 0..4);
    (any::<i64>(), prop::option::of(bytes()), prop::option::of(bytes()), headers)
}

fn sample(codec: Codec) -> Bytes {
    let mut builder = BatchBuilder::new(codec);
    builder.set_producer(ProducerStamp { producer_id: 7, producer_epoch: 1, base_sequence: 40 });
    let header = vec![("trace".to_owned(), b"abc".to_vec())];
    let fields = [
        (1_700_000_000_000, Some(b"invoice-1".to_vec()), Some(b"a line of it".to_vec()), header),
        (1_700_000_000_005, None, Some(vec![]), vec![]),
        (1_699_999_999_000, Some(vec![]), None, vec![]),
    ];
    build(&mut builder, &fields)
}

/// `batch` with other bytes at `at` and the CRC that fits them.
fn forged(batch: &[u8], at: usize, bytes: &[u8]) -> Bytes {
    let mut batch = batch.to_vec();
    batch[at..at + bytes.len()].copy_from_slice(bytes);
    sealed(batch)
}

fn sealed(mut batch: Vec<u8>) -> Bytes {
    let length = batch.len() as i32 - 12;
    batch[8..12].copy_from_slice(&length.to_be_bytes());
    let crc = check::crc_of(&batch);
    batch[17..21].copy_from_slice(&crc.to_be_bytes());
    batch.into()
}

fn flaw(result: Result<BatchHeader, BatchError>) -> Flaw {
    match result {
        Err(BatchError::Invalid { what, .. }) => what,
        other => panic!("expected a flaw, found {other:?}"),
    }
}

fn unhex(hex: &str) -> Bytes {
    let digit = |byte: u8| (byte as char).to_digit(16).unwrap() as u8;
    hex.as_bytes().chunks(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect::<Vec<_>>().into()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn what_is_encoded_comes_back(batches in prop::collection::vec(prop::collection::vec(fields(), 1..20), 1..3)) {
        for codec in CODECS {
            // One builder for all: nothing of a batch may be left for the next.
            let mut builder = BatchBuilder::new(codec);
            for fields in &batches {
                let batch = build(&mut builder, fields);
                let header = check(&batch, &LIMITS, true).unwrap();
                prop_assert_eq!(header.record_count as usize, fields.len());
                prop_assert_eq!(header.codec, codec);
                prop_assert_eq!(header.base_timestamp_ms, fields[0].0);
                prop_assert_eq!(Some(header.max_timestamp_ms), fields.iter().map(|fields| fields.0).max());
                prop_assert_eq!(&read(&batch), fields);
            }
        }
    }

    #[test]
    fn garbage_is_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), codec in 0_u8..8) {
        let _ = BatchHeader::decode(&bytes);
        prop_assert!(check(&bytes, &LIMITS, true).is_err());
        // A good header and a good CRC before garbage.
        let mut batch = sample(Codec::None)[..HEADER_BYTES].to_vec();
        batch[22] = codec;
        batch.extend_from_slice(&bytes);
        let batch = sealed(batch);
        prop_assert!(codec != 0 || check(&batch, &LIMITS, true).is_err());
        if let Ok(records) = records(&batch, &LIMITS) {
            for record in records {
                let _ = record;
            }
        }
    }
}

#[test]
fn a_batch_of_kafka_python_decodes_and_is_encoded_to_the_same_bytes() {
    // DefaultRecordBatchBuilder of kafka-python 3.0.12: three records, the last with a header without a value, which
    // our builder does not write; then one of an idempotent producer.
    let golden = unhex(
        "0000000000000000000000650000000002b0720e440000000000020000015fd53db1c70000015fd53db236ffffffffffffffffffffffff\
         ffff000000032800000012696e766f6963652d310a6669727374002000de01020101040468310276046831001a00ad1104000002086e6f\
         6e6501",
    );
    let header = check(&golden, &LIMITS, true).unwrap();
    assert_eq!(header.total_bytes, golden.len());
    assert_eq!((header.record_count, header.codec, header.producer), (3, Codec::None, None));
    assert_eq!((header.base_timestamp_ms, header.max_timestamp_ms), (1_511_111_111_111, 1_511_111_111_222));
    let found: Vec<_> = records(&golden, &LIMITS).unwrap().map(Result::unwrap).collect();
    assert_eq!(found[0].key.as_deref(), Some(&b"invoice-1"[..]));
    assert_eq!(found[0].value.as_deref(), Some(&b"first"[..]));
    assert_eq!((found[1].key.as_deref(), found[1].value.as_deref()), (None, None));
    assert_eq!(found[1].headers.len(), 2);
    assert_eq!((&found[1].headers[0].key[..], found[1].headers[0].value.as_deref()), (&b"h1"[..], Some(&b"v"[..])));
    assert_eq!(found[1].headers[1].value.as_deref(), Some(&b""[..]));
    assert_eq!((found[2].key.as_deref(), found[2].timestamp_ms), (Some(&b""[..]), 1_511_111_110_000));
    assert_eq!(found[2].headers[0].value, None);

    let golden = unhex(
        "00000000000000000000003a000000000221d3aef70000000000000000015fd53db1c70000015fd53db1c7000000000000232900037fff\
         ffff0000000110000000026b027600",
    );
    let stamp = ProducerStamp { producer_id: 9001, producer_epoch: 3, base_sequence: i32::MAX };
    assert_eq!(check(&golden, &LIMITS, true).unwrap().producer, Some(stamp));
    let mut builder = BatchBuilder::new(Codec::None);
    builder.set_producer(stamp);
    let ours = build(&mut builder, &[(1_511_111_111_111, Some(b"k".to_vec()), Some(b"v".to_vec()), vec![])]);
    assert_eq!(ours, golden);
}

#[test]
fn pr_13_a_batch_cut_at_any_byte_is_refused() {
    for codec in CODECS {
        let batch = sample(codec);
        for end in 0..batch.len() {
            let cut = batch.slice(..end);
            assert!(check(&cut, &LIMITS, false).is_err(), "{codec:?} cut to {end}");
            assert!(records(&cut, &LIMITS).is_err());
            // The same with lengths and CRC that fit the cut bytes.
            if end >= HEADER_BYTES {
                let forged = sealed(cut.to_vec());
                let result = records(&forged, &LIMITS).and_then(|records| records.collect::<Result<Vec<_>, _>>());
                // An lz4 frame may lack its end mark, which holds nothing of a record.
                let whole = codec == Codec::Lz4 && end >= batch.len() - 4;
                assert_eq!(result.is_ok(), whole, "{codec:?} cut to {end} and sealed");
                assert!(codec != Codec::None || check(&forged, &LIMITS, true).is_err());
            }
        }
        let mut longer = batch.to_vec();
        longer.push(0);
        assert_eq!(flaw(check(&longer, &LIMITS, true)), Flaw::Length);
        assert!(codec != Codec::None || check(&sealed(longer), &LIMITS, true).is_err());
    }
}

#[test]
fn pr_13_every_flipped_bit_that_the_crc_covers_is_found() {
    for codec in CODECS {
        let batch = sample(codec);
        for bit in 0..batch.len() * 8 {
            let mut flipped = batch.to_vec();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // Base offset and leader epoch are the broker's to set: the CRC leaves them out.
            let covered = !matches!(bit / 8, 0..8 | 12..16);
            assert_eq!(check(&flipped, &LIMITS, false).is_err(), covered, "{codec:?}, bit {bit}");
        }
    }
}

#[test]
fn pr_13_each_flaw_has_its_name_and_facts() {
    let batch = sample(Codec::None);
    assert_eq!(flaw(check(&[], &LIMITS, false)), Flaw::Length);
    assert_eq!(flaw(check(&forged(&batch, 16, &[1]), &LIMITS, false)), Flaw::Magic);
    assert_eq!(flaw(check(&forged(&batch, 22, &[0x20]), &LIMITS, false)), Flaw::Control);
    assert_eq!(flaw(check(&forged(&batch, 22, &[0x10]), &LIMITS, false)), Flaw::Transaction);
    assert_eq!(flaw(check(&forged(&batch, 22, &[0x08]), &LIMITS, false)), Flaw::Attributes);
    assert_eq!(flaw(check(&forged(&batch, 21, &[0x80]), &LIMITS, false)), Flaw::Attributes);
    assert_eq!(flaw(check(&forged(&batch, 23, &9_i32.to_be_bytes()), &LIMITS, false)), Flaw::Count);
    assert_eq!(flaw(check(&forged(&batch, 57, &0_i32.to_be_bytes()), &LIMITS, false)), Flaw::Count);
    assert_eq!(flaw(check(&forged(&batch, 43, &(-2_i64).to_be_bytes()), &LIMITS, false)), Flaw::Producer);
    assert_eq!(flaw(check(&forged(&batch, 53, &(-1_i32).to_be_bytes()), &LIMITS, false)), Flaw::Producer);
    let mut torn = batch.to_vec();
    torn[17] ^= 1;
    assert_eq!(flaw(check(&torn, &LIMITS, false)), Flaw::Crc);
    for codec in [1, 2, 5, 6, 7] {
        let refused = check(&forged(&batch, 22, &[codec]), &LIMITS, false);
        assert_eq!(refused, Err(BatchError::UnsupportedCodec { codec }));
    }
    // Fewer records counted than there are, and more.
    for count in [2_i32, 4] {
        let mut forged = batch.to_vec();
        forged[23..27].copy_from_slice(&(count - 1).to_be_bytes());
        forged[57..61].copy_from_slice(&count.to_be_bytes());
        let forged = sealed(forged);
        assert!(check(&forged, &LIMITS, false).is_ok(), "the envelope is good");
        assert_eq!(flaw(check(&forged, &LIMITS, true)), Flaw::Records);
    }
}

#[test]
fn pr_11_each_limit_is_told_with_what_was_found() {
    let headers = vec![("name".to_owned(), vec![0; 6]); 2];
    let mut builder = BatchBuilder::new(Codec::None);
    let fields = [(0, None, None, vec![]), (0, Some(vec![0; 10]), Some(vec![0; 70]), headers)];
    let batch = build(&mut builder, &fields);
    let exact = BatchLimits {
        batch_bytes: batch.len(),
        records: 2,
        decompressed_bytes: batch.len(),
        record_bytes: 100,
        key_bytes: 10,
        headers: 2,
        headers_bytes: 20,
    };
    assert!(check(&batch, &exact, true).is_ok());
    let refused = |limits: BatchLimits| check(&batch, &limits, true).unwrap_err();
    let found = batch.len() as u64;
    assert_eq!(
        refused(BatchLimits { batch_bytes: batch.len() - 1, ..exact }),
        BatchError::TooLarge { bound: BatchBound::Bytes, found, max: found - 1 }
    );
    assert_eq!(
        refused(BatchLimits { records: 1, ..exact }),
        BatchError::TooLarge { bound: BatchBound::Records, found: 2, max: 1 }
    );
    assert_eq!(
        refused(BatchLimits { record_bytes: 99, ..exact }),
        BatchError::RecordTooLarge { index: 1, found: 100, max: 99 }
    );
    assert_eq!(refused(BatchLimits { key_bytes: 9, ..exact }), BatchError::KeyTooLarge { index: 1, found: 10, max: 9 });
    assert_eq!(refused(BatchLimits { headers: 1, ..exact }), BatchError::TooManyHeaders { index: 1, found: 2, max: 1 });
    assert_eq!(
        refused(BatchLimits { headers_bytes: 19, ..exact }),
        BatchError::HeadersTooLarge { index: 1, found: 20, max: 19 }
    );
}

#[test]
fn a_bomb_stops_at_the_bound_and_honest_repetition_does_not() {
    for codec in [Codec::Lz4, Codec::Zstd] {
        let mut builder = BatchBuilder::new(codec);
        let value = vec![0; 1 << 20];
        let batch = build(&mut builder, &vec![(0, None, Some(value), vec![]); 5]);
        assert!(batch.len() < 64 << 10, "{codec:?} took {} bytes", batch.len());
        let whole = records(&batch, &LIMITS).unwrap();
        let max = whole.body_bytes();
        assert_eq!(whole.count(), 5);
        let at = BatchLimits { decompressed_bytes: max, ..LIMITS };
        assert_eq!(records(&batch, &at).unwrap().count(), 5, "{codec:?} at its bound");
        let below = BatchLimits { decompressed_bytes: max - 1, ..LIMITS };
        let expected =
            BatchError::TooLarge { bound: BatchBound::DecompressedBytes, found: max as u64, max: max as u64 - 1 };
        assert_eq!(records(&batch, &below).unwrap_err(), expected, "{codec:?} over its bound");
    }
}

#[test]
fn a_zstd_frame_may_not_ask_for_a_huge_window() {
    // Magic, descriptor with a window and no size, a window of 2^41 bytes, then an empty last block.
    let mut batch = sample(Codec::Zstd)[..HEADER_BYTES].to_vec();
    batch.extend_from_slice(&[0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xf8, 0x01, 0x00, 0x00]);
    let refused = records(&sealed(batch), &LIMITS).unwrap_err();
    assert!(matches!(refused, BatchError::Invalid { what: Flaw::Compression, .. }), "{refused:?}");
}

#[test]
fn a_walk_ends_after_its_first_error() {
    let batch = sample(Codec::None);
    let header = BatchHeader::decode(&batch).unwrap();
    let mut torn = batch.to_vec();
    // The length of the first record.
    torn[HEADER_BYTES] = 0x7f;
    let mut walked = walk(&header, &torn);
    assert!(walked.next().unwrap().is_err());
    assert!(walked.next().is_none());
}

#[test]
fn the_broker_sets_base_offset_and_epoch_without_touching_the_crc() {
    let batch = sample(Codec::Zstd);
    let mut stored = batch.to_vec();
    stored[..16].copy_from_slice(&head_with(&batch, 1 << 40, 12));
    let header = check(&stored, &LIMITS, true).unwrap();
    assert_eq!((header.base_offset, header.leader_epoch), (1 << 40, 12));
    assert_eq!(read(&stored.into()), read(&batch));
}

#[test]
fn headers_without_a_value_and_with_names_of_any_bytes_come_back_as_they_were() {
    let headers: [(&[u8], Option<&[u8]>); 3] = [(b"a", None), (b"\xff\xfe", Some(b"")), (b"", Some(b"x"))];
    let mut builder = BatchBuilder::new(Codec::None);
    builder.push_raw(7, None, None, headers.into_iter());
    let batch = builder.finish();
    check(&batch, &LIMITS, true).unwrap();
    let record = records(&batch, &LIMITS).unwrap().next().unwrap().unwrap();
    let found: Vec<_> = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref())).collect();
    assert_eq!(found, headers);
}

#[test]
fn a_record_is_found_again_by_its_place() {
    let mut builder = BatchBuilder::new(Codec::Zstd);
    for number in 0..5_u8 {
        builder.push(7, Some(&[number]), Some(&[number; 40]), std::iter::empty());
    }
    let records = records(&builder.finish(), &BatchLimits::DEFAULT).expect("a batch");
    let mut views = records.views();
    let mut places = Vec::new();
    loop {
        let left = views.bytes_left();
        let Some(view) = views.next() else { break };
        places.push((view.expect("a record").index, left));
    }
    for (index, left) in places {
        let record = records.at(index, left).expect("the record");
        assert_eq!(record.key.as_deref(), Some(&[index as u8][..]));
        assert!(records.at(index + 1, left).is_err(), "another record is not taken for it");
    }
    assert!(records.at(0, usize::MAX).is_err());
}
