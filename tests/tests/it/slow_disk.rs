//! A disk that does not answer for one partition (rule F8): what waits for it waits, all else goes on.

use std::io::{self, IoSlice};
use std::path::Path;
use std::sync::Arc;

use sawlog_broker::log::sabotage::Sabotage;
use sawlog_broker::log::storage::sim_disk::SimDisk;
use sawlog_broker::log::storage::{DirEntry, MappedFile, OpenMode, Space, Storage, StorageFile, StorageLock};
use sawlog_client::{NewTopic, Record};
use sawlog_testing::TestBroker;
use tokio::sync::watch;

/// Holds every sync of a file below `topics/1/` for as long as `held` says so; the sender counts those that wait.
#[derive(Debug)]
struct HeldDisk {
    inner: Arc<dyn Storage>,
    held: watch::Receiver<bool>,
    waiting: watch::Sender<usize>,
}

#[derive(Debug)]
struct HeldFile {
    inner: Arc<dyn StorageFile>,
    /// Of the first topic: its syncs are held.
    held: Option<watch::Receiver<bool>>,
    waiting: watch::Sender<usize>,
}

impl HeldFile {
    fn wait(&self) {
        let Some(held) = &self.held else { return };
        self.waiting.send_modify(|waiting| *waiting += 1);
        let mut held = held.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime without drivers");
        // An error says that the test has ended, and with it the hold.
        let _ = runtime.block_on(held.wait_for(|held| !held));
    }
}

impl StorageFile for HeldFile {
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_at(buffer, position)
    }
    fn read_cached_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.inner.read_cached_at(buffer, position)
    }
    fn write_at(&self, buffers: &[IoSlice<'_>], position: u64) -> io::Result<usize> {
        self.inner.write_at(buffers, position)
    }
    fn start_write_back(&self, position: u64, len: u64) -> io::Result<()> {
        self.inner.start_write_back(position, len)
    }
    fn allocate(&self, position: u64, len: u64) -> io::Result<()> {
        self.inner.allocate(position, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }
    fn drop_cache(&self) -> io::Result<bool> {
        self.inner.drop_cache()
    }
    fn sync_data(&self) -> io::Result<()> {
        self.wait();
        self.inner.sync_data()
    }
    fn sync_all(&self) -> io::Result<()> {
        self.wait();
        self.inner.sync_all()
    }
}

impl Storage for HeldDisk {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        let held = path.starts_with("topics/1").then(|| self.held.clone());
        Ok(Arc::new(HeldFile { inner: self.inner.open(path, mode)?, held, waiting: self.waiting.clone() }))
    }
    fn create_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.create_dir_all(path)
    }
    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.inner.rename(from, to)
    }
    fn remove_file(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_file(path)
    }
    fn remove_dir_all(&self, path: &Path) -> io::Result<()> {
        self.inner.remove_dir_all(path)
    }
    fn sync_dir(&self, path: &Path) -> io::Result<()> {
        self.inner.sync_dir(path)
    }
    fn list(&self, path: &Path) -> io::Result<Vec<DirEntry>> {
        self.inner.list(path)
    }
    fn exists(&self, path: &Path) -> io::Result<bool> {
        self.inner.exists(path)
    }
    fn space(&self) -> io::Result<Space> {
        self.inner.space()
    }
    fn try_lock(&self, path: &Path) -> io::Result<Box<dyn StorageLock>> {
        self.inner.try_lock(path)
    }
    fn map(&self, path: &Path) -> io::Result<Box<dyn MappedFile>> {
        self.inner.map(path)
    }
    fn sabotage(&self) -> Sabotage {
        self.inner.sabotage()
    }
}

#[tokio::test]
async fn f8_a_disk_that_does_not_sync_stalls_its_own_partition_only() {
    let (hold, held) = watch::channel(false);
    let (waiting, mut waits) = watch::channel(0);
    let disk = HeldDisk { inner: SimDisk::new().storage(), held, waiting };
    let mut broker = TestBroker::builder().storage(Arc::new(disk)).start().await;
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
