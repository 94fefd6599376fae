//! Consumer groups: rates of the modes, what a failing key costs the others, stuck keys, members that come and go.

mod many;
mod members;
mod speed;
mod stuck;

pub(crate) use many::many;
pub(crate) use members::rebalance;
pub(crate) use speed::{one_failing_key, run as speed};
pub(crate) use stuck::run as stuck;
