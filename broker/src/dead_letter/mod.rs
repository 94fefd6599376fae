//! Dead letters: how a record gets into its group's dead-letter topic, what can be done with it there, and how it
//! comes back.
//!
//! `mover` carries out intents (rule DL-4), `entries` answers questions and takes edits, `redrive` runs jobs,
//! `rebuild` makes entries anew whose journal was lost.
//! Lane states are decided by [`crate::group`], not here. It must not know messages, gRPC or files.

mod copies;
mod entries;
mod error;
pub mod fingerprint;
pub mod handle;
pub mod headers;
mod letters;
pub mod logs;
mod mover;
pub mod rebuild;
mod records;
mod redrive;
mod retention;
mod select;
#[cfg(test)]
mod test_support;
#[cfg(test)]
mod test_world;
pub mod views;

pub use error::LetterError;
pub use letters::{Letters, LettersParts};
#[cfg(any(test, feature = "testing"))]
pub use mover::Sabotage;
pub(crate) use records::detached;
