use super::*;
use crate::log::storage::SimDisk;
use crate::log::verify::tests::make_log;
use crate::log::{LocalLog, LogEnvironment, LogIdentity, RecoveryHint};
use crate::model::{PartitionEpoch, PartitionId, TopicId, TopicUuid};

const DIR: &str = "meta";
const IDENTITY: LogIdentity =
    LogIdentity { data_dir: [5; 16], topic_uuid: TopicUuid([1; 16]), topic_id: TopicId(0), partition: PartitionId(0) };

fn disk() -> SimDisk {
    let disk = SimDisk::new();
    make_log(&disk, DIR, IDENTITY, 12);
    disk.put_file("CLEAN", vec![1]);
    disk.put_file("checkpoint.a", vec![1]);
    disk.put_file("FORMAT", vec![1]);
    disk.sync_dir(Path::new(DIR)).unwrap();
    disk.sync_dir(Path::new("")).unwrap();
    disk
}

/// Damages the header of the second frame of the second segment.
fn damage(disk: &SimDisk) -> String {
    let listing = crate::log::verify::list_segments(disk, Path::new(DIR)).unwrap();
    let file = listing[1].file.to_str().unwrap().to_owned();
    let mut starts = Vec::new();
    dump(disk, &listing[1].file, &mut |position, _| {
        starts.push(position.0);
        true
    })
    .unwrap();
    disk.flip(&file, starts[1] + 30, 1);
    file
}

fn opens_at(disk: &SimDisk, end: Offset) {
    let environment = LogEnvironment::new(disk.storage(), DIR.into(), IDENTITY, 9);
    let hint = RecoveryHint { next_epoch: PartitionEpoch::new(2).unwrap(), ..RecoveryHint::default() };
    let (log, report) = LocalLog::open(environment, &hint).unwrap();
    assert_eq!((log.end(), &report.quarantined[..], report.fenced), (end, &[][..], None));
}

#[test]
fn a_good_log_needs_no_repair_and_gets_none() {
    let disk = disk();
    let plan = plan(&disk, Path::new(DIR)).unwrap();
    assert_eq!((&plan.cause, plan.end, plan.dropped.len()), (&None, Offset::new(60).unwrap(), 0));
    let before = disk.op_count();
    apply(&disk, &plan).unwrap();
    assert_eq!(disk.op_count(), before);
}

#[test]
fn g_6_a_damaged_log_goes_back_to_its_last_good_state_and_lists_what_is_dropped() {
    let disk = disk();
    let file = damage(&disk);
    let before = disk.op_count();
    let plan = plan(&disk, Path::new(DIR)).unwrap();
    assert!(disk.ops()[before as usize..].iter().all(|op| !op.kind.changes()), "a plan only reads");
    assert_eq!(plan.cause.as_ref().unwrap().file.to_str(), Some(file.as_str()));
    let lost: u64 = plan.dropped.iter().map(|dropped| dropped.good_records).sum();
    assert_eq!(plan.end.get() + 5 + lost, 60, "one frame is damaged, the rest is dropped: {plan:?}");
    apply(&disk, &plan).unwrap();
    assert!(!disk.files().iter().any(|file| file == "CLEAN" || file.starts_with("checkpoint")));
    assert!(disk.files().contains(&"FORMAT".to_owned()));
    let after = verify_log(&disk, Path::new(DIR)).unwrap();
    assert!(after.grade().is_none_or(|grade| grade == Grade::Rebuildable), "{:?}", after.findings);
    opens_at(&disk, plan.end);
}

#[test]
fn g_6_a_repair_that_a_power_loss_cuts_short_is_planned_again_and_comes_to_the_same_end() {
    let disk = disk();
    damage(&disk);
    let first = plan(&disk, Path::new(DIR)).unwrap();
    disk.record_images();
    apply(&disk, &first).unwrap();
    for image in disk.take_images() {
        for seed in 0..10 {
            let after = image.crash(seed);
            let again = plan(&after, Path::new(DIR)).unwrap();
            apply(&after, &again).unwrap();
            assert_eq!(again.end, first.end, "call {} seed {seed}", image.ops);
            opens_at(&after, first.end);
        }
    }
}
