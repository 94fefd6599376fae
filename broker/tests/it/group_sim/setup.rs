//! A group, its partitions and its members, drawn from the seed.

use std::collections::{BTreeMap, VecDeque};

use sawlog_broker::group::Now;
use sawlog_broker::group::config::{GroupConfig, GroupTopic, Mode, OnGap};
use sawlog_broker::group::entry::EntryTable;
use sawlog_broker::group::event::Event;
use sawlog_broker::group::machine::Machine;
use sawlog_broker::group::record::{GroupNotes, GroupRecord, Start};
use sawlog_broker::group::retry::{AfterDead, Backoff, OnExhausted};
use sawlog_broker::group::state::GroupState;
use sawlog_broker::model::{GroupName, Offset, PartitionId, Source, TopicUuid};

use super::chance::Chance;
use super::client::Client;
use super::judge::Judge;
use super::ledger::Ledger;
use super::log::{SimDlq, SimLog};
use super::world::{GROUP, Journal, Time, World};
use super::{Sabotage, Violation};

const TOPIC: TopicUuid = TopicUuid([9; 16]);

/// Settings with small bounds, so that little is needed to reach them.
fn config(chance: &mut Chance, mode: Mode) -> GroupConfig {
    let mut config = GroupConfig::new(mode, vec!["orders".into()]);
    config.lease_ms = if chance.one_in(2) { 5_000 } else { 30_000 };
    config.max_processing_ms = 60_000;
    config.static_timeout_ms = 20_000;
    config.drain_timeout_ms = 5_000;
    config.max_in_flight_per_key = *chance.pick(&[1, 1, 1, 2, 4]).unwrap();
    if chance.one_in(2) {
        // Which records it leaves out is said by the reader.
        config.filter.key = Some("some".into());
    }
    config.breaker.enabled = chance.one_in(5);
    config.breaker.min_failed_keys = 3;
    config.on_gap = if chance.one_in(2) { OnGap::Stop } else { OnGap::Continue };
    if chance.one_in(2) {
        config.max_held = chance.within(5, 20) as u32;
        config.max_lanes_blocked = chance.within(2, 5) as u32;
        config.max_scan_ahead_bytes = chance.within(1_000, 10_000);
    }
    change(&mut config, chance);
    config
}

/// Another retry policy.
pub(crate) fn change(config: &mut GroupConfig, chance: &mut Chance) {
    config.retry.max_attempts = chance.within(1, 4) as u32;
    config.retry.backoff = if chance.one_in(2) {
        Backoff::List { delays_ms: vec![200, 1_000, 4_000] }
    } else {
        Backoff::Exponential { base_ms: 200, factor_permille: 3_000, max_ms: 10_000 }
    };
    config.retry.non_retryable = if chance.one_in(6) { vec!["Broken".into()] } else { Vec::new() };
    config.retry.on_exhausted =
        chance.weighted(&[(6, OnExhausted::DeadLetter), (1, OnExhausted::Drop), (1, OnExhausted::Block)]);
    config.retry.after_dead = chance.weighted(&[(5, AfterDead::Park), (1, AfterDead::Continue)]);
}

impl World {
    /// A world of this seed. `mode` `None`: drawn too.
    pub(crate) fn new(seed: u64, mode: Option<Mode>, sabotage: Sabotage) -> Result<Self, Violation> {
        let mut chance = Chance::new(seed);
        let drawn = chance.weighted(&[(6, Mode::Keyed), (1, Mode::Unordered), (2, Mode::Offset)]);
        let mode = mode.unwrap_or(drawn);
        let partitions = chance.within(1, 3) as u32;
        let sources: Vec<Source> =
            (0..partitions).map(|number| Source { topic: TOPIC, partition: PartitionId(number) }).collect();
        let logs: BTreeMap<Source, SimLog> =
            sources.iter().map(|source| (*source, SimLog::new(*source, chance.one_in(3)))).collect();
        let config = config(&mut chance, mode);
        let created = GroupRecord::Created {
            name: GroupName::parse("sim").unwrap(),
            config: Box::new(config),
            notes: GroupNotes::default(),
            created_ms: 1,
            topics: Vec::new(),
            starts: Vec::new(),
        };
        let state = GroupState::create(GROUP, &created)?;
        let clients = (0..chance.within(1, 5)).map(|number| Client::new(number as u8 + 1, chance.one_in(5))).collect();
        let mut ledger = Ledger::default();
        ledger.group(&created, None)?;
        let time = Time { true_ms: 1_000, started_ms: 1_000, ..Time::default() };
        let mut world = Self {
            sabotage,
            time,
            dlqs: sources.iter().map(|source| (*source, SimDlq::default())).collect(),
            logs,
            machine: Machine::new(state, EntryTable::default(), Now::default()),
            groups: Journal { records: vec![created], durable: 1 },
            entries: Journal::default(),
            ledger,
            judge: Judge::default(),
            clients,
            moves: BTreeMap::new(),
            copied: VecDeque::new(),
            late: VecDeque::new(),
            opened: VecDeque::new(),
            fetches: BTreeMap::new(),
            deadline: None,
            outcome: None,
            next_uid: 0,
            next_job: 0,
            history: VecDeque::new(),
            lines: super::number("SAWLOG_SIM_HISTORY").unwrap_or(super::world::HISTORY) as usize,
            calm: false,
            events: 0,
            chance,
        };
        let now = world.now();
        let effects = world.machine.start(now);
        world.absorb(effects)?;
        let dlq = "orders.sim.dlq".into();
        let topic = GroupTopic { topic: TOPIC, name: "orders".into(), partitions, dlq, is_dlq: false };
        let epoch = world.logs[&sources[0]].epoch();
        let starts = sources.iter().map(|source| Start { source: *source, offset: Offset::ZERO, epoch }).collect();
        world.handle(Event::Topics { added: vec![topic], starts, removed: Vec::new() })?;
        // The topics of a group are durable before anybody joins.
        world.groups.durable = world.groups.records.len();
        for source in sources {
            world.told_end(source)?;
        }
        Ok(world)
    }
}
