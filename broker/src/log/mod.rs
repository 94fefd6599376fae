//! The log engine: synchronous; no tokio, gRPC or clock; a batch is opaque bytes to it.
//!
//! A partition's log is a directory of segments. It is written by one owner at a time ([`LocalLog`]) and read by any
//! number of [`LogReader`]s, which never wait for a write.

pub mod checkpoint;
pub mod data_dir;
pub mod environment;
pub mod error;
pub mod flush;
pub mod format;
pub mod frame;
pub mod index;
pub mod index_file;
pub mod local_log;
pub mod open_files;
pub mod reader;
pub mod recovery;
pub mod retention;
pub mod sabotage;
pub mod scan;
mod segment;
pub mod segment_header;
pub mod storage;
#[cfg(test)]
mod test_support;
pub mod time_index;

pub use checkpoint::{Checkpoint, CheckpointEntry, CheckpointFile};
pub use environment::{AheadBudget, LogEnvironment, LogIdentity, LogSettings};
pub use error::{AppendError, Corruption, OpenError, ReadError, SyncError};
pub use frame::FrameDraft;
pub use local_log::{Appended, IndexSave, LocalLog, PendingSync, SegmentInfo};
pub use open_files::OpenFiles;
pub use reader::{Frame, FrameRun, LogBounds, LogReader, ReadMode, ReadRange};
pub use recovery::{RecoveryHint, RecoveryReport};
