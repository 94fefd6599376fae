//! What clients see while a broker recovers: health says no, and what is not open yet is not taken for empty.

use std::io;
use std::path::Path;
use std::sync::Arc;

use sawlog_broker::log::storage::{DirEntry, MappedFile, OpenMode, SimDisk, Space, Storage, StorageFile, StorageLock};
use sawlog_proto::v1::{self, ErrorReason};
use sawlog_testing::TestBroker;
use tokio::sync::watch;
use tonic::Code;

use crate::wire::{Wire, all_of, plain, unkeyed, value};

/// Files that can be listed in `topics/` only while a gate is open: recovery waits there.
#[derive(Debug)]
struct Gated {
    inner: Arc<dyn Storage>,
    gate: watch::Receiver<bool>,
}

impl Gated {
    fn wait(&self, path: &Path) {
        let mut gate = self.gate.clone();
        if path.starts_with("topics") && path.components().count() > 1 && !*gate.borrow() {
            // Recovery has threads of its own, which may block.
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(gate.wait_for(|open| *open)).map(|open| *open);
        }
    }
}

impl Storage for Gated {
    fn open(&self, path: &Path, mode: OpenMode) -> io::Result<Arc<dyn StorageFile>> {
        self.inner.open(path, mode)
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
        self.wait(path);
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
}

#[tokio::test]
async fn what_is_not_recovered_yet_says_so_and_health_too() {
    let disk = SimDisk::new();
    let (open, gate) = watch::channel(true);
    let storage = Arc::new(Gated { inner: disk.storage(), gate });
    let mut broker = TestBroker::builder().storage(storage).start().await;
    let mut wire = Wire::new(&broker).await;
    wire.topic("a", unkeyed(1)).await;
    wire.write("a", vec![value("before")]).await;
    let (url, address) = (broker.url(), broker.url().strip_prefix("http://").unwrap().to_owned());
    broker.stop().await;

    open.send(false).unwrap();
    let restarting = tokio::spawn(async move {
        broker.restart().await;
        broker
    });
    // It listens before it has recovered.
    while tokio::net::TcpStream::connect(&address).await.is_err() {
        assert!(!restarting.is_finished(), "it did not wait at the gate");
        tokio::task::yield_now().await;
    }
    let mut wire = Wire::at(&url).await;
    let answer = crate::errors::http_at(&address, "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
    let part = wire.produce.produce(plain("a", vec![value("x")])).await.unwrap().into_inner().parts.remove(0);
    let failure = part.failure.unwrap();
    assert_eq!((failure.reason(), &failure.facts["outcome"][..]), (ErrorReason::Recovering, "not_written"));
    assert!(failure.retry_after_ms.is_some());
    let status = wire.read.read(all_of("a")).await.unwrap_err();
    let reason = crate::errors::info(&status).reason;
    assert_eq!((status.code(), reason.as_str()), (Code::Unavailable, "RECOVERING"));
    let latest = Some(v1::get_offsets_request::At::Latest(v1::Unit {}));
    let request = v1::GetOffsetsRequest { topic: "a".into(), partitions: vec![], at: latest };
    assert_eq!(wire.read.get_offsets(request).await.unwrap_err().code(), Code::Unavailable);

    open.send(true).unwrap();
    let broker = restarting.await.unwrap();
    assert!(crate::errors::http_at(&address, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert_eq!(wire.values(all_of("a")).await.len(), 1);
    assert!(broker.shutdown().await);
}
