//! The real binary as people use it: arguments, exit codes, settings, input, output, life cycle.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod dead_letters;
mod groups;
mod lifecycle;
mod records;
mod replays;
mod segments;
mod support;
mod topics;
mod usage;
