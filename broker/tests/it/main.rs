//! Tests of the broker library from outside, in one binary.

mod data_dir;
