//! Records that come through their dead-letter entries: redriven, leased, acked one by one (rules RM-7, RD-7).

use std::sync::Arc;
use std::time::Duration;

use sawlog_proto::v1::{self, consume_request::Frame};
use tokio_stream::StreamExt as _;

use super::super::store::{AppliedEntry, ApplyError, Step, Store, Work, WorkItem};
use super::{End, UnitTask};
use crate::consumer::{Act, ConsumedRecord, HandlerError};
use crate::dead_letter::EntrySelector;
use crate::error::{Error, ErrorKind, ErrorReason};
use crate::retry::Retry;

/// Wait before what was given back comes again.
const AGAIN_MS: u64 = 2_000;

impl<S: Store> UnitTask<S> {
    /// Applies a record once through its entry, and says so.
    pub(super) async fn apply_entry(&mut self, record: ConsumedRecord) -> Result<(), End> {
        let Some(info) = record.entry() else { return Ok(()) };
        let entry = AppliedEntry { dlq_id: info.dlq_id.to_string(), version: info.version, cycle: info.cycle };
        let (dlq_id, version) = (Arc::clone(&info.dlq_id), info.version);
        let items = vec![WorkItem { record, entry: Some(entry) }];
        let advance = self.advance(self.next, self.epoch);
        let work = Arc::new(Work::new(self.key.clone(), advance, items, self.probe()));
        match self.apply_once(&work).await {
            Ok(applied) => {
                self.goes_on().await?;
                self.stop_at(Step::EntryApplied).await;
                // What was applied before counts, whatever version came now.
                let version = applied.known.first().map_or(version, |(_, version)| *version);
                self.board.change(|unit| unit.applied_records += u64::from(applied.known.is_empty()));
                self.answer(&dlq_id, |sequence, work| Frame::Ack(v1::Ack { sequence, work }), Some(version)).await
            }
            Err(ApplyError::Handler { error, .. }) => {
                self.answered(&error).await?;
                self.nack(&dlq_id, &error).await
            }
            Err(ApplyError::Stopped) => std::future::pending().await,
            Err(ApplyError::Stuck) => {
                let message = format!("a handler of {} does not return; end the program", self.key.projection);
                Err(End::Failed(Error::new(ErrorKind::Timeout, message)))
            }
            Err(ApplyError::Fenced) => {
                self.release(&dlq_id).await?;
                self.still_own().await
            }
            Err(ApplyError::Store(error)) => {
                self.release(&dlq_id).await?;
                self.stall(error, &mut Retry::new()).await?;
                // It may be long until the entry comes again: whether the database is back is known before.
                self.still_own().await
            }
        }
    }

    /// Ids of the partition's entries that are not closed. One that a reader before this one applied may be among them: it
    /// was killed before its ack was durable, and the entry was given up since, so that it would not come again. Without
    /// an answer of the broker there are none: they are looked for at the next beginning.
    pub(super) async fn entries_not_closed(&self) -> Result<Vec<String>, End> {
        let selector = EntrySelector {
            topic: Some(self.key.topic.clone()),
            partition: Some(self.key.partition),
            ..EntrySelector::default()
        };
        let ids_of = async |group: &str| {
            let mut entries = self.given.dead_letters.entries(group, &selector, false);
            let mut ids = Vec::new();
            while let Some(entry) = entries.next().await {
                ids.push(entry?.dlq_id);
            }
            Ok::<_, Error>(ids)
        };
        let found = async {
            match ids_of(&self.given.letters).await {
                // The version was swapped in meanwhile.
                Err(error) if error.reason() == Some(ErrorReason::GroupNotFound) => ids_of(&self.given.group).await,
                found => found,
            }
        };
        tokio::select! {
            biased;
            () = self.link.gone.cancelled() => Err(End::Lost),
            () = self.inbox.ended() => Err(self.closed()),
            found = found => Ok(found.unwrap_or_else(|error| {
                tracing::warn!(unit = ?self.key, %error, "open dead letters are not known yet");
                Vec::new()
            })),
        }
    }

    /// Entries that are in the model are not open (rule RM-7).
    pub(super) async fn ack_applied(&self, applied: Vec<AppliedEntry>) -> Result<(), End> {
        for entry in applied {
            let (dlq_id, version) = (Arc::from(entry.dlq_id), Some(entry.version));
            self.answer(&dlq_id, |sequence, work| Frame::Ack(v1::Ack { sequence, work }), version).await?;
        }
        Ok(())
    }

    /// Claims the cursor once more, and finds it where it was left.
    async fn still_own(&mut self) -> Result<(), End> {
        let found = self.claim(false).await?.cursor.next_offset;
        self.goes_on().await?;
        if found == self.next { Ok(()) } else { Err(self.moved(found)) }
    }

    /// What came through entries and was not begun goes back, without a strike.
    pub(super) async fn release_entries(&mut self) -> Result<(), End> {
        for record in self.inbox.take_entries() {
            if let Some(info) = record.entry() {
                let dlq_id = Arc::clone(&info.dlq_id);
                self.release(&dlq_id).await?;
            }
        }
        Ok(())
    }

    async fn release(&self, dlq_id: &Arc<str>) -> Result<(), End> {
        self.nack(dlq_id, &HandlerError::release_after(Duration::from_millis(AGAIN_MS))).await
    }

    async fn nack(&self, dlq_id: &Arc<str>, error: &HandlerError) -> Result<(), End> {
        let millis = |after: &Duration| u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        let (kind, after, reason) = match &error.act {
            Act::Retry { after } => (v1::NackKind::Retry, after.as_ref().map(millis), String::new()),
            Act::Release { after, .. } => (v1::NackKind::Release, after.as_ref().map(millis), String::new()),
            Act::Dead => (v1::NackKind::Dead, None, String::new()),
            Act::Skip { reason } => (v1::NackKind::Skip, None, reason.clone()),
        };
        let told = error.to_wire();
        let nack = |sequence, work| {
            Frame::Nack(v1::Nack {
                sequence,
                work,
                kind: kind.into(),
                retry_after_ms: after,
                scope: v1::NackScope::Record.into(),
                error: told,
                reason,
            })
        };
        self.answer(dlq_id, nack, None).await
    }

    /// Sends a verdict on an entry. Nobody waits for its answer: one that is lost comes again, and is known then.
    async fn answer(
        &self,
        dlq_id: &Arc<str>,
        verb: impl FnOnce(u64, Vec<v1::Work>) -> Frame,
        version: Option<u32>,
    ) -> Result<(), End> {
        let entry = v1::EntryRef { dlq_id: dlq_id.to_string(), version };
        let (source_id, assignment_epoch) = (self.given.source_id, self.given.assignment_epoch);
        let work = v1::Work { source_id, assignment_epoch, offsets: Vec::new(), entries: vec![entry] };
        self.inbox.answered(dlq_id);
        Ok(self.link.send(verb(self.link.sequence(), vec![work])).await?)
    }
}
