//! Runs the broker library as a process: ready file, signals, graceful stop (rule S5).

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sawlog_broker::clock::SystemClock;
use sawlog_broker::config::BrokerConfig;
use sawlog_broker::server::{Broker, BrokerEnvironment, StartError};
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::config::Settings;
use crate::failure::{Exit, Failure, Outcome};
use crate::output;

/// The settings that a broker-running command was given.
#[derive(Debug)]
pub(crate) struct Run {
    /// All settings with their sources, for messages.
    pub(crate) settings: Settings,
    /// Where to say that it is ready.
    pub(crate) ready_file: Option<PathBuf>,
}

/// What the ready file says.
#[derive(Serialize)]
struct Ready<'a> {
    url: &'a str,
    pid: u32,
}

impl Run {
    /// Starts the broker, calls `ready` with its URL, and stops it at SIGTERM or SIGINT.
    ///
    /// # Errors
    /// The broker does not start, or did not stop cleanly.
    pub(crate) fn until_stopped(self, ready: impl FnOnce(&str)) -> Outcome {
        let config = self.settings.to_config()?;
        if let Some(file) = &self.ready_file {
            // A file of an earlier run would lie.
            remove_if_there(file)?;
        }
        let runtime = runtime()?;
        let stopped = runtime.block_on(async {
            let mut signals = Signals::listen()?;
            let settings = self.settings.clone();
            let starting = tokio::task::spawn_blocking(move || start(config, &settings));
            let broker = tokio::select! {
                started = starting => started.map_err(|panic| ended("starting", &panic))??,
                () = signals.next() => {
                    return Err(Failure::new(Exit::Failure, "stopped before it was ready", "start it again"));
                }
            };
            let url = format!("http://{}", broker.local_addr());
            if let Some(file) = &self.ready_file {
                write_ready_file(file, &url)?;
            }
            ready(&url);
            signals.next().await;
            tracing::info!("stopping; a second signal stops at once");
            let stopping = tokio::task::spawn_blocking(move || broker.shutdown());
            tokio::select! {
                clean = stopping => clean.map_err(|panic| ended("stopping", &panic)),
                () = signals.next() => Ok(false),
            }
        });
        if let Some(file) = &self.ready_file {
            remove_if_own(file)?;
        }
        // A blocking stop that was given up must not be waited for.
        runtime.shutdown_background();
        if stopped? {
            return Ok(());
        }
        Err(Failure::new(
            Exit::Failure,
            "the broker did not stop cleanly; nothing acknowledged is lost",
            "start it again: it recovers from its files",
        ))
    }
}

/// Checks settings as a start would, without starting.
pub(crate) fn check(settings: &Settings) -> Outcome {
    let checked = settings.to_config()?.check();
    checked.map_err(|error| refused(&StartError::Config { option: error.option, what: error.what }, settings))
}

/// A runtime for signals and waiting.
pub(crate) fn runtime() -> Outcome<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(|error| {
        Failure::new(Exit::Failure, format!("no runtime: {error}"), "check the limits on open files and threads")
    })
}

/// Starts a broker and puts its refusal into words.
pub(crate) fn start(config: BrokerConfig, settings: &Settings) -> Outcome<Broker> {
    let environment = BrokerEnvironment { clock: Arc::new(SystemClock::new()), storage: None };
    Broker::start(config, environment).map_err(|error| refused(&error, settings))
}

fn refused(error: &StartError, settings: &Settings) -> Failure {
    match error {
        StartError::Config { option, .. } => {
            let source = settings.source(option).map(|source| format!(" ({source})")).unwrap_or_default();
            Failure::usage(
                format!("{error}{source}"),
                "mend the value; `sawlog config print` shows each value and its source",
            )
        }
        StartError::DataDir { .. } => Failure::new(
            Exit::Failure,
            error.to_string(),
            "give another directory with --data-dir, or stop the program that uses this one",
        ),
        StartError::Listen { .. } => Failure::new(
            Exit::Failure,
            error.to_string(),
            "stop the program that has the port, or give another: --port 0 takes a free one",
        ),
    }
}

fn ended(what: &str, panic: &tokio::task::JoinError) -> Failure {
    Failure::new(Exit::Failure, format!("{what} the broker failed: {panic}"), "report this with the log lines above")
}

/// SIGTERM and SIGINT.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn listen() -> Outcome<Self> {
        let listen = |kind| {
            signal(kind).map_err(|error| {
                Failure::new(
                    Exit::Failure,
                    format!("cannot listen for signals: {error}"),
                    "run it in another environment",
                )
            })
        };
        Ok(Self { terminate: listen(SignalKind::terminate())?, interrupt: listen(SignalKind::interrupt())? })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Writes the file beside its place and renames it, so that who waits for it reads it whole.
fn write_ready_file(file: &Path, url: &str) -> Outcome {
    let mut beside = file.as_os_str().to_owned();
    beside.push(".new");
    let beside = PathBuf::from(beside);
    let text = output::to_json(&Ready { url, pid: std::process::id() });
    fs::write(&beside, text + "\n").map_err(|error| Failure::file("write", &beside, &error))?;
    fs::rename(&beside, file).map_err(|error| Failure::file("write", file, &error))
}

/// Removes the file if this process wrote it: a broker that stops late leaves that of the next one alone.
fn remove_if_own(file: &Path) -> Outcome {
    let written: Option<serde_json::Value> = fs::read(file).ok().and_then(|text| serde_json::from_slice(&text).ok());
    let other = written.is_some_and(|ready| ready["pid"].as_u64() != Some(u64::from(std::process::id())));
    if other { Ok(()) } else { remove_if_there(file) }
}

fn remove_if_there(file: &Path) -> Outcome {
    match fs::remove_file(file) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Failure::file("remove", file, &error)),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_ready_file_is_whole_or_not_there() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ready.json");
        write_ready_file(&file, "http://127.0.0.1:1").unwrap();
        let ready: serde_json::Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        assert_eq!(ready["url"], "http://127.0.0.1:1");
        assert_eq!(ready["pid"], std::process::id());
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        remove_if_own(&file).unwrap();
        remove_if_own(&file).unwrap();
        assert!(!file.exists());
    }

    #[test]
    fn s_5_a_broker_that_stops_late_leaves_the_ready_file_of_the_next_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("ready.json");
        fs::write(&file, r#"{"url":"http://127.0.0.1:1","pid":1}"#).unwrap();
        remove_if_own(&file).unwrap();
        assert!(file.exists());
    }
}
