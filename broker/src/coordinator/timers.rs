//! Deadlines of all groups: one task and one heap. A group without a deadline costs nothing.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::model::GroupId;

/// Deadlines, the earliest first. A group may stand in it several times; it knows which place counts.
#[derive(Debug, Default)]
pub(super) struct Timers {
    heap: Mutex<BinaryHeap<Reverse<(u64, GroupId)>>>,
    earlier: Notify,
}

impl Timers {
    /// A group is to be looked at, at this monotonic time in milliseconds.
    pub(super) fn add(&self, due_ms: u64, group: GroupId) {
        let mut heap = self.heap.lock();
        let first = heap.peek().is_none_or(|Reverse((first, _))| due_ms < *first);
        heap.push(Reverse((due_ms, group)));
        drop(heap);
        if first {
            self.earlier.notify_one();
        }
    }

    /// Takes a place whose time has come.
    pub(super) fn take_due(&self, now_ms: u64) -> Option<(u64, GroupId)> {
        let mut heap = self.heap.lock();
        let due = heap.peek().is_some_and(|Reverse((due, _))| *due <= now_ms);
        if due { heap.pop().map(|Reverse(place)| place) } else { None }
    }

    /// The first deadline.
    pub(super) fn first(&self) -> Option<u64> {
        self.heap.lock().peek().map(|Reverse((due, _))| *due)
    }

    /// Resolves when there is an earlier deadline than before.
    pub(super) async fn earlier(&self) {
        self.earlier.notified().await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_earliest_deadline_comes_first_and_none_before_its_time() {
        let timers = Timers::default();
        timers.add(30, GroupId(3));
        timers.add(10, GroupId(1));
        timers.add(20, GroupId(2));
        assert_eq!(timers.first(), Some(10));
        assert_eq!(timers.take_due(9), None);
        assert_eq!(timers.take_due(25), Some((10, GroupId(1))));
        assert_eq!(timers.take_due(25), Some((20, GroupId(2))));
        assert_eq!(timers.take_due(25), None);
    }
}
