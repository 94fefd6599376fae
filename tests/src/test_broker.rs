//! The real engine in this process, on a temporary folder and port 0 of 127.0.0.1.
//!
//! It owns the broker, its folder and its environment (clock, storage), which outlive a restart. It must not know the
//! command line. The folder is gone when the [`TestBroker`] is dropped.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use sawlog_broker::clock::{Clock, SystemClock};
use sawlog_broker::config::BrokerConfig;
use sawlog_broker::log::storage::Storage;
use sawlog_broker::server::{Broker, BrokerEnvironment, StartError};
use sawlog_client::Client;
use tempfile::TempDir;

/// A running broker of a test.
#[derive(Debug)]
pub struct TestBroker {
    broker: Option<Broker>,
    config: BrokerConfig,
    environment: BrokerEnvironment,
    folder: Arc<TempDir>,
}

/// Chooses settings and surroundings of a [`TestBroker`].
#[derive(Debug)]
pub struct TestBrokerBuilder {
    config: BrokerConfig,
    clock: Arc<dyn Clock>,
    storage: Option<Arc<dyn Storage>>,
}

impl Default for TestBrokerBuilder {
    fn default() -> Self {
        let mut config = BrokerConfig {
            listen: ([127, 0, 0, 1], 0).into(),
            // Two are enough for a test, and many tests run at once.
            server_threads: 2,
            ..BrokerConfig::default()
        };
        config.storage.sync_threads = 4;
        config.storage.read_threads = 2;
        // A test's disk may be nearly full; what it writes is small.
        config.storage.min_free_bytes = 1 << 20;
        config.storage.reserve_bytes = 1 << 20;
        Self { config, clock: Arc::new(SystemClock::new()), storage: None }
    }
}

impl TestBrokerBuilder {
    /// Changes settings. Address and folder are set by the test broker itself.
    pub fn config(mut self, change: impl FnOnce(&mut BrokerConfig)) -> Self {
        change(&mut self.config);
        self
    }

    /// With this clock, such as a `ManualClock`.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// With these files in place of the disk's: a wrapper that fails calls, or the simulated disk.
    pub fn storage(mut self, storage: Arc<dyn Storage>) -> Self {
        self.storage = Some(storage);
        self
    }

    /// Starts the broker.
    ///
    /// # Errors
    /// As the broker's own start.
    pub async fn try_start(mut self) -> Result<TestBroker, StartError> {
        let folder = Arc::new(tempfile::tempdir().expect("a temporary folder can be made"));
        self.config.storage.data_dir = folder.path().join("data");
        let environment = BrokerEnvironment { clock: self.clock, storage: self.storage };
        let mut broker = TestBroker { broker: None, config: self.config, environment, folder };
        broker.try_restart().await?;
        Ok(broker)
    }

    /// Starts the broker.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start(self) -> TestBroker {
        self.try_start().await.expect("the test broker starts")
    }
}

impl TestBroker {
    /// A broker with default settings on a new folder.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        Self::builder().start().await
    }

    /// Chooses settings and surroundings.
    pub fn builder() -> TestBrokerBuilder {
        TestBrokerBuilder::default()
    }

    /// Where it listens, such as `http://127.0.0.1:41234`. The same after a restart.
    ///
    /// # Panics
    /// If it is stopped.
    pub fn url(&self) -> String {
        format!("http://{}", self.running().local_addr())
    }

    /// A new client of it.
    ///
    /// # Panics
    /// If it is stopped.
    pub fn client(&self) -> Client {
        Client::builder(self.url()).connect_lazy().expect("the address of a socket is a URL")
    }

    /// Its data directory.
    pub fn data_dir(&self) -> &Path {
        &self.config.storage.data_dir
    }

    /// Changes the settings that the next start takes.
    pub fn reconfigure(&mut self, change: impl FnOnce(&mut BrokerConfig)) {
        change(&mut self.config);
    }

    /// Puts other files in place of those it had, such as what a simulated disk kept over a loss of power. The next
    /// start takes them.
    pub fn replace_storage(&mut self, storage: Arc<dyn Storage>) {
        self.environment.storage = Some(storage);
    }

    /// Stops it in order; the folder stays. Returns whether the stop was clean. Stopped already: true.
    pub async fn stop(&mut self) -> bool {
        match self.broker.take() {
            Some(broker) => blocking(move || broker.shutdown()).await,
            None => true,
        }
    }

    /// Stops it in order and ends it; returns whether the stop was clean.
    pub async fn shutdown(mut self) -> bool {
        self.stop().await
    }

    /// Ends it as a kill would as far as that is possible inside a process: no request is finished, nothing is synced,
    /// no marker is written.
    pub async fn kill(&mut self) {
        if let Some(broker) = self.broker.take() {
            blocking(move || drop(broker)).await;
        }
    }

    /// Starts it again on the same folder and port, after [`TestBroker::stop`] or [`TestBroker::kill`]; one that runs
    /// is stopped in order first.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn restart(&mut self) {
        self.try_restart().await.expect("the test broker starts again");
    }

    /// The same, with the reason if it does not start.
    ///
    /// # Errors
    /// As the broker's own start.
    pub async fn try_restart(&mut self) -> Result<(), StartError> {
        self.stop().await;
        let (config, environment) = (self.config.clone(), self.environment.clone());
        let broker = blocking(move || Broker::start(config, environment)).await?;
        // The next start takes the same port, so that clients find it again.
        self.config.listen = broker.local_addr();
        self.broker = Some(broker);
        Ok(())
    }

    /// Gives groups their turn after a clock was turned by hand: their timers count real time.
    ///
    /// # Panics
    /// If it is stopped.
    pub fn turn_timers(&self) {
        self.running().engine().coordinator().turn_timers();
    }

    /// A place in its temporary folder, beside the data directory.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn running(&self) -> &Broker {
        self.broker.as_ref().expect("the test broker runs")
    }
}

impl Drop for TestBroker {
    fn drop(&mut self) {
        // Dropping a broker joins its threads, which is not allowed inside a runtime's own thread in every case: a
        // thread of its own does it, and the folder stays until it is done.
        if let Some(broker) = self.broker.take() {
            let folder = Arc::clone(&self.folder);
            std::thread::spawn(move || {
                drop(broker);
                drop(folder);
            });
        }
    }
}

async fn blocking<T: Send + 'static>(call: impl FnOnce() -> T + Send + 'static) -> T {
    tokio::task::spawn_blocking(call).await.expect("the call does not panic")
}
