//! A partition of the source and its dead-letter partition, in memory.

use sawlog_broker::group::entry::EntryKey;
use sawlog_broker::group::event::{Fetched, RecordMeta};
use sawlog_broker::model::{KeySlot, LaneKey, Offset, OffsetRange, PartitionEpoch, Source};

/// A record of the source. `uid` names what was written: after a cut another record may have its offset.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Written {
    pub(crate) uid: u64,
    pub(crate) meta: RecordMeta,
}

/// A partition of the source.
#[derive(Debug)]
pub(crate) struct SimLog {
    pub(crate) source: Source,
    pub(crate) start: u64,
    pub(crate) records: Vec<Written>,
    /// What a loss of power leaves at least.
    pub(crate) synced: u64,
    /// The topic's floor is `written`: readers see what is not synced.
    pub(crate) written_floor: bool,
    /// Each epoch with its first offset.
    pub(crate) epochs: Vec<(PartitionEpoch, u64)>,
    /// Whether anything was ever cut at or above the first offset of that epoch.
    pub(crate) cuts: Vec<bool>,
}

impl SimLog {
    pub(crate) fn new(source: Source, written_floor: bool) -> Self {
        let epochs = vec![(PartitionEpoch::new(1).unwrap(), 0)];
        Self { source, start: 0, records: Vec::new(), synced: 0, written_floor, epochs, cuts: vec![false] }
    }

    pub(crate) fn end(&self) -> u64 {
        self.records.len() as u64
    }

    pub(crate) fn high_watermark(&self) -> u64 {
        if self.written_floor { self.end() } else { self.synced }
    }

    pub(crate) fn epoch(&self) -> PartitionEpoch {
        self.epochs.last().unwrap().0
    }

    pub(crate) fn get(&self, offset: u64) -> Option<&Written> {
        self.records.get(offset as usize).filter(|_| offset >= self.start)
    }

    /// The record at an offset, also one that was trimmed.
    pub(crate) fn ever(&self, offset: u64) -> Option<&Written> {
        self.records.get(offset as usize)
    }

    pub(crate) fn append(&mut self, uid: u64, lane: LaneKey, slot: KeySlot, filtered: bool, append_ms: i64) {
        let offset = Offset::new(self.end()).unwrap();
        let size_bytes = 50 + (uid % 200) as u32;
        let meta = RecordMeta { offset, lane, slot, epoch: self.epoch(), size_bytes, append_ms, filtered };
        self.records.push(Written { uid, meta });
    }

    /// Cuts the end to `to` and begins an epoch. Returns what was lost.
    pub(crate) fn new_epoch(&mut self, to: u64) -> Vec<Written> {
        let lost = self.records.split_off(to as usize);
        let next = self.epoch().next().unwrap();
        self.epochs.push((next, to));
        self.cuts.push(!lost.is_empty());
        self.synced = to;
        lost
    }

    /// Where the log of an epoch ends for whoever stood in it: the first offset of the next epoch, and whether records
    /// were lost by any change of epoch since.
    pub(crate) fn cut_since(&self, epoch: PartitionEpoch) -> Option<(u64, bool)> {
        let later: Vec<usize> = (0..self.epochs.len()).filter(|&index| self.epochs[index].0 > epoch).collect();
        let at = later.iter().map(|&index| self.epochs[index].1).min()?;
        Some((at, later.iter().any(|&index| self.cuts[index])))
    }

    /// What a reader gets from `from`: at most `count` records.
    pub(crate) fn fetch(&self, from: u64, count: u64, look: bool) -> Fetched {
        let next = (from + count).min(self.high_watermark());
        let records: Vec<RecordMeta> = (from..next).filter_map(|at| self.get(at)).map(|one| one.meta).collect();
        Fetched {
            source: self.source,
            from: Offset::new(from).unwrap(),
            next: Offset::new(next).unwrap(),
            log_bytes: records.iter().map(|meta| u64::from(meta.size_bytes)).sum(),
            last_append_ms: records.last().map_or(0, |meta| meta.append_ms),
            records: if look { records } else { Vec::new() },
            undecodable: Vec::new(),
            high_watermark: Offset::new(self.high_watermark()).unwrap(),
        }
    }
}

/// A copy in a dead-letter partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Copy {
    pub(crate) key: EntryKey,
    pub(crate) uid: u64,
    pub(crate) lane: LaneKey,
    pub(crate) cycle: u32,
    /// A version made by an edit; 0: the record as it was.
    pub(crate) version: u32,
    /// The record was settled in the source for the second time: after a reset.
    pub(crate) again: bool,
}

/// A dead-letter partition: always durable before anything is told of it.
#[derive(Debug, Default)]
pub(crate) struct SimDlq {
    pub(crate) copies: Vec<Copy>,
    pub(crate) synced: usize,
}

impl SimDlq {
    pub(crate) fn append(&mut self, copy: Copy) -> Offset {
        self.copies.push(copy);
        offset(self.copies.len() as u64 - 1)
    }

    /// Looks for a copy from `from` on, as recovery does (rule DL-4).
    pub(crate) fn find(&self, from: Offset, key: EntryKey, cycle: u32) -> Option<Offset> {
        let wanted = |copy: &&Copy| (copy.key, copy.cycle, copy.version) == (key, cycle, 0);
        let found = self.copies.iter().skip(from.get() as usize).find(wanted)?;
        self.copies.iter().position(|copy| copy == found).map(|at| offset(at as u64))
    }
}

pub(crate) fn offset(value: u64) -> Offset {
    Offset::new(value).unwrap()
}

pub(crate) fn range(from: u64, to: u64) -> OffsetRange {
    OffsetRange { from: offset(from), to: offset(to) }
}
