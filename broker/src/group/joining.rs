//! How a session begins: anew, resumed, or in the place of another (rules GM-1, GM-8, GM-9).
//!
//! Owns: what becomes of what a member says it has in work. Must not know: who gets which units.

use std::collections::{BTreeMap, HashSet};

use super::Now;
use super::deadlines::Timer;
use super::effect::{AckStatus, After, Effects, Frame, Refusal};
use super::event::{InWork, Join};
use super::leases::Lease;
use super::machine::Machine;
use super::members::Loss;
use super::record::{GroupRecord, OwnedRun};
use super::slab::NONE;
use crate::limits;
use crate::model::{MemberEpoch, MemberId, Offset, OffsetRange, Source};

/// Offsets of a join that are looked at; a client holds no more than its credit lets it.
const IN_WORK_OFFSETS: u64 = 200_000;

type Lost = Vec<(Source, OffsetRange, AckStatus)>;

impl Machine {
    /// See [`super::event::Event::Join`].
    pub(super) fn join(&mut self, join: Join, now: Now, fx: &mut Effects) {
        let known = self.members.get(join.member);
        if let Some(one) = known
            && join.resume == Some(one.epoch)
            && !one.lapsed
        {
            self.resume(join, now, fx);
            return;
        }
        let replaced = self.replaced_by(&join);
        if known.is_none() && replaced.is_none() && self.members.all.len() >= limits::MEMBERS_PER_GROUP {
            let max = limits::MEMBERS_PER_GROUP as u64;
            fx.outcome = Some(Err(Refusal::Limit { limit: "members_per_group", max }));
            return;
        }
        self.begin_session(join, replaced, now, fx);
    }

    /// The other member whose instance id the join has.
    fn replaced_by(&self, join: &Join) -> Option<MemberId> {
        let instance = join.instance.as_ref()?;
        let same = |id: &MemberId| *id != join.member && self.state.members[id].instance.as_ref() == Some(instance);
        self.state.members.keys().copied().find(same)
    }

    /// A new session, of a new member, of one that was there, or in the place of another.
    fn begin_session(&mut self, join: Join, replaced: Option<MemberId>, now: Now, fx: &mut Effects) {
        let member = join.member;
        let epoch = MemberEpoch(self.state.next_member_epoch);
        let was_there = self.members.get(member).is_some();
        if was_there {
            self.forget_claims(member);
            // What its old session had comes back: a cut stream that lost it (rule RT-5).
            self.give_back(member, None, Loss::Released, now, fx);
            self.entries_back(member, None, Loss::Released, now, fx);
            self.handed_over(member, now, fx);
        }
        self.commit(
            GroupRecord::Joined {
                member,
                epoch,
                instance: join.instance.clone(),
                client_id: join.client_id.clone(),
                client_version: join.client_version.clone(),
                time_ms: now.wall_ms,
            },
            fx,
        );
        let timeout_ms = self.state.config.session_timeout_ms;
        let one = match was_there {
            true => self.members.get_mut(member).expect("it is there"),
            false => self.members.add(member, epoch, now),
        };
        (one.epoch, one.attached, one.awaited, one.lapsed) = (epoch, true, false, false);
        (one.records_left, one.bytes_left, one.hints) = (0, 0, false);
        one.heard(now);
        one.grant(join.credit);
        let handle = one.handle;
        self.deadlines.arm(Timer::Session(handle), now.monotonic_ms + timeout_ms);
        if !was_there {
            self.find_units(member, now);
        }
        let (mut lost, mut lost_entries) = (Vec::new(), Vec::new());
        for work in &join.in_work {
            lost.extend(work.runs.iter().map(|run| (work.source, *run, self.status_of_run(work.source, *run))));
            lost_entries.extend(work.entries.iter().map(|key| (*key, AckStatus::NotLeased)));
        }
        let joined = Frame::Joined { epoch, resumed: false, lost, lost_entries };
        self.send(member, joined, After::Group, fx);
        self.tell_pauses(member, fx);
        if let Some(old) = replaced {
            self.take_over(old, member, join.instance.as_deref().unwrap_or_default(), now, fx);
        }
        self.tell_units(member, fx);
        self.tell_replay_end(member, fx);
        self.wake_units(handle);
        self.after_awaited(now, fx);
        self.rebalance(now, fx);
    }

    /// A new member may own units: the journal ended between its leaving and the assignment that followed.
    fn find_units(&mut self, member: MemberId, now: Now) {
        let owns = |runs: &Vec<OwnedRun>| runs.iter().any(|run| run.member == member);
        let sources: Vec<Source> =
            self.state.owners.iter().filter(|(_, runs)| owns(runs)).map(|(source, _)| *source).collect();
        sources.into_iter().for_each(|source| self.rebuild_owners(source, now));
    }

    /// What a new session is told of a run that an older one had in work.
    fn status_of_run(&self, source: Source, run: OffsetRange) -> AckStatus {
        let settled = self.partition(source).map(|partition| &partition.settled);
        let done = settled.is_some_and(|settled| settled.count_unsettled_in(run) == 0);
        if done { AckStatus::AlreadySettled } else { AckStatus::NotLeased }
    }

    /// A new session of a static member takes the units of the old one (rule GM-9).
    fn take_over(&mut self, old: MemberId, new: MemberId, instance: &str, now: Now, fx: &mut Effects) {
        self.send(old, Frame::Ended(Refusal::InstanceReplaced { instance: instance.to_owned() }), After::Group, fx);
        self.give_back(old, None, Loss::Released, now, fx);
        self.entries_back(old, None, Loss::Released, now, fx);
        self.rename_owner(old, new, now, fx);
        self.forget_claims(old);
        if let Some(one) = self.members.get(old) {
            self.deadlines.disarm(Timer::Session(one.handle));
        }
        self.members.remove(old);
        self.hand_over.drains.remove(&old);
        self.commit(GroupRecord::Left { member: old }, fx);
    }

    /// The session goes on, on another stream (rule GM-8).
    fn resume(&mut self, join: Join, now: Now, fx: &mut Effects) {
        let member = join.member;
        let state = self.state.members.get(&member).expect("members are durable");
        if state.detached_ms.is_some() {
            let record = GroupRecord::Joined {
                member,
                epoch: state.epoch,
                instance: state.instance.clone(),
                client_id: state.client_id.clone(),
                client_version: state.client_version.clone(),
                time_ms: state.joined_ms,
            };
            self.commit(record, fx);
        }
        let timeout_ms = self.state.config.session_timeout_ms;
        let one = self.members.get_mut(member).expect("it is resumed");
        (one.attached, one.awaited) = (true, false);
        one.heard(now);
        (one.records_left, one.bytes_left) = (0, 0);
        one.grant(join.credit);
        let (handle, epoch) = (one.handle, one.epoch);
        self.deadlines.arm(Timer::Session(handle), now.monotonic_ms + timeout_ms);
        self.forget_claims(member);
        let (in_work, mut lost) = self.in_work_now(&join.in_work);
        if !self.is_offset() {
            self.drop_unlisted(member, &in_work, now, fx);
            lost.extend(self.lease_again(member, &in_work, now));
        }
        let entries: Vec<_> = join.in_work.iter().flat_map(|work| work.entries.iter().copied()).collect();
        let lost_entries = self.resume_entries(member, &entries, now, fx);
        // What it holds is part of the credit that it names.
        let one = self.members.get_mut(member).expect("it is resumed");
        (one.records_left, one.bytes_left) = (0, 0);
        one.grant(join.credit);
        one.records_left -= one.leased_records.min(i64::MAX as u64) as i64;
        one.bytes_left -= one.leased_bytes.min(i64::MAX as u64) as i64;
        self.send(member, Frame::Joined { epoch, resumed: true, lost, lost_entries }, After::Group, fx);
        self.tell_pauses(member, fx);
        self.tell_units(member, fx);
        self.tell_replay_end(member, fx);
        self.tell_revoked(member, fx);
        self.resume_ranges(member, &in_work);
        self.wake_units(handle);
        self.after_awaited(now, fx);
    }

    /// What of a resuming member's work can still be its own: nothing that was delivered before a reset or a cut dropped all
    /// leases (rules OF-3, AK-12). The rest is told as lost.
    fn in_work_now(&self, in_work: &[InWork]) -> (Vec<InWork>, Lost) {
        let mut lost = Lost::new();
        let mut now = in_work.to_vec();
        for work in &mut now {
            let valid = self.partition(work.source).is_some_and(|partition| work.epoch >= partition.leases_from);
            if !valid {
                lost.extend(work.runs.drain(..).map(|run| (work.source, run, AckStatus::NotLeased)));
            }
        }
        (now, lost)
    }

    /// Mode OFFSET: what a member has in work from its commit on need not be sent again.
    fn resume_ranges(&mut self, member: MemberId, in_work: &[InWork]) {
        if !self.is_offset() {
            return;
        }
        for work in in_work {
            if !self.owns_any(work.source, member) {
                continue;
            }
            let Some(floor) = self.partition(work.source).map(|partition| partition.settled.floor()) else { continue };
            let mut runs = work.runs.clone();
            runs.sort_unstable_by_key(|run| run.from);
            let next = runs.iter().fold(floor, |next, run| if run.from <= next { next.max(run.to) } else { next });
            let read = self.works.get(&work.source).map_or(floor, |work| work.reading.high_watermark);
            self.range_resumed(work.source, next.min(read.max(floor)));
        }
    }

    /// What was leased to a resuming member and it does not name goes back without a strike.
    fn drop_unlisted(&mut self, member: MemberId, in_work: &[InWork], now: Now, fx: &mut Effects) {
        let mut named: BTreeMap<Source, Vec<OffsetRange>> = BTreeMap::new();
        for work in in_work {
            named.entry(work.source).or_default().extend(&work.runs);
        }
        named.values_mut().for_each(|runs| runs.sort_by_key(|run| run.from));
        let Some(one) = self.members.get(member) else { return };
        let handle = one.handle;
        let sources: Vec<Source> = self.works.keys().copied().collect();
        for source in sources {
            let runs = named.get(&source).map_or(&[][..], Vec::as_slice);
            let work = &self.works[&source];
            let unnamed: HashSet<Offset> = work
                .leased_to(handle)
                .into_iter()
                .map(|index| work.record(index).offset)
                .filter(|offset| !in_runs(runs, *offset))
                .collect();
            if !unnamed.is_empty() {
                self.give_back_only(source, member, &unnamed, now, fx);
            }
        }
    }

    /// Leases again what a member has in work and nobody else has; answers the rest.
    fn lease_again(&mut self, member: MemberId, in_work: &[InWork], now: Now) -> Lost {
        let mut lost = Lost::new();
        let mut left = IN_WORK_OFFSETS;
        for one in in_work {
            for run in &one.runs {
                let to = run.to.min(run.from.saturating_add(left));
                left -= to.distance_from(run.from);
                if to < run.to {
                    lost.push((one.source, OffsetRange { from: to, to: run.to }, AckStatus::NotLeased));
                }
                for offset in run.from.get()..to.get() {
                    let offset = Offset::new(offset).expect("within a run of offsets");
                    if let Some(status) = self.lease_one_again(one.source, offset, member, now) {
                        push_lost(&mut lost, one.source, offset, status);
                    }
                }
            }
        }
        lost
    }

    /// Leases one record again; `None`: it is the member's.
    fn lease_one_again(&mut self, source: Source, offset: Offset, member: MemberId, now: Now) -> Option<AckStatus> {
        let handle = self.members.get(member)?.handle;
        if self.partition(source).is_none_or(|partition| partition.settled.contains(offset)) {
            return Some(AckStatus::AlreadySettled);
        }
        let lease_ms = self.state.config.lease_ms;
        let owns = self.owns_any(source, member);
        let work = self.work(source)?;
        let Some(index) = work.find(offset) else {
            if owns && offset >= work.reading.next {
                return if self.claim(source, offset, handle) { None } else { Some(AckStatus::Fenced) };
            }
            return Some(AckStatus::NotLeased);
        };
        let record = work.record(index);
        match record.holder {
            holder if holder == handle => return None,
            NONE => {}
            _ => return Some(AckStatus::Fenced),
        }
        if !work.can_resume(index, handle) {
            return Some(AckStatus::NotLeased);
        }
        self.lease_resumed(source, index, member, lease_ms, now);
        None
    }

    /// Leases a record that its member has had all along: the attempt does not change.
    pub(super) fn lease_resumed(&mut self, source: Source, index: u32, member: MemberId, lease_ms: u64, now: Now) {
        let Some(handle) = self.members.get(member).map(|one| one.handle) else { return };
        let Some(work) = self.work(source) else { return };
        let epoch = work.owners[work.lane_owner(index) as usize].epoch;
        let record = work.record_mut(index);
        if record.until_ms > 0 {
            // It waited after a strike that was this delivery's.
            record.attempts = record.attempts.saturating_sub(1);
        }
        let size = u64::from(record.size_bytes);
        let lease = Lease { holder: handle, epoch, since_ms: now.monotonic_ms, until_ms: now.monotonic_ms + lease_ms };
        work.lease(index, lease);
        self.charge(member, 1, size);
    }
}

fn in_runs(runs: &[OffsetRange], offset: Offset) -> bool {
    let after = runs.partition_point(|run| run.from <= offset);
    // Runs may overlap, so that the one before need not be the one that reaches farthest; clients send few.
    runs[..after].iter().rev().take(8).any(|run| run.contains(offset))
}

fn push_lost(lost: &mut Lost, source: Source, offset: Offset, status: AckStatus) {
    let to = offset.saturating_add(1);
    match lost.last_mut() {
        Some((same, range, told)) if *same == source && range.to == offset && *told == status => range.to = to,
        _ => lost.push((source, OffsetRange { from: offset, to }, status)),
    }
}
