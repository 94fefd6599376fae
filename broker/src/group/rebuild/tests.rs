//! Rebuilds through a whole machine: of a group, and of its shadow (rules RP-6, RP-7).

mod sim;

use super::super::effect::Mark;
use super::super::entry::{DeadReason, EntryKind, EntryRecord, EntryTable};
use super::super::event::{Admin, Event, Verb};
use super::super::letters_support::{act, entry_key};
use super::super::test_support::{Rig, at, error, member, source};
use super::super::{GroupConfig, Mode, Positions};
use super::*;
use crate::model::{AssignmentEpoch, KeySlot, SlotRange};

fn s() -> Source {
    source(1, 0)
}

fn version(name: &str) -> VersionName {
    VersionName::parse(name).unwrap()
}

fn config() -> GroupConfig {
    GroupConfig::new(Mode::Offset, vec!["orders".to_owned()]).positions(Positions::Cursor)
}

fn rig() -> Rig {
    let mut rig = Rig::with(config(), 2);
    rig.join(1, 1_000);
    rig
}

/// A shadow with a member.
fn shadow() -> Rig {
    let config = GroupConfig { version: Some(version("v2")), shadow_of: Some(GroupId(3)), ..config() };
    let mut rig = Rig::with(config, 1);
    rig.join(1, 1_000);
    rig
}

fn call(rig: &mut Rig, call: RebuildCall) -> Result<(), Refusal> {
    rig.admin(Admin::Rebuild(Box::new(call)))
}

fn rebuild(number: u64, name: &str) -> Rebuild {
    Rebuild {
        number,
        version: version(name),
        replaces: None,
        shadow: GroupId(9),
        rate: ReplayRate::Unlimited,
        stage: RebuildStage::Filling,
        swaps: 0,
        problem: String::new(),
        act: act(),
        end: None,
    }
}

fn epoch(rig: &Rig, number: u8) -> AssignmentEpoch {
    rig.units[&member(number)].iter().find(|unit| unit.0 == s()).unwrap().2
}

fn report(rig: &mut Rig, number: u8, next: u64) {
    let (epoch, offset) = (epoch(rig, number), rig.end(s()));
    rig.event(Event::HighWatermark { source: s(), offset });
    rig.verb(number, Verb::Report { request: 3, source: s(), epoch, next: at(next), record_epoch: None });
}

fn revoked(rig: &mut Rig, number: u8, source: Source) {
    rig.verb(number, Verb::Revoked { source, slots: SlotRange::ALL });
}

fn marks(rig: &mut Rig, number: u8) -> Vec<Mark> {
    let told = rig.taken(number).into_iter().filter_map(|frame| match frame {
        Frame::DeliverRange { marks, .. } => Some(marks),
        _ => None,
    });
    told.flatten().collect()
}

/// An entry of the group, of the record that a key's `offset` is.
fn entry(rig: &Rig, key: u64, state: EntryState) -> Entry {
    Entry {
        lane: rig.lane(s(), key),
        slot: KeySlot::new(3).unwrap(),
        kind: EntryKind::Failed,
        state,
        job: Some(4),
        cycle: 0,
        copy: at(9),
        attempts: 1,
        due_ms: 0,
        delay_ms: 0,
        first_delivery_ms: 0,
        reason: DeadReason::ConsumerDeadNack,
        class: Some("E".into()),
        fingerprint: None,
        blocked_by: None,
        holds: true,
        size_bytes: 10,
        intent: 5,
        versions: Vec::new(),
        dead_ms: 50,
        act: act(),
        source_lost: false,
    }
}

/// What a shadow follows of a group that has these entries, and has come so far.
fn followed(shadow: &Rig, of_group: &[(EntryKey, Entry)], floor: u64) -> Followed {
    let mut group = rig();
    for _ in 0..floor {
        group.append(s(), &[9]);
    }
    report(&mut group, 1, floor);
    for (key, entry) in of_group {
        let opened = EntryRecord::Opened { key: *key, entry: Box::new(entry.clone()) };
        group.machine.entries.replay(&opened).unwrap();
    }
    group.machine.outcomes(&shadow.machine.open_entries())
}

#[test]
fn rp_6_one_rebuild_at_a_time_and_a_restart_knows_it() {
    let mut rig = rig();
    call(&mut rig, RebuildCall::Start(rebuild(1, "v2"))).unwrap();
    let (number, problem) = (1, String::new());
    call(&mut rig, RebuildCall::Stage { number, stage: RebuildStage::Draining, problem }).unwrap();
    let rig = rig.restart(10);
    let open = rig.machine.state().rebuilds.open().unwrap();
    assert_eq!((open.stage, open.swaps, rig.machine.state().rebuilds.next_number()), (RebuildStage::Draining, 1, 2));
    let mut other = rig.machine.state().clone();
    let second = GroupRecord::Rebuild(Box::new(RebuildRecord::Started(rebuild(2, "v3"))));
    assert!(other.replay(&second).is_err(), "one at a time");
}

#[test]
fn rp_3_the_rate_of_an_open_rebuild_changes_durably_and_of_no_other() {
    let mut rig = rig();
    let pace = |number| RebuildCall::Pace { number, rate: ReplayRate::Records(7) };
    assert!(matches!(call(&mut rig, pace(1)), Err(Refusal::Invalid { field: "rebuild", .. })), "there is none");
    call(&mut rig, RebuildCall::Start(rebuild(1, "v2"))).unwrap();
    assert!(call(&mut rig, pace(2)).is_err());
    call(&mut rig, pace(1)).unwrap();
    let mut rig = rig.restart(10);
    assert_eq!(rig.machine.state().rebuilds.open().unwrap().rate, ReplayRate::Records(7));
    call(&mut rig, RebuildCall::Abort { number: 1 }).unwrap();
    assert!(call(&mut rig, pace(1)).is_err(), "it has ended");
    assert_eq!(rig.machine.state().rebuilds.list[0].rate, ReplayRate::Records(7), "as it was to the end");
}

#[test]
fn rp_6_drained_units_are_handed_over_to_nobody_until_they_are_given_again() {
    let mut rig = rig();
    rig.append(s(), &[1, 2]);
    report(&mut rig, 1, 0);
    rig.taken(1);
    call(&mut rig, RebuildCall::Drain(true)).unwrap();
    let told = rig.taken(1);
    assert_eq!(told.iter().filter(|frame| matches!(frame, Frame::Revoke { lost: false, .. })).count(), 2);
    revoked(&mut rig, 1, s());
    assert_eq!(rig.machine.state().owners.values().flatten().count(), 1, "the other one is not let go yet");
    // Who comes meanwhile gets nothing; who does not let go is fenced in time.
    rig.join(2, 100);
    rig.pass_alive(31_000, &[1, 2]);
    assert_eq!(rig.machine.state().owners.values().flatten().count(), 0);
    let mut rig = rig.restart(10);
    rig.join(3, 100);
    rig.pass_alive(11_000, &[3]);
    assert_eq!(rig.machine.state().owners.values().flatten().count(), 0, "also behind a restart");
    call(&mut rig, RebuildCall::Drain(false)).unwrap();
    assert_eq!(rig.machine.state().owners.values().flatten().count(), 2);
}

#[test]
fn rp_7_what_a_shadow_meets_is_as_its_entry_says() {
    let mut rig = shadow();
    rig.append(s(), &[1, 2, 3, 1]);
    let states = [(0, 1, EntryState::Open), (1, 2, EntryState::Discarded), (2, 3, EntryState::Resolved { version: 1 })];
    let entries = states.map(|(offset, key, state)| {
        let versions = if matches!(state, EntryState::Resolved { .. }) { vec![at(77)] } else { Vec::new() };
        (entry_key(s(), offset), Entry { versions, cycle: 1, ..entry(&rig, key, state) })
    });
    call(&mut rig, RebuildCall::Adopt(entries.to_vec())).unwrap();
    report(&mut rig, 1, 0);
    let marks = marks(&mut rig, 1);
    let of = |offset| marks.iter().find(|mark| mark.offset == at(offset)).copied().unwrap();
    assert_eq!(of(0).state, Some(EntryState::Open), "parked here too");
    assert_eq!(of(1).state, Some(EntryState::Discarded));
    assert_eq!((of(2).state, of(2).copy), (Some(EntryState::Resolved { version: 1 }), Some(at(77))), "as it was acked");
    assert_eq!((of(3).state, of(3).entry), (None, entry_key(s(), 0)), "and its key");
    assert_eq!(rig.entry(s(), 0).job, None, "no job of the group has it here");
    // Met again, nothing changes.
    let again = vec![(entry_key(s(), 0), entry(&rig, 1, EntryState::Discarded))];
    call(&mut rig, RebuildCall::Adopt(again)).unwrap();
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Open));
}

#[test]
fn rp_7_a_resolved_record_waits_behind_one_of_its_key_that_is_open_here() {
    let mut rig = shadow();
    rig.append(s(), &[1, 1]);
    let first = vec![(entry_key(s(), 0), entry(&rig, 1, EntryState::Open))];
    call(&mut rig, RebuildCall::Adopt(first)).unwrap();
    let resolved = Entry { cycle: 1, ..entry(&rig, 1, EntryState::Resolved { version: 0 }) };
    call(&mut rig, RebuildCall::Adopt(vec![(entry_key(s(), 1), resolved.clone())])).unwrap();
    assert_eq!(rig.entry_state(s(), 1), Some(EntryState::Open), "order per key");
    report(&mut rig, 1, 0);
    report(&mut rig, 1, 2);
    rig.taken(1);
    // The group's first one is redriven: both follow, in order.
    let handled = [(entry_key(s(), 0), resolved.clone()), (entry_key(s(), 1), resolved)];
    let followed = followed(&rig, &handled, 2);
    call(&mut rig, RebuildCall::Follow(followed)).unwrap();
    assert!(rig.machine.is_following());
    assert_eq!(rig.both(1).1, [0]);
    rig.ack_entry(1, s(), &[0]);
    assert_eq!(rig.both(1).1, [1]);
    rig.ack_entry(1, s(), &[1]);
    assert_eq!(rig.entry_state(s(), 1), Some(EntryState::Resolved { version: 0 }));
    assert!(!rig.machine.is_following());
}

#[test]
fn rp_7_a_redrive_is_followed_once_with_its_edits_and_a_discard_closes() {
    let mut rig = shadow();
    rig.append(s(), &[1, 2]);
    let open = |rig: &Rig, key| entry(rig, key, EntryState::Open);
    let entries = vec![(entry_key(s(), 0), open(&rig, 1)), (entry_key(s(), 1), open(&rig, 2))];
    call(&mut rig, RebuildCall::Adopt(entries)).unwrap();
    let note = |rig: &Rig, offset, of_group: Entry| followed(rig, &[(entry_key(s(), offset), of_group)], 0);
    assert!(note(&rig, 0, Entry { job: None, ..open(&rig, 1) }).is_empty(), "nothing was done in the group");
    report(&mut rig, 1, 0);
    report(&mut rig, 1, 2);
    // It failed there again, edited; here it may be handled.
    let edited = Entry { cycle: 1, job: None, versions: vec![at(50)], ..open(&rig, 1) };
    let failed = note(&rig, 0, edited.clone());
    call(&mut rig, RebuildCall::Follow(failed)).unwrap();
    assert_eq!((rig.entry(s(), 0).versions, rig.both(1).1), (vec![at(50)], vec![0]));
    rig.nack_entry(1, s(), &[0], super::super::event::NackKind::Dead);
    assert_eq!((rig.entry(s(), 0).state, rig.entry(s(), 0).job), (EntryState::Open, None));
    assert!(note(&rig, 0, edited).is_empty(), "it failed here: not again before the group's next redrive");
    let discarded = entry(&rig, 2, EntryState::Discarded);
    let given_up = note(&rig, 1, discarded);
    call(&mut rig, RebuildCall::Follow(given_up)).unwrap();
    assert_eq!(rig.entry_state(s(), 1), Some(EntryState::Discarded));
}

#[test]
fn rp_7_a_redrive_is_followed_when_it_has_come_to_something_and_not_if_it_is_cancelled() {
    let mut rig = shadow();
    rig.append(s(), &[1]);
    // Under way when its record is met.
    let under_way = Entry { cycle: 1, attempts: 0, ..entry(&rig, 1, EntryState::Open) };
    call(&mut rig, RebuildCall::Adopt(vec![(entry_key(s(), 0), under_way.clone())])).unwrap();
    report(&mut rig, 1, 0);
    report(&mut rig, 1, 1);
    let of = |rig: &Rig, of_group: Entry| followed(rig, &[(entry_key(s(), 0), of_group)], 1);
    assert!(of(&rig, under_way.clone()).is_empty(), "it may be cancelled yet");
    let cancelled = Entry { job: None, ..under_way.clone() };
    assert!(of(&rig, cancelled.clone()).is_empty());
    // It failed, and was edited since: this version was not asked for.
    let failed = Entry { attempts: 1, ..cancelled };
    assert_eq!(of(&rig, failed.clone()).redriven.len(), 1);
    let mut group = EntryTable::default();
    let key = entry_key(s(), 0);
    group.replay(&EntryRecord::Opened { key, entry: Box::new(failed) }).unwrap();
    group.replay(&EntryRecord::Edited { key, copy: at(50), act: act() }).unwrap();
    assert!(of(&rig, group.get(&key).unwrap()).is_empty());
    let resolved = Entry { job: None, state: EntryState::Resolved { version: 0 }, ..under_way };
    let resolved = of(&rig, resolved);
    call(&mut rig, RebuildCall::Follow(resolved)).unwrap();
    assert_eq!(rig.both(1).1, [0]);
}

#[test]
fn rp_7_what_is_parked_in_the_shadow_alone_follows_what_its_group_has_handled() {
    let mut rig = shadow();
    rig.append(s(), &[1, 1]);
    let first = vec![(entry_key(s(), 0), entry(&rig, 1, EntryState::Open))];
    call(&mut rig, RebuildCall::Adopt(first)).unwrap();
    report(&mut rig, 1, 0);
    report(&mut rig, 1, 1);
    // The group has resolved the first one by now, and its key lives: the second never was a dead letter there.
    let (epoch, kind) = (epoch(&rig, 1), EntryKind::Parked);
    rig.verb(1, Verb::DeadLetter { request: 5, source: s(), epoch, offset: at(1), kind, error: None });
    rig.settle_moves();
    report(&mut rig, 1, 2);
    assert_eq!(rig.entry_state(s(), 1), Some(EntryState::Open));
    let open = Entry { job: None, ..entry(&rig, 1, EntryState::Open) };
    let first = |of_group: Entry| [(entry_key(s(), 0), of_group)];
    assert!(followed(&rig, &first(open.clone()), 1).is_empty());
    assert!(followed(&rig, &first(open), 2).is_empty(), "what is before it waits");
    let resolved = first(Entry { cycle: 1, ..entry(&rig, 1, EntryState::Resolved { version: 0 }) });
    assert_eq!(followed(&rig, &resolved, 1).redriven.len(), 1, "the group has not come to the second yet");
    let followed = followed(&rig, &resolved, 2);
    call(&mut rig, RebuildCall::Follow(followed)).unwrap();
    rig.taken(1);
    rig.ack_entry(1, s(), &[0]);
    rig.ack_entry(1, s(), &[1]);
    assert_eq!(rig.machine.open_entries().len(), 0);
}

#[test]
fn rp_7_what_was_given_up_while_the_shadow_took_its_groups_place_stays_given_up() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    let entries = vec![(entry_key(s(), 0), entry(&rig, 1, EntryState::Discarded))];
    call(&mut rig, RebuildCall::Merge { entries, passed: Vec::new() }).unwrap();
    let entries = vec![(entry_key(s(), 0), entry(&rig, 1, EntryState::Open))];
    call(&mut rig, RebuildCall::Merge { entries, passed: vec![(s(), at(1))] }).unwrap();
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Discarded));
}

#[test]
fn dl_15_a_resolved_record_behind_one_that_is_open_now_is_parked_and_keeps_its_edits() {
    let mut rig = shadow();
    rig.append(s(), &[1, 1]);
    let resolved = Entry { versions: vec![at(77)], cycle: 1, ..entry(&rig, 1, EntryState::Resolved { version: 1 }) };
    call(&mut rig, RebuildCall::Adopt(vec![(entry_key(s(), 1), resolved)])).unwrap();
    report(&mut rig, 1, 0);
    // The first one fails here, and did not in the group.
    rig.taken(1);
    let dead_letter = |rig: &mut Rig, offset, kind| {
        let (epoch, error) = (epoch(rig, 1), Some(error("E")));
        rig.verb(1, Verb::DeadLetter { request: 5, source: s(), epoch, offset: at(offset), kind, error });
        rig.settle_moves();
    };
    dead_letter(&mut rig, 0, EntryKind::Failed);
    report(&mut rig, 1, 0);
    rig.taken(1);
    rig.join_as(1, 1_000, None, Some(Vec::new()));
    report(&mut rig, 1, 1);
    let marks = marks(&mut rig, 1);
    assert_eq!((marks[0].offset, marks[0].state, marks[0].entry), (at(1), None, entry_key(s(), 0)), "{marks:?}");
    dead_letter(&mut rig, 1, EntryKind::Parked);
    let parked = rig.entry(s(), 1);
    assert_eq!((parked.state, parked.cycle, parked.versions), (EntryState::Open, 2, vec![at(77)]));
}

#[test]
fn rm_7_what_a_reader_has_applied_is_resolved_although_its_redrive_was_cancelled_meanwhile() {
    let mut rig = rig();
    rig.append(s(), &[1]);
    report(&mut rig, 1, 0);
    let epoch = epoch(&rig, 1);
    let (kind, error) = (EntryKind::Failed, Some(error("E")));
    rig.verb(1, Verb::DeadLetter { request: 5, source: s(), epoch, offset: at(0), kind, error });
    rig.settle_moves();
    report(&mut rig, 1, 1);
    rig.redrive(4, s(), &[0]).unwrap();
    rig.admin(Admin::EndRedrive { job: 4, act: act() }).unwrap();
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Open));
    // It is in the model by now: its database has decided.
    let targets = rig.entry_targets(1, s(), &[0]);
    rig.verb(1, Verb::Ack { request: 6, targets, versions: vec![0] });
    assert_eq!(rig.entry_state(s(), 0), Some(EntryState::Resolved { version: 0 }));
}

#[test]
fn rp_7_entries_become_those_of_the_new_version_and_what_is_open_in_none_is_closed() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3, 4]);
    report(&mut rig, 1, 0);
    rig.taken(1);
    for offset in [0, 1, 3] {
        let epoch = epoch(&rig, 1);
        let (kind, error) = (EntryKind::Failed, Some(error("E")));
        rig.verb(1, Verb::DeadLetter { request: 5, source: s(), epoch, offset: at(offset), kind, error });
        rig.settle_moves();
    }
    // The shadow has resolved the first, handled the second, parked the third, and not come to the fourth.
    let entries = vec![
        (entry_key(s(), 0), entry(&rig, 1, EntryState::Resolved { version: 0 })),
        (entry_key(s(), 2), entry(&rig, 3, EntryState::Open)),
    ];
    call(&mut rig, RebuildCall::Merge { entries, passed: vec![(s(), at(3))] }).unwrap();
    let states: Vec<_> = (0..4).map(|offset| rig.entry_state(s(), offset).unwrap()).collect();
    let resolved = EntryState::Resolved { version: 0 };
    assert_eq!(states, [resolved, resolved, EntryState::Open, EntryState::Open]);
    let again = vec![(entry_key(s(), 2), entry(&rig, 3, EntryState::Open))];
    call(&mut rig, RebuildCall::Merge { entries: again, passed: vec![(s(), at(3))] }).unwrap();
    assert_eq!(rig.entry_state(s(), 1), Some(resolved), "done twice is done once");
}

#[test]
fn rp_6_a_group_takes_its_shadows_place_under_epochs_above_both() {
    let mut rig = rig();
    rig.append(s(), &[1, 2, 3]);
    report(&mut rig, 1, 3);
    call(&mut rig, RebuildCall::Start(rebuild(1, "v2"))).unwrap();
    call(&mut rig, RebuildCall::Drain(true)).unwrap();
    revoked(&mut rig, 1, s());
    revoked(&mut rig, 1, source(1, 1));
    rig.taken(1);
    let floor = Start { source: s(), offset: at(2), epoch: PartitionEpoch::ZERO };
    let places = vec![TakenPlace { floor, began: at(1), record_epoch: PartitionEpoch::ZERO }];
    let wrong = RebuildCall::TakePlace { number: 2, epoch: 40, places: places.clone() };
    assert!(matches!(call(&mut rig, wrong), Err(Refusal::Invalid { .. })));
    call(&mut rig, RebuildCall::TakePlace { number: 1, epoch: 40, places }).unwrap();
    let told = rig.taken(1);
    let retired = |frame: &Frame| matches!(frame, Frame::Ended(Refusal::Retired { active }) if active == "v2");
    assert!(told.iter().any(retired), "{told:?}");
    let rig_state = rig.machine.state();
    assert_eq!((rig_state.members.len(), rig_state.config.version.clone()), (0, Some(version("v2"))));
    assert!(rig_state.epoch > 40 && !rig_state.rebuilds.drained && rig_state.rebuilds.open().is_none());
    rig.join(2, 100);
    assert!(epoch(&rig, 2).0 > 41);
    assert_eq!((rig.floor(s()), rig.machine.state().partitions[&s()].start), (2, at(1)));
    let rig = rig.restart(10);
    assert_eq!(rig.machine.state().rebuilds.list[0].end.unwrap().0, RebuildEnd::Swapped);
}
