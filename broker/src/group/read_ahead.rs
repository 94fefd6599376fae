//! What is read ahead of a partition, when, and where it goes (rules AK-7, FC-4, FC-7, RE-4).
//!
//! Owns: when a range is asked for, how records that were read come into their lanes. Must not know: who gets them.
//!
//! Invariant: a record that was read is held, settled, or taken care of by its entry; none is passed over.

use super::Now;
use super::config::Mode;
use super::dead::Met;
use super::deadlines::Timer;
use super::effect::{After, Effects, Fetch, Frame};
use super::event::{Fetched, RecordMeta};
use super::lane_moves::Dropped;
use super::lanes::Work;
use super::machine::Machine;
use super::record::{BLOCKED_MS, GIVEN_BACK_MS, GroupRecord, SPENT_MS, SettledAs, Tried};
use crate::limits;
use crate::model::{KeySlot, LaneKey, MemberId, Offset, OffsetRange, Source};

/// Records of a partition that are read ahead of what can be delivered, at least.
const READ_AHEAD_RECORDS: u64 = 1_024;
/// Bytes of log that are read at once.
const READ_CHUNK: u32 = limits::READ_CHUNK_BYTES as u32;
/// Records not read, and keys that could be delivered, without being called behind.
const BEHIND_RECORDS: u64 = 4_096;

impl Machine {
    /// See [`super::event::Event::Fetched`].
    pub(super) fn fetched(&mut self, fetched: Fetched, now: Now, fx: &mut Effects) {
        let source = fetched.source;
        let is_offset = self.is_offset();
        let Some(work) = self.work(source) else { return };
        if work.reading.asked != Some(fetched.from) {
            // An answer to what was asked before a reset or a cut.
            return;
        }
        work.reading.asked = None;
        let fetched = match self.reading_ends(source, fetched.from) {
            Some(end) if fetched.next > end => fetched.up_to(end),
            _ => fetched,
        };
        let Some(work) = self.work(source) else { return };
        work.reading.high_watermark = work.reading.high_watermark.max(fetched.high_watermark);
        work.reading.knows_end = true;
        if fetched.next <= fetched.from {
            return;
        }
        work.reading.last_append_ms = fetched.last_append_ms;
        if is_offset {
            work.reading.advance(fetched.next, fetched.log_bytes);
            self.range_fetched(&fetched, now, fx);
            self.wake_unit(source, KeySlot::new(0).expect("the first slot"));
            return;
        }
        for (range, epoch) in &fetched.undecodable {
            self.undecodable(source, *range, *epoch, now, fx);
        }
        let has_dead = self.has_dead(source);
        let mut skipped = if has_dead { self.meet_all(&fetched, now, fx) } else { self.hold_all(&fetched, now) };
        if !skipped.is_empty() {
            skipped.sort_by_key(|run: &OffsetRange| run.from);
            self.commit(GroupRecord::Settled { source, how: SettledAs::Skipped, runs: skipped }, fx);
        }
        self.pass_holes(&fetched, fx);
        if let Some(work) = self.work(source) {
            work.reading.advance(fetched.next, fetched.log_bytes);
        }
        self.unread_passed(source, now);
        self.take_claims(&fetched, now, fx);
    }

    /// Holds what was read; answers what the filter leaves out.
    fn hold_all(&mut self, fetched: &Fetched, now: Now) -> Vec<OffsetRange> {
        let Self { works, state, .. } = self;
        let (Some(work), Some(partition)) = (works.get_mut(&fetched.source), state.partitions.get(&fetched.source))
        else {
            return Vec::new();
        };
        let mut skipped = Vec::new();
        let end = partition.settled.end();
        for meta in &fetched.records {
            let settled = meta.offset < end && partition.settled.contains(meta.offset);
            if settled || meta.offset < work.reading.next {
                continue;
            }
            if meta.filtered {
                add(&mut skipped, meta.offset);
                continue;
            }
            let tried = if partition.tried.is_empty() { None } else { partition.tried.get(&meta.offset) };
            hold(work, meta, state.config.mode, tried, now);
        }
        skipped
    }

    /// As [`Machine::hold_all`], where some lanes are not live.
    fn meet_all(&mut self, fetched: &Fetched, now: Now, fx: &mut Effects) -> Vec<OffsetRange> {
        let (source, mode) = (fetched.source, self.state.config.mode);
        let mut skipped = Vec::new();
        for meta in &fetched.records {
            let Some(partition) = self.state.partitions.get(&source) else { break };
            if partition.settled.contains(meta.offset) || meta.offset < self.works[&source].reading.next {
                continue;
            }
            if meta.filtered {
                add(&mut skipped, meta.offset);
                continue;
            }
            let meta = RecordMeta { lane: lane_of(meta, mode), ..*meta };
            if self.meet(source, &meta, now, fx) == Met::Taken {
                continue;
            }
            let Self { works, state, .. } = self;
            let (Some(work), Some(partition)) = (works.get_mut(&source), state.partitions.get(&source)) else { break };
            hold(work, &meta, mode, partition.tried.get(&meta.offset), now);
        }
        skipped
    }

    /// Offsets that were read over and have no record will never have one: they are settled.
    fn pass_holes(&mut self, fetched: &Fetched, fx: &mut Effects) {
        let mut holes = Vec::new();
        let mut at = fetched.from;
        let records = fetched.records.iter().map(|meta| (meta.offset, meta.offset.saturating_add(1)));
        let mut present: Vec<(Offset, Offset)> = records.collect();
        if present.len() as u64 == fetched.next.distance_from(fetched.from) {
            return;
        }
        present.extend(fetched.undecodable.iter().map(|(range, _)| (range.from, range.to)));
        present.sort_unstable();
        present.push((fetched.next, fetched.next));
        let Some(partition) = self.partition(fetched.source) else { return };
        for (from, to) in present {
            if at < from {
                holes.extend(partition.settled.unsettled_in(OffsetRange { from: at, to: from }));
            }
            at = at.max(to);
        }
        if !holes.is_empty() {
            let record = GroupRecord::Settled { source: fetched.source, how: SettledAs::Expired, runs: holes };
            self.commit(record, fx);
        }
    }

    /// See [`super::event::Event::HighWatermark`].
    pub(super) fn high_watermark(&mut self, source: Source, offset: Offset) {
        if let Some(work) = self.work(source) {
            work.reading.high_watermark = work.reading.high_watermark.max(offset);
            work.reading.knows_end = true;
        }
    }

    /// What this event touched: owners are woken, deadlines armed, bounds looked at.
    pub(super) fn look_at_touched(&mut self, fx: &mut Effects) {
        while let Some(source) = self.touched.pop() {
            self.look_at(source, fx);
            if !self.looked_at.contains(&source) {
                self.looked_at.push(source);
            }
        }
    }

    fn look_at(&mut self, source: Source, fx: &mut Effects) {
        let floor = self.partition(source).map_or(Offset::ZERO, |partition| partition.settled.floor());
        let Self { works, members, deadlines, state, .. } = self;
        let Some(work) = works.get_mut(&source) else { return };
        work.touched = false;
        for owner in std::mem::take(&mut work.woken) {
            let member = work.owners[owner as usize].member;
            if let Some(one) = members.get_mut(member) {
                one.units.push_back((source, owner));
                members.wake(member);
            } else {
                work.owners[owner as usize].listed = false;
            }
        }
        if let Some((until_ms, _)) = work.first_lease() {
            deadlines.arm(Timer::Leases(source), until_ms);
        }
        if let Some(due_ms) = work.first_retry() {
            deadlines.arm(Timer::Retries(source), due_ms);
        }
        let config = &state.config;
        let share = |count: u64, bound: u64| count * 100 >= bound * 80;
        let near = share(work.held().into(), config.max_held.into())
            || share(work.blocked().into(), config.max_lanes_blocked.into())
            || share(work.reading.scanned_bytes(floor), config.max_scan_ahead_bytes);
        let was = std::mem::replace(&mut work.near, near);
        if !work.dying.is_empty() {
            self.dead.spent.come_first(source, std::mem::take(&mut work.dying));
        }
        self.drop_far_claims(source, fx);
        self.tell_caught_up(source, fx);
        if (near || was) && !self.is_offset() {
            self.dead.spills.look_at(source);
        }
    }

    /// Tells members when they reach the live end of a partition, and when they fall behind it (rule FC-4).
    fn tell_caught_up(&mut self, source: Source, fx: &mut Effects) {
        let (is_offset, sent) = (self.is_offset(), self.ranges.next(source));
        let Some(work) = self.works.get_mut(&source) else { return };
        if work.owners.is_empty() {
            return;
        }
        let reading = &work.reading;
        // In mode OFFSET what was read is not delivered before it was sent.
        let Some(next) = (if is_offset { sent } else { Some(reading.next) }) else { return };
        let ahead = reading.high_watermark.distance_from(next);
        let caught_up = match reading.caught_up {
            // What waits behind a record in work is with a member already: it counts neither way.
            true => ahead + u64::from(work.ready()) <= BEHIND_RECORDS,
            false => reading.knows_end && ahead == 0 && (is_offset || work.ready() == 0),
        };
        if caught_up == reading.caught_up {
            return;
        }
        work.reading.caught_up = caught_up;
        if caught_up {
            work.shrink();
        }
        let (offset, append_ms) = (next, work.reading.last_append_ms);
        let mut members: Vec<MemberId> = work.owners.iter().map(|owner| owner.member).collect();
        members.sort_unstable();
        members.dedup();
        for member in members {
            let frame = match caught_up {
                true => Frame::CaughtUp { source, offset, append_ms },
                false => Frame::FellBehind { source, offset },
            };
            self.send(member, frame, After::Now, fx);
        }
    }

    /// Tells a member that has just got a unit whether it is at the live end.
    pub(super) fn tell_live(&self, member: MemberId, source: Source, fx: &mut Effects) {
        let Some(reading) = self.works.get(&source).map(|work| &work.reading) else { return };
        if reading.caught_up {
            let frame = Frame::CaughtUp { source, offset: reading.next, append_ms: reading.last_append_ms };
            self.send(member, frame, After::Group, fx);
        }
    }

    /// Asks for what is to be read next; nothing before the start (rule AK-12), which makes up for it.
    pub(super) fn read_on(&mut self, fx: &mut Effects) {
        if !self.started {
            return;
        }
        for source in std::mem::take(&mut self.looked_at) {
            if let Some(fetch) = self.wanted(source)
                && let Some(work) = self.works.get_mut(&source)
            {
                work.reading.asked = Some(fetch.from);
                fx.fetches.push(fetch);
            }
        }
    }

    fn wanted(&mut self, source: Source) -> Option<Fetch> {
        let floor = self.partition(source)?.settled.floor();
        let rests = self.reading_rests(source);
        let work = self.works.get_mut(&source)?;
        if self.closing || work.reading.asked.is_some() || work.owners.is_empty() {
            return None;
        }
        if !work.claims.is_empty() {
            // What is in work already is read, whatever rests: verbs about it wait for that.
            return Some(Fetch { source, from: work.reading.next, max_bytes: READ_CHUNK, look: true });
        }
        if rests || work.paused {
            return None;
        }
        if self.is_offset() {
            return self.next_range(source);
        }
        let next = self.pass_settled(source, self.works.get(&source)?.reading.next);
        if self.reading_ends(source, next).is_some_and(|end| next >= end) {
            return None;
        }
        let (partitions, members) = (self.works.len() as u64, self.members.all.len().max(1) as u64);
        let work = self.works.get_mut(&source)?;
        work.reading.next = next;
        let config = &self.state.config;
        if work.held() >= config.max_held || work.reading.scanned_bytes(floor) >= config.max_scan_ahead_bytes {
            return None;
        }
        let free = work.owners.iter().filter_map(|owner| self.members.get(owner.member));
        let free: u64 = free.map(|one| u64::try_from(one.records_left).unwrap_or(0)).max().unwrap_or(0);
        let most = u64::from(config.max_held / 2);
        // A member's credit is shared by its partitions; what is held beyond what it can get soon only drives the rest out
        // of the processor's caches.
        let shared_by = (partitions / members).max(1);
        let enough = (2 * free / shared_by).max(READ_AHEAD_RECORDS).min(most);
        // A few slow keys must not hide all others behind their own records.
        let starved = work.ready() == 0 && free > 0 && work.held() < config.max_held / 5 * 3;
        if u64::from(work.undelivered()) >= enough && !starved {
            return None;
        }
        Some(Fetch { source, from: work.reading.next, max_bytes: READ_CHUNK, look: true })
    }

    /// Everything held of a partition at or above `offset` is forgotten, leased or not; reading goes on there, at most
    /// from `offset` (rule AK-12).
    pub(super) fn drop_from(&mut self, source: Source, offset: Offset) {
        let Some(work) = self.work(source) else { return };
        let dropped = work.forget(|at, _| at >= offset, 0);
        work.claims.clear();
        let next = work.reading.next.min(offset);
        work.reading.restart(next);
        work.reading.high_watermark = work.reading.high_watermark.min(offset.max(next));
        self.leases_dropped(&dropped);
    }

    /// Everything held of a partition is forgotten; reading begins anew at `floor` (rule OF-3), as history.
    pub(super) fn restart_source(&mut self, source: Source, floor: Offset) {
        let Some(work) = self.work(source) else { return };
        let dropped = work.forget(|_, _| true, 0);
        work.claims.clear();
        work.reading.restart(floor);
        work.reading.caught_up = false;
        self.leases_dropped(&dropped);
    }

    /// What is held of a range and not leased is forgotten: it was settled as expired (rule RE-4). Reading goes on
    /// behind it if it stands within.
    pub(super) fn drop_range(&mut self, source: Source, range: OffsetRange, now: Now, fx: &mut Effects) {
        let Some(work) = self.work(source) else { return };
        let dropped = work.forget(|at, leased| !leased && range.contains(at), now.monotonic_ms);
        if range.contains(work.reading.next) {
            work.reading.restart(range.to);
        }
        self.leases_dropped(&dropped);
        self.dead.spent.forget(source, range);
        self.drop_passed_claims(source, fx);
    }

    /// The same for a range that is settled as a whole: what is leased of it is nobody's any more.
    pub(super) fn drop_leased_too(&mut self, source: Source, range: OffsetRange, now: Now, fx: &mut Effects) {
        let Some(work) = self.work(source) else { return };
        let dropped = work.forget(|at, _| range.contains(at), now.monotonic_ms);
        if range.contains(work.reading.next) {
            work.reading.restart(range.to);
        }
        self.leases_dropped(&dropped);
        self.drop_passed_claims(source, fx);
    }

    fn leases_dropped(&mut self, dropped: &[Dropped]) {
        for one in dropped {
            self.lease_ended(one.holder, one.size_bytes, one.suspect);
            if one.probe {
                self.breaker.probe_lost(self.now.monotonic_ms);
                self.arm_breaker(self.now);
            }
        }
    }
}

/// The lane of a record: in mode UNORDERED each is its own.
pub(super) fn lane_of(meta: &RecordMeta, mode: Mode) -> LaneKey {
    if mode != Mode::Unordered {
        return meta.lane;
    }
    LaneKey((u128::from(meta.offset.get()) + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835))
}

fn hold(work: &mut Work, meta: &RecordMeta, mode: Mode, tried: Option<&Tried>, now: Now) {
    let meta = RecordMeta { lane: lane_of(meta, mode), ..*meta };
    let Some(tried) = tried else {
        work.push(&meta, 0, 0, now.monotonic_ms);
        return;
    };
    match tried.due_ms {
        BLOCKED_MS => {
            work.push(&meta, tried.attempts, 0, now.monotonic_ms);
            return work.stick(meta.lane, true, now.monotonic_ms);
        }
        SPENT_MS => {
            let index = work.push(&meta, tried.attempts, 0, now.monotonic_ms);
            return work.mark_spent(index, now.monotonic_ms);
        }
        _ => {}
    }
    // A delivery that was under way when the broker stopped counts for nothing if it is not resumed (rule G4).
    let attempts = if tried.due_ms == 0 { tried.attempts.saturating_sub(1) } else { tried.attempts };
    // Whatever became of the clock, it waits no longer than its own delay (rule F6).
    let left_ms = u64::try_from(tried.due_ms.saturating_sub(now.wall_ms)).unwrap_or(0).min(tried.delay_ms);
    // A due time that has passed still tells that the delivery ended with a strike: one that is resumed does not count twice.
    let struck = tried.due_ms > GIVEN_BACK_MS;
    let due_ms = if struck { (now.monotonic_ms + left_ms).max(1) } else { 0 };
    work.push(&meta, attempts, due_ms, now.monotonic_ms);
}

/// Adds one offset to runs in order.
pub(super) fn add(runs: &mut Vec<OffsetRange>, offset: Offset) {
    let to = offset.saturating_add(1);
    match runs.last_mut() {
        Some(last) if last.to == offset => last.to = to,
        _ => runs.push(OffsetRange { from: offset, to }),
    }
}

#[cfg(test)]
mod tests;
