//! Records and snapshots as one log: the shape of everything durable that is not a topic's records.
//!
//! Owns the way from payloads to frames and back, and decides what a damaged journal is still worth (rule G6). It
//! must not know what the payloads mean, tokio, or who waits for an append: one thread owns a [`Journal`].
//!
//! Every entry is a record of a batch in the log: its key holds the kind and a sequence number, its value the
//! payload.
//!
//! ```text
//! key    kind: u8 | sequence: u64 big-endian
//! kind   r  a record; sequence counts records from 1 over the whole life of the journal
//!        s  start of a snapshot of everything up to `sequence`; value: parts: u32 | crc: u32, or nothing
//!        p  a part of that snapshot; value: payload; sequence: that of the last record before it
//!        e  end of that snapshot; value: parts: u32 | crc: u32 | copy: u8 if the start says nothing
//! crc    CRC-32 of the payloads of all parts, one after the other
//! ```
//!
//! A snapshot is a run of frames at the begin of a segment, one frame for its start, one for each part, one for its
//! end; the end vouches for the run. A segment of its own keeps it and the records before it in different blocks of
//! the device, so that no single damage hits a change and the snapshot that holds it too.
//!
//! A snapshot is written at once ([`Journal::snapshot`]), with nothing between its frames, or step by step
//! ([`snapshot::SnapshotRun`]): then its start says nothing, records with greater sequences may stand between its
//! parts, and its end is written twice, copies 0 and 1. Whichever of the two is damaged, the other shows that no
//! record was lost: an end of copy 0 says that what follows it is no record.
//!
//! Invariants: an append is answered after its sync; sequences have no gap, so that records lost to damage are told
//! from damaged snapshots that nothing needs; segments before the two newest good snapshots go only after the newest
//! has been synced and read back from the device; after a failed sync nothing is written any more (rule F1).

mod replay;
mod snapshot;

use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use sawlog_proto::batch::{BatchBuilder, Codec, head_with};

use crate::limits;
use crate::log::{
    AppendError, FrameDraft, LocalLog, LogEnvironment, LogReader, OpenError, RecoveryHint, RecoveryReport,
};
use crate::model::{Offset, PartitionEpoch};

pub use replay::{JournalDamage, Replayed};
pub use snapshot::{ReadBack, SnapshotRun};

/// Bytes of the head of a batch that the broker sets.
const BATCH_HEAD_BYTES: usize = 16;

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Record,
    SnapshotStart,
    SnapshotPart,
    SnapshotEnd,
}

impl Kind {
    fn byte(self) -> u8 {
        match self {
            Self::Record => b'r',
            Self::SnapshotStart => b's',
            Self::SnapshotPart => b'p',
            Self::SnapshotEnd => b'e',
        }
    }

    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Record, Self::SnapshotStart, Self::SnapshotPart, Self::SnapshotEnd]
            .into_iter()
            .find(|kind| kind.byte() == byte)
    }
}

/// A journal to open.
#[derive(Debug, Clone)]
pub struct JournalSpec {
    /// Where its log lives and whose it is.
    pub log: LogEnvironment,
    /// Everything below had been synced, from the checkpoint.
    pub proven_end: Offset,
    /// The clean marker says that it ends here.
    pub clean_end: Option<Offset>,
    /// Whether a journal that is not there is made. Otherwise it is damage: something was there before.
    pub may_create: bool,
}

/// Why a journal takes nothing.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The write failed; nothing of it is in the journal (rule F2).
    #[error("write failed: {source}")]
    Refused {
        /// Why.
        source: io::Error,
    },
    /// A sync failed, now or before: outcome unknown, and nothing is written until the next start (rule F1).
    #[error("stopped: {cause}")]
    Stopped {
        /// Why.
        cause: String,
    },
    /// A snapshot could not be read back; those before it are kept.
    #[error("the snapshot could not be read back: {what}")]
    ReadBack {
        /// Why.
        what: String,
    },
}

/// The writer of one journal. Every call blocks.
#[derive(Debug)]
pub struct Journal {
    environment: LogEnvironment,
    log: LocalLog,
    reader: LogReader,
    epoch: PartitionEpoch,
    last_sequence: u64,
    last_time_ms: i64,
    /// Where the newest good snapshots begin, the newest last; at most two.
    snapshots: Vec<Offset>,
    stopped: Option<String>,
    builder: BatchBuilder,
    /// The second copy of an end that a crash kept from being written: it comes before anything else.
    owed_end: Option<Bytes>,
}

impl Journal {
    /// Opens or makes a journal and reads what it holds. Damage in what must be replayed is no error: it is told in
    /// [`Replayed::damage`], and what came before it is there.
    ///
    /// # Errors
    /// The log could not be opened at all.
    pub fn open(spec: JournalSpec) -> Result<(Self, Replayed), OpenError> {
        let JournalSpec { log: environment, proven_end, clean_end, may_create } = spec;
        let first = first_segment(&environment)?;
        let missing = first.is_none();
        let (log, report) = match first {
            Some(log_start) => {
                let hint = RecoveryHint { log_start, proven_end, clean_end, ..RecoveryHint::default() };
                LocalLog::open(environment.clone(), &hint)?
            }
            None => (LocalLog::create(environment.clone(), PartitionEpoch::ZERO)?, RecoveryReport::default()),
        };
        let unclean = !missing && clean_end != Some(report.end);
        let last_epoch = report.last_epoch.unwrap_or(PartitionEpoch::ZERO);
        // Nothing but this journal reads its epochs, so they are counted here (rule D3).
        let epoch = if unclean { last_epoch.next().unwrap_or(last_epoch) } else { last_epoch };
        let mut journal = Self {
            reader: log.reader(),
            environment,
            epoch,
            last_sequence: 0,
            last_time_ms: report.last_append_time_ms,
            snapshots: Vec::new(),
            stopped: report.fenced.clone(),
            log,
            builder: BatchBuilder::new(Codec::None),
            owed_end: None,
        };
        let mut replayed = journal.replay(report);
        if missing && !may_create {
            replayed.damage = Some(JournalDamage::missing());
        }
        Ok((journal, replayed))
    }

    /// Why nothing is written any more, if so.
    pub fn stopped(&self) -> Option<&str> {
        self.stopped.as_deref()
    }

    /// Sequence of the last record.
    pub fn last_sequence(&self) -> u64 {
        self.last_sequence
    }

    /// Everything below is synced.
    pub fn durable_end(&self) -> Offset {
        self.log.durable_end()
    }

    /// Rules that a test has switched off in this instance.
    pub(crate) fn sabotage(&self) -> crate::log::sabotage::Sabotage {
        self.environment.sabotage()
    }

    /// Bytes of its files.
    pub fn size_bytes(&self) -> u64 {
        self.log.size_bytes()
    }

    /// Appends records, all or none, and syncs them.
    ///
    /// # Errors
    /// [`JournalError::Refused`]: nothing of it is in the journal. [`JournalError::Stopped`]: outcome unknown.
    ///
    /// # Panics
    /// If they are more than a batch may hold: the caller's defect.
    pub fn append(&mut self, payloads: &[Bytes], now_ms: i64) -> Result<(), JournalError> {
        if payloads.is_empty() {
            return Ok(());
        }
        self.write_records(payloads, now_ms)?;
        self.sync()
    }

    /// The same without the sync: they are durable after the next good [`Journal::sync`]. Returns the bytes written.
    ///
    /// # Errors
    /// As [`Journal::append`].
    ///
    /// # Panics
    /// As [`Journal::append`].
    pub fn write_records(&mut self, payloads: &[Bytes], now_ms: i64) -> Result<u64, JournalError> {
        self.check_stopped()?;
        let owed = self.owed_end.clone();
        let mut drafts = Vec::with_capacity(2);
        if let Some(owed) = &owed {
            push(&mut self.builder, Kind::SnapshotEnd, self.last_sequence, owed);
            drafts.push(self.draft(self.log.end(), now_ms));
        }
        for (sequence, payload) in (self.last_sequence + 1..).zip(payloads) {
            push(&mut self.builder, Kind::Record, sequence, payload);
        }
        let draft = self.draft(self.log.end().saturating_add(drafts.len() as u64), now_ms);
        let bytes = draft.batch_rest.len();
        assert!(bytes <= limits::JOURNAL_RECORD_BYTES + limits::BATCH_FRAMING_BYTES, "a change fits a batch");
        drafts.push(draft);
        if self.log.must_roll(bytes as u64) {
            self.roll()?;
        }
        let written = self.write(&drafts)?;
        self.owed_end = None;
        self.last_sequence += payloads.len() as u64;
        Ok(written)
    }

    /// Makes everything that was written durable.
    ///
    /// # Errors
    /// [`JournalError::Stopped`]: outcome unknown.
    pub fn sync(&mut self) -> Result<(), JournalError> {
        let Some(sync) = self.log.pending_sync() else { return self.check_stopped() };
        match sync.run() {
            Ok(()) => {
                self.log.note_synced(&sync);
                Ok(())
            }
            Err(error) => {
                let cause = error.to_string();
                self.log.fence(&cause);
                self.stopped = Some(cause.clone());
                Err(JournalError::Stopped { cause })
            }
        }
    }

    /// Marks and syncs; returns the end for the clean marker.
    ///
    /// # Errors
    /// As [`Journal::append`].
    pub fn close(&mut self, now_ms: i64) -> Result<Offset, JournalError> {
        self.check_stopped()?;
        self.last_time_ms = self.last_time_ms.max(now_ms);
        self.log.close(self.last_time_ms, self.epoch).map_err(|error| self.note_append_error(error))
    }

    fn check_stopped(&self) -> Result<(), JournalError> {
        match &self.stopped {
            Some(cause) => Err(JournalError::Stopped { cause: cause.clone() }),
            None => Ok(()),
        }
    }

    fn active_is_used(&self) -> bool {
        let segments = self.log.segments();
        segments.last().is_none_or(|active| active.end > active.base)
    }

    /// The frame of what has been pushed to the builder.
    fn draft(&mut self, base_offset: Offset, now_ms: i64) -> FrameDraft {
        self.last_time_ms = self.last_time_ms.max(now_ms);
        let record_count = self.builder.record_count();
        let batch = self.builder.finish();
        let epoch = i32::try_from(self.epoch.get()).expect("an epoch is at most i32::MAX");
        let head = head_with(&batch, base_offset.to_wire(), epoch);
        FrameDraft {
            base_offset,
            record_count,
            append_time_ms: self.last_time_ms,
            epoch: self.epoch,
            extensions: Bytes::new(),
            batch_head: Bytes::copy_from_slice(&head),
            batch_rest: batch.slice(BATCH_HEAD_BYTES..),
        }
    }

    fn write(&mut self, drafts: &[FrameDraft]) -> Result<u64, JournalError> {
        self.log.append(drafts).map(|appended| appended.bytes).map_err(|error| self.note_append_error(error))
    }

    fn roll(&mut self) -> Result<(), JournalError> {
        self.log.roll().map_err(|error| self.note_append_error(error))
    }

    fn note_append_error(&mut self, error: AppendError) -> JournalError {
        match error {
            AppendError::Write { source } => JournalError::Refused { source },
            AppendError::Fenced { cause } => {
                self.stopped = Some(cause.clone());
                JournalError::Stopped { cause }
            }
        }
    }
}

fn push(builder: &mut BatchBuilder, kind: Kind, sequence: u64, payload: &[u8]) {
    let mut key = [0; 9];
    key[0] = kind.byte();
    key[1..].copy_from_slice(&sequence.to_be_bytes());
    builder.push(0, Some(&key), Some(payload), std::iter::empty());
}

/// Base of the oldest segment that is there: a journal's start is kept nowhere else.
fn first_segment(environment: &LogEnvironment) -> Result<Option<Offset>, OpenError> {
    let io = |action: &'static str, path: &Path| {
        let path = PathBuf::from(path);
        move |source| OpenError::Io { action, path, source }
    };
    let dir = &environment.dir;
    if !environment.storage.exists(dir).map_err(io("looking for", dir))? {
        return Ok(None);
    }
    let entries = environment.storage.list(dir).map_err(io("listing", dir))?;
    let bases = entries.iter().filter(|entry| !entry.is_dir).filter_map(|entry| {
        let digits = entry.name.strip_suffix(".log").filter(|digits| digits.len() == 20)?;
        Offset::new(digits.parse().ok()?)
    });
    Ok(bases.min())
}

#[cfg(test)]
mod tests;
