//! Producing: `send` puts a record into the open batch of its partition and returns a [`Receipt`]; a task of the
//! producer sends full and aged batches, pipelined, and resends in order after a cut.
//!
//! Invariants:
//! - Records of one partition are appended in the order of their `send` calls.
//! - An idempotent producer (the default) never writes a record twice, whatever is resent.
//! - Memory is bounded: what is buffered and not yet answered stays within `buffer_bytes`; `send` waits for room.
//! - A record costs one short lock and a copy of its bytes into the batch; its receipt shares the completion of its
//!   batch. Nothing else is allocated, spawned or awaited per record.

use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::{partitioner, v1};
use tokio::time::Instant;

use crate::clock;
use crate::connection::Client;
use crate::error::{Error, ErrorKind};
use crate::types::{AckLevel, Codec, Header, OffsetAt, Record, RecordPosition, Topic};

mod accumulator;
mod lane;
mod receipt;
mod sender;
mod window;

use accumulator::{Accumulator, Batching, Now, PushError, Step, TopicRules};
use sender::{Sender, Shared};
use window::Identity;

pub use receipt::Receipt;

/// Batches of a partition that may be unacknowledged at once (rule PR-7: the broker remembers as many).
pub const MAX_IN_FLIGHT: usize = 64;

/// Chooses how a producer works.
#[derive(Debug, Clone)]
pub struct ProducerBuilder {
    client: Client,
    topic: String,
    settings: Settings,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) linger: Linger,
    pub(crate) batch_bytes: usize,
    pub(crate) buffer_bytes: usize,
    pub(crate) max_in_flight: usize,
    pub(crate) ack: Option<AckLevel>,
    pub(crate) idempotent: bool,
    pub(crate) codec: Codec,
    pub(crate) name: String,
    pub(crate) delivery_timeout: Duration,
}

/// How long records wait for others of their batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Linger {
    /// Only while something of the partition is unanswered, and no longer than this.
    WhileBusy(Duration),
    /// So long in any case.
    Always(Duration),
}

/// Records that a broker had acknowledged at `written` and lost with its machine (rule PR-12).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LostRecords {
    /// The partition.
    pub partition: u32,
    /// Number of records lost.
    pub records: u64,
    /// Offset of the first lost record as it had been acknowledged, if this producer still knows it.
    pub first_offset: Option<u64>,
}

impl ProducerBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        let settings = Settings {
            linger: Linger::WhileBusy(Duration::from_millis(1)),
            batch_bytes: 128 << 10,
            buffer_bytes: 32 << 20,
            max_in_flight: 16,
            ack: None,
            idempotent: true,
            codec: Codec::None,
            name: String::new(),
            delivery_timeout: Duration::from_secs(120),
        };
        Self { client, topic, settings }
    }

    /// How long a record waits for others of its batch. By default it goes at once if nothing of its partition is
    /// unanswered, and waits for at most 1 ms otherwise: alone it is fast, in a crowd it travels in large batches.
    pub fn linger(mut self, linger: Duration) -> Self {
        self.settings.linger = Linger::Always(linger);
        self
    }

    /// Bytes at which a batch is full, 1 KiB to 4 MiB. Default 128 KiB.
    pub fn batch_bytes(mut self, bytes: usize) -> Self {
        self.settings.batch_bytes = bytes.clamp(1 << 10, 4 << 20);
        self
    }

    /// Bytes of records that may be buffered or unanswered; above it `send` waits. Default 32 MiB.
    pub fn buffer_bytes(mut self, bytes: usize) -> Self {
        self.settings.buffer_bytes = bytes;
        self
    }

    /// Batches of a partition that may be unanswered, 1 to 64. Default 16.
    pub fn max_in_flight(mut self, batches: usize) -> Self {
        self.settings.max_in_flight = batches.clamp(1, MAX_IN_FLIGHT);
        self
    }

    /// Level at which records are acknowledged. Default: the topic's floor.
    pub fn ack(mut self, level: AckLevel) -> Self {
        self.settings.ack = Some(level);
        self
    }

    /// Whether the broker drops repeats. Default true. Without it, what was under way at a cut is given back with an
    /// unknown outcome.
    pub fn idempotent(mut self, idempotent: bool) -> Self {
        self.settings.idempotent = idempotent;
        self
    }

    /// Compression of batches. Default none.
    pub fn compression(mut self, codec: Codec) -> Self {
        self.settings.codec = codec;
        self
    }

    /// Name of the producer: a later one of the same name fences this one. Default none.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.settings.name = name.into();
        self
    }

    /// How long a record may take from `send` to its acknowledgement before it is given back. Default 120 s.
    pub fn delivery_timeout(mut self, timeout: Duration) -> Self {
        self.settings.delivery_timeout = timeout;
        self
    }

    /// Looks up the topic, registers the producer and starts its task.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`; `LIMIT_REACHED` if the broker remembers too many producers; a connection that fails for the
    /// client's `call_timeout`.
    pub async fn build(self) -> Result<Producer, Error> {
        let topic = look_up(&self.client, &self.topic).await?;
        if topic.keyed() && topic.hash_version != partitioner::HASH_VERSION {
            let message = format!("version {} of the partitioner is unknown to this client", topic.hash_version);
            return Err(Error::new(ErrorKind::Invalid, message));
        }
        let identity =
            if self.settings.idempotent { Some(init_producer(&self.client, &self.settings.name).await?) } else { None };
        let batching = Batching {
            linger: self.settings.linger,
            batch_bytes: self.settings.batch_bytes,
            buffer_bytes: self.settings.buffer_bytes,
            codec: self.settings.codec,
        };
        // Producers begin at different partitions with records that have none.
        let sticky = identity.map_or(0, |identity| identity.producer_id as u32);
        let accumulator = Accumulator::new(TopicRules::of(&topic), batching, sticky);
        let shared = Arc::new(Shared::new(accumulator, topic));
        let sender = Sender::new(self.client, self.settings, Arc::clone(&shared), identity);
        tokio::spawn(sender.run());
        Ok(Producer { handle: Arc::new(Handle { shared }) })
    }
}

/// Registers the producer, or its next epoch. Repeated like any call of the admin.
async fn init_producer(client: &Client, name: &str) -> Result<Identity, Error> {
    let response = client
        .repeat(|| {
            let (mut produce, request) = (client.produce(), v1::InitProducerRequest { name: name.to_owned() });
            async move { produce.init_producer(request).await }
        })
        .await?;
    let epoch = i16::try_from(response.producer_epoch)
        .map_err(|_| Error::protocol(format!("{} is no epoch of a producer", response.producer_epoch)))?;
    Ok(Identity { producer_id: response.producer_id, epoch })
}

/// The topic, by its name. A broker that makes topics on their first use does so when asked for its offsets.
async fn look_up(client: &Client, name: &str) -> Result<Topic, Error> {
    match client.admin().get_topic(name).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            client.admin().offsets(name, &[], OffsetAt::Latest).await?;
            client.admin().get_topic(name).await
        }
        found => found,
    }
}

/// A record to produce, borrowed: its bytes are copied into the batch.
#[derive(Debug, Clone, Copy, Default)]
pub struct RecordRef<'a> {
    /// Entity id; absent is not empty.
    pub key: Option<&'a [u8]>,
    /// Payload; absent is a tombstone.
    pub value: Option<&'a [u8]>,
    /// Headers in order.
    pub headers: &'a [Header],
    /// Event time in milliseconds since 1970; absent: now.
    pub timestamp_ms: Option<i64>,
    /// On a topic without keys: the partition wanted.
    pub partition: Option<u32>,
}

impl<'a> From<&'a Record> for RecordRef<'a> {
    fn from(record: &'a Record) -> Self {
        Self {
            key: record.key.as_deref(),
            value: record.value.as_deref(),
            headers: &record.headers,
            timestamp_ms: record.timestamp_ms,
            partition: record.partition,
        }
    }
}

/// Why [`Producer::try_send`] did not take a record.
#[derive(Debug, Clone, thiserror::Error)]
pub enum TrySendError {
    /// The buffer is full; `send` would wait.
    #[error("the producer's buffer is full")]
    Full,
    /// The record is refused, or the producer is closed.
    #[error(transparent)]
    Refused(#[from] Error),
}

/// Appends records to one topic. Cheap to clone; clones share batches and connection. Dropping the last one sends what
/// is buffered, without waiting for it.
#[derive(Debug, Clone)]
pub struct Producer {
    handle: Arc<Handle>,
}

/// Ends the sender with the last producer.
#[derive(Debug)]
struct Handle {
    shared: Arc<Shared>,
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.shared.close(Error::closed("the producer"));
    }
}

impl Producer {
    /// Buffers a record, waiting for room if there is none, and returns at once then; awaiting the [`Receipt`] gives
    /// the record's position.
    ///
    /// # Errors
    /// `KEY_REQUIRED`, `KEY_TOO_LARGE`, `RECORD_TOO_LARGE`, `HEADERS_TOO_LARGE`, `WRONG_PARTITION`,
    /// `PARTITION_NOT_FOUND`: found before anything is sent. [`crate::ErrorKind::Closed`], or what stopped the
    /// producer for good, such as `PRODUCER_FENCED`.
    pub async fn send(&self, record: impl Into<Record>) -> Result<Receipt, Error> {
        let record = record.into();
        self.send_ref(RecordRef::from(&record)).await
    }

    /// The same with a borrowed record.
    ///
    /// # Errors
    /// As [`Producer::send`].
    pub async fn send_ref(&self, record: RecordRef<'_>) -> Result<Receipt, Error> {
        loop {
            match self.push(record) {
                Ok((receipt, step)) => {
                    if step == Step::Filled {
                        // Lets the sender run where it shares a thread with a caller that never waits.
                        tokio::task::yield_now().await;
                    }
                    return Ok(receipt);
                }
                Err(PushError::Refused(error)) => return Err(error),
                Err(PushError::Full) => self.ready().await,
            }
        }
    }

    /// Buffers a record if there is room now.
    ///
    /// # Errors
    /// [`TrySendError::Full`] if there is none; else as [`Producer::send`].
    pub fn try_send(&self, record: RecordRef<'_>) -> Result<Receipt, TrySendError> {
        match self.push(record) {
            Ok((receipt, _)) => Ok(receipt),
            Err(PushError::Full) => Err(TrySendError::Full),
            Err(PushError::Refused(error)) => Err(TrySendError::Refused(error)),
        }
    }

    /// Waits until the buffer has room again. A hint: another sender may take it first.
    pub async fn ready(&self) {
        self.shared().wait_until(|accumulator| accumulator.has_room().then_some(())).await;
    }

    /// Sends what is buffered now and waits until all of it is answered.
    ///
    /// # Errors
    /// The first failure among the records sent since the last flush, if any; their receipts tell each.
    pub async fn flush(&self) -> Result<(), Error> {
        let mark = self.shared().accumulator.lock().flush();
        self.shared().wake.notify_one();
        let failure =
            self.shared().wait_until(|accumulator| accumulator.flushed(mark).then(|| accumulator.take_failure())).await;
        failure.map_or(Ok(()), Err)
    }

    /// Flushes, then ends the producer and its clones.
    ///
    /// # Errors
    /// As [`Producer::flush`].
    pub async fn close(self) -> Result<(), Error> {
        let flushed = self.flush().await;
        self.shared().close(Error::closed("the producer"));
        self.shared().ended.cancelled().await;
        flushed
    }

    /// The topic as this producer last saw it.
    pub fn topic(&self) -> Topic {
        self.shared().topic.lock().clone()
    }

    /// Takes the losses told by the broker since the last call (rule PR-12); empty in all but very bad days.
    pub fn take_lost(&self) -> Vec<LostRecords> {
        std::mem::take(&mut *self.shared().lost.lock())
    }

    /// Sends one record and waits for its position.
    ///
    /// # Errors
    /// As [`Producer::send`], and what the broker answered.
    pub async fn send_and_wait(&self, record: impl Into<Record>) -> Result<RecordPosition, Error> {
        self.send(record).await?.await
    }

    fn push(&self, record: RecordRef<'_>) -> Result<(Receipt, Step), PushError> {
        let shared = self.shared();
        let pushed = shared.accumulator.lock().push(record, now);
        if !matches!(pushed, Ok((_, Step::Joined)) | Err(PushError::Refused(_))) {
            shared.wake.notify_one();
        }
        pushed
    }

    fn shared(&self) -> &Shared {
        &self.handle.shared
    }
}

fn now() -> Now {
    Now { instant: Instant::now(), wall_ms: clock::wall_ms() }
}
