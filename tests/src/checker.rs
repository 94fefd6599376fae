//! Judges a broker from what its clients saw, written down outside it.
//!
//! Producers write down each record before it is sent and its answer afterwards; readers write down what they got.
//! [`Checker::check`] then proves:
//!
//! - **no lost ack**: what was acknowledged and not removed by retention is read back, with its bytes;
//! - **no duplicate**: no record of an idempotent producer stands in the log twice;
//! - **order**: per producer and partition, records stand in the order of their sending;
//! - **no phantom**: nothing is read that was never sent, was refused as not written, or has other bytes;
//! - **immutable**: what was seen at an offset of an epoch, by an ack or a read, is seen there ever after;
//! - **whole batches**: of records sent as one batch, all are there side by side, or none;
//! - **gap-free**: offsets have no holes but those told, and append times never fall.
//!
//! It must not know the broker: only histories. It is itself tested with forged ones.

pub mod groups;

use std::collections::{BTreeMap, HashMap};

/// Which record it is: a number that rises along a producer in the order of sending, unique for the producer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RecordId {
    /// The producer.
    pub producer: u32,
    /// The record's number.
    pub number: u64,
}

/// A place in the log as a client saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Place {
    /// The partition.
    pub partition: u32,
    /// Epoch of the partition at the append.
    pub epoch: u32,
    /// The offset.
    pub offset: u64,
}

/// What became of a record, as its producer saw it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SendOutcome {
    /// Acknowledged, here.
    Acked(Place),
    /// Refused: it must not be in the log.
    NotWritten,
    /// It may be in the log or not.
    Unknown,
}

/// A record that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sent {
    /// Which.
    pub id: RecordId,
    /// Hash of its bytes.
    pub digest: u64,
    /// The batch that it was sent in, if known: a number unique among all.
    pub batch: Option<u64>,
    /// What became of it.
    pub outcome: SendOutcome,
}

/// A record that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// Where.
    pub place: Place,
    /// Which record its bytes say it is.
    pub id: RecordId,
    /// Hash of its bytes.
    pub digest: u64,
    /// Append time in milliseconds since 1970.
    pub append_time_ms: i64,
}

/// One read from the log start to the end of every partition.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ReadRun {
    /// Records in the order in which they came.
    pub seen: Vec<Seen>,
    /// Log start of each partition before the read.
    pub log_starts: BTreeMap<u32, u64>,
    /// Half-open ranges of which the broker said that they will not come: (partition, from, to).
    pub gaps: Vec<(u32, u64, u64)>,
}

/// All that clients saw of one topic.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct History {
    /// What was sent.
    pub sent: Vec<Sent>,
    /// Complete reads, in order of time; at least one, the last after everything.
    pub reads: Vec<ReadRun>,
}

/// A broken promise.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    /// No read was made: nothing is proven.
    NothingRead,
    /// An acknowledged record is not in the log.
    LostAck {
        /// Which record.
        id: RecordId,
        /// Where it was acknowledged.
        place: Place,
    },
    /// A record stands in the log twice.
    Duplicate {
        /// Which record.
        id: RecordId,
        /// The first offset.
        first: Place,
        /// The second.
        second: Place,
    },
    /// A record stands behind a later one of its producer.
    Reordered {
        /// Which record.
        id: RecordId,
        /// Number of the later record before it.
        behind: u64,
        /// Where it stands.
        place: Place,
    },
    /// A record that was never sent, was refused, or has other bytes.
    Phantom {
        /// Which record it says it is.
        id: RecordId,
        /// Where it stands.
        place: Place,
        /// Why it must not be there.
        why: &'static str,
    },
    /// A place has changed its record.
    Changed {
        /// The place.
        place: Place,
        /// The record seen there first.
        before: RecordId,
        /// The record seen there later.
        after: RecordId,
    },
    /// Of a batch, a part is missing, or its records do not stand side by side.
    TornBatch {
        /// The batch.
        batch: u64,
        /// Records sent in it.
        sent: usize,
        /// Records found side by side.
        found: usize,
    },
    /// An offset is missing, comes twice or comes too late.
    Hole {
        /// The partition.
        partition: u32,
        /// The offset that should have come.
        expected: u64,
        /// The offset that came.
        found: u64,
    },
    /// An append time is before that of the record before it.
    TimeFell {
        /// Where.
        place: Place,
    },
}

/// What a history proves when nothing is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Totals {
    /// Records sent.
    pub sent: usize,
    /// Records acknowledged.
    pub acked: usize,
    /// Records with an unknown outcome.
    pub unknown: usize,
    /// Of these, records found in the log.
    pub unknown_found: usize,
    /// Records in the last read.
    pub read: usize,
    /// Acknowledged records that retention had removed before the last read.
    pub retired: usize,
}

/// Proves the rules from a history.
#[derive(Debug, Clone, Copy)]
pub struct Checker {
    /// Whether the producers were idempotent: repeats are violations then.
    pub idempotent: bool,
}

/// At most so many violations are listed.
const LISTED: usize = 100;

impl Checker {
    /// A checker for idempotent producers.
    pub fn new() -> Self {
        Self { idempotent: true }
    }

    /// Proves the history, or lists what is broken, at most 100 entries.
    ///
    /// # Errors
    /// The violations.
    pub fn check(&self, history: &History) -> Result<Totals, Vec<Violation>> {
        let mut found = Vec::new();
        let sent: HashMap<RecordId, &Sent> = history.sent.iter().map(|sent| (sent.id, sent)).collect();
        for run in &history.reads {
            check_sequence(run, &mut found);
            check_order(run, &mut found);
            check_phantoms(run, &sent, &mut found);
            if self.idempotent {
                check_duplicates(run, &mut found);
            }
        }
        check_immutable(history, &mut found);
        let Some(last) = history.reads.last() else {
            return Err(vec![Violation::NothingRead]);
        };
        let retired = check_acks(history, last, &mut found);
        check_batches(history, last, &mut found);
        if !found.is_empty() {
            found.truncate(LISTED);
            return Err(found);
        }
        Ok(totals(history, last, retired))
    }
}

impl Default for Checker {
    fn default() -> Self {
        Self::new()
    }
}

fn totals(history: &History, last: &ReadRun, retired: usize) -> Totals {
    let count = |wanted: fn(&SendOutcome) -> bool| history.sent.iter().filter(|sent| wanted(&sent.outcome)).count();
    let unknown: std::collections::HashSet<RecordId> =
        history.sent.iter().filter(|sent| sent.outcome == SendOutcome::Unknown).map(|sent| sent.id).collect();
    Totals {
        sent: history.sent.len(),
        acked: count(|outcome| matches!(outcome, SendOutcome::Acked(_))),
        unknown: unknown.len(),
        unknown_found: last.seen.iter().filter(|seen| unknown.contains(&seen.id)).count(),
        read: last.seen.len(),
        retired,
    }
}

/// Gap-free: every offset from the log start on, once, in order; append times never fall.
fn check_sequence(run: &ReadRun, found: &mut Vec<Violation>) {
    let mut next: BTreeMap<u32, u64> = run.log_starts.clone();
    let mut times: BTreeMap<u32, i64> = BTreeMap::new();
    for seen in &run.seen {
        let Place { partition, offset, .. } = seen.place;
        let expected = next.entry(partition).or_insert(0);
        while let Some((_, _, to)) =
            run.gaps.iter().find(|(of, from, to)| *of == partition && *from <= *expected && *expected < *to)
        {
            *expected = *to;
        }
        if offset != *expected {
            found.push(Violation::Hole { partition, expected: *expected, found: offset });
        }
        *expected = offset + 1;
        let time = times.entry(partition).or_insert(i64::MIN);
        if seen.append_time_ms < *time {
            found.push(Violation::TimeFell { place: seen.place });
        }
        *time = seen.append_time_ms;
    }
}

fn check_order(run: &ReadRun, found: &mut Vec<Violation>) {
    let mut highest: HashMap<(u32, u32), u64> = HashMap::new();
    for seen in &run.seen {
        let highest = highest.entry((seen.place.partition, seen.id.producer)).or_insert(seen.id.number);
        if seen.id.number < *highest {
            found.push(Violation::Reordered { id: seen.id, behind: *highest, place: seen.place });
        }
        *highest = seen.id.number.max(*highest);
    }
}

fn check_phantoms(run: &ReadRun, sent: &HashMap<RecordId, &Sent>, found: &mut Vec<Violation>) {
    for seen in &run.seen {
        let why = match sent.get(&seen.id) {
            None => "it was never sent",
            Some(sent) if sent.digest != seen.digest => "its bytes are not those that were sent",
            Some(sent) if sent.outcome == SendOutcome::NotWritten => "it was refused as not written",
            Some(_) => continue,
        };
        found.push(Violation::Phantom { id: seen.id, place: seen.place, why });
    }
}

fn check_duplicates(run: &ReadRun, found: &mut Vec<Violation>) {
    let mut places: HashMap<RecordId, Place> = HashMap::new();
    for seen in &run.seen {
        if let Some(first) = places.insert(seen.id, seen.place) {
            found.push(Violation::Duplicate { id: seen.id, first, second: seen.place });
        }
    }
}

fn check_immutable(history: &History, found: &mut Vec<Violation>) {
    let mut contents: HashMap<Place, (RecordId, u64)> = HashMap::new();
    let acks = history.sent.iter().filter_map(|sent| match sent.outcome {
        SendOutcome::Acked(place) => Some((place, sent.id, sent.digest)),
        _ => None,
    });
    let reads = history.reads.iter().flat_map(|run| &run.seen).map(|seen| (seen.place, seen.id, seen.digest));
    for (place, id, digest) in acks.chain(reads) {
        let before = *contents.entry(place).or_insert((id, digest));
        if before != (id, digest) {
            found.push(Violation::Changed { place, before: before.0, after: id });
        }
    }
}

/// Returns how many acknowledged records lie below the log start.
fn check_acks(history: &History, last: &ReadRun, found: &mut Vec<Violation>) -> usize {
    let read: HashMap<Place, RecordId> = last.seen.iter().map(|seen| (seen.place, seen.id)).collect();
    let mut retired = 0;
    for sent in &history.sent {
        let SendOutcome::Acked(place) = sent.outcome else { continue };
        if place.offset < last.log_starts.get(&place.partition).copied().unwrap_or(0) {
            retired += 1;
        } else if read.get(&place) != Some(&sent.id) {
            found.push(Violation::LostAck { id: sent.id, place });
        }
    }
    retired
}

fn check_batches(history: &History, last: &ReadRun, found: &mut Vec<Violation>) {
    let mut batches: BTreeMap<u64, Vec<RecordId>> = BTreeMap::new();
    for sent in &history.sent {
        if let Some(batch) = sent.batch {
            batches.entry(batch).or_default().push(sent.id);
        }
    }
    let mut places: HashMap<RecordId, Place> = HashMap::new();
    for seen in &last.seen {
        places.entry(seen.id).or_insert(seen.place);
    }
    let acked: HashMap<RecordId, Place> = history
        .sent
        .iter()
        .filter_map(|sent| match sent.outcome {
            SendOutcome::Acked(place) => Some((sent.id, place)),
            _ => None,
        })
        .collect();
    for (batch, records) in batches {
        let there: Vec<Place> = records.iter().filter_map(|id| places.get(id).copied()).collect();
        // A log start may lie inside a batch: what retention or a trim removed is no tear.
        let gone = records.iter().filter(|id| !places.contains_key(id)).all(|id| {
            let start = acked.get(id).map(|place| last.log_starts.get(&place.partition).copied().unwrap_or(0));
            acked.get(id).zip(start).is_some_and(|(place, start)| place.offset < start)
        });
        let side_by_side = there.windows(2).all(|pair| {
            pair[0].partition == pair[1].partition
                && pair[0].epoch == pair[1].epoch
                && pair[0].offset + 1 == pair[1].offset
        });
        if (!there.is_empty() && there.len() < records.len() && !gone) || !side_by_side {
            found.push(Violation::TornBatch { batch, sent: records.len(), found: there.len() });
        }
    }
}

#[cfg(test)]
mod tests;
