//! The pace of a replay (rule RP-4): what is read of its range, when, and how much at once.
//!
//! Owns: the rate, what was spent of it, the replay's filter, how far it was when the pace began. Must not know: who
//! gets the records.
//!
//! Invariants: over time no more is handed to the machine than the rate lets, whatever the sizes of batches and however
//! often the rate changes; a range is never handed over beyond its end.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, SemaphorePermit};

use super::fine_sleep::FineSleep;
use crate::group::event::Fetched;
use crate::group::replay::{Replay, ReplayRange, ReplayRate};
use crate::limits;
use crate::model::rate::TokenBucket;
use crate::model::{Filter, Offset, Source};
use crate::partition::FrameRun;

/// Least bytes of log that are read at once.
const LEAST_BYTES: u64 = 4 << 10;
/// Bytes of log that a record takes until some were read.
const FIRST_GUESS_BYTES: u64 = 256;
/// Pieces a second in which a paced replay is read, if they are small: what one piece takes of processor and device is what
/// live traffic may have to wait for.
const PIECES: u64 = 1_000;
/// Most bytes of a piece, unless there would be more than [`MOST_PIECES`] a second: each thread that it goes through
/// keeps its processor for that long, and on few cores live traffic waits. A batch is never divided.
const PIECE_BYTES: u64 = 64 << 10;
const MOST_PIECES: u64 = 10_000;
/// Longest sleep before the pace is looked at again.
const LONGEST_SLEEP: Duration = Duration::from_secs(1);

/// The pace of one replay from a start, a resume or a change of its rate on.
#[derive(Debug)]
pub(in crate::coordinator) struct Pace {
    number: u64,
    ranges: Vec<ReplayRange>,
    filter: Filter,
    /// When it began, by the monotonic clock, and what was left of each range then.
    began: (Duration, Vec<u64>),
    meter: Mutex<Meter>,
    over: Notify,
    timer: FineSleep,
    /// Whose turn it is to read and to pay, if reading is paid for.
    turns: Semaphore,
}

/// The pace of a group's open replay, if it has one.
#[derive(Debug, Default)]
pub(in crate::coordinator) struct CurrentPace(Mutex<Option<Arc<Pace>>>);

impl CurrentPace {
    pub(in crate::coordinator) fn get(&self) -> Option<Arc<Pace>> {
        self.0.lock().clone()
    }

    /// Another one from now on: nobody gets hold of it before the one before has ended, and what that has spent counts.
    pub(in crate::coordinator) fn set(&self, pace: Option<Pace>) {
        let mut current = self.0.lock();
        let before = current.take();
        if let Some(before) = &before {
            before.end();
        }
        *current = pace.map(|pace| match before {
            Some(before) => Arc::new(pace.after(&before)),
            None => Arc::new(pace),
        });
    }
}

#[derive(Debug)]
struct Meter {
    rate: Rate,
    /// Bytes of log that a record takes, on the average of the last reads.
    record_bytes: u64,
    /// Another pace has taken its place: nothing more is handed over by this one.
    over: bool,
}

#[derive(Debug)]
enum Rate {
    Unlimited,
    Records(TokenBucket),
    Bytes(TokenBucket),
    /// What was appended at `from_ms` or before is due at once, later records by the speed.
    Speed {
        permille: u64,
        from_ms: i64,
        since: Duration,
    },
}

impl Pace {
    /// The pace of a replay from `now` on; `left` of each of its ranges, and when the first record left was appended.
    pub(in crate::coordinator) fn new(replay: &Replay, left: Vec<u64>, first_ms: i64, now: Duration) -> Self {
        let rate = match replay.plan.rate {
            ReplayRate::Unlimited => Rate::Unlimited,
            ReplayRate::Records(records) => Rate::Records(TokenBucket::new(records, now)),
            ReplayRate::Bytes(bytes) => Rate::Bytes(TokenBucket::new(bytes, now)),
            ReplayRate::SpeedPermille(permille) => Rate::Speed { permille, from_ms: first_ms, since: now },
        };
        Self {
            number: replay.number,
            ranges: replay.ranges.clone(),
            filter: replay.plan.filter.clone(),
            began: (now, left),
            meter: Mutex::new(Meter { rate, record_bytes: FIRST_GUESS_BYTES, over: false }),
            over: Notify::new(),
            timer: FineSleep::default(),
            turns: Semaphore::new(1),
        }
    }

    /// The same in the place of an earlier pace of its replay, which has ended: the change lets nothing through that the
    /// rates would not have, and what the earlier one handed over is still paid for.
    fn after(self, before: &Self) -> Self {
        if self.number == before.number {
            let (mut meter, was, now) = (self.meter.lock(), before.meter.lock(), self.began.0);
            meter.record_bytes = was.record_bytes;
            match (&mut meter.rate, &was.rate) {
                (Rate::Records(bucket), Rate::Records(before)) | (Rate::Bytes(bucket), Rate::Bytes(before)) => {
                    *bucket = before.at_rate(bucket.per_second(), now);
                }
                (Rate::Records(bucket) | Rate::Bytes(bucket), _) => {
                    *bucket = TokenBucket::empty(bucket.per_second(), now);
                }
                (Rate::Unlimited | Rate::Speed { .. }, _) => {}
            }
        }
        self
    }

    /// The number of its replay.
    pub(in crate::coordinator) fn number(&self) -> u64 {
        self.number
    }

    /// When it began, and what was left of each range then.
    pub(in crate::coordinator) fn began(&self) -> (Duration, &[u64]) {
        (self.began.0, &self.began.1)
    }

    /// Another pace takes its place: whoever waits, or has just read, looks again.
    fn end(&self) {
        self.meter.lock().over = true;
        self.over.notify_waiters();
    }

    /// The range that an offset lies in.
    fn range_at(&self, source: Source, offset: Offset) -> Option<&ReplayRange> {
        let at = self.ranges.binary_search_by_key(&source, |range| range.source).ok()?;
        Some(&self.ranges[at]).filter(|range| range.offsets().contains(offset))
    }

    /// Whether an offset is part of the replay.
    pub(in crate::coordinator) fn covers(&self, source: Source, offset: Offset) -> bool {
        self.range_at(source, offset).is_some()
    }

    /// What the replay asks of records, if it asks for anything.
    pub(in crate::coordinator) fn filter(&self) -> Option<&Filter> {
        (!self.filter.is_empty()).then_some(&self.filter)
    }

    /// Resolves when it is the caller's turn to wait, read and pay: partitions of a paced replay go one after the other,
    /// so that they do not all read at the moment at which the rate lets one of them.
    pub(in crate::coordinator) async fn turn(&self) -> Option<SemaphorePermit<'_>> {
        let paid = matches!(self.meter.lock().rate, Rate::Records(_) | Rate::Bytes(_));
        if paid { self.turns.acquire().await.ok() } else { None }
    }

    /// Sleeps before the next look, at most `wait`; shorter if another pace takes this one's place.
    pub(in crate::coordinator) async fn sleep(&self, wait: Duration) {
        let mut over = std::pin::pin!(self.over.notified());
        over.as_mut().enable();
        if self.meter.lock().over {
            return;
        }
        tokio::select! {
            () = over => {}
            () = self.timer.sleep(wait.min(LONGEST_SLEEP)) => {}
        }
    }

    /// How long to wait before anything may be read.
    pub(in crate::coordinator) fn wait(&self, now: Duration) -> Duration {
        match &self.meter.lock().rate {
            Rate::Records(bucket) | Rate::Bytes(bucket) => bucket.wait(now),
            Rate::Unlimited | Rate::Speed { .. } => Duration::ZERO,
        }
    }

    /// Bytes of log to read at once, `asked` at most.
    pub(in crate::coordinator) fn chunk_bytes(&self, asked: usize) -> usize {
        let meter = self.meter.lock();
        let per_second = match &meter.rate {
            Rate::Records(bucket) => bucket.per_second().saturating_mul(meter.record_bytes),
            Rate::Bytes(bucket) => bucket.per_second(),
            Rate::Unlimited | Rate::Speed { .. } => return asked.min(limits::READ_CHUNK_BYTES),
        };
        let bytes = (per_second / PIECES).min(PIECE_BYTES.max(per_second / MOST_PIECES)).max(LEAST_BYTES);
        usize::try_from(bytes).unwrap_or(asked).min(asked)
    }

    /// Leaves of what was read those frames that are due by the speed; if none is, says how long to wait.
    pub(in crate::coordinator) fn due(&self, run: &mut FrameRun, now: Duration) -> Result<(), Duration> {
        let Rate::Speed { permille, from_ms, since } = self.meter.lock().rate else { return Ok(()) };
        let passed_ms = u128::from(permille) * now.saturating_sub(since).as_millis() / 1_000;
        let reached_ms = from_ms.saturating_add(i64::try_from(passed_ms).unwrap_or(i64::MAX));
        let due = run.frames.iter().take_while(|frame| frame.append_time_ms <= reached_ms).count();
        if let Some(next) = run.frames.get(due) {
            if due == 0 {
                let ahead_ms = u64::try_from(next.append_time_ms.saturating_sub(reached_ms)).unwrap_or(0);
                let wait_ms = u128::from(ahead_ms) * 1_000 / u128::from(permille.max(1));
                return Err(Duration::from_millis(u64::try_from(wait_ms).unwrap_or(u64::MAX)));
            }
            run.next = next.base_offset;
            run.frames.truncate(due);
        }
        Ok(())
    }

    /// What may be handed over of what was read, and is paid for with that; the rest is read again. `None`: another pace
    /// has taken its place meanwhile, and decides.
    pub(in crate::coordinator) fn admit(
        &self,
        source: Source,
        fetched: Fetched,
        looked: bool,
        now: Duration,
    ) -> Option<Fetched> {
        let Some(range) = self.range_at(source, fetched.from) else { return Some(fetched) };
        let fetched = if fetched.next > range.to { fetched.up_to(range.to) } else { fetched };
        let read = fetched.next.distance_from(fetched.from);
        let mut meter = self.meter.lock();
        if meter.over {
            return None;
        }
        if read > 0 && fetched.log_bytes > 0 {
            meter.record_bytes = (meter.record_bytes * 7 + fetched.log_bytes.div_ceil(read)) / 8;
        }
        let record_bytes = fetched.log_bytes / read.max(1);
        let (bucket, by_bytes) = match &mut meter.rate {
            Rate::Records(bucket) => (bucket, false),
            Rate::Bytes(bucket) => (bucket, true),
            Rate::Unlimited | Rate::Speed { .. } => return Some(fetched),
        };
        let price = |bytes: u64| if by_bytes { bytes.max(1) } else { 1 };
        let burst = bucket.burst_units();
        let (end, spent) = if looked {
            cut(&fetched, burst, price)
        } else {
            let count = (burst / price(record_bytes)).clamp(1, read.max(1));
            (fetched.from.saturating_add(count), count * price(record_bytes))
        };
        bucket.spend(spent, now);
        Some(if end < fetched.next { fetched.up_to(end) } else { fetched })
    }
}

/// Where a burst ends, at least one record behind the first, and what it costs. What is filtered out is free.
fn cut(fetched: &Fetched, burst: u64, price: impl Fn(u64) -> u64) -> (Offset, u64) {
    let mut spent = 0;
    for meta in fetched.records.iter().filter(|meta| !meta.filtered) {
        let cost = price(meta.size_bytes.into());
        if spent > 0 && spent + cost > burst {
            return (meta.offset, spent);
        }
        spent += cost;
    }
    (fetched.next, spent)
}

#[cfg(test)]
mod tests;
