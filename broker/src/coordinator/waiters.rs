//! Callers that wait for a group to decide about records (rules RW-1 to RW-4): woken by what settles, not by timers.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::group::entry::EntryRecord;
use crate::group::record::GroupRecord;
use crate::model::Source;

/// Callers that wait, by partition.
#[derive(Debug, Default)]
pub(super) struct Waiters {
    waiting: Mutex<HashMap<Source, (usize, Arc<Notify>)>>,
    count: AtomicUsize,
}

impl Waiters {
    /// A caller begins to wait for a partition; call [`Waiters::leave`] when it has done so.
    pub(super) fn enter(&self, source: Source) -> Arc<Notify> {
        self.count.fetch_add(1, Ordering::SeqCst);
        let mut waiting = self.waiting.lock();
        let (count, notify) = waiting.entry(source).or_default();
        *count += 1;
        Arc::clone(notify)
    }

    /// A caller has stopped waiting.
    pub(super) fn leave(&self, source: Source) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        let mut waiting = self.waiting.lock();
        if let Some((count, _)) = waiting.get_mut(&source) {
            *count -= 1;
            if *count == 0 {
                waiting.remove(&source);
            }
        }
    }

    /// Wakes those whose partitions the records are about.
    pub(super) fn wake(&self, records: &[GroupRecord], entries: &[EntryRecord]) {
        if self.count.load(Ordering::SeqCst) == 0 {
            return;
        }
        let of_group = records.iter().filter_map(|record| match record {
            GroupRecord::Settled { source, .. }
            | GroupRecord::Committed { source, .. }
            | GroupRecord::Arrived { source, .. }
            | GroupRecord::GapPassed { source, .. }
            | GroupRecord::Cut { source, .. } => Some(*source),
            GroupRecord::Intended { intent, .. } => Some(intent.key.source),
            _ => None,
        });
        let of_entries = entries.iter().filter_map(|record| match record {
            EntryRecord::Opened { key, .. } | EntryRecord::Changed { key, .. } => Some(key.source),
            _ => None,
        });
        let waiting = self.waiting.lock();
        for source in of_group.chain(of_entries) {
            if let Some((_, notify)) = waiting.get(&source) {
                notify.notify_waiters();
            }
        }
        if records.iter().any(|record| matches!(record, GroupRecord::Reset { .. } | GroupRecord::Topics { .. })) {
            waiting.values().for_each(|(_, notify)| notify.notify_waiters());
        }
    }

    /// Wakes everyone: the group is gone.
    pub(super) fn wake_all(&self) {
        self.waiting.lock().values().for_each(|(_, notify)| notify.notify_waiters());
    }
}
