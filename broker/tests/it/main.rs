//! Tests of the broker library from outside, in one binary.

#![expect(clippy::unwrap_used, reason = "a test stops at the first surprise")]
#![expect(clippy::print_stdout, reason = "figures and reasons of a run, seen with --nocapture")]

mod append_schedules;
mod coordinator;
mod corpus;
mod data_dir;
mod dead_letter_topics;
mod event_ids;
mod group_cuts;
mod group_journals;
mod group_sim;
mod holds;
mod log_crash;
mod log_faults;
mod log_flips;
mod log_golden;
mod log_model;
mod log_sabotage;
mod log_world;
mod lost_journals;
mod topics;
