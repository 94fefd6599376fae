//! Who is delivered what next: credit, fairness, bounds (rules FC-2, KO-9, RT-9, PI-3, PI-4, DL-8).
//!
//! Owns: the row of members that can be sent something, the frames they are sent, what is leased in all. Must not know:
//! what becomes of a delivery.
//!
//! A member stands in the row if it has credit and a unit in which something may be ready; a unit is known to its member
//! exactly if something may be ready in it. So nothing is searched for, and nothing is forgotten: who cannot be served now
//! is put back into the row by what hinders it, credit that comes back, a pause that ends, a breaker that closes.
//!
//! Invariants: no member has more than its credit, but for one record that is larger than all of it; a delivery that is
//! not the first of its record goes out once its count is durable (rule RT-6).

use super::Now;
use super::deadlines::Timer;
use super::effect::{After, Delivered, Delivery, DeliveryMore, Effects, Frame, Notice};
use super::lanes::QueueKind;
use super::leases::Lease;
use super::machine::Machine;
use super::members::Member;
use super::record::{GroupRecord, OwnedRun, Tried};
use crate::limits;
use crate::model::{AssignmentEpoch, MemberId, Source};

/// Records that a unit is served before it is another's turn.
const QUANTUM: u64 = 256;

pub(super) use super::room::{Rate, Room, Totals, Used};

/// What came of serving somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Served {
    /// There is nothing that it could be sent.
    Nothing,
    /// It has no room; credit that comes back wakes it.
    Full,
    /// The group has no room: all wait, this one first.
    GroupFull,
    /// It was sent something.
    Some,
}

/// What a unit is sent in one turn.
#[derive(Debug, Default)]
struct Turn {
    first: Vec<Delivery>,
    first_records: u64,
    suspects: Vec<Delivery>,
    again: Vec<Delivery>,
    alone: Vec<Delivery>,
    tries: Vec<Tried>,
    records: u64,
    bytes: u64,
    last_append_ms: i64,
    /// Frames that are full: see [`Turn::begin`].
    sealed: Vec<(Vec<Delivery>, After)>,
    /// The part that the last record went to.
    part: Part,
}

/// Which frame of a turn a record goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Part {
    #[default]
    First,
    Suspects,
    Again,
    Alone,
}

impl Turn {
    /// A record goes to `part`. Where several records of a lane are leased together (`ordered`) a member must get them in
    /// order: what went to another part is sealed, so that it goes out before.
    fn begin(&mut self, part: Part, ordered: bool) -> &mut Vec<Delivery> {
        if ordered && part != self.part {
            self.seal();
        }
        self.part = part;
        match part {
            Part::First => &mut self.first,
            Part::Suspects => &mut self.suspects,
            Part::Again => &mut self.again,
            Part::Alone => &mut self.alone,
        }
    }

    /// What there is becomes frames: first deliveries at once, later ones once their counts are durable (rule RT-6); a
    /// last one in a frame of its own (rule PI-4).
    fn seal(&mut self) {
        let frames = [
            (std::mem::take(&mut self.first), After::Now),
            (std::mem::take(&mut self.again), After::Group),
            (std::mem::take(&mut self.suspects), After::Group),
        ];
        self.sealed.extend(frames.into_iter().filter(|(records, _)| !records.is_empty()));
        self.sealed.extend(self.alone.drain(..).map(|delivery| (vec![delivery], After::Group)));
    }
}

impl Machine {
    /// Serves whoever was woken, in turn; answers whether anything was sent.
    pub(super) fn deliver(&mut self, now: Now, fx: &mut Effects) -> bool {
        if self.closing {
            return false;
        }
        let mut sent = self.probe(now, fx);
        while let Some(member) = self.members.hungry.pop_front() {
            let served = match self.group_room(now) {
                Some(room) => self.serve(member, room, now, fx),
                None => Served::GroupFull,
            };
            if served == Served::GroupFull {
                self.members.hungry.push_front(member);
                break;
            }
            let Some(one) = self.members.get_mut(member) else { continue };
            one.queued = false;
            match served {
                Served::Some => {
                    sent = true;
                    if !one.units.is_empty() {
                        self.members.wake(member);
                    }
                }
                Served::Nothing if one.attached && one.leased_records == 0 => {
                    self.deadlines.arm(Timer::Idle, now.monotonic_ms + super::idle::IDLE_MS);
                }
                _ => {}
            }
        }
        sent
    }

    /// What the bounds of the group leave (rules RT-9, CB-3); `None`: nothing.
    fn group_room(&mut self, now: Now) -> Option<Room> {
        let config = &self.state.config;
        let mut room = Room { records: u64::MAX, bytes: u64::MAX, alone: true };
        if config.max_in_flight > 0 {
            room.records = config.max_in_flight.saturating_sub(self.totals.records);
        }
        if config.max_bytes_in_flight > 0 {
            room.bytes = config.max_bytes_in_flight.saturating_sub(self.totals.bytes);
            room.alone = self.totals.records == 0;
        }
        if let Some(rate) = self.rate.room(config.rate_limit, now.monotonic_ms) {
            room.records = room.records.min(rate);
            if rate == 0 {
                self.deadlines.arm(Timer::Rate, self.rate.next_ms());
            }
        }
        if let Some(ramp) = self.ramp_room(now) {
            room.records = room.records.min(ramp);
        }
        (room.records > 0 && (room.bytes > 0 || room.alone)).then_some(room)
    }

    /// What a member may be sent, as far as its own credit goes.
    fn member_room(&self, member: MemberId) -> Option<Room> {
        let one = self.members.get(member).filter(|one| one.attached)?;
        let records = u64::try_from(one.records_left).unwrap_or(0);
        let bytes = u64::try_from(one.bytes_left).unwrap_or(0);
        Some(Room { records, bytes, alone: one.leased_records == 0 && bytes > 0 })
    }

    /// Serves a member a turn of one of its units.
    fn serve(&mut self, member: MemberId, group: Room, now: Now, fx: &mut Effects) -> Served {
        let Some(own) = self.member_room(member) else {
            self.forget_units(member);
            return Served::Nothing;
        };
        let turns = self.members.get(member).map_or(0, |one| one.units.len());
        for _ in 0..turns {
            if own.records == 0 || (own.bytes == 0 && !own.alone) {
                return Served::Full;
            }
            let Some(unit) = self.members.get_mut(member).and_then(|one| one.units.pop_front()) else { break };
            let (used, full) = self.serve_unit(unit.0, unit.1, own, group, now, fx);
            let Some(one) = self.members.get_mut(member) else { break };
            match (full, used.more) {
                (Served::Full | Served::GroupFull, _) => one.units.push_front(unit),
                (_, true) => one.units.push_back(unit),
                (_, false) => {
                    if let Some(work) = self.works.get_mut(&unit.0) {
                        work.owners[unit.1 as usize].listed = false;
                    }
                }
            }
            if used.records > 0 {
                return Served::Some;
            }
            if full != Served::Nothing {
                return full;
            }
        }
        Served::Nothing
    }

    /// A member without a stream knows of nothing; its units are listed again when it is back.
    fn forget_units(&mut self, member: MemberId) {
        let Some(one) = self.members.get_mut(member) else { return };
        for (source, owner) in std::mem::take(&mut one.units) {
            if let Some(work) = self.works.get_mut(&source) {
                work.owners[owner as usize].listed = false;
            }
        }
    }

    /// Serves a unit: its entries and its records share the turn.
    fn serve_unit(
        &mut self,
        source: Source,
        owner: u32,
        own: Room,
        group: Room,
        now: Now,
        fx: &mut Effects,
    ) -> (Used, Served) {
        let Some(work) = self.works.get(&source) else { return (Used::default(), Served::Nothing) };
        let one = &work.owners[owner as usize];
        let run = OwnedRun { slots: one.slots, member: one.member, epoch: one.epoch };
        if work.paused || self.hand_over.pending.contains_key(&source) {
            return (Used::default(), Served::Nothing);
        }
        let open = self.breaker.is_open(now.monotonic_ms);
        let (mut own, mut group) = (own, group);
        let mut used = Used::default();
        if !open {
            let (entries, full) = self.serve_entries(source, &run, own, group, now, fx);
            if full != Served::Nothing {
                return (entries, full);
            }
            used = entries;
            own.take_if(entries);
            group.take_if(entries);
            if own.records == 0 || group.records == 0 {
                return (used, Served::Nothing);
            }
        }
        if !self.is_offset() {
            let (sent, full) = self.serve_records(source, owner, own, group, open, now, fx);
            used.records += sent.records;
            used.more |= sent.more;
            return (used, full);
        }
        if !open {
            let room = own.within(group);
            let sent = self.offer_ranges(source, &run, room, now, fx);
            self.use_up(run.member, sent);
            if sent.more && sent.records == 0 {
                return (used, hindrance(own, room));
            }
            used.records += sent.records;
            used.more |= sent.more;
        }
        (used, Served::Nothing)
    }

    /// In mode OFFSET a credit is used up, and nothing is leased (rule FC-2).
    fn use_up(&mut self, member: MemberId, used: Used) {
        self.rate.take(used.records);
        if let Some(one) = self.members.get_mut(member) {
            one.records_left -= used.records as i64;
            one.bytes_left -= used.bytes as i64;
        }
    }

    /// Entries of a unit, redriven or spilled.
    fn serve_entries(
        &mut self,
        source: Source,
        run: &OwnedRun,
        own: Room,
        group: Room,
        now: Now,
        fx: &mut Effects,
    ) -> (Used, Served) {
        if !self.has_redriven(source, run) {
            return (Used::default(), Served::Nothing);
        }
        let room = own.within(group);
        let room = Room { records: room.records.min(QUANTUM), ..room };
        let Some(batch) = self.next_redriven(source, run, room, now, fx) else {
            return (Used::default(), hindrance(own, room));
        };
        let used = Used { records: batch.records.len() as u64, bytes: batch.bytes, more: true };
        self.charge(run.member, used.records, used.bytes);
        self.send_records(run.member, source, run.epoch, batch.records, batch.after, fx);
        (used, Served::Nothing)
    }

    /// Records of a unit that are ready.
    #[expect(clippy::too_many_arguments, reason = "the bounds of the member and of the group are told apart")]
    fn serve_records(
        &mut self,
        source: Source,
        owner: u32,
        mut own: Room,
        mut group: Room,
        open: bool,
        now: Now,
        fx: &mut Effects,
    ) -> (Used, Served) {
        let kinds: &[QueueKind] =
            if open { &[QueueKind::Exempt] } else { &[QueueKind::Exempt, QueueKind::Suspect, QueueKind::Ready] };
        let mut turn = Turn::default();
        let (mut full, mut more) = (Served::Nothing, false);
        let member = self.works[&source].owners[owner as usize].member;
        let mut suspects_left = self.members.get(member).map_or(0, |one| if one.suspects == 0 { u32::MAX } else { 0 });
        'kinds: for &kind in kinds {
            while let Some(index) = self.works[&source].next_ready(owner, kind) {
                let record = self.works[&source].record(index);
                if record.suspects != 0 && suspects_left == 0 {
                    // It comes when those before it are done (rule PI-3).
                    break;
                }
                let size = u64::from(record.size_bytes);
                if !own.fits(size) {
                    full = Served::Full;
                    break 'kinds;
                }
                if !group.fits(size) {
                    full = Served::GroupFull;
                    break 'kinds;
                }
                if turn.records >= QUANTUM
                    || turn.bytes + size > limits::DELIVERY_FRAME_BYTES as u64 && turn.records > 0
                {
                    more = true;
                    break 'kinds;
                }
                if record.suspects != 0 {
                    suspects_left = suspects_left.min(record.suspects) - 1;
                }
                own.take(1, size);
                group.take(1, size);
                self.take_into(&mut turn, source, owner, index, now);
            }
        }
        let used = Used { records: turn.records, bytes: turn.bytes, more };
        self.send_turn(turn, source, owner, now, fx);
        (used, full)
    }

    /// Leases a record into a turn.
    fn take_into(&mut self, turn: &mut Turn, source: Source, owner: u32, index: u32, now: Now) {
        let stands_in = self.stands_in(source, self.works[&source].record(index));
        let Self { works, members, state, .. } = self;
        let Some(work) = works.get_mut(&source) else { return };
        let one = &work.owners[owner as usize];
        let (member, handle, epoch) = (one.member, one.handle, one.epoch);
        let record = *work.record(index);
        let (offset, size, append_ms) = (record.offset, u64::from(record.size_bytes), record.append_ms);
        let (suspect, waited) = (record.suspects != 0, record.attempts > 0);
        let until_ms = now.monotonic_ms + state.config.lease_ms;
        let ordered = state.config.max_in_flight_per_key > 1;
        let (lane, slot) = work.place(index);
        let known = state.partitions.get(&source);
        // Of several that are leased together the first one.
        let hole = known.is_some_and(|one| !one.holes.is_empty() && one.holes.contains_key(&lane));
        let hole = hole && work.is_head(index);
        if suspect && let Some(one) = members.get_mut(member) {
            one.suspects += 1;
        }
        let attempt = record.attempts + 1;
        let partition_epoch = record.epoch;
        work.lease(index, Lease { holder: handle, epoch, since_ms: now.monotonic_ms, until_ms });
        turn.records += 1;
        turn.bytes += size;
        turn.last_append_ms = append_ms;
        if !waited && !hole && !suspect && stands_in.is_none() {
            turn.begin(Part::First, ordered).push(Delivery { offset, attempt, more: None });
            turn.first_records += 1;
            return;
        }
        let known = known.and_then(|partition| partition.tried.get(&offset));
        let first_ms = known.map_or(now.wall_ms, |known| known.first_ms);
        let class = known.map(|known| known.class.clone()).unwrap_or_default();
        let more =
            DeliveryMore { first_delivery_ms: first_ms, last_class: class.clone(), gap_before: hole, entry: stands_in };
        let delivery = Delivery { offset, attempt, more: Some(Box::new(more)) };
        if !waited {
            let part = if suspect { Part::Suspects } else { Part::First };
            turn.begin(part, ordered).push(delivery);
            return;
        }
        turn.tries.push(Tried {
            offset,
            epoch: partition_epoch,
            attempts: attempt,
            due_ms: 0,
            delay_ms: 0,
            first_ms,
            lane,
            slot,
            class,
        });
        let last = state.config.retry_of(source.topic).is_last(attempt);
        let part = if last {
            Part::Alone
        } else if suspect {
            Part::Suspects
        } else {
            Part::Again
        };
        turn.begin(part, ordered).push(delivery);
    }

    /// Sends what was leased in a turn.
    fn send_turn(&mut self, mut turn: Turn, source: Source, owner: u32, now: Now, fx: &mut Effects) {
        if turn.records == 0 {
            return;
        }
        let Some(work) = self.work(source) else { return };
        let one = &work.owners[owner as usize];
        let (member, epoch) = (one.member, one.epoch);
        self.charge(member, turn.records, turn.bytes);
        if turn.first_records > 0 {
            let after_ms = u64::try_from(now.wall_ms - turn.last_append_ms).unwrap_or(0);
            fx.notices.push(Notice::FirstDelivered { records: turn.first_records, after_ms });
        }
        if !turn.tries.is_empty() {
            self.commit(GroupRecord::Tried { source, tries: std::mem::take(&mut turn.tries) }, fx);
        }
        turn.seal();
        for (records, after) in turn.sealed {
            self.send_records(member, source, epoch, records, after, fx);
        }
    }

    /// Sends records in one frame.
    pub(super) fn send_records(
        &self,
        member: MemberId,
        source: Source,
        epoch: AssignmentEpoch,
        records: Vec<Delivery>,
        after: After,
        fx: &mut Effects,
    ) {
        if !records.is_empty() {
            let replay = self.state.replay_mark(source);
            self.send(member, Frame::Deliver(Delivered { source, epoch, records, replay }), after, fx);
        }
    }

    /// Something may be ready for anybody.
    pub(super) fn wake_all(&mut self) {
        for work in self.works.values_mut() {
            if !work.touched {
                work.touched = true;
                self.touched.push(work.source);
            }
            (0..work.owners.len() as u32).for_each(|owner| work.wake(owner));
        }
        for member in self.members.all.keys().copied().collect::<Vec<_>>() {
            self.members.wake(member);
        }
    }

    /// Settings changed in the durable state.
    pub(super) fn config_changed(&mut self, now: Now) {
        let config = &self.state.config;
        self.breaker.set_policy(config.breaker.clone());
        let per_key = config.max_in_flight_per_key;
        for work in self.works.values_mut() {
            work.set_per_key(per_key, now.monotonic_ms);
        }
        let session_ms = config.session_timeout_ms;
        for one in self.members.all.values() {
            if !one.lapsed {
                self.deadlines.arm(Timer::Session(one.handle), one.last_seen_ms + session_ms);
            }
        }
        self.arm_breaker(now);
        self.wake_all();
    }
}

/// Whose bounds leave no room.
fn hindrance(own: Room, room: Room) -> Served {
    if room.bytes < own.bytes || room.alone != own.alone { Served::GroupFull } else { Served::Full }
}

impl Member {
    /// Whether it could be sent something.
    pub(super) fn has_room(&self) -> bool {
        self.attached && self.records_left > 0 && self.bytes_left > 0
    }
}

#[cfg(test)]
mod tests;
