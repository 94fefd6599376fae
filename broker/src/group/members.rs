//! Sessions of members: join, resume, silence, leave (rules GM-1, GM-7 to GM-12), and their credit (FC-2).
//!
//! Owns: who has a stream, since when it is silent, what it may still be sent. Must not know: which units it gets
//! (`units`), what it is sent (`delivery`).
//!
//! Invariants: a member is here exactly if it is in the durable state; credit left and what is leased add up to what was
//! granted.

use std::collections::{BTreeMap, VecDeque};

use super::Now;
use super::deadlines::Timer;
use super::effect::{After, Effects, Frame, Notice, Refusal};
use super::event::Credit;
use super::lanes::{Handle, Work};
use super::machine::Machine;
use super::record::GroupRecord;
use super::state::MemberState;
use crate::model::{MemberEpoch, MemberId, Source};

/// Records of credit that count; more is held at this.
pub(super) const CREDIT_RECORDS: i64 = 1 << 31;
/// Bytes of credit that count.
pub(super) const CREDIT_BYTES: i64 = 1 << 40;
/// Time in milliseconds after which a stream is asked again whether its member is silent.
const ASK_AGAIN_MS: u64 = 100;

/// One member, live.
#[derive(Debug)]
pub(super) struct Member {
    /// Its number.
    pub(super) handle: Handle,
    /// Its session.
    pub(super) epoch: MemberEpoch,
    /// It has a stream.
    pub(super) attached: bool,
    /// It was there before the start of the broker and has not come back yet.
    pub(super) awaited: bool,
    /// A static member whose leases have ended: it can come back, but not resume (rule GM-9).
    pub(super) lapsed: bool,
    /// Monotonic time at which something was last heard of it, or its stream ended.
    pub(super) last_seen_ms: u64,
    /// Whether it is silent, or only not listened to.
    pub(super) doubt: Doubt,
    /// Records that it may still be sent.
    pub(super) records_left: i64,
    /// Bytes that it may still be sent; negative while one larger than all is out.
    pub(super) bytes_left: i64,
    /// Records leased to it, entries among them.
    pub(super) leased_records: u64,
    /// Their bytes.
    pub(super) leased_bytes: u64,
    /// It says when handlers begin.
    pub(super) hints: bool,
    /// Suspects that are leased to it (rule PI-3).
    pub(super) suspects: u32,
    /// Units of its in which something may be ready: partition and index of the owner.
    pub(super) units: VecDeque<(Source, u32)>,
    /// It stands in the row of those that are served.
    pub(super) queued: bool,
}

/// All members.
#[derive(Debug, Default)]
pub(super) struct Members {
    pub(super) all: BTreeMap<MemberId, Member>,
    pub(super) ids: BTreeMap<Handle, MemberId>,
    pub(super) next_handle: Handle,
    /// The row of those that are served.
    pub(super) hungry: VecDeque<MemberId>,
}

/// What is known of a member with a stream that was silent for its session timeout (rule GM-7).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) enum Doubt {
    /// It was heard, or the time is not over.
    #[default]
    None,
    /// Its stream was asked whether something waits there.
    Asked,
    /// Nothing does.
    Silent,
}

/// How leases came back without a verb.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Loss {
    /// Given back, or taken back: no strike (rule RT-5).
    Released,
    /// The member was lost: strikes by rule PI-2, bisection by rule PI-3.
    Lost,
    /// It did not hand over in time (rule GM-5): what was started counts.
    Fenced,
}

impl Member {
    fn new(handle: Handle, epoch: MemberEpoch, now: Now) -> Self {
        Self {
            handle,
            epoch,
            attached: false,
            awaited: false,
            lapsed: false,
            last_seen_ms: now.monotonic_ms,
            doubt: Doubt::None,
            records_left: 0,
            bytes_left: 0,
            leased_records: 0,
            leased_bytes: 0,
            hints: false,
            suspects: 0,
            units: VecDeque::new(),
            queued: false,
        }
    }

    /// It lives.
    pub(super) fn heard(&mut self, now: Now) {
        (self.last_seen_ms, self.doubt) = (now.monotonic_ms, Doubt::None);
    }

    /// Adds credit, up to what counts.
    pub(super) fn grant(&mut self, credit: Credit) {
        let (records, bytes) = (credit.records.min(CREDIT_RECORDS as u64), credit.bytes.min(CREDIT_BYTES as u64));
        self.records_left = (self.records_left + records as i64).min(CREDIT_RECORDS);
        self.bytes_left = (self.bytes_left + bytes as i64).min(CREDIT_BYTES);
    }
}

impl Members {
    /// A member comes.
    pub(super) fn add(&mut self, member: MemberId, epoch: MemberEpoch, now: Now) -> &mut Member {
        let handle = self.next_handle;
        self.next_handle += 1;
        self.ids.insert(handle, member);
        self.all.insert(member, Member::new(handle, epoch, now));
        self.all.get_mut(&member).expect("it was just put in")
    }

    /// A member goes.
    pub(super) fn remove(&mut self, member: MemberId) {
        if let Some(one) = self.all.remove(&member) {
            self.ids.remove(&one.handle);
        }
        self.hungry.retain(|other| *other != member);
    }

    /// One member.
    pub(super) fn get(&self, member: MemberId) -> Option<&Member> {
        self.all.get(&member)
    }

    /// One member.
    pub(super) fn get_mut(&mut self, member: MemberId) -> Option<&mut Member> {
        self.all.get_mut(&member)
    }

    /// The member of a number.
    pub(super) fn id(&self, handle: Handle) -> Option<MemberId> {
        self.ids.get(&handle).copied()
    }

    /// It is looked at before the event ends.
    pub(super) fn wake(&mut self, member: MemberId) {
        if let Some(one) = self.all.get_mut(&member)
            && !one.queued
        {
            one.queued = true;
            self.hungry.push_back(member);
        }
    }
}

/// For how long a static member's stream has been gone: by the wall clock, but never longer than from now on (rule F6).
fn since_detached(state: &MemberState, now: Now) -> Option<u64> {
    Some(u64::try_from(now.wall_ms.saturating_sub(state.detached_ms?)).unwrap_or(0))
}

impl Machine {
    /// Members that the journal knows: they may come back (rule GM-11). Partitions as the journal has them, with their
    /// intents: whatever comes next may meet a record that has one.
    pub(super) fn restore(&mut self, now: Now) {
        if let Some((forced, _)) = &self.state.breaker {
            self.breaker.force(Some(*forced), now.monotonic_ms);
        }
        let session_ms = self.state.config.session_timeout_ms;
        for (id, state) in &self.state.members {
            let one = self.members.add(*id, state.epoch, now);
            one.lapsed = since_detached(state, now).is_some_and(|passed| passed >= session_ms);
            one.awaited = !one.lapsed;
        }
        self.hand_over.settling = self.members.all.values().any(|one| one.awaited);
        let sources: Vec<Source> = self.state.partitions.keys().copied().collect();
        for source in sources {
            self.index_intents(source);
            self.add_work(source, now);
        }
        self.count_lanes();
        self.pauses_changed(now);
    }

    /// The time in which members that the journal knows may come back begins now (rule GM-11).
    pub(super) fn await_members(&mut self, now: Now) {
        let config = &self.state.config;
        for (id, one) in &mut self.members.all {
            let mut left_ms = config.session_timeout_ms;
            if one.lapsed {
                let passed = self.state.members.get(id).and_then(|state| since_detached(state, now));
                left_ms = config.static_timeout_ms.saturating_sub(passed.unwrap_or(0));
            }
            one.last_seen_ms = now.monotonic_ms;
            self.deadlines.arm(Timer::Session(one.handle), now.monotonic_ms + left_ms);
        }
    }

    /// Begins to hold records of a partition.
    pub(super) fn add_work(&mut self, source: Source, now: Now) {
        let Some(partition) = self.state.partitions.get(&source) else { return };
        let work = Work::new(source, partition.settled.floor(), self.state.config.max_in_flight_per_key);
        self.works.insert(source, work);
        self.rebuild_owners(source, now);
    }

    /// See [`super::event::Event::StreamEnded`].
    pub(super) fn stream_ended(&mut self, member: MemberId, epoch: MemberEpoch, now: Now, fx: &mut Effects) {
        let Some(one) = self.members.get_mut(member) else { return };
        if one.epoch != epoch || !one.attached {
            return;
        }
        one.attached = false;
        one.heard(now);
        (one.records_left, one.bytes_left) = (0, 0);
        let at_ms = now.monotonic_ms + self.state.config.session_timeout_ms;
        self.deadlines.arm(Timer::Session(one.handle), at_ms);
        self.forget_claims(member);
        self.detach(member, now, fx);
    }

    /// A static member's stream ended: its reservation begins (rule GM-9).
    fn detach(&mut self, member: MemberId, now: Now, fx: &mut Effects) {
        let state = self.state.members.get(&member);
        if state.is_some_and(|state| state.instance.is_some() && state.detached_ms.is_none()) {
            self.commit(GroupRecord::Detached { member, time_ms: now.wall_ms }, fx);
        }
    }

    /// Something was heard of a member.
    pub(super) fn seen(&mut self, member: MemberId, now: Now) {
        if let Some(one) = self.members.get_mut(member) {
            one.heard(now);
        }
    }

    /// See [`super::event::Event::Silent`]. Those that were asked together are lost together: there is one new assignment.
    pub(super) fn silent(&mut self, member: MemberId, epoch: MemberEpoch, now: Now, fx: &mut Effects) {
        let Some(one) = self.members.get_mut(member) else { return };
        if one.epoch != epoch || one.doubt != Doubt::Asked {
            return;
        }
        one.doubt = Doubt::Silent;
        if self.members.all.values().any(|one| one.doubt == Doubt::Asked) {
            return;
        }
        let silent = self.members.all.values().filter(|one| one.doubt == Doubt::Silent);
        let silent: Vec<Handle> = silent.map(|one| one.handle).collect();
        let mut lost = false;
        for handle in silent {
            lost |= self.session_due(handle, now, fx);
        }
        if lost {
            self.rebalance(now, fx);
        }
    }

    /// A member was silent for long, or its reservation ended, or it is too early for both. Answers whether its units are
    /// free: the caller moves them, together with those of others that are lost at the same time.
    pub(super) fn session_due(&mut self, handle: Handle, now: Now, fx: &mut Effects) -> bool {
        let Some(member) = self.members.id(handle) else { return false };
        let Some(one) = self.members.get(member) else { return false };
        let config = &self.state.config;
        let lost_ms = one.last_seen_ms + config.session_timeout_ms;
        let detached_ms = self.state.members.get(&member).and_then(|state| state.detached_ms);
        let is_static = self.state.members.get(&member).is_some_and(|state| state.instance.is_some());
        if !one.lapsed && now.monotonic_ms < lost_ms {
            self.deadlines.arm(Timer::Session(handle), lost_ms);
            return false;
        }
        if one.attached {
            if one.doubt != Doubt::Silent {
                let epoch = one.epoch;
                self.doubt(member, epoch, handle, now, fx);
                return false;
            }
            self.send(member, Frame::Ended(Refusal::SessionOver), After::Now, fx);
        }
        if !is_static {
            fx.notices.push(Notice::MemberLost(member));
            self.take_out(member, Loss::Lost, now, fx);
            return true;
        }
        if !one.lapsed {
            fx.notices.push(Notice::MemberLost(member));
            self.lapse(member, now, fx);
        }
        let config = &self.state.config;
        // The reservation counts from the end of the stream, by the wall clock, but is never longer than from now on.
        let passed = detached_ms
            .map_or(config.session_timeout_ms, |at_ms| u64::try_from(now.wall_ms.saturating_sub(at_ms)).unwrap_or(0));
        let over = passed >= config.static_timeout_ms;
        if over {
            self.take_out(member, Loss::Lost, now, fx);
        } else {
            self.deadlines.arm(Timer::Session(handle), now.monotonic_ms + config.static_timeout_ms - passed);
        }
        over
    }

    /// What the broker did not take in was not said too late: the stream is asked first, until it answers. It always does,
    /// or ends.
    fn doubt(&mut self, member: MemberId, epoch: MemberEpoch, handle: Handle, now: Now, fx: &mut Effects) {
        if let Some(one) = self.members.get_mut(member) {
            one.doubt = Doubt::Asked;
        }
        fx.doubts.push((member, epoch));
        self.deadlines.arm(Timer::Session(handle), now.monotonic_ms + ASK_AGAIN_MS);
    }

    /// The leases of a static member end; its units wait for it (rule GM-9).
    fn lapse(&mut self, member: MemberId, now: Now, fx: &mut Effects) {
        self.forget_claims(member);
        self.ranges_lost(member, fx);
        self.give_back(member, None, Loss::Lost, now, fx);
        self.entries_back(member, None, Loss::Lost, now, fx);
        if let Some(one) = self.members.get_mut(member) {
            (one.attached, one.awaited, one.lapsed, one.doubt) = (false, false, true, Doubt::None);
            (one.records_left, one.bytes_left) = (0, 0);
        }
        self.detach(member, now, fx);
        self.after_awaited(now, fx);
    }

    /// A member is no more: what it had is free, its units move.
    pub(super) fn lose(&mut self, member: MemberId, loss: Loss, now: Now, fx: &mut Effects) {
        self.take_out(member, loss, now, fx);
        self.rebalance(now, fx);
    }

    /// A member is no more: what it had is free. Its units are without an owner until the caller moves them.
    fn take_out(&mut self, member: MemberId, loss: Loss, now: Now, fx: &mut Effects) {
        if loss == Loss::Lost {
            self.ranges_lost(member, fx);
        }
        self.forget_claims(member);
        self.give_back(member, None, loss, now, fx);
        self.entries_back(member, None, loss, now, fx);
        let Some(one) = self.members.get(member) else { return };
        self.deadlines.disarm(Timer::Session(one.handle));
        self.members.remove(member);
        self.hand_over.drains.remove(&member);
        self.commit(GroupRecord::Left { member }, fx);
        self.after_awaited(now, fx);
    }

    /// Once nobody is awaited any more, units may move (rule GM-11).
    pub(super) fn after_awaited(&mut self, now: Now, fx: &mut Effects) {
        if self.hand_over.settling && !self.members.all.values().any(|one| one.awaited) {
            self.hand_over.settling = false;
            self.rebalance(now, fx);
        }
    }

    /// The member may hold more.
    pub(super) fn add_credit(&mut self, member: MemberId, credit: Credit) {
        let Some(one) = self.members.get_mut(member) else { return };
        let had = one.records_left > 0 && one.bytes_left > 0;
        one.grant(credit);
        let handle = one.handle;
        self.members.wake(member);
        if !had {
            self.touch_units(handle);
        }
    }

    /// Partitions of a member are looked at before the event ends.
    pub(super) fn touch_units(&mut self, handle: Handle) {
        for work in self.works.values_mut() {
            if !work.touched && work.owners.iter().any(|owner| owner.handle == handle) {
                work.touched = true;
                self.touched.push(work.source);
            }
        }
    }

    /// Something may be ready in any unit of a member.
    pub(super) fn wake_units(&mut self, handle: Handle) {
        self.touch_units(handle);
        if let Some(member) = self.members.id(handle) {
            self.members.wake(member);
        }
        for work in self.works.values_mut().filter(|work| work.touched) {
            for owner in 0..work.owners.len() {
                if work.owners[owner].handle == handle {
                    work.wake(owner as u32);
                }
            }
        }
    }

    /// Something was sent: it takes so much of the credit, and counts as leased.
    pub(super) fn charge(&mut self, member: MemberId, records: u64, bytes: u64) {
        self.totals.records += records;
        self.totals.bytes += bytes;
        self.rate.take(records);
        if let Some(one) = self.members.get_mut(member) {
            one.records_left -= records as i64;
            one.bytes_left -= bytes as i64;
            one.leased_records += records;
            one.leased_bytes += bytes;
        }
    }

    /// What was charged is settled, or was given back: the credit is free again, the member is woken.
    pub(super) fn credit_back(&mut self, member: MemberId, records: u64, bytes: u64) {
        if records == 0 && bytes == 0 {
            return;
        }
        self.totals.records = self.totals.records.saturating_sub(records);
        self.totals.bytes = self.totals.bytes.saturating_sub(bytes);
        let Some(one) = self.members.get_mut(member) else { return };
        one.leased_records = one.leased_records.saturating_sub(records);
        one.leased_bytes = one.leased_bytes.saturating_sub(bytes);
        if one.attached {
            let had = one.records_left > 0 && one.bytes_left > 0;
            one.grant(Credit { records, bytes });
            let handle = one.handle;
            self.members.wake(member);
            if !had {
                self.touch_units(handle);
            }
        }
    }

    /// It goes (rule GM-10).
    pub(super) fn leave(&mut self, member: MemberId, now: Now, fx: &mut Effects) {
        self.lose(member, Loss::Released, now, fx);
    }

    /// A member is put out: its units move, it is told so.
    pub(super) fn evict(&mut self, member: MemberId, now: Now, fx: &mut Effects) {
        self.send(member, Frame::Ended(Refusal::SessionOver), After::Now, fx);
        self.lose(member, Loss::Released, now, fx);
    }

    /// The group is deleted: all sessions end (rule OF-8).
    pub(super) fn end_sessions(&mut self, fx: &mut Effects) {
        let members: Vec<MemberId> = self.members.all.keys().copied().collect();
        for member in members {
            // Members of a shadow may find their version in its group (rule RP-6).
            let refusal = if self.state.config.shadow_of.is_some() { Refusal::SessionOver } else { Refusal::Deleted };
            self.send(member, Frame::Ended(refusal), After::Group, fx);
            if let Some(one) = self.members.get_mut(member) {
                one.attached = false;
            }
        }
        self.closing = true;
    }

    /// The broker goes (rule GM-11): nothing more is delivered, verbs are still taken.
    pub(super) fn shutdown(&mut self, reconnect_after_ms: u64, fx: &mut Effects) {
        for member in self.members.all.keys().copied().collect::<Vec<_>>() {
            self.send(member, Frame::Goodbye { reconnect_after_ms }, After::Now, fx);
        }
        self.closing = true;
    }
}

#[cfg(test)]
mod tests;
