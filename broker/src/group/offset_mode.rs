//! Mode OFFSET: ranges in the order of the log, commits, dead letters by hand (rules AK-8, AK-9, DL-15, RM-8).
//!
//! Owns: when a range is sent or asked for, commits, verbs that wait for a look at their record (`sent`: what was sent and read).
//! Must not know: contents. Records in flight have no state: after a move the new owner starts at the committed offset.
//!
//! ```text
//!   committed ....... sent ............ read
//!   |   in flight      |  pieces, in order  |
//! ```
//!
//! Invariants: pieces are adjacent and begin at `sent`; nothing at or above the high watermark is committed; a record
//! that has an entry, or whose lane is dead, is sent marked (rule DL-15).

mod cursor;
mod piece;
mod sent;

use std::collections::VecDeque;

use super::Now;
use super::config::Positions;
use super::dead::{Dying, Pending};
use super::delivery::{Room, Used};
use super::effect::{After, Effects, Fetch, Frame, Mark, Notice, Refusal};
use super::entry::{EntryKey, EntryKind, EntryState, LaneState};
use super::event::{Fetched, RecordMeta, Verb};
use super::lanes::Taken;
use super::machine::Machine;
use super::record::{GroupRecord, OwnedRun};
use crate::limits;
use crate::model::{AssignmentEpoch, KeySlot, MemberId, Offset, OffsetRange, PartitionEpoch, SlotRange, Source};
use piece::Piece;
pub(super) use sent::Ranges;
use sent::{Lookup, Sent};

/// Bytes of log that are read at once.
const READ_BYTES: u32 = 1 << 20;
/// Pieces that wait for credit.
const PIECES: usize = 2;
/// `DeadLetter` verbs of a partition that wait for a look at their record.
const LOOKUPS: usize = 10_000;

impl Machine {
    /// Nothing in a gap comes: sending goes on behind it, and what was asked about a record in it is answered.
    pub(super) fn pass_ranges(&mut self, source: Source, gap: OffsetRange, now: Now, fx: &mut Effects) {
        let Some(sent) = self.ranges.sources.get_mut(&source) else { return };
        sent.pass(gap);
        let (gone, kept) = std::mem::take(&mut sent.lookups).into_iter().partition(|one| gap.contains(one.offset));
        sent.lookups = kept;
        let gone: VecDeque<Lookup> = gone;
        gone.into_iter().for_each(|lookup| self.looked_up(source, lookup, None, now, fx));
    }

    /// A partition has an owner from now on, or a new epoch of the same: sending begins at the commit.
    pub(super) fn range_assigned(&mut self, source: Source, run: OwnedRun) {
        let Some(floor) = self.partition(source).map(|partition| partition.settled.floor()) else { return };
        let (pieces, lookups) = (VecDeque::new(), VecDeque::new());
        let reported = self.state.config.positions == Positions::Broker;
        let sent = Sent {
            run,
            next: floor,
            pieces,
            lookups,
            gap: None,
            looked: false,
            first_started: false,
            reported,
            timed: None,
            stalled: None,
        };
        self.ranges.sources.insert(source, sent);
        if let Some(work) = self.work(source) {
            work.reading.restart(floor);
            work.reading.caught_up = false;
        }
    }

    /// The owner is back and has everything below `next`.
    pub(super) fn range_resumed(&mut self, source: Source, next: Offset) {
        // A cursor is told anew on each stream.
        let Some(sent) = self.ranges.sources.get_mut(&source).filter(|sent| sent.reported) else { return };
        sent.pieces.clear();
        sent.next = next;
        if let Some(work) = self.work(source) {
            work.reading.restart(next);
        }
    }

    /// A partition has no owner any more.
    pub(super) fn range_revoked(&mut self, source: Source) {
        self.ranges.sources.remove(&source);
    }

    /// A handler begins with these (rule RM-8).
    pub(super) fn range_started(&mut self, member: MemberId, source: Source, runs: &[OffsetRange]) {
        let Some(floor) = self.partition(source).map(|partition| partition.settled.floor()) else { return };
        if let Some(sent) = self.ranges.sources.get_mut(&source).filter(|sent| sent.run.member == member) {
            sent.first_started |= runs.iter().any(|run| run.contains(floor));
        }
    }

    /// A member is lost: units whose first record it had begun with have crashed once more in a row (rule RM-8). To be
    /// called before its units are revoked.
    pub(super) fn ranges_lost(&mut self, member: MemberId, fx: &mut Effects) {
        let lost = self.ranges.sources.iter_mut().filter(|(_, sent)| sent.run.member == member && sent.first_started);
        let crashed: Vec<Source> = lost
            .map(|(source, sent)| {
                sent.first_started = false;
                *source
            })
            .collect();
        for source in crashed {
            if let Some(count) = self.partition(source).map(|partition| partition.crashes.saturating_add(1)) {
                self.commit(GroupRecord::Crashes { source, count }, fx);
            }
        }
    }

    /// Sends the owner what was read, within its room. Called when the unit was woken.
    pub(super) fn offer_ranges(
        &mut self,
        source: Source,
        run: &OwnedRun,
        room: Room,
        now: Now,
        fx: &mut Effects,
    ) -> Used {
        let mut used = Used::default();
        let Some(mut sent) = self.ranges.sources.remove(&source) else { return used };
        while let Some(piece) = sent.pieces.front_mut() {
            let left = Room {
                records: room.records.saturating_sub(used.records),
                bytes: room.bytes.saturating_sub(used.bytes),
                alone: room.alone && used.records == 0,
            };
            let Some((range, bytes, records)) = piece.take(left) else {
                used.more = true;
                break;
            };
            let last_append_ms = piece.last_append_ms;
            if piece.range.is_empty() {
                sent.pieces.pop_front();
            }
            sent.next = sent.behind_gap(range.to);
            let marks = records.iter().filter_map(|meta| self.mark(source, meta)).collect();
            let filtered = records.iter().filter(|meta| meta.filtered).map(|meta| meta.offset).collect();
            let count = range.to.distance_from(range.from);
            used.records += count;
            used.bytes += bytes;
            let replay = self.state.replay_mark(source).filter(|mark| (mark.from..mark.to).contains(&range.from));
            let frame = Frame::DeliverRange { source, epoch: run.epoch, range, marks, filtered, replay };
            self.send(run.member, frame, After::Now, fx);
            sent.timed.get_or_insert((range.to, last_append_ms, now.monotonic_ms));
            let after_ms = u64::try_from(now.wall_ms.saturating_sub(last_append_ms)).unwrap_or(0);
            fx.notices.push(Notice::FirstDelivered { records: count, after_ms });
        }
        self.ranges.sources.insert(source, sent);
        // It may have reached the live end (rule FC-4).
        self.touch(source);
        used
    }

    /// How a record is told, if not as it stands (rules AK-8, DL-15).
    fn mark(&self, source: Source, meta: &RecordMeta) -> Option<Mark> {
        let (offset, key) = (meta.offset, EntryKey { source, offset: meta.offset, epoch: meta.epoch });
        if meta.filtered {
            return None;
        }
        if self.dead.intents.has(&key, meta.lane) {
            return Some(Mark { offset, entry: key, state: Some(EntryState::Open), cycle: 0, copy: None });
        }
        match self.entries.state_of(&key) {
            Some(EntryState::Cleared) | None => {}
            // What is before it in its key has failed since: a model gets it behind that (rule DL-6).
            Some(EntryState::Resolved { .. }) if self.is_behind(source, meta) => {}
            Some(state) => return Some(self.entry_mark(key, state)),
        }
        if self.lane_now(source, meta.lane) == LaneState::Live {
            return None;
        }
        let head = self.head_now(source, meta.lane).filter(|head| head.offset < offset)?;
        Some(Mark { offset, entry: head, state: None, cycle: 0, copy: None })
    }

    /// Whether a record of a cursor's group waits behind one that is open.
    fn is_behind(&self, source: Source, meta: &RecordMeta) -> bool {
        self.state.config.positions == Positions::Cursor
            && self.lane_now(source, meta.lane) != LaneState::Live
            && self.head_now(source, meta.lane).is_some_and(|head| head.offset < meta.offset)
    }

    /// What is to be read next; `None`: enough is there.
    pub(super) fn next_range(&mut self, source: Source) -> Option<Fetch> {
        let look = self.looks(source);
        let sent = self.ranges.sources.get_mut(&source)?;
        if let Some(lookup) = sent.lookups.front() {
            return Some(Fetch { source, from: lookup.offset, max_bytes: 1, look: true });
        }
        if sent.pieces.len() >= PIECES || !sent.reported {
            return None;
        }
        let next = sent.read_to();
        let from = self.pass_settled(source, next);
        if self.reading_ends(source, from).is_some_and(|end| from >= end) {
            return None;
        }
        let sent = self.ranges.sources.get_mut(&source)?;
        if from > next {
            if !sent.pieces.is_empty() {
                // What comes behind a replay follows once the replay was sent.
                return None;
            }
            sent.next = from;
        }
        sent.looked = look;
        Some(Fetch { source, from, max_bytes: READ_BYTES, look })
    }

    /// Whether each record must be looked at: some may be filtered or marked.
    fn looks(&self, source: Source) -> bool {
        let filters = |replay: &super::replay::Replay| !replay.plan.filter.is_empty();
        !self.state.config.filter.is_empty() || self.has_dead(source) || self.state.open_replay().is_some_and(filters)
    }

    /// What was read. The position of reading is the caller's; the unit's owner is to be woken with
    /// [`Machine::wake_unit`].
    pub(super) fn range_fetched(&mut self, fetched: &Fetched, now: Now, fx: &mut Effects) {
        let source = fetched.source;
        let looks = self.looks(source);
        let floor = self.partition(source).map(|partition| partition.settled.floor()).unwrap_or_default();
        let Some(sent) = self.ranges.sources.get_mut(&source) else { return };
        let (looked, next) = (sent.looked, sent.read_to());
        let lookup = sent.lookups.front().is_some_and(|lookup| lookup.offset == fetched.from);
        if lookup && let Some(lookup) = sent.lookups.pop_front() {
            // This was a look at one record: reading goes on where it was.
            let meta = fetched.records.iter().find(|meta| meta.offset == lookup.offset).copied();
            if let Some(work) = self.work(source) {
                work.reading.restart(next);
            }
            return self.looked_up(source, lookup, meta, now, fx);
        }
        if fetched.from != next {
            if let Some(work) = self.work(source) {
                work.reading.restart(next);
            }
            return;
        }
        for (range, epoch) in &fetched.undecodable {
            if range.to > floor {
                self.undecodable(source, *range, *epoch, now, fx);
            }
        }
        if looks && !looked {
            // Asked for before a record of the partition died: once more, with a look at each.
            if let Some(work) = self.work(source) {
                work.reading.restart(next);
            }
            return;
        }
        let Some(sent) = self.ranges.sources.get_mut(&source) else { return };
        sent.pieces.push_back(Piece {
            range: OffsetRange { from: fetched.from, to: fetched.next },
            bytes: fetched.log_bytes,
            records: looked.then(|| fetched.records.iter().copied().collect()),
            last_append_ms: fetched.last_append_ms,
        });
        self.wake_unit(source, KeySlot::new(0).expect("the first slot"));
    }

    /// `Commit` and `DeadLetter`.
    pub(super) fn offset_verb(&mut self, member: MemberId, verb: Verb, now: Now, fx: &mut Effects) {
        match verb {
            Verb::Commit { request, source, epoch, next, record_epoch, metadata, force } => {
                let record = (next, record_epoch, metadata);
                let result = self.commit_offset(member, source, epoch, record, force, now, fx);
                self.send(member, Frame::CommitResult { request, source, result }, After::Group, fx);
            }
            Verb::Report { request, source, epoch, next, record_epoch } => {
                let result = self.report(member, source, epoch, (next, record_epoch), now, fx);
                self.send(member, Frame::CommitResult { request, source, result }, After::Group, fx);
            }
            Verb::DeadLetter { request, source, epoch, offset, kind, error } => {
                let lookup = Lookup { member, request, offset, kind, error };
                if let Err(refusal) = self.look_up(source, epoch, lookup) {
                    let frame = Frame::DeadLetterResult { request, result: Err(refusal), lane_live: false };
                    self.send(member, frame, After::Now, fx);
                }
            }
            _ => {}
        }
    }

    #[expect(clippy::too_many_arguments, reason = "a commit with all that it must fit")]
    fn commit_offset(
        &mut self,
        member: MemberId,
        source: Source,
        epoch: AssignmentEpoch,
        (next, record_epoch, metadata): (Offset, Option<PartitionEpoch>, String),
        force: bool,
        now: Now,
        fx: &mut Effects,
    ) -> Result<Offset, Refusal> {
        self.owns_range(member, source, epoch)?;
        if self.state.config.positions == Positions::Cursor {
            return Err(Refusal::WrongMode { verb: "Commit" });
        }
        if metadata.len() > limits::COMMIT_METADATA_BYTES {
            let (found, bounds) = (format!("{} bytes", metadata.len()), "at most 4,096 bytes".to_owned());
            return Err(Refusal::Invalid { field: "metadata", found, bounds });
        }
        let (floor, record_epoch) = self.valid_position(source, next, record_epoch)?;
        if next < floor && !force {
            if self.ended_range(source, next) {
                // The end of a replay's range, behind which the group went on at once.
                return Ok(next);
            }
            return Err(Refusal::CommitBackwards { source_partition: source, current: floor, asked: next });
        }
        self.commit(GroupRecord::Committed { source, next, epoch: record_epoch, metadata }, fx);
        self.touch(source);
        if let Some(sent) = self.ranges.sources.get_mut(&source) {
            sent.passed(floor, next, now, fx);
            sent.first_started = false;
            if sent.next < next {
                // It passed what was not sent, by force of its own knowledge.
                sent.next = next;
                sent.pieces.clear();
                if let Some(work) = self.work(source) {
                    work.reading.restart(next);
                }
            }
        }
        if self.has_dead(source) {
            // Entries whose places were passed may go (rule DL-15).
            self.refresh_source(source, floor.min(next), now);
        }
        Ok(next)
    }

    /// The floor, and the epoch of a position that the partition can have (rules AK-8, OF-7).
    fn valid_position(
        &self,
        source: Source,
        next: Offset,
        record_epoch: Option<PartitionEpoch>,
    ) -> Result<(Offset, PartitionEpoch), Refusal> {
        let partition = self.partition(source).ok_or(Refusal::SessionOver)?;
        let floor = partition.settled.floor();
        let high_watermark = self.works.get(&source).map_or(floor, |work| work.reading.high_watermark).max(floor);
        let out =
            |latest| Refusal::OutOfRange { source_partition: source, offset: next, earliest: Offset::ZERO, latest };
        if next > high_watermark {
            return Err(out(high_watermark));
        }
        let record_epoch = record_epoch.unwrap_or(partition.epoch);
        // A position of before a cut is never another record (rule OF-7).
        if let Some(at) = partition.cut_below(next, record_epoch) {
            return Err(out(at));
        }
        Ok((floor, record_epoch))
    }

    /// Whether a replay's range ends there.
    fn ended_range(&self, source: Source, next: Offset) -> bool {
        self.state.replays.iter().any(|replay| replay.range_of(source).is_some_and(|range| range.to == next))
    }

    pub(super) fn owns_range(&self, member: MemberId, source: Source, epoch: AssignmentEpoch) -> Result<(), Refusal> {
        let run = self.ranges.sources.get(&source).map(|sent| sent.run);
        match run {
            Some(run) if run.member == member && run.epoch == epoch => Ok(()),
            run => Err(Refusal::Fenced {
                source_partition: source,
                slots: SlotRange::ALL,
                given: epoch,
                current: run.map_or(AssignmentEpoch(self.state.epoch), |run| run.epoch),
            }),
        }
    }

    /// Has the record of a `DeadLetter` looked at.
    fn look_up(&mut self, source: Source, epoch: AssignmentEpoch, lookup: Lookup) -> Result<(), Refusal> {
        self.owns_range(lookup.member, source, epoch)?;
        if self.is_dlq(source) {
            return Err(Refusal::NoDeadLetters);
        }
        let earliest = self.partition(source).map(|partition| partition.settled.floor()).unwrap_or_default();
        let sent = self.ranges.sources.get_mut(&source).expect("its owner was just checked");
        let (offset, latest) = (lookup.offset, sent.next);
        if offset < earliest || offset >= latest {
            return Err(Refusal::OutOfRange { source_partition: source, offset, earliest, latest });
        }
        if sent.lookups.len() >= LOOKUPS {
            return Err(Refusal::Limit { limit: "dead letters that wait", max: LOOKUPS as u64 });
        }
        sent.lookups.push_back(lookup);
        let next = sent.read_to();
        if let Some(work) = self.work(source) {
            // What is asked for may wait at the live end.
            work.reading.restart(next);
        }
        Ok(())
    }

    /// The record of a `DeadLetter` was looked at.
    fn looked_up(&mut self, source: Source, lookup: Lookup, meta: Option<RecordMeta>, now: Now, fx: &mut Effects) {
        let Lookup { member, request, offset, kind, error } = lookup;
        let answer = |result, lane_live| Frame::DeadLetterResult { request, result, lane_live };
        let Some(meta) = meta else {
            return self.send(member, answer(Err(Refusal::EntryNotFound), false), After::Now, fx);
        };
        let key = EntryKey { source, offset, epoch: meta.epoch };
        // Given up while it was on its way to its reader, it is passed like one that is open (rule RP-7).
        let given_up = |state| matches!(state, EntryState::Discarded | EntryState::Moved | EntryState::Expired);
        let passed = |state: EntryState| !state.is_closed() || (self.follows_group() && given_up(state));
        if self.entries.state_of(&key).is_some_and(passed) {
            return self.send(member, answer(Ok(key), false), After::Entries, fx);
        }
        if self.dead.intents.has(&key, meta.lane) {
            // Asked again: the answer is the first one's, later.
            let intents = self.partition(source).into_iter().flat_map(|partition| &partition.intents);
            let number = intents.filter(|(_, intent)| intent.key == key).map(|(number, _)| *number).next_back();
            if let Some(number) = number {
                let pending = Pending::DeadLetter { member, request };
                if let Some(Pending::DeadLetter { member, request }) =
                    self.dead.pending.insert((source, number), pending)
                {
                    let result = Err(Refusal::EntryNotFound);
                    self.send(member, Frame::DeadLetterResult { request, result, lane_live: false }, After::Now, fx);
                }
            }
            return;
        }
        let dead = self.lane_now(source, meta.lane) != LaneState::Live;
        let head = self.head_now(source, meta.lane).filter(|head| dead && head.offset < offset);
        if kind == EntryKind::Parked && head.is_none() {
            return self.send(member, answer(Ok(key), true), After::Now, fx);
        }
        let parks = self.parks(source);
        if kind == EntryKind::Failed && !dead && parks && self.dead_limit_reached(source, now, fx) {
            let (limit, max) = ("max_dead_lanes", self.state.config.max_dead_lanes);
            return self.send(member, answer(Err(Refusal::Limit { limit, max }), false), After::Group, fx);
        }
        let failed = kind == EntryKind::Failed;
        let dying = Dying {
            taken: taken(&meta),
            kind,
            reason: cursor::reason_of(failed, error.as_ref()),
            spilled: false,
            holds: parks || !failed,
            error: if failed { error } else { None },
            member: Some(member),
            blocked_by: if failed { None } else { head },
            records: 1,
        };
        let number = self.intend(source, dying, now, fx);
        self.dead.pending.insert((source, number), Pending::DeadLetter { member, request });
        self.read_again(source);
    }

    /// What was read without a look at each record is read again: some of it is marked now.
    fn read_again(&mut self, source: Source) {
        let Some(sent) = self.ranges.sources.get_mut(&source) else { return };
        if sent.pieces.iter().any(|piece| piece.records.is_none()) {
            sent.pieces.clear();
            let next = sent.next;
            if let Some(work) = self.work(source) {
                work.reading.restart(next);
            }
        }
    }
}

fn taken(meta: &RecordMeta) -> Taken {
    Taken {
        offset: meta.offset,
        lane: meta.lane,
        slot: meta.slot,
        epoch: meta.epoch,
        size_bytes: meta.size_bytes,
        append_ms: meta.append_ms,
        attempts: 1,
        due_ms: 0,
    }
}

#[cfg(test)]
mod tests;
