//! A log and a group in memory, whose every durable step can be the last before a crash.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use bytes::Bytes;
use parking_lot::Mutex;
use sawlog_proto::batch::{self, BatchBuilder, BatchHeader, BatchRecord, Codec};

use super::handle::{Driven, GroupHandle, Groups, Written};
use super::logs::{LetterLogs, TargetTopic};
use super::records::STORED;
use crate::group::effect::Refusal;
use crate::group::entry::{Act, DeadReason, Entry, EntryKey, EntryKind, EntryRecord, EntryState, EntryTable};
use crate::group::event::{Admin, Event};
use crate::group::record::{Intent, PauseReason};
use crate::group::state::GroupState;
use crate::group::{GroupConfig, GroupTopic, Mode};
use crate::model::{
    AckLevel, GroupId, GroupName, KeySlot, LaneKey, Offset, OffsetRange, PartitionEpoch, PartitionId, Source, TopicUuid,
};
use crate::partition::journal_thread::{JournalSequence, JournalStopped};
use crate::partition::{
    AppendAck, AppendFailure, BoxFuture, CheckedBatch, Frame, FrameRun, PartitionLog, PartitionReadError,
    PartitionState, PartitionStatus, Permit, ReadError,
};
use crate::topics::{NewDeadLetterTopic, TopicError};

pub(super) const TOPIC: TopicUuid = TopicUuid([1; 16]);
pub(super) const SOURCE: Source = Source { topic: TOPIC, partition: PartitionId(0) };
pub(super) const GROUP: GroupId = GroupId(7);

pub(super) fn at(offset: u64) -> Offset {
    Offset::new(offset).expect("small")
}

pub(super) fn key(offset: u64) -> EntryKey {
    EntryKey { source: SOURCE, offset: at(offset), epoch: PartitionEpoch::ZERO }
}

/// The lane of a key, or of a record without one.
pub(super) fn lane(key: Option<&[u8]>, offset: Offset) -> LaneKey {
    LaneKey(
        key.map_or(1 << 64 | u128::from(offset.get()), |key| key.iter().fold(0, |sum, b| sum << 8 | u128::from(*b))),
    )
}

/// Counts durable steps; from the crash on nothing goes on.
#[derive(Debug, Default)]
pub(super) struct Steps(Mutex<(u64, Option<u64>)>);

impl Steps {
    pub(super) fn crash_at(step: u64) -> Arc<Self> {
        Arc::new(Self(Mutex::new((0, Some(step)))))
    }

    pub(super) fn taken(&self) -> u64 {
        self.0.lock().0
    }

    pub(super) fn crashed(&self) -> bool {
        let (taken, crash) = *self.0.lock();
        crash.is_some_and(|crash| taken > crash)
    }

    /// One step; `false`: the process is dead.
    fn step(&self) -> bool {
        self.0.lock().0 += 1;
        !self.crashed()
    }
}

/// A partition in memory.
#[derive(Debug, Default)]
pub(super) struct MemoryLog {
    state: Mutex<LogState>,
    steps: Mutex<Arc<Steps>>,
}

#[derive(Debug, Default)]
struct LogState {
    frames: Vec<Frame>,
    durable: usize,
    start: Offset,
    refusals: Vec<AppendFailure>,
    /// Reads of this offset fail: for good, or not.
    bad: HashMap<Offset, bool>,
}

impl MemoryLog {
    pub(super) fn with(records: &[BatchRecord]) -> Arc<Self> {
        let log = Self::default();
        for record in records {
            log.write(checked(std::slice::from_ref(record)));
        }
        log.state.lock().durable = records.len();
        Arc::new(log)
    }

    fn write(&self, batch: CheckedBatch) -> Offset {
        let mut state = self.state.lock();
        let base_offset = state.end();
        state.frames.push(Frame {
            base_offset,
            record_count: batch.header.record_count,
            append_time_ms: 1_000,
            epoch: PartitionEpoch::ZERO,
            extensions: Bytes::new(),
            batch: batch.bytes,
        });
        base_offset
    }

    pub(super) fn refuse(&self, failures: Vec<AppendFailure>) {
        self.state.lock().refusals = failures;
    }

    pub(super) fn damage(&self, offset: u64, for_good: bool) {
        self.state.lock().bad.insert(at(offset), for_good);
    }

    pub(super) fn repair(&self) {
        self.state.lock().bad.clear();
    }

    pub(super) fn trim(&self, start: Offset) {
        self.state.lock().start = start;
    }

    /// All records with their offsets.
    pub(super) fn records(&self) -> Vec<(Offset, BatchRecord)> {
        let state = self.state.lock();
        let frames = state.frames.iter().flat_map(|frame| {
            let records = batch::records(&frame.batch, &STORED).expect("ours");
            (0..).zip(records).map(|(index, record)| (frame.base_offset.saturating_add(index), record.expect("ours")))
        });
        frames.collect()
    }

    pub(super) fn appends(&self) -> usize {
        self.state.lock().frames.len()
    }

    /// Loses what is not durable, or keeps it; counts steps anew.
    pub(super) fn restart(&self, keep: bool, steps: &Arc<Steps>) {
        let mut state = self.state.lock();
        let durable = state.durable;
        if !keep {
            state.frames.truncate(durable);
        }
        state.durable = state.frames.len();
        *self.steps.lock() = Arc::clone(steps);
    }
}

impl LogState {
    fn end(&self) -> Offset {
        self.frames.last().map_or(Offset::ZERO, Frame::end_offset)
    }
}

pub(super) fn checked(records: &[BatchRecord]) -> CheckedBatch {
    let mut builder = BatchBuilder::new(Codec::None);
    for record in records {
        let headers = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        builder.push_raw(record.timestamp_ms, record.key.as_deref(), record.value.as_deref(), headers);
    }
    let bytes = builder.finish();
    CheckedBatch { header: BatchHeader::decode(&bytes).expect("ours"), bytes, request: None, events: None }
}

impl PartitionLog for MemoryLog {
    fn append(
        &self,
        batch: CheckedBatch,
        level: AckLevel,
        _: Permit,
    ) -> BoxFuture<'static, Result<AppendAck, AppendFailure>> {
        let steps = Arc::clone(&self.steps.lock());
        if steps.crashed() {
            return Box::pin(std::future::pending());
        }
        if let Some(failure) = self.state.lock().refusals.pop() {
            return Box::pin(async move { Err(failure) });
        }
        let record_count = batch.header.record_count;
        let base_offset = self.write(batch);
        // Dead between write and sync, and between sync and answer.
        if !steps.step() {
            return Box::pin(std::future::pending());
        }
        let mut state = self.state.lock();
        state.durable = state.frames.len();
        if !steps.step() {
            return Box::pin(std::future::pending());
        }
        let epoch = PartitionEpoch::ZERO;
        let ack = AppendAck { base_offset, record_count, epoch, append_time_ms: 1_000, level, duplicate: false };
        Box::pin(async move { Ok(ack) })
    }

    fn read(&self, from: Offset, max_bytes: usize) -> BoxFuture<'_, Result<FrameRun, PartitionReadError>> {
        let state = self.state.lock();
        let result = match state.bad.get(&from) {
            Some(true) => Err(ReadError::Corrupt(crate::log::Corruption {
                file: "memory".into(),
                position: crate::model::FilePosition(0),
                what: "damaged".into(),
                first_bad: from,
                next_good: from.checked_add(1),
            })),
            Some(false) => Err(ReadError::WouldBlock),
            None if from < state.start || from > state.end() => {
                Err(ReadError::OutOfRange { offset: from, start: state.start, end: state.end() })
            }
            None => {
                let mut bytes = 0;
                let frames = state.frames[..state.durable].iter().filter(|frame| frame.end_offset() > from);
                let frames = frames.take_while(|frame| {
                    let more = bytes == 0 || bytes + frame.batch.len() <= max_bytes;
                    bytes += frame.batch.len();
                    more && (frame.base_offset <= from || !state.bad.contains_key(&frame.base_offset))
                });
                let frames: Vec<Frame> = frames.cloned().collect();
                let next = frames.last().map_or(from, Frame::end_offset);
                Ok(FrameRun { frames, next })
            }
        };
        Box::pin(async move { result.map_err(PartitionReadError::from) })
    }

    fn high_watermark(&self) -> Offset {
        let state = self.state.lock();
        state.frames[..state.durable].last().map_or(Offset::ZERO, Frame::end_offset)
    }

    fn log_start(&self) -> Offset {
        self.state.lock().start
    }

    fn wait_beyond(&self, _: Offset) -> BoxFuture<'static, Offset> {
        Box::pin(std::future::pending())
    }

    fn offset_at_time(&self, _: i64) -> BoxFuture<'_, Result<Offset, PartitionReadError>> {
        Box::pin(async { Ok(Offset::ZERO) })
    }

    fn check_position(&self, _: PartitionEpoch, _: Offset) -> BoxFuture<'_, Result<(), PartitionReadError>> {
        Box::pin(async { Ok(()) })
    }

    fn epoch(&self) -> PartitionEpoch {
        PartitionEpoch::ZERO
    }

    fn status(&self) -> PartitionStatus {
        let state = self.state.lock();
        PartitionStatus {
            log_start: state.start,
            high_watermark: state.end(),
            log_end: state.end(),
            durable_end: state.end(),
            size_bytes: state.frames.iter().map(|frame| frame.batch.len() as u64).sum(),
            segments: 1,
            epoch: PartitionEpoch::ZERO,
            state: PartitionState::Online,
            damaged: Vec::new(),
            last_truncation: None,
            maybe_missing_from: None,
        }
    }

    fn damaged_at(&self, offset: Offset) -> Option<OffsetRange> {
        let bad = self.state.lock().bad.get(&offset) == Some(&true);
        bad.then(|| OffsetRange { from: offset, to: offset.saturating_add(1) })
    }
}

/// The logs of one source, its dead letters and targets.
#[derive(Debug, Default)]
pub(super) struct MemoryLogs {
    pub(super) source: Mutex<Arc<MemoryLog>>,
    pub(super) letters: Mutex<Option<Arc<MemoryLog>>>,
    pub(super) targets: Mutex<HashMap<String, Vec<Arc<MemoryLog>>>>,
    pub(super) make_fails: Mutex<Vec<TopicError>>,
    pub(super) made: Mutex<u32>,
    pub(super) released: Mutex<u64>,
    pub(super) ended: Mutex<u32>,
    pub(super) gone: Mutex<bool>,
}

impl LetterLogs for MemoryLogs {
    fn partition(&self, _: Source) -> Option<Arc<dyn PartitionLog>> {
        let log: Arc<dyn PartitionLog> = Arc::clone(&*self.source.lock()) as _;
        Some(log).filter(|_| !*self.gone.lock())
    }

    fn dead_letters(&self, _: GroupId, _: Source) -> Option<Arc<dyn PartitionLog>> {
        self.letters.lock().clone().map(|log| log as _)
    }

    fn make(&self, _: NewDeadLetterTopic) -> BoxFuture<'_, Result<(), TopicError>> {
        let result = match self.make_fails.lock().pop() {
            Some(failure) => Err(failure),
            None => {
                *self.made.lock() += 1;
                self.letters.lock().get_or_insert_default();
                Ok(())
            }
        };
        Box::pin(async move { result })
    }

    fn end(&self, _: GroupId, _: Option<Vec<TopicUuid>>) -> BoxFuture<'_, Result<(), TopicError>> {
        *self.ended.lock() += 1;
        Box::pin(async { Ok(()) })
    }

    fn bytes(&self, _: GroupId, _: TopicUuid) -> u64 {
        self.letters.lock().as_ref().map_or(0, |log| log.status().size_bytes)
    }

    fn release_reserve(&self, bytes: u64) -> u64 {
        *self.released.lock() += bytes;
        bytes
    }

    fn target(&self, name: &str) -> Option<TargetTopic> {
        let partitions = self.targets.lock().get(name)?.clone();
        let partitions = partitions.into_iter().map(|log| log as _).collect();
        let (level, max_record_bytes) = (AckLevel::Durable, 1 << 20);
        let uuid = if name == "orders" { TOPIC } else { TopicUuid([2; 16]) };
        Some(TargetTopic { uuid, partitions, keyed: true, level, max_record_bytes, reserved: false })
    }

    fn trim(&self, _: GroupId, starts: &[(Source, Offset)]) -> Result<(), TopicError> {
        let letters = self.letters.lock().clone().expect("they are made");
        starts.iter().for_each(|(_, start)| letters.trim(*start));
        Ok(())
    }
}

/// A group in memory with two journals: enough of a machine to be driven, all of it rebuilt from what is durable.
#[derive(Debug)]
pub(super) struct MemoryGroup {
    name: GroupName,
    pub(super) config: Mutex<GroupConfig>,
    pub(super) state: Mutex<GroupMemory>,
    steps: Mutex<Arc<Steps>>,
}

#[derive(Debug, Default)]
pub(super) struct GroupMemory {
    group: Vec<GroupChange>,
    group_durable: usize,
    entries: Vec<EntryRecord>,
    entries_durable: usize,
    pub(super) intents: BTreeMap<u64, Box<Intent>>,
    pub(super) settled: Vec<Offset>,
    pub(super) lost: Vec<Offset>,
    pub(super) table: EntryTable,
    pub(super) dlq_end: Offset,
    pub(super) blocked: Vec<Option<PauseReason>>,
    /// Entries given to a job, in the order in which they were.
    pub(super) given: Vec<(u64, EntryKey)>,
    stopped: bool,
}

#[derive(Debug, Clone)]
enum GroupChange {
    Intended(u64, Box<Intent>),
    Arrived(u64, bool),
}

impl MemoryGroup {
    pub(super) fn new(steps: &Arc<Steps>) -> Arc<Self> {
        Arc::new(Self {
            name: GroupName::parse("billing").expect("a good name"),
            config: Mutex::new(GroupConfig::new(Mode::Keyed, vec!["orders".into()])),
            state: Mutex::default(),
            steps: Mutex::new(Arc::clone(steps)),
        })
    }

    /// Decides that records die, as the machine would; the intents are not durable yet.
    pub(super) fn kill(
        &self,
        offsets: &[u64],
        key_of: impl Fn(u64) -> Option<Vec<u8>>,
    ) -> (Vec<(Source, u64)>, Written) {
        let mut state = self.state.lock();
        let mut moves = Vec::new();
        for offset in offsets {
            let number = state.group.len() as u64 + 1;
            let intent = Intent {
                key: key(*offset),
                lane: lane(key_of(*offset).as_deref(), at(*offset)),
                slot: KeySlot::new(3).expect("a slot"),
                kind: EntryKind::Failed,
                reason: DeadReason::Attempts,
                spilled: false,
                cycle: 0,
                attempts: 6,
                due_ms: 0,
                delay_ms: 0,
                first_delivery_ms: 1,
                first_failure_ms: 2,
                last_failure_ms: 3,
                dead_ms: 4,
                error: None,
                member: None,
                client_version: String::new(),
                blocked_by: None,
                dlq_end: state.dlq_end,
                records: 1,
                holds: true,
                size_bytes: 100,
                source_lost: false,
                cleared: false,
            };
            state.apply(GroupChange::Intended(number, Box::new(intent)));
            moves.push((SOURCE, number));
        }
        (moves, state.written())
    }

    /// Puts an open entry in, durably.
    pub(super) fn open(&self, key: EntryKey, lane: LaneKey, copy: u64, dead_ms: i64) {
        let mut state = self.state.lock();
        let mut entry = entry_of(lane, at(copy));
        entry.dead_ms = dead_ms;
        state.entry(EntryRecord::Opened { key, entry: Box::new(entry) });
        state.entries_durable = state.entries.len();
    }

    pub(super) fn entry(&self, key: EntryKey) -> Entry {
        self.state.lock().table.get(&key).expect("there is one")
    }

    /// What a consumer does with an entry that a job has.
    pub(super) fn close(&self, key: EntryKey, state: EntryState) {
        let mut memory = self.state.lock();
        memory.change(key, state, |entry| entry.job = None);
        memory.entries_durable = memory.entries.len();
    }

    /// An entry failed again.
    pub(super) fn fail(&self, key: EntryKey) {
        let mut memory = self.state.lock();
        memory.change(key, EntryState::Open, |entry| entry.job = None);
        memory.entries_durable = memory.entries.len();
    }

    /// Goes back to what is durable, or to all that was written.
    pub(super) fn restart(&self, keep: bool, steps: &Arc<Steps>) {
        let mut state = self.state.lock();
        let mut old = std::mem::take(&mut *state);
        if !keep {
            old.group.truncate(old.group_durable);
            old.entries.truncate(old.entries_durable);
        }
        old.group.into_iter().for_each(|change| state.apply(change));
        old.entries.into_iter().for_each(|record| state.entry(record));
        (state.group_durable, state.entries_durable) = (state.group.len(), state.entries.len());
        *self.steps.lock() = Arc::clone(steps);
    }
}

pub(super) fn entry_of(lane: LaneKey, copy: Offset) -> Entry {
    Entry {
        lane,
        slot: KeySlot::new(3).expect("a slot"),
        kind: EntryKind::Failed,
        state: EntryState::Open,
        job: None,
        cycle: 0,
        copy,
        attempts: 6,
        due_ms: 0,
        delay_ms: 0,
        first_delivery_ms: 1,
        reason: DeadReason::Attempts,
        class: Some("Timeout".into()),
        fingerprint: None,
        blocked_by: None,
        versions: Vec::new(),
        dead_ms: 4,
        act: Act::default(),
        source_lost: false,
        holds: true,
        size_bytes: 100,
        intent: 1,
    }
}

impl GroupMemory {
    fn written(&self) -> Written {
        Written { group: JournalSequence(self.group.len() as u64), entries: JournalSequence(self.entries.len() as u64) }
    }

    fn apply(&mut self, change: GroupChange) {
        match &change {
            GroupChange::Intended(number, intent) => drop(self.intents.insert(*number, intent.clone())),
            GroupChange::Arrived(number, lost) => {
                let intent = self.intents.remove(number).expect("it is open");
                self.settled.push(intent.key.offset);
                if *lost {
                    self.lost.push(intent.key.offset);
                }
            }
        }
        self.group.push(change);
    }

    fn entry(&mut self, record: EntryRecord) {
        self.table.replay(&record).expect("it fits");
        self.entries.push(record);
    }

    fn change(&mut self, key: EntryKey, state: EntryState, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.table.get(&key).expect("there is one");
        change(&mut entry);
        let Entry { kind, cycle, job, attempts, reason, class, fingerprint, act, .. } = entry;
        self.entry(EntryRecord::Changed { key, state, kind, cycle, job, attempts, reason, class, fingerprint, act });
    }

    fn admin(&mut self, admin: Admin) -> Result<(), Refusal> {
        match admin {
            Admin::CloseEntries { entries, state, act } => {
                for key in &entries {
                    let entry = self.table.get(key).ok_or(Refusal::EntryNotFound)?;
                    if entry.state.is_closed() {
                        return Err(Refusal::EntryClosed { key: *key, state: entry.state });
                    }
                    if let Some(job) = entry.job {
                        return Err(Refusal::JobConflict { job });
                    }
                }
                entries.iter().for_each(|key| self.change(*key, state, |entry| entry.act = act.clone()));
            }
            Admin::EntryEdited { entry, copy, act } => self.entry(EntryRecord::Edited { key: entry, copy, act }),
            Admin::KeepJob { job, state } => self.entry(EntryRecord::Job { job, state }),
            Admin::ForgetEntries { entries } => self.entry(EntryRecord::Forgotten { keys: entries }),
            Admin::Redrive { job, entries, act } => {
                self.given.extend(entries.iter().map(|key| (job, *key)));
                self.entry(EntryRecord::Redriving { keys: entries, job: Some(job), act });
            }
            Admin::EndRedrive { job, act } => {
                let keys = self.table.iter().filter(|(_, entry)| entry.job == Some(job)).map(|(key, _)| key);
                let keys: Vec<_> = keys.collect();
                self.entry(EntryRecord::Redriving { keys, job: None, act });
            }
            Admin::Head { .. } => {}
            other => panic!("not a call about dead letters: {other:?}"),
        }
        Ok(())
    }
}

impl GroupHandle for MemoryGroup {
    fn id(&self) -> GroupId {
        GROUP
    }

    fn name(&self) -> &GroupName {
        &self.name
    }

    fn config(&self) -> Arc<GroupConfig> {
        Arc::new(self.config.lock().clone())
    }

    fn topic(&self, topic: TopicUuid) -> Option<GroupTopic> {
        let (name, dlq) = ("orders".to_owned(), "orders.billing.dlq".to_owned());
        Some(GroupTopic { topic, name, partitions: 1, dlq, is_dlq: false })
    }

    fn intent(&self, _: Source, number: u64) -> Option<Box<Intent>> {
        self.state.lock().intents.get(&number).cloned()
    }

    fn intents(&self) -> Vec<(Source, u64)> {
        self.state.lock().intents.keys().map(|number| (SOURCE, *number)).collect()
    }

    fn with_entries(&self, look: &mut dyn FnMut(&EntryTable)) {
        look(&self.state.lock().table);
    }

    fn with_state(&self, look: &mut dyn FnMut(&GroupState)) {
        use crate::group::record::{GroupNotes, GroupRecord};
        let record = GroupRecord::Created {
            name: self.name.clone(),
            config: Box::new(self.config.lock().clone()),
            notes: GroupNotes::default(),
            created_ms: 0,
            topics: Vec::new(),
            starts: Vec::new(),
        };
        let mut state = GroupState::create(GROUP, &record).expect("a group begins so");
        state.topics.insert(TOPIC, self.topic(TOPIC).expect("there is one"));
        look(&state);
    }

    fn drive(&self, event: Event) -> Driven {
        let steps = Arc::clone(&self.steps.lock());
        let mut state = self.state.lock();
        if steps.crashed() || state.stopped {
            return Driven { stopped: true, ..Driven::default() };
        }
        let mut outcome = None;
        match event {
            Event::Copied { number, copy: Some(copy), .. } => {
                let intent = state.intents[&number].clone();
                let mut entry = entry_of(intent.lane, copy);
                (entry.cycle, entry.reason, entry.kind) = (intent.cycle, intent.reason, intent.kind);
                state.entry(EntryRecord::Opened { key: intent.key, entry: Box::new(entry) });
            }
            Event::Copied { number, copy: None, .. } => state.apply(GroupChange::Arrived(number, true)),
            Event::EntryDurable { number, .. } => state.apply(GroupChange::Arrived(number, false)),
            Event::CopyBlocked { reason, .. } => state.blocked.push(reason),
            Event::DlqEnd { end, .. } => state.dlq_end = end,
            Event::Admin(admin) => outcome = Some(state.admin(admin)),
            other => panic!("not an event of dead letters: {other:?}"),
        }
        Driven { outcome, written: state.written(), stopped: false }
    }

    fn durable(&self, written: Written) -> BoxFuture<'static, Result<(), JournalStopped>> {
        let steps = Arc::clone(&self.steps.lock());
        let mut state = self.state.lock();
        if steps.crashed() {
            return Box::pin(std::future::pending());
        }
        let (group, entries) = (written.group.0 as usize, written.entries.0 as usize);
        for (wanted, is_group) in [(group, true), (entries, false)] {
            let done = if is_group { state.group_durable } else { state.entries_durable };
            if wanted > done {
                // Dead before the sync, and between the sync and its answer.
                if !steps.step() {
                    return Box::pin(std::future::pending());
                }
                *(if is_group { &mut state.group_durable } else { &mut state.entries_durable }) = wanted;
                if !steps.step() {
                    return Box::pin(std::future::pending());
                }
            }
        }
        Box::pin(async { Ok(()) })
    }
}

/// The one group.
#[derive(Debug)]
pub(super) struct OneGroup(pub(super) Arc<MemoryGroup>);

impl Groups for OneGroup {
    fn by_id(&self, id: GroupId) -> Option<Arc<dyn GroupHandle>> {
        (id == GROUP).then(|| Arc::clone(&self.0) as _)
    }

    fn by_name(&self, _: &str) -> Option<Arc<dyn GroupHandle>> {
        self.by_id(GROUP)
    }

    fn all(&self) -> Vec<Arc<dyn GroupHandle>> {
        vec![Arc::clone(&self.0) as _]
    }
}
