//! The real binary as people use it: arguments, exit codes, settings, input, output, life cycle.

mod lifecycle;
mod records;
mod support;
mod topics;
mod usage;
