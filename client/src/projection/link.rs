//! One stream of a projection's member: verbs and their answers, credit, and whether it is still there.
//!
//! Invariants: whoever waits for an answer is told when the stream is gone; the credit of all that came is granted again,
//! whether it was handled or dropped.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use sawlog_proto::v1::{self, consume_request::Frame};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::error::Error;

/// The stream is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gone;

/// The answer to a verb.
#[derive(Debug)]
pub(super) enum Answer {
    /// Of a report: durable, or why not.
    Report(Result<(), Error>),
    /// Of a dead letter.
    Letter(v1::DeadLetterResult),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Link {
    requests: mpsc::Sender<v1::ConsumeRequest>,
    waiting: Mutex<HashMap<u64, oneshot::Sender<Answer>>>,
    next_sequence: AtomicU64,
    /// Credit that is free again and not granted yet.
    free: Mutex<(u64, u64)>,
    credit: (u64, u64),
    pub(super) gone: CancellationToken,
}

impl Link {
    pub(super) fn new(requests: mpsc::Sender<v1::ConsumeRequest>, credit: (u64, u64)) -> Self {
        Self {
            requests,
            waiting: Mutex::default(),
            next_sequence: AtomicU64::new(1),
            free: Mutex::default(),
            credit,
            gone: CancellationToken::new(),
        }
    }

    /// Sends a frame, once there is room.
    pub(super) async fn send(&self, frame: Frame) -> Result<(), Gone> {
        tokio::select! {
            biased;
            () = self.gone.cancelled() => Err(Gone),
            sent = self.requests.send(v1::ConsumeRequest { frame: Some(frame) }) => sent.map_err(|_| Gone),
        }
    }

    /// Sends what may be lost, if there is room.
    pub(super) fn try_send(&self, frame: Frame) -> bool {
        self.requests.try_send(v1::ConsumeRequest { frame: Some(frame) }).is_ok()
    }

    /// Sends a verb; its answer comes later.
    pub(super) async fn ask(&self, verb: impl FnOnce(u64) -> Frame) -> Result<oneshot::Receiver<Answer>, Gone> {
        let sequence = self.next_sequence.fetch_add(1, Ordering::Relaxed);
        let (answer, told) = oneshot::channel();
        self.waiting.lock().insert(sequence, answer);
        self.send(verb(sequence)).await?;
        Ok(told)
    }

    /// Sends a verb and waits for its answer.
    pub(super) async fn call(&self, verb: impl FnOnce(u64) -> Frame) -> Result<Answer, Gone> {
        let told = self.ask(verb).await?;
        tokio::select! {
            biased;
            answer = told => answer.map_err(|_| Gone),
            () = self.gone.cancelled() => Err(Gone),
        }
    }

    /// A number for a verb whose answer nobody waits for.
    pub(super) fn sequence(&self) -> u64 {
        self.next_sequence.fetch_add(1, Ordering::Relaxed)
    }

    /// An answer came.
    pub(super) fn answered(&self, sequence: u64, answer: Answer) {
        if let Some(waiting) = self.waiting.lock().remove(&sequence) {
            let _ = waiting.send(answer);
        }
    }

    /// Credit of what was dropped is free again; it is granted with what comes next.
    pub(super) fn dropped(&self, records: u64, bytes: u64) {
        let mut free = self.free.lock();
        (free.0, free.1) = (free.0 + records, free.1 + bytes);
    }

    /// Credit is free again; it is granted when it is worth a frame, or `now`.
    pub(super) async fn free(&self, records: u64, bytes: u64, now: bool) -> Result<(), Gone> {
        let grant = {
            let mut free = self.free.lock();
            (free.0, free.1) = (free.0 + records, free.1 + bytes);
            let enough = free.0 >= self.credit.0.div_ceil(4) || free.1 >= self.credit.1.div_ceil(4);
            if (enough || now) && *free != (0, 0) { std::mem::take(&mut *free) } else { return Ok(()) }
        };
        self.send(Frame::Credit(v1::Credit { records: grant.0, bytes: grant.1 })).await
    }

    /// The stream has ended.
    pub(super) fn end(&self) {
        self.gone.cancel();
        self.waiting.lock().clear();
    }
}
