//! Every exception to the rules, one a line, with its reason.

use crate::source::{Offence, Source};

/// File, a part of the offence's text, reason.
const EXCEPTIONS: &[(&str, &str, &str)] = &[
    ("broker/src/metrics/collectors.rs", "std::fs::read_to_string", "reads /proc, which is no data file"),
    (
        "broker/src/grpc/mod.rs",
        "`grpc` must not use `clock`",
        "deadlines and paces of streams, of the clock that was given",
    ),
    ("benches/src/timing.rs", "outside clock.rs", "measuring time is its work"),
    ("client/src/connection.rs", "Instant::now", TOKIO_CLOCK),
    ("client/src/consumer/shared.rs", "Instant::now", TOKIO_CLOCK),
    ("client/src/producer/mod.rs", "Instant::now", TOKIO_CLOCK),
    ("client/src/producer/sender.rs", "Instant::now", TOKIO_CLOCK),
    ("client/src/reader/stream.rs", "Instant::now", TOKIO_CLOCK),
];

/// Reason of the client's own timers.
const TOKIO_CLOCK: &str = "tokio's clock, which its tests turn by hand";

/// Whether the offence is a known exception.
pub(crate) fn allowed(source: &Source, offence: &Offence) -> bool {
    EXCEPTIONS.iter().any(|(file, what, _)| source.path == *file && offence.what.contains(what))
}

#[test]
fn every_exception_is_still_needed() {
    let sources = crate::source::workspace();
    for (file, what, _) in EXCEPTIONS {
        let source = sources.iter().find(|source| source.path == *file);
        let found = source.map(crate::rules::all).unwrap_or_default();
        assert!(found.iter().any(|offence| offence.what.contains(what)), "{file}: {what}");
    }
}
