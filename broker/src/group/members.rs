//! Sessions of members: join, resume, silence, leave (rules GM-1, GM-7 to GM-12), and their credit (FC-2).
//!
//! Owns: who has a stream, since when it is silent, what it may still be sent. Must not know: which units it gets
//! (`units`), what it is sent (`delivery`).
//!
//! Invariants: a member is here exactly if it is in the durable state; credit left and what is leased add up to what was
//! granted.

use std::collections::{BTreeMap, VecDeque};

use super::Now;
use super::effect::Effects;
use super::event::{Credit, Join};
use super::lanes::Handle;
use super::machine::Machine;
use crate::model::{MemberEpoch, MemberId, Source};

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
    /// Monotonic time at which something was last heard of it, or its stream ended.
    pub(super) last_seen_ms: u64,
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

impl Members {
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

impl Machine {
    /// Members that the journal knows: they may come back (rule GM-11).
    pub(super) fn restore(&mut self, now: Now) {
        let _ = now;
        todo!()
    }

    /// See [`super::event::Event::Join`].
    pub(super) fn join(&mut self, join: Join, now: Now, fx: &mut Effects) {
        let _ = (join, now, fx);
        todo!()
    }

    /// See [`super::event::Event::StreamEnded`].
    pub(super) fn stream_ended(&mut self, member: MemberId, epoch: MemberEpoch, now: Now, fx: &mut Effects) {
        let _ = (member, epoch, now, fx);
        todo!()
    }

    /// The member may hold more.
    pub(super) fn add_credit(&mut self, member: MemberId, credit: Credit) {
        let _ = (member, credit);
        todo!()
    }

    /// Something was sent: it takes so much of the credit, and counts as leased.
    pub(super) fn charge(&mut self, member: MemberId, records: u64, bytes: u64) {
        let _ = (member, records, bytes);
        todo!()
    }

    /// What was charged is settled, or was given back: the credit is free again, the member is woken.
    pub(super) fn credit_back(&mut self, member: MemberId, records: u64, bytes: u64) {
        let _ = (member, records, bytes);
        todo!()
    }

    /// A member is put out: its units move, it is told so.
    pub(super) fn evict(&mut self, member: MemberId, now: Now, fx: &mut Effects) {
        let _ = (member, now, fx);
        todo!()
    }

    /// The group is deleted: all sessions end (rule OF-8).
    pub(super) fn end_sessions(&mut self, fx: &mut Effects) {
        let _ = fx;
        todo!()
    }

    /// The broker goes (rule GM-11).
    pub(super) fn shutdown(&mut self, reconnect_after_ms: u64, fx: &mut Effects) {
        let _ = (reconnect_after_ms, fx);
        todo!()
    }
}
