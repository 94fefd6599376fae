//! The locks, atomics and shared pointers of this module, in one place, so that the schedule tests can include the
//! same sources over a scheduler that tries every order of events.

pub(crate) use std::sync::Arc;
pub(crate) use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

pub(crate) use parking_lot::{Condvar, Mutex};
