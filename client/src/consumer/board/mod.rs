//! Everything a member knows between the broker's stream and its handlers. Pure: frames and verdicts in, records and
//! frames out, time an argument.
//!
//! ```text
//!            inbound.rs                 take                        finish               outbound.rs
//! frames --> slots, lanes, windows --> ready --> handler, stream --> verdicts --> outbox --> frames
//! ```
//!
//! It must not know streams, tasks, clocks. Invariants:
//! - What was handed out is handed out once, until its verdict says otherwise.
//! - A slot stays until the broker has answered its verdict, so that a resumed session can send it again (rule GM-8).
//! - Of a key one record at a time is handed out, where the broker does not see to it itself (`lanes.rs`).

mod again;
mod commits;
mod inbound;
mod offsets;
mod outbound;
mod pauses;
#[cfg(test)]
pub(super) mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::task::Waker;
use std::time::Duration;

use tokio::time::Instant;

use super::batch::OpenFrame;
use super::error::{AckOutcome, Act, HandlerError};
use super::lanes::{LaneKey, Lanes};
use super::leases::{self, LeaseTimes};
use super::positions::Progress;
use super::record::{ConsumedRecord, Source};
use super::slots::{Phase, Slots, Ticket, Waiter};
use super::{ConsumerEvent, Unit};
use crate::error::Error;
use crate::groups::GroupMode;
use commits::CommitTimes;
use outbound::{Outbox, Sent};
use pauses::Pauses;

/// Events that wait to be taken, above which those that only tell of progress are dropped.
const EVENTS: usize = 1024;

/// How a member works.
#[derive(Debug, Clone, Copy)]
pub(super) struct Rules {
    pub(super) mode: GroupMode,
    /// Mode offset: commit by itself behind what is done, and try again what fails.
    pub(super) auto: bool,
    /// Mode offset: tries before a record goes to the dead letters.
    pub(super) tries: u32,
    /// Records and bytes that may be held.
    pub(super) credit: (u64, u64),
}

/// A partition that this member has or had.
#[derive(Debug)]
pub(super) struct SourceState {
    source: Arc<Source>,
    /// Its number on the present stream.
    wire: Option<u32>,
    /// Mode offset: epoch under which it is this member's.
    epoch: Option<u64>,
    progress: Progress,
}

/// What is to be taken next.
#[derive(Debug)]
enum Queued {
    Record(Ticket),
    Event(Box<ConsumerEvent>),
    /// Mode offset: a frame that is opened record by record.
    Frame(Box<OpenFrame>),
}

/// What was taken.
#[derive(Debug)]
pub(super) enum Taken {
    Record(Ticket, ConsumedRecord),
    Event(ConsumerEvent),
    /// Mode offset: the rest of a frame, for readers in a hurry.
    Frame(Box<OpenFrame>),
}

/// A verdict on a record.
#[derive(Debug)]
pub(super) enum Verdict {
    Done,
    Failed(Box<HandlerError>),
}

/// A unit that is to be let go once nothing of it is in work.
#[derive(Debug)]
struct Revoking {
    source: u32,
    slots: (u32, u32),
}

/// Why nothing is handed out any more.
#[derive(Debug, Clone)]
pub(super) enum Ending {
    /// Shut down.
    Closed,
    /// It cannot go on.
    Failed(Error),
}

/// See the module.
#[derive(Debug)]
pub(super) struct Board {
    rules: Rules,
    /// The client keeps the order per key.
    ordered: bool,
    times: LeaseTimes,
    sources: Vec<SourceState>,
    /// From numbers of the present stream to ours.
    by_wire: HashMap<u32, u32>,
    slots: Slots,
    lanes: Lanes,
    ready: VecDeque<Queued>,
    /// Events among `ready`.
    events: usize,
    /// Mode offset: what is tried again, by time.
    delayed: BTreeMap<(Instant, Ticket), ()>,
    commit_times: CommitTimes,
    /// Records handed out and not decided.
    started: usize,
    outbox: Outbox,
    sent: BTreeMap<u64, Sent>,
    /// Frames of acknowledgements among `sent`.
    ack_frames: usize,
    next_sequence: u64,
    revoking: Vec<Revoking>,
    units: Vec<Unit>,
    pauses: Pauses,
    /// The present stream goes on with a session: the broker may tell again what came already.
    resumed: bool,
    /// Nothing new is handed out: the member leaves, at this time at the latest.
    draining: Option<Instant>,
    /// Cut for so long that others may have what is held.
    suspended: bool,
    ending: Option<Ending>,
    /// The session's task is told to look; without a stream it stays so, whatever is to be sent.
    told_session: bool,
    /// The session's task is to look in any case.
    nudge: bool,
    waker: Option<Waker>,
    /// Handlers that wait for a record.
    idle: usize,
}

impl Board {
    pub(super) fn new(rules: Rules) -> Self {
        Self {
            rules,
            ordered: rules.mode == GroupMode::Offset,
            times: LeaseTimes { lease: Duration::from_secs(30), max_processing: None },
            sources: Vec::new(),
            by_wire: HashMap::new(),
            slots: Slots::default(),
            lanes: Lanes::default(),
            ready: VecDeque::new(),
            events: 0,
            delayed: BTreeMap::new(),
            commit_times: CommitTimes::default(),
            started: 0,
            outbox: Outbox::new(rules.credit),
            sent: BTreeMap::new(),
            ack_frames: 0,
            next_sequence: 1,
            revoking: Vec::new(),
            units: Vec::new(),
            pauses: Pauses::default(),
            resumed: false,
            draining: None,
            suspended: false,
            ending: None,
            told_session: false,
            nudge: false,
            waker: None,
            idle: 0,
        }
    }

    /// The member works by itself: handlers are called, positions committed.
    pub(super) fn set_auto(&mut self) {
        self.rules.auto = true;
    }

    pub(super) fn times(&self) -> LeaseTimes {
        self.times
    }

    pub(super) fn units(&self) -> Vec<Unit> {
        self.units.clone()
    }

    /// The next thing to hand out. `whole`: a frame of mode offset that is not begun is taken as it is.
    pub(super) fn take(&mut self, now: Instant, whole: bool) -> Option<Taken> {
        if self.draining.is_some() || self.suspended {
            return None;
        }
        loop {
            match self.ready.front_mut()? {
                Queued::Record(_) => {
                    let Some(Queued::Record(ticket)) = self.ready.pop_front() else { unreachable!("it was looked at") };
                    if let Some(record) = self.start(ticket) {
                        return Some(Taken::Record(ticket, record));
                    }
                }
                Queued::Event(_) => {
                    let Some(Queued::Event(event)) = self.ready.pop_front() else { unreachable!("it was looked at") };
                    self.events -= 1;
                    return Some(Taken::Event(*event));
                }
                Queued::Frame(frame) if whole && frame.is_whole() && plain(&self.sources, frame.source) => {
                    let Some(Queued::Frame(frame)) = self.ready.pop_front() else { unreachable!("it was looked at") };
                    self.frame_handed_out(&frame);
                    return Some(Taken::Frame(frame));
                }
                Queued::Frame(frame) => {
                    let (source, epoch) = (frame.source, frame.epoch);
                    match frame.next() {
                        Some(item) => {
                            if let Some(ticket) = self.arrive_offset(source, epoch, item, now)
                                && let Some(record) = self.start(ticket)
                            {
                                return Some(Taken::Record(ticket, record));
                            }
                        }
                        None => {
                            let Some(Queued::Frame(frame)) = self.ready.pop_front() else {
                                unreachable!("it was looked at")
                            };
                            self.frame_taken(&frame);
                        }
                    }
                }
            }
        }
    }

    /// Hands a record out, if it is still to be.
    fn start(&mut self, ticket: Ticket) -> Option<ConsumedRecord> {
        let keep = self.rules.auto && self.rules.mode == GroupMode::Offset;
        let slot = self.slots.get_mut(ticket).filter(|slot| slot.phase == Phase::Ready)?;
        slot.phase = Phase::Started;
        let record = if keep && !slot.leased { slot.record.clone() } else { slot.record.take() };
        if slot.leased {
            self.outbox.started.push(ticket);
        }
        self.started += 1;
        Some(record.expect("a record that was not handed out is there"))
    }

    /// A verdict. `record` is given back by those who still have it.
    pub(super) fn finish(
        &mut self,
        ticket: Ticket,
        verdict: Verdict,
        record: Option<ConsumedRecord>,
        waiter: Option<Waiter>,
        now: Instant,
    ) {
        let Some(slot) = self.slots.get_mut(ticket).filter(|slot| slot.phase == Phase::Started) else {
            tell(waiter, Ok(AckOutcome::NotLeased));
            return;
        };
        self.started -= 1;
        if let Some(outcome) = slot.lost {
            tell(waiter, Ok(outcome));
            self.leave_lane(ticket);
            self.free(ticket);
            return;
        }
        slot.waiter = waiter;
        if !slot.leased {
            slot.record = record.or_else(|| slot.record.take());
            self.finish_offset(ticket, verdict, now);
            return;
        }
        slot.phase = Phase::Decided;
        match verdict {
            Verdict::Done => {
                self.outbox.acks.push(ticket);
                self.leave_lane(ticket);
            }
            // Its lane stays busy until the answer: what the broker recalls for it must not begin before.
            Verdict::Failed(error) => self.outbox.nacks.push((ticket, error)),
        }
    }

    /// Looks at leases and at what is due.
    pub(super) fn tick(&mut self, now: Instant) {
        let due = leases::due(&self.slots, self.times, now);
        for ticket in due.give_back {
            self.give_back(ticket);
        }
        self.outbox.extends = due.extend;
        self.wake_due(now);
    }

    /// When something is due that no frame brings.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.delayed.first_key_value().map(|((at, _), ())| *at)
    }

    /// Mode offset: tries whose time has come.
    pub(super) fn wake_due(&mut self, now: Instant) {
        while let Some(((at, ticket), ())) = self.delayed.first_key_value() {
            if *at > now {
                return;
            }
            let ticket = *ticket;
            self.delayed.pop_first();
            self.due_again(ticket);
        }
    }

    /// Gives back what was not handed out, without a strike.
    fn give_back(&mut self, ticket: Ticket) {
        let Some(slot) = self.slots.get_mut(ticket).filter(|slot| slot.is_queued()) else { return };
        slot.phase = Phase::Decided;
        slot.record = None;
        if let Some(lane) = slot.lane.clone() {
            // Either it waits behind another, or it is the head of its lane and the next one may begin.
            if !self.lanes.take_out(&lane, ticket) {
                self.next_of_lane(&lane);
            }
        }
        let release = HandlerError::release();
        self.outbox.nacks.push((ticket, Box::new(release)));
    }

    /// Drops what was not handed out: it is not this member's any more.
    fn drop_queued(&mut self, ticket: Ticket) {
        let Some(lane) = self.slots.get(ticket).map(|slot| slot.lane.clone()) else { return };
        if let Some(lane) = lane
            && !self.lanes.take_out(&lane, ticket)
        {
            self.next_of_lane(&lane);
        }
        self.free(ticket);
    }

    /// The record is done with as far as its lane is concerned.
    fn leave_lane(&mut self, ticket: Ticket) {
        if let Some(lane) = self.slots.get_mut(ticket).and_then(|slot| slot.lane.take()) {
            self.next_of_lane(&lane);
        }
    }

    fn next_of_lane(&mut self, lane: &LaneKey) {
        if let Some(next) = self.lanes.leave(lane) {
            self.may_begin(next);
        }
    }

    /// The lane of a record is free.
    fn may_begin(&mut self, ticket: Ticket) {
        if self.parks(ticket) {
            return;
        }
        if let Some(slot) = self.slots.get_mut(ticket) {
            slot.phase = Phase::Ready;
            self.ready.push_back(Queued::Record(ticket));
        }
    }

    /// Ends a slot; a waiter that is left is told that its record is gone.
    fn free(&mut self, ticket: Ticket) {
        let Some(slot) = self.slots.remove(ticket) else { return };
        if self.rules.mode == GroupMode::Offset && !slot.leased {
            self.outbox.grant(1, slot.bytes);
        }
        if let Some(again) = slot.again {
            self.begin_again(again);
        }
        tell(slot.waiter, Ok(slot.lost.unwrap_or(AckOutcome::NotLeased)));
    }

    fn event(&mut self, event: ConsumerEvent) {
        let progress = matches!(event, ConsumerEvent::CaughtUp { .. } | ConsumerEvent::FellBehind { .. });
        if self.events >= EVENTS && progress {
            return;
        }
        self.events += 1;
        self.ready.push_back(Queued::Event(Box::new(event)));
    }

    /// Hands out nothing more, and leaves at this time at the latest.
    pub(super) fn drain(&mut self, deadline: Instant) {
        self.draining = Some(self.draining.map_or(deadline, |known| known.min(deadline)));
        self.outbox.other = true;
        self.nudge = true;
    }

    /// Until when what is in work may finish, if the member leaves.
    pub(super) fn draining(&self) -> Option<Instant> {
        self.draining
    }

    /// Nothing is handed out, and every verdict is answered.
    pub(super) fn is_drained(&self) -> bool {
        self.started == 0 && self.outbox.is_empty() && self.sent.is_empty()
    }

    /// The stream has been cut for as long as the session lives: others may have what is held.
    pub(super) fn suspend(&mut self) {
        self.suspended = true;
    }

    /// The consumer has ended: those who wait are told.
    pub(super) fn end(&mut self, ending: Ending) {
        let error = match &ending {
            Ending::Closed => Error::closed("the consumer"),
            Ending::Failed(error) => error.clone(),
        };
        self.ending.get_or_insert(ending);
        self.nudge = true;
        for ticket in self.slots.select(|slot| slot.waiter.is_some()) {
            if let Some(slot) = self.slots.get_mut(ticket) {
                tell(slot.waiter.take(), Err(error.clone()));
            }
        }
        for source in &mut self.sources {
            let waiting = source.progress.commits.drain(..).flat_map(|commit| commit.waiters);
            waiting.for_each(|waiter| {
                let _ = waiter.send(Err(error.clone()));
            });
        }
        for sent in std::mem::take(&mut self.sent).into_values() {
            sent.fail(&error);
        }
    }

    pub(super) fn ending(&self) -> Option<&Ending> {
        self.ending.as_ref()
    }

    /// The reader of the stream waits.
    pub(super) fn wait(&mut self, waker: &Waker) {
        match &mut self.waker {
            Some(known) => known.clone_from(waker),
            None => self.waker = Some(waker.clone()),
        }
    }

    /// A handler begins, or ceases, to wait.
    pub(super) fn idle(&mut self, waits: bool) {
        self.idle = if waits { self.idle + 1 } else { self.idle.saturating_sub(1) };
    }

    /// Who is to be woken after a change: the session, the reader of the stream, a handler, all handlers.
    pub(super) fn wakes(&mut self) -> Wakes {
        let session = std::mem::take(&mut self.nudge) || (!self.told_session && self.outbox.wants(self.ack_frames));
        self.told_session |= session;
        let over = self.draining.is_some() || self.ending.is_some();
        let something = !self.ready.is_empty() && !self.suspended;
        let reader = if over || something { self.waker.take() } else { None };
        Wakes { session, reader, handler: something && self.idle > 0, everyone: over }
    }
}

/// Who is to be woken.
#[derive(Debug)]
pub(super) struct Wakes {
    pub(super) session: bool,
    pub(super) reader: Option<Waker>,
    pub(super) handler: bool,
    pub(super) everyone: bool,
}

/// Whether every record of a partition is simply handled, as far as this member knows.
fn plain(sources: &[SourceState], source: u32) -> bool {
    sources[source as usize].progress.dead_keys.is_empty()
}

fn tell(waiter: Option<Waiter>, outcome: Result<AckOutcome, Error>) {
    if let Some(waiter) = waiter {
        // Whoever does not wait any more does not want to know.
        let _ = waiter.send(outcome);
    }
}

/// Delay before the next try in mode offset, after so many failures.
fn delay(act: &Act, failures: u32) -> Duration {
    const LONGEST: Duration = Duration::from_secs(24 * 3600);
    let told = match act {
        Act::Retry { after } | Act::Release { after, .. } => *after,
        Act::Dead | Act::Skip { .. } => None,
    };
    told.map_or_else(|| Duration::from_millis(100 << failures.min(6)), |told| told.min(LONGEST))
}
