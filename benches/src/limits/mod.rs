//! What this machine and this stack can do at most: the other side of every ratio.
//!
//! - **A** ([`bare_append`]): one thread appends to a file in the page cache.
//! - **S** ([`bare_synced_append`]): the same, each append followed by `fdatasync`.
//! - **R** ([`tcp_round_trips`]): 64 bytes to another thread over loopback TCP and back.
//! - **N**: the real client against [`crate::null_server`], which speaks the protos and keeps nothing.

mod append;
mod round_trip;

pub use append::{AppendLoad, bare_append, bare_synced_append};
pub use round_trip::{ROUND_TRIP_BYTES, tcp_round_trips};
