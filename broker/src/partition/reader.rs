//! Reading a partition: from the page cache in the reader's own task, else on a thread for cold reads.
//!
//! Invariants: nothing at or above the high watermark is handed out (rules D3, FC-1); damage is passed up, kept in the
//! ledger and never skipped here (rule C2); no read holds up an append.

use crate::log::{FrameRun, LogReader, ReadError, ReadMode, ReadRange};
use crate::model::{Offset, OffsetRange, PartitionEpoch};

use super::PartitionReadError;
use super::local::Partition;

/// Whose turn a read on a thread for cold reads is (rule FC-8).
#[derive(Debug, Clone, Copy)]
pub(super) enum ReadTurn {
    /// Live traffic's.
    Live,
    /// One that can wait: a replay's.
    Behind,
}

impl Partition {
    pub(super) async fn read_frames(
        &self,
        from: Offset,
        max_bytes: usize,
        turn: ReadTurn,
    ) -> Result<FrameRun, PartitionReadError> {
        let until = self.group.watermark.get();
        if from == until {
            return Ok(FrameRun { frames: Vec::new(), next: from });
        }
        let start = self.reader.bounds().start;
        if from > until || from < start {
            return Err(ReadError::OutOfRange { offset: from, start, end: until }.into());
        }
        let range = ReadRange { from, until, max_bytes };
        let run = match self.reader.read(range, ReadMode::CachedOnly) {
            // A bad frame counts only after it was read from the device (rule C5), which may block, and a device that
            // fails may do so after a long while.
            Err(ReadError::WouldBlock | ReadError::Corrupt(_) | ReadError::Io { .. }) => {
                self.read_cold(range, turn).await?
            }
            run => run?,
        };
        let (mut records, mut bytes) = (0, 0);
        for frame in &run.frames {
            records += u64::from(frame.record_count);
            bytes += frame.batch.len() as u64;
        }
        self.environment.counters.read_records.inc_by(records);
        self.environment.counters.read_bytes.inc_by(bytes);
        Ok(run)
    }

    async fn read_cold(&self, range: ReadRange, turn: ReadTurn) -> Result<FrameRun, ReadError> {
        self.environment.metrics.cold_reads.inc();
        let reader = self.reader.clone();
        let pools = &self.environment.pools;
        let read = move || reader.read(range, ReadMode::Blocking);
        let result = match turn {
            ReadTurn::Live => pools.read(read).await,
            ReadTurn::Behind => pools.read_behind(read).await,
        };
        if let Err(error) = &result {
            self.take_note(error, range.until).await;
        }
        result
    }

    /// Keeps what a failed read says of the files; the ledger is written on a thread that may block.
    async fn take_note(&self, error: &ReadError, until: Offset) {
        match error {
            ReadError::Corrupt(corruption) => {
                self.environment.metrics.corrupt_frames.inc();
                let range = OffsetRange { from: corruption.first_bad, to: corruption.next_good.unwrap_or(until) };
                let what = corruption.to_string();
                if !self.facts.add_damage(range, &what) {
                    return;
                }
                self.forget_events(range);
                tracing::error!(topic = %self.name.topic, partition = %self.name.partition, what, "damaged range");
                let (ledger, name) = (self.environment.ledger.clone(), self.name);
                let kept = self.environment.pools.read(move || ledger.record_quarantine(name, &[range])).await;
                if let Err(error) = kept {
                    tracing::error!(%error, "the damaged range is known until the next start only");
                }
            }
            ReadError::Io { .. } => {
                tracing::error!(topic = %self.name.topic, partition = %self.name.partition, %error, "read failed");
                self.facts.set_degraded(&error.to_string());
            }
            ReadError::OutOfRange { .. } | ReadError::WouldBlock => {}
        }
    }

    /// First offset appended at or after this time, at most the high watermark (rule OF-4).
    pub(super) async fn find_time(&self, time_ms: i64) -> Result<Offset, PartitionReadError> {
        let until = self.group.watermark.get();
        let reader = self.reader.clone();
        let found = self.environment.pools.read(move || reader.offset_at_time(time_ms)).await?;
        Ok(found.map_or(until, |offset| offset.min(until)))
    }

    /// Whether the record before `offset` is of a later epoch than the position: then what the position meant was
    /// cut (rules D3, OF-7).
    pub(super) async fn find_cut(&self, epoch: PartitionEpoch, offset: Offset) -> Result<(), PartitionReadError> {
        let until = self.group.watermark.get();
        if offset > until {
            return Err(PartitionReadError::Stale { epoch, offset, truncated_at: until });
        }
        // The epoch before any record is the current one at most.
        if epoch >= self.facts.epoch() || offset <= self.reader.bounds().start {
            return Ok(());
        }
        let reader = self.reader.clone();
        let cut = self.environment.pools.read(move || first_cut(&reader, epoch, offset)).await?;
        match cut {
            Some(truncated_at) => Err(PartitionReadError::Stale { epoch, offset, truncated_at }),
            None => Ok(()),
        }
    }
}

/// Where the epochs after `epoch` begin, if that is before `offset`. Epochs never fall along a log.
fn first_cut(reader: &LogReader, epoch: PartitionEpoch, offset: Offset) -> Result<Option<Offset>, ReadError> {
    let later = |before: Offset| -> Result<bool, ReadError> {
        Ok(reader.epoch_before(before)?.is_some_and(|found| found > epoch))
    };
    if !later(offset)? {
        return Ok(None);
    }
    // Of the offsets in (low, high], `high` has a later epoch before it and `low` has not.
    let (mut low, mut high) = (reader.bounds().start, offset);
    while high.distance_from(low) > 1 {
        let middle = low.saturating_add(high.distance_from(low) / 2);
        if later(middle)? {
            high = middle;
        } else {
            low = middle;
        }
    }
    Ok(Some(high.saturating_sub(1)))
}
