//! The hand-made encoding against the generated one, and the write deadline.

use std::sync::atomic::AtomicUsize;

use super::*;
use crate::model::{Offset, PartitionEpoch};

fn frame(base_offset: u64, batch: Vec<u8>) -> partition::Frame {
    partition::Frame {
        base_offset: Offset::new(base_offset).expect("a small number"),
        record_count: 3,
        append_time_ms: 1_700_000_000_000,
        epoch: PartitionEpoch::new(5).expect("a small number"),
        extensions: Bytes::from_static(b"not for clients"),
        batch: batch.into(),
    }
}

#[test]
fn batches_made_by_hand_are_the_messages_that_the_generated_code_makes() {
    let sizes: [&[usize]; 5] = [&[100], &[100, 200], &[8 << 10, (8 << 10) + 1], &[1 << 20], &[70_000, 5, 300_000, 1]];
    for sizes in sizes {
        for partition in [0, 1, 300] {
            let frames: Vec<_> =
                (0..).zip(sizes).map(|(index, size)| frame(index * 3, vec![index as u8; *size])).collect();
            let chunks = Chunks::batches(PartitionId(partition), &frames);
            let bytes = chunks.list.concat();
            assert_eq!(bytes.len(), chunks.bytes);
            assert!(chunks.list.iter().all(|chunk| chunk.len() <= SLICE_BYTES && !chunk.is_empty()));
            let stored =
                |frame: &partition::Frame| v1::StoredBatch { info: Some(info_of(frame)), batch: frame.batch.clone() };
            let batches = frames.iter().map(stored).collect();
            let wire = v1::read_response::Frame::Batches(v1::BatchesFrame { partition, batches });
            let expected = Chunks::message(&v1::ReadResponse { frame: Some(wire) });
            assert!(bytes == expected.list.concat(), "{sizes:?} in partition {partition}");
        }
    }
}

#[test]
fn large_batches_leave_uncopied() {
    let frames = [frame(0, vec![1; 100_000]), frame(3, vec![2; 10])];
    let chunks = Chunks::batches(PartitionId(0), &frames);
    assert!(chunks.list.iter().any(|chunk| chunk.as_ptr() == frames[0].batch.as_ptr()));
    assert_eq!(chunks.list.len(), 3, "a head, the batch, and a head with the small batch in it");
}

#[test]
fn fc_8_who_takes_nothing_is_cut_at_the_deadline_and_reset_after_the_next() {
    let kept = Arc::new(());
    let in_driver = Arc::clone(&kept);
    let driver: Driver = Box::pin(async move {
        std::future::pending::<()>().await;
        drop(in_driver);
        Ok(())
    });
    let shared = Shared {
        metrics: Metrics::new(false),
        driver: Mutex::new(Some(driver)),
        sink: Sink::default(),
        handed_us: AtomicU64::new(1),
        is_cut: AtomicBool::new(false),
        cut: Mutex::new(None),
        stream: Some(StreamCut::default()),
    };
    *shared.sink.0.lock() = Chunks::message(&v1::ReadResponse::default());
    let (is_cut, start) = (|| shared.is_cut.load(Ordering::SeqCst), Duration::from_secs(100));
    let reset = || shared.stream.as_ref().expect("a stream").0.cut.load(Ordering::SeqCst);
    shared.check(start, start + limits::WRITE_DEADLINE - Duration::from_millis(1));
    assert_eq!((is_cut(), Arc::strong_count(&kept)), (false, 2));
    let cut_at = start + limits::WRITE_DEADLINE + Duration::from_secs(3);
    shared.check(start, cut_at);
    // What it held and what read for it is gone at once, before the connection asks again.
    assert_eq!((is_cut(), Arc::strong_count(&kept)), (true, 1));
    assert!(shared.sink.next().is_none());
    shared.check(start, cut_at + limits::WRITE_DEADLINE - Duration::from_millis(1));
    assert!(!reset(), "it gets time to take the reason");
    shared.check(start, cut_at + limits::WRITE_DEADLINE);
    assert!(reset());
}

#[tokio::test]
async fn only_a_stream_that_asked_for_it_can_be_cut_and_its_future_ends_at_once() {
    let (send, receive) = tokio::sync::oneshot::channel();
    let stream = StreamCut::run(async move {
        let cut = StreamCut::current().expect("inside of a stream");
        send.send(cut).expect("the test waits");
        std::future::pending::<()>().await;
    });
    let (ended, ()) = tokio::join!(stream, async { receive.await.expect("sent").cut() });
    assert_eq!(ended, None);
    assert!(StreamCut::current().is_none());
    assert_eq!(StreamCut::run(async { 7 }).await, Some(7));
}

#[tokio::test(start_paused = true)]
async fn the_watcher_sleeps_until_something_is_handed_over_and_again_when_it_is_taken() {
    use crate::grpc::stalls::{Stallable, Stalls};

    #[derive(Default)]
    struct Stream {
        handed: AtomicBool,
        checks: AtomicUsize,
    }
    impl Stallable for Stream {
        fn handed_at(&self) -> Option<Duration> {
            self.handed.load(Ordering::SeqCst).then_some(Duration::ZERO)
        }
        fn check(&self, _: Duration, _: Duration) {
            self.checks.fetch_add(1, Ordering::SeqCst);
        }
    }
    let (stalls, stream) = (Arc::<Stalls>::default(), Arc::<Stream>::default());
    let watched: Arc<dyn Stallable> = Arc::<Stream>::clone(&stream);
    stalls.register(Arc::downgrade(&watched));
    let job = Arc::clone(&stalls);
    let job = tokio::spawn(async move { job.watch(|| Duration::from_secs(1)).await });
    let pass = || tokio::time::sleep(Duration::from_secs(5));
    pass().await;
    assert_eq!(stream.checks.load(Ordering::SeqCst), 0, "nothing was handed over");
    stream.handed.store(true, Ordering::SeqCst);
    stalls.note();
    pass().await;
    let checks = stream.checks.load(Ordering::SeqCst);
    assert!((9..=11).contains(&checks), "{checks} looks in five seconds");
    stream.handed.store(false, Ordering::SeqCst);
    pass().await;
    stream.handed.store(true, Ordering::SeqCst);
    let before = stream.checks.load(Ordering::SeqCst);
    pass().await;
    assert_eq!(stream.checks.load(Ordering::SeqCst), before, "it sleeps until it is told again");
    job.abort();
}
