//! A small harness that drives a machine: events in, frames out by member, the log behind it made up.

use std::collections::{BTreeMap, VecDeque};

use super::effect::{AckStatus, Delivery, Effects, Fetch, Frame, Notice};
use super::entry::{EntryRecord, EntryTable};
use super::event::{Credit, Event, Fetched, InWork, Join, NackKind, RecordMeta, Targets, Verb};
use super::lanes::QueueKind;
use super::machine::Machine;
use super::record::{ErrorInfo, GroupNotes, GroupRecord, Start};
use super::state::GroupState;
use super::{GroupConfig, GroupTopic, Mode, Now};
use crate::model::{
    AssignmentEpoch, GroupId, GroupName, KeySlot, LaneKey, MemberEpoch, MemberId, Offset, OffsetRange, PartitionEpoch,
    PartitionId, SlotRange, Source, TopicUuid,
};

/// Wall time at the start.
pub(super) const WALL: i64 = 1_700_000_000_000;

/// Records that a member has, by what it was told: under which epoch, which attempt.
type HeldBy = BTreeMap<(Source, Offset), (AssignmentEpoch, u32)>;

/// A machine with its log, and what its members were told.
pub(super) struct Rig {
    pub(super) machine: Machine,
    pub(super) now: Now,
    /// Every record for the journals, in order.
    pub(super) journal: Vec<GroupRecord>,
    pub(super) entry_journal: Vec<EntryRecord>,
    /// Frames by member, since they were taken last.
    pub(super) frames: BTreeMap<MemberId, VecDeque<(Frame, super::effect::After)>>,
    pub(super) notices: Vec<Notice>,
    /// The logs.
    pub(super) logs: BTreeMap<Source, Vec<RecordMeta>>,
    /// Ranges that are asked for and not answered, because they are at the end of the log.
    pub(super) asked: BTreeMap<Source, Fetch>,
    pub(super) moves: Vec<(Source, u64)>,
    pub(super) opened: Vec<(Source, u64)>,
    pub(super) deadline_ms: Option<u64>,
    pub(super) outcome: Option<Result<(), super::effect::Refusal>>,
    /// Sessions by member.
    pub(super) epochs: BTreeMap<MemberId, MemberEpoch>,
    /// What each member owns, as it was told.
    pub(super) units: BTreeMap<MemberId, Vec<(Source, SlotRange, AssignmentEpoch)>>,
    /// What each member was delivered and has not settled, as it knows.
    pub(super) held: BTreeMap<MemberId, HeldBy>,
    /// Ranges are answered as soon as they are asked for.
    pub(super) reading: bool,
    /// Streams of which the machine asks whether their members are silent, while they do not answer at once.
    pub(super) doubts: Option<Vec<(MemberId, MemberEpoch)>>,
    request: u64,
}

/// A topic's id.
pub(super) fn topic(number: u8) -> TopicUuid {
    TopicUuid([number; 16])
}

/// A partition.
pub(super) fn source(number: u8, partition: u32) -> Source {
    Source { topic: topic(number), partition: PartitionId(partition) }
}

/// A member's id.
pub(super) fn member(number: u8) -> MemberId {
    MemberId([number; 16])
}

/// An offset.
pub(super) fn at(offset: u64) -> Offset {
    Offset::new(offset).expect("a small offset")
}

/// One offset as a run.
pub(super) fn one(offset: u64) -> OffsetRange {
    OffsetRange { from: at(offset), to: at(offset + 1) }
}

/// An error of this class.
pub(super) fn error(class: &str) -> ErrorInfo {
    ErrorInfo { class: class.to_owned(), ..ErrorInfo::default() }
}

impl Rig {
    /// A group of one topic with that many partitions.
    pub(super) fn new(mode: Mode, partitions: u32) -> Self {
        Self::with(GroupConfig::new(mode, vec!["orders".to_owned()]), partitions)
    }

    /// A group with these settings.
    pub(super) fn with(config: GroupConfig, partitions: u32) -> Self {
        config.check().expect("settings within bounds");
        let name = GroupName::parse("billing").expect("a good name");
        let created = GroupRecord::Created {
            name,
            config: Box::new(config),
            notes: GroupNotes::default(),
            created_ms: WALL,
            topics: Vec::new(),
            starts: Vec::new(),
        };
        let mut state = GroupState::create(GroupId(7), &created).expect("a first record");
        let starts = (0..partitions).map(|number| Start {
            source: source(1, number),
            offset: Offset::ZERO,
            epoch: PartitionEpoch::ZERO,
        });
        let topics = GroupRecord::Topics {
            added: vec![GroupTopic {
                topic: topic(1),
                name: "orders".to_owned(),
                partitions,
                dlq: "orders.billing.dlq".to_owned(),
                is_dlq: false,
            }],
            starts: starts.collect(),
            removed: Vec::new(),
        };
        state.replay(&topics).expect("a topic comes");
        Self::of(state, EntryTable::default(), Now { monotonic_ms: 1_000, wall_ms: WALL }, vec![created, topics])
    }

    /// A machine of this state at the start of a broker.
    pub(super) fn of(state: GroupState, entries: EntryTable, now: Now, journal: Vec<GroupRecord>) -> Self {
        let mut rig = Self {
            machine: Machine::new(state, entries, now),
            now,
            journal,
            entry_journal: Vec::new(),
            frames: BTreeMap::new(),
            notices: Vec::new(),
            logs: BTreeMap::new(),
            asked: BTreeMap::new(),
            moves: Vec::new(),
            opened: Vec::new(),
            deadline_ms: None,
            outcome: None,
            epochs: BTreeMap::new(),
            units: BTreeMap::new(),
            held: BTreeMap::new(),
            reading: true,
            doubts: None,
            request: 0,
        };
        let effects = rig.machine.start(now);
        rig.take(effects);
        rig
    }

    /// The broker is killed and starts again, `after_ms` later, with another monotonic clock.
    pub(super) fn restart(self, after_ms: i64) -> Self {
        let now = Now { monotonic_ms: 50, wall_ms: self.now.wall_ms + after_ms };
        let mut state = GroupState::create(GroupId(7), &self.journal[0]).expect("a first record");
        self.journal[1..].iter().for_each(|record| state.replay(record).expect("the journal replays"));
        assert_eq!(&state, self.machine.state(), "the journal says what the machine knew");
        let mut entries = EntryTable::default();
        self.entry_journal.iter().for_each(|record| entries.replay(record).expect("the journal replays"));
        let mut rig = Self::of(state, entries, now, self.journal);
        rig.logs = self.logs;
        rig.entry_journal = self.entry_journal;
        rig.read();
        rig
    }

    /// Gives the machine an event, and answers what it asks the log for.
    pub(super) fn event(&mut self, event: Event) {
        let effects = self.machine.handle(event, self.now);
        self.take(effects);
        if self.reading {
            self.read();
        }
    }

    fn take(&mut self, effects: Effects) {
        for record in &effects.records {
            if let GroupRecord::Settled { runs, .. } = record {
                assert!(runs.windows(2).all(|pair| pair[0].to <= pair[1].from), "runs are in order");
            }
        }
        self.check();
        self.journal.extend(effects.records);
        self.entry_journal.extend(effects.entry_records);
        self.notices.extend(effects.notices);
        self.moves.extend(effects.moves);
        self.opened.extend(effects.opened);
        self.deadline_ms = effects.deadline_ms;
        if effects.outcome.is_some() {
            self.outcome = effects.outcome;
        }
        for fetch in effects.fetches {
            self.asked.insert(fetch.source, fetch);
        }
        for out in effects.frames {
            self.note(out.member, &out.frame);
            self.frames.entry(out.member).or_default().push_back((out.frame, out.after));
        }
        match &mut self.doubts {
            Some(doubts) => doubts.extend(effects.doubts),
            None => {
                for (member, epoch) in effects.doubts {
                    let effects = self.machine.handle(Event::Silent { member, epoch }, self.now);
                    self.take(effects);
                }
            }
        }
    }

    /// What holds after every event: nothing that can be delivered lies beside a member that may have it, and counts
    /// agree.
    fn check(&self) {
        let machine = &self.machine;
        let config = &machine.state.config;
        let bounded = config.max_in_flight > 0 || config.max_bytes_in_flight > 0 || config.rate_limit > 0;
        let open = machine.breaker.allowance(self.now.monotonic_ms) < 1_000;
        for (source, work) in &machine.works {
            assert!(!work.touched, "what was touched was looked at");
            let leased: u64 = work.leased_records().count() as u64;
            assert_eq!(leased, u64::from(work.leased()));
            for (index, owner) in work.owners.iter().enumerate() {
                let one = machine.members.get(owner.member).expect("an owner is a member");
                if bounded || open || machine.closing || work.paused || !one.has_room() {
                    continue;
                }
                for kind in [QueueKind::Exempt, QueueKind::Ready] {
                    if let Some(ready) = work.next_ready(index as u32, kind) {
                        let size = i64::from(work.record(ready).size_bytes);
                        let offset = work.record(ready).offset;
                        assert!(size > one.bytes_left, "{source:?} {offset} is ready, and its owner has room");
                        assert!(one.leased_records > 0, "a large record goes out alone (rule FC-2)");
                    }
                }
            }
        }
        let leased: u64 = machine.members.all.values().map(|one| one.leased_records).sum();
        assert_eq!(leased, machine.totals.records, "what members hold adds up");
    }

    /// What a member learns from a frame.
    fn note(&mut self, member: MemberId, frame: &Frame) {
        match frame {
            Frame::Joined { epoch, .. } => {
                self.epochs.insert(member, *epoch);
                self.units.remove(&member);
            }
            Frame::Assign { unit, epoch, .. } => {
                let units = self.units.entry(member).or_default();
                cut_out(units, unit.source, unit.slots);
                units.push((unit.source, unit.slots, *epoch));
            }
            Frame::Revoke { unit, .. } => {
                cut_out(self.units.entry(member).or_default(), unit.source, unit.slots);
            }
            Frame::Deliver(delivered) => {
                let held = self.held.entry(member).or_default();
                for record in delivered.records.iter().filter(|record| !from_entry(record)) {
                    held.insert((delivered.source, record.offset), (delivered.epoch, record.attempt));
                }
            }
            _ => {}
        }
    }

    /// Answers what is asked of the log, as far as there are records.
    pub(super) fn read(&mut self) {
        loop {
            let able: Vec<Fetch> =
                self.asked.values().copied().filter(|fetch| self.end(fetch.source) > fetch.from).collect();
            if able.is_empty() {
                return;
            }
            for fetch in able {
                self.asked.remove(&fetch.source);
                let fetched = self.answer(&fetch);
                let effects = self.machine.handle(Event::Fetched(Box::new(fetched)), self.now);
                self.take(effects);
            }
        }
    }

    /// What the log answers.
    pub(super) fn answer(&self, fetch: &Fetch) -> Fetched {
        let log = &self.logs[&fetch.source];
        let end = self.end(fetch.source);
        let records: Vec<RecordMeta> =
            log.iter().copied().filter(|meta| meta.offset >= fetch.from).take(1_000).collect();
        let next = records.last().map_or(end, |meta| at(meta.offset.get() + 1));
        Fetched {
            source: fetch.source,
            from: fetch.from,
            next,
            log_bytes: records.iter().map(|meta| u64::from(meta.size_bytes)).sum(),
            last_append_ms: records.last().map_or(0, |meta| meta.append_ms),
            records,
            undecodable: Vec::new(),
            high_watermark: end,
        }
    }

    /// End of a log.
    pub(super) fn end(&self, source: Source) -> Offset {
        self.logs.get(&source).and_then(|log| log.last()).map_or(Offset::ZERO, |meta| at(meta.offset.get() + 1))
    }

    /// A record for a log; its slot hangs on its key.
    pub(super) fn meta(&self, source: Source, key: u64) -> RecordMeta {
        let mixed = (u128::from(key) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
        let slot = KeySlot::new((mixed >> 64) as u32 % 4_096).expect("below the slots");
        RecordMeta {
            offset: self.end(source),
            lane: LaneKey(mixed),
            slot,
            epoch: PartitionEpoch::ZERO,
            size_bytes: 100,
            append_ms: self.now.wall_ms,
            filtered: false,
        }
    }

    /// Appends records with these keys and lets the machine read them.
    pub(super) fn append(&mut self, source: Source, keys: &[u64]) {
        for key in keys {
            let meta = self.meta(source, *key);
            self.logs.entry(source).or_default().push(meta);
        }
        if self.reading {
            self.read();
        }
    }

    /// A member joins with this credit in records.
    pub(super) fn join(&mut self, number: u8, records: u64) {
        self.join_as(number, records, None, None);
    }

    /// A member joins.
    pub(super) fn join_as(&mut self, number: u8, records: u64, instance: Option<&str>, in_work: Option<Vec<InWork>>) {
        let resume = in_work.as_ref().and_then(|_| self.epochs.get(&member(number)).copied());
        self.event(Event::Join(Box::new(Join {
            member: member(number),
            resume,
            instance: instance.map(str::to_owned),
            client_id: format!("client-{number}"),
            client_version: "1".to_owned(),
            credit: Credit { records, bytes: 1 << 30 },
            in_work: in_work.unwrap_or_default(),
        })));
    }

    /// What a member has in work, for a resuming join.
    pub(super) fn in_work(&self, number: u8) -> Vec<InWork> {
        let mut by_source: BTreeMap<(Source, AssignmentEpoch), Vec<OffsetRange>> = BTreeMap::new();
        for ((source, offset), (epoch, _)) in self.held.get(&member(number)).into_iter().flatten() {
            by_source.entry((*source, *epoch)).or_default().push(one(offset.get()));
        }
        let work = |((source, epoch), runs)| InWork { source, epoch, runs, entries: Vec::new() };
        by_source.into_iter().map(work).collect()
    }

    /// A member says something.
    pub(super) fn verb(&mut self, number: u8, verb: Verb) {
        let epoch = self.epochs.get(&member(number)).copied().unwrap_or(MemberEpoch(0));
        self.event(Event::Member { member: member(number), epoch, verb });
    }

    /// Targets of records that a member was delivered.
    pub(super) fn targets(&self, number: u8, source: Source, offsets: &[u64]) -> Targets {
        let held = self.held.get(&member(number));
        let epoch = offsets.iter().find_map(|offset| held?.get(&(source, at(*offset)))).map(|(epoch, _)| *epoch);
        let runs = offsets.iter().map(|offset| one(*offset)).collect();
        Targets { source, epoch: epoch.unwrap_or_default(), runs, entries: Vec::new() }
    }

    /// A member acks; answers the statuses in order of offsets.
    pub(super) fn ack(&mut self, number: u8, source: Source, offsets: &[u64]) -> Vec<AckStatus> {
        let targets = self.targets(number, source, offsets);
        self.ack_targets(number, targets)
    }

    /// A member acks these targets.
    pub(super) fn ack_targets(&mut self, number: u8, targets: Targets) -> Vec<AckStatus> {
        self.request += 1;
        self.forget_held(number, &targets);
        self.verb(number, Verb::Ack { request: self.request, targets, versions: Vec::new() });
        self.results(number, self.request)
    }

    /// A member nacks; answers the statuses that are known at once.
    pub(super) fn nack(&mut self, number: u8, source: Source, offsets: &[u64], kind: NackKind) -> Vec<AckStatus> {
        self.nack_with(number, source, offsets, kind, None, "E")
    }

    /// A member nacks with a delay and a class.
    pub(super) fn nack_with(
        &mut self,
        number: u8,
        source: Source,
        offsets: &[u64],
        kind: NackKind,
        retry_after_ms: Option<u64>,
        class: &str,
    ) -> Vec<AckStatus> {
        let targets = self.targets(number, source, offsets);
        self.request += 1;
        self.forget_held(number, &targets);
        let verb = Verb::Nack {
            request: self.request,
            targets,
            kind,
            retry_after_ms,
            whole_group: false,
            error: Some(error(class)),
            reason: "not needed".to_owned(),
        };
        self.verb(number, verb);
        self.results(number, self.request)
    }

    /// A member tells that handlers begin.
    pub(super) fn started(&mut self, number: u8, source: Source, offsets: &[u64]) {
        let targets = self.targets(number, source, offsets);
        self.verb(number, Verb::Started { targets });
    }

    fn forget_held(&mut self, number: u8, targets: &Targets) {
        let held = self.held.entry(member(number)).or_default();
        held.retain(|(source, offset), _| {
            *source != targets.source || !targets.runs.iter().any(|run| run.contains(*offset))
        });
    }

    fn results(&mut self, number: u8, request: u64) -> Vec<AckStatus> {
        let frames = self.frames.entry(member(number)).or_default();
        let found = frames
            .iter()
            .position(|(frame, _)| matches!(frame, Frame::AckResults { request: same, .. } if *same == request));
        let Some((Frame::AckResults { results, .. }, _)) = found.and_then(|at| frames.remove(at)) else {
            return Vec::new();
        };
        results
            .iter()
            .flat_map(|(run, status)| std::iter::repeat_n(*status, run.to.distance_from(run.from) as usize))
            .collect()
    }

    /// Frames that a member got since they were taken last.
    pub(super) fn taken(&mut self, number: u8) -> Vec<Frame> {
        self.frames.remove(&member(number)).unwrap_or_default().into_iter().map(|(frame, _)| frame).collect()
    }

    /// Records that a member was delivered since frames were taken last: frame by frame, offset and attempt.
    pub(super) fn delivered(&mut self, number: u8) -> Vec<Vec<(u64, u32)>> {
        let frames = self.taken(number);
        let deliveries = frames.into_iter().filter_map(|frame| match frame {
            Frame::Deliver(delivered) => {
                Some(delivered.records.iter().map(|record| (record.offset.get(), record.attempt)).collect())
            }
            _ => None,
        });
        deliveries.collect()
    }

    /// All offsets of [`Rig::delivered`], in order of delivery.
    pub(super) fn offsets(&mut self, number: u8) -> Vec<u64> {
        self.delivered(number).into_iter().flatten().map(|(offset, _)| offset).collect()
    }

    /// Time passes, deadline by deadline.
    pub(super) fn pass(&mut self, ms: u64) {
        let end = self.now.monotonic_ms + ms;
        while let Some(due) = self.deadline_ms.filter(|due| *due <= end) {
            let step = due.saturating_sub(self.now.monotonic_ms);
            self.now.monotonic_ms += step;
            self.now.wall_ms += step as i64;
            self.event(Event::Tick);
            assert!(self.deadline_ms.is_none_or(|next| next > self.now.monotonic_ms), "a deadline moves on");
        }
        let step = end - self.now.monotonic_ms;
        self.now.monotonic_ms = end;
        self.now.wall_ms += step as i64;
        self.event(Event::Tick);
    }

    /// Time passes while these members ping.
    pub(super) fn pass_alive(&mut self, ms: u64, members: &[u8]) {
        let mut left = ms;
        while left > 0 {
            let step = left.min(1_000);
            self.pass(step);
            members.iter().for_each(|number| self.verb(*number, Verb::Ping));
            left -= step;
        }
    }

    /// The floor of a partition.
    pub(super) fn floor(&self, source: Source) -> u64 {
        self.machine.state().partitions[&source].settled.floor().get()
    }

    /// Slots that a member owns by the durable state.
    pub(super) fn slots(&self, number: u8) -> u32 {
        let runs = self.machine.state().owners.values().flatten();
        runs.filter(|run| run.member == member(number)).map(|run| run.slots.len()).sum()
    }

    /// A key whose slot belongs to a member, in a partition; the `skip`th.
    pub(super) fn key_of(&self, number: u8, source: Source, skip: usize) -> u64 {
        let owned = |key: &u64| {
            self.machine.owner(source, self.meta(source, *key).slot).is_some_and(|run| run.member == member(number))
        };
        (0..100_000).filter(owned).nth(skip).expect("a member owns some key")
    }

    /// What one member holds leased, as the machine knows.
    pub(super) fn leased(&self, number: u8) -> u64 {
        self.machine.members.get(member(number)).map_or(0, |one| one.leased_records)
    }
}

fn from_entry(delivery: &Delivery) -> bool {
    delivery.more.as_ref().is_some_and(|more| more.entry.is_some())
}

fn cut_out(units: &mut Vec<(Source, SlotRange, AssignmentEpoch)>, source: Source, slots: SlotRange) {
    let old = std::mem::take(units);
    for (other, range, epoch) in old {
        if other != source {
            units.push((other, range, epoch));
            continue;
        }
        for part in [
            SlotRange { from: range.from, to: range.to.min(slots.from) },
            SlotRange { from: range.from.max(slots.to), to: range.to },
        ] {
            if !part.is_empty() {
                units.push((other, part, epoch));
            }
        }
    }
}
