//! The client's only reader of wall time: event times of records that bring none.

/// Wall time in milliseconds since 1970.
#[expect(clippy::disallowed_methods, reason = "this file is the one reader of the clock")]
pub(crate) fn wall_ms() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}
