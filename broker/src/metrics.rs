//! Names and meaning of all metrics.
