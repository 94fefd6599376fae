//! A member's program: what it holds, what it asked, what it was told.

use std::collections::{BTreeMap, VecDeque};

use sawlog_broker::group::effect::{AckStatus, Frame};
use sawlog_broker::group::entry::EntryKey;
use sawlog_broker::group::event::{InWork, Targets};
use sawlog_broker::model::{AssignmentEpoch, MemberEpoch, MemberId, Offset, OffsetRange, SlotRange, Source};

use super::judge::Lease;
use super::log::range;

/// What can be leased: a record of the source, or an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Item {
    Record(u64),
    Entry(EntryKey),
}

impl Item {
    pub(crate) fn offset(self) -> u64 {
        match self {
            Self::Record(offset) => offset,
            Self::Entry(key) => key.offset.get(),
        }
    }
}

/// Something a client has in work.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Held {
    pub(crate) source: Source,
    pub(crate) item: Item,
    pub(crate) uid: u64,
    pub(crate) slot: u32,
    pub(crate) epoch: AssignmentEpoch,
    pub(crate) started: bool,
}

/// What a verb asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Asked {
    Ack,
    Retry,
    Release,
    Dead,
    Skip,
    Extend,
}

/// A verb that waits for its answer.
#[derive(Debug, Clone)]
pub(crate) struct Pending {
    pub(crate) asked: Asked,
    pub(crate) items: Vec<Held>,
    /// Items that were leased to the member when it asked.
    pub(crate) leased: Vec<(Source, Item, Lease)>,
    /// True time at which it asked: the answer may wait for a journal.
    pub(crate) asked_ms: u64,
}

/// A frame on its way, and what must be durable before it goes out.
#[derive(Debug)]
pub(crate) struct Queued {
    pub(crate) frame: Frame,
    pub(crate) group: usize,
    pub(crate) entries: usize,
}

/// Where a client of mode OFFSET is in a partition.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    pub(crate) epoch: AssignmentEpoch,
    /// Next offset that the client expects.
    pub(crate) next: u64,
    /// What it has handled: it may commit this.
    pub(crate) done: u64,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) id: MemberId,
    pub(crate) instance: Option<String>,
    /// Its session; kept after the stream ended, to be resumed.
    pub(crate) session: Option<MemberEpoch>,
    pub(crate) connected: bool,
    /// `Joined` has come.
    pub(crate) joined: bool,
    /// It sends nothing and reads nothing.
    pub(crate) stalled: bool,
    pub(crate) outbox: VecDeque<Queued>,
    pub(crate) held: Vec<Held>,
    /// Recalled before they were begun: to be given back.
    pub(crate) returns: Vec<Held>,
    pub(crate) pending: BTreeMap<u64, Pending>,
    /// Units to be handed over.
    pub(crate) revoking: Vec<(Source, SlotRange)>,
    pub(crate) reading: BTreeMap<Source, Reading>,
    pub(crate) next_request: u64,
}

impl Client {
    pub(crate) fn new(number: u8, instance: bool) -> Self {
        Self {
            id: MemberId([number; 16]),
            instance: instance.then(|| format!("instance-{number}")),
            session: None,
            connected: false,
            joined: false,
            stalled: false,
            outbox: VecDeque::new(),
            held: Vec::new(),
            returns: Vec::new(),
            pending: BTreeMap::new(),
            revoking: Vec::new(),
            reading: BTreeMap::new(),
            next_request: 1,
        }
    }

    /// Whether it says and hears anything.
    pub(crate) fn lives(&self) -> bool {
        self.connected && self.joined && !self.stalled
    }

    /// The stream is gone: what was under way with it too.
    pub(crate) fn disconnect(&mut self) {
        (self.connected, self.joined, self.stalled) = (false, false, false);
        self.outbox.clear();
        self.pending.clear();
        self.revoking.clear();
        self.returns.clear();
    }

    /// The program is gone.
    pub(crate) fn forget(&mut self) {
        self.disconnect();
        self.session = None;
        self.held.clear();
        self.reading.clear();
    }

    pub(crate) fn in_work(&self) -> Vec<InWork> {
        let mut work: BTreeMap<(Source, AssignmentEpoch), InWork> = BTreeMap::new();
        for held in &self.held {
            let (source, epoch) = (held.source, held.epoch);
            let none = || InWork { source, epoch, runs: Vec::new(), entries: Vec::new() };
            let one = work.entry((source, epoch)).or_insert_with(none);
            match held.item {
                Item::Record(offset) => one.runs.push(range(offset, offset + 1)),
                Item::Entry(key) => one.entries.push(key),
            }
        }
        work.values_mut().for_each(|one| one.runs.sort_by_key(|run| run.from));
        work.into_values().collect()
    }

    pub(crate) fn drop_item(&mut self, source: Source, item: Item) {
        self.held.retain(|held| (held.source, held.item) != (source, item));
    }

    pub(crate) fn drop_runs(&mut self, source: Source, runs: &[OffsetRange]) {
        self.held.retain(|held| match held.item {
            Item::Record(at) => held.source != source || !runs.iter().any(|run| run.contains(Offset::new(at).unwrap())),
            Item::Entry(_) => true,
        });
    }
}

/// Verbs name one partition and one epoch: items of the same pair together, records as runs.
pub(crate) fn targets(items: &[Held]) -> Targets {
    let mut offsets: Vec<u64> = Vec::new();
    let mut entries = Vec::new();
    for held in items {
        match held.item {
            Item::Record(at) => offsets.push(at),
            Item::Entry(key) => entries.push(key),
        }
    }
    offsets.sort_unstable();
    let mut runs: Vec<OffsetRange> = Vec::new();
    for at in offsets {
        match runs.last_mut() {
            Some(last) if last.to.get() == at => last.to = last.to.checked_add(1).unwrap(),
            _ => runs.push(range(at, at + 1)),
        }
    }
    Targets { source: items[0].source, epoch: items[0].epoch, runs, entries }
}

/// What an answer says of one item.
pub(crate) fn status_of(
    item: Item,
    results: &[(OffsetRange, AckStatus)],
    entries: &[(EntryKey, AckStatus)],
) -> Option<AckStatus> {
    match item {
        Item::Record(at) => {
            results.iter().find(|(run, _)| run.contains(Offset::new(at).unwrap())).map(|(_, status)| *status)
        }
        Item::Entry(key) => entries.iter().find(|(known, _)| *known == key).map(|(_, status)| *status),
    }
}
