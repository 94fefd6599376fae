//! Stops and hold-ups on purpose: at the steps of a projection, and in front of its database.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use sawlog_client::projection::{Applied, ApplyError, Claim, ClaimError, Claimed, Step, Store, Work};
use tokio::sync::{Semaphore, watch};

use super::model::in_time;

/// All steps.
pub(super) const STEPS: [Step; 7] =
    [Step::Claimed, Step::Reported, Step::Handled, Step::Advanced, Step::Committed, Step::Lettered, Step::EntryApplied];

/// Stops once, at the n-th time that a step comes.
#[derive(Debug, Clone)]
pub(super) struct StopAt {
    step: Step,
    left: Arc<AtomicU32>,
    hit: watch::Sender<bool>,
}

impl StopAt {
    pub(super) fn new(step: Step, nth: u32) -> Self {
        Self { step, left: Arc::new(AtomicU32::new(nth)), hit: watch::Sender::new(false) }
    }

    pub(super) fn probe(&self) -> impl Fn(Step) -> bool + Send + Sync + 'static {
        let this = self.clone();
        move |step| {
            if step != this.step || this.left.load(Ordering::SeqCst) == 0 {
                return false;
            }
            let stops = this.left.fetch_sub(1, Ordering::SeqCst) == 1;
            if stops {
                this.hit.send_replace(true);
            }
            stops
        }
    }

    pub(super) async fn hit(&self) {
        in_time(self.hit.subscribe().wait_for(|hit| *hit)).await.unwrap();
    }
}

/// A store whose transactions wait for leave.
pub(super) struct Gated<S> {
    store: S,
    gate: Gate,
}

/// Lets transactions through.
#[derive(Debug, Clone)]
pub(super) struct Gate {
    leave: Arc<Semaphore>,
    waiting: watch::Sender<u32>,
}

impl Gate {
    pub(super) fn closed() -> Self {
        Self { leave: Arc::new(Semaphore::new(0)), waiting: watch::Sender::new(0) }
    }

    pub(super) fn open(&self) {
        self.leave.add_permits(1_000_000);
    }

    /// Waits until so many transactions wait.
    pub(super) async fn waiting(&self, count: u32) {
        in_time(self.waiting.subscribe().wait_for(|waiting| *waiting >= count)).await.unwrap();
    }

    pub(super) fn before<S>(&self, store: S) -> Gated<S> {
        Gated { store, gate: self.clone() }
    }
}

impl<S: fmt::Debug> fmt::Debug for Gated<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.store.fmt(f)
    }
}

impl<S: Store> Store for Gated<S> {
    async fn open(&self, claim: &Claim) -> Result<Claimed, ClaimError> {
        self.store.open(claim).await
    }

    async fn apply(&self, work: Arc<Work>) -> Result<Applied, ApplyError> {
        self.gate.waiting.send_modify(|waiting| *waiting += 1);
        self.gate.leave.acquire().await.unwrap().forget();
        self.store.apply(work).await
    }
}
