//! Blocks of sidecars: back as they were, and nothing else believed.

use super::*;
use crate::log::storage::SimDisk;
use crate::model::{PartitionId, TopicId, TopicUuid};

const IDENTITY: LogIdentity =
    LogIdentity { data_dir: [7; 16], topic_uuid: TopicUuid([9; 16]), topic_id: TopicId(3), partition: PartitionId(1) };

fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

fn block(from: u64, events: u64) -> Block {
    let epoch = PartitionEpoch::new(4).expect("small");
    let event = |index: u64| StoredEvent {
        id: [index.wrapping_mul(0x9E37_79B9_7F4A_7C15), !index],
        content: index << 40,
        offset: offset(from + 2 * index),
        epoch,
        append_time_ms: 1_700_000_000_000 + index as i64,
    };
    Block { from: offset(from), end: offset(from + 2 * events), epoch, events: (0..events).map(event).collect() }
}

#[test]
fn a_block_comes_back_as_it_was() {
    for events in [0, 1, 7] {
        let block = block(100, events);
        let bytes = encode(&IDENTITY, offset(90), &block);
        assert_eq!(decode(&IDENTITY, offset(90), &bytes), Some((block, bytes.len())));
    }
}

#[test]
fn a_block_that_is_cut_or_has_one_bit_flipped_is_none() {
    let bytes = encode(&IDENTITY, offset(90), &block(100, 3));
    for length in 0..bytes.len() {
        assert_eq!(decode(&IDENTITY, offset(90), &bytes[..length]), None, "cut to {length}");
    }
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode(&IDENTITY, offset(90), &flipped), None, "bit {bit}");
    }
}

#[test]
fn a_block_of_another_segment_partition_or_topic_is_none() {
    let bytes = encode(&IDENTITY, offset(90), &block(100, 3));
    assert_eq!(decode(&IDENTITY, offset(91), &bytes), None);
    assert_eq!(decode(&LogIdentity { partition: PartitionId(2), ..IDENTITY }, offset(90), &bytes), None);
    assert_eq!(decode(&LogIdentity { topic_uuid: TopicUuid([8; 16]), ..IDENTITY }, offset(90), &bytes), None);
}

#[test]
fn blocks_are_read_up_to_the_first_that_is_damaged_and_orphans_go() {
    let disk = SimDisk::new();
    let (storage, dir) = (disk.storage(), Path::new("p"));
    storage.create_dir_all(dir).expect("the disk is well");
    let all = [block(90, 5), block(100, 0), block(100, 9)];
    assert!(read(&*storage, dir, &IDENTITY, offset(90)).expect("none is no error").blocks.is_empty());
    for block in &all {
        append(&*storage, dir, &IDENTITY, offset(90), block).expect("the disk is well");
    }
    let found = read(&*storage, dir, &IDENTITY, offset(90)).expect("the disk is well");
    assert_eq!((&found.blocks[..], found.damaged), (&all[..], false));
    let file = storage.open(&dir.join("00000000000000000090.events"), OpenMode::ReadWrite).expect("it is there");
    file.set_len(file.len().expect("well") - 1).expect("well");
    let found = read(&*storage, dir, &IDENTITY, offset(90)).expect("the disk is well");
    assert_eq!((&found.blocks[..], found.damaged), (&all[..2], true));
    remove_orphans(&*storage, dir, |base| base == offset(90)).expect("the disk is well");
    assert!(storage.exists(&dir.join("00000000000000000090.events")).expect("well"));
    remove_orphans(&*storage, dir, |_| false).expect("the disk is well");
    assert!(!storage.exists(&dir.join("00000000000000000090.events")).expect("well"));
}
