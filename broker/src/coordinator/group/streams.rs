//! Streams of a group's members: who speaks for a member, and what it says.
//!
//! Invariant: a verb, or the end of a stream, counts only while the stream is its member's present one.

use std::sync::Arc;

use super::super::GroupError;
use super::super::outbox::Outbox;
use super::{Group, Inner};
use crate::dead_letter::handle::Driven;
use crate::group::effect::Refusal;
use crate::group::event::{Event, Join, Verb};
use crate::model::{MemberEpoch, MemberId};

impl Group {
    /// For how long nobody has had a stream, in milliseconds.
    pub(in crate::coordinator) fn idle_for(&self, now_ms: u64) -> u64 {
        let mut inner = self.inner.lock();
        if !inner.machine.state().members.is_empty() {
            inner.idle_since_ms = now_ms;
        }
        now_ms.saturating_sub(inner.idle_since_ms)
    }

    /// Lets a member in: its frames go to `outbox` from now on. On a refusal everything is as it was.
    pub(in crate::coordinator) fn join(&self, join: Join, outbox: &Arc<Outbox>) -> Result<MemberEpoch, GroupError> {
        let member = join.member;
        let mut inner = self.inner.lock();
        let before = inner.outboxes.insert(member, Arc::clone(outbox));
        let mut epoch = None;
        // On a refusal the older stream, if there is one, must get what the machine says to it.
        let driven = self.drive_locked(inner, Event::Join(Box::new(join)), |inner| {
            epoch = inner.machine.state().members.get(&member).map(|member| member.epoch);
        });
        match (driven.stopped, driven.outcome, epoch) {
            (false, None | Some(Ok(())), Some(epoch)) => {
                if let Some(before) = before {
                    before.close();
                }
                self.rebuild_changed();
                Ok(epoch)
            }
            (stopped, outcome, _) => {
                self.restore(member, outbox, before);
                match outcome {
                    Some(Err(refusal)) => Err(refusal.into()),
                    _ if stopped => Err(self.refusal()),
                    _ => Err(Refusal::SessionOver.into()),
                }
            }
        }
    }

    /// Takes a refused stream out again.
    fn restore(&self, member: MemberId, refused: &Arc<Outbox>, before: Option<Arc<Outbox>>) {
        let mut inner = self.inner.lock();
        if !inner.speaks(member, refused) {
            return;
        }
        match before {
            Some(before) => drop(inner.outboxes.insert(member, before)),
            None => drop(inner.outboxes.remove(&member)),
        }
    }

    /// Takes a verb of a stream, if it is still the member's.
    pub(in crate::coordinator) fn verb(
        &self,
        member: MemberId,
        epoch: MemberEpoch,
        outbox: &Arc<Outbox>,
        verb: Verb,
    ) -> Result<Driven, GroupError> {
        let inner = self.inner.lock();
        if !inner.speaks(member, outbox) {
            let gone = inner.gone;
            drop(inner);
            return Err(if gone { self.refusal() } else { Refusal::SessionOver.into() });
        }
        let driven = self.drive_locked(inner, Event::Member { member, epoch, verb }, |_| ());
        if driven.stopped { Err(self.refusal()) } else { Ok(driven) }
    }

    /// Asks a stream whether anything of its member waits to be taken in (rule GM-7).
    pub(super) fn ask(&self, inner: &Inner, member: MemberId, epoch: MemberEpoch) {
        if let Some(outbox) = inner.outboxes.get(&member) {
            return outbox.ask();
        }
        // No stream is left to answer.
        if let Some(own) = self.own.upgrade() {
            let answer = async move { drop(own.drive_event(Event::Silent { member, epoch })) };
            self.shared.tasks.spawn_on(answer, &self.shared.runtime);
        }
    }

    /// The member has left: its outbox is nobody's any more.
    pub(in crate::coordinator) fn detach(&self, member: MemberId, outbox: &Arc<Outbox>) {
        let mut inner = self.inner.lock();
        if inner.speaks(member, outbox) {
            inner.outboxes.remove(&member);
        }
    }

    /// The stream is gone; the session may be resumed.
    pub(in crate::coordinator) fn stream_ended(&self, member: MemberId, epoch: MemberEpoch, outbox: &Arc<Outbox>) {
        let mut inner = self.inner.lock();
        if inner.speaks(member, outbox) {
            inner.outboxes.remove(&member);
            self.drive_locked(inner, Event::StreamEnded { member, epoch }, |_| ());
            self.rebuild_changed();
        }
    }
}
