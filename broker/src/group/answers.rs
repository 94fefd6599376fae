//! Answers of verbs: one frame a verb, once all of it is decided (rule AK-2).
//!
//! Owns: answers in the making. Must not know: what is decided. Invariant: every verb that asks for an answer gets one.

use std::collections::BTreeMap;

use super::effect::{AckStatus, After, Effects, Frame};
use super::entry::EntryKey;
use super::machine::Machine;
use crate::model::{MemberId, OffsetRange, Source};

/// Number of an answer in the making.
pub(super) type AnswerId = u64;

/// A part of an answer that waits for a dead letter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PendingAnswer {
    /// Which answer.
    pub(super) id: AnswerId,
    /// What it is about.
    pub(super) range: OffsetRange,
    /// The member named it by its entry (rule DL-15).
    pub(super) entry: Option<EntryKey>,
}

/// An answer in the making: one frame a verb (rule AK-2).
#[derive(Debug)]
pub(super) struct Answer {
    member: MemberId,
    request: u64,
    source: Source,
    results: Vec<(OffsetRange, AckStatus)>,
    entries: Vec<(EntryKey, AckStatus)>,
    waits: u32,
    after: After,
}

/// Answers in the making.
#[derive(Debug, Default)]
pub(super) struct Answers {
    pub(super) open: BTreeMap<AnswerId, Answer>,
    pub(super) next: AnswerId,
}

impl Answer {
    /// What was told so far of runs of offsets.
    pub(super) fn statuses(&self) -> impl Iterator<Item = AckStatus> + '_ {
        self.results.iter().map(|(_, status)| *status)
    }
}

impl Machine {
    /// Begins the answer of a verb.
    pub(super) fn begin_answer(&mut self, member: MemberId, request: u64, source: Source) -> AnswerId {
        let id = self.answers.next;
        self.answers.next += 1;
        let (results, entries) = (Vec::new(), Vec::new());
        let answer = Answer { member, request, source, results, entries, waits: 1, after: After::Now };
        self.answers.open.insert(id, answer);
        id
    }

    /// Says what became of a run of offsets.
    pub(super) fn tell(&mut self, id: AnswerId, range: OffsetRange, status: AckStatus, after: After) {
        let Some(answer) = self.answers.open.get_mut(&id) else { return };
        answer.after = later(answer.after, after);
        match answer.results.last_mut() {
            Some((last, same)) if last.to == range.from && *same == status => last.to = range.to,
            _ => answer.results.push((range, status)),
        }
    }

    /// Says what became of an entry.
    pub(super) fn tell_entry(&mut self, id: AnswerId, key: EntryKey, status: AckStatus, after: After) {
        let Some(answer) = self.answers.open.get_mut(&id) else { return };
        answer.after = later(answer.after, after);
        answer.entries.push((key, status));
    }

    /// The answer waits for one thing more: [`Machine::answered`] will come.
    pub(super) fn hold_answer(&mut self, id: AnswerId) {
        if let Some(answer) = self.answers.open.get_mut(&id) {
            answer.waits += 1;
        }
    }

    /// What an answer waited for is decided.
    pub(super) fn answered(&mut self, pending: PendingAnswer, status: AckStatus, after: After, fx: &mut Effects) {
        match pending.entry {
            Some(key) => self.tell_entry(pending.id, key, status, after),
            None => self.tell(pending.id, pending.range, status, after),
        }
        self.end_answer(pending.id, fx);
    }

    /// One thing less to wait for; the last one sends the answer.
    pub(super) fn end_answer(&mut self, id: AnswerId, fx: &mut Effects) {
        let Some(answer) = self.answers.open.get_mut(&id) else { return };
        answer.waits -= 1;
        if answer.waits > 0 {
            return;
        }
        let Some(mut answer) = self.answers.open.remove(&id) else { return };
        answer.results.sort_by_key(|(range, _)| range.from);
        let frame = Frame::AckResults {
            request: answer.request,
            results: answer.results,
            entries: answer.entries,
            source: answer.source,
        };
        self.send(answer.member, frame, answer.after, fx);
    }
}

/// The later of two moments.
fn later(a: After, b: After) -> After {
    match (a, b) {
        (After::Entries, _) | (_, After::Entries) => After::Entries,
        (After::Group, _) | (_, After::Group) => After::Group,
        _ => After::Now,
    }
}
