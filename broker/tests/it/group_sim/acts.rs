//! What happens: records are written and read, members say and hear things, dead letters move, operators call.

use sawlog_broker::group::effect::{AckStatus, Delivered, Frame};
use sawlog_broker::group::entry::{Act, EntryRecord, EntryState};
use sawlog_broker::group::event::{Credit, Event, Join, NackKind, Verb};
use sawlog_broker::group::record::{ErrorInfo, GapReason, GroupRecord};
use sawlog_broker::model::{KeySlot, LaneKey, MemberId, Offset, SlotRange, Source};

use super::Violation;
use super::client::{Asked, Held, Item, Pending, status_of, targets};
use super::log::{Copy, offset, range};
use super::world::World;

/// Keys of a partition.
const KEYS: u64 = 5;

pub(crate) fn act() -> Act {
    Act { actor: "someone".into(), time_ms: 1, note: "a note".into() }
}

impl World {
    /// Records are appended, and perhaps synced.
    pub(crate) fn produce(&mut self, source: Source, count: u64) -> Result<(), Violation> {
        let wall_ms = self.wall_ms();
        for _ in 0..count {
            let (uid, keyless, filtered) = (self.uid(), self.chance.one_in(10), self.chance.one_in(20));
            let filtered = filtered && self.machine.state().config.filter.key.is_some();
            let key = if keyless { 1_000_000 + uid } else { self.chance.below(KEYS) };
            let hash = u128::from(key + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835);
            let slot = KeySlot::new((hash >> 64) as u32 % 4_096).unwrap();
            self.logs.get_mut(&source).unwrap().append(uid, LaneKey(hash), slot, filtered, wall_ms);
        }
        let log = self.logs.get_mut(&source).unwrap();
        log.synced = log.end();
        if log.written_floor {
            log.synced -= self.chance.below(count + 1);
        }
        self.told_end(source)
    }

    /// One range that was asked for is read.
    pub(crate) fn answer_fetch(&mut self, source: Source) -> Result<(), Violation> {
        let Some(fetch) = self.fetches.get(&source).copied() else { return Ok(()) };
        let (from, log) = (fetch.from.get(), &self.logs[&source]);
        if from < log.start {
            let (reason, range) = (GapReason::Retention, range(from, log.start));
            self.fetches.remove(&source);
            return self.handle(Event::Gap { source, range, reason });
        }
        if from >= log.high_watermark() {
            return Ok(());
        }
        let count = if self.calm { 50 } else { self.chance.within(1, 12) };
        let fetched = log.fetch(from, count, fetch.look);
        self.fetches.remove(&source);
        self.handle(Event::Fetched(Box::new(fetched)))?;
        self.pump()
    }

    /// The first of what is to be copied is appended to the dead-letter partition (rule DL-4).
    pub(crate) fn mover(&mut self, source: Source) -> Result<(), Violation> {
        while let Some((source, copy)) = self.late.pop_front() {
            self.dlqs.get_mut(&source).unwrap().append(copy);
        }
        let durable = self.groups.durable;
        let ready = |after: usize| after <= durable || self.sabotage.copy_before_intent;
        let Some(first) = self.moves.get(&source).and_then(|moves| moves.front()).filter(|one| ready(one.after)) else {
            return Ok(());
        };
        let number = first.number;
        self.moves.get_mut(&source).unwrap().pop_front();
        let Some(intent) = self.machine.state().partitions[&source].intents.get(&number).cloned() else {
            return Ok(());
        };
        let dlq = self.dlqs.get_mut(&source).unwrap();
        if let Some(found) = dlq.find(intent.dlq_end, intent.key, intent.cycle) {
            self.copied.push_back((source, number, found));
            return Ok(());
        }
        let record = self.logs[&source].ever(intent.key.offset.get()).filter(|one| one.meta.epoch == intent.key.epoch);
        let Some(record) = record else {
            return self.handle(Event::Copied { source, number, copy: None });
        };
        let again = self.ledger.sources[&source].reset;
        let copy = Copy { key: intent.key, uid: record.uid, lane: intent.lane, cycle: intent.cycle, version: 0, again };
        if self.sabotage.settle_before_copy {
            let place = offset(dlq.copies.len() as u64 + self.late.len() as u64);
            self.late.push_back((source, copy));
            return self.handle(Event::Copied { source, number, copy: Some(place) });
        }
        self.check_copy(source, &copy)?;
        let place = self.dlqs.get_mut(&source).unwrap().append(copy);
        self.note(|| format!("copy of {} appended at {place}", copy.key.offset));
        self.copied.push_back((source, number, place));
        Ok(())
    }

    /// DL-4: a copy stands on a durable intent, and there is one for each cycle. DL-9: per key they are in source order.
    fn check_copy(&self, source: Source, copy: &Copy) -> Result<(), Violation> {
        let intended = self.groups.records[..self.groups.durable].iter().any(|record| match record {
            GroupRecord::Intended { intent, .. } => (intent.key, intent.cycle) == (copy.key, copy.cycle),
            _ => false,
        });
        let at = copy.key.offset;
        if !intended {
            return Err(format!("DL-4: a copy of {at} was appended without a durable intent"));
        }
        let dlq = &self.dlqs[&source];
        let of_record = dlq.copies.iter().filter(|other| other.version == 0 && other.key == copy.key);
        if of_record.clone().any(|other| other.cycle == copy.cycle) {
            return Err(format!("DL-4: two copies of {at} in cycle {}", copy.cycle));
        }
        let keyed = self.machine.state().config.mode == sawlog_broker::group::Mode::Keyed;
        let later =
            dlq.copies.iter().find(|other| other.lane == copy.lane && other.key > copy.key && other.version == 0);
        match later.filter(|_| keyed && !copy.again) {
            Some(later) => Err(format!("DL-9: {at} was appended behind {} of its key", later.key.offset)),
            None => Ok(()),
        }
    }

    /// The dead-letter partitions are synced: what was copied is durable.
    pub(crate) fn sync_dlqs(&mut self) -> Result<(), Violation> {
        for dlq in self.dlqs.values_mut() {
            dlq.synced = dlq.copies.len();
        }
        while let Some((source, number, place)) = self.copied.pop_front() {
            self.handle(Event::Copied { source, number, copy: Some(place) })?;
        }
        if self.chance.one_in(2) {
            for source in self.sources() {
                let end = offset(self.dlqs[&source].copies.len() as u64);
                self.handle(Event::DlqEnd { source, end })?;
            }
        }
        self.pump()
    }

    pub(crate) fn sources(&self) -> Vec<Source> {
        self.logs.keys().copied().collect()
    }

    /// A client reads a frame.
    pub(crate) fn read_frame(&mut self, index: usize, frame: Frame) -> Result<(), Violation> {
        let client = &mut self.clients[index];
        match frame {
            Frame::Joined { epoch, resumed, lost, lost_entries } => {
                (client.session, client.joined) = (Some(epoch), true);
                if !resumed {
                    client.held.clear();
                    client.reading.clear();
                }
                lost.iter().for_each(|(source, run, _)| client.drop_runs(*source, &[*run]));
                lost_entries.iter().for_each(|(key, _)| client.drop_item(key.source, Item::Entry(*key)));
            }
            Frame::Assign { unit, epoch, start, .. } => {
                let next = start.get();
                let other = |slots: SlotRange| unit.slots.intersection(slots).is_empty();
                client.revoking.retain(|(source, slots)| *source != unit.source || other(*slots));
                client.reading.insert(unit.source, super::client::Reading { epoch, next, done: next });
            }
            Frame::Revoke { unit, lost: true } => {
                let slots = unit.slots;
                client
                    .held
                    .retain(|held| held.source != unit.source || !slots.contains(KeySlot::new(held.slot).unwrap()));
                client.reading.remove(&unit.source);
                client
                    .revoking
                    .retain(|(source, other)| *source != unit.source || slots.intersection(*other).is_empty());
            }
            Frame::Revoke { unit, lost: false } => client.revoking.push((unit.source, unit.slots)),
            Frame::Recall { source, runs, entries, .. } => {
                let named = |held: &Held| match held.item {
                    Item::Record(at) => held.source == source && runs.iter().any(|run| run.contains(offset(at))),
                    Item::Entry(key) => entries.contains(&key),
                };
                let (gone, kept) = client.held.drain(..).partition(|held| named(held) && !held.started);
                client.held = kept;
                let gone: Vec<Held> = gone;
                client.returns.extend(gone);
            }
            Frame::Deliver(delivered) => self.take(index, &delivered)?,
            Frame::DeliverRange { source, epoch, range, .. } => {
                if let Some(reading) = client.reading.get_mut(&source).filter(|reading| reading.epoch == epoch) {
                    reading.next = range.to.get();
                }
            }
            Frame::AckResults { request, results, entries, .. } => self.told(index, request, &results, &entries),
            Frame::CommitResult { source, result: Ok(next), .. } => {
                let best = self.judge.committed.entry(source).or_default();
                // A reset may have come before the answer was read.
                *best = (*best).max(next.get().min(self.ledger.sources[&source].lowest_unsettled()));
            }
            Frame::Ended(_) => client.forget(),
            _ => {}
        }
        Ok(())
    }

    /// Records reach a client. RT-6: the count of a second or later try is durable by then.
    fn take(&mut self, index: usize, all: &Delivered) -> Result<(), Violation> {
        let source = all.source;
        for one in &all.records {
            let entry = one.more.as_ref().and_then(|more| more.entry.as_ref());
            let log = &self.logs[&source];
            let (item, record) = match entry {
                None => (Item::Record(one.offset.get()), log.ever(one.offset.get())),
                Some(entry) => {
                    let at = entry.key.offset.get();
                    let same = |record: &&super::log::Written| record.meta.epoch == entry.key.epoch;
                    (Item::Entry(entry.key), log.ever(at).filter(same))
                }
            };
            let uid = record.map_or(u64::MAX - one.offset.get(), |record| record.uid);
            if one.attempt >= 2 && self.durable_attempts(source, item) < one.attempt {
                return Err(format!("RT-6: try {} of {item:?} went out, its count is not durable", one.attempt));
            }
            let entry = entry.and_then(|entry| self.machine.entries().get(&entry.key));
            let slot = match (&entry, record) {
                (Some(entry), _) => entry.slot.get(),
                (None, Some(record)) => record.meta.slot.get(),
                (None, None) => continue,
            };
            let held = Held { source, item, uid, slot, epoch: all.epoch, started: false };
            // A new delivery takes the place of an earlier one.
            self.clients[index].drop_item(source, item);
            self.clients[index].held.push(held);
        }
        Ok(())
    }

    /// The greatest count of tries that the durable journals know of an item.
    fn durable_attempts(&self, source: Source, item: Item) -> u32 {
        let groups = &self.groups.records[..self.groups.durable];
        let in_source = groups.iter().flat_map(|record| match record {
            GroupRecord::Tried { source: other, tries } if *other == source => &tries[..],
            _ => &[],
        });
        let of_record = in_source.filter(|tried| tried.offset.get() == item.offset()).map(|tried| tried.attempts);
        let entries = &self.entries.records[..self.entries.durable];
        let of_entry = entries.iter().filter_map(|record| match (record, item) {
            (
                EntryRecord::Tried { key, attempts, .. } | EntryRecord::Changed { key, attempts, .. },
                Item::Entry(own),
            ) if *key == own => Some(*attempts),
            (EntryRecord::Opened { key, entry }, Item::Entry(own)) if *key == own => Some(entry.attempts),
            _ => None,
        });
        of_record.chain(of_entry).max().unwrap_or(0)
    }

    fn told(
        &mut self,
        index: usize,
        request: u64,
        results: &[(sawlog_broker::model::OffsetRange, AckStatus)],
        entries: &[(sawlog_broker::group::entry::EntryKey, AckStatus)],
    ) {
        let Some(pending) = self.clients[index].pending.remove(&request) else { return };
        for held in &pending.items {
            let Some(status) = status_of(held.item, results, entries) else { continue };
            let cycle = match held.item {
                Item::Entry(key) => self.machine.entries().get(&key).map(|entry| entry.cycle),
                Item::Record(_) => None,
            };
            let settled = match held.item {
                // A strike that a reset has not forgotten before the answer was read.
                Item::Record(at) if pending.asked == Asked::Retry => {
                    self.machine.state().partitions[&held.source].tried.contains_key(&offset(at))
                }
                Item::Record(at) => self.ledger.sources[&held.source].is_settled(at),
                Item::Entry(key) => self.machine.entries().get(&key).is_some_and(|entry| entry.state.is_closed()),
            };
            self.judge.confirms(&pending, held, status, cycle, settled);
            if pending.asked == Asked::Extend && status != AckStatus::Ok {
                self.clients[index].drop_item(held.source, held.item);
            }
        }
    }

    /// A stream begins: to resume the session, or anew.
    pub(crate) fn join(&mut self, index: usize, resume: bool) -> Result<(), Violation> {
        if !resume {
            self.clients[index].forget();
        }
        let credit = Credit { records: if self.calm { 1_000 } else { self.chance.within(1, 20) }, bytes: 1 << 20 };
        let client = &mut self.clients[index];
        client.disconnect();
        client.connected = true;
        let (member, in_work) = (client.id, client.in_work());
        let join = Join {
            member,
            resume: client.session,
            instance: client.instance.clone(),
            client_id: "sim".into(),
            client_version: "1".into(),
            credit,
            in_work,
        };
        let held: Vec<_> = client.held.iter().map(|held| (held.source, held.item, held.epoch)).collect();
        let kept = |source, item, epoch| resume && held.contains(&(source, item, epoch));
        self.judge.leases.retain(|(source, item), one| one.member != member || kept(*source, *item, one.epoch));
        self.judge.heard.insert(member, self.time.true_ms);
        self.outcome = None;
        self.handle(Event::Join(Box::new(join)))?;
        if matches!(self.outcome, Some(Err(_))) {
            self.clients[index].forget();
        }
        self.pump()
    }

    pub(crate) fn drop_stream(&mut self, index: usize) -> Result<(), Violation> {
        let client = &mut self.clients[index];
        let (member, session) = (client.id, client.session);
        let epoch = client.outbox.iter().find_map(|one| match &one.frame {
            Frame::Joined { epoch, .. } => Some(*epoch),
            _ => None,
        });
        client.disconnect();
        match epoch.or(session) {
            Some(epoch) => self.handle(Event::StreamEnded { member, epoch }),
            None => Ok(()),
        }
    }

    /// A client says something of what it holds.
    pub(crate) fn client_acts(&mut self, index: usize) -> Result<(), Violation> {
        if !self.clients[index].connected {
            let resume = self.clients[index].session.is_some() && (self.calm || !self.chance.one_in(4));
            return self.join(index, resume);
        }
        if !self.clients[index].lives() {
            return Ok(());
        }
        if let Some(held) = self.clients[index].returns.pop() {
            return self.say(index, Asked::Release, vec![held]);
        }
        if let Some((source, slots)) = self.clients[index].revoking.first().copied()
            && (self.calm || self.chance.one_in(2))
        {
            return self.hand_over(index, source, slots);
        }
        if self.machine.state().config.mode == sawlog_broker::group::Mode::Offset {
            return self.offset_client_acts(index);
        }
        let Some(first) = self.chance.pick(&self.clients[index].held).copied() else {
            return if self.chance.one_in(3) {
                let credit = Credit { records: self.chance.within(0, 5), bytes: 1_000 };
                self.verb(index, Verb::Credit(credit))
            } else {
                self.verb(index, Verb::Ping)
            };
        };
        let like = |held: &&Held| (held.source, held.epoch) == (first.source, first.epoch);
        let mut items: Vec<Held> = self.clients[index].held.iter().filter(like).copied().collect();
        items.sort_by_key(|held| held.item);
        if !self.calm {
            let count = self.chance.within(1, items.len() as u64) as usize;
            items.truncate(count);
        }
        let poison = !self.calm && items.iter().any(|held| held.uid % 7 == 3);
        let asked = match (self.calm, poison) {
            (true, _) => Asked::Ack,
            (false, true) => {
                self.chance.weighted(&[(8, Asked::Retry), (1, Asked::Dead), (1, Asked::Ack), (1, Asked::Release)])
            }
            (false, false) => self.chance.weighted(&[
                (30, Asked::Ack),
                (4, Asked::Retry),
                (3, Asked::Release),
                (1, Asked::Dead),
                (1, Asked::Skip),
                (3, Asked::Extend),
            ]),
        };
        if self.chance.one_in(4) {
            let verb = Verb::Started { targets: targets(&items) };
            let started: Vec<Item> = items.iter().map(|held| held.item).collect();
            let held = self.clients[index].held.iter_mut();
            held.filter(|held| started.contains(&held.item)).for_each(|held| held.started = true);
            self.verb(index, verb)?;
        }
        if self.clients[index].lives() { self.say(index, asked, items) } else { Ok(()) }
    }

    pub(crate) fn say(&mut self, index: usize, asked: Asked, items: Vec<Held>) -> Result<(), Violation> {
        let member = self.clients[index].id;
        let leased = self.judge.asks(member, asked, &items);
        let client = &mut self.clients[index];
        let request = client.next_request;
        client.next_request += 1;
        if asked != Asked::Extend {
            items.iter().for_each(|held| client.drop_item(held.source, held.item));
        }
        let targets = targets(&items);
        client.pending.insert(request, Pending { asked, items, leased, asked_ms: self.time.true_ms });
        let nack = |kind, retry_after_ms| Verb::Nack {
            request,
            targets: targets.clone(),
            kind,
            retry_after_ms,
            whole_group: false,
            error: Some(ErrorInfo { class: "Broken".into(), message: "it is".into(), ..ErrorInfo::default() }),
            reason: "not wanted".into(),
        };
        let verb = match asked {
            Asked::Ack => Verb::Ack { request, targets, versions: Vec::new() },
            Asked::Extend => Verb::Extend { request, targets },
            Asked::Retry => nack(NackKind::Retry, None),
            Asked::Release => nack(NackKind::Release, None),
            Asked::Dead => nack(NackKind::Dead, None),
            Asked::Skip => nack(NackKind::Skip, None),
        };
        self.verb(index, verb)
    }

    /// A unit goes: what is held of it is released or acknowledged, then handed over.
    fn hand_over(&mut self, index: usize, source: Source, slots: SlotRange) -> Result<(), Violation> {
        let within = |held: &&Held| held.source == source && slots.contains(KeySlot::new(held.slot).unwrap());
        let of_unit = self.clients[index].held.iter().filter(within).copied();
        let mut items: Vec<Held> = of_unit.collect();
        items.sort_by_key(|held| (held.epoch, held.item));
        if let Some(epoch) = items.first().map(|held| held.epoch) {
            items.retain(|held| held.epoch == epoch);
            let asked = if self.calm || self.chance.one_in(2) { Asked::Ack } else { Asked::Release };
            return self.say(index, asked, items);
        }
        self.clients[index].revoking.remove(0);
        // What was on its way to it is not handled any more.
        let runs = self.machine.state().owners.get(&source).cloned().unwrap_or_default();
        self.judge.handed_over(self.clients[index].id, source, slots, &runs);
        self.clients[index].reading.remove(&source);
        self.verb(index, Verb::Revoked { source, slots })
    }

    /// Mode OFFSET: the client handles and commits.
    fn offset_client_acts(&mut self, index: usize) -> Result<(), Violation> {
        let readings: Vec<_> = self.clients[index].reading.iter().map(|(source, one)| (*source, *one)).collect();
        let Some((source, reading)) = self.chance.pick(&readings).copied() else { return self.verb(index, Verb::Ping) };
        let done = if self.calm { reading.next } else { self.chance.within(reading.done, reading.next) };
        let request = self.clients[index].next_request;
        self.clients[index].next_request += 1;
        if let Some(one) = self.clients[index].reading.get_mut(&source) {
            one.done = done;
        }
        if done == reading.done {
            let credit = Credit { records: 20, bytes: 10_000 };
            return self.verb(index, Verb::Credit(credit));
        }
        let (epoch, next, metadata) = (reading.epoch, offset(done), "mine".into());
        self.verb(index, Verb::Commit { request, source, epoch, next, record_epoch: None, metadata, force: false })
    }

    /// Mode OFFSET: what is sent belongs to the owner, is not committed yet, and marks what is not simply to be handled.
    pub(crate) fn judge_range(&self, member: MemberId, frame: &Frame) -> Result<(), Violation> {
        let Frame::DeliverRange { source, epoch, range, marks, filtered, .. } = frame else { return Ok(()) };
        let runs = self.machine.state().owners.get(source).map_or(&[][..], Vec::as_slice);
        if !runs.iter().any(|run| run.member == member && run.epoch == *epoch) {
            return Err(format!("GM-6: {range:?} went to {member} under epoch {epoch}, owners are {runs:?}"));
        }
        let committed = self.judge.committed.get(source).copied().unwrap_or(0);
        if range.from.get() < committed {
            return Err(format!("G1: {range:?} was sent, committed is {committed}"));
        }
        let log = &self.logs[source];
        if range.to.get() > log.high_watermark() {
            return Err(format!("FC-1: {range:?} reaches beyond the high watermark"));
        }
        for at in range.from.get()..range.to.get() {
            let Some(record) = log.get(at) else { continue };
            if filtered.contains(&offset(at)) != record.meta.filtered {
                return Err(format!("FC-7: whether offset {at} is left out is told wrong"));
            }
            let entry = self.ledger.entries.at(*source, offset(at), record.meta.epoch);
            let cleared = entry.as_ref().is_some_and(|(_, entry)| entry.state == EntryState::Cleared);
            let begins = self.ledger.lane_begins(*source, record.meta.lane).is_some_and(|begins| begins < at);
            let needs = (entry.is_some() && !cleared) || begins;
            if needs && !record.meta.filtered && !marks.iter().any(|mark| mark.offset.get() == at) {
                return Err(format!("DL-15: offset {at} was sent without its mark"));
            }
        }
        Ok(())
    }

    /// Retention takes the beginning of a log.
    pub(crate) fn trim(&mut self, source: Source) {
        let to = self.chance.within(self.logs[&source].start, self.logs[&source].high_watermark());
        self.note(|| format!("trimmed to {to}"));
        self.logs.get_mut(&source).unwrap().start = to;
    }

    /// Some offset of the log, for verbs of records that were never delivered.
    pub(crate) fn any_offset(&mut self, source: Source) -> Offset {
        offset(self.chance.below(self.logs[&source].end() + 3))
    }
}
