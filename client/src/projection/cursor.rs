//! The fence: what is done in which order in the transactions of a projection (rules RM-1, RM-2, RM-3, RM-7).
//!
//! Invariants: every transaction moves or rewrites the cursor's row under the condition that it stands where this owner
//! left it and that no later assignment has raised it, else nothing of it stays; a record that comes through its entry is
//! applied with a row that says so, and never twice.

use std::any::Any;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::task::Poll;

use super::store::{
    Applied, ApplyError, Claim, ClaimError, Claimed, Cursor, HandleError, Step, StoreError, Transaction, Work, WorkItem,
};
use crate::consumer::HandlerError;

/// Claims a cursor for an assignment: raises the epoch of its row, or adds the row, and returns it, with what of the claim's
/// entries was applied.
///
/// # Errors
/// Another assignment has it, it is of another log, or the database fails.
pub async fn open_cursor<T: Transaction>(mut transaction: T, claim: &Claim) -> Result<Claimed, ClaimError> {
    let Claim { key, first, entries } = claim;
    let claimed = match transaction.cursor(key).await? {
        None => {
            transaction.insert_cursor(key, first).await?;
            Claimed { cursor: first.clone(), is_new: true, applied: Vec::new() }
        }
        Some(row) => {
            let other = |field, found: &str, expected: &str| {
                let (found, expected) = (found.to_owned(), expected.to_owned());
                Err(ClaimError::OtherLog { field, found, expected })
            };
            if row.topic_id != first.topic_id {
                return other("topic_id", &row.topic_id, &first.topic_id);
            }
            if row.group_id != first.group_id {
                return other("group_id", &row.group_id, &first.group_id);
            }
            let mine = first.assignment_epoch;
            if row.assignment_epoch > mine || !transaction.raise_cursor(key, mine).await? {
                return Err(ClaimError::Fenced(row.assignment_epoch));
            }
            // Behind the fence: no earlier owner applies any of them any more.
            let mut applied = Vec::new();
            for dlq_id in entries {
                applied.extend(transaction.applied_entry(&key.projection, dlq_id).await?);
            }
            Claimed { cursor: Cursor { assignment_epoch: mine, ..row }, is_new: false, applied }
        }
    };
    transaction.commit().await?;
    Ok(claimed)
}

/// Applies records in order and moves the cursor, all of it or nothing.
///
/// # Errors
/// Another owner has the cursor, the handler or the database fails; the transaction is dropped then.
pub async fn apply<T: Transaction>(mut transaction: T, work: &Work) -> Result<Applied, ApplyError> {
    let mut applied = Applied::default();
    for (index, item) in work.items.iter().enumerate() {
        work.handles(index);
        match apply_one(&mut transaction, work, item).await {
            Ok(None) => {}
            Ok(Some(version)) => applied.known.push((index, version)),
            Err(HandleError::Handler(error)) => return Err(ApplyError::Handler { index, error: Box::new(error) }),
            Err(HandleError::Store(error)) => return Err(error.into()),
        }
    }
    if work.stops_at(Step::Handled) {
        return Err(ApplyError::Stopped);
    }
    if !transaction.advance_cursor(&work.key, &work.advance).await? {
        return Err(ApplyError::Fenced);
    }
    if work.stops_at(Step::Advanced) {
        return Err(ApplyError::Stopped);
    }
    transaction.commit().await?;
    Ok(applied)
}

/// Applies a record; the version, if it was applied before through its entry.
async fn apply_one<T: Transaction>(
    transaction: &mut T,
    work: &Work,
    item: &WorkItem,
) -> Result<Option<u32>, HandleError> {
    let projection = &work.key.projection;
    if let Some(entry) = &item.entry {
        let known = transaction.applied_entry(projection, &entry.dlq_id).await.map_err(HandleError::Store)?;
        if let Some(known) = known {
            return Ok(Some(known.version));
        }
        transaction.insert_entry(projection, entry).await.map_err(HandleError::Store)?;
    }
    match unwinding(transaction.handle(&item.record)).await {
        Ok(handled) => handled.map(|()| None),
        Err(panic) => Err(HandleError::Handler(HandlerError::panicked(&*panic))),
    }
}

/// Runs a future; a panic of it is an answer.
pub(super) async fn unwinding<F: Future>(future: F) -> Result<F::Output, Box<dyn Any + Send>> {
    let mut future = pin!(future);
    std::future::poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(Poll::Ready(output)) => Poll::Ready(Ok(output)),
        Ok(Poll::Pending) => Poll::Pending,
        Err(panic) => Poll::Ready(Err(panic)),
    })
    .await
}

/// Trouble of a database that a handler's error stems from, as `of` finds it in the causes of the error.
pub fn store_error_in(
    error: &HandlerError,
    of: impl Fn(&(dyn std::error::Error + 'static)) -> Option<StoreError>,
) -> Option<StoreError> {
    let mut cause = error.cause();
    while let Some(error) = cause {
        if let Some(found) = of(error) {
            return Some(found);
        }
        cause = error.source();
    }
    None
}
