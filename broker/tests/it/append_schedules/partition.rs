//! The sources of the group append, compiled once more over a scheduler that tries orders of events.

use sawlog_broker::clock::{Clock, Monotonic};
use sawlog_broker::limits;
use sawlog_broker::log::{AppendError, Appended, FrameDraft, SyncError};
use sawlog_broker::model::{AckLevel, Offset, PartitionEpoch};
use sawlog_broker::partition::events::without_found;
use sawlog_broker::partition::{
    AppendAck, AppendFailure, CheckedBatch, EventDirectory, ProducerDirectory, RequestStamp, Reservation, Reserved,
};
use sawlog_proto::batch::{ProducerStamp, head_with};

#[path = "../../../src/partition/append.rs"]
pub(crate) mod append;
#[path = "../../../src/partition/budget.rs"]
pub(crate) mod budget;
#[path = "../../../src/partition/commit.rs"]
pub(crate) mod commit;
#[path = "../../../src/partition/extension.rs"]
mod extension;
#[path = "../../../src/partition/fake_log.rs"]
pub(crate) mod fake_log;
#[path = "../../../src/partition/leader.rs"]
mod leader;
#[path = "../../../src/partition/producers.rs"]
pub(crate) mod producers;
#[path = "../../../src/partition/pulse.rs"]
mod pulse;
#[path = "../../../src/partition/watermark.rs"]
mod watermark;

/// What `sync.rs` gives the broker, given by the scheduler.
pub(crate) mod sync {
    pub(crate) use shuttle::sync::atomic::{AtomicBool, AtomicU64, Ordering};
    pub(crate) use std::sync::Arc;

    use shuttle::sync::MutexGuard;

    /// A lock of the scheduler with the interface of `parking_lot`.
    #[derive(Debug, Default)]
    pub(crate) struct Mutex<T>(shuttle::sync::Mutex<T>);

    impl<T> Mutex<T> {
        pub(crate) fn new(value: T) -> Self {
            Self(shuttle::sync::Mutex::new(value))
        }

        pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
        }
    }
}
