//! Consumer groups: rates of the modes, what a failing key costs the others, stuck keys, members that come and go.

mod members;
mod speed;
mod stuck;

pub(crate) use members::{many, rebalance};
pub(crate) use speed::run as speed;
pub(crate) use stuck::run as stuck;
