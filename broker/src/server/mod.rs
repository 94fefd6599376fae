//! Joins everything: starts a broker, serves its port, stops it in a written order.

pub mod engine;

use std::net::SocketAddr;
use std::sync::Arc;

use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::log::storage::Storage;

/// What a broker gets from its surroundings; tests bring their own.
#[derive(Debug, Clone)]
pub struct BrokerEnvironment {
    /// Wall and monotonic time.
    pub clock: Arc<dyn Clock>,
    /// The files; `None`: the real disk at `storage.data_dir`.
    pub storage: Option<Arc<dyn Storage>>,
}

/// Why a broker did not start; each message says what to do.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A setting is not allowed.
    #[error("{option}: {what}")]
    Config {
        /// Name of the option.
        option: String,
        /// What is wrong and what is allowed.
        what: String,
    },
    /// The data directory is in use, of another program or version, or cannot be written (rules S1, S2, S6).
    #[error("{path}: {what}")]
    DataDir {
        /// The directory or file.
        path: String,
        /// What is wrong and what to do.
        what: String,
    },
    /// The port cannot be bound.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// A running broker. Dropped without [`Broker::shutdown`] it stops as if killed.
#[derive(Debug)]
pub struct Broker {}

impl Broker {
    /// Starts a broker on threads of its own and returns once it listens and has recovered. Blocks.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(_config: BrokerConfig, _environment: BrokerEnvironment) -> Result<Self, StartError> {
        todo!()
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        todo!()
    }

    /// Finishes requests in flight, syncs, writes the clean-shutdown marker (rule S5). Blocks for at most 10 s;
    /// returns whether the stop was clean.
    pub fn shutdown(self) -> bool {
        todo!()
    }
}
