//! Records read one by one, wherever they lie: in their source, or as copies among dead letters.
//!
//! Invariant: what is not there any more ([`Missing::Lost`]) is told from what cannot be read now ([`Missing::Later`]):
//! only the former may close an intent (rule DL-4).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use bytes::Bytes;
use sawlog_proto::batch::{self, BatchError, BatchLimits, BatchRecord};

use super::headers::identity;
use crate::group::entry::EntryKey;
use crate::limits;
use crate::model::{GroupId, Offset, PartitionEpoch};
use crate::partition::{Frame, FrameRun, PartitionLog, PartitionReadError, ReadError};

/// What a stored batch may be.
pub(super) const STORED: BatchLimits = BatchLimits {
    batch_bytes: limits::FRAME_BYTES,
    records: limits::BATCH_RECORDS,
    decompressed_bytes: limits::BATCH_DECOMPRESSED_BYTES,
    ..BatchLimits::DEFAULT
};
/// Bytes read at once for one record; those behind it are often asked for next.
const READ_BYTES: usize = 64 << 10;
/// Bytes read at once when much is looked through.
const SEARCH_BYTES: usize = 1 << 20;
/// Bytes of frames kept for the next records.
const KEPT_BYTES: usize = 1 << 20;

/// Why there is no record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Missing {
    /// It is not there any more, or damaged: for good.
    Lost(String),
    /// It cannot be read now.
    Later(String),
}

impl std::fmt::Display for Missing {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (Self::Lost(what) | Self::Later(what)) = self;
        f.write_str(what)
    }
}

/// A record as it was found.
#[derive(Debug, Clone)]
pub(super) struct Found {
    pub(super) record: BatchRecord,
    /// Time of its append, milliseconds since 1970.
    pub(super) append_ms: i64,
}

impl Found {
    /// The same with bytes of its own.
    pub(super) fn detached(self) -> Self {
        Self { record: detached(self.record), ..self }
    }
}

/// A record with bytes of its own, so that the batch that it came from, which may be large, is held no longer.
pub(crate) fn detached(mut record: BatchRecord) -> BatchRecord {
    let own = |bytes: &mut Bytes| *bytes = Bytes::copy_from_slice(bytes);
    let BatchRecord { key, value, headers, .. } = &mut record;
    key.iter_mut().chain(value).for_each(own);
    for header in headers {
        own(&mut header.key);
        header.value.iter_mut().for_each(own);
    }
    record
}

/// Reads single records of a partition and keeps a little of what it has read.
#[derive(Debug)]
pub(super) struct RecordReader {
    log: Arc<dyn PartitionLog>,
    frames: BTreeMap<Offset, Frame>,
    kept_bytes: usize,
    /// The last batch that was opened.
    opened: Option<Opened>,
}

/// A batch, and where its records begin: bytes left before each.
#[derive(Debug)]
struct Opened {
    base: Offset,
    records: batch::Records,
    places: Vec<usize>,
}

impl Opened {
    fn open(frame: &Frame) -> Result<Self, BatchError> {
        let records = batch::records(&frame.batch, &STORED)?;
        let mut places = Vec::with_capacity(frame.record_count as usize);
        let mut views = records.views();
        loop {
            let left = views.bytes_left();
            let Some(view) = views.next() else { break };
            view?;
            places.push(left);
        }
        Ok(Self { base: frame.base_offset, records, places })
    }

    fn record(&self, offset: Offset) -> Option<Result<BatchRecord, BatchError>> {
        let index = u32::try_from(offset.distance_from(self.base)).ok()?;
        Some(self.records.at(index, *self.places.get(index as usize)?))
    }
}

impl RecordReader {
    pub(super) fn new(log: Arc<dyn PartitionLog>) -> Self {
        Self { log, frames: BTreeMap::new(), kept_bytes: 0, opened: None }
    }

    /// One record; `epoch`: that of its frame must be this (rule OF-7).
    pub(super) async fn record(&mut self, offset: Offset, epoch: Option<PartitionEpoch>) -> Result<Found, Missing> {
        let frame = self.frame(offset, epoch).await?;
        let undecodable = |flaw: BatchError| Missing::Lost(format!("undecodable: {flaw}"));
        let opened = match self.opened.take().filter(|opened| opened.base == frame.base_offset) {
            Some(opened) => opened,
            None => Opened::open(&frame).map_err(undecodable)?,
        };
        let record = self.opened.insert(opened).record(offset);
        let record = record.ok_or_else(|| Missing::Lost("the batch has fewer records".into()))?;
        Ok(Found { record: record.map_err(undecodable)?, append_ms: frame.append_time_ms })
    }

    /// The frame with a record, as it is stored.
    pub(super) async fn frame(&mut self, offset: Offset, epoch: Option<PartitionEpoch>) -> Result<Frame, Missing> {
        let frame = match self.kept(offset) {
            Some(frame) => frame,
            None => self.read(offset).await?,
        };
        if epoch.is_some_and(|epoch| epoch != frame.epoch) {
            return Err(Missing::Lost(format!("offset {offset} is of epoch {} now", frame.epoch)));
        }
        Ok(frame)
    }

    fn kept(&self, offset: Offset) -> Option<Frame> {
        let (_, frame) = self.frames.range(..=offset).next_back()?;
        (offset < frame.end_offset()).then(|| frame.clone())
    }

    async fn read(&mut self, offset: Offset) -> Result<Frame, Missing> {
        let run = self.log.read(offset, READ_BYTES).await.map_err(|error| missing(&error))?;
        if self.kept_bytes > KEPT_BYTES {
            self.frames.clear();
            self.kept_bytes = 0;
        }
        for frame in run.frames {
            self.kept_bytes += frame.batch.len();
            self.frames.insert(frame.base_offset, frame);
        }
        // Nothing at the high watermark: a part that was cut. Nothing between two frames: removed.
        self.kept(offset).ok_or_else(|| Missing::Lost(format!("there is no record at {offset}")))
    }
}

fn missing(error: &PartitionReadError) -> Missing {
    let what = error.to_string();
    match error {
        PartitionReadError::Log(ReadError::OutOfRange { .. } | ReadError::Corrupt(_))
        | PartitionReadError::Stale { .. } => Missing::Lost(what),
        PartitionReadError::Log(ReadError::Io { .. } | ReadError::WouldBlock) | PartitionReadError::Recovering => {
            Missing::Later(what)
        }
    }
}

/// The offset behind which a search goes on, past what cannot be read for good.
fn past_damage(log: &dyn PartitionLog, at: Offset, error: &PartitionReadError) -> Option<Offset> {
    match error {
        PartitionReadError::Log(ReadError::OutOfRange { start, .. }) if *start > at => Some(*start),
        PartitionReadError::Log(ReadError::Corrupt(corruption)) => {
            let to = log.damaged_at(at).map(|range| range.to).or(corruption.next_good);
            to.filter(|to| *to > at)
        }
        _ => None,
    }
}

/// Looks for copies among dead letters, from `from` to the end: where each of `wanted`, by record and cycle, lies. A
/// damaged range holds none: a double, counted, is better than a loss (rule G3).
///
/// # Errors
/// It cannot be read now.
pub(super) async fn find_copies(
    log: &dyn PartitionLog,
    group: GroupId,
    from: Offset,
    wanted: &HashSet<(EntryKey, u32)>,
) -> Result<HashMap<(EntryKey, u32), Offset>, Missing> {
    let mut found = HashMap::new();
    search(log, from, |offset, record| {
        let headers = record.headers.iter().map(|header| (&header.key[..], header.value.as_deref()));
        if let Some((id, cycle, 0)) = identity(headers)
            && id.group == group
            && wanted.contains(&(id.key, cycle))
        {
            found.entry((id.key, cycle)).or_insert(offset);
        }
    })
    .await?;
    Ok(found)
}

/// Shows every record from `from` to the end.
///
/// # Errors
/// It cannot be read now.
pub(super) async fn search(
    log: &dyn PartitionLog,
    from: Offset,
    mut visit: impl FnMut(Offset, &BatchRecord),
) -> Result<(), Missing> {
    let mut at = from.max(log.log_start());
    loop {
        let run: FrameRun = match log.read(at, SEARCH_BYTES).await {
            Ok(run) => run,
            Err(error) => match (past_damage(log, at, &error), missing(&error)) {
                (Some(next), _) => {
                    at = next;
                    continue;
                }
                (None, Missing::Lost(_)) => return Ok(()),
                (None, later) => return Err(later),
            },
        };
        if run.frames.is_empty() {
            return Ok(());
        }
        for frame in &run.frames {
            // A batch of the broker's own that cannot be opened is damage too.
            let Ok(records) = batch::records(&frame.batch, &STORED) else { continue };
            for (index, record) in (0..).zip(records) {
                let Ok(record) = record else { break };
                visit(frame.base_offset.saturating_add(index), &record);
            }
        }
        at = run.next;
    }
}
