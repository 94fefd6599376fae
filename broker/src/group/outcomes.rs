//! What becomes of entries: failures, deaths in place, returns, closes (rules KO-7, RD-5, RD-7, DL-7, PI-2, GM-8).
//!
//! Owns: the transitions of an entry's state. Who has it and what comes next is [`super::redriven`]'s.

use super::Now;
use super::config::Mode;
use super::effect::{AckStatus, Effects, Notice};
use super::entry::{Act, DeadReason, Entry, EntryFailure, EntryKey, EntryKind, EntryRecord, EntryState};
use super::machine::Machine;
use super::members::Loss;
use super::record::{ErrorInfo, OwnedRun};
use super::redriven::EntryLease;
use super::retry::{AfterDead, CONSUMER_CRASH, Failure, FailureKind, LEASE_EXPIRED, OnExhausted, Verdict, jitter_seed};
use crate::model::{MemberId, Source};

impl Machine {
    /// A delivery of an entry failed; its lease is gone.
    pub(super) fn entry_failed(
        &mut self,
        key: EntryKey,
        lease: EntryLease,
        kind: FailureKind,
        error: Option<ErrorInfo>,
        now: Now,
        fx: &mut Effects,
    ) {
        let class = match kind {
            FailureKind::LeaseExpired => LEASE_EXPIRED.to_owned(),
            FailureKind::MemberLost => CONSUMER_CRASH.to_owned(),
            _ => error.as_ref().map(|error| error.class.clone()).unwrap_or_default(),
        };
        fx.notices.push(Notice::Failed);
        let seed = jitter_seed(seed_of(self.state.id.0, key.source), key.offset.get(), lease.attempt);
        let failure = Failure { attempt: lease.attempt, class: &class, kind, seed };
        match self.policy_for(key.source).verdict(&failure) {
            Verdict::Retry(delay) => {
                let delay_ms = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
                let due_ms = if delay_ms == 0 { 0 } else { now.wall_ms.saturating_add_unsigned(delay_ms) };
                let class = Some(class).filter(|class| !class.is_empty());
                self.commit_entry(EntryRecord::Tried { key, attempts: lease.attempt, due_ms, delay_ms, class }, fx);
                if let Some(entry) = self.entries.get(&key) {
                    self.refresh_of(key, &entry, now);
                }
            }
            Verdict::Exhausted(reason) => {
                let member = lease.member;
                let message = || match kind {
                    FailureKind::MemberLost => format!("member {member} was lost"),
                    _ => String::new(),
                };
                let error = error.unwrap_or_else(|| ErrorInfo { message: message(), ..ErrorInfo::default() });
                let one = self.state.members.get(&member);
                let client_version = one.map(|one| one.client_version.clone()).unwrap_or_default();
                let error = ErrorInfo { class, ..error };
                let failure = EntryFailure { time_ms: now.wall_ms, error, member: Some(member), client_version };
                self.entry_died(key, lease.attempt, reason, failure, true, now, fx);
            }
        }
    }

    /// An entry's tries are spent: a redriven one is open again at the head of its lane (rule RD-7), a spilled one
    /// becomes failed where it is and its lane dead (rule KO-7). `anew`: its copy does not tell of the failure.
    #[expect(clippy::too_many_arguments, reason = "the facts of a death")]
    pub(super) fn entry_died(
        &mut self,
        key: EntryKey,
        attempts: u32,
        reason: DeadReason,
        failure: EntryFailure,
        anew: bool,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(mut entry) = self.entries.get(&key) else { return };
        let was = self.lane_now(key.source, entry.lane);
        let (spilled, job) = (entry.state == EntryState::Spilled, entry.job);
        let policy = self.policy_for(key.source);
        let (on_exhausted, after_dead) = (policy.on_exhausted, policy.after_dead);
        entry.attempts = attempts;
        let given = |text: &String| Some(text.clone()).filter(|text| !text.is_empty());
        entry.class = given(&failure.error.class).or(entry.class);
        entry.fingerprint = given(&failure.error.fingerprint).or(entry.fingerprint);
        if spilled && on_exhausted == OnExhausted::Block {
            let (due_ms, delay_ms, class) = (super::dead::BLOCKED_MS, 0, entry.class);
            self.commit_entry(EntryRecord::Tried { key, attempts, due_ms, delay_ms, class }, fx);
            return self.refresh_lane(key.source, entry.lane, now);
        }
        entry.reason = reason;
        entry.act = Act { actor: "broker".into(), time_ms: now.wall_ms, note: String::new() };
        if spilled && on_exhausted == OnExhausted::Drop {
            entry.state = EntryState::Discarded;
            entry.act.note = "its tries are spent, and the policy is to drop".into();
            self.note_hole(key.source, entry.lane, key.offset, fx);
            fx.notices.push(Notice::EntryClosed(key));
        } else {
            (entry.state, entry.kind, entry.job) = (EntryState::Open, EntryKind::Failed, None);
            if spilled {
                entry.dead_ms = now.wall_ms;
                entry.holds = after_dead == AfterDead::Park && self.state.config.mode != Mode::Unordered;
                fx.notices.push(Notice::DeadLettered { key, spilled: false });
            }
        }
        (entry.due_ms, entry.delay_ms) = (0, 0);
        // The same copy, the same cycle: the entry as a whole, since its hold on the lane may change.
        let (source, lane) = (key.source, entry.lane);
        let dead = entry.clone();
        self.with_lane(source, lane, |machine| {
            machine.commit_entry(EntryRecord::Opened { key, entry: Box::new(dead) }, fx);
            if anew {
                machine.commit_entry(EntryRecord::Failed { key, failure: Box::new(failure) }, fx);
            }
        });
        if job.is_some() {
            self.leave_jobs_behind(key, &entry, now, fx);
            fx.notices.push(Notice::RedriveFailed(key));
        }
        self.lane_changed(source, lane, was, now, fx);
    }

    /// The rest of a lane cannot be redriven before its head: it leaves its job, which may be another than the head's.
    fn leave_jobs_behind(&mut self, head: EntryKey, entry: &Entry, now: Now, fx: &mut Effects) {
        if !entry.holds {
            return;
        }
        let has_job = |key: &EntryKey| self.entries.get(key).is_some_and(|entry| entry.job.is_some());
        let keys: Vec<EntryKey> = self.entries.open_of(head.source, entry.lane).filter(has_job).collect();
        if !keys.is_empty() {
            let note = format!("the head of its lane failed again: {}", head.offset);
            let act = Act { actor: "broker".into(), time_ms: now.wall_ms, note };
            self.commit_entry(EntryRecord::Redriving { keys, job: None, act }, fx);
        }
    }

    /// A delivery did not count (rule RT-5).
    pub(super) fn entry_back(
        &mut self,
        key: EntryKey,
        lease: EntryLease,
        after_ms: Option<u64>,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(entry) = self.entries.get(&key) else { return };
        let longest = crate::limits::RETRY_AFTER_MAX.as_millis() as u64;
        let delay_ms = after_ms.unwrap_or(0).min(longest);
        let due_ms = if delay_ms == 0 { 0 } else { now.wall_ms.saturating_add_unsigned(delay_ms) };
        let attempts = lease.attempt.saturating_sub(1);
        if entry.attempts != attempts || entry.due_ms != due_ms {
            self.commit_entry(EntryRecord::Tried { key, attempts, due_ms, delay_ms, class: None }, fx);
        }
        self.refresh_of(key, &entry, now);
    }

    /// Closes an entry; the next of its lane follows, or its lane is live (rules DL-7, RD-5).
    pub(super) fn close_entry(
        &mut self,
        key: EntryKey,
        state: EntryState,
        attempts: u32,
        act: Act,
        now: Now,
        fx: &mut Effects,
    ) {
        let Some(entry) = self.entries.get(&key) else { return };
        let was = self.lane_now(key.source, entry.lane);
        let (kind, cycle, reason) = (entry.kind, entry.cycle, entry.reason);
        let (class, fingerprint) = (entry.class, entry.fingerprint);
        let job = None;
        if matches!(state, EntryState::Resolved { .. }) {
            self.holes_told(key.source, &[entry.lane], fx);
        }
        let changed = EntryRecord::Changed { key, state, kind, cycle, job, attempts, reason, class, fingerprint, act };
        self.with_lane(key.source, entry.lane, |machine| machine.commit_entry(changed, fx));
        fx.notices.push(Notice::EntryClosed(key));
        if !entry.holds {
            self.refresh_entry(key, now);
        }
        self.lane_changed(key.source, entry.lane, was, now, fx);
    }

    /// A member is gone, or gave back what it had: its entries are free again. `only`: of these slots alone. Answers
    /// whether there were any.
    pub(super) fn entries_back(
        &mut self,
        member: MemberId,
        only: Option<(Source, OwnedRun)>,
        loss: Loss,
        now: Now,
        fx: &mut Effects,
    ) -> bool {
        let mut any = false;
        let hints = self.members.get(member).is_some_and(|member| member.hints);
        for (key, lease) in self.leased_entries(Some(member)) {
            if only.is_some_and(|(source, run)| key.source != source || !run.slots.contains(lease.slot())) {
                continue;
            }
            any = true;
            self.end_entry_lease(&key);
            // A strike goes to what was started; without any hints to all that a lost member had (rule PI-2).
            let strike = match loss {
                Loss::Released => false,
                Loss::Lost => lease.started() || !hints,
                Loss::Fenced => lease.started(),
            };
            if strike {
                self.entry_failed(key, lease, FailureKind::MemberLost, None, now, fx);
            } else {
                self.entry_back(key, lease, None, now, fx);
            }
        }
        self.arm_entries();
        any
    }

    /// A member is back with these entries in work (rule GM-8): what it had and does not name is free again. Answers
    /// what of those named is not leased to it.
    pub(super) fn resume_entries(
        &mut self,
        member: MemberId,
        entries: &[EntryKey],
        now: Now,
        fx: &mut Effects,
    ) -> Vec<(EntryKey, AckStatus)> {
        for (key, lease) in self.leased_entries(Some(member)) {
            if !entries.contains(&key) {
                self.end_entry_lease(&key);
                self.entry_back(key, lease, None, now, fx);
            }
        }
        let mut lost = Vec::new();
        for key in entries {
            if self.leased_to(key) == Some(member) {
                continue;
            }
            let entry = self.entries.get(key);
            let run = entry.as_ref().and_then(|entry| self.owner(key.source, entry.slot));
            match (entry, run) {
                (Some(entry), Some(run)) if run.member == member && self.entry_is_ready(key) => {
                    // The attempt is the one that was under way.
                    self.lease_entry(*key, &entry, entry.attempts.max(1), member, run.epoch, now);
                    self.charge(member, 1, entry.size_bytes.into());
                }
                (Some(entry), _) if entry.state.is_closed() => lost.push((*key, AckStatus::AlreadySettled)),
                _ => lost.push((*key, AckStatus::NotLeased)),
            }
        }
        self.arm_entries();
        lost
    }

    /// Entries whose job is not there any more are open (rule RD-1).
    pub(super) fn leave_jobs(&mut self, now: Now, fx: &mut Effects) {
        let jobs = self.entries.jobs();
        let orphans = self.entries.redriving().filter(|(job, _)| !jobs.contains_key(job));
        let keys: Vec<EntryKey> = orphans.map(|(_, key)| key).collect();
        if !keys.is_empty() {
            let act = Act { actor: "broker".into(), time_ms: now.wall_ms, note: "its job is gone".into() };
            self.commit_entry(EntryRecord::Redriving { keys, job: None, act }, fx);
        }
    }

    /// A member did it.
    pub(super) fn member_act(&self, member: MemberId, note: String, now: Now) -> Act {
        let client = self.state.members.get(&member).map(|one| one.client_id.as_str()).unwrap_or_default();
        Act { actor: format!("{member} {client}").trim_end().to_owned(), time_ms: now.wall_ms, note }
    }
}

/// What a record's jitter hangs on, apart from the record.
fn seed_of(group: u64, source: Source) -> u64 {
    let mut seed = group ^ u64::from(source.partition.0).rotate_left(32);
    for half in source.topic.0.chunks_exact(8) {
        let half = u64::from_le_bytes(half.try_into().expect("eight bytes"));
        seed = (seed ^ half).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }
    seed
}
