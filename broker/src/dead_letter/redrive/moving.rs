//! Target TOPIC: entries appended to a topic again, by the steps of rule DL-4 (rule RD-3).
//!
//! ```text
//! intent durable (the job's state) -> appended, durable -> entries MOVED, durable
//! ```
//! After a start the topic is searched from the ends that the intent noted: what was appended is closed, not appended
//! again.
//!
//! A topic that is the entries' own source gets them at its end; the group may read them there before their key is free,
//! and park them behind it. Those are not appended once more: they are given to the group, as by any redrive.
//!
//! Invariant: no record is appended twice by a job, whatever is cut short where, and none is closed unappended.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sawlog_proto::batch::{BatchBuilder, BatchHeader, BatchRecord, Codec, RecordHeader};
use sawlog_proto::partitioner::partition_of;

use super::stored::{Moving, StoredJob};
use super::{Piece, Selection};
use crate::dead_letter::copies::Copies;
use crate::dead_letter::error::LetterError;
use crate::dead_letter::handle::GroupHandle;
use crate::dead_letter::headers::DeadLetterId;
use crate::dead_letter::letters::Letters;
use crate::dead_letter::logs::TargetTopic;
use crate::dead_letter::records::{Missing, search};
use crate::dead_letter::views::{JobId, RedriveTarget};
use crate::group::entry::{Act, EntryKey, EntryState};
use crate::group::event::Admin;
use crate::model::{AckLevel, Offset, TopicUuid};
use crate::partition::{AppendFailure, CheckedBatch, PartitionLog, Permit};

/// Name of the header that says which dead letter a record was.
const REDRIVEN_FROM: &str = "dlq.redriven_from";
/// Wait before an append that failed is tried again; doubles.
const FIRST_WAIT: Duration = Duration::from_millis(50);
/// Longest wait.
const LONGEST_WAIT: Duration = Duration::from_secs(5);

impl Letters {
    /// Of source topics that a job appends to: where their partitions end now.
    pub(super) fn ends_of_sources(
        &self,
        group: &Arc<dyn GroupHandle>,
        target: &RedriveTarget,
        selection: &Selection,
    ) -> Vec<(TopicUuid, Vec<Offset>)> {
        let sources: BTreeSet<TopicUuid> = selection.pieces.iter().map(|piece| piece.lane().0.topic).collect();
        let own = |source: &TopicUuid| {
            let target = self.topic_of(group, target, *source).map(|(_, target)| target);
            target.filter(|target| target.uuid == *source)
        };
        let ends = |target: TargetTopic| target.partitions.iter().map(|log| log.high_watermark()).collect();
        sources.iter().filter_map(|source| Some((*source, ends(own(source)?)))).collect()
    }

    /// Takes entries to where the job's target is: appends them, or gives the group what came back to it.
    pub(super) async fn move_or_give(
        &self,
        id: JobId,
        group: &Arc<dyn GroupHandle>,
        given: Vec<(EntryKey, Piece)>,
    ) -> Result<(), LetterError> {
        let (back, moved): (Vec<_>, Vec<_>) = given.into_iter().partition(|(key, _)| self.jobs.came_after(id, key));
        if !moved.is_empty() {
            self.move_entries(id, group, &moved).await?;
        }
        if back.is_empty() { Ok(()) } else { self.give(id, group, back).await }
    }

    /// Appends entries to the job's topic and closes them.
    async fn move_entries(
        &self,
        id: JobId,
        group: &Arc<dyn GroupHandle>,
        given: &[(EntryKey, Piece)],
    ) -> Result<(), LetterError> {
        // Nobody edits or discards them meanwhile.
        let _acting = self.acting(id.group).await;
        if !self.jobs.runs(id) {
            return Ok(());
        }
        for (source_topic, entries) in by_topic(given) {
            let Some((name, target)) = self.target_of(id, group, source_topic) else {
                entries.iter().for_each(|key| self.jobs.failed(id.group, key));
                continue;
            };
            let mut copies = Copies::new(&self.parts.logs, group);
            let mut batches: BTreeMap<u32, Vec<(EntryKey, BatchRecord)>> = BTreeMap::new();
            for key in entries {
                match self.placed(&mut copies, group, key, &target).await? {
                    Placed::At(partition, record) => batches.entry(partition).or_default().push((key, record)),
                    Placed::Closed => self.jobs.passed_by(id, &key),
                    Placed::Nowhere => self.jobs.failed(id.group, &key),
                }
            }
            let keys: Vec<EntryKey> = batches.values().flatten().map(|(key, _)| *key).collect();
            if keys.is_empty() {
                continue;
            }
            let ends = target.partitions.iter().map(|log| log.high_watermark()).collect();
            self.jobs.set_moving(id, Some(Moving { topic: name, entries: keys.clone(), ends }));
            self.keep(id).await?;
            for (partition, records) in &batches {
                let log = &target.partitions[*partition as usize];
                if !self.append_moved(id, &**log, target.level, records).await? {
                    return Ok(());
                }
            }
            self.close_moved(id, group, keys).await?;
        }
        Ok(())
    }

    /// The topic that an entry of a source topic goes to.
    fn target_of(&self, id: JobId, group: &Arc<dyn GroupHandle>, source: TopicUuid) -> Option<(String, TargetTopic)> {
        self.topic_of(group, &self.jobs.target(id)?, source)
    }

    fn topic_of(
        &self,
        group: &Arc<dyn GroupHandle>,
        target: &RedriveTarget,
        source: TopicUuid,
    ) -> Option<(String, TargetTopic)> {
        let name = match target {
            RedriveTarget::Topic(Some(name)) => name.clone(),
            RedriveTarget::Topic(None) => group.topic(source)?.name,
            RedriveTarget::Group => return None,
        };
        let target = self.parts.logs.target(&name).filter(|target| !target.reserved)?;
        Some((name, target))
    }

    async fn placed(
        &self,
        copies: &mut Copies,
        group: &Arc<dyn GroupHandle>,
        key: EntryKey,
        target: &TargetTopic,
    ) -> Result<Placed, LetterError> {
        let mut entry = None;
        group.with_entries(&mut |table| entry = table.get(&key));
        let Some(entry) = entry.filter(|entry| entry.state == EntryState::Open && entry.job.is_none()) else {
            return Ok(Placed::Closed);
        };
        let Some(mut record) = copies.newest(&key, &entry).await? else { return Ok(Placed::Nowhere) };
        record.headers.retain(|header| header.key != REDRIVEN_FROM);
        let id = DeadLetterId { group: group.letters_id(), key };
        record.headers.push(RecordHeader {
            key: Bytes::from_static(REDRIVEN_FROM.as_bytes()),
            value: Some(Bytes::from(id.to_string())),
        });
        let count = u32::try_from(target.partitions.len()).unwrap_or(u32::MAX);
        let partition = match &record.key {
            Some(key) => partition_of(key, count),
            None if target.keyed => return Ok(Placed::Nowhere),
            None => key.source.partition.0 % count.max(1),
        };
        let headers: usize =
            record.headers.iter().map(|one| one.key.len() + one.value.as_ref().map_or(0, Bytes::len)).sum();
        let size = record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + headers;
        // The mark comes on top of what the topic allows.
        if size as u64 > target.max_record_bytes.saturating_add(256) {
            return Ok(Placed::Nowhere);
        }
        Ok(Placed::At(partition, record))
    }

    /// Appends, however long it takes; `false`: the job does not run any more.
    async fn append_moved(
        &self,
        id: JobId,
        log: &dyn PartitionLog,
        level: AckLevel,
        records: &[(EntryKey, BatchRecord)],
    ) -> Result<bool, LetterError> {
        let mut wait = FIRST_WAIT;
        for chunk in chunks(records) {
            loop {
                match log.append(chunk.clone(), level, Permit::default()).await {
                    Ok(_) => break,
                    Err(AppendFailure::ShuttingDown) => return Err(LetterError::ShuttingDown),
                    // Whether it was written is found out at the next start: appending again could double it.
                    Err(failure @ AppendFailure::Fenced { outcome_unknown: true, .. }) => return Err(failure.into()),
                    Err(failure) => tracing::warn!(job = %id, %failure, "a redrive cannot append; tried again"),
                }
                tokio::select! {
                    () = self.stopping.cancelled() => return Err(LetterError::ShuttingDown),
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(LONGEST_WAIT);
                if !self.jobs.exists(id) {
                    return Ok(false);
                }
            }
        }
        Ok(true)
    }

    async fn close_moved(
        &self,
        id: JobId,
        group: &Arc<dyn GroupHandle>,
        entries: Vec<EntryKey>,
    ) -> Result<(), LetterError> {
        let act = || {
            let time_ms = self.parts.clock.wall_ms();
            Act { actor: "broker".into(), time_ms, note: format!("moved by job {id}") }
        };
        let close = |entries: Vec<EntryKey>| Admin::CloseEntries { entries, state: EntryState::Moved, act: act() };
        if let Err(error) = self.act(group, close(entries.clone())).await {
            if matches!(error, LetterError::Stopped { .. }) {
                return Err(error);
            }
            // One was closed by its consumer meanwhile: one by one.
            for key in &entries {
                match self.act(group, close(vec![*key])).await {
                    Err(error @ LetterError::Stopped { .. }) => return Err(error),
                    Err(_) => self.jobs.passed_by(id, key),
                    Ok(()) => {}
                }
            }
        }
        // The news of it may have come already; who comes second finds nothing.
        for key in &entries {
            self.jobs.closed(id.group, key, Some(EntryState::Moved));
        }
        self.jobs.set_moving(id, None);
        Ok(())
    }

    /// What a stop cut short: what is found in the topic is closed; the rest is selected again.
    pub(super) async fn finish_moving(
        &self,
        id: JobId,
        group: &Arc<dyn GroupHandle>,
        stored: &StoredJob,
    ) -> Result<(), LetterError> {
        let Some(moving) = &stored.moving else { return Ok(()) };
        let _acting = self.acting(id.group).await;
        let Some(target) = self.parts.logs.target(&moving.topic) else { return Ok(()) };
        let wanted: HashSet<EntryKey> = moving.entries.iter().copied().collect();
        let mut found = HashSet::new();
        for (log, end) in target.partitions.iter().zip(&moving.ends) {
            let mut wait = FIRST_WAIT;
            let visit = |record: &BatchRecord| {
                let from = record.headers.iter().find(|header| header.key == REDRIVEN_FROM.as_bytes());
                let text = from.and_then(|header| std::str::from_utf8(header.value.as_deref()?).ok());
                let id: Option<DeadLetterId> = text.and_then(|text| text.parse().ok());
                id.filter(|id| id.group == group.letters_id() && wanted.contains(&id.key)).map(|id| id.key)
            };
            while let Err(Missing::Later(what)) = search(&**log, *end, |_, record| found.extend(visit(record))).await {
                tracing::warn!(job = %id, what, "a topic cannot be searched yet");
                tokio::select! {
                    () = self.stopping.cancelled() => return Err(LetterError::ShuttingDown),
                    () = tokio::time::sleep(wait) => {}
                }
                wait = (wait * 2).min(LONGEST_WAIT);
            }
        }
        let mut open = Vec::new();
        group.with_entries(&mut |table| {
            let still = |key: &&EntryKey| table.state_of(key) == Some(EntryState::Open);
            open.extend(moving.entries.iter().filter(|key| found.contains(*key)).filter(still).copied());
        });
        self.jobs.count_resolved(id, open.len() as u64);
        if open.is_empty() {
            self.jobs.set_moving(id, None);
            return Ok(());
        }
        self.close_moved(id, group, open).await
    }
}

/// Where an entry goes.
enum Placed {
    /// To this partition, like this.
    At(u32, BatchRecord),
    /// It is not open any more.
    Closed,
    /// It is lost, or the topic does not take it.
    Nowhere,
}

/// Entries by their source topic, in order.
fn by_topic(given: &[(EntryKey, Piece)]) -> BTreeMap<TopicUuid, Vec<EntryKey>> {
    let mut topics: BTreeMap<_, Vec<EntryKey>> = BTreeMap::new();
    for (key, _) in given {
        topics.entry(key.source.topic).or_default().push(*key);
    }
    topics
}

/// Batches of bounded size, in order.
fn chunks(records: &[(EntryKey, BatchRecord)]) -> Vec<CheckedBatch> {
    const BYTES: usize = 1 << 20;
    let mut batches = Vec::new();
    let mut builder = BatchBuilder::new(Codec::None);
    let mut finish = |builder: &mut BatchBuilder| {
        if !builder.is_empty() {
            let bytes = builder.finish();
            let header = BatchHeader::decode(&bytes).expect("the builder makes good batches");
            batches.push(CheckedBatch { header, bytes, request: None, events: None });
        }
    };
    for (_, record) in records {
        if builder.len_bytes() > BYTES {
            finish(&mut builder);
        }
        let headers = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        builder.push_raw(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), headers);
    }
    finish(&mut builder);
    batches
}

impl super::Jobs {
    pub(super) fn runs(&self, id: JobId) -> bool {
        let inner = self.inner.lock();
        inner.jobs.get(&id).is_some_and(|job| job.stored.state == crate::dead_letter::views::JobState::Running)
    }

    fn exists(&self, id: JobId) -> bool {
        self.inner.lock().jobs.contains_key(&id)
    }

    fn target(&self, id: JobId) -> Option<RedriveTarget> {
        Some(self.inner.lock().jobs.get(&id)?.stored.request.target.clone())
    }

    fn came_after(&self, id: JobId, key: &EntryKey) -> bool {
        self.inner.lock().jobs.get(&id).is_some_and(|job| job.stored.came_after(key))
    }

    fn set_moving(&self, id: JobId, moving: Option<Moving>) {
        if let Some(job) = self.inner.lock().jobs.get_mut(&id) {
            job.stored.moving = moving;
            job.dirty = true;
        }
    }

    fn count_resolved(&self, id: JobId, count: u64) {
        if let Some(job) = self.inner.lock().jobs.get_mut(&id) {
            job.stored.resolved += count;
            job.dirty = true;
        }
    }
}
