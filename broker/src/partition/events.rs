//! Event ids of a batch (rule PR-8): what identifies an event, where the first of its name stands, and whom the leader
//! of a partition asks.
//!
//! An event is named by a hash of 128 bits over tenant and event id; a hash of key and payload tells a repeat from
//! another event under the same id. Both are frozen: they stand in sidecars of segments.
//!
//! Invariants: a batch has an [`EventBatch`] only if its topic finds out repeats; what the directory found in it is set
//! once, before its append is answered. It must not know of files, topics or messages.

use std::fmt::Debug;
use std::hash::Hasher as _;
use std::sync::OnceLock;

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchBuilder, BatchHeader, BatchLimits, RecordView};
use sawlog_proto::envelope;
use siphasher::sip::SipHasher13 as ContentHasher;
use siphasher::sip128::{Hasher128 as _, SipHasher13};

use super::{CheckedBatch, Offset, OffsetRange, PartitionEpoch};
pub use crate::log::sidecar::StoredEvent;
use crate::model::PartitionId;

/// First half of the hash keys. Frozen.
const HASH_KEY: u64 = 0x7361_776c_6f67;
/// Bits of a content hash that are kept.
const CONTENT_BITS: u64 = (1 << 48) - 1;

/// Names an event within its topic: a hash of tenant and event id.
pub type EventKey = [u64; 2];

/// The name of an event.
pub fn event_key(tenant: &[u8], id: &[u8]) -> EventKey {
    let mut hasher = SipHasher13::new_with_keys(HASH_KEY, 3);
    hasher.write(&(tenant.len() as u64).to_le_bytes());
    hasher.write(tenant);
    hasher.write(id);
    let hash = hasher.finish128();
    [hash.h1, hash.h2]
}

/// A hash of key and payload, of 48 bits; headers and times are no part of it.
pub fn content_hash(key: Option<&[u8]>, value: Option<&[u8]>) -> u64 {
    let mut hasher = ContentHasher::new_with_keys(HASH_KEY, 4);
    // Absent is not empty.
    hasher.write(&key.map_or(u64::MAX, |key| key.len() as u64).to_le_bytes());
    hasher.write(key.unwrap_or_default());
    hasher.write(&[u8::from(value.is_some())]);
    hasher.write(value.unwrap_or_default());
    hasher.finish() & CONTENT_BITS
}

/// A record with an event id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventRef {
    /// Its index in the batch.
    pub index: u32,
    /// Its name.
    pub id: EventKey,
    /// Hash of key and payload.
    pub content: u64,
}

/// Where the record of an event stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct EventPlace {
    /// The partition.
    pub partition: PartitionId,
    /// The record.
    pub offset: Offset,
    /// Epoch of its frame.
    pub epoch: PartitionEpoch,
    /// Time of the append in milliseconds since 1970.
    pub append_time_ms: i64,
}

/// What was found about a record that was not appended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// It repeats this one.
    Repeat(EventPlace),
    /// It repeats the record at this index of the same batch.
    SameAs(u32),
    /// It has the id of this one, and another key or payload.
    Conflict(EventPlace),
    /// It has the id of the record at this index of the same batch, and another key or payload.
    ConflictInBatch(u32),
}

/// The records of a batch that have event ids, and what became of them.
#[derive(Debug)]
pub struct EventBatch {
    refs: Vec<EventRef>,
    whole: bool,
    found: OnceLock<Vec<(u32, Found)>>,
}

impl EventBatch {
    /// `whole`: the batch is stored as it is or not at all; else it is written without its repeats.
    pub fn new(refs: Vec<EventRef>, whole: bool) -> Self {
        Self { refs, whole, found: OnceLock::new() }
    }

    /// The records with event ids, in order.
    pub fn refs(&self) -> &[EventRef] {
        &self.refs
    }

    /// Whether the batch is stored as it is or not at all.
    pub fn whole(&self) -> bool {
        self.whole
    }

    /// What was found about those that were not appended, by index; `None`: nothing, all are new.
    pub fn found(&self) -> Option<&[(u32, Found)]> {
        self.found.get().map(Vec::as_slice)
    }

    /// Keeps what was found; the first word counts.
    pub fn set_found(&self, found: Vec<(u32, Found)>) {
        // Set by the one leader that decides about the batch.
        let _ = self.found.set(found);
    }
}

/// Where the records of a batch would go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reservation {
    /// Offset of the first.
    pub base: Offset,
    /// Number of records.
    pub record_count: u32,
    /// Epoch of the partition.
    pub epoch: PartitionEpoch,
    /// Time of the append.
    pub append_time_ms: i64,
}

/// What became of a reservation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reserved {
    /// All are new.
    All,
    /// Those found are to be left out; the others are new, and take consecutive offsets.
    LeftOut,
    /// Nothing may be written; what was found says why.
    Nothing,
    /// It is not known yet which ids there are.
    NotReady,
}

/// How much of the log is worth looking through for event ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LoadBounds {
    /// Ids at most.
    pub max_ids: usize,
    /// Records appended before this time do not count, if given.
    pub oldest_ms: Option<i64>,
}

/// The event ids of a topic, as one of its partitions sees them. Called while appends wait: look-ups in memory.
pub trait EventDirectory: Debug + Send + Sync + 'static {
    /// Whether repeats are found out at present.
    fn is_active(&self) -> bool;
    /// Reserves the ids of a batch for the places that its records are about to take. What is found is set in the batch.
    fn reserve(&self, batch: &EventBatch, at: Reservation) -> Reserved;
    /// Of a request of `record_count` records that was written before, there, without its repeats: where each record
    /// stands, set in the batch; `false` if that is not known any more.
    fn locate(&self, batch: &EventBatch, record_count: u32, written: Reservation) -> bool;
    /// Ids at or above `end` are free again: their records are gone, or were never written (rule PR-12).
    fn truncate(&self, end: Offset);
    /// Ids in a range are free again: their records are lost.
    fn forget(&self, range: OffsetRange);
    /// Records below `start` are gone.
    fn raise_start(&self, start: Offset);
    /// The ids with offsets in `range`, in order, for a sidecar. `cursor` spares looking again at what the call before
    /// has seen; begin with 0.
    fn between(&self, range: OffsetRange, cursor: &mut u64) -> Vec<StoredEvent>;
    /// What is worth loading; `None`: nothing, no repeats are found out.
    fn load_bounds(&self) -> Option<LoadBounds>;
    /// Takes the ids that were found in the log.
    fn adopt(&self, ids: Vec<StoredEvent>, start: Offset);
}

/// The batch without those of its records that were found.
#[doc(hidden)]
pub fn without_found(batch: &CheckedBatch, found: &[(u32, Found)]) -> CheckedBatch {
    let records = batch::records(&batch.bytes, &BatchLimits::DEFAULT).expect("we built this batch");
    let mut builder = BatchBuilder::new(batch.header.codec);
    let mut left_out = found.iter().map(|(index, _)| *index).peekable();
    for view in records.views() {
        let view = view.expect("we built this batch");
        if left_out.next_if_eq(&view.index).is_none() {
            builder.push_raw(view.timestamp_ms, view.key, view.value, view.headers);
        }
    }
    let bytes = builder.finish();
    let header = BatchHeader::decode(&bytes).expect("the builder makes good batches");
    CheckedBatch { header, bytes, request: batch.request, events: None }
}

/// The event of a record, if it has an id.
pub(super) fn event_of(record: &RecordView<'_>) -> Option<EventRef> {
    let headers = record.headers.map(|(name, value)| (name, value.unwrap_or_default()));
    let (id, tenant) = envelope::identity(headers)?;
    let content = content_hash(record.key, record.value);
    Some(EventRef { index: record.index, id: event_key(tenant, id), content })
}

/// The event id of a record of a batch, for people.
pub fn event_id_at(bytes: &Bytes, index: u32) -> Option<String> {
    let records = batch::records(bytes, &BatchLimits::DEFAULT).ok()?;
    let view = records.views().nth(index as usize)?.ok()?;
    let headers = view.headers.map(|(name, value)| (name, value.unwrap_or_default()));
    let (id, _) = envelope::identity(headers)?;
    Some(String::from_utf8_lossy(id).into_owned())
}
