//! More of the harness: the mover of dead letters, entries that members have, calls of operators.

use super::effect::{AckStatus, Delivery, Frame, Refusal};
use super::entry::{Act, Entry, EntryKey, EntryState, LaneState};
use super::event::{Admin, Event, NackKind, Targets, Verb};
use super::record::Start;
use super::test_support::{Rig, at, error, member};
use crate::model::{LaneKey, Offset, PartitionEpoch, Source};

/// Key of the entry of a record.
pub(super) fn entry_key(source: Source, offset: u64) -> EntryKey {
    EntryKey { source, offset: at(offset), epoch: PartitionEpoch::ZERO }
}

/// An operator's act.
pub(super) fn act() -> Act {
    Act { actor: "ops".into(), time_ms: 1, note: "because".into() }
}

/// A floor.
pub(super) fn floor(source: Source, offset: u64) -> Start {
    Start { source, offset: at(offset), epoch: PartitionEpoch::ZERO }
}

impl Rig {
    /// The mover: copies become durable in order of intents, entries too, until nothing is on its way.
    pub(super) fn settle_moves(&mut self) {
        while !self.moves.is_empty() || !self.opened.is_empty() {
            self.copy_moves();
            self.open_moves();
        }
    }

    /// Copies become durable; their entries are not yet.
    pub(super) fn copy_moves(&mut self) {
        for (source, number) in std::mem::take(&mut self.moves) {
            let copy = Some(at(1_000 + number));
            self.event(Event::Copied { source, number, copy });
        }
    }

    /// Entries become durable.
    pub(super) fn open_moves(&mut self) {
        for (source, number) in std::mem::take(&mut self.opened) {
            self.event(Event::EntryDurable { source, number });
        }
    }

    /// Calls of operators.
    pub(super) fn admin(&mut self, admin: Admin) -> Result<(), Refusal> {
        self.event(Event::Admin(admin));
        self.outcome.take().expect("every call is answered")
    }

    /// An entry.
    pub(super) fn entry(&self, source: Source, offset: u64) -> Entry {
        self.machine.entries().get(&entry_key(source, offset)).expect("there is an entry")
    }

    /// State of an entry, if there is one.
    pub(super) fn entry_state(&self, source: Source, offset: u64) -> Option<EntryState> {
        self.machine.entries().state_of(&entry_key(source, offset))
    }

    /// Lane of a key.
    pub(super) fn lane(&self, source: Source, key: u64) -> LaneKey {
        self.meta(source, key).lane
    }

    /// What a key's lane is.
    pub(super) fn lane_state(&self, source: Source, key: u64) -> LaneState {
        self.machine.lane_now(source, self.lane(source, key))
    }

    /// Nacks a record so that it dies at once.
    pub(super) fn kill_record(&mut self, number: u8, source: Source, offset: u64) {
        self.nack(number, source, &[offset], NackKind::Dead);
    }

    /// Nacks a record so that it dies, and moves what follows from that.
    pub(super) fn bury(&mut self, number: u8, source: Source, offset: u64) {
        self.kill_record(number, source, offset);
        self.settle_moves();
    }

    /// All deliveries since frames were taken last.
    pub(super) fn deliveries(&mut self, number: u8) -> Vec<Delivery> {
        let frames = self.taken(number).into_iter();
        frames
            .filter_map(|frame| match frame {
                Frame::Deliver(delivered) => Some(delivered.records),
                _ => None,
            })
            .flatten()
            .collect()
    }

    /// Offsets of deliveries from the source and of deliveries from entries, in order.
    pub(super) fn both(&mut self, number: u8) -> (Vec<u64>, Vec<u64>) {
        let (entries, source): (Vec<Delivery>, Vec<Delivery>) = self
            .deliveries(number)
            .into_iter()
            .partition(|delivery| delivery.more.as_ref().is_some_and(|more| more.entry.is_some()));
        let offsets = |list: Vec<Delivery>| list.into_iter().map(|delivery| delivery.offset.get()).collect();
        (offsets(source), offsets(entries))
    }

    /// What a verb about entries names: under the epoch of the member's first unit of the partition.
    pub(super) fn entry_targets(&self, number: u8, source: Source, offsets: &[u64]) -> Targets {
        let units = self.units.get(&member(number)).into_iter().flatten();
        let epoch = units.filter(|unit| unit.0 == source).map(|unit| unit.2).next().unwrap_or_default();
        let entries = offsets.iter().map(|offset| entry_key(source, *offset)).collect();
        Targets { source, epoch, runs: Vec::new(), entries }
    }

    /// Acks entries; the statuses in order.
    pub(super) fn ack_entry(&mut self, number: u8, source: Source, offsets: &[u64]) -> Vec<AckStatus> {
        let targets = self.entry_targets(number, source, offsets);
        self.verb(number, Verb::Ack { request: 77_000, targets, versions: Vec::new() });
        self.entry_results(number)
    }

    /// Nacks entries; the statuses in order.
    pub(super) fn nack_entry(&mut self, number: u8, source: Source, offsets: &[u64], kind: NackKind) -> Vec<AckStatus> {
        let targets = self.entry_targets(number, source, offsets);
        self.verb(
            number,
            Verb::Nack {
                request: 77_000,
                targets,
                kind,
                retry_after_ms: None,
                whole_group: false,
                error: Some(error("E")),
                reason: "seen".into(),
            },
        );
        self.entry_results(number)
    }

    fn entry_results(&mut self, number: u8) -> Vec<AckStatus> {
        let frames = self.frames.entry(member(number)).or_default();
        let found = frames.iter().position(|(frame, _)| matches!(frame, Frame::AckResults { request: 77_000, .. }));
        match found.and_then(|at| frames.remove(at)) {
            Some((Frame::AckResults { entries, .. }, _)) => entries.into_iter().map(|(_, status)| status).collect(),
            _ => Vec::new(),
        }
    }

    /// Gives lanes to a job from their heads.
    pub(super) fn redrive(&mut self, job: u64, source: Source, offsets: &[u64]) -> Result<(), Refusal> {
        let entries = offsets.iter().map(|offset| entry_key(source, *offset)).collect();
        self.admin(Admin::KeepJob { job, state: Some("running".into()) })?;
        self.admin(Admin::Redrive { job, entries, act: act() })
    }

    /// Closes entries.
    pub(super) fn close(&mut self, source: Source, offsets: &[u64], state: EntryState) -> Result<(), Refusal> {
        let entries = offsets.iter().map(|offset| entry_key(source, *offset)).collect();
        self.admin(Admin::CloseEntries { entries, state, act: act() })
    }

    /// Resets the positions.
    pub(super) fn reset(&mut self, source: Source, offset: u64, clear: bool) {
        let floors = vec![floor(source, offset)];
        self.admin(Admin::Reset { floors, clear, act: act() }).expect("a reset within the log");
    }

    /// Whether an offset is settled.
    pub(super) fn is_settled(&self, source: Source, offset: u64) -> bool {
        self.machine.state().partitions[&source].settled.contains(at(offset))
    }

    /// The end of the copies as told by the mover.
    pub(super) fn dlq_end(&mut self, source: Source, end: u64) {
        self.event(Event::DlqEnd { source, end: Offset::new(end).expect("a small offset") });
    }
}
