//! Bytes in flight: how much of produce requests the broker holds at once, in all and per connection.
//!
//! A [`Permit`] is taken before a request is decoded further, travels with its batches, and is given back when the
//! last of them is answered, whether or not its client still waits (rule D8). Those that wait are served in the order
//! in which they came, so that a large request is not starved by small ones.
//!
//! Invariants: `free + held == limit` at every moment; while someone waits, nobody who came later is served.
//!
//! It must not know of partitions, requests or time.

use std::collections::VecDeque;
use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use super::sync::{Arc, Mutex};

/// A budget of bytes, shared by its clones; may be a part of a larger one.
#[derive(Clone)]
pub struct InFlight {
    inner: Arc<Inner>,
}

struct Inner {
    limit: usize,
    state: Mutex<State>,
    parent: Option<InFlight>,
}

struct State {
    free: usize,
    next_ticket: u64,
    waiting: VecDeque<Waiting>,
}

struct Waiting {
    ticket: u64,
    bytes: usize,
    granted: bool,
    waker: Option<Waker>,
}

/// Bytes in flight, given back when dropped. The default holds none.
#[derive(Default)]
pub struct Permit {
    bytes: usize,
    budget: Option<InFlight>,
}

impl InFlight {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Self {
        Self::with_parent(limit, None)
    }

    /// A budget of `limit` bytes that are at the same time taken from this one: for a connection.
    pub fn part(&self, limit: usize) -> Self {
        Self::with_parent(limit, Some(self.clone()))
    }

    fn with_parent(limit: usize, parent: Option<Self>) -> Self {
        let state = State { free: limit, next_ticket: 0, waiting: VecDeque::new() };
        Self { inner: Arc::new(Inner { limit, state: Mutex::new(state), parent }) }
    }

    /// Bytes that may be in flight.
    pub fn limit(&self) -> usize {
        self.inner.limit
    }

    /// Bytes in flight now.
    pub fn held(&self) -> usize {
        self.inner.limit - self.inner.state.lock().free
    }

    /// Takes `bytes` if they are free and nobody waits for them; a request above the limit counts as the limit.
    pub fn try_acquire(&self, bytes: usize) -> Option<Permit> {
        let own = bytes.min(self.inner.limit);
        {
            let mut state = self.inner.state.lock();
            if state.free < own || !state.waiting.is_empty() {
                return None;
            }
            state.free -= own;
        }
        let mut permit = Permit { bytes: own, budget: Some(self.clone()) };
        if let Some(parent) = &self.inner.parent {
            match parent.try_acquire(own) {
                // The part gives back to both, so the parent's own permit must not.
                Some(mut above) => above.budget = None,
                None => {
                    permit.give_back_own();
                    return None;
                }
            }
        }
        Some(permit)
    }

    /// Takes `bytes` as soon as they are free, in turn; a request above the limit counts as the limit. Dropping the
    /// future gives up the place.
    pub async fn acquire(&self, bytes: usize) -> Permit {
        let own = bytes.min(self.inner.limit);
        let first = Acquire { budget: self, bytes: own, ticket: None }.await;
        let Some(parent) = &self.inner.parent else { return first };
        // Until the parent has granted too, only the own part must go back.
        let mut guard = OwnPart(Some(first));
        let mut above = Acquire { budget: parent, bytes: own, ticket: None }.await;
        above.budget = None;
        guard.0.take().expect("the guard is emptied only here")
    }

    fn give_back(&self, bytes: usize) {
        self.give_back_own(bytes);
        if let Some(parent) = &self.inner.parent {
            parent.give_back(bytes);
        }
    }

    fn give_back_own(&self, bytes: usize) {
        let mut wake = Vec::new();
        {
            let mut state = self.inner.state.lock();
            state.free += bytes;
            assert!(state.free <= self.inner.limit, "more bytes were given back than taken");
            state.grant(&mut wake);
        }
        wake.into_iter().for_each(Waker::wake);
    }
}

impl State {
    /// Serves those at the front while there is room for them.
    fn grant(&mut self, wake: &mut Vec<Waker>) {
        let mut free = self.free;
        for waiting in self.waiting.iter_mut().filter(|waiting| !waiting.granted) {
            if waiting.bytes > free {
                break;
            }
            free -= waiting.bytes;
            waiting.granted = true;
            wake.extend(waiting.waker.take());
        }
        self.free = free;
    }

    fn remove(&mut self, ticket: u64) -> Option<Waiting> {
        let index = self.waiting.iter().position(|waiting| waiting.ticket == ticket)?;
        self.waiting.remove(index)
    }
}

/// Waits for one budget.
struct Acquire<'a> {
    budget: &'a InFlight,
    bytes: usize,
    ticket: Option<u64>,
}

impl Future for Acquire<'_> {
    type Output = Permit;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Permit> {
        let bytes = self.bytes;
        let mut state = self.budget.inner.state.lock();
        let Some(ticket) = self.ticket else {
            if state.waiting.is_empty() && state.free >= bytes {
                state.free -= bytes;
                return Poll::Ready(Permit { bytes, budget: Some(self.budget.clone()) });
            }
            let ticket = state.next_ticket;
            state.next_ticket += 1;
            let waker = Some(context.waker().clone());
            state.waiting.push_back(Waiting { ticket, bytes, granted: false, waker });
            drop(state);
            self.ticket = Some(ticket);
            return Poll::Pending;
        };
        let waiting = state.waiting.iter_mut().find(|waiting| waiting.ticket == ticket);
        let waiting = waiting.expect("only this future removes its place");
        if !waiting.granted {
            waiting.waker = Some(context.waker().clone());
            return Poll::Pending;
        }
        state.remove(ticket);
        drop(state);
        self.ticket = None;
        Poll::Ready(Permit { bytes, budget: Some(self.budget.clone()) })
    }
}

impl Drop for Acquire<'_> {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut wake = Vec::new();
        {
            let mut state = self.budget.inner.state.lock();
            if let Some(waiting) = state.remove(ticket)
                && waiting.granted
            {
                state.free += waiting.bytes;
            }
            // Whoever stood behind may fit now.
            state.grant(&mut wake);
        }
        wake.into_iter().for_each(Waker::wake);
    }
}

/// A permit whose parent has not granted yet.
struct OwnPart(Option<Permit>);

impl Drop for OwnPart {
    fn drop(&mut self) {
        if let Some(mut permit) = self.0.take() {
            permit.give_back_own();
        }
    }
}

impl Permit {
    /// Bytes held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes `bytes` of it, at most all, into a permit of their own: one for each part of a request.
    pub fn split(&mut self, bytes: usize) -> Self {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Self { bytes, budget: self.budget.clone() }
    }

    fn give_back_own(&mut self) {
        if let Some(budget) = self.budget.take() {
            budget.give_back_own(self.bytes);
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        if let Some(budget) = self.budget.take() {
            budget.give_back(self.bytes);
        }
    }
}

impl fmt::Debug for InFlight {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InFlight").field("limit", &self.limit()).field("held", &self.held()).finish()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Permit").field("bytes", &self.bytes).finish()
    }
}
