//! A gRPC server that speaks the protos of the broker and keeps nothing: limit N.
//!
//! A load that runs against the broker runs unchanged against this server, so the distance between the two is what
//! the broker itself costs. It is served as the broker is: one single-threaded runtime per core, accepted sockets
//! dealt out, the same HTTP/2 settings, batches sent through a hand-made body.
//!
//! - `ProduceStream` and `Produce` count offsets and acknowledge at once; nothing is checked or stored.
//! - `Read` of a topic with the labels [`RECORD_BYTES_LABEL`] and [`BATCHES_LABEL`] sends one cached batch of about
//!   256 KiB over and over, its offsets set anew each time.
//! - `Read` with `follow` sends on what `ProduceStream` gets: in on one stream, out on another.

mod body;
mod listener;
mod produce;
mod read;
mod topics;

pub use listener::serve;

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use bytes::Bytes;
use parking_lot::{Mutex, RwLock};
use sawlog_proto::v1;
use tokio::sync::mpsc;
use tonic::Status;

/// Label of a topic whose reads are made up: bytes of each record's value.
pub const RECORD_BYTES_LABEL: &str = "null.record_bytes";
/// Label of a topic whose reads are made up: batches in each partition.
pub const BATCHES_LABEL: &str = "null.batches";
/// Bytes of a made-up batch, about: what the broker reads at once.
pub const BATCH_BYTES: usize = 256 << 10;

/// Batches that may wait for one follower; one that falls behind further is cut off.
const FOLLOWER_BATCHES: usize = 65_536;

/// A batch on its way from a producer to the followers.
#[derive(Debug, Clone)]
struct Passing {
    info: v1::BatchInfo,
    partition: u32,
    batch: Bytes,
}

/// A topic: its description, a count of records for each partition, and who follows it.
#[derive(Debug)]
struct NullTopic {
    described: v1::Topic,
    ends: Vec<AtomicI64>,
    followers: Mutex<Vec<mpsc::Sender<Passing>>>,
    replay: Option<Arc<body::Replay>>,
}

impl NullTopic {
    /// Counts records and returns the offset of the first of them.
    fn count(&self, partition: u32, records: u32) -> i64 {
        self.ends.get(partition as usize).map_or(0, |end| end.fetch_add(i64::from(records), Ordering::Relaxed))
    }

    fn end(&self, partition: u32) -> i64 {
        match &self.replay {
            Some(replay) => replay.end_offset(),
            None => self.ends.get(partition as usize).map_or(0, |end| end.load(Ordering::Relaxed)),
        }
    }

    fn partitions(&self) -> u32 {
        u32::try_from(self.ends.len()).unwrap_or(u32::MAX)
    }

    fn follow(&self) -> mpsc::Receiver<Passing> {
        let (sender, receiver) = mpsc::channel(FOLLOWER_BATCHES);
        self.followers.lock().push(sender);
        receiver
    }

    fn pass_on(&self, passing: &Passing) {
        self.followers.lock().retain(|follower| follower.try_send(passing.clone()).is_ok());
    }
}

/// What all connections share.
#[derive(Debug, Clone, Default)]
struct NullState(Arc<RwLock<HashMap<String, Arc<NullTopic>>>>);

impl NullState {
    fn topic(&self, name: &str) -> Result<Arc<NullTopic>, Status> {
        self.0.read().get(name).cloned().ok_or_else(|| Status::not_found(format!("no topic {name}")))
    }
}
