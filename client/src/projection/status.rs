//! How a projection is: its partitions, how far each is applied, how old the model is.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::clock;
use crate::error::Error;

/// What a partition of a projection does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum UnitState {
    /// Its cursor is being claimed.
    Claiming,
    /// Records are applied as they come.
    Running,
    /// The database, or what a handler depends on, cannot be used: it waits and tries again (`STALLED`).
    Stalled,
    /// Records are gone; it waits until somebody accepts the gap.
    AtGap,
    /// It has ended with an error.
    Stopped,
}

impl UnitState {
    /// Its name, stable for programs.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Claiming => "CLAIMING",
            Self::Running => "RUNNING",
            Self::Stalled => "STALLED",
            Self::AtGap => "AT_GAP",
            Self::Stopped => "STOPPED",
        }
    }
}

/// A partition of a projection.
#[derive(Debug, Clone)]
pub struct UnitStatus {
    /// Name of the topic.
    pub topic: String,
    /// Partition, from 0.
    pub partition: u32,
    /// What it does.
    pub state: UnitState,
    /// Offset of the next record to apply.
    pub next_offset: u64,
    /// Where the live end was when it was reached last; `None` until then.
    pub live_offset: Option<u64>,
    /// Records applied since this program has the partition, repeats left out.
    pub applied_records: u64,
    /// Append time of the last record applied, in milliseconds since 1970.
    pub applied_time_ms: Option<i64>,
    /// Append time of the oldest record that came and is not applied, in milliseconds since 1970.
    pub waiting_time_ms: Option<i64>,
    /// What holds it up or ended it.
    pub error: Option<Arc<str>>,
    /// Which task writes it.
    serial: u64,
}

impl UnitStatus {
    /// Whether everything up to the live end is applied.
    pub fn is_live(&self) -> bool {
        self.state == UnitState::Running
            && self.waiting_time_ms.is_none()
            && self.live_offset.is_some_and(|live| self.next_offset >= live)
    }

    /// How old the model is here, in milliseconds: 0 at the live end, else the age of the oldest record that is not
    /// applied, or as good as known. By this machine's clock against the broker's.
    pub fn age_ms(&self, now_ms: i64) -> u64 {
        let since = match (self.is_live(), self.waiting_time_ms, self.applied_time_ms) {
            (true, _, _) => return 0,
            (false, Some(waiting), _) => waiting,
            (false, None, Some(applied)) => applied,
            (false, None, None) => return 0,
        };
        u64::try_from(now_ms.saturating_sub(since)).unwrap_or(0)
    }
}

/// How a projection is.
#[derive(Debug, Clone, Default)]
pub struct ProjectionStatus {
    pub(super) units: BTreeMap<(String, u32), UnitStatus>,
    /// Records that were applied in partitions that it does not have any more.
    past_records: u64,
    /// Whether there is a stream to the broker.
    pub connected: bool,
    /// Why it has ended, if it has by an error.
    pub ended: Option<Error>,
}

impl ProjectionStatus {
    /// Its partitions, by topic and number.
    pub fn units(&self) -> impl Iterator<Item = &UnitStatus> {
        self.units.values()
    }

    /// One partition.
    pub fn unit(&self, topic: &str, partition: u32) -> Option<&UnitStatus> {
        self.units.get(&(topic.to_owned(), partition))
    }

    /// Whether it has partitions, and is at the live end of all of them.
    pub fn is_live(&self) -> bool {
        self.connected && !self.units.is_empty() && self.units.values().all(UnitStatus::is_live)
    }

    /// Partitions that wait for the database (`STALLED`).
    pub fn stalled(&self) -> usize {
        self.units.values().filter(|unit| unit.state == UnitState::Stalled).count()
    }

    /// Records applied by this program, also in partitions that it does not have any more; it stays when it has ended.
    pub fn applied_records(&self) -> u64 {
        self.past_records + self.units.values().map(|unit| unit.applied_records).sum::<u64>()
    }

    /// Partitions that are not kept are this program's no more; what it applied in them still counts.
    pub(super) fn retain(&mut self, keep: impl Fn(&(String, u32), &UnitStatus) -> bool) {
        let past = &mut self.past_records;
        self.units.retain(|key, unit| {
            let keeps = keep(key, unit);
            *past += if keeps { 0 } else { unit.applied_records };
            keeps
        });
    }

    /// How stale the read model is, in seconds: the age of the oldest record that this program has not applied.
    pub fn freshness_seconds(&self) -> f64 {
        let now_ms = clock::wall_ms();
        let oldest = self.units.values().map(|unit| unit.age_ms(now_ms)).max().unwrap_or(0);
        Duration::from_millis(oldest).as_secs_f64()
    }
}

/// The status of one partition, as its task writes it.
#[derive(Debug, Clone)]
pub(super) struct UnitBoard {
    all: Arc<watch::Sender<ProjectionStatus>>,
    key: (String, u32),
    serial: u64,
}

impl UnitBoard {
    pub(super) fn new(all: &Arc<watch::Sender<ProjectionStatus>>, topic: &str, partition: u32) -> Self {
        let key = (topic.to_owned(), partition);
        let mut serial = 0;
        all.send_modify(|status| {
            let before = status.units.get(&key);
            serial = before.map_or(0, |unit| unit.serial + 1);
            let unit = UnitStatus {
                topic: topic.to_owned(),
                partition,
                state: UnitState::Claiming,
                next_offset: 0,
                live_offset: None,
                applied_records: before.map_or(0, |unit| unit.applied_records),
                applied_time_ms: None,
                waiting_time_ms: None,
                error: None,
                serial,
            };
            status.units.insert(key.clone(), unit);
        });
        Self { all: Arc::clone(all), key, serial }
    }

    /// Changes it, if no later task has it.
    pub(super) fn change(&self, change: impl FnOnce(&mut UnitStatus)) {
        self.all.send_modify(|status| {
            if let Some(unit) = status.units.get_mut(&self.key).filter(|unit| unit.serial == self.serial) {
                change(unit);
            }
        });
    }

    pub(super) fn state(&self, state: UnitState, error: Option<String>) {
        self.change(|unit| (unit.state, unit.error) = (state, error.map(Arc::from)));
    }

    /// It is this program's no more.
    pub(super) fn remove(&self) {
        self.all.send_modify(|status| status.retain(|key, unit| *key != self.key || unit.serial != self.serial));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_applied_counts_after_a_partition_has_gone_and_come_again() {
        let (all, _) = watch::channel(ProjectionStatus::default());
        let all = Arc::new(all);
        let first = UnitBoard::new(&all, "t", 0);
        first.change(|unit| unit.applied_records = 7);
        // A later task of the same partition goes on from there.
        let second = UnitBoard::new(&all, "t", 0);
        second.change(|unit| unit.applied_records += 2);
        first.remove();
        assert_eq!(all.borrow().applied_records(), 9, "the partition is the second one's");
        second.remove();
        assert_eq!((all.borrow().units().count(), all.borrow().applied_records()), (0, 9));
        let third = UnitBoard::new(&all, "t", 0);
        third.change(|unit| unit.applied_records += 1);
        all.send_modify(|status| status.retain(|_, _| false));
        assert_eq!(all.borrow().applied_records(), 10);
    }
}
