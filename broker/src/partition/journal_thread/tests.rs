//! Tests of the journal on its thread.
