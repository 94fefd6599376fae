//! Rules of delivery: FC-2, KO-9, RT-9, DL-8, OF-6; and a long run of chance.

use std::collections::BTreeMap;

use crate::group::effect::AckStatus;
use crate::group::event::{Admin, Credit, Event, NackKind, Verb};
use crate::group::record::GroupNotes;
use crate::group::test_support::{Rig, at, member, source};
use crate::group::{GroupConfig, Mode};
use crate::model::{Offset, Source};

fn log() -> Source {
    source(1, 0)
}

fn with(change: impl FnOnce(&mut GroupConfig)) -> Rig {
    let mut config = GroupConfig::new(Mode::Keyed, vec!["orders".to_owned()]);
    change(&mut config);
    Rig::with(config, 1)
}

#[test]
fn fc_2_no_more_than_the_credit_is_out_and_it_comes_back_with_each_settle() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 3);
    rig.append(log(), &(0..10).collect::<Vec<u64>>());
    assert_eq!(rig.offsets(1), [0, 1, 2]);
    rig.ack(1, log(), &[1]);
    assert_eq!(rig.offsets(1), [3]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    assert_eq!(rig.offsets(1), [4], "a nack gives it back too");
    rig.verb(1, Verb::Credit(Credit { records: 2, bytes: 0 }));
    assert_eq!(rig.offsets(1), [5, 6]);
}

#[test]
fn fc_2_a_record_larger_than_the_byte_credit_goes_alone_and_is_not_overtaken_for_ever() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.append(log(), &[1, 2]);
    let big = crate::group::event::RecordMeta { size_bytes: 5_000, ..rig.meta(log(), 3) };
    rig.logs.get_mut(&log()).expect("a log").push(big);
    rig.append(log(), &[4]);
    rig.event(Event::Join(Box::new(crate::group::event::Join {
        member: member(1),
        resume: None,
        instance: None,
        client_id: String::new(),
        client_version: String::new(),
        credit: Credit { records: 100, bytes: 1_000 },
        in_work: Vec::new(),
    })));
    assert_eq!(rig.offsets(1), [0, 1]);
    rig.ack(1, log(), &[0]);
    assert!(rig.offsets(1).is_empty(), "smaller ones do not pass it");
    rig.ack(1, log(), &[1]);
    assert_eq!(rig.offsets(1), [2], "alone");
    rig.ack(1, log(), &[2]);
    assert_eq!(rig.offsets(1), [3]);
}

#[test]
fn ko_2_a_record_waits_until_all_before_it_of_its_key_are_settled() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 100);
    rig.append(log(), &[1, 1, 2, 1]);
    assert_eq!(rig.offsets(1), [0, 2]);
    rig.ack(1, log(), &[2]);
    rig.nack(1, log(), &[0], NackKind::Retry);
    assert!(rig.offsets(1).is_empty(), "the key waits for its try, with all that is behind it");
    let mut tries = Vec::new();
    while tries.is_empty() {
        rig.pass_alive(500, &[1]);
        tries = rig.offsets(1);
    }
    assert_eq!(tries, [0]);
    for (done, next) in [(0, &[1][..]), (1, &[3]), (3, &[])] {
        rig.ack(1, log(), &[done]);
        assert_eq!(rig.offsets(1), next);
    }
}

#[test]
fn ko_9_lanes_take_turns_and_partitions_too() {
    let mut rig = Rig::new(Mode::Keyed, 2);
    rig.join(1, 2);
    rig.append(log(), &[1, 1, 1, 2, 2, 2]);
    rig.append(source(1, 1), &[5; 3]);
    let mut order = Vec::new();
    for _ in 0..20 {
        let held: Vec<(Source, Offset)> = rig.held[&member(1)].keys().copied().collect();
        for (source, offset) in held {
            order.push((source.partition.0, offset.get()));
            rig.ack(1, source, &[offset.get()]);
        }
    }
    assert_eq!(order.len(), 9);
    let place = |wanted| order.iter().position(|one| *one == wanted).expect("it was delivered");
    assert!(place((0, 3)) < place((0, 2)), "the second key comes before the third record of the first: {order:?}");
    assert!(place((1, 0)) < place((0, 2)), "{order:?}");
}

#[test]
fn rt_9_the_group_has_no_more_records_or_bytes_out_than_it_may() {
    let mut rig = with(|config| config.max_in_flight = 5);
    rig.join(1, 100);
    rig.join(2, 100);
    rig.append(log(), &(0..50).collect::<Vec<u64>>());
    assert_eq!(rig.leased(1) + rig.leased(2), 5);
    let mut done = 0;
    while done < 50 {
        for number in [1, 2] {
            let held: Vec<u64> =
                rig.held.get(&member(number)).into_iter().flatten().map(|((_, offset), _)| offset.get()).collect();
            for offset in held {
                assert_eq!(rig.ack(number, log(), &[offset]), [AckStatus::Ok]);
                done += 1;
                assert!(rig.leased(1) + rig.leased(2) <= 5);
            }
        }
    }
    assert_eq!(rig.floor(log()), 50);
    let mut rig = with(|config| config.max_bytes_in_flight = 350);
    rig.join(1, 100);
    rig.append(log(), &(0..50).collect::<Vec<u64>>());
    assert_eq!(rig.leased(1), 3);
}

#[test]
fn rt_9_deliveries_a_second_are_held_to_the_rate() {
    let mut rig = with(|config| config.rate_limit = 10);
    rig.join(1, 1_000);
    rig.append(log(), &(0..100).collect::<Vec<u64>>());
    let first = rig.offsets(1).len();
    assert_eq!(first, 1, "a tenth of a second's worth");
    rig.pass_alive(5_000, &[1]);
    let more = rig.offsets(1).len();
    assert!((49..=51).contains(&more), "{more}");
    let mut config = rig.machine.state().config.clone();
    config.rate_limit = 0;
    rig.event(Event::Admin(Admin::Configure { config: Box::new(config), notes: GroupNotes::default() }));
    assert_eq!(rig.offsets(1).len() + first + more, 100, "live-editable");
}

#[test]
fn of_6_a_pause_stops_deliveries_and_ends_by_itself() {
    let mut rig = Rig::new(Mode::Keyed, 1);
    rig.join(1, 100);
    rig.append(log(), &[1]);
    rig.taken(1);
    let until_ms = Some(rig.now.wall_ms + 5_000);
    rig.event(Event::Admin(Admin::Pause { topic: None, until_ms, act: crate::group::entry::Act::default() }));
    assert_eq!(rig.ack(1, log(), &[0]), [AckStatus::Ok], "what is out can be settled");
    rig.append(log(), &[2]);
    rig.pass_alive(4_900, &[1]);
    assert!(rig.offsets(1).is_empty());
    rig.pass_alive(200, &[1]);
    assert_eq!(rig.offsets(1), [1]);
}

/// A generator that repeats from a seed (splitmix64).
struct Chance(u64);

impl Chance {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (mixed ^ (mixed >> 31)) % bound
    }
}

/// Acks in order per key, and no record twice, whatever members do (rules AK-10, KO-2, KO-8). The harness checks after
/// each event that nothing that can be delivered waits.
#[test]
fn ak_10_and_ko_8_hold_for_members_that_come_go_fail_and_stall() {
    for seed in 0..40 {
        run(seed, if seed % 4 == 3 { Mode::Unordered } else { Mode::Keyed });
    }
}

fn run(seed: u64, mode: Mode) {
    let mut chance = Chance(seed);
    let mut config = GroupConfig::new(mode, vec!["orders".to_owned()]);
    config.max_in_flight_per_key = 1 + (seed % 3) as u32 * 3;
    config.retry.max_attempts = 1_000;
    config.breaker.enabled = false;
    let mut rig = Rig::with(config, 2);
    let mut keys: BTreeMap<(Source, Offset), u64> = BTreeMap::new();
    let mut acked: BTreeMap<(Source, u64), Offset> = BTreeMap::new();
    for _ in 0..400 {
        let number = 1 + chance.below(4) as u8;
        let log = source(1, chance.below(2) as u32);
        let held: Vec<u64> = rig
            .held
            .get(&member(number))
            .into_iter()
            .flatten()
            .filter(|((one, _), _)| *one == log)
            .map(|((_, offset), _)| offset.get())
            .collect();
        let there = rig.machine.state().members.contains_key(&member(number))
            && rig.machine.members.get(member(number)).is_some_and(|one| one.attached);
        match chance.below(12) {
            0 | 1 => {
                for _ in 0..chance.below(20) {
                    let key = chance.below(15);
                    keys.insert((log, rig.end(log)), key);
                    rig.append(log, &[key]);
                }
            }
            2 if !there => {
                let in_work = rig.in_work(number);
                let resume = chance.below(2) == 0;
                if !resume {
                    rig.held.remove(&member(number));
                }
                let credit = 1 + chance.below(30);
                rig.join_as(number, credit, None, resume.then_some(in_work));
            }
            3 if there && chance.below(4) == 0 => rig.verb(number, Verb::Leave),
            3 if there => {
                let epoch = rig.epochs[&member(number)];
                rig.event(Event::StreamEnded { member: member(number), epoch });
            }
            4 => rig.pass_alive(chance.below(4_000), &[1, 2, 3, 4]),
            5 => rig.pass(chance.below(12_000)),
            6 if there && !held.is_empty() => {
                drop(rig.nack(number, log, &[held[chance.below(held.len() as u64) as usize]], NackKind::Retry))
            }
            7 if there && !held.is_empty() => drop(rig.nack(number, log, &held, NackKind::Release)),
            8 if there => rig.started(number, log, &held),
            9 if there => rig.verb(number, Verb::Credit(Credit { records: chance.below(4), bytes: chance.below(500) })),
            _ if there => {
                let status = rig.ack(number, log, &held);
                for (offset, status) in held.iter().zip(status) {
                    if status != AckStatus::Ok {
                        continue;
                    }
                    let key = keys[&(log, at(*offset))];
                    let last = acked.insert((log, key), at(*offset));
                    if mode == Mode::Keyed {
                        assert!(
                            last.is_none_or(|last| last < at(*offset)),
                            "seed {seed}: key {key} acked {offset} after {last:?}"
                        );
                    }
                }
            }
            _ => {}
        }
    }
    finish(&mut rig, seed);
}

/// In the end one good member settles everything.
fn finish(rig: &mut Rig, seed: u64) {
    rig.held.clear();
    rig.pass(11_000);
    rig.join(9, 1_000);
    for _ in 0..400 {
        let held: Vec<(Source, Offset)> = rig.held.get(&member(9)).into_iter().flatten().map(|(key, _)| *key).collect();
        for (source, offset) in held {
            rig.ack(9, source, &[offset.get()]);
        }
        if (0..2).all(|partition| at(rig.floor(source(1, partition))) == rig.end(source(1, partition))) {
            return;
        }
        rig.pass_alive(20_000, &[9]);
    }
    panic!("seed {seed}: records are left unsettled");
}
