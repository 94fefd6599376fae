//! Producers under load that write down their history, and readers that add theirs.
//!
//! A record says which one it is in its first bytes; the rest follows from that, so that any change of it is seen.

use std::collections::{BTreeMap, HashMap};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use sawlog_client::reader::{GapReason, ReadEvent};
use sawlog_client::{Client, OffsetAt, Outcome, Receipt, Record, StreamExt as _};
use sawlog_proto::partitioner::partition_of;
use sawlog_testing::checker::{Place, ReadRun, RecordId, Seen, SendOutcome, Sent};
use tokio::sync::watch;

/// How much is sent, and where.
#[derive(Debug, Clone)]
pub(crate) struct Load {
    /// The topic.
    pub(crate) topic: String,
    /// Its partitions.
    pub(crate) partitions: u32,
    /// Producers, each with a connection of its own.
    pub(crate) producers: u32,
    /// Records of each producer.
    pub(crate) records: u64,
    /// Bytes of a record's value.
    pub(crate) value_bytes: usize,
    /// Bytes at which a batch is full.
    pub(crate) batch_bytes: usize,
}

/// A small generator, so that a run can be repeated by its seed.
pub(crate) struct Random(pub(crate) u64);

impl Random {
    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// The record of this id.
pub(crate) fn record(id: RecordId, value_bytes: usize) -> Record {
    let mut value = Vec::with_capacity(value_bytes);
    value.extend_from_slice(&id.producer.to_be_bytes());
    value.extend_from_slice(&id.number.to_be_bytes());
    let mut random = Random(id.number.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ u64::from(id.producer) | 1);
    while value.len() < value_bytes {
        value.extend_from_slice(&random.below(u64::MAX).to_be_bytes());
    }
    value.truncate(value_bytes.max(12));
    Record::keyed(format!("{}-{}", id.producer, id.number % 23), value)
}

fn digest(key: Option<&[u8]>, value: Option<&[u8]>) -> u64 {
    let mut hasher = DefaultHasher::new();
    (key, value).hash(&mut hasher);
    hasher.finish()
}

fn id_in(value: &[u8]) -> RecordId {
    let producer = u32::from_be_bytes(value[..4].try_into().expect("four bytes"));
    RecordId { producer, number: u64::from_be_bytes(value[4..12].try_into().expect("eight bytes")) }
}

/// A load under way.
pub(crate) struct Running {
    producers: Vec<tokio::task::JoinHandle<Vec<Sent>>>,
    counts: Arc<watch::Sender<Counts>>,
}

/// What the producers have handed over, and how much of it is answered.
#[derive(Debug, Default, Clone, Copy)]
struct Counts {
    buffered: u64,
    answered: u64,
    /// Records that may be handed over.
    allowed: u64,
}

impl Load {
    /// Starts the producers; they go on by themselves whatever becomes of the broker.
    pub(crate) fn start(&self, url: &str) -> Running {
        self.start_with(url, u64::MAX)
    }

    /// The same, but only about so many records of all are handed over until [`Running::allow`] lets more pass.
    pub(crate) fn start_with(&self, url: &str, allowed: u64) -> Running {
        let counts = Arc::new(watch::Sender::new(Counts { allowed, ..Counts::default() }));
        let producers = (0..self.producers)
            .map(|producer| {
                let client = Client::builder(url).connect_lazy().expect("a URL");
                tokio::spawn(produce(self.clone(), client, producer, Arc::clone(&counts)))
            })
            .collect();
        Running { producers, counts }
    }
}

impl Running {
    /// Waits until so many records are answered and at least one is sent and not answered; returns how many are not.
    ///
    /// More than that must be allowed.
    pub(crate) async fn answered(&self, count: u64) -> u64 {
        let mut counts = self.counts.subscribe();
        let in_the_middle = |counts: &Counts| counts.answered >= count && counts.buffered > counts.answered;
        let counts = *counts.wait_for(in_the_middle).await.expect("the load runs");
        counts.buffered - counts.answered
    }

    /// Lets about so many records of all pass.
    pub(crate) fn allow(&self, allowed: u64) {
        self.counts.send_modify(|counts| counts.allowed = allowed);
    }

    /// Waits until every record is answered.
    pub(crate) async fn finish(self) -> Vec<Sent> {
        let mut sent = Vec::new();
        for producer in self.producers {
            sent.extend(producer.await.expect("a producer does not panic"));
        }
        sent
    }
}

async fn produce(load: Load, client: Client, number_of_producer: u32, counts: Arc<watch::Sender<Counts>>) -> Vec<Sent> {
    let builder = client.producer(load.topic).name(format!("load-{number_of_producer}"));
    let builder = builder.batch_bytes(load.batch_bytes).buffer_bytes(16 * load.batch_bytes).max_in_flight(8);
    let producer = builder.build().await.expect("the broker is there at the beginning");
    let (hand, mut receipts) = tokio::sync::mpsc::unbounded_channel();
    let judged = Arc::clone(&counts);
    let judge = tokio::spawn(async move {
        let mut sent: Vec<Sent> = Vec::new();
        while let Some((one, receipt)) = receipts.recv().await {
            let (mut one, receipt): (Sent, Receipt) = (one, receipt);
            one.outcome = match receipt.await {
                Ok(place) => {
                    SendOutcome::Acked(Place { partition: place.partition, epoch: place.epoch, offset: place.offset })
                }
                Err(error) if error.outcome() == Some(Outcome::NotWritten) => SendOutcome::NotWritten,
                Err(_) => SendOutcome::Unknown,
            };
            sent.push(one);
            judged.send_modify(|counts| counts.answered += 1);
        }
        sent
    });
    let mut batches: HashMap<u32, u64> = HashMap::new();
    for number in 0..load.records {
        let id = RecordId { producer: number_of_producer, number };
        let record = record(id, load.value_bytes);
        let partition = partition_of(record.key.as_deref().expect("it has a key"), load.partitions);
        let digest = digest(record.key.as_deref(), record.value.as_deref());
        let mut turn = counts.subscribe();
        let own = number * u64::from(load.producers);
        turn.wait_for(|counts| own < counts.allowed).await.expect("the counts live as long as the load");
        let receipt = producer.send(record).await.expect("a sound record is taken");
        counts.send_modify(|counts| counts.buffered += 1);
        let batch = batches.entry(partition).or_default();
        *batch += u64::from(receipt.index_in_batch() == 0);
        let batch = u64::from(number_of_producer) << 48 | u64::from(partition) << 32 | *batch;
        let one = Sent { id, digest, batch: Some(batch), outcome: SendOutcome::Unknown };
        hand.send((one, receipt)).expect("the judge lives");
    }
    drop(hand);
    producer.flush().await.expect("every record is acknowledged in the end");
    judge.await.expect("the judge does not panic")
}

/// Reads every partition from its log start to its high watermark.
pub(crate) async fn read_all(client: &Client, topic: &str) -> ReadRun {
    let earliest = client.admin().offsets(topic, &[], OffsetAt::Earliest).await.expect("offsets");
    let mut run = ReadRun::default();
    let mut starts: BTreeMap<u32, u64> = earliest.iter().map(|start| (start.partition, start.offset)).collect();
    let mut reader = client.reader(topic).open().await.expect("a read");
    let mut begun: BTreeMap<u32, bool> = BTreeMap::new();
    while let Some(event) = reader.next().await {
        match event.expect("the read goes on") {
            ReadEvent::Record(record) => {
                if !std::mem::replace(begun.entry(record.partition).or_default(), true) {
                    // Retention may have raised the log start since it was asked for.
                    starts.entry(record.partition).and_modify(|start| *start = record.offset.max(*start));
                }
                let value = record.value.as_deref().expect("a value");
                run.seen.push(Seen {
                    place: Place { partition: record.partition, epoch: record.epoch, offset: record.offset },
                    id: id_in(value),
                    digest: digest(record.key.as_deref(), Some(value)),
                    append_time_ms: record.append_time_ms,
                });
            }
            ReadEvent::Gap { partition, from, to, reason } => {
                assert_eq!(reason, GapReason::Retention);
                run.gaps.push((partition, from, to));
            }
            _ => {}
        }
    }
    run.log_starts = starts;
    run
}
