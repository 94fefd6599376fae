//! Opening a data directory: everything up to the point where partitions can be opened one by one.

use std::collections::HashMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use super::checkpoints::Checkpoints;
use super::disk::DiskWatch;
use super::{Engine, EngineState, Inside, Threads};
use crate::config::BrokerConfig;
use crate::coordinator::journals::GroupJournals;
use crate::coordinator::{Coordinator, CoordinatorParts};
use crate::dead_letter::{Letters, LettersParts};
use crate::limits;
use crate::log::data_dir::{DataDir, DataDirOptions};
use crate::log::storage::{Disk, Storage};
use crate::log::{CheckpointFile, LogEnvironment, LogIdentity, LogSettings};
use crate::metrics::{Metrics, PartitionSource};
use crate::model::{PartitionId, TopicId, TopicUuid};
use crate::partition::journal::JournalSpec;
use crate::partition::{DiskGate, InFlight, PartitionRef, Pools};
use crate::server::{BrokerEnvironment, StartError};
use crate::topics::factory::{KnownEnds, PartitionFactory, TOPICS_DIR, random_u64, topic_dir};
use crate::topics::metadata::state::MetadataState;
use crate::topics::metadata::{
    MetadataLedger, MetadataOpenError, MetadataRepair, MetadataSpec, OpenedMetadata, ReleaseReserve,
};
use crate::topics::slot::Attention;
use crate::topics::{Producers, Topics};

/// Directory of the metadata log, relative to the data directory.
pub(super) const METADATA_DIR: &str = "meta";
/// The metadata log among the logs of a data directory.
pub(super) const METADATA: PartitionRef = PartitionRef { topic: TopicId(0), partition: PartitionId(0) };
/// Segments of the metadata log are sealed at this size; each snapshot begins one anyway.
const METADATA_SEGMENT_BYTES: u64 = 16 << 20;

impl Engine {
    /// Opens a data directory and begins to open its partitions, on threads of its own; those that are ready serve.
    /// Blocks, but not for the partitions: see [`Engine::wait_recovered`].
    ///
    /// # Errors
    /// See [`StartError`]; nothing has been changed then that a later start would miss.
    pub fn open(config: BrokerConfig, environment: BrokerEnvironment) -> Result<Arc<Self>, StartError> {
        config.check().map_err(|error| StartError::Config { option: error.option, what: error.what })?;
        let path = config.storage.data_dir.display().to_string();
        let refuse = |what: String| StartError::DataDir { path: path.clone(), what };
        let mut opening = Opening::begin(config, environment)?;
        let (checkpoints, ends) = opening.known_ends();
        let metadata = opening.open_metadata(&ends).map_err(|error| refuse(error.to_string()))?;
        opening.make_topics_dir().map_err(|error| refuse(format!("{TOPICS_DIR}: {error}")))?;
        let (metadata, metrics) = metadata;
        opening.assemble(metadata, metrics, Checkpoints::new(checkpoints, &ends), ends)
    }
}

/// After the stop, calls that still block are waited for so long.
const BLOCKING_GRACE: Duration = Duration::from_secs(1);

/// Takes the metadata log of a stopped broker back to its last good state (rule G6): for `sawlog segment repair`.
/// Blocks.
///
/// # Errors
/// [`StartError::DataDir`]: the directory is in use or not ours, or could not be written.
pub fn repair_metadata(config: BrokerConfig, environment: BrokerEnvironment) -> Result<MetadataRepair, StartError> {
    let path = config.storage.data_dir.display().to_string();
    let mut opening = Opening::begin(config, environment)?;
    let (_, ends) = opening.known_ends();
    let repaired = opening.open_metadata(&ends).map_err(|error| error.to_string());
    let repaired = repaired.and_then(|(opened, _)| opened.repair().map_err(|error| error.to_string()));
    repaired.map_err(|what| StartError::DataDir { path, what })
}

/// What is there before the engine is.
pub(super) struct Opening {
    config: BrokerConfig,
    pub(super) clock: Arc<dyn crate::clock::Clock>,
    pub(super) data_dir: Arc<DataDir>,
    log: Option<LogEnvironment>,
}

impl Opening {
    /// Locks the directory and takes its clean marker out.
    fn begin(config: BrokerConfig, environment: BrokerEnvironment) -> Result<Self, StartError> {
        let path = config.storage.data_dir.display().to_string();
        let refuse = |what: String| StartError::DataDir { path: path.clone(), what };
        let storage: Arc<dyn Storage> = match environment.storage {
            Some(storage) => storage,
            None => Arc::new(Disk::create(&config.storage.data_dir).map_err(|error| refuse(error.to_string()))?),
        };
        let options =
            DataDirOptions { new_uuid: uuid::Uuid::new_v4().into_bytes(), reserve_bytes: config.storage.reserve_bytes };
        let data_dir = DataDir::open(storage, options).map_err(|error| refuse(error.to_string()))?;
        for warning in data_dir.warnings() {
            tracing::warn!(warning, "data directory");
        }
        Ok(Self { config, clock: environment.clock, data_dir: Arc::new(data_dir), log: None })
    }

    /// What checkpoint and clean marker say of each log.
    fn known_ends(&self) -> (CheckpointFile, HashMap<PartitionRef, KnownEnds>) {
        let (file, mut ends) = Checkpoints::open(&self.data_dir);
        for end in self.data_dir.clean_marker().iter().flat_map(|marker| &marker.ends) {
            let reference = PartitionRef { topic: end.topic, partition: end.partition };
            let known = ends.entry(reference).or_default();
            known.proven_end = known.proven_end.max(end.end);
            known.clean_end = Some(end.end);
        }
        (file, ends)
    }

    /// The environment of all logs, with the directory and identity of the metadata log.
    pub(super) fn log_environment(&mut self) -> LogEnvironment {
        if let Some(log) = &self.log {
            return log.clone();
        }
        let identity = LogIdentity {
            data_dir: self.data_dir.uuid(),
            topic_uuid: TopicUuid([0; 16]),
            topic_id: METADATA.topic,
            partition: METADATA.partition,
        };
        let storage = Arc::clone(self.data_dir.storage());
        let mut log = LogEnvironment::new(storage, PathBuf::from(METADATA_DIR), identity, random_u64());
        log.settings = LogSettings {
            segment_bytes: METADATA_SEGMENT_BYTES,
            index_interval_bytes: 4_096,
            allocation_step_bytes: 0,
        };
        self.log = Some(log.clone());
        log
    }

    fn open_metadata(
        &mut self,
        ends: &HashMap<PartitionRef, KnownEnds>,
    ) -> Result<(OpenedMetadata, Arc<Metrics>), MetadataOpenError> {
        let metrics = Metrics::new(self.config.metrics.per_partition);
        let known = ends.get(&METADATA).copied().unwrap_or_default();
        let reserve = Arc::clone(&self.data_dir);
        let release: ReleaseReserve = Arc::new(move |bytes| reserve.release_reserve(bytes).unwrap_or(0));
        let journal = JournalSpec {
            log: self.log_environment(),
            proven_end: known.proven_end,
            clean_end: known.clean_end,
            may_create: self.is_empty(),
        };
        let spec = MetadataSpec {
            journal,
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(&metrics),
            release_reserve: Some(release),
        };
        OpenedMetadata::open(spec).map(|opened| (opened, metrics))
    }

    /// Whether there is nothing that a metadata log must have known.
    fn is_empty(&self) -> bool {
        let topics = self.data_dir.storage().list(Path::new(TOPICS_DIR));
        self.data_dir.is_new() || topics.is_ok_and(|entries| entries.is_empty()) || !self.has_topics_dir()
    }

    fn has_topics_dir(&self) -> bool {
        self.data_dir.storage().exists(Path::new(TOPICS_DIR)).unwrap_or(true)
    }

    fn make_topics_dir(&self) -> io::Result<()> {
        if self.has_topics_dir() {
            return Ok(());
        }
        let storage = self.data_dir.storage();
        storage.create_dir_all(Path::new(TOPICS_DIR))?;
        storage.sync_dir(Path::new(""))
    }

    fn assemble(
        mut self,
        opened: OpenedMetadata,
        metrics: Arc<Metrics>,
        checkpoints: Checkpoints,
        ends: HashMap<PartitionRef, KnownEnds>,
    ) -> Result<Arc<Engine>, StartError> {
        let log = self.log_environment();
        let state = opened.state().clone();
        let healthy = opened.read_only().is_none();
        let metadata = opened.start();
        let (runtime, threads) = start_runtime();
        let storage = &self.config.storage;
        let pools = Pools::new(storage.sync_threads, storage.read_threads);
        let attention = Arc::new(Attention::default());
        let gate = Arc::new(DiskGate::default());
        let factory = PartitionFactory {
            log,
            clock: Arc::clone(&self.clock),
            pools: Arc::clone(&pools),
            ledger: MetadataLedger::new(Arc::clone(&metadata)),
            producers: Producers::from_state(&state),
            disk: gate,
            metrics: Arc::clone(&metrics),
            attention: Arc::clone(&attention),
            status: Arc::clone(metadata.status()),
            event_ids: Arc::default(),
        };
        let topics = Arc::new(Topics::new(&state, metadata, factory, runtime.clone()));
        let source: Arc<dyn PartitionSource> = Arc::clone(&topics) as _;
        metrics.set_partition_source(Arc::downgrade(&source));
        if healthy {
            self.remove_leftovers(&state, &topics);
        }
        let journals = self.open_journals(&ends, &state, &metrics);
        let (coordinator, letters) = self.open_groups(&topics, &journals, &metrics, &runtime);
        let inside = Arc::new(Inside {
            journals,
            disk: Mutex::new(Some(self.disk_watch(&topics, &metrics))),
            checkpoints,
            data_dir: Mutex::new(Some(Arc::clone(&self.data_dir))),
            pools,
            attention,
            runtime,
            cancel: CancellationToken::new(),
            threads: Mutex::new(threads),
        });
        let engine = Arc::new(Engine {
            config: Arc::new(self.config),
            clock: self.clock,
            metrics,
            topics,
            letters,
            coordinator,
            in_flight: InFlight::new(limits::IN_FLIGHT_BYTES),
            state: watch::Sender::new(EngineState::Recovering),
            shared: inside,
        });
        let recovery = engine.start_recovery(state, ends);
        engine.shared.threads.lock().recovery = Some(recovery);
        Ok(engine)
    }

    /// The groups and their dead letters, which let nobody in before the partitions are open.
    fn open_groups(
        &self,
        topics: &Arc<Topics>,
        journals: &Arc<GroupJournals>,
        metrics: &Arc<Metrics>,
        runtime: &Handle,
    ) -> (Arc<Coordinator>, Arc<Letters>) {
        let letters = Letters::new(LettersParts {
            logs: Arc::clone(topics) as _,
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(metrics),
            runtime: runtime.clone(),
            lane_of: crate::coordinator::lane_key,
            #[cfg(any(test, feature = "testing"))]
            sabotage: crate::dead_letter::Sabotage::default(),
        });
        let coordinator = Coordinator::new(CoordinatorParts {
            journals: Arc::clone(journals),
            topics: Arc::clone(topics),
            clock: Arc::clone(&self.clock),
            metrics: Arc::clone(metrics),
            runtime: runtime.clone(),
        });
        coordinator.set_dead_letters(Arc::clone(&letters) as _);
        (coordinator, letters)
    }

    /// The watch over the disk, which has looked once: a start on a full disk refuses from the first request.
    fn disk_watch(&self, topics: &Topics, metrics: &Arc<Metrics>) -> DiskWatch {
        let gate = Arc::clone(&topics.factory().disk);
        let reserve = Arc::clone(&self.data_dir);
        let release = Arc::new(move |bytes| reserve.release_reserve(bytes).unwrap_or(0));
        gate.share_reserve(self.config.storage.reserve_bytes, release);
        let min_free = self.config.storage.min_free_bytes;
        let mut watch = DiskWatch::new(Arc::clone(&self.data_dir), gate, Arc::clone(metrics), min_free);
        watch.look();
        watch
    }

    /// Finishes deletions that a stop cut short (rule D7), and removes what creations left that never counted.
    fn remove_leftovers(&self, state: &MetadataState, topics: &Topics) {
        topics.resume_removals(state.removing());
        let storage = self.data_dir.storage();
        let entries = storage.list(Path::new(TOPICS_DIR)).unwrap_or_default();
        for entry in entries {
            let id = entry.name.parse().ok().filter(|_| entry.is_dir).map(TopicId);
            let Some(id) = id else {
                tracing::warn!(name = entry.name, "not ours in the topics directory; left alone");
                continue;
            };
            if state.topic(id).is_some() || state.removing().any(|removing| removing == id) {
                continue;
            }
            let cut_short = id >= state.next_topic() && has_no_frames(&**storage, id);
            let removed = cut_short && topics.factory().remove_files(id).is_ok();
            if !removed {
                tracing::warn!(topic = id.0, "files of a topic that the metadata log does not know; left alone");
                topics.skip_topic_ids(id);
            }
        }
    }
}

/// Whether no log of the topic has more than its header: then nothing was ever written to it.
fn has_no_frames(storage: &dyn Storage, topic: TopicId) -> bool {
    let empty = |dir: &Path| -> io::Result<bool> {
        for entry in storage.list(dir)? {
            if entry.name.ends_with(".log") {
                let file = storage.open(&dir.join(&entry.name), crate::log::storage::OpenMode::Read)?;
                if file.len()? > crate::log::format::SEGMENT_HEADER_BYTES as u64 {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    };
    let dir = topic_dir(topic);
    let Ok(partitions) = storage.list(&dir) else { return false };
    partitions.iter().all(|entry| entry.is_dir && empty(&dir.join(&entry.name)).unwrap_or(false))
}

/// The runtime of the engine's timers and tasks, on a thread of its own.
fn start_runtime() -> (Handle, Threads) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .thread_name("sawlog-engine-blocking")
        .max_blocking_threads(16)
        .build()
        .expect("a broker that gets no runtime cannot start");
    let handle = runtime.handle().clone();
    let (stop, stopped) = oneshot::channel();
    let thread = std::thread::Builder::new().name("sawlog-engine".into());
    let thread = thread.spawn(move || {
        // Ends on the message, and if the engine is gone.
        let _ = runtime.block_on(stopped);
        // What still blocks then is waited for no longer than this: the disk may be stuck.
        runtime.shutdown_timeout(BLOCKING_GRACE);
    });
    let thread = thread.expect("a broker that gets no thread cannot start");
    (handle, Threads { stop_runtime: Some(stop), runtime: Some(thread), ..Threads::default() })
}

/// Says where a log is known to end.
pub(super) fn known_end(ends: &HashMap<PartitionRef, KnownEnds>, reference: PartitionRef) -> KnownEnds {
    ends.get(&reference).copied().unwrap_or_default()
}
