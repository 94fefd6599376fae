//! The jobs of an engine. Each is a task on the engine's runtime, ends when the engine is told to stop, and is awaited
//! then. What blocks is handed to threads that may.
//!
//! | Job | When | What |
//! |---|---|---|
//! | looks | 4 times a second, only while a partition was appended to lately | flush, mark frame, roll by age |
//! | checkpoint | every 30 s, and when much is unchecked | what is known to be synced (rule S4) |
//! | retention | every 30 s | log starts, then files (rules RE-1, D9, F6); roll by age of quiet partitions |
//! | disk | every second | rule F3 |
//! | insecure | every hour | says that the door is open, if it is |
//! | scrub | every minute | a part of all sealed segments (rule C5) |

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;

use super::Inside;
use super::disk::DiskLook;
use crate::clock::Clock;
use crate::config::BrokerConfig;
use crate::metrics::Metrics;
use crate::topics::Topics;
use crate::topics::retention::{ClockVerdict, ClockWatch};
use crate::topics::slot::{Attention, PartitionSlot, TICK_MS};

/// Time between looks at the disk.
const DISK_INTERVAL: Duration = Duration::from_secs(1);
/// Looks at the disk between two tries to reopen what was fenced for want of space.
const LOOKS_PER_REOPEN: u32 = 10;
/// Time between parts of the scrub.
const SCRUB_INTERVAL: Duration = Duration::from_secs(60);
/// Least bytes of a part of the scrub.
const SCRUB_BYTES: u64 = 8 << 20;
/// Partitions that a part of the scrub looks at, at most.
const SCRUB_PARTITIONS: usize = 256;

/// Starts all jobs.
pub(super) fn start(
    inside: &Arc<Inside>,
    topics: &Arc<Topics>,
    metrics: &Arc<Metrics>,
    clock: &Arc<dyn Clock>,
    config: &Arc<BrokerConfig>,
) {
    let job = Job {
        topics: Arc::clone(topics),
        metrics: Arc::clone(metrics),
        clock: Arc::clone(clock),
        config: Arc::clone(config),
        cancel: inside.cancel.clone(),
    };
    let runtime = &inside.runtime;
    let insecure = config.insecure && !config.listen.ip().is_loopback();
    let mut jobs = vec![
        ("disk", runtime.spawn(job.clone().disk(Arc::clone(inside)))),
        ("looks", runtime.spawn(job.clone().looks(Arc::clone(&inside.attention)))),
        ("checkpoint", runtime.spawn(job.clone().checkpoints(Arc::clone(inside)))),
        ("retention", runtime.spawn(job.clone().retention())),
        ("scrub", runtime.spawn(job.scrub())),
    ];
    if insecure {
        jobs.push(("insecure", runtime.spawn(warn_hourly(inside.cancel.clone()))));
    }
    inside.threads.lock().jobs.append(&mut jobs);
}

/// An open door is told again and again (rule S6).
async fn warn_hourly(cancel: CancellationToken) {
    let mut timer = interval(Duration::from_secs(3_600));
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = timer.tick() => tracing::warn!("insecure: everyone who reaches the port can read and write"),
        }
    }
}

/// What jobs share.
#[derive(Debug, Clone)]
struct Job {
    topics: Arc<Topics>,
    metrics: Arc<Metrics>,
    clock: Arc<dyn Clock>,
    config: Arc<BrokerConfig>,
    cancel: CancellationToken,
}

impl Job {
    /// Waits; `false` if it is time to end.
    async fn pause(&self, time: Duration) -> bool {
        tokio::select! {
            () = self.cancel.cancelled() => false,
            () = sleep(time) => true,
        }
    }

    async fn looks(self, attention: Arc<Attention>) {
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = attention.wake.notified() => {}
            }
            loop {
                let (now, wall_ms) = (self.clock.monotonic(), self.clock.wall_ms());
                let mut again = attention.take();
                again.retain(|slot| slot.look(now, wall_ms));
                attention.put_back(again);
                if attention.is_empty() {
                    break;
                }
                if !self.pause(Duration::from_millis(TICK_MS)).await {
                    return;
                }
            }
        }
    }

    async fn checkpoints(self, inside: Arc<Inside>) {
        let mut timer = interval(Duration::from_secs(self.config.storage.checkpoint_interval_s));
        timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = self.cancel.cancelled() => return,
                () = inside.attention.checkpoint_due.notified() => {}
                _ = timer.tick() => {}
            }
            let (inside, topics, metrics) = (Arc::clone(&inside), Arc::clone(&self.topics), Arc::clone(&self.metrics));
            blocking("checkpoint", move || {
                if inside.attention.take_unchecked_bytes() > 0 || inside.checkpoints.is_first() {
                    inside.checkpoints.write(&topics, &inside.journals, &metrics);
                }
            })
            .await;
        }
    }

    async fn retention(self) {
        let seconds = self.config.storage.retention_interval_s;
        let mut watch = ClockWatch::new(seconds * 1_000);
        watch.look(self.clock.wall_ms(), self.clock.monotonic());
        while self.pause(Duration::from_secs(seconds)).await {
            let verdict = watch.look(self.clock.wall_ms(), self.clock.monotonic());
            if let ClockVerdict::Stepped { by_ms } = verdict {
                self.metrics.clock_steps.inc();
                tracing::warn!(by_ms, "the wall clock stepped: retention by age is suspended");
            }
            let (topics, clock) = (Arc::clone(&self.topics), Arc::clone(&self.clock));
            blocking("retention", move || run_retention(&topics, &*clock, verdict == ClockVerdict::Sane)).await;
        }
    }

    async fn disk(self, inside: Arc<Inside>) {
        let mut looks = 0;
        while self.pause(DISK_INTERVAL).await {
            let own = Arc::clone(&inside);
            let look = blocking("disk", move || own.look_at_disk()).await.flatten();
            looks += 1;
            after_disk_look(&self.topics, look, looks % LOOKS_PER_REOPEN == 0).await;
        }
    }

    async fn scrub(self) {
        let interval_s = self.config.storage.scrub_interval_s;
        if interval_s == 0 {
            return;
        }
        let mut round = ScrubRound::default();
        while self.pause(SCRUB_INTERVAL).await {
            let (topics, metrics) = (Arc::clone(&self.topics), Arc::clone(&self.metrics));
            let scrubbed = blocking("scrub", move || {
                round.part(&topics, &metrics, interval_s);
                round
            });
            let Some(back) = scrubbed.await else { return };
            round = back;
        }
    }
}

/// Runs what blocks; `None` if it panicked, which the panic hook has reported, or the runtime ends.
async fn blocking<T: Send + 'static>(job: &'static str, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let result = tokio::task::spawn_blocking(work).await;
    result.map_err(|error| tracing::error!(job, %error, "a job failed")).ok()
}

/// What follows from a look at the disk. Partitions that only a full disk had fenced are reopened (rule F1) when
/// produce has just resumed, and now and then (`try_reopen`), since a quota may be full while the disk is not.
pub(super) async fn after_disk_look(topics: &Topics, look: Option<DiskLook>, try_reopen: bool) {
    let Some(look) = look else { return };
    topics.factory().log.ahead.set_open(look.may_allocate_ahead);
    if look.low || !(look.resumed || try_reopen) {
        return;
    }
    for topic in topics.all() {
        for slot in topic.slots() {
            if slot.partition().is_some_and(|partition| partition.fenced_for_space()) {
                let partition = slot.reference().partition;
                if let Err(error) = topics.reopen(topic.name.as_str(), partition).await {
                    tracing::warn!(topic = topic.name.as_str(), partition = partition.0, %error, "still fenced");
                }
            }
        }
    }
}

/// Retention of all partitions: one batch of log starts, then the files. Rolls quiet partitions by age on the way.
/// Without `by_age` only what is too large goes.
pub(super) fn run_retention(topics: &Topics, clock: &dyn Clock, by_age: bool) {
    let (now, wall_ms) = (clock.monotonic(), clock.wall_ms());
    for topic in topics.all() {
        for partition in topic.slots().iter().filter_map(|slot| slot.partition()) {
            partition.tick(now, wall_ms);
        }
    }
    // At the begin of all times nothing is old.
    topics.all().iter().for_each(|topic| topic.event_ids().expire());
    let starts = topics.retention_starts(if by_age { wall_ms } else { 0 });
    if let Err(error) = topics.raise_starts(&starts) {
        tracing::warn!(%error, "retention could not raise log starts; tried again at its next turn");
    }
}

/// One way through all partitions, in parts.
#[derive(Debug, Default)]
struct ScrubRound {
    left: Vec<Arc<PartitionSlot>>,
    bytes_per_part: u64,
}

impl ScrubRound {
    fn part(&mut self, topics: &Topics, metrics: &Metrics, interval_s: u64) {
        use crate::partition::PartitionLog;
        if self.left.is_empty() {
            self.left = topics.all().iter().flat_map(|topic| topic.slots().iter().cloned()).collect();
            let bytes: u64 = self.left.iter().map(|slot| slot.status().size_bytes).sum();
            let parts = (interval_s / SCRUB_INTERVAL.as_secs()).max(1);
            self.bytes_per_part = (bytes / parts).max(SCRUB_BYTES);
        }
        let mut bytes_left = self.bytes_per_part;
        for _ in 0..SCRUB_PARTITIONS {
            let Some(slot) = self.left.last() else { return };
            let scrubbed = slot.partition().map(|partition| partition.scrub(bytes_left));
            let bytes = scrubbed.map_or(0, |scrubbed| scrubbed.bytes);
            metrics.scrubbed_bytes.inc_by(bytes);
            if scrubbed.is_none_or(|scrubbed| scrubbed.complete) {
                self.left.pop();
            }
            bytes_left = bytes_left.saturating_sub(bytes);
            if bytes_left == 0 {
                return;
            }
        }
    }
}
