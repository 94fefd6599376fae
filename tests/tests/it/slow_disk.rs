//! A disk that does not answer for one partition (rule F8): what waits for it waits, all else goes on.

use std::path::Path;
use std::sync::Arc;

use sawlog_broker::log::storage::sim_disk::SimDisk;
use sawlog_broker::log::storage::through::{Hooks, Through};
use sawlog_client::{NewTopic, Record};
use sawlog_testing::TestBroker;
use tokio::sync::watch;

/// Holds every sync of a file below `topics/1/` for as long as `held` says so; the sender counts those that wait.
#[derive(Debug)]
struct Held {
    held: watch::Receiver<bool>,
    waiting: watch::Sender<usize>,
}

impl Hooks for Held {
    fn syncing(&self, path: &Path) {
        if !path.starts_with("topics/1") {
            return;
        }
        self.waiting.send_modify(|waiting| *waiting += 1);
        let mut held = self.held.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
        // An error says that the test has ended, and with it the hold.
        let _ = runtime.block_on(held.wait_for(|held| !held));
    }
}

#[tokio::test]
async fn f8_a_disk_that_does_not_sync_stalls_its_own_partition_only() {
    let (hold, held) = watch::channel(false);
    let (waiting, mut waits) = watch::channel(0);
    let disk = Through::new(SimDisk::new().storage(), Arc::new(Held { held, waiting }));
    let mut broker = TestBroker::builder().storage(disk).start().await;
    let client = broker.client();
    for name in ["slow", "well"] {
        client.admin().create_topic(NewTopic::new(name)).await.unwrap();
    }
    let slow = client.producer("slow").build().await.unwrap();
    let well = client.producer("well").build().await.unwrap();
    slow.send_and_wait(Record::keyed("k", "before")).await.unwrap();

    let before = *waits.borrow_and_update();
    hold.send_replace(true);
    let mut stalled = tokio::spawn(async move { slow.send_and_wait(Record::keyed("k", "held")).await });
    waits.wait_for(|waits| *waits > before).await.unwrap();
    // The sync of `slow` is under way and does not end. Whatever needs no sync of it answers.
    for number in 0..20 {
        let place = well.send_and_wait(Record::keyed("k", "goes on")).await.unwrap();
        assert_eq!(place.offset, number);
    }
    client.admin().health().await.unwrap();
    let offsets = client.admin().describe_partitions("slow", &[]).await.unwrap();
    assert_eq!((offsets[0].high_watermark, offsets[0].log_end_offset), (1, 2), "written, not durable, not visible");
    assert!(still_runs(&mut stalled).await, "acknowledged before its sync had ended");

    hold.send_replace(false);
    assert_eq!(stalled.await.unwrap().unwrap().offset, 1);
    assert!(broker.stop().await);
}

/// Whether the task has not ended yet.
async fn still_runs<T>(task: &mut tokio::task::JoinHandle<T>) -> bool {
    tokio::task::yield_now().await;
    !task.is_finished()
}
