//! What clients see while a broker recovers: health says no, and what is not open yet is not taken for empty.

use std::path::Path;
use std::sync::Arc;

use sawlog_broker::log::storage::SimDisk;
use sawlog_broker::log::storage::through::{Hooks, Through};
use sawlog_proto::v1::{self, ErrorReason};
use sawlog_testing::TestBroker;
use tokio::sync::watch;
use tonic::Code;

use crate::wire::{Wire, all_of, plain, unkeyed, value};

/// Files can be listed in `topics/` only while a gate is open: recovery waits there.
#[derive(Debug)]
struct Gate(watch::Receiver<bool>);

impl Hooks for Gate {
    fn listing(&self, path: &Path) {
        let mut gate = self.0.clone();
        if path.starts_with("topics") && path.components().count() > 1 && !*gate.borrow() {
            // Recovery has threads of its own, which may block.
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let _ = runtime.block_on(gate.wait_for(|open| *open)).map(|open| *open);
        }
    }
}

#[tokio::test]
async fn what_is_not_recovered_yet_says_so_and_health_too() {
    let disk = SimDisk::new();
    let (open, gate) = watch::channel(true);
    let storage = Through::new(disk.storage(), Arc::new(Gate(gate)));
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
