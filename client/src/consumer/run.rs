//! Handlers: as many tasks as may work at once, each taking one record after the other.
//!
//! A task that gets a verdict gives it in and takes the next record in one step under the board's lock; the handler's
//! future lives on the task's own stack, so that a record costs no allocation here.

use std::any::Any;
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;

use super::ConsumerEvent;
use super::board::{Board, Taken, Verdict};
use super::error::HandlerError;
use super::record::ConsumedRecord;
use super::shared::{Shared, now};
use super::slots::Ticket;

/// Records after which a task lets others have its thread, if its handlers never wait.
const TURN: u32 = 64;

/// What a task does next.
enum Next {
    Handle(Ticket, ConsumedRecord),
    Tell(ConsumerEvent),
    Wait,
    Over,
}

fn next(board: &mut Board, done: &mut Option<(Ticket, Verdict)>) -> Next {
    let at = now();
    if let Some((ticket, verdict)) = done.take() {
        board.finish(ticket, verdict, None, None, at);
    }
    match board.take(at, false) {
        Some(Taken::Record(ticket, record)) => Next::Handle(ticket, record),
        Some(Taken::Event(event)) => Next::Tell(event),
        Some(Taken::Frame(_)) => unreachable!("frames were not asked for"),
        None if board.draining().is_some() || board.ending().is_some() => Next::Over,
        None => Next::Wait,
    }
}

/// One handler after the other, until the consumer drains or ends.
pub(super) async fn work<H, F>(shared: Arc<Shared>, handler: Arc<H>)
where
    H: Fn(ConsumedRecord) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    let mut done = None;
    let mut turn = 0_u32;
    loop {
        turn = (turn + 1) % TURN;
        let mut step = shared.with(|board| next(board, &mut done));
        if matches!(step, Next::Wait) {
            let woken = shared.handlers.notified();
            tokio::pin!(woken);
            // From here on no notification is missed, so that the look below cannot be outdated.
            woken.as_mut().enable();
            step = shared.with(|board| {
                let step = next(board, &mut done);
                if matches!(step, Next::Wait) {
                    board.idle(true);
                }
                step
            });
            if matches!(step, Next::Wait) {
                woken.await;
                shared.with(|board| board.idle(false));
            }
        }
        match step {
            Next::Handle(ticket, record) => {
                let verdict = match call(&*handler, record).await {
                    Ok(()) => Verdict::Done,
                    Err(error) => Verdict::Failed(Box::new(error)),
                };
                done = Some((ticket, verdict));
            }
            Next::Tell(event) => super::log(&event),
            Next::Wait => {}
            Next::Over => return,
        }
        if turn == 0 {
            tokio::task::yield_now().await;
        }
    }
}

/// Calls the handler; a panic of it is a failure of the record.
async fn call<H, F>(handler: &H, record: ConsumedRecord) -> Result<(), HandlerError>
where
    H: Fn(ConsumedRecord) -> F,
    F: Future<Output = Result<(), HandlerError>>,
{
    let panicked = |payload: Box<dyn Any + Send>| HandlerError::panicked(&*payload);
    let future = catch_unwind(AssertUnwindSafe(|| handler(record))).map_err(panicked)?;
    let mut future = pin!(future);
    poll_fn(|context| match catch_unwind(AssertUnwindSafe(|| future.as_mut().poll(context))) {
        Ok(poll) => poll,
        Err(payload) => Poll::Ready(Err(panicked(payload))),
    })
    .await
}
