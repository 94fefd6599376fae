//! One member's stream: verbs in, frames out, each once what it stands on is durable.
//!
//! [`Session::next`] may be dropped at any await: what it has taken out of the outbox it keeps until the frame is
//! handed over. Reading the records of a delivery happens here, in the task of the stream, so that one slow member
//! holds up nobody else.

use std::collections::VecDeque;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use super::GroupError;
use super::delivery::payload::{self, Missing, Range};
use super::frames::{JoinGroup, SessionFrame};
use super::group::Group;
use super::outbox::{Next, Outbox};
use super::rebuild_views::SwapAnswer;
use crate::dead_letter::handle::Written;
use crate::group::GroupConfig;
use crate::group::cursor_cut::CutReport;
use crate::group::effect::{Delivered, Delivery, Frame};
use crate::group::event::{Event, NackKind, Targets, Verb};
use crate::model::{
    AssignmentEpoch, GroupId, GroupName, MemberEpoch, MemberId, Offset, OffsetRange, PartitionEpoch, Source, TopicName,
    TopicUuid,
};
use crate::partition::PartitionReadError;

/// Number of verbs that the broker says in a member's place; their answers are nobody's.
const INTERNAL: u64 = u64::MAX;
/// No verb of a member has it in its number.
const INTERNAL_BIT: u64 = 1 << 63;
/// Numbers of verbs that a stream has for itself.
const REQUESTS: u64 = 1 << 36;
/// Records that cannot be read now are tried again after so many milliseconds.
const READ_AGAIN_MS: u64 = 1_000;

/// One stream of a member. Dropped without [`Verb::Leave`], it may be resumed.
#[derive(Debug)]
pub struct Session {
    group: Arc<Group>,
    member: MemberId,
    epoch: MemberEpoch,
    config: Arc<GroupConfig>,
    outbox: Arc<Outbox>,
    batches: bool,
    /// Least bytes of a delivery, and how long they are waited for (rule FC-3).
    min_bytes: usize,
    max_wait: Duration,
    /// What was taken out of the outbox and is being filled with records.
    current: Option<Current>,
    ready: VecDeque<SessionFrame>,
    held: Held,
    first_request: u64,
    over: bool,
    left: std::sync::atomic::AtomicBool,
}

/// The question whether a member is silent, for its stream to answer (rule GM-7).
#[derive(Debug, Clone)]
pub struct Doubt {
    group: Arc<Group>,
    member: MemberId,
    epoch: MemberEpoch,
    outbox: Arc<Outbox>,
}

impl Doubt {
    /// Resolves when the group asks. Safe to drop.
    pub async fn raised(&self) {
        self.outbox.asked().await;
    }

    /// Nothing that the member said waits to be taken in.
    pub fn confirm(&self) {
        self.group.drive_event(Event::Silent { member: self.member, epoch: self.epoch });
    }
}

/// Where the cursor of a read model stands (rule RM-3).
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// Number to answer with.
    pub request: u64,
    /// The partition.
    pub source: Source,
    /// Epoch of the assignment.
    pub epoch: AssignmentEpoch,
    /// The next offset.
    pub next: Offset,
    /// Epoch of the record before it, if known.
    pub record_epoch: Option<PartitionEpoch>,
}

/// A delivery that is being filled.
#[derive(Debug)]
enum Current {
    Records(Delivered),
    Range(Range),
}

/// Deliveries that wait for more (rule FC-3).
#[derive(Debug, Default)]
struct Held {
    frames: Vec<SessionFrame>,
    bytes: usize,
    /// Monotonic time at which they go out anyway.
    until: Duration,
}

impl Session {
    /// Lets a member in.
    pub(super) fn begin(group: Arc<Group>, join: JoinGroup) -> Result<Self, GroupError> {
        let outbox = Arc::new(Outbox::default());
        let member = join.join.member;
        let epoch = group.join(join.join, &outbox)?;
        let stream = group.shared().streams.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Ok(Self {
            first_request: stream.wrapping_mul(REQUESTS) & !INTERNAL_BIT,
            config: group.config(),
            group,
            member,
            epoch,
            outbox,
            batches: join.batches,
            min_bytes: join.min_bytes as usize,
            max_wait: Duration::from_millis(join.max_wait_ms).min(crate::limits::LONG_POLL),
            current: None,
            ready: VecDeque::new(),
            held: Held::default(),
            over: false,
            left: false.into(),
        })
    }

    /// Number of the stream's first verb; the later ones count up from it. An answer may come late, on the next stream of
    /// its member, and must not be taken for that of another verb there.
    pub fn first_request(&self) -> u64 {
        self.first_request
    }

    /// What the stream is asked when nothing was heard for the session timeout. Until it confirms, the member is not lost:
    /// time that the broker takes does not count against members.
    pub fn doubt(&self) -> Doubt {
        let (group, outbox) = (Arc::clone(&self.group), Arc::clone(&self.outbox));
        Doubt { group, member: self.member, epoch: self.epoch, outbox }
    }

    /// Settings of the group, for the answer to the join.
    pub fn config(&self) -> Arc<GroupConfig> {
        Arc::clone(&self.config)
    }

    /// The group's number, of which ids of entries are made; of a rebuild that of its group (rule RP-7).
    pub fn group_id(&self) -> GroupId {
        self.group.letters_id()
    }

    /// Whether the member keeps a version that is being rebuilt.
    pub fn is_rebuilding(&self) -> bool {
        self.group.is_shadow()
    }

    /// What the member's database says of a swap (rule RP-6).
    pub fn swapped(&self, answer: SwapAnswer) {
        self.group.swap_answered(answer);
    }

    /// Name of the group.
    pub fn group_name(&self) -> &GroupName {
        self.group.name()
    }

    /// Name of a topic of the group.
    pub fn topic_name(&self, topic: TopicUuid) -> Option<TopicName> {
        self.group.look(|machine| {
            let known = machine.state().topics.get(&topic)?;
            TopicName::parse(&known.name).or_else(|_| TopicName::parse_dead_letter(&known.name)).ok()
        })
    }

    /// Takes a verb. Never blocks; answers come as frames.
    ///
    /// # Errors
    /// The session is over, or the groups are stopped.
    pub fn handle(&self, verb: Verb) -> Result<(), GroupError> {
        if let Verb::Commit { source, .. } | Verb::Report { source, .. } = &verb
            && let Some(log) = self.group.log(*source)
        {
            // A commit is held against the high watermark as it is now (rule AK-8).
            self.group.tell_high_watermark(*source, log.high_watermark());
        }
        let leaves = matches!(verb, Verb::Leave);
        let driven = self.group.verb(self.member, self.epoch, &self.outbox, verb)?;
        if leaves {
            self.left.store(true, std::sync::atomic::Ordering::SeqCst);
            self.outbox.finish(driven.written);
            self.group.detach(self.member, &self.outbox);
        }
        Ok(())
    }

    /// Takes the position of a cursor, held against the epochs of the log first: a position of a part that was cut is
    /// never another record, and is refused (rules RM-1, OF-7).
    ///
    /// # Errors
    /// The log cannot be read; the session is over.
    pub async fn report(&self, report: Report) -> Result<(), GroupError> {
        let Report { request, source, epoch, next, record_epoch } = report;
        if let (Some(known), Some(log)) = (record_epoch, self.group.log(source))
            && known < log.epoch()
        {
            let high_watermark = log.high_watermark();
            let cut = match log.check_position(known, next.min(high_watermark)).await {
                // It ends before the position, and has another epoch: that is where it was cut.
                Ok(()) => (next > high_watermark).then_some(high_watermark),
                Err(PartitionReadError::Stale { truncated_at, .. }) => Some(truncated_at),
                Err(error) => return Err(GroupError::Read { what: error.to_string() }),
            };
            if let Some(at) = cut {
                let cut = CutReport { request, source, epoch, next, record_epoch: known, at };
                return self.handle(Verb::ReportCut(Box::new(cut)));
            }
        }
        self.handle(Verb::Report { request, source, epoch, next, record_epoch })
    }

    /// Puts the member out: it does not read what it is sent (rule FC-6).
    pub fn evict(&self) {
        self.group.drive_event(Event::Admin(crate::group::event::Admin::Evict { member: self.member }));
    }

    /// Why the stream ended, if it was not the machine that ended it.
    pub fn end_cause(&self) -> Option<GroupError> {
        self.group.shared().check().err()
    }

    /// The next frame, durable as far as it must be, its records read; `None` after [`Frame::Ended`], after a leave, or
    /// once the broker or the groups have stopped. Safe to drop at any await.
    pub async fn next(&mut self) -> Option<SessionFrame> {
        loop {
            if let Some(frame) = self.release() {
                return Some(frame);
            }
            if self.over {
                return None;
            }
            if self.current.is_some() {
                self.fill().await;
                continue;
            }
            let passing = self.config.max_in_flight_per_key == 1;
            match self.outbox.take(self.group.shared().durable(), passing) {
                Next::Frame(frame) => self.take_in(frame),
                Next::End => self.over = true,
                Next::Wait(gates) => self.wait(gates).await,
            }
        }
    }

    /// A frame that can go out now.
    fn release(&mut self) -> Option<SessionFrame> {
        if self.ready.is_empty() && !self.held.frames.is_empty() {
            let enough = self.held.bytes >= self.min_bytes || self.over || self.outbox.has_news();
            if enough || self.group.shared().clock.monotonic().0 >= self.held.until {
                self.ready.extend(std::mem::take(&mut self.held.frames));
                self.held.bytes = 0;
            }
        }
        self.ready.pop_front()
    }

    fn take_in(&mut self, frame: Frame) {
        match frame {
            Frame::Deliver(delivered) => self.current = Some(Current::Records(delivered)),
            Frame::DeliverRange { source, epoch, range, marks, filtered, replay } => {
                self.current = Some(Current::Range(Range { source, epoch, range, marks, filtered, replay }));
            }
            Frame::AckResults { request: INTERNAL, .. } => {}
            frame => {
                self.over |= matches!(frame, Frame::Ended(_));
                // It passes no delivery that came before it (rule FC-3).
                self.ready.extend(std::mem::take(&mut self.held.frames));
                self.held.bytes = 0;
                self.ready.push_back(SessionFrame::Control(frame));
            }
        }
    }

    /// Reads the records of what was taken, or the next part of them.
    async fn fill(&mut self) {
        match &self.current {
            Some(Current::Records(delivered)) => {
                let (source, epoch) = (delivered.source, delivered.epoch);
                let filled = payload::fill(&self.group, delivered).await;
                self.current = None;
                if !filled.later.is_empty() {
                    self.give_back(source, epoch, &filled.later);
                }
                self.hand_out(filled.frames);
            }
            Some(Current::Range(range)) => {
                let (source, end) = (range.source, range.range.to);
                let part = payload::range_part(&self.group, range, self.batches).await;
                let reached = match part {
                    Ok(part) => {
                        self.hand_out(part.frames);
                        part.reached
                    }
                    Err((lost, Missing::Gone(reason))) => {
                        self.group.drive_event(Event::Gap { source, range: lost, reason });
                        lost.to
                    }
                    Err((_, Missing::Later(what))) => {
                        tracing::warn!(group = %self.group.name(), what, "a range cannot be read now; tried again");
                        tokio::time::sleep(Duration::from_millis(READ_AGAIN_MS)).await;
                        return;
                    }
                };
                match &mut self.current {
                    Some(Current::Range(range)) if reached < end => range.range.from = reached,
                    current => *current = None,
                }
            }
            None => {}
        }
    }

    /// Deliveries go out, or wait for more (rule FC-3).
    fn hand_out(&mut self, frames: Vec<SessionFrame>) {
        if self.min_bytes == 0 {
            self.ready.extend(frames);
            return;
        }
        if self.held.frames.is_empty() {
            self.held.until = self.group.shared().clock.monotonic().0 + self.max_wait;
        }
        self.held.bytes += frames.iter().map(SessionFrame::payload_bytes).sum::<usize>();
        self.held.frames.extend(frames);
    }

    /// Records that cannot be read now go back without a strike.
    fn give_back(&self, source: Source, epoch: AssignmentEpoch, later: &[Delivery]) {
        let entry =
            |delivery: &Delivery| delivery.more.as_ref().and_then(|more| more.entry.as_ref().map(|entry| entry.key));
        let entries = later.iter().filter_map(entry).collect();
        let plain = later.iter().filter(|delivery| entry(delivery).is_none());
        let run = |delivery: &Delivery| OffsetRange { from: delivery.offset, to: delivery.offset.saturating_add(1) };
        let targets = Targets { source, epoch, runs: plain.map(run).collect(), entries };
        let verb = Verb::Nack {
            request: INTERNAL,
            targets,
            kind: NackKind::Release,
            retry_after_ms: Some(READ_AGAIN_MS),
            whole_group: false,
            error: None,
            reason: String::new(),
        };
        // A session that is over has nothing to give back.
        let _ = self.group.verb(self.member, self.epoch, &self.outbox, verb);
    }

    /// Waits until there is something to take: a frame, a record that became durable, the end of a long poll.
    async fn wait(&mut self, gates: Vec<Written>) {
        let shared = self.group.shared();
        let mut waits: Vec<_> = gates.into_iter().map(|gate| shared.wait(gate)).collect();
        let durable = std::future::poll_fn(|task| {
            waits
                .iter_mut()
                .find_map(|wait| match wait.as_mut().poll(task) {
                    Poll::Ready(result) => Some(result),
                    Poll::Pending => None,
                })
                .map_or(Poll::Pending, Poll::Ready)
        });
        let left = match self.held.frames.is_empty() {
            true => crate::limits::LONG_POLL,
            false => self.held.until.saturating_sub(shared.clock.monotonic().0),
        };
        tokio::select! {
            () = self.outbox.changed() => {}
            result = durable => self.over |= result.is_err(),
            () = tokio::time::sleep(left) => {}
        }
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        if !self.left.load(std::sync::atomic::Ordering::SeqCst) {
            self.group.stream_ended(self.member, self.epoch, &self.outbox);
        }
    }
}
