//! Benchmarks of sawlog: workloads, the limits that each result stands beside, and how both are counted.
//!
//! - [`limits`] and [`null_server`]: what machine and stack can do at most (A, S, R and N).
//! - [`stats`], [`report`]: medians and spreads of interleaved rounds; reached or missed.
//! - [`process_stats`], [`environment`]: CPU and memory of the broker's process; what the figures were taken on.
//! - [`log_files`]: logs on the real disk, for the small benchmarks.
//! - [`timing`]: the one reader of the clock.
//!
//! The broker is driven as a process of its own through the public client; the small benchmarks in `benches/` call
//! its library. How to run them and what came out stands in `README.md`.

pub mod environment;
pub mod limits;
pub mod load;
pub mod log_files;
pub mod null_server;
pub mod process_stats;
pub mod report;
pub mod server_process;
pub mod stats;
pub mod timing;
