//! Rules of Produce.
