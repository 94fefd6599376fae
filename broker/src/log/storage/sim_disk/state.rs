//! What the simulated machine holds: a page cache and a device for every file and directory.
//!
//! Invariants: `cache` is what the system shows; `durable` is what the device has; `pending` leads from the one to the
//! other unless a failed sync has lost something, of which `cache` then knows and the device does not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::{Component, Path};
use std::sync::Arc;

use super::random::SmallRandom;

/// Names a file or directory, whatever its path is.
pub(super) type NodeId = u64;
/// The data directory.
pub(super) const ROOT: NodeId = 0;
/// Bytes of a page of the cache.
pub(super) const PAGE_BYTES: u64 = 4096;

/// A change of a file that the device has not got yet.
#[derive(Debug, Clone)]
pub(super) enum Change {
    Write { position: u64, bytes: Arc<[u8]> },
    SetLen(u64),
}

/// A file.
#[derive(Debug, Clone, Default)]
pub(super) struct FileNode {
    pub(super) durable: Arc<Vec<u8>>,
    pub(super) cache: Arc<Vec<u8>>,
    pub(super) pending: Vec<Change>,
    /// Bytes of space that it holds, at least its length.
    pub(super) allocated: u64,
    /// Number of failed write-backs so far; a descriptor learns of each once.
    pub(super) failures: u64,
    /// Whether some descriptor has learnt of the last one.
    pub(super) failure_seen: bool,
    /// Error number of the last one.
    pub(super) errno: i32,
}

/// A change of a directory that the device has not got yet.
#[derive(Debug, Clone)]
pub(super) enum DirChange {
    Link { name: String, node: NodeId },
    Unlink { name: String },
    Rename { from: String, to: String, node: NodeId },
}

/// A directory.
#[derive(Debug, Clone, Default)]
pub(super) struct DirNode {
    pub(super) durable: BTreeMap<String, NodeId>,
    pub(super) cache: BTreeMap<String, NodeId>,
    pub(super) pending: Vec<DirChange>,
}

/// A file or a directory.
#[derive(Debug, Clone)]
pub(super) enum Node {
    File(FileNode),
    Dir(DirNode),
}

/// All files and directories.
#[derive(Debug, Clone)]
pub(super) struct State {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    pub(super) next_node: NodeId,
    pub(super) locked: BTreeSet<String>,
    pub(super) quota_bytes: u64,
}

impl Default for State {
    fn default() -> Self {
        let nodes = BTreeMap::from([(ROOT, Node::Dir(DirNode::default()))]);
        Self { nodes, next_node: ROOT + 1, locked: BTreeSet::new(), quota_bytes: 1 << 40 }
    }
}

/// Overwrites from `position`, filling a gap behind the end with zeros.
pub(super) fn put(bytes: &mut Vec<u8>, position: u64, part: &[u8]) {
    let from = usize::try_from(position).expect("a simulated file fits memory");
    if bytes.len() < from + part.len() {
        bytes.resize(from + part.len(), 0);
    }
    bytes[from..from + part.len()].copy_from_slice(part);
}

/// Sets the length; what is new is zero.
pub(super) fn resize(bytes: &mut Vec<u8>, len: u64) {
    bytes.resize(usize::try_from(len).expect("a simulated file fits memory"), 0);
}

/// The system's error of this number.
pub(super) fn errno(number: i32) -> io::Error {
    io::Error::from_raw_os_error(number)
}

/// The names of a relative path.
pub(super) fn names(path: &Path) -> io::Result<Vec<&str>> {
    path.components()
        .map(|component| match component {
            Component::Normal(name) => name.to_str().ok_or_else(|| errno(libc::EINVAL)),
            _ => Err(errno(libc::EINVAL)),
        })
        .collect()
}

impl FileNode {
    /// Everything pending reaches the device.
    pub(super) fn settle(&mut self) {
        let durable = Arc::make_mut(&mut self.durable);
        for change in self.pending.drain(..) {
            match change {
                Change::Write { position, bytes } => put(durable, position, &bytes),
                Change::SetLen(len) => resize(durable, len),
            }
        }
        resize(durable, self.cache.len() as u64);
    }

    /// A write-back fails: a part of what is pending may reach the device, the rest is lost there and, since its pages
    /// count as clean, never tried again. The cache keeps it until it is dropped.
    pub(super) fn fail_write_back(&mut self, number: i32, random: &mut SmallRandom) {
        let survived = super::crash::surviving(&self.durable, &self.pending, random);
        self.durable = Arc::new(survived);
        self.pending.clear();
        self.failures += 1;
        self.failure_seen = false;
        self.errno = number;
    }

    /// Clean pages leave the cache; the length, which the system keeps apart, stays.
    pub(super) fn drop_cache(&mut self) -> bool {
        let len = self.cache.len() as u64;
        let mut cache = self.durable.as_ref().clone();
        for change in &self.pending {
            match change {
                Change::Write { position, bytes } => put(&mut cache, *position, bytes),
                Change::SetLen(len) => resize(&mut cache, *len),
            }
        }
        resize(&mut cache, len);
        self.cache = Arc::new(cache);
        self.pending.is_empty()
    }

    pub(super) fn space_bytes(&self) -> u64 {
        (self.cache.len() as u64).max(self.allocated).next_multiple_of(PAGE_BYTES)
    }
}

impl State {
    pub(super) fn file(&mut self, node: NodeId) -> &mut FileNode {
        match self.nodes.get_mut(&node) {
            Some(Node::File(file)) => file,
            _ => unreachable!("a descriptor keeps its file"),
        }
    }

    pub(super) fn dir(&mut self, node: NodeId) -> &mut DirNode {
        match self.nodes.get_mut(&node) {
            Some(Node::Dir(dir)) => dir,
            _ => unreachable!("a directory's id names a directory"),
        }
    }

    pub(super) fn is_dir(&self, node: NodeId) -> bool {
        matches!(self.nodes.get(&node), Some(Node::Dir(_)))
    }

    pub(super) fn add(&mut self, node: Node) -> NodeId {
        let id = self.next_node;
        self.next_node += 1;
        self.nodes.insert(id, node);
        id
    }

    pub(super) fn find(&self, path: &Path) -> io::Result<NodeId> {
        let mut at = ROOT;
        for name in names(path)? {
            let Some(Node::Dir(dir)) = self.nodes.get(&at) else { return Err(errno(libc::ENOTDIR)) };
            at = *dir.cache.get(name).ok_or_else(|| errno(libc::ENOENT))?;
        }
        Ok(at)
    }

    pub(super) fn find_dir(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.find(path)?;
        if self.is_dir(node) { Ok(node) } else { Err(errno(libc::ENOTDIR)) }
    }

    pub(super) fn find_file(&self, path: &Path) -> io::Result<NodeId> {
        let node = self.find(path)?;
        if self.is_dir(node) { Err(errno(libc::EISDIR)) } else { Ok(node) }
    }

    /// The directory that holds `path`, and the last name.
    pub(super) fn parent(&self, path: &Path) -> io::Result<(NodeId, String)> {
        let name = names(path)?.pop().ok_or_else(|| errno(libc::EINVAL))?.to_owned();
        Ok((self.find_dir(path.parent().unwrap_or(Path::new("")))?, name))
    }

    pub(super) fn link(&mut self, dir: NodeId, name: String, node: NodeId) {
        let dir = self.dir(dir);
        dir.cache.insert(name.clone(), node);
        dir.pending.push(DirChange::Link { name, node });
    }

    pub(super) fn unlink(&mut self, dir: NodeId, name: String) {
        let dir = self.dir(dir);
        dir.cache.remove(&name);
        dir.pending.push(DirChange::Unlink { name });
    }

    /// Takes away everything below a directory, entry by entry, as the system does.
    pub(super) fn empty_dir(&mut self, dir: NodeId) {
        for (name, node) in self.dir(dir).cache.clone() {
            if self.is_dir(node) {
                self.empty_dir(node);
            }
            self.unlink(dir, name);
        }
    }

    /// Paths of all files that the system shows.
    pub(super) fn files(&self, dir: NodeId, prefix: &str, found: &mut Vec<(String, NodeId)>) {
        let Some(Node::Dir(entries)) = self.nodes.get(&dir) else { return };
        for (name, node) in &entries.cache {
            let path = if prefix.is_empty() { name.clone() } else { format!("{prefix}/{name}") };
            if self.is_dir(*node) { self.files(*node, &path, found) } else { found.push((path, *node)) }
        }
    }

    pub(super) fn used_bytes(&self) -> u64 {
        let mut found = Vec::new();
        self.files(ROOT, "", &mut found);
        let space = |node| match self.nodes.get(&node) {
            Some(Node::File(file)) => file.space_bytes(),
            _ => 0,
        };
        found.into_iter().map(|(_, node)| space(node)).sum()
    }
}
