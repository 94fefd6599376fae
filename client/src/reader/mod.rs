//! Reading without a group: ranges of a topic, live ends too.
//!
//! Invariants:
//! - Per partition, records come in order of offset, none twice, none left out; what will not come is told by a
//!   [`ReadEvent::Gap`].
//! - After a cut the read goes on behind the last record, with its epoch, so that another record is never taken for it.
//! - Each batch's CRC-32C is checked here again (rule C5).

use bytes::Bytes;
use sawlog_proto::v1;

use crate::connection::Client;
use crate::error::Error;
use crate::types::{Header, OffsetAt};

mod batch;
mod resume;
mod stream;

pub(crate) use batch::OpenBatch;
pub use batch::{BatchItem, Headers, ReadBatch};
use resume::Progress;
pub(crate) use resume::checked_batch;
pub use stream::Reader;

/// Where to begin.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReaderFrom {
    /// At the log start.
    Earliest,
    /// At the high watermark.
    Latest,
    /// At this offset in every partition read.
    Offset(u64),
    /// At the first record appended at or after this time, in milliseconds since 1970.
    TimestampMs(i64),
    /// So many records before the high watermark, per partition.
    Last(u64),
    /// At these offsets; only these partitions are read.
    Starts(Vec<Start>),
}

/// Where a partition's read begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Start {
    /// Partition, from 0.
    pub partition: u32,
    /// First offset to read.
    pub offset: u64,
    /// Epoch of the record before it, if known: a position of a part that was cut is then refused.
    pub epoch: Option<u32>,
}

/// Where to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderTo {
    /// Before this offset in every partition.
    Offset(u64),
    /// Before the first record appended at or after this time, in milliseconds since 1970.
    TimestampMs(i64),
    /// After so many records in all.
    Count(u64),
    /// At the high watermark as it is when the read begins.
    HighWatermark,
}

/// Why records are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GapReason {
    /// Retention removed them.
    Retention,
    /// They were trimmed.
    Trim,
    /// They are damaged.
    Corrupt,
    /// They were cut from the end.
    Truncated,
    /// Their batch cannot be decoded.
    Undecodable,
    /// Their dead letter was kept as long as configured; told to members of groups alone.
    DlqExpired,
    /// A reason that this client does not know.
    Other,
}

impl GapReason {
    pub(crate) fn from_wire(reason: v1::GapReason) -> Self {
        match reason {
            v1::GapReason::Retention => Self::Retention,
            v1::GapReason::Trim => Self::Trim,
            v1::GapReason::Corrupt => Self::Corrupt,
            v1::GapReason::Truncated => Self::Truncated,
            v1::GapReason::Undecodable => Self::Undecodable,
            v1::GapReason::DlqExpired => Self::DlqExpired,
            v1::GapReason::Unspecified => Self::Other,
        }
    }
}

/// A record that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadRecord {
    /// Partition, from 0.
    pub partition: u32,
    /// Offset.
    pub offset: u64,
    /// Epoch of the partition when it was appended.
    pub epoch: u32,
    /// Time of the append in milliseconds since 1970.
    pub append_time_ms: i64,
    /// Event time in milliseconds since 1970.
    pub timestamp_ms: i64,
    /// Entity id; absent is not empty.
    pub key: Option<Bytes>,
    /// Payload; absent is a tombstone.
    pub value: Option<Bytes>,
    /// Headers in order.
    pub headers: Vec<Header>,
}

/// What a read meets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ReadEvent {
    /// A record.
    Record(ReadRecord),
    /// The live end of a partition is reached.
    CaughtUp {
        /// The partition.
        partition: u32,
        /// Offset that comes next.
        offset: u64,
    },
    /// The read has fallen behind the live end again.
    FellBehind {
        /// The partition.
        partition: u32,
        /// Offset that comes next.
        offset: u64,
    },
    /// Offsets that will not come.
    Gap {
        /// The partition.
        partition: u32,
        /// First missing offset.
        from: u64,
        /// First offset after the gap.
        to: u64,
        /// Why.
        reason: GapReason,
    },
    /// A partition was read to its end bound.
    PartitionEnd {
        /// The partition.
        partition: u32,
        /// Offset that would come next.
        offset: u64,
    },
}

/// What a batch-wise read meets: a batch, or an event other than a record.
#[derive(Debug, Clone)]
pub enum BatchEvent {
    /// Records.
    Batch(ReadBatch),
    /// Anything else; a [`ReadEvent::Record`] only if the read has a filter.
    Event(ReadEvent),
}

/// Chooses what to read.
#[derive(Debug, Clone)]
pub struct ReaderBuilder {
    client: Client,
    settings: Settings,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    pub(crate) topic: String,
    pub(crate) partitions: Vec<u32>,
    pub(crate) from: ReaderFrom,
    pub(crate) to: Option<ReaderTo>,
    pub(crate) follow: bool,
    pub(crate) filter: Option<v1::ReadFilter>,
    pub(crate) max_records_per_second: u64,
    pub(crate) max_bytes_per_second: u64,
    pub(crate) skip_damaged: bool,
}

impl ReaderBuilder {
    pub(crate) fn new(client: Client, topic: String) -> Self {
        let settings = Settings {
            topic,
            partitions: Vec::new(),
            from: ReaderFrom::Earliest,
            to: None,
            follow: false,
            filter: None,
            max_records_per_second: 0,
            max_bytes_per_second: 0,
            skip_damaged: false,
        };
        Self { client, settings }
    }

    /// Partitions to read. Default: all.
    pub fn partitions(mut self, partitions: impl IntoIterator<Item = u32>) -> Self {
        self.settings.partitions = partitions.into_iter().collect();
        self
    }

    /// Where to begin. Default: [`ReaderFrom::Earliest`].
    pub fn from(mut self, from: ReaderFrom) -> Self {
        self.settings.from = from;
        self
    }

    /// Where to stop. Default: at the high watermark as it is now, or never with `follow`.
    pub fn to(mut self, to: ReaderTo) -> Self {
        self.settings.to = Some(to);
        self
    }

    /// Whether to go on with what is appended later. Default false.
    pub fn follow(mut self, follow: bool) -> Self {
        self.settings.follow = follow;
        self
    }

    /// Only records with exactly this key.
    pub fn key(mut self, key: impl Into<Bytes>) -> Self {
        self.filter().key = Some(key.into());
        self
    }

    /// Only records whose keys begin with this.
    pub fn key_prefix(mut self, prefix: impl Into<Bytes>) -> Self {
        self.filter().key_prefix = Some(prefix.into());
        self
    }

    /// Only records with this header, whatever its value. May be called again: all must hold.
    pub fn header(self, key: impl Into<String>) -> Self {
        self.header_match(key, None)
    }

    /// Only records with this header of exactly this value.
    pub fn header_equals(self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.header_match(key, Some(v1::header_match::Value::Equals(value.into())))
    }

    /// Only records with this header and a value that begins with this.
    pub fn header_prefix(self, key: impl Into<String>, value: impl Into<Bytes>) -> Self {
        self.header_match(key, Some(v1::header_match::Value::Prefix(value.into())))
    }

    /// At most so many records a second; 0: no limit.
    pub fn max_records_per_second(mut self, records: u64) -> Self {
        self.settings.max_records_per_second = records;
        self
    }

    /// At most so many bytes a second; 0: no limit.
    pub fn max_bytes_per_second(mut self, bytes: u64) -> Self {
        self.settings.max_bytes_per_second = bytes;
        self
    }

    /// Whether to go past damaged ranges, each told by a [`ReadEvent::Gap`]. Default false: the read ends with
    /// `CORRUPT_SEGMENT`.
    pub fn skip_damaged(mut self, skip: bool) -> Self {
        self.settings.skip_damaged = skip;
        self
    }

    /// Looks up the bounds and begins to read.
    ///
    /// # Errors
    /// `TOPIC_NOT_FOUND`, `PARTITION_NOT_FOUND`; a connection that fails for the client's `call_timeout`. Bounds out
    /// of the log are told by the first event.
    pub async fn open(self) -> Result<Reader, Error> {
        let Self { client, settings } = self;
        let admin = client.admin();
        let (topic, partitions) = (settings.topic.as_str(), settings.partitions.as_slice());
        let at = match &settings.from {
            ReaderFrom::Latest | ReaderFrom::Last(_) => OffsetAt::Latest,
            ReaderFrom::TimestampMs(time) => OffsetAt::TimestampMs(*time),
            ReaderFrom::Earliest | ReaderFrom::Offset(_) | ReaderFrom::Starts(_) => OffsetAt::Earliest,
        };
        let (topic_id, found) = admin.topic_offsets(topic, partitions, at).await?;
        let earliest = match settings.from {
            ReaderFrom::Last(_) => admin.offsets(topic, partitions, OffsetAt::Earliest).await?,
            _ => Vec::new(),
        };
        let ends = match settings.to {
            Some(ReaderTo::HighWatermark) => Some(admin.offsets(topic, &[], OffsetAt::Latest).await?),
            None if !settings.follow => Some(admin.offsets(topic, &[], OffsetAt::Latest).await?),
            _ => None,
        };
        let starts = resume::starts_at(&settings.from, &found, &earliest);
        let mut events = Vec::new();
        let progress = Progress::new(settings, topic_id, &starts, ends.as_deref(), &mut events);
        Ok(Reader::new(client, progress, events))
    }

    fn filter(&mut self) -> &mut v1::ReadFilter {
        self.settings.filter.get_or_insert_default()
    }

    fn header_match(mut self, key: impl Into<String>, value: Option<v1::header_match::Value>) -> Self {
        self.filter().headers.push(v1::HeaderMatch { key: key.into(), value });
        self
    }
}
