//! One partition of a projection: claims its cursor, says where it stands, applies what comes in transactions of many
//! records, one at a time where something failed (rules RM-3, RM-4, RM-6, RM-8).
//!
//! ```text
//! claim --> report --> take --> apply --> report ...
//!   ^                            |  fenced: claim again
//!   +---- database down ---------+  handler failed: split, alone, again, then on_poison
//! ```
//!
//! Invariants: the cursor passes a record only in the transaction that applies it, or after its dead letter is durable;
//! trouble of the database is never counted against a record.

mod attempts;
mod entries;
mod taking;

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sawlog_proto::v1::{self, consume_request::Frame};
use tokio::sync::oneshot;

use super::Rules;
use super::inbox::{Closed, Inbox, Item};
use super::link::{Answer, Gone, Link};
use super::status::{UnitBoard, UnitState};
use super::store::{
    Advance, Claim, ClaimError, Claimed, Cursor, CursorKey, Probe, Step, Store, StoreError, StoreErrorKind,
};
use super::swap::cursor_name;
use crate::consumer::{Act, HandlerError, Source};
use crate::dead_letter::DeadLetters;
use crate::error::{Error, ErrorKind, ErrorReason};
use crate::retry::Retry;
use crate::types::signed;

/// How a unit came to its end.
#[derive(Debug)]
pub(super) enum End {
    /// It was taken away, and is let go.
    Revoked,
    /// It is another's, or the stream is gone.
    Lost,
    /// It cannot go on.
    Failed(Error),
}

impl From<Gone> for End {
    fn from(_: Gone) -> Self {
        Self::Lost
    }
}

/// What a unit is given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) source: Arc<Source>,
    /// Number of the source on the stream.
    pub(super) source_id: u32,
    pub(super) slots: v1::Slots,
    pub(super) assignment_epoch: u64,
    /// Where the group began.
    pub(super) group_start: u64,
    pub(super) partition_epoch: u32,
    /// How often in a row readers were lost with its first record.
    pub(super) crashes: u32,
    /// Name of the group, for people.
    pub(super) group: String,
    pub(super) group_id: String,
    /// Name of the group, or of the version that is rebuilt, as its dead letters have it.
    pub(super) letters: String,
    pub(super) dead_letters: DeadLetters,
    pub(super) max_processing: Option<Duration>,
}

/// An item on its way, and what is known of it.
#[derive(Debug)]
struct Queued {
    item: Item,
    failures: u32,
    /// Applied in a transaction of its own.
    alone: bool,
}

/// See the module.
pub(super) struct UnitTask<S> {
    store: Arc<S>,
    rules: Arc<Rules>,
    given: Given,
    link: Arc<Link>,
    inbox: Arc<Inbox>,
    board: UnitBoard,
    key: CursorKey,
    /// Where the cursor stands, and the epoch of the record before it.
    next: u64,
    epoch: u32,
    queue: VecDeque<Queued>,
    /// Credit of the frame that is in the queue.
    held: (u64, u64),
    /// Keys of which a record went to the dead letters here, as far as is known (rule AK-8).
    dead_keys: HashSet<Bytes>,
    /// So many records are applied one by one: a reader was lost with one of them (rule RM-8).
    careful: usize,
    /// The next record is the one with which readers were lost once too often.
    suspect: bool,
    report: Option<oneshot::Receiver<Answer>>,
    reported: u64,
    /// It waits for its database, and the broker was told.
    stalled: bool,
}

impl<S: Store> UnitTask<S> {
    pub(super) fn new(
        store: Arc<S>,
        rules: Arc<Rules>,
        given: Given,
        link: Arc<Link>,
        inbox: Arc<Inbox>,
        board: UnitBoard,
    ) -> Self {
        let key = CursorKey {
            projection: cursor_name(&rules.name, rules.version.as_deref()),
            topic: given.source.topic.to_string(),
            partition: given.source.partition,
        };
        let careful = if given.crashes > 0 { rules.batch_records } else { 0 };
        let suspect = given.crashes >= rules.max_crashes;
        Self {
            store,
            rules,
            link,
            inbox,
            board,
            key,
            next: 0,
            epoch: given.partition_epoch,
            queue: VecDeque::new(),
            held: (0, 0),
            dead_keys: HashSet::new(),
            careful,
            suspect,
            report: None,
            reported: 0,
            stalled: false,
            given,
        }
    }

    /// The whole life of the unit.
    pub(super) async fn run(mut self) -> End {
        let end = match self.live().await {
            Ok(end) | Err(end) => end,
        };
        let (held, dropped) = (self.held, self.inbox.drop_parts());
        self.link.dropped(held.0 + dropped.0, held.1 + dropped.1);
        match &end {
            End::Failed(error) => self.board.state(UnitState::Stopped, Some(error.to_string())),
            End::Revoked | End::Lost => self.board.remove(),
        }
        if matches!(end, End::Revoked) {
            self.flush_report().await;
            let slots = Some(self.given.slots);
            let revoked = v1::Revoked { source_id: self.given.source_id, slots };
            let _ = self.link.send(Frame::Revoked(revoked)).await;
        }
        end
    }

    async fn live(&mut self) -> Result<End, End> {
        self.begin().await?;
        loop {
            match self.inbox.closed() {
                Some(Closed::Revoked) => return Ok(End::Revoked),
                Some(Closed::Lost) => return Ok(End::Lost),
                None => {}
            }
            if self.link.gone.is_cancelled() {
                return Ok(End::Lost);
            }
            self.reported_so_far()?;
            self.step().await?;
        }
    }

    /// Claims the cursor and says where it stands (rule RM-3).
    async fn begin(&mut self) -> Result<(), End> {
        let Claimed { cursor, is_new, applied } = self.claim(true).await?;
        self.goes_on().await?;
        self.stop_at(Step::Claimed).await;
        (self.next, self.epoch) = (cursor.next_offset, cursor.partition_epoch);
        let epoch = (!is_new).then_some(cursor.partition_epoch);
        if let Err(error) = self.report_now(epoch).await? {
            self.cursor_refused(error).await?;
        }
        self.stop_at(Step::Reported).await;
        self.ack_applied(applied).await?;
        let next = self.next;
        self.board.change(|unit| (unit.state, unit.next_offset, unit.error) = (UnitState::Running, next, None));
        Ok(())
    }

    /// Claims the cursor, waiting while the database cannot be used; at the beginning of a unit with a look at its entries.
    async fn claim(&mut self, begins: bool) -> Result<Claimed, End> {
        let first = Cursor {
            next_offset: self.given.group_start,
            partition_epoch: self.given.partition_epoch,
            assignment_epoch: self.given.assignment_epoch,
            topic_id: self.given.source.topic_id.as_str().to_owned(),
            group_id: self.given.group_id.clone(),
        };
        let mut claim = Claim { key: self.key.clone(), first, entries: Vec::new() };
        let mut retry = Retry::new();
        loop {
            if begins {
                claim.entries = self.entries_not_closed().await?;
            }
            match self.store.open(&claim).await {
                Ok(claimed) => return Ok(claimed),
                // The newer assignment is told to its owner; this one ends by a frame of the broker.
                Err(ClaimError::Fenced(epoch)) => {
                    tracing::info!(unit = ?self.key, epoch, "the cursor belongs to a later assignment");
                    self.inbox.ended().await;
                    return Err(End::Lost);
                }
                Err(error @ ClaimError::OtherLog { .. }) => {
                    return Err(End::Failed(self.other_log(&error.to_string())));
                }
                Err(ClaimError::Store(error)) => self.stall(error, &mut retry).await?,
            }
        }
    }

    /// The broker does not take the position of the cursor (rule RM-1).
    async fn cursor_refused(&mut self, error: Error) -> Result<(), End> {
        if error.reason() == Some(ErrorReason::Fenced) {
            self.inbox.ended().await;
            return Err(End::Lost);
        }
        if error.reason() != Some(ErrorReason::OffsetOutOfRange) {
            return Err(End::Failed(error));
        }
        let Some(at) = error.fact_number::<u64>("truncated_at") else {
            return Err(End::Failed(self.other_log(error.message())));
        };
        if !self.rules.accept_truncation && error.fact("gap_accepted") != Some("true") {
            let (CursorKey { topic, partition, .. }, group) = (&self.key, &self.given.group);
            let what = format!(
                "{}; `sawlog group accept-gap {group} --topic {topic} --partition {partition}` lets it go on at {at} with all \
                 that it has applied; else",
                error.message()
            );
            return Err(End::Failed(self.other_log(&what).with_fact("truncated_at", at.to_string())));
        }
        tracing::warn!(unit = ?self.key, from = self.next, at, "the log was cut below the cursor: it goes on at the cut");
        self.move_cursor(at, self.given.partition_epoch).await?;
        self.stop_at(Step::Committed).await;
        self.report_now(None).await?.map_err(End::Failed)
    }

    fn other_log(&self, what: &str) -> Error {
        let message = format!(
            "the cursor of {} in {} partition {} is of another log: {what}; rebuild the read model as a new version",
            self.key.projection, self.key.topic, self.key.partition
        );
        let error = Error::refused(ErrorReason::CursorOfAnotherLog, message);
        let error = error.with_fact("topic", &self.key.topic).with_fact("next_offset", self.next.to_string());
        error.with_fact("partition", self.key.partition.to_string())
    }

    /// Reports where the cursor stands and waits until that is durable.
    async fn report_now(&mut self, epoch: Option<u32>) -> Result<Result<(), Error>, End> {
        let report = self.report_frame(epoch);
        self.reported = self.next;
        match self.link.call(report).await? {
            Answer::Report(result) => Ok(result),
            Answer::Letter(_) => Err(End::Failed(Error::protocol("a report was answered as a dead letter"))),
        }
    }

    fn report_frame(&self, epoch: Option<u32>) -> impl FnOnce(u64) -> Frame + use<S> {
        let (source_id, assignment_epoch) = (self.given.source_id, self.given.assignment_epoch);
        let next_offset = signed(self.next);
        move |sequence| {
            Frame::ReportProgress(v1::ReportProgress { sequence, source_id, assignment_epoch, next_offset, epoch })
        }
    }

    /// Reports what was applied since, one report at a time.
    async fn report_later(&mut self) -> Result<(), End> {
        self.reported_so_far()?;
        if self.report.is_none() && self.reported != self.next {
            self.reported = self.next;
            let frame = self.report_frame(Some(self.epoch));
            self.report = Some(self.link.ask(frame).await?);
        }
        Ok(())
    }

    /// Takes the answer to the last report, if it is there.
    fn reported_so_far(&mut self) -> Result<(), End> {
        let Some(told) = &mut self.report else { return Ok(()) };
        match told.try_recv() {
            Err(oneshot::error::TryRecvError::Empty) => Ok(()),
            told => {
                self.report = None;
                report_answer(told.ok())
            }
        }
    }

    /// Waits until the last report is answered, and makes one more if there is something new. For the end.
    async fn flush_report(&mut self) {
        if let Some(told) = self.report.take() {
            let _ = told.await;
        }
        if self.reported != self.next {
            let _ = self.report_now(Some(self.epoch)).await;
        }
    }

    /// Waits before the next try, told as stalled; what came through entries goes back without a strike.
    async fn stall(&mut self, error: StoreError, retry: &mut Retry) -> Result<(), End> {
        if error.kind() == StoreErrorKind::Schema {
            let message = format!("the database of {} does not fit: {error}", self.key.projection);
            return Err(End::Failed(Error::new(ErrorKind::Precondition, message)));
        }
        self.wait(&error.to_string(), retry.next_wait(None)).await
    }

    /// Waits, told as stalled to this program and to the broker, until what was tried works ([`UnitTask::goes_on`]).
    async fn wait(&mut self, what: &str, wait: Duration) -> Result<(), End> {
        tracing::warn!(unit = ?self.key, what, ?wait, "stalled");
        self.board.state(UnitState::Stalled, Some(what.to_owned()));
        self.stalled = true;
        // Each time: what was begun meanwhile is begun no more (rule RM-8).
        self.tell_stalled(Some(what.to_owned())).await?;
        self.release_entries().await?;
        tokio::select! {
            biased;
            () = self.link.gone.cancelled() => return Err(End::Lost),
            () = self.inbox.ended() => return Err(self.closed()),
            () = tokio::time::sleep(wait) => {}
        }
        Ok(())
    }

    /// A handler said something of a record: what it depends on works, unless it gives the record back for that.
    async fn answered(&mut self, error: &HandlerError) -> Result<(), End> {
        if matches!(error.act, Act::Release { .. }) { Ok(()) } else { self.goes_on().await }
    }

    /// What was waited for works again.
    async fn goes_on(&mut self) -> Result<(), End> {
        if !std::mem::take(&mut self.stalled) {
            return Ok(());
        }
        tracing::info!(unit = ?self.key, "it goes on");
        self.board.state(UnitState::Running, None);
        self.tell_stalled(None).await
    }

    async fn tell_stalled(&self, reason: Option<String>) -> Result<(), End> {
        let (source_id, assignment_epoch) = (self.given.source_id, self.given.assignment_epoch);
        Ok(self.link.send(Frame::Stalled(v1::Stalled { source_id, assignment_epoch, reason })).await?)
    }

    fn closed(&self) -> End {
        if self.inbox.closed() == Some(Closed::Revoked) { End::Revoked } else { End::Lost }
    }

    fn advance(&self, to: u64, partition_epoch: u32) -> Advance {
        Advance { from: self.next, to, partition_epoch, assignment_epoch: self.given.assignment_epoch }
    }

    fn probe(&self) -> Option<Probe> {
        self.rules.probe.clone()
    }

    /// Where a test stops the unit, as a kill would: for ever.
    async fn stop_at(&self, step: Step) {
        if self.rules.probe.as_ref().is_some_and(|probe| probe.0(step)) {
            std::future::pending::<()>().await;
        }
    }
}

fn report_answer(told: Option<Answer>) -> Result<(), End> {
    match told {
        Some(Answer::Report(Err(error))) if error.reason() == Some(ErrorReason::Fenced) => Err(End::Lost),
        Some(Answer::Report(Err(error))) if error.is_retryable() => {
            tracing::warn!(%error, "a position could not be reported");
            Ok(())
        }
        Some(Answer::Report(Err(error))) => Err(End::Failed(error)),
        Some(Answer::Report(Ok(())) | Answer::Letter(_)) => Ok(()),
        None => Err(End::Lost),
    }
}
