//! Reading ahead for a machine: one fetch a partition at a time, waiting at the high watermark until there is more.
//!
//! A fetch compares the partition's epoch with the one that the group's state was last compared with, before anything
//! is told (rules AK-12, G7), so that a cut is seen before what lies above it.

use std::sync::Arc;
use std::time::Duration;

use super::super::group::Group;
use super::super::lanes;
use super::cache::{Kept, Opened};
use super::pace::Pace;
use crate::group::effect::Fetch;
use crate::group::event::{Event, Fetched, RecordMeta};
use crate::group::record::GapReason;
use crate::group::{GroupConfig, Mode};
use crate::limits;
use crate::model::{Offset, OffsetRange, PartitionEpoch, Source};
use crate::partition::{Frame, FrameRun, PartitionLog, PartitionReadError, ReadError};

/// Time between two tries to read what cannot be read now.
const RETRY: Duration = Duration::from_secs(1);

/// Time between two looks whether the journals have caught up.
const BEHIND: Duration = Duration::from_millis(5);

/// What a try to read came to.
enum Turn {
    /// The machine was told.
    Told,
    /// Something changed on the way: again at once.
    Again,
    /// Nothing can be read now; again after a while.
    Later,
    /// The partition is the group's no more, or will not come back in this run.
    Over,
}

/// Carries a fetch out. Ends early when a newer fetch of the partition takes its place: it is cancelled then.
pub(in crate::coordinator) async fn run(group: Arc<Group>, fetch: Fetch, number: u64) {
    loop {
        match turn(&group, &fetch, number).await {
            Turn::Told | Turn::Over => return,
            Turn::Again => {}
            Turn::Later => tokio::time::sleep(RETRY).await,
        }
    }
}

async fn turn(group: &Arc<Group>, fetch: &Fetch, number: u64) -> Turn {
    let source = fetch.source;
    let (Some(log), Some(known)) = (group.log(source), group.known_epoch(source)) else { return Turn::Over };
    if log.epoch() != known {
        return match compare(group, source, &*log).await {
            Ok(()) => {
                // If the machine asked anew, this says nothing any more.
                group.fetched(number, empty(fetch, log.high_watermark()));
                Turn::Told
            }
            Err(error) => later(group, source, &error),
        };
    }
    let high_watermark = log.high_watermark();
    if fetch.from >= high_watermark {
        group.tell_high_watermark(source, high_watermark);
        let reached = log.wait_beyond(fetch.from).await;
        if reached <= fetch.from && log.epoch() == known {
            // Closed: the topic was deleted, or the broker stops.
            return Turn::Over;
        }
        if log.epoch() != known {
            return Turn::Again;
        }
    }
    let max_bytes = (fetch.max_bytes as usize).clamp(1, limits::FETCH_BYTES);
    let pace = group.pace().filter(|pace| pace.covers(source, fetch.from));
    if let Some(pace) = pace {
        return paced_turn(group, fetch, number, (&*log, known), (&pace, max_bytes)).await;
    }
    match log.read(fetch.from, max_bytes).await {
        // The epoch may have changed meanwhile: what was read is not told then.
        Ok(_) if log.epoch() != known => Turn::Again,
        Ok(run) => {
            let fetched = look(group, fetch, run, log.high_watermark(), None);
            hand_over(group, number, fetched).await;
            Turn::Told
        }
        Err(error) => failed(group, fetch, &*log, &error),
    }
}

/// The same for the range of a replay: at its pace (rule RP-4), and behind what live traffic reads (rule FC-8).
async fn paced_turn(
    group: &Arc<Group>,
    fetch: &Fetch,
    number: u64,
    (log, known): (&dyn PartitionLog, PartitionEpoch),
    (pace, max_bytes): (&Pace, usize),
) -> Turn {
    let now = || group.shared().clock.monotonic().0;
    let turn = pace.turn().await;
    let wait = pace.wait(now());
    if !wait.is_zero() {
        pace.sleep(wait).await;
        return Turn::Again;
    }
    match log.read_behind(fetch.from, pace.chunk_bytes(max_bytes)).await {
        Ok(_) if log.epoch() != known => Turn::Again,
        Ok(mut run) => {
            if let Err(wait) = pace.due(&mut run, now()) {
                pace.sleep(wait).await;
                return Turn::Again;
            }
            let fetched = look(group, fetch, run, log.high_watermark(), Some(pace));
            let Some(fetched) = pace.admit(fetch.source, fetched, fetch.look, now()) else { return Turn::Again };
            drop(turn);
            hand_over(group, number, fetched).await;
            Turn::Told
        }
        Err(error) => failed(group, fetch, log, &error),
    }
}

async fn hand_over(group: &Group, number: u64, mut fetched: Fetched) {
    while group.shared().journals.is_behind() {
        // Nothing more is delivered while so much waits to be written.
        tokio::time::sleep(BEHIND).await;
    }
    // What its group has of these records is known before they are told (rule RP-7).
    loop {
        let to = group.adopt(fetched.source, fetched.from, fetched.next);
        if to > fetched.from || fetched.next == fetched.from {
            fetched = fetched.up_to(to);
            break;
        }
        // The first is on its way to the dead letters.
        tokio::time::sleep(BEHIND).await;
    }
    group.fetched(number, fetched);
}

/// A fetch that found nothing.
fn empty(fetch: &Fetch, high_watermark: Offset) -> Fetched {
    Fetched {
        source: fetch.source,
        from: fetch.from,
        next: fetch.from,
        records: Vec::new(),
        log_bytes: 0,
        undecodable: Vec::new(),
        high_watermark,
        last_append_ms: 0,
    }
}

/// Compares a group's state with the partition and tells the machine what was cut (rules AK-12, G7).
pub(in crate::coordinator) async fn compare(
    group: &Group,
    source: Source,
    log: &dyn PartitionLog,
) -> Result<(), PartitionReadError> {
    let Some((known, highest)) = group.highest(source) else { return Ok(()) };
    let epoch = log.epoch();
    let at = match log.check_position(known, highest).await {
        Ok(()) => None,
        Err(PartitionReadError::Stale { truncated_at, .. }) => Some(truncated_at),
        Err(error) => return Err(error),
    };
    if epoch == known && at.is_none() {
        return Ok(());
    }
    if let Some(at) = at {
        tracing::warn!(group = %group.name(), partition = source.partition.0, at = at.get(), "a partition was cut: the group's state above is dropped");
    }
    group.cache().forget(source);
    group.drive_event(Event::Cut { source, at, epoch });
    Ok(())
}

/// What the machine must know of what was read; the frames are kept for the deliveries.
fn look(group: &Group, fetch: &Fetch, run: FrameRun, high_watermark: Offset, pace: Option<&Pace>) -> Fetched {
    let config = group.config();
    let mut fetched = empty(fetch, high_watermark);
    fetched.next = run.next.max(fetch.from);
    let mut kept = Vec::with_capacity(run.frames.len());
    for frame in run.frames {
        fetched.log_bytes += frame.batch.len() as u64;
        fetched.last_append_ms = frame.append_time_ms;
        if !fetch.look && group.proves_batches(fetch.source) {
            kept.push(Kept::new(frame));
            continue;
        }
        match metas(&config, &frame, fetch, pace, &mut fetched.records) {
            Ok(opened) if fetch.look => kept.push(Kept::with(frame, opened)),
            Ok(_) => kept.push(Kept::new(frame)),
            Err(()) => {
                let range = OffsetRange { from: frame.base_offset, to: frame.end_offset() };
                fetched.undecodable.push((range, frame.epoch));
            }
        }
    }
    group.cache().keep(fetch.source, kept);
    fetched
}

/// Looks at each record of a frame; nothing of it is kept if one cannot be decoded (rule DL-16).
fn metas(
    config: &GroupConfig,
    frame: &Frame,
    fetch: &Fetch,
    pace: Option<&Pace>,
    out: &mut Vec<RecordMeta>,
) -> Result<Opened, ()> {
    let before = out.len();
    let ordered = config.mode != Mode::Unordered;
    let own = pace.and_then(Pace::filter);
    let filter = (!config.filter.is_empty()).then_some(&config.filter);
    if fetch.look {
        out.reserve(frame.record_count as usize);
    }
    let opened = Opened::open(frame, |view| {
        let offset = frame.base_offset.saturating_add(u64::from(view.index));
        if !fetch.look || offset < fetch.from {
            return;
        }
        out.push(RecordMeta {
            offset,
            lane: lanes::lane_key(view.key.filter(|_| ordered), offset),
            slot: lanes::slot(view.key, offset),
            epoch: frame.epoch,
            size_bytes: u32::try_from(view.size_bytes()).unwrap_or(u32::MAX),
            append_ms: frame.append_time_ms,
            filtered: filter.into_iter().chain(own).any(|filter| !filter.matches(view.key, view.headers)),
        });
    });
    opened.map_err(|error| {
        tracing::warn!(offset = frame.base_offset.get(), %error, "a stored batch cannot be decoded");
        out.truncate(before);
    })
}

/// What follows from a read that failed.
fn failed(group: &Group, fetch: &Fetch, log: &dyn PartitionLog, error: &PartitionReadError) -> Turn {
    let (source, from) = (fetch.source, fetch.from);
    let (range, reason) = match error {
        PartitionReadError::Log(ReadError::OutOfRange { start, .. }) if from < *start => {
            let reason = group.reason_of_start(source, *start);
            (OffsetRange { from, to: *start }, reason)
        }
        PartitionReadError::Log(ReadError::Corrupt(corruption)) => {
            let damaged = log.damaged_at(from).map(|range| range.to).or(corruption.next_good);
            let Some(to) = damaged.filter(|to| *to > from) else { return later(group, source, error) };
            (OffsetRange { from, to }, GapReason::Corrupt)
        }
        _ => return later(group, source, error),
    };
    group.drive_event(Event::Gap { source, range, reason });
    Turn::Told
}

fn later(group: &Group, source: Source, error: &PartitionReadError) -> Turn {
    tracing::warn!(group = %group.name(), partition = source.partition.0, %error, "reading ahead failed; tried again");
    Turn::Later
}
