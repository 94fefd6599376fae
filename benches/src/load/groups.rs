//! Loads on consumer groups through the client crate, as its users write them.

use std::hint::black_box;
use std::time::Duration;

use sawlog_client::consumer::{BatchEvent, Consumer, Delivery, HandlerError};
use sawlog_client::groups::{Backoff, GroupConfig, GroupMode, GroupPosition, NewGroup, RetryPolicy};
use sawlog_client::producer::{RecordRef, TrySendError};
use sawlog_client::{Client, Error};

use super::client::{LatencyLoad, Throughput, send_paced};
use crate::stats::Latencies;
use crate::timing::{Pacer, Stopwatch};

/// What a member may hold: enough that the round trip of an acknowledgement stops nothing.
const CREDIT: (u64, u64) = (16_384, 64 << 20);
/// How long the last acknowledgements may take.
const PATIENCE: Duration = Duration::from_secs(60);
/// Bytes at the start of a value that say when the record was sent.
const STAMP_BYTES: usize = 8;

/// A group for a load.
#[derive(Debug, Clone)]
pub struct GroupLoad {
    /// Its name.
    pub group: String,
    /// Its topic.
    pub topic: String,
    /// Its mode.
    pub mode: GroupMode,
    /// Milliseconds between the tries of a record, of which there are at most 100.
    pub backoff_ms: u64,
    /// Silence in milliseconds after which a member is lost.
    pub session_timeout_ms: u64,
}

impl GroupLoad {
    /// A group of this mode with the defaults.
    pub fn new(group: impl Into<String>, topic: impl Into<String>, mode: GroupMode) -> Self {
        Self { group: group.into(), topic: topic.into(), mode, backoff_ms: 1_000, session_timeout_ms: 10_000 }
    }
}

/// Makes the group, from the start of its topic.
///
/// # Errors
/// The server refuses.
pub async fn make_group(client: &Client, load: &GroupLoad) -> Result<(), Error> {
    let backoff = Some(Backoff::List(vec![load.backoff_ms]));
    let retry = RetryPolicy { max_attempts: Some(100), backoff, ..RetryPolicy::default() };
    let topics = [load.topic.as_str()];
    let mut config = GroupConfig::topics(topics).mode(load.mode).start(GroupPosition::Earliest).retry(retry);
    config.session_timeout_ms = Some(load.session_timeout_ms);
    client.groups().create(NewGroup::new(load.group.as_str(), config)).await.map(drop)
}

/// Joins a group as a member with room for a load.
///
/// # Errors
/// The server refuses.
pub async fn join(client: &Client, group: &str) -> Result<Consumer, Error> {
    client.consumer(group).credit(CREDIT.0, CREDIT.1).open().await
}

/// Writes exactly so many records, keys of 8 bytes in turn, and waits for the last acknowledgement.
///
/// # Errors
/// The topic is refused, or a record is not acknowledged.
pub async fn fill(client: &Client, topic: &str, records: u64, record_bytes: usize, keys: u64) -> Result<(), Error> {
    let producer = client.producer(topic).build().await?;
    let value = super::payload(record_bytes);
    for number in 0..records {
        let key = (number % keys).to_be_bytes();
        let record = RecordRef { key: Some(&key), value: Some(&value), ..RecordRef::default() };
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
    producer.close().await
}

/// The number in the key of a record that [`fill`] wrote.
pub fn key_of(delivery: &Delivery) -> u64 {
    let key = delivery.key.as_deref().and_then(|key| <[u8; 8]>::try_from(key).ok());
    key.map_or(0, u64::from_be_bytes)
}

/// Acknowledges each record by itself until `expect` are, then waits for the last answer; records of keys of which
/// `fails` says so always fail. The member leaves.
///
/// # Errors
/// The session cannot go on, or an answer does not come.
pub async fn consume_acked(
    client: &Client,
    group: &str,
    expect: u64,
    fails: impl Fn(u64) -> bool,
) -> Result<Throughput, Error> {
    let mut consumer = join(client, group).await?;
    let clock = Stopwatch::start();
    let mut done = Throughput::default();
    while done.records < expect {
        let Some(delivery) = consumer.next_delivery().await else { break };
        let delivery = delivery?;
        if fails(key_of(&delivery)) {
            delivery.nack_later(HandlerError::retry("a key that always fails"));
        } else {
            delivery.ack_later();
            done.records += 1;
        }
    }
    consumer.shutdown(PATIENCE).await?;
    done.seconds = clock.seconds();
    Ok(done)
}

/// The same without failures, as by so many handlers at once that are done in any order: the records in work are
/// acknowledged one by one, a random one whenever another has come.
///
/// # Errors
/// The session cannot go on, or an answer does not come.
pub async fn consume_scattered(
    client: &Client,
    group: &str,
    expect: u64,
    handlers: usize,
) -> Result<Throughput, Error> {
    let mut consumer = join(client, group).await?;
    let clock = Stopwatch::start();
    let mut done = Throughput::default();
    let mut in_work = Vec::with_capacity(handlers);
    let mut random = 0x2545_f491_4f6c_dd1d_u64;
    while done.records < expect {
        let Some(delivery) = consumer.next_delivery().await else { break };
        let mut delivery = delivery?;
        done.records += 1;
        if in_work.len() < handlers {
            in_work.push(delivery);
            continue;
        }
        // Xorshift: cheap, and alike in every run.
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        let at = (random % handlers as u64) as usize;
        std::mem::swap(&mut in_work[at], &mut delivery);
        delivery.ack_later();
    }
    in_work.into_iter().for_each(Delivery::ack_later);
    consumer.shutdown(PATIENCE).await?;
    done.seconds = clock.seconds();
    Ok(done)
}

/// Reads `expect` records of a group of mode offset, whole batches, looks at each record and commits behind each batch;
/// the member leaves.
///
/// # Errors
/// The session cannot go on, or a commit is refused.
pub async fn consume_committed(client: &Client, group: &str, expect: u64) -> Result<Throughput, Error> {
    let mut consumer = join(client, group).await?;
    let clock = Stopwatch::start();
    let (mut done, mut bytes) = (Throughput::default(), 0);
    while done.records < expect {
        let Some(event) = consumer.next_batch().await else { break };
        if let BatchEvent::Batch(batch) = event? {
            done.records += batch.for_each(|record| bytes += record.value.map_or(0, <[u8]>::len))? as u64;
            if done.records < expect {
                consumer.commit_batch_later(&batch);
            } else {
                consumer.commit_batch(&batch).await?;
            }
        }
    }
    black_box(bytes);
    done.seconds = clock.seconds();
    consumer.shutdown(PATIENCE).await?;
    Ok(done)
}

/// Sends at a fixed rate on one connection to a live member on another; the time of a record is from when it was due to
/// when the member has it. Every record is acknowledged. For a multi-threaded runtime.
///
/// # Errors
/// The topic or the group is refused, or the session cannot go on.
pub async fn first_delivery_latency(url: &str, group: &str, load: &LatencyLoad) -> Result<Latencies, Error> {
    let (writing, reading) = (Client::builder(url).connect_lazy()?, Client::builder(url).connect_lazy()?);
    let producer = writing.producer(load.topic.as_str()).linger(Duration::ZERO).build().await?;
    let mut consumer = join(&reading, group).await?;
    let clock = Stopwatch::start();
    let total = u64::from(load.per_second) * (load.warm_up + load.duration).as_millis() as u64 / 1_000;
    let (per_second, record_bytes) = (load.per_second, load.record_bytes.max(STAMP_BYTES));
    let pacing = producer.clone();
    let pacer = std::thread::spawn(move || send_paced(&pacing, Pacer::new(clock, per_second), record_bytes, total));
    let warm_up = u64::try_from(load.warm_up.as_nanos()).unwrap_or(u64::MAX);
    let (mut latencies, mut seen) = (Latencies::default(), 0);
    while seen < total {
        let Some(delivery) = consumer.next_delivery().await else { break };
        let delivery = delivery?;
        let now = clock.nanos();
        let stamp = delivery.value.as_deref().and_then(|value| value.first_chunk::<STAMP_BYTES>().copied());
        let sent = stamp.map_or(0, u64::from_be_bytes);
        if sent >= warm_up {
            latencies.record_ns(now.saturating_sub(sent));
        }
        delivery.ack_later();
        seen += 1;
    }
    pacer.join().expect("the pacer does not panic")?;
    producer.close().await?;
    consumer.shutdown(PATIENCE).await?;
    Ok(latencies)
}
