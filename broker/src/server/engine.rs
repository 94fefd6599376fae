//! The engine: an open data directory with its topics, and the jobs that keep it well.
//!
//! It owns the metadata log, the partitions and their jobs (checkpoint, retention, mark frames, flush, scrub, disk
//! space). It knows no socket and no message; the services in `grpc` and `http` call it.

use std::sync::Arc;

use tokio::sync::watch;

use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::metrics::Metrics;
use crate::topics::Topics;

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
    state: watch::Sender<EngineState>,
}

impl Engine {
    /// All topics.
    pub fn topics(&self) -> &Arc<Topics> {
        &self.topics
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

    /// The state, and its changes.
    pub fn state(&self) -> watch::Receiver<EngineState> {
        self.state.subscribe()
    }
}
