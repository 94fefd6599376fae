//! The end of each history: nothing fails any more, and everything must come to its end (rule G2).

use std::collections::BTreeSet;

use sawlog_broker::group::event::{Admin, Credit, Verb};
use sawlog_broker::group::record::{PauseReason, SettledAs};
use sawlog_broker::model::Source;

use super::Violation;
use super::acts::act;
use super::world::World;

/// Rounds in which everything must be settled.
const ROUNDS: u64 = 150;

impl World {
    /// Members acknowledge everything, dead letters are redriven, until nothing is left. Then all is compared.
    pub(crate) fn come_to_rest(&mut self) -> Result<(), Violation> {
        self.calm = true;
        // The clock is set right: no due time of the journal lies further in the future than its delay.
        self.time.skew_ms = self.time.skew_ms.max(self.time.greatest_skew_ms);
        self.admin(Admin::SetBreaker { forced: Some(false), act: act() })?;
        for client in &mut self.clients {
            client.stalled = false;
        }
        for round in 0..ROUNDS {
            self.calm_round(round)?;
            if self.is_at_rest() {
                return self.check_end();
            }
        }
        Err(format!("G2: not everything is settled after {ROUNDS} calm rounds: {}", self.unrest()))
    }

    fn calm_round(&mut self, round: u64) -> Result<(), Violation> {
        if round.is_multiple_of(10) {
            self.lift_pauses()?;
        }
        for source in self.sources() {
            let log = self.logs.get_mut(&source).unwrap();
            log.synced = log.end();
            self.told_end(source)?;
            self.answer_fetch(source)?;
            for _ in 0..20 {
                self.mover(source)?;
            }
        }
        self.sync_group()?;
        self.sync_dlqs()?;
        self.sync_entries()?;
        self.sync_group()?;
        for index in 0..self.clients.len() {
            for _ in 0..8 {
                self.client_acts(index)?;
            }
            if self.clients[index].lives() && round.is_multiple_of(4) {
                self.verb(index, Verb::Credit(Credit { records: 20, bytes: 100_000 }))?;
            }
        }
        self.redrive()?;
        self.redrive_one()?;
        if round % 20 == 19 {
            self.unblock()?;
        }
        // What was just redriven goes out, and is done before its lease ends.
        self.sync_entries()?;
        self.sync_group()?;
        for index in 0..self.clients.len() {
            self.client_acts(index)?;
        }
        self.pass(if round < 30 { 500 } else { 5_000 })
    }

    fn lift_pauses(&mut self) -> Result<(), Violation> {
        self.admin(Admin::Resume { topic: None, act: act() })?;
        self.admin(Admin::AcceptGap { source: None, act: act() })?;
        let operator = self.machine.state().pauses.iter().find(|pause| pause.reason == PauseReason::Operator);
        match operator {
            Some(pause) => Err(format!("OF-6: {pause:?} did not end")),
            None => Ok(()),
        }
    }

    /// Lanes that wait for someone (policy `block`) are tried anew.
    fn unblock(&mut self) -> Result<(), Violation> {
        for source in self.sources() {
            let tried = self.machine.state().partitions[&source].tried.values();
            let lanes: BTreeSet<_> = tried.map(|tried| tried.lane).collect();
            let spilled =
                self.machine.entries().lanes().filter(|(other, ..)| *other == source).map(|(_, lane, _)| lane);
            let lanes: BTreeSet<_> = lanes.into_iter().chain(spilled).collect();
            for lane in lanes {
                self.forget_strikes(source);
                self.admin(Admin::Head { source, lane, skip: false, act: act() })?;
            }
        }
        Ok(())
    }

    fn is_at_rest(&self) -> bool {
        let settled = |source: &Source| self.ledger.sources[source].lowest_unsettled() >= self.logs[source].end();
        let moved = self.machine.state().partitions.values().all(|partition| partition.intents.is_empty());
        let open = self.machine.entries().iter().any(|(_, entry)| !entry.state.is_closed());
        let durable =
            self.groups.durable == self.groups.records.len() && self.entries.durable == self.entries.records.len();
        let heard = self.clients.iter().all(|client| client.outbox.is_empty() && client.pending.is_empty());
        // Who holds something says so, and is answered, whatever became of it meanwhile.
        let said = self.clients.iter().all(|client| {
            !client.lives() || (client.held.is_empty() && client.returns.is_empty() && client.revoking.is_empty())
        });
        self.logs.keys().all(settled) && moved && !open && durable && heard && said
    }

    fn unrest(&self) -> String {
        let mut text = String::new();
        for (source, log) in &self.logs {
            let floor = self.ledger.sources[source].lowest_unsettled();
            text += &format!("partition {}: floor {floor} of {}, start {}; ", source.partition, log.end(), log.start);
            text += &format!("intents {:?}; ", self.machine.state().partitions[source].intents.keys());
            let tried = self.machine.state().partitions[source].tried.values();
            let tried: Vec<_> = tried.map(|one| (one.offset.get(), one.attempts, one.due_ms)).collect();
            text += &format!("tried {tried:?} at {}; ", self.wall_ms());
            text += &format!("fetch {:?}; live {:?}; ", self.fetches.get(source), self.machine.partition_live(*source));
        }
        let open: Vec<_> = self.machine.entries().iter().filter(|(_, entry)| !entry.state.is_closed()).collect();
        text += &format!("pauses {:?}; open entries {open:?}; ", self.machine.state().pauses);
        for client in &self.clients {
            text += &format!("\n  client {client:?} {:?}", self.machine.member_live(client.id));
        }
        text += &format!("\n  owners {:?}", self.machine.state().owners);
        text
    }

    /// Everything is settled: by whom, and does each dead letter lie where it should?
    fn check_end(&mut self) -> Result<(), Violation> {
        self.check_replicas()?;
        for (source, dlq) in &self.dlqs {
            for copy in dlq.copies.iter().filter(|copy| copy.version == 0) {
                let Some(entry) = self.machine.entries().get(&copy.key) else {
                    return Err(format!("DL-4: there is a copy of {} and no entry", copy.key.offset));
                };
                if entry.cycle < copy.cycle {
                    return Err(format!("DL-4: the copy of {} is of a later cycle than its entry", copy.key.offset));
                }
            }
            let log = &self.logs[source];
            for (at, how) in &self.ledger.sources[source].settled {
                let Some(record) = log.ever(*at) else { continue };
                let copied = dlq.copies.iter().any(|copy| copy.uid == record.uid);
                if matches!(how, SettledAs::Dead | SettledAs::Parked) && !copied {
                    return Err(format!("G3: offset {at} was settled as {how:?}, there is no copy of it"));
                }
                if *how == SettledAs::Acked && !self.judge.handled.contains(&record.uid) {
                    return Err(format!("AK-10: offset {at} was settled as acked, nobody acknowledged it"));
                }
            }
        }
        for (key, entry) in self.machine.entries().iter() {
            let copy = self.dlqs[&key.source].copies.get(entry.copy.get() as usize);
            if copy.is_none_or(|copy| copy.key != key) {
                return Err(format!("DL-4: the copy of entry {} is not where its entry says", key.offset));
            }
        }
        Ok(())
    }
}
