//! What a member is to be sent and has not been yet: in order, each frame behind the records that it stands on.
//!
//! Two queues: answers to verbs, each of which waits for its own records alone; and everything else, in order, where
//! a delivery may pass one that still waits for its record, if the group allows it. Bounded by the member's credit and
//! by what it asks: a member gets no more records than it has room for, and one answer a verb.
//!
//! Invariants: no frame goes out before its gate is durable (rules AK-3, RT-6); nothing passes a frame that is no
//! delivery, and such a frame passes nothing.

use std::collections::VecDeque;

use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::dead_letter::handle::Written;
use crate::group::effect::{After, Frame, Outgoing};

/// Deliveries that are looked at beyond one that waits.
const PASSING: usize = 32;

/// Frames of one stream.
#[derive(Debug, Default)]
pub(super) struct Outbox {
    queues: Mutex<Queues>,
    wake: Notify,
    asked: Notify,
}

#[derive(Debug, Default)]
struct Queues {
    ordered: VecDeque<Waiting>,
    answers: VecDeque<Waiting>,
    /// Nothing follows but what is queued; the stream ends behind it once this is durable.
    ending: Option<Written>,
    /// The stream ends now.
    closed: bool,
}

#[derive(Debug)]
struct Waiting {
    frame: Frame,
    gate: Option<Written>,
}

/// What comes next.
#[derive(Debug)]
pub(super) enum Next {
    /// This frame.
    Frame(Frame),
    /// Nothing before one of these is durable, or before something new comes.
    Wait(Vec<Written>),
    /// The stream ends.
    End,
}

/// Whether what is written up to here may be told.
fn open(gate: Option<Written>, durable: Written) -> bool {
    gate.is_none_or(|gate| gate.group <= durable.group && gate.entries <= durable.entries)
}

impl Outbox {
    /// Adds a frame; `written` is what the event of the frame wrote.
    pub(super) fn push(&self, outgoing: Outgoing, written: Written) {
        let gate = match outgoing.after {
            After::Now => None,
            After::Group => Some(Written { entries: Written::default().entries, ..written }),
            After::Entries => Some(written),
        };
        let frame = outgoing.frame;
        let answer = matches!(
            frame,
            Frame::AckResults { .. } | Frame::CommitResult { .. } | Frame::DeadLetterResult { .. } | Frame::Pong
        );
        let ends = matches!(frame, Frame::Ended(_));
        let mut queues = self.queues.lock();
        if queues.ending.is_some() || queues.closed {
            return;
        }
        let queue = if answer { &mut queues.answers } else { &mut queues.ordered };
        queue.push_back(Waiting { frame, gate });
        if ends {
            queues.ending = Some(Written::default());
        }
        drop(queues);
        self.wake.notify_one();
    }

    /// Nothing follows; the stream ends behind what is queued, once `written` is durable.
    pub(super) fn finish(&self, written: Written) {
        self.queues.lock().ending.get_or_insert(written);
        self.wake.notify_one();
    }

    /// The stream ends now.
    pub(super) fn close(&self) {
        self.queues.lock().closed = true;
        self.wake.notify_one();
    }

    /// Asks the stream whether anything that its member said waits to be taken in.
    pub(super) fn ask(&self) {
        self.asked.notify_one();
    }

    /// Resolves when that was asked since the last call. Safe to drop.
    pub(super) async fn asked(&self) {
        self.asked.notified().await;
    }

    /// Resolves when something was pushed since the last call.
    pub(super) async fn changed(&self) {
        self.wake.notified().await;
    }

    /// Takes the next frame. `passing`: deliveries may pass one that waits.
    pub(super) fn take(&self, durable: Written, passing: bool) -> Next {
        let mut queues = self.queues.lock();
        if queues.closed {
            return Next::End;
        }
        let mut gates = Vec::new();
        if let Some(at) = next_of(&queues.ordered, durable, passing, &mut gates) {
            let waiting = queues.ordered.remove(at).expect("it was found there");
            return Next::Frame(waiting.frame);
        }
        match queues.answers.front() {
            Some(answer) if open(answer.gate, durable) => {
                let waiting = queues.answers.pop_front().expect("it was found there");
                return Next::Frame(waiting.frame);
            }
            Some(answer) => gates.extend(answer.gate),
            None => {}
        }
        if let Some(ending) = queues.ending.filter(|_| queues.ordered.is_empty() && queues.answers.is_empty()) {
            if open(Some(ending), durable) {
                return Next::End;
            }
            gates.push(ending);
        }
        Next::Wait(gates)
    }

    /// Whether a frame that is no delivery waits: a long poll ends then (rule FC-3).
    pub(super) fn has_news(&self) -> bool {
        let queues = self.queues.lock();
        let delivery = |waiting: &Waiting| matches!(waiting.frame, Frame::Deliver(_) | Frame::DeliverRange { .. });
        queues.closed || queues.ending.is_some() || queues.ordered.iter().any(|waiting| !delivery(waiting))
    }
}

/// The place of the next frame that may go out.
fn next_of(queue: &VecDeque<Waiting>, durable: Written, passing: bool, gates: &mut Vec<Written>) -> Option<usize> {
    let first = queue.front()?;
    if open(first.gate, durable) {
        return Some(0);
    }
    gates.extend(first.gate);
    if !passing {
        return None;
    }
    let delivery = |waiting: &&Waiting| matches!(waiting.frame, Frame::Deliver(_));
    let deliveries = queue.iter().take(PASSING).take_while(delivery);
    deliveries.enumerate().find(|(_, waiting)| open(waiting.gate, durable)).map(|(at, _)| at)
}

#[cfg(test)]
mod tests;
