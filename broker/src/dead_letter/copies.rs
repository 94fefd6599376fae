//! The records behind entries: copies and versions among the dead letters, the source's record where a copy is lost.

use std::collections::HashMap;
use std::sync::Arc;

use sawlog_proto::batch::{BatchRecord, RecordHeader};

use super::error::LetterError;
use super::handle::GroupHandle;
use super::headers::{DeadLetterHeaders, DeadLetterId, EDIT_NAMES, is_added};
use super::logs::LetterLogs;
use super::records::{Missing, RecordReader};
use super::views::{CopyView, EntryView, VersionView};
use crate::group::entry::{Act, Entry, EntryFailure, EntryKey};
use crate::model::{Offset, Source};

/// Reads the records of a group's entries.
#[derive(Debug)]
pub(super) struct Copies {
    logs: Arc<dyn LetterLogs>,
    group: Arc<dyn GroupHandle>,
    letters: HashMap<Source, RecordReader>,
    sources: HashMap<Source, RecordReader>,
}

/// A record as it stands among the dead letters, or in the source.
#[derive(Debug, Clone)]
pub(super) struct Original {
    pub(super) record: BatchRecord,
    /// What its headers say; `None`: it is the source's own.
    pub(super) said: Option<DeadLetterHeaders>,
    /// Time of the append to the source.
    pub(super) append_ms: i64,
}

impl Copies {
    pub(super) fn new(logs: &Arc<dyn LetterLogs>, group: &Arc<dyn GroupHandle>) -> Self {
        let (letters, sources) = (HashMap::new(), HashMap::new());
        Self { logs: Arc::clone(logs), group: Arc::clone(group), letters, sources }
    }

    /// A record among the dead letters of a partition; `None`: it is not there any more.
    async fn letter(&mut self, source: Source, offset: Offset) -> Result<Option<BatchRecord>, LetterError> {
        let reader = match self.letters.entry(source) {
            std::collections::hash_map::Entry::Occupied(reader) => reader.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => {
                let Some(log) = self.logs.dead_letters(self.group.letters_id(), source) else { return Ok(None) };
                empty.insert(RecordReader::new(log))
            }
        };
        match reader.record(offset, None).await {
            Ok(found) => Ok(Some(found.record)),
            Err(Missing::Lost(_)) => Ok(None),
            Err(Missing::Later(what)) => Err(LetterError::Read { what }),
        }
    }

    /// The record as it was when it died; `None`: lost, here and in the source (rule DL-12).
    pub(super) async fn original(&mut self, key: &EntryKey, entry: &Entry) -> Result<Option<Original>, LetterError> {
        if let Some(record) = self.letter(key.source, entry.copy).await? {
            let headers = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
            // What lies there must be this record: a partition of dead letters may have been lost and made anew.
            let said = DeadLetterHeaders::parse(headers).ok();
            if let Some(said) = said.filter(|said| said.id.key == *key && said.id.group == self.group.letters_id()) {
                let append_ms = said.append_ms;
                return Ok(Some(Original { record, said: Some(said), append_ms }));
            }
        }
        if entry.source_lost {
            return Ok(None);
        }
        let reader = match self.sources.entry(key.source) {
            std::collections::hash_map::Entry::Occupied(reader) => reader.into_mut(),
            std::collections::hash_map::Entry::Vacant(empty) => {
                let Some(log) = self.logs.partition(key.source) else { return Ok(None) };
                empty.insert(RecordReader::new(log))
            }
        };
        match reader.record(key.offset, Some(key.epoch)).await {
            Ok(found) => Ok(Some(Original { record: found.record, said: None, append_ms: found.append_ms })),
            Err(Missing::Lost(_)) => Ok(None),
            Err(Missing::Later(what)) => Err(LetterError::Read { what }),
        }
    }

    /// The newest version of a record, without the headers of dead letters; `None`: lost.
    pub(super) async fn newest(&mut self, key: &EntryKey, entry: &Entry) -> Result<Option<BatchRecord>, LetterError> {
        if let Some(version) = entry.versions.last()
            && let Some(record) = self.letter(key.source, *version).await?
        {
            return Ok(Some(bare(record)));
        }
        Ok(self.original(key, entry).await?.map(|original| bare(original.record)))
    }

    /// All versions, the original first.
    pub(super) async fn versions(&mut self, key: &EntryKey, entry: &Entry) -> Result<Vec<VersionView>, LetterError> {
        let original = self.original(key, entry).await?;
        let act = Act { actor: "broker".into(), time_ms: entry.dead_ms, note: String::new() };
        let mut versions = vec![VersionView { version: 0, record: original.map(|one| bare(one.record)), act }];
        for (version, offset) in (1..).zip(&entry.versions) {
            let record = self.letter(key.source, *offset).await?;
            let act = record.as_ref().map(edit_act).unwrap_or_default();
            versions.push(VersionView { version, record: record.map(bare), act });
        }
        Ok(versions)
    }

    /// An entry as it is shown.
    pub(super) async fn view(
        &mut self,
        key: EntryKey,
        entry: Entry,
        with_record: bool,
    ) -> Result<EntryView, LetterError> {
        let topic = self.group.topic(key.source.topic);
        let original = self.original(&key, &entry).await?;
        let mut failure = None;
        self.group.with_entries(&mut |table| failure = table.failure(&key).cloned());
        let record = match (with_record, entry.versions.is_empty(), &original) {
            (false, ..) => None,
            (true, true, original) => original.as_ref().map(|original| bare(original.record.clone())),
            (true, false, _) => self.newest(&key, &entry).await?,
        };
        let retention_ms = self.group.config().dlq_retention_ms;
        let expire_ms = (!entry.state.is_closed()).then(|| entry.dead_ms.saturating_add(retention_ms));
        Ok(EntryView {
            group: self.group.letters_id(),
            key,
            group_name: self.group.name().as_str().to_owned(),
            topic: topic.as_ref().map(|topic| topic.name.clone()).unwrap_or_default(),
            dlq_topic: topic.map(|topic| topic.dlq).unwrap_or_default(),
            copy: original.map(|original| copy_view(&original, &entry, failure.as_ref())),
            entry,
            expire_ms,
            record,
        })
    }

    /// The id of an entry of the group.
    pub(super) fn id(&self, key: EntryKey) -> DeadLetterId {
        DeadLetterId { group: self.group.letters_id(), key }
    }
}

fn copy_view(original: &Original, entry: &Entry, failure: Option<&EntryFailure>) -> CopyView {
    let said = original.said.as_ref();
    let mut error = said.map(|said| said.error.clone()).unwrap_or_default();
    if let Some(failure) = failure {
        let trace = Some(&failure.error.trace).filter(|trace| !trace.is_empty()).unwrap_or(&error.trace).clone();
        error = crate::group::record::ErrorInfo { trace, ..failure.error.clone() };
    }
    // Newer state wins (rule DL-3).
    if let Some(class) = entry.class.as_ref().filter(|class| **class != error.class) {
        error = crate::group::record::ErrorInfo { class: class.clone(), trace: error.trace, ..Default::default() };
    }
    if let Some(fingerprint) = &entry.fingerprint {
        error.fingerprint.clone_from(fingerprint);
    }
    CopyView {
        key: original.record.key.clone(),
        append_ms: original.append_ms,
        first_failure_ms: said.and_then(|said| said.first_failure_ms).or(failure.map(|failure| failure.time_ms)),
        last_failure_ms: failure.map(|failure| failure.time_ms).or(said.and_then(|said| said.last_failure_ms)),
        error,
        member: failure.map_or(said.and_then(|said| said.member), |failure| failure.member),
        client_version: match failure {
            Some(failure) => failure.client_version.clone(),
            None => said.map(|said| said.client_version.clone()).unwrap_or_default(),
        },
    }
}

/// The record without what dead letters get on top.
pub(super) fn bare(mut record: BatchRecord) -> BatchRecord {
    record.headers.retain(|header| !is_added(&header.key));
    record
}

/// Who stored a version, when, and why.
pub(super) fn edit_act(record: &BatchRecord) -> Act {
    let text = |name: &str| {
        let found = record.headers.iter().rev().find(|header: &&RecordHeader| header.key == name.as_bytes());
        let value = found.and_then(|header| header.value.as_deref()).unwrap_or_default();
        String::from_utf8_lossy(value).into_owned()
    };
    let [actor, time, note] = EDIT_NAMES;
    Act { actor: text(actor), time_ms: text(time).parse().unwrap_or(0), note: text(note) }
}
