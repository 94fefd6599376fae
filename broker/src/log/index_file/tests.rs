use super::super::format::{INDEX_MAGIC, TIME_INDEX_MAGIC};
use super::super::index::{IndexEntry, OffsetIndex};
use super::super::test_support::{epoch, identity, offset};
use super::super::time_index::{TimeEntry, TimeIndex};
use super::*;

fn context() -> FrameContext {
    FrameContext::new(&identity(), 77)
}

fn coverage() -> Coverage {
    Coverage {
        base: offset(100),
        end: offset(1_000),
        log_end: FilePosition(50_000),
        last_append_time_ms: 12_345,
        last_epoch: epoch(4),
    }
}

/// An index with an entry for each tenth offset from 100 on, at 400 bytes each.
fn index() -> OffsetIndex {
    let mut index = OffsetIndex::empty();
    for number in 0..20 {
        let entry = IndexEntry { offset: offset(100 + number * 10), position: FilePosition(88 + number * 400) };
        assert!(index.note(entry, 400));
        let near = IndexEntry { offset: offset(101 + number * 10), position: FilePosition(88 + number * 400 + 399) };
        assert!(!index.note(near, 400), "within the interval");
    }
    index
}

fn times() -> TimeIndex {
    let mut times = TimeIndex::empty();
    for (time_ms, at) in [(-50, 100), (0, 110), (0, 120), (7, 130), (1_000, 140)] {
        times.note(TimeEntry { time_ms, offset: offset(at) });
    }
    times
}

#[test]
fn an_index_finds_the_last_entry_up_to_an_offset() {
    let index = index();
    let found = |at| index.lookup(offset(at)).map(|entry| (entry.offset.get(), entry.position.0));
    assert_eq!(found(99), None);
    assert_eq!(found(100), Some((100, 88)));
    assert_eq!(found(109), Some((100, 88)));
    assert_eq!(found(110), Some((110, 488)));
    assert_eq!(found(1 << 40), Some((290, 88 + 19 * 400)));
    assert_eq!(OffsetIndex::empty().lookup(offset(5)), None);
}

#[test]
fn of_4_a_time_index_finds_the_last_entry_before_a_time() {
    let times = times();
    assert_eq!(times.len(), 4, "one entry per time");
    let found = |time_ms| times.last_before(time_ms).map(|entry| (entry.time_ms, entry.offset.get()));
    assert_eq!(found(i64::MIN), None);
    assert_eq!(found(-50), None);
    assert_eq!(found(-49), Some((-50, 100)));
    assert_eq!(found(0), Some((-50, 100)));
    assert_eq!(found(1), Some((0, 110)));
    assert_eq!(found(i64::MAX), Some((1_000, 140)));
}

#[test]
fn an_index_file_comes_back() {
    let bytes = index().encode(&context(), &coverage());
    assert_eq!(OffsetIndex::check(&bytes, &context(), offset(100)), Ok(coverage()));
    let loaded = OffsetIndex::loaded(&bytes, offset(200));
    assert_eq!(loaded.len(), 10, "entries below the bound");
    assert_eq!(loaded.lookup(offset(155)), index().lookup(offset(155)));
    let bytes = times().encode(&context(), &coverage());
    assert_eq!(TimeIndex::check(&bytes, &context(), offset(100)), Ok(coverage()));
    assert_eq!(TimeIndex::loaded(&bytes, Offset::MAX).last_before(1), times().last_before(1));
    let short = Coverage { end: offset(150), ..coverage() };
    assert_eq!(super::super::index::entries(&index().encode(&context(), &short)).count(), 5);
}

#[test]
fn c4_an_index_cut_at_any_byte_is_refused() {
    let bytes = index().encode(&context(), &coverage());
    for len in 0..bytes.len() {
        assert!(OffsetIndex::check(&bytes[..len], &context(), offset(100)).is_err(), "{len}");
    }
    let longer: Vec<u8> = bytes.iter().copied().chain([0; 16]).collect();
    assert!(OffsetIndex::check(&longer, &context(), offset(100)).is_err());
}

#[test]
fn c1_an_index_with_any_bit_flipped_is_refused() {
    for (bytes, magic) in [
        (index().encode(&context(), &coverage()), INDEX_MAGIC),
        (times().encode(&context(), &coverage()), TIME_INDEX_MAGIC),
    ] {
        assert!(check_file(&bytes, magic, &context(), offset(100)).is_ok());
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            // The minor version may differ, but not unnoticed: it is under the checksum.
            assert!(check_file(&flipped, magic, &context(), offset(100)).is_err(), "bit {bit}");
        }
    }
}

#[test]
fn c4_an_index_of_another_segment_is_refused() {
    let bytes = index().encode(&context(), &coverage());
    let other = FrameContext::new(&identity(), 78);
    assert_eq!(OffsetIndex::check(&bytes, &other, offset(100)), Err(IndexFault::Foreign("salt")));
    assert_eq!(OffsetIndex::check(&bytes, &context(), offset(101)), Err(IndexFault::Foreign("base offset")));
    assert_eq!(TimeIndex::check(&bytes, &context(), offset(100)), Err(IndexFault::Kind));
}

#[test]
fn c4_entries_that_do_not_rise_are_refused_although_their_checksum_is_right() {
    let pairs = [Pair { key: 100, value: 88 }, Pair { key: 110, value: 400 }];
    let mut bytes = encode_file(INDEX_MAGIC, &context(), &coverage(), &pairs);
    bytes.copy_within(INDEX_HEADER_BYTES..INDEX_HEADER_BYTES + 16, INDEX_HEADER_BYTES + 16);
    let entries = crc32fast::hash(&bytes[INDEX_HEADER_BYTES..]);
    bytes[field::ENTRIES_CHECKSUM..][..4].copy_from_slice(&entries.to_le_bytes());
    let header = crc32fast::hash(&bytes[..field::HEADER_CHECKSUM]);
    bytes[field::HEADER_CHECKSUM..][..4].copy_from_slice(&header.to_le_bytes());
    assert_eq!(OffsetIndex::check(&bytes, &context(), offset(100)), Err(IndexFault::Field("order of the entries")));
}
