//! A log in memory for tests of the group append: it checks what the real one would rely on, and fails when told to.

use super::append::GroupLog;
use super::producers::Producers;
use super::sync::{Arc, Mutex};
use super::{AppendError, Appended, FrameDraft, Offset, PartitionEpoch, SyncError};

/// Which call of a kind fails: the n-th from now, from 1; 0: none.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Failures {
    /// A sync fails.
    pub(crate) sync: u32,
    /// An append fails and is taken back.
    pub(crate) append: u32,
    /// An append fails and cannot be taken back.
    pub(crate) append_for_good: u32,
    /// A roll fails.
    pub(crate) roll: u32,
}

/// What lies on the disk, and what was asked of it.
#[derive(Debug, Default)]
pub(crate) struct DiskState {
    /// Base offset, record count, append time and epoch of each frame in the log.
    pub(crate) frames: Vec<(Offset, u32, i64, PartitionEpoch)>,
    /// Everything below is synced.
    pub(crate) durable_end: Offset,
    /// A sync is running.
    pub(crate) syncing: bool,
    /// Syncs that ended well.
    pub(crate) syncs: u32,
    /// Calls of append.
    pub(crate) appends: u32,
    /// Rolls done.
    pub(crate) rolls: u32,
    /// What fails.
    pub(crate) failures: Failures,
    /// Every append is slow, as far as unsynced bytes tell.
    pub(crate) unwell: bool,
}

/// The disk of a [`FakeLog`], for the test to look at.
#[derive(Debug)]
pub(crate) struct FakeDisk(pub(crate) Mutex<DiskState>);

/// A log in memory.
pub(crate) struct FakeLog {
    disk: Arc<FakeDisk>,
    end: Offset,
    durable_end: Offset,
    fence: Option<String>,
    unsynced_bytes: u64,
    segment_bytes: u64,
    bytes_in_segment: u64,
}

/// A sync of a [`FakeLog`].
pub(crate) struct FakeSync {
    disk: Arc<FakeDisk>,
    end: Offset,
}

/// Counts down; true at the call that must fail.
fn fails(left: &mut u32) -> bool {
    *left = left.saturating_sub(1);
    *left == 0
}

impl FakeLog {
    /// An empty log whose segments take so many bytes.
    pub(crate) fn new(segment_bytes: u64) -> (Self, Arc<FakeDisk>) {
        let disk = Arc::new(FakeDisk(Mutex::new(DiskState::default())));
        let (end, durable_end) = (Offset::ZERO, Offset::ZERO);
        let log = Self {
            disk: Arc::clone(&disk),
            end,
            durable_end,
            fence: None,
            unsynced_bytes: 0,
            segment_bytes,
            bytes_in_segment: 0,
        };
        (log, disk)
    }

    /// Leaves the fence: what lay above the durable end is gone.
    pub(crate) fn reopen(&mut self) {
        let mut disk = self.disk.0.lock();
        self.fence = None;
        self.end = self.durable_end;
        self.unsynced_bytes = 0;
        let end = self.end;
        disk.frames.retain(|frame| frame.0 < end);
    }
}

impl GroupLog for FakeLog {
    type Sync = FakeSync;

    fn end(&self) -> Offset {
        self.end
    }

    fn durable_end(&self) -> Offset {
        self.durable_end
    }

    fn unsynced_bytes(&self) -> u64 {
        if self.disk.0.lock().unwell { u64::MAX } else { self.unsynced_bytes }
    }

    fn fenced(&self) -> Option<String> {
        self.fence.clone()
    }

    fn append(&mut self, frames: &[FrameDraft]) -> Result<Appended, AppendError> {
        assert!(self.fence.is_none(), "nothing is appended behind a fence");
        let mut disk = self.disk.0.lock();
        disk.appends += 1;
        if disk.failures.append != 0 && fails(&mut disk.failures.append) {
            return Err(AppendError::Write { source: std::io::Error::from_raw_os_error(28) });
        }
        if disk.failures.append_for_good != 0 && fails(&mut disk.failures.append_for_good) {
            drop(disk);
            self.fence = Some("taking back failed".to_owned());
            return Err(AppendError::Fenced { cause: "taking back failed".to_owned() });
        }
        let mut bytes = 0;
        for frame in frames {
            assert_eq!(frame.base_offset, self.end, "offsets follow each other (D3)");
            let (time, epoch) = disk.frames.last().map_or((i64::MIN, PartitionEpoch::ZERO), |last| (last.2, last.3));
            assert!(frame.append_time_ms >= time, "times never fall (F6)");
            assert!(frame.epoch >= epoch, "epochs never fall (D3)");
            assert_eq!(frame.batch_head[..8], frame.base_offset.to_wire().to_be_bytes(), "the base offset is stamped");
            assert_eq!(frame.batch_head[12..16], frame.epoch.get().to_be_bytes(), "the epoch is stamped");
            disk.frames.push((frame.base_offset, frame.record_count, frame.append_time_ms, frame.epoch));
            self.end = self.end.saturating_add(u64::from(frame.record_count));
            bytes += (frame.batch_head.len() + frame.batch_rest.len()) as u64;
        }
        self.unsynced_bytes += bytes;
        self.bytes_in_segment += bytes;
        Ok(Appended { end: self.end, bytes })
    }

    fn must_roll(&self, incoming_bytes: u64, _append_time_ms: i64) -> bool {
        self.bytes_in_segment > 0 && self.bytes_in_segment + incoming_bytes > self.segment_bytes
    }

    fn roll(&mut self, _producers: &Producers) -> Result<(), AppendError> {
        let mut disk = self.disk.0.lock();
        assert!(!disk.syncing, "no sync runs beside a roll");
        if disk.failures.roll != 0 && fails(&mut disk.failures.roll) {
            return Err(AppendError::Write { source: std::io::Error::from_raw_os_error(28) });
        }
        disk.rolls += 1;
        disk.durable_end = self.end;
        self.durable_end = self.end;
        self.unsynced_bytes = 0;
        self.bytes_in_segment = 0;
        Ok(())
    }

    fn begin_sync(&self) -> Option<FakeSync> {
        assert!(self.fence.is_none(), "no sync begins behind a fence (F1)");
        (self.end > self.durable_end).then(|| FakeSync { disk: Arc::clone(&self.disk), end: self.end })
    }

    fn run_sync(sync: &FakeSync) -> Result<(), SyncError> {
        {
            let mut disk = sync.disk.0.lock();
            assert!(!disk.syncing, "one sync is in flight at most");
            disk.syncing = true;
        }
        // Others may come between: this is what takes its time.
        let mut disk = sync.disk.0.lock();
        disk.syncing = false;
        if disk.failures.sync != 0 && fails(&mut disk.failures.sync) {
            return Err(SyncError { errno: Some(5), what: "i/o error".to_owned() });
        }
        disk.syncs += 1;
        disk.durable_end = disk.durable_end.max(sync.end);
        Ok(())
    }

    fn note_synced(&mut self, sync: &FakeSync) {
        self.durable_end = self.durable_end.max(sync.end);
        if self.durable_end == self.end {
            self.unsynced_bytes = 0;
        }
    }

    fn fence(&mut self, cause: &str) {
        self.fence = Some(cause.to_owned());
    }
}
