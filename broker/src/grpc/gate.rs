//! The gate before decoding: a message's bytes are taken from the budget for bytes in flight before they are read.
//!
//! [`GatedBody`] wraps the body of a request and follows the gRPC framing (a flag, a length, so many bytes). At each
//! length it takes a permit for the message; the permit waits in [`Permits`] until the handler takes it together with
//! the decoded message. Over the budget a stream stops reading, a unary call is refused.
//!
//! Invariants: no byte of a message leaves before its permit is taken; whatever was admitted leaves at once, so that
//! two streams never wait for each other.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame};
use parking_lot::Mutex;
use tonic::Status;

use super::status;
use crate::limits::GRPC_MESSAGE_BYTES;
use crate::metrics::Metrics;
use crate::partition::{InFlight, Permit};

/// Flag and length of a gRPC message.
const PREFIX_BYTES: usize = 5;

/// Permits of messages that were admitted and not yet taken by the handler, in order.
#[derive(Debug, Clone, Default)]
pub(super) struct Permits(Arc<Mutex<VecDeque<Permit>>>);

impl Permits {
    /// The permit of the next message; one without bytes if there is none.
    pub(super) fn take(&self) -> Permit {
        self.0.lock().pop_front().unwrap_or_default()
    }

    fn put(&self, permit: Permit) {
        self.0.lock().push_back(permit);
    }
}

/// What to do with a message over the budget.
pub(super) enum OverBudget {
    /// Refuse the call.
    Refuse(Arc<Metrics>),
    /// Wait, and read no further.
    Wait,
}

type Waiting = Pin<Box<dyn Future<Output = Permit> + Send>>;

/// A request's body behind the gate.
pub(super) struct GatedBody<B> {
    inner: B,
    budget: InFlight,
    over: OverBudget,
    permits: Permits,
    /// Read but not admitted.
    rest: Bytes,
    /// Bytes of the current message that are still to come.
    left: usize,
    prefix: [u8; PREFIX_BYTES],
    prefix_len: usize,
    waiting: Option<Waiting>,
    /// The permit that was waited for; its prefix is gone through again.
    granted: Option<Permit>,
}

impl<B> GatedBody<B> {
    pub(super) fn new(inner: B, budget: InFlight, over: OverBudget, permits: Permits) -> Self {
        Self {
            inner,
            budget,
            over,
            permits,
            rest: Bytes::new(),
            left: 0,
            prefix: [0; PREFIX_BYTES],
            prefix_len: 0,
            waiting: None,
            granted: None,
        }
    }

    /// How many bytes of `rest` may leave; sets `waiting` where a message must wait.
    fn admit(&mut self) -> Result<usize, Status> {
        let mut at = 0;
        while at < self.rest.len() {
            if self.left > 0 {
                let step = self.left.min(self.rest.len() - at);
                self.left -= step;
                at += step;
                continue;
            }
            let (start, known) = (at, self.prefix_len);
            let step = (PREFIX_BYTES - known).min(self.rest.len() - at);
            self.prefix[known..known + step].copy_from_slice(&self.rest[at..at + step]);
            self.prefix_len += step;
            at += step;
            if self.prefix_len < PREFIX_BYTES {
                break;
            }
            let [_, length @ ..] = self.prefix;
            let length = u32::from_be_bytes(length) as usize;
            if !self.take_permit(length)? {
                self.prefix_len = known;
                return Ok(start);
            }
            self.prefix_len = 0;
            self.left = length;
        }
        Ok(at)
    }

    /// Whether the permit for a message of `length` bytes is there.
    fn take_permit(&mut self, length: usize) -> Result<bool, Status> {
        // A message over the limit is refused by the decoder at its length.
        if length > GRPC_MESSAGE_BYTES {
            self.permits.put(Permit::default());
            return Ok(true);
        }
        let permit = self.granted.take().or_else(|| self.budget.try_acquire(length));
        match (permit, &self.over) {
            (Some(permit), _) => {
                self.permits.put(permit);
                Ok(true)
            }
            (None, OverBudget::Refuse(metrics)) => {
                let problem = status::in_flight_limit("connection or broker", length, self.budget.limit());
                Err(problem.outcome(status::Outcome::NotWritten).into_status(metrics))
            }
            (None, OverBudget::Wait) => {
                let budget = self.budget.clone();
                self.waiting = Some(Box::pin(async move { budget.acquire(length).await }));
                Ok(false)
            }
        }
    }
}

impl<B> Body for GatedBody<B>
where
    B: Body<Data = Bytes> + Unpin,
    B::Error: Into<tonic::codegen::StdError>,
{
    type Data = Bytes;
    type Error = tonic::codegen::StdError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let this = &mut *self;
        loop {
            if let Some(waiting) = &mut this.waiting {
                this.granted = Some(ready!(waiting.as_mut().poll(context)));
                this.waiting = None;
            }
            if !this.rest.is_empty() {
                let admitted = this.admit()?;
                if admitted > 0 {
                    return Poll::Ready(Some(Ok(Frame::data(this.rest.split_to(admitted)))));
                }
                continue;
            }
            match ready!(Pin::new(&mut this.inner).poll_frame(context)) {
                None => return Poll::Ready(None),
                Some(Err(error)) => return Poll::Ready(Some(Err(error.into()))),
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(data) => this.rest = data,
                    Err(frame) => return Poll::Ready(Some(Ok(frame))),
                },
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_empty() && self.waiting.is_none() && self.inner.is_end_stream()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use http_body_util::StreamBody;

    use super::*;

    fn message(bytes: usize) -> Vec<u8> {
        let mut message = vec![0];
        message.extend((bytes as u32).to_be_bytes());
        message.resize(PREFIX_BYTES + bytes, 7);
        message
    }

    type Chunks = std::vec::IntoIter<Result<Frame<Bytes>, std::convert::Infallible>>;

    fn gated(
        stream: &[u8],
        chunk: usize,
        budget: &InFlight,
        over: OverBudget,
    ) -> (GatedBody<StreamBody<tokio_stream::Iter<Chunks>>>, Permits) {
        let chunks: Vec<_> = stream.chunks(chunk).map(|chunk| Ok(Frame::data(Bytes::copy_from_slice(chunk)))).collect();
        let permits = Permits::default();
        let body = StreamBody::new(tokio_stream::iter(chunks));
        (GatedBody::new(body, budget.clone(), over, permits.clone()), permits)
    }

    fn poll<B>(body: &mut GatedBody<B>) -> Poll<Option<Result<Vec<u8>, Status>>>
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<tonic::codegen::StdError>,
    {
        let mut context = Context::from_waker(Waker::noop());
        Pin::new(body).poll_frame(&mut context).map(|frame| {
            frame.map(|frame| frame.map(|frame| frame.into_data().expect("data").to_vec()).map_err(Status::from_error))
        })
    }

    /// Polls until nothing comes any more: the stream below yields now and then of its own accord.
    fn drain<B>(body: &mut GatedBody<B>, out: &mut Vec<u8>)
    where
        B: Body<Data = Bytes> + Unpin,
        B::Error: Into<tonic::codegen::StdError>,
    {
        for _ in 0..200 {
            if let Poll::Ready(Some(Ok(data))) = poll(body) {
                out.extend(data);
            }
        }
    }

    #[test]
    fn a_stream_over_the_budget_stops_reading_at_the_message_that_does_not_fit() {
        for chunk in [1, 3, 7, 1_000] {
            let budget = InFlight::new(100);
            let stream = [message(60), message(40), message(10)].concat();
            let (mut body, permits) = gated(&stream, chunk, &budget, OverBudget::Wait);
            let mut out = Vec::new();
            drain(&mut body, &mut out);
            // Of the third message nothing left beyond a prefix cut short.
            assert!(out.len() < 110 + PREFIX_BYTES, "{} bytes in chunks of {chunk}", out.len());
            assert!(out.len() >= 110, "{} bytes in chunks of {chunk}, held {}", out.len(), budget.held());
            assert_eq!(budget.held(), 100);
            assert!(poll(&mut body).is_pending());
            drop(permits.take());
            drain(&mut body, &mut out);
            assert_eq!(out, stream, "in chunks of {chunk}");
            assert_eq!((permits.take().bytes(), permits.take().bytes()), (40, 10));
            assert_eq!(budget.held(), 0);
        }
    }

    #[test]
    fn a_unary_call_over_the_budget_is_refused_before_it_is_read() {
        let budget = InFlight::new(100);
        let _held = budget.try_acquire(90);
        let (mut body, _) = gated(&message(50), 20, &budget, OverBudget::Refuse(Metrics::new(false)));
        let Poll::Ready(Some(Err(status))) = poll(&mut body) else { panic!("not refused") };
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
        assert_eq!(budget.held(), 90);
    }

    #[test]
    fn d8_a_request_dropped_while_it_waits_leaves_nothing_behind() {
        let budget = InFlight::new(100);
        let held = budget.try_acquire(90);
        let (mut body, permits) = gated(&[message(8), message(50)].concat(), 1_000, &budget, OverBudget::Wait);
        drain(&mut body, &mut Vec::new());
        assert_eq!(budget.held(), 98);
        drop((body, permits));
        assert_eq!(budget.held(), 90);
        drop(held);
        assert_eq!(budget.held(), 0);
    }

    #[test]
    fn a_length_over_the_limit_takes_nothing_from_the_budget() {
        let budget = InFlight::new(100);
        let (mut body, permits) = gated(&[0, 0xff, 0xff, 0xff, 0xff, 1, 2], 100, &budget, OverBudget::Wait);
        assert!(poll(&mut body).is_ready());
        assert_eq!((budget.held(), permits.take().bytes()), (0, 0));
    }
}
