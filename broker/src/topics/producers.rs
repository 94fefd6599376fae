//! Who produces: ids and epochs of producers (rule PR-7).
//!
//! Names are durable in the metadata log; ids without a name come out of durable blocks, so that none is given
//! twice. Partitions ask here which epoch is the current one.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use parking_lot::{Mutex, RwLock};

use super::TopicError;
use super::metadata::record::MetadataRecord;
use super::metadata::state::MetadataState;
use super::metadata::{MetadataLog, Writer};
use crate::limits;
use crate::partition::ProducerDirectory;

/// Producers as partitions see them.
#[derive(Debug, Default)]
pub struct Producers {
    /// Current epochs of named producers, by id; ids that a name has left are at `i16::MAX`.
    epochs: RwLock<HashMap<i64, i16>>,
    /// Names of named producers, by id.
    names: RwLock<HashMap<i64, Arc<str>>>,
    /// Ids below this may have been given.
    given: AtomicI64,
    block: Mutex<Block>,
}

/// Ids that are reserved durably and not given yet.
#[derive(Debug, Default)]
struct Block {
    next: i64,
    end: i64,
}

impl Producers {
    /// The producers that the metadata log knows.
    pub fn from_state(state: &MetadataState) -> Arc<Self> {
        let epochs = state.producers().map(|(_, producer)| (producer.id, producer.epoch)).collect();
        let names = state.producers().map(|(name, producer)| (producer.id, name.into())).collect();
        let given = AtomicI64::new(state.next_producer());
        Arc::new(Self { epochs: RwLock::new(epochs), names: RwLock::new(names), given, block: Mutex::default() })
    }

    /// Registers a producer; without a name it gets a new id.
    pub(super) async fn register(self: &Arc<Self>, log: &MetadataLog, name: &str) -> Result<(i64, i16), TopicError> {
        if name.is_empty() {
            if let Some(id) = self.next_in_block() {
                return Ok((id, 0));
            }
            let own = Arc::clone(self);
            return log.change(move |writer| own.reserve(writer)).await.map(|id| (id, 0));
        }
        check_name(name)?;
        let own = Arc::clone(self);
        let name = name.to_owned();
        log.change(move |writer| own.register_named(writer, name)).await
    }

    /// What to call a producer: its name, or its id if it has none.
    pub(super) fn name_of(&self, id: i64) -> String {
        self.names.read().get(&id).map_or_else(|| id.to_string(), |name| name.to_string())
    }

    fn next_in_block(&self) -> Option<i64> {
        let mut block = self.block.lock();
        if block.next >= block.end {
            return None;
        }
        block.next += 1;
        Some(block.next - 1)
    }

    fn reserve(&self, writer: &mut Writer) -> Result<i64, TopicError> {
        // Others may have waited behind the one who reserved.
        if let Some(id) = self.next_in_block() {
            return Ok(id);
        }
        let first = writer.state().next_producer();
        let end = first.saturating_add(limits::PRODUCER_ID_BLOCK);
        writer.commit(vec![MetadataRecord::ProducerIds { next: end }])?;
        self.given.store(end, Ordering::Release);
        *self.block.lock() = Block { next: first + 1, end };
        Ok(first)
    }

    fn register_named(&self, writer: &mut Writer, name: String) -> Result<(i64, i16), TopicError> {
        let time_ms = writer.now_ms();
        let known = writer.state().producer(&name);
        let mut records = Vec::new();
        let mut left = None;
        let (id, epoch) = match known {
            Some(known) if known.epoch < i16::MAX => (known.id, known.epoch + 1),
            // An exhausted epoch gives a new id; whoever has the old one is fenced.
            Some(known) => {
                left = Some(known.id);
                (writer.state().next_producer(), 0)
            }
            None => {
                records.extend(make_room(writer.state(), time_ms)?);
                (writer.state().next_producer(), 0)
            }
        };
        records.push(MetadataRecord::ProducerNamed { name: name.clone(), id, epoch, time_ms });
        writer.commit(records)?;
        self.names.write().insert(id, name.into());
        let mut epochs = self.epochs.write();
        epochs.insert(id, epoch);
        if let Some(left) = left {
            epochs.insert(left, i16::MAX);
        }
        self.given.fetch_max(id + 1, Ordering::AcqRel);
        Ok((id, epoch))
    }
}

/// At the limit the producer that was registered longest ago is forgotten, if that is long enough ago.
fn make_room(state: &MetadataState, now_ms: i64) -> Result<Option<MetadataRecord>, TopicError> {
    if state.producer_count() < limits::PRODUCERS {
        return Ok(None);
    }
    let oldest = state.producers().min_by_key(|(_, producer)| producer.time_ms);
    match oldest {
        Some((name, producer)) if now_ms.saturating_sub(producer.time_ms) >= limits::PRODUCER_IDLE_MS => {
            Ok(Some(MetadataRecord::ProducerForgotten { name: name.to_owned() }))
        }
        _ => Err(TopicError::Limit { limit: "producers", max: limits::PRODUCERS as u64 }),
    }
}

/// Producer names have the alphabet of topic names and may be longer.
fn check_name(name: &str) -> Result<(), TopicError> {
    let alphabet = name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'));
    if name.len() <= limits::CLIENT_ID_BYTES && alphabet {
        return Ok(());
    }
    Err(TopicError::Field {
        field: "name",
        found: name.chars().take(limits::CLIENT_ID_BYTES).flat_map(char::escape_default).collect(),
        bounds: "at most 255 ASCII letters, digits, '.', '_' and '-'".into(),
    })
}

impl ProducerDirectory for Producers {
    fn epoch_of(&self, producer_id: i64) -> Option<i16> {
        if let Some(epoch) = self.epochs.read().get(&producer_id) {
            return Some(*epoch);
        }
        // Without a name there is one epoch.
        (1..self.given.load(Ordering::Acquire)).contains(&producer_id).then_some(0)
    }
}
