//! The sawlog broker as a library.
//!
//! # The way of a record
//!
//! A request enters at [`server`] (one listener; HTTP/2 goes to [`grpc`], HTTP/1 to [`http`]). `grpc` decodes it,
//! finds its topic in [`topics`] and hands the checked batch to that topic's [`partition`], where the task that finds
//! no leader becomes the leader: it assigns offsets and writes all queued frames through [`log`] with one call. A
//! sync job makes them durable, the high watermark rises, completions are answered, and readers that wait for the
//! watermark wake up and read the frames back.
//!
//! # Who may import whom
//!
//! `model` and `limits` know nothing of ours; `log` knows those two; `partition` knows `log`; `topics` knows
//! `partition`; `grpc` and `http` know `topics` and the seam [`partition::PartitionLog`]; `server` joins all. A test
//! enforces it.

pub mod clock;
pub mod config;
pub mod coordinator;
pub mod dead_letter;
pub mod group;
pub mod limits;
pub mod log;
pub mod metrics;
pub mod model;
pub mod partition;
pub mod topics;

pub mod grpc;
pub mod http;
pub mod server;
