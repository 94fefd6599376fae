//! Paces, with the clock turned by hand.

use bytes::Bytes;

use super::*;
use crate::group::entry::Act;
use crate::group::event::RecordMeta;
use crate::group::replay::{ReplayInto, ReplayPlan};
use crate::model::{KeySlot, LaneKey, PartitionEpoch, PartitionId, TopicUuid};
use crate::partition::Frame;

/// When the paces of these tests begin.
const BEGIN: Duration = Duration::from_secs(10);

fn at(offset: u64) -> Offset {
    Offset::new(offset).expect("small")
}

fn source() -> Source {
    Source { topic: TopicUuid([1; 16]), partition: PartitionId(0) }
}

fn pace(rate: ReplayRate, to: u64) -> Pace {
    pace_at(rate, to, BEGIN)
}

fn pace_at(rate: ReplayRate, to: u64, begin: Duration) -> Pace {
    let epoch = PartitionEpoch::ZERO;
    let range = ReplayRange { source: source(), from: at(0), to: at(to), epoch, asked: at(0), left: 0 };
    let act = Act { actor: "test".into(), time_ms: 1, note: String::new() };
    let plan = ReplayPlan { into: ReplayInto::New, filter: Filter::default(), rate, act };
    let replay = Replay { number: 1, plan, ranges: vec![range], end: None };
    Pace::new(&replay, vec![to], 5_000, begin)
}

/// What a read of `count` records of 100 bytes gives; every `wanted`th is not filtered out.
fn fetched(from: u64, count: u64, wanted: u64, looked: bool) -> Fetched {
    let meta = |offset| RecordMeta {
        offset: at(offset),
        lane: LaneKey(offset.into()),
        slot: KeySlot::new(0).expect("the first"),
        epoch: PartitionEpoch::ZERO,
        size_bytes: 100,
        append_ms: 1,
        filtered: offset % wanted != 0,
    };
    Fetched {
        source: source(),
        from: at(from),
        next: at(from + count),
        records: if looked { (from..from + count).map(meta).collect() } else { Vec::new() },
        log_bytes: count * 120,
        undecodable: Vec::new(),
        high_watermark: at(1_000_000),
        last_append_ms: 1,
    }
}

/// Records handed over in so many seconds, by reads of `chunk` records.
fn run(pace: &Pace, seconds: u64, chunk: u64, wanted: u64, looked: bool) -> u64 {
    run_from(pace, (BEGIN, Duration::from_secs(seconds)), 0, chunk, wanted, looked)
}

/// The same from a time and an offset on: the next offset.
fn run_from(pace: &Pace, time: (Duration, Duration), from: u64, chunk: u64, wanted: u64, looked: bool) -> u64 {
    let (mut now, mut next) = (time.0, from);
    while now < time.0 + time.1 {
        let wait = pace.wait(now);
        if !wait.is_zero() {
            now += wait;
            continue;
        }
        let got = pace.admit(source(), fetched(next, chunk, wanted, looked), looked, now).expect("it is the pace");
        assert!(got.next.get() > next, "it gets on");
        next = got.next.get();
        now += Duration::from_micros(200);
    }
    next
}

#[test]
fn rp_4_a_rate_of_records_holds_whatever_the_sizes_of_batches() {
    for (chunk, looked) in [(1, true), (17, true), (5_000, true), (1, false), (5_000, false)] {
        let pace = pace(ReplayRate::Records(1_000), 1_000_000);
        let handed = run(&pace, 60, chunk, 1, looked);
        assert!((59_000..=61_000).contains(&handed), "{handed} in reads of {chunk}");
    }
}

#[test]
fn rp_4_a_rate_of_bytes_counts_keys_values_and_headers() {
    let pace = pace(ReplayRate::Bytes(100_000), 1_000_000);
    let handed = run(&pace, 60, 5_000, 1, true);
    assert!((59_000..=61_000).contains(&handed), "{handed} of 100 bytes");
}

#[test]
fn rp_4_what_the_filter_leaves_out_is_not_paid_for() {
    let pace = pace(ReplayRate::Records(1_000), 10_000_000);
    let handed = run(&pace, 10, 5_000, 10, true);
    assert!((98_000..=103_000).contains(&handed), "{handed}, of which a tenth is delivered");
}

#[test]
fn rp_5_no_range_is_handed_over_beyond_its_end() {
    for rate in [ReplayRate::Unlimited, ReplayRate::Records(1_000_000), ReplayRate::SpeedPermille(1_000)] {
        let pace = pace(rate, 30);
        let got = pace.admit(source(), fetched(20, 100, 1, true), true, BEGIN).expect("it is the pace");
        assert_eq!((got.next, got.records.len()), (at(30), 10), "{rate:?}");
        assert!(!pace.covers(source(), at(30)));
    }
}

fn frames(times: &[i64]) -> FrameRun {
    let frame = |(index, time): (usize, &i64)| Frame {
        base_offset: at(index as u64),
        record_count: 1,
        epoch: PartitionEpoch::ZERO,
        append_time_ms: *time,
        extensions: Bytes::new(),
        batch: Bytes::new(),
    };
    FrameRun { frames: times.iter().enumerate().map(frame).collect(), next: at(times.len() as u64) }
}

#[test]
fn rp_4_a_speed_spaces_records_as_they_were_appended() {
    // Twice as fast: what was appended 10 s after the first is due after 5 s.
    let pace = pace(ReplayRate::SpeedPermille(2_000), 100);
    let now = |ms| Duration::from_secs(10) + Duration::from_millis(ms);
    let mut run = frames(&[5_000, 5_000, 15_000, 25_000]);
    pace.due(&mut run, now(0)).expect("the first are due at once");
    assert_eq!((run.frames.len(), run.next), (2, at(2)));
    let mut run = frames(&[15_000, 25_000]);
    assert_eq!(pace.due(&mut run, now(0)), Err(Duration::from_secs(5)));
    assert_eq!(pace.due(&mut run, now(4_000)), Err(Duration::from_secs(1)));
    pace.due(&mut run, now(5_000)).expect("it is due");
    assert_eq!(run.frames.len(), 1);
}

#[test]
fn rp_4_a_changed_rate_does_not_burst_however_often_it_changes() {
    let (second, hundredth) = (Duration::from_secs(1), Duration::from_millis(10));
    // Idle for long, unlimited, in bytes or far slower before: the change saves nothing up.
    let bytes = ReplayRate::Bytes(1_000_000);
    for before in [ReplayRate::Records(1_000), ReplayRate::Unlimited, bytes, ReplayRate::Records(1)] {
        let current = CurrentPace::default();
        current.set(Some(pace(before, 1_000_000)));
        let now = BEGIN + Duration::from_secs(60);
        current.set(Some(pace_at(ReplayRate::Records(500), 1_000_000, now)));
        let handed = run_from(&current.get().expect("set"), (now, second), 0, 5_000, 1, true);
        assert!((450..=500).contains(&handed), "{handed} in the second after {before:?}");
    }
    // Changed to and fro a hundred times a second: no more than at the greater of the two rates.
    let (mut now, mut next, current) = (BEGIN, 0, CurrentPace::default());
    for turn in 0..1_000 {
        let rate = ReplayRate::Records(if turn % 2 == 0 { 900 } else { 1_000 });
        current.set(Some(pace_at(rate, 1_000_000, now)));
        next = run_from(&current.get().expect("set"), (now, hundredth), next, 5_000, 1, true);
        now += hundredth;
    }
    assert!((9_000..=10_200).contains(&next), "{next} in ten seconds");
}

#[test]
fn rp_4_a_pace_that_was_changed_hands_nothing_over_that_it_had_just_read() {
    let current = CurrentPace::default();
    current.set(Some(pace(ReplayRate::Unlimited, 1_000_000)));
    let old = current.get().expect("set");
    current.set(None);
    assert!(current.get().is_none());
    assert!(old.admit(source(), fetched(0, 5_000, 1, true), true, BEGIN).is_none());
}

#[tokio::test]
async fn rp_4_partitions_of_a_paced_replay_read_one_after_the_other_in_pieces() {
    let paced = pace(ReplayRate::Records(2_000_000), 1_000_000);
    let first = paced.turn().await;
    let mut second = std::pin::pin!(paced.turn());
    let now = std::future::poll_fn(|task| std::task::Poll::Ready(second.as_mut().poll(task).is_ready())).await;
    assert!(!now, "it waits for the first");
    drop(first);
    assert!(second.await.is_some());
    let piece = |rate| pace(rate, 10).chunk_bytes(1 << 20);
    assert_eq!(piece(ReplayRate::Bytes(5)), 4 << 10);
    assert_eq!(piece(ReplayRate::Bytes(40_000_000)), 40_000, "a thousandth of a second's worth");
    assert_eq!(piece(ReplayRate::Records(100_000)), 100 * 256, "of records of 256 bytes until some were read");
    assert_eq!(piece(ReplayRate::Records(2_000_000)), 64 << 10, "no longer pieces, but more of them");
    assert_eq!(piece(ReplayRate::Bytes(1_000_000_000)), 100_000, "until there are too many");
    assert!(pace(ReplayRate::SpeedPermille(1_000), 10).turn().await.is_none(), "what is due is read at once");
}

#[tokio::test]
async fn rp_4_who_sleeps_after_the_end_of_a_pace_looks_again_at_once() {
    let ended = pace(ReplayRate::Records(1), 10);
    ended.end();
    ended.sleep(Duration::from_secs(3_600)).await;
}
