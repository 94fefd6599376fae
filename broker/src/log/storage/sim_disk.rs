//! A simulated disk that does everything a real one is allowed to do: for tests only (feature `testing`).
//!
//! Each file has a page cache and a device, each directory its entries in both. [`SimDisk::crash`] gives what a power
//! loss may leave, [`SimDisk::kill`] what the death of the process leaves. A sync can fail as Linux lets it fail: the
//! pages count as clean afterwards, the next sync succeeds, cached reads show the new bytes and the device has the
//! old. Every call has a number, so that a test can crash or fail at each of them.
//!
//! It must not know what the bytes mean. Everything depends on seeds alone.

mod crash;
mod fault;
mod file;
mod random;
mod state;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;

use parking_lot::Mutex;

use super::{DirEntry, MappedFile, OpenMode, Space, Storage, StorageFile, StorageLock};
use crate::log::sabotage::Sabotage;

pub use fault::{Effect, Fault, Op, OpKind};
pub use random::SmallRandom;

use file::SimFile;
use state::{DirChange, DirNode, FileNode, Node, NodeId, ROOT, State, errno};

/// The machine as it was after one call.
#[derive(Debug, Clone)]
pub struct SimImage {
    /// Calls made so far: the number of the next call.
    pub ops: u64,
    /// The last call.
    pub last: OpKind,
    state: State,
}

impl SimImage {
    /// What a power loss at this moment leaves.
    pub fn crash(&self, seed: u64) -> SimDisk {
        SimDisk::of(crash::power_loss(&self.state, seed))
    }

    /// What the death of the process at this moment leaves: the page cache is still there.
    pub fn kill(&self) -> SimDisk {
        SimDisk::of(killed(&self.state))
    }
}

fn killed(state: &State) -> State {
    let mut state = state.clone();
    state.locked.clear();
    state
}

#[derive(Debug, Clone, Copy)]
struct ReadFlip {
    node: NodeId,
    byte: u64,
    mask: u8,
    reads: u32,
}

#[derive(Debug, Default)]
struct Machine {
    state: State,
    ops: Vec<Op>,
    faults: Vec<Fault>,
    flips: Vec<ReadFlip>,
    images: Option<Vec<SimImage>>,
    sabotage: Sabotage,
    random: Option<SmallRandom>,
}

impl Machine {
    /// Counts a call and says what goes wrong with it.
    fn begin(&mut self, kind: OpKind, path: &Path, position: u64, len: u64) -> Option<Effect> {
        let index = self.ops.len() as u64;
        let hit = self.faults.iter().position(|fault| {
            fault.from_op <= index
                && (fault.kinds.is_empty() || fault.kinds.contains(&kind))
                && path.to_string_lossy().contains(&fault.path_contains)
                && (matches!(fault.effect, Effect::Errno(_)) || kind == OpKind::Write)
        });
        let effect = hit.map(|at| {
            let effect = self.faults[at].effect;
            if !self.faults[at].forever {
                self.faults.remove(at);
            }
            effect
        });
        let injected = match effect {
            Some(Effect::Errno(number)) => Some(number),
            _ => None,
        };
        self.ops.push(Op { index, kind, path: path.to_path_buf(), position, len, injected });
        effect
    }

    /// The same for calls that can only fail or not.
    fn begin_plain(&mut self, kind: OpKind, path: &Path) -> io::Result<()> {
        match self.begin(kind, path, 0, 0) {
            Some(Effect::Errno(number)) => Err(errno(number)),
            _ => Ok(()),
        }
    }

    /// Keeps an image of the machine after a call that changed it.
    fn end(&mut self, kind: OpKind) {
        if let Some(images) = &mut self.images {
            images.push(SimImage { ops: self.ops.len() as u64, last: kind, state: self.state.clone() });
        }
    }

    fn random(&mut self) -> &mut SmallRandom {
        self.random.get_or_insert_with(|| SmallRandom::new(0))
    }
}

/// The simulated disk; clones are the same disk.
#[derive(Debug, Clone, Default)]
pub struct SimDisk {
    machine: Arc<Mutex<Machine>>,
}

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    fn of(state: State) -> Self {
        Self { machine: Arc::new(Mutex::new(Machine { state, ..Machine::default() })) }
    }

    /// The same disk as the trait object that the engine wants.
    pub fn storage(&self) -> Arc<dyn Storage> {
        Arc::new(self.clone())
    }

    /// A second disk with the same files, durable and cached; faults, flips and calls are not taken over.
    pub fn fork(&self) -> Self {
        Self::of(killed(&self.machine.lock().state))
    }

    /// What a power loss now leaves. The seed alone decides.
    pub fn crash(&self, seed: u64) -> Self {
        Self::of(crash::power_loss(&self.machine.lock().state, seed))
    }

    /// What the death of the process now leaves: the page cache is still there, locks are gone.
    pub fn kill(&self) -> Self {
        self.fork()
    }

    /// Switches rules off for whoever uses this disk.
    pub fn set_sabotage(&self, sabotage: Sabotage) {
        self.machine.lock().sabotage = sabotage;
    }

    /// Seed of what a failed sync loses.
    pub fn set_seed(&self, seed: u64) {
        self.machine.lock().random = Some(SmallRandom::new(seed));
    }

    /// Number of calls so far.
    pub fn op_count(&self) -> u64 {
        self.machine.lock().ops.len() as u64
    }

    /// All calls so far.
    pub fn ops(&self) -> Vec<Op> {
        self.machine.lock().ops.clone()
    }

    /// Adds a fault.
    pub fn inject(&self, fault: Fault) {
        self.machine.lock().faults.push(fault);
    }

    /// Takes all faults away.
    pub fn clear_faults(&self) {
        self.machine.lock().faults.clear();
    }

    /// From now on keeps an image after each call that changes something.
    pub fn record_images(&self) {
        self.machine.lock().images = Some(Vec::new());
    }

    /// The images kept; recording ends.
    pub fn take_images(&self) -> Vec<SimImage> {
        self.machine.lock().images.take().unwrap_or_default()
    }

    /// Bytes that all files together may take; 1 TiB at first. Already used ones may be more.
    pub fn set_quota(&self, bytes: u64) {
        self.machine.lock().state.quota_bytes = bytes;
    }

    /// Bytes that all files take.
    pub fn used_bytes(&self) -> u64 {
        self.machine.lock().state.used_bytes()
    }

    /// A write-back that nobody asked for fails: what is pending in the file is lost on the device, and the next sync
    /// of each descriptor says so, once.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn fail_write_back(&self, path: &str, number: i32) {
        let mut machine = self.machine.lock();
        let mut random = machine.random().clone();
        let node = machine.state.find_file(Path::new(path)).expect("the test names a file that is there");
        machine.state.file(node).fail_write_back(number, &mut random);
        machine.random = Some(random);
    }

    /// Paths of all files.
    pub fn files(&self) -> Vec<String> {
        let mut found = Vec::new();
        self.machine.lock().state.files(ROOT, "", &mut found);
        found.into_iter().map(|(path, _)| path).collect()
    }

    /// All bytes of a file, as the system shows them; not counted as a call.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn bytes_of(&self, path: &str) -> Vec<u8> {
        let mut machine = self.machine.lock();
        let node = machine.state.find_file(Path::new(path)).expect("the test names a file that is there");
        machine.state.file(node).cache.as_ref().clone()
    }

    /// Puts a file there, durably, over an old one: damage of any kind. Its directory must be there.
    ///
    /// # Panics
    /// If the directory is not there.
    pub fn put_file(&self, path: &str, bytes: Vec<u8>) {
        let mut machine = self.machine.lock();
        let (dir, name) = machine.state.parent(Path::new(path)).expect("the directory is there");
        let bytes = Arc::new(bytes);
        let allocated = bytes.len() as u64;
        let file = FileNode { durable: Arc::clone(&bytes), cache: bytes, allocated, ..FileNode::default() };
        let old = machine.state.dir(dir).cache.get(&name).copied();
        if let Some(node) = old {
            *machine.state.file(node) = file;
            return;
        }
        let node = machine.state.add(Node::File(file));
        let dir = machine.state.dir(dir);
        dir.cache.insert(name.clone(), node);
        dir.durable.insert(name, node);
    }

    /// Takes a file away, durably.
    ///
    /// # Panics
    /// If the directory is not there.
    pub fn lose_file(&self, path: &str) {
        let mut machine = self.machine.lock();
        let (dir, name) = machine.state.parent(Path::new(path)).expect("the directory is there");
        let dir = machine.state.dir(dir);
        dir.cache.remove(&name);
        dir.durable.remove(&name);
    }

    /// Flips bits of one byte, on the device and in the cache.
    ///
    /// # Panics
    /// If there is no such file or byte.
    pub fn flip(&self, path: &str, byte: u64, mask: u8) {
        let mut machine = self.machine.lock();
        let node = machine.state.find_file(Path::new(path)).expect("the test names a file that is there");
        let file = machine.state.file(node);
        let at = usize::try_from(byte).expect("a simulated file fits memory");
        for side in [&mut file.cache, &mut file.durable] {
            if let Some(byte) = Arc::make_mut(side).get_mut(at) {
                *byte ^= mask;
            }
        }
    }

    /// Flips bits of one byte in the next `reads` reads of it; the file is as it was.
    ///
    /// # Panics
    /// If there is no such file.
    pub fn flip_reads(&self, path: &str, byte: u64, mask: u8, reads: u32) {
        let mut machine = self.machine.lock();
        let node = machine.state.find_file(Path::new(path)).expect("the test names a file that is there");
        machine.flips.push(ReadFlip { node, byte, mask, reads });
    }
}

impl Storage for SimDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let mut machine = self.machine.lock();
        let kind = if mode == OpenMode::CreateNew { OpKind::Create } else { OpKind::Open };
        machine.begin_plain(kind, path)?;
        let node = if mode == OpenMode::CreateNew {
            let (dir, name) = machine.state.parent(path)?;
            if machine.state.dir(dir).cache.contains_key(&name) {
                return Err(errno(libc::EEXIST));
            }
            let node = machine.state.add(Node::File(FileNode::default()));
            machine.state.link(dir, name, node);
            machine.end(kind);
            node
        } else {
            machine.state.find_file(path)?
        };
        let file = machine.state.file(node);
        // A new descriptor sees an old error if no other has seen it.
        let seen = if file.failure_seen { file.failures } else { file.failures.saturating_sub(1) };
        Ok(Arc::new(SimFile {
            machine: Arc::clone(&self.machine),
            node,
            path: path.to_path_buf(),
            writable: mode != OpenMode::Read,
            failures_seen: AtomicU64::new(seen),
        }))
    }

    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::CreateDir, path)?;
        let mut at = ROOT;
        for name in state::names(path)? {
            let found = machine.state.dir(at).cache.get(name).copied();
            at = match found {
                Some(node) if machine.state.is_dir(node) => node,
                Some(_) => return Err(errno(libc::ENOTDIR)),
                None => {
                    let node = machine.state.add(Node::Dir(DirNode::default()));
                    machine.state.link(at, name.to_owned(), node);
                    machine.end(OpKind::CreateDir);
                    node
                }
            };
        }
        Ok(())
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::Rename, from)?;
        let (from_dir, from_name) = machine.state.parent(from)?;
        let (to_dir, to_name) = machine.state.parent(to)?;
        let node = *machine.state.dir(from_dir).cache.get(&from_name).ok_or_else(|| errno(libc::ENOENT))?;
        if from_dir == to_dir {
            let dir = machine.state.dir(from_dir);
            dir.cache.remove(&from_name);
            dir.cache.insert(to_name.clone(), node);
            dir.pending.push(DirChange::Rename { from: from_name, to: to_name, node });
        } else {
            machine.state.link(to_dir, to_name, node);
            machine.state.unlink(from_dir, from_name);
        }
        machine.end(OpKind::Rename);
        Ok(())
    }

    fn remove_file(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::RemoveFile, path)?;
        machine.state.find_file(path)?;
        let (dir, name) = machine.state.parent(path)?;
        machine.state.unlink(dir, name);
        machine.end(OpKind::RemoveFile);
        Ok(())
    }

    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::RemoveDir, path)?;
        let node = machine.state.find_dir(path)?;
        let (dir, name) = machine.state.parent(path)?;
        machine.state.empty_dir(node);
        machine.end(OpKind::RemoveDir);
        machine.state.unlink(dir, name);
        machine.end(OpKind::RemoveDir);
        Ok(())
    }

    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        let mut machine = self.machine.lock();
        if machine.sabotage.skips_directory_sync() {
            return Ok(());
        }
        machine.begin_plain(OpKind::SyncDir, path)?;
        let node = machine.state.find_dir(path)?;
        let dir = machine.state.dir(node);
        dir.durable = dir.cache.clone();
        dir.pending.clear();
        machine.end(OpKind::SyncDir);
        Ok(())
    }

    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::List, path)?;
        let node = machine.state.find_dir(path)?;
        let entries = machine.state.dir(node).cache.clone();
        let entry = |(name, node): (String, NodeId)| DirEntry { name, is_dir: machine.state.is_dir(node) };
        Ok(entries.into_iter().map(entry).collect())
    }

    fn exists(&self, path: &Path) -> io::Result<bool> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::Exists, path)?;
        match machine.state.find(path) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    fn space(&self) -> io::Result<Space> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::Space, Path::new(""))?;
        let total_bytes = machine.state.quota_bytes;
        Ok(Space { free_bytes: total_bytes.saturating_sub(machine.state.used_bytes()), total_bytes })
    }

    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::Lock, path)?;
        let (dir, name) = machine.state.parent(path)?;
        if !machine.state.dir(dir).cache.contains_key(&name) {
            let node = machine.state.add(Node::File(FileNode::default()));
            machine.state.link(dir, name, node);
            machine.end(OpKind::Lock);
        }
        let path = path.to_string_lossy().into_owned();
        if !machine.state.locked.insert(path.clone()) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        Ok(Box::new(SimLock { machine: Arc::clone(&self.machine), path }))
    }

    fn map(&self, path: &Path) -> io::Result<Box<dyn MappedFile>> {
        let mut machine = self.machine.lock();
        machine.begin_plain(OpKind::Map, path)?;
        let node = machine.state.find_file(path)?;
        Ok(Box::new(SimMap { bytes: Arc::clone(&machine.state.file(node).cache) }))
    }

    fn sabotage(&self) -> Sabotage {
        self.machine.lock().sabotage
    }
}

#[derive(Debug)]
struct SimLock {
    machine: Arc<Mutex<Machine>>,
    path: String,
}

impl StorageLock for SimLock {}

impl Drop for SimLock {
    fn drop(&mut self) {
        self.machine.lock().state.locked.remove(&self.path);
    }
}

#[derive(Debug)]
struct SimMap {
    bytes: Arc<Vec<u8>>,
}

impl MappedFile for SimMap {
    fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
#[path = "sim_disk/tests.rs"]
mod tests;
