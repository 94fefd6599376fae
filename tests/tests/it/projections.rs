//! Projections on a whole broker (rules RM-1 to RM-8): one suite for every database, run on each.

mod cuts;
mod faults;
mod model;
mod postgres;
mod postgres_versions;
mod rebuild;
mod rebuild_chaos;
mod sqlite;
mod stalls;
mod suite;
mod swaps;
mod unacked;
mod versions;
