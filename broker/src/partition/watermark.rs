//! The high watermark of a partition: published by its leader, watched by its readers.
//!
//! Waiting costs nothing: a waiter is an entry in a list with its waker, no timer, no task of ours. Publishing
//! without waiters is a store and a load.
//!
//! Invariants: only the leader of the partition publishes. A waiter counts before it looks a last time, and the
//! publisher looks at the count after it has stored: one of the two sees the other, so no wake-up is lost.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::Offset;
use super::sync::{Arc, AtomicBool, AtomicU64, Mutex, Ordering};

/// The high watermark and those who wait for it.
pub(crate) struct Watermark {
    value: AtomicU64,
    closed: AtomicBool,
    waiting: AtomicU64,
    list: Mutex<List>,
}

#[derive(Default)]
struct List {
    slots: Vec<Slot>,
    free: Vec<usize>,
}

struct Slot {
    beyond: u64,
    waker: Option<Waker>,
}

impl Watermark {
    pub(crate) fn new(value: Offset) -> Arc<Self> {
        Arc::new(Self {
            value: AtomicU64::new(value.get()),
            closed: AtomicBool::new(false),
            waiting: AtomicU64::new(0),
            list: Mutex::new(List::default()),
        })
    }

    /// The high watermark now.
    pub(crate) fn get(&self) -> Offset {
        Offset::new(self.value.load(Ordering::SeqCst)).expect("only offsets are stored here")
    }

    /// Publishes a higher value; a lower one changes nothing. Only the leader calls it.
    pub(crate) fn advance(&self, to: Offset) {
        if to.get() > self.value.load(Ordering::SeqCst) {
            self.value.store(to.get(), Ordering::SeqCst);
            self.wake_below(to.get());
        }
    }

    /// Publishes a value that may be lower: the end was cut. Only the leader calls it.
    pub(crate) fn reset(&self, to: Offset) {
        self.value.store(to.get(), Ordering::SeqCst);
        self.wake_below(to.get());
    }

    /// Ends all waiting, now and later.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
        self.wake_below(u64::MAX);
    }

    /// Resolves when the high watermark is above `offset`, or the partition is closed, with the high watermark.
    pub(crate) fn beyond(self: &Arc<Self>, offset: Offset) -> Beyond {
        Beyond { watermark: Arc::clone(self), beyond: offset.get(), slot: None }
    }

    fn wake_below(&self, value: u64) {
        if self.waiting.load(Ordering::SeqCst) == 0 {
            return;
        }
        let mut wake = Vec::new();
        {
            let mut list = self.list.lock();
            let reached = list.slots.iter_mut().filter(|slot| slot.beyond < value);
            wake.extend(reached.filter_map(|slot| slot.waker.take()));
        }
        wake.into_iter().for_each(Waker::wake);
    }

    fn reached(&self, beyond: u64) -> Option<Offset> {
        let value = self.get();
        (value.get() > beyond || self.closed.load(Ordering::SeqCst)).then_some(value)
    }
}

impl fmt::Debug for Watermark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watermark").field("value", &self.get()).finish_non_exhaustive()
    }
}

/// A wait for the high watermark.
#[derive(Debug)]
pub(crate) struct Beyond {
    watermark: Arc<Watermark>,
    beyond: u64,
    slot: Option<usize>,
}

impl Future for Beyond {
    type Output = Offset;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Offset> {
        if let Some(value) = self.watermark.reached(self.beyond) {
            self.leave();
            return Poll::Ready(value);
        }
        self.enter(context.waker());
        match self.watermark.reached(self.beyond) {
            Some(value) => {
                self.leave();
                Poll::Ready(value)
            }
            None => Poll::Pending,
        }
    }
}

impl Beyond {
    fn enter(&mut self, waker: &Waker) {
        let mut list = self.watermark.list.lock();
        match self.slot {
            Some(slot) => match &mut list.slots[slot].waker {
                Some(known) => known.clone_from(waker),
                gone => *gone = Some(waker.clone()),
            },
            None => {
                let entry = Slot { beyond: self.beyond, waker: Some(waker.clone()) };
                let slot = match list.free.pop() {
                    Some(slot) => {
                        list.slots[slot] = entry;
                        slot
                    }
                    None => {
                        list.slots.push(entry);
                        list.slots.len() - 1
                    }
                };
                self.slot = Some(slot);
                self.watermark.waiting.fetch_add(1, Ordering::SeqCst);
            }
        }
    }

    fn leave(&mut self) {
        let Some(slot) = self.slot.take() else { return };
        let mut list = self.watermark.list.lock();
        list.slots[slot].waker = None;
        list.free.push(slot);
        if list.free.len() == list.slots.len() {
            // Nobody waits: give the memory of a crowd back.
            *list = List::default();
        }
        self.watermark.waiting.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        self.leave();
    }
}
