//! One module a command: its arguments, and what it does with them.

pub(crate) mod bench;
pub(crate) mod completions;
pub(crate) mod config;
pub(crate) mod consume;
pub(crate) mod dev;
pub(crate) mod dlq;
pub(crate) mod group;
pub(crate) mod health;
pub(crate) mod produce;
pub(crate) mod replay;
pub(crate) mod segment;
pub(crate) mod serve;
pub(crate) mod topic;
pub(crate) mod version;
