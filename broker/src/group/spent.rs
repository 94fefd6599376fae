//! Records whose tries are spent while earlier ones of their key are in work (rules RT-1, KO-2).
//!
//! Only with several of a key in flight. Such a record is delivered no more; it waits until it is the first of its lane,
//! and dies then, as any other does: in the order of its key.
//!
//! Owns: what is known of each until then. Must not know: what a death does. After a restart only the durable part is left:
//! that it is spent, and its last class.

use std::collections::{BTreeMap, BTreeSet};

use super::Now;
use super::effect::{After, Effects};
use super::entry::DeadReason;
use super::machine::Machine;
use super::record::{ErrorInfo, GroupRecord, SPENT_MS};
use super::slab::NONE;
use crate::model::{MemberId, Offset, OffsetRange, Source};

/// Spent records by place.
#[derive(Debug, Default)]
pub(super) struct Spent {
    facts: BTreeMap<(Source, Offset), SpentFacts>,
    /// Those that have become the first of their lanes.
    due: Vec<(Source, Offset)>,
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
        let any = !due.is_empty();
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
                reason: match self.policy_for(source).non_retryable.contains(&class) {
                    true => DeadReason::NonRetryable,
                    false => DeadReason::Attempts,
                },
                error: Some(ErrorInfo { class, ..ErrorInfo::default() }),
                member: None,
            });
            self.kill(source, offset, facts.reason, facts.error, facts.member, None, now, fx);
        }
        any
    }
}

#[cfg(test)]
mod tests;
