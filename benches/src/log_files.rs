//! Logs of the engine on the real disk, in a folder of their own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use sawlog_broker::log::storage::Disk;
use sawlog_broker::log::{FrameDraft, LocalLog, LogEnvironment, LogIdentity, LogSettings};
use sawlog_broker::model::{Offset, PartitionEpoch, PartitionId, TopicId, TopicUuid};
use sawlog_proto::batch;

/// An append time; it stands still, as in a burst.
const APPEND_TIME_MS: i64 = 1_700_000_000_000;

/// A log that grows by equal batches.
#[derive(Debug)]
pub struct LogOnDisk {
    /// The log.
    pub log: LocalLog,
    environment: LogEnvironment,
    batch: Bytes,
    records: u32,
}

impl LogOnDisk {
    /// A new log in a new directory below `folder`; each append is one batch of `records` values of `record_bytes`.
    ///
    /// # Errors
    /// The files cannot be made.
    pub fn create(folder: &Path, records: u32, record_bytes: usize, segment_bytes: u64) -> io::Result<Self> {
        let disk = Disk::create(&folder.join("data"))?;
        let identity = LogIdentity {
            data_dir: [7; 16],
            topic_uuid: TopicUuid([1; 16]),
            topic_id: TopicId(1),
            partition: PartitionId(0),
        };
        let mut environment = LogEnvironment::new(Arc::new(disk), PathBuf::from("log"), identity, 42);
        environment.settings = LogSettings { segment_bytes, ..LogSettings::default() };
        let log = LocalLog::create(environment.clone(), PartitionEpoch::ZERO).map_err(io::Error::other)?;
        Ok(Self { log, environment, batch: crate::load::wire::batch(records, record_bytes), records })
    }

    /// Appends `count` batches with one write, rolling first if the segment is full; returns their bytes.
    ///
    /// # Errors
    /// The write fails.
    pub fn append(&mut self, count: usize) -> io::Result<u64> {
        if self.log.must_roll((count * (self.batch.len() + 128)) as u64) {
            self.log.roll().map_err(io::Error::other)?;
        }
        let mut base_offset = self.log.end();
        let drafts: Vec<FrameDraft> = (0..count)
            .map(|_| {
                let draft = self.draft(base_offset);
                base_offset = base_offset.saturating_add(u64::from(self.records));
                draft
            })
            .collect();
        self.log.append(&drafts).map(|appended| appended.bytes).map_err(io::Error::other)
    }

    fn draft(&self, base_offset: Offset) -> FrameDraft {
        let head = batch::head_with(&self.batch, base_offset.to_wire(), 0);
        FrameDraft {
            base_offset,
            record_count: self.records,
            append_time_ms: APPEND_TIME_MS,
            epoch: PartitionEpoch::ZERO,
            extensions: Bytes::new(),
            batch_head: Bytes::copy_from_slice(&head),
            batch_rest: self.batch.slice(head.len()..),
        }
    }

    /// Bytes of one batch.
    pub fn batch_bytes(&self) -> usize {
        self.batch.len()
    }

    /// Closes the files as a kill would and returns where they are.
    pub fn abandon(self) -> LogEnvironment {
        self.environment
    }
}
