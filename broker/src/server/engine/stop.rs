//! Stopping an engine: cleanly within 10 seconds (rule S5), or as if killed.

use std::sync::Arc;
use std::time::Duration;

use super::open::METADATA;
use super::{Engine, EngineState};
use crate::log::data_dir::{CleanEnd, CleanMarker};
use crate::model::Offset;
use crate::partition::{PartitionRef, Ticket};

/// Time for a clean stop.
const STOP_TIME: Duration = Duration::from_secs(10);

impl Engine {
    /// Takes nothing new from now on; what is in flight is finished.
    pub fn begin_shutdown(&self) {
        self.state.send_replace(EngineState::Draining);
        self.coordinator.begin_shutdown();
        self.topics.begin_shutdown();
    }

    /// Finishes what is in flight, marks and syncs the partitions, writes the clean marker (rule S5). Blocks for at
    /// most about 10 s; returns whether the stop was clean. Without the marker the next start recovers as after a
    /// crash, and nothing is lost.
    pub fn shutdown(&self) -> bool {
        self.begin_shutdown();
        let runtime = self.shared.runtime.clone();
        // On a thread of its own, so that it may be called from a runtime too.
        let clean = std::thread::scope(|scope| {
            let stop = || runtime.block_on(async { tokio::time::timeout(STOP_TIME, self.stop()).await });
            scope.spawn(stop).join()
        });
        let clean = matches!(clean, Ok(Ok(true)));
        if !clean {
            tracing::warn!("stopped without the clean-shutdown marker: the next start recovers");
        }
        self.abandon();
        clean
    }

    /// The steps of a clean stop, in their order.
    async fn stop(&self) -> bool {
        self.shared.cancel.cancel();
        let recovery = self.shared.threads.lock().recovery.take();
        if let Some(recovery) = recovery {
            let joined = tokio::task::spawn_blocking(move || recovery.join().is_ok());
            if !joined.await.unwrap_or(false) {
                return false;
            }
        }
        let jobs = std::mem::take(&mut self.shared.threads.lock().jobs);
        for (name, job) in jobs {
            if let Err(error) = job.await {
                tracing::error!(job = name, %error, "a job ended badly");
            }
        }
        self.coordinator.stop().await;
        self.topics.finish_tasks().await;
        let mut ends = self.close_partitions().await;
        ends.extend(self.close_journals().await);
        let metadata = Arc::clone(self.topics.metadata());
        let closed = tokio::task::spawn_blocking(move || metadata.close()).await;
        let Ok(Some(end)) = closed else { return false };
        ends.push(CleanEnd { topic: METADATA.topic, partition: METADATA.partition, end });
        let data_dir = self.shared.data_dir.lock().clone();
        let Some(data_dir) = data_dir else { return false };
        let written = tokio::task::spawn_blocking(move || data_dir.write_clean_marker(CleanMarker { ends })).await;
        match written {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::error!(%error, "the clean-shutdown marker could not be written");
                false
            }
            Err(_) => false,
        }
    }

    /// Closes all partitions at once; those that are not well are left out of the marker.
    async fn close_partitions(&self) -> Vec<CleanEnd> {
        type Closing = (PartitionRef, Ticket<Result<Offset, crate::partition::AppendFailure>>);
        let topics = self.topics.all();
        let slots = topics.iter().flat_map(|topic| topic.slots());
        let closing: Vec<Closing> =
            slots.filter_map(|slot| Some((slot.reference(), slot.partition()?.close()))).collect();
        let mut ends = Vec::with_capacity(closing.len());
        for (reference, ticket) in closing {
            let (topic, partition) = (reference.topic, reference.partition);
            match ticket.await {
                Ok(end) => ends.push(CleanEnd { topic, partition, end }),
                Err(error) => {
                    tracing::warn!(topic = topic.0, partition = partition.0, %error, "a partition was not closed cleanly");
                }
            }
        }
        ends
    }

    /// Ends every thread, writes nothing more, and lets go of the directory. Does nothing the second time.
    pub(super) fn abandon(&self) {
        self.shared.cancel.cancel();
        self.coordinator.abandon();
        self.topics.begin_shutdown();
        let (recovery, stop, runtime) = {
            let mut threads = self.shared.threads.lock();
            threads.jobs.clear();
            (threads.recovery.take(), threads.stop_runtime.take(), threads.runtime.take())
        };
        let own = std::thread::current().id();
        let join = |thread: Option<std::thread::JoinHandle<()>>| {
            if let Some(thread) = thread.filter(|thread| thread.thread().id() != own) {
                // A panic has been reported by the panic hook.
                let _ = thread.join();
            }
        };
        join(recovery);
        if let Some(stop) = stop {
            // The thread may have ended already.
            let _ = stop.send(());
        }
        join(runtime);
        self.shared.journals.abandon();
        self.topics.metadata().abandon();
        self.shared.pools.stop();
        self.shared.attention.take();
        self.shared.disk.lock().take();
        self.shared.checkpoints.release();
        self.shared.data_dir.lock().take();
        self.state.send_replace(EngineState::Stopped);
    }
}
