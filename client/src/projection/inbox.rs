//! What came of a partition and is not applied: frames of the log as they arrived, records that come through their
//! dead-letter entries, and the end. Bounded by the credit of the stream.
//!
//! Invariant: what was put in is taken out in its order; nothing is taken after the end.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;
use sawlog_proto::v1;
use tokio::sync::Notify;

use crate::consumer::{ConsumedRecord, Source};
use crate::error::Error;
use crate::reader::{OpenBatch, ReadBatch, ReadRecord, checked_batch};
use crate::types::unsigned;

use super::store::AppliedEntry;

/// Why nothing more comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Closed {
    /// The unit is taken away: it is to be let go.
    Revoked,
    /// It is another's, or the stream is gone.
    Lost,
}

/// A part of the log.
#[derive(Debug)]
pub(super) enum Part {
    /// Stored batches.
    Batches(v1::RecordBatches),
    /// Nothing from the first offset up to the second will come.
    Gap(u64, u64),
}

/// Something to do.
#[derive(Debug)]
pub(super) enum Arrival {
    Part(Part),
    /// A record leased through its entry.
    Entry(Box<ConsumedRecord>),
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    parts: VecDeque<Part>,
    entries: VecDeque<ConsumedRecord>,
    /// Ids of entries that came and are not answered: their leases are extended.
    leased: Vec<Arc<str>>,
    closed: Option<Closed>,
}

impl Inbox {
    pub(super) fn put(&self, part: Part) {
        self.state.lock().parts.push_back(part);
        self.changed.notify_one();
    }

    pub(super) fn put_entry(&self, record: ConsumedRecord) {
        {
            let mut state = self.state.lock();
            state.leased.extend(record.entry().map(|entry| Arc::clone(&entry.dlq_id)));
            state.entries.push_back(record);
        }
        self.changed.notify_one();
    }

    /// Ends it; the first reason counts, but for a loss, which always does.
    pub(super) fn close(&self, closed: Closed) {
        {
            let mut state = self.state.lock();
            if state.closed.is_none() || closed == Closed::Lost {
                state.closed = Some(closed);
            }
        }
        self.changed.notify_one();
    }

    pub(super) fn closed(&self) -> Option<Closed> {
        self.state.lock().closed
    }

    /// The next thing to do, entries first; `None`: there is nothing now.
    pub(super) fn take(&self) -> Option<Arrival> {
        let mut state = self.state.lock();
        match state.entries.pop_front() {
            Some(record) => Some(Arrival::Entry(Box::new(record))),
            None => state.parts.pop_front().map(Arrival::Part),
        }
    }

    /// The next part of the log, unless an entry waits.
    pub(super) fn take_part(&self) -> Option<Part> {
        let mut state = self.state.lock();
        if state.entries.is_empty() { state.parts.pop_front() } else { None }
    }

    /// The credit of the parts of the log that were not taken, and are not any more.
    pub(super) fn drop_parts(&self) -> (u64, u64) {
        let parts = std::mem::take(&mut self.state.lock().parts);
        let credits = parts.iter().map(|part| match part {
            Part::Batches(batches) => credit_of(batches),
            Part::Gap(..) => (0, 0),
        });
        credits.fold((0, 0), |all, one| (all.0 + one.0, all.1 + one.1))
    }

    /// Records that came through entries and were not begun.
    pub(super) fn take_entries(&self) -> Vec<ConsumedRecord> {
        self.state.lock().entries.drain(..).collect()
    }

    /// An entry was answered.
    pub(super) fn answered(&self, dlq_id: &str) {
        self.state.lock().leased.retain(|leased| **leased != *dlq_id);
    }

    /// Entries whose leases go on.
    pub(super) fn leased(&self) -> Vec<Arc<str>> {
        self.state.lock().leased.clone()
    }

    /// Resolves when something was put in, or it was closed; may resolve without.
    pub(super) async fn changed(&self) {
        self.changed.notified().await;
    }

    /// Resolves when it is closed.
    pub(super) async fn ended(&self) {
        while self.closed().is_none() {
            self.changed().await;
        }
        // Whoever waits beside is told too.
        self.changed.notify_one();
    }
}

/// Records and bytes that a frame takes of the credit: the broker counts offsets, those that are passed too.
pub(super) fn credit_of(batches: &v1::RecordBatches) -> (u64, u64) {
    let records = unsigned(batches.reached_offset).saturating_sub(unsigned(batches.from_offset));
    let bytes: usize = batches.batches.iter().map(|stored| stored.batch.len()).sum();
    (records, bytes as u64)
}

/// A record of the log, or what stands for some.
#[derive(Debug)]
pub(super) enum Item {
    /// To be applied.
    Apply { record: Box<ConsumedRecord>, entry: Option<AppliedEntry> },
    /// Nothing is applied up to this offset; the epoch of the record before it, if known.
    Pass { to: u64, epoch: Option<u32> },
    /// Nothing of these offsets will come. What lies before may be on its way still: the frame behind it passes the gap
    /// then.
    Gap { from: u64, to: u64 },
    /// Its key is dead: it is parked, unless the key lives again (rule AK-8).
    Blocked(Box<ConsumedRecord>),
}

impl Item {
    /// The same, its record as part of this replay (rule RP-2).
    fn of_replay(self, replay: Option<&Arc<str>>) -> Self {
        let mark = |record: Box<ConsumedRecord>| Box::new(record.of_replay(replay));
        match self {
            Self::Apply { record, entry } => Self::Apply { record: mark(record), entry },
            Self::Blocked(record) => Self::Blocked(mark(record)),
            other @ (Self::Pass { .. } | Self::Gap { .. }) => other,
        }
    }
}

/// Opens a frame of stored batches: items in order, of what lies at or above `from`.
///
/// # Errors
/// A batch that is damaged, or of which an edited record is missing.
pub(super) fn open(source: &Arc<Source>, wire: v1::RecordBatches, from: u64) -> Result<Vec<Item>, Error> {
    let reached = unsigned(wire.reached_offset);
    let from = from.max(unsigned(wire.from_offset));
    let replay: Option<Arc<str>> = (!wire.replay_id.is_empty()).then(|| wire.replay_id.as_str().into());
    let mut marks = wire.marks.into_iter().peekable();
    let mut items = Vec::new();
    for stored in wire.batches {
        let Some(batch) = checked_batch(source.partition, stored, from, reached)? else { continue };
        let mut open = open_batch(batch)?;
        while let Some(record) = open.next_record() {
            let record = record?;
            let at = record.offset;
            while marks.next_if(|mark| unsigned(mark.offset) < at).is_some() {}
            let mark = marks.next_if(|mark| unsigned(mark.offset) == at);
            items.push(marked(source, record, mark)?.of_replay(replay.as_ref()));
        }
    }
    items.push(Item::Pass { to: reached, epoch: None });
    Ok(items)
}

fn open_batch(batch: ReadBatch) -> Result<OpenBatch, Error> {
    OpenBatch::new(batch)
}

/// What is to be done with a record that is marked so (rules AK-8, DL-15).
fn marked(source: &Arc<Source>, record: ReadRecord, mark: Option<v1::MarkedOffset>) -> Result<Item, Error> {
    use v1::marked_offset::Why;
    let pass = Item::Pass { to: record.offset + 1, epoch: Some(record.epoch) };
    let v1::MarkedOffset { why, edited, .. } = mark.unwrap_or_default();
    Ok(match why {
        None => Item::Apply { record: Box::new(ConsumedRecord::of_log(source, record)), entry: None },
        Some(Why::BlockedBy(_)) => Item::Blocked(Box::new(ConsumedRecord::of_log(source, record))),
        Some(Why::Filtered(_)) => pass,
        Some(Why::Entry(entry)) if entry.state() == v1::EntryState::Resolved => {
            let applied = AppliedEntry { dlq_id: entry.dlq_id.clone(), version: entry.version, cycle: entry.cycle };
            let mut handled = ConsumedRecord::of_log(source, record);
            match edited {
                Some(edited) => handled.replace(edited),
                None if entry.version > 0 => {
                    let message = format!("the edited version of offset {} did not come", handled.offset);
                    return Err(Error::protocol(message));
                }
                None => {}
            }
            handled.set_entry(entry);
            Item::Apply { record: Box::new(handled), entry: Some(applied) }
        }
        Some(Why::Entry(_)) => pass,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::types::TopicId;

    fn source() -> Arc<Source> {
        Arc::new(Source { topic: "t".into(), topic_id: TopicId::from("id"), partition: 0 })
    }

    fn record() -> ReadRecord {
        ReadRecord {
            partition: 0,
            offset: 7,
            epoch: 2,
            append_time_ms: 5,
            timestamp_ms: 5,
            key: Some("k".into()),
            value: Some("as it was".into()),
            headers: Vec::new(),
        }
    }

    #[test]
    fn fc_2_the_credit_of_what_is_dropped_is_known() {
        let stored = |size: usize| v1::StoredBatch { batch: vec![0; size].into(), ..v1::StoredBatch::default() };
        let frame = |from_offset, reached_offset, sizes: &[usize]| {
            let batches = sizes.iter().map(|size| stored(*size)).collect();
            Part::Batches(v1::RecordBatches { from_offset, reached_offset, batches, ..v1::RecordBatches::default() })
        };
        let inbox = Inbox::default();
        inbox.put(frame(10, 15, &[100, 20]));
        inbox.put(Part::Gap(15, 20));
        inbox.put(frame(20, 21, &[7]));
        assert_eq!((inbox.drop_parts(), inbox.drop_parts()), ((6, 127), (0, 0)));
        assert!(inbox.take().is_none());
    }

    fn item(why: v1::marked_offset::Why, edited: Option<v1::Record>) -> Result<Item, Error> {
        marked(&source(), record(), Some(v1::MarkedOffset { offset: 7, why: Some(why), edited }))
    }

    fn entry(state: v1::EntryState, version: u32) -> v1::marked_offset::Why {
        let state = state.into();
        v1::marked_offset::Why::Entry(v1::EntryMark { dlq_id: "e".to_owned(), state, version, ..Default::default() })
    }

    #[test]
    fn dl_15_a_record_with_an_entry_is_passed_or_applied_once_as_it_was_resolved() {
        for state in [v1::EntryState::Open, v1::EntryState::Discarded, v1::EntryState::Expired] {
            assert!(matches!(item(entry(state, 0), None).unwrap(), Item::Pass { to: 8, epoch: Some(2) }), "{state:?}");
        }
        let edited = v1::Record { value: Some("edited".into()), ..v1::Record::default() };
        for (version, given, value) in [(0, None, "as it was"), (1, Some(edited), "edited")] {
            let found = item(entry(v1::EntryState::Resolved, version), given).unwrap();
            let Item::Apply { record, entry: Some(applied) } = found else { panic!("{found:?}") };
            assert_eq!((record.value.as_deref(), applied.version), (Some(value.as_bytes()), version));
            assert_eq!(record.entry().map(|entry| entry.is_edited()), Some(version > 0));
        }
        assert!(item(entry(v1::EntryState::Resolved, 1), None).is_err(), "an edited version is never guessed");
        let blocked = item(v1::marked_offset::Why::BlockedBy("e".to_owned()), None).unwrap();
        assert!(matches!(blocked, Item::Blocked(_)));
    }

    #[test]
    fn entries_come_first_and_nothing_is_lost_by_a_second_reason_to_close() {
        let inbox = Inbox::default();
        inbox.put(Part::Gap(2, 3));
        inbox.put_entry(ConsumedRecord::of_log(&source(), record()));
        assert!(inbox.take_part().is_none(), "an entry waits");
        assert!(matches!(inbox.take(), Some(Arrival::Entry(_))));
        assert!(matches!(inbox.take(), Some(Arrival::Part(Part::Gap(2, 3)))));
        inbox.close(Closed::Lost);
        inbox.close(Closed::Revoked);
        assert_eq!(inbox.closed(), Some(Closed::Lost));
    }
}
