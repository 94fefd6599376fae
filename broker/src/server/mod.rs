//! Joins everything: starts a broker, serves its port, stops it in a written order.

mod connection;
pub mod engine;
mod health;
pub mod listener;
mod windows;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use socket2::{Domain, Protocol, Socket, Type};

use self::engine::Engine;
use self::listener::{Accept, Server};

use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::log::storage::Storage;

/// Time for requests in flight to end by themselves at a stop.
const DRAIN_TIME: Duration = Duration::from_secs(5);
/// Connections that wait to be accepted.
const BACKLOG: i32 = 1_024;

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
pub struct Broker {
    // In this order they go when it is dropped: nothing is served by an engine that is closed.
    server: Option<Server>,
    engine: Arc<Engine>,
    address: SocketAddr,
}

impl Broker {
    /// Starts a broker on threads of its own and returns once it listens and has recovered. Blocks.
    ///
    /// It listens before it has recovered: health says so, and what is open already is served.
    ///
    /// # Errors
    /// See [`StartError`].
    pub fn start(config: BrokerConfig, environment: BrokerEnvironment) -> Result<Self, StartError> {
        config.check().map_err(|error| StartError::Config { option: error.option, what: error.what })?;
        // First the port: a start that cannot have it leaves the data directory alone.
        let (address, threads) = (config.listen, config.server_threads);
        let listen = |source| StartError::Listen { address, source };
        let listener = bind(address).map_err(listen)?;
        let engine = Engine::open(config, environment)?;
        let server = Server::start(Accept::Tcp(listener), &engine, threads).map_err(listen)?;
        let address = server.local_addr().unwrap_or(address);
        let broker = Self { server: Some(server), engine, address };
        broker.engine.wait_recovered();
        tracing::info!(%address, "serving");
        Ok(broker)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// The engine: its topics, metrics and state.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Finishes requests in flight, syncs, writes the clean-shutdown marker (rule S5). Blocks for at most about 10 s;
    /// returns whether the stop was clean.
    pub fn shutdown(mut self) -> bool {
        tracing::info!("stopping");
        self.engine.begin_shutdown();
        let drained = self.server.take().is_none_or(|server| server.drain(DRAIN_TIME));
        if !drained {
            tracing::warn!("requests were still open when the time to finish them was over");
        }
        self.engine.shutdown()
    }
}

/// A listening socket. Not shared: a second broker must not bind the same port unnoticed.
fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // A port whose last connections are still in TIME_WAIT is free; one that somebody listens on is not.
    socket.set_reuse_address(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}
