//! The engine: an open data directory with its topics, and the jobs that keep it well.
//!
//! It owns the metadata log, the partitions and their jobs ([`jobs`]: checkpoint, retention, looks at partitions that
//! were appended to, scrub, disk space), and a thread with the runtime on which their timers run. It knows no socket
//! and no message; the services in `grpc` and `http` call it.
//!
//! Order of start: lock and `FORMAT`, checkpoint, metadata log, topics with empty places, the journals of the groups,
//! then the partitions, several at a time and each apart (rule F7), then the jobs. Order of stop: refuse appends and
//! changes, end the jobs, finish what outlives its caller, close the partitions, close the journals, close the metadata
//! log, write the clean marker (rules S3, S5).

mod checkpoints;
mod disk;
mod jobs;
mod journals;
mod open;
mod recovery;
mod stop;

use std::sync::Arc;

use parking_lot::Mutex;
use tokio::runtime::Handle;
use tokio::sync::{oneshot, watch};
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::coordinator::Coordinator;
use crate::dead_letter::Letters;
use crate::log::data_dir::DataDir;
use crate::metrics::Metrics;
use crate::partition::{InFlight, Pools};
use crate::topics::Topics;
use crate::topics::slot::Attention;

pub use open::repair_metadata;

/// What the broker can do at present; health answers by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EngineState {
    /// Partitions are being opened; those that are ready serve.
    Recovering,
    /// Every partition that can be opened is open.
    Serving,
    /// Shutting down: what is in flight is finished, nothing new is taken.
    Draining,
    /// All is closed.
    Stopped,
}

/// An open data directory.
#[derive(Debug)]
pub struct Engine {
    config: Arc<BrokerConfig>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    topics: Arc<Topics>,
    letters: Arc<Letters>,
    coordinator: Arc<Coordinator>,
    in_flight: InFlight,
    state: watch::Sender<EngineState>,
    shared: Arc<Inside>,
}

/// What the engine keeps for itself and its jobs.
#[derive(Debug)]
struct Inside {
    data_dir: Mutex<Option<Arc<DataDir>>>,
    pools: Arc<Pools>,
    attention: Arc<Attention>,
    checkpoints: checkpoints::Checkpoints,
    journals: Arc<crate::coordinator::journals::GroupJournals>,
    disk: Mutex<Option<disk::DiskWatch>>,
    runtime: Handle,
    cancel: CancellationToken,
    threads: Mutex<Threads>,
}

/// Threads and tasks to wait for, in the order in which they are awaited.
#[derive(Debug, Default)]
struct Threads {
    recovery: Option<std::thread::JoinHandle<()>>,
    jobs: Vec<(&'static str, tokio::task::JoinHandle<()>)>,
    stop_runtime: Option<oneshot::Sender<()>>,
    runtime: Option<std::thread::JoinHandle<()>>,
}

impl Engine {
    /// All topics.
    pub fn topics(&self) -> &Arc<Topics> {
        &self.topics
    }

    /// All consumer groups.
    pub fn coordinator(&self) -> &Arc<Coordinator> {
        &self.coordinator
    }

    /// The dead letters of all groups.
    pub fn letters(&self) -> &Arc<Letters> {
        &self.letters
    }

    /// All metrics.
    pub fn metrics(&self) -> &Arc<Metrics> {
        &self.metrics
    }

    /// Wall and monotonic time.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// The settings.
    pub fn config(&self) -> &Arc<BrokerConfig> {
        &self.config
    }

    /// Produce bytes in flight, of all connections; a connection takes a part of it.
    pub fn in_flight(&self) -> &InFlight {
        &self.in_flight
    }

    /// The state, and its changes.
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.state.subscribe()
    }

    /// Runs the retention of all partitions now, instead of at its next turn. Blocks.
    #[cfg(any(test, feature = "testing"))]
    pub fn run_retention_now(&self) {
        jobs::run_retention(&self.topics, &*self.clock, true);
    }

    /// The same while retention by age is suspended, because the wall clock stepped (rule F6). Blocks.
    #[cfg(any(test, feature = "testing"))]
    pub fn run_retention_suspended_now(&self) {
        jobs::run_retention(&self.topics, &*self.clock, false);
    }

    /// Looks at the disk now, instead of within a second, and does what follows from it. Blocks.
    #[cfg(any(test, feature = "testing"))]
    pub fn look_at_disk_now(&self) {
        let look = self.shared.look_at_disk();
        self.shared.runtime.block_on(jobs::after_disk_look(&self.topics, look, true));
    }

    /// Writes a checkpoint now, instead of at its next turn. Blocks.
    #[cfg(any(test, feature = "testing"))]
    pub fn run_checkpoint_now(&self) {
        self.shared.checkpoints.write(&self.topics, &self.shared.journals, &self.metrics);
    }
}

impl Inside {
    /// One look at the disk. Blocks.
    fn look_at_disk(&self) -> Option<disk::DiskLook> {
        self.disk.lock().as_mut()?.look()
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        // Without a shutdown: as if killed, but its threads end and the lock is free afterwards.
        self.abandon();
    }
}
