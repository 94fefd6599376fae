//! All settings of the broker, joined and checked as a whole.
//!
//! Plain data: the command line fills it from defaults, a TOML file, the environment and flags, in this order.
//! [`BrokerConfig::check`] answers a bad value with the option's name and its range.

mod check;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::model::AckLevel;

pub use check::ConfigError;

/// The settings of a broker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerConfig {
    /// Where it listens; port 0 takes a free one. Default 127.0.0.1:7070.
    pub listen: SocketAddr,
    /// Allows a listen address that is not loopback, although there is no TLS and no authentication yet.
    pub insecure: bool,
    /// Topics are made on first use by `Produce` and `Read`, with the defaults below. Only for `sawlog dev`.
    pub auto_create_topics: bool,
    /// Number of threads that serve connections; 0: one per core.
    pub server_threads: usize,
    /// Files.
    pub storage: StorageConfig,
    /// Defaults of new topics.
    pub topic_defaults: TopicDefaults,
    /// Metrics.
    pub metrics: MetricsConfig,
}

/// Settings of the metrics.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct MetricsConfig {
    /// Tells the partitions of a topic apart. Default false: with thousands of partitions it makes large scrapes.
    pub per_partition: bool,
}

/// Settings of the data directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct StorageConfig {
    /// The data directory. Default `./sawlog-data`.
    pub data_dir: PathBuf,
    /// Free bytes below which produce is refused; 0: the larger of 256 MiB and 2 % of the disk (rule F3).
    pub min_free_bytes: u64,
    /// Bytes kept back for what must be written on a full disk. Default 64 MiB.
    pub reserve_bytes: u64,
    /// Threads that sync. Default 8.
    pub sync_threads: usize,
    /// Threads that read what is not in the page cache. Default 4.
    pub read_threads: usize,
    /// Seconds between checkpoints. Default 30.
    pub checkpoint_interval_s: u64,
    /// Seconds between retention runs. Default 30.
    pub retention_interval_s: u64,
    /// Seconds in which the scrub reads every segment once; 0: off. Default 604,800 (a week).
    pub scrub_interval_s: u64,
}

/// Settings that a topic gets if its creator says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct TopicDefaults {
    /// Number of partitions, 1 to 1,024.
    pub partitions: u32,
    /// Whether each record must have a key.
    pub keyed: bool,
    /// Floor `written` instead of `durable`.
    pub ack_written: bool,
    /// Retention by age in milliseconds; -1: none.
    pub retention_ms: i64,
    /// Retention by bytes per partition; -1: none.
    pub retention_bytes: i64,
    /// Bytes at which a segment is sealed.
    pub segment_bytes: i64,
    /// Age in milliseconds at which a segment is sealed.
    pub segment_ms: i64,
}

impl TopicDefaults {
    /// The floor of acknowledgement.
    pub fn ack_floor(&self) -> AckLevel {
        if self.ack_written { AckLevel::Written } else { AckLevel::Durable }
    }
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 7070)),
            insecure: false,
            auto_create_topics: false,
            server_threads: 0,
            storage: StorageConfig::default(),
            topic_defaults: TopicDefaults::default(),
            metrics: MetricsConfig::default(),
        }
    }
}

impl Default for StorageConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("sawlog-data"),
            min_free_bytes: 0,
            reserve_bytes: 64 << 20,
            sync_threads: 8,
            read_threads: 4,
            checkpoint_interval_s: 30,
            retention_interval_s: 30,
            scrub_interval_s: 604_800,
        }
    }
}

impl Default for TopicDefaults {
    fn default() -> Self {
        Self {
            partitions: 1,
            keyed: true,
            ack_written: false,
            retention_ms: 604_800_000,
            retention_bytes: -1,
            segment_bytes: 256 << 20,
            segment_ms: 86_400_000,
        }
    }
}
