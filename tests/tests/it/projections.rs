//! Projections on a whole broker (rules RM-1 to RM-8): one suite for every database, run on each.

mod cuts;
mod faults;
mod model;
mod postgres;
mod rebuild;
mod rebuild_faults;
mod sqlite;
mod stalls;
mod suite;
