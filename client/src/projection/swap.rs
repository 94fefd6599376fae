//! Swaps of versions: one transaction of the user's database makes a rebuilt version the active one (rule RP-6).
//!
//! ```text
//! mark of this swap there?  done / not done: that is the answer
//!        none, to undo:     mark "not done"                                   -> not done
//!        none:              on_swap(tx), old cursors fenced, mark "done"      -> done
//! ```
//! Invariants: the mark of a swap is written once, in the transaction that does what it says, and is the answer from then
//! on, whoever asks; a swap that failed is answered only once its mark says that it never will be done. It must not know
//! streams.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use super::cursor::unwinding;
use super::store::{HandleError, Probe, Step, Store, StoreError, StoreErrorKind, Transaction};
use crate::consumer::HandlerError;
use crate::retry::Retry;

/// The name of a projection in its cursors: with the version, if it has one (rule RM-1).
pub fn cursor_name(projection: &str, version: Option<&str>) -> String {
    version.map_or_else(|| projection.to_owned(), |version| format!("{projection}@{version}"))
}

/// A swap that a member was asked to do.
#[derive(Debug, Clone)]
pub struct SwapPlan {
    /// Name of the projection, without a version.
    pub projection: String,
    /// Id of the swap, under which it is marked.
    pub swap_id: String,
    /// The version that becomes active.
    pub version: String,
    /// The version that it takes the place of; `None`: one without a name.
    pub replaces: Option<String>,
    /// Not to swap, but to mark that it never will be done.
    pub undo: bool,
    pub(super) probe: Option<Probe>,
}

impl SwapPlan {
    /// The name of the projection in the cursors of the version that is retired.
    pub fn retired(&self) -> String {
        cursor_name(&self.projection, self.replaces.as_deref())
    }

    fn stops_at(&self, step: Step) -> bool {
        self.probe.as_ref().is_some_and(|probe| probe.0(step))
    }
}

/// Why a swap was not done; nothing of it is in the database.
#[derive(Debug, thiserror::Error)]
pub enum SwapError {
    /// The hook failed.
    #[error("on_swap failed: {0}")]
    Handler(HandlerError),
    /// The database failed. Of a failed commit the outcome is unknown: the mark tells.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The store keeps no marks.
    #[error("this store cannot swap versions")]
    Unsupported,
    /// Stopped by a test.
    #[doc(hidden)]
    #[error("stopped by a test")]
    Stopped,
}

/// Does a swap, or says what its mark says; true: the version is the active one.
///
/// # Errors
/// The hook or the database fails; the transaction is dropped then.
pub async fn swap<T: Transaction>(mut transaction: T, plan: &SwapPlan) -> Result<bool, SwapError> {
    if let Some(done) = transaction.swap_mark(&plan.projection, &plan.swap_id).await? {
        return Ok(done);
    }
    if plan.stops_at(Step::SwapAsked) {
        return Err(SwapError::Stopped);
    }
    if !plan.undo {
        match unwinding(transaction.on_swap(plan)).await {
            Ok(Ok(())) => {}
            Ok(Err(HandleError::Handler(error))) => return Err(SwapError::Handler(error)),
            Ok(Err(HandleError::Store(error))) => return Err(error.into()),
            Err(panic) => return Err(SwapError::Handler(HandlerError::panicked(&*panic))),
        }
        if plan.stops_at(Step::SwapHandled) {
            return Err(SwapError::Stopped);
        }
        transaction.fence_cursors(&plan.retired()).await?;
    }
    transaction.mark_swap(plan, !plan.undo).await?;
    if plan.stops_at(Step::SwapMarked) {
        return Err(SwapError::Stopped);
    }
    transaction.commit().await?;
    Ok(!plan.undo)
}

/// What a swap came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// It is done.
    Done,
    /// It is not, and never will be; why.
    Undone(String),
}

/// Swaps, as long as it takes: trouble of the database is waited for. A hook that fails, and a database that does not fit
/// it, undo the swap.
pub(super) async fn run<S: Store>(store: Arc<S>, mut plan: SwapPlan) -> Outcome {
    let mut problem = if plan.undo { "it was given up".to_owned() } else { String::new() };
    let mut retry = Retry::new();
    loop {
        let error = match store.swap(&plan).await {
            Ok(true) => break Outcome::Done,
            Ok(false) if problem.is_empty() => break Outcome::Undone("it failed before".to_owned()),
            Ok(false) => break Outcome::Undone(problem),
            Err(SwapError::Unsupported) => break Outcome::Undone(SwapError::Unsupported.to_string()),
            Err(SwapError::Stopped) => std::future::pending().await,
            Err(error) => error,
        };
        tracing::warn!(projection = plan.projection, swap = plan.swap_id, %error, "a swap failed");
        let passes = matches!(&error, SwapError::Store(error) if error.kind() == StoreErrorKind::Unavailable);
        if !passes && !plan.undo {
            (plan.undo, problem) = (true, error.to_string());
            continue;
        }
        tokio::time::sleep(retry.next_wait(None)).await;
    }
}

/// A hook of a store, as a box.
pub(super) struct Hook<F: ?Sized>(pub(super) Option<Arc<F>>);

impl<F: ?Sized> fmt::Debug for Hook<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Hook")
    }
}

/// A swap that nobody can do.
pub(super) fn unsupported() -> impl Future<Output = Result<bool, SwapError>> + Send {
    std::future::ready(Err(SwapError::Unsupported))
}
