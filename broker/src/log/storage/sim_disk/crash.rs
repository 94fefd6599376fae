//! What a power loss leaves: durable bytes, and any part of what was pending.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::random::SmallRandom;
use super::state::{Change, DirChange, DirNode, FileNode, Node, NodeId, PAGE_BYTES, ROOT, State, put, resize};

/// Bytes of a sector, which a device writes whole or not at all.
const SECTOR_BYTES: u64 = 512;

/// What the device has of a file after some of the pending changes reached it.
///
/// Some of them, in any order, each torn at sectors or pages, or all, or none; the length may have grown while the data
/// did not, which then reads as zeros.
pub(super) fn surviving(durable: &[u8], pending: &[Change], random: &mut SmallRandom) -> Vec<u8> {
    let mut bytes = durable.to_vec();
    if pending.is_empty() {
        return bytes;
    }
    let grown = grown_len(durable.len() as u64, pending, random);
    match random.below(8) {
        0 => {}
        1 => pending.iter().for_each(|change| apply(&mut bytes, change)),
        2 => {
            let kept = random.index(pending.len());
            pending[..kept].iter().for_each(|change| apply(&mut bytes, change));
            apply_torn(&mut bytes, &pending[kept], random);
        }
        3 => {
            for change in pending {
                if random.one_in(2) {
                    apply(&mut bytes, change);
                }
            }
        }
        4 | 5 => {
            for change in pending {
                apply_torn(&mut bytes, change, random);
            }
        }
        6 => {
            let mut order: Vec<&Change> = pending.iter().collect();
            for at in (1..order.len()).rev() {
                order.swap(at, random.index(at + 1));
            }
            for change in order {
                if random.one_in(2) {
                    apply_torn(&mut bytes, change, random);
                }
            }
        }
        _ => resize(&mut bytes, grown),
    }
    if random.one_in(3) && grown > bytes.len() as u64 {
        resize(&mut bytes, grown);
    }
    bytes
}

/// A length that the file had at some moment since the last sync.
fn grown_len(durable: u64, pending: &[Change], random: &mut SmallRandom) -> u64 {
    let kept = 1 + random.index(pending.len());
    pending[..kept].iter().fold(durable, |len, change| match change {
        Change::Write { position, bytes } => len.max(position + bytes.len() as u64),
        Change::SetLen(len) => *len,
    })
}

fn apply(file: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write { position, bytes } => put(file, *position, bytes),
        Change::SetLen(len) => resize(file, *len),
    }
}

/// Any sectors, or any pages, of a write.
fn apply_torn(file: &mut Vec<u8>, change: &Change, random: &mut SmallRandom) {
    let Change::Write { position, bytes } = change else { return apply(file, change) };
    let unit = if random.one_in(2) { SECTOR_BYTES } else { PAGE_BYTES };
    let end = position + bytes.len() as u64;
    let mut at = *position;
    // A run of units more often than a lottery for each: what a device has in flight is mostly contiguous.
    let prefix_only = random.one_in(2);
    while at < end {
        let next = ((at / unit + 1) * unit).min(end);
        let kept = !random.one_in(3);
        if !kept && prefix_only {
            return;
        }
        if kept {
            let from = usize::try_from(at - position).expect("within the write");
            let to = usize::try_from(next - position).expect("within the write");
            put(file, at, &bytes[from..to]);
        }
        at = next;
    }
}

/// The entries that a directory has after some of the pending changes reached the device.
fn surviving_entries(dir: &DirNode, random: &mut SmallRandom) -> BTreeMap<String, NodeId> {
    let mut entries = dir.durable.clone();
    let kept = match random.below(4) {
        0 => 0,
        1 => dir.pending.len(),
        // A journalled file system keeps their order.
        2 => random.index(dir.pending.len() + 1),
        _ => usize::MAX,
    };
    for (index, change) in dir.pending.iter().enumerate() {
        let survives = if kept == usize::MAX { random.one_in(2) } else { index < kept };
        if !survives {
            continue;
        }
        match change {
            DirChange::Link { name, node } => {
                entries.insert(name.clone(), *node);
            }
            DirChange::Unlink { name } => {
                entries.remove(name);
            }
            DirChange::Rename { from, to, node } => {
                if entries.get(from) == Some(node) {
                    entries.remove(from);
                }
                entries.insert(to.clone(), *node);
            }
        }
    }
    entries
}

/// The machine after a power loss: everything that is there is durable.
pub(super) fn power_loss(state: &State, seed: u64) -> State {
    let mut random = SmallRandom::new(seed);
    let mut nodes = BTreeMap::new();
    let mut reachable = vec![ROOT];
    while let Some(id) = reachable.pop() {
        // A removal that did not survive may leave two names for one file: each is the same file.
        if nodes.contains_key(&id) {
            continue;
        }
        let node = match state.nodes.get(&id) {
            Some(Node::Dir(dir)) => {
                let entries = surviving_entries(dir, &mut random);
                reachable.extend(entries.values());
                Node::Dir(DirNode { durable: entries.clone(), cache: entries, pending: Vec::new() })
            }
            Some(Node::File(file)) => {
                let bytes = Arc::new(surviving(&file.durable, &file.pending, &mut random));
                let allocated = bytes.len() as u64;
                Node::File(FileNode { durable: Arc::clone(&bytes), cache: bytes, allocated, ..FileNode::default() })
            }
            None => continue,
        };
        nodes.insert(id, node);
    }
    State { nodes, next_node: state.next_node, locked: Default::default(), quota_bytes: state.quota_bytes }
}
