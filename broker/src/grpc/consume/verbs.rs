//! What a member says: checked, matched with the session's sources, handed over; and the verbs that wait for answers.

use std::collections::VecDeque;

use sawlog_proto::v1::{self, consume_request::Frame as Asked, consume_response::Frame as Told};

use super::super::status::{self, Problem};
use super::super::{convert, convert_groups, ids};
use super::Stream;
use crate::coordinator::types::{EntryKind, Mode, NackKind, Positions, Targets, Verb};
use crate::coordinator::{GroupError, Report, SwapAnswer, SwapOutcome};
use crate::limits;
use crate::model::{AssignmentEpoch, OffsetRange, Source};

/// Runs, or entries, of one verb.
const RUNS: usize = 10_000;
/// Offsets of one verb: twice what a partition holds for a group.
const OFFSETS: u64 = 2 * limits::HELD_RECORDS as u64;

/// Verbs that wait for their answers, in order. The number of one is its place, counted from the stream's first.
#[derive(Debug)]
pub(super) struct Pending {
    first: u64,
    list: VecDeque<Waiting>,
}

/// A verb that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    pub(super) sequence: u64,
    /// Source of a commit.
    pub(super) source_id: u32,
    /// Parts that are not answered.
    left: u32,
    /// What is not OK.
    pub(super) results: Vec<v1::WorkResult>,
}

impl Pending {
    pub(super) fn starting_at(first: u64) -> Self {
        Self { first, list: VecDeque::new() }
    }

    pub(super) fn len(&self) -> usize {
        self.list.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    fn begin(&mut self, sequence: u64, source_id: u32, parts: u32, results: Vec<v1::WorkResult>) -> u64 {
        self.list.push_back(Waiting { sequence, source_id, left: parts, results });
        self.first + self.list.len() as u64 - 1
    }

    /// Takes the answer to a part of a verb; the verb, once all of it is answered.
    pub(super) fn answered(&mut self, number: u64, results: Vec<v1::WorkResult>) -> Option<Waiting> {
        let index = usize::try_from(number.checked_sub(self.first)?).ok()?;
        let waiting = self.list.get_mut(index).filter(|waiting| waiting.left > 0)?;
        waiting.results.extend(results);
        waiting.left -= 1;
        if waiting.left > 0 {
            return None;
        }
        let done = Waiting { results: std::mem::take(&mut waiting.results), ..*waiting };
        while self.list.front().is_some_and(|waiting| waiting.left == 0) {
            self.list.pop_front();
            self.first += 1;
        }
        Some(done)
    }
}

/// Parts of a verb, each about one source, with the versions of its entries if they are given.
struct Parts {
    list: Vec<(Targets, Vec<u32>)>,
    /// Entries of other groups, which nobody can have leased from this one.
    foreign: Vec<v1::WorkResult>,
}

impl Stream {
    /// Takes a frame of the member.
    pub(super) async fn asked(&mut self, request: v1::ConsumeRequest) -> Result<(), Problem> {
        let Some(frame) = request.frame else {
            return Err(status::protocol_violation("frame", "must be one that this version knows"));
        };
        match frame {
            Asked::Join(_) => Err(status::protocol_violation("Join", "a stream has one alone, the first frame")),
            Asked::Credit(credit) => self.tell_session(Verb::Credit(convert_groups::credit(credit))),
            Asked::Ack(ack) => {
                let parts = self.parts(&ack.work, "Ack")?;
                self.many(ack.sequence, parts, |request, targets, versions| Verb::Ack { request, targets, versions })
            }
            Asked::Nack(nack) => self.nack(nack),
            Asked::Extend(extend) => {
                let parts = self.parts(&extend.work, "Extend")?;
                self.many(extend.sequence, parts, |request, targets, _| Verb::Extend { request, targets })
            }
            Asked::Started(started) => self.started(&started),
            Asked::Commit(commit) => self.commit(commit),
            Asked::DeadLetter(letter) => self.dead_letter(letter),
            Asked::Revoked(revoked) => {
                let source = self.source(revoked.source_id)?;
                let slots = convert_groups::slots(revoked.slots.as_ref())
                    .ok_or_else(|| status::protocol_violation("Revoked", "names slots as Revoke did"))?;
                self.tell_session(Verb::Revoked { source, slots })
            }
            Asked::ReportProgress(progress) => self.report(progress).await,
            Asked::Swapped(swapped) => self.swapped(swapped),
            Asked::Stalled(stalled) => {
                let (source, epoch) = (self.source(stalled.source_id)?, AssignmentEpoch(stalled.assignment_epoch));
                let reason = stalled.reason.map(|reason| convert_groups::cut(reason, limits::ERROR_MESSAGE_BYTES));
                self.tell_session(Verb::Stalled(source, epoch, reason))
            }
            Asked::Ping(ping) => {
                self.pings.push_back(ping.nonce);
                self.tell_session(Verb::Ping)
            }
            Asked::Leave(_) => {
                self.leaving = true;
                self.tell_session(Verb::Leave)
            }
        }
    }

    fn tell_session(&mut self, verb: Verb) -> Result<(), Problem> {
        Ok(self.session.handle(verb)?)
    }

    /// The source of a number that this session gave.
    fn source(&self, id: u32) -> Result<Source, Problem> {
        let unknown = || status::protocol_violation("source_id", "must be one that this stream was told");
        self.sources.get(id).ok_or_else(unknown)
    }

    /// Hands the parts of a verb over.
    fn many(
        &mut self,
        sequence: u64,
        parts: Result<Parts, Problem>,
        verb: impl Fn(u64, Targets, Vec<u32>) -> Verb,
    ) -> Result<(), Problem> {
        let parts = match parts {
            Ok(parts) => parts,
            Err(problem) => {
                let failure = Some(problem.into_failure(self.context.metrics()));
                self.outbox.push(Told::AckResult(v1::AckResult { sequence, results: Vec::new(), failure }));
                return Ok(());
            }
        };
        if parts.list.is_empty() {
            let results = parts.foreign;
            self.outbox.push(Told::AckResult(v1::AckResult { sequence, results, failure: None }));
            return Ok(());
        }
        let request = self.pending.begin(sequence, 0, parts.list.len() as u32, parts.foreign);
        for (targets, versions) in parts.list {
            self.session.handle(verb(request, targets, versions))?;
        }
        Ok(())
    }

    /// What a verb is about. The outer error ends the stream, the inner one refuses the verb.
    fn parts(&self, work: &[v1::Work], verb: &'static str) -> Result<Result<Parts, Problem>, Problem> {
        // All sources first: one that was never told ends the stream before anything is done.
        for part in work {
            self.source(part.source_id)?;
        }
        Ok(self.checked_parts(work, verb))
    }

    fn checked_parts(&self, work: &[v1::Work], verb: &'static str) -> Result<Parts, Problem> {
        let runs: usize = work.iter().map(|part| part.offsets.len()).sum();
        let entries: usize = work.iter().map(|part| part.entries.len()).sum();
        for (field, found) in [("work.offsets", runs), ("work.entries", entries), ("work", work.len())] {
            if found > RUNS {
                return Err(status::invalid_field(field, found, "at most 10000 in a frame"));
            }
        }
        if runs > 0 && self.mode == Mode::Offset && verb != "Started" {
            return Err(status::wrong_mode(&self.group, self.mode, verb));
        }
        let mut left = OFFSETS;
        let mut parts = Parts { list: Vec::with_capacity(work.len()), foreign: Vec::new() };
        for part in work {
            let source = self.source(part.source_id)?;
            let epoch = AssignmentEpoch(part.assignment_epoch);
            let runs = convert_groups::runs("work.offsets", &part.offsets, &mut left)?;
            let mut plain = Targets { source, epoch, runs, entries: Vec::new() };
            let (mut versioned, mut versions) = (Targets { runs: Vec::new(), ..plain.clone() }, Vec::new());
            for entry in &part.entries {
                let (group, key) = ids::parse_dlq_id("work.entries.dlq_id", &entry.dlq_id)?;
                if key.source != source {
                    return Err(status::invalid_field(
                        "work.entries.dlq_id",
                        &entry.dlq_id,
                        "of the source of its work",
                    ));
                }
                if group != self.session.group_id() {
                    parts.foreign.push(v1::WorkResult {
                        source_id: part.source_id,
                        dlq_ids: vec![entry.dlq_id.clone()],
                        outcome: v1::WorkOutcome::NotLeased.into(),
                        ..Default::default()
                    });
                    continue;
                }
                match entry.version {
                    None => plain.entries.push(key),
                    Some(version) => {
                        versioned.entries.push(key);
                        versions.push(version);
                    }
                }
            }
            if !plain.runs.is_empty() || !plain.entries.is_empty() {
                parts.list.push((plain, Vec::new()));
            }
            if !versioned.entries.is_empty() {
                parts.list.push((versioned, versions));
            }
        }
        Ok(parts)
    }

    fn nack(&mut self, nack: v1::Nack) -> Result<(), Problem> {
        let parts = self.parts(&nack.work, "Nack")?;
        let (sequence, checked) = (nack.sequence, checked_nack(nack));
        let (parts, asked) = match (parts, checked) {
            (Ok(parts), Ok(asked)) => (Ok(parts), asked),
            (Err(problem), Ok(asked)) => (Err(problem), asked),
            (_, Err(problem)) => (Err(problem), CheckedNack::default()),
        };
        self.many(sequence, parts, |request, targets, _| Verb::Nack {
            request,
            targets,
            kind: asked.kind,
            retry_after_ms: asked.retry_after_ms,
            whole_group: asked.whole_group,
            error: asked.error.clone(),
            reason: asked.reason.clone(),
        })
    }

    /// A hint: what is wrong with it is not answered, but a source that was never told ends the stream as always.
    fn started(&mut self, started: &v1::Started) -> Result<(), Problem> {
        let Ok(parts) = self.parts(&started.work, "Started")? else { return Ok(()) };
        for (targets, _) in parts.list {
            self.session.handle(Verb::Started { targets })?;
        }
        Ok(())
    }

    fn commit(&mut self, commit: v1::Commit) -> Result<(), Problem> {
        let source = self.source(commit.source_id)?;
        let (sequence, source_id) = (commit.sequence, commit.source_id);
        let checked = || -> Result<_, Problem> {
            if self.mode != Mode::Offset {
                return Err(status::wrong_mode(&self.group, self.mode, "Commit"));
            }
            if commit.metadata.len() > limits::COMMIT_METADATA_BYTES {
                return Err(status::invalid_field("metadata", commit.metadata.len(), "at most 4096 bytes"));
            }
            let epoch = commit.epoch.map(|epoch| convert::epoch("epoch", epoch)).transpose()?;
            Ok((convert::offset("next_offset", commit.next_offset)?, epoch))
        };
        match checked() {
            Ok((next, record_epoch)) => {
                let request = self.pending.begin(sequence, source_id, 1, Vec::new());
                let epoch = AssignmentEpoch(commit.assignment_epoch);
                let (metadata, force) = (commit.metadata, commit.force);
                self.tell_session(Verb::Commit { request, source, epoch, next, record_epoch, metadata, force })
            }
            Err(problem) => {
                self.refuse_commit(sequence, source_id, problem);
                Ok(())
            }
        }
    }

    async fn report(&mut self, progress: v1::ReportProgress) -> Result<(), Problem> {
        let source = self.source(progress.source_id)?;
        let (sequence, source_id) = (progress.sequence, progress.source_id);
        let checked = || -> Result<_, Problem> {
            if self.session.config().positions != Positions::Cursor {
                return Err(status::wrong_mode(&self.group, self.mode, "ReportProgress"));
            }
            let epoch = progress.epoch.map(|epoch| convert::epoch("epoch", epoch)).transpose()?;
            Ok((convert::offset("next_offset", progress.next_offset)?, epoch))
        };
        let (next, record_epoch) = match checked() {
            Ok(checked) => checked,
            Err(problem) => {
                self.refuse_commit(sequence, source_id, problem);
                return Ok(());
            }
        };
        let request = self.pending.begin(sequence, source_id, 1, Vec::new());
        let epoch = AssignmentEpoch(progress.assignment_epoch);
        match self.session.report(Report { request, source, epoch, next, record_epoch }).await {
            Ok(()) => Ok(()),
            Err(error @ GroupError::Read { .. }) => {
                self.pending.answered(request, Vec::new());
                self.refuse_commit(sequence, source_id, error.into());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// What the member's database says of a swap (rule RP-6).
    fn swapped(&self, swapped: v1::Swapped) -> Result<(), Problem> {
        use v1::swapped::Outcome;
        let swap = swapped.swap_id.parse();
        let swap = swap.map_err(|_| status::protocol_violation("Swapped", "names a swap as Swap did"))?;
        let outcome = match swapped.outcome {
            Some(Outcome::Done(_)) => SwapOutcome::Done,
            Some(Outcome::Undone(mut why)) => {
                let mut ends = (0..=convert_groups::NOTE_BYTES.min(why.len())).rev();
                let end = ends.find(|end| why.is_char_boundary(*end)).unwrap_or(0);
                why.truncate(end);
                SwapOutcome::Undone(why)
            }
            None => return Err(status::protocol_violation("Swapped", "says whether it is done")),
        };
        self.session.swapped(SwapAnswer { swap, outcome });
        Ok(())
    }

    fn refuse_commit(&mut self, sequence: u64, source_id: u32, problem: Problem) {
        let failure = Some(problem.into_failure(self.context.metrics()));
        self.outbox.push(Told::CommitResult(v1::CommitResult { sequence, source_id, failure }));
    }

    fn dead_letter(&mut self, letter: v1::DeadLetter) -> Result<(), Problem> {
        let source = self.source(letter.source_id)?;
        let sequence = letter.sequence;
        let checked = || -> Result<_, Problem> {
            if self.mode != Mode::Offset {
                return Err(status::wrong_mode(&self.group, self.mode, "DeadLetter"));
            }
            let kind = match letter.kind() {
                v1::EntryKind::Failed => EntryKind::Failed,
                v1::EntryKind::Parked => EntryKind::Parked,
                v1::EntryKind::Unspecified => {
                    return Err(status::invalid_field("kind", letter.kind, "1 (failed) or 2 (parked)"));
                }
            };
            Ok((convert::offset("offset", letter.offset)?, kind))
        };
        match checked() {
            Ok((offset, kind)) => {
                let request = self.pending.begin(sequence, letter.source_id, 1, Vec::new());
                let epoch = AssignmentEpoch(letter.assignment_epoch);
                let error = letter.error.map(convert_groups::error);
                self.tell_session(Verb::DeadLetter { request, source, epoch, offset, kind, error })
            }
            Err(problem) => {
                let failure = problem.into_failure(self.context.metrics());
                let result = Some(v1::dead_letter_result::Result::Failure(failure));
                self.outbox.push(Told::DeadLetterResult(v1::DeadLetterResult { sequence, result }));
                Ok(())
            }
        }
    }
}

/// A nack without what it is about.
struct CheckedNack {
    kind: NackKind,
    retry_after_ms: Option<u64>,
    whole_group: bool,
    error: Option<crate::coordinator::types::ErrorInfo>,
    reason: String,
}

impl Default for CheckedNack {
    fn default() -> Self {
        Self { kind: NackKind::Retry, retry_after_ms: None, whole_group: false, error: None, reason: String::new() }
    }
}

fn checked_nack(nack: v1::Nack) -> Result<CheckedNack, Problem> {
    let kind = match v1::NackKind::try_from(nack.kind) {
        Ok(v1::NackKind::Unspecified | v1::NackKind::Retry) => NackKind::Retry,
        Ok(v1::NackKind::Release) => NackKind::Release,
        Ok(v1::NackKind::Dead) => NackKind::Dead,
        Ok(v1::NackKind::Skip) => NackKind::Skip,
        Err(_) => return Err(status::invalid_field("kind", nack.kind, "0 to 4")),
    };
    let whole_group = match v1::NackScope::try_from(nack.scope) {
        Ok(v1::NackScope::Unspecified | v1::NackScope::Record) => false,
        Ok(v1::NackScope::Group) if kind == NackKind::Release => true,
        _ => return Err(status::invalid_field("scope", nack.scope, "0, 1 (record) or, with RELEASE, 2 (group)")),
    };
    if nack.reason.len() > convert_groups::NOTE_BYTES {
        return Err(status::invalid_field("reason", nack.reason.len(), "at most 4096 bytes"));
    }
    if kind == NackKind::Skip && nack.reason.trim().is_empty() {
        return Err(status::invalid_field("reason", "nothing", "why the records are skipped"));
    }
    let most = limits::RETRY_AFTER_MAX.as_millis() as u64;
    Ok(CheckedNack {
        kind,
        retry_after_ms: nack.retry_after_ms.map(|after| after.min(most)),
        whole_group,
        error: nack.error.map(convert_groups::error),
        reason: nack.reason,
    })
}

/// Offsets of results, as runs.
pub(super) fn runs_to_wire(range: OffsetRange) -> v1::OffsetRun {
    let count = range.to.distance_from(range.from);
    v1::OffsetRun { from: range.from.to_wire(), count: u32::try_from(count).unwrap_or(u32::MAX) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ak_2_a_verb_is_answered_once_all_its_parts_are_in_whatever_order() {
        let mut pending = Pending::starting_at(9);
        let first = pending.begin(70, 0, 2, Vec::new());
        let second = pending.begin(71, 0, 1, Vec::new());
        assert!(pending.answered(first, Vec::new()).is_none());
        let done = pending.answered(second, vec![v1::WorkResult::default()]).expect("all of it");
        assert_eq!((done.sequence, done.results.len()), (71, 1));
        assert_eq!(pending.len(), 2, "the place of the first keeps that of the second");
        assert!(pending.answered(second, Vec::new()).is_none(), "an answer too many is no answer");
        assert_eq!(pending.answered(first, Vec::new()).expect("all of it").sequence, 70);
        assert!(pending.is_empty());
        let third = pending.begin(72, 0, 1, Vec::new());
        assert!(third > second && pending.answered(first, Vec::new()).is_none());
        assert_eq!(pending.answered(third, Vec::new()).expect("all of it").sequence, 72);
    }

    #[test]
    fn ak_2_an_answer_to_a_verb_of_the_former_stream_is_nobodys() {
        let mut former = Pending::starting_at(0);
        let old = former.begin(70, 0, 1, Vec::new());
        let mut pending = Pending::starting_at(1 << 36);
        let new = pending.begin(70, 0, 1, Vec::new());
        assert!(pending.answered(old, Vec::new()).is_none() && former.answered(new, Vec::new()).is_none());
        assert!(pending.answered(new, Vec::new()).is_some());
    }

    #[test]
    fn rt_2_a_delay_asked_for_is_bounded_by_a_day_and_a_skip_needs_a_reason() {
        let nack = |kind: v1::NackKind| v1::Nack { kind: kind.into(), ..Default::default() };
        let long = v1::Nack { retry_after_ms: Some(u64::MAX), ..nack(v1::NackKind::Retry) };
        assert_eq!(checked_nack(long).map(|nack| nack.retry_after_ms).ok(), Some(Some(86_400_000)));
        assert!(checked_nack(nack(v1::NackKind::Skip)).is_err());
        assert!(checked_nack(v1::Nack { reason: "x".repeat(5_000), ..nack(v1::NackKind::Dead) }).is_err());
        assert!(checked_nack(v1::Nack { kind: 9, ..Default::default() }).is_err());
        let group = |kind| v1::Nack { scope: v1::NackScope::Group.into(), ..nack(kind) };
        assert!(checked_nack(group(v1::NackKind::Retry)).is_err());
        assert!(checked_nack(group(v1::NackKind::Release)).is_ok_and(|nack| nack.whole_group));
    }
}
