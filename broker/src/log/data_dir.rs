//! The data directory as a whole: lock, `FORMAT`, clean-shutdown marker, reserve.
