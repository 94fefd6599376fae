//! An entry as the table keeps it: what most entries lack is boxed, names are shared.

use std::borrow::Borrow;
use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Act, DeadReason, Entry, EntryKey, EntryKind, EntryState, Past};
use crate::model::{KeySlot, LaneKey, Offset, PartitionEpoch, Source};

/// Place of an entry in its partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At {
    pub(super) offset: Offset,
    pub(super) epoch: PartitionEpoch,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StateTag {
    Open,
    Spilled,
    Resolved,
    Discarded,
    Moved,
    Cleared,
    Expired,
}

/// Who lets records die.
const DIED: &str = "broker";
/// What an entry was before: so often at most.
const PAST_KEPT: usize = 16;

/// An entry as it is kept.
#[derive(Debug, Clone)]
pub(super) struct Packed {
    pub(super) lane: [u64; 2],
    pub(super) copy: Offset,
    pub(super) dead_ms: i64,
    pub(super) intent: u64,
    pub(super) blocked_offset: Offset,
    pub(super) rest: Option<Box<Rest>>,
    pub(super) blocked_epoch: PartitionEpoch,
    pub(super) size_bytes: u32,
    pub(super) slot: KeySlot,
    pub(super) kind: EntryKind,
    pub(super) state: StateTag,
    pub(super) reason: DeadReason,
    pub(super) blocked: bool,
    pub(super) holds: bool,
    pub(super) source_lost: bool,
}

const _: () = assert!(size_of::<Packed>() <= 72, "a million entries are kept twice");

/// What entries have that failed, or were touched.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rest {
    pub(super) due_ms: i64,
    pub(super) delay_ms: u64,
    pub(super) first_delivery_ms: i64,
    pub(super) act_ms: i64,
    pub(super) cycle: u32,
    pub(super) attempts: u32,
    pub(super) resolved: u32,
    pub(super) class: Option<Name>,
    pub(super) fingerprint: Option<Name>,
    pub(super) actor: Option<Name>,
    pub(super) note: Option<Name>,
    pub(super) rare: Option<Box<Rare>>,
}

const _: () = assert!(size_of::<Rest>() <= 96, "every entry that was handled has it, twice");

/// What few entries have.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Rare {
    pub(super) job: Option<u64>,
    pub(super) versions: Vec<Offset>,
    pub(super) past: Vec<Past>,
}

/// A shared string behind one word: most entries have several.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(Arc<String>);

impl Borrow<str> for Name {
    fn borrow(&self) -> &str {
        &self.0
    }
}

/// One string for each name, shared by all who carry it.
#[derive(Debug, Clone, Default)]
pub(super) struct Names {
    all: BTreeSet<Name>,
    sweep_at: usize,
}

/// An [`Act`] whose texts are shared.
#[derive(Debug, Clone)]
pub(super) struct SharedAct {
    time_ms: i64,
    actor: Option<Name>,
    note: Option<Name>,
}

impl Names {
    pub(super) fn share(&mut self, name: &str) -> Name {
        if let Some(shared) = self.all.get(name) {
            return shared.clone();
        }
        if self.all.len() >= self.sweep_at {
            self.all.retain(|name| Arc::strong_count(&name.0) > 1);
            self.sweep_at = 2 * self.all.len() + 256;
        }
        let shared = Name(Arc::new(name.to_owned()));
        self.all.insert(shared.clone());
        shared
    }

    pub(super) fn share_act(&mut self, act: &Act) -> SharedAct {
        let mut share = |text: &str| (!text.is_empty()).then(|| self.share(text));
        SharedAct { time_ms: act.time_ms, actor: share(&act.actor), note: share(&act.note) }
    }
}

impl At {
    /// Before every other.
    pub(super) const FIRST: Self = Self { offset: Offset::ZERO, epoch: PartitionEpoch::ZERO };

    pub(super) fn of(key: &EntryKey) -> Self {
        Self { offset: key.offset, epoch: key.epoch }
    }

    pub(super) fn key(self, source: Source) -> EntryKey {
        EntryKey { source, offset: self.offset, epoch: self.epoch }
    }
}

impl StateTag {
    pub(super) fn of(state: EntryState) -> Self {
        match state {
            EntryState::Open => Self::Open,
            EntryState::Spilled => Self::Spilled,
            EntryState::Resolved { .. } => Self::Resolved,
            EntryState::Discarded => Self::Discarded,
            EntryState::Moved => Self::Moved,
            EntryState::Cleared => Self::Cleared,
            EntryState::Expired => Self::Expired,
        }
    }

    pub(super) fn state(self, version: u32) -> EntryState {
        match self {
            Self::Open => EntryState::Open,
            Self::Spilled => EntryState::Spilled,
            Self::Resolved => EntryState::Resolved { version },
            Self::Discarded => EntryState::Discarded,
            Self::Moved => EntryState::Moved,
            Self::Cleared => EntryState::Cleared,
            Self::Expired => EntryState::Expired,
        }
    }
}

impl Packed {
    /// Packs an entry.
    pub(super) fn pack(entry: &Entry, names: &mut Names) -> Self {
        let rare = Rare { job: entry.job, versions: entry.versions.clone(), past: Vec::new() };
        let act = names.share_act(&entry.act);
        let mut share = |name: &Option<String>| name.as_deref().map(|name| names.share(name));
        let rest = Rest {
            due_ms: entry.due_ms,
            delay_ms: entry.delay_ms,
            first_delivery_ms: entry.first_delivery_ms,
            act_ms: act.time_ms,
            cycle: entry.cycle,
            attempts: entry.attempts,
            resolved: if let EntryState::Resolved { version } = entry.state { version } else { 0 },
            class: share(&entry.class),
            fingerprint: share(&entry.fingerprint),
            actor: act.actor,
            note: act.note,
            rare: (rare != Rare::default()).then(|| Box::new(rare)),
        };
        let blocked = entry.blocked_by.map(|head| (head.offset, head.epoch));
        let (blocked_offset, blocked_epoch) = blocked.unwrap_or_default();
        Self {
            lane: [(entry.lane.0 >> 64) as u64, entry.lane.0 as u64],
            copy: entry.copy,
            dead_ms: entry.dead_ms,
            intent: entry.intent,
            blocked_offset,
            rest: (rest != Rest::default()).then(|| Box::new(rest)),
            blocked_epoch,
            size_bytes: entry.size_bytes,
            slot: entry.slot,
            kind: entry.kind,
            state: StateTag::of(entry.state),
            reason: entry.reason,
            blocked: blocked.is_some(),
            holds: entry.holds,
            source_lost: entry.source_lost,
        }
    }

    pub(super) fn lane(&self) -> LaneKey {
        LaneKey(u128::from(self.lane[0]) << 64 | u128::from(self.lane[1]))
    }

    pub(super) fn cycle(&self) -> u32 {
        self.rest.as_ref().map_or(0, |rest| rest.cycle)
    }

    /// What it was before, the oldest first.
    pub(super) fn past(&self) -> &[Past] {
        self.rare().map_or(&[], |rare| &rare.past)
    }

    /// Remembers what it is: something else is about to be done to it. Its death is told by the entry itself.
    pub(super) fn remember(&mut self) {
        let act = self.act();
        if act.time_ms == 0 {
            return;
        }
        let was = Past { state: self.state(), job: self.job(), cycle: self.cycle(), act };
        self.change_rare(|rare| {
            // The first one is kept, and the last ones.
            if rare.past.len() >= PAST_KEPT {
                rare.past.remove(1);
            }
            rare.past.push(was);
        });
    }

    /// Remembers when it died: it dies again.
    pub(super) fn remember_death(&mut self) {
        let act = Act { actor: DIED.to_owned(), time_ms: self.dead_ms, note: String::new() };
        let cycle = self.cycle();
        self.change_rare(|rare| rare.past.insert(0, Past { state: EntryState::Open, job: None, cycle, act }));
    }

    /// Takes over what another was.
    pub(super) fn inherit(&mut self, old: &mut Self) {
        let rare = old.rest.as_deref_mut().and_then(|rest| rest.rare.as_deref_mut());
        let past = rare.map(|rare| std::mem::take(&mut rare.past)).unwrap_or_default();
        if !past.is_empty() {
            self.change_rare(|rare| rare.past = past);
        }
    }

    /// The last thing done to it.
    fn act(&self) -> Act {
        let Some(rest) = self.rest.as_deref() else { return Act::default() };
        let text = |name: &Option<Name>| name.as_ref().map(|name| String::clone(&name.0)).unwrap_or_default();
        Act { actor: text(&rest.actor), time_ms: rest.act_ms, note: text(&rest.note) }
    }

    /// Something was done to it.
    pub(super) fn set_act(&mut self, act: SharedAct) {
        let SharedAct { time_ms, actor, note } = act;
        self.change_rest(|rest| (rest.act_ms, rest.actor, rest.note) = (time_ms, actor, note));
    }

    fn rare(&self) -> Option<&Rare> {
        self.rest.as_deref().and_then(|rest| rest.rare.as_deref())
    }

    pub(super) fn job(&self) -> Option<u64> {
        self.rare().and_then(|rare| rare.job)
    }

    pub(super) fn state(&self) -> EntryState {
        self.state.state(self.rest.as_ref().map_or(0, |rest| rest.resolved))
    }

    pub(super) fn depth(&self) -> (EntryKind, StateTag, bool, DeadReason) {
        (self.kind, self.state, self.job().is_some(), self.reason)
    }

    /// Whether nothing is left in a box shows only when it is packed anew: a snapshot does that.
    pub(super) fn change_rest(&mut self, change: impl FnOnce(&mut Rest)) {
        change(self.rest.get_or_insert_default());
    }

    pub(super) fn change_rare(&mut self, change: impl FnOnce(&mut Rare)) {
        self.change_rest(|rest| change(rest.rare.get_or_insert_default()));
    }

    pub(super) fn unpack(&self, source: Source) -> Entry {
        let none = Rest::default();
        let rest = self.rest.as_deref().unwrap_or(&none);
        let (offset, epoch) = (self.blocked_offset, self.blocked_epoch);
        Entry {
            lane: self.lane(),
            slot: self.slot,
            kind: self.kind,
            state: self.state(),
            job: self.job(),
            cycle: rest.cycle,
            copy: self.copy,
            attempts: rest.attempts,
            due_ms: rest.due_ms,
            delay_ms: rest.delay_ms,
            first_delivery_ms: rest.first_delivery_ms,
            reason: self.reason,
            class: rest.class.as_ref().map(|name| String::clone(&name.0)),
            fingerprint: rest.fingerprint.as_ref().map(|name| String::clone(&name.0)),
            blocked_by: self.blocked.then_some(EntryKey { source, offset, epoch }),
            holds: self.holds,
            size_bytes: self.size_bytes,
            versions: self.rare().map(|rare| rare.versions.clone()).unwrap_or_default(),
            dead_ms: self.dead_ms,
            intent: self.intent,
            act: self.act(),
            source_lost: self.source_lost,
        }
    }
}
