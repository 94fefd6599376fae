//! The dead letters of a group in memory, with everything that works on them.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use sawlog_proto::batch::{BatchRecord, RecordHeader};

use super::handle::{DeadLetters, GroupHandle};
use super::test_support::{MemoryGroup, MemoryLog, MemoryLogs, OneGroup, Steps, key, lane};
use super::views::{JobId, JobView, RedriveRequest};
use super::{LetterError, Letters, LettersParts, Sabotage};
use crate::clock::ManualClock;
use crate::group::effect::Notice;
use crate::group::entry::EntryState;
use crate::metrics::Metrics;

/// Nine dead letters of three keys over a group and logs in memory.
pub(super) struct World {
    pub(super) logs: Arc<MemoryLogs>,
    pub(super) group: Arc<MemoryGroup>,
    pub(super) letters: Arc<Letters>,
    pub(super) clock: Arc<ManualClock>,
    pub(super) handle: Arc<dyn GroupHandle>,
}

pub(super) fn record(offset: u64) -> BatchRecord {
    BatchRecord {
        key: Some(Bytes::from(format!("k{}", offset % 3))),
        value: Some(Bytes::from(format!("value {offset}"))),
        headers: vec![RecordHeader { key: Bytes::from_static(b"n"), value: Some(Bytes::from(format!("{offset}"))) }],
        timestamp_ms: 5,
    }
}

pub(super) fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().expect("a runtime")
}

pub(super) fn letters(logs: &Arc<MemoryLogs>, clock: &Arc<ManualClock>) -> Arc<Letters> {
    Letters::new(LettersParts {
        logs: Arc::clone(logs) as _,
        clock: Arc::clone(clock) as _,
        metrics: Metrics::new(false),
        runtime: tokio::runtime::Handle::current(),
        lane_of: lane,
        sabotage: Sabotage::default(),
    })
}

impl World {
    /// Nine dead letters of three keys, of which each lane has three.
    pub(super) async fn new() -> Self {
        let logs = MemoryLogs::default();
        *logs.source.lock() = MemoryLog::with(&(0..12).map(record).collect::<Vec<_>>());
        let logs = Arc::new(logs);
        let group = MemoryGroup::new(&Arc::new(Steps::default()));
        let clock = Arc::new(ManualClock::new(10_000));
        let letters = letters(&logs, &clock);
        let handle: Arc<dyn GroupHandle> = Arc::clone(&group) as _;
        let world = Self { logs, group, letters, clock, handle };
        world.letters.start(Arc::new(OneGroup(Arc::clone(&world.group))));
        let (moves, after) = world.group.kill(&(0..9).collect::<Vec<_>>(), |offset| record(offset).key.map(Into::into));
        world.letters.moves(&world.handle, moves, after, false);
        world.settle().await;
        assert_eq!(world.group.state.lock().settled.len(), 9);
        world
    }

    /// Lets everything go on that can.
    pub(super) async fn settle(&self) {
        for _ in 0..50 {
            tokio::time::sleep(Duration::from_millis(100)).await;
            self.clock.advance(Duration::from_millis(100));
        }
    }

    /// Ends this life of the broker and begins the next.
    pub(super) async fn restart(&mut self) {
        self.letters.stop().await;
        self.group.restart(true, &Arc::new(Steps::default()));
        self.letters = letters(&self.logs, &self.clock);
        self.letters.start(Arc::new(OneGroup(Arc::clone(&self.group))));
        self.settle().await;
    }

    pub(super) async fn start(&self, request: RedriveRequest) -> Result<JobView, LetterError> {
        self.letters.start_redrive(&self.handle, request).await
    }

    pub(super) fn given(&self) -> Vec<u64> {
        self.group.state.lock().given.iter().map(|(_, key)| key.offset.get()).collect()
    }

    pub(super) fn resolve(&self, offset: u64) {
        self.group.close(key(offset), EntryState::Resolved { version: 0 });
        self.letters.notices(&self.handle, &[Notice::EntryClosed(key(offset))]);
    }

    pub(super) fn fail(&self, offset: u64) {
        let job = self.group.entry(key(offset)).job.expect("a job has it");
        self.group.fail(key(offset));
        // What is behind it in its lane leaves the job.
        for behind in (offset + 3..12).step_by(3) {
            let entry = self.group.state.lock().table.get(&key(behind));
            if entry.is_some_and(|entry| entry.job == Some(job)) {
                self.group.fail(key(behind));
            }
        }
        self.letters.notices(&self.handle, &[Notice::RedriveFailed(key(offset))]);
    }

    pub(super) fn job(&self, id: JobId) -> JobView {
        self.letters.job(id).expect("there is one")
    }
}
