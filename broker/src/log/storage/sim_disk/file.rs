//! An open file of the simulated disk.

use std::io::{self, IoSlice};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::state::{Change, NodeId, PAGE_BYTES, State, errno, put, resize};
use super::{Effect, Machine, OpKind};
use crate::log::storage::StorageFile;

/// A descriptor.
#[derive(Debug)]
pub(super) struct SimFile {
    pub(super) machine: Arc<Mutex<Machine>>,
    pub(super) node: NodeId,
    pub(super) path: PathBuf,
    pub(super) writable: bool,
    /// Failed write-backs that this descriptor has told of.
    pub(super) failures_seen: AtomicU64,
}

/// Bytes of `len`, from `position`, that the space left allows.
fn fitting(state: &mut State, node: NodeId, position: u64, len: u64) -> u64 {
    let free = state.quota_bytes.saturating_sub(state.used_bytes());
    let own = state.file(node).space_bytes();
    let most = (own + free) / PAGE_BYTES * PAGE_BYTES;
    most.max(own).saturating_sub(position).min(len)
}

impl SimFile {
    fn check_writable(&self) -> io::Result<()> {
        if self.writable { Ok(()) } else { Err(errno(libc::EBADF)) }
    }

    fn sync_once(&self, machine: &mut Machine) -> io::Result<()> {
        if let Some(Effect::Errno(number)) = machine.begin(OpKind::Sync, &self.path, 0, 0) {
            let mut random = machine.random().clone();
            machine.state.file(self.node).fail_write_back(number, &mut random);
            machine.random = Some(random);
        }
        let file = machine.state.file(self.node);
        if file.failures > self.failures_seen.load(Ordering::SeqCst) {
            self.failures_seen.store(file.failures, Ordering::SeqCst);
            file.failure_seen = true;
            let number = file.errno;
            machine.end(OpKind::Sync);
            return Err(errno(number));
        }
        file.settle();
        machine.end(OpKind::Sync);
        Ok(())
    }

    fn begin(&self, machine: &mut Machine, kind: OpKind, position: u64, len: u64) -> io::Result<Option<Effect>> {
        match machine.begin(kind, &self.path, position, len) {
            Some(Effect::Errno(number)) => Err(errno(number)),
            other => Ok(other),
        }
    }
}

impl StorageFile for SimFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let mut machine = self.machine.lock();
        self.begin(&mut machine, OpKind::Read, position, buffer.len() as u64)?;
        let cache = Arc::clone(&machine.state.file(self.node).cache);
        let from = usize::try_from(position).map_or(cache.len(), |from| from.min(cache.len()));
        let count = buffer.len().min(cache.len() - from);
        buffer[..count].copy_from_slice(&cache[from..from + count]);
        let range = position..position + count as u64;
        for flip in &mut machine.flips {
            if flip.node == self.node && flip.reads > 0 && range.contains(&flip.byte) {
                flip.reads -= 1;
                buffer[usize::try_from(flip.byte - position).expect("within the buffer")] ^= flip.mask;
            }
        }
        Ok(count)
    }

    fn read_cached_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.read_at(buffer, position)
    }

    fn write_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.check_writable()?;
        let mut bytes: Vec<u8> = buffers.iter().flat_map(|buffer| buffer.iter().copied()).collect();
        let mut machine = self.machine.lock();
        let effect = self.begin(&mut machine, OpKind::Write, position, bytes.len() as u64)?;
        if effect == Some(Effect::ShortWrite) {
            bytes.truncate(bytes.len() / 2);
        }
        let fits = fitting(&mut machine.state, self.node, position, bytes.len() as u64);
        if fits == 0 && !bytes.is_empty() {
            return Err(errno(libc::ENOSPC));
        }
        bytes.truncate(usize::try_from(fits).expect("at most what was asked for"));
        let count = bytes.len();
        let lands = match effect {
            Some(Effect::Misdirected(by)) => position.saturating_add_signed(by),
            _ => position,
        };
        let file = machine.state.file(self.node);
        put(Arc::make_mut(&mut file.cache), lands, &bytes);
        file.allocated = file.allocated.max(file.cache.len() as u64);
        file.pending.push(Change::Write { position: lands, bytes: bytes.into() });
        machine.end(OpKind::Write);
        Ok(count)
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let result = self.sync_once(&mut machine);
        if result.is_err() && machine.sabotage.retries_failed_sync() {
            return self.sync_once(&mut machine);
        }
        result
    }

    fn sync_all(&self) -> io::Result<()> {
        self.sync_data()
    }

    fn start_write_back(&self, position: u64, len: u64) -> io::Result<()> {
        let mut machine = self.machine.lock();
        let begun = self.begin(&mut machine, OpKind::StartWriteBack, position, len);
        if let Err(error) = begun {
            let mut random = machine.random().clone();
            let number = error.raw_os_error().unwrap_or(libc::EIO);
            machine.state.file(self.node).fail_write_back(number, &mut random);
            machine.random = Some(random);
            return Err(error);
        }
        Ok(())
    }

    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut machine = self.machine.lock();
        self.begin(&mut machine, OpKind::Allocate, position, len)?;
        if fitting(&mut machine.state, self.node, position, len) < len {
            return Err(errno(libc::ENOSPC));
        }
        let file = machine.state.file(self.node);
        file.allocated = file.allocated.max(position + len);
        machine.end(OpKind::Allocate);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.check_writable()?;
        let mut machine = self.machine.lock();
        self.begin(&mut machine, OpKind::SetLen, 0, len)?;
        let file = machine.state.file(self.node);
        resize(Arc::make_mut(&mut file.cache), len);
        file.allocated = len;
        file.pending.push(Change::SetLen(len));
        machine.end(OpKind::SetLen);
        Ok(())
    }

    fn len(&self) -> io::Result<u64> {
        let mut machine = self.machine.lock();
        self.begin(&mut machine, OpKind::Len, 0, 0)?;
        Ok(machine.state.file(self.node).cache.len() as u64)
    }

    fn drop_cache(&self) -> io::Result<bool> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::DropCache, &self.path)?;
        Ok(machine.state.file(self.node).drop_cache())
    }
}
