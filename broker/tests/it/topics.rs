//! Topics, the metadata log and the engine around them, on the simulated disk: no network, a clock turned by hand.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sawlog_broker::clock::{Clock, ManualClock};
use sawlog_broker::config::BrokerConfig;
use sawlog_broker::log::storage::SimDisk;
use sawlog_broker::log::storage::sim_disk::{Effect, Fault, OpKind};
use sawlog_broker::model::{AckLevel, Offset, PartitionId, TopicName};
use sawlog_broker::partition::{AppendAck, AppendFailure, CheckedBatch, PartitionState, Permit};
use sawlog_broker::server::engine::{Engine, repair_metadata};
use sawlog_broker::server::{BrokerEnvironment, StartError};
use sawlog_broker::topics::{
    GroupHolds, NewTopic, Topic, TopicConfig, TopicError, TopicNotes, TopicUpdate, Validation,
};
use sawlog_proto::batch::{BatchBuilder, BatchHeader, Codec};
use tokio::runtime::Runtime;

const EIO: i32 = 5;
const HOUR: Duration = Duration::from_secs(3_600);
pub(crate) const START_MS: i64 = 1_700_000_000_000;

/// An engine on a simulated disk, driven from a plain thread.
pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) clock: Arc<ManualClock>,
    engine: Option<Arc<Engine>>,
    pub(crate) runtime: Runtime,
}

fn broker_config() -> BrokerConfig {
    let mut config = BrokerConfig::default();
    config.storage.min_free_bytes = 1 << 20;
    config.storage.reserve_bytes = 1 << 20;
    config.storage.sync_threads = 2;
    config.storage.read_threads = 1;
    config
}

fn open(disk: &SimDisk, clock: &Arc<ManualClock>) -> Result<Arc<Engine>, StartError> {
    let clock: Arc<dyn Clock> = Arc::clone(clock) as _;
    let engine = Engine::open(broker_config(), BrokerEnvironment { clock, storage: Some(disk.storage()) })?;
    engine.wait_recovered();
    Ok(engine)
}

impl World {
    pub(crate) fn new() -> Self {
        Self::on(SimDisk::new())
    }

    pub(crate) fn on(disk: SimDisk) -> Self {
        let clock = Arc::new(ManualClock::new(START_MS));
        let engine = open(&disk, &clock).expect("the disk is well");
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        Self { disk, clock, engine: Some(engine), runtime }
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.engine.as_ref().expect("it runs")
    }

    pub(crate) fn create(&self, name: &str, config: TopicConfig) -> Result<(Arc<Topic>, bool), TopicError> {
        let new = NewTopic { name: name_of(name), config, notes: TopicNotes::default() };
        self.runtime.block_on(self.engine().topics().create(new))
    }

    pub(crate) fn topic(&self, name: &str) -> Arc<Topic> {
        self.engine().topics().get(name).expect("it exists")
    }

    pub(crate) fn delete(&self, name: &str) {
        self.runtime.block_on(self.engine().topics().delete(name, false)).expect("the disk is well");
    }

    pub(crate) fn trim(&self, name: &str, before: u64) -> Result<Vec<(PartitionId, Offset)>, TopicError> {
        let before = [(PartitionId(0), offset(before))];
        self.runtime.block_on(self.engine().topics().trim(name, &before))
    }

    pub(crate) fn append(&self, name: &str, count: u32) -> Result<AppendAck, AppendFailure> {
        let topic = self.topic(name);
        let level = topic.revision().config.ack_floor;
        let ack = topic.partitions()[0].append(batch(count), level, Permit::default());
        self.runtime.block_on(ack)
    }

    pub(crate) fn stop(&mut self) -> bool {
        self.engine.take().expect("it runs").shutdown()
    }

    /// Ends the process without a word, and starts again on what is left.
    pub(crate) fn kill_and_start(&mut self) {
        let left = self.disk.kill();
        drop(self.engine.take());
        self.start_on(left);
    }

    pub(crate) fn start_on(&mut self, disk: SimDisk) {
        self.disk = disk;
        self.engine = Some(open(&self.disk, &self.clock).expect("the disk is well"));
    }
}

pub(crate) fn name_of(name: &str) -> TopicName {
    TopicName::parse(name).expect("a good name")
}

pub(crate) fn offset(value: u64) -> Offset {
    Offset::new(value).expect("small")
}

pub(crate) fn config(partitions: u32) -> TopicConfig {
    TopicConfig {
        partitions,
        keyed: true,
        ack_floor: AckLevel::Durable,
        validation: Validation::Full,
        retention_ms: None,
        retention_bytes: None,
        segment_bytes: 1 << 20,
        segment_ms: 86_400_000,
        max_record_bytes: 1 << 20,
        flush_interval_ms: 1_000,
        holds: GroupHolds::default(),
        events: sawlog_broker::topics::EventSettings::default(),
    }
}

pub(crate) fn batch_of(count: u32, value: &[u8]) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    for _ in 0..count {
        builder.push(START_MS, Some(b"key"), Some(value), std::iter::empty());
    }
    let bytes: Bytes = builder.finish();
    CheckedBatch { header: BatchHeader::decode(&bytes).expect("it is one"), bytes, request: None, events: None }
}

pub(crate) fn batch(count: u32) -> CheckedBatch {
    batch_of(count, b"value")
}

#[test]
fn a_topic_is_there_after_a_clean_stop_and_after_a_kill() {
    let mut world = World::new();
    let (topic, new) = world.create("orders", config(3)).expect("the disk is well");
    assert!(new);
    let uuid = topic.uuid;
    drop(topic);
    world.append("orders", 5).expect("the disk is well");
    assert!(world.stop());
    world.start_on(world.disk.kill());
    assert_eq!(world.topic("orders").uuid, uuid);
    assert_eq!(world.topic("orders").partitions()[0].high_watermark(), offset(5));
    world.append("orders", 2).expect("the disk is well");
    world.kill_and_start();
    assert_eq!(world.topic("orders").uuid, uuid);
    assert_eq!(world.topic("orders").partitions()[0].high_watermark(), offset(7));
}

#[test]
fn an_equal_creation_finds_the_topic_and_another_one_names_the_fields() {
    let world = World::new();
    let (first, _) = world.create("orders", config(2)).expect("the disk is well");
    let (second, new) = world.create("orders", config(2)).expect("it is equal");
    assert!(!new);
    assert_eq!(first.uuid, second.uuid);
    let other = TopicConfig { retention_ms: Some(5_000), ..config(4) };
    match world.create("orders", other) {
        Err(TopicError::Exists { differences, .. }) => {
            assert_eq!(differences, "partitions (2, asked for 4), retention_ms (-1, asked for 5000)");
        }
        other => panic!("{other:?}"),
    }
}

#[test]
fn creations_of_one_name_at_the_same_time_make_one_topic() {
    let world = World::new();
    let topics = world.engine().topics();
    let new = || NewTopic { name: name_of("orders"), config: config(2), notes: TopicNotes::default() };
    let all = async { tokio::join!(topics.create(new()), topics.create(new()), topics.create(new())) };
    let (a, b, c) = world.runtime.block_on(all);
    let made = [a, b, c].map(|result| result.expect("all are equal"));
    assert_eq!(made.iter().filter(|(_, new)| *new).count(), 1);
    assert!(made.iter().all(|(topic, _)| topic.uuid == made[0].0.uuid));
    let dirs = world.disk.files().into_iter().filter(|path| path.ends_with(".log") && path.starts_with("topics/"));
    assert_eq!(dirs.count(), 2, "the others' files are gone");
}

#[test]
fn topics_are_listed_in_order_page_by_page() {
    let world = World::new();
    for name in ["b.one", "a.two", "a.one", "c", "a.three"] {
        world.create(name, config(1)).expect("the disk is well");
    }
    let names = |after: Option<&str>, prefix: &str, limit: usize| -> Vec<String> {
        let found = world.engine().topics().list(after, prefix, limit);
        found.iter().map(|topic| topic.name.to_string()).collect()
    };
    assert_eq!(names(None, "", 3), ["a.one", "a.three", "a.two"]);
    assert_eq!(names(Some("a.two"), "", 3), ["b.one", "c"]);
    assert_eq!(names(None, "a.", 9), ["a.one", "a.three", "a.two"]);
    assert_eq!(names(Some("a.one"), "a.t", 9), ["a.three", "a.two"]);
    assert_eq!(names(Some("z"), "", 9), [""; 0]);
}

#[test]
fn an_update_changes_what_may_change_and_raises_the_revision() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    let update = |world: &World, if_revision, config| {
        let notes = TopicNotes { owner: "Ana".into(), ..TopicNotes::default() };
        world.runtime.block_on(world.engine().topics().update("orders", TopicUpdate { if_revision, config, notes }))
    };
    let longer = TopicConfig { retention_ms: Some(60_000), ..config(1) };
    let changed = update(&world, Some(1), longer.clone()).expect("it may");
    assert_eq!(changed.revision().revision, 2);
    assert_eq!(update(&world, None, longer.clone()).expect("no change").revision().revision, 2);
    let stale = update(&world, Some(1), config(1));
    assert!(matches!(stale, Err(TopicError::StaleRevision { given: 1, current: 2, .. })), "{stale:?}");
    let fixed = update(&world, None, config(2));
    assert!(matches!(fixed, Err(TopicError::Field { field: "config.partitions", .. })), "{fixed:?}");
    let unkeyed = update(&world, None, TopicConfig { keyed: false, ..config(1) });
    assert!(matches!(unkeyed, Err(TopicError::Field { field: "config.keyed", .. })), "{unkeyed:?}");
    drop(changed);
    world.kill_and_start();
    let revision = world.topic("orders").revision();
    assert_eq!((revision.revision, &revision.config, revision.notes.owner.as_str()), (2, &longer, "Ana"));
}

#[test]
fn limits_and_unknown_names_are_refused() {
    let world = World::new();
    let many = world.create("many", config(1_025));
    assert!(matches!(many, Err(TopicError::Field { field: "config.partitions", .. })), "{many:?}");
    let topics = world.engine().topics();
    let gone = world.runtime.block_on(topics.delete("nobody", false));
    assert!(matches!(gone, Err(TopicError::NotFound { .. })));
    let trimmed = world.trim("nobody", 1);
    assert!(matches!(trimmed, Err(TopicError::NotFound { .. })));
    world.create("orders", config(1)).expect("the disk is well");
    let reopened = world.runtime.block_on(topics.reopen("orders", PartitionId(3)));
    assert!(matches!(reopened, Err(TopicError::NoPartition { partitions: 1, .. })));
    let labels: BTreeMap<String, String> = (0..65).map(|number| (number.to_string(), String::new())).collect();
    let notes = TopicNotes { labels, ..TopicNotes::default() };
    let new = NewTopic { name: name_of("labelled"), config: config(1), notes };
    let labelled = world.runtime.block_on(topics.create(new));
    assert!(matches!(labelled, Err(TopicError::Field { field: "labels", .. })));
}

#[test]
fn pr_7_a_known_producer_gets_the_next_epoch_and_ids_are_never_given_twice() {
    let mut world = World::new();
    let init = |world: &World, name: &str| {
        world.runtime.block_on(world.engine().topics().init_producer(name)).expect("the disk is well")
    };
    let (id, epoch) = init(&world, "relay");
    assert_eq!(epoch, 0);
    assert_eq!(init(&world, "relay"), (id, 1));
    let (nameless, _) = init(&world, "");
    assert_ne!(nameless, id);
    let mut given = vec![id, nameless];
    world.kill_and_start();
    assert_eq!(init(&world, "relay"), (id, 2));
    for _ in 0..1_500 {
        given.push(init(&world, "").0);
    }
    let all = given.len();
    given.sort_unstable();
    given.dedup();
    assert_eq!(given.len(), all);
    let bad = world.runtime.block_on(world.engine().topics().init_producer("a b"));
    assert!(matches!(bad, Err(TopicError::Field { field: "name", .. })));
}

#[test]
fn d_3_the_epoch_rises_after_an_unclean_start_and_stays_after_a_clean_one() {
    let mut world = World::new();
    world.create("orders", config(2)).expect("the disk is well");
    let first = world.append("orders", 1).expect("the disk is well").epoch;
    assert!(world.stop());
    world.start_on(world.disk.kill());
    assert_eq!(world.append("orders", 1).expect("the disk is well").epoch, first);
    world.kill_and_start();
    let second = world.append("orders", 1).expect("the disk is well").epoch;
    assert!(second > first);
    // A crash before anything was appended must not give the same epoch again.
    world.kill_and_start();
    assert!(world.append("orders", 1).expect("the disk is well").epoch > second);
}

#[test]
fn d_7_a_topic_made_anew_under_an_old_name_is_another_topic() {
    let mut world = World::new();
    let (first, _) = world.create("orders", config(1)).expect("the disk is well");
    world.append("orders", 9).expect("the disk is well");
    world.trim("orders", 4).expect("it is in the log");
    let (uuid, id) = (first.uuid, first.id);
    world.delete("orders");
    assert!(world.engine().topics().get("orders").is_none());
    let dead = first.partitions()[0].append(batch(1), AckLevel::Durable, Permit::default());
    assert!(world.runtime.block_on(dead).is_err());
    drop(first);
    let (second, new) = world.create("orders", config(1)).expect("the disk is well");
    assert!(new && second.uuid != uuid && second.id != id);
    assert_eq!(second.partitions()[0].high_watermark(), Offset::ZERO);
    assert_eq!(second.partitions()[0].log_start(), Offset::ZERO);
    drop(second);
    assert!(world.stop());
    let old = format!("topics/{id}/");
    assert!(!world.disk.files().iter().any(|path| path.starts_with(&old)), "{:?}", world.disk.files());
}

#[test]
fn re_9_a_trim_may_lie_inside_a_segment_and_never_comes_back() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    world.append("orders", 3).expect("the disk is well");
    world.append("orders", 7).expect("the disk is well");
    let beyond = world.trim("orders", 11);
    assert!(matches!(beyond, Err(TopicError::OutOfRange { partition: 0, .. })), "{beyond:?}");
    assert_eq!(world.trim("orders", 5).expect("it is in the log"), [(PartitionId(0), offset(5))]);
    assert_eq!(world.trim("orders", 2).expect("nothing to do"), [(PartitionId(0), offset(5))]);
    world.kill_and_start();
    assert_eq!(world.topic("orders").partitions()[0].log_start(), offset(5));
    assert_eq!(world.trim("orders", 10).expect("all of it"), [(PartitionId(0), offset(10))]);
    world.append("orders", 1).expect("the disk is well");
    assert!(world.stop());
    world.start_on(world.disk.kill());
    let status = world.topic("orders").partitions()[0].status();
    assert_eq!((status.log_start, status.log_end), (offset(10), offset(11)));
    assert_eq!(status.state, PartitionState::Online);
}

/// Fills about three segments and a bit.
pub(crate) fn fill(world: &World, name: &str) {
    let value = vec![7; 60 << 10];
    for _ in 0..60 {
        let topic = world.topic(name);
        let ack = topic.partitions()[0].append(batch_of(1, &value), AckLevel::Durable, Permit::default());
        world.runtime.block_on(ack).expect("the disk is well");
    }
}

#[test]
fn re_1_whole_sealed_segments_go_by_age_and_by_size() {
    let mut world = World::new();
    world.create("aged", TopicConfig { retention_ms: Some(3_600_000), ..config(1) }).expect("the disk is well");
    world.create("large", TopicConfig { retention_bytes: Some(3 << 19), ..config(1) }).expect("the disk is well");
    fill(&world, "aged");
    fill(&world, "large");
    world.engine().run_retention_now();
    assert_eq!(world.topic("aged").partitions()[0].log_start(), Offset::ZERO);
    let large = world.topic("large").partitions()[0].status();
    assert!(large.log_start > Offset::ZERO && large.size_bytes >= 3 << 19, "{large:?}");
    world.clock.advance(2 * HOUR);
    world.engine().run_retention_now();
    let aged = world.topic("aged").partitions()[0].status();
    assert!(aged.log_start > offset(40), "{aged:?}");
    // The start is durable before a file goes (rule D9), so a kill finds the same.
    world.kill_and_start();
    let again = world.topic("aged").partitions()[0].status();
    assert_eq!((again.log_start, &again.state), (aged.log_start, &PartitionState::Online));
}

#[test]
fn f_6_retention_by_age_survives_steps_of_the_wall_clock() {
    for step_ms in [HOUR.as_millis() as i64, -(HOUR.as_millis() as i64), 864_000_000, -864_000_000] {
        let mut world = World::new();
        world.create("aged", TopicConfig { retention_ms: Some(1_800_000), ..config(1) }).expect("the disk is well");
        fill(&world, "aged");
        let before = world.append("aged", 1).expect("the disk is well").append_time_ms;
        world.clock.set_wall_ms(START_MS + step_ms);
        world.engine().run_retention_suspended_now();
        assert_eq!(world.topic("aged").partitions()[0].log_start(), Offset::ZERO, "step {step_ms}");
        let after = world.append("aged", 1).expect("the disk is well").append_time_ms;
        assert!(after >= before, "append times never fall");
        world.kill_and_start();
        assert!(world.append("aged", 1).expect("the disk is well").append_time_ms >= after);
    }
}

#[test]
fn f_1_a_failed_sync_of_the_metadata_log_makes_the_broker_read_only_until_the_next_start() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    world.append("orders", 4).expect("the disk is well");
    world.disk.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::Sync],
        path_contains: "meta".into(),
        effect: Effect::Errno(EIO),
        forever: false,
    });
    let refused = world.runtime.block_on(world.engine().topics().delete("orders", false));
    assert!(matches!(refused, Err(TopicError::ReadOnly { .. })), "{refused:?}");
    let created = world.create("more", config(1));
    assert!(matches!(created, Err(TopicError::ReadOnly { .. })), "{created:?}");
    let appended = world.append("orders", 1);
    assert!(matches!(appended, Err(AppendFailure::BrokerReadOnly { .. })), "{appended:?}");
    assert!(world.engine().metrics().encode().contains("sawlog_read_only 1"));
    let topic = world.topic("orders");
    let read = world.runtime.block_on(topic.partitions()[0].read(Offset::ZERO, 1 << 20));
    assert_eq!(read.expect("reads go on").next, offset(4));
    drop(topic);
    assert!(!world.stop(), "a broker that could not write leaves no clean marker");
    world.start_on(world.disk.kill());
    assert!(world.engine().topics().read_only().is_none());
    world.create("more", config(1)).expect("it is left at restart");
}

#[test]
fn g_6_a_damaged_metadata_log_starts_read_only_and_names_the_repair() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    world.append("orders", 4).expect("the disk is well");
    world.create("second", config(1)).expect("the disk is well");
    world.create("third", config(1)).expect("the disk is well");
    world.append("third", 1).expect("the disk is well");
    let left = world.disk.kill();
    drop(world.engine.take());
    // No snapshot holds the creations yet, unless the machine was very slow; then there is nothing to damage.
    let files: Vec<_> = left.files().into_iter().filter(|path| path.starts_with("meta/")).collect();
    let mut hit = false;
    for file in files.iter().filter(|path| path.ends_with(".log")) {
        let bytes = left.bytes_of(file);
        let needle = b"\"name\":\"second\"";
        if let Some(at) = bytes.windows(needle.len()).position(|window| window == needle) {
            left.flip(file, at as u64 + 10, 1);
            hit = true;
        }
    }
    assert!(hit, "{files:?}");
    world.start_on(left);
    let cause = world.engine().topics().read_only().expect("a change is lost");
    assert!(cause.contains("sawlog segment repair"), "{cause}");
    let topic = world.topic("orders");
    let read = world.runtime.block_on(topic.partitions()[0].read(Offset::ZERO, 1 << 20));
    assert_eq!(read.expect("reads go on").next, offset(4));
    assert!(matches!(world.append("orders", 1), Err(AppendFailure::BrokerReadOnly { .. })));
    let files = world.disk.files();
    assert!(files.iter().any(|path| path.starts_with("topics/2/")), "nothing is removed: {files:?}");
    drop(topic);
    let left = world.disk.kill();
    drop(world.engine.take());
    let clock: Arc<dyn Clock> = Arc::clone(&world.clock) as _;
    let repair = repair_metadata(broker_config(), BrokerEnvironment { clock, storage: Some(left.storage()) });
    assert!(repair.expect("the disk is well").dropped[0].contains("third"));
    world.start_on(left);
    world.append("orders", 1).expect("the broker writes again");
    let files = world.disk.files();
    assert!(files.iter().any(|path| path.starts_with("topics/3/")), "records of lost topics stay: {files:?}");
    let (fresh, _) = world.create("third", config(1)).expect("the disk is well");
    assert!(fresh.id.0 > 3, "a number whose files are still there is not given again");
}

#[test]
fn s_3_the_clean_marker_is_gone_while_the_broker_runs() {
    let mut world = World::new();
    assert!(!world.disk.files().contains(&"CLEAN".to_owned()));
    world.create("orders", config(2)).expect("the disk is well");
    assert!(world.stop());
    assert!(world.disk.files().contains(&"CLEAN".to_owned()));
    world.start_on(world.disk.kill());
    assert!(!world.disk.files().contains(&"CLEAN".to_owned()));
    drop(world.engine.take());
    assert!(!world.disk.files().contains(&"CLEAN".to_owned()), "a kill leaves none");
}

#[test]
fn s_5_a_stop_refuses_what_is_new_and_leaves_everything_durable() {
    let mut world = World::new();
    world.create("orders", TopicConfig { ack_floor: AckLevel::Written, ..config(1) }).expect("the disk is well");
    world.append("orders", 6).expect("the disk is well");
    world.engine().begin_shutdown();
    assert!(matches!(world.append("orders", 1), Err(AppendFailure::ShuttingDown)));
    assert!(matches!(world.create("more", config(1)), Err(TopicError::ShuttingDown)));
    assert!(world.stop());
    world.start_on(world.disk.crash(3));
    let status = world.topic("orders").partitions()[0].status();
    assert_eq!(status.log_end, offset(6), "what was written is durable after a clean stop");
    assert_eq!(status.maybe_missing_from, None);
}

#[test]
fn s_1_a_directory_in_use_is_refused() {
    let world = World::new();
    let second = open(&world.disk, &world.clock);
    assert!(matches!(second, Err(StartError::DataDir { .. })), "{second:?}");
}

#[test]
fn f_7_a_partition_that_cannot_be_opened_stays_closed_and_the_rest_serves() {
    let mut world = World::new();
    world.create("orders", config(2)).expect("the disk is well");
    let id = world.topic("orders").id;
    let left = world.disk.kill();
    drop(world.engine.take());
    left.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::List],
        path_contains: format!("topics/{id}/1"),
        effect: Effect::Errno(EIO),
        forever: true,
    });
    world.start_on(left);
    let states = |world: &World| -> Vec<PartitionState> {
        world.topic("orders").partitions().iter().map(|partition| partition.status().state).collect()
    };
    assert_eq!(states(&world)[0], PartitionState::Online);
    assert!(matches!(states(&world)[1], PartitionState::Fenced(_)));
    world.append("orders", 1).expect("the other one is well");
    world.disk.clear_faults();
    let reopened = world.runtime.block_on(world.engine().topics().reopen("orders", PartitionId(1)));
    assert_eq!(reopened.expect("the disk is well").state, PartitionState::Online);
    assert_eq!(states(&world)[1], PartitionState::Online);
}

/// What a test did, and how far: after which call of the disk it was answered.
struct Answered {
    created: u64,
    trimmed: u64,
    deleted: u64,
    second: u64,
}

/// Creates, fills, trims and deletes a topic, and creates another one under its name.
fn life_of_a_topic(world: &World) -> Answered {
    world.create("orders", config(2)).expect("the disk is well");
    let created = world.disk.op_count();
    world.append("orders", 8).expect("the disk is well");
    world.trim("orders", 3).expect("the disk is well");
    let trimmed = world.disk.op_count();
    world.delete("orders");
    let deleted = world.disk.op_count();
    world.create("orders", TopicConfig { keyed: false, ..config(1) }).expect("the disk is well");
    Answered { created, trimmed, deleted, second: world.disk.op_count() }
}

/// What must hold of whatever a power loss left.
fn check_after_crash(world: &World, at: u64, answered: &Answered, image: &str) {
    assert_eq!(world.engine().topics().read_only(), None, "{image}");
    let topic = world.engine().topics().get("orders");
    let first = topic.as_ref().is_some_and(|topic| topic.revision().config.keyed);
    if at >= answered.created && at < answered.trimmed {
        assert!(first, "{image}: an answered creation is lost");
    }
    if at >= answered.deleted {
        assert!(!first, "{image}: an answered deletion is lost");
    }
    if at >= answered.second {
        assert!(topic.is_some(), "{image}: the second creation is lost");
    }
    if let Some(topic) = &topic {
        let states = topic.partitions().iter().map(|partition| partition.status().state);
        assert!(states.into_iter().all(|state| state == PartitionState::Online), "{image}: a topic is there whole");
        if first && at >= answered.trimmed {
            assert!(topic.partitions()[0].log_start() >= offset(3), "{image}: a trim came back");
        }
    }
}

#[test]
fn d_7_d_9_a_power_loss_at_any_step_leaves_changes_of_topics_whole_or_undone() {
    let world = World::new();
    world.disk.record_images();
    let answered = life_of_a_topic(&world);
    let images = world.disk.take_images();
    drop(world);
    assert!(images.len() > 40, "{}", images.len());
    for (index, image) in images.iter().enumerate() {
        let name = format!("image {index}");
        let mut world = World::on(image.crash(index as u64));
        check_after_crash(&world, image.ops, &answered, &name);
        // What was cut short is gone, so that the name and the number can be had again.
        if world.engine().topics().get("orders").is_none() {
            world.create("orders", config(1)).expect("the disk is well");
        }
        world.append("orders", 1).expect("the disk is well");
        let id = world.topic("orders").id;
        assert!(world.stop(), "{name}");
        let own = format!("topics/{id}/");
        let logs = world.disk.files();
        let stray: Vec<_> = logs.iter().filter(|path| path.starts_with("topics/") && !path.starts_with(&own)).collect();
        assert!(stray.is_empty(), "{name}: {stray:?}");
    }
}

#[test]
fn f_3_produce_is_refused_on_a_nearly_full_disk_and_resumes_by_itself() {
    let world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    world.append("orders", 1).expect("there is space");
    let used = world.disk.used_bytes();
    world.disk.set_quota(used + (1 << 19));
    world.engine().look_at_disk_now();
    let refused = world.append("orders", 1);
    assert!(matches!(refused, Err(AppendFailure::DiskLow { .. })), "{refused:?}");
    let created = world.create("more", config(1));
    assert!(created.is_err(), "{created:?}");
    assert!(world.engine().metrics().encode().contains("sawlog_disk_low 1"));
    // Reads, trims and deletions go on.
    let topic = world.topic("orders");
    assert_eq!(
        world.runtime.block_on(topic.partitions()[0].read(Offset::ZERO, 1 << 20)).expect("it is there").next,
        offset(1)
    );
    world.trim("orders", 1).expect("it is written from the reserve if need be");
    world.disk.set_quota(used + (64 << 20));
    world.engine().look_at_disk_now();
    world.append("orders", 1).expect("produce resumes without a restart");
}

#[test]
fn f_3_a_change_of_the_metadata_is_written_from_the_reserve() {
    let world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    world.append("orders", 5).expect("there is space");
    world.disk.set_quota(world.disk.used_bytes());
    world.engine().look_at_disk_now();
    world.trim("orders", 4).expect("from the reserve");
    world.delete("orders");
    assert!(world.engine().topics().get("orders").is_none());
    assert_eq!(world.engine().topics().read_only(), None);
}

#[test]
fn f_1_a_fence_for_want_of_space_is_left_when_there_is_space_again() {
    const ENOSPC: i32 = 28;
    let world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    let before = world.append("orders", 3).expect("the disk is well").epoch;
    world.disk.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::Sync],
        path_contains: "topics/".into(),
        effect: Effect::Errno(ENOSPC),
        forever: false,
    });
    let fenced = world.append("orders", 1);
    assert!(matches!(fenced, Err(AppendFailure::Fenced { .. })), "{fenced:?}");
    world.engine().look_at_disk_now();
    let ack = world.append("orders", 1).expect("the fence is left");
    assert_eq!(ack.base_offset, offset(3));
    assert!(ack.epoch > before);
    let status = world.topic("orders").partitions()[0].status();
    assert_eq!(status.last_truncation.map(|cut| cut.offset), Some(offset(3)));
}

#[test]
fn f_1_a_fenced_partition_is_reopened_on_request_in_a_new_epoch() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    let before = world.append("orders", 3).expect("the disk is well").epoch;
    world.disk.inject(Fault {
        from_op: 0,
        kinds: vec![OpKind::Sync],
        path_contains: "topics/".into(),
        effect: Effect::Errno(EIO),
        forever: false,
    });
    assert!(world.append("orders", 1).is_err());
    world.engine().look_at_disk_now();
    assert!(world.append("orders", 1).is_err(), "only a full disk is left by itself");
    let topics = Arc::clone(world.engine().topics());
    let status = world.runtime.block_on(topics.reopen("orders", PartitionId(0))).expect("the disk is well");
    assert_eq!(status.state, PartitionState::Online);
    let ack = world.append("orders", 1).expect("the fence is left");
    assert!(ack.epoch > before);
    drop(topics);
    world.kill_and_start();
    let cut = world.topic("orders").partitions()[0].status().last_truncation;
    assert_eq!(cut.map(|cut| cut.offset), Some(offset(3)), "the cut is remembered");
}

#[test]
fn s_4_a_checkpoint_spares_the_next_start_the_scan_and_its_loss_costs_nothing_else() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    fill(&world, "orders");
    let scanned = |world: &World| world.engine().metrics().recovery_scanned_bytes.get();
    let end = offset(60);
    world.kill_and_start();
    let without = scanned(&world);
    assert!(without > 3 << 20, "{without}");
    world.engine().run_checkpoint_now();
    world.kill_and_start();
    let with = scanned(&world);
    assert!(with < without / 4, "{with} of {without}");
    assert_eq!(world.topic("orders").partitions()[0].status().log_end, end);
    world.engine().run_checkpoint_now();
    let left = world.disk.kill();
    drop(world.engine.take());
    for slot in ["checkpoint.a", "checkpoint.b"] {
        if left.files().contains(&slot.to_owned()) {
            left.flip(slot, 20, 1);
        }
    }
    world.start_on(left);
    assert_eq!(world.topic("orders").partitions()[0].status().log_end, end);
    assert_eq!(world.engine().topics().read_only(), None);
}

#[test]
fn d_8_a_deletion_whose_caller_goes_is_finished_all_the_same() {
    let mut world = World::new();
    world.create("orders", config(1)).expect("the disk is well");
    let topics = Arc::clone(world.engine().topics());
    world.runtime.block_on(async {
        let mut delete = Box::pin(topics.delete("orders", false));
        // Polled once, then dropped, as when a client resets its stream.
        std::future::poll_fn(|context| {
            let _ = delete.as_mut().poll(context);
            std::task::Poll::Ready(())
        })
        .await;
    });
    drop(topics);
    assert!(world.stop());
    world.start_on(world.disk.kill());
    assert!(world.engine().topics().get("orders").is_none());
    assert!(!world.disk.files().iter().any(|path| path.starts_with("topics/")), "{:?}", world.disk.files());
}
