//! Topics: create, look up, change, trim, delete; every change is durable in the metadata log before it is answered.
//!
//! State hangs on a topic's id; a topic made anew under an old name is another topic. Owns the list of topics and the
//! places of their partitions ([`slot`]); the metadata log decides and remembers ([`metadata`]). It must not know
//! requests, messages or sockets.
//!
//! Invariants: what [`Topics::get`] finds is durable; files of a topic are made before its record and removed after
//! the record of its deletion (rule D7); a call that its caller drops is finished all the same (rule D8).

mod change;
mod create;
pub mod dead_letter;
mod delete;
mod error;
pub mod event_ids;
pub mod factory;
mod holds;
pub mod metadata;
mod producers;
pub mod retention;
mod settings;
pub mod slot;
mod topic;
mod trim;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use parking_lot::RwLock;
use tokio_util::task::TaskTracker;

use crate::metrics::{EventIdsSample, PartitionSample, PartitionSource};
use crate::model::{GroupId, TopicId, TopicName, TopicUuid};
use crate::partition::{PartitionLog, PartitionState};

use self::factory::PartitionFactory;
use self::metadata::MetadataLog;
use self::metadata::state::MetadataState;

pub(crate) use create::in_parallel;
pub use dead_letter::{DeadLettersOf, DeletionGuard, NewDeadLetterTopic, Reservation};
pub use error::TopicError;
pub use event_ids::{DedupWindow, EventAck, EventIdsStatus, EventSettings};
pub use holds::{GroupHolds, RetentionHolds};
pub use producers::Producers;
pub use settings::{TopicConfig, TopicNotes, TopicRevision, TopicUpdate, Validation};
pub use topic::{NewTopic, Topic};

/// All topics: maps to find one by name, by id and by whose dead letters it holds, and one to list.
#[derive(Debug, Default)]
struct TopicMap {
    by_name: HashMap<TopicName, Arc<Topic>>,
    by_uuid: HashMap<TopicUuid, Arc<Topic>>,
    in_order: BTreeMap<TopicName, Arc<Topic>>,
    dead_letters: BTreeMap<(TopicUuid, GroupId), Arc<Topic>>,
}

impl TopicMap {
    fn insert(&mut self, topic: Arc<Topic>) {
        self.by_name.insert(topic.name.clone(), Arc::clone(&topic));
        self.by_uuid.insert(topic.uuid, Arc::clone(&topic));
        if let Some(of) = &topic.dead_letters {
            self.dead_letters.insert((of.source, of.group), Arc::clone(&topic));
        }
        self.in_order.insert(topic.name.clone(), topic);
    }

    fn remove(&mut self, name: &str) -> Option<Arc<Topic>> {
        self.in_order.remove(name);
        let topic = self.by_name.remove(name)?;
        self.by_uuid.remove(&topic.uuid);
        if let Some(of) = &topic.dead_letters {
            self.dead_letters.remove(&(of.source, of.group));
        }
        Some(topic)
    }
}

/// All topics of a broker.
#[derive(Debug)]
pub struct Topics {
    shared: Arc<Shared>,
}

/// What tasks that outlive a call need.
#[derive(Debug)]
struct Shared {
    map: RwLock<TopicMap>,
    metadata: Arc<MetadataLog>,
    factory: PartitionFactory,
    next_topic: AtomicU64,
    runtime: tokio::runtime::Handle,
    tasks: TaskTracker,
    draining: AtomicBool,
    created: tokio::sync::Notify,
    /// Who knows what would be lost with a topic (rule RE-10).
    guard: RwLock<Option<Arc<dyn DeletionGuard>>>,
    /// Who knows what groups need (rules RE-2, DL-4).
    holds: holds::Holds,
}

impl Topics {
    /// The topics of a metadata log, with empty slots for their partitions.
    ///
    /// `runtime` runs what outlives its caller.
    pub fn new(
        state: &MetadataState,
        metadata: Arc<MetadataLog>,
        factory: PartitionFactory,
        runtime: tokio::runtime::Handle,
    ) -> Self {
        let mut map = TopicMap::default();
        for topic in state.topics() {
            let slots = topic.partitions.iter().enumerate().map(|(partition, known)| {
                let partition = u32::try_from(partition).expect("a topic has at most 1,024 partitions");
                let slot = factory.slot(topic.id, crate::model::PartitionId(partition), state.epoch());
                slot.note_trim(known.trimmed);
                slot
            });
            map.insert(Topic::new(topic, slots.collect(), factory.event_ids(topic)));
        }
        let shared = Shared {
            map: RwLock::new(map),
            metadata,
            factory,
            next_topic: AtomicU64::new(state.next_topic().0),
            runtime,
            tasks: TaskTracker::new(),
            draining: AtomicBool::new(false),
            created: tokio::sync::Notify::new(),
            guard: RwLock::new(None),
            holds: holds::Holds::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// A topic by its name. A look-up in memory, for the hot path.
    pub fn get(&self, name: &str) -> Option<Arc<Topic>> {
        self.shared.map.read().by_name.get(name).cloned()
    }

    /// A topic by its id: what state hangs on. A look-up in memory.
    pub fn by_uuid(&self, uuid: TopicUuid) -> Option<Arc<Topic>> {
        self.shared.map.read().by_uuid.get(&uuid).cloned()
    }

    /// Notified when a topic was created; for one who waits.
    pub fn created(&self) -> &tokio::sync::Notify {
        &self.shared.created
    }

    /// Up to `limit` topics in order of their names, after `after`, with this prefix.
    pub fn list(&self, after: Option<&str>, prefix: &str, limit: usize) -> Vec<Arc<Topic>> {
        let map = self.shared.map.read();
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let range = map.in_order.range::<str, _>((from, Bound::Unbounded));
        let matching = range.take_while(|(name, _)| name.as_str().starts_with(prefix));
        matching.take(limit).map(|(_, topic)| Arc::clone(topic)).collect()
    }

    /// All topics, in order of their names.
    pub fn all(&self) -> Vec<Arc<Topic>> {
        self.shared.map.read().in_order.values().cloned().collect()
    }

    /// Why nothing can be changed or appended, if so (rules F1, G6).
    pub fn read_only(&self) -> Option<Arc<str>> {
        self.shared.metadata.status().read_only()
    }

    /// The metadata log.
    pub fn metadata(&self) -> &Arc<MetadataLog> {
        &self.shared.metadata
    }

    /// What opens partitions.
    pub fn factory(&self) -> &PartitionFactory {
        &self.shared.factory
    }

    /// Registers a producer: its id and epoch (rule PR-7). An empty name gets a new id.
    ///
    /// # Errors
    /// [`TopicError::Field`] for a bad name, [`TopicError::Limit`] if there are too many, [`TopicError::ReadOnly`].
    pub async fn init_producer(&self, name: &str) -> Result<(i64, i16), TopicError> {
        let shared = &self.shared;
        shared.check_writable()?;
        shared.factory.producers.register(&shared.metadata, name).await
    }

    /// What to call a producer: its name, or its id if it has none.
    pub fn producer_name(&self, producer_id: i64) -> String {
        self.shared.factory.producers.name_of(producer_id)
    }

    /// Never gives this topic number, or one below it: files that nobody knows lie there.
    pub fn skip_topic_ids(&self, taken: TopicId) {
        self.shared.next_topic.fetch_max(taken.0.saturating_add(1), Ordering::Relaxed);
    }

    /// Refuses appends and changes from now on; those under way are finished.
    pub fn begin_shutdown(&self) {
        self.shared.draining.store(true, Ordering::SeqCst);
        self.shared.tasks.close();
        for slot in self.all().iter().flat_map(|topic| topic.slots()) {
            if let Some(partition) = slot.partition() {
                partition.begin_shutdown();
            }
        }
    }

    /// Waits for everything that outlives its caller: creations, deletions, trims. After [`Topics::begin_shutdown`].
    pub async fn finish_tasks(&self) {
        self.shared.tasks.wait().await;
    }
}

impl Shared {
    fn check_writable(&self) -> Result<(), TopicError> {
        if self.draining.load(Ordering::SeqCst) {
            return Err(TopicError::ShuttingDown);
        }
        match self.metadata.status().read_only() {
            Some(cause) => Err(TopicError::ReadOnly { cause: cause.to_string() }),
            None => Ok(()),
        }
    }

    fn find(&self, name: &str) -> Result<Arc<Topic>, TopicError> {
        let found = self.map.read().by_name.get(name).cloned();
        found.ok_or_else(|| TopicError::NotFound { name: name.to_owned() })
    }

    /// Runs a call to its end, whether or not its caller waits (rule D8).
    async fn to_the_end<T: Send + 'static>(
        &self,
        call: impl Future<Output = Result<T, TopicError>> + Send + 'static,
    ) -> Result<T, TopicError> {
        let task = self.tasks.spawn_on(call, &self.runtime);
        match task.await {
            Ok(result) => result,
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(TopicError::ShuttingDown),
        }
    }

    /// Runs `work` on a thread that may block.
    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, TopicError> {
        match self.runtime.spawn_blocking(work).await {
            Ok(result) => Ok(result),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(TopicError::ShuttingDown),
        }
    }

    /// Number of a topic that is being made; never given again in this run. After a crash, what was made under it is
    /// removed before it is given again.
    fn take_topic_id(&self) -> TopicId {
        TopicId(self.next_topic.fetch_add(1, Ordering::Relaxed))
    }
}

impl PartitionSource for Topics {
    fn visit(&self, visit: &mut dyn FnMut(PartitionSample<'_>)) {
        for topic in self.all() {
            for slot in topic.slots() {
                let status = slot.status();
                visit(PartitionSample {
                    topic: topic.name.as_str(),
                    partition: slot.reference().partition.0,
                    log_start: status.log_start.get(),
                    high_watermark: status.high_watermark.get(),
                    log_end: status.log_end.get(),
                    size_bytes: status.size_bytes,
                    fenced: matches!(status.state, PartitionState::Fenced(_)),
                    degraded: matches!(status.state, PartitionState::Degraded(_)),
                    recovering: matches!(status.state, PartitionState::Recovering),
                });
            }
        }
    }

    fn visit_event_ids(&self, visit: &mut dyn FnMut(&str, EventIdsSample)) {
        for topic in self.all().iter().filter(|topic| topic.event_ids().is_active()) {
            let status = topic.event_ids().status();
            let span_seconds = status.span_ms.map_or(f64::INFINITY, |ms| ms as f64 / 1_000.0);
            let (ids, repeats, conflicts) = (status.ids as u64, status.repeats, status.conflicts);
            visit(topic.name.as_str(), EventIdsSample { ids, span_seconds, repeats, conflicts });
        }
    }
}
