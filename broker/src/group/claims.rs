//! Records that members had in work before the broker started and that were not read since (rules GM-8, KO-2, KO-3).
//!
//! Owns: who claims which offset, verbs that wait until what they name was read. Must not know: what a verb does.
//!
//! A claim is only the member's word until the record is read: then its lane is known, and with it whether an earlier
//! record of the key is unsettled or whether the slot is another's by now. So a verb about a claim waits for that, and is
//! handled as if the record had been leased all along, or not at all.
//!
//! Invariant: an offset that is claimed lies at or above the position of reading; reading goes on until none is left, or
//! the claims are dropped.

use std::collections::{BTreeMap, VecDeque};

use super::Now;
use super::effect::{After, Effects, Frame};
use super::event::{Fetched, Targets, Verb};
use super::lanes::Handle;
use super::machine::Machine;
use crate::model::{MemberEpoch, MemberId, Offset, OffsetRange, Source};

/// Verbs of a partition that wait; more are handled at once, as if nothing was claimed.
const WAITING: usize = 10_000;

/// Verbs about records that were not read yet.
#[derive(Debug, Default)]
pub(super) struct Claims {
    waiting: BTreeMap<Source, VecDeque<Waiting>>,
}

#[derive(Debug)]
struct Waiting {
    member: MemberId,
    epoch: MemberEpoch,
    verb: Verb,
}

impl Machine {
    /// A member says that it has this in work, and it was not read yet; whether it may claim it.
    pub(super) fn claim(&mut self, source: Source, offset: Offset, handle: Handle) -> bool {
        let Some(work) = self.work(source) else { return false };
        *work.claims.entry(offset).or_insert(handle) == handle
    }

    /// Has a verb wait, if it is about records that its member claims.
    pub(super) fn wait_for_claims(&mut self, member: MemberId, epoch: MemberEpoch, verb: Verb) -> Option<Verb> {
        let Some(source) = targets(&verb).map(|targets| targets.source) else { return Some(verb) };
        let waiting = self.claims.waiting.get(&source).map_or(0, VecDeque::len);
        if waiting >= WAITING || !self.claims_any(member, &verb) {
            return Some(verb);
        }
        self.claims.waiting.entry(source).or_default().push_back(Waiting { member, epoch, verb });
        None
    }

    fn claims_any(&self, member: MemberId, verb: &Verb) -> bool {
        let Some(targets) = targets(verb) else { return false };
        let Some(work) = self.works.get(&targets.source).filter(|work| !work.claims.is_empty()) else { return false };
        let Some(handle) = self.members.get(member).map(|one| one.handle) else { return false };
        let named = |run: &OffsetRange| {
            !run.is_empty() && work.claims.range(run.from..run.to).any(|(_, claimed_by)| *claimed_by == handle)
        };
        targets.runs.iter().any(named)
    }

    /// Handles the verbs that need to wait no longer; answers whether there were any.
    pub(super) fn go_on_waiting(&mut self, now: Now, fx: &mut Effects) -> bool {
        if self.claims.waiting.is_empty() {
            return false;
        }
        let mut any = false;
        let sources: Vec<Source> = self.claims.waiting.keys().copied().collect();
        for source in sources {
            let Some(waiting) = self.claims.waiting.remove(&source) else { continue };
            let (wait, go): (VecDeque<_>, VecDeque<_>) =
                waiting.into_iter().partition(|one| self.claims_any(one.member, &one.verb));
            if !wait.is_empty() {
                self.claims.waiting.insert(source, wait);
            }
            for Waiting { member, epoch, verb } in go {
                any = true;
                if self.members.get(member).is_some_and(|one| one.epoch == epoch && one.attached) {
                    self.say(member, verb, now, fx);
                }
            }
        }
        any
    }

    /// Records that were read are leased to those who claim them, as far as their lanes let them (rule GM-8). What does
    /// not is recalled: somebody else may get it.
    pub(super) fn take_claims(&mut self, fetched: &Fetched, now: Now, fx: &mut Effects) {
        let Some(work) = self.works.get_mut(&fetched.source).filter(|work| !work.claims.is_empty()) else { return };
        let later = work.claims.split_off(&fetched.next);
        let claims = std::mem::replace(&mut work.claims, later);
        let lease_ms = self.state.config.lease_ms;
        let mut lost = BTreeMap::new();
        for (offset, handle) in claims {
            let Some(member) = self.members.id(handle) else { continue };
            let Some(work) = self.work(fetched.source) else { return };
            match work.find(offset) {
                Some(index) if work.can_resume(index, handle) => {
                    self.lease_resumed(fetched.source, index, member, lease_ms, now);
                }
                Some(index) => {
                    work.record_mut(index).recalled_from = handle;
                    lost.insert(offset, handle);
                }
                None => drop(lost.insert(offset, handle)),
            }
        }
        self.recall_claims(fetched.source, lost, fx);
    }

    /// Drops claims that reading will not come to: at a gap that waits, or if more is claimed than may be held.
    pub(super) fn drop_far_claims(&mut self, source: Source, fx: &mut Effects) {
        let stops = self.gaps.of(source).is_some();
        let most = self.state.config.max_held.saturating_mul(2);
        let Some(work) = self.works.get_mut(&source).filter(|work| !work.claims.is_empty()) else { return };
        if !stops && work.held() < most {
            return;
        }
        let claims = std::mem::take(&mut work.claims);
        self.recall_claims(source, claims, fx);
    }

    /// Drops claims that reading has passed without a record: they are in a gap.
    pub(super) fn drop_passed_claims(&mut self, source: Source, fx: &mut Effects) {
        let Some(work) = self.works.get_mut(&source).filter(|work| !work.claims.is_empty()) else { return };
        let later = work.claims.split_off(&work.reading.next);
        let claims = std::mem::replace(&mut work.claims, later);
        self.recall_claims(source, claims, fx);
    }

    /// Tells members that what they claimed is not theirs.
    fn recall_claims(&mut self, source: Source, lost: BTreeMap<Offset, Handle>, fx: &mut Effects) {
        let mut recalled: BTreeMap<MemberId, Vec<OffsetRange>> = BTreeMap::new();
        for (offset, handle) in lost {
            if let Some(member) = self.members.id(handle) {
                super::read_ahead::add(recalled.entry(member).or_default(), offset);
            }
        }
        for (member, runs) in recalled {
            // What was claimed is not read, so its unit is not known: the epoch is that of any the member has there.
            let owned = self.state.owners.get(&source).into_iter().flatten();
            let epoch = owned.filter(|run| run.member == member).map(|run| run.epoch).max().unwrap_or_default();
            self.send(member, Frame::Recall { source, epoch, runs, entries: Vec::new() }, After::Now, fx);
        }
    }

    /// A session is over, or begins anew on another stream: it says again what it claims, and what was not answered.
    pub(super) fn forget_claims(&mut self, member: MemberId) {
        self.forget_stalls(member);
        for waiting in self.claims.waiting.values_mut() {
            waiting.retain(|one| one.member != member);
        }
        self.claims.waiting.retain(|_, waiting| !waiting.is_empty());
        let Some(handle) = self.members.get(member).map(|one| one.handle) else { return };
        for work in self.works.values_mut().filter(|work| !work.claims.is_empty()) {
            work.claims.retain(|_, claimed_by| *claimed_by != handle);
        }
    }
}

/// What a verb about leased records is about.
fn targets(verb: &Verb) -> Option<&Targets> {
    match verb {
        Verb::Ack { targets, .. }
        | Verb::Nack { targets, .. }
        | Verb::Extend { targets, .. }
        | Verb::Started { targets } => Some(targets),
        _ => None,
    }
}

#[cfg(test)]
mod tests;
