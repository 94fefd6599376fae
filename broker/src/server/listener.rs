//! The one listener and the threads that serve what it accepts.
//!
//! Each thread runs a single-threaded runtime of its own; a socket is given to the one with the fewest and stays
//! there, so that its requests never change cores. Sockets come from a TCP listener or from any stream of them.
//!
//! Invariants: an accept error never ends the loop (rule F5); connections over the limit are closed at once; every
//! thread is joined, by [`Server::drain`] after what is open has ended, or by a drop at once.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_stream::{Stream, StreamExt as _};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::connection::{self, Entry};
use super::engine::{Engine, EngineState};
use super::health;
use super::windows::Windows;
use crate::config::TopicDefaults;
use crate::grpc::{ServiceParts, Services};
use crate::http::{self, HttpParts};
use crate::limits;
use crate::metrics::Metrics;
use crate::topics::{TopicConfig, Validation};

/// Sockets that wait for their thread.
const HAND_OVER: usize = 256;
/// Pause after a failed accept, doubling from the first to the second.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(5), Duration::from_secs(1));

/// A connection of any kind.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// An accepted connection.
pub enum Socket {
    /// A TCP socket; it joins the runtime of its thread.
    Tcp(std::net::TcpStream),
    /// Anything that carries bytes both ways.
    Other(Box<dyn Io>),
}

impl std::fmt::Debug for Socket {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Socket::Tcp",
            Self::Other(_) => "Socket::Other",
        })
    }
}

/// Where connections come from.
pub enum Accept {
    /// A listening TCP socket.
    Tcp(std::net::TcpListener),
    /// Any stream of sockets; its end ends nothing but accepting.
    Stream(Box<dyn Stream<Item = io::Result<Socket>> + Send + Unpin>),
}

impl std::fmt::Debug for Accept {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp(_) => "Accept::Tcp",
            Self::Stream(_) => "Accept::Stream",
        })
    }
}

/// The running threads.
#[derive(Debug)]
pub struct Server {
    address: Option<SocketAddr>,
    threads: Vec<JoinHandle<()>>,
    /// Begins the end: no more sockets, no more requests.
    draining: CancellationToken,
    /// Ends whatever is still open.
    killed: CancellationToken,
    open: Arc<OpenThreads>,
}

/// Threads that have not ended, and who waits for them.
#[derive(Debug)]
struct OpenThreads {
    count: Mutex<usize>,
    ended: Condvar,
}

impl Server {
    /// Serves what `accept` gives with the engine's topics, on `threads` threads; 0: one per core.
    ///
    /// # Errors
    /// The system gives no thread or no runtime, or does not take the listener.
    pub fn start(accept: Accept, engine: &Arc<Engine>, threads: usize) -> io::Result<Self> {
        let draining = CancellationToken::new();
        let services = Services::new(ServiceParts {
            topics: Arc::clone(engine.topics()),
            coordinator: Arc::clone(engine.coordinator()),
            letters: Arc::clone(engine.letters()),
            metrics: Arc::clone(engine.metrics()),
            clock: Arc::clone(engine.clock()),
            topic_defaults: default_config(&engine.config().topic_defaults),
            in_flight: engine.in_flight().clone(),
            auto_create_topics: engine.config().auto_create_topics,
            draining: draining.clone(),
        });
        let (system, keep_health) = health::services(engine.state());
        let (state, in_flight) = (engine.state(), engine.in_flight().clone());
        let http = http::router(HttpParts {
            metrics: Arc::clone(engine.metrics()),
            refresh: Arc::new(move |metrics| {
                metrics.in_flight_bytes.set(i64::try_from(in_flight.held()).unwrap_or(i64::MAX));
            }),
            gather: {
                let (coordinator, metrics) = (Arc::clone(engine.coordinator()), Arc::clone(engine.metrics()));
                Arc::new(move || {
                    let (coordinator, metrics) = (Arc::clone(&coordinator), Arc::clone(&metrics));
                    Box::pin(async move { metrics.set_group_samples(coordinator.samples().await) })
                })
            },
            serving: Arc::new(move || *state.borrow() == EngineState::Serving),
        });
        let watcher = services.clone();
        let jobs = async move { tokio::join!(keep_health, watcher.cut_slow_readers()) };
        let entry = Entry { services, system, http, draining: draining.clone() };
        Self::run(accept, entry, engine.metrics(), threads, draining, jobs)
    }

    fn run(
        accept: Accept,
        entry: Entry,
        metrics: &Arc<Metrics>,
        threads: usize,
        draining: CancellationToken,
        jobs: impl Future<Output = ((), ())> + Send + 'static,
    ) -> io::Result<Self> {
        let threads = match threads {
            0 => std::thread::available_parallelism().map_or(1, usize::from),
            threads => threads,
        };
        let address = match &accept {
            Accept::Tcp(listener) => Some(listener.local_addr()?),
            Accept::Stream(_) => None,
        };
        let killed = CancellationToken::new();
        let open = Arc::new(OpenThreads { count: Mutex::new(threads), ended: Condvar::new() });
        let windows = Windows::default();
        let (mut workers, mut inboxes) = (Vec::new(), Vec::new());
        for _ in 0..threads {
            let (send, inbox) = mpsc::channel(HAND_OVER);
            workers.push(Worker { send, open: Arc::default() });
            inboxes.push(inbox);
        }
        let dealer =
            Dealer { workers, places: Arc::new(Semaphore::new(limits::CONNECTIONS)), metrics: Arc::clone(metrics) };
        let mut first = Some((accept, dealer, jobs));
        let mut handles = Vec::new();
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            let thread = Thread {
                entry: entry.clone(),
                windows: windows.clone(),
                draining: draining.clone(),
                killed: killed.clone(),
            };
            let (first, open) = (first.take(), Arc::clone(&open));
            let name = format!("sawlog-serve-{index}");
            handles.push(std::thread::Builder::new().name(name).spawn(move || {
                runtime.block_on(async {
                    if let Some((accept, dealer, jobs)) = first {
                        let stop = thread.draining.clone();
                        tokio::spawn(async move { stop.run_until_cancelled(accept_all(accept, dealer)).await });
                        tokio::spawn(jobs);
                    }
                    thread.serve(inbox).await;
                });
                // Whatever was killed is dropped here, with the runtime.
                drop(runtime);
                *open.count.lock() -= 1;
                open.ended.notify_all();
            })?);
        }
        Ok(Self { address, threads: handles, draining, killed, open })
    }

    /// Where it listens, if on TCP.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Accepts nothing more, lets what is in flight end for at most `deadline`, then ends the rest. Blocks; returns
    /// whether everything ended by itself.
    pub fn drain(self, deadline: Duration) -> bool {
        self.draining.cancel();
        let mut open = self.open.count.lock();
        let all_ended = !self.open.ended.wait_while_for(&mut open, |open| *open > 0, deadline).timed_out();
        drop(open);
        // What is left ends with the drop.
        all_ended
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.draining.cancel();
        self.killed.cancel();
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                tracing::error!("a serving thread panicked");
            }
        }
    }
}

/// Settings of a topic whose creator says nothing.
fn default_config(defaults: &TopicDefaults) -> TopicConfig {
    TopicConfig {
        partitions: defaults.partitions,
        keyed: defaults.keyed,
        ack_floor: defaults.ack_floor(),
        validation: Validation::Full,
        retention_ms: u64::try_from(defaults.retention_ms).ok(),
        retention_bytes: u64::try_from(defaults.retention_bytes).ok(),
        segment_bytes: u64::try_from(defaults.segment_bytes).unwrap_or(0),
        segment_ms: u64::try_from(defaults.segment_ms).unwrap_or(0),
        max_record_bytes: limits::RECORD_BYTES_DEFAULT,
        flush_interval_ms: 1_000,
        holds: crate::topics::GroupHolds::default(),
        events: crate::topics::EventSettings::default(),
    }
}

/// What a thread knows.
struct Thread {
    entry: Entry,
    windows: Windows,
    draining: CancellationToken,
    killed: CancellationToken,
}

impl Thread {
    /// Serves what it is given until told to stop and until all of it has ended, or is killed.
    async fn serve(&self, mut inbox: mpsc::Receiver<(Socket, Place)>) {
        let open = TaskTracker::new();
        let served = async {
            loop {
                let next = tokio::select! {
                    next = inbox.recv() => next,
                    () = self.draining.cancelled() => None,
                };
                let Some((socket, place)) = next else { break };
                let (entry, windows, draining) = (self.entry.clone(), self.windows.clone(), self.draining.clone());
                open.spawn(async move {
                    let _place = place;
                    match socket {
                        Socket::Other(io) => connection::serve(io, entry, &windows, draining).await,
                        Socket::Tcp(stream) => match tokio::net::TcpStream::from_std(stream) {
                            Ok(stream) => connection::serve(stream, entry, &windows, draining).await,
                            Err(error) => tracing::warn!(%error, "a socket could not join its thread"),
                        },
                    }
                });
            }
            open.close();
            open.wait().await;
        };
        self.killed.run_until_cancelled(served).await;
    }
}

/// One thread, as the accepting task sees it.
struct Worker {
    send: mpsc::Sender<(Socket, Place)>,
    open: Arc<AtomicUsize>,
}

/// Gives sockets to threads.
struct Dealer {
    workers: Vec<Worker>,
    places: Arc<Semaphore>,
    metrics: Arc<Metrics>,
}

/// The place of an open connection, given back when dropped.
struct Place {
    open: Arc<AtomicUsize>,
    metrics: Arc<Metrics>,
    _permit: OwnedSemaphorePermit,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        self.metrics.connections.dec();
    }
}

impl Dealer {
    async fn deal(&self, socket: Socket) {
        self.metrics.accepted_connections.inc();
        let Ok(permit) = Arc::clone(&self.places).try_acquire_owned() else {
            self.metrics.refused_connections.inc();
            tracing::warn!(max = limits::CONNECTIONS, "a connection over the limit was closed");
            return;
        };
        let worker = self.workers.iter().min_by_key(|worker| worker.open.load(Ordering::Relaxed));
        let worker = worker.expect("there is at least one thread");
        worker.open.fetch_add(1, Ordering::Relaxed);
        self.metrics.connections.inc();
        let place = Place { open: Arc::clone(&worker.open), metrics: Arc::clone(&self.metrics), _permit: permit };
        // It fails only when the threads are ending, and the socket with them.
        let _ = worker.send.send((socket, place)).await;
    }
}

/// Accepts for ever; errors are waited out (rule F5).
async fn accept_all(accept: Accept, dealer: Dealer) {
    let mut sockets: Box<dyn Stream<Item = io::Result<Socket>> + Send + Unpin> = match accept {
        Accept::Stream(sockets) => sockets,
        Accept::Tcp(listener) => match TcpSockets::new(listener) {
            Ok(sockets) => Box::new(sockets),
            Err(error) => return tracing::error!(%error, "the listener could not join its runtime"),
        },
    };
    let mut pause = BACKOFF.0;
    while let Some(accepted) = sockets.next().await {
        match accepted {
            Ok(socket) => {
                pause = BACKOFF.0;
                dealer.deal(socket).await;
            }
            // One client gone before it was accepted says nothing of the next.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                tracing::warn!(%error, pause_ms = pause.as_millis(), "accept failed; too few file descriptors?");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(BACKOFF.1);
            }
        }
    }
}

/// The sockets of a TCP listener.
struct TcpSockets(tokio::net::TcpListener);

impl TcpSockets {
    fn new(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self(tokio::net::TcpListener::from_std(listener)?))
    }
}

impl Stream for TcpSockets {
    type Item = io::Result<Socket>;

    fn poll_next(self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<Option<io::Result<Socket>>> {
        self.0.poll_accept(task).map(|accepted| {
            Some(accepted.and_then(|(stream, _)| {
                // Without it a small answer waits for the last one's acknowledgement. It fails on a socket that is
                // dead already, which says nothing of the listener.
                let _ = stream.set_nodelay(true);
                stream.into_std().map(Socket::Tcp)
            }))
        })
    }
}

#[cfg(test)]
#[path = "listener_tests.rs"]
mod tests;
