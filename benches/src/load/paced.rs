//! A replay at a rate beside live work: what it keeps to, and what producers notice of it.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use sawlog_client::consumer::{BatchEvent, Consumer, ConsumerEvent};
use sawlog_client::groups::{GroupConfig, GroupMode};
use sawlog_client::producer::{Receipt, RecordRef, TrySendError};
use sawlog_client::replays::{NewReplay, Replay, ReplayInto, ReplayRate};
use sawlog_client::{Client, Error};
use tokio::sync::{mpsc, oneshot};

use super::client::{LatencyLoad, Throughput};
use super::groups::join;
use crate::stats::Latencies;
use crate::timing::{Pacer, Stopwatch, pause};

/// How long a replay may take to end its group.
const PATIENCE: Duration = Duration::from_secs(30);

/// Sends at a fixed rate; the time of a record is from when it was due to when its acknowledgement is here. Answers the
/// times after the warm-up. For a multi-threaded runtime.
///
/// # Errors
/// The topic is refused, or a record is not acknowledged.
pub async fn produce_latency(url: &str, load: &LatencyLoad) -> Result<Latencies, Error> {
    let client = Client::builder(url).connect_lazy()?;
    let producer = client.producer(load.topic.as_str()).linger(Duration::ZERO).build().await?;
    let clock = Stopwatch::start();
    let total = u64::from(load.per_second) * (load.warm_up + load.duration).as_millis() as u64 / 1_000;
    let (per_second, record_bytes) = (load.per_second, load.record_bytes);
    let (sent, mut sending) = mpsc::unbounded_channel::<(u64, Receipt)>();
    let pacing = producer.clone();
    let pacer = std::thread::spawn(move || {
        let mut pacer = Pacer::new(clock, per_second);
        let value = super::payload(record_bytes);
        for _ in 0..total {
            let due = pacer.next_due();
            match pacing.try_send(RecordRef { value: Some(&value), ..RecordRef::default() }) {
                Ok(receipt) => drop(sent.send((due, receipt))),
                Err(TrySendError::Refused(error)) => return Err(error),
                // 32 MiB are buffered: the server has stopped, and the run ends with what it has.
                Err(TrySendError::Full) => break,
            }
        }
        Ok(())
    });
    let warm_up = u64::try_from(load.warm_up.as_nanos()).unwrap_or(u64::MAX);
    let mut latencies = Latencies::default();
    while let Some((due, receipt)) = sending.recv().await {
        receipt.await?;
        if due >= warm_up {
            latencies.record_ns(clock.nanos().saturating_sub(due));
        }
    }
    pacer.join().expect("the pacer does not panic")?;
    producer.close().await?;
    Ok(latencies)
}

/// A replay of all of a topic into a group of its own, and the one member that takes it.
#[derive(Debug)]
pub struct PacedReplay {
    client: Client,
    replay: Replay,
    consumer: Consumer,
}

impl PacedReplay {
    /// Starts it, at most so many records a second, or as fast as they are taken, and waits for the first of them.
    ///
    /// # Errors
    /// The replay is refused, or its session cannot go on.
    pub async fn start(url: &str, topic: &str, rate: Option<u64>) -> Result<Self, Error> {
        let client = Client::builder(url).connect_lazy()?;
        let into = ReplayInto::Ephemeral(Box::new(GroupConfig::default().mode(GroupMode::Offset)));
        let replay = NewReplay { rate: rate.map(ReplayRate::Records), ..NewReplay::new(topic, into) };
        let replay = client.replays().start(replay).await?;
        let consumer = join(&client, &replay.group).await?;
        let mut started = Self { client, replay, consumer };
        while matches!(started.take().await?, Some(0)) {}
        Ok(started)
    }

    /// Records of the next batch, each looked at; `None`: it has ended.
    async fn take(&mut self) -> Result<Option<u64>, Error> {
        let Some(event) = self.consumer.next_batch().await else { return Ok(None) };
        match event? {
            BatchEvent::Batch(batch) => {
                let mut bytes = 0;
                let records = batch.for_each(|record| bytes += record.value.map_or(0, <[u8]>::len))?;
                black_box(bytes);
                self.consumer.commit_batch_later(&batch);
                Ok(Some(records as u64))
            }
            BatchEvent::Event(ConsumerEvent::ReplayDone { source: None, .. }) => Ok(None),
            BatchEvent::Event(_) => Ok(Some(0)),
        }
    }

    /// Takes all that is left.
    ///
    /// # Errors
    /// The session cannot go on.
    pub async fn finish(mut self) -> Result<Throughput, Error> {
        let clock = Stopwatch::start();
        let mut done = Throughput::default();
        while let Some(records) = self.take().await? {
            done.records += records;
        }
        done.seconds = clock.seconds();
        self.consumer.shutdown(PATIENCE).await?;
        Ok(done)
    }

    /// Takes what comes until told to stop, then cancels the replay. Answers what came; nothing if the replay ended first.
    async fn until(mut self, mut stop: oneshot::Receiver<()>) -> Result<Option<Throughput>, Error> {
        let clock = Stopwatch::start();
        let mut done = Throughput::default();
        loop {
            tokio::select! {
                // A sender that is gone says the same.
                _ = &mut stop => break,
                taken = self.take() => match taken? {
                    Some(records) => done.records += records,
                    None => return Ok(None),
                },
            }
        }
        done.seconds = clock.seconds();
        self.client.replays().cancel(&self.replay.replay_id).await?;
        self.consumer.shutdown(PATIENCE).await?;
        Ok(Some(done))
    }
}

/// A replay whose member has a thread and a runtime of its own, as it would have a process of its own: what it does with
/// records delays no other client's work but by the processor time that it takes.
#[derive(Debug)]
pub struct ReplayBeside {
    stop: oneshot::Sender<()>,
    thread: std::thread::JoinHandle<Result<Option<Throughput>, Error>>,
}

impl ReplayBeside {
    /// As [`PacedReplay::start`].
    ///
    /// # Errors
    /// As [`PacedReplay::start`].
    pub async fn start(url: &str, topic: &str, rate: u64) -> Result<Self, Error> {
        let (url, topic) = (url.to_owned(), topic.to_owned());
        let (stop, stopped) = oneshot::channel();
        let (begun, begins) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
            runtime.block_on(async {
                let replay = PacedReplay::start(&url, &topic, Some(rate)).await?;
                // Nobody waits any more: it is stopped at once.
                let _ = begun.send(());
                replay.until(stopped).await
            })
        });
        if begins.await.is_err() {
            let failed = thread.join().expect("the replay does not panic");
            return Err(failed.expect_err("it ended before it began"));
        }
        Ok(Self { stop, thread })
    }

    /// Stops it. Answers what came; nothing if the replay ended before.
    ///
    /// # Errors
    /// Its session could not go on.
    pub async fn stop(self) -> Result<Option<Throughput>, Error> {
        drop(self.stop);
        let joined = tokio::task::spawn_blocking(|| self.thread.join().expect("the replay does not panic"));
        joined.await.expect("it is not aborted")
    }
}

/// How long a burning thread keeps its processor at a time: about as long as a thread of broker or member works on a batch.
const BURST: Duration = Duration::from_micros(100);

/// A thread that does nothing but take processor time, in short bursts: what any program would cost that takes as much.
#[derive(Debug)]
pub struct Burner {
    stop: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<()>,
}

impl Burner {
    /// Takes this share of a core, above 0 and below 1.
    pub fn start(cores: f64) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let idle = BURST.mul_f64((1.0 / cores.clamp(0.01, 0.99)) - 1.0);
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                let clock = Stopwatch::start();
                while clock.elapsed() < BURST {
                    std::hint::spin_loop();
                }
                pause(idle);
            }
        });
        Self { stop, thread }
    }

    /// Ends it.
    pub fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("it does not panic");
    }
}
