use super::super::storage::SimDisk;
use super::super::storage::sim_disk::{Effect, OpKind};
use super::super::test_support::{fault, offset};
use super::*;

const DATA_DIR: [u8; 16] = [5; 16];

fn entry(topic: u64, partition: u32, proven_end: u64) -> CheckpointEntry {
    CheckpointEntry { topic: TopicId(topic), partition: PartitionId(partition), proven_end: offset(proven_end) }
}

fn sample() -> Checkpoint {
    Checkpoint::new(7, vec![entry(2, 1, 50), entry(0, 0, 9), entry(2, 0, 1 << 40), entry(2, 1, 40)])
}

#[test]
fn a_checkpoint_comes_back() {
    let checkpoint = sample();
    assert_eq!(checkpoint.entries(), [entry(0, 0, 9), entry(2, 0, 1 << 40), entry(2, 1, 50)]);
    assert_eq!(Checkpoint::decode(&checkpoint.encode(&DATA_DIR), &DATA_DIR), Ok(checkpoint.clone()));
    assert_eq!(checkpoint.proven_end(TopicId(2), PartitionId(1)), Some(offset(50)));
    assert_eq!(checkpoint.proven_end(TopicId(2), PartitionId(2)), None);
    let empty = Checkpoint::new(1, Vec::new());
    assert_eq!(Checkpoint::decode(&empty.encode(&DATA_DIR), &DATA_DIR), Ok(empty));
}

#[test]
fn c4_a_checkpoint_cut_at_any_byte_is_refused() {
    let bytes = sample().encode(&DATA_DIR);
    for len in 0..bytes.len() {
        assert!(Checkpoint::decode(&bytes[..len], &DATA_DIR).is_err(), "{len}");
    }
    let longer: Vec<u8> = bytes.iter().copied().chain([0]).collect();
    assert!(Checkpoint::decode(&longer, &DATA_DIR).is_err());
}

#[test]
fn c1_a_checkpoint_with_any_bit_flipped_is_refused() {
    let bytes = sample().encode(&DATA_DIR);
    for bit in 0..bytes.len() * 8 {
        let mut flipped = bytes.clone();
        flipped[bit / 8] ^= 1 << (bit % 8);
        assert!(Checkpoint::decode(&flipped, &DATA_DIR).is_err(), "bit {bit}");
    }
}

#[test]
fn a_checkpoint_of_another_data_directory_is_refused() {
    assert_eq!(Checkpoint::decode(&sample().encode(&[6; 16]), &DATA_DIR), Err(CheckpointFault::Foreign));
}

#[test]
fn s4_two_checkpoints_are_kept_and_the_newer_good_one_counts() {
    let disk = SimDisk::new();
    let (mut file, none) = CheckpointFile::load(disk.storage(), DATA_DIR);
    assert_eq!(none, None);
    for end in 1..=3 {
        file.save(vec![entry(1, 0, end)]).expect("well");
    }
    let newest = |disk: &SimDisk| {
        let (_, found) = CheckpointFile::load(disk.storage(), DATA_DIR);
        found.and_then(|checkpoint| checkpoint.proven_end(TopicId(1), PartitionId(0))).map(Offset::get)
    };
    assert_eq!(newest(&disk.crash(1)), Some(3));
    disk.flip("checkpoint.a", 60, 4);
    assert_eq!(newest(&disk), Some(2), "the third was written to slot a");
    let (mut file, _) = CheckpointFile::load(disk.storage(), DATA_DIR);
    file.save(vec![entry(1, 0, 4)]).expect("well");
    assert_eq!(newest(&disk), Some(4));
    disk.lose_file("checkpoint.a");
    assert_eq!(newest(&disk), Some(2), "the damaged slot was overwritten, not the good one");
    disk.flip("checkpoint.b", 0, 1);
    assert_eq!(newest(&disk), None);
}

#[test]
fn a_failed_save_leaves_the_newer_slot_and_may_be_tried_again() {
    for kind in [OpKind::Create, OpKind::Write, OpKind::Sync, OpKind::Rename, OpKind::SyncDir] {
        let disk = SimDisk::new();
        let (mut file, _) = CheckpointFile::load(disk.storage(), DATA_DIR);
        file.save(vec![entry(1, 0, 1)]).expect("well");
        disk.inject(fault(Effect::Errno(libc::EIO), kind, "", false));
        file.save(vec![entry(1, 0, 2)]).expect_err("the call failed");
        for seed in 0..8 {
            let (_, found) = CheckpointFile::load(disk.crash(seed).storage(), DATA_DIR);
            let end = found.expect("one is good").proven_end(TopicId(1), PartitionId(0)).map(Offset::get);
            assert!(matches!(end, Some(1 | 2)), "{kind:?}: {end:?}");
        }
        file.save(vec![entry(1, 0, 3)]).expect("well again");
        let (_, found) = CheckpointFile::load(disk.crash(1).storage(), DATA_DIR);
        assert_eq!(found.expect("good").proven_end(TopicId(1), PartitionId(0)), Some(offset(3)), "{kind:?}");
    }
}
