//! What a group has decided about records, now or soon (rules RW-1 to RW-4).
//!
//! A caller that waits is woken by what settles, never by a timer but its own. What it is told is durable.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use tokio::sync::Notify;

use super::group::{Group, Inner};
use super::views::Processed;
use super::{Coordinator, GroupError};
use crate::group::Mode;
use crate::group::entry::{EntryKey, EntryKind, EntryState};
use crate::limits;
use crate::model::{Position, Source};
use crate::partition::PartitionReadError;

/// Counts a caller while it waits.
struct Waiting<'a> {
    group: &'a Group,
    count: &'a AtomicUsize,
    news: Vec<(Source, Arc<Notify>)>,
}

impl<'a> Waiting<'a> {
    fn begin(group: &'a Group, count: &'a AtomicUsize, positions: &[Position]) -> Result<Self, GroupError> {
        if count.fetch_add(1, Ordering::SeqCst) >= limits::WAITERS {
            count.fetch_sub(1, Ordering::SeqCst);
            return Err(GroupError::Limit { limit: "waiters", max: limits::WAITERS as u64 });
        }
        let mut sources: Vec<Source> = positions.iter().map(source_of).collect();
        sources.sort_unstable();
        sources.dedup();
        let news = sources.into_iter().map(|source| (source, group.waiters.enter(source))).collect();
        Ok(Self { group, count, news })
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.count.fetch_sub(1, Ordering::SeqCst);
        self.news.iter().for_each(|(source, _)| self.group.waiters.leave(*source));
    }
}

impl Coordinator {
    /// Waits until the group has decided about records (rules RW-1 to RW-4); answers in the order of `positions`.
    ///
    /// # Errors
    /// [`GroupError::Limit`] if too many wait, or the group is not to be had.
    pub async fn await_processed(
        &self,
        name: &str,
        positions: &[Position],
        timeout: Duration,
    ) -> Result<Vec<Processed>, GroupError> {
        let group = self.find(name)?;
        let cut = self.cut_positions(positions).await?;
        let waiting = Waiting::begin(&group, &self.waiting, positions)?;
        let deadline = tokio::time::sleep(timeout.min(limits::LONG_POLL));
        tokio::pin!(deadline);
        loop {
            // Before the look, so that what is decided after it wakes this caller.
            let mut news: Vec<_> = waiting.news.iter().map(|(_, notify)| Box::pin(notify.notified())).collect();
            for news in &mut news {
                news.as_mut().enable();
            }
            if group.is_gone() {
                return Err(self.shared.refusal(group.name()));
            }
            let written = group.written();
            let decided: Vec<Processed> = group.look_inside(|inner| {
                let one = |(position, cut): (&Position, &bool)| match cut {
                    true => Processed::OtherLog,
                    false => decided(inner, position),
                };
                positions.iter().zip(&cut).map(one).collect()
            });
            let pending = decided.contains(&Processed::Pending);
            let any = std::future::poll_fn(|task| {
                let ready = news.iter_mut().any(|news| news.as_mut().poll(task).is_ready());
                if ready { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
            });
            if !pending {
                self.shared.settle(written).await?;
                return Ok(decided);
            }
            tokio::select! {
                () = any => {}
                () = &mut deadline => {
                    self.shared.settle(written).await?;
                    return Ok(decided);
                }
            }
        }
    }

    /// Which positions are of a part that was cut, or of a topic that is gone (rule OF-7).
    async fn cut_positions(&self, positions: &[Position]) -> Result<Vec<bool>, GroupError> {
        let mut cut = Vec::with_capacity(positions.len());
        for position in positions {
            let Some(log) = self.shared.logs.log(source_of(position)) else {
                cut.push(true);
                continue;
            };
            if position.epoch > log.epoch() {
                // The log has not come to that epoch: it is of another one's future.
                cut.push(true);
                continue;
            }
            // The record itself must be there, so the position after it counts.
            match log.check_position(position.epoch, position.offset.saturating_add(1)).await {
                Ok(()) => cut.push(false),
                // Above the high watermark: it may be on its way, unless the epoch has gone on.
                Err(PartitionReadError::Stale { .. }) => cut.push(log.epoch() != position.epoch),
                Err(error) => return Err(GroupError::Read { what: error.to_string() }),
            }
        }
        Ok(cut)
    }
}

fn source_of(position: &Position) -> Source {
    Source { topic: position.topic, partition: position.partition }
}

/// What a machine says of a record.
fn decided(inner: &Inner, position: &Position) -> Processed {
    let machine = &inner.machine;
    let source = source_of(position);
    let Some(partition) = machine.state().partitions.get(&source) else { return Processed::OtherLog };
    // What the log cannot tell any more once its records are trimmed away: that part was cut, others have its offsets.
    if partition.cuts.iter().any(|(at, epoch)| *at <= position.offset && *epoch > position.epoch) {
        return Processed::OtherLog;
    }
    let key = EntryKey { source, offset: position.offset, epoch: position.epoch };
    if let Some(entry) = machine.entries().get(&key) {
        match (entry.state, entry.kind) {
            (EntryState::Spilled, _) => return Processed::Pending,
            (EntryState::Open, EntryKind::Failed) => return Processed::Dead(key),
            (EntryState::Open, EntryKind::Parked) => return Processed::Parked(key),
            (EntryState::Resolved { .. }, _) => return Processed::Acked,
            (EntryState::Discarded | EntryState::Moved | EntryState::Expired, _) => return Processed::Skipped,
            // Delivered as new: the source decides.
            (EntryState::Cleared, _) => {}
        }
    }
    let settled = match machine.state().config.mode {
        // What is committed past, nothing else (rule RW-3).
        Mode::Offset => position.offset < partition.settled.floor(),
        Mode::Keyed | Mode::Unordered => partition.settled.contains(position.offset),
    };
    match settled {
        false => Processed::Pending,
        true if partition.skips.contains(position.offset) => Processed::Skipped,
        true => Processed::Acked,
    }
}
