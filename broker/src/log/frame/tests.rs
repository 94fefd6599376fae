use super::super::test_support::{draft, epoch, identity, offset};
use super::*;

fn context() -> FrameContext {
    FrameContext::new(&identity(), 0xABCD_EF01_2345_6789)
}

/// The bytes of a frame as they stand on disk.
fn encoded(draft: &FrameDraft, durable_end: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    encode_header(draft, &context(), offset(durable_end), &mut bytes);
    bytes.extend_from_slice(&draft.extensions);
    bytes.extend_from_slice(&draft.batch_head);
    bytes.extend_from_slice(&draft.batch_rest);
    bytes.extend_from_slice(draft.padding());
    bytes
}

fn check(bytes: &[u8]) -> Result<FrameHeader, FrameFault> {
    let header = FrameHeader::decode_in(bytes, &context())?;
    header.check_body(&bytes[FRAME_HEADER_BYTES..], &context())?;
    Ok(header)
}

#[test]
fn a_frame_comes_back() {
    for base in [5, 6, 7, 100] {
        let draft = draft(base, 4);
        let bytes = encoded(&draft, 3);
        assert_eq!(bytes.len() % 8, 0, "C1: frames are aligned");
        assert_eq!(bytes.len() as u64, draft.frame_bytes());
        let header = check(&bytes).expect("good");
        assert_eq!(header.base_offset, offset(base));
        assert_eq!(header.end_offset(), offset(base + 4));
        assert_eq!(header.append_time_ms, draft.append_time_ms);
        assert_eq!(header.epoch, epoch(1));
        assert_eq!(header.durable_end, offset(3));
        assert_eq!(header.frame_bytes(), draft.frame_bytes());
        assert_eq!(header.extension_bytes as usize, draft.extensions.len());
        assert!(!header.mark);
    }
}

#[test]
fn c3_a_mark_comes_back() {
    let mark = MarkDraft { end: offset(9), durable_end: offset(9), append_time_ms: 5, epoch: epoch(2) };
    let mut bytes = Vec::new();
    encode_mark(&mark, &context(), &mut bytes);
    assert_eq!(bytes.len(), FRAME_HEADER_BYTES);
    let header = check(&bytes).expect("good");
    assert!(header.mark);
    assert_eq!((header.base_offset, header.end_offset(), header.durable_end), (offset(9), offset(9), offset(9)));
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(check(&flipped).is_err(), "bit {bit}");
    }
}

#[test]
fn c1_a_frame_cut_at_any_byte_is_refused() {
    let bytes = encoded(&draft(6, 2), 0);
    for len in 0..bytes.len() {
        let cut = &bytes[..len];
        let result = FrameHeader::decode_in(cut, &context())
            .and_then(|header| header.check_body(cut.get(FRAME_HEADER_BYTES..).unwrap_or_default(), &context()));
        assert!(matches!(result, Err(FrameFault::Short { .. })), "{len}: {result:?}");
    }
}

#[test]
fn c1_a_frame_with_any_bit_flipped_is_refused() {
    let bytes = encoded(&draft(8, 2), 1);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        let fault = check(&flipped).expect_err("a flipped bit is found");
        let in_header = bit / 8 < FRAME_HEADER_BYTES;
        assert_eq!(in_header, !matches!(fault, FrameFault::BodyChecksum { .. }), "bit {bit}: {fault}");
    }
}

#[test]
fn c1_zeros_are_no_frame() {
    assert!(matches!(check(&[0; 4_096]), Err(FrameFault::Magic { found: [0, 0, 0, 0] })));
    assert!(FrameHeader::decode(&[0; FRAME_HEADER_BYTES]).is_err());
}

#[test]
fn c1_a_frame_of_another_segment_partition_or_data_directory_is_refused() {
    let bytes = encoded(&draft(5, 1), 0);
    let other_salt = FrameContext { salt: 1, ..context() };
    let other_partition = FrameContext::new(&LogIdentity { partition: PartitionId(2), ..identity() }, context().salt);
    let other_dir = FrameContext::new(&LogIdentity { data_dir: [8; 16], ..identity() }, context().salt);
    for (other, name) in [(other_salt, "salt"), (other_partition, "partition"), (other_dir, "identity")] {
        let fault = FrameHeader::decode_in(&bytes, &other).expect_err("of another log");
        assert!(matches!(fault, FrameFault::Foreign { field, .. } if field == name), "{fault}");
    }
    assert!(FrameHeader::decode(&bytes).is_ok(), "by itself it is good");
}

/// Sets a field to a value and makes the checksum right again: what a broken writer might leave.
fn forged(at: usize, value: &[u8]) -> Vec<u8> {
    let mut bytes = encoded(&draft(5, 1), 0);
    bytes[at..at + value.len()].copy_from_slice(value);
    let checksum = crc32fast::hash(&bytes[..field::HEADER_CHECKSUM]);
    bytes[field::HEADER_CHECKSUM..field::END].copy_from_slice(&checksum.to_le_bytes());
    bytes
}

#[test]
fn c1_lengths_and_numbers_out_of_bounds_are_refused_before_anything_is_allocated() {
    let cases: [(&str, usize, &[u8]); 9] = [
        ("unknown version", field::VERSION, &[2]),
        ("unknown flag", field::FLAGS, &[2]),
        ("mark with records", field::FLAGS, &[1]),
        ("reserved", field::RESERVED, &[1]),
        ("long extensions", field::EXTENSION_BYTES, &65_537_u32.to_le_bytes()),
        ("long batch", field::BATCH_BYTES, &(8_u32 << 20).to_le_bytes()),
        ("no records", field::RECORD_COUNT, &[0; 4]),
        ("offset beyond the greatest", field::BASE_OFFSET, &(i64::MAX as u64).to_le_bytes()),
        ("durable end above its base", field::DURABLE_END, &6_u64.to_le_bytes()),
    ];
    for (name, at, value) in cases {
        let fault = check(&forged(at, value)).expect_err(name);
        assert!(matches!(fault, FrameFault::Field { .. } | FrameFault::Unknown { .. }), "{name}: {fault}");
    }
    assert!(check(&forged(field::EPOCH, &u32::MAX.to_le_bytes())).is_err());
    assert!(check(&forged(field::EPOCH, &3_u32.to_le_bytes())).is_ok(), "the forger forges well");
}

#[test]
#[should_panic(expected = "a frame has records")]
fn a_draft_without_records_never_reaches_the_disk() {
    encoded(&draft(5, 0), 0);
}

#[test]
#[should_panic(expected = "a frame's durable end is not above its base offset")]
fn a_draft_that_claims_the_future_never_reaches_the_disk() {
    encoded(&draft(5, 1), 6);
}
