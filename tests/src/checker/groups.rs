//! Judges consumer groups from what their members saw, written down outside the broker.
//!
//! A member writes down each delivery when it comes, each acknowledgement before it is sent, and each answer when it
//! comes. At the end the dead-letter topic is read whole. [`check_group`] then proves, for a group of mode `KEYED` with
//! one record of a key in flight:
//!
//! - **no hole**: every record that was appended was acknowledged by a member, or stands in the dead letters;
//! - **settled is settled** (AK-10): nothing is delivered after the broker said `OK` for it;
//! - **order** (KO-2, KO-8): a record is delivered only when every earlier one of its key was acknowledged, and none
//!   is delivered of a key that is dead;
//! - **dead letters** (DL-4, DL-6): the first record of a key that must fail, and every later one of the key, stands
//!   there exactly once, the first as failed, the later ones as parked; no other record does;
//! - **attempts** (RT-6, G4): no attempt above the limit, and no more deliveries of a failing record
//!   than the limit and the kills explain;
//! - **no phantom**: nothing is delivered or dead that was not appended there.
//!
//! Times of different processes are compared, so they must come from one monotonic clock of the machine. It must not
//! know the broker: only histories. It is itself tested with forged ones.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use super::Place;

/// A record in the log, with what its members must do with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Where it stands.
    pub place: Place,
    /// Its key.
    pub key: u64,
    /// No member ever acknowledges it.
    pub poison: bool,
}

/// Something that a member saw or did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GroupEvent {
    /// When: microseconds of the machine's monotonic clock.
    pub time_us: u64,
    /// Which member; a member that was started anew is another.
    pub member: u32,
    /// What about.
    pub place: Place,
    /// What.
    pub what: GroupAct,
}

/// What a member saw or did with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GroupAct {
    /// It came.
    Delivered {
        /// Its key, as the delivery has it.
        key: u64,
        /// Which delivery the broker says it is, from 1.
        attempt: u32,
    },
    /// An acknowledgement is about to be sent.
    Acking,
    /// The broker said `OK`, or that it had been settled.
    Settled,
}

/// A dead letter as it was read from the dead-letter topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DeadSeen {
    /// The record that it stands for.
    pub place: Place,
    /// Its key.
    pub key: u64,
    /// It failed itself; else it is parked.
    pub failed: bool,
}

/// All that was seen of one group.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct GroupHistory {
    /// Every record of the topic, in any order.
    pub appended: Vec<Appended>,
    /// What members saw and did, in any order.
    pub events: Vec<GroupEvent>,
    /// The dead-letter topic.
    pub dead: Vec<DeadSeen>,
    /// Deliveries of a record that count at most.
    pub max_attempts: u32,
    /// Times that the broker was killed: each may lose one attempt of a record (rule RT-6).
    pub broker_kills: u32,
    /// Times that a member was killed: each may give back one attempt of a record (rules RT-5, PI-2).
    pub member_kills: u32,
}

/// A broken promise of a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupViolation {
    /// Nothing was delivered: nothing is proven.
    NothingDelivered,
    /// Neither acknowledged by a member nor among the dead letters.
    Hole {
        /// Which.
        place: Place,
        /// It was delivered at least once.
        delivered: bool,
    },
    /// Delivered after the broker had said that it is settled.
    DeliveredAfterSettle {
        /// Which.
        place: Place,
        /// To which member.
        member: u32,
    },
    /// Delivered while an earlier record of its key was not acknowledged, or its key was dead.
    Overtaken {
        /// Which.
        place: Place,
        /// The earlier record.
        earlier: Place,
    },
    /// Never appended there, or with another key.
    Phantom {
        /// Where.
        place: Place,
    },
    /// In the dead letters twice.
    DoubleDeadLetter {
        /// Which.
        place: Place,
    },
    /// In the dead letters though its key did not fail before or with it, or settled and dead at once.
    WrongDeadLetter {
        /// Which.
        place: Place,
        /// Why it should not be there, or not so.
        why: &'static str,
    },
    /// An attempt outside of its bounds.
    Attempts {
        /// Which.
        place: Place,
        /// The attempt, or the number of deliveries.
        found: u32,
        /// At most.
        max: u32,
    },
}

/// What a history that keeps all promises amounts to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct GroupTotals {
    /// Records of the topic.
    pub appended: u64,
    /// Deliveries.
    pub delivered: u64,
    /// Deliveries of records that had been delivered before and were not poison.
    pub again: u64,
    /// Records for which a member saw `OK`.
    pub settled: u64,
    /// Records whose acknowledgement had no answer, and that did not come again.
    pub unanswered: u64,
    /// Dead letters that failed.
    pub failed: u64,
    /// Dead letters that are parked.
    pub parked: u64,
}

/// What is known of one record.
#[derive(Debug, Default)]
struct Facts {
    deliveries: Vec<(u64, u32, u32)>,
    acking: Option<u64>,
    settled: Option<u64>,
    dead: Option<bool>,
}

/// Judges a history.
///
/// # Errors
/// Every broken promise.
pub fn check_group(history: &GroupHistory) -> Result<GroupTotals, Vec<GroupViolation>> {
    let mut judge = Judge::new(history);
    judge.note_events();
    judge.note_dead();
    let keys = judge.keys();
    keys.values().for_each(|records| judge.check_key(records));
    if judge.totals.delivered == 0 {
        judge.found.push(GroupViolation::NothingDelivered);
    }
    if judge.found.is_empty() { Ok(judge.totals) } else { Err(judge.found) }
}

struct Judge<'a> {
    history: &'a GroupHistory,
    records: HashMap<Place, Appended>,
    facts: HashMap<Place, Facts>,
    found: Vec<GroupViolation>,
    totals: GroupTotals,
}

impl<'a> Judge<'a> {
    fn new(history: &'a GroupHistory) -> Self {
        let records: HashMap<_, _> = history.appended.iter().map(|record| (record.place, *record)).collect();
        let totals = GroupTotals { appended: records.len() as u64, ..GroupTotals::default() };
        Self { history, records, facts: HashMap::new(), found: Vec::new(), totals }
    }

    fn note_events(&mut self) {
        for event in &self.history.events {
            let known = self.records.get(&event.place);
            let key_differs =
                matches!(event.what, GroupAct::Delivered { key, .. } if known.is_some_and(|record| record.key != key));
            if known.is_none() || key_differs {
                self.found.push(GroupViolation::Phantom { place: event.place });
                continue;
            }
            let facts = self.facts.entry(event.place).or_default();
            let earliest =
                |time: &mut Option<u64>| *time = Some(time.map_or(event.time_us, |at| at.min(event.time_us)));
            match event.what {
                GroupAct::Delivered { attempt, .. } => {
                    facts.deliveries.push((event.time_us, attempt, event.member));
                    self.totals.delivered += 1;
                }
                GroupAct::Acking => earliest(&mut facts.acking),
                GroupAct::Settled => earliest(&mut facts.settled),
            }
        }
        self.facts.values_mut().for_each(|facts| facts.deliveries.sort_unstable());
    }

    fn note_dead(&mut self) {
        for dead in &self.history.dead {
            if self.records.get(&dead.place).is_none_or(|record| record.key != dead.key) {
                self.found.push(GroupViolation::Phantom { place: dead.place });
                continue;
            }
            let facts = self.facts.entry(dead.place).or_default();
            if facts.dead.replace(dead.failed).is_some() {
                self.found.push(GroupViolation::DoubleDeadLetter { place: dead.place });
            }
            *if dead.failed { &mut self.totals.failed } else { &mut self.totals.parked } += 1;
        }
    }

    /// Records by partition and key, in order of offset.
    fn keys(&self) -> BTreeMap<(u32, u64), Vec<Appended>> {
        let mut keys: BTreeMap<(u32, u64), BTreeSet<Place>> = BTreeMap::new();
        for record in self.records.values() {
            keys.entry((record.place.partition, record.key)).or_default().insert(record.place);
        }
        let in_order = |places: BTreeSet<Place>| {
            let mut records: Vec<_> = places.into_iter().map(|place| self.records[&place]).collect();
            records.sort_by_key(|record| record.place.offset);
            records
        };
        keys.into_iter().map(|(key, places)| (key, in_order(places))).collect()
    }

    fn check_key(&mut self, records: &[Appended]) {
        let mut dead_head: Option<Place> = None;
        let mut before: Option<(Place, u64)> = None;
        for record in records {
            let facts = self.facts.remove(&record.place).unwrap_or_default();
            self.check_attempts(record, &facts);
            self.check_settled(record, &facts);
            let first = facts.deliveries.first().map(|(time, ..)| *time);
            match (dead_head, before) {
                (Some(head), _) if first.is_some() => {
                    self.found.push(GroupViolation::Overtaken { place: record.place, earlier: head });
                }
                (None, Some((earlier, acking))) if first.is_some_and(|first| first < acking) => {
                    self.found.push(GroupViolation::Overtaken { place: record.place, earlier });
                }
                _ => {}
            }
            self.check_dead(record, &facts, dead_head.is_some());
            if record.poison && dead_head.is_none() {
                dead_head = Some(record.place);
            }
            before = Some((record.place, facts.acking.unwrap_or(u64::MAX)));
        }
    }

    fn check_settled(&mut self, record: &Appended, facts: &Facts) {
        if let Some(settled) = facts.settled {
            self.totals.settled += 1;
            for (time, _, member) in &facts.deliveries {
                if *time > settled {
                    self.found.push(GroupViolation::DeliveredAfterSettle { place: record.place, member: *member });
                }
            }
        } else if facts.acking.is_some() {
            self.totals.unanswered += 1;
        }
        if facts.acking.is_none() && facts.dead.is_none() {
            let delivered = !facts.deliveries.is_empty();
            self.found.push(GroupViolation::Hole { place: record.place, delivered });
        }
    }

    fn check_attempts(&mut self, record: &Appended, facts: &Facts) {
        let max = self.history.max_attempts;
        let place = record.place;
        if let Some((_, attempt, _)) = facts.deliveries.iter().find(|(_, attempt, _)| *attempt > max || *attempt == 0) {
            self.found.push(GroupViolation::Attempts { place, found: *attempt, max });
        }
        if record.poison {
            // Each delivery counts, but for one lost to each crash of the broker (rule RT-6), and for one given back by
            // each member that died before it had begun with it (rules RT-5, PI-2).
            let found = u32::try_from(facts.deliveries.len()).unwrap_or(u32::MAX);
            let bound = max.saturating_add(self.history.broker_kills).saturating_add(self.history.member_kills);
            if found > bound {
                self.found.push(GroupViolation::Attempts { place, found, max: bound });
            }
        } else {
            self.totals.again += facts.deliveries.len().saturating_sub(1) as u64;
        }
    }

    fn check_dead(&mut self, record: &Appended, facts: &Facts, behind: bool) {
        let place = record.place;
        let wrong = |why| GroupViolation::WrongDeadLetter { place, why };
        match (facts.dead, record.poison || behind) {
            (Some(_), false) => self.found.push(wrong("neither it nor an earlier record of its key fails")),
            (None, true) if facts.acking.is_some() => {
                self.found.push(wrong("it was acknowledged though its key is dead"))
            }
            (Some(true), true) if behind => self.found.push(wrong("it is told as failed, but waits behind another")),
            (Some(false), true) if !behind => self.found.push(wrong("it is told as parked, but failed itself")),
            (Some(_), true) if facts.settled.is_some() => self.found.push(wrong("it was settled by a member too")),
            // That it is missing is told as a hole.
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
