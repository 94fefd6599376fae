//! What goes to the broker: verdicts as ranges, hints, commits, credit; and what was sent and is not answered.
//!
//! Few frames of acknowledgements are out at a time: while the broker makes one durable the next one gathers, so that
//! frames grow with the load and an idle member waits for nothing.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use sawlog_proto::v1::{self, consume_request::Frame};
use tokio::time::Instant;

use super::super::error::{AckOutcome, Act, HandlerError};
use super::super::positions::Commit;
use super::super::slots::{Phase, Ticket};
use super::{Board, tell};
use crate::dead_letter::EntryKind;
use crate::error::Error;
use crate::groups::GroupMode;
use crate::types::{signed, unsigned};

/// Frames of acknowledgements that may be out before the next waits for an answer.
const ACK_FRAMES: usize = 4;
/// Acknowledgements that do not wait any more.
const ACKS_FULL: usize = 256;
/// Records of one verb: the broker takes 10,000 runs.
const VERB_RECORDS: usize = 8_192;

/// Frames on their way to the broker.
pub(in super::super) type Frames = VecDeque<v1::ConsumeRequest>;

/// What is to be sent.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    pub(super) acks: Vec<Ticket>,
    pub(super) nacks: Vec<(Ticket, Box<HandlerError>)>,
    pub(super) started: Vec<Ticket>,
    pub(super) extends: Vec<Ticket>,
    pub(super) letters: Vec<Ticket>,
    /// Mode offset: credit that is free again.
    granted: (u64, u64),
    /// So much of it is worth a frame.
    grant_at: (u64, u64),
    /// Something is to be looked at that has no list here: commits, revoked units.
    pub(super) other: bool,
}

impl Outbox {
    pub(super) fn new(credit: (u64, u64)) -> Self {
        Self { grant_at: (credit.0.div_ceil(4), credit.1.div_ceil(4)), ..Self::default() }
    }

    pub(super) fn grant(&mut self, records: u64, bytes: u64) {
        self.granted.0 += records;
        self.granted.1 += bytes;
        self.other |= self.granted.0 >= self.grant_at.0 || self.granted.1 >= self.grant_at.1;
    }

    /// A new stream begins with a credit of its own.
    pub(super) fn forget_grants(&mut self) {
        self.granted = (0, 0);
    }

    /// Whether the session should look, with so many frames of acknowledgements out.
    pub(super) fn wants(&self, ack_frames: usize) -> bool {
        self.other
            || !self.nacks.is_empty()
            || !self.letters.is_empty()
            || !self.extends.is_empty()
            || self.acks_go(ack_frames)
            || (!self.started.is_empty() && ack_frames < ACK_FRAMES)
    }

    fn acks_go(&self, ack_frames: usize) -> bool {
        !self.acks.is_empty() && (ack_frames < ACK_FRAMES || self.acks.len() >= ACKS_FULL)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.acks.is_empty() && self.nacks.is_empty() && self.letters.is_empty()
    }
}

/// A verb that is not answered.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) verb: Verb,
    pub(super) tickets: Vec<Ticket>,
}

#[derive(Debug)]
pub(super) enum Verb {
    Ack,
    Nack(Box<HandlerError>),
    Extend,
    DeadLetter,
    Commit { source: u32, commit: Commit },
}

impl Sent {
    /// The consumer has ended before the answer.
    pub(super) fn fail(self, error: &Error) {
        if let Verb::Commit { commit, .. } = self.verb {
            for waiter in commit.waiters {
                let _ = waiter.send(Err(error.clone()));
            }
        }
    }
}

impl Board {
    /// The session has looked, and may be told again.
    pub(in super::super) fn session_looked(&mut self) {
        self.told_session = false;
    }

    /// The frames that are to be sent now.
    pub(in super::super) fn flush(&mut self, now: Instant, frames: &mut Frames) {
        self.told_session = false;
        self.outbox.other = false;
        self.flush_started(frames);
        let ack_frames = self.ack_frames;
        if self.outbox.acks_go(ack_frames) || self.draining.is_some() || !self.revoking.is_empty() {
            for tickets in chunks(std::mem::take(&mut self.outbox.acks)) {
                self.send(Verb::Ack, tickets, frames);
            }
        }
        let mut nacks = std::mem::take(&mut self.outbox.nacks).into_iter().peekable();
        while let Some((ticket, error)) = nacks.next() {
            let mut tickets = vec![ticket];
            while let Some((next, _)) = nacks.next_if(|(_, next)| *next == error && tickets.len() < VERB_RECORDS) {
                tickets.push(next);
            }
            self.send(Verb::Nack(error), tickets, frames);
        }
        for ticket in std::mem::take(&mut self.outbox.letters) {
            self.send(Verb::DeadLetter, vec![ticket], frames);
        }
        for tickets in chunks(std::mem::take(&mut self.outbox.extends)) {
            for ticket in &tickets {
                if let Some(slot) = self.slots.get_mut(*ticket) {
                    slot.leased_at = now;
                }
            }
            self.send(Verb::Extend, tickets, frames);
        }
        if self.rules.mode == GroupMode::Offset {
            self.flush_commits(now, frames);
            self.flush_credit(frames);
        }
        self.flush_revoked(frames);
    }

    /// Hints, for what is still in work: the rest has its verdict in the next frame.
    fn flush_started(&mut self, frames: &mut Frames) {
        let mut started = std::mem::take(&mut self.outbox.started);
        started.retain(|ticket| self.slots.get(*ticket).is_some_and(|slot| slot.phase == Phase::Started));
        for tickets in chunks(started) {
            let work = self.work(&tickets);
            if !work.is_empty() {
                frames.push_back(request(Frame::Started(v1::Started { work })));
            }
        }
    }

    fn flush_credit(&mut self, frames: &mut Frames) {
        let (records, bytes) = self.outbox.granted;
        let (enough_records, enough_bytes) = self.outbox.grant_at;
        let idle = self.ready.is_empty() && self.slots.len() == 0;
        if (records > 0 || bytes > 0) && (records >= enough_records || bytes >= enough_bytes || idle) {
            self.outbox.granted = (0, 0);
            frames.push_back(request(Frame::Credit(v1::Credit { records, bytes })));
        }
    }

    /// Units of which nothing is in work any more. Sent behind the verdicts on what was.
    fn flush_revoked(&mut self, frames: &mut Frames) {
        let mut still = Vec::new();
        for revoking in std::mem::take(&mut self.revoking) {
            let (source, (from, to)) = (revoking.source, revoking.slots);
            let progress = &self.sources[source as usize].progress;
            let committing = progress.committing || !progress.commits.is_empty();
            let held = self.slots.iter().any(|(_, slot)| {
                let inside = from <= slot.key_slot && slot.key_slot < to;
                slot.source == source && (!slot.leased || (inside && slot.phase != Phase::Decided))
            });
            let Some(source_id) = self.sources[source as usize].wire.filter(|_| !held && !committing) else {
                still.push(revoking);
                continue;
            };
            let slots = Some(v1::Slots { from, to });
            frames.push_back(request(Frame::Revoked(v1::Revoked { source_id, slots })));
            self.sources[source as usize].epoch = None;
        }
        self.revoking = still;
    }

    /// Numbers a verb, keeps it until it is answered, and makes its frame.
    pub(super) fn send(&mut self, verb: Verb, tickets: Vec<Ticket>, frames: &mut Frames) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let sent = Sent { verb, tickets };
        if let Some(frame) = self.frame_of(sequence, &sent) {
            frames.push_back(request(frame));
            self.ack_frames += usize::from(matches!(sent.verb, Verb::Ack));
            self.sent.insert(sequence, sent);
        } else {
            // Nothing is left of it.
            for ticket in sent.tickets {
                self.answered(ticket, AckOutcome::Fenced);
            }
        }
    }

    /// The frame of a verb on the present stream.
    fn frame_of(&self, sequence: u64, sent: &Sent) -> Option<Frame> {
        let work = self.work(&sent.tickets);
        let some = |work: Vec<v1::Work>| Some(work).filter(|work| !work.is_empty());
        Some(match &sent.verb {
            Verb::Ack => Frame::Ack(v1::Ack { sequence, work: some(work)? }),
            Verb::Extend => Frame::Extend(v1::Extend { sequence, work: some(work)? }),
            Verb::Nack(error) => Frame::Nack(nack(sequence, some(work)?, error)),
            Verb::DeadLetter => {
                let slot = self.slots.get(*sent.tickets.first()?)?;
                let letter = slot.letter.as_ref()?;
                Frame::DeadLetter(v1::DeadLetter {
                    sequence,
                    source_id: self.sources[slot.source as usize].wire?,
                    assignment_epoch: slot.epoch,
                    offset: signed(slot.offset),
                    kind: EntryKind::to_wire(Some(letter.kind)),
                    error: letter.error.as_ref().and_then(|error| error.to_wire()),
                })
            }
            Verb::Commit { source, commit } => {
                let state = &self.sources[*source as usize];
                Frame::Commit(v1::Commit {
                    sequence,
                    source_id: state.wire?,
                    assignment_epoch: state.epoch?,
                    next_offset: signed(commit.position.next),
                    epoch: commit.position.epoch,
                    metadata: commit.metadata.clone(),
                    force: commit.force,
                })
            }
        })
    }

    /// Records of verbs by source and epoch, their offsets as runs.
    fn work(&self, tickets: &[Ticket]) -> Vec<v1::Work> {
        let mut records: Vec<(u32, u64, u64, Ticket)> = tickets
            .iter()
            .filter_map(|ticket| self.slots.get(*ticket).map(|slot| (slot.source, slot.epoch, slot.offset, *ticket)))
            .collect();
        records.sort_unstable();
        let mut works: Vec<v1::Work> = Vec::new();
        let mut last = None;
        for (source, assignment_epoch, offset, ticket) in records {
            let Some(source_id) = self.sources[source as usize].wire else { continue };
            if last != Some((source, assignment_epoch)) {
                last = Some((source, assignment_epoch));
                works.push(v1::Work { source_id, assignment_epoch, ..v1::Work::default() });
            }
            let work = works.last_mut().expect("one was pushed for the first record");
            match self.slots.get(ticket).and_then(|slot| slot.entry.as_ref()) {
                Some((id, version)) => {
                    work.entries.push(v1::EntryRef { dlq_id: id.to_string(), version: Some(*version) });
                }
                None => push_run(&mut work.offsets, offset),
            }
        }
        works
    }

    /// What a resuming member has in work (rule GM-8).
    pub(in super::super) fn in_work(&self) -> Vec<v1::InWork> {
        let mut by_unit: HashMap<(u32, u64), (Vec<u64>, Vec<String>)> = HashMap::new();
        for (_, slot) in self.slots.iter().filter(|(_, slot)| slot.leased && slot.lost.is_none()) {
            let (offsets, ids) = by_unit.entry((slot.source, slot.epoch)).or_default();
            match &slot.entry {
                Some((id, _)) => ids.push(id.to_string()),
                None => offsets.push(slot.offset),
            }
        }
        let mut in_work: Vec<v1::InWork> = by_unit
            .into_iter()
            .map(|((source, assignment_epoch), (mut offsets, dlq_ids))| {
                offsets.sort_unstable();
                let mut runs = Vec::new();
                offsets.into_iter().for_each(|offset| push_run(&mut runs, offset));
                let source = self.shared(source);
                let (topic_id, partition) = (source.topic_id.as_str().to_owned(), source.partition);
                v1::InWork { topic_id, partition, assignment_epoch, offsets: runs, dlq_ids }
            })
            .collect();
        if self.rules.mode == GroupMode::Offset {
            // Every partition is named, or the broker would go on behind what was lost with the stream.
            for number in 0..u32::try_from(self.sources.len()).unwrap_or(u32::MAX) {
                let Some((assignment_epoch, offsets)) = self.received_run(number) else { continue };
                let source = self.shared(number);
                let (topic_id, partition) = (source.topic_id.as_str().to_owned(), source.partition);
                let known = in_work.iter_mut().find(|work| {
                    work.topic_id == topic_id
                        && work.partition == partition
                        && work.assignment_epoch == assignment_epoch
                });
                match known {
                    Some(work) => work.offsets = offsets,
                    None => {
                        in_work.push(v1::InWork { topic_id, partition, assignment_epoch, offsets, dlq_ids: Vec::new() })
                    }
                }
            }
        }
        in_work.sort_by(|one, other| (&one.topic_id, one.partition).cmp(&(&other.topic_id, other.partition)));
        in_work
    }

    /// The verbs that were not answered, again, on a new stream.
    pub(in super::super) fn resend(&mut self, frames: &mut Frames) {
        let sequences: Vec<u64> = self.sent.keys().copied().collect();
        for sequence in sequences {
            let frame = self.sent.get(&sequence).and_then(|sent| self.frame_of(sequence, sent));
            match frame {
                Some(frame) => frames.push_back(request(frame)),
                None => self.unsendable(sequence),
            }
        }
    }

    /// A verb whose unit this session does not have.
    fn unsendable(&mut self, sequence: u64) {
        let Some(sent) = self.sent.get(&sequence) else { return };
        if let Verb::Commit { source, .. } = &sent.verb
            && self.sources[*source as usize].epoch.is_some()
        {
            // Its unit may be told yet: it is sent with the next frames.
            let Some(Sent { verb: Verb::Commit { source, commit }, .. }) = self.take_sent(sequence) else { return };
            let progress = &mut self.sources[source as usize].progress;
            progress.committing = false;
            progress.commits.push_front(commit);
            self.outbox.other = true;
            return;
        }
        let Some(sent) = self.take_sent(sequence) else { return };
        for ticket in &sent.tickets {
            self.answered(*ticket, AckOutcome::Fenced);
        }
        sent.fail(&Error::refused(crate::error::ErrorReason::Fenced, "the unit is not this member's any more"));
    }

    /// Extensions are not sent again: a resumed lease begins anew.
    pub(super) fn drop_extends(&mut self) {
        self.sent.retain(|_, sent| !matches!(sent.verb, Verb::Extend));
        self.outbox.extends.clear();
    }

    /// Takes a verb that is answered.
    pub(super) fn take_sent(&mut self, sequence: u64) -> Option<Sent> {
        let sent = self.sent.remove(&sequence)?;
        self.ack_frames -= usize::from(matches!(sent.verb, Verb::Ack));
        Some(sent)
    }

    /// The answer to an Ack, Nack or Extend.
    pub(super) fn acked(&mut self, result: &v1::AckResult) {
        let Some(sent) = self.take_sent(result.sequence) else { return };
        let failure = result.failure.as_ref().map(Error::from_failure);
        if let Some(error) = &failure {
            tracing::warn!(error = %error, "a verb was refused as a whole");
        }
        let outcomes = self.outcomes(&result.results);
        for ticket in sent.tickets {
            let outcome = self.slots.get(ticket).and_then(|slot| {
                let id = slot.entry.as_ref().map(|(id, _)| id.to_string());
                outcomes.get(&(slot.source, slot.offset, id)).copied()
            });
            match (&sent.verb, outcome) {
                (Verb::Extend, Some(outcome)) => self.lost(ticket, outcome),
                (Verb::Extend, None) => {}
                (_, outcome) => {
                    if let (Some(error), Some(slot)) = (&failure, self.slots.get_mut(ticket)) {
                        tell(slot.waiter.take(), Err(error.clone()));
                    }
                    // What an answer does not name is done; a verb that was refused has done nothing.
                    let unnamed = if failure.is_some() { AckOutcome::NotLeased } else { AckOutcome::Done };
                    let outcome = outcome.unwrap_or(unnamed);
                    self.drop_settled(ticket, &sent.verb, outcome);
                    self.answered(ticket, outcome);
                }
            }
        }
    }

    /// What is not OK, by record. Empty for nearly every answer.
    fn outcomes(&self, results: &[v1::WorkResult]) -> HashMap<(u32, u64, Option<String>), AckOutcome> {
        let mut outcomes = HashMap::new();
        for result in results {
            let Some(source) = self.by_wire.get(&result.source_id).copied() else { continue };
            let outcome = AckOutcome::from_wire(result.outcome());
            for run in &result.offsets {
                let from = unsigned(run.from);
                let to = from.saturating_add(u64::from(run.count.max(1)));
                outcomes.extend((from..to).map(|offset| ((source, offset, None), outcome)));
            }
            for id in &result.dlq_ids {
                // An id ends with the offset of its record.
                let offset = id.rsplit('-').next().and_then(|offset| offset.parse().ok()).unwrap_or(0);
                outcomes.insert((source, offset, Some(id.clone())), outcome);
            }
        }
        outcomes
    }

    /// A verdict is answered: the record is settled, or not this member's any more.
    fn answered(&mut self, ticket: Ticket, outcome: AckOutcome) {
        let Some(slot) = self.slots.get_mut(ticket) else { return };
        tell(slot.waiter.take(), Ok(outcome));
        if !outcome.is_settled() {
            tracing::debug!(offset = slot.offset, ?outcome, "a verdict came too late");
        }
        self.leave_lane(ticket);
        self.free(ticket);
        self.outbox.other |= !self.revoking.is_empty();
    }
}

fn request(frame: Frame) -> v1::ConsumeRequest {
    v1::ConsumeRequest { frame: Some(frame) }
}

fn nack(sequence: u64, work: Vec<v1::Work>, error: &HandlerError) -> v1::Nack {
    let ms = |delay: &Option<Duration>| delay.map(|delay| u64::try_from(delay.as_millis()).unwrap_or(u64::MAX));
    let (kind, retry_after_ms, scope, reason) = match &error.act {
        Act::Retry { after } => (v1::NackKind::Retry, ms(after), v1::NackScope::Record, String::new()),
        Act::Release { after, group } => {
            let scope = if *group { v1::NackScope::Group } else { v1::NackScope::Record };
            (v1::NackKind::Release, ms(after), scope, String::new())
        }
        Act::Dead => (v1::NackKind::Dead, None, v1::NackScope::Record, String::new()),
        Act::Skip { reason } => (v1::NackKind::Skip, None, v1::NackScope::Record, reason.clone()),
    };
    v1::Nack { sequence, work, kind: kind.into(), retry_after_ms, scope: scope.into(), error: error.to_wire(), reason }
}

fn push_run(runs: &mut Vec<v1::OffsetRun>, offset: u64) {
    if let Some(last) = runs.last_mut()
        && unsigned(last.from) + u64::from(last.count) == offset
    {
        last.count += 1;
        return;
    }
    runs.push(v1::OffsetRun { from: signed(offset), count: 1 });
}

/// In parts that a verb can carry.
fn chunks(mut tickets: Vec<Ticket>) -> Vec<Vec<Ticket>> {
    let mut parts = Vec::new();
    while tickets.len() > VERB_RECORDS {
        let rest = tickets.split_off(VERB_RECORDS);
        parts.push(std::mem::replace(&mut tickets, rest));
    }
    if !tickets.is_empty() {
        parts.push(tickets);
    }
    parts
}
