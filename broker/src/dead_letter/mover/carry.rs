//! One task's work: the intents of a partition of a group, in order, by as few appends as possible.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sawlog_proto::batch::{BatchBuilder, BatchHeader, BatchRecord, Codec};
use tokio_util::sync::CancellationToken;

use super::super::handle::{GroupHandle, Written};
use super::super::headers::{DeadLetterHeaders, DeadLetterId, is_added, reason_name};
use super::super::logs::reserved_name;
use super::super::records::{Found, Missing, RecordReader, find_copies};
use super::{FIRST_WAIT, LONGEST_WAIT, Outcome, Shared, Taken};
use crate::group::entry::{DeadReason, EntryKey};
use crate::group::event::Event;
use crate::group::record::{Intent, PauseReason};
use crate::model::{Offset, Source};
use crate::partition::{AppendFailure, CheckedBatch, PartitionLog};
use crate::topics::{NewDeadLetterTopic, TopicError};

/// Bytes of records that one append takes, unless one record needs more.
const BATCH_BYTES: usize = 1 << 20;
/// Records that one append takes.
const BATCH_RECORDS: usize = 2_000;
/// Errors of the system that say that the disk, a quota or a file is full: ENOSPC, EDQUOT, EFBIG.
const NO_SPACE: [i32; 3] = [28, 122, 27];

/// Why something has to wait.
enum Wait {
    /// The group, or the partition, pauses meanwhile.
    Blocked(PauseReason, String),
    /// Nobody pauses: it passes, or an operator must do something.
    Quietly(String),
    /// There is nothing to wait for.
    End,
}

/// What becomes of an intent.
enum Placed {
    /// Its copy was found.
    At(Offset),
    /// Its copy is in the batch that is being built, at this place.
    Built(u64),
    /// Its record is not there any more.
    Lost(String),
}

/// See the module.
pub(super) struct Carry<'a> {
    shared: &'a Shared,
    group: &'a Arc<dyn GroupHandle>,
    source: Source,
    ended: &'a CancellationToken,
    reader: Option<RecordReader>,
    /// Intents that are not carried out, in order.
    left: VecDeque<(u64, Box<Intent>)>,
    /// Where copies were found.
    found: HashMap<(EntryKey, u32), Offset>,
    search: bool,
    /// What the group was told to wait for.
    blocked: Option<PauseReason>,
    /// It is counted among those that wait.
    counted: bool,
}

impl<'a> Carry<'a> {
    pub(super) fn new(
        shared: &'a Shared,
        group: &'a Arc<dyn GroupHandle>,
        source: Source,
        ended: &'a CancellationToken,
    ) -> Self {
        let (left, found) = (VecDeque::new(), HashMap::new());
        Self { shared, group, source, ended, reader: None, left, found, search: false, blocked: None, counted: false }
    }

    /// Carries out intents; waits and tries again as long as it takes.
    pub(super) async fn carry_out(mut self, taken: Taken) -> Outcome {
        if !self.skips_intent() && self.group.durable(taken.after).await.is_err() {
            // The journal has stopped: nothing that follows could become durable.
            return Outcome::End;
        }
        let open = taken.numbers.iter().filter_map(|number| Some((*number, self.group.intent(self.source, *number)?)));
        self.left = open.collect();
        self.search = taken.search;
        let mut wait = FIRST_WAIT;
        let outcome = loop {
            let before = self.left.len();
            let why = match self.step().await {
                Ok(()) if self.left.is_empty() => break Outcome::Done,
                Ok(()) => continue,
                Err(why) => why,
            };
            if self.left.len() < before {
                wait = FIRST_WAIT;
            }
            match why {
                Wait::End => break Outcome::End,
                Wait::Blocked(reason, what) => self.wait_for(Some(reason), &what),
                Wait::Quietly(what) => self.wait_for(None, &what),
            }
            if !self.pause(wait).await {
                break Outcome::End;
            }
            wait = (wait * 2).min(LONGEST_WAIT);
        };
        self.unblock();
        outcome
    }

    /// One append with what precedes and follows it.
    async fn step(&mut self) -> Result<(), Wait> {
        if self.left.is_empty() {
            return Ok(());
        }
        let log = self.dead_letters().await?;
        if self.search && !self.skips_search() {
            self.look_for_copies(&*log).await?;
        }
        self.search = false;
        let permit = self.shared.carrying.acquire().await;
        let _permit = permit.map_err(|_| Wait::End)?;
        let (batch, placed) = self.build().await?;
        let base = match batch {
            None => Offset::ZERO,
            Some(batch) if self.tells_first() => {
                let base = log.status().log_end;
                self.tell(&placed, base).await?;
                self.append(&*log, batch).await?;
                return Ok(());
            }
            Some(batch) => self.append(&*log, batch).await?,
        };
        self.unblock();
        self.tell(&placed, base).await
    }

    /// The partition of the dead letters, made if need be.
    async fn dead_letters(&self) -> Result<Arc<dyn PartitionLog>, Wait> {
        let (group, source) = (self.group, self.source);
        if let Some(log) = self.shared.logs.dead_letters(group.letters_id(), source) {
            return Ok(log);
        }
        let Some(topic) = group.topic(source.topic) else { return Err(Wait::End) };
        let name = reserved_name(&topic.dlq).map_err(|error| Wait::Quietly(error.to_string()))?;
        let group_name = group.letters_name().as_str().to_owned();
        let new = NewDeadLetterTopic { source: source.topic, group: group.letters_id(), group_name, name };
        let made = self.shared.logs.make(new).await;
        if let Err(error) = made {
            return Err(self.not_made(&error).await);
        }
        self.shared.logs.dead_letters(group.letters_id(), source).ok_or(Wait::End)
    }

    async fn not_made(&self, error: &TopicError) -> Wait {
        let what = format!("the dead-letter topic cannot be made: {error}");
        match error {
            // The source is gone, and the group is told so.
            TopicError::NotFound { .. } | TopicError::ShuttingDown => Wait::End,
            TopicError::Limit { .. } => Wait::Blocked(PauseReason::DeadLimit, what),
            TopicError::DiskLow { .. } => Wait::Blocked(PauseReason::DiskLow, what),
            TopicError::Partition(failure) if is_full(failure) => self.make_room(BATCH_BYTES as u64, what).await,
            _ => Wait::Quietly(what),
        }
    }

    /// The system has no space: a part of the reserve makes some (rule F3).
    async fn make_room(&self, bytes: u64, what: String) -> Wait {
        let logs = Arc::clone(&self.shared.logs);
        let released = move || logs.release_reserve(bytes.max(BATCH_BYTES as u64));
        let given = self.shared.runtime.spawn_blocking(released).await.unwrap_or(0);
        if given > 0 { Wait::Quietly(what) } else { Wait::Blocked(PauseReason::DiskLow, what) }
    }

    async fn look_for_copies(&mut self, log: &dyn PartitionLog) -> Result<(), Wait> {
        let wanted: HashSet<_> = self.left.iter().map(|(_, intent)| (intent.key, intent.cycle)).collect();
        let Some(from) = self.left.iter().map(|(_, intent)| intent.dlq_end).min() else { return Ok(()) };
        let found = find_copies(log, self.group.letters_id(), from, &wanted).await;
        self.found = found.map_err(|later| Wait::Quietly(format!("dead letters cannot be read: {later}")))?;
        if !self.found.is_empty() {
            tracing::info!(group = %self.group.name(), copies = self.found.len(), "copies were there already");
        }
        Ok(())
    }

    /// The next batch, and what becomes of the first intents.
    async fn build(&mut self) -> Result<(Option<CheckedBatch>, Vec<Placed>), Wait> {
        let (read, failed) = self.read_next().await;
        let mut builder = BatchBuilder::new(Codec::None);
        let mut placed = Vec::new();
        for (index, found) in read.into_iter().enumerate() {
            let intent = &self.left[index].1;
            if let Some(offset) = self.found.get(&(intent.key, intent.cycle)) {
                placed.push(Placed::At(*offset));
                continue;
            }
            match found {
                Some(Ok(found)) => {
                    let headers = self.headers_of(intent, &found);
                    let size = record_bytes(&found.record, &headers);
                    if !builder.is_empty() && builder.len_bytes() + size > BATCH_BYTES {
                        break;
                    }
                    placed.push(Placed::Built(u64::from(builder.record_count())));
                    push(&mut builder, &found.record, &headers);
                }
                Some(Err(what)) => placed.push(Placed::Lost(what)),
                // What was read before goes out first.
                None if !placed.is_empty() => break,
                None => return Err(Wait::Quietly(format!("the source cannot be read: {failed}"))),
            }
        }
        if builder.is_empty() {
            return Ok((None, placed));
        }
        let bytes = builder.finish();
        let header = BatchHeader::decode(&bytes).expect("the builder makes good batches");
        self.check_room(bytes.len() as u64)?;
        Ok((Some(CheckedBatch { header, bytes, request: None, events: None }), placed))
    }

    /// Whether the group's limit of bytes leaves room (rule DL-10).
    fn check_room(&self, more: u64) -> Result<(), Wait> {
        let most = self.group.config().dlq_max_bytes;
        if most == 0 {
            return Ok(());
        }
        let mut topics = Vec::new();
        self.group.with_state(&mut |state| topics.extend(state.topics.keys().copied()));
        let id = self.group.letters_id();
        let taken: u64 = topics.iter().map(|topic| self.shared.logs.bytes(id, *topic)).sum();
        if taken.saturating_add(more) <= most {
            return Ok(());
        }
        let what = format!("dead letters take {taken} bytes, {most} are allowed");
        Err(Wait::Blocked(PauseReason::DlqFull, what))
    }

    /// The records of the next intents, as many as an append takes, or why they are lost; nothing where one was found
    /// already, or where reading ended because one cannot be read now, which is told beside. They are read in the order
    /// of the log: lanes are spilled one by one, and their records lie far from each other, so that each batch would be
    /// opened for every single record.
    async fn read_next(&mut self) -> (Vec<Option<Result<Found, String>>>, String) {
        let (mut count, mut bytes) = (0, 0);
        for (_, intent) in self.left.iter().take(BATCH_RECORDS) {
            bytes += intent.size_bytes as usize;
            if count > 0 && bytes > BATCH_BYTES {
                break;
            }
            count += 1;
        }
        let mut order: Vec<usize> = (0..count).collect();
        order.retain(|index| {
            let intent = &self.left[*index].1;
            !self.found.contains_key(&(intent.key, intent.cycle))
        });
        order.sort_unstable_by_key(|index| self.left[*index].1.key.offset);
        let mut read: Vec<Option<Result<Found, String>>> = (0..count).map(|_| None).collect();
        for index in order {
            let (key, reason) = (self.left[index].1.key, self.left[index].1.reason);
            read[index] = match self.read(key, reason).await {
                Ok(found) => Some(Ok(found.detached())),
                Err(Missing::Lost(what)) => Some(Err(what)),
                Err(Missing::Later(what)) => return (read, what),
            };
        }
        (read, String::new())
    }

    async fn read(&mut self, key: EntryKey, reason: DeadReason) -> Result<Found, Missing> {
        let reader = match &mut self.reader {
            Some(reader) => reader,
            empty => {
                let log = self.shared.logs.partition(self.source);
                let log = log.ok_or_else(|| Missing::Lost("the topic is gone".into()))?;
                empty.insert(RecordReader::new(log))
            }
        };
        if reason != DeadReason::Undecodable {
            return reader.record(key.offset, Some(key.epoch)).await;
        }
        // Whole, as it is stored (rule DL-16).
        let frame = reader.frame(key.offset, Some(key.epoch)).await?;
        let timestamp_ms = frame.append_time_ms;
        let record = BatchRecord { key: None, value: Some(frame.batch), headers: Vec::new(), timestamp_ms };
        Ok(Found { record, append_ms: timestamp_ms })
    }

    fn headers_of(&self, intent: &Intent, found: &Found) -> Vec<(&'static str, Bytes)> {
        let given = |time: i64| Some(time).filter(|time| *time != 0);
        let topic = self.group.topic(self.source.topic).map(|topic| topic.name).unwrap_or_default();
        let mut error = intent.error.as_deref().cloned().unwrap_or_default();
        if error.trace.is_empty() {
            let trace = found.record.headers.iter().rev().find(|header| header.key.as_ref() == b"traceparent");
            let trace = trace.and_then(|header| header.value.as_deref());
            error.trace = String::from_utf8_lossy(trace.unwrap_or_default()).into_owned();
        }
        let headers = DeadLetterHeaders {
            id: DeadLetterId { group: self.group.letters_id(), key: intent.key },
            kind: intent.kind,
            reason: intent.reason,
            topic,
            group: self.group.letters_name().as_str().to_owned(),
            key_seq: None,
            append_ms: found.append_ms,
            event_id: None,
            attempts: intent.attempts,
            first_failure_ms: given(intent.first_failure_ms),
            last_failure_ms: given(intent.last_failure_ms),
            dead_ms: intent.dead_ms,
            error,
            member: intent.member,
            client_version: intent.client_version.clone(),
            blocked_by: intent.blocked_by,
            cycle: intent.cycle,
            edited: 0,
        };
        headers.added()
    }

    async fn append(&mut self, log: &dyn PartitionLog, batch: CheckedBatch) -> Result<Offset, Wait> {
        let bytes = batch.bytes.len() as u64;
        match log.append_dead_letters(batch).await {
            Ok(ack) => {
                self.shared.metrics.copied_bytes.inc_by(bytes);
                Ok(ack.base_offset)
            }
            Err(failure) => {
                let what = format!("dead letters cannot be appended: {failure}");
                Err(match &failure {
                    AppendFailure::ShuttingDown => Wait::End,
                    AppendFailure::DiskLow { .. } => Wait::Blocked(PauseReason::DiskLow, what),
                    full if is_full(full) => self.make_room(2 * bytes, what).await,
                    AppendFailure::Fenced { outcome_unknown, .. } => {
                        // Other lanes flow: the intents hold theirs. What was written may survive the fence.
                        self.search |= outcome_unknown;
                        Wait::Quietly(what)
                    }
                    _ => Wait::Quietly(what),
                })
            }
        }
    }

    /// Tells the group of copies, in order; then, once their entries are durable, that they are.
    async fn tell(&mut self, placed: &[Placed], base: Offset) -> Result<(), Wait> {
        let source = self.source;
        let mut written = Written::default();
        let mut opened = Vec::with_capacity(placed.len());
        let mut end = None;
        for place in placed {
            let Some((number, intent)) = self.left.pop_front() else { break };
            let copy = match place {
                Placed::At(offset) => Some(*offset),
                Placed::Built(index) => Some(base.saturating_add(*index)),
                Placed::Lost(what) => {
                    tracing::error!(group = %self.group.name(), offset = intent.key.offset.get(), what,
                        "a record that died is lost: it cannot be copied any more");
                    self.shared.metrics.lost.inc();
                    None
                }
            };
            let driven = self.group.drive(Event::Copied { source, number, copy });
            if driven.stopped {
                return Err(Wait::End);
            }
            written.group = written.group.max(driven.written.group);
            written.entries = written.entries.max(driven.written.entries);
            if let Some(copy) = copy {
                opened.push(number);
                end = end.max(Some(copy.saturating_add(1)));
                self.shared.metrics.arrived(self.group.name().as_str(), reason_name(intent.reason), 1);
            }
        }
        if self.group.durable(written).await.is_err() {
            return Err(Wait::End);
        }
        for number in opened {
            if self.group.drive(Event::EntryDurable { source, number }).stopped {
                return Err(Wait::End);
            }
        }
        if let Some(end) = end {
            self.group.drive(Event::DlqEnd { source, end });
        }
        Ok(())
    }

    /// Says that intents have to wait, once for each reason.
    fn wait_for(&mut self, reason: Option<PauseReason>, what: &str) {
        let source = self.source;
        if !self.counted {
            self.counted = true;
            self.shared.metrics.blocked.inc();
            tracing::error!(group = %self.group.name(), partition = source.partition.0, what, "dead letters wait");
        }
        if self.blocked != reason {
            self.blocked = reason;
            self.group.drive(Event::CopyBlocked { source, reason });
        }
    }

    fn unblock(&mut self) {
        if std::mem::take(&mut self.counted) {
            self.shared.metrics.blocked.dec();
        }
        if self.blocked.take().is_some() {
            self.group.drive(Event::CopyBlocked { source: self.source, reason: None });
        }
    }

    /// Waits; `false` if it is time to end.
    async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.ended.cancelled() => false,
            () = tokio::time::sleep(time) => true,
        }
    }

    #[cfg(any(test, feature = "testing"))]
    fn skips_intent(&self) -> bool {
        self.shared.sabotage.append_before_intent
    }

    #[cfg(not(any(test, feature = "testing")))]
    fn skips_intent(&self) -> bool {
        false
    }

    #[cfg(any(test, feature = "testing"))]
    fn skips_search(&self) -> bool {
        self.shared.sabotage.no_search
    }

    #[cfg(not(any(test, feature = "testing")))]
    fn skips_search(&self) -> bool {
        false
    }

    #[cfg(any(test, feature = "testing"))]
    fn tells_first(&self) -> bool {
        self.shared.sabotage.commit_before_append
    }

    #[cfg(not(any(test, feature = "testing")))]
    fn tells_first(&self) -> bool {
        false
    }
}

fn is_full(failure: &AppendFailure) -> bool {
    matches!(failure, AppendFailure::WriteFailed { errno: Some(errno), .. } if NO_SPACE.contains(errno))
}

/// Bytes that a record takes in a batch, about.
fn record_bytes(record: &BatchRecord, added: &[(&'static str, Bytes)]) -> usize {
    let own: usize =
        record.headers.iter().map(|header| header.key.len() + header.value.as_ref().map_or(0, Bytes::len) + 8).sum();
    let added: usize = added.iter().map(|(name, value)| name.len() + value.len() + 8).sum();
    record.key.as_ref().map_or(0, Bytes::len) + record.value.as_ref().map_or(0, Bytes::len) + own + added + 64
}

/// Adds a copy: key, payload and headers unchanged (rule DL-2), with the headers of a dead letter behind them.
pub(in crate::dead_letter) fn push(builder: &mut BatchBuilder, record: &BatchRecord, added: &[(&'static str, Bytes)]) {
    let own = record.headers.iter().filter(|header| !is_added(&header.key));
    let own = own.map(|header| (&header.key[..], header.value.as_deref()));
    let added = added.iter().map(|(name, value)| (name.as_bytes(), Some(&value[..])));
    builder.push_raw(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), own.chain(added));
}
