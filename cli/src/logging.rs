//! Log lines to standard error: for people on a terminal, JSON otherwise.

use std::io;

use tracing_subscriber::EnvFilter;

use crate::failure::{Failure, Outcome};

/// How log lines are printed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum LogFormat {
    /// For people on a terminal, JSON otherwise.
    #[default]
    Auto,
    /// For people.
    Human,
    /// An object a line.
    Json,
}

/// Starts logging. The filter is the flag's or `SAWLOG_LOG`'s, else that of `RUST_LOG`, else `default`.
///
/// # Errors
/// Usage: the filter is none.
pub(crate) fn start(format: LogFormat, filter: Option<&str>, default: &str) -> Outcome {
    let from_environment = std::env::var("RUST_LOG").ok();
    let text = filter.or(from_environment.as_deref()).filter(|text| !text.is_empty()).unwrap_or(default);
    let filter = EnvFilter::try_new(text).map_err(|error| {
        Failure::usage(
            format!("{text:?} is no log filter: {error}"),
            "give one such as info, or sawlog_broker::log=debug",
        )
    })?;
    let terminal = crate::output::stderr_is_terminal();
    let json = format == LogFormat::Json || (format == LogFormat::Auto && !terminal);
    let lines = tracing_subscriber::fmt().with_writer(io::stderr).with_env_filter(filter).with_ansi(terminal && !json);
    // A second start in one process, as in tests, keeps the first.
    let _ = if json { lines.json().flatten_event(true).try_init() } else { lines.try_init() };
    Ok(())
}
