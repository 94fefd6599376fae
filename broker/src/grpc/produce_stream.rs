//! ProduceStream: requests in, answers out in their order, many of them in between.
//!
//! One task does all of it: asked for an answer, [`Responses`] first takes in what requests have come, so that their
//! batches join one write, then looks whether the oldest is done. It takes in nothing more while
//! [`crate::limits::PIPELINED_REQUESTS`] wait, or while the client does not take answers. A request that is refused
//! is answered in its turn and never ends the stream (rules PR-3, PR-10); the stream ends when the client ends it,
//! sends what is no message, or the broker stops.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use sawlog_proto::v1::{self, produce_stream_response::Outcome as Answer};
use tokio_stream::Stream;
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::{Status, Streaming};

use super::gate::Permits;
use super::produce::{Pending, begin};
use super::status::{self, Outcome, Problem};
use super::{Context, guard};
use crate::limits::PIPELINED_REQUESTS;
use crate::partition::{BoxFuture, Permit};
use crate::topics::Topic;

/// Requests taken in before other tasks of the thread get their turn.
const INTAKE: usize = 32;

enum Slot {
    Waiting(Pending),
    Done(Answer),
}

/// A request whose topic is being made: nothing else is taken in meanwhile, so that order is kept.
struct Making {
    request_id: u64,
    request: v1::ProduceRequest,
    permit: Permit,
    topic: BoxFuture<'static, Result<Arc<Topic>, Problem>>,
}

/// The answers of one stream.
pub(super) struct Responses {
    context: Arc<Context>,
    requests: Streaming<v1::ProduceStreamRequest>,
    permits: Permits,
    waiting: VecDeque<(u64, Slot)>,
    making: Option<Making>,
    draining: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Nothing more is taken in; what ends the stream after the last answer.
    end: Option<Result<(), Status>>,
}

impl Responses {
    pub(super) fn new(context: Arc<Context>, requests: Streaming<v1::ProduceStreamRequest>, permits: Permits) -> Self {
        let draining = Box::pin(context.parts.draining.clone().cancelled_owned());
        Self { context, requests, permits, waiting: VecDeque::new(), making: None, draining, end: None }
    }

    /// Takes in what has come. True if it stopped only to let others have their turn.
    fn take_in(&mut self, task: &mut TaskContext<'_>) -> bool {
        for _ in 0..INTAKE {
            if !self.make(task) || self.end.is_some() || self.waiting.len() >= PIPELINED_REQUESTS {
                return false;
            }
            if self.draining.as_mut().poll(task).is_ready() {
                self.end = Some(Err(self.context.fail(status::shutting_down())));
                return false;
            }
            match Pin::new(&mut self.requests).poll_next(task) {
                Poll::Pending => return false,
                Poll::Ready(None) => self.end = Some(Ok(())),
                Poll::Ready(Some(Err(status))) => self.end = Some(Err(status)),
                Poll::Ready(Some(Ok(message))) => {
                    let permit = self.permits.take();
                    self.enter(message, permit, task);
                }
            }
        }
        true
    }

    /// Goes on with a topic that is being made; false while it is not there.
    fn make(&mut self, task: &mut TaskContext<'_>) -> bool {
        let Some(making) = &mut self.making else { return true };
        let Poll::Ready(made) = making.topic.as_mut().poll(task) else { return false };
        let Making { request_id, request, permit, .. } = self.making.take().expect("it was polled just now");
        match made {
            Ok(topic) => self.start(request_id, &topic, request, permit, task),
            Err(problem) => self.refuse(request_id, problem.outcome(Outcome::NotWritten)),
        }
        true
    }

    fn enter(&mut self, message: v1::ProduceStreamRequest, permit: Permit, task: &mut TaskContext<'_>) {
        let request_id = message.request_id;
        let Some(request) = message.request else {
            let problem = status::invalid_field("request", "nothing", "a ProduceRequest");
            return self.refuse(request_id, problem.outcome(Outcome::NotWritten));
        };
        match self.context.topic(&request.topic) {
            Some(topic) => self.start(request_id, &topic, request, permit, task),
            None => {
                let (context, name) = (Arc::clone(&self.context), request.topic.clone());
                let topic = Box::pin(async move { context.topic_or_create(&name).await });
                self.making = Some(Making { request_id, request, permit, topic });
            }
        }
    }

    fn start(
        &mut self,
        request_id: u64,
        topic: &Arc<Topic>,
        request: v1::ProduceRequest,
        permit: Permit,
        task: &mut TaskContext<'_>,
    ) {
        match begin(&self.context, topic, request, permit) {
            Ok(mut pending) => {
                let slot = match Pin::new(&mut pending).poll(task) {
                    Poll::Ready(response) => Slot::Done(Answer::Response(response)),
                    Poll::Pending => Slot::Waiting(pending),
                };
                self.waiting.push_back((request_id, slot));
            }
            Err(problem) => self.refuse(request_id, problem),
        }
    }

    fn refuse(&mut self, request_id: u64, problem: Problem) {
        let failure = problem.into_failure(self.context.metrics());
        self.waiting.push_back((request_id, Slot::Done(Answer::Failure(failure))));
    }

    fn next(&mut self, task: &mut TaskContext<'_>) -> Poll<Option<Result<v1::ProduceStreamResponse, Status>>> {
        if self.take_in(task) {
            task.waker().wake_by_ref();
        }
        if let Some((_, slot)) = self.waiting.front_mut()
            && let Slot::Waiting(pending) = slot
        {
            let Poll::Ready(response) = Pin::new(pending).poll(task) else { return Poll::Pending };
            *slot = Slot::Done(Answer::Response(response));
        }
        match self.waiting.pop_front() {
            Some((request_id, Slot::Done(outcome))) => {
                Poll::Ready(Some(Ok(v1::ProduceStreamResponse { request_id, outcome: Some(outcome) })))
            }
            Some((_, Slot::Waiting(_))) => unreachable!("the oldest was waited for"),
            None => match &mut self.end {
                // A topic that was being made when the stream ended is still waited for.
                Some(end) if self.making.is_none() => match std::mem::replace(end, Ok(())) {
                    Ok(()) => Poll::Ready(None),
                    Err(status) => Poll::Ready(Some(Err(status))),
                },
                _ => Poll::Pending,
            },
        }
    }
}

impl Stream for Responses {
    type Item = Result<v1::ProduceStreamResponse, Status>;

    fn poll_next(self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let this = self.get_mut();
        match guard::poll(|| this.next(task)) {
            Ok(next) => next,
            Err(bug) => {
                // What panicked is not polled again.
                this.waiting.clear();
                this.making = None;
                this.end = Some(Ok(()));
                Poll::Ready(Some(Err(bug.into_status(this.context.metrics()))))
            }
        }
    }
}
