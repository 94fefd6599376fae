//! The tables and statements of the adapters, also for stores of your own: the same text means the same in SQLite and,
//! with `$` for `?`, in PostgreSQL.

/// Makes the tables of RM-1, RM-7, RP-6 and RM-5.
pub const TABLES: &str = "
CREATE TABLE IF NOT EXISTS projection_cursor (
    projection TEXT NOT NULL,
    topic TEXT NOT NULL,
    partition BIGINT NOT NULL,
    next_offset BIGINT NOT NULL,
    assignment_epoch BIGINT NOT NULL,
    topic_id TEXT NOT NULL,
    partition_epoch BIGINT NOT NULL,
    group_id TEXT NOT NULL,
    PRIMARY KEY (projection, topic, partition)
);
CREATE TABLE IF NOT EXISTS projection_entry (
    projection TEXT NOT NULL,
    dlq_id TEXT NOT NULL,
    version BIGINT NOT NULL,
    cycle BIGINT NOT NULL,
    PRIMARY KEY (projection, dlq_id)
);
CREATE TABLE IF NOT EXISTS projection_swap (
    projection TEXT NOT NULL,
    swap_id TEXT NOT NULL,
    version TEXT NOT NULL,
    done BIGINT NOT NULL,
    PRIMARY KEY (projection, swap_id)
);
CREATE TABLE IF NOT EXISTS projection_version (
    projection TEXT NOT NULL PRIMARY KEY,
    version TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS processed_events (
    consumer TEXT NOT NULL,
    event_id TEXT NOT NULL,
    processed_ms BIGINT NOT NULL,
    PRIMARY KEY (consumer, event_id)
);
CREATE INDEX IF NOT EXISTS processed_events_by_time ON processed_events (consumer, processed_ms);
";

/// The row of a cursor.
pub const CURSOR: &str = "SELECT next_offset, partition_epoch, assignment_epoch, topic_id, group_id \
     FROM projection_cursor WHERE projection = ?1 AND topic = ?2 AND partition = ?3";

/// Adds a row.
pub const INSERT_CURSOR: &str = "INSERT INTO projection_cursor (projection, topic, partition, next_offset, \
     assignment_epoch, topic_id, partition_epoch, group_id) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";

/// Raises the epoch of a row (rule RM-3).
pub const RAISE_CURSOR: &str = "UPDATE projection_cursor SET assignment_epoch = ?4 \
     WHERE projection = ?1 AND topic = ?2 AND partition = ?3 AND assignment_epoch <= ?4";

/// Moves a row: the fence (rule RM-2).
pub const ADVANCE_CURSOR: &str = "UPDATE projection_cursor \
     SET next_offset = ?4, partition_epoch = ?5, assignment_epoch = ?6 \
     WHERE projection = ?1 AND topic = ?2 AND partition = ?3 AND assignment_epoch <= ?6 AND next_offset = ?7";

/// What was applied of an entry.
pub const ENTRY: &str = "SELECT version, cycle FROM projection_entry WHERE projection = ?1 AND dlq_id = ?2";

/// Notes an entry.
pub const INSERT_ENTRY: &str =
    "INSERT INTO projection_entry (projection, dlq_id, version, cycle) VALUES (?1, ?2, ?3, ?4)";

/// What the mark of a swap says: 1 done, 0 never to be done (rule RP-6).
pub const SWAP: &str = "SELECT done FROM projection_swap WHERE projection = ?1 AND swap_id = ?2";

/// Marks a swap.
pub const INSERT_SWAP: &str =
    "INSERT INTO projection_swap (projection, swap_id, version, done) VALUES (?1, ?2, ?3, ?4)";

/// Makes a version the active one of its projection.
pub const SET_VERSION: &str = "INSERT INTO projection_version (projection, version) VALUES (?1, ?2) \
     ON CONFLICT (projection) DO UPDATE SET version = ?2";

/// The active version of a projection, for those who read the model; no row: it has had no swap.
pub const VERSION: &str = "SELECT version FROM projection_version WHERE projection = ?1";

/// Fences all cursors of a projection for ever.
pub const FENCE_CURSORS: &str =
    "UPDATE projection_cursor SET assignment_epoch = 9223372036854775807 WHERE projection = ?1";

/// Notes an event; no row is changed if it was noted before (rule RM-5).
pub const NOTE_EVENT: &str = "INSERT INTO processed_events (consumer, event_id, processed_ms) \
     VALUES (?1, ?2, ?3) ON CONFLICT (consumer, event_id) DO NOTHING";

/// Forgets events that were noted before a time.
pub const FORGET_EVENTS: &str = "DELETE FROM processed_events WHERE consumer = ?1 AND processed_ms < ?2";
