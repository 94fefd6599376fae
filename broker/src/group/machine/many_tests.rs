//! Many members in one group, of which some die at once: what it costs the others, in frames and assignments.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::group::effect::{AckStatus, Effects, Frame, Notice};
use crate::group::event::{Credit, Event, Join, Targets, Verb};
use crate::group::record::GroupRecord;
use crate::group::test_support::{Rig, at, one, source};
use crate::group::{GroupConfig, Mode};
use crate::model::{AssignmentEpoch, MemberEpoch, MemberId, Offset, Source};

const MEMBERS: u16 = 200;
const DYING: u16 = 20;
const PARTITIONS: u32 = 2;
/// Records of a partition, ten of each key.
const RECORDS: u64 = 5_000;

/// A group and what its members were told.
struct Many {
    rig: Rig,
    epochs: BTreeMap<MemberId, MemberEpoch>,
    /// What was delivered, in order.
    delivered: VecDeque<(MemberId, Source, AssignmentEpoch, Offset)>,
    received: BTreeSet<MemberId>,
    frames: u64,
    assignments: u64,
    lost: u64,
    settled: u64,
}

fn id(number: u16) -> MemberId {
    let mut id = [0; 16];
    id[..2].copy_from_slice(&number.to_be_bytes());
    MemberId(id)
}

impl Many {
    fn new() -> Self {
        let mut rig = Rig::with(GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]), PARTITIONS);
        rig.reading = false;
        let (delivered, received) = (VecDeque::new(), BTreeSet::new());
        let (frames, assignments, lost, settled) = (0, 0, 0, 0);
        Self { rig, epochs: BTreeMap::new(), delivered, received, frames, assignments, lost, settled }
    }

    fn event(&mut self, event: Event) {
        let effects = self.rig.machine.handle(event, self.rig.now);
        self.take(effects);
        while let Some(fetch) = self.rig.asked.values().copied().find(|fetch| self.rig.end(fetch.source) > fetch.from) {
            self.rig.asked.remove(&fetch.source);
            let fetched = self.rig.answer(&fetch);
            let effects = self.rig.machine.handle(Event::Fetched(Box::new(fetched)), self.rig.now);
            self.take(effects);
        }
    }

    fn take(&mut self, effects: Effects) {
        let assigned = |record: &&GroupRecord| matches!(record, GroupRecord::Assigned { .. });
        self.assignments += effects.records.iter().filter(assigned).count() as u64;
        let lost = |notice: &&Notice| matches!(notice, Notice::MemberLost(_));
        self.lost += effects.notices.iter().filter(lost).count() as u64;
        self.frames += effects.frames.len() as u64;
        self.rig.asked.extend(effects.fetches.into_iter().map(|fetch| (fetch.source, fetch)));
        for out in effects.frames {
            match out.frame {
                Frame::Joined { epoch, .. } => drop(self.epochs.insert(out.member, epoch)),
                Frame::Deliver(one) => {
                    self.received.insert(out.member);
                    let records = one.records.iter().map(|record| (out.member, one.source, one.epoch, record.offset));
                    self.delivered.extend(records);
                }
                Frame::AckResults { results, .. } => {
                    let ok = results.iter().filter(|(_, status)| *status == AckStatus::Ok);
                    self.settled += ok.map(|(run, _)| run.to.distance_from(run.from)).sum::<u64>();
                }
                _ => {}
            }
        }
    }

    fn say(&mut self, member: MemberId, verb: Verb) {
        let epoch = self.epochs[&member];
        self.event(Event::Member { member, epoch, verb });
    }
}

/// Members with records in work, some of which lose their streams and are then lost.
fn after_the_death() -> Many {
    let mut many = Many::new();
    for number in 0..MEMBERS {
        many.event(Event::Join(Box::new(Join {
            member: id(number),
            resume: None,
            instance: None,
            client_id: String::new(),
            client_version: String::new(),
            credit: Credit { records: 1_000, bytes: 1 << 30 },
            in_work: Vec::new(),
        })));
    }
    for partition in 0..PARTITIONS {
        let source = source(1, partition);
        for number in 0..RECORDS {
            let meta = many.rig.meta(source, number % (RECORDS / 10));
            many.rig.logs.entry(source).or_default().push(meta);
        }
        many.event(Event::HighWatermark { source, offset: at(RECORDS) });
    }
    for member in (0..DYING).map(id) {
        let epoch = many.epochs[&member];
        many.event(Event::StreamEnded { member, epoch });
    }
    many.rig.now.monotonic_ms += 9_000;
    (DYING..MEMBERS).for_each(|number| many.say(id(number), Verb::Ping));
    many.rig.now.monotonic_ms += 1_000;
    (many.frames, many.assignments) = (0, 0);
    many
}

#[test]
fn gm_4_members_that_die_together_are_one_assignment_that_moves_little_more_than_their_slots() {
    let mut many = after_the_death();
    let slots_of = |many: &Many, member: MemberId| -> u64 {
        let runs = many.rig.machine.state().owners.values().flatten();
        runs.filter(|run| run.member == member).map(|run| u64::from(run.slots.len())).sum()
    };
    let dead: u64 = (0..DYING).map(|number| slots_of(&many, id(number))).sum();
    let epoch = many.rig.machine.state().epoch;
    many.event(Event::Tick);
    assert_eq!((many.lost, many.assignments), (u64::from(DYING), 1));
    let runs = many.rig.machine.state().owners.values().flatten();
    let moved: u64 = runs.filter(|run| run.epoch.0 > epoch).map(|run| u64::from(run.slots.len())).sum();
    assert!((dead..=dead + dead / 10).contains(&moved), "{moved} slots moved, {dead} were free");
    let shares: Vec<u64> = (DYING..MEMBERS).map(|number| slots_of(&many, id(number))).collect();
    let (least, most) = (shares.iter().min().expect("some live"), shares.iter().max().expect("some live"));
    assert!(most - least <= 4, "shares of {least} to {most} slots");
}

#[test]
fn gm_12_after_many_deaths_all_records_settle_each_member_receives_and_frames_grow_with_records_alone() {
    let mut many = after_the_death();
    many.event(Event::Tick);
    while let Some((member, source, epoch, offset)) = many.delivered.pop_front() {
        if member < id(DYING) {
            continue;
        }
        let targets = Targets { source, epoch, runs: vec![one(offset.get())], entries: Vec::new() };
        many.say(member, Verb::Ack { request: 1, targets, versions: Vec::new() });
    }
    assert_eq!(many.settled, u64::from(PARTITIONS) * RECORDS);
    assert!((DYING..MEMBERS).all(|number| many.received.contains(&id(number))));
    assert_eq!((many.lost, many.assignments), (u64::from(DYING), 1), "nobody else was lost");
    // A delivery and an answer for each record; the rest is told of moves and ends, a few times to each member.
    let rest = many.frames.saturating_sub(2 * many.settled);
    assert!(rest < 40 * u64::from(MEMBERS), "{rest} frames beside {} records", many.settled);
}
