//! All hard limits of the broker, in one place, with the relations among them.
//!
//! A size over its limit is INVALID_ARGUMENT, a count or rate is RESOURCE_EXHAUSTED with the limit's name.

use std::time::Duration;

/// Bytes of a gRPC message, in or out.
pub const GRPC_MESSAGE_BYTES: usize = 8 << 20;
/// Default of the largest record: key, value and headers.
pub const RECORD_BYTES_DEFAULT: u64 = 1 << 20;
/// The most that a topic may set as its largest record.
pub const RECORD_BYTES_MAX: u64 = 4 << 20;
/// Bytes of a key.
pub const KEY_BYTES: usize = 1 << 10;
/// Headers of a record.
pub const HEADERS: usize = 64;
/// Bytes of all headers of a record, names and values.
pub const HEADERS_BYTES: usize = 64 << 10;
/// Bytes of a record batch as sent, without the allowance for framing.
pub const BATCH_BYTES: usize = 4 << 20;
/// Allowance for framing on top of [`BATCH_BYTES`].
pub const BATCH_FRAMING_BYTES: usize = 64 << 10;
/// Records of a batch, and of a request of plain records.
pub const BATCH_RECORDS: u32 = 10_000;
/// Bytes of a batch after decompression.
pub const BATCH_DECOMPRESSED_BYTES: usize = 16 << 20;
/// Bytes of a frame on disk: header, extensions, batch, padding.
pub const FRAME_BYTES: usize = 8 << 20;
/// Bytes of a frame's extension block.
pub const FRAME_EXTENSION_BYTES: usize = 64 << 10;
/// Bytes of a delivery frame, unless one record needs more.
pub const DELIVERY_FRAME_BYTES: usize = 1 << 20;
/// Bytes read from a log at once.
pub const READ_CHUNK_BYTES: usize = 256 << 10;
/// Bytes that a group reads ahead of a partition at once.
pub const FETCH_BYTES: usize = 1 << 20;
/// Bytes of what was read ahead that are kept for deliveries, of all groups.
pub const DELIVERY_CACHE_BYTES: usize = 64 << 20;
/// The same for one partition of a group.
pub const DELIVERY_CACHE_PARTITION_BYTES: usize = 8 << 20;

/// Connections in all.
pub const CONNECTIONS: usize = 10_000;
/// Concurrent streams of a connection.
pub const STREAMS_PER_CONNECTION: u32 = 256;
/// Streams that a client opened and reset before they were accepted (rapid reset).
pub const PENDING_RESET_STREAMS: usize = 20;
/// Streams that were reset for an error of the client.
pub const LOCAL_ERROR_RESETS: usize = 256;
/// From accept to the first bytes of a protocol.
pub const PREFACE_DEADLINE: Duration = Duration::from_secs(5);
/// Without a sign of life for so long, a client is pinged.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// A ping must be answered within this.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(10);
/// A connection without an open stream for so long is closed.
pub const IDLE_CONNECTION: Duration = Duration::from_secs(600);
/// A unary call must be answered within this.
pub const UNARY_DEADLINE: Duration = Duration::from_secs(90);
/// A reader must take what was sent within this.
pub const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// Requests of one produce stream that wait for their level.
pub const PIPELINED_REQUESTS: usize = 256;
/// Bytes of an HTTP/2 header list.
pub const HEADER_LIST_BYTES: u32 = 16 << 10;
/// HTTP/2 frame size that we announce.
pub const HTTP2_FRAME_BYTES: u32 = 256 << 10;
/// Budget for HTTP/2 windows of all connections.
pub const WINDOW_BUDGET_BYTES: u64 = 512 << 20;
/// Produce bytes in flight, of all connections.
pub const IN_FLIGHT_BYTES: usize = 256 << 20;
/// Produce bytes in flight of one connection.
pub const IN_FLIGHT_CONNECTION_BYTES: usize = 32 << 20;
/// Bytes buffered for one reading stream.
pub const READER_BUFFER_BYTES: usize = 8 << 20;
/// Bytes buffered for all reading streams.
pub const READERS_BUFFER_BYTES: usize = 512 << 20;

/// Topics.
pub const TOPICS: usize = 10_000;
/// Partitions of all topics.
pub const PARTITIONS: usize = 20_000;
/// Partitions of one topic.
pub const PARTITIONS_PER_TOPIC: u32 = 1_024;
/// Bytes of a topic or group name.
pub const NAME_BYTES: usize = 120;
/// Bytes of a producer, member or client id.
pub const CLIENT_ID_BYTES: usize = 255;
/// Bytes of a topic's description.
pub const DESCRIPTION_BYTES: usize = 4 << 10;
/// Labels of a topic.
pub const LABELS: usize = 64;
/// Bytes of a topic's owner.
pub const OWNER_BYTES: usize = 255;
/// Bytes of a label's name.
pub const LABEL_KEY_BYTES: usize = 128;
/// Bytes of a label's value.
pub const LABEL_VALUE_BYTES: usize = 1_024;
/// The least bytes at which a segment may be sealed.
pub const SEGMENT_BYTES_MIN: u64 = 1 << 20;
/// The most bytes at which a segment may be sealed.
pub const SEGMENT_BYTES_MAX: u64 = 1 << 30;
/// The least age in milliseconds at which a segment may be sealed.
pub const SEGMENT_MS_MIN: u64 = 1_000;
/// The longest time that a setting may name, in milliseconds: 1,000 years.
pub const DURATION_MS_MAX: u64 = 1_000 * 366 * 86_400_000;
/// The least time in milliseconds between syncs of a topic with the floor `written`.
pub const FLUSH_INTERVAL_MS_MIN: u64 = 10;
/// The most time in milliseconds between syncs of a topic with the floor `written`.
pub const FLUSH_INTERVAL_MS_MAX: u64 = 60_000;
/// Wall-clock step in milliseconds against the monotonic clock that suspends retention by time (rule F6).
pub const CLOCK_STEP_MS: u64 = 600_000;
/// Bytes by which space is allocated ahead of the end of an active segment.
pub const ALLOCATION_STEP_BYTES: u64 = 4 << 20;
/// Bytes of one part of a snapshot.
pub const SNAPSHOT_PART_BYTES: usize = 128 << 10;
/// Producer ids that are reserved at once.
pub const PRODUCER_ID_BLOCK: i64 = 1_000;
/// Time in milliseconds for which a named producer must not have been seen before it may be forgotten at the limit.
pub const PRODUCER_IDLE_MS: i64 = 3_600_000;
/// Producers remembered.
pub const PRODUCERS: usize = 100_000;
/// Batches remembered per producer and partition (rule PR-7).
pub const PRODUCER_WINDOW: usize = 64;
/// Event ids remembered per topic (rule PR-8).
pub const EVENT_IDS: u32 = 1_000_000;
/// The least time in milliseconds for which event ids are remembered, if they are.
pub const DEDUP_WINDOW_MS_MIN: u64 = 1_000;
/// How long event ids are remembered in milliseconds, unless their topic says otherwise.
pub const DEDUP_WINDOW_MS: u64 = 86_400_000;
/// Unsynced bytes of a partition up to which its appends run inline.
pub const INLINE_UNSYNCED_BYTES: u64 = 8 << 20;
/// Buffers of one vectored write: `IOV_MAX` on Linux and macOS.
pub const WRITE_SLICES: usize = 1_024;
/// Bytes after which write-back is started.
pub const WRITE_BACK_BYTES: u64 = 8 << 20;
/// Bytes allocated ahead of the end of all active segments together.
pub const ALLOCATED_AHEAD_BYTES: u64 = 1 << 30;
/// Unchecked bytes of one partition at which a checkpoint is due.
pub const UNCHECKED_PARTITION_BYTES: u64 = 64 << 20;
/// Unchecked bytes of all partitions at which a checkpoint is due.
pub const UNCHECKED_BYTES: u64 = 1 << 30;

/// Key slots of a partition (rule KO-10).
pub const KEY_SLOTS: u32 = 4096;
/// Consumer groups.
pub const GROUPS: usize = 10_000;
/// Members of a group.
pub const MEMBERS_PER_GROUP: usize = 2_000;
/// Topics of a group.
pub const TOPICS_PER_GROUP: usize = 100;
/// Records of a partition that a group holds: read ahead and not settled (rule AK-7).
pub const HELD_RECORDS: u32 = 50_000;
/// Lanes of a partition that wait for a retry in one group (rule AK-7).
pub const BLOCKED_LANES: u32 = 10_000;
/// Bytes of log between a group's floor and the end of what it has read ahead (rule AK-7).
pub const SCAN_AHEAD_BYTES: u64 = 256 << 20;
/// Dead lanes of a group, spilled ones counted (rule AK-7).
pub const DEAD_LANES: u64 = 1_000_000;
/// Records of one key that may be leased together (rule KO-1).
pub const IN_FLIGHT_PER_KEY: u32 = 32;
/// Bytes of the metadata of a commit.
pub const COMMIT_METADATA_BYTES: usize = 4 << 10;
/// Bytes of an error's class.
pub const ERROR_CLASS_BYTES: usize = 255;
/// Bytes of an error message.
pub const ERROR_MESSAGE_BYTES: usize = 4 << 10;
/// Bytes of an error's stack.
pub const ERROR_STACK_BYTES: usize = 16 << 10;
/// Bytes of messages and stacks of entries that failed after their copies were made, in a group.
pub const ENTRY_FAILURES_BYTES: usize = 16 << 20;
/// Bytes that the broker's headers may add to a dead letter, beyond all limits of records.
pub const DEAD_LETTER_BYTES: usize = 64 << 10;
/// Partitions of dead-letter topics, outside the limits on topics.
pub const DEAD_LETTER_PARTITIONS: usize = 50_000;
/// Groups whose unread records a topic keeps (rule RE-2).
pub const HOLD_GROUPS: usize = 16;
/// Milliseconds for which a segment is kept for a group beyond its time, unless its topic says otherwise: 7 days.
pub const MAX_HOLD_MS: u64 = 7 * 86_400_000;
/// Redrive, replay and rebuild jobs that have not ended.
pub const JOBS: usize = 100;
/// Callers that wait for records to be processed (rule RW-4).
pub const WAITERS: usize = 10_000;
/// Longest wait of a long poll.
pub const LONG_POLL: Duration = Duration::from_secs(60);
/// Longest delay that a client may ask for before the next try (rule RT-2).
pub const RETRY_AFTER_MAX: Duration = Duration::from_secs(86_400);
/// Replays that a group remembers, the open one included.
pub const REPLAYS_KEPT: usize = 20;
/// Resets that can be undone (rule OF-3).
pub const RESETS_KEPT: usize = 10;
/// Bytes of a record of a journal: an edited record of the largest size with all that surrounds it fits.
pub const JOURNAL_RECORD_BYTES: usize = BATCH_BYTES + (1 << 20);
/// Bytes of the group journal at which a snapshot is due.
pub const GROUP_JOURNAL_SNAPSHOT_BYTES: u64 = 64 << 20;

const _: () = assert!(BATCH_BYTES + BATCH_FRAMING_BYTES + FRAME_EXTENSION_BYTES + 4096 <= FRAME_BYTES);
const _: () = assert!(JOURNAL_RECORD_BYTES + BATCH_FRAMING_BYTES + 4096 <= FRAME_BYTES);
const _: () = assert!(BATCH_BYTES + BATCH_FRAMING_BYTES < GRPC_MESSAGE_BYTES);
const _: () = assert!(RECORD_BYTES_MAX as usize <= BATCH_BYTES);
const _: () = assert!(IN_FLIGHT_CONNECTION_BYTES <= IN_FLIGHT_BYTES);
const _: () = assert!(READER_BUFFER_BYTES <= READERS_BUFFER_BYTES);
