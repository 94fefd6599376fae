//! What was sent of partitions in mode OFFSET, what was read and waits for credit (rules AK-8, RE-4).
//!
//! Owns: the position of sending, pieces and gaps, how much of a piece fits. Must not know: owners' rights, commits, marks.
//!
//! Invariants: pieces are adjacent but for a gap, and begin at `next`; nothing of a gap that was passed is asked for again.

use std::collections::{BTreeMap, VecDeque};

use super::super::Now;
use super::super::effect::{Effects, Notice};
use super::super::entry::EntryKind;
use super::super::record::{ErrorInfo, OwnedRun};
use super::super::took::Took;
use super::super::view::Stall;
use super::piece::Piece;
use crate::model::{MemberId, Offset, OffsetRange, Source};

/// What was sent of each partition.
#[derive(Debug, Default)]
pub(in super::super) struct Ranges {
    pub(super) sources: BTreeMap<Source, Sent>,
}

/// What was sent of one partition to its owner.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) run: OwnedRun,
    /// First offset that was not sent.
    pub(super) next: Offset,
    pub(super) pieces: VecDeque<Piece>,
    pub(super) lookups: VecDeque<Lookup>,
    /// The last gap that was passed: what was read before it may not be sent yet.
    pub(super) gap: Option<OffsetRange>,
    /// The range that is being read is looked at, record by record.
    pub(super) looked: bool,
    /// The handler has begun with the first record that is not committed (rule RM-8).
    pub(super) first_started: bool,
    /// Where to begin is known: of a cursor its reader has reported it (rule RM-3).
    pub(super) reported: bool,
    /// The end of what is timed until it is passed (rule OB-2), when its last record was appended, when it was sent.
    pub(super) timed: Option<(Offset, i64, u64)>,
    /// Its reader waits (rule RM-6).
    pub(super) stalled: Option<Stall>,
}

/// A record that a `DeadLetter` names.
#[derive(Debug)]
pub(super) struct Lookup {
    pub(super) member: MemberId,
    pub(super) request: u64,
    pub(super) offset: Offset,
    pub(super) kind: EntryKind,
    pub(super) error: Option<ErrorInfo>,
}

impl Ranges {
    /// First offset of a partition that was not sent to its owner; `None`: where to begin is not known.
    pub(in super::super) fn next(&self, source: Source) -> Option<Offset> {
        self.sources.get(&source).filter(|sent| sent.reported).map(|sent| sent.next)
    }

    /// The record that is read to be looked at, for it is to be a dead letter.
    pub(in super::super) fn looks_at(&self, source: Source) -> Option<Offset> {
        self.sources.get(&source)?.lookups.front().map(|lookup| lookup.offset)
    }

    /// What was read is not sent any more.
    pub(in super::super) fn stop(&mut self, source: Source) {
        if let Some(sent) = self.sources.get_mut(&source) {
            sent.pieces.clear();
        }
    }

    /// Nothing at or above `at` is there any more.
    pub(in super::super) fn cut(&mut self, source: Source, at: Offset) {
        let Some(sent) = self.sources.get_mut(&source) else { return };
        sent.pieces.clear();
        sent.lookups.retain(|lookup| lookup.offset < at);
        sent.gap = None;
        sent.next = sent.next.min(at);
    }
}

impl Sent {
    /// First offset after what was read.
    pub(super) fn read_to(&self) -> Offset {
        self.pieces.back().map_or(self.next, |piece| self.behind_gap(piece.range.to))
    }

    /// Where what comes next at `at` begins.
    pub(super) fn behind_gap(&self, at: Offset) -> Offset {
        self.gap.filter(|gap| gap.contains(at)).map_or(at, |gap| gap.to)
    }
}

impl Sent {
    /// The position has gone from `floor` to `next`.
    pub(super) fn passed(&mut self, floor: Offset, next: Offset, now: Now, fx: &mut Effects) {
        let timed = self.timed.filter(|(end, ..)| next >= *end);
        let took = timed.map(|(_, appended_ms, sent_ms)| Took::until(now, appended_ms, sent_ms));
        if took.is_some() || next < floor {
            self.timed = None;
        }
        let records = next.distance_from(floor);
        if records > 0 {
            fx.notices.push(Notice::Settled { records, took });
        }
    }

    /// A gap is passed: what was read of it, or behind it, is not sent.
    pub(super) fn pass(&mut self, gap: OffsetRange) {
        self.gap = Some(gap);
        if gap.to <= self.next {
            return;
        }
        self.next = self.behind_gap(self.next);
        self.pieces.truncate(self.pieces.partition_point(|piece| piece.range.from < gap.from));
        if let Some(last) = self.pieces.back_mut()
            && last.range.to > gap.from
        {
            last.range.to = gap.from;
            if let Some(records) = &mut last.records {
                records.truncate(records.partition_point(|meta| meta.offset < gap.from));
            }
        }
    }
}
