//! The breaker's part in deliveries, and records that idle members could do (rules CB-2, CB-3, CB-5, FC-5).
//!
//! Owns: which record is a probe, how deliveries rise again, what is recalled from whom. Must not know: when the breaker
//! opens ([`super::breaker`]).

use super::Now;
use super::breaker::{BreakerState, OpenReason};
use super::config::Mode;
use super::deadlines::Timer;
use super::effect::{After, Delivery, DeliveryMore, Effects, Frame, Notice};
use super::lanes::QueueKind;
use super::leases::Lease;
use super::machine::Machine;
use crate::model::{AssignmentEpoch, MemberId, Offset, OffsetRange, Source};

/// How long a member idles before others are looked at, and how old leases are that are recalled then.
pub(super) const IDLE_MS: u64 = 2_000;
/// Ready lanes of a unit among which a probe is looked for.
const PROBE_LANES: usize = 1_024;

impl Machine {
    /// Sends the breaker's probe if it is due: a record that never failed, or the oldest that the breaker holds (rule
    /// CB-2). Answers whether one was sent.
    pub(super) fn probe(&mut self, now: Now, fx: &mut Effects) -> bool {
        if !self.breaker.probe_due(now.monotonic_ms) {
            return false;
        }
        let Some((source, owner, index)) = self.find_probe() else { return false };
        let Some(work) = self.work(source) else { return false };
        let one = &work.owners[owner as usize];
        let (member, handle, epoch) = (one.member, one.handle, one.epoch);
        let record = work.record_mut(index);
        record.probe = true;
        let (offset, size, attempt) = (record.offset, u64::from(record.size_bytes), record.attempts + 1);
        let suspect = record.suspects != 0;
        let until_ms = now.monotonic_ms + self.state.config.lease_ms;
        if suspect && let Some(one) = self.members.get_mut(member) {
            one.suspects += 1;
        }
        let Some(work) = self.work(source) else { return false };
        work.lease(index, Lease { holder: handle, epoch, since_ms: now.monotonic_ms, until_ms });
        self.breaker.probe_sent();
        self.charge(member, 1, size);
        let mut after = After::Now;
        let mut more = None;
        if attempt > 1 {
            let tried = self.tried_of(source, index, now);
            more = Some(Box::new(DeliveryMore {
                first_delivery_ms: tried.first_ms,
                last_class: tried.class.clone(),
                ..DeliveryMore::default()
            }));
            self.commit(super::record::GroupRecord::Tried { source, tries: vec![tried] }, fx);
            after = After::Group;
        }
        self.send_records(member, source, epoch, vec![Delivery { offset, attempt, more }], after, fx);
        true
    }

    /// A probe: where it is and whose.
    fn find_probe(&self) -> Option<(Source, u32, u32)> {
        let mut oldest: Option<(i64, (Source, u32, u32))> = None;
        for (source, work) in self.works.iter().filter(|(_, work)| !work.paused) {
            for (at, owner) in work.owners.iter().enumerate() {
                let at = at as u32;
                if !self.members.get(owner.member).is_some_and(super::members::Member::has_room) {
                    continue;
                }
                if let Some(index) = work.first_untried(at, PROBE_LANES) {
                    return Some((*source, at, index));
                }
                for kind in [QueueKind::Ready, QueueKind::Suspect] {
                    if let Some(index) = work.next_ready(at, kind) {
                        let append_ms = work.record(index).append_ms;
                        if oldest.is_none_or(|(best, _)| append_ms < best) {
                            oldest = Some((append_ms, (*source, at, index)));
                        }
                    }
                }
            }
        }
        oldest.map(|(_, found)| found)
    }

    /// A probe was handled well.
    pub(super) fn probe_done(&mut self, now: Now, fx: &mut Effects) {
        if self.breaker.probe_ok(now.monotonic_ms) {
            self.tell_breaker(false, now, fx);
            self.wake_all();
        }
        self.arm_breaker(now);
    }

    /// Looks at the breaker again when it may allow more.
    pub(super) fn arm_breaker(&mut self, now: Now) {
        if let Some(at_ms) = self.breaker.next_deadline_ms(now.monotonic_ms) {
            self.deadlines.arm(Timer::Breaker, at_ms.max(now.monotonic_ms + 1));
        }
    }

    /// Tells that the breaker opened or closed (rule CB-4).
    pub(super) fn tell_breaker(&mut self, open: bool, now: Now, fx: &mut Effects) {
        let why = match self.breaker.state(now.monotonic_ms) {
            BreakerState::Open { reason, .. } | BreakerState::Probing { reason, .. } => reason_text(reason),
            BreakerState::Closed | BreakerState::Ramp { .. } => "probes were handled".to_owned(),
        };
        fx.notices.push(Notice::Breaker { open, why });
    }

    /// A consumer asks the group to wait (rule CB-5).
    pub(super) fn ask_to_wait(&mut self, delay_ms: u64, now: Now, fx: &mut Effects) {
        let was_open = self.breaker.is_open(now.monotonic_ms);
        self.breaker.ask_open(now.monotonic_ms + delay_ms, now.monotonic_ms);
        if !was_open && self.breaker.is_open(now.monotonic_ms) {
            self.tell_breaker(true, now, fx);
        }
        self.arm_breaker(now);
    }

    /// The breaker was forced or let go in the durable state (rule CB-4).
    pub(super) fn breaker_forced(&mut self, now: Now, fx: &mut Effects) {
        let was_open = self.breaker.is_open(now.monotonic_ms);
        let forced = self.state.breaker.as_ref().map(|(forced, _)| *forced);
        self.breaker.force(forced, now.monotonic_ms);
        let open = self.breaker.is_open(now.monotonic_ms);
        if open != was_open {
            self.tell_breaker(open, now, fx);
        }
        self.arm_breaker(now);
        self.wake_all();
    }

    /// After the breaker has closed, what is out rises to all of the credit over its ramp (rule CB-3).
    pub(super) fn ramp_room(&mut self, now: Now) -> Option<u64> {
        let permille = u64::from(self.breaker.allowance(now.monotonic_ms));
        if permille == 0 || permille >= 1_000 {
            return None;
        }
        let all = self.members.all.values().filter(|one| one.attached).fold(0_u64, |sum, one| {
            sum.saturating_add(u64::try_from(one.records_left).unwrap_or(0)).saturating_add(one.leased_records)
        });
        let allowed = (u128::from(all) * u128::from(permille) / 1_000).max(1);
        let room = u64::try_from(allowed).unwrap_or(u64::MAX).saturating_sub(self.totals.records);
        self.arm_breaker(now);
        Some(room)
    }

    /// Waiting lanes whose time has come go on; an open breaker holds those that first failed in its window.
    pub(super) fn retries_due(&mut self, source: Source, now: Now) {
        let open = self.breaker.is_open(now.monotonic_ms);
        let Some(work) = self.works.get(&source) else { return };
        if open {
            let exempt: Vec<u32> = work
                .due_heads(now.monotonic_ms)
                .into_iter()
                .filter(|index| !self.breaker.holds(self.first_failure_ms(source, *index, now), now.monotonic_ms))
                .collect();
            if let Some(work) = self.work(source) {
                exempt.into_iter().for_each(|index| work.record_mut(index).exempt = true);
            }
        }
        if let Some(work) = self.work(source) {
            work.retry_due(now.monotonic_ms);
        }
    }

    /// When a record that waits was first delivered, by the monotonic clock: it failed no earlier than that.
    fn first_failure_ms(&self, source: Source, index: u32, now: Now) -> u64 {
        let offset = self.works[&source].record(index).offset;
        let first_ms =
            self.partition(source).and_then(|partition| partition.tried.get(&offset)).map(|tried| tried.first_ms);
        let passed = first_ms.map_or(0, |first_ms| u64::try_from(now.wall_ms - first_ms).unwrap_or(0));
        now.monotonic_ms.saturating_sub(passed)
    }

    /// If a member idles, what others have and have not begun comes to it (rule FC-5): in mode UNORDERED an even share,
    /// else what belongs to its slots.
    pub(super) fn idle_due(&mut self, now: Now, fx: &mut Effects) {
        let idle: Vec<MemberId> =
            self.members.all.iter().filter(|(_, one)| self.idles(one)).map(|(id, _)| *id).collect();
        if idle.is_empty() {
            return;
        }
        if self.totals.records > 0 {
            self.deadlines.arm(Timer::Idle, now.monotonic_ms + IDLE_MS / 2);
        }
        // Of one that rests nobody gets anything.
        let sources: Vec<Source> = self.works.values().filter(|work| !work.paused).map(|work| work.source).collect();
        for source in sources {
            if self.state.config.mode == Mode::Unordered {
                self.share(source, &idle, now, fx);
            } else if !self.hand_over.drains.is_empty() {
                self.recall_moved(source, &idle, now, fx);
            }
        }
    }

    fn idles(&self, one: &super::members::Member) -> bool {
        one.has_room() && one.leased_records == 0 && one.units.is_empty()
    }

    /// What could be recalled of a partition: old, not begun, of a member that tells what it begins.
    fn unstarted(&self, source: Source, now: Now) -> Vec<(MemberId, u32)> {
        let work = &self.works[&source];
        let mut found: Vec<(MemberId, u32)> = work
            .leased_records()
            .filter(|index| {
                let record = work.record(*index);
                !record.started && !record.probe && record.since_ms + IDLE_MS < now.monotonic_ms
            })
            .filter_map(|index| {
                let member = self.members.id(work.record(index).holder)?;
                // One without a stream cannot be told, and may begin with it.
                self.members.get(member).filter(|one| one.hints && one.attached)?;
                Some((member, index))
            })
            .collect();
        found.sort_unstable_by_key(|(_, index)| work.record(*index).offset);
        found
    }

    /// Leases of slots that are an idle member's by now come back.
    fn recall_moved(&mut self, source: Source, idle: &[MemberId], now: Now, fx: &mut Effects) {
        let work = &self.works[&source];
        let theirs: Vec<(MemberId, Offset)> = self
            .unstarted(source, now)
            .into_iter()
            .filter(|(holder, index)| {
                let owner = self.owner(source, work.place(*index).1);
                owner.is_some_and(|run| run.member != *holder && idle.contains(&run.member))
            })
            .map(|(holder, index)| (holder, work.record(index).offset))
            .collect();
        self.recall(source, &theirs, now, fx);
    }

    /// An even share of what others have comes to idle members that own anything of the partition.
    fn share(&mut self, source: Source, idle: &[MemberId], now: Now, fx: &mut Effects) {
        let idle: Vec<MemberId> = idle.iter().copied().filter(|member| self.owns_any(source, *member)).collect();
        let theirs = self.unstarted(source, now);
        let mut holders: Vec<MemberId> = theirs.iter().map(|(holder, _)| *holder).collect();
        holders.sort_unstable();
        holders.dedup();
        let share = theirs.len() / (holders.len() + idle.len()).max(1) * idle.len();
        if share == 0 {
            return;
        }
        let work = &self.works[&source];
        // The newest: those that their members would come to last.
        let taken = theirs[theirs.len() - share..].iter();
        let taken: Vec<(MemberId, Offset)> =
            taken.map(|(holder, index)| (*holder, work.record(*index).offset)).collect();
        self.recall(source, &taken, now, fx);
        let Some(work) = self.work(source) else { return };
        let owner_of = |member: MemberId| work.owners.iter().position(|owner| owner.member == member);
        let owners: Vec<u32> = idle.iter().filter_map(|member| owner_of(*member)).map(|at| at as u32).collect();
        for ((_, offset), owner) in taken.iter().zip(owners.iter().cycle()) {
            if let Some(index) = work.find(*offset) {
                work.lend(index, *owner, now.monotonic_ms);
            }
        }
    }

    /// Takes records back from those who have them, without a strike.
    fn recall(&mut self, source: Source, taken: &[(MemberId, Offset)], now: Now, fx: &mut Effects) {
        let mut runs: Vec<(MemberId, AssignmentEpoch, Vec<OffsetRange>)> = Vec::new();
        for (holder, offset) in taken {
            let Some(index) = self.works.get(&source).and_then(|work| work.find(*offset)) else { continue };
            let record = self.works[&source].record(index);
            let (was, epoch) = (record.holder, record.lease_epoch);
            if self.members.id(was) != Some(*holder) {
                continue;
            }
            self.release(source, index, 0, now, fx);
            if let Some(work) = self.work(source) {
                work.record_mut(index).recalled_from = was;
            }
            match runs.iter_mut().find(|(member, under, _)| member == holder && *under == epoch) {
                Some((.., runs)) => super::read_ahead::add(runs, *offset),
                None => runs.push((*holder, epoch, vec![Self::one(*offset)])),
            }
        }
        for (member, epoch, runs) in runs {
            self.send(member, Frame::Recall { source, epoch, runs, entries: Vec::new() }, After::Now, fx);
        }
    }
}

/// Why the breaker is open, for people.
pub(super) fn reason_text(reason: OpenReason) -> String {
    match reason {
        OpenReason::FailedKeys { failed, seen } => format!("{failed} of {seen} keys failed"),
        OpenReason::Asked => "a consumer asked for it".to_owned(),
        OpenReason::Forced => "an operator forced it".to_owned(),
    }
}

#[cfg(test)]
mod tests;
