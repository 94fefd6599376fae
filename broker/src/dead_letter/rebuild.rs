//! Entries made anew from their copies, after a part of the entries journal was lost (rules AK-11, DL-12).
//!
//! Owns what a copy proves: which record died or was parked, when and why, in which cycle, and its edited versions. Must
//! not know journals: it says which records bring a table up to what the copies prove, and somebody writes them.
//!
//! What cannot be known: an entry that was closed, or that was spilled, behind the damage, while its copy is still there, is
//! open again: a copy is written once and says nothing of what was done later (rule DL-12). The same goes for jobs, for
//! tries since the death, and for one that was forgotten and whose copy its segment still holds. Nothing is lost by it:
//! whoever recovers looks at what is open, and discards what had been dealt with.
//!
//! Invariants: what the table has is newer than a copy of the same cycle and stays as it is; what only a copy knows is
//! open, for its state is lost with the journal; an intent that is open opens its entry itself. A second run after the
//! first finds nothing.

use std::collections::BTreeMap;

use sawlog_proto::batch::BatchRecord;

use super::copies::{bare, edit_act};
use super::headers::DeadLetterHeaders;
use super::logs::LetterLogs;
use super::records::search;
use crate::group::entry::{Act, DeadReason, Entry, EntryKey, EntryKind, EntryRecord, EntryState, EntryTable};
use crate::group::retry::AfterDead;
use crate::group::state::GroupState;
use crate::group::{GroupTopic, Mode};
use crate::model::{KeySlot, LaneKey, Offset, PartitionId, Source};
use crate::partition::PartitionLog;

/// Lane and slot of a record with this key, at this offset.
pub type Place = fn(Option<&[u8]>, Offset) -> (LaneKey, KeySlot);

/// What the copies of a record prove.
#[derive(Debug, Default)]
struct Proof {
    /// The copy of the greatest cycle.
    copy: Option<Entry>,
    /// Edited versions by number.
    versions: BTreeMap<u32, (Offset, Act)>,
}

/// Records that bring a group's table up to what its dead-letter topics prove. Reads all copies.
///
/// # Errors
/// A dead-letter partition cannot be read now, in words.
pub async fn lost_entries(
    logs: &dyn LetterLogs,
    state: &GroupState,
    table: &EntryTable,
    place: Place,
) -> Result<Vec<EntryRecord>, String> {
    let mut records = Vec::new();
    // The end of a topic may be among what was lost.
    let sources = table.sources().filter(|source| !state.topics.contains_key(&source.topic));
    let gone: Vec<Source> = sources.collect();
    if !gone.is_empty() {
        records.push(EntryRecord::Dropped { sources: gone });
    }
    for topic in state.topics.values().filter(|topic| !topic.is_dlq) {
        for partition in (0..topic.partitions).map(PartitionId) {
            let source = Source { topic: topic.topic, partition };
            let Some(log) = logs.dead_letters(state.id, source) else { continue };
            let proofs = proofs(&*log, state, topic, source, place).await?;
            let origin = logs.partition(source);
            for (key, proof) in proofs {
                records.extend(missing(table, key, proof, origin.as_deref()).await);
            }
        }
    }
    Ok(records)
}

/// What the copies of a partition prove.
async fn proofs(
    log: &dyn PartitionLog,
    state: &GroupState,
    topic: &GroupTopic,
    source: Source,
    place: Place,
) -> Result<BTreeMap<EntryKey, Proof>, String> {
    let mut proofs: BTreeMap<EntryKey, Proof> = BTreeMap::new();
    let partition = state.partitions.get(&source);
    let intended = |key: &EntryKey, cycle: u32| {
        let intents = partition.into_iter().flat_map(|one| one.intents.values());
        intents.into_iter().any(|intent| intent.key == *key && intent.cycle == cycle)
    };
    let visit = |offset: Offset, record: &BatchRecord| {
        let headers = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        let Ok(said) = DeadLetterHeaders::parse(headers) else { return };
        let key = said.id.key;
        if said.id.group != state.id || key.source != source || intended(&key, said.cycle) {
            return;
        }
        let proof = proofs.entry(key).or_default();
        if said.edited > 0 {
            proof.versions.insert(said.edited, (offset, edit_act(record)));
        } else if proof.copy.as_ref().is_none_or(|known| known.cycle < said.cycle) {
            let mut entry = entry_of(&said, record, offset, place);
            entry.holds = holds(state, topic, &entry);
            // Of before a reset that has not cleared everything yet, or of after it: as no entry was opened since.
            entry.intent = partition.map_or(0, |one| one.next_intent.saturating_sub(1));
            proof.copy = Some(entry);
        }
    };
    search(log, Offset::ZERO, visit).await.map_err(|missing| missing.to_string())?;
    Ok(proofs)
}

/// What the table lacks of a record's entry.
async fn missing(
    table: &EntryTable,
    key: EntryKey,
    proof: Proof,
    origin: Option<&dyn PartitionLog>,
) -> Vec<EntryRecord> {
    let known = table.get(&key);
    let first = known.as_ref().map_or(0, |entry| entry.versions.len());
    // Versions count from 1; one behind a damaged one cannot be numbered, and is left out.
    let versions = (1..).map_while(|number| proof.versions.get(&number)).skip(first);
    let edits = versions.map(|(copy, act)| EntryRecord::Edited { key, copy: *copy, act: act.clone() });
    let opened = match (known, proof.copy) {
        (_, None) => None,
        (Some(known), Some(copy)) if known.cycle >= copy.cycle => None,
        (known, Some(mut copy)) => {
            copy.versions = known.map(|known| known.versions).unwrap_or_default();
            copy.source_lost = match origin {
                Some(log) => log.check_position(key.epoch, key.offset).await.is_err() && key.epoch < log.epoch(),
                None => true,
            };
            Some(EntryRecord::Opened { key, entry: Box::new(copy) })
        }
    };
    if opened.is_none() && table.get(&key).is_none() {
        // Only versions were found: what they are versions of is not known any more.
        return Vec::new();
    }
    opened.into_iter().chain(edits).collect()
}

/// What a copy says of its entry. Its state is lost: it is open.
fn entry_of(said: &DeadLetterHeaders, record: &BatchRecord, copy: Offset, place: Place) -> Entry {
    let some = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
    let (lane, slot) = place(record.key.as_deref(), said.id.key.offset);
    let own = bare(record.clone());
    let length = |part: &Option<bytes::Bytes>| part.as_ref().map_or(0, bytes::Bytes::len);
    let headers: usize = own.headers.iter().map(|header| header.key.len() + length(&header.value)).sum();
    Entry {
        lane,
        slot,
        kind: said.kind,
        state: EntryState::Open,
        job: None,
        cycle: said.cycle,
        copy,
        attempts: said.attempts,
        due_ms: 0,
        delay_ms: 0,
        first_delivery_ms: said.first_failure_ms.unwrap_or(0),
        reason: said.reason,
        class: some(&said.error.class),
        fingerprint: some(&said.error.fingerprint),
        blocked_by: said.blocked_by.filter(|head| head.source == said.id.key.source),
        holds: true,
        size_bytes: u32::try_from(length(&own.key) + length(&own.value) + headers).unwrap_or(u32::MAX),
        intent: 0,
        versions: Vec::new(),
        dead_ms: said.dead_ms,
        act: Act::default(),
        source_lost: false,
    }
}

/// Whether a lane waits for an entry, by the policy at present (rules DL-8, DL-16).
fn holds(state: &GroupState, topic: &GroupTopic, entry: &Entry) -> bool {
    let retry = state.config.topic_retry.get(&topic.topic).unwrap_or(&state.config.retry);
    let parks = state.config.mode != Mode::Unordered && retry.after_dead == AfterDead::Park;
    entry.reason != DeadReason::Undecodable && (entry.kind == EntryKind::Parked || parks)
}

#[cfg(test)]
mod tests;
