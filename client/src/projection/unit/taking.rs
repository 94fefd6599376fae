//! What is taken for a transaction: as much as waits, up to the bounds of a batch.

use super::super::inbox::{self, Arrival, Item, Part};
use super::super::status::UnitState;
use super::super::store::{AppliedEntry, Store, WorkItem};
use super::{End, Queued, UnitTask};
use crate::consumer::ConsumedRecord;

/// What goes into a transaction.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) items: Vec<WorkItem>,
    /// Failures of the one record, if it is alone.
    pub(super) failures: u32,
    /// Where the cursor goes.
    pub(super) to: u64,
    pub(super) epoch: u32,
    bytes: usize,
}

impl<S: Store> UnitTask<S> {
    /// One step: an entry, a batch, or a wait for something to come.
    pub(super) async fn step(&mut self) -> Result<(), End> {
        if self.queue.is_empty() {
            match self.inbox.take() {
                Some(Arrival::Entry(record)) => return self.apply_entry(*record).await,
                Some(Arrival::Part(part)) => self.open(part).await?,
                None => return self.idle().await,
            }
        }
        let batch = self.gather().await?;
        if batch.to > self.next || !batch.items.is_empty() {
            self.apply_batch(batch).await?;
        }
        if self.queue.is_empty() {
            self.give_credit().await?;
        }
        self.report_later().await
    }

    /// Nothing is there: everything is told, and what comes is waited for.
    async fn idle(&mut self) -> Result<(), End> {
        self.report_later().await?;
        self.link.free(0, 0, true).await?;
        self.board.change(|unit| unit.waiting_time_ms = None);
        match &mut self.report {
            Some(told) => {
                tokio::select! {
                    biased;
                    () = self.link.gone.cancelled() => return Err(End::Lost),
                    told = told => {
                        self.report = None;
                        super::report_answer(told.ok())?;
                    }
                    () = self.inbox.changed() => {}
                }
            }
            None => {
                tokio::select! {
                    biased;
                    () = self.link.gone.cancelled() => return Err(End::Lost),
                    () = self.inbox.changed() => {}
                }
            }
        }
        Ok(())
    }

    /// Opens a part of the log into the queue.
    async fn open(&mut self, part: Part) -> Result<(), End> {
        self.give_credit().await?;
        match part {
            Part::Gap(from, to) => self.push(Item::Gap { from, to }),
            Part::Batches(batches) => {
                self.held = inbox::credit_of(&batches);
                let oldest = batches.batches.first().and_then(|stored| stored.info.as_ref());
                let oldest = oldest.map(|info| info.append_time_ms);
                self.board.change(|unit| {
                    unit.waiting_time_ms = oldest;
                    unit.state = if unit.state == UnitState::AtGap { UnitState::Running } else { unit.state };
                });
                let items = inbox::open(&self.given.source, batches, self.next).map_err(End::Failed)?;
                items.into_iter().for_each(|item| self.push(item));
            }
        }
        Ok(())
    }

    fn push(&mut self, item: Item) {
        self.queue.push_back(Queued { item, failures: 0, alone: false });
    }

    /// The frame that was in the queue is done with.
    async fn give_credit(&mut self) -> Result<(), End> {
        let (records, bytes) = std::mem::take(&mut self.held);
        Ok(self.link.free(records, bytes, false).await?)
    }

    /// As much of what waits as goes into one transaction.
    async fn gather(&mut self) -> Result<Batch, End> {
        let mut batch = Batch { items: Vec::new(), failures: 0, to: self.next, epoch: self.epoch, bytes: 0 };
        let limit = if self.careful > 0 { 1 } else { self.rules.batch_records };
        while batch.items.len() < limit && batch.bytes < self.rules.batch_bytes {
            let Some(queued) = self.queue.pop_front() else {
                // More of what waits already, but nothing is waited for.
                match self.inbox.take_part() {
                    Some(part) => self.open(part).await?,
                    None => break,
                }
                continue;
            };
            if queued.alone && !batch.items.is_empty() {
                self.queue.push_front(queued);
                break;
            }
            let alone = queued.alone;
            self.add(queued, &mut batch).await?;
            if alone {
                break;
            }
        }
        Ok(batch)
    }

    async fn add(&mut self, queued: Queued, batch: &mut Batch) -> Result<(), End> {
        let Queued { item, failures, .. } = queued;
        match item {
            Item::Pass { to, epoch } => batch.pass(to, epoch),
            Item::Gap { from, to } => batch.pass_gap(from, to),
            Item::Apply { record, .. } if record.offset < self.next => drop(record),
            // Also what was resolved: before it in its key something has failed here.
            Item::Apply { record, entry } if self.is_dead(&record) => {
                self.park(*record, entry, failures, batch).await?
            }
            Item::Apply { record, entry: None } if self.suspect => {
                self.suspect = false;
                return self.bury_suspect(*record, batch).await;
            }
            Item::Apply { record, entry } => batch.add(*record, entry, failures),
            Item::Blocked(record) if record.offset < self.next => drop(record),
            Item::Blocked(record) => self.park(*record, None, failures, batch).await?,
        }
        Ok(())
    }

    fn is_dead(&self, record: &ConsumedRecord) -> bool {
        record.key.as_ref().is_some_and(|key| self.dead_keys.contains(key))
    }
}

impl Batch {
    pub(super) fn pass(&mut self, to: u64, epoch: Option<u32>) {
        if to > self.to {
            (self.to, self.epoch) = (to, epoch.unwrap_or(self.epoch));
        }
    }

    /// Nothing of these offsets will come.
    fn pass_gap(&mut self, from: u64, to: u64) {
        if from <= self.to {
            self.pass(to, None);
        }
    }

    pub(super) fn add(&mut self, record: ConsumedRecord, entry: Option<AppliedEntry>, failures: u32) {
        self.pass(record.offset + 1, Some(record.epoch));
        self.bytes += record.size_bytes();
        self.failures = failures;
        self.items.push(WorkItem { record, entry });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn re_4_a_gap_is_passed_only_by_who_stands_at_it() {
        let mut batch = Batch { items: Vec::new(), failures: 0, to: 10, epoch: 1, bytes: 0 };
        // What is told of offsets 50 and on may come before what lies below them, as of an entry that has expired.
        batch.pass_gap(50, 60);
        assert_eq!(batch.to, 10, "records 10 to 49 are still to come");
        batch.pass_gap(8, 12);
        assert_eq!((batch.to, batch.epoch), (12, 1));
        batch.pass_gap(12, 20);
        assert_eq!(batch.to, 20);
    }
}
