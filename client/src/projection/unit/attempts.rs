//! Applying, and what follows when it fails (rules RM-2, RM-4, RM-6, RM-8, AK-8).

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::v1::{self, consume_request::Frame};

use super::super::inbox::Item;
use super::super::link::Answer;
use super::super::poison::{self, CONSUMER_CRASH, Next, OnPoison, TIMEOUT};
use super::super::store::{Applied, AppliedEntry, ApplyError, Step, Store, Work, WorkItem};
use super::taking::Batch;
use super::{End, Queued, UnitTask};
use crate::consumer::{ConsumedRecord, HandlerError, now};
use crate::dead_letter::EntryKind;
use crate::error::{Error, ErrorKind, ErrorReason};
use crate::retry::Retry;
use crate::types::signed;

/// Wait before a dead letter that was refused for now is asked for again.
const LETTER_AGAIN: Duration = Duration::from_secs(1);

impl<S: Store> UnitTask<S> {
    /// Applies a batch; what fails is queued again, in parts.
    pub(super) async fn apply_batch(&mut self, batch: Batch) -> Result<(), End> {
        let Batch { items, failures, to, epoch, .. } = batch;
        let work = Work::new(self.key.clone(), self.advance(to, epoch), items, self.probe());
        match self.try_work(Arc::new(work)).await? {
            Ok((_, work)) => self.applied(&work),
            Err((index, error, work)) => return self.failed(index, error, failures, work).await,
        }
        self.stop_at(Step::Committed).await;
        Ok(())
    }

    /// Moves the cursor alone.
    pub(super) async fn move_cursor(&mut self, to: u64, epoch: u32) -> Result<(), End> {
        let work = Work::new(self.key.clone(), self.advance(to, epoch), Vec::new(), self.probe());
        match self.try_work(Arc::new(work)).await? {
            Ok((_, work)) => self.applied(&work),
            Err((_, error, _)) => {
                return Err(End::Failed(Error::new(ErrorKind::Internal, format!("nothing was handled: {error}"))));
            }
        }
        Ok(())
    }

    fn applied(&mut self, work: &Work) {
        (self.next, self.epoch) = (work.advance.to, work.advance.partition_epoch);
        self.careful = self.careful.saturating_sub(work.items.len());
        let (next, last) = (self.next, work.items.last().map(|item| item.record.append_time_ms));
        self.board.change(|unit| {
            unit.next_offset = next;
            unit.applied_records += work.items.len() as u64;
            unit.applied_time_ms = last.or(unit.applied_time_ms);
            unit.waiting_time_ms = last.or(unit.waiting_time_ms);
        });
    }

    /// Applies work until it is, or a record fails. Trouble of the database is waited for.
    pub(super) async fn try_work(&mut self, work: Arc<Work>) -> Result<Tried, End> {
        let mut retry = Retry::new();
        loop {
            self.tell_started(&work).await?;
            let error = match self.apply_once(&work).await {
                Ok(applied) => {
                    self.goes_on().await?;
                    return Ok(Ok((applied, work)));
                }
                Err(error) => error,
            };
            match error {
                ApplyError::Handler { index, error } => {
                    self.answered(&error).await?;
                    return Ok(Err((index, *error, work)));
                }
                ApplyError::Stopped => std::future::pending().await,
                ApplyError::Stuck => {
                    let message = format!("a handler of {} does not return; end the program", self.key.projection);
                    return Err(End::Failed(Error::new(ErrorKind::Timeout, message)));
                }
                ApplyError::Fenced => {}
                ApplyError::Store(error) => self.stall(error, &mut retry).await?,
            }
            // What became of it, and whether the cursor is still ours, the cursor tells.
            let cursor = self.claim(false).await?.cursor;
            if work.advance.to > work.advance.from && cursor.next_offset == work.advance.to {
                self.goes_on().await?;
                return Ok(Ok((Applied::default(), work)));
            }
            if cursor.next_offset != work.advance.from {
                return Err(self.moved(cursor.next_offset));
            }
        }
    }

    /// Somebody else writes the cursor under this assignment: nothing here may go on.
    pub(super) fn moved(&self, found: u64) -> End {
        let message = format!(
            "the cursor of {} in {} partition {} stands at {found}, and was left at {}: another program writes it",
            self.key.projection, self.key.topic, self.key.partition, self.next
        );
        End::Failed(Error::new(ErrorKind::Conflict, message))
    }

    /// Applies work once; a record that is handled for too long is a failure of it.
    pub(super) async fn apply_once(&self, work: &Arc<Work>) -> Result<Applied, ApplyError> {
        work.begins();
        let mut applying = pin!(self.store.apply(Arc::clone(work)));
        let Some(limit) = self.given.max_processing else { return applying.await };
        loop {
            // What waits for the database has not begun.
            let since = work.handling().map_or_else(now, |(_, since)| since);
            tokio::select! {
                biased;
                applied = &mut applying => return applied,
                () = tokio::time::sleep_until(since + limit) => {}
            }
            if let Some((index, since)) = work.handling().filter(|(_, since)| since.elapsed() >= limit) {
                tracing::warn!(unit = ?self.key, index, ran = ?since.elapsed(), "a handler is stopped");
                let error = HandlerError::retry(format!("the handler ran for more than {limit:?}")).class(TIMEOUT);
                return Err(ApplyError::Handler { index, error: Box::new(error) });
            }
        }
    }

    /// A hint, so that a record that takes its readers down with it is found (rules PI-1, RM-8).
    async fn tell_started(&self, work: &Work) -> Result<(), End> {
        if work.items.is_empty() {
            return Ok(());
        }
        // The broker counts by the position alone.
        let offsets = vec![v1::OffsetRun { from: signed(work.advance.from), count: 1 }];
        let (source_id, assignment_epoch) = (self.given.source_id, self.given.assignment_epoch);
        let work = vec![v1::Work { source_id, assignment_epoch, offsets, entries: Vec::new() }];
        Ok(self.link.send(Frame::Started(v1::Started { work })).await?)
    }

    /// A record failed: what is before it is applied without it, it is tried alone, the rest comes after.
    async fn failed(&mut self, index: usize, error: HandlerError, failures: u32, work: Arc<Work>) -> Result<(), End> {
        let advance = work.advance;
        let items = Arc::try_unwrap(work).map(|work| work.items).unwrap_or_else(|work| work.items.clone());
        let failures = failures + u32::from(error.is_strike());
        let next = poison::next(&error, failures, self.rules.tries);
        let mut poison = None;
        let mut queued: Vec<Queued> = Vec::with_capacity(items.len() + 1);
        for (at, WorkItem { record, entry }) in items.into_iter().enumerate() {
            let pass = Item::Pass { to: record.offset + 1, epoch: Some(record.epoch) };
            let (failures, alone) = if at == index { (failures, true) } else { (0, false) };
            let item = match (at == index, &next) {
                (true, Next::Skip) => {
                    tracing::info!(unit = ?self.key, offset = record.offset, %error, "a record is skipped");
                    pass
                }
                (true, Next::Poison) if index == 0 => {
                    poison = Some(record);
                    continue;
                }
                _ => Item::Apply { record: Box::new(record), entry },
            };
            queued.push(Queued { item, failures, alone });
        }
        // What was passed behind the last record.
        queued.push(Queued {
            item: Item::Pass { to: advance.to, epoch: Some(advance.partition_epoch) },
            failures: 0,
            alone: false,
        });
        for queued in queued.into_iter().rev() {
            self.queue.push_front(queued);
        }
        if let Some(record) = poison {
            let to = (record.offset + 1, record.epoch);
            self.bury(&record, error).await?;
            return self.move_cursor(to.0, to.1).await;
        }
        match next {
            Next::Again(wait) if index == 0 => self.pause(wait).await,
            Next::Wait(wait) => self.wait(&error.to_string(), wait).await,
            _ => Ok(()),
        }
    }

    /// Waits before the next try of a record.
    async fn pause(&self, wait: Duration) -> Result<(), End> {
        tokio::select! {
            biased;
            () = self.link.gone.cancelled() => Err(End::Lost),
            () = self.inbox.ended() => Err(self.closed()),
            () = tokio::time::sleep(wait) => Ok(()),
        }
    }

    /// A record has had its tries: it becomes a dead letter, or its partition stops.
    async fn bury(&mut self, record: &ConsumedRecord, error: HandlerError) -> Result<(), End> {
        if self.rules.on_poison == OnPoison::Stop {
            let message = format!(
                "offset {} of {} partition {} cannot be applied: {error}",
                record.offset, self.key.topic, self.key.partition
            );
            let stopped = Error::new(ErrorKind::Precondition, message).with_fact("class", error.class_name());
            return Err(End::Failed(stopped.with_fact("offset", record.offset.to_string())));
        }
        tracing::warn!(unit = ?self.key, offset = record.offset, %error, "a record goes to the dead letters");
        self.letter(record, EntryKind::Failed, Some(&error)).await?;
        if let Some(key) = &record.key {
            self.dead_keys.insert(key.clone());
        }
        self.stop_at(Step::Lettered).await;
        Ok(())
    }

    /// The record with which readers were lost once too often: no handler sees it (rule RM-8).
    pub(super) async fn bury_suspect(&mut self, record: ConsumedRecord, batch: &mut Batch) -> Result<(), End> {
        let message = format!("{} readers in a row were lost with it", self.given.crashes);
        self.bury(&record, HandlerError::dead(message).class(CONSUMER_CRASH)).await?;
        batch.pass(record.offset + 1, Some(record.epoch));
        Ok(())
    }

    /// A record of a dead key: parked behind it, unless the key lives again (rule AK-8).
    pub(super) async fn park(
        &mut self,
        record: ConsumedRecord,
        entry: Option<AppliedEntry>,
        failures: u32,
        batch: &mut Batch,
    ) -> Result<(), End> {
        if self.letter(&record, EntryKind::Parked, None).await? {
            batch.pass(record.offset + 1, Some(record.epoch));
            // It may be dead anew: what was sent while it lived is not marked.
            if let Some(key) = record.key {
                self.dead_keys.insert(key);
            }
        } else {
            if let Some(key) = &record.key {
                self.dead_keys.remove(key);
            }
            batch.add(record, entry, failures);
        }
        Ok(())
    }

    /// Makes a dead letter; resolves when it is durable. False: the key lives again.
    async fn letter(
        &mut self,
        record: &ConsumedRecord,
        kind: EntryKind,
        error: Option<&HandlerError>,
    ) -> Result<bool, End> {
        use v1::dead_letter_result::Result as Told;
        loop {
            let letter = v1::DeadLetter {
                sequence: 0,
                source_id: self.given.source_id,
                assignment_epoch: self.given.assignment_epoch,
                offset: signed(record.offset),
                kind: EntryKind::to_wire(Some(kind)),
                error: error.and_then(HandlerError::to_wire),
            };
            let verb = |sequence| Frame::DeadLetter(v1::DeadLetter { sequence, ..letter });
            let Answer::Letter(answer) = self.link.call(verb).await? else {
                return Err(End::Failed(Error::protocol("a dead letter was answered as a report")));
            };
            let refused = match answer.result {
                Some(Told::DlqId(_)) => {
                    self.goes_on().await?;
                    return Ok(true);
                }
                Some(Told::Outcome(outcome)) if outcome == i32::from(v1::WorkOutcome::LaneLive) => {
                    self.goes_on().await?;
                    return Ok(false);
                }
                Some(Told::Outcome(_)) => {
                    self.inbox.ended().await;
                    return Err(self.closed());
                }
                Some(Told::Failure(failure)) => Error::from_failure(&failure),
                None => Error::protocol("a dead letter without an answer"),
            };
            if !refused.is_retryable() && refused.reason() != Some(ErrorReason::LimitReached) {
                return Err(End::Failed(refused));
            }
            self.wait(&format!("a dead letter cannot be made: {refused}"), LETTER_AGAIN).await?;
        }
    }
}

/// Work applied, or the record that failed, with its work.
pub(super) type Tried = Result<(Applied, Arc<Work>), (usize, HandlerError, Arc<Work>)>;
