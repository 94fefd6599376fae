//! Tests of the broker library from outside, in one binary.

mod append_schedules;
mod data_dir;
mod topics;
