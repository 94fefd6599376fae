//! The journals of the groups in a whole engine: what goes wrong with them stops the groups, never produce or read
//! (rules G6, F1, F7), and they are part of every start and stop (rules S3, S4).

use sawlog_broker::coordinator::GroupError;
use sawlog_broker::group::record::{GroupNotes, GroupRecord};
use sawlog_broker::group::{GroupConfig, Mode};
use sawlog_broker::log::storage::SimDisk;
use sawlog_broker::log::storage::sim_disk::{Effect, Fault, OpKind};
use sawlog_broker::log::verify;
use sawlog_broker::model::{GroupId, GroupName};

use crate::topics::{World, config};

impl World {
    fn group(&self, id: u64, name: &str) {
        let name = GroupName::parse(name).expect("a good name");
        let config = Box::new(GroupConfig::new(Mode::Keyed, vec!["orders".into()]));
        let (notes, topics, starts) = (GroupNotes::default(), Vec::new(), Vec::new());
        let record = GroupRecord::Created { name, config, notes, created_ms: 1, topics, starts };
        let journals = self.engine().journals();
        let written = journals.append(GroupId(id), &[record], &[]);
        self.runtime.block_on(journals.durable(written)).expect("the disk is well");
    }

    fn groups(&self) -> Result<Vec<String>, GroupError> {
        let loaded = self.runtime.block_on(self.engine().journals().load())?;
        Ok(loaded.groups.values().map(|(state, _)| state.name.to_string()).collect())
    }
}

fn fail_syncs(disk: &SimDisk, path: &str, forever: bool) {
    disk.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::Sync],
        path_contains: path.into(),
        effect: Effect::Errno(5),
        forever,
    });
}

#[test]
fn s_3_the_journals_are_part_of_a_clean_stop_and_of_a_start_after_a_kill() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    world.group(1, "billing");
    world.engine().run_checkpoint_now();
    world.group(2, "search");
    world.kill_and_start();
    assert_eq!(world.groups().expect("well"), ["billing", "search"]);
    world.group(3, "audit");
    assert!(world.stop(), "the stop is clean");
    let report = verify::verify_all(&*world.disk.storage()).expect("the disk is well");
    let dirs: Vec<_> = report.logs.iter().map(|log| log.dir.display().to_string()).collect();
    assert_eq!(dirs, ["meta", "groups", "entries", "topics/1/0"]);
    assert!(report.clean && report.grade().is_none(), "{report:?}");
    world.start_on(world.disk.kill());
    assert_eq!(world.groups().expect("well"), ["billing", "search", "audit"]);
}

#[test]
fn g_6_a_damaged_journal_stops_the_groups_while_produce_and_read_go_on() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    for (id, name) in [(1, "billing"), (2, "search"), (3, "audit")] {
        world.group(id, name);
    }
    let left = world.disk.kill();
    let needle = b"\"search\"";
    let hit = left.files().into_iter().filter(|path| path.starts_with("groups/")).find_map(|path| {
        let bytes = left.bytes_of(&path);
        Some((bytes.windows(needle.len()).position(|window| window == needle)?, path))
    });
    let (at, path) = hit.expect("it is stored as it is");
    left.flip(&path, at as u64, 1);
    world.start_on(left);
    let found = world.groups();
    assert!(matches!(found, Err(GroupError::JournalCorrupt { .. })), "{found:?}");
    assert!(world.append("orders", 3).is_ok());
    assert!(world.create("payments", config(1)).is_ok(), "topics go on too");
    // A stop and a start in between change nothing: an operator decides.
    assert!(world.stop(), "the damaged journal is left out of the marker");
    world.start_on(world.disk.kill());
    assert!(matches!(world.groups(), Err(GroupError::JournalCorrupt { .. })));
    let report = world.runtime.block_on(world.engine().journals().recover(|_| None)).expect("the disk is well");
    assert_eq!(report.groups.len(), 1);
    assert_eq!(world.groups().expect("well"), ["billing"]);
    world.kill_and_start();
    assert_eq!(world.groups().expect("well"), ["billing"]);
}

#[test]
fn g_6_files_of_the_group_journal_that_are_gone_are_damage_and_not_a_new_begin() {
    let mut world = World::new();
    world.group(1, "billing");
    world.engine().run_checkpoint_now();
    let left = world.disk.kill();
    for path in left.files().into_iter().filter(|path| path.starts_with("groups/")) {
        left.lose_file(&path);
    }
    world.start_on(left);
    assert!(matches!(world.groups(), Err(GroupError::JournalCorrupt { .. })));
}

#[test]
fn f_1_a_failed_sync_of_a_journal_stops_the_groups_and_the_next_start_has_them_again() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    world.group(1, "billing");
    fail_syncs(&world.disk, "groups/", false);
    let journals = world.engine().journals();
    let written = journals.append(GroupId(1), &[GroupRecord::Deleted], &[]);
    assert!(world.runtime.block_on(journals.durable(written)).is_err());
    assert!(matches!(world.groups(), Err(GroupError::Stopped { .. })));
    assert!(world.append("orders", 3).is_ok());
    assert!(world.stop(), "the failed journal is left out of the marker");
    world.start_on(world.disk.crash(3));
    // The outcome of what failed is unknown; nothing else is lost.
    let groups = world.groups().expect("well again");
    assert!(groups.is_empty() || groups == ["billing"], "{groups:?}");
}

#[test]
fn f_3_acks_of_groups_go_on_from_the_reserve_when_the_disk_is_full() {
    let world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    world.group(1, "billing");
    world.disk.set_quota(world.disk.used_bytes());
    world.engine().look_at_disk_now();
    assert!(world.append("orders", 1).is_err(), "produce is refused");
    world.group(2, "search");
    assert_eq!(world.groups().expect("well"), ["billing", "search"]);
}
