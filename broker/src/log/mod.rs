//! The log engine: synchronous; no tokio, gRPC or clock; a batch is opaque bytes to it.
//!
//! A partition's log is a directory of segments. It is written by one owner at a time ([`LocalLog`]) and read by any
//! number of [`LogReader`]s, which never wait for a write.

pub mod data_dir;
pub mod error;
pub mod local_log;
pub mod reader;
pub mod sabotage;
pub mod storage;

pub use error::{AppendError, Corruption, OpenError, ReadError, SyncError};
pub use local_log::{
    Appended, FrameDraft, LocalLog, LogEnvironment, LogIdentity, LogSettings, PendingSync, RecoveryHint, RecoveryReport,
};
pub use reader::{Frame, FrameRun, LogBounds, LogReader, ReadMode, ReadRange};
