//! Records whose tries are spent while earlier ones of their key are in work (rules RT-1, KO-2).
//!
//! Only with several of a key in flight. Such a record is delivered no more; it waits until it is the first of its lane,
//! and dies then, as any other does: in the order of its key. If its lane is spilled meanwhile, it dies there (rule KO-7).
//!
//! Owns: what is known of each until then. Must not know: what a death does. After a restart only the durable part is left:
//! that it is spent, and its last class.

use std::collections::{BTreeMap, BTreeSet};

use super::Now;
use super::effect::{After, Effects};
use super::entry::{DeadReason, EntryFailure, EntryKey};
use super::machine::Machine;
use super::record::{ErrorInfo, GroupRecord, SPENT_MS, Tried};
use super::slab::NONE;
use crate::model::{MemberId, Offset, OffsetRange, Source};

/// Spent records by place.
#[derive(Debug, Default)]
pub(super) struct Spent {
    facts: BTreeMap<(Source, Offset), SpentFacts>,
    /// Those that have become the first of their lanes.
    due: Vec<(Source, Offset)>,
    /// Entries that were spilled as spent and have become the first of theirs.
    entries: Vec<EntryKey>,
}

/// How a record failed for the last time.
#[derive(Debug)]
pub(super) struct SpentFacts {
    pub(super) reason: DeadReason,
    pub(super) error: Option<ErrorInfo>,
    pub(super) member: Option<MemberId>,
}

impl Spent {
    /// These records have become the first of their lanes.
    pub(super) fn come_first(&mut self, source: Source, offsets: Vec<Offset>) {
        self.due.extend(offsets.into_iter().map(|offset| (source, offset)));
    }

    /// An entry that was spilled as spent has become the first of its lane.
    pub(super) fn entry_comes_first(&mut self, key: EntryKey) {
        self.entries.push(key);
    }

    /// Other partitions than these went.
    pub(super) fn keep(&mut self, kept: &BTreeSet<Source>) {
        self.facts.retain(|(source, _), _| kept.contains(source));
    }

    /// Nothing is known any more of records of a partition in this range.
    pub(super) fn forget(&mut self, source: Source, range: OffsetRange) {
        self.facts.retain(|(other, offset), _| *other != source || !range.contains(*offset));
    }
}

impl Machine {
    /// The tries of a record are spent, and it is not the first of its lane. Tells when that is durable.
    pub(super) fn spend(
        &mut self,
        source: Source,
        index: u32,
        class: &str,
        facts: SpentFacts,
        now: Now,
        fx: &mut Effects,
    ) -> After {
        let mut tried = self.tried_of(source, index, now);
        tried.due_ms = SPENT_MS;
        class.clone_into(&mut tried.class);
        self.dead.spent.facts.insert((source, tried.offset), facts);
        if let Some(work) = self.work(source) {
            let record = work.record_mut(index);
            (record.spent, record.suspects, record.until_ms) = (true, 0, 0);
            work.settle_lane(index, now.monotonic_ms);
        }
        self.commit(GroupRecord::Tried { source, tries: vec![tried] }, fx);
        After::Group
    }

    /// Spent records that are the first of their lanes die; answers whether there were any.
    pub(super) fn bury_spent(&mut self, now: Now, fx: &mut Effects) -> bool {
        let due = std::mem::take(&mut self.dead.spent.due);
        let entries = std::mem::take(&mut self.dead.spent.entries);
        let any = !due.is_empty() || !entries.is_empty();
        entries.into_iter().for_each(|key| self.bury_spent_entry(key, now, fx));
        for (source, offset) in due {
            let first = self.works.get(&source).and_then(|work| {
                let index = work.find(offset)?;
                let record = work.record(index);
                (record.spent && record.holder == NONE && work.is_head(index)).then_some(index)
            });
            if first.is_none() {
                continue;
            }
            let class = self.tried_at(source, offset).map(|tried| tried.class.clone()).unwrap_or_default();
            let facts = self.dead.spent.facts.remove(&(source, offset)).unwrap_or_else(|| SpentFacts {
                reason: self.spent_reason(source, &class),
                error: Some(ErrorInfo { class, ..ErrorInfo::default() }),
                member: None,
            });
            self.kill(source, offset, facts.reason, facts.error, facts.member, None, now, fx);
        }
        any
    }

    /// What its class says of a spent record, once nothing more is known.
    fn spent_reason(&self, source: Source, class: &str) -> DeadReason {
        match self.policy_for(source).non_retryable.iter().any(|known| known == class) {
            true => DeadReason::NonRetryable,
            false => DeadReason::Attempts,
        }
    }

    /// How a spent record failed that is spilled: its copy says so.
    pub(super) fn take_spent(&mut self, source: Source, tried: &Tried) -> (Option<ErrorInfo>, Option<MemberId>) {
        match self.dead.spent.facts.remove(&(source, tried.offset)) {
            Some(facts) => (facts.error, facts.member),
            None => (Some(ErrorInfo { class: tried.class.clone(), ..ErrorInfo::default() }), None),
        }
    }

    fn bury_spent_entry(&mut self, key: EntryKey, now: Now, fx: &mut Effects) {
        let Some(entry) = self.entries.get(&key) else { return };
        let first = self.entries.head_of(key.source, entry.lane) == Some(key);
        if !first || entry.due_ms != SPENT_MS || entry.state.is_closed() {
            return;
        }
        let class = entry.class.clone().unwrap_or_default();
        let reason = self.spent_reason(key.source, &class);
        // What went wrong is in its copy.
        let error = ErrorInfo { class, fingerprint: entry.fingerprint.unwrap_or_default(), ..ErrorInfo::default() };
        let failure = EntryFailure { time_ms: now.wall_ms, error, ..EntryFailure::default() };
        self.entry_died(key, entry.attempts, reason, failure, false, now, fx);
    }
}

#[cfg(test)]
mod tests;
