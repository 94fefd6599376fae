//! What operators ask of entries and do with them: look, edit, give up, skip, try again (rules RD-6, RD-8).

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use sawlog_proto::batch::{BatchBuilder, BatchHeader, BatchRecord, Codec, RecordHeader};
use sawlog_proto::partitioner::partition_of;

use super::copies::{Copies, Original, bare};
use super::error::LetterError;
use super::handle::GroupHandle;
use super::headers::{DeadLetterHeaders, EDIT_NAMES, is_added};
use super::letters::Letters;
use super::mover;
use super::records::{Missing, RecordReader};
use super::select::{Ready, topic_named};
use super::views::{
    Discarded, Edit, EntryDetails, EntryPage, EntryView, EventView, HeadOf, HeadView, JobId, PageRequest, Selector,
    StateName, VersionView,
};
use crate::group::entry::{Act, DeadReason, Entry, EntryKey, EntryState, LaneState, Past};
use crate::group::event::Admin;
use crate::limits;
use crate::model::{LaneKey, Offset, PartitionId, Source};
use crate::partition::CheckedBatch;

/// Bytes of a note.
const NOTE_BYTES: usize = 4 << 10;
/// Entries closed by one record.
const CHUNK: usize = 500;
/// States of entries that are not closed.
const NOT_CLOSED: [StateName; 3] = [StateName::Open, StateName::Spilled, StateName::Redriving];

impl Letters {
    /// Entries in order of source and offset; those not closed unless the selector names states.
    ///
    /// # Errors
    /// The group has no such topic, or copies cannot be read now.
    pub async fn list(
        &self,
        group: &Arc<dyn GroupHandle>,
        selector: &Selector,
        page: PageRequest,
    ) -> Result<EntryPage, LetterError> {
        let states: &[StateName] = if selector.ids.is_empty() { &NOT_CLOSED } else { &[] };
        let ready = Ready::new(group, selector, self.parts.lane_of, states)?;
        let mut copies = Copies::new(&self.parts.logs, group);
        let (found, next) = ready.page(group, &mut copies, page.after, page.limit).await?;
        let mut entries = Vec::with_capacity(found.len());
        let mut bytes = 0;
        for (key, entry) in found {
            let view = copies.view(key, entry, page.with_records).await?;
            bytes += view.record.as_ref().map_or(0, record_bytes);
            if bytes > page.max_bytes
                && let Some(last) = entries.last().map(|view: &EntryView| view.key)
            {
                return Ok(EntryPage { entries, next: Some(last) });
            }
            entries.push(view);
        }
        Ok(EntryPage { entries, next })
    }

    /// An entry with its versions and its history.
    ///
    /// # Errors
    /// [`LetterError::EntryNotFound`], or a copy cannot be read now.
    pub async fn get(&self, group: &Arc<dyn GroupHandle>, key: EntryKey) -> Result<EntryDetails, LetterError> {
        let entry = entry_of(group, key)?;
        let mut past = Vec::new();
        group.with_entries(&mut |table| past = table.past(&key));
        let mut copies = Copies::new(&self.parts.logs, group);
        let versions = copies.versions(&key, &entry).await?;
        let said = copies.original(&key, &entry).await?.and_then(|original| original.said);
        let view = copies.view(key, entry, true).await?;
        let history = history(&view.entry, said.map_or(0, |said| said.cycle), past, &versions);
        Ok(EntryDetails { view, versions, history })
    }

    /// Stores a new version of an open entry (rule RD-6); answers the entry and the version's number.
    ///
    /// # Errors
    /// [`LetterError::EntryNotFound`], [`LetterError::EntryClosed`], [`LetterError::JobConflict`],
    /// [`LetterError::Invalid`] for another key, no note, or too large a record, [`LetterError::StaleVersion`], or that
    /// it could not be written.
    pub async fn edit(&self, group: &Arc<dyn GroupHandle>, edit: Edit) -> Result<(EntryView, u32), LetterError> {
        check_note("note", &edit.note)?;
        let _acting = self.acting(group.id()).await;
        let key = edit.key;
        let entry = entry_of(group, key)?;
        check_open(group, key, &entry)?;
        let current = u32::try_from(entry.versions.len()).unwrap_or(u32::MAX);
        if let Some(given) = edit.versions.filter(|given| *given != current) {
            return Err(LetterError::StaleVersion { given, current });
        }
        let mut copies = Copies::new(&self.parts.logs, group);
        let lost = || LetterError::Read { what: "the record is lost, here and in its source".into() };
        let original = copies.original(&key, &entry).await?.ok_or_else(lost)?;
        let newest = copies.newest(&key, &entry).await?.ok_or_else(lost)?;
        let record = edited(&edit, newest)?;
        let act = Act { actor: edit.actor.clone(), time_ms: self.parts.clock.wall_ms(), note: edit.note.clone() };
        let version = current.saturating_add(1);
        let headers = version_headers(&copies, key, &entry, &original, version, &act, group);
        let batch = batch_of(&record, &headers);
        let log = self.parts.logs.dead_letters(group.letters_id(), key.source);
        let log = log.ok_or_else(|| LetterError::Read { what: "the dead-letter topic is gone".into() })?;
        let ack = log.append_dead_letters(batch).await?;
        self.act(group, Admin::EntryEdited { entry: key, copy: ack.base_offset, act }).await?;
        let view = copies.view(key, entry_of(group, key)?, true).await?;
        Ok((view, version))
    }

    /// Gives open entries up, with a reason (rule RD-8).
    ///
    /// # Errors
    /// [`LetterError::Invalid`] without a condition or a reason, [`LetterError::JobConflict`] if a job has one of them,
    /// and of entries named by their ids those of [`Letters::edit`].
    pub async fn discard(
        &self,
        group: &Arc<dyn GroupHandle>,
        selector: &Selector,
        actor: &str,
        reason: &str,
        dry_run: bool,
    ) -> Result<Discarded, LetterError> {
        check_note("reason", reason)?;
        check_condition(selector)?;
        let _acting = self.acting(group.id()).await;
        check_ids(group, selector)?;
        let ready = Ready::new(group, selector, self.parts.lane_of, &[StateName::Open])?;
        let mut copies = Copies::new(&self.parts.logs, group);
        let mut lanes = BTreeSet::new();
        let mut done = Discarded::default();
        let mut after = None;
        loop {
            let (found, next) = ready.page(group, &mut copies, after, CHUNK).await?;
            lanes.extend(found.iter().map(|(key, entry)| (key.source, entry.lane)));
            done.entries += found.len() as u64;
            if !dry_run && !found.is_empty() {
                let entries = found.iter().map(|(key, _)| *key).collect();
                let act = Act { actor: actor.to_owned(), time_ms: self.parts.clock.wall_ms(), note: reason.to_owned() };
                self.act(group, Admin::CloseEntries { entries, state: EntryState::Discarded, act }).await?;
            }
            match next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        group.with_entries(&mut |table| {
            let live = lanes.iter().filter(|(source, lane)| table.lane_state(*source, *lane) == LaneState::Live);
            done.lanes_live = live.count() as u64;
        });
        Ok(done)
    }

    /// Gives up the record that blocks a lane (rule RD-8).
    ///
    /// # Errors
    /// [`LetterError::NoHead`], [`LetterError::JobConflict`], [`LetterError::Invalid`] without a reason.
    pub async fn skip_head(
        &self,
        group: &Arc<dyn GroupHandle>,
        head: &HeadOf,
        actor: &str,
        reason: &str,
    ) -> Result<HeadView, LetterError> {
        check_note("reason", reason)?;
        self.head(group, head, true, actor, reason).await
    }

    /// Tries the record that blocks a lane again, its attempts counted anew (rule RD-8). By hand: no job is made of it.
    ///
    /// # Errors
    /// [`LetterError::NoHead`], [`LetterError::JobConflict`].
    pub async fn retry_head(
        &self,
        group: &Arc<dyn GroupHandle>,
        head: &HeadOf,
        actor: &str,
    ) -> Result<HeadView, LetterError> {
        self.head(group, head, false, actor, "tried again by hand").await
    }

    async fn head(
        &self,
        group: &Arc<dyn GroupHandle>,
        head: &HeadOf,
        skip: bool,
        actor: &str,
        note: &str,
    ) -> Result<HeadView, LetterError> {
        let _acting = self.acting(group.id()).await;
        let lanes = self.lanes_of(group, head).await?;
        let found = lanes.into_iter().find_map(|(source, lane)| head_of(group, source, lane));
        let view = found.ok_or(LetterError::NoHead)?;
        if let Some(job) = view.job.filter(|job| job.number != 0) {
            return Err(LetterError::JobConflict { job });
        }
        let act = Act { actor: actor.to_owned(), time_ms: self.parts.clock.wall_ms(), note: note.to_owned() };
        self.act(group, Admin::Head { source: view.source, lane: view.lane, skip, act }).await?;
        Ok(HeadView { job: None, ..view })
    }

    /// Lanes that may be meant: a key of a topic without keys may be in any partition.
    async fn lanes_of(
        &self,
        group: &Arc<dyn GroupHandle>,
        head: &HeadOf,
    ) -> Result<Vec<(Source, LaneKey)>, LetterError> {
        match head {
            HeadOf::Entry(key) => Ok(vec![(key.source, entry_of(group, *key)?.lane)]),
            HeadOf::Key { topic, key } => {
                let topic = topic_named(group, topic)?;
                let lane = (self.parts.lane_of)(Some(key), Offset::ZERO);
                let count = group.topic(topic).map_or(0, |topic| topic.partitions);
                let source = |partition| Source { topic, partition: PartitionId(partition) };
                let likely = if count == 0 { 0 } else { partition_of(key, count) };
                let rest = (0..count).filter(|partition| *partition != likely);
                Ok(std::iter::once(likely).chain(rest).map(|partition| (source(partition), lane)).collect())
            }
            HeadOf::Offset { topic, partition, offset } => {
                let source = Source { topic: topic_named(group, topic)?, partition: *partition };
                let mut known = None;
                group.with_entries(&mut |table| {
                    let key = table.from(source, *offset).next().map(|(key, _)| key);
                    known = key.filter(|key| key.offset == *offset).and_then(|key| table.get(&key));
                });
                if let Some(entry) = known {
                    return Ok(vec![(source, entry.lane)]);
                }
                let log = self.parts.logs.partition(source).ok_or(LetterError::NoHead)?;
                let found = RecordReader::new(log).record(*offset, None).await.map_err(|missing| match missing {
                    Missing::Lost(_) => LetterError::NoHead,
                    Missing::Later(what) => LetterError::Read { what },
                })?;
                Ok(vec![(source, (self.parts.lane_of)(found.record.key.as_deref(), *offset))])
            }
        }
    }
}

/// What became of an entry, the oldest first: its death, its versions, what was done to it as far as it is remembered.
fn history(entry: &Entry, cycle: u32, past: Vec<Past>, versions: &[VersionView]) -> Vec<EventView> {
    let begin = if entry.reason == DeadReason::Spill { StateName::Spilled } else { StateName::Open };
    let died = Act { actor: "broker".into(), time_ms: entry.dead_ms, note: String::new() };
    let mut history = vec![EventView { state: begin, act: died, cycle, version: 0 }];
    for version in versions.iter().skip(1) {
        let act = version.act.clone();
        history.push(EventView { state: StateName::Open, act, cycle: entry.cycle, version: version.version });
    }
    let last = Past { state: entry.state, job: entry.job, cycle: entry.cycle, act: entry.act.clone() };
    let done = past.into_iter().chain((entry.act.time_ms != 0).then_some(last));
    for Past { state, job, cycle, act } in done {
        // Storing a version is told by the version.
        if versions.iter().skip(1).any(|version| version.act == act) {
            continue;
        }
        let version = if let EntryState::Resolved { version } = state { version } else { 0 };
        history.push(EventView { state: StateName::of_state(state, job.is_some()), act, cycle, version });
    }
    // Of the same moment in the order in which they are told above.
    history.sort_by_key(|event| event.act.time_ms);
    history
}

/// One entry.
pub(super) fn entry_of(group: &Arc<dyn GroupHandle>, key: EntryKey) -> Result<Entry, LetterError> {
    let mut found = None;
    group.with_entries(&mut |table| found = table.get(&key));
    found.ok_or(LetterError::EntryNotFound { key })
}

/// Whether an entry may be edited, given up, or given to a job (rule RD-6).
pub(super) fn check_open(group: &Arc<dyn GroupHandle>, key: EntryKey, entry: &Entry) -> Result<(), LetterError> {
    match (entry.state, entry.job) {
        (EntryState::Open, None) => Ok(()),
        (EntryState::Open, Some(number)) => Err(LetterError::JobConflict { job: JobId { group: group.id(), number } }),
        (state, _) => Err(LetterError::EntryClosed { key, state }),
    }
}

/// Entries named by their ids must be there and open: one that is not is told, not left out.
pub(super) fn check_ids(group: &Arc<dyn GroupHandle>, selector: &Selector) -> Result<(), LetterError> {
    selector.ids.iter().try_for_each(|key| check_open(group, *key, &entry_of(group, *key)?))
}

/// What changes entries needs a condition: nobody means all of them by saying nothing.
pub(super) fn check_condition(selector: &Selector) -> Result<(), LetterError> {
    if selector.is_empty() {
        let (found, bounds) = ("no condition".into(), "at least one besides the state".into());
        return Err(LetterError::Invalid { field: "selector", found, bounds });
    }
    Ok(())
}

fn check_note(field: &'static str, note: &str) -> Result<(), LetterError> {
    if note.trim().is_empty() || note.len() > NOTE_BYTES {
        let (found, bounds) = (format!("{} bytes", note.len()), format!("given, at most {NOTE_BYTES} bytes"));
        return Err(LetterError::Invalid { field, found, bounds });
    }
    Ok(())
}

/// The head of a lane that is not live: its first entry, or the record that waits in the source.
fn head_of(group: &Arc<dyn GroupHandle>, source: Source, lane: LaneKey) -> Option<HeadView> {
    let mut found = None;
    group.with_entries(&mut |table| {
        found = table.head_of(source, lane).and_then(|key| Some((key, table.get(&key)?.job)));
    });
    if let Some((record, job)) = found {
        let job = job.map(|number| JobId { group: group.id(), number });
        return Some(HeadView { source, lane, record, is_entry: true, job });
    }
    let mut waiting = None;
    group.with_state(&mut |state| {
        let tried = state.partitions.get(&source).into_iter().flat_map(|partition| partition.tried.values());
        waiting = tried.filter(|tried| tried.lane == lane).map(|tried| (tried.offset, tried.epoch)).next();
    });
    let (offset, epoch) = waiting?;
    let record = EntryKey { source, offset, epoch };
    Some(HeadView { source, lane, record, is_entry: false, job: None })
}

/// The record after an edit: key and tenant stay (rule RD-6).
fn edited(edit: &Edit, newest: BatchRecord) -> Result<BatchRecord, LetterError> {
    let invalid = |field, found: String, bounds: String| Err(LetterError::Invalid { field, found, bounds });
    if edit.record_key.is_some() && edit.record_key != newest.key {
        return invalid("key", "another key".into(), "the record's own: a key cannot be edited".into());
    }
    let mut record = newest;
    if let Some(headers) = &edit.headers {
        if let Some(reserved) = headers.iter().find(|header| is_added(&header.key)) {
            let found = String::from_utf8_lossy(&reserved.key).into_owned();
            return invalid("headers", found, "none that dead letters get".into());
        }
        let tenant = |headers: &[RecordHeader]| {
            headers.iter().rev().find(|header| header.key == "tenant_id").map(|header| header.value.clone())
        };
        if tenant(headers) != tenant(&record.headers) {
            return invalid("headers", "another tenant_id".into(), "the record's own tenant".into());
        }
        record.headers.clone_from(headers);
    }
    if let Some(value) = &edit.value {
        record.value.clone_from(value);
    }
    let (count, bytes) = (record.headers.len(), header_bytes(&record));
    if count > limits::HEADERS || bytes > limits::HEADERS_BYTES {
        let bounds = format!("at most {} of {} bytes", limits::HEADERS, limits::HEADERS_BYTES);
        return invalid("headers", format!("{count} of {bytes} bytes"), bounds);
    }
    let size = record_bytes(&record) as u64;
    if size > limits::RECORD_BYTES_MAX {
        return invalid("value", format!("a record of {size} bytes"), format!("at most {}", limits::RECORD_BYTES_MAX));
    }
    Ok(record)
}

fn header_bytes(record: &BatchRecord) -> usize {
    record.headers.iter().map(|header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len)).sum()
}

fn record_bytes(record: &BatchRecord) -> usize {
    let length = |part: &Option<Bytes>| part.as_ref().map_or(0, Bytes::len);
    length(&record.key) + length(&record.value) + header_bytes(record)
}

/// The headers of a version: those of the copy with its number, and who stored it.
fn version_headers(
    copies: &Copies,
    key: EntryKey,
    entry: &Entry,
    original: &Original,
    version: u32,
    act: &Act,
    group: &Arc<dyn GroupHandle>,
) -> Vec<(&'static str, Bytes)> {
    let said = original.said.clone().unwrap_or_else(|| DeadLetterHeaders {
        id: copies.id(key),
        kind: entry.kind,
        reason: entry.reason,
        topic: group.topic(key.source.topic).map(|topic| topic.name).unwrap_or_default(),
        group: group.name().as_str().to_owned(),
        key_seq: None,
        append_ms: original.append_ms,
        event_id: None,
        attempts: entry.attempts,
        first_failure_ms: None,
        last_failure_ms: None,
        dead_ms: entry.dead_ms,
        error: Default::default(),
        member: None,
        client_version: String::new(),
        blocked_by: entry.blocked_by,
        cycle: entry.cycle,
        edited: 0,
    });
    let mut headers = DeadLetterHeaders { edited: version, ..said }.added();
    let note = super::fingerprint::cut(&act.note, NOTE_BYTES);
    let texts = [act.actor.clone(), act.time_ms.to_string(), note.to_owned()];
    headers.extend(EDIT_NAMES.iter().zip(texts).map(|(name, text)| (*name, Bytes::from(text))));
    headers
}

/// One record among the dead letters.
fn batch_of(record: &BatchRecord, headers: &[(&'static str, Bytes)]) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    mover::push(&mut builder, &bare(record.clone()), headers);
    let bytes = builder.finish();
    let header = BatchHeader::decode(&bytes).expect("the builder makes good batches");
    CheckedBatch { header, bytes, request: None, events: None }
}

#[cfg(test)]
mod tests;
