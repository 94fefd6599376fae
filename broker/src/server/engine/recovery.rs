//! Opening partitions: several at a time, each apart, so that none can stop another or the start (rule F7).

use std::collections::HashMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::JoinHandle;

use super::open::known_end;
use super::{Engine, EngineState, jobs};
use crate::metrics::Metrics;
use crate::model::PartitionId;
use crate::partition::PartitionRef;
use crate::topics::factory::{KnownEnds, PartitionFactory};
use crate::topics::in_parallel;
use crate::topics::metadata::state::{MetadataState, TopicMetadata};
use crate::topics::slot::PartitionSlot;

/// Partitions that are opened at the same time, per core: they wait for the device more than for the processor.
const PER_CORE: usize = 4;

impl Engine {
    /// Opens all partitions on a thread of its own, then starts the jobs.
    pub(super) fn start_recovery(
        self: &Arc<Self>,
        state: MetadataState,
        ends: HashMap<PartitionRef, KnownEnds>,
    ) -> JoinHandle<()> {
        let topics = Arc::clone(&self.topics);
        let metrics = Arc::clone(&self.metrics);
        let clock = Arc::clone(&self.clock);
        let config = Arc::clone(&self.config);
        let inside = Arc::clone(&self.shared);
        let shown = self.state.clone();
        let coordinator = Arc::clone(&self.coordinator);
        let thread = std::thread::Builder::new().name("sawlog-recovery".into());
        let thread = thread.spawn(move || {
            let recovery = Recovery { factory: topics.factory(), metrics: &metrics, state: &state, ends: &ends };
            let slots: Vec<Arc<PartitionSlot>> =
                topics.all().iter().flat_map(|topic| topic.slots().iter().cloned()).collect();
            let unopened: Vec<_> = slots.into_iter().filter(|slot| slot.partition().is_none()).collect();
            metrics.recovery_partitions.set(i64::try_from(unopened.len()).unwrap_or(i64::MAX));
            let cores = std::thread::available_parallelism().map_or(2, usize::from);
            in_parallel(cores * PER_CORE, &unopened, |slot| {
                if !inside.cancel.is_cancelled() {
                    recovery.open(slot);
                }
            });
            if inside.cancel.is_cancelled() {
                return;
            }
            // Every partition that can be opened is open: the groups are compared with them.
            inside.runtime.block_on(coordinator.start());
            jobs::start(&inside, &topics, &metrics, &clock, &config);
            shown.send_if_modified(|state| {
                let recovering = *state == EngineState::Recovering;
                if recovering {
                    *state = EngineState::Serving;
                }
                recovering
            });
        });
        thread.expect("a broker that gets no thread cannot start")
    }

    /// Waits until every partition that can be opened is open. Blocks.
    pub fn wait_recovered(&self) {
        let recovery = self.shared.threads.lock().recovery.take();
        if let Some(recovery) = recovery {
            // A panic of a partition has been caught there; of the thread, reported by the panic hook.
            let _ = recovery.join();
        }
    }
}

struct Recovery<'a> {
    factory: &'a PartitionFactory,
    metrics: &'a Metrics,
    state: &'a MetadataState,
    ends: &'a HashMap<PartitionRef, KnownEnds>,
}

impl Recovery<'_> {
    fn open(&self, slot: &Arc<PartitionSlot>) {
        let reference = slot.reference();
        let Some(topic) = self.state.topic(reference.topic) else {
            // Created after the state was copied, and open already.
            return;
        };
        let opened = catch_unwind(AssertUnwindSafe(|| self.try_open(slot, topic, reference.partition)));
        let failure = match opened {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error),
            Err(_) => Some("its recovery panicked".to_owned()),
        };
        if let Some(cause) = failure {
            let (name, partition) = (topic.name.as_str(), reference.partition.0);
            tracing::error!(topic = name, partition, cause, "a partition could not be opened and stays closed");
            slot.fail(&cause);
            self.factory.give_up_event_ids(reference);
        }
        self.metrics.recovery_partitions_done.inc();
    }

    fn try_open(&self, slot: &Arc<PartitionSlot>, topic: &TopicMetadata, partition: PartitionId) -> Result<(), String> {
        let ends = known_end(self.ends, slot.reference());
        let (opened, report) =
            self.factory.open(topic, partition, self.state.epoch(), ends).map_err(|error| error.to_string())?;
        self.metrics.recovery_scanned_bytes.inc_by(report.scanned_bytes);
        self.metrics.recovery_dropped_bytes.inc_by(report.dropped_bytes);
        if report.dropped_bytes > 0 || !report.quarantined.is_empty() || report.fenced.is_some() {
            tracing::warn!(
                topic = topic.name.as_str(),
                partition = partition.0,
                end = report.end.get(),
                dropped_bytes = report.dropped_bytes,
                damaged_ranges = report.quarantined.len(),
                fenced = report.fenced.as_deref(),
                "a partition was recovered with losses"
            );
        }
        slot.note_scanned(report.scanned_bytes);
        slot.fill(opened);
        Ok(())
    }
}
