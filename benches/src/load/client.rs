//! Loads through the client crate, as its users write them.

use std::hint::black_box;
use std::time::Duration;

use sawlog_client::producer::{RecordRef, TrySendError};
use sawlog_client::reader::BatchEvent;
use sawlog_client::{AckLevel, Client, Error, NewTopic, ReaderFrom};

use crate::null_server::{BATCHES_LABEL, RECORD_BYTES_LABEL};
use crate::stats::Latencies;
use crate::timing::{Pacer, Stopwatch};

/// Records between two looks at the clock.
const RECORDS_PER_LOOK: u32 = 256;
/// Bytes at the start of a value that say when the record was sent.
const STAMP_BYTES: usize = 8;

/// Produces as fast as the producer takes records.
#[derive(Debug, Clone)]
pub struct ProduceLoad {
    /// The topic.
    pub topic: String,
    /// Bytes of each value.
    pub record_bytes: usize,
    /// Number of different keys of 8 bytes; 0: no keys.
    pub keys: u32,
    /// How long records are sent.
    pub duration: Duration,
}

/// Records that went through, and the time it took.
#[derive(Debug, Clone, Copy, Default)]
pub struct Throughput {
    /// Records acknowledged or read.
    pub records: u64,
    /// Seconds from the first record to the last acknowledgement.
    pub seconds: f64,
}

impl Throughput {
    /// Records per second.
    pub fn rate(&self) -> f64 {
        self.records as f64 / self.seconds
    }
}

/// Makes a topic for a load.
///
/// # Errors
/// The server refuses.
pub async fn create_topic(
    client: &Client,
    name: &str,
    partitions: u32,
    keyed: bool,
    floor: AckLevel,
) -> Result<(), Error> {
    let mut topic = NewTopic::new(name).partitions(partitions).keyed(keyed);
    topic.config.ack_floor = Some(floor);
    client.admin().create_topic(topic).await.map(drop)
}

/// Makes a topic of the null server whose reads are made up: so many batches of 256 KiB in each partition.
///
/// # Errors
/// The server refuses.
pub async fn create_null_replay(
    client: &Client,
    name: &str,
    partitions: u32,
    record_bytes: usize,
    batches: usize,
) -> Result<(), Error> {
    let mut topic = NewTopic::new(name).partitions(partitions).keyed(false);
    topic.labels.insert(RECORD_BYTES_LABEL.to_owned(), record_bytes.to_string());
    topic.labels.insert(BATCHES_LABEL.to_owned(), batches.to_string());
    client.admin().create_topic(topic).await.map(drop)
}

/// Produces with the client's defaults until the time is over, then waits for the last acknowledgement.
///
/// # Errors
/// The topic is refused, or a record is not acknowledged.
pub async fn produce(client: &Client, load: &ProduceLoad) -> Result<Throughput, Error> {
    let producer = client.producer(load.topic.as_str()).build().await?;
    let value = super::payload(load.record_bytes);
    let mut done = Throughput::default();
    let mut key_number = 0_u64;
    let clock = Stopwatch::start();
    while clock.elapsed() < load.duration {
        for _ in 0..RECORDS_PER_LOOK {
            key_number = key_number.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let key = (u64::from(load.keys) > 0).then(|| ((key_number >> 33) % u64::from(load.keys)).to_be_bytes());
            let key = key.as_ref().map(<[u8; 8]>::as_slice);
            let record = RecordRef { key, value: Some(&value), ..RecordRef::default() };
            loop {
                match producer.try_send(record) {
                    Ok(receipt) => {
                        drop(receipt);
                        break;
                    }
                    Err(TrySendError::Full) => producer.ready().await,
                    Err(TrySendError::Refused(error)) => return Err(error),
                }
            }
        }
        done.records += u64::from(RECORDS_PER_LOOK);
    }
    producer.close().await?;
    done.seconds = clock.seconds();
    Ok(done)
}

/// Sends one record after the other, each when the one before is acknowledged.
///
/// # Errors
/// The topic is refused, or a record is not acknowledged.
pub async fn produce_one_at_a_time(client: &Client, load: &ProduceLoad) -> Result<Latencies, Error> {
    let producer = client.producer(load.topic.as_str()).linger(Duration::ZERO).build().await?;
    let value = super::payload(load.record_bytes);
    let mut latencies = Latencies::default();
    let clock = Stopwatch::start();
    while clock.elapsed() < load.duration {
        let before = clock.nanos();
        let record = RecordRef { value: Some(&value), ..RecordRef::default() };
        producer.send_ref(record).await?.await?;
        latencies.record_ns(clock.nanos() - before);
    }
    producer.close().await?;
    Ok(latencies)
}

/// Reads partitions of a topic from the start to the high watermark and looks at every record.
///
/// # Errors
/// The read fails.
pub async fn replay(client: &Client, topic: &str, partitions: Vec<u32>) -> Result<Throughput, Error> {
    let clock = Stopwatch::start();
    let mut reader = client.reader(topic).partitions(partitions).open().await?;
    let mut done = Throughput::default();
    let mut bytes = 0;
    while let Some(event) = reader.next_batch().await {
        if let BatchEvent::Batch(batch) = event? {
            let count = batch.for_each(|record| bytes += record.value.map_or(0, <[u8]>::len))?;
            done.records += count as u64;
        }
    }
    black_box(bytes);
    done.seconds = clock.seconds();
    Ok(done)
}

/// An open load: records at a fixed rate, read by a live reader.
#[derive(Debug, Clone)]
pub struct LatencyLoad {
    /// The topic, without keys.
    pub topic: String,
    /// Bytes of each value, at least 8.
    pub record_bytes: usize,
    /// Records a second.
    pub per_second: u32,
    /// Time that is not counted.
    pub warm_up: Duration,
    /// Time that is.
    pub duration: Duration,
}

/// Sends at a fixed rate on one connection and reads on another; the time of a record is from when it was due to when
/// the reader has it. For a multi-threaded runtime.
///
/// # Errors
/// The topic is refused, a record is not acknowledged, or the read fails.
pub async fn end_to_end_latency(url: &str, load: &LatencyLoad) -> Result<Latencies, Error> {
    let (writing, reading) = (Client::builder(url).connect_lazy()?, Client::builder(url).connect_lazy()?);
    let producer = writing.producer(load.topic.as_str()).linger(Duration::ZERO).build().await?;
    let mut reader = reading.reader(load.topic.as_str()).from(ReaderFrom::Latest).follow(true).open().await?;
    // At the live end first: what is sent before would not be seen.
    while !matches!(reader.next_batch().await.transpose()?, Some(BatchEvent::Event(_)) | None) {}

    let clock = Stopwatch::start();
    let total = u64::from(load.per_second) * (load.warm_up + load.duration).as_millis() as u64 / 1_000;
    let (per_second, record_bytes) = (load.per_second, load.record_bytes.max(STAMP_BYTES));
    let pacing = producer.clone();
    let pacer = std::thread::spawn(move || send_paced(&pacing, Pacer::new(clock, per_second), record_bytes, total));

    let warm_up = u64::try_from(load.warm_up.as_nanos()).unwrap_or(u64::MAX);
    let mut latencies = Latencies::default();
    let mut seen = 0;
    while seen < total {
        let Some(event) = reader.next_batch().await else { break };
        if let BatchEvent::Batch(batch) = event? {
            let now = clock.nanos();
            seen += batch.for_each(|record| {
                let stamp = record.value.and_then(|value| value.first_chunk::<STAMP_BYTES>());
                let sent = stamp.map_or(0, |stamp| u64::from_be_bytes(*stamp));
                if sent >= warm_up {
                    latencies.record_ns(now.saturating_sub(sent));
                }
            })? as u64;
        }
    }
    pacer.join().expect("the pacer does not panic")?;
    producer.close().await?;
    Ok(latencies)
}

pub(super) fn send_paced(
    producer: &sawlog_client::Producer,
    mut pacer: Pacer,
    record_bytes: usize,
    total: u64,
) -> Result<(), Error> {
    let mut value = super::payload(record_bytes).to_vec();
    for _ in 0..total {
        let stamp = pacer.next_due();
        value[..STAMP_BYTES].copy_from_slice(&stamp.to_be_bytes());
        match producer.try_send(RecordRef { value: Some(&value), ..RecordRef::default() }) {
            Ok(receipt) => drop(receipt),
            Err(TrySendError::Refused(error)) => return Err(error),
            // 32 MiB are buffered: the server has stopped. The record is lost to the statistics, the run ends there.
            Err(TrySendError::Full) => break,
        }
    }
    Ok(())
}
